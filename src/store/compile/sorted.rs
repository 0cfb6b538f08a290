//! Sorted pages of very many matches: along the sort's own index, with every filter probed, until the page is full.
//!
//! What [`super::page`] does costs as much as there are matches, this as much as it passes by on its way; so the store counts the matches
//! first and lets it pass as many rows at most. Where that does not fill a page (the matches are few among the values, or their values come
//! to an end), the other way is gone. Missing values come last, and behind the last value only those are left: [`tail`].

use super::{Compiler, Plan, Seen, holds, page, scope_condition, visible};
use crate::store::ParamId;
use crate::store::query::*;
use crate::store::sql::{Dialect, Sql};

/// Fewer matches than this are sorted. With debug assertions so few that tests, which have little data, see both ways.
pub const WALK_FROM: i64 = if cfg!(debug_assertions) { 5 } else { 1_000 };
/// Where counting matches stops, and the most rows that are passed by.
pub const WALK_MOST: i64 = 20_000;
/// Fewer matches than this are sorted rather than put together value by value, which takes up to two statements for each.
pub const BY_VALUE_FROM: i64 = if cfg!(debug_assertions) { 5 } else { WALK_MOST };

/// Whether the page after `cursor` may lie along one index.
pub fn is_walkable(query: &Query, cursor: Option<&Cursor>) -> bool {
    let [key] = query.sort.as_slice() else { return false };
    let indexed = match &key.by {
        SortBy::Id => true,
        // With none but bounds on itself it is listed by its own index anyway.
        SortBy::LastUpdated => query.filters.iter().any(|filter| !matches!(filter, Filter::LastUpdated { .. })),
        // Very many have one code, and backwards they would be put into the order of keys first.
        SortBy::Param { kind: Kind::Token | Kind::Uri, .. } => !key.descending,
        SortBy::Param { kind, .. } => is_in_order(*kind),
        SortBy::Contained | SortBy::Behind { .. } => false,
    };
    let contained = query.filters.iter().any(|filter| matches!(filter, Filter::Contained { .. }));
    indexed && !contained && cursor.is_none_or(|cursor| cursor.after != [SortValue::Missing])
}

/// Whether the index of a parameter of this kind has its values in their order. (Quantities are apart by their units, and references are
/// sorted by the ids of their targets.)
fn is_in_order(kind: Kind) -> bool {
    matches!(kind, Kind::Date | Kind::String | Kind::Number | Kind::Token | Kind::Uri)
}

/// `SELECT count(*)` of the rows of the filter that drives, up to [`WALK_MOST`], whoever may see them.
pub fn rows_up_to(dialect: Dialect, query: &Query, seen: Seen, plan: Plan) -> Sql {
    let all = Query { scope: Scope::All, sort: Vec::new(), ..query.clone() };
    let driving = plan.driver(&all).and_then(|place| all.filters.get(place));
    let mut sql = Sql::new(dialect);
    sql.push("SELECT count(*) FROM (");
    let mut compiler = Compiler::new(&mut sql, &all, seen, Plan::default());
    match driving {
        Some(filter) => compiler.rows_of(filter),
        None => compiler.all_of_type(),
    }
    sql.push(" LIMIT ").literal(WALK_MOST).push(") c");
    sql
}

/// `SELECT key, s0` of one page, passing by `steps` rows at most. Fewer rows than `limit` say nothing of what comes after.
pub fn sorted(dialect: Dialect, query: &Query, seen: Seen, cursor: Option<&Cursor>, limit: u32, steps: i64) -> Sql {
    let mut sql = Sql::new(dialect);
    // The page is full early: chains are followed from the rows that are passed by.
    Compiler::new(&mut sql, query, seen, Plan { by_row: true, ..Plan::default() }).sorted(cursor, limit, steps);
    sql
}

/// The page after a cursor without a value: what has none comes in the order of keys.
pub fn tail(dialect: Dialect, query: &Query, cursor: &Cursor, limit: u32, plan: Plan) -> Option<Sql> {
    let [SortKey { by: SortBy::Param { param, kind }, .. }] = query.sort.as_slice() else { return None };
    if !is_in_order(*kind) || cursor.after != [SortValue::Missing] {
        return None;
    }
    let mut left = Query { sort: Vec::new(), ..query.clone() };
    left.filters.push(Filter::Missing { places: vec![(*param, *kind)], missing: true });
    let after = Cursor { after: Vec::new(), ..cursor.clone() };
    let (mut sql, _) = page(dialect, &left, Some(&cursor.snapshot), Some(&after), limit, Plan { walks: false, ..plan });
    sql.text = format!("SELECT t.key, NULL AS s0 FROM ({}) t", sql.text);
    Some(sql)
}

/// Whether the page may be put together value by value of its first sort key: where there are further keys, and backwards by codes and uris.
pub fn goes_by_value(query: &Query) -> bool {
    let contained = query.filters.iter().any(|filter| matches!(filter, Filter::Contained { .. }));
    !contained
        && match query.sort.as_slice() {
            [SortKey { by: SortBy::Param { kind, .. }, descending }] => *descending && matches!(kind, Kind::Token | Kind::Uri),
            [SortKey { by: SortBy::Param { kind, .. }, .. }, ..] => is_in_order(*kind),
            _ => false,
        }
}

/// `SELECT key, s0`, without a key: the next `most` values of the first sort key from `from` on, each once, whoever has them.
pub fn values(dialect: Dialect, query: &Query, seen: Seen, from: Option<&SortValue>, most: usize) -> Option<Sql> {
    let SortKey { by: by @ SortBy::Param { param, .. }, descending } = query.sort.first()? else { return None };
    let mut sql = Sql::new(dialect);
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    Compiler::new(&mut sql, query, seen, Plan::default()).values(*param, by, *descending, from, most);
    Some(sql)
}

/// What the query finds of the resources with this value of its first sort key, or without any, sorted by the others.
pub fn with_value(query: &Query, value: &SortValue) -> Option<Query> {
    let (SortKey { by: SortBy::Param { param, kind }, descending }, rest) = query.sort.split_first()? else { return None };
    let mut filters = query.filters.clone();
    match value {
        SortValue::Missing => filters.push(Filter::Missing { places: vec![(*param, *kind)], missing: true }),
        value => {
            let (kind, value) = (*kind, value.clone());
            filters.push(Filter::Param { param: *param, tests: vec![Test::At { kind, value: value.clone() }] });
            filters.push(Filter::NotParam { param: *param, tests: vec![Test::Before { kind, value, descending: *descending }] });
        }
    }
    Some(Query { filters, sort: rest.to_vec(), ..query.clone() })
}

/// Where the values of a sort stand in order.
struct Way {
    table: &'static str,
    value: &'static str,
    /// Tells rows of one resource and one value apart.
    rest: Option<&'static str>,
    /// The stretches of the index in each of which the values are in order, as further conditions on `x`.
    stretches: &'static [&'static str],
}

impl Way {
    fn of(by: &SortBy) -> Way {
        match by {
            SortBy::Param { kind: Kind::Date, .. } => {
                Way { table: "date", value: "low", rest: Some("high"), stretches: &[" AND x.wide = 0", " AND x.wide = 1"] }
            }
            SortBy::Param { kind: Kind::String, .. } => Way { table: "string", value: "folded", rest: Some("exact"), stretches: &[""] },
            SortBy::Param { kind: Kind::Token, .. } => Way { table: "token", value: "code", rest: Some("system"), stretches: &[""] },
            SortBy::Param { kind: Kind::Uri, .. } => Way { table: "uri", value: "uri", rest: None, stretches: &[""] },
            SortBy::Param { .. } => Way { table: "number", value: "value", rest: None, stretches: &[""] },
            SortBy::Id => Way { table: "resource", value: "id", rest: None, stretches: &[""] },
            SortBy::LastUpdated | SortBy::Contained | SortBy::Behind { .. } => {
                Way { table: "resource", value: "updated", rest: None, stretches: &[""] }
            }
        }
    }
}

impl Compiler<'_> {
    /// The first value in its order that holds, and is `beyond`.
    fn first_value(&mut self, way: &Way, param: ParamId, descending: bool, beyond: impl Fn(&mut Self)) {
        let Way { table, value, .. } = way;
        let first = if descending { "max" } else { "min" };
        self.sql.push(&format!("(SELECT {first}(u.v) FROM ("));
        for (place, stretch) in way.stretches.iter().enumerate() {
            self.sql.push(if place > 0 { " UNION ALL " } else { "" });
            self.sql.push(&format!("SELECT {first}(x.{value}) AS v FROM {table} x WHERE x.param = ")).literal(i64::from(param));
            self.sql.push(stretch).push(" AND ");
            holds(self.sql, "x", self.seen);
            beyond(self);
        }
        self.sql.push(") u)");
    }

    fn values(&mut self, param: ParamId, by: &SortBy, descending: bool, from: Option<&SortValue>, most: i64) {
        let way = Way::of(by);
        let (reaches, passes) = if descending { ("<=", "<") } else { (">=", ">") };
        let column = way.value;
        self.sql.push("WITH RECURSIVE w (v) AS (SELECT ");
        self.first_value(&way, param, descending, |compiler| {
            if let Some(from) = from {
                compiler.sql.push(&format!(" AND x.{column} {reaches} "));
                compiler.sort_arg(from);
            }
        });
        self.sql.push(" UNION ALL SELECT ");
        self.first_value(&way, param, descending, |compiler| _ = compiler.sql.push(&format!(" AND x.{column} {passes} w.v")));
        self.sql.push(" FROM w WHERE w.v IS NOT NULL) SELECT CAST(0 AS BIGINT) AS key, w.v AS s0 FROM w WHERE w.v IS NOT NULL LIMIT ");
        self.sql.literal(most);
    }

    fn sorted(&mut self, cursor: Option<&Cursor>, limit: u32, steps: i64) {
        let query = self.query;
        let Some(SortKey { by, descending }) = query.sort.first() else { return };
        let way = Way::of(by);
        let lists = super::drive::lists(query);
        let order = if *descending { " DESC" } else { "" };
        // PostgreSQL sorts what is put together unless each part says that it comes in this order; SQLite sees it.
        let says_order = self.sql.dialect == Dialect::Postgres && way.stretches.len() > 1;
        self.sql.push("SELECT w.key, w.v AS s0 FROM (");
        for (place, stretch) in way.stretches.iter().enumerate() {
            self.sql.push(if place > 0 { " UNION ALL " } else { "" }).push(if says_order { "(" } else { "" });
            self.stretch_of(&way, by, stretch, *descending, cursor, lists);
            if says_order {
                self.sql.push(&format!(" ORDER BY v{order}, key LIMIT ")).literal(steps).push(")");
            }
        }
        if let (SortBy::LastUpdated, Some(snapshot)) = (by, self.seen) {
            self.superseded(snapshot, *descending, cursor, lists);
        }
        self.sql.push(&format!(" ORDER BY v{order}, key LIMIT ")).literal(steps).push(") w WHERE 1 = 1");
        if let SortBy::Param { param, .. } = by {
            self.first_of_its(&way, *param, *descending);
            if lists {
                // Listed by type: a golden Patient is not.
                self.sql.push(" AND EXISTS (SELECT 1 FROM resource r WHERE r.key = w.key AND r.live <> 2)");
            }
        }
        for filter in &query.filters {
            self.sql.push(" AND ");
            self.probe(filter, "w");
        }
        scope_condition(self.sql, "w", &query.scope);
        if self.sql.dialect == Dialect::Postgres {
            // As it is already; SQLite would sort again, and probe all for it.
            self.sql.push(&format!(" ORDER BY w.v{order}, w.key"));
        }
        self.sql.push(" LIMIT ").literal(i64::from(limit));
    }

    /// `SELECT key, v, …` of one stretch after the cursor.
    fn stretch_of(&mut self, way: &Way, by: &SortBy, stretch: &str, descending: bool, cursor: Option<&Cursor>, lists: bool) {
        let Way { table, value, .. } = way;
        let rest = way.rest.map_or(String::new(), |rest| format!(", x.{rest} AS rest"));
        self.sql.push(&format!("SELECT x.key AS key, x.{value} AS v{rest}, x.owner AS owner, x.patient AS patient FROM {table} x WHERE "));
        match by {
            SortBy::Param { param, .. } => {
                self.sql.push("x.param = ").literal(i64::from(*param)).push(stretch).push(" AND ");
                holds(self.sql, "x", self.seen);
            }
            _ => {
                self.sql.push("x.type = ").literal(i64::from(self.query.type_code));
                match (self.seen, by) {
                    (None, _) => _ = self.sql.push(if lists { " AND x.live = 1" } else { " AND x.live > 0" }),
                    (Some(snapshot), SortBy::LastUpdated) => {
                        self.sql.push(if lists { " AND x.live = 1 AND " } else { " AND x.live > 0 AND " });
                        visible(self.sql, "x.txn", snapshot);
                    }
                    (Some(snapshot), _) => {
                        self.sql.push(if lists { " AND x.live <> 2" } else { "" }).push(" AND x.version > 0 AND ");
                        visible(self.sql, "x.created", snapshot);
                        self.sql.push(" AND (x.live > 0 OR NOT ");
                        visible(self.sql, "x.txn", snapshot);
                        self.sql.push(")");
                    }
                }
            }
        }
        self.beyond(&format!("x.{value}"), "x.key", descending, cursor);
    }

    /// What changed since the snapshot, at its place of then.
    fn superseded(&mut self, snapshot: &Snapshot, descending: bool, cursor: Option<&Cursor>, lists: bool) {
        self.sql.push(" UNION ALL SELECT h.key, h.updated, h.owner, h.patient FROM history h WHERE h.until >= ");
        self.sql.int(snapshot.except.iter().copied().min().unwrap_or(snapshot.below).min(snapshot.below));
        self.sql
            .push(if lists { " AND h.live = 1 AND h.type = " } else { " AND h.live > 0 AND h.type = " })
            .literal(i64::from(self.query.type_code))
            .push(" AND ");
        visible(self.sql, "h.txn", snapshot);
        self.sql.push(" AND NOT ");
        visible(self.sql, "h.until", snapshot);
        self.beyond("h.updated", "h.key", descending, cursor);
    }

    /// After the cursor, so that the index is entered there.
    fn beyond(&mut self, value: &str, key: &str, descending: bool, cursor: Option<&Cursor>) {
        let Some((cursor, after)) = cursor.and_then(|cursor| Some((cursor, cursor.after.first()?))) else { return };
        let (reaches, passes) = if descending { ("<=", "<") } else { (">=", ">") };
        self.sql.push(&format!(" AND {value} {reaches} "));
        self.sort_arg(after);
        self.sql.push(&format!(" AND ({value} {passes} "));
        self.sort_arg(after);
        self.sql.push(&format!(" OR {key} > ")).int(cursor.after_key).push(")");
    }

    /// Of several values of a resource the first in this order is its place.
    fn first_of_its(&mut self, way: &Way, param: u32, descending: bool) {
        let Way { table, value, rest, .. } = way;
        let before = if descending { ">" } else { "<" };
        self.sql.push(&format!(" AND NOT EXISTS (SELECT 1 FROM {table} y WHERE y.key = w.key AND y.param = ")).literal(i64::from(param));
        self.sql.push(" AND ");
        holds(self.sql, "y", self.seen);
        self.sql.push(&format!(" AND (y.{value} {before} w.v"));
        if let Some(rest) = rest {
            self.sql.push(&format!(" OR y.{value} = w.v AND y.{rest} < w.rest"));
        }
        self.sql.push("))");
    }
}
