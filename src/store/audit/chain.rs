//! Where the chain grows.
//!
//! SQLite has one writer at a time, so events are sealed where they are written: the end of the chain is read inside the transaction that
//! goes on from it, or the one statement that writes says from which end it goes on and writes nothing when another process moved it.
//! PostgreSQL's writers do not wait for each other: their events go to `audit_new`, and are moved into the chain, one process at a time, by
//! [`Store::seal`]. On SQLite that table holds only what an earlier version left there; it is sealed when the database is opened.

use super::super::sql::{Sql, bind_all};
use super::super::{ResourceKey, Store};
use super::{AuditRow, GENESIS, NewRow, hash_of};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, SqliteConnection, SqlitePool};

/// Rows per INSERT.
const CHUNK: usize = 100;
/// Rows of one statement that stands for a transaction.
pub(in crate::store) const MOST: usize = 256;
/// Events sealed in one transaction.
const SEAL: i64 = 2_000;
/// Serialises sealing on PostgreSQL: a number of its own among advisory locks.
const SEAL_LOCK: i64 = 0x6c61_6e67_6f61_7564;
/// The newest row, and what stands for the rows that were removed.
const END: &str = "SELECT position, hash FROM audit ORDER BY position DESC LIMIT 1";
/// Up to which position events are AuditEvents.
pub(in crate::store) const PUBLISHED: &str = "UPDATE audit_published SET position = $1 WHERE position < $1";
const FLOOR: &str = "SELECT position, hash FROM audit_floor WHERE id = 1";

/// The end of the chain, from which the next row goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct End {
    position: i64,
    hash: Vec<u8>,
}

/// A row's place and hash.
struct Place {
    position: i64,
    hash: Vec<u8>,
}

impl End {
    /// As of the transaction that the connection is in.
    pub async fn read(connection: &mut SqliteConnection) -> Result<End, sqlx::Error> {
        let newest = sqlx::query_as(END).fetch_optional(&mut *connection).await?;
        let removed = if newest.is_none() { sqlx::query_as(FLOOR).fetch_optional(connection).await? } else { None };
        Ok(End::of(newest, removed))
    }

    fn of(newest: Option<(i64, Vec<u8>)>, removed: Option<(i64, Vec<u8>)>) -> End {
        let (position, hash) = newest.or(removed).unwrap_or((0, GENESIS.to_vec()));
        End { position, hash }
    }

    /// The place of the next row, which is the end from then on.
    fn take(&mut self, (at, owner, patient, event): &NewRow) -> Place {
        self.position = self.position.saturating_add(1);
        self.hash = hash_of(&self.hash, [self.position, *at, *owner, *patient], event).to_vec();
        Place { position: self.position, hash: self.hash.clone() }
    }
}

/// Adds rows to the chain within a transaction, from `end` on.
pub(in crate::store) async fn extend(connection: &mut SqliteConnection, end: &mut End, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    for chunk in rows.chunks(CHUNK) {
        let mut query =
            sqlx::query(AssertSqlSafe(format!("INSERT INTO audit (position, at, owner, patient, event, hash) {}", values(chunk.len()))));
        for row in chunk {
            let place = end.take(row);
            query = query.bind(place.position).bind(row.0).bind(row.1).bind(row.2).bind(row.3.as_str()).bind(place.hash);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds at most [`MOST`] rows to the chain by one statement, if it still ends at `end` and nothing was closed after `since`; whether it did.
/// `end` is where the chain ends then.
pub(in crate::store) async fn append(pool: &SqlitePool, end: &mut End, rows: Vec<NewRow>, since: Option<i64>) -> Result<bool, sqlx::Error> {
    let text = format!(
        "INSERT INTO audit (position, at, owner, patient, event, hash) SELECT * FROM ({}) \
         WHERE coalesce((SELECT max(position) FROM audit), (SELECT position FROM audit_floor WHERE id = 1), 0) = ? \
         AND NOT EXISTS (SELECT 1 FROM closing WHERE number > ?)",
        values(rows.len())
    );
    let (count, before) = (rows.len() as u64, end.position);
    let mut query = sqlx::query(AssertSqlSafe(text));
    for row in rows {
        let place = end.take(&row);
        let (at, owner, patient, event) = row;
        query = query.bind(place.position).bind(at).bind(owner).bind(patient).bind(event).bind(place.hash);
    }
    let done = query.bind(before).bind(since.unwrap_or(i64::MAX)).execute(pool).await?;
    Ok(done.rows_affected() == count)
}

fn values(rows: usize) -> String {
    let mut text = String::with_capacity(7 + rows * 14);
    text.push_str("VALUES ");
    for row in 0..rows {
        text.push_str(if row == 0 { "(?,?,?,?,?,?)" } else { ",(?,?,?,?,?,?)" });
    }
    text
}

/// The same as [`extend`] where the end is not known.
async fn write_sqlite(connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    let mut end = End::read(&mut *connection).await?;
    extend(connection, &mut end, rows).await
}

/// Seals what an earlier version left unsealed.
pub(in crate::store) async fn seal_left_over(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    loop {
        if sqlx::query("SELECT entry FROM audit_new LIMIT 1").fetch_optional(pool).await?.is_none() {
            return Ok(());
        }
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        let waiting: Vec<(i64, i64, i64, i64, String)> =
            sqlx::query_as("SELECT entry, at, owner, patient, event FROM audit_new ORDER BY entry LIMIT ?")
                .bind(SEAL)
                .fetch_all(&mut *transaction)
                .await?;
        let last = waiting.last().map_or(0, |row| row.0);
        let rows: Vec<NewRow> = waiting.into_iter().map(|(_, at, owner, patient, event)| (at, owner, patient, event)).collect();
        write_sqlite(&mut transaction, &rows).await?;
        sqlx::query("DELETE FROM audit_new WHERE entry <= ?").bind(last).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
}

pub(in crate::store) async fn write_postgres(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let numbers = |value: fn(&NewRow) -> i64| rows.iter().map(value).collect::<Vec<i64>>();
    sqlx::query(
        "INSERT INTO audit_new (at, owner, patient, event) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])",
    )
    .bind(numbers(|row| row.0))
    .bind(numbers(|row| row.1))
    .bind(numbers(|row| row.2))
    .bind(rows.iter().map(|row| row.3.as_str()).collect::<Vec<&str>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Seals the oldest events that wait, in one transaction; whether there may be more. The rows stay where they are: only their places and hashes go
/// back to the server.
async fn seal_some(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // A statement of its own: the next ones see what was committed while this one waited.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SEAL_LOCK).execute(&mut *transaction).await?;
    let newest = sqlx::query_as(END).fetch_optional(&mut *transaction).await?;
    let removed = if newest.is_none() { sqlx::query_as(FLOOR).fetch_optional(&mut *transaction).await? } else { None };
    let mut end = End::of(newest, removed);
    let waiting: Vec<(i64, i64, i64, i64, String)> =
        sqlx::query_as("SELECT entry, at, owner, patient, event FROM audit_new ORDER BY entry LIMIT $1")
            .bind(SEAL)
            .fetch_all(&mut *transaction)
            .await?;
    let count = waiting.len();
    let (mut entries, mut positions, mut hashes) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
    for (entry, at, owner, patient, event) in waiting {
        let place = end.take(&(at, owner, patient, event));
        entries.push(entry);
        positions.push(place.position);
        hashes.push(place.hash);
    }
    sqlx::query(
        "WITH moved AS (DELETE FROM audit_new n USING unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS u(entry, position, hash) \
         WHERE n.entry = u.entry RETURNING u.position, n.at, n.owner, n.patient, n.event, u.hash) \
         INSERT INTO audit (position, at, owner, patient, event, hash) SELECT position, at, owner, patient, event, hash FROM moved",
    )
    .bind(entries)
    .bind(positions)
    .bind(hashes)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(count >= SEAL as usize)
}

/// One statement and its audit in one transaction, on either database.
macro_rules! recorded {
    ($transaction:expr, $sql:expr, $rows:expr, $write:ident) => {{
        let mut transaction = $transaction;
        let Sql { text, args, .. } = $sql;
        let changed = bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *transaction).await?.rows_affected();
        if changed > 0 {
            $write(&mut *transaction, $rows).await?;
            transaction.commit().await?;
        }
        changed
    }};
}

impl Store {
    /// Carries out one statement on a table that holds no resources, with the events that tell of it, which name no Patient; the number of
    /// rows that it changed. When it changed none nothing is recorded.
    pub(crate) async fn change_recorded(&self, sql: Sql, rows: &[AuditRow]) -> Result<u64, sqlx::Error> {
        let rows: Vec<NewRow> = rows.iter().map(|row| (row.at, row.owner, 0, row.event.clone())).collect();
        Ok(match self {
            Store::Sqlite(db) => recorded!(db.write.begin_with("BEGIN IMMEDIATE").await?, sql, &rows, write_sqlite),
            Store::Postgres(db) => recorded!(db.pool.begin().await?, sql, &rows, write_postgres),
        })
    }

    /// Seals every event that was committed before this was called; whatever process recorded it.
    pub async fn seal(&self) -> Result<(), sqlx::Error> {
        let Store::Postgres(db) = self else { return Ok(()) };
        while self.has_unsealed().await? && seal_some(&db.pool).await? {}
        Ok(())
    }

    /// Whether events wait to be sealed. Asks without a write lock.
    pub async fn has_unsealed(&self) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT entry FROM audit_new LIMIT 1");
        Ok(!self.integers(sql).await?.is_empty())
    }
}

/// Rows of `audit_about`, sorted, and that they are all of those up to `position`, in one transaction.
pub(super) async fn note_patients(store: &Store, pairs: &[(ResourceKey, i64)], position: i64) -> Result<(), sqlx::Error> {
    const NOTED: &str = "UPDATE audit_published SET indexed = $1 WHERE indexed < $1";
    match store {
        Store::Sqlite(db) => {
            let mut transaction = db.write.begin_with("BEGIN IMMEDIATE").await?;
            for chunk in pairs.chunks(CHUNK) {
                let rows = vec!["(?,?)"; chunk.len()].join(",");
                let text = format!("INSERT INTO audit_about (patient, position) VALUES {rows} ON CONFLICT DO NOTHING");
                let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, pair| query.bind(pair.0).bind(pair.1));
                query.execute(&mut *transaction).await?;
            }
            sqlx::query(NOTED).bind(position).execute(&mut *transaction).await?;
            transaction.commit().await
        }
        Store::Postgres(db) => {
            let mut transaction = db.pool.begin().await?;
            let (patients, positions): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
            sqlx::query(
                "INSERT INTO audit_about (patient, position) SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING",
            )
            .bind(patients)
            .bind(positions)
            .execute(&mut *transaction)
            .await?;
            sqlx::query(NOTED).bind(position).execute(&mut *transaction).await?;
            transaction.commit().await
        }
    }
}
