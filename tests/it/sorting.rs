//! Very many matches, sorted: along the sort's own index they come in the order in which sorting them puts them. The oracle is a second
//! sort key that changes nothing (ids rise with arrival, which breaks ties), because two keys are always sorted.

use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};

/// More than are sorted rather than walked past.
const MANY: usize = 1_400;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ids(bundle: &Value) -> Vec<String> {
    list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()).collect()
}

fn next(bundle: &Value) -> Option<String> {
    let link = list(&bundle["link"]).iter().find(|link| link["relation"] == "next")?;
    let url = link["url"].as_str().unwrap();
    Some(url[url.find("/fhir").unwrap()..].to_owned())
}

/// The `n`th Patient: some have several names, some the same name twice, some dates are of a year, and each may be missing.
fn patient(n: usize) -> Value {
    let mut patient = json!({ "resourceType": "Patient", "id": format!("p{n:05}"), "active": !n.is_multiple_of(3) });
    let name = |k: usize| json!({ "family": format!("F{:03}", (n * 7 + k * 31) % 211), "given": [format!("g{}", n % 5)] });
    if !n.is_multiple_of(11) {
        patient["name"] = (0..1 + n % 3).map(|k| name(k % 2)).collect();
    }
    match n % 6 {
        0 => {}
        1 => patient["birthDate"] = json!(format!("{}", 1930 + n % 70)),
        _ => patient["birthDate"] = json!(format!("{}-{:02}-{:02}", 1930 + n % 70, 1 + n % 12, 1 + n % 28)),
    }
    let gender = if !n.is_multiple_of(4) { "female" } else { "male" };
    patient["gender"] = json!(gender);
    patient
}

struct Asker<'a> {
    server: &'a TestServer,
    token: String,
}

impl Asker<'_> {
    async fn get(&self, path: &str) -> Value {
        let (status, bundle) = answer(self.server.client.get(self.server.url(path)).bearer_auth(&self.token)).await;
        assert_eq!(status, 200, "{path}: {bundle}");
        bundle
    }

    async fn send(&self, resources: Vec<Value>) {
        let entry = |resource: Value| {
            let url = format!("Patient/{}", resource["id"].as_str().unwrap());
            json!({ "request": { "method": "PUT", "url": url }, "resource": resource })
        };
        for chunk in resources.chunks(200) {
            let bundle =
                json!({ "resourceType": "Bundle", "type": "transaction", "entry": chunk.iter().cloned().map(entry).collect::<Vec<_>>() });
            let post =
                self.server.client.post(self.server.url("/fhir")).bearer_auth(&self.token).header("content-type", "application/fhir+json");
            let (status, answer) = answer(post.body(bundle.to_string())).await;
            assert_eq!(status, 200, "{answer}");
        }
    }

    /// The pages after the first.
    async fn rest(&self, first: &Value) -> Vec<String> {
        let mut all = ids(first);
        let mut url = next(first);
        while let Some(here) = url {
            let page = self.get(&here).await;
            all.extend(ids(&page));
            url = next(&page);
        }
        all
    }
}

both_databases!(
    async fn very_many_matches_come_in_the_order_of_their_values_on_every_page(db: &TestDb) {
        let ours = add_client(db, "ours", "HF-1", "system/*.cruds").await;
        let theirs = add_client(db, "theirs", "HF-2", "system/*.cruds").await;
        let server = TestServer::smart(db).await;
        let ours = Asker { server: &server, token: server.token("ours", &ours).await };
        let theirs = Asker { server: &server, token: server.token("theirs", &theirs).await };
        ours.send((0..MANY).filter(|n| n % 20 > 0).map(patient).collect()).await;
        // Nothing of these is told of, whatever the way.
        theirs.send((0..MANY).filter(|n| n % 20 == 0).map(patient).collect()).await;
        for (round, (filters, sorts)) in [
            ("", ["family", "-birthdate"]),
            ("active=true,false", ["-family", "birthdate"]),
            ("active=true,false&gender=female", ["_id", "-_lastUpdated"]),
            ("gender:not=male&active:missing=false", ["-_id", "birthdate"]),
            ("active=true,false&name:missing=false", ["_lastUpdated", "family"]),
            ("name=g1,g2,f&_lastUpdated=gt2000", ["-family", "-birthdate"]),
        ]
        .into_iter()
        .enumerate()
        {
            for sort in sorts {
                let question = |more: &str| format!("/fhir/Patient?{filters}&_elements=id&_count=210&_sort={sort}{more}");
                let (walked, sorted) = (ours.get(&question("")).await, ours.get(&question(",_id")).await);
                // What changes meanwhile, in its value, its filters or altogether, keeps its place.
                let changed = (0..MANY).skip(1 + round).step_by(97).filter(|n| n % 20 > 0);
                ours.send(
                    changed
                        .map(|n| {
                            let id = format!("p{n:05}");
                            let mut other = patient(n + round + 3);
                            other["id"] = json!(id);
                            other
                        })
                        .collect(),
                )
                .await;
                let gone = format!("/fhir/Patient/p{:05}", 401 + round);
                assert_eq!(server.client.delete(server.url(&gone)).bearer_auth(&ours.token).send().await.unwrap().status(), 204);
                let (walked, sorted) = (ours.rest(&walked).await, ours.rest(&sorted).await);
                assert!(sorted.len() > 900 && !sorted.iter().any(|id| id[1..].parse::<usize>().unwrap() % 20 == 0), "{filters} {sort}");
                assert_eq!(walked, sorted, "{filters} {sort}");
                ours.send(vec![patient(401 + round)]).await;
            }
        }
        server.stop().await;
    }
);

both_databases!(
    async fn equal_quantities_in_other_units_leave_the_order_to_the_next_key(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (id, value, unit, text) in
            [("o1", 1.0, "g", "c"), ("o2", 1000.0, "mg", "a"), ("o3", 1.0, "g", "b"), ("o4", 7.0, "words", "d"), ("o5", 2.0, "words", "e")]
        {
            let system = if unit == "words" { "urn:words" } else { "http://unitsofmeasure.org" };
            let observation = json!({
                "resourceType": "Observation", "id": id, "status": "final",
                "code": { "coding": [{ "system": "urn:lango:test", "code": text }] },
                "valueQuantity": { "value": value, "system": system, "code": unit },
            });
            assert_eq!(server.put(&format!("/fhir/Observation/{id}"), &observation).await.0, 201);
        }
        for (sort, order) in [
            ("value-quantity,code", ["o2", "o3", "o1", "o5", "o4"]),
            ("-value-quantity,-code", ["o1", "o3", "o2", "o4", "o5"]),
            ("value-quantity,-code", ["o1", "o3", "o2", "o5", "o4"]),
        ] {
            let (mut found, mut path) = (Vec::new(), Some(format!("/fhir/Observation?_sort={sort}&_count=2")));
            while let Some(at) = path {
                let (status, page) = server.get(&at).await;
                assert_eq!(status, 200, "{page}");
                found.extend(ids(&page));
                path = next(&page);
            }
            assert_eq!(found, order, "{sort}");
        }
        server.stop().await;
    }
);
