-- Identity tokens, and patients whom clinicians pick (src/access).

-- Keys that sign identity tokens.
CREATE TABLE identity_key (
    id      INTEGER PRIMARY KEY,
    pkcs8   BLOB NOT NULL,         -- RSA private key of 2048 bits
    created INTEGER NOT NULL        -- microseconds
) STRICT;

ALTER TABLE grant_ticket ADD COLUMN picked INTEGER NOT NULL DEFAULT 0;  -- 1: the Patient in context was picked, and is not the person's own
