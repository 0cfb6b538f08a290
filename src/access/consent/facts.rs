//! What of a resource a consent can speak of, found when the resource is written.

use super::labels::security;
use super::model::Name;
use super::read::names_of;
use super::vocabulary::{self, Coding, Confidentiality};
use crate::fhir::time::{Interval, parse_interval};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// What of a resource a consent can speak of.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ResourceFacts {
    pub type_name: String,
    /// `Type/id`, once it has an id.
    pub name: Option<Name>,
    pub profiles: BTreeSet<String>,
    /// Type and category, if it is a document (`DocumentReference`, `Composition`).
    pub document_types: BTreeSet<Coding>,
    /// Every coding in it but labels and tags: R4 says "found in an instance".
    pub codes: BTreeSet<Coding>,
    /// What it is about is said in words only, or in another resource: nobody can tell whether a rule on a code is about it.
    pub uncoded: bool,
    /// `meta.security`, and what was inherited from the Bundle, Composition or Encounter that it came in.
    pub labels: BTreeSet<Coding>,
    /// When it happened, clinically; `None`: it does not say.
    pub time: Option<Interval>,
    /// Everything it refers to.
    pub references: BTreeSet<Name>,
    /// Who wrote, performed or asked for it, people and organisations; the contributing facility may be added.
    pub authors: BTreeSet<Name>,
    /// Another server's, with names of its own: that no rule names it here does not tell that none means it.
    pub elsewhere: bool,
}

/// One thing that a clause of a rule can ask for, as text: `kind|…`. Equal texts are equal facts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact(String);

impl Fact {
    pub fn of_type(name: &str) -> Fact {
        Fact(format!("type|{name}"))
    }

    pub fn profile(url: &str) -> Fact {
        Fact(format!("profile|{url}"))
    }

    pub fn document(coding: &Coding) -> Fact {
        Fact(format!("document|{}|{}", coding.system, coding.code))
    }

    pub fn code(coding: &Coding) -> Fact {
        Fact(format!("code|{}|{}", coding.system, coding.code))
    }

    /// The main code is words only.
    pub fn uncoded() -> Fact {
        Fact("uncoded".to_owned())
    }

    /// A label that is no confidentiality.
    pub fn label(coding: &Coding) -> Fact {
        Fact(format!("label|{}|{}", coding.system, coding.code))
    }

    /// Every resource has exactly one.
    pub fn confidentiality(level: Confidentiality) -> Fact {
        Fact(format!("confidentiality|{}", level.code()))
    }

    pub fn instance(name: &str) -> Fact {
        Fact(format!("self|{name}"))
    }

    pub fn refers_to(name: &str) -> Fact {
        Fact(format!("ref|{name}"))
    }

    /// The resource of this name refers to it. Resources do not have it: who keeps references knows.
    pub fn around(name: &str) -> Fact {
        Fact(format!("around|{name}"))
    }

    /// It is this resource, which another referred to when the consent was read.
    pub fn beside(name: &str) -> Fact {
        Fact(format!("beside|{name}"))
    }

    /// Whether a resource with these facts has it.
    pub(super) fn is_of(&self, facts: &BTreeSet<Fact>) -> bool {
        match self.0.strip_prefix("beside|") {
            Some(name) => facts.contains(&Fact::instance(name)),
            None => facts.contains(self),
        }
    }

    pub fn author(name: &str) -> Fact {
        Fact(format!("author|{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ResourceFacts {
    pub fn confidentiality(&self) -> Confidentiality {
        vocabulary::confidentiality(&self.labels)
    }

    /// The same as a flat set, for clauses to be matched against.
    pub fn flatten(&self) -> BTreeSet<Fact> {
        let mut facts = BTreeSet::from([Fact::of_type(&self.type_name), Fact::confidentiality(self.confidentiality())]);
        facts.extend(self.name.iter().map(|name| Fact::instance(name)));
        facts.extend(self.profiles.iter().map(|url| Fact::profile(url)));
        facts.extend(self.document_types.iter().map(Fact::document));
        facts.extend(self.codes.iter().map(Fact::code));
        facts.extend(self.uncoded.then(Fact::uncoded));
        facts.extend(self.labels.iter().filter(|label| label.system != vocabulary::CONFIDENTIALITY).map(Fact::label));
        facts.extend(self.references.iter().map(|name| Fact::refers_to(name)));
        facts.extend(self.authors.iter().map(|name| Fact::author(name)));
        facts
    }
}

/// Where a resource says when it happened, clinically; the first that is there counts. A dot goes down, a list is gone through.
const TIMES: &[(&str, &[&str])] = &[
    ("Account", &["servicePeriod"]),
    ("AdverseEvent", &["date", "detected", "recordedDate"]),
    ("AllergyIntolerance", &["onsetDateTime", "onsetPeriod", "recordedDate"]),
    ("Appointment", &["start+end", "start"]),
    ("BodyStructure", &[]),
    ("CarePlan", &["period", "created"]),
    ("CareTeam", &["period"]),
    ("ChargeItem", &["occurrenceDateTime", "occurrencePeriod", "enteredDate"]),
    ("Claim", &["billablePeriod", "created"]),
    ("ClaimResponse", &["created"]),
    ("ClinicalImpression", &["effectiveDateTime", "effectivePeriod", "date"]),
    ("Communication", &["sent", "received"]),
    ("CommunicationRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"]),
    ("Composition", &["date"]),
    ("Condition", &["onsetDateTime", "onsetPeriod", "recordedDate"]),
    ("Consent", &["dateTime"]),
    ("Coverage", &["period"]),
    ("DetectedIssue", &["identifiedDateTime", "identifiedPeriod"]),
    ("DeviceRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"]),
    ("DeviceUseStatement", &["timingDateTime", "timingPeriod", "recordedOn"]),
    ("DiagnosticReport", &["effectiveDateTime", "effectivePeriod", "issued"]),
    ("DocumentManifest", &["created"]),
    ("DocumentReference", &["context.period", "date"]),
    ("Encounter", &["period"]),
    ("EpisodeOfCare", &["period"]),
    ("ExplanationOfBenefit", &["billablePeriod", "created"]),
    ("FamilyMemberHistory", &["date"]),
    ("Flag", &["period"]),
    ("Goal", &["startDate", "statusDate"]),
    ("ImagingStudy", &["started"]),
    ("Immunization", &["occurrenceDateTime", "recorded"]),
    ("ImmunizationEvaluation", &["date"]),
    ("ImmunizationRecommendation", &["date"]),
    ("List", &["date"]),
    ("Media", &["createdDateTime", "createdPeriod", "issued"]),
    ("MedicationAdministration", &["effectiveDateTime", "effectivePeriod"]),
    ("MedicationDispense", &["whenHandedOver", "whenPrepared"]),
    ("MedicationRequest", &["authoredOn"]),
    ("MedicationStatement", &["effectiveDateTime", "effectivePeriod", "dateAsserted"]),
    ("NutritionOrder", &["dateTime"]),
    ("Observation", &["effectiveDateTime", "effectivePeriod", "effectiveInstant", "effectiveTiming.event", "issued"]),
    ("Procedure", &["performedDateTime", "performedPeriod"]),
    ("Provenance", &["occurredDateTime", "occurredPeriod", "recorded"]),
    ("QuestionnaireResponse", &["authored"]),
    ("RequestGroup", &["authoredOn"]),
    ("RiskAssessment", &["occurrenceDateTime", "occurrencePeriod"]),
    ("ServiceRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"]),
    ("Specimen", &["collection.collectedDateTime", "collection.collectedPeriod", "receivedTime"]),
    ("SupplyDelivery", &["occurrenceDateTime", "occurrencePeriod"]),
    ("SupplyRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"]),
    ("Task", &["executionPeriod", "authoredOn"]),
    ("VisionPrescription", &["dateWritten", "created"]),
];

/// Elements that name who wrote, performed, asked for or answers for a resource, wherever in it they stand.
const AUTHORS: &[&str] = &[
    "actor",
    "agent",
    "asserter",
    "attester",
    "authenticator",
    "author",
    "contributor",
    "custodian",
    "enterer",
    "informationSource",
    "party",
    "performer",
    "provider",
    "recorder",
    "requester",
    "resultsInterpreter",
    "sender",
    "serviceProvider",
];

/// What a consent can speak of in `resource`. Dates without a zone are read in `zone`; absolute references under `base` are local.
pub fn facts(resource: &Value, zone: &TimeZone, base: &str) -> ResourceFacts {
    let text = |key: &str| resource.get(key).and_then(Value::as_str);
    let mut facts = ResourceFacts { type_name: text("resourceType").unwrap_or_default().to_owned(), ..ResourceFacts::default() };
    facts.name = text("id").map(|id| format!("{}/{id}", facts.type_name));
    let profiles = resource.get("meta").and_then(|meta| meta.get("profile")).and_then(Value::as_array).into_iter().flatten();
    facts.profiles.extend(profiles.filter_map(Value::as_str).map(unversioned));
    facts.labels.extend(security(resource));
    facts.time = clinical_time(resource, &facts.type_name, zone);
    facts.uncoded = is_uncoded(resource);
    if matches!(facts.type_name.as_str(), "DocumentReference" | "Composition") {
        let concepts = ["type", "category"].into_iter().flat_map(|key| items(resource.get(key)));
        facts.document_types.extend(concepts.flat_map(|concept| items(concept.get("coding"))).filter_map(coding));
    }
    // The flag says whether what is below names an author.
    let mut waiting: Vec<(&Value, bool)> = resource
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "meta")
        .map(|(key, value)| (value, is_author(key, &facts.type_name)))
        .collect();
    while let Some((value, author)) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list.iter().map(|item| (item, author))),
            Value::Object(object) => {
                // A Quantity has a system and a code too: its unit's.
                if !object.contains_key("value") && !object.contains_key("unit") {
                    facts.codes.extend(coding(value));
                }
                if object.contains_key("reference") || author {
                    let names = names_of(value, base);
                    if author {
                        facts.authors.extend(names.iter().cloned());
                    }
                    if object.contains_key("reference") {
                        facts.references.extend(names);
                    }
                }
                let type_name = &facts.type_name;
                let below = object.iter().filter(|(key, value)| *key != "meta" && (value.is_object() || value.is_array()));
                waiting.extend(below.map(|(key, value)| (value, author || is_author(key, type_name))));
            }
            _ => {}
        }
    }
    facts
}

fn is_author(key: &str, type_name: &str) -> bool {
    AUTHORS.contains(&key) || type_name == "Encounter" && key == "participant"
}

/// The items of a list, or the one value that is no list.
pub(super) fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let (list, one) = match value {
        Some(Value::Array(list)) => (Some(list), None),
        other => (None, other),
    };
    list.into_iter().flatten().chain(one)
}

/// A coding with a system and a code.
pub(super) fn coding(value: &Value) -> Option<Coding> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    Some(Coding::new(text("system")?, text("code")?))
}

fn unversioned(canonical: &str) -> String {
    canonical.split_once('|').map_or(canonical, |(url, _)| url).to_owned()
}

/// Whether what it is about is not said in codes here: by words only, or by a medicine that is described in another resource.
fn is_uncoded(resource: &Value) -> bool {
    let elsewhere = resource.pointer("/medicationReference/reference").and_then(Value::as_str).is_some_and(|name| !name.starts_with('#'));
    let words = ["code", "medicationCodeableConcept", "vaccineCode"].into_iter().any(|key| {
        let concept = resource.get(key).filter(|concept| concept.is_object());
        concept.is_some_and(|concept| items(concept.get("coding")).filter_map(coding).next().is_none())
    });
    elsewhere || words
}

fn clinical_time(resource: &Value, type_name: &str, zone: &TimeZone) -> Option<Interval> {
    let (_, paths) = TIMES.iter().find(|(name, _)| *name == type_name)?;
    paths.iter().find_map(|path| match path.split_once('+') {
        Some((start, end)) => {
            let low = date(resource.get(start)?, zone)?;
            Some(low.through(date(resource.get(end)?, zone)?))
        }
        None => {
            let mut found = vec![resource];
            for key in path.split('.') {
                found = found.into_iter().flat_map(|value| items(value.get(key))).collect();
            }
            let intervals: Option<Vec<Interval>> = found.into_iter().map(|value| interval(value, zone)).collect();
            intervals?.into_iter().reduce(|a, b| Interval { low: a.low.min(b.low), high: a.high.max(b.high) })
        }
    })
}

fn interval(value: &Value, zone: &TimeZone) -> Option<Interval> {
    if value.is_object() { period(value, zone) } else { date(value, zone) }
}

fn date(value: &Value, zone: &TimeZone) -> Option<Interval> {
    parse_interval(value.as_str()?, zone)
}

/// A `Period` as the half-open interval from the first instant of its start to after the last instant of its end. `None` when an end cannot be
/// read, both are missing, or they stand the wrong way round.
pub fn period(value: &Value, zone: &TimeZone) -> Option<Interval> {
    let end = |key: &str| value.get(key).map(|value| date(value, zone));
    let (start, end) = (end("start"), end("end"));
    // An end of which only an extension speaks is there, and not known.
    let is_untold = |known: &Option<_>, key: &str| known.is_none() && value.get(key).is_some();
    if start.is_none() && end.is_none() || is_untold(&start, "_start") || is_untold(&end, "_end") {
        return None;
    }
    let low = start.map_or(Some(Interval::MIN), |start| start.map(|start| start.low))?;
    let high = end.map_or(Some(Interval::MAX), |end| end.map(|end| end.high))?;
    (low < high).then_some(Interval { low, high })
}
