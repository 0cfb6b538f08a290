//! The part of the decision that most rows do not need, on PostgreSQL: as text it took a millisecond to plan, ten times what
//! a search takes. So it is functions, planned once a connection (`0052_rule.sql`), the same in words as [`super::inline`]. To call one
//! takes 10 to 50 µs, so what a page asks of each row stands in the text where the statement itself is planned once ([`is_used`]).

use super::Requester;
use super::condition::{Rows, audiences as set, default};
use crate::fhir::time::Micros;
use crate::store::sql::{Dialect, Sql};

/// Whether what is short is a function too: where planning it would cost more than to call it.
pub(super) fn is_used(sql: &Sql) -> bool {
    sql.dialect == Dialect::Postgres && !sql.is_planned_once()
}

/// Whether the lowest of the rules that stand shows the row.
pub(super) fn asked(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    sql.push("coalesce(");
    decided(sql, alias, rows, requester, now, false);
    sql.push(", ");
    default(sql, alias, rows, requester);
    sql.push(") IN (1, 3)");
}

/// No rule that stands names emergencies and denies.
pub(super) fn undenied(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    decided(sql, alias, rows, requester, now, true);
    sql.push(" IS NULL");
}

/// The Consent permits the requester something, by name.
pub(super) fn named(sql: &mut Sql, alias: &str, requester: &Requester, now: Micros) {
    let audiences = set(sql, requester);
    sql.push(&format!("gate_named({alias}.key, {}, ", array(&audiences)));
    sql.int(now).push(")");
}

/// The lowest of the rules that stand; `emergency`: of those that name emergencies and deny.
fn decided(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros, emergency: bool) {
    let audiences = set(sql, requester);
    let version = match rows {
        Rows::Index => "NULL, NULL, NULL, NULL".to_owned(),
        Rows::Version => format!("{alias}.version, {alias}.class, {alias}.low, {alias}.high"),
    };
    sql.push(&format!("gate_decided({alias}.patient, {alias}.key, {version}, {}, ", array(&audiences)));
    sql.int(now).push(if emergency { ", TRUE)" } else { ", FALSE)" });
}

/// The numbers of a set that [`audiences`] wrote.
pub(super) fn array(set: &str) -> String {
    format!("CAST((SELECT numbers FROM {set}) AS BIGINT[])")
}

/// Writes the set of the numbers under which rules speak of this requester.
pub(super) fn audiences(sql: &mut Sql, requester: &Requester) {
    if is_used(sql) {
        sql.push("SELECT gate_audiences(");
        bound_array(sql, &requester.actors);
        sql.push(", ");
        bound_array(sql, &requester.purposes);
        sql.push(") AS numbers");
        return;
    }
    sql.push("SELECT ARRAY(SELECT a.audience FROM audience_part a WHERE a.actor = ANY (o.actors) AND a.purpose = ANY (o.purposes) AND (a.parts = 1 OR a.parts = \
         (SELECT count(DISTINCT b.part) FROM audience_part b WHERE b.audience = a.audience AND b.actor = ANY (o.actors) AND b.purpose = ANY (o.purposes)))) AS numbers FROM (SELECT ");
    bound_array(sql, &requester.actors);
    sql.push(" AS actors, ");
    bound_array(sql, &requester.purposes);
    sql.push(" AS purposes) o");
}

/// Appends numbers, and 0 for anybody and any purpose.
fn bound_array(sql: &mut Sql, numbers: &[i64]) {
    sql.array([0].into_iter().chain(numbers.iter().copied()));
}
