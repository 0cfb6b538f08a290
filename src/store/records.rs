//! The records of a person: everything that names any of their Patients by the parameters of the patient compartment. The compartment
//! of an Encounter, a Practitioner, a RelatedPerson or a Device is the same with other parameters; [`super::everything`] walks any of them.
//!
//! The index of references leads there, a descent for each parameter and Patient, so nothing has to be kept for it. The scope is a
//! condition on every row: on the index rows that find a record, and on the version that is handed out, which on a later page
//! may be one of the past with labels of its own.

use super::api::{Page, Store, in_order};
use super::compile;
use super::inherit::hands_on;
use super::query::{Cursor, Scope, Snapshot};
use super::sql::{Sql, bind_all};
use super::{FacilityKey, ParamId, ResourceKey, Stored, TypeCode};
use crate::fhir::Interval;
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;

/// Which records of a person are asked for.
#[derive(Clone, Debug)]
pub struct Records {
    /// The person's Patients, or what else the compartments are of.
    pub of: Vec<ResourceKey>,
    /// The parameters by which records of the wanted types name one of these.
    pub params: Vec<ParamId>,
    /// The type of these, when they themselves are wanted.
    pub own: Option<TypeCode>,
    /// Only what these facilities contributed; `None`: any.
    pub owners: Option<Vec<FacilityKey>>,
    /// Only what was last updated then or later.
    pub since: Option<Micros>,
    /// Only what happened then, clinically, or does not say when; those themselves excepted.
    pub during: Option<Interval>,
    pub scope: Scope,
}

impl Store {
    /// The numbers of these resources, as far as they were ever received or referred to.
    pub async fn keys_of(&self, type_code: TypeCode, ids: &[String]) -> Result<Vec<ResourceKey>, sqlx::Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key FROM resource WHERE type = ").literal(i64::from(type_code)).push(" AND id IN (");
        sql.join(ids, ", ", |sql, id| {
            sql.str(id);
        });
        sql.push(") ORDER BY key");
        self.integers(sql).await
    }

    /// One page of at most `limit` records, in the order of their arrival.
    pub async fn records(&self, asked: &Records, limit: u32, cursor: Option<&Cursor>) -> Result<Page, sqlx::Error> {
        let (snapshot, seen) = match cursor {
            Some(cursor) => (cursor.snapshot.clone(), Some(&cursor.snapshot)),
            None => (self.snapshot().await?, None),
        };
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT m.key FROM (");
        found(&mut sql, asked, seen);
        sql.push(") m WHERE m.key > ").int(cursor.map_or(0, |cursor| cursor.after_key));
        sql.push(" ORDER BY m.key LIMIT ").literal(i64::from(limit).saturating_add(1));
        let mut keys = self.integers(sql).await?;
        let more = keys.len() > limit as usize;
        keys.truncate(limit as usize);
        let next = keys.last().filter(|_| more).map(|key| Cursor { snapshot, after: Vec::new(), after_key: *key });
        Ok(Page { rows: self.record_versions(&keys, &asked.scope, seen, asked.during).await?, places: Vec::new(), next })
    }

    /// How many records there are of each facility that has any.
    pub async fn record_owners(&self, asked: &Records) -> Result<Vec<(FacilityKey, i64)>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT m.owner, count(DISTINCT m.key) FROM (");
        found(&mut sql, asked, None);
        sql.push(") m GROUP BY m.owner ORDER BY m.owner");
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
        }
    }

    /// The facts by which consents decide on these resources now, what they inherited among them, in numbers. For lango's own work: no scope.
    pub async fn facts_of(&self, keys: &[ResourceKey]) -> Result<Vec<(ResourceKey, i64)>, sqlx::Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT r.key, f.fact FROM resource r JOIN class_fact f ON f.class = r.class WHERE r.key IN (");
        numbers(&mut sql, keys);
        sql.push(")");
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await,
        }
    }

    /// Those of these resources that name an Encounter or a result that none of `owners` contributed, or that nobody did.
    pub async fn naming_others(&self, keys: &[ResourceKey], owners: &[FacilityKey]) -> Result<Vec<ResourceKey>, sqlx::Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT DISTINCT x.key FROM reference x JOIN resource c ON c.key = x.target WHERE x.until = 0 AND (c.version = 0 OR c.owner NOT IN (-1");
        for owner in owners {
            sql.push(", ").int(*owner);
        }
        sql.push(")) AND ");
        hands_on(&mut sql);
        sql.push(" AND x.key IN (");
        numbers(&mut sql, keys);
        sql.push(")");
        self.integers(sql).await
    }

    /// The versions of these resources that the snapshot sees, as far as `scope` shows them and they are of the time asked for.
    pub(super) async fn record_versions(
        &self,
        keys: &[ResourceKey],
        scope: &Scope,
        seen: Option<&Snapshot>,
        during: Option<Interval>,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(self.dialect());
        sql.push(
            "SELECT r.key, r.type, r.id, r.version, r.live, r.updated, r.owner, r.patient, r.body FROM resource r WHERE r.live = 1 AND r.key IN (",
        );
        numbers(&mut sql, keys);
        sql.push(")");
        if let Some(snapshot) = seen {
            sql.push(" AND ");
            compile::visible(&mut sql, "r.txn", snapshot);
        }
        compile::version_condition(&mut sql, "r", scope);
        happened(&mut sql, "r", during);
        if let Some(snapshot) = seen {
            sql.push(" UNION ALL SELECT h.key, h.type, r.id, h.version, h.live, h.updated, h.owner, h.patient, h.body FROM history h JOIN resource r ON r.key = h.key WHERE h.live = 1 AND h.key IN (");
            numbers(&mut sql, keys);
            sql.push(") AND ");
            compile::visible(&mut sql, "h.txn", snapshot);
            sql.push(" AND NOT ");
            compile::visible(&mut sql, "h.until", snapshot);
            compile::named_condition(&mut sql, "h", scope);
            happened(&mut sql, "h", during);
        }
        Ok(in_order(keys, self.versions(sql).await?))
    }
}

/// `SELECT key, owner` of everything asked for, perhaps repeated.
pub(super) fn found(sql: &mut Sql, asked: &Records, seen: Option<&Snapshot>) {
    members(sql, asked, seen);
    if asked.own.is_some() {
        sql.push(" UNION ALL ");
        own(sql, asked, seen);
    }
}

/// The same of what names those asked about.
pub(super) fn members(sql: &mut Sql, asked: &Records, seen: Option<&Snapshot>) {
    sql.push("SELECT i.key, i.owner FROM reference i WHERE i.param IN (");
    sql.join(if asked.params.is_empty() { &[0] } else { &asked.params[..] }, ", ", |sql, param| {
        sql.literal(i64::from(*param));
    });
    sql.push(") AND i.target IN (");
    numbers(sql, &asked.of);
    sql.push(") AND ");
    compile::holds(sql, "i", seen);
    compile::scope_condition(sql, "i", &asked.scope);
    narrowed(sql, "i", asked);
    if asked.during.is_some() {
        // What changed since the snapshot is judged by the version that is shown.
        sql.push(" AND EXISTS (SELECT 1 FROM resource w WHERE w.key = i.key AND (");
        if let Some(snapshot) = seen {
            sql.push("NOT ");
            compile::visible(sql, "w.txn", snapshot);
            sql.push(" OR ");
        }
        sql.push("(1 = 1");
        happened(sql, "w", asked.during);
        sql.push(")))");
    }
}

/// The same of those themselves; of none when they are not wanted.
pub(super) fn own(sql: &mut Sql, asked: &Records, seen: Option<&Snapshot>) {
    sql.push("SELECT r.key, r.owner FROM resource r WHERE r.type = ").literal(asked.own.map_or(-1, i64::from)).push(" AND r.key IN (");
    numbers(sql, &asked.of);
    sql.push(")");
    alive(sql, "r", seen);
    compile::version_condition(sql, "r", &asked.scope);
    narrowed(sql, "r", asked);
}

/// Appends the condition that rows of `resource` are listed, now or as the snapshot saw them.
pub(super) fn alive(sql: &mut Sql, alias: &str, seen: Option<&Snapshot>) {
    match seen {
        None => {
            sql.push(&format!(" AND {alias}.live = 1"));
        }
        Some(snapshot) => {
            sql.push(&format!(" AND {alias}.version > 0 AND {alias}.live < 2 AND "));
            compile::visible(sql, &format!("{alias}.created"), snapshot);
            sql.push(&format!(" AND ({alias}.live = 1 OR NOT "));
            compile::visible(sql, &format!("{alias}.txn"), snapshot);
            sql.push(")");
        }
    }
}

fn narrowed(sql: &mut Sql, alias: &str, asked: &Records) {
    if let Some(owners) = &asked.owners {
        sql.push(&format!(" AND {alias}.owner IN ("));
        // No facility has this number.
        numbers(sql, if owners.is_empty() { &[-1] } else { owners });
        sql.push(")");
    }
    if let Some(since) = asked.since {
        sql.push(&format!(" AND EXISTS (SELECT 1 FROM resource u WHERE u.key = {alias}.key AND u.updated >= "));
        sql.int(since).push(")");
    }
}

/// Appends the condition that a version happened in `during`, or does not say when.
fn happened(sql: &mut Sql, alias: &str, during: Option<Interval>) {
    if let Some(Interval { low, high }) = during {
        sql.push(&format!(" AND ({alias}.low = {alias}.high OR ({alias}.low < ")).int(high);
        sql.push(&format!(" AND {alias}.high > ")).int(low).push("))");
    }
}

/// At least one number, for a list that may not be empty; no row has the number 0.
pub(super) fn numbers(sql: &mut Sql, numbers: &[i64]) {
    sql.join(if numbers.is_empty() { &[0] } else { numbers }, ", ", |sql, number| {
        sql.literal(*number);
    });
}
