//! An event as an AuditEvent, in the manner of IHE BALP (<https://profiles.ihe.net/ITI/BALP/content.html>).
//!
//! A profile is claimed where the event is what the profile speaks of: one resource read, created, updated or deleted, a search, a
//! decision by consent; [`super::disclosure`] makes what left under consent of the decision. A change of many resources at once is one event that names them all, and claims none.

use super::{Action, Event, Told};
use crate::fhir::time::{Micros, format_instant};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub(super) const PROFILE: &str = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.";
pub(super) const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
pub(super) const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
pub(super) const ENTITY_ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
pub(super) const RESOURCE_TYPES: &str = "http://hl7.org/fhir/resource-types";
const BALP: &str = "https://profiles.ihe.net/ITI/BALP/CodeSystem/";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";

/// Identifier system of clients.
pub const CLIENT_SYSTEM: &str = "urn:lango:client";

/// How the deployment calls things.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// The FHIR base.
    pub base: String,
    /// Code of the operator's organisation.
    pub site: String,
    pub facility_system: String,
    pub practitioner_system: String,
}

/// The AuditEvent of what was told at `at`. `patient`: the id of the Patient that it is about. `consents`: name the Consents also where the event is not
/// the decision itself; callers must not see which they are.
pub fn audit_event(at: Micros, told: &Told, patient: Option<&str>, naming: &Naming, consents: bool) -> Value {
    let event = &told.event;
    let is_decision = event.interaction == Event::DECISION;
    let mut resource = json!({ "resourceType": "AuditEvent", "id": told.id });
    if let Some(profile) = profile(event, patient.is_some()) {
        resource["meta"] = json!({ "profile": [format!("{PROFILE}{profile}")] });
    }
    resource["type"] = match is_decision {
        true => coding(DCM, "110113", "Security Alert"),
        false => coding("http://terminology.hl7.org/CodeSystem/audit-event-type", "rest", "RESTful Operation"),
    };
    resource["subtype"] = match is_decision {
        true => json!([coding(&format!("{BALP}AuthZsubType"), "AuthZ-Consent", "Authorization Decision using Roles and Consent")]),
        false => json!([{ "system": "http://hl7.org/fhir/restful-interaction", "code": event.interaction }]),
    };
    resource["action"] = event.action.code().into();
    resource["recorded"] = format_instant(at).into();
    resource["outcome"] = event.outcome().into();
    if let Some(words) = outcome_words(event, is_decision) {
        resource["outcomeDesc"] = words.into();
    }
    let purposes = purposes(event);
    if !purposes.is_empty() {
        resource["purposeOfEvent"] = purposes.clone().into();
    }
    resource["agent"] = agents(event, &purposes, naming, is_decision).into();
    resource["source"] = match is_decision {
        true => source(naming, "6", "Security Server"),
        false => source(naming, "4", "Application Server"),
    };
    let entities = entities(event, patient, is_decision, consents || is_decision);
    if !entities.is_empty() {
        resource["entity"] = entities.into();
    }
    resource
}

fn profile(event: &Event, patient: bool) -> Option<&'static str> {
    let single = event.what.len() == 1 && event.more == 0;
    let of = |with: &'static str, without: &'static str| Some(if patient { with } else { without });
    match (event.interaction.as_str(), event.outcome()) {
        // It asks for the user, who is named in a token as `subject_id` or by a login, and for the user's organisation.
        (Event::DECISION, _) if patient && !event.consents.is_empty() && event.agent.is_somebody() => Some("AuthZconsent"),
        (Event::DECISION, _) => None,
        (_, outcome) if outcome != "0" => None,
        ("create", _) if single => of("PatientCreate", "Create"),
        ("read" | "vread", _) if single => of("PatientRead", "Read"),
        ("update" | "patch", _) if single => of("PatientUpdate", "Update"),
        ("delete", _) if single => of("PatientDelete", "Delete"),
        ("search-type" | "search-system", _) => of("PatientQuery", "Query"),
        _ => None,
    }
}

fn outcome_words(event: &Event, is_decision: bool) -> Option<String> {
    if !is_decision {
        let nothing = event.interaction == "delete" && event.action == Action::Execute;
        return match event.status {
            0..=399 => nothing.then(|| "Nothing was deleted: to the caller there was nothing.".to_owned()),
            status => Some(format!("HTTP status {status}")),
        };
    }
    let words = match (event.status < 400, event.emergency, event.consents.is_empty()) {
        (true, true, _) => "Permitted: the glass was broken.",
        (true, false, false) => "Permitted by consent.",
        (true, false, true) => "Permitted by the deployment's policy.",
        (false, ..) => "Denied: nothing permits it. To the caller it does not exist.",
    };
    Some(words.to_owned())
}

fn agents(event: &Event, purposes: &[Value], naming: &Naming, is_decision: bool) -> Vec<Value> {
    let agent = &event.agent;
    // In a read the data flows to the client; in a query and a write what is said flows from it.
    let (client_role, server_role) = match event.action {
        Action::Read => (("110152", "Destination Role ID"), ("110153", "Source Role ID")),
        _ => (("110153", "Source Role ID"), ("110152", "Destination Role ID")),
    };
    let client_type = if is_decision { ("110150", "Application") } else { client_role };
    let mut client = json!({ "type": { "coding": [coding(DCM, client_type.0, client_type.1)] } });
    client["who"] = match &agent.client {
        Some(id) => json!({ "identifier": { "system": CLIENT_SYSTEM, "value": id } }),
        None if agent.lango => server(naming),
        None => json!({ "display": "not logged in" }),
    };
    client["requestor"] = (!agent.is_person()).into();
    if let Some(token) = &agent.token {
        client["policy"] = json!([format!("urn:ietf:params:oauth:jti:{token}")]);
    }
    if let Some(address) = &agent.address {
        client["network"] = json!({ "address": address, "type": "2" });
    }
    let mut agents = vec![client];
    let server_type = match is_decision {
        true => coding("http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver", "authorization server"),
        false => coding(DCM, server_role.0, server_role.1),
    };
    let mut own = json!({ "type": { "coding": [server_type] }, "who": server(naming), "requestor": false });
    if !is_decision {
        own["network"] = json!({ "address": naming.base, "type": "5" });
    }
    agents.push(own);
    agents.extend(user(event, purposes, naming));
    agents.extend(organisation(event, purposes, naming));
    agents
}

/// The person who acted.
pub(super) fn user(event: &Event, purposes: &[Value], naming: &Naming) -> Option<Value> {
    let agent = &event.agent;
    let person = agent.practitioner.as_ref().map(|value| (naming.practitioner_system.as_str(), value));
    let (system, value) = person.or(agent.person.as_ref().map(|value| ("urn:lango:user", value)))?;
    let kind = match event.action {
        Action::Create | Action::Update => ("AUT", "author (originator)"),
        _ => ("IRCP", "information recipient"),
    };
    let mut user = json!({
        "type": { "coding": [coding("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", kind.0, kind.1)] },
    });
    if !agent.roles.is_empty() {
        let roles = agent.roles.iter().map(|role| json!({ "coding": [{ "system": "urn:lango:role", "code": role }] }));
        user["role"] = roles.collect::<Vec<_>>().into();
    }
    user["who"] = json!({ "identifier": { "system": system, "value": value } });
    user["requestor"] = true.into();
    if !purposes.is_empty() {
        user["purposeOfUse"] = purposes.to_vec().into();
    }
    Some(user)
}

/// The facility that the client acted for.
pub(super) fn organisation(event: &Event, purposes: &[Value], naming: &Naming) -> Option<Value> {
    let code = event.agent.facility.as_ref()?;
    let mut organisation = json!({
        "type": { "coding": [coding("http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV", "healthcare provider")] },
        "who": { "identifier": { "system": naming.facility_system, "value": code } },
        "requestor": false,
    });
    if !purposes.is_empty() {
        organisation["purposeOfUse"] = purposes.to_vec().into();
    }
    Some(organisation)
}

/// Why, as it was signed.
pub(super) fn purposes(event: &Event) -> Vec<Value> {
    event.agent.purposes.iter().map(|purpose| json!({ "coding": [purpose_coding(purpose)] })).collect()
}

/// lango, as what it saw the event.
pub(super) fn source(naming: &Naming, code: &str, display: &str) -> Value {
    let kind = coding("http://terminology.hl7.org/CodeSystem/security-source-type", code, display);
    json!({ "site": naming.site, "observer": server(naming), "type": [kind] })
}

fn entities(event: &Event, patient: Option<&str>, is_decision: bool, consents: bool) -> Vec<Value> {
    let mut entities = Vec::new();
    if let Some(id) = patient {
        entities.push(json!({
            "what": { "reference": format!("Patient/{id}") },
            "type": coding(ENTITY_TYPE, "1", "Person"),
            "role": coding(ENTITY_ROLE, "1", "Patient"),
        }));
    }
    let is_query = event.action == Action::Execute || event.status >= 400;
    for what in &event.what {
        // Of a query, only the query itself is a system object in BALP.
        let kind = match is_query {
            true => {
                let type_name = what.split('/').next().unwrap_or_default();
                coding(RESOURCE_TYPES, type_name, type_name)
            }
            false => coding(ENTITY_TYPE, "2", "System Object"),
        };
        entities.push(json!({ "what": { "reference": what }, "type": kind, "role": coding(ENTITY_ROLE, "4", "Domain Resource") }));
    }
    if event.more > 0 {
        entities.push(json!({ "name": "more", "description": format!("{} more resources", event.more) }));
    }
    if is_query && !is_decision && !event.request.is_empty() {
        entities.push(json!({
            "type": coding(ENTITY_TYPE, "2", "System Object"),
            "role": coding(ENTITY_ROLE, "24", "Query"),
            "query": STANDARD.encode(&event.request),
        }));
    }
    for consent in event.consents.iter().filter(|_| consents) {
        entities.push(json!({ "what": { "reference": consent }, "type": coding(RESOURCE_TYPES, "Consent", "Consent") }));
    }
    if let Some(token) = event.agent.token.as_ref().filter(|_| is_decision) {
        entities.push(json!({
            "what": { "identifier": { "value": format!("urn:ietf:params:oauth:jti:{token}") } },
            "type": { "system": format!("{BALP}UserAgentTypes"), "code": "UserOauthAgent" },
        }));
    }
    if let Some(id) = &event.request_id {
        entities.push(json!({
            "what": { "identifier": { "value": id } },
            "type": { "system": format!("{BALP}BasicAuditEntityType"), "code": "XrequestId" },
        }));
    }
    if let Some(reason) = event.agent.reason.as_ref().filter(|_| event.emergency) {
        entities.push(json!({ "name": "reason", "description": reason }));
    }
    entities
}

pub(super) fn server(naming: &Naming) -> Value {
    json!({ "type": "Device", "identifier": { "system": "urn:ietf:rfc:3986", "value": naming.base }, "display": "lango" })
}

pub(super) fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

fn purpose_coding(purpose: &str) -> Value {
    let (system, code) = purpose.split_once('|').unwrap_or((ACT_REASON, purpose));
    let mut coding = Map::new();
    coding.insert("system".to_owned(), system.into());
    coding.insert("code".to_owned(), code.into());
    Value::Object(coding)
}
