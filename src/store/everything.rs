//! Whole compartments in pages: those that they are of, then what is in them, then what these need to be understood.
//!
//! Each part is a walk in the order of keys, so a page costs the same wherever it stands and continues after the last key of the one
//! before, in the snapshot of the first. The scope is a condition on every row: nothing is reached through what is hidden.

use super::query::{Snapshot, SortValue};
use super::records::{self, Records};
use super::sql::Sql;
use super::{Cursor, ResourceKey, Store, Stored, TypeCode, compile};

/// What of some compartments is asked for.
#[derive(Clone, Debug)]
pub struct Everything {
    pub records: Records,
    pub supporting: Option<Supporting>,
}

/// Resources that are about nobody and that the compartments' resources refer to, directly or by way of one other of them.
#[derive(Clone, Debug)]
pub struct Supporting {
    /// Whose references count, whatever of them is asked for itself.
    pub members: Records,
    /// Types that references are followed to.
    pub through: Vec<TypeCode>,
    /// Types that are asked for.
    pub wanted: Vec<TypeCode>,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the compartments hold.
    pub members: Vec<Stored>,
    pub supporting: Vec<Stored>,
    pub next: Option<Cursor>,
}

/// The walks, in their order. A cursor's first sort value is the place of the one that it continues.
const WALKS: [Walk; 3] = [Walk::Own, Walk::Members, Walk::Supporting];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Own,
    Members,
    Supporting,
}

impl Store {
    /// One page of at most `limit` resources. The cursor that it gives has one sort value; the caller may add more behind it.
    pub async fn everything(&self, asked: &Everything, limit: u32, cursor: Option<&Cursor>) -> Result<Part, sqlx::Error> {
        let (snapshot, seen) = match cursor {
            Some(cursor) => (cursor.snapshot.clone(), Some(&cursor.snapshot)),
            None => (self.snapshot().await?, None),
        };
        let (first, mut after) = cursor.map_or((0, 0), |cursor| (place(cursor), cursor.after_key));
        let mut part = Part { members: Vec::new(), supporting: Vec::new(), next: None };
        let mut left = limit as usize;
        for (at, walk) in WALKS.into_iter().enumerate().skip(first) {
            let mut keys = self.walk(asked, walk, after, left, seen).await?;
            let more = keys.len() > left;
            keys.truncate(left);
            after = keys.last().copied().unwrap_or(after);
            left = left.saturating_sub(keys.len());
            let during = asked.records.during.filter(|_| walk == Walk::Members);
            let rows = self.record_versions(&keys, &asked.records.scope, seen, during).await?;
            if walk == Walk::Supporting { &mut part.supporting } else { &mut part.members }.extend(rows);
            if more {
                part.next = Some(Cursor { snapshot, after: vec![SortValue::Int(at as i64)], after_key: after });
                return Ok(part);
            }
            after = 0;
        }
        Ok(part)
    }

    /// The next keys of a walk, one more than `limit` if there are.
    async fn walk(
        &self,
        asked: &Everything,
        walk: Walk,
        after: ResourceKey,
        limit: usize,
        seen: Option<&Snapshot>,
    ) -> Result<Vec<ResourceKey>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        match (walk, &asked.supporting) {
            (Walk::Own, _) if asked.records.own.is_none() => return Ok(Vec::new()),
            (Walk::Own, _) => {
                sql.push("SELECT DISTINCT m.key FROM (");
                records::own(&mut sql, &asked.records, seen);
                sql.push(") m WHERE 1 = 1");
            }
            (Walk::Members, _) if asked.records.params.is_empty() => return Ok(Vec::new()),
            (Walk::Members, _) => {
                sql.push("SELECT DISTINCT m.key FROM (");
                records::members(&mut sql, &asked.records, seen);
                sql.push(") m WHERE m.key NOT IN (");
                records::numbers(&mut sql, &asked.records.of);
                sql.push(")");
            }
            (Walk::Supporting, None) => return Ok(Vec::new()),
            (Walk::Supporting, Some(supporting)) => supporting.keys(&mut sql, asked, seen),
        }
        sql.push(" AND m.key > ").int(after).push(" ORDER BY m.key LIMIT ").literal(limit as i64 + 1);
        self.integers(sql).await
    }
}

/// The walk that a cursor continues.
fn place(cursor: &Cursor) -> usize {
    match cursor.after.first() {
        Some(SortValue::Int(place)) => usize::try_from(*place).unwrap_or(WALKS.len()),
        _ => WALKS.len(),
    }
}

impl Supporting {
    /// `SELECT key` of what is asked for. With a time since when, it is what changed since, and what something refers to that did.
    fn keys(&self, sql: &mut Sql, asked: &Everything, seen: Option<&Snapshot>) {
        let fresh = |sql: &mut Sql, alias: &str| match asked.records.since {
            Some(since) => _ = sql.push(&format!("CASE WHEN {alias}.updated >= ")).int(since).push(" THEN 1 ELSE 0 END"),
            None => _ = sql.push("1"),
        };
        sql.push("WITH member (key, fresh) AS (SELECT DISTINCT u.key, ");
        fresh(sql, "u");
        sql.push(" FROM (");
        records::found(sql, &self.members, seen);
        sql.push(") f CROSS JOIN resource u WHERE u.key = f.key)");
        for (from, to) in [("member", "near"), ("near", "far")] {
            sql.push(&format!(", {to} (key, type, fresh) AS (SELECT r.key, r.type, max(CASE WHEN m.fresh = 1 THEN 1 ELSE "));
            fresh(sql, "r");
            sql.push(&format!(" END) FROM {from} m CROSS JOIN reference x CROSS JOIN resource r WHERE x.key = m.key AND "));
            compile::holds(sql, "x", seen);
            sql.push(" AND r.key = x.target AND r.type IN (");
            types(sql, &self.through);
            sql.push(")");
            records::alive(sql, "r", seen);
            compile::version_condition(sql, "r", &asked.records.scope);
            sql.push(" GROUP BY r.key, r.type)");
        }
        sql.push(" SELECT DISTINCT m.key FROM (SELECT * FROM near UNION ALL SELECT * FROM far) m WHERE m.fresh = 1 AND m.type IN (");
        types(sql, &self.wanted);
        sql.push(") AND m.key NOT IN (SELECT key FROM member)");
    }
}

fn types(sql: &mut Sql, types: &[TypeCode]) {
    sql.push("-1");
    for type_code in types {
        sql.push(", ").literal(i64::from(*type_code));
    }
}
