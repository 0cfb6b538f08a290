//! What is fuzzed: each takes any bytes and must neither panic nor hang. The same functions run under `cargo fuzz`, in a short
//! seeded loop of the tests and, for as long as one likes, in `cargo bench --bench fuzz`.

use lango::definitions::r4;
use lango::fhir::{decimal, json, time, xml};
use lango::fhirpath::{Env, Expression, Temporal};
use lango::ingest::patch::Patch;
use lango::search::ParseOptions;
use lango::store::Scope;
use lango::validate::{Level, Profile, Profiles, Validator, structure};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

pub type Target = fn(&[u8]);

/// By name, which is also that of its corpus.
pub const ALL: [(&str, Target); 7] = [
    ("query", query),
    ("fhirpath", fhirpath),
    ("dates", dates),
    ("decimals", decimals),
    ("bundle", bundle),
    ("xml", xml_both_ways),
    ("patch", patch),
];

/// A resource on which expressions are evaluated.
static SUBJECT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::json!({
        "resourceType": "Observation", "id": "o", "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "1-1"}]},
        "effectiveDateTime": "2026-02-03T04:05:06.7+03:00", "valueQuantity": {"value": 1.50, "unit": "mg", "code": "mg"},
        "component": [{"code": {"text": "x"}, "valueInteger": 7}, {"code": {"text": "y"}, "valueString": "z"}],
        "contained": [{"resourceType": "Patient", "id": "p", "birthDate": "1970"}], "subject": {"reference": "#p"},
    })
});

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| Validator::new(Profiles::new(), Arc::new(()), Level::Profile));

/// A search: the first byte picks the type, the rest is the query string.
pub fn query(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let types = ["Patient", "Observation", "Encounter", "Condition", "Location", "Bundle"];
    let name = types.get(usize::from(*first) % types.len()).copied().unwrap_or("Patient");
    let Some(type_code) = r4().type_code(name) else { return };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(rest).into_owned().collect();
    let options = ParseOptions::new("http://lango/fhir", jiff::tz::TimeZone::UTC);
    _ = lango::search::parse(type_code, &pairs, Scope::All, &options);
}

/// An expression, parsed and evaluated.
pub fn fhirpath(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(expression) = Expression::parse(text) {
        _ = expression.evaluate(&SUBJECT, &Env::default());
    }
}

/// Dates and times in all the forms that they are read from.
pub fn dates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(interval) = time::parse_interval(text, &jiff::tz::TimeZone::UTC) {
        assert!(interval.low < interval.high, "an interval that holds nothing");
    }
    for moment in [Temporal::parse_date(text), Temporal::parse_date_time(text), Temporal::parse_time(text), Temporal::parse_literal(text)] {
        let Some(moment) = moment else { continue };
        _ = moment.to_string();
        for digits in [0, 4, 8, 17, i64::MAX] {
            _ = (moment.boundary(true, digits), moment.boundary(false, digits));
        }
    }
}

/// A decimal keeps its value through what reads it.
pub fn decimals(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    _ = decimal::half_unit(text);
    if let Some(value) = decimal::parse(text) {
        assert_eq!(decimal::parse(&value.to_string()), Some(value), "a decimal that reads otherwise when written");
    }
}

/// JSON as a resource: its structure, its invariants, its profiles, and as a profile itself.
pub fn bundle(bytes: &[u8]) {
    let Ok(resource) = json::parse(bytes) else { return };
    _ = structure(&resource);
    _ = VALIDATOR.validate(&resource);
    _ = Profile::from_structure_definition(&resource);
}

/// XML to JSON and back, and JSON to XML.
pub fn xml_both_ways(bytes: &[u8]) {
    for json in [xml::to_json(bytes).ok(), Some(bytes.to_vec())].into_iter().flatten() {
        // What is stored is written deeper than anything is read.
        if json::parse(&json).is_err() {
            continue;
        }
        let Ok(written) = xml::from_json(&json, false) else { continue };
        let read = xml::to_json(&written).expect("XML that cannot be read back");
        let Ok(written) = xml::from_json(&read, true) else { continue };
        let again = xml::to_json(&written).expect("XML that cannot be read back");
        assert_eq!(json::parse(&read).ok(), json::parse(&again).ok(), "XML that reads otherwise when written");
    }
}

/// A patch of each kind, read and applied to a resource; what comes of it is bounded.
pub fn patch(bytes: &[u8]) {
    let Ok(document) = json::parse(bytes) else { return };
    for patch in [Patch::plain(&document), Patch::merge(&document)].into_iter().flatten() {
        let Ok(patched) = patch.apply(SUBJECT.clone()) else { continue };
        assert_eq!(patched["id"], SUBJECT["id"], "a patch that changed the id");
        assert!(patched.to_string().len() < 50_000_000, "a patch that made much of little");
    }
}
