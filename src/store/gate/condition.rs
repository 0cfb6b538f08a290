//! Which rows a requester may see: the condition itself.
//!
//! What costs is looking a patient's rules up for each row, so they are found by whom they speak of and then by the patient: the few
//! numbers under which the requester is spoken of ([`audiences`]) are looked up once a statement, and for each row there is one short
//! walk for each of them in an index that holds all that most rules say. What a rule asks of the resource is read for those rules only that ask
//! something.

use super::super::audit::{AUDIT, AUDITOR};
use super::super::sql::{Dialect, Sql};
use super::super::{FacilityKey, ResourceKey};
use super::{BreakGlass, CONSENT, Default, Gate, Requester, Test, numbers, set_key};
use crate::fhir::time::Micros;

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
        sql.push(&format!(
            ") OR ({alias}.patient = {CONSENT} AND EXISTS (SELECT 1 FROM rule n WHERE n.consent = {alias}.key AND n.patient IN ("
        ));
        numbers(sql, &own.patients);
        sql.push("))");
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
            verdict(sql, alias, rows, requester, gate.now);
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
        sql.push(&format!(
            " OR ({alias}.patient = {CONSENT} AND EXISTS (SELECT 1 FROM rule n WHERE n.consent = {alias}.key AND n.named = 1 AND n.precedence = 1"
        ));
        speaks(sql, "n", Audience::Asked, requester, gate.now);
        sql.push(")");
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

fn verdict(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    sql.push("coalesce((SELECT min(n.precedence)");
    rules_of(sql, alias);
    effective(sql, alias, rows, requester, now);
    sql.push("), ");
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
    sql.push(") IN (1, 3)");
}

/// Or the glass is broken for this row: it is not exempt, and no rule of the patient's that stands names emergencies and denies.
fn broken(sql: &mut Sql, alias: &str, rows: Rows, glass: &BreakGlass, requester: &Requester, now: Micros) {
    sql.push(&format!(" OR ({alias}.patient IN ("));
    numbers(sql, &glass.patients);
    sql.push(") AND NOT EXISTS (SELECT 1 FROM class_fact y WHERE y.class = ");
    trait_of(sql, "class", alias, rows);
    sql.push(" AND y.fact IN (");
    numbers(sql, &glass.exempt);
    sql.push(")) AND NOT EXISTS (SELECT 1");
    rules_of(sql, alias);
    sql.push(" AND n.emergency = 1 AND n.precedence IN (0, 2)");
    effective(sql, alias, rows, requester, now);
    sql.push("))");
}

/// The row is the current version.
fn current(sql: &mut Sql, alias: &str) {
    sql.push(&format!("EXISTS (SELECT 1 FROM resource o WHERE o.key = {alias}.key AND o.version = {alias}.version)"));
}

/// The rule `n` matches and none of its exceptions does.
fn effective(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    matches(sql, "n", Audience::Leads, alias, rows, requester, now);
    // An exception that matches decides by itself or through one of its own, and never later than a permit: only what denies must give way.
    sql.push(" AND (n.children = 0 OR n.precedence IN (1, 3) OR NOT EXISTS (SELECT 1 FROM rule c WHERE c.patient = n.patient AND c.consent = n.consent AND c.parent = n.node");
    matches(sql, "c", Audience::Asked, alias, rows, requester, now);
    sql.push("))");
}

/// The rules `n` of the row's patient.
fn rules_of(sql: &mut Sql, alias: &str) {
    // Left to itself SQLite, which does not know how few audiences there are, reads all rules of the patient.
    let by = if sql.dialect == Dialect::Sqlite { " INDEXED BY rule_audience" } else { "" };
    sql.push(&format!(" FROM rule n{by} WHERE n.patient = {alias}.patient"));
}

/// Whether an index is walked by whom rules speak of, or they are found otherwise and this is asked of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    Leads,
    Asked,
}

/// The rule of `rule` speaks of this requester, now.
fn speaks(sql: &mut Sql, rule: &str, audience: Audience, requester: &Requester, now: Micros) {
    let audiences = audiences(sql, requester);
    let plus = if sql.dialect == Dialect::Sqlite && audience == Audience::Asked { "+" } else { "" };
    let one_of = match sql.dialect {
        Dialect::Sqlite => format!("IN (SELECT audience FROM {audiences})"),
        // So that they are values to walk an index by, and not a table to join.
        Dialect::Postgres => format!("= ANY (ARRAY(SELECT audience FROM {audiences}))"),
    };
    sql.push(&format!(" AND {plus}{rule}.audience {one_of} AND {rule}.superseded = 0 AND {rule}.low <= "));
    sql.int(now);
    sql.push(&format!(" AND {rule}.high > "));
    sql.int(now);
}

/// The set of the numbers under which rules speak of this requester.
fn audiences(sql: &mut Sql, requester: &Requester) -> String {
    let words: Vec<i64> = requester.actors.iter().chain(&[-1]).chain(&requester.purposes).copied().collect();
    sql.set(set_key(&words), |sql| {
        let holds = |sql: &mut Sql, alias: &str| {
            sql.push(&format!("{alias}.actor IN (0, "));
            bound(sql, &requester.actors);
            // An actor's rows are few: one walk for each, and not one for each of its purposes too.
            let plus = if sql.dialect == Dialect::Sqlite { "+" } else { "" };
            sql.push(&format!(") AND {plus}{alias}.purpose IN (0, "));
            bound(sql, &requester.purposes);
            sql.push(")");
        };
        sql.push("SELECT a.audience FROM audience_part a WHERE ");
        holds(sql, "a");
        sql.push(" AND (a.parts = 1 OR a.parts = (SELECT count(DISTINCT b.part) FROM audience_part b WHERE b.audience = a.audience AND ");
        holds(sql, "b");
        sql.push("))");
    })
}

/// Appends numbers as bound values, in one of few lengths: so callers differ in values and not in the text of their statements, and
/// the databases need not read it anew.
fn bound(sql: &mut Sql, numbers: &[i64]) {
    const LENGTHS: usize = 4;
    let length = numbers.len().max(1).next_multiple_of(LENGTHS);
    // The last one again and again.
    let last = numbers.last().copied().unwrap_or(0);
    sql.join(numbers.iter().copied().chain(std::iter::repeat(last)).take(length), ", ", |sql, number| {
        sql.int(number);
    });
}

/// The rule of `rule` speaks of this requester, now, and of this row.
fn matches(sql: &mut Sql, rule: &str, audience: Audience, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    speaks(sql, rule, audience, requester, now);
    // Whose columns tell of the row.
    let (traits, from) = match rows {
        Rows::Version => (alias, "rule_part k WHERE".to_owned()),
        Rows::Index => ("q", format!("resource q CROSS JOIN rule_part k WHERE q.key = {alias}.key AND")),
    };
    sql.push(&format!(
        " AND ({rule}.parts = 0 OR {rule}.parts = (SELECT count(DISTINCT k.part) FROM {from} k.consent = {rule}.consent AND k.node = {rule}.node AND CASE k.kind \
         WHEN {} THEN EXISTS (SELECT 1 FROM class_fact y JOIN clause_fact z ON z.clause = k.value AND z.fact = y.fact WHERE y.class = {traits}.class)",
        Test::FACTS
    ));
    sql.push(&format!(" WHEN {} THEN {traits}.low >= k.low AND {traits}.high <= k.high AND {traits}.high <> {traits}.low", Test::WITHIN));
    sql.push(&format!(" WHEN {} THEN {traits}.high = {traits}.low OR ({traits}.low < k.high AND {traits}.high > k.low)", Test::TOUCHES));
    sql.push(&format!(" WHEN {} THEN k.value = {alias}.key", Test::INSTANCE));
    sql.push(&format!(
        " WHEN {} THEN EXISTS (SELECT 1 FROM reference x WHERE x.key = k.value AND x.target = {alias}.key AND x.until = 0)",
        Test::AROUND
    ));
    let refers = format!("EXISTS (SELECT 1 FROM reference x WHERE x.key = {alias}.key AND x.target = k.value AND x.until = 0)");
    sql.push(&format!(" WHEN {} THEN ", Test::REFERS));
    match rows {
        Rows::Index => _ = sql.push(&refers),
        // What an old version referred to cannot be told: that closes.
        Rows::Version => {
            sql.push("CASE WHEN ");
            current(sql, alias);
            sql.push(&format!(" THEN {refers} ELSE {rule}.precedence IN (0, 2) END"));
        }
    }
    sql.push(" END))");
}

fn trait_of(sql: &mut Sql, column: &str, alias: &str, rows: Rows) {
    match rows {
        Rows::Version => sql.push(&format!("{alias}.{column}")),
        Rows::Index => sql.push(&format!("(SELECT q.{column} FROM resource q WHERE q.key = {alias}.key)")),
    };
}
