//! How a search is carried out, chosen by counting: which filter drives, and from which end references are followed.
//!
//! A chain or `_has` can be answered as a set (all that the inner search finds, then what refers there) or from each row on. The set costs
//! as much as the inner search finds; rows cost a few probes each, and a page that is full early asks of few of them. So sets are for what
//! is rare, and rows for what is frequent. Counting tells the first; of what is frequent, some resources where the page begins are asked
//! whether they match. So it is with a filter whose index does not give its rows in the order of a page (`ne`, a large value set, what has a value at all):
//! where it is frequent, the resources of the type are read in their order and each is probed.
//!
//! Counts and samples look at all rows, whoever asks: they choose a plan and go nowhere else, and every plan gives the same answer.

use super::probe::follows;
use super::walk::ends_early;
use super::{Compiler, Seen, drive};
use crate::store::query::*;
use crate::store::sql::{Dialect, Sql};

/// Where a count stops: what is more frequent is chosen by its kind. With debug assertions so early that tests, which have little data,
/// see every plan; the answers are the same.
pub const COUNTED: i64 = if cfg!(debug_assertions) { 5 } else { 500 };
/// See [`row_counts`].
pub const COUNT_PLACE: i64 = 1_000_000;
/// See [`all_row_counts`].
pub const COUNT_QUERY: i64 = 1_000_000 * COUNT_PLACE;
/// How far a page may have to go to be full, in resources of its type, and one of how many of them is asked beforehand: following a chain
/// from one takes a few probes, `_has` as many as refer to it, its own values one.
const REACH: (i64, i64) = (4_000, 7);
const REACH_OF_CHAIN: (i64, i64) = (4_000, 61);
const REACH_OF_HAS: (i64, i64) = (60, 7);
/// So many of those that were asked must match for a page to be full by then.
const DENSE: i64 = 2;

/// What drives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The filter with the most selective kind, if any.
    #[default]
    ByKind,
    /// This filter's index is read.
    Filter(usize),
    /// All resources of the type are read in order.
    Type,
}

/// How a search is carried out; whichever way, it finds the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub driver: Driver,
    /// Chains and `_has` are followed from each row on, not computed as sets.
    pub by_row: bool,
    /// An unsorted page is in the order of [`super::walk::ordering`], not of the resources' keys.
    pub walks: bool,
}

impl Plan {
    /// The place of the filter that drives.
    pub fn driver(&self, query: &Query) -> Option<usize> {
        match self.driver {
            Driver::ByKind => by_counts(query, &[]),
            Driver::Filter(place) => Some(place),
            Driver::Type => None,
        }
    }
}

/// How many rows each filter's own index gives (of a chain: the references to what it looks for; of `_has`: what it looks for), as
/// `place * `[`COUNT_PLACE`]` + rows`; `None` when there is nothing to choose. Counting stops at [`COUNTED`], so it costs as much as
/// reading a small page.
pub fn row_counts(dialect: Dialect, query: &Query, seen: Seen) -> Option<Sql> {
    let choices = query.filters.iter().filter(|filter| drive::precedence(filter).is_some()).count();
    let is_slow = by_counts(query, &[]).is_some_and(|place| reads_whole(query, place));
    if choices < 2 && !is_slow && !query.filters.iter().any(follows) {
        return None;
    }
    all_row_counts(dialect, &[query], seen)
}

/// The same of several queries, whether or not there is anything to choose; that with the number `n` adds `n * `[`COUNT_QUERY`]. `None` when
/// nothing can be counted.
pub fn all_row_counts(dialect: Dialect, queries: &[&Query], seen: Seen) -> Option<Sql> {
    let mut sql = Sql::new(dialect);
    for (number, query) in queries.iter().enumerate() {
        let query = &Query { scope: Scope::All, ..(*query).clone() };
        for (place, filter) in query.filters.iter().enumerate().filter(|(_, filter)| drive::is_countable(filter)) {
            let (Ok(number), Ok(place)) = (i64::try_from(number), i64::try_from(place)) else { continue };
            let offset = number.saturating_mul(COUNT_QUERY).saturating_add(place.saturating_mul(COUNT_PLACE));
            sql.push(if sql.text.is_empty() { "SELECT " } else { " UNION ALL SELECT " });
            sql.literal(offset).push(" + count(*) FROM (");
            compiler(&mut sql, query, seen).counted_rows(filter);
            sql.push(" LIMIT ").literal(COUNTED).push(&format!(") c{number}_{place}"));
        }
    }
    (!sql.text.is_empty()).then_some(sql)
}

/// Whether the counts of a query say that it finds nothing: all its filters must hold, and of one there is no row.
pub fn finds_nothing(query: &Query, counts: &[i64]) -> bool {
    query.filters.iter().enumerate().any(|(place, filter)| drive::is_counted_whole(filter) && rows(counts, place) == Some(0))
}

fn compiler<'a>(sql: &'a mut Sql, query: &'a Query, seen: Seen<'a>) -> Compiler<'a> {
    Compiler { placed: false, ..Compiler::new(sql, query, seen, Plan::default()) }
}

impl Compiler<'_> {
    fn counted_rows(&mut self, filter: &Filter) {
        match filter {
            Filter::Has { source, filters, .. } => self.nested(*source, filters),
            Filter::Chain { param, targets } => {
                let (x, t) = (self.alias("x"), self.alias("t"));
                self.sql.push(&format!("SELECT {x}.key FROM reference {x} WHERE {x}.param = ")).literal(i64::from(*param));
                self.sql.push(&format!(" AND {x}.target IN (SELECT * FROM ("));
                self.targets(targets);
                self.sql.push(" LIMIT ").literal(COUNTED).push(&format!(") {t}) AND "));
                super::holds(self.sql, &x, self.seen);
            }
            filter => self.rows_of(filter),
        }
    }
}

/// Which filter is to drive, by what [`row_counts`] found: the rarest, and among the frequent ones the most selective kind.
pub(super) fn by_counts(query: &Query, counts: &[i64]) -> Option<usize> {
    best(query, counts, |_, _| true)
}

fn best(query: &Query, counts: &[i64], admits: impl Fn(usize, &Filter) -> bool) -> Option<usize> {
    let counted = |place: usize| rows(counts, place).unwrap_or(COUNTED);
    let choices = query.filters.iter().enumerate().filter(|(place, filter)| admits(*place, filter));
    choices.filter_map(|(place, filter)| Some((counted(place), drive::precedence(filter)?, place))).min().map(|(.., place)| place)
}

/// What was counted of the filter at this place.
pub fn rows(counts: &[i64], place: usize) -> Option<i64> {
    counts.iter().find(|count| usize::try_from(**count / COUNT_PLACE) == Ok(place)).map(|count| count % COUNT_PLACE)
}

/// Whether a page that this filter's own values drive takes all of them.
fn reads_whole(query: &Query, place: usize) -> bool {
    matches!(query.filters.get(place), Some(Filter::Param { .. } | Filter::Missing { .. })) && !ends_early(query, place)
}

/// What the counts choose, or what else is to be asked.
#[derive(Debug)]
pub enum Choice {
    Made(Plan),
    /// The first plan if [`sample`] finds anything, else the second.
    Sampled(Plan, Plan),
}

/// `whole`: all matches are needed, to count or to sort them.
pub fn choose(query: &Query, counts: &[i64], whole: bool) -> Choice {
    let driver = by_counts(query, counts);
    let plan = Plan { driver: driver.map_or(Driver::ByKind, Driver::Filter), by_row: false, walks: false };
    let is_rare = |place: usize| rows(counts, place).is_some_and(|rows| rows < COUNTED);
    let reads_much = |place: usize| !is_rare(place) && reads_whole(query, place);
    let mut linked = query.filters.iter().enumerate().filter(|(_, filter)| follows(filter)).map(|(place, _)| place);
    let by_row = Plan { by_row: true, ..plan };
    if linked.all(is_rare) {
        return match driver {
            Some(place) if !whole && reads_much(place) => Choice::Sampled(Plan { driver: Driver::Type, ..by_row }, plan),
            _ => Choice::Made(plan),
        };
    }
    match driver {
        Some(place) if is_rare(place) => Choice::Made(by_row),
        _ if whole => Choice::Made(plan),
        _ => {
            let other = best(query, counts, |place, filter| !follows(filter) && !reads_much(place));
            Choice::Sampled(Plan { driver: other.map_or(Driver::Type, Driver::Filter), ..by_row }, plan)
        }
    }
}

/// Whether what `plan` probes is frequent among those resources of the type where a page after `cursor` begins: counts which of some of them
/// satisfy all (the chains and `_has`, or every filter where the type drives), and [`is_dense`] judges. Likes come in rows (one person's, one
/// facility's), so what is frequent elsewhere does not fill this page.
pub fn sample(dialect: Dialect, query: &Query, cursor: Option<&Cursor>, plan: Plan) -> Sql {
    let probed: Vec<&Filter> = query.filters.iter().filter(|filter| plan.driver == Driver::Type || follows(filter)).collect();
    let has = |filter: &&Filter| matches!(filter, Filter::Has { .. });
    let (reach, every) = match () {
        () if probed.iter().any(has) => REACH_OF_HAS,
        () if probed.iter().any(|filter| follows(filter)) => REACH_OF_CHAIN,
        () => REACH,
    };
    let query = &Query { scope: Scope::All, ..query.clone() };
    let mut sql = Sql::new(dialect);
    sql.push("SELECT count(*) FROM (SELECT r.key FROM resource r WHERE r.type = ")
        .literal(i64::from(query.type_code))
        .push(" AND r.live > 0");
    if let Some(cursor) = cursor {
        sql.push(" AND r.key > ").int(cursor.after_key);
    }
    sql.push(" ORDER BY r.key LIMIT ").literal(reach).push(") s WHERE s.key % ").literal(every).push(" = 0");
    let mut compiler = Compiler { plan: Plan { by_row: true, ..Plan::default() }, ..compiler(&mut sql, query, None) };
    for filter in probed {
        compiler.sql.push(" AND ");
        compiler.probe(filter, "s");
    }
    sql
}

/// What [`sample`] counted fills a page within its reach.
pub fn is_dense(sampled: &[i64]) -> bool {
    sampled.first().is_some_and(|found| *found >= DENSE)
}
