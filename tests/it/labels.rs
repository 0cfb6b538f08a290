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
            condition("c6", json!({ "system": "http://hl7.org/fhir/sid/icd-10", "code": "b20.1" })),
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

both_databases!(
    async fn a_medicine_labels_whatever_names_it_in_whatever_way_and_order(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        let code = |code: &str| json!({ "coding": [{ "system": "http://www.whocc.no/atc", "code": code }] });
        let (arv, harmless) = ("j05af01", "J01CA04");
        let medicine = |type_name: &str, id: &str, atc: &str| {
            let identifier = json!([{ "system": "urn:stock", "value": format!("{type_name}-{id}") }]);
            json!({ "resourceType": type_name, "id": id, "code": code(atc), "identifier": identifier })
        };
        let subject = json!({ "reference": "Patient/a" });
        // What names Medication `name` or Substance `name`, each in another way.
        let naming = |name: &str| {
            let by_id = json!({ "reference": format!("Medication/{name}") });
            let by_identifier = json!({ "identifier": { "system": "urn:stock", "value": format!("Medication-{name}") } });
            let substance = json!({ "reference": format!("Substance/{name}") });
            let request = |kind: &str, medicine: &Value| json!({ "resourceType": "MedicationRequest", "id": format!("{kind}-{name}"), "status": "active", "intent": "order", "subject": subject, "medicationReference": medicine });
            let mut typed = by_identifier.clone();
            typed["type"] = json!("Medication");
            let mut both = by_identifier.clone();
            both["reference"] = json!("Medication/an-id-of-theirs");
            let mut contained = request("contained", &json!({ "reference": "#m" }));
            contained["contained"] = json!([{ "resourceType": "Medication", "id": "m", "ingredient": [{ "itemReference": substance }] }]);
            let mut extended = request("extended", &json!({ "display": "x" }));
            extended["extension"] = json!([{ "url": "urn:x", "valueReference": by_id }]);
            vec![
                request("id", &by_id),
                request("identifier", &by_identifier),
                request("typed", &typed),
                request("both", &both),
                request("nested", &json!({ "reference": format!("Medication/made-of-{name}") })),
                request("deep", &json!({ "identifier": { "system": "urn:stock", "value": format!("Medication-made-of-made-of-{name}") } })),
                contained,
                extended,
                json!({ "resourceType": "CarePlan", "id": format!("plan-{name}"), "status": "active", "intent": "plan", "subject": subject, "activity": [{ "detail": { "status": "in-progress", "productReference": by_id } }] }),
                json!({ "resourceType": "SupplyRequest", "id": format!("supply-{name}"), "itemReference": by_id, "quantity": { "value": 1 }, "deliverTo": subject }),
                json!({ "resourceType": "SupplyDelivery", "id": format!("delivery-{name}"), "patient": subject, "suppliedItem": { "itemReference": substance } }),
            ]
        };
        let made_of = |name: &str, what: &str| json!({ "resourceType": "Medication", "id": name, "identifier": [{ "system": "urn:stock", "value": format!("Medication-{name}") }], "ingredient": [{ "itemReference": { "reference": what } }] });
        let medicines = |name: &str, atc: &str| {
            vec![
                medicine("Medication", name, atc),
                medicine("Substance", name, atc),
                made_of(&format!("made-of-{name}"), &format!("Substance/{name}")),
                made_of(&format!("made-of-made-of-{name}"), &format!("Medication/made-of-{name}")),
            ]
        };
        let visible = async |name: &str| {
            let mut seen = Vec::new();
            for resource in naming(name) {
                if world.get(&world.asker, &crate::support::guarded::path_of(&resource)).await.0 == 200 {
                    seen.push(resource["id"].as_str().unwrap().to_owned());
                }
            }
            seen
        };
        let all: Vec<Value> = naming("before").into_iter().chain(naming("after")).chain(naming("plain")).collect();
        for resource in medicines("before", arv).iter().chain(&medicines("plain", harmless)) {
            world.put(&world.holder, resource).await;
        }
        for resource in &all {
            world.put(&world.holder, resource).await;
        }
        assert_eq!(visible("before").await, [""; 0], "the medicines were there first");
        assert_eq!(visible("after").await.len(), naming("after").len(), "nobody knows yet what they are");
        assert_eq!(visible("plain").await.len(), naming("plain").len());
        for resource in medicines("after", arv).iter().rev() {
            world.put(&world.holder, resource).await;
        }
        assert_eq!(visible("after").await, [""; 0], "and came later");
        // What they are may change, and who names them may be written anew.
        for resource in medicines("plain", arv).iter().chain(&medicines("after", harmless)) {
            world.put(&world.holder, resource).await;
        }
        assert_eq!(visible("plain").await, [""; 0]);
        assert_eq!(visible("after").await.len(), naming("after").len());
        for mut resource in naming("before") {
            resource["language"] = json!("en");
            world.put(&world.holder, &resource).await;
        }
        assert_eq!(visible("before").await, [""; 0]);
        // In one transaction, and a medicine that gets the identifier by which it is named.
        let entry = |resource: &Value| json!({ "resource": resource, "request": { "method": "PUT", "url": crate::support::guarded::path_of(resource).trim_start_matches("/fhir/") } });
        let entries: Vec<Value> = naming("once").iter().chain(&medicines("once", arv)).map(entry).collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        assert_eq!(world.send(&world.holder, "POST", "/fhir", &bundle).await.0, 200);
        assert_eq!(visible("once").await, [""; 0]);
        let mut named = medicine("Medication", "nameless", arv);
        let late = json!({ "resourceType": "MedicationStatement", "id": "late", "status": "active", "subject": subject, "medicationReference": { "identifier": named["identifier"][0] } });
        named.as_object_mut().unwrap().remove("identifier");
        world.put(&world.holder, &named).await;
        world.put(&world.holder, &late).await;
        assert_eq!(world.get(&world.asker, "/fhir/MedicationStatement/late").await.0, 200);
        world.put(&world.holder, &medicine("Medication", "nameless", arv)).await;
        assert_eq!(world.get(&world.asker, "/fhir/MedicationStatement/late").await.0, 404);
        // A visit's labels and a medicine's add up, whichever goes.
        let mut at_visit = naming("after").remove(0);
        at_visit["encounter"] = json!({ "reference": "Encounter/a-visit" });
        world.put(&world.holder, &at_visit).await;
        let seen = async || world.get(&world.asker, "/fhir/MedicationRequest/id-after").await.0;
        assert_eq!(seen().await, 200);
        world.put(&world.holder, &hiv(encounter("a"))).await;
        assert_eq!(seen().await, 404);
        world.put(&world.holder, &medicine("Medication", "after", arv)).await;
        world.put(&world.holder, &encounter("a")).await;
        assert_eq!(seen().await, 404);
        world.put(&world.holder, &medicine("Medication", "after", harmless)).await;
        assert_eq!(seen().await, 200);
    }
);

both_databases!(
    async fn whoever_sends_a_medicine_hides_nothing_that_cannot_name_one(db: &TestDb) {
        let world = World::new(db).await;
        but_hiv(&world).await;
        let number = json!({ "system": "urn:insurer", "value": "7" });
        let by_identifier = json!({ "identifier": number });
        let mut told = observation("told", "a", "8867-4", "2026-03-05", None);
        (told["performer"], told["specimen"]) = (json!([by_identifier]), by_identifier.clone());
        let mut typed = told.clone();
        let medicine = json!({ "type": "Medication", "identifier": number });
        (typed["id"], typed["extension"]) = (json!("typed"), json!([{ "url": "urn:taken", "valueReference": medicine }]));
        let prescription = json!({ "resourceType": "MedicationRequest", "id": "named", "status": "active", "intent": "order", "subject": { "reference": "Patient/a" }, "medicationReference": by_identifier });
        for resource in [&told, &typed, &prescription] {
            world.put(&world.holder, resource).await;
        }
        for type_name in ["Medication", "Substance"] {
            let medicine = json!({ "resourceType": type_name, "id": "arv", "identifier": [number], "code": { "coding": [{ "system": "http://www.whocc.no/atc", "code": "J05AF01" }] } });
            world.put(&world.asker, &medicine).await;
        }
        for (path, status) in [("Observation/told", 200), ("Observation/typed", 404), ("MedicationRequest/named", 404)] {
            assert_eq!(world.get(&world.asker, &format!("/fhir/{path}")).await.0, status, "{path}");
        }
    }
);

both_databases!(
    async fn a_visit_hands_its_labels_on_however_it_is_named(db: &TestDb) {
        let world = World::new(db).await;
        let of = |id: &str, key: &str, value: Value| {
            let mut body = observation(id, "a", "8867-4", "2026-03-05", None);
            body.as_object_mut().unwrap().remove("encounter");
            body[key] = value;
            body
        };
        let associated = |visit: &str| json!([{ "url": "http://hl7.org/fhir/StructureDefinition/encounter-associatedEncounter", "valueReference": { "reference": visit } }]);
        let number = json!({ "system": "urn:v", "value": "V1" });
        let inner = json!({
            "resourceType": "Observation", "id": "o", "status": "final", "code": { "text": "x" }, "encounter": { "reference": "Encounter/clinic" },
        });
        let shouted = format!("{}/fhir/Encounter/clinic", world.server.base.replace("http", "HTTP"));
        for body in [
            of("extension", "extension", associated("Encounter/clinic")),
            of("shouted", "encounter", json!({ "reference": shouted })),
            of("contained", "contained", json!([inner])),
            of("number", "encounter", json!({ "identifier": number })),
            of("typed", "encounter", json!({ "type": "Encounter", "identifier": number })),
            of("other", "extension", associated("Encounter/a-visit")),
            of("none", "valueString", json!("x")),
        ] {
            world.put(&world.holder, &body).await;
        }
        world.consent("c", json!({ "type": "permit" })).await;
        let seen = || world.ids(&world.asker, "/fhir/Observation");
        let all = set(&["a-hiv", "a-hr", "contained", "extension", "none", "number", "other", "shouted", "typed"]);
        assert_eq!(seen().await, all);
        but_hiv(&world).await;
        // Which visit a number means nobody can tell.
        assert_eq!(seen().await, set(&["a-hr", "contained", "extension", "none", "other", "shouted"]));
        let mut clinic = encounter("a");
        (clinic["id"], clinic["identifier"]) = (json!("clinic"), json!([number]));
        world.put(&world.holder, &hiv(clinic.clone())).await;
        assert_eq!(seen().await, set(&["a-hr", "none", "other"]), "the visit came later");
        world.put(&world.holder, &of("again", "extension", associated("Encounter/clinic"))).await;
        assert_eq!(seen().await, set(&["a-hr", "none", "other"]), "and before");
        world.put(&world.holder, &clinic).await;
        assert_eq!(seen().await, set(&["a-hr", "again", "contained", "extension", "none", "other", "shouted"]));
        for odd in [
            "/Encounter/clinic",
            "Encounter/%63linic",
            "encounter/clinic",
            "Encounter/clinic/",
            "Encounter/clinic#x",
            "../Encounter/clinic",
        ] {
            let body = of("odd", "encounter", json!({ "reference": odd }));
            let (status, refused) = world.send(&world.holder, "PUT", "/fhir/Observation/odd", &body).await;
            assert_eq!(
                (status, &refused["issue"][0]["expression"][0]),
                (422, &json!("Observation.encounter.reference")),
                "{odd}: {refused}"
            );
        }
    }
);
