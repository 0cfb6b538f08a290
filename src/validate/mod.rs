//! Every problem of a resource, each with its path: the gate through which all of it comes that is stored.
//!
//! [`structure`] holds a resource against R4 itself: elements that do not exist, wrong JSON types, too few and too many,
//! formats of primitives, codes of required bindings, references to types that the element does not allow; contained resources
//! and those in Bundle and Parameters included. [`profile`] holds it against one [`Profile`], read from the differential of a
//! StructureDefinition: cardinality, fixed values and patterns, types, required bindings and invariants. [`canonical_profiles`]
//! are those that lango's own canonical resources claim.
//!
//! All problems come at once, at most [`MAX_ISSUES`] of them: errors before warnings when not all fit. An issue names a path
//! and what to do; it never quotes a value, because values are patient data.
//!
//! This room works over the tables of [`crate::definitions`] and must never know a database, a request or who is asking.

mod primitive;
mod profile;
mod report;
mod shipped;
mod structure;
mod xhtml;

pub use profile::{Profile, ProfileError, profile};
pub use report::MAX_ISSUES;
pub use shipped::{canonical_profile, canonical_profiles, shipped_profiles};
pub use structure::structure;

#[cfg(test)]
mod tests;
