-- By which value sets of sensitive codes everything that is stored is labelled (src/app/relabel.rs); empty: nobody knows.
CREATE TABLE labelled (id INTEGER PRIMARY KEY CHECK (id = 1), digest TEXT NOT NULL) STRICT;
INSERT INTO labelled (id, digest) VALUES (1, '');
