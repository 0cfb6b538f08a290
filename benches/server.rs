//! The server end to end, over HTTP, with durable writes: ingest, reads, searches, templates, measures, start.
//!
//!     cargo bench --bench server            # both databases, every row of docs/performance.md
//!     cargo bench --bench server -- sqlite        # one of them
//!     cargo bench --bench server -- postgres reads  # after loading, only this: reads, searches, measures, start
//!     cargo bench --bench server -- sqlite reads audit # with every request recorded
//!     cargo bench --bench server -- sqlite recorded # many clients, recorded and not recorded in turns
//!     cargo bench --bench server -- sqlite:/tmp/big.db million start searches
//!                                             # fills this database up to a million resources first, and keeps it
//!
//! Prints a Markdown table. Clients and server share the machine; ratios between rows of one run mean more than the figures.

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod common;

use common::databases;
use common::people::{World, load};
use common::servers::{Running, client, program, send, share_out};
use common::times::Percentiles;
use lango::config::{AuditMode, AuthMode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const CLIENTS: usize = 8;
const READ_TIME: Duration = Duration::from_secs(4);
const SEARCHES: usize = 300;
const VISITS: usize = 4_000;
const VISITS_PER_PAYLOAD: usize = 100;

#[tokio::main]
async fn main() {
    let words = common::words();
    let parts = databases::parts(&words);
    println!("| database | work | result |\n|---|---|---|");
    for databases in databases::wanted(&words) {
        measure(databases.kind(), &databases.url("server").await, &parts).await;
    }
}

/// `parts`: which of `reads`, `searches`, `measures` and `start` to measure; none: all.
async fn measure(database: &str, url: &str, parts: &[String]) {
    let on = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let say = |work: &str, result: String| println!("| {database} | {work} | {result} |");
    let record = if parts.iter().any(|wanted| wanted == "audit") { AuditMode::Always } else { AuditMode::Never };
    let server = Running::start(url, AuthMode::Open, record, true).await;
    if parts.iter().any(|wanted| wanted == "million") {
        fill(&server).await;
    } else {
        ingest(&server, &say).await;
    }
    if on("reads") {
        read_by_id(&server, &say).await;
    }
    if on("searches") {
        searches(&server, &say).await;
    }
    if on("recorded") {
        recorded(&server, url, &say).await;
    }
    if on("measures") {
        let begun = Instant::now();
        let report = format!("{}/fhir/Measure/opd-diagnoses/$evaluate-measure?periodStart=2026-09&periodEnd=2026-09", server.base);
        let report: Value = server.client.get(report).send().await.expect("an answer").json().await.expect("JSON");
        let facilities = report["entry"].as_array().map_or(1, Vec::len);
        say(
            &format!("measure of {VISITS} visits, 54 groups, {facilities} facilities"),
            format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1e3),
        );
    }
    server.stop().await;
    if on("start") {
        let begun = Instant::now();
        let (process, base) = program(url);
        let took = begun.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let rest = resident_mib(&process.0.id().to_string());
        say("the program's start on this database", format!("{:.0} ms; memory at rest {rest} MiB", took.as_secs_f64() * 1e3));
        let client = client(false);
        let page: Value =
            client.get(format!("{base}/fhir/Observation?_count=500")).send().await.expect("an answer").json().await.expect("JSON");
        let ids = page["entry"].as_array().into_iter().flatten().filter_map(|entry| entry["fullUrl"].as_str());
        let urls: Vec<String> = ids.map(str::to_owned).collect();
        rate(&client, &urls, CLIENTS).await;
        say("memory after reads by id", format!("{} MiB", resident_mib(&process.0.id().to_string())));
    }
}

/// Transactions of real records, then visits through the whole pipeline.
async fn ingest(server: &Running, say: &impl Fn(&str, String)) {
    let world = Arc::new(World::read());
    for bundle in &world.first {
        server.fhir().transaction(bundle.clone()).await;
    }
    let (entries, bytes) = (world.resources(), world.people.iter().map(|person| person.bundle.len()).sum::<usize>());
    let (begun, spent) = (Instant::now(), processor_seconds());
    let (fhir, people) = (server.fhir(), Arc::clone(&world));
    share_out(CLIENTS, world.people.len(), move |n| {
        let (fhir, bundle) = (fhir.clone(), people.people[n].bundle.clone());
        async move { fhir.transaction(bundle).await }
    })
    .await;
    say(
        &format!("Synthea transaction Bundles, {CLIENTS} clients ({entries} resources, {:.0} MB)", bytes as f64 / 1e6),
        Rate::of(entries, begun, spent).to_string(),
    );

    let payloads = payloads();
    let (begun, spent) = (Instant::now(), processor_seconds());
    let (http, url) = (server.client.clone(), format!("{}/api/v1/hduApi/dataTemplates", server.base));
    share_out(CLIENTS, payloads.len(), move |n| {
        let (http, url, payload) = (http.clone(), url.clone(), payloads[n].clone());
        async move { send(&http, &url, payload).await }
    })
    .await;
    say(&format!("template visits, {VISITS} in payloads of {VISITS_PER_PAYLOAD}"), Rate::of(VISITS, begun, spent).to_string());
}

/// Copies of the Synthea records as other people, until there are a million resources.
async fn fill(server: &Running) {
    let observations = get(server, "/fhir/Observation?_summary=count").await["total"].as_u64().unwrap_or(0);
    if observations <= 100_000 {
        let world = Arc::new(World::read());
        load(&server.fhir(), &world, 1_000_000usize.div_ceil(world.resources()), CLIENTS).await;
    }
}

/// Clients and the yardstick's server are the same program, so what they cost is on both sides of the ratio.
async fn read_by_id(server: &Running, say: &impl Fn(&str, String)) {
    let page = get(server, "/fhir/Patient?_count=50&gender=female").await;
    let ids: Vec<String> =
        page["entry"].as_array().into_iter().flatten().filter_map(|entry| entry["resource"]["id"].as_str().map(str::to_owned)).collect();
    let urls: Vec<String> = ids.iter().map(|id| format!("{}/fhir/Patient/{id}", server.base)).collect();
    let plain = client(false);
    let sample = plain.get(&urls[0]).send().await.expect("a read").bytes().await.expect("a body");
    let bare = bare_handler(sample.clone()).await;
    for clients in [1, CLIENTS, 8 * CLIENTS] {
        let yardstick = rate(&plain, std::slice::from_ref(&bare), clients).await;
        let reads = rate(&plain, &urls, clients).await;
        let share = 100.0 * reads.each_second / yardstick.each_second;
        say(
            &format!("read by id, {clients} clients ({} bytes)", sample.len()),
            format!("{reads}; an axum handler with the same bytes from memory: {yardstick} ({share:.0} %)"),
        );
    }
    let packed = rate(&server.client, &urls, CLIENTS).await;
    say(&format!("read by id, {CLIENTS} clients, gzip"), packed.to_string());
}

/// The same asked of this server, which records no request, and of one on the same database that records all, in turns. The one that records runs
/// only while it is asked: else it would make AuditEvents while the other is asked.
async fn recorded(server: &Running, url: &str, say: &impl Fn(&str, String)) {
    let recording = || Running::start(url, AuthMode::Open, AuditMode::Always, true);
    let reads = get(server, "/fhir/Patient?_count=50&gender=female&_elements=id").await;
    let reads = reads["entry"].as_array().into_iter().flatten().filter_map(|entry| entry["resource"]["id"].as_str());
    let reads: Vec<String> = reads.map(|id| format!("/fhir/Patient/{id}")).collect();
    let shapes = shapes(server).await;
    let mix: Vec<String> = shapes.iter().map(|(_, path)| path.clone()).collect();
    let some = [1, CLIENTS, 8 * CLIENTS].into_iter().flat_map(|clients| {
        [("read by id".to_owned(), reads.clone(), clients), ("searches, all shapes in turn".to_owned(), mix.clone(), clients)]
    });
    let one = shapes.into_iter().map(|(name, path)| (format!("search: {name}"), vec![path], 8 * CLIENTS));
    for (name, paths, clients) in some.chain(one) {
        let (mut plain, mut kept) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let urls = |running: &Running| -> Vec<String> { paths.iter().map(|path| format!("{}{path}", running.base)).collect() };
            plain.push(rate(&server.client, &urls(server), clients).await);
            let recording = recording().await;
            kept.push(rate(&server.client, &urls(&recording), clients).await);
            recording.stop().await;
        }
        let best = |rates: Vec<Rate>| rates.into_iter().max_by(|a, b| a.each_second.total_cmp(&b.each_second)).expect("two rounds");
        let (plain, kept) = (best(plain), best(kept));
        let share = 100.0 * kept.each_second / plain.each_second;
        say(&format!("{name}, {clients} clients"), format!("{plain}; recorded: {kept} ({share:.0} %)"));
    }
    // What is left for later.
    let recording = recording().await;
    let before = loop {
        match unpublished(&recording).await {
            0 => tokio::time::sleep(Duration::from_millis(50)).await,
            count => break count,
        }
    };
    let (begun, spent) = (Instant::now(), processor_seconds());
    tokio::time::sleep(2 * READ_TIME).await;
    let (made, took) = (before - unpublished(&recording).await, begun.elapsed().as_secs_f64());
    let each = (processor_seconds() - spent) * 1e6 / made as f64;
    say(
        "answers made AuditEvents while nobody asks",
        format!("{:.0}/s, {each:.0} µs of processor each; {before} waited", made as f64 / took),
    );
    recording.stop().await;
}

/// Recorded answers of which no AuditEvents are made yet.
async fn unpublished(server: &Running) -> u64 {
    let text = server.client.get(format!("{}/metrics", server.base)).send().await.expect("an answer").text().await.expect("a body");
    let value = text.lines().find_map(|line| line.strip_prefix("lango_audit_unpublished_events "));
    value.and_then(|value| value.parse().ok()).expect("a number")
}

async fn shapes(server: &Running) -> [(&'static str, String); 11] {
    let observation = get(server, "/fhir/Observation?code=http://loinc.org|8867-4&_count=1").await;
    let subject = observation["entry"][0]["resource"]["subject"]["reference"].as_str().unwrap_or("Patient/none").to_owned();
    [
        ("Observation by code", "/fhir/Observation?code=http://loinc.org|8867-4&_count=20".to_owned()),
        ("Observation by patient", format!("/fhir/Observation?subject={subject}&_count=20")),
        (
            "Observation by patient, code and date",
            format!("/fhir/Observation?subject={subject}&code=http://loinc.org|8867-4&date=ge2010&_count=20"),
        ),
        ("Observation by code and value", "/fhir/Observation?code-value-quantity=http://loinc.org|8867-4$gt100&_count=20".to_owned()),
        ("Observation, chained to Patient", "/fhir/Observation?subject:Patient.family=massawe&_count=20".to_owned()),
        ("Patient, _has Observation", "/fhir/Patient?_has:Observation:subject:code=http://loinc.org|8867-4&_count=20".to_owned()),
        ("Patient by family", "/fhir/Patient?family=ma&_count=20".to_owned()),
        ("Encounter by date, newest first", "/fhir/Encounter?date=ge2026-09-10&_sort=-date&_count=20".to_owned()),
        ("Condition by code with Patient", "/fhir/Condition?code=B54&_include=Condition:subject&_count=20".to_owned()),
        ("newest Observations", "/fhir/Observation?_sort=-_lastUpdated&_count=20".to_owned()),
        ("count of Observations by code", "/fhir/Observation?code=http://loinc.org|8867-4&_summary=count".to_owned()),
    ]
}

async fn searches(server: &Running, say: &impl Fn(&str, String)) {
    for (name, path) in shapes(server).await {
        let mut times = Vec::with_capacity(SEARCHES);
        let mut total = 0;
        for _ in 0..SEARCHES {
            let begun = Instant::now();
            let body = server.client.get(format!("{}{path}", server.base)).send().await.expect("an answer").bytes().await.expect("a body");
            times.push(begun.elapsed());
            total = body.len();
        }
        say(&format!("search: {name}"), format!("{} ({} kB)", Percentiles::of(&mut times), total / 1000));
    }
}

/// Visits of ten facilities: the shipped example with other ids, days and diagnoses.
fn payloads() -> Vec<String> {
    let example: Value =
        serde_json::from_str(include_str!("../profiles/templates/hdu/examples/antenatal-visit.json")).expect("the shipped example");
    let families = ["Massawe", "Mushi", "Kimaro", "Mollel", "Laizer", "Temu", "Lyimo"];
    let codes = ["B54", "J06.9", "A09", "J18.9", "I10", "N39.0"];
    (0..VISITS / VISITS_PER_PAYLOAD)
        .map(|part| {
            let facility = format!("90{:04}-1", part % 10);
            let mut payload = example.clone();
            payload["data"]["facilityDetails"]["code"] = json!(facility);
            let records = (0..VISITS_PER_PAYLOAD).map(|n| {
                let number = part * VISITS_PER_PAYLOAD + n;
                let mut record = example["data"]["listGrid"][0].clone();
                let mrn = format!("{facility}-{number}");
                record["mrn"] = json!(mrn);
                record["demographicDetails"]["mrn"] = json!(mrn);
                record["demographicDetails"]["lastName"] = json!(families[number % families.len()]);
                record["demographicDetails"]["identifiers"] = json!([{ "type": "MRN", "id": mrn, "preferred": true }]);
                record["visitDetails"]["id"] = json!(format!("V-{number}"));
                record["visitDetails"]["visitDate"] = json!(format!("2026-09-{:02}", number % 28 + 1));
                record["diagnosisDetails"][0]["diagnosisCode"] = json!(codes[number % codes.len()]);
                record
            });
            payload["data"]["listGrid"] = records.collect();
            payload.to_string()
        })
        .collect()
}

async fn get(server: &Running, path: &str) -> Value {
    server.client.get(format!("{}{path}", server.base)).send().await.expect("an answer").json().await.expect("JSON")
}

/// What came of asking for [`READ_TIME`].
struct Rate {
    each_second: f64,
    /// Of this process, so of client and server, and not of a database server; what else the machine does changes it little.
    processor_micros: f64,
}

impl Rate {
    /// `done` since `begun`, when the processor had been used for `spent` seconds.
    fn of(done: usize, begun: Instant, spent: f64) -> Rate {
        let spent = processor_seconds() - spent;
        Rate { each_second: done as f64 / begun.elapsed().as_secs_f64(), processor_micros: spent * 1e6 / done as f64 }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, {:.0} µs of processor each", self.each_second, self.processor_micros)
    }
}

async fn rate(client: &reqwest::Client, urls: &[String], clients: usize) -> Rate {
    let until = Instant::now() + READ_TIME;
    let before = processor_seconds();
    let clients = (0..clients).map(|number| {
        let (client, urls) = (client.clone(), urls.to_vec());
        tokio::spawn(async move {
            let mut done = 0usize;
            while Instant::now() < until {
                let response = client.get(&urls[(number + done) % urls.len()]).send().await.expect("an answer");
                assert!(response.status().is_success());
                response.bytes().await.expect("a body");
                done += 1;
            }
            done
        })
    });
    let done: usize = futures_util::future::join_all(clients).await.into_iter().map(|done| done.expect("no panic")).sum();
    let spent = processor_seconds() - before;
    Rate { each_second: done as f64 / READ_TIME.as_secs_f64(), processor_micros: spent * 1e6 / done as f64 }
}

/// Of this process so far, in user and system mode.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |text: &str| text.parse::<u64>().unwrap_or(0);
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // A tick is a hundredth of a second on every Linux that is in use.
    (fields.get(11).map_or(0, |text| ticks(text)) + fields.get(12).map_or(0, |text| ticks(text))) as f64 / 100.0
}

/// The yardstick for reads.
async fn bare_handler(body: bytes::Bytes) -> String {
    let router = axum::Router::new().route("/", axum::routing::get(move || async move { body.clone() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn resident_mib(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
