//! (to come)

pub mod extract;
