//! `Patient/$everything`, and compartments of one type and of all.

use crate::lookup::{World, ids, observation};
use crate::support::guarded::{Guarded, set};
use crate::support::server::answer;
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestServer, both_databases};
use lango::config::AuthMode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn reference(to: &str) -> Value {
    json!({ "reference": to })
}

/// Patient/p with a visit, and around it what the visit refers to.
fn record() -> Vec<Value> {
    let pulse = |id: &str, patient: &str, when: &str| {
        json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "pulse" },
            "subject": reference(patient), "encounter": reference("Encounter/e"), "effectiveDateTime": when,
            "performer": [reference("PractitionerRole/role")] })
    };
    vec![
        json!({ "resourceType": "Organization", "id": "org", "name": "Hospital", "partOf": reference("Organization/ministry") }),
        json!({ "resourceType": "Organization", "id": "ministry", "name": "Ministry" }),
        json!({ "resourceType": "Organization", "id": "elsewhere", "name": "Nobody refers to it" }),
        json!({ "resourceType": "Practitioner", "id": "doc", "name": [{ "family": "Doto" }] }),
        json!({ "resourceType": "PractitionerRole", "id": "role", "practitioner": reference("Practitioner/doc") }),
        json!({ "resourceType": "Location", "id": "ward", "name": "Ward" }),
        json!({ "resourceType": "Medication", "id": "drug", "code": { "text": "x" } }),
        json!({ "resourceType": "Patient", "id": "p", "managingOrganization": reference("Organization/org") }),
        json!({ "resourceType": "Patient", "id": "other" }),
        json!({ "resourceType": "Encounter", "id": "e", "status": "finished",
            "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" },
            "subject": reference("Patient/p"), "period": { "start": "2026-03-05T08:00:00Z", "end": "2026-03-05T09:00:00Z" },
            "participant": [{ "individual": reference("Practitioner/doc") }], "location": [{ "location": reference("Location/ward") }] }),
        pulse("o1", "Patient/p", "2026-03-05"),
        pulse("o2", "Patient/p", "2026-04"),
        pulse("theirs", "Patient/other", "2026-03-05"),
        json!({ "resourceType": "MedicationRequest", "id": "rx", "status": "active", "intent": "order", "subject": reference("Patient/p"),
            "medicationReference": reference("Medication/drug"), "authoredOn": "2026-03-06" }),
        json!({ "resourceType": "AllergyIntolerance", "id": "nuts", "patient": reference("Patient/p") }),
    ]
}

async fn put_all(server: &TestServer, resources: &[Value]) {
    let entry = |resource: &Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        json!({ "request": { "method": "PUT", "url": url }, "resource": resource })
    };
    let entries: Vec<Value> = resources.iter().map(entry).collect();
    let (status, body) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
    assert_eq!(status, 200, "{body}");
}

/// The ids of entries with this mode.
fn of_mode(bundle: &Value, mode: &str) -> BTreeSet<String> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    let entries = entries.iter().filter(|entry| entry["search"]["mode"] == mode);
    entries.map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()).collect()
}

async fn ask(server: &TestServer, path: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (status, bundle) = server.get(path).await;
    assert_eq!(status, 200, "{path}: {bundle}");
    (of_mode(&bundle, "match"), of_mode(&bundle, "include"))
}

fn next(bundle: &Value) -> Option<String> {
    let links = bundle["link"].as_array()?;
    let next = links.iter().find(|link| link["relation"] == "next")?;
    next["url"].as_str()?.split_once("/fhir").map(|(_, path)| format!("/fhir{path}"))
}

const RECORD: [&str; 6] = ["e", "nuts", "o1", "o2", "p", "rx"];
const AROUND: [&str; 6] = ["doc", "drug", "ministry", "org", "role", "ward"];

both_databases!(
    async fn everything_is_the_record_and_what_it_needs_to_be_understood(db: &TestDb) {
        let server = TestServer::open(db).await;
        put_all(&server, &record()).await;
        let around = set(&AROUND);
        let (status, bundle) = server.get("/fhir/Patient/p/$everything").await;
        assert_eq!((status, of_mode(&bundle, "match"), of_mode(&bundle, "include")), (200, set(&RECORD), around.clone()), "{bundle}");
        assert_eq!((bundle["type"].as_str(), bundle["total"].as_u64()), (Some("searchset"), Some(6)));
        assert_eq!(bundle["entry"][0]["resource"]["id"], "p", "the Patient comes first");
        // As Parameters, too.
        let parameters = json!({ "resourceType": "Parameters", "parameter": [{ "name": "_type", "valueString": "Observation" }] });
        let (_, bundle) = server.post("/fhir/Patient/p/$everything", &parameters).await;
        assert_eq!((of_mode(&bundle, "match"), of_mode(&bundle, "include")), (set(&["o1", "o2"]), set(&[])));
        // As in a search: how many there are, and none of them.
        for (path, total) in [
            ("Patient/p/$everything?_count=0", 6),
            ("Patient/p/$everything?_count=0&_type=Observation&start=2026-04", 1),
            ("Encounter/e/*?_count=0", 4),
        ] {
            let (status, bundle) = server.get(&format!("/fhir/{path}")).await;
            let links: Vec<&Value> = bundle["link"].as_array().unwrap().iter().map(|link| &link["relation"]).collect();
            assert_eq!(
                (status, &bundle["total"], bundle.get("entry"), links),
                (200, &json!(total), None, vec![&json!("self")]),
                "{bundle}"
            );
            let (_, whole) = server.get(&format!("/fhir/{}", path.replace("_count=0", "_count=50"))).await;
            assert_eq!(whole["total"], total, "{path}");
        }
        assert_eq!(server.get("/fhir/Patient/nobody/$everything?_count=0").await.0, 404);
        // Narrowed by type, of the supporting ones too; what they support need not be asked for.
        let asked = ask(&server, "/fhir/Patient/p/$everything?_type=Encounter,Practitioner,Patient").await;
        assert_eq!(asked, (set(&["e", "p"]), set(&["doc"])));
        // By the time of care: what does not say when is in. March ends before April begins.
        let asked = ask(&server, "/fhir/Patient/p/$everything?start=2026-03-06&end=2026-03").await;
        assert_eq!(asked, (set(&["nuts", "p", "rx"]), set(&["drug", "ministry", "org"])));
        let asked = ask(&server, "/fhir/Patient/p/$everything?start=2026-04-30&_type=Observation").await;
        assert_eq!(asked.0, set(&["o2"]));
        // Refusals.
        for (path, expected) in [
            ("/fhir/Patient/nobody/$everything", 404),
            ("/fhir/Patient/$everything", 400),
            ("/fhir/Patient/p/$everything?_type=Alien", 400),
            ("/fhir/Patient/p/$everything?start=soon", 400),
            ("/fhir/Patient/p/$everything?_cursor=x", 400),
            ("/fhir/Observation/o1/$everything", 404),
        ] {
            assert_eq!(server.get(path).await.0, expected, "{path}");
        }
        let (_, bundle) = server.get("/fhir/Patient/p/$everything?colour=red").await;
        assert_eq!(bundle["entry"].as_array().unwrap().last().unwrap()["search"]["mode"], "outcome", "{bundle}");
        // A type that no answer has is told, or refused.
        let path = "/fhir/Patient/p/$everything?_type=Device,Encounter";
        let (_, bundle) = server.get(path).await;
        let told: Vec<&Value> = bundle["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]["resourceType"]).collect();
        assert_eq!(told, ["Encounter", "OperationOutcome"], "{bundle}");
        let strict = server.client.get(server.url(path)).header("Prefer", "handling=strict").send().await.unwrap();
        assert_eq!(strict.status(), 400);
        server.client.delete(server.url("/fhir/Patient/p")).send().await.unwrap();
        assert_eq!(server.get("/fhir/Patient/p/$everything").await.0, 410);
        server.stop().await;
    }
);

both_databases!(
    async fn since_gives_what_changed_and_what_that_refers_to(db: &TestDb) {
        let server = TestServer::open(db).await;
        put_all(&server, &record()).await;
        let (_, observation) = server.get("/fhir/Observation/o1").await;
        let before = observation["meta"]["lastUpdated"].as_str().unwrap().to_owned();
        let since = |moment: &str| format!("/fhir/Patient/p/$everything?_since={moment}");
        assert_eq!(ask(&server, &since(&before)).await, (set(&RECORD), set(&AROUND)), "from that moment on");
        let mut changed = record().into_iter().find(|one| one["id"] == "rx").unwrap();
        changed["authoredOn"] = json!("2026-03-07");
        put_all(&server, &[changed, json!({ "resourceType": "Location", "id": "ward", "name": "Ward 2" })]).await;
        let (_, ward) = server.get("/fhir/Location/ward").await;
        let asked = ask(&server, &since(ward["meta"]["lastUpdated"].as_str().unwrap())).await;
        assert_eq!(asked, (set(&["rx"]), set(&["drug", "ward"])));
        assert_eq!(ask(&server, &since("2099-01-01T00:00:00Z")).await, (set(&[]), set(&[])));
        server.stop().await;
    }
);

both_databases!(
    async fn pages_repeat_nothing_and_miss_nothing_whatever_is_written_meanwhile(db: &TestDb) {
        let server = TestServer::open(db).await;
        put_all(&server, &record()).await;
        for count in 1..=5 {
            let mut path = format!("/fhir/Patient/p/$everything?_count={count}");
            let mut seen: Vec<String> = Vec::new();
            for page in 0.. {
                let (status, bundle) = server.get(&path).await;
                assert_eq!(status, 200, "{bundle}");
                let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
                assert!(entries.len() <= count, "{bundle}");
                for entry in &entries {
                    assert_ne!(entry["resource"]["status"], "amended", "a page sees what the first one saw");
                    seen.push(entry["resource"]["id"].as_str().unwrap().to_owned());
                }
                // Something new, something changed, something gone and come again.
                let mut later = record().into_iter().find(|one| one["id"] == "o2").unwrap();
                later["status"] = json!("amended");
                let mut new = later.clone();
                new["id"] = json!(format!("new-{count}-{page}"));
                put_all(&server, &[later, new]).await;
                server.client.delete(server.url("/fhir/AllergyIntolerance/nuts")).send().await.unwrap();
                match next(&bundle) {
                    Some(next) => path = next,
                    None => break,
                }
            }
            let mut expected: Vec<String> = RECORD.iter().chain(&AROUND).map(|id| (*id).to_owned()).collect();
            expected.sort();
            seen.sort();
            assert_eq!(seen, expected, "_count={count}");
            for one in record().iter().filter(|one| one["resourceType"] == "Observation" && one["subject"] == reference("Patient/p")) {
                put_all(&server, std::slice::from_ref(one)).await;
            }
            put_all(&server, &record()[14..]).await;
            let (_, bundle) = server.get("/fhir/Observation?subject=Patient/p&_count=100").await;
            for id in ids(&bundle).iter().filter(|id| id.starts_with("new-")) {
                server.client.delete(server.url(&format!("/fhir/Observation/{id}"))).send().await.unwrap();
            }
        }
        server.stop().await;
    }
);

both_databases!(
    async fn everything_is_what_the_patient_allows(db: &TestDb) {
        let world = World::new(db).await;
        let everything = |id: &str| format!("/fhir/Patient/{id}/$everything");
        let golden = world.golden.clone();
        for id in ["a", "c", &golden, "nobody"] {
            assert_eq!(world.get(&world.asker, &everything(id)).await.0, 404, "{id}: nothing is allowed yet");
        }
        let actor = json!([{ "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
            "reference": { "reference": "Organization/hf-b" } }]);
        let sensitive = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSYTHPN" }]);
        let provision = json!({ "type": "permit", "actor": actor, "provision": [{ "type": "deny", "securityLabel": sensitive }] });
        world.consent("k", "a", provision).await;
        let (status, bundle) = world.get(&world.asker, &everything("a")).await;
        assert_eq!((status, ids(&bundle)), (200, set(&["a", "a-hr", "k"])), "{bundle}");
        // The golden Patient stands for all its sources, and is one of what is told.
        let (status, bundle) = world.get(&world.asker, &everything(&golden)).await;
        let mut told = world.found(&world.asker, &[]).await;
        assert_eq!(told, set(&["a", "a-hr", "c", "c-hr", "k"]));
        told.insert(golden.clone());
        assert_eq!((status, ids(&bundle)), (200, told.clone()), "{bundle}");
        // In pages of one, the same; a link is its caller's alone.
        let (mut path, mut seen) = (format!("{}?_count=1", everything(&golden)), Vec::new());
        let mut link = None;
        loop {
            let (status, bundle) = world.get(&world.asker, &path).await;
            assert_eq!(status, 200, "{bundle}");
            seen.extend(ids(&bundle));
            let Some(next) = next(&bundle) else { break };
            link.get_or_insert_with(|| next.clone());
            path = next;
        }
        seen.sort();
        assert_eq!(seen, told.iter().cloned().collect::<Vec<_>>());
        assert_eq!(world.get(world.token("a"), &link.unwrap()).await.0, 400);
        // Its own facility sees its own, labelled or not.
        let (_, bundle) = world.get(world.token("a"), &everything("a")).await;
        assert_eq!(ids(&bundle), set(&["a", "a-hr", "a-psy"]), "the Consent is the desk's");
        // `*` of the compartment is as narrow.
        let (_, bundle) = world.get(&world.asker, "/fhir/Patient/a/*").await;
        assert_eq!(ids(&bundle), set(&["a", "a-hr", "k"]));
        let (_, bundle) = world.get(&world.asker, &format!("/fhir/Patient/{golden}/*")).await;
        assert_eq!(ids(&bundle), set(&["a", "a-hr", "c", "c-hr", "k"]));
        world.consent("k", "a", json!({ "type": "deny" })).await;
        assert_eq!(world.get(&world.asker, &everything("a")).await.0, 404, "withdrawn at once");
        assert_eq!(ids(&world.get(&world.asker, "/fhir/Patient/a/*").await.1), set(&[]));
        world.server.stop().await;
    }
);

both_databases!(
    async fn scopes_bound_everything_too(db: &TestDb) {
        add_signing_client(db, "emr", "HF-A", "").await;
        let server = TestServer::start(db, |settings| settings.auth = AuthMode::Smart).await;
        let token = signed_token(&server, "emr", &json!({})).await;
        let send = |method: &'static str, path: String, body: Value| {
            let request = server.client.request(method.parse().unwrap(), server.url(&path)).bearer_auth(&token);
            answer(request.header("content-type", "application/fhir+json").body(body.to_string()))
        };
        let mut resources = record();
        resources.push(observation("other-code", "p", None));
        for one in resources.iter().filter(|one| !matches!(one["resourceType"].as_str(), Some("Organization" | "Practitioner"))) {
            let path = format!("/fhir/{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
            let (status, body) = send("PUT", path, one.clone()).await;
            assert!(matches!(status, 200 | 201), "{body}");
        }
        let (status, bundle) = send("GET", "/fhir/Patient/p/$everything".into(), Value::Null).await;
        assert_eq!(status, 200, "{bundle}");
        let mut whole = set(&RECORD);
        whole.insert("other-code".into());
        assert_eq!((of_mode(&bundle, "match"), of_mode(&bundle, "include")), (whole, set(&["drug", "role", "ward"])));
        server.stop().await;
    }
);

both_databases!(
    async fn each_compartment_can_be_searched_by_type_and_whole(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut resources = record();
        resources.extend([
            json!({ "resourceType": "Device", "id": "cuff", "patient": reference("Patient/p") }),
            json!({ "resourceType": "RelatedPerson", "id": "aunt", "patient": reference("Patient/p") }),
            json!({ "resourceType": "Observation", "id": "bp", "status": "preliminary", "code": { "text": "bp" },
                "subject": reference("Patient/p"), "device": reference("Device/cuff"), "performer": [reference("RelatedPerson/aunt")] }),
        ]);
        put_all(&server, &resources).await;
        for (path, expected) in [
            ("/fhir/Encounter/e/Observation", &["o1", "o2", "theirs"][..]),
            ("/fhir/Encounter/e/Observation?subject=Patient/p&date=2026-04", &["o2"]),
            ("/fhir/Encounter/e/Encounter", &["e"]),
            ("/fhir/Encounter/e/*", &["e", "o1", "o2", "theirs"]),
            ("/fhir/Encounter/e/*?_type=Encounter", &["e"]),
            ("/fhir/Practitioner/doc/Encounter", &["e"]),
            ("/fhir/Practitioner/doc/PractitionerRole", &["role"]),
            ("/fhir/Practitioner/doc/*", &["doc", "e", "role"]),
            ("/fhir/RelatedPerson/aunt/Observation", &["bp"]),
            ("/fhir/RelatedPerson/aunt/*", &["aunt", "bp"]),
            ("/fhir/Device/cuff/Observation?status=preliminary", &["bp"]),
            ("/fhir/Device/cuff/*", &["bp"]),
            ("/fhir/Patient/p/*", &["aunt", "bp", "e", "nuts", "o1", "o2", "p", "rx"]),
            ("/fhir/Patient/p/Observation", &["bp", "o1", "o2"]),
            ("/fhir/Patient/nobody/*", &[]),
        ] {
            assert_eq!(ask(&server, path).await, (set(expected), set(&[])), "{path}");
        }
        let form = server.client.post(server.url("/fhir/Encounter/e/Observation/_search"));
        let (_, bundle) = answer(form.header("content-type", "application/x-www-form-urlencoded").body("date=2026-04")).await;
        assert_eq!(ids(&bundle), set(&["o2"]));
        for (path, expected) in
            [("/fhir/Encounter/e/Patient", 404), ("/fhir/Device/cuff/Device", 404), ("/fhir/Location/ward/Encounter", 404)]
        {
            assert_eq!(server.get(path).await.0, expected, "{path}");
        }
        let (_, statement) = server.get("/fhir/metadata").await;
        assert_eq!(statement["rest"][0]["compartment"].as_array().unwrap().len(), 5);
        server.stop().await;
    }
);

both_databases!(
    async fn a_patient_that_is_linked_is_in_the_compartment_whoever_asks(db: &TestDb) {
        let server = TestServer::open(db).await;
        let link = json!([{ "other": reference("Patient/p"), "type": "seealso" }]);
        put_all(
            &server,
            &[
                json!({ "resourceType": "Patient", "id": "p" }),
                json!({ "resourceType": "Patient", "id": "linked", "link": link }),
                json!({ "resourceType": "Patient", "id": "other" }),
                json!({ "resourceType": "Condition", "id": "theirs", "subject": reference("Patient/linked") }),
            ],
        )
        .await;
        for path in ["Patient", "*", "*?_type=Patient", "$everything", "$everything?_type=Patient"] {
            let (found, _) = ask(&server, &format!("/fhir/Patient/p/{path}")).await;
            assert_eq!(found, set(&["linked", "p"]), "{path}");
        }
        assert_eq!(ask(&server, "/fhir/Patient/linked/$everything").await.0, set(&["linked", "theirs"]), "links lead one way");
        for key in ["valueInteger", "valueUnsignedInt", "valuePositiveInt"] {
            let mut count = json!({ "name": "_count" });
            count[key] = json!(1);
            let asked = json!({ "resourceType": "Parameters", "parameter": [count] });
            let (status, bundle) = server.post("/fhir/Patient/p/$everything", &asked).await;
            assert_eq!((status, ids(&bundle).len()), (200, 1), "{key}: {bundle}");
            assert!(next(&bundle).is_some());
        }
        server.stop().await;
    }
);
