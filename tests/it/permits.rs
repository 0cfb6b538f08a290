//! What a permit rests on besides the Consent: who is linked with whom, what is said of them, when they were born. Whatever comes first, what changes it narrows
//! the permit, and within one transaction what it says itself counts.

use crate::consent::World;
use crate::support::both_databases;
use crate::support::guarded::{Guarded, consent, observation, set, to};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NIDA: &str = "https://lango.health/id/nida";
const ROUNDS: usize = 12;

fn patient(id: &str, number: Option<&str>, born: &str) -> Value {
    let mut patient = json!({ "resourceType": "Patient", "id": id, "birthDate": born });
    if let Some(number) = number {
        patient["identifier"] = json!([{ "system": NIDA, "value": number }]);
    }
    patient
}

fn permit(id: &str, patient: &str) -> Value {
    consent(id, patient, json!({ "type": "permit", "actor": to("Organization/hf-b") }))
}

fn guardians(id: &str, patient: &str) -> Value {
    let mut consent = permit(id, patient);
    consent["performer"] = json!([{ "reference": "RelatedPerson/mother" }]);
    consent
}

fn transaction(resources: &[Value]) -> Value {
    let entry = |resource: &Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
    };
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": resources.iter().map(entry).collect::<Vec<_>>() })
}

/// What the asker sees of these Patients.
async fn seen(world: &World, patients: &[&str]) -> BTreeSet<String> {
    world.ids(&world.asker, &format!("/fhir/Observation?patient={}", patients.join(","))).await
}

both_databases!(
    async fn who_turns_out_to_be_somebody_else_is_not_covered_whoever_gave_the_consent(db: &TestDb) {
        let world = World::new(db).await;
        for (round, says) in [
            vec![Some(patient("", Some("other"), "1990-01-02"))],
            vec![Some(patient("", Some("other"), "1971-05-05"))],
            vec![Some(patient("", None, "1990-01-02"))],
            vec![Some(patient("", Some("own"), "1971-05-05"))],
            vec![Some(patient("", Some("other"), "1990-01-02")), Some(patient("", Some("other"), "1971-05-05"))],
            vec![None],
        ]
        .into_iter()
        .enumerate()
        {
            let (own, other) = (format!("1990-{round}"), format!("1991-{round}"));
            let ids = ["giver", "second", "third"].map(|id| format!("{id}{round}"));
            for id in &ids {
                world.put(&world.holder, &patient(id, Some(&own), "1990-01-02")).await;
                world.put(&world.holder, &observation(&format!("{id}-o"), id, "8867-4", "2026-03-05", None)).await;
            }
            let [giver, second, third] = ids.each_ref().map(String::as_str);
            world.put(&world.desk, &permit(&format!("c{round}"), giver)).await;
            assert_eq!(seen(&world, &[giver, second, third]).await.len(), 3, "round {round}");
            for said in &says {
                match said {
                    Some(said) => {
                        let mut said = said.clone();
                        said["id"] = json!(giver);
                        if let Some(number) = said.pointer_mut("/identifier/0/value") {
                            *number = if number == "own" { json!(own) } else { json!(other) };
                        }
                        world.put(&world.holder, &said).await;
                    }
                    None => assert_eq!(world.send(&world.holder, "DELETE", &format!("/fhir/Patient/{giver}"), &Value::Null).await.0, 204),
                }
                assert_eq!(seen(&world, &[second, third]).await, set(&[]), "round {round}");
            }
            let (_, bundle) = world.get(&world.asker, &format!("/fhir/Observation?patient={giver}")).await;
            assert_eq!(bundle["total"], 1, "what somebody permits of themselves stays: round {round}");
        }
    }
);

both_databases!(
    async fn a_chain_of_links_that_breaks_in_the_middle_covers_nobody_beyond(db: &TestDb) {
        let world = World::new(db).await;
        let mut between = patient("between", Some("1990-1"), "1990-01-02");
        between["identifier"].as_array_mut().unwrap().push(json!({ "system": NIDA, "value": "1990-2" }));
        for one in [&patient("giver", Some("1990-1"), "1990-01-02"), &patient("far", Some("1990-2"), "1990-01-02"), &between] {
            world.put(&world.holder, one).await;
        }
        world.put(&world.holder, &observation("far-o", "far", "8867-4", "2026-03-05", None)).await;
        world.put(&world.desk, &permit("c", "giver")).await;
        assert_eq!(seen(&world, &["far"]).await, set(&["far-o"]));
        world.put(&world.holder, &patient("between", None, "1990-01-02")).await;
        assert_eq!(seen(&world, &["far"]).await, set(&[]));
    }
);

both_databases!(
    async fn what_a_transaction_says_of_patients_counts_for_its_consents(db: &TestDb) {
        let world = World::new(db).await;
        let put = async |resources: &[Value]| {
            let (status, answer) = world.send(&world.desk, "POST", "/fhir", &transaction(resources)).await;
            assert_eq!(status, 200, "{answer}");
        };
        let of = |id: &str| observation(&format!("{id}-o"), id, "8867-4", "2026-03-05", None);
        put(&[patient("grown", None, "2015-01-02"), of("grown")]).await;
        // Of age since March 2026, and the Consent is of January.
        put(&[patient("grown", None, "2008-03-01"), guardians("c1", "grown")]).await;
        assert_eq!(seen(&world, &["grown"]).await, set(&[]));
        put(&[guardians("c2", "child"), patient("child", None, "2015-01-02"), of("child")]).await;
        assert_eq!(seen(&world, &["child"]).await, set(&["child-o"]), "the child comes with its guardian's consent");
        put(&[patient("child", None, "2008-03-01"), permit("c3", "grown")]).await;
        assert_eq!(seen(&world, &["child"]).await, set(&[]));

        put(&[patient("one", Some("1990-1"), "1990-01-02"), patient("two", Some("1990-1"), "1990-01-02"), of("two")]).await;
        put(&[patient("two", Some("1990-1"), "1971-05-05"), permit("c4", "one")]).await;
        assert_eq!(seen(&world, &["two"]).await, set(&[]));
        put(&[patient("two", Some("1990-1"), "1990-01-02"), permit("c4", "one")]).await;
        assert_eq!(seen(&world, &["two"]).await, set(&["two-o"]), "corrected with the Consent");
    }
);

both_databases!(
    async fn a_consent_and_an_edit_at_once_open_nothing_that_either_order_closes(db: &TestDb) {
        let world = World::new(db).await;
        for round in 0..ROUNDS {
            let [one, two, child] = ["one", "two", "child"].map(|id| format!("{id}{round}"));
            let number = format!("1990-{round}");
            for said in [
                patient(&one, Some(&number), "1990-01-02"),
                patient(&two, Some(&number), "1990-01-02"),
                patient(&child, None, "2015-01-02"),
            ] {
                world.put(&world.holder, &said).await;
            }
            for id in [&two, &child] {
                world.put(&world.holder, &observation(&format!("{id}-o"), id, "8867-4", "2026-03-05", None)).await;
            }
            let pause = std::time::Duration::from_millis(5 * (round % 6) as u64);
            let (linked, of_child) = (permit(&format!("l{round}"), &one), guardians(&format!("g{round}"), &child));
            let (other, grown) = (patient(&two, Some(&number), "1971-05-05"), patient(&child, None, "2008-03-01"));
            tokio::join!(world.put(&world.desk, &linked), world.put(&world.desk, &of_child), async {
                tokio::time::sleep(pause).await;
                tokio::join!(world.put(&world.holder, &other), world.put(&world.holder, &grown));
            });
            assert_eq!(seen(&world, &[&two, &child]).await, set(&[]), "round {round}");
        }
    }
);

both_databases!(
    async fn a_guardians_permit_ends_with_what_is_known_of_the_child(db: &TestDb) {
        let world = World::new(db).await;
        world.put(&world.holder, &patient("a", None, "2015-01-02")).await;
        let mut given = permit("c", "a");
        given["performer"] = json!([{ "type": "RelatedPerson", "display": "Mother" }]);
        world.put(&world.desk, &given).await;
        assert_eq!(seen(&world, &["a"]).await.len(), 2);
        assert_eq!(world.send(&world.holder, "DELETE", "/fhir/Patient/a", &Value::Null).await.0, 204);
        assert_eq!(world.ids(&world.asker, "/fhir/Observation").await, set(&[]), "no birth date is known");
        world.put(&world.holder, &patient("a", None, "2015-01-02")).await;
        assert_eq!(seen(&world, &["a"]).await, set(&[]), "nobody makes a permit longer by editing a Patient");
        world.put(&world.desk, &given).await;
        assert_eq!(seen(&world, &["a"]).await.len(), 2, "written again, though it says the same");
        world.put(&world.holder, &patient("a", None, "2008-03-01")).await;
        assert_eq!(seen(&world, &["a"]).await, set(&[]));
    }
);

both_databases!(
    async fn a_consent_that_is_put_again_as_it_is_is_read_again(db: &TestDb) {
        let world = World::new(db).await;
        world.put(&world.holder, &patient("one", Some("1990-1"), "1990-01-02")).await;
        world.put(&world.desk, &permit("c", "one")).await;
        world.put(&world.holder, &patient("two", Some("1990-1"), "1990-01-02")).await;
        world.put(&world.holder, &observation("two-o", "two", "8867-4", "2026-03-05", None)).await;
        assert_eq!(seen(&world, &["two"]).await, set(&[]), "linked later");
        let (_, before) = world.get(&world.desk, "/fhir/Consent/c").await;
        let (status, answer) = world.send(&world.desk, "PUT", "/fhir/Consent/c", &permit("c", "one")).await;
        assert_eq!((status, &answer), (200, &before), "no new version");
        assert_eq!(seen(&world, &["two"]).await, set(&["two-o"]));
        assert_eq!(world.get(&world.desk, "/fhir/Consent/c").await.1, before);
        assert_eq!(world.get(&world.desk, "/fhir/Consent/c/_history").await.1["total"], 1);
    }
);
