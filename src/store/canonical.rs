//! What is included along canonicals, which name a resource by its `url` and perhaps a version: found by the indexes of both.

use super::api::{Store, Stored, VERSION};
use super::compile::{identified_by, version_condition};
use super::query::Scope;
use super::sql::Sql;
use super::{ParamId, TypeCode};

impl Store {
    /// The resources of a type that `scope` shows and that one of `names` (`url`, version) names; without a version, any.
    pub async fn with_canonicals(
        &self,
        type_code: TypeCode,
        names: &[(String, Option<String>)],
        scope: &Scope,
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        let Some((url, version)) = identified_by(type_code).filter(|_| !names.is_empty()) else { return Ok(Vec::new()) };
        let mut sql = self.seen_resources(scope);
        sql.push("SELECT u.key FROM uri u WHERE u.until = 0 AND u.param = ").literal(i64::from(url)).push(" AND (");
        sql.join(names, " OR ", |sql, (name, wanted)| {
            sql.push("u.uri = ").str(name);
            if let Some(wanted) = wanted {
                sql.push(" AND EXISTS (SELECT 1 FROM token v WHERE v.until = 0 AND v.key = u.key AND v.param = ");
                sql.literal(i64::from(version)).push(" AND v.code = ").str(wanted).push(")");
            }
        });
        sql.push(")) ORDER BY r.key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    /// The resources that `scope` shows and that have one of `texts` in `param`.
    pub async fn naming(&self, texts: &[String], param: ParamId, scope: &Scope, limit: u32) -> Result<Vec<Stored>, sqlx::Error> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = self.seen_resources(scope);
        sql.push("SELECT x.key FROM uri x WHERE x.until = 0 AND x.param = ").literal(i64::from(param)).push(" AND x.uri IN (");
        sql.join(texts, ", ", |sql, text| {
            sql.str(text);
        });
        sql.push(")) ORDER BY r.key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    fn seen_resources(&self, scope: &Scope) -> Sql {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE r.live > 0");
        version_condition(&mut sql, "r", scope);
        sql.push(" AND r.key IN (");
        sql
    }
}
