//! (to come)
pub mod auth;
pub mod body;
pub mod error;
pub mod hdu;
pub mod negotiate;
pub mod ops;
pub mod state;
