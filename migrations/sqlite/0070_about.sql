-- A row of the audit may name several Patients (in its event), so which rows are about whom is noted in a table of its own. It is written beside the
-- requests, a stretch of rows at a time: an index of `audit` would cost a page for every Patient with every commit.
CREATE TABLE audit_about (patient INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (patient, position)) STRICT, WITHOUT ROWID;
INSERT INTO audit_about (patient, position) SELECT patient, position FROM audit WHERE patient <> 0 ORDER BY patient, position;
DROP INDEX audit_patient;

-- Up to which position that is noted.
ALTER TABLE audit_published ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;
UPDATE audit_published SET indexed = coalesce((SELECT max(position) FROM audit), 0);
