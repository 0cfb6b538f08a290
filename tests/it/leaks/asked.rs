//! What else an answer could tell: Bundles, sizes, headers, errors, metadata; and what is answered when nothing can be decided.

use super::{JSON, Leaks, PATCH, leak};
use crate::consent::World;
use crate::non_interference::settled;
use crate::support::guarded::{Guarded, permit_except, set};
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestServer, answer, both_databases, sql};
use lango::config::AuthMode;
use lango::store::Store;
use serde_json::json;

leak!(
    async fn leak_13_bundles_and_conditional_interactions(leaks: &Leaks) {
        for url in ["Observation/@", "Observation?_id=@", "Observation/@/_history", "Patient/@/Observation"] {
            for (kind, hidden) in [("batch", "b-hr"), ("transaction", "a-hiv")] {
                let entries = json!([{ "request": { "method": "GET", "url": url } }]);
                let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": entries }).to_string();
                leaks.same_with("POST", "/fhir", &[JSON], &bundle, hidden).await;
            }
        }
        let patch = [PATCH, ("prefer", "return=representation")];
        let language = r#"[{"op":"add","path":"/language","value":"sw"}]"#;
        let body = r#"{"resourceType":"Observation","id":"@","status":"final","code":{"text":"x"}}"#;
        for hidden in ["b-hr", "a-hiv"] {
            leaks.same_with("PATCH", "/fhir/Observation/@", &patch, language, hidden).await;
            leaks.same_with("PATCH", "/fhir/Observation?_id=@", &patch, language, hidden).await;
            leaks.same_with("DELETE", "/fhir/Observation?_id=@", &[], "", hidden).await;
            leaks.same_with("DELETE", "/fhir/Observation/@", &[], "", hidden).await;
            leaks.same_with("DELETE", "/fhir/Observation/@", &[("if-match", "W/\"1\"")], "", hidden).await;
            leaks.same_with("PUT", "/fhir/Observation/@", &[JSON, ("if-match", "W/\"1\"")], body, hidden).await;
        }
        assert_eq!(leaks.get(&leaks.world.holder, "/fhir/Observation/b-hr").await.0, 200, "nothing was deleted");
        // If-None-Exist finds what is seen only.
        let note = json!({ "resourceType": "Basic", "id": "note", "code": { "text": "x" }, "subject": { "reference": "Patient/b" }, "identifier": [{ "system": "urn:n", "value": "1" }] });
        leaks.put(&leaks.world.holder, &note).await;
        let headers = [JSON, ("if-none-exist", "identifier=urn:n|1")];
        let (status, ..) = leaks.asked("POST", "/fhir/Basic", &headers, r#"{"resourceType":"Basic","code":{"text":"x"}}"#, "-").await;
        assert_eq!(status, 201);
    }
);

leak!(
    async fn leak_22_size(leaks: &Leaks) {
        // Headers are compared but for the length, so the body is the whole of it.
        let of = async |name: &str| {
            let path = format!("/fhir/Observation?patient={name}");
            leaks.asked("GET", &path, &[("accept-encoding", "identity")], "", name).await
        };
        assert_eq!(of("Patient/b").await.2.len(), of("Patient/x").await.2.len());
    }
);

leak!(
    async fn leak_23_caches(leaks: &Leaks) {
        for path in ["/fhir/Observation/a-hr", "/fhir/Observation", "/fhir/Observation/b-hr", "/fhir/_history"] {
            let (_, headers, _) = leaks.asked("GET", path, &[], "", "-").await;
            assert_eq!(headers["cache-control"], "no-store", "{path}");
            assert!(headers["vary"].to_ascii_lowercase().contains("authorization"), "{path}");
        }
    }
);

leak!(
    async fn leak_24_errors(leaks: &Leaks) {
        for path in [
            "Observation/@?_elements=",
            "Observation?_id=@&code=|||",
            "Observation?date=never&_id=@",
            "Observation?_sort=nothing&_id=@",
            "Observation?_cursor=@",
        ] {
            let (_, _, text) = leaks.same(path, "b-hr").await;
            assert!(!text.contains("SELECT") && !text.contains("panicked"), "{path}: {text}");
        }
    }
);

both_databases!(
    async fn leak_34_failing_closed(db: &TestDb) {
        let world = World::new(db).await;
        let (status, _) = answer(world.server.client.get(world.server.url("/fhir/Observation"))).await;
        assert_eq!(status, 401, "nobody is nobody");
        let simple = permit_except("Organization/hf-b", "HIV");
        // What it says cannot be told without looking at its rules.
        let asked = json!({ "type": "permit", "dataPeriod": { "start": "2026-03-05", "end": "2026-03-05" } });
        // What decides is away: nothing is told, to nobody, not even what is there.
        let store = Store::open(&db.url).await.unwrap();
        for (takes, gives, provision) in [
            ("ALTER TABLE rule RENAME TO away", "ALTER TABLE away RENAME TO rule", &asked),
            ("ALTER TABLE verdict RENAME TO away", "ALTER TABLE away RENAME TO verdict", &simple),
            ("ALTER TABLE class_fact RENAME TO away", "ALTER TABLE away RENAME TO class_fact", &simple),
        ] {
            world.consent("c", provision.clone()).await;
            assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
            sql(&store, takes).await;
            for path in ["Observation/a-hr", "Observation", "Observation?_summary=count", "Observation/_history", "Patient/a/$everything"] {
                let (status, body) = world.get(&world.asker, &format!("/fhir/{path}")).await;
                assert!(status >= 500, "{path}: {status}");
                let body = body.to_string();
                assert!(!body.contains("8867-4") && !body.contains("Mushi") && !body.contains("rule"), "{path}: {body}");
            }
            sql(&store, gives).await;
            assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
        }
        store.close().await;
    }
);

leak!(
    async fn what_is_validated_tells_no_more_of_an_id_than_a_read(leaks: &Leaks) {
        let leaks = leaks.apart("validates").await;
        let body = json!({ "resourceType": "Observation", "id": "@", "status": "final", "code": { "text": "x" } });
        let parameter = json!([{ "name": "mode", "valueCode": "update" }, { "name": "resource", "resource": body }]);
        let parameters = json!({ "resourceType": "Parameters", "parameter": parameter }).to_string();
        let update = "/fhir/Observation/@/$validate?mode=update";
        for hidden in ["validates-hiv", "b-hr"] {
            for (path, body) in [
                (update, body.to_string()),
                ("/fhir/Observation/$validate?mode=update", body.to_string()),
                ("/fhir/Observation/@/$validate", parameters.clone()),
                ("/fhir/Observation/@/$validate?mode=delete", String::new()),
            ] {
                leaks.same_with("POST", path, &[JSON], &body, hidden).await;
            }
        }
        // What may be seen is told to be another's.
        let seen = body.to_string().replace('@', "validates-hr");
        let (status, _, text) = leaks.asked("POST", &update.replace('@', "validates-hr"), &[JSON], &seen, "x").await;
        assert!(status == 200 && text.contains(r#""severity":"error""#), "{status} {text}");
    }
);

both_databases!(
    async fn where_the_server_gives_all_ids_none_tells_whether_it_is_taken(db: &TestDb) {
        add_signing_client(db, "holder", "HF-A", "").await;
        add_signing_client(db, "asker", "HF-B", "").await;
        let server = TestServer::start(db, |settings| (settings.auth, settings.update_create) = (AuthMode::Smart, false)).await;
        let asker = signed_token(&server, "asker", &json!({})).await;
        let request = server.client.post(server.url("/fhir/Patient")).bearer_auth(signed_token(&server, "holder", &json!({})).await);
        let (status, made) = answer(request.header(JSON.0, JSON.1).body(r#"{"resourceType":"Patient"}"#)).await;
        assert_eq!(status, 201, "{made}");
        let taken = made["id"].as_str().unwrap();
        let put = async |id: &str| {
            let body = json!({ "resourceType": "Patient", "id": id });
            let one = server.client.put(server.url(&format!("/fhir/Patient/{id}"))).body(body.to_string());
            let entry = json!([{ "resource": body, "request": { "method": "PUT", "url": format!("Patient/{id}") } }]);
            let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entry }).to_string();
            let mut told = Vec::new();
            for request in [one, server.client.post(server.url("/fhir")).body(batch)] {
                let (status, body) = answer(request.bearer_auth(&asker).header(JSON.0, JSON.1)).await;
                told.push((status, settled(body, &server.base).to_string().replace(id, "ID")));
            }
            told
        };
        let told = put(taken).await;
        assert_eq!((told[0].0, &told), (405, &put("nobody-was-here").await));
        server.stop().await;
    }
);

leak!(
    async fn leak_37_metadata_and_unknown_parameters(leaks: &Leaks) {
        let server = leaks.server();
        let (_, statement) = leaks.told("metadata").await;
        assert_eq!(statement, answer(server.client.get(server.url("/fhir/metadata"))).await.1, "it says the same to everybody");
        let strict = leaks.asked("GET", "/fhir/Observation?nonsense=1", &[("prefer", "handling=strict")], "", "-").await;
        assert_eq!(strict.0, 400);
        assert_eq!(leaks.ids("Observation?nonsense=1&code=8867-4").await, set(&["a-hr"]), "what is not known widens nothing");
    }
);

leak!(
    async fn leak_40_exhaustion(leaks: &Leaks) {
        let many: Vec<String> = (0..5_000).map(|n| format!("x{n}")).chain(["b-hr".to_owned()]).collect();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let (status, _, text) = leaks.asked("POST", "/fhir/Observation/_search", &form, &format!("_id={}", many.join(",")), "-").await;
        assert!(matches!(status, 200 | 400 | 413), "{status}");
        assert!(!text.contains("\"fullUrl\""));
        let deep = format!("Observation?{}code=x", "_has:Observation:has-member:".repeat(40));
        assert!(leaks.asked("GET", &format!("/fhir/{deep}"), &[], "", "-").await.0 < 500);
    }
);
