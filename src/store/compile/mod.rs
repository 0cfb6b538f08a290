//! [`Query`] to SQL. One filter drives (the one whose index gives the fewest rows, by kind: [`drive`]), the others are probed for
//! each row that it gives ([`probe`]); [`condition`] writes the condition on one index row, [`page`] sorts and continues.
//!
//! The scope ([`scope`]) is a condition on every index row touched, so nothing hidden is ever counted, chained through or
//! sorted by. A probe is on rows of the resource that drove, and its scope decides on those. It costs more than any other condition,
//! so where matches are sorted anyway it is asked last, of one after the other until the page is full. Only [`row_counts`], whose numbers
//! choose a plan and go nowhere else, looks at all rows. Values are always bound; the text is written here and holds nothing of a request.

mod condition;
mod contained;
mod drive;
mod page;
mod probe;
mod scope;
mod walk;

pub use scope::{named_condition, scope_condition, version_condition};
pub use walk::{WALK_FROM, is_walkable, rows_up_to, tail, walk};

use super::TypeCode;
use super::query::*;
use super::sql::{Dialect, Sql};

/// How rows of the past are seen: `None` is now.
type Seen<'a> = Option<&'a Snapshot>;

/// `SELECT key, s1, s2 … ` of one page, `limit` rows at most, of what `seen` saw and after `cursor`.
pub fn page(dialect: Dialect, query: &Query, seen: Seen, cursor: Option<&Cursor>, limit: u32, driver: Option<usize>) -> Sql {
    let mut sql = Sql::new(dialect);
    Compiler::new(&mut sql, query, seen, driver).page(cursor, limit);
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
        Compiler::new(&mut sql, query, seen, None).rows_of(filter);
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
    let placed = is_placed(query);
    sql.push(if placed {
        "SELECT count(*) AS n FROM (SELECT DISTINCT m.key, m.shift FROM ("
    } else {
        "SELECT count(DISTINCT m.key) AS n FROM ("
    });
    Compiler::new(&mut sql, query, seen, driver).matches();
    sql.push(if placed { ") m) c" } else { ") m" });
    sql
}

/// `SELECT key` of every match, unordered and perhaps repeated.
pub fn keys(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = Sql::new(dialect);
    Compiler::new(&mut sql, query, None, None).matches();
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

/// Whether the matches are contained resources, each by itself.
fn is_placed(query: &Query) -> bool {
    let contained = query.filters.iter().any(|filter| matches!(filter, Filter::Contained { .. }));
    contained && query.sort.iter().any(|key| key.by == SortBy::Contained)
}

/// A contained resource whose rows are probed.
#[derive(Clone, Debug)]
struct Within {
    /// How far the numbers of its parameters are from those of its type, as SQL.
    shift: String,
    type_code: TypeCode,
}

struct Compiler<'a> {
    sql: &'a mut Sql,
    query: &'a Query,
    seen: Seen<'a>,
    /// The filter to drive; `None`: by its kind.
    driver: Option<usize>,
    /// The rows of the filter that drives are given with what the scope needs, which decides on them afterwards.
    late: bool,
    /// The matches are contained resources: each is given with how far its parameters' numbers are from those of its type.
    placed: bool,
    /// The conditions are on one contained resource.
    within: Option<Within>,
    /// They are on what a contained resource refers to: no way leads into another one.
    entered: bool,
    aliases: usize,
}

impl<'a> Compiler<'a> {
    fn new(sql: &'a mut Sql, query: &'a Query, seen: Seen<'a>, driver: Option<usize>) -> Self {
        Compiler { sql, query, seen, driver, late: false, placed: is_placed(query), within: None, entered: false, aliases: 0 }
    }

    fn alias(&mut self, letter: &str) -> String {
        self.aliases += 1;
        format!("{letter}{}", self.aliases)
    }
}
