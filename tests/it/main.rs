//! The integration tests, one binary: they drive the real server over HTTP, on SQLite and on PostgreSQL.

mod access;
mod bundles;
mod conditional;
mod consent;
mod crash;
mod dhis2;
mod dhis2_double;
mod fhir_rest;
mod fixtures;
mod hdu;
mod histories;
mod hostile;
mod house;
mod interactions;
mod measure;
mod patches;
mod registry;
mod search_oracle;
mod serve;
mod smart_scopes;
mod store;
mod support;
mod synthea;
mod templates;
mod upkeep;
mod visits;
