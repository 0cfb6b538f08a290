//! The tables of the audit: events come in with the transaction of what they tell of, and are sealed into a chain.
//!
//! Sealing ([`chain`]) gives each event its place and a hash over the hash before it and everything that the row holds, so that no row can be
//! changed, taken out or put elsewhere without all later hashes being wrong. On SQLite that happens where it is written; on PostgreSQL
//! events wait in `audit_new` for it. What only a copy kept elsewhere shows (the end cut off, the whole chain computed
//! anew) is for signed checkpoints ([`crate::access::audit`]). What an event says is that room's; here it is text.

pub(super) mod chain;

use super::gate;
use super::sql::{Arg, Sql, bind_all};
use super::{FacilityKey, ResourceKey, Scope, Store, TypeCode};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, HashMap};

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
        hash_of(before, [self.position, self.at, self.owner, self.patient], &self.event)
    }
}

/// `numbers`: position, at, owner, patient.
fn hash_of(before: &[u8], numbers: [i64; 4], event: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    for number in numbers {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(event.as_bytes());
    *hasher.finalize().as_bytes()
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

type SealedColumns = (i64, i64, i64, i64, String, Vec<u8>);

fn sealed((position, at, owner, patient, event, hash): SealedColumns) -> Sealed {
    Sealed { position, at, owner, patient, event, hash }
}

impl Store {
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

    /// The last position that was removed because it was old enough, and its hash; 0 and [`GENESIS`]: none was.
    pub async fn audit_floor(&self) -> Result<(i64, Vec<u8>), sqlx::Error> {
        const SQL: &str = "SELECT position, hash FROM audit_floor WHERE id = 1";
        let floor = match self {
            Store::Sqlite(db) => sqlx::query_as(SQL).fetch_optional(&db.read).await?,
            Store::Postgres(db) => sqlx::query_as(SQL).fetch_optional(&db.read).await?,
        };
        Ok(floor.unwrap_or_else(|| (0, GENESIS.to_vec())))
    }

    /// Up to which position it is noted which Patients events are about.
    pub async fn indexed(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT indexed FROM audit_published WHERE id = 1");
        Ok(self.integers(sql).await?.first().copied().unwrap_or(0))
    }

    /// The next rows of which it is not noted whom they are about; of those that are about one Patient without the event.
    pub async fn unindexed(&self, limit: u32) -> Result<Vec<Sealed>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position, at, owner, patient, CASE WHEN patient = 0 THEN event ELSE '' END, hash FROM audit WHERE position > ");
        sql.int(self.indexed().await?).push(" ORDER BY position LIMIT ").literal(i64::from(limit));
        self.sealed(sql).await
    }

    /// Rows below `before`, newest first, all that are about any of these Patients among them. Of the newest rows it is not noted yet whom they are
    /// about, so some may be about others.
    pub async fn sealed_about(&self, patients: &[ResourceKey], before: i64, limit: u32) -> Result<Vec<Sealed>, sqlx::Error> {
        if patients.is_empty() {
            return Ok(Vec::new());
        }
        let indexed = self.indexed().await?;
        let list = |sql: &mut Sql| {
            sql.push(" IN (");
            sql.join(patients, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
        };
        let mut newest = Sql::new(self.dialect());
        newest.push("SELECT position, at, owner, patient, event, hash FROM audit WHERE position > ").int(indexed);
        newest.push(" AND position < ").int(before).push(" AND (patient");
        list(&mut newest);
        newest.push(" OR patient = 0 AND event LIKE '%\"patients\":%') ORDER BY position DESC LIMIT ").literal(i64::from(limit));
        let mut rows = self.sealed(newest).await?;
        let rest = i64::from(limit).saturating_sub(rows.len() as i64);
        if rest == 0 {
            return Ok(rows);
        }
        let mut noted = Sql::new(self.dialect());
        noted.push(
            "SELECT a.position, a.at, a.owner, a.patient, a.event, a.hash FROM (SELECT DISTINCT position FROM audit_about WHERE patient",
        );
        list(&mut noted);
        noted.push(" AND position <= ").int(indexed).push(" AND position < ").int(before);
        noted.push(" ORDER BY position DESC LIMIT ").literal(rest);
        noted.push(") n JOIN audit a ON a.position = n.position ORDER BY a.position DESC");
        rows.extend(self.sealed(noted).await?);
        Ok(rows)
    }

    /// Notes which Patients (with the position) the events up to `position` are about.
    pub async fn index_audit(&self, mut pairs: Vec<(ResourceKey, i64)>, position: i64) -> Result<(), sqlx::Error> {
        pairs.sort_unstable();
        chain::note_patients(self, &pairs, position).await
    }

    /// The notes of which Patients events up to `position` are about, in order after a pair.
    pub async fn about_after(&self, after: (ResourceKey, i64), position: i64, limit: u32) -> Result<Vec<(ResourceKey, i64)>, sqlx::Error> {
        const SQL: &str = "SELECT patient, position FROM audit_about WHERE (patient, position) > ($1, $2) AND position <= $3 ORDER BY patient, position LIMIT $4";
        macro_rules! pairs {
            ($pool:expr) => {
                sqlx::query_as(SQL).bind(after.0).bind(after.1).bind(position).bind(i64::from(limit)).fetch_all($pool).await
            };
        }
        match self {
            Store::Sqlite(db) => pairs!(&db.read),
            Store::Postgres(db) => pairs!(&db.pool),
        }
    }

    /// Removes the chain up to `last`, whose hash the next row continues from.
    pub async fn remove_sealed(&self, last: &Sealed) -> Result<u64, sqlx::Error> {
        let mut floor = Sql::new(self.dialect());
        floor.push("INSERT INTO audit_floor (id, position, hash) VALUES (1, ").int(last.position).push(", ");
        floor
            .bind(Arg::Bytes(last.hash.clone()))
            .push(") ON CONFLICT (id) DO UPDATE SET position = excluded.position, hash = excluded.hash");
        self.execute(floor).await?;
        let mut notes = Sql::new(self.dialect());
        notes.push("DELETE FROM audit_about WHERE position <= ").int(last.position);
        self.execute(notes).await?;
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

    /// Keeps a signed checkpoint; the first one of a position stays, and is given back.
    pub async fn keep_checkpoint(&self, position: i64, kind: &str, at: Micros, signed: &str) -> Result<String, sqlx::Error> {
        const KEPT: &str = "SELECT signed FROM audit_checkpoint WHERE position = $1 AND kind = $2";
        let mut sql = Sql::new(self.dialect());
        sql.push("INSERT INTO audit_checkpoint (position, kind, at, signed) VALUES (").int(position).push(", ").str(kind);
        sql.push(", ").int(at).push(", ").str(signed).push(") ON CONFLICT (position, kind) DO NOTHING");
        self.execute(sql).await?;
        match self {
            Store::Sqlite(db) => sqlx::query_scalar(KEPT).bind(position).bind(kind).fetch_one(&db.read).await,
            Store::Postgres(db) => sqlx::query_scalar(KEPT).bind(position).bind(kind).fetch_one(&db.read).await,
        }
    }

    /// Up to which position events are AuditEvents.
    pub async fn published(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT position FROM audit_published WHERE id = 1");
        Ok(self.integers(sql).await?.first().copied().unwrap_or(0))
    }

    /// How many events are no AuditEvents yet.
    pub async fn unpublished(&self) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        // One statement, so that none is missed on its way from one table to the other.
        sql.push("SELECT coalesce((SELECT max(position) FROM audit), (SELECT position FROM audit_floor WHERE id = 1), 0)");
        sql.push(" - coalesce((SELECT position FROM audit_published WHERE id = 1), 0) + (SELECT count(*) FROM audit_new)");
        Ok(self.integers(sql).await?.first().copied().unwrap_or(0).max(0))
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
