//! Where each field of the HDU template goes, found by trying: a payload that says everything is translated with and
//! without the field, and what differs is where it went. `docs/hdu-fields.md` is the table; it cannot be out of date,
//! because these tests compare it. `LANGO_WRITE_DOCS=1 cargo test --lib template::coverage` writes it anew.

use super::tests::{all_resources, process};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/hdu-fields.md");
pub(super) const SCHEMA: &str = include_str!("../../../profiles/templates/hdu/schema.json");
/// Fields that go nowhere, each with the reason.
pub(super) const DECISIONS: &str = include_str!("../../../profiles/templates/hdu/decisions.json");

/// Values without which others could not be seen: a condition in the rules or in the mapping asks for them.
fn special(path: &str) -> Option<Value> {
    let path = path.rsplit_once("listGrid.").map_or(path, |(_, path)| path);
    Some(match path {
        "data.facilityDetails.code" => json!("104512-3"),
        "outcomeDetails.isAlive" => json!(false),
        "demographicDetails.identifiers.type" => json!("CLAN BOOK"),
        "identifiers.type" => json!("GUILD BOOK"),
        "demographicDetails.identifiers.system" => json!("https://example.org/clan"),
        "identifiers.system" => json!("https://example.org/guild"),
        _ if path.ends_with("vitalSigns.bloodPressure") => json!("118/76"),
        "identifiers.organization.code" => json!("333333-3"),
        _ if path.ends_with("organization.code") => json!("222222-2"),
        "laborAndDeliveryDetails.deliveryMethod" => json!({ "code": "SVD", "name": "Normal" }),
        "lifeStyleInformation.smoking" | "lifeStyleInformation.alcoholUse" | "lifeStyleInformation.drugUse" => json!({ "using": true }),
        "medicationDetails.dosage" => json!({ "dose": "2 tablets", "days": ["Monday"] }),
        "referralDetails.referringClinician" => json!({ "name": "Dr A. Mushi" }),
        "postnatalDetails.breastFeedingDetails" => json!({ "exclusive": true }),
        _ if path.ends_with("codedValue.codeType") || path.ends_with("typeOfTest.codeType") => json!("LOINC"),
        _ if path.ends_with("visitDetails.closedDate") => json!("2026-12-31"),
        _ => return words(path),
    })
}

/// Words that the maps know, for elements that take no others.
fn words(path: &str) -> Option<Value> {
    let known = [
        ("addresses.category", "Temporary"),
        ("allergies.category", "FOOD"),
        ("allergies.criticality", "HIGH"),
        ("verificationStatus", "CONFIRMED"),
        ("certainty", "CONFIRMED"),
        ("labInvestigationDetails.testStatus", "PRELIMINARY"),
        ("labTestResults.resultStatus.code", "P"),
        ("results.resultStatus.code", "P"),
        ("codeStandard", "MSD CODE"),
        ("refillStatus", "STOPPED"),
        ("demographicDetails.paymentDetails.status", "CANCELLED"),
        ("prophylAxisDetails.status", "STOPPED"),
        ("vaccinationDetails.status", "REFUSED"),
        ("observation.type", "LOINC"),
        ("testResults.codeType", "LOINC"),
        ("testResults.lowRange", "3.5"),
        ("testResults.highRange", "9.5"),
    ];
    known.iter().find(|(end, _)| path.ends_with(end)).map(|(_, word)| json!(word))
}

/// A value for every field below `node`, each unlike the others.
pub(super) fn everything(root: &Value, node: &Value, path: &str, count: &mut u64) -> Value {
    if let Some(value) = special(path) {
        return value;
    }
    if let Some(name) = node["$ref"].as_str() {
        return everything(root, root.pointer(&name[1..]).unwrap(), path, count);
    }
    *count += 1;
    let day = || json!(format!("20{:02}-{:02}-{:02}", 10 + *count / 336 % 16, 1 + *count / 28 % 12, 1 + *count % 28));
    match (node["enum"].as_array(), node["type"].as_str(), node["format"].as_str()) {
        (Some(values), ..) => values[0].clone(),
        (_, Some("object"), _) if node["properties"].as_object().is_none_or(Map::is_empty) => json!({ "said": format!("words {count}") }),
        (_, Some("object"), _) => {
            let properties = node["properties"].as_object().unwrap();
            let dot = if path.is_empty() { "" } else { "." };
            properties
                .iter()
                .map(|(name, property)| (name.clone(), everything(root, property, &format!("{path}{dot}{name}"), count)))
                .collect()
        }
        (_, Some("array"), _) => json!([everything(root, &node["items"], path, count)]),
        (_, _, Some("date-time")) if node["description"].is_null() => json!(format!("{}T10:00:00Z", day().as_str().unwrap())),
        (_, _, Some(_)) => day(),
        (_, Some("integer"), _) => json!(10_000 + *count),
        (_, Some("number"), _) => json!(10_000.5 + *count as f64),
        (_, Some("boolean"), _) => json!(true),
        _ => json!(format!("words {count}")),
    }
}

/// Takes a field away wherever its definition is used, or, where a record must have it, gives it another value.
fn without(root: &Value, node: &Value, value: &mut Value, definition: &str, field: &str, here: &str, change: bool) -> bool {
    if let Some(name) = node["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return without(root, &root["$defs"][name], value, definition, field, name, change);
    }
    match value {
        Value::Array(items) => {
            items.iter_mut().fold(false, |found, item| without(root, &node["items"], item, definition, field, "", change) | found)
        }
        Value::Object(map) => {
            let mut found = here == definition && map.contains_key(field);
            if found && !change {
                map.shift_remove(field);
            } else if found && let Some(value) = map.get_mut(field) {
                *value = match value.as_str() {
                    Some("OPD") => json!("EMD"),
                    Some(date) if date.starts_with("20") => json!("2026-11-11"),
                    _ => json!("female"),
                };
            }
            for (key, value) in map.iter_mut() {
                found |= without(root, &node["properties"][key], value, definition, field, "", change);
            }
            found
        }
        _ => false,
    }
}

/// Each element with its values, without ids and references: those follow from the rest.
pub(super) fn elements(processed: &Processed) -> BTreeSet<(String, String)> {
    fn walk(path: &str, value: &Value, tag: &str, found: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(path, item, tag, found)),
            Value::Object(map) => {
                // Extensions are told apart by their url and by the field that they hold.
                let is_extension = path.ends_with("extension");
                let url = map.get("url").and_then(Value::as_str).filter(|_| is_extension).unwrap_or_default();
                let field = map.get("extension").and_then(|inner| inner[0]["valueCode"].as_str()).unwrap_or_default();
                let tag = format!("{tag} {url} {field}");
                for (key, value) in map.iter().filter(|(key, _)| !["id", "reference", "resourceType", "meta"].contains(&key.as_str())) {
                    if !(is_extension && key == "url") {
                        walk(&format!("{path}.{key}"), value, &tag, found);
                    }
                }
            }
            value => drop(found.insert((path.to_owned(), format!("{value}{tag}")))),
        }
    }
    let mut found = BTreeSet::new();
    for resource in all_resources(processed) {
        let code = resource["code"]["coding"].as_array().and_then(|codings| codings.last()).and_then(|coding| coding["code"].as_str());
        let type_name = resource["resourceType"].as_str().unwrap();
        let mut own = BTreeSet::new();
        walk(type_name, resource, "", &mut own);
        // The same value in two resources of a type is two elements.
        found.extend(own.into_iter().map(|(path, value)| (path, format!("{value} {}", code.unwrap_or_default()))));
    }
    found
}

/// The elements that differ, as a reader wants them: a component, an extension or a CodeableConcept is one place.
fn destinations(whole: &BTreeSet<(String, String)>, part: &BTreeSet<(String, String)>) -> Vec<String> {
    let paths: BTreeSet<&str> = whole.symmetric_difference(part).map(|(path, _)| path.as_str()).collect();
    let short = |path: &&str| {
        // What stands beside an element belongs to it.
        let element = path.split_once("._").map(|(before, rest)| format!("{before}.{}", rest.split('.').next().unwrap_or_default()));
        let path = element.as_deref().unwrap_or(path);
        let cut = [".extension", ".component"].iter().filter_map(|step| path.find(step).map(|at| at + step.len())).min();
        let path = path.get(..cut.unwrap_or(path.len())).unwrap_or_default();
        ["coding.system", "coding.display", "coding.code"]
            .iter()
            .fold(path, |path, end| path.strip_suffix(&format!(".{end}")).unwrap_or(path))
            .to_owned()
    };
    let mut found: BTreeSet<String> = paths.iter().map(short).collect();
    let wholes = found.clone();
    found.retain(|path| path.strip_suffix(".text").is_none_or(|concept| !wholes.contains(concept)));
    if found.len() > 6 {
        found = found.iter().filter_map(|path| path.split('.').next()).map(str::to_owned).collect();
    }
    found.into_iter().collect()
}

#[test]
fn every_field_goes_somewhere_or_is_a_named_decision() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let decisions: BTreeMap<String, String> = serde_json::from_str(DECISIONS).unwrap();
    let whole = everything(&schema, &schema, "", &mut 0);
    let processed = process(&whole);
    let elements_of_all = elements(&processed);
    for resource in all_resources(&processed) {
        assert_eq!(crate::validate::structure(resource), [], "{resource:#}");
    }
    let mut table = String::from(
        "# Where each field of the HDU data template goes\n\nMade by `src/ingest/template/coverage.rs`, which translates a payload with and without each field. Grouped by the definitions of\n\
         `profiles/templates/hdu/schema.json`; a definition that several blocks use shows all places. *Italics* are decisions that a field goes nowhere, or only\n\
         decides something. A field on an `extension` is in `https://lango.health/fhir/StructureDefinition/hdu-field` or an extension of its own.\n",
    );
    let (mut lost, mut stale, mut rows) = (Vec::new(), Vec::new(), 0);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let Some(properties) = definition["properties"].as_object().filter(|properties| !properties.is_empty()) else { continue };
        let _ = write!(table, "\n## {name}\n\n| field | goes to |\n|---|---|\n");
        for field in properties.keys() {
            rows += 1;
            let key = format!("{name}.{field}");
            let tried = [false, true].into_iter().find_map(|change| {
                let mut payload = whole.clone();
                without(&schema, &schema, &mut payload, name, field, "", change).then(|| accepted(&payload)).flatten()
            });
            let places = tried.map_or_else(Vec::new, |processed| destinations(&elements_of_all, &elements(&processed)));
            let decision = decisions.get(&key);
            let _ = match (decision, places.as_slice()) {
                (Some(decision), _) => writeln!(table, "| {field} | *{decision}* |"),
                (None, []) => {
                    lost.push(key);
                    Ok(())
                }
                (None, places) => writeln!(table, "| {field} | {} |", places.join(", ")),
            };
        }
    }
    let (places, decisions): (BTreeMap<String, String>, BTreeMap<String, String>) =
        decisions.into_iter().partition(|(key, _)| key.starts_with(|first: char| first.is_ascii_lowercase()));
    let _ = write!(
        table,
        "\n## Single places\n\nWhat a definition says of all its places does not hold of these.\n\n| field | decision |\n|---|---|\n"
    );
    for (path, decision) in &places {
        let _ = writeln!(table, "| {path} | *{decision}* |");
    }
    stale.extend(decisions.keys().filter(|key| {
        let (name, field) = key.split_once('.').unwrap_or_default();
        schema["$defs"][name]["properties"].get(field).is_none()
    }));
    assert_eq!(lost, [""; 0], "these fields go nowhere: map them or name the decision in decisions.json");
    assert_eq!(stale, [""; 0], "decisions.json speaks of fields that do not exist");
    assert_eq!(rows, 682);
    if std::env::var_os("LANGO_WRITE_DOCS").is_some() {
        std::fs::write(TABLE, &table).unwrap();
    }
    assert!(std::fs::read_to_string(TABLE).unwrap_or_default() == table, "docs/hdu-fields.md is out of date; LANGO_WRITE_DOCS=1 writes it");
}

/// What the payload gives; nothing when the record is rejected without the field.
fn accepted(payload: &Value) -> Option<Processed> {
    let processed = super::tests::try_process(payload)?;
    processed.records.iter().all(|record| matches!(record.verdict, Verdict::Accepted { .. })).then_some(processed)
}
