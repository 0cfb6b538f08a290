//! Labels that resources take from the Encounter, Composition or Bundle that they came in, whatever arrives first.

use crate::consent::World;
use crate::support::both_databases;
use crate::support::guarded::{Guarded, encounter, observation, set};
use crate::support::worlds::{ACT_CODE, CONFIDENTIALITY};
use serde_json::{Value, json};

fn labelled(mut resource: Value, labels: &[(&str, &str)]) -> Value {
    let labels: Vec<Value> = labels.iter().map(|(system, code)| json!({ "system": system, "code": code })).collect();
    if !labels.is_empty() {
        resource["meta"] = json!({ "security": labels });
    }
    resource
}

fn hiv(resource: Value) -> Value {
    labelled(resource, &[(ACT_CODE, "HIV")])
}

fn composition(id: &str, nested: &[&str]) -> Value {
    let entries: Vec<Value> = nested.iter().map(|id| json!({ "reference": format!("Observation/{id}") })).collect();
    json!({
        "resourceType": "Composition", "id": id, "status": "final", "type": { "text": "x" }, "title": "x", "date": "2026-03-05",
        "subject": { "reference": "Patient/a" }, "author": [{ "display": "x" }],
        "section": [{ "title": "x", "section": [{ "title": "y", "entry": entries }] }],
    })
}

/// All of Patient/a's but what is about HIV.
async fn but_hiv(world: &World) {
    let label = json!([{ "system": ACT_CODE, "code": "HIV" }]);
    world.consent("c", json!({ "type": "permit", "provision": [{ "type": "deny", "securityLabel": label }] })).await;
}

both_databases!(
    async fn what_names_a_labelled_encounter_is_as_sensitive_as_the_visit(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        assert_eq!(world.sees(&world.asker).await, set(&["a-hr"]));
        let visit = || encounter("a");
        // The visit is labelled when its results are there already.
        world.put(&world.holder, &hiv(visit())).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        let (_, stored) = world.get(&world.holder, "/fhir/Observation/a-hr").await;
        assert_eq!((&stored["meta"]["versionId"], stored["meta"].get("security")), (&json!("1"), None), "its own words stay as they are");
        // One that comes later is as sensitive from the beginning, and one that goes elsewhere no longer.
        world.put(&world.holder, &observation("a-late", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(world.sees(&world.asker).await, set(&[]));
        let mut elsewhere = observation("a-late", "a", "8867-4", "2026-03-05", None);
        elsewhere["encounter"] = json!({ "reference": "Encounter/a-ahead" });
        world.put(&world.holder, &elsewhere).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        assert_eq!(seen().await, set(&["a-late"]));
        // A reference may point ahead.
        let mut ahead = encounter("a");
        ahead["id"] = json!("a-ahead");
        world.put(&world.holder, &hiv(ahead.clone())).await;
        assert_eq!(seen().await, set(&[]));
        world.put(&world.holder, &ahead).await;
        assert_eq!(seen().await, set(&["a-late"]), "the label went away");
        world.put(&world.holder, &labelled(visit(), &[(CONFIDENTIALITY, "R")])).await;
        assert_eq!(seen().await, set(&["a-hr", "a-late"]), "restricted, but not about HIV");
        // A delete tells nothing about what is left.
        world.put(&world.holder, &hiv(visit())).await;
        assert_eq!(world.send(&world.holder, "DELETE", "/fhir/Encounter/a-visit", &Value::Null).await.0, 204);
        assert_eq!(seen().await, set(&["a-late"]));
        world.put(&world.holder, &visit()).await;
        assert_eq!(seen().await, set(&["a-hr", "a-late"]));
    }
);

both_databases!(
    async fn a_level_is_raised_by_the_visit_and_never_lowered(db: &TestDb) {
        let world = World::new(db).await;
        let normal = json!([{ "system": CONFIDENTIALITY, "code": "N" }]);
        world.consent("c", json!({ "type": "permit", "securityLabel": normal })).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        for (labels, expected) in [
            (&[][..], set(&["a-hr"])),
            (&[(CONFIDENTIALITY, "L")], set(&["a-hr"])),
            (&[(CONFIDENTIALITY, "R")], set(&[])),
            (&[(CONFIDENTIALITY, "U")], set(&["a-hr"])),
            (&[(ACT_CODE, "PSY")], set(&[])),
        ] {
            world.put(&world.holder, &labelled(encounter("a"), labels)).await;
            assert_eq!(seen().await, expected, "{labels:?}");
        }
    }
);

both_databases!(
    async fn what_a_labelled_document_lists_is_as_sensitive_as_the_document(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        world.put(&world.holder, &hiv(composition("a-note", &["a-hr", "a-next"]))).await;
        assert_eq!(seen().await, set(&[]));
        world.put(&world.holder, &observation("a-next", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(seen().await, set(&[]), "it was listed before it came");
        world.put(&world.holder, &hiv(composition("a-note", &["a-hr"]))).await;
        assert_eq!(seen().await, set(&["a-next"]), "it is listed no longer");
        world.put(&world.holder, &composition("a-note", &["a-hr"])).await;
        assert_eq!(seen().await, set(&["a-hr", "a-next"]));
        let document = |label: bool| {
            let entry = |id: &str| json!({ "fullUrl": format!("{}/fhir/Observation/{id}", world.server.base), "resource": observation(id, "a", "8867-4", "2026-03-05", None) });
            let mut bundle = json!({ "resourceType": "Bundle", "id": "a-bundle", "type": "collection", "entry": [entry("a-hr")] });
            if label {
                bundle = hiv(bundle);
            }
            bundle
        };
        world.put(&world.holder, &document(true)).await;
        assert_eq!(seen().await, set(&["a-next"]));
        world.put(&world.holder, &document(false)).await;
        assert_eq!(seen().await, set(&["a-hr", "a-next"]));
        // Nobody labels what others contributed by listing it.
        world.put(&world.asker, &hiv(composition("asked", &["a-hr"]))).await;
        assert_eq!(seen().await, set(&["a-hr", "a-next"]));
    }
);

both_databases!(
    async fn what_is_sent_in_a_labelled_bundle_is_labelled(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        for kind in ["transaction", "batch"] {
            let id = format!("a-{kind}");
            let entries = [observation(&id, "a", "8867-4", "2026-03-05", None), encounter("a")].map(|resource| {
                let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
                json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
            });
            let bundle = hiv(json!({ "resourceType": "Bundle", "type": kind, "entry": entries }));
            let (status, told) = world.send(&world.holder, "POST", "/fhir", &bundle).await;
            assert_eq!(status, 200, "{told}");
            let (_, stored) = world.get(&world.holder, &format!("/fhir/Observation/{id}")).await;
            let labels = json!([{ "system": ACT_CODE, "code": "HIV" }, { "system": CONFIDENTIALITY, "code": "R" }]);
            assert_eq!(stored["meta"]["security"], labels, "{kind}");
        }
        assert_eq!(world.ids(&world.asker, "/fhir/Observation").await, set(&[]));
    }
);

both_databases!(
    async fn visits_and_results_that_come_at_once_miss_no_label(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        for round in 0..6 {
            let visit = format!("a-race{round}");
            let mut encounter = encounter("a");
            encounter["id"] = json!(visit);
            if round % 2 == 0 {
                world.put(&world.holder, &encounter).await;
            }
            let encounter = hiv(encounter);
            let results: Vec<Value> = (0..6)
                .map(|n| {
                    let mut result = observation(&format!("{visit}-{n}"), "a", "8867-4", "2026-03-05", None);
                    result["encounter"] = json!({ "reference": format!("Encounter/{visit}") });
                    result
                })
                .collect();
            let sent = results.iter().chain([&encounter]).map(|resource| world.put(&world.holder, resource));
            futures_util::future::join_all(sent).await;
        }
        assert_eq!(world.ids(&world.asker, "/fhir/Observation?_count=200").await, set(&["a-hr"]));
    }
);

both_databases!(
    async fn who_names_a_medicine_or_a_result_that_tells_is_as_sensitive(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        let coded = |id: &str, code: &str| json!({ "resourceType": "Medication", "id": id, "code": { "coding": [{ "system": "http://www.whocc.no/atc", "code": code }] } });
        let request = |type_name: &str, id: &str, medicine: &str| {
            let mut request = json!({ "resourceType": type_name, "id": id, "status": "active", "subject": { "reference": "Patient/a" },
                "medicationReference": { "reference": format!("Medication/{medicine}") } });
            if type_name == "MedicationRequest" {
                request["intent"] = json!("order");
            }
            request
        };
        let types = ["MedicationRequest", "MedicationStatement"];
        world.put(&world.holder, &coded("arv", "J05AF01")).await;
        for type_name in types {
            world.put(&world.holder, &request(type_name, "before", "later")).await;
            world.put(&world.holder, &request(type_name, "after", "arv")).await;
            world.put(&world.holder, &request(type_name, "harmless", "plain")).await;
        }
        let seen = async |type_name: &str| world.ids(&world.asker, &format!("/fhir/{type_name}")).await;
        world.put(&world.holder, &coded("plain", "J01CA04")).await;
        for type_name in types {
            assert_eq!(seen(type_name).await, set(&["before", "harmless"]), "the medicine was there first");
        }
        world.put(&world.holder, &coded("later", "J05AR10")).await;
        for type_name in types {
            assert_eq!(seen(type_name).await, set(&["harmless"]), "and came later");
        }
        assert_eq!(world.ids(&world.asker, "/fhir/MedicationRequest?medication.code=J05AF01").await, set(&[]));
        // What the medicine is may change.
        world.put(&world.holder, &coded("plain", "J05AF01")).await;
        world.put(&world.holder, &coded("later", "J01CA04")).await;
        assert_eq!(seen("MedicationRequest").await, set(&["before"]));
        // A report of a labelled result, whichever is labelled first.
        let report = |id: &str, result: &str| {
            json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "code": { "text": "panel" },
                "subject": { "reference": "Patient/a" }, "result": [{ "reference": format!("Observation/{result}") }] })
        };
        world.put(&world.holder, &report("of-hiv", "a-hiv")).await;
        world.put(&world.holder, &report("of-hr", "a-hr")).await;
        assert_eq!(seen("DiagnosticReport").await, set(&["of-hr"]));
        world.put(&world.holder, &observation("a-hr", "a", "8867-4", "2026-03-05", Some("HIV"))).await;
        assert_eq!(seen("DiagnosticReport").await, set(&[]));
    }
);

both_databases!(
    async fn labels_on_arrival_miss_no_text_no_edition_and_no_spelling(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        let subject = json!({ "reference": "Patient/a" });
        let result = |id: &str, key: &str, value: Value| {
            let mut result = observation(id, "a", "8867-4", "2026-03-05", None);
            result.as_object_mut().unwrap().remove("encounter");
            result[key] = value;
            result
        };
        let condition =
            |id: &str, code: Value| json!({ "resourceType": "Condition", "id": id, "subject": subject, "code": { "coding": [code] } });
        let told = [
            result("s", "valueString", json!("HIV reactive")),
            result("m1", "meta", json!({ "security": [{ "code": "HIV" }] })),
            result("m2", "meta", json!({ "security": [{ "system": ACT_CODE, "code": "hiv" }] })),
            json!({ "resourceType": "DiagnosticReport", "id": "d", "status": "final", "code": { "text": "lab" }, "subject": subject, "conclusion": "HIV positive" }),
            json!({ "resourceType": "Communication", "id": "m", "status": "completed", "subject": subject, "payload": [{ "contentString": "HIV result" }] }),
            json!({ "resourceType": "CarePlan", "id": "p", "status": "active", "intent": "plan", "subject": subject, "description": "HIV care" }),
            condition("c1", json!({ "system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "B20" })),
            condition("c2", json!({ "system": "urn:oid:2.16.840.1.113883.6.3", "code": "B20" })),
            condition("c3", json!({ "system": "http://id.who.int/icd/release/10/2019", "code": "B20" })),
            condition("c4", json!({ "code": "B20" })),
            condition("c5", json!({ "system": "http://hl7.org/fhir/sid/icd-10|2016", "code": "B20" })),
        ];
        for resource in &told {
            world.put(&world.holder, resource).await;
            let path = crate::support::guarded::path_of(resource);
            assert_eq!(world.get(&world.asker, &path).await.0, 404, "{resource}");
        }
        world.put(&world.holder, &condition("other", json!({ "code": "J18.9" }))).await;
        assert_eq!(world.get(&world.asker, "/fhir/Condition/other").await.0, 200);
        // A label that nobody knows may say anything.
        let normal = json!([{ "system": CONFIDENTIALITY, "code": "N" }]);
        world.consent("c", json!({ "type": "permit", "securityLabel": normal })).await;
        world.put(&world.holder, &result("w", "meta", json!({ "security": [{ "system": "urn:weird", "code": "TOPSECRET" }] }))).await;
        assert_eq!(world.get(&world.asker, "/fhir/Observation/w").await.0, 404);
        assert_eq!(world.get(&world.asker, "/fhir/Observation/a-hr").await.0, 200);
    }
);
