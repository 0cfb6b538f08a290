//! Which filter's index is read, and how.

use super::condition::test_table;
use super::{Compiler, holds, version_condition, visible};
use crate::store::TypeCode;
use crate::store::query::*;

impl Compiler<'_> {
    /// `SELECT d.key …` of everything that satisfies all filters.
    pub(super) fn matches(&mut self) {
        let query = self.query;
        let driver = self.driver.or_else(|| super::driver(query, &[]));
        let alias = self.alias("d");
        match driver.and_then(|place| query.filters.get(place)) {
            Some(filter) => {
                self.drive(filter, &alias);
                for (place, other) in query.filters.iter().enumerate() {
                    if Some(place) != driver {
                        self.sql.push(" AND ");
                        self.probe(other, &alias);
                    }
                }
            }
            None => {
                self.scan(&alias);
                for other in &query.filters {
                    self.sql.push(" AND ");
                    self.probe(other, &alias);
                }
            }
        }
    }

    /// All resources of the type.
    fn scan(&mut self, alias: &str) {
        let query = self.query;
        self.select(alias);
        self.sql.push(&format!("resource {alias} WHERE {alias}.type = "));
        self.sql.literal(i64::from(query.type_code));
        match self.seen {
            None => {
                self.sql.push(&format!(" AND {alias}.live = 1"));
            }
            Some(snapshot) => {
                self.sql.push(&format!(" AND {alias}.version > 0 AND "));
                visible(self.sql, &format!("{alias}.created"), snapshot);
                self.sql.push(&format!(" AND ({alias}.live = 1 OR NOT "));
                visible(self.sql, &format!("{alias}.txn"), snapshot);
                self.sql.push(")");
            }
        }
        if !self.late {
            version_condition(self.sql, alias, &query.scope);
        }
    }

    /// The rows of the filter's own index.
    pub(super) fn rows_of(&mut self, filter: &Filter) {
        let alias = self.alias("d");
        self.drive(filter, &alias);
    }

    /// A select from the filter's own index.
    fn drive(&mut self, filter: &Filter, alias: &str) {
        match filter {
            Filter::Id(ids) => {
                self.scan(alias);
                self.sql.push(&format!(" AND {alias}.id IN ("));
                self.sql.join(ids, ", ", |sql, id| {
                    sql.str(id);
                });
                self.sql.push(")");
            }
            Filter::Param { param, tests } => {
                let table = tests.first().map_or("token", test_table);
                self.select(alias);
                self.sql.push(&format!("{table} {alias} WHERE "));
                self.tests(*param, tests, alias);
                self.sql.push(" AND ");
                holds(self.sql, alias, self.seen);
                self.scoped(alias);
            }
            Filter::Chain { param, targets } => {
                self.select(alias);
                self.sql.push(&format!("reference {alias} WHERE {alias}.param = "));
                self.sql.literal(i64::from(*param));
                self.sql.push(&format!(" AND {alias}.target IN ("));
                self.targets(targets);
                self.sql.push(") AND ");
                holds(self.sql, alias, self.seen);
                self.scoped(alias);
            }
            Filter::Any(filters) if !filters.is_empty() => {
                self.select(alias);
                self.sql.push("(");
                for (place, filter) in filters.iter().enumerate() {
                    if place > 0 {
                        self.sql.push(" UNION ALL ");
                    }
                    let inner = self.alias("d");
                    self.drive(filter, &inner);
                }
                self.sql.push(&format!(") {alias} WHERE 1 = 1"));
            }
            // `rank` offers no other filter as a driver.
            _ => self.scan(alias),
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

    /// A whole search inside another, in the same scope and at the same moment.
    pub(super) fn nested(&mut self, type_code: TypeCode, filters: &[Filter]) {
        let query = Query { type_code, filters: filters.to_vec(), scope: self.query.scope.clone(), sort: Vec::new() };
        let mut inner = Compiler { sql: self.sql, query: &query, seen: self.seen, driver: None, late: false, aliases: self.aliases };
        inner.matches();
        self.aliases = inner.aliases;
    }
}

/// Whether a walk along its index gives resources in the order of their keys, so that a page can end early.
pub(super) fn is_in_order(filter: &Filter) -> bool {
    match filter {
        Filter::Param { tests, .. } => matches!(tests.as_slice(), [Test::Token { code: Some(_), .. } | Test::Uri(_)]),
        _ => false,
    }
}

/// Whether its rows can be counted without running a search within it.
pub(super) fn is_countable(filter: &Filter) -> bool {
    match filter {
        Filter::Id(_) | Filter::Param { .. } => rank(filter).is_some(),
        Filter::Any(filters) => rank(filter).is_some() && filters.iter().all(is_countable),
        _ => false,
    }
}

/// How few rows a filter's index is likely to give; `None`: it cannot drive.
pub(super) fn rank(filter: &Filter) -> Option<u8> {
    match filter {
        Filter::Id(_) => Some(0),
        Filter::Param { tests, .. } => Some(match tests.first()? {
            Test::Reference { .. } => 2,
            Test::Uri(_) | Test::Canonical(_) | Test::UriAbove(_) => 4,
            Test::StringIs(_) => 4,
            Test::ReferenceTree { .. } | Test::TextStarts(_) => 6,
            Test::TokenIn { .. } | Test::Amount { .. } => 8,
            Test::Token { system: SystemTest::Is(_), code: Some(_) } => 3,
            Test::StringExact(_) => 4,
            Test::StringStarts(_) => 5,
            Test::Composite(_) => 6,
            Test::Token { code: Some(_), .. } => 7,
            Test::UriBelow(_) => 8,
            Test::Number { .. } | Test::Quantity { .. } | Test::Date { .. } => 9,
            Test::Token { .. } | Test::StringContains(_) | Test::StringEnds(_) | Test::Near { .. } | Test::NoneOf(_) => 10,
        }),
        Filter::Chain { .. } => Some(6),
        Filter::Any(filters) if !filters.is_empty() => filters.iter().map(rank).max_by_key(|rank| rank.unwrap_or(u8::MAX))?,
        _ => None,
    }
}
