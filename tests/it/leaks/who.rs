//! Who asks, why and when: purposes, organisations, emergencies, pages of others, withdrawals, and what is recorded of it.

use super::{JSON, Leaks, leak};
use crate::consent::World;
use crate::support::guarded::{Guarded, consent, observation, set, to};
use crate::support::smart::{ask_signed, signed_token};
use crate::support::{eventually, until};
use serde_json::{Value, json};

/// The path of the page after the first of one entry.
async fn second_page(leaks: &Leaks) -> String {
    let (_, page) = leaks.told("Observation?code=8867-4&_count=1").await;
    let links = page["link"].as_array().unwrap();
    let next = links.iter().find(|link| link["relation"] == "next").expect("a second page")["url"].as_str().unwrap();
    next.strip_prefix(&leaks.server().base).unwrap().to_owned()
}

leak!(
    async fn leak_15_page_tokens(leaks: &Leaks) {
        let apart = leaks.apart("p15").await;
        let World { server, holder, .. } = &*leaks.world;
        leaks.put(holder, &observation("p15-second", "p15", "8867-4", "2026-03-06", None)).await;
        let next = second_page(&apart).await;
        assert_eq!(leaks.world.ids_of_page(&apart.asker, &next).await.len(), 1);
        let payer = signed_token(server, "p15", &json!({ "purpose_of_use": "HPAYMT" })).await;
        for token in [&leaks.asker, &payer, holder] {
            assert_eq!(leaks.get(token, &next).await.0, 400, "a page is one caller's, for one purpose");
        }
    }
);

leak!(
    async fn leak_26_revocation(leaks: &Leaks) {
        let apart = leaks.apart("p26").await;
        let World { holder, desk, .. } = &*leaks.world;
        leaks.put(holder, &observation("p26-second", "p26", "8867-4", "2026-03-06", None)).await;
        let next = second_page(&apart).await;
        assert_eq!(leaks.send(desk, "DELETE", "/fhir/Consent/c-p26", &Value::Null).await.0, 204);
        assert_eq!(apart.ids("Observation").await, set(&[]));
        assert_eq!(leaks.world.ids_of_page(&apart.asker, &next).await, set(&[]));
        apart.same("Observation/@", "p26-hr").await;
    }
);

leak!(
    async fn leak_27_expiry(leaks: &Leaks) {
        let apart = leaks.apart("p27").await;
        let World { holder, desk, .. } = &*leaks.world;
        leaks.put(holder, &observation("p27-second", "p27", "8867-4", "2026-03-06", None)).await;
        let next = second_page(&apart).await;
        let permitted_until = async |end: &str| {
            let provision = json!({ "type": "permit", "actor": to("Organization/hf-p27"), "period": { "end": end } });
            leaks.put(desk, &consent("c-p27", "p27", provision)).await;
        };
        permitted_until("2026-01-31").await;
        assert_eq!(apart.ids("Observation?patient=Patient/p27").await, set(&[]), "it ended");
        assert_eq!(leaks.world.ids_of_page(&apart.asker, &next).await, set(&[]), "in mid-paging too");
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1_500);
        permitted_until(&end.to_string()).await;
        until("it ends by the clock", async || apart.ids("Observation?patient=Patient/p27").await.is_empty()).await;
    }
);

leak!(
    async fn leak_28_purpose(leaks: &Leaks) {
        for extension in [
            json!({}),
            json!({ "purpose_of_use": "HPAYMT" }),
            json!({ "purpose_of_use": ["TREAT", "HRESCH"] }),
            json!({ "purpose_of_use": "treat" }),
        ] {
            let token = signed_token(leaks.server(), "asker", &extension).await;
            assert_eq!(leaks.world.ids(&token, "/fhir/Observation").await, set(&[]), "{extension}");
        }
    }
);

leak!(
    async fn leak_29_actor(leaks: &Leaks) {
        for client in ["other", "district-office"] {
            let token = signed_token(leaks.server(), client, &json!({ "purpose_of_use": "TREAT" })).await;
            assert_eq!(leaks.world.ids(&token, "/fhir/Observation").await, set(&[]), "{client}: neither a sibling nor the parent is meant");
        }
        for organization in ["HF-B", "HF-A"] {
            let claim = json!({ "purpose_of_use": "TREAT", "organization_id": organization });
            assert_eq!(ask_signed(leaks.server(), "other", &claim).await.0, 400, "nobody acts for another");
        }
    }
);

leak!(
    async fn leak_30_linking(leaks: &Leaks) {
        let apart = leaks.apart("p30").await;
        let World { holder, .. } = &*leaks.world;
        let strong = json!([{ "system": "https://lango.health/id/nida", "value": "19900101-1" }]);
        let person = |id: &str| json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Mushi" }], "identifier": strong });
        // Another's identifiers in a feed of the asker's link the two, and open nothing.
        leaks.put(holder, &person("p30-other")).await;
        leaks.put(holder, &observation("p30-other-hr", "p30-other", "8867-4", "2026-03-05", None)).await;
        leaks.put(&apart.asker, &json!({ "resourceType": "Patient", "id": "bait", "identifier": strong })).await;
        apart.same("Observation?patient=@", "p30-other").await;
        assert_eq!(apart.ids("Patient?link=Patient/p30-other,Patient/bait").await, set(&[]), "that they are linked is not told");
        // A false link to her who consented opens nothing of the other's.
        leaks.put(holder, &person("p30")).await;
        assert_eq!(apart.ids("Observation?patient=Patient/p30-other").await, set(&[]), "linked later is not covered");
    }
);

leak!(
    async fn leak_32_break_glass(leaks: &Leaks) {
        for code in ["BTG", "ETREAT"] {
            for client in ["asker", "holder"] {
                let extension = json!({ "purpose_of_use": code, "purpose_of_use_reason": "unconscious" });
                let token = signed_token(leaks.server(), client, &extension).await;
                let seen = leaks.world.ids(&token, "/fhir/Observation?patient=Patient/b").await;
                assert_eq!(seen.is_empty(), client == "asker", "an emergency opens no search: {client} {code}");
            }
        }
    }
);

leak!(
    async fn leak_33_missing_claims(leaks: &Leaks) {
        for extension in [json!({ "subject_id": "MCT-1" }), json!({ "organization_id": "HF-B" })] {
            let token = signed_token(leaks.server(), "asker", &extension).await;
            assert_eq!(leaks.world.ids(&token, "/fhir/Observation").await, set(&[]), "{extension}");
        }
    }
);

leak!(
    async fn leak_38_audit(leaks: &Leaks) {
        let apart = leaks.apart("p38").await;
        assert_eq!(apart.told("Observation/p38-hr").await.0, 200);
        apart.same("Observation/@", "p38-hiv").await;
        // What became an AuditEvent is told; what others did is not.
        eventually("a release becomes an AuditEvent of the patient", async || {
            let mut told = String::new();
            for event in apart.ids("AuditEvent?_count=1000").await {
                told += &apart.told(&format!("AuditEvent/{event}")).await.1.to_string();
            }
            assert!(!told.contains("HF-A") && !told.contains("Mushi") && !told.contains("asker"), "what others did is not told: {told}");
            if told.contains("Patient/p38") { Ok(()) } else { Err(told) }
        })
        .await;
    }
);

leak!(
    async fn leak_39_other_holders(leaks: &Leaks) {
        for path in ["Patient/$record-lookup", "Patient/@/$record-lookup"] {
            let (status, ..) = leaks.same(path, "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
        let sought = |parameter: Value| json!({ "resourceType": "Parameters", "parameter": [parameter] }).to_string();
        for parameter in [
            json!({ "name": "patient", "valueReference": { "reference": "Patient/@" } }),
            json!({ "name": "identifier", "valueString": "https://lango.health/id/nida|@" }),
        ] {
            let (status, ..) = leaks.same_with("POST", "/fhir/Patient/$record-lookup", &[JSON], &sought(parameter), "b").await;
            assert_eq!(status, 200, "hidden, unknown and without records are one answer");
        }
    }
);
