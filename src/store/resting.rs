//! What rules rest on in the terminology: the members of the value sets that they name, as clauses that all rules share.
//!
//! They are worked out from the terminology in memory, which other processes change too. So a unit says as of which number of changes it worked them
//! out, and is stale when that is not the database's number any more; a unit that changes the terminology counts on.

use super::api::VERSION;
use super::sql::{Dialect, Sql, bind_all};
use super::write::Resting;
use super::{Store, Stored, TypeCode};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

impl Store {
    /// How often CodeSystems and ValueSets changed.
    pub async fn terminology_number(&self) -> Result<i64, sqlx::Error> {
        Ok(self.integers(number(self.dialect())).await?.first().copied().unwrap_or(0))
    }

    /// The value sets that rules name, or named once.
    pub async fn rule_sets(&self) -> Result<Vec<String>, sqlx::Error> {
        const TEXT: &str = "SELECT url FROM rule_set ORDER BY url";
        match self {
            Store::Sqlite(db) => sqlx::query_scalar(TEXT).fetch_all(&db.read).await,
            Store::Postgres(db) => sqlx::query_scalar(TEXT).fetch_all(&db.pool).await,
        }
    }

    /// The digest of what everything that is stored is labelled by; empty: nobody knows.
    pub async fn labelled_by(&self) -> Result<String, sqlx::Error> {
        const TEXT: &str = "SELECT digest FROM labelled WHERE id = 1";
        match self {
            Store::Sqlite(db) => sqlx::query_scalar(TEXT).fetch_one(&db.read).await,
            Store::Postgres(db) => sqlx::query_scalar(TEXT).fetch_one(&db.pool).await,
        }
    }

    pub async fn set_labelled_by(&self, digest: &str) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE labelled SET digest = ").str(digest).push(" WHERE id = 1");
        self.execute(sql).await.map(drop)
    }

    /// The resources of a type that changed at `since` or later, deleted ones too, by time and key after `after`; at most `limit`. For lango's own work:
    /// no scope.
    pub async fn changed_since(
        &self,
        type_code: TypeCode,
        since: Micros,
        after: (Micros, i64),
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE type = ").literal(i64::from(type_code));
        sql.push(" AND version > 0 AND updated >= ")
            .int(since.max(after.0))
            .push(" AND (updated, key) > (")
            .int(after.0)
            .push(", ")
            .int(after.1);
        sql.push(") ORDER BY updated, key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }
}

fn number(dialect: Dialect) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("SELECT number FROM terminology WHERE id = 1");
    sql
}

pub(super) async fn hold_sqlite(connection: &mut SqliteConnection, resting: &Resting) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar(AssertSqlSafe(number(Dialect::Sqlite).text)).fetch_one(connection).await?;
    Ok(found == resting.number)
}

pub(super) async fn count_sqlite(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE terminology SET number = number + 1 WHERE id = 1").execute(connection).await.map(drop)
}

/// Holds the number until the transaction ends, and counts on if the unit changes the terminology.
pub(super) async fn hold_postgres(connection: &mut PgConnection, resting: &Resting) -> Result<bool, sqlx::Error> {
    let mut sql = Sql::new(Dialect::Postgres);
    if resting.changes {
        sql.push("UPDATE terminology SET number = number + 1 WHERE id = 1 AND number = ").int(resting.number).push(" RETURNING number");
    } else {
        sql.push("SELECT number FROM terminology WHERE id = 1 AND number = ").int(resting.number).push(" FOR SHARE");
    }
    let Sql { text, args, .. } = sql;
    let held: Option<i64> = bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_optional(connection).await?;
    Ok(held.is_some())
}
