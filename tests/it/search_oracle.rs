//! Searches that are drawn by chance, each held against a slow scan that is written straight from
//! <https://hl7.org/fhir/R4/search.html> and shares nothing with the server: no index, no FHIRPath, no parser.

use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const RESOURCES: usize = 60;
/// Per database; two databases make ten thousand.
const CASES: usize = 5_000;
/// Requests at a time.
const WAVE: usize = 8;

/// Numbers by chance, the same in every run.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const SYSTEMS: [&str; 3] = ["http://loinc.org", "urn:s", ""];
const CODES: [&str; 5] = ["a", "b", "8867-4", "A", "a,b"];
const NAMES: [&str; 13] = [
    "Juma",
    "jumanne",
    "Kipchóge",
    "Kipchoge",
    "O'Neil",
    "van der Berg",
    "Ångström",
    "MASSAWE",
    "mass$awe",
    "Ng’wana",
    "ngwana",
    "Al-Amin",
    "Al Amin",
];
const URLS: [&str; 5] = ["http://x.org/a", "http://x.org/a/b", "http://x.org/ab", "http://x.org/a/b/c", "urn:oid:1.2.3"];
const UNITS: [&str; 3] = ["mg", "kg", "g"];
/// What the unit's code is not.
const WORDS_OF_A_UNIT: &str = "as weighed";
const UCUM: &str = "http://unitsofmeasure.org";
/// In thousandths, so that the oracle counts without rounding.
const VALUES: [&str; 12] = ["1", "1.0", "1.00", "0.5", "0.50", "99.5", "100", "100.4", "100.5", "-1", "2.345", "0"];
const PREFIXES: [&str; 9] = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"];
/// Also "about", which for dates depends on the moment of asking.
const NUMBER_PREFIXES: [&str; 10] = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"];
const WORDS: [&str; 5] = ["Body weight", "body Height", "Fièvre", "fever", "weight of body"];
/// A code system of the test's own: each code and the one that it is below.
const TREE: [(&str, &str); 6] = [("a", ""), ("b", "a"), ("c", "b"), ("d", "a"), ("e", ""), ("f", "e")];
const TREE_SYSTEM: &str = "urn:tree";
/// A value set of the test's own.
const MEMBERS: [(&str, &str); 3] = [("urn:tree", "c"), ("urn:tree", "e"), ("http://loinc.org", "8867-4")];
const ID_TYPES: [(&str, &str); 3] = [("urn:types", "MR"), ("urn:types", "SS"), ("urn:other", "MR")];
const CANONICALS: [&str; 5] =
    ["http://x.org/plan", "http://x.org/plan|1", "http://x.org/plan|1.2", "http://x.org/plan|1.2.3", "http://x.org/plan|12"];
const STATUSES: [&str; 3] = ["active", "draft", "retired"];
/// Degrees; near each other, across the date line and at a pole.
const PLACES: [(f64, f64); 6] = [(-6.8, 39.28), (-6.81, 39.3), (-6.2, 39.2), (0.0, 179.9), (0.1, -179.8), (89.9, 10.0)];
const DATES: [&str; 14] = [
    "2025",
    "2026",
    "2026-01",
    "2026-02",
    "2026-02-28",
    "2026-03-01",
    "2026-03-01T00:00:00Z",
    "2026-03-01T02:30:00+03:00",
    "2026-03-01T10:15:00Z",
    "2026-03-01T10:15:30Z",
    "2026-12-31",
    "2027-01-01T00:00:00Z",
    "2024-02-29",
    "2026-03-01T23:59:59Z",
];

fn coding(chance: &mut Chance) -> Value {
    let mut coding = json!({ "code": chance.pick(&CODES) });
    if chance.one_in(3) {
        coding["display"] = json!(chance.pick(&WORDS));
    }
    if chance.one_in(3) {
        (coding["system"], coding["code"]) = (json!(TREE_SYSTEM), json!(chance.pick(&TREE).0));
        return coding;
    }
    match *chance.pick(&SYSTEMS) {
        "" => {}
        system => coding["system"] = json!(system),
    }
    if coding.get("system").is_some() && chance.one_in(9) {
        // A system and nothing else, which `system|` finds.
        coding.as_object_mut().unwrap().remove("code");
    }
    coding
}

fn concept(chance: &mut Chance) -> Value {
    match chance.below(4) {
        0 => json!({ "text": "no code" }),
        n => json!({ "coding": (0..n.min(2)).map(|_| coding(chance)).collect::<Vec<_>>() }),
    }
}

fn number(chance: &mut Chance) -> Value {
    let value: &&str = chance.pick(&VALUES);
    serde_json::from_str(value).unwrap()
}

fn quantity(chance: &mut Chance) -> Value {
    let unit = *chance.pick(&UNITS);
    match chance.below(3) {
        0 => json!({ "value": number(chance), "unit": unit }),
        1 => json!({ "value": number(chance), "system": UCUM, "code": unit }),
        _ => json!({ "value": number(chance), "unit": chance.pick(&[unit, WORDS_OF_A_UNIT]), "system": UCUM, "code": unit }),
    }
}

fn observation(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "Observation", "id": format!("o{n}"), "status": chance.pick(&["final", "amended"]), "code": concept(chance) });
    match chance.below(5) {
        0 => {}
        1 => {
            resource["subject"] =
                json!({ "identifier": { "system": "urn:mrn", "value": chance.pick(&CODES) }, "display": chance.pick(&WORDS) })
        }
        _ => resource["subject"] = json!({ "reference": format!("Patient/p{}", chance.below(8)) }),
    }
    if chance.one_in(3) {
        resource["identifier"] = json!([identifier(chance)]);
    }
    match chance.below(5) {
        0 => {}
        1 => {
            let (mut from, mut to) = (*chance.pick(&DATES), *chance.pick(&DATES));
            if span(from).0 > span(to).0 {
                (from, to) = (to, from);
            }
            resource["effectivePeriod"] = match chance.below(3) {
                0 => json!({ "start": from }),
                1 => json!({ "end": to }),
                _ => json!({ "start": from, "end": to }),
            };
        }
        _ => resource["effectiveDateTime"] = json!(chance.pick(&DATES)),
    }
    match chance.below(4) {
        0 => resource["valueString"] = json!(chance.pick(&NAMES)),
        1 => resource["valueCodeableConcept"] = concept(chance),
        2 => resource["valueQuantity"] = quantity(chance),
        _ => {}
    }
    if chance.one_in(2) {
        let component = |chance: &mut Chance| json!({ "code": concept(chance), "valueQuantity": quantity(chance) });
        resource["component"] = json!([component(chance), component(chance)]);
    }
    resource
}

fn identifier(chance: &mut Chance) -> Value {
    let mut identifier = json!({ "value": chance.pick(&CODES) });
    match *chance.pick(&SYSTEMS) {
        "" => {}
        system => identifier["system"] = json!(system),
    }
    if chance.one_in(2) {
        let (system, code) = *chance.pick(&ID_TYPES);
        identifier["type"] = json!({ "coding": [{ "system": system, "code": code }], "text": chance.pick(&WORDS) });
    }
    identifier
}

fn location(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "Location", "id": format!("l{n}"), "name": chance.pick(&NAMES) });
    if n > 0 && !chance.one_in(3) {
        resource["partOf"] = json!({ "reference": format!("Location/l{}", chance.below(n)) });
    }
    if !chance.one_in(4) {
        let (latitude, longitude) = *chance.pick(&PLACES);
        resource["position"] = json!({ "latitude": latitude, "longitude": longitude });
    }
    resource
}

fn care_plan(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "CarePlan", "id": format!("c{n}"), "status": chance.pick(&["active", "draft"]), "intent": "plan", "subject": { "reference": "Patient/p1" } });
    if !chance.one_in(4) {
        let part = if chance.one_in(4) { "#part" } else { "" };
        resource["instantiatesCanonical"] = json!([format!("{}{part}", chance.pick(&CANONICALS))]);
    }
    resource
}

fn plan_definition(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "PlanDefinition", "id": format!("d{n}"), "status": chance.pick(&STATUSES) });
    let (url, version) = chance.pick(&CANONICALS).split_once('|').unwrap_or(("http://x.org/plan", ""));
    // Few have the address, so that a chain tells them apart.
    if chance.one_in(6) {
        resource["url"] = json!(url);
    }
    if !version.is_empty() {
        resource["version"] = json!(version);
    }
    resource
}

fn list_of(chance: &mut Chance, n: usize) -> Value {
    let items: Vec<Value> = (0..1 + chance.below(9))
        .map(|_| {
            let (kind, letter) = *chance.pick(&[("Patient", "p"), ("Observation", "o")]);
            json!({ "item": { "reference": format!("{kind}/{letter}{}", chance.below(RESOURCES)) } })
        })
        .collect();
    json!({ "resourceType": "List", "id": format!("i{n}"), "status": "current", "mode": "working", "entry": items })
}

fn patient(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "Patient", "id": format!("p{n}") });
    if !chance.one_in(5) {
        resource["name"] = json!([{ "family": chance.pick(&NAMES), "given": [chance.pick(&NAMES), chance.pick(&NAMES)] }]);
    }
    if !chance.one_in(4) {
        resource["gender"] = json!(chance.pick(&["male", "female"]));
    }
    if !chance.one_in(3) {
        resource["active"] = json!(chance.one_in(2));
    }
    if !chance.one_in(3) {
        resource["identifier"] = json!([identifier(chance), identifier(chance)]);
    }
    if !chance.one_in(4) {
        resource["birthDate"] = json!(chance.pick(&["1990", "1990-02", "1990-02-28", "2026-01-01", "2024-02-29"]));
    }
    resource
}

fn risk(chance: &mut Chance, n: usize) -> Value {
    let predictions: Vec<Value> = (0..chance.below(3)).map(|_| json!({ "probabilityDecimal": number(chance) })).collect();
    let mut resource =
        json!({ "resourceType": "RiskAssessment", "id": format!("r{n}"), "status": "final", "subject": { "reference": "Patient/p0" } });
    if !predictions.is_empty() {
        resource["prediction"] = json!(predictions);
    }
    resource
}

fn value_set(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "ValueSet", "id": format!("v{n}"), "status": "active" });
    if !chance.one_in(4) {
        resource["url"] = json!(chance.pick(&URLS));
    }
    resource
}

// The oracle's view of a value.

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn codings(concept: &Value) -> Vec<(&str, &str)> {
    list(&concept["coding"]).iter().map(|coding| (coding["system"].as_str().unwrap_or(""), coding["code"].as_str().unwrap_or(""))).collect()
}

/// Whether words go with the code: its text, or the display of a coding.
fn says(concept: &Value, wanted: &str) -> bool {
    let displays = list(&concept["coding"]).iter().map(|coding| &coding["display"]);
    displays.chain([&concept["text"]]).filter_map(Value::as_str).any(|words| folded(words).starts_with(&folded(wanted)))
}

/// The code itself and all that is above it.
fn tree_above(code: &str) -> Vec<&'static str> {
    let mut above: Vec<&'static str> = TREE.iter().filter(|(own, _)| *own == code).map(|(own, _)| *own).collect();
    while let Some((_, parent)) = above.last().and_then(|last| TREE.iter().find(|(own, parent)| own == last && !parent.is_empty())) {
        above.push(*parent);
    }
    above
}

/// Kilometres over the surface, by the haversine formula.
fn kilometres((lat1, lon1): (f64, f64), (lat2, lon2): (f64, f64)) -> f64 {
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let h = half(lat2 - lat1) + lat1.to_radians().cos() * lat2.to_radians().cos() * half(lon2 - lon1);
    2.0 * 6_371.008_8 * h.sqrt().min(1.0).asin()
}

/// Thousandths, and half of the last digit's worth in ten-thousandths (both exact).
fn exact(text: &str) -> (i64, i64) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let padded = format!("{fraction:0<3}");
    let thousandths = whole.parse::<i64>().unwrap() * 1000 + sign * padded.parse::<i64>().unwrap();
    (thousandths * 10, 5 * 10i64.pow(3 - fraction.len() as u32))
}

pub fn compares(prefix: &str, value: &Value, wanted: &str) -> bool {
    in_unit(prefix, value, 1, wanted, 1)
}

/// The same where both are counted in units, each so many of the smallest.
pub fn in_unit(prefix: &str, value: &Value, unit: i128, wanted: &str, wanted_unit: i128) -> bool {
    let (value, _) = exact(&value.to_string());
    let (wanted, half) = exact(wanted);
    let (value, wanted, half) = (i128::from(value) * unit, i128::from(wanted) * wanted_unit, i128::from(half) * wanted_unit);
    let equal = wanted - half <= value && value < wanted + half;
    match prefix {
        "" | "eq" => equal,
        "ne" => !equal,
        "gt" | "sa" => value > wanted,
        "lt" | "eb" => value < wanted,
        "ge" => value >= wanted,
        "le" => value <= wanted,
        // A tenth each way, and never less than what the digits leave open.
        "ap" if wanted.abs() >= 10 * half => (value - wanted).abs() * 10 <= wanted.abs(),
        "ap" => (value - wanted).abs() <= half,
        other => panic!("{other}"),
    }
}

fn milligrams(unit: &str) -> i128 {
    match unit {
        "mg" => 1,
        "g" => 1_000,
        "kg" => 1_000_000,
        other => panic!("{other}"),
    }
}

/// Days since some day long ago.
fn day(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month) } else { (year - 1, month + 12) };
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * (m - 3) + 2) / 5 + day
}

/// The seconds from which and up to which a date or time stands, in UTC.
pub fn span(text: &str) -> (i64, i64) {
    let part = |range: std::ops::Range<usize>| text.get(range).map(|digits| digits.parse::<i64>().unwrap());
    let year = part(0..4).unwrap();
    let Some(month) = part(5..7) else { return (day(year, 1, 1) * 86_400, day(year + 1, 1, 1) * 86_400) };
    let Some(of_month) = part(8..10) else {
        let next = if month == 12 { day(year + 1, 1, 1) } else { day(year, month + 1, 1) };
        return (day(year, month, 1) * 86_400, next * 86_400);
    };
    let midnight = day(year, month, of_month) * 86_400;
    let (Some(hour), Some(minute), Some(second)) = (part(11..13), part(14..16), part(17..19)) else { return (midnight, midnight + 86_400) };
    let zone = match text.get(19..) {
        Some("Z") => 0,
        Some("+03:00") => 3 * 3600,
        other => panic!("{other:?}"),
    };
    let start = midnight + hour * 3600 + minute * 60 + second - zone;
    (start, start + 1)
}

pub fn dates(prefix: &str, (low, high): (i64, i64), wanted: &str) -> bool {
    let (from, to) = span(wanted);
    let equal = from <= low && high <= to;
    match prefix {
        "" | "eq" => equal,
        "ne" => !equal,
        "gt" => high > to,
        "lt" => low < from,
        // "… or the range of the search value fully contains the range of the target value."
        "ge" => high > to || equal,
        "le" => low < from || equal,
        "sa" => low >= to,
        "eb" => high <= from,
        other => panic!("{other}"),
    }
}

/// As a default string search compares: without case, accents and punctuation, each character that the names here have spelt out.
pub fn folded(text: &str) -> String {
    let lower = text.to_lowercase();
    let letters = lower.chars().filter(|c| !['\'', '’'].contains(c)).map(|c| match c {
        'ó' | 'ö' => 'o',
        'å' => 'a',
        'è' => 'e',
        '-' | ',' => ' ',
        c => c,
    });
    let letters: String = letters.collect();
    let words: Vec<&str> = letters.split_whitespace().collect();
    if words.is_empty() { lower } else { words.join(" ") }
}

type Holds = Box<dyn Fn(&Value) -> bool>;

/// `value` as it stands in a search: `\`, `,`, `$` and `|` escaped.
fn escaped(value: &str) -> String {
    value.chars().flat_map(|c| ["", "\\"][usize::from(matches!(c, '\\' | ',' | '$' | '|'))].chars().chain([c])).collect()
}

fn token_case(
    chance: &mut Chance,
    name: &str,
    values: fn(&Value) -> Vec<(String, String)>,
    missing_is_known: bool,
) -> (String, String, Holds) {
    if missing_is_known && chance.one_in(8) {
        let missing = chance.one_in(2);
        return (format!("{name}:missing"), missing.to_string(), Box::new(move |resource| values(resource).is_empty() == missing));
    }
    let mut wanted: Vec<(Option<String>, Option<String>)> = Vec::new();
    let mut texts = Vec::new();
    for _ in 0..1 + chance.below(2) {
        let (system, code) = (chance.pick(&SYSTEMS).to_string(), chance.pick(&CODES).to_string());
        let (text, test) = match chance.below(4) {
            0 => (escaped(&code), (None, Some(code))),
            1 if !system.is_empty() => (format!("{system}|"), (Some(system), None)),
            2 => (format!("|{}", escaped(&code)), (Some(String::new()), Some(code))),
            _ => (format!("{system}|{}", escaped(&code)), (Some(system), Some(code))),
        };
        texts.push(text);
        wanted.push(test);
    }
    let not = chance.one_in(4);
    let key = if not { format!("{name}:not") } else { name.to_owned() };
    let holds = move |resource: &Value| {
        values(resource).iter().any(|(system, code)| {
            wanted.iter().any(|(s, c)| s.as_ref().is_none_or(|s| s == system) && c.as_ref().is_none_or(|c| c == code))
        }) != not
    };
    (key, texts.join(","), Box::new(holds))
}

fn owned(values: Vec<(&str, &str)>) -> Vec<(String, String)> {
    values.into_iter().map(|(system, code)| (system.to_owned(), code.to_owned())).collect()
}

fn string_case(chance: &mut Chance, name: &str, values: fn(&Value) -> Vec<String>) -> (String, String, Holds) {
    let whole = *chance.pick(&NAMES);
    let length = 1 + chance.below(whole.chars().count());
    let start = chance.below(2) * chance.below(whole.chars().count());
    let part: String = whole.chars().skip(start).take(length).collect();
    let part = part.trim().to_owned();
    match chance.below(4) {
        0 => {
            let missing = chance.one_in(2);
            (format!("{name}:missing"), missing.to_string(), Box::new(move |resource| values(resource).is_empty() == missing))
        }
        1 => (format!("{name}:exact"), escaped(whole), Box::new(move |resource| values(resource).iter().any(|value| value == whole))),
        2 => (format!("{name}:contains"), escaped(&part), {
            Box::new(move |resource| values(resource).iter().any(|value| folded(value).contains(&folded(&part))))
        }),
        _ => (name.to_owned(), escaped(&part), {
            Box::new(move |resource| values(resource).iter().any(|value| folded(value).starts_with(&folded(&part))))
        }),
    }
}

fn effective(resource: &Value) -> Option<(i64, i64)> {
    if let Some(moment) = resource["effectiveDateTime"].as_str() {
        return Some(span(moment));
    }
    let period = resource.get("effectivePeriod")?;
    let low = period["start"].as_str().map_or(i64::MIN, |start| span(start).0);
    let high = period["end"].as_str().map_or(i64::MAX, |end| span(end).1);
    Some((low, high))
}

/// `prefix value[|system|code]`, and whether a quantity meets it.
fn quantity_test(chance: &mut Chance) -> (String, Holds) {
    let (prefix, value, unit) = (*chance.pick(&NUMBER_PREFIXES), *chance.pick(&VALUES), *chance.pick(&UNITS));
    match chance.below(3) {
        0 => (format!("{prefix}{value}"), Box::new(move |quantity| compares(prefix, &quantity["value"], value))),
        1 => {
            let unit = if chance.one_in(3) { WORDS_OF_A_UNIT } else { unit };
            let holds: Holds = Box::new(move |quantity| {
                compares(prefix, &quantity["value"], value) && (quantity["code"] == unit || quantity["unit"] == unit)
            });
            (format!("{prefix}{value}||{unit}"), holds)
        }
        _ => (format!("{prefix}{value}|{UCUM}|{unit}"), {
            Box::new(move |quantity| {
                let own = quantity["code"].as_str().filter(|_| quantity["system"] == UCUM);
                own.is_some_and(|own| in_unit(prefix, &quantity["value"], milligrams(own), value, milligrams(unit)))
            })
        }),
    }
}

/// Everything that was sent, by type.
type World = std::rc::Rc<std::collections::BTreeMap<&'static str, Vec<Value>>>;

fn with_id<'w>(world: &'w World, type_name: &str, id: &str) -> Option<&'w Value> {
    world[type_name].iter().find(|resource| resource["id"] == id)
}

/// What a modifier, a chain, a `_has`, a list or an expression finds.
fn deep_case(chance: &mut Chance, type_name: &str, world: &World) -> (String, String, Holds) {
    let word = {
        let words = *chance.pick(&WORDS);
        words.chars().take(1 + chance.below(words.chars().count())).collect::<String>().trim().to_owned()
    };
    match (type_name, chance.below(12)) {
        ("Observation" | "Patient", 0) => {
            let lists: Vec<usize> = (0..1 + chance.below(2)).map(|_| chance.below(RESOURCES)).collect();
            let named: BTreeSet<String> = lists
                .iter()
                .flat_map(|n| list(&world["List"][*n]["entry"]))
                .map(|entry| entry["item"]["reference"].as_str().unwrap().to_owned())
                .collect();
            let type_name = type_name.to_owned();
            let value = lists.iter().map(|n| format!("i{n}")).collect::<Vec<_>>().join(",");
            ("_list".into(), value, Box::new(move |resource| named.contains(&format!("{type_name}/{}", resource["id"].as_str().unwrap()))))
        }
        ("Observation" | "Patient", 1 | 2) => {
            // Two plain comparisons joined by an expression; a Patient's gender and birth date suffice to have something to say.
            let ((left, l), (right, r)) = (comparison(chance, type_name), comparison(chance, type_name));
            match chance.below(4) {
                0 => ("_filter".into(), format!("{left} and {right}"), Box::new(move |resource| l(resource) && r(resource))),
                1 => ("_filter".into(), format!("{left} or {right}"), Box::new(move |resource| l(resource) || r(resource))),
                2 => ("_filter".into(), format!("not ({left}) and ({right} or {right})"), {
                    Box::new(move |resource| !l(resource) && r(resource))
                }),
                _ => ("_filter".into(), format!("not({left} or {right})"), Box::new(move |resource| !(l(resource) || r(resource)))),
            }
        }
        ("Observation", 3) => ("code:text".into(), escaped(&word), Box::new(move |resource| says(&resource["code"], &word))),
        ("Observation", 4) => {
            let not = chance.one_in(3);
            let holds = move |resource: &Value| codings(&resource["code"]).iter().any(|coding| MEMBERS.contains(coding)) != not;
            (if not { "code:not-in" } else { "code:in" }.into(), "urn:set".into(), Box::new(holds))
        }
        ("Observation", 5) => {
            let (code, below) = (chance.pick(&TREE).0, chance.one_in(2));
            let holds = move |resource: &Value| {
                codings(&resource["code"]).iter().any(|(system, own)| {
                    *system == TREE_SYSTEM && if below { tree_above(own).contains(&code) } else { tree_above(code).contains(own) }
                })
            };
            (if below { "code:below" } else { "code:above" }.into(), format!("{TREE_SYSTEM}|{code}"), Box::new(holds))
        }
        ("Observation", 6) => {
            let code = *chance.pick(&CODES);
            let (key, value) = match chance.below(2) {
                0 => ("subject:identifier", format!("urn:mrn|{}", escaped(code))),
                _ => ("subject:identifier", escaped(code)),
            };
            (key.into(), value, Box::new(move |resource| resource["subject"]["identifier"]["value"] == code))
        }
        ("Observation", 7) => ("subject:text".into(), escaped(&word), {
            Box::new(move |resource| resource["subject"]["display"].as_str().is_some_and(|own| folded(own).starts_with(&folded(&word))))
        }),
        ("Observation", 8 | 9) => {
            // A chain with any test of a Patient's.
            let (key, value, holds) = case(chance, "Patient", world);
            let world = world.clone();
            let holds = move |resource: &Value| {
                let subject = resource["subject"]["reference"].as_str().and_then(|reference| reference.strip_prefix("Patient/"));
                subject.and_then(|id| with_id(&world, "Patient", id)).is_some_and(&holds)
            };
            (format!("subject:Patient.{key}"), value, Box::new(holds))
        }
        ("Observation", 10) => {
            let missing = chance.one_in(2);
            let holds = move |resource: &Value| {
                let code = &resource["code"];
                (list(&code["coding"]).is_empty() && code.get("text").is_none()) == missing
            };
            ("code:missing".into(), missing.to_string(), Box::new(holds))
        }
        ("Observation" | "Patient", 11) => {
            let ((system, code), value) = (*chance.pick(&ID_TYPES), *chance.pick(&CODES));
            let holds = move |resource: &Value| {
                list(&resource["identifier"]).iter().any(|one| {
                    one["value"] == value && list(&one["type"]["coding"]).iter().any(|own| own["system"] == system && own["code"] == code)
                })
            };
            ("identifier:of-type".into(), format!("{system}|{code}|{}", escaped(value)), Box::new(holds))
        }
        ("Observation", _) => case(chance, type_name, world),
        ("Patient", 3..=5) => {
            let (key, value, holds) = case(chance, "Observation", world);
            let world = world.clone();
            let holds = move |resource: &Value| {
                let own = format!("Patient/{}", resource["id"].as_str().unwrap());
                world["Observation"].iter().any(|observation| observation["subject"]["reference"] == own && holds(observation))
            };
            (format!("_has:Observation:{}:{key}", chance.pick(&["subject", "patient"])), value, Box::new(holds))
        }
        ("Patient", 6) => {
            // Named together with another Observation that a List names.
            let n = chance.below(RESOURCES);
            let listed: BTreeSet<String> =
                list(&world["List"][n]["entry"]).iter().map(|entry| entry["item"]["reference"].as_str().unwrap().to_owned()).collect();
            let world = world.clone();
            let holds = move |resource: &Value| {
                let own = format!("Patient/{}", resource["id"].as_str().unwrap());
                world["Observation"].iter().any(|observation| {
                    observation["subject"]["reference"] == own
                        && listed.contains(&format!("Observation/{}", observation["id"].as_str().unwrap()))
                })
            };
            ("_has:Observation:patient:_has:List:item:_id".into(), format!("i{n}"), Box::new(holds))
        }
        ("Patient", 7) => ("identifier:text".into(), escaped(&word), {
            Box::new(move |resource| {
                let mut texts = list(&resource["identifier"]).iter().filter_map(|one| one["type"]["text"].as_str());
                texts.any(|own| folded(own).starts_with(&folded(&word)))
            })
        }),
        _ => case(chance, type_name, world),
    }
}

/// One comparison of `_filter`.
fn comparison(chance: &mut Chance, type_name: &str) -> (String, Holds) {
    let name = *chance.pick(&NAMES);
    let quoted = format!("\"{name}\"");
    let families = |resource: &Value| -> Vec<String> {
        list(&resource["name"]).iter().filter_map(|name| name["family"].as_str()).map(folded).collect()
    };
    match (type_name, chance.below(5)) {
        ("Patient", 0) => (format!("family eq {quoted}"), Box::new(move |resource| families(resource).contains(&folded(name)))),
        ("Patient", 1) => {
            let part: String = folded(name).chars().skip(1).take(3).collect();
            let part = part.trim().to_owned();
            let (quoted, operator) = (format!("\"{part}\""), *chance.pick(&["co", "sw", "ew"]));
            let holds = move |resource: &Value| {
                families(resource).iter().any(|family| match operator {
                    "co" => family.contains(&part),
                    "sw" => family.starts_with(&part),
                    _ => family.ends_with(&part),
                })
            };
            (format!("family {operator} {quoted}"), Box::new(holds))
        }
        ("Patient", 2) => {
            (format!("family ne {quoted}"), { Box::new(move |resource| families(resource).iter().any(|family| *family != folded(name))) })
        }
        ("Patient", 3) => {
            let present = chance.one_in(2);
            (format!("birthdate pr {present}"), Box::new(move |resource| resource.get("birthDate").is_some() == present))
        }
        ("Patient", _) => {
            let (operator, gender) = (*chance.pick(&["eq", "ne"]), *chance.pick(&["male", "female"]));
            let holds = move |resource: &Value| resource["gender"].as_str().is_some_and(|own| (own == gender) == (operator == "eq"));
            (format!("gender {operator} {gender}"), Box::new(holds))
        }
        (_, 0 | 1) => {
            let (operator, wanted) = (*chance.pick(&["eq", "gt", "lt", "ge", "le", "sa", "eb"]), *chance.pick(&DATES));
            (format!("date {operator} {wanted}"), {
                Box::new(move |resource| effective(resource).is_some_and(|span| dates(operator, span, wanted)))
            })
        }
        (_, 2) => {
            let wanted = *chance.pick(&DATES);
            (format!("date po {wanted}"), {
                Box::new(move |resource| effective(resource).is_some_and(|(low, high)| high > span(wanted).0 && low < span(wanted).1))
            })
        }
        (_, 3) => {
            let (operator, wanted) = (*chance.pick(&["eq", "gt", "le"]), *chance.pick(&VALUES));
            (format!("value-quantity {operator} {wanted}"), {
                Box::new(move |resource| resource.get("valueQuantity").is_some_and(|own| compares(operator, &own["value"], wanted)))
            })
        }
        _ => {
            let status = *chance.pick(&["final", "amended"]);
            (format!("status eq {status}"), Box::new(move |resource| resource["status"] == status))
        }
    }
}

/// Parameter, value, and whether a resource should be found.
fn case(chance: &mut Chance, type_name: &str, world: &World) -> (String, String, Holds) {
    match (type_name, chance.below(6)) {
        ("Location", 0 | 1) => {
            let (n, below) = (chance.below(RESOURCES), chance.one_in(2));
            let world = world.clone();
            // Oneself and those above, for a Location.
            let above = move |id: &str| {
                let (mut line, mut at) = (vec![id.to_owned()], id.to_owned());
                while let Some(parent) = with_id(&world, "Location", &at).and_then(|own| own["partOf"]["reference"].as_str()) {
                    at = parent.trim_start_matches("Location/").to_owned();
                    line.push(at.clone());
                }
                line
            };
            let holds = move |resource: &Value| {
                let Some(parent) = resource["partOf"]["reference"].as_str().map(|parent| parent.trim_start_matches("Location/")) else {
                    return false;
                };
                let wanted = format!("l{n}");
                if below { above(parent).contains(&wanted) } else { above(&wanted).iter().any(|own| own == parent) }
            };
            (if below { "partof:below" } else { "partof:above" }.into(), format!("Location/l{n}"), Box::new(holds))
        }
        ("Location", 2..=4) => {
            let (centre, distance) = (*chance.pick(&PLACES), *chance.pick(&[0.5, 3.0, 100.0, 20_100.0]));
            let (text, kilometres_each) = *chance.pick(&[("km", 1.0), ("m", 0.001), ("[mi_i]", 1.609_344)]);
            let holds = move |resource: &Value| {
                let own = (resource["position"]["latitude"].as_f64(), resource["position"]["longitude"].as_f64());
                matches!(own, (Some(latitude), Some(longitude)) if kilometres(centre, (latitude, longitude)) <= distance)
            };
            let value = format!("{}|{}|{}|{text}", centre.0, centre.1, distance / kilometres_each);
            ("near".into(), value, Box::new(holds))
        }
        ("Location", _) => string_case(chance, "name", |resource| resource["name"].as_str().map(str::to_owned).into_iter().collect()),
        ("CarePlan", 0 | 1) => {
            let status = *chance.pick(&STATUSES);
            let world = world.clone();
            let holds = move |resource: &Value| {
                let own = resource["instantiatesCanonical"][0].as_str();
                own.is_some_and(|own| world["PlanDefinition"].iter().any(|plan| plan["status"] == status && is_named(plan, own)))
            };
            let key = *chance.pick(&["instantiates-canonical:PlanDefinition.status", "instantiates-canonical.status"]);
            (key.into(), status.into(), Box::new(holds))
        }
        ("PlanDefinition", 0..=3) => {
            let status = *chance.pick(&["active", "draft"]);
            let world = world.clone();
            let holds = move |resource: &Value| {
                let named = |plan: &Value| plan["instantiatesCanonical"][0].as_str().is_some_and(|own| is_named(resource, own));
                world["CarePlan"].iter().any(|plan| plan["status"] == status && named(plan))
            };
            ("_has:CarePlan:instantiates-canonical:status".into(), status.into(), Box::new(holds))
        }
        ("PlanDefinition", _) => {
            let wanted = *chance.pick(&CANONICALS);
            let holds = move |resource: &Value| match wanted.contains('|') {
                true => resource.get("version").is_some() && is_named(resource, wanted),
                false => resource["url"] == wanted,
            };
            ("url".into(), wanted.into(), Box::new(holds))
        }
        ("CarePlan", _) => {
            let wanted = *chance.pick(&CANONICALS);
            let own = |resource: &Value| resource["instantiatesCanonical"][0].as_str().map(str::to_owned);
            let same: fn(&str, &str) -> bool =
                |own, wanted| own == wanted || !wanted.contains('|') && own.split('|').next() == Some(wanted);
            let (modifier, test): (&str, fn(&str, &str) -> bool) = match chance.below(6) {
                0 => ("", same),
                1 => (":below", |own, wanted| version_below(own, wanted)),
                2 => (":above", |own, wanted| version_below(wanted, own)),
                3 => {
                    let wanted = format!("{wanted}#part");
                    let value = wanted.clone();
                    return ("instantiates-canonical".into(), value, Box::new(move |resource| own(resource).as_ref() == Some(&wanted)));
                }
                n => {
                    let (operator, equal) = if n == 4 { ("eq", true) } else { ("ne", false) };
                    let holds = move |resource: &Value| own(resource).is_some_and(|own| same(whole(&own), wanted) == equal);
                    return ("_filter".into(), format!("instantiates-canonical {operator} \"{wanted}\""), Box::new(holds));
                }
            };
            let holds = move |resource: &Value| own(resource).is_some_and(|own| test(whole(&own), wanted));
            (format!("instantiates-canonical{modifier}"), wanted.to_owned(), Box::new(holds))
        }
        ("Observation", 0) => token_case(chance, "code", |resource| owned(codings(&resource["code"])), false),
        ("Observation", 1) => match chance.below(5) {
            0 => {
                let missing = chance.one_in(2);
                ("subject:missing".into(), missing.to_string(), Box::new(move |resource| resource.get("subject").is_none() == missing))
            }
            n => {
                let id = format!("p{}", chance.below(8));
                let (key, value) = match n {
                    1 => ("subject", format!("Patient/{id}")),
                    2 => ("subject", id.clone()),
                    3 => ("subject:Patient", id.clone()),
                    _ => ("patient", id.clone()),
                };
                (key.into(), value, Box::new(move |resource| resource["subject"]["reference"] == format!("Patient/{id}")))
            }
        },
        ("Observation", 2) => {
            let (prefix, wanted) = (*chance.pick(&PREFIXES), *chance.pick(&DATES));
            (
                "date".into(),
                format!("{prefix}{wanted}"),
                Box::new(move |resource| effective(resource).is_some_and(|span| dates(prefix, span, wanted))),
            )
        }
        ("Observation", 3) => {
            let (text, holds) = quantity_test(chance);
            ("value-quantity".into(), text, Box::new(move |resource| resource.get("valueQuantity").is_some_and(&holds)))
        }
        ("Observation", 4) => {
            let ((text, holds), code) = (quantity_test(chance), *chance.pick(&CODES));
            let value = format!("{}${text}", escaped(code));
            let meets = move |part: &Value| {
                codings(&part["code"]).iter().any(|(_, own)| *own == code) && part.get("valueQuantity").is_some_and(&holds)
            };
            match chance.below(3) {
                0 => ("code-value-quantity".into(), value, Box::new(meets)),
                1 => (
                    "component-code-value-quantity".into(),
                    value,
                    Box::new(move |resource| list(&resource["component"]).iter().any(&meets)),
                ),
                _ => ("combo-code-value-quantity".into(), value, {
                    Box::new(move |resource| meets(resource) || list(&resource["component"]).iter().any(&meets))
                }),
            }
        }
        ("Observation", _) => match chance.below(2) {
            0 => string_case(chance, "value-string", |resource| {
                // R4's expression takes a code's text too.
                [&resource["valueString"], &resource["valueCodeableConcept"]["text"]]
                    .into_iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            }),
            _ => token_case(
                chance,
                "combo-code",
                |resource| {
                    let parts = list(&resource["component"]).iter().chain([resource]);
                    parts.flat_map(|part| owned(codings(&part["code"]))).collect()
                },
                false,
            ),
        },
        ("Patient", 0) => string_case(chance, "family", |resource| {
            list(&resource["name"]).iter().filter_map(|name| name["family"].as_str()).map(str::to_owned).collect()
        }),
        ("Patient", 1) => string_case(chance, "given", |resource| {
            list(&resource["name"]).iter().flat_map(|name| list(&name["given"])).filter_map(Value::as_str).map(str::to_owned).collect()
        }),
        ("Patient", 2) => token_case(
            chance,
            "identifier",
            |resource| {
                list(&resource["identifier"])
                    .iter()
                    .map(|one| (one["system"].as_str().unwrap_or("").to_owned(), one["value"].as_str().unwrap().to_owned()))
                    .collect()
            },
            true,
        ),
        ("Patient", 3) => {
            let gender = *chance.pick(&["male", "female", "other"]);
            let not = chance.one_in(2);
            (
                if not { "gender:not" } else { "gender" }.into(),
                gender.into(),
                Box::new(move |resource| (resource["gender"] == gender) != not),
            )
        }
        ("Patient", 4) => {
            let active = chance.one_in(2);
            ("active".into(), active.to_string(), Box::new(move |resource| resource["active"] == active))
        }
        ("Patient", _) => {
            let (prefix, wanted) =
                (*chance.pick(&PREFIXES), *chance.pick(&["1990", "1990-02", "1990-02-28", "2024-02-29", "2026", "1990-03-01"]));
            let holds = move |resource: &Value| resource["birthDate"].as_str().is_some_and(|born| dates(prefix, span(born), wanted));
            ("birthdate".into(), format!("{prefix}{wanted}"), Box::new(holds))
        }
        ("RiskAssessment", _) => {
            let (prefix, wanted) = (*chance.pick(&NUMBER_PREFIXES), *chance.pick(&VALUES));
            let holds = move |resource: &Value| {
                let mut values = list(&resource["prediction"]).iter().map(|prediction| &prediction["probabilityDecimal"]);
                values.any(|value| compares(prefix, value, wanted))
            };
            ("probability".into(), format!("{prefix}{wanted}"), Box::new(holds))
        }
        _ => {
            let wanted = *chance.pick(&URLS);
            match chance.below(3) {
                0 => ("url".into(), wanted.into(), Box::new(move |resource| resource["url"] == wanted)),
                1 => ("url:below".into(), wanted.into(), {
                    Box::new(move |resource| resource["url"].as_str().is_some_and(|url| is_at_or_below(url, wanted)))
                }),
                _ => ("url:above".into(), wanted.into(), {
                    Box::new(move |resource| resource["url"].as_str().is_some_and(|url| is_at_or_below(wanted, url)))
                }),
            }
        }
    }
}

/// A canonical without its fragment, which names a part.
fn whole(canonical: &str) -> &str {
    canonical.split('#').next().unwrap()
}

/// Whether a canonical names a resource.
fn is_named(resource: &Value, canonical: &str) -> bool {
    let canonical = whole(canonical);
    match canonical.split_once('|') {
        Some((url, version)) => resource["url"] == url && resource["version"] == version,
        None => resource["url"] == canonical,
    }
}

/// Whether a canonical is of the version or a part of it; one without a version is above all.
fn version_below(own: &str, wanted: &str) -> bool {
    let ((url, version), (wanted_url, wanted_version)) =
        (own.split_once('|').unwrap_or((own, "")), wanted.split_once('|').unwrap_or((wanted, "")));
    url == wanted_url && (wanted_version.is_empty() || version == wanted_version || version.starts_with(&format!("{wanted_version}.")))
}

fn is_at_or_below(url: &str, above: &str) -> bool {
    url == above || url.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// What the test's resources are made of and hang together by.
fn world(chance: &mut Chance) -> World {
    type Maker = fn(&mut Chance, usize) -> Value;
    let makers: [(&'static str, Maker); 8] = [
        ("Observation", observation),
        ("Patient", patient),
        ("RiskAssessment", risk),
        ("ValueSet", value_set),
        ("Location", location),
        ("CarePlan", care_plan),
        ("PlanDefinition", plan_definition),
        ("List", list_of),
    ];
    makers
        .into_iter()
        .map(|(name, make)| (name, (0..RESOURCES).map(|n| make(chance, n)).collect()))
        .collect::<std::collections::BTreeMap<_, _>>()
        .into()
}

async fn load(server: &TestServer, world: &World) {
    let concepts: Vec<Value> = TREE
        .iter()
        .map(|(code, parent)| {
            let mut concept = json!({ "code": code });
            if !parent.is_empty() {
                concept["property"] = json!([{ "code": "parent", "valueCode": parent }]);
            }
            concept
        })
        .collect();
    let system = json!({
        "resourceType": "CodeSystem", "id": "tree", "url": TREE_SYSTEM, "status": "active", "content": "complete",
        "property": [{ "code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code" }], "concept": concepts
    });
    let include = |(system, code): &(&str, &str)| json!({ "system": system, "concept": [{ "code": code }] });
    let set = json!({
        "resourceType": "ValueSet", "id": "set", "url": "urn:set", "status": "active",
        "compose": { "include": MEMBERS.iter().map(include).collect::<Vec<_>>() }
    });
    let entries: Vec<Value> = world
        .values()
        .flatten()
        .chain([&system, &set])
        .map(|resource| {
            let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
        })
        .collect();
    let (status, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
    assert_eq!(status, 200, "{response}");
}

both_databases!(
    async fn searches_find_what_a_slow_scan_finds(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance::new(20_261_121);
        let world = world(&mut chance);
        load(&server, &world).await;
        // Observations and Patients have the most parameters.
        let types = [
            "Observation",
            "Patient",
            "Observation",
            "Observation",
            "Patient",
            "RiskAssessment",
            "ValueSet",
            "Location",
            "CarePlan",
            "PlanDefinition",
            "Observation",
        ];
        let (mut wrong, mut found_some) = (Vec::new(), 0);
        for wave in 0..CASES / WAVE {
            let cases: Vec<(&str, String, String, BTreeSet<&str>)> = (0..WAVE)
                .map(|n| {
                    let type_name = types[(wave * WAVE + n) % types.len()];
                    let draw = |chance: &mut Chance| match chance.one_in(2) {
                        true => deep_case(chance, type_name, &world),
                        false => case(chance, type_name, &world),
                    };
                    let mut tests = vec![draw(&mut chance)];
                    while tests.len() < 3 && chance.one_in(4) {
                        tests.push(draw(&mut chance));
                    }
                    let mut query = form_urlencoded::Serializer::new(String::new());
                    tests.iter().for_each(|(key, value, _)| {
                        query.append_pair(key, value);
                    });
                    let shown: Vec<String> = tests.iter().map(|(key, value, _)| format!("{key}={value}")).collect();
                    let expected = world[type_name]
                        .iter()
                        .filter(|resource| tests.iter().all(|(_, _, holds)| holds(resource)))
                        .map(|resource| resource["id"].as_str().unwrap())
                        .collect();
                    (type_name, query.finish(), format!("{type_name}?{}", shown.join("&")), expected)
                })
                .collect();
            let paths: Vec<String> =
                cases.iter().map(|(name, query, ..)| format!("/fhir/{name}?{query}&_count=1000&_elements=id")).collect();
            let answers = futures_util::future::join_all(paths.iter().map(|path| server.get(path))).await;
            for ((type_name, _, shown, expected), (status, bundle)) in cases.iter().zip(answers) {
                if status != 200 || list(&bundle["entry"]).iter().any(|entry| entry["search"]["mode"] == "outcome") {
                    wrong.push(format!("{shown}: {status} {bundle:.300}"));
                    continue;
                }
                let ids = list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap());
                // lango ships ValueSets of its own.
                let own = |id: &&str| id.get(1..).is_some_and(|number| number.parse::<usize>().is_ok());
                let found: BTreeSet<&str> = ids.filter(own).collect();
                found_some += usize::from(!expected.is_empty());
                if found != *expected {
                    let one = |ids: &mut dyn Iterator<Item = &&str>| {
                        ids.next().and_then(|id| with_id(&world, type_name, id)).map(Value::to_string)
                    };
                    wrong.push(format!(
                        "{shown}\n  too many: {:?}\n  too few: {:?}",
                        one(&mut found.difference(expected)),
                        one(&mut expected.difference(&found)),
                    ));
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {CASES} are wrong:\n{}",
            wrong.len(),
            wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(found_some > CASES / 2, "only {found_some} searches find anything");
        server.stop().await;
    }
);
