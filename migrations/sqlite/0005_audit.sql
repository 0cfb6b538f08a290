-- Who looked at what, and who changed it (src/access/audit). PostgreSQL holds the same tables (migrations/postgres/0005_audit.sql).

-- Events as they were recorded, in the transaction of what they tell of. Within seconds they move to `audit`, where they get their place in the chain.
CREATE TABLE audit_new (
    entry   INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,   -- microseconds
    owner   INTEGER NOT NULL,   -- who may see the event, besides the privacy officer: the client that caused it; -2: nobody
    patient INTEGER NOT NULL,   -- key of the Patient whose data it is about; 0: none
    event   TEXT NOT NULL       -- JSON: access::audit::Event
) STRICT;

-- Events in the order in which they were sealed. hash: BLAKE3 of the hash before and of this row (store/audit.rs).
CREATE TABLE audit (
    position INTEGER PRIMARY KEY, at INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL, event TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_patient ON audit (patient, position) WHERE patient <> 0;

-- Signed words on the chain. kind: 'head' (the row at this position had this hash), 'removed' (the rows up to this one were removed on purpose).
CREATE TABLE audit_checkpoint (
    position INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, signed TEXT NOT NULL, PRIMARY KEY (position, kind)
) STRICT, WITHOUT ROWID;

-- Up to which position events are AuditEvents too.
CREATE TABLE audit_published (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL) STRICT;
INSERT INTO audit_published (id, position) VALUES (1, 0);

-- Where the chain begins after rows were removed because they were old enough: the place and hash of the last of them.
CREATE TABLE audit_floor (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
