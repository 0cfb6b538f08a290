//! What is left out, written another way, edited or made up opens nothing: what cannot be told stays closed where a patient permits, and counts where
//! they deny.

use crate::consent::World;
use crate::support::guarded::{Guarded, consent, observation, organization, purpose, set, to};
use crate::support::smart::signed_token;
use crate::support::{TestServer, both_databases, until};
use lango::fhir::Interval;
use lango::store::gate::{About, Precedence, Rule, Rules, Succession, Traits};
use lango::store::write::Change;
use lango::store::{Mutation, Store, Unit};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
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
            ("its code, written otherwise", &world.asker, json!({ "actor": whom(identifier("urn:lango:facility", " hf-b")) }), &set(&[])),
            ("another's code", &doctor, json!({ "actor": whom(identifier("urn:lango:facility", "HF-X ")) }), &all),
            ("a code that nobody has", &doctor, json!({ "actor": whom(identifier("urn:lango:facility", "HF-NOBODY")) }), &set(&[])),
            ("a number, written otherwise", &doctor, json!({ "actor": whom(identifier("urn:lango:practitioner", "mct-1 ")) }), &set(&[])),
            ("another's number", &clerk, json!({ "actor": whom(identifier("urn:lango:practitioner", "MCT-1")) }), &all),
            ("a number that nobody has", &clerk, json!({ "actor": whom(identifier("urn:lango:practitioner", "MCT-9")) }), &set(&[])),
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
            // What was deleted keeps its place: each round is under its own policy.
            body["policy"] = json!([{ "uri": format!("urn:policy:{}", &id[1..]) }]);
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

/// A Consent of the one series that these tests are about.
fn of_series(id: &str, date: Option<&str>, provision: &Value) -> Value {
    let mut body = consent(id, "a", provision.clone());
    body["organization"] = json!([{ "reference": "Organization/hf-b" }]);
    body["policy"] = json!([{ "uri": "urn:policy:series" }]);
    match date {
        Some(date) => body["dateTime"] = json!(date),
        None => _ = body.as_object_mut().unwrap().remove("dateTime"),
    }
    body
}

fn heart_rate_only() -> Value {
    json!({ "type": "permit", "code": [{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }] })
}

both_databases!(
    async fn what_was_replaced_stays_replaced_however_the_newer_one_ends(db: &TestDb) {
        let world = World::new(db).await;
        let narrow = of_series("narrow", Some("2026-02-01"), &heart_rate_only());
        let ended = |key: &str, value: Value| {
            let mut body = narrow.clone();
            body[key] = value;
            body
        };
        world.put(&world.desk, &of_series("wide", Some("2026-01-01"), &json!({ "type": "permit" }))).await;
        assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]));
        for (body, expected) in [
            (narrow.clone(), set(&["a-hr"])),
            (ended("status", json!("rejected")), set(&[])),
            (ended("status", json!("draft")), set(&[])),
            (ended("status", json!("inactive")), set(&[])),
            (ended("verification", json!([{ "verified": false }])), set(&[])),
            (ended("policy", json!([{ "uri": "urn:policy:other" }])), set(&["a-hr"])),
            (ended("patient", json!({ "reference": "Patient/b" })), set(&["b-hr"])),
            (narrow.clone(), set(&["a-hr"])),
        ] {
            world.put(&world.desk, &body).await;
            assert_eq!(seen(&world).await, expected, "{body}");
        }
        assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/narrow", &Value::Null).await.0, 204);
        assert_eq!(seen(&world).await, set(&[]), "deleted");
        world.put(&world.desk, &ended("status", json!("entered-in-error"))).await;
        assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "a mistake never replaced anything");
    }
);

both_databases!(
    async fn touching_what_was_replaced_does_not_put_it_back(db: &TestDb) {
        let world = World::new(db).await;
        let tag = json!({ "resourceType": "Parameters", "parameter": [{ "name": "meta", "valueMeta": { "tag": [{ "system": "urn:t", "code": "x" }] } }] });
        for (round, (first, second)) in [
            (Some("2026-01"), Some("2026-01-15")),
            (Some("2026"), Some("2026-06-15")),
            (Some("2026-01-15"), Some("2026-01-15")),
            (None, None),
        ]
        .into_iter()
        .enumerate()
        {
            let (wide_id, narrow_id) = (format!("w{round}"), format!("n{round}"));
            let under = |mut body: Value| {
                body["policy"] = json!([{ "uri": format!("urn:policy:{round}") }]);
                body
            };
            let wide = under(of_series(&wide_id, first, &json!({ "type": "permit" })));
            world.put(&world.desk, &wide).await;
            world.put(&world.desk, &under(of_series(&narrow_id, second, &heart_rate_only()))).await;
            assert_eq!(seen(&world).await, set(&["a-hr"]), "round {round}");
            let path = format!("/fhir/Consent/{wide_id}/$meta-add");
            assert_eq!(world.send(&world.desk, "POST", &path, &tag).await.0, 200);
            assert_eq!(seen(&world).await, set(&["a-hr"]), "a tag, round {round}");
            for (key, value) in [("language", "en"), ("status", "inactive"), ("status", "active")] {
                let mut touched = wide.clone();
                touched[key] = json!(value);
                world.put(&world.desk, &touched).await;
                assert_eq!(seen(&world).await, set(&["a-hr"]), "{key} {value}, round {round}");
            }
            // Given anew, it says so.
            let mut renewed = wide.clone();
            renewed["dateTime"] = json!("2026-11-01");
            world.put(&world.desk, &renewed).await;
            let expected = if second.is_some() { set(&["a-hr", "a-hiv"]) } else { set(&["a-hr"]) };
            assert_eq!(seen(&world).await, expected, "renewed, round {round}");
            for id in [wide_id, narrow_id] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}"), &Value::Null).await.0, 204);
            }
        }
        // A newer denial is not lost with the older permit.
        world.consent("other", json!({ "type": "permit" })).await;
        world.put(&world.desk, &of_series("old", Some("2026-01"), &json!({ "type": "permit" }))).await;
        world.put(&world.desk, &of_series("new", Some("2026-01-15"), &json!({ "type": "deny" }))).await;
        let mut ended = of_series("old", Some("2026-01"), &json!({ "type": "permit" }));
        ended["status"] = json!("inactive");
        world.put(&world.desk, &ended).await;
        assert_eq!(seen(&world).await, set(&[]));
    }
);

both_databases!(
    async fn an_organisation_that_gets_its_code_in_between_is_the_same(db: &TestDb) {
        let world = World::new(db).await;
        let by_code = identifier("urn:lango:facility", "FX");
        let literal = json!({ "reference": "Organization/fx" });
        let bare = json!({ "resourceType": "Organization", "id": "fx" });
        for (round, (known, first, second)) in
            [(true, &literal, &literal), (true, &literal, &by_code), (false, &literal, &literal), (false, &literal, &by_code)]
                .into_iter()
                .enumerate()
        {
            let put = async |id: String, organization: &Value, date: &str, provision: &Value| {
                let mut body = of_series(&id, Some(date), provision);
                body["organization"] = json!([organization]);
                body["policy"] = json!([{ "uri": format!("urn:policy:{round}") }]);
                world.put(&world.desk, &body).await;
            };
            match known {
                true => world.put(&world.registry, &bare).await,
                false => assert_eq!(world.send(&world.registry, "DELETE", "/fhir/Organization/fx", &Value::Null).await.0, 204),
            }
            put(format!("w{round}"), first, "2026-01-01", &json!({ "type": "permit" })).await;
            assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "round {round}");
            world.put(&world.registry, &organization("fx", "FX", None)).await;
            put(format!("n{round}"), second, "2026-02-01", &heart_rate_only()).await;
            assert_eq!(seen(&world).await, set(&["a-hr"]), "round {round}");
            for id in ["w", "n"] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}{round}"), &Value::Null).await.0, 204);
            }
        }
    }
);

both_databases!(
    async fn of_several_organisations_or_policies_one_in_common_narrows(db: &TestDb) {
        let world = World::new(db).await;
        world.put(&world.registry, &organization("hf-y", "HF-Y", None)).await;
        let (one, other) = (json!({ "reference": "Organization/hf-b" }), json!({ "reference": "Organization/hf-y" }));
        let (here, there) = (json!({ "uri": "urn:policy:series" }), json!({ "uri": "urn:policy:other" }));
        let permit = json!({ "type": "permit" });
        let put = async |id: &str, date: &str, provision: &Value, (key, value): (&str, Value)| {
            let mut body = of_series(id, Some(date), provision);
            body[key] = value;
            world.put(&world.desk, &body).await;
        };
        for (key, both, alone) in [("organization", json!([one, other]), json!([one])), ("policy", json!([there, here]), json!([here]))] {
            put("older", "2026-01-01", &permit, (key, both.clone())).await;
            assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "{key}");
            put("newer", "2026-02-01", &heart_rate_only(), (key, alone.clone())).await;
            assert_eq!(seen(&world).await, set(&["a-hr"]), "{key}: what the older permitted is gone");
            put("older", "2026-01-01", &json!({ "type": "deny" }), (key, both.clone())).await;
            put("newer", "2026-02-01", &permit, (key, alone.clone())).await;
            assert_eq!(seen(&world).await, set(&[]), "{key}: what the older denied stays");
            put("newer", "2026-02-01", &permit, (key, both.clone())).await;
            assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "{key}: the newer is under all of the older's");
        }
    }
);

both_databases!(
    async fn a_permit_reaches_a_linked_patient_of_whom_the_same_is_said(db: &TestDb) {
        let world = World::new(db).await;
        let strong = json!([{ "system": NIDA, "value": "19900101-1" }]);
        let asha = json!({ "resourceType": "Patient", "id": "a", "gender": "female", "birthDate": "1990-01-01",
            "name": [{ "family": "Mushi", "given": ["Asha"] }], "identifier": strong });
        world.put(&world.holder, &asha).await;
        let all = set(&["a-hr", "a-hiv"]);
        for (says, expected) in [
            (json!({}), set(&[])),
            (json!({ "gender": "male", "birthDate": "1950-05-05", "name": [{ "family": "Stooge" }] }), set(&[])),
            // What contradicted and is emptied tells nothing.
            (json!({ "gender": "female" }), set(&[])),
            (json!({ "gender": "female", "birthDate": "1990", "name": [{ "text": "Asha Juma" }] }), set(&[])),
            (json!({ "gender": "female", "name": [{ "family": "Stooge" }, { "text": "Asha Mushi Juma Ali John Mary" }] }), set(&[])),
            // Nor do guesses.
            (
                json!({ "gender": "female", "name": [{ "text": "Neema" }, { "text": "Asha" }, { "family": "Juma", "text": "Mary" }] }),
                set(&[]),
            ),
            (json!({ "gender": "female", "name": [{ "text": "Mushi Asha" }] }), all.clone()),
            (json!({ "birthDate": "1990", "name": [{ "family": "MUSHI" }] }), all.clone()),
            (json!({ "birthDate": "1990-01-01" }), all),
        ] {
            let mut bait = says.clone();
            (bait["resourceType"], bait["id"], bait["identifier"]) = (json!("Patient"), json!("bait"), strong.clone());
            world.put(&world.asker, &bait).await;
            world.put(&world.desk, &consent("c", "bait", json!({ "type": "permit", "actor": to("Organization/hf-b") }))).await;
            assert_eq!(seen(&world).await, expected, "{says}");
            assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/c", &Value::Null).await.0, 204);
        }
    }
);

both_databases!(
    async fn a_denial_reaches_every_linked_patient(db: &TestDb) {
        let world = World::new(db).await;
        let clinician =
            |reason: &str| json!({ "purpose_of_use": reason, "purpose_of_use_reason": "unconscious patient", "subject_id": "MCT-1" });
        let of = |id: &str, number: usize, says: &Value| {
            let mut patient = says.clone();
            (patient["resourceType"], patient["id"]) = (json!("Patient"), json!(id));
            patient["identifier"] = json!([{ "system": NIDA, "value": format!("1990-{number}") }]);
            patient
        };
        for (round, (one, other)) in [
            (json!({ "birthDate": "1990-01-01" }), json!({ "birthDate": "1990-10-01" })),
            (json!({ "gender": "female" }), json!({ "gender": "male" })),
            (json!({ "name": [{ "family": "Mushi" }] }), json!({ "name": [{ "family": "Juma" }] })),
        ]
        .into_iter()
        .enumerate()
        {
            world.put(&world.holder, &of("a", round, &one)).await;
            world.put(&world.registry, &of(&format!("x{round}"), round, &other)).await;
            world.consent("wide", json!({ "type": "permit" })).await;
            assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv"]), "round {round}");
            let purposes = [purpose("TREAT")[0].clone(), purpose("BTG")[0].clone()];
            let deny = json!({ "type": "deny", "actor": to("Organization/hf-b"), "purpose": purposes });
            world.put(&world.desk, &consent("no", &format!("x{round}"), deny)).await;
            assert_eq!(seen(&world).await, set(&[]), "round {round}");
            let emergency = signed_token(&world.server, "asker", &clinician("BTG")).await;
            assert_eq!(world.get(&emergency, "/fhir/Observation/a-hr").await.0, 404, "round {round}");
            assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/no", &Value::Null).await.0, 204);
        }
    }
);

both_databases!(
    async fn a_deny_binds_whom_anybodys_entry_may_mean(db: &TestDb) {
        let world = World::new(db).await;
        let (facility, practitioner) = ("urn:lango:facility", "urn:lango:practitioner");
        let entry = |type_name: &str, id: &str, more: Value| {
            let mut body = more;
            (body["resourceType"], body["id"]) = (json!(type_name), json!(id));
            body
        };
        let is = |system: &str, value: &str| json!({ "identifier": [{ "system": system, "value": value }] });
        let member = json!({ "reference": "Practitioner/doctor" });
        world.put(&world.registry, &entry("Practitioner", "doctor", is(practitioner, "MCT-1"))).await;
        world.put(&world.registry, &organization("area", "AREA", None)).await;
        // All of these are another facility's words.
        for body in [
            entry("CareTeam", "team", json!({ "status": "active", "participant": [{ "member": member }] })),
            entry("PractitionerRole", "role", json!({ "practitioner": member })),
            entry("Organization", "copy", is(facility, "HF-B")),
            entry("Practitioner", "copy", is(practitioner, "MCT-1")),
        ] {
            world.put(&world.holder, &body).await;
        }
        // And this its own.
        let mut own = entry("Organization", "own", is(facility, "HF-B"));
        own["partOf"] = json!({ "reference": "Organization/area" });
        world.put(&world.asker, &own).await;
        let told = |extra: Value| {
            let mut claims = json!({ "purpose_of_use": "TREAT", "subject_id": "MCT-1" });
            claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            claims
        };
        let doctor = signed_token(&world.server, "asker", &told(json!({}))).await;
        let other = signed_token(&world.server, "asker", &told(json!({ "subject_id": "MCT-2" }))).await;
        let nurse = json!([{ "role": { "coding": [{ "system": "urn:job", "code": "nurse" }] }, "reference": { "reference": "Organization/hf-b" } }]);
        let mut mine = observation("a-own", "a", "8867-4", "2026-03-05", None);
        mine["performer"] = json!([member]);
        world.put(&world.holder, &mine).await;
        let all = set(&["a-hr", "a-hiv", "a-own"]);
        let wrote = |reference: Value| json!({ "data": [{ "meaning": "authoredby", "reference": reference }] });
        let by_id = |id: &str| json!({ "actor": to(id) });
        for (deny, expected) in [
            (by_id("CareTeam/team"), set(&[])),
            (by_id("PractitionerRole/role"), set(&[])),
            (by_id("Organization/copy"), set(&[])),
            (by_id("Practitioner/copy"), set(&[])),
            (by_id("Organization/area"), set(&[])),
            (by_id("Organization/nobody-knows"), set(&[])),
            (by_id("https://other.example.org/fhir/Organization/1"), set(&[])),
            (by_id("urn:uuid:7f4b4a8e-32a1-4a5e-8b7e-111111111111"), set(&[])),
            (json!({ "actor": nurse }), set(&[])),
            (wrote(json!({ "reference": "Practitioner/copy" })), set(&["a-hr", "a-hiv"])),
            (wrote(identifier(practitioner, "MCT-1")), set(&["a-hr", "a-hiv"])),
            (wrote(json!({ "reference": "PractitionerRole/role" })), set(&["a-hr", "a-hiv"])),
        ] {
            let mut body = deny.clone();
            body["type"] = json!("deny");
            world.consent("c", json!({ "type": "permit", "provision": [body] })).await;
            assert_eq!(world.ids(&doctor, "/fhir/Observation").await, expected, "{deny}");
        }
        world.put(&world.registry, &organization("far", "FAR", None)).await;
        for deny in [by_id("CareTeam/team"), by_id("Practitioner/copy"), by_id("Organization/far")] {
            let mut body = deny.clone();
            body["type"] = json!("deny");
            world.consent("c", json!({ "type": "permit", "provision": [body] })).await;
            assert_eq!(world.ids(&other, "/fhir/Observation").await, all, "another: {deny}");
        }
        // What others say opens nothing.
        for permit in [by_id("CareTeam/team"), by_id("Organization/copy"), by_id("Organization/area"), json!({ "actor": nurse })] {
            let mut body = permit.clone();
            body["type"] = json!("permit");
            world.consent("c", body).await;
            assert_eq!(world.ids(&doctor, "/fhir/Observation").await, set(&[]), "{permit}");
        }
        // Nor does it matter which came first.
        world.put(&world.holder, &entry("Organization", "later", is("urn:x", "1"))).await;
        let mut body = by_id("Organization/later");
        body["type"] = json!("deny");
        world.consent("c", json!({ "type": "permit", "provision": [body] })).await;
        assert_eq!(world.ids(&other, "/fhir/Observation").await, all);
        world.put(&world.holder, &entry("Organization", "later", is(facility, "HF-B"))).await;
        until("what the directory says is known", async || world.get(&other, "/fhir/Observation/a-hr").await.0 == 404).await;
    }
);

both_databases!(
    async fn stored_consents_are_read_again_by_a_new_release(db: &TestDb) {
        let world = World::new(db).await;
        world.put(&world.desk, &of_series("wide", Some("2026-01-01"), &json!({ "type": "permit" }))).await;
        let narrow = of_series("narrow", Some("2026-02-01"), &heart_rate_only());
        world.put(&world.desk, &narrow).await;
        let mut ended = narrow;
        ended["status"] = json!("rejected");
        world.put(&world.desk, &ended).await;
        assert_eq!(seen(&world).await, set(&[]));
        world.server.stop().await;
        // As an earlier release left it: the older Consent back in force, and a Patient covered whom the Consent does not name.
        let store = Store::open(&db.url).await.unwrap();
        let type_code = lango::definitions::r4().type_code("Consent").unwrap();
        let of = |id: &str| vec![(type_code, id.to_owned())];
        for (id, rules) in [("wide", vec![anything(Precedence::Permit)]), ("narrow", Vec::new())] {
            let stored = store.read_many(&of(id)).await.unwrap().remove(0);
            let covered: Vec<Box<str>> = vec!["a".into(), "b".into()];
            let rules = Rules {
                patients: covered.clone(),
                permitted: covered.into_iter().collect(),
                succession: Succession::Never,
                rules,
                ..Rules::default()
            };
            let mutation = Mutation {
                type_code,
                id: id.into(),
                base_version: stored.version,
                change: Change::Reindex { entries: Vec::new(), old_entries: Vec::new() },
                owner: stored.owner,
                listed: true,
                about: About::Consent,
                traits: Traits::default(),
                rules: Some(rules),
            };
            store.commit(Unit { mutations: vec![mutation], ..Unit::default() }).await.unwrap();
        }
        store.set_consents_read(0, (Interval::MIN, 0)).await.unwrap();
        let server = TestServer::smart(db).await;
        let asker = signed_token(&server, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
        let found =
            server.client.get(server.url("/fhir/Observation")).bearer_auth(&asker).send().await.unwrap().json::<Value>().await.unwrap();
        assert_eq!(found["total"], json!(0), "{found}");
        assert!(store.consents_read().await.unwrap().by > 0);
    }
);

/// Puts `body` in the place of what the database has of a Consent.
async fn tamper(store: &Store, table: &str, id: &str, body: &str) {
    let which = if table == "history" { "key = (SELECT key FROM resource WHERE id = $2) AND version = 1" } else { "id = $2" };
    let text = AssertSqlSafe(format!("UPDATE {table} SET body = $1 WHERE {which}"));
    let changed = match store {
        Store::Sqlite(db) => sqlx::query(text).bind(body.as_bytes()).bind(id).execute(&db.write).await.unwrap().rows_affected(),
        Store::Postgres(db) => sqlx::query(text).bind(body.as_bytes()).bind(id).execute(&db.pool).await.unwrap().rows_affected(),
    };
    assert_eq!(changed, 1, "{table} {id}");
}

both_databases!(
    async fn a_stored_consent_that_cannot_be_read_stops_no_start_and_opens_nothing(db: &TestDb) {
        let world = World::new(db).await;
        world.put(&world.desk, &of_series("wide", Some("2026-01-01"), &json!({ "type": "permit" }))).await;
        let narrow = of_series("narrow", Some("2026-02-01"), &heart_rate_only());
        let mut first = narrow.clone();
        first["dateTime"] = json!("2026-01-15");
        world.put(&world.desk, &first).await;
        world.put(&world.desk, &narrow).await;
        assert_eq!(seen(&world).await, set(&["a-hr"]));
        world.server.stop().await;
        let mut deep = json!({ "type": "permit" });
        for _ in 0..60 {
            deep = json!({ "type": "permit", "provision": [deep] });
        }
        let mut too_deep = narrow;
        too_deep["provision"] = deep;
        let cut_off = r#"{"resourceType":"Consent","id":"#;
        for (table, id, body, expected) in [
            ("history", "narrow", cut_off, json!(1)),
            ("resource", "wide", cut_off, json!(1)),
            // It stays where it stood: the wide one does not come back.
            ("resource", "narrow", &too_deep.to_string(), json!(0)),
        ] {
            let store = Store::open(&db.url).await.unwrap();
            tamper(&store, table, id, body).await;
            store.set_consents_read(0, (Interval::MIN, 0)).await.unwrap();
            store.close().await;
            let server = TestServer::smart(db).await;
            let asker = signed_token(&server, "asker", &json!({ "purpose_of_use": "TREAT" })).await;
            let answer = server.client.get(server.url("/fhir/Observation")).bearer_auth(&asker).send().await.unwrap();
            assert_eq!(answer.json::<Value>().await.unwrap()["total"], expected, "{table} {id}");
            server.stop().await;
        }
    }
);

/// A rule about anybody and anything.
fn anything(precedence: Precedence) -> Rule {
    Rule {
        node: 0,
        parent: None,
        precedence,
        audience: Vec::new(),
        period: Interval { low: Interval::MIN, high: Interval::MAX },
        parts: Vec::new(),
        has_exceptions: false,
        names_actor: false,
        names_emergency: false,
    }
}

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

both_databases!(
    async fn a_permit_means_who_is_called_so_by_the_operators_entries_in_force(db: &TestDb) {
        let world = World::new(db).await;
        let (facility, practitioner) = ("urn:lango:facility", "urn:lango:practitioner");
        let entry = |type_name: &str, id: &str, more: Value| {
            let mut body = more;
            (body["resourceType"], body["id"]) = (json!(type_name), json!(id));
            body
        };
        let called = |numbers: Value| json!({ "identifier": numbers });
        let with = |mut body: Value, more: Value| {
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let (doctor, over) = (json!({ "reference": "Practitioner/doctor" }), json!({ "end": "2021-01-01" }));
        let (at_b, at_x) = (json!({ "reference": "Organization/hf-b" }), json!({ "reference": "Organization/hf-x" }));
        let role = |id: &str, more: Value| entry("PractitionerRole", id, with(json!({ "practitioner": doctor }), more));
        let team = |id: &str, of: Value, more: Value| {
            let participant = with(json!({ "member": doctor }), of);
            entry("CareTeam", id, with(json!({ "status": "active", "participant": [participant] }), more))
        };
        let group = |id: &str, of: Value, more: Value| {
            let member = with(json!({ "entity": doctor }), of);
            entry("Group", id, with(json!({ "type": "practitioner", "actual": true, "member": [member] }), more))
        };
        let none = || json!({});
        let numbers = json!([
            { "system": facility, "value": "HF-B" },
            { "system": "urn:mfl", "value": "88" },
            { "system": "urn:mfl", "value": "77", "use": "old" },
            { "system": "urn:mfl", "value": "66", "period": over },
        ]);
        let number = json!({ "system": practitioner, "value": "MCT-1" });
        for body in [
            with(organization("hf-b", "HF-B", Some("district")), called(numbers)),
            organization("hf-x", "HF-X", None),
            with(organization("closed", "HF-B", None), json!({ "active": false })),
            entry("Practitioner", "doctor", called(json!([number, { "system": "urn:npi", "value": "9" }]))),
            entry("Practitioner", "gone", with(called(json!([number])), json!({ "active": false }))),
            entry("Practitioner", "former", called(json!([with(number.clone(), json!({ "use": "old" }))]))),
            role("at-b", json!({ "organization": at_b, "identifier": [{ "system": "urn:role", "value": "1" }] })),
            role("anywhere", none()),
            role("at-x", json!({ "organization": at_x })),
            role("no-more", json!({ "active": false })),
            role("ended", json!({ "period": over })),
            team("team", none(), json!({ "identifier": [{ "system": "urn:team", "value": "1" }] })),
            team("for-b", json!({ "onBehalfOf": at_b }), none()),
            team("for-x", json!({ "onBehalfOf": at_x }), none()),
            team("left", json!({ "period": over }), none()),
            team("inactive", none(), json!({ "status": "inactive" })),
            team("mistaken", none(), json!({ "status": "entered-in-error" })),
            team("over", none(), json!({ "period": over })),
            group("group", none(), none()),
            group("out", json!({ "inactive": true }), none()),
            group("until", json!({ "period": over }), none()),
            group("closed", none(), json!({ "active": false })),
        ] {
            world.put(&world.registry, &body).await;
        }
        // What a facility says of itself is its code, and no number of another's.
        let own = json!([{ "system": facility, "value": "HF-B" }, { "system": "urn:mfl", "value": "99" }]);
        world.put(&world.asker, &entry("Organization", "own", called(own))).await;
        let token = |subject: &str| json!({ "purpose_of_use": "TREAT", "subject_id": subject });
        let first = signed_token(&world.server, "asker", &token("MCT-1")).await;
        let by_id = |id: &str| json!({ "type": "permit", "actor": to(id) });
        let by_number = |system: &str, value: &str| json!({ "type": "permit", "actor": whom(identifier(system, value)) });
        let all = set(&["a-hr", "a-hiv"]);
        let open = ["Organization/hf-b", "Organization/district", "Organization/own", "Practitioner/doctor", "PractitionerRole/at-b"];
        let open = open.iter().chain(&["PractitionerRole/anywhere", "CareTeam/team", "CareTeam/for-b", "Group/group"]).map(|id| by_id(id));
        for permit in open.chain(
            [("urn:mfl", "88"), ("urn:npi", "9"), ("urn:role", "1"), ("urn:team", "1")].map(|(system, value)| by_number(system, value)),
        ) {
            world.consent("c", permit.clone()).await;
            assert_eq!(world.ids(&first, "/fhir/Observation").await, all, "{permit}");
        }
        let not_theirs = ["Organization/hf-x", "Organization/closed", "Practitioner/gone", "Practitioner/former", "PractitionerRole/at-x"];
        let over = ["PractitionerRole/no-more", "PractitionerRole/ended", "CareTeam/for-x", "CareTeam/left", "CareTeam/inactive"];
        let closed = ["CareTeam/mistaken", "CareTeam/over", "Group/out", "Group/until", "Group/closed"];
        let closed: Vec<Value> = not_theirs.iter().chain(&over).chain(&closed).map(|id| by_id(id)).collect();
        for permit in closed.iter().cloned().chain(["77", "66", "99"].map(|value| by_number("urn:mfl", value))) {
            world.consent("c", permit.clone()).await;
            assert_eq!(world.ids(&first, "/fhir/Observation").await, set(&[]), "{permit}");
        }
        // A denial means them all the same.
        for mut deny in closed.into_iter().skip(1) {
            deny["type"] = json!("deny");
            world.consent("c", json!({ "type": "permit", "provision": [deny] })).await;
            assert_eq!(world.ids(&first, "/fhir/Observation").await, set(&[]), "{deny}");
        }
        // An id that nobody had is nobody's to take, but the operator's.
        for (id, writer, number, sees) in [
            ("Organization/ghost", &world.asker, own_code(), set(&[])),
            ("Practitioner/ghost", &world.asker, json!({ "system": practitioner, "value": "MCT-3" }), set(&[])),
            ("Practitioner/later", &world.registry, json!({ "system": practitioner, "value": "MCT-4" }), all.clone()),
        ] {
            world.consent("c", by_id(id)).await;
            let (type_name, id) = id.split_once('/').unwrap();
            world.put(writer, &entry(type_name, id, called(json!([number])))).await;
            let subject = if type_name == "Practitioner" { number["value"].as_str().unwrap() } else { "MCT-2" };
            let asker = signed_token(&world.server, "asker", &token(subject)).await;
            assert_eq!(world.ids(&asker, "/fhir/Observation").await, sees, "{type_name}/{id}");
        }
    }
);

/// The facility of the asker.
fn own_code() -> Value {
    json!({ "system": "urn:lango:facility", "value": "HF-B" })
}
