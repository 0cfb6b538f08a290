//! What the benches share: databases, servers to ask, people to load, questions, and times.
//!
//! Each bench uses a part of it, and none all.
#![allow(dead_code)]

pub mod databases;
pub mod people;
#[path = "../../tests/it/support/postgres.rs"]
pub mod postgres;
pub mod servers;
pub mod shapes;
pub mod times;

/// The words of the command line. `cargo bench` adds options of its own.
pub fn words() -> Vec<String> {
    std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect()
}
