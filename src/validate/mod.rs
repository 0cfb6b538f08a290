//! Every problem of a resource, each with its path: the gate through which all of it comes that is stored.
//!
//! [`structure`] holds a resource against R4 itself: elements that do not exist, wrong JSON types, too few and too many,
//! formats of primitives, codes of required bindings, references to types that the element does not allow; contained resources
//! and those in Bundle and Parameters included. A [`Validator`] goes on from there: R4's invariants, known extensions in their
//! places, contained resources, the entries of a Bundle, and profiles, those that are asked for and those that `meta.profile`
//! claims. Profiles are compiled from the differentials of their chain ([`Profile`]) and kept by URL ([`Profiles`]);
//! [`package`] reads them from files.
//!
//! All problems come at once, at most [`MAX_ISSUES`] of them: errors before warnings when not all fit. An issue names a path
//! and what to do; it never quotes a value, because values are patient data. What nobody can tell (a value set that is not
//! loaded, an expression that is not understood) is said as information, never passed over.
//!
//! This room works over the tables of [`crate::definitions`] and must never know a database, a request or who is asking.

mod binding;
mod bundle;
mod compile;
mod invariants;
pub mod package;
mod primitive;
mod profile;
mod profiles;
mod report;
mod scope;
mod shipped;
mod slicing;
mod structure;
mod validator;
mod values;
mod xhtml;

pub use binding::Codes;
pub use compile::{Profile, ProfileError};
pub use profiles::Profiles;
pub use report::MAX_ISSUES;
pub use scope::Targets;
pub use shipped::shipped_profiles;
pub use structure::structure;
pub use validator::{Checked, Level, NoProfile, Validator};

#[cfg(test)]
mod tests;
