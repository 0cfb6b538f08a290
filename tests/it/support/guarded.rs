//! A server under `--auth smart` that is asked with tokens, and the records that tests put there.

use super::server::{TestServer, answer};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A world whose server is asked with tokens.
pub trait Guarded {
    fn server(&self) -> &TestServer;

    /// Status and body of a request with FHIR's JSON.
    async fn send(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.server().client.request(method.parse().unwrap(), self.server().url(path)).bearer_auth(token);
        answer(request.header("content-type", "application/fhir+json").body(body.to_string())).await
    }

    async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        answer(self.server().client.get(self.server().url(path)).bearer_auth(token)).await
    }

    /// Stores a resource under the id that it has.
    async fn put(&self, token: &str, body: &Value) {
        let (status, answer) = self.send(token, "PUT", &path_of(body), body).await;
        assert!(matches!(status, 200 | 201), "{}: {answer}", path_of(body));
    }
}

/// Where a resource lives.
pub fn path_of(body: &Value) -> String {
    format!("/fhir/{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap())
}

/// A facility of this code.
pub fn organization(id: &str, code: &str, parent: Option<&str>) -> Value {
    let mut organization = json!({
        "resourceType": "Organization", "id": id, "active": true, "name": code,
        "identifier": [{ "system": "urn:lango:facility", "value": code }],
    });
    if let Some(parent) = parent {
        organization["partOf"] = json!({ "reference": format!("Organization/{parent}") });
    }
    organization
}

/// The visit that [`observation`] names.
pub fn encounter(patient: &str) -> Value {
    json!({
        "resourceType": "Encounter", "id": format!("{patient}-visit"), "status": "finished",
        "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" },
        "subject": { "reference": format!("Patient/{patient}") }, "period": { "start": "2026-03-05", "end": "2026-03-05" },
    })
}

/// A result with a LOINC code, of the patient's visit.
pub fn observation(id: &str, patient: &str, code: &str, date: &str, label: Option<&str>) -> Value {
    let mut observation = json!({
        "resourceType": "Observation", "id": id, "status": "final",
        "code": { "coding": [{ "system": "http://loinc.org", "code": code }] },
        "subject": { "reference": format!("Patient/{patient}") }, "encounter": { "reference": format!("Encounter/{patient}-visit") },
        "effectiveDateTime": date, "valueString": "x",
    });
    if let Some(label) = label {
        observation["meta"] = json!({ "security": sensitivity(label) });
    }
    observation
}

pub fn consent(id: &str, patient: &str, provision: Value) -> Value {
    json!({
        "resourceType": "Consent", "id": id, "status": "active",
        "scope": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy" }] },
        "category": [{ "coding": [{ "system": "http://loinc.org", "code": "59284-0" }] }],
        "patient": { "reference": format!("Patient/{patient}") }, "dateTime": "2026-01-01",
        "policy": [{ "uri": "https://hie.example.org/policy" }],
        "provision": provision,
    })
}

/// The actors of a rule about this organization as the recipient.
pub fn to(organization: &str) -> Value {
    let role = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] });
    json!([{ "role": role, "reference": { "reference": organization } }])
}

pub fn purpose(code: &str) -> Value {
    json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code }])
}

/// The labels with this sensitivity alone.
pub fn sensitivity(code: &str) -> Value {
    json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }])
}

/// A permit to the organization of all but what has this sensitivity.
pub fn permit_except(organization: &str, sensitive: &str) -> Value {
    let exception = json!({ "type": "deny", "securityLabel": sensitivity(sensitive) });
    json!({ "type": "permit", "actor": to(organization), "purpose": purpose("TREAT"), "provision": [exception] })
}

pub fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}
