use super::*;
use crate::definitions::{ElementKind, ParamKind, Primitive, Structure};
use crate::fhirpath::Expression;
use crate::store::gate::About;
use crate::store::index::{MEDICINE, MEDICINE_CALLED};
use flate2::read::GzDecoder;
use serde_json::{Map, json};
use std::io::Read;

fn about_at(resource: &Value, base: &str) -> About {
    let options = Options { base: base.to_owned(), ..Options::default() };
    about(type_code(resource), resource, &extract(type_code(resource), resource, &options), &options)
}

fn type_code(resource: &Value) -> TypeCode {
    definitions::r4().type_code(resource["resourceType"].as_str().unwrap()).unwrap()
}

/// The entries as `code=value` for comparing and reading.
fn shown(resource: &Value) -> Vec<String> {
    let options = Options { base: "http://here/fhir".into(), zone: TimeZone::UTC, ..Options::default() };
    let entries = extract(type_code(resource), resource, &options);
    entries.iter().filter(|entry| !matches!(entry.param, MEDICINE | MEDICINE_CALLED)).map(show).collect()
}

fn show(entry: &IndexEntry) -> String {
    let facet = ["", ":text", ":identifier", ":of-type", ":amount", ":caseless"][(entry.param >> 24) as usize];
    let param = definitions::r4().param_by_id(entry.param & 0xff_ffff).unwrap();
    format!("{}{facet}={}", param.code, show_value(&entry.value))
}

fn show_value(value: &IndexValue) -> String {
    match value {
        IndexValue::Token { system, code } => format!("{}|{code}", system.as_deref().unwrap_or_default()),
        IndexValue::String { text } => format!("'{text}'"),
        IndexValue::Reference { type_name, id } => format!("{type_name}/{id}"),
        IndexValue::Within { id, .. } => format!("#{id}"),
        IndexValue::Uri(uri) => format!("<{uri}>"),
        IndexValue::Text(text) => format!("~{text}"),
        IndexValue::Date(i) => {
            let end = |micros, open: &str| {
                if micros == Interval::MIN || micros == Interval::MAX {
                    open.to_owned()
                } else {
                    crate::fhir::time::format_instant(micros)[..16].to_owned()
                }
            };
            format!("{}..{}", end(i.low, ""), end(i.high, ""))
        }
        IndexValue::Number(number) => number.to_string(),
        IndexValue::Quantity { value, system, code, unit, .. } => {
            let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
            format!("{value} {}|{}|{}", text(system), text(code), text(unit))
        }
        IndexValue::Composite(values) => values.iter().map(show_value).collect::<Vec<_>>().join("$"),
        IndexValue::Far { place, value } => format!("{place}: {}", show_value(value)),
    }
}

use crate::fhir::Interval;

fn has(resource: &Value, wanted: &[&str]) {
    let found = shown(resource);
    for entry in wanted {
        assert!(found.iter().any(|e| e == entry), "{entry} is not in {found:#?}");
    }
}

fn has_none(resource: &Value, code: &str) {
    let prefix = format!("{code}=");
    let found: Vec<_> = shown(resource).into_iter().filter(|entry| entry.starts_with(&prefix)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_patient_is_found_by_names_identifiers_and_contacts() {
    let patient = json!({
        "resourceType": "Patient", "id": "p1",
        "meta": { "profile": ["http://p|1"], "tag": [{ "system": "urn:t", "code": "golden" }], "source": "urn:s#1" },
        "identifier": [{ "system": "urn:nida", "value": "19900101-1" }, { "value": "loose" }, { "system": "urn:no-value" }],
        "name": [{ "family": "Mushi", "given": ["Asha", "Neema"], "text": "Asha Mushi" }, { "family": "Mushi" }],
        "telecom": [{ "system": "phone", "value": "+255700" }, { "system": "email", "value": "a@b" }],
        "address": [{ "city": "Moshi", "line": ["Box 7"] }],
        "gender": "female", "birthDate": "1990-02", "active": true,
        "generalPractitioner": [{ "reference": "http://here/fhir/Practitioner/d1" }, { "reference": "http://else/Practitioner/d2" }],
        "managingOrganization": { "identifier": { "value": "only" } },
        "link": [{ "other": { "reference": "#c" }, "type": "refer" }]
    });
    has(
        &patient,
        &[
            "_profile=<http://p|1>",
            "_source=<urn:s#1>",
            "_tag=urn:t|golden",
            "active=|true",
            "address-city='Moshi'",
            "address='Box 7'",
            "birthdate=1990-02-01T00:00..1990-03-01T00:00",
            "deceased=|false",
            "email=|a@b",
            "phone=|+255700",
            "family='Mushi'",
            "name='Asha Mushi'",
            "given='Neema'",
            "gender=|female",
            "general-practitioner=Practitioner/d1",
            "general-practitioner=<http://else/Practitioner/d2>",
            "identifier=urn:nida|19900101-1",
            "identifier=|loose",
        ],
    );
    for absent in ["organization", "link", "_id", "_lastUpdated"] {
        has_none(&patient, absent);
    }
    let found = shown(&patient);
    assert_eq!(found.iter().filter(|entry| *entry == "family='Mushi'").count(), 1, "each entry is there once");
}

#[test]
fn an_observation_is_found_by_values_and_their_combinations() {
    let observation = json!({
        "resourceType": "Observation", "status": "final",
        "subject": { "reference": "Patient/p1/_history/3" }, "encounter": { "reference": "Encounter/e1" },
        "code": { "coding": [{ "system": "http://loinc.org", "code": "85354-9" }], "text": "BP" },
        "effectivePeriod": { "start": "2026-09-07T10:00:00Z" },
        "component": [
            { "code": { "coding": [{ "system": "http://loinc.org", "code": "8480-6" }] },
              "valueQuantity": { "value": 120.0, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]" } },
            { "code": { "coding": [{ "system": "http://loinc.org", "code": "8462-4" }] }, "valueQuantity": { "value": 80 } }
        ]
    });
    has(
        &observation,
        &[
            "code=http://loinc.org|85354-9",
            "combo-code=http://loinc.org|8480-6",
            "component-value-quantity=120 http://unitsofmeasure.org|mm[Hg]|mmHg",
            "component-code-value-quantity=http://loinc.org|8480-6$120 http://unitsofmeasure.org|mm[Hg]|mmHg",
            "component-code-value-quantity=http://loinc.org|8480-6$120 |mmHg|",
            "component-code-value-quantity=http://loinc.org|8462-4$80 ||",
            "date=2026-09-07T10:00..",
            "patient=Patient/p1",
            "subject=Patient/p1",
            "encounter=Encounter/e1",
        ],
    );
    has_none(&observation, "code-value-quantity");
    assert_eq!(about_at(&observation, ""), About::Patient("p1".into()));
    let text =
        json!({ "resourceType": "Observation", "subject": { "reference": "Group/g" }, "valueCodeableConcept": { "text": "positive" } });
    has(&text, &["value-string='positive'", "subject=Group/g"]);
    has_none(&text, "patient");
    has_none(&text, "value-concept");
    assert_eq!(about_at(&text, ""), About::Unknown, "a group may hold patients");
    let absolute = json!({ "resourceType": "Condition", "subject": { "reference": "http://here/fhir/Patient/p9" }, "asserter": { "reference": "Patient/p2" } });
    assert_eq!(about_at(&absolute, "http://here/fhir"), About::Unknown, "two patients: neither can speak for the other");
    assert_eq!(about_at(&absolute, ""), About::Unknown, "one here and one on another server");
    let alone = json!({ "resourceType": "Condition", "subject": { "reference": "http://here/fhir/Patient/p9" }, "asserter": { "reference": "Patient/p9" } });
    assert_eq!(about_at(&alone, "http://here/fhir"), About::Patient("p9".into()));
    assert_eq!(about_at(&json!({ "resourceType": "Patient", "id": "p1" }), ""), About::Patient("p1".into()));
    assert_eq!(about_at(&json!({ "resourceType": "Location", "name": "Ward 3" }), ""), About::Nobody);
    assert_eq!(about_at(&json!({ "resourceType": "Binary", "contentType": "text/plain" }), ""), About::Unknown);
    let schedule = json!({ "resourceType": "PractitionerRole", "extension": [], "practitioner": { "reference": "Patient/p1" } });
    assert_ne!(about_at(&schedule, ""), About::Nobody, "an open type that names a Patient is not open");
}

#[test]
fn the_medicines_that_a_resource_names_are_found_wherever_they_stand() {
    let plan = json!({
        "resourceType": "CarePlan", "subject": { "reference": "Patient/p1", "identifier": { "system": "urn:mrn", "value": "7" } },
        "identifier": [{ "system": "urn:plan", "value": "1" }],
        "extension": [{ "url": "urn:x", "valueReference": { "type": "http://hl7.org/fhir/StructureDefinition/Substance", "identifier": { "value": "s" } } }],
        "contained": [{ "resourceType": "Medication", "id": "m", "ingredient": [{ "itemReference": { "reference": "http://here/fhir/Substance/s1" } }] }],
        "activity": [
            { "detail": { "productReference": { "reference": "Medication/m1/_history/2" } } },
            { "detail": { "productReference": { "identifier": { "system": "urn:stock", "value": "9" } } } },
            { "detail": { "productReference": { "type": "Device", "identifier": { "system": "urn:stock", "value": "10" } } } },
            { "detail": { "productReference": { "reference": "Medication/m2", "identifier": { "system": "urn:stock", "value": "11" } } } },
            { "detail": { "productReference": { "reference": "http://there/fhir/Device/d", "identifier": { "system": "urn:stock", "value": "12" } } } },
            { "detail": { "productReference": { "reference": "#m" } } }
        ]
    });
    let named = |resource: &Value| -> Vec<String> {
        let options = Options { base: "http://here/fhir".into(), ..Options::default() };
        let entries = extract(type_code(resource), resource, &options);
        entries.iter().filter(|entry| matches!(entry.param, MEDICINE | MEDICINE_CALLED)).map(|entry| show_value(&entry.value)).collect()
    };
    assert_eq!(named(&plan), ["Medication/m1", "Medication/m2", "Substance/s1", "urn:stock|11", "urn:stock|9", "|s"]);
    // Where no medicine can stand an identifier is none's, unless it is said; where anything can, it may be.
    let identified = |value: &str| json!({ "identifier": { "system": "urn:n", "value": value } });
    let observation = json!({
        "resourceType": "Observation", "encounter": identified("1"), "performer": [identified("2"), { "type": "Substance", "identifier": { "system": "urn:n", "value": "3" } }],
        "focus": [identified("4")], "identifier": [{ "system": "urn:n", "value": "5", "assigner": identified("6") }],
        "_status": { "extension": [{ "url": "urn:x", "valueReference": identified("7") }] },
        "note": [{ "text": "x", "authorReference": identified("8") }],
        "contained": [{ "resourceType": "MedicationStatement", "medicationReference": identified("9"), "context": identified("10") }]
    });
    assert_eq!(named(&observation), ["urn:n|3", "urn:n|4", "urn:n|7", "urn:n|9"]);
    let made_of = json!({ "resourceType": "Medication", "ingredient": [{ "itemReference": { "reference": "Substance/s1" } }] });
    assert_eq!(named(&made_of), ["Substance/s1"]);
    assert_eq!(named(&json!({ "resourceType": "AuditEvent", "entity": [{ "what": { "reference": "Medication/m1" } }] })), [""; 0]);
}

#[test]
fn further_indexes_hold_words_types_identifiers_and_base_units() {
    let observation = json!({
        "resourceType": "Observation", "status": "final",
        "code": { "coding": [{ "system": "http://loinc.org", "code": "1", "display": "Body  Weight" }, { "display": "BODY weight" }], "text": "Gewicht" },
        "subject": { "identifier": { "system": "urn:mrn", "value": "7" }, "display": "Asha Mushi" },
        "identifier": [{ "type": { "coding": [{ "system": "urn:t", "code": "MR" }], "text": "Record" }, "value": "12" }],
        "valueSampledData": { "origin": { "value": 10, "system": "http://unitsofmeasure.org", "code": "kg" }, "period": 1, "factor": 0.5, "dimensions": 1, "data": "2 E -4 8" }
    });
    has(
        &observation,
        &[
            "code:text=~body weight",
            "code:text=~gewicht",
            "subject:text=~asha mushi",
            "subject:identifier=urn:mrn|7",
            "identifier:text=~record",
            "identifier:of-type=urn:t|MR|12",
            "value-quantity=8 http://unitsofmeasure.org|kg|",
            "value-quantity=14 http://unitsofmeasure.org|kg|",
        ],
    );
    let found = shown(&observation);
    assert!(found.iter().any(|entry| entry.ends_with(":amount=14000 |g|")), "{found:?}");
    assert_eq!(found.iter().filter(|entry| entry.contains("~body weight")).count(), 1, "kept once for all parameters: {found:?}");
    has(
        &json!({ "resourceType": "Location", "position": { "longitude": 90, "latitude": 0 } }),
        &["near=0.00000000000000006123233995736766$1$0"],
    );
}

#[test]
fn special_shapes_of_dates_and_quantities() {
    has(
        &json!({ "resourceType": "ServiceRequest", "occurrenceTiming": { "event": ["2026-02-03", "2026-01-01"] } }),
        &["occurrence=2026-01-01T00:00..2026-02-04T00:00"],
    );
    has(
        &json!({ "resourceType": "ServiceRequest", "occurrenceTiming": { "repeat": { "boundsPeriod": { "end": "2026" } } } }),
        &["occurrence=..2027-01-01T00:00"],
    );
    has(
        &json!({ "resourceType": "Invoice", "totalNet": { "value": 12.5, "currency": "TZS" } }),
        &["totalnet=12.5 urn:iso:std:iso:4217|TZS|"],
    );
    has(
        &json!({ "resourceType": "Condition", "onsetRange": { "low": { "value": 5, "unit": "a" }, "high": { "value": 7 } } }),
        &["onset-age=5 ||a", "onset-age=7 ||"],
    );
    has(&json!({ "resourceType": "RiskAssessment", "prediction": [{ "probabilityDecimal": 1e2 }] }), &["probability=100"]);
    has(
        &json!({ "resourceType": "ValueSet", "url": "http://vs", "version": "1-RC" }),
        &["url=<http://vs>", "version=|1-RC", "version:caseless=|1-rc"],
    );
    has(
        &json!({ "resourceType": "Patient", "deceasedDateTime": "2026" }),
        &["deceased=|true", "death-date=2026-01-01T00:00..2027-01-01T00:00"],
    );
    has_none(&json!({ "resourceType": "Encounter", "period": { "start": "2026-02", "end": "2025" } }), "date");
}

#[test]
fn long_values_and_many_combinations_are_bounded() {
    let long = "ä".repeat(1_500);
    let found = shown(&json!({ "resourceType": "Patient", "name": [{ "family": long }], "identifier": [{ "value": long }] }));
    assert!(found.contains(&format!("family='{}'", "ä".repeat(400))));
    assert!(!found.iter().any(|entry| entry.starts_with("identifier=")));
    let codes: Vec<Value> = (0..100).map(|n| json!({ "code": format!("c{n}") })).collect();
    let many = json!({ "resourceType": "Observation", "code": { "coding": codes }, "valueCodeableConcept": { "coding": codes } });
    let count = shown(&many).iter().filter(|entry| entry.starts_with("code-value-concept=")).count();
    assert_eq!(count, MAX_COMBINATIONS);
}

#[test]
fn every_expression_of_r4_parses_and_nearly_all_are_walked() {
    let definitions = definitions::r4();
    let mut evaluated = Vec::new();
    for (code, name) in definitions.resource_types().iter().enumerate() {
        let code = code as TypeCode;
        for param in definitions.params(code).iter().filter(|param| param.kind != ParamKind::Special) {
            let expression = Expression::parse(&param.expression).unwrap_or_else(|error| panic!("{name} {}: {error}", param.code));
            expression.check(name).unwrap_or_else(|problem| panic!("{name} {}: {problem}", param.code));
            for part in &param.components {
                Expression::parse(&part.expression).unwrap_or_else(|error| panic!("{name} {}: {error}", param.code));
            }
        }
        let plan = plan_of(code).unwrap();
        evaluated.extend(plan.general.iter().map(|general| show_param(general.param)));
        for param in definitions.patient_compartment(code) {
            let expression = &definitions.param(code, param).unwrap().expression;
            assert!(Expression::parse(expression).unwrap().key_paths(name).is_some(), "{name} {param}");
        }
    }
    assert_eq!(evaluated, ["Bundle.composition", "Bundle.message", "Patient.deceased"]);
}

fn show_param(id: ParamId) -> String {
    let definitions = definitions::r4();
    let owner = definitions.resource_types()[(id >> 12) as usize];
    format!("{owner}.{}", definitions.param_by_id(id).unwrap().code)
}

/// Further indexes that are kept once for several parameters, given to each of these.
fn unshared(plan: &Plan, entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    let mut all = Vec::new();
    for entry in entries {
        let (facet, place) = (entry.param >> 24 << 24, entry.param & 0xff_ffff);
        if facet == 0 || !plan.facets.contains_key(&place) {
            all.push(entry.clone());
        }
        if facet != 0 {
            let sharing = plan.facets.iter().filter(|(_, places)| places.contains(&place));
            all.extend(sharing.map(|(param, _)| IndexEntry { param: facet | param, value: entry.value.clone() }));
        }
    }
    all.sort_by(|a, b| a.param.cmp(&b.param).then_with(|| order(&a.value, &b.value)));
    all.dedup();
    all
}

/// The walk and the language itself must find the same.
fn compare(plan: &Plan, oracle: &Plan, resource: &Value) -> usize {
    let options = Options { base: "http://here/fhir".into(), zone: TimeZone::UTC, ..Options::default() };
    let (found, expected) =
        (unshared(plan, extract_by(plan, resource, resource, &options)), extract_by(oracle, resource, resource, &options));
    if found != expected {
        let (found, expected): (Vec<_>, Vec<_>) = (found.iter().map(show).collect(), expected.iter().map(show).collect());
        let only = |a: &[String], b: &[String]| a.iter().filter(|entry| !b.contains(entry)).cloned().collect::<Vec<_>>();
        panic!("walk only: {:#?}\nlanguage only: {:#?}\n{resource:#}", only(&found, &expected), only(&expected, &found));
    }
    found.len()
}

#[test]
fn the_walk_finds_what_the_language_finds_in_synthea() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/synthea-hiv/Cecelia952_Romaguera67_f1731e33-dc55-4ee8-72d7-cece2e49bedd.json.gz");
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    let bundle = crate::fhir::json::parse(&bytes).unwrap();
    let mut entries = 0;
    for entry in bundle["entry"].as_array().unwrap() {
        let resource = &entry["resource"];
        let oracle = Plan::compile(type_code(resource), false);
        entries += compare(plan_of(type_code(resource)).unwrap(), &oracle, resource);
    }
    assert!(entries > 2_000, "{entries}");
}

#[test]
fn the_walk_finds_what_the_language_finds_in_invented_resources_of_every_type() {
    let definitions = definitions::r4();
    let mut dice = Dice(1);
    let mut seen = std::collections::HashSet::new();
    for (code, name) in definitions.resource_types().iter().enumerate() {
        let plan = plan_of(code as TypeCode).unwrap();
        let oracle = Plan::compile(code as TypeCode, false);
        for _ in 0..4 {
            let mut resource = invent(definitions.structure(name).unwrap(), 0, &mut dice);
            resource["resourceType"] = json!(name);
            resource["contained"] = json!([{ "resourceType": dice.pick(&["Patient", "Group", "Device"]), "id": "c1" }]);
            compare(plan, &oracle, &resource);
            seen.extend(extract_by(plan, &resource, &resource, &Options::default()).into_iter().map(|entry| entry.param));
        }
    }
    assert!(seen.len() > 2_000, "only {} parameters had a value", seen.len());
}

#[test]
fn resources_of_any_shape_are_read_without_harm() {
    let definitions = definitions::r4();
    let mut dice = Dice(2);
    let shapes = [
        json!(null),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([[["x"]]]),
        json!({ "reference": 1, "coding": 2 }),
        json!(true),
        json!({}),
    ];
    for (code, name) in definitions.resource_types().iter().enumerate() {
        let mut resource = invent(definitions.structure(name).unwrap(), 0, &mut dice);
        for _ in 0..20 {
            spoil(&mut resource, &shapes, &mut dice);
            extract(code as TypeCode, &resource, &Options::default());
            about(code as TypeCode, &resource, &[], &Options::default());
        }
    }
}

/// Puts a value of another shape at a random place.
fn spoil(value: &mut Value, shapes: &[Value], dice: &mut Dice) {
    let count = value.as_object().map_or_else(|| value.as_array().map_or(0, Vec::len), Map::len);
    if count == 0 || dice.roll(4) == 0 {
        *value = shapes[dice.roll(shapes.len())].clone();
        return;
    }
    let at = dice.roll(count);
    match value {
        Value::Object(object) => object.values_mut().nth(at).into_iter().for_each(|value| spoil(value, shapes, dice)),
        Value::Array(items) => spoil(&mut items[at], shapes, dice),
        _ => {}
    }
}

/// A small generator that gives the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'p>(&mut self, list: &[&'p str]) -> &'p str {
        list[self.roll(list.len())]
    }
}

fn invent(structure: &'static Structure, depth: usize, dice: &mut Dice) -> Value {
    let mut object = Map::new();
    for element in &structure.elements {
        if matches!(element.name, "extension" | "modifierExtension" | "contained") || (depth > 1 && dice.roll(3) == 0) || depth > 5 {
            continue;
        }
        let kind = &element.types[dice.roll(element.types.len())];
        let one = |dice: &mut Dice| match kind.kind {
            ElementKind::Primitive(primitive) => invent_primitive(primitive, element.name, dice),
            ElementKind::Structure(place) => invent(definitions::r4().structure_at(place).unwrap(), depth + 1, dice),
            ElementKind::Resource => json!({ "resourceType": "Composition", "id": "inner" }),
        };
        let value = if element.is_list() { Value::Array((0..1 + dice.roll(2)).map(|_| one(dice)).collect()) } else { one(dice) };
        let key = match element.choice {
            true => format!("{}{}{}", element.name, kind.name[..1].to_uppercase(), &kind.name[1..]),
            false => element.name.to_owned(),
        };
        object.insert(key, value);
    }
    Value::Object(object)
}

fn invent_primitive(primitive: Primitive, name: &str, dice: &mut Dice) -> Value {
    match primitive {
        Primitive::Boolean => json!(dice.roll(2) == 0),
        Primitive::Integer | Primitive::PositiveInt | Primitive::UnsignedInt => json!(dice.roll(9)),
        Primitive::Decimal => json!(dice.roll(900) as f64 / 8.0),
        Primitive::Date | Primitive::DateTime | Primitive::Instant => {
            json!(dice.pick(&["2026", "2026-02", "2026-02-03", "2026-02-03T04:05:06+03:00", "no date"]))
        }
        Primitive::String if name == "reference" => json!(dice.pick(&[
            "Patient/p1",
            "Patient/p2/_history/1",
            "Practitioner/d1",
            "http://here/fhir/Patient/p3",
            "http://else/fhir/Location/l1",
            "Group/g1",
            "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
            "#c1",
            "Patient?identifier=1",
            "Medication/m1",
        ])),
        Primitive::Uri if name == "type" => json!(dice.pick(&["Patient", "Practitioner"])),
        Primitive::Code => {
            json!(dice.pick(&["email", "phone", "composed-of", "depends-on", "predecessor", "successor", "derived-from", "active"]))
        }
        _ => json!(dice.pick(&["a", "b c", "", "http://x|1"])),
    }
}
