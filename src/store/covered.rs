//! Whom Consents cover, when persons are told apart again.

use super::sql::{Dialect, Sql, bind_all};
use super::{ParamId, ResourceKey, Store, TypeCode};
use super::{closing, gate};
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

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

    /// Takes away what these Consents permit of these Patients; what they deny stays.
    pub async fn uncover(&self, covers: &[Cover]) -> Result<(), sqlx::Error> {
        let patients: BTreeSet<ResourceKey> = covers.iter().map(|cover| cover.patient).collect();
        let each: Vec<ResourceKey> = patients.iter().copied().collect();
        let statements = |dialect| {
            let removals = covers.iter().map(move |cover| {
                let mut sql = Sql::new(dialect);
                sql.push("DELETE FROM rule WHERE precedence IN (1, 3) AND patient = ")
                    .int(cover.patient)
                    .push(" AND consent = ")
                    .int(cover.consent);
                sql
            });
            let forgotten = gate::forget(dialect, &each).into_iter();
            forgotten.chain(removals).chain(gate::conclude(dialect, &each)).chain(closing::note(dialect, &patients)).collect::<Vec<Sql>>()
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
