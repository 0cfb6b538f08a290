use super::*;

const URL: &str = "http://test/animals";

/// The codes of the expansion of an inline compose, or what is wrong with it.
fn expanded(compose: Value, others: &[Value]) -> Result<Vec<String>, TerminologyError> {
    let terminology = holding(&[&[animals(), value_set("it", compose)], others].concat());
    let answer = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it")])?;
    let codes: Vec<String> =
        answer["expansion"]["contains"].as_array().into_iter().flatten().map(|one| one["code"].as_str().unwrap().to_owned()).collect();
    // Whatever is expanded is a member, and nothing else is: the two walks must agree.
    for code in ["mammal", "dog", "puppy", "whale", "bird", "dodo", "cat"] {
        let member = terminology.is_member("http://test/vs/it", URL, code);
        assert_eq!(member, Some(codes.iter().any(|one| one == code)), "{code}");
    }
    Ok(codes)
}

fn filtered(property: &str, op: &str, value: &str) -> Result<Vec<String>, TerminologyError> {
    expanded(json!({ "include": [{ "system": URL, "filter": [{ "property": property, "op": op, "value": value }] }] }), &[])
}

#[test]
fn a_whole_system_a_list_and_an_exclude() {
    let all = ["mammal", "dog", "puppy", "whale", "bird", "dodo"];
    assert_eq!(expanded(json!({ "include": [{ "system": URL }] }), &[]).unwrap(), all);
    let listed = json!({ "include": [{ "system": URL, "concept": [{ "code": "bird" }, { "code": "dog" }, { "code": "bird" }] }] });
    assert_eq!(expanded(listed, &[]).unwrap(), ["bird", "dog"]);
    let less = json!({ "include": [{ "system": URL }], "exclude": [{ "system": URL, "concept": [{ "code": "dodo" }] }, { "system": URL, "filter": [{ "property": "concept", "op": "is-a", "value": "mammal" }] }] });
    assert_eq!(expanded(less, &[]).unwrap(), ["bird"]);
    let twice = json!({ "include": [{ "system": URL, "concept": [{ "code": "whale" }] }, { "system": URL }] });
    assert_eq!(expanded(twice, &[]).unwrap(), ["whale", "mammal", "dog", "puppy", "bird", "dodo"]);
    assert_eq!(expanded(json!({ "inactive": false, "include": [{ "system": URL }] }), &[]).unwrap(), all[..5]);
}

#[test]
fn a_list_means_its_codes_in_any_case_where_the_system_does_not_tell_it_apart() {
    let mut system = animals();
    system["caseSensitive"] = false.into();
    let less =
        json!({ "include": [{ "system": URL }], "exclude": [{ "system": URL, "concept": [{ "code": "DOG" }, { "code": "dodo" }] }] });
    let some = json!({ "include": [{ "system": URL, "concept": [{ "code": "DOG" }, { "code": "Dog" }, { "code": "bird" }] }] });
    for (compose, codes, members) in [
        (less, &["mammal", "puppy", "whale", "bird"][..], &["Mammal", "BIRD"][..]),
        (some, &["DOG", "bird"], &["dog", "DOG", "Dog", "Bird"]),
    ] {
        let terminology = holding(&[system.clone(), value_set("it", compose)]);
        let answer = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it")]).unwrap();
        let expanded: Vec<&Value> = answer["expansion"]["contains"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
        assert_eq!(expanded, codes);
        for code in ["dog", "DOG", "Dog", "dodo", "Mammal", "BIRD", "Bird"] {
            let is_one = members.iter().any(|member| member.eq_ignore_ascii_case(code));
            assert_eq!(terminology.is_member("http://test/vs/it", URL, code), Some(is_one), "{code}");
        }
        let listed = terminology.codes_of_set("http://test/vs/it", 10).unwrap();
        assert_eq!(listed.lists.iter().flat_map(|(_, codes)| codes).collect::<Vec<_>>(), codes);
    }
}

#[test]
fn every_filter_operator() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("concept", "is-a", "dog", &["dog", "puppy"]),
        ("concept", "descendent-of", "mammal", &["dog", "puppy", "whale"]),
        ("concept", "is-not-a", "mammal", &["bird", "dodo"]),
        ("concept", "generalizes", "puppy", &["mammal", "dog", "puppy"]),
        ("concept", "in", "dog, bird", &["dog", "bird"]),
        ("concept", "not-in", "dog,bird,dodo", &["mammal", "puppy", "whale"]),
        ("concept", "=", "dog", &["dog"]),
        ("code", "regex", "d.*", &["dog", "dodo"]),
        ("display", "regex", "[WB].*", &["whale", "bird"]),
        ("code", "regex", "o", &[]),
        ("legs", "=", "4", &["dog"]),
        ("legs", "in", "2,4", &["dog", "bird"]),
        ("legs", "exists", "true", &["dog", "bird"]),
        ("legs", "exists", "false", &["mammal", "puppy", "whale", "dodo"]),
        ("parent", "=", "mammal", &["dog", "whale"]),
        ("child", "exists", "false", &["puppy", "whale", "dodo"]),
        ("inactive", "=", "true", &["dodo"]),
        ("notSelectable", "=", "true", &["mammal"]),
    ];
    for (property, op, value, codes) in cases {
        assert_eq!(filtered(property, op, value).unwrap(), *codes, "{property} {op} {value}");
    }
    let both = json!({ "include": [{ "system": URL, "filter": [
        { "property": "concept", "op": "is-a", "value": "mammal" }, { "property": "legs", "op": "exists", "value": "true" }] }] });
    assert_eq!(expanded(both, &[]).unwrap(), ["dog"]);
}

#[test]
fn a_filter_that_cannot_be_evaluated_is_told() {
    let terminology = |op: &str, value: &str| {
        let compose = json!({ "include": [{ "system": URL, "filter": [{ "property": "code", "op": op, "value": value }] }] });
        ask(&holding(&[animals(), value_set("it", compose)]), "ValueSet", "expand", &[("url", "http://test/vs/it")])
    };
    for (op, value) in [("regex", "("), ("regex", &"a".repeat(2_000)), ("regex", "(((a{100}){100}){100})"), ("near", "x")] {
        assert!(matches!(terminology(op, value), Err(TerminologyError::Filter { .. })), "{op}");
    }
}

#[test]
fn a_filter_that_names_what_is_not_there_is_told_and_finds_nothing_for_rules() {
    let filter = |property: &str, op: &str, value: &str| json!({ "include": [{ "system": URL, "filter": [{ "property": property, "op": op, "value": value }] }] });
    for (property, op, value, word) in [
        ("concept", "is-a", "unicorn", "does not have the code"),
        ("concept", "is-not-a", "unicorn", "does not have the code"),
        ("concept", "descendent-of", "unicorn", "does not have the code"),
        ("concept", "generalizes", "unicorn", "does not have the code"),
        ("wings", "=", "2", "has no property wings"),
        ("wings", "exists", "false", "has no property wings"),
    ] {
        let terminology = holding(&[animals(), value_set("it", filter(property, op, value))]);
        let error = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it")]).unwrap_err();
        assert!(matches!(error, TerminologyError::Filter { .. }) && error.to_string().contains(word), "{property} {op}: {error}");
        assert!(terminology.codes_of_set("http://test/vs/it", 10).is_err());
        assert_eq!(terminology.is_member("http://test/vs/it", URL, "dog"), None, "it cannot be told");
        assert!(terminology.members("http://test/vs/it").is_some(), "what labels rest on is taken at its word");
    }
    let mut fragment = animals();
    fragment["content"] = "fragment".into();
    for (compose, told) in [(filter("concept", "is-a", "unicorn"), true), (filter("wings", "=", "2"), false)] {
        let terminology = holding(&[fragment.clone(), value_set("it", compose)]);
        let asked = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it")]);
        assert_eq!(asked.is_err_and(|error| error.to_string().contains("load more of it")), told);
    }
    assert!(ask(&holding(&[animals()]), "ValueSet", "expand", &[("url", "http://test/animals?fhir_vs=isa/unicorn")]).is_err());
}

#[test]
fn a_listed_code_that_a_complete_system_does_not_have_is_none() {
    let listed = json!({ "include": [{ "system": URL, "concept": [{ "code": "bird" }, { "code": "cat" }] }] });
    assert_eq!(expanded(listed.clone(), &[]).unwrap(), ["bird"]);
    let nested = json!({ "include": [{ "valueSet": ["http://test/vs/of"] }] });
    assert_eq!(expanded(nested, &[value_set("of", listed.clone())]).unwrap(), ["bird"]);
    let terminology = holding(&[animals(), value_set("it", listed.clone())]);
    let (expansion, said) = terminology.answer("ValueSet", None, "$expand", &query(&[("url", "http://test/vs/it")])).unwrap();
    assert_eq!(expansion["expansion"]["total"], 1);
    assert!(said.len() == 1 && said[0].diagnostics.contains("1 of the codes"), "{said:?}");
    let asked = ask(&terminology, "ValueSet", "validate-code", &[("url", "http://test/vs/it"), ("system", URL), ("code", "cat")]).unwrap();
    assert_eq!(value(&asked, "result"), Some(&json!(false)));
    assert!(value(&asked, "message").unwrap().as_str().unwrap().contains("does not have the code"));
    assert_eq!(terminology.codes_of_set("http://test/vs/it", 10).unwrap().lists[0].1, ["bird"]);

    // Where the system that is loaded cannot tell, the list counts.
    let with = |key: &str, value: Value| {
        let mut system = animals();
        system[key] = value;
        system
    };
    let mut versioned = listed.clone();
    versioned["include"][0]["version"] = "1".into();
    let mut made = value_set("it", Value::Null);
    made.as_object_mut().unwrap().remove("compose");
    made["expansion"] = json!({ "contains": [{ "system": URL, "code": "bird" }, { "system": URL, "code": "cat" }] });
    for resources in [
        vec![value_set("it", listed.clone())],
        vec![with("content", "fragment".into()), value_set("it", listed.clone())],
        vec![with("content", "not-present".into()), value_set("it", listed.clone())],
        vec![with("compositional", true.into()), value_set("it", listed)],
        vec![animals(), value_set("it", versioned)],
        vec![animals(), made],
    ] {
        let terminology = holding(&resources);
        let (expansion, said) = terminology.answer("ValueSet", None, "$expand", &query(&[("url", "http://test/vs/it")])).unwrap();
        assert_eq!((&expansion["expansion"]["total"], &expansion["expansion"]["extension"]), (&json!(2), &Value::Null));
        assert_eq!(said, []);
        assert_eq!(terminology.is_member("http://test/vs/it", URL, "cat"), Some(true));
    }
}

#[test]
fn what_rests_on_a_part_of_a_system_says_so() {
    let fragment = |key: &str, value: Value| {
        let mut system = animals();
        system[key] = value;
        system
    };
    let whole = json!({ "include": [{ "system": URL }] });
    let dogs = json!({ "include": [{ "system": URL, "filter": [{ "property": "concept", "op": "is-a", "value": "dog" }] }] });
    let listed = json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }, { "code": "cat" }] }] });
    let nested = json!({ "include": [{ "valueSet": ["http://test/vs/whole"] }] });
    // Whether a cat is a dog the part does not tell.
    let less = |codes: Value| json!({ "include": [{ "system": URL, "concept": codes }], "exclude": dogs["include"] });
    for (compose, is_part) in [
        (whole.clone(), true),
        (dogs.clone(), true),
        (listed, false),
        (nested, true),
        (less(json!([{ "code": "dog" }, { "code": "bird" }])), false),
        (less(json!([{ "code": "cat" }])), true),
    ] {
        for partial in
            [fragment("content", "fragment".into()), fragment("content", "example".into()), fragment("compositional", true.into())]
        {
            let terminology = holding(&[partial, value_set("it", compose.clone()), value_set("whole", whole.clone())]);
            let (expansion, said) =
                terminology.answer("ValueSet", None, "$expand", &query(&[("url", "http://test/vs/it"), ("count", "1")])).unwrap();
            let marked = &expansion["expansion"]["extension"][0];
            let url = "http://hl7.org/fhir/StructureDefinition/valueset-unclosed";
            assert_eq!(marked["url"] == url && marked["valueBoolean"] == true, is_part, "{compose} {expansion}");
            assert_eq!(said.iter().any(|issue| issue.diagnostics.contains(URL)), is_part);
            assert_eq!(terminology.codes_of_set("http://test/vs/it", 10).unwrap().partial.len(), usize::from(is_part));
        }
    }
    let terminology = holding(&[animals(), value_set("it", whole)]);
    assert_eq!(terminology.answer("ValueSet", None, "$expand", &query(&[("url", "http://test/vs/it")])).unwrap().1, []);
}

#[test]
fn a_concept_is_judged_by_its_best_coding_whatever_the_order() {
    let listed = json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }] }] });
    let terminology = holding(&[animals(), value_set("it", listed)]);
    let (outside, other_words) = (json!({ "system": URL, "code": "bird" }), json!({ "system": URL, "code": "dog", "display": "Cat" }));
    for codings in [[&outside, &other_words], [&other_words, &outside]] {
        let concept = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "url", "valueUri": "http://test/vs/it" }, { "name": "codeableConcept", "valueCodeableConcept": { "coding": codings } } ] });
        let arguments = Arguments::from_parameters(&concept).unwrap();
        let answer = terminology.operate("ValueSet", None, "validate-code", &arguments).unwrap();
        assert!(value(&answer, "message").unwrap().as_str().unwrap().contains("its display is another"), "{answer}");
        assert_eq!((value(&answer, "result"), value(&answer, "display")), (Some(&json!(false)), Some(&json!("Dog"))));
    }
}

#[test]
fn value_sets_within_value_sets_meet_and_join() {
    let tame = value_set("tame", json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }, { "code": "bird" }] }] }));
    let furry =
        value_set("furry", json!({ "include": [{ "system": URL, "filter": [{ "property": "concept", "op": "is-a", "value": "dog" }] }] }));
    let others = [tame, furry];
    let both = json!({ "include": [{ "valueSet": ["http://test/vs/tame", "http://test/vs/furry|1"] }] });
    assert_eq!(expanded(both, &others).unwrap(), ["dog"]);
    let either = json!({ "include": [{ "valueSet": ["http://test/vs/tame"] }, { "valueSet": ["http://test/vs/furry"] }] });
    assert_eq!(expanded(either, &others).unwrap(), ["dog", "bird", "puppy"]);
    let with_system = json!({ "include": [{ "system": URL, "valueSet": ["http://test/vs/furry"] }], "exclude": [{ "valueSet": ["http://test/vs/tame"] }] });
    assert_eq!(expanded(with_system, &others).unwrap(), ["puppy"]);
}

#[test]
fn loops_and_missing_parts_are_told() {
    let of = |id: &str, other: &str| value_set(id, json!({ "include": [{ "valueSet": [format!("http://test/vs/{other}")] }] }));
    let terminology = holding(&[
        of("a", "b"),
        of("b", "a"),
        of("c", "missing"),
        value_set("d", json!({ "include": [{ "system": "http://test/missing" }] })),
    ]);
    let error = |id: &str| ask(&terminology, "ValueSet", "expand", &[("url", &format!("http://test/vs/{id}"))]).unwrap_err();
    assert!(matches!(error("a"), TerminologyError::Nesting { .. }));
    assert!(matches!(error("c"), TerminologyError::NotLoaded { type_name: "ValueSet", .. }));
    assert!(matches!(error("d"), TerminologyError::NotLoaded { type_name: "CodeSystem", .. }));
    assert_eq!(terminology.is_member("http://test/vs/a", URL, "dog"), None);
}

#[test]
fn value_sets_that_multiply_run_out_of_budget() {
    let level = |n: usize| {
        let below: Vec<Value> = (0..12).map(|_| json!({ "valueSet": [format!("http://test/vs/{}", n + 1)] })).collect();
        value_set(&n.to_string(), json!({ "include": below }))
    };
    let mut resources: Vec<Value> = (0..15).map(level).collect();
    resources.push(value_set("15", json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }] }] })));
    let terminology = holding(&resources);
    assert_eq!(terminology.is_member("http://test/vs/0", URL, "dog"), Some(true), "found on the first way down");
    let asked = [("url", "http://test/vs/0"), ("system", URL), ("code", "cat")];
    assert_eq!(ask(&terminology, "ValueSet", "validate-code", &asked).unwrap_err(), TerminologyError::TooCostly);
}

#[test]
fn an_expansion_says_what_it_is() {
    let terminology = holding(&[animals(), value_set("it", json!({ "include": [{ "system": URL }] }))]);
    let pairs = [
        ("url", "http://test/vs/it|1"),
        ("filter", "mb"),
        ("activeOnly", "true"),
        ("count", "5"),
        ("displayLanguage", "sw"),
        ("includeDesignations", "true"),
    ];
    let mut answer = ask(&terminology, "ValueSet", "expand", &pairs).unwrap();
    let identifier = answer["expansion"]["identifier"].take();
    assert!(identifier.as_str().unwrap().starts_with("urn:uuid:"));
    assert!(answer["expansion"]["timestamp"].take().as_str().unwrap().ends_with('Z'));
    let expected = json!({
        "resourceType": "ValueSet", "url": "http://test/vs/it", "version": "1", "status": "active",
        "expansion": {
            "identifier": null, "timestamp": null, "total": 1, "offset": 0,
            "parameter": [
                { "name": "filter", "valueString": "mb" },
                { "name": "count", "valueInteger": 5 },
                { "name": "includeDesignations", "valueBoolean": true },
                { "name": "activeOnly", "valueBoolean": true },
                { "name": "displayLanguage", "valueCode": "sw" },
                { "name": "version", "valueUri": "http://test/animals|2" }
            ],
            "contains": [{ "system": URL, "code": "dog", "display": "Mbwa", "designation": [{ "language": "sw", "value": "Mbwa" }] }]
        }
    });
    assert_eq!(answer, expected);
}

#[test]
fn pages_join_to_the_whole() {
    let terminology = holding(&[animals(), value_set("it", json!({ "include": [{ "system": URL }] }))]);
    let mut joined = Vec::new();
    for offset in 0..8 {
        let answer =
            ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it"), ("offset", &offset.to_string()), ("count", "1")])
                .unwrap();
        assert_eq!(answer["expansion"]["total"], json!(6));
        joined.extend(answer["expansion"]["contains"].as_array().into_iter().flatten().map(|one| one["code"].clone()));
    }
    assert_eq!(Value::from(joined), json!(["mammal", "dog", "puppy", "whale", "bird", "dodo"]));
    let none = ask(&terminology, "ValueSet", "expand", &[("url", "http://test/vs/it"), ("count", "0")]).unwrap();
    assert_eq!((none["expansion"]["total"].clone(), none["expansion"].get("contains")), (json!(6), None));
}

#[test]
fn a_stored_expansion_stands_for_a_missing_compose() {
    let stored = json!({ "resourceType": "ValueSet", "id": "s", "url": "http://test/vs/s", "status": "active", "expansion": { "contains": [
        { "abstract": true, "display": "Birds", "contains": [{ "system": URL, "code": "bird", "display": "A bird" }] },
        { "system": "http://test/plants", "code": "oak" } ] } });
    let terminology = holding(&[stored]);
    assert_eq!(terminology.is_member("http://test/vs/s", URL, "bird"), Some(true));
    assert_eq!(terminology.is_member("http://test/vs/s", "http://test/plants", "oak"), Some(true));
    assert_eq!(terminology.is_member("http://test/vs/s", URL, "oak"), Some(false));
    let asked = [("url", "http://test/vs/s"), ("includeDefinition", "true")];
    assert_eq!(ask(&terminology, "ValueSet", "expand", &asked).unwrap().get("compose"), None, "nobody wrote one");
}

#[test]
fn validate_code_in_a_value_set() {
    let listed = json!({ "include": [{ "system": URL, "concept": [{ "code": "dog", "display": "Good dog" }] }] });
    let mixed = json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }] }, { "system": "http://test/plants", "concept": [{ "code": "oak" }] }] });
    let terminology = holding(&[animals(), value_set("dogs", listed), value_set("mixed", mixed)]);
    let dogs = "http://test/vs/dogs";
    let cases = [
        (&[("url", dogs), ("system", URL), ("code", "dog")][..], true, Some("Good dog")),
        (&[("url", dogs), ("code", "dog")], true, Some("Good dog")),
        (&[("url", dogs), ("system", URL), ("code", "bird")], false, Some("Bird")),
        (&[("url", dogs), ("system", URL), ("code", "cat")], false, None),
        (&[("url", dogs), ("system", URL), ("code", "dog"), ("display", "Bad dog")], false, Some("Good dog")),
        (&[("url", dogs), ("coding", "http://test/animals|dog")], true, Some("Good dog")),
    ];
    for (pairs, result, display) in cases {
        let answer = ask(&terminology, "ValueSet", "validate-code", pairs).unwrap();
        assert_eq!(value(&answer, "result"), Some(&json!(result)), "{pairs:?}");
        assert_eq!(value(&answer, "display").and_then(Value::as_str), display, "{pairs:?}");
    }
    let unclear = ask(&terminology, "ValueSet", "validate-code", &[("url", "http://test/vs/mixed"), ("code", "dog")]).unwrap_err();
    assert!(matches!(unclear, TerminologyError::Missing { name: "system", .. }));
    let of_instance = terminology.operate("ValueSet", Some("dogs"), "validate-code", &query(&[("code", "dog")])).unwrap();
    assert_eq!(value(&of_instance, "result"), Some(&json!(true)));
}
