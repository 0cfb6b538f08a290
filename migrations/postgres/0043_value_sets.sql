-- What rules rest on besides the Consents themselves (src/ingest/resting.rs).

-- The value sets that rules name. Their members are clauses (clause_fact), replaced by the transaction that changes the terminology.
CREATE TABLE rule_set (url TEXT PRIMARY KEY);

-- Counts the changes of CodeSystems and ValueSets: a membership that was worked out before the last of them is worked out again.
CREATE TABLE terminology (id INTEGER PRIMARY KEY CHECK (id = 1), number BIGINT NOT NULL);
INSERT INTO terminology (id, number) VALUES (1, 0);
