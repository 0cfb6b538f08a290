-- Removing index rows that ended (src/store/upkeep.rs).

-- When transactions were: at the time `at`, all those numbered below `txn` had ended.
CREATE TABLE moment (at BIGINT PRIMARY KEY, txn BIGINT NOT NULL);

-- Rows that ended, in the order in which they did. Rows that hold are not in these indexes and cost nothing there.
CREATE INDEX token_ended ON token (until, param) WHERE until > 0;
CREATE INDEX string_ended ON string (until, param) WHERE until > 0;
CREATE INDEX reference_ended ON reference (until, param) WHERE until > 0;
CREATE INDEX uri_ended ON uri (until, param) WHERE until > 0;
CREATE INDEX date_ended ON date (until, param) WHERE until > 0;
CREATE INDEX number_ended ON number (until, param) WHERE until > 0;
CREATE INDEX quantity_ended ON quantity (until, param) WHERE until > 0;
CREATE INDEX composite_ended ON composite (until, param) WHERE until > 0;

-- What a crash interrupted is looked for at every start.
CREATE INDEX submission_unfinished ON submission (key) WHERE state = 'received';
