//! Contained resources are searched by their own values (R4 `_contained`), and chains lead into them. The oracle: each contained resource
//! has a twin that stands by itself, so what a search finds among the twins it must find among the contained.

use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn link(bundle: &Value, relation: &str) -> Option<String> {
    let link = list(&bundle["link"]).iter().find(|link| link["relation"] == relation)?;
    let url = link["url"].as_str().unwrap();
    Some(url[url.find("/fhir").unwrap()..].to_owned())
}

/// `Type/id` or `Type/id#contained` of each match, in order, from its fullUrl.
fn urls(bundle: &Value) -> Vec<String> {
    let matches = list(&bundle["entry"]).iter().filter(|entry| entry["search"]["mode"] == "match");
    matches.map(|entry| entry["fullUrl"].as_str().unwrap().rsplit_once("/fhir/").unwrap().1.to_owned()).collect()
}

/// The `n`th of the Patients; every number makes another combination.
fn patient(n: usize) -> Value {
    let mut patient = json!({ "resourceType": "Patient" });
    if !n.is_multiple_of(3) {
        let gender = ["male", "female"][n % 2];
        patient["gender"] = json!(gender);
    }
    if !n.is_multiple_of(4) {
        patient["birthDate"] = json!(format!("19{:02}-0{}", 50 + n % 7, 1 + n % 9));
    }
    if !n.is_multiple_of(5) {
        let family = ["Asha", "Baraka", "Juma"][n % 3];
        patient["name"] = json!([{ "family": family, "given": [format!("G{}", n % 4)] }]);
    }
    if n.is_multiple_of(2) {
        let kind = json!({ "coding": [{ "system": "urn:k", "code": "MR" }], "text": "Medical record" });
        patient["identifier"] = json!([{ "system": "urn:mrn", "value": format!("{}", n % 6), "type": kind }]);
    }
    if n % 3 == 1 {
        patient["generalPractitioner"] = json!([{ "reference": "Practitioner/doctor" }]);
    }
    patient
}

fn with_id(mut resource: Value, id: &str) -> Value {
    resource["id"] = json!(id);
    resource
}

/// Which of its Patients a container's subject is: one far down the list of the thirteenth.
fn subject(container: usize) -> usize {
    if container == 13 { 30 } else { 0 }
}

/// Nineteen containers of three types with none to three Patients each (the thirteenth has thirty-three), and the twins of these: `c7-p1` is the twin of `#p1` in `c7`.
/// Gives the containers' names by number.
async fn fill(server: &TestServer) -> Vec<String> {
    let mut entries = vec![
        json!({ "resourceType": "Practitioner", "id": "doctor", "name": [{ "family": "Daktari" }] }),
        json!({ "resourceType": "ValueSet", "id": "sexes", "url": "urn:sexes", "status": "active", "compose": { "include": [{
            "system": "http://hl7.org/fhir/administrative-gender", "concept": [{ "code": "female" }] }] } }),
    ];
    let mut names = Vec::new();
    for n in 0..19 {
        let type_name = ["Basic", "Observation", "Flag"][n % 3];
        let id = format!("c{n}");
        let mut container = json!({ "resourceType": type_name, "id": id, "code": { "coding": [{ "system": "urn:c", "code": "x" }] } });
        if type_name != "Basic" {
            container["status"] = json!(if type_name == "Flag" { "active" } else { "final" });
        }
        container["subject"] = json!({ "reference": format!("#p{}", subject(n)) });
        let mut contained = Vec::new();
        for k in 0..if n == 13 { 33 } else { n % 4 } {
            let body = patient(n * 3 + k * 5);
            entries.push(with_id(body.clone(), &format!("{id}-p{k}")));
            contained.push(with_id(body, &format!("p{k}")));
        }
        if contained.is_empty() {
            container.as_object_mut().unwrap().remove("subject");
            if type_name == "Flag" {
                container["subject"] = json!({ "reference": "Patient/c1-p0" });
            }
        } else {
            container["contained"] = json!(contained);
        }
        names.push(format!("{type_name}/{id}"));
        entries.push(container);
    }
    let request = |resource: &Value| json!({ "method": "PUT", "url": format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap()) });
    let entries: Vec<Value> = entries.iter().map(|resource| json!({ "resource": resource, "request": request(resource) })).collect();
    let (status, answer) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
    assert_eq!(status, 200, "{answer}");
    names
}

const QUESTIONS: [&str; 27] = [
    "",
    "gender=male",
    "gender=female&name=asha",
    "gender:not=female",
    "gender:missing=true",
    "gender:in=urn:sexes",
    "gender:not-in=urn:sexes&birthdate:missing=false",
    "birthdate=1953",
    "birthdate=gt1952&birthdate=lt1955",
    "birthdate=1951,1953&gender=male,female",
    "birthdate:missing=true&name:missing=true",
    "name=Asha&name:exact=G1",
    "family:contains=ara",
    "family:exact=Juma&given=g2",
    "identifier=urn:mrn|4",
    "identifier=urn:mrn|",
    "identifier:of-type=urn:k|MR|2",
    "identifier:text=medical",
    "identifier:missing=true&gender=male",
    "general-practitioner=Practitioner/doctor",
    "general-practitioner:Practitioner.name=daktari&gender=male",
    "general-practitioner.name=nobody",
    "general-practitioner:missing=false",
    "_filter=gender eq male and not (name sw asha)",
    "_filter=birthdate gt 1953 or identifier eq 2",
    "gender=nonsense",
    "_lastUpdated=gt2000&gender=male",
];

both_databases!(
    async fn contained_resources_are_found_as_their_twins_are(db: &TestDb) {
        let server = TestServer::open(db).await;
        let names = fill(&server).await;
        let found = async |query: &str| -> BTreeSet<String> {
            let (status, bundle) = server.get(&format!("/fhir/Patient?_count=200&{query}")).await;
            assert_eq!(status, 200, "{query}: {bundle}");
            let urls = urls(&bundle);
            assert_eq!(
                (bundle["total"].as_u64(), urls.len()),
                (Some(urls.iter().collect::<BTreeSet<_>>().len() as u64), urls.len()),
                "{query}: {urls:?}"
            );
            let (_, counted) = server.get(&format!("/fhir/Patient?_summary=count&{query}")).await;
            assert_eq!(counted["total"], bundle["total"], "{query}");
            urls.into_iter().collect()
        };
        let container = |id: &str| names[id[1..].parse::<usize>().unwrap()].clone();
        for question in QUESTIONS {
            let twins = found(question).await;
            let contained: BTreeSet<String> = twins
                .iter()
                .map(|twin| twin.trim_start_matches("Patient/").split_once('-').unwrap())
                .map(|(id, local)| format!("{}#{local}", container(id)))
                .collect();
            let containers: BTreeSet<String> = contained.iter().map(|name| name.split('#').next().unwrap().to_owned()).collect();
            assert_eq!(found(&format!("{question}&_contained=true&_containedType=contained")).await, contained, "{question}");
            assert_eq!(found(&format!("{question}&_contained=true")).await, containers, "{question}");
            let both = |more: &BTreeSet<String>| twins.union(more).cloned().collect::<BTreeSet<String>>();
            assert_eq!(found(&format!("{question}&_contained=both&_containedType=contained")).await, both(&contained), "{question}");
            assert_eq!(found(&format!("{question}&_contained=both&_containedType=container")).await, both(&containers), "{question}");
            assert_eq!(found(&format!("{question}&_contained=false")).await, twins, "{question}");
        }
        assert_eq!(found("_contained=true&_id=p2").await.len(), 5);
        assert_eq!(found("_contained=true&_containedType=contained&_id=p32,p33").await, [format!("{}#p32", names[13])].into());
        let (_, bundle) = server.get("/fhir/Patient?_contained=true&_containedType=contained&_id=p1&gender=male&_elements=gender").await;
        for entry in list(&bundle["entry"]) {
            assert_eq!((&entry["resource"]["resourceType"], &entry["resource"]["id"]), (&json!("Patient"), &json!("p1")));
            assert!(entry["resource"].get("name").is_none() && entry["resource"]["gender"] == "male", "{entry}");
        }
        let (_, bundle) = server.get("/fhir/Patient?_contained=true&gender=male&_elements=gender").await;
        assert!(list(&bundle["entry"]).iter().all(|entry| entry["resource"]["contained"].is_array()), "{bundle}");
        server.stop().await;
    }
);

both_databases!(
    async fn chains_lead_into_what_is_contained(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        for (n, type_name) in ["Basic", "Observation", "Flag"].into_iter().enumerate() {
            for question in [
                "gender=male",
                "name=asha",
                "birthdate=ge1952",
                "gender:not=male",
                "identifier=urn:mrn|0",
                "_id=p0",
                "general-practitioner.name=daktari",
            ] {
                let (parameter, value) = question.split_once('=').unwrap();
                let (_, twins) = server.get(&format!("/fhir/Patient?_count=200&{}", if parameter == "_id" { "" } else { question })).await;
                // Of each container the first one is its subject.
                let mut expected: BTreeSet<String> = (0..19)
                    .filter(|c| c % 3 == n && urls(&twins).contains(&format!("Patient/c{c}-p{}", subject(*c))))
                    .filter(|c| parameter != "_id" || subject(*c) == 0)
                    .map(|c| format!("{type_name}/c{c}"))
                    .collect();
                if type_name == "Flag" && parameter != "_id" && urls(&twins).contains(&"Patient/c1-p0".to_owned()) {
                    expected.insert("Flag/c8".to_owned());
                }
                for more in ["", "&code=urn:c|x", "&_sort=-_lastUpdated"] {
                    let (status, bundle) =
                        server.get(&format!("/fhir/{type_name}?_count=200&subject:Patient.{parameter}={value}{more}")).await;
                    assert_eq!(status, 200, "{bundle}");
                    let found = urls(&bundle);
                    assert_eq!(bundle["total"], found.len());
                    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{type_name} {question}{more}");
                }
            }
        }
        assert_eq!(server.get("/fhir/Observation?subject:missing=true").await.1["total"], 2);
        server.stop().await;
    }
);

both_databases!(
    async fn chains_lead_from_what_is_contained_to_what_is_contained_with_it(db: &TestDb) {
        let server = TestServer::open(db).await;
        let to = |reference: &str| json!({ "reference": reference });
        let contained = json!([
            { "resourceType": "Patient", "id": "p", "name": [{ "family": "Within" }], "managingOrganization": to("#o") },
            { "resourceType": "Patient", "id": "q", "name": [{ "family": "Beside" }], "managingOrganization": to("Organization/out") },
            { "resourceType": "Device", "id": "d" },
            { "resourceType": "Organization", "id": "o", "name": "North", "partOf": to("#top") },
            { "resourceType": "Organization", "id": "top", "name": "Top" },
        ]);
        for (id, subject) in [("p", "#p"), ("q", "#q"), ("d", "#d")] {
            let body = json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" }, "subject": to(subject), "contained": contained });
            assert_eq!(server.put(&format!("/fhir/Observation/{id}"), &body).await.0, 201);
        }
        let inner = json!([{ "resourceType": "Organization", "id": "inner", "name": "Inner" }]);
        let out = json!({ "resourceType": "Organization", "id": "out", "name": "Out", "partOf": to("#inner"), "contained": inner });
        assert_eq!(server.put("/fhir/Organization/out", &out).await.0, 201);
        for (search, expected) in [
            ("Observation?subject:Patient.organization.name=north", &["Observation/p"][..]),
            ("Observation?subject:Patient.organization.partof.name=top", &["Observation/p"]),
            ("Observation?subject:Patient.organization.name=north&subject:Patient.family=within", &["Observation/p"]),
            ("Observation?subject:Patient.organization.name=out", &["Observation/q"]),
            // What is contained in something else is not led into.
            ("Observation?subject:Patient.organization.partof.name=inner", &[]),
            ("Observation?patient.family=within", &["Observation/p"]),
            ("Observation?patient.organization.name=north", &["Observation/p"]),
            ("Observation?patient.organization.name=out&_sort=-_lastUpdated", &["Observation/q"]),
            ("Observation?patient:missing=false", &["Observation/p", "Observation/q"]),
            ("Observation?patient:missing=true", &["Observation/d"]),
            (
                "Patient?_contained=true&_containedType=contained&organization.name=north&_sort=_id",
                &["Observation/p#p", "Observation/q#p", "Observation/d#p"],
            ),
            ("Patient?_contained=true&_containedType=contained&organization.name=north&family=beside", &[]),
        ] {
            let (status, bundle) = server.get(&format!("/fhir/{search}")).await;
            assert_eq!(status, 200, "{search}: {bundle}");
            let (mut found, mut expected) = (urls(&bundle), expected.to_vec());
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{search}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn pages_of_contained_resources_are_whole_while_others_write(db: &TestDb) {
        let server = TestServer::open(db).await;
        let names = fill(&server).await;
        for kind in
            ["_contained=true&_containedType=contained", "_contained=true", "_contained=both&_containedType=contained", "_contained=both"]
        {
            for sort in ["", "_id", "-_lastUpdated", "-birthdate,name", "gender"] {
                if kind.ends_with("contained") != (sort.len() > 13 || sort == "gender") && !sort.is_empty() {
                    continue;
                }
                let sort = if sort.is_empty() { String::new() } else { format!("&_sort={sort}") };
                let (_, whole) = server.get(&format!("/fhir/Patient?gender:missing=false&_count=500&{kind}{sort}")).await;
                let expected = urls(&whole);
                assert!(expected.len() > 7, "{kind}{sort}: {whole}");
                let mut walked = Vec::new();
                let mut url = Some(format!("/fhir/Patient?gender:missing=false&_count=4&_total=accurate&{kind}{sort}"));
                while let Some(here) = url {
                    let (status, bundle) = server.get(&here).await;
                    assert_eq!((status, bundle["total"].as_u64()), (200, Some(expected.len() as u64)), "{here}");
                    if walked.is_empty() {
                        // What they contained is gone, and is on the pages that began before.
                        for name in [&names[7], &names[14]] {
                            let (_, mut container) = server.get(&format!("/fhir/{name}")).await;
                            container.as_object_mut().unwrap().remove("contained");
                            container.as_object_mut().unwrap().remove("subject");
                            if name.starts_with("Flag") {
                                container["subject"] = json!({ "reference": "Patient/other" });
                            }
                            assert_eq!(server.put(&format!("/fhir/{name}"), &container).await.0, 200);
                        }
                    }
                    walked.extend(urls(&bundle));
                    url = link(&bundle, "next");
                }
                assert_eq!(walked, expected, "{kind}{sort}");
                let (_, now) = server.get(&format!("/fhir/Patient?gender:missing=false&_count=500&{kind}{sort}")).await;
                assert!(urls(&now).iter().all(|url| !url.starts_with(&names[7]) && !url.starts_with(&names[14])), "{now}");
                fill(&server).await;
            }
        }
        assert_eq!(server.client.delete(server.url(&format!("/fhir/{}", names[7]))).send().await.unwrap().status(), 204);
        let (_, now) = server.get("/fhir/Patient?_count=500&_contained=true").await;
        assert!(!urls(&now).contains(&names[7]));
        server.stop().await;
    }
);

both_databases!(
    async fn includes_go_on_from_what_contains_the_matches(db: &TestDb) {
        let server = TestServer::open(db).await;
        let holder = json!({
            "resourceType": "Observation", "id": "o", "status": "final", "code": { "text": "x" }, "subject": { "reference": "#p" },
            "contained": [{ "resourceType": "Patient", "id": "p", "gender": "female" }], "encounter": { "reference": "Encounter/e" },
        });
        let visit = json!({ "resourceType": "Encounter", "id": "e", "status": "finished", "class": { "code": "AMB" } });
        let member = json!({
            "resourceType": "Observation", "id": "panel", "status": "final", "code": { "text": "x" }, "hasMember": [{ "reference": "Observation/o" }],
        });
        for resource in [&visit, &holder, &member] {
            let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            let (status, outcome) = server.put(&path, resource).await;
            assert_eq!(status, 201, "{outcome}");
        }
        for (include, id) in [("_include=Observation:encounter", "e"), ("_revinclude=Observation:has-member", "panel")] {
            let (_, page) = server.get(&format!("/fhir/Patient?gender=female&{include}&_contained=true")).await;
            let ids: Vec<&Value> = page["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]["id"]).collect();
            assert_eq!(ids, ["o", id], "{include}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn what_cannot_be_asked_of_contained_resources_is_refused(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (path, at) in [
            ("Patient?_contained=yes", "_contained"),
            ("Patient?_contained=true&_containedType=none", "_containedType"),
            ("Patient?_contained=true&_has:Observation:subject:code=x", "_contained"),
            ("Patient?_contained=true&_list=a", "_contained"),
            ("Patient?_contained=true&_sort=name", "_sort"),
            ("Patient?_contained=true&_containedType=contained&_include=*", "_containedType"),
            ("?_type=Patient,Observation&_contained=true", "_contained"),
        ] {
            let (status, outcome) = server.get(&format!("/fhir/{path}")).await;
            assert_eq!(status, 400, "{path}: {outcome}");
            assert!(outcome["issue"][0]["expression"][0].as_str().unwrap().ends_with(at), "{path}: {outcome}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_contained_resource_is_seen_by_whoever_may_see_what_contains_it(db: &TestDb) {
        let all = add_client(db, "all", "HF-1", "system/*.cruds").await;
        let other = add_client(db, "other", "HF-2", "system/*.cruds").await;
        let few = add_client(db, "few", "HF-1", "system/Patient.rs system/Observation.rs?code=urn:c|a").await;
        let only = add_client(db, "only", "HF-1", "system/Patient.rs").await;
        let server = TestServer::smart(db).await;
        let token = server.token("all", &all).await;
        let patient = json!({ "resourceType": "Patient", "id": "p", "gender": "female" });
        for (type_name, id, code) in [("Observation", "o1", "a"), ("Observation", "o2", "b"), ("Basic", "b1", "a")] {
            let mut body = json!({ "resourceType": type_name, "id": id, "code": { "coding": [{ "system": "urn:c", "code": code }] }, "contained": [patient], "subject": { "reference": "#p" } });
            if type_name == "Observation" {
                body["status"] = json!("final");
            }
            let put = server
                .client
                .put(server.url(&format!("/fhir/{type_name}/{id}")))
                .bearer_auth(&token)
                .header("content-type", "application/fhir+json");
            assert_eq!(answer(put.body(body.to_string())).await.0, 201);
        }
        let found = async |id: &str, secret: &str, query: &str| {
            let token = server.token(id, secret).await;
            let (status, bundle) = answer(server.client.get(server.url(&format!("/fhir/{query}"))).bearer_auth(&token)).await;
            assert_eq!(status, 200, "{bundle}");
            let mut found = urls(&bundle);
            assert_eq!(bundle["total"], found.len());
            found.sort();
            found
        };
        let query = "Patient?gender=female&_contained=true&_total=accurate";
        assert_eq!(found("all", &all, query).await, ["Basic/b1", "Observation/o1", "Observation/o2"]);
        assert_eq!(found("few", &few, query).await, ["Observation/o1"]);
        assert_eq!(found("few", &few, &format!("{query}&_containedType=contained")).await, ["Observation/o1#p"]);
        assert_eq!(found("few", &few, "Patient?gender=female&_contained=both").await, ["Observation/o1"]);
        assert!(found("only", &only, query).await.is_empty());
        assert!(found("other", &other, query).await.is_empty());
        assert_eq!(found("few", &few, "Observation?subject:Patient.gender=female").await, ["Observation/o1"]);
        assert!(found("other", &other, "Observation?subject:Patient.gender=female").await.is_empty());
        server.stop().await;
    }
);
