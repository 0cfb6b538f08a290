//! What a holder answered, cut to the patient that was asked for.
//!
//! A holder may answer more than it was asked: another patient's record, a resource about two, a type that nobody wanted, something that is no FHIR. The
//! Patients that carry the number which was asked for are the patient; a resource counts as theirs when the parameters of the patient
//! compartment name one of them, and nothing in it names what is another, or perhaps. Everything else is left out, whatever it is.
//!
//! Names are the holder's own: its `Patient/1` is not ours. For the decision they are made absolute, and the patient is called as here.
//!
//! What it names and did not send may be of any label: a visit or a result that is not in its answer, and whatever a document may list that is not.
//! Such a resource is decided on as one that has every label of the value sets, and it is not said of it that it has them.

use super::locate::{Identifier, Location};
use super::medicines::{Here, Medicines};
use super::release::Record;
use super::{Told, Wanted};
use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{self, labels_on_arrival};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::is_id;
use crate::fhir::time::parse_interval;
use crate::ingest::draft::{Making, with_labels};
use crate::search::extract::people::Oneself;
use crate::search::extract::{self, Options};
use crate::store::gate::About;
use crate::validate::structure;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What of an answer is the patient's, and how much was left out.
#[derive(Default)]
pub struct Checked {
    pub records: Vec<Record>,
    /// Resources that are another patient's, or cannot be told to be this one's.
    pub foreign: usize,
    /// Things that are no FHIR R4.
    pub unusable: usize,
}

fn security(resource: &Value) -> BTreeSet<Coding> {
    let labels = resource.pointer("/meta/security").and_then(Value::as_array).into_iter().flatten();
    labels.filter_map(|label| Some(Coding::new(label.get("system")?.as_str()?, label.get("code")?.as_str()?))).collect()
}

/// What is known here.
pub struct Known {
    pub making: Making,
    /// Medicines.
    pub medicines: Here,
}

fn identifiers(resource: &Value) -> impl Iterator<Item = Identifier> {
    resource.get("identifier").and_then(Value::as_array).into_iter().flatten().filter_map(Identifier::of)
}

/// Cuts what a holder answered to the patient of `location`.
pub(super) fn check(told: Told, location: &Location, wanted: &Wanted, known: Known) -> Checked {
    let Known { making, medicines } = known;
    let Told { resources, telling, is_untold, .. } = told;
    let all = || resources.iter().chain(&telling);
    let mut numbered: BTreeSet<String> = making.options.people.iter().map(|system| system.to_string()).collect();
    let mut patients: BTreeSet<String> = BTreeSet::new();
    let mut numbers: BTreeSet<Identifier> = identifiers(&location.body).chain([location.identifier.clone()]).collect();
    for patient in all().filter(|one| one.get("resourceType").and_then(Value::as_str) == Some("Patient")) {
        numbered.extend(identifiers(patient).map(|identifier| identifier.system));
        if location.identifier.is_of(patient) {
            patients.extend(patient.get("id").and_then(Value::as_str).map(str::to_owned));
            numbers.extend(identifiers(patient));
        }
    }
    let numbers = numbers.into_iter().map(|Identifier { system, value }| (system, value)).collect();
    let herself = Oneself::new(patients, numbers, numbered);
    let options = location.options(&making.options);
    // Who knows her may give away what for; so what it tells of her is no less confidential than that it knows her.
    let inherited = security(&location.body);
    let medicines = Medicines::new(&resources, options.clone(), &making, medicines);
    let (making, handed) = (&making, BTreeMap::new());
    let name = |one: &Value| Some(format!("{}/{}", one.get("resourceType")?.as_str()?, one.get("id")?.as_str()?));
    let sent = all().filter_map(name).collect();
    let mut cutting = Cutting { location, wanted, making, options, herself, medicines, inherited, handed, sent, is_untold };
    // A document before the visits that it lists, which hand on what they got.
    for type_name in ["Composition", "Encounter", "Observation"] {
        all().for_each(|resource| cutting.hand_on(type_name, resource));
    }
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
    /// Names as the holder means them.
    options: Options,
    /// As the holder calls her.
    herself: Oneself,
    medicines: Medicines,
    inherited: BTreeSet<Coding>,
    /// Labels that come with a name: to what a document lists, to what names a visit.
    handed: BTreeMap<String, BTreeSet<Coding>>,
    /// All that the holder sent, as `Type/id`.
    sent: BTreeSet<String>,
    /// There may be documents and visits that it did not send.
    is_untold: bool,
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
        if is_patient && !self.herself.ids.contains(&id) || !self.herself.is_alone(&resource, &self.options) {
            return Err(Why::Foreign);
        }
        if structure(&resource).iter().any(|issue| issue.severity.is_error()) {
            return Err(Why::Unusable);
        }
        let labels = self.labels(&resource);
        let resource = if labels.is_empty() { resource } else { with_labels(&resource, &labels) };
        let url = format!("{}/{type_name}/{id}", self.base());
        let named = self.in_our_words(&resource, is_patient);
        let options = &self.making.options;
        let entries = extract::extract(type_code, &named, options);
        if extract::about_one(type_code, &named, &entries, options) != About::Patient(self.location.id.clone()) {
            return Err(Why::Foreign);
        }
        let mut facts = consent::facts(&named, &options.zone, &options.base);
        facts.elsewhere = true;
        facts.labels.extend(self.medicines.told(&resource).perhaps);
        let is_untold = self.is_untold && extract::takes_labels(&resource);
        if is_untold || extract::names_untold(&resource, &self.options, Some(&self.sent)) {
            facts.labels.extend(consent::any_sensitive());
        }
        if !is_patient {
            facts.name = Some(url.clone());
        }
        let known_as = if is_patient { self.location.id.to_string() } else { url.clone() };
        let (owner, patient) = (self.location.owner, self.location.patient);
        Ok(Some(Record { owner, patient, type_code, url, known_as, body: resource, facts, entries }))
    }

    /// Notes what a document or a visit hands on.
    fn hand_on(&mut self, type_name: &str, resource: &Value) {
        let text = |key: &str| resource.get(key).and_then(Value::as_str);
        if text("resourceType") != Some(type_name) {
            return;
        }
        let mut labels = self.labels(resource);
        labels.extend(security(resource));
        if labels.is_empty() {
            return;
        }
        let names = match type_name {
            "Encounter" | "Observation" => text("id").map(|id| format!("{type_name}/{id}")).into_iter().collect(),
            _ => self.listed(resource),
        };
        for name in names {
            self.handed.entry(name).or_default().extend(labels.iter().cloned());
        }
    }

    /// The labels to add to a resource: its own on arrival, the location's, those of the visits and documents that it belongs to, and those of the
    /// medicines that it names.
    fn labels(&self, resource: &Value) -> BTreeSet<Coding> {
        let mut inherited = self.inherited.clone();
        let text = |key: &str| resource.get(key).and_then(Value::as_str).unwrap_or_default();
        let own = format!("{}/{}", text("resourceType"), text("id"));
        let is_report = text("resourceType") == "DiagnosticReport";
        let takes = |name: &String| name.starts_with("Encounter/") || is_report && name.starts_with("Observation/");
        let visits = self.references(resource).into_iter().filter(takes);
        let handed = visits.chain([own]).filter_map(|name| self.handed.get(&name));
        inherited.extend(handed.flatten().cloned());
        inherited.extend(self.medicines.told(resource).labels);
        labels_on_arrival(resource, &inherited, &self.making.sensitive)
    }

    /// What the sections of a document list, at any depth.
    fn listed(&self, document: &Value) -> BTreeSet<String> {
        let list = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut found = BTreeSet::new();
        let mut waiting = list(document, "section");
        while let Some(section) = waiting.pop() {
            found.extend(self.references(&json!({ "entry": list(&section, "entry") })));
            waiting.extend(list(&section, "section"));
        }
        found
    }

    /// What a resource refers to at the holder, as `Type/id`.
    fn references(&self, resource: &Value) -> BTreeSet<String> {
        consent::facts(resource, &self.making.options.zone, self.base()).references
    }

    /// It says itself that it is older than what is wanted.
    fn is_older(&self, resource: &Value) -> bool {
        let updated = resource.pointer("/meta/lastUpdated").and_then(Value::as_str);
        let updated = updated.and_then(|text| parse_interval(text, &self.making.options.zone));
        self.wanted.since.zip(updated).is_some_and(|(since, updated)| updated.high <= since)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::consent::Sensitive;
    use crate::config::{Holder, Settings};
    use crate::exchange::holders::Holders;
    use proptest::prelude::*;
    use std::sync::Arc;

    const BASE: &str = "https://holder.example.org/fhir";

    fn location() -> Location {
        let settings: Holder = serde_json::from_value(json!({ "facility": "HF-D", "url": BASE })).unwrap();
        let holders = Holders::new(&Settings { holders: vec![settings], ..Settings::default() }).unwrap();
        let identifier = Identifier { system: "urn:mrn".into(), value: "7".into() };
        let (holder, body) = (Arc::clone(&holders.list()[0]), json!({ "resourceType": "Patient", "id": "here" }));
        Location { holder, owner: 5, patient: 6, id: "here".into(), body, identifier }
    }

    fn patient(id: &str, number: &str) -> Value {
        json!({ "resourceType": "Patient", "id": id, "identifier": [{ "system": "urn:mrn", "value": number }] })
    }

    fn checked(resources: Vec<Value>) -> Checked {
        checked_knowing(resources, Known { making: Making::default(), medicines: Here::new() })
    }

    fn checked_knowing(resources: Vec<Value>, known: Known) -> Checked {
        let types = ["Patient", "Observation", "Encounter", "Composition", "MedicationRequest"]
            .iter()
            .filter_map(|name| definitions::r4().type_code(name));
        let wanted = Wanted { types: types.collect(), owners: None, since: None };
        check(Told { resources, ..Told::default() }, &location(), &wanted, known)
    }

    /// The ids of those of which everything is to be feared.
    fn perhaps(told: Told) -> Vec<String> {
        let types = ["Patient", "Observation", "DiagnosticReport"].iter().filter_map(|name| definitions::r4().type_code(name));
        let wanted = Wanted { types: types.collect(), owners: None, since: None };
        let kept = check(told, &location(), &wanted, Known { making: Making::default(), medicines: Here::new() });
        assert_eq!((kept.foreign, kept.unusable), (0, 0));
        let perhaps = kept.records.iter().filter(|record| consent::any_sensitive().is_subset(&record.facts.labels));
        perhaps.filter_map(|record| Some(record.url.rsplit('/').next()?.to_owned())).collect()
    }

    /// Every way in which a resource may speak of a Patient; the last ones are of somebody else.
    fn names() -> Vec<String> {
        let of = |id: &str| [format!("Patient/{id}"), format!("Patient/{id}/_history/1"), format!("{BASE}/Patient/{id}")];
        let elsewhere = ["https://other.example.org/fhir/Patient/hers".to_owned(), "Patient?identifier=8".to_owned()];
        of("hers").into_iter().chain(of("theirs")).chain(of("here")).chain(elsewhere).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_kept_names_the_patient_and_nobody_else(picks in prop::collection::vec((0usize..11, 0usize..11, 0usize..4), 1..12)) {
            let names = names();
            let mut resources = vec![patient("theirs", "8"), patient("hers", "7")];
            for (n, (subject, other, place)) in picks.iter().enumerate() {
                let mut one = json!({ "resourceType": "Observation", "id": format!("o{n}"), "status": "final", "code": { "text": "x" }, "subject": { "reference": names[*subject] } });
                let other = json!({ "reference": names[*other] });
                match place {
                    0 => one["focus"] = json!([other]),
                    1 => one["performer"] = json!([other]),
                    2 => one["extension"] = json!([{ "url": "urn:x", "extension": [{ "url": "y", "valueReference": other }] }]),
                    _ => {}
                }
                resources.push(one);
            }
            let kept = checked(resources.clone());
            let is_hers = |name: &str| names[..3].iter().any(|hers| hers == name);
            let expected: BTreeSet<String> = resources[2..].iter().zip(&picks).filter(|(_, (subject, other, place))| {
                is_hers(&names[*subject]) && (*place > 2 || is_hers(&names[*other]))
            }).map(|(one, _)| format!("{BASE}/Observation/{}", one["id"].as_str().unwrap())).chain([format!("{BASE}/Patient/hers")]).collect();
            let found: BTreeSet<String> = kept.records.iter().map(|record| record.url.clone()).collect();
            prop_assert_eq!(found, expected);
            for record in &kept.records {
                let text = record.body.to_string();
                prop_assert!(!text.contains("theirs") && !text.contains("other.example.org") && !text.contains("Patient/here"), "{}", text);
            }
        }
    }

    #[test]
    fn what_names_a_labelled_visit_or_is_listed_by_a_labelled_document_is_as_sensitive() {
        let label = json!({ "security": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV" }] });
        let hers = json!({ "reference": "Patient/hers" });
        let visit = |id: &str| json!({ "resourceType": "Encounter", "id": id, "status": "finished", "subject": hers, "class": { "system": "urn:c", "code": "AMB" } });
        let in_visit = |id: &str, visit: &str| json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" }, "subject": hers, "encounter": { "reference": visit } });
        let mut labelled = visit("clinic");
        labelled["meta"] = label.clone();
        let document = json!({
            "resourceType": "Composition", "id": "letter", "meta": label, "status": "final", "type": { "text": "x" }, "subject": hers, "title": "x",
            "date": "2026-01-01", "author": [{ "display": "x" }], "section": [{ "focus": hers, "section": [{ "entry": [{ "reference": format!("{BASE}/Encounter/listed") }] }] }],
        });
        let kept = checked(vec![
            patient("hers", "7"),
            in_visit("of-clinic", "Encounter/clinic"),
            in_visit("of-listed", &format!("{BASE}/Encounter/listed")),
            in_visit("of-other", "Encounter/other"),
            labelled,
            visit("listed"),
            visit("other"),
            document,
        ]);
        let restricted = |record: &&Record| record.body.to_string().contains("\"HIV\"") && record.facts.confidentiality().code() == "R";
        let found: Vec<&str> = kept.records.iter().filter(restricted).filter_map(|record| record.url.rsplit('/').next()).collect();
        assert_eq!(found, ["of-clinic", "of-listed", "clinic", "listed", "letter"]);
        assert_eq!((kept.records.len(), kept.foreign, kept.unusable), (8, 0, 0));
    }

    #[test]
    fn what_a_holder_names_and_did_not_send_may_be_of_any_label() {
        let hers = json!({ "reference": "Patient/hers" });
        let in_visit = |id: &str, visit: Value| json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" }, "subject": hers, "encounter": visit });
        let report = |id: &str, result: Value| json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "code": { "text": "x" }, "subject": hers, "result": [result] });
        let named = |name: &str| json!({ "reference": name });
        let mut extended = in_visit("extended", json!({ "display": "x" }));
        extended["extension"] = json!([{ "url": "urn:x", "valueReference": named("Encounter/missing") }]);
        let resources = vec![
            patient("hers", "7"),
            in_visit("told", named("Encounter/told")),
            in_visit("absolute", named(&format!("{BASE}/Encounter/told/_history/2"))),
            in_visit("missing", named("Encounter/missing")),
            in_visit("sought", named("Encounter?identifier=1")),
            in_visit("elsewhere", named("https://other.example.org/fhir/Encounter/told")),
            in_visit("urn", named("urn:uuid:0d7a2c1e-8a55-4b2c-9e0a-52dfb8c4c0a1")),
            in_visit("called", json!({ "identifier": { "value": "1" } })),
            extended,
            report("of-told", named("Observation/told")),
            report("of-missing", named("Observation/nowhere")),
            report("of-elsewhere", named("https://other.example.org/fhir/Observation/told")),
            report("of-called", json!({ "identifier": { "value": "1" } })),
        ];
        let telling =
            vec![json!({ "resourceType": "Encounter", "id": "told", "status": "finished", "subject": hers, "class": { "code": "AMB" } })];
        let told = |is_untold| Told { resources: resources.clone(), telling: telling.clone(), is_untold, cut: false };
        let expected = ["missing", "sought", "elsewhere", "urn", "called", "extended", "of-missing", "of-elsewhere", "of-called"];
        assert_eq!(perhaps(told(false)), expected);
        assert_eq!(perhaps(told(true)).len(), resources.len() - 1, "all but the Patient");
    }

    #[test]
    fn what_names_a_medicine_that_tells_is_as_sensitive_and_of_what_nobody_tells_it_may_be() {
        let coding = |code: &str| Coding::new("http://www.whocc.no/atc", code);
        let members = |set: &str| Some(if set.ends_with("hiv") { vec![coding("J05A")] } else { Vec::new() });
        let making = Making { sensitive: Arc::new(Sensitive::new(members)), ..Making::default() };
        let code = |code: &str| json!({ "coding": [{ "system": "http://www.whocc.no/atc", "code": code }] });
        let request = |id: &str, medicine: Value| json!({ "resourceType": "MedicationRequest", "id": id, "status": "active", "intent": "order", "subject": { "reference": "Patient/hers" }, "medicationReference": medicine });
        let called = |value: &str| json!({ "identifier": { "system": "urn:stock", "value": value } });
        let made_of = |id: &str, what: &str| json!({ "resourceType": "Medication", "id": id, "ingredient": [{ "itemReference": { "reference": what } }] });
        let here = [("here", Some(BTreeSet::from([Coding::sensitivity("HIV")]))), ("harmless", Some(BTreeSet::new())), ("wordless", None)];
        let here = here.map(|(value, labels)| (("urn:stock".to_owned(), value.to_owned()), labels));
        let known = Known { making, medicines: here.into() };
        let kept = checked_knowing(
            vec![
                patient("hers", "7"),
                request("deep", json!({ "reference": "Medication/outer" })),
                request("circle", json!({ "reference": "Medication/round" })),
                request("here", called("here")),
                request("harmless", called("harmless")),
                request("wordless", called("wordless")),
                request("nowhere", called("nowhere")),
                request("elsewhere", json!({ "reference": "https://other.example.org/fhir/Medication/1" })),
                request("missing", json!({ "reference": "Medication/missing" })),
                made_of("outer", "Medication/inner"),
                made_of("inner", "Substance/arv"),
                made_of("round", "Medication/round"),
                json!({ "resourceType": "Substance", "id": "arv", "code": code("J05AF01") }),
            ],
            known,
        );
        let with = |is: &dyn Fn(&Record) -> bool| -> Vec<String> {
            kept.records.iter().filter(|record| is(record)).filter_map(|record| Some(record.url.rsplit('/').next()?.to_owned())).collect()
        };
        let hiv = Coding::sensitivity("HIV");
        assert_eq!(with(&|record| record.body.to_string().contains("\"HIV\"")), ["deep", "here"]);
        assert_eq!(with(&|record| record.facts.labels.contains(&hiv)), ["deep", "here", "wordless", "nowhere", "elsewhere", "missing"]);
        assert_eq!((kept.records.len(), kept.foreign, kept.unusable), (9, 0, 0));
    }
}
