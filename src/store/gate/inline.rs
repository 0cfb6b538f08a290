//! What rules say of a row, inside a statement of SQLite.
//!
//! For each row there is one short walk for each audience in an index that holds all that most rules say.

use super::condition::{Audience, Rows, bound, current, default, speaks};
use super::{Requester, Test};
use crate::fhir::time::Micros;
use crate::store::index::own_row;
use crate::store::sql::Sql;

/// Whether the lowest of the rules that stand shows the row.
pub(super) fn asked(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    sql.push("coalesce((SELECT min(n.precedence)");
    rules_of(sql, alias);
    effective(sql, alias, rows, requester, now);
    sql.push("), ");
    default(sql, alias, rows, requester);
    sql.push(") IN (1, 3)");
}

/// No rule that stands names emergencies and denies.
pub(super) fn undenied(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    sql.push("NOT EXISTS (SELECT 1");
    rules_of(sql, alias);
    sql.push(" AND n.emergency = 1 AND n.precedence IN (0, 2)");
    effective(sql, alias, rows, requester, now);
    sql.push(")");
}

/// The Consent permits the requester something, by name.
pub(super) fn named(sql: &mut Sql, alias: &str, requester: &Requester, now: Micros) {
    sql.push(&format!("EXISTS (SELECT 1 FROM rule n WHERE n.consent = {alias}.key AND n.named = 1 AND n.precedence = 1"));
    speaks(sql, "n", Audience::Asked, requester, now);
    sql.push(")");
}

/// Writes the set of the numbers under which rules speak of this requester.
pub(super) fn audiences(sql: &mut Sql, requester: &Requester) {
    let holds = |sql: &mut Sql, alias: &str| {
        sql.push(&format!("{alias}.actor IN (0, "));
        bound(sql, &requester.actors);
        // An actor's rows are few: one walk for each, and not one for each of its purposes too.
        sql.push(&format!(") AND +{alias}.purpose IN (0, "));
        bound(sql, &requester.purposes);
        sql.push(")");
    };
    sql.push("SELECT a.audience FROM audience_part a WHERE ");
    holds(sql, "a");
    sql.push(" AND (a.parts = 1 OR a.parts = (SELECT count(DISTINCT b.part) FROM audience_part b WHERE b.audience = a.audience AND ");
    holds(sql, "b");
    sql.push("))");
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
    sql.push(&format!(" FROM rule n INDEXED BY rule_audience WHERE n.patient = {alias}.patient"));
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
        " WHEN {} THEN EXISTS (SELECT 1 FROM reference x WHERE x.key = k.value AND x.target = {alias}.key AND x.until = 0{})",
        Test::AROUND,
        // What it contains may refer to anything.
        own_row("x")
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
