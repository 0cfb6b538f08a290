-- Identity tokens, and patients whom clinicians pick (src/access).

-- Keys that sign identity tokens.
CREATE TABLE identity_key (
    id      BIGINT PRIMARY KEY,
    pkcs8   BYTEA NOT NULL,         -- RSA private key of 2048 bits
    created BIGINT NOT NULL        -- microseconds
);

ALTER TABLE grant_ticket ADD COLUMN picked BIGINT NOT NULL DEFAULT 0;  -- 1: the Patient in context was picked, and is not the person's own
