-- Whether the version came by PATCH, for histories (src/store/history.rs). What was stored before counts as put.
ALTER TABLE resource ADD COLUMN patched INTEGER NOT NULL DEFAULT 0;
ALTER TABLE history ADD COLUMN patched INTEGER NOT NULL DEFAULT 0;
