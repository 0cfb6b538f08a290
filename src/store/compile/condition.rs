//! The condition that a [`Test`] puts on one index row.

use super::probe::column_of;
use super::{Compiler, holds, scope_condition};
use crate::fhir::Interval;
use crate::store::index::dimension_system;
use crate::store::query::*;
use crate::store::rows::NARROW;
use crate::store::sql::{Dialect, Sql};
use crate::store::{ParamId, TypeCode, system_key};

impl Compiler<'_> {
    pub(super) fn tests(&mut self, param: ParamId, tests: &[Test], alias: &str) {
        self.sql.push(&format!("{alias}.param = "));
        self.number(param);
        self.sql.push(" AND ");
        self.any_of(tests, alias);
    }

    /// One of the tests holds for the row.
    pub(super) fn any_of(&mut self, tests: &[Test], alias: &str) {
        self.sql.push("(");
        self.joined(tests, " OR ", &mut |me, test| me.test(test, alias));
        self.sql.push(if tests.is_empty() { "1 = 0)" } else { ")" });
    }

    /// The items with `between` them, many in groups: SQLite reads `a OR b OR c` as `(a OR b) OR c`, and takes no expression that is more
    /// than 1,000 levels deep.
    pub(super) fn joined<T>(&mut self, items: &[T], between: &str, each: &mut dyn FnMut(&mut Self, &T)) {
        const GROUP: usize = 64;
        if items.len() <= GROUP {
            for (place, item) in items.iter().enumerate() {
                self.sql.push(if place > 0 { between } else { "" });
                each(self, item);
            }
            return;
        }
        for (place, group) in items.chunks(items.len().div_ceil(GROUP).max(GROUP)).enumerate() {
            self.sql.push(if place > 0 { between } else { "" }).push("(");
            self.joined(group, between, each);
            self.sql.push(")");
        }
    }

    pub(super) fn test(&mut self, test: &Test, alias: &str) {
        let sql = &mut *self.sql;
        match test {
            Test::Token { system, code } => {
                sql.push("(");
                match code {
                    Some(code) => sql.push(&format!("{alias}.code = ")).str(code),
                    None => sql.push("1 = 1"),
                };
                of_system(sql, &format!("{alias}.system"), system);
                self.sql.push(")");
            }
            Test::TokenIn { system, codes } => {
                sql.push(&format!("({alias}.code "));
                one_of(sql, codes);
                of_system(sql, &format!("{alias}.system"), system);
                self.sql.push(")");
            }
            Test::TokenStarts(prefix) => starts_with(sql, &format!("{alias}.code"), prefix),
            Test::TokenFolded { folding, system, code } => {
                let small = format!("lower({alias}.code)");
                let folded = match folding {
                    Folding::Case => small,
                    Folding::MediaType => format!("replace({small}, ' ', '')"),
                };
                sql.push(&format!("({folded} = ")).str(code);
                of_system(sql, &format!("{alias}.system"), system);
                self.sql.push(")");
            }
            Test::TextStarts(folded) => starts_with(sql, &format!("{alias}.uri"), folded),
            Test::StringStarts(folded) => starts_with(sql, &format!("{alias}.folded"), folded),
            Test::StringIs(folded) => {
                sql.push(&format!("{alias}.folded = ")).str(folded);
            }
            Test::StringEnds(folded) => {
                sql.push(&format!("substr({alias}.folded, length({alias}.folded) - "))
                    .literal(i64::try_from(folded.chars().count()).unwrap_or(i64::MAX).saturating_sub(1))
                    .push(") = ")
                    .str(folded);
            }
            Test::StringContains(folded) => {
                sql.push(if sql.dialect == Dialect::Sqlite { "instr(" } else { "strpos(" });
                self.sql.push(&format!("{alias}.folded, ")).str(folded).push(") > 0");
            }
            Test::StringExact(text) => {
                let folded = crate::fhir::text::comparable(text);
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
            Test::ReferenceTree { type_code, id, parent, below } => self.tree(alias, *type_code, id, *parent, *below),
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
                for prefix in below(uri) {
                    self.sql.push(" OR ");
                    starts_with(self.sql, &format!("{alias}.uri"), &prefix);
                }
                self.sql.push(")");
            }
            Test::UriAbove(uri) => {
                sql.push(&format!("{alias}.uri IN ("));
                sql.join(&above(uri), ", ", |sql, uri| {
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
            Test::Amount { op, low, value, high, dimension } => {
                sql.push(&format!("({alias}.code = ")).str(dimension).push(" AND ");
                number_test(sql, &format!("{alias}.value"), *op, *low, *value, *high);
                self.sql.push(")");
            }
            Test::At { kind, value } => {
                let column = column_of(*kind).1;
                // Both stretches of dates.
                let both = if *kind == Kind::Date { format!("{alias}.wide IN (0, 1) AND ") } else { String::new() };
                sql.push(&format!("({both}{alias}.{column} = "));
                self.sort_arg(value);
                self.sql.push(")");
            }
            Test::Before { kind, value, descending } => {
                sql.push(&format!("{alias}.{} {} ", column_of(*kind).1, if *descending { ">" } else { "<" }));
                self.sort_arg(value);
            }
            Test::NoneOf(tests) => {
                sql.push("NOT (1 = 0 OR ");
                self.any_of(tests, alias);
                self.sql.push(")");
            }
            Test::Near { centre: [x, y, z], chord } => {
                sql.push("(");
                for (n, place) in [(1, x), (2, y), (3, z)] {
                    let difference = |sql: &mut Sql| {
                        sql.push(&format!("({alias}.low{n} - ")).real(*place).push(")");
                    };
                    difference(sql);
                    sql.push(" * ");
                    difference(sql);
                    sql.push(if n < 3 { " + " } else { " <= " });
                }
                sql.real(chord * chord).push(")");
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
                of_system(sql, &system, wanted);
                self.sql.push(")");
            }
            Test::StringStarts(folded) => {
                starts_with(sql, &code, folded);
            }
            Test::StringContains(folded) => {
                sql.push(if sql.dialect == Dialect::Sqlite { "instr(" } else { "strpos(" });
                self.sql.push(&format!("{code}, ")).str(folded).push(") > 0");
            }
            Test::StringExact(text) => {
                sql.push(&format!("{code} = ")).str(&crate::fhir::text::comparable(text));
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
            Test::Amount { op, low, value, high, dimension } => {
                sql.push(&format!("({system} = ")).int(system_key(&dimension_system(dimension))).push(" AND ");
                number_test(sql, &format!("{alias}.high{n}"), *op, *low, *value, *high);
                self.sql.push(")");
            }
            Test::StringIs(folded) => {
                sql.push(&format!("{code} = ")).str(folded);
            }
            // No component is asked so.
            Test::TokenIn { .. }
            | Test::TokenStarts(_)
            | Test::TokenFolded { .. }
            | Test::TextStarts(_)
            | Test::StringEnds(_)
            | Test::ReferenceTree { .. }
            | Test::Near { .. }
            | Test::At { .. }
            | Test::Before { .. }
            | Test::NoneOf(_)
            | Test::Composite(_) => {
                sql.push("1 = 0");
            }
        }
    }

    /// The resource and what is below (or above) it by the reference `parent`, as far as the caller sees the way there.
    fn tree(&mut self, alias: &str, type_code: TypeCode, id: &str, parent: ParamId, below: bool) {
        let (from, to) = if below { ("target", "key") } else { ("key", "target") };
        self.sql.push(&format!("{alias}.target IN (WITH RECURSIVE tree (key, depth) AS (SELECT t.key, 0 FROM resource t WHERE t.type = "));
        self.sql.literal(i64::from(type_code)).push(" AND t.id = ").str(id);
        self.sql.push(&format!(" UNION SELECT g.{to}, tree.depth + 1 FROM tree JOIN reference g ON g.{from} = tree.key AND g.param = "));
        self.sql.literal(i64::from(parent)).push(" AND ");
        holds(self.sql, "g", self.seen);
        scope_condition(self.sql, "g", &self.query.scope);
        self.sql.push(" WHERE tree.depth < ").literal(MAX_TREE).push(") SELECT key FROM tree)");
    }
}

/// Generations that `:above` and `:below` on a reference follow.
const MAX_TREE: i64 = 32;

/// `IN` a list that may be long: it is bound as one value.
fn one_of(sql: &mut Sql, codes: &[String]) {
    let list = serde_json::Value::from(codes.to_vec()).to_string();
    match sql.dialect {
        Dialect::Sqlite => sql.push("IN (SELECT value FROM json_each(").str(&list).push("))"),
        Dialect::Postgres => sql.push("= ANY (ARRAY(SELECT jsonb_array_elements_text(CAST(").str(&list).push(" AS jsonb))))"),
    };
}

/// ` AND` the `system|` part of a token, on the column that has the system's key.
fn of_system(sql: &mut Sql, column: &str, system: &SystemTest) {
    match system {
        SystemTest::Any => sql,
        SystemTest::Absent => sql.push(&format!(" AND {column} = 0")),
        SystemTest::Is(system) => sql.push(&format!(" AND {column} = ")).int(system_key(system)),
    };
}

fn starts_with(sql: &mut Sql, column: &str, prefix: &str) {
    sql.push(&format!("({column} >= ")).str(prefix).push(&format!(" AND {column} < ")).str(&after_prefix(prefix)).push(")");
}

/// How what is below a uri begins.
fn below(uri: &str) -> Vec<String> {
    match uri.contains('|') {
        true => vec![format!("{uri}.")],
        false => ["/", "|"].map(|separator| format!("{}{separator}", uri.trim_end_matches('/'))).to_vec(),
    }
}

/// What a uri is below, itself first: without its last segments, or with a version, without the version's last parts.
fn above(uri: &str) -> Vec<String> {
    let mut above = vec![uri.to_owned()];
    match uri.split_once('|') {
        Some((url, version)) => {
            above.push(url.to_owned());
            above.extend(version.match_indices('.').map(|(place, _)| format!("{url}|{}", &version[..place])));
        }
        None => {
            for (place, _) in uri.match_indices('/') {
                above.extend([uri[..place].to_owned(), uri[..=place].to_owned()]);
            }
        }
    }
    above
}

/// The type Patient and its parameter `link`.
pub(super) fn golden_link() -> Option<(TypeCode, ParamId)> {
    let definitions = crate::definitions::r4();
    let patient = definitions.type_code("Patient")?;
    Some((patient, definitions.param(patient, "link")?.id))
}

pub(super) fn test_table(test: &Test) -> &'static str {
    match test {
        Test::Token { .. } | Test::TokenIn { .. } | Test::TokenStarts(_) | Test::TokenFolded { .. } => "token",
        Test::StringStarts(_) | Test::StringContains(_) | Test::StringExact(_) | Test::StringEnds(_) | Test::StringIs(_) => "string",
        Test::Reference { .. } | Test::ReferenceTree { .. } => "reference",
        Test::Uri(_) | Test::Canonical(_) | Test::UriBelow(_) | Test::UriAbove(_) | Test::TextStarts(_) => "uri",
        Test::Date { .. } => "date",
        Test::Number { .. } => "number",
        Test::Quantity { .. } | Test::Amount { .. } => "quantity",
        Test::Composite(_) | Test::Near { .. } => "composite",
        Test::At { kind, .. } | Test::Before { kind, .. } => column_of(*kind).0,
        Test::NoneOf(tests) => tests.first().map_or("token", test_table),
    }
}

/// The least text after all that begin with `prefix`, in code point order.
pub(super) fn after_prefix(prefix: &str) -> String {
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
        DateOp::Gt | DateOp::Ap => {
            let beyond = if op == DateOp::Gt { high } else { low };
            sql.push(&format!("({alias}.high > ")).int(beyond);
            begins_after(sql, alias, beyond.saturating_sub(NARROW));
            if op == DateOp::Ap {
                sql.push(&format!(" AND {alias}.low < ")).int(high);
            }
            sql.push(")");
        }
        // Greater, or within what was asked for.
        DateOp::Ge => {
            sql.push(&format!("(({alias}.high > ")).int(high).push(&format!(" OR {alias}.low >= ")).int(low).push(")");
            begins_after(sql, alias, high.saturating_sub(NARROW).min(low.saturating_sub(1)));
            sql.push(")");
        }
        DateOp::Lt => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low < ")).int(low).push(")");
        }
        // Less, or within what was asked for; whatever ends in time also begins in time.
        DateOp::Le => {
            sql.push(&format!("({alias}.wide IN (0, 1) AND {alias}.low < ")).int(high);
            sql.push(&format!(" AND ({alias}.low < ")).int(low).push(&format!(" OR {alias}.high <= ")).int(high).push("))");
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

/// Bounds the walk of a search for what ends late: `low` from `beyond` on, and the few wide intervals. As one comparison it is one stretch of
/// the index; as alternatives SQLite reads the parameter from its beginning.
fn begins_after(sql: &mut Sql, alias: &str, beyond: i64) {
    sql.push(&format!(" AND ({alias}.wide, {alias}.low) > (0, ")).int(beyond).push(")");
}

/// The same comparisons on two plain columns.
fn interval_test(sql: &mut Sql, low_column: &str, high_column: &str, op: DateOp, low: f64, high: f64) {
    match op {
        DateOp::Eq => sql.push(&format!("({low_column} >= ")).real(low).push(&format!(" AND {high_column} <= ")).real(high),
        DateOp::Ne => sql.push(&format!("({low_column} < ")).real(low).push(&format!(" OR {high_column} > ")).real(high),
        DateOp::Gt => sql.push(&format!("({high_column} > ")).real(high),
        DateOp::Ge => sql.push(&format!("({high_column} > ")).real(high).push(&format!(" OR {low_column} >= ")).real(low),
        DateOp::Ap => sql.push(&format!("({high_column} > ")).real(low).push(&format!(" AND {low_column} < ")).real(high),
        DateOp::Lt => sql.push(&format!("({low_column} < ")).real(low),
        DateOp::Le => sql.push(&format!("({low_column} < ")).real(low).push(&format!(" OR {high_column} <= ")).real(high),
        DateOp::Sa => sql.push(&format!("({low_column} >= ")).real(high),
        DateOp::Eb => sql.push(&format!("({high_column} <= ")).real(low),
    };
    sql.push(")");
}

/// An exact instant against the search's interval.
pub(super) fn instant_test(sql: &mut Sql, column: &str, op: DateOp, interval: Interval) {
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
