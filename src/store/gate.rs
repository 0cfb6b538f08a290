//! The gate: which rows a requester may see, as a condition inside every query.
//!
//! A row is the requester's own facility's, or about nobody, or about a patient whose rules allow it. The rules are the
//! patient's Consents compiled flat ([`crate::access::consent`]); a rule is *effective* when its audience holds the
//! requester, it holds now, the resource satisfies all its parts, and none of its exceptions is effective in turn. One
//! effective rule that denies hides the row; else one that permits shows it; else the deployment's default decides.
//!
//! Everything here is numbers: facts, actors and purposes are hashes of words ([`super::system_key`]), so nothing has to
//! be looked up before a write and the same words are the same number on every process.

mod rules;

pub use rules::*;

use super::audit::{AUDIT, AUDITOR};
use super::index::own_row;
use super::sql::{Dialect, Sql};
use super::{FacilityKey, ResourceKey, system_key};
use crate::fhir::Interval;
use crate::fhir::time::Micros;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Whose a resource is, beyond its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum About {
    /// About no patient: open to every caller whose scopes reach the type.
    #[default]
    Nobody,
    /// The Patient with this id, whose consent decides.
    Patient(Box<str>),
    /// It could hold what is about patients and cannot be tied to one: its contributor's alone.
    Unknown,
    /// It is a Consent: its contributor's, and readable by those whom it names and permits something.
    Consent,
    /// It is an AuditEvent that lango wrote: the client's that caused it, and the privacy officer's.
    Audit,
}

impl About {
    /// The id of the Patient that it names.
    pub fn patient(&self) -> Option<&str> {
        match self {
            About::Patient(id) => Some(id),
            _ => None,
        }
    }
}

/// The value of a row's `patient` column when it is its contributor's alone.
pub const CONTRIBUTOR_ONLY: ResourceKey = -1;
/// The value of a Consent's `patient` column.
pub const CONSENT: ResourceKey = -2;

/// What rules may ask of a resource: its facts, and when it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Sorted, each once.
    facts: Vec<i64>,
    pub when: Option<Interval>,
    /// Of what other resources come in; `None`: not of such a type, or deleted.
    pub hands: Option<Hands>,
}

/// What an Encounter, a Composition or a document hands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hands {
    /// Its labels, sorted, each once.
    labels: Vec<i64>,
    /// The resources (type, id) that it lists. Who names an Encounter is not listed.
    pub lists: Vec<(Box<str>, Box<str>)>,
}

impl Hands {
    /// Of labels in words, such as `label|SYSTEM|CODE` and [`LEVELS`].
    pub fn new<T: AsRef<str>>(labels: impl IntoIterator<Item = T>, lists: Vec<(Box<str>, Box<str>)>) -> Hands {
        Hands { labels: sorted(labels.into_iter().map(|label| system_key(label.as_ref()))), lists }
    }

    pub(super) fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// Whether it has no labels.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// How confidential a resource is, in the words of its facts, from the least on. A resource with facts has one of them.
pub const LEVELS: [&str; 6] =
    ["confidentiality|U", "confidentiality|L", "confidentiality|M", "confidentiality|N", "confidentiality|R", "confidentiality|V"];

/// The facts `own` with the labels that were handed on: the highest level of all. `None` when that adds nothing.
pub(super) fn inherited(own: &[i64], labels: &BTreeSet<i64>) -> Option<Vec<i64>> {
    static NUMBERS: LazyLock<[i64; 6]> = LazyLock::new(|| LEVELS.map(system_key));
    let is_level = |fact: &&i64| NUMBERS.contains(fact);
    let level = NUMBERS.iter().rev().find(|level| own.contains(level) || labels.contains(level));
    let rest = own.iter().chain(labels).filter(|fact| !is_level(fact));
    let facts = sorted(rest.chain(level).copied());
    let mut before = own.to_vec();
    before.sort_unstable();
    (facts != before).then_some(facts)
}

impl Traits {
    /// Of facts in words, such as `type|Observation`.
    pub fn new<T: AsRef<str>>(facts: impl IntoIterator<Item = T>, when: Option<Interval>) -> Traits {
        Traits { facts: sorted(facts.into_iter().map(|fact| system_key(fact.as_ref()))), when, hands: None }
    }

    /// Of what hands labels on, without facts.
    pub fn of_hands(hands: Hands) -> Traits {
        Traits { hands: Some(hands), ..Traits::default() }
    }

    /// The number of the class of resources with these facts; 0 without any.
    pub fn class(&self) -> i64 {
        if self.facts.is_empty() { 0 } else { Traits::class_of(&self.facts) }
    }

    /// The same of sorted facts.
    pub(super) fn class_of(facts: &[i64]) -> i64 {
        set_key(facts)
    }

    pub fn facts(&self) -> &[i64] {
        &self.facts
    }

    /// `low` and `high` of the row; both 0 when the time is not known.
    pub(super) fn bounds(&self) -> (i64, i64) {
        self.when.map_or((0, 0), |when| (when.low, when.high))
    }
}

/// Numbers in order, each once.
fn sorted(numbers: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut numbers: Vec<i64> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The number of a set of numbers.
fn set_key(numbers: &[i64]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_be_bytes());
    }
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    (i64::from_be_bytes(first) & i64::MAX).max(1)
}

/// The statements that make the facts of `classes` known.
pub fn class_statements<'a>(dialect: Dialect, classes: impl Iterator<Item = (&'a i64, &'a Vec<i64>)>) -> Vec<Sql> {
    let rows: Vec<[i64; 2]> = classes.flat_map(|(class, facts)| facts.iter().map(|fact| [*class, *fact])).collect();
    let mut statements = Vec::new();
    insert(dialect, "class_fact", &rows, &mut statements);
    statements
}

/// Rows per statement.
const CHUNK: usize = 200;

/// Rows that are there already stay as they are: equal keys are equal rows.
pub(super) fn insert<const WIDTH: usize>(dialect: Dialect, table: &'static str, rows: &[[i64; WIDTH]], statements: &mut Vec<Sql>) {
    // In one order everywhere, so that two writers of the same rows wait for each other and do not lock crosswise.
    let mut rows: Vec<&[i64; WIDTH]> = rows.iter().collect();
    rows.sort_unstable();
    rows.dedup();
    for chunk in rows.chunks(CHUNK) {
        let mut sql = Sql::new(dialect);
        sql.push("INSERT INTO ").push(table).push(" VALUES ");
        sql.join(chunk, ", ", |sql, row| {
            sql.push("(");
            sql.join(*row, ", ", |sql, number| {
                sql.int(*number);
            });
            sql.push(")");
        });
        sql.push(" ON CONFLICT DO NOTHING");
        statements.push(sql);
    }
}

/// Who asks, as every query must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What these contributed is seen whatever the rules say.
    pub owners: Vec<FacilityKey>,
    /// One for each purpose of use: each must allow, so that naming several gives no more than one would. Without any, no consent opens anything.
    pub requesters: Vec<Requester>,
    /// The glass that was broken for this request.
    pub break_glass: Option<BreakGlass>,
    /// The records of the person who asks, or for whom they ask: open but for what is exempt, whatever the rules say.
    pub own: Option<BreakGlass>,
    /// The instant of the request.
    pub now: Micros,
    /// The newest closing that its decisions know of ([`super::closing`]).
    pub since: i64,
}

/// The records of one person are open, but for what is exempt and where the person's own rules name emergencies and deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    pub patients: Vec<ResourceKey>,
    /// Facts of what stays closed.
    pub exempt: Vec<i64>,
}

/// The requester under one purpose of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Everything that it is, in the words of [`AudiencePart::actors`].
    pub actors: Vec<i64>,
    /// The purpose and the wider ones that it is a kind of.
    pub purposes: Vec<i64>,
    pub default: Default,
}

impl Requester {
    /// Of actors and purposes in words.
    pub fn new<T: AsRef<str>>(actors: Vec<T>, purposes: Vec<T>, default: Default) -> Requester {
        let keys = |words: &[T]| sorted(words.iter().map(|word| system_key(word.as_ref())));
        Requester { actors: keys(&actors), purposes: keys(&purposes), default }
    }
}

/// What holds for a row that no rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Default {
    Hidden,
    /// Seen, if it has one of these facts.
    ShownIf(Vec<i64>),
}

/// Which table the rows of an alias come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// An index table: the traits are those of the current version.
    Index,
    /// `resource`, `history`, or a union of both with their columns `key, owner, patient, class, low, high`.
    Version,
}

/// What the condition itself calls its tables. A row outside by such a name could not be spoken of: the decision would be on another.
const ALIASES: [&str; 9] = ["a", "c", "k", "n", "o", "q", "x", "y", "z"];

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
        speaks(sql, "n", requester, gate.now);
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
        speaks(&mut sql, "n", requester, gate.now);
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
    sql.join(owners, ", ", |sql, owner| {
        sql.literal(*owner);
    });
    sql.push(")");
}

fn verdict(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    sql.push("coalesce((SELECT min(n.precedence) FROM rule n WHERE n.patient = ");
    sql.push(alias).push(".patient");
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
    sql.push(&format!(
        ")) AND NOT EXISTS (SELECT 1 FROM rule n WHERE n.patient = {alias}.patient AND n.emergency = 1 AND n.precedence IN (0, 2)"
    ));
    effective(sql, alias, rows, requester, now);
    sql.push("))");
}

/// The row is the current version.
fn current(sql: &mut Sql, alias: &str) {
    sql.push(&format!("EXISTS (SELECT 1 FROM resource o WHERE o.key = {alias}.key AND o.version = {alias}.version)"));
}

/// The rule `n` matches and none of its exceptions does.
fn effective(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    matches(sql, "n", alias, rows, requester, now);
    // An exception that matches decides by itself or through one of its own, and never later than a permit: only what denies must give way.
    sql.push(" AND (n.children = 0 OR n.precedence IN (1, 3) OR NOT EXISTS (SELECT 1 FROM rule c WHERE c.patient = n.patient AND c.consent = n.consent AND c.parent = n.node");
    matches(sql, "c", alias, rows, requester, now);
    sql.push("))");
}

/// The rule of `rule` speaks of this requester, now.
fn speaks(sql: &mut Sql, rule: &str, requester: &Requester, now: Micros) {
    let audiences = audiences(sql, requester);
    // The index on the patient is to be used, of whom there are few rules, and not one walk for each audience.
    let plus = if sql.dialect == Dialect::Sqlite { "+" } else { "" };
    sql.push(&format!(" AND {plus}{rule}.audience IN (SELECT audience FROM {audiences}) AND {rule}.superseded = 0 AND {rule}.low <= "));
    sql.int(now);
    sql.push(&format!(" AND {rule}.high > "));
    sql.int(now);
}

/// The name under which the statement knows the audiences that hold this requester. They are looked up once, at its beginning,
/// however often it decides.
fn audiences(sql: &mut Sql, requester: &Requester) -> String {
    let words: Vec<i64> = requester.actors.iter().chain(&[-1]).chain(&requester.purposes).copied().collect();
    let name = format!("audiences_{}", set_key(&words));
    if !sql.text.contains(&format!("{name} AS")) {
        let list = |numbers: &[i64]| [0].iter().chain(numbers).map(i64::to_string).collect::<Vec<_>>().join(", ");
        // An actor's rows are few: one walk for each, and not one for each of its purposes too.
        let plus = if sql.dialect == Dialect::Sqlite { "+" } else { "" };
        let (actors, purposes) = (list(&requester.actors), list(&requester.purposes));
        // A statement may already begin with names of its own; they may rest on this one.
        let more = sql.text.strip_prefix("WITH ").map(|rest| format!(", {rest}"));
        sql.text = format!(
            "WITH {name} AS MATERIALIZED (SELECT a.audience FROM audience_part a WHERE a.actor IN ({actors}) AND {plus}a.purpose IN ({purposes}) \
             GROUP BY a.audience, a.parts HAVING count(DISTINCT a.part) = a.parts){}",
            more.unwrap_or_else(|| format!(" {}", sql.text))
        );
    }
    name
}

/// The rule of `rule` speaks of this requester, now, and of this row.
fn matches(sql: &mut Sql, rule: &str, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    speaks(sql, rule, requester, now);
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

fn trait_of(sql: &mut Sql, column: &str, alias: &str, rows: Rows) {
    match rows {
        Rows::Version => sql.push(&format!("{alias}.{column}")),
        Rows::Index => sql.push(&format!("(SELECT q.{column} FROM resource q WHERE q.key = {alias}.key)")),
    };
}

fn numbers(sql: &mut Sql, numbers: &[i64]) {
    if numbers.is_empty() {
        sql.push("0");
    }
    sql.join(numbers, ", ", |sql, number| {
        sql.literal(*number);
    });
}
