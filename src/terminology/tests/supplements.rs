use super::*;

const URL: &str = "http://test/animals";
const SUPPLEMENT: &str = "http://test/animals-fr";

fn french(of: &str) -> Value {
    json!({
        "resourceType": "CodeSystem", "id": "fr", "url": SUPPLEMENT, "version": "7", "status": "active", "content": "supplement", "supplements": of,
        "property": [{ "code": "sound", "description": "What it says" }],
        "concept": [
            { "code": "dog", "designation": [{ "language": "fr", "value": "Chien" }], "property": [{ "code": "sound", "valueString": "ouaf" }] },
            { "code": "whale", "designation": [{ "language": "fr-CA", "value": "Baleine" }] }
        ]
    })
}

fn all() -> Value {
    value_set("all", json!({ "include": [{ "system": URL }] }))
}

#[test]
fn a_supplement_adds_to_lookup_expansion_and_validation() {
    let terminology = holding(&[animals(), french(URL), all()]);
    let asked = [("system", URL), ("code", "dog"), ("displayLanguage", "fr"), ("useSupplement", SUPPLEMENT)];
    let answer = ask(&terminology, "CodeSystem", "lookup", &asked).unwrap();
    assert_eq!(value(&answer, "display"), Some(&json!("Chien")));
    let text = answer.to_string();
    assert!(text.contains("Mbwa") && text.contains("ouaf") && text.contains("What it says"), "{text}");

    let pairs = [("url", "http://test/vs/all"), ("displayLanguage", "fr"), ("includeDesignations", "true"), ("filter", "bal")];
    let answer = ask(&terminology, "ValueSet", "expand", &pairs).unwrap();
    let contains = &answer["expansion"]["contains"];
    assert_eq!(contains[0]["display"], "Baleine");
    assert_eq!(contains[0]["designation"], json!([{ "language": "fr-CA", "value": "Baleine" }]));
    let parameters = answer["expansion"]["parameter"].as_array().unwrap();
    assert!(parameters.contains(&json!({ "name": "used-supplement", "valueUri": "http://test/animals-fr|7" })), "{parameters:?}");

    for (type_name, url) in [("CodeSystem", URL), ("ValueSet", "http://test/vs/all")] {
        for (display, good) in [("chien", true), ("Mbwa", true), ("chat", false)] {
            let pairs = [("url", url), ("system", URL), ("code", "dog"), ("display", display), ("useSupplement", SUPPLEMENT)];
            let answer = ask(&terminology, type_name, "validate-code", &pairs).unwrap();
            assert_eq!(value(&answer, "result"), Some(&json!(good)), "{type_name} {display}");
        }
    }
}

#[test]
fn its_properties_are_filtered_by_and_its_codes_are_no_codes() {
    let by_sound = json!({ "include": [{ "system": URL, "filter": [{ "property": "sound", "op": "=", "value": "ouaf" }] }] });
    let mut more = french(URL);
    more["concept"].as_array_mut().unwrap().push(json!({ "code": "unicorn" }));
    let terminology = holding(&[animals(), more, value_set("loud", by_sound), all()]);
    assert_eq!(terminology.is_member("http://test/vs/loud", URL, "dog"), Some(true));
    assert_eq!(terminology.is_member("http://test/vs/loud", URL, "bird"), Some(false));
    assert_eq!(terminology.is_member("http://test/vs/all", URL, "unicorn"), Some(false));
    // It is no code system that one could ask.
    let alone = ask(&terminology, "CodeSystem", "lookup", &[("system", SUPPLEMENT), ("code", "dog")]);
    assert!(matches!(alone, Err(TerminologyError::NotLoaded { .. })), "{alone:?}");
}

#[test]
fn a_supplement_is_for_the_version_it_names_and_is_gone_when_removed_or_retired() {
    let display = |terminology: &Terminology| {
        let answer = ask(terminology, "CodeSystem", "lookup", &[("system", URL), ("code", "dog"), ("displayLanguage", "fr")]).unwrap();
        value(&answer, "display").unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(display(&holding(&[animals(), french("http://test/animals|2")])), "Chien");
    assert_eq!(display(&holding(&[animals(), french("http://test/animals|1")])), "Dog");
    let terminology = holding(&[french(URL), animals()]);
    assert_eq!(display(&terminology), "Chien");
    let mut retired = french(URL);
    retired["status"] = "retired".into();
    terminology.upsert(&retired);
    assert_eq!(display(&terminology), "Dog");
    terminology.upsert(&french(URL));
    terminology.remove("CodeSystem", "fr");
    assert_eq!(display(&terminology), "Dog");
    // The same id as a system of its own, and back.
    let mut own = french(URL);
    own["content"] = "complete".into();
    terminology.upsert(&own);
    assert_eq!((display(&terminology), terminology.display(SUPPLEMENT, "dog")), ("Dog".to_owned(), None));
    assert!(ask(&terminology, "CodeSystem", "validate-code", &[("url", SUPPLEMENT), ("code", "dog")]).is_ok());
    terminology.upsert(&french(URL));
    assert_eq!(display(&terminology), "Chien");
}

#[test]
fn a_supplement_that_is_named_and_not_there_is_an_error() {
    let needing = |id: &str, supplement: &str| {
        let mut set = value_set(id, json!({ "include": [{ "system": URL }] }));
        let url = "http://hl7.org/fhir/StructureDefinition/valueset-supplement";
        set["extension"] = json!([{ "url": url, "valueCanonical": supplement }]);
        set
    };
    let outer = value_set("outer", json!({ "include": [{ "valueSet": ["http://test/vs/bad"] }] }));
    let resources = [animals(), french(URL), all(), needing("good", SUPPLEMENT), needing("bad", "http://test/none"), outer];
    let terminology = holding(&resources);
    let asked = |type_name: &str, name: &str, pairs: &[(&str, &str)]| {
        ask(&terminology, type_name, name, pairs).map_err(|error| matches!(error, TerminologyError::NotLoaded { .. }))
    };
    let code = [("system", URL), ("code", "dog")];
    let with = |url: &'static str, more: &[(&'static str, &'static str)]| [&[("url", url)][..], &code, more].concat();
    let unknown = [("useSupplement", "http://test/none")];
    assert_eq!(asked("CodeSystem", "lookup", &[&code[..], &unknown].concat()), Err(true));
    assert_eq!(asked("CodeSystem", "validate-code", &[("url", URL), ("code", "dog"), unknown[0]]), Err(true));
    // A code system that is none.
    assert_eq!(asked("CodeSystem", "lookup", &[&code[..], &[("useSupplement", URL)]].concat()), Err(true));
    for name in ["expand", "validate-code"] {
        assert_eq!(asked("ValueSet", name, &with("http://test/vs/all", &unknown)), Err(true), "{name}");
        assert_eq!(asked("ValueSet", name, &with("http://test/vs/bad", &[])), Err(true), "{name}");
        assert_eq!(asked("ValueSet", name, &with("http://test/vs/outer", &[])), Err(true), "{name}");
        assert!(asked("ValueSet", name, &with("http://test/vs/good", &[("useSupplement", "http://test/animals-fr|7")])).is_ok(), "{name}");
    }
}
