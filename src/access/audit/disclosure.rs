//! What left under a consent, as what IHE BALP calls a privacy disclosure: of each decision that permitted something, one for each facility
//! whose data it was, the custodian.
//!
//! It is made of the row of the decision, which says whose the resources are ([`Shown::holders`](super::Shown::holders)), so no request waits for it.

use super::checkpoint::hex;
use super::resource::{
    CLIENT_SYSTEM, DCM, ENTITY_ROLE, ENTITY_TYPE, Naming, PROFILE, RESOURCE_TYPES, coding, organisation, purposes, server, source, user,
};
use super::{Event, Holding, Told};
use crate::fhir::time::{Micros, format_instant};
use serde_json::{Value, json};

const SNOMED: &str = "http://snomed.info/sct";
pub(super) const CUSTODIAN: &str = "159541003";

/// The disclosures of a decision that permitted something: `holders` says whose its resources are.
pub fn disclosures(decision: &Told, holders: &[Holding]) -> Vec<Told> {
    let mut what = decision.event.what.iter();
    let of = |Holding { owner, resources }: &Holding| {
        let digest = blake3::hash(format!("disclosure {owner} {}", decision.id).as_bytes());
        let id = hex(digest.as_bytes().get(..16).unwrap_or_default());
        let what = what.by_ref().take(*resources).cloned().collect();
        Told { id, event: Event { what, more: 0, ..decision.event.clone() }, custodian: Some(*owner), ..decision.clone() }
    };
    holders.iter().map(of).collect()
}

/// Its AuditEvent. `patient`: the id of the Patient. `custodian`: the facility's code.
pub fn audit_event(at: Micros, disclosure: &Told, patient: &str, custodian: &str, naming: &Naming) -> Value {
    let event = &disclosure.event;
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
            "type": { "coding": [coding(SNOMED, CUSTODIAN, "Record keeping/library clerk")] },
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
    let data = |what: &String| json!({ "what": { "reference": what }, "type": coding(ENTITY_TYPE, "2", "System Object"), "role": coding(ENTITY_ROLE, "4", "Domain Resource") });
    entities.extend(event.what.iter().map(data));
    let consent = |consent: &String| json!({ "what": { "reference": consent }, "type": coding(RESOURCE_TYPES, "Consent", "Consent") });
    entities.extend(event.consents.iter().map(consent));
    let mut resource = json!({ "resourceType": "AuditEvent", "id": disclosure.id });
    // It asks for the recipient's address, and for data beside the patient.
    if agent.address.is_some() && !event.what.is_empty() {
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
