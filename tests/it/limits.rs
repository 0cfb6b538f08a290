//! How much one client gets: of one patient, of how many patients, and at once.

use crate::lookup::World;
use crate::support::guarded::Guarded;
use crate::support::server::answer;
use crate::support::{TestServer, both_databases, sealed};
use lango::store::Store;
use serde_json::{Value, json};
use std::time::Instant;

/// Status and `Retry-After` of a read.
async fn asked(world: &World, token: &str, path: &str) -> (u16, Option<u64>, Value) {
    let response = world.server.client.get(world.server.url(path)).bearer_auth(token).send().await.unwrap();
    let wait = response.headers().get("retry-after").map(|seconds| seconds.to_str().unwrap().parse().unwrap());
    let status = response.status().as_u16();
    (status, wait, serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

both_databases!(
    async fn who_reads_one_patient_again_and_again_is_told_to_wait(db: &TestDb) {
        let world = World::with(db, |settings| settings.limits.reads_per_patient = 3).await;
        world.consent("k-a", "a", json!({ "type": "permit" })).await;
        // In whatever way it is read.
        let ways = ["/fhir/Observation/a-hr", "/fhir/Observation?patient=a", "/fhir/Patient/a/_history"];
        for path in ways {
            assert_eq!(asked(&world, &world.asker, path).await.0, 200, "{path}");
        }
        for path in ways {
            let (status, wait, outcome) = asked(&world, &world.asker, path).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (429, &json!("throttled")), "{path}");
            assert!(wait.is_some_and(|seconds| (30..=61).contains(&seconds)), "{wait:?}");
            assert_eq!(outcome.as_object().unwrap().len(), 2, "nothing of the answer is in it: {outcome}");
        }
        // Others' reads, other patients and a facility's own data are not touched, and what is hidden is as hidden as ever.
        for _ in 0..6 {
            assert_eq!(asked(&world, world.token("a"), "/fhir/Observation/a-hr").await.0, 200);
            assert_eq!(asked(&world, &world.asker, "/fhir/Observation/z-hr").await.0, 404);
        }
        world.consent("k-z", "z", json!({ "type": "permit" })).await;
        assert_eq!(asked(&world, &world.asker, "/fhir/Observation/z-hr").await.0, 200);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_reads_very_many_patients_is_told_to_wait_and_one_page_can_be_too_much(db: &TestDb) {
        let world = World::with(db, |settings| settings.limits.patients_per_hour = 1).await;
        for (id, patient) in [("k-a", "a"), ("k-z", "z")] {
            world.consent(id, patient, json!({ "type": "permit" })).await;
        }
        assert_eq!(asked(&world, &world.asker, "/fhir/Patient/a").await.0, 200);
        let (status, wait, _) = asked(&world, &world.asker, "/fhir/Patient/z").await;
        assert!(status == 429 && wait.is_some_and(|seconds| seconds > 3_000), "{wait:?}");
        assert_eq!(asked(&world, &world.asker, "/fhir/Observation").await.0, 429, "a page with both");
        assert_eq!(asked(&world, &world.asker, "/fhir/Observation/a-hr").await.0, 200, "who was read before");
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_knocks_without_end_fills_no_disk(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let start = Instant::now();
        for _ in 0..10 {
            let paths = ["/fhir/Patient", "/api/v1/hduApi/unmapped", "/console/clients", "/auth/token", "/nowhere"];
            let knocks = paths.iter().cycle().take(20).map(|path| server.client.post(server.url(path)).body("x").send());
            for answer in futures_util::future::join_all(knocks).await {
                assert!(answer.unwrap().status().is_client_error());
            }
        }
        let seconds = start.elapsed().as_secs() + 2;
        sealed(&store).await;
        let recorded = store.sealed_after(0, 10_000).await.unwrap().len() as u64;
        assert!((20..=20 * seconds).contains(&recorded), "{recorded} in {seconds} s");
        store.close().await;
        server.stop().await;
    }
);

both_databases!(
    async fn a_request_that_comes_beside_too_many_waits_and_afterwards_there_is_room(db: &TestDb) {
        let world = World::with(db, |settings| settings.limits.requests_at_once = 2).await;
        let reads =
            (0..40).map(|_| answer(world.server.client.get(world.server.url("/fhir/Observation?_count=1000")).bearer_auth(&world.asker)));
        let statuses: Vec<u16> = futures_util::future::join_all(reads).await.into_iter().map(|(status, _)| status).collect();
        assert!(statuses.contains(&200) && statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
        assert_eq!(world.get(&world.asker, "/fhir/Observation").await.0, 200);
        world.server.stop().await;
    }
);
