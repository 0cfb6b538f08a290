//! Breaking the glass: one person, one token, some minutes, reading only, and never in silence.

use crate::lookup::{NIDA, World, by_number, ids, observation, patient};
use crate::support::both_databases;
use crate::support::guarded::{Guarded, set};
use crate::support::smart::signed_token;
use lango::exchange::notice::NOTICE_JOB;
use lango::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn emergency(world: &World) -> String {
    signed_token(&world.server, "asker", &json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": "unconscious", "subject_id": "MCT-7" }))
        .await
}

/// What the privacy officer finds: Tasks, and the Communications that they are about.
async fn told(world: &World) -> (Vec<Value>, Vec<Value>) {
    let of = async |search: &str| -> Vec<Value> {
        let (status, bundle) = world.get(world.token("operator"), search).await;
        assert_eq!(status, 200, "{bundle}");
        bundle["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()).collect()
    };
    (of("/fhir/Task?code=break-glass-review").await, of("/fhir/Communication").await)
}

async fn status(world: &World, token: &str, path: &str) -> u16 {
    world.get(token, path).await.0
}

both_databases!(
    async fn a_clinician_reads_one_patient_and_both_who_must_know_are_told(db: &TestDb) {
        let world = World::new(db).await;
        let token = emergency(&world).await;
        let (status_code, read) = world.get(&token, "/fhir/Observation/a-hr").await;
        assert_eq!((status_code, read["id"].as_str()), (200, Some("a-hr")), "{read}");
        let (tasks, notices) = told(&world).await;
        assert_eq!((tasks.len(), notices.len()), (1, 1));
        let task = &tasks[0];
        assert_eq!(task["reasonCode"]["text"], "unconscious");
        assert_eq!(task["requester"]["identifier"], json!({ "system": "urn:lango:practitioner", "value": "MCT-7" }));
        assert_eq!(task["owner"]["identifier"]["value"], "operator");
        assert_eq!(task["input"][0]["valueReference"]["identifier"]["value"], "HF-B");
        assert_eq!(task["groupIdentifier"]["value"], "asker");
        assert_eq!(notices[0]["subject"], task["for"]);
        let store = Store::open(&db.url).await.unwrap();
        let jobs = store.jobs(Some(NOTICE_JOB), None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].payload["communication"], notices[0]["id"]);
        store.close().await;
        // The same person, wherever: by id, by lookup, as golden Patient; and they are told once.
        for path in ["Observation/c-hr", "Patient/a", "Patient/c", &format!("Patient/{}", world.golden)] {
            assert_eq!(status(&world, &token, &format!("/fhir/{path}")).await, 200, "{path}");
        }
        let (_, found) = world.lookup(&token, json!([by_number("19900101-1")])).await;
        assert_eq!(ids(&found), set(&["a", "a-hr", "c", "c-hr"]), "exempt labels stay closed");
        assert_eq!(told(&world).await.0.len(), 1);
        // Nobody but the operator learns of it, not even who holds the record.
        for holder in ["a", "c"] {
            for search in ["Task", "Communication"] {
                let (_, found) = world.get(world.token(holder), &format!("/fhir/{search}")).await;
                assert_eq!(ids(&found), set(&[]), "{search}");
            }
        }
        world.consent("k", "a", json!({ "type": "permit" })).await;
        assert_eq!(ids(&world.get(&world.asker, "/fhir/Task").await.1), set(&[]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn nothing_else_is_opened(db: &TestDb) {
        let world = World::new(db).await;
        let token = emergency(&world).await;
        assert_eq!(status(&world, &token, "/fhir/Observation/a-hr").await, 200);
        let ghost = world.get(&token, "/fhir/Observation/never-was").await;
        for path in ["Observation/z-hr", "Observation/a-psy", "Observation/a-hr/_history", "Observation/a-hr/_history/1"] {
            assert_eq!(world.get(&token, &format!("/fhir/{path}")).await, ghost, "{path}");
        }
        assert_eq!(
            world.get(&token, "/fhir/Patient/z").await,
            world.get(&token, "/fhir/Patient/never-was").await,
            "one person for a token"
        );
        assert_eq!(ids(&world.lookup(&token, json!([by_number("19700101-9")])).await.1), set(&[]));
        for search in [
            "Observation",
            "Observation?patient=Patient/a",
            "Observation?_id=a-hr",
            "Patient?_id=a",
            "Encounter?_has:Observation:encounter:code=x",
        ] {
            assert_eq!(ids(&world.get(&token, &format!("/fhir/{search}")).await.1), set(&[]), "{search}");
        }
        // Reading only.
        let own = observation("a-hr", "a", None);
        assert_ne!(world.send(&token, "PUT", "/fhir/Observation/a-hr", &own).await.0 / 100, 2);
        world.send(&token, "DELETE", "/fhir/Observation/a-hr", &Value::Null).await;
        assert_eq!(status(&world, world.token("a"), "/fhir/Observation/a-hr").await, 200);
        // In a Bundle it is the same reading.
        let get = |url: &str| json!({ "request": { "method": "GET", "url": url } });
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [get("Observation/c-hr"), get("Observation/z-hr"), get("Observation?patient=Patient/a")] });
        let (_, answers) = world.send(&token, "POST", "/fhir", &batch).await;
        let entries = answers["entry"].as_array().unwrap();
        assert_eq!(entries[0]["resource"]["id"], "c-hr", "{answers}");
        assert!(entries[1]["response"]["status"].as_str().unwrap().starts_with("404"), "{answers}");
        assert_eq!(ids(&entries[2]["resource"]), set(&[]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_may_not_alarms_nobody(db: &TestDb) {
        let world = World::new(db).await;
        let (reason, who) = ("unconscious", "MCT-7");
        for (client, extension) in [
            ("asker", json!({ "subject_id": who, "purpose_of_use": "BTG" })),
            ("asker", json!({ "subject_id": who, "purpose_of_use": "TREAT", "purpose_of_use_reason": reason })),
            ("asker", json!({ "subject_id": who, "purpose_of_use": ["BTG", "TREAT"], "purpose_of_use_reason": reason })),
            ("asker", json!({ "subject_id": who, "purpose_of_use": "BTG", "purpose_of_use_reason": reason, "subject_role": "facility" })),
            ("asker", json!({ "subject_id": who, "purpose_of_use_reason": reason })),
            ("c", json!({ "subject_id": who, "purpose_of_use": "BTG", "purpose_of_use_reason": reason })),
            // Nobody who answers for it, and nothing that could be reviewed.
            ("asker", json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": reason })),
            ("asker", json!({ "subject_id": who, "purpose_of_use": "BTG", "purpose_of_use_reason": "x" })),
            ("asker", json!({ "subject_id": who, "purpose_of_use": "BTG", "purpose_of_use_reason": "... - !!! ..." })),
        ] {
            let token = signed_token(&world.server, client, &extension).await;
            let ghost = world.get(&token, "/fhir/Observation/never-was").await;
            assert_eq!(world.get(&token, "/fhir/Observation/z-hr").await, ghost, "{extension}");
            assert_eq!(ids(&world.lookup(&token, json!([by_number("19700101-9")])).await.1), set(&[]), "{extension}");
        }
        // Who may, and finds nothing that the glass opens: a label that is exempt, a patient who named emergencies and said no, nobody.
        let token = emergency(&world).await;
        let emergencies = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "ETREAT" }]);
        world.consent("no", "z", json!({ "type": "deny", "purpose": emergencies })).await;
        for path in ["Observation/a-psy", "Observation/z-hr", "Patient/z", "Patient/never-was", "Organization/never-was"] {
            assert_eq!(status(&world, &token, &format!("/fhir/{path}")).await, 404, "{path}");
        }
        assert_eq!(ids(&world.lookup(&token, json!([by_number("19700101-9")])).await.1), set(&[]));
        assert_eq!(told(&world).await, (vec![], vec![]));
        // What the patient allows, nobody need break anything for.
        world.consent("yes", "a", json!({ "type": "permit" })).await;
        let (_, found) = world.lookup(&token, json!([by_number("19900101-1")])).await;
        assert_eq!(ids(&found), set(&["a", "a-hr", "a-psy", "c", "c-hr", "c-psy"]));
        assert_eq!(status(&world, &token, "/fhir/Observation/c-psy").await, 200);
        assert_eq!(told(&world).await, (vec![], vec![]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn racing_uses_of_a_token_open_one_patient(db: &TestDb) {
        let world = World::new(db).await;
        let token = emergency(&world).await;
        let paths = [
            "/fhir/Observation/a-hr",
            "/fhir/Observation/z-hr",
            "/fhir/Patient/a",
            "/fhir/Patient/z",
            "/fhir/Patient/c",
            "/fhir/Observation/c-hr",
        ];
        let reads = paths.iter().map(|path| async { (&path[6..], world.get(&token, path).await.0) });
        let opened: BTreeSet<&str> =
            futures_util::future::join_all(reads).await.iter().filter(|(_, status)| *status == 200).map(|(path, _)| *path).collect();
        let asha = BTreeSet::from(["Observation/a-hr", "Patient/a", "Patient/c", "Observation/c-hr"]);
        let other = BTreeSet::from(["Observation/z-hr", "Patient/z"]);
        assert!(opened == asha || opened == other, "{opened:?}");
        let (tasks, notices) = told(&world).await;
        assert_eq!((tasks.len(), notices.len()), (1, 1));
        world.server.stop().await;
    }
);

both_databases!(
    async fn the_glass_is_whole_again_after_its_minutes_and_without_its_notice(db: &TestDb) {
        let world = World::new(db).await;
        let token = emergency(&world).await;
        assert_eq!(status(&world, &token, "/fhir/Observation/a-hr").await, 200);
        // As if the glass had been broken six minutes ago.
        let store = Store::open(&db.url).await.unwrap();
        let sql = "UPDATE resource SET updated = updated - 360000000 WHERE id LIKE 'btg-%'";
        match &store {
            Store::Sqlite(db) => sqlx::query(sql).execute(&db.write).await.map(|_| ()).unwrap(),
            Store::Postgres(db) => sqlx::query(sql).execute(&db.pool).await.map(|_| ()).unwrap(),
        }
        store.close().await;
        assert_eq!(status(&world, &token, "/fhir/Observation/a-hr").await, 404);
        assert_eq!(ids(&world.lookup(&token, json!([by_number("19900101-1")])).await.1), set(&[]));
        // The officer's word on the Task opens nothing: not for this patient, and not for another.
        let mut task = told(&world).await.0.remove(0);
        (task["status"], task["for"]) = (json!("completed"), json!({ "reference": "Patient/z" }));
        world.put(world.token("operator"), &task).await;
        for path in ["Observation/a-hr", "Observation/z-hr"] {
            assert_eq!(status(&world, &token, &format!("/fhir/{path}")).await, 404, "{path}");
        }
        let path = format!("/fhir/Task/{}", task["id"].as_str().unwrap());
        assert_eq!(world.send(world.token("operator"), "DELETE", &path, &Value::Null).await.0, 204);
        assert_eq!(status(&world, &token, "/fhir/Observation/z-hr").await, 404);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_opens_many_patients_is_told_to_wait_whoever_is_asked_for(db: &TestDb) {
        let world = World::with(db, |settings| {
            (settings.limits.emergencies_per_practitioner, settings.limits.emergencies_per_client) = (2, 3);
        });
        let world = world.await;
        for number in 0..5 {
            world.put(world.token("a"), &json!({ "resourceType": "Patient", "id": format!("p{number}") })).await;
        }
        let read = async |who: &str, patient: &str| {
            let claims = json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": "unconscious", "subject_id": who });
            let token = signed_token(&world.server, "asker", &claims).await;
            status(&world, &token, &format!("/fhir/Patient/{patient}")).await
        };
        assert_eq!([read("MCT-1", "p0").await, read("MCT-1", "p1").await], [200, 200]);
        assert_eq!([read("MCT-1", "p2").await, read("MCT-1", "never-was").await], [429, 429], "hidden or not there: told alike");
        assert_eq!(read("MCT-1", "p1").await, 200, "one of the hour's can be read on, with a token after the other");
        assert_eq!(read("MCT-2", "p2").await, 200, "somebody else has had none");
        assert_eq!([read("MCT-3", "p3").await, read("MCT-3", "never-was").await], [429, 429], "the client has had all");
        assert_eq!(told(&world).await.0.len(), 4, "a Task for each token that opened something");
        let treating = signed_token(&world.server, "asker", &json!({ "purpose_of_use": "TREAT", "subject_id": "MCT-1" })).await;
        assert_eq!(status(&world, &treating, "/fhir/Patient/p2").await, 404, "who treats as always is not told of it");
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_says_no_to_an_emergency_says_no_to_each(db: &TestDb) {
        let world = World::new(db).await;
        for (number, (denied, asked)) in [("BTG", "ETREAT"), ("ETREAT", "BTG"), ("BTG", "BTG")].into_iter().enumerate() {
            let purpose = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": denied }]);
            world.consent("no", "a", json!({ "type": "deny", "purpose": purpose })).await;
            let claims = json!({ "purpose_of_use": asked, "purpose_of_use_reason": "unconscious", "subject_id": format!("MCT-{number}") });
            let token = signed_token(&world.server, "asker", &claims).await;
            assert_eq!(status(&world, &token, "/fhir/Observation/a-hr").await, 404, "{denied} denied, {asked} asked");
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_was_opened_is_counted_whole_and_by_nobody_elses_word(db: &TestDb) {
        let world = World::with(db, |settings| {
            (settings.limits.emergencies_per_practitioner, settings.limits.emergencies_per_client) = (2, 0);
        });
        let world = world.await;
        for number in 0..6 {
            world.put(world.token("a"), &json!({ "resourceType": "Patient", "id": format!("p{number}") })).await;
        }
        for number in 1..=3 {
            let system = "urn:lango:practitioner";
            let practitioner = json!({ "resourceType": "Practitioner", "id": format!("d{number}"), "identifier": [{ "system": system, "value": format!("MCT-{number}") }] });
            world.put(world.token("registry"), &practitioner).await;
        }
        let read = async |who: &str, patient: &str| {
            let claims = json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": "unconscious", "subject_id": who });
            let token = signed_token(&world.server, "asker", &claims).await;
            status(&world, &token, &format!("/fhir/Patient/{patient}")).await
        };
        // Nobody takes another's emergencies away by Tasks of their own.
        let task = |number: usize, code: &str, tag: &str| {
            json!({ "resourceType": "Task", "status": "requested", "intent": "order",
                "meta": { "tag": [{ "system": tag, "code": "break-glass" }] },
                "code": { "coding": [{ "system": "https://lango.health/fhir/CodeSystem/task", "code": code }] },
                "for": { "reference": format!("Patient/p{number}") }, "authoredOn": lango::fhir::time::format_instant(lango::fhir::time::now()),
                "groupIdentifier": { "system": "urn:lango:client", "value": "asker" },
                "requester": { "type": "Practitioner", "identifier": { "system": "urn:lango:practitioner", "value": "MCT-1" } } })
        };
        const NOTICES: &str = "https://lango.health/fhir/CodeSystem/notice";
        for (number, client) in ["a", "c", "operator", "registry"].into_iter().enumerate() {
            for (code, tag) in [("break-glass-review", NOTICES), ("break-glass-review", "urn:x"), ("other", NOTICES)] {
                assert_eq!(
                    world.send(world.token(client), "POST", "/fhir/Task", &task(number, code, tag)).await.0,
                    403,
                    "{client} {code} {tag}"
                );
            }
            assert_eq!(world.send(world.token(client), "POST", "/fhir/Task", &task(number, "other", "urn:x")).await.0, 201);
        }
        assert_eq!(told(&world).await.0.len(), 0);
        // Many tokens for one patient push none out of sight, and the name may be written as one likes.
        for _ in 0..45 {
            assert_eq!(read("MCT-1", "p0").await, 200);
        }
        assert_eq!(read(" mct-1", "p1").await, 200);
        for name in ["MCT-1", "mct-1", " MCT-1 ", "Mct-1", "urn:lango:practitioner|MCT-1", " urn:lango:practitioner| mct-1"] {
            assert_eq!([read(name, "p2").await, read(name, "p1").await], [429, 200], "{name}");
        }
        // Who has opened none may still open; the privacy officer works on the Tasks.
        assert_eq!(read("MCT-2", "p2").await, 200);
        let (_, all) = world.get(world.token("operator"), "/fhir/Task?code=break-glass-review&_summary=count").await;
        assert_eq!(all["total"], 45 + 1 + 6 + 1);
        let (tasks, _) = told(&world).await;
        let mut task = tasks[0].clone();
        task["status"] = json!("completed");
        let path = format!("/fhir/Task/{}", task["id"].as_str().unwrap());
        assert_eq!(world.send(world.token("operator"), "PUT", &path, &task).await.0, 200);
        assert_eq!(read("MCT-1", "p3").await, 429);
        // Names of nobody are as many as one likes: for them the client's count does, and where it has no bound of its own, the practitioner's.
        assert_eq!([read("nobody", "p4").await, read("x|MCT-3", "p4").await], [429, 429]);
        assert_eq!(read("MCT-3", "p4").await, 200);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_patient_with_the_numbers_of_several_people_opens_one_of_them(db: &TestDb) {
        let world = World::with(db, |settings| settings.limits.emergencies_per_practitioner = 1).await;
        let number = |value: &str| json!({ "system": NIDA, "value": value });
        let other = json!({ "resourceType": "Patient", "id": "z", "name": [{ "family": "Juma", "given": ["Neema"] }], "birthDate": "1970-01-01",
            "gender": "female", "identifier": [number("19700101-9")] });
        world.put(world.token("a"), &other).await;
        // A slip in a date takes nobody away.
        let mut slip = patient("c", "19900101-1");
        slip["birthDate"] = json!("1990-10-01");
        world.put(world.token("c"), &slip).await;
        let mut fake = json!({ "resourceType": "Patient", "id": "fake", "identifier": [number("19900101-1"), number("19700101-9")] });
        world.put(&world.asker, &fake).await;
        let named = json!([{ "name": "patient", "valueString": "Patient/fake" }]);
        let token = emergency(&world).await;
        let (_, found) = world.lookup(&token, named.clone()).await;
        assert_eq!(ids(&found), set(&["fake"]), "it may be either");
        assert_eq!(told(&world).await.0.len(), 0);
        // By a number those are meant who are linked without it.
        let (_, found) = world.lookup(&token, json!([by_number("19900101-1")])).await;
        assert_eq!(ids(&found), set(&["a", "a-hr", "c", "c-hr", "fake"]), "{found}");
        let (tasks, notices) = told(&world).await;
        assert_eq!((tasks.len(), &tasks[0]["for"]["reference"]), (1, &json!("Patient/a")));
        let mut told_of: Vec<&str> = notices[0]["recipient"].as_array().unwrap().iter().filter_map(|to| to["reference"].as_str()).collect();
        told_of.sort_unstable();
        assert_eq!(told_of, ["Patient/a", "Patient/c", "Patient/fake"]);
        assert_eq!(status(&world, &token, "/fhir/Observation/c-hr").await, 200);
        assert_eq!(status(&world, &token, "/fhir/Observation/z-hr").await, 404);
        assert_eq!(ids(&world.lookup(&token, json!([by_number("19700101-9")])).await.1), set(&["fake"]));
        // Another person is another one, also by a Patient that was somebody else a moment ago.
        let token = emergency(&world).await;
        assert_eq!(status(&world, &token, "/fhir/Observation/z-hr").await, 429);
        (fake["name"], fake["birthDate"]) = (other["name"].clone(), other["birthDate"].clone());
        world.put(&world.asker, &fake).await;
        assert_eq!(world.lookup(&token, named).await.0, 429);
        assert_eq!(status(&world, &token, "/fhir/Observation/c-hr").await, 200, "it is one of the hour's, by whichever of their Patients");
        world.server.stop().await;
    }
);

both_databases!(
    async fn saying_nothing_or_a_day_of_birth_in_common_makes_nobody_one_person_in_an_emergency(db: &TestDb) {
        let world = World::new(db).await;
        let number = |value: String| json!({ "system": NIDA, "value": value });
        let twins = [json!([{ "family": "Mugisha", "given": ["Kato"] }]), json!([{ "family": "Mugisha", "given": ["Wasswa"] }])];
        for (case, said) in
            [("silent", json!({})), ("day", json!({ "birthDate": "1990-05-05" })), ("twin", json!({ "birthDate": "1990-05-05" }))]
        {
            let numbers = [number(format!("{case}-1")), number(format!("{case}-2"))];
            for (place, holder) in ["a", "c"].into_iter().enumerate() {
                let mut other = said.clone();
                (other["resourceType"], other["id"], other["identifier"]) =
                    (json!("Patient"), json!(format!("{case}-{holder}")), json!([numbers[place]]));
                if case == "twin" {
                    other["name"] = twins[place].clone();
                }
                world.put(world.token(holder), &other).await;
            }
            for own in ["own", "again"] {
                let mut fake = said.clone();
                (fake["resourceType"], fake["id"], fake["identifier"]) = (json!("Patient"), json!(format!("{case}-{own}")), json!(numbers));
                if case == "twin" {
                    fake["name"] = json!([twins[0][0], twins[1][0]]);
                }
                world.put(&world.asker, &fake).await;
            }
            let (_, golden) = world.get(world.token("operator"), &format!("/fhir/Patient?link=Patient/{case}-own")).await;
            let golden = golden["entry"][0]["resource"]["id"].as_str().unwrap().to_owned();
            for asked in [format!("{case}-own"), golden] {
                let token = emergency(&world).await;
                let (_, found) = world.lookup(&token, json!([{ "name": "patient", "valueString": format!("Patient/{asked}") }])).await;
                let own = [format!("{case}-again"), format!("{case}-own")];
                assert!(ids(&found).is_subset(&own.into()), "{asked}: {found}");
            }
        }
        assert_eq!(told(&world).await.0.len(), 0);
        world.server.stop().await;
    }
);
