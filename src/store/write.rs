//! What can be written: units of mutations, applied whole or not at all.

use super::audit::AuditRow;
use super::closing::Basis;
use super::covered::Narrowing;
use super::gate::{About, Membership, Rules, Traits};
use super::visits::Visit;
use super::{FacilityKey, IndexEntry, Query, ResourceKey, TypeCode};
use crate::fhir::time::Micros;
use std::collections::HashSet;

/// One transaction.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    pub mutations: Vec<Mutation>,
    /// Searches whose answer the mutations rest on.
    pub preconditions: Vec<Precondition>,
    /// Resources that the mutations rest on without changing them, each with the version that it must still be at, not deleted.
    pub unchanged: Vec<(TypeCode, Box<str>, i64)>,
    /// Deliveries that this transaction causes; they become due when it commits.
    pub jobs: Vec<NewJob>,
    /// What is remembered of visits from now on.
    pub visits: Vec<Visit>,
    /// What is recorded of it.
    pub audit: Vec<AuditRow>,
    /// Up to which position the audit's events are AuditEvents with it.
    pub published: Option<i64>,
    /// Those of the mutations that make something new and came by POST, for histories.
    pub posted: HashSet<(TypeCode, Box<str>)>,
    /// Those that came by PATCH.
    pub patched: HashSet<(TypeCode, Box<str>)>,
    /// What rules rest on in the terminology; `None`: nothing of it changes, and no rule that is written names a value set.
    pub terminology: Option<Resting>,
    /// What the answers were decided on that it records; it is stale when one does not hold any more.
    pub bases: Vec<Basis>,
    /// What Consents permit no longer, by what the unit changes of whom they cover.
    pub narrowing: Option<Narrowing>,
}

impl Unit {
    /// A unit that records events and changes nothing.
    pub fn of_audit(audit: Vec<AuditRow>, bases: Vec<Basis>) -> Unit {
        Unit { audit, bases, ..Unit::default() }
    }

    /// All that must still be at its version: what the mutations rest on, and what the rules in them do.
    pub(super) fn rests_on(&self) -> impl Iterator<Item = &(TypeCode, Box<str>, i64)> {
        let rules = self.mutations.iter().filter_map(|mutation| mutation.rules.as_ref());
        self.unchanged.iter().chain(rules.flat_map(|rules| &rules.rests_on))
    }

    /// Rows that it changes or records.
    pub(super) fn size(&self) -> usize {
        self.mutations.len() + self.audit.len()
    }

    /// Whether it does nothing but record, and perhaps release.
    pub(super) fn only_records(&self) -> bool {
        self.mutations.is_empty()
            && self.preconditions.is_empty()
            && self.unchanged.is_empty()
            && self.jobs.is_empty()
            && self.visits.is_empty()
            && self.published.is_none()
    }
}

/// Memberships of value sets, worked out from the terminology as of a number ([`Store::terminology_number`](super::Store::terminology_number)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// Another number in the database makes the unit stale.
    pub number: i64,
    /// The unit changes the terminology, and so the number.
    pub changes: bool,
    pub sets: Vec<Membership>,
}

/// The new state of one resource.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub type_code: TypeCode,
    pub id: Box<str>,
    /// The version that this was prepared against; 0: the resource has never existed. The new version is one more.
    pub base_version: i64,
    pub change: Change,
    pub owner: FacilityKey,
    /// `false`: read by id and found by its index entries, but left out where a search lists the type (golden Patients).
    pub listed: bool,
    /// Whose record it is part of (a Patient is part of its own).
    pub about: About,
    /// What a patient's rules may ask of it; of a delete, those of the version before.
    pub traits: Traits,
    /// Of a Consent: what it allows from now on. `None` leaves the rules alone.
    pub rules: Option<Rules>,
}

#[derive(Clone, Debug)]
pub enum Change {
    /// Create, update, or restore after a delete.
    Put {
        /// The resource with `meta.versionId` set and, at `stamp_at`, 27 bytes of `meta.lastUpdated` that the store fills in.
        body: Vec<u8>,
        stamp_at: usize,
        /// Entries of the new state.
        entries: Vec<IndexEntry>,
        /// Entries of the state before, as extracted from its body; empty when there was none.
        old_entries: Vec<IndexEntry>,
    },
    Delete {
        old_entries: Vec<IndexEntry>,
    },
    /// The resource is gone with all its versions, as if nobody had sent it: what lango made and may keep no longer.
    Purge {
        old_entries: Vec<IndexEntry>,
    },
    /// The resource stays as it is; these of its index rows end, and those begin. What is in both is written anew.
    Reindex {
        entries: Vec<IndexEntry>,
        old_entries: Vec<IndexEntry>,
    },
}

/// A search that must still give `expected` when the unit is applied.
#[derive(Clone, Debug)]
pub struct Precondition {
    pub query: Query,
    /// Ids in the order of arrival: all of them, or the first two where there are several.
    pub expected: Vec<String>,
}

impl Precondition {
    /// How many matches tell whether it holds.
    pub(super) fn tells(&self) -> usize {
        self.expected.len().saturating_add(1)
    }
}

/// A job to be enqueued in the same transaction (see [`crate::outbox`]).
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Which handler, such as `dhis2.push`.
    pub kind: String,
    /// Versioned JSON.
    pub payload: serde_json::Value,
    /// At most one waiting job of a kind has this key: a second enqueue replaces the first's payload.
    pub dedup_key: Option<String>,
    /// When it becomes due; 0: at once.
    pub run_at: Micros,
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: ResourceKey,
    pub version: i64,
    pub updated: Micros,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A version or a precondition changed since the unit was prepared: prepare it again.
    #[error("the resource changed meanwhile")]
    Stale,
    /// More is waiting than the store takes: ask the client to come back.
    #[error("too much is waiting to be written")]
    Busy,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
