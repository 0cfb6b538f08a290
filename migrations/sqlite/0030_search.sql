-- Own search parameters: the number under which each definition's values are indexed. A changed definition gets a new number,
-- so that nothing of the old one is ever found by it.
CREATE TABLE own_parameter (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    ready INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX own_parameter_id ON own_parameter (id, digest);
