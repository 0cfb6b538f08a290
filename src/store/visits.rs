//! What each visit's lists last made: the memory by which a list that comes again withdraws what it makes no longer.
//!
//! A row is written in the transaction of the resources that it speaks of, and names the revision that it was made from:
//! when another submission of the visit was quicker, the unit is stale.

use super::api::Store;
use super::sql::{Arg, Dialect, Sql, bind_all};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::HashMap;

/// Rows per statement.
const CHUNK: usize = 200;

/// One visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    pub id: Box<str>,
    /// As read: the revision that a change is made from. 0: there is no row yet.
    pub revision: i64,
    /// Key of the newest submission that spoke of the visit.
    pub submission: i64,
    /// JSON; this room only keeps it.
    pub lists: String,
}

impl Store {
    /// The rows of these visits by id; those that have none are left out. For the write path.
    pub async fn visits(&self, ids: &[&str]) -> Result<HashMap<Box<str>, Visit>, sqlx::Error> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let Sql { text, args, .. } = select(self.dialect(), "id, revision, submission, lists", chunk.iter().copied());
            type Columns = (String, i64, i64, String);
            let rows: Vec<Columns> = match self {
                Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
                Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?,
            };
            found.extend(rows.into_iter().map(|(id, revision, submission, lists)| {
                let id: Box<str> = id.into();
                (id.clone(), Visit { id, revision, submission, lists })
            }));
        }
        Ok(found)
    }
}

/// Whether all rows still are as they were when the changes were made.
pub(super) async fn hold_sqlite(connection: &mut SqliteConnection, visits: &[Visit]) -> Result<bool, sqlx::Error> {
    for chunk in visits.chunks(CHUNK) {
        let Sql { text, args, .. } = select(Dialect::Sqlite, "id, revision", chunk.iter().map(|visit| &*visit.id));
        let rows = bind_all!(sqlx::query(AssertSqlSafe(text)), args).fetch_all(&mut *connection).await?;
        let known: HashMap<String, i64> =
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?;
        if chunk.iter().any(|visit| known.get(&*visit.id).copied().unwrap_or(0) != visit.revision) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) async fn write_sqlite(connection: &mut SqliteConnection, visits: &[Visit]) -> Result<(), sqlx::Error> {
    for chunk in visits.chunks(CHUNK) {
        let Sql { text, args, .. } = upsert(Dialect::Sqlite, chunk);
        bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Gives whether all rows were as they were when the changes were made; when not, the transaction must be given up.
pub(super) async fn write_postgres(connection: &mut PgConnection, visits: &[Visit]) -> Result<bool, sqlx::Error> {
    // Rows are locked in one order.
    let mut visits: Vec<Visit> = visits.to_vec();
    visits.sort_by(|a, b| a.id.cmp(&b.id));
    for chunk in visits.chunks(CHUNK) {
        let Sql { text, args, .. } = upsert(Dialect::Postgres, chunk);
        let done = bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *connection).await?;
        if done.rows_affected() != chunk.len() as u64 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn select<'a>(dialect: Dialect, columns: &str, ids: impl Iterator<Item = &'a str>) -> Sql {
    let ids: Vec<&str> = ids.collect();
    let mut sql = Sql::new(dialect);
    sql.push("SELECT ").push(columns).push(" FROM visit WHERE id IN (");
    sql.join(&ids, ", ", |sql, id| {
        sql.str(id);
    });
    sql.push(")");
    sql
}

fn upsert(dialect: Dialect, visits: &[Visit]) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("INSERT INTO visit (id, revision, submission, lists) VALUES ");
    sql.join(visits, ", ", |sql, visit| {
        sql.push("(").str(&visit.id).push(", ").int(visit.revision.saturating_add(1)).push(", ").int(visit.submission);
        sql.push(", ").bind(Arg::Text(visit.lists.clone())).push(")");
    });
    sql.push(" ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, submission = excluded.submission, lists = excluded.lists");
    sql.push(" WHERE visit.revision = excluded.revision - 1");
    sql
}
