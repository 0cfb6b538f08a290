//! A withdrawal counts from its acknowledgement on, for everybody, in every process.

use crate::consent::World;
use crate::support::guarded::{Guarded, consent, purpose};
use crate::support::server::answer;
use crate::support::smart::signed_token;
use crate::support::{TestDb, TestServer, both_databases, sealed};
use lango::access::audit::{Action, Event};
use lango::store::closing::Basis;
use lango::store::{Store, Unit, WriteError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const READERS: usize = 16;
/// Times that the consent is given and withdrawn.
const ROUNDS: usize = 4;

/// Ways to the records of Patient/a.
const WAYS: [&str; 10] = [
    "Observation/a-hr",
    "Observation/a-hr/_history/1",
    "Observation/a-hiv/_history",
    "Observation?patient=Patient/a",
    "Observation?code=8867-4&_total=accurate",
    "Observation?_summary=count",
    "Encounter?_has:Observation:encounter:code=8867-4",
    "Encounter?_revinclude=Observation:encounter",
    "Patient/a/Observation",
    "_history",
];

/// Whether an answer holds anything of the patient. What the caller itself did, which its own AuditEvents tell, stays told.
fn holds(answer: &Value) -> bool {
    let mut answer = answer.clone();
    if let Some(entries) = answer["entry"].as_array_mut() {
        entries.retain(|entry| entry["resource"]["resourceType"] != "AuditEvent");
    }
    let text = answer["entry"].to_string() + &answer["id"].to_string();
    let counted = answer["type"] == "searchset" && answer["total"].as_u64().is_some_and(|total| total > 0);
    counted || ["a-hr", "a-hiv", "a-visit"].iter().any(|id| text.contains(id))
}

/// Reads from `servers` without a pause while the consent comes and goes. A request that was sent after the acknowledgement of a withdrawal and
/// was answered before the consent came back must be empty; and so must every other whose release came after the withdrawal in the order of commits,
/// which is the order of the audit's chain.
async fn readers_see_nothing(db: &TestDb, world: &World, servers: &[(&TestServer, &str)]) {
    let stop = Arc::new(AtomicBool::new(false));
    // Odd while a withdrawal is acknowledged and nothing else was begun.
    let state = Arc::new(AtomicUsize::new(0));
    let (full, empty) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let (server, token) = servers[reader % servers.len()];
        let (client, base, token) = (server.client.clone(), server.base.clone(), token.to_owned());
        let (stop, state, full, empty) = (Arc::clone(&stop), Arc::clone(&state), Arc::clone(&full), Arc::clone(&empty));
        readers.push(tokio::spawn(async move {
            let (mut way, mut shown) = (reader, Vec::new());
            while !stop.load(Ordering::SeqCst) {
                way += 1;
                let path = WAYS[way % WAYS.len()];
                let before = state.load(Ordering::SeqCst);
                let id = format!("reader-{reader}-{way}");
                let (status, told) =
                    answer(client.get(format!("{base}/fhir/{path}")).bearer_auth(&token).header("x-request-id", &id)).await;
                assert!(matches!(status, 200 | 404), "{path}: {told}");
                let withdrawn = before % 2 == 1 && state.load(Ordering::SeqCst) == before;
                assert!(!(withdrawn && holds(&told)), "{path} after the withdrawal: {told}");
                if holds(&told) { &full } else { &empty }.fetch_add(1, Ordering::SeqCst);
                if holds(&told) {
                    shown.push(id);
                }
            }
            shown
        }));
    }
    let more = async |counter: &AtomicUsize| {
        let until = counter.load(Ordering::SeqCst) + 2 * READERS;
        while counter.load(Ordering::SeqCst) < until && !readers.iter().any(|reader| reader.is_finished()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    for round in 0..ROUNDS {
        world.consent("c", json!({ "type": "permit" })).await;
        more(&full).await;
        // Withdrawn in each of the ways there are: deleted, inactive, narrowed, denied by another.
        match round % 4 {
            0 => assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/c", &Value::Null).await.0, 204),
            1 => {
                let mut inactive = consent("c", "a", json!({ "type": "permit" }));
                inactive["status"] = json!("inactive");
                world.put(&world.desk, &inactive).await;
            }
            2 => world.consent("c", json!({ "type": "permit", "purpose": purpose("HPAYMT") })).await,
            _ => world.consent("d", json!({ "type": "deny" })).await,
        }
        state.fetch_add(1, Ordering::SeqCst);
        more(&empty).await;
        state.fetch_add(1, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    let mut shown = BTreeSet::new();
    for reader in readers {
        shown.extend(reader.await.expect("no reader saw what was withdrawn"));
    }
    assert!(!shown.is_empty());
    check_order(db, &shown).await;
}

/// All of `shown`, ids of requests whose answers held something, were released while the consent was given.
async fn check_order(db: &TestDb, shown: &BTreeSet<String>) {
    let store = Store::open(&db.url).await.unwrap();
    sealed(&store).await;
    let (mut given, mut changes, mut after, mut released) = (false, 0, 0, BTreeSet::new());
    loop {
        let rows = store.sealed_after(after, 5_000).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = last.position;
        for row in &rows {
            let event: Event = serde_json::from_str(&row.event).unwrap();
            let changed =
                event.what.iter().any(|name| name.starts_with("Consent/")) && !matches!(event.action, Action::Read | Action::Execute);
            match event.request_id {
                // Each one gives what the one before took.
                _ if changed => (given, changes) = (!given, changes + 1),
                Some(id) if shown.contains(&id) => {
                    assert!(given, "{} was released after the withdrawal", event.request);
                    released.insert(id);
                }
                _ => {}
            }
        }
    }
    assert_eq!(changes, 2 * ROUNDS);
    assert_eq!(&released, shown, "no answer without its record");
    store.close().await;
}

both_databases!(
    async fn no_answer_after_the_acknowledgement_holds_what_was_withdrawn(db: &TestDb) {
        let world = World::new(db).await;
        readers_see_nothing(db, &world, &[(&world.server, &world.asker)]).await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_one_of_another_process_on_the_database() {
    let db = TestDb::postgres().await;
    let world = World::new(&db).await;
    let second = TestServer::smart(&db).await;
    let token = signed_token(&second, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
    readers_see_nothing(&db, &world, &[(&second, &token), (&world.server, &world.asker)]).await;
    second.stop().await;
    drop(world);
    db.discard().await;
}

both_databases!(
    async fn what_was_decided_before_something_was_closed_is_not_released(db: &TestDb) {
        let world = World::new(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let patient = lango::definitions::r4().type_code("Patient").unwrap();
        let key = async |id: &str| store.person_keys(patient, id, None).await.unwrap()[0];
        let (a, b) = (key("a").await, key("b").await);
        let before = store.closings().await.unwrap();
        world.consent("c", json!({ "type": "permit" })).await;
        assert_eq!(store.closings().await.unwrap(), before, "who permits for the first time closes nothing");
        let is_released = async |since: i64, patients: Option<BTreeSet<i64>>| match store
            .commit(Unit::of_audit(Vec::new(), vec![Basis { since, patients }]))
            .await
        {
            Ok(_) => true,
            Err(WriteError::Stale) => false,
            Err(error) => panic!("{error}"),
        };
        assert!(is_released(before, None).await);
        world.consent("c", json!({ "type": "permit", "purpose": purpose("HPAYMT") })).await;
        let after = store.closings().await.unwrap();
        for (since, patients, released) in [
            (before, None, false),
            (before, Some([a, b].into()), false),
            (before, Some([b].into()), true),
            (after, None, true),
            (after, Some([a].into()), true),
        ] {
            assert_eq!(is_released(since, patients.clone()).await, released, "{since} {patients:?}");
        }
        store.close().await;
    }
);

both_databases!(
    async fn an_answer_that_is_overtaken_again_and_again_gets_its_turn(db: &TestDb) {
        const CLOSERS: usize = 3;
        let world = World::new(db).await;
        world.consent("c", json!({ "type": "permit" })).await;
        let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut closers = Vec::new();
        for closer in 0..CLOSERS {
            let (client, base, desk) = (world.server.client.clone(), world.server.base.clone(), world.desk.clone());
            let (stop, closed) = (Arc::clone(&stop), Arc::clone(&closed));
            closers.push(tokio::spawn(async move {
                let id = format!("b-{closer}");
                let body = consent(&id, "b", json!({ "type": "deny" })).to_string();
                while !stop.load(Ordering::SeqCst) {
                    let request = client.put(format!("{base}/fhir/Consent/{id}")).bearer_auth(&desk);
                    let (status, told) = answer(request.header("content-type", "application/fhir+json").body(body.clone())).await;
                    assert!(matches!(status, 200 | 201), "{told}");
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        // A search hinges on everybody's Consents.
        let before = closed.load(Ordering::SeqCst);
        for _ in 0..25 {
            let (status, told) = world.get(&world.asker, "/fhir/Observation?status=final&_revinclude=*&_include=*&_total=accurate").await;
            assert_eq!((status, &told["total"]), (200, &json!(2)), "{told}");
        }
        assert!(closed.load(Ordering::SeqCst) > before, "who closes gets theirs too");
        stop.store(true, Ordering::SeqCst);
        for closer in closers {
            closer.await.unwrap();
        }
        // Its turn: until it is over nothing is closed, in no process.
        let store = Store::open(&db.url).await.unwrap();
        let quiet = store.quiet().await.unwrap();
        let withdrawal = world.send(&world.desk, "DELETE", "/fhir/Consent/c", &Value::Null);
        tokio::pin!(withdrawal);
        if !db.is_sqlite() {
            let waits = tokio::time::timeout(Duration::from_millis(300), &mut withdrawal).await;
            assert!(waits.is_err(), "{waits:?}");
        }
        drop(quiet);
        assert_eq!(withdrawal.await.0, 204);
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 404);
        store.close().await;
    }
);
