//! (to come)
pub mod auth;
pub mod ops;
