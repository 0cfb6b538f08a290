//! Labels on arrival, with the value sets that are shipped.

use super::super::vocabulary::Coding;
use super::super::*;
use crate::terminology::Terminology;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn added(terminology: &Terminology, resource: &Value) -> Vec<String> {
    let members = |set: &str| Some(terminology.members(set)?.iter().map(|member| Coding::new(&member.system, &member.code)).collect());
    let sensitive = Sensitive::new(members);
    assert!(sensitive.unreadable.is_empty());
    labels_on_arrival(resource, &BTreeSet::new(), &sensitive).into_iter().map(|label| label.code).collect()
}

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

#[test]
fn what_gives_a_sensitive_matter_away_is_labelled() {
    let (icd, loinc, atc) = ("http://hl7.org/fhir/sid/icd-10", "http://loinc.org", "http://www.whocc.no/atc");
    let terminology = Terminology::with_shipped();
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"resourceType": "Condition", "code": concept(icd, "B20")}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "B20.1")}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "Z21")}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "F32.1")}), &["PSY", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "F10.2")}), &["ETH", "ETHUD", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "F11.2")}), &["ETH", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "T74.1")}), &["SDV", "R"]),
        (json!({"resourceType": "Condition", "code": concept(icd, "B50.9")}), &[]),
        (json!({"resourceType": "Condition", "code": {"text": "Suspected HIV, to be tested"}}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": {"text": "needs hearing aids"}}), &[]),
        (json!({"resourceType": "Condition", "code": concept("http://other", "B20")}), &[]),
        (json!({"resourceType": "Encounter", "reasonCode": [concept(icd, "Y05")]}), &["SDV", "R"]),
        (json!({"resourceType": "Encounter", "type": [{"text": "ARV refill"}]}), &["HIV", "R"]),
        (json!({"resourceType": "Encounter", "type": [concept(icd, "Z00")]}), &[]),
        (
            json!({"resourceType": "Observation", "code": concept(loinc, "75622-1"), "valueCodeableConcept": {"text": "negative"}}),
            &["HIV", "R"],
        ),
        (json!({"resourceType": "Observation", "code": concept(loinc, "8867-4")}), &[]),
        (json!({"resourceType": "Procedure", "code": concept(icd, "Z71.7")}), &["HIV", "R"]),
        (json!({"resourceType": "MedicationRequest", "medicationCodeableConcept": concept(atc, "J05AR10")}), &["HIV", "R"]),
        (
            json!({"resourceType": "MedicationStatement", "medicationCodeableConcept": {"text": "Tenofovir/Lamivudine/Dolutegravir 300/300/50"}}),
            &["HIV", "R"],
        ),
        (json!({"resourceType": "MedicationDispense", "medicationReference": {"display": "Haloperidol 5 mg"}}), &["PSY", "R"]),
        (
            json!({"resourceType": "MedicationAdministration", "contained": [{"resourceType": "Medication", "code": concept(atc, "N07BC02")}]}),
            &["ETH", "R"],
        ),
        (json!({"resourceType": "MedicationRequest", "medicationCodeableConcept": concept(atc, "J01CA04")}), &[]),
        (json!({"resourceType": "ServiceRequest", "code": concept(loinc, "25836-8")}), &["HIV", "R"]),
        (json!({"resourceType": "Measure", "topic": [concept(icd, "B20")]}), &[]),
        (json!({"resourceType": "Condition", "code": concept("http://hl7.org/fhir/sid/icd-10-cm", "B20")}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": {"coding": [{"code": "b20.1"}]}}), &["HIV", "R"]),
        (json!({"resourceType": "Condition", "code": {"text": "Domestic violence"}}), &["SDV", "R"]),
        (json!({"resourceType": "Observation", "valueString": "HIV reactive"}), &["HIV", "R"]),
        (json!({"resourceType": "Observation", "valueQuantity": {"value": 1, "code": "B20"}}), &[]),
        (json!({"resourceType": "Patient", "name": [{"family": "Rape"}]}), &[]),
        (json!({"resourceType": "Observation", "performer": [{"reference": "Practitioner/1", "display": "Dr Mary Bangi"}]}), &[]),
        (
            json!({"resourceType": "Observation", "performer": [{"reference": "https://a.org/fhir/PractitionerRole/1/_history/2", "display": "Mary Bangi"}]}),
            &[],
        ),
        (json!({"resourceType": "Observation", "contained": [{"resourceType": "Practitioner", "name": [{"family": "Bangi"}]}]}), &[]),
        (json!({"resourceType": "Encounter", "participant": [{"individual": {"type": "Practitioner", "display": "Dr Bangi"}}]}), &[]),
        (json!({"resourceType": "Observation", "performer": [{"reference": "Organization/1", "display": "CTC Mnazi"}]}), &["HIV", "R"]),
        (json!({"resourceType": "Observation", "note": [{"text": "smokes bangi"}]}), &["ETH", "R"]),
        (
            json!({"resourceType": "Observation", "performer": [{"reference": "Practitioner/1", "display": "Mary Bangi, VCT counsellor"}]}),
            &["HIV", "R"],
        ),
        (json!({"resourceType": "Observation", "note": [{"authorString": "psychiatric nurse", "text": "slept well"}]}), &["PSY", "R"]),
        (
            json!({"resourceType": "Observation", "contained": [{"resourceType": "Practitioner", "name": [{"text": "CTC, Mary Bangi"}]}]}),
            &["HIV", "R"],
        ),
        (json!({"resourceType": "Observation", "performer": [{"reference": "Patient/1", "display": "Rape"}]}), &[]),
        (json!({"resourceType": "Observation", "note": [{"authorString": "Mary Bangi", "text": "slept well"}]}), &[]),
        (json!({"resourceType": "Observation", "text": {"div": "<div>HIV</div>"}}), &["HIV", "R"]),
    ];
    for (resource, expected) in cases {
        assert_eq!(added(&terminology, &resource), expected, "{resource}");
    }
}

#[test]
fn labels_are_only_added() {
    let terminology = Terminology::with_shipped();
    let code = concept("http://hl7.org/fhir/sid/icd-10", "B20");
    let labelled = |labels: &[Coding]| {
        let labels: Vec<Value> = labels.iter().map(|label| json!({"system": label.system, "code": label.code})).collect();
        json!({"resourceType": "Condition", "meta": {"security": labels}, "code": code})
    };
    assert_eq!(added(&terminology, &labelled(&[Coding::confidentiality("V")])), ["HIV"], "very restricted stays so");
    assert_eq!(added(&terminology, &labelled(&[Coding::confidentiality("N")])), ["HIV", "R"], "a facility cannot make it normal");
    assert!(added(&terminology, &labelled(&[Coding::confidentiality("R"), Coding::sensitivity("HIV")])).is_empty());
    let plain = json!({"resourceType": "Condition", "meta": {"security": [{"system": vocabulary::ACT_CODE, "code": "STD"}]}});
    assert_eq!(added(&terminology, &plain), ["R"], "a sensitivity is restricted");
}

#[test]
fn a_deployment_edits_the_value_sets() {
    let terminology = Terminology::with_shipped();
    let malaria = json!({"resourceType": "Condition", "code": concept("http://hl7.org/fhir/sid/icd-10", "B50.9")});
    assert!(added(&terminology, &malaria).is_empty());
    terminology.upsert(&json!({"resourceType": "ValueSet", "id": "sensitive-hiv", "url": "https://lango.health/fhir/ValueSet/sensitive-hiv", "version": "1",
        "status": "active", "compose": {"include": [{"system": "http://hl7.org/fhir/sid/icd-10", "concept": [{"code": "B50"}]}]}}));
    assert_eq!(added(&terminology, &malaria), ["HIV", "R"]);
}

#[test]
fn every_value_set_of_sensitive_codes_is_shipped() {
    let terminology = Terminology::with_shipped();
    assert_eq!(Sensitive::new(|_| None).unreadable.len(), SENSITIVE_SETS.len());
    for (set, _) in SENSITIVE_SETS {
        assert!(terminology.members(set).is_some_and(|members| members.len() > 5), "{set}");
    }
}
