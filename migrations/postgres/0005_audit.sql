-- Who looked at what, and who changed it (src/access/audit); migrations/sqlite/0005_audit.sql explains the columns.

CREATE TABLE audit_new (
    entry   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    owner   BIGINT NOT NULL,
    patient BIGINT NOT NULL,
    event   TEXT NOT NULL
);

CREATE TABLE audit (
    position BIGINT PRIMARY KEY, at BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL, event TEXT NOT NULL, hash BYTEA NOT NULL
);
CREATE INDEX audit_patient ON audit (patient, position) WHERE patient <> 0;

CREATE TABLE audit_checkpoint (
    position BIGINT NOT NULL, kind TEXT COLLATE "C" NOT NULL, at BIGINT NOT NULL, signed TEXT NOT NULL, PRIMARY KEY (position, kind)
);

CREATE TABLE audit_published (id BIGINT PRIMARY KEY CHECK (id = 1), position BIGINT NOT NULL);
INSERT INTO audit_published (id, position) VALUES (1, 0);

-- Where the chain begins after rows were removed because they were old enough: the place and hash of the last of them.
CREATE TABLE audit_floor (id BIGINT PRIMARY KEY CHECK (id = 1), position BIGINT NOT NULL, hash BYTEA NOT NULL);
