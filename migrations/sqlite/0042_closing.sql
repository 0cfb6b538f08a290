-- What may have closed something, in the order of the commits: a change of what a patient allows; patient 0: of what all rules rest on. An answer that was
-- decided before is decided again (src/store/closing.rs).
CREATE TABLE closing (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, patient INTEGER NOT NULL) STRICT;
