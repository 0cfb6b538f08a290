//! Which Consent takes the place of which, however its series, its dates and its Patient are told, and whatever becomes of them.

use crate::consent::World;
use crate::support::both_databases;
use crate::support::guarded::{Guarded, consent, observation, organization, path_of, set};
use crate::support::smart::{add_signing_client, signed_token};
use lango::fhir::time::{format_instant, now};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NIDA: &str = "https://lango.health/id/nida";
const A_DAY: i64 = 86_400_000_000;

async fn seen(world: &World) -> BTreeSet<String> {
    world.ids(&world.asker, "/fhir/Observation").await
}

fn all() -> BTreeSet<String> {
    set(&["a-hr", "a-hiv"])
}

/// A Consent of Patient/a to HF-B under this policy.
fn under(policy: &str, id: &str, date: &str, kind: &str) -> Value {
    let mut body = consent(id, "a", json!({ "type": kind }));
    body["organization"] = json!([{ "reference": "Organization/hf-b" }]);
    body["policy"] = json!([{ "uri": format!("urn:policy:{policy}") }]);
    body["dateTime"] = json!(date);
    body
}

both_databases!(
    async fn a_denial_that_left_its_series_stands(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("wide", json!({ "type": "permit" })).await;
        let contained = json!([{ "resourceType": "Organization", "id": "o", "name": "Somewhere" }]);
        for (round, (key, value)) in [
            ("organization", Value::Null),
            ("policy", Value::Null),
            ("organization", json!([{ "display": "Somewhere" }])),
            ("organization", json!([{ "reference": "#o" }])),
        ]
        .into_iter()
        .enumerate()
        {
            let of = |id: &str, date: &str, kind: &str| under(&round.to_string(), &format!("{id}{round}"), date, kind);
            world.put(&world.desk, &of("no", "2026-01-01", "deny")).await;
            assert_eq!(seen(&world).await, set(&[]), "round {round}");
            world.put(&world.desk, &of("yes", "2026-02-01", "permit")).await;
            assert_eq!(seen(&world).await, all(), "round {round}: it is replaced");
            let mut left = of("no", "2026-01-01", "deny");
            left["contained"] = contained.clone();
            match &value {
                Value::Null => _ = left.as_object_mut().unwrap().remove(key),
                value => left[key] = value.clone(),
            }
            for date in ["2026-01-01", "2026-10-01"] {
                left["dateTime"] = json!(date);
                world.put(&world.desk, &left).await;
                assert_eq!(seen(&world).await, set(&[]), "round {round}: of no series, it stands beside the others");
            }
            world.put(&world.desk, &of("yes", "2026-11-01", "permit")).await;
            assert_eq!(seen(&world).await, set(&[]), "round {round}: and what is newer in the series that it left");
            world.put(&world.desk, &of("no", "2026-01-01", "deny")).await;
            assert_eq!(seen(&world).await, all(), "round {round}: and back");
            for id in ["no", "yes"] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}{round}"), &Value::Null).await.0, 204);
            }
        }
        // Another Patient's, it denies there.
        world.put(&world.desk, &consent("wide-b", "b", json!({ "type": "permit" }))).await;
        world.put(&world.desk, &under("moved", "no", "2026-01-01", "deny")).await;
        world.put(&world.desk, &under("moved", "yes", "2026-02-01", "permit")).await;
        assert_eq!(seen(&world).await, set(&["a-hr", "a-hiv", "b-hr", "b-hiv"]));
        world.put(&world.desk, &consent("no", "b", json!({ "type": "deny" }))).await;
        assert_eq!(seen(&world).await, all());
    }
);

both_databases!(
    async fn of_two_that_were_recorded_at_once_neither_is_newer(db: &TestDb) {
        let world = World::new(db).await;
        let mut round = 0;
        for kinds in [["permit", "deny"], ["deny", "permit"], ["deny", "deny"], ["permit", "permit"]] {
            for ids in [["x", "y"], ["y", "x"]] {
                for date in ["2026-01", "2026-11-01"] {
                    round += 1;
                    // So long as a denial is among them, all else is permitted.
                    let until = if kinds == ["permit"; 2] { "2026-01-01" } else { "2090-01-01" };
                    world.consent("wide", json!({ "type": "permit", "period": { "end": until } })).await;
                    let bodies = [0, 1].map(|n| under(&round.to_string(), &format!("{}{round}", ids[n]), date, kinds[n]));
                    let entries: Vec<Value> = bodies
                        .iter()
                        .map(|body| json!({ "resource": body, "request": { "method": "PUT", "url": path_of(body).replace("/fhir/", "") } }))
                        .collect();
                    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
                    let (status, told) = world.send(&world.desk, "POST", "/fhir", &bundle).await;
                    assert_eq!(status, 200, "{told}");
                    assert_eq!(seen(&world).await, set(&[]), "{kinds:?} {ids:?} {date}");
                    // What comes later stands over both.
                    world.put(&world.desk, &under(&round.to_string(), &format!("z{round}"), date, "permit")).await;
                    assert_eq!(seen(&world).await, all(), "{kinds:?} {ids:?} {date}");
                    assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/z{round}"), &Value::Null).await.0, 204);
                }
            }
        }
    }
);

both_databases!(
    async fn nothing_is_given_after_it_was_recorded(db: &TestDb) {
        let world = World::new(db).await;
        for status in ["active", "proposed"] {
            let mut ahead = under("far", "far", "2099-01-01", "permit");
            ahead["status"] = json!(status);
            let (code, refused) = world.send(&world.desk, "PUT", "/fhir/Consent/far", &ahead).await;
            assert_eq!((code, &refused["issue"][0]["expression"][0]), (422, &json!("Consent.dateTime")), "{refused}");
        }
        let mut ended = under("far", "far", "2099-01-01", "permit");
        ended["status"] = json!("inactive");
        world.put(&world.desk, &ended).await;
        // Clocks and zones differ.
        let (today, tomorrow) = (format_instant(now()), format_instant(now() + A_DAY));
        for (round, date) in [tomorrow.clone(), tomorrow[..10].to_owned()].into_iter().enumerate() {
            let policy = round.to_string();
            let mut permit = under(&policy, &format!("yes{round}"), &date, "permit");
            world.put(&world.desk, &permit).await;
            assert_eq!(seen(&world).await, all(), "{date}");
            world.put(&world.desk, &under(&policy, &format!("no{round}"), &today[..10], "deny")).await;
            assert_eq!(seen(&world).await, set(&[]), "{date}: the denial is newer");
            permit["language"] = json!("sw");
            world.put(&world.desk, &permit).await;
            assert_eq!(seen(&world).await, set(&[]), "{date}: a touch brings nothing back");
            for id in ["yes", "no"] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}{round}"), &Value::Null).await.0, 204);
            }
        }
        // A guardian who dates a word for a minor to the day when she is of age does not speak for an adult.
        let born = format!("{}{}", tomorrow[..4].parse::<i64>().unwrap() - 18, &tomorrow[4..10].replace("-02-29", "-03-01"));
        world.put(&world.holder, &json!({ "resourceType": "Patient", "id": "a", "birthDate": born })).await;
        let mut mothers = under("mother", "mothers", &format_instant(now() + A_DAY - 1_000_000), "permit");
        mothers["performer"] = json!([{ "reference": "RelatedPerson/mother" }]);
        world.put(&world.desk, &mothers).await;
        let store = lango::store::Store::open(&db.url).await.unwrap();
        let type_code = lango::definitions::r4().type_code("Consent").unwrap();
        let stored = store.read_many(&[(type_code, "mothers".to_owned())]).await.unwrap().remove(0);
        let until = store.covered(stored.key).await.unwrap().until.unwrap();
        assert!(until < now() + 2 * A_DAY, "it ends when she is of age");
    }
);

both_databases!(
    async fn an_organisation_that_a_consent_contains_is_the_one_of_its_code(db: &TestDb) {
        let world = World::new(db).await;
        let mut wide = under("series", "wide", "2026-01-01", "permit");
        wide["organization"] = json!([{ "reference": "#o" }]);
        wide["contained"] =
            json!([{ "resourceType": "Organization", "id": "o", "identifier": [{ "system": "urn:lango:facility", "value": "HF-B" }] }]);
        world.put(&world.desk, &wide).await;
        assert_eq!(seen(&world).await, all());
        let mut narrow = under("series", "narrow", "2026-02-01", "permit");
        narrow["provision"]["code"] = json!([{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }]);
        world.put(&world.desk, &narrow).await;
        assert_eq!(seen(&world).await, set(&["a-hr"]));
        wide["dateTime"] = json!("2026-03-01");
        world.put(&world.desk, &wide).await;
        assert_eq!(seen(&world).await, all(), "and the other way round");
    }
);

both_databases!(
    async fn a_consent_that_tells_nobody_whose_it_is_is_refused(db: &TestDb) {
        let world = World::new(db).await;
        let strong = json!({ "system": NIDA, "value": "19900101-1" });
        let asha = json!({ "resourceType": "Patient", "id": "a", "name": [{ "family": "Mushi" }], "identifier": [strong] });
        world.put(&world.holder, &asha).await;
        world.consent("wide", json!({ "type": "permit" })).await;
        let mut denial = under("no", "no", "2026-02-01", "deny");
        denial["contained"] = json!([{ "resourceType": "Patient", "id": "p", "identifier": [strong] }]);
        for whose in [
            json!({ "identifier": strong }),
            json!({ "type": "Patient", "identifier": strong }),
            json!({ "reference": "#p" }),
            json!({ "reference": "https://other.example.org/fhir/Patient/1", "identifier": strong }),
            json!({ "reference": "urn:uuid:11111111-1111-4111-8111-111111111111" }),
            json!({ "reference": "Group/g" }),
            json!({ "display": "Asha" }),
            Value::Null,
        ] {
            match &whose {
                Value::Null => _ = denial.as_object_mut().unwrap().remove("patient"),
                whose => denial["patient"] = whose.clone(),
            }
            denial["status"] = json!("active");
            let (status, refused) = world.send(&world.desk, "PUT", "/fhir/Consent/no", &denial).await;
            let told = refused["issue"][0]["expression"][0].as_str().unwrap_or_default();
            assert!(status == 422 && told.starts_with("Consent.patient"), "{whose}: {refused}");
            assert!(!refused.to_string().contains("19900101"), "{refused}");
        }
        // What does not count may say what it likes.
        for (key, value) in [("status", json!("draft")), ("scope", json!({ "coding": [{ "code": "research" }] }))] {
            let mut other = denial.clone();
            (other["patient"], other["id"]) = (json!({ "identifier": strong }), json!(format!("other-{key}")));
            other[key] = value;
            world.put(&world.desk, &other).await;
        }
        assert_eq!(seen(&world).await, all());
        for whose in [
            json!({ "reference": format!("{}/fhir/Patient/a", world.server.base) }),
            json!({ "reference": "Patient/a/_history/1" }),
            // Who carries the number is denied too.
            json!({ "reference": "Patient/absent", "identifier": strong }),
        ] {
            denial["patient"] = whose.clone();
            world.put(&world.desk, &denial).await;
            assert_eq!(seen(&world).await, set(&[]), "{whose}");
            denial["patient"] = json!({ "reference": "Patient/b" });
            world.put(&world.desk, &denial).await;
            assert_eq!(seen(&world).await, all());
        }
        // And nothing is permitted of them by it.
        assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/wide", &Value::Null).await.0, 204);
        let mut permit = consent("more", "absent", json!({ "type": "permit" }));
        permit["patient"]["identifier"] = strong;
        world.put(&world.desk, &permit).await;
        assert_eq!(seen(&world).await, set(&[]));
        // A Consent may come before its Patient.
        world.put(&world.desk, &consent("before", "later", json!({ "type": "permit" }))).await;
        world.put(&world.holder, &json!({ "resourceType": "Patient", "id": "later" })).await;
        let mut first = observation("later-hr", "later", "8867-4", "2026-03-05", None);
        first.as_object_mut().unwrap().remove("encounter");
        world.put(&world.holder, &first).await;
        assert_eq!(seen(&world).await, set(&["later-hr"]));
    }
);

both_databases!(
    async fn what_never_was_in_force_takes_no_place(db: &TestDb) {
        let world = World::new(db).await;
        world.consent("wide", json!({ "type": "permit" })).await;
        world.put(&world.desk, &under("series", "no", "2026-01-01", "deny")).await;
        assert_eq!(seen(&world).await, set(&[]));
        let later = |id: &str, key: &str, value: Value| {
            let mut body = under("series", id, "2026-10-01", "permit");
            body["provision"]["actor"] = json!([{
                "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
                "reference": { "identifier": { "system": "urn:lango:facility", "value": "HF-B" } },
            }]);
            body[key] = value;
            body
        };
        // Who is denied asks, and the desk puts it away.
        let mut asked = later("", "status", json!("proposed"));
        asked.as_object_mut().unwrap().remove("id");
        let (status, asked) = world.send(&world.asker, "POST", "/fhir/Consent", &asked).await;
        assert_eq!(status, 201, "{asked}");
        let put_away = later(asked["id"].as_str().unwrap(), "status", json!("inactive"));
        let failed = json!([{ "verified": false }]);
        let mut unverified = later("unverified", "verification", failed.clone());
        world.put(&world.desk, &unverified).await;
        unverified["status"] = json!("inactive");
        for body in [put_away, later("ended", "status", json!("inactive")), later("drafted", "status", json!("draft")), unverified] {
            world.put(&world.desk, &body).await;
            assert_eq!(seen(&world).await, set(&[]), "{body}");
        }
        // One that was in force stands where it stood then, not where it stands when it is ended.
        world.put(&world.desk, &under("series", "older", "2025-01-01", "permit")).await;
        let mut ended = under("series", "older", "2026-10-01", "permit");
        ended["status"] = json!("inactive");
        world.put(&world.desk, &ended).await;
        assert_eq!(seen(&world).await, set(&[]));
        world.put(&world.desk, &under("series", "newer", "2026-02-01", "permit")).await;
        assert_eq!(seen(&world).await, all());
        let mut ended = under("series", "newer", "2026-02-01", "permit");
        ended["status"] = json!("inactive");
        world.put(&world.desk, &ended).await;
        assert_eq!(seen(&world).await, all(), "what it replaced stays replaced");
    }
);

both_databases!(
    async fn an_organisation_is_the_same_however_it_is_spelt(db: &TestDb) {
        let world = World::new(db).await;
        let code = |code: &str| json!({ "identifier": { "system": "urn:lango:facility", "value": code } });
        let to = |reference: &str| json!({ "reference": reference });
        let opt_in = |system: &str| json!({ "coding": [{ "system": system, "code": "OPTIN" }] });
        let act = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
        let narrow = |mut body: Value| {
            body["provision"]["code"] = json!([{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }]);
            body
        };
        for (round, (first, second)) in [
            (code(" hf-b "), to("Organization/hf-b")),
            (to("Organization/hf-b"), code("Hf-B")),
            (to("https://E.example.org/Organization/o"), to("https://e.example.org/Organization/o/_history/1")),
            (to("urn:uuid:0C3151BD-1CBF-4D64-B04D-CD9187A4C6E0"), to("urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0")),
        ]
        .into_iter()
        .enumerate()
        {
            let of = |id: &str, date: &str, organization: &Value| {
                let mut body = under(&round.to_string(), &format!("{id}{round}"), date, "permit");
                body["organization"] = json!([organization]);
                body
            };
            world.put(&world.desk, &of("wide", "2026-01-01", &first)).await;
            assert_eq!(seen(&world).await, all(), "{first}");
            world.put(&world.desk, &narrow(of("narrow", "2026-02-01", &second))).await;
            assert_eq!(seen(&world).await, set(&["a-hr"]), "{first} {second}");
            for id in ["wide", "narrow"] {
                assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}{round}"), &Value::Null).await.0, 204);
            }
        }
        // The rule that a Consent is under has two names too.
        for (id, date, system) in [("wide", "2026-01-01", act), ("narrow", "2026-02-01", "urn:oid:2.16.840.1.113883.5.4")] {
            let mut body = under("rule", id, date, "permit");
            body.as_object_mut().unwrap().remove("policy");
            body["policyRule"] = opt_in(system);
            world
                .put(
                    &world.desk,
                    &if id == "narrow" {
                        body["provision"]["type"] = json!("deny");
                        body
                    } else {
                        body
                    },
                )
                .await;
        }
        assert_eq!(seen(&world).await, set(&[]));
        for id in ["wide", "narrow"] {
            assert_eq!(world.send(&world.desk, "DELETE", &format!("/fhir/Consent/{id}"), &Value::Null).await.0, 204);
        }
    }
);

both_databases!(
    async fn an_organisation_of_the_same_transaction_is_the_one_of_its_code(db: &TestDb) {
        add_signing_client(db, "operator", "OPS", "operator consent-recorder").await;
        let world = World::new(db).await;
        let operator = signed_token(&world.server, "operator", &json!({})).await;
        let mut wide = under("series", "wide", "2026-01-01", "permit");
        wide["organization"] = json!([{ "identifier": { "system": "urn:lango:facility", "value": "HF-NEW" } }]);
        world.put(&world.desk, &wide).await;
        assert_eq!(seen(&world).await, all());
        let mut narrow = under("series", "narrow", "2026-02-01", "permit");
        narrow["organization"] = json!([{ "reference": "Organization/new" }]);
        narrow["provision"]["code"] = json!([{ "coding": [{ "system": "http://loinc.org", "code": "8867-4" }] }]);
        let entries: Vec<Value> = [organization("new", "HF-NEW", None), narrow]
            .iter()
            .map(|body| json!({ "resource": body, "request": { "method": "PUT", "url": path_of(body).replace("/fhir/", "") } }))
            .collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        let (status, told) = world.send(&operator, "POST", "/fhir", &bundle).await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(seen(&world).await, set(&["a-hr"]));
    }
);
