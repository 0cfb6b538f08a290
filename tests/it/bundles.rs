//! Transactions and batches.

use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};

fn transaction(entries: Vec<Value>) -> Value {
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })
}

fn post(full_url: &str, resource: Value) -> Value {
    let url = resource["resourceType"].clone();
    json!({ "fullUrl": full_url, "resource": resource, "request": { "method": "POST", "url": url } })
}

fn statuses(bundle: &Value) -> Vec<u16> {
    let status = |entry: &Value| entry["response"]["status"].as_str()?.split(' ').next()?.parse().ok();
    bundle["entry"].as_array().unwrap().iter().map(|entry| status(entry).unwrap()).collect()
}

fn observation(subject: &str) -> Value {
    json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" }, "subject": { "reference": subject } })
}

async fn count(server: &TestServer, search: &str) -> i64 {
    server.get(&format!("/fhir/{search}")).await.1["total"].as_i64().unwrap()
}

both_databases!(
    async fn entries_refer_to_each_other_by_urn(db: &TestDb) {
        let server = TestServer::open(db).await;
        let bundle = transaction(vec![
            post("urn:uuid:o", observation("urn:uuid:p")),
            post("urn:uuid:p", json!({ "resourceType": "Patient", "active": true })),
        ]);
        let (status, response) = server.post("/fhir", &bundle).await;
        assert_eq!((status, &response["type"]), (200, &json!("transaction-response")), "{response}");
        assert_eq!(statuses(&response), [201, 201]);
        let location = response["entry"][1]["response"]["location"].as_str().unwrap();
        let patient = location.strip_suffix("/_history/1").unwrap();
        assert_eq!(count(&server, &format!("Observation?subject={patient}")).await, 1);
        server.stop().await;
    }
);

both_databases!(
    async fn a_transaction_happens_whole_or_not_at_all(db: &TestDb) {
        let server = TestServer::open(db).await;
        let bundle = transaction(vec![
            post("urn:uuid:1", json!({ "resourceType": "Patient", "active": true })),
            post("urn:uuid:2", json!({ "resourceType": "Patient", "birthDate": "x", "foo": 1 })),
            post("urn:uuid:3", observation("Patient?identifier=urn:s|none")),
            json!({ "request": { "method": "POST", "url": "Patient" } }),
        ]);
        let (status, outcome) = server.post("/fhir", &bundle).await;
        assert_eq!(outcome["resourceType"], "OperationOutcome", "{outcome}");
        assert!((400..500).contains(&status));
        let mut places: Vec<&str> =
            outcome["issue"].as_array().unwrap().iter().map(|issue| issue["expression"][0].as_str().unwrap()).collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                "Bundle.entry[1].resource.birthDate",
                "Bundle.entry[1].resource.foo",
                "Bundle.entry[2].resource.subject.reference",
                "Bundle.entry[3].resource"
            ]
        );
        assert_eq!(count(&server, "Patient").await, 0);
        server.stop().await;
    }
);

both_databases!(
    async fn conditional_references_find_the_store_and_the_bundle(db: &TestDb) {
        let server = TestServer::open(db).await;
        let doctor = |value: &str| json!({ "resourceType": "Practitioner", "identifier": [{ "system": "urn:npi", "value": value }] });
        assert_eq!(server.post("/fhir/Practitioner", &doctor("1")).await.0, 201);
        let mut seen = observation("Patient?identifier=urn:s|new");
        seen["performer"] = json!([{ "reference": "Practitioner?identifier=urn:npi|1" }]);
        let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": "new" }] });
        let (status, response) = server.post("/fhir", &transaction(vec![post("urn:uuid:a", seen), post("urn:uuid:b", patient)])).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(count(&server, "Observation?performer:Practitioner.identifier=urn:npi|1").await, 1);
        assert_eq!(count(&server, "Observation?subject:Patient.identifier=urn:s|new").await, 1);

        server.post("/fhir/Practitioner", &doctor("1")).await;
        let mut ambiguous = observation("Patient/x");
        ambiguous["performer"] = json!([{ "reference": "Practitioner?identifier=urn:npi|1" }]);
        let (status, outcome) = server.post("/fhir", &transaction(vec![post("urn:uuid:a", ambiguous)])).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (412, &json!("multiple-matches")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn conditional_creates_meet_what_is_there_and_each_other(db: &TestDb) {
        let server = TestServer::open(db).await;
        let create = |urn: &str| {
            json!({
                "fullUrl": urn,
                "resource": { "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": "1" }] },
                "request": { "method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:s|1" },
            })
        };
        let bundle = transaction(vec![create("urn:uuid:a"), create("urn:uuid:b"), post("urn:uuid:o", observation("urn:uuid:b"))]);
        for expected in [[201, 200, 201], [200, 200, 201]] {
            let (status, response) = server.post("/fhir", &bundle).await;
            assert_eq!(status, 200, "{response}");
            assert_eq!(statuses(&response), expected);
        }
        assert_eq!(count(&server, "Patient").await, 1);
        assert_eq!(count(&server, "Observation?subject:Patient.identifier=urn:s|1").await, 2);
        server.stop().await;
    }
);

both_databases!(
    async fn all_methods_go_in_one_transaction_and_reads_see_its_writes(db: &TestDb) {
        let server = TestServer::open(db).await;
        for id in ["a", "b"] {
            server.put(&format!("/fhir/Patient/{id}"), &json!({ "resourceType": "Patient", "id": id })).await;
        }
        let put = |id: &str, if_match: &str| json!({ "resource": { "resourceType": "Patient", "id": id, "active": true }, "request": { "method": "PUT", "url": format!("Patient/{id}"), "ifMatch": if_match } });
        let read = json!({ "request": { "method": "GET", "url": "Patient?active=true" } });
        let delete = json!({ "request": { "method": "DELETE", "url": "Patient/b" } });
        let stale = transaction(vec![delete.clone(), put("a", "W/\"7\"")]);
        assert_eq!(server.post("/fhir", &stale).await.0, 412);
        assert_eq!(server.get("/fhir/Patient/b").await.0, 200, "nothing of it happened");

        let (status, response) = server.post("/fhir", &transaction(vec![read, put("a", "W/\"1\""), delete])).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(statuses(&response), [200, 200, 204]);
        assert_eq!(response["entry"][0]["resource"]["total"], 1);
        assert_eq!(response["entry"][1]["response"]["etag"], "W/\"2\"");
        assert_eq!(server.get("/fhir/Patient/b").await.0, 410);

        let twice = transaction(vec![put("a", "W/\"2\""), json!({ "request": { "method": "DELETE", "url": "Patient/a" } })]);
        let (status, outcome) = server.post("/fhir", &twice).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("duplicate")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_transaction_is_refused_when_one_of_its_reads_fails(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/a", &json!({ "resourceType": "Patient", "id": "a" })).await;
        server.put("/fhir/Patient/gone", &json!({ "resourceType": "Patient", "id": "gone" })).await;
        server.client.delete(server.url("/fhir/Patient/gone")).send().await.unwrap();
        let get = |url: &str| json!({ "request": { "method": "GET", "url": url } });
        let put = |id: &str| {
            let request = json!({ "method": "PUT", "url": format!("Patient/{id}") });
            json!({ "resource": { "resourceType": "Patient", "id": id, "active": true }, "request": request })
        };
        let delete = json!({ "request": { "method": "DELETE", "url": "Patient/a" } });
        for (url, expected) in [("Patient/none", 404), ("Patient/gone", 410), ("Patient?name:foo=1", 400), ("Patient/a/_history/9", 404)] {
            for entries in [vec![get("Patient/a"), get(url)], vec![put("b"), get(url)]] {
                let (status, outcome) = server.post("/fhir", &transaction(entries)).await;
                assert_eq!((status, places(&outcome)), (expected, vec!["Bundle.entry[1].request.url"]), "{url}: {outcome}");
            }
        }
        let (status, outcome) =
            server.post("/fhir", &transaction(vec![get("Patient/none"), get("Patient/a"), get("Patient?name:foo=1")])).await;
        assert_eq!((status, places(&outcome)), (400, vec!["Bundle.entry[0].request.url", "Bundle.entry[2].request.url"]), "all at once");
        assert_eq!(server.post("/fhir", &transaction(vec![delete, get("Patient/a")])).await.0, 410);
        assert_eq!((server.get("/fhir/Patient/a").await.0, server.get("/fhir/Patient/b").await.0), (200, 404), "nothing of it happened");
        // What the transaction itself makes is there to be read.
        let (status, response) = server.post("/fhir", &transaction(vec![put("b"), get("Patient/b"), get("Patient/b/_history/1")])).await;
        assert_eq!((status, statuses(&response)), (200, vec![201, 200, 200]), "{response}");
        let head = json!({ "request": { "method": "HEAD", "url": "Patient/b" } });
        let (status, response) = server.post("/fhir", &transaction(vec![head])).await;
        assert_eq!((status, response["entry"][0].get("resource")), (200, None), "a HEAD has no body: {response}");
        assert_eq!(response["entry"][0]["response"]["etag"], "W/\"1\"");
        server.stop().await;
    }
);

both_databases!(
    async fn in_a_batch_one_entry_does_not_fail_its_neighbours(db: &TestDb) {
        let server = TestServer::open(db).await;
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [
            post("urn:uuid:1", json!({ "resourceType": "Patient", "active": true })),
            post("urn:uuid:2", json!({ "resourceType": "Patient", "birthDate": "x" })),
            { "request": { "method": "GET", "url": "Patient/none" } },
            { "request": { "method": "GET", "url": "Patient" } },
            { "request": { "method": "PATCH", "url": "Patient/1" }, "resource": { "resourceType": "Patient" } },
        ]});
        let (status, response) = server.post("/fhir", &batch).await;
        assert_eq!((status, &response["type"]), (200, &json!("batch-response")), "{response}");
        assert_eq!(statuses(&response), [201, 422, 404, 200, 400]);
        assert_eq!(response["entry"][1]["response"]["outcome"]["issue"][0]["expression"][0], "Bundle.entry[1].resource.birthDate");
        assert_eq!(response["entry"][3]["resource"]["total"], 1);
        server.stop().await;
    }
);

/// Where an OperationOutcome's issues are, sorted.
fn places(outcome: &Value) -> Vec<&str> {
    assert_eq!(outcome["resourceType"], "OperationOutcome", "{outcome}");
    let mut places: Vec<&str> =
        outcome["issue"].as_array().unwrap().iter().map(|issue| issue["expression"][0].as_str().unwrap_or_default()).collect();
    places.sort_unstable();
    places
}

both_databases!(
    async fn a_transaction_tells_every_problem_of_every_entry_at_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        let bundle = transaction(vec![
            json!({ "fullUrl": "urn:uuid:1", "request": { "method": "FLY", "url": "Patient" }, "resource": { "resourceType": "Patient", "birthDate": "x" } }),
            json!({ "fullUrl": "urn:uuid:2", "resource": { "resourceType": "Patient", "foo": 1 } }),
            post("urn:uuid:3", json!({ "resourceType": "Observation", "code": { "text": "x" }, "subject": { "reference": "urn:uuid:1" } })),
            json!({ "request": { "method": "PUT", "url": "Alien/1", "ifMatch": "x" } }),
            json!({ "request": { "method": "PUT", "url": "Patient?idntifier=1" }, "resource": { "resourceType": "Patient", "gender": "x" } }),
            post("urn:uuid:3", observation("urn:uuid:nobody")),
            post("urn:uuid:6", json!({ "resourceType": "Patient" })),
        ]);
        let (status, outcome) = server.post("/fhir", &bundle).await;
        assert_eq!(status, 400, "{outcome}");
        assert_eq!(
            places(&outcome),
            [
                "Bundle.entry[0].request.method",
                "Bundle.entry[0].resource.birthDate",
                "Bundle.entry[1].request",
                "Bundle.entry[1].resource.foo",
                "Bundle.entry[2].resource.status",
                "Bundle.entry[3].request.ifMatch",
                "Bundle.entry[3].request.url",
                "Bundle.entry[4].request.url",
                "Bundle.entry[4].resource.gender",
                "Bundle.entry[5].fullUrl",
                "Bundle.entry[5].resource.subject.reference",
            ]
        );
        let order: Vec<&str> =
            outcome["issue"].as_array().unwrap().iter().map(|issue| &issue["expression"][0].as_str().unwrap()[..15]).collect();
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(count(&server, "Patient").await + count(&server, "Observation").await, 0);
        server.stop().await;
    }
);

both_databases!(
    async fn a_urn_that_is_no_entrys_is_refused(db: &TestDb) {
        let server = TestServer::open(db).await;
        let entries = vec![
            post("urn:uuid:a", json!({ "resourceType": "Patient", "active": true })),
            post("urn:uuid:b", observation("urn:uuid:c")),
            json!({ "fullUrl": "urn:uuid:d", "request": { "method": "DELETE", "url": "Patient/none" } }),
            post("urn:uuid:e", observation("urn:uuid:d")),
        ];
        let (status, outcome) = server.post("/fhir", &transaction(entries.clone())).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("not-found")), "{outcome}");
        assert_eq!(places(&outcome), ["Bundle.entry[1].resource.subject.reference", "Bundle.entry[3].resource.subject.reference"]);
        assert_eq!(count(&server, "Patient").await, 0);
        let (status, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "batch", "entry": entries })).await;
        assert_eq!((status, statuses(&response)), (200, vec![201, 400, 204, 400]), "{response}");
        let refused = &response["entry"][1]["response"]["outcome"];
        assert_eq!(places(refused), ["Bundle.entry[1].resource.subject.reference"]);
        // A document that is kept as it is resolves its own.
        let document = json!({
            "resourceType": "Bundle", "type": "collection",
            "entry": [{ "fullUrl": "urn:uuid:x", "resource": { "resourceType": "Patient" } }, { "fullUrl": "urn:uuid:y", "resource": observation("urn:uuid:x") }],
        });
        assert_eq!(server.post("/fhir", &transaction(vec![post("urn:uuid:z", document)])).await.0, 200);
        server.stop().await;
    }
);

both_databases!(
    async fn conditional_references_mean_what_the_transaction_leaves(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |id: &str, value: &str| json!({ "resourceType": "Patient", "id": id, "identifier": [{ "system": "urn:s", "value": value }], "birthDate": "1990-05-01" });
        let put = |resource: Value| {
            let url = format!("Patient/{}", resource["id"].as_str().unwrap());
            json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
        };
        assert_eq!(server.put("/fhir/Patient/a", &patient("a", "1")).await.0, 201);
        let refer = |criteria: &str| post("urn:uuid:o", observation(&format!("Patient?{criteria}")));

        let (status, outcome) = server.post("/fhir", &transaction(vec![put(patient("a", "2")), refer("identifier=urn:s|1")])).await;
        assert_eq!(
            (status, places(&outcome)),
            (412, vec!["Bundle.entry[1].resource.subject.reference"]),
            "it will not match any more: {outcome}"
        );
        let delete = json!({ "request": { "method": "DELETE", "url": "Patient/a" } });
        assert_eq!(server.post("/fhir", &transaction(vec![delete.clone(), refer("identifier=urn:s|1")])).await.0, 412, "it is deleted");
        let create = json!({ "resource": patient("x", "1"), "request": { "method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:s|1" } });
        let (status, response) = server.post("/fhir", &transaction(vec![create, delete])).await;
        assert_eq!((status, statuses(&response)), (200, vec![201, 204]), "deletes come first: {response}");

        // Dates, texts and references are judged within the Bundle too.
        let mut new = patient("n", "9");
        new["name"] = json!([{ "family": "Mbeki" }]);
        new["birthDate"] = json!("2001-02-03");
        new["managingOrganization"] = json!({ "reference": "urn:uuid:org" });
        let entries = vec![
            post("urn:uuid:org", json!({ "resourceType": "Organization", "name": "x" })),
            put(new),
            refer("family:contains=bek&birthdate=ge2001-02&birthdate=lt2001-03&organization:missing=false"),
        ];
        let (status, response) = server.post("/fhir", &transaction(entries)).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(count(&server, "Observation?subject=Patient/n").await, 1);
        let chained = vec![put(patient("m", "8")), refer("organization.name=x&identifier=urn:s|8")];
        let (status, outcome) = server.post("/fhir", &transaction(chained)).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("not-supported")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn deletes_come_first_and_creates_do_not_find_what_they_took(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": "1" }] });
        let create = json!({ "resource": patient, "request": { "method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:s|1" } });
        let delete = |url: &str| json!({ "request": { "method": "DELETE", "url": url } });
        let replace = transaction(vec![create.clone(), delete("Patient?identifier=urn:s|1")]);
        let mut before = Value::Null;
        for n in 0..3 {
            let (status, response) = server.post("/fhir", &replace).await;
            assert_eq!((status, statuses(&response)), (200, vec![201, 204]), "{response}");
            let made = response["entry"][0]["response"]["location"].clone();
            assert!(made != before, "another one, time {n}");
            assert_eq!(count(&server, "Patient?identifier=urn:s|1").await, 1);
            before = made;
        }
        // Of two that match one is left, which the create finds; of two that are both deleted, none.
        assert_eq!(server.post("/fhir/Patient", &patient).await.0, 201);
        let first = before.as_str().unwrap().split("/_history").next().unwrap().to_owned();
        let (_, response) = server.post("/fhir", &transaction(vec![delete(&first), create.clone()])).await;
        assert_eq!(statuses(&response), [204, 200], "{response}");
        let second = response["entry"][1]["response"]["location"].as_str().unwrap().split("/_history").next().unwrap().to_owned();
        let (_, third) = server.post("/fhir/Patient", &patient).await;
        let third = format!("Patient/{}", third["id"].as_str().unwrap());
        let all = transaction(vec![delete(&second), delete(&third), create.clone()]);
        assert_eq!(statuses(&server.post("/fhir", &all).await.1), [204, 204, 201]);
        assert_eq!(count(&server, "Patient?identifier=urn:s|1").await, 1);
        // What is changed by one entry is not deleted by another.
        let put = json!({ "resource": patient, "request": { "method": "PUT", "url": "Patient?identifier=urn:s|1" } });
        let both = transaction(vec![put, delete("Patient?identifier=urn:s|1")]);
        let (status, outcome) = server.post("/fhir", &both).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("duplicate")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn entries_of_one_identity_are_one_resource_or_refused(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |value: &str| json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": value }] });
        let post = |value: &str, criteria: Option<&str>| {
            let mut request = json!({ "method": "POST", "url": "Patient" });
            if let Some(criteria) = criteria {
                request["ifNoneExist"] = json!(criteria);
            }
            json!({ "resource": patient(value), "request": request })
        };
        let put = |value: &str, criteria: &str| json!({ "resource": patient(value), "request": { "method": "PUT", "url": format!("Patient?{criteria}") } });
        let by_id = |value: &str| {
            let mut patient = patient(value);
            patient["id"] = json!("own");
            json!({ "resource": patient, "request": { "method": "PUT", "url": "Patient/own" } })
        };
        let one = "identifier=urn:s|1";
        for (entries, names) in [
            (vec![post("1", Some(one)), put("1", one)], "Bundle.entry[0]"),
            (vec![put("1", one), post("1", Some(one))], "Bundle.entry[0]"),
            (vec![put("1", one), put("1", "identifier=urn:s%7C1&identifier=urn:s|1")], "Bundle.entry[0]"),
            (vec![post("1", None), put("1", one)], "Bundle.entry[0]"),
            (vec![post("1", Some(one)), post("1", None)], "Bundle.entry[1]"),
            (vec![by_id("1"), put("1", one)], "Bundle.entry[0]"),
            (vec![post("1", Some(one)), by_id("1")], "Bundle.entry[1]"),
            (vec![post("1", Some(one)), post("1", Some("identifier=1"))], "Bundle.entry[1]"),
            (vec![put("2", one), put("1", "identifier=urn:s|2")], "Bundle.entry[1]"),
        ] {
            let (status, outcome) = server.post("/fhir", &transaction(entries.clone())).await;
            let words = outcome["issue"][0]["diagnostics"].as_str().unwrap_or_default();
            assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("duplicate")), "{entries:?}: {outcome}");
            assert!(words.contains(names) && places(&outcome)[0] != names, "{entries:?}: {outcome}");
            assert_eq!(count(&server, "Patient").await, 0, "{entries:?}");
        }
        // What cannot be judged before it is stored.
        let (status, outcome) = server.post("/fhir", &transaction(vec![post("1", Some("organization.name=x")), post("2", None)])).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("not-supported")), "{outcome}");
        let (_, response) = server.post("/fhir", &transaction(vec![post("1", Some(one)), post("2", Some("identifier=urn:s|2"))])).await;
        assert_eq!(statuses(&response), [201, 201], "{response}");
        let same = transaction(vec![post("3", Some("identifier=urn:s|3")), post("3", Some("identifier=urn:s%7C3"))]);
        assert_eq!(statuses(&server.post("/fhir", &same).await.1), [201, 200]);
        assert_eq!(count(&server, "Patient?identifier=urn:s|3").await, 1);
        // Criteria in the URL mean the same as outside.
        let url = |url: &str| json!({ "resource": patient("4"), "request": { "method": "POST", "url": url } });
        for (kind, expected) in [("transaction", 201), ("transaction", 200), ("batch", 200)] {
            let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [url("Patient?identifier=urn:s|4")] });
            assert_eq!(statuses(&server.post("/fhir", &bundle).await.1), [expected], "{kind}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn an_update_by_criteria_means_what_the_deletes_leave(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |id: &str| json!({ "resourceType": "Patient", "id": id, "identifier": [{ "system": "urn:s", "value": "1" }] });
        let delete = json!({ "request": { "method": "DELETE", "url": "Patient/a" } });
        let mut female = patient("b");
        female["gender"] = json!("female");
        female.as_object_mut().unwrap().shift_remove("id");
        let put = json!({ "resource": female, "request": { "method": "PUT", "url": "Patient?identifier=urn:s|1" } });
        let gender = json!({ "resourceType": "Parameters", "parameter": [{ "name": "operation", "part": [
            { "name": "type", "valueCode": "add" }, { "name": "path", "valueString": "Patient" }, { "name": "name", "valueString": "gender" },
            { "name": "value", "valueCode": "female" }] }] });
        let patch = json!({ "resource": gender, "request": { "method": "PATCH", "url": "Patient?identifier=urn:s|1" } });
        for change in [put, patch] {
            for id in ["a", "b"] {
                assert!(server.put(&format!("/fhir/Patient/{id}"), &patient(id)).await.0 < 300);
            }
            let (status, response) = server.post("/fhir", &transaction(vec![change.clone(), delete.clone()])).await;
            assert_eq!((status, statuses(&response)), (200, vec![200, 204]), "{response}");
            assert_eq!(server.get("/fhir/Patient/b").await.1["gender"], "female");
            assert_eq!(count(&server, "Patient?identifier=urn:s|1").await, 1);
            // What it means is deleted.
            let gone = json!({ "request": { "method": "DELETE", "url": "Patient/b" } });
            let (status, outcome) = server.post("/fhir", &transaction(vec![change, gone])).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("duplicate")), "{outcome}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_bundle_reads_only_what_the_caller_has_not(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p" })).await;
        let read = |condition: &str, value: &str| {
            let mut request = json!({ "method": "GET", "url": "Patient/p" });
            request[condition] = json!(value);
            json!({ "request": request })
        };
        let entries = vec![
            read("ifNoneMatch", "W/\"1\""),
            read("ifNoneMatch", "W/\"2\""),
            read("ifModifiedSince", "2090-01-01T00:00:00Z"),
            read("ifModifiedSince", "2020-01-01T00:00:00Z"),
        ];
        for kind in ["batch", "transaction"] {
            let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": entries });
            let (_, response) = server.post("/fhir", &bundle).await;
            assert_eq!(statuses(&response), [304, 200, 304, 200], "{kind}: {response}");
            let told: Vec<bool> = (0..4).map(|n| response["entry"][n].get("resource").is_some()).collect();
            assert_eq!(told, [false, true, false, true]);
            assert_eq!(response["entry"][0]["response"]["etag"], "W/\"1\"");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_bundle_searches_by_post_and_deletes_the_version_that_is_meant(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |birth: &str| json!({ "resourceType": "Patient", "id": "p", "birthDate": birth, "identifier": [{ "system": "urn:s", "value": "1" }] });
        server.put("/fhir/Patient/p", &patient("2000")).await;
        server.put("/fhir/Patient/p", &patient("2001")).await;
        for kind in ["batch", "transaction"] {
            let search = |url: &str| json!({ "request": { "method": "POST", "url": url } });
            let entries = [search("Patient/_search?_id=p"), search("_search?_type=Patient"), search("Patient/p/Patient/_search")];
            let (_, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": kind, "entry": entries })).await;
            assert_eq!(statuses(&response), [200, 200, 200], "{response}");
            assert!((0..3).all(|n| response["entry"][n]["resource"]["entry"][0]["resource"]["id"] == "p"), "{response}");
        }
        let delete = |if_match: &str| {
            transaction(vec![json!({ "request": { "method": "DELETE", "url": "Patient?identifier=urn:s|1", "ifMatch": if_match } })])
        };
        assert_eq!(server.post("/fhir", &delete("W/\"1\"")).await.0, 412);
        assert_eq!(server.get("/fhir/Patient/p").await.0, 200);
        assert_eq!(server.post("/fhir", &delete("W/\"2\"")).await.0, 200);
        assert_eq!(server.get("/fhir/Patient/p").await.0, 410);
        assert_eq!(server.post("/fhir", &delete("W/\"2\"")).await.0, 412, "nothing is there");
        server.stop().await;
    }
);

both_databases!(
    async fn a_uuid_that_equals_a_full_url_stays_a_uuid(db: &TestDb) {
        let server = TestServer::open(db).await;
        let urn = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520";
        let extension = json!([{ "url": "urn:e", "valueUuid": urn }, { "url": "urn:f", "valueUri": urn }]);
        let bundle = transaction(vec![post(urn, json!({ "resourceType": "Patient", "extension": extension }))]);
        let (status, response) = server.post("/fhir", &bundle).await;
        assert_eq!(status, 200, "{response}");
        let place = response["entry"][0]["response"]["location"].as_str().unwrap().split("/_history").next().unwrap().to_owned();
        let (_, stored) = server.get(&format!("/fhir/{place}")).await;
        assert_eq!((&stored["extension"][0]["valueUuid"], &stored["extension"][1]["valueUri"]), (&json!(urn), &json!(place)));
        server.stop().await;
    }
);
