//! Between the consent engine, which speaks in words, and the store's gate, which decides in numbers inside each query.
//!
//! What a consent can ask of a resource goes on the resource's row ([`traits`]), what a Consent says becomes rules ([`rules`]), and
//! who asks becomes a [`gate::Requester`] for each purpose of use ([`requesters`]). The meaning is the engine's
//! ([`super::consent::evaluate_rules`]); tests hold the answers of the two against each other.

use super::consent::vocabulary::{self, Coding};
use super::consent::{self, Action, Consent, Deployment, Effect, ImplicitPolicy, ResourceFacts, Standing};
use crate::definitions;
use crate::fhir::Interval;
use crate::fhir::reference::Reference;
use crate::store::gate::{self, AudiencePart, Hands, Members, Membership, Precedence, Rule, Rules, Succession, Test, Traits};
use crate::store::system_key;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

/// What rules may ask of a resource with these facts. References that are `indexed` (type, id) are left out: the store has them as
/// index rows. Those that no search parameter knows are words like the rest.
pub fn traits(facts: &ResourceFacts, indexed: impl Fn(&str, &str) -> bool) -> Traits {
    let facts_in_words = facts.flatten();
    let kept = |word: &&str| match place(word) {
        None => true,
        Some(Place::Refers(type_name, id)) => !indexed(type_name, id),
        Some(Place::Instance(..) | Place::Elsewhere | Place::Around(..) | Place::Beside(..) | Place::Members(_)) => false,
    };
    Traits::new(facts_in_words.iter().map(consent::Fact::as_str).filter(kept), facts.time)
}

/// What an Encounter, a Composition or a Bundle hands on to what comes in it, and a Medication, a Substance or an Observation to what names it; `None` for other
/// types. Absolute references under `base` are local. A medicine is about nobody and carries no label: `sensitive` tells what it gives away.
pub fn hands(type_name: &str, resource: &Value, base: &str, sensitive: &consent::Sensitive) -> Option<Hands> {
    let lists = match type_name {
        "Encounter" | "Medication" | "Substance" | "Observation" => Vec::new(),
        "Composition" => entries_of_sections(resource, base),
        "Bundle" => entries_of_bundle(resource, base),
        _ => return None,
    };
    let told = if matches!(type_name, "Medication" | "Substance") { sensitive.labels_of(resource) } else { BTreeSet::new() };
    let labels = consent::handed_on(resource, told);
    // Whom an unlabelled one lists nobody asks.
    let lists = if labels.is_empty() { Vec::new() } else { lists };
    Some(Hands::new(labels.iter().map(consent::Fact::as_str), lists))
}

fn entries_of_sections(composition: &Value, base: &str) -> Vec<(Box<str>, Box<str>)> {
    let mut found = Vec::new();
    let mut waiting = vec![composition];
    while let Some(section) = waiting.pop() {
        let list = |key: &str| section.get(key).and_then(Value::as_array).into_iter().flatten();
        found.extend(list("entry").filter_map(|entry| named(entry.get("reference")?.as_str()?, base)));
        waiting.extend(list("section"));
    }
    found
}

/// An entry is what its `fullUrl` names here; without one, what it says it is.
fn entries_of_bundle(bundle: &Value, base: &str) -> Vec<(Box<str>, Box<str>)> {
    let entries = bundle.get("entry").and_then(Value::as_array).into_iter().flatten();
    let name = |entry: &Value| match entry.get("fullUrl").and_then(Value::as_str) {
        Some(url) => named(url, base),
        None => {
            let text = |key: &str| entry.pointer(key).and_then(Value::as_str);
            named(&format!("{}/{}", text("/resource/resourceType")?, text("/resource/id")?), base)
        }
    };
    entries.filter_map(name).collect()
}

fn named(reference: &str, base: &str) -> Option<(Box<str>, Box<str>)> {
    match Reference::parse_at(reference, base)? {
        Reference::Local { type_name, id, .. } => Some((type_name.into(), id.into())),
        _ => None,
    }
}

/// A fact that the store does not keep in words.
enum Place<'a> {
    /// It is, or refers to, this resource (type, id).
    Instance(&'a str, &'a str),
    Refers(&'a str, &'a str),
    /// This resource refers to it, or did when the Consent was written.
    Around(&'a str, &'a str),
    Beside(&'a str, &'a str),
    /// A code in it is in this value set.
    Members(&'a str),
    /// It is, and what that is lies elsewhere.
    Elsewhere,
}

/// `None`: a fact in words.
fn place(word: &str) -> Option<Place<'_>> {
    let (kind, name) = word.split_once('|')?;
    match (kind, local(name)) {
        ("self", Some((type_name, id))) => Some(Place::Instance(type_name, id)),
        ("around", Some((type_name, id))) => Some(Place::Around(type_name, id)),
        ("beside", Some((type_name, id))) => Some(Place::Beside(type_name, id)),
        ("self" | "around" | "beside", None) => Some(Place::Elsewhere),
        ("code", None) => Some(Place::Members(name.strip_prefix(VALUE_SET)?.strip_prefix('|')?)),
        ("ref", Some((type_name, id))) => Some(Place::Refers(type_name, id)),
        _ => None,
    }
}

/// The type and id of a name that means a resource of this server.
fn local(name: &str) -> Option<(&str, &str)> {
    let (type_name, id) = name.split_once('/')?;
    definitions::r4().type_code(type_name)?;
    (!id.contains('/')).then_some((type_name, id))
}

/// The rules that `consent` sets for `patients` (ids), all of whom it covers; what it permits, for `permitted` of them.
pub fn rules(consent: &Consent, patients: Vec<Box<str>>, permitted: BTreeSet<Box<str>>) -> Rules {
    let succession = match &consent.takes {
        _ if consent.standing == Standing::Mistaken => Succession::Never,
        Some(place) => Succession::Takes(place.clone()),
        None => Succession::Keeps,
    };
    let mut said: Vec<Rule> = match consent.standing {
        Standing::InForce => consent::compile(consent).rules.iter().filter_map(rule).collect(),
        Standing::Void(_) | Standing::Mistaken => return Rules { succession, ..Rules::default() },
    };
    if said.is_empty() {
        // It allows and denies nothing; whom it is about finds it by this.
        said.push(Rule {
            node: 0,
            parent: None,
            precedence: Precedence::Deny,
            audience: Vec::new(),
            period: Interval { low: 0, high: 0 },
            parts: Vec::new(),
            has_exceptions: false,
            names_actor: false,
            names_emergency: false,
        });
    }
    let mut rules = Rules { patients, permitted, succession, rules: said, rests_on: Vec::new() };
    let parents: BTreeSet<i64> = rules.rules.iter().filter_map(|rule| rule.parent).collect();
    for rule in &mut rules.rules {
        rule.has_exceptions = parents.contains(&rule.node);
    }
    rules
}

/// `None` when it can never match a request for data.
fn rule(compiled: &consent::Rule) -> Option<Rule> {
    let effect = compiled.precedence.effect();
    let reads = |action: &Action| match (effect, action) {
        (_, Action::Access) => true,
        // Reading lies so near to using and disclosing that a denial of one may be meant for another.
        (Effect::Deny, Action::Use | Action::Disclose) => true,
        _ => false,
    };
    if !compiled.audience.actions.iter().all(|set| set.iter().any(reads)) {
        return None;
    }
    let whom = compiled
        .audience
        .actors
        .iter()
        .map(|set| AudiencePart { actors: set.iter().flat_map(|actor| actor_words(actor, effect)).collect(), purposes: Vec::new() });
    let why =
        compiled.audience.purposes.iter().map(|set| AudiencePart { actors: Vec::new(), purposes: set.iter().map(coding_word).collect() });
    let audience: Vec<AudiencePart> = whom.chain(why).collect();
    let when = compiled.data_period.map(|period| match effect {
        Effect::Permit => vec![Test::Within(period)],
        Effect::Deny => vec![Test::Touches(period)],
    });
    let what = compiled.clauses.iter().flat_map(|clause| tests(clause, effect));
    Some(Rule {
        node: i64::from(compiled.number),
        parent: compiled.parent.map(i64::from),
        precedence: match compiled.precedence {
            consent::Precedence::Deny => Precedence::Deny,
            consent::Precedence::Permit => Precedence::Permit,
            consent::Precedence::DefaultDeny => Precedence::DefaultDeny,
            consent::Precedence::DefaultPermit => Precedence::DefaultPermit,
        },
        names_actor: effect == Effect::Permit && compiled.audience.actors.iter().any(|set| set.iter().any(|actor| !actor.names.is_empty())),
        audience,
        period: Interval { low: compiled.from, high: compiled.until },
        parts: when.into_iter().chain(what).collect(),
        has_exceptions: false,
        names_emergency: compiled.names_emergency,
    })
}

/// The system of the codings that stand for the members of a value set: rules name it, what is in it the store knows ([`members`]).
pub const VALUE_SET: &str = "urn:lango:value-set";

/// What is in a value set, for rules that name it; `None`: it cannot be listed.
pub fn members(url: &str, codings: Option<Vec<Coding>>) -> Membership {
    let words = |codings: Vec<Coding>| codings.iter().map(|coding| consent::Fact::code(coding).as_str().to_owned()).collect();
    Membership { url: url.into(), facts: codings.map(words) }
}

/// The tests for "one of these facts", all of which must be met by any of theirs. An empty list is met by nothing. What another resource refers to is
/// permitted when it did so when the Consent was written and still does, and denied when it did or does: nobody gains by editing it.
fn tests(clause: &BTreeSet<consent::Fact>, effect: Effect) -> Vec<Vec<Test>> {
    let mut words = Vec::new();
    let (mut tests, mut then, mut now) = (Vec::new(), Vec::new(), Vec::new());
    for fact in clause {
        match place(fact.as_str()) {
            None => words.push(fact.as_str().to_owned()),
            Some(Place::Instance(type_name, id)) => tests.push(Test::Instance(type_name.into(), id.into())),
            Some(Place::Refers(type_name, id)) => {
                tests.push(Test::Refers(type_name.into(), id.into()));
                words.push(fact.as_str().to_owned());
            }
            Some(Place::Around(type_name, id)) => now.push(Test::Around(type_name.into(), id.into())),
            Some(Place::Beside(type_name, id)) => then.push(Test::Instance(type_name.into(), id.into())),
            Some(Place::Members(url)) => tests.push(Test::InSet(Members { url: url.into(), denies: effect == Effect::Deny })),
            Some(Place::Elsewhere) => {}
        }
    }
    if !words.is_empty() {
        tests.push(Test::Facts(words));
    }
    if now.is_empty() || effect == Effect::Deny {
        return vec![[tests, then, now].concat()];
    }
    vec![[tests.clone(), now].concat(), [tests, then].concat()]
}

fn coding_word(coding: &Coding) -> String {
    format!("{}|{}", coding.system, coding.code)
}

/// What a requester must be called to be this actor: by a name, a role, or both at once. Who denies means those too who perhaps are.
fn actor_words(actor: &consent::Actor, effect: Effect) -> Vec<String> {
    match effect {
        Effect::Permit => words_of(actor.names.iter(), actor.roles.iter()),
        Effect::Deny => {
            // Whoever holds a role that is not known here.
            let roles = actor.roles.iter().filter(|_| !actor.has_unknown_role());
            let words = words_of(actor.names.iter().chain(&actor.aliases), roles);
            words.into_iter().flat_map(|word| [perhaps(&word), word]).collect()
        }
    }
}

/// The word for one who perhaps is what `word` says.
fn perhaps(word: &str) -> String {
    format!("perhaps {word}")
}

fn words_of<'a>(names: impl Iterator<Item = &'a consent::Name> + Clone, roles: impl Iterator<Item = &'a Coding> + Clone) -> Vec<String> {
    let roles: Vec<String> = roles.map(|role| format!("role {}", coding_word(role))).collect();
    match (names.clone().next().is_some(), roles.is_empty()) {
        (false, true) => vec!["anybody".to_owned()],
        (false, false) => roles,
        (true, true) => names.map(|name| format!("name {name}")).collect(),
        (true, false) => names.flat_map(|name| roles.iter().map(move |role| format!("name {name} {role}"))).collect(),
    }
}

/// The requester for every purpose that it names; none without a purpose.
pub fn requesters(requester: &consent::Requester, deployment: &Deployment) -> Vec<gate::Requester> {
    let names = [&requester.organisations, &requester.people, &requester.devices, &requester.groups].into_iter().flatten();
    let surely = all_words(names.clone(), requester.roles.iter());
    let all = all_words(names.chain(&requester.aliases), requester.roles.iter().chain(&requester.unclaimed));
    let actors: Vec<String> = all.difference(&surely).map(|word| perhaps(word)).chain(surely.iter().cloned()).collect();
    let for_purpose = |purpose: &Coding| {
        let alone = consent::Requester { purposes: BTreeSet::from([purpose.clone()]), ..requester.clone() };
        let default = if deployment.implicit.admits(&alone) {
            gate::Default::ShownIf(numbers(&ImplicitPolicy::clause()))
        } else {
            gate::Default::Hidden
        };
        gate::Requester::new(actors.clone(), vocabulary::purpose_and_above(purpose).iter().map(coding_word).collect(), default)
    };
    requester.purposes.iter().map(for_purpose).collect()
}

/// Everything that a rule may ask somebody of these names and roles to be.
fn all_words<'a>(
    names: impl Iterator<Item = &'a consent::Name> + Clone,
    roles: impl Iterator<Item = &'a Coding> + Clone,
) -> BTreeSet<String> {
    let none = || words_of(std::iter::empty(), std::iter::empty());
    let of_names = words_of(names.clone(), std::iter::empty());
    let of_roles = words_of(std::iter::empty(), roles.clone());
    [none(), of_names, of_roles, words_of(names, roles)].into_iter().flatten().collect()
}

/// Facts as the store has them.
pub fn numbers(facts: &BTreeSet<consent::Fact>) -> Vec<i64> {
    Traits::new(facts.iter().map(consent::Fact::as_str), None).facts().to_vec()
}

/// The label that stands in the store as this number, if it is one that has a meaning here.
pub fn label_of(number: i64) -> Option<Coding> {
    static LABELS: LazyLock<HashMap<i64, Coding>> = LazyLock::new(|| {
        let fact = |label: &Coding| match vocabulary::Confidentiality::of(label) {
            Some(level) => consent::Fact::confidentiality(level),
            None => consent::Fact::label(label),
        };
        vocabulary::labels().map(|label| (system_key(fact(&label).as_str()), label)).collect()
    });
    LABELS.get(&number).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use consent::vocabulary::Confidentiality;

    #[test]
    fn the_store_knows_the_levels_by_their_words() {
        let highest = Confidentiality::of(&Coding::confidentiality("V")).unwrap();
        let words: Vec<String> = highest.and_below().map(|level| consent::Fact::confidentiality(level).as_str().to_owned()).collect();
        assert_eq!(words, gate::LEVELS);
    }
}
