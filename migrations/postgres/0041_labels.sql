-- Labels that resources take from what they came in (src/store/inherit.rs).

-- What its class would be without what it inherited; 0: it inherited nothing, or is about no patient.
ALTER TABLE resource ADD COLUMN own BIGINT NOT NULL DEFAULT 0;

-- What a labelled Encounter, Composition or document hands on: numbers of labels.
CREATE TABLE handed (container BIGINT NOT NULL, label BIGINT NOT NULL, PRIMARY KEY (container, label));

-- What a labelled Composition or document lists; owner: who contributed the container. Who names an Encounter the table reference knows.
CREATE TABLE part (member BIGINT NOT NULL, container BIGINT NOT NULL, owner BIGINT NOT NULL, PRIMARY KEY (member, container));
CREATE INDEX part_container ON part (container, member);
