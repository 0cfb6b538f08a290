-- Rules are found by whom they speak of and then by the patient (src/store/gate/condition.rs).
-- A rule that names several actors or purposes has a row for each pair; what was written before keeps its one row for all of them.
-- SQLite has the same (migrations/sqlite/0052_rule.sql).
ALTER TABLE rule DROP CONSTRAINT rule_pkey, ADD PRIMARY KEY (patient, consent, node, audience);
CREATE INDEX rule_audience ON rule (audience, patient) WHERE superseded = 0;
