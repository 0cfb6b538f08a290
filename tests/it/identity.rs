//! Whose a record is: people who are alike stay apart, through every template and door.

use crate::support::payloads::{payload, record, record_with_nida, send, total, totals};
use crate::support::{TestServer, both_databases, program};
use crate::templates::{one, warnings};
use serde_json::{Value, json};

const LAB: &str = "/api/v1/hduApi/labDataTemplates";

/// The first visit of a Juma Mussa by the facility's way of counting.
fn juma(mrn: &str, middle: &str, phone: &str, day: &str, code: &str) -> Value {
    let mut record = record(mrn, "1");
    let details = record["demographicDetails"].as_object_mut().unwrap();
    details.extend([
        ("firstName".to_owned(), json!("Juma")),
        ("middleName".to_owned(), json!(middle)),
        ("lastName".to_owned(), json!("Mussa")),
        ("phoneNumbers".to_owned(), json!([phone])),
    ]);
    record["visitDetails"]["visitDate"] = json!(day);
    record["diagnosisDetails"][0]["diagnosisCode"] = json!(code);
    record
}

async fn replayed(server: &TestServer, db: &crate::support::TestDb) {
    let before = totals(server).await;
    let (_, said, _) = program::output(db, &["template", "replay"]);
    assert!(said.contains("0 records changed"), "{said}");
    assert_eq!(totals(server).await, before);
}

both_databases!(
    async fn people_of_one_name_and_birth_date_stay_apart(db: &TestDb) {
        let server = TestServer::open(db).await;
        // Two men whose EMR counts the visits of each.
        for (mrn, middle, phone, day, code) in
            [("J-1", "Hamisi", "+255700000001", "2026-09-01", "B20"), ("J-2", "Salum", "+255700000002", "2026-09-20", "J06.9")]
        {
            let (status, reply) = send(&server, &payload("HF-1", vec![juma(mrn, middle, phone, day, code)])).await;
            assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        }
        // One payload with twins of whom everything is the same; even under their mother's national id.
        let twin = |mrn: &str| juma(mrn, "Baby", "+255700000003", "2026-09-07", "P07.1");
        let (_, reply) = send(&server, &payload("HF-2", vec![twin("T-1"), twin("T-2")])).await;
        assert_eq!(reply["newClients"], 2, "{reply}");
        let (_, reply) =
            send(&server, &payload("HF-3", vec![record_with_nida("T-1", "1", "M-77"), record_with_nida("T-2", "1", "M-77")])).await;
        assert_eq!(reply["newClients"], 2, "{reply}");
        for (kind, count) in [("Patient", 6), ("Encounter", 6), ("Condition", 6)] {
            assert_eq!(total(&server, kind).await, count, "{kind}");
        }
        replayed(&server, db).await;

        // One man whose number was corrected: nothing else differs, and the sender is told.
        send(&server, &payload("HF-4", vec![twin("C-1")])).await;
        let (_, reply) = send(&server, &payload("HF-4", vec![twin("C-2")])).await;
        assert_eq!((&reply["newClients"], &reply["updatedClients"]), (&json!(0), &json!(1)), "{reply}");
        assert!(warnings(&reply).contains(r#""listGrid[0].mrn" "the client is taken for one"#), "{reply}");
        let (_, reply) = send(&server, &payload("HF-4", vec![twin("C-2")])).await;
        assert_eq!(reply["warnings"], Value::Null, "told once: {reply}");
        assert_eq!(total(&server, "Encounter?_source=urn:lango:facility:HF-4").await, 1);
        replayed(&server, db).await;
        server.stop().await;
    }
);

both_databases!(
    async fn a_word_for_no_identifier_makes_nobody_the_same(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (place, said) in ["N/A", "0000-00", "9999", "hakuna"].into_iter().enumerate() {
            for facility in ["HF-1", "HF-2"] {
                let mut record = record_with_nida(&format!("M-{place}"), &format!("V-{place}"), said);
                record["demographicDetails"]["firstName"] = json!(format!("{facility} {place}"));
                let (_, reply) = send(&server, &payload(facility, vec![record])).await;
                assert_eq!(reply["newClients"], 1, "{reply}");
                assert!(warnings(&reply).contains(r#""listGrid[0].demographicDetails.identifiers[1]" "looks like a word"#), "{reply}");
            }
        }
        assert_eq!(total(&server, "Patient").await, 8, "and no golden one");
        assert_eq!(total(&server, "Patient?identifier=9999").await, 2, "kept as it was sent");
        // A number that is none: whose visit is it?
        let mut nobody = record("N/A", "V-1");
        nobody["demographicDetails"]["firstName"] = json!("Asha");
        let (status, reply) = send(&server, &payload("HF-1", vec![nobody])).await;
        assert_eq!((status, &reply["invalidClients"]), (400, &json!(1)), "{reply}");
        assert_eq!(total(&server, "Encounter").await, 8);
        server.stop().await;
    }
);

both_databases!(
    async fn a_template_of_ones_own_has_clients_of_its_own(db: &TestDb) {
        let server = TestServer::open(db).await;
        send(&server, &payload("HF-1", vec![record("12", "V-1")])).await;
        let visit = json!({ "household": "H-1", "person": "12", "name": "Juma Kombo", "sex": "M", "birthDate": "2020-05-05", "date": "2026-09-08",
            "temperature": 38.5 });
        let form = json!({ "form": "community-screening", "facility": "HF-1", "reportedOn": "2026-09-08", "visits": [visit] });
        let (_, reply) = send(&server, &form).await;
        assert_eq!(reply["newClients"], 1, "{reply}");
        let (_, reply) = send(&server, &form).await;
        assert_eq!(reply["ignoredClients"], 1, "{reply}");
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter").await), (2, 2));
        let client = one(&server, "Patient?family=Massawe").await;
        assert_eq!((&client["meta"]["versionId"], &client["gender"]), (&json!("1"), &json!("female")), "{client}");
        assert_eq!(total(&server, "Observation?code=8310-5&subject:Patient.name=Juma").await, 1);
        assert_eq!(total(&server, "Organization?identifier=HF-1").await, 1, "the facility is the same");
        server.stop().await;
    }
);

fn sample(mrn: &str, result: &str) -> Value {
    let results = json!([{ "obxSetId": 1, "result": result }]);
    let tests = json!([{ "obrSetId": 1, "typeOfTest": { "code": "70569-9", "codeType": "LOINC" }, "results": results }]);
    json!({ "mrn": mrn, "labRequestDetails": [{ "specimenID": "1", "dateOccurred": "2026-09-07", "labTestResults": tests }] })
}

fn samples(records: Vec<Value>) -> Value {
    let mut body = payload("HF-1", records);
    body["templateDetails"]["code"] = json!("LAB");
    body
}

both_databases!(
    async fn a_result_never_moves_to_another_patient(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut second = record("lo2", "V-2");
        second["demographicDetails"]["firstName"] = json!("Juma");
        send(&server, &payload("HF-1", vec![record("lo1", "V-1"), second])).await;
        for (mrn, result) in [("lo1", "Positive"), ("lo2", "Negative"), ("lo1", "Positive")] {
            assert_eq!(server.post(LAB, &samples(vec![sample(mrn, result)])).await.0, 200);
        }
        let results = |mrn: &str| format!("Observation?code=70569-9&subject:Patient.identifier={mrn}");
        for (mrn, result) in [("lo1", "Positive"), ("lo2", "Negative")] {
            assert_eq!(one(&server, &results(mrn)).await["valueString"], result);
        }
        replayed(&server, db).await;
        server.stop().await;
        // A template whose author forgot the client in the ids.
        let folder = tempfile::tempdir().unwrap();
        let mapping = include_str!("../../profiles/templates/lab/mapping.json");
        let forgetful = mapping.replace(r#"{ "$first": ["=%client.select('lab\\u001f' & $this)", "lab"] }"#, r#""forgetful""#);
        assert_ne!(mapping, forgetful);
        std::fs::create_dir(folder.path().join("lab")).unwrap();
        std::fs::write(folder.path().join("lab/mapping.json"), forgetful).unwrap();
        let server = TestServer::start(db, |settings| settings.templates_dir = Some(folder.path().to_owned())).await;
        assert_eq!(server.post(LAB, &samples(vec![sample("lo1", "3")])).await.0, 200);
        let (_, reply) = server.post(LAB, &samples(vec![sample("lo2", "4")])).await;
        assert!(reply.to_string().contains("Another patient's Specimen is stored under the same keys"), "{reply}");
        // In either order, and alone.
        for records in [vec![sample("lo1", "6"), sample("lo2", "7")], vec![sample("lo2", "8")]] {
            let (_, reply) = server.post(LAB, &samples(records)).await;
            assert_eq!(reply["failedRequests"], 1, "{reply}");
        }
        assert_eq!(total(&server, "Observation?value-quantity=6&subject:Patient.identifier=lo1").await, 1);
        assert_eq!(total(&server, "Observation?value-quantity=gt2&subject:Patient.identifier=lo2").await, 0);
        server.stop().await;
    }
);

both_databases!(
    async fn a_number_is_a_key_however_it_is_written(db: &TestDb) {
        let server = TestServer::open(db).await;
        for number in [json!(400388), json!("400388"), json!(400388.0)] {
            let mut record = record("7", "x");
            record["visitDetails"]["id"] = number;
            record["mrn"] = json!(7.0);
            let (status, reply) = send(&server, &payload("HF-1", vec![record])).await;
            assert_eq!(status, 200, "{reply}");
        }
        assert_eq!((total(&server, "Patient").await, total(&server, "Encounter?identifier=400388").await), (1, 1));
        server.stop().await;
    }
);
