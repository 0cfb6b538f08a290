-- What is stored already is indexed anew, for what contained resources are found by.
INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created)
SELECT 'search.reindex', '{"parameter":null,"types":["*"]}', 'all', 'waiting', 0, 0, 0, 0, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
WHERE EXISTS (SELECT 1 FROM resource WHERE version > 0)
AND NOT EXISTS (SELECT 1 FROM job WHERE kind = 'search.reindex' AND dedup_key = 'all' AND state = 'waiting');

-- What is around a resource is what it refers to itself: what it contains may refer to anything (src/store/index.rs, own_row).
DO $do$
DECLARE
    was text := pg_get_functiondef('gate_decided'::regproc);
    becomes text := replace(was, 'x.target = of_key AND x.until = 0', 'x.target = of_key AND x.until = 0 AND x.param & 15728640 = 0');
BEGIN
    IF becomes = was THEN
        RAISE EXCEPTION 'gate_decided does not say what this migration changes';
    END IF;
    EXECUTE becomes;
END $do$;
