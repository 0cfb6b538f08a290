//! Which security labels a resource gets when it arrives, from what it says.
//!
//! Value sets that the deployment edits (`conceptmaps/ValueSet-sensitive-*.json`) list the codes, and the words of texts, that give a sensitive matter away.
//! A resource with one of them, in any coding or text, gets the sensitivity's code of v3 ActCode and the confidentiality `R`. Labels are only added: what
//! a facility labelled higher stays higher.

use super::facts::{Fact, coding, items};
use super::vocabulary::{self, ACT_CODE, CONFIDENTIALITY, Coding, Confidentiality};
use crate::definitions;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// A value set and the sensitivity of what is in it.
pub const SENSITIVE_SETS: &[(&str, &str)] = &[
    ("https://lango.health/fhir/ValueSet/sensitive-hiv", "HIV"),
    ("https://lango.health/fhir/ValueSet/sensitive-mental-health", "PSY"),
    ("https://lango.health/fhir/ValueSet/sensitive-sexual-domestic-violence", "SDV"),
    ("https://lango.health/fhir/ValueSet/sensitive-substance-use", "ETH"),
    ("https://lango.health/fhir/ValueSet/sensitive-alcohol-use", "ETHUD"),
];

/// The system of single words, in lower case, as codes of the value sets.
pub const WORDS: &str = "https://lango.health/fhir/CodeSystem/sensitive-word";

/// How many words of one text are looked at; texts of concepts and references are short.
const MAX_WORDS_OF_A_TEXT: usize = 100;

/// What the value sets hold, ready to be asked for every resource that arrives. Made anew when one of them changes.
#[derive(Clone, Debug, Default)]
pub struct Sensitive {
    /// System, code, sensitivities.
    codes: HashMap<String, HashMap<String, Vec<&'static str>>>,
    /// Value sets that could not be listed: nothing is labelled by them, which the operator must be told.
    pub unreadable: Vec<&'static str>,
}

impl Sensitive {
    /// `members` lists a value set by its URL; `None` when it cannot be listed.
    pub fn new(members: impl Fn(&str) -> Option<Vec<Coding>>) -> Sensitive {
        let mut sensitive = Sensitive::default();
        for (set, label) in SENSITIVE_SETS {
            let Some(members) = members(set) else {
                sensitive.unreadable.push(set);
                continue;
            };
            for member in members {
                sensitive.codes.entry(member.system).or_default().entry(member.code).or_default().push(label);
            }
        }
        sensitive
    }

    /// Another one than that of other codes, labels or ways of finding them.
    pub fn digest(&self) -> String {
        let mut known: Vec<(&str, &str, &[&str])> = Vec::new();
        for (system, codes) in &self.codes {
            known.extend(codes.iter().map(|(code, labels)| (system.as_str(), code.as_str(), labels.as_slice())));
        }
        known.sort_unstable();
        let text = format!("labels on arrival, 1: {known:?}");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// What a code tells of, by itself or by a broader one that it begins with: `B20.1` under `B20`, `J05AR10` under `J05A`.
    fn of_code<'a>(&'a self, system: &str, code: &'a str) -> impl Iterator<Item = &'static str> + 'a {
        let by_prefix = system.starts_with("http://hl7.org/fhir/sid/icd-10") || system == "http://www.whocc.no/atc";
        let codes = self.codes.get(system);
        let shorter = (3..code.len()).filter(move |_| by_prefix).filter_map(|length| code.get(..length));
        shorter.chain([code]).filter_map(move |code| codes?.get(code)).flatten().copied()
    }

    fn of_text(&self, text: &str, found: &mut BTreeSet<Coding>) {
        let Some(known) = self.codes.get(WORDS) else { return };
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2).take(MAX_WORDS_OF_A_TEXT);
        found.extend(words.filter_map(|word| known.get(&word.to_lowercase())).flatten().map(|label| Coding::sensitivity(label)));
    }

    /// What a resource tells of.
    fn of_resource(&self, resource: &Value) -> BTreeSet<Coding> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![resource];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(list) => waiting.extend(list),
                Value::Object(object) => {
                    let text = |key: &str| object.get(key).and_then(Value::as_str);
                    if let (Some(system), Some(code)) = (text("system"), text("code")) {
                        found.extend(self.of_code(system, code).map(Coding::sensitivity));
                    }
                    // How a patient is called says nothing.
                    for (key, value) in object.iter().filter(|(key, _)| !matches!(key.as_str(), "meta" | "subject" | "patient")) {
                        match value.as_str().filter(|_| matches!(key.as_str(), "text" | "display")) {
                            Some(text) => self.of_text(text, &mut found),
                            None => waiting.push(value),
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// The labels of an Encounter, a Composition or a Bundle that what comes in it inherits, as facts: its sensitivities, and its level when that
/// is above normal.
pub fn handed_on(resource: &Value) -> BTreeSet<Fact> {
    let labels: BTreeSet<Coding> = items(resource.pointer("/meta/security")).filter_map(coding).filter(is_inherited).collect();
    let level = vocabulary::confidentiality(&labels);
    let sensitivities = labels.iter().filter(|label| label.system == ACT_CODE).map(Fact::label);
    sensitivities.chain((level > Confidentiality::NORMAL).then(|| Fact::confidentiality(level))).collect()
}

/// The security labels of a resource.
pub fn security(resource: &Value) -> BTreeSet<Coding> {
    items(resource.pointer("/meta/security")).filter_map(coding).collect()
}

/// The labels that `inherited`, those of the Bundle that a resource is sent in, add to it.
pub fn labels_of_bundle(resource: &Value, inherited: &BTreeSet<Coding>) -> BTreeSet<Coding> {
    labels_on_arrival(resource, inherited, &Sensitive::default())
}

fn is_inherited(label: &Coding) -> bool {
    matches!(label.system.as_str(), ACT_CODE | CONFIDENTIALITY)
}

/// The labels to add to `meta.security`. `inherited` are the labels of the Bundle, Composition or Encounter that it came in. Nothing for
/// resources that are about no patient.
pub fn labels_on_arrival(resource: &Value, inherited: &BTreeSet<Coding>, sensitive: &Sensitive) -> BTreeSet<Coding> {
    let type_code = resource.get("resourceType").and_then(Value::as_str).and_then(|name| definitions::r4().type_code(name));
    if type_code.is_none_or(|code| definitions::r4().patient_compartment(code).is_empty()) {
        return BTreeSet::new();
    }
    let own: BTreeSet<Coding> = items(resource.pointer("/meta/security")).filter_map(coding).collect();
    let mut all = sensitive.of_resource(resource);
    all.extend(inherited.iter().filter(|label| is_inherited(label)).cloned());
    all.extend(own.iter().cloned());
    // One level: the highest of what is said, implied and inherited.
    let level = vocabulary::confidentiality(&all);
    all.retain(|label| label.system != CONFIDENTIALITY);
    if level > Confidentiality::NORMAL {
        all.insert(Coding::confidentiality(level.code()));
    }
    all.difference(&own).cloned().collect()
}
