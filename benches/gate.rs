//! What the consent decision adds to a search: 100,000 patients with ten Consents each, asked the search benchmark's questions.
//!
//!     cargo bench --bench gate                          # both databases
//!     cargo bench --bench gate -- sqlite                # one of them
//!     cargo bench --bench gate -- sqlite:/tmp/gate.db   # fills this database when it is empty, and keeps it
//!     cargo bench --bench gate -- sqlite people=10000   # fewer
//!     cargo bench --bench gate -- sqlite audit          # with every answer recorded, as under `lango serve`
//!     cargo bench --bench gate -- sqlite store          # the store alone, without HTTP; `explain` prints statements and plans too
//!
//! Four ask the same, in turns, so that what else the machine does meets them alike:
//!
//! - *open*: a server with `--auth open`; no gate, no token;
//! - *sender*: the facility that sent everything; the gate lets its rows pass without looking at a Consent;
//! - *all*: a facility that every patient permits; its answers hold what the open server's hold but for what is withheld;
//! - *half*: a facility that every second patient permits; it skips what it may not see.

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod common;
#[path = "gate/decision.rs"]
mod decision;
#[path = "gate/people.rs"]
mod people;

use common::postgres::{Cluster, Durability};
use common::servers::Running;
use common::times::at;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lango::access::clients::{self, Client};
use lango::config::{AuditMode, AuthMode};
use lango::store::Store;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Times that each question is asked by each.
const ROUNDS: usize = 1000;
/// How long one question is asked at most; a token lives for five minutes.
const LONGEST: Duration = Duration::from_secs(40);
/// Those who ask under the gate: client and facility.
const ASKERS: [(&str, &str); 3] = [("sender", "HF-SENDER"), ("all", "HF-ALL"), ("half", "HF-HALF")];

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let has = |part: &str| wanted.iter().any(|word| word == part);
    let parts = Parts { audit: has("audit"), store: has("store"), explain: has("explain") };
    let people = wanted.iter().find_map(|word| word.strip_prefix("people=")?.parse().ok()).unwrap_or(people::PEOPLE);
    let databases: Vec<&String> = wanted.iter().filter(|word| word.starts_with("sqlite") || word.starts_with("postgres")).collect();
    let on = |name: &str| databases.is_empty() || databases.iter().any(|database| *database == name);
    println!(
        "| database | search | open p50, p99 | sender | all | half | all / sender p50, p99 | all / open |\n|---|---|---|---|---|---|---|---|"
    );
    for url in databases.iter().filter(|database| database.contains(':')) {
        measure(if url.starts_with("sqlite") { "SQLite" } else { "PostgreSQL" }, url, people, parts).await;
    }
    if on("sqlite") {
        let folder = tempfile::tempdir().expect("a folder for the database");
        measure("SQLite", &format!("sqlite:{}", folder.path().join("lango.db").display()), people, parts).await;
    }
    if on("postgres") {
        let cluster = Cluster::start(Durability::Durable);
        measure("PostgreSQL", &cluster.new_database().await, people, parts).await;
    }
}

/// What is wanted besides the questions over HTTP.
#[derive(Clone, Copy)]
struct Parts {
    audit: bool,
    store: bool,
    explain: bool,
}

async fn measure(database: &str, url: &str, people: usize, parts: Parts) {
    fill(url, people).await;
    if parts.store || parts.explain {
        return decision::measure(database, url, &shapes(people), parts.explain).await;
    }
    let open = Running::start(url, AuthMode::Open, AuditMode::Never, false).await;
    let gated = Running::start(url, AuthMode::Smart, if parts.audit { AuditMode::Always } else { AuditMode::Never }, false).await;
    for (name, path) in shapes(people) {
        let mut tokens = Vec::new();
        for (client, _) in ASKERS {
            tokens.push(token(&gated, client).await);
        }
        let mut asked: Vec<(&Running, Option<&str>)> = vec![(&open, None)];
        asked.extend(tokens.iter().map(|token| (&gated, Some(token.as_str()))));
        let mut times = vec![Vec::with_capacity(ROUNDS); asked.len()];
        let mut found = vec![0; asked.len()];
        let begun = Instant::now();
        for round in 0..ROUNDS {
            // What takes long is asked less often.
            if begun.elapsed() > LONGEST {
                break;
            }
            for turn in 0..asked.len() {
                let who = (round + turn) % asked.len();
                let (server, token) = asked[who];
                let (took, entries) = ask(server, &path, token).await;
                times[who].push(took);
                found[who] = entries;
            }
        }
        let rounds = times[0].len();
        let mut cells = Vec::new();
        for (times, found) in times.iter_mut().zip(found) {
            times.sort_unstable();
            cells.push(format!("{:.2}, {:.2} ms ({found})", at(times, 0.5), at(times, 0.99)));
        }
        let adds = |to: usize, share: f64| 100.0 * (at(&times[2], share) / at(&times[to], share) - 1.0);
        let adds = [1, 0].map(|to| format!("{:+.0} %, {:+.0} %", adds(to, 0.5), adds(to, 0.99)));
        println!("| {database} | {name} | {} | {} |", cells.join(" | "), adds.join(" | "));
        assert!(rounds > 2, "{name} takes too long to be measured");
    }
    open.stop().await;
    gated.stop().await;
}

/// The questions of the search benchmark (`benches/server.rs`), and a count of something common.
fn shapes(people: usize) -> Vec<(&'static str, String)> {
    let one = people / 2 / 25 * 25;
    let shapes = [
        ("Observation by code", "Observation?code=http://loinc.org|8867-4&_count=20".to_owned()),
        ("Observation by patient", format!("Observation?subject=Patient/p{one}&_count=20")),
        (
            "Observation by patient, code and date",
            format!("Observation?subject=Patient/p{one}&code=http://loinc.org|8867-4&date=ge2010&_count=20"),
        ),
        ("Observation by code and value", "Observation?code-value-quantity=http://loinc.org|8867-4$gt100&_count=20".to_owned()),
        ("Observation, chained to Patient", "Observation?subject:Patient.family=massawe19&_count=20".to_owned()),
        ("Patient, _has Observation", "Patient?_has:Observation:subject:code=http://loinc.org|8867-4&_count=20".to_owned()),
        ("Patient by family", "Patient?family=massawe19&_count=20".to_owned()),
        ("Encounter by date, newest first", "Encounter?date=ge2026-12-20&_sort=-date&_count=20".to_owned()),
        ("Condition by code with Patient", "Condition?code=B54&_include=Condition:subject&_count=20".to_owned()),
        ("newest Observations", "Observation?_sort=-_lastUpdated&_count=20".to_owned()),
        ("count of Observations by code", "Observation?code=http://loinc.org|8867-4&_summary=count".to_owned()),
    ];
    shapes.into_iter().map(|(name, path)| (name, format!("/fhir/{path}"))).collect()
}

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../tests/data/keys/es384.pem")).expect("a test key")
}

/// People and clients, unless an earlier run put them there.
async fn fill(url: &str, people: usize) {
    // The first start of a server makes what lango ships.
    Running::start(url, AuthMode::Open, AuditMode::Never, false).await.stop().await;
    let store = Store::open(url).await.expect("the database opens");
    if clients::find(&store, "all").await.expect("the database answers").is_none() {
        people::load(&store, people).await;
        let mut public = Jwk::from_encoding_key(&key(), Algorithm::ES384).expect("a public key");
        public.common.key_id = Some("test".into());
        let jwks = json!({ "keys": [public] }).to_string();
        for (id, facility) in ASKERS {
            let client = Client { jwks: Some(jwks.clone()), ..Client::new(id, facility, "system/*.rs") };
            clients::add(&store, &client).await.expect("a new client");
        }
    }
    store.close().await;
}

/// How long the answer took, and how many it found: the entries, or the total of a count.
async fn ask(server: &Running, path: &str, token: Option<&str>) -> (Duration, usize) {
    let mut request = server.client.get(format!("{}{path}", server.base));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let begun = Instant::now();
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let body = response.bytes().await.expect("a body");
    let took = begun.elapsed();
    assert!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    let bundle: Value = serde_json::from_slice(&body).expect("JSON");
    let counted = bundle["total"].as_u64().filter(|_| bundle["entry"].is_null());
    (took, counted.map_or_else(|| bundle["entry"].as_array().map_or(0, Vec::len), |total| total as usize))
}

/// A token for treatment.
async fn token(server: &Running, id: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({
        "iss": id, "sub": id, "aud": format!("{}/auth/token", server.base), "exp": now + 240, "iat": now, "jti": uuid::Uuid::new_v4().to_string(),
        "extensions": { "hl7-b2b": { "purpose_of_use": ["TREAT"] } },
    });
    let mut header = Header::new(Algorithm::ES384);
    header.kid = Some("test".into());
    let assertion = jsonwebtoken::encode(&header, &claims, &key()).expect("a signature");
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ])
        .finish();
    let request =
        server.client.post(format!("{}/auth/token", server.base)).header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    answer["access_token"].as_str().unwrap_or_else(|| panic!("a token: {answer}")).to_owned()
}
