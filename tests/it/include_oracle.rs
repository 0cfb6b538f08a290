//! What comes along with the matches, and in which order the matches come, each held against a slow walk over all resources that is
//! written from <https://hl7.org/fhir/R4/search.html#include> and <https://hl7.org/fhir/R4/search.html#sort>.

use crate::search_oracle::Chance;
use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Of each type.
const RESOURCES: usize = 25;
const CASES: usize = 600;
const WAVE: usize = 8;

/// `Type/id`, and the resource.
type World = BTreeMap<String, Value>;

/// The reference parameters that the test knows: type, code, where it stands.
const REFERENCES: [(&str, &str, &str); 12] = [
    ("Observation", "subject", "subject"),
    ("Observation", "encounter", "encounter"),
    ("Observation", "performer", "performer"),
    ("Observation", "has-member", "hasMember"),
    ("Encounter", "subject", "subject"),
    ("Encounter", "service-provider", "serviceProvider"),
    ("Encounter", "part-of", "partOf"),
    ("Patient", "general-practitioner", "generalPractitioner"),
    ("Patient", "organization", "managingOrganization"),
    ("Organization", "partof", "partOf"),
    ("PractitionerRole", "organization", "organization"),
    ("QuestionnaireResponse", "subject", "subject"),
];
const TYPES: [&str; 6] = ["Observation", "Encounter", "Patient", "Organization", "PractitionerRole", "QuestionnaireResponse"];
const CANONICALS: [&str; 5] =
    ["http://x.org/q/a", "http://x.org/q/a|10", "http://x.org/q/b|2", "http://a.org/q#part", "http://x.org/q/b|1#part"];

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn one_of(chance: &mut Chance, types: &[&str]) -> Value {
    // Now and then of one that is not there.
    json!({ "reference": format!("{}/{}", chance.pick(types), format_args!("x{}", chance.below(RESOURCES + 2))) })
}

fn resource(chance: &mut Chance, type_name: &str, n: usize) -> Value {
    let mut resource = json!({ "resourceType": type_name, "id": format!("x{n}") });
    for (_, _, element) in REFERENCES.iter().filter(|(of, ..)| *of == type_name) {
        if chance.one_in(3) {
            continue;
        }
        resource[element] = match (*element, type_name) {
            ("subject", _) if chance.one_in(5) => {
                json!({ "reference": format!("http://{}.example/fhir/Patient/x1", chance.pick(&["there", "elsewhere"])) })
            }
            ("subject", _) => one_of(chance, &["Patient"]),
            ("encounter", _) => one_of(chance, &["Encounter"]),
            ("performer", _) => {
                json!([one_of(chance, &["PractitionerRole", "Organization", "Patient"]), one_of(chance, &["Organization"])])
            }
            ("hasMember", _) => json!([one_of(chance, &["Observation"])]),
            ("generalPractitioner", _) => json!([one_of(chance, &["PractitionerRole", "Organization"])]),
            ("partOf", "Encounter") => one_of(chance, &["Encounter"]),
            _ => one_of(chance, &["Organization"]),
        };
    }
    match type_name {
        "Observation" => {
            resource["status"] = json!(chance.pick(&["final", "amended", "preliminary"]));
            resource["code"] = json!({ "coding": [{ "code": chance.pick(&["a", "b", "c"]) }] });
            if !chance.one_in(4) {
                resource["effectiveDateTime"] = json!(format!("2026-09-{:02}", 1 + chance.below(9)));
            }
            if !chance.one_in(3) {
                resource["valueQuantity"] = json!({ "value": chance.below(20), "unit": "x" });
            }
        }
        "Encounter" => {
            resource["status"] = json!(chance.pick(&["planned", "finished"]));
            resource["class"] = json!({ "code": "AMB" });
        }
        "Patient" => {
            let names = (0..chance.below(3)).map(|_| json!({ "family": chance.pick(&["Juma", "abdi", "Zuberi", "Kimaro", "mushi"]) }));
            resource["name"] = names.collect::<Vec<_>>().into();
            if list(&resource["name"]).is_empty() {
                resource["name"] = json!([{ "text": "nobody" }]);
            }
            resource["active"] = json!(chance.one_in(2));
        }
        "QuestionnaireResponse" => {
            resource["status"] = json!("completed");
            if !chance.one_in(3) {
                resource["questionnaire"] = json!(chance.pick(&CANONICALS));
            }
        }
        "Organization" => resource["name"] = json!(chance.pick(&["North", "south", "East", "west"])),
        _ => resource["active"] = json!(true),
    }
    resource
}

fn world(chance: &mut Chance) -> World {
    let all = TYPES.iter().flat_map(|name| (0..RESOURCES).map(move |n| (*name, n)));
    all.map(|(name, n)| (format!("{name}/x{n}"), resource(chance, name, n))).collect()
}

/// What a resource refers to by a parameter.
fn targets<'w>(resource: &'w Value, element: &str) -> Vec<&'w str> {
    let value = &resource[element];
    list(value).iter().chain([value]).filter_map(|one| one["reference"].as_str()).collect()
}

#[derive(Clone, Debug)]
struct Include {
    reverse: bool,
    iterate: bool,
    /// `None`: `*`.
    source: Option<&'static str>,
    /// `None`: `*`.
    code: Option<&'static str>,
    target: Option<&'static str>,
}

impl Include {
    fn draw(chance: &mut Chance, searched: &'static str) -> Include {
        let is_named = REFERENCES.iter().any(|(source, code, _)| may_refer(source, code).contains(&searched));
        let (reverse, iterate) = (chance.one_in(2) && is_named, chance.one_in(2));
        loop {
            let (source, code, _) = *chance.pick(&REFERENCES);
            // Only what the matches' type has or is the target of makes sense without `:iterate`.
            let fits = if reverse { may_refer(source, code).contains(&searched) } else { source == searched };
            if !fits && !iterate {
                continue;
            }
            if !reverse && chance.one_in(8) {
                return Include { reverse, iterate, source: None, code: None, target: None };
            }
            if chance.one_in(8) {
                return Include { reverse, iterate, source: Some(source), code: None, target: None };
            }
            let target = (!reverse && chance.one_in(3)).then(|| *chance.pick(may_refer(source, code)));
            return Include { reverse, iterate, source: Some(source), code: Some(code), target };
        }
    }

    fn pair(&self) -> (String, String) {
        let key = format!("{}{}", if self.reverse { "_revinclude" } else { "_include" }, if self.iterate { ":iterate" } else { "" });
        let parts = [self.source.or(Some("*")), self.code.or(self.source.map(|_| "*")), self.target];
        (key, parts.into_iter().flatten().collect::<Vec<_>>().join(":"))
    }

    /// Whether this way leads from one resource to the other.
    fn leads(&self, from: &Value, element: &str, code: &str, to: &str) -> bool {
        self.source.is_none_or(|source| from["resourceType"] == source)
            && self.code.is_none_or(|own| own == code)
            && self.target.is_none_or(|target| to.starts_with(&format!("{target}/")))
            && targets(from, element).contains(&to)
    }

    /// What it brings from these.
    fn brings(&self, world: &World, from: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (name, resource) in world {
            for (_, code, element) in REFERENCES.iter().filter(|(of, ..)| resource["resourceType"] == *of) {
                for target in targets(resource, element) {
                    let (here, there) = if self.reverse { (target, name.as_str()) } else { (name.as_str(), target) };
                    if from.contains(here) && world.contains_key(there) && self.leads(resource, element, code, target) {
                        found.insert(there.to_owned());
                    }
                }
            }
        }
        found
    }
}

/// The types, of those in the test, that a parameter may refer to.
fn may_refer(source: &str, code: &str) -> &'static [&'static str] {
    match (source, code) {
        ("Observation", "performer") => &["PractitionerRole", "Organization", "Patient"],
        ("Observation", "has-member") => &["Observation"],
        ("Patient", "general-practitioner") => &["PractitionerRole", "Organization"],
        (_, "subject") => &["Patient"],
        (_, "encounter") | ("Encounter", "part-of") => &["Encounter"],
        _ => &["Organization"],
    }
}

/// Everything that comes along: once from the matches, and again from what came, as long as something says `:iterate`.
fn along(world: &World, matches: &BTreeSet<String>, includes: &[Include]) -> BTreeSet<String> {
    let mut all = matches.clone();
    let mut from = matches.clone();
    let mut first = true;
    while !from.is_empty() {
        let brought: BTreeSet<String> =
            includes.iter().filter(|include| first || include.iterate).flat_map(|include| include.brings(world, &from)).collect();
        from = brought.difference(&all).cloned().collect();
        all.extend(from.iter().cloned());
        first = false;
    }
    all.difference(matches).cloned().collect()
}

/// The values by which a resource is sorted: those of texts as letters, those of numbers filled up to a width.
fn sort_values(resource: &Value, key: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_lowercase);
    match key {
        "_id" => text(&resource["id"]).into_iter().collect(),
        "status" => text(&resource["status"]).into_iter().collect(),
        "code" => text(&resource["code"]["coding"][0]["code"]).into_iter().collect(),
        "date" => text(&resource["effectiveDateTime"]).into_iter().collect(),
        "name" => text(&resource["name"]).into_iter().collect(),
        "questionnaire" => text(&resource["questionnaire"]).into_iter().collect(),
        "subject here" => text(&resource["subject"]["reference"]).filter(|text| !text.contains("://")).into_iter().collect(),
        "subject elsewhere" => text(&resource["subject"]["reference"]).filter(|text| text.contains("://")).into_iter().collect(),
        "family" => list(&resource["name"]).iter().filter_map(|name| text(&name["family"])).collect(),
        "value-quantity" => resource["valueQuantity"]["value"].as_u64().map(|value| format!("{value:08}")).into_iter().collect(),
        other => panic!("{other}"),
    }
}

fn sort_keys(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "Observation" => &["status", "code", "date", "value-quantity", "subject", "_id"],
        "Encounter" => &["status", "subject", "_id"],
        "QuestionnaireResponse" => &["questionnaire", "subject", "_id"],
        "Patient" => &["family", "_id"],
        "Organization" => &["name", "_id"],
        _ => &["_id"],
    }
}

/// References to what is here come before those to elsewhere, which are in the order of their addresses.
fn parts(key: &str) -> Vec<String> {
    match key.trim_start_matches('-') {
        "subject" => ["here", "elsewhere"].map(|part| format!("{key} {part}")).to_vec(),
        _ => vec![key.to_owned()],
    }
}

/// By one key; of several values the one that comes earliest that way counts; without a value last, whichever way.
fn compared(a: &Value, b: &Value, key: &str) -> Ordering {
    let (name, descending) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
    let first = |resource: &Value| {
        let values = sort_values(resource, name).into_iter();
        if descending { values.max() } else { values.min() }
    };
    match (first(a), first(b)) {
        (Some(a), Some(b)) if descending => b.cmp(&a),
        (Some(a), Some(b)) => a.cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

struct Case {
    type_name: &'static str,
    path: String,
    matches: BTreeSet<String>,
    includes: Vec<Include>,
    sort: Vec<String>,
}

fn case(chance: &mut Chance, world: &World) -> Case {
    let type_name = *chance.pick(&TYPES);
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut matches: BTreeSet<String> = world.keys().filter(|name| name.starts_with(&format!("{type_name}/"))).cloned().collect();
    if chance.one_in(2) {
        let ids: BTreeSet<String> = (0..1 + chance.below(6)).map(|_| format!("x{}", chance.below(RESOURCES))).collect();
        query.append_pair("_id", &ids.iter().map(String::as_str).collect::<Vec<_>>().join(","));
        matches.retain(|name| ids.contains(name.split_once('/').unwrap().1));
    }
    let includes: Vec<Include> = (0..chance.below(4)).map(|_| Include::draw(chance, type_name)).collect();
    for include in &includes {
        let (key, value) = include.pair();
        query.append_pair(&key, &value);
    }
    let sort: Vec<String> =
        (0..chance.below(4)).map(|_| format!("{}{}", chance.pick(&["", "-"]), chance.pick(sort_keys(type_name)))).collect();
    if !sort.is_empty() {
        query.append_pair("_sort", &sort.join(","));
    }
    if chance.one_in(2) {
        query.append_pair("_count", &(1 + chance.below(30)).to_string());
    }
    Case { type_name, path: format!("/fhir/{type_name}?{}", query.finish()), matches, includes, sort }
}

/// All pages: the matches in their order, and what came along with each page's.
async fn pages(server: &TestServer, path: &str) -> Result<Vec<(Vec<String>, BTreeSet<String>)>, String> {
    let (mut pages, mut page) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = page {
        let (status, bundle) = server.get(&path).await;
        if status != 200 {
            return Err(format!("{status} {bundle:.400}"));
        }
        let named = |mode: &'static str| {
            let entries = list(&bundle["entry"]).iter().filter(move |entry| entry["search"]["mode"] == mode);
            entries.map(|entry| {
                format!("{}/{}", entry["resource"]["resourceType"].as_str().unwrap(), entry["resource"]["id"].as_str().unwrap_or(""))
            })
        };
        if let Some(outcome) = list(&bundle["entry"]).iter().find(|entry| entry["search"]["mode"] == "outcome") {
            return Err(format!("{outcome}"));
        }
        let included: Vec<String> = named("include").collect();
        let once: BTreeSet<String> = included.iter().cloned().collect();
        if once.len() != included.len() {
            return Err(format!("something came along twice: {included:?}"));
        }
        pages.push((named("match").collect(), once));
        let next = list(&bundle["link"]).iter().find(|link| link["relation"] == "next");
        page = next.map(|link| link["url"].as_str().unwrap()).map(|url| url[url.find("/fhir").unwrap()..].to_owned());
    }
    Ok(pages)
}

/// What is wrong with an answer, if anything.
fn problem(world: &World, case: &Case, pages: &[(Vec<String>, BTreeSet<String>)]) -> Option<String> {
    // lango ships resources of its own of some types.
    let own = |name: &&String| world.contains_key(*name);
    let found: Vec<&String> = pages.iter().flat_map(|(matches, _)| matches).filter(own).collect();
    let once: BTreeSet<String> = found.iter().map(|name| (*name).clone()).collect();
    if found.len() != once.len() || once != case.matches {
        return Some(format!("found {found:?} instead of {:?}", case.matches));
    }
    for pair in found.windows(2) {
        let order = case
            .sort
            .iter()
            .flat_map(|key| parts(key))
            .map(|key| compared(&world[pair[0]], &world[pair[1]], &key))
            .find(|order| order.is_ne());
        if order == Some(Ordering::Greater) {
            return Some(format!("{} before {}", world[pair[0]], world[pair[1]]));
        }
    }
    for (matches, included) in pages {
        let matches: BTreeSet<String> = matches.iter().filter(own).cloned().collect();
        let expected = along(world, &matches, &case.includes);
        if *included != expected {
            let (many, few): (Vec<_>, Vec<_>) = (included.difference(&expected).collect(), expected.difference(included).collect());
            return Some(format!("with {matches:?} came too many: {many:?}; too few: {few:?}"));
        }
    }
    None
}

both_databases!(
    async fn includes_and_sorts_are_what_a_slow_scan_makes(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance::new(4);
        let world = world(&mut chance);
        let put = |(name, resource): (&String, &Value)| json!({ "resource": resource, "request": { "method": "PUT", "url": name } });
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": world.iter().map(put).collect::<Vec<_>>() });
        let (status, response) = server.post("/fhir", &bundle).await;
        assert_eq!(status, 200, "{response:.600}");
        let (mut wrong, mut brought, mut cut) = (Vec::new(), 0, 0);
        for _ in 0..CASES / WAVE {
            let cases: Vec<Case> = (0..WAVE).map(|_| case(&mut chance, &world)).collect();
            let answers = futures_util::future::join_all(cases.iter().map(|case| pages(&server, &case.path))).await;
            for (case, answer) in cases.iter().zip(answers) {
                let problem = match &answer {
                    Ok(pages) => problem(&world, case, pages),
                    // More than eight hops away, and said so.
                    Err(words) if words.contains("too-costly") => {
                        cut += 1;
                        None
                    }
                    Err(words) => Some(words.clone()),
                };
                brought += usize::from(answer.is_ok_and(|pages| pages.iter().any(|(_, included)| !included.is_empty())));
                if let Some(problem) = problem {
                    wrong.push(format!("{} {}\n  {problem}", case.type_name, case.path));
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {CASES} are wrong:\n{}",
            wrong.len(),
            wrong.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(brought > CASES / 3 && cut < CASES / 100, "only {brought} bring anything along, of {cut} something was left out");
        server.stop().await;
    }
);
