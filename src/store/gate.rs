//! The gate: which rows a requester may see, as a condition inside every query.
//!
//! A row is the requester's own facility's, or about nobody, or about a patient whose rules allow it. The rules are the
//! patient's Consents compiled flat ([`crate::access::consent`]); a rule is *effective* when its audience holds the
//! requester, it holds now, the resource satisfies all its parts, and none of its exceptions is effective in turn. One
//! effective rule that denies hides the row; else one that permits shows it; else the deployment's default decides.
//!
//! Everything here is numbers: facts, actors and purposes are hashes of words ([`super::system_key`]), so nothing has to
//! be looked up before a write and the same words are the same number on every process.

use super::audit::{AUDIT, AUDITOR};
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

/// A Consent's rules, written with the Consent; they replace what an earlier version of it said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Ids of the Patients that it covers.
    pub patients: Vec<Box<str>>,
    /// Consents of one series supersede each other; `None`: this one stands by itself.
    pub series: Option<String>,
    /// Which of a series is newest.
    pub stamp: Micros,
    pub rules: Vec<Rule>,
}

impl Rules {
    /// The value sets that the rules name.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        let tests = self.rules.iter().flat_map(|rule| &rule.parts).flatten();
        tests.filter_map(|test| if let Test::InSet(members) = test { Some(&*members.url) } else { None })
    }

    /// The resources that the rules name (type, id).
    pub(super) fn targets(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.rules.iter().flat_map(|rule| &rule.parts).flatten().filter_map(Test::target);
        self.patients.iter().map(|id| ("Patient", &**id)).chain(named)
    }
}

/// Which of several effective rules decides: the lowest. Odd ones show a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Precedence {
    Deny = 0,
    Permit = 1,
    /// Of a Consent's own default, for what none of its patient's rules speaks of.
    DefaultDeny = 2,
    DefaultPermit = 3,
}

/// One provision.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its number in the Consent, 0 for the root.
    pub node: i64,
    /// The provision that it is an exception to.
    pub parent: Option<i64>,
    pub precedence: Precedence,
    /// Who must ask, and what for: every element must be met. Empty: anybody, for any purpose.
    pub audience: Vec<AudiencePart>,
    /// When it holds: `[low, high)`.
    pub period: Interval,
    /// What the resource must be: every element must be met, by any of its tests.
    pub parts: Vec<Vec<Test>>,
    pub has_exceptions: bool,
    /// It names whom it allows: they may read the Consent itself.
    pub names_actor: bool,
    /// It names emergencies: where it denies, it holds against break-glass.
    pub names_emergency: bool,
}

/// Any of the actors, and any of the purposes; an empty list means all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AudiencePart {
    /// In words, such as `organization|Organization/123`; the same words as in [`Requester::actors`].
    pub actors: Vec<String>,
    /// In words, such as `http://terminology.hl7.org/CodeSystem/v3-ActReason|TREAT`.
    pub purposes: Vec<String>,
}

/// A test on a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// One of its facts is one of these, in the words of [`Traits::new`].
    Facts(Vec<String>),
    /// What happened lies in the interval as a whole; unknown times do not.
    Within(Interval),
    /// What happened touches the interval, or its time is unknown.
    Touches(Interval),
    /// It is this resource (type, id).
    Instance(Box<str>, Box<str>),
    /// It refers to this resource (type, id) by a search parameter. Other references are facts.
    Refers(Box<str>, Box<str>),
    /// This resource (type, id) refers to it by a search parameter, today.
    Around(Box<str>, Box<str>),
    /// A code in it is in the value set ([`Members`]), today.
    InSet(Members),
}

/// A value set as the rules of an effect see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub url: Box<str>,
    /// For a rule that denies: what cannot be told is in.
    pub denies: bool,
}

impl Members {
    fn clause(&self) -> i64 {
        system_key(&format!("{}|{}", if self.denies { "set denied" } else { "set" }, self.url))
    }
}

/// What is in a value set that rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub url: Box<str>,
    /// Codes as facts in words; `None`: it cannot be listed.
    pub facts: Option<Vec<String>>,
}

impl Membership {
    /// The clause and its facts for rules of either effect.
    fn clauses(&self) -> [(i64, Vec<i64>); 2] {
        [false, true].map(|denies| {
            let words: Vec<&str> = match &self.facts {
                Some(facts) => facts.iter().map(String::as_str).collect(),
                // Every resource has one of them.
                None if denies => LEVELS.to_vec(),
                None => Vec::new(),
            };
            let clause = Members { url: self.url.clone(), denies }.clause();
            (clause, sorted(words.into_iter().map(system_key)))
        })
    }

    /// The statements that put these in the place of what was known before.
    pub(super) fn statements(dialect: Dialect, sets: &[Membership]) -> Vec<Sql> {
        let mut statements = Vec::new();
        let clauses: Vec<(i64, Vec<i64>)> = sets.iter().flat_map(Membership::clauses).collect();
        for chunk in clauses.chunks(CHUNK) {
            let mut sql = Sql::new(dialect);
            sql.push("DELETE FROM clause_fact WHERE clause IN (");
            sql.join(chunk, ", ", |sql, (clause, _)| {
                sql.literal(*clause);
            });
            sql.push(")");
            statements.push(sql);
        }
        let rows: Vec<[i64; 2]> = clauses.iter().flat_map(|(clause, facts)| facts.iter().map(|fact| [*clause, *fact])).collect();
        insert(dialect, "clause_fact", &rows, &mut statements);
        for set in sets {
            let mut sql = Sql::new(dialect);
            sql.push("INSERT INTO rule_set (url) VALUES (").str(&set.url).push(") ON CONFLICT DO NOTHING");
            statements.push(sql);
        }
        statements
    }
}

impl Test {
    const FACTS: i64 = 0;
    const WITHIN: i64 = 1;
    const TOUCHES: i64 = 2;
    const INSTANCE: i64 = 3;
    const REFERS: i64 = 4;
    const AROUND: i64 = 5;

    /// The resource that it names.
    fn target(&self) -> Option<(&str, &str)> {
        match self {
            Test::Instance(type_name, id) | Test::Refers(type_name, id) | Test::Around(type_name, id) => Some((type_name, id)),
            _ => None,
        }
    }
}

/// Rows of the tables of `0003_consent.sql`, in the order of their columns.
#[derive(Debug, Default)]
pub struct RuleRows {
    pub rules: Vec<[i64; 16]>,
    pub parts: Vec<[i64; 7]>,
    pub audiences: Vec<[i64; 5]>,
    pub clauses: Vec<[i64; 2]>,
}

impl RuleRows {
    /// The rows of one Consent. `target` gives the key of a resource.
    pub fn add(&mut self, consent: ResourceKey, updated: Micros, rules: &Rules, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) {
        let patients: Vec<ResourceKey> = rules.patients.iter().filter_map(|id| target("Patient", id)).collect();
        let series = rules.series.as_deref().map_or(0, system_key);
        for rule in &rules.rules {
            let audience = self.audience(&rule.audience);
            for (part, tests) in rule.parts.iter().enumerate() {
                for test in tests {
                    let (kind, value, low, high) = self.test(test, target);
                    self.parts.push([consent, rule.node, part as i64, kind, value, low, high]);
                }
            }
            for patient in &patients {
                self.rules.push([
                    *patient,
                    consent,
                    rule.node,
                    rule.parent.unwrap_or(-1),
                    rule.precedence as i64,
                    audience,
                    rule.period.low,
                    rule.period.high,
                    rule.parts.len() as i64,
                    i64::from(rule.has_exceptions),
                    i64::from(rule.names_actor),
                    i64::from(rule.names_emergency),
                    series,
                    rules.stamp,
                    updated,
                    0,
                ]);
            }
        }
    }

    fn audience(&mut self, parts: &[AudiencePart]) -> i64 {
        let keys = |words: &[String]| if words.is_empty() { vec![0] } else { sorted(words.iter().map(|word| system_key(word))) };
        let mut sets: Vec<(Vec<i64>, Vec<i64>)> = parts.iter().map(|part| (keys(&part.actors), keys(&part.purposes))).collect();
        sets.sort();
        sets.dedup();
        sets.retain(|set| *set != (vec![0], vec![0]));
        if sets.is_empty() {
            return 0;
        }
        let numbers: Vec<i64> =
            sets.iter().flat_map(|(actors, purposes)| actors.iter().chain(&[-1]).chain(purposes).chain(&[-2])).copied().collect();
        let audience = set_key(&numbers);
        let count = sets.len() as i64;
        for (part, (actors, purposes)) in sets.iter().enumerate() {
            for actor in actors {
                self.audiences.extend(purposes.iter().map(|purpose| [*actor, *purpose, audience, part as i64, count]));
            }
        }
        audience
    }

    fn test(&mut self, test: &Test, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) -> (i64, i64, i64, i64) {
        let mut named = |kind, (type_name, id): (&str, &str)| (kind, target(type_name, id).unwrap_or(0), 0, 0);
        match test {
            Test::Facts(words) => {
                let facts = sorted(words.iter().map(|word| system_key(word)));
                let clause = set_key(&facts);
                self.clauses.extend(facts.iter().map(|fact| [clause, *fact]));
                (Test::FACTS, clause, 0, 0)
            }
            Test::Within(interval) => (Test::WITHIN, 0, interval.low, interval.high),
            Test::Touches(interval) => (Test::TOUCHES, 0, interval.low, interval.high),
            Test::Instance(type_name, id) => named(Test::INSTANCE, (type_name, id)),
            Test::Refers(type_name, id) => named(Test::REFERS, (type_name, id)),
            Test::Around(type_name, id) => named(Test::AROUND, (type_name, id)),
            Test::InSet(members) => (Test::FACTS, members.clause(), 0, 0),
        }
    }
}

impl RuleRows {
    /// The patients whose rules these are.
    pub fn patients(&self) -> impl Iterator<Item = ResourceKey> {
        self.rules.iter().map(|rule| rule[0])
    }

    /// The patients of whom these rules deny something.
    pub fn denied(&self) -> impl Iterator<Item = ResourceKey> {
        const DENIES: [i64; 2] = [Precedence::Deny as i64, Precedence::DefaultDeny as i64];
        self.rules.iter().filter(|rule| DENIES.contains(&rule[4])).map(|rule| rule[0])
    }

    /// The rules that there are of `patients`: whoever has none before loses nothing by a permit.
    pub(super) fn ruled(dialect: Dialect, patients: &[ResourceKey]) -> Sql {
        let mut sql = Sql::new(dialect);
        sql.push("SELECT DISTINCT patient FROM rule WHERE patient IN (");
        numbers(&mut sql, patients);
        sql.push(")");
        sql
    }

    /// The statements that put these rows in the place of the rules of `consents`. `patients`: all whose rules change, sorted.
    pub fn statements(&self, dialect: Dialect, consents: &[ResourceKey], patients: &[ResourceKey]) -> Vec<Sql> {
        let mut statements = Vec::new();
        for chunk in consents.chunks(CHUNK) {
            for table in ["rule", "rule_part"] {
                let mut sql = Sql::new(dialect);
                sql.push("DELETE FROM ").push(table).push(" WHERE consent IN (");
                numbers(&mut sql, chunk);
                sql.push(")");
                statements.push(sql);
            }
        }
        insert(dialect, "clause_fact", &self.clauses, &mut statements);
        insert(dialect, "audience_part", &self.audiences, &mut statements);
        insert(dialect, "rule_part", &self.parts, &mut statements);
        insert(dialect, "rule", &self.rules, &mut statements);
        for chunk in patients.chunks(CHUNK) {
            let mut sql = Sql::new(dialect);
            sql.push(
                "UPDATE rule SET superseded = CASE WHEN EXISTS (SELECT 1 FROM rule s WHERE s.patient = rule.patient \
                 AND s.series = rule.series AND (s.stamp, s.updated, s.consent) > (rule.stamp, rule.updated, rule.consent)) THEN 1 ELSE 0 END WHERE series <> 0 AND patient IN (",
            );
            numbers(&mut sql, chunk);
            sql.push(")");
            statements.push(sql);
        }
        statements
    }
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
    /// The instant of the request.
    pub now: Micros,
    /// The newest closing that its decisions know of ([`super::closing`]).
    pub since: i64,
}

/// An emergency: the records of one person are open, but for what is exempt and where the person's own rules name emergencies and deny.
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

/// Appends the condition on the rows of `alias`.
pub fn condition(sql: &mut Sql, alias: &str, rows: Rows, gate: &Gate) {
    sql.push(" AND (");
    owned(sql, alias, &gate.owners);
    sql.push(&format!(" OR {alias}.patient = 0"));
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
    sql.push(" AND (n.children = 0 OR NOT EXISTS (SELECT 1 FROM rule c WHERE c.patient = n.patient AND c.consent = n.consent AND c.parent = n.node");
    matches(sql, "c", alias, rows, requester, now);
    sql.push("))");
}

/// The rule of `rule` speaks of this requester, now.
fn speaks(sql: &mut Sql, rule: &str, requester: &Requester, now: Micros) {
    sql.push(&format!(" AND {rule}.superseded = 0 AND {rule}.low <= "));
    sql.int(now);
    sql.push(&format!(" AND {rule}.high > "));
    sql.int(now);
    sql.push(&format!(" AND {rule}.audience IN (SELECT a.audience FROM audience_part a WHERE a.actor IN (0"));
    for actor in &requester.actors {
        sql.push(", ").literal(*actor);
    }
    sql.push(") AND a.purpose IN (0");
    for purpose in &requester.purposes {
        sql.push(", ").literal(*purpose);
    }
    sql.push(") GROUP BY a.audience, a.parts HAVING count(DISTINCT a.part) = a.parts)");
}

/// The rule of `rule` speaks of this requester, now, and of this row.
fn matches(sql: &mut Sql, rule: &str, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    speaks(sql, rule, requester, now);
    sql.push(&format!(
        " AND ({rule}.parts = 0 OR {rule}.parts = (SELECT count(DISTINCT k.part) FROM rule_part k \
         WHERE k.consent = {rule}.consent AND k.node = {rule}.node AND CASE k.kind"
    ));
    sql.push(&format!(
        " WHEN {} THEN EXISTS (SELECT 1 FROM class_fact y JOIN clause_fact z ON z.clause = k.value AND z.fact = y.fact WHERE y.class = ",
        Test::FACTS
    ));
    trait_of(sql, "class", alias, rows);
    sql.push(")");
    sql.push(&format!(" WHEN {} THEN ", Test::WITHIN));
    trait_of(sql, "low", alias, rows);
    sql.push(" >= k.low AND ");
    trait_of(sql, "high", alias, rows);
    sql.push(" <= k.high AND ");
    trait_of(sql, "high", alias, rows);
    sql.push(" <> ");
    trait_of(sql, "low", alias, rows);
    sql.push(&format!(" WHEN {} THEN ", Test::TOUCHES));
    trait_of(sql, "high", alias, rows);
    sql.push(" = ");
    trait_of(sql, "low", alias, rows);
    sql.push(" OR (");
    trait_of(sql, "low", alias, rows);
    sql.push(" < k.high AND ");
    trait_of(sql, "high", alias, rows);
    sql.push(" > k.low)");
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

fn numbers(sql: &mut Sql, numbers: &[i64]) {
    if numbers.is_empty() {
        sql.push("0");
    }
    sql.join(numbers, ", ", |sql, number| {
        sql.literal(*number);
    });
}
