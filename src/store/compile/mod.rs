//! [`Query`] to SQL. One filter drives (the one whose index gives the fewest rows: [`plan`], [`drive`]), the others are probed for
//! each row that it gives ([`probe`]); [`condition`] writes the condition on one index row, [`page`] sorts and continues, and [`walk`] reads
//! an index no further than a page needs.
//!
//! The scope ([`scope`]) is a condition on every index row touched, so nothing hidden is ever counted, chained through or
//! sorted by. A probe is on rows of the resource that drove, and its scope decides on those. It costs more than any other condition,
//! so where matches are sorted anyway it is asked last, of one after the other until the page is full. Only [`plan`], whose numbers
//! go nowhere else, looks at all rows. Values are always bound; the text is written here and holds nothing of a request.

mod canonical;
mod condition;
mod contained;
mod drive;
mod page;
mod plan;
mod probe;
mod scope;
mod sorted;
mod walk;

pub(in crate::store) use canonical::identified_by;
pub use plan::{COUNT_QUERY, COUNTED, Choice, Plan, all_row_counts, choose, finds_nothing, is_dense, row_counts, rows, sample};
pub use scope::{named_condition, scope_condition, version_condition};
pub use sorted::{BY_VALUE_FROM, WALK_FROM, goes_by_value, is_walkable, rows_up_to, sorted, tail, values, with_value};

use super::TypeCode;
use super::query::*;
use super::sql::{Dialect, Sql};

/// How rows of the past are seen: `None` is now.
type Seen<'a> = Option<&'a Snapshot>;

/// `SELECT key, s1, s2 … ` of one page, `limit` rows at most, of what `seen` saw and after `cursor`, with so many sort values.
pub fn page(dialect: Dialect, query: &Query, seen: Seen, cursor: Option<&Cursor>, limit: u32, plan: Plan) -> (Sql, usize) {
    let mut sql = Sql::new(dialect);
    let values = page_into(&mut sql, query, seen, cursor, limit, plan);
    (sql, values)
}

/// The first rows of several pages, one after the other, whose queries have sort keys alike.
pub fn pages(dialect: Dialect, queries: &[(&Query, Plan)], seen: Seen, cursor: Option<&Cursor>, limit: u32) -> Sql {
    let mut sql = Sql::several(dialect);
    for (number, (query, plan)) in queries.iter().enumerate() {
        sql.push(if number > 0 { " UNION ALL SELECT * FROM (" } else { "SELECT * FROM (" });
        page_into(&mut sql, query, seen, cursor, limit, *plan);
        sql.push(&format!(") q{number}"));
    }
    sql
}

/// Appends a page; how many sort values its rows have.
fn page_into(sql: &mut Sql, query: &Query, seen: Seen, cursor: Option<&Cursor>, limit: u32, plan: Plan) -> usize {
    // A page that was begun in the order of keys goes on so.
    let ordered = walk::ordering(query).is_some() || query.sort.is_empty() && page::by_update(query, true).is_some();
    let walks = plan.walks && ordered && cursor.is_none_or(|cursor| cursor.after.len() == 1);
    Compiler::new(sql, query, seen, Plan { walks, ..plan }).page(cursor, limit);
    if walks { 1 } else { query.sort.len() }
}

/// `SELECT count(*)`.
pub fn count(dialect: Dialect, query: &Query, seen: Seen, plan: Plan) -> Sql {
    let mut sql = Sql::new(dialect);
    count_into(&mut sql, query, seen, plan);
    sql
}

/// A count of each.
pub fn count_each(dialect: Dialect, queries: &[(&Query, Plan)], seen: Seen) -> Sql {
    let mut sql = Sql::several(dialect);
    for (number, (query, plan)) in queries.iter().enumerate() {
        sql.push(if number > 0 { " UNION ALL " } else { "" });
        count_into(&mut sql, query, seen, *plan);
    }
    sql
}

fn count_into(sql: &mut Sql, query: &Query, seen: Seen, plan: Plan) {
    let placed = is_placed(query);
    let driver = plan.driver(query);
    let equal = driver.and_then(|place| query.filters.get(place)).is_some_and(drive::is_in_order);
    sql.plan_once(equal && driver.is_some_and(|place| probe::leaves_no_choice(query, place)));
    sql.push(if placed {
        "SELECT count(*) AS n FROM (SELECT DISTINCT m.key, m.shift FROM ("
    } else {
        "SELECT count(DISTINCT m.key) AS n FROM ("
    });
    Compiler::new(sql, query, seen, plan).matches();
    sql.push(") m");
    if let Some(snapshot) = seen {
        closed_since(sql, "m", snapshot, &query.scope);
    }
    sql.push(if placed { ") c" } else { "" });
}

/// Appends the condition that the version of `alias` that the snapshot saw, if it is not the current one, is shown by itself
/// ([`super::Store::fetch_as_of`]).
fn closed_since(sql: &mut Sql, alias: &str, snapshot: &Snapshot, scope: &Scope) {
    if *scope == Scope::All {
        return;
    }
    sql.push(&format!(" WHERE {alias}.key NOT IN (SELECT h.key FROM history h WHERE h.until >= "));
    sql.int(snapshot.except.iter().copied().min().unwrap_or(snapshot.below).min(snapshot.below));
    sql.push(" AND NOT ");
    visible(sql, "h.until", snapshot);
    sql.push(" AND ");
    visible(sql, "h.txn", snapshot);
    sql.push(" AND NOT (1 = 1");
    named_condition(sql, "h", scope);
    sql.push("))");
}

/// `SELECT key` of every match, unordered and perhaps repeated.
pub fn keys(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = Sql::new(dialect);
    Compiler::new(&mut sql, query, None, Plan::default()).matches();
    sql
}

/// `SELECT id` of the first two matches.
pub fn first_ids(dialect: Dialect, query: &Query, most: usize) -> Sql {
    let mut sql = keys(dialect, query);
    sql.text = format!("SELECT id FROM resource WHERE key IN ({}) ORDER BY key LIMIT {most}", sql.text);
    sql
}

/// `column` was written by a transaction that the snapshot sees.
pub fn visible(sql: &mut Sql, column: &str, snapshot: &Snapshot) {
    sql.push(&format!("({column} < "));
    sql.int(snapshot.below);
    if !snapshot.except.is_empty() {
        sql.push(&format!(" AND {column} NOT IN ("));
        sql.join(&snapshot.except, ", ", |sql, txn| {
            sql.int(*txn);
        });
        sql.push(")");
    }
    sql.push(")");
}

/// An index row of `alias` holds, now or as the snapshot saw it.
pub fn holds(sql: &mut Sql, alias: &str, seen: Seen) {
    match seen {
        None => {
            sql.push(&format!("{alias}.until = 0"));
        }
        Some(snapshot) => {
            visible(sql, &format!("{alias}.since"), snapshot);
            sql.push(&format!(" AND ({alias}.until = 0 OR NOT "));
            visible(sql, &format!("{alias}.until"), snapshot);
            sql.push(")");
        }
    }
}

/// Whether the matches are contained resources, each by itself.
fn is_placed(query: &Query) -> bool {
    let contained = query.filters.iter().any(|filter| matches!(filter, Filter::Contained { .. }));
    contained && query.sort.iter().any(|key| key.by == SortBy::Contained)
}

/// A contained resource whose rows are probed.
#[derive(Clone, Debug)]
struct Inside {
    /// How far the numbers of its parameters are from those of its type, as SQL.
    shift: String,
    type_code: TypeCode,
}

struct Compiler<'a> {
    sql: &'a mut Sql,
    query: &'a Query,
    seen: Seen<'a>,
    plan: Plan,
    /// The rows of the filter that drives are given with what the scope needs, which decides on them afterwards.
    late: bool,
    /// Chains and `_has` are followed whoever may see where they lead, and what is left is asked again under the scope ([`Compiler::ask_again`]).
    open: bool,
    /// The matches are contained resources: each is given with how far its parameters' numbers are from those of its type.
    placed: bool,
    /// The conditions are on one contained resource.
    inside: Option<Inside>,
    /// They are on what a contained resource refers to: no way leads into another one.
    entered: bool,
    aliases: usize,
}

impl<'a> Compiler<'a> {
    fn new(sql: &'a mut Sql, query: &'a Query, seen: Seen<'a>, plan: Plan) -> Self {
        Compiler { sql, query, seen, plan, late: false, open: false, placed: is_placed(query), inside: None, entered: false, aliases: 0 }
    }

    fn alias(&mut self, letter: &str) -> String {
        self.aliases += 1;
        format!("{letter}{}", self.aliases)
    }
}
