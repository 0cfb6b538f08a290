//! Answers and withdrawals in one order.
//!
//! Whatever may close something to somebody (a Consent that is withdrawn, narrowed, or denies) leaves a numbered row in `closing`, in its own
//! transaction. An answer is decided as of the newest number that its request saw first. What it discloses is recorded in a transaction,
//! and that transaction commits only if nothing was closed since that the answer hinges on: otherwise it is [`Stale`](super::WriteError::Stale), and the answer
//! is decided again. So of each answer and each withdrawal one comes first, and what comes second knows of it: once a withdrawal is
//! acknowledged, no answer is released that was decided without it.
//!
//! SQLite's one writer puts them in order; on PostgreSQL who releases holds a shared lock until its commit and who closes an exclusive one, taken before
//! either writes what it records, so that the audit tells of them in this order too.
//!
//! An answer that takes longer than the pause between two withdrawals would never be released. So one that was overtaken several times is made while
//! nothing is closed ([`Store::quiet`]): who closes waits for it, and who waits longest goes first.

use super::sql::{Dialect, Sql, bind_all};
use super::{ResourceKey, Store, Unit};
use crate::fhir::time::{Micros, now};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

/// The lock on PostgreSQL; patients' own are positive.
const LOCK: i64 = -0x6c61_6e67_6f63_6c6f;
/// Held together by those who close, alone by who wants quiet; on PostgreSQL, for other processes.
const QUIET: i64 = -0x6c61_6e67_6f71_7569;
/// What no request that is still answered was decided before, in microseconds.
const KEEP: Micros = 24 * 3_600_000_000;
/// The patient of what concerns everybody.
pub const EVERYBODY: ResourceKey = 0;

/// What an answer was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The newest closing that the decision knows of.
    pub since: i64,
    /// Whose rules it hinges on; `None`: on anybody's, as a total does.
    pub patients: Option<BTreeSet<ResourceKey>>,
}

impl Basis {
    fn holds(&self, closings: &[(i64, ResourceKey)]) -> bool {
        let hinges =
            |patient: &ResourceKey| *patient == EVERYBODY || self.patients.as_ref().is_none_or(|patients| patients.contains(patient));
        !closings.iter().any(|(number, patient)| *number > self.since && hinges(patient))
    }
}

/// Where those who close and those who want quiet wait for their turn, in this process.
pub(super) type Closers = Arc<RwLock<()>>;

/// While it is held, nothing is closed, in any process. Whoever holds it must close nothing.
#[derive(Debug)]
pub struct Quiet {
    _here: OwnedRwLockWriteGuard<()>,
    /// Its end gives the lock back.
    _elsewhere: Option<sqlx::Transaction<'static, sqlx::Postgres>>,
}

impl Unit {
    /// Whether it may close something to somebody.
    pub(super) fn closes(&self) -> bool {
        let resets = self.terminology.as_ref().is_some_and(|resting| resting.changes && !resting.sets.is_empty());
        let narrows = self.narrowing.as_ref().is_some_and(|narrowing| !narrowing.is_nothing());
        resets || narrows || self.mutations.iter().any(|mutation| mutation.rules.is_some())
    }
}

/// Waits until nobody in another process wants quiet. Before anything else is locked.
pub(super) async fn in_turn(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(QUIET).execute(connection).await.map(drop)
}

impl Store {
    fn closers(&self) -> &Closers {
        match self {
            Store::Sqlite(db) => &db.closers,
            Store::Postgres(db) => &db.closers,
        }
    }

    /// The turn of one who closes, before they hold anything of the database.
    pub(super) async fn closing(&self) -> RwLockReadGuard<'_, ()> {
        self.closers().read().await
    }

    /// Waits for those who are closing something, and keeps others from it.
    pub async fn quiet(&self) -> Result<Quiet, sqlx::Error> {
        let here = Arc::clone(self.closers()).write_owned().await;
        let elsewhere = match self {
            Store::Sqlite(_) => None,
            Store::Postgres(db) => {
                let mut transaction = db.pool.begin().await?;
                sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(QUIET).execute(&mut *transaction).await?;
                Some(transaction)
            }
        };
        Ok(Quiet { _here: here, _elsewhere: elsewhere })
    }

    /// The number of the newest closing: what is read from now on knows of it.
    pub async fn closings(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT coalesce(max(number), 0) FROM closing");
        Ok(self.integers(sql).await?.first().copied().unwrap_or(0))
    }

    /// Removes what no answer under way can have been decided before.
    pub(super) async fn forget_closings(&self) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        // The newest stays, so that the numbers go on.
        sql.push("DELETE FROM closing WHERE number < (SELECT max(number) FROM closing) AND at < ").int(now().saturating_sub(KEEP));
        self.execute(sql).await.map(drop)
    }
}

/// Whether nothing was closed that any of these hinges on.
pub(super) async fn hold_sqlite(connection: &mut SqliteConnection, bases: &[Basis]) -> Result<bool, sqlx::Error> {
    let Some(Sql { text, args, .. }) = closings_after(Dialect::Sqlite, bases) else { return Ok(true) };
    let closings: Vec<(i64, i64)> = bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(connection).await?;
    Ok(bases.iter().all(|basis| basis.holds(&closings)))
}

/// The same; nothing is closed from here on until the transaction ends.
pub(super) async fn hold_postgres(connection: &mut PgConnection, bases: &[Basis]) -> Result<bool, sqlx::Error> {
    let Some(Sql { text, args, .. }) = closings_after(Dialect::Postgres, bases) else { return Ok(true) };
    // A statement of its own: the next one sees what was committed while this one waited.
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(LOCK).execute(&mut *connection).await?;
    let closings: Vec<(i64, i64)> = bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(connection).await?;
    Ok(bases.iter().all(|basis| basis.holds(&closings)))
}

/// Nothing is released from here on until the transaction ends.
pub(super) async fn lock_postgres(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(connection).await.map(drop)
}

fn closings_after(dialect: Dialect, bases: &[Basis]) -> Option<Sql> {
    let since = bases.iter().map(|basis| basis.since).min()?;
    let mut sql = Sql::new(dialect);
    sql.push("SELECT number, patient FROM closing WHERE number > ").int(since);
    Some(sql)
}

/// The statement that notes that something was closed of these patients.
pub(super) fn note(dialect: Dialect, patients: &BTreeSet<ResourceKey>) -> Option<Sql> {
    if patients.is_empty() {
        return None;
    }
    let at = now();
    let mut sql = Sql::new(dialect);
    sql.push("INSERT INTO closing (at, patient) VALUES ");
    sql.join(patients, ", ", |sql, patient| {
        sql.push("(").literal(at).push(", ").literal(*patient).push(")");
    });
    Some(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_until_something_is_closed_that_it_hinges_on() {
        let of_some = Basis { since: 5, patients: Some([1, 2].into()) };
        let of_all = Basis { since: 5, patients: None };
        for (closings, some, all) in [
            (&[][..], true, true),
            (&[(5, 1), (3, EVERYBODY)], true, true),
            (&[(6, 3)], true, false),
            (&[(6, 3), (7, 2)], false, false),
            (&[(6, EVERYBODY)], false, false),
        ] {
            assert_eq!((of_some.holds(closings), of_all.holds(closings)), (some, all), "{closings:?}");
        }
    }
}
