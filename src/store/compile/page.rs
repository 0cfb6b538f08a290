//! Pages: the order of the matches, and what comes after a cursor.

use super::condition::instant_test;
use super::drive::is_in_order;
use super::probe::{column_of, follows};
use super::walk::ordering;
use super::{Compiler, holds, named_condition, scope_condition, version_condition, visible};
use crate::store::index::place_of_shift;
use crate::store::query::*;
use crate::store::sql::Dialect;

impl Compiler<'_> {
    pub(super) fn page(&mut self, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        let sort = &query.sort[..];
        if let Some(descending) = by_update(query, self.plan.walks) {
            return self.page_by_last_updated(descending, cursor, limit);
        }
        let order = if self.plan.walks { ordering(query) } else { None };
        if (self.plan.walks || ordering(query).is_none()) && sort.is_empty() && self.walk(cursor, limit) {
            return;
        }
        self.late = self.decides_late();
        self.open = self.may_ask_again();
        if self.late {
            self.sql.push("SELECT g.* FROM (");
        }
        self.sql.push("SELECT DISTINCT p.key");
        for place in 0..sort.len().max(order.iter().len()) {
            self.sql.push(&format!(", p.s{place}"));
        }
        let rest = if self.late { [", p.owner, p.patient", ", m.owner, m.patient"] } else { ["", ""] };
        self.sql.push(rest[0]).push(" FROM (SELECT m.key").push(rest[1]);
        for (place, key) in sort.iter().enumerate() {
            self.sql.push(", ");
            self.sort_value(key);
            self.sql.push(&format!(" AS s{place}"));
        }
        if let Some((place, column)) = order {
            self.sql.push(", ");
            self.ordering_value(place, column);
            self.sql.push(" AS s0");
        }
        self.sql.push(" FROM (");
        self.matches();
        self.sql.push(") m");
        self.sql.push(") p WHERE 1 = 1");
        if let Some(cursor) = cursor {
            self.sql.push(" AND (");
            // In the order of a filter's values as if sorted by them.
            let by_order = SortKey { by: SortBy::Id, descending: false };
            self.after(if order.is_some() { std::slice::from_ref(&by_order) } else { sort }, cursor, 0);
            self.sql.push(")");
        }
        self.order_by("p");
        if self.late {
            // Keeps the databases from deciding before they sort.
            let all = if self.sql.dialect == Dialect::Sqlite { " LIMIT -1" } else { " OFFSET 0" };
            self.sql.push(all).push(") g WHERE 1 = 1");
            scope_condition(self.sql, "g", &query.scope);
            self.ask_again("g");
            if self.sql.dialect == Dialect::Postgres {
                // As it is already; SQLite would sort again, and decide on all for it.
                self.order_by("g");
            }
        }
        self.sql.push(" LIMIT ");
        self.sql.literal(i64::from(limit));
    }

    /// Whether the matches are sorted before the first is known: then the decision can wait until after that.
    fn decides_late(&self) -> bool {
        let query = self.query;
        let comes_in_order = match self.plan.driver(query).and_then(|place| query.filters.get(place)) {
            Some(driver) => is_in_order(driver),
            // PostgreSQL sorts what a chain or `_has` finds; SQLite looks it up in the order of keys.
            None => self.sql.dialect == Dialect::Sqlite || self.plan.by_row || !query.filters.iter().any(follows),
        };
        matches!(query.scope, Scope::Gate(_)) && !(query.sort.is_empty() && comes_in_order)
    }

    fn order_by(&mut self, alias: &str) {
        self.sql.push(" ORDER BY ");
        for (place, key) in self.query.sort.iter().enumerate() {
            let direction = if key.descending { " DESC" } else { "" };
            self.sql.push(&format!("{alias}.s{place}{direction} NULLS LAST, "));
        }
        if self.plan.walks {
            self.sql.push(&format!("{alias}.s0, "));
        }
        self.sql.push(&format!("{alias}.key"));
    }

    /// The commonest listings of all, served by an index of their own. A page of the past also sees what changed since at its old place: each of the
    /// two is read from the cursor on, no further than the page is long.
    fn page_by_last_updated(&mut self, descending: bool, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        // Of a first page, which reads one index; later ones look into the history too.
        self.sql.plan_once(self.seen.is_none() && query.filters.is_empty());
        let Some(snapshot) = self.seen else {
            return self.present_by_last_updated(descending, cursor, limit);
        };
        self.sql.push("SELECT p.key, p.s0 FROM (SELECT * FROM (");
        self.present_by_last_updated(descending, cursor, limit);
        self.sql.push(") present UNION ALL SELECT * FROM (SELECT h.key, h.updated AS s0 FROM history h WHERE h.until >= ");
        let floor = snapshot.except.iter().copied().min().unwrap_or(snapshot.below).min(snapshot.below);
        self.sql.int(floor).push(" AND h.live = 1 AND h.type = ");
        self.sql.literal(i64::from(query.type_code)).push(" AND ");
        visible(self.sql, "h.txn", snapshot);
        self.sql.push(" AND NOT ");
        visible(self.sql, "h.until", snapshot);
        named_condition(self.sql, "h", &query.scope);
        self.stretch_by_last_updated("h", descending, cursor);
        self.sql.push(" LIMIT ").literal(i64::from(limit));
        self.sql.push(") past) p ORDER BY ").push(if descending { "p.s0 DESC" } else { "p.s0" }).push(", p.key LIMIT ");
        self.sql.literal(i64::from(limit));
    }

    /// What is current of what was seen.
    fn present_by_last_updated(&mut self, descending: bool, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        // Backwards PostgreSQL puts what was stored at one instant into the order of keys, and would decide on all of it first. The outer query keeps the order
        // of the inner; if it asked for it too, the inner would be planned as if all were wanted.
        let late = descending && self.sql.dialect == Dialect::Postgres && matches!(query.scope, Scope::Gate(_));
        self.sql.push(if late { "SELECT w.key, w.s0 FROM (" } else { "" }).push("SELECT r.key, r.updated AS s0");
        self.sql.push(if late { ", r.version, r.owner, r.patient, r.class, r.low, r.high" } else { "" });
        self.sql.push(" FROM resource r WHERE r.type = ").literal(i64::from(query.type_code)).push(" AND r.live = 1");
        if let Some(snapshot) = self.seen {
            self.sql.push(" AND ");
            visible(self.sql, "r.txn", snapshot);
        }
        if !late {
            version_condition(self.sql, "r", &query.scope);
        }
        self.stretch_by_last_updated("r", descending, cursor);
        if late {
            self.sql.push(" OFFSET 0) w WHERE 1 = 1");
            version_condition(self.sql, "w", &query.scope);
        }
        self.sql.push(" LIMIT ").literal(i64::from(limit));
    }

    /// The rows of `alias` after the cursor, in order. The bound by `updated` alone is what an index can begin at.
    fn stretch_by_last_updated(&mut self, alias: &str, descending: bool, cursor: Option<&Cursor>) {
        let column = format!("{alias}.updated");
        for filter in &self.query.filters {
            let Filter::LastUpdated { ranges } = filter else { continue };
            for (op, interval) in ranges {
                self.sql.push(" AND ");
                instant_test(self.sql, &column, *op, *interval);
            }
        }
        if let Some(cursor) = cursor
            && let Some(SortValue::Int(updated)) = cursor.after.first()
        {
            let beyond = if descending { "<" } else { ">" };
            self.sql.push(&format!(" AND {column} {beyond}= ")).int(*updated);
            self.sql.push(&format!(" AND ({column} {beyond} ")).int(*updated);
            self.sql.push(&format!(" OR {alias}.key > ")).int(cursor.after_key).push(")");
        }
        let direction = if descending { " DESC" } else { "" };
        self.sql.push(&format!(" ORDER BY {column}{direction}, {alias}.key"));
    }

    /// The rows after the cursor, in an order where missing values come last.
    fn after(&mut self, sort: &[SortKey], cursor: &Cursor, place: usize) {
        let (Some(key), Some(value)) = (sort.get(place), cursor.after.get(place)) else {
            self.sql.push("p.key > ");
            self.sql.int(cursor.after_key);
            return;
        };
        let column = format!("p.s{place}");
        if *value == SortValue::Missing {
            self.sql.push(&format!("{column} IS NULL AND ("));
            self.after(sort, cursor, place + 1);
            self.sql.push(")");
            return;
        }
        let beyond = if key.descending { "<" } else { ">" };
        self.sql.push(&format!("{column} IS NULL OR {column} {beyond} "));
        self.sort_arg(value);
        self.sql.push(&format!(" OR ({column} = "));
        self.sort_arg(value);
        self.sql.push(" AND (");
        self.after(sort, cursor, place + 1);
        self.sql.push("))");
    }

    pub(super) fn sort_arg(&mut self, value: &SortValue) {
        match value {
            SortValue::Missing => self.sql.push("NULL"),
            SortValue::Int(value) => self.sql.int(*value),
            SortValue::Real(value) => self.sql.real(*value),
            SortValue::Text(value) => self.sql.str(value),
        };
    }

    fn sort_value(&mut self, key: &SortKey) {
        let aggregate = if key.descending { "max" } else { "min" };
        match &key.by {
            SortBy::Id => {
                self.sql.push("(SELECT r.id FROM resource r WHERE r.key = m.key)");
            }
            SortBy::Contained if self.placed => {
                self.sql.push(&place_of_shift("m.shift"));
            }
            SortBy::Contained => {
                self.sql.push("CAST(0 AS BIGINT)");
            }
            SortBy::LastUpdated => match self.seen {
                None => {
                    self.sql.push("(SELECT r.updated FROM resource r WHERE r.key = m.key)");
                }
                Some(snapshot) => {
                    self.sql.push("(SELECT CASE WHEN ");
                    visible(self.sql, "r.txn", snapshot);
                    self.sql.push(" THEN r.updated ELSE (SELECT max(h.updated) FROM history h WHERE h.key = r.key AND ");
                    visible(self.sql, "h.txn", snapshot);
                    self.sql.push(") END FROM resource r WHERE r.key = m.key)");
                }
            },
            SortBy::Behind { first, by } => {
                let of = |by: &SortBy| SortKey { by: by.clone(), descending: key.descending };
                self.sql.push("CASE WHEN 1 = 1");
                for first in first {
                    self.sql.push(" AND ");
                    self.sort_value(&of(first));
                    self.sql.push(" IS NULL");
                }
                self.sql.push(" THEN ");
                self.sort_value(&of(by));
                self.sql.push(" END");
            }
            SortBy::Param { param, kind: Kind::Reference } => {
                // The id stands in the resource itself, so it tells nothing of a target that the caller may not see.
                self.sql.push(&format!(
                    "(SELECT {aggregate}(t.id) FROM reference o JOIN resource t ON t.key = o.target WHERE o.key = m.key AND o.param = "
                ));
                self.match_number(*param);
                self.sql.push(" AND ");
                holds(self.sql, "o", self.seen);
                self.sql.push(")");
            }
            SortBy::Param { param, kind } => {
                let (table, column) = column_of(*kind);
                let alias = self.alias("o");
                self.sql.push(&format!(
                    "(SELECT {aggregate}({alias}.{column}) FROM {table} {alias} WHERE {alias}.key = m.key AND {alias}.param = "
                ));
                self.match_number(*param);
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                self.sql.push(")");
            }
        }
    }
}

/// Whether the page is of all resources, or of those changed in some time, in the order of their changes; if so, whether backwards. What is asked
/// for by nothing but its time comes in this order unsorted too (`walks`): whoever keeps a copy asks so.
pub(super) fn by_update(query: &Query, walks: bool) -> Option<bool> {
    if !query.filters.iter().all(|filter| matches!(filter, Filter::LastUpdated { .. })) {
        return None;
    }
    match query.sort.as_slice() {
        [SortKey { by: SortBy::LastUpdated, descending }] => Some(*descending),
        [] if walks && !query.filters.is_empty() => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, page};
    use super::*;
    use crate::store::sql::Sql;
    use crate::store::{Scope, Store};
    use sqlx::AssertSqlSafe;

    #[tokio::test]
    async fn a_page_of_what_changed_last_begins_at_its_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("lango.db").display())).await.unwrap();
        let Store::Sqlite(db) = &store else { unreachable!("it was opened as one") };
        let snapshot = Snapshot { below: 9, except: vec![4] };
        for descending in [true, false] {
            let query = Query {
                type_code: 95,
                filters: Vec::new(),
                scope: Scope::All,
                sort: vec![SortKey { by: SortBy::LastUpdated, descending }],
            };
            let cursor = Cursor { snapshot: snapshot.clone(), after: vec![SortValue::Int(5)], after_key: 7 };
            let (Sql { text, args, .. }, _) = page(Dialect::Sqlite, &query, Some(&snapshot), Some(&cursor), 3, Plan::default());
            let text = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            let plan: Vec<(i64, i64, i64, String)> =
                crate::store::sql::bind_all!(sqlx::query_as(text), args).fetch_all(&db.read).await.unwrap();
            let bound = if descending { "resource_updated (type=? AND updated<?)" } else { "resource_updated (type=? AND updated>?)" };
            assert!(plan.iter().any(|(.., step)| step.contains(bound)), "{plan:?}");
        }
    }
}
