//! The language that every other room speaks: FHIR R4 as data, and nothing about storage or HTTP.
//!
//! Resources travel as [`serde_json::Value`] with key order and number digits kept (`preserve_order`,
//! `arbitrary_precision`), because bytes are truth: what a facility sent is what a reader gets. This room
//! parses them strictly ([`json`]), tells instants and partial dates as half-open intervals ([`time`]),
//! reads decimals with their precision ([`decimal`]), takes references apart ([`reference`]), tells which Consent takes
//! another's place ([`series`]), folds text for comparison ([`text`]), makes XML of JSON and back ([`xml`]), keeps
//! narratives such that it can ([`narrative`]) and says what is wrong in the specification's own form ([`outcome`]).
//!
//! It must never know where a resource is kept or how it arrived.

pub mod decimal;
pub mod json;
pub mod json_patch;
pub mod markup;
pub mod narrative;
pub mod outcome;
pub mod placeholder;
pub mod reference;
pub mod series;
pub mod text;
pub mod time;
pub mod xml;

pub use outcome::{Issue, IssueCode, Severity};
pub use reference::Reference;
pub use time::Interval;
