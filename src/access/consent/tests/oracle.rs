//! The tree, the flat rules and a third reading, made here from the words of the specification, must agree on everything.
//!
//! The third reading is two-valued: it asks whether a rule holds when everything that cannot be told is assumed to be so, or not to be so. A permit is judged
//! by the assumption that hurts it, a deny by the one that helps it.

use super::super::vocabulary::{ACT_CODE, ACT_REASON, CONFIDENTIALITY, Coding, LANGO_ROLE, PARTICIPATION_TYPE};
use super::super::*;
use super::{BASE, ZONE};
use crate::fhir::time::{Interval, Micros, parse_interval};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Decisions drawn from random bytes; when they run out, the first alternative. So a failing case shrinks to a small one.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % count)
    }

    /// Once in `count` times.
    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    fn one<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        let count = 1 + self.below(2);
        (0..count).map(|_| self.one(from)).collect()
    }
}

const YEARS: &[&str] = &["2020", "2021", "2022", "2023", "2024-06", "2024-06-15", "2024-06-15T12:00:00Z"];
const SET: &str = "http://example.org/vs";
/// When Consents are stored, now and then two at once, and before what they say.
const STORED: &[&str] = &["2020-05-06T10:00:00Z", "2020-05-06T11:00:00Z", "2020-07-01T00:00:00Z"];
/// An identifier of whom nobody knows.
const UNKNOWN: &str = "urn:mfl|2";

fn code(system: &str, code: &str) -> Value {
    json!({"system": system, "code": code})
}

fn concept(system: &str, one: &str) -> Value {
    json!({"coding": [code(system, one)]})
}

fn period(choices: &mut Choices) -> Value {
    let (a, b) = (choices.one(YEARS), choices.one(YEARS));
    match choices.below(5) {
        0 | 1 => json!({"start": a, "end": b}),
        2 => json!({"start": a}),
        3 => json!({"end": b}),
        _ => json!({"start": "soon"}),
    }
}

fn actor(choices: &mut Choices) -> Value {
    let role = match choices.below(6) {
        0..=2 => concept(PARTICIPATION_TYPE, "IRCP"),
        3 => concept(LANGO_ROLE, "clinician"),
        4 => concept("urn:job", "nurse"),
        _ => concept(PARTICIPATION_TYPE, "CST"),
    };
    let reference = match choices.below(11) {
        0 => json!({"reference": "Organization/part"}),
        1 => json!({"reference": "Organization/whole"}),
        2 => json!({"reference": "Practitioner/x/_history/2"}),
        3 => json!({"identifier": {"system": "urn:lango:facility", "value": "B"}}),
        4 => json!({"reference": format!("{BASE}/Device/d")}),
        5 => json!({"display": "somebody"}),
        6 => json!({"identifier": {"system": "urn:mfl", "value": "1"}}),
        7 => json!({"identifier": {"system": "urn:mfl", "value": "2"}}),
        8 => json!({"identifier": {"system": "urn:npi", "value": "9"}}),
        9 => json!({"reference": "https://other.example.org/fhir/Organization/part"}),
        _ => return json!({"role": role}),
    };
    json!({"role": role, "reference": reference})
}

/// `focus`: kinds of criteria that a consent has more of, so that the same kind meets itself on the way down.
fn provision(choices: &mut Choices, depth: usize, focus: [usize; 2]) -> Value {
    let mut object = Map::new();
    let kind = if depth == 0 { choices.below(4) } else { choices.below(2) };
    if let Some(kind) = ["permit", "deny"].get(kind % 3) {
        object.insert("type".into(), json!(kind));
    }
    for _ in 0..choices.below(4) {
        let list = |items: Vec<Value>| Value::Array(items);
        let (key, value) = match if choices.once_in(2) { choices.one(&focus) } else { choices.below(10) } {
            0 => ("period", period(choices)),
            1 => ("actor", (0..=choices.below(2)).map(|_| actor(choices)).collect()),
            2 => {
                let all = ["access", "disclose", "correct", "dance"].map(|one| concept(vocabulary::CONSENT_ACTION, one));
                ("action", list(choices.some(&all)))
            }
            3 => {
                let all = ["TREAT", "ETREAT", "BTG", "HRESCH"].map(|one| code(ACT_REASON, one));
                ("purpose", list(choices.some(&[&all[..], &[json!({"code": "TREAT"})]].concat())))
            }
            4 => {
                let all = [
                    code("http://hl7.org/fhir/resource-types", "Observation"),
                    code("http://hl7.org/fhir/resource-types", "DocumentReference"),
                    code("urn:ietf:rfc:3986", "http://example.org/profile"),
                    code("http://loinc.org", "11502-2"),
                    code("http://hl7.org/fhir/resource-types", "Nothing"),
                ];
                ("class", list(choices.some(&all)))
            }
            5 => {
                let all = [
                    concept("http://x", "a"),
                    concept("http://x", "b"),
                    concept("urn:ietf:rfc:3986", SET),
                    concept("urn:ietf:rfc:3986", "http://example.org/other"),
                    json!({"text": "a"}),
                ];
                ("code", list(choices.some(&all)))
            }
            6 => {
                let levels = ["L", "N", "R", "V", "?"].map(|one| code(CONFIDENTIALITY, one));
                let topics = ["HIV", "ETH", "ETHUD", "BH"].map(|one| code(ACT_CODE, one));
                ("securityLabel", list(choices.some(&[levels.to_vec(), topics.to_vec()].concat())))
            }
            7 => {
                let meaning = choices.one(&["instance", "related", "dependents", "authoredby", "about"]);
                let reference = choices.one(&["Observation/1", "Observation/2", "Encounter/e", "Practitioner/y", "#contained"]);
                ("data", json!([{"meaning": meaning, "reference": {"reference": reference}}]))
            }
            8 => ("dataPeriod", period(choices)),
            _ if choices.once_in(4) => ("modifierExtension", json!([{"url": "http://example.org/not", "valueBoolean": true}])),
            _ => continue,
        };
        object.insert(key.into(), value);
    }
    if depth < 4 {
        let exceptions: Vec<Value> = (0..choices.below(3)).map(|_| provision(choices, depth + 1, focus)).collect();
        if !exceptions.is_empty() {
            object.insert("provision".into(), exceptions.into());
        }
    }
    Value::Object(object)
}

fn consent(choices: &mut Choices, number: usize) -> Value {
    let status = ["active", "active", "active", "active", "inactive", "entered-in-error", "rejected"];
    let mut consent = json!({
        "resourceType": "Consent", "id": number.to_string(), "meta": {"versionId": "1", "lastUpdated": choices.one(STORED)},
        "status": choices.one(&status),
        "scope": concept("http://terminology.hl7.org/CodeSystem/consentscope", if choices.once_in(20) { "research" } else { "patient-privacy" }),
        "patient": {"reference": "Patient/p"},
    });
    let mut put = |key: &str, value: Value| consent.as_object_mut().unwrap().insert(key.into(), value);
    if !choices.once_in(5) {
        put("dateTime", json!(choices.one(&["2019", "2020-05", "2020-05-06", "2020-05-06", "2020-06-01"])));
    }
    if choices.once_in(2) {
        let (one, other) = (json!({"reference": "Organization/o"}), json!({"reference": "Organization/q"}));
        put("organization", choices.one(&[json!([one]), json!([one]), json!([one, other]), json!([other, one])]));
        let (one, other) = (json!({"uri": "http://example.org/a"}), json!({"uri": "http://example.org/b"}));
        put("policy", choices.one(&[json!([one]), json!([one]), json!([other]), json!([one, other])]));
    }
    if choices.once_in(4) {
        put("policyRule", concept(ACT_CODE, choices.one(&["OPTIN", "OPTOUT", "EMRGONLY"])));
    }
    if choices.once_in(4) {
        put("performer", json!([{"reference": choices.one(&["RelatedPerson/r", "Patient/p"])}]));
    }
    if !choices.once_in(8) {
        let focus = [choices.below(10), choices.below(10)];
        put("provision", provision(choices, 0, focus));
    }
    if choices.once_in(20) {
        put("modifierExtension", json!([{"url": "http://example.org/not"}]));
    }
    consent
}

fn resource(choices: &mut Choices) -> Value {
    let mut labels: Vec<Value> = Vec::new();
    for _ in 0..choices.below(3) {
        labels.push(match choices.below(2) {
            0 => code(CONFIDENTIALITY, choices.one(&["U", "L", "M", "N", "R", "V"])),
            _ => code(ACT_CODE, choices.one(&["HIV", "ETH", "ETHUD", "NORDSCLCD"])),
        });
    }
    let main = choices.one(&[concept("http://x", "a"), concept("http://x", "b"), concept("http://y", "a"), json!({"text": "a"})]);
    if choices.once_in(4) {
        return json!({"resourceType": "DocumentReference", "id": "2", "meta": {"security": labels},
            "type": concept("http://loinc.org", "11502-2"), "context": {"period": {"start": choices.one(YEARS)}},
            "author": [{"reference": "Practitioner/y"}]});
    }
    let mut observation =
        json!({"resourceType": "Observation", "id": choices.one(&["1", "2", "3"]), "meta": {"security": labels}, "code": main});
    let mut put = |key: &str, value: Value| observation.as_object_mut().unwrap().insert(key.into(), value);
    match choices.below(4) {
        0 => put("effectiveDateTime", json!(choices.one(YEARS))),
        1 => put("effectivePeriod", json!({"start": "2021", "end": choices.one(YEARS)})),
        2 => put("effectivePeriod", json!({"start": choices.one(YEARS)})),
        _ => None,
    };
    if choices.once_in(2) {
        put("encounter", json!({"reference": "Encounter/e"}));
    }
    if choices.once_in(2) {
        put("performer", json!([{"reference": "Practitioner/y"}]));
    }
    if choices.once_in(3) {
        observation["meta"]["profile"] = json!(["http://example.org/profile|1"]);
    }
    observation
}

fn requester(choices: &mut Choices) -> Requester {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let edge = choices.one(YEARS);
    let edge = parse_interval(edge, &ZONE).unwrap();
    let now = choices.one(&[edge.low, edge.low - 1, edge.high - 1, edge.high]);
    let purposes: Vec<Coding> =
        (0..choices.below(3)).map(|_| Coding::purpose(choices.one(&["TREAT", "ETREAT", "BTG", "HRESCH"]))).collect();
    Requester {
        organisations: choices
            .one(&[names(&["Organization/part", "urn:lango:facility|B", "Organization/whole"]), names(&["Organization/whole"])]),
        people: choices.one(&[names(&["Practitioner/x"]), names(&[])]),
        devices: choices.one(&[names(&[]), names(&["Device/d"])]),
        roles: if choices.once_in(2) { [Coding::role("clinician")].into() } else { BTreeSet::new() },
        unclaimed: if choices.once_in(2) { [Coding::role("clinician")].into() } else { BTreeSet::new() },
        aliases: choices.one(&[names(&[]), names(&["somebody"]), names(&["urn:npi|9"])]),
        purposes: purposes.into_iter().collect(),
        action: choices.one(&[Action::Access, Action::Access, Action::Correct]),
        break_glass_until: choices.one(&[None, Some(now), Some(now + 1)]),
        ..Requester::unknown(now)
    }
}

/// The third reading.
mod naive {
    use super::*;

    fn list(value: &Value) -> Vec<&Value> {
        value.as_array().map(|list| list.iter().collect()).unwrap_or_default()
    }

    fn is(coding: &Value, system: &str, one: &str) -> bool {
        coding["system"] == system && coding["code"] == one
    }

    fn span(period: &Value) -> Option<(Micros, Micros)> {
        let start = match period.get("start") {
            Some(start) => parse_interval(start.as_str()?, &ZONE)?.low,
            None => Interval::MIN,
        };
        let end = match period.get("end") {
            Some(end) => parse_interval(end.as_str()?, &ZONE)?.high,
            None => Interval::MAX,
        };
        (start < end).then_some((start, end))
    }

    fn below(purpose: &str) -> &'static [&'static str] {
        match purpose {
            "TREAT" => &["TREAT", "ETREAT", "BTG"],
            "ETREAT" => &["ETREAT", "BTG"],
            "BTG" => &["BTG"],
            _ => &["HRESCH"],
        }
    }

    fn level(resource: &Value) -> usize {
        let labels = list(&resource["meta"]["security"]);
        let said = labels.iter().filter_map(|label| "ULMNRV".find(label["code"].as_str()?).filter(|_| label["system"] == CONFIDENTIALITY));
        let sensitive = labels.iter().any(|label| label["system"] == ACT_CODE && label["code"] != "NORDSCLCD");
        said.chain(sensitive.then_some(4)).max().unwrap_or(3)
    }

    struct Question<'a> {
        resource: &'a Value,
        requester: &'a Requester,
        of_age: Micros,
        /// What cannot be told is taken to be so.
        assume: bool,
    }

    impl Question<'_> {
        fn any(&self, entries: &Value, test: impl Fn(&Value) -> Option<bool>) -> bool {
            list(entries).into_iter().any(|entry| test(entry).unwrap_or(self.assume))
        }

        fn actor(&self, actor: &Value) -> Option<bool> {
            let who = &actor["reference"];
            let called = |name: &str| {
                let names = [&self.requester.organisations, &self.requester.people, &self.requester.devices];
                names.into_iter().any(|names| names.contains(name))
            };
            let perhaps = |name: &str| self.requester.aliases.contains(name).then_some(()).map_or(Some(false), |()| None);
            let named = match (who["reference"].as_str(), who["identifier"].is_object()) {
                (None, true) if who["identifier"]["value"] == "1" => {
                    if called("Organization/part") {
                        None
                    } else {
                        Some(false)
                    }
                }
                // Nobody in the directory is called so: whom it means cannot be told, whatever else is said of them.
                (None, true) if who["identifier"]["value"] == "2" => return None,
                (None, true) if who["identifier"]["value"] == "9" => perhaps("urn:npi|9"),
                (Some(text), _) if text.starts_with("Practitioner") && !called("Practitioner/x") => perhaps("somebody"),
                (Some(text), _) if text.starts_with("https://other") => return None,
                (Some(text), _) if text.starts_with("http://lango/") => Some(called(text.trim_start_matches("http://lango/fhir/"))),
                (Some(text), _) => Some(called(text.split("/_history").next()?)),
                (None, true) => Some(called("urn:lango:facility|B")),
                (None, false) if who.is_object() => return None,
                (None, false) => None,
            };
            match actor["role"]["coding"][0]["code"].as_str()? {
                "IRCP" => named,
                // Nobody here knows who is one.
                "nurse" => match (who.is_null(), named) {
                    (false, Some(false)) => Some(false),
                    _ => None,
                },
                "clinician" => {
                    let clinician = Coding::role("clinician");
                    let holds = match self.requester.roles.contains(&clinician) {
                        true => Some(true),
                        // Perhaps they act as one now.
                        false => (!self.requester.unclaimed.contains(&clinician)).then_some(false),
                    };
                    let named = if who.is_null() { Some(true) } else { named };
                    match (named, holds) {
                        (Some(false), _) | (_, Some(false)) => Some(false),
                        (Some(true), Some(true)) => Some(true),
                        _ => None,
                    }
                }
                _ => None,
            }
        }

        fn purposes(&self, entries: &Value) -> bool {
            let asked = &self.requester.purposes;
            let vague = list(entries).iter().any(|one| one.get("system").is_none());
            let meant = |purpose: &Coding| {
                list(entries)
                    .iter()
                    .any(|one| one.get("system").is_some() && below(one["code"].as_str().unwrap()).contains(&purpose.code.as_str()))
            };
            let emergency = |code: &str| ["ETREAT", "BTG"].contains(&code);
            let urgent = asked.iter().any(|one| emergency(&one.code))
                && list(entries).iter().any(|one| one.get("system").is_some() && emergency(one["code"].as_str().unwrap()));
            asked.iter().any(meant) || self.assume && (vague || urgent || asked.is_empty())
        }

        fn action(&self, entry: &Value) -> Option<bool> {
            let reads = self.requester.action == Action::Access;
            match entry["coding"][0]["code"].as_str()? {
                "access" => Some(reads),
                "correct" => Some(!reads),
                "disclose" if reads => None,
                "disclose" => Some(false),
                _ => None,
            }
        }

        fn class(&self, class: &Value) -> Option<bool> {
            let resource = self.resource;
            match class["code"].as_str()? {
                "Nothing" => None,
                "11502-2" => Some(resource["resourceType"] == "DocumentReference"),
                "http://example.org/profile" => Some(resource["meta"].get("profile").is_some()),
                name => Some(resource["resourceType"] == name),
            }
        }

        fn code(&self, entry: &Value) -> Option<bool> {
            let document = self.resource["resourceType"] == "DocumentReference";
            let coding = if document { &Value::Null } else { &self.resource["code"]["coding"][0] };
            let wanted = entry.get("coding")?[0]["code"].as_str()?;
            let found = match wanted {
                SET => is(coding, "http://x", "a") || is(coding, "http://y", "a"),
                "http://example.org/other" => return None,
                _ => is(coding, "http://x", wanted),
            };
            // Words only: it might be any code.
            if !document && coding.is_null() { None } else { Some(found) }
        }

        fn label(&self, label: &Value, permit: bool) -> Option<bool> {
            let one = label["code"].as_str()?;
            if label["system"] == CONFIDENTIALITY {
                let wanted = "ULMNRV".find(one)?;
                return Some(if permit { level(self.resource) <= wanted } else { level(self.resource) >= wanted });
            }
            let meant: &[&str] = match one {
                "ETH" => &["ETH", "ETHUD"],
                "BH" => &["BH", "ETHUD"],
                other => &[other],
            };
            Some(list(&self.resource["meta"]["security"]).iter().any(|label| meant.iter().any(|one| is(label, ACT_CODE, one))))
        }

        fn data(&self, data: &Value) -> Option<bool> {
            let name = data["reference"]["reference"].as_str()?;
            let me = format!("{}/{}", self.resource["resourceType"].as_str()?, self.resource["id"].as_str()?);
            let author = if me.starts_with("Doc") { "author" } else { "performer" };
            let points = |key: &str| self.resource.get(key).is_some_and(|value| value.to_string().contains(&format!("\"{name}\"")));
            if name.starts_with('#') {
                return None;
            }
            match data["meaning"].as_str()? {
                "instance" => Some(me == name),
                "related" if name == "Encounter/e" && me == "Observation/2" && !points("encounter") => None,
                "related" => Some(me == name || points("encounter") || points(author) || name == "Encounter/e" && me == "Observation/3"),
                "dependents" => Some(me == name || points("encounter") || points(author)),
                "authoredby" => Some(points(author)),
                _ => None,
            }
        }

        /// Whether the resource's time is inside all these periods at once.
        fn inside(&self, periods: &[(Micros, Micros)]) -> bool {
            let Some(from) = periods.iter().map(|period| period.0).max() else { return true };
            let until = periods.iter().map(|period| period.1).min().unwrap();
            let resource = self.resource;
            let when = ["effectivePeriod", "effectiveDateTime"]
                .into_iter()
                .find_map(|key| resource.get(key))
                .or(resource["context"].get("period"));
            let when = when.and_then(|when| match when.as_str() {
                Some(text) => parse_interval(text, &ZONE).map(|one| (one.low, one.high)),
                None => span(when),
            });
            from < until
                && match when {
                    None => self.assume,
                    Some((low, high)) if self.assume => low < until && from < high,
                    Some((low, high)) => from <= low && high <= until,
                }
        }

        /// Whether the rule at the end of this way from the root matches. `said`: what each is.
        fn matches(&self, way: &[(&Value, &str)]) -> bool {
            let mut inside = Vec::new();
            for (node, kind) in way {
                for (key, value) in node.as_object().unwrap() {
                    let holds = match key.as_str() {
                        "type" | "provision" => true,
                        "period" => {
                            span(value).map_or(self.assume, |(from, until)| from <= self.requester.now && self.requester.now < until)
                        }
                        "dataPeriod" => {
                            inside.extend(span(value));
                            span(value).is_some() || self.assume
                        }
                        "actor" => self.any(value, |one| self.actor(one)),
                        "action" => self.any(value, |one| self.action(one)),
                        "purpose" => self.purposes(value),
                        "class" => self.any(value, |one| self.class(one)),
                        "code" => self.any(value, |one| self.code(one)),
                        "securityLabel" => self.any(value, |one| self.label(one, *kind == "permit")),
                        "data" => self.any(value, |one| self.data(one)),
                        _ => self.assume,
                    };
                    if !holds {
                        return false;
                    }
                }
            }
            let permit = way.last().unwrap().1 == "permit";
            self.inside(&inside) && (!self.requester.purposes.is_empty() || !permit) && (!permit || self.requester.now < self.of_age)
        }
    }

    /// 0 deny, 1 permit, 2 deny by default, 3 permit by default; and whether a deny answers an emergency.
    pub fn effective(consents: &[Value], requester: &Requester, resource: &Value, of_age: Micros) -> (Option<u8>, bool) {
        let counts = |one: &Value| one["status"] == "active" && one["scope"]["coding"][0]["code"] == "patient-privacy";
        let stored = |one: &Value| parse_interval(one["meta"]["lastUpdated"].as_str().unwrap(), &ZONE).unwrap().low;
        // Nothing is given after it was stored.
        let age = |one: &Value| match one["dateTime"].as_str().map(|date| parse_interval(date, &ZONE).unwrap()) {
            Some(said) => Interval { low: said.low.min(stored(one)), high: said.high.min(stored(one) + 1) },
            None => Interval { low: Interval::MIN, high: stored(one) + 1 },
        };
        let is_newer = |one: &Value, than: &Value| match (age(one), age(than)) {
            (one, than) if one.low >= than.high => true,
            (one, than) if one.high <= than.low => false,
            // Of two that were stored at once either may be.
            _ => stored(one) >= stored(than),
        };
        let common = |one: &Value, other: &Value, key: &str| list(&one[key]).iter().filter(|item| list(&other[key]).contains(item)).count();
        let touches = |one: &Value, other: &Value| ["organization", "policy"].iter().all(|key| common(one, other, key) > 0);
        let covers =
            |one: &Value, other: &Value| ["organization", "policy"].iter().all(|key| common(one, other, key) == list(&other[key]).len());
        let over = |one: &Value| -> Vec<&Value> {
            let stands_over = |other: &&Value| counts(other) && other["id"] != one["id"] && touches(other, one) && is_newer(other, one);
            consents.iter().filter(stands_over).collect()
        };
        let mut found = Vec::new();
        let mut refused = false;
        for consent in consents.iter().filter(|one| counts(one) && one["status"] == "active") {
            let over_it = over(consent);
            if over_it.iter().any(|newer| covers(newer, consent) && !over(newer).iter().any(|newest| covers(newest, newer))) {
                continue;
            }
            let of_age = if over_it.is_empty() { of_age } else { Interval::MIN };
            let narrowed = !over_it.is_empty();
            let guardian = consent["performer"][0]["reference"] == "RelatedPerson/r";
            let given = if consent["dateTime"].is_null() { stored(consent) } else { age(consent).low };
            let of_age = if narrowed || guardian && given < of_age { of_age } else { Interval::MAX };
            let default = match consent["policyRule"]["coding"][0]["code"].as_str() {
                Some("OPTIN") => Some("permit"),
                Some("OPTOUT") => Some("deny"),
                _ => None,
            };
            let mut root = consent.get("provision").cloned().unwrap_or(json!({}));
            let said = root.get("type").and_then(Value::as_str).map(str::to_owned);
            let mut behind = json!({});
            if let Some(period) = root.get("period") {
                behind["period"] = period.clone();
            }
            if consent.get("modifierExtension").is_some() {
                root["not understood"] = json!(true);
                behind["not understood"] = json!(true);
            }
            // What cannot be read in the rule cannot be read in the default behind it.
            if root.get("modifierExtension").is_some() || root.get("dataPeriod").is_some_and(|period| span(period).is_none()) {
                behind["not understood"] = json!(true);
            }
            let mut roots: Vec<(&Value, &str, bool)> = Vec::new();
            match (said.as_deref(), default) {
                (Some(said), default) => {
                    roots.push((&root, said, false));
                    roots.extend(default.map(|default| (&behind, default, true)));
                }
                (None, Some(default)) => roots.push((&root, default, true)),
                (None, None) if root.get("provision").is_some() => roots.push((&root, "deny", false)),
                (None, None) => {}
            }
            let mut ways: Vec<(Vec<(&Value, &str)>, bool)> =
                roots.into_iter().map(|(node, kind, default)| (vec![(node, kind)], default)).collect();
            while let Some((way, default)) = ways.pop() {
                let (node, kind) = *way.last().unwrap();
                let question = |kind: &str| Question { resource, requester, of_age, assume: kind == "deny" };
                let mut excepted = false;
                for child in list(&node["provision"]) {
                    let child_kind = child["type"].as_str().unwrap();
                    let longer: Vec<(&Value, &str)> = way.iter().copied().chain([(child, child_kind)]).collect();
                    excepted |= question(child_kind).matches(&longer);
                    ways.push((longer, false));
                }
                if question(kind).matches(&way) && !excepted {
                    found.push(u8::from(kind == "permit") + if default { 2 } else { 0 });
                    let emergency =
                        |one: &&Value| one.get("system").is_some() && ["ETREAT", "BTG"].contains(&one["code"].as_str().unwrap());
                    refused |= kind == "deny" && way.iter().any(|(node, _)| list(&node["purpose"]).iter().any(emergency));
                }
            }
        }
        (found.into_iter().min(), refused)
    }

    pub fn released(consents: &[Value], requester: &Requester, resource: &Value, of_age: Micros, policy: ImplicitPolicy) -> bool {
        let (lowest, refused) = effective(consents, requester, resource, of_age);
        let purpose =
            |all: &[&str]| !requester.purposes.is_empty() && requester.purposes.iter().all(|one| all.contains(&one.code.as_str()));
        let exempt = list(&resource["meta"]["security"]).iter().any(|label| label["code"] == "ETHUD");
        let granted = requester.break_glass_until.is_some_and(|until| requester.now < until) && requester.action == Action::Access;
        if granted && purpose(&["ETREAT", "BTG"]) && !refused && !exempt {
            return true;
        }
        match lowest {
            Some(rank) => rank % 2 == 1,
            None if level(resource) > 3 => false,
            None => match policy {
                ImplicitPolicy::AllNormal => !requester.purposes.is_empty(),
                ImplicitPolicy::BasicNormal => purpose(&["TREAT", "ETREAT", "BTG"]) && !requester.roles.is_empty(),
                ImplicitPolicy::Deny | ImplicitPolicy::BreakGlassOnly => false,
            },
        }
    }
}

fn read(consent: &Value, of_age: Micros) -> Consent {
    let value_set = |url: &str| (url == SET).then(|| vec![Coding::new("http://x", "a"), Coding::new("http://y", "a")]);
    let references_of = |name: &str| match name {
        "Encounter/e" => {
            ["Observation/3", "Observation/2"].map(|to| Reached { name: to.to_owned(), follows: to == "Observation/3" }).into()
        }
        _ => Vec::new(),
    };
    let reading = Reading {
        zone: &ZONE,
        base: BASE,
        value_set: &value_set,
        references_of: &references_of,
        called: &|name| (name != UNKNOWN).then(|| if name == "urn:mfl|1" { vec!["Organization/part".to_owned()] } else { Vec::new() }),
        organisation: &|names| names.into_iter().collect(),
        former: &[],
        recorded: parse_interval(consent["meta"]["lastUpdated"].as_str().unwrap(), &ZONE).unwrap().low,
        of_age: Some(of_age),
    };
    Consent::read(consent, &reading).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_readings_of_the_same_consents_agree(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut choices = Choices(bytes.iter());
        let of_age = parse_interval("2022-06", &ZONE).unwrap().low;
        let resources: Vec<Value> = (0..3).map(|_| resource(&mut choices)).collect();
        let requesters: Vec<Requester> = (0..3).map(|_| requester(&mut choices)).collect();
        let policy = choices.one(&[ImplicitPolicy::Deny, ImplicitPolicy::AllNormal, ImplicitPolicy::BasicNormal, ImplicitPolicy::BreakGlassOnly]);
        let deployment = Deployment { implicit: policy, break_glass_exempt: [Coding::sensitivity("ETHUD")].into() };
        let written: Vec<Value> = (0..=choices.below(3)).map(|number| consent(&mut choices, number)).collect();
        let mut consents: Vec<Consent> = written.iter().map(|one| read(one, of_age)).collect();
        let compiled: Vec<Compiled> = in_force(&consents).iter().map(|consent| compile(consent)).collect();
        for audience in compiled.iter().flat_map(|one| &one.rules).map(|rule| &rule.audience) {
            prop_assert_eq!(Audience::from_key(&audience.key()), Some(audience.clone()));
        }
        for resource in &resources {
            let found = facts(resource, &ZONE, BASE);
            for requester in &requesters {
                let verdict = decide(&consents, requester, &found, &deployment);
                prop_assert_eq!(&evaluate_rules(&compiled, requester, &found, &deployment), &verdict, "{:?}\n{}", requester, resource);
                let alone = |purpose: &Coding| Requester { purposes: [purpose.clone()].into(), ..requester.clone() };
                let askers = if requester.purposes.is_empty() { vec![requester.clone()] } else { requester.purposes.iter().map(alone).collect() };
                let naive = askers.iter().all(|asker| naive::released(&written, asker, resource, of_age, policy));
                prop_assert_eq!(naive, verdict.released, "{:?}\n{}\n{:?}", requester, resource, written);
                if verdict.released {
                    for labels in [found.labels.clone(), Default::default()] {
                        prop_assert!(might_release(&consents, requester, &found.type_name, &labels, &deployment), "{:?}\n{}\n{:?}", requester, resource, written);
                    }
                }
                consents.reverse();
                prop_assert_eq!(&decide(&consents, requester, &found, &deployment), &verdict, "the order of consents counts");
            }
        }
    }
}

/// Random worlds in which nothing is ever permitted would prove nothing.
#[test]
fn the_random_worlds_hold_every_kind_of_answer() {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        let bytes: Vec<u8> = (0..400).map(|_| byte()).collect();
        let mut choices = Choices(bytes.iter());
        let (resource, requester) = (resource(&mut choices), requester(&mut choices));
        let written: Vec<Value> = (0..=choices.below(3)).map(|number| consent(&mut choices, number)).collect();
        let consents: Vec<Consent> = written.iter().map(|one| read(one, Interval::MAX)).collect();
        let verdict = decide(&consents, &requester, &facts(&resource, &ZONE, BASE), &Deployment::default());
        let lowest = naive::effective(&written, &requester, &resource, Interval::MAX).0;
        *seen.entry((verdict.break_glass, lowest)).or_insert(0) += 1;
    }
    for lowest in [None, Some(0), Some(1), Some(2), Some(3)] {
        let count = seen.get(&(false, lowest)).copied().unwrap_or(0);
        assert!(count >= 20, "{lowest:?} came up {count} times: {seen:?}");
    }
    assert!(seen.iter().any(|((break_glass, _), count)| *break_glass && *count > 5), "{seen:?}");
}
