//! What one field less may change: what that field says, and nothing else. A payload that says everything is taken block by block,
//! and each single field is left out in turn; what comes out is compared and validated, profiles included.

use super::coverage::{DECISIONS, SCHEMA, elements, everything};
use super::tests::{all_resources, only, process, try_process};
use super::*;
use crate::terminology::Terminology;
use crate::validate::{Level, Profiles, Validator, shipped_profiles};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let profiles = Profiles::new();
    profiles.load(&shipped_profiles());
    Validator::new(profiles, Arc::new(Terminology::with_shipped()), Level::Profile)
});

fn assert_valid(resource: &Value) {
    assert_eq!(VALIDATOR.on_write(resource), [], "{resource:#}");
}

/// Payloads that say everything: what every record has, and with it one block each.
fn blocks() -> Vec<Value> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let whole = everything(&schema, &schema, "", &mut 0);
    let record = whole["data"]["listGrid"][0].as_object().unwrap().clone();
    let base = |key: &str| ["mrn", "demographicDetails", "visitDetails", "outcomeDetails"].contains(&key);
    let with = |block: Option<&String>| {
        let mut payload = whole.clone();
        payload["data"]["listGrid"][0] =
            record.iter().filter(|(key, _)| base(key) || Some(*key) == block).map(|(key, value)| (key.clone(), value.clone())).collect();
        payload
    };
    let blocks = record.keys().filter(|key| !base(key)).map(|key| with(Some(key)));
    std::iter::once(with(None)).chain(blocks).collect()
}

/// The JSON pointer of every leaf, with its value.
fn leaves(value: &Value, pointer: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| leaves(item, &format!("{pointer}/{at}"), found)),
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(value, &format!("{pointer}/{key}"), found)),
        leaf => found.push((pointer.to_owned(), leaf.clone())),
    }
}

fn without(payload: &Value, pointer: &str) -> Value {
    let mut payload = payload.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match payload.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
        parent => drop(parent.as_object_mut().unwrap().shift_remove(last)),
    }
    payload
}

/// A leaf's place in the template's words, without the numbers of lists; within its record.
fn place(pointer: &str) -> String {
    let steps: Vec<&str> = pointer.split('/').filter(|step| !step.is_empty() && step.parse::<usize>().is_err()).collect();
    steps.join(".").trim_start_matches("data.listGrid.").to_owned()
}

/// The definition's field that a place is, such as `Identifier.id`.
fn definition_of(schema: &Value, place: &str) -> Option<String> {
    let follow = |node: &Value| -> (Option<String>, Value) {
        let node = if node["items"].is_object() { &node["items"] } else { node };
        match node["$ref"].as_str() {
            Some(name) => {
                let name = name.trim_start_matches("#/$defs/");
                (Some(name.to_owned()), schema["$defs"][name].clone())
            }
            None => (None, node.clone()),
        }
    };
    let start =
        if place.starts_with("data.") || place.starts_with("templateDetails") { schema } else { &schema["$defs"]["SharedHealthRecords"] };
    let (mut name, mut node) = (Some("SharedHealthRecords".to_owned()), start.clone());
    let steps: Vec<&str> = place.split('.').collect();
    for (at, step) in steps.iter().enumerate() {
        let property = node["properties"].get(step)?.clone();
        if at + 1 == steps.len() {
            return Some(format!("{}.{step}", name?));
        }
        (name, node) = follow(&property);
    }
    None
}

/// Whether the template marks the field as mandatory.
fn mandatory(schema: &Value, place: &str) -> bool {
    let Some((name, field)) =
        definition_of(schema, place).and_then(|at| at.split_once('.').map(|(name, field)| (name.to_owned(), field.to_owned())))
    else {
        return false;
    };
    schema["$defs"][name]["required"].as_array().is_some_and(|all| all.iter().any(|one| *one == json!(field)))
}

/// Every text and number of the resources, ids and references apart.
fn tokens(processed: &Processed) -> BTreeSet<String> {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Object(map) => {
                map.iter()
                    .filter(|(key, _)| !["id", "reference", "meta"].contains(&key.as_str()))
                    .for_each(|(_, value)| walk(value, found));
            }
            Value::String(text) => drop(found.insert(text.clone())),
            Value::Number(number) => drop(found.insert(number.to_string())),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    all_resources(processed).into_iter().for_each(|resource| walk(resource, &mut found));
    found
}

/// Whether a text has this value in it, and not only as part of a longer number.
fn mentions(text: &str, value: &Value) -> bool {
    let value = match value {
        Value::String(value) => value.clone(),
        Value::Number(number) => number.to_string(),
        _ => return false,
    };
    // Short words and letters stand in others by chance.
    value.len() > 3 && text.match_indices(&value).any(|(at, _)| !text[at + value.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

fn problems(processed: &Processed) -> Vec<String> {
    let issues = processed.records.iter().flat_map(|record| &record.warnings).chain(&processed.envelope_warnings);
    issues.filter(|issue| issue.code == IssueCode::Processing).map(|issue| format!("{}: {}", issue.expression, issue.diagnostics)).collect()
}

#[test]
fn a_field_less_takes_nothing_else_away_and_leaves_all_valid() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let decisions: BTreeMap<String, String> = serde_json::from_str(DECISIONS).unwrap();
    let (mut wrong, mut lost, mut known) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let (mut tried, mut refused) = (0, 0);
    for (at, block) in blocks().into_iter().enumerate() {
        let whole = process(&block);
        assert_eq!(problems(&whole), [""; 0]);
        let by_id = |processed: &Processed| -> BTreeMap<String, Value> {
            all_resources(processed).into_iter().map(|one| (format!("{}/{}", one["resourceType"], one["id"]), one.clone())).collect()
        };
        let (all, said, elements_of_all) = (by_id(&whole), tokens(&whole), elements(&whole));
        all.values().for_each(assert_valid);
        let mut fields = Vec::new();
        leaves(&block, "", &mut fields);
        for (pointer, value) in &fields {
            let field = place(pointer);
            // What all blocks share is tried with the first of them.
            let shared = ["data.", "templateDetails.", "mrn", "demographicDetails.", "visitDetails.", "outcomeDetails."];
            if at > 0 && shared.iter().any(|prefix| field.starts_with(prefix)) {
                continue;
            }
            let Some(processed) = try_process(&without(&block, pointer)) else { continue };
            tried += 1;
            wrong.extend(problems(&processed).into_iter().map(|problem| format!("without {field}: {problem}")));
            if processed.records.iter().any(|record| matches!(record.verdict, Verdict::Rejected)) {
                refused += 1;
                continue;
            }
            for (id, resource) in by_id(&processed) {
                if all.get(&id) != Some(&resource) {
                    wrong.extend(
                        VALIDATOR
                            .on_write(&resource)
                            .into_iter()
                            .map(|issue| format!("without {field}: {}: {}", issue.expression, issue.diagnostics)),
                    );
                }
            }
            for token in said.difference(&tokens(&processed)).filter(|token| !mentions(token, value)) {
                let others = fields.iter().filter(|(other, said)| other != pointer && mentions(token, said)).map(|(other, _)| place(other));
                // The facility's code is in systems of whatever is the facility's own; a list of codes says nothing without a code.
                let alone = |other: &String| {
                    *other == "data.facilityDetails.code"
                        || field.strip_suffix(".code").is_some_and(|one| other.strip_suffix(".codeType") == Some(one))
                };
                if let Some(other) = others.filter(|other| !alone(other)).find(|_| !mandatory(&schema, &field)) {
                    wrong.push(format!("without {field}: {other} is lost too"));
                }
            }
            if elements(&processed) == elements_of_all {
                let definition = definition_of(&schema, &field).unwrap_or_default();
                // A place that is decided decides for all below it.
                let above = |key: &&String| field.strip_prefix(&**key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                match decisions.keys().find(above) {
                    Some(place) => drop(known.insert(place.clone())),
                    None if decisions.contains_key(&definition) => {}
                    None => drop(lost.insert(field.clone())),
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong.extend(lost.into_iter().map(|field| format!("{field} goes nowhere: map it, or name the decision in decisions.json by its path")));
    let stale: Vec<&String> =
        decisions.keys().filter(|key| key.starts_with(|first: char| first.is_ascii_lowercase()) && !known.contains(*key)).collect();
    wrong.extend(stale.into_iter().map(|field| format!("{field} goes somewhere, though decisions.json says that it does not")));
    assert_eq!(wrong, [""; 0], "{wrong:#?}");
    assert!(tried > 700 && refused < 20, "{tried} fields tried, {refused} records refused");
}

#[test]
fn everything_and_every_example_meets_the_profiles_that_it_claims() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    all_resources(&process(&everything(&schema, &schema, "", &mut 0))).into_iter().for_each(assert_valid);
    let templates = Templates::shipped().unwrap();
    for example in templates.definitions().flat_map(|definition| definition.examples().map(|(_, example)| example).collect::<Vec<_>>()) {
        all_resources(&process(example)).into_iter().for_each(assert_valid);
    }
}

/// A record of a living client with one block, and what comes of it beside what each record gives.
fn with_block(block: Value) -> (Record, Vec<Value>) {
    let mut record = json!({
        "mrn": "e1", "demographicDetails": {"firstName": "A", "lastName": "B", "dateOfBirth": "1990-01-01", "gender": "female", "identifiers": [{"type": "MRN", "id": "e1"}]},
        "visitDetails": {"id": "e1", "visitDate": "2026-09-05", "visitType": "OPD"}, "outcomeDetails": {"isAlive": true},
    });
    record.as_object_mut().unwrap().extend(block.as_object().unwrap().clone());
    let payload = json!({"templateDetails": {"code": "GENERAL"}, "data": {"facilityDetails": {"code": "EB"}, "listGrid": [record]}});
    let processed = process(&payload);
    all_resources(&processed).into_iter().for_each(assert_valid);
    let common = |resource: &Value| {
        ["Patient", "Encounter", "Organization"].contains(&resource["resourceType"].as_str().unwrap())
            || resource["category"][0]["coding"][0]["code"] == "outcome-details"
    };
    let made = all_resources(&processed).into_iter().filter(|resource| !common(resource)).cloned().collect();
    (only(&payload), made)
}

#[test]
fn a_block_that_says_nothing_is_left_out_in_silence() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let properties = schema["$defs"]["SharedHealthRecords"]["properties"].as_object().unwrap();
    let base = ["mrn", "demographicDetails", "visitDetails", "outcomeDetails"];
    // Each field of a block, itself with nothing in it.
    fn hollow(root: &Value, node: &Value, depth: usize) -> Value {
        if let Some(name) = node["$ref"].as_str() {
            return hollow(root, root.pointer(&name[1..]).unwrap(), depth);
        }
        match (node["type"].as_str(), depth) {
            (Some("object"), 0) => json!({}),
            (Some("object"), _) => {
                let properties = node["properties"].as_object().into_iter().flatten();
                properties.map(|(name, property)| (name.clone(), hollow(root, property, depth - 1))).collect()
            }
            (Some("array"), _) => json!([hollow(root, &node["items"], depth)]),
            (Some("string"), _) if node["enum"].is_null() => json!("  "),
            _ => Value::Null,
        }
    }
    for (name, node) in properties.iter().filter(|(name, _)| !base.contains(&name.as_str())) {
        for depth in 0..5 {
            let (record, made) = with_block(json!({ name: hollow(&schema, node, depth) }));
            assert_eq!((&*record.warnings, &*made), (&[][..], &[][..]), "{name}, {depth} deep");
        }
        let (record, made) = with_block(json!({ name: null }));
        assert_eq!((&*record.warnings, &*made), (&[][..], &[][..]), "{name}");
    }
}

#[test]
fn a_block_without_what_it_is_about_is_named_and_not_made_up() {
    let cases = [
        (
            json!({"allergies": [{"category": "FOOD"}]}),
            "listGrid[0].allergies[0]: says too little to be stored as AllergyIntolerance: it needs code or name",
        ),
        (json!({"chronicConditions": [{"criticality": "HIGH"}]}), "listGrid[0].chronicConditions[0]: says too little"),
        (json!({"vaccinationDetails": [{"date": "2026-09-05"}]}), "listGrid[0].vaccinationDetails[0]: says too little"),
        (json!({"referralDetails": {"referralDate": "2026-09-05"}}), "listGrid[0].referralDetails: says too little"),
        (json!({"medicationDetails": [{"orderDate": "2026-09-05"}]}), "listGrid[0].medicationDetails[0]: says too little"),
        (json!({"diagnosisDetails": [{"diagnosisDate": "2026-09-05"}]}), "listGrid[0].diagnosisDetails[0]: says too little"),
    ];
    for (block, words) in cases {
        let (record, made) = with_block(block);
        let told: Vec<String> = record.warnings.iter().map(|issue| format!("{}: {}", issue.expression, issue.diagnostics)).collect();
        assert!(told.iter().any(|told| told.starts_with(words)), "{told:?}");
        assert_eq!(made, [Value::Null; 0]);
    }
    // The visit does not refer to what was not made.
    let (record, made) =
        with_block(json!({"diagnosisDetails": [{"diagnosisDate": "2026-09-05"}, {"diagnosisCode": "B54", "diagnosisDate": "2026-09-05"}]}));
    let Verdict::Accepted { resources } = record.verdict else { panic!("{:?}", record.errors) };
    let visit = resources.iter().find(|one| one.resource["resourceType"] == "Encounter").unwrap();
    assert_eq!((made.len(), visit.resource["diagnosis"].as_array().unwrap().len()), (1, 1));
}

#[test]
fn an_empty_list_still_says_that_there_is_nothing() {
    let (record, made) =
        with_block(json!({"laborAndDeliveryDetails": {"birthDetails": []}, "treatmentDetails": {"surgery": []}, "diagnosisDetails": []}));
    assert_eq!(made, [Value::Null; 0]);
    let names: Vec<&str> = record.lists.iter().filter(|list| list.whole).map(|list| &*list.name).collect();
    assert_eq!(names, ["diagnosisDetails", "treatmentDetails.surgery", "laborAndDeliveryDetails.birthDetails"]);
}

#[test]
fn a_result_is_named_by_its_request_and_kept_when_nothing_names_it() {
    let with_tests = |tests: Value| {
        json!({"labRequestDetails": [{"dateOccurred": "2026-09-05", "specimenID": "S", "requestedLabTests": tests,
            "labTestResults": [{"obrSetId": 1, "results": [{"obxSetId": 1, "result": "Positive"}]}]}]})
    };
    let report = |made: &[Value]| made.iter().find(|one| one["resourceType"] == "DiagnosticReport").unwrap()["code"].clone();
    let (_, made) = with_block(with_tests(json!([{"obrSetId": 1, "typeOfTest": {"code": "70569-9", "codeType": "LOINC"}}])));
    assert_eq!(report(&made)["coding"][0]["code"], "70569-9");
    let (_, made) = with_block(with_tests(json!([])));
    assert_eq!(report(&made)["coding"][0]["code"], "unknown");
}

#[test]
fn numbers_that_are_text_are_read_or_kept_and_told() {
    let (record, made) = with_block(json!({
        "clinicalInformation": {"vitalSigns": [{"weight": "70 kg", "temperature": "38,5", "height": "tall", "pulseRate": "1,200"}]},
        "labInvestigationDetails": [{"testCode": "K", "testOrderDate": "2026-09-05", "testResultDate": "2026-09-05", "standardCode": false,
            "testResults": [{"parameter": "b", "result": "Neg", "lowRange": "<1:20", "highRange": "Negative", "releaseDate": "2026-09-05"}]}],
        "labRequestDetails": [{"dateOccurred": "2026-09-05", "specimenID": "S",
            "labTestResults": [{"obrSetId": 1, "results": [{"parameter": "c", "result": "5", "lowRange": 3, "highRange": "<7"}]}]}],
    }));
    let values: Vec<Value> = made
        .iter()
        .filter(|one| one["category"][0]["coding"][0]["code"] == "vital-signs")
        .map(|one| if one["valueString"].is_null() { one["valueQuantity"]["value"].clone() } else { one["valueString"].clone() })
        .collect();
    assert_eq!(values, [json!(70), json!(38.5), json!("tall"), json!("1,200")]);
    let ranges: Vec<&Value> = made.iter().map(|one| &one["referenceRange"][0]).filter(|range| !range.is_null()).collect();
    assert_eq!(ranges, [&json!({"low": {"value": 3}, "text": "3 - <7"}), &json!({"text": "<1:20 - Negative"})]);
    let told: Vec<&str> =
        record.warnings.iter().map(|issue| &*issue.expression).filter(|path| !path.ends_with("labInvestigationDetails")).collect();
    let vitals = "listGrid[0].clinicalInformation.vitalSigns[0]";
    let expected = [format!("{vitals}.weight"), format!("{vitals}.temperature"), format!("{vitals}.height"), format!("{vitals}.pulseRate")];
    assert!(expected.iter().all(|path| told.contains(&&**path)), "{told:?}");
    assert!(told.contains(&"listGrid[0].labRequestDetails[0].labTestResults[0].results[0].highRange"), "{told:?}");
}

#[test]
fn what_no_client_and_no_time_stand_in_claims_no_profile() {
    let payload = json!({"templateDetails": {"code": "LAB"}, "data": {
        "facilityDetails": {"code": "EB", "bloodBags": [{"bloodType": "O+", "quantity": 4}]},
        "listGrid": [{"labRequestDetails": [{"dateOccurred": "2026-09-05", "specimenID": "S", "labTestResults": [{"obrSetId": 1, "results": [{"result": "5"}]}]}]}]
    }});
    let processed = process(&payload);
    let observations: Vec<&Value> = all_resources(&processed).into_iter().filter(|one| one["resourceType"] == "Observation").collect();
    assert_eq!(observations.len(), 2);
    for observation in observations {
        assert_eq!(observation["meta"]["profile"], Value::Null);
        assert_valid(observation);
    }
}

#[test]
fn an_update_has_the_date_of_the_visit_that_is_stored() {
    let update = json!({"mrn": "e1", "visitDetails": {"id": "v"}, "eyeClinicDetails": {"refracted": true}, "vaccinationDetails": [{"code": "BCG"}],
        "treatmentDetails": {"surgery": [{"reason": "x"}]}, "clinicalInformation": {"vitalSigns": [{"weight": 60}]}});
    let payload = json!({"templateDetails": {"code": "GENERAL"}, "data": {"facilityDetails": {"code": "EB"}, "listGrid": [update]}});
    let first = process(&payload);
    let encounter = first.wanted.iter().next().unwrap();
    let stored = Known::from([(encounter.clone(), json!({"period": {"start": "2026-09-05"}}))]);
    let second = super::tests::process_knowing(&payload, &stored);
    assert_eq!(second.wanted, BTreeSet::new());
    let mut dates = Vec::new();
    for resource in all_resources(&second) {
        dates
            .extend(["effectiveDateTime", "occurrenceDateTime", "performedDateTime"].iter().filter_map(|key| resource.get(*key)?.as_str()));
    }
    assert_eq!(dates, ["2026-09-05"; 4]);
}

#[test]
fn what_is_not_valid_is_kept_back_and_named_and_its_neighbours_stay() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("tiny/template.json", r#"{"codes": ["tiny"], "select": ["form"], "records": "list"}"#);
    write(
        "tiny/schema.json",
        r#"{"type": "object", "properties": {"form": {"type": "string"}, "list": {"type": "array", "items": {"type": "object", "properties":
            {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string"}}}}}}}}}"#,
    );
    write(
        "tiny/mapping.json",
        r#"{"record": [
            {"id": ["=a"], "resource": {"resourceType": "Basic", "code": {"text": "=a.toString()"}, "extension": [
                {"$for": "=b", "$value": {"url": "https://example.org/b", "valueReference": {"$reference": ["Basic", "=%record.a", "=c"]}}}]}},
            {"for": "b", "id": ["=%record.a", "=c"], "resource": {"resourceType": "Basic", "code": {"text": "=c"}, "created": "=c"}}]}"#,
    );
    let templates = Templates::load(folder.path()).unwrap();
    let payload = br#"{"form": "tiny", "list": [{"a": 5, "b": [{"c": "2026-09-05"}, {"c": "SECRET"}]}]}"#;
    let processed = templates.process(payload, &super::tests::options(), &super::tests::NoMaps).unwrap();
    let [record] = processed.records.as_slice() else { panic!() };
    let told: Vec<String> = record.warnings.iter().map(|issue| format!("{}: {}", issue.expression, issue.diagnostics)).collect();
    assert!(
        matches!(told.as_slice(), [told] if told.starts_with("list[0].b[1]: is not stored as Basic: Basic.created ") && !told.contains("SECRET")),
        "{told:?}"
    );
    let made = all_resources(&processed);
    assert_eq!(made.len(), 2);
    assert_eq!(made[0]["extension"].as_array().unwrap().len(), 1, "nothing refers to what was kept back");
}
