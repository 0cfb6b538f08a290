//! What left under a consent, as what IHE BALP calls a privacy disclosure: of each decision that permitted something, one for each facility
//! whose data it was, the custodian.
//!
//! It is made of the row of the decision, which says whose the resources are ([`Event::holders`]), so no request waits for it.

use super::checkpoint::hex;
use super::resource::{
    CLIENT_SYSTEM, DCM, ENTITY_ROLE, ENTITY_TYPE, Naming, PROFILE, RESOURCE_TYPES, coding, organisation, purposes, server, source, user,
};
use super::{Event, Holding, resource};
use crate::fhir::time::{Micros, format_instant};
use crate::store::{FacilityKey, Sealed};
use serde_json::{Value, json};

const SNOMED: &str = "http://snomed.info/sct";

/// What one facility's data was in an answer about one patient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disclosure {
    /// Of its AuditEvent.
    pub id: String,
    pub custodian: FacilityKey,
    pub what: Vec<String>,
}

/// The disclosures of a decision whose AuditEvent has this id; none of a denial.
pub fn disclosures(id: &str, event: &Event) -> Vec<Disclosure> {
    if event.interaction != Event::DECISION || event.status >= 400 {
        return Vec::new();
    }
    let mut what = event.what.iter();
    let of = |Holding { owner, resources }: &Holding| {
        let digest = blake3::hash(format!("disclosure {owner} {id}").as_bytes());
        let id = hex(digest.as_bytes().get(..16).unwrap_or_default());
        Disclosure { id, custodian: *owner, what: what.by_ref().take(*resources).cloned().collect() }
    };
    event.holders.iter().map(of).collect()
}

/// Those of a row.
pub fn disclosures_of(row: &Sealed) -> Vec<Disclosure> {
    // Most rows are none; they are not read for it.
    if !row.event.contains(r#""holders":"#) {
        return Vec::new();
    }
    serde_json::from_str(&row.event).map_or_else(|_| Vec::new(), |event| disclosures(&resource::id(row), &event))
}

/// Its AuditEvent. `patient`: the id of the Patient. `custodian`: the facility's code.
pub fn audit_event(at: Micros, disclosure: &Disclosure, event: &Event, patient: &str, custodian: &str, naming: &Naming) -> Value {
    let agent = &event.agent;
    let why = purposes(event);
    let person = json!({ "reference": format!("Patient/{patient}") });
    let mut recipient = json!({
        "type": { "coding": [coding(DCM, "110152", "Destination Role ID")] },
        "who": { "identifier": { "system": CLIENT_SYSTEM, "value": agent.client } },
        "requestor": !agent.is_person(),
    });
    if let Some(token) = &agent.token {
        recipient["policy"] = json!([format!("urn:ietf:params:oauth:jti:{token}")]);
    }
    if let Some(address) = &agent.address {
        recipient["network"] = json!({ "address": address, "type": "2" });
    }
    let mut agents = vec![
        json!({
            "type": { "coding": [coding(DCM, "110153", "Source Role ID")] },
            "who": server(naming),
            "requestor": false,
            "network": { "address": naming.base, "type": "5" },
        }),
        recipient,
        json!({
            "type": { "coding": [coding(SNOMED, "159541003", "Record keeping/library clerk")] },
            "who": { "identifier": { "system": naming.facility_system, "value": custodian } },
            "requestor": false,
        }),
    ];
    if !event.consents.is_empty() {
        // Whose Consent it rests on; where a policy or an emergency opened it, nobody gave leave.
        agents.push(json!({ "type": { "coding": [coding(SNOMED, "429577009", "Patient Advocate")] }, "who": person, "requestor": false }));
    }
    agents.extend(user(event, &why, naming));
    agents.extend(organisation(event, &why, naming));
    let mut entities = vec![json!({
        "what": person,
        "type": coding(ENTITY_TYPE, "1", "Person"),
        "role": coding(ENTITY_ROLE, "1", "Patient"),
    })];
    let data = |what: &String| {
        json!({ "what": { "reference": what }, "type": coding(ENTITY_TYPE, "2", "System Object"), "role": coding(ENTITY_ROLE, "4", "Domain Resource") })
    };
    entities.extend(disclosure.what.iter().map(data));
    let consent = |consent: &String| json!({ "what": { "reference": consent }, "type": coding(RESOURCE_TYPES, "Consent", "Consent") });
    entities.extend(event.consents.iter().map(consent));
    let mut resource = json!({ "resourceType": "AuditEvent", "id": disclosure.id });
    // It asks for the recipient's address, and for data beside the patient.
    if agent.address.is_some() && !disclosure.what.is_empty() {
        resource["meta"] = json!({ "profile": [format!("{PROFILE}PrivacyDisclosure.Source")] });
    }
    resource["type"] = coding(DCM, "110106", "Export");
    resource["subtype"] =
        json!([coding("http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle", "disclose", "Disclose Record Lifecycle Event")]);
    resource["action"] = "R".into();
    resource["recorded"] = format_instant(at).into();
    resource["outcome"] = "0".into();
    if !why.is_empty() {
        resource["purposeOfEvent"] = why.into();
    }
    resource["agent"] = agents.into();
    resource["source"] = source(naming, "4", "Application Server");
    resource["entity"] = entities.into();
    resource
}
