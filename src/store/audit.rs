//! The tables of the audit: events come in with the transaction of what they tell of, and are sealed into a chain soon after.
//!
//! `audit_new` takes events as fast as the writes themselves. [`Store::seal`] moves them to `audit`, one process at a time, and gives
//! each its place and a hash over the hash before it and everything that the row holds, so that no row can be changed, taken out or put
//! elsewhere without all later hashes being wrong. What only a copy kept elsewhere shows (the end cut off, the whole chain computed
//! anew) is for signed checkpoints ([`crate::access::audit`]). What an event says is that room's; here it is text.

use super::gate;
use super::sql::{Arg, Dialect, Sql, bind_all};
use super::{FacilityKey, ResourceKey, Scope, Store, TypeCode};
use crate::fhir::time::Micros;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};
use std::collections::{BTreeMap, HashMap};

/// Rows per INSERT.
const CHUNK: usize = 100;
/// Serialises sealing on PostgreSQL: a number of its own among advisory locks.
const SEAL_LOCK: i64 = 0x6c61_6e67_6f61_7564;

/// The value of the column `patient` of AuditEvents that lango wrote.
pub const AUDIT: ResourceKey = -3;
/// Among a scope's owners: whoever has it sees all AuditEvents. No resource is owned by it.
pub const AUDITOR: FacilityKey = -1;
/// Owns the events that nobody but the privacy officer sees. Whatever has a negative owner lango itself recorded.
pub const NOBODY: FacilityKey = -2;

/// Whose data an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Nobody,
    /// The Patient with this key.
    Key(ResourceKey),
    /// The Patient with this id, whom the same transaction writes or refers to.
    Id(Box<str>),
}

/// An event to be recorded.
#[derive(Clone, Debug)]
pub struct AuditRow {
    pub at: Micros,
    /// Who may see it besides the privacy officer.
    pub owner: FacilityKey,
    pub subject: Subject,
    /// JSON.
    pub event: String,
}

/// The same with its subject's key: `at, owner, patient, event`.
pub type NewRow = (i64, i64, i64, String);

/// An event in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Counts from 1.
    pub position: i64,
    pub at: Micros,
    pub owner: FacilityKey,
    /// Key of the Patient; 0: none.
    pub patient: ResourceKey,
    pub event: String,
    pub hash: Vec<u8>,
}

impl Sealed {
    /// What `hash` must be after `before`.
    pub fn expected(&self, before: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(before);
        for number in [self.position, self.at, self.owner, self.patient] {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(self.event.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// What stands before the first row.
pub const GENESIS: [u8; 32] = [0; 32];

/// A resource's place among owners and patients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub type_code: TypeCode,
    pub id: String,
    pub owner: FacilityKey,
    /// As in the table `resource`: 0 nobody's, negative: its contributor's alone.
    pub patient: ResourceKey,
}

pub(super) async fn write_sqlite(connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    for chunk in rows.chunks(CHUNK) {
        let Sql { text, args, .. } = insert(Dialect::Sqlite, chunk);
        bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *connection).await?;
    }
    Ok(())
}

pub(super) async fn write_postgres(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
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
    .bind(rows.iter().map(|row| row.3.clone()).collect::<Vec<String>>())
    .execute(connection)
    .await?;
    Ok(())
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
}

fn insert(dialect: Dialect, rows: &[NewRow]) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("INSERT INTO audit_new (at, owner, patient, event) VALUES ");
    sql.join(rows, ", ", |sql, (at, owner, patient, event)| {
        sql.push("(").int(*at).push(", ").int(*owner).push(", ").int(*patient).push(", ").str(event).push(")");
    });
    sql
}

type SealedColumns = (i64, i64, i64, i64, String, Vec<u8>);

fn sealed((position, at, owner, patient, event, hash): SealedColumns) -> Sealed {
    Sealed { position, at, owner, patient, event, hash }
}

/// One transaction of sealing on either database.
macro_rules! seal {
    ($transaction:expr, $dialect:expr, $most:expr) => {{
        let mut transaction = $transaction;
        let head: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT position, hash FROM audit ORDER BY position DESC LIMIT 1").fetch_optional(&mut *transaction).await?;
        let removed: Option<(i64, Vec<u8>)> = match &head {
            Some(_) => None,
            None => sqlx::query_as("SELECT position, hash FROM audit_floor WHERE id = 1").fetch_optional(&mut *transaction).await?,
        };
        let (mut position, mut hash) = head.or(removed).unwrap_or((0, GENESIS.to_vec()));
        let text = format!("SELECT entry, at, owner, patient, event FROM audit_new ORDER BY entry LIMIT {}", $most);
        let rows: Vec<(i64, i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(text)).fetch_all(&mut *transaction).await?;
        let count = rows.len();
        for chunk in rows.chunks(CHUNK) {
            let mut entries = Sql::new($dialect);
            entries.push("DELETE FROM audit_new WHERE entry IN (");
            entries.join(chunk, ", ", |sql, row| {
                sql.literal(row.0);
            });
            entries.push(")");
            let mut into = Sql::new($dialect);
            into.push("INSERT INTO audit (position, at, owner, patient, event, hash) VALUES ");
            into.join(chunk, ", ", |sql, (_, at, owner, patient, event)| {
                position += 1;
                let mut row = Sealed { position, at: *at, owner: *owner, patient: *patient, event: event.clone(), hash: Vec::new() };
                row.hash = row.expected(&hash).to_vec();
                hash.clone_from(&row.hash);
                sql.push("(").int(row.position).push(", ").int(row.at).push(", ").int(row.owner).push(", ").int(row.patient);
                sql.push(", ").bind(Arg::Text(row.event)).push(", ").bind(Arg::Bytes(row.hash)).push(")");
            });
            for Sql { text, args, .. } in [entries, into] {
                bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(count)
    }};
}

impl Store {
    /// Seals at most `most` waiting events, oldest first; how many. 0 also while another process does.
    pub async fn seal(&self, most: u32) -> Result<usize, sqlx::Error> {
        match self {
            Store::Sqlite(db) => seal!(db.write.begin_with("BEGIN IMMEDIATE").await?, Dialect::Sqlite, most),
            Store::Postgres(db) => {
                let mut transaction = db.pool.begin().await?;
                let mine: bool =
                    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(SEAL_LOCK).fetch_one(&mut *transaction).await?;
                if !mine {
                    return Ok(0);
                }
                seal!(transaction, Dialect::Postgres, most)
            }
        }
    }

    /// Whether events wait to be sealed. Asks without a write lock.
    pub async fn has_unsealed(&self) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT entry FROM audit_new LIMIT 1");
        Ok(!self.integers(sql).await?.is_empty())
    }

    /// The chain after `after`, at most `limit` rows.
    pub async fn sealed_after(&self, after: i64, limit: u32) -> Result<Vec<Sealed>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position, at, owner, patient, event, hash FROM audit WHERE position > ").int(after);
        sql.push(" ORDER BY position LIMIT ").literal(i64::from(limit));
        self.sealed(sql).await
    }

    /// The newest row.
    pub async fn sealed_head(&self) -> Result<Option<Sealed>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position, at, owner, patient, event, hash FROM audit ORDER BY position DESC LIMIT 1");
        Ok(self.sealed(sql).await?.pop())
    }

    /// Events about any of these Patients below `before`, newest first.
    pub async fn sealed_about(&self, patients: &[ResourceKey], before: i64, limit: u32) -> Result<Vec<Sealed>, sqlx::Error> {
        if patients.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position, at, owner, patient, event, hash FROM audit WHERE patient <> 0 AND patient IN (");
        sql.join(patients, ", ", |sql, key| {
            sql.literal(*key);
        });
        sql.push(") AND position < ").int(before).push(" ORDER BY position DESC LIMIT ").literal(i64::from(limit));
        self.sealed(sql).await
    }

    /// The newest row that was recorded before `at`, of those after which `keep` is not needed.
    pub async fn sealed_before(&self, at: Micros) -> Result<Option<Sealed>, sqlx::Error> {
        // Positions follow times but for seconds, so the first row that is young ends the old ones.
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position, at, owner, patient, event, hash FROM audit WHERE position < coalesce((SELECT min(position) FROM audit WHERE at >= ");
        sql.int(at).push("), 9223372036854775807) ORDER BY position DESC LIMIT 1");
        Ok(self.sealed(sql).await?.pop())
    }

    /// Removes the chain up to `last`, whose hash the next row continues from.
    pub async fn remove_sealed(&self, last: &Sealed) -> Result<u64, sqlx::Error> {
        let mut floor = Sql::new(self.dialect());
        floor.push("INSERT INTO audit_floor (id, position, hash) VALUES (1, ").int(last.position).push(", ");
        floor
            .bind(Arg::Bytes(last.hash.clone()))
            .push(") ON CONFLICT (id) DO UPDATE SET position = excluded.position, hash = excluded.hash");
        self.execute(floor).await?;
        let mut removal = Sql::new(self.dialect());
        removal.push("DELETE FROM audit WHERE position <= ").int(last.position);
        self.execute(removal).await
    }

    async fn sealed(&self, sql: Sql) -> Result<Vec<Sealed>, sqlx::Error> {
        let Sql { text, args, .. } = sql;
        let rows: Vec<SealedColumns> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        Ok(rows.into_iter().map(sealed).collect())
    }

    /// The signed checkpoints (position, kind, text) in order.
    pub async fn checkpoints(&self) -> Result<Vec<(i64, String, String)>, sqlx::Error> {
        const SQL: &str = "SELECT position, kind, signed FROM audit_checkpoint ORDER BY position, kind";
        match self {
            Store::Sqlite(db) => sqlx::query_as(SQL).fetch_all(&db.read).await,
            Store::Postgres(db) => sqlx::query_as(SQL).fetch_all(&db.read).await,
        }
    }

    /// Keeps a signed checkpoint; the first one of a position stays.
    pub async fn keep_checkpoint(&self, position: i64, kind: &str, at: Micros, signed: &str) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("INSERT INTO audit_checkpoint (position, kind, at, signed) VALUES (").int(position).push(", ").str(kind);
        sql.push(", ").int(at).push(", ").str(signed).push(") ON CONFLICT (position, kind) DO NOTHING");
        self.execute(sql).await.map(drop)
    }

    /// Up to which position events are AuditEvents.
    pub async fn published(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position FROM audit_published WHERE id = 1");
        Ok(self.integers(sql).await?.first().copied().unwrap_or(0))
    }

    pub async fn set_published(&self, position: i64) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE audit_published SET position = ").int(position).push(" WHERE position < ").int(position);
        self.execute(sql).await.map(drop)
    }

    /// Owner and patient of resources; `old_versions`: of all their versions. For the audit, which sees everything.
    pub async fn placed(&self, names: &[(TypeCode, Box<str>)], old_versions: bool) -> Result<Vec<Placed>, sqlx::Error> {
        let mut found = Vec::with_capacity(names.len());
        for chunk in names.chunks(500) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT r.type, r.id, r.owner, r.patient");
            if old_versions {
                sql.push(", h.owner, h.patient");
            } else {
                sql.push(", r.owner, r.patient");
            }
            sql.push(" FROM (VALUES ");
            sql.join(chunk, ", ", |sql, (code, id)| {
                sql.push("(").literal(i64::from(*code)).push(", ").str(id).push(")");
            });
            sql.push(") v CROSS JOIN resource r ");
            if old_versions {
                sql.push("LEFT JOIN history h ON h.key = r.key ");
            }
            sql.push("WHERE r.type = v.column1 AND r.id = v.column2 AND r.version > 0");
            let Sql { text, args, .. } = sql;
            type Columns = (i64, String, i64, i64, Option<i64>, Option<i64>);
            let rows: Vec<Columns> = match self {
                Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
                Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            };
            for (type_code, id, owner, patient, old_owner, old_patient) in rows {
                let type_code = TypeCode::try_from(type_code).unwrap_or(TypeCode::MAX);
                if let (Some(old_owner), Some(old_patient)) = (old_owner, old_patient)
                    && (old_owner, old_patient) != (owner, patient)
                {
                    found.push(Placed { type_code, id: id.clone(), owner: old_owner, patient: old_patient });
                }
                found.push(Placed { type_code, id, owner, patient });
            }
        }
        found.sort_by(|a, b| (a.type_code, &a.id, a.patient).cmp(&(b.type_code, &b.id, b.patient)));
        found.dedup();
        Ok(found)
    }

    /// The ids of resources with these keys.
    pub async fn ids_of(&self, keys: &[ResourceKey]) -> Result<HashMap<ResourceKey, String>, sqlx::Error> {
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(500) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT key, id FROM resource WHERE key IN (");
            sql.join(chunk, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
            let Sql { text, args, .. } = sql;
            let rows: Vec<(i64, String)> = match self {
                Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
                Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            };
            found.extend(rows);
        }
        Ok(found)
    }

    /// The keys of a Patient and of all that it links to.
    pub async fn person_keys(&self, patient: TypeCode, id: &str, link: Option<super::ParamId>) -> Result<Vec<ResourceKey>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key FROM resource WHERE version > 0 AND type = ").literal(i64::from(patient)).push(" AND id = ").str(id);
        let own = self.integers(sql).await?;
        let (Some(key), Some(link)) = (own.first(), link) else { return Ok(own) };
        let mut linked = Sql::new(self.dialect());
        linked.push("SELECT target FROM reference WHERE until = 0 AND param = ").literal(i64::from(link)).push(" AND key = ").int(*key);
        let mut keys = self.integers(linked).await?;
        keys.push(*key);
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// For each of these patients the Consents (id, version) whose permits speak of this caller now.
    pub async fn consents_behind(
        &self,
        scope: &Scope,
        patients: &[ResourceKey],
    ) -> Result<BTreeMap<ResourceKey, Vec<(String, i64)>>, sqlx::Error> {
        let mut found: BTreeMap<ResourceKey, Vec<(String, i64)>> = BTreeMap::new();
        let Scope::Gate(gate) = scope else { return Ok(found) };
        let Some(sql) = gate::consents(self.dialect(), gate, patients) else { return Ok(found) };
        let Sql { text, args, .. } = sql;
        let rows: Vec<(i64, String, i64)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        for (patient, id, version) in rows {
            found.entry(patient).or_default().push((id, version));
        }
        Ok(found)
    }
}
