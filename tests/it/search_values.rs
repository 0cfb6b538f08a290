//! Searches by values of every shape: periods open at either end, schedules, dates "about", what is spelt in parts, meta, and whether
//! there is a value at all. Held, like those of [`crate::search_oracle`], against a slow scan that is written from the specification.

use crate::search_oracle::{Chance, dates, folded, in_unit, span};
use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Of each type.
const RESOURCES: usize = 60;
/// Per database.
const CASES: usize = 2_000;
const WAVE: usize = 8;

const TYPES: [&str; 5] = ["Encounter", "ServiceRequest", "Patient", "Condition", "DocumentReference"];
const DATES: [&str; 12] = [
    "1999",
    "2024",
    "2024-02",
    "2024-02-29",
    "2025-12-31",
    "2026-03",
    "2026-03-01",
    "2026-03-01T09:00:00+03:00",
    "2026-03-01T06:00:00Z",
    "2026-03-31T23:59:59Z",
    "2026-11",
    "2031-07-01",
];
const PREFIXES: [&str; 10] = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"];
const NAMES: [&str; 6] = ["Neema", "Asha Mushi", "asha", "Dr", "Kimaro", "Moshi"];
const LINES: [&str; 6] = ["12 Boma Road", "boma", "Moshi", "Hai, Kilimanjaro", "25101", "Road"];
const NUMBERS: [&str; 5] = ["+255 713 000 111", "0713000111", "asha@example.org", "Asha@Example.ORG", "a,b"];
const MEDIA: [&str; 9] = [
    "text/plain",
    "Text/Plain",
    "text/plain; charset=UTF-8",
    "text/plain;charset=utf-8",
    "TEXT/plain ; Charset=utf-8; a=b",
    "text/plainer",
    "text/XML",
    "image/png",
    "image/png;a=b",
];
/// Of two code systems, of which the first does not tell case apart, and of none.
const CODE_SYSTEMS: [&str; 3] = ["urn:nocase", "urn:case", ""];
const CODES: [&str; 5] = ["AbC", "abc", "ABC", "X1", "x1"];
/// Value sets of the first, each with the one code that is in it.
const SETS: [(&str, &str); 2] = [("urn:set:not-abc", "X1"), ("urn:set:abc", "abc")];
const TAGS: [(&str, &str); 3] = [("urn:tags", "a"), ("urn:tags", "b"), ("urn:other", "a")];
const SOURCES: [&str; 3] = ["urn:emr:1", "http://x.org/emr", "http://x.org/emr/2"];
const LENGTHS: [&str; 6] = ["30", "60", "1", "1.5", "90", "0.5"];

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(values: &Value) -> Vec<&str> {
    list(values).iter().chain([values]).filter_map(Value::as_str).collect()
}

fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn period(chance: &mut Chance) -> Value {
    let (mut from, mut to) = (*chance.pick(&DATES), *chance.pick(&DATES));
    if span(from).0 > span(to).0 {
        (from, to) = (to, from);
    }
    match chance.below(3) {
        0 => json!({ "start": from }),
        1 => json!({ "end": to }),
        _ => json!({ "start": from, "end": to }),
    }
}

fn encounter(chance: &mut Chance) -> Value {
    let mut resource = json!({ "status": "finished", "class": { "code": "AMB" } });
    if !chance.one_in(5) {
        resource["period"] = period(chance);
    }
    if !chance.one_in(3) {
        let unit = chance.pick(&["min", "h"]);
        resource["length"] = json!({ "value": number(LENGTHS[chance.below(LENGTHS.len())]), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit });
    }
    if !chance.one_in(3) {
        let tag = |chance: &mut Chance| {
            let (system, code) = chance.pick(&TAGS);
            json!({ "system": system, "code": code })
        };
        resource["meta"] = json!({ "tag": [tag(chance)], "security": [tag(chance)] });
        if chance.one_in(2) {
            resource["meta"]["source"] = json!(chance.pick(&SOURCES));
        }
    }
    resource
}

fn service_request(chance: &mut Chance) -> Value {
    let mut resource = json!({ "status": "active", "intent": "order", "subject": { "reference": "Patient/x1" } });
    match chance.below(5) {
        0 => {}
        1 => resource["occurrenceDateTime"] = json!(chance.pick(&DATES)),
        2 => resource["occurrencePeriod"] = period(chance),
        3 => resource["occurrenceTiming"] = json!({ "event": (0..1 + chance.below(3)).map(|_| chance.pick(&DATES)).collect::<Vec<_>>() }),
        _ => {
            resource["occurrenceTiming"] =
                json!({ "repeat": { "boundsPeriod": period(chance), "frequency": 1, "period": 2, "periodUnit": "d" } })
        }
    }
    if chance.one_in(2) {
        resource["authoredOn"] = json!(chance.pick(&DATES));
    }
    resource
}

fn patient(chance: &mut Chance) -> Value {
    let mut resource = json!({ "active": true });
    if !chance.one_in(4) {
        let mut name = json!({ "family": chance.pick(&NAMES), "given": [chance.pick(&NAMES)] });
        for element in ["prefix", "suffix"] {
            if chance.one_in(3) {
                name[element] = json!([chance.pick(&NAMES)]);
            }
        }
        if chance.one_in(3) {
            name["text"] = json!(chance.pick(&NAMES));
        }
        resource["name"] = json!([name]);
    }
    if !chance.one_in(4) {
        let mut address = json!({ "city": chance.pick(&LINES) });
        for element in ["district", "state", "postalCode", "text", "country"] {
            if chance.one_in(4) {
                address[element] = json!(chance.pick(&LINES));
            }
        }
        if chance.one_in(2) {
            address["line"] = json!([chance.pick(&LINES), chance.pick(&LINES)]);
        }
        resource["address"] = json!([address]);
    }
    if !chance.one_in(3) {
        let one = |chance: &mut Chance| json!({ "system": chance.pick(&["phone", "email"]), "value": chance.pick(&NUMBERS) });
        resource["telecom"] = json!([one(chance), one(chance)]);
    }
    match chance.below(4) {
        0 => resource["deceasedBoolean"] = json!(chance.one_in(2)),
        1 => resource["deceasedDateTime"] = json!(chance.pick(&DATES)),
        _ => {}
    }
    resource
}

fn condition(chance: &mut Chance) -> Value {
    let mut resource = json!({ "subject": { "reference": "Patient/x1" } });
    match chance.below(5) {
        0 => {}
        1 => resource["onsetDateTime"] = json!(chance.pick(&DATES)),
        2 => resource["onsetPeriod"] = period(chance),
        3 => resource["onsetString"] = json!(chance.pick(&NAMES)),
        _ => {
            resource["onsetAge"] = json!({ "value": 30 + chance.below(4), "unit": "a", "system": "http://unitsofmeasure.org", "code": "a" })
        }
    }
    if chance.one_in(2) {
        resource["recordedDate"] = json!(chance.pick(&DATES));
    }
    if !chance.one_in(4) {
        let coding = |chance: &mut Chance| match *chance.pick(&CODE_SYSTEMS) {
            "" => json!({ "code": chance.pick(&CODES) }),
            system => json!({ "system": system, "code": chance.pick(&CODES) }),
        };
        resource["code"] = json!({ "coding": (0..1 + chance.below(2)).map(|_| coding(chance)).collect::<Vec<_>>() });
    }
    resource
}

fn document(chance: &mut Chance) -> Value {
    let attachment = |chance: &mut Chance| match chance.one_in(5) {
        true => json!({ "attachment": { "title": "of no type" } }),
        false => json!({ "attachment": { "contentType": chance.pick(&MEDIA) } }),
    };
    json!({ "status": "current", "content": (0..1 + chance.below(2)).map(|_| attachment(chance)).collect::<Vec<_>>() })
}

fn resource(chance: &mut Chance, type_name: &str, n: usize) -> Value {
    let mut resource = match type_name {
        "Encounter" => encounter(chance),
        "ServiceRequest" => service_request(chance),
        "Patient" => patient(chance),
        "DocumentReference" => document(chance),
        _ => condition(chance),
    };
    resource["resourceType"] = json!(type_name);
    resource["id"] = json!(format!("x{n}"));
    resource
}

/// From when until when, in seconds; an end that is open lies beyond everything.
fn interval(moment: &Value, period: &Value, timing: &Value) -> Option<(i64, i64)> {
    if let Some(moment) = moment.as_str() {
        return Some(span(moment));
    }
    let period = if period.is_object() { period } else { &timing["repeat"]["boundsPeriod"] };
    if period.is_object() {
        let low = period["start"].as_str().map_or(i64::MIN, |start| span(start).0);
        return Some((low, period["end"].as_str().map_or(i64::MAX, |end| span(end).1)));
    }
    // "Only the outer limits matter."
    let events: Vec<(i64, i64)> = list(&timing["event"]).iter().map(|event| span(event.as_str().unwrap())).collect();
    Some((events.iter().map(|event| event.0).min()?, events.iter().map(|event| event.1).max()?))
}

/// The date parameters.
fn when(resource: &Value, code: &str) -> Option<(i64, i64)> {
    let nothing = &Value::Null;
    match code {
        "date" => interval(nothing, &resource["period"], nothing),
        "occurrence" => interval(&resource["occurrenceDateTime"], &resource["occurrencePeriod"], &resource["occurrenceTiming"]),
        "authored" => interval(&resource["authoredOn"], nothing, nothing),
        "death-date" => interval(&resource["deceasedDateTime"], nothing, nothing),
        "onset-date" => interval(&resource["onsetDateTime"], &resource["onsetPeriod"], nothing),
        "recorded-date" => interval(&resource["recordedDate"], nothing, nothing),
        other => panic!("{other}"),
    }
}

/// "Approximately the same": the searched range, wider by a tenth of its distance from now, meets the other. `None` where the moment
/// of asking decides.
fn about((low, high): (i64, i64), wanted: &str) -> Option<bool> {
    let now = span(&jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).0;
    let (from, to) = span(wanted);
    let meets = |slack: i64| low < to + slack && high > from - slack;
    let slack = (now - from).abs() / 10;
    (meets(slack - 120) == meets(slack + 120)).then(|| meets(slack))
}

type Holds = Box<dyn Fn(&Value) -> Option<bool>>;

/// Parameter, value, and whether a resource is found; `None`: it cannot be told.
fn case(chance: &mut Chance, type_name: &str) -> (String, String, Holds) {
    let date_codes: &[&str] = match type_name {
        "Encounter" => &["date"],
        "ServiceRequest" => &["occurrence", "authored"],
        "Patient" => &["death-date"],
        _ => &["onset-date", "recorded-date"],
    };
    let code = *chance.pick(date_codes);
    match (type_name, chance.below(6)) {
        (_, 0) => {
            let missing = chance.one_in(2);
            missing_case(chance, type_name, missing)
        }
        ("Patient", 1 | 2) => spelt_case(chance),
        ("Patient", 3) => {
            let (system, value) = (*chance.pick(&["phone", "email"]), *chance.pick(&NUMBERS));
            let own = move |resource: &Value| -> Vec<String> {
                let points = list(&resource["telecom"]).iter().filter(|point| point["system"] == system);
                points.map(|point| point["value"].as_str().unwrap().to_lowercase()).collect()
            };
            let part: String = value.chars().take(3).collect();
            compared_case(chance, system, value, &part, own, str::to_lowercase)
        }
        ("Patient", 4) => {
            let dead = chance.one_in(2);
            let is_dead = |resource: &Value| resource["deceasedBoolean"] == true || resource["deceasedDateTime"].is_string();
            ("deceased".into(), dead.to_string(), Box::new(move |resource| Some(is_dead(resource) == dead)))
        }
        ("Encounter", 1 | 2) => {
            let (prefix, value, unit) = (*chance.pick(&PREFIXES), *chance.pick(&LENGTHS), *chance.pick(&["min", "h"]));
            let minutes = |unit: &Value| if unit == "h" { 60 } else { 1 };
            let holds = move |resource: &Value| {
                let own = resource.get("length");
                Some(own.is_some_and(|own| in_unit(prefix, &own["value"], minutes(&own["code"]), value, minutes(&json!(unit)))))
            };
            ("length".into(), format!("{prefix}{value}|http://unitsofmeasure.org|{unit}"), Box::new(holds))
        }
        ("Encounter", 3) => {
            let ((system, tag), (code, element)) = (*chance.pick(&TAGS), *chance.pick(&[("_tag", "tag"), ("_security", "security")]));
            let not = chance.one_in(3);
            let holds = move |resource: &Value| {
                Some(list(&resource["meta"][element]).iter().any(|one| one["system"] == system && one["code"] == tag) != not)
            };
            (format!("{code}{}", if not { ":not" } else { "" }), format!("{system}|{tag}"), Box::new(holds))
        }
        ("Encounter", 4) => {
            let (source, below) = (*chance.pick(&SOURCES), chance.one_in(2));
            let holds = move |resource: &Value| {
                let own = resource["meta"]["source"].as_str();
                Some(own.is_some_and(|own| own == source || below && own.starts_with(&format!("{source}/"))))
            };
            (format!("_source{}", if below { ":below" } else { "" }), source.into(), Box::new(holds))
        }
        ("DocumentReference", n) if n > 3 => {
            // Of which parts it is: the type, the subtype and what is behind it.
            let parts = |text: &str| -> Vec<String> {
                let text = text.to_lowercase().replace(' ', "");
                text.split(['/', ';']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
            };
            let wanted = *chance.pick(&[&MEDIA[..], &["text", "IMAGE/", "tex", "image"]].concat());
            let (key, value) = *chance.pick(&[("contenttype:below", "sb"), ("contenttype:above", "ss")]);
            let below = value == "sb";
            let holds = move |resource: &Value| {
                let wanted = parts(wanted);
                Some(
                    media(resource)
                        .iter()
                        .map(|own| parts(own))
                        .any(|own| if below { own.starts_with(&wanted) } else { wanted.starts_with(&own) }),
                )
            };
            match chance.one_in(3) {
                true => ("_filter".into(), format!("contenttype {value} \"{wanted}\""), Box::new(holds)),
                false => (key.into(), wanted.into(), Box::new(holds)),
            }
        }
        ("DocumentReference", _) => {
            let wanted = *chance.pick(&MEDIA);
            let same = |text: &str| text.to_lowercase().replace(' ', "");
            let own = move |resource: &Value| media(resource).iter().map(|own| same(own)).collect();
            compared_case(chance, "contenttype", wanted, &wanted[..5], own, same)
        }
        ("Condition", 2..=4) => code_case(chance),
        ("Condition", 1) => {
            let (prefix, years) = (*chance.pick(&PREFIXES), 29 + chance.below(6));
            let wanted = years.to_string();
            let value = format!("{prefix}{years}|http://unitsofmeasure.org|a");
            let holds =
                move |resource: &Value| Some(resource.get("onsetAge").is_some_and(|own| in_unit(prefix, &own["value"], 1, &wanted, 1)));
            ("onset-age".into(), value, Box::new(holds))
        }
        _ => {
            let (prefix, wanted) = (*chance.pick(&PREFIXES), *chance.pick(&DATES));
            let holds = move |resource: &Value| match (when(resource, code), prefix) {
                (None, _) => Some(false),
                (Some(own), "ap") => about(own, wanted),
                (Some(own), prefix) => Some(dates(prefix, own, wanted)),
            };
            (code.into(), format!("{prefix}{wanted}"), Box::new(holds))
        }
    }
}

/// The media types of a document.
fn media(resource: &Value) -> Vec<&str> {
    list(&resource["content"]).iter().filter_map(|one| one["attachment"]["contentType"].as_str()).collect()
}

/// A token that is compared in one form of all its spellings: plain, negated and by `_filter`.
fn compared_case(
    chance: &mut Chance,
    code: &str,
    wanted: &str,
    part: &str,
    own: impl Fn(&Value) -> Vec<String> + 'static,
    form: fn(&str) -> String,
) -> (String, String, Holds) {
    let operator = *chance.pick(&["", ":not", "eq", "ne", "sw"]);
    let (value, start) = (form(wanted), form(part));
    let holds = move |resource: &Value| {
        let own = own(resource);
        Some(match operator {
            ":not" => !own.contains(&value),
            "ne" => own.iter().any(|own| *own != value),
            "sw" => own.iter().any(|own| own.starts_with(&start)),
            _ => own.contains(&value),
        })
    };
    let (key, text) = match operator {
        "" | ":not" => (format!("{code}{operator}"), wanted.replace(',', "\\,")),
        "sw" => ("_filter".into(), format!("{code} sw \"{part}\"")),
        operator => ("_filter".into(), format!("{code} {operator} \"{wanted}\"")),
    };
    (key, text, Box::new(holds))
}

/// A code of a system that does not tell case apart, or of another.
fn code_case(chance: &mut Chance) -> (String, String, Holds) {
    let (system, code) = (*chance.pick(&["urn:nocase", "urn:case", "any"]), *chance.pick(&CODES));
    let operator = *chance.pick(&["", ":not", "eq", "ne", "sw", ":in", ":not-in", "in", "ni", ":below"]);
    let (set, member) = *chance.pick(&SETS);
    let part = &code[..1 + chance.below(2)];
    let (system, code) = if operator == ":below" { ("urn:nocase", code) } else { (system, code) };
    let text = match (operator, system) {
        ("" | ":not" | ":below", "any") => code.to_owned(),
        ("" | ":not" | ":below", system) => format!("{system}|{code}"),
        (":in" | ":not-in", _) => set.to_owned(),
        ("in" | "ni", _) => format!("code {operator} \"{set}\""),
        ("sw", _) => format!("code sw \"{part}\""),
        (_, "any") => format!("code {operator} \"{code}\""),
        (_, system) => format!("code {operator} \"{system}|{code}\""),
    };
    let key = if operator.is_empty() || operator.starts_with(':') { format!("code{operator}") } else { "_filter".to_owned() };
    let holds = move |resource: &Value| {
        let codings: Vec<(&str, &str)> = list(&resource["code"]["coding"])
            .iter()
            .map(|own| (own["system"].as_str().unwrap_or(""), own["code"].as_str().unwrap()))
            .collect();
        let same = |own: &(&str, &str)| match own.0 {
            "urn:nocase" => system != "urn:case" && own.1.eq_ignore_ascii_case(code),
            of => (of == system || system == "any") && own.1 == code,
        };
        let is_member = |own: &(&str, &str)| own.0 == "urn:nocase" && own.1.eq_ignore_ascii_case(member);
        Some(match operator {
            ":not" => !codings.iter().any(same),
            "ne" => codings.iter().any(|own| !same(own)),
            "sw" => codings.iter().any(|own| match own.0 {
                "urn:nocase" => own.1.to_lowercase().starts_with(&part.to_lowercase()),
                _ => own.1.starts_with(part),
            }),
            ":in" | "in" => codings.iter().any(is_member),
            ":not-in" | "ni" => !codings.iter().any(is_member),
            _ => codings.iter().any(same),
        })
    };
    (key, text, Box::new(holds))
}

/// The code system that does not tell case apart, and what draws on it.
fn definitions() -> Vec<Value> {
    let clause = |codes: &[&str]| {
        let listed: Vec<Value> = codes.iter().map(|code| json!({ "code": code })).collect();
        if listed.is_empty() { json!([{ "system": "urn:nocase" }]) } else { json!([{ "system": "urn:nocase", "concept": listed }]) }
    };
    vec![
        json!({ "resourceType": "CodeSystem", "id": "nocase", "url": "urn:nocase", "status": "active", "content": "complete",
            "caseSensitive": false, "concept": [{ "code": "AbC" }, { "code": "X1" }] }),
        json!({ "resourceType": "ValueSet", "id": "not-abc", "url": SETS[0].0, "status": "active",
            "compose": { "include": clause(&[]), "exclude": clause(&["ABC"]) } }),
        json!({ "resourceType": "ValueSet", "id": "abc", "url": SETS[1].0, "status": "active", "compose": { "include": clause(&["abc"]) } }),
    ]
}

fn missing_case(chance: &mut Chance, type_name: &str, missing: bool) -> (String, String, Holds) {
    let codes: &[&str] = match type_name {
        "Encounter" => &["date", "length", "_tag", "_source", "status"],
        "ServiceRequest" => &["occurrence", "authored", "subject"],
        "Patient" => &["death-date", "name", "address", "phone"],
        "DocumentReference" => &["contenttype"],
        _ => &["onset-date", "recorded-date", "onset-age", "onset-info"],
    };
    let code = *chance.pick(codes);
    let there = move |resource: &Value| match code {
        "length" => resource.get("length").is_some(),
        "contenttype" => !media(resource).is_empty(),
        "_tag" => resource["meta"].get("tag").is_some(),
        "_source" => resource["meta"].get("source").is_some(),
        "status" | "subject" | "name" | "address" => resource.get(code).is_some(),
        "phone" => list(&resource["telecom"]).iter().any(|point| point["system"] == "phone"),
        "onset-age" => resource.get("onsetAge").is_some(),
        "onset-info" => resource.get("onsetString").is_some(),
        code => when(resource, code).is_some(),
    };
    (format!("{code}:missing"), missing.to_string(), Box::new(move |resource| Some(there(resource) != missing)))
}

/// Names and addresses are searched in all their parts.
fn spelt_case(chance: &mut Chance) -> (String, String, Holds) {
    let (code, words) = *chance.pick(&[("name", &NAMES), ("address", &LINES)]);
    let parts = move |resource: &Value| -> Vec<String> {
        let elements: &[&str] = match code {
            "name" => &["family", "given", "prefix", "suffix", "text"],
            _ => &["line", "city", "district", "state", "postalCode", "country", "text"],
        };
        let values = list(&resource[code]).iter().flat_map(|one| elements.iter().flat_map(|element| texts(&one[*element])));
        values.map(str::to_owned).collect()
    };
    let whole = *chance.pick(words);
    let part = whole.chars().skip(chance.below(whole.len().min(3))).take(1 + chance.below(6)).collect::<String>().trim().to_lowercase();
    let part = if part.is_empty() { whole.to_lowercase() } else { part };
    let value = part.replace(',', "\\,");
    match chance.below(3) {
        0 => (
            format!("{code}:exact"),
            whole.replace(',', "\\,"),
            Box::new(move |resource| Some(parts(resource).iter().any(|own| own == whole))),
        ),
        1 => (format!("{code}:contains"), value, {
            Box::new(move |resource| Some(parts(resource).iter().any(|own| folded(own).contains(&folded(&part)))))
        }),
        _ => {
            (code.into(), value, Box::new(move |resource| Some(parts(resource).iter().any(|own| folded(own).starts_with(&folded(&part))))))
        }
    }
}

/// What is asked, and the ids that must come; `None` when that cannot be told.
fn draw<'w>(chance: &mut Chance, world: &'w [(&'static str, Vec<Value>)]) -> (String, Option<BTreeSet<&'w str>>) {
    let (type_name, resources) = chance.pick(world);
    let tests: Vec<_> = (0..1 + chance.below(4) / 3).map(|_| case(chance, type_name)).collect();
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value, _) in &tests {
        query.append_pair(key, value);
    }
    let mut expected = Some(BTreeSet::new());
    for resource in resources {
        let holds: Option<Vec<bool>> = tests.iter().map(|(_, _, holds)| holds(resource)).collect();
        match (&mut expected, holds) {
            (Some(expected), Some(holds)) if holds.iter().all(|holds| *holds) => drop(expected.insert(resource["id"].as_str().unwrap())),
            (_, None) => expected = None,
            _ => {}
        }
    }
    (format!("/fhir/{type_name}?{}&_count=1000&_elements=id", query.finish()), expected)
}

both_databases!(
    async fn values_of_every_shape_are_found_as_a_slow_scan_finds_them(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance::new(3);
        let world: Vec<(&'static str, Vec<Value>)> =
            TYPES.iter().map(|name| (*name, (0..RESOURCES).map(|n| resource(&mut chance, name, n)).collect())).collect();
        let put = |resource: &Value| {
            let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
        };
        let entries: Vec<Value> = world.iter().flat_map(|(_, resources)| resources).chain(&definitions()).map(put).collect();
        let (status, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
        assert_eq!(status, 200, "{response:.600}");
        let (mut wrong, mut found_some, mut told) = (Vec::new(), 0, 0);
        for _ in 0..CASES / WAVE {
            let cases: Vec<_> = (0..WAVE).map(|_| draw(&mut chance, &world)).collect();
            let answers = futures_util::future::join_all(cases.iter().map(|(path, _)| server.get(path))).await;
            for ((path, expected), (status, bundle)) in cases.iter().zip(answers) {
                let ids = list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap_or("outcome"));
                let found: BTreeSet<&str> = ids.collect();
                let Some(expected) = expected else { continue };
                told += 1;
                found_some += usize::from(!expected.is_empty());
                if status != 200 || found != *expected {
                    let resources = &world.iter().find(|(name, _)| path.contains(&format!("/{name}?"))).unwrap().1;
                    let one = |id: Option<&&str>| resources.iter().find(|own| id.is_some_and(|id| own["id"] == **id)).map(Value::to_string);
                    wrong.push(format!(
                        "{path}: {status}\n  too many: {:?}\n  too few: {:?}",
                        one(found.difference(expected).next()),
                        one(expected.difference(&found).next())
                    ));
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {told} are wrong:\n{}",
            wrong.len(),
            wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(told > CASES * 9 / 10 && found_some > CASES / 2, "{told} {found_some}");
        server.stop().await;
    }
);
