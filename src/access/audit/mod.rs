//! The record of every look: who did what with whose data, when, why, and what let them.
//!
//! Every request is followed by a [`Trail`]. What it writes is recorded in the transaction of the write; what it reads leaves only when
//! the events that tell of it are durable ([`Trail::settle`]): no record, no data. Which patients an answer is about is found from the
//! answer itself, resource by resource, so that no route has to remember to say so. [`Event`] is what is kept, a row for each answer or change;
//! [`resource`] says the same as an AuditEvent in the manner of IHE BALP. The rows are sealed into a chain ([`crate::store::audit`]) of
//! which signed [`checkpoint`]s tell where it stood, and [`verify`] finds what was changed, removed, put elsewhere or cut off.
//!
//! The trail goes with the task that answers a request, not from hand to hand: a way of writing that forgets it does not exist.
//!
//! This room must never know HTTP, nor what a resource says beyond its type and id.

pub mod checkpoint;
pub mod disclosure;
mod event;
mod published;
mod recorder;
pub mod resource;
mod trail;
pub mod verify;

pub use event::{Action, Agent, Event, Holding, Shown, Told, patients, told};
pub use recorder::Recorder;
pub use trail::{Change, Shape, Trail, administer, current};

use crate::store::{FacilityKey, system_key};

/// Why an event was not recorded; whoever asked gets no data then.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit could not be written")]
    Write(#[from] crate::store::WriteError),
    #[error("the audit's tables could not be read")]
    Read(#[from] sqlx::Error),
    #[error("an event could not be put into words")]
    Words(#[from] serde_json::Error),
    /// What patients allow changed since the answer was decided: it must be decided again.
    #[error("what patients allow changed meanwhile")]
    Outdated,
    /// More leaves for this client than [`Releases`](crate::access::releases::Releases) admit; nothing was recorded yet.
    #[error("too much leaves for one client")]
    TooMuch { seconds: u64 },
    /// The task that records has ended, or could not.
    #[error("the audit is closed")]
    Closed,
}

/// The number by which the AuditEvents that a client caused are its own. It is negative, so it is no facility's.
pub fn owner_of(client: &str) -> FacilityKey {
    -system_key(&format!("urn:lango:client|{client}"))
}
