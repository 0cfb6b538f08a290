-- Whether the first version came by POST, for histories (src/store/history.rs). What was stored before counts as put.
ALTER TABLE resource ADD COLUMN posted INTEGER NOT NULL DEFAULT 0;
