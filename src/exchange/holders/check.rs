//! What a holder answered, cut to the patient that was asked for.
//!
//! A holder may answer more than it was asked: another patient's record, a resource about two, a type that nobody wanted, something that is no FHIR. The
//! Patients that carry the number which was asked for are the patient; a resource counts as theirs when the parameters of the patient
//! compartment name one of them, and nothing in it names another. Everything else is left out, whatever it is.
//!
//! Names are the holder's own: its `Patient/1` is not ours. For the decision they are made absolute, and the patient is called as here.

use super::Wanted;
use super::locate::Location;
use super::release::Record;
use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{self, labels_on_arrival};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::is_id;
use crate::fhir::time::parse_interval;
use crate::ingest::draft::{Making, with_labels};
use crate::search::extract;
use crate::store::gate::About;
use crate::validate::structure;
use serde_json::Value;
use std::collections::BTreeSet;

/// What of an answer is the patient's, and how much was left out.
#[derive(Default)]
pub struct Checked {
    pub records: Vec<Record>,
    /// Resources that are another patient's, or cannot be told to be this one's.
    pub foreign: usize,
    /// Things that are no FHIR R4.
    pub unusable: usize,
}

/// Cuts what a holder answered to the patient of `location`.
pub fn check(resources: Vec<Value>, location: &Location, wanted: &Wanted, making: &Making) -> Checked {
    let patients: BTreeSet<String> = resources
        .iter()
        .filter(|resource| location.identifier.is_of(resource))
        .filter_map(|patient| Some(patient.get("id")?.as_str()?.to_owned()))
        .collect();
    // Who knows her may give away what for; so what it tells of her is no less confidential than that it knows her.
    let security = location.body.pointer("/meta/security").and_then(Value::as_array).into_iter().flatten();
    let inherited = security.filter_map(|label| Some(Coding::new(label.get("system")?.as_str()?, label.get("code")?.as_str()?))).collect();
    let cutting = Cutting { location, wanted, making, patients, inherited };
    let mut checked = Checked::default();
    let mut seen = BTreeSet::new();
    for resource in resources {
        match cutting.record(resource) {
            Ok(Some(record)) if seen.insert(record.url.clone()) => checked.records.push(record),
            Ok(_) => {}
            Err(Why::Foreign) => checked.foreign = checked.foreign.saturating_add(1),
            Err(Why::Unusable) => checked.unusable = checked.unusable.saturating_add(1),
        }
    }
    checked
}

enum Why {
    Foreign,
    Unusable,
}

struct Cutting<'a> {
    location: &'a Location,
    wanted: &'a Wanted,
    making: &'a Making,
    /// Ids at the holder.
    patients: BTreeSet<String>,
    inherited: BTreeSet<Coding>,
}

impl Cutting<'_> {
    fn base(&self) -> &str {
        &self.location.holder.settings.url
    }

    /// `None`: nobody asked for it.
    fn record(&self, mut resource: Value) -> Result<Option<Record>, Why> {
        let text = |key: &str| resource.get(key).and_then(Value::as_str);
        let type_code = text("resourceType").and_then(|name| definitions::r4().type_code(name)).ok_or(Why::Unusable)?;
        let id = text("id").filter(|id| is_id(id)).ok_or(Why::Unusable)?.to_owned();
        if !self.wanted.types.contains(&type_code) || self.is_older(&resource) {
            return Ok(None);
        }
        let type_name = definitions::r4().type_name(type_code);
        let is_patient = type_name == "Patient";
        if let Some(members) = resource.as_object_mut().filter(|_| is_patient) {
            // Whom its registry links her to is its registry's business.
            members.remove("link");
        }
        if is_patient && !self.patients.contains(&id) || !self.names_nobody_else(&resource) {
            return Err(Why::Foreign);
        }
        if structure(&resource).iter().any(|issue| issue.severity.is_error()) {
            return Err(Why::Unusable);
        }
        let labels = labels_on_arrival(&resource, &self.inherited, &self.making.sensitive);
        let resource = if labels.is_empty() { resource } else { with_labels(&resource, &labels) };
        let url = format!("{}/{type_name}/{id}", self.base());
        let named = self.in_our_words(&resource, is_patient);
        let options = &self.making.options;
        let entries = extract::extract(type_code, &named, options);
        if extract::about(type_code, &named, &entries, &options.base) != About::Patient(self.location.id.clone()) {
            return Err(Why::Foreign);
        }
        let mut facts = consent::facts(&named, &options.zone, &options.base);
        facts.elsewhere = true;
        if !is_patient {
            facts.name = Some(url.clone());
        }
        let known_as = if is_patient { self.location.id.to_string() } else { url.clone() };
        let (owner, patient) = (self.location.owner, self.location.patient);
        Ok(Some(Record { owner, patient, type_code, url, known_as, body: resource, facts, entries }))
    }

    /// It says itself that it is older than what is wanted.
    fn is_older(&self, resource: &Value) -> bool {
        let updated = resource.pointer("/meta/lastUpdated").and_then(Value::as_str);
        let updated = updated.and_then(|text| parse_interval(text, &self.making.options.zone));
        self.wanted.since.zip(updated).is_some_and(|(since, updated)| updated.high <= since)
    }

    /// Whether every Patient that it names or contains, anywhere, is the one that was asked for.
    fn names_nobody_else(&self, resource: &Value) -> bool {
        let contained = resource.get("contained").and_then(Value::as_array).into_iter().flatten();
        let mut patients = contained.filter(|one| one.get("resourceType").and_then(Value::as_str) == Some("Patient"));
        if !patients.all(|patient| self.location.identifier.is_of(patient)) {
            return false;
        }
        let mut waiting = vec![resource];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(list) => waiting.extend(list),
                Value::Object(members) => {
                    let text = |key: &str| members.get(key).and_then(Value::as_str);
                    let is_hers = match text("reference").and_then(|text| Reference::parse_at(text, self.base())) {
                        Some(Reference::Local { type_name: "Patient", id, .. }) => self.patients.contains(id),
                        Some(Reference::Conditional { type_name: "Patient", .. }) => false,
                        Some(Reference::Absolute(url)) => !url.split('/').any(|part| part == "Patient"),
                        Some(_) => true,
                        None => text("type") != Some("Patient") || members.get("identifier").is_none_or(|one| self.is_asked(one)),
                    };
                    if !is_hers {
                        return false;
                    }
                    waiting.extend(members.values());
                }
                _ => {}
            }
        }
        true
    }

    fn is_asked(&self, identifier: &Value) -> bool {
        let text = |key: &str| identifier.get(key).and_then(Value::as_str);
        let asked = &self.location.identifier;
        text("system") == Some(&asked.system) && text("value") == Some(&asked.value)
    }

    /// The same with names that mean here what they mean there: the patient's as she is called here, all others absolute.
    fn in_our_words(&self, resource: &Value, is_patient: bool) -> Value {
        let mut named = resource.clone();
        if is_patient && let Some(id) = named.get_mut("id") {
            *id = Value::from(&*self.location.id);
        }
        let mut waiting = vec![&mut named];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(list) => waiting.extend(list),
                Value::Object(members) => {
                    if let Some(Value::String(text)) = members.get_mut("reference") {
                        let absolute = match Reference::parse_at(text, self.base()) {
                            Some(Reference::Local { type_name: "Patient", .. }) => Some(format!("Patient/{}", self.location.id)),
                            Some(Reference::Local { type_name, id, .. }) => Some(format!("{}/{type_name}/{id}", self.base())),
                            _ => None,
                        };
                        if let Some(absolute) = absolute {
                            *text = absolute;
                        }
                    }
                    waiting.extend(members.values_mut());
                }
                _ => {}
            }
        }
        named
    }
}
