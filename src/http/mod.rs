//! (to come)
pub mod auth;
pub mod connections;
pub mod ops;
