//! The 81 Bundles that Synthea made, as they are: everything arrives, refers to what it should, and is found.
//!
//! What the searches should find is counted here, from the files, by plain loops over JSON.

use crate::support::{TestDb, TestServer, answer, both_databases, program};
use flate2::read::GzDecoder;
use futures_util::StreamExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

/// Bundles that are sent at the same time.
const CLIENTS: usize = 4;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/synthea-hiv"))
}

/// What the files hold.
struct Expected {
    /// By file name; gzip, as it is sent.
    files: BTreeMap<String, Vec<u8>>,
    /// Resources by type.
    resources: BTreeMap<String, Vec<Value>>,
    /// `fullUrl` to the place in `resources`.
    by_url: HashMap<String, (String, usize)>,
}

impl Expected {
    fn read() -> Expected {
        let (mut files, mut resources, mut by_url) = (BTreeMap::new(), BTreeMap::<String, Vec<Value>>::new(), HashMap::new());
        for file in std::fs::read_dir(folder()).expect("the files are in the tree") {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".json.gz") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let mut bundle: Value = serde_json::from_reader(GzDecoder::new(bytes.as_slice())).unwrap();
            for entry in bundle["entry"].as_array_mut().unwrap() {
                let resource = entry["resource"].take();
                let type_name = resource["resourceType"].as_str().unwrap().to_owned();
                let list = resources.entry(type_name.clone()).or_default();
                by_url.insert(entry["fullUrl"].as_str().unwrap().to_owned(), (type_name, list.len()));
                list.push(resource);
            }
            files.insert(name, bytes);
        }
        assert_eq!(files.len(), 81);
        Expected { files, resources, by_url }
    }

    fn of(&self, type_name: &str) -> &[Value] {
        &self.resources[type_name]
    }

    fn count(&self, type_name: &str, holds: impl Fn(&Value) -> bool) -> usize {
        self.of(type_name).iter().filter(|resource| holds(resource)).count()
    }

    /// The resource that a reference of the files means: an entry of the same Bundle, or what has the identifier.
    fn target(&self, reference: &Value) -> &Value {
        let reference = reference["reference"].as_str().expect("a reference");
        if let Some((type_name, place)) = self.by_url.get(reference) {
            return &self.resources[type_name][*place];
        }
        let (type_name, criteria) = reference.split_once("?identifier=").expect("criteria");
        let (system, value) = criteria.split_once('|').expect("system and value");
        let mut found = self.of(type_name).iter().filter(|resource| has_identifier(resource, system, value));
        let target = found.next().expect("it is in the files");
        assert!(found.next().is_none());
        target
    }
}

fn has_identifier(resource: &Value, system: &str, value: &str) -> bool {
    list(&resource["identifier"]).iter().any(|identifier| identifier["system"] == system && identifier["value"] == value)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has_code(concept: &Value, code: &str) -> bool {
    list(&concept["coding"]).iter().any(|coding| coding["code"] == code)
}

/// The most frequent of the values.
fn commonest<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).expect("some value").0.to_owned()
}

/// Sends every file: what the others refer to first, then the rest by a few clients at once.
async fn load(server: &TestServer, expected: &Expected) {
    let (first, rest): (Vec<_>, Vec<_>) = expected.files.iter().partition(|(name, _)| name.contains("Information"));
    assert_eq!((first.len(), rest.len()), (2, 79));
    for part in [first, rest] {
        let sent = futures_util::stream::iter(part).for_each_concurrent(CLIENTS, async |(name, bytes)| {
            let post = server.client.post(server.url("/fhir")).header("content-type", "application/fhir+json");
            let (status, response) = answer(post.header("content-encoding", "gzip").body(bytes.clone())).await;
            assert_eq!(status, 200, "{name}: {}", &response["issue"]);
            let created = |entry: &Value| entry["response"]["status"].as_str().is_some_and(|status| status.starts_with("201"));
            assert!(list(&response["entry"]).iter().all(created), "{name}");
        });
        sent.await;
    }
}

async fn total(server: &TestServer, search: &str) -> usize {
    let separator = if search.contains('?') { '&' } else { '?' };
    let (status, bundle) = server.get(&format!("/fhir/{search}{separator}_summary=count")).await;
    assert_eq!(status, 200, "{search}: {bundle}");
    assert!(bundle.get("entry").is_none());
    usize::try_from(bundle["total"].as_u64().unwrap_or_else(|| panic!("{search}: {bundle}"))).unwrap()
}

async fn counts_match(server: &TestServer, expected: &Expected) {
    for (type_name, resources) in &expected.resources {
        assert_eq!(total(server, type_name).await, resources.len(), "{type_name}");
    }
}

/// Every page of a search, from the first to the one without a next link.
async fn pages(server: &TestServer, search: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut next = Some(format!("/fhir/{search}"));
    while let Some(path) = next {
        let (status, page) = server.get(&path).await;
        assert_eq!(status, 200, "{path}: {page}");
        let link = list(&page["link"]).iter().find(|link| link["relation"] == "next");
        next = link.map(|link| link["url"].as_str().unwrap().strip_prefix(&server.base).expect("own URL").to_owned());
        pages.push(page);
    }
    pages
}

/// The resources of all pages, by `search.mode`.
async fn found(server: &TestServer, search: &str) -> (Vec<Value>, Vec<Value>) {
    let pages = pages(server, search).await;
    let entries = pages.iter().flat_map(|page| list(&page["entry"]));
    let (matches, included): (Vec<&Value>, Vec<&Value>) = entries.partition(|entry| entry["search"]["mode"] == "match");
    assert!(included.iter().all(|entry| entry["search"]["mode"] == "include"));
    let resources = |entries: Vec<&Value>| entries.into_iter().map(|entry| entry["resource"].clone()).collect();
    (resources(matches), resources(included))
}

/// Calls `each` with every `reference` in `value`.
fn each_reference<'a>(value: &'a Value, each: &mut impl FnMut(&'a str)) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str().filter(|_| key == "reference") {
                    Some(reference) => each(reference),
                    None => each_reference(value, each),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_reference(item, each)),
        _ => {}
    }
}

/// Everything that is stored, by `Type/id`; every reference in it leads to one of them.
async fn references_lead_somewhere(server: &TestServer, expected: &Expected) {
    let mut stored: BTreeMap<String, Value> = BTreeMap::new();
    for type_name in expected.resources.keys() {
        for resource in found(server, &format!("{type_name}?_count=1000")).await.0 {
            stored.insert(format!("{type_name}/{}", resource["id"].as_str().unwrap()), resource);
        }
    }
    assert_eq!(stored.len(), 46_497);
    let mut seen = 0;
    for (name, resource) in &stored {
        each_reference(resource, &mut |reference| {
            seen += 1;
            assert!(reference.starts_with('#') || stored.contains_key(reference), "{name} refers to {reference}");
        });
    }
    let mut sent = 0;
    expected.resources.values().flatten().for_each(|resource| each_reference(resource, &mut |_| sent += 1));
    assert_eq!(seen, sent);

    // And to the right one: the encounters' patients and doctors, told by their identifiers.
    let by_identifier: HashMap<&str, &Value> = stored
        .iter()
        .filter(|(name, _)| name.starts_with("Encounter/"))
        .map(|(_, encounter)| (encounter["identifier"][0]["value"].as_str().unwrap(), encounter))
        .collect();
    for sent in expected.of("Encounter") {
        let encounter = by_identifier[sent["identifier"][0]["value"].as_str().unwrap()];
        for path in ["/subject", "/participant/0/individual", "/serviceProvider", "/location/0/location"] {
            let target = &stored[encounter.pointer(path).unwrap()["reference"].as_str().unwrap()];
            assert_eq!(target["identifier"], expected.target(sent.pointer(path).unwrap())["identifier"], "{path}");
        }
    }
}

async fn searches_find_what_the_files_hold(server: &TestServer, expected: &Expected) {
    let codes = expected.of("Observation").iter().filter_map(|observation| observation["code"]["coding"][0]["code"].as_str());
    let code = commonest(codes);
    let system = "http://loinc.org";
    let with_code = expected.count("Observation", |observation| has_code(&observation["code"], &code));
    assert!(with_code > 100);
    assert_eq!(total(server, &format!("Observation?code={system}|{code}")).await, with_code);
    assert_eq!(total(server, &format!("Observation?code={code}")).await, with_code);
    assert_eq!(total(server, &format!("Observation?code:not={code}")).await, expected.of("Observation").len() - with_code);
    assert_eq!(total(server, &format!("Observation?code=http://snomed.info/sct|{code}")).await, 0);

    let diagnosis = commonest(expected.of("Condition").iter().filter_map(|condition| condition["code"]["coding"][0]["code"].as_str()));
    let diagnosed = expected.count("Condition", |condition| has_code(&condition["code"], &diagnosis));
    assert_eq!(total(server, &format!("Condition?code=http://snomed.info/sct|{diagnosis}")).await, diagnosed);

    // The patient with the most visits.
    let busiest = commonest(expected.of("Encounter").iter().filter_map(|encounter| encounter["subject"]["reference"].as_str()));
    let patient = expected.target(&serde_json::json!({ "reference": busiest }));
    let family = patient["name"][0]["family"].as_str().unwrap();
    let own = patient["identifier"][0]["value"].as_str().unwrap();
    let of_patient = |resource: &Value| resource["subject"]["reference"] == busiest.as_str();
    let observed = expected.count("Observation", of_patient);
    let (matches, _) = found(server, &format!("Patient?identifier={own}")).await;
    let [stored] = matches.as_slice() else { panic!("{} patients", matches.len()) };
    let id = stored["id"].as_str().unwrap();
    for search in [
        format!("Observation?subject=Patient/{id}"),
        format!("Observation?patient={id}"),
        format!("Observation?subject:Patient={id}"),
        format!("Observation?subject:Patient.identifier={own}"),
        format!("Observation?patient.identifier={own}"),
    ] {
        assert_eq!(total(server, &search).await, observed, "{search}");
    }
    let is_family = |reference: &Value| expected.target(reference)["name"][0]["family"] == family;
    let of_family = expected.count("Observation", |observation| is_family(&observation["subject"]));
    assert_eq!(total(server, &format!("Observation?subject:Patient.family:exact={family}")).await, of_family);
    assert_eq!(total(server, &format!("Observation?patient.family:exact={family}&code={code}")).await, {
        expected.count("Observation", |observation| is_family(&observation["subject"]) && has_code(&observation["code"], &code))
    });

    // A month, in UTC as the server's zone is; all the files' times are UTC.
    let starts = || expected.of("Encounter").iter().filter_map(|encounter| encounter["period"]["start"].as_str());
    assert!(starts().all(|start| start.ends_with("+00:00")));
    let month = commonest(starts().filter_map(|start| start.get(..7)));
    let overlaps = |encounter: &Value| {
        let period = &encounter["period"];
        period["start"].as_str().unwrap().get(..7) <= Some(&month) && period["end"].as_str().unwrap().get(..7) >= Some(&month)
    };
    let within = |encounter: &Value| ["start", "end"].iter().all(|end| encounter["period"][*end].as_str().unwrap().starts_with(&month));
    assert_eq!(total(server, &format!("Encounter?date={month}")).await, expected.count("Encounter", within));
    let year = month.get(..4).unwrap();
    let since = expected.count("Encounter", |encounter| encounter["period"]["end"].as_str().unwrap() >= year);
    assert_eq!(total(server, &format!("Encounter?date=ge{year}")).await, since);
    let touched = expected.count("Encounter", overlaps);
    assert!(touched >= 10);
    let next_month = starts().filter_map(|start| start.get(..7)).filter(|start| *start > month.as_str()).min().unwrap();
    assert!(total(server, &format!("Encounter?date=ge{month}&date=lt{next_month}")).await >= touched);

    // _has: the patients that have such an observation.
    let having: BTreeSet<&str> = expected
        .of("Observation")
        .iter()
        .filter(|observation| has_code(&observation["code"], &code))
        .map(|observation| observation["subject"]["reference"].as_str().unwrap())
        .collect();
    assert_eq!(total(server, &format!("Patient?_has:Observation:patient:code={code}")).await, having.len());
    assert_eq!(total(server, &format!("Patient?_has:Condition:subject:code={diagnosis}&gender=female")).await, {
        let having: BTreeSet<&str> = expected
            .of("Condition")
            .iter()
            .filter(|condition| has_code(&condition["code"], &diagnosis))
            .filter(|condition| expected.target(&condition["subject"])["gender"] == "female")
            .map(|condition| condition["subject"]["reference"].as_str().unwrap())
            .collect();
        having.len()
    });

    // _include and _revinclude.
    let (conditions, included) = found(server, "Condition?_count=1000&_include=Condition:subject&_include=Condition:encounter").await;
    assert_eq!(conditions.len(), expected.of("Condition").len());
    let patients: BTreeSet<&str> =
        expected.of("Condition").iter().filter_map(|condition| condition["subject"]["reference"].as_str()).collect();
    let visits: BTreeSet<&str> =
        expected.of("Condition").iter().filter_map(|condition| condition["encounter"]["reference"].as_str()).collect();
    let of_type = |type_name: &str| included.iter().filter(|resource| resource["resourceType"] == type_name).count();
    assert_eq!((of_type("Patient"), of_type("Encounter")), (patients.len(), visits.len()));
    let (matches, included) =
        found(server, &format!("Patient?_id={id}&_revinclude=Observation:patient&_revinclude=Encounter:subject")).await;
    assert_eq!(matches.len(), 1);
    assert_eq!(included.len(), observed + expected.count("Encounter", of_patient));
}

async fn sorting_and_paging_keep_everything(server: &TestServer, expected: &Expected) {
    let (matches, _) = found(server, "Encounter?_sort=-date&_count=500").await;
    assert_eq!(matches.len(), expected.of("Encounter").len());
    let key = |encounter: &Value| encounter["period"]["start"].as_str().unwrap().to_owned();
    assert!(matches.windows(2).all(|pair| key(&pair[0]) >= key(&pair[1])), "newest first");
    let (matches, _) = found(server, "Patient?_sort=birthdate,-family&_count=7").await;
    let key = |patient: &Value| patient["birthDate"].as_str().unwrap().to_owned();
    assert_eq!(matches.len(), 79);
    assert!(matches.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1])), "oldest first");

    let pages = pages(server, "Immunization?_count=100").await;
    let sizes: Vec<usize> = pages.iter().map(|page| list(&page["entry"]).len()).collect();
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| *size == 100) && (1..=100).contains(last), "{sizes:?}");
    let ids: Vec<&str> =
        pages.iter().flat_map(|page| list(&page["entry"])).map(|entry| entry["resource"]["id"].as_str().unwrap()).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!((ids.len(), distinct.len()), (4103, 4103));
}

both_databases!(
    async fn synthea_arrives_whole_refers_rightly_and_is_found(db: &TestDb) {
        let expected = Expected::read();
        let server = TestServer::open(db).await;
        load(&server, &expected).await;
        counts_match(&server, &expected).await;
        references_lead_somewhere(&server, &expected).await;
        searches_find_what_the_files_hold(&server, &expected).await;
        sorting_and_paging_keep_everything(&server, &expected).await;
        server.stop().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_takes_the_files_in_the_order_of_their_names() {
    let db = TestDb::sqlite();
    let folder = folder();
    let (code, out, err) = program::output(&db, &["import", folder.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("stored 46497 resources from 81 files\n"), "{out}");
    let expected = Expected::read();
    let server = TestServer::open(&db).await;
    counts_match(&server, &expected).await;
    server.stop().await;
}
