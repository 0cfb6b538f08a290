-- Who may call, and what lango needs to believe them (src/access).

CREATE TABLE client (
    id          TEXT PRIMARY KEY,
    facility    TEXT NOT NULL,      -- code of the facility that owns what this client sends
    scopes      TEXT NOT NULL,      -- separated by one space
    roles       TEXT NOT NULL,      -- separated by one space; may be empty
    secret_hash TEXT,               -- argon2id, in PHC form
    jwks        TEXT,               -- public keys for private_key_jwt
    created     INTEGER NOT NULL,   -- microseconds
    disabled    INTEGER             -- microseconds; NULL: may log in
) STRICT, WITHOUT ROWID;

-- Keys that sign access tokens. The newest signs, all verify.
CREATE TABLE signing_key (
    id      INTEGER PRIMARY KEY,
    pkcs8   BLOB NOT NULL,          -- P-256 private key
    created INTEGER NOT NULL        -- microseconds
) STRICT;

-- Client assertions already used; a second use within their life is a replay.
CREATE TABLE used_assertion (
    digest  BLOB PRIMARY KEY,       -- BLAKE3 of client and jti
    expires INTEGER NOT NULL        -- microseconds
) STRICT, WITHOUT ROWID;
CREATE INDEX used_assertion_expires ON used_assertion (expires);
