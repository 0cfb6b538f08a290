//! Visits that come several times through the Data Template door: what stays, what is withdrawn, what a replay makes of it.

use crate::support::payloads::{measured, payload, record, send, total, totals};
use crate::support::{TestDb, TestServer, both_databases, program};
use crate::templates::{history, one, superseded, unmapped, warnings};
use lango::store::Store;
use lango::store::visits::Visit;
use lango::store::{Unit, WriteError};
use serde_json::{Value, json};

fn diagnosis(code: &str) -> Value {
    json!({ "diagnosisDate": "2026-09-07", "certainty": "CONFIRMED", "diagnosis": "said", "diagnosisCode": code })
}

fn medicine(code: &str) -> Value {
    json!({ "orderDate": "2026-09-07", "code": code, "name": code, "codeStandard": "MSD CODE" })
}

/// The visit V-1 of M-1 with these blocks instead of the usual ones.
fn visit(blocks: Value) -> Value {
    let mut record = record("M-1", "V-1");
    for (key, value) in blocks.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

async fn sent(server: &TestServer, facility: &str, record: Value) -> Value {
    let (status, reply) = send(server, &payload(facility, vec![record])).await;
    assert_eq!((status, &reply["invalidClients"], &reply["failedClients"]), (200, &json!(0), &json!(0)), "{reply}");
    reply
}

/// Conditions and medicines of the visit by code.
async fn codes(server: &TestServer, kind: &str, path: &str) -> Vec<String> {
    let separator = if kind.contains('?') { '&' } else { '?' };
    let (_, body) = server.get(&format!("/fhir/{kind}{separator}_count=100")).await;
    let entries = body["entry"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> =
        entries.iter().map(|entry| entry["resource"][path]["coding"][0]["code"].as_str().unwrap().to_owned()).collect();
    found.sort();
    found
}

/// What was kept makes again what is there.
async fn replays_change_nothing(db: &TestDb, server: &TestServer) {
    let before = totals(server).await;
    let (_, said, _) = program::output(db, &["template", "replay"]);
    assert!(said.contains("0 records changed"), "{said}");
    assert_eq!(totals(server).await, before);
}

both_databases!(
    async fn a_list_that_comes_again_withdraws_what_it_makes_no_longer(db: &TestDb) {
        let server = TestServer::open(db).await;
        let first = visit(
            json!({ "diagnosisDetails": [diagnosis("B54"), diagnosis("A09")], "medicationDetails": [medicine("D-1"), medicine("D-2")] }),
        );
        sent(&server, "HF-1", first.clone()).await;
        sent(&server, "HF-2", first.clone()).await;
        assert_eq!(total(&server, "Condition").await, 4);
        let wrong = one(&server, "Condition?code=A09&_source=urn:lango:facility:HF-1").await;
        let counted = measured(&server).await.values().sum::<u64>();

        // One diagnosis is corrected, one medicine dropped; the other facility's visit of the same id is another one.
        let mut corrected =
            visit(json!({ "diagnosisDetails": [diagnosis("B54"), diagnosis("J18.9")], "medicationDetails": [medicine("D-2")] }));
        let reply = sent(&server, "HF-1", corrected.clone()).await;
        assert_eq!(reply["updatedClients"], 1, "{reply}");
        assert!(warnings(&reply).contains(r#""listGrid[0]" "was sent before with more in its lists: 2 resources"#), "{reply}");
        assert_eq!(codes(&server, "Condition", "code").await, ["A09", "B54", "B54", "J18.9"]);
        assert_eq!(codes(&server, "MedicationRequest", "medicationCodeableConcept").await, ["D-1", "D-2", "D-2"]);
        assert_eq!(measured(&server).await.values().sum::<u64>(), counted, "the withdrawn diagnosis is not counted");
        let encounter = one(&server, "Encounter?_source=urn:lango:facility:HF-1").await;
        assert!(!encounter.to_string().contains(wrong["id"].as_str().unwrap()), "{encounter}");
        let (status, _) = server.get(&format!("/fhir/Condition/{}", wrong["id"].as_str().unwrap())).await;
        assert_eq!(status, 410, "withdrawn, and its history stays");
        let (_, before) = server.get(&format!("/fhir/Condition/{}/_history/1", wrong["id"].as_str().unwrap())).await;
        assert_eq!(before["code"], wrong["code"]);

        // The same again changes nothing.
        let store = Store::open(&db.url).await.unwrap();
        let versions = superseded(&store).await;
        let reply = sent(&server, "HF-1", corrected.clone()).await;
        assert_eq!((&reply["ignoredClients"], &reply["warnings"]), (&json!(1), &Value::Null), "{reply}");
        assert_eq!(superseded(&store).await, versions);

        // Blocks that stay away stay as they are; an empty list says that there is nothing; null says nothing.
        let update =
            json!({ "mrn": "M-1", "visitDetails": { "id": "V-1" }, "outcomeDetails": { "isAlive": true }, "medicationDetails": null });
        sent(&server, "HF-1", update.clone()).await;
        assert_eq!(codes(&server, "Condition", "code").await.len(), 4);
        assert_eq!(total(&server, "MedicationRequest").await, 3);
        let mut emptied = update;
        emptied["diagnosisDetails"] = json!([]);
        sent(&server, "HF-1", emptied).await;
        assert_eq!(codes(&server, "Condition", "code").await, ["A09", "B54"], "the other facility's");
        let encounter = one(&server, "Encounter?_source=urn:lango:facility:HF-1").await;
        assert_eq!((&encounter["diagnosis"], &encounter["period"]["start"]), (&Value::Null, &json!("2026-09-07")), "{encounter}");

        // A list with an entry that says nothing withdraws nothing.
        corrected["medicationDetails"] = json!([medicine("D-9"), null]);
        sent(&server, "HF-1", corrected).await;
        assert_eq!(codes(&server, "MedicationRequest", "medicationCodeableConcept").await, ["D-1", "D-2", "D-2", "D-9"]);
        // What was withdrawn comes back when it is said again.
        sent(&server, "HF-1", first).await;
        assert_eq!(codes(&server, "MedicationRequest", "medicationCodeableConcept").await, ["D-1", "D-1", "D-2", "D-2"]);
        assert_eq!(history(&server, &wrong).await.len(), 3);
        server.stop().await;
    }
);

both_databases!(
    async fn measurements_and_specimens_of_other_moments_stay(db: &TestDb) {
        let server = TestServer::open(db).await;
        let vital = |day: u32, signs: Value| {
            let mut signs = signs;
            signs["dateTime"] = json!(format!("2026-09-{day:02}T08:00:00Z"));
            json!({ "clinicalInformation": { "vitalSigns": [signs] } })
        };
        let sample = |id: &str, results: Value| json!({ "labRequestDetails": [{ "specimenID": id, "dateOccurred": "2026-09-07", "labTestResults": results }] });
        let result = |set: u32| json!({ "obrSetId": set, "typeOfTest": { "code": "718-7", "codeType": "LOINC" }, "results": [{ "obxSetId": 1, "result": "9.8", "unit": "g/dL" }] });
        sent(&server, "HF-1", visit(vital(7, json!({ "weight": 60, "temperature": 37 })))).await;
        sent(&server, "HF-1", visit(vital(8, json!({ "weight": 61 })))).await;
        assert_eq!(total(&server, "Observation?category=vital-signs").await, 3);
        sent(&server, "HF-1", visit(vital(7, json!({ "weight": 62 })))).await;
        assert_eq!(total(&server, "Observation?category=vital-signs").await, 2, "the temperature of that moment is withdrawn");
        sent(&server, "HF-1", visit(sample("S-1", json!([result(1), result(2)])))).await;
        sent(&server, "HF-1", visit(sample("S-2", json!([result(1)])))).await;
        assert_eq!((total(&server, "Specimen").await, total(&server, "DiagnosticReport").await), (2, 3));
        sent(&server, "HF-1", visit(sample("S-1", json!([result(2)])))).await;
        assert_eq!((total(&server, "Specimen").await, total(&server, "DiagnosticReport").await), (2, 2));
        assert_eq!(total(&server, "Observation?category=laboratory").await, 2, "with what it reported");
        server.stop().await;
    }
);

both_databases!(
    async fn an_older_submission_that_is_carried_out_late_undoes_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        // Kept, and not carried out: as if the process had died.
        let store = Store::open(&db.url).await.unwrap();
        let mut older = visit(json!({ "diagnosisDetails": [diagnosis("A09")], "medicationDetails": [medicine("D-1")] }));
        older["visitDetails"]["visitDate"] = json!("2026-09-06");
        older["demographicDetails"]["occupation"] = json!("Fisher");
        store.keep_submission("template", 0, payload("HF-1", vec![older]).to_string().as_bytes()).await.unwrap();
        sent(&server, "HF-1", visit(json!({ "diagnosisDetails": [diagnosis("B54")] }))).await;
        server.stop().await;

        let server = TestServer::open(db).await;
        assert!(store.submissions(&["template"], true, 0, 10).await.unwrap().is_empty(), "it was carried out at the start");
        assert_eq!(codes(&server, "Condition", "code").await, ["B54"], "the newer list stands");
        assert_eq!(
            codes(&server, "MedicationRequest", "medicationCodeableConcept").await,
            ["D-1"],
            "what the newer does not speak of is filled in"
        );
        assert_eq!(one(&server, "Encounter").await["period"]["start"], "2026-09-07");
        assert!(one(&server, "Patient").await.to_string().contains("Fisher"));
        let before = totals(&server).await;
        let (_, said, _) = program::output(db, &["template", "replay"]);
        assert!(said.contains("2 submissions translated again"), "{said}");
        assert_eq!(totals(&server).await, before);
        assert_eq!(codes(&server, "Condition", "code").await, ["B54"]);
        store.close().await;
        server.stop().await;
    }
);

both_databases!(
    async fn clients_that_send_a_visit_at_once_leave_one_of_their_lists(db: &TestDb) {
        let server = TestServer::open(db).await;
        sent(&server, "HF-1", visit(json!({ "medicationDetails": [medicine("D-0")] }))).await;
        for round in 0..4 {
            let senders = (1..=8).map(|n| {
                let lists = json!({ "medicationDetails": [medicine(&format!("D-{round}-{n}")), medicine(&format!("E-{round}-{n}"))] });
                sent(&server, "HF-1", visit(lists))
            });
            futures_util::future::join_all(senders).await;
            let left = codes(&server, "MedicationRequest", "medicationCodeableConcept").await;
            assert!(left.len() == 2 && left[0][1..] == left[1][1..], "one sender's list, whole: {left:?}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_unit_made_on_an_older_memory_of_a_visit_is_stale(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let visit = |revision, submission| Visit { id: "v".into(), revision, submission, lists: "{}".into() };
        let unit = |visit: Visit| Unit { visits: vec![visit], ..Unit::default() };
        store.commit(unit(visit(0, 7))).await.unwrap();
        assert!(matches!(store.commit(unit(visit(0, 8))).await, Err(WriteError::Stale)));
        store.commit(unit(visit(1, 9))).await.unwrap();
        assert!(matches!(store.commit(unit(visit(1, 10))).await, Err(WriteError::Stale)));
        assert_eq!(store.visits(&["v", "w"]).await.unwrap().into_values().collect::<Vec<_>>(), [visit(2, 9)]);
        store.close().await;
    }
);

both_databases!(
    async fn a_replay_passes_through_no_old_state(db: &TestDb) {
        let server = TestServer::open(db).await;
        let said = |code: &str, occupation: &str, day: &str| {
            let mut record = visit(json!({ "diagnosisDetails": [diagnosis(code)] }));
            record["demographicDetails"]["occupation"] = json!(occupation);
            record["visitDetails"]["closedDate"] = json!(day);
            record
        };
        sent(&server, "HF-1", said("A09", "Fisher", "2026-09-07")).await;
        sent(&server, "HF-1", said("MAFUA", "Farmer", "2026-09-08")).await;
        sent(&server, "HF-1", json!({ "mrn": "M-1", "visitDetails": { "id": "V-1", "closedDate": "2026-09-09" } })).await;
        sent(&server, "HF-2", said("MAFUA", "Farmer", "2026-09-07")).await;
        let other = record("M-2", "V-2");
        sent(&server, "HF-1", other).await;
        let store = Store::open(&db.url).await.unwrap();
        let (before, versions) = (totals(&server).await, superseded(&store).await);
        let replay = |arguments: &[&str]| {
            let (code, said, words) = program::output(db, &[&["template", "replay"], arguments].concat());
            assert_eq!(code, Some(0), "{words}");
            said
        };
        assert!(replay(&[]).contains("5 submissions translated again, 0 records changed"));
        assert_eq!((totals(&server).await, superseded(&store).await), (before.clone(), versions), "nothing was mended");

        let (_, mut map) = server.get("/fhir/ConceptMap/hdu-diagnosis").await;
        let elements = map["group"][0]["element"].as_array_mut().unwrap();
        elements.push(json!({ "code": "MAFUA", "target": [{ "code": "J06.9", "equivalence": "equivalent" }] }));
        assert_eq!(server.put("/fhir/ConceptMap/hdu-diagnosis", &map).await.0, 200);
        let versions = superseded(&store).await;
        let dry = replay(&["--dry-run"]);
        assert!(
            dry.contains("Condition: 0 would be created, 2 would be updated, 0 would be withdrawn") && dry.contains("Nothing was stored"),
            "{dry}"
        );
        assert_eq!(superseded(&store).await, versions);
        assert_eq!(unmapped(&server).await.iter().filter(|((_, _, code), _)| code == "MAFUA").count(), 2);

        let done = replay(&[]);
        assert!(done.contains("Condition: 0 created, 2 updated, 0 withdrawn"), "{done}");
        assert_eq!(superseded(&store).await, versions + 2, "one new version of each changed resource");
        assert_eq!(codes(&server, "Condition", "code").await, ["B54", "J06.9", "J06.9"]);
        assert_eq!(totals(&server).await, before);
        assert!(unmapped(&server).await.iter().all(|((_, _, code), _)| code != "MAFUA"));
        let again = replay(&[]);
        assert!(again.contains("0 records changed") && !again.contains("Condition"), "{again}");
        assert_eq!(superseded(&store).await, versions + 2);
        let (encounter, patient) = (
            one(&server, "Encounter?_source=urn:lango:facility:HF-1&identifier=V-1").await,
            one(&server, "Patient?_source=urn:lango:facility:HF-1&identifier=M-1").await,
        );
        assert_eq!(encounter["period"]["end"], "2026-09-09");
        assert!(patient.to_string().contains("Farmer"), "{patient}");
        store.close().await;
        server.stop().await;
    }
);

both_databases!(
    async fn a_word_that_fhir_has_no_code_for_stays_in_the_resource(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut record =
            visit(json!({ "diagnosisDetails": [{ "diagnosisDate": "2026-09-07", "certainty": "HAKIKA", "diagnosisCode": "B54" }] }));
        record["demographicDetails"]["gender"] = json!("mwanamke");
        record["demographicDetails"]["identifiers"] =
            json!([null, { "type": "MRN", "id": "M-1", "preferred": true }, { "type": "CLAN BOOK", "id": "7" }]);
        record["allergies"] = json!([{ "code": "A-1", "name": "Karanga", "category": "KARANGA", "criticality": "KALI" }]);
        let medicines = json!([{ "orderDate": "2026-09-07", "code": "D-9", "codeStandard": "HOUSE LIST", "refillStatus": "IMEISHA" }]);
        record["medicationDetails"] = medicines;
        let reply = sent(&server, "HF-1", record.clone()).await;
        let paths: Vec<(&str, &str)> = reply["unmapped"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["code"].as_str().unwrap(), one["path"].as_str().unwrap()))
            .collect();
        for (code, path) in [
            ("HAKIKA", "listGrid[0].diagnosisDetails[0].certainty"),
            ("mwanamke", "listGrid[0].demographicDetails.gender"),
            ("CLAN BOOK", "listGrid[0].demographicDetails.identifiers[2].type"),
            ("KARANGA", "listGrid[0].allergies[0].category"),
            ("KALI", "listGrid[0].allergies[0].criticality"),
            ("HOUSE LIST", "listGrid[0].medicationDetails[0].codeStandard"),
            ("IMEISHA", "listGrid[0].medicationDetails[0].refillStatus"),
        ] {
            assert!(paths.contains(&(code, path)), "{code}: {paths:?}");
        }
        let original = |element: &Value| element["extension"][0]["valueString"].as_str().map(str::to_owned);
        let patient = one(&server, "Patient").await;
        assert_eq!((&patient["gender"], original(&patient["_gender"])), (&json!("unknown"), Some("mwanamke".into())));
        assert_eq!(patient["_gender"]["extension"][0]["url"], "http://hl7.org/fhir/StructureDefinition/originalText");
        let condition = one(&server, "Condition").await;
        assert_eq!(
            (&condition["verificationStatus"]["text"], &condition["verificationStatus"]["coding"]),
            (&json!("HAKIKA"), &Value::Null)
        );
        let allergy = one(&server, "AllergyIntolerance").await;
        assert_eq!((original(&allergy["_category"][0]), original(&allergy["_criticality"])), (Some("KARANGA".into()), Some("KALI".into())));
        let medicine = one(&server, "MedicationRequest").await;
        assert_eq!((&medicine["status"], original(&medicine["_status"])), (&json!("active"), Some("IMEISHA".into())));
        assert_eq!(original(&medicine["medicationCodeableConcept"]["coding"][0]["_system"]), Some("HOUSE LIST".into()));
        for resource in [&patient, &condition, &allergy, &medicine] {
            let kind = resource["resourceType"].as_str().unwrap();
            let (status, outcome) = server.post(&format!("/fhir/{kind}/$validate"), resource).await;
            let told = outcome["issue"].as_array().unwrap();
            assert!(status == 200 && told.iter().all(|issue| issue["severity"] != "error"), "{kind}: {outcome}");
        }
        // Said in words that are known, nothing of the old word is left.
        record["demographicDetails"]["gender"] = json!("female");
        sent(&server, "HF-1", record).await;
        let patient = one(&server, "Patient").await;
        assert_eq!((&patient["gender"], &patient["_gender"]), (&json!("female"), &Value::Null));
        server.stop().await;
    }
);

both_databases!(
    async fn dates_to_come_and_missing_facilities_are_told_with_their_path(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (mut unborn, mut odd) = (record("M-1", "V-1"), record("M-2", "V-2"));
        unborn["demographicDetails"]["dateOfBirth"] = json!("2199-01-01");
        odd["demographicDetails"]["dateOfBirth"] = json!("2026-09-08");
        let mut body = payload("HF-1", vec![unborn, odd]);
        body["data"].as_object_mut().unwrap().remove("facilityDetails");
        let (status, reply) = send(&server, &body).await;
        assert_eq!((status, &reply["newClients"], &reply["invalidClients"]), (200, &json!(1), &json!(1)), "{reply}");
        let told = reply["invalidClientsSummary"][0]["validationIssues"].to_string();
        assert!(told.contains("Field 'demographicDetails.dateOfBirth': is in the future"), "{told}");
        let told = warnings(&reply);
        assert!(told.contains(r#""data.facilityDetails.code" "the payload names no facility"#), "{told}");
        assert!(told.contains(r#""listGrid[1].demographicDetails.dateOfBirth" "is after visitDate"#), "{told}");
        server.stop().await;
    }
);

/// The codes of what a client of HF-1 was diagnosed with.
async fn diagnoses(server: &TestServer, mrn: &str) -> Vec<String> {
    let patient = one(server, &format!("Patient?identifier={mrn}&_source=urn:lango:facility:HF-1")).await;
    codes(server, &format!("Condition?patient={}", patient["id"].as_str().unwrap()), "code").await
}

both_databases!(
    async fn visits_of_one_number_are_each_clients_own(db: &TestDb) {
        let server = TestServer::open(db).await;
        let of = |mrn: &str, code: &str| {
            let mut record = record(mrn, "1");
            record["diagnosisDetails"] = json!([diagnosis(code)]);
            record["demographicDetails"]["firstName"] = json!(mrn);
            record
        };
        let (status, reply) = send(&server, &payload("HF-1", vec![of("alice", "B54"), of("bob", "A09")])).await;
        assert_eq!((status, &reply["newClients"]), (200, &json!(2)), "{reply}");
        let warned = warnings(&reply);
        assert!(warned.contains(r#""listGrid[1].visitDetails.id" "this visit id was sent of another client"#), "{warned}");
        assert!(!warned.contains("listGrid[0]") && !warned.contains("alice"), "{warned}");
        assert_eq!(total(&server, "Encounter?identifier=1").await, 2);
        assert_eq!((diagnoses(&server, "alice").await, diagnoses(&server, "bob").await), (vec!["B54".into()], vec!["A09".into()]));

        // What comes of one of them later is nothing to the other.
        sent(&server, "HF-1", of("bob", "J18.9")).await;
        let discharge = json!({ "mrn": "bob", "visitDetails": { "id": "1", "closedDate": "2026-09-20" }, "diagnosisDetails": [] });
        sent(&server, "HF-1", discharge.clone()).await;
        assert_eq!((diagnoses(&server, "alice").await, diagnoses(&server, "bob").await), (vec!["B54".into()], vec![]));
        let visits = last_days(&server).await;
        assert_eq!(visits, ["2026-09-07", "2026-09-20"]);
        // A client of whom no visit of this number was sent has none to be updated; a record without a client has none either.
        sent(&server, "HF-1", record("carol", "2")).await;
        let (mut carols, mut nobodys) = (discharge.clone(), discharge);
        carols["mrn"] = json!("carol");
        nobodys.as_object_mut().unwrap().remove("mrn");
        let (_, reply) = send(&server, &payload("HF-1", vec![carols, nobodys])).await;
        assert_eq!((&reply["failedClients"], &reply["invalidClients"]), (&json!(1), &json!(1)), "{reply}");
        replays_change_nothing(db, &server).await;
        assert_eq!(last_days(&server).await, ["2026-09-07", "2026-09-07", "2026-09-20"]);
        server.stop().await;
    }
);

/// The days on which visits ended.
async fn last_days(server: &TestServer) -> Vec<String> {
    let (_, body) = server.get("/fhir/Encounter?_count=100").await;
    let entries = body["entry"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> = entries.iter().map(|entry| entry["resource"]["period"]["end"].as_str().unwrap().to_owned()).collect();
    found.sort();
    found
}

both_databases!(
    async fn only_a_client_who_is_known_may_come_without_details(db: &TestDb) {
        let server = TestServer::open(db).await;
        let bare = |mrn: &str, visit: &str| {
            json!({
                "mrn": mrn, "visitDetails": { "id": visit, "visitDate": "2026-09-10", "closedDate": "2026-09-10", "visitType": "OPD" },
                "diagnosisDetails": [diagnosis("B54")],
            })
        };
        let (status, reply) = send(&server, &payload("HF-1", vec![bare("M-1", "V-2"), record("M-1", "V-1"), bare("M-1", "V-3")])).await;
        assert_eq!(status, 200, "{reply}");
        for (key, count) in [("newClients", 1), ("updatedClients", 1), ("failedClients", 1)] {
            assert_eq!(reply[key], count, "{key}: {reply}");
        }
        let line = &reply["summary"][0];
        assert_eq!((&line["success"], &line["visitId"]), (&json!(false), &json!("V-2")), "{reply}");
        assert!(line["validationIssues"][0].as_str().unwrap().starts_with("Field 'demographicDetails': is missing"), "{reply}");
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await), (1, 2));
        // Known now, and what is known of the client stays; another facility does not know the client.
        sent(&server, "HF-1", bare("M-1", "V-2")).await;
        let patient = one(&server, "Patient").await;
        assert_eq!((&patient["birthDate"], &patient["meta"]["versionId"]), (&json!("1994-03-22"), &json!("1")), "{patient}");
        let (_, reply) = send(&server, &payload("HF-2", vec![bare("M-1", "V-2")])).await;
        assert_eq!((&reply["failedClients"], &reply["newClients"]), (&json!(1), &json!(0)), "{reply}");
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await), (1, 3));
        server.stop().await;
    }
);

both_databases!(
    async fn a_client_is_new_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        let records = || vec![record("M-1", "V-1"), record("M-1", "V-2"), record("M-1", "V-1"), record("M-2", "V-3")];
        let counts = |reply: &Value| ["newClients", "updatedClients", "ignoredClients"].map(|key| reply[key].as_u64().unwrap());
        let (_, reply) = send(&server, &payload("HF-1", records())).await;
        assert_eq!(counts(&reply), [2, 1, 1], "{reply}");
        let (_, reply) = send(&server, &payload("HF-1", records())).await;
        assert_eq!(counts(&reply), [0, 0, 4], "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_code_that_is_none_of_icd_10_is_listed_and_not_called_one(db: &TestDb) {
        let server = TestServer::open(db).await;
        let said = ["b54", "B99.99", "A09.X", "J06.9X"];
        let reply = sent(&server, "HF-1", visit(json!({ "diagnosisDetails": said.map(diagnosis) }))).await;
        let listed: Vec<&str> = reply["unmapped"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
        assert_eq!(listed, ["B99.99", "A09.X", "J06.9X"], "{reply}");
        assert_eq!(codes(&server, "Condition?code=http://hl7.org/fhir/sid/icd-10%7C", "code").await, ["B54"]);
        assert_eq!(codes(&server, "Condition", "code").await, ["A09.X", "B54", "B99.99", "J06.9X"]);
        let own = "Condition?code=https://lango.health/fhir/CodeSystem/hdu-diagnosis%7CB99.99";
        assert_eq!(one(&server, own).await["code"]["coding"].as_array().unwrap().len(), 1);
        assert_eq!(measured(&server).await.into_iter().map(|(cell, count)| (cell.1, count)).collect::<Vec<_>>(), [("B54".into(), 1)]);
        server.stop().await;
    }
);

both_databases!(
    async fn a_medicine_that_no_map_knows_is_listed_and_translated_when_it_is_mended(db: &TestDb) {
        let server = TestServer::open(db).await;
        let coded = |code: &str, standard: Value| {
            let mut medicine = medicine(code);
            medicine["codeStandard"] = standard;
            medicine
        };
        let medicines =
            [coded("D-1", json!("MSD CODE")), coded("D-2", json!("MNH CODE")), coded("D-3", Value::Null), coded("J01CA04", json!("ATC"))];
        let reply = sent(&server, "HF-1", visit(json!({ "medicationDetails": medicines }))).await;
        let listed: Vec<(&str, &str)> = reply["unmapped"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["code"].as_str().unwrap(), one["path"].as_str().unwrap()))
            .collect();
        let place = |place: usize| format!("listGrid[0].medicationDetails[{place}].code");
        assert_eq!(listed, [("D-1", &*place(0)), ("D-2", &*place(1)), ("D-3", &*place(2))], "{reply}");
        let (_, mut map) = server.get("/fhir/ConceptMap/hdu-medication").await;
        let element = json!([{ "code": "D-1", "target": [{ "code": "J01CA04", "equivalence": "equivalent" }] }]);
        let source = "https://lango.health/fhir/CodeSystem/msd";
        map["group"] = json!([{ "source": source, "target": "http://www.whocc.no/atc", "element": element }]);
        assert_eq!(server.put("/fhir/ConceptMap/hdu-medication", &map).await.0, 200);
        let (_, said, _) = program::output(db, &["template", "replay"]);
        assert!(said.contains("MedicationRequest: 0 created, 1 updated, 0 withdrawn"), "{said}");
        let mended = one(&server, &format!("MedicationRequest?code={source}%7CD-1")).await;
        assert_eq!(mended["medicationCodeableConcept"]["coding"][0]["code"], "J01CA04", "{mended}");
        assert!(unmapped(&server).await.iter().all(|((_, _, code), _)| code != "D-1"));
        server.stop().await;
    }
);

both_databases!(
    async fn a_payload_may_name_no_template_and_is_told_of_one_that_is_not_there(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut body = payload("HF-1", vec![record("M-1", "V-1")]);
        body.as_object_mut().unwrap().remove("templateDetails");
        let (status, reply) = send(&server, &body).await;
        assert_eq!((status, &reply["newClients"], &reply["warnings"]), (200, &json!(1), &Value::Null), "{reply}");
        body["templateDetails"] = json!({ "code": "NOPE", "id": "nope", "name": "None" });
        let (_, reply) = send(&server, &body).await;
        assert!(warnings(&reply).contains(r#""templateDetails.code" "names a template that is not known here"#), "{reply}");
        let mut odd = record("M-1", "V-1");
        odd["visitDetails"]["id"] = json!(true);
        let (status, reply) = send(&server, &payload("HF-1", vec![odd])).await;
        assert_eq!(status, 400, "{reply}");
        assert!(reply["invalidClientsSummary"][0]["validationIssues"].to_string().contains("'visitDetails.id': must be text"), "{reply}");
        server.stop().await;
    }
);

fn identifier(kind: &str, id: &str) -> Value {
    json!({ "type": kind, "id": id, "preferred": true })
}

/// The visit TV of one client, who is named by these identifiers.
fn named(identifiers: &[Value], mrn: Option<&str>) -> Value {
    let mut record = record("x", "TV");
    let details = record["demographicDetails"].as_object_mut().unwrap();
    details.remove("mrn");
    details.insert("identifiers".to_owned(), json!(identifiers));
    record["mrn"] = json!(mrn);
    record
}

both_databases!(
    async fn a_visit_is_one_however_its_client_is_named(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (nida, other) = (identifier("NIDA", "19940322-1"), identifier("HCRCODE", "HCR-7"));
        let ways = [
            named(&[identifier("MRN", "tv1"), nida.clone()], Some("tv1")),
            named(std::slice::from_ref(&nida), None),
            named(&[identifier("MRN", "tv1b")], Some("tv1b")),
            named(&[identifier("MRN", "tv1b"), other.clone()], Some("tv1b")),
            json!({ "identifiers": [other], "visitDetails": { "id": "TV" }, "eyeClinicDetails": { "refracted": true } }),
            json!({ "visitDetails": { "id": "TV", "closedDate": "2026-09-08" }, "outcomeDetails": { "isAlive": true } }),
        ];
        // One payload after another, all in one payload, and both in another order.
        for way in &ways {
            let reply = sent(&server, "HF-1", way.clone()).await;
            assert_eq!(reply["warnings"], Value::Null, "{reply}");
        }
        let mut together = ways.to_vec();
        together[..4].reverse();
        let (status, reply) = send(&server, &payload("HF-2", together.clone())).await;
        assert_eq!((status, &reply["newClients"], &reply["failedClients"]), (200, &json!(1), &json!(0)), "{reply}");
        for way in together {
            sent(&server, "HF-3", way).await;
        }
        for (kind, count) in [("Patient", 3), ("Encounter", 3), ("Condition", 3)] {
            assert_eq!(total(&server, kind).await, count, "{kind}");
        }
        assert_eq!(measured(&server).await.values().sum::<u64>(), 3);
        let patient = one(&server, "Patient?_source=urn:lango:facility:HF-1").await;
        let numbers: Vec<(&Value, &Value)> =
            patient["identifier"].as_array().unwrap().iter().map(|one| (&one["value"], &one["use"])).collect();
        assert!(numbers.contains(&(&json!("tv1"), &json!("old"))) && numbers.contains(&(&json!("tv1b"), &json!("usual"))), "{patient}");
        assert!(patient.to_string().contains("19940322-1") && patient.to_string().contains("HCR-7"), "{patient}");
        let encounter = one(&server, "Encounter?_source=urn:lango:facility:HF-1").await;
        assert_eq!(encounter["period"]["end"], "2026-09-08", "the update that named the visit only");
        // What the registry calls the client is told by the reply, whoever sent it.
        let reply = sent(&server, "HF-1", ways[1].clone()).await;
        assert_eq!(reply["summary"][0]["hcrCode"], "HCR-7", "{reply}");

        replays_change_nothing(db, &server).await;
        server.stop().await;
    }
);

both_databases!(
    async fn two_people_are_never_one(db: &TestDb) {
        let server = TestServer::open(db).await;
        let nida = identifier("NIDA", "19940322-1");
        sent(&server, "HF-1", named(&[identifier("MRN", "mother"), nida.clone()], Some("mother"))).await;
        // A child that is brought under its mother's identifier, in the same visit.
        let mut child = named(&[identifier("MRN", "child"), nida.clone()], Some("child"));
        child["demographicDetails"]["firstName"] = json!("Zawadi");
        child["demographicDetails"]["dateOfBirth"] = json!("2026-09-07");
        let reply = sent(&server, "HF-1", child.clone()).await;
        assert!(warnings(&reply).contains(r#""listGrid[0].visitDetails.id" "this visit id was sent of another client"#), "{reply}");
        assert_eq!(sent(&server, "HF-1", child).await["warnings"], Value::Null, "told once");
        // Whose is this?
        let whose = json!({ "identifiers": [nida], "visitDetails": { "id": "TV" }, "eyeClinicDetails": { "refracted": true } });
        let (status, reply) = send(&server, &payload("HF-1", vec![whose.clone()])).await;
        assert_eq!((status, &reply["invalidClients"]), (400, &json!(1)), "{reply}");
        let why = reply["invalidClientsSummary"][0]["validationIssues"].to_string();
        assert!(why.contains("several clients") && !why.contains("19940322"), "{why}");
        let mut hers = whose;
        hers["mrn"] = json!("mother");
        sent(&server, "HF-1", hers).await;
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await), (2, 2));
        // The numbers of another facility are its own.
        sent(&server, "HF-2", named(&[identifier("MRN", "mother")], Some("mother"))).await;
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await), (3, 3));
        replays_change_nothing(db, &server).await;
        server.stop().await;
    }
);

both_databases!(
    async fn clients_that_are_named_differently_at_once_are_one(db: &TestDb) {
        let server = TestServer::open(db).await;
        let nida = identifier("NIDA", "19940322-1");
        let ways = [
            named(&[identifier("MRN", "tv1"), nida.clone()], Some("tv1")),
            named(&[nida], None),
            named(&[identifier("MRN", "tv1b")], Some("tv1b")),
        ];
        for round in 0..4 {
            let facility = format!("HF-{round}");
            let senders = (0..6).map(|n| sent(&server, &facility, ways[n % 3].clone()));
            futures_util::future::join_all(senders).await;
        }
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await, total(&server, "Condition").await), (4, 4, 4));
        server.stop().await;
    }
);
