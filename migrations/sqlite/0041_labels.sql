-- Labels that resources take from what they came in (src/store/inherit.rs).

-- What its class would be without what it inherited; 0: it inherited nothing, or is about no patient.
ALTER TABLE resource ADD COLUMN own INTEGER NOT NULL DEFAULT 0;

-- What a labelled Encounter, Composition or document hands on: numbers of labels.
CREATE TABLE handed (container INTEGER NOT NULL, label INTEGER NOT NULL, PRIMARY KEY (container, label)) STRICT, WITHOUT ROWID;

-- What a labelled Composition or document lists; owner: who contributed the container. Who names an Encounter the table reference knows.
CREATE TABLE part (member INTEGER NOT NULL, container INTEGER NOT NULL, owner INTEGER NOT NULL, PRIMARY KEY (member, container)) STRICT, WITHOUT ROWID;
CREATE INDEX part_container ON part (container, member);
