-- Where a container holds more than fifteen contained resources of a type, what is stored is indexed anew: the others had no rows.
INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created)
SELECT 'search.reindex', '{"parameter":null,"types":["*"]}', 'all', 'waiting', 0, 0, 0, 0, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
WHERE EXISTS (SELECT 1 FROM token WHERE param & 15728640 = 15728640)
AND NOT EXISTS (SELECT 1 FROM job WHERE kind = 'search.reindex' AND dedup_key = 'all' AND state = 'waiting');
