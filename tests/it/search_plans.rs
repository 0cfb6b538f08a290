//! However a search is carried out, it finds the same: what is frequent is walked, what is rare is computed, and pages go on where they ended.

use crate::support::{TestServer, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PEOPLE: usize = 60;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Person `n`: every third has two names, every second is a woman; who was born in an uneven year has only the year.
fn patient(n: usize) -> Value {
    let mut names = vec![json!({ "family": format!("F{}", n % 7), "given": [format!("G{}", n % 4)] })];
    if n.is_multiple_of(3) {
        names.push(json!({ "family": format!("F{}", (n + 3) % 7) }));
    }
    let birth = if n.is_multiple_of(2) { format!("{}-03-0{}", 1950 + n % 40, n % 9 + 1) } else { (1950 + n % 40).to_string() };
    let gender = ["female", "male"][n % 2];
    json!({ "resourceType": "Patient", "id": format!("p{n}"), "name": names, "gender": gender, "birthDate": birth })
}

/// Of person `n`, at their encounter.
fn observation(n: usize, second: bool) -> Value {
    let method = (!n.is_multiple_of(5)).then(|| json!({ "coding": [{ "system": "urn:m", "code": format!("m{}", n % 3) }] }));
    let mut observation = json!({
        "resourceType": "Observation", "id": format!("o{n}{}", if second { "b" } else { "" }), "status": "final",
        "identifier": [{ "system": format!("urn:s{}", n % 2), "value": format!("{:03}", n * 37 % 101) }],
        "meta": { "profile": [format!("http://x.org/p{}", n % 4)] },
        "code": { "coding": [{ "system": "urn:c", "code": if n.is_multiple_of(3) != second { "a" } else { "b" } }] },
        "subject": { "reference": format!("Patient/p{n}") }, "encounter": { "reference": format!("Encounter/e{n}") },
        "valueQuantity": { "value": n % 20, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg" },
    });
    if let Some(method) = method {
        observation["method"] = method;
    }
    observation
}

async fn load(server: &TestServer) {
    let codes: Vec<Value> = ["a", "z1", "z2", "z3", "z4", "z5", "z6", "z7", "z8", "z9"].map(|code| json!({ "code": code })).to_vec();
    let many = json!({
        "resourceType": "ValueSet", "id": "many", "url": "urn:many", "status": "active",
        "compose": { "include": [{ "system": "urn:c", "concept": codes }] },
    });
    let mut entries = vec![json!({ "resource": many, "request": { "method": "PUT", "url": "ValueSet/many" } })];
    for n in 0..PEOPLE {
        let encounter = json!({
            "resourceType": "Encounter", "id": format!("e{n}"), "status": "finished", "class": { "code": "AMB" },
            "subject": { "reference": format!("Patient/p{n}") },
        });
        let second = (n % 4 == 0).then(|| observation(n, true));
        for resource in [patient(n), encounter, observation(n, false)].into_iter().chain(second) {
            let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            entries.push(json!({ "resource": resource, "request": { "method": "PUT", "url": url } }));
        }
    }
    let (status, answer) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
    assert_eq!(status, 200, "{answer:.300}");
}

/// The ids of all pages, in order; `between` is done after each page.
async fn walk(server: &TestServer, path: &str, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut found, mut page, mut number) = (Vec::new(), Some(path.to_owned()), 0);
    while let Some(path) = page {
        let (status, bundle) = server.get(&path).await;
        assert_eq!(status, 200, "{path}: {bundle:.300}");
        let ids = list(&bundle["entry"]).iter().map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned());
        found.extend(ids);
        let link = list(&bundle["link"]).iter().find(|link| link["relation"] == "next");
        page = link.map(|link| {
            let url = link["url"].as_str().unwrap();
            url[url.find("/fhir").unwrap()..].to_owned()
        });
        between(number).await;
        number += 1;
    }
    found
}

both_databases!(
    async fn whatever_is_rare_or_frequent_every_page_comes_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        load(&server).await;
        let woman = |n: usize| n.is_multiple_of(2);
        let has = |n: usize, code: &str| {
            [false, true]
                .iter()
                .any(|second| (n.is_multiple_of(4) || !second) && observation(n, *second)["code"]["coding"][0]["code"] == code)
        };
        let family = |n: usize, digit: usize| n % 7 == digit || n.is_multiple_of(3) && (n + 3) % 7 == digit;
        let people =
            |keep: &dyn Fn(usize) -> bool| -> BTreeSet<String> { (0..PEOPLE).filter(|n| keep(*n)).map(|n| format!("p{n}")).collect() };
        let observations = |keep: &dyn Fn(usize, &Value) -> bool| -> BTreeSet<String> {
            let all = (0..PEOPLE).flat_map(|n| [(n, false)].into_iter().chain((n % 4 == 0).then_some((n, true))));
            let made = all.map(|(n, second)| (n, observation(n, second)));
            made.filter(|(n, made)| keep(*n, made)).map(|(_, made)| made["id"].as_str().unwrap().to_owned()).collect()
        };
        let code = |made: &Value, code: &str| made["code"]["coding"][0]["code"] == code;
        let cases = [
            ("Observation?subject:Patient.gender=female", observations(&|n, _| woman(n))),
            ("Observation?subject:Patient.family=F3", observations(&|n, _| family(n, 3))),
            ("Observation?code=a&subject:Patient.gender=female", observations(&|n, made| woman(n) && code(made, "a"))),
            ("Observation?encounter:Encounter.subject:Patient.gender=female", observations(&|n, _| woman(n))),
            ("Observation?encounter.subject:Patient._has:Observation:subject:code=a", observations(&|n, _| has(n, "a"))),
            ("Observation?code=a,b", observations(&|_, _| true)),
            (
                "Observation?code=b,c&value-quantity=ge5|http://unitsofmeasure.org|mg",
                observations(&|n, made| code(made, "b") && n % 20 >= 5),
            ),
            ("Observation?value-quantity=ge15|http://unitsofmeasure.org|mg", observations(&|n, _| n % 20 >= 15)),
            ("Observation?value-quantity=lt5|http://unitsofmeasure.org|mg", observations(&|n, _| n % 20 < 5)),
            ("Observation?subject=Patient/p0,Patient/p4,Patient/p5", observations(&|n, _| [0, 4, 5].contains(&n))),
            // What is no stretch of an index that is in the order of a page: alone, with what is rare and with what is frequent.
            ("Observation?value-quantity=ne5", observations(&|n, _| n % 20 != 5)),
            ("Observation?value-quantity=5||mg", observations(&|n, _| n % 20 == 5)),
            ("Observation?value-quantity=ge5||mg&subject=Patient/p4,Patient/p5", observations(&|n, _| n == 5)),
            ("Observation?code:in=urn:many", observations(&|_, made| code(made, "a"))),
            ("Observation?code:in=urn:many&subject=Patient/p4", observations(&|n, made| n == 4 && code(made, "a"))),
            ("Observation?code:in=urn:many&method=m1", observations(&|n, made| code(made, "a") && n % 5 > 0 && n % 3 == 1)),
            ("Observation?code:not-in=urn:many", observations(&|_, made| code(made, "b"))),
            ("Observation?code:not=a", observations(&|_, made| code(made, "b"))),
            ("Observation?method:missing=true", observations(&|n, _| n % 5 == 0)),
            ("Observation?method:missing=true&subject=Patient/p5,Patient/p6", observations(&|n, _| n == 5)),
            ("Observation?method:missing=false", observations(&|n, _| n % 5 > 0)),
            ("Observation?method:missing=false&code=a", observations(&|n, made| n % 5 > 0 && code(made, "a"))),
            ("Observation?identifier=urn:s1|", observations(&|n, _| n % 2 == 1)),
            ("Observation?identifier=urn:s1|&code:in=urn:many", observations(&|n, made| n % 2 == 1 && code(made, "a"))),
            ("Observation?_profile:missing=false&_profile:below=http://x.org/p3", observations(&|n, _| n % 4 == 3)),
            ("Observation?code-value-quantity:missing=false&method:missing=true", observations(&|n, _| n % 5 == 0)),
            ("Patient?birthdate=ne1955&family:contains=2", people(&|n| n % 40 != 5 && family(n, 2))),
            ("Patient?email:missing=false", people(&|_| false)),
            ("Patient?email:missing=true&birthdate:missing=false", people(&|_| true)),
            ("Patient?_has:Observation:subject:code=a", people(&|n| has(n, "a"))),
            ("Patient?_has:Observation:subject:code=none", people(&|_| false)),
            ("Patient?gender=male&_has:Observation:subject:code=b", people(&|n| !woman(n) && has(n, "b"))),
            ("Patient?family=F2&_has:Observation:subject:code=b", people(&|n| family(n, 2) && has(n, "b"))),
            ("Patient?_has:Encounter:subject:_has:Observation:encounter:code=b", people(&|n| has(n, "b"))),
            ("Patient?name=f,g", people(&|_| true)),
            ("Patient?family=f1,f4", people(&|n| family(n, 1) || family(n, 4))),
            ("Patient?family:exact=F1,F4", people(&|n| family(n, 1) || family(n, 4))),
            ("Patient?family:contains=1", people(&|n| family(n, 1))),
            ("Patient?birthdate=ge1970", people(&|n| n % 40 >= 20)),
            ("Patient?birthdate=lt1960&gender=female", people(&|n| n % 40 < 10 && woman(n))),
            ("Patient?birthdate=1955,1956", people(&|n| [5, 6].contains(&(n % 40)))),
            ("Patient?_lastUpdated=ge2020", people(&|_| true)),
            ("Observation?_lastUpdated=ge2020&_lastUpdated=lt2199", observations(&|_, _| true)),
            ("Patient?_lastUpdated=lt2020", people(&|_| false)),
            ("Patient?family=f&birthdate=gt1980-02", people(&|n| n % 40 >= 30)),
        ];
        for (path, expected) in cases {
            let by_code = if path.starts_with("Patient") {
                ["&_sort=gender", "&_sort=-gender,family"]
            } else {
                ["&_sort=-method", "&_sort=identifier,_profile"]
            };
            for sort in ["", "&_sort=_id", "&_sort=-_lastUpdated"].into_iter().chain(by_code) {
                let found = walk(&server, &format!("/fhir/{path}&_count=4{sort}"), async |_| ()).await;
                let once: BTreeSet<String> = found.iter().cloned().collect();
                assert_eq!(once.len(), found.len(), "nothing comes twice: {path}{sort}");
                assert_eq!(once, expected, "{path}{sort}");
            }
            let (_, counted) = server.get(&format!("/fhir/{path}&_summary=count")).await;
            assert_eq!(counted["total"], expected.len(), "{path}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_page_of_a_range_goes_on_in_its_snapshot(db: &TestDb) {
        let server = TestServer::open(db).await;
        load(&server).await;
        for path in [
            "Patient?name=f,g",
            "Patient?birthdate=ge1940",
            "Patient?gender=female,male",
            "Patient?_lastUpdated=ge2020",
            "Patient?_has:Encounter:subject:status=finished",
        ] {
            let undisturbed = walk(&server, &format!("/fhir/{path}&_count=7"), async |_| ()).await;
            assert_eq!(undisturbed.len(), PEOPLE);
            let found = walk(&server, &format!("/fhir/{path}&_count=7"), async |page| {
                // Whoever comes, goes, or is called and born otherwise does not change what the walk began with.
                let mut other = patient(page * 5);
                other["name"] = json!([{ "family": format!("F{page}x") }, { "family": "A" }]);
                other["birthDate"] = json!("1999-01-01");
                server.put(&format!("/fhir/Patient/p{}", page * 5), &other).await;
                let mut new = patient(page);
                new["id"] = json!(format!("n{page}"));
                server.put(&format!("/fhir/Patient/n{page}"), &new).await;
            })
            .await;
            assert_eq!(found, undisturbed, "{path}");
            for n in 0..PEOPLE {
                server.put(&format!("/fhir/Patient/p{n}"), &patient(n)).await;
                let _ = crate::support::answer(server.client.delete(server.url(&format!("/fhir/Patient/n{n}")))).await;
            }
        }
        server.stop().await;
    }
);
