-- Own search parameters: the number under which each definition's values are indexed. A changed definition gets a new number,
-- so that nothing of the old one is ever found by it.
CREATE TABLE own_parameter (
    number BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    ready BIGINT NOT NULL
);
CREATE UNIQUE INDEX own_parameter_id ON own_parameter (id, digest);

-- What is stored already is indexed anew, for the modifiers that look into indexes of their own.
INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created)
SELECT 'search.reindex', '{"parameter":null,"types":["*"]}', 'all', 'waiting', 0, 0, 0, 0, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
WHERE EXISTS (SELECT 1 FROM resource WHERE version > 0);
