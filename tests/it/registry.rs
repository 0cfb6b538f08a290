//! Whose is it, and who is it: ownership of what comes in, and golden Patients over what several facilities sent.

use crate::support::payloads::{DOOR, payload, record, record_with_nida, send, total};
use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NIDA: &str = "https://lango.health/id/nida";
const ANNA: &str = "19800101-11111-00001-11";
const JUMA: &str = "19700202-22222-00002-22";

/// A client of one facility: Basic at the template door, a token elsewhere.
struct Facility<'s> {
    server: &'s TestServer,
    id: &'static str,
    secret: String,
    token: String,
}

impl Facility<'_> {
    async fn log_in<'s>(server: &'s TestServer, id: &'static str, secret: String) -> Facility<'s> {
        let token = server.token(id, &secret).await;
        Facility { server, id, secret, token }
    }

    async fn submit(&self, payload: &Value) -> (u16, Value) {
        let request = self.server.client.post(self.server.url(DOOR)).basic_auth(self.id, Some(&self.secret));
        answer(request.header("content-type", "application/json").header("x-lango-facility", "HF-2").body(payload.to_string())).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.server.client.get(self.server.url(path)).bearer_auth(&self.token)).await
    }

    async fn write(&self, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.server.client.request(method, self.server.url(path)).bearer_auth(&self.token);
        answer(request.header("content-type", "application/fhir+json").body(body.to_string())).await
    }

    /// `Type/id` of everything in the pages of a search, matches and included alike.
    async fn found(&self, search: &str) -> BTreeSet<String> {
        let mut path = format!("/fhir/{search}");
        let mut found = BTreeSet::new();
        loop {
            let (status, body) = self.get(&path).await;
            assert_eq!(status, 200, "{search}: {body}");
            found.extend(resources(&body).iter().map(name));
            let links = body["link"].as_array().unwrap();
            let Some(next) = links.iter().find(|link| link["relation"] == "next") else { return found };
            path = next["url"].as_str().unwrap().strip_prefix(&self.server.base).unwrap().to_owned();
        }
    }

    async fn total(&self, search: &str) -> u64 {
        let (status, body) = self.get(&format!("/fhir/{search}&_total=accurate&_count=1")).await;
        assert_eq!(status, 200, "{search}: {body}");
        body["total"].as_u64().unwrap_or_else(|| panic!("{body}"))
    }
}

fn resources(bundle: &Value) -> Vec<Value> {
    bundle["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()).collect()
}

fn name(resource: &Value) -> String {
    format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap())
}

fn with_pulse(mut record: Value) -> Value {
    record["clinicalInformation"] = json!({ "vitalSigns": [{ "pulseRate": 82, "dateTime": "2026-09-07" }] });
    record
}

both_databases!(
    async fn what_a_client_sends_is_its_facilitys_whatever_the_payload_says(db: &TestDb) {
        let mut secrets = Vec::new();
        for (id, facility) in [("emr-1", "HF-1"), ("emr-2", "HF-2")] {
            secrets.push(add_client(db, id, facility, "system/*.*").await);
        }
        let server = TestServer::smart(db).await;
        let second = Facility::log_in(&server, "emr-2", secrets.pop().unwrap()).await;
        let first = Facility::log_in(&server, "emr-1", secrets.pop().unwrap()).await;

        // The first says that it is the second, in the envelope, in the record and in a header.
        let mut theirs = with_pulse(record("M-1", "V-1"));
        theirs["facilityDetails"] = json!({ "code": "HF-2", "name": "Taken over" });
        theirs["demographicDetails"]["identifiers"][0]["organization"] = json!({ "code": "HF-2", "name": "Taken over" });
        let (status, reply) = first.submit(&payload("HF-2", vec![theirs])).await;
        assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        assert!(reply["warnings"].to_string().contains("another facility"), "{reply}");

        let [patient, encounter, observation] = ["Patient?identifier=M-1", "Encounter?identifier=V-1", "Observation?code=8867-4"];
        let mut names = Vec::new();
        for search in [patient, encounter, observation] {
            let mine = first.found(search).await;
            assert_eq!((mine.len(), first.total(search).await), (1, 1), "{search}");
            assert_eq!((second.found(search).await.len(), second.total(search).await), (0, 0), "{search}");
            names.extend(mine);
        }
        let (_, stored) = first.get(&format!("/fhir/{}", names[1])).await;
        assert_eq!(stored["meta"]["source"], "urn:lango:facility:HF-1", "{stored}");
        for name in &names {
            for path in [format!("/fhir/{name}"), format!("/fhir/{name}/_history"), format!("/fhir/{name}/_history/1")] {
                assert_eq!(first.get(&path).await.0, 200, "{path}");
                assert_eq!(second.get(&path).await.0, 404, "{path}");
            }
        }

        // The second has a visit of its own with the same local ids, and a resource that points into the first's data.
        let own = with_pulse(record("M-1", "V-1"));
        let (status, reply) = second.submit(&payload("HF-2", vec![own])).await;
        assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        let pointing = json!({
            "resourceType": "Observation", "status": "final", "code": { "coding": [{ "system": "urn:test", "code": "pointing" }] },
            "subject": { "reference": names[0] }, "encounter": { "reference": names[1] },
        });
        let (status, created) = second.write(reqwest::Method::POST, "/fhir/Observation", &pointing).await;
        assert_eq!(status, 201, "{created}");
        let theirs: BTreeSet<String> = names.iter().cloned().collect();
        for search in [
            "Patient?_id=".to_owned() + names[0].split('/').next_back().unwrap(),
            "Observation?subject:Patient.identifier=M-1".to_owned(),
            "Observation?patient.identifier=M-1&_include=Observation:subject&_include=Observation:encounter".to_owned(),
            "Observation?code=pointing&_include=Observation:subject&_include=Observation:encounter".to_owned(),
            "Patient?_has:Observation:patient:code=8867-4".to_owned(),
            "Patient?identifier=M-1&_revinclude=Observation:subject&_revinclude=Encounter:subject".to_owned(),
            "Encounter?identifier=V-1&_include=Encounter:subject".to_owned(),
            "Observation?_count=1".to_owned(),
        ] {
            let found = second.found(&search).await;
            assert!(found.is_disjoint(&theirs), "{search}: {found:?}");
        }
        assert_eq!(second.total("Observation?subject:Patient.identifier=M-1&code=8867-4").await, 1, "its own alone");
        assert_eq!(second.total(&format!("Observation?patient={}", names[0])).await, 1, "its own that points there, not the first's");
        assert_eq!(second.total("Patient?_has:Observation:patient:code=pointing").await, 0, "a chain ends at another facility's door");

        // It cannot change, take or remove what is the first's.
        let id = names[0].split('/').next_back().unwrap();
        let taken = json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Taken" }] });
        let (status, refused) = second.write(reqwest::Method::PUT, &format!("/fhir/Patient/{id}"), &taken).await;
        assert!((400..500).contains(&status), "{status} {refused}");
        let (status, _) = second.write(reqwest::Method::DELETE, &format!("/fhir/Patient/{id}"), &Value::Null).await;
        assert!(status == 204 || (400..500).contains(&status), "{status}");
        let (status, reply) = second
            .submit(&payload(
                "HF-1",
                vec![json!({
                    "mrn": "M-1", "visitDetails": { "id": "V-1" }, "admissionDetails": { "dischargedOn": "2026-09-13" },
                })],
            ))
            .await;
        assert_eq!((status, &reply["updatedClients"]), (200, &json!(1)), "its own visit of that id: {reply}");
        for name in &names {
            let (status, history) = first.get(&format!("/fhir/{name}/_history")).await;
            assert_eq!((status, resources(&history).len()), (200, 1), "{name}");
        }
        // The organisation that the first named is not its own to describe.
        let organizations = second.get("/fhir/Organization?identifier=urn:lango:facility|HF-2").await.1;
        assert!(!organizations.to_string().contains("Taken over"), "{organizations}");
        server.stop().await;
    }
);

both_databases!(
    async fn without_logins_the_owner_is_the_headers_facility_or_the_payloads(db: &TestDb) {
        let open = TestServer::open(db).await;
        let from = |facility: Option<&'static str>, payload: Value| {
            let request = open.client.post(open.url(DOOR)).header("content-type", "application/json").body(payload.to_string());
            answer(match facility {
                Some(code) => request.header("x-lango-facility", code),
                None => request,
            })
        };
        let mut nameless = payload("", vec![record("M-3", "V-3")]);
        nameless["data"].as_object_mut().unwrap().remove("facilityDetails");
        for (header, payload) in [
            (None, payload("HF-1", vec![record("M-1", "V-1")])),
            (Some("HF-2"), payload("HF-1", vec![record("M-2", "V-2")])),
            (None, nameless),
        ] {
            let (status, reply) = from(header, payload).await;
            assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        }
        let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:test", "value": "M-4" }] });
        let request = open.client.post(open.url("/fhir/Patient")).header("content-type", "application/fhir+json");
        assert_eq!(answer(request.header("x-lango-facility", "HF-2").body(patient.to_string())).await.0, 201);
        open.stop().await;

        for (id, facility, expected) in [("emr-1", "HF-1", vec!["M-1"]), ("emr-2", "HF-2", vec!["M-2", "M-4"]), ("emr-3", "HF-3", vec![])] {
            let secret = add_client(db, id, facility, "system/*.*").await;
            let server = TestServer::smart(db).await;
            let client = Facility::log_in(&server, id, secret).await;
            let (_, body) = client.get("/fhir/Patient").await;
            let mut mrns: Vec<Value> = resources(&body).iter().map(|one| one["identifier"][0]["value"].clone()).collect();
            mrns.sort_by_key(Value::to_string);
            assert_eq!(mrns, expected, "{facility}");
            server.stop().await;
        }
    }
);

/// Golden Patients that stand for someone, and their sources' ids.
async fn golden(server: &TestServer) -> Vec<(String, BTreeSet<String>)> {
    let (status, body) = server.get("/fhir/Patient?_tag=golden&_count=1000").await;
    assert_eq!(status, 200, "{body}");
    let active = resources(&body).into_iter().filter(|one| one["active"] == true);
    active
        .map(|one| {
            let links = one["link"].as_array().unwrap().iter();
            let sources = links.map(|link| link["other"]["reference"].as_str().unwrap().strip_prefix("Patient/").unwrap().to_owned());
            (one["id"].as_str().unwrap().to_owned(), sources.collect())
        })
        .collect()
}

/// Waits until the golden Patients' numbers of sources are these.
async fn golden_when(server: &TestServer, sizes: &[usize]) -> Vec<(String, BTreeSet<String>)> {
    eventually(&format!("clusters of {sizes:?}"), async || {
        let found = golden(server).await;
        let mut now: Vec<usize> = found.iter().map(|(_, sources)| sources.len()).collect();
        now.sort();
        if now == sizes { Ok(found) } else { Err(found) }
    })
    .await
}

/// Creates a Patient over the FHIR door in the name of a facility; its id.
async fn create(server: &TestServer, facility: &str, identifiers: &[(&str, &str)]) -> String {
    let identifiers: Vec<Value> = identifiers.iter().map(|(system, value)| json!({ "system": system, "value": value })).collect();
    let patient = json!({ "resourceType": "Patient", "identifier": identifiers });
    let request = server.client.post(server.url("/fhir/Patient")).header("content-type", "application/fhir+json");
    let (status, created) = answer(request.header("x-lango-facility", facility).body(patient.to_string())).await;
    assert_eq!(status, 201, "{created}");
    created["id"].as_str().unwrap().to_owned()
}

both_databases!(
    async fn one_person_at_several_facilities_has_one_golden_patient(db: &TestDb) {
        let server = TestServer::open(db).await;
        // The same national id through both doors; the same MRN everywhere, which says nothing.
        send(&server, &payload("HF-1", vec![with_pulse(record_with_nida("M-1", "V-1", ANNA)), record("M-2", "V-2")])).await;
        send(&server, &payload("HF-2", vec![with_pulse(record_with_nida("M-1", "V-1", ANNA))])).await;
        send(&server, &payload("HF-3", vec![record("M-1", "V-1"), record("M-2", "V-2")])).await;
        let fourth = create(&server, "HF-4", &[(NIDA, ANNA), ("urn:hospital:mrn", "M-1")]).await;
        create(&server, "HF-5", &[("urn:hospital:mrn", "M-1")]).await;

        let (id, sources) = golden_when(&server, &[3]).await.pop().unwrap();
        assert!(sources.contains(&fourth));
        assert_eq!(total(&server, "Patient").await, 7, "golden Patients are not listed among what facilities sent");
        assert_eq!(total(&server, &format!("Patient?identifier={NIDA}|{ANNA}")).await, 3);
        let (_, everyone) = server.get("/fhir/Patient?_count=100").await;
        assert!(resources(&everyone).iter().all(|one| one["id"] != json!(id)), "nor in a page");
        let (status, patient) = server.get(&format!("/fhir/Patient/{id}")).await;
        assert_eq!((status, &patient["identifier"]), (200, &json!([{ "system": NIDA, "value": ANNA }])), "{patient}");

        // A search for the golden Patient finds what all sources have.
        for search in [format!("Observation?patient={id}&code=8867-4"), format!("Observation?subject=Patient/{id}&code=8867-4")] {
            assert_eq!(total(&server, &search).await, 2, "{search}");
        }
        assert_eq!(total(&server, &format!("Encounter?patient={id}")).await, 2);
        let one = sources.iter().find(|source| **source != fourth).unwrap();
        assert_eq!(total(&server, &format!("Observation?patient={one}&code=8867-4")).await, 1, "a source stands for itself");

        // The same again changes nothing.
        send(&server, &payload("HF-1", vec![with_pulse(record_with_nida("M-1", "V-1", ANNA))])).await;
        let (_, history) = server.get(&format!("/fhir/Patient/{id}/_history")).await;
        let versions = resources(&history).len();
        assert_eq!(golden(&server).await.len(), 1);
        assert!(versions <= 2, "one when two were there, one when the third came: {history}");
        server.stop().await;
    }
);

both_databases!(
    async fn clusters_that_prove_to_be_one_person_are_joined(db: &TestDb) {
        const HCR: &str = "https://lango.health/id/hcr";
        let server = TestServer::open(db).await;
        for (facility, system, value) in [
            ("HF-1", NIDA, ANNA),
            ("HF-2", NIDA, ANNA),
            ("HF-3", NIDA, JUMA),
            ("HF-4", NIDA, JUMA),
            ("HF-5", HCR, "HCR-9"),
            ("HF-6", HCR, "HCR-9"),
        ] {
            create(&server, facility, &[(system, value)]).await;
        }
        let before = golden_when(&server, &[2, 2, 2]).await;
        create(&server, "HF-7", &[(NIDA, ANNA), (NIDA, JUMA), (HCR, "HCR-9")]).await;
        let (kept, sources) = golden_when(&server, &[7]).await.pop().unwrap();
        assert!(before.iter().any(|(id, _)| *id == kept), "the oldest stays");
        assert!(before.iter().all(|(_, part)| part.is_subset(&sources)));
        for (id, _) in before.iter().filter(|(id, _)| *id != kept) {
            let (status, retired) = server.get(&format!("/fhir/Patient/{id}")).await;
            assert_eq!((status, &retired["active"]), (200, &json!(false)), "{retired}");
            let expected = json!([{ "other": { "reference": format!("Patient/{kept}") }, "type": "replaced-by" }]);
            assert_eq!(retired["link"], expected);
        }
        assert_eq!(total(&server, "Patient").await, 7);
        server.stop().await;
    }
);

both_databases!(
    async fn a_link_ends_with_the_identifier_that_made_it(db: &TestDb) {
        let server = TestServer::open(db).await;
        let first = create(&server, "HF-1", &[(NIDA, ANNA)]).await;
        let second = create(&server, "HF-2", &[(NIDA, ANNA)]).await;
        let third = create(&server, "HF-3", &[(NIDA, ANNA)]).await;
        let fourth = create(&server, "HF-4", &[(NIDA, JUMA)]).await;
        let (id, _) = golden_when(&server, &[3]).await.pop().unwrap();
        let correct = async |patient: &str, identifiers: Value| {
            let mut resource = json!({ "resourceType": "Patient", "id": patient, "gender": "female" });
            if !identifiers.is_null() {
                resource["identifier"] = identifiers;
            }
            let request =
                server.client.put(server.url(&format!("/fhir/Patient/{patient}"))).header("content-type", "application/fhir+json");
            let (status, body) = answer(request.body(resource.to_string())).await;
            assert_eq!(status, 200, "{body}");
        };
        // The third was somebody else, who is known already.
        correct(&third, json!([{ "system": NIDA, "value": JUMA }])).await;
        let found = golden_when(&server, &[2, 2]).await;
        let expected = [BTreeSet::from([first.clone(), second.clone()]), BTreeSet::from([third.clone(), fourth])];
        assert!(expected.iter().all(|sources| found.iter().any(|(_, linked)| linked == sources)), "{found:?}");
        // The second has no number at all: nothing links the first any more.
        correct(&second, Value::Null).await;
        golden_when(&server, &[2]).await;
        let (_, retired) = server.get(&format!("/fhir/Patient/{id}")).await;
        let (_, other) = server.get("/fhir/Patient?_tag=golden").await;
        for golden in resources(&other).iter().chain([&retired]) {
            let links = golden["link"].to_string();
            assert!(!links.contains(&first) && !links.contains(&second), "{golden}");
        }
        // And a source that is removed is in no link.
        assert_eq!(answer(server.client.delete(server.url(&format!("/fhir/Patient/{third}")))).await.0, 204);
        golden_when(&server, &[]).await;
        // Whoever shares it again is linked again.
        correct(&second, json!([{ "system": NIDA, "value": ANNA }])).await;
        golden_when(&server, &[2]).await;
        server.stop().await;
    }
);

both_databases!(
    async fn racing_facilities_make_one_golden_patient(db: &TestDb) {
        let server = TestServer::open(db).await;
        for round in 0..6 {
            let nida = format!("19900101-00000-{round:05}-00");
            let payloads = ["HF-1", "HF-2", "HF-3"].map(|facility| {
                let mrn = format!("M-{round}");
                payload(facility, vec![record_with_nida(&mrn, &format!("V-{round}"), &nida)])
            });
            let shared = [(NIDA, nida.as_str())];
            let (a, b, c, _) = tokio::join!(
                send(&server, &payloads[0]),
                send(&server, &payloads[1]),
                send(&server, &payloads[2]),
                create(&server, "HF-4", &shared)
            );
            for (status, reply) in [a, b, c] {
                assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
            }
        }
        let found = golden_when(&server, &[4; 6]).await;
        let all: BTreeSet<&String> = found.iter().flat_map(|(_, sources)| sources).collect();
        assert_eq!(all.len(), 24, "no source has two");
        assert_eq!(total(&server, "Patient?_tag=golden").await, 6, "none was made and retired on the way");
        assert_eq!(total(&server, "Patient").await, 24);
        server.stop().await;
    }
);

both_databases!(
    async fn facilities_see_no_golden_patients(db: &TestDb) {
        let open = TestServer::open(db).await;
        send(&open, &payload("HF-1", vec![with_pulse(record_with_nida("M-1", "V-1", ANNA))])).await;
        send(&open, &payload("HF-2", vec![with_pulse(record_with_nida("M-1", "V-1", ANNA))])).await;
        let (id, _) = golden_when(&open, &[2]).await.pop().unwrap();
        open.stop().await;
        let secret = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let server = TestServer::smart(db).await;
        let client = Facility::log_in(&server, "emr-1", secret).await;
        for path in [format!("/fhir/Patient/{id}"), format!("/fhir/Patient/{id}/_history"), format!("/fhir/Patient/{id}/_history/1")] {
            assert_eq!(client.get(&path).await.0, 404, "{path}");
        }
        for search in ["Patient?_tag=golden".to_owned(), format!("Patient?_id={id}"), "Patient?link:missing=false".to_owned()] {
            assert_eq!((client.found(&search).await.len(), client.total(&search).await), (0, 0), "{search}");
        }
        assert_eq!(client.found(&format!("Patient?identifier={NIDA}|{ANNA}")).await.len(), 1, "its own source alone");
        let (mine, found) = (client.found("Observation").await, client.found(&format!("Observation?patient={id}")).await);
        assert!(!mine.is_empty() && found.is_subset(&mine), "never another facility's: {found:?}");
        let included = client.found("Patient?identifier=M-1&_revinclude=Patient:link&_include=Patient:link").await;
        assert!(!included.contains(&format!("Patient/{id}")), "{included:?}");
        let golden = json!({ "resourceType": "Patient", "id": id, "active": true });
        let (status, refused) = client.write(reqwest::Method::PUT, &format!("/fhir/Patient/{id}"), &golden).await;
        assert!((400..500).contains(&status), "{status} {refused}");
        server.stop().await;
    }
);
