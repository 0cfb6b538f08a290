-- Rules are found by whom they speak of and then by the patient (src/store/gate/condition.rs), and what most of them say stands in the index.
-- A rule that names several actors or purposes has a row for each pair; what was written before keeps its one row for all of them. What never holds, and
-- is kept for what it took the place of, is in the audience of nobody (-1); that of everybody is there when a rule speaks to it.
-- PostgreSQL has the same (migrations/postgres/0052_rule.sql).
CREATE TABLE rule_by_audience (
    patient INTEGER NOT NULL, consent INTEGER NOT NULL, node INTEGER NOT NULL, parent INTEGER NOT NULL, precedence INTEGER NOT NULL, audience INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    parts INTEGER NOT NULL, children INTEGER NOT NULL, named INTEGER NOT NULL, emergency INTEGER NOT NULL, series INTEGER NOT NULL, stamp INTEGER NOT NULL, updated INTEGER NOT NULL, superseded INTEGER NOT NULL,
    PRIMARY KEY (patient, consent, node, audience)
) STRICT, WITHOUT ROWID;
UPDATE rule SET audience = -1 WHERE low >= high;
INSERT INTO rule_by_audience SELECT * FROM rule;
DROP TABLE rule;
ALTER TABLE rule_by_audience RENAME TO rule;
CREATE INDEX rule_consent ON rule (consent);
CREATE INDEX rule_audience ON rule (audience, patient, superseded, precedence, parts, children, low, high);
DELETE FROM audience_part WHERE audience = 0 AND NOT EXISTS (SELECT 1 FROM rule WHERE audience = 0);
