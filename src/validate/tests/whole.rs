//! R4's invariants, extensions, contained resources and Bundles, by way of the whole validator.

use super::*;
use flate2::read::GzDecoder;
use std::io::Read;
use std::sync::Arc;

pub(super) fn validator(definitions: &[Value]) -> Validator {
    let profiles = Profiles::new();
    profiles.load(definitions);
    Validator::new(profiles, Arc::new(()), Level::Profile)
}

/// The errors and warnings of a resource that has no narrative, which is not told again here.
fn told(resource: &Value) -> Vec<(Severity, String, String)> {
    let issues = validator(&[]).validate(resource);
    let told = issues.into_iter().filter(|issue| !issue.diagnostics.starts_with("dom-6"));
    told.map(|issue| (issue.severity, issue.expression, issue.diagnostics)).collect()
}

#[track_caller]
fn says(resource: Value, expected: &[(Severity, &str, &str)]) {
    let told = told(&resource);
    let fits = |(severity, path, words): &(Severity, String, String), (s, p, start): &(Severity, &str, &str)| {
        severity == s && path == p && words.starts_with(start)
    };
    assert!(told.len() == expected.len() && told.iter().zip(expected).all(|(a, b)| fits(a, b)), "{told:#?}");
}

#[test]
fn every_invariant_of_r4_is_understood() {
    assert_eq!(super::super::invariants::not_understood(), Vec::<String>::new());
}

#[test]
fn every_pattern_of_r4_is_of_moderate_size() {
    let element =
        json!({ "id": "Patient.x", "path": "Patient.x", "min": 0, "max": "1", "base": { "path": "Patient.x", "min": 0, "max": "1" } });
    let profile = json!({
        "resourceType": "StructureDefinition", "url": "urn:p", "name": "P", "status": "draft", "kind": "resource", "abstract": false, "type": "Patient",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient", "derivation": "constraint", "differential": { "element": [element] },
    });
    let issues = validator(&[]).validate(&profile);
    assert!(issues.iter().all(|issue| !issue.diagnostics.contains("could not be checked")), "{issues:#?}");
}

#[test]
fn what_synthea_makes_is_valid() {
    let validator = validator(&[]);
    let mut files: Vec<_> = std::fs::read_dir("tests/data/synthea-hiv").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "gz")).step_by(7) {
        let mut bytes = Vec::new();
        GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut bytes).unwrap();
        for issue in validator.validate(&parse(&bytes).unwrap()) {
            let words = issue.diagnostics.clone();
            let path: String = issue.expression.chars().filter(|c| !c.is_ascii_digit()).collect();
            *seen.entry(format!("{:?} {path}: {words}", issue.severity)).or_default() += 1;
        }
    }
    let wrong: Vec<_> = seen.iter().filter(|(words, _)| !words.starts_with("Warning")).collect();
    assert!(wrong.is_empty(), "{seen:#?}");
}

#[test]
fn what_r4_calls_examples_is_valid() {
    for text in [PATIENT, OBSERVATION, BUNDLE] {
        let issues = validator(&[]).validate(&example(text));
        assert!(issues.iter().all(|issue| !issue.severity.is_error()), "{issues:#?}");
    }
}

#[test]
fn an_invariant_that_does_not_hold_is_told_with_its_key() {
    let observation = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueString": "y", "dataAbsentReason": {"text": "z"},
    });
    says(observation, &[(Severity::Error, "Observation", "obs-6: ")]);
    let quantity =
        json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueQuantity": {"value": 1, "code": "mg"}});
    says(quantity, &[(Severity::Error, "Observation.value", "qty-3: ")]);
    let contact = json!({"resourceType": "Patient", "contact": [{"gender": "male"}], "telecom": [{"value": "1"}]});
    says(contact, &[(Severity::Error, "Patient.contact[0]", "pat-1: "), (Severity::Error, "Patient.telecom[0]", "cpt-2: ")]);
}

#[test]
fn a_period_ends_after_its_start_as_far_as_it_is_said() {
    let visit = |start: &str, end: &str| json!({"resourceType": "Patient", "name": [{"period": {"start": start, "end": end}}]});
    says(visit("2026-02-03T10:00:00Z", "2026-02-03"), &[]);
    says(visit("2026-02", "2026-02-03"), &[]);
    says(visit("2026-02-04", "2026-02-03"), &[(Severity::Error, "Patient.name[0].period", "per-1")]);
}

#[test]
fn contained_resources_are_used_and_bare() {
    let patient = |contained: Value, organization: &str| json!({"resourceType": "Patient", "contained": [contained], "managingOrganization": {"reference": organization}});
    says(patient(json!({"resourceType": "Organization", "id": "o", "name": "x"}), "#o"), &[]);
    let unused = patient(json!({"resourceType": "Organization", "id": "o", "name": "x"}), "Organization/1");
    says(unused, &[(Severity::Error, "Patient.contained[0]", "dom-3")]);
    let missing = json!({"resourceType": "Patient", "managingOrganization": {"reference": "#o"}});
    says(missing, &[(Severity::Error, "Patient.managingOrganization.reference", "ref-1")]);
    let versioned = patient(json!({"resourceType": "Organization", "id": "o", "name": "x", "meta": {"versionId": "1"}}), "#o");
    says(versioned, &[(Severity::Error, "Patient.contained[0]", "dom-4")]);
    let twice = json!({"resourceType": "Patient", "generalPractitioner": [{"reference": "#o"}], "contained": [
        {"resourceType": "Organization", "id": "o", "name": "x"}, {"resourceType": "Practitioner", "id": "o"}]});
    says(twice, &[(Severity::Error, "Patient.contained[1].id", "must be its own")]);
    let nested = patient(json!({"resourceType": "Organization", "id": "o", "name": "x", "contained": [{"resourceType": "Basic"}]}), "#o");
    assert!(told(&nested).iter().any(|(_, path, words)| path.ends_with("contained[0].contained") && words.contains("must not contain")));
}

#[test]
fn a_narrative_has_something_to_read_or_to_see() {
    let with = |inner: &str| json!({"resourceType": "Patient", "text": {"status": "generated", "div": format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{inner}</div>")}});
    for inner in ["x", "<p>x</p>", "<p/><img src='#a' alt=''/>"] {
        says(with(inner), &[]);
    }
    for inner in ["", " \n", "<p></p><br/>", "<!-- x -->"] {
        says(with(inner), &[(Severity::Error, "Patient.text.div", "txt-2")]);
    }
}

#[test]
fn a_reference_below_the_servers_own_url_is_a_local_one() {
    let validator = validator(&[]).at("http://own.org/fhir");
    let errors = |reference: &str| {
        let resource =
            json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": reference}});
        let issues = validator.validate(&resource);
        issues.into_iter().filter(|issue| issue.severity.is_error()).map(|issue| issue.expression).collect::<Vec<_>>()
    };
    assert_eq!(errors("http://own.org/fhir/Practitioner/1"), ["Observation.subject.reference"]);
    for reference in ["http://own.org/fhir/Patient/1", "http://own.org/fhir/metadata", "http://other.org/fhir/Practitioner/1"] {
        assert_eq!(errors(reference), [""; 0], "{reference}");
    }
}

#[test]
fn known_extensions_keep_to_their_place_and_type() {
    let with = |extension: Value| json!({"resourceType": "Patient", "extension": [extension]});
    const BIRTH_PLACE: &str = "http://hl7.org/fhir/StructureDefinition/patient-birthPlace";
    says(with(json!({"url": BIRTH_PLACE, "valueAddress": {"city": "Mwanza"}})), &[]);
    let wrong = with(json!({"url": BIRTH_PLACE, "valueString": "Mwanza"}));
    says(wrong, &[(Severity::Error, "Patient.extension[0].value", "must be of type Address")]);
    let name =
        json!({"resourceType": "Patient", "name": [{"text": "x", "extension": [{"url": BIRTH_PLACE, "valueAddress": {"city": "x"}}]}]});
    says(name, &[(Severity::Error, "Patient.name[0].extension[0]", "does not belong here")]);
    let own_name = json!({"resourceType": "Patient", "name": [{"family": "x", "_family": {"extension": [{
        "url": "http://hl7.org/fhir/StructureDefinition/humanname-own-name", "valueString": "y"}]}}]});
    says(own_name, &[]);
    says(
        with(json!({"url": "urn:x"})),
        &[(Severity::Warning, "Patient.extension[0]", "is defined by no loaded"), (Severity::Error, "Patient.extension[0]", "ext-1")],
    );
}

/// <https://hl7.org/fhir/R4/defining-extensions.html#context>
#[test]
fn an_extension_stands_where_its_context_says_by_path_by_type_or_by_both() {
    let at = |context: &str, resource: &Value| {
        let definition = json!({
            "resourceType": "StructureDefinition", "id": "x", "url": "urn:e:x", "type": "Extension", "kind": "complex-type", "derivation": "constraint",
            "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Extension", "context": [{"type": "element", "expression": context}],
            "differential": {"element": [{"id": "Extension.value[x]", "path": "Extension.value[x]", "min": 1}]},
        });
        !validator(&[definition]).validate(resource).iter().any(|issue| issue.severity.is_error())
    };
    let x = json!({"extension": [{"url": "urn:e:x", "valueString": "x"}]});
    let mut city = json!({"city": "a"});
    city["_city"] = x.clone();
    let family = json!({"resourceType": "Patient", "name": [{"family": "a", "_family": x}], "contact": [{"name": {"family": "b"}}]});
    let kind = json!({"resourceType": "Patient", "identifier": [{"value": "1", "type": {"text": "a", "extension": x["extension"]}}]});
    let contained = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "#p"},
        "contained": [{"resourceType": "Patient", "id": "p", "address": [city]}],
    });
    let coding = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"},
        "component": [{"code": {"coding": [{"code": "a", "system": "urn:s", "extension": x["extension"]}]}, "valueString": "a"}],
    });
    let unit = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueQuantity": {"value": 1, "unit": "a", "_unit": x},
    });
    let moment = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueDateTime": "2020", "_valueDateTime": x,
    });
    let entry = json!({"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7", "resource": family}]});
    let fitting = [
        (&family, &["Patient.name.family", "HumanName.family", "string", "Element"][..]),
        (&entry, &["Patient.name.family"]),
        (
            &kind,
            &[
                "Patient.identifier.type",
                "Identifier.type",
                "CodeableConcept",
                "http://hl7.org/fhir/StructureDefinition/Patient#Patient.identifier:own.type",
            ],
        ),
        (&contained, &["Patient.address.city"]),
        (&coding, &["Observation.component.code.coding", "Observation.component:a.code.coding", "Coding"]),
        (&unit, &["Observation.value[x].unit", "Quantity.unit"]),
        (&moment, &["dateTime", "Observation.value[x]"]),
    ];
    for (resource, contexts) in fitting {
        for context in contexts {
            assert!(at(context, resource), "{context}: {resource}");
        }
    }
    let elsewhere = [
        (&family, &["Patient.name.given", "Patient.contact.name.family", "Person.name.family", "Patient", "HumanName"][..]),
        (&kind, &["Patient.identifier", "http://hl7.org/fhir/StructureDefinition/Patient#Patient.name"]),
        (&contained, &["Observation.contained.address.city"]),
        // The first type of the choice is another.
        (&moment, &["string", "Quantity"]),
    ];
    for (resource, contexts) in elsewhere {
        for context in contexts {
            assert!(!at(context, resource), "{context}: {resource}");
        }
    }
}

/// What R4's own examples and definitions have, and R4's expressions and contexts forbid.
#[test]
fn what_r4_says_wrongly_refuses_nothing() {
    let questionnaire = |when: Value| {
        let items = json!([
            {"linkId": "a", "type": "boolean"},
            {"linkId": "b", "type": "string", "enableWhen": [when]},
        ]);
        json!({"resourceType": "Questionnaire", "name": "Q", "status": "draft", "item": items})
    };
    says(questionnaire(json!({"question": "a", "operator": "exists", "answerBoolean": true})), &[]);
    says(
        questionnaire(json!({"question": "a", "operator": "exists", "answerString": "x"})),
        &[(Severity::Error, "Questionnaire.item[1].enableWhen[0]", "que-7")],
    );
    let risk = |prediction: Value| json!({"resourceType": "RiskAssessment", "status": "final", "subject": {"reference": "Patient/1"}, "prediction": [prediction]});
    says(risk(json!({"outcome": {"text": "x"}})), &[]);
    says(risk(json!({"probabilityDecimal": 99.5})), &[]);
    says(risk(json!({"probabilityRange": {"low": {"value": 1, "system": "http://unitsofmeasure.org", "code": "%"}}})), &[]);
    says(risk(json!({"probabilityDecimal": 100.5})), &[(Severity::Error, "RiskAssessment.prediction[0]", "ras-2")]);
    let core = "http://hl7.org/fhir/StructureDefinition";
    let kind = json!({
        "code": "http://hl7.org/fhirpath/System.String",
        "extension": [
            {"url": format!("{core}/structuredefinition-fhir-type"), "valueUrl": "string"},
            {"url": format!("{core}/regex"), "valueString": "[a-z]+"},
        ],
    });
    let element = json!({
        "id": "Patient.id", "path": "Patient.id", "type": [kind],
        "extension": [{"url": format!("{core}/structuredefinition-normative-version"), "valueCode": "4.0.0"}],
    });
    let profile = json!({
        "resourceType": "StructureDefinition", "url": "urn:p", "name": "P", "status": "draft", "kind": "resource", "abstract": false, "type": "Patient",
        "baseDefinition": format!("{core}/Patient"), "derivation": "constraint", "differential": {"element": [element]},
    });
    assert!(told(&profile).iter().all(|(severity, ..)| !severity.is_error()), "{:#?}", told(&profile));
}

/// <https://hl7.org/fhir/R4/datatypes.html#SimpleQuantity>
#[test]
fn a_simple_quantity_has_no_comparator() {
    let observation = |more: Value| {
        let mut observation = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}});
        observation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        observation
    };
    let below = json!({"value": 1, "comparator": "<"});
    says(observation(json!({"valueQuantity": below})), &[]);
    says(observation(json!({"valueRange": {"low": below}})), &[(Severity::Error, "Observation.value.low", "sqt-1")]);
    let dose = |dose: Value| {
        json!({"resourceType": "MedicationStatement", "status": "active", "subject": {"reference": "Patient/1"},
        "medicationCodeableConcept": {"text": "x"}, "dosage": [{"doseAndRate": [dose]}]})
    };
    says(dose(json!({"doseRange": {"low": {"value": 1}}})), &[]);
    says(dose(json!({"doseQuantity": {"value": 1}})), &[]);
    says(dose(json!({"doseQuantity": below})), &[(Severity::Error, "MedicationStatement.dosage[0].doseAndRate[0].dose", "sqt-1")]);
}

#[test]
fn an_unknown_modifier_is_an_error_and_an_unknown_extension_a_warning_told_once() {
    let patient = json!({
        "resourceType": "Patient",
        "extension": [{"url": "urn:x:a", "valueString": "1"}, {"url": "urn:x:a", "valueString": "2"}, {"url": "urn:x:b", "valueString": "3"}],
        "modifierExtension": [{"url": "urn:x:a", "valueString": "4"}],
    });
    says(
        patient,
        &[
            (Severity::Warning, "Patient.extension[0]", "is defined by no loaded"),
            (Severity::Warning, "Patient.extension[2]", "is defined by no loaded"),
            (Severity::Error, "Patient.modifierExtension[0]", "is a modifier that no loaded"),
        ],
    );
}

#[test]
fn a_bundle_names_its_entries_rightly() {
    let bundle = |entries: Value| json!({"resourceType": "Bundle", "type": "collection", "entry": entries});
    let entry = |url: &str, id: &str| json!({"fullUrl": url, "resource": {"resourceType": "Patient", "id": id}});
    says(bundle(json!([entry("http://x/Patient/1", "1"), entry("urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "2")])), &[]);
    says(bundle(json!([entry("http://x/Patient/1", "2")])), &[(Severity::Error, "Bundle.entry[0].fullUrl", "must end in")]);
    says(
        bundle(json!([entry("http://x/Patient/1", "1"), entry("http://x/Patient/1", "1")])),
        &[(Severity::Error, "Bundle.entry[1].fullUrl", "bdl-7")],
    );
    says(bundle(json!([{"resource": {"resourceType": "Patient"}}])), &[(Severity::Warning, "Bundle.entry[0].fullUrl", "should be given")]);
    let total = json!({"resourceType": "Bundle", "type": "collection", "total": 1});
    says(total, &[(Severity::Error, "Bundle", "bdl-1")]);
    let dangling = json!([{"fullUrl": "http://x/Patient/1", "resource": {"resourceType": "Patient", "id": "1",
        "managingOrganization": {"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}}}]);
    says(bundle(dangling), &[(Severity::Warning, "Bundle.entry[0].resource.managingOrganization.reference", "is the fullUrl of no entry")]);
}

#[test]
fn an_extensible_binding_warns_where_the_list_is_known() {
    let patient = |status: Value| json!({"resourceType": "Patient", "maritalStatus": status});
    says(patient(json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus", "code": "M"}]})), &[]);
    says(patient(json!({"text": "x"})), &[]);
    let other = patient(json!({"coding": [{"system": "urn:x", "code": "M"}]}));
    says(other, &[(Severity::Warning, "Patient.maritalStatus", "should be a code of")]);
}

#[test]
fn profiles_of_r4_are_known() {
    let weight = |value: Value| {
        json!({
            "resourceType": "Observation", "meta": {"profile": ["http://hl7.org/fhir/StructureDefinition/bodyweight"]}, "status": "final",
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
            "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
            "subject": {"reference": "Patient/1"}, "effectiveDateTime": "2026-11-21", "valueQuantity": value,
        })
    };
    let errors = |resource: Value| -> Vec<String> {
        let issues = validator(&[]).validate(&resource);
        issues
            .into_iter()
            .filter(|issue| issue.severity.is_error())
            .map(|issue| format!("{}: {}", issue.expression, issue.diagnostics))
            .collect()
    };
    let good = json!({"value": 60, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"});
    assert_eq!(errors(weight(good.clone())), Vec::<String>::new());
    let stones = errors(weight(json!({"value": 9, "unit": "st", "system": "http://unitsofmeasure.org", "code": "[stone_av]"})));
    assert!(stones.iter().any(|words| words.starts_with("Observation.value.code")), "{stones:#?}");
    let mut other = weight(good);
    other["category"][0]["coding"][0]["code"] = json!("laboratory");
    let other = errors(other);
    assert!(other.iter().any(|words| words.starts_with("Observation.category") && words.contains("VSCat")), "{other:#?}");
}

#[test]
fn a_claimed_profile_that_is_not_loaded_is_a_warning() {
    let patient = json!({"resourceType": "Patient", "meta": {"profile": ["urn:p"]}});
    says(patient, &[(Severity::Warning, "Patient.meta.profile[0]", "claims a profile that is not loaded")]);
}

#[test]
fn a_resource_in_r4_only_by_name_is_not_looked_into() {
    for broken in [json!(null), json!({"resourceType": "Patient", "name": 1}), json!({"resourceType": "Nothing"}), json!([])] {
        assert!(validator(&[]).validate(&broken).iter().any(|issue| issue.severity.is_error()));
    }
}
