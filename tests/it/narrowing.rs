//! What is left out, written another way, edited or made up opens nothing: what cannot be told stays closed where a patient permits, and counts where
//! they deny.

use crate::consent::World;
use crate::support::both_databases;
use crate::support::guarded::{Guarded, consent, observation, organization, purpose, set, to};
use crate::support::smart::signed_token;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NIDA: &str = "https://lango.health/id/nida";

/// The actors of a rule about this one as the recipient.
fn whom(reference: Value) -> Value {
    let mut actors = to("x");
    actors[0]["reference"] = reference;
    actors
}

fn identifier(system: &str, value: &str) -> Value {
    json!({ "identifier": { "system": system, "value": value } })
}

async fn seen(world: &World) -> BTreeSet<String> {
    world.ids(&world.asker, "/fhir/Observation").await
}

both_databases!(
    async fn a_deny_binds_whatever_it_calls_the_asker_and_whatever_the_asker_leaves_out(db: &TestDb) {
        let world = World::new(db).await;
        let mut facility = organization("hf-b", "HF-B", Some("district"));
        facility["identifier"].as_array_mut().unwrap().push(json!({ "system": "urn:mfl", "value": "88" }));
        world.put(&world.registry, &facility).await;
        let mut other = organization("hf-x", "HF-X", None);
        other["identifier"].as_array_mut().unwrap().push(json!({ "system": "urn:mfl", "value": "99" }));
        world.put(&world.registry, &other).await;
        let numbers = json!([{ "system": "urn:lango:practitioner", "value": "MCT-1" }, { "system": "urn:npi", "value": "9" }]);
        world.put(&world.registry, &json!({ "resourceType": "Practitioner", "id": "doctor", "identifier": numbers })).await;
        let doctor = signed_token(&world.server, "asker", &json!({ "purpose_of_use": "TREAT", "subject_id": "MCT-1" })).await;
        let clerk =
            signed_token(&world.server, "asker", &json!({ "purpose_of_use": "TREAT", "subject_id": "MCT-2", "subject_role": "facility" }))
                .await;
        let all = set(&["a-hr", "a-hiv"]);
        let mut role = to("Organization/hf-b");
        role[0]["role"] = json!({ "coding": [{ "system": "https://lango.health/fhir/CodeSystem/role", "code": "clinician" }] });
        let instance = json!([{ "meaning": "instance", "reference": identifier("urn:o", "1") }]);
        for (name, token, deny, expected) in [
            ("another of its identifiers", &world.asker, json!({ "actor": whom(identifier("urn:mfl", "88")) }), &set(&[])),
            ("another's identifier", &doctor, json!({ "actor": whom(identifier("urn:mfl", "99")) }), &all),
            ("an identifier of whom nobody knows", &doctor, json!({ "actor": whom(identifier("urn:mfl", "77")) }), &set(&[])),
            ("another of the practitioner's", &doctor, json!({ "actor": whom(identifier("urn:npi", "9")) }), &set(&[])),
            ("the practitioner", &doctor, json!({ "actor": to("Practitioner/doctor") }), &set(&[])),
            ("the practitioner, and another asks", &clerk, json!({ "actor": to("Practitioner/doctor") }), &all),
            ("the practitioner, and nobody says who asks", &world.asker, json!({ "actor": to("Practitioner/doctor") }), &set(&[])),
            ("a role that was not claimed", &clerk, json!({ "actor": role }), &set(&[])),
            ("a resource by its identifier", &doctor, json!({ "data": instance }), &set(&[])),
        ] {
            let mut deny = deny;
            deny["type"] = json!("deny");
            world.consent("c", json!({ "type": "permit", "provision": [deny] })).await;
            assert_eq!(world.ids(token, "/fhir/Observation").await, *expected, "{name}");
        }
    }
);

both_databases!(
    async fn a_newer_consent_replaces_the_older_however_the_two_are_written(db: &TestDb) {
        let world = World::new(db).await;
        let narrow = json!({ "type": "permit", "code": [{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }] });
        let by_id = json!({ "reference": "Organization/hf-b" });
        let by_code = identifier("urn:lango:facility", "HF-B");
        let both = json!({ "reference": "Organization/hf-b", "identifier": by_code["identifier"] });
        let put = async |id: &str, organization: &Value, date: &str, provision: &Value| {
            let mut body = consent(id, "a", provision.clone());
            body["organization"] = json!([organization]);
            body["dateTime"] = json!(date);
            world.put(&world.desk, &body).await;
        };
        for (round, (first, second, dates)) in [
            (&by_id, &by_code, ["2026-01-01", "2026-02-01"]),
            (&by_code, &by_id, ["2026-01-01", "2026-02-01"]),
            (&by_id, &both, ["2026-01-01", "2026-02-01"]),
            // Which is newer the dates do not tell: it is what comes later.
            (&by_id, &by_id, ["2026-01-15", "2026-01"]),
            (&by_id, &by_id, ["2026-01", "2026-01-15"]),
        ]
        .into_iter()
        .enumerate()
        {
            let (broad_id, narrow_id) = (format!("b{round}"), format!("n{round}"));
            put(&broad_id, first, dates[0], &json!({ "type": "permit" })).await;
            assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "round {round}");
            put(&narrow_id, second, dates[1], &narrow).await;
            assert_eq!(seen(&world).await, set(&["a-hr"]), "round {round}");
            for id in [broad_id, narrow_id] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}"), &Value::Null).await.0, 204);
            }
        }
    }
);

both_databases!(
    async fn nobody_opens_what_is_anothers_by_referring_to_it(db: &TestDb) {
        let world = World::new(db).await;
        let mine = |members: &[&str]| {
            let mut mine = observation("mine", "a", "8867-4", "2026-03-05", None);
            mine.as_object_mut().unwrap().remove("encounter");
            let members: Vec<Value> = members.iter().map(|id| json!({ "reference": format!("Observation/{id}") })).collect();
            if !members.is_empty() {
                mine["hasMember"] = json!(members);
            }
            mine
        };
        let related = json!({ "type": "permit", "actor": to("Organization/hf-b"),
            "data": [{ "meaning": "related", "reference": { "reference": "Observation/mine" } }] });
        world.put(&world.asker, &mine(&[])).await;
        world.consent("c", related.clone()).await;
        assert_eq!(seen(&world).await, set(&["mine"]));
        world.put(&world.asker, &mine(&["a-hr", "a-hiv", "b-hr"])).await;
        assert_eq!(seen(&world).await, set(&["mine"]), "after the Consent");
        world
            .put(&world.desk, &{
                let mut again = consent("c", "a", related);
                again["dateTime"] = json!("2026-01-02");
                again
            })
            .await;
        assert_eq!(seen(&world).await, set(&["mine"]), "and before it");
    }
);

both_databases!(
    async fn who_is_contradicted_by_name_sex_or_birth_is_not_covered(db: &TestDb) {
        let world = World::new(db).await;
        let person = |id: &str, family: &str, sex: &str, born: &str| {
            json!({ "resourceType": "Patient", "id": id, "name": [{ "family": family }], "gender": sex, "birthDate": born,
                "identifier": [{ "system": NIDA, "value": "19900101-1" }] })
        };
        world.put(&world.holder, &person("a", "Mushi", "female", "1990-01-01")).await;
        world.put(&world.asker, &person("bait", "Stooge", "male", "1950-05-05")).await;
        world.put(&world.desk, &consent("c", "bait", json!({ "type": "permit" }))).await;
        assert_eq!(seen(&world).await, set(&[]));
        assert_eq!(world.get(&world.asker, "/fhir/Patient/a").await.0, 404);
        // One who says the same is the same.
        world.put(&world.asker, &person("bait", "Mushi", "female", "1990")).await;
        world.put(&world.desk, &consent("c", "bait", json!({ "type": "permit", "purpose": purpose("TREAT") }))).await;
        assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]));
    }
);

both_databases!(
    async fn what_a_guardian_permits_ends_by_what_is_known_of_the_birth(db: &TestDb) {
        let world = World::new(db).await;
        let born = |date: Option<&str>| {
            let mut patient = json!({ "resourceType": "Patient", "id": "a", "name": [{ "family": "Mushi" }] });
            if let Some(date) = date {
                patient["birthDate"] = json!(date);
            }
            patient
        };
        let given = async |date: &str| {
            let mut body = consent("c", "a", json!({ "type": "permit" }));
            body["performer"] = json!([{ "reference": "RelatedPerson/mother" }]);
            body["dateTime"] = json!(date);
            world.put(&world.desk, &body).await;
        };
        let all = set(&["a-hr", "a-hiv"]);
        given("2026-01-01").await;
        assert_eq!(seen(&world).await, set(&[]), "whether she is a minor nobody knows");
        world.put(&world.holder, &born(Some("2020-01-01"))).await;
        given("2026-01-02").await;
        assert_eq!(seen(&world).await, all);
        world.put(&world.holder, &born(Some("2000-01-01"))).await;
        assert_eq!(seen(&world).await, set(&[]), "she was of age");
        world.put(&world.holder, &born(Some("2020-01-01"))).await;
        assert_eq!(seen(&world).await, set(&[]), "nobody makes a permit longer by editing a Patient");
        given("2026-01-03").await;
        assert_eq!(seen(&world).await, all);
        world.put(&world.holder, &born(None)).await;
        assert_eq!(seen(&world).await, set(&[]));
    }
);

both_databases!(
    async fn what_names_a_patient_by_a_number_is_its_contributors_alone(db: &TestDb) {
        let world = World::new(db).await;
        let named = identifier(NIDA, "19900101-1");
        let typed = json!({ "type": "Patient", "identifier": named["identifier"], "display": "Asha" });
        let uri = json!({ "type": "http://hl7.org/fhir/StructureDefinition/Patient", "display": "Asha" });
        let other = json!({ "type": "RelatedPerson", "identifier": { "system": "urn:r", "value": "1" } });
        let person = json!({ "type": "Person", "identifier": { "system": "urn:lango:practitioner", "value": "1" } });
        let elsewhere = json!({ "reference": "https://other.example.org/fhir/Patient/7", "display": "Asha" });
        let version = json!({ "reference": "https://other.example.org/fhir/RelatedPerson/7/_history/1" });
        let mother = json!({ "reference": "RelatedPerson/mother" });
        let said = json!({ "reference": "urn:uuid:11111111-1111-4111-8111-111111111112", "type": "Patient" });
        for (round, reference) in [typed, uri, named, other, person, elsewhere, version, mother, said].into_iter().enumerate() {
            let extension = json!([{ "url": "urn:x", "valueReference": reference }]);
            for type_name in ["Location", "Medication"] {
                let id = format!("x{round}");
                world.put(&world.holder, &json!({ "resourceType": type_name, "id": id, "extension": extension })).await;
                assert_eq!(world.get(&world.asker, &format!("/fhir/{type_name}/{id}")).await.0, 404, "{extension}");
                assert_eq!(world.get(&world.holder, &format!("/fhir/{type_name}/{id}")).await.0, 200, "{extension}");
            }
        }
        world
            .put(&world.holder, &json!({ "resourceType": "Location", "id": "ward", "managingOrganization": identifier("urn:mfl", "88") }))
            .await;
        assert_eq!(world.get(&world.asker, "/fhir/Location/ward").await.0, 200, "an organisation is no patient");
        let (facility, practitioner) = (identifier("urn:lango:facility", "HF-A"), identifier("urn:lango:practitioner", "D1"));
        for (type_name, reference) in [("Practitioner", &facility), ("Location", &practitioner)] {
            let body = json!({ "resourceType": type_name, "id": "staff", "extension": [{ "url": "urn:x", "valueReference": reference }] });
            world.put(&world.holder, &body).await;
            assert_eq!(world.get(&world.asker, &format!("/fhir/{type_name}/staff")).await.0, 200, "{body}");
        }
        let related = json!({ "type": "RelatedPerson", "identifier": { "system": "urn:r", "value": "1" } });
        let practitioner_by_id = json!({ "reference": "Practitioner/d" });
        for (id, actors, status) in [
            ("d", json!([practitioner_by_id, { "reference": "Location/ward" }]), 200),
            ("i", json!([practitioner]), 200),
            ("t", json!([{ "type": "HealthcareService", "identifier": { "system": "urn:s", "value": "1" } }]), 200),
            ("p", json!([practitioner_by_id, { "reference": "Patient/b" }]), 404),
            ("r", json!([practitioner_by_id, related]), 404),
            ("v", json!([{ "reference": "Device/v" }]), 404),
            ("u", json!([identifier("urn:mrn", "7")]), 404),
            ("e", json!([{ "reference": "https://other.example.org/fhir/Practitioner/7" }]), 404),
        ] {
            world.put(&world.holder, &json!({ "resourceType": "Schedule", "id": id, "actor": actors })).await;
            assert_eq!(world.get(&world.asker, &format!("/fhir/Schedule/{id}")).await.0, status, "{actors}");
        }
        // Where something comes from belongs to the patient whom it is about, as far as that is told.
        world.consent("c", json!({ "type": "permit" })).await;
        let (a, b) = (json!({ "reference": "Patient/a" }), json!({ "reference": "Patient/b" }));
        for (id, targets, status) in [
            ("one", json!([a]), 200),
            ("other", json!([b]), 404),
            ("both", json!([a, b]), 404),
            ("of", json!([a, { "reference": "Observation/a-hr" }]), 404),
            ("by-number", json!([a, { "type": "Patient", "identifier": { "system": "urn:mrn", "value": "7" } }]), 404),
        ] {
            let trace = json!({ "resourceType": "Provenance", "id": id, "target": targets, "recorded": "2026-01-01T00:00:00Z", "agent": [{ "who": { "display": "x" } }] });
            world.put(&world.holder, &trace).await;
            assert_eq!(world.get(&world.asker, &format!("/fhir/Provenance/{id}")).await.0, status, "{targets}");
        }
    }
);
