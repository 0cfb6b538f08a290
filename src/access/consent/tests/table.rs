//! The decision table: each criterion, in a permit and in a deny, as a named row.

use super::super::*;
use jiff::tz::TimeZone;
use serde_json::json;

#[test]
fn a_consent_in_force_permits_whom_it_names_and_nobody_else() {
    let consent = json!({"resourceType": "Consent", "id": "1", "meta": {"versionId": "3"}, "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "patient": {"reference": "Patient/p"},
        "provision": {"type": "permit", "actor": [{
            "role": {"coding": [{"system": vocabulary::PARTICIPATION_TYPE, "code": "IRCP"}]},
            "reference": {"identifier": {"system": "urn:lango:facility", "value": "B"}}}]}});
    let reading =
        Reading { zone: &TimeZone::UTC, base: "http://lango", value_set: &|_| None, references_of: &|_| Vec::new(), of_age: None };
    let consents = [Consent::read(&consent, &reading).unwrap()];
    let resource = facts(&json!({"resourceType": "Observation", "id": "o"}), &TimeZone::UTC, "http://lango");
    let requester = |facility: &str| Requester {
        organisations: [format!("urn:lango:facility|{facility}")].into(),
        purposes: [vocabulary::Coding::purpose("TREAT")].into(),
        ..Requester::unknown(0)
    };
    let deployment = Deployment::default();
    assert_eq!(decide(&consents, &requester("B"), &resource, &deployment).outcome, Outcome::Permit);
    assert_eq!(decide(&consents, &requester("C"), &resource, &deployment).outcome, Outcome::NoConsent);
    let compiled: Vec<Compiled> = in_force(&consents).into_iter().map(compile).collect();
    assert!(evaluate_rules(&compiled, &requester("B"), &resource, &deployment).released);
    assert!(!evaluate_rules(&compiled, &requester("C"), &resource, &deployment).released);
}
