//! What hangs together with what is hidden, and who tries to change it.

use super::{Leaks, PATCH, leak};
use crate::support::guarded::{Guarded, consent, observation, path_of, set};
use serde_json::json;

leak!(
    async fn leak_16_binary(leaks: &Leaks) {
        for (id, context) in [("scan", None), ("scan-of-a", Some("Patient/a"))] {
            let mut binary = json!({ "resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "TXVzaGk=" });
            if let Some(context) = context {
                binary["securityContext"] = json!({ "reference": context });
            }
            leaks.put(&leaks.world.holder, &binary).await;
            assert_eq!(leaks.same("Binary/@", id).await.0, 404);
        }
    }
);

leak!(
    async fn leak_17_contained_and_inline(leaks: &Leaks) {
        let in_b = json!({ "resourceType": "Observation", "id": "in", "status": "final", "code": { "text": "y" }, "subject": { "reference": "Patient/b" } });
        for body in [
            json!({ "resourceType": "Observation", "id": "container", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/a" },
                "contained": [in_b], "hasMember": [{ "reference": "#in" }] }),
            json!({ "resourceType": "Organization", "id": "ward", "name": "Ward",
                "contained": [{ "resourceType": "Patient", "id": "in", "name": [{ "family": "Mushi" }] }],
                "extension": [{ "url": "http://example.org/x", "valueReference": { "reference": "#in" } }] }),
            json!({ "resourceType": "Bundle", "id": "doc", "type": "collection",
                "entry": [{ "resource": observation("in", "b", "8867-4", "2026-03-05", None) }] }),
        ] {
            leaks.put(&leaks.world.holder, &body).await;
            let path = format!("{}/@", body["resourceType"].as_str().unwrap());
            assert_eq!(leaks.same(&path, body["id"].as_str().unwrap()).await.0, 404, "{path}");
        }
    }
);

leak!(
    async fn leak_18_displays_and_references(leaks: &Leaks) {
        let named = json!([{ "url": "http://example.org/x", "valueReference": { "reference": "Patient/b", "display": "Mushi" } }]);
        for body in [
            json!({ "resourceType": "Location", "id": "bed", "extension": named }),
            json!({ "resourceType": "RelatedPerson", "id": "mother", "patient": { "reference": "Patient/a" }, "extension": named }),
            json!({ "resourceType": "Group", "id": "ward-round", "type": "person", "actual": true,
                "member": [{ "entity": { "reference": "Patient/a", "display": "Mushi" } }] }),
        ] {
            leaks.put(&leaks.world.holder, &body).await;
            let path = format!("{}/@", body["resourceType"].as_str().unwrap());
            assert_eq!(leaks.same(&path, body["id"].as_str().unwrap()).await.0, 404, "{path}");
        }
    }
);

leak!(
    async fn leak_19_consents_events_and_messages(leaks: &Leaks) {
        assert_eq!(leaks.ids("Consent?patient=Patient/a").await, set(&["c"]), "it names the caller");
        let label = crate::support::guarded::sensitivity("HIV");
        leaks.put(&leaks.world.desk, &consent("of-b", "b", json!({ "type": "deny", "securityLabel": label }))).await;
        for path in ["Consent/@", "Consent/@/_history", "Consent?_id=@"] {
            leaks.same(path, "of-b").await;
        }
        assert_eq!(leaks.ids("Patient?_has:Consent:patient:status=active").await, set(&["a"]));
        for body in [
            json!({ "resourceType": "Provenance", "id": "trace", "recorded": "2026-01-01T00:00:00Z", "target": [{ "reference": "Observation/a-hr" }], "agent": [{ "who": { "reference": "Organization/hf-b" } }] }),
            json!({ "resourceType": "AuditEvent", "id": "look", "recorded": "2026-01-01T00:00:00Z", "type": { "code": "rest" }, "agent": [{ "requestor": true }], "source": { "observer": { "reference": "Organization/hf-b" } } }),
            json!({ "resourceType": "Task", "id": "todo", "status": "requested", "intent": "order", "for": { "reference": "Patient/b" } }),
            json!({ "resourceType": "Communication", "id": "word", "status": "completed", "subject": { "reference": "Patient/b" } }),
            json!({ "resourceType": "Subscription", "id": "feed", "status": "requested", "reason": "x", "criteria": "Observation?patient=b", "channel": { "type": "rest-hook" } }),
        ] {
            let (status, told) = leaks.send(&leaks.world.holder, "PUT", &path_of(&body), &body).await;
            assert!(matches!(status, 201 | 400..=499), "{told}");
            leaks.same(&format!("{}/@", body["resourceType"].as_str().unwrap()), body["id"].as_str().unwrap()).await;
        }
    }
);

leak!(
    async fn leak_25_labels_and_medicines_that_give_away(leaks: &Leaks) {
        let medicine = json!({ "resourceType": "MedicationRequest", "id": "arv", "status": "active", "intent": "order", "subject": { "reference": "Patient/a" },
            "medicationCodeableConcept": { "coding": [{ "system": "http://www.whocc.no/atc", "code": "J05AR10" }] } });
        leaks.put(&leaks.world.holder, &medicine).await;
        assert_eq!(leaks.same("MedicationRequest/@", "arv").await.0, 404);
        assert_eq!(leaks.ids("MedicationRequest?_include=*").await, set(&[]));
    }
);

leak!(
    async fn leak_31_writing(leaks: &Leaks) {
        let widened = observation("a-hiv", "a", "75622-1", "2026-05-01", None);
        let link = json!([{ "other": { "reference": "Patient/a" }, "type": "seealso" }]);
        for body in [&widened, &json!({ "resourceType": "Patient", "id": "b", "link": link })] {
            let (path, id) = (path_of(body), body["id"].as_str().unwrap());
            assert_eq!(leaks.status("PUT", &path, body).await, 409, "{path}");
            let unlabel = r#"[{"op":"remove","path":"/meta/security"}]"#;
            leaks.same_with("PATCH", &path.replace(id, "@"), &[PATCH], unlabel, id).await;
        }
        assert_eq!(leaks.status("PUT", "/fhir/Consent/own", &consent("own", "b", json!({ "type": "permit" }))).await, 403);
        let taken = json!({ "resourceType": "Patient", "id": "a" });
        assert_eq!(leaks.status("PUT", "/fhir/Patient/a", &taken).await, 403, "what is seen is told to be another's");
        assert_eq!(leaks.get(&leaks.world.holder, "/fhir/Observation/a-hiv").await.0, 200);
        // Where the content calls for a label, who leaves it out gets it all the same.
        let plain = json!({ "resourceType": "Condition", "id": "hiv", "subject": { "reference": "Patient/a" },
            "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "B20.1" }] } });
        leaks.put(&leaks.world.holder, &plain).await;
        assert_eq!(leaks.told("Condition/hiv").await.0, 404);
    }
);
