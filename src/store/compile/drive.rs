//! Which filter's index is read, and how.

use super::condition::test_table;
use super::probe::column_of;
use super::{Compiler, Plan, holds, scope_condition, version_condition, visible};
use crate::store::TypeCode;
use crate::store::query::*;

impl Compiler<'_> {
    /// `SELECT d.key …` of everything that satisfies all filters, The scope is asked last: it costs most.
    pub(super) fn matches(&mut self) {
        let query = self.query;
        let driver = self.plan.driver(query);
        let alias = self.alias("d");
        let driving = driver.and_then(|place| query.filters.get(place));
        let reads_resources = match driving {
            Some(filter) => self.drive(filter, &alias, self.late),
            None => self.scan(&alias, self.late, lists(query)),
        };
        for (place, other) in query.filters.iter().enumerate() {
            if driving.is_none() || Some(place) != driver {
                self.sql.push(" AND ");
                self.probe(other, &alias);
            }
        }
        if !reads_resources {
            self.listed(&alias);
        }
        match reads_resources {
            _ if self.late => {}
            true => version_condition(self.sql, &alias, &query.scope),
            false => scope_condition(self.sql, &alias, &query.scope),
        }
        if !self.late {
            self.ask_again(&alias);
        }
    }

    /// Index rows lead to what a listing by type does not show.
    pub(super) fn listed(&mut self, alias: &str) {
        if lists(self.query) {
            self.sql.push(&format!(" AND EXISTS (SELECT 1 FROM resource r WHERE r.key = {alias}.key AND r.live <> 2)"));
        }
    }

    /// `SELECT key FROM`, with the columns that a scope decides by if `whole`.
    fn select(&mut self, alias: &str, whole: bool) {
        self.sql.push(&format!("SELECT {alias}.key"));
        if self.placed {
            self.sql.push(&format!(", {alias}.shift"));
        }
        if whole {
            self.sql.push(&format!(", {alias}.owner, {alias}.patient"));
        }
        self.sql.push(" FROM ");
    }

    /// All resources of the type, whoever may see them: rows of `resource`, so `true`. `listed`: those alone that a listing by type shows.
    fn scan(&mut self, alias: &str, whole: bool, listed: bool) -> bool {
        let live = if listed { "= 1" } else { "> 0" };
        self.select(alias, whole);
        self.sql.push(&format!("resource {alias} WHERE {alias}.type = "));
        self.sql.literal(i64::from(self.query.type_code));
        match self.seen {
            None => {
                self.sql.push(&format!(" AND {alias}.live {live}"));
            }
            Some(snapshot) => {
                self.sql.push(&format!(" AND {alias}.version > 0 AND "));
                visible(self.sql, &format!("{alias}.created"), snapshot);
                self.sql.push(&format!(" AND ({alias}.live {live} OR NOT "));
                visible(self.sql, &format!("{alias}.txn"), snapshot);
                self.sql.push(")");
            }
        }
        true
    }

    /// The rows of the filter's own index, whoever may see them.
    pub(super) fn rows_of(&mut self, filter: &Filter) {
        let alias = self.alias("d");
        self.drive(filter, &alias, false);
    }

    /// All resources of the type, whoever may see them.
    pub(super) fn all_of_type(&mut self) {
        let alias = self.alias("d");
        self.scan(&alias, false, lists(self.query));
    }

    /// A select from the filter's own index, whoever may see the rows; whether they are rows of `resource`.
    fn drive(&mut self, filter: &Filter, alias: &str, whole: bool) -> bool {
        match filter {
            Filter::Id(ids) => {
                self.scan(alias, whole, true);
                self.sql.push(&format!(" AND {alias}.id IN ("));
                self.sql.join(ids, ", ", |sql, id| {
                    sql.str(id);
                });
                self.sql.push(")");
                true
            }
            Filter::Param { param, tests } => {
                let table = tests.first().map_or("token", test_table);
                self.select(alias, whole);
                self.sql.push(&format!("{table} {alias} WHERE "));
                self.tests(*param, tests, alias);
                self.sql.push(" AND ");
                holds(self.sql, alias, self.seen);
                false
            }
            Filter::Chain { param, targets } => {
                self.select(alias, whole);
                self.sql.push("(");
                self.chain_rows(*param, targets);
                self.sql.push(&format!(") {alias} WHERE 1 = 1"));
                false
            }
            Filter::Canonical { param, targets } => {
                self.select(alias, whole);
                self.sql.push(&format!("uri {alias} WHERE {alias}.param = ")).literal(i64::from(*param)).push(" AND ");
                self.names_one_of(targets, alias);
                self.sql.push(" AND ");
                holds(self.sql, alias, self.seen);
                false
            }
            Filter::Any(filters) if !filters.is_empty() => {
                self.select(alias, whole);
                self.sql.push("(");
                for (place, filter) in filters.iter().enumerate() {
                    if place > 0 {
                        self.sql.push(" UNION ALL ");
                    }
                    let inner = self.alias("d");
                    self.drive(filter, &inner, true);
                }
                self.sql.push(&format!(") {alias} WHERE 1 = 1"));
                false
            }
            Filter::Missing { places, missing: false } => {
                self.select(alias, whole);
                self.sql.push("(");
                for (place, (param, kind)) in places.iter().enumerate() {
                    let (inner, (table, _)) = (self.alias("d"), column_of(*kind));
                    self.sql.push(if place > 0 { " UNION ALL " } else { "" });
                    self.sql
                        .push(&format!("SELECT {inner}.key, {inner}.owner, {inner}.patient FROM {table} {inner} WHERE {inner}.param = "));
                    self.sql.literal(i64::from(*param)).push(" AND ");
                    holds(self.sql, &inner, self.seen);
                }
                self.sql.push(&format!(") {alias} WHERE 1 = 1"));
                false
            }
            Filter::Contained { type_code, filters } => {
                self.select(alias, whole);
                self.sql.push("(");
                self.contained(*type_code, filters);
                self.sql.push(&format!(") {alias} WHERE 1 = 1"));
                false
            }
            // `precedence` offers no other filter as a driver.
            _ => self.scan(alias, whole, lists(self.query)),
        }
    }

    /// The keys of the targets of a chain.
    pub(super) fn targets(&mut self, targets: &[(TypeCode, Vec<Filter>)]) {
        if targets.is_empty() {
            self.sql.push("SELECT 0 WHERE 1 = 0");
        }
        for (place, (type_code, filters)) in targets.iter().enumerate() {
            if place > 0 {
                self.sql.push(" UNION ALL ");
            }
            self.nested(*type_code, filters);
        }
    }

    /// A whole search inside another, in the same scope (but where that is asked again) and at the same moment.
    pub(super) fn nested(&mut self, type_code: TypeCode, filters: &[Filter]) {
        let scope = if self.open { Scope::All } else { self.query.scope.clone() };
        let query = Query { type_code, filters: filters.to_vec(), scope, sort: Vec::new() };
        let entered = self.entered || self.inside.is_some();
        let mut inner = Compiler { entered, aliases: self.aliases, ..Compiler::new(self.sql, &query, self.seen, Plan::default()) };
        inner.matches();
        self.aliases = inner.aliases;
    }
}

/// Whether a walk along its index gives resources in the order of their keys, so that a page can end early.
pub(super) fn is_in_order(filter: &Filter) -> bool {
    match filter {
        Filter::Param { tests, .. } => match tests.as_slice() {
            [Test::Token { code: Some(_), .. } | Test::Uri(_)] => true,
            [Test::Composite(parts)] => matches!(parts.first(), Some(Test::Token { code: Some(_), .. })),
            _ => false,
        },
        _ => false,
    }
}

/// Whether what it finds is a listing by type, which shows no resource that is unlisted: nothing is asked of index rows but whether there are any.
pub(super) fn lists(query: &Query) -> bool {
    query.filters.iter().all(|filter| rank(filter).is_none())
}

/// Whether its rows can be counted without reading much more than is counted.
pub(super) fn is_countable(filter: &Filter) -> bool {
    match filter {
        Filter::Id(_) | Filter::Missing { .. } => precedence(filter).is_some(),
        Filter::Param { tests, .. } => !tests.is_empty() && tests.iter().all(is_bounded),
        Filter::Any(filters) => rank(filter).is_some() && filters.iter().all(is_countable),
        // One search within it that ends early.
        Filter::Has { filters, .. } => is_one_countable(filters),
        Filter::Chain { targets, .. } => targets.iter().all(|(_, filters)| is_one_countable(filters)),
        _ => false,
    }
}

/// Whether no row counted means that there is none: a chain's targets are counted up to a limit only.
pub(super) fn is_counted_whole(filter: &Filter) -> bool {
    match filter {
        Filter::Id(_) | Filter::Param { .. } | Filter::Missing { .. } => true,
        Filter::Any(filters) => filters.iter().all(is_counted_whole),
        _ => false,
    }
}

/// Whether the rows that satisfy the test are together in its parameter's index, with few others among them.
fn is_bounded(test: &Test) -> bool {
    match test {
        Test::Token { code, .. } => code.is_some(),
        Test::Composite(parts) => matches!(parts.first(), Some(Test::Token { code: Some(_), .. })),
        Test::Date { op, .. } => *op != DateOp::Ne,
        Test::Number { op, .. } | Test::Amount { op, .. } => *op != NumberOp::Ne,
        Test::Quantity { op, unit, .. } => *op != NumberOp::Ne && matches!(unit, Some(UnitTest { system: Some(_), .. })),
        Test::TokenFolded { .. } | Test::StringContains(_) | Test::StringEnds(_) | Test::Near { .. } | Test::NoneOf(_) => false,
        _ => true,
    }
}

fn is_one_countable(filters: &[Filter]) -> bool {
    matches!(filters, [filter @ Filter::Param { .. }] if is_countable(filter))
}

/// [`rank`], and what a question does not ask for itself: before all others the value that its matches are just sorted by (the page is in the
/// order of keys then), and after them whether there is a value at all.
pub(super) fn precedence(filter: &Filter) -> Option<u8> {
    match filter {
        Filter::Param { tests, .. } if matches!(tests.as_slice(), [Test::At { .. }]) => Some(0),
        Filter::Missing { places, missing: false } if !places.is_empty() => Some(11),
        filter => rank(filter),
    }
}

/// How few rows a filter's index is likely to give; `None`: it gives none that satisfy it.
pub(super) fn rank(filter: &Filter) -> Option<u8> {
    match filter {
        Filter::Id(_) => Some(0),
        Filter::Param { tests, .. } => Some(match tests.first()? {
            Test::Reference { .. } => 2,
            Test::Uri(_) | Test::Canonical(_) | Test::UriAbove(_) => 4,
            Test::StringIs(_) => 4,
            Test::ReferenceTree { .. } | Test::TextStarts(_) => 6,
            Test::TokenIn { .. } | Test::TokenStarts(_) | Test::Amount { .. } => 8,
            Test::Token { system: SystemTest::Is(_), code: Some(_) } => 3,
            Test::StringExact(_) => 4,
            Test::StringStarts(_) => 5,
            Test::Composite(_) => 6,
            Test::Token { code: Some(_), .. } => 7,
            Test::UriBelow(_) => 8,
            Test::Number { .. } | Test::Quantity { .. } | Test::Date { .. } => 9,
            Test::Token { .. } | Test::TokenFolded { .. } => 10,
            Test::StringContains(_) | Test::StringEnds(_) | Test::Near { .. } | Test::NoneOf(_) => 10,
            Test::At { .. } | Test::Before { .. } => return None,
        }),
        Filter::Chain { .. } | Filter::Canonical { .. } => Some(6),
        Filter::Contained { .. } => Some(1),
        Filter::Any(filters) if !filters.is_empty() => filters.iter().map(rank).max_by_key(|rank| rank.unwrap_or(u8::MAX))?,
        _ => None,
    }
}
