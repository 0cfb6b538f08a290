//! What facilities sent, kept byte for byte, and the codes that no map knew.

use super::api::Store;
use super::sql::{Arg, Sql, bind_all};
use super::{FacilityKey, Scope, TypeCode, compile};
use crate::fhir::time::{Micros, now};
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

/// A kept submission.
#[derive(Clone, Debug)]
pub struct Submission {
    pub key: i64,
    pub kind: String,
    pub owner: FacilityKey,
    pub received: Micros,
    pub payload: Vec<u8>,
}

/// A code that no ConceptMap knew, in one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    pub map: String,
    pub system: String,
    pub code: String,
    pub display: String,
    pub path: String,
    pub count: i64,
}

/// The same, added up over submissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmappedTotal {
    pub facility: Option<String>,
    pub map: String,
    pub system: String,
    pub code: String,
    pub display: String,
    pub path: String,
    pub count: i64,
}

impl Store {
    /// Keeps a payload; durable when this returns. Answers its key.
    pub async fn keep_submission(&self, kind: &str, owner: FacilityKey, payload: &[u8]) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("INSERT INTO submission (digest, kind, owner, received, state, records, rejected, payload) VALUES (");
        sql.bind(Arg::Bytes(blake3::hash(payload).as_bytes().to_vec())).push(", ").str(kind).push(", ").int(owner).push(", ").int(now());
        sql.push(", 'received', 0, 0, ").bind(Arg::Bytes(payload.to_vec())).push(") RETURNING key");
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_one(&db.write).await,
            Store::Postgres(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_one(&db.pool).await,
        }
    }

    /// Says what became of a submission: `done` or `refused`, and whose it is, and replaces its list of unmapped codes.
    pub async fn close_submission(
        &self,
        key: i64,
        owner: FacilityKey,
        state: &str,
        records: i64,
        rejected: i64,
        unmapped: &[Unmapped],
    ) -> Result<(), sqlx::Error> {
        let dialect = self.dialect();
        let mut delete = Sql::new(dialect);
        // The same bytes sent again say the same once more; they are counted once.
        delete.push("DELETE FROM unmapped WHERE submission IN (SELECT s.key FROM submission s JOIN submission me ON me.digest = s.digest ");
        delete.push("WHERE me.key = ").int(key).push(" AND s.owner = ").int(owner).push(" AND s.key <= me.key) OR submission = ").int(key);
        let mut update = Sql::new(dialect);
        update
            .push("UPDATE submission SET state = ")
            .str(state)
            .push(", records = ")
            .int(records)
            .push(", rejected = ")
            .int(rejected)
            .push(", owner = ")
            .int(owner);
        update.push(" WHERE key = ").int(key);
        let mut statements = vec![delete, update];
        for chunk in unmapped.chunks(100) {
            let mut insert = Sql::new(dialect);
            insert.push("INSERT INTO unmapped (submission, owner, map, system, code, display, path, count) VALUES ");
            insert.join(chunk, ", ", |sql, row| {
                sql.push("(").int(key).push(", ").int(owner).push(", ").str(&row.map).push(", ").str(&row.system).push(", ").str(&row.code);
                sql.push(", ").str(&row.display).push(", ").str(&row.path).push(", ").int(row.count).push(")");
            });
            insert.push(" ON CONFLICT (submission, map, system, code, path) DO UPDATE SET count = unmapped.count + excluded.count");
            statements.push(insert);
        }
        macro_rules! run {
            ($transaction:expr) => {{
                let mut transaction = $transaction;
                for Sql { text, args, .. } in statements {
                    bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }};
        }
        match self {
            Store::Sqlite(db) => run!(db.write.begin_with("BEGIN IMMEDIATE").await?),
            Store::Postgres(db) => run!(db.pool.begin().await?),
        }
    }

    /// Facilities that ever sent a payload, a zero report too, or own a resource of this type.
    pub async fn contributors(&self, type_code: TypeCode) -> Result<BTreeSet<FacilityKey>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT owner FROM submission WHERE state = 'done' UNION SELECT DISTINCT owner FROM resource WHERE live = 1 AND type = ");
        sql.literal(i64::from(type_code));
        Ok(self.integers(sql).await?.into_iter().collect())
    }

    /// Kept submissions of these kinds after `after`, oldest first: what replay walks through. `only_unfinished`: those that a crash interrupted.
    pub async fn submissions(&self, kinds: &[&str], only_unfinished: bool, after: i64, limit: u32) -> Result<Vec<Submission>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key, kind, owner, received, payload FROM submission WHERE key > ").int(after);
        sql.push(" AND kind IN (");
        sql.join(kinds, ", ", |sql, kind| {
            sql.str(kind);
        });
        sql.push(")");
        if only_unfinished {
            sql.push(" AND state = 'received'");
        }
        sql.push(" ORDER BY key LIMIT ").literal(i64::from(limit));
        let Sql { text, args, .. } = sql;
        type Columns = (i64, String, i64, i64, Vec<u8>);
        let rows: Vec<Columns> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?,
        };
        Ok(rows.into_iter().map(|(key, kind, owner, received, payload)| Submission { key, kind, owner, received, payload }).collect())
    }

    /// Unmapped codes with how often each facility sent them, the commonest first.
    pub async fn unmapped(&self, scope: &Scope, limit: u32) -> Result<Vec<UnmappedTotal>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push(
            "SELECT min(f.code), u.map, u.system, u.code, max(u.display), min(u.path), CAST(sum(u.count) AS BIGINT) FROM \
             (SELECT map, system, code, display, path, count, owner, -1 AS patient FROM unmapped) u \
             LEFT JOIN facility f ON f.key = u.owner WHERE 1 = 1",
        );
        compile::scope_condition(&mut sql, "u", scope);
        sql.push(" GROUP BY u.owner, u.map, u.system, u.code ORDER BY 7 DESC, u.map, u.code LIMIT ").literal(i64::from(limit));
        let Sql { text, args, .. } = sql;
        type Columns = (Option<String>, String, String, String, String, String, i64);
        let rows: Vec<Columns> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?,
        };
        let total =
            |(facility, map, system, code, display, path, count)| UnmappedTotal { facility, map, system, code, display, path, count };
        Ok(rows.into_iter().map(total).collect())
    }
}
