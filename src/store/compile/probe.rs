//! Filters as conditions on a row that another filter found.

use super::condition::{instant_test, test_table};
use super::{Compiler, Inside, holds, scope_condition, version_condition};
use crate::store::query::*;
use crate::store::sql::Dialect;
use crate::store::{ParamId, TypeCode};

impl Compiler<'_> {
    /// A condition on `outer.key`.
    pub(super) fn probe(&mut self, filter: &Filter, outer: &str) {
        match filter {
            Filter::Nothing => {
                self.sql.push("1 = 0");
            }
            Filter::Id(ids) => {
                if let Some(Inside { type_code, .. }) = self.inside {
                    return self.id_within(type_code, ids, outer);
                }
                self.sql.push(&format!("{outer}.key IN (SELECT r.key FROM resource r WHERE r.type = "));
                self.sql.literal(i64::from(self.query.type_code));
                self.sql.push(" AND r.id IN (");
                self.sql.join(ids, ", ", |sql, id| {
                    sql.str(id);
                });
                self.sql.push("))");
            }
            Filter::LastUpdated { ranges } => {
                let alias = self.alias("r");
                self.sql.push(&format!("EXISTS (SELECT 1 FROM resource {alias} WHERE {alias}.key = {outer}.key"));
                for (op, interval) in ranges {
                    self.sql.push(" AND ");
                    instant_test(self.sql, &format!("{alias}.updated"), *op, *interval);
                }
                self.for_each_row();
                self.sql.push(")");
            }
            Filter::Param { param, tests } => self.param_probe(*param, tests, outer),
            Filter::NotParam { param, tests } => {
                self.sql.push("NOT ");
                self.param_probe(*param, tests, outer);
            }
            Filter::Missing { places, missing } => {
                if *missing {
                    self.sql.push("NOT ");
                }
                self.sql.push("(");
                for (place, (param, kind)) in places.iter().enumerate() {
                    if place > 0 {
                        self.sql.push(" OR ");
                    }
                    let (table, _) = column_of(*kind);
                    let alias = self.alias("x");
                    self.sql.push(&format!("EXISTS (SELECT 1 FROM {table} {alias} WHERE {alias}.key = {outer}.key AND {alias}.param = "));
                    self.number(*param);
                    self.sql.push(" AND ");
                    holds(self.sql, &alias, self.seen);
                    self.for_each_row();
                    self.sql.push(")");
                }
                self.sql.push(if places.is_empty() { "1 = 0)" } else { ")" });
            }
            // Nothing refers to a contained resource but what is in the same container.
            Filter::Has { .. } | Filter::HasCanonical { .. } if self.inside.is_some() => {
                self.sql.push("1 = 0");
            }
            Filter::Chain { param, targets } if self.plan.by_row && self.inside.is_none() && follows(filter) => {
                self.chain_of_row(*param, targets, outer);
            }
            Filter::Has { source, param, filters } if self.plan.by_row && follows(filter) => {
                self.sources_of_row(*source, *param, filters, outer);
            }
            Filter::Chain { param, targets } => {
                let alias = self.alias("x");
                self.sql.push(&format!("EXISTS (SELECT 1 FROM reference {alias} WHERE {alias}.key = {outer}.key AND {alias}.param = "));
                self.number(*param);
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                self.sql.push(&format!(" AND ({alias}.target IN ("));
                self.targets(targets);
                self.sql.push(")");
                if !self.entered {
                    self.sql.push(" OR ");
                    self.leads_within(targets, &alias);
                }
                self.sql.push(")");
                self.for_each_row();
                self.sql.push(")");
            }
            Filter::Has { source, param, filters } => {
                let alias = self.alias("x");
                self.sql.push(&format!("{outer}.key IN (SELECT {alias}.target FROM reference {alias} WHERE {alias}.param = "));
                self.sql.literal(i64::from(*param));
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                // Rows of resources that the nested search finds, on which the scope decides there.
                self.sql.push(&format!(" AND {alias}.key IN ("));
                self.nested(*source, filters);
                self.sql.push("))");
            }
            Filter::Canonical { param, targets } => {
                let alias = self.alias("x");
                self.sql.push(&format!("EXISTS (SELECT 1 FROM uri {alias} WHERE {alias}.key = {outer}.key AND {alias}.param = "));
                self.number(*param);
                self.sql.push(" AND ");
                self.names_one_of(targets, &alias);
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                self.for_each_row();
                self.sql.push(")");
            }
            Filter::HasCanonical { source, param, filters } => self.is_named_by(*source, *param, filters, outer),
            Filter::Contained { type_code, filters } => {
                let alias = self.alias("x");
                self.sql.push(&format!("{outer}.key IN (SELECT {alias}.key FROM ("));
                self.contained(*type_code, filters);
                self.sql.push(&format!(") {alias})"));
            }
            Filter::OfType(types) => {
                let alias = self.alias("r");
                self.sql.push(&format!("EXISTS (SELECT 1 FROM resource {alias} WHERE {alias}.key = {outer}.key AND {alias}.type IN (-1"));
                for type_code in types {
                    self.sql.push(", ").literal(i64::from(*type_code));
                }
                self.sql.push(")");
                self.for_each_row();
                self.sql.push(")");
            }
            Filter::Any(filters) => self.probe_each(filters, outer, " OR ", "1 = 0"),
            Filter::All(filters) => self.probe_each(filters, outer, " AND ", "1 = 1"),
            Filter::Not(filter) => {
                self.sql.push("NOT (");
                self.probe(filter, outer);
                self.sql.push(")");
            }
        }
    }

    fn probe_each(&mut self, filters: &[Filter], outer: &str, between: &str, without: &str) {
        self.sql.push("(");
        self.joined(filters, between, &mut |me, filter| me.probe(filter, outer));
        self.sql.push(if filters.is_empty() { without } else { "" }).push(")");
    }

    /// Whether a row of the resource satisfies one of the tests: found by its key, whatever is tested.
    pub(super) fn param_probe(&mut self, param: ParamId, tests: &[Test], outer: &str) {
        let table = tests.first().map_or("token", test_table);
        let alias = self.alias("x");
        self.sql.push(&format!("EXISTS (SELECT 1 FROM {table} {alias} WHERE {alias}.key = {outer}.key AND "));
        match table {
            "reference" => self.tests(param, tests, &alias),
            _ => self.tests_of_key(param, tests, &alias),
        }
        self.sql.push(" AND ");
        holds(self.sql, &alias, self.seen);
        self.for_each_row();
        self.sql.push(")");
    }

    /// Ends a probe that is to stay one. PostgreSQL turns `EXISTS` into a join and then lets the probed table drive when its statistics
    /// call a code rare, as they do after a bulk load until the next `ANALYZE`: 120 ms instead of 0.2 ms. The driver was chosen by
    /// counting, so it stays the driver; a subquery with an `OFFSET` is not turned into a join.
    pub(super) fn for_each_row(&mut self) {
        if self.sql.dialect == Dialect::Postgres {
            self.sql.push(" OFFSET 0");
        }
    }
}

impl Compiler<'_> {
    /// Whether a target of `outer` satisfies the filters, from the row on.
    fn chain_of_row(&mut self, param: ParamId, targets: &[(TypeCode, Vec<Filter>)], outer: &str) {
        self.sql.push("(");
        for (place, (type_code, filters)) in targets.iter().enumerate() {
            let (x, r) = (self.alias("x"), self.alias("r"));
            self.sql.push(if place > 0 { " OR " } else { "" });
            self.sql.push(&format!("EXISTS (SELECT 1 FROM reference {x} JOIN resource {r} ON {r}.key = {x}.target AND {r}.type = "));
            self.sql.literal(i64::from(*type_code));
            self.sql.push(&format!(" WHERE {x}.key = {outer}.key AND {x}.param = ")).literal(i64::from(param)).push(" AND ");
            holds(self.sql, &x, self.seen);
            self.within(*type_code, filters, &r);
            version_condition(self.sql, &r, &self.query.scope);
            self.for_each_row();
            self.sql.push(")");
        }
        if !self.entered {
            let x = self.alias("x");
            self.sql.push(if targets.is_empty() { "" } else { " OR " });
            self.sql.push(&format!("EXISTS (SELECT 1 FROM reference {x} WHERE {x}.key = {outer}.key AND {x}.param = "));
            self.sql.literal(i64::from(param)).push(" AND ");
            holds(self.sql, &x, self.seen);
            self.sql.push(" AND ");
            self.leads_within(targets, &x);
            self.for_each_row();
            self.sql.push(")");
        }
        self.sql.push(if targets.is_empty() && self.entered { "1 = 0)" } else { ")" });
    }

    /// Whether a resource that refers to `outer` satisfies the filters, from the row on.
    fn sources_of_row(&mut self, source: TypeCode, param: ParamId, filters: &[Filter], outer: &str) {
        let x = self.alias("x");
        self.sql.push(&format!("EXISTS (SELECT 1 FROM reference {x} WHERE {x}.param = ")).literal(i64::from(param));
        self.sql.push(&format!(" AND {x}.target = {outer}.key AND "));
        holds(self.sql, &x, self.seen);
        self.within(source, filters, &x);
        scope_condition(self.sql, &x, &self.query.scope);
        self.for_each_row();
        self.sql.push(")");
    }

    /// Whether chains and `_has` of this page can be followed whoever may see where they lead. To decide on each place that they lead through costs as much as
    /// there are; what is asked again is no more than the page is long. Nothing else may ask the scope then.
    pub(super) fn may_ask_again(&self) -> bool {
        let filters = &self.query.filters;
        let fits = |filter: &Filter| follows(filter) || asks_no_scope(filter);
        matches!(self.query.scope, Scope::Gate(_)) && !self.plan.by_row && filters.iter().any(follows) && filters.iter().all(fits)
    }

    /// ` AND` what was followed whoever may see it, from the row on and under the scope.
    pub(super) fn ask_again(&mut self, row: &str) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let plan = self.plan;
        self.plan.by_row = true;
        for filter in self.query.filters.iter().filter(|filter| follows(filter)) {
            self.sql.push(" AND ");
            self.probe(filter, row);
        }
        self.plan = plan;
    }

    /// ` AND` the filters on a row of another type.
    fn within(&mut self, type_code: TypeCode, filters: &[Filter], row: &str) {
        let query = Query { type_code, filters: Vec::new(), scope: self.query.scope.clone(), sort: Vec::new() };
        let (entered, aliases, plan) = (self.entered, self.aliases, self.plan);
        let mut inner = Compiler { entered, aliases, ..Compiler::new(self.sql, &query, self.seen, plan) };
        for filter in filters {
            inner.sql.push(" AND ");
            inner.probe(filter, row);
        }
        self.aliases = inner.aliases;
    }
}

/// Whether a chain or `_has` can be followed from one row on: all its filters ask for index rows of what it leads to, which are there only
/// as long as that is.
pub(super) fn follows(filter: &Filter) -> bool {
    let asks =
        |filters: &[Filter]| !filters.is_empty() && filters.iter().all(|filter| matches!(filter, Filter::Param { .. }) || follows(filter));
    match filter {
        Filter::Chain { targets, .. } => targets.iter().all(|(_, filters)| asks(filters)),
        Filter::Has { filters, .. } => asks(filters),
        _ => false,
    }
}

/// Whether what it finds is the same whoever asks.
fn asks_no_scope(filter: &Filter) -> bool {
    fn is_plain(test: &Test) -> bool {
        match test {
            // It goes through other resources.
            Test::ReferenceTree { .. } => false,
            Test::NoneOf(tests) | Test::Composite(tests) => tests.iter().all(is_plain),
            _ => true,
        }
    }
    match filter {
        Filter::Param { tests, .. } | Filter::NotParam { tests, .. } => tests.iter().all(is_plain),
        Filter::Nothing | Filter::Id(_) | Filter::LastUpdated { .. } | Filter::Missing { .. } | Filter::OfType(_) => true,
        _ => false,
    }
}

/// Whether equality, or a range, leads to the rows of one resource that the test looks at.
fn probed_by_key(test: &Test) -> bool {
    match test {
        Test::Token { code, .. } => code.is_some(),
        Test::Uri(_) | Test::Canonical(_) | Test::UriAbove(_) => true,
        Test::TokenIn { .. } | Test::TokenStarts(_) | Test::TokenFolded { .. } => false,
        Test::UriBelow(_) | Test::TextStarts(_) | Test::Composite(_) | Test::Near { .. } => false,
        Test::NoneOf(tests) => !matches!(test_table(test), "token" | "uri" | "composite") && tests.iter().all(probed_by_key),
        _ => true,
    }
}

/// Whether the probe is of few rows of one resource, and stays so whatever the planner believes.
fn is_of_row(filter: &Filter) -> bool {
    match filter {
        Filter::Param { tests, .. } | Filter::NotParam { tests, .. } => tests.iter().all(probed_by_key),
        Filter::LastUpdated { .. } | Filter::OfType(_) => true,
        _ => false,
    }
}

/// Whether reading the index of the filter at `driver` in its order, and probing the others, is all that a planner can do: then values
/// change nothing in the plan.
pub(super) fn leaves_no_choice(query: &Query, driver: usize) -> bool {
    query.filters.iter().enumerate().all(|(place, filter)| place == driver || is_of_row(filter))
}

/// The table of a kind, and the column that it is sorted by.
pub(super) fn column_of(kind: Kind) -> (&'static str, &'static str) {
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
