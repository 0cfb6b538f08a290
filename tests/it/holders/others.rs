//! Holders of other makes and with other certificates, what is in two places, and other ways to ask.

use super::{LABEL, NUMBER, OWN, ashas, ask, entries, patient, permit, searchset, with_double};
use crate::lookup::{World, by_number, observation};
use crate::support::guarded::{Guarded, consent};
use crate::support::holder::{Double, Mode, RealHolder, asked_at, endpoint};
use crate::support::{TestDb, TestServer, both_databases, program};
use lango::config::{Holder, HolderKind, Settings};
use lango::exchange::Holders;
use lango::ingest::workers::Workers;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

both_databases!(
    async fn a_holder_of_another_make_is_asked_by_a_search_and_everything(db: &TestDb) {
        let double = Double::start(Mode::Says(ashas())).await;
        let world = with_double(db, &double, |settings| settings.holders[0].kind = HolderKind::Fhir).await;
        permit(&world, "k").await;
        let bundle = ask(&world, &world.asker, &[json!({ "name": "type", "valueCode": "Observation" })]).await;
        assert!(entries(&bundle).contains("HF-D:Observation/far"), "{bundle}");
        let requests = double.requests();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert!(
            requests[0].starts_with("POST /fhir/Patient/_search HTTP") && requests[0].ends_with("identifier=urn%3Amrn%3Ahf-d%7CD-7"),
            "{requests:?}"
        );
        assert!(
            requests[1]
                .starts_with("GET /fhir/Patient/p1/$everything?_count=500&_type=Observation%2CPatient%2CEncounter%2CComposition HTTP"),
            "{requests:?}"
        );
        world.server.stop().await;
    }
);

both_databases!(
    async fn shared_records_hold_the_visits_that_stay_with_their_holder(db: &TestDb) {
        let visit = |id: &str, day: &str| {
            json!({
                "resourceType": "Encounter", "id": id, "status": "finished", "subject": { "reference": "Patient/p1" },
                "class": { "system": LABEL, "code": "AMB" }, "identifier": [{ "system": "urn:visit", "value": id }], "period": { "start": day },
            })
        };
        let mut diagnosis = json!({
            "resourceType": "Condition", "id": "malaria", "subject": { "reference": "Patient/p1" }, "encounter": { "reference": "Encounter/new" },
            "code": { "text": "Malaria", "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "B54" }] },
        });
        let (mut others, mut told) = (diagnosis.clone(), ashas());
        (others["id"], others["subject"]["reference"], others["code"]["text"]) = (json!("x"), json!("Patient/p2"), json!("Hidden"));
        diagnosis["recordedDate"] = json!("2026-10-01");
        for resource in [visit("old", "2026-01-01"), visit("new", "2026-10-01"), diagnosis, others] {
            told["entry"].as_array_mut().unwrap().push(json!({ "resource": resource }));
        }
        let double = Double::start(Mode::Says(told)).await;
        let world = with_double(db, &double, |_| {}).await;
        let asked = format!("/api/v1/hduApi/shr/sharedRecords?id={NUMBER}&idType=NIDA");
        let visits = |answer: &Value| -> Vec<String> {
            let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
            results.iter().map(|record| record["visitDetails"]["id"].as_str().unwrap().to_owned()).collect()
        };
        let (_, none) = world.get(&world.asker, &asked).await;
        assert_eq!((visits(&none).len(), double.requests().len()), (0, 0), "{none}");
        permit(&world, "k").await;
        let (status, shared) = world.get(&world.asker, &asked).await;
        assert_eq!((status, visits(&shared)), (200, vec!["new".to_owned()]), "{shared}");
        let record = &shared["results"][0];
        assert_eq!(record["facilityDetails"]["code"], "HF-D");
        assert_eq!(
            (&record["demographicDetails"]["lastName"], &record["diagnosisDetails"][0]["diagnosisCode"]),
            (&json!("Far"), &json!("B54"))
        );
        assert!(!shared.to_string().contains("Hidden"), "{shared}");
        // Whom HF-D holds; Asha at HF-A, at HF-C and at HF-D has no visits here.
        assert_eq!(shared["pager"]["total"], 1);
        let (_, more) = world.get(&world.asker, &format!("{asked}&numberOfVisits=5")).await;
        assert_eq!(visits(&more), ["new", "old"]);
        for page in 1..=2 {
            let (_, page_of) = world.get(&world.asker, &format!("{asked}&pageSize=1&page={page}")).await;
            assert_eq!(visits(&page_of).len(), usize::from(page == 1), "{page_of}");
        }
        assert!(shared["missing"].is_null(), "{shared}");
        let told = double.set(Mode::Status(500));
        let (_, without) = world.get(&world.asker, &asked).await;
        assert_eq!(without["missing"], json!([{ "facilityCode": "HF-D", "reason": "no-answer" }]));
        double.set(told);
        let before = double.requests().len();
        assert_eq!(visits(&world.get(&world.asker, &format!("{asked}&hfrCode=HF-C")).await.1).len(), 0);
        assert_eq!(double.requests().len(), before);
        assert_eq!(visits(&world.get(&world.asker, &format!("{asked}&lastName=Another")).await.1).len(), 0);
        world.server.stop().await;
    }
);

both_databases!(
    async fn the_doctor_says_whether_holders_answer(db: &TestDb) {
        let c = RealHolder::start("HF-C", &[]).await;
        let double = Double::start(Mode::Status(500)).await;
        let world = World::new(db).await;
        world.put(world.token("c"), &endpoint("ep-c", &c.server.base)).await;
        world.server.stop().await;
        let key = c.settings().key_file.unwrap();
        let holders = format!(
            "[{{facility = \"HF-C\", url = \"{}/fhir\", client_id = \"hie\", key_file = \"{}\"}}, {{facility = \"HF-D\", url = \"{}/fhir\"}}]",
            c.server.base,
            key.display(),
            double.base
        );
        let output = |arguments: &'static [&'static str]| {
            let mut command = program::command(db, arguments);
            command.env("LANGO_HOLDERS", &holders);
            tokio::task::spawn_blocking(move || command.output().unwrap())
        };
        let doctor = output(&["doctor"]).await.unwrap();
        let told = String::from_utf8(doctor.stdout).unwrap();
        assert!(told.contains("ok    holder HF-C: ") && told.contains("BAD   holder HF-D: it failed with status 500"), "{told}");
        assert!(told.contains("note  holder HF-D: ") && doctor.status.code() == Some(1), "{told}");
        let keys = output(&["keys", "public"]).await.unwrap();
        let keys: Value = serde_json::from_slice(&keys.stdout).unwrap();
        assert!(keys["keys"][0]["kid"].is_string() && keys["keys"][0]["d"].is_null(), "{keys}");
        c.stop().await;
    }
);

both_databases!(
    async fn what_a_holder_keeps_and_lango_has_too_comes_once(db: &TestDb) {
        let numbered = |id: &str, patient: &str, system: &str, value: &str| {
            let mut one = observation(id, patient, None);
            one["identifier"] = json!([{ "system": system, "value": value }]);
            one
        };
        let told = [
            patient("p1", OWN, "D-7"),
            numbered("far", "p1", "urn:lab", "1"),
            numbered("other-system", "p1", "urn:else", "1"),
            numbered("by-another", "p1", "urn:lab", "2"),
            numbered("kept-here", "p1", "urn:lab", "3"),
            observation("sourced", "p1", None),
            observation("same-id", "p1", None),
        ];
        let double = Double::start(Mode::Says(searchset(&told))).await;
        let world = with_double(db, &double, |_| {}).await;
        // HF-D sent some of it here as well; HF-A has a number of its own that is the same.
        world.put(world.token("d"), &numbered("d-1", "d", "urn:lab", "1")).await;
        world.put(world.token("a"), &numbered("a-2", "a", "urn:lab", "2")).await;
        let mut restricted = numbered("d-3", "d", "urn:lab", "3");
        restricted["meta"] = observation("x", "d", Some("PSYTHPN"))["meta"].clone();
        world.put(world.token("d"), &restricted).await;
        let mut sourced = observation("d-4", "d", None);
        sourced["meta"] = json!({ "source": format!("{}/fhir/Observation/sourced/_history/2", double.base) });
        world.put(world.token("d"), &sourced).await;
        world.put(world.token("d"), &observation("same-id", "d", None)).await;
        let found = |bundle: &Value| -> Vec<String> {
            let all = entries(bundle).into_iter().filter_map(|name| name.strip_prefix("HF-D:Observation/").map(str::to_owned));
            all.collect()
        };
        let ask = async |count: u32| {
            let (status, bundle) =
                world.lookup(&world.asker, json!([by_number(NUMBER), { "name": "_count", "valueInteger": count }])).await;
            assert_eq!(status, 200, "{bundle}");
            bundle
        };
        permit(&world, "k").await;
        let all = ask(100).await;
        assert_eq!(
            found(&all),
            ["by-another", "d-1", "d-3", "d-4", "other-system", "same-id"],
            "an id is no proof, nor is another's number"
        );
        assert_eq!(all["entry"].as_array().unwrap().iter().filter(|entry| entry["resource"]["id"] == "same-id").count(), 2);
        assert!(entries(&all).contains("HF-D:Patient/p1"), "who they are is told from both");
        // Whatever page it is on here.
        let first = ask(1).await;
        assert!(found(&first).iter().all(|id| !["far", "kept-here", "sourced"].contains(&id.as_str())), "{first}");
        // What is kept from the caller here takes nothing away there.
        let label = json!([{ "system": LABEL, "code": "PSYTHPN" }]);
        let except = json!([{ "type": "deny", "securityLabel": label }]);
        world.put(&world.desk, &consent("k", "a", json!({ "type": "permit", "provision": except }))).await;
        let some = found(&ask(100).await);
        assert!(some.contains(&"kept-here".to_owned()) && !some.contains(&"d-3".to_owned()), "{some:?}");
        world.server.stop().await;
    }
);

#[tokio::test]
async fn a_holders_certificate_is_believed_by_the_authority_that_the_operator_names() {
    let data = |name: &str| -> PathBuf { Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name) };
    let db = TestDb::sqlite();
    let server = TestServer::start(&db, |settings| {
        settings.tls.certificate = Some(data("server-1.pem"));
        settings.tls.key = Some(data("server-1.key"));
    })
    .await;
    let holders = |ca_file: Option<PathBuf>| {
        let holder = Holder { ca_file, ..asked_at("HF-C", &server.base) };
        Holders::new(&Settings { holders: vec![holder], ..Settings::default() })
    };
    let answers = async |ca_file| holders(ca_file).unwrap().list()[0].answers(&Workers::default()).await.is_ok();
    assert!(answers(Some(data("ca.pem"))).await);
    assert!(!answers(None).await, "nobody else believes that authority");
    assert!(!answers(Some(data("client-1.pem"))).await, "another's");
    assert!(holders(Some(data("nowhere.pem"))).is_err() && holders(Some(data("server-1.key"))).is_err(), "the start says so");
    server.stop().await;
}
