//! Which security labels a resource gets when it arrives, from what it says.
//!
//! Value sets that the deployment edits (`conceptmaps/ValueSet-sensitive-*.json`) list the codes, and the words of texts, that give a sensitive matter away.
//! A resource with one of them, in any coding or text, gets the sensitivity's code of v3 ActCode and the confidentiality `R`. Labels are only added: what
//! a facility labelled higher stays higher.

use super::facts::{coding, facts, items};
use super::vocabulary::{self, ACT_CODE, CONFIDENTIALITY, Coding, Confidentiality};
use crate::definitions;
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::BTreeSet;

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

/// The labels to add to `meta.security`. `inherited` are the labels of the Bundle, Composition or Encounter that it came in. `is_member` says
/// whether a value set (by URL) has a code of a system. Nothing for resources that are about no patient.
pub fn labels_on_arrival(resource: &Value, inherited: &BTreeSet<Coding>, is_member: &dyn Fn(&str, &str, &str) -> bool) -> BTreeSet<Coding> {
    let own: BTreeSet<Coding> = items(resource.pointer("/meta/security")).filter_map(coding).collect();
    let type_code = resource.get("resourceType").and_then(Value::as_str).and_then(|name| definitions::r4().type_code(name));
    if type_code.is_none_or(|code| definitions::r4().patient_compartment(code).is_empty()) {
        return BTreeSet::new();
    }
    let said = sayings(resource);
    let found = SENSITIVE_SETS.iter().filter(|(set, _)| said.iter().any(|one| is_member(set, &one.system, &one.code)));
    let mut all: BTreeSet<Coding> = found.map(|(_, label)| Coding::sensitivity(label)).collect();
    all.extend(inherited.iter().filter(|label| matches!(label.system.as_str(), ACT_CODE | CONFIDENTIALITY)).cloned());
    all.extend(own.iter().cloned());
    // One level: the highest of what is said, implied and inherited.
    let level = vocabulary::confidentiality(&all);
    all.retain(|label| label.system != CONFIDENTIALITY);
    if level > Confidentiality::NORMAL {
        all.insert(Coding::confidentiality(level.code()));
    }
    all.difference(&own).cloned().collect()
}

/// The codes and words of a resource, with the broader codes of those whose system writes them as a prefix.
fn sayings(resource: &Value) -> BTreeSet<Coding> {
    let mut said: BTreeSet<Coding> =
        facts(resource, &TimeZone::UTC, "").codes.iter().flat_map(|code| broader(&code.system, &code.code)).collect();
    let mut waiting = vec![resource];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(object) => {
                for (key, value) in object.iter().filter(|(key, _)| !matches!(key.as_str(), "meta" | "subject" | "patient")) {
                    match value.as_str().filter(|_| matches!(key.as_str(), "text" | "display")) {
                        Some(text) => {
                            let found = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
                            said.extend(found.take(MAX_WORDS_OF_A_TEXT).map(|word| Coding::new(WORDS, &word.to_lowercase())));
                        }
                        None => waiting.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    said
}

/// A code and those that it falls under by how it is written: `B20.1` under `B20`, `J05AR10` under `J05AR`, `J05A`, `J05`.
fn broader(system: &str, code: &str) -> Vec<Coding> {
    let by_prefix = system.starts_with("http://hl7.org/fhir/sid/icd-10") || system == "http://www.whocc.no/atc";
    let shorter = (3..code.len()).filter_map(|length| code.get(..length)).filter(|prefix| by_prefix && !prefix.ends_with('.'));
    shorter.chain([code]).map(|code| Coding::new(system, code)).collect()
}
