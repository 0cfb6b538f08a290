-- What is stored already is indexed anew: texts are compared without punctuation (src/fhir/text.rs).
INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created)
SELECT 'search.reindex', '{"parameter":null,"types":["*"]}', 'all', 'waiting', 0, 0, 0, 0, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
WHERE EXISTS (SELECT 1 FROM resource WHERE version > 0)
AND NOT EXISTS (SELECT 1 FROM job WHERE kind = 'search.reindex' AND dedup_key = 'all' AND state = 'waiting');
