//! Search over several types at once (R4 http "search-system"), against the same questions asked type by type.

use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `Type/id` of the entries of a mode, in their order.
fn names(bundle: &Value, mode: &str) -> Vec<String> {
    let entries = list(&bundle["entry"]).iter().filter(|entry| entry["search"]["mode"] == mode);
    let name = |entry: &Value| {
        let text = |key: &str| entry["resource"][key].as_str().unwrap().to_owned();
        format!("{}/{}", text("resourceType"), text("id"))
    };
    entries.map(name).collect()
}

fn link(bundle: &Value, relation: &str) -> Option<String> {
    let link = list(&bundle["link"]).iter().find(|link| link["relation"] == relation)?;
    let url = link["url"].as_str().unwrap();
    Some(url[url.find("/fhir").unwrap()..].to_owned())
}

fn tagged(type_name: &str, id: &str, rest: Value) -> Value {
    let mut resource = json!({ "resourceType": type_name, "id": id, "meta": { "tag": [{ "system": "urn:t", "code": "mine" }] } });
    resource.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    resource
}

fn subject() -> Value {
    json!({ "reference": "Patient/p1" })
}

/// Eight resources of five types, all with one tag.
async fn fill(server: &TestServer) {
    let coded = |code: &str| json!({ "coding": [{ "system": "urn:c", "code": code }] });
    let observation = |code: &str| json!({ "status": "final", "code": coded(code), "subject": subject() });
    let condition = |code: &str| json!({ "code": coded(code), "subject": subject() });
    for resource in [
        tagged("Patient", "p1", json!({ "gender": "female", "name": [{ "family": "Asha" }] })),
        tagged("Patient", "p2", json!({ "gender": "male" })),
        tagged("Observation", "o1", observation("a")),
        tagged("Condition", "c1", condition("b")),
        tagged("Observation", "o2", observation("b")),
        tagged("Condition", "c2", condition("a")),
        tagged(
            "List",
            "l1",
            json!({ "status": "current", "mode": "working", "entry": [{ "item": { "reference": "Patient/p2" } }, { "item": { "reference": "Condition/c1" } }] }),
        ),
        tagged("Organization", "g1", json!({ "name": "Asha" })),
    ] {
        let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        assert_eq!(server.put(&path, &resource).await.0, 201, "{path}");
    }
}

const ALL: [&str; 8] =
    ["Condition/c1", "Condition/c2", "List/l1", "Observation/o1", "Observation/o2", "Organization/g1", "Patient/p1", "Patient/p2"];

both_databases!(
    async fn all_types_are_searched_at_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        let found = async |query: &str| {
            let (status, bundle) = server.get(&format!("/fhir?{query}")).await;
            assert_eq!(status, 200, "{query}: {bundle}");
            let matches = names(&bundle, "match");
            assert_eq!(bundle["total"], matches.len(), "{query}");
            assert!(list(&bundle["entry"]).iter().all(|entry| entry["search"]["mode"] != "outcome"), "{query}: {bundle}");
            let mut sorted = matches;
            sorted.sort();
            sorted
        };
        assert_eq!(found("_tag=urn:t|mine").await, ALL);
        assert_eq!(
            found("_tag=mine&_type=Patient,Condition&_type=List").await,
            ["Condition/c1", "Condition/c2", "List/l1", "Patient/p1", "Patient/p2"]
        );
        assert_eq!(found("_id=o1,c2,nothing").await, ["Condition/c2", "Observation/o1"]);
        assert_eq!(found("_tag=mine&_id:not=o1,c1,c2,l1").await, ["Observation/o2", "Organization/g1", "Patient/p1", "Patient/p2"]);
        assert_eq!(found("_list=l1").await, ["Condition/c1", "Patient/p2"]);
        assert_eq!(found("_tag=mine&_filter=_id%20eq%20o1%20or%20_id%20eq%20p2").await, ["Observation/o1", "Patient/p2"]);
        assert_eq!(found("_has:Condition:subject:code=urn:c|a").await, ["Patient/p1"]);
        // What the named types have in common, each by its own parameter.
        assert_eq!(found("_type=Observation,Condition&code=urn:c|a").await, ["Condition/c2", "Observation/o1"]);
        assert_eq!(found("_type=Observation,Condition&subject:Patient.name=asha&code=b").await, ["Condition/c1", "Observation/o2"]);
        assert_eq!(found("_type=Patient,Organization&name=asha").await, ["Organization/g1", "Patient/p1"]);
        assert_eq!(found("_type=Patient&gender=male").await, ["Patient/p2"]);
        assert_eq!(found("_lastUpdated=lt2000").await, Vec::<String>::new());

        let (_, counted) = server.get("/fhir?_tag=mine&_summary=count").await;
        assert_eq!((&counted["total"], counted.get("entry")), (&json!(8), None));
        let (_, bundle) = server.get("/fhir?_tag=mine&_type=Condition,Patient&_include=Condition:subject&_revinclude=Observation:subject&_elements=code,Patient.gender").await;
        assert_eq!(names(&bundle, "include"), ["Observation/o1", "Observation/o2"]);
        let first =
            |name: &str| list(&bundle["entry"]).iter().find(|entry| entry["resource"]["resourceType"] == name).unwrap()["resource"].clone();
        assert!(first("Patient").get("name").is_none() && first("Patient")["gender"] == "female");
        assert!(first("Condition").get("code").is_some());
        assert_eq!(link(&bundle, "self").unwrap().split('?').next(), Some("/fhir"));

        let posted = server.client.post(server.url("/fhir/_search")).header(FORM.0, FORM.1).body("_tag=mine&_type=Patient");
        let (status, bundle) = answer(posted).await;
        assert_eq!((status, names(&bundle, "match").len()), (200, 2), "{bundle}");
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [
            { "request": { "method": "GET", "url": "?_tag=mine&_type=Patient,List" } },
            { "request": { "method": "GET", "url": "/?_type=Nothing" } },
        ]});
        let (_, bundle) = server.post("/fhir", &batch).await;
        assert_eq!(bundle["entry"][0]["resource"]["total"], 3, "{bundle}");
        assert_eq!(bundle["entry"][1]["response"]["status"].as_str().map(|status| &status[..3]), Some("400"), "{bundle}");
        server.stop().await;
    }
);

both_databases!(
    async fn what_not_every_type_has_is_told_and_never_passed_over_in_silence(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        for (query, words) in [
            ("gender=male", "_type=Patient,Observation"),
            ("_type=Patient,Observation&gender=male", "Observation has no search parameter 'gender'"),
            ("_tag=mine&_sort=birthdate", "no search parameter 'birthdate' to sort by"),
        ] {
            let (_, lenient) = server.get(&format!("/fhir?{query}")).await;
            let told = list(&lenient["entry"]).iter().find(|entry| entry["search"]["mode"] == "outcome").expect(query);
            assert!(told["resource"]["issue"][0]["diagnostics"].as_str().unwrap().contains(words), "{told}");
            assert!(!link(&lenient, "self").unwrap().contains("gender"));
            let (status, refused) =
                answer(server.client.get(server.url(&format!("/fhir?{query}"))).header("prefer", "handling=strict")).await;
            assert_eq!(status, 400, "{query}");
            assert!(refused["issue"][0]["expression"][0].as_str().unwrap().starts_with("Resource?"), "{refused}");
        }
        let values = (0..60).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        for (query, words) in [
            ("_has:Condition:nothing:code=a", "nothing"),
            ("_type=Condition,List&_has:Condition:subject:code=a", "none of the types"),
            ("_type=Patient,Observation&_sort=gender,code", ""),
            ("_type=Patient,Nothing", "no R4 resource type"),
            (&format!("_id={values}"), "fewer types"),
            (
                "_has:Provenance:target:agent.name=x&_has:Provenance:target:agent.name=y&_has:Provenance:target:agent.name=z&_has:Provenance:target:agent.name=a",
                "fewer of them",
            ),
        ] {
            let (status, refused) =
                answer(server.client.get(server.url(&format!("/fhir?{query}"))).header("prefer", "handling=strict")).await;
            assert_eq!(status, 400, "{query}");
            assert!(refused["issue"][0]["diagnostics"].as_str().unwrap().contains(words), "{query}: {refused}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn pages_over_all_types_are_whole_and_in_order_while_others_write(db: &TestDb) {
        let server = TestServer::open(db).await;
        fill(&server).await;
        for (sort, round) in ["", "&_sort=_lastUpdated", "&_sort=-_lastUpdated", "&_sort=_id", "&_sort=-_id", "&_sort=-_lastUpdated,_id"]
            .into_iter()
            .zip(0..)
        {
            let (_, whole) = server.get(&format!("/fhir?_tag=mine&_count=100{sort}")).await;
            let expected = names(&whole, "match");
            assert_eq!(expected.iter().cloned().collect::<BTreeSet<_>>().len(), 8 + round);
            let mut walked = Vec::new();
            let mut url = Some(format!("/fhir?_tag=mine&_count=3&_total=accurate{sort}"));
            let mut page = 0;
            while let Some(here) = url {
                let (status, bundle) = server.get(&here).await;
                assert_eq!((status, &bundle["total"]), (200, &json!(8 + round)), "{here}: {bundle}");
                walked.extend(names(&bundle, "match"));
                url = link(&bundle, "next");
                if page == 0 {
                    // What comes or changes meanwhile is neither new on a page nor gone from one.
                    let late = tagged("Device", &format!("d{round}"), json!({}));
                    assert_eq!(server.put(&format!("/fhir/Device/d{round}"), &late).await.0, 201);
                    let changed =
                        tagged("Patient", "p2", json!({ "gender": "male", "active": true, "name": [{ "text": format!("{round}") }] }));
                    assert_eq!(server.put("/fhir/Patient/p2", &changed).await.0, 200);
                }
                page += 1;
            }
            assert_eq!(walked, expected, "{sort}");
        }
        // A token belongs to its own question.
        let (_, first) = server.get("/fhir?_tag=mine&_count=2&_type=Patient,Observation").await;
        let next = link(&first, "next").unwrap();
        assert_eq!(server.get(&next).await.0, 200);
        assert_eq!(server.get(&next.replace("Observation", "Condition")).await.0, 400);
        server.stop().await;
    }
);

both_databases!(
    async fn only_what_the_scopes_and_the_owner_reach_is_found(db: &TestDb) {
        let all = add_client(db, "all", "HF-1", "system/*.cruds").await;
        let other = add_client(db, "other", "HF-2", "system/*.cruds").await;
        let few = add_client(db, "few", "HF-1", "system/Patient.rs system/Observation.rs?code=urn:c|a").await;
        let writer = add_client(db, "writer", "HF-1", "system/Patient.c").await;
        let server = TestServer::smart(db).await;
        let token = server.token("all", &all).await;
        let ask = async |token: &str, path: &str| answer(server.client.get(server.url(path)).bearer_auth(token)).await;
        let coded =
            |code: &str| json!({ "status": "final", "code": { "coding": [{ "system": "urn:c", "code": code }] }, "subject": subject() });
        for resource in [
            tagged("Patient", "p1", json!({})),
            tagged("Observation", "o1", coded("a")),
            tagged("Observation", "o2", coded("b")),
            tagged("Condition", "c1", json!({ "subject": subject() })),
            tagged("Organization", "g1", json!({ "name": "open" })),
        ] {
            let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            let put = server.client.put(server.url(&path)).bearer_auth(&token).header("content-type", "application/fhir+json");
            assert_eq!(answer(put.body(resource.to_string())).await.0, 201);
        }
        let found = async |token: &str, query: &str| {
            let (status, bundle) = ask(token, &format!("/fhir?{query}")).await;
            assert_eq!(status, 200, "{bundle}");
            let mut found = names(&bundle, "match");
            assert_eq!(bundle["total"], found.len());
            found.sort();
            found
        };
        assert_eq!(found(&token, "_tag=mine&_total=accurate").await.len(), 5);
        let few = server.token("few", &few).await;
        assert_eq!(found(&few, "_tag=mine").await, ["Observation/o1", "Patient/p1"]);
        assert_eq!(found(&few, "_tag=mine&_type=Observation,Patient&_id=o1,o2").await, ["Observation/o1"]);
        assert_eq!(ask(&few, "/fhir?_tag=mine&_type=Patient,Condition").await.0, 403);
        assert_eq!(ask(&few, "/fhir?_tag=mine&_has:Condition:subject:_id=c1").await.0, 403);
        let other = server.token("other", &other).await;
        assert_eq!(found(&other, "_tag=mine").await, ["Organization/g1"]);
        let writer = server.token("writer", &writer).await;
        assert_eq!(ask(&writer, "/fhir?_tag=mine").await.0, 403);
        // Who asks again and again finds what is new and not having asked; who names the events gets them.
        let (_, events) = ask(&token, "/fhir?_type=AuditEvent,Patient&_count=1000").await;
        assert!(names(&events, "match").contains(&"Patient/p1".to_owned()));
        let (_, all) = ask(&token, "/fhir?_lastUpdated=ge2000&_count=1000").await;
        assert!(names(&all, "match").iter().all(|name| !name.starts_with("AuditEvent/")));
        server.stop().await;
    }
);
