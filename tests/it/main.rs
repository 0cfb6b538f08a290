//! The integration tests, one binary: they drive the real server over HTTP, on SQLite and on PostgreSQL.

mod access;
mod bundles;
<<<<<<< HEAD
mod dhis2;
mod dhis2_double;
mod fhir_rest;
=======
mod fhir_rest;
mod dhis2;
mod dhis2_double;
>>>>>>> room-g
mod fixtures;
mod house;
mod measure;
mod serve;
mod store;
mod support;
