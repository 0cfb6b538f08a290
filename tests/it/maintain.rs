//! What keeps a server in order: labels, expunging, indexing again, and operations within batches.

use crate::lookup::World;
use crate::support::guarded::{Guarded, set};
use crate::support::{TestServer, both_databases, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const ACT: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";

fn patient(id: &str, family: &str) -> Value {
    json!({ "resourceType": "Patient", "id": id, "name": [{ "family": family }] })
}

fn parameters(list: &[(&str, Value)]) -> Value {
    let one = |(name, value): &(&str, Value)| match value {
        Value::Bool(_) => json!({ "name": name, "valueBoolean": value }),
        Value::Number(_) => json!({ "name": name, "valueInteger": value }),
        Value::String(_) => json!({ "name": name, "valueString": value }),
        _ => json!({ "name": name, "valueMeta": value }),
    };
    json!({ "resourceType": "Parameters", "parameter": list.iter().map(one).collect::<Vec<_>>() })
}

fn value<'a>(parameters: &'a Value, name: &str) -> &'a Value {
    let part = parameters["parameter"].as_array().unwrap_or_else(|| panic!("{parameters}")).iter().find(|part| part["name"] == name);
    part.and_then(|part| part.as_object().unwrap().iter().find(|(key, _)| key.starts_with("value")))
        .unwrap_or_else(|| panic!("{parameters}"))
        .1
}

/// The codes of a list of labels.
fn codes(meta: &Value, list: &str) -> BTreeSet<String> {
    meta[list].as_array().into_iter().flatten().map(|one| one["code"].as_str().unwrap().to_owned()).collect()
}

async fn ids(server: &TestServer, path: &str) -> BTreeSet<String> {
    let (status, bundle) = server.get(path).await;
    assert_eq!(status, 200, "{bundle}");
    crate::lookup::ids(&bundle)
}

both_databases!(
    async fn labels_are_added_and_taken_away_and_told(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/p", &patient("p", "Mushi")).await;
        let (_, before) = server.get("/fhir/Patient/p/$meta").await;
        assert_eq!(value(&before, "return")["versionId"], "1");
        let labels = json!({ "tag": [{ "system": "urn:t", "code": "x", "display": "X" }, { "code": "bare" }], "profile": ["urn:profile"],
            "security": [{ "system": "urn:s", "code": "own" }] });
        let (status, told) = server.post("/fhir/Patient/p/$meta-add", &parameters(&[("meta", labels.clone())])).await;
        assert_eq!(status, 200, "{told}");
        let now = value(&told, "return");
        assert_eq!((codes(now, "tag"), codes(now, "security"), &now["versionId"]), (set(&["bare", "x"]), set(&["own"]), &json!("2")));
        assert_eq!(ids(&server, "/fhir/Patient?_tag=urn:t|x&_profile=urn:profile").await, set(&["p"]), "they are searched by");
        let (_, stored) = server.get("/fhir/Patient/p").await;
        assert_eq!((&stored["name"], &stored["meta"]["profile"]), (&json!([{ "family": "Mushi" }]), &json!(["urn:profile"])));
        assert_eq!(server.get("/fhir/Patient/p/_history/1").await.1["meta"]["tag"], Value::Null, "what version 1 said it still says");
        for (version, code) in [("1", Value::Null), ("2", json!("x"))] {
            let (status, told) = server.get(&format!("/fhir/Patient/p/_history/{version}/$meta")).await;
            let of_it = value(&told, "return");
            assert_eq!((status, &of_it["versionId"], &of_it["tag"][0]["code"]), (200, &json!(version), &code), "{told}");
        }
        assert_eq!(server.get("/fhir/Patient/p/_history/9/$meta").await.0, 404);
        for path in ["/fhir/Patient/p/$meta?which=1", "/fhir/Patient/$meta?which=1", "/fhir/$reindex?which=1"] {
            let ask = || server.client.get(server.url(path));
            assert!(ask().send().await.unwrap().headers()["warning"].to_str().unwrap().contains("which"), "{path}");
            assert_eq!(ask().header("Prefer", "handling=strict").send().await.unwrap().status(), 400, "{path}");
        }
        // By its version too, if that is the current one: what was told under an earlier one stays.
        let more = |code: &str| parameters(&[("meta", json!({ "tag": [{ "code": code }] }))]);
        for (version, expected) in [("1", 409), ("9", 404), ("2", 200)] {
            let (status, told) = server.post(&format!("/fhir/Patient/p/_history/{version}/$meta-add"), &more("x3")).await;
            assert_eq!(status, expected, "{told}");
        }
        let (status, told) = server.post("/fhir/Patient/p/_history/3/$meta-delete", &more("x3")).await;
        assert_eq!((status, &value(&told, "return")["versionId"]), (200, &json!("4")), "{told}");
        assert_eq!(server.get("/fhir/Patient/p/_history/4/$meta-add").await.0, 405);
        // They are sets; the display does not tell two apart, and what changes nothing is no version.
        let again = json!({ "tag": [{ "system": "urn:t", "code": "x", "display": "another" }] });
        let (_, told) = server.post("/fhir/Patient/p/$meta-add", &parameters(&[("meta", again)])).await;
        assert_eq!((&value(&told, "return")["versionId"], value(&told, "return")["tag"].as_array().unwrap().len()), (&json!("4"), 2));
        // Of one type, and of all.
        let (_, told) = server.get("/fhir/Patient/$meta").await;
        assert_eq!(
            value(&told, "return"),
            &json!({ "profile": ["urn:profile"], "security": [{ "system": "urn:s", "code": "own" }],
            "tag": [{ "code": "bare" }, { "system": "urn:t", "code": "x" }] })
        );
        let (_, told) = server.get("/fhir/$meta").await;
        assert!(codes(value(&told, "return"), "tag").contains("x"), "{told}");
        assert_eq!(value(&server.get("/fhir/Basic/$meta").await.1, "return"), &json!({}));
        let (status, told) = server.post("/fhir/Patient/p/$meta-delete", &parameters(&[("meta", labels)])).await;
        assert_eq!((status, &value(&told, "return")["versionId"], &value(&told, "return")["tag"]), (200, &json!("5"), &Value::Null));
        assert_eq!(ids(&server, "/fhir/Patient?_tag=urn:t|x").await, set(&[]));
        for (path, body, expected) in [
            ("/fhir/Patient/nobody/$meta-add", parameters(&[("meta", json!({ "tag": [{ "code": "x" }] }))]), 404),
            ("/fhir/Patient/p/$meta-add", parameters(&[]), 400),
            ("/fhir/Patient/p/$meta-add", parameters(&[("meta", json!({ "tag": ["x"] }))]), 400),
            ("/fhir/Patient/$meta-add", parameters(&[("meta", json!({}))]), 400),
        ] {
            assert_eq!(server.post(path, &body).await.0, expected, "{path}");
        }
        assert_eq!(server.get("/fhir/Patient/p/$meta-add").await.0, 405);
        // What a label is not is passed over, and that is said.
        let more = parameters(&[("meta", json!({ "tag": [{ "code": "y" }], "source": "urn:s", "versionId": "7" }))]);
        let add = || server.client.post(server.url("/fhir/Patient/p/$meta-add")).json(&more);
        assert_eq!(add().header("Prefer", "handling=strict").send().await.unwrap().status(), 400);
        let lenient = add().send().await.unwrap();
        assert!(lenient.status() == 200 && lenient.headers().contains_key("warning"), "{lenient:?}");
        let told: Value = lenient.json().await.unwrap();
        assert_eq!((&value(&told, "return")["source"], codes(value(&told, "return"), "tag")), (&Value::Null, set(&["y"])));
        server.client.delete(server.url("/fhir/Patient/p")).send().await.unwrap();
        assert_eq!(server.get("/fhir/Patient/p/$meta").await.0, 410);
        server.stop().await;
    }
);

both_databases!(
    async fn a_label_that_the_codes_call_for_stays(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/p", &patient("p", "Mushi")).await;
        let condition = json!({ "resourceType": "Condition", "id": "hiv", "subject": { "reference": "Patient/p" },
            "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "B24" }] },
            "meta": { "security": [{ "system": ACT, "code": "ETH" }] } });
        assert_eq!(server.put("/fhir/Condition/hiv", &condition).await.0, 201);
        let (_, told) = server.get("/fhir/Condition/hiv/$meta").await;
        let security = codes(value(&told, "return"), "security");
        assert_eq!(security, set(&["ETH", "HIV", "R"]), "labelled on arrival");
        let delete = |codes: &[(&str, &str)]| {
            let list: Vec<Value> = codes.iter().map(|(system, code)| json!({ "system": system, "code": code })).collect();
            parameters(&[("meta", json!({ "security": list }))])
        };
        let confidentiality = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
        for label in [&[(ACT, "HIV")][..], &[(confidentiality, "R")], &[(ACT, "HIV"), (confidentiality, "R"), (ACT, "ETH")]] {
            let (status, outcome) = server.post("/fhir/Condition/hiv/$meta-delete", &delete(label)).await;
            assert_eq!(status, 409, "{outcome}");
        }
        let (status, told) = server.post("/fhir/Condition/hiv/$meta-delete", &delete(&[(ACT, "ETH")])).await;
        assert_eq!((status, codes(value(&told, "return"), "security")), (200, set(&["HIV", "R"])));
        server.stop().await;
    }
);

both_databases!(
    async fn labels_are_their_owners_to_change_and_theirs_to_see_who_may_see_the_resource(db: &TestDb) {
        let world = World::new(db).await;
        let tag = parameters(&[("meta", json!({ "tag": [{ "code": "x" }] }))]);
        let (asker, holder) = (&world.asker, world.token("a"));
        assert_eq!(world.get(asker, "/fhir/Patient/a/$meta").await.0, 404);
        assert_eq!(world.send(asker, "POST", "/fhir/Patient/a/$meta-add", &tag).await.0, 404);
        let provision = json!({ "type": "permit", "actor": [{
            "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
            "reference": { "reference": "Organization/hf-b" } }] });
        world.consent("k", "a", provision).await;
        assert_eq!(world.get(asker, "/fhir/Patient/a/$meta").await.0, 200);
        assert_eq!(world.send(asker, "POST", "/fhir/Patient/a/$meta-add", &tag).await.0, 403);
        assert_eq!(world.send(holder, "POST", "/fhir/Patient/a/$meta-add", &tag).await.0, 200);
        for path in ["/fhir/$meta", "/fhir/Patient/$meta"] {
            assert_eq!((world.get(asker, path).await.0, world.get(world.token("operator"), path).await.0), (403, 200), "{path}");
        }
        // A label that comes late protects what was there before it came.
        let psychiatry = parameters(&[("meta", json!({ "security": [{ "system": ACT, "code": "PSYTHPN" }] }))]);
        let provision = json!({ "type": "permit", "actor": [{
            "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
            "reference": { "reference": "Organization/hf-b" } }],
            "provision": [{ "type": "deny", "securityLabel": [{ "system": ACT, "code": "PSYTHPN" }] }] });
        world.consent("k", "a", provision).await;
        assert_eq!(world.get(asker, "/fhir/Observation/a-hr/_history/1").await.0, 200);
        assert_eq!(world.send(holder, "POST", "/fhir/Observation/a-hr/$meta-add", &psychiatry).await.0, 200);
        assert_eq!(world.get(asker, "/fhir/Observation/a-hr/_history/1").await.0, 404);
        assert_eq!(world.get(asker, "/fhir/Observation/a-hr/$meta").await.0, 404);
        world.server.stop().await;
    }
);

/// Patients 0 to 4 at versions 1 to 5, of which 3 and 4 are then deleted.
async fn fill(server: &TestServer) {
    for n in 0..5 {
        for version in 0..=n {
            server.put(&format!("/fhir/Patient/p{n}"), &patient(&format!("p{n}"), &format!("Mushi{version}"))).await;
        }
    }
    for id in ["p3", "p4"] {
        server.client.delete(server.url(&format!("/fhir/Patient/{id}"))).send().await.unwrap();
    }
}

async fn expunge(server: &TestServer, path: &str, list: &[(&str, Value)]) -> (u64, u64, u64) {
    let (status, told) = server.post(path, &parameters(list)).await;
    assert_eq!(status, 200, "{told}");
    let number = |name| value(&told, name).as_u64().unwrap();
    (number("count"), number("resources"), number("versions"))
}

async fn versions(server: &TestServer, id: &str) -> usize {
    let (status, bundle) = server.get(&format!("/fhir/Patient/{id}/_history?_count=100")).await;
    if status == 404 { 0 } else { bundle["entry"].as_array().map_or(0, Vec::len) }
}

both_databases!(
    async fn what_is_expunged_is_gone_and_nothing_else(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        let observation = json!({ "resourceType": "Observation", "id": "o", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/p4" } });
        server.put("/fhir/Observation/o", &observation).await;
        let yes = json!(true);
        let deleted = ("expungeDeletedResources", yes.clone());
        let previous = ("expungePreviousVersions", yes.clone());
        let dry = ("dryRun", yes.clone());
        // Both deleted ones, with the versions that they had; a dry run says so and does nothing.
        for _ in 0..2 {
            assert_eq!(expunge(&server, "/fhir/Patient/$expunge", &[deleted.clone(), dry.clone()]).await, (11, 2, 9));
        }
        assert_eq!(expunge(&server, "/fhir/Patient/p4/$expunge", std::slice::from_ref(&deleted)).await, (6, 1, 5));
        assert_eq!((server.get("/fhir/Patient/p4").await.0, server.get("/fhir/Patient/p4/_history/1").await.0), (404, 404));
        assert_eq!((server.get("/fhir/Patient/p3").await.0, versions(&server, "p3").await), (410, 5));
        assert_eq!(ids(&server, "/fhir/Observation?subject=Patient/p4").await, set(&["o"]), "who referred to it still does");
        // What is there is not deleted.
        assert_eq!(expunge(&server, "/fhir/Patient/p2/$expunge", std::slice::from_ref(&deleted)).await, (0, 0, 0));
        assert_eq!(versions(&server, "p2").await, 3);
        // Old versions, no more at a time than asked for.
        assert_eq!(expunge(&server, "/fhir/$expunge", &[previous.clone(), ("limit", json!(2))]).await, (2, 0, 2));
        for id in ["p1", "p2", "p3"] {
            let (_, bundle) = server.get(&format!("/fhir/Patient/{id}/_history?_count=0")).await;
            assert_eq!(bundle["total"], versions(&server, id).await, "a history counts what is there: {id}");
        }
        assert_eq!(expunge(&server, "/fhir/Patient/$expunge", std::slice::from_ref(&previous)).await, (5, 0, 5));
        assert_eq!([versions(&server, "p1").await, versions(&server, "p2").await, versions(&server, "p3").await], [1, 1, 1]);
        assert_eq!(server.get("/fhir/Patient/p2").await.1["name"][0]["family"], "Mushi2");
        assert_eq!(ids(&server, "/fhir/Patient?family=mushi").await, set(&["p0", "p1", "p2"]));
        // The id can be used again, and begins anew.
        let (status, again) = server.put("/fhir/Patient/p4", &patient("p4", "Neu")).await;
        assert_eq!((status, &again["meta"]["versionId"]), (201, &json!("1")), "{again}");
        assert_eq!(ids(&server, "/fhir/Patient?family=neu&_has:Observation:subject:status=final").await, set(&["p4"]));
        server.put("/fhir/Patient/p4", &patient("p4", "Neuer")).await;
        assert_eq!(versions(&server, "p4").await, 2);
        for (path, list, expected) in [
            ("/fhir/$expunge", vec![], 400),
            ("/fhir/$expunge", vec![("expungeDeletedResources", json!("maybe"))], 400),
            // Who misspells it does not mean that it is done.
            ("/fhir/$expunge", vec![deleted.clone(), ("dryrun", yes.clone())], 400),
            ("/fhir/$expunge?dryrun=true", vec![deleted.clone()], 400),
            ("/fhir/$reindex", vec![("types", json!("Patient"))], 400),
            ("/fhir/$expunge", vec![deleted.clone(), ("limit", json!(0))], 400),
            ("/fhir/Patient/$expunge", vec![("expungeEverything", yes.clone())], 400),
            ("/fhir/$expunge", vec![("expungeEverything", yes.clone())], 422),
            ("/fhir/$expunge", vec![("expungeEverything", yes.clone()), ("confirm", json!("yes"))], 422),
        ] {
            assert_eq!(server.post(path, &parameters(&list)).await.0, expected, "{path} {list:?}");
        }
        // Nor does who says it in a form that is not read, or both ways.
        let flag = |name: &str| json!({ "name": name, "valueBoolean": true });
        let request = |list: Value| json!({ "resourceType": "Parameters", "parameter": list });
        for body in [
            request(json!([{ "name": "dryRun" }])),
            request(json!([{ "name": "dryRun", "part": [flag("x")] }])),
            request(json!([{ "valueBoolean": true }])),
            request(json!([{ "name": "dryRun", "valueBoolean": false }, flag("dryRun")])),
            request(json!([flag("expungePreviousVersions")])),
            request(flag("dryRun")),
            json!({ "resourceType": "Parameters", "parameters": [flag("dryRun")] }),
            json!({ "resourceType": "Patient" }),
            json!([flag("dryRun")]),
        ] {
            let (status, told) = server.post("/fhir/$expunge?expungePreviousVersions=true", &body).await;
            assert_eq!(status, 400, "{body} {told}");
        }
        assert_eq!(versions(&server, "p4").await, 2);
        assert_eq!(server.get("/fhir/$expunge").await.0, 405);
        server.stop().await;
    }
);

both_databases!(
    async fn everything_goes_when_it_is_confirmed_and_writing_goes_on(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        let operator = lango::config::Settings::default().operator.code;
        let all = [("expungeEverything", json!(true)), ("confirm", json!(operator))];
        assert!(expunge(&server, "/fhir/$expunge", &all).await.1 >= 5);
        assert_eq!(ids(&server, "/fhir/Patient").await, set(&[]));
        assert_eq!(server.get("/fhir/Patient/p0").await.0, 404);
        let (_, history) = server.get("/fhir/Patient/_history").await;
        assert_eq!(history["entry"], Value::Null);
        // What writers remember of before does not mislead them.
        assert_eq!(server.put("/fhir/Patient/p0", &patient("p0", "Neu")).await.0, 201);
        assert_eq!(ids(&server, "/fhir/Patient?family=neu").await, set(&["p0"]));
        server.stop().await;
    }
);

both_databases!(
    async fn evidence_is_not_expunged_and_only_operators_expunge(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("k", "a", json!({ "type": "deny" })).await;
        world.consent("k", "a", json!({ "type": "permit" })).await;
        world.send(&world.desk, "DELETE", "/fhir/Consent/k", &Value::Null).await;
        let body = parameters(&[("expungeDeletedResources", json!(true)), ("expungePreviousVersions", json!(true))]);
        for token in [&world.asker, &world.desk, world.token("a"), world.token("registry")] {
            assert_eq!(world.send(token, "POST", "/fhir/$expunge", &body).await.0, 403);
            assert_eq!(world.send(token, "POST", "/fhir/$reindex", &json!({ "resourceType": "Parameters" })).await.0, 403);
            assert_eq!(world.get(token, "/fhir/$reindex").await.0, 403);
        }
        let (status, told) = world.send(world.token("operator"), "POST", "/fhir/Consent/$expunge", &body).await;
        assert_eq!((status, value(&told, "count")), (200, &json!(0)), "which Consents allowed what must stay known");
        assert_eq!(world.get(&world.desk, "/fhir/Consent/k/_history/1").await.0, 200);
        assert_eq!(world.send(world.token("operator"), "POST", "/fhir/$expunge", &body).await.0, 200);
        // Whoever got the id of a Patient whom a Consent speaks of would get what it opens: it stays taken.
        world.consent("k-z", "z", json!({ "type": "permit" })).await;
        world.send(world.token("a"), "DELETE", "/fhir/Patient/z", &Value::Null).await;
        assert_eq!(world.send(world.token("operator"), "POST", "/fhir/Patient/z/$expunge", &body).await.0, 200);
        assert_eq!(world.get(world.token("a"), "/fhir/Patient/z/_history/1").await.0, 404, "what was said of them is gone");
        assert_eq!(world.send(world.token("c"), "PUT", "/fhir/Patient/z", &patient("z", "Another")).await.0, 409);
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_is_stored_is_indexed_again_and_progress_is_told(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        let (status, told) = server
            .post("/fhir/$reindex", &json!({ "resourceType": "Parameters", "parameter": [{ "name": "type", "valueCode": "Patient" }] }))
            .await;
        assert_eq!((status, &told["parameter"][0]["name"]), (202, &json!("job")), "{told}");
        let part = |told: &Value, name: &str| {
            let parts = told["parameter"][0]["part"].as_array().unwrap().clone();
            parts.into_iter().find(|part| part["name"] == name).map(|part| part.as_object().unwrap().values().nth(1).cloned().unwrap())
        };
        let told = eventually("it is indexed again", async || {
            let (status, told) = server.get("/fhir/$reindex").await;
            assert_eq!(status, 200, "{told}");
            if part(&told, "state") == Some(json!("done")) { Ok(told) } else { Err(told) }
        })
        .await;
        assert_eq!(part(&told, "resources"), Some(json!(3)));
        assert_eq!(ids(&server, "/fhir/Patient?family=mushi").await, set(&["p0", "p1", "p2"]));
        let wrong = json!({ "resourceType": "Parameters", "parameter": [{ "name": "type", "valueCode": "Alien" }] });
        assert_eq!(server.post("/fhir/$reindex", &wrong).await.0, 400);
        server.stop().await;
    }
);

both_databases!(
    async fn a_batch_carries_out_operations_by_post(db: &TestDb) {
        let server = TestServer::open(db).await;
        let body = parameters(&[("meta", json!({ "tag": [{ "code": "x" }] }))]);
        let entry =
            |method: &str, url: &str, resource: &Value| json!({ "request": { "method": method, "url": url }, "resource": resource });
        let entries = [
            entry("POST", "Patient/p/$meta-add", &body),
            entry("PUT", "Patient/p", &patient("p", "Mushi")),
            entry("POST", "Patient/$validate", &json!({ "resourceType": "Patient", "gender": "unsure" })),
            entry("POST", "Patient/p/$nonsense", &body),
            entry("POST", "CodeSystem/$lookup", &json!({ "resourceType": "Parameters" })),
        ];
        let bundle = |kind: &str, entries: &[Value]| json!({ "resourceType": "Bundle", "type": kind, "entry": entries });
        let (status, answered) = server.post("/fhir", &bundle("batch", &entries)).await;
        assert_eq!(status, 200, "{answered}");
        let status = |place: usize| answered["entry"][place]["response"]["status"].as_str().unwrap().get(..3).unwrap().to_owned();
        assert_eq!([status(0), status(1), status(2), status(3), status(4)], ["200", "201", "200", "404", "400"], "{answered}");
        assert_eq!(answered["entry"][0]["resource"]["parameter"][0]["valueMeta"]["tag"][0]["code"], "x", "after the puts");
        assert_eq!(answered["entry"][2]["resource"]["issue"][0]["severity"], "error");
        let (status, outcome) = server.post("/fhir", &bundle("transaction", &entries[..2])).await;
        assert_eq!((status, &outcome["issue"][0]["expression"][0]), (400, &json!("Bundle.entry[0].request.url")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_history_knows_what_came_by_post(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (_, posted) = server.post("/fhir/Patient", &json!({ "resourceType": "Patient" })).await;
        let id = posted["id"].as_str().unwrap().to_owned();
        server.put(&format!("/fhir/Patient/{id}"), &patient(&id, "Mushi")).await;
        server.put("/fhir/Patient/p", &patient("p", "Mushi")).await;
        server
            .put(
                "/fhir/Patient?identifier=urn:x|1",
                &json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:x", "value": "1" }] }),
            )
            .await;
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
            { "fullUrl": "urn:uuid:5e5c4f5a-7b7e-4a39-9d0c-0c8b9b2f8a11", "request": { "method": "POST", "url": "Patient" }, "resource": { "resourceType": "Patient" } },
            { "request": { "method": "POST", "url": "Basic", "ifNoneExist": "identifier=urn:x|2" }, "resource": { "resourceType": "Basic",
                "identifier": [{ "system": "urn:x", "value": "2" }], "code": { "text": "x" }, "subject": { "reference": "urn:uuid:5e5c4f5a-7b7e-4a39-9d0c-0c8b9b2f8a11" } } },
        ] });
        assert_eq!(server.post("/fhir", &bundle).await.0, 200);
        let told = async |path: &str| -> Vec<(String, String)> {
            let (_, history) = server.get(path).await;
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let entries = history["entry"].as_array().unwrap().iter();
            entries.map(|entry| (text(&entry["request"]["method"]), text(&entry["request"]["url"]))).collect()
        };
        let pair = |method: &str, url: String| (method.to_owned(), url);
        assert_eq!(
            told(&format!("/fhir/Patient/{id}/_history")).await,
            [pair("PUT", format!("Patient/{id}")), pair("POST", "Patient".into())]
        );
        assert_eq!(told("/fhir/Patient/p/_history").await, [pair("PUT", "Patient/p".into())]);
        assert_eq!(told("/fhir/Basic/_history").await, [pair("POST", "Basic".into())]);
        let methods: Vec<String> = told("/fhir/Patient/_history").await.into_iter().map(|(method, _)| method).collect();
        assert_eq!(methods, ["POST", "PUT", "PUT", "PUT", "POST"]);
        server.stop().await;
    }
);

both_databases!(
    async fn validate_tells_what_a_write_would_be_told(db: &TestDb) {
        let world = World::new(db).await;
        let provision = json!({ "type": "permit", "actor": [{
            "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
            "reference": { "reference": "Organization/hf-b" } }] });
        world.consent("k", "a", provision).await;
        let check = async |token: &str, path: &str, mode: &str, resource: Value| -> (u16, String) {
            let body = json!({ "resourceType": "Parameters", "parameter": [{ "name": "mode", "valueCode": mode }, { "name": "resource", "resource": resource }] });
            let (status, outcome) = world.send(token, "POST", &format!("/fhir/{path}/$validate"), &body).await;
            let issues = outcome["issue"].as_array().unwrap_or_else(|| panic!("{outcome}"));
            // Warnings about the content may stand before.
            let told = issues.iter().find(|issue| issue["severity"] == "error").unwrap_or(&issues[0]);
            (status, told["code"].as_str().unwrap().to_owned())
        };
        let (asker, holder) = (&world.asker, world.token("a"));
        let ok = (200, "informational".to_owned());
        let forbidden = (200, "forbidden".to_owned());
        assert_eq!(check(holder, "Patient/a", "update", patient("a", "Mushi")).await, ok);
        assert_eq!(check(asker, "Patient/a", "update", patient("a", "Mushi")).await, forbidden, "it belongs to another facility");
        assert_eq!(check(asker, "Patient", "create", patient("a", "Mushi")).await, ok, "a create gets an id of its own");
        assert_eq!(check(holder, "Patient/a", "delete", Value::Null).await, ok);
        assert_eq!(check(asker, "Patient/a", "delete", Value::Null).await, forbidden);
        assert_eq!(check(asker, "Patient/z", "delete", Value::Null).await, (404, "not-found".to_owned()), "hidden");
        assert_eq!(check(asker, "Patient/z", "update", patient("z", "Mushi")).await, ok, "hidden, so it is told what a free id would be");
        assert_eq!(check(holder, "Patient", "update", json!({ "resourceType": "Patient" })).await, (200, "required".to_owned()));
        let elsewhere = json!({ "resourceType": "Patient", "meta": { "source": "urn:lango:facility:HF-C#1" } });
        assert_eq!(check(holder, "Patient", "create", elsewhere).await, forbidden);
        assert_eq!(world.get(holder, "/fhir/Patient/a/_history/2").await.0, 404, "nothing was written");
        world.server.stop().await;
    }
);
