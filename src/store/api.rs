//! What the other rooms call.

use super::compile;
use super::postgres::Postgres;
use super::query::Snapshot;
use super::sql::{Dialect, Sql, bind_all};
use super::sqlite::Sqlite;
use super::*;
use crate::fhir::time::Micros;
use bytes::Bytes;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// A handle to the database; cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

/// Rung when a unit with jobs commits in this process.
static JOBS: Notify = Notify::const_new();

/// One version of one resource, as it stands in the database.
#[derive(Clone, Debug)]
pub struct Stored {
    pub key: ResourceKey,
    pub type_code: TypeCode,
    pub id: Box<str>,
    pub version: i64,
    pub updated: Micros,
    pub owner: FacilityKey,
    /// As in the table `resource`: whose record it is part of; 0 nobody's, negative: its contributor's alone.
    pub patient: ResourceKey,
    /// `None`: this version is a delete.
    pub body: Option<Bytes>,
}

/// One page of a search.
#[derive(Clone, Debug)]
pub struct Page {
    pub rows: Vec<Stored>,
    /// For each row which of the contained resources of the searched type it is that matched, from 1; 0: the resource itself. Empty
    /// unless the search is sorted by that ([`query::SortBy::Contained`]).
    pub places: Vec<u32>,
    /// Where the next page continues; `None` on the last one.
    pub next: Option<Cursor>,
}

/// What [`Store::explain`] tells.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// For each filter of the query, the rows that its index gives; `None`: not counted, because there is nothing to choose or it
    /// holds a search of its own.
    pub filters: Vec<Option<i64>>,
    /// Where counting stops.
    pub counted: i64,
    /// The place of the filter that drives; `None`: all resources of the type are read.
    pub driver: Option<usize>,
    /// With placeholders, so it holds nothing of the request.
    pub statement: String,
    /// The database's plan, a line each.
    pub plan: Vec<String>,
}

/// A job that this process may work on until its lease ends.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub id: i64,
    pub kind: String,
    pub payload: serde_json::Value,
    /// 1 on the first try.
    pub attempt: i64,
    /// Fencing token: every later word on this job must carry it.
    pub token: i64,
}

/// How a try ended.
#[derive(Clone, Debug)]
pub enum JobEnd {
    Done { result: serde_json::Value },
    Retry { run_at: Micros, error: String },
    Dead { error: String, result: serde_json::Value },
}

/// A job as the operator sees it.
#[derive(Clone, Debug)]
pub struct JobRow {
    pub id: i64,
    pub kind: String,
    pub payload: serde_json::Value,
    /// `waiting`, `running`, `done`, `dead`.
    pub state: String,
    pub attempt: i64,
    pub run_at: Micros,
    pub created: Micros,
    pub error: Option<String>,
    pub result: Option<serde_json::Value>,
}

/// Rows of values for measures: for every resource that `base` finds, one value per column.
#[derive(Clone, Debug)]
pub struct FactQuery {
    pub base: Query,
    pub columns: Vec<FactColumn>,
    /// Whose resources may be followed from the base ones; `None`: everybody's.
    pub followed: Option<Vec<FacilityKey>>,
}

/// A value reached from the base resource by following reference parameters (`hops`), then read from the index of `leaf`.
#[derive(Clone, Debug)]
pub struct FactColumn {
    pub hops: Vec<ParamId>,
    pub leaf: ParamId,
    /// [`query::Kind::Token`] gives every (system key, code), others their smallest value.
    pub kind: query::Kind,
}

#[derive(Clone, Debug)]
pub struct Fact {
    pub key: ResourceKey,
    pub owner: FacilityKey,
    pub values: Vec<FactValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FactValue {
    Missing,
    /// All of the element's codes; `system` is [`system_key`] of the uri, 0 without one.
    Tokens(Vec<(i64, String)>),
    Date(crate::fhir::Interval),
    Real(f64),
    Text(String),
    Key(ResourceKey),
}

/// Columns of a version, in the order that [`stored`] reads them.
pub(super) const VERSION: &str = "key, type, id, version, live, updated, owner, patient, body";

/// The same, in a statement that has more than one table.
pub(super) const VERSION_OF_R: &str = "r.key, r.type, r.id, r.version, r.live, r.updated, r.owner, r.patient, r.body";

pub(super) type VersionRow = (i64, i64, String, i64, i64, i64, i64, i64, Option<Vec<u8>>);

pub(super) fn stored((key, type_code, id, version, live, updated, owner, patient, body): VersionRow) -> Result<Stored, sqlx::Error> {
    let body = match body.filter(|_| live > 0) {
        Some(kept) => Some(packed::unpack(kept).map_err(|error| sqlx::Error::Decode(error.into()))?.into()),
        None => None,
    };
    Ok(Stored {
        key,
        type_code: TypeCode::try_from(type_code).unwrap_or(TypeCode::MAX),
        id: id.into(),
        version,
        updated,
        owner,
        patient,
        body,
    })
}

impl Store {
    /// Opens `sqlite:PATH` or `postgres://…`, and brings its tables up to date.
    pub async fn open(url: &str) -> anyhow::Result<Store> {
        if url.starts_with("sqlite:") {
            Ok(Store::Sqlite(Arc::new(Sqlite::open(url).await?)))
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Ok(Store::Postgres(Arc::new(Postgres::open(url).await?)))
        } else {
            anyhow::bail!("the database must be given as sqlite:PATH or postgres://USER@HOST/DATABASE")
        }
    }

    /// Waits for running statements and closes all connections.
    pub async fn close(&self) {
        match self {
            Store::Sqlite(db) => {
                db.read.close().await;
                db.write.close().await;
            }
            Store::Postgres(db) => {
                db.read.close().await;
                db.planned.close().await;
                db.pool.close().await;
            }
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Store::Sqlite(_) => Dialect::Sqlite,
            Store::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Whether the database answers, and takes writes.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT id FROM counter");
        self.integers(sql).await?;
        match self {
            Store::Sqlite(db) => db.takes_writes().await,
            // Where the disk is full it ends connections, or shuts down.
            Store::Postgres(_) => Ok(()),
        }
    }

    /// Whether the tables are those of this program's migrations, no fewer and no more.
    pub async fn migrated(&self) -> Result<bool, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version");
        Ok(self.integers(sql).await? == super::migrations::versions())
    }

    /// Applies a unit; answers one [`Written`] per mutation when it is durable.
    pub async fn commit(&self, unit: Unit) -> Result<Vec<Written>, WriteError> {
        let wakes = !unit.jobs.is_empty();
        let _turn = if unit.closes() { Some(self.closing().await) } else { None };
        let written = match self {
            Store::Sqlite(db) => db.commit(unit).await,
            Store::Postgres(db) => db.commit(unit).await,
        };
        if wakes && written.is_ok() {
            JOBS.notify_waiters();
        }
        written
    }

    /// Wakes when a job was enqueued in this process.
    pub async fn job_enqueued(&self) {
        JOBS.notified().await;
    }

    /// The current version, a delete included. `None`: never existed, or hidden by `scope`.
    pub async fn read(&self, type_code: TypeCode, id: &str, scope: &Scope) -> Result<Option<Stored>, sqlx::Error> {
        let reads = match self {
            Store::Sqlite(db) => &db.reads,
            Store::Postgres(db) => &db.reads,
        };
        if !matches!(scope, Scope::Gate(_))
            && let Ok(found) = reads.read(type_code, id, scope).await
        {
            return Ok(found);
        }
        let mut sql = Sql::new(self.dialect());
        sql.plan_once(true);
        sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE type = ").literal(i64::from(type_code)).push(" AND id = ").str(id);
        sql.push(" AND version > 0");
        compile::named_condition(&mut sql, "r", scope);
        Ok(self.versions(sql).await?.pop())
    }

    /// The current versions of many resources, in no order, absent ones left out; for the write path.
    pub async fn read_many(&self, targets: &[(TypeCode, String)]) -> Result<Vec<Stored>, sqlx::Error> {
        let mut found = Vec::with_capacity(targets.len());
        for chunk in targets.chunks(500) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT key, type, id, version, live, updated, owner, patient, body FROM (VALUES ");
            sql.join(chunk, ", ", |sql, (code, id)| {
                sql.push("(").literal(i64::from(*code)).push(", ").str(id).push(")");
            });
            sql.push(") v CROSS JOIN resource r WHERE r.type = v.column1 AND r.id = v.column2 AND r.version > 0");
            found.extend(self.versions(sql).await?);
        }
        Ok(found)
    }

    pub async fn read_version(&self, type_code: TypeCode, id: &str, version: i64, scope: &Scope) -> Result<Option<Stored>, sqlx::Error> {
        let versions = self.history(type_code, id, Some(version.saturating_add(1)), 1, scope).await?;
        Ok(versions.into_iter().next().filter(|stored| stored.version == version))
    }

    /// Versions below `before` (newest first), at most `limit`.
    pub async fn history(
        &self,
        type_code: TypeCode,
        id: &str,
        before: Option<i64>,
        limit: u32,
        scope: &Scope,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        let before = before.unwrap_or(i64::MAX);
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key, type, id, version, live, updated, owner, patient, body FROM (SELECT ")
            .push(VERSION)
            .push(", class, low, high FROM resource WHERE type = ");
        sql.literal(i64::from(type_code)).push(" AND id = ").str(id).push(" AND version > 0 AND version < ").int(before);
        sql.push(" UNION ALL SELECT h.key, h.type, r.id, h.version, h.live, h.updated, h.owner, h.patient, h.body, h.class, h.low, h.high FROM resource r JOIN history h ON h.key = r.key");
        sql.push(" WHERE r.type = ").literal(i64::from(type_code)).push(" AND r.id = ").str(id).push(" AND h.version < ").int(before);
        sql.push(") v WHERE 1 = 1");
        compile::named_condition(&mut sql, "v", scope);
        sql.push(" ORDER BY version DESC LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    /// Everything that is committed by now.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, sqlx::Error> {
        match self {
            Store::Postgres(db) => db.snapshot().await,
            Store::Sqlite(_) => {
                let last = self.integers(counter(self.dialect())).await?;
                Ok(Snapshot { below: last.first().map_or(i64::MAX, |txn| txn + 1), except: Vec::new() })
            }
        }
    }

    /// What a statement saw, by its own words.
    pub(super) fn snapshot_of(&self, moment: &str) -> Snapshot {
        match self {
            Store::Postgres(db) => db.snapshot_of(moment),
            Store::Sqlite(_) => Snapshot { below: moment.parse::<i64>().map_or(i64::MAX, |txn| txn.saturating_add(1)), except: Vec::new() },
        }
    }

    /// The first `limit` matches as they are at one moment: what a conditional operation rests on. ([`Store::search`] reads what a
    /// page holds after it has found it.)
    pub async fn matches(&self, query: &Query, limit: u32) -> Result<Vec<Stored>, sqlx::Error> {
        let mut sql = compile::keys(self.dialect(), query);
        sql.text = format!("SELECT {VERSION} FROM resource WHERE live > 0 AND key IN ({}) ORDER BY key LIMIT {limit}", sql.text);
        self.versions(sql).await
    }

    /// How many resources a search finds; with `snapshot`, as of then.
    pub async fn count(&self, query: &Query, snapshot: Option<&Snapshot>) -> Result<u64, sqlx::Error> {
        let plan = self.plan(query, snapshot, None, true).await?;
        let found = self.integers(compile::count(self.dialect(), query, snapshot, plan)).await?;
        Ok(found.first().map_or(0, |n| n.unsigned_abs()))
    }

    /// `_include`: the resources that `from` refer to by any of `params` (of type `target`, if given) and `scope` shows.
    pub async fn referenced_by(
        &self,
        from: &[ResourceKey],
        params: &[ParamId],
        target: Option<TypeCode>,
        scope: &Scope,
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        if from.is_empty() || params.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.plan_once(true);
        sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE r.live > 0");
        compile::version_condition(&mut sql, "r", scope);
        if let Some(target) = target {
            sql.push(" AND r.type = ").literal(i64::from(target));
        }
        sql.push(" AND r.key IN (SELECT x.target FROM reference x WHERE x.until = 0 AND x.param IN (");
        sql.join(params, ", ", |sql, param| _ = sql.literal(i64::from(*param))).push(") AND x.key ").one_of(from);
        sql.push(") ORDER BY r.key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    /// `_revinclude`: the resources that refer to `to` by any of `params` and `scope` shows.
    pub async fn referring_to(
        &self,
        to: &[ResourceKey],
        params: &[ParamId],
        scope: &Scope,
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        if to.is_empty() || params.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE r.live > 0");
        compile::version_condition(&mut sql, "r", scope);
        sql.push(" AND r.key IN (SELECT x.key FROM reference x WHERE x.until = 0 AND x.param IN (");
        sql.join(params, ", ", |sql, param| _ = sql.literal(i64::from(*param))).push(") AND x.target IN (");
        sql.join(to, ", ", |sql, key| {
            sql.literal(*key);
        });
        sql.push(")) ORDER BY r.key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    /// References to resources that nobody has sent: (referring type, its id, missing type, missing id), at most `limit`.
    pub async fn dangling(&self, limit: u32) -> Result<Vec<(TypeCode, String, TypeCode, String)>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push(
            "SELECT DISTINCT r.type, r.id, t.type, t.id FROM resource t JOIN reference x ON x.target = t.key JOIN resource r ON r.key = x.key \
             WHERE t.version = 0 AND x.until = 0 ORDER BY 1, 2 LIMIT ",
        );
        sql.literal(i64::from(limit));
        let Sql { text, args, .. } = sql;
        type Columns = (i64, String, i64, String);
        let rows: Vec<Columns> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
        };
        let code = |n: i64| TypeCode::try_from(n).unwrap_or(TypeCode::MAX);
        Ok(rows.into_iter().map(|(a, b, c, d)| (code(a), b, code(c), d)).collect())
    }

    /// The number of the facility with this code; a new code gets a new number. The empty code is the operator's own (0).
    pub async fn facility_key(&self, code: &str) -> Result<FacilityKey, sqlx::Error> {
        if code.is_empty() {
            return Ok(0);
        }
        if let Some(key) = self.known_facility(code).await? {
            return Ok(key);
        }
        let mut insert = Sql::new(self.dialect());
        insert.push("INSERT INTO facility (code) VALUES (").str(code).push(") ON CONFLICT (code) DO NOTHING");
        self.execute(insert).await?;
        self.known_facility(code).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The number of the facility with this code, if it has one; writes nothing.
    pub async fn known_facility(&self, code: &str) -> Result<Option<FacilityKey>, sqlx::Error> {
        let mut find = Sql::new(self.dialect());
        find.push("SELECT key FROM facility WHERE code = ").str(code);
        Ok(self.integers(find).await?.first().copied())
    }

    /// Whether anybody who logs in, or has sent something, has this code of a facility, or number of a practitioner. `code`: in lower case, trimmed.
    pub async fn has_login(&self, code: &str, is_facility: bool) -> Result<bool, sqlx::Error> {
        let columns: &[(&str, &str)] = match is_facility {
            true => &[("facility", "code"), ("client", "facility"), ("person", "facility")],
            false => &[("person", "practitioner")],
        };
        let mut sql = Sql::new(self.dialect());
        sql.join(columns, " UNION ALL ", |sql, (table, column)| {
            sql.push("SELECT CAST(1 AS BIGINT) FROM ").push(table).push(" WHERE lower(trim(").push(column).push(")) = ").str(code);
        });
        Ok(!self.integers(sql).await?.is_empty())
    }

    /// The code of a facility; `None` for the operator's own organisation and unknown numbers.
    pub async fn facility_code(&self, key: FacilityKey) -> Result<Option<String>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT code FROM facility WHERE key = ").int(key);
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_optional(&db.read).await,
            Store::Postgres(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_optional(&db.read).await,
        }
    }

    /// The versions that `snapshot` sees, in the order of `keys`, which are of what `scope` shows today. One that was superseded or deleted since is left out
    /// unless `scope` shows that too: what a resource says now opens nothing of what it said.
    pub(super) async fn fetch_as_of(&self, keys: &[ResourceKey], snapshot: &Snapshot, scope: &Scope) -> Result<Vec<Stored>, sqlx::Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let list = |sql: &mut Sql| {
            sql.join(keys, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
        };
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource r WHERE live > 0 AND ");
        compile::visible(&mut sql, "r.txn", snapshot);
        sql.push(" AND key IN (");
        list(&mut sql);
        let mut rows = self.versions(sql).await?;
        if rows.len() < keys.len() {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT h.key, h.type, r.id, h.version, h.live, h.updated, h.owner, h.patient, h.body FROM history h JOIN resource r ON r.key = h.key WHERE h.live > 0 AND ");
            compile::visible(&mut sql, "h.txn", snapshot);
            sql.push(" AND NOT ");
            compile::visible(&mut sql, "h.until", snapshot);
            compile::named_condition(&mut sql, "h", scope);
            sql.push(" AND h.key IN (");
            list(&mut sql);
            rows.extend(self.versions(sql).await?);
        }
        Ok(in_order(keys, rows))
    }

    pub(super) async fn versions(&self, sql: Sql) -> Result<Vec<Stored>, sqlx::Error> {
        let rows: Vec<VersionRow> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(sql.text)), sql.args).fetch_all(&db.read).await?,
            Store::Postgres(db) => {
                let pool = db.searched_by(&sql);
                bind_all!(sqlx::query_as(AssertSqlSafe(sql.text)), sql.args).fetch_all(pool).await?
            }
        };
        rows.into_iter().map(stored).collect()
    }

    pub(super) async fn integers(&self, sql: Sql) -> Result<Vec<i64>, sqlx::Error> {
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_scalar(AssertSqlSafe(sql.text)), sql.args).fetch_all(&db.read).await,
            Store::Postgres(db) => {
                let pool = db.searched_by(&sql);
                bind_all!(sqlx::query_scalar(AssertSqlSafe(sql.text)), sql.args).fetch_all(pool).await
            }
        }
    }
}

fn counter(dialect: Dialect) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("SELECT txn FROM counter WHERE id = 1");
    sql
}

pub(super) fn in_order(keys: &[ResourceKey], rows: Vec<Stored>) -> Vec<Stored> {
    let mut by_key: HashMap<ResourceKey, Stored> = rows.into_iter().map(|row| (row.key, row)).collect();
    keys.iter().filter_map(|key| by_key.remove(key)).collect()
}
