//! People with records and Consents, put into the store in large units: what a write over HTTP makes of each resource, without HTTP.

use lango::access::consent::{self, Consent, Reading};
use lango::access::gate;
use lango::definitions;
use lango::search::extract;
use lango::store::gate::{About, Traits};
use lango::store::write::Change;
use lango::store::{FacilityKey, IndexValue, Mutation, Store, Unit};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

pub const PEOPLE: usize = 100_000;
const CONSENTS: usize = 10;
/// People of one unit.
const TOGETHER: usize = 40;
/// Stands where the store writes `meta.lastUpdated`.
const STAMP: &str = "0001-01-01T00:00:00.000000Z";
const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
const FAMILIES: [&str; 10] = ["Massawe", "Mushi", "Kimaro", "Mollel", "Laizer", "Temu", "Lyimo", "Swai", "Mrema", "Shayo"];
const GIVEN: [&str; 12] = ["Asha", "Neema", "Juma", "Baraka", "Rehema", "Zawadi", "Amani", "Upendo", "Salum", "Hawa", "Imani", "Tumaini"];
/// Facilities that the Consents name besides those that ask.
const OTHERS: usize = 50;

/// Fills an empty database. `people`: how many.
pub async fn load(store: &Store, people: usize) {
    let sender = store.facility_key("HF-SENDER").await.expect("a number");
    let begun = Instant::now();
    let (units, mut waiting) = tokio::sync::mpsc::channel::<Unit>(8);
    let made = std::thread::spawn(move || {
        units.blocking_send(Unit { mutations: directory().map(|body| mutation(&body, 0)).collect(), ..Unit::default() }).expect("a writer");
        for first in (0..people).step_by(TOGETHER) {
            let together = first..(first + TOGETHER).min(people);
            let mutations = together.flat_map(person).map(|body| mutation(&body, sender)).collect();
            units.blocking_send(Unit { mutations, ..Unit::default() }).expect("a writer");
        }
    });
    let mut resources = 0;
    let mut writes = tokio::task::JoinSet::new();
    while let Some(unit) = waiting.recv().await {
        resources += unit.mutations.len();
        while writes.len() >= 8 {
            writes.join_next().await;
        }
        let store = store.clone();
        writes.spawn(async move { store.commit(unit).await.expect("the unit is stored") });
    }
    while let Some(written) = writes.join_next().await {
        written.expect("no panic");
    }
    made.join().expect("no panic");
    let took = begun.elapsed().as_secs_f64();
    eprintln!("{people} people, {resources} resources in {took:.0} s ({:.0}/s)", resources as f64 / took);
}

/// The facilities, and the district that half of the permits name.
fn directory() -> impl Iterator<Item = Value> {
    let facility = |id: String, code: String| json!({ "resourceType": "Organization", "id": id, "identifier": [{ "system": "urn:lango:facility", "value": code }] });
    let others = (0..OTHERS).map(move |n| facility(format!("hf-{n}"), format!("HF-{n}")));
    others.chain([
        facility("hf-sender".into(), "HF-SENDER".into()),
        facility("hf-all".into(), "HF-ALL".into()),
        facility("hf-half".into(), "HF-HALF".into()),
    ])
}

/// A Patient with an Encounter, two Observations, a Condition and ten Consents.
fn person(n: usize) -> Vec<Value> {
    let subject = json!({ "reference": format!("Patient/p{n}") });
    let encounter = json!({ "reference": format!("Encounter/e{n}") });
    let day = format!("20{:02}-{:02}-{:02}", 20 + n % 7, n / 7 % 12 + 1, n / 84 % 28 + 1);
    let loinc = |code: &str| json!({ "coding": [{ "system": "http://loinc.org", "code": code }] });
    // One in 25 has what the searches ask for: as many as the search benchmark's 4,000 visits.
    let code = if n.is_multiple_of(25) { "8867-4".to_owned() } else { format!("{}-{}", 1000 + n % 25, n % 10) };
    let observation = |k: usize, code: &Value, value: usize| {
        json!({ "resourceType": "Observation", "id": format!("o{n}-{k}"), "status": "final", "code": code, "subject": subject, "encounter": encounter,
            "effectiveDateTime": day, "valueQuantity": { "value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min" } })
    };
    // One in 8 tells of HIV.
    let mut condition = json!({ "resourceType": "Condition", "id": format!("c{n}"), "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10",
        "code": (["B20", "J06.9", "A09", "J18.9", "I10", "N39.0", "B54", "K29"][n % 8]) }] },
        "subject": subject, "encounter": encounter, "onsetDateTime": day });
    if n.is_multiple_of(8) {
        condition["meta"] = json!({ "security": [{ "system": ACT_CODE, "code": "HIV" }, { "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R" }] });
    }
    let mut resources = vec![
        json!({ "resourceType": "Patient", "id": format!("p{n}"), "gender": (if n.is_multiple_of(2) { "female" } else { "male" }), "birthDate": format!("19{:02}-{:02}-11", 50 + n % 50, n % 12 + 1),
            // A family of 50 people each, so that a name is as rare as it is in a village.
            "name": [{ "family": format!("{}{}", FAMILIES[n % 10], n / 10 % 200), "given": [GIVEN[n % 12]] }],
            "identifier": [{ "system": "urn:mrn", "value": format!("MRN-{n}") }] }),
        json!({ "resourceType": "Encounter", "id": format!("e{n}"), "status": "finished", "class": { "system": ACT_CODE, "code": "AMB" },
            "subject": subject, "period": { "start": day, "end": day } }),
        observation(0, &loinc(&code), 55 + n % 60),
        observation(1, &loinc("29463-7"), 40 + n % 60),
        condition,
    ];
    resources.extend((0..CONSENTS).map(|k| consent_of(n, k)));
    resources
}

/// Ten Consents as they gather over years: permits for facilities of all kinds with and without exceptions, a refusal of research, one that
/// ended. The last but one permits the facility that everybody permits, the last of every second person the one that half do.
fn consent_of(n: usize, k: usize) -> Value {
    let coding = |system: &str, code: &str| json!({ "coding": [{ "system": format!("http://terminology.hl7.org/CodeSystem/{system}"), "code": code }] });
    let purpose = |code: &str| json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code }]);
    let actor =
        |id: &str| json!([{ "role": coding("v3-ParticipationType", "IRCP"), "reference": { "reference": format!("Organization/{id}") } }]);
    let hiv = json!([{ "system": ACT_CODE, "code": "HIV" }]);
    let other = format!("hf-{}", (n * 7 + k * 13) % OTHERS);
    let mut provision = json!({ "type": "permit", "period": { "start": "2020-01-01", "end": "2099-12-31" }, "actor": actor(&other), "purpose": purpose("TREAT") });
    match k {
        0 => provision["provision"] = json!([{ "type": "deny", "securityLabel": hiv }]),
        1 => provision["period"] = json!({ "start": "2019", "end": "2021" }),
        2 => provision = json!({ "type": "deny", "purpose": purpose("HRESCH") }),
        3 => {
            provision["provision"] =
                json!([{ "type": "deny", "securityLabel": hiv, "provision": [{ "type": "permit", "actor": actor("hf-3") }] }])
        }
        4 => provision["dataPeriod"] = json!({ "start": "2020", "end": "2024" }),
        8 => provision["actor"] = actor("hf-all"),
        9 if n.is_multiple_of(2) => provision["actor"] = actor("hf-half"),
        _ => {}
    }
    if k >= 8 && n.is_multiple_of(7) {
        // One in seven keeps something for themselves.
        provision["provision"] = json!([{ "type": "deny", "securityLabel": hiv }]);
    }
    json!({ "resourceType": "Consent", "id": format!("k{n}-{k}"), "status": (if k == 7 { "inactive" } else { "active" }), "scope": coding("consentscope", "patient-privacy"),
        "category": [{ "coding": [{ "system": "http://loinc.org", "code": "59284-0" }] }], "patient": { "reference": format!("Patient/p{n}") },
        "dateTime": format!("20{:02}-03-01", 15 + k), "organization": [{ "reference": format!("Organization/{other}") }],
        "policy": [{ "uri": format!("https://example.org/policy/{k}") }], "provision": provision })
}

/// What a write makes of a resource: its bytes, index entries, traits and rules.
fn mutation(resource: &Value, owner: FacilityKey) -> Mutation {
    let text = |key: &str| resource[key].as_str().expect("a made resource");
    let (type_name, id) = (text("resourceType"), text("id"));
    let type_code = definitions::r4().type_code(type_name).expect("a type of R4");
    let options = extract::Options::default();
    let entries = extract::extract(type_code, resource, &options);
    let about = extract::about(type_code, resource, &entries, &options);
    let mut traits = Traits::default();
    if let About::Patient(_) = about {
        let indexed = |name: &str, id: &str| {
            entries.iter().any(
                |entry| matches!(&entry.value, IndexValue::Reference { type_name, id: other } if **type_name == *name && **other == *id),
            )
        };
        traits = gate::traits(&consent::facts(resource, &options.zone, ""), indexed);
    }
    let rules = (type_name == "Consent").then(|| {
        let reading = Reading {
            zone: &options.zone,
            base: "",
            value_set: &|_| None,
            references_of: &|_| Vec::new(),
            called: &|_| Some(Vec::new()),
            organisation: &|names| names.into_iter().collect(),
            former: &[],
            recorded: lango::fhir::time::now(),
            of_age: None,
        };
        let consent = Consent::read(resource, &reading).expect("a small Consent");
        let patient = resource["patient"]["reference"].as_str().and_then(|name| name.strip_prefix("Patient/")).expect("a patient");
        gate::rules(&consent, vec![patient.into()], BTreeSet::from([patient.into()]))
    });
    let head = format!(r#"{{"resourceType":"{type_name}","id":"{id}","meta":{{"versionId":"1","lastUpdated":""#);
    let mut rest = resource.as_object().expect("an object").clone();
    rest.retain(|key, _| !matches!(key.as_str(), "resourceType" | "id" | "meta"));
    let labels = resource.pointer("/meta/security").map(|labels| format!(r#","security":{labels}"#)).unwrap_or_default();
    let rest = Value::Object(rest).to_string();
    let body = format!(r#"{head}{STAMP}"{labels}}},{}"#, &rest[1..]);
    let change = Change::Put { body: body.into_bytes(), stamp_at: head.len(), entries, old_entries: Vec::new() };
    Mutation { type_code, id: id.into(), base_version: 0, change, owner, listed: true, about, traits, rules }
}
