-- What may have closed something, in the order of the commits: a change of what a patient allows; patient 0: of what all rules rest on. An answer that was
-- decided before is decided again (src/store/closing.rs).
CREATE TABLE closing (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at BIGINT NOT NULL, patient BIGINT NOT NULL);
