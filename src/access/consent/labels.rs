//! Which security labels a resource gets when it arrives, from what it says.
//!
//! Value sets that the deployment edits (`conceptmaps/ValueSet-sensitive-*.json`) list the codes, and the words of texts, that give a sensitive matter away.
//! A resource with one of them, in any coding or text, gets the sensitivity's code of v3 ActCode and the confidentiality `R`. Labels are only added: what
//! a facility labelled higher stays higher.

use super::facts::{Fact, coding, items};
use super::vocabulary::{self, ACT_CODE, CONFIDENTIALITY, Coding, Confidentiality};
use crate::definitions;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// A value set and the sensitivity of what is in it.
pub const SENSITIVE_SETS: &[(&str, &str)] = &[
    ("https://lango.health/fhir/ValueSet/sensitive-hiv", "HIV"),
    ("https://lango.health/fhir/ValueSet/sensitive-mental-health", "PSY"),
    ("https://lango.health/fhir/ValueSet/sensitive-sexual-domestic-violence", "SDV"),
    ("https://lango.health/fhir/ValueSet/sensitive-substance-use", "ETH"),
    ("https://lango.health/fhir/ValueSet/sensitive-alcohol-use", "ETHUD"),
];

/// What a resource is looked at for besides on arrival (whose it is, which visits and results it names): another when a release does it otherwise.
const ARRIVAL: &str = "3-";

/// The labels of what may be anything of that.
pub fn any_sensitive() -> BTreeSet<Coding> {
    let sensitivities = SENSITIVE_SETS.iter().map(|(_, label)| Coding::sensitivity(label));
    sensitivities.chain([Coding::confidentiality(Confidentiality::RESTRICTED.code())]).collect()
}

/// The system of single words, in lower case, as codes of the value sets.
pub const WORDS: &str = "https://lango.health/fhir/CodeSystem/sensitive-word";

/// How many words of one text are looked at.
const MAX_WORDS_OF_A_TEXT: usize = 1_000;

/// Elements whose text is none that people write, or says how a patient is called, which tells nothing.
const NO_TEXT: &[&str] = &[
    "meta",
    "subject",
    "patient",
    "id",
    "resourceType",
    "url",
    "reference",
    "system",
    "identifier",
    "fullUrl",
    "contentType",
    "data",
    "hash",
    "language",
];
/// Words that are names of people too: they tell nothing where it is said how a professional is called, where every other word does. Who saw a "VCT counsellor" has
/// been to one.
const NAMES: &[&str] = &["bangi", "khat", "rape", "sida"];
/// How somebody is called. Of a patient it tells nothing.
const WHO: &[&str] = &["name", "telecom", "address", "contact", "photo"];

const ICD_10: &str = "http://hl7.org/fhir/sid/icd-10";
const ATC: &str = "http://www.whocc.no/atc";

/// Somebody of whom it is said how they are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Somebody {
    /// A patient, or who belongs to one.
    Patient,
    Professional,
}

impl Somebody {
    fn of(type_name: &str) -> Option<Somebody> {
        match type_name {
            "Patient" | "RelatedPerson" | "Person" => Some(Somebody::Patient),
            "Practitioner" | "PractitionerRole" => Some(Somebody::Professional),
            _ => None,
        }
    }
}

/// What stands somewhere in a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// No text that people write.
    Nothing,
    /// How a professional is called.
    Name,
    Anything,
}

/// What the members of an object say of it, gathered in one pass: every object of everything that comes is asked.
#[derive(Default)]
struct Parts<'o> {
    system: Option<&'o str>,
    code: Option<&'o str>,
    /// There is a `system`, whatever it is.
    coded: bool,
    /// It is a quantity, whose code is its unit's.
    measured: bool,
    /// It is somebody.
    somebody: Option<Somebody>,
    /// It is a Reference to somebody, so that its `display` is how they are called.
    named: Option<Somebody>,
}

impl<'o> Parts<'o> {
    fn of(object: &'o Map<String, Value>) -> Parts<'o> {
        let mut parts = Parts::default();
        let (mut reference, mut kind) = (None, None);
        for (key, value) in object {
            match key.as_str() {
                "system" => (parts.system, parts.coded) = (value.as_str(), true),
                "code" => parts.code = value.as_str(),
                "value" | "unit" => parts.measured = true,
                "resourceType" => parts.somebody = value.as_str().and_then(Somebody::of),
                "reference" => reference = value.as_str(),
                "type" => kind = value.as_str(),
                _ => {}
            }
        }
        let target = reference.and_then(|name| name.split("/_history/").next()?.rsplit('/').nth(1));
        parts.named = target.or(kind).and_then(Somebody::of);
        parts
    }
}

/// The one name of a code system that is called in several ways; of ICD-10, its editions too: a code of a country's means what the WHO's means, or more exactly.
fn system_of(system: &str) -> &str {
    let name = system.split('|').next().unwrap_or_default().trim_end_matches('/');
    match name {
        "urn:oid:2.16.840.1.113883.6.3" | "urn:oid:2.16.840.1.113883.6.90" => ICD_10,
        _ if name.starts_with(ICD_10) && !name.contains("pcs") => ICD_10,
        _ if name.strip_prefix("http://id.who.int/icd/release/10").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) => ICD_10,
        "http://whocc.no/atc" | "https://www.whocc.no/atc" | "urn:oid:2.16.840.1.113883.6.73" => ATC,
        "https://loinc.org" | "urn:oid:2.16.840.1.113883.6.1" => "http://loinc.org",
        "urn:oid:2.16.840.1.113883.6.96" => "http://snomed.info/sct",
        other => other,
    }
}

/// A code of `system` as it is compared: whoever writes those of ICD or ATC in small letters means them.
fn spelt<'c>(system: &str, code: &'c str) -> Cow<'c, str> {
    match system == ATC || system.to_ascii_lowercase().contains("icd") {
        true => code.trim().to_ascii_uppercase().into(),
        false => code.into(),
    }
}

/// Whether a code looks like one of ICD-10 or ATC: a letter, two digits, and what is more exact.
fn is_well_formed(code: &str) -> bool {
    let bytes = code.as_bytes();
    let begins =
        matches!(bytes, [letter, ten, one, ..] if letter.is_ascii_alphabetic() && ten.is_ascii_digit() && one.is_ascii_alphanumeric());
    begins && bytes.len() <= 8 && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
}

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
                let system = system_of(&member.system);
                let code = spelt(system, &member.code).into_owned();
                sensitive.codes.entry(system.to_owned()).or_default().entry(code).or_default().push(label);
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
        let text = format!("labels on arrival, 3: {known:?}");
        format!("{ARRIVAL}{}", blake3::hash(text.as_bytes()).to_hex())
    }

    /// Whether what was labelled by this `digest` was looked at on arrival as this release does.
    pub fn is_of_this_release(digest: &str) -> bool {
        digest.starts_with(ARRIVAL)
    }

    /// What a code tells of, by itself or by a broader one that it begins with: `B20.1` under `B20`, `J05AR10` under `J05A`.
    fn of_code(&self, system: &str, code: &str, found: &mut BTreeSet<Coding>) {
        let system = system_of(system);
        let Some(codes) = self.codes.get(system) else { return };
        let code = spelt(system, code);
        let shorter = (3..code.len()).filter(|_| matches!(system, ICD_10 | ATC)).filter_map(|length| code.get(..length));
        let labels = shorter.chain([&*code]).filter_map(|code| codes.get(code)).flatten();
        found.extend(labels.map(|label| Coding::sensitivity(label)));
    }

    fn of_text(&self, text: &str, said: Said, found: &mut BTreeSet<Coding>) {
        let Some(known) = self.codes.get(WORDS).filter(|_| said != Said::Nothing) else { return };
        let is_word = |word: &&str| word.len() > 2 && word.starts_with(char::is_alphabetic);
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(is_word).take(MAX_WORDS_OF_A_TEXT);
        // Most are in small letters already.
        let small = |word: &str| match word.bytes().all(|byte| byte.is_ascii_lowercase()) {
            true => known.get_key_value(word),
            false => known.get_key_value(&*word.to_lowercase()),
        };
        let tells = words.filter_map(small).filter(|(word, _)| said != Said::Name || !NAMES.contains(&word.as_str()));
        found.extend(tells.flat_map(|(_, labels)| labels).map(|label| Coding::sensitivity(label)));
    }

    /// What a code of no system tells of, if it is one of a system that is known here.
    fn of_bare_code(&self, code: &str, found: &mut BTreeSet<Coding>) {
        let code = code.trim().to_ascii_uppercase();
        for system in self.codes.keys().filter(|system| *system != WORDS) {
            if is_well_formed(&code) || !matches!(system.as_str(), ICD_10 | ATC) {
                self.of_code(system, &code, found);
            }
        }
    }

    /// What a resource tells of, in codes and in words, wherever in it they stand.
    fn of_resource(&self, resource: &Value) -> BTreeSet<Coding> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![(resource, Said::Nothing)];
        while let Some((value, said)) = waiting.pop() {
            match value {
                Value::Array(list) => waiting.extend(list.iter().map(|item| (item, said))),
                Value::String(text) => self.of_text(text, said, &mut found),
                Value::Object(object) => {
                    let Parts { system, code, coded, measured, somebody, named } = Parts::of(object);
                    match (system, code) {
                        (Some(system), Some(code)) => self.of_code(system, code, &mut found),
                        (None, Some(code)) if !measured => self.of_bare_code(code, &mut found),
                        _ => {}
                    }
                    let called = |key: &str| match key {
                        "display" => named,
                        key if WHO.contains(&key) => somebody,
                        _ => None,
                    };
                    for (key, value) in object {
                        let key = key.as_str();
                        if NO_TEXT.contains(&key) || coded && key == "code" || called(key) == Some(Somebody::Patient) {
                            continue;
                        }
                        let is_name = said == Said::Name || key == "authorString" || called(key).is_some();
                        waiting.push((value, if is_name { Said::Name } else { Said::Anything }));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The labels by which the thing itself is told, whether or not it carries them: of what is about no patient, such as a medicine.
    pub fn labels_of(&self, resource: &Value) -> BTreeSet<Coding> {
        let mut labels = self.of_resource(resource);
        if !labels.is_empty() {
            labels.insert(Coding::confidentiality(Confidentiality::RESTRICTED.code()));
        }
        labels
    }
}

/// The labels of an Encounter, a Composition or a Bundle that what comes in it inherits, and those of a medicine or a result that what names it
/// does, as facts: its sensitivities, and its level when that is above normal. `told`: labels that it has besides.
pub fn handed_on(resource: &Value, told: BTreeSet<Coding>) -> BTreeSet<Fact> {
    let mut labels = told;
    labels.extend(security(resource));
    let level = vocabulary::confidentiality(&labels);
    let sensitivities = labels.iter().filter(|label| label.system == ACT_CODE).map(Fact::label);
    sensitivities.chain((level > Confidentiality::NORMAL).then(|| Fact::confidentiality(level))).collect()
}

fn own_labels(resource: &Value) -> Option<&Value> {
    resource.get("meta")?.get("security")
}

/// The security labels of a resource. One without a system or in other letters is the label that it must be meant to be.
pub fn security(resource: &Value) -> BTreeSet<Coding> {
    items(own_labels(resource)).flat_map(understood).collect()
}

/// A label as it says, and as what it is understood.
fn understood(label: &Value) -> impl Iterator<Item = Coding> {
    let text = |key: &str| label.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let said = Coding::new(text("system"), text("code"));
    let upper = said.code.to_ascii_uppercase();
    let meant = [Coding::sensitivity(&upper), Coding::confidentiality(&upper)].into_iter().find(|one| {
        (said.system.is_empty() || said.system == one.system) && (vocabulary::is_sensitivity(one) || Confidentiality::of(one).is_some())
    });
    // Nothing is lost of what says something else.
    let kept = meant.as_ref().is_none_or(|meant| !said.system.is_empty() && *meant != said).then_some(said);
    kept.into_iter().chain(meant)
}

/// The labels that `inherited`, those of the Bundle that a resource is sent in, add to it.
pub fn labels_of_bundle(resource: &Value, inherited: &BTreeSet<Coding>) -> BTreeSet<Coding> {
    labels_on_arrival(resource, inherited, &Sensitive::default())
}

fn is_inherited(label: &Coding) -> bool {
    matches!(label.system.as_str(), ACT_CODE | CONFIDENTIALITY)
}

/// Whether no label decides who sees it: what a Consent or an AuditEvent names is not what the patient has.
fn is_never_judged(resource: &Value) -> bool {
    matches!(resource.get("resourceType").and_then(Value::as_str), Some("Consent" | "AuditEvent"))
}

/// The labels to add to `meta.security`. `inherited` are the labels of the Bundle, Composition or Encounter that it came in. Nothing for
/// resources that are about no patient.
pub fn labels_on_arrival(resource: &Value, inherited: &BTreeSet<Coding>, sensitive: &Sensitive) -> BTreeSet<Coding> {
    let type_code = resource.get("resourceType").and_then(Value::as_str).and_then(|name| definitions::r4().type_code(name));
    if type_code.is_none_or(|code| definitions::r4().patient_compartment(code).is_empty()) || is_never_judged(resource) {
        return BTreeSet::new();
    }
    let own: BTreeSet<Coding> = items(own_labels(resource)).filter_map(coding).collect();
    let meant = security(resource).into_iter().filter(vocabulary::is_understood);
    let mut all = sensitive.of_resource(resource);
    all.extend(inherited.iter().filter(|label| is_inherited(label)).cloned());
    all.extend(meant);
    // One level: the highest of what is said, implied and inherited.
    let level = vocabulary::confidentiality(&all);
    all.retain(|label| label.system != CONFIDENTIALITY);
    if level > Confidentiality::NORMAL {
        all.insert(Coding::confidentiality(level.code()));
    }
    all.difference(&own).cloned().collect()
}
