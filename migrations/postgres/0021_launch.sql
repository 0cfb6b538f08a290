-- Whose records people see, and what a login was for (src/access).

ALTER TABLE person ADD COLUMN linked TEXT NOT NULL DEFAULT '';      -- ids of the Patients that were the person's too when an operator looked, separated by one space
ALTER TABLE person ADD COLUMN acts_for TEXT NOT NULL DEFAULT '';    -- others' Patients: ids of one by commas, the first as the app is told; several by one space

ALTER TABLE grant_ticket ADD COLUMN patient TEXT;                   -- id of the Patient in context
ALTER TABLE grant_ticket ADD COLUMN nonce TEXT;                     -- of OpenID Connect
ALTER TABLE grant_ticket ADD COLUMN logged_in BIGINT NOT NULL DEFAULT 0;  -- seconds
