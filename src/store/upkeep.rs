//! What keeps the database from growing for nothing: index rows that ended and that no page can ask for are removed, and
//! SQLite's log is cut when it has grown and its cache given back when nothing is written.
//!
//! A page sees the moment at which its first page was read, at most [`cursor::LIFETIME`](crate::search::cursor::LIFETIME) ago.
//! Transactions have numbers, not times, so now and then the table `moment` notes below which number all had ended. A row that
//! ended below the number of a moment older than [`KEEP`] is seen by no page. It is removed in small transactions between the
//! writes of others; several processes may do so at once. Versions stay: they are the record's history.

use super::rows::{TABLES, Table};
use super::sql::{Dialect, Sql};
use super::{Store, sqlite};
use crate::fhir::time::{Micros, now};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const HOUR: Micros = 3_600_000_000;
/// How long an ended row is kept: a page's life, and an hour for clocks that differ and requests that take long.
pub const KEEP: Micros = 25 * HOUR;
/// Between two notes of the moment, at least.
const NOTE: Micros = HOUR;
/// Rows removed in one transaction: a few milliseconds in which others wait.
const AT_ONCE: i64 = 1_000;
/// Between two looks.
const EVERY: Duration = Duration::from_secs(20);
/// Between two sweeps.
const SWEEP: Micros = HOUR / 6;

impl Store {
    /// Runs until `shutdown`.
    pub async fn upkeep(&self, shutdown: CancellationToken) {
        let mut swept = Micros::MIN;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Store::Sqlite(db) = self {
                if let Err(error) = db.cut_log(sqlite::LONG_LOG).await {
                    tracing::warn!(%error, "the write-ahead log could not be cut");
                }
                // Fails only where every statement does, and those are reported.
                db.rest().await.ok();
            }
            if now().saturating_sub(swept) < SWEEP {
                continue;
            }
            swept = now();
            if let Err(error) = self.forget_closings().await {
                tracing::warn!(%error, "old closings were not removed");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                removed = self.sweep(swept) => match removed {
                    Ok(0) => {}
                    Ok(rows) => tracing::info!(rows, "removed index rows that had ended"),
                    Err(error) => tracing::warn!(%error, "index rows that had ended were not removed"),
                },
            }
        }
    }

    /// Notes the moment `now` and removes the index rows that ended [`KEEP`] before it; how many.
    pub async fn sweep(&self, now: Micros) -> Result<u64, sqlx::Error> {
        let dialect = self.dialect();
        let mut latest = Sql::new(dialect);
        latest.push("SELECT at FROM moment WHERE at > ").int(now.saturating_sub(NOTE)).push(" LIMIT 1");
        if self.integers(latest).await?.is_empty() {
            // Read before it is noted, so that all below it have ended by then.
            let ended = self.all_ended_below().await?;
            let mut note = Sql::new(dialect);
            note.push("INSERT INTO moment (at, txn) VALUES (").int(now).push(", ").int(ended).push(") ON CONFLICT (at) DO NOTHING");
            self.execute(note).await?;
        }
        let mut old = Sql::new(dialect);
        old.push("SELECT txn FROM moment WHERE at <= ").int(now.saturating_sub(KEEP)).push(" ORDER BY at DESC LIMIT 1");
        let Some(below) = self.integers(old).await?.first().copied() else { return Ok(0) };
        let mut removed = 0;
        for table in &TABLES {
            loop {
                let rows = self.execute(removal(dialect, table, below)).await?;
                removed += rows;
                // Fewer than asked for may mean that another process took the same rows.
                if rows == 0 {
                    break;
                }
            }
        }
        let mut forget = Sql::new(dialect);
        forget.push("DELETE FROM moment WHERE at < (SELECT max(at) FROM moment WHERE at <= ").int(now.saturating_sub(KEEP)).push(")");
        self.execute(forget).await?;
        Ok(removed)
    }

    /// The number below which every transaction has ended.
    async fn all_ended_below(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        match self {
            Store::Sqlite(_) => sql.push("SELECT txn + 1 FROM counter WHERE id = 1"),
            Store::Postgres(db) => sql.push("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + ").int(db.txn_base()),
        };
        self.integers(sql).await?.first().copied().ok_or(sqlx::Error::RowNotFound)
    }
}

/// Removes the first [`AT_ONCE`] rows that ended below `below`, and those of the same transaction and parameter as the last of them.
fn removal(dialect: Dialect, table: &Table, below: i64) -> Sql {
    let mut sql = Sql::new(dialect);
    let name = table.name;
    sql.push(&format!("DELETE FROM {name} WHERE until > 0 AND (until, param) <= (SELECT until, param FROM "));
    sql.push(&format!("(SELECT until, param FROM {name} WHERE until > 0 AND until < ")).int(below);
    sql.push(" ORDER BY until, param LIMIT ").literal(AT_ONCE).push(") x ORDER BY until DESC, param DESC LIMIT 1)");
    sql
}
