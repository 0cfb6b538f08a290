//! The Consents that speak of patients, whole: for a decision on what is not in the store, where no query can decide. And whom they cover.

use super::api::{Store, VERSION};
use super::sql::{Sql, bind_all};
use super::{ResourceKey, Stored};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use std::collections::{BTreeSet, HashMap};

/// A Consent that counts for a patient.
#[derive(Clone, Debug)]
pub struct Counted {
    pub patient: ResourceKey,
    pub consent: Stored,
    /// When the last ends of what it permits of that patient; `None`: what it permits does not count. It may be earlier than the Consent says, after what was
    /// known of the patient when it was written.
    pub until: Option<Micros>,
}

/// Whom a stored Consent covers.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    pub permitted: BTreeSet<String>,
    pub all: BTreeSet<String>,
    /// When the last of what it permits ends; `None`: it permits nothing.
    pub until: Option<Micros>,
}

/// By which reading of Consents the stored ones were read.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The number of the reading.
    pub by: i64,
    /// The last Consent (when it changed, and its key) that a newer reading has done.
    pub after: (Micros, ResourceKey),
}

impl Store {
    /// Every Consent that counts for one of these patients, once for each such patient, in the order of patients and Consents. It counts where another has
    /// not taken its place; what it permits may count for fewer than what it denies.
    pub async fn consents_about(&self, patients: &[ResourceKey]) -> Result<Vec<Counted>, sqlx::Error> {
        if patients.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push(
            "SELECT patient, consent, max(CASE WHEN precedence IN (1, 3) THEN high END) FROM rule WHERE superseded = 0 AND patient IN (",
        );
        sql.join(patients, ", ", |sql, patient| {
            sql.literal(*patient);
        });
        sql.push(") GROUP BY patient, consent ORDER BY 1, 2");
        let Sql { text, args, .. } = sql;
        let counting: Vec<(ResourceKey, ResourceKey, Option<Micros>)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        if counting.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE live > 0 AND key IN (");
        sql.join(&counting, ", ", |sql, (_, consent, _)| {
            sql.literal(*consent);
        });
        sql.push(")");
        let consents: HashMap<ResourceKey, Stored> = self.versions(sql).await?.into_iter().map(|stored| (stored.key, stored)).collect();
        let counted = |(patient, consent, until)| Some(Counted { patient, consent: consents.get(&consent)?.clone(), until });
        Ok(counting.into_iter().filter_map(counted).collect())
    }

    /// The Patients (by id) that a Consent covers: those of whom it permits something, all, and until when it permits at most.
    pub async fn covered(&self, consent: ResourceKey) -> Result<Covered, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT p.id, max(CASE WHEN n.precedence IN (1, 3) THEN n.high END) FROM rule n JOIN resource p ON p.key = n.patient WHERE n.consent = ");
        sql.int(consent).push(" GROUP BY p.id");
        let Sql { text, args, .. } = sql;
        let rows: Vec<(String, Option<i64>)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        Ok(Covered {
            until: rows.iter().filter_map(|(_, high)| *high).max(),
            permitted: rows.iter().filter(|(_, high)| high.is_some()).map(|(id, _)| id.clone()).collect(),
            all: rows.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// By which reading of Consents the stored ones were read, and how far by the next.
    pub async fn consents_read(&self) -> Result<Progress, sqlx::Error> {
        let text = "SELECT by, after_updated, after_key FROM consents_read WHERE id = 1";
        let row: Option<(i64, i64, i64)> = match self {
            Store::Sqlite(db) => sqlx::query_as(text).fetch_optional(&db.read).await?,
            Store::Postgres(db) => sqlx::query_as(text).fetch_optional(&db.read).await?,
        };
        Ok(row.map_or(Progress { by: 0, after: (Micros::MIN, 0) }, |(by, updated, key)| Progress { by, after: (updated, key) }))
    }

    /// Remembers it. `after`: the last one that the next reading has done.
    pub async fn set_consents_read(&self, by: i64, (updated, key): (Micros, ResourceKey)) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE consents_read SET by = ").int(by).push(", after_updated = ").int(updated).push(", after_key = ").int(key);
        sql.push(" WHERE id = 1");
        self.execute(sql).await.map(drop)
    }
}
