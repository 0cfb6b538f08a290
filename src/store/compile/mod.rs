//! [`Query`] to SQL. One filter drives (the one whose index gives the fewest rows, by kind: [`drive`]), the others are probed for
//! each row that it gives ([`probe`]); [`condition`] writes the condition on one index row, [`page`] sorts and continues.
//!
//! The scope ([`scope`]) is a condition on every index row touched, so nothing hidden is ever counted, chained through or
//! sorted by. A probe is on rows of the resource that drove, and its scope decides on those. It costs more than any other condition,
//! so where matches are sorted anyway it is asked last, of one after the other until the page is full. Only [`row_counts`], whose numbers
//! choose a plan and go nowhere else, looks at all rows. Values are always bound; the text is written here and holds nothing of a request.

mod condition;
mod drive;
mod page;
mod probe;
mod scope;

pub use scope::{named_condition, scope_condition, version_condition};

use super::query::*;
use super::sql::{Dialect, Sql};

/// How rows of the past are seen: `None` is now.
type Seen<'a> = Option<&'a Snapshot>;

/// `SELECT key, s1, s2 … ` of one page, `limit` rows at most.
pub fn page(dialect: Dialect, query: &Query, cursor: Option<&Cursor>, limit: u32, driver: Option<usize>) -> Sql {
    let seen = cursor.map(|cursor| &cursor.snapshot);
    let mut sql = Sql::new(dialect);
    let mut compiler = Compiler { sql: &mut sql, query, seen, driver, late: false, aliases: 0 };
    compiler.page(cursor, limit);
    sql
}

/// How many rows each filter's own index gives, as `place * `[`COUNT_PLACE`]` + rows`; `None` when there is nothing to choose.
/// Counting stops at [`COUNTED`], so it costs as much as reading a small page.
pub fn row_counts(dialect: Dialect, query: &Query, seen: Seen) -> Option<Sql> {
    let places: Vec<usize> = query.filters.iter().enumerate().filter(|(_, filter)| drive::is_countable(filter)).map(|(at, _)| at).collect();
    if query.filters.iter().filter(|filter| drive::rank(filter).is_some()).count() < 2 || places.is_empty() {
        return None;
    }
    // Whoever asks, it is as much work to read what is there.
    let query = &Query { scope: Scope::All, ..query.clone() };
    let mut sql = Sql::new(dialect);
    for (n, place) in places.into_iter().enumerate() {
        let (Ok(offset), Some(filter)) = (i64::try_from(place), query.filters.get(place)) else { continue };
        sql.push(if n > 0 { " UNION ALL SELECT " } else { "SELECT " });
        sql.literal(offset.saturating_mul(COUNT_PLACE)).push(" + count(*) FROM (");
        Compiler { sql: &mut sql, query, seen, driver: None, late: false, aliases: 0 }.rows_of(filter);
        sql.push(" LIMIT ").literal(COUNTED).push(&format!(") c{n}"));
    }
    Some(sql)
}

/// Where a count stops: what is more frequent is chosen by its kind.
pub const COUNTED: i64 = 500;
/// See [`row_counts`].
pub const COUNT_PLACE: i64 = 1_000_000;

/// Which filter is to drive, by what [`row_counts`] found: the rarest, and among the frequent ones the most selective kind.
pub fn driver(query: &Query, counts: &[i64]) -> Option<usize> {
    let counted = |place: usize| {
        let own = counts.iter().find(|count| usize::try_from(**count / COUNT_PLACE) == Ok(place));
        own.map_or(COUNTED, |count| count % COUNT_PLACE)
    };
    let choices = query.filters.iter().enumerate().filter_map(|(place, filter)| Some((counted(place), drive::rank(filter)?, place)));
    choices.min().map(|(.., place)| place)
}

/// `SELECT count(*)`.
pub fn count(dialect: Dialect, query: &Query, seen: Seen, driver: Option<usize>) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("SELECT count(DISTINCT m.key) AS n FROM (");
    Compiler { sql: &mut sql, query, seen, driver, late: false, aliases: 0 }.matches();
    sql.push(") m");
    sql
}

/// `SELECT key` of every match, unordered and perhaps repeated.
pub fn keys(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = Sql::new(dialect);
    Compiler { sql: &mut sql, query, seen: None, driver: None, late: false, aliases: 0 }.matches();
    sql
}

/// `SELECT id` of the first two matches.
pub fn first_ids(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = keys(dialect, query);
    sql.text = format!("SELECT id FROM resource WHERE key IN ({}) ORDER BY key LIMIT 2", sql.text);
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

struct Compiler<'a> {
    sql: &'a mut Sql,
    query: &'a Query,
    seen: Seen<'a>,
    /// The filter to drive; `None`: by its kind.
    driver: Option<usize>,
    /// The rows of the filter that drives are given with what the scope needs, which decides on them afterwards.
    late: bool,
    aliases: usize,
}

impl Compiler<'_> {
    fn alias(&mut self, letter: &str) -> String {
        self.aliases += 1;
        format!("{letter}{}", self.aliases)
    }
}
