//! Records that stay with their facility: all that a person's Consents allow of them, nothing else, from holders that behave and from one that does not.

mod others;

use crate::lookup::{World, by_number, observation};
use crate::support::guarded::{Guarded, consent, set};
use crate::support::holder::{Double, Mode, RealHolder, asked_at, endpoint};
use crate::support::login::{Browser, add_portal, user};
use crate::support::smart::{add_scoped_client, add_signing_client, signed_token};
use crate::support::{TestDb, both_databases, eventually, until};
use lango::access::clients;
use lango::config::{Holder, HolderKind, Settings};
use lango::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

const NUMBER: &str = "19900101-1";
const LABEL: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
/// The double's own numbers.
const OWN: &str = "urn:mrn:hf-d";

/// `FACILITY:Type/id` of every entry.
fn entries(bundle: &Value) -> BTreeSet<String> {
    let matches = bundle["entry"].as_array().into_iter().flatten().filter(|entry| entry["search"]["mode"] == "match");
    matches
        .map(|entry| {
            let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {entry}"));
            let source = text("/extension/0/valueReference/identifier/value");
            format!("{source}:{}/{}", text("/resource/resourceType"), text("/resource/id"))
        })
        .collect()
}

/// Without what differs from one answer to the next whatever was asked.
fn lasting(mut bundle: Value) -> String {
    bundle["id"] = Value::Null;
    bundle["meta"]["lastUpdated"] = Value::Null;
    bundle.to_string()
}

fn outcome(bundle: &Value) -> String {
    let entry = bundle["entry"].as_array().unwrap().iter().find(|entry| entry["search"]["mode"] == "outcome");
    entry.unwrap()["resource"].to_string()
}

fn patient(id: &str, system: &str, value: &str) -> Value {
    json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Far" }], "birthDate": "1990-01-01", "identifier": [{ "system": system, "value": value }] })
}

fn searchset(resources: &[Value]) -> Value {
    let entries: Vec<Value> = resources.iter().map(|resource| json!({ "resource": resource, "search": { "mode": "match" } })).collect();
    json!({ "resourceType": "Bundle", "type": "searchset", "entry": entries })
}

/// What the double knows of Asha: as its own number says.
fn ashas() -> Value {
    searchset(&[patient("p1", OWN, "D-7"), observation("far", "p1", None)])
}

async fn ask(world: &World, token: &str, more: &[Value]) -> Value {
    let parameters: Vec<Value> = [by_number(NUMBER)].iter().chain(more).cloned().collect();
    let (status, bundle) = world.lookup(token, Value::Array(parameters)).await;
    assert_eq!(status, 200, "{bundle}");
    assert_eq!(bundle["total"].as_u64(), Some(entries(&bundle).len() as u64), "{bundle}");
    bundle
}

async fn permit(world: &World, id: &str) {
    world.consent(id, "a", json!({ "type": "permit" })).await;
}

/// The world of lookups, in which HF-D is a holder that the double plays: it knows Asha by its own number and the national one.
async fn with_double(db: &TestDb, double: &Double, change: impl FnOnce(&mut Settings)) -> World {
    add_signing_client(db, "d", "HF-D", "").await;
    let holder = asked_at("HF-D", &double.base);
    let mut world = World::with(db, |settings| {
        settings.holders = vec![holder];
        change(settings);
    })
    .await;
    let token = signed_token(&world.server, "d", &json!({})).await;
    world.add_token("d", token);
    world.put(world.token("d"), &endpoint("ep-d", &double.base)).await;
    world.put(world.token("d"), &location("d", None)).await;
    world
}

/// The Patient by which the double says that it knows Asha.
fn location(id: &str, label: Option<&str>) -> Value {
    let mut patient = patient(id, "https://lango.health/id/nida", NUMBER);
    patient["name"] = json!([{ "family": "Mushi" }]);
    patient["identifier"].as_array_mut().unwrap().push(json!({ "system": OWN, "value": "D-7" }));
    if let Some(label) = label {
        patient["meta"] = json!({ "security": [{ "system": LABEL, "code": label }] });
    }
    patient
}

both_databases!(
    async fn a_lookup_asks_every_holder_and_says_whose_each_record_is(db: &TestDb) {
        // The ids are those of others' resources here: names of another server mean nothing.
        let nida = "https://lango.health/id/nida";
        let c = RealHolder::start(
            "HF-C",
            &[
                patient("a", nida, NUMBER),
                patient("z", nida, "19700101-9"),
                observation("z-hr", "a", None),
                observation("c-hiv", "a", Some("HIV")),
                observation("c-2", "a", None),
                observation("a-hr", "z", None),
            ],
        )
        .await;
        let a = RealHolder::start("HF-A", &[patient("me", nida, NUMBER), observation("a-far", "me", None)]).await;
        let world = World::with(db, |settings| settings.holders = vec![a.settings(), c.settings()]).await;
        world.put(world.token("c"), &endpoint("ep-c", &c.server.base)).await;
        world.put(world.token("a"), &endpoint("ep-a", &a.server.base)).await;
        assert_eq!(entries(&ask(&world, &world.asker, &[]).await), set(&[]));
        permit(&world, "k").await;
        let here = ["HF-A:Patient/a", "HF-A:Observation/a-hr", "HF-A:Observation/a-psy", "HF-C:Patient/c", "HF-C:Observation/c-hr"];
        let here: BTreeSet<String> = here.iter().chain(&["HF-C:Observation/c-psy"]).map(|name| (*name).to_owned()).collect();
        let far = set(&[
            "HF-C:Patient/a",
            "HF-C:Observation/z-hr",
            "HF-C:Observation/c-hiv",
            "HF-C:Observation/c-2",
            "HF-A:Patient/me",
            "HF-A:Observation/a-far",
        ]);
        let bundle = ask(&world, &world.asker, &[]).await;
        assert_eq!(entries(&bundle), here.union(&far).cloned().collect());
        let told = outcome(&bundle);
        assert!(told.contains("HF-A: 5 records.") && told.contains("HF-C: 7 records.") && told.contains("\"complete\""), "{told}");
        let of = |id: &str| bundle["entry"].as_array().unwrap().iter().find(|entry| entry["resource"]["id"] == id).unwrap();
        assert_eq!(of("c-2")["fullUrl"], format!("{}/fhir/Observation/c-2", c.server.base));
        assert_eq!(of("c-hiv")["resource"]["meta"]["security"][1]["code"], "R", "labelled as if it had arrived");
        // Narrowed.
        let narrowed = |name: &str, value: &str| json!({ "name": name, "valueString": value });
        let of_type = json!({ "name": "type", "valueCode": "Observation" });
        let found = ask(&world, &world.asker, &[of_type, narrowed("holder", "HF-C")]).await;
        let expected = ["c-hr", "c-psy", "z-hr", "c-hiv", "c-2"].map(|id| format!("HF-C:Observation/{id}"));
        assert_eq!(entries(&found), expected.into());
        let since = json!({ "name": "since", "valueInstant": "2099-01-01T00:00:00Z" });
        assert_eq!(entries(&ask(&world, &world.asker, &[since]).await), set(&[]));
        // A resource of a holder is decided on by itself.
        let except = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        let found = entries(&ask(&world, &world.asker, &[]).await);
        assert!(!found.contains("HF-C:Observation/c-hiv") && found.contains("HF-C:Observation/c-2"), "{found:?}");
        // What a rule names here, it may mean there: that closes.
        let except = json!([{ "type": "deny", "data": [{ "meaning": "related", "reference": { "reference": "Observation/a-hr" } }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        assert!(far.is_disjoint(&entries(&ask(&world, &world.asker, &[]).await)));
        // A facility sees its own, wherever it is.
        let own = entries(&ask(&world, world.token("c"), &[]).await);
        assert!(own.contains("HF-C:Observation/c-hiv") && !own.iter().any(|name| name.starts_with("HF-A")), "{own:?}");
        // Nothing of it was kept.
        for (id, token) in [("c-2", "c"), ("a-far", "a"), ("c-2", "operator")] {
            assert_eq!(world.get(world.token(token), &format!("/fhir/Observation/{id}")).await.0, 404, "{id}");
        }
        world.server.stop().await;
        c.stop().await;
        a.stop().await;
    }
);

both_databases!(
    async fn a_holder_may_decide_too_and_hears_what_for_it_is_asked(db: &TestDb) {
        let nida = "https://lango.health/id/nida";
        let treatment = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT" }]);
        let records = [
            patient("c1", nida, NUMBER),
            observation("far", "c1", None),
            consent("theirs", "c1", json!({ "type": "permit", "purpose": treatment })),
        ];
        let c = RealHolder::knowing_lango_as("HIE", "HF-C", &records).await;
        add_scoped_client(db, "narrow", "HF-B", "", "system/Observation.rs?status=amended").await;
        let world = World::with(db, |settings| settings.holders = vec![c.settings()]).await;
        world.put(world.token("c"), &endpoint("ep-c", &c.server.base)).await;
        permit(&world, "k").await;
        let found = |bundle: &Value| entries(bundle).contains("HF-C:Observation/far");
        assert!(found(&ask(&world, &world.asker, &[]).await));
        let payment = signed_token(&world.server, "asker", &json!({ "purpose_of_use": "HPAYMT" })).await;
        let bundle = ask(&world, &payment, &[]).await;
        assert!(entries(&bundle).contains("HF-C:Observation/c-hr") && !found(&bundle), "she permits it here, and not there: {bundle}");
        // Scopes hold for what is far as for what is here.
        let narrow = signed_token(&world.server, "narrow", &json!({ "purpose_of_use": "TREAT" })).await;
        let (status, bundle) = world.lookup(&narrow, json!([by_number(NUMBER)])).await;
        assert_eq!((status, entries(&bundle)), (200, set(&[])), "{bundle}");
        // A token that the holder does not know any more is replaced; one that it does not give is missed.
        let store = Store::open(&c.db.url).await.unwrap();
        clients::set_disabled(&store, "hie", true).await.unwrap();
        let bundle = ask(&world, &world.asker, &[]).await;
        assert!(!found(&bundle) && outcome(&bundle).contains("HF-C: did not answer"), "{bundle}");
        clients::set_disabled(&store, "hie", false).await.unwrap();
        store.close().await;
        assert!(found(&ask(&world, &world.asker, &[]).await));
        world.server.stop().await;
        c.stop().await;
    }
);

both_databases!(
    async fn each_disclosure_is_recorded_with_its_patient_and_where_it_came_from(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        permit(&world, "k").await;
        assert!(entries(&ask(&world, &world.asker, &[]).await).contains("HF-D:Observation/far"));
        let told = eventually("it is recorded", async || {
            let told = world.get(world.token("operator"), "/fhir/Patient/d/$disclosures").await.1;
            if told["entry"].is_array() { Ok(told.to_string()) } else { Err(told) }
        })
        .await;
        assert!(told.contains(&format!("{}/fhir/Observation/far", double.base)) && told.contains("Consent/k/_history/1"), "{told}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_knows_a_person_is_told_to_nobody_who_may_not_know_it(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        let holder = json!({ "name": "holder", "valueString": "HF-D" });
        let nobody = lasting(world.lookup(&world.asker, json!([by_number("nobody"), holder])).await.1);
        // Without a Consent; under one that speaks to others; under one that hides who holds it: nobody is asked, nothing is told.
        let others = json!([{ "reference": { "reference": "Organization/hf-c" }, "role": { "coding": [{ "code": "IRCP", "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType" }] } }]);
        let hidden = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.put(world.token("d"), &location("d", Some("HIV"))).await;
        for provision in [
            None,
            Some(json!({ "type": "permit", "actor": others })),
            Some(json!({ "type": "permit", "provision": hidden })),
            Some(
                json!({ "type": "permit", "class": [{ "system": "http://hl7.org/fhir/resource-types", "code": "Observation" }], "provision": hidden }),
            ),
        ] {
            if let Some(provision) = &provision {
                world.consent("k", "a", provision.clone()).await;
            }
            for mode in [Mode::Says(ashas()), Mode::Status(500)] {
                double.set(mode);
                assert_eq!(lasting(ask(&world, &world.asker, std::slice::from_ref(&holder)).await), nobody, "{provision:?}");
            }
        }
        assert_eq!(double.requests().len(), 0);
        // Allowed up to normal: the holder may be asked, but what it tells is no less confidential than that it knows her.
        let normal = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "N" }]);
        world.consent("k", "a", json!({ "type": "permit", "securityLabel": normal })).await;
        for mode in [Mode::Status(500), Mode::Says(ashas())] {
            double.set(mode);
            assert_eq!(lasting(ask(&world, &world.asker, std::slice::from_ref(&holder)).await), nobody);
        }
        assert_eq!(double.requests().len(), 0, "and so it need not be asked");
        world
            .consent("k", "a", json!({ "type": "permit", "code": [{ "text": "x", "coding": [{ "system": "urn:x", "code": "x" }] }] }))
            .await;
        for mode in [Mode::Status(500), Mode::Says(ashas())] {
            double.set(mode);
            assert_eq!(lasting(ask(&world, &world.asker, std::slice::from_ref(&holder)).await), nobody);
        }
        assert_eq!(double.requests().len(), 2, "it might have had what is allowed");
        // A Consent covers whom it covered when it was written.
        let later = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "PSY" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": later })).await;
        assert_eq!(world.send(world.token("d"), "DELETE", "/fhir/Patient/d", &Value::Null).await.0, 204);
        world.put(world.token("d"), &location("d-again", None)).await;
        assert_eq!(lasting(ask(&world, &world.asker, std::slice::from_ref(&holder)).await), nobody);
        assert_eq!(double.requests().len(), 2, "a location that comes later opens nothing by itself");
        permit(&world, "k").await;
        assert!(entries(&ask(&world, &world.asker, &[]).await).contains("HF-D:Observation/far"));
        // Of several numbers its own one is used, and none stands in a URL.
        let request = double.requests().pop().unwrap();
        assert!(request.contains("D-7") && !request.contains(NUMBER), "{request}");
        assert!(request.starts_with("POST /fhir/Patient/$record-lookup HTTP"), "{request}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_holder_that_tells_too_much_is_cut_to_the_patient(db: &TestDb) {
        let double = Double::start(Mode::Silent).await;
        let world = with_double(db, &double, |_| {}).await;
        let except = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        let of = |id: &str, change: &dyn Fn(&mut Value)| {
            let mut observation = observation(id, "p1", None);
            change(&mut observation);
            observation
        };
        let told = searchset(&[
            {
                let mut asha = patient("p1", OWN, "D-7");
                asha["link"] = json!([{ "other": { "reference": "Patient/p2" }, "type": "seealso" }]);
                asha
            },
            patient("p2", OWN, "D-8"),
            patient("p3", "urn:mrn:elsewhere", "D-7"),
            of("good", &|_| {}),
            of("absolute", &|one| one["subject"]["reference"] = json!(format!("{}/fhir/Patient/p1", double.base))),
            observation("of-another", "p2", None),
            observation("of-nobody-sent", "p9", None),
            // Our own ids, which are not the holder's.
            observation("of-ours", "a", None),
            of("absolute-elsewhere", &|one| one["subject"]["reference"] = json!("https://elsewhere.example.org/fhir/Patient/p1")),
            of("two", &|one| one["performer"] = json!([{ "reference": "Patient/p2" }])),
            of("two-hidden", &|one| one["extension"] = json!([{ "url": "urn:x", "valueReference": { "reference": "Patient/p2" } }])),
            of("two-by-number", &|one| one["performer"] = json!([{ "type": "Patient", "identifier": { "system": OWN, "value": "D-8" } }])),
            of("by-url", &|one| {
                one["focus"] =
                    json!([{ "type": "http://hl7.org/fhir/StructureDefinition/Patient", "identifier": { "system": OWN, "value": "D-8" } }])
            }),
            of("by-number-alone", &|one| one["performer"] = json!([{ "identifier": { "system": OWN, "value": "D-8" } }])),
            of("by-strong-number", &|one| {
                one["performer"] = json!([{ "identifier": { "system": "https://lango.health/id/nida", "value": "D-8" } }])
            }),
            of("by-any-number", &|one| one["focus"] = json!([{ "identifier": { "system": "urn:any", "value": "D-8" } }])),
            of("by-name", &|one| one["focus"] = json!([{ "type": "Patient", "display": "Somebody p2" }])),
            of("by-urn", &|one| one["focus"] = json!([{ "reference": "urn:uuid:11111111-1111-4111-8111-111111111111" }])),
            of("by-path", &|one| one["focus"] = json!([{ "reference": "/Patient/p2" }])),
            of("by-query", &|one| one["focus"] = json!([{ "reference": "https://elsewhere.example.org/r?subject=Patient%2Fp2" }])),
            of("with-a-number", &|one| one["subject"]["identifier"] = json!({ "system": OWN, "value": "D-8" })),
            of("staff", &|one| {
                one["performer"] = json!([
                    { "identifier": { "system": "urn:hf-d:staff", "value": "1" } }, { "reference": "https://elsewhere.example.org/fhir/Practitioner/1" },
                    { "reference": "RelatedPerson/mother" }, { "type": "Patient", "identifier": { "system": OWN, "value": "D-7" } },
                ]);
                one["basedOn"] = json!([{ "reference": "urn:uuid:11111111-1111-4111-8111-111111111111" }]);
            }),
            of("of-some-visit", &|one| one["encounter"] = json!({ "reference": "urn:uuid:11111111-1111-4111-8111-111111111111" })),
            of("contains-another", &|one| {
                one["contained"] = json!([{ "resourceType": "Patient", "id": "x", "name": [{ "text": "Somebody" }] }])
            }),
            of("no-subject", &|one| drop(one.as_object_mut().unwrap().remove("subject"))),
            of("labelled", &|one| one["meta"] = json!({ "security": [{ "system": LABEL, "code": "HIV" }] })),
            of("telling", &|one| one["code"] = json!({ "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "B20" }] })),
            of("no-fhir", &|one| one["status"] = json!(7)),
            of("bad id!", &|_| {}),
            json!({ "resourceType": "Nothing", "id": "n" }),
            json!("words"),
            json!({ "resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "aGVsbG8=" }),
            consent("their-consent", "p1", json!({ "type": "permit" })),
            json!({ "resourceType": "Practitioner", "id": "doctor" }),
        ]);
        double.set(Mode::Says(told));
        let bundle = ask(&world, &world.asker, &[json!({ "name": "holder", "valueString": "HF-D" })]).await;
        let expected =
            ["HF-D:Patient/d", "HF-D:Patient/p1", "HF-D:Observation/good", "HF-D:Observation/absolute", "HF-D:Observation/staff"];
        assert_eq!(entries(&bundle), set(&expected));
        assert!(!bundle.to_string().contains("p2") && !bundle.to_string().contains("D-8"), "{bundle}");
        let of_type = json!({ "name": "type", "valueCode": "Observation" });
        let bundle = ask(&world, &world.asker, &[json!({ "name": "holder", "valueString": "HF-D" }), of_type]).await;
        assert_eq!(entries(&bundle), set(&expected[2..]), "and to what was wanted");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_holder_that_fails_is_missed_in_time_and_by_name(db: &TestDb) {
        let trap = Double::start(Mode::Says(ashas())).await;
        let double = Double::start(Mode::Silent).await;
        let world = with_double(db, &double, |settings| {
            settings.limits.holders_s = 1;
            settings.limits.holder_mb = 1;
            // Each is its first failure.
            settings.limits.holder_rest_s = 1;
        })
        .await;
        permit(&world, "k").await;
        let endless_pages = {
            let mut page = ashas();
            page["link"] = json!([{ "relation": "next", "url": format!("{}/fhir/Patient/$record-lookup?_page=x", trap.base) }]);
            page
        };
        for mode in [
            Mode::Silent,
            Mode::Drips,
            Mode::Endless,
            Mode::Bomb,
            Mode::Breaks,
            Mode::Html,
            Mode::Status(500),
            Mode::Status(403),
            Mode::Redirects(format!("{}/fhir/Patient/$record-lookup", trap.base)),
            Mode::Words("{\"resourceType\":\"Bundle\",\"type\":\"searchset\",\"entry\":[".into()),
            Mode::Words("[[[[".repeat(50_000)),
            Mode::Words("[]".into()),
            Mode::Says(json!({ "resourceType": "Bundle", "type": "batch-response", "entry": [] })),
        ] {
            let what = format!("{:.80}", format!("{mode:?}"));
            double.set(mode);
            // Between failures it answers, so that it is not left alone.
            let began = Instant::now();
            let bundle = ask(&world, &world.asker, &[]).await;
            assert!(began.elapsed().as_secs() < 60, "it does not wait for one that never ends: {what}");
            assert_eq!(entries(&bundle).len(), 7, "what is here is told: {what}");
            let told = outcome(&bundle);
            assert!(
                told.contains("HF-D: did not answer") && told.contains("\"partial\"") && !told.contains("\"complete\""),
                "{what}: {told}"
            );
            double.set(Mode::Says(ashas()));
            let bundle = ask(&world, &world.asker, &[]).await;
            assert!(entries(&bundle).contains("HF-D:Observation/far") && outcome(&bundle).contains("\"complete\""), "after {what}");
        }
        double.set(Mode::Says(endless_pages));
        let bundle = ask(&world, &world.asker, &[]).await;
        assert!(entries(&bundle).contains("HF-D:Observation/far") && outcome(&bundle).contains("HF-D: has more"), "{bundle}");
        assert_eq!(trap.requests().len(), 0, "nothing leads lango elsewhere");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_holder_that_keeps_failing_is_left_alone_and_asked_again_later(db: &TestDb) {
        let double = Double::start(Mode::Status(503)).await;
        let world = with_double(db, &double, |settings| settings.limits.holder_rest_s = 1).await;
        permit(&world, "k").await;
        for _ in 0..3 {
            ask(&world, &world.asker, &[]).await;
        }
        assert_eq!(double.requests().len(), 3);
        let bundle = ask(&world, &world.asker, &[]).await;
        assert!(outcome(&bundle).contains("HF-D: did not answer"), "{bundle}");
        assert_eq!(double.requests().len(), 3, "it was not asked");
        double.set(Mode::Says(ashas()));
        until("it is asked again", async || entries(&ask(&world, &world.asker, &[]).await).contains("HF-D:Observation/far")).await;
        assert_eq!(double.requests().len(), 4);
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_was_withdrawn_while_a_holder_answered_does_not_leave(db: &TestDb) {
        let double = Double::start(Mode::Waits(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        permit(&world, "k").await;
        let asking = ask(&world, &world.asker, &[]);
        let withdrawing = async {
            double.asked(1).await;
            assert_eq!(world.send(&world.desk, "DELETE", "/fhir/Consent/k", &Value::Null).await.0, 204);
            double.go.notify_one();
        };
        let (bundle, ()) = tokio::join!(asking, withdrawing);
        assert_eq!(entries(&bundle), set(&[]), "{bundle}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_a_consent_keeps_does_not_leave_by_a_second_location(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        let class = json!([{ "system": "http://hl7.org/fhir/resource-types", "code": "Observation" }]);
        world.consent("first", "a", json!({ "type": "deny", "class": class })).await;
        // Sent once more, after that Consent; both are covered by the next.
        world.put(world.token("d"), &location("d-again", None)).await;
        let mut second = consent("second", "a", json!({ "type": "permit" }));
        second["policy"] = json!([{ "uri": "https://hie.example.org/another" }]);
        world.put(&world.desk, &second).await;
        let found = entries(&ask(&world, &world.asker, &[]).await);
        assert_eq!(double.requests().len(), 2);
        assert!(found.contains("HF-D:Patient/p1") && !found.contains("HF-D:Observation/far"), "{found:?}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn in_an_emergency_holders_are_asked_too_and_both_who_must_know_are_told(db: &TestDb) {
        let mut told = ashas();
        let exempt = json!({ "resource": observation("far-psy", "p1", Some("PSYTHPN")) });
        told["entry"].as_array_mut().unwrap().push(exempt);
        let double = Double::start(Mode::Says(told)).await;
        let world = with_double(db, &double, |_| {}).await;
        let claims = json!({ "purpose_of_use": "BTG", "purpose_of_use_reason": "unconscious", "subject_id": "MCT-7" });
        let token = signed_token(&world.server, "asker", &claims).await;
        // Her records here are closed to it, and what the holder has is not.
        let only_there = json!({ "name": "holder", "valueString": "HF-D" });
        let bundle = ask(&world, &token, &[only_there, json!({ "name": "type", "valueCode": "Observation" })]).await;
        assert_eq!(entries(&bundle), set(&["HF-D:Observation/far"]), "exempt labels stay closed");
        assert!(outcome(&bundle).contains("break-glass"), "{bundle}");
        let (_, tasks) = world.get(world.token("operator"), "/fhir/Task?code=break-glass-review").await;
        assert_eq!(tasks["entry"].as_array().map(Vec::len), Some(1), "{tasks}");
        // Somebody else's record stays closed to the token, and the holder is not even asked.
        let asked = double.requests().len();
        let (_, other) = world.lookup(&token, json!([by_number("19700101-9")])).await;
        assert_eq!((entries(&other), double.requests().len()), (set(&[]), asked));
        // She said no to emergencies, in so many words.
        let emergencies = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "BTG" }]);
        world.consent("k", "a", json!({ "type": "deny", "purpose": emergencies })).await;
        let bundle = ask(&world, &token, &[]).await;
        assert_eq!((entries(&bundle), double.requests().len()), (set(&[]), asked));
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_person_who_logs_in_sees_what_holders_have_of_them_and_of_nobody_else(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        add_portal(db, "patient/*.rs launch/patient").await;
        user(db, &["add", "asha", "--facility", "HF-D", "--patient", "d"]);
        user(db, &["add", "zuri", "--facility", "HF-A", "--patient", "z"]);
        let browser = Browser::at(&world.server);
        for (name, sees) in [("zuri", false), ("asha", true)] {
            let granted = browser.granted(name, "patient/*.rs launch/patient", "").await;
            let (status, bundle) = world.lookup(granted["access_token"].as_str().unwrap(), json!([by_number(NUMBER)])).await;
            assert_eq!((status, entries(&bundle).contains("HF-D:Observation/far")), (200, sees), "{name}: {bundle}");
            assert_eq!(double.requests().len(), usize::from(sees));
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn only_the_address_that_both_the_holder_and_the_operator_name_is_asked(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let trap = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        permit(&world, "k").await;
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut endpoint = endpoint("ep-d", &double.base);
            change(&mut endpoint);
            endpoint
        };
        for endpoint in [
            changed(&|endpoint| endpoint["address"] = json!(format!("{}/fhir", trap.base))),
            changed(&|endpoint| endpoint["status"] = json!("suspended")),
            changed(&|endpoint| endpoint["period"] = json!({ "end": "2020-01-01" })),
            changed(&|endpoint| endpoint["connectionType"]["code"] = json!("dicom-wado-rs")),
        ] {
            world.put(world.token("d"), &endpoint).await;
            // What another facility writes about it counts for nothing.
            let mut forged = self::endpoint("forged", &double.base);
            forged["managingOrganization"] = json!({ "identifier": { "system": "urn:lango:facility", "value": "HF-D" } });
            world.put(world.token("c"), &forged).await;
            let bundle = ask(&world, &world.asker, &[]).await;
            assert!(outcome(&bundle).contains("\"complete\""), "{bundle}");
        }
        assert_eq!((double.requests().len(), trap.requests().len()), (0, 0));
        world.put(world.token("d"), &endpoint("ep-d", &double.base)).await;
        // It does not want to be asked for her.
        let mut inactive = location("d", None);
        inactive["active"] = json!(false);
        world.put(world.token("d"), &inactive).await;
        ask(&world, &world.asker, &[]).await;
        assert_eq!(double.requests().len(), 0);
        // A lango that asks us does not make us ask in turn.
        world.put(world.token("d"), &location("d", None)).await;
        let request = world.server.client.post(world.server.url("/fhir/Patient/$record-lookup")).bearer_auth(&world.asker);
        let body = json!({ "resourceType": "Parameters", "parameter": [by_number(NUMBER)] });
        let request = request.header("via", "1.1 lango-lookup").header("content-type", "application/fhir+json").body(body.to_string());
        assert_eq!(crate::support::answer(request).await.0, 200);
        assert_eq!(double.requests().len(), 0);
        assert!(entries(&ask(&world, &world.asker, &[]).await).contains("HF-D:Observation/far"));
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_a_holder_tells_of_a_medicine_by_reference_is_as_sensitive(db: &TestDb) {
        let double = Double::start(Mode::Silent).await;
        let world = with_double(db, &double, |_| {}).await;
        let code = |code: &str| json!({ "coding": [{ "system": "http://www.whocc.no/atc", "code": code }] });
        let stock = |value: &str| json!({ "system": "urn:stock", "value": value });
        let medicine = |type_name: &str, id: &str, atc: &str| json!({ "resourceType": type_name, "id": id, "code": code(atc), "identifier": [stock(id)] });
        let made_of = |id: &str, of: Value| json!({ "resourceType": "Medication", "id": id, "identifier": [stock(id)], "ingredient": [{ "itemReference": of }] });
        // Here: what is known by an identifier of its own, and what is made of that. The ids are others' at the holder.
        for resource in [
            medicine("Medication", "arv", "J01CA04"),
            medicine("Substance", "here", "J05AF01"),
            made_of("here-made", json!({ "reference": "Substance/here" })),
            medicine("Medication", "plain-here", "J01CA04"),
        ] {
            world.put(world.token("c"), &resource).await;
        }
        let request = |id: &str, medicine: Value| json!({ "resourceType": "MedicationRequest", "id": id, "status": "active", "intent": "order", "subject": { "reference": "Patient/p1" }, "medicationReference": medicine });
        let named = |name: &str| json!({ "reference": name });
        let mut contained = request("contained", named("#m"));
        contained["contained"] =
            json!([{ "resourceType": "Medication", "id": "m", "ingredient": [{ "itemReference": named("Substance/s") }] }]);
        let told = [
            patient("p1", OWN, "D-7"),
            medicine("Medication", "arv", "J05AF01"),
            medicine("Medication", "plain", "J01CA04"),
            medicine("Substance", "s", "J05AF01"),
            made_of("made", named("Substance/s")),
            request("id", named("Medication/arv")),
            request("absolute", named(&format!("{}/fhir/Medication/arv", double.base))),
            request("identifier", json!({ "identifier": stock("arv") })),
            request("made", json!({ "reference": "Medication/unknown", "identifier": stock("made") })),
            contained,
            request("here", json!({ "identifier": stock("here-made") })),
            request("nowhere", named("Medication/nowhere")),
            request("plain", named("Medication/plain")),
            request("plain-here", json!({ "identifier": stock("plain-here") })),
            request("coded", json!({ "display": "amoxicillin" })),
        ];
        double.set(Mode::Says(searchset(&told)));
        let more = [json!({ "name": "holder", "valueString": "HF-D" }), json!({ "name": "type", "valueCode": "MedicationRequest" })];
        let all = ["id", "absolute", "identifier", "made", "contained", "here", "nowhere", "plain", "plain-here", "coded"];
        let of = |ids: &[&str]| ids.iter().map(|id| format!("HF-D:MedicationRequest/{id}")).collect::<BTreeSet<String>>();
        permit(&world, "k").await;
        let bundle = ask(&world, &world.asker, &more).await;
        assert_eq!(entries(&bundle), of(&all));
        let labelled = |id: &str| {
            let entry = bundle["entry"].as_array().unwrap().iter().find(|entry| entry["resource"]["id"] == id).unwrap();
            entry["resource"]["meta"]["security"].to_string().contains("\"HIV\"")
        };
        assert!(labelled("id") && labelled("here") && !labelled("plain") && !labelled("nowhere"), "{bundle}");
        let except = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        assert_eq!(entries(&ask(&world, &world.asker, &more).await), of(&["plain", "plain-here", "coded"]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_holders_are_asked_for_in_part_is_as_sensitive_as_in_the_whole_and_as_complete(db: &TestDb) {
        let nida = "https://lango.health/id/nida";
        let hers = json!({ "reference": "Patient/p" });
        let visit = |id: &str, label: Value| json!({ "resourceType": "Encounter", "id": id, "meta": { "security": label }, "status": "finished", "subject": hers, "class": { "system": LABEL, "code": "AMB" } });
        let of_visit = |id: &str, visit: &str| {
            let mut observation = observation(id, "p", None);
            observation["encounter"] = json!({ "reference": format!("Encounter/{visit}") });
            observation
        };
        let report = |id: &str, result: &str| json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "code": { "text": "Panel" }, "subject": hers, "result": [{ "reference": format!("Observation/{result}") }] });
        let older = [
            patient("p", nida, NUMBER),
            visit("clinic", json!([{ "system": LABEL, "code": "HIV" }])),
            visit("ward", json!([{ "system": LABEL, "code": "PSY" }])),
            observation("viral", "p", Some("HIV")),
            observation("sugar", "p", None),
        ];
        let newer =
            [of_visit("of-clinic", "clinic"), of_visit("of-ward", "ward"), report("of-viral", "viral"), report("of-sugar", "sugar")];
        // One as lango, one as any FHIR server is asked.
        let (a, c) = (RealHolder::start("HF-A", &older).await, RealHolder::start("HF-C", &older).await);
        let mut since = Vec::new();
        for holder in [&a, &c] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            since.push(holder.keep(&newer).await.swap_remove(0));
        }
        let since = json!({ "name": "since", "valueInstant": since.into_iter().min() });
        let world = World::with(db, |settings| {
            settings.holders = vec![Holder { kind: HolderKind::Fhir, ..a.settings() }, c.settings()];
        })
        .await;
        world.put(world.token("a"), &endpoint("ep-a", &a.server.base)).await;
        world.put(world.token("c"), &endpoint("ep-c", &c.server.base)).await;
        let ids: BTreeSet<String> = newer
            .iter()
            .chain(&older)
            .map(|one| format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap()))
            .collect();
        let found = async |more: &[Value]| {
            let bundle = ask(&world, &world.asker, more).await;
            assert!(outcome(&bundle).contains("\"complete\""), "{bundle}");
            let found = entries(&bundle);
            let of = |holder: &str| -> BTreeSet<String> {
                let ids = ids.iter().filter(|id| found.contains(&format!("{holder}:{id}")));
                ids.cloned().collect()
            };
            assert_eq!(of("HF-A"), of("HF-C"), "{bundle}");
            of("HF-C").into_iter().collect::<Vec<_>>().join(" ")
        };
        let of_type = json!({ "name": "type", "valueCode": "DiagnosticReport" });
        permit(&world, "k").await;
        assert_eq!(
            found(std::slice::from_ref(&since)).await,
            "DiagnosticReport/of-sugar DiagnosticReport/of-viral Observation/of-clinic Observation/of-ward"
        );
        assert_eq!(found(std::slice::from_ref(&of_type)).await, "DiagnosticReport/of-sugar DiagnosticReport/of-viral");
        let except = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        assert_eq!(found(std::slice::from_ref(&since)).await, "DiagnosticReport/of-sugar Observation/of-ward");
        assert_eq!(found(std::slice::from_ref(&of_type)).await, "DiagnosticReport/of-sugar");
        assert_eq!(found(&[of_type, since]).await, "DiagnosticReport/of-sugar");
        world.server.stop().await;
        a.stop().await;
        c.stop().await;
    }
);

both_databases!(
    async fn a_lango_tells_a_lango_the_labels_that_came_with_what_it_keeps(db: &TestDb) {
        let weight = observation("weight", "p", None);
        let bundle = json!({
            "resourceType": "Bundle", "id": "file", "type": "collection", "entry": [{ "resource": weight }],
            "meta": { "security": [{ "system": LABEL, "code": "HIV" }] },
        });
        let of_file = [patient("p", "https://lango.health/id/nida", NUMBER), weight, observation("pulse", "p", None), bundle];
        let c = RealHolder::start("HF-C", &of_file).await;
        let world = World::with(db, |settings| settings.holders = vec![c.settings()]).await;
        world.put(world.token("c"), &endpoint("ep-c", &c.server.base)).await;
        permit(&world, "k").await;
        let bundle = ask(&world, &world.asker, &[]).await;
        let labels = |id: &str| {
            let entry = bundle["entry"].as_array().unwrap().iter().find(|entry| entry["resource"]["id"] == id).unwrap();
            entry["resource"]["meta"]["security"].to_string()
        };
        assert!(labels("weight").contains("\"HIV\"") && labels("pulse") == "null", "{bundle}");
        let except = json!([{ "type": "deny", "securityLabel": [{ "system": LABEL, "code": "HIV" }] }]);
        world.consent("k", "a", json!({ "type": "permit", "provision": except })).await;
        let found = entries(&ask(&world, &world.asker, &[]).await);
        assert!(found.contains("HF-C:Observation/pulse") && !found.contains("HF-C:Observation/weight"), "{found:?}");
        world.server.stop().await;
        c.stop().await;
    }
);

both_databases!(
    async fn what_a_guardian_permitted_ends_for_holders_too(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |_| {}).await;
        let name = json!([{ "family": "Mushi", "given": ["Asha", "Neema"] }]);
        let mut known = location("d", None);
        known["name"] = name.clone();
        known.as_object_mut().unwrap().remove("birthDate");
        world.put(world.token("d"), &known).await;
        let born = async |date: &str| {
            let mut asha = crate::lookup::patient("a", NUMBER);
            (asha["name"], asha["birthDate"]) = (name.clone(), json!(date));
            world.put(world.token("a"), &asha).await;
        };
        let given = async |date: &str| {
            let mut body = consent("k", "a", json!({ "type": "permit" }));
            (body["performer"], body["dateTime"]) = (json!([{ "reference": "RelatedPerson/mother" }]), json!(date));
            world.put(&world.desk, &body).await;
        };
        let released = async || entries(&ask(&world, &world.asker, &[]).await).contains("HF-D:Observation/far");
        born("2020-01-01").await;
        given("2026-01-01").await;
        assert!(released().await);
        born("1980-01-01").await;
        assert!(!released().await, "she was of age");
        born("2020-01-01").await;
        assert!(!released().await, "nobody makes a permit longer by editing a Patient");
        given("2026-01-02").await;
        assert!(released().await);
        world.server.stop().await;
    }
);
