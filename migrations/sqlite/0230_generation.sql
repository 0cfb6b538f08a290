-- What was given for a person belongs to one generation (src/access/people.rs): a new password and shutting them out begin the next.

ALTER TABLE person ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE grant_ticket ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE person SET generation = 1 WHERE disabled IS NOT NULL;
