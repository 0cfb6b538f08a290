//! Notices: the patient and the facility find them, and the operator's address is told that they are there.

use crate::lookup::{World, ids};
use crate::support::both_databases;
use crate::support::eventually;
use crate::support::guarded::{Guarded, consent};
use crate::support::login::{Browser, add_portal, user};
use crate::support::smart::signed_token;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use lango::access::clients::{self, Client};
use lango::exchange::notice::NOTICE_JOB;
use lango::store::Store;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// An address that notes what it is told, and answers what it is to answer.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    told: Vec<(String, Value)>,
    /// The next answers; then 204.
    answers: Vec<u16>,
}

impl Desk {
    async fn open(&self) -> String {
        async fn told(State(desk): State<Desk>, headers: HeaderMap, body: String) -> StatusCode {
            let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            let mut noted = desk.0.lock().unwrap();
            noted.told.push((token, serde_json::from_str(&body).unwrap()));
            let answer = if noted.answers.is_empty() { 204 } else { noted.answers.remove(0) };
            StatusCode::from_u16(answer).unwrap()
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/notices", listener.local_addr().unwrap());
        let router = Router::new().route("/notices", post(told)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn told(&self) -> Vec<(String, Value)> {
        self.0.lock().unwrap().told.clone()
    }
}

async fn breaks_glass(world: &World) {
    let emergency = json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": "unconscious", "subject_id": "MCT-7" });
    let token = signed_token(&world.server, "asker", &emergency).await;
    assert_eq!(world.get(&token, "/fhir/Observation/a-hr").await.0, 200);
}

/// As if every pause before another try had ended.
async fn pauses_end(store: &Store) {
    const SQL: &str = "UPDATE job SET run_at = 0 WHERE state = 'waiting'";
    match store {
        Store::Sqlite(db) => sqlx::query(SQL).execute(&db.write).await.map(drop).unwrap(),
        Store::Postgres(db) => sqlx::query(SQL).execute(&db.pool).await.map(drop).unwrap(),
    }
}

/// Waits for the officer's notice to have this status.
async fn comes_to(world: &World, store: &Store, status: &str) -> Value {
    eventually(status, async || {
        pauses_end(store).await;
        let (_, found) = world.get(world.token("operator"), "/fhir/Communication").await;
        let notice = found["entry"][0]["resource"].clone();
        if notice["status"] == json!(status) { Ok(notice) } else { Err((found, store.jobs(Some(NOTICE_JOB), None, 10).await.unwrap())) }
    })
    .await
}

both_databases!(
    async fn a_patient_finds_by_their_own_login_that_the_glass_was_broken(db: &TestDb) {
        let world = World::new(db).await;
        let store = Store::open(&db.url).await.unwrap();
        add_portal(db, "patient/*.cruds launch/patient").await;
        // Of one person's Patients another than the one that was read.
        user(db, &["add", "asha", "--facility", "HF-C", "--patient", "c"]);
        user(db, &["add", "zuri", "--facility", "HF-A", "--patient", "z"]);
        breaks_glass(&world).await;
        let notice = comes_to(&world, &store, "in-progress").await;
        assert!(notice["statusReason"]["text"].as_str().unwrap().contains("nobody was called"), "{notice}");
        let browser = Browser::at(&world.server);
        let granted = browser.granted("asha", "patient/*.cruds launch/patient", "").await;
        let token = granted["access_token"].as_str().unwrap();
        let (_, found) = world.get(token, "/fhir/Communication").await;
        assert_eq!(ids(&found).len(), 1, "{found}");
        let message = &found["entry"][0]["resource"];
        assert_eq!((message["status"].as_str(), message["sender"]["identifier"]["value"].as_str()), (Some("completed"), Some("HF-B")));
        assert!(message["payload"][0]["contentString"].as_str().unwrap().contains("emergency"), "{message}");
        assert_eq!(ids(&world.get(token, "/fhir/Task").await.1).len(), 0, "the officer's work is the officer's");
        let portal = [("DELETE", Value::Null), ("PUT", message.clone())];
        for (method, body) in &portal {
            assert_eq!(
                world.send(token, method, &format!("/fhir/Communication/{}", message["id"].as_str().unwrap()), body).await.0 / 100,
                4
            );
        }
        let other = browser.granted("zuri", "patient/*.rs launch/patient", "").await;
        let path = format!("/fhir/Communication/{}", message["id"].as_str().unwrap());
        assert_eq!(world.get(other["access_token"].as_str().unwrap(), &path).await.0, 404);
        for facility in ["a", "c", "registry"] {
            assert_eq!(world.get(world.token(facility), &path).await.0, 404, "{facility}");
        }
        // Told twice, it is one message.
        let job = store.jobs(Some(NOTICE_JOB), None, 10).await.unwrap().remove(0);
        assert_eq!(job.state, "done", "{job:?}");
        store.close().await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_logs_in_for_a_patient_takes_back_what_they_permitted(db: &TestDb) {
        let world = World::new(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let app = Client {
            redirect_uris: vec!["https://portal.example.org/back".into()],
            roles: vec!["consent-recorder".into()],
            ..Client::new("portal", "operator", "patient/*.cruds launch/patient")
        };
        clients::add(&store, &app).await.unwrap();
        store.close().await;
        let browser = Browser::at(&world.server);
        for (name, option, patient, chosen, other) in [("asha", "--patient", "c", "", "z"), ("mama", "--acts-for", "z", "z", "a")] {
            user(db, &["add", name, "--facility", "HF-C", option, patient, "--role", "consent-recorder"]);
            let granted = browser.granted(name, "patient/*.cruds launch/patient", chosen).await;
            let token = granted["access_token"].as_str().unwrap();
            let (id, path) = (format!("by-{name}"), format!("/fhir/Consent/by-{name}"));
            let mut own = consent(&id, patient, json!({ "type": "permit" }));
            assert_eq!(world.send(token, "PUT", &path, &own).await.0, 201);
            assert_eq!(world.get(&world.asker, &format!("/fhir/Patient/{patient}")).await.0, 200, "{name}");
            // Neither its facility nor another has a say in it; the desk has.
            for facility in ["a", "c"] {
                assert_eq!(world.get(world.token(facility), &path).await.0, 404);
            }
            assert_eq!(world.get(&world.desk, &path).await.0, 200);
            let moved = consent(&id, other, json!({ "type": "permit" }));
            assert_eq!(world.send(token, "PUT", &path, &moved).await.0, 403);
            own["status"] = json!("inactive");
            assert_eq!(world.send(token, "PUT", &path, &own).await.0, 200);
            assert_eq!(world.get(&world.asker, &format!("/fhir/Patient/{patient}")).await.0, 404, "{name}");
            assert_eq!(world.send(token, "DELETE", &path, &Value::Null).await.0, 204);
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn the_operators_address_is_told_without_clinical_content_until_it_takes_it(db: &TestDb) {
        let desk = Desk::default();
        desk.0.lock().unwrap().answers = vec![503, 429];
        let url = desk.open().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hush\n").unwrap();
        let world = World::with(db, |settings| {
            (settings.notices.url, settings.notices.token_file) = (Some(url), Some(file));
        })
        .await;
        let store = Store::open(&db.url).await.unwrap();
        breaks_glass(&world).await;
        let notice = comes_to(&world, &store, "completed").await;
        assert!(notice["sent"].is_string());
        let told = desk.told();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|(token, body)| token == "Bearer hush" && body == &told[0].1), "{told:?}");
        let body = &told[0].1;
        let id = notice["id"].as_str().unwrap();
        assert_eq!(body["kind"], json!("break-glass"));
        assert_eq!(body["communication"], json!(world.server.url(&format!("/fhir/Communication/{id}-p"))));
        assert_eq!(body["recipient"], notice["subject"]);
        let words = body.to_string();
        assert!(!["unconscious", "MCT-7", "HF-B", "payload", "emergency"].iter().any(|word| words.contains(word)), "{words}");
        store.close().await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_address_that_refuses_leaves_a_dead_letter_and_a_notice_that_says_so(db: &TestDb) {
        let desk = Desk::default();
        desk.0.lock().unwrap().answers = vec![400];
        let url = desk.open().await;
        let world = World::with(db, |settings| settings.notices.url = Some(url)).await;
        let store = Store::open(&db.url).await.unwrap();
        breaks_glass(&world).await;
        comes_to(&world, &store, "not-done").await;
        let dead = eventually("the notice is given up", async || {
            let job = store.jobs(Some(NOTICE_JOB), None, 10).await.unwrap().remove(0);
            if job.state == "dead" { Ok(job) } else { Err(job) }
        });
        assert!(dead.await.error.unwrap().contains("400"));
        store.close().await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_facility_is_told_once_of_each_thing_that_its_request_comes_to(db: &TestDb) {
        let desk = Desk::default();
        let url = desk.open().await;
        let world = World::with(db, |settings| settings.notices.url = Some(url)).await;
        let actor = json!([{
            "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
            "reference": { "identifier": { "system": "urn:lango:facility", "value": "HF-B" } } }]);
        let mut asked = consent("x", "a", json!({ "type": "permit", "actor": actor }));
        asked["status"] = json!("proposed");
        asked.as_object_mut().unwrap().remove("id");
        let (status, mut asked) = world.send(&world.asker, "POST", "/fhir/Consent", &asked).await;
        assert_eq!(status, 201, "{asked}");
        let told = async |states: &[&str]| {
            eventually("the facility is told", async || {
                let (_, found) = world.get(&world.asker, "/fhir/Communication").await;
                let entries = found["entry"].as_array().into_iter().flatten();
                let mut found: Vec<String> =
                    entries.map(|entry| entry["resource"]["topic"]["coding"][0]["code"].as_str().unwrap().to_owned()).collect();
                found.sort();
                if found == states && desk.told().len() == states.len() { Ok(()) } else { Err((found, desk.told())) }
            })
            .await;
        };
        asked["status"] = json!("active");
        world.put(&world.desk, &asked).await;
        told(&["granted"]).await;
        // What stays granted is no news.
        asked["language"] = json!("sw");
        world.put(&world.desk, &asked).await;
        asked["provision"]["period"] = json!({ "end": "2026-01-31" });
        world.put(&world.desk, &asked).await;
        told(&["expired", "granted"]).await;
        asked["status"] = json!("inactive");
        world.put(&world.desk, &asked).await;
        told(&["expired", "granted", "withdrawn"]).await;
        let body = &desk.told()[0].1;
        assert_eq!((body["kind"].as_str(), body["state"].as_str()), (Some("consent-request"), Some("granted")));
        assert_eq!(body["recipient"]["identifier"]["value"], json!("HF-B"));
        assert!(!body.to_string().contains("Patient/"), "{body}");
        for token in [world.token("a"), world.token("c")] {
            assert_eq!(ids(&world.get(token, "/fhir/Communication").await.1).len(), 0);
        }
        world.server.stop().await;
    }
);
