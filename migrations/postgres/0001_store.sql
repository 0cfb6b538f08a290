-- Resources, versions and narrow indexes; docs/index-design.md explains each table with an example.
-- SQLite holds the same tables (migrations/sqlite/0001_store.sql); a test compares the two.

-- Transactions are numbered by the server's own transaction ids plus this base, which a restore into a younger server raises.
CREATE TABLE counter (id BIGINT PRIMARY KEY CHECK (id = 1), txn_base BIGINT NOT NULL);
INSERT INTO counter (id, txn_base) VALUES (1, 0);
CREATE SEQUENCE resource_key;

-- Serialises conditional operations: a row is inserted and deleted in the transaction that rests on its key.
CREATE TABLE claim (key BYTEA PRIMARY KEY);

CREATE TABLE facility (key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code TEXT COLLATE "C" NOT NULL UNIQUE);

-- The current version. version 0: something refers to it, nothing was received yet.
-- patient: whose record it is part of; 0: nobody's, open to all; -1: its contributor's alone. class, low, high: what a consent's
-- rule may ask of it (0003_consent.sql): its facts, and when it happened (both 0: unknown).
-- live: 0 deleted or never sent, 1 found by searches, 2 unlisted (read by id, found by its index rows, not listed by type).
CREATE TABLE resource (
    key BIGINT PRIMARY KEY DEFAULT nextval('resource_key'),
    type BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    live BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    created BIGINT NOT NULL,
    txn BIGINT NOT NULL,
    owner BIGINT NOT NULL,
    patient BIGINT NOT NULL,
    class BIGINT NOT NULL DEFAULT 0,
    low BIGINT NOT NULL DEFAULT 0,
    high BIGINT NOT NULL DEFAULT 0,
    body BYTEA
);
CREATE UNIQUE INDEX resource_id ON resource (type, id);
CREATE INDEX resource_type ON resource (type, key, live, created, txn, owner, patient);
CREATE INDEX resource_updated ON resource (type, updated, key, live, txn, owner, patient);

-- Superseded versions, deletes included.
CREATE TABLE history (
    key BIGINT NOT NULL,
    version BIGINT NOT NULL,
    type BIGINT NOT NULL,
    live BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    txn BIGINT NOT NULL,
    until BIGINT NOT NULL,
    owner BIGINT NOT NULL,
    patient BIGINT NOT NULL,
    class BIGINT NOT NULL DEFAULT 0,
    low BIGINT NOT NULL DEFAULT 0,
    high BIGINT NOT NULL DEFAULT 0,
    body BYTEA
);
CREATE UNIQUE INDEX history_version ON history (key, version);
CREATE INDEX history_until ON history (until);

-- Index rows hold from transaction `since` up to `until` (0: they still do), so that a page can see the past.
CREATE TABLE token (
    param BIGINT NOT NULL, code TEXT COLLATE "C" NOT NULL, key BIGINT NOT NULL, system BIGINT NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, code, key, system, since)
);

CREATE TABLE string (
    param BIGINT NOT NULL, folded TEXT COLLATE "C" NOT NULL, key BIGINT NOT NULL, exact TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, folded, key, exact, since)
);
CREATE INDEX string_key ON string (key, param, folded, until);

CREATE TABLE reference (
    param BIGINT NOT NULL, target BIGINT NOT NULL, key BIGINT NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, target, key, since)
);
CREATE INDEX reference_key ON reference (key, param, target, until);

CREATE TABLE uri (
    param BIGINT NOT NULL, uri TEXT COLLATE "C" NOT NULL, key BIGINT NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, uri, key, since)
);

-- wide: 1 when the interval is longer than store::rows::NARROW, so that an upper bound on `high` also bounds `low` of the others.
CREATE TABLE date (
    param BIGINT NOT NULL, wide BIGINT NOT NULL, low BIGINT NOT NULL, key BIGINT NOT NULL, high BIGINT NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, wide, low, key, high, since)
);
CREATE INDEX date_key ON date (key, param, low, high, until);

CREATE TABLE number (
    param BIGINT NOT NULL, value DOUBLE PRECISION NOT NULL, key BIGINT NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, value, key, since)
);
CREATE INDEX number_key ON number (key, param, value, until);

CREATE TABLE quantity (
    param BIGINT NOT NULL, code TEXT COLLATE "C" NOT NULL, value DOUBLE PRECISION NOT NULL, key BIGINT NOT NULL, system BIGINT NOT NULL, unit TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, code, value, key, system, unit, since)
);
CREATE INDEX quantity_key ON quantity (key, param, value, code, system, unit, until);

-- Up to three components of one element; codeN, systemN, lowN and highN hold what the component's kind needs.
CREATE TABLE composite (
    param BIGINT NOT NULL, code1 TEXT COLLATE "C" NOT NULL, key BIGINT NOT NULL, system1 BIGINT NOT NULL, low1 DOUBLE PRECISION NOT NULL, high1 DOUBLE PRECISION NOT NULL,
    code2 TEXT COLLATE "C" NOT NULL, system2 BIGINT NOT NULL, low2 DOUBLE PRECISION NOT NULL, high2 DOUBLE PRECISION NOT NULL,
    code3 TEXT COLLATE "C" NOT NULL, system3 BIGINT NOT NULL, low3 DOUBLE PRECISION NOT NULL, high3 DOUBLE PRECISION NOT NULL,
    since BIGINT NOT NULL, until BIGINT NOT NULL, owner BIGINT NOT NULL, patient BIGINT NOT NULL,
    PRIMARY KEY (param, code1, key, system1, low1, high1, code2, system2, low2, high2, code3, system3, low3, high3, since)
);

-- Deliveries and other work that must survive: see src/outbox.
CREATE TABLE job (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    dedup_key TEXT,
    state TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    token BIGINT NOT NULL,
    created BIGINT NOT NULL,
    error TEXT,
    result TEXT
);
CREATE INDEX job_due ON job (state, run_at);
CREATE UNIQUE INDEX job_dedup ON job (kind, dedup_key) WHERE state = 'waiting' AND dedup_key IS NOT NULL;

-- What facilities sent, byte for byte, before anything else was done with it.
CREATE TABLE submission (
    key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest BYTEA NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    owner BIGINT NOT NULL,
    received BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    records BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    payload BYTEA NOT NULL,
    reply BYTEA
);
CREATE INDEX submission_owner ON submission (owner, received);
CREATE INDEX submission_digest ON submission (digest);

-- Codes that no ConceptMap knew, by submission.
CREATE TABLE unmapped (
    submission BIGINT NOT NULL, owner BIGINT NOT NULL, map TEXT COLLATE "C" NOT NULL, system TEXT COLLATE "C" NOT NULL, code TEXT COLLATE "C" NOT NULL,
    display TEXT COLLATE "C" NOT NULL, path TEXT COLLATE "C" NOT NULL, count BIGINT NOT NULL,
    PRIMARY KEY (submission, map, system, code, path)
);
