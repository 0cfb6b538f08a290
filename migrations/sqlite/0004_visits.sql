-- What a visit's lists last made, so that a list which comes again withdraws what it makes no longer (src/store/visits.rs).
CREATE TABLE visit (
    id         TEXT PRIMARY KEY,    -- derived from the template, the facility and the visit's own id
    revision   INTEGER NOT NULL,    -- counts the changes of this row: a unit made on an older one is stale
    submission INTEGER NOT NULL,    -- the newest submission that spoke of the visit
    lists      TEXT NOT NULL        -- JSON: name of the list to the resources it made, each `Type/id`
) STRICT, WITHOUT ROWID;
