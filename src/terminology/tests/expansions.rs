//! What `$expand` makes of hierarchies, versions and definitions.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const URL: &str = "http://test/animals";

fn expand(terminology: &Terminology, pairs: &[(&str, &str)]) -> Result<Value, TerminologyError> {
    ask(terminology, "ValueSet", "expand", &[&[("url", "http://test/vs/it")], pairs].concat())
}

/// `code(children)`.
fn tree(contains: &Value) -> String {
    let entries = contains.as_array().into_iter().flatten();
    let shown = entries.map(|one| match one.get("contains") {
        Some(inner) => format!("{}({})", one["code"].as_str().unwrap(), tree(inner)),
        None => one["code"].as_str().unwrap().to_owned(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_expansion_is_nested_when_asked() {
    let shown = |compose: Value, pairs: &[(&str, &str)]| {
        let answer = expand(&holding(&[animals(), value_set("it", compose)]), pairs).unwrap();
        (tree(&answer["expansion"]["contains"]), answer["expansion"]["total"].as_u64().unwrap())
    };
    let whole = || json!({ "include": [{ "system": URL }] });
    let nested = ("excludeNested", "false");
    assert_eq!(shown(whole(), &[nested]), ("mammal(dog(puppy) whale) bird(dodo)".to_owned(), 6));
    assert_eq!(shown(whole(), &[]).0, "mammal dog puppy whale bird dodo");
    assert_eq!(shown(whole(), &[("excludeNested", "true")]).0, "mammal dog puppy whale bird dodo");
    // A code stands below the nearest that is there.
    let few = json!({ "include": [{ "system": URL, "concept": [{ "code": "puppy" }, { "code": "mammal" }, { "code": "bird" }] }] });
    assert_eq!(shown(few, &[nested]).0, "mammal(puppy) bird");
    assert_eq!(shown(whole(), &[nested, ("filter", "dog")]).0, "dog");
    // A page is of a flat list.
    assert_eq!(shown(whole(), &[nested, ("count", "3")]), ("mammal dog puppy".to_owned(), 6));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the edges, loops and second parents among them: every code once, each below one that is above it.
    #[test]
    fn every_code_stands_once_and_below_what_is_above_it(edges in prop::collection::vec((0usize..12, 0usize..12), 0..24)) {
        let concepts: Vec<Value> = (0..12).map(|n| {
            let parents: Vec<Value> = edges.iter().filter(|(child, _)| *child == n)
                .map(|(_, parent)| json!({ "code": "parent", "valueCode": format!("c{parent}") })).collect();
            json!({ "code": format!("c{n}"), "property": parents })
        }).collect();
        let system = json!({ "resourceType": "CodeSystem", "id": "g", "url": "http://test/g", "status": "active", "content": "complete", "concept": concepts });
        let terminology = holding(&[system, value_set("it", json!({ "include": [{ "system": "http://test/g" }] }))]);
        let answer = expand(&terminology, &[("excludeNested", "false")]).unwrap();
        let mut parents: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut waiting: Vec<(Value, Option<String>)> = answer["expansion"]["contains"].as_array().unwrap().iter().map(|one| (one.clone(), None)).collect();
        while let Some((one, parent)) = waiting.pop() {
            let code = one["code"].as_str().unwrap().to_owned();
            for inner in one["contains"].as_array().into_iter().flatten() {
                waiting.push((inner.clone(), Some(code.clone())));
            }
            prop_assert_eq!(parents.insert(code, parent), None);
        }
        prop_assert_eq!(parents.len(), 12);
        let number = |code: &str| code[1..].parse::<usize>().unwrap();
        for (code, parent) in &parents {
            if let Some(parent) = parent {
                prop_assert!(edges.contains(&(number(code), number(parent))), "{} in {}", code, parent);
            }
        }
        // Nothing that has a parent is a root, but for one of each loop.
        let roots: BTreeSet<usize> = parents.iter().filter(|(_, parent)| parent.is_none()).map(|(code, _)| number(code)).collect();
        let reach = |from: usize| {
            let mut seen = BTreeSet::new();
            let mut waiting = vec![from];
            while let Some(at) = waiting.pop() {
                waiting.extend(edges.iter().filter(|(child, parent)| *child == at && child != parent).map(|(_, parent)| *parent).filter(|parent| seen.insert(*parent)));
            }
            seen
        };
        for root in roots {
            let above = reach(root);
            prop_assert!(above.is_empty() || above.contains(&root) || above.iter().any(|one| reach(*one).contains(one)), "{}", root);
        }
    }
}

#[test]
fn a_deep_hierarchy_ends_at_the_last_level() {
    let concepts: Vec<Value> = (0..5_000)
        .map(|n: i32| json!({ "code": format!("c{n}"), "property": [{ "code": "parent", "valueCode": format!("c{}", n - 1) }] }))
        .collect();
    let system = json!({ "resourceType": "CodeSystem", "id": "g", "url": "http://test/g", "status": "active", "content": "complete", "concept": concepts });
    let terminology = holding(&[system, value_set("it", json!({ "include": [{ "system": "http://test/g" }] }))]);
    let answer = expand(&terminology, &[("excludeNested", "false")]).unwrap();
    let (mut level, mut levels, mut codes) = (&answer["expansion"]["contains"], 0, 0);
    while let Some(list) = level.as_array() {
        levels += 1;
        codes += list.len();
        level = &list[0]["contains"];
    }
    assert_eq!((levels, codes), (64, 5_000));
}

/// The animals once more, as they were.
fn older() -> Value {
    json!({ "resourceType": "CodeSystem", "id": "older", "url": URL, "version": "1", "status": "active", "content": "complete", "concept": [{ "code": "dog", "display": "Wolf" }] })
}

#[test]
fn versions_are_defaulted_checked_and_forced() {
    let of = |version: Option<&str>| {
        let mut clause = json!({ "system": URL });
        if let Some(version) = version {
            clause["version"] = version.into();
        }
        holding(&[animals(), older(), value_set("it", json!({ "include": [clause] }))])
    };
    let (open, old) = (of(None), of(Some("1")));
    let codes = |terminology: &Terminology, pairs: &[(&str, &str)]| {
        let answer = expand(terminology, pairs)?;
        let used = answer["expansion"]["parameter"].as_array().unwrap().iter().find(|one| one["name"] == "version").unwrap().clone();
        Ok::<_, TerminologyError>((answer["expansion"]["total"].as_u64().unwrap(), used["valueUri"].as_str().unwrap().to_owned()))
    };
    let (one, two) = ((1, format!("{URL}|1")), (6, format!("{URL}|2")));
    assert_eq!((codes(&open, &[]).unwrap(), codes(&old, &[]).unwrap()), (two.clone(), one.clone()));
    let (v1, v2, v9) = ("http://test/animals|1", "http://test/animals|2", "http://test/animals|9");
    // A default is for who names none.
    assert_eq!(codes(&open, &[("system-version", v1)]).unwrap(), one);
    assert_eq!(codes(&old, &[("system-version", v2)]).unwrap(), one);
    // A check is an error for who names another.
    assert_eq!(codes(&open, &[("check-system-version", v1)]).unwrap(), one);
    assert_eq!(codes(&old, &[("check-system-version", v1)]).unwrap(), one);
    assert!(matches!(codes(&old, &[("check-system-version", v2)]), Err(TerminologyError::OtherVersion { .. })));
    // Force is for all.
    assert_eq!(codes(&old, &[("force-system-version", v2)]).unwrap(), two);
    for (name, of) in [("system-version", &open), ("check-system-version", &open), ("force-system-version", &old)] {
        assert!(matches!(codes(of, &[(name, v9)]), Err(TerminologyError::NotLoaded { .. })), "{name}");
        assert!(matches!(codes(of, &[(name, "http://test/animals")]), Err(TerminologyError::Invalid { .. })), "{name}");
        assert!(codes(of, &[(name, "http://test/other|9")]).is_ok(), "{name}");
    }
    // Lists too: what the request names must be there.
    let listed = value_set("it", json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }] }] }));
    let listed = holding(&[animals(), older(), listed]);
    assert!(matches!(codes(&listed, &[("check-system-version", v9)]), Err(TerminologyError::NotLoaded { .. })));
    let answer = expand(&listed, &[("force-system-version", v1)]).unwrap();
    assert_eq!(answer["expansion"]["contains"][0]["display"], "Wolf");
    let answer = expand(&open, &[("exclude-system", v2)]).unwrap();
    assert_eq!(answer["expansion"]["total"], 0);
}

#[test]
fn a_code_is_validated_in_the_version_it_states() {
    let of = |clause: Value| holding(&[animals(), older(), value_set("it", json!({ "include": [clause] }))]);
    let open = of(json!({ "system": URL }));
    let old = of(json!({ "system": URL, "version": "1" }));
    let result = |terminology: &Terminology, code: &str, version: &str| {
        let pairs = [("url", "http://test/vs/it"), ("system", URL), ("code", code), ("systemVersion", version)];
        let answer = ask(terminology, "ValueSet", "validate-code", &pairs).unwrap();
        assert_eq!(value(&answer, "message").is_some(), value(&answer, "result") == Some(&json!(false)), "{answer}");
        value(&answer, "result") == Some(&json!(true))
    };
    assert!(result(&open, "bird", "2") && !result(&open, "bird", "1") && !result(&open, "bird", "9"));
    assert!(result(&old, "dog", "1") && !result(&old, "dog", "2"));
    // Of what is not loaded at all, no version is wrong.
    let plants = holding(&[value_set("it", json!({ "include": [{ "system": URL, "concept": [{ "code": "dog" }] }] }))]);
    assert!(result(&plants, "dog", "9"));
    // Nor of what does not say its version.
    let mut unversioned = animals();
    unversioned.as_object_mut().unwrap().remove("version");
    let unversioned = holding(&[unversioned, value_set("it", json!({ "include": [{ "system": URL }] }))]);
    assert!(result(&unversioned, "dog", "9"));
}

#[test]
fn the_definition_comes_along_when_asked() {
    let compose = json!({
        "inactive": true,
        "include": [
            { "system": URL, "version": "2", "filter": [{ "property": "code", "op": "regex", "value": "d.*" }] },
            { "system": URL, "concept": [{ "code": "bird", "display": "Bird", "designation": [{ "language": "fr", "value": "Oiseau" }] }] }
        ],
        "exclude": [{ "valueSet": ["http://test/vs/other"] }]
    });
    let other = value_set("other", json!({ "include": [{ "system": URL, "concept": [{ "code": "dodo" }] }] }));
    let terminology = holding(&[animals(), value_set("it", compose.clone()), other]);
    assert_eq!(expand(&terminology, &[("includeDefinition", "true")]).unwrap()["compose"], compose);
    assert_eq!(expand(&terminology, &[]).unwrap().get("compose"), None);
}

#[test]
fn designations_are_chosen_by_language_or_use() {
    let mut animals = animals();
    animals["concept"][1]["designation"] =
        json!([{ "use": { "system": "http://u", "code": "short" }, "value": "B" }, { "language": "fr", "value": "Oiseau" }]);
    let terminology = holding(&[animals, value_set("it", json!({ "include": [{ "system": URL, "concept": [{ "code": "bird" }] }] }))]);
    let shown = |pairs: &[(&str, &str)]| {
        let answer = expand(&terminology, pairs).unwrap();
        let list = answer["expansion"]["contains"][0]["designation"].as_array().cloned().unwrap_or_default();
        list.iter().map(|one| one["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&[("includeDesignations", "true")]), ["B", "Oiseau"]);
    assert_eq!(shown(&[("designation", "urn:ietf:bcp:47|fr")]), ["Oiseau"]);
    assert_eq!(shown(&[("designation", "http://u|short")]), ["B"]);
    assert_eq!(shown(&[("designation", "http://u|short"), ("includeDesignations", "false")]), Vec::<String>::new());
}

#[test]
fn value_sets_that_nobody_wrote() {
    let nested = value_set("nested", json!({ "include": [{ "valueSet": ["http://test/animals?fhir_vs=isa/dog"] }] }));
    let edition = "http://snomed.info/sct/900000000000207008";
    let snomed = json!({ "resourceType": "CodeSystem", "id": "sct", "url": "http://snomed.info/sct", "version": edition, "status": "active",
        "content": "fragment", "concept": [{ "code": "1", "concept": [{ "code": "2" }] }, { "code": "3" }] });
    let terminology = holding(&[animals(), nested, snomed]);
    let codes = |url: &str| {
        let answer = ask(&terminology, "ValueSet", "expand", &[("url", url)])?;
        Ok::<_, TerminologyError>(tree(&answer["expansion"]["contains"]))
    };
    assert_eq!(codes("http://test/animals?fhir_vs").unwrap(), "mammal dog puppy whale bird dodo");
    assert_eq!(codes("http://test/animals?fhir_vs=isa/dog").unwrap(), "dog puppy");
    assert_eq!(codes("http://test/vs/nested").unwrap(), "dog puppy");
    assert_eq!(codes("http://snomed.info/sct?fhir_vs=isa/1").unwrap(), "1 2");
    assert_eq!(codes(&format!("{edition}?fhir_vs=isa/1")).unwrap(), "1 2");
    assert!(codes("http://snomed.info/sct/1/version/2?fhir_vs").is_err());
    assert!(codes("http://test/animals?fhir_vs=refset/1").is_err());
    assert!(codes("http://test/nothing?fhir_vs").is_err());
    assert_eq!(terminology.is_member("http://test/animals?fhir_vs=isa/dog", URL, "puppy"), Some(true));
    assert_eq!(terminology.codes_of_set("http://test/animals?fhir_vs=isa/dog", 9).unwrap().lists[0].1, ["dog", "puppy"]);
    assert!(matches!(terminology.codes_of_set("http://test/animals?fhir_vs", 5), Err(TerminologyError::TooManyCodes { .. })));
}

#[test]
fn an_expansion_over_two_versions_says_which_code_is_of_which() {
    let compose = json!({ "include": [{ "system": URL, "version": "1" }, { "system": URL, "version": "2", "concept": [{ "code": "dog" }, { "code": "bird" }] }] });
    let supplement = json!({ "resourceType": "CodeSystem", "id": "sw", "url": "http://test/sw", "content": "supplement", "supplements": URL,
        "status": "active", "concept": [{ "code": "dog", "designation": [{ "language": "sw", "value": "Mbwa" }] }] });
    let two = holding(&[animals(), older(), supplement, value_set("it", compose)]);
    let answer = expand(&two, &[]).unwrap();
    let contains: Vec<_> = answer["expansion"]["contains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["version"].as_str().unwrap(), one["code"].as_str().unwrap()))
        .collect();
    assert_eq!(contains, [("1", "dog"), ("2", "bird")], "a code comes once, from the first version that has it");
    let parameters = answer["expansion"]["parameter"].as_array().unwrap();
    assert_eq!(parameters.iter().filter(|one| one["name"] == "used-supplement").count(), 1, "{answer}");
    let one = holding(&[animals(), value_set("it", json!({ "include": [{ "system": URL }] }))]);
    assert!(expand(&one, &[]).unwrap()["expansion"]["contains"][0].get("version").is_none());
    // What else shaped it is told.
    let shaped = expand(&one, &[("exclude-system", URL), ("includeDesignations", "true"), ("designation", "sw")]).unwrap();
    for (name, told) in [("exclude-system", json!(URL)), ("includeDesignations", json!(true)), ("designation", json!("sw"))] {
        assert_eq!(value(&shaped["expansion"], name), Some(&told), "{shaped}");
    }
}

#[test]
fn a_code_that_a_part_lacks_is_not_outside() {
    let part = json!({ "resourceType": "CodeSystem", "id": "part", "url": "http://test/part", "status": "active", "content": "fragment",
        "concept": [{ "code": "a" }, { "code": "b" }] });
    let all = value_set("all", json!({ "include": [{ "system": "http://test/part" }] }));
    let below = value_set(
        "below",
        json!({ "include": [{ "system": "http://test/part", "filter": [{ "property": "concept", "op": "is-a", "value": "a" }] }] }),
    );
    let listed = value_set("listed", json!({ "include": [{ "system": "http://test/part", "concept": [{ "code": "a" }] }] }));
    let terminology = holding(&[part, all, below, listed]);
    let has = |set: &str, code: &str| {
        let url = format!("http://test/vs/{set}");
        let answer = terminology.is_member(&url, "http://test/part", code);
        assert_eq!(answer, terminology.is_member_of_any_system(&url, code));
        answer
    };
    assert_eq!([has("all", "a"), has("all", "x"), has("below", "x")], [Some(true), None, None]);
    assert_eq!([has("below", "b"), has("listed", "a"), has("listed", "x")], [Some(false), Some(true), Some(false)]);
    assert_eq!(terminology.is_member("http://test/vs/all", "http://test/other", "x"), Some(false));
}

#[test]
fn a_page_is_of_whole_numbers_of_32_bits() {
    let terminology = holding(&[animals(), value_set("it", json!({ "include": [{ "system": URL }] }))]);
    for (name, value, is_good) in
        [("count", "2147483647", true), ("count", "3000000000", false), ("offset", "2147483648", false), ("offset", "-1", false)]
    {
        assert_eq!(expand(&terminology, &[(name, value)]).is_ok(), is_good, "{name} {value}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let terminology = holding(&[animals(), value_set("it", json!({ "include": [{ "system": URL }] }))]);
    let words = |type_name: &str, name: &str, pairs: &[(&str, &str)]| ask(&terminology, type_name, name, pairs).unwrap_err().to_string();
    assert!(words("CodeSystem", "validate-code", &[("system", URL), ("code", "dog")]).starts_with("the parameter url is missing"));
    let other = words("ValueSet", "expand", &[("url", "http://test/vs/it"), ("valueSetVersion", "3")]);
    assert!(other.contains("no ValueSet with url http://test/vs/it and version 3 is loaded"), "{other}");
}

#[test]
fn parameters_that_an_operation_does_not_take_are_named() {
    let unknown =
        |type_name: &str, name: &str, pairs: &[(&str, &str)]| Terminology::unused_parameters(type_name, None, name, &query(pairs));
    assert_eq!(unknown("ValueSet", "expand", &[("url", "x"), ("excludeNested", "false"), ("_format", "json")]), []);
    let refused = unknown("ValueSet", "expand", &[("url", "x"), ("nosuch", "1"), ("nosuch", "2"), ("norsuch", "1")]);
    assert_eq!(refused, ["nosuch", "norsuch"].map(|name| TerminologyError::Unknown { name: name.to_owned() }));
    assert_eq!(unknown("CodeSystem", "lookup", &[("systemVersion", "1")]).len(), 1);
    assert_eq!(unknown("ConceptMap", "translate", &[("dependency", "1")]), []);
    let repeated = |name: &str| vec![TerminologyError::Repeated { name: name.to_owned() }];
    assert_eq!(unknown("CodeSystem", "lookup", &[("code", "a"), ("code", "b"), ("code", "c")]), repeated("code"));
    assert_eq!(unknown("ValueSet", "expand", &[("url", "x"), ("count", "1"), ("url", "y")]), repeated("url"));
    assert_eq!(unknown("ValueSet", "expand", &[("url", "x"), ("url", "x"), ("designation", "a"), ("designation", "b")]), []);
    // The URL of an instance has said what is asked.
    let of_instance = |type_name: &str, name: &str, pairs: &[(&str, &str)]| {
        Terminology::unused_parameters(type_name, Some("it"), name, &query(pairs)).len()
    };
    assert_eq!(of_instance("ValueSet", "expand", &[("url", "x"), ("valueSetVersion", "3"), ("filter", "a")]), 2);
    assert_eq!(of_instance("ConceptMap", "translate", &[("conceptMapVersion", "3"), ("code", "a"), ("system", "x")]), 1);
    assert_eq!(of_instance("CodeSystem", "validate-code", &[("url", "x"), ("code", "a")]), 0);
    let sent = json!({ "resourceType": "Parameters", "parameter": [{ "name": "count", "valueInteger": 1 }] });
    let both = Arguments::from_parameters(&sent).unwrap().and(query(&[("count", "1")]));
    assert_eq!(Terminology::unused_parameters("ValueSet", None, "expand", &both), []);
}
