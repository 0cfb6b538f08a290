-- From a resource to its codes, uris and composites, as there is for all other kinds: sorting by them, `:missing`, value sets and what is not
-- a code are then probes of the rows that were found, not reads of all that the parameter has. It grows at its end.
CREATE INDEX token_key ON token (key, param, code, until);
CREATE INDEX uri_key ON uri (key, param, uri, until);
CREATE INDEX composite_key ON composite (key, param, until);
