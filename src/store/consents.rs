//! The Consents that speak of patients, whole: for a decision on what is not in the store, where no query can decide.

use super::api::{Store, VERSION};
use super::sql::{Sql, bind_all};
use super::{ResourceKey, Stored};
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

impl Store {
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
