//! How searches grow: the same questions to three servers with 1, 4 and 16 times the Synthea data, in turns, so that what else the machine
//! does meets them alike.
//!
//!     cargo bench --bench growth                             # SQLite, then PostgreSQL
//!     cargo bench --bench growth -- sqlite                   # one of them
//!     cargo bench --bench growth -- 'sqlite:/tmp/{}.db'      # fills /tmp/x1.db, /tmp/x4.db and /tmp/x16.db when they are empty, and keeps them
//!     cargo bench --bench growth -- sqlite has chain         # only the questions whose names hold one of these words
//!     cargo bench --bench growth -- sqlite small             # 1, 2 and 4 times
//!
//! Prints a Markdown table, one line for each question. The goal: at 16 times the data p99 within 1.5 times, but for what counts or sorts all matches.

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod common;

use common::databases::{self, Databases};
use common::people::{World, load};
use common::servers::{Fhir, Running};
use common::shapes::{Finds, Shape, shapes};
use common::times::{self, Percentiles};
use lango::config::{AuditMode, AuthMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// Times that each server is asked each question by one client.
const ROUNDS: usize = 400;
/// And for how long by [`CLIENTS`], in each of [`TURNS`] turns.
const TURN: Duration = Duration::from_millis(250);
const TURNS: usize = 2;
/// One question is asked no longer than this.
const LONGEST: Duration = Duration::from_secs(40);

#[tokio::main]
async fn main() {
    let words = common::words();
    let mut parts = databases::parts(&words);
    let small = parts.iter().any(|part| part == "small");
    parts.retain(|part| part != "small");
    let scales = if small { [1, 2, 4] } else { [1, 4, 16] };
    let world = Arc::new(World::with_risks());
    println!("{} resources, and {} and {} times as many; load at the start {}\n", world.resources(), scales[1], scales[2], times::load());
    for databases in databases::wanted(&words) {
        measure(&databases, &world, scales, &parts).await;
    }
    println!("\nload at the end {}", times::load());
}

async fn measure(databases: &Databases, world: &Arc<World>, scales: [usize; 3], parts: &[String]) {
    let mut running = Vec::new();
    for scale in scales {
        let url = databases.url(&format!("x{scale}")).await;
        let server = Running::start(&url, AuthMode::Open, AuditMode::Never, false).await;
        if server.fhir().get("Patient?_summary=count").await.json()["total"] == 0 {
            let begun = Instant::now();
            load(&server.fhir(), world, scale, CLIENTS).await;
            let rate = (world.resources() * scale) as f64 / begun.elapsed().as_secs_f64();
            eprintln!("{} loaded {scale} times at {rate:.0} resources/s", databases.kind());
            settle(&url).await;
        }
        running.push(server);
    }
    let servers: Vec<Fhir> = running.iter().map(Running::fhir).collect();
    let mut asked = Vec::new();
    for server in &servers {
        asked.push(shapes(server, world).await);
    }
    let head: Vec<String> = scales.iter().map(|scale| format!("{scale}×: p50, p95, p99; with {CLIENTS} clients")).collect();
    println!("| {} | found | {} | p50, p99 grow |\n|---|---|---|---|---|---|", databases.kind(), head.join(" | "));
    for number in 0..asked[0].len() {
        let name = &asked[0][number].name;
        if parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str())) {
            let questions: Vec<(&Fhir, &Shape)> = servers.iter().zip(asked.iter().map(|shapes| &shapes[number])).collect();
            println!("{}", line(&questions).await);
        }
    }
    println!();
    for server in running {
        server.stop().await;
    }
}

/// What autovacuum does within minutes of a load, so that it does not do it during the questions.
async fn settle(url: &str) {
    if url.starts_with("postgres") {
        use sqlx::{Connection, Executor};
        let mut connection = sqlx::PgConnection::connect(url).await.expect("the database answers");
        connection.execute("VACUUM (ANALYZE)").await.expect("the database is vacuumed");
        connection.close().await.ok();
    }
}

/// One question to each server in turns: first by one client, then by many.
async fn line(questions: &[(&Fhir, &Shape)]) -> String {
    let mut taken = vec![Vec::with_capacity(ROUNDS); questions.len()];
    let mut found = vec![0; questions.len()];
    let begun = Instant::now();
    // The first round is for the caches.
    for round in 0..=ROUNDS {
        for turn in 0..questions.len() {
            let who = (round + turn) % questions.len();
            let (server, shape) = questions[who];
            let path = &shape.paths[round % shape.paths.len()];
            let answer = server.get(path).await;
            assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
            if round == 0 {
                found[who] = answer.found();
            } else {
                taken[who].push(answer.took);
            }
        }
        if begun.elapsed() > LONGEST {
            break;
        }
    }
    let mut rates = vec![0.0; questions.len()];
    for _ in 0..TURNS {
        for (who, (server, shape)) in questions.iter().enumerate() {
            rates[who] += rate(server, &shape.paths).await / TURNS as f64;
        }
    }
    let times: Vec<Percentiles> = taken.iter_mut().map(|times| Percentiles::of(times)).collect();
    let cells: Vec<String> = times
        .iter()
        .zip(&rates)
        .map(|(times, rate)| format!("{:.2}, {:.2}, {:.2} ms; {rate:.0}/s", times.p50, times.p95, times.p99))
        .collect();
    let shape = questions[0].1;
    let finds = match shape.finds {
        Finds::Same => "",
        Finds::More => " of more",
        Finds::All => " of all",
    };
    let found = if found.iter().all(|n| *n == found[0]) { found[0].to_string() } else { format!("{found:?}") };
    let (first, last) = (&times[0], &times[times.len() - 1]);
    format!("| {} | {found}{finds} | {} | {:.2}, {:.2} |", shape.name, cells.join(" | "), last.p50 / first.p50, last.p99 / first.p99)
}

/// Answers a second to [`CLIENTS`].
async fn rate(server: &Fhir, paths: &[String]) -> f64 {
    let (until, done) = (Instant::now() + TURN, Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let (server, paths, done) = (server.clone(), paths.to_vec(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut number = client;
            while Instant::now() < until {
                server.get(&paths[number % paths.len()]).await;
                done.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        })
    });
    for client in futures_util::future::join_all(clients).await {
        client.expect("no panic");
    }
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}
