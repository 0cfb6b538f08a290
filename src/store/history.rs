//! Pages of versions, newest first: of a resource, of types, of everything.
//!
//! The order of a resource's own history is that of its versions; otherwise it is that of time, then key and version. A page
//! continues after the last version of the one before and sees the snapshot of the first, so nothing is repeated or left out
//! whatever is written meanwhile: a version that is superseded moves to the other table and keeps its place.

use super::query::{Snapshot, SortValue};
use super::sql::{Dialect, Sql, bind_all};
use super::{Cursor, ResourceKey, Scope, Store, Stored, TypeCode, compile};
use crate::fhir::Interval;
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use std::collections::HashSet;

/// What a history is of.
#[derive(Clone, Debug)]
pub enum HistoryOf<'a> {
    Instance(TypeCode, &'a str),
    Types(&'a [TypeCode]),
}

/// Which versions are wanted (<https://hl7.org/fhir/R4/http.html#history>).
#[derive(Clone, Copy, Debug, Default)]
pub struct Versions {
    /// `_since`: written then or later.
    pub since: Option<Micros>,
    /// `_at`: current at some moment of this time. A delete counts when it was made in it.
    pub at: Option<Interval>,
}

/// One page of versions.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    pub rows: Vec<Stored>,
    /// The resources among them whose first version came by POST.
    pub posted: HashSet<ResourceKey>,
    /// The versions among them that came by PATCH.
    pub patched: HashSet<(ResourceKey, i64)>,
    /// The versions among them that brought a deleted resource back.
    pub revived: HashSet<(ResourceKey, i64)>,
    pub next: Option<Cursor>,
}

/// Where a page begins.
struct After {
    updated: Micros,
    key: ResourceKey,
    version: i64,
}

impl After {
    fn of(cursor: &Cursor) -> Option<After> {
        match cursor.after.as_slice() {
            [SortValue::Int(updated), SortValue::Int(version)] => {
                Some(After { updated: *updated, key: cursor.after_key, version: *version })
            }
            _ => None,
        }
    }
}

impl Store {
    /// One page of at most `limit` versions that `scope` shows.
    pub async fn history_page(
        &self,
        of: &HistoryOf<'_>,
        wanted: Versions,
        limit: u32,
        cursor: Option<&Cursor>,
        scope: &Scope,
    ) -> Result<HistoryPage, sqlx::Error> {
        let snapshot = match cursor {
            Some(cursor) => cursor.snapshot.clone(),
            None => self.snapshot().await?,
        };
        let occurring: Vec<TypeCode> = match of {
            HistoryOf::Types(types @ [_, _, ..]) => {
                let occurring = self.occurring_types().await?;
                types.iter().copied().filter(|type_code| occurring.contains(type_code)).collect()
            }
            HistoryOf::Types(types) => types.to_vec(),
            HistoryOf::Instance(..) => Vec::new(),
        };
        let select = Select { wanted, after: cursor.and_then(After::of), limit: limit.saturating_add(1), snapshot: &snapshot, scope };
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT r.key, r.type, r.id, p.version");
        for column in ["live", "updated", "owner", "patient", "body"] {
            sql.push(&format!(", CASE WHEN r.version = p.version THEN r.{column} ELSE h.{column} END AS {column}"));
        }
        sql.push(" FROM (SELECT q.key, q.version, q.updated FROM (");
        let mut merged = false;
        match (of, occurring.as_slice()) {
            (HistoryOf::Instance(type_code, id), _) => select.both(&mut sql, *type_code, Some(id)),
            (_, []) => _ = sql.push("SELECT 0 AS key, 0 AS version, 0 AS updated WHERE 1 = 0"),
            (_, types @ [_, _, ..]) if matches!(scope, Scope::Gate(_)) => {
                merged = true;
                select.all(&mut sql, types);
            }
            (_, types) => {
                for (place, type_code) in types.iter().enumerate() {
                    if place > 0 {
                        sql.push(" UNION ALL ");
                    }
                    select.both(&mut sql, *type_code, None);
                }
            }
        }
        let instance = matches!(of, HistoryOf::Instance(..));
        let order = |alias: &str| match instance {
            true => format!(" ORDER BY {alias}.version DESC"),
            false => format!(" ORDER BY {alias}.updated DESC, {alias}.key DESC, {alias}.version DESC"),
        };
        sql.push(") q");
        // As it is already, when merged; SQLite would sort again, and decide on all for it.
        if !merged || sql.dialect == Dialect::Postgres {
            sql.push(&order("q"));
        }
        sql.push(" LIMIT ").literal(i64::from(select.limit));
        sql.push(") p JOIN resource r ON r.key = p.key LEFT JOIN history h ON h.key = p.key AND h.version = p.version");
        sql.push(&order("p"));
        let mut rows = self.versions(sql).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let last = rows.last().filter(|_| more).map(|row| Cursor {
            snapshot: snapshot.clone(),
            after: vec![SortValue::Int(row.updated), SortValue::Int(row.version)],
            after_key: row.key,
        });
        let (posted, patched, revived) = (self.posted(&rows).await?, self.patched(&rows).await?, self.revived(&rows).await?);
        Ok(HistoryPage { next: last, posted, patched, revived, rows })
    }

    /// How many versions of a resource there are, deletes included: an operator may have taken some away for good.
    pub async fn count_versions(&self, key: ResourceKey) -> Result<i64, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT 1 + COUNT(*) FROM history WHERE key = ").literal(key);
        Ok(self.integers(sql).await?.first().copied().unwrap_or_default())
    }

    /// Of which of these the first version, if it is one of them, came by POST.
    async fn posted(&self, rows: &[Stored]) -> Result<HashSet<ResourceKey>, sqlx::Error> {
        let first: Vec<ResourceKey> = rows.iter().filter(|row| row.version == 1).map(|row| row.key).collect();
        if first.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key FROM resource WHERE posted = 1 AND key IN (");
        sql.join(first, ", ", |sql, key| {
            sql.literal(key);
        });
        sql.push(")");
        Ok(self.integers(sql).await?.into_iter().collect())
    }
}

impl Store {
    /// Which of these came by PATCH.
    async fn patched(&self, rows: &[Stored]) -> Result<HashSet<(ResourceKey, i64)>, sqlx::Error> {
        let later: Vec<&Stored> = rows.iter().filter(|row| row.version > 1).collect();
        if later.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = Sql::new(self.dialect());
        for table in ["resource", "history"] {
            sql.push(if table == "history" { " UNION ALL " } else { "" });
            sql.push(&format!("SELECT t.key, t.version FROM {table} t WHERE t.patched = 1 AND t.key IN ("));
            sql.join(&later, ", ", |sql, row| {
                sql.literal(row.key);
            });
            sql.push(")");
        }
        self.versions_of(sql).await
    }

    /// Which of these came after a delete.
    async fn revived(&self, rows: &[Stored]) -> Result<HashSet<(ResourceKey, i64)>, sqlx::Error> {
        let later: Vec<&Stored> = rows.iter().filter(|row| row.version > 1 && row.body.is_some()).collect();
        if later.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT h.key, h.version + 1 FROM history h WHERE h.live = 0 AND h.key IN (");
        sql.join(&later, ", ", |sql, row| {
            sql.literal(row.key);
        });
        sql.push(")");
        self.versions_of(sql).await
    }

    /// Keys with versions.
    async fn versions_of(&self, sql: Sql) -> Result<HashSet<(ResourceKey, i64)>, sqlx::Error> {
        let Sql { text, args, .. } = sql;
        let rows: Vec<(i64, i64)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        Ok(rows.into_iter().collect())
    }
}

/// The conditions that all parts of a page share.
struct Select<'a> {
    wanted: Versions,
    after: Option<After>,
    limit: u32,
    snapshot: &'a Snapshot,
    scope: &'a Scope,
}

impl Select<'_> {
    /// The current and the superseded versions of one type, or of one resource.
    fn both(&self, sql: &mut Sql, type_code: TypeCode, id: Option<&str>) {
        sql.push("SELECT * FROM (SELECT r.key, r.version, r.updated FROM resource r WHERE r.type = ");
        sql.literal(i64::from(type_code)).push(" AND r.version > 0");
        if let Some(id) = id {
            sql.push(" AND r.id = ").str(id);
        }
        self.conditions(sql, "r", id.is_some());
        self.end(sql, "r", id.is_some());
        sql.push(" UNION ALL SELECT * FROM (SELECT h.key, h.version, h.updated FROM history h WHERE h.type = ");
        sql.literal(i64::from(type_code));
        if let Some(id) = id {
            sql.push(" AND h.key IN (SELECT i.key FROM resource i WHERE i.type = ").literal(i64::from(type_code));
            sql.push(" AND i.id = ").str(id).push(")");
        }
        self.at(sql, "h", true);
        self.conditions(sql, "h", id.is_some());
        self.end(sql, "h", id.is_some());
    }

    /// All versions of many types, newest first. What the gate shows is asked once, around all of them: as a condition of each type it would
    /// stand some hundred times in one statement, and planning that takes minutes. Each type's versions are read in the order of an index and merged
    /// as they come, no further than until the page is full.
    fn all(&self, sql: &mut Sql, types: &[TypeCode]) {
        sql.push("SELECT v.key, v.version, v.updated FROM (");
        for (place, type_code) in types.iter().enumerate() {
            for table in ["resource", "history"] {
                sql.push(if place == 0 && table == "resource" { "" } else { " UNION ALL " });
                sql.push("SELECT * FROM (SELECT t.key, t.version, t.updated, t.live, t.owner, t.patient, t.class, t.low, t.high");
                sql.push(&format!(" FROM {table} t WHERE t.version > 0 AND t.type = ")).literal(i64::from(*type_code));
                self.at(sql, "t", table == "history");
                self.written(sql, "t", false);
                sql.push(&format!(" ORDER BY t.updated DESC, t.key DESC, t.version DESC) {table}_{place}"));
            }
        }
        sql.push(" ORDER BY updated DESC, key DESC, version DESC");
        // Keeps the databases from asking the gate before they merge.
        sql.push(if sql.dialect == Dialect::Sqlite { " LIMIT -1" } else { " OFFSET 0" });
        sql.push(") v WHERE 1 = 1");
        compile::named_condition(sql, "v", self.scope);
    }

    /// Of superseded versions: it was current at the time that is asked for.
    fn at(&self, sql: &mut Sql, alias: &str, superseded: bool) {
        if let Some(at) = self.wanted.at.filter(|_| superseded) {
            // Its successor stands in one of the two tables.
            let next = |table: &str| {
                format!("EXISTS (SELECT 1 FROM {table} n WHERE n.key = {alias}.key AND n.version = {alias}.version + 1 AND n.updated > ")
            };
            sql.push(" AND (").push(&next("history")).int(at.low).push(") OR ").push(&next("resource")).int(at.low).push("))");
        }
    }

    fn conditions(&self, sql: &mut Sql, alias: &str, instance: bool) {
        self.written(sql, alias, instance);
        compile::named_condition(sql, alias, self.scope);
    }

    /// When it was written, but for the scope.
    fn written(&self, sql: &mut Sql, alias: &str, instance: bool) {
        sql.push(" AND ");
        compile::visible(sql, &format!("{alias}.txn"), self.snapshot);
        if let Some(since) = self.wanted.since {
            sql.push(&format!(" AND {alias}.updated >= ")).int(since);
        }
        if let Some(at) = self.wanted.at {
            sql.push(&format!(" AND {alias}.updated < ")).int(at.high);
            sql.push(&format!(" AND ({alias}.live > 0 OR {alias}.updated >= ")).int(at.low).push(")");
        }
        match &self.after {
            Some(after) if instance => _ = sql.push(&format!(" AND {alias}.version < ")).int(after.version),
            Some(after) => {
                sql.push(&format!(" AND {alias}.updated <= ")).int(after.updated);
                sql.push(&format!(" AND ({alias}.updated, {alias}.key, {alias}.version) < (")).int(after.updated);
                sql.push(", ").int(after.key).push(", ").int(after.version).push(")");
            }
            None => {}
        }
    }

    fn end(&self, sql: &mut Sql, alias: &str, instance: bool) {
        match instance {
            true => sql.push(&format!(" ORDER BY {alias}.version DESC")),
            false => sql.push(&format!(" ORDER BY {alias}.updated DESC, {alias}.key DESC, {alias}.version DESC")),
        };
        sql.push(" LIMIT ").literal(i64::from(self.limit)).push(&format!(") {alias}_page"));
    }
}
