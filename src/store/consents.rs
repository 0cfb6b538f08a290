//! The Consents that speak of patients, whole: for a decision on what is not in the store, where no query can decide.

use super::api::{Store, VERSION};
use super::sql::{Sql, bind_all};
use super::{ResourceKey, Stored, TypeCode, system_key};
use crate::fhir::Interval;
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

impl Store {
    /// The newest stamp in this time of the rules of a series about the Patient `patient`, but for those of the Consent `id`.
    pub async fn newest_of_series(
        &self,
        series: &str,
        patient: (TypeCode, &str),
        id: &str,
        given: Interval,
    ) -> Result<Option<Micros>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT max(n.stamp) FROM rule n JOIN resource r ON r.key = n.consent WHERE n.patient = (SELECT p.key FROM resource p WHERE p.type = ");
        sql.literal(i64::from(patient.0)).push(" AND p.id = ").str(patient.1).push(") AND n.series = ").int(system_key(series));
        sql.push(" AND n.stamp >= ").int(given.low).push(" AND n.stamp < ").int(given.high).push(" AND r.id <> ").str(id);
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_one(&db.read).await,
            Store::Postgres(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_one(&db.read).await,
        }
    }

    /// Every Consent that has rules for one of these patients, once for each such patient, in the order of patients and Consents.
    pub async fn consents_about(&self, patients: &[ResourceKey]) -> Result<Vec<(ResourceKey, Stored)>, sqlx::Error> {
        if patients.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT patient, consent FROM rule WHERE patient IN (");
        sql.join(patients, ", ", |sql, patient| {
            sql.literal(*patient);
        });
        sql.push(") ORDER BY 1, 2");
        let Sql { text, args, .. } = sql;
        let pairs: Vec<(ResourceKey, ResourceKey)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE live > 0 AND key IN (");
        sql.join(&pairs, ", ", |sql, (_, consent)| {
            sql.literal(*consent);
        });
        sql.push(")");
        let consents: HashMap<ResourceKey, Stored> = self.versions(sql).await?.into_iter().map(|stored| (stored.key, stored)).collect();
        Ok(pairs.into_iter().filter_map(|(patient, consent)| Some((patient, consents.get(&consent)?.clone()))).collect())
    }
}
