//! `$record-lookup` and golden Patients: a person's records from all who hold some, as far as the person allows, and no hint of more.

use crate::support::answer;
use crate::support::guarded::{Guarded, consent, organization, sensitivity, set, to};
use crate::support::payloads::{DOOR, payload, record_with_nida};
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestDb, TestServer, add_client, both_databases, eventually};
use lango::config::{AuthMode, Settings};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub const NIDA: &str = "https://lango.health/id/nida";

/// Asha is Patient/a at HF-A and Patient/c at HF-C, with one national number; Patient/z is somebody else, at HF-A. HF-B asks.
pub struct World {
    pub server: TestServer,
    pub asker: String,
    pub desk: String,
    pub golden: String,
    tokens: Vec<(&'static str, String)>,
}

impl Guarded for World {
    fn server(&self) -> &TestServer {
        &self.server
    }
}

impl World {
    pub async fn new(db: &TestDb) -> World {
        World::with(db, |_| {}).await
    }

    pub async fn with(db: &TestDb, change: impl FnOnce(&mut Settings)) -> World {
        for (id, facility, roles) in [
            ("a", "HF-A", ""),
            ("c", "HF-C", ""),
            ("asker", "HF-B", "facility clinician"),
            ("desk", "DESK", "consent-recorder"),
            ("registry", "MOH", "registry"),
            ("operator", "operator", "operator"),
        ] {
            add_signing_client(db, id, facility, roles).await;
        }
        let server = TestServer::start(db, |settings| {
            settings.auth = AuthMode::Smart;
            change(settings);
        })
        .await;
        let mut tokens = Vec::new();
        for id in ["a", "c", "desk", "registry", "operator"] {
            tokens.push((id, signed_token(&server, id, &json!({})).await));
        }
        let asker = signed_token(&server, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
        let desk = tokens[2].1.clone();
        let mut world = World { server, asker, desk, golden: String::new(), tokens };
        for (id, code) in [("hf-a", "HF-A"), ("hf-b", "HF-B"), ("hf-c", "HF-C")] {
            let mut hospital = organization(id, code, None);
            hospital["name"] = json!(format!("Hospital {code}"));
            world.put(world.token("registry"), &hospital).await;
        }
        for (client, patient, number) in [("a", "a", "19900101-1"), ("c", "c", "19900101-1"), ("a", "z", "19700101-9")] {
            world.put(world.token(client), &self::patient(patient, number)).await;
            world.put(world.token(client), &observation(&format!("{patient}-hr"), patient, None)).await;
            world.put(world.token(client), &observation(&format!("{patient}-psy"), patient, Some("PSYTHPN"))).await;
        }
        let (_, found) = world.get(world.token("operator"), "/fhir/Patient?_tag=golden").await;
        world.golden = found["entry"][0]["resource"]["id"].as_str().expect("a golden Patient").to_owned();
        world
    }

    pub fn add_token(&mut self, id: &'static str, token: String) {
        self.tokens.push((id, token));
    }

    pub fn token(&self, id: &str) -> &str {
        &self.tokens.iter().find(|(known, _)| *known == id).unwrap().1
    }

    pub async fn consent(&self, id: &str, patient: &str, provision: Value) {
        self.put(&self.desk, &consent(id, patient, provision)).await;
    }

    pub async fn lookup(&self, token: &str, parameters: Value) -> (u16, Value) {
        let body = json!({ "resourceType": "Parameters", "parameter": parameters });
        self.send(token, "POST", "/fhir/Patient/$record-lookup", &body).await
    }

    /// The ids that a lookup by national number finds.
    pub async fn found(&self, token: &str, more: &[Value]) -> BTreeSet<String> {
        let mut parameters = vec![by_number("19900101-1")];
        parameters.extend(more.iter().cloned());
        let (status, bundle) = self.lookup(token, Value::Array(parameters)).await;
        assert_eq!(status, 200, "{bundle}");
        let ids = ids(&bundle);
        assert_eq!(bundle["total"].as_u64(), Some(ids.len() as u64), "{bundle}");
        ids
    }
}

pub fn by_number(number: &str) -> Value {
    json!({ "name": "identifier", "valueIdentifier": { "system": NIDA, "value": number } })
}

pub fn ids(bundle: &Value) -> BTreeSet<String> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    let matches = entries.iter().filter(|entry| entry["search"]["mode"] == "match");
    matches.map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()).collect()
}

/// Without what differs from one answer to the next whatever was asked.
fn lasting(mut bundle: Value) -> Value {
    bundle["id"] = Value::Null;
    bundle["meta"]["lastUpdated"] = Value::Null;
    bundle
}

fn outcome(bundle: &Value) -> Value {
    let entries = bundle["entry"].as_array().unwrap();
    entries.iter().find(|entry| entry["search"]["mode"] == "outcome").unwrap()["resource"].clone()
}

pub fn patient(id: &str, number: &str) -> Value {
    let born = "1990-01-01";
    json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Mushi" }], "birthDate": born, "identifier": [{ "system": NIDA, "value": number }] })
}

pub fn observation(id: &str, patient: &str, label: Option<&str>) -> Value {
    let mut observation = json!({
        "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "pulse" },
        "subject": { "reference": format!("Patient/{patient}") }, "effectiveDateTime": "2026-03-05", "valueString": "x",
    });
    if let Some(label) = label {
        observation["meta"] = json!({ "security": sensitivity(label) });
    }
    observation
}

both_databases!(
    async fn a_lookup_finds_the_person_at_every_facility_and_shows_what_is_allowed(db: &TestDb) {
        let world = World::new(db).await;
        assert_eq!(world.found(&world.asker, &[]).await, set(&[]));
        world.consent("k", "a", json!({ "type": "permit", "actor": to("Organization/hf-b") })).await;
        let all = set(&["a", "a-hr", "a-psy", "c", "c-hr", "c-psy", "k"]);
        assert_eq!(world.found(&world.asker, &[]).await, all, "the Consent that names the caller is of the person's record too");
        // However the person is named.
        for sought in [
            json!({ "name": "patient", "valueReference": { "reference": "Patient/c" } }),
            json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{}", world.golden) } }),
            json!({ "name": "identifier", "valueString": format!("{NIDA}|19900101-1") }),
        ] {
            assert_eq!(ids(&world.lookup(&world.asker, json!([sought])).await.1), all, "{sought}");
        }
        let (status, bundle) =
            world.send(&world.asker, "POST", "/fhir/Patient/a/$record-lookup", &json!({ "resourceType": "Parameters" })).await;
        assert_eq!((status, ids(&bundle)), (200, all), "{bundle}");
        // Every entry names its source; every source its outcome.
        let source = |id: &str| {
            let entry = bundle["entry"].as_array().unwrap().iter().find(|entry| entry["resource"]["id"] == id).unwrap();
            entry["extension"][0]["valueReference"].clone()
        };
        assert_eq!(source("a-hr")["identifier"]["value"], "HF-A");
        assert_eq!(source("c-hr")["display"], "Hospital HF-C");
        let told = outcome(&bundle).to_string();
        assert!(told.contains("HF-A: 3 records.") && told.contains("HF-C: 3 records."), "{told}");
        // Narrowed.
        let of_type = json!({ "name": "type", "valueCode": "Observation" });
        assert_eq!(world.found(&world.asker, std::slice::from_ref(&of_type)).await, set(&["a-hr", "a-psy", "c-hr", "c-psy"]));
        let of_holder = json!({ "name": "holder", "valueString": "HF-C" });
        assert_eq!(world.found(&world.asker, &[of_type, of_holder]).await, set(&["c-hr", "c-psy"]));
        let since = json!({ "name": "since", "valueInstant": "2099-01-01T00:00:00Z" });
        assert_eq!(world.found(&world.asker, &[since]).await, set(&[]));
        // A part of the consent withdrawn: a part of the records gone.
        let label = sensitivity("PSYTHPN");
        world.consent("k", "a", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": label }] })).await;
        assert_eq!(world.found(&world.asker, &[]).await, set(&["a", "a-hr", "c", "c-hr"]));
        // The facility's own are its own, whatever it asks for.
        assert_eq!(world.found(world.token("c"), &[]).await, set(&["c", "c-hr", "c-psy"]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_permit_for_what_refers_to_a_visit_counts_nothing_else(db: &TestDb) {
        let world = World::new(db).await;
        let reference = json!({ "reference": "Patient/a" });
        let class = json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" });
        let visit = json!({ "resourceType": "Encounter", "id": "e", "status": "finished", "class": class, "subject": reference });
        world.put(world.token("a"), &visit).await;
        let mut seen = observation("a-seen", "a", None);
        seen["encounter"] = json!({ "reference": "Encounter/e" });
        world.put(world.token("a"), &seen).await;
        let data = json!([{ "meaning": "dependents", "reference": { "reference": "Encounter/e" } }]);
        world.consent("k", "a", json!({ "type": "permit", "data": data })).await;
        assert_eq!(world.found(&world.asker, &[]).await, set(&["a-seen", "e"]));
        let told = outcome(&world.lookup(&world.asker, json!([by_number("19900101-1")])).await.1).to_string();
        assert!(told.contains("HF-A: 2 records.") && !told.contains("HF-C"), "{told}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn denied_unknown_and_empty_look_the_same(db: &TestDb) {
        let world = World::new(db).await;
        let holder = json!({ "name": "holder", "valueString": "HF-A" });
        let mut answers = BTreeSet::new();
        for sought in [
            by_number("19900101-1"),
            by_number("19700101-9"),
            by_number("nobody"),
            json!({ "name": "patient", "valueReference": { "reference": "Patient/a" } }),
            json!({ "name": "patient", "valueReference": { "reference": "Patient/never-was" } }),
            json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{}", world.golden) } }),
        ] {
            let (status, bundle) = world.lookup(&world.asker, json!([sought, holder])).await;
            assert_eq!(status, 200, "{bundle}");
            answers.insert(lasting(bundle).to_string());
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
        let unknown = world.lookup(&world.asker, json!([by_number("nobody"), { "name": "holder", "valueString": "HF-NEVER" }])).await.1;
        assert_eq!(lasting(unknown).to_string().replace("HF-NEVER", "HF-A"), answers.pop_first().unwrap(), "not even who is a holder");
        // What is hidden changes nothing of what is seen.
        world.consent("k", "z", json!({ "type": "permit" })).await;
        let ask = || world.lookup(&world.asker, json!([by_number("19700101-9")]));
        let before = lasting(ask().await.1);
        let mut hidden = observation("hidden", "z", Some("HIV"));
        hidden["meta"]["security"][0]["code"] = json!("HIV");
        let label = sensitivity("HIV");
        world.consent("k", "z", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": label }] })).await;
        world.put(world.token("a"), &hidden).await;
        assert_eq!(lasting(ask().await.1), before);
        world.server.stop().await;
    }
);

both_databases!(
    async fn by_the_name_of_a_hidden_patient_nobody_is_found(db: &TestDb) {
        let world = World::new(db).await;
        // A clinic's own number, of a Patient that the clinic closes to all.
        let mut hidden = patient("art", "19900101-1");
        hidden["identifier"].as_array_mut().unwrap().push(json!({ "system": "urn:art", "value": "77" }));
        hidden["meta"] = json!({ "security": sensitivity("HIV") });
        world.put(world.token("c"), &hidden).await;
        let mut known = patient("a", "19900101-1");
        known["identifier"].as_array_mut().unwrap().push(json!({ "system": "urn:mrn", "value": "5" }));
        world.put(world.token("a"), &known).await;
        let except = json!([{ "type": "deny", "securityLabel": sensitivity("HIV") }]);
        world.consent("k", "a", json!({ "type": "permit", "actor": to("Organization/hf-b"), "provision": except })).await;
        let by = |system: &str, value: &str| json!({ "name": "identifier", "valueIdentifier": { "system": system, "value": value } });
        let by_id = |id: &str| json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{id}") } });
        let answer = async |token: &str, by: Value| {
            let (status, bundle) = world.lookup(token, json!([by])).await;
            assert_eq!(status, 200, "{bundle}");
            lasting(bundle).to_string()
        };
        for token in [&world.asker, world.token("a")] {
            for (name, absent) in [(by("urn:art", "77"), by("urn:art", "78")), (by_id("art"), by_id("never-was"))] {
                assert_eq!(answer(token, name.clone()).await, answer(token, absent).await, "{name}");
            }
            for name in [by("urn:mrn", "5"), by_id("a"), by_number("19900101-1")] {
                assert!(answer(token, name.clone()).await.contains("\"a-hr\""), "{name}");
            }
        }
        assert!(answer(world.token("c"), by("urn:art", "77")).await.contains("\"art\""));
        // In the template's words.
        let asked = |id: &str| format!("/api/v1/hduApi/shr/sharedRecords?id={id}&idType=MRN&hfrCode=HF-C");
        let mut numbered = hidden.clone();
        numbered["identifier"][1]["system"] = json!("https://lango.health/id/facility/HF-C/mrn");
        world.put(world.token("c"), &numbered).await;
        for (client, patient) in [("a", "a"), ("c", "art")] {
            let visit = json!({
                "resourceType": "Encounter", "id": format!("visit-of-{patient}"), "status": "finished", "class": { "code": "AMB" },
                "subject": { "reference": format!("Patient/{patient}") }, "period": { "start": "2026-10-01" },
            });
            world.put(world.token(client), &visit).await;
        }
        let told = async |id: &str| world.get(world.token("a"), &asked(id)).await.1["pager"]["total"].clone();
        assert_eq!((told("77").await, told("78").await), (json!(0), json!(0)));
        let own = world.get(world.token("c"), &asked("77")).await.1;
        assert_ne!(own["pager"]["total"], json!(0), "{own}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_purpose_only_narrows_and_wrong_questions_are_told(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("k", "a", json!({ "type": "permit", "purpose": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT" }] })).await;
        let purpose = |code: &str| json!({ "name": "purpose", "valueCode": code });
        assert_eq!(world.found(&world.asker, &[purpose("TREAT")]).await.len(), 6);
        for code in ["ETREAT", "BTG", "HRESCH"] {
            let (status, refused) = world.lookup(&world.asker, json!([by_number("19900101-1"), purpose(code)])).await;
            assert_eq!(status, 403, "{refused}");
        }
        let without = signed_token(&world.server, "asker", &json!({})).await;
        let (status, _) = world.lookup(&without, json!([by_number("19900101-1"), purpose("TREAT")])).await;
        assert_eq!(status, 403);
        assert_eq!(world.found(&without, &[]).await, set(&[]));
        let (status, bundle) =
            world.send(&world.asker, "POST", "/fhir/Patient/$record-lookup", &json!({ "resourceType": "Patient" })).await;
        assert_eq!(status, 400, "{bundle}");
        for wrong in [
            json!([]),
            json!([by_number("1"), { "name": "patient", "valueReference": { "reference": "Patient/a" } }]),
            json!([{ "name": "identifier", "valueString": "19900101-1" }]),
            json!([{ "name": "patient", "valueReference": { "reference": "Observation/a-hr" } }]),
            json!([by_number("1"), { "name": "type", "valueCode": "Organization" }]),
            json!([by_number("1"), { "name": "since", "valueDate": "soon" }]),
            json!([by_number("1"), { "name": "everything", "valueBoolean": true }]),
        ] {
            let (status, refused) = world.lookup(&world.asker, wrong.clone()).await;
            assert_eq!((status, refused["resourceType"].as_str()), (400, Some("OperationOutcome")), "{wrong}: {refused}");
        }
        let path = format!("/fhir/Patient/$record-lookup?identifier={NIDA}%7C19900101-1");
        assert_eq!(world.get(&world.asker, &path).await.0, 405, "no identifier belongs into a URL");
        world.server.stop().await;
    }
);

both_databases!(
    async fn pages_are_stable_the_callers_alone_and_empty_after_a_withdrawal(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("k", "a", json!({ "type": "permit" })).await;
        let count = json!({ "name": "_count", "valueInteger": 2 });
        let (_, first) = world.lookup(&world.asker, json!([by_number("19900101-1"), count])).await;
        assert_eq!((first["total"].as_u64(), ids(&first).len()), (Some(6), 2));
        let next = |bundle: &Value| {
            let links = bundle["link"].as_array().unwrap();
            let next = links.iter().find(|link| link["relation"] == "next")?["url"].as_str()?;
            assert!(!next.contains("19900101"), "{next}");
            Some(next.strip_prefix(&world.server.base).unwrap().to_owned())
        };
        let mut seen = ids(&first);
        let second = next(&first).unwrap();
        // What comes meanwhile is on no page.
        world.put(world.token("a"), &observation("later", "a", None)).await;
        let mut page = second.clone();
        loop {
            let (status, bundle) = world.get(&world.asker, &page).await;
            assert_eq!(status, 200, "{bundle}");
            let more = ids(&bundle);
            assert!(seen.is_disjoint(&more), "{more:?}");
            seen.extend(more);
            match next(&bundle) {
                Some(url) => page = url,
                None => break,
            }
        }
        assert_eq!(seen, set(&["a", "a-hr", "a-psy", "c", "c-hr", "c-psy"]));
        assert_eq!(world.get(world.token("c"), &second).await.0, 400);
        assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/k", &Value::Null).await.0, 204);
        assert_eq!(ids(&world.get(&world.asker, &second).await.1), set(&[]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn lookups_are_bounded_for_each_client_and_each_person(db: &TestDb) {
        let world = World::with(db, |settings| (settings.limits.lookups_per_client, settings.limits.lookups_per_patient) = (4, 2)).await;
        let status = |token: &str, number: &str| {
            let (token, parameters) = (token.to_owned(), json!([by_number(number)]));
            let world = &world;
            async move { world.lookup(&token, parameters).await.0 }
        };
        assert_eq!([status(&world.asker, "1").await, status(&world.asker, "1").await, status(&world.asker, "1").await], [200, 200, 429]);
        assert_eq!([status(&world.asker, "2").await, status(&world.asker, "3").await], [200, 429]);
        // Nobody learns what others ask, or is kept from asking by it.
        assert_eq!([status(world.token("c"), "1").await, status(world.token("c"), "1").await], [200, 200]);
        assert_eq!([status(world.token("c"), "1").await, status(world.token("c"), "3").await], [429, 200]);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_golden_patient_is_made_of_the_sources_that_the_caller_may_see(db: &TestDb) {
        let world = World::new(db).await;
        let path = format!("/fhir/Patient/{}", world.golden);
        let ghost = world.get(&world.asker, "/fhir/Patient/never-was").await;
        for token in [&world.asker, world.token("a"), world.token("desk")] {
            assert_eq!(world.get(token, &path).await, ghost, "one source or none is nobody's link");
        }
        // A third source, and a consent that was given before it was linked.
        world.consent("k", "a", json!({ "type": "permit" })).await;
        world.put(world.token("a"), &patient("a2", "19900101-1")).await;
        let (status, golden) = world.get(&world.asker, &path).await;
        assert_eq!(status, 200, "{golden}");
        let links = golden["link"].to_string();
        assert!(links.contains("Patient/a\"") && links.contains("Patient/c\"") && !links.contains("Patient/a2"), "{golden}");
        assert!(golden["meta"]["versionId"].is_null(), "how often its links changed is nobody's business");
        for search in ["Patient?_tag=golden", "Patient?link=Patient/a", "Patient?_id=a&_revinclude=Patient:link"] {
            let (_, found) = world.get(&world.asker, &format!("/fhir/{search}")).await;
            assert!(!found.to_string().contains(&format!("/{}\"", world.golden)), "{search}: {found}");
        }
        assert_eq!(world.get(&world.asker, &format!("{path}/_history")).await.0, 404);
        // It stands for its sources, under the gate.
        let (_, found) = world.get(&world.asker, &format!("/fhir/Observation?patient=Patient/{}", world.golden)).await;
        assert_eq!(ids(&found), set(&["a-hr", "a-psy", "c-hr", "c-psy"]));
        let (_, found) = world.get(world.token("c"), &format!("/fhir/Observation?subject=Patient/{}", world.golden)).await;
        assert_eq!(ids(&found), set(&["c-hr", "c-psy"]));
        // What a facility sends under the registry's tag links nobody.
        let mut forged = patient("forged", "19850101-5");
        forged["meta"] = json!({ "tag": [{ "system": "https://lango.health/fhir/CodeSystem/registry", "code": "golden" }] });
        forged["link"] = json!([{ "other": { "reference": "Patient/z" }, "type": "seealso" }]);
        world.put(world.token("c"), &forged).await;
        let (_, found) = world.lookup(world.token("c"), json!([by_number("19850101-5")])).await;
        assert_eq!(ids(&found), set(&["forged"]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn shared_records_are_the_same_under_the_same_gate_in_the_templates_words(db: &TestDb) {
        const SHARED: &str = "/api/v1/hduApi/shr/sharedRecords";
        let world = World::new(db).await;
        let mut record = record_with_nida("M-7", "V-1", "19940322-7");
        record["clinicalInformation"] =
            json!({ "vitalSigns": [{ "dateTime": "2026-09-07T09:00:00Z", "bloodPressure": "118/76", "weight": 61.5 }] });
        let mut later = record.clone();
        later["visitDetails"] = json!({ "id": "V-2", "visitDate": "2026-10-01", "visitType": "OPD" });
        for (client, facility, records) in
            [("a", "HF-A", vec![record.clone(), later]), ("c", "HF-C", vec![record_with_nida("M-8", "V-9", "19940322-7")])]
        {
            let (status, reply) = world.send(world.token(client), "POST", DOOR, &payload(facility, records)).await;
            assert_eq!(status, 200, "{reply}");
        }
        let asked = format!("{SHARED}?id=19940322-7&idType=NIDA");
        let visits = |answer: &Value| -> BTreeSet<String> {
            let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
            results.iter().map(|record| record["visitDetails"]["id"].as_str().unwrap().to_owned()).collect()
        };
        // Own only, without a consent; the latest visit, unless more are asked for.
        let (_, own) = world.get(world.token("a"), &asked).await;
        assert_eq!((visits(&own), &own["pager"]["total"]), (set(&["V-2"]), &json!(1)));
        let (_, own) = world.get(world.token("a"), &format!("{asked}&numberOfVisits=5")).await;
        assert_eq!(visits(&own), set(&["V-1", "V-2"]));
        let first = own["results"].as_array().unwrap().iter().find(|one| one["visitDetails"]["id"] == "V-1").unwrap();
        assert_eq!((&first["mrn"], &first["facilityDetails"]["code"]), (&json!("M-7"), &json!("HF-A")));
        for block in ["demographicDetails", "diagnosisDetails", "outcomeDetails", "visitDetails"] {
            for (key, value) in record[block].as_object().into_iter().chain(record[block][0].as_object()).flatten() {
                let told = if first[block].is_array() { &first[block][0][key] } else { &first[block][key] };
                let (told, value) = (told.to_string().to_lowercase(), value.to_string().to_lowercase());
                assert!(["mrn", "identifiers"].contains(&key.as_str()) || told.contains(value.trim_matches('"')), "{block}.{key}: {first}");
            }
        }
        let vital = &first["clinicalInformation"]["vitalSigns"][0];
        assert_eq!((&vital["bloodPressure"], &vital["weight"]), (&json!("118/76"), &json!(61.5)), "{first}");
        // Nothing of others without a consent; the same as nobody. Everything that it allows with one.
        let nobody = world.get(&world.asker, &format!("{SHARED}?id=nobody&idType=NIDA")).await;
        assert_eq!(world.get(&world.asker, &asked).await, nobody);
        assert_eq!(world.get(&world.asker, &format!("{SHARED}?lastName=Massawe")).await, nobody);
        let (_, found) = world.get(world.token("a"), "/fhir/Patient?identifier=M-7").await;
        let patient = found["entry"][0]["resource"]["id"].as_str().unwrap();
        let except = json!({ "type": "deny", "class": [{ "system": "http://hl7.org/fhir/resource-types", "code": "Condition" }] });
        world.consent("k", patient, json!({ "type": "permit", "provision": [except] })).await;
        let (_, shared) = world.get(&world.asker, &asked).await;
        assert_eq!((visits(&shared), &shared["pager"]["total"]), (set(&["V-2", "V-9"]), &json!(2)));
        assert!(!shared.to_string().contains("B54"), "what the consent keeps back is in no block: {shared}");
        assert_eq!(visits(&world.get(&world.asker, &format!("{asked}&hfrCode=HF-C")).await.1), set(&["V-9"]));
        assert_eq!(
            visits(&world.get(&world.asker, &format!("{SHARED}?lastName=massawe&dateOfBirth=1994-03-22")).await.1),
            set(&["V-2", "V-9"])
        );
        assert_eq!(world.get(&world.asker, &format!("{SHARED}?referralNumber=7")).await.0, 400);
        assert_eq!(world.get(&world.asker, &format!("{SHARED}?idNumber=19940322-7")).await.0, 400, "not everybody's records");
        // Who has no visit has no record, and fills no page.
        let mut without = crate::lookup::patient("without", "19940322-7");
        without["name"] = json!([{ "family": "Massawe" }]);
        world.put(world.token("a"), &without).await;
        for search in [&asked, &format!("{SHARED}?lastName=massawe")] {
            assert_eq!(world.get(world.token("a"), search).await.1["pager"]["total"], json!(1), "{search}");
        }
        // HTTP Basic signs no purpose.
        let secret = add_client(db, "basic", "HF-B", "system/*.cruds").await;
        let basic = answer(world.server.client.get(world.server.url(&asked)).basic_auth("basic", Some(secret))).await;
        assert_eq!(basic, nobody);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_lacks_a_consent_asks_for_it_and_is_told_what_became_of_it(db: &TestDb) {
        let world = World::new(db).await;
        let proposed = |patient: &str, code: &str| {
            let actor = json!([{
                "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
                "reference": { "identifier": { "system": "urn:lango:facility", "value": code } } }]);
            let mut consent = consent("x", patient, json!({ "type": "permit", "actor": actor }));
            consent["status"] = json!("proposed");
            consent.as_object_mut().unwrap().remove("id");
            consent
        };
        // Only proposed, only for itself, and without a way to mean more.
        let mut wrong = vec![proposed("a", "HF-A"), proposed("a", "HF-B"), proposed("a", "HF-B"), proposed("a", "HF-B")];
        wrong[1]["status"] = json!("active");
        wrong[2]["provision"]["provision"] = json!([{ "type": "permit" }]);
        wrong[3]["provision"].as_object_mut().unwrap().remove("actor");
        for consent in &wrong {
            assert_eq!(world.send(&world.asker, "POST", "/fhir/Consent", consent).await.0, 403, "{consent}");
        }
        let (status, mut asked) = world.send(&world.asker, "POST", "/fhir/Consent", &proposed("a", "HF-B")).await;
        assert_eq!(status, 201, "{asked}");
        assert_eq!(world.send(&world.asker, "POST", "/fhir/Consent", &proposed("never-was", "HF-B")).await.0, 201, "whoever it is");
        let about = format!("Consent/{}", asked["id"].as_str().unwrap());
        let task = async |token: &str| -> Option<Value> {
            let (_, found) = world.get(token, &format!("/fhir/Task?focus={about}")).await;
            found["entry"][0]["resource"].as_object().map(|task| Value::Object(task.clone()))
        };
        let comes_to = async |token: &str, state: &str| {
            eventually(state, async || match task(token).await {
                Some(task) if task["businessStatus"]["coding"][0]["code"] == state => Ok(()),
                other => Err(other),
            })
            .await;
        };
        comes_to(&world.asker, "asked").await;
        comes_to(&world.desk, "asked").await;
        let (_, waiting) = world.get(&world.desk, "/fhir/Consent?status=proposed").await;
        assert_eq!(ids(&waiting).len(), 2, "{waiting}");
        for token in [world.token("a"), world.token("c")] {
            assert_eq!(task(token).await, None, "nobody else's business");
            assert_eq!(ids(&world.get(token, "/fhir/Consent").await.1), set(&[]));
        }
        let observations = [json!({ "name": "type", "valueCode": "Observation" })];
        assert_eq!(world.found(&world.asker, &observations).await, set(&[]), "asking opens nothing");
        let path = format!("/fhir/{about}");
        asked["status"] = json!("active");
        assert!(matches!(world.send(&world.asker, "PUT", &path, &asked).await.0, 403 | 404 | 409), "nobody answers their own request");
        assert_eq!(world.found(&world.asker, &observations).await, set(&[]));
        // Granted, expired, withdrawn.
        world.put(&world.desk, &asked).await;
        comes_to(&world.asker, "granted").await;
        assert_eq!(world.found(&world.asker, &observations).await, set(&["a-hr", "a-psy", "c-hr", "c-psy"]));
        asked["provision"]["period"] = json!({ "end": "2026-01-31" });
        world.put(&world.desk, &asked).await;
        comes_to(&world.asker, "expired").await;
        assert_eq!(world.found(&world.asker, &observations).await, set(&[]));
        asked["status"] = json!("inactive");
        world.put(&world.desk, &asked).await;
        comes_to(&world.asker, "withdrawn").await;
        comes_to(&world.desk, "withdrawn").await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_asks_as_a_lango_does_is_not_told_what_anothers_visit_is(db: &TestDb) {
        let world = World::new(db).await;
        let visit = |id: &str, patient: &str| {
            json!({ "resourceType": "Encounter", "id": id, "status": "finished", "class": { "code": "AMB" }, "meta": { "security": sensitivity("PSY") },
                "subject": { "reference": format!("Patient/{patient}") } })
        };
        world.put(world.token("a"), &visit("hidden", "a")).await;
        world.put(&world.asker, &patient("own", "19800101-5")).await;
        world.put(&world.asker, &visit("known", "own")).await;
        for (id, named) in [("of-hidden", "hidden"), ("of-none", "never-was"), ("of-known", "known")] {
            let mut observation = observation(id, "own", None);
            observation["encounter"] = json!({ "reference": format!("Encounter/{named}") });
            world.put(&world.asker, &observation).await;
        }
        let request = world.server.client.post(world.server.url("/fhir/Patient/own/$record-lookup")).bearer_auth(&world.asker);
        let body = json!({ "resourceType": "Parameters" }).to_string();
        let request = request.header("via", "1.1 lango-lookup").header("content-type", "application/fhir+json").body(body);
        let (status, bundle) = answer(request).await;
        assert_eq!(status, 200, "{bundle}");
        let labels = |id: &str| {
            let entry = bundle["entry"].as_array().unwrap().iter().find(|entry| entry["resource"]["id"] == id).unwrap();
            entry["resource"]["meta"]["security"].clone()
        };
        assert_eq!((labels("of-hidden"), labels("of-none")), (Value::Null, Value::Null));
        assert!(labels("of-known").to_string().contains("\"PSY\""), "its own visit tells a holder's asker what came in it");
        world.server.stop().await;
    }
);
