use super::*;

const URL: &str = "http://test/animals";

#[test]
fn lookup_tells_what_the_system_says() {
    let answer = ask(&holding(&[animals()]), "CodeSystem", "lookup", &[("system", URL), ("code", "dog")]).unwrap();
    let expected = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "name", "valueString": "Animals" },
        { "name": "version", "valueString": "2" },
        { "name": "display", "valueString": "Dog" },
        { "name": "designation", "part": [{ "name": "language", "valueCode": "sw" }, { "name": "value", "valueString": "Mbwa" }] },
        { "name": "property", "part": [{ "name": "code", "valueCode": "definition" }, { "name": "value", "valueString": "A tame wolf" }] },
        { "name": "property", "part": [{ "name": "code", "valueCode": "legs" }, { "name": "value", "valueInteger": 4 }, { "name": "description", "valueString": "Number of legs" }] },
        { "name": "property", "part": [{ "name": "code", "valueCode": "parent" }, { "name": "value", "valueCode": "mammal" }, { "name": "description", "valueString": "Mammal" }] },
        { "name": "property", "part": [{ "name": "code", "valueCode": "child" }, { "name": "value", "valueCode": "puppy" }, { "name": "description", "valueString": "Puppy" }] },
    ] });
    assert_eq!(answer, expected);
    assert_eq!(crate::validate::structure(&answer), []);
}

#[test]
fn lookup_gives_only_the_properties_wanted_and_speaks_the_language_asked_for() {
    let terminology = holding(&[animals()]);
    let pairs = [("coding", "http://test/animals|dog"), ("property", "parent"), ("displayLanguage", "sw")];
    let answer = ask(&terminology, "CodeSystem", "lookup", &pairs).unwrap();
    assert_eq!(value(&answer, "display"), Some(&json!("Mbwa")));
    let properties: Vec<&Value> = answer["parameter"].as_array().unwrap().iter().filter(|p| p["name"] == "property").collect();
    assert_eq!(properties.len(), 1);
    assert_eq!(value(properties[0], "code"), Some(&json!("parent")));
}

#[test]
fn lookup_of_what_is_not_there_is_not_found() {
    let terminology = holding(&[animals()]);
    for (pairs, variant) in [
        (&[("system", URL), ("code", "Dog")][..], "UnknownCode"),
        (&[("system", "http://test/none"), ("code", "dog")], "NotLoaded"),
        (&[("system", URL), ("version", "9"), ("code", "dog")], "NotLoaded"),
    ] {
        let error = ask(&terminology, "CodeSystem", "lookup", pairs).unwrap_err();
        assert!(format!("{error:?}").starts_with(variant), "{error:?}");
        assert_eq!(error.issue().code, crate::fhir::IssueCode::NotFound);
    }
}

#[test]
fn case_matters_only_where_the_system_says_so() {
    let mut system = animals();
    system["caseSensitive"] = false.into();
    let terminology = holding(&[system]);
    assert_eq!(terminology.display(URL, " DOG ").as_deref(), Some("Dog"));
}

#[test]
fn subsumption_follows_nesting_and_parent_properties() {
    let terminology = holding(&[animals()]);
    let cases = [
        ("mammal", "puppy", "subsumes"),
        ("puppy", "mammal", "subsumed-by"),
        ("dog", "dog", "equivalent"),
        ("dog", "bird", "not-subsumed"),
        ("bird", "dodo", "subsumes"),
    ];
    for (a, b, outcome) in cases {
        let answer = ask(&terminology, "CodeSystem", "subsumes", &[("system", URL), ("codeA", a), ("codeB", b)]).unwrap();
        assert_eq!(value(&answer, "outcome"), Some(&json!(outcome)), "{a} {b}");
    }
    let codings = [("codingA", "http://test/animals|dog"), ("codingB", "http://test/animals|whale")];
    assert_eq!(value(&ask(&terminology, "CodeSystem", "subsumes", &codings).unwrap(), "outcome"), Some(&json!("not-subsumed")));
    let other = [("codingA", "http://test/animals|dog"), ("codingB", "http://test/plants|oak")];
    assert!(ask(&terminology, "CodeSystem", "subsumes", &other).is_err());
    let of_instance =
        terminology.operate("CodeSystem", Some("animals"), "subsumes", &query(&[("codeA", "bird"), ("codeB", "dodo")])).unwrap();
    assert_eq!(value(&of_instance, "outcome"), Some(&json!("subsumes")));
}

#[test]
fn a_hierarchy_that_bites_its_tail_ends() {
    let loops = json!({ "resourceType": "CodeSystem", "id": "l", "url": "http://test/l", "content": "complete", "concept": [
        { "code": "a", "property": [{ "code": "parent", "valueCode": "b" }] },
        { "code": "b", "property": [{ "code": "parent", "valueCode": "a" }, { "code": "child", "valueCode": "b" }] },
        { "code": "c", "property": [{ "code": "parent", "valueCode": "missing" }] },
    ] });
    let below = value_set(
        "l",
        json!({ "include": [{ "system": "http://test/l", "filter": [{ "property": "concept", "op": "descendent-of", "value": "a" }] }] }),
    );
    let terminology = holding(&[loops, below]);
    let answer = ask(&terminology, "CodeSystem", "subsumes", &[("system", "http://test/l"), ("codeA", "a"), ("codeB", "c")]).unwrap();
    assert_eq!(value(&answer, "outcome"), Some(&json!("not-subsumed")));
    assert_eq!(terminology.is_member("http://test/vs/l", "http://test/l", "b"), Some(true));
}

#[test]
fn validate_code_checks_code_and_display() {
    let terminology = holding(&[animals()]);
    let cases = [
        (&[("url", URL), ("code", "dog")][..], true, Some("Dog")),
        (&[("url", URL), ("code", "dog"), ("display", "dog")], true, Some("Dog")),
        (&[("url", URL), ("code", "dog"), ("display", "Mbwa")], true, Some("Dog")),
        (&[("url", URL), ("code", "dog"), ("display", "Cat")], false, Some("Dog")),
        (&[("url", URL), ("code", "cat")], false, None),
        (&[("coding", "http://test/animals|dog")], true, Some("Dog")),
        (&[("url", URL), ("coding", "http://test/plants|dog")], false, None),
        (&[("url", URL), ("code", "mammal")], true, Some("Mammal")),
        (&[("url", URL), ("code", "mammal"), ("abstract", "false")], false, Some("Mammal")),
        (&[("url", URL), ("code", "dodo")], true, Some("Dodo")),
    ];
    for (pairs, result, display) in cases {
        let answer = ask(&terminology, "CodeSystem", "validate-code", pairs).unwrap();
        assert_eq!(value(&answer, "result"), Some(&json!(result)), "{pairs:?}");
        assert_eq!(value(&answer, "display").and_then(Value::as_str), display, "{pairs:?}");
        assert!(result || value(&answer, "message").is_some());
    }
}

#[test]
fn a_fragment_does_not_claim_to_know_what_is_missing() {
    let mut fragment = animals();
    fragment["content"] = "fragment".into();
    let mut outline = animals();
    outline["content"] = "not-present".into();
    let pairs = [("url", URL), ("code", "cat")];
    let answer = ask(&holding(&[fragment.clone()]), "CodeSystem", "validate-code", &pairs).unwrap();
    assert!(value(&answer, "message").unwrap().as_str().unwrap().contains("part of"));
    let error = ask(&holding(&[outline.clone()]), "CodeSystem", "validate-code", &pairs).unwrap_err();
    assert_eq!(error.issue().code, crate::fhir::IssueCode::NotSupported);
    let pairs = [("system", URL), ("code", "cat")];
    let error = |system: &Value| ask(&holding(std::slice::from_ref(system)), "CodeSystem", "lookup", &pairs).unwrap_err();
    assert_eq!(error(&fragment), TerminologyError::NotInPart { system: URL.to_owned() });
    assert_eq!(error(&outline), TerminologyError::NoContent { system: URL.to_owned() });
    let of_instance = holding(&[animals()]).operate("CodeSystem", Some("animals"), "$lookup", &query(&pairs)).unwrap_err();
    assert!(of_instance.to_string().contains("asked of the type"), "{of_instance}");
}

#[test]
fn a_code_system_and_a_concept_may_come_with_the_question() {
    let concept = json!({ "coding": [{ "system": URL, "code": "cat" }, { "system": URL, "code": "dog" }] });
    let parameters = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "codeSystem", "resource": animals() }, { "name": "codeableConcept", "valueCodeableConcept": concept } ] });
    let arguments = Arguments::from_parameters(&parameters).unwrap();
    let answer = Terminology::new().operate("CodeSystem", None, "validate-code", &arguments).unwrap();
    assert_eq!(value(&answer, "result"), Some(&json!(true)), "one good coding is enough");
}

#[test]
fn a_page_of_a_large_system_is_cut_where_the_whole_is_refused() {
    let concepts: Vec<Value> = (0..200_000).map(|n| json!({ "code": n.to_string() })).collect();
    let system = json!({ "resourceType": "CodeSystem", "id": "big", "url": "http://test/big", "content": "complete", "concept": concepts });
    let set = value_set(
        "big",
        json!({ "include": [{ "system": "http://test/big" }], "exclude": [{ "system": "http://test/big", "concept": [{ "code": "0" }] }] }),
    );
    let terminology = holding(&[system, set]);
    assert_eq!(terminology.is_member("http://test/vs/big", "http://test/big", "199999"), Some(true));
    assert_eq!(terminology.is_member("http://test/vs/big", "http://test/big", "0"), Some(false));
    let whole = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/big")]).unwrap_err();
    assert_eq!(whole.issue().code, crate::fhir::IssueCode::TooCostly);
    let page = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/big"), ("offset", "100000"), ("count", "2")]).unwrap();
    assert_eq!(page["expansion"]["total"], json!(199_999));
    assert_eq!(
        page["expansion"]["contains"],
        json!([{ "system": "http://test/big", "code": "100001" }, { "system": "http://test/big", "code": "100002" }])
    );
}

#[test]
fn only_case_is_ignored_where_case_is() {
    let system = json!({
        "resourceType": "CodeSystem", "id": "marks", "url": "http://test/marks", "status": "active", "content": "complete", "caseSensitive": false,
        "concept": [{ "code": "m2" }, { "code": "m²" }, { "code": "e" }, { "code": "é" }, { "code": "straße" }, { "code": "STRASSE" }]
    });
    let listed = |codes: [&str; 2]| codes.map(|code| json!({ "code": code }));
    let terminology = holding(&[
        system,
        value_set(
            "four",
            json!({ "include": [{ "system": "http://test/marks", "concept": [{ "code": "m2" }, { "code": "m²" }, { "code": "E" }, { "code": "É" }] }] }),
        ),
        value_set(
            "rest",
            json!({ "include": [{ "system": "http://test/marks" }], "exclude": [{ "system": "http://test/marks", "concept": listed(["M2", "E"]) }] }),
        ),
    ]);
    let members = |id: &str| {
        let members = terminology.members(&format!("http://test/vs/{id}")).unwrap();
        members.iter().map(|one| one.code.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(members("four"), ["m2", "m²", "E", "É"]);
    assert_eq!(members("rest"), ["m²", "é", "straße", "STRASSE"]);
    assert_eq!(terminology.spellings("http://test/marks", "É").unwrap(), ["É", "é"]);
    assert_eq!(terminology.spellings("http://test/marks", "Straße").unwrap(), ["Straße", "straße"]);
    let known = |code: &str| {
        let pairs = [("url", "http://test/vs/four"), ("system", "http://test/marks"), ("code", code)];
        ask(&terminology, "ValueSet", "validate-code", &pairs).map(|answer| value(&answer, "result") == Some(&json!(true))).unwrap()
    };
    assert!(known("é") && known("e") && known("M²") && !known("straße"));
}

#[test]
fn a_display_is_in_the_language_that_is_nearest() {
    let said = |language: &str, value: &str| json!({ "language": language, "value": value });
    let system = json!({
        "resourceType": "CodeSystem", "id": "l", "url": "http://test/l", "status": "active", "content": "complete", "language": "en",
        "concept": [{ "code": "A", "display": "Alpha", "designation": [said("de-AT", "AT"), said("de", "DE"), said("en-US", "US"), said("pt-BR", "BR")] }]
    });
    let own = json!({ "include": [{ "system": "http://test/l", "concept": [{ "code": "A", "display": "Words", "designation": [said("fr", "FR")] }] }] });
    let mut french = value_set("french", own.clone());
    french["language"] = "fr-CA".into();
    let terminology =
        holding(&[system, value_set("all", json!({ "include": [{ "system": "http://test/l" }] })), value_set("own", own), french]);
    for (language, all, of_own, of_french) in [
        ("de", "DE", "DE", "DE"),
        ("DE", "DE", "DE", "DE"),
        ("de-at", "AT", "AT", "AT"),
        ("de-CH", "DE", "DE", "DE"),
        ("en", "Alpha", "Words", "US"),
        ("en-US", "US", "US", "US"),
        ("en-GB", "Alpha", "Words", "Words"),
        ("pt", "BR", "BR", "BR"),
        ("pt-PT", "Alpha", "Words", "Words"),
        ("fr", "Alpha", "FR", "FR"),
        ("fr-CA", "Alpha", "FR", "Words"),
        ("d", "Alpha", "Words", "Words"),
    ] {
        for (id, expected) in [("all", all), ("own", of_own), ("french", of_french)] {
            let url = format!("http://test/vs/{id}");
            let expanded = ask(&terminology, "ValueSet", "expand", &[("url", &url), ("displayLanguage", language)]).unwrap();
            assert_eq!(expanded["expansion"]["contains"][0]["display"], expected, "{id} {language}");
            let pairs = [("url", url.as_str()), ("system", "http://test/l"), ("code", "A"), ("displayLanguage", language)];
            let checked = ask(&terminology, "ValueSet", "validate-code", &pairs).unwrap();
            assert_eq!(value(&checked, "display"), Some(&json!(expected)), "{id} {language}");
        }
        let looked_up =
            ask(&terminology, "CodeSystem", "lookup", &[("system", "http://test/l"), ("code", "A"), ("displayLanguage", language)])
                .unwrap();
        assert_eq!(value(&looked_up, "display"), Some(&json!(all)), "{language}");
    }
    for (display, fits) in [("Alpha", true), ("words", true), ("FR", true), ("DE", true), ("Beta", false)] {
        let pairs = [("url", "http://test/vs/own"), ("system", "http://test/l"), ("code", "A"), ("display", display)];
        let checked = ask(&terminology, "ValueSet", "validate-code", &pairs).unwrap();
        assert_eq!(value(&checked, "result"), Some(&json!(fits)), "{display}");
    }
}
