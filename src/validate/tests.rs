use super::report::{Path, Report};
use super::scope::{Scope, World};
use super::*;
use crate::fhir::{Issue, IssueCode, Severity, json::parse};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

mod profiles;
mod whole;

/// R4's examples, shortened.
const PATIENT: &str = include_str!("examples/patient.json");
const OBSERVATION: &str = include_str!("examples/observation.json");
const BUNDLE: &str = include_str!("examples/bundle.json");

fn example(text: &str) -> Value {
    parse(text.as_bytes()).unwrap()
}

fn errors(issues: &[Issue]) -> Vec<(&str, IssueCode)> {
    issues.iter().filter(|issue| issue.severity.is_error()).map(|issue| (issue.expression.as_str(), issue.code)).collect()
}

/// The resource has exactly these errors.
#[track_caller]
fn has(resource: Value, expected: &[(&str, IssueCode)]) {
    let issues = structure(&resource);
    assert_eq!(errors(&issues), expected, "{issues:#?}");
}

fn patient(change: impl FnOnce(&mut Value)) -> Value {
    let mut patient = example(PATIENT);
    change(&mut patient);
    patient
}

fn observation(change: impl FnOnce(&mut Value)) -> Value {
    let mut observation = example(OBSERVATION);
    change(&mut observation);
    observation
}

use IssueCode::{CodeInvalid, Invariant, Required, Structure, TooLong, Value as BadValue};

#[test]
fn examples_have_no_problem() {
    for text in [PATIENT, OBSERVATION, BUNDLE] {
        assert_eq!(structure(&example(text)), []);
    }
}

#[test]
fn what_is_no_resource_is_one_error() {
    has(json!([]), &[("Resource", Structure)]);
    has(json!({}), &[("Resource", Structure)]);
    has(json!({"resourceType": "Patiant", "x": 1}), &[("Resource", Structure)]);
    has(json!({"resourceType": "DomainResource"}), &[("Resource", Structure)]);
    has(json!({"resourceType": "HumanName", "family": "x"}), &[("Resource", Structure)]);
    has(json!({"resourceType": 1}), &[("Resource", Structure)]);
}

#[test]
fn an_element_that_r4_does_not_have_is_named_by_its_path() {
    has(patient(|p| p["nickname"] = json!("x")), &[("Patient.nickname", Structure)]);
    has(patient(|p| p["name"][0]["surname"] = json!("x")), &[("Patient.name[0].surname", Structure)]);
    has(patient(|p| p["contact"][0]["resourceType"] = json!("x")), &[("Patient.contact[0].resourceType", Structure)]);
    has(observation(|o| o["component"][0]["code"]["txt"] = json!("x")), &[("Observation.component[0].code.txt", Structure)]);
    has(observation(|o| o["valueMoney"] = json!({"value": 1})), &[("Observation.valueMoney", Structure)]);
    has(observation(|o| o["value"] = json!(1)), &[("Observation.value", Structure)]);
    has(patient(|p| p["_nickname"] = json!({})), &[("Patient._nickname", Structure)]);
}

#[test]
fn an_unknown_element_brings_the_one_that_may_be_meant() {
    let words = |resource: Value| structure(&resource).into_iter().map(|issue| issue.diagnostics).collect::<String>();
    for (key, meant) in [
        ("birthdate", "birthDate"),
        ("birtDate", "birthDate"),
        ("gneder", "gender"),
        ("namee", "name"),
        ("deceased", "deceasedBoolean or deceasedDateTime"),
    ] {
        let said = words(patient(|p| p[key] = json!("x")));
        assert!(said.ends_with(&format!("is {meant} meant?")), "{said}");
    }
    assert!(words(patient(|p| p["nickname"] = json!("x"))).ends_with("check its spelling and its place"));
    assert!(words(patient(|p| p["gender"] = json!("F"))).contains("one of male, female, other, unknown"));
}

#[test]
fn a_key_that_is_no_name_is_not_repeated() {
    let issues = structure(&patient(|p| p["name"][0]["Asha Mwinyi, 0712 345678"] = json!("x")));
    assert_eq!(errors(&issues), [("Patient.name[0]", Structure)]);
    assert!(!format!("{issues:?}").contains("Asha"));
}

#[test]
fn a_value_of_the_wrong_json_type_is_an_error() {
    has(patient(|p| p["active"] = json!("true")), &[("Patient.active", Structure)]);
    has(patient(|p| p["gender"] = json!(1)), &[("Patient.gender", Structure)]);
    has(patient(|p| p["name"][0]["given"][0] = json!({"x": 1})), &[("Patient.name[0].given[0]", Structure)]);
    has(patient(|p| p["maritalStatus"] = json!("M")), &[("Patient.maritalStatus", Structure)]);
    has(
        observation(|o| o["component"][0]["valueQuantity"]["value"] = json!("120")),
        &[("Observation.component[0].value.value", Structure)],
    );
}

#[test]
fn arrays_stand_where_an_element_repeats_and_nowhere_else() {
    has(patient(|p| p["name"] = json!({"family": "x"})), &[("Patient.name", Structure)]);
    has(patient(|p| p["gender"] = json!(["male"])), &[("Patient.gender", Structure)]);
    has(patient(|p| p["name"] = json!([])), &[("Patient.name", Structure)]);
    has(patient(|p| p["name"] = json!([[{"family": "x"}]])), &[("Patient.name[0]", Structure)]);
}

#[test]
fn what_is_required_is_missed() {
    let bare = json!({"resourceType": "Observation"});
    has(bare, &[("Observation.status", Required), ("Observation.code", Required)]);
    has(patient(|p| p["link"] = json!([{"type": "refer"}])), &[("Patient.link[0].other", Required)]);
    let absent = json!({"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]});
    has(
        observation(|o| {
            o.as_object_mut().unwrap().remove("status");
            o["_status"] = absent;
        }),
        &[],
    );
}

#[test]
fn one_choice_has_one_type() {
    has(observation(|o| o["effectivePeriod"] = json!({"start": "2026"})), &[("Observation.effective", Structure)]);
    has(observation(|o| o["_effectiveDateTime"] = json!({"id": "a"})), &[]);
    let extension = json!({"extension": [{"url": "urn:x", "valueString": "x"}]});
    has(observation(|o| o["_effectiveInstant"] = extension), &[("Observation.effective", Structure)]);
}

#[test]
fn empty_values_are_errors() {
    has(patient(|p| p["birthDate"] = json!("")), &[("Patient.birthDate", BadValue)]);
    has(patient(|p| p["birthDate"] = json!(null)), &[("Patient.birthDate", Structure)]);
    has(patient(|p| p["name"][0] = json!({})), &[("Patient.name[0]", Structure)]);
    has(patient(|p| p["name"][0] = json!({"id": "a"})), &[("Patient.name[0]", Structure)]);
    has(patient(|p| p["name"][0] = json!(null)), &[("Patient.name[0]", Structure)]);
}

#[test]
fn primitives_keep_to_their_format() {
    has(patient(|p| p["birthDate"] = json!("24-08-07")), &[("Patient.birthDate", BadValue)]);
    has(patient(|p| p["id"] = json!("a_b")), &[("Patient.id", BadValue)]);
    has(patient(|p| p["telecom"][0]["rank"] = json!(0)), &[("Patient.telecom[0].rank", BadValue)]);
    has(patient(|p| p["meta"]["lastUpdated"] = json!("2026-01-01")), &[("Patient.meta.lastUpdated", BadValue)]);
    has(patient(|p| p["text"]["div"] = json!("<div><script/></div>")), &[("Patient.text.div", BadValue)]);
    has(observation(|o| o["effectiveDateTime"] = json!("2026-02-30")), &[("Observation.effective", BadValue)]);
}

#[test]
fn siblings_of_primitives_align_with_their_values() {
    let extension = json!({"extension": [{"url": "urn:x", "valueString": "x"}]});
    let given = |values: Value, siblings: Value| {
        patient(|p| {
            p["name"][0]["given"] = values;
            p["name"][0]["_given"] = siblings;
        })
    };
    has(given(json!(["a", null]), json!([null, extension])), &[]);
    has(given(json!(["a", null]), json!([extension, null])), &[("Patient.name[0].given[1]", Structure)]);
    has(given(json!(["a", "b"]), json!([extension])), &[("Patient.name[0].given", Structure)]);
    has(given(json!(["a"]), json!([null])), &[("Patient.name[0].given", Structure)]);
    has(given(json!(["a"]), extension.clone()), &[("Patient.name[0].given", Structure)]);
    has(given(json!(["a"]), json!([{"extension": [{"valueString": "x"}]}])), &[("Patient.name[0].given[0].extension[0].url", Required)]);
    has(patient(|p| p["_birthDate"] = json!({"value": "x"})), &[("Patient.birthDate.value", Structure)]);
    has(patient(|p| p["_birthDate"] = json!("x")), &[("Patient.birthDate", Structure)]);
    has(patient(|p| p["_birthDate"] = json!({})), &[("Patient.birthDate", Structure)]);
    has(patient(|p| p["_contact"] = extension), &[("Patient.contact", Structure)]);
    // An id alone says nothing (ele-1).
    has(given(json!(["a", "b"]), json!([{"id": "x"}, null])), &[]);
    has(given(json!(["a", null]), json!([null, {"id": "x"}])), &[("Patient.name[0].given[1]", Structure)]);
    let without = |p: &mut Value| {
        p.as_object_mut().unwrap().remove("birthDate");
        p["_birthDate"] = json!({"id": "x"});
    };
    has(patient(without), &[("Patient.birthDate", Structure)]);
}

/// ISO 4217 and BCP 13, which R4 binds to and nobody lists here.
#[test]
fn currencies_and_media_types_keep_to_their_form() {
    let money = |currency: &str| json!({"resourceType": "Invoice", "status": "draft", "totalNet": {"value": 1, "currency": currency}});
    let document = |media: &str| {
        let content = json!([{"attachment": {"contentType": media, "url": "http://x.org/1"}}]);
        json!({"resourceType": "DocumentReference", "status": "current", "content": content})
    };
    for good in [money("TZS"), document("application/pdf"), document("text/plain; charset=UTF-8"), document("application/hl7-v3+xml")] {
        has(good, &[]);
    }
    for bad in ["tzs", "Tsh", "shillings"] {
        has(money(bad), &[("Invoice.totalNet.currency", CodeInvalid)]);
    }
    for bad in ["pdf", "application/", "a b/c"] {
        has(document(bad), &[("DocumentReference.content[0].attachment.contentType", CodeInvalid)]);
    }
}

#[test]
fn codes_keep_to_required_bindings() {
    has(patient(|p| p["gender"] = json!("F")), &[("Patient.gender", CodeInvalid)]);
    has(observation(|o| o["status"] = json!("done")), &[("Observation.status", CodeInvalid)]);
    let clinical = |concept: Value| json!({"resourceType": "Condition", "subject": {"reference": "Patient/1"}, "clinicalStatus": concept});
    let system = "http://terminology.hl7.org/CodeSystem/condition-clinical";
    has(clinical(json!({"coding": [{"system": "urn:x", "code": "x"}, {"system": system, "code": "active"}]})), &[]);
    for wrong in
        [json!({"coding": [{"code": "active"}]}), json!({"text": "active"}), json!({"coding": [{"system": system, "code": "alive"}]})]
    {
        has(clinical(wrong), &[("Condition.clinicalStatus", CodeInvalid)]);
    }
    // The value set of MIME types cannot be listed.
    has(json!({"resourceType": "Binary", "contentType": "text/x-made-up"}), &[]);
}

#[test]
fn a_local_reference_names_a_type_that_the_element_allows() {
    let subject = |reference: &str| observation(|o| o["subject"] = json!({"reference": reference}));
    for right in [
        "Patient/1",
        "Patient/1/_history/2",
        "Group/g",
        "Patient?identifier=urn:x|1",
        "#p",
        "urn:uuid:c757873d-ec9a-4326-a141-556f43239520",
        "https://example.org/fhir/Practitioner/1",
    ] {
        has(subject(right), &[]);
    }
    for wrong in ["Practitioner/1", "Practitioner?identifier=1", "Patiant/1", "patient number 7", "/Patient/1", "patient/1", "Patient/1#x"]
    {
        has(subject(wrong), &[("Observation.subject.reference", BadValue)]);
    }
    has(observation(|o| o["focus"] = json!([{"reference": "Medication/1"}])), &[]);
}

/// <https://hl7.org/fhir/R4/references.html>: what is in the same resource or Bundle is of a type that the element allows, too.
#[test]
fn what_is_sent_along_is_of_a_type_that_the_reference_allows() {
    const URN: &str = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520";
    const URL: &str = "https://a.org/fhir/Patient/1";
    let (reference, said) = ("Observation.subject.reference", "Observation.subject.type");
    let contained = |target: Value, subject: Value| {
        observation(|o| {
            o["contained"] = json!([target]);
            o["subject"] = subject;
        })
    };
    let patient = || json!({"resourceType": "Patient", "id": "p"});
    let practitioner = || json!({"resourceType": "Practitioner", "id": "p"});
    has(contained(patient(), json!({"reference": "#p", "type": "Patient"})), &[]);
    has(contained(practitioner(), json!({"reference": "#p"})), &[(reference, BadValue)]);
    has(contained(practitioner(), json!({"reference": "#p", "type": "Patient"})), &[(said, BadValue), (reference, BadValue)]);
    has(contained(patient(), json!({"reference": "#p", "type": "Group"})), &[(said, BadValue)]);
    // What is nowhere is not judged here.
    has(contained(patient(), json!({"reference": "#q", "type": "Group"})), &[]);
    // Among contained resources, and from them to what holds them.
    let specimen = |subject: &str| json!({"resourceType": "Specimen", "id": "s", "subject": {"reference": subject}});
    let holding = |subject: &str| {
        observation(|o| {
            o["contained"] = json!([practitioner(), specimen(subject)]);
            o["specimen"] = json!({"reference": "#s"});
            o["performer"] = json!([{"reference": "#p"}]);
        })
    };
    for wrong in ["#p", "#"] {
        has(holding(wrong), &[("Observation.contained[1].subject.reference", BadValue)]);
    }
    let bundle = |url: &str, target: Value, subject: Value| {
        let holder = observation(|o| o["subject"] = subject);
        json!({"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:uuid:59f5b2c1-4c67-4a4b-8a5c-f2d1b3c4f0aa", "resource": holder}, {"fullUrl": url, "resource": target}]})
    };
    let (reference, said) = (format!("Bundle.entry[0].resource.{}", &reference[12..]), format!("Bundle.entry[0].resource.{}", &said[12..]));
    for url in [URN, URL] {
        has(bundle(url, patient(), json!({"reference": url, "type": "Patient"})), &[]);
        has(bundle(url, practitioner(), json!({"reference": url})), &[(&reference, BadValue)]);
        has(bundle(url, patient(), json!({"reference": url, "type": "Device"})), &[(&said, BadValue)]);
    }
    // Each entry's `#p` is its own.
    let mut two = bundle(URN, patient(), json!({"reference": "#p"}));
    two["entry"][0]["resource"]["contained"] = json!([patient()]);
    two["entry"][1]["resource"]["contained"] = json!([practitioner()]);
    has(two, &[]);
}

#[test]
fn resources_inside_resources_are_looked_at() {
    has(patient(|p| p["contained"] = json!([{"resourceType": "Organization", "nam": "x"}])), &[("Patient.contained[0].nam", Structure)]);
    has(patient(|p| p["contained"] = json!([{"id": "o"}])), &[("Patient.contained[0]", Structure)]);
    has(
        patient(|p| {
            p["contained"] =
                json!([{"resourceType": "Organization", "name": "x", "contained": [{"resourceType": "Basic", "code": {"text": "x"}}]}])
        }),
        &[("Patient.contained[0].contained", Structure)],
    );
    let mut bundle = example(BUNDLE);
    bundle["entry"][1]["resource"]["component"] = json!([{"code": {"txt": "x"}}]);
    bundle["entry"][0]["resource"]["resourceType"] = json!("Human");
    has(bundle, &[("Bundle.entry[0].resource", Structure), ("Bundle.entry[1].resource.component[0].code.txt", Structure)]);
    let parameters = json!({"resourceType": "Parameters", "parameter": [{"name": "a", "part": [{"name": "b", "resource": {"resourceType": "Patient", "gender": "x"}}]}]});
    has(parameters, &[("Parameters.parameter[0].part[0].resource.gender", CodeInvalid)]);
}

#[test]
fn an_extension_has_a_value_or_extensions() {
    let extension = json!({"url": "urn:x", "valueString": "a", "extension": [{"url": "y", "valueBoolean": true}]});
    has(patient(|p| p["extension"] = json!([extension])), &[("Patient.extension[0]", Invariant)]);
    has(patient(|p| p["extension"] = json!([{"valueString": "a"}])), &[("Patient.extension[0].url", Required)]);
}

#[test]
fn all_problems_come_at_once_and_no_value_is_quoted() {
    let issues = structure(&json!({
        "resourceType": "Patient", "gender": "Mwanamke", "birthDate": "Mwinyi", "active": "Asha", "deceasedBoolean": "Juma",
        "identifier": [{"value": 19840807}], "managingOrganization": {"reference": "Neema/1"}, "photo": "Zawadi",
    }));
    let paths: Vec<&str> = issues.iter().map(|issue| issue.expression.as_str()).collect();
    let expected = ["gender", "birthDate", "active", "deceased", "identifier[0].value", "managingOrganization.reference", "photo"];
    assert_eq!(paths, expected.map(|path| format!("Patient.{path}")));
    let words = format!("{issues:?}");
    for value in ["Mwanamke", "Mwinyi", "Asha", "Juma", "19840807", "Neema", "Zawadi"] {
        assert!(!words.contains(value), "{words}");
    }
}

#[test]
fn no_more_problems_are_told_than_fit() {
    let issues = structure(&patient(|p| p["name"] = Value::Array(vec![json!({"x": 1}); 5000])));
    assert_eq!(issues.len(), MAX_ISSUES + 1);
    assert!(issues.last().is_some_and(|last| last.diagnostics.starts_with("4800 more") && last.severity == Severity::Error));
}

#[test]
fn bottomless_nesting_is_refused() {
    let mut extension = json!({"url": "x", "valueBoolean": true});
    for _ in 0..300 {
        extension = json!({"url": "x", "extension": [extension]});
    }
    let issues = structure(&patient(|p| p["extension"] = json!([extension])));
    assert_eq!(issues.iter().map(|issue| issue.code).collect::<Vec<_>>(), [TooLong]);
}

#[test]
fn every_structure_fits_the_set_of_seen_elements() {
    let mut open: Vec<&str> = crate::definitions::r4().resource_types().to_vec();
    let mut known = std::collections::HashSet::new();
    while let Some(name) = open.pop() {
        let Some(structure) = crate::definitions::r4().structure(name).filter(|_| known.insert(name)) else { continue };
        assert!(structure.elements.len() <= 64, "{name}");
        open.extend(structure.elements.iter().flat_map(|element| element.types.iter().map(|kind| kind.name)));
    }
    assert!(known.len() > 600);
}

// --- profiles ------------------------------------------------------------------------------------------------------

fn canonical_profiles() -> &'static [Profile] {
    static PROFILES: LazyLock<Vec<Profile>> =
        LazyLock::new(|| shipped_profiles().iter().map(|definition| Profile::from_structure_definition(definition).unwrap()).collect());
    &PROFILES
}

fn shipped(name: &str) -> &'static Profile {
    let url = format!("https://lango.health/fhir/StructureDefinition/lango-{name}");
    canonical_profiles().iter().find(|profile| profile.url() == url).unwrap()
}

/// Every problem of a resource against one profile.
fn profile(resource: &Value, profile: &Profile) -> Vec<Issue> {
    let loaded = Profiles::new().snapshot();
    let targets = Targets::new();
    let world = World::new(&loaded, &(), None, &targets);
    let mut report = Report::default();
    super::profile::check(Scope::top(&world, resource), profile, resource, &Path::root(profile.type_name()), &mut report);
    report.finish()
}

#[track_caller]
fn lacks(resource: Value, name: &str, expected: &[(&str, IssueCode)]) {
    let issues = profile(&resource, shipped(name));
    assert_eq!(errors(&issues), expected, "{issues:#?}");
    assert!(issues.iter().all(|issue| issue.diagnostics.contains(shipped(name).url())));
}

#[test]
fn shipped_profiles_are_valid_structure_definitions() {
    assert_eq!(canonical_profiles().iter().map(Profile::type_name).collect::<Vec<_>>(), ["Patient", "Encounter", "Observation"]);
    for (definition, profile) in shipped_profiles().iter().zip(canonical_profiles()) {
        assert_eq!(structure(definition), [], "{}", profile.url());
        assert_eq!(definition["url"], profile.url());
    }
}

#[test]
fn the_patient_profile_asks_for_identifier_name_and_gender() {
    lacks(example(PATIENT), "patient", &[]);
    lacks(
        json!({"resourceType": "Patient"}),
        "patient",
        &[("Patient", Invariant), ("Patient.identifier", Required), ("Patient.name", Required), ("Patient.gender", Required)],
    );
    lacks(patient(|p| p["identifier"] = json!([{"value": "1"}])), "patient", &[("Patient", Invariant)]);
    lacks(patient(|p| p["identifier"] = json!([{"value": "1"}, {"system": "urn:x", "value": "2"}])), "patient", &[]);
    lacks(patient(|p| p["name"] = json!([{"family": "x"}, {"given": ["y"]}])), "patient", &[("Patient.name[1]", Invariant)]);
    lacks(patient(|p| p["name"] = json!([{"text": "x"}])), "patient", &[]);
    let unknown = json!([{"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}]);
    lacks(patient(|p| p["name"] = unknown), "patient", &[]);
    lacks(example(OBSERVATION), "patient", &[("Patient", Structure)]);
}

#[test]
fn a_patient_without_birth_date_is_warned_of() {
    let without = patient(|p| p.as_object_mut().unwrap().retain(|key, _| !key.ends_with("birthDate")));
    let issues = profile(&without, shipped("patient"));
    assert_eq!(issues.iter().map(|i| (i.severity, i.code)).collect::<Vec<_>>(), [(Severity::Warning, Invariant)]);
}

#[test]
fn the_encounter_profile_asks_who_when_and_where() {
    let visit = |change: fn(&mut Value)| {
        let mut visit = json!({
            "resourceType": "Encounter", "status": "finished", "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "subject": {"reference": "Patient/1"}, "period": {"start": "2026-09-07"}, "serviceProvider": {"reference": "Organization/1"},
        });
        change(&mut visit);
        visit
    };
    lacks(visit(|_| ()), "encounter", &[]);
    lacks(visit(|v| v["period"] = json!({"end": "2026"})), "encounter", &[("Encounter.period.start", Required)]);
    lacks(visit(|v| v["subject"] = json!({"reference": "Group/1"})), "encounter", &[("Encounter.subject.reference", BadValue)]);
    lacks(visit(|v| drop(v.as_object_mut().unwrap().remove("period"))), "encounter", &[("Encounter.period", Required)]);
    lacks(visit(|v| drop(v.as_object_mut().unwrap().remove("serviceProvider"))), "encounter", &[("Encounter.serviceProvider", Required)]);
}

#[test]
fn the_observation_profile_asks_what_of_whom_when_and_a_result() {
    lacks(example(OBSERVATION), "observation", &[]);
    lacks(
        json!({"resourceType": "Observation", "status": "final", "code": {}, "dataAbsentReason": {"text": "x"}}),
        "observation",
        &[("Observation.code", Invariant), ("Observation.subject", Required), ("Observation.effective", Required)],
    );
    lacks(observation(|o| drop(o.as_object_mut().unwrap().remove("component"))), "observation", &[("Observation", Invariant)]);
}

fn made(elements: Value) -> Result<Profile, ProfileError> {
    Profile::from_structure_definition(&json!({
        "resourceType": "StructureDefinition", "url": "urn:p", "type": "Observation", "derivation": "constraint", "differential": {"element": elements},
    }))
}

#[track_caller]
fn breaks(elements: Value, resource: Value, expected: &[(&str, IssueCode)]) {
    let profile = made(elements).unwrap();
    assert_eq!(errors(&self::profile(&resource, &profile)), expected);
}

#[test]
fn a_profile_fixes_values_and_asks_for_patterns() {
    let pattern =
        json!([{"path": "Observation.code", "patternCodeableConcept": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}}]);
    breaks(pattern.clone(), example(OBSERVATION), &[]);
    breaks(pattern, observation(|o| o["code"] = json!({"text": "x"})), &[("Observation.code", BadValue)]);
    let fixed = json!([{"path": "Observation.component.value[x].unit", "fixedString": "mmHg"}]);
    breaks(fixed.clone(), example(OBSERVATION), &[]);
    breaks(
        fixed,
        observation(|o| o["component"][1]["valueQuantity"]["unit"] = json!("kPa")),
        &[("Observation.component[1].value.unit", BadValue)],
    );
    let number = json!([{"path": "Observation.component.value[x]", "patternQuantity": {"value": 120.0}}]);
    breaks(number, observation(|o| o["component"] = json!([{"valueQuantity": {"value": 120}}])), &[]);
}

#[test]
fn a_profile_limits_how_many() {
    breaks(json!([{"path": "Observation.component", "max": "1"}]), example(OBSERVATION), &[("Observation.component", Structure)]);
    breaks(json!([{"path": "Observation.component", "max": "0"}]), example(OBSERVATION), &[("Observation.component", Structure)]);
    breaks(json!([{"path": "Observation.component", "min": 3}]), example(OBSERVATION), &[("Observation.component", Required)]);
    breaks(
        json!([{"path": "Observation.component.interpretation", "min": 1}]),
        example(OBSERVATION),
        &[("Observation.component[0].interpretation", Required), ("Observation.component[1].interpretation", Required)],
    );
    // What is inside an absent element is not missed.
    breaks(json!([{"path": "Observation.referenceRange.low", "min": 1}]), example(OBSERVATION), &[]);
}

#[test]
fn a_profile_narrows_types_and_codes() {
    let types = json!([{"path": "Observation.effective[x]", "type": [{"code": "Period"}]}]);
    breaks(types, example(OBSERVATION), &[("Observation.effective", Structure)]);
    let inside = json!([{"path": "Observation.value[x]", "type": [{"code": "Quantity"}]}, {"path": "Observation.value[x].unit", "min": 1}]);
    breaks(inside, observation(|o| o["valueQuantity"] = json!({"value": 1})), &[("Observation.value.unit", Required)]);
    let binding = json!([{"path": "Observation.component.code", "binding": {"strength": "required", "valueSet": "http://hl7.org/fhir/ValueSet/administrative-gender"}}]);
    let codes = observation(|o| {
        o["component"] = json!([{"code": {"coding": [{"system": "http://hl7.org/fhir/administrative-gender", "code": "male"}]}}, {"code": {"text": "x"}}])
    });
    breaks(binding, codes, &[("Observation.component[1].code", CodeInvalid)]);
}

#[test]
fn slices_that_nobody_can_tell_apart_are_not_blamed() {
    let slices = json!([
        {"id": "Observation.component:systolic", "path": "Observation.component", "sliceName": "systolic", "min": 9},
        {"id": "Observation.component:systolic.interpretation", "path": "Observation.component.interpretation", "min": 1},
        {"path": "Observation.category", "sliceName": "vital", "min": 1},
        {"path": "Observation.category.text", "min": 1},
    ]);
    breaks(slices, observation(|o| o["category"] = json!([{"coding": [{"code": "x"}]}])), &[]);
}

#[test]
fn a_definition_that_cannot_be_used_says_why() {
    let fault = |elements: Value| made(elements).err();
    assert_eq!(fault(json!([{"path": "Observation.colour"}])), Some(ProfileError::UnknownElement(0)));
    assert_eq!(fault(json!([{"path": "Patient.name"}])), Some(ProfileError::UnknownElement(0)));
    assert_eq!(fault(json!([{"path": "Observation"}, {}])), Some(ProfileError::UnknownElement(1)));
    assert_eq!(fault(json!([{"path": "Observation.code", "max": "many"}])), Some(ProfileError::Cardinality(0)));
    assert_eq!(fault(json!([{"path": "Observation.code", "min": -1}])), Some(ProfileError::Cardinality(0)));
    assert_eq!(Profile::from_structure_definition(&example(PATIENT)).err(), Some(ProfileError::NotAProfile));
}

// --- properties ----------------------------------------------------------------------------------------------------

/// Keys and texts that reach far into the tables, among ones that do not.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "resourceType", "id", "meta", "extension", "contained", "entry", "resource", "name", "given", "_given", "birthDate", "_birthDate", "code",
            "coding", "system", "valueQuantity", "valueString", "_valueString", "value", "subject", "reference", "text", "div", "status", "component",
            "parameter", "part", "url", "deceasedBoolean", "deceasedDateTime", "clinicalStatus", "period", "start",
        ]).prop_map(str::to_owned),
        1 => "_?\\PC{0,6}",
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "Patient",
            "Bundle",
            "Observation",
            "Parameters",
            "2026-02-30",
            "Patient/1",
            "urn:uuid:x",
            "<div>x</div>",
            "<div",
            "é",
            ""
        ])
        .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[<>/a-z\"'= &#;:!-]{0,24}".prop_map(|text| json!(format!("<div{text}"))),
        "[0-9T:.Z+é-]{0,26}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..8).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Puts `graft` at a place that `seed` chooses.
fn mutate(value: &mut Value, mut seed: u64, graft: Value) {
    let mut at = value;
    loop {
        let stop = seed.is_multiple_of(4);
        seed /= 4;
        let count = match &*at {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if count == 0 || (stop && seed.is_multiple_of(3)) {
            break;
        }
        let place = (seed % count as u64) as usize;
        seed /= count as u64;
        at = match at {
            Value::Array(items) => &mut items[place],
            Value::Object(map) => map.values_mut().nth(place).unwrap(),
            _ => unreachable!(),
        };
    }
    *at = graft;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_json_makes_the_validator_panic(resource in any_json(), type_name in prop::sample::select(vec!["Patient", "Bundle", "Observation", "Parameters"])) {
        let mut resource = resource;
        if let Some(map) = resource.as_object_mut() {
            map.insert("resourceType".into(), type_name.into());
        }
        let issues = structure(&resource);
        prop_assert!(issues.len() <= MAX_ISSUES + 1);
        for one in canonical_profiles() {
            prop_assert!(profile(&resource, one).len() <= MAX_ISSUES + 1);
        }
        _ = Profile::from_structure_definition(&resource);
    }

    #[test]
    fn a_spoiled_example_neither_panics_nor_leaks(seed in any::<u64>(), graft in any_json(), which in 0usize..3) {
        let mut resource = example([PATIENT, OBSERVATION, BUNDLE][which]);
        mutate(&mut resource, seed, graft);
        let issues = whole::validator(&[]).validate(&resource);
        prop_assert!(issues.len() <= MAX_ISSUES + 1);
        let words = format!("{issues:?}");
        for value in ["Chalmers", "Windsor", "12345", "PleasantVille"] {
            prop_assert!(!words.contains(value));
        }
        for one in canonical_profiles() {
            _ = profile(&resource, one);
        }
    }

    #[test]
    fn a_spoiled_profile_never_panics(seed in any::<u64>(), graft in any_json(), which in 0usize..3) {
        let mut definition = shipped_profiles().swap_remove(which);
        mutate(&mut definition, seed, graft);
        if let Ok(profile) = Profile::from_structure_definition(&definition) {
            _ = self::profile(&example(OBSERVATION), &profile);
        }
    }
}

/// <https://hl7.org/fhir/R4/references-definitions.html#Reference.type>
#[test]
fn the_type_of_a_reference_agrees_with_what_it_refers_to() {
    let subject = |reference: Option<&str>, said: &str| {
        observation(|observation| {
            observation["subject"] = json!({"type": said, "display": "x"});
            if let Some(reference) = reference {
                observation["subject"]["reference"] = json!(reference);
            }
        })
    };
    let elsewhere = "http://a.org/fhir/Patient/1/_history/2";
    for (reference, said) in [
        (Some("Patient/1"), "Patient"),
        (Some("Patient/1"), "http://hl7.org/fhir/StructureDefinition/Patient"),
        (Some("Patient/1"), "Resource"),
        (Some("Patient/1"), "http://a.org/StructureDefinition/model"),
        (Some(elsewhere), "Patient"),
        (Some("http://a.org/patients/1"), "Group"),
        (Some("urn:uuid:c757873d-ec9a-4326-a141-556f43239520"), "Group"),
        (None, "Group"),
    ] {
        has(subject(reference, said), &[]);
    }
    for (reference, said) in [
        (Some("Patient/1"), "Group"),
        (Some("Patient/1"), "Practitioner"),
        (Some("Patient/1"), "patient"),
        (Some("Patient?identifier=x"), "Group"),
        (Some(elsewhere), "http://hl7.org/fhir/StructureDefinition/Group"),
        (Some("urn:uuid:c757873d-ec9a-4326-a141-556f43239520"), "Practitioner"),
        (None, "Practitioner"),
    ] {
        has(subject(reference, said), &[("Observation.subject.type", BadValue)]);
    }
}
