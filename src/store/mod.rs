//! The store: what was accepted, every version of it, and the narrow indexes that find it again.
//!
//! In come [`Unit`]s (one transaction's [`Mutation`]s with the index entries that were extracted for them and the
//! [`Precondition`]s they rest on); out come bytes. A unit is applied whole or not at all. Each mutation names the
//! version that it was prepared against; when that version or a precondition no longer holds, the unit is refused with
//! [`WriteError::Stale`] and the caller prepares it again. So nothing is decided before the write that the write does
//! not check itself, and conditional operations are exact however many clients race.
//!
//! SQLite has one writer task that gathers waiting units into one commit; PostgreSQL commits each unit on its own
//! connection. Both hold the same tables (`migrations/`), both are behind [`Store`].
//!
//! This room knows types, parameters and values as integers and text; it knows nothing of FHIR search syntax
//! ([`crate::search`] makes its [`Query`]s) and nothing of HTTP. `docs/index-design.md` explains the tables.

pub mod api;
pub mod audit;
mod batch;
mod by_value;
mod canonical;
mod claims;
pub mod closing;
mod compile;
pub mod consents;
pub mod covered;
pub mod everything;
pub mod expunge;
pub mod facts;
pub mod gate;
pub mod history;
pub mod index;
pub mod indexed;
mod inherit;
mod jobs;
pub mod labels;
mod migrations;
pub mod opened;
mod packed;
mod places;
mod postgres;
pub mod query;
mod reads;
pub mod records;
mod reindex;
pub mod resting;
mod rows;
mod search;
mod several;
pub(crate) mod sql;
mod sqlite;
pub mod submissions;
pub mod upkeep;
pub mod visits;
pub mod write;

pub use api::*;
pub use audit::{AuditRow, Sealed, Subject};
pub use index::{Facet, IndexEntry, IndexValue};
pub use inherit::medicines::{Called as CalledMedicine, DEPTH as MEDICINES_DEEP};
pub use query::{Cursor, Filter, Folding, Query, Scope, SortKey};
pub use reindex::NumberedParameter;
pub use write::{Mutation, Precondition, Unit, WriteError, Written};

/// A resource type's number: its place in [`crate::definitions`]' frozen list.
pub type TypeCode = u16;
/// A search parameter of one type: `type << 12 | code`, both from frozen lists.
pub type ParamId = u32;
/// A facility's number in this database; 0 is the operator's own organisation.
pub type FacilityKey = i64;
/// A resource's number in this database, given when it is first written or first referred to.
pub type ResourceKey = i64;

/// A pool whose connections are kept as long as it lives. The task that would end those that are idle or old (sqlx 0.9, `spawn_maintenance_tasks`) goes over as many as
/// are counted to be idle; between a thread that has put one back and not counted it yet, and another that has taken it, that is a number below zero: some 2^64,
/// and the task turns round for ever, on a thread that no shutdown gets back.
fn for_good<DB: sqlx::Database>(options: sqlx::pool::PoolOptions<DB>) -> sqlx::pool::PoolOptions<DB> {
    options.idle_timeout(None).max_lifetime(None)
}

/// Whether a database failed because it cannot be reached, has no room, or is shut down: nothing that was asked of it is at fault, and later it
/// may do it.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
            // SQLITE_BUSY, SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN in the lowest byte.
            Some(_) => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 8 | 10 | 13 | 14)),
            // Connection exceptions, insufficient resources, and a server that shuts down, starts up or serves for reading only.
            None => ["08", "53", "57P", "58", "25006"].iter().any(|class| code.starts_with(class)),
        }),
        _ => false,
    }
}

/// The number that stands for a code system, identifier system or unit system: 63 bits of BLAKE3, the same everywhere.
pub fn system_key(uri: &str) -> i64 {
    let hash = blake3::hash(uri.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    (i64::from_be_bytes(first) & i64::MAX).max(1)
}
