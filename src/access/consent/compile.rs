//! Consents as flat rules, for a database to evaluate inside a query.
//!
//! A rule is one provision with everything that the provisions above it ask for. It *matches* when its audience matches the requester, `now` lies
//! in its period, each of its clauses has a fact of the resource, and its data period fits the resource's time. It is *effective* when it matches and no rule
//! whose parent it is does. Of the effective rules of a person's consents the lowest [`Precedence`] decides.

use super::decide::{Effective, intersect, names_emergency};
use super::facts::{Fact, ResourceFacts};
use super::model::*;
use super::policy::{Deployment, Verdict, conclude, strictest};
use super::requester::{Audience, Requester};
use super::vocabulary::{self, Confidentiality};
use crate::fhir::time::{Interval, Micros};
use std::collections::BTreeSet;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number in the consent, from 0.
    pub number: u32,
    /// The rule that it is an exception to, if that can ever match.
    pub parent: Option<u32>,
    pub precedence: Precedence,
    pub audience: Audience,
    /// `from <= now < until`.
    pub from: Micros,
    pub until: Micros,
    /// A permit needs the resource's time to lie inside; a deny needs it to touch, or to be missing. `None`: any time.
    pub data_period: Option<Interval>,
    /// For each clause the resource must have one of its facts.
    pub clauses: Vec<BTreeSet<Fact>>,
    /// Its path names emergencies: a deny of this kind holds against break-glass.
    pub names_emergency: bool,
}

/// The rules of one consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    pub consent: ConsentVersion,
    pub rules: Vec<Rule>,
}

/// The rules of a consent; those that can never match are left out. Compile the consents that [`in_force`] says count.
pub fn compile(consent: &Consent) -> Compiled {
    let mut rules = Vec::new();
    if consent.standing == Standing::InForce {
        for provision in &consent.provisions {
            flatten(consent, provision, &Path::default(), None, &mut rules);
        }
    }
    Compiled { consent: consent.version.clone(), rules }
}

/// The criteria on the way from the root. A criterion differs by whether the rule at the end of the way is a permit or a deny, since what
/// is unknown counts for the one and not for the other; so it is kept until the end is known.
#[derive(Clone, Default)]
struct Path<'a> {
    provisions: Vec<&'a Provision>,
}

fn flatten<'a>(consent: &Consent, provision: &'a Provision, above: &Path<'a>, parent: Option<u32>, rules: &mut Vec<Rule>) {
    let mut path = above.clone();
    path.provisions.push(provision);
    let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
    let rule = rule_of(consent, &path, number, parent);
    let parent = rule.as_ref().map(|rule| rule.number);
    rules.extend(rule);
    for exception in &provision.exceptions {
        flatten(consent, exception, &path, parent, rules);
    }
}

/// `None` when it can never match.
fn rule_of(consent: &Consent, path: &Path<'_>, number: u32, parent: Option<u32>) -> Option<Rule> {
    let precedence = path.provisions.last()?.precedence;
    let effect = precedence.effect();
    let mut rule = Rule {
        number,
        parent,
        precedence,
        audience: Audience::everybody(effect),
        from: Interval::MIN,
        until: if effect == Effect::Permit { consent.permits_until } else { Interval::MAX },
        data_period: None,
        clauses: Vec::new(),
        names_emergency: false,
    };
    for provision in &path.provisions {
        if provision.unknown && effect == Effect::Permit {
            return None;
        }
        rule.from = rule.from.max(provision.period.low);
        rule.until = rule.until.min(provision.period.high);
        rule.data_period = match (rule.data_period, provision.data_period) {
            (Some(a), Some(b)) => Some(intersect(a, b)),
            (a, b) => a.or(b),
        };
        rule.names_emergency |= names_emergency(provision);
        rule.audience.actors.extend(values(&provision.actors, effect)?);
        rule.audience.actions.extend(values(&provision.actions, effect)?);
        let purposes = values(&provision.purposes, effect)?;
        rule.audience.purposes.extend(purposes.into_iter().map(|set| if effect == Effect::Deny { any_emergency(set) } else { set }));
        let own = provision.precedence.effect();
        rule.clauses.extend(clauses(&provision.classes, effect, |class| vec![class_fact(class)])?);
        let words = (effect == Effect::Deny).then(Fact::uncoded);
        rule.clauses.extend(clauses(&provision.codes, effect, |code| words.iter().cloned().chain([Fact::code(code)]).collect())?);
        rule.clauses.extend(clauses(&provision.labels, effect, |label| label_facts(label, own))?);
        rule.clauses.extend(clauses(&provision.data, effect, |data| data_facts(data, effect))?);
    }
    rule.clauses.sort();
    rule.clauses.dedup();
    let possible = rule.from < rule.until && rule.data_period.is_none_or(|period| period.low < period.high);
    possible.then_some(rule)
}

/// The sets of values, one or none, that must be met for a rule with this effect: for a permit the values that are understood (`None` when none is: it
/// never matches), for a deny all of them, or no set when one is not understood.
fn values<T: Ord + Clone>(criterion: &Option<AnyOf<T>>, effect: Effect) -> Option<Vec<BTreeSet<T>>> {
    match criterion {
        None => Some(Vec::new()),
        Some(any) if any.unknown && effect == Effect::Deny => Some(Vec::new()),
        Some(any) if any.values.is_empty() => None,
        Some(any) => Some(vec![any.values.clone()]),
    }
}

/// One who denies an emergency denies all: which it is nobody can tell apart.
fn any_emergency(mut purposes: BTreeSet<vocabulary::Coding>) -> BTreeSet<vocabulary::Coding> {
    if purposes.iter().any(vocabulary::is_emergency) {
        purposes.insert(vocabulary::Coding::purpose("ETREAT"));
    }
    purposes
}

fn clauses<T: Ord + Clone>(criterion: &Option<AnyOf<T>>, effect: Effect, facts: impl Fn(&T) -> Vec<Fact>) -> Option<Vec<BTreeSet<Fact>>> {
    Some(values(criterion, effect)?.iter().map(|values| values.iter().flat_map(&facts).collect()).collect())
}

fn class_fact(class: &Class) -> Fact {
    match class {
        Class::Type(name) => Fact::of_type(name),
        Class::Profile(url) => Fact::profile(url),
        Class::Document(coding) => Fact::document(coding),
    }
}

fn label_facts(label: &vocabulary::Coding, effect: Effect) -> Vec<Fact> {
    match (Confidentiality::of(label), effect) {
        (Some(level), Effect::Permit) => level.and_below().map(Fact::confidentiality).collect(),
        (Some(level), Effect::Deny) => level.and_above().map(Fact::confidentiality).collect(),
        (None, _) => vocabulary::label_and_below(label).iter().map(Fact::label).collect(),
    }
}

fn data_facts(data: &Data, effect: Effect) -> Vec<Fact> {
    match data {
        Data::Instance(name) => vec![Fact::instance(name)],
        Data::Related(name, refers_to) => {
            let reached = refers_to.iter().filter(|one| one.follows || effect == Effect::Deny);
            let beside = reached.map(|one| Fact::beside(&one.name));
            [Fact::instance(name), Fact::refers_to(name), Fact::around(name)].into_iter().chain(beside).collect()
        }
        Data::Dependents(name) => vec![Fact::instance(name), Fact::refers_to(name)],
        Data::AuthoredBy(name) => vec![Fact::author(name)],
        Data::PerhapsAuthoredBy(name) if effect == Effect::Deny => vec![Fact::author(name)],
        Data::PerhapsAuthoredBy(_) => Vec::new(),
    }
}

impl Rule {
    /// Whether the rule matches: what the database asks, in words of Rust.
    pub fn matches(&self, requester: &Requester, facts: &BTreeSet<Fact>, time: Option<Interval>) -> bool {
        let data = self.data_period.is_none_or(|period| match (self.precedence.effect(), time) {
            (Effect::Permit, time) => time.is_some_and(|time| period.low <= time.low && time.high <= period.high),
            (Effect::Deny, None) => true,
            (Effect::Deny, Some(time)) => time.low < period.high && period.low < time.high,
        });
        self.from <= requester.now
            && requester.now < self.until
            && data
            && self.clauses.iter().all(|clause| clause.iter().any(|fact| fact.is_of(facts)))
            && self.audience.matches(requester)
    }
}

/// The verdict by flat rules, those of all consents of one person that are in force and cover the data. Equal to [`decide`](super::decide::decide) for
/// resources of this server.
pub fn evaluate_rules(compiled: &[Compiled], requester: &Requester, resource: &ResourceFacts, deployment: &Deployment) -> Verdict {
    let facts = resource.flatten();
    strictest(requester, |requester| {
        let mut effective = Effective::default();
        for Compiled { consent, rules } in compiled {
            let matching: Vec<&Rule> = rules.iter().filter(|rule| rule.matches(requester, &facts, resource.time)).collect();
            let excepted: BTreeSet<u32> = matching.iter().filter_map(|rule| rule.parent).collect();
            for rule in matching.iter().filter(|rule| !excepted.contains(&rule.number)) {
                effective.add(rule.precedence, consent, rule.names_emergency);
            }
        }
        conclude(&effective, requester, resource, deployment)
    })
}
