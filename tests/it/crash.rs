//! Sudden death: the program is killed with SIGKILL again and again while clients send, and started again on its database.
//!
//! After each start everything that was acknowledged is there once; what was not acknowledged is there as a whole or not at
//! all; and at the end the outbox has done all that was due.

use crate::dhis2_double::{Double, Setup};
use crate::support::payloads::{DOOR, payload, record, record_with_nida};
use crate::support::program::{self, Running};
use crate::support::server::answer;
use crate::support::{both_databases, eventually, time_passes};
use lango::destinations::dhis2::push_job;
use lango::store::{Store, Unit};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// On each database: 50 in all.
const KILLS: usize = 25;
/// Records of a payload by its client: one transaction, and more than one. The first two are one person.
const RECORDS: [usize; 2] = [4, 50];
const OBSERVATIONS: usize = 3;
const ELEMENT: &str = "M91K9z70dl4";

/// Makes a client's next request from its number, and names it.
type Each = dyn Fn(usize, &reqwest::Client) -> (String, reqwest::RequestBuilder) + Send + Sync;

/// What one client sent, in order, and whether it was acknowledged. Only the last may be open.
type Sent = Vec<(String, bool)>;

/// What the clients of one round sent.
struct Round {
    number: usize,
    templates: Vec<Sent>,
    transactions: Vec<Sent>,
    /// Two clients that created the same.
    once: Vec<Sent>,
    /// Updates of one resource.
    updates: Sent,
}

/// Sends one request after another until the server is gone.
async fn until_it_dies(client: reqwest::Client, each: Box<Each>) -> Sent {
    let mut sent = Sent::new();
    loop {
        let (name, request) = each(sent.len(), &client);
        let acknowledged = match request.send().await {
            Ok(response) => {
                let status = response.status();
                // An answer that does not arrive whole acknowledges nothing.
                match response.text().await {
                    Ok(body) if status.is_success() => serde_json::from_str::<Value>(&body).is_ok(),
                    Ok(body) => panic!("{name}: {status} {body}"),
                    Err(_) => false,
                }
            }
            Err(_) => false,
        };
        sent.push((name, acknowledged));
        if !acknowledged {
            return sent;
        }
    }
}

fn facility(round: usize) -> String {
    format!("HF-{round}")
}

fn template(round: usize, client: usize, n: usize) -> (String, Value) {
    let name = format!("{client}-{n}");
    let nida = format!("1{round:07}-{client:05}-{n:05}-00");
    let records = (0..RECORDS[client]).map(|i| {
        let key = format!("{name}-{i}");
        let mut record = if i < 2 { record_with_nida(&key, &key, &nida) } else { record(&key, &key) };
        // Under another name and number it is another client of the facility, whom the identifier links.
        record["demographicDetails"]["firstName"] = json!(format!("Neema {i}"));
        record
    });
    (name.clone(), payload(&facility(round), records.collect()))
}

fn transaction(round: usize, client: usize, n: usize) -> (String, Value) {
    let name = format!("{client}-{n}");
    let system = format!("urn:crash:{round}");
    let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": system, "value": name }] });
    let mut entries = vec![
        json!({ "fullUrl": "urn:uuid:0b0f4bd8-3a0e-4b3f-9b53-0a4ac5ff2d11", "resource": patient, "request": { "method": "POST", "url": "Patient" } }),
    ];
    for i in 0..OBSERVATIONS {
        let observation = json!({
            "resourceType": "Observation", "status": "final", "code": { "text": "crash" },
            "identifier": [{ "system": system, "value": format!("{name}-{i}") }],
            "subject": { "reference": "urn:uuid:0b0f4bd8-3a0e-4b3f-9b53-0a4ac5ff2d11" },
        });
        entries.push(json!({ "resource": observation, "request": { "method": "POST", "url": "Observation" } }));
    }
    (name, json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries }))
}

/// Clients send until the server is killed after `life`.
async fn round(number: usize, running: Running, life: Duration) -> Round {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).no_proxy().build().unwrap();
    let post = |path: &str, kind: &'static str| {
        let url = format!("{}{path}", running.base);
        move |client: &reqwest::Client, body: Value| client.post(&url).header("content-type", kind).body(body.to_string())
    };
    let spawn = |each: Box<Each>| tokio::spawn(until_it_dies(client.clone(), each));
    let templates: Vec<_> = (0..2)
        .map(|c| {
            let send = post(DOOR, "application/json");
            spawn(Box::new(move |n, client| {
                let (name, body) = template(number, c, n);
                (name, send(client, body))
            }))
        })
        .collect();
    let transactions: Vec<_> = (0..2)
        .map(|c| {
            let send = post("/fhir", "application/fhir+json");
            spawn(Box::new(move |n, client| {
                let (name, body) = transaction(number, c, n);
                (name, send(client, body))
            }))
        })
        .collect();
    let once: Vec<_> = (0..2)
        .map(|_| {
            let send = post("/fhir/Patient", "application/fhir+json");
            spawn(Box::new(move |n, client| {
                let system = format!("urn:crash:once:{number}");
                let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": system, "value": n.to_string() }] });
                (n.to_string(), send(client, patient).header("if-none-exist", format!("identifier={system}|{n}")))
            }))
        })
        .collect();
    let url = format!("{}/fhir/Basic/crash-{number}", running.base);
    let updates = spawn(Box::new(move |n, client| {
        let basic = json!({ "resourceType": "Basic", "id": format!("crash-{number}"), "code": { "text": format!("{}", n + 1) } });
        (n.to_string(), client.put(&url).header("content-type", "application/fhir+json").body(basic.to_string()))
    }));
    tokio::time::sleep(life).await;
    running.kill();
    let all = |tasks| async { futures_util::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect() };
    Round {
        number,
        templates: all(templates).await,
        transactions: all(transactions).await,
        once: all(once).await,
        updates: updates.await.unwrap(),
    }
}

async fn get(base: &str, path: &str) -> Value {
    let (status, body) = answer(reqwest::Client::new().get(format!("{base}/fhir/{path}"))).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Everything that a search finds.
async fn all(base: &str, search: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut path = format!("{search}&_count=1000");
    loop {
        let body = get(base, &path).await;
        found.extend(body["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()));
        let Some(next) = body["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next") else { return found };
        path = next["url"].as_str().unwrap().split_once("/fhir/").unwrap().1.to_owned();
    }
}

/// How often each identifier of this system occurs among the resources.
fn counted(resources: &[Value], system: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for identifier in resources.iter().flat_map(|one| one["identifier"].as_array().unwrap()).filter(|one| one["system"] == system) {
        *counts.entry(identifier["value"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// How many of these there are of `keys`: each is once or none is.
fn whole(counts: &BTreeMap<String, usize>, keys: impl Iterator<Item = String>, what: &str) -> bool {
    let of: Vec<usize> = keys.map(|key| counts.get(&key).copied().unwrap_or_default()).collect();
    let first = of[0];
    assert!(first <= 1 && of.iter().all(|count| *count == first), "{what}: half of it, or twice: {of:?}");
    first == 1
}

/// Compares what is there with what was acknowledged. Answers how many template payloads are there.
async fn verify(base: &str, round: &Round) -> usize {
    let Round { number, templates, transactions, once, updates } = round;
    let site = format!("https://lango.health/id/facility/{}", facility(*number));
    let (mrn, visit) = (format!("{site}/mrn"), format!("{site}/visit"));
    let patients = counted(&all(base, &format!("Patient?identifier={mrn}|")).await, &mrn);
    let encounters = all(base, &format!("Encounter?identifier={visit}|")).await;
    let of_encounter: BTreeMap<String, String> = encounters
        .iter()
        .map(|one| (format!("Encounter/{}", one["id"].as_str().unwrap()), one["identifier"][0]["value"].as_str().unwrap().to_owned()))
        .collect();
    let encounters = counted(&encounters, &visit);
    let mut diagnoses: BTreeMap<String, usize> = BTreeMap::new();
    for condition in all(base, &format!("Condition?_source=urn:lango:facility:{}", facility(*number))).await {
        *diagnoses.entry(of_encounter[condition["encounter"]["reference"].as_str().unwrap()].clone()).or_default() += 1;
    }
    let (mut payloads, mut records) = (0, 0);
    for (name, acknowledged, size) in templates.iter().zip(RECORDS).flat_map(|(sent, size)| sent.iter().map(move |(n, a)| (n, a, size))) {
        let keys = || (0..size).map(|i| format!("{name}-{i}"));
        let what = format!("round {number}, payload {name}");
        let there = whole(&patients, keys(), &what);
        assert_eq!((whole(&encounters, keys(), &what), whole(&diagnoses, keys(), &what)), (there, there), "{what}");
        assert!(there || !acknowledged, "{what} was acknowledged");
        payloads += usize::from(there);
        records += size * usize::from(there);
    }
    assert_eq!(patients.len(), records, "nothing that nobody sent");

    let system = format!("urn:crash:{number}");
    let patients = all(base, &format!("Patient?identifier={system}|")).await;
    let observations = all(base, &format!("Observation?identifier={system}|")).await;
    for observation in &observations {
        let subject = observation["subject"]["reference"].as_str().unwrap();
        assert!(patients.iter().any(|one| subject == format!("Patient/{}", one["id"].as_str().unwrap())), "{observation}");
    }
    let (patients, observations) = (counted(&patients, &system), counted(&observations, &system));
    for (name, acknowledged) in transactions.iter().flatten() {
        let what = format!("round {number}, transaction {name}");
        let there = whole(&patients, std::iter::once(name.clone()), &what);
        assert_eq!(whole(&observations, (0..OBSERVATIONS).map(|i| format!("{name}-{i}")), &what), there, "{what}");
        assert!(there || !acknowledged, "{what} was acknowledged");
    }

    let system = format!("urn:crash:once:{number}");
    let created = counted(&all(base, &format!("Patient?identifier={system}|")).await, &system);
    for (name, acknowledged) in once.iter().flatten() {
        let there = whole(&created, std::iter::once(name.clone()), "a conditional create");
        assert!(there || !acknowledged, "round {number}: {name} was acknowledged");
    }

    let acknowledged = updates.iter().filter(|(_, acknowledged)| *acknowledged).count();
    if acknowledged > 0 {
        let basic = get(base, &format!("Basic/crash-{number}")).await;
        let now: usize = basic["code"]["text"].as_str().unwrap().parse().unwrap();
        assert!(
            now == acknowledged || now == acknowledged + 1,
            "round {number}: {acknowledged} updates were acknowledged, {now} are there"
        );
        assert_eq!(basic["meta"]["versionId"], now.to_string(), "round {number}: every update is one version");
        let history = get(base, &format!("Basic/crash-{number}/_history?_count=1000")).await;
        let versions: Vec<String> =
            history["entry"].as_array().unwrap().iter().map(|one| one["resource"]["code"]["text"].as_str().unwrap().to_owned()).collect();
        assert_eq!(versions, (1..=now).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    }
    payloads
}

async fn no_job_is_left(store: &Store) {
    eventually("no job is left", async || {
        let open: Vec<_> = ["waiting", "running"].map(|state| store.jobs(None, Some(state), 100)).into_iter().collect();
        let open: Vec<_> = futures_util::future::try_join_all(open).await.unwrap().concat();
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await;
    let dead = store.jobs(None, Some("dead"), 10).await.unwrap();
    // A newer push takes the place of one that was cut off.
    let lost: Vec<_> = dead.iter().filter(|job| job.error.as_deref() != Some("replaced by a newer job")).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

async fn put(base: &str, path: &str, resource: &Value) {
    let request = reqwest::Client::new().put(format!("{base}/fhir/{path}")).header("content-type", "application/fhir+json");
    let (status, body) = answer(request.body(resource.to_string())).await;
    assert!(status == 200 || status == 201, "{path}: {status} {body}");
}

fn concept(code: &str) -> Value {
    json!({ "coding": [{ "system": "urn:t:group", "code": code }] })
}

/// A report whose one number the DHIS2 double knows a place for.
fn report(count: usize) -> Value {
    json!({
        "resourceType": "MeasureReport", "id": "crash", "status": "complete", "type": "summary", "measure": "https://example.org/Measure/malaria|1",
        "subject": { "identifier": { "system": "urn:lango:facility", "value": "100000-0" } },
        "period": { "start": "2026-09-01", "end": "2026-09-30" },
        "group": [{ "code": concept("treated"), "population": [{ "count": count }] }],
    })
}

both_databases!(
    async fn after_kill_9_what_was_acknowledged_is_there_once_and_what_was_due_is_done(db: &TestDb) {
        let double = Double::start(Setup::new("2.41.3")).await;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("lango.toml");
        let destination = format!(
            "[[destinations]]\nid = \"hmis\"\nkind = \"dhis2\"\nurl = \"{}\"\nusername = \"lango\"\npassword_env = \"CRASH_PASSWORD\"\n\
             [destinations.data_sets]\nmalaria = \"VEM58nY22sO\"\n",
            double.url
        );
        std::fs::write(&config, destination).unwrap();
        let start = || {
            let arguments = ["serve", "--listen", "127.0.0.1:0", "--auth", "open", "--config", config.to_str().unwrap()];
            let mut command = program::command(db, &arguments);
            command.env("CRASH_PASSWORD", "district").stderr(std::process::Stdio::null());
            Running::start(command)
        };
        let store = Store::open(&db.url).await.unwrap();
        let mut rounds: Vec<Round> = Vec::new();
        for number in 0..KILLS {
            let running = start();
            if let Some(last) = rounds.last() {
                verify(&running.base, last).await;
            } else {
                let element = json!({
                    "resourceType": "ConceptMap", "id": "dhis2-data-element", "url": "https://lango.health/fhir/ConceptMap/dhis2-data-element", "status": "active",
                    "group": [{ "source": "urn:t:group", "target": "urn:dhis2", "element": [{ "code": "treated", "target": [{ "code": ELEMENT, "equivalence": "equal" }] }] }],
                });
                put(&running.base, "ConceptMap/dhis2-data-element", &element).await;
            }
            let open = store.submissions(&["template"], true, 0, 1).await.unwrap();
            assert!(open.is_empty(), "kept submissions are finished before the first answer");
            put(&running.base, "MeasureReport/crash", &report(number + 1)).await;
            // Acknowledged, and hardly ever begun before the process is gone.
            store.commit(Unit { jobs: vec![push_job("crash", "hmis")], ..Unit::default() }).await.unwrap();
            rounds.push(round(number, running, Duration::from_millis(rand::random_range(20..600))).await);
        }
        let running = start();
        time_passes(&store).await;
        let mut payloads = 0;
        for round in &rounds {
            payloads += verify(&running.base, round).await;
        }
        no_job_is_left(&store).await;
        let golden = all(&running.base, "Patient?_tag=golden").await;
        assert_eq!(golden.len(), payloads, "the first two records of every payload are linked");
        assert!(golden.iter().all(|one| one["link"].as_array().is_some_and(|links| links.len() == 2)));
        assert_eq!(
            double.server().value(ELEMENT, "HllvX50cXC0", "O6uvpzGd5pu", "202609"),
            Some(KILLS.to_string().as_str()),
            "the newest number"
        );
        let tried: usize = rounds.iter().flat_map(|round| round.templates.iter().chain(&round.transactions)).map(Vec::len).sum();
        assert!(payloads > KILLS && tried > 4 * KILLS, "the kills came while much was being sent: {payloads} {tried}");
        store.close().await;
        drop(running);
    }
);
