//! Profiles: chains, slices, content references, targets, what cannot be told; and a naive checker beside the real one.

use super::whole::validator;
use super::*;

fn definition(url: &str, base: &str, kind: &str, elements: Value) -> Value {
    json!({
        "resourceType": "StructureDefinition", "id": url.replace(':', "-"), "url": url, "type": kind, "derivation": "constraint",
        "baseDefinition": base, "kind": "resource", "differential": {"element": elements},
    })
}

fn core(kind: &str) -> String {
    format!("http://hl7.org/fhir/StructureDefinition/{kind}")
}

/// What the profile `urn:p` says of a resource: severity's first letter, path, and the start of the words.
fn told(definitions: &[Value], resource: &Value) -> Vec<(Severity, String, String)> {
    told_with(definitions, resource, &Targets::new())
}

/// The same, with what references lead to.
fn told_with(definitions: &[Value], resource: &Value, targets: &Targets) -> Vec<(Severity, String, String)> {
    let issues = validator(definitions).validate_against(resource, &["urn:p".to_owned()], targets).unwrap().issues;
    let of_profile = issues.into_iter().filter(|issue| issue.diagnostics.contains("(profile urn:"));
    of_profile.map(|issue| (issue.severity, issue.expression, issue.diagnostics)).collect()
}

#[track_caller]
fn says(definitions: &[Value], resource: Value, expected: &[(Severity, &str, &str)]) {
    let told = told(definitions, &resource);
    let fits = told.iter().zip(expected).all(|(a, b)| a.0 == b.0 && a.1 == b.1 && a.2.starts_with(b.2));
    assert!(fits && told.len() == expected.len(), "{told:#?}");
}

fn on_observation(elements: Value) -> [Value; 1] {
    [definition("urn:p", &core("Observation"), "Observation", elements)]
}

fn pressure(components: Value) -> Value {
    json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "component": components})
}

fn component(code: &str) -> Value {
    json!({"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueInteger": 1})
}

/// <https://hl7.org/fhir/R4/bundle.html#references>
#[test]
fn a_reference_in_a_bundle_leads_to_the_version_and_the_server_that_it_names() {
    let named = definition("urn:named", &core("Patient"), "Patient", json!([{"id": "Patient.name", "path": "Patient.name", "min": 1}]));
    let of = json!([{"id": "Observation.subject", "path": "Observation.subject", "type": [{"code": "Reference", "targetProfile": ["urn:named"]}]}]);
    let definitions = [definition("urn:p", &core("Observation"), "Observation", of), named];
    let patient = |url: &str, version: &str, name: bool| {
        let mut patient = json!({"resourceType": "Patient", "id": "1", "meta": {"versionId": version}});
        if name {
            patient["name"] = json!([{"text": "x"}]);
        }
        json!({"fullUrl": url, "resource": patient})
    };
    let told = |reference: &str, entries: Vec<Value>| {
        let observation = json!({"resourceType": "Observation", "id": "2", "meta": {"profile": ["urn:p"]}, "status": "final", "code": {"text": "x"}, "subject": {"reference": reference}});
        let all: Vec<Value> =
            entries.into_iter().chain([json!({"fullUrl": "http://x/fhir/Observation/2", "resource": observation})]).collect();
        let bundle = json!({"resourceType": "Bundle", "type": "collection", "entry": all});
        let issues = validator(&definitions).validate(&bundle);
        let of_target = issues.into_iter().filter(|issue| issue.diagnostics.contains("(profile urn:p)"));
        of_target.map(|issue| issue.severity).collect::<Vec<_>>()
    };
    let (here, elsewhere) = ("http://x/fhir/Patient/1", "http://y/fhir/Patient/1");
    for turned in [false, true] {
        let mut both = vec![patient(here, "4", false), patient(here, "3", true)];
        if turned {
            both.reverse();
        }
        assert_eq!(told("Patient/1/_history/3", both.clone()), []);
        assert_eq!(told("Patient/1/_history/4", both), [Severity::Error]);
    }
    assert_eq!(told("Patient/1/_history/4", vec![patient(here, "3", true)]), [Severity::Information]);
    assert_eq!(told("Patient/1", vec![patient(elsewhere, "1", false)]), [Severity::Information]);
    assert_eq!(told("Patient/1", vec![patient(here, "1", false)]), [Severity::Error]);
}

/// <https://hl7.org/fhir/R4/extension-elementdefinition-maxvalueset.html>
#[test]
fn a_binding_that_may_be_extended_ends_at_its_most() {
    let bound = |strength: &str, most: &str| {
        let most = json!({"url": "http://hl7.org/fhir/StructureDefinition/elementdefinition-maxValueSet", "valueCanonical": most});
        let binding = json!({"extension": [most], "strength": strength, "valueSet": "http://hl7.org/fhir/ValueSet/marital-status"});
        let elements = json!([{"id": "Patient.maritalStatus", "path": "Patient.maritalStatus", "binding": binding}]);
        [definition("urn:p", &core("Patient"), "Patient", elements)]
    };
    let gender = "http://hl7.org/fhir/ValueSet/administrative-gender";
    let coded =
        |system: &str, code: &str| json!({"resourceType": "Patient", "maritalStatus": {"coding": [{"system": system, "code": code}]}});
    let male = || coded("http://hl7.org/fhir/administrative-gender", "male");
    let should = (Severity::Warning, "Patient.maritalStatus", "should be a code of http://hl7.org/fhir/ValueSet/marital-status");
    let must = (Severity::Error, "Patient.maritalStatus", "must be a code of http://hl7.org/fhir/ValueSet/administrative-gender");
    says(&bound("extensible", gender), male(), &[should]);
    says(&bound("extensible", gender), coded("urn:x", "x"), &[should, must]);
    says(&bound("preferred", gender), male(), &[]);
    says(&bound("preferred", gender), coded("urn:x", "x"), &[must]);
    says(&bound("extensible", gender), json!({"resourceType": "Patient", "maritalStatus": {"text": "x"}}), &[]);
    let untold = (Severity::Information, "Patient.maritalStatus", "the code (value set urn:none) could not be checked");
    says(&bound("preferred", "urn:none"), male(), &[untold]);
}

fn sliced(slicing: Value) -> [Value; 1] {
    let pattern = |code: &str| json!({"coding": [{"system": "http://loinc.org", "code": code}]});
    on_observation(json!([
        {"id": "Observation.component", "path": "Observation.component", "slicing": slicing},
        {"id": "Observation.component:a", "path": "Observation.component", "sliceName": "a", "min": 1, "max": "1"},
        {"id": "Observation.component:a.code", "path": "Observation.component.code", "patternCodeableConcept": pattern("a")},
        {"id": "Observation.component:b", "path": "Observation.component", "sliceName": "b", "max": "1"},
        {"id": "Observation.component:b.code", "path": "Observation.component.code", "patternCodeableConcept": pattern("b")},
        {"id": "Observation.component:b.interpretation", "path": "Observation.component.interpretation", "min": 1},
    ]))
}

fn by_code() -> Value {
    json!([{"type": "pattern", "path": "code"}])
}

#[test]
fn slices_are_counted_and_held_against_their_own_rules() {
    let profile = sliced(json!({"discriminator": by_code(), "rules": "open"}));
    says(&profile, pressure(json!([component("a"), component("c")])), &[]);
    says(&profile, pressure(json!([component("c")])), &[(Severity::Error, "Observation.component", "is required and missing (slice a)")]);
    says(
        &profile,
        pressure(json!([component("a"), component("a"), component("b")])),
        &[
            (Severity::Error, "Observation.component", "has too many items (slice a)"),
            (Severity::Error, "Observation.component[2].interpretation", "is required and missing"),
        ],
    );
}

#[test]
fn slices_found_by_a_deeper_value_are_the_same() {
    let deep = json!([{"type": "value", "path": "code.coding.code"}, {"type": "value", "path": "code.coding.system"}]);
    let profile = sliced(json!({"discriminator": deep, "rules": "closed"}));
    says(&profile, pressure(json!([component("a")])), &[]);
    says(
        &profile,
        pressure(json!([component("a"), component("c")])),
        &[(Severity::Error, "Observation.component[1]", "must belong to one of the slices a, b")],
    );
}

#[test]
fn slices_keep_their_order_and_their_end() {
    let mut b = component("b");
    b["interpretation"] = json!([{"text": "x"}]);
    let ordered = sliced(json!({"discriminator": by_code(), "rules": "open", "ordered": true}));
    says(
        &ordered,
        pressure(json!([b, component("a")])),
        &[(Severity::Error, "Observation.component[1]", "must stand before the items of later slices")],
    );
    let at_end = sliced(json!({"discriminator": by_code(), "rules": "openAtEnd"}));
    says(&at_end, pressure(json!([component("a"), component("c")])), &[]);
    says(
        &at_end,
        pressure(json!([component("c"), component("a")])),
        &[(Severity::Error, "Observation.component[1]", "must stand before the items that belong to no slice")],
    );
}

#[test]
fn a_slice_of_a_slice_is_counted_within_it() {
    let code = |code: &str| json!({"coding": [{"system": "http://loinc.org", "code": code}]});
    let profile = on_observation(json!([
        {"id": "Observation.component", "path": "Observation.component", "slicing": {"discriminator": by_code(), "rules": "open"}},
        {"id": "Observation.component:a", "path": "Observation.component", "sliceName": "a", "slicing": {"discriminator": [{"type": "exists", "path": "interpretation"}], "rules": "open"}},
        {"id": "Observation.component:a.code", "path": "Observation.component.code", "patternCodeableConcept": code("a")},
        {"id": "Observation.component:a/judged", "path": "Observation.component", "sliceName": "a/judged", "min": 1},
        {"id": "Observation.component:a/judged.interpretation", "path": "Observation.component.interpretation", "min": 1},
        {"id": "Observation.component:a/bare", "path": "Observation.component", "sliceName": "a/bare", "max": "0"},
        {"id": "Observation.component:a/bare.interpretation", "path": "Observation.component.interpretation", "max": "0"},
    ]));
    let mut judged = component("a");
    judged["interpretation"] = json!([{"text": "x"}]);
    says(&profile, pressure(json!([judged, component("b")])), &[]);
    says(
        &profile,
        pressure(json!([component("a")])),
        &[
            (Severity::Error, "Observation.component", "is required and missing (slice a/judged)"),
            (Severity::Error, "Observation.component", "must not be given (slice a/bare)"),
        ],
    );
}

#[test]
fn types_tell_slices_apart_in_choices_and_behind_references() {
    let profile = on_observation(json!([
        {"id": "Observation.value[x]:valueQuantity", "path": "Observation.value[x]", "sliceName": "valueQuantity"},
        {"id": "Observation.value[x]:valueQuantity.code", "path": "Observation.value[x].code", "min": 1},
        {"id": "Observation.performer", "path": "Observation.performer", "slicing": {"discriminator": [{"type": "type", "path": "resolve()"}], "rules": "open"}},
        {"id": "Observation.performer:organization", "path": "Observation.performer", "sliceName": "organization", "min": 1, "max": "1",
         "type": [{"code": "Reference", "targetProfile": [core("Organization")]}]},
    ]));
    let with = |performer: &str| {
        json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueQuantity": {"value": 1},
               "performer": [{"reference": performer}]})
    };
    says(&profile, with("Organization/1"), &[(Severity::Error, "Observation.value.code", "is required and missing")]);
    says(
        &profile,
        with("Practitioner/1"),
        &[
            (Severity::Error, "Observation.value.code", "is required and missing"),
            (Severity::Error, "Observation.performer", "is required and missing (slice organization)"),
        ],
    );
    let shorthand = on_observation(json!([{"path": "Observation.valueQuantity.code", "min": 1}]));
    says(&shorthand, with("Organization/1"), &[(Severity::Error, "Observation.value.code", "is required and missing")]);
}

#[test]
fn extensions_are_sliced_by_url_without_saying_so() {
    let own = json!({
        "resourceType": "StructureDefinition", "id": "tribe", "url": "urn:tribe", "type": "Extension", "derivation": "constraint", "kind": "complex-type",
        "baseDefinition": core("Extension"), "context": [{"type": "element", "expression": "Patient"}],
        "differential": {"element": [{"path": "Extension.url", "fixedUri": "urn:tribe"}, {"path": "Extension.value[x]", "min": 1, "type": [{"code": "string"}]}]},
    });
    let profile = definition(
        "urn:p",
        &core("Patient"),
        "Patient",
        json!([
            {"id": "Patient.extension:tribe", "path": "Patient.extension", "sliceName": "tribe", "min": 1, "max": "1",
             "type": [{"code": "Extension", "profile": ["urn:tribe"]}]},
        ]),
    );
    let patient = |extension: Value| json!({"resourceType": "Patient", "extension": [extension]});
    let both = [own, profile.clone()];
    says(&both, patient(json!({"url": "urn:tribe", "valueString": "x"})), &[]);
    says(
        &both,
        patient(json!({"url": "urn:other", "valueString": "x"})),
        &[(Severity::Error, "Patient.extension", "is required and missing (slice tribe)")],
    );
    says(
        &both,
        patient(json!({"url": "urn:tribe", "valueInteger": 1})),
        &[(Severity::Error, "Patient.extension[0].value", "must be of type string")],
    );
    // Without the definition the slice is still found; what the extension must be cannot be told.
    says(
        &[profile],
        patient(json!({"url": "urn:tribe", "valueString": "x"})),
        &[(Severity::Information, "Patient.extension[0]", "a profile of its type (urn:tribe) could not be checked")],
    );
}

#[test]
fn a_slice_of_extensions_may_ask_for_a_profile_on_their_definition() {
    let extension = |url: &str, base: &str, elements: Value| {
        let mut definition = definition(url, base, "Extension", elements);
        definition["context"] = json!([{"type": "element", "expression": "Patient"}]);
        definition
    };
    let definitions = [
        extension(
            "urn:e",
            &core("Extension"),
            json!([{"path": "Extension.url", "fixedUri": "urn:e"}, {"path": "Extension.value[x]", "min": 1}]),
        ),
        extension("urn:e:number", "urn:e", json!([{"path": "Extension.value[x]", "type": [{"code": "integer"}]}])),
        definition(
            "urn:p",
            &core("Patient"),
            "Patient",
            json!([{"path": "Patient.extension", "sliceName": "number", "min": 1, "type": [{"code": "Extension", "profile": ["urn:e:number"]}]}]),
        ),
    ];
    says(&definitions, json!({"resourceType": "Patient", "extension": [{"url": "urn:e", "valueInteger": 1}]}), &[]);
    let issues = validator(&definitions)
        .validate_against(
            &json!({"resourceType": "Patient", "extension": [{"url": "urn:e", "valueString": "1"}]}),
            &["urn:p".to_owned()],
            &Targets::new(),
        )
        .unwrap()
        .issues;
    let errors: Vec<_> = issues.iter().filter(|issue| issue.severity.is_error()).map(|issue| issue.expression.as_str()).collect();
    assert_eq!(errors, ["Patient.extension[0].value"], "{issues:#?}");
}

/// As HL7 publishes the vital signs, whose differentials say no more.
#[test]
fn a_choice_that_is_named_by_a_type_is_of_that_type() {
    let observation = |value: Value| {
        let mut observation = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}});
        observation.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        observation
    };
    let (quantity, text) = (observation(json!({"valueQuantity": {"value": 1}})), observation(json!({"valueString": "x"})));
    let wrong = [(Severity::Error, "Observation.value", "must be of type Quantity")];
    let by_type = json!([{"path": "Observation.valueQuantity"}, {"path": "Observation.valueQuantity.value", "min": 1}]);
    says(&on_observation(by_type.clone()), quantity.clone(), &[]);
    says(&on_observation(by_type.clone()), text.clone(), &wrong);
    says(&on_observation(by_type), observation(json!({})), &[]);
    let both = json!([{"path": "Observation.valueQuantity"}, {"path": "Observation.valueString"}]);
    says(&on_observation(both.clone()), text.clone(), &[]);
    let other = [(Severity::Error, "Observation.value", "must be of type Quantity or string")];
    says(&on_observation(both), observation(json!({"valueBoolean": true})), &other);
    // Who says how it is sliced, here or in what it rests on, says what else there may be.
    let open = json!({"path": "Observation.value[x]", "slicing": {"discriminator": [{"type": "type", "path": "$this"}], "rules": "open"}});
    says(&on_observation(json!([open, {"path": "Observation.valueQuantity"}])), text.clone(), &[]);
    let slice = json!({"path": "Observation.value[x]", "sliceName": "valueQuantity", "type": [{"code": "Quantity"}]});
    says(&on_observation(json!([open, slice])), text.clone(), &[]);
    let base = definition("urn:base", &core("Observation"), "Observation", json!([open, slice]));
    let above = definition(
        "urn:p",
        "urn:base",
        "Observation",
        json!([{"path": "Observation.valueQuantity", "short": "x"}, {"path": "Observation.valueBoolean"}]),
    );
    says(&[base, above], text, &[]);
}

#[test]
fn what_must_stand_beside_a_primitive_is_missed() {
    let time = core("patient-birthTime");
    let asked =
        json!([{"path": "Patient.birthDate.extension", "sliceName": "time", "min": 1, "type": [{"code": "Extension", "profile": [time]}]}]);
    let definitions = [definition("urn:p", &core("Patient"), "Patient", asked)];
    let beside = |url: &str| json!({"extension": [{"url": url, "valueDateTime": "2000-01-01T10:00:00Z"}]});
    let patient = |beside: Value| json!({"resourceType": "Patient", "birthDate": "2000-01-01", "_birthDate": beside});
    let missing = [(Severity::Error, "Patient.birthDate.extension", "is required and missing")];
    says(&definitions, patient(beside(&core("patient-birthTime"))), &[]);
    says(&definitions, json!({"resourceType": "Patient", "birthDate": "2000-01-01"}), &missing);
    says(&definitions, patient(beside("urn:other")), &missing);
    says(&definitions, json!({"resourceType": "Patient"}), &[]);
}

#[test]
fn a_chain_of_profiles_asks_what_each_of_them_asks() {
    let base = definition(
        "urn:base",
        &core("Observation"),
        "Observation",
        json!([{"path": "Observation.subject", "min": 1}, {"path": "Observation.note", "max": "0"}]),
    );
    let upper = definition("urn:p", "urn:base|1", "Observation", json!([{"path": "Observation.effective[x]", "min": 1}]));
    let bare = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "note": [{"text": "y"}]});
    says(
        &[base, upper.clone()],
        bare.clone(),
        &[
            (Severity::Error, "Observation.subject", "is required"),
            (Severity::Error, "Observation.note", "must not be given"),
            (Severity::Error, "Observation.effective", "is required"),
        ],
    );
    let alone = validator(std::slice::from_ref(&upper)).validate_against(&bare, &["urn:p".into()], &Targets::new());
    assert_eq!(alone, Err(NoProfile::Unusable(ProfileError::UnknownBase("urn:base".into()))));
    let mut looped = upper;
    looped["baseDefinition"] = json!("urn:p");
    assert_eq!(
        validator(&[looped]).validate_against(&bare, &["urn:p".into()], &Targets::new()),
        Err(NoProfile::Unusable(ProfileError::BaseChain))
    );
}

#[test]
fn a_content_reference_is_held_against_what_it_refers_to() {
    let profile = definition("urn:p", &core("Questionnaire"), "Questionnaire", json!([{"path": "Questionnaire.item.text", "min": 1}]));
    let questionnaire = json!({"resourceType": "Questionnaire", "status": "draft", "item": [
        {"linkId": "1", "type": "group", "text": "x", "item": [{"linkId": "2", "type": "group", "text": "y", "item": [{"linkId": "3", "type": "string"}]}]},
    ]});
    says(&[profile], questionnaire, &[(Severity::Error, "Questionnaire.item[0].item[0].item[0].text", "is required")]);
}

#[test]
fn targets_are_held_against_their_profile_where_they_are_there() {
    let named = definition("urn:named", &core("Patient"), "Patient", json!([{"path": "Patient.name", "min": 1}]));
    let profile = definition(
        "urn:p",
        &core("Observation"),
        "Observation",
        json!([
            {"path": "Observation.subject", "type": [{"code": "Reference", "targetProfile": ["urn:named"]}]},
        ]),
    );
    let both = [named, profile.clone()];
    let observation = |subject: &str, contained: Value| json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": subject}, "contained": contained});
    let unseen = (Severity::Information, "Observation.subject.reference", "the profile of its target (urn:named) could not be checked");
    says(&both, observation("Patient/1", json!([{"resourceType": "Basic"}])), &[unseen]);
    let away = observation("Patient/1", json!([]));
    let checked = validator(&both).validate_against(&away, &["urn:p".to_owned()], &Targets::new()).unwrap();
    assert_eq!(checked.wanted, ["Patient/1"]);
    let with = |patient: Value| told_with(&both, &away, &Targets::from([("Patient/1".to_owned(), patient)]));
    assert_eq!(with(json!({"resourceType": "Patient", "id": "1", "name": [{"text": "x"}]})), []);
    let nameless = with(json!({"resourceType": "Patient", "id": "1"}));
    assert_eq!((nameless.len(), nameless[0].0, &*nameless[0].1), (1, Severity::Error, "Observation.subject.reference"));
    // Nothing says what these are.
    let untold = (Severity::Information, "Observation.subject.reference", "what it leads to (urn:named) could not be checked");
    for nobody in ["urn:uuid:11111111-1111-4111-8111-111111111111", "http://other.example/x"] {
        says(&both, observation(nobody, json!([])), &[untold]);
    }
    says(&both, observation("Group/1", json!([])), &[(Severity::Error, "Observation.subject.reference", "must refer to Patient")]);
    let contained = json!([{"resourceType": "Patient", "id": "p"}]);
    says(
        &both,
        observation("#p", contained),
        &[(Severity::Error, "Observation.subject.reference", "must refer to a resource that meets urn:named")],
    );
    says(&both, observation("#p", json!([{"resourceType": "Patient", "id": "p", "name": [{"text": "x"}]}])), &[]);
    let said = told(&[profile], &observation("Patient/1", json!([])));
    assert_eq!(said.iter().map(|(severity, ..)| *severity).collect::<Vec<_>>(), [Severity::Information]);
}

#[test]
fn resources_that_all_refer_to_one_another_are_looked_at_once() {
    let profile = definition(
        "urn:p",
        &core("Observation"),
        "Observation",
        json!([
            {"path": "Observation.hasMember", "type": [{"code": "Reference", "targetProfile": ["urn:p"]}]},
            {"path": "Observation.subject", "min": 1},
        ]),
    );
    let all: Vec<Value> = (0..60).map(|at| json!({"reference": format!("Observation/{at}")})).collect();
    let entries: Vec<Value> = (0..60)
        .map(|at| json!({"fullUrl": format!("http://x/Observation/{at}"), "resource": {
            "resourceType": "Observation", "id": at.to_string(), "meta": {"profile": ["urn:p"]}, "status": "final", "code": {"text": "x"},
            "subject": {"reference": "Patient/1"}, "hasMember": all,
        }}))
        .collect();
    let bundle = json!({"resourceType": "Bundle", "type": "collection", "entry": entries});
    assert_eq!(validator(&[profile]).on_write(&bundle), []);
}

#[test]
fn what_cannot_be_checked_is_said() {
    let profile = on_observation(json!([
        {"path": "Observation", "constraint": [
            {"key": "p-1", "severity": "error", "human": "h", "expression": "tomorrow() = 1"},
            {"key": "p-2", "severity": "error", "human": "h", "expression": "code.memberOf('urn:nowhere')"},
            {"key": "p-3", "severity": "error", "human": "h", "expression": "subject.resolve().name.exists()"},
            {"key": "p-4", "severity": "error", "human": "h", "expression": "subject.resolve() is Patient"},
            {"key": "p-5", "severity": "error", "human": "h", "expression": "conformsTo('urn:nowhere')"},
            {"key": "p-6", "severity": "error", "human": "h"},
        ]},
        {"path": "Observation.code", "binding": {"strength": "required", "valueSet": "urn:nowhere"}},
    ]));
    let observation = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x", "coding": [{"system": "urn:s", "code": "c"}]}, "subject": {"reference": "Patient/1"}});
    let said = told(&profile, &observation);
    let keys: Vec<_> =
        said.iter().map(|(severity, path, words)| (*severity, path.as_str(), words.split(' ').next().unwrap_or_default())).collect();
    let information = |path, key| (Severity::Information, path, key);
    assert_eq!(
        keys,
        [
            information("Observation", "p-1"),
            information("Observation", "p-2"),
            information("Observation", "p-3"),
            information("Observation", "p-5"),
            information("Observation", "p-6"),
            information("Observation.code", "the"),
        ]
    );
}

#[test]
fn an_expression_may_ask_for_other_profiles() {
    let named = definition("urn:named", &core("Patient"), "Patient", json!([{"path": "Patient.name", "min": 1}]));
    let profile = definition(
        "urn:p",
        &core("Patient"),
        "Patient",
        json!([
            {"path": "Patient", "constraint": [{"key": "p-1", "severity": "error", "human": "h", "expression": "conformsTo('urn:named') and %resource is Patient and %context is Patient"}]},
        ]),
    );
    let both = [named, profile];
    says(&both, json!({"resourceType": "Patient", "name": [{"text": "x"}]}), &[]);
    says(&both, json!({"resourceType": "Patient"}), &[(Severity::Error, "Patient", "p-1: h")]);
}

#[test]
fn limits_of_values_and_lengths_are_kept() {
    let profile = on_observation(json!([
        {"path": "Observation.value[x]", "minValueInteger": 3, "maxValueInteger": 5, "type": [{"code": "integer"}]},
        {"path": "Observation.code.text", "maxLength": 2},
    ]));
    let with =
        |value: i64, text: &str| json!({"resourceType": "Observation", "status": "final", "code": {"text": text}, "valueInteger": value});
    says(&profile, with(4, "xy"), &[]);
    says(
        &profile,
        with(2, "xyz"),
        &[
            (Severity::Error, "Observation.value", "minValueInteger"),
            (Severity::Error, "Observation.code.text", "must not be longer than 2"),
        ],
    );
}

#[test]
fn profiles_that_can_never_be_used_are_named() {
    let element = |path: &str| json!([{"path": path, "min": 1}]);
    let good = definition("urn:p", &core("Patient"), "Patient", element("Patient.name"));
    let wrong = definition("urn:wrong", &core("Patient"), "Patient", element("Patient.nickname"));
    let orphan = definition("urn:orphan", "urn:nobody", "Patient", element("Patient.name"));
    let profiles = Profiles::new();
    profiles.load(&[good, wrong, orphan]);
    let urls = ["urn:p", "urn:wrong", "urn:orphan", "urn:not-loaded"].map(str::to_owned);
    let unusable = profiles.unusable(&urls);
    assert_eq!(unusable, [("urn:wrong", ProfileError::UnknownElement(0)), ("urn:orphan", ProfileError::UnknownBase("urn:nobody".into()))]);
}

#[test]
fn a_change_of_a_base_reaches_what_rests_on_it() {
    let base = |min: u32| definition("urn:base", &core("Patient"), "Patient", json!([{"path": "Patient.name", "min": min}]));
    let upper = definition("urn:p", "urn:base", "Patient", json!([]));
    let validator = validator(&[base(0), upper]);
    let patient = json!({"resourceType": "Patient", "meta": {"profile": ["urn:p"]}});
    let errors = |validator: &Validator| validator.on_write(&patient).len();
    assert_eq!(errors(&validator), 0);
    validator.profiles().load([&base(1)]);
    assert_eq!(errors(&validator), 1);
    validator.profiles().remove("urn-p");
    assert_eq!(errors(&validator), 0);
}

// --- against a naive checker ---------------------------------------------------------------------------------------

/// A differential over a few elements of Patient, and what it means.
#[derive(Clone, Debug)]
struct Asked {
    name: (usize, Option<usize>),
    family: usize,
    gender: Option<&'static str>,
    /// Identifiers sliced by system, each with its limits.
    slices: Vec<(usize, Option<usize>)>,
    closed: bool,
}

fn limits() -> impl Strategy<Value = (usize, Option<usize>)> {
    (0usize..3, prop::option::of(0usize..3))
}

fn asked() -> impl Strategy<Value = Asked> {
    let gender = prop::option::of(prop::sample::select(vec!["male", "female"]));
    (limits(), 0usize..2, gender, prop::collection::vec(limits(), 0..3), any::<bool>())
        .prop_map(|(name, family, gender, slices, closed)| Asked { name, family, gender, slices, closed })
}

fn limited(mut element: Value, (min, max): (usize, Option<usize>)) -> Value {
    element["min"] = json!(min);
    element["max"] = json!(max.map_or("*".to_owned(), |max| max.to_string()));
    element
}

fn differential(asked: &Asked) -> Value {
    let mut elements =
        vec![limited(json!({"path": "Patient.name"}), asked.name), json!({"path": "Patient.name.family", "min": asked.family})];
    if let Some(gender) = asked.gender {
        elements.push(json!({"path": "Patient.gender", "fixedCode": gender}));
    }
    let rules = if asked.closed { "closed" } else { "open" };
    elements.push(json!({"id": "Patient.identifier", "path": "Patient.identifier", "slicing": {"discriminator": [{"type": "value", "path": "system"}], "rules": rules}}));
    for (at, limits) in asked.slices.iter().enumerate() {
        let id = format!("Patient.identifier:s{at}");
        elements.push(limited(json!({"id": id, "path": "Patient.identifier", "sliceName": format!("s{at}")}), *limits));
        elements.push(json!({"id": format!("{id}.system"), "path": "Patient.identifier.system", "fixedUri": format!("urn:s{at}")}));
    }
    definition("urn:p", &core("Patient"), "Patient", Value::Array(elements))
}

/// How many things are wrong, counted one by one.
fn naive(asked: &Asked, patient: &Value) -> usize {
    let list = |key: &str| patient[key].as_array().cloned().unwrap_or_default();
    let outside =
        |count: usize, (min, max): (usize, Option<usize>)| usize::from(count < min) + usize::from(max.is_some_and(|max| count > max));
    let names = list("name");
    let mut wrong = outside(names.len(), asked.name);
    wrong += names.iter().filter(|name| name.get("family").is_none() && asked.family > 0).count();
    if let (Some(fixed), Some(gender)) = (asked.gender, patient.get("gender")) {
        wrong += usize::from(gender != fixed);
    }
    let systems: Vec<String> = list("identifier").iter().map(|i| i["system"].as_str().unwrap_or_default().to_owned()).collect();
    let mut known = 0;
    for (at, limits) in asked.slices.iter().enumerate() {
        let count = systems.iter().filter(|system| **system == format!("urn:s{at}")).count();
        known += count;
        wrong += outside(count, *limits);
    }
    wrong + if asked.closed { systems.len() - known } else { 0 }
}

fn patients() -> impl Strategy<Value = Value> {
    let name = any::<bool>().prop_map(|family| if family { json!({"family": "x"}) } else { json!({"text": "y"}) });
    let identifier = (0usize..4).prop_map(|system| json!({"system": format!("urn:s{system}"), "value": "1"}));
    let gender = prop::option::of(prop::sample::select(vec!["male", "female", "other"]));
    (prop::collection::vec(name, 0..4), prop::collection::vec(identifier, 0..4), gender).prop_map(|(names, identifiers, gender)| {
        let mut patient = json!({"resourceType": "Patient"});
        for (key, list) in [("name", names), ("identifier", identifiers)] {
            if !list.is_empty() {
                patient[key] = Value::Array(list);
            }
        }
        if let Some(gender) = gender {
            patient["gender"] = json!(gender);
        }
        patient
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_random_differential_means_what_a_naive_checker_says(asked in asked(), patient in patients()) {
        let errors = told(&[differential(&asked)], &patient).len();
        prop_assert_eq!(errors, naive(&asked, &patient));
    }
}

#[test]
fn r4s_own_definition_of_a_type_is_met_by_what_is_valid_and_of_the_type() {
    let core = |name: &str| format!("http://hl7.org/fhir/StructureDefinition/{name}");
    let checked = |resource: Value, asked: &[String]| {
        let checked = validator(&[]).validate_against(&resource, asked, &Targets::new()).map(|checked| checked.issues);
        checked.map(|issues| {
            issues.iter().map(|issue| (issue.severity.is_error(), issue.expression.clone())).filter(|(wrong, _)| *wrong).collect::<Vec<_>>()
        })
    };
    let (patient, parameters) = (json!({ "resourceType": "Patient" }), json!({ "resourceType": "Parameters" }));
    for (name, fits, fits_parameters) in [
        ("Patient", true, false),
        ("Patient|4.0.1", true, false),
        ("Resource", true, true),
        ("DomainResource|4.0", true, false),
        ("Group", false, false),
        ("Parameters", false, true),
    ] {
        for (resource, fits) in [(&patient, fits), (&parameters, fits_parameters)] {
            let path = resource["resourceType"].as_str().unwrap().to_owned();
            let expected = |path: String| if fits { vec![] } else { vec![(true, path)] };
            assert_eq!(checked(resource.clone(), &[core(name)]).unwrap(), expected(path.clone()), "{name}");
            let mut claiming = resource.clone();
            claiming["meta"] = json!({ "profile": [core(name)] });
            assert_eq!(checked(claiming, &[]).unwrap(), expected(format!("{path}.meta.profile[0]")), "{name}");
        }
    }
    // Another version is another definition.
    assert!(checked(patient.clone(), &[core("Patient|5.0.0")]).is_err());
    assert!(checked(patient, &[core("Patiend")]).is_err());
}
