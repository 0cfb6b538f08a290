//! Whether a guardian gave a `Consent`, and not the patient: what a guardian permits ends when the patient is of age.
//!
//! It is the patient's own when one of its performers is the Patient that it names. Else it is a guardian's as soon as one performer may be somebody's relative
//! or another Patient, as a mother is who is treated here herself: what somebody is who is named without saying so cannot be told, and that closes.

use super::facts::items;
use super::read::names_of;
use crate::fhir::reference::{Reference, is_type_name};
use serde_json::Value;
use std::collections::BTreeSet;

/// Whose consent is nobody's but the patient's: they record it.
const RECORDERS: [&str; 3] = ["Organization", "Practitioner", "PractitionerRole"];

/// Whether a guardian gave the `Consent`, and not the patient.
pub fn is_guardians(resource: &Value, base: &str) -> bool {
    let patient = resource.get("patient").map(|patient| names_of(patient, base)).unwrap_or_default();
    let performers: Vec<(BTreeSet<String>, bool)> = items(resource.get("performer"))
        .map(|performer| (types(performer, resource, base), names_of(performer, base).iter().any(|name| patient.contains(name))))
        .collect();
    let is_patient = |types: &BTreeSet<String>| types.iter().all(|name| name == "Patient");
    let is_recorder = |types: &BTreeSet<String>| !types.is_empty() && types.iter().all(|name| RECORDERS.contains(&name.as_str()));
    let is_own = performers.iter().any(|(types, same)| *same && is_patient(types));
    !is_own && performers.iter().any(|(types, _)| !is_recorder(types))
}

/// The types that a `Reference` of `resource` says its target is of, which should be one.
fn types(reference: &Value, resource: &Value, base: &str) -> BTreeSet<String> {
    let text = |key: &str| reference.get(key).and_then(Value::as_str);
    let said = text("type").map(|said| said.rsplit('/').next().unwrap_or(said).to_owned());
    let written = text("reference").and_then(|text| match Reference::parse_at(text, base)? {
        Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. } => Some(type_name.to_owned()),
        Reference::Contained(id) => {
            let contained = items(resource.get("contained")).find(|one| one.get("id").and_then(Value::as_str) == Some(id));
            Some(contained?.get("resourceType")?.as_str()?.to_owned())
        }
        // `…/RelatedPerson/1`, `…/RelatedPerson/1/_history/2`
        Reference::Absolute(url) => url.split('/').rev().find(|part| is_type_name(part)).map(str::to_owned),
        Reference::Urn(_) => None,
    });
    said.into_iter().chain(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoever_may_be_a_relative_is_a_guardian_and_the_patient_is_not() {
        let number = json!({ "system": "urn:n", "value": "1" });
        let urn = "urn:uuid:11111111-1111-4111-8111-111111111111";
        for (performers, expected) in [
            (json!([]), false),
            (json!([{ "reference": "Patient/p" }]), false),
            (json!([{ "reference": "RelatedPerson/m" }, { "reference": "https://here/fhir/Patient/p/_history/2" }]), false),
            (json!([{ "type": "Patient", "identifier": number }]), false),
            (json!([{ "reference": "Practitioner/y" }, { "type": "Organization", "identifier": number }]), false),
            (json!([{ "reference": "RelatedPerson/m" }]), true),
            (json!([{ "reference": "RelatedPerson/m/_history/1" }]), true),
            (json!([{ "reference": "#m" }]), true),
            (json!([{ "reference": "#nobody" }]), true),
            (json!([{ "type": "RelatedPerson", "identifier": number }]), true),
            (json!([{ "type": "http://hl7.org/fhir/StructureDefinition/RelatedPerson", "identifier": { "value": "2" } }]), true),
            (json!([{ "reference": "https://other/fhir/RelatedPerson/1" }]), true),
            (json!([{ "type": "RelatedPerson", "display": "Mother" }]), true),
            (json!([{ "display": "Mother" }]), true),
            (json!([{ "reference": urn, "type": "RelatedPerson" }]), true),
            (json!([{ "reference": urn }]), true),
            (json!([{ "identifier": { "system": "urn:n", "value": "2" } }]), true),
            (json!([{ "reference": "RelatedPerson/m" }, { "reference": "Patient/other" }]), true),
            (json!([{ "reference": "Patient/other" }]), true),
            (json!([{ "reference": "https://other/fhir/Patient/p" }]), true),
            (json!([{ "reference": "Patient/p", "type": "RelatedPerson" }]), true),
            (json!([{ "reference": "Practitioner/y" }, { "reference": "RelatedPerson/m" }]), true),
        ] {
            let consent = json!({ "resourceType": "Consent", "patient": { "reference": "Patient/p", "identifier": number },
                "contained": [{ "resourceType": "RelatedPerson", "id": "m" }], "performer": performers });
            assert_eq!(is_guardians(&consent, "https://here/fhir"), expected, "{performers}");
        }
    }
}
