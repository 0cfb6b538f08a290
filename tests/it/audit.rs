//! The record of every look: each interaction makes the events it should, nothing leaves without them, and nobody changes them unseen.

use crate::support::guarded::{Guarded, consent, organization, to};
use crate::support::program::output;
use crate::support::server::answer;
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestDb, TestServer, both_databases, sealed, sql, until};
use lango::access::audit::checkpoint::Notary;
use lango::access::audit::verify::{Broken, Whole, verify};
use lango::access::audit::{Event, owner_of, told as told_by};
use lango::app::App;
use lango::config::Settings;
use lango::store::audit::NOBODY;
use lango::store::{Sealed, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// HF-A holds the records of Patient/a and Patient/b; HF-B asks for treatment, which Patient/a allows.
struct World {
    server: TestServer,
    store: Store,
    holder: String,
    asker: String,
    officer: String,
    /// Events before this position are of the world's making.
    after: i64,
}

/// action, interaction, status, client, id of the Patient
type Told = (String, String, u16, String, String);

impl Guarded for World {
    fn server(&self) -> &TestServer {
        &self.server
    }
}

impl World {
    async fn new(db: &TestDb) -> World {
        add_signing_client(db, "holder", "HF-A", "").await;
        add_signing_client(db, "asker", "HF-B", "facility clinician").await;
        add_signing_client(db, "desk", "DESK", "consent-recorder").await;
        add_signing_client(db, "officer", "MOH", "operator registry").await;
        let server = TestServer::smart(db).await;
        let none = json!({});
        let holder = signed_token(&server, "holder", &none).await;
        let asker = json!({ "purpose_of_use": "TREAT", "subject_id": "MCT-7" });
        let asker = signed_token(&server, "asker", &asker).await;
        let desk = signed_token(&server, "desk", &none).await;
        let officer = signed_token(&server, "officer", &none).await;
        let mut world = World { server, store: Store::open(&db.url).await.unwrap(), holder, asker, officer, after: 0 };
        world.put(&world.officer, &organization("hf-b", "HF-B", None)).await;
        for patient in ["a", "b"] {
            world.put(&world.holder, &json!({ "resourceType": "Patient", "id": patient, "name": [{ "family": "Mushi" }] })).await;
            world.put(&world.holder, &observation(&format!("{patient}-hr"), patient)).await;
        }
        let permit = json!({ "type": "permit", "actor": to("Organization/hf-b") });
        world.put(&desk, &consent("c-1", "a", permit)).await;
        world.after = world.events(0).await.last().map_or(0, |(row, _)| row.position);
        world
    }

    /// The events after a position, once all are sealed, each with its row and the Patient in it. A disclosure, which says what its decision says,
    /// is called so here.
    async fn events(&self, after: i64) -> Vec<(Sealed, Event)> {
        sealed(&self.store).await;
        let rows = self.store.sealed_after(after, 10_000).await.unwrap();
        let of_row = |row: Sealed| {
            told_by(&row)
                .unwrap()
                .into_iter()
                .map(move |told| {
                    let interaction = if told.custodian.is_some() { "disclosure".to_owned() } else { told.event.interaction };
                    (Sealed { patient: told.patient, ..row.clone() }, Event { interaction, ..told.event })
                })
                .collect::<Vec<_>>()
        };
        rows.into_iter().flat_map(of_row).collect()
    }

    /// What was recorded since the last call.
    async fn told(&mut self) -> Vec<Told> {
        let events = self.events(self.after).await;
        self.after = events.last().map_or(self.after, |(row, _)| row.position);
        let mut told = Vec::new();
        for (row, event) in events {
            let names = self.store.ids_of(&[row.patient]).await.unwrap();
            let patient = names.get(&row.patient).cloned().unwrap_or_default();
            told.push((event.action.code().to_owned(), event.interaction, event.status, event.agent.client.unwrap_or_default(), patient));
        }
        told.sort();
        told
    }

    /// Waits until all events are AuditEvents.
    async fn published(&self) {
        until("events are published", async || {
            let events = self.events(0).await;
            self.store.published().await.unwrap() >= events.last().map_or(0, |(row, _)| row.position)
        })
        .await;
    }

    async fn verified(&self, elsewhere: &str) -> Result<Whole, Broken> {
        verify(&self.store, &Notary::open(&self.store).await.unwrap(), elsewhere, 0).await.unwrap()
    }
}

fn observation(id: &str, patient: &str) -> Value {
    json!({
        "resourceType": "Observation", "id": id, "status": "final", "code": { "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] },
        "subject": { "reference": format!("Patient/{patient}") }, "effectiveDateTime": "2026-03-05",
    })
}

fn told(rows: &[(&str, &str, u16, &str, &str)]) -> Vec<Told> {
    let mut told: Vec<Told> = rows.iter().map(|(a, i, s, c, p)| ((*a).into(), (*i).into(), *s, (*c).into(), (*p).into())).collect();
    told.sort();
    told
}

both_databases!(
    async fn every_interaction_makes_exactly_the_events_that_it_should(db: &TestDb) {
        let mut world = World::new(db).await;
        let (holder, asker) = (world.holder.clone(), world.asker.clone());
        let new =
            json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/b" } });
        let none = Value::Null;
        let bundle = |kind: &str| {
            json!({ "resourceType": "Bundle", "type": kind, "entry": [
                { "request": { "method": "POST", "url": "Observation" }, "resource": new },
                { "request": { "method": "PUT", "url": "Observation/b-2" }, "resource": observation("b-2", "b") },
                { "request": { "method": "GET", "url": "Patient/a" } },
            ] })
        };
        let location = json!({ "resourceType": "Location", "id": "l", "name": "Ward" });
        let (transaction, patient_b) = (bundle("transaction"), json!({ "resourceType": "Patient", "id": "b" }));
        /// Token, method, path, body, status, events.
        type Row<'a> = (&'a str, &'a str, &'a str, &'a Value, u16, Vec<Told>);
        let table: Vec<Row> = vec![
            ("holder", "GET", "/fhir/Patient/a", &none, 200, told(&[("R", "read", 200, "holder", "a")])),
            ("holder", "GET", "/fhir/Patient/a/_history/1", &none, 200, told(&[("R", "vread", 200, "holder", "a")])),
            ("holder", "GET", "/fhir/Patient/a/_history", &none, 200, told(&[("R", "history-instance", 200, "holder", "a")])),
            ("holder", "GET", "/fhir/Patient/nobody", &none, 404, told(&[("R", "read", 404, "holder", "")])),
            ("holder", "GET", "/fhir/Patient?family=nobody", &none, 200, told(&[("E", "search-type", 200, "holder", "")])),
            (
                "holder",
                "GET",
                "/fhir/Observation?_include=Observation:subject",
                &none,
                200,
                told(&[
                    ("E", "search-type", 200, "holder", ""),
                    ("E", "search-type", 200, "holder", "a"),
                    ("E", "search-type", 200, "holder", "b"),
                ]),
            ),
            (
                "holder",
                "GET",
                "/fhir?_type=Patient,Condition&_id=a,none",
                &none,
                200,
                told(&[("E", "search-system", 200, "holder", ""), ("E", "search-system", 200, "holder", "a")]),
            ),
            (
                "asker",
                "GET",
                "/fhir?_type=Patient,Observation&_id=b,a-hr,b-hr",
                &none,
                200,
                told(&[
                    ("E", "consent-decision", 403, "asker", "b"),
                    ("E", "consent-decision", 403, "asker", "b"),
                    ("E", "search-system", 200, "asker", ""),
                    ("E", "search-system", 200, "asker", "a"),
                    ("E", "consent-decision", 200, "asker", "a"),
                    ("E", "disclosure", 200, "asker", "a"),
                ]),
            ),
            ("holder", "GET", "/fhir/Observation?nonsense=1", &none, 200, vec![]),
            ("holder", "POST", "/fhir/Observation", &new, 201, told(&[("C", "create", 201, "holder", "b")])),
            ("holder", "POST", "/fhir/Observation", &location, 400, told(&[("C", "create", 400, "holder", "")])),
            ("holder", "PUT", "/fhir/Location/l", &location, 201, told(&[("C", "create", 201, "holder", "")])),
            // Nothing changed, and it was asked for.
            ("holder", "PUT", "/fhir/Location/l", &location, 200, told(&[("U", "update", 200, "holder", "")])),
            ("holder", "DELETE", "/fhir/Location/l", &none, 204, told(&[("D", "delete", 204, "holder", "")])),
            (
                "holder",
                "POST",
                "/fhir",
                &transaction,
                200,
                told(&[
                    ("C", "create", 201, "holder", "b"),
                    ("E", "transaction", 200, "holder", ""),
                    ("E", "read", 200, "holder", ""),
                    ("E", "transaction", 200, "holder", "a"),
                ]),
            ),
            // The asker: what consent opens, with the decision; what it does not, with a denial that is not the asker's to see.
            (
                "asker",
                "GET",
                "/fhir/Observation/a-hr",
                &none,
                200,
                told(&[
                    ("R", "read", 200, "asker", "a"),
                    ("E", "consent-decision", 200, "asker", "a"),
                    ("E", "disclosure", 200, "asker", "a"),
                ]),
            ),
            (
                "asker",
                "GET",
                "/fhir/Observation/b-hr",
                &none,
                404,
                told(&[("R", "read", 404, "asker", ""), ("E", "consent-decision", 403, "asker", "b")]),
            ),
            ("asker", "GET", "/fhir/Observation/nothing", &none, 404, told(&[("R", "read", 404, "asker", "")])),
            (
                "asker",
                "GET",
                "/fhir/Observation",
                &none,
                200,
                told(&[
                    ("E", "search-type", 200, "asker", ""),
                    ("E", "search-type", 200, "asker", "a"),
                    ("E", "consent-decision", 200, "asker", "a"),
                    ("E", "disclosure", 200, "asker", "a"),
                ]),
            ),
            (
                "asker",
                "PUT",
                "/fhir/Patient/b",
                &patient_b,
                409,
                told(&[("U", "update", 409, "asker", ""), ("E", "consent-decision", 403, "asker", "b")]),
            ),
            // Nothing was deleted, and nothing says so but what was asked.
            (
                "asker",
                "DELETE",
                "/fhir/Patient/b",
                &none,
                204,
                told(&[("E", "delete", 204, "asker", ""), ("E", "consent-decision", 403, "asker", "b")]),
            ),
            ("asker", "DELETE", "/fhir/Patient/nobody", &none, 204, told(&[("E", "delete", 204, "asker", "")])),
            ("asker", "GET", "/fhir/Nonsense/1", &none, 404, told(&[("E", "operation", 404, "asker", "")])),
            ("holder", "GET", "/api/v1/hduApi/unmapped", &none, 200, told(&[("E", "operation", 200, "holder", "")])),
            ("nobody", "GET", "/fhir/Patient/a", &none, 401, told(&[("E", "operation", 401, "", "")])),
            ("nobody", "GET", "/fhir/metadata", &none, 200, vec![]),
            ("nobody", "GET", "/livez", &none, 200, vec![]),
        ];
        for (who, method, path, body, status, expected) in table {
            let token = match who {
                "holder" => &holder,
                "asker" => &asker,
                _ => "not-a-token",
            };
            let got = world.send(token, method, path, body).await;
            let recorded = world.told().await;
            if path.contains("nonsense") {
                // An unknown parameter is ignored: the search is recorded as any other.
                assert!(recorded.len() >= 2, "{recorded:?}");
                continue;
            }
            assert_eq!(got.0, status, "{who} {method} {path}: {}", got.1);
            assert_eq!(recorded, expected, "{who} {method} {path}");
        }
        // What the rows hold.
        let events = world.events(0).await;
        let read = events.iter().find(|(_, e)| e.interaction == "read" && e.agent.client.as_deref() == Some("asker")).unwrap();
        assert_eq!(read.1.agent.practitioner.as_deref(), Some("MCT-7"));
        assert_eq!(
            (read.1.agent.purposes.as_slice(), read.1.what.as_slice()),
            (&["TREAT".to_owned()][..], &["Observation/a-hr".to_owned()][..])
        );
        assert_eq!(read.1.consents, ["Consent/c-1/_history/1"]);
        assert_eq!(read.1.request, "GET /fhir/Observation/a-hr");
        assert_eq!(read.0.owner, owner_of("asker"));
        for (row, event) in events.iter().filter(|(_, event)| event.interaction == Event::DECISION) {
            assert_eq!(row.owner, NOBODY, "{event:?}");
        }
        let whole = world.verified("").await.unwrap();
        let rows: BTreeSet<i64> = events.iter().map(|(row, _)| row.position).collect();
        assert_eq!(whole.rows, rows.len() as u64);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_is_asked_for_by_name_and_hidden_is_denied_wherever_the_name_stands(db: &TestDb) {
        let mut world = World::new(db).await;
        let number = json!([{ "system": "https://lango.health/id/nida", "value": "19900101-9" }]);
        world.put(&world.holder, &json!({ "resourceType": "Patient", "id": "n", "identifier": number })).await;
        let entry = |method: &str, url: &str, body: Value| json!({ "request": { "method": method, "url": url }, "resource": body });
        let get = |url: &str| json!({ "request": { "method": "GET", "url": url } });
        let bundle = |kind: &str, entries: Value| json!({ "resourceType": "Bundle", "type": kind, "entry": entries });
        let patient_b = json!({ "resourceType": "Patient", "id": "b" });
        let lookup = |parameter: Value| json!({ "resourceType": "Parameters", "parameter": [parameter] });
        let by_number = lookup(json!({ "name": "identifier", "valueIdentifier": number[0] }));
        let by_reference = lookup(json!({ "name": "patient", "valueReference": { "reference": "Patient/n" } }));
        let reads = json!([get("Patient/b"), get("Observation/b-hr/_history/1"), get("Patient/nobody"), get("Patient/a")]);
        let writes = json!([
            entry("PUT", "Patient/b", patient_b.clone()),
            { "request": { "method": "DELETE", "url": "Observation/b-hr" } },
            entry("PUT", "Location/l", json!({ "resourceType": "Location", "id": "l" })),
        ]);
        let operations = json!([entry("POST", "Patient/$record-lookup", by_number.clone()), get("Patient?_id=b")]);
        let shared = "/api/v1/hduApi/shr/sharedRecords?idType=NIDA&id=";
        let none = Value::Null;
        /// Method, path, body, status, and the resources that are denied.
        type Row<'a> = (&'a str, String, &'a Value, u16, &'a [&'a str]);
        let (batch_reads, batch_writes) = (bundle("batch", reads.clone()), bundle("batch", writes.clone()));
        let (transaction_reads, transaction_writes) = (bundle("transaction", reads), bundle("transaction", writes));
        let batch_operations = bundle("batch", operations);
        let nobody = json!({ "resourceType": "Patient" });
        let batch_criteria = bundle(
            "batch",
            json!([
                entry("PUT", "Patient?_id=b", nobody.clone()),
                { "request": { "method": "DELETE", "url": "Observation?_id=b-hr" } },
            ]),
        );
        let rehearsed = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "mode", "valueCode": "update" }, { "name": "resource", "resource": patient_b } ] });
        let table: Vec<Row> = vec![
            ("GET", "/fhir/Patient/b".into(), &none, 404, &["Patient/b"]),
            ("HEAD", "/fhir/Observation/b-hr".into(), &none, 404, &["Observation/b-hr"]),
            ("GET", "/fhir/Observation/b-hr/_history".into(), &none, 404, &["Observation/b-hr"]),
            ("GET", "/fhir/Patient/b/$everything".into(), &none, 404, &["Patient/b"]),
            ("GET", "/fhir/Patient/b/Observation".into(), &none, 200, &["Patient/b"]),
            ("POST", "/fhir".into(), &batch_reads, 200, &["Observation/b-hr", "Patient/b"]),
            ("POST", "/fhir".into(), &transaction_reads, 404, &["Observation/b-hr", "Patient/b"]),
            ("POST", "/fhir".into(), &batch_writes, 200, &["Observation/b-hr", "Patient/b"]),
            ("POST", "/fhir".into(), &transaction_writes, 409, &["Observation/b-hr", "Patient/b"]),
            ("POST", "/fhir".into(), &batch_operations, 200, &["Patient/b", "Patient/n"]),
            ("PUT", "/fhir/Patient/b".into(), &patient_b, 409, &["Patient/b"]),
            ("PATCH", "/fhir/Patient/b".into(), &patient_b, 404, &["Patient/b"]),
            ("DELETE", "/fhir/Observation/b-hr".into(), &none, 204, &["Observation/b-hr"]),
            ("POST", "/fhir/Patient/b/$validate?mode=update".into(), &patient_b, 200, &["Patient/b"]),
            ("GET", "/fhir/Patient?_id=b,a,nobody".into(), &none, 200, &["Patient/b"]),
            ("GET", "/fhir?_type=Patient,Observation&_id=b-hr".into(), &none, 200, &["Observation/b-hr"]),
            ("POST", "/fhir/Patient/$record-lookup".into(), &by_number, 200, &["Patient/n"]),
            ("POST", "/fhir/Patient/$record-lookup".into(), &by_reference, 200, &["Patient/n"]),
            ("GET", format!("{shared}19900101-9"), &none, 200, &["Patient/n"]),
            ("PUT", "/fhir/Patient?_id=b".into(), &nobody, 201, &["Patient/b"]),
            ("PATCH", "/fhir/Patient?_id=b".into(), &nobody, 404, &["Patient/b"]),
            ("DELETE", "/fhir/Patient?_id=b".into(), &none, 204, &["Patient/b"]),
            ("POST", "/fhir".into(), &batch_criteria, 200, &["Observation/b-hr", "Patient/b"]),
            ("POST", "/fhir/Patient/$validate".into(), &rehearsed, 200, &["Patient/b"]),
            ("GET", "/fhir/Patient?_filter=_id%20eq%20b".into(), &none, 200, &["Patient/b"]),
            ("GET", "/fhir/Patient?_filter=not%20(_id%20eq%20b)%20and%20name%20eq%20x".into(), &none, 200, &["Patient/b"]),
            ("GET", "/fhir/Patient?_id:not=b".into(), &none, 200, &["Patient/b"]),
            ("GET", "/fhir/Observation?subject:Patient._id=b".into(), &none, 200, &["Patient/b"]),
            ("GET", "/fhir/Patient?_has:Observation:patient:_id=b-hr".into(), &none, 200, &["Observation/b-hr"]),
            // What is not there, what may be seen, and what may be seen and does not match.
            ("GET", "/fhir/Patient/nobody".into(), &none, 404, &[]),
            ("DELETE", "/fhir/Patient/nobody".into(), &none, 204, &[]),
            ("GET", "/fhir/Patient?_id=nobody".into(), &none, 200, &[]),
            ("GET", format!("{shared}19900101-8"), &none, 200, &[]),
            ("GET", "/fhir/Patient/a".into(), &none, 200, &[]),
            ("GET", "/fhir/Patient/a/Observation".into(), &none, 200, &[]),
            ("GET", "/fhir/Patient?_id=a&family=nobody".into(), &none, 200, &[]),
        ];
        world.told().await;
        for (method, path, body, status, expected) in table {
            let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/fhir+json" };
            let request = world.server.client.request(method.parse().unwrap(), world.server.url(&path)).bearer_auth(&world.asker);
            let (code, said) = answer(request.header("content-type", content).body(body.to_string())).await;
            assert_eq!(code, status, "{method} {path}: {said}");
            let events = world.events(world.after).await;
            world.after = events.last().unwrap().0.position;
            let mut denied: Vec<&str> = Vec::new();
            for (row, event) in &events {
                assert!(event.action != lango::access::audit::Action::Delete, "nothing was deleted");
                if (event.interaction.as_str(), event.status) == (Event::DECISION, 403) {
                    assert!(row.owner == NOBODY && row.patient > 0, "{event:?}");
                    denied.extend(event.what.iter().map(String::as_str));
                }
            }
            denied.sort_unstable();
            assert_eq!(denied, expected, "{method} {path} {body}");
        }
        // What was asked stands in the record as it was asked, also in a body and in a Bundle.
        let events = world.events(0).await;
        let asked = |interaction: &str, words: &[&str]| {
            let told =
                events.iter().find(|(_, event)| event.interaction == interaction && words.iter().all(|word| event.request.contains(word)));
            assert!(told.is_some(), "{interaction} {words:?}");
        };
        asked("operation", &["POST /fhir/Patient/$record-lookup", "19900101-9"]);
        asked("operation", &["POST Patient/$record-lookup", "19900101-9"]);
        asked("read", &["GET Patient/b"]);
        asked("vread", &["GET Observation/b-hr/_history/1"]);
        asked("update", &["PUT Patient/b"]);
        asked("delete", &["DELETE /fhir/Observation/b-hr"]);
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_tells_of_somebody_without_showing_them_is_a_look_at_them_all_the_same(db: &TestDb) {
        let mut world = World::new(db).await;
        let asker = world.asker.clone();
        for (path, interaction) in [
            ("Observation/a-hr/$meta", "operation"),
            ("Observation/a-hr/$validate", "operation"),
            ("Patient/a/$everything?_count=0", "operation"),
            ("Observation?subject=Patient/a&code=8867-4&_summary=count", "search-type"),
            ("Observation?subject=Patient/a&_count=0", "search-type"),
            ("Patient/a/Observation?_summary=count", "search-type"),
            ("Patient?_id=a&_has:Observation:subject:code=8867-4&_summary=count", "search-type"),
        ] {
            let (status, body) = world.get(&asker, &format!("/fhir/{path}")).await;
            assert_eq!(status, 200, "{path}: {body}");
            let expected = told(&[
                ("E", interaction, 200, "asker", ""),
                ("E", interaction, 200, "asker", "a"),
                ("E", "consent-decision", 200, "asker", "a"),
                ("E", "disclosure", 200, "asker", "a"),
            ]);
            assert_eq!(world.told().await, expected, "{path}");
        }
        assert_eq!(world.get(&asker, "/fhir/Observation/a-hr/_history?_count=0").await.0, 200);
        let expected = told(&[
            ("R", "history-instance", 200, "asker", "a"),
            ("E", "consent-decision", 200, "asker", "a"),
            ("E", "disclosure", 200, "asker", "a"),
        ]);
        assert_eq!(world.told().await, expected);
        // How many have something tells of nobody, and what is hidden is not counted.
        for path in ["Observation?code=8867-4&_summary=count", "Observation?subject=Patient/b&_summary=count"] {
            assert_eq!(world.get(&asker, &format!("/fhir/{path}")).await.0, 200);
            assert_eq!(world.told().await, told(&[("E", "search-type", 200, "asker", "")]), "{path}");
        }
        // The officer who looks at somebody's accounting is answered, and found.
        let officer = world.officer.clone();
        assert_eq!(world.get(&officer, "/fhir/Patient/a/$disclosures").await.0, 200);
        assert_eq!(world.told().await, told(&[("E", "operation", 200, "officer", ""), ("E", "operation", 200, "officer", "a")]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_tries_secrets_is_recorded_wherever_they_do_with_whose_they_tried(db: &TestDb) {
        let world = World::new(db).await;
        let form = |path: &'static str, client: &'static str| {
            let request = world.server.client.post(world.server.url(path)).header("content-type", "application/x-www-form-urlencoded");
            answer(request.body(format!("grant_type=client_credentials&client_id={client}&client_secret=a-wrong-one&token=x")))
        };
        for path in ["/auth/token", "/auth/introspect", "/auth/revoke"] {
            for client in ["holder", "my-own-password"] {
                assert_eq!(form(path, client).await.0, 401, "{path}");
            }
        }
        let basic = world.server.client.get(world.server.url("/api/v1/hduApi/dataTemplates")).basic_auth("holder", Some("a-wrong-one"));
        assert_eq!(answer(basic).await.0, 401);
        // {"alg":"ES384","kid":"k"} and {"iss":"holder"}, signed by nobody.
        let assertion = "eyJhbGciOiJFUzM4NCIsImtpZCI6ImsifQ.eyJpc3MiOiJob2xkZXIifQ.AAAA";
        let kind = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let request = world.server.client.post(world.server.url("/auth/token")).header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(answer(request.body(format!("grant_type=client_credentials&{kind}&client_assertion={assertion}"))).await.0, 401);
        let events = world.events(world.after).await;
        let requests: Vec<&str> = events.iter().map(|(_, event)| event.request.as_str()).collect();
        let expected = [
            "POST /auth/token\n\nclient_id=holder",
            "POST /auth/token",
            "POST /auth/introspect\n\nclient_id=holder",
            "POST /auth/introspect",
            "POST /auth/revoke\n\nclient_id=holder",
            "POST /auth/revoke",
            "GET /api/v1/hduApi/dataTemplates\n\nclient_id=holder",
            "POST /auth/token\n\nclient_id=holder",
        ];
        assert_eq!(requests, expected, "what nobody is called may be a password in the wrong place");
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_cannot_be_recorded_is_not_released_and_not_written(db: &TestDb) {
        let world = World::new(db).await;
        world.published().await;
        let (away, back) = match db.is_sqlite() {
            true => ("ALTER TABLE audit RENAME TO audit_away", "ALTER TABLE audit_away RENAME TO audit"),
            false => ("ALTER TABLE audit_new RENAME TO audit_away", "ALTER TABLE audit_away RENAME TO audit_new"),
        };
        sql(&world.store, away).await;
        for path in ["/fhir/Patient/a", "/fhir/Patient", "/fhir/Patient/a/_history", "/api/v1/hduApi/labData", "/fhir/Patient/nobody"] {
            let (status, body) = world.get(&world.holder, path).await;
            assert_eq!(status, 503, "{path}: {body}");
            assert!(!body.to_string().contains("Mushi"), "{body}");
        }
        let (status, body) = world.send(&world.holder, "PUT", "/fhir/Patient/c", &json!({ "resourceType": "Patient", "id": "c" })).await;
        assert!(status >= 500, "{body}");
        assert!(!body.to_string().contains("audit"), "{body}");
        sql(&world.store, back).await;
        assert_eq!(world.get(&world.holder, "/fhir/Patient/c").await.0, 404, "nothing was written");
        assert_eq!(world.get(&world.holder, "/fhir/Patient/a").await.0, 200);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_chain_that_was_touched_is_found_broken_and_the_first_row_is_named(db: &TestDb) {
        let world = World::new(db).await;
        for _ in 0..6 {
            world.get(&world.holder, "/fhir/Patient/a").await;
        }
        world.published().await;
        let World { server, store, .. } = world;
        // The last checkpoint is signed when the server stops.
        server.stop().await;
        let notary = Notary::open(&store).await.unwrap();
        let whole = verify(&store, &notary, "", 0).await.unwrap().unwrap();
        assert!(whole.rows >= 8 && whole.first == 1 && whole.checkpoints >= 1, "{whole:?}");
        let signed = store.checkpoints().await.unwrap().pop().unwrap().2;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoints");
        std::fs::write(&file, format!("{signed}\n")).unwrap();
        let last = whole.last;
        sql(&store, "CREATE TABLE kept AS SELECT * FROM audit").await;
        sql(&store, "CREATE TABLE kept_checkpoint AS SELECT * FROM audit_checkpoint").await;
        sql(&store, "CREATE TABLE kept_about AS SELECT * FROM audit_about").await;
        sql(&store, "CREATE TABLE kept_published AS SELECT position FROM audit_published").await;
        let cases: Vec<(&[&'static str], Broken)> = vec![
            (&["UPDATE audit SET event = replace(event, 'holder', 'nobody') WHERE position = 3"], Broken::Changed(3)),
            (&["UPDATE audit SET patient = 0 WHERE position = 4"], Broken::Changed(4)),
            (&["UPDATE audit SET at = at + 1 WHERE position = 5"], Broken::Changed(5)),
            (&["UPDATE audit SET owner = 7 WHERE position = 1"], Broken::Changed(1)),
            (&["DELETE FROM audit WHERE position = 4"], Broken::Missing(4)),
            (&["DELETE FROM audit WHERE position <= 2"], Broken::Missing(1)),
            (
                &[
                    "UPDATE audit SET position = -2 WHERE position = 2",
                    "UPDATE audit SET position = 2 WHERE position = 5",
                    "UPDATE audit SET position = 5 WHERE position = -2",
                ],
                Broken::Changed(2),
            ),
            (&["DELETE FROM audit WHERE position > 5"], Broken::Cut { last: 5, seen: last }),
            (&["DELETE FROM audit"], Broken::Cut { last: 0, seen: last }),
            (
                &["DELETE FROM audit WHERE position > 5", "DELETE FROM audit_checkpoint", "UPDATE audit_published SET position = 5"],
                Broken::Cut { last: 5, seen: last },
            ),
            (&["DELETE FROM audit_about WHERE position = 4"], Broken::Notes(last)),
            (&["UPDATE audit_about SET patient = patient + 1 WHERE position = 4"], Broken::Notes(last)),
            (&["UPDATE audit_checkpoint SET position = 1000000 WHERE position > 8"], Broken::Forged(1_000_000)),
            (&["UPDATE audit_checkpoint SET signed = 'x' WHERE position > 8"], Broken::Forged(last)),
        ];
        for (changes, expected) in cases {
            for change in changes {
                sql(&store, change).await;
            }
            let found = verify(&store, &notary, &format!("{signed}\n"), 0).await.unwrap();
            assert_eq!(found, Err(expected.clone()), "{changes:?}");
            let (code, said, _) = output(db, &["audit", "verify", "--checkpoint", file.to_str().unwrap()]);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(&expected.to_string()), "{said}");
            for undo in [
                "DELETE FROM audit",
                "INSERT INTO audit SELECT * FROM kept",
                "DELETE FROM audit_about",
                "INSERT INTO audit_about SELECT * FROM kept_about",
                "DELETE FROM audit_checkpoint",
                "INSERT INTO audit_checkpoint SELECT * FROM kept_checkpoint",
                "UPDATE audit_published SET position = (SELECT position FROM kept_published)",
            ] {
                sql(&store, undo).await;
            }
        }
        // The AuditEvents are copies outside the chain: it tells what was done to them.
        let mut rows = store.sealed_after(0, 1_000).await.unwrap();
        let id = |place: usize| lango::access::audit::told(&rows[place]).unwrap().remove(0).id;
        let tamper = async |text: &'static str| match &store {
            Store::Sqlite(db) => {
                sqlx::query(text).bind(id(3)).bind(id(2)).execute(&db.write).await.map(|done| done.rows_affected()).unwrap()
            }
            Store::Postgres(db) => {
                sqlx::query(text).bind(id(3)).bind(id(2)).execute(&db.pool).await.map(|done| done.rows_affected()).unwrap()
            }
        };
        for (change, expected) in [
            ("UPDATE resource SET owner = owner - 1 WHERE id = $1 AND id <> $2", Err(Broken::Altered(4))),
            ("UPDATE resource SET owner = owner + 1 WHERE id = $1 AND id <> $2", Ok(())),
            ("UPDATE resource SET version = version + 1 WHERE id = $1 AND id <> $2", Err(Broken::Altered(4))),
            ("UPDATE resource SET version = version - 1 WHERE id = $1 AND id <> $2", Ok(())),
            ("UPDATE resource SET patient = -1 WHERE id = $1 AND id <> $2", Err(Broken::Altered(4))),
            ("UPDATE resource SET patient = -3 WHERE id = $1 AND id <> $2", Ok(())),
            ("UPDATE resource SET updated = updated - 31536000000000 WHERE id = $1 AND id <> $2", Err(Broken::Altered(4))),
            ("UPDATE resource SET updated = updated + 31536000000000 WHERE id = $1 AND id <> $2", Ok(())),
            ("UPDATE resource SET txn = txn + 9000000000000 WHERE id = $1 AND id <> $2", Err(Broken::Unindexed(4))),
            ("UPDATE resource SET txn = txn - 9000000000000 WHERE id = $1 AND id <> $2", Ok(())),
            ("UPDATE resource SET created = created + 9000000000000 WHERE id = $1 AND id <> $2", Err(Broken::Unindexed(4))),
            ("UPDATE resource SET created = created - 9000000000000 WHERE id = $1 AND id <> $2", Ok(())),
            (
                "UPDATE date SET since = since + 9000000000000 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)",
                Err(Broken::Unindexed(4)),
            ),
            ("UPDATE date SET since = since - 9000000000000 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)", Ok(())),
            ("UPDATE resource SET live = 2 WHERE id = $1 AND id <> $2", Err(Broken::Unindexed(4))),
            ("UPDATE resource SET live = 1 WHERE id = $1 AND id <> $2", Ok(())),
            (
                "UPDATE date SET owner = owner - 1 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)",
                Err(Broken::Unindexed(4)),
            ),
            ("UPDATE date SET owner = owner + 1 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)", Ok(())),
            ("UPDATE date SET until = 7 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)", Err(Broken::Unindexed(4))),
            ("UPDATE date SET until = 0 WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)", Ok(())),
            ("DELETE FROM date WHERE key = (SELECT key FROM resource WHERE id = $1 AND id <> $2)", Err(Broken::Unindexed(4))),
            ("UPDATE resource SET body = (SELECT body FROM resource o WHERE o.id = $2) WHERE id = $1", Err(Broken::Altered(4))),
            ("UPDATE resource SET id = 'away' WHERE id = $1 AND id <> $2", Err(Broken::Unpublished(4))),
        ] {
            assert_eq!(tamper(change).await, 1, "{change}");
            assert_eq!(verify(&store, &notary, "", 0).await.unwrap().map(drop), expected, "{change}");
        }
        // Computed anew from the third row on: only what was signed before tells.
        rows[2].event = rows[2].event.replace("holder", "nobody");
        let mut before = rows[1].hash.clone();
        for row in &mut rows[2..] {
            row.hash = row.expected(&before).to_vec();
            before.clone_from(&row.hash);
            let (event, hash, position) = (row.event.clone(), row.hash.clone(), row.position);
            const SQL: &str = "UPDATE audit SET event = $1, hash = $2 WHERE position = $3";
            match &store {
                Store::Sqlite(db) => sqlx::query(SQL).bind(event).bind(hash).bind(position).execute(&db.write).await.map(|_| ()).unwrap(),
                Store::Postgres(db) => sqlx::query(SQL).bind(event).bind(hash).bind(position).execute(&db.pool).await.map(|_| ()).unwrap(),
            }
        }
        let attested =
            store.checkpoints().await.unwrap().into_iter().map(|(position, ..)| position).find(|position| *position >= 3).unwrap();
        assert_eq!(verify(&store, &notary, "", 0).await.unwrap(), Err(Broken::Rewritten(attested)));
        sql(&store, "DELETE FROM audit_checkpoint").await;
        assert_eq!(verify(&store, &notary, "", 0).await.unwrap(), Err(Broken::Unpublished(3)), "the AuditEvents were made of other rows");
        sql(&store, "UPDATE audit_published SET position = 0").await;
        assert!(verify(&store, &notary, "", 0).await.unwrap().is_ok(), "nothing in the database tells");
        assert_eq!(verify(&store, &notary, &signed, 0).await.unwrap(), Err(Broken::Rewritten(last)), "the copy elsewhere does");
        store.close().await;
    }
);

both_databases!(
    async fn what_is_removed_for_its_age_leaves_a_whole_chain_under_a_signed_statement(db: &TestDb) {
        let world = World::new(db).await;
        for _ in 0..3 {
            world.get(&world.holder, "/fhir/Patient/a").await;
        }
        world.published().await;
        let World { server, store, .. } = world;
        server.stop().await;
        let settings = Settings { database: db.url.parse().unwrap(), ..Settings::default() };
        let app = App::open(settings, "http://localhost").await.unwrap();
        let notary = Notary::open(&store).await.unwrap();
        let rows = store.sealed_after(0, 1_000).await.unwrap();
        // Nothing is removed that was attested after it should be old, nor of a chain that was touched: the time of a row is in its hash.
        sql(&store, "DELETE FROM audit_checkpoint WHERE position < 5").await;
        sql(&store, "CREATE TABLE kept AS SELECT * FROM audit").await;
        sql(&store, "UPDATE audit SET at = at - 40000000000000 WHERE position <= 6").await;
        assert_eq!(app.remove_audit_before(&notary, rows[4].at - 30_000_000_000_000).await.unwrap(), 0);
        sql(&store, "DELETE FROM audit").await;
        sql(&store, "INSERT INTO audit SELECT * FROM kept").await;
        notary.attest(&store, &rows[1]).await.unwrap();
        assert_eq!(app.remove_audit_before(&notary, rows[4].at).await.unwrap(), 1);
        sql(&store, "DELETE FROM audit_checkpoint WHERE position < 5 AND kind = 'head'").await;
        assert_eq!(app.remove_audit_before(&notary, rows[4].at).await.unwrap(), 3);
        let type_code = lango::definitions::r4().type_code("AuditEvent").unwrap();
        for (place, row) in rows.iter().enumerate() {
            for told in told_by(row).unwrap() {
                let versions = store.history(type_code, &told.id, None, 10, &lango::store::Scope::All).await.unwrap();
                assert_eq!(versions.is_empty(), place < 4, "the AuditEvents go with their rows, and no others: {place}");
            }
        }
        let whole = verify(&store, &notary, "", 0).await.unwrap().unwrap();
        assert_eq!((whole.first, whole.rows), (5, rows.len() as u64 - 4));
        // Who has the key can sign that more was old enough. A copy of what was attested before tells, unless lango removes so early or the copy
        // has the removal too.
        let copy = store.checkpoints().await.unwrap().into_iter().find(|(position, kind, _)| *position > 5 && kind == "head").unwrap();
        let said = async |copies: &str, keep_days: u32| verify(&store, &notary, copies, keep_days).await.unwrap().map(drop);
        let row = rows.iter().find(|row| row.position == copy.0).unwrap();
        let later = jiff::Timestamp::now().as_microsecond() + 1;
        let signed = notary.removes(&store, row, later).await.unwrap();
        sql(&store, "DELETE FROM kept").await;
        sql(&store, "INSERT INTO kept SELECT * FROM audit").await;
        store.remove_sealed(row).await.unwrap();
        let emptied = Err(Broken::Emptied(row.position));
        for keep_days in [0, 365] {
            assert_eq!(said("", keep_days).await, Ok(()), "nothing in the database tells");
            assert_eq!(said(&copy.2, keep_days).await, emptied, "the copy elsewhere does");
        }
        assert_eq!(said(&format!("{}\n{signed}", copy.2), 0).await, Ok(()), "lango wrote it there itself");
        sql(&store, "DELETE FROM audit").await;
        sql(&store, "INSERT INTO audit SELECT * FROM kept").await;
        // More went than the statement says.
        sql(&store, "DELETE FROM audit WHERE position = 5").await;
        assert_eq!(verify(&store, &notary, "", 0).await.unwrap(), Err(Broken::Missing(1)));
        app.store.close().await;
        store.close().await;
    }
);

both_databases!(
    async fn two_processes_make_one_chain(db: &TestDb) {
        let mut world = World::new(db).await;
        let other = TestServer::smart(db).await;
        let token = signed_token(&other, "holder", &json!({})).await;
        world.told().await;
        let here = async {
            for _ in 0..30 {
                assert_eq!(world.get(&world.holder, "/fhir/Patient/a").await.0, 200);
            }
        };
        let there = async {
            for _ in 0..30 {
                let request = other.client.get(other.url("/fhir/Patient/b")).bearer_auth(&token);
                assert_eq!(answer(request).await.0, 200);
            }
        };
        tokio::join!(here, there);
        let mut count: BTreeMap<Told, usize> = BTreeMap::new();
        for event in world.told().await {
            *count.entry(event).or_default() += 1;
        }
        let expected = told(&[("R", "read", 200, "holder", "a"), ("R", "read", 200, "holder", "b")]);
        assert_eq!(count.into_iter().collect::<Vec<_>>(), expected.into_iter().map(|event| (event, 30)).collect::<Vec<_>>());
        world.published().await;
        let rows = world.verified("").await.unwrap().rows;
        let (_, found) = world.get(&world.officer, "/fhir/AuditEvent?_total=accurate&_count=0").await;
        // The look at them is one more, which may be among them by now.
        assert!(found["total"].as_u64().unwrap() >= rows, "{found} {rows}");
        other.stop().await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn events_are_audit_events_that_the_officer_and_the_one_who_caused_them_can_search(db: &TestDb) {
        let world = World::new(db).await;
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
        assert_eq!(world.get(&world.asker, "/fhir/Observation/b-hr").await.0, 404);
        assert_eq!(world.get(&world.asker, "/fhir/Observation?code=8867-4").await.0, 200);
        assert_eq!(world.get("nonsense", "/fhir/Patient/a").await.0, 401);
        world.published().await;
        let entries = async |token: &str, path: &str| -> Vec<Value> {
            let (status, bundle) = world.get(token, path).await;
            assert_eq!(status, 200, "{path}: {bundle}");
            let list = bundle["entry"].as_array().cloned().unwrap_or_default();
            let matches = list.into_iter().filter(|entry| entry["search"]["mode"] == "match");
            matches.map(|mut entry| entry["resource"].take()).collect()
        };
        let all = entries(&world.officer, "/fhir/AuditEvent?_count=200").await;
        let coded = |event: &Value, code: &str| {
            let agents = event["agent"].as_array().unwrap().iter();
            agents.filter(|agent| agent["type"]["coding"][0]["code"] == code).cloned().collect::<Vec<_>>()
        };
        for event in &all {
            // What claims a profile has what the profile asks for.
            let claims = event["meta"]["profile"][0].as_str().unwrap_or_default();
            if claims.ends_with("AuthZconsent") {
                assert_eq!(coded(event, "IRCP").len(), 1, "{event}");
            }
            if event["type"]["code"] == "110106" {
                assert!(claims.ends_with("PrivacyDisclosure.Source"), "{event}");
                let [source, recipient] = [coded(event, "110153"), coded(event, "110152")];
                assert_eq!(source[0]["who"], event["source"]["observer"]);
                assert_eq!(recipient[0]["who"]["identifier"]["value"], "asker");
                assert!(source[0]["network"].is_object() && recipient[0]["network"].is_object(), "{event}");
                assert_eq!(coded(event, "159541003")[0]["who"]["identifier"]["value"], "HF-A");
                assert_eq!(coded(event, "429577009")[0]["who"]["reference"], "Patient/a");
                assert_eq!(event["entity"][0]["what"]["reference"], "Patient/a");
            }
            let problems: Vec<_> = lango::validate::structure(event).into_iter().filter(|issue| issue.severity.is_error()).collect();
            assert!(problems.is_empty(), "{problems:?} {event}");
        }
        for (search, least) in [
            ("patient=Patient/a", 4),
            ("entity=Observation/a-hr", 2),
            ("action=R", 1),
            ("subtype=read", 1),
            ("type=rest", 5),
            ("type=110113", 3),
            ("type=110106", 2),
            ("type=110106&subtype=disclose&agent:identifier=urn:lango:facility|HF-A", 2),
            ("type=110106&entity=Observation/a-hr", 2),
            ("outcome=4", 2),
            ("outcome=4&agent:identifier=urn:lango:client|asker", 1),
            ("date=ge2020-01-01", 5),
            ("site=operator", 5),
            ("entity-role=24", 1),
            ("entity-type=Consent", 1),
            ("policy:missing=false", 1),
        ] {
            let found = entries(&world.officer, &format!("/fhir/AuditEvent?{search}&_count=200")).await;
            assert!(found.len() >= least, "{search}: {}", found.len());
        }
        // The asker sees what it caused, and nothing that it may not know.
        let own = entries(&world.asker, "/fhir/AuditEvent?_count=200").await;
        assert!(!own.is_empty());
        for event in &own {
            let text = event.to_string();
            assert!(text.contains(r#""value":"asker""#), "{text}");
            assert!(!text.contains("Consent/") && !text.contains("Patient/b") && !text.contains("AuthZ-Consent"), "{text}");
        }
        assert!(entries(&world.holder, "/fhir/AuditEvent?agent:identifier=urn:lango:client|asker").await.is_empty());
        // Who acted is known by identifiers, and found by the resource that has them.
        let doctor = json!({ "resourceType": "Practitioner", "id": "doc", "identifier": [{ "system": "urn:lango:practitioner", "value": "MCT-7" }] });
        world.put(&world.officer, &doctor).await;
        for (by_resource, by_identifier) in [
            ("agent=Practitioner/doc", "agent:identifier=urn:lango:practitioner|MCT-7"),
            ("agent:Practitioner=doc", "agent:identifier=urn:lango:practitioner|MCT-7"),
            ("agent=Organization/hf-b", "agent:identifier=urn:lango:facility|HF-B"),
            ("agent=Practitioner/none,Practitioner/doc", "agent:identifier=urn:lango:practitioner|MCT-7"),
        ] {
            let found = entries(&world.officer, &format!("/fhir/AuditEvent?type=110106&{by_resource}")).await;
            assert!(!found.is_empty(), "{by_resource}");
            assert_eq!(found, entries(&world.officer, &format!("/fhir/AuditEvent?type=110106&{by_identifier}")).await, "{by_resource}");
        }
        assert!(entries(&world.officer, "/fhir/AuditEvent?agent=Practitioner/none").await.is_empty());
        // Nobody changes, removes or makes them up.
        for token in [&world.asker, &world.officer] {
            let id = own[0]["id"].as_str().unwrap();
            let path = format!("/fhir/AuditEvent/{id}");
            assert_eq!(world.get(token, &path).await.0, 200);
            assert_eq!(world.send(token, "DELETE", &path, &Value::Null).await.0, 403);
            let mut changed = own[0].clone();
            changed["outcome"] = json!("8");
            assert_eq!(world.send(token, "PUT", &path, &changed).await.0, 403);
            assert_eq!(world.send(token, "POST", "/fhir/AuditEvent", &own[0]).await.0, 403);
            assert_eq!(world.send(token, "DELETE", "/fhir/AuditEvent?action=R", &Value::Null).await.0 / 100, 4);
            assert_eq!(world.get(token, &path).await.1["outcome"], own[0]["outcome"]);
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_person_is_told_who_saw_their_record_and_why(db: &TestDb) {
        let world = World::new(db).await;
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
        assert_eq!(world.get(&world.asker, "/fhir/Observation").await.0, 200);
        assert_eq!(world.get(&world.asker, "/fhir/Observation/b-hr").await.0, 404);
        world.published().await;
        let (status, bundle) = world.get(&world.officer, "/fhir/Patient/a/$disclosures").await;
        assert_eq!(status, 200, "{bundle}");
        let entries = bundle["entry"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{bundle}");
        for entry in entries {
            let event = &entry["resource"];
            let text = event.to_string();
            assert!(text.contains("Observation/a-hr") && text.contains("Consent/c-1/_history/1") && text.contains("TREAT"), "{text}");
            assert!(text.contains("HF-B") && text.contains("MCT-7"), "{text}");
            assert!(!text.contains("Patient/b"), "{text}");
        }
        let (_, first) = world.get(&world.officer, "/fhir/Patient/a/$disclosures?_count=1").await;
        let next = first["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap();
        let path = next["url"].as_str().unwrap().strip_prefix(&world.server.base).unwrap().to_owned();
        let (_, second) = world.get(&world.officer, &path).await;
        assert_eq!((&first["entry"][0]["fullUrl"], &second["entry"][0]["fullUrl"]), (&entries[0]["fullUrl"], &entries[1]["fullUrl"]));
        let (_, nothing) = world.get(&world.officer, "/fhir/Patient/b/$disclosures").await;
        assert!(nothing.get("entry").is_none(), "{nothing}");
        for id in ["a", "b", "nobody"] {
            assert_eq!(world.get(&world.asker, &format!("/fhir/Patient/{id}/$disclosures")).await.0, 403);
            assert_eq!(world.get(&world.holder, &format!("/fhir/Patient/{id}/$disclosures")).await.0, 403);
        }
        assert_eq!(world.get(&world.officer, "/fhir/Patient/nobody/$disclosures").await.0, 404);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_may_see_all_events_is_told_how_many_cannot_be_searched_yet_and_nobody_else(db: &TestDb) {
        let world = World::new(db).await;
        world.published().await;
        let told = async |token: &str, search: &str| -> Option<Value> {
            let (status, bundle) = world.get(token, search).await;
            assert_eq!(status, 200, "{bundle}");
            let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
            entries.into_iter().find(|entry| entry["search"]["mode"] == "outcome").map(|mut entry| entry["resource"]["issue"][0].take())
        };
        assert_eq!(told(&world.officer, "/fhir/AuditEvent?_count=1").await, None, "all is published");
        let deadline = Instant::now() + Duration::from_secs(30);
        for search in ["/fhir/AuditEvent?_count=1", "/fhir/AuditEvent?_summary=count", "/fhir?_type=Patient,AuditEvent&_count=1"] {
            let issue = loop {
                assert_eq!(world.get(&world.holder, "/fhir/Observation").await.0, 200);
                assert_eq!(told(&world.holder, search).await, None);
                if let Some(issue) = told(&world.officer, search).await {
                    break issue;
                }
                assert!(Instant::now() < deadline, "what was just answered is not published at once");
            };
            assert_eq!((&issue["severity"], &issue["code"]), (&json!("warning"), &json!("incomplete")));
            let words = issue["diagnostics"].as_str().unwrap();
            assert!(words.starts_with("the newest ") && words.contains(" not searchable yet"), "{words}");
            assert_eq!(told(&world.officer, "/fhir/Patient?_count=1").await, None, "it is about AuditEvents only");
        }
        // What is not searchable yet is in the accounting at once.
        for n in 1..=5 {
            assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
            let (_, bundle) = world.get(&world.officer, "/fhir/Patient/a/$disclosures").await;
            let asker = |entry: &&Value| entry["resource"].to_string().contains(r#""value":"asker""#);
            assert_eq!(bundle["entry"].as_array().unwrap().iter().filter(asker).count(), n, "{bundle}");
        }
        world.published().await;
        let metrics = world.server.client.get(world.server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("\nlango_audit_unpublished_events "), "{metrics}");
        let (_, said, _) = output(db, &["doctor", "--offline"]);
        assert!(said.contains("audit: every event is an AuditEvent"), "{said}");
        world.server.stop().await;
    }
);
