//! Searches that are drawn by chance, each held against a slow scan that is written straight from
//! <https://hl7.org/fhir/R4/search.html> and shares nothing with the server: no index, no FHIRPath, no parser.

use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const RESOURCES: usize = 60;
const CASES: usize = 500;

/// Numbers by chance, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const SYSTEMS: [&str; 3] = ["http://loinc.org", "urn:s", ""];
const CODES: [&str; 5] = ["a", "b", "8867-4", "A", "a,b"];
const NAMES: [&str; 9] = ["Juma", "jumanne", "Kipchóge", "Kipchoge", "O'Neil", "van der Berg", "Ångström", "MASSAWE", "mass$awe"];
const URLS: [&str; 5] = ["http://x.org/a", "http://x.org/a/b", "http://x.org/ab", "http://x.org/a/b/c", "urn:oid:1.2.3"];
const UNITS: [&str; 3] = ["mg", "kg", "g"];
const UCUM: &str = "http://unitsofmeasure.org";
/// In thousandths, so that the oracle counts without rounding.
const VALUES: [&str; 12] = ["1", "1.0", "1.00", "0.5", "0.50", "99.5", "100", "100.4", "100.5", "-1", "2.345", "0"];
const PREFIXES: [&str; 9] = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"];
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
    match *chance.pick(&SYSTEMS) {
        "" => {}
        system => coding["system"] = json!(system),
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
        _ => json!({ "value": number(chance), "unit": unit, "system": UCUM, "code": unit }),
    }
}

fn observation(chance: &mut Chance, n: usize) -> Value {
    let mut resource = json!({ "resourceType": "Observation", "id": format!("o{n}"), "status": chance.pick(&["final", "amended"]), "code": concept(chance) });
    if !chance.one_in(4) {
        resource["subject"] = json!({ "reference": format!("Patient/p{}", chance.below(5)) });
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
        let identifier = coding(chance);
        resource["identifier"] = json!([{ "value": identifier["code"] }]);
        if let Some(system) = identifier.get("system") {
            resource["identifier"][0]["system"] = system.clone();
        }
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
    list(&concept["coding"]).iter().map(|coding| (coding["system"].as_str().unwrap_or(""), coding["code"].as_str().unwrap())).collect()
}

/// Thousandths, and half of the last digit's worth in ten-thousandths (both exact).
fn exact(text: &str) -> (i64, i64) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let padded = format!("{fraction:0<3}");
    let thousandths = whole.parse::<i64>().unwrap() * 1000 + sign * padded.parse::<i64>().unwrap();
    (thousandths * 10, 5 * 10i64.pow(3 - fraction.len() as u32))
}

fn compares(prefix: &str, value: &Value, wanted: &str) -> bool {
    let (value, _) = exact(&value.to_string());
    let (wanted, half) = exact(wanted);
    let equal = wanted - half <= value && value < wanted + half;
    match prefix {
        "" | "eq" => equal,
        "ne" => !equal,
        "gt" | "sa" => value > wanted,
        "lt" | "eb" => value < wanted,
        "ge" => value >= wanted,
        "le" => value <= wanted,
        other => panic!("{other}"),
    }
}

/// Days since some day long ago.
fn day(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month) } else { (year - 1, month + 12) };
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * (m - 3) + 2) / 5 + day
}

/// The seconds from which and up to which a date or time stands, in UTC.
fn span(text: &str) -> (i64, i64) {
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

fn dates(prefix: &str, (low, high): (i64, i64), wanted: &str) -> bool {
    let (from, to) = span(wanted);
    let equal = from <= low && high <= to;
    match prefix {
        "" | "eq" => equal,
        "ne" => !equal,
        "gt" => high > to,
        "lt" => low < from,
        // "The range above the search value" begins where the value begins: what overlaps with it is not less.
        "ge" => high > from,
        "le" => low < to,
        "sa" => low >= to,
        "eb" => high <= from,
        other => panic!("{other}"),
    }
}

/// As a default string search compares: without case and accents, each character that the names here have spelt out.
fn folded(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .map(|c| match c {
            'ó' | 'ö' => 'o',
            'å' => 'a',
            c => c,
        })
        .collect()
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
    let (prefix, value, unit) = (*chance.pick(&PREFIXES), *chance.pick(&VALUES), *chance.pick(&UNITS));
    match chance.below(3) {
        0 => (format!("{prefix}{value}"), Box::new(move |quantity| compares(prefix, &quantity["value"], value))),
        1 => (format!("{prefix}{value}||{unit}"), {
            Box::new(move |quantity| compares(prefix, &quantity["value"], value) && (quantity["code"] == unit || quantity["unit"] == unit))
        }),
        _ => (format!("{prefix}{value}|{UCUM}|{unit}"), {
            Box::new(move |quantity| compares(prefix, &quantity["value"], value) && quantity["code"] == unit && quantity["system"] == UCUM)
        }),
    }
}

/// Parameter, value, and whether a resource should be found.
fn case(chance: &mut Chance, type_name: &str) -> (String, String, Holds) {
    match (type_name, chance.below(6)) {
        ("Observation", 0) => token_case(chance, "code", |resource| owned(codings(&resource["code"])), false),
        ("Observation", 1) => match chance.below(5) {
            0 => {
                let missing = chance.one_in(2);
                ("subject:missing".into(), missing.to_string(), Box::new(move |resource| resource.get("subject").is_none() == missing))
            }
            n => {
                let id = format!("p{}", chance.below(5));
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
            let (prefix, wanted) = (*chance.pick(&PREFIXES), *chance.pick(&VALUES));
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

fn is_at_or_below(url: &str, above: &str) -> bool {
    url == above || url.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

both_databases!(
    async fn searches_find_what_a_slow_scan_finds(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance(20_261_121);
        let types = ["Observation", "Patient", "RiskAssessment", "ValueSet"];
        let makers = [observation, patient, risk, value_set];
        let mut resources: Vec<Vec<Value>> = Vec::new();
        for maker in makers {
            resources.push((0..RESOURCES).map(|n| maker(&mut chance, n)).collect());
        }
        for list in resources.chunks(1) {
            let entries: Vec<Value> = list
                .iter()
                .flatten()
                .map(|resource| {
                    let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
                    json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
                })
                .collect();
            let (status, response) =
                server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
            assert_eq!(status, 200, "{response}");
        }
        let (mut wrong, mut found_some) = (Vec::new(), 0);
        for number in 0..CASES {
            // Observations have the most parameters.
            let which = [0, 0, 0, 1, 1, 2, 3][number % 7];
            let mut tests = vec![case(&mut chance, types[which])];
            if chance.one_in(4) {
                tests.push(case(&mut chance, types[which]));
            }
            let mut query = form_urlencoded::Serializer::new(String::new());
            tests.iter().for_each(|(key, value, _)| {
                query.append_pair(key, value);
            });
            let shown: Vec<String> = tests.iter().map(|(key, value, _)| format!("{key}={value}")).collect();
            let own = |id: &str| id.get(1..).is_some_and(|number| number.parse::<usize>().is_ok());
            let (status, bundle) = server.get(&format!("/fhir/{}?{}&_count=1000", types[which], query.finish())).await;
            if status != 200 || list(&bundle["entry"]).iter().any(|entry| entry["search"]["mode"] == "outcome") {
                wrong.push(format!("{}?{}: {status} {bundle:.300}", types[which], shown.join("&")));
                continue;
            }
            let ids = list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap());
            // lango ships ValueSets of its own.
            let found: BTreeSet<&str> = ids.filter(|id| own(id)).collect();
            let expected: BTreeSet<&str> = resources[which]
                .iter()
                .filter(|resource| tests.iter().all(|(_, _, holds)| holds(resource)))
                .map(|resource| resource["id"].as_str().unwrap())
                .collect();
            found_some += usize::from(!expected.is_empty());
            if found != expected {
                let one = |ids: &mut dyn Iterator<Item = &&str>| {
                    ids.next().and_then(|id| resources[which].iter().find(|resource| resource["id"] == **id)).map(Value::to_string)
                };
                wrong.push(format!(
                    "{}?{}\n  too many: {:?}\n  too few: {:?}",
                    types[which],
                    shown.join("&"),
                    one(&mut found.difference(&expected)),
                    one(&mut expected.difference(&found)),
                ));
            }
        }
        assert!(wrong.is_empty(), "{} of {CASES} are wrong:\n{}", wrong.len(), wrong.join("\n"));
        assert!(found_some > CASES / 2, "only {found_some} searches find anything");
        server.stop().await;
    }
);
