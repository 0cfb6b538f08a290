//! The gate: which rows a requester may see, as a condition inside every query.
//!
//! A row is the requester's own facility's, or about nobody, or about a patient whose rules allow it. The rules are the
//! patient's Consents compiled flat ([`crate::access::consent`]); a rule is *effective* when its audience holds the
//! requester, it holds now, the resource satisfies all its parts, and none of its exceptions is effective in turn. One
//! effective rule that denies hides the row; else one that permits shows it; else the deployment's default decides.
//!
//! Everything here is numbers: facts, actors and purposes are hashes of words ([`super::system_key`]), so nothing has to
//! be looked up before a write and the same words are the same number on every process.

mod condition;
mod function;
mod inline;
mod rules;
mod verdict;

pub use condition::{Rows, condition, consents, owned};
pub use rules::*;
pub(super) use verdict::{conclude, forget};

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

/// Appends numbers of lango's own making.
pub(super) fn numbers(sql: &mut Sql, numbers: &[i64]) {
    if numbers.is_empty() {
        sql.push("0");
    }
    sql.join(numbers, ", ", |sql, number| {
        sql.literal(*number);
    });
}
