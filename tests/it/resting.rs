//! What a Consent rests on may change without it: value sets, what a resource refers to, and which codes are sensitive.

use crate::consent::World;
use crate::support::guarded::{Guarded, consent, encounter, observation, purpose, set};
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::worlds::ACT_CODE;
use crate::support::{TestDb, TestServer, both_databases, until};
use lango::definitions;
use lango::store::{Scope, Store};
use serde_json::{Value, json};

const LOINC: &str = "http://loinc.org";
/// By its code alone it tells nothing.
const HARMLESS: &str = "99999-9";

fn value_set(id: &str, compose: Value) -> Value {
    json!({ "resourceType": "ValueSet", "id": id, "url": format!("http://example.org/{id}"), "status": "active", "compose": { "include": [compose] } })
}

fn codes(codes: &[&str]) -> Value {
    json!({ "system": LOINC, "concept": codes.iter().map(|code| json!({ "code": code })).collect::<Vec<_>>() })
}

fn in_set(id: &str) -> Value {
    json!([{ "coding": [{ "system": "urn:ietf:rfc:3986", "code": format!("http://example.org/{id}") }] }])
}

async fn world_with_operator(db: &TestDb) -> (World, String) {
    add_signing_client(db, "ministry", "operator", "operator").await;
    let world = World::new(db).await;
    let operator = signed_token(&world.server, "ministry", &json!({})).await;
    (world, operator)
}

both_databases!(
    async fn a_rule_on_a_value_set_follows_its_members_at_once(db: &TestDb) {
        let (world, operator) = world_with_operator(db).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        world.put(&operator, &value_set("some", codes(&["8867-4"]))).await;
        world.consent("c", json!({ "type": "permit", "code": in_set("some") })).await;
        assert_eq!(seen().await, set(&["a-hr"]));
        for (members, expected) in
            [(&["75622-1"][..], set(&["a-hiv"])), (&["75622-1", "8867-4"], set(&["a-hr", "a-hiv"])), (&["1-8"], set(&[]))]
        {
            world.put(&operator, &value_set("some", codes(members))).await;
            assert_eq!(seen().await, expected, "{members:?}");
        }
        // Through another set, and through a code system.
        world.put(&operator, &value_set("some", json!({ "valueSet": ["http://example.org/other"] }))).await;
        assert_eq!(seen().await, set(&[]), "what cannot be listed permits nothing");
        world.put(&operator, &value_set("other", codes(&["8867-4"]))).await;
        assert_eq!(seen().await, set(&["a-hr"]));
        world.put(&operator, &value_set("other", json!({ "system": LOINC }))).await;
        let system = |codes: &[&str]| {
            let concepts: Vec<Value> = codes.iter().map(|code| json!({ "code": code })).collect();
            json!({ "resourceType": "CodeSystem", "id": "loinc-part", "url": LOINC, "status": "active", "content": "complete", "concept": concepts })
        };
        world.put(&operator, &system(&["75622-1"])).await;
        assert_eq!(seen().await, set(&["a-hiv"]));
        world.put(&operator, &system(&["8867-4"])).await;
        assert_eq!(seen().await, set(&["a-hr"]));
        // What is denied must be listed to be told apart.
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "code": in_set("other") }] })).await;
        assert_eq!(seen().await, set(&["a-hiv"]));
        assert_eq!(world.send(&operator, "DELETE", "/fhir/ValueSet/other", &Value::Null).await.0, 204);
        assert_eq!(seen().await, set(&[]));
        world.put(&operator, &value_set("other", codes(&["1-8"]))).await;
        assert_eq!(seen().await, set(&["a-hr", "a-hiv"]));
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consent_recorded_elsewhere_knows_what_was_just_changed_here() {
    let db = TestDb::postgres().await;
    let (world, operator) = world_with_operator(&db).await;
    let second = TestServer::smart(&db).await;
    let desk = signed_token(&second, "desk", &json!({})).await;
    for (round, (code, expected)) in
        [("8867-4", "a-hr"), ("75622-1", "a-hiv"), ("8867-4", "a-hr"), ("75622-1", "a-hiv")].into_iter().enumerate()
    {
        let set_id = format!("set{}", round / 2);
        world.put(&operator, &value_set(&set_id, codes(&[code]))).await;
        let body = consent("c", "a", json!({ "type": "permit", "code": in_set(&set_id) }));
        let request = second.client.put(second.url("/fhir/Consent/c")).bearer_auth(&desk).header("content-type", "application/fhir+json");
        let (status, told) = crate::support::answer(request.body(body.to_string())).await;
        assert!(matches!(status, 200 | 201), "{told}");
        assert_eq!(world.ids(&world.asker, "/fhir/Observation").await, set(&[expected]), "round {round}");
    }
    second.stop().await;
    drop(world);
    db.discard().await;
}

both_databases!(
    async fn what_a_related_resource_refers_to_is_what_it_did_and_does(db: &TestDb) {
        let world = World::new(db).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        let panel = |member: &str| {
            let mut panel = observation("a-panel", "a", "8867-4", "2026-03-05", None);
            panel["hasMember"] = json!([{ "reference": format!("Observation/{member}") }]);
            panel.as_object_mut().unwrap().remove("encounter");
            panel
        };
        let related = json!([{ "meaning": "related", "reference": { "reference": "Observation/a-panel" } }]);
        world.put(&world.holder, &panel("a-hr")).await;
        world.consent("c", json!({ "type": "permit", "data": related })).await;
        for (member, expected) in [("a-hr", set(&["a-panel", "a-hr"])), ("a-hiv", set(&["a-panel"])), ("a-hr", set(&["a-panel", "a-hr"]))] {
            world.put(&world.holder, &panel(member)).await;
            assert_eq!(seen().await, expected, "permitted is what it referred to and still does");
        }
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "data": related }] })).await;
        assert_eq!(seen().await, set(&["a-hiv"]));
        world.put(&world.holder, &panel("a-hiv")).await;
        assert_eq!(seen().await, set(&[]), "denied is what it referred to, and what it does");
    }
);

/// Puts a code into the value set of what tells of HIV.
async fn make_sensitive(world: &World, operator: &str, code: &str) {
    let (_, mut sensitive) = world.get(operator, "/fhir/ValueSet/sensitive-hiv").await;
    let include = sensitive["compose"]["include"].as_array_mut().expect("it lists codes");
    include.push(json!({ "system": LOINC, "concept": [{ "code": code }] }));
    world.put(operator, &sensitive).await;
}

/// The version and labels of a stored resource.
async fn labels(store: &Store, type_name: &str, id: &str) -> (i64, usize) {
    let type_code = definitions::r4().type_code(type_name).unwrap();
    let stored = store.read(type_code, id, &Scope::All).await.unwrap().expect("it is stored");
    let resource: Value = serde_json::from_slice(&stored.body.unwrap()).unwrap();
    (stored.version, resource["meta"]["security"].as_array().map_or(0, Vec::len))
}

both_databases!(
    async fn what_is_stored_is_labelled_anew_when_more_is_sensitive(db: &TestDb) {
        let (world, operator) = world_with_operator(db).await;
        world.put(&world.holder, &observation("a-x", "a", HARMLESS, "2026-03-05", None)).await;
        let mut visit = encounter("a");
        visit["reasonCode"] = json!([{ "coding": [{ "system": LOINC, "code": HARMLESS }] }]);
        world.put(&world.holder, &visit).await;
        let label = json!([{ "system": ACT_CODE, "code": "HIV" }]);
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": label }] })).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        assert_eq!(seen().await, set(&["a-hr", "a-x"]));
        make_sensitive(&world, &operator, HARMLESS).await;
        until("the label", async || seen().await.is_empty()).await;
        let store = Store::open(&db.url).await.unwrap();
        let jobs = || store.jobs(Some("gate.relabel"), None, 100);
        until("the end of the work", async || jobs().await.unwrap().iter().all(|job| job.state == "done")).await;
        assert_eq!(labels(&store, "Observation", "a-x").await, (2, 2));
        assert_eq!(labels(&store, "Encounter", "a-visit").await, (3, 2));
        assert_eq!(labels(&store, "Observation", "a-hr").await, (1, 0), "it is as sensitive as its visit, and says what it said");
        let done = jobs().await.unwrap();
        assert!(
            done.iter().any(|job| job.result.as_ref().is_some_and(|state| state["labelled"] == 2 && state["done"].as_u64() > Some(4))),
            "{done:?}"
        );
        store.close().await;
    }
);

both_databases!(
    async fn labelling_anew_goes_on_after_a_crash_and_happens_once_in_two_processes(db: &TestDb) {
        let (world, operator) = world_with_operator(db).await;
        for n in 0..20 {
            world.put(&world.holder, &observation(&format!("a-x{n}"), "a", HARMLESS, "2026-03-05", None)).await;
        }
        make_sensitive(&world, &operator, HARMLESS).await;
        let World { server, .. } = world;
        server.stop().await;
        let server = TestServer::smart(db).await;
        let other = if db.is_sqlite() { None } else { Some(TestServer::smart(db).await) };
        let store = Store::open(&db.url).await.unwrap();
        crate::support::time_passes(&store).await;
        for n in 0..20 {
            until("the label", async || labels(&store, "Observation", &format!("a-x{n}")).await == (2, 2)).await;
        }
        // The second look comes some seconds after the first.
        until("the end of the work", async || {
            store.jobs(Some("gate.relabel"), None, 100).await.unwrap().iter().all(|job| job.state == "done")
        })
        .await;
        for n in 0..20 {
            assert_eq!(labels(&store, "Observation", &format!("a-x{n}")).await, (2, 2), "once");
        }
        store.close().await;
        server.stop().await;
        if let Some(other) = other {
            other.stop().await;
        }
    }
);

both_databases!(
    async fn who_is_found_to_be_somebody_else_is_covered_no_longer(db: &TestDb) {
        let (world, _) = world_with_operator(db).await;
        let patient = |id: &str, value: &str| json!({ "resourceType": "Patient", "id": id, "birthDate": "1990-01-01", "identifier": [{ "system": "https://lango.health/id/nida", "value": value }] });
        world.put(&world.holder, &patient("a", "19900101-1")).await;
        world.put(&world.holder, &patient("z", "19900101-1")).await;
        let mut result = observation("z-hr", "z", "8867-4", "2026-03-05", None);
        result.as_object_mut().unwrap().remove("encounter");
        world.put(&world.holder, &result).await;
        world.consent("c", json!({ "type": "permit" })).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        assert_eq!(seen().await, set(&["a-hr", "a-hiv", "z-hr"]));
        world.put(&world.holder, &patient("z", "19900101-2")).await;
        assert_eq!(seen().await, set(&["a-hr", "a-hiv"]), "z is somebody else");
        world.put(&world.holder, &patient("z", "19900101-1")).await;
        assert_eq!(seen().await, set(&["a-hr", "a-hiv"]), "who is linked later is not covered without review");
        world.consent("c", json!({ "type": "permit", "purpose": purpose("TREAT") })).await;
        assert_eq!(seen().await, set(&["a-hr", "a-hiv", "z-hr"]));
    }
);

both_databases!(
    async fn of_whom_something_else_is_said_is_covered_no_longer(db: &TestDb) {
        let (world, _) = world_with_operator(db).await;
        let strong = json!([{ "system": "https://lango.health/id/nida", "value": "19900101-1" }]);
        let patient = |id: &str, says: &Value| {
            let mut patient = says.clone();
            (patient["resourceType"], patient["id"], patient["identifier"]) = (json!("Patient"), json!(id), strong.clone());
            patient
        };
        let asha = json!({ "gender": "female", "birthDate": "1990-01-01", "name": [{ "text": "Asha Mushi" }] });
        let mut moved = asha.clone();
        moved["address"] = json!([{ "city": "Mwanza" }]);
        let john = json!({ "gender": "male", "birthDate": "1950-05-05", "name": [{ "text": "John Doe" }] });
        let mut result = observation("z-hr", "z", "8867-4", "2026-03-05", None);
        result.as_object_mut().unwrap().remove("encounter");
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        let (own, both) = (set(&["a-hr", "a-hiv"]), set(&["a-hr", "a-hiv", "z-hr"]));
        for (round, changed) in ["z", "a"].into_iter().enumerate() {
            world.put(&world.holder, &patient("a", &asha)).await;
            world.put(&world.holder, &patient("z", &asha)).await;
            world.put(&world.holder, &result).await;
            world.consent("c", json!({ "type": "permit", "period": { "start": format!("202{round}") } })).await;
            assert_eq!(seen().await, both, "{changed}");
            world.put(&world.holder, &patient(changed, &moved)).await;
            assert_eq!(seen().await, both, "{changed} moved");
            world.put(&world.holder, &patient(changed, &john)).await;
            assert_eq!(seen().await, own, "{changed} is somebody else, though the number stays");
            world.put(&world.holder, &patient(changed, &asha)).await;
            assert_eq!(seen().await, own, "{changed}: not without review");
        }
    }
);
