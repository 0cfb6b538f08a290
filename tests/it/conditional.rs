//! Clients that race for the same resource: one wins, nobody loses a write, and no one is told of it by a 500.

use crate::support::{TestServer, answer, both_databases};
use futures_util::future::join_all;
use lango::config::AuthMode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CLIENTS: usize = 32;
/// Of each way to create.
const ROUNDS: usize = 100;

fn patient(value: &str) -> Value {
    json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": value }], "active": true })
}

/// Three ways to say: create it unless it is there.
#[derive(Clone, Copy, Debug)]
enum Way {
    Header,
    Transaction,
    Put,
}

/// Status and id of the one resource.
async fn create(server: &TestServer, way: Way, value: &str) -> (u16, String) {
    let criteria = format!("identifier=urn:s|{value}");
    match way {
        Way::Header => {
            let post = server.client.post(server.url("/fhir/Patient")).header("content-type", "application/fhir+json");
            let (status, stored) = answer(post.header("if-none-exist", &criteria).body(patient(value).to_string())).await;
            (status, stored["id"].as_str().unwrap_or_else(|| panic!("{stored}")).to_owned())
        }
        Way::Put => {
            let (status, stored) = server.put(&format!("/fhir/Patient?{criteria}"), &patient(value)).await;
            (status, stored["id"].as_str().unwrap_or_else(|| panic!("{stored}")).to_owned())
        }
        Way::Transaction => {
            let observation = json!({
                "resourceType": "Observation", "status": "final", "code": { "text": value }, "subject": { "reference": "urn:uuid:p" },
            });
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
                { "fullUrl": "urn:uuid:p", "resource": patient(value), "request": { "method": "POST", "url": "Patient", "ifNoneExist": criteria } },
                { "fullUrl": "urn:uuid:o", "resource": observation, "request": { "method": "POST", "url": "Observation" } },
            ]});
            let (status, response) = server.post("/fhir", &bundle).await;
            assert_eq!(status, 200, "{response}");
            let entry = &response["entry"][0]["response"];
            let location = entry["location"].as_str().unwrap_or_else(|| panic!("{response}"));
            let status = entry["status"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
            (status, location.split('/').nth(1).unwrap().to_owned())
        }
    }
}

async fn total(server: &TestServer, search: &str) -> u64 {
    let (status, bundle) = server.get(&format!("/fhir/{search}&_summary=count")).await;
    assert_eq!(status, 200, "{bundle}");
    bundle["total"].as_u64().unwrap()
}

both_databases!(
    async fn one_of_many_conditional_creates_makes_the_resource_every_time(db: &TestDb) {
        let server = TestServer::open(db).await;
        let sets = [&[Way::Header][..], &[Way::Transaction], &[Way::Put], &[Way::Header, Way::Transaction, Way::Put]];
        for (round, ways) in sets.iter().cycle().take(sets.len() * ROUNDS).enumerate() {
            let value = format!("v{round}");
            let racers = (0..CLIENTS).map(|n| create(&server, ways[n % ways.len()], &value));
            let answers = join_all(racers).await;
            let created = answers.iter().filter(|(status, _)| *status == 201).count();
            assert_eq!(created, 1, "round {round} {ways:?}: {answers:?}");
            assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 201)), "round {round} {ways:?}: {answers:?}");
            let ids: BTreeSet<&str> = answers.iter().map(|(_, id)| id.as_str()).collect();
            assert_eq!(ids.len(), 1, "round {round} {ways:?}");
            assert_eq!(total(&server, &format!("Patient?identifier=urn:s|{value}")).await, 1, "round {round} {ways:?}");
            if let Some(id) = ids.first() {
                let observed = answers.len() / ways.len() * usize::from(ways.iter().any(|way| matches!(way, Way::Transaction)));
                let found = total(&server, &format!("Observation?subject=Patient/{id}")).await;
                assert!(found.abs_diff(observed as u64) <= 1, "round {round} {ways:?}: {found} of {observed}");
            }
        }
        server.stop().await;
    }
);

both_databases!(
    async fn one_makes_the_resource_where_each_looks_for_it_in_another_way(db: &TestDb) {
        let server = TestServer::open(db).await;
        let criteria = [
            "identifier=urn:a|aV",
            "identifier=urn:b|bV",
            "family=V&birthdate=1990-01-01",
            "_filter=identifier eq \"urn:a|aV\"",
            "birthdate=1990-01-01&identifier=aV",
        ];
        for round in 0..ROUNDS / 2 {
            let value = format!("w{round}x");
            let person = json!({
                "resourceType": "Patient", "birthDate": "1990-01-01", "name": [{ "family": value }],
                "identifier": [{ "system": "urn:a", "value": format!("a{value}") }, { "system": "urn:b", "value": format!("b{value}") }],
            });
            let racers = (0..8).map(|n| {
                // Two of them meet, and others with them every few rounds.
                let looked_for = if round % 5 == 4 { n } else { [round, round / 5 + 1][n % 2] };
                let criteria = criteria[looked_for % criteria.len()].replace('V', &value);
                let (server, person) = (&server, &person);
                async move {
                    if n % 4 < 2 {
                        let post = server.client.post(server.url("/fhir/Patient")).header("content-type", "application/fhir+json");
                        return answer(post.header("if-none-exist", criteria).body(person.to_string())).await.0;
                    }
                    let put = server.client.put(server.url(&format!("/fhir/Patient?{criteria}")));
                    answer(put.header("content-type", "application/fhir+json").body(person.to_string())).await.0
                }
            });
            let answers = join_all(racers).await;
            assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1, "round {round}: {answers:?}");
            assert!(answers.iter().all(|status| matches!(status, 200 | 201)), "round {round}: {answers:?}");
            assert_eq!(total(&server, &format!("Patient?identifier=urn:a|a{value}")).await, 1, "round {round}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn transactions_in_opposite_orders_lose_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        let ids = ["a", "b", "c", "d"];
        let put = |id: &str, n: usize| {
            json!({
                "resource": { "resourceType": "Basic", "id": id, "code": { "text": n.to_string() } },
                "request": { "method": "PUT", "url": format!("Basic/{id}") },
            })
        };
        const WRITERS: usize = 40;
        let writers = (0..WRITERS).map(|n| {
            let mut entries: Vec<Value> = ids.iter().map(|id| put(id, n)).collect();
            if n % 2 == 1 {
                entries.reverse();
            }
            entries.rotate_left(n % ids.len());
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
            let server = &server;
            async move { server.post("/fhir", &bundle).await }
        });
        for (status, response) in join_all(writers).await {
            assert_eq!(status, 200, "{response}");
        }
        let mut orders = BTreeSet::new();
        for id in ids {
            let (_, history) = server.get(&format!("/fhir/Basic/{id}/_history?_count=200")).await;
            let written: Vec<usize> = history["entry"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["resource"]["code"]["text"].as_str().unwrap().parse().unwrap())
                .collect();
            assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), WRITERS, "{id}: every transaction made a version");
            assert_eq!(written.len(), WRITERS);
            orders.insert(written);
        }
        assert_eq!(orders.len(), 1, "the transactions happened one after the other, everywhere in the same order");
        server.stop().await;
    }
);

both_databases!(
    async fn counters_kept_by_if_match_count_every_increment(db: &TestDb) {
        let server = TestServer::open(db).await;
        let counter = |n: u64| json!({ "resourceType": "Basic", "id": "counter", "code": { "text": n.to_string() } });
        assert_eq!(server.put("/fhir/Basic/counter", &counter(0)).await.0, 201);
        let increment = async |server: &TestServer| {
            loop {
                let (_, stored) = server.get("/fhir/Basic/counter").await;
                let n: u64 = stored["code"]["text"].as_str().unwrap().parse().unwrap();
                let tag = format!("W/\"{}\"", stored["meta"]["versionId"].as_str().unwrap());
                let put = server.client.put(server.url("/fhir/Basic/counter")).header("content-type", "application/fhir+json");
                match answer(put.header("if-match", tag).body(counter(n + 1).to_string())).await {
                    (200, _) => return,
                    (412, _) => {}
                    (status, body) => panic!("{status} {body}"),
                }
            }
        };
        join_all((0..16).map(|_| async {
            for _ in 0..5 {
                increment(&server).await;
            }
        }))
        .await;
        let (_, stored) = server.get("/fhir/Basic/counter").await;
        assert_eq!((&stored["code"]["text"], &stored["meta"]["versionId"]), (&json!("80"), &json!("81")));
        server.stop().await;
    }
);

both_databases!(
    async fn one_of_many_updates_of_the_same_version_wins(db: &TestDb) {
        let server = TestServer::open(db).await;
        assert_eq!(server.put("/fhir/Basic/x", &json!({ "resourceType": "Basic", "id": "x", "code": { "text": "start" } })).await.0, 201);
        for round in 1..=20 {
            let tag = format!("W/\"{round}\"");
            let racers = (0..CLIENTS).map(|n| {
                let body = json!({ "resourceType": "Basic", "id": "x", "code": { "text": format!("{round} {n}") } });
                let put = server.client.put(server.url("/fhir/Basic/x")).header("content-type", "application/fhir+json");
                answer(put.header("if-match", &tag).body(body.to_string()))
            });
            let statuses: Vec<u16> = join_all(racers).await.into_iter().map(|(status, _)| status).collect();
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "round {round}: {statuses:?}");
            assert_eq!(statuses.iter().filter(|status| **status == 412).count(), CLIENTS - 1, "round {round}: {statuses:?}");
        }
        assert_eq!(server.get("/fhir/Basic/x").await.1["meta"]["versionId"], "21");
        server.stop().await;
    }
);

both_databases!(
    async fn racing_creates_updates_and_deletes_of_one_id_keep_its_versions_in_line(db: &TestDb) {
        let server = TestServer::open(db).await;
        let racers = (0..48usize).map(|n| {
            let server = &server;
            async move {
                let url = server.url("/fhir/Basic/x");
                let request = match n % 3 {
                    0 => server.client.delete(url),
                    _ => server
                        .client
                        .put(url)
                        .header("content-type", "application/fhir+json")
                        .body(json!({ "resourceType": "Basic", "id": "x", "code": { "text": n.to_string() } }).to_string()),
                };
                answer(request).await
            }
        });
        for (status, body) in join_all(racers).await {
            assert!(matches!(status, 200 | 201 | 204), "{status} {body}");
        }
        let (status, history) = server.get("/fhir/Basic/x/_history?_count=200").await;
        assert_eq!(status, 200, "{history}");
        let entries = history["entry"].as_array().unwrap();
        let versions: Vec<String> = entries.iter().map(|entry| entry["response"]["etag"].as_str().unwrap().to_owned()).collect();
        let expected: Vec<String> = (1..=entries.len()).rev().map(|n| format!("W/\"{n}\"")).collect();
        assert_eq!(versions, expected);
        let puts = entries.iter().filter(|entry| entry["request"]["method"] == "PUT").count();
        assert_eq!(puts, 32, "no put is lost");
        server.stop().await;
    }
);

both_databases!(
    async fn what_criteria_found_is_still_there_when_the_transaction_is_done(db: &TestDb) {
        let server = TestServer::open(db).await;
        for round in 0..ROUNDS / 2 {
            let value = format!("g{round}");
            let (status, made) = server.put(&format!("/fhir/Patient?identifier=urn:s|{value}"), &patient(&value)).await;
            assert_eq!(status, 201, "{made}");
            let id = made["id"].as_str().unwrap();
            // Even rounds delete the match, odd ones make it match no more.
            let remove = async {
                match round % 2 {
                    0 => answer(server.client.delete(server.url(&format!("/fhir/Patient/{id}")))).await.0,
                    _ => {
                        let mut other = patient("other");
                        other["id"] = json!(id);
                        server.put(&format!("/fhir/Patient/{id}"), &other).await.0
                    }
                }
            };
            let observe = |n: usize| {
                let (server, value) = (&server, &value);
                let subject = format!("Patient?identifier=urn:s|{value}");
                let condition = format!("identifier=urn:s|{value}");
                let referred = if n.is_multiple_of(2) { subject } else { "urn:uuid:p".to_owned() };
                let observation = json!({
                    "resourceType": "Observation", "status": "final", "code": { "text": "x" }, "subject": { "reference": referred },
                    "category": [{ "coding": [{ "system": "urn:s", "code": value }] }],
                });
                let mut entries = vec![
                    json!({ "fullUrl": "urn:uuid:o", "resource": observation, "request": { "method": "POST", "url": "Observation" } }),
                ];
                if n % 2 == 1 {
                    let request = json!({ "method": "POST", "url": "Patient", "ifNoneExist": condition });
                    entries.push(json!({ "fullUrl": "urn:uuid:p", "resource": patient(value), "request": request }));
                }
                async move { server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await }
            };
            let (removed, answers) = tokio::join!(remove, join_all((0..8).map(observe)));
            assert!(matches!(removed, 200 | 204), "{removed}");
            let mut written = 0;
            for (status, response) in answers {
                assert!(matches!(status, 200 | 412), "round {round}: {status} {response}");
                written += usize::from(status == 200);
            }
            // Who refers to the patient that went was written before it went, in the order that the database gives.
            let (_, history) = server.get(&format!("/fhir/Patient/{id}/_history?_count=1")).await;
            let gone = history["entry"][0]["response"]["lastModified"].as_str().unwrap();
            let (_, referring) = server.get(&format!("/fhir/Observation?subject=Patient/{id}&_count=50")).await;
            for entry in referring["entry"].as_array().into_iter().flatten() {
                let at = entry["resource"]["meta"]["lastUpdated"].as_str().unwrap();
                assert!(at < gone, "round {round}: an Observation refers to a Patient that was gone");
            }
            assert_eq!(total(&server, &format!("Observation?category=urn:s|{value}")).await as usize, written, "round {round}");
            assert!(total(&server, &format!("Patient?identifier=urn:s|{value}")).await <= 1, "round {round}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_condition_that_says_too_little_changes_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        // Only so much of a name is indexed: what is just that long may be the beginning of a longer one.
        let name = |family: &str| json!({ "resourceType": "Patient", "id": "long", "name": [{ "family": family }] });
        let beginning = "w".repeat(800);
        let long = name(&format!("{beginning}REST"));
        assert_eq!(server.put("/fhir/Patient/long", &long).await.0, 201);
        let (status, outcome) = server.put(&format!("/fhir/Patient?_id=long&family:exact={beginning}"), &name(&beginning)).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("too-long")), "{outcome}");
        // An If-Match that says nothing is not one that was not sent.
        let put = server.client.put(server.url("/fhir/Patient/long")).header("content-type", "application/fhir+json");
        assert_eq!(answer(put.header("if-match", "").body(name("x").to_string())).await.0, 400);
        assert_eq!(answer(server.client.delete(server.url("/fhir/Patient/long")).header("if-match", " ")).await.0, 400);
        assert_eq!(server.get("/fhir/Patient/long").await.1["name"], long["name"]);
        server.stop().await;
    }
);

both_databases!(
    async fn the_operator_decides_who_gives_ids_and_how_much_a_delete_may_match(db: &TestDb) {
        let server = TestServer::start(db, |settings| {
            settings.auth = AuthMode::Open;
            settings.update_create = false;
            settings.limits.delete_matches = 2;
        })
        .await;
        let mut own = patient("1");
        own["id"] = json!("own");
        assert_eq!(server.put("/fhir/Patient/own", &own).await.0, 405);
        assert_eq!(server.put("/fhir/Patient?identifier=urn:s|1", &own).await.0, 405);
        let mut ids = Vec::new();
        for _ in 0..3 {
            let (status, made) = server.post("/fhir/Patient", &patient("1")).await;
            assert_eq!(status, 201);
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        own["id"] = json!(ids[0]);
        own["active"] = json!(false);
        assert_eq!(server.put(&format!("/fhir/Patient/{}", ids[0]), &own).await.0, 200, "what is there may be updated");
        let delete = || answer(server.client.delete(server.url("/fhir/Patient?identifier=urn:s|1")));
        let (status, outcome) = delete().await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (412, &json!("multiple-matches")), "{outcome}");
        assert_eq!(answer(server.client.delete(server.url(&format!("/fhir/Patient/{}", ids[0])))).await.0, 204);
        assert_eq!(delete().await.0, 204);
        assert_eq!(total(&server, "Patient?identifier=urn:s|1").await, 0);
        let (_, statement) = server.get("/fhir/metadata").await;
        let resource = &statement["rest"][0]["resource"][0];
        assert_eq!((&resource["updateCreate"], &resource["conditionalDelete"]), (&json!(false), &json!("multiple")));
        server.stop().await;
    }
);

both_databases!(
    async fn criteria_by_words_and_filters_are_held_against_the_same_transaction(db: &TestDb) {
        let server = TestServer::open(db).await;
        let observation = |text: &str| json!({ "resourceType": "Observation", "status": "final", "code": { "text": text } });
        let person = |family: &str| json!({ "resourceType": "Patient", "name": [{ "family": family }] });
        let post = |resource: Value, criteria: &str| {
            let url = resource["resourceType"].clone();
            json!({ "resource": resource, "request": { "method": "POST", "url": url, "ifNoneExist": criteria } })
        };
        for (turn, statuses) in [("first", "201 201 201 201"), ("again", "200 200 200 200")] {
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
                post(observation("Blood pressure"), "code:text=blood"),
                post(observation("Weight"), "code:text=weight"),
                post(person("Juma"), "_filter=family eq juma"),
                post(person("Mushi"), "_filter=family ew shi and not (family sw jum)"),
            ]});
            let (status, response) = server.post("/fhir", &bundle).await;
            assert_eq!(status, 200, "{turn} {response}");
            let entries = response["entry"].as_array().unwrap().iter();
            let told: Vec<&str> = entries.map(|entry| entry["response"]["status"].as_str().unwrap().split(' ').next().unwrap()).collect();
            assert_eq!(told.join(" "), statuses, "{turn} {response}");
        }
        // What two entries mean is one resource.
        for criteria in ["_filter=family ew sha", "_filter=family ne juma", "_filter=family eq asha"] {
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [post(person("Asha"), "family=asha"), post(person("Zawadi"), criteria)] });
            let (status, outcome) = server.post("/fhir", &bundle).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("duplicate")), "{criteria}: {outcome}");
        }
        // What needs the store is still refused, in words that say what it is.
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
            post(person("Asha"), "family=asha"), post(person("Neema"), "organization.name=x"),
        ]});
        let (status, outcome) = server.post("/fhir", &bundle).await;
        assert_eq!(status, 400, "{outcome}");
        assert!(outcome["issue"][0]["diagnostics"].as_str().unwrap().contains("without chains, _has"), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn criteria_may_name_another_entry_by_its_full_url(db: &TestDb) {
        let server = TestServer::open(db).await;
        let reference = |urn: &str| json!({ "reference": urn });
        let observation = |code: &str| {
            let mut resource =
                json!({ "resourceType": "Observation", "status": "final", "code": { "coding": [{ "system": "urn:c", "code": code }] } });
            (resource["subject"], resource["encounter"]) = (reference("urn:uuid:p"), reference("urn:uuid:e"));
            resource
        };
        let encounter = json!({
            "resourceType": "Encounter", "status": "finished", "subject": reference("urn:uuid:p"),
            "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" },
        });
        let post = |urn: &str, resource: Value, criteria: &str| {
            let url = resource["resourceType"].clone();
            json!({ "fullUrl": urn, "resource": resource, "request": { "method": "POST", "url": url, "ifNoneExist": criteria } })
        };
        let update = |urn: &str, resource: Value, url: &str| json!({ "fullUrl": urn, "resource": resource, "request": { "method": "PUT", "url": url } });
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
            post("urn:uuid:o", observation("a"), "code=urn:c|a&encounter=urn:uuid:e&subject:Patient=urn:uuid:p"),
            update("urn:uuid:u", observation("b"), "Observation?subject=urn%3Auuid%3Ap&code=urn:c|b"),
            post("urn:uuid:e", encounter.clone(), "Encounter?subject=urn:uuid:p"),
            post("urn:uuid:p", patient("one"), "identifier=urn:s|one"),
            // The same as the Patient before, and so is its Encounter.
            post("urn:uuid:q", patient("one"), "identifier=urn:s|one"),
            post("urn:uuid:f", encounter, "subject=urn:uuid:q"),
        ]});
        let mut locations = Vec::new();
        for (statuses, turn) in [("201 201 201 201 200 200", "first"), ("200 200 200 200 200 200", "again")] {
            let (status, response) = server.post("/fhir", &bundle).await;
            assert_eq!(status, 200, "{turn} {response}");
            let answers: Vec<&Value> = response["entry"].as_array().unwrap().iter().map(|entry| &entry["response"]).collect();
            let told: Vec<&str> = answers.iter().map(|answer| answer["status"].as_str().unwrap().split(' ').next().unwrap()).collect();
            assert_eq!(told.join(" "), statuses, "{turn} {response}");
            let place = |answer: &&Value| answer["location"].as_str().unwrap().split("/_history").next().unwrap().to_owned();
            locations.push(answers.iter().map(place).collect::<Vec<_>>());
        }
        assert_eq!(locations[0], locations[1]);
        for (search, count) in [("Observation?code=urn:c|a,urn:c|b", 2), ("Encounter?status=finished", 1), ("Patient?active=true", 1)] {
            assert_eq!(total(&server, search).await, count, "{search}");
        }
        // Two that name each other cannot be told, and nothing is done.
        let circle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
            post("urn:uuid:a", json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" } }), "has-member=urn:uuid:b"),
            post("urn:uuid:b", json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" } }), "has-member=urn:uuid:a"),
        ]});
        let (status, outcome) = server.post("/fhir", &circle).await;
        assert_eq!((status, &outcome["issue"][1]["expression"][0]), (400, &json!("Bundle.entry[1].request.ifNoneExist")), "{outcome}");
        // An identifier that is the same text stays as it is.
        let other = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [post("urn:uuid:i", patient("urn:uuid:i"), "identifier=urn:s|urn:uuid:i")] });
        for status in ["201", "200"] {
            let (_, response) = server.post("/fhir", &other).await;
            assert!(response["entry"][0]["response"]["status"].as_str().unwrap().starts_with(status), "{response}");
        }
        server.stop().await;
    }
);
