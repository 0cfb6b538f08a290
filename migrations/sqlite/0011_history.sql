-- Histories of types and of everything are in the order of time (src/store/history.rs).
CREATE INDEX history_updated ON history (type, updated, key, version);
