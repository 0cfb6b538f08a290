use super::*;
use crate::terminology::code_system::Content;
use std::collections::HashSet;

fn map(name: &str) -> String {
    format!("https://lango.health/fhir/ConceptMap/{name}")
}

#[test]
fn every_file_is_readable_and_named_after_what_it_holds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conceptmaps");
    let mut files = 0;
    let mut urls = HashSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        files += 1;
        let resource =
            crate::fhir::json::parse(&std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("{}: {name}", path.display()));
        assert!(Terminology::holds(text("resourceType")));
        assert_eq!(path.file_stem().unwrap().to_str().unwrap(), format!("{}-{}", text("resourceType"), text("id")));
        assert!(crate::fhir::reference::is_id(text("id")));
        assert_eq!(text("status"), "active");
        assert!(text("description").len() > 20);
        let name = text("name");
        assert!(
            name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{name}"
        );
        assert!(urls.insert((text("resourceType").to_owned(), text("url").to_owned())), "{} is there twice", text("url"));
        if text("url").starts_with("https://lango.health/") {
            assert_eq!(text("url"), format!("https://lango.health/fhir/{}/{}", text("resourceType"), text("id")));
            assert_eq!(text("version"), "1");
        }
    }
    assert_eq!(shipped().len(), files);
}

#[test]
fn every_resource_is_valid_fhir() {
    for resource in shipped() {
        let problems: Vec<_> = crate::validate::structure(&resource).into_iter().filter(|issue| issue.severity.is_error()).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", resource["id"]);
    }
}

#[test]
fn every_value_set_lists_codes_that_exist() {
    let terminology = Terminology::with_shipped();
    for set in shipped().iter().filter(|resource| resource["resourceType"] == "ValueSet") {
        let url = set["url"].as_str().unwrap();
        let request = expand::ExpandRequest { url: Some(url.to_owned()), ..expand::ExpandRequest::default() };
        let expansion = terminology.expand(&request).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(terminology.members(url), Some(expansion.contains), "{url}");
    }
}

#[test]
fn no_code_is_twice_in_a_system_or_a_group() {
    for resource in shipped() {
        let mut waiting: Vec<&Value> = resource.get("concept").and_then(Value::as_array).into_iter().flatten().collect();
        let mut seen = HashSet::new();
        while let Some(concept) = waiting.pop() {
            let code = concept["code"].as_str().unwrap();
            assert!(seen.insert(code), "{}: {code}", resource["id"]);
            waiting.extend(concept.get("concept").and_then(Value::as_array).into_iter().flatten());
        }
        for group in resource.get("group").and_then(Value::as_array).into_iter().flatten() {
            let mut seen = HashSet::new();
            for element in group["element"].as_array().unwrap() {
                assert!(seen.insert(element["code"].as_str().unwrap()), "{}: {}", resource["id"], element["code"]);
                assert!(!element["target"].as_array().unwrap().is_empty());
            }
        }
    }
}

#[test]
fn every_map_starts_and_ends_at_codes_that_are_there() {
    let terminology = Terminology::with_shipped();
    let loaded = terminology.loaded.load();
    // URIs, and the codes of a destination: nobody here can list them.
    let open = |system: &str| system.starts_with("urn:");
    for resource in shipped().iter().filter(|resource| resource["resourceType"] == "ConceptMap") {
        let id = &resource["id"];
        for group in resource.get("group").and_then(Value::as_array).into_iter().flatten() {
            let (source, target) = (group["source"].as_str().unwrap(), group["target"].as_str().unwrap());
            let source = loaded.systems.canonical(source).unwrap_or_else(|| panic!("{id}: {source} is not shipped"));
            for element in group["element"].as_array().unwrap() {
                assert!(source.find(element["code"].as_str().unwrap()).is_some(), "{id}: {} is not in {}", element["code"], source.url());
                for one in element["target"].as_array().unwrap() {
                    let Some(code) = one.get("code").and_then(Value::as_str) else {
                        assert_eq!(one["equivalence"], "unmatched", "{id}: {}", element["code"]);
                        continue;
                    };
                    if !open(target) {
                        let system = loaded.systems.canonical(target).unwrap_or_else(|| panic!("{id}: {target} is not shipped"));
                        assert!(system.find(code).is_some_and(|concept| &*concept.code == code), "{id}: {target} has no {code}");
                    }
                }
            }
            if let Some(code) = group.pointer("/unmapped/code").and_then(Value::as_str) {
                assert!(loaded.systems.canonical(target).unwrap().find(code).is_some(), "{id}: {code}");
            }
        }
    }
}

#[test]
fn every_value_set_expands_to_valid_fhir() {
    let terminology = Terminology::with_shipped();
    for resource in shipped().iter().filter(|resource| resource["resourceType"] == "ValueSet") {
        let answer = ask(&terminology, "ValueSet", "expand", &[("url", resource["url"].as_str().unwrap())]).unwrap();
        assert!(answer["expansion"]["total"].as_u64().unwrap() > 0, "{}", resource["id"]);
        let problems: Vec<_> = crate::validate::structure(&answer).into_iter().filter(|issue| issue.severity.is_error()).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", resource["id"]);
    }
    let loaded = terminology.loaded.load();
    assert!(loaded.systems.all().iter().all(|system| system.content != Content::Absent));
}

#[test]
fn the_readme_names_every_map() {
    let readme = include_str!("../../../conceptmaps/README.md");
    for resource in shipped().iter().filter(|resource| resource["resourceType"] == "ConceptMap") {
        assert!(readme.contains(&format!("| `{}` |", resource["id"].as_str().unwrap())), "{}", resource["id"]);
    }
}

#[test]
fn words_that_facilities_write_reach_standard_codes() {
    let terminology = Terminology::with_shipped();
    let cases = [
        ("hdu-gender", "female", "http://hl7.org/fhir/administrative-gender", "female"),
        ("hdu-gender", "M", "http://hl7.org/fhir/administrative-gender", "male"),
        ("hdu-visit-type", "OPD", "http://terminology.hl7.org/CodeSystem/v3-ActCode", "AMB"),
        ("hdu-visit-type", "EMD", "http://terminology.hl7.org/CodeSystem/v3-ActCode", "EMER"),
        ("hdu-certainty", "CONFIRMED", "http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed"),
        ("hdu-code-type", "LOINC", "urn:ietf:rfc:3986", "http://loinc.org"),
        ("hdu-code-type", "MSD CODE", "urn:ietf:rfc:3986", "https://lango.health/fhir/CodeSystem/msd"),
        ("hdu-identifier-system", "NIDA", "urn:ietf:rfc:3986", "https://lango.health/id/nida"),
        ("hdu-identifier-type", "MRN", "http://terminology.hl7.org/CodeSystem/v2-0203", "MR"),
        ("hdu-lab-priority", "R", "http://hl7.org/fhir/request-priority", "routine"),
        ("hdu-result-status", "F", "http://hl7.org/fhir/observation-status", "final"),
        ("hdu-specimen-acceptance", "ACCEPTED", "http://hl7.org/fhir/specimen-status", "available"),
        ("hdu-vital-sign", "weight", "http://loinc.org", "29463-7"),
        ("hdu-vital-sign-unit", "temperature", "http://unitsofmeasure.org", "Cel"),
        ("hdu-test-outcome", "Negative", "http://loinc.org", "LA6577-6"),
        ("hdu-vaccination-status", "completed", "http://hl7.org/fhir/event-status", "completed"),
        ("hdu-medication-route", "oral", "http://snomed.info/sct", "26643006"),
        ("hdu-relationship", "Spouse", "http://terminology.hl7.org/CodeSystem/v3-RoleCode", "SPS"),
        ("hdu-insurance-type", "INSURANCE", "http://terminology.hl7.org/CodeSystem/v3-ActCode", "HIP"),
        ("hdu-place-of-birth", "hf", "https://lango.health/fhir/CodeSystem/hdu-place-of-birth", "HF"),
        ("hdu-field-code", "antenatalCareDetails.gravidity", "http://loinc.org", "11996-6"),
    ];
    for (name, word, system, code) in cases {
        let source = format!("https://lango.health/fhir/CodeSystem/{}", if name == "hdu-field-code" { "hdu-field" } else { name });
        let found = terminology.translate_code(&map(name), Some(&source), word).unwrap();
        assert_eq!(found.len(), 1, "{name} {word}");
        assert_eq!((found[0].system.as_deref(), found[0].code.as_deref()), (Some(system), Some(code)), "{name} {word}");
    }
    assert_eq!(
        terminology.translate_code(&map("hdu-identifier-system"), None, "MRN"),
        Some(Vec::new()),
        "a record number is the facility's own"
    );
}

#[test]
fn every_outpatient_diagnosis_has_one_group() {
    let terminology = Terminology::with_shipped();
    let group = |code: &str| {
        let found = terminology.translate_code(&map("icd10-diagnosis-group"), Some(ICD10), code).unwrap();
        assert_eq!(found.len(), 1, "{code}");
        found[0].code.as_deref().unwrap().to_owned()
    };
    for code in ["B54", "B50.9", "J06.9", "A09", "J18.9", "I10", "E11.9", "N39.0", "B20", "A15.0", "K29.7"] {
        assert_eq!(group(code), code[..3]);
    }
    assert_eq!(group("Z99.9"), "OTHER");
    assert_eq!(group("no code"), "OTHER");
}

#[test]
fn age_bands_follow_on_each_other_without_a_gap() {
    let terminology = Terminology::with_shipped();
    let answer = ask(&terminology, "ValueSet", "expand", &[("url", "https://lango.health/fhir/ValueSet/age-band")]).unwrap();
    let mut next = "P0Y".to_owned();
    for band in answer["expansion"]["contains"].as_array().unwrap() {
        let (low, high) = band["code"].as_str().unwrap().split_once("--").unwrap();
        assert_eq!(low, next);
        next = high.to_owned();
    }
    assert_eq!(next, "P9999Y");
}
