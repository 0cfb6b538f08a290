//! Whom Consents cover, when persons are told apart again.

use super::api::VERSION;
use super::sql::{Dialect, Sql, bind_all};
use super::{ParamId, ResourceKey, Store, Stored, TypeCode};
use super::{closing, gate};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};

/// Keys or ids of one statement.
const CHUNK: usize = 200;

/// A Consent that permits something of a Patient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    pub patient: ResourceKey,
    pub consent: ResourceKey,
    /// The id of the Patient that the Consent names.
    pub given_by: String,
}

impl Store {
    /// The Consents that permit something of the Patient `id` and name another one by the parameter `names`.
    pub async fn covered_by_others(&self, patient: TypeCode, id: &str, names: ParamId) -> Result<Vec<Cover>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT n.patient, n.consent, q.id FROM rule n JOIN reference x ON x.key = n.consent AND x.param = ");
        sql.literal(i64::from(names)).push(" AND x.until = 0 JOIN resource q ON q.key = x.target WHERE q.key <> n.patient");
        sql.push(" AND n.precedence IN (1, 3) AND n.patient = (SELECT p.key FROM resource p WHERE p.type = ").literal(i64::from(patient));
        sql.push(" AND p.id = ").str(id).push(")");
        let Sql { text, args, .. } = sql;
        let rows: Vec<(i64, i64, String)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        Ok(rows.into_iter().map(|(patient, consent, given_by)| Cover { patient, consent, given_by }).collect())
    }

    /// The Consents that permit something of one of these Patients, each with all the Patients that it speaks of.
    pub async fn permitting(&self, patient: TypeCode, ids: &[&str]) -> Result<Vec<(Stored, BTreeSet<ResourceKey>)>, sqlx::Error> {
        let mut found: BTreeMap<ResourceKey, BTreeSet<ResourceKey>> = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT DISTINCT n.consent, n.patient FROM rule n WHERE n.consent IN (SELECT m.consent FROM resource p JOIN rule m ON m.patient = p.key WHERE p.type = ");
            sql.literal(i64::from(patient)).push(" AND m.precedence IN (1, 3) AND p.id IN (");
            sql.join(chunk, ", ", |sql, id| {
                sql.str(id);
            });
            sql.push("))");
            let Sql { text, args, .. } = sql;
            let rows: Vec<(i64, i64)> = match self {
                Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
                Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            };
            for (consent, patient) in rows {
                found.entry(consent).or_default().insert(patient);
            }
        }
        let keys: Vec<ResourceKey> = found.keys().copied().collect();
        let mut consents = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE live > 0 AND key IN (");
            sql.join(chunk, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
            consents.extend(self.versions(sql).await?);
        }
        Ok(consents.into_iter().filter_map(|consent| found.remove(&consent.key).map(|covers| (consent, covers))).collect())
    }

    /// What a Consent permits, it permits until then at most.
    pub async fn end_permits(&self, consent: ResourceKey, covers: &BTreeSet<ResourceKey>, until: Micros) -> Result<(), sqlx::Error> {
        let statement = |dialect| {
            let mut sql = Sql::new(dialect);
            sql.push("UPDATE rule SET high = ").int(until).push(" WHERE precedence IN (1, 3) AND consent = ").int(consent);
            sql.push(" AND high > ").int(until);
            sql
        };
        self.narrow(covers, |dialect| vec![statement(dialect)]).await
    }

    /// Takes away what these Consents permit of these Patients; what they deny stays.
    pub async fn uncover(&self, covers: &[Cover]) -> Result<(), sqlx::Error> {
        let patients: BTreeSet<ResourceKey> = covers.iter().map(|cover| cover.patient).collect();
        let removal = |dialect, cover: &Cover| {
            let mut sql = Sql::new(dialect);
            sql.push("DELETE FROM rule WHERE precedence IN (1, 3) AND patient = ").int(cover.patient);
            sql.push(" AND consent = ").int(cover.consent);
            sql
        };
        self.narrow(&patients, |dialect| covers.iter().map(|cover| removal(dialect, cover)).collect()).await
    }

    /// Closes something of these Patients.
    async fn narrow(&self, patients: &BTreeSet<ResourceKey>, by: impl Fn(Dialect) -> Vec<Sql>) -> Result<(), sqlx::Error> {
        let each: Vec<ResourceKey> = patients.iter().copied().collect();
        let statements = |dialect| {
            let changed = gate::forget(dialect, &each).into_iter().chain(by(dialect));
            changed.chain(gate::conclude(dialect, &each)).chain(closing::note(dialect, patients)).collect::<Vec<Sql>>()
        };
        let _turn = self.closing().await;
        match self {
            Store::Sqlite(db) => {
                let mut transaction = db.write.begin_with("BEGIN IMMEDIATE").await?;
                for Sql { text, args, .. } in statements(Dialect::Sqlite) {
                    bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }
            Store::Postgres(db) => {
                let mut transaction = db.pool.begin().await?;
                closing::in_turn(&mut transaction).await?;
                closing::lock_postgres(&mut transaction).await?;
                for Sql { text, args, .. } in statements(Dialect::Postgres) {
                    bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }
        }
    }
}
