-- Which rows of the audit are about whom; migrations/sqlite/0070_about.sql explains it.
CREATE TABLE audit_about (patient BIGINT NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (patient, position));
INSERT INTO audit_about (patient, position) SELECT patient, position FROM audit WHERE patient <> 0 ORDER BY patient, position;
DROP INDEX audit_patient;

ALTER TABLE audit_published ADD COLUMN indexed BIGINT NOT NULL DEFAULT 0;
UPDATE audit_published SET indexed = coalesce((SELECT max(position) FROM audit), 0);
