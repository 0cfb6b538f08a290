//! The labels in use: tags, security labels and profiles, each once.

use super::api::{Store, VERSION};
use super::sql::{Sql, bind_all};
use super::{ParamId, ResourceKey, Scope, Stored, compile, system_key};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::collections::{BTreeSet, HashMap};

/// Label of a kind that are told at once. One more than these is given, so that it shows that there are more.
pub const MOST: usize = 1_000;
/// Bodies read by one statement.
const CHUNK: usize = 100;

/// A code in use, and a resource that has it.
#[derive(Clone, Debug)]
pub struct Label {
    code: String,
    /// [`system_key`] of its system; 0: it has none.
    system: i64,
    example: Option<Stored>,
}

impl Label {
    /// The coding as the resource says it, without its display; `None` when the resource changed meanwhile.
    pub fn coding(&self) -> Option<Value> {
        let resource: Value = serde_json::from_slice(self.example.as_ref()?.body.as_ref()?).ok()?;
        let lists = ["tag", "security"].into_iter().filter_map(|name| resource.get("meta")?.get(name)?.as_array());
        let is_one = |coding: &&Value| {
            let text = |key: &str| coding.get(key).and_then(Value::as_str);
            text("code").unwrap_or_default() == self.code && text("system").map_or(0, system_key) == self.system
        };
        let mut coding = lists.flatten().find(is_one)?.clone();
        coding.as_object_mut()?.retain(|key, _| matches!(key.as_str(), "system" | "version" | "code"));
        Some(coding)
    }
}

impl Store {
    /// The codes under these token parameters that `scope` shows. It reads the whole of each one's index.
    pub async fn labels(&self, params: &[ParamId], scope: &Scope) -> Result<Vec<Label>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT i.code, i.system, min(i.key) FROM token i WHERE ");
        of(&mut sql, params, scope);
        sql.push(" GROUP BY i.code, i.system ORDER BY 1, 2 LIMIT ").literal(MOST as i64 + 1);
        let Sql { text, args, .. } = sql;
        let rows: Vec<(String, i64, i64)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        let keys: BTreeSet<ResourceKey> = rows.iter().map(|(.., key)| *key).collect();
        let examples = self.examples(&keys.into_iter().collect::<Vec<_>>(), scope).await?;
        Ok(rows.into_iter().map(|(code, system, key)| Label { code, system, example: examples.get(&key).cloned() }).collect())
    }

    /// The canonical URLs under these parameters that `scope` shows.
    pub async fn profiles(&self, params: &[ParamId], scope: &Scope) -> Result<Vec<String>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT i.uri FROM uri i WHERE ");
        of(&mut sql, params, scope);
        sql.push(" ORDER BY 1 LIMIT ").literal(MOST as i64 + 1);
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
            Store::Postgres(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
        }
    }

    async fn examples(&self, keys: &[ResourceKey], scope: &Scope) -> Result<HashMap<ResourceKey, Stored>, sqlx::Error> {
        let mut found = HashMap::new();
        for chunk in keys.chunks(CHUNK) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE live > 0 AND key IN (");
            sql.join(chunk, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
            compile::version_condition(&mut sql, "r", scope);
            found.extend(self.versions(sql).await?.into_iter().map(|row| (row.key, row)));
        }
        Ok(found)
    }
}

/// Appends the condition on index rows that hold.
fn of(sql: &mut Sql, params: &[ParamId], scope: &Scope) {
    sql.push("i.param IN (-1");
    for param in params {
        sql.push(", ").literal(i64::from(*param));
    }
    sql.push(") AND i.until = 0");
    compile::scope_condition(sql, "i", scope);
}
