//! What a facility sees of another's records: what the patient's Consents allow, by every way in, and nothing else.

use crate::support::guarded::{Guarded, consent, encounter, observation, organization, purpose, set, to};
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestDb, TestServer, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// HF-A holds the records of Patient/a and Patient/b; HF-B asks for treatment; the desk records consents.
pub struct World {
    pub server: TestServer,
    pub holder: String,
    pub asker: String,
    pub desk: String,
    pub registry: String,
}

impl Guarded for World {
    fn server(&self) -> &TestServer {
        &self.server
    }
}

impl World {
    pub async fn new(db: &TestDb) -> World {
        add_signing_client(db, "holder", "HF-A", "").await;
        add_signing_client(db, "asker", "HF-B", "facility clinician").await;
        add_signing_client(db, "desk", "DESK", "consent-recorder").await;
        add_signing_client(db, "registry", "MOH", "registry").await;
        let server = TestServer::smart(db).await;
        let none = json!({});
        let holder = signed_token(&server, "holder", &none).await;
        let asker = signed_token(&server, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
        let desk = signed_token(&server, "desk", &none).await;
        let registry = signed_token(&server, "registry", &none).await;
        let world = World { server, holder, asker, desk, registry };
        world.put(&world.registry, &organization("hf-b", "HF-B", Some("district"))).await;
        world.put(&world.registry, &organization("district", "D-1", None)).await;
        for patient in ["a", "b"] {
            world.put(&world.holder, &json!({ "resourceType": "Patient", "id": patient, "name": [{ "family": "Mushi" }] })).await;
            world.put(&world.holder, &encounter(patient)).await;
            world.put(&world.holder, &observation(&format!("{patient}-hr"), patient, "8867-4", "2026-03-05", None)).await;
            world.put(&world.holder, &observation(&format!("{patient}-hiv"), patient, "75622-1", "2026-05-01", Some("HIV"))).await;
        }
        world
    }

    /// The ids in a searchset; the total, when it is there, counts the matches.
    pub async fn ids(&self, token: &str, path: &str) -> BTreeSet<String> {
        let (status, bundle) = self.get(token, path).await;
        assert_eq!(status, 200, "{path}: {bundle}");
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        let matches = entries.iter().filter(|entry| entry["search"]["mode"] == "match").count() as u64;
        if let Some(total) = bundle["total"].as_u64() {
            assert_eq!(matches, total, "{path}");
        }
        entries.iter().filter_map(|entry| entry["resource"]["id"].as_str()).map(str::to_owned).collect()
    }

    /// The ids on a page.
    pub async fn ids_of_page(&self, token: &str, path: &str) -> BTreeSet<String> {
        let (status, bundle) = self.get(token, path).await;
        assert_eq!(status, 200, "{path}: {bundle}");
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| entry["resource"]["id"].as_str()).map(str::to_owned).collect()
    }

    /// The Observations that the asker sees, which every way in must agree on.
    pub async fn sees(&self, token: &str) -> BTreeSet<String> {
        let seen = self.ids(token, "/fhir/Observation").await;
        for path in ["/fhir/Observation?_sort=-date", "/fhir/Observation?_sort=code&_count=1000", "/fhir/Observation?status=final"] {
            assert_eq!(self.ids(token, path).await, seen, "{path}");
        }
        let chained = self.ids(token, "/fhir/Observation?encounter.status=finished").await;
        let encounters = self.ids(token, "/fhir/Encounter").await;
        for id in ["a-hr", "a-hiv", "b-hr", "b-hiv"] {
            let patient = &id[..1];
            let read = self.get(token, &format!("/fhir/Observation/{id}")).await.0;
            assert_eq!(read, if seen.contains(id) { 200 } else { 404 }, "{id}");
            assert_eq!(self.get(token, &format!("/fhir/Observation/{id}/_history/1")).await.0, read, "{id}");
            assert_eq!(self.get(token, &format!("/fhir/Observation/{id}/_history")).await.0, read, "{id}");
            let encounter = encounters.contains(&format!("{patient}-visit"));
            assert_eq!(chained.contains(id), seen.contains(id) && encounter, "{id}");
            if !seen.contains(id) {
                let ghost = self.get(token, "/fhir/Observation/nobody-was-here").await;
                let hidden = self.get(token, &format!("/fhir/Observation/{id}")).await;
                assert_eq!(hidden, ghost, "hidden and never existed look the same");
            }
        }
        let has = self.ids(token, "/fhir/Encounter?_has:Observation:encounter:code=75622-1").await;
        let hiv_patients: BTreeSet<String> =
            seen.iter().filter(|id| id.ends_with("-hiv")).map(|id| format!("{}-visit", &id[..1])).collect();
        assert_eq!(has, hiv_patients.intersection(&encounters).cloned().collect());
        let included = self.ids(token, "/fhir/Encounter?_revinclude=Observation:encounter").await;
        let by_encounter = seen.iter().filter(|id| encounters.contains(&format!("{}-visit", &id[..1]))).cloned();
        assert_eq!(included, encounters.iter().cloned().chain(by_encounter).collect());
        seen
    }

    pub async fn consent(&self, id: &str, provision: Value) {
        self.put(&self.desk, &consent(id, "a", provision)).await;
    }
}

both_databases!(
    async fn a_facility_sees_what_the_consent_allows_by_every_way_in(db: &TestDb) {
        let world = World::new(db).await;
        let all_of_a = set(&["a-hr", "a-hiv"]);
        let everything = set(&["a-hr", "a-hiv", "b-hr", "b-hiv"]);
        assert_eq!(world.sees(&world.holder).await, everything, "a facility sees what it contributed");
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        assert_eq!(world.ids(&world.asker, "/fhir/Patient").await, set(&[]));
        assert_eq!(world.ids(&world.asker, "/fhir/Organization").await, set(&["district", "hf-b"]), "the directory is open");

        world.consent("c", json!({ "type": "permit", "actor": to("Organization/hf-b"), "purpose": purpose("TREAT") })).await;
        assert_eq!(world.sees(&world.asker).await, all_of_a);
        assert_eq!(world.ids(&world.asker, "/fhir/Patient?family=mushi").await, set(&["a"]));
        // The purpose comes from what was signed, and an emergency is treatment too.
        for (extension, seen) in [
            (json!({}), set(&[])),
            (json!({ "purpose_of_use": "HPAYMT" }), set(&[])),
            (json!({ "purpose_of_use": "ETREAT" }), all_of_a.clone()),
            (json!({ "purpose_of_use": ["TREAT", "HPAYMT"] }), set(&[])),
        ] {
            let token = signed_token(&world.server, "asker", &extension).await;
            assert_eq!(world.sees(&token).await, seen, "{extension}");
        }
        // Parts of an organisation are meant with it.
        world.consent("c", json!({ "type": "permit", "actor": to("Organization/district") })).await;
        assert_eq!(world.sees(&world.asker).await, all_of_a);
        world.consent("c", json!({ "type": "permit", "actor": to("Organization/elsewhere") })).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        // Narrowed: labels, codes, dates, one visit.
        let except = |exception: Value| json!({ "type": "permit", "provision": [exception] });
        let label = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV" }]);
        world.consent("c", except(json!({ "type": "deny", "securityLabel": label }))).await;
        assert_eq!(world.sees(&world.asker).await, set(&["a-hr"]));
        let code = json!([{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }]);
        world.consent("c", except(json!({ "type": "deny", "code": code }))).await;
        assert_eq!(world.sees(&world.asker).await, set(&["a-hiv"]));
        world.consent("c", json!({ "type": "permit", "dataPeriod": { "start": "2026-03-05", "end": "2026-03-05" } })).await;
        assert_eq!(world.sees(&world.asker).await, set(&["a-hr"]));
        let visit = json!([{ "meaning": "dependents", "reference": { "reference": "Encounter/a-visit" } }]);
        world.consent("c", json!({ "type": "permit", "data": visit })).await;
        assert_eq!(world.sees(&world.asker).await, all_of_a);
        assert_eq!(world.ids(&world.asker, "/fhir/Patient").await, set(&[]), "the visit was opened, the patient was not");
        // What the patient told is not what was told of them.
        let told = json!([{ "meaning": "authoredby", "reference": { "reference": "Patient/a" } }]);
        world.consent("c", json!({ "type": "permit", "data": told })).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        let mut own = observation("a-own", "a", "8867-4", "2026-03-05", None);
        own["performer"] = json!([{ "reference": "Patient/a" }]);
        world.put(&world.holder, &own).await;
        assert_eq!(world.sees(&world.asker).await, set(&["a-own"]));
        assert_eq!(world.send(&world.holder, "DELETE", "/fhir/Observation/a-own", &Value::Null).await.0, 204);
        world.consent("c", json!({ "type": "permit" })).await;
        // A second Consent that denies wins; withdrawn, it is as if it were not there.
        world.consent("d", json!({ "type": "deny", "actor": to("Organization/hf-b") })).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        let mut withdrawn = consent("d", "a", json!({ "type": "deny" }));
        withdrawn["status"] = json!("inactive");
        world.put(&world.desk, &withdrawn).await;
        assert_eq!(world.sees(&world.asker).await, all_of_a);
        // Expired, deleted.
        world.consent("c", json!({ "type": "permit", "period": { "end": "2026-01-31" } })).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        world.consent("c", json!({ "type": "permit" })).await;
        assert_eq!(world.sees(&world.asker).await, all_of_a);
        assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/c", &Value::Null).await.0, 204);
        assert_eq!(world.sees(&world.asker).await, set(&[]));
    }
);

both_databases!(
    async fn what_gives_a_sensitive_matter_away_is_labelled_on_arrival(db: &TestDb) {
        let world = World::new(db).await;
        let condition = |id: &str, code: &str| {
            json!({
                "resourceType": "Condition", "id": id, "subject": { "reference": "Patient/a" },
                "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": code }] },
            })
        };
        world.put(&world.holder, &condition("plain", "J18.9")).await;
        world.put(&world.holder, &condition("hiv", "B20.1")).await;
        let labels = |resource: &Value| -> BTreeSet<String> {
            let list = resource["meta"]["security"].as_array().cloned().unwrap_or_default();
            list.iter().map(|label| label["code"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(labels(&world.get(&world.holder, "/fhir/Condition/plain").await.1), set(&[]));
        assert_eq!(labels(&world.get(&world.holder, "/fhir/Condition/hiv").await.1), set(&["HIV", "R"]));
        assert_eq!(world.ids(&world.holder, "/fhir/Condition?_security=HIV").await, set(&["hiv"]));
        let label = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV" }]);
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": label }] })).await;
        assert_eq!(world.ids(&world.asker, "/fhir/Condition").await, set(&["plain"]));
        // The same again changes nothing; another code takes the label with it.
        world.put(&world.holder, &condition("hiv", "B20.1")).await;
        assert_eq!(world.get(&world.holder, "/fhir/Condition/hiv").await.1["meta"]["versionId"], json!("1"));
        world.put(&world.holder, &condition("hiv", "J18.9")).await;
        assert_eq!(world.ids(&world.asker, "/fhir/Condition").await, set(&["plain", "hiv"]));
    }
);

both_databases!(
    async fn consents_are_written_by_recorders_and_read_by_whom_they_name(db: &TestDb) {
        let world = World::new(db).await;
        let permit = json!({ "type": "permit", "actor": to("Organization/hf-b"), "purpose": purpose("TREAT") });
        for token in [&world.holder, &world.asker] {
            let (status, outcome) = world.send(token, "PUT", "/fhir/Consent/own", &consent("own", "a", permit.clone())).await;
            assert_eq!(status, 403, "{outcome}");
        }
        world.consent("names", permit).await;
        world.consent("all", json!({ "type": "permit" })).await;
        world.consent("denies", json!({ "type": "deny", "actor": to("Organization/other") })).await;
        assert_eq!(world.ids(&world.asker, "/fhir/Consent").await, set(&["names"]));
        assert_eq!(world.ids(&world.asker, "/fhir/Consent?patient=Patient/a").await, set(&["names"]));
        assert_eq!(world.ids(&world.holder, "/fhir/Consent").await, set(&[]), "not even of its own patients");
        assert_eq!(world.ids(&world.desk, "/fhir/Consent").await, set(&["names", "all", "denies"]));
        assert_eq!(world.get(&world.asker, "/fhir/Consent/denies").await.0, 404);
    }
);

both_databases!(
    async fn a_withdrawal_empties_pages_that_were_handed_out(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("c", json!({ "type": "permit" })).await;
        let (_, first) = world.get(&world.asker, "/fhir/Observation?patient=Patient/a&_count=1").await;
        let links = first["link"].as_array().unwrap();
        let next = links.iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap();
        let next = next.strip_prefix(&world.server.base).unwrap();
        assert_eq!(world.ids(&world.asker, next).await.len(), 1);
        assert_eq!(world.get(&world.holder, next).await.0, 400, "a page is the caller's alone");
        assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/c", &Value::Null).await.0, 204);
        assert_eq!(world.ids(&world.asker, next).await, set(&[]));
    }
);

both_databases!(
    async fn pages_that_were_handed_out_show_no_version_that_was_never_open(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "code": [{ "coding": [{ "system": "http://loinc.org", "code": "8310-5" }] }] }] })).await;
        // Of another patient, of a denied code, and open, until they are corrected or deleted.
        let made = |id: &str, patient: &str, code: &str| observation(id, patient, code, "2026-03-06", None);
        for body in
            [made("p-code", "a", "8310-5"), made("p-patient", "b", "8867-4"), made("p-gone", "a", "8867-4"), made("p-open", "a", "8867-4")]
        {
            world.put(&world.holder, &body).await;
        }
        let mut next = Vec::new();
        for search in [
            "Observation?_count=1",
            "Observation?_count=1&_sort=_id",
            "Observation?status=final&_count=1",
            "?_type=Observation,Encounter&_count=1",
            "Patient/a/Observation?_count=1",
            "Patient/a/$everything?_count=1",
        ] {
            let (status, first) = world.get(&world.asker, &format!("/fhir/{search}")).await;
            assert_eq!(status, 200, "{first}");
            let url = first["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap();
            next.push(url.strip_prefix(&world.server.base).unwrap().to_owned());
        }
        for id in ["p-code", "p-patient", "p-open"] {
            let mut body = made(id, "a", "8867-4");
            body["valueString"] = json!("corrected");
            world.put(&world.holder, &body).await;
        }
        assert_eq!(world.send(&world.holder, "DELETE", "/fhir/Observation/p-gone", &Value::Null).await.0, 204);
        for first in next {
            let mut page = Some(first.clone());
            let mut shown = BTreeSet::new();
            let mut total = None;
            while let Some(url) = page {
                let (status, bundle) = world.get(&world.asker, &url).await;
                assert_eq!(status, 200, "{bundle}");
                total = bundle["total"].as_u64();
                let entries = bundle["entry"].as_array().into_iter().flatten().map(|entry| &entry["resource"]);
                shown.extend(entries.map(|one| format!("{}/{}", one["id"].as_str().unwrap(), one["meta"]["versionId"].as_str().unwrap())));
                let link = bundle["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next");
                page = link.map(|link| link["url"].as_str().unwrap().strip_prefix(&world.server.base).unwrap().to_owned());
            }
            assert!(shown.contains("p-open/1"), "the first page's moment: {shown:?}");
            for hidden in ["p-code/1", "p-patient/1", "p-gone/1"] {
                assert!(!shown.contains(hidden), "{first}: {shown:?}");
            }
            if first.contains("_total") {
                assert_eq!(total, Some(shown.len() as u64 + 1), "{first}: {shown:?}");
            }
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_cannot_be_tied_to_one_patient_is_its_contributors_alone(db: &TestDb) {
        let world = World::new(db).await;
        for patient in ["a", "b"] {
            world.put(&world.desk, &consent(&format!("c-{patient}"), patient, json!({ "type": "permit" }))).await;
        }
        let resources = [
            json!({ "resourceType": "Binary", "id": "bin", "contentType": "text/plain", "data": "aGVsbG8=" }),
            json!({ "resourceType": "List", "id": "list", "status": "current", "mode": "working" }),
            json!({ "resourceType": "Group", "id": "group", "type": "person", "actual": true, "member": [{ "entity": { "reference": "Patient/a" } }] }),
            json!({ "resourceType": "Appointment", "id": "both", "status": "booked", "participant": [
                { "actor": { "reference": "Patient/a" }, "status": "accepted" }, { "actor": { "reference": "Patient/b" }, "status": "accepted" }] }),
        ];
        for resource in &resources {
            world.put(&world.holder, resource).await;
            let (name, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            assert_eq!(world.get(&world.asker, &format!("/fhir/{name}/{id}")).await.0, 404, "{name}");
            assert_eq!(world.ids(&world.asker, &format!("/fhir/{name}")).await, set(&[]), "{name}");
            assert_eq!(world.get(&world.holder, &format!("/fhir/{name}/{id}")).await.0, 200, "{name}");
        }
        // Deleted is told to its contributor only.
        assert_eq!(world.send(&world.holder, "DELETE", "/fhir/Observation/a-hr", &Value::Null).await.0, 204);
        assert_eq!(world.get(&world.holder, "/fhir/Observation/a-hr").await.0, 410);
        let ghost = world.get(&world.asker, "/fhir/Observation/ghost").await;
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await, ghost);
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr/_history/1").await.0, 404);
    }
);

both_databases!(
    async fn a_permit_to_who_is_called_two_things_permits_nobody(db: &TestDb) {
        let world = World::new(db).await;
        let (code, district) =
            (json!({ "system": "urn:lango:facility", "value": "hf-b " }), json!({ "system": "urn:lango:facility", "value": "D-1" }));
        let absent =
            json!({ "extension": [{ "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown" }] });
        for (reference, period, expected) in [
            (
                json!({ "reference": "Organization/hf-b", "type": "Organization", "identifier": code }),
                json!({ "start": "2026-01-01" }),
                true,
            ),
            (
                json!({ "reference": "Organization/hf-b", "identifier": { "system": "urn:other", "value": "1" } }),
                json!({ "end": "2090" }),
                true,
            ),
            (json!({ "reference": "Organization/hf-b", "identifier": district }), json!({ "end": "2090" }), false),
            (json!({ "reference": "Organization/hf-b" }), json!({ "start": "2026-01-01", "_end": absent }), false),
            (json!({ "reference": "Organization/hf-b" }), json!({ "_start": absent, "end": "2090" }), false),
        ] {
            let mut actor = to("Organization/hf-b");
            actor[0]["reference"] = reference;
            let provision = json!({ "type": "permit", "actor": actor, "purpose": purpose("TREAT"), "period": period });
            world.consent("c", provision.clone()).await;
            let seen = world.ids(&world.asker, "/fhir/Observation").await;
            assert_eq!(seen, if expected { set(&["a-hr", "a-hiv"]) } else { set(&[]) }, "{provision}");
        }
        // What contradicts its own type is no reference at all.
        let mut actor = to("Organization/hf-b");
        actor[0]["reference"]["type"] = json!("Practitioner");
        let contradicting = consent("c", "a", json!({ "type": "permit", "actor": actor }));
        let (status, refused) = world.send(&world.desk, "PUT", "/fhir/Consent/c", &contradicting).await;
        assert_eq!((status, &refused["issue"][0]["expression"]), (422, &json!(["Consent.provision.actor[0].reference.type"])), "{refused}");
    }
);

both_databases!(
    async fn a_desk_that_sees_nobody_records_for_a_patient_of_its_own_and_learns_nothing(db: &TestDb) {
        add_signing_client(db, "counter", "HF-D", "facility consent-recorder").await;
        let world = World::new(db).await;
        let counter = signed_token(&world.server, "counter", &json!({})).await;
        let asha = |id: &str, number: &str| {
            json!({
                "resourceType": "Patient", "id": id, "name": [{ "family": "Mushi", "given": ["Asha"] }], "birthDate": "1990-01-01",
                "identifier": [{ "system": "https://lango.health/id/nida", "value": number }],
            })
        };
        world.put(&world.holder, &asha("a", "19900101-1")).await;
        let mut told = Vec::new();
        for (id, number) in [("known", "19900101-1"), ("unknown", "19900101-2")] {
            let (status, answer) = world.send(&counter, "PUT", &format!("/fhir/Patient/{id}"), &asha(id, number)).await;
            let (found, bundle) = world.get(&counter, &format!("/fhir/Patient?identifier=https://lango.health/id/nida|{number}")).await;
            let (recorded, given) =
                world.send(&counter, "PUT", &format!("/fhir/Consent/{id}"), &consent(id, id, json!({ "type": "permit" }))).await;
            told.push((
                status,
                answer["meta"]["versionId"].clone(),
                found,
                bundle["total"].clone(),
                recorded,
                given["meta"]["versionId"].clone(),
            ));
        }
        assert_eq!(told[0], told[1]);
        assert_eq!(world.get(&counter, "/fhir/Patient/a").await.0, 404);
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        assert_eq!(seen().await, set(&["a-hr", "a-hiv"]));
        let mut denial = consent("no", "known", json!({ "type": "deny" }));
        denial["policy"] = json!([{ "uri": "urn:policy:other" }]);
        world.put(&counter, &denial).await;
        assert_eq!(seen().await, set(&[]));
    }
);
