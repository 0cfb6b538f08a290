//! [`Query`] to SQL. One filter drives (the one whose index gives the fewest rows, by kind), the others are probed for each
//! row that it gives; the scope is a condition on every index row touched, so nothing hidden is ever counted, chained
//! through or sorted by.

use super::query::*;
use super::rows::NARROW;
use super::sql::{Dialect, Sql};
use super::{FacilityKey, ParamId, system_key};
use crate::fhir::Interval;

/// How rows of the past are seen: `None` is now.
type Seen<'a> = Option<&'a Snapshot>;

/// `SELECT key, s1, s2 … ` of one page, `limit` rows at most.
pub fn page(dialect: Dialect, query: &Query, cursor: Option<&Cursor>, limit: u32) -> Sql {
    let seen = cursor.map(|cursor| &cursor.snapshot);
    let mut sql = Sql::new(dialect);
    let mut compiler = Compiler { sql: &mut sql, query, seen, aliases: 0 };
    compiler.page(cursor, limit);
    sql
}

/// `SELECT count(*)`.
pub fn count(dialect: Dialect, query: &Query, seen: Seen) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("SELECT count(DISTINCT m.key) AS n FROM (");
    Compiler { sql: &mut sql, query, seen, aliases: 0 }.matches();
    sql.push(") m");
    sql
}

/// `SELECT key` of every match, unordered and perhaps repeated.
pub fn keys(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = Sql::new(dialect);
    Compiler { sql: &mut sql, query, seen: None, aliases: 0 }.matches();
    sql
}

/// `SELECT id` of the first two matches.
pub fn first_ids(dialect: Dialect, query: &Query) -> Sql {
    let mut sql = keys(dialect, query);
    sql.text = format!("SELECT id FROM resource WHERE key IN ({}) ORDER BY key LIMIT 2", sql.text);
    sql
}

/// Appends the scope's condition on the columns of `alias`.
pub fn scope_condition(sql: &mut Sql, alias: &str, scope: &Scope) {
    if let Scope::Owners(owners) = scope {
        sql.push(" AND (");
        owner_list(sql, alias, owners);
        sql.push(&format!(" OR ({alias}.owner = 0 AND {alias}.patient = 0))"));
    }
}

fn owner_list(sql: &mut Sql, alias: &str, owners: &[FacilityKey]) {
    if owners.is_empty() {
        sql.push("1 = 0");
        return;
    }
    sql.push(&format!("{alias}.owner IN ("));
    sql.join(owners, ", ", |sql, owner| {
        sql.int(*owner);
    });
    sql.push(")");
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
fn holds(sql: &mut Sql, alias: &str, seen: Seen) {
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
    aliases: usize,
}

impl Compiler<'_> {
    fn alias(&mut self, letter: &str) -> String {
        self.aliases += 1;
        format!("{letter}{}", self.aliases)
    }

    fn page(&mut self, cursor: Option<&Cursor>, limit: u32) {
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
    fn page_by_last_updated(&mut self, descending: bool, cursor: Option<&Cursor>, limit: u32) {
        let query = self.query;
        self.sql.push("SELECT p.key, p.updated AS s0 FROM (SELECT r.key, r.updated FROM resource r WHERE r.type = ");
        self.sql.literal(i64::from(query.type_code));
        self.sql.push(" AND r.live = 1");
        if let Some(snapshot) = self.seen {
            self.sql.push(" AND ");
            visible(self.sql, "r.txn", snapshot);
        }
        scope_condition(self.sql, "r", &query.scope);
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
            scope_condition(self.sql, "h", &query.scope);
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
    fn after(&mut self, sort: &[SortKey], cursor: &Cursor, place: usize) {
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

    fn sort_arg(&mut self, value: &SortValue) {
        match value {
            SortValue::Missing => self.sql.push("NULL"),
            SortValue::Int(value) => self.sql.int(*value),
            SortValue::Real(value) => self.sql.real(*value),
            SortValue::Text(value) => self.sql.str(value),
        };
    }

    fn sort_value(&mut self, key: &SortKey) {
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

    /// `SELECT d.key …` of everything that satisfies all filters.
    fn matches(&mut self) {
        let query = self.query;
        let driver =
            query.filters.iter().enumerate().filter_map(|(place, filter)| Some((rank(filter)?, place))).min().map(|(_, place)| place);
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
        self.sql.push(&format!("SELECT {alias}.key FROM resource {alias} WHERE {alias}.type = "));
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
        scope_condition(self.sql, alias, &query.scope);
    }

    /// A select from the filter's own index.
    fn drive(&mut self, filter: &Filter, alias: &str) {
        let query = self.query;
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
                self.sql.push(&format!("SELECT {alias}.key FROM {table} {alias} WHERE "));
                self.tests(*param, tests, alias);
                self.sql.push(" AND ");
                holds(self.sql, alias, self.seen);
                scope_condition(self.sql, alias, &query.scope);
            }
            Filter::Chain { param, targets } => {
                self.sql.push(&format!("SELECT {alias}.key FROM reference {alias} WHERE {alias}.param = "));
                self.sql.literal(i64::from(*param));
                self.sql.push(&format!(" AND {alias}.target IN ("));
                self.targets(targets);
                self.sql.push(") AND ");
                holds(self.sql, alias, self.seen);
                scope_condition(self.sql, alias, &query.scope);
            }
            // `rank` offers no other filter as a driver.
            _ => self.scan(alias),
        }
    }

    /// The keys of the targets of a chain.
    fn targets(&mut self, targets: &[(super::TypeCode, Vec<Filter>)]) {
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
    fn nested(&mut self, type_code: super::TypeCode, filters: &[Filter]) {
        let query = Query { type_code, filters: filters.to_vec(), scope: self.query.scope.clone(), sort: Vec::new() };
        let mut inner = Compiler { sql: self.sql, query: &query, seen: self.seen, aliases: self.aliases };
        inner.matches();
        self.aliases = inner.aliases;
    }

    /// A condition on `outer.key`.
    fn probe(&mut self, filter: &Filter, outer: &str) {
        match filter {
            Filter::Nothing => {
                self.sql.push("1 = 0");
            }
            Filter::Id(ids) => {
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
                self.sql.push(")");
            }
            Filter::Param { param, tests } => self.param_probe(*param, tests, outer),
            Filter::NotParam { param, tests } => {
                self.sql.push("NOT ");
                self.param_probe(*param, tests, outer);
            }
            Filter::Missing { param, kinds, missing } => {
                if *missing {
                    self.sql.push("NOT ");
                }
                self.sql.push("(");
                for (place, kind) in kinds.iter().enumerate() {
                    if place > 0 {
                        self.sql.push(" OR ");
                    }
                    let (table, by_key) = kind_table(*kind);
                    let alias = self.alias("x");
                    if by_key {
                        self.sql
                            .push(&format!("EXISTS (SELECT 1 FROM {table} {alias} WHERE {alias}.key = {outer}.key AND {alias}.param = "));
                    } else {
                        self.sql.push(&format!("{outer}.key IN (SELECT {alias}.key FROM {table} {alias} WHERE {alias}.param = "));
                    }
                    self.sql.literal(i64::from(*param));
                    self.sql.push(" AND ");
                    holds(self.sql, &alias, self.seen);
                    self.sql.push(")");
                }
                self.sql.push(if kinds.is_empty() { "1 = 0)" } else { ")" });
            }
            Filter::Chain { param, targets } => {
                let alias = self.alias("x");
                self.sql.push(&format!("EXISTS (SELECT 1 FROM reference {alias} WHERE {alias}.key = {outer}.key AND {alias}.param = "));
                self.sql.literal(i64::from(*param));
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                self.sql.push(&format!(" AND {alias}.target IN ("));
                self.targets(targets);
                self.sql.push("))");
            }
            Filter::Has { source, param, filters } => {
                let alias = self.alias("x");
                self.sql.push(&format!("{outer}.key IN (SELECT {alias}.target FROM reference {alias} WHERE {alias}.param = "));
                self.sql.literal(i64::from(*param));
                self.sql.push(" AND ");
                holds(self.sql, &alias, self.seen);
                scope_condition(self.sql, &alias, &self.query.scope);
                self.sql.push(&format!(" AND {alias}.key IN ("));
                self.nested(*source, filters);
                self.sql.push("))");
            }
            Filter::Any(filters) => {
                self.sql.push("(");
                for (place, filter) in filters.iter().enumerate() {
                    if place > 0 {
                        self.sql.push(" OR ");
                    }
                    self.probe(filter, outer);
                }
                self.sql.push(if filters.is_empty() { "1 = 0)" } else { ")" });
            }
        }
    }

    /// By the row's key where an index leads there, else as a set computed once.
    fn param_probe(&mut self, param: ParamId, tests: &[Test], outer: &str) {
        let table = tests.first().map_or("token", test_table);
        let alias = self.alias("x");
        if tests.iter().all(probed_by_key) {
            self.sql.push(&format!("EXISTS (SELECT 1 FROM {table} {alias} WHERE {alias}.key = {outer}.key AND "));
        } else {
            self.sql.push(&format!("{outer}.key IN (SELECT {alias}.key FROM {table} {alias} WHERE "));
        }
        self.tests(param, tests, &alias);
        self.sql.push(" AND ");
        holds(self.sql, &alias, self.seen);
        self.sql.push(")");
    }

    fn tests(&mut self, param: ParamId, tests: &[Test], alias: &str) {
        self.sql.push(&format!("{alias}.param = "));
        self.sql.literal(i64::from(param));
        self.sql.push(" AND (");
        let mut first = true;
        for test in tests {
            if !first {
                self.sql.push(" OR ");
            }
            first = false;
            self.test(test, alias);
        }
        self.sql.push(if tests.is_empty() { "1 = 0)" } else { ")" });
    }

    fn test(&mut self, test: &Test, alias: &str) {
        let sql = &mut *self.sql;
        match test {
            Test::Token { system, code } => {
                sql.push("(");
                match code {
                    Some(code) => sql.push(&format!("{alias}.code = ")).str(code),
                    None => sql.push("1 = 1"),
                };
                match system {
                    SystemTest::Any => sql,
                    SystemTest::Absent => sql.push(&format!(" AND {alias}.system = 0")),
                    SystemTest::Is(system) => sql.push(&format!(" AND {alias}.system = ")).int(system_key(system)),
                };
                self.sql.push(")");
            }
            Test::StringStarts(folded) => {
                sql.push(&format!("({alias}.folded >= "))
                    .str(folded)
                    .push(&format!(" AND {alias}.folded < "))
                    .str(&after_prefix(folded))
                    .push(")");
            }
            Test::StringContains(folded) => {
                sql.push(if sql.dialect == Dialect::Sqlite { "instr(" } else { "strpos(" });
                self.sql.push(&format!("{alias}.folded, ")).str(folded).push(") > 0");
            }
            Test::StringExact(text) => {
                let folded = crate::fhir::text::fold(text);
                let exact = if folded == *text { "" } else { text };
                sql.push(&format!("({alias}.folded = ")).str(&folded).push(&format!(" AND {alias}.exact = ")).str(exact).push(")");
            }
            Test::Reference { type_codes, id } => {
                sql.push(&format!("{alias}.target IN (SELECT t.key FROM resource t WHERE t.id = ")).str(id).push(" AND t.type IN (");
                sql.join(type_codes, ", ", |sql, code| {
                    sql.literal(i64::from(*code));
                });
                self.sql.push(if type_codes.is_empty() { "-1)" } else { ")" });
                if let Some((patient, link)) = golden_link().filter(|(patient, _)| type_codes.contains(patient)) {
                    // A golden Patient stands for all the source Patients that it links to.
                    self.sql.push(
                        " UNION ALL SELECT g.target FROM resource t JOIN reference g ON g.key = t.key AND g.until = 0 AND g.param = ",
                    );
                    self.sql
                        .literal(i64::from(link))
                        .push(" WHERE t.live = 2 AND t.type = ")
                        .literal(i64::from(patient))
                        .push(" AND t.id = ")
                        .str(id);
                }
                self.sql.push(")");
            }
            Test::Uri(uri) => {
                sql.push(&format!("{alias}.uri = ")).str(uri);
            }
            Test::Canonical(uri) => {
                let versioned = format!("{uri}|");
                sql.push(&format!("({alias}.uri = ")).str(uri).push(&format!(" OR ({alias}.uri >= ")).str(&versioned);
                sql.push(&format!(" AND {alias}.uri < ")).str(&after_prefix(&versioned)).push("))");
            }
            Test::UriBelow(uri) => {
                sql.push(&format!("({alias}.uri = ")).str(uri);
                for separator in ["/", "|"] {
                    let prefix = format!("{}{separator}", uri.trim_end_matches('/'));
                    self.sql
                        .push(&format!(" OR ({alias}.uri >= "))
                        .str(&prefix)
                        .push(&format!(" AND {alias}.uri < "))
                        .str(&after_prefix(&prefix))
                        .push(")");
                }
                self.sql.push(")");
            }
            Test::UriAbove(uri) => {
                let mut above = vec![uri.clone()];
                for (place, _) in uri.match_indices('/') {
                    above.extend([uri[..place].to_owned(), uri[..=place].to_owned()]);
                }
                sql.push(&format!("{alias}.uri IN ("));
                sql.join(&above, ", ", |sql, uri| {
                    sql.str(uri);
                });
                self.sql.push(")");
            }
            Test::Date { op, interval } => date_test(sql, alias, *op, *interval),
            Test::Number { op, low, value, high } => number_test(sql, &format!("{alias}.value"), *op, *low, *value, *high),
            Test::Quantity { op, low, value, high, unit } => {
                sql.push("(");
                number_test(sql, &format!("{alias}.value"), *op, *low, *value, *high);
                if let Some(unit) = unit {
                    match &unit.system {
                        Some(system) => {
                            sql.push(&format!(" AND {alias}.code = "))
                                .str(&unit.code)
                                .push(&format!(" AND {alias}.system = "))
                                .int(system_key(system));
                        }
                        None => {
                            sql.push(&format!(" AND ({alias}.code = "))
                                .str(&unit.code)
                                .push(&format!(" OR {alias}.unit = "))
                                .str(&unit.code)
                                .push(")");
                        }
                    }
                }
                self.sql.push(")");
            }
            Test::Composite(parts) => {
                sql.push("(1 = 1");
                for (place, part) in parts.iter().enumerate().take(3) {
                    self.sql.push(" AND ");
                    self.component(part, alias, place + 1);
                }
                self.sql.push(")");
            }
        }
    }

    /// A test on the four columns of component `n`.
    fn component(&mut self, test: &Test, alias: &str, n: usize) {
        let sql = &mut *self.sql;
        let (code, system) = (format!("{alias}.code{n}"), format!("{alias}.system{n}"));
        match test {
            Test::Token { system: wanted, code: value } => {
                match value {
                    Some(value) => sql.push(&format!("({code} = ")).str(value),
                    None => sql.push("(1 = 1"),
                };
                match wanted {
                    SystemTest::Any => sql,
                    SystemTest::Absent => sql.push(&format!(" AND {system} = 0")),
                    SystemTest::Is(uri) => sql.push(&format!(" AND {system} = ")).int(system_key(uri)),
                };
                self.sql.push(")");
            }
            Test::StringStarts(folded) => {
                sql.push(&format!("({code} >= ")).str(folded).push(&format!(" AND {code} < ")).str(&after_prefix(folded)).push(")");
            }
            Test::StringContains(folded) => {
                sql.push(if sql.dialect == Dialect::Sqlite { "instr(" } else { "strpos(" });
                self.sql.push(&format!("{code}, ")).str(folded).push(") > 0");
            }
            Test::StringExact(text) => {
                sql.push(&format!("{code} = ")).str(&crate::fhir::text::fold(text));
            }
            Test::Reference { type_codes, id } => {
                let names: Vec<String> =
                    type_codes.iter().map(|type_code| format!("{}/{id}", crate::definitions::r4().type_name(*type_code))).collect();
                sql.push(&format!("{code} IN ("));
                sql.join(&names, ", ", |sql, name| {
                    sql.str(name);
                });
                self.sql.push(if names.is_empty() { "'')" } else { ")" });
            }
            Test::Uri(uri) | Test::Canonical(uri) | Test::UriBelow(uri) | Test::UriAbove(uri) => {
                sql.push(&format!("{code} = ")).str(uri);
            }
            Test::Date { op, interval } => {
                let (low, high) = (format!("{alias}.low{n}"), format!("{alias}.high{n}"));
                interval_test(sql, &low, &high, *op, interval.low as f64, interval.high as f64);
            }
            Test::Number { op, low, value, high } => number_test(sql, &format!("{alias}.low{n}"), *op, *low, *value, *high),
            Test::Quantity { op, low, value, high, unit } => {
                sql.push("(");
                number_test(sql, &format!("{alias}.low{n}"), *op, *low, *value, *high);
                if let Some(unit) = unit {
                    sql.push(&format!(" AND {code} = ")).str(&unit.code);
                    if let Some(uri) = &unit.system {
                        sql.push(&format!(" AND {system} = ")).int(system_key(uri));
                    }
                }
                self.sql.push(")");
            }
            Test::Composite(_) => {
                sql.push("1 = 0");
            }
        }
    }
}

/// The type Patient and its parameter `link`.
fn golden_link() -> Option<(super::TypeCode, ParamId)> {
    let definitions = crate::definitions::r4();
    let patient = definitions.type_code("Patient")?;
    Some((patient, definitions.param(patient, "link")?.id))
}

/// How few rows a filter's index is likely to give; `None`: it cannot drive.
fn rank(filter: &Filter) -> Option<u8> {
    match filter {
        Filter::Id(_) => Some(0),
        Filter::Param { tests, .. } => Some(match tests.first()? {
            Test::Reference { .. } => 2,
            Test::Uri(_) | Test::Canonical(_) | Test::UriAbove(_) => 4,
            Test::Token { system: SystemTest::Is(_), code: Some(_) } => 3,
            Test::StringExact(_) => 4,
            Test::StringStarts(_) => 5,
            Test::Composite(_) => 6,
            Test::Token { code: Some(_), .. } => 7,
            Test::UriBelow(_) => 8,
            Test::Number { .. } | Test::Quantity { .. } | Test::Date { .. } => 9,
            Test::Token { .. } | Test::StringContains(_) => 10,
        }),
        Filter::Chain { .. } => Some(6),
        _ => None,
    }
}

fn test_table(test: &Test) -> &'static str {
    match test {
        Test::Token { .. } => "token",
        Test::StringStarts(_) | Test::StringContains(_) | Test::StringExact(_) => "string",
        Test::Reference { .. } => "reference",
        Test::Uri(_) | Test::Canonical(_) | Test::UriBelow(_) | Test::UriAbove(_) => "uri",
        Test::Date { .. } => "date",
        Test::Number { .. } => "number",
        Test::Quantity { .. } => "quantity",
        Test::Composite(_) => "composite",
    }
}

/// Whether (parameter, resource key) leads to the rows that the test looks at.
fn probed_by_key(test: &Test) -> bool {
    match test {
        Test::Token { code, .. } => code.is_some(),
        Test::Uri(_) | Test::Canonical(_) | Test::UriAbove(_) => true,
        Test::UriBelow(_) | Test::Composite(_) => false,
        _ => true,
    }
}

/// The table of a kind, and whether it has an index by resource key.
fn kind_table(kind: Kind) -> (&'static str, bool) {
    match kind {
        Kind::Token => ("token", false),
        Kind::String => ("string", true),
        Kind::Reference => ("reference", true),
        Kind::Uri => ("uri", false),
        Kind::Date => ("date", true),
        Kind::Number => ("number", true),
        Kind::Quantity => ("quantity", true),
        Kind::Composite => ("composite", false),
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

/// The least text after all that begin with `prefix`, in code point order.
fn after_prefix(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// Dates of an index row against the search's interval (<https://hl7.org/fhir/R4/search.html#date>). The row's `wide` mark keeps
/// "ends after" from reading every row that began before.
fn date_test(sql: &mut Sql, alias: &str, op: DateOp, interval: Interval) {
    let Interval { low, high } = interval;
    match op {
        DateOp::Eq => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low >= ")).int(low).push(&format!(" AND {alias}.low < ")).int(high);
            sql.push(&format!(" AND {alias}.high <= ")).int(high).push(")");
        }
        DateOp::Ne => {
            sql.push(&format!("({alias}.low < ")).int(low).push(&format!(" OR {alias}.high > ")).int(high).push(")");
        }
        DateOp::Gt | DateOp::Ge | DateOp::Ap => {
            let beyond = if op == DateOp::Gt { high } else { low };
            sql.push(&format!("({alias}.high > ")).int(beyond);
            sql.push(&format!(" AND ({alias}.wide = 1 OR ({alias}.wide = 0 AND {alias}.low > "))
                .int(beyond.saturating_sub(NARROW))
                .push("))");
            if op == DateOp::Ap {
                sql.push(&format!(" AND {alias}.low < ")).int(high);
            }
            sql.push(")");
        }
        DateOp::Lt => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low < ")).int(low).push(")");
        }
        DateOp::Le => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low < ")).int(high).push(")");
        }
        DateOp::Sa => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low >= ")).int(high).push(")");
        }
        DateOp::Eb => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low < "))
                .int(low)
                .push(&format!(" AND {alias}.high <= "))
                .int(low)
                .push(")");
        }
    }
}

/// The same comparisons on two plain columns.
fn interval_test(sql: &mut Sql, low_column: &str, high_column: &str, op: DateOp, low: f64, high: f64) {
    match op {
        DateOp::Eq => sql.push(&format!("({low_column} >= ")).real(low).push(&format!(" AND {high_column} <= ")).real(high),
        DateOp::Ne => sql.push(&format!("({low_column} < ")).real(low).push(&format!(" OR {high_column} > ")).real(high),
        DateOp::Gt => sql.push(&format!("({high_column} > ")).real(high),
        DateOp::Ge => sql.push(&format!("({high_column} > ")).real(low),
        DateOp::Ap => sql.push(&format!("({high_column} > ")).real(low).push(&format!(" AND {low_column} < ")).real(high),
        DateOp::Lt => sql.push(&format!("({low_column} < ")).real(low),
        DateOp::Le => sql.push(&format!("({low_column} < ")).real(high),
        DateOp::Sa => sql.push(&format!("({low_column} >= ")).real(high),
        DateOp::Eb => sql.push(&format!("({high_column} <= ")).real(low),
    };
    sql.push(")");
}

/// An exact instant against the search's interval.
fn instant_test(sql: &mut Sql, column: &str, op: DateOp, interval: Interval) {
    let Interval { low, high } = interval;
    match op {
        DateOp::Eq | DateOp::Ap => sql.push(&format!("({column} >= ")).int(low).push(&format!(" AND {column} < ")).int(high),
        DateOp::Ne => sql.push(&format!("({column} < ")).int(low).push(&format!(" OR {column} >= ")).int(high),
        DateOp::Gt | DateOp::Sa => sql.push(&format!("({column} >= ")).int(high),
        DateOp::Ge => sql.push(&format!("({column} >= ")).int(low),
        DateOp::Lt | DateOp::Eb => sql.push(&format!("({column} < ")).int(low),
        DateOp::Le => sql.push(&format!("({column} < ")).int(high),
    };
    sql.push(")");
}

fn number_test(sql: &mut Sql, column: &str, op: NumberOp, low: f64, value: f64, high: f64) {
    match op {
        NumberOp::Eq | NumberOp::Ap => sql.push(&format!("({column} >= ")).real(low).push(&format!(" AND {column} < ")).real(high),
        NumberOp::Ne => sql.push(&format!("({column} < ")).real(low).push(&format!(" OR {column} >= ")).real(high),
        NumberOp::Gt | NumberOp::Sa => sql.push(&format!("({column} > ")).real(value),
        NumberOp::Ge => sql.push(&format!("({column} >= ")).real(value),
        NumberOp::Lt | NumberOp::Eb => sql.push(&format!("({column} < ")).real(value),
        NumberOp::Le => sql.push(&format!("({column} <= ")).real(value),
    };
    sql.push(")");
}
