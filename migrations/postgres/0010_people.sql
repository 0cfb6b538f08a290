-- People who log in, what they were given, and what was taken back (src/access).

ALTER TABLE client ADD COLUMN jwks_url TEXT;        -- where its public keys are, instead of jwks
ALTER TABLE client ADD COLUMN issuer TEXT;          -- the outside issuer that alone may vouch for it; NULL: lango itself
ALTER TABLE client ADD COLUMN redirect_uris TEXT NOT NULL DEFAULT '';  -- of an app for people, separated by one space
ALTER TABLE client ADD COLUMN certificate TEXT;     -- SHA-256 of the TLS certificate that it must connect with, in hex

CREATE TABLE person (
    id            TEXT PRIMARY KEY,     -- the name that they log in with
    name          TEXT NOT NULL,
    password_hash TEXT NOT NULL,        -- argon2id, in PHC form
    totp          BYTEA,                 -- shared secret of RFC 6238; NULL: none
    totp_step     BIGINT NOT NULL,     -- the last time step used; each counts once
    facility      TEXT NOT NULL,
    roles         TEXT NOT NULL,        -- separated by one space; may be empty
    practitioner  TEXT,                 -- identifier value of their Practitioner
    patient       TEXT,                 -- id of their own Patient
    failures      BIGINT NOT NULL,     -- wrong logins since the last right one
    locked_until  BIGINT NOT NULL,     -- microseconds; 0: not locked
    created       BIGINT NOT NULL,     -- microseconds
    disabled      BIGINT               -- microseconds; NULL: may log in
);

-- Codes of the authorization endpoint and refresh tokens, each good for one use. A second use ends the whole grant.
CREATE TABLE grant_ticket (
    digest        BYTEA PRIMARY KEY,    -- BLAKE3 of the code or token
    kind          TEXT NOT NULL,        -- code, refresh
    grant_id      TEXT NOT NULL,
    client        TEXT NOT NULL,
    person        TEXT NOT NULL,
    scopes        TEXT NOT NULL,
    redirect_uri  TEXT NOT NULL,        -- of a code
    challenge     TEXT NOT NULL,        -- of a code: PKCE, S256
    expires       BIGINT NOT NULL,     -- microseconds
    used          BIGINT NOT NULL      -- 0: not yet
);
CREATE INDEX grant_ticket_expires ON grant_ticket (expires);

-- Tokens (by jti) and grants that no longer count, until they would have ended by themselves.
CREATE TABLE revoked (
    id            TEXT PRIMARY KEY,
    expires       BIGINT NOT NULL      -- microseconds
);
CREATE INDEX revoked_expires ON revoked (expires);
