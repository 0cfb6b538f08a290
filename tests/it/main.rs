//! The integration tests, one binary: they drive the real server over HTTP, on SQLite and on PostgreSQL.

mod fixtures;
mod store;
mod support;
