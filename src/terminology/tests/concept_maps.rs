use super::*;

const A: &str = "http://test/a";
const B: &str = "http://test/b";

fn colours() -> Value {
    concept_map(
        "colours",
        json!([{ "source": A, "target": B, "element": [
        { "code": "red", "display": "Red", "target": [{ "code": "R", "display": "Rouge", "equivalence": "equal" }] },
        { "code": "pink", "target": [{ "code": "R", "equivalence": "wider", "product": [{ "property": "http://test/shade", "value": "light" }] }] },
        { "code": "octarine", "target": [{ "equivalence": "unmatched", "comment": "nobody sees it" }] },
    ] }]),
    )
}

fn codes(found: &[Translation]) -> Vec<&str> {
    found.iter().filter_map(|one| one.code.as_deref()).collect()
}

#[test]
fn translate_gives_each_match_with_its_equivalence_and_map() {
    let answer =
        ask(&holding(&[colours()]), "ConceptMap", "translate", &[("url", "http://test/cm/colours"), ("system", A), ("code", "pink")])
            .unwrap();
    let expected = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "result", "valueBoolean": true },
        { "name": "match", "part": [
            { "name": "equivalence", "valueCode": "wider" },
            { "name": "concept", "valueCoding": { "system": B, "code": "R" } },
            { "name": "product", "part": [{ "name": "element", "valueUri": "http://test/shade" }, { "name": "concept", "valueCoding": { "code": "light" } }] },
            { "name": "source", "valueUri": "http://test/cm/colours" }
        ] }
    ] });
    assert_eq!(answer, expected);
    assert_eq!(crate::validate::structure(&answer), []);
}

#[test]
fn no_match_is_an_answer_and_no_error() {
    let terminology = holding(&[colours()]);
    for (code, matches) in [("octarine", 1), ("green", 0)] {
        let answer =
            ask(&terminology, "ConceptMap", "translate", &[("url", "http://test/cm/colours"), ("system", A), ("code", code)]).unwrap();
        assert_eq!(value(&answer, "result"), Some(&json!(false)), "{code}");
        assert!(value(&answer, "message").is_some());
        assert_eq!(answer["parameter"].as_array().unwrap().iter().filter(|p| p["name"] == "match").count(), matches);
        assert_eq!(terminology.translate_code("http://test/cm/colours", Some(A), code), Some(Vec::new()));
    }
    assert_eq!(terminology.translate_code("http://test/cm/none", None, "red"), None);
    assert!(ask(&terminology, "ConceptMap", "translate", &[("url", "http://test/cm/none"), ("system", A), ("code", "red")]).is_err());
}

#[test]
fn a_map_is_named_by_id_by_version_or_found_by_what_it_is_between() {
    let mut map = colours();
    map["sourceCanonical"] = "http://test/vs/a".into();
    map["targetUri"] = "http://test/vs/b".into();
    let terminology = holding(&[
        map,
        concept_map(
            "other",
            json!([{ "source": A, "target": "http://test/c", "element": [{ "code": "red", "target": [{ "code": "C", "equivalence": "equal" }] }] }]),
        ),
    ]);
    let found = |id: Option<&str>, pairs: &[(&str, &str)]| {
        let arguments = query(pairs).with("system", A).with("code", "red");
        let request = translate::TranslateRequest::read(id, &arguments).unwrap();
        terminology.translate(&request).map(|answer| codes(&answer.matches).join(" "))
    };
    assert_eq!(found(Some("colours"), &[]).unwrap(), "R");
    assert_eq!(found(None, &[("url", "http://test/cm/colours"), ("conceptMapVersion", "1")]).unwrap(), "R");
    assert_eq!(found(None, &[("source", "http://test/vs/a"), ("target", "http://test/vs/b")]).unwrap(), "R");
    assert_eq!(found(None, &[("targetsystem", B)]).unwrap(), "R");
    assert_eq!(found(None, &[("target", "http://test/c")]).unwrap(), "C");
    assert_eq!(found(None, &[]).unwrap(), "R C");
    assert!(found(None, &[("url", "http://test/cm/colours"), ("conceptMapVersion", "7")]).is_err());
    assert!(found(Some("none"), &[]).is_err());
}

#[test]
fn a_map_for_another_version_of_the_system_says_so() {
    let mut map = colours();
    map["group"][0]["sourceVersion"] = "1".into();
    let terminology = holding(&[map]);
    let message = |version: &str| {
        let answer = ask(&terminology, "ConceptMap", "translate", &[("system", A), ("code", "red"), ("version", version)]).unwrap();
        assert_eq!(value(&answer, "result"), Some(&json!(true)));
        value(&answer, "message").and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(message("1"), None);
    assert!(message("2").is_some_and(|words| words.starts_with("the ConceptMap is for version 1 of the code system")));
}

#[test]
fn reverse_gives_every_source_with_the_equivalence_turned_round() {
    let terminology = holding(&[colours()]);
    let arguments = query(&[("url", "http://test/cm/colours"), ("reverse", "true"), ("coding", "http://test/b|R")]);
    let answer = terminology.translate(&translate::TranslateRequest::read(None, &arguments).unwrap()).unwrap();
    let found: Vec<_> = answer.matches.iter().map(|one| (one.code.as_deref().unwrap(), one.equivalence)).collect();
    assert_eq!(found, [("red", Equivalence::Equal), ("pink", Equivalence::Narrower)]);
    assert!(answer.matches.iter().all(|one| one.system.as_deref() == Some(A)));
}

#[test]
fn a_concept_is_translated_by_each_of_its_codings_once() {
    let concept =
        json!({ "coding": [{ "system": A, "code": "red" }, { "system": A, "code": "red" }, { "system": "http://test/z", "code": "red" }] });
    let parameters = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "url", "valueUri": "http://test/cm/colours" }, { "name": "codeableConcept", "valueCodeableConcept": concept } ] });
    let answer = holding(&[colours()]).operate("ConceptMap", None, "translate", &Arguments::from_parameters(&parameters).unwrap()).unwrap();
    assert_eq!(answer["parameter"].as_array().unwrap().iter().filter(|p| p["name"] == "match").count(), 1);
}

#[test]
fn unmapped_codes_go_where_the_map_says() {
    let group = |unmapped: Value| json!([{ "source": A, "target": B, "element": [{ "code": "red", "target": [{ "code": "R", "equivalence": "equal" }] }], "unmapped": unmapped }]);
    let terminology = holding(&[
        concept_map("provided", group(json!({ "mode": "provided" }))),
        concept_map("fixed", group(json!({ "mode": "fixed", "code": "?", "display": "Some colour" }))),
        concept_map("other", group(json!({ "mode": "other-map", "url": "http://test/cm/fixed" }))),
        concept_map("round", group(json!({ "mode": "other-map", "url": "http://test/cm/about" }))),
        concept_map("about", group(json!({ "mode": "other-map", "url": "http://test/cm/round" }))),
    ]);
    let translated = |map: &str, code: &str| {
        let found = terminology.translate_code(&format!("http://test/cm/{map}"), Some(A), code).unwrap();
        codes(&found).join(" ")
    };
    for (map, unknown) in [("provided", "green"), ("fixed", "?"), ("other", "?"), ("round", "")] {
        assert_eq!(translated(map, "red"), "R");
        assert_eq!(translated(map, "green"), unknown, "{map}");
    }
}

#[test]
fn only_what_can_be_an_icd_10_code_is_handed_on_as_one() {
    let map = concept_map("to-icd", json!([{ "source": A, "target": ICD10, "element": [], "unmapped": { "mode": "provided" } }]));
    let terminology = holding(&[map]);
    let translated = |code: &str| codes(&terminology.translate_code("http://test/cm/to-icd", Some(A), code).unwrap()).join(" ");
    for code in ["B54", "B50.9", "S52.51", "F32.01", "U07.1", "C7A", "M84.475A", "T36.0X1A"] {
        assert_eq!(translated(code), code);
    }
    for (sent, code) in [("b54", "B54"), (" j06.9", "J06.9"), ("B509", "B50.9"), ("s5251", "S52.51")] {
        assert_eq!(translated(sent), code);
    }
    for code in [
        "B99.99",
        "A09.X",
        "J06.9X",
        "M84.X",
        "M84.4A",
        "MALARIA",
        "HOMA YA MBU",
        "B5",
        "B54.",
        "12",
        "B54 - Malaria",
        "B50.99999",
        "B50.9.1",
        "",
        "KIPIMO-77",
    ] {
        assert_eq!(translated(code), "", "{code}");
    }
    // Where the whole of it is loaded, it knows.
    let whole = json!({ "resourceType": "CodeSystem", "id": "icd", "url": ICD10, "content": "complete", "caseSensitive": true,
        "concept": [{ "code": "A00-B99", "display": "A chapter" }, { "code": "B54", "display": "Malaria" }, { "code": "B99.99", "display": "Ours" }] });
    let map = concept_map("to-icd", json!([{ "source": A, "target": ICD10, "element": [], "unmapped": { "mode": "provided" } }]));
    let terminology = holding(&[map, whole]);
    let translated = |code: &str| codes(&terminology.translate_code("http://test/cm/to-icd", Some(A), code).unwrap()).join(" ");
    for (sent, code) in [("b54", "B54"), ("B9999", "B99.99"), ("B50.9", ""), ("A00-B99", "")] {
        assert_eq!(translated(sent), code, "{sent}");
    }
}

#[test]
fn case_is_ignored_where_the_source_system_ignores_it() {
    let words = json!({ "resourceType": "CodeSystem", "id": "a", "url": A, "content": "complete", "caseSensitive": false });
    let map = colours();
    assert_eq!(holding(std::slice::from_ref(&map)).translate_code("http://test/cm/colours", Some(A), "RED").unwrap(), []);
    let terminology = holding(&[words, map]);
    assert_eq!(codes(&terminology.translate_code("http://test/cm/colours", Some(A), " Red ").unwrap()), ["R"]);
    assert_eq!(codes(&terminology.translate_code("http://test/cm/colours", None, "RED").unwrap()), ["R"]);
}

#[test]
fn an_icd_10_code_takes_the_line_of_its_category() {
    let line = |code: &str| json!({ "code": code, "target": [{ "code": code, "equivalence": "equal" }] });
    let map = concept_map(
        "icd",
        json!([{ "source": ICD10, "target": B, "element": [line("A15"), line("S52.5"), line("S52")], "unmapped": { "mode": "fixed", "code": "OTHER" } }]),
    );
    let terminology = holding(&[map]);
    let cases = [
        ("A15", "A15", Equivalence::Equal),
        ("A15.0", "A15", Equivalence::Wider),
        ("A150", "A15", Equivalence::Wider),
        ("S52.51", "S52.5", Equivalence::Wider),
        ("S52.9", "S52", Equivalence::Wider),
        ("A16.0", "OTHER", Equivalence::RelatedTo),
        ("A1", "OTHER", Equivalence::RelatedTo),
        ("É15.0", "OTHER", Equivalence::RelatedTo),
    ];
    for (code, target, equivalence) in cases {
        let found = terminology.translate_code("http://test/cm/icd", Some(ICD10), code).unwrap();
        assert_eq!(
            found.iter().map(|one| (one.code.as_deref().unwrap(), one.equivalence)).collect::<Vec<_>>(),
            [(target, equivalence)],
            "{code}"
        );
    }
}

#[test]
fn a_map_may_come_with_the_question() {
    let mut map = colours();
    map.as_object_mut().unwrap().remove("id");
    map.as_object_mut().unwrap().remove("url");
    let parameters = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "conceptMap", "resource": map }, { "name": "coding", "valueCoding": { "system": A, "code": "red" } } ] });
    let answer = Terminology::new().operate("ConceptMap", None, "translate", &Arguments::from_parameters(&parameters).unwrap()).unwrap();
    assert_eq!(value(&answer, "result"), Some(&json!(true)));
}

#[test]
fn a_target_that_depends_on_something_else_is_left_out() {
    let on = |value: &str| json!([{ "property": "urn:p", "system": "urn:s", "value": value }]);
    let targets = json!([
        { "code": "T0", "equivalence": "equivalent" },
        { "code": "T1", "equivalence": "equivalent", "dependsOn": on("v1") },
        { "code": "T2", "equivalence": "equivalent", "dependsOn": on("v2") }
    ]);
    let terminology =
        holding(&[concept_map("d", json!([{ "source": "urn:a", "target": "urn:b", "element": [{ "code": "1", "target": targets }] }]))]);
    let codes = |dependencies: Vec<Value>| {
        let mut parameter = vec![
            json!({ "name": "url", "valueUri": "http://test/cm/d" }),
            json!({ "name": "code", "valueCode": "1" }),
            json!({ "name": "system", "valueUri": "urn:a" }),
        ];
        parameter.extend(dependencies.into_iter().map(|part| json!({ "name": "dependency", "part": part })));
        let arguments = Arguments::from_parameters(&json!({ "resourceType": "Parameters", "parameter": parameter })).unwrap();
        let answer = terminology.operate("ConceptMap", None, "translate", &arguments)?;
        let matches = answer["parameter"].as_array().unwrap().iter().filter(|one| one["name"] == "match");
        Ok::<_, TerminologyError>(
            matches.map(|one| value(one, "concept").unwrap()["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
        )
    };
    let given = |element: &str, concept: Value| json!([{ "name": "element", "valueUri": element }, { "name": "concept", "valueCodeableConcept": concept }]);
    assert_eq!(codes(Vec::new()).unwrap(), ["T0", "T1", "T2"]);
    assert_eq!(codes(vec![given("urn:p", json!({ "coding": [{ "code": "v2" }] }))]).unwrap(), ["T0", "T2"]);
    assert_eq!(codes(vec![given("urn:p", json!({ "coding": [{ "system": "urn:s", "code": "v1" }] }))]).unwrap(), ["T0", "T1"]);
    assert_eq!(codes(vec![given("urn:p", json!({ "coding": [{ "system": "urn:other", "code": "v1" }] }))]).unwrap(), ["T0"]);
    assert_eq!(codes(vec![given("urn:p", json!({ "text": "v1" }))]).unwrap(), ["T0", "T1"]);
    assert_eq!(codes(vec![given("urn:q", json!({ "text": "v1" }))]).unwrap(), ["T0"]);
    let both = vec![given("urn:p", json!({ "text": "v1" })), given("urn:p", json!({ "text": "v2" }))];
    assert_eq!(codes(both).unwrap(), ["T0", "T1", "T2"]);
    assert!(matches!(codes(vec![json!([{ "name": "element", "valueUri": "urn:p" }])]), Err(TerminologyError::Invalid { .. })));
}

#[test]
fn a_named_map_is_between_what_is_asked_or_finds_nothing() {
    let mut map = colours();
    map["sourceUri"] = "http://test/vs/a".into();
    map["targetUri"] = "http://test/vs/b".into();
    let terminology = holding(&[map]);
    for (source, target, result) in [
        ("http://test/vs/a", "http://test/vs/b", true),
        ("http://test/vs/a|1", B, true),
        (A, B, true),
        ("http://test/vs/c", B, false),
        (A, "http://test/vs/c", false),
    ] {
        for named in [("url", "http://test/cm/colours"), ("source", source)] {
            let pairs = [named, ("source", source), ("target", target), ("system", A), ("code", "red")];
            let pairs = if named.0 == "url" { &pairs[..] } else { &pairs[1..] };
            let answer = ask(&terminology, "ConceptMap", "translate", pairs).unwrap();
            assert_eq!(value(&answer, "result"), Some(&json!(result)), "{pairs:?}");
        }
    }
}
