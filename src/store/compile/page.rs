//! Pages: the order of the matches, and what comes after a cursor.

use super::{Compiler, holds, version_condition, visible};
use crate::store::query::*;

impl Compiler<'_> {
    pub(super) fn page(&mut self, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        let sort = &query.sort[..];
        if let [SortKey { by: SortBy::LastUpdated, descending }] = sort
            && query.filters.is_empty()
        {
            return self.page_by_last_updated(*descending, cursor, limit);
        }
        self.sql.push("SELECT DISTINCT p.key");
        for place in 0..sort.len() {
            self.sql.push(&format!(", p.s{place}"));
        }
        self.sql.push(" FROM (SELECT m.key");
        for (place, key) in sort.iter().enumerate() {
            self.sql.push(", ");
            self.sort_value(key);
            self.sql.push(&format!(" AS s{place}"));
        }
        self.sql.push(" FROM (");
        self.matches();
        self.sql.push(") m) p WHERE 1 = 1");
        if let Some(cursor) = cursor {
            self.sql.push(" AND (");
            self.after(sort, cursor, 0);
            self.sql.push(")");
        }
        self.sql.push(" ORDER BY ");
        for (place, key) in sort.iter().enumerate() {
            let direction = if key.descending { " DESC" } else { "" };
            self.sql.push(&format!("p.s{place}{direction} NULLS LAST, "));
        }
        self.sql.push("p.key LIMIT ");
        self.sql.literal(i64::from(limit));
    }

    /// The commonest listing of all, served by its own index. A page of the past also sees what changed since at its old place.
    pub(super) fn page_by_last_updated(&mut self, descending: bool, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        self.sql.push("SELECT p.key, p.updated AS s0 FROM (SELECT r.key, r.updated FROM resource r WHERE r.type = ");
        self.sql.literal(i64::from(query.type_code));
        self.sql.push(" AND r.live = 1");
        if let Some(snapshot) = self.seen {
            self.sql.push(" AND ");
            visible(self.sql, "r.txn", snapshot);
        }
        version_condition(self.sql, "r", &query.scope);
        if let Some(snapshot) = self.seen {
            self.sql.push(" UNION ALL SELECT h.key, h.updated FROM history h WHERE h.until >= ");
            let floor = snapshot.except.iter().copied().min().unwrap_or(snapshot.below).min(snapshot.below);
            self.sql.int(floor);
            self.sql.push(" AND h.live = 1 AND h.type = ");
            self.sql.literal(i64::from(query.type_code));
            self.sql.push(" AND ");
            visible(self.sql, "h.txn", snapshot);
            self.sql.push(" AND NOT ");
            visible(self.sql, "h.until", snapshot);
            version_condition(self.sql, "h", &query.scope);
        }
        self.sql.push(") p");
        if let Some(cursor) = cursor
            && let Some(SortValue::Int(updated)) = cursor.after.first()
        {
            let beyond = if descending { "<" } else { ">" };
            self.sql.push(&format!(" WHERE (p.updated {beyond} "));
            self.sql.int(*updated);
            self.sql.push(" OR (p.updated = ");
            self.sql.int(*updated);
            self.sql.push(" AND p.key > ");
            self.sql.int(cursor.after_key);
            self.sql.push("))");
        }
        self.sql.push(if descending { " ORDER BY p.updated DESC, p.key LIMIT " } else { " ORDER BY p.updated, p.key LIMIT " });
        self.sql.literal(i64::from(limit));
    }

    /// The rows after the cursor, in an order where missing values come last.
    pub(super) fn after(&mut self, sort: &[SortKey], cursor: &Cursor, place: usize) {
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

    pub(super) fn sort_value(&mut self, key: &SortKey) {
        let aggregate = if key.descending { "max" } else { "min" };
        match &key.by {
            SortBy::Id => {
                self.sql.push("(SELECT r.id FROM resource r WHERE r.key = m.key)");
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
            SortBy::Param { param, kind } => {
                let (table, column) = sort_column(*kind);
                let alias = self.alias("o");
                self.sql.push(&format!(
                    "(SELECT {aggregate}({alias}.{column}) FROM {table} {alias} WHERE {alias}.key = m.key AND {alias}.param = "
                ));
                self.sql.literal(i64::from(*param));
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                self.sql.push(")");
            }
        }
    }
}

fn sort_column(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Token => ("token", "code"),
        Kind::String => ("string", "folded"),
        Kind::Reference => ("reference", "target"),
        Kind::Uri => ("uri", "uri"),
        Kind::Date => ("date", "low"),
        Kind::Number => ("number", "value"),
        Kind::Quantity => ("quantity", "value"),
        Kind::Composite => ("composite", "code1"),
    }
}
