//! What the blocks of a visit become in the store: dated by their visit, valid by the server's own word, and nothing of nothing.

use crate::support::payloads::{payload, record, send};
use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};

/// The resources of a type, other than the outcome that each visit has.
async fn resources(server: &TestServer, kind: &str) -> Vec<Value> {
    let separator = if kind.contains('?') { '&' } else { '?' };
    let (_, body) = server.get(&format!("/fhir/{kind}{separator}_count=100")).await;
    let entries = body["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone());
    entries.filter(|one| one["category"][0]["coding"][0]["code"] != "outcome-details").collect()
}

both_databases!(
    async fn an_update_without_a_date_has_the_date_of_its_visit(db: &TestDb) {
        let server = TestServer::open(db).await;
        let eye = |refracted: bool| json!({"mrn": "M-1", "visitDetails": {"id": "V-1"}, "eyeClinicDetails": {"refracted": refracted}});
        let (_, reply) = send(&server, &payload("HF-1", vec![eye(true)])).await;
        assert_eq!(reply["summary"].as_array().map_or(0, |all| all.iter().filter(|one| one["success"] == true).count()), 0, "{reply}");
        assert_eq!(resources(&server, "Observation?category=eye-clinic").await, [Value::Null; 0]);

        // Behind the visit in the same payload, and again later.
        for sent in [vec![record("M-1", "V-1"), eye(true)], vec![eye(false)]] {
            let (status, reply) = send(&server, &payload("HF-1", sent)).await;
            assert_eq!((status, &reply["failedClients"]), (200, &json!(0)), "{reply}");
            let [observation] = &resources(&server, "Observation?category=eye-clinic").await[..] else { panic!("{reply}") };
            assert_eq!(observation["effectiveDateTime"], record("M-1", "V-1")["visitDetails"]["visitDate"], "{observation}");
        }
        // Another facility's visit with the same numbers is not this one.
        let (_, reply) = send(&server, &payload("HF-2", vec![eye(true)])).await;
        assert_eq!(reply["failedClients"], 1, "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn laboratory_blocks_keep_what_they_say_and_are_what_the_server_takes(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut visit = record("M-1", "V-1");
        visit["labInvestigationDetails"] = json!([{"testCode": "K", "testOrderId": "O1", "testOrderDate": "2026-09-05", "testResultDate": "2026-09-05", "standardCode": false,
            "testResults": [{"parameter": "b", "result": "Neg", "lowRange": "<1:20", "releaseDate": "2026-09-05"}]}]);
        visit["labRequestDetails"] = json!([{"dateOccurred": "2026-09-05", "specimenID": "S",
            "labTestResults": [{"obrSetId": 1, "results": [{"obxSetId": 1, "result": "Positive"}]}]}]);
        visit["allergies"] = json!([{"name": ""}]);
        visit["referralDetails"] = json!({});
        let (status, reply) = send(&server, &payload("HF-1", vec![visit])).await;
        assert_eq!((status, &reply["failedClients"]), (200, &json!(0)), "{reply}");
        assert!(!reply.to_string().contains("mapping fails"), "{reply}");
        assert_eq!(resources(&server, "AllergyIntolerance").await, [Value::Null; 0]);
        assert_eq!(resources(&server, "ServiceRequest?category=referral-request").await, [Value::Null; 0]);
        assert_eq!(resources(&server, "DiagnosticReport").await.len(), 2);
        let ranges: Vec<Value> =
            resources(&server, "Observation").await.into_iter().map(|one| one["referenceRange"][0]["text"].clone()).collect();
        assert!(ranges.contains(&json!("<1:20")), "{ranges:?}");
        for kind in ["DiagnosticReport", "Observation", "Specimen", "Encounter", "Patient"] {
            for resource in resources(&server, kind).await {
                let (status, answer) = server.put(&format!("/fhir/{kind}/{}", resource["id"].as_str().unwrap()), &resource).await;
                assert_eq!(status, 200, "{answer}");
            }
        }
        server.stop().await;
    }
);
