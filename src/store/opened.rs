//! How many patients' records were opened in emergencies, as the Tasks tell that lango wrote of it.
//!
//! They are counted in the database, however many there are: a page of them would end where a practitioner with many tokens for one patient
//! wants it to.

use super::query::Scope;
use super::sql::{Sql, bind_all};
use super::{ParamId, ResourceKey, Store, compile, system_key};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;

/// Which Tasks count. All are the operator's own; nobody but lango can make one ([`crate::ingest`]).
#[derive(Clone, Debug)]
pub struct Opened<'a> {
    /// The parameter of their time, and since when.
    pub at: ParamId,
    pub since: Micros,
    /// The tag that says what they are: its parameter, system and code.
    pub tag: (ParamId, &'a str, &'a str),
    /// Who opened: parameters, any of them, and an identifier's system and value, whatever its case.
    pub by: (&'a [ParamId], &'a str, &'a str),
    /// The parameter of the Patient.
    pub patient: ParamId,
}

impl Store {
    /// How many Patients, and whether one of `keys` is among them.
    pub async fn opened(&self, asked: &Opened<'_>, keys: &[ResourceKey]) -> Result<(i64, bool), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT count(DISTINCT p.target), CAST(coalesce(max(CASE WHEN p.target IN (0");
        for key in keys {
            sql.push(", ").int(*key);
        }
        sql.push(") THEN 1 ELSE 0 END), 0) AS BIGINT) FROM date d JOIN token g ON g.key = d.key JOIN token t ON t.key = d.key JOIN reference p ON p.key = d.key");
        sql.push(" WHERE d.until = 0 AND d.wide = 0 AND d.param = ").literal(i64::from(asked.at)).push(" AND d.low >= ").int(asked.since);
        compile::scope_condition(&mut sql, "d", &Scope::Owners(vec![0]));
        let (param, system, code) = asked.tag;
        sql.push(" AND g.until = 0 AND g.param = ").literal(i64::from(param)).push(" AND g.code = ").str(code);
        sql.push(" AND g.system = ").int(system_key(system));
        let (params, system, value) = asked.by;
        sql.push(" AND t.until = 0 AND t.param IN (-1");
        for param in params {
            sql.push(", ").literal(i64::from(*param));
        }
        sql.push(") AND lower(t.code) = lower(").str(value).push(") AND t.system = ").int(system_key(system));
        sql.push(" AND p.until = 0 AND p.param = ").literal(i64::from(asked.patient));
        let Sql { text, args, .. } = sql;
        let (count, among): (i64, i64) = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_one(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_one(&db.read).await?,
        };
        Ok((count, among > 0))
    }

    /// Whether something of the operator's has this identifier, whatever its case, by the parameter `param`.
    pub async fn is_called(&self, param: ParamId, system: &str, value: &str) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT i.key FROM token i WHERE i.until = 0 AND i.param = ").literal(i64::from(param));
        sql.push(" AND i.system = ").int(system_key(system)).push(" AND lower(i.code) = lower(").str(value).push(")");
        compile::scope_condition(&mut sql, "i", &Scope::Owners(vec![0]));
        sql.push(" LIMIT 1");
        Ok(!self.integers(sql).await?.is_empty())
    }
}
