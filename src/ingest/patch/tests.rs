//! Tests of patches.

use super::*;
use serde_json::json;

fn patient() -> Value {
    json!({
        "resourceType": "Patient", "id": "p", "birthDate": "1990-01-01", "_birthDate": {"id": "b"},
        "name": [{"family": "A", "given": ["x", "y"], "_given": [null, {"id": "g"}]}, {"family": "B"}],
        "contact": [{"gender": "male"}], "deceasedBoolean": false,
    })
}

fn operation(kind: &str, path: &str, more: Value) -> Value {
    let mut parts = vec![json!({"name": "type", "valueCode": kind}), json!({"name": "path", "valueString": path})];
    parts.extend(more.as_array().into_iter().flatten().cloned());
    json!({"name": "operation", "part": parts})
}

fn apply(operations: Vec<Value>) -> Result<Value, Refusal> {
    Patch::fhirpath(&json!({"resourceType": "Parameters", "parameter": operations}))?.apply(patient())
}

fn one(kind: &str, path: &str, more: Value) -> Result<Value, Refusal> {
    apply(vec![operation(kind, path, more)])
}

/// RFC 7396, appendix A, as far as it is about objects.
#[test]
fn a_merge_patch_does_what_its_rfc_says() {
    for (before, patch, after) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut merged = before.clone();
        merge(&mut merged, patch.as_object().unwrap(), 0);
        assert_eq!(merged, after, "{before} with {patch}");
    }
    assert!(Patch::merge(&json!([])).is_err());
    assert!(matches!(Patch::plain(&json!([])), Ok(Patch::Json(_))));
    assert!(matches!(Patch::plain(&json!({"active": true})), Ok(Patch::Merge(_))));
    assert!(Patch::merge(&json!({"id": "other"})).unwrap().apply(patient()).is_err(), "who a resource is stays");
}

#[test]
fn elements_are_added_replaced_and_deleted() {
    let added =
        one("add", "Patient", json!([{"name": "name", "valueString": "gender"}, {"name": "value", "valueCode": "female"}])).unwrap();
    assert_eq!(added["gender"], "female");
    let listed = json!([{"name": "name", "valueString": "identifier"}, {"name": "value", "valueIdentifier": {"value": "1"}}]);
    assert_eq!(one("add", "Patient", listed).unwrap()["identifier"], json!([{"value": "1"}]));
    let nested = json!([{"name": "name", "valueString": "given"}, {"name": "value", "valueString": "z"}]);
    assert_eq!(one("add", "Patient.name.where(family = 'B')", nested).unwrap()["name"][1]["given"], json!(["z"]));
    let contact = json!([{"name": "name", "valueString": "contact"}, {"name": "value", "part": [
        {"name": "name", "valueHumanName": {"family": "C"}}, {"name": "telecom", "valueContactPoint": {"value": "1"}},
    ]}]);
    assert_eq!(one("add", "Patient", contact).unwrap()["contact"][1], json!({"name": {"family": "C"}, "telecom": [{"value": "1"}]}));
    let birth = one("replace", "Patient.birthDate", json!([{"name": "value", "valueDate": "1991-01-01"}])).unwrap();
    assert_eq!((&birth["birthDate"], &birth["_birthDate"]["id"]), (&json!("1991-01-01"), &json!("b")));
    let dead = one("replace", "Patient.deceased", json!([{"name": "value", "valueDateTime": "2020"}])).unwrap();
    assert_eq!((dead.get("deceasedBoolean"), &dead["deceasedDateTime"]), (None, &json!("2020")));
    let gone = one("delete", "Patient.birthDate", json!([])).unwrap();
    assert!(gone.get("birthDate").is_none() && gone.get("_birthDate").is_none());
    assert_eq!(one("delete", "Patient.photo", json!([])).unwrap(), patient());
    assert!(one("delete", "Patient.contact[0]", json!([])).unwrap().get("contact").is_none(), "an empty list is gone");
}

#[test]
fn lists_keep_what_stands_beside_them() {
    let inserted =
        one("insert", "Patient.name[0].given", json!([{"name": "index", "valueInteger": 1}, {"name": "value", "valueString": "i"}]))
            .unwrap();
    assert_eq!(
        (&inserted["name"][0]["given"], &inserted["name"][0]["_given"]),
        (&json!(["x", "i", "y"]), &json!([null, null, {"id": "g"}]))
    );
    // A list that is not there yet is made by its first item.
    let first = |value: Value| json!([{"name": "index", "valueInteger": 0}, value]);
    let photo = first(json!({"name": "value", "valueAttachment": {"url": "http://x.org"}}));
    assert_eq!(one("insert", "Patient.photo", photo.clone()).unwrap()["photo"], json!([{"url": "http://x.org"}]));
    let prefix = first(json!({"name": "value", "valueString": "Dr"}));
    assert_eq!(one("insert", "Patient.name[0].prefix", prefix).unwrap()["name"][0]["prefix"], json!(["Dr"]));
    let extension = first(json!({"name": "value", "valueExtension": {"url": "urn:e", "valueString": "e"}}));
    assert_eq!(one("insert", "Patient.birthDate.extension", extension).unwrap()["_birthDate"]["extension"][0]["url"], "urn:e");
    let later = json!([{"name": "index", "valueInteger": 1}, {"name": "value", "valueAttachment": {"url": "http://x.org"}}]);
    let gender = first(json!({"name": "value", "valueCode": "male"}));
    for (path, more) in [("Patient.photo", later), ("Patient.gender", gender), ("Patient.contact.nonsense", photo)] {
        assert_eq!(one("insert", path, more).expect_err(path).status(), 422, "{path}");
    }
    let moved =
        one("move", "Patient.name[0].given", json!([{"name": "source", "valueInteger": 1}, {"name": "destination", "valueInteger": 0}]))
            .unwrap();
    assert_eq!((&moved["name"][0]["given"], &moved["name"][0]["_given"]), (&json!(["y", "x"]), &json!([{"id": "g"}, null])));
    let deleted = one("delete", "Patient.name[0].given[1]", json!([])).unwrap();
    assert_eq!((&deleted["name"][0]["given"], deleted["name"][0].get("_given")), (&json!(["x"]), None));
}

#[test]
fn what_does_not_fit_is_422_and_what_is_no_patch_400() {
    let value = json!([{"name": "value", "valueString": "x"}]);
    for (kind, path, more) in [
        ("replace", "Patient.photo", value.clone()),
        ("replace", "Patient.name", value.clone()),
        ("replace", "Patient.name.count()", value.clone()),
        ("replace", "Patient.id", json!([{"name": "value", "valueId": "q"}])),
        ("replace", "Patient.deceased", json!([{"name": "value", "valueHumanName": {"family": "C"}}])),
        ("replace", "Patient", value.clone()),
        ("delete", "Patient.name", json!([])),
        ("add", "Patient", json!([{"name": "name", "valueString": "nonsense"}, {"name": "value", "valueString": "x"}])),
        ("add", "Patient", json!([{"name": "name", "valueString": "birthDate"}, {"name": "value", "valueDate": "2000"}])),
        ("insert", "Patient.name", json!([{"name": "index", "valueInteger": 3}, {"name": "value", "valueHumanName": {"family": "C"}}])),
        (
            "add",
            "Patient",
            json!([{"name": "name", "valueString": "contact"}, {"name": "value", "part": [{"name": "gender", "valueCode": "male"}, {"name": "gender", "valueCode": "female"}]}]),
        ),
        ("move", "Patient.name", json!([{"name": "source", "valueInteger": 0}, {"name": "destination", "valueInteger": 2}])),
    ] {
        let refusal = one(kind, path, more).expect_err(path);
        assert_eq!(refusal.status(), 422, "{kind} {path}: {refusal}");
        assert!(refusal.issues.iter().all(|issue| issue.expression.is_empty() || issue.expression == "Parameters.parameter[0]"));
    }
    for (kind, path, more) in [
        ("fly", "Patient", json!([])),
        ("replace", "Patient.(", value),
        ("replace", "Patient.photo", json!([])),
        ("insert", "x", json!([])),
        ("replace", "Patient.name[0]", json!([{"name": "value", "valueHumanName": {}}])),
        ("replace", "Patient.name[0]", json!([{"name": "value", "valueHumanName": {"period": {}}}])),
        ("replace", "Patient.birthDate", json!([{"name": "value", "valueDate": "1991"}, {"name": "value", "valueDate": "1992"}])),
    ] {
        assert_eq!(one(kind, path, more).expect_err(path).status(), 400, "{kind} {path}");
    }
    assert_eq!(apply(vec![]).unwrap_err().status(), 400, "FHIR has no empty lists");
    let nothing = Patch::fhirpath(&json!({"resourceType": "Parameters"})).unwrap();
    assert_eq!(nothing.apply(patient()).unwrap(), patient());
    assert_eq!(Patch::fhirpath(&json!({"resourceType": "Patient"})).unwrap_err().status(), 400);
    assert_eq!(Patch::json(&json!({})).unwrap_err().status(), 400);
    assert_eq!(Patch::json(&json!([{"op": "replace", "path": "/id", "value": "q"}])).unwrap().apply(patient()).unwrap_err().status(), 422);
    let last = Patch::json(&json!([{"op": "remove", "path": "/contact/0"}])).unwrap().apply(patient()).unwrap();
    assert!(last.get("contact").is_none());
}

/// An extension is an element of every primitive (<https://hl7.org/fhir/R4/extensibility.html>).
#[test]
fn what_stands_beside_a_primitive_is_patched_like_the_rest() {
    let extension = |url: &str, text: &str| json!({"url": url, "valueString": text});
    let before = json!({
        "resourceType": "Patient", "id": "p", "birthDate": "1990", "_birthDate": {"extension": [extension("urn:t", "old")]},
        "_gender": {"extension": [extension("urn:absent", "unknown")]},
        "name": [
            {"given": ["x", null, "z"], "_given": [{"id": "g"}, {"extension": [extension("urn:f", "f")]}, {"extension": [extension("urn:e", "e")]}]},
            {"_given": [{"extension": [extension("urn:h", "h")]}, {"id": "i"}]},
            {"given": ["a", "b"]},
        ],
    });
    let patched = |kind: &str, path: &str, more: Value| {
        let parameters = json!({"resourceType": "Parameters", "parameter": [operation(kind, path, more)]});
        Patch::fhirpath(&parameters).and_then(|patch| patch.apply(before.clone())).unwrap_or_else(|refusal| panic!("{path}: {refusal}"))
    };
    let value = |key: &str, value: Value| json!([{"name": "value", key: value}]);
    let replaced = patched("replace", "Patient.birthDate.extension('urn:t').value", value("valueString", json!("new")));
    assert_eq!(replaced["_birthDate"]["extension"], json!([extension("urn:t", "new")]));
    let replaced = patched("replace", "Patient.birthDate.extension('urn:t')", value("valueExtension", extension("urn:n", "n")));
    assert_eq!(replaced["_birthDate"]["extension"], json!([extension("urn:n", "n")]));
    let first = json!([{"name": "index", "valueInteger": 0}, {"name": "value", "valueExtension": extension("urn:n", "n")}]);
    let inserted = patched("insert", "Patient.birthDate.extension", first);
    assert_eq!(inserted["_birthDate"]["extension"], json!([extension("urn:n", "n"), extension("urn:t", "old")]));
    // The list beside is as long as that of the values, whichever item it is about and whatever comes to the end.
    let labelled = json!([{"name": "name", "valueString": "extension"}, {"name": "value", "valueExtension": extension("urn:n", "n")}]);
    let added = patched("add", "Patient.name[2].given.first()", labelled);
    assert_eq!(added["name"][2]["_given"], json!([{"extension": [extension("urn:n", "n")]}, null]));
    let last = json!([{"name": "name", "valueString": "given"}, {"name": "value", "valueString": "new"}]);
    let added = patched("add", "Patient.name[1]", last);
    assert_eq!(added["name"][1]["given"], json!([null, null, "new"]));
    assert_eq!(added["name"][1]["_given"], json!([{"extension": [extension("urn:h", "h")]}, {"id": "i"}, null]));
    let replaced = patched("replace", "Patient.name[0].given[2].extension.value", value("valueInteger", json!(1)));
    assert_eq!(replaced["name"][0]["_given"][2]["extension"], json!([{"url": "urn:e", "valueInteger": 1}]));
    // What loses its last extension leaves the others beside their values.
    let less = patched("delete", "Patient.name[0].given[2].extension[0]", json!([]));
    assert_eq!((&less["name"][0]["given"], &less["name"][0]["_given"][2]), (&json!(["x", null, "z"]), &Value::Null));
    let less = patched("delete", "Patient.name[0].given[1].extension", json!([]));
    assert_eq!(less["name"][0]["given"], json!(["x", "z"]), "neither value nor extension: it is gone");
    assert_eq!(less["name"][0]["_given"], json!([{"id": "g"}, {"extension": [extension("urn:e", "e")]}]));
    let less = patched("delete", "Patient.name[1].given[0].extension", json!([]));
    assert_eq!(less["name"][1], json!({"_given": [{"id": "i"}]}));
    // What has only extensions gets a value, or goes.
    let known = patched("replace", "Patient.gender", value("valueCode", json!("male")));
    assert_eq!((&known["gender"], &known["_gender"]), (&json!("male"), &before["_gender"]));
    let named = patched("replace", "Patient.name[1].given[1]", value("valueString", json!("y")));
    assert_eq!((&named["name"][1]["given"], &named["name"][1]["_given"]), (&json!([null, "y"]), &before["name"][1]["_given"]));
    let gone = patched("delete", "Patient.name[1].given[0]", json!([]));
    assert_eq!(gone["name"][1], json!({"_given": [{"id": "i"}]}));
    assert!(patched("delete", "Patient.gender", json!([])).get("_gender").is_none());
    let held =
        json!([{"name": "name", "valueString": "contained"}, {"name": "value", "resource": {"resourceType": "Organization", "id": "o"}}]);
    assert_eq!(patched("add", "Patient", held)["contained"], json!([{"resourceType": "Organization", "id": "o"}]));
}

/// Each operation walks through what the one before it made.
#[test]
fn a_fhirpath_patch_makes_nothing_deeper_than_is_stored() {
    let extension = |levels: usize| (1..levels).fold(json!({"url": "u"}), |inner, _| json!({"url": "u", "extension": [inner]}));
    let add = |path: &str, levels: usize| {
        let value = json!({"name": "value", "valueExtension": extension(levels)});
        operation("add", path, json!([{"name": "name", "valueString": "extension"}, value]))
    };
    let below = format!("Patient{}", ".extension[0]".repeat(50));
    assert!(apply(vec![add("Patient", 50), add(&below, 9)]).is_ok());
    let refusal = apply(vec![add("Patient", 50), add(&below, 10)]).unwrap_err();
    assert_eq!((refusal.status(), refusal.issues[0].expression.as_str()), (422, "Parameters.parameter[1]"));
    assert!(refusal.issues[0].diagnostics.contains("nested too deep"), "{refusal:?}");
}
