//! Many clients at once, each doing by chance what clients do to the same few resources; and readers who page through what the others
//! change. What must hold is read from the histories afterwards.

use crate::search_oracle::Chance;
use crate::support::{TestServer, answer, both_databases};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const CLIENTS: usize = 16;
/// Of each client.
const STEPS: usize = 25;
/// Patients known by an identifier, and resources known by an id, that all of them fight over.
const SHARED: usize = 3;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn next(bundle: &Value) -> Option<String> {
    let link = list(&bundle["link"]).iter().find(|link| link["relation"] == "next")?;
    let url = link["url"].as_str().unwrap();
    Some(url[url.find("/fhir").unwrap()..].to_owned())
}

fn criteria(n: usize) -> String {
    format!("identifier=urn:storm|{n}")
}

fn patient(n: usize, mark: &str) -> Value {
    json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:storm", "value": n.to_string() }], "name": [{ "given": [mark] }] })
}

fn basic(n: usize, mark: &str) -> Value {
    json!({ "resourceType": "Basic", "id": format!("b{n}"), "code": { "text": mark } })
}

fn entry(method: &str, url: String, resource: Option<Value>) -> Value {
    match resource {
        Some(resource) => json!({ "resource": resource, "request": { "method": method, "url": url } }),
        None => json!({ "request": { "method": method, "url": url } }),
    }
}

/// One step of a client: what it did, the status, and which are right for it. `mark` is in what it writes and nowhere else.
async fn step(server: &TestServer, chance: &mut Chance, mark: &str) -> (&'static str, u16, &'static [u16], Value) {
    let (n, fhir) = (chance.below(SHARED), "application/fhir+json");
    let url = |path: String| server.url(&format!("/fhir/{path}"));
    let (what, right, request): (&str, &[u16], _) = match chance.below(9) {
        0 => {
            let post = server.client.post(url("Patient".into())).header("if-none-exist", criteria(n));
            ("conditional create", &[200, 201], post.header("content-type", fhir).body(patient(n, mark).to_string()))
        }
        1 => {
            let put = server.client.put(url(format!("Patient?{}", criteria(n))));
            ("conditional update", &[200, 201], put.header("content-type", fhir).body(patient(n, mark).to_string()))
        }
        2 => {
            let patch = server.client.patch(url(format!("Patient?{}", criteria(n)))).header("content-type", "application/json-patch+json");
            ("conditional patch", &[200, 404], patch.body(json!([{ "op": "add", "path": "/name/0/given/-", "value": mark }]).to_string()))
        }
        3 => ("conditional delete", &[204], server.client.delete(url(format!("Patient?{}", criteria(n))))),
        4 => {
            let put = server.client.put(url(format!("Basic/b{n}")));
            ("update", &[200, 201], put.header("content-type", fhir).body(basic(n, mark).to_string()))
        }
        5 => ("delete", &[204], server.client.delete(url(format!("Basic/b{n}")))),
        6 => {
            // Everything that is shared, in an order that differs from client to client.
            let mut entries: Vec<Value> = (0..SHARED).map(|n| entry("PUT", format!("Basic/b{n}"), Some(basic(n, mark)))).collect();
            entries.extend((0..SHARED).map(|n| {
                let mut create = entry("POST", "Patient".into(), Some(patient(n, mark)));
                create["request"]["ifNoneExist"] = json!(criteria(n));
                create
            }));
            let half = entries.len();
            entries.rotate_left(chance.below(half));
            if chance.below(2) == 0 {
                entries.reverse();
            }
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
            ("transaction", &[200], server.client.post(url(String::new())).header("content-type", fhir).body(bundle.to_string()))
        }
        7 => {
            // Refers to whoever has the identifier at that moment; changes and removes others.
            let subject = json!({ "reference": format!("Patient?{}", criteria(n)) });
            let observation = json!({ "resourceType": "Observation", "status": "final", "code": { "text": mark }, "subject": subject });
            let entries = [
                entry("POST", "Observation".into(), Some(observation)),
                entry("PUT", format!("Patient?{}", criteria((n + 1) % SHARED)), Some(patient((n + 1) % SHARED, mark))),
                entry("DELETE", format!("Basic/b{n}"), None),
            ];
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
            (
                "referring transaction",
                &[200, 412],
                server.client.post(url(String::new())).header("content-type", fhir).body(bundle.to_string()),
            )
        }
        _ => {
            let (_, now) = server.get(&format!("/fhir/Basic/b{n}")).await;
            let version = now["meta"]["versionId"].as_str().unwrap_or("1");
            let put = server.client.put(url(format!("Basic/b{n}"))).header("if-match", format!("W/\"{version}\""));
            ("update of a version", &[200, 201, 412], put.header("content-type", fhir).body(basic(n, mark).to_string()))
        }
    };
    let (status, body) = answer(request).await;
    (what, status, right, body)
}

/// All versions of a type, the oldest first.
async fn versions(server: &TestServer, type_name: &str) -> Vec<Value> {
    let (mut entries, mut page) = (Vec::new(), Some(format!("/fhir/{type_name}/_history?_count=500")));
    while let Some(path) = page {
        let (status, bundle) = server.get(&path).await;
        assert_eq!(status, 200, "{bundle:.300}");
        entries.extend(list(&bundle["entry"]).iter().cloned());
        page = next(&bundle);
    }
    entries.reverse();
    entries
}

/// Type and id of a version, and its number.
fn identity(entry: &Value) -> (String, u64) {
    let url = entry["fullUrl"].as_str().unwrap_or_else(|| panic!("{entry}"));
    let number = entry["response"]["etag"].as_str().unwrap().trim_start_matches("W/").trim_matches('"').parse().unwrap();
    (url.rsplit('/').take(2).collect::<Vec<_>>().join("/"), number)
}

fn given(entry: &Value) -> Vec<&str> {
    list(&entry["resource"]["name"][0]["given"]).iter().map(|name| name.as_str().unwrap()).collect()
}

both_databases!(
    async fn a_storm_of_writes_makes_no_twin_and_loses_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        let clients = (0..CLIENTS).map(|client| {
            let server = &server;
            async move {
                let mut chance = Chance::new(client as u64 * 7919 + 1);
                let mut written = Vec::new();
                for number in 0..STEPS {
                    let mark = format!("c{client}s{number}");
                    let (what, status, right, body) = step(server, &mut chance, &mark).await;
                    assert!(right.contains(&status), "{what}: {status} {body:.600}");
                    let whole =
                        matches!(what, "conditional update" | "conditional patch" | "update" | "update of a version" | "transaction");
                    if whole && status < 300 || what == "conditional create" && status == 201 {
                        written.push((what, mark));
                    }
                }
                written
            }
        });
        let written: Vec<(&str, String)> = join_all(clients).await.into_iter().flatten().collect();
        let (basics, patients) = (versions(&server, "Basic").await, versions(&server, "Patient").await);

        // Versions are in line, and a patch was made of the version before it.
        let mut last: BTreeMap<String, (u64, &Value)> = BTreeMap::new();
        for entry in basics.iter().chain(&patients) {
            let (id, number) = identity(entry);
            let before = last.insert(id.clone(), (number, entry));
            assert_eq!(number, before.map_or(1, |(number, _)| number + 1), "{id}");
            if let [kept @ .., _] = given(entry).as_slice()
                && !kept.is_empty()
            {
                assert_eq!(kept, given(before.expect("what is patched was there").1), "{id}/{number}: a patch lost what another wrote");
            }
        }
        // Nobody had a twin, at no time.
        let mut living: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut known: BTreeMap<String, &str> = BTreeMap::new();
        for entry in &patients {
            let (id, _) = identity(entry);
            match entry["resource"]["identifier"][0]["value"].as_str() {
                Some(value) => {
                    known.insert(id.clone(), value);
                    let alive = living.entry(value).or_default();
                    alive.insert(id);
                    assert_eq!(alive.len(), 1, "{alive:?} have the same identifier");
                }
                None => drop(living.get_mut(known[&id]).map(|alive| alive.remove(&id))),
            }
        }
        // What was acknowledged is there, once.
        let mut marks: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &basics {
            *marks.entry(entry["resource"]["code"]["text"].as_str().unwrap_or("")).or_default() += 1;
        }
        for entry in &patients {
            *marks.entry(given(entry).last().copied().unwrap_or("")).or_default() += 1;
        }
        for (what, mark) in &written {
            let found = marks.get(mark.as_str()).copied().unwrap_or(0);
            let right = if *what == "transaction" { (SHARED..=2 * SHARED).contains(&found) } else { found == 1 };
            assert!(right, "{what} {mark} is there {found} times");
        }
        assert!(written.len() > CLIENTS * STEPS / 4, "{} writes", written.len());
        server.stop().await;
    }
);

/// Somebody of whom a page speaks, with what pages are sorted by.
fn person(chance: &mut Chance, id: &str) -> Value {
    let mut person =
        json!({ "resourceType": "Patient", "id": id, "active": true, "name": [{ "family": format!("F{}", chance.below(9)) }] });
    if chance.below(3) > 0 {
        person["birthDate"] = json!(format!("19{:02}", 50 + chance.below(20)));
    }
    person
}

const STANDING: usize = 60;

/// Changes whatever it comes upon, sort keys among it, until it is told to stop.
async fn write_on(server: &TestServer, seed: u64, stop: &AtomicBool, writes: &AtomicUsize) {
    let mut chance = Chance::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let n = chance.below(STANDING);
        let (status, body) = match chance.below(4) {
            0 => answer(server.client.delete(server.url(&format!("/fhir/Patient/g{n}")))).await,
            1 => server.put(&format!("/fhir/Patient/g{n}"), &person(&mut chance, &format!("g{n}"))).await,
            _ => server.put(&format!("/fhir/Patient/s{n}"), &person(&mut chance, &format!("s{n}"))).await,
        };
        assert!(matches!(status, 200 | 201 | 204), "{status} {body:.300}");
        writes.fetch_add(1, Ordering::Relaxed);
    }
}

both_databases!(
    async fn pages_are_whole_while_many_write(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance::new(11);
        let entries: Vec<Value> = (0..STANDING)
            .flat_map(|n| [format!("s{n}"), format!("g{n}")])
            .map(|id| entry("PUT", format!("Patient/{id}"), Some(person(&mut chance, &id))))
            .collect();
        let (status, _) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
        assert_eq!(status, 200);
        let (stop, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
        let read = async {
            let sorts = ["_id", "family", "-family,birthdate", "birthdate", "-birthdate,_id", "_lastUpdated", "-_lastUpdated", "-_id"];
            // Each way, and on until enough was written meanwhile to matter.
            for sort in sorts
                .iter()
                .cycle()
                .enumerate()
                .take_while(|(walk, _)| *walk < 8 || writes.load(Ordering::Relaxed) < 100)
                .map(|(_, sort)| sort)
            {
                let mut page = Some(format!("/fhir/Patient?active=true&_count={}&_sort={sort}", 4 + chance.below(9)));
                let mut seen = Vec::new();
                while let Some(path) = page {
                    let (status, bundle) = server.get(&path).await;
                    assert_eq!(status, 200, "{bundle:.300}");
                    let ids = list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned());
                    seen.extend(ids);
                    page = next(&bundle);
                }
                let once: BTreeSet<&String> = seen.iter().collect();
                assert_eq!(once.len(), seen.len(), "something comes twice: _sort={sort}");
                let standing = once.iter().filter(|id| id.starts_with('s')).count();
                assert_eq!(standing, STANDING, "something that was there throughout is left out: _sort={sort}");
            }
            stop.store(true, Ordering::Relaxed);
        };
        let writers = join_all((0..4).map(|seed| write_on(&server, seed + 100, &stop, &writes)));
        tokio::join!(read, writers);
        server.stop().await;
    }
);
