//! The Data Template door, as an EMR sees it.

use crate::support::payloads::{self, Generated, measured, reversed, send, totals};
use crate::support::{TestDb, TestServer, both_databases};
use lango::store::Store;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A database of the same kind.
async fn another(db: &TestDb) -> TestDb {
    if db.is_sqlite() { TestDb::sqlite() } else { TestDb::postgres().await }
}

/// Waits until no job is waiting or running.
async fn settled(store: &Store) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let jobs = store.jobs(None, None, 10_000).await.unwrap();
        let open: Vec<_> = jobs.iter().filter(|job| job.state == "waiting" || job.state == "running").collect();
        if open.is_empty() {
            assert!(jobs.iter().all(|job| job.state == "done"), "{:?}", jobs.iter().find(|job| job.state != "done"));
            return;
        }
        assert!(Instant::now() < deadline, "jobs are left: {open:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many versions are superseded, golden Patients included.
async fn superseded(store: &Store) -> i64 {
    const SQL: &str = "SELECT count(*) FROM history";
    match store {
        Store::Sqlite(db) => sqlx::query_scalar(SQL).fetch_one(&db.read).await.unwrap(),
        Store::Postgres(db) => sqlx::query_scalar(SQL).fetch_one(&db.pool).await.unwrap(),
    }
}

/// What must stand in the reason why a record that was spoiled so is rejected.
fn names_the_fault(why: &str, reasons: &str) -> bool {
    match why {
        "no-first-name" => reasons.contains("'demographicDetails.firstName'"),
        "no-identifier" => reasons.contains("'demographicDetails.identifiers'"),
        "bad-visit-type" => reasons.contains("'visitDetails.visitType'") && reasons.contains("IPD"),
        "death-without-date" => reasons.contains("'outcomeDetails.deathDate'") && reasons.contains("'outcomeDetails.deathLocation'"),
        "bad-date" => reasons.contains("'visitDetails.visitDate'"),
        "unknown-key" => reasons.contains("'visitDetails'"),
        "no-outcome" => reasons.contains("'outcomeDetails'"),
        other => panic!("the generator spoils records in a new way: {other}"),
    }
}

/// Sends payloads in their order; answers the new clients and what was rejected: (facility, visit number) and the reasons.
async fn send_all(server: &TestServer, payloads: &[Value]) -> (u64, BTreeMap<(String, u64), String>) {
    let (mut new, mut rejected) = (0, BTreeMap::new());
    for payload in payloads {
        let facility = payload["data"]["facilityDetails"]["code"].as_str().unwrap();
        let records = payload["data"]["listGrid"].as_array().unwrap();
        let (status, reply) = send(server, payload).await;
        let bad = reply["invalidClients"].as_u64().unwrap_or_else(|| panic!("{status} {reply}"));
        assert_eq!(status, if bad > 0 && bad == records.len() as u64 { 400 } else { 200 }, "{reply}");
        assert_eq!(reply["failedClients"], 0, "{reply}");
        let count = |key: &str| reply[key].as_u64().unwrap();
        assert_eq!(count("newClients") + count("updatedClients") + count("ignoredClients") + bad, records.len() as u64);
        new += count("newClients");
        for line in reply["invalidClientsSummary"].as_array().unwrap() {
            let record = &records[line["index"].as_u64().unwrap() as usize];
            let visit = record["visitDetails"]["id"].as_str().or(record["visitDetail"]["id"].as_str()).unwrap();
            let number = visit.rsplit('-').next().unwrap().parse().unwrap();
            let before = rejected.insert((facility.to_owned(), number), line["validationIssues"].to_string());
            assert!(before.is_none(), "a record is named twice");
        }
    }
    (new, rejected)
}

async fn the_generators_payloads_give_its_counts(seed: u32, db: &TestDb) {
    let Generated { payloads, cells, spoiled, .. } = &payloads::generate(seed, 300, 600, "0.06");
    let server = TestServer::open(db).await;
    let (_, rejected) = send_all(&server, payloads).await;
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (rejected.keys().collect(), spoiled.keys().collect());
    assert_eq!(found, expected, "seed {seed}: exactly what was spoiled is rejected");
    for (record, why) in spoiled {
        assert!(names_the_fault(why, &rejected[record]), "seed {seed}: {why}: {}", rejected[record]);
    }
    assert_eq!(measured(&server).await, *cells, "seed {seed}");

    let store = Store::open(&db.url).await.unwrap();
    settled(&store).await;
    let (before, versions) = (totals(&server).await, superseded(&store).await);
    let (new, again) = send_all(&server, payloads).await;
    settled(&store).await;
    assert_eq!((new, again), (0, rejected.clone()), "seed {seed}: the same verdicts");
    assert_eq!(superseded(&store).await, versions, "seed {seed}: a second sending makes no versions");
    assert_eq!(measured(&server).await, *cells, "seed {seed}: after the second sending");
    assert_eq!(totals(&server).await, before, "seed {seed}");
    store.close().await;
    server.stop().await;

    let other = another(db).await;
    let server = TestServer::open(&other).await;
    send_all(&server, &reversed(payloads)).await;
    assert_eq!(measured(&server).await, *cells, "seed {seed}: in another order");
    assert_eq!(totals(&server).await, before, "seed {seed}: in another order");
    server.stop().await;
    other.discard().await;
}

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_1(db: &TestDb) {
        the_generators_payloads_give_its_counts(1, db).await;
    }
);

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_2(db: &TestDb) {
        the_generators_payloads_give_its_counts(2, db).await;
    }
);

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_3(db: &TestDb) {
        the_generators_payloads_give_its_counts(3, db).await;
    }
);
