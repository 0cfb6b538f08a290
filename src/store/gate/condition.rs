//! Which rows a requester may see: the condition itself.
//!
//! What costs is looking a patient's rules up for each row. The numbers under which rules speak of the requester ([`audiences`]) are few and looked
//! up once a statement; what a patient's rules say together to one of them stands in one row where it is simple ([`super::verdict`]). Where it is not, the rules
//! are asked. SQLite keeps its statements, so there that stands in them ([`inline`]); on PostgreSQL it is a function ([`function`]).

use super::super::audit::{AUDIT, AUDITOR};
use super::super::sql::{Dialect, Sql};
use super::super::{FacilityKey, ParamId, ResourceKey};
use super::{BreakGlass, CONSENT, Default, Gate, Requester, function, inline, numbers, set_key, verdict};
use crate::definitions;
use crate::fhir::time::Micros;
use std::sync::LazyLock;

/// Which table the rows of an alias come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// An index table: the traits are those of the current version.
    Index,
    /// `resource`, `history`, or a union of both with their columns `key, owner, patient, class, low, high`.
    Version,
}

/// What the condition itself calls its tables. A row outside by such a name could not be spoken of: the decision would be on another.
const ALIASES: [&str; 10] = ["a", "b", "c", "k", "n", "o", "q", "x", "y", "z"];

/// The parameter by which a Consent names whose it is.
static NAMED: LazyLock<ParamId> = LazyLock::new(|| {
    let r4 = definitions::r4();
    r4.type_code("Consent").and_then(|consent| r4.param(consent, "patient")).map_or(0, |param| param.id)
});

/// Appends the condition on the rows of `alias`, which is none of [`ALIASES`].
pub fn condition(sql: &mut Sql, alias: &str, rows: Rows, gate: &Gate) {
    debug_assert!(!ALIASES.contains(&alias), "{alias} is a name of the condition's own");
    sql.push(" AND (");
    owned(sql, alias, &gate.owners);
    sql.push(&format!(" OR {alias}.patient = 0"));
    if let Some(own) = &gate.own {
        sql.push(&format!(" OR ({alias}.patient IN ("));
        numbers(sql, &own.patients);
        sql.push(")");
        if !own.exempt.is_empty() {
            sql.push(" AND NOT EXISTS (SELECT 1 FROM class_fact y WHERE y.class = ");
            trait_of(sql, "class", alias, rows);
            sql.push(" AND y.fact IN (");
            numbers(sql, &own.exempt);
            sql.push("))");
        }
        // Their own Consents, and those that permit something of theirs; what denies reaches others' Patients, and is not theirs to read.
        sql.push(&format!(
            ") OR ({alias}.patient = {CONSENT} AND (EXISTS (SELECT 1 FROM rule n WHERE n.consent = {alias}.key AND n.precedence IN (1, 3) AND n.patient IN ("
        ));
        numbers(sql, &own.patients);
        sql.push(&format!(")) OR EXISTS (SELECT 1 FROM reference x WHERE x.key = {alias}.key AND x.param = "));
        sql.literal(i64::from(*NAMED)).push(" AND x.until = 0 AND x.target IN (");
        numbers(sql, &own.patients);
        sql.push(")))");
        if rows == Rows::Version {
            sql.push(" AND ");
            current(sql, alias);
        }
        sql.push(")");
    }
    if !gate.requesters.is_empty() {
        sql.push(&format!(" OR ({alias}.patient > 0"));
        for requester in &gate.requesters {
            sql.push(" AND (");
            verdict::shows(sql, alias, rows, requester, gate.now);
            if let Some(glass) = &gate.break_glass {
                broken(sql, alias, rows, glass, requester, gate.now);
            }
            sql.push(")");
        }
        sql.push(")");
    }
    if gate.owners.contains(&AUDITOR) {
        sql.push(&format!(" OR {alias}.patient = {AUDIT}"));
    }
    for requester in &gate.requesters {
        sql.push(&format!(" OR ({alias}.patient = {CONSENT} AND "));
        match sql.dialect {
            Dialect::Sqlite => inline::named(sql, alias, requester, gate.now),
            Dialect::Postgres => function::named(sql, alias, requester, gate.now),
        }
        if rows == Rows::Version {
            // Whom it named before is nobody's business.
            sql.push(" AND ");
            current(sql, alias);
        }
        sql.push(")");
    }
    sql.push(")");
}

/// The Consents (patient, id, version) that permit this caller something of these patients now; `None` where no Consent can.
pub fn consents(dialect: Dialect, gate: &Gate, patients: &[ResourceKey]) -> Option<Sql> {
    if gate.requesters.is_empty() || patients.is_empty() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    sql.push("SELECT DISTINCT n.patient, r.id, r.version FROM rule n JOIN resource r ON r.key = n.consent WHERE n.patient IN (");
    numbers(&mut sql, patients);
    sql.push(") AND n.precedence IN (1, 3) AND (1 = 0");
    for requester in &gate.requesters {
        sql.push(" OR (1 = 1");
        speaks(&mut sql, "n", Audience::Asked, requester, gate.now);
        sql.push(")");
    }
    sql.push(") ORDER BY 1, 2");
    Some(sql)
}

/// Appends the condition that one of `owners` contributed the row.
pub fn owned(sql: &mut Sql, alias: &str, owners: &[FacilityKey]) {
    if owners.is_empty() {
        sql.push("1 = 0");
        return;
    }
    sql.push(&format!("{alias}.owner IN ("));
    bound(sql, owners);
    sql.push(")");
}

/// What decides where no rule does: 1 shows the row.
pub(super) fn default(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester) {
    match &requester.default {
        Default::Hidden => {
            sql.push("0");
        }
        Default::ShownIf(facts) => {
            sql.push("CASE WHEN EXISTS (SELECT 1 FROM class_fact y WHERE y.class = ");
            trait_of(sql, "class", alias, rows);
            sql.push(" AND y.fact IN (");
            numbers(sql, facts);
            sql.push(")) THEN 1 ELSE 0 END");
        }
    }
}

/// Or the glass is broken for this row: it is not exempt, and no rule of the patient's that stands names emergencies and denies.
fn broken(sql: &mut Sql, alias: &str, rows: Rows, glass: &BreakGlass, requester: &Requester, now: Micros) {
    sql.push(&format!(" OR ({alias}.patient IN ("));
    numbers(sql, &glass.patients);
    sql.push(") AND NOT EXISTS (SELECT 1 FROM class_fact y WHERE y.class = ");
    trait_of(sql, "class", alias, rows);
    sql.push(" AND y.fact IN (");
    numbers(sql, &glass.exempt);
    sql.push(")) AND ");
    match sql.dialect {
        Dialect::Sqlite => inline::undenied(sql, alias, rows, requester, now),
        Dialect::Postgres => function::undenied(sql, alias, rows, requester, now),
    }
    sql.push(")");
}

/// The row is the current version.
pub(super) fn current(sql: &mut Sql, alias: &str) {
    sql.push(&format!("EXISTS (SELECT 1 FROM resource o WHERE o.key = {alias}.key AND o.version = {alias}.version)"));
}

/// Whether an index is walked by whom rules speak of, or they are found otherwise and this is asked of each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Leads,
    Asked,
}

/// The rule of `rule` speaks of this requester, now.
pub(super) fn speaks(sql: &mut Sql, rule: &str, audience: Audience, requester: &Requester, now: Micros) {
    let plus = if sql.dialect == Dialect::Sqlite && audience == Audience::Asked { "+" } else { "" };
    let one_of = one_of_audiences(sql, requester);
    sql.push(&format!(" AND {plus}{rule}.audience {one_of} AND {rule}.superseded = 0 AND {rule}.low <= "));
    sql.int(now);
    sql.push(&format!(" AND {rule}.high > "));
    sql.int(now);
}

/// `IN` the numbers under which rules speak of this requester.
pub(super) fn one_of_audiences(sql: &mut Sql, requester: &Requester) -> String {
    let audiences = audiences(sql, requester);
    match sql.dialect {
        Dialect::Sqlite => format!("IN (SELECT audience FROM {audiences})"),
        Dialect::Postgres => format!("= ANY ({})", function::array(&audiences)),
    }
}

/// The set of the numbers under which rules speak of this requester.
pub(super) fn audiences(sql: &mut Sql, requester: &Requester) -> String {
    let words: Vec<i64> = requester.actors.iter().chain(&[-1]).chain(&requester.purposes).copied().collect();
    let define = match sql.dialect {
        Dialect::Sqlite => inline::audiences,
        Dialect::Postgres => function::audiences,
    };
    sql.set(set_key(&words), |sql| define(sql, requester))
}

/// Appends numbers as bound values, in one of few lengths: so callers differ in values and not in the text of their statements, and
/// the databases need not read it anew.
pub(super) fn bound(sql: &mut Sql, numbers: &[i64]) {
    const LENGTHS: usize = 4;
    let length = numbers.len().max(1).next_multiple_of(LENGTHS);
    // The last one again and again.
    let last = numbers.last().copied().unwrap_or(0);
    sql.join(numbers.iter().copied().chain(std::iter::repeat(last)).take(length), ", ", |sql, number| {
        sql.int(number);
    });
}

pub(super) fn trait_of(sql: &mut Sql, column: &str, alias: &str, rows: Rows) {
    match rows {
        Rows::Version => sql.push(&format!("{alias}.{column}")),
        Rows::Index => sql.push(&format!("(SELECT q.{column} FROM resource q WHERE q.key = {alias}.key)")),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(owner: FacilityKey, actors: &[&str]) -> Gate {
        let requester = Requester::new(actors.to_vec(), vec!["TREAT"], Default::Hidden);
        Gate { owners: vec![owner], requesters: vec![requester], break_glass: None, own: None, now: owner, since: 0 }
    }

    #[test]
    fn callers_differ_in_values_and_not_in_the_text_of_their_statements() {
        for dialect in [Dialect::Sqlite, Dialect::Postgres] {
            for rows in [Rows::Index, Rows::Version] {
                let texts = [gate(1, &["a"]), gate(2, &["b", "c", "d"])].map(|gate| {
                    let mut sql = Sql::new(dialect);
                    sql.push("SELECT d.key FROM token d WHERE 1 = 1");
                    condition(&mut sql, "d", rows, &gate);
                    condition(&mut sql, "d", rows, &gate);
                    assert_eq!(sql.text.matches(" AS MATERIALIZED ").count(), 1, "the audiences are looked up once");
                    (sql.text, sql.args)
                });
                assert_eq!(texts[0].0, texts[1].0);
                assert_ne!(texts[0].1, texts[1].1);
            }
        }
    }
}
