//! Fixtures: small resources that show one thing each.

mod code_systems;
mod concept_maps;
mod expansions;
mod listings;
mod oracles;
mod shipped_files;
mod supplements;
mod value_sets;

use super::*;
use serde_json::json;

/// A terminology of these resources.
fn holding(resources: &[Value]) -> Terminology {
    let terminology = Terminology::new();
    terminology.load(resources);
    terminology
}

fn query(pairs: &[(&str, &str)]) -> Arguments {
    Arguments::from_query(pairs.iter().copied())
}

/// The answer of an operation asked at the type.
fn ask(terminology: &Terminology, type_name: &str, name: &str, pairs: &[(&str, &str)]) -> Result<Value, TerminologyError> {
    terminology.operate(type_name, None, name, &query(pairs))
}

/// The value of the first parameter of this name, whatever its type.
fn value<'a>(parameters: &'a Value, name: &str) -> Option<&'a Value> {
    let list = parameters.get("parameter").or_else(|| parameters.get("part"))?.as_array()?;
    let found = list.iter().find(|one| one["name"] == name)?;
    found.as_object()?.iter().find(|(key, _)| key.starts_with("value")).map(|(_, value)| value)
}

/// A hierarchy by nesting, with a property, a second language, an abstract and an inactive code.
fn animals() -> Value {
    json!({
        "resourceType": "CodeSystem", "id": "animals", "url": "http://test/animals", "version": "2", "name": "Animals", "status": "active",
        "content": "complete", "caseSensitive": true,
        "property": [{ "code": "legs", "type": "integer", "description": "Number of legs" }],
        "concept": [
            { "code": "mammal", "display": "Mammal", "property": [{ "code": "notSelectable", "valueBoolean": true }], "concept": [
                { "code": "dog", "display": "Dog", "definition": "A tame wolf", "designation": [{ "language": "sw", "value": "Mbwa" }],
                  "property": [{ "code": "legs", "valueInteger": 4 }], "concept": [{ "code": "puppy", "display": "Puppy" }] },
                { "code": "whale", "display": "Whale" }
            ] },
            { "code": "bird", "display": "Bird", "property": [{ "code": "legs", "valueInteger": 2 }] },
            { "code": "dodo", "display": "Dodo", "property": [{ "code": "inactive", "valueBoolean": true }, { "code": "parent", "valueCode": "bird" }] }
        ]
    })
}

fn value_set(id: &str, compose: Value) -> Value {
    json!({ "resourceType": "ValueSet", "id": id, "url": format!("http://test/vs/{id}"), "version": "1", "status": "active", "compose": compose })
}

fn concept_map(id: &str, groups: Value) -> Value {
    json!({ "resourceType": "ConceptMap", "id": id, "url": format!("http://test/cm/{id}"), "version": "1", "status": "active", "group": groups })
}

#[test]
fn a_change_is_seen_by_every_clone_and_leaves_other_resources_alone() {
    let terminology = holding(&[animals(), value_set("all", json!({ "include": [{ "system": "http://test/animals" }] }))]);
    let clone = terminology.clone();
    let shared = terminology.loaded.load().sets.id("all").unwrap().clone();
    let mut changed = animals();
    changed["concept"][1]["display"] = "Fowl".into();
    clone.upsert(&changed);
    assert_eq!(terminology.display("http://test/animals", "bird").as_deref(), Some("Fowl"));
    assert!(Arc::ptr_eq(&shared, terminology.loaded.load().sets.id("all").unwrap()));
    clone.remove("CodeSystem", "animals");
    assert_eq!(terminology.display("http://test/animals", "bird"), None);
    assert_eq!(
        terminology.is_member("http://test/vs/all", "http://test/animals", "bird"),
        None,
        "it cannot be told without the code system"
    );
}

#[test]
fn the_newest_active_version_answers_when_none_is_asked_for() {
    let version = |id: &str, version: &str, status: &str| {
        let mut system = animals();
        system["id"] = id.into();
        system["version"] = version.into();
        system["status"] = status.into();
        system["concept"][1]["display"] = id.into();
        system
    };
    let terminology = holding(&[version("b", "1.10", "active"), version("a", "1.9", "active"), version("c", "2", "draft")]);
    assert_eq!(terminology.display("http://test/animals", "bird").as_deref(), Some("b"));
    assert_eq!(terminology.display("http://test/animals|1.9", "bird").as_deref(), Some("a"));
    assert_eq!(terminology.display("http://test/animals|3", "bird"), None);
    terminology.remove("CodeSystem", "b");
    assert_eq!(terminology.display("http://test/animals", "bird").as_deref(), Some("a"));
}

#[test]
fn members_are_the_codings_of_an_expansion() {
    let terminology = holding(&[
        animals(),
        value_set("all", json!({ "include": [{ "system": "http://test/animals", "concept": [{ "code": "bird" }, { "code": "cat" }] }] })),
    ]);
    let codings: Vec<Value> = terminology.members("http://test/vs/all").unwrap().iter().map(Contained::to_coding).collect();
    assert_eq!(
        codings,
        [
            json!({ "system": "http://test/animals", "code": "bird", "display": "Bird" }),
            json!({ "system": "http://test/animals", "code": "cat" })
        ]
    );
    assert_eq!(terminology.members("http://test/vs/none"), None);
    let asked = terminology.operate("ValueSet", None, "$expand", &query(&[("url", "http://test/vs/all")])).unwrap();
    assert_eq!(asked["expansion"]["total"], json!(1), "a member of old, though no code any more");
}

#[test]
fn other_resources_and_broken_ones_are_passed_over() {
    let terminology = holding(&[
        json!({ "resourceType": "Patient", "id": "p" }),
        json!({ "resourceType": "CodeSystem" }),
        json!([1, 2]),
        json!({ "resourceType": "CodeSystem", "id": "x", "url": "http://test/x", "concept": [{ "display": "no code" }, 7, { "code": "a", "concept": "no list" }] }),
        json!({ "resourceType": "ConceptMap", "id": "x", "url": "http://test/cm/x", "group": [{ "element": [{}, { "code": "a", "target": [{}] }] }, 3] }),
        json!({ "resourceType": "ValueSet", "id": "x", "url": "http://test/vs/x", "compose": { "include": [{}, { "filter": [{}] }, 1] } }),
    ]);
    assert_eq!(terminology.display("http://test/x", "a"), None);
    assert_eq!(terminology.translate_code("http://test/cm/x", None, "a"), Some(Vec::new()));
    assert_eq!(terminology.is_member("http://test/vs/x", "http://test/x", "a"), Some(false));
}

#[test]
fn inputs_of_the_wrong_shape_are_told_by_name() {
    let terminology = holding(&[animals()]);
    let cases = [
        ("CodeSystem", "lookup", &[("system", "http://test/animals")][..], "code"),
        ("CodeSystem", "lookup", &[("code", "dog")], "system"),
        ("CodeSystem", "lookup", &[("code", "dog"), ("coding", "http://test/animals|dog")], "code and coding"),
        ("CodeSystem", "lookup", &[("coding", "dog")], "coding"),
        ("ConceptMap", "translate", &[("code", "dog")], "system"),
        ("ValueSet", "expand", &[], "url"),
        ("ValueSet", "expand", &[("url", "http://test/none")], "http://test/none"),
        ("ValueSet", "expand", &[("url", "x"), ("count", "-1")], "count"),
        ("ValueSet", "expand", &[("url", "x"), ("activeOnly", "perhaps")], "activeOnly"),
        ("CodeSystem", "subsumes", &[("codeA", "dog"), ("system", "http://test/animals")], "codeB"),
        ("ValueSet", "fly", &[], "fly"),
    ];
    for (type_name, name, pairs, word) in cases {
        let error = ask(&terminology, type_name, name, pairs).unwrap_err();
        assert!(error.issue().diagnostics.contains(word), "{type_name}/${name}: {error}");
    }
    assert!(Arguments::from_parameters(&json!({ "resourceType": "Patient" })).is_err());
}
