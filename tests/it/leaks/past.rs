//! The past, and what is not said outright: old versions, Consents that replace others, references that no parameter knows.

use super::Leaks;
use crate::consent::World;
use crate::support::both_databases;
use crate::support::guarded::{Guarded, consent, observation, set, to};
use serde_json::{Value, json};

both_databases!(
    async fn the_past_tells_no_more_than_today(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let World { holder, desk, asker, .. } = &*leaks.world;
        // A label that came later.
        leaks.put(holder, &observation("late", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(leaks.get(asker, "/fhir/Observation/late/_history").await.1["entry"].as_array().unwrap().len(), 1);
        leaks.put(holder, &observation("late", "a", "8867-4", "2026-03-05", Some("HIV"))).await;
        leaks.same("Observation/@/_history/1", "late").await;
        // One that went: the version that had it stays hidden, and no total tells of it.
        leaks.put(holder, &observation("a-hiv", "a", "8867-4", "2026-05-01", None)).await;
        let (_, history) = leaks.get(asker, "/fhir/Observation/a-hiv/_history").await;
        assert_eq!(history["entry"].as_array().unwrap().len(), 1);
        assert!(history.get("total").is_none());
        assert_eq!(leaks.get(asker, "/fhir/Observation/a-hiv/_history/1").await.0, 404);
        // Deleted and made again: the delete is its contributor's to know.
        assert_eq!(leaks.send(holder, "DELETE", "/fhir/Observation/a-hr", &Value::Null).await.0, 204);
        leaks.put(holder, &observation("a-hr", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(leaks.get(asker, "/fhir/Observation/a-hr/_history/2").await.0, 404);
        assert_eq!(leaks.get(holder, "/fhir/Observation/a-hr/_history/2").await.0, 410);
        let (_, all) = leaks.get(asker, "/fhir/_history").await;
        assert!(!all.to_string().contains("DELETE"));
        // Whom a Consent named before is not told to whom it names now.
        let permit = |organization: &str| consent("moved", "b", json!({ "type": "permit", "actor": to(organization) }));
        leaks.put(desk, &permit("Organization/elsewhere")).await;
        leaks.put(desk, &permit("Organization/hf-b")).await;
        assert_eq!(leaks.get(asker, "/fhir/Consent/moved").await.0, 200);
        assert_eq!(leaks.get(asker, "/fhir/Consent/moved/_history/1").await.0, 404);
        assert_eq!(leaks.get(asker, "/fhir/Consent/moved/_history").await.1["entry"].as_array().unwrap().len(), 1);
    }
);

both_databases!(
    async fn a_newer_consent_that_says_nothing_still_replaces_the_older(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let of_series = |id: &str, date: Option<&str>, provision: Value| {
            let mut consent = consent(id, "b", provision);
            consent["organization"] = json!([{ "reference": "Organization/hf-b" }]);
            match date {
                Some(date) => consent["dateTime"] = json!(date),
                None => _ = consent.as_object_mut().unwrap().remove("dateTime"),
            }
            consent
        };
        let b = set(&["b-hr", "b-hiv"]);
        leaks.put(&leaks.world.desk, &of_series("one", Some("2026-01-01"), json!({ "type": "permit" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, b);
        // Nothing in it can be understood, so that it permits nothing.
        let vague = json!({ "type": "permit", "action": [{ "coding": [{ "system": "http://example.org", "code": "dance" }] }] });
        leaks.put(&leaks.world.desk, &of_series("two", Some("2026-02-01"), vague)).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, set(&[]));
        leaks.put(&leaks.world.desk, &of_series("three", Some("2026-03-01"), json!({ "type": "permit" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, b);
        // Without a date it was given when it came.
        leaks.put(&leaks.world.desk, &of_series("four", None, json!({ "type": "deny" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, set(&[]));
    }
);

both_databases!(
    async fn a_reference_that_no_parameter_knows_counts(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let World { holder, desk, .. } = &*leaks.world;
        let condition = json!({ "resourceType": "Condition", "id": "matter", "subject": { "reference": "Patient/b" }, "code": { "coding": [{ "system": "http://x", "code": "a" }] } });
        leaks.put(holder, &condition).await;
        let request = json!({ "resourceType": "MedicationRequest", "id": "for-it", "status": "active", "intent": "order", "subject": { "reference": "Patient/b" },
            "medicationCodeableConcept": { "coding": [{ "system": "http://x", "code": "m" }] }, "reasonReference": [{ "reference": "Condition/matter" }] });
        leaks.put(holder, &request).await;
        let data = json!([{ "meaning": "dependents", "reference": { "reference": "Condition/matter" } }]);
        leaks.put(desk, &consent("cb", "b", json!({ "type": "permit", "provision": [{ "type": "deny", "data": data }] }))).await;
        assert_eq!(leaks.ids("MedicationRequest").await, set(&[]));
        leaks.put(desk, &consent("cb", "b", json!({ "type": "permit", "data": data }))).await;
        assert_eq!(leaks.ids("MedicationRequest").await, set(&["for-it"]));
    }
);
