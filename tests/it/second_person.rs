//! A record that names, or may name, a person besides the one whose it is: no Consent of one can speak for both.

use crate::consent::World;
use crate::support::guarded::{Guarded, observation, sensitivity, set};
use crate::support::smart::signed_token;
use crate::support::{TestServer, both_databases, sql, until};
use lango::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NIDA: &str = "https://lango.health/id/nida";

fn of(id: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut body = observation(id, "a", "8867-4", "2026-03-05", None);
    change(&mut body);
    body
}

both_databases!(
    async fn what_names_another_person_or_may_is_its_contributors_alone(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("c", json!({ "type": "permit" })).await;
        let nida = |value: &str| json!({ "system": NIDA, "value": value });
        let other = json!({ "resourceType": "Patient", "id": "q", "name": [{ "text": "Zed" }], "identifier": [nida("Q")] });
        let named = |key: &'static str, reference: Value| move |one: &mut Value| one[key] = json!([reference]);
        let extension = |reference: Value| json!([{ "url": "urn:x", "valueReference": reference }]);
        let inner = |subject: Value| json!([{ "resourceType": "Observation", "id": "o", "status": "final", "code": { "text": "x" }, "subject": subject }]);
        let relative = |patient: &str| json!([{ "resourceType": "RelatedPerson", "id": "r", "patient": { "reference": patient } }]);
        let closed = [
            of("contains", |one| one["contained"] = json!([other])),
            of("contains-and-names", |one| (one["contained"], one["performer"]) = (json!([other]), json!([{ "reference": "#q" }]))),
            of("contains-result", |one| one["contained"] = inner(json!({ "type": "Patient", "identifier": nida("Q") }))),
            of("contains-result-by-id", |one| one["contained"] = inner(json!({ "reference": "Patient/b" }))),
            of("contains-relative", |one| one["contained"] = relative("Patient/b")),
            of("id", named("focus", json!({ "reference": "Patient/b" }))),
            of("typed", named("focus", json!({ "type": "Patient", "identifier": nida("Q") }))),
            of("type", named("performer", json!({ "type": "http://hl7.org/fhir/StructureDefinition/Patient", "display": "Zed" }))),
            of("number", named("focus", json!({ "identifier": nida("Q") }))),
            of("performers-number", named("performer", json!({ "identifier": nida("Q") }))),
            of("elsewhere", named("focus", json!({ "reference": "https://e.example.org/fhir/Patient/5" }))),
            of("untold", named("performer", json!({ "reference": "https://e.example.org/x/5" }))),
            of("urn", named("focus", json!({ "reference": "urn:uuid:11111111-1111-4111-8111-111111111111" }))),
            of("extension", |one| one["extension"] = extension(json!({ "type": "Patient", "identifier": nida("Q") }))),
            of("two-numbers", |one| {
                one["subject"]["identifier"] = nida("A");
                one["performer"] = json!([{ "reference": "Patient/a", "identifier": nida("Q") }]);
            }),
        ];
        let open = [
            of("same", named("performer", json!({ "reference": "Patient/a" }))),
            of("same-absolute", named("focus", json!({ "reference": format!("{}/fhir/Patient/a", world.server.base), "type": "Patient" }))),
            of("same-number", |one| {
                one["subject"]["identifier"] = nida("A");
                one["performer"] = json!([{ "identifier": nida("A") }, { "type": "Patient", "identifier": nida("A") }]);
            }),
            of("relative", named("performer", json!({ "reference": "RelatedPerson/mother" }))),
            of("own-relative", |one| (one["contained"], one["performer"]) = (relative("Patient/a"), json!([{ "reference": "#r" }]))),
            of("staff", named("performer", json!({ "identifier": { "system": "urn:lango:practitioner", "value": "1" } }))),
            of(
                "council",
                named("performer", json!({ "identifier": { "system": "urn:council", "value": "1" }, "display": "Patient Mushi" })),
            ),
            of("organisation", named("performer", json!({ "type": "Organization", "identifier": { "system": "urn:x", "value": "1" } }))),
            of("doctor", named("performer", json!({ "reference": "https://e.example.org/fhir/Practitioner/5", "display": "Patient" }))),
            of("contained-doctor", |one| {
                one["contained"] = json!([{ "resourceType": "Practitioner", "id": "d", "identifier": [nida("D")] }]);
                one["performer"] = json!([{ "reference": "#d" }]);
            }),
            of("words", |one| one["note"] = json!([{ "text": "Patient/b came along" }])),
        ];
        let mut expected: BTreeSet<String> = set(&["a-hr", "a-hiv"]);
        for (bodies, status) in [(&closed[..], 404), (&open[..], 200)] {
            for body in bodies {
                world.put(&world.holder, body).await;
                let path = format!("/fhir/Observation/{}", body["id"].as_str().unwrap());
                assert_eq!(world.get(&world.asker, &path).await.0, status, "{body}");
                assert_eq!(world.get(&world.holder, &path).await.0, 200, "{body}");
                expected.extend((status == 200).then(|| body["id"].as_str().unwrap().to_owned()));
            }
        }
        assert_eq!(world.ids(&world.asker, "/fhir/Observation").await, expected);
        // A Patient is no other: what is linked to her is she, as her facility says; what else names somebody closes.
        let mut asha = json!({ "resourceType": "Patient", "id": "a", "name": [{ "family": "Mushi" }], "identifier": [nida("A")] });
        for (key, value, status) in [
            ("link", json!([{ "type": "seealso", "other": { "reference": "Patient/a2" } }]), 200),
            ("managingOrganization", json!({ "identifier": { "system": "urn:mfl", "value": "1" } }), 200),
            ("extension", extension(json!({ "reference": "Patient/b" })), 404),
            ("extension", extension(json!({ "reference": "RelatedPerson/r" })), 200),
        ] {
            asha[key] = value;
            world.put(&world.holder, &asha).await;
            assert_eq!(world.get(&world.asker, "/fhir/Patient/a").await.0, status, "{asha}");
        }
        // In the directory, by whatever address.
        for odd in ["https://e.example.org/x/5", "urn:uuid:11111111-1111-4111-8111-111111111111"] {
            let ward = json!({ "resourceType": "Location", "id": "ward", "extension": extension(json!({ "reference": odd })) });
            world.put(&world.holder, &ward).await;
            assert_eq!(world.get(&world.asker, "/fhir/Location/ward").await.0, 404, "{odd}");
        }
        for odd in ["/Patient/b", "/fhir/Patient/b", "../fhir/Patient/b", "Patient%2Fb", "Patient/b/", "Patient/b#x", "patient/b"] {
            let ward = json!({ "resourceType": "Location", "id": "ward", "extension": extension(json!({ "reference": odd })) });
            assert_eq!(world.send(&world.holder, "PUT", "/fhir/Location/ward", &ward).await.0, 422, "{odd}");
        }
    }
);

/// What the asker gets for a result of the record, one that names a second person, two of visits that nobody can tell, and a report of such a result.
async fn statuses(server: &TestServer) -> [u16; 5] {
    let asker = signed_token(server, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
    let status = async |id: &str| {
        let request = server.client.get(server.url(&format!("/fhir/{id}"))).bearer_auth(&asker);
        request.send().await.unwrap().status().as_u16()
    };
    let result = async |id: &str| status(&format!("Observation/{id}")).await;
    let report = status("DiagnosticReport/report").await;
    [result("a-hr").await, result("second").await, result("visit").await, result("elsewhere").await, report]
}

both_databases!(
    async fn what_is_stored_is_closed_by_the_release_that_reads_it_otherwise(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": sensitivity("HIV") }] })).await;
        world.put(&world.holder, &of("second", |one| one["focus"] = json!([{ "identifier": { "system": NIDA, "value": "Q" } }]))).await;
        world
            .put(&world.holder, &of("visit", |one| one["encounter"] = json!({ "identifier": { "system": "urn:v", "value": "V1" } })))
            .await;
        let elsewhere = json!({ "reference": "https://other.example.org/fhir/Encounter/1" });
        world.put(&world.holder, &of("elsewhere", |one| one["encounter"] = elsewhere)).await;
        let mut report = of("report", |one| one["result"] = json!([{ "identifier": { "system": "urn:lab", "value": "R1" } }]));
        report["resourceType"] = json!("DiagnosticReport");
        report
            .as_object_mut()
            .unwrap()
            .retain(|key, _| ["resourceType", "id", "status", "code", "subject", "result"].contains(&key.as_str()));
        world.put(&world.holder, &report).await;
        let World { server, .. } = world;
        server.stop().await;
        // As the release before left it.
        let store = Store::open(&db.url).await.unwrap();
        sql(
            &store,
            "UPDATE resource SET patient = (SELECT r.patient FROM resource r WHERE r.id = 'a-hr'), \
             class = (SELECT r.class FROM resource r WHERE r.id = 'a-hr') WHERE id IN ('second', 'visit', 'elsewhere', 'report')",
        )
        .await;
        store.close().await;
        let server = TestServer::smart(db).await;
        assert_eq!(statuses(&server).await, [200; 5]);
        server.stop().await;
        let store = Store::open(&db.url).await.unwrap();
        store.set_labelled_by("another release's").await.unwrap();
        store.close().await;
        let server = TestServer::smart(db).await;
        until("they are labelled again", async || statuses(&server).await == [200, 404, 404, 404, 404]).await;
    }
);
