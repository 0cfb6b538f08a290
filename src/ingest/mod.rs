//! Submissions to canonical resources: what a facility sends goes in, durable resources come out.
//!
//! [`write`] is the one path by which any resource is written, whoever made it; [`bundle`] reads FHIR Bundles and carries
//! them out as transactions or batches. CPU work runs on a bounded number of threads ([`workers`]); what cannot be done is
//! a [`refusal::Refusal`] in the specification's terms, every problem with its path.
//!
//! This room knows the store and the definitions. It must never know HTTP: a Bundle is the same Bundle whether it came
//! over the network or from a file.

pub mod bundle;
mod carry;
pub mod consent;
pub mod criteria;
pub mod draft;
pub mod etag;
mod fold;
pub mod identities;
pub mod load;
mod ownership;
pub mod patch;
pub mod refusal;
pub mod relabel;
pub mod replay;
mod resting;
pub mod submit;
pub mod template;
pub mod transaction;
pub mod tries;
mod who;
pub mod workers;
pub mod write;

pub use refusal::{Refusal, RefusalKind};
