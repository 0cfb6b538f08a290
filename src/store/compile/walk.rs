//! Unsorted pages in the order of an index, so that a page ends when it is full, however many more there are.
//!
//! Equality gives its rows in the order of resources already; several equalities (`code=a,b`) are as many stretches, each read as far as
//! one page and then merged. A range (names that begin so, days since, values above) is in the order of its values, and sorting all that is in it
//! by resource would cost as much as there is. So an unsorted search whose most selective kind of filter ([`ordering`]) is a range is
//! in the order of that filter's values: a resource comes where its first matching value is. Which filter that is depends on the question
//! alone and never on what is stored, least of all on what the caller may not see; whichever filter drives, the order is the same.

use super::condition::{after_prefix, golden_link, test_table};
use super::probe::{column_of, leaves_no_choice};
use super::{Compiler, holds, scope_condition};
use crate::fhir::Interval;
use crate::store::query::*;
use crate::store::rows::NARROW;
use crate::store::sql::{Arg, Dialect};
use crate::store::{ParamId, TypeCode};

/// More alternatives than these are read whole and sorted.
const MAX_STRETCHES: usize = 8;

/// A part of one parameter's index that is in the order of the page.
struct Stretch<'a> {
    test: &'a Test,
    /// Columns with one value.
    fixed: Vec<(&'static str, Fixed)>,
    /// Where the ordering column begins and ends.
    bounds: Vec<(&'static str, Arg)>,
}

enum Fixed {
    Value(Arg),
    /// The key of a resource.
    Resource(TypeCode, String),
    /// Those that a golden Patient stands for; few.
    Sources(TypeCode, ParamId, String),
}

/// The filter by whose values an unsorted page is ordered, and their column; `None`: by the resources' keys.
pub(super) fn ordering(query: &Query) -> Option<(usize, &'static str)> {
    if !query.sort.is_empty() {
        return None;
    }
    let place = super::plan::by_counts(query, &[])?;
    let Some(Filter::Param { tests, .. }) = query.filters.get(place) else { return None };
    let column = column(tests.first()?)?;
    let fits = tests.len() <= MAX_STRETCHES && tests.iter().all(|test| self::column(test) == Some(column));
    fits.then_some((place, column))
}

/// The column that a range is over; `None` for what is no range, is not one stretch of its index, or has no index by resource to tell
/// whether a resource came before.
fn column(test: &Test) -> Option<&'static str> {
    match test {
        Test::StringStarts(_) | Test::StringIs(_) | Test::StringExact(_) | Test::StringContains(_) | Test::StringEnds(_) => Some("folded"),
        Test::Date { op, .. } if *op != DateOp::Ne => Some("low"),
        Test::Number { op, .. } if *op != NumberOp::Ne => Some("value"),
        // Those of one unit: the values of different units are in no order.
        Test::Quantity { op, unit: Some(UnitTest { system: Some(_), .. }), .. } if *op != NumberOp::Ne => Some("value"),
        Test::Amount { op, .. } if *op != NumberOp::Ne => Some("value"),
        _ => None,
    }
}

impl Compiler<'_> {
    /// A page of the filter that drives, read no further than needed; `false` if its index is not in the order of the page.
    pub(super) fn walk(&mut self, cursor: Option<&Cursor>, limit: u32) -> bool {
        let query = self.query;
        let Some(driver) = self.plan.driver(query) else { return false };
        let Some(Filter::Param { param, tests }) = query.filters.get(driver) else { return false };
        let Some((stretches, column)) = stretches_of(query, driver) else { return false };
        self.sql.plan_once(leaves_no_choice(query, driver));
        let several = stretches.len() > 1;
        if several {
            self.sql.push("SELECT DISTINCT w.key").push(if column.is_some() { ", w.s0" } else { "" }).push(" FROM (");
        }
        for (number, stretch) in stretches.iter().enumerate() {
            if several {
                self.sql.push(if number > 0 { " UNION ALL SELECT * FROM (" } else { "SELECT * FROM (" });
            }
            self.stretch(driver, *param, tests, stretch, column, cursor);
            self.sql.push(" LIMIT ").literal(i64::from(limit));
            if several {
                self.sql.push(&format!(") w{number}"));
            }
        }
        if several {
            self.sql.push(") w ORDER BY ").push(if column.is_some() { "w.s0, " } else { "" }).push("w.key LIMIT ");
            self.sql.literal(i64::from(limit));
        }
        true
    }

    fn stretch(
        &mut self,
        driver: usize,
        param: ParamId,
        tests: &[Test],
        stretch: &Stretch<'_>,
        column: Option<&str>,
        cursor: Option<&Cursor>,
    ) {
        let query = self.query;
        let table = test_table(stretch.test);
        let alias = self.alias("d");
        self.sql.push(&format!("SELECT DISTINCT {alias}.key"));
        if let Some(column) = column {
            self.sql.push(&format!(", {alias}.{column} AS s0"));
        }
        self.sql.push(&format!(" FROM {table} {alias} WHERE {alias}.param = ")).literal(i64::from(param));
        for (name, value) in &stretch.fixed {
            self.sql.push(&format!(" AND {alias}.{name} "));
            self.fixed(value);
        }
        self.begin(&alias, stretch, column, cursor);
        self.sql.push(" AND ");
        if !matches!(stretch.test, Test::Reference { .. } | Test::Uri(_)) {
            // What the bounds leave to be said; they alone enter the index: SQLite takes one of several, and not the closest.
            let checked = self.checked(&alias);
            self.test(stretch.test, &checked);
            self.sql.push(" AND ");
        }
        holds(self.sql, &alias, self.seen);
        if let Some(column) = column {
            let earlier = self.alias("e");
            self.sql.push(&format!(" AND NOT EXISTS (SELECT 1 FROM {table} {earlier} WHERE {earlier}.key = {alias}.key AND "));
            self.tests_of_key(param, tests, &earlier);
            self.sql.push(" AND ");
            holds(self.sql, &earlier, self.seen);
            self.sql.push(&format!(" AND {}.{column} < {alias}.{column}", self.checked(&earlier)));
            self.for_each_row();
            self.sql.push(")");
        }
        for (_, other) in query.filters.iter().enumerate().filter(|(place, _)| *place != driver) {
            self.sql.push(" AND ");
            self.probe(other, &alias);
        }
        self.listed(&alias);
        scope_condition(self.sql, &alias, &query.scope);
        self.sql.push(" ORDER BY ");
        if let Some(column) = column {
            self.sql.push(&format!("{alias}.{column}, "));
        }
        self.sql.push(&format!("{alias}.key"));
    }

    /// Where the stretch is entered and left: at its bounds, or after the cursor if that is further on.
    fn begin(&mut self, alias: &str, stretch: &Stretch<'_>, column: Option<&str>, cursor: Option<&Cursor>) {
        let after = cursor.and_then(|cursor| cursor.after.first());
        let mut entered = false;
        for (bound, value) in &stretch.bounds {
            let Some(column) = column else { continue };
            let enters = bound.starts_with('>');
            if !enters || after.is_none_or(|after| is_beyond(value, after)) {
                self.sql.push(&format!(" AND {alias}.{column} {bound} ")).bind(value.clone());
                entered |= enters;
            }
        }
        match (column, after, cursor) {
            (Some(_), Some(_), _) if entered => {}
            (Some(column), Some(after), Some(cursor)) => {
                self.sql.push(&format!(" AND ({alias}.{column}, {alias}.key) > ("));
                self.sort_arg(after);
                self.sql.push(", ").int(cursor.after_key).push(")");
            }
            (_, _, Some(cursor)) => {
                self.sql.push(&format!(" AND {alias}.key > ")).int(cursor.after_key);
            }
            (_, _, None) => {}
        }
    }

    fn fixed(&mut self, value: &Fixed) {
        match value {
            Fixed::Value(value) => {
                self.sql.push("= ").bind(value.clone());
            }
            Fixed::Resource(type_code, id) => {
                self.sql.push("= (SELECT t.key FROM resource t WHERE t.type = ").literal(i64::from(*type_code));
                self.sql.push(" AND t.id = ").str(id).push(")");
            }
            Fixed::Sources(patient, link, id) => {
                self.sql.push("IN (SELECT g.target FROM resource t JOIN reference g ON g.key = t.key AND g.until = 0 AND g.param = ");
                self.sql.literal(i64::from(*link)).push(" WHERE t.live = 2 AND t.type = ").literal(i64::from(*patient));
                self.sql.push(" AND t.id = ").str(id).push(")");
            }
        }
    }

    /// The value that a match of `m` is ordered by, when another filter drives.
    pub(super) fn ordering_value(&mut self, place: usize, column: &str) {
        let Some(Filter::Param { param, tests }) = self.query.filters.get(place) else { return };
        let table = tests.first().map_or("token", test_table);
        let alias = self.alias("o");
        self.sql.push(&format!("(SELECT min({alias}.{column}) FROM {table} {alias} WHERE {alias}.key = m.key AND "));
        self.tests_of_key(*param, tests, &alias);
        self.sql.push(" AND ");
        holds(self.sql, &alias, self.seen);
        self.sql.push(")");
    }

    /// [`Compiler::tests`] on the rows of one resource, which an index by resource leads to. SQLite would rather read a range of the
    /// values and look for the resource there, and PostgreSQL a range of dates, of which it believes that few begin after a day (a plus in front keeps
    /// its numbers from choosing an index too, and is nothing that texts have).
    pub(super) fn tests_of_key(&mut self, param: ParamId, tests: &[Test], alias: &str) {
        self.sql.push(&format!("{alias}.param = "));
        self.number(param);
        self.sql.push(" AND ");
        let are_dates = tests.iter().all(|test| matches!(test, Test::Date { .. }));
        let checked = if are_dates { format!("+{alias}") } else { self.checked(alias) };
        self.any_of(tests, &checked);
    }

    /// The alias as it is written where a condition is not to choose an index.
    fn checked(&self, alias: &str) -> String {
        if self.sql.dialect == Dialect::Sqlite { format!("+{alias}") } else { alias.to_owned() }
    }
}

/// Whether an unsorted page that this filter drives is read no further than needed.
pub(super) fn ends_early(query: &Query, driver: usize) -> bool {
    stretches_of(query, driver).is_some()
}

/// The stretches of the filter's index that are in the order of the page, and the column by which they are.
fn stretches_of(query: &Query, driver: usize) -> Option<(Vec<Stretch<'_>>, Option<&'static str>)> {
    let Some(Filter::Param { tests, .. }) = query.filters.get(driver) else { return None };
    let column = match ordering(query) {
        Some((place, column)) if place == driver => Some(column),
        Some(_) => return None,
        None => None,
    };
    Some((stretches(tests, column)?, column))
}

/// `None` if some test is no stretch, or they are too many.
fn stretches<'a>(tests: &'a [Test], column: Option<&str>) -> Option<Vec<Stretch<'a>>> {
    let mut all = Vec::new();
    for test in tests {
        match column {
            None => equal(test, &mut all)?,
            Some(_) => range(test, &mut all),
        }
    }
    (!all.is_empty() && all.len() <= 2 * MAX_STRETCHES).then_some(all)
}

/// Whether a bound lies behind where the last page ended.
fn is_beyond(bound: &Arg, after: &SortValue) -> bool {
    match (bound, after) {
        (Arg::Int(bound), SortValue::Int(after)) => bound > after,
        (Arg::Real(bound), SortValue::Real(after)) => bound > after,
        (Arg::Text(bound), SortValue::Text(after)) => bound > after,
        _ => false,
    }
}

/// What is equal to something is in the order of resources.
fn equal<'a>(test: &'a Test, all: &mut Vec<Stretch<'a>>) -> Option<()> {
    let text = |column, text: &String| (column, Fixed::Value(Arg::Text(text.clone())));
    match test {
        Test::Token { code: Some(code), .. } => all.push(Stretch { test, fixed: vec![text("code", code)], bounds: Vec::new() }),
        Test::TokenIn { codes, .. } if codes.len() <= MAX_STRETCHES => {
            all.extend(codes.iter().map(|code| Stretch { test, fixed: vec![text("code", code)], bounds: Vec::new() }));
        }
        Test::Uri(uri) => all.push(Stretch { test, fixed: vec![text("uri", uri)], bounds: Vec::new() }),
        Test::At { kind, value } => {
            let value = match value {
                SortValue::Int(value) => Arg::Int(*value),
                SortValue::Real(value) => Arg::Real(*value),
                SortValue::Text(value) => Arg::Text(value.clone()),
                SortValue::Missing => return None,
            };
            let at = || (column_of(*kind).1, Fixed::Value(value.clone()));
            let add = |fixed| all.push(Stretch { test, fixed, bounds: Vec::new() });
            match kind {
                Kind::Date => [0, 1].map(|wide| vec![("wide", Fixed::Value(Arg::Int(wide))), at()]).into_iter().for_each(add),
                _ => [vec![at()]].into_iter().for_each(add),
            }
        }
        Test::Composite(parts) => match parts.first() {
            Some(Test::Token { code: Some(code), .. }) => {
                all.push(Stretch { test, fixed: vec![text("code1", code)], bounds: Vec::new() });
            }
            _ => return None,
        },
        Test::Reference { type_codes, id } => {
            for type_code in type_codes {
                let fixed = vec![("target", Fixed::Resource(*type_code, id.clone()))];
                all.push(Stretch { test, fixed, bounds: Vec::new() });
            }
            if let Some((patient, link)) = golden_link().filter(|(patient, _)| type_codes.contains(patient)) {
                let fixed = vec![("target", Fixed::Sources(patient, link, id.clone()))];
                all.push(Stretch { test, fixed, bounds: Vec::new() });
            }
        }
        _ => return None,
    }
    Some(())
}

/// What is in a range is in the order of the range's column.
fn range<'a>(test: &'a Test, all: &mut Vec<Stretch<'a>>) {
    let begins_with = |prefix: &str| vec![(">=", Arg::Text(prefix.to_owned())), ("<", Arg::Text(after_prefix(prefix)))];
    let exactly = |text: &str| vec![(">=", Arg::Text(text.to_owned())), ("<=", Arg::Text(text.to_owned()))];
    let mut add = |fixed: Vec<(&'static str, Fixed)>, bounds: Vec<(&'static str, Arg)>| all.push(Stretch { test, fixed, bounds });
    match test {
        Test::StringStarts(folded) => add(Vec::new(), begins_with(folded)),
        Test::StringIs(folded) => add(Vec::new(), exactly(folded)),
        Test::StringExact(text) => add(Vec::new(), exactly(&crate::fhir::text::comparable(text))),
        Test::Date { op, interval } => {
            for wide in [0, 1] {
                add(vec![("wide", Fixed::Value(Arg::Int(wide)))], date_bounds(*op, *interval, wide == 1));
            }
        }
        Test::Number { op, low, value, high } => add(Vec::new(), number_bounds(*op, *low, *value, *high)),
        Test::Quantity { op, low, value, high, unit } => {
            let unit = unit.iter().map(|unit| ("code", Fixed::Value(Arg::Text(unit.code.clone()))));
            add(unit.collect(), number_bounds(*op, *low, *value, *high));
        }
        Test::Amount { op, low, value, high, dimension } => {
            add(vec![("code", Fixed::Value(Arg::Text(dimension.clone())))], number_bounds(*op, *low, *value, *high));
        }
        _ => add(Vec::new(), Vec::new()),
    }
}

/// Where intervals begin that can satisfy the test. One that ends late may have begun long before, if it is a wide one.
fn date_bounds(op: DateOp, Interval { low, high }: Interval, wide: bool) -> Vec<(&'static str, Arg)> {
    let later = |than: i64| (">", Arg::Int(than));
    let before = |end: i64| ("<", Arg::Int(end));
    let mut bounds = match op {
        DateOp::Eq => vec![(">=", Arg::Int(low)), before(high)],
        DateOp::Gt if !wide => vec![later(high.saturating_sub(NARROW))],
        DateOp::Ge if !wide => vec![later(high.saturating_sub(NARROW).min(low.saturating_sub(1)))],
        DateOp::Ap if !wide => vec![later(low.saturating_sub(NARROW))],
        DateOp::Lt | DateOp::Eb => vec![before(low)],
        DateOp::Le => vec![before(high)],
        DateOp::Sa => vec![(">=", Arg::Int(high))],
        DateOp::Gt | DateOp::Ge | DateOp::Ap | DateOp::Ne => Vec::new(),
    };
    if op == DateOp::Ap {
        bounds.push(before(high));
    }
    bounds
}

fn number_bounds(op: NumberOp, low: f64, value: f64, high: f64) -> Vec<(&'static str, Arg)> {
    match op {
        NumberOp::Eq | NumberOp::Ap => vec![(">=", Arg::Real(low)), ("<", Arg::Real(high))],
        NumberOp::Gt | NumberOp::Sa => vec![(">", Arg::Real(value))],
        NumberOp::Ge => vec![(">=", Arg::Real(value))],
        NumberOp::Lt | NumberOp::Eb => vec![("<", Arg::Real(value))],
        NumberOp::Le => vec![("<=", Arg::Real(value))],
        NumberOp::Ne => Vec::new(),
    }
}
