-- How far the stored Consents were read again by the rules of a release (src/app/renew.rs): the last one of those done, by when it changed and its key. So a
-- start that is interrupted goes on where it stood. PostgreSQL has the same (migrations/postgres/0190_renewed.sql).
ALTER TABLE consents_read ADD COLUMN after_updated INTEGER NOT NULL DEFAULT -9223372036854775808;
ALTER TABLE consents_read ADD COLUMN after_key INTEGER NOT NULL DEFAULT 0;
-- And what names a medicine is looked for otherwise than migration 180 did: by its id and its identifier, where a medicine can stand.
INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created)
SELECT 'search.reindex', '{"parameter":null,"types":["*"]}', 'all', 'waiting', 0, 0, 0, 0, CAST(strftime('%s', 'now') AS INTEGER) * 1000000
WHERE EXISTS (SELECT 1 FROM resource WHERE version > 0)
AND NOT EXISTS (SELECT 1 FROM job WHERE kind = 'search.reindex' AND dedup_key = 'all' AND state = 'waiting');
