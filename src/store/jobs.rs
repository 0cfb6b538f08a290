//! The job table: enqueue inside a transaction, claim with a lease and a fencing token, end only with that token.

use super::api::{ClaimedJob, JobEnd, JobRow, Store};
use super::sql::{Sql, bind_all};
use super::write::NewJob;
use crate::fhir::time::now;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};
use std::time::Duration;

const ENQUEUE_SQLITE: &str = "INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created) \
    VALUES (?, ?, ?, 'waiting', 0, ?, 0, 0, ?) \
    ON CONFLICT (kind, dedup_key) WHERE state = 'waiting' AND dedup_key IS NOT NULL DO UPDATE SET payload = excluded.payload, run_at = excluded.run_at";
const ENQUEUE_POSTGRES: &str = "INSERT INTO job (kind, payload, dedup_key, state, attempt, run_at, lease_until, token, created) \
    VALUES ($1, $2, $3, 'waiting', 0, $4, 0, 0, $5) \
    ON CONFLICT (kind, dedup_key) WHERE state = 'waiting' AND dedup_key IS NOT NULL DO UPDATE SET payload = excluded.payload, run_at = excluded.run_at";

pub(super) async fn enqueue_sqlite(connection: &mut SqliteConnection, job: &NewJob) -> Result<(), sqlx::Error> {
    let query = sqlx::query(ENQUEUE_SQLITE).bind(&job.kind).bind(job.payload.to_string()).bind(&job.dedup_key);
    query.bind(job.run_at).bind(now()).execute(connection).await?;
    Ok(())
}

pub(super) async fn enqueue_postgres(connection: &mut PgConnection, job: &NewJob) -> Result<(), sqlx::Error> {
    let query = sqlx::query(ENQUEUE_POSTGRES).bind(&job.kind).bind(job.payload.to_string()).bind(&job.dedup_key);
    query.bind(job.run_at).bind(now()).execute(connection).await?;
    Ok(())
}

impl Store {
    /// Takes up to `limit` due jobs of these kinds, for `lease`. A job whose lease ended without a word is due again.
    pub async fn claim_jobs(&self, kinds: &[&str], limit: u32, lease: Duration) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let now = now();
        let until = now.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX));
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE job SET state = 'running', attempt = attempt + 1, token = token + 1, lease_until = ").int(until);
        sql.push(" WHERE id IN (SELECT id FROM job WHERE kind IN (");
        sql.join(kinds, ", ", |sql, kind| {
            sql.str(kind);
        });
        sql.push(") AND ((state = 'waiting' AND run_at <= ").int(now).push(") OR (state = 'running' AND lease_until <= ").int(now);
        sql.push(")) ORDER BY run_at, id LIMIT ").literal(i64::from(limit));
        if let Store::Postgres(_) = self {
            sql.push(" FOR UPDATE SKIP LOCKED");
        }
        sql.push(") RETURNING id, kind, payload, attempt, token");
        let rows = self.jobs_returning(sql).await?;
        Ok(rows
            .into_iter()
            .map(|(id, kind, payload, attempt, token)| ClaimedJob { id, kind, payload: json(&payload), attempt, token })
            .collect())
    }

    async fn jobs_returning(&self, sql: Sql) -> Result<Vec<(i64, String, String, i64, i64)>, sqlx::Error> {
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.write).await,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await,
        }
    }

    /// Holds a running job for `lease` from now; `false` when the lease was lost and nothing changed.
    pub async fn renew_job(&self, id: i64, token: i64, lease: Duration) -> Result<bool, sqlx::Error> {
        let until = now().saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX));
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE job SET lease_until = ").int(until).push(" WHERE state = 'running' AND id = ").int(id);
        sql.push(" AND token = ").int(token);
        Ok(self.execute(sql).await? > 0)
    }

    /// Ends a try; `false` when the lease was lost and nothing changed.
    pub async fn end_job(&self, id: i64, token: i64, end: JobEnd) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE job SET ");
        match end {
            JobEnd::Done { result } => sql.push("state = 'done', error = NULL, result = ").str(&result.to_string()),
            JobEnd::Retry { run_at, error } => sql.push("state = 'waiting', run_at = ").int(run_at).push(", error = ").str(&error),
            JobEnd::Dead { error, result } => sql.push("state = 'dead', error = ").str(&error).push(", result = ").str(&result.to_string()),
        };
        sql.push(", lease_until = 0 WHERE state = 'running' AND id = ").int(id).push(" AND token = ").int(token);
        match self.execute(sql).await {
            Ok(changed) => Ok(changed > 0),
            // A newer job with the same key waits already: this try's payload is out of date, and the newer one replaces it.
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                let mut sql = Sql::new(self.dialect());
                sql.push(
                    "UPDATE job SET state = 'dead', error = 'replaced by a newer job', lease_until = 0 WHERE state = 'running' AND id = ",
                );
                sql.int(id).push(" AND token = ").int(token);
                Ok(self.execute(sql).await? > 0)
            }
            Err(error) => Err(error),
        }
    }

    /// Jobs, newest first.
    pub async fn jobs(&self, kind: Option<&str>, state: Option<&str>, limit: u32) -> Result<Vec<JobRow>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT id, kind, payload, state, attempt, run_at, created, error, result FROM job WHERE 1 = 1");
        if let Some(kind) = kind {
            sql.push(" AND kind = ").str(kind);
        }
        if let Some(state) = state {
            sql.push(" AND state = ").str(state);
        }
        sql.push(" ORDER BY id DESC LIMIT ").literal(i64::from(limit));
        type Columns = (i64, String, String, String, i64, i64, i64, Option<String>, Option<String>);
        let Sql { text, args, .. } = sql;
        let rows: Vec<Columns> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?,
        };
        let row = |(id, kind, payload, state, attempt, run_at, created, error, result): Columns| JobRow {
            id,
            kind,
            payload: json(&payload),
            state,
            attempt,
            run_at,
            created,
            error,
            result: result.as_deref().map(json),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Makes a dead or waiting job due now; `false` when there is none such.
    pub async fn requeue_job(&self, id: i64) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE job SET state = 'waiting', attempt = 0, run_at = ").int(now());
        sql.push(" WHERE state IN ('waiting', 'dead') AND id = ").int(id);
        Ok(self.execute(sql).await? > 0)
    }

    /// Runs one writing statement outside any unit; the number of rows that it changed.
    pub(crate) async fn execute(&self, sql: Sql) -> Result<u64, sqlx::Error> {
        let Sql { text, args, .. } = sql;
        Ok(match self {
            Store::Sqlite(db) => bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&db.write).await?.rows_affected(),
            Store::Postgres(db) => bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&db.pool).await?.rows_affected(),
        })
    }
}

/// The table holds only JSON that lango wrote.
fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}
