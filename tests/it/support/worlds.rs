//! Small random worlds of facilities, patients, records and Consents, and a slow, obvious reading of who may see what.

use lango::access::consent::vocabulary::Coding;
use lango::access::consent::{self, Consent, Deployment, Reached, Reading, Requester, SOMEBODY};
use lango::fhir::series::Place;
use lango::fhir::time::parse_interval;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
pub const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
pub const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
const CONSENT_ACTION: &str = "http://terminology.hl7.org/CodeSystem/consentaction";
const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
const ROLE: &str = "https://lango.health/fhir/CodeSystem/role";
const TYPES: &str = "http://hl7.org/fhir/resource-types";
const LOCAL: &str = "http://x";
/// Strong: Patients that share a value of it are one person.
pub const NIDA: &str = "https://lango.health/id/nida";
const DATES: [&str; 6] = ["2021-05", "2022", "2023-02-03", "2024-06-15", "2024-06-15T12:00:00Z", "2025"];

/// A repeatable source of choices (xorshift64*).
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Choices {
        Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % count
    }

    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn one<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Who sends a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    A,
    B,
    /// Who asks.
    C,
}

/// Who asks, as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A clinician of a facility of the district, for a practitioner.
    Clinician,
    /// A program of a facility that belongs to nothing.
    Stranger,
}

impl Asker {
    /// The id of its client.
    pub fn client(self) -> &'static str {
        match self {
            Asker::Clinician => "asker",
            Asker::Stranger => "stranger",
        }
    }
}

/// A resource that is to be written, or deleted when it has no body any more.
#[derive(Clone, Debug)]
pub struct Wish {
    pub sender: Sender,
    pub body: Value,
}

fn code(system: &str, code: &str) -> Value {
    json!({ "system": system, "code": code })
}

fn concept(system: &str, one: &str) -> Value {
    json!({ "coding": [code(system, one)] })
}

fn to(type_name: &str, id: &str) -> Value {
    json!({ "reference": format!("{type_name}/{id}") })
}

/// Everything of one world but its Consents, in the order in which it is written, and how many patients it has. All ids begin with `world`.
pub fn records(choices: &mut Choices, world: &str) -> (usize, Vec<Wish>) {
    let mut wishes = Vec::new();
    let patients = 2 + choices.below(3);
    let sender = |choices: &mut Choices| choices.one(&[Sender::A, Sender::A, Sender::B, Sender::B, Sender::C]);
    let linked = choices.once_in(2);
    for p in 0..patients {
        let mut patient = json!({
            "resourceType": "Patient", "id": format!("{world}p{p}"), "gender": choices.one(&["female", "male"]),
            "name": [{ "family": choices.one(&["Mushi", "Juma", "Asha"]), "given": ["Neema"] }],
            "identifier": [{ "system": "urn:mrn", "value": format!("{world}{p}") }],
        });
        if linked && p < 2 {
            let strong = json!({ "system": NIDA, "value": format!("{world}x") });
            patient["identifier"].as_array_mut().unwrap().push(strong);
        }
        wishes.push(Wish { sender: sender(choices), body: patient });
    }
    for p in 0..patients {
        let mut encounter = json!({
            "resourceType": "Encounter", "id": format!("{world}e{p}"), "status": choices.one(&["finished", "planned"]),
            "class": code(ACT_CODE, "AMB"), "subject": to("Patient", &format!("{world}p{p}")),
        });
        if !choices.once_in(4) {
            encounter["period"] = json!({ "start": choices.one(&DATES[..2]), "end": choices.one(&DATES[3..]) });
        }
        label(choices, &mut encounter, 6);
        wishes.push(Wish { sender: sender(choices), body: encounter });
    }
    for n in 0..patients * (2 + choices.below(2)) {
        let body = clinical(choices, world, n, patients);
        wishes.push(Wish { sender: sender(choices), body });
    }
    let (one, other) = (choices.below(patients), choices.below(patients));
    let patient = |p: usize| to("Patient", &format!("{world}p{p}"));
    let of_many = [
        json!({ "resourceType": "List", "id": format!("{world}l"), "status": "current", "mode": "working", "subject": patient(one),
            "entry": [{ "item": to("Observation", &format!("{world}c0")) }, { "item": to("Condition", &format!("{world}c1")) }] }),
        json!({ "resourceType": "Group", "id": format!("{world}g"), "type": "person", "actual": true,
            "member": [{ "entity": patient(one) }, { "entity": patient(other) }] }),
        json!({ "resourceType": "Appointment", "id": format!("{world}a"), "status": "booked", "start": "2024-06-15T12:00:00Z",
            "end": "2024-06-15T13:00:00Z", "participant": [{ "actor": patient(one), "status": "accepted" }, { "actor": patient(other), "status": "accepted" }] }),
        json!({ "resourceType": "Binary", "id": format!("{world}b"), "contentType": "text/plain", "data": "aGVsbG8=" }),
        json!({ "resourceType": "Provenance", "id": format!("{world}v"), "recorded": "2024-06-15T12:00:00Z",
            "target": [to("Observation", &format!("{world}c0"))], "agent": [{ "who": to("Organization", "hf-a") }] }),
        json!({ "resourceType": "Provenance", "id": format!("{world}w"), "recorded": "2024-06-15T12:00:00Z",
            "target": [patient(one)], "agent": [{ "who": to("Organization", "hf-a") }] }),
        json!({ "resourceType": "Provenance", "id": format!("{world}x"), "recorded": "2024-06-15T12:00:00Z",
            "target": [patient(one), patient(other)], "agent": [{ "who": to("Organization", "hf-a") }] }),
    ];
    for body in of_many {
        if !choices.once_in(3) {
            wishes.push(Wish { sender: sender(choices), body });
        }
    }
    (patients, wishes)
}

/// An Observation, a Condition or a MedicationRequest, with references to what is around it, now and then to another patient's.
pub fn clinical(choices: &mut Choices, world: &str, n: usize, patients: usize) -> Value {
    let p = n % patients;
    let elsewhere = if choices.once_in(8) { choices.below(patients) } else { p };
    let encounter = to("Encounter", &format!("{world}e{elsewhere}"));
    let subject = to("Patient", &format!("{world}p{p}"));
    let main = match choices.below(5) {
        0 | 1 => concept(LOCAL, "a"),
        2 => concept(LOCAL, "b"),
        3 => json!({ "coding": [code("http://y", "a"), code(LOCAL, "c")] }),
        _ => json!({ "text": "a" }),
    };
    let id = format!("{world}c{n}");
    let mut body = match n % 3 {
        0 => {
            let mut body = json!({ "resourceType": "Observation", "id": id, "status": choices.one(&["final", "amended"]), "code": main,
                "subject": subject, "encounter": encounter, "valueString": choices.one(&["high", "low"]) });
            if !choices.once_in(4) {
                body["effectiveDateTime"] = json!(choices.one(&DATES));
            }
            if choices.once_in(3) {
                body["performer"] = json!([to("Practitioner", "doctor")]);
            }
            if choices.once_in(3) {
                body["hasMember"] = json!([to("Observation", &format!("{world}c{}", 3 * choices.below(patients)))]);
            }
            body
        }
        1 => {
            let mut body = json!({ "resourceType": "Condition", "id": id, "code": main, "subject": subject, "encounter": encounter,
                "onsetDateTime": choices.one(&DATES) });
            if choices.once_in(3) {
                body["contained"] = json!([{ "resourceType": "Practitioner", "id": "d", "name": [{ "family": "Daktari" }] }]);
                body["asserter"] = json!({ "reference": "#d" });
            }
            body
        }
        _ => {
            json!({ "resourceType": "MedicationRequest", "id": id, "status": "active", "intent": "order", "medicationCodeableConcept": main,
            "subject": subject, "encounter": encounter, "authoredOn": choices.one(&DATES),
            // No search parameter knows it.
            "reasonReference": [to("Condition", &format!("{world}c{}", 1 + 3 * choices.below(patients)))] })
        }
    };
    label(choices, &mut body, 3);
    body
}

fn label(choices: &mut Choices, resource: &mut Value, once_in: usize) {
    if choices.once_in(once_in) {
        let labels = [
            code(ACT_CODE, "HIV"),
            code(ACT_CODE, "ETHUD"),
            code(CONFIDENTIALITY, "R"),
            code(CONFIDENTIALITY, "V"),
            code(CONFIDENTIALITY, "L"),
        ];
        resource["meta"] = json!({ "security": [choices.one(&labels)] });
    }
}

/// The Consents of one world.
pub fn consents(choices: &mut Choices, world: &str, patients: usize) -> Vec<Value> {
    (0..1 + choices.below(4)).map(|n| consent(choices, world, patients, n)).collect()
}

fn consent(choices: &mut Choices, world: &str, patients: usize, n: usize) -> Value {
    let mut consent = json!({
        "resourceType": "Consent", "id": format!("{world}k{n}"), "status": choices.one(&["active", "active", "active", "active", "inactive", "rejected"]),
        "scope": concept("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
        "category": [concept("http://loinc.org", "59284-0")],
        "patient": to("Patient", &format!("{world}p{}", choices.below(patients))),
        "policy": [{ "uri": choices.one(&["http://example.org/one", "http://example.org/two"]) }],
    });
    if !choices.once_in(4) {
        consent["dateTime"] = json!(choices.one(&["2019", "2020-05", "2020-05-06"]));
    }
    if choices.once_in(3) {
        let (one, other) = (to("Organization", "hf-a"), json!({ "identifier": { "system": "urn:lango:facility", "value": "HF-B" } }));
        consent["organization"] = choices.one(&[json!([one]), json!([one]), json!([one, other]), json!([other])]);
    }
    if choices.once_in(5) {
        consent["policyRule"] = concept(ACT_CODE, choices.one(&["OPTIN", "OPTOUT"]));
    }
    if !choices.once_in(8) {
        consent["provision"] = provision(choices, world, 0);
    }
    consent
}

fn provision(choices: &mut Choices, world: &str, depth: usize) -> Value {
    let mut object = Map::new();
    // The root mostly permits, so that there is something to see.
    let kind = if depth == 0 { choices.one(&["permit", "permit", "permit", "deny"]) } else { choices.one(&["permit", "deny"]) };
    object.insert("type".into(), json!(kind));
    let criteria = if depth == 0 { choices.below(3) } else { 1 + choices.below(2) };
    for _ in 0..criteria {
        let (key, value) = criterion(choices, world);
        object.insert(key.into(), value);
    }
    if depth < 3 {
        let exceptions: Vec<Value> = (0..choices.below(3)).map(|_| provision(choices, world, depth + 1)).collect();
        if !exceptions.is_empty() {
            object.insert("provision".into(), exceptions.into());
        }
    }
    Value::Object(object)
}

fn criterion(choices: &mut Choices, world: &str) -> (&'static str, Value) {
    match choices.below(9) {
        0 => ("period", json!({ "start": choices.one(&["2020", "2026-01", "2090"]) })),
        1 => {
            let reference = match choices.below(7) {
                0 | 1 => to("Organization", "hf-c"),
                6 => to("Organization", "hf-e"),
                2 => to("Organization", "district"),
                3 => to("Practitioner", "doctor"),
                4 => json!({ "identifier": { "system": "urn:lango:facility", "value": "HF-C" } }),
                _ => to("Organization", "hf-b"),
            };
            let role = if choices.once_in(5) { concept(ROLE, "clinician") } else { concept(PARTICIPATION, "IRCP") };
            ("actor", json!([{ "role": role, "reference": reference }]))
        }
        2 => ("purpose", json!([code(ACT_REASON, choices.one(&["TREAT", "TREAT", "ETREAT", "HPAYMT"]))])),
        3 => (
            "class",
            json!([code(TYPES, choices.one(&["Observation", "Condition", "MedicationRequest", "Encounter", "Patient", "Nothing"]))]),
        ),
        4 => ("code", json!([choices.one(&[concept(LOCAL, "a"), concept(LOCAL, "b"), concept("http://y", "a"), json!({ "text": "a" })])])),
        5 => {
            let labels = [code(CONFIDENTIALITY, "N"), code(CONFIDENTIALITY, "R"), code(ACT_CODE, "HIV"), code(ACT_CODE, "ETH")];
            ("securityLabel", json!([choices.one(&labels)]))
        }
        6 => ("dataPeriod", json!({ "start": choices.one(&DATES[..3]), "end": choices.one(&DATES[3..]) })),
        7 => {
            let meaning = choices.one(&["instance", "related", "dependents", "authoredby"]);
            let (type_name, id) = match choices.below(5) {
                0 => ("Observation", format!("{world}c0")),
                1 => ("Encounter", format!("{world}e{}", choices.below(3))),
                2 => ("Condition", format!("{world}c{}", 1 + 3 * choices.below(3))),
                3 => ("Practitioner", "doctor".to_owned()),
                _ => ("Patient", format!("{world}p{}", choices.below(3))),
            };
            ("data", json!([{ "meaning": meaning, "reference": to(type_name, &id) }]))
        }
        _ => ("action", json!([concept(CONSENT_ACTION, choices.one(&["access", "access", "disclose", "correct"]))])),
    }
}

/// A resource as it is stored.
#[derive(Clone, Debug)]
pub struct Record {
    pub sender: Sender,
    /// Versions, the newest last; `None`: a delete.
    pub versions: Vec<Option<Value>>,
}

impl Record {
    pub fn body(&self) -> Option<&Value> {
        self.versions.last().and_then(Option::as_ref)
    }
}

/// The Patients (`Patient/id`) that a Consent covers.
#[derive(Clone, Debug)]
pub struct Covers {
    /// What it denies.
    pub all: BTreeSet<String>,
    /// What it permits.
    pub agreeing: BTreeSet<String>,
}

/// What the asker may see, read slowly.
pub struct Reader<'a> {
    pub base: &'a str,
    pub requester: Requester,
    /// All that were written, each with whom it covers.
    pub consents: Vec<(Consent, Covers)>,
    /// What Encounters (`Encounter/id`) hand on to what names them.
    pub encounters: BTreeMap<String, BTreeSet<Coding>>,
}

/// The labels of Encounters, also of those that were deleted, but for levels that are no more than normal.
pub fn encounters(records: &BTreeMap<String, Record>) -> BTreeMap<String, BTreeSet<Coding>> {
    let handed = |record: &Record| {
        let labels = record.versions.iter().rev().flatten().next().map(consent::security).unwrap_or_default();
        labels.into_iter().filter(|label| label.system != CONFIDENTIALITY || matches!(&*label.code, "R" | "V")).collect()
    };
    let encounters = records.iter().filter(|(name, _)| name.starts_with("Encounter/"));
    encounters.map(|(name, record)| (name.clone(), handed(record))).collect()
}

/// The requester that the asker's client is for these purposes.
pub fn asker(asker: Asker, purposes: &[&str]) -> Requester {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let now = jiff::Timestamp::now().as_microsecond();
    if purposes.is_empty() {
        return Requester::unknown(now);
    }
    let alone = Requester { purposes: purposes.iter().map(|purpose| Coding::purpose(purpose)).collect(), ..Requester::unknown(now) };
    if asker == Asker::Stranger {
        return Requester {
            organisations: names(&["urn:lango:facility|HF-E", "Organization/hf-e"]),
            devices: names(&["urn:lango:client|stranger"]),
            aliases: names(&[SOMEBODY]),
            roles: [Coding::role("facility")].into(),
            ..alone
        };
    }
    Requester {
        organisations: names(&["urn:lango:facility|HF-C", "Organization/hf-c", "Organization/district", "urn:lango:facility|D-1"]),
        people: names(&["urn:lango:practitioner|MCT-1", "Practitioner/doctor"]),
        devices: names(&["urn:lango:client|asker"]),
        roles: ["facility", "clinician"].map(Coding::role).into(),
        ..alone
    }
}

/// Reads a stored Consent that stood in `former` places before, when `records` (by `Type/id`) were `then` as it was written, and are as they are.
pub fn read_consent(
    consent: &Value,
    base: &str,
    then: &BTreeMap<String, Record>,
    records: &BTreeMap<String, Record>,
    former: &[Place],
) -> Consent {
    let references = |records: &BTreeMap<String, Record>, name: &str| -> BTreeSet<String> {
        let body = records.get(name).and_then(Record::body);
        body.map(|body| consent::facts(body, &jiff::tz::TimeZone::UTC, base).references).unwrap_or_default()
    };
    let references_of = |name: &str| -> Vec<Reached> {
        let (before, now) = (references(then, name), references(records, name));
        let sender = then.get(name).map(|record| record.sender);
        let is_theirs = |other: &String| then.get(other).is_some_and(|other| other.body().is_some() && Some(other.sender) == sender);
        let follows = |other: &String| before.contains(other) && now.contains(other) && is_theirs(other);
        before.union(&now).map(|other| Reached { name: other.clone(), follows: follows(other) }).collect()
    };
    let reading = Reading {
        zone: &jiff::tz::TimeZone::UTC,
        base,
        value_set: &|_| None,
        references_of: &references_of,
        called: &|_| Some(Vec::new()),
        organisation: &|names| names.into_iter().collect(),
        former,
        recorded: parse_interval(consent["meta"]["lastUpdated"].as_str().unwrap(), &jiff::tz::TimeZone::UTC).unwrap().low,
        of_age: None,
    };
    Consent::read(consent, &reading).expect("a small Consent")
}

impl Reader<'_> {
    /// Whether the asker may see this content of a record.
    pub fn shows(&self, sender: Sender, body: &Value) -> bool {
        if sender == Sender::C {
            return true;
        }
        let type_name = body["resourceType"].as_str().unwrap();
        let is_patient = |target: &Value| target["reference"].as_str().is_some_and(|name| name.starts_with("Patient/"));
        if matches!(type_name, "Group" | "Binary")
            || type_name == "Provenance" && !body["target"].as_array().is_some_and(|targets| targets.iter().all(is_patient))
        {
            return false;
        }
        let mut facts = consent::facts(body, &jiff::tz::TimeZone::UTC, self.base);
        let came_in = facts.references.iter().filter_map(|name| self.encounters.get(name));
        let inherited: Vec<Coding> = came_in.flatten().cloned().collect();
        facts.labels.extend(inherited);
        let mut patients: BTreeSet<&String> = facts.references.iter().filter(|name| name.starts_with("Patient/")).collect();
        let own = facts.name.as_ref().filter(|_| type_name == "Patient");
        patients.extend(own);
        let (1, Some(patient)) = (patients.len(), patients.first()) else { return false };
        let all: Vec<Consent> = self.consents.iter().map(|(consent, _)| consent.clone()).collect();
        let of_patient = |consent: &Consent| -> Option<Consent> {
            let (_, covers) = self.consents.iter().find(|(one, _)| one.version.id == consent.version.id)?;
            let permits_until = if covers.agreeing.contains(*patient) { consent.permits_until } else { i64::MIN };
            covers.all.contains(*patient).then(|| Consent { permits_until, places: Vec::new(), ..consent.clone() })
        };
        let consents: Vec<Consent> = consent::in_force(&all).iter().filter_map(|consent| of_patient(consent)).collect();
        consent::decide(&consents, &self.requester, &facts, &Deployment::default()).released
    }

    /// Whether the asker may see the record as it is now.
    pub fn shows_now(&self, record: &Record) -> bool {
        record.body().is_some_and(|body| self.shows(record.sender, body))
    }
}

/// Whom a Consent for this Patient covers: who shares its strong identifier; and of them, of whom sex and names say the same.
pub fn person(records: &BTreeMap<String, Record>, patient: &str) -> Covers {
    let strong = |record: &Record| -> Option<String> {
        let identifiers = record.body()?["identifier"].as_array()?;
        identifiers.iter().find(|one| one["system"] == NIDA)?["value"].as_str().map(str::to_owned)
    };
    let itself = BTreeSet::from([patient.to_owned()]);
    let mut person = Covers { all: itself.clone(), agreeing: itself };
    let Some(own) = records.get(patient).and_then(strong) else { return person };
    let patients = records.iter().filter(|(name, _)| name.starts_with("Patient/"));
    let says = |record: &Record| record.body().map(|body| (body["gender"].clone(), body["name"].clone()));
    for (name, record) in patients.filter(|(_, record)| strong(record).as_ref() == Some(&own)) {
        person.all.insert(name.clone());
        if says(record) == says(&records[patient]) {
            person.agreeing.insert(name.clone());
        }
    }
    person
}
