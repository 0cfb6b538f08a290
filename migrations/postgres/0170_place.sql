-- Under which organisations and policies a Consent stands, and when it was given: `place` is JSON (src/fhir/series.rs). What a Consent said before it was
-- ended or moved stays, so that what it took the place of does not come back. nth: the last is what it says now. patient: whom it names.
-- SQLite has the same (migrations/sqlite/0170_place.sql).
CREATE TABLE consent_place (
    consent BIGINT NOT NULL, nth BIGINT NOT NULL, patient BIGINT NOT NULL, place TEXT NOT NULL,
    PRIMARY KEY (consent, nth)
);
CREATE INDEX consent_place_patient ON consent_place (patient, consent);
-- superseded: 1 when another Consent has taken the rule's place. That rests on places, and no longer on these.
ALTER TABLE rule DROP COLUMN series, DROP COLUMN stamp, DROP COLUMN updated;

-- By which rules the stored Consents were read (src/app/renew.rs); 0: by those of an earlier release.
CREATE TABLE consents_read (id BIGINT PRIMARY KEY CHECK (id = 1), by BIGINT NOT NULL);
INSERT INTO consents_read (id, by) VALUES (1, 0);
