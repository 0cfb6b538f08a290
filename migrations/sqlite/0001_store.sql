-- Resources, versions and narrow indexes; docs/index-design.md explains each table with an example.
-- PostgreSQL holds the same tables (migrations/postgres/0001_store.sql); a test compares the two.

-- One row: the last transaction and the next resource key. Whoever writes reads it first, so several processes may write.
CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), txn INTEGER NOT NULL, next_key INTEGER NOT NULL) STRICT;
INSERT INTO counter (id, txn, next_key) VALUES (1, 1, 1);

CREATE TABLE facility (key INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE) STRICT;

-- The current version. version 0: something refers to it, nothing was received yet.
-- patient: whose record it is part of; 0: nobody's, open to all; -1: its contributor's alone. class, low, high: what a consent's
-- rule may ask of it (0003_consent.sql): its facts, and when it happened (both 0: unknown).
-- live: 0 deleted or never sent, 1 found by searches, 2 unlisted (read by id, found by its index rows, not listed by type).
CREATE TABLE resource (
    key INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    live INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    created INTEGER NOT NULL,
    txn INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    patient INTEGER NOT NULL,
    class INTEGER NOT NULL DEFAULT 0,
    low INTEGER NOT NULL DEFAULT 0,
    high INTEGER NOT NULL DEFAULT 0,
    body BLOB
) STRICT;
CREATE UNIQUE INDEX resource_id ON resource (type, id);
CREATE INDEX resource_type ON resource (type, key, live, created, txn, owner, patient);
CREATE INDEX resource_updated ON resource (type, updated, key, live, txn, owner, patient);

-- Superseded versions, deletes included.
CREATE TABLE history (
    key INTEGER NOT NULL,
    version INTEGER NOT NULL,
    type INTEGER NOT NULL,
    live INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    txn INTEGER NOT NULL,
    until INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    patient INTEGER NOT NULL,
    class INTEGER NOT NULL DEFAULT 0,
    low INTEGER NOT NULL DEFAULT 0,
    high INTEGER NOT NULL DEFAULT 0,
    body BLOB
) STRICT;
CREATE UNIQUE INDEX history_version ON history (key, version);
CREATE INDEX history_until ON history (until);

-- Index rows hold from transaction `since` up to `until` (0: they still do), so that a page can see the past.
CREATE TABLE token (
    param INTEGER NOT NULL, code TEXT NOT NULL, key INTEGER NOT NULL, system INTEGER NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, code, key, system, since)
) STRICT, WITHOUT ROWID;

CREATE TABLE string (
    param INTEGER NOT NULL, folded TEXT NOT NULL, key INTEGER NOT NULL, exact TEXT NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, folded, key, exact, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX string_key ON string (key, param, folded, until);

CREATE TABLE reference (
    param INTEGER NOT NULL, target INTEGER NOT NULL, key INTEGER NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, target, key, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX reference_key ON reference (key, param, target, until);

CREATE TABLE uri (
    param INTEGER NOT NULL, uri TEXT NOT NULL, key INTEGER NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, uri, key, since)
) STRICT, WITHOUT ROWID;

-- wide: 1 when the interval is longer than store::rows::NARROW, so that an upper bound on `high` also bounds `low` of the others.
CREATE TABLE date (
    param INTEGER NOT NULL, wide INTEGER NOT NULL, low INTEGER NOT NULL, key INTEGER NOT NULL, high INTEGER NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, wide, low, key, high, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX date_key ON date (key, param, low, high, until);

CREATE TABLE number (
    param INTEGER NOT NULL, value REAL NOT NULL, key INTEGER NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, value, key, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX number_key ON number (key, param, value, until);

CREATE TABLE quantity (
    param INTEGER NOT NULL, code TEXT NOT NULL, value REAL NOT NULL, key INTEGER NOT NULL, system INTEGER NOT NULL, unit TEXT NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, code, value, key, system, unit, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX quantity_key ON quantity (key, param, value, code, system, unit, until);

-- Up to three components of one element; codeN, systemN, lowN and highN hold what the component's kind needs.
CREATE TABLE composite (
    param INTEGER NOT NULL, code1 TEXT NOT NULL, key INTEGER NOT NULL, system1 INTEGER NOT NULL, low1 REAL NOT NULL, high1 REAL NOT NULL,
    code2 TEXT NOT NULL, system2 INTEGER NOT NULL, low2 REAL NOT NULL, high2 REAL NOT NULL,
    code3 TEXT NOT NULL, system3 INTEGER NOT NULL, low3 REAL NOT NULL, high3 REAL NOT NULL,
    since INTEGER NOT NULL, until INTEGER NOT NULL, owner INTEGER NOT NULL, patient INTEGER NOT NULL,
    PRIMARY KEY (param, code1, key, system1, low1, high1, code2, system2, low2, high2, code3, system3, low3, high3, since)
) STRICT, WITHOUT ROWID;

-- Deliveries and other work that must survive: see src/outbox.
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    dedup_key TEXT,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    token INTEGER NOT NULL,
    created INTEGER NOT NULL,
    error TEXT,
    result TEXT
) STRICT;
CREATE INDEX job_due ON job (state, run_at);
CREATE UNIQUE INDEX job_dedup ON job (kind, dedup_key) WHERE state = 'waiting' AND dedup_key IS NOT NULL;

-- What facilities sent, byte for byte, before anything else was done with it.
CREATE TABLE submission (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    owner INTEGER NOT NULL,
    received INTEGER NOT NULL,
    state TEXT NOT NULL,
    records INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    payload BLOB NOT NULL,
    reply BLOB
) STRICT;
CREATE INDEX submission_owner ON submission (owner, received);
CREATE INDEX submission_digest ON submission (digest);

-- Codes that no ConceptMap knew, by submission.
CREATE TABLE unmapped (
    submission INTEGER NOT NULL, owner INTEGER NOT NULL, map TEXT NOT NULL, system TEXT NOT NULL, code TEXT NOT NULL,
    display TEXT NOT NULL, path TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (submission, map, system, code, path)
) STRICT, WITHOUT ROWID;
