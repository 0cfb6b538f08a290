//! The integration tests, one binary: they drive the real server over HTTP, on SQLite and on PostgreSQL.

mod access;
mod bundles;
mod conditional;
mod crash;
mod dhis2;
mod dhis2_double;
mod fhir_rest;
mod fixtures;
mod hostile;
mod house;
mod interactions;
mod measure;
mod registry;
mod search_oracle;
mod serve;
mod smart_attacks;
mod smart_claims;
mod smart_people;
mod smart_scopes;
mod smart_tls;
mod store;
mod support;
mod synthea;
mod templates;
