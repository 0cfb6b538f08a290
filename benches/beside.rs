//! lango beside another FHIR server in one run: the same records, then the same questions, in turns, each a program of its own.
//!
//!     LANGO_HELIOS=/path/to/hfs LANGO_HELIOS_DATA=/folder cargo bench --bench beside -- sqlite
//!     LANGO_HELIOS=… LANGO_HELIOS_DATA=… cargo bench --bench beside -- sqlite has chain         # one of them, some questions
//!     cargo bench --bench beside -- sqlite                                                      # lango beside itself: how equal equals are
//!
//! `LANGO_HELIOS`: the program `hfs` of Helios (helios-hfs 0.2.7, built with R4, sqlite and postgres). `LANGO_HELIOS_DATA`: a folder with
//! `search-parameters-r4.json`, all R4 search parameters in one Bundle; without it hfs knows about ten, which would be no comparison.
//!
//! Durability: on SQLite lango commits with `synchronous=FULL`, hfs with `NORMAL`, so a power cut can take hfs's last commits and none of
//! lango's. On PostgreSQL both have the same server with `fsync` and `synchronous_commit` on; hfs reaches one by TCP only, so it is a server of
//! yours with empty databases `lango` and `other`: `cargo bench --bench beside -- 'postgres://user@127.0.0.1:5432/{}'`.

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod common;

use common::databases::{self, Databases};
use common::people::{World, load_people};
use common::servers::{Fhir, Process, client, program};
use common::shapes::{Shape, shapes};
use common::times::{self, Percentiles};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// The records are loaded in so many turns.
const PARTS: usize = 8;
/// Times that each server is asked each question, and how long at most.
const ROUNDS: usize = 200;
const LONGEST: Duration = Duration::from_secs(20);
/// How long a server may take to start: the first start of hfs writes its search parameters.
const START: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() {
    let words = common::words();
    let parts = databases::parts(&words);
    let world = Arc::new(World::with_risks());
    println!("load at the start {}\n", times::load());
    for databases in databases::wanted(&words) {
        measure(&databases, &world, &parts).await;
    }
    println!("\nload at the end {}", times::load());
}

/// The other server: its name, its program, its FHIR base.
async fn other(databases: &Databases) -> (&'static str, Process, String) {
    let url = databases.url("other").await;
    let Some(hfs) = std::env::var_os("LANGO_HELIOS") else {
        let (process, base) = program(&url);
        return ("lango again", process, format!("{base}/fhir"));
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let base = format!("http://127.0.0.1:{port}");
    let (backend, database) = match url.strip_prefix("sqlite:") {
        Some(path) => ("sqlite", path.to_owned()),
        None => ("postgres", url),
    };
    let child = Command::new(hfs)
        .env("HFS_STORAGE_BACKEND", backend)
        .env("HFS_DATABASE_URL", database)
        .env("HFS_DATA_DIR", std::env::var_os("LANGO_HELIOS_DATA").expect("LANGO_HELIOS_DATA says where hfs's search parameters are"))
        .env("HFS_AUDIT_BACKEND", "none")
        .env("HFS_LOG_LEVEL", "warn")
        .env("HFS_SERVER_HOST", "127.0.0.1")
        .env("HFS_SERVER_PORT", port.to_string())
        .env("HFS_BASE_URL", &base)
        .env("HFS_REQUEST_TIMEOUT", "600")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("hfs starts");
    let process = Process(child);
    let (client, begun) = (client(false), Instant::now());
    while !client.get(format!("{base}/metadata")).send().await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(begun.elapsed() < START, "hfs does not answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ("Helios", process, base)
}

async fn measure(databases: &Databases, world: &Arc<World>, parts: &[String]) {
    let (_lango, base) = program(&databases.url("lango").await);
    let (name, _other, other_base) = other(databases).await;
    let servers = [Fhir { base: format!("{base}/fhir"), client: client(false) }, Fhir { base: other_base, client: client(false) }];
    println!("| {} | lango | {name} | lango is ahead |\n|---|---|---|---|", databases.kind());
    let mut spent = [Duration::ZERO; 2];
    for server in &servers {
        for bundle in &world.first {
            server.transaction(bundle.clone()).await;
        }
    }
    let size = world.people.len().div_ceil(PARTS);
    for part in 0..PARTS {
        for turn in 0..servers.len() {
            let who = (part + turn) % servers.len();
            let begun = Instant::now();
            let people = part * size..((part + 1) * size).min(world.people.len());
            load_people(&servers[who], world, people, 1, CLIENTS).await;
            spent[who] += begun.elapsed();
        }
    }
    let rate = spent.map(|spent| world.resources() as f64 / spent.as_secs_f64());
    println!(
        "| transaction Bundles, {CLIENTS} clients | {:.0} resources/s | {:.0} resources/s | {:.1}× |",
        rate[0],
        rate[1],
        rate[0] / rate[1]
    );

    let asked = [shapes(&servers[0], world).await, shapes(&servers[1], world).await];
    for (own, others) in asked[0].iter().zip(&asked[1]) {
        if parts.is_empty() || parts.iter().any(|part| own.name.contains(part.as_str())) {
            println!("{}", line(&servers, [own, others]).await);
        }
    }
    println!();
}

async fn line(servers: &[Fhir; 2], shapes: [&Shape; 2]) -> String {
    let mut taken = [Vec::new(), Vec::new()];
    let mut said = [String::new(), String::new()];
    let begun = Instant::now();
    for round in 0..=ROUNDS {
        for turn in 0..servers.len() {
            let who = (round + turn) % servers.len();
            let paths = &shapes[who].paths;
            let answer = servers[who].get(&paths[round % paths.len()]).await;
            if round == 0 {
                said[who] = if answer.status == 200 { format!("{} found", answer.found()) } else { format!("status {}", answer.status) };
            } else {
                taken[who].push(answer.took);
            }
        }
        if begun.elapsed() > LONGEST {
            break;
        }
    }
    let [own, others] = taken.each_mut().map(|times| Percentiles::of(times));
    format!("| {} | {own} ({}) | {others} ({}) | {:.1}× |", shapes[0].name, said[0], said[1], others.p50 / own.p50)
}
