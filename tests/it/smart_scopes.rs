//! Scopes on every interaction: types, granular parameters, includes, chains, history, writes and Bundles.

use crate::support::program::output;
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, add_client, both_databases, smart};
use serde_json::{Value, json};

const LOINC: &str = "http://loinc.org";
const CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";

/// A server with one facility's records: two patients, laboratory results and vital signs of both.
struct World {
    server: TestServer,
    all: String,
}

fn observation(id: &str, patient: &str, category: &str, code: &str) -> Value {
    json!({
        "resourceType": "Observation", "id": id, "status": "final",
        "category": [{ "coding": [{ "system": CATEGORY, "code": category }] }],
        "code": { "coding": [{ "system": LOINC, "code": code }] },
        "subject": { "reference": format!("Patient/{patient}") },
        "valueString": "x",
    })
}

impl World {
    async fn new(db: &TestDb) -> World {
        let secret = add_client(db, "all", "HF-1", "system/*.cruds").await;
        let server = TestServer::smart(db).await;
        let all = server.token("all", &secret).await;
        let world = World { server, all };
        for (patient, family) in [("a", "Asha"), ("b", "Baraka")] {
            let body = json!({ "resourceType": "Patient", "id": patient, "name": [{ "family": family }] });
            assert_eq!(world.put(&world.all, &body).await.0, 201);
            for (category, code) in [("laboratory", "718-7"), ("vital-signs", "8867-4")] {
                let body = observation(&format!("{patient}-{category}"), patient, category, code);
                assert_eq!(world.put(&world.all, &body).await.0, 201);
            }
        }
        world
    }

    /// A token of a new client of the same facility with these scopes.
    async fn token(&self, db: &TestDb, id: &str, scopes: &str) -> String {
        let secret = add_client(db, id, "HF-1", scopes).await;
        self.server.token(id, &secret).await
    }

    async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        answer(self.server.client.get(self.server.url(path)).bearer_auth(token)).await
    }

    async fn send(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.server.client.request(method.parse().unwrap(), self.server.url(path)).bearer_auth(token);
        answer(request.header("content-type", "application/fhir+json").body(body.to_string())).await
    }

    async fn put(&self, token: &str, body: &Value) -> (u16, Value) {
        let path = format!("/fhir/{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap());
        self.send(token, "PUT", &path, body).await
    }

    /// The ids of a searchset, sorted; what its total says must agree when it is there.
    async fn ids(&self, token: &str, path: &str) -> Vec<String> {
        let (status, bundle) = self.get(token, path).await;
        assert_eq!(status, 200, "{path}: {bundle}");
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<String> = entries.iter().filter_map(|entry| entry["resource"]["id"].as_str()).map(str::to_owned).collect();
        if let Some(total) = bundle["total"].as_u64() {
            assert_eq!(entries.iter().filter(|entry| entry["search"]["mode"] == "match").count() as u64, total, "{path}");
        }
        ids.sort();
        ids
    }
}

both_databases!(
    async fn a_granular_scope_is_a_condition_of_every_interaction(db: &TestDb) {
        let world = World::new(db).await;
        let laboratory = format!("system/Observation.cruds?category={CATEGORY}|laboratory");
        let token = world.token(db, "lab", &laboratory).await;
        // Search, counts, pages and POST.
        assert_eq!(world.ids(&token, "/fhir/Observation").await, ["a-laboratory", "b-laboratory"]);
        assert_eq!(world.ids(&token, "/fhir/Observation?subject=Patient/a").await, ["a-laboratory"]);
        assert_eq!(world.ids(&token, "/fhir/Observation?category=vital-signs").await, [""; 0]);
        assert_eq!(world.ids(&token, "/fhir/Observation?_id=a-vital-signs").await, [""; 0]);
        assert_eq!(world.get(&token, "/fhir/Observation?_summary=count").await.1["total"], json!(2));
        assert_eq!(world.get(&token, "/fhir/Observation?_count=1&_total=accurate").await.1["total"], json!(2));
        assert_eq!(world.ids(&token, "/fhir/Observation?_sort=-_lastUpdated").await, ["a-laboratory", "b-laboratory"]);
        // Read, vread and history: what is not reached looks as if it never was.
        assert_eq!(world.get(&token, "/fhir/Observation/a-laboratory").await.0, 200);
        for path in ["Observation/a-vital-signs", "Observation/a-vital-signs/_history/1", "Observation/a-vital-signs/_history"] {
            let hidden = world.get(&token, &format!("/fhir/{path}")).await;
            let absent = world.get(&token, &format!("/fhir/{}", path.replace("a-vital-signs", "nobody"))).await;
            assert_eq!(hidden, absent, "{path}");
            assert_eq!(hidden.0, 404);
        }
        // The history of a type lists, as a search does.
        for (letter, status) in [("r", 403), ("s", 200)] {
            let (id, scope) = (format!("only-{letter}"), format!("system/Observation.{letter}"));
            let secret = add_client(db, &id, "HF-1", &scope).await;
            let token = world.server.token(&id, &secret).await;
            for path in ["Observation/_history", "_history", "Observation"] {
                assert_eq!(world.get(&token, &format!("/fhir/{path}")).await.0, status, "{letter} {path}");
            }
        }
        // Writes are judged before and after.
        let good = observation("new", "a", "laboratory", "718-7");
        let bad = observation("new", "a", "vital-signs", "718-7");
        assert_eq!(world.put(&token, &bad).await.0, 403);
        assert_eq!(world.send(&token, "POST", "/fhir/Observation", &bad).await.0, 403);
        assert_eq!(world.put(&token, &good).await.0, 201);
        assert_eq!(world.put(&token, &bad).await.0, 403, "it may not be changed into what is out of reach");
        assert_eq!(world.put(&token, &observation("a-vital-signs", "a", "laboratory", "1")).await.0, 403, "nor taken over");
        let hidden = world.send(&token, "DELETE", "/fhir/Observation/a-vital-signs", &Value::Null).await;
        assert_eq!(hidden, world.send(&token, "DELETE", "/fhir/Observation/nobody", &Value::Null).await, "told from one that never was");
        assert_eq!(hidden.0, 204);
        assert_eq!(world.get(&world.all, "/fhir/Observation/a-vital-signs").await.0, 200);
        // Conditions find only what may be searched, and Bundles are no way around.
        let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": [
            { "request": { "method": "GET", "url": "Observation/b-vital-signs" } },
            { "request": { "method": "GET", "url": "Observation?code=8867-4" } },
            { "request": { "method": "DELETE", "url": "Observation?code=8867-4" } },
            { "request": { "method": "PUT", "url": "Observation/c" }, "resource": observation("c", "a", "vital-signs", "1") },
        ]});
        let (status, answered) = world.send(&token, "POST", "/fhir", &bundle).await;
        assert_eq!(status, 200, "{answered}");
        let of = |place: usize| answered["entry"][place]["response"]["status"].as_str().unwrap()[..3].to_owned();
        assert_eq!((of(0), of(2), of(3)), ("404".into(), "204".into(), "403".into()), "{answered}");
        assert_eq!(answered["entry"][1]["resource"]["total"], json!(0), "{answered}");
        assert_eq!(world.get(&world.all, "/fhir/Observation/b-vital-signs").await.0, 200);
        // An old version is judged by what it said.
        assert_eq!(world.put(&world.all, &observation("b-laboratory", "b", "vital-signs", "1")).await.0, 200);
        assert_eq!(world.put(&world.all, &observation("b-laboratory", "b", "laboratory", "2")).await.0, 200);
        let (status, history) = world.get(&token, "/fhir/Observation/b-laboratory/_history").await;
        let versions: Vec<&str> =
            history["entry"].as_array().unwrap().iter().map(|entry| entry["resource"]["meta"]["versionId"].as_str().unwrap()).collect();
        assert_eq!((status, versions, &history["total"]), (200, vec!["3", "1"], &Value::Null), "{history}");
        assert_eq!(world.get(&token, "/fhir/Observation/b-laboratory/_history/2").await.0, 404);
        world.server.stop().await;
    }
);

both_databases!(
    async fn criteria_and_patches_tell_nothing_without_the_right_to_search_or_read(db: &TestDb) {
        let world = World::new(db).await;
        let mut known =
            json!({ "resourceType": "Patient", "id": "known", "gender": "female", "identifier": [{ "system": "urn:mrn", "value": "7" }] });
        assert_eq!(world.put(&world.all, &known).await.0, 201);
        let token = world.token(db, "creator", "system/Observation.c system/Patient.c").await;
        let conditional = async |token: &str, criteria: &str| {
            let request = world.server.client.post(world.server.url("/fhir/Observation")).bearer_auth(token);
            let body = observation("x", "a", "laboratory", "1").to_string();
            answer(request.header("content-type", "application/fhir+json").header("if-none-exist", criteria).body(body)).await
        };
        let referring = async |token: &str, query: &str| {
            let mut resource = observation("y", "a", "laboratory", "2");
            resource["subject"] = json!({ "reference": format!("Patient?{query}") });
            let entry = json!({ "request": { "method": "POST", "url": "Observation" }, "resource": resource });
            world.send(token, "POST", "/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] })).await.0
        };
        // What is there and what is not are answered alike: no question is answered.
        for criteria in [
            "subject=Patient/a&code=718-7",
            "subject=Patient/a&code=no",
            "subject:Patient.family=Asha",
            "identifier=7",
            "identifier=urn:mrn|7&code=1",
        ] {
            assert_eq!(conditional(&token, criteria).await.0, 403, "{criteria}");
        }
        for query in
            ["identifier=urn:mrn|7&gender=female", "identifier=urn:mrn|7&gender=male", "family=Asha", "_has:Observation:subject:code=718-7"]
        {
            assert_eq!(referring(&token, query).await, 403, "{query}");
        }
        // By an identifier a client finds what its own facility sent, so that it makes nothing twice, and no other's.
        assert_eq!(referring(&token, "identifier=urn:mrn|7").await, 200);
        known["name"] = json!([{ "family": "Neema" }]);
        let create = async |token: &str| {
            let request = world.server.client.post(world.server.url("/fhir/Patient")).bearer_auth(token);
            answer(
                request
                    .header("content-type", "application/fhir+json")
                    .header("if-none-exist", "identifier=urn:mrn|7")
                    .body(known.to_string()),
            )
            .await
        };
        let found = create(&token).await;
        assert_eq!(found, (200, json!("")), "it is there; what is in it is not the client's to read");
        let other = add_client(db, "other", "HF-2", "system/*.c").await;
        let other = world.server.token("other", &other).await;
        assert_eq!(create(&other).await.0, 201);
        let nothing = world.token(db, "nothing", "system/Observation.c").await;
        assert_eq!(referring(&nothing, "identifier=urn:mrn|7").await, 403);
        // A patch of another facility's resource is not looked into, and its answer shows no more than a read would.
        let patch = async |token: &str, path: &str, op: Value| {
            let request = world.server.client.patch(world.server.url(path)).bearer_auth(token);
            answer(request.header("content-type", "application/json-patch+json").body(json!([op]).to_string())).await
        };
        let directory = json!({ "resourceType": "Organization", "id": "o", "name": "One" });
        assert_eq!(world.put(&world.all, &directory).await.0, 201);
        let updater = add_client(db, "updater", "HF-2", "system/*.u").await;
        let updater = world.server.token("updater", &updater).await;
        let same = patch(&updater, "/fhir/Organization/o", json!({ "op": "test", "path": "/name", "value": "One" })).await;
        assert_eq!(same.0, 403, "{same:?}");
        assert_eq!(same, patch(&updater, "/fhir/Organization/o", json!({ "op": "test", "path": "/name", "value": "Two" })).await);
        let updater = world.token(db, "own-updater", "system/*.u").await;
        let patched = patch(&updater, "/fhir/Patient/known", json!({ "op": "add", "path": "/active", "value": true })).await;
        assert_eq!(patched, (200, json!("")));
        let patched = patch(&world.all, "/fhir/Patient/known", json!({ "op": "replace", "path": "/active", "value": false })).await;
        assert_eq!(patched.1["gender"], "female");
        world.server.stop().await;
    }
);

both_databases!(
    async fn several_granular_scopes_add_up_and_registered_and_granted_ones_narrow_each_other(db: &TestDb) {
        let world = World::new(db).await;
        let two = world.token(db, "two", "system/Observation.s?code=718-7&subject=Patient/a system/Observation.rs?code=8867-4").await;
        assert_eq!(world.ids(&two, "/fhir/Observation").await, ["a-laboratory", "a-vital-signs", "b-vital-signs"]);
        assert_eq!(world.get(&two, "/fhir/Observation/b-vital-signs").await.0, 200);
        assert_eq!(world.get(&two, "/fhir/Observation/a-laboratory").await.0, 404, "the letters of one scope are not the other's");
        let without = world.token(db, "without", "system/Observation.rs?code:not=718-7").await;
        assert_eq!(world.ids(&without, "/fhir/Observation").await, ["a-vital-signs", "b-vital-signs"]);
        let secret = add_client(db, "narrower", "HF-1", "system/Observation.rs?code=718-7").await;
        let form = format!(
            "grant_type=client_credentials&client_id=narrower&client_secret={secret}&scope={}",
            percent_encoding::utf8_percent_encode(
                "system/Observation.rs?code=718-7&subject=Patient/b system/Observation.rs",
                percent_encoding::NON_ALPHANUMERIC
            )
        );
        let request = world.server.client.post(world.server.url("/auth/token"));
        let (_, granted) = answer(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await;
        assert_eq!(granted["scope"], json!("system/Observation.rs?code=718-7&subject=Patient/b"), "{granted}");
        assert_eq!(world.ids(granted["access_token"].as_str().unwrap(), "/fhir/Observation").await, ["b-laboratory"]);
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_a_client_may_do_and_proves_itself_by_is_changed_while_the_server_runs(db: &TestDb) {
        let world = World::new(db).await;
        let change = |options: &[&str]| output(db, &[&["client", "change", "emr"], options].concat());
        let secret = add_client(db, "emr", "HF-1", "system/*.cruds").await;
        let token = world.server.token("emr", &secret).await;
        assert_eq!(world.get(&token, "/fhir/Observation/a-laboratory").await.0, 200);
        assert_eq!(change(&["--scope", "system/Patient.rs"]).0, Some(0));
        assert_eq!(world.get(&token, "/fhir/Patient/a").await.0, 200);
        assert_eq!(world.get(&token, "/fhir/Observation/a-laboratory").await.0, 403, "also with a token of before");
        // A role that somebody has counts from now on, and no longer once others are given.
        let expunge = json!({ "resourceType": "Parameters" });
        for (role, status) in [("operator", 202), ("facility", 403)] {
            assert_eq!(change(&["--role", role, "--scope", "system/*.cruds"]).0, Some(0));
            assert_eq!(world.send(&token, "POST", "/fhir/$reindex", &expunge).await.0, status, "{role}");
        }
        // Keys take the place of the secret.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        std::fs::write(&file, smart::public_keys()).unwrap();
        assert_eq!(change(&["--jwks", file.to_str().unwrap()]).0, Some(0));
        let form = format!("grant_type=client_credentials&client_id=emr&client_secret={secret}");
        let request = world.server.client.post(world.server.url("/auth/token"));
        let (status, _) = answer(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await;
        assert_eq!(status, 401, "the secret is worthless");
        let token = smart::signed_token(&world.server, "emr", &json!({})).await;
        assert_eq!(world.get(&token, "/fhir/Observation/a-laboratory").await.0, 200);
        // What does not hold together changes nothing, and is told.
        for (options, words) in [
            (&[][..], "nothing to change"),
            (&["--scope", "user/*.rs"], "for apps that people log in with"),
            (&["--scope", "nonsense"], "scope"),
            (&["--jwks-url", "http://169.254.169.254/keys"], "cannot be fetched"),
            (&["--certificate", file.to_str().unwrap()], "PEM"),
        ] {
            let (code, _, said) = change(options);
            assert_eq!(code, Some(2), "{options:?}: {said}");
            assert!(said.contains(words), "{options:?}: {said}");
        }
        assert_eq!(world.get(&token, "/fhir/Observation/a-laboratory").await.0, 200);
        assert_eq!(output(db, &["client", "change", "nobody", "--role", "registry"]).0, Some(2));
        world.server.stop().await;
    }
);

both_databases!(
    async fn includes_chains_and_has_stay_within_the_scopes(db: &TestDb) {
        let world = World::new(db).await;
        let observations = world.token(db, "observations", "system/Observation.rs").await;
        let included = world.ids(&observations, "/fhir/Observation?code=718-7&_include=Observation:subject").await;
        assert_eq!(included, ["a-laboratory", "b-laboratory"], "without a scope on Patient none comes along");
        for path in ["/fhir/Observation?subject:Patient.family=Asha", "/fhir/Observation?subject.family=Asha", "/fhir/Patient"] {
            let (status, refused) = world.get(&observations, path).await;
            assert_eq!((status, &refused["issue"][0]["code"]), (403, &json!("forbidden")), "{path}: {refused}");
        }
        let patients = world.token(db, "patients", "system/Patient.rs").await;
        assert_eq!(world.get(&patients, "/fhir/Patient?_has:Observation:subject:code=718-7").await.0, 403);
        assert_eq!(world.ids(&patients, "/fhir/Patient?_revinclude=Observation:subject").await, ["a", "b"]);
        let both = world.token(db, "both", "system/Patient.rs system/Observation.rs?code=718-7&subject=Patient/a").await;
        assert_eq!(world.ids(&both, "/fhir/Patient?_revinclude=Observation:subject").await, ["a", "a-laboratory", "b"]);
        assert_eq!(world.ids(&both, "/fhir/Patient?_revinclude=*").await, ["a", "a-laboratory", "b"]);
        assert_eq!(world.ids(&both, "/fhir/Patient?_has:Observation:subject:category=laboratory").await, ["a"]);
        assert_eq!(world.ids(&both, "/fhir/Patient?_has:Observation:subject:code=8867-4").await, [""; 0]);
        let one = world.token(db, "one", "system/Patient.rs?family=Asha system/Observation.rs").await;
        assert_eq!(world.ids(&one, "/fhir/Observation?subject:Patient.active:missing=true").await, ["a-laboratory", "a-vital-signs"]);
        assert_eq!(
            world.ids(&one, "/fhir/Observation?code=718-7&_include=Observation:subject").await,
            ["a", "a-laboratory", "b-laboratory"]
        );
        world.server.stop().await;
    }
);

both_databases!(
    async fn operations_and_the_hdu_door_need_whole_scopes(db: &TestDb) {
        let world = World::new(db).await;
        let secret = add_client(db, "part", "HF-1", "system/Patient.cruds?family=Asha system/Encounter.c system/Measure.r?name=x system/Specimen.s?status=available system/*.s?_tag=x").await;
        let token = world.server.token("part", &secret).await;
        let request = world.server.client.post(world.server.url("/api/v1/hduApi/dataTemplates")).basic_auth("part", Some(&secret));
        assert_eq!(answer(request.header("content-type", "application/json").body("{}")).await.0, 403);
        let request = world.server.client.get(world.server.url("/api/v1/hduApi/labData")).basic_auth("part", Some(&secret));
        assert_eq!(answer(request).await.0, 403);
        assert_eq!(world.get(&token, "/fhir/Measure/opd-diagnoses/$evaluate-measure?periodStart=2026-09&periodEnd=2026-09").await.0, 403);
        assert_eq!(world.get(&token, "/fhir/Patient/b/$validate").await.0, 404, "$validate of a stored resource is a read");
        assert_eq!(world.get(&token, "/fhir/Patient/a/$validate").await.0, 200);
        assert_eq!(world.get(&token, "/fhir/ConceptMap/$translate?code=x").await.0, 403);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_page_token_is_good_for_the_rights_it_was_made_under(db: &TestDb) {
        let world = World::new(db).await;
        let (_, first) = world.get(&world.all, "/fhir/Observation?_count=1").await;
        let links = first["link"].as_array().unwrap();
        let next = links.iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap().to_owned();
        let next = &next[world.server.base.len()..];
        assert_eq!(world.get(&world.all, next).await.0, 200);
        let token = world.token(db, "lab", "system/Observation.rs?code=718-7").await;
        assert_eq!(world.get(&token, next).await.0, 400);
        world.server.stop().await;
    }
);
