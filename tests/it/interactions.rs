//! What the CapabilityStatement lists works, all of it, and what a search may ask of its answer.

use crate::support::{TestServer, answer, both_databases};
use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

async fn strict(server: &TestServer, search: &str) -> (u16, Value) {
    answer(server.client.get(server.url(&format!("/fhir/{search}"))).header("prefer", "handling=strict")).await
}

/// A value that every parameter of this kind takes.
fn sample(kind: &str) -> &'static str {
    match kind {
        "string" => "x",
        "token" => "urn:s|x",
        "reference" => "Patient/none",
        "date" => "ge2026-01",
        "number" => "gt0.5",
        "quantity" => "5.4|http://unitsofmeasure.org|mg",
        "uri" => "http://example.org/x",
        "composite" => "x$x",
        "special" => "x",
        other => panic!("a kind of parameter that is none: {other}"),
    }
}

both_databases!(
    async fn the_definitions_of_langos_own_operations_can_be_read(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (_, statement) = server.get("/fhir/metadata").await;
        let rest = &statement["rest"][0];
        let mut named: Vec<(&str, &str)> = list(&rest["resource"])
            .iter()
            .chain([rest])
            .flat_map(|resource| list(&resource["operation"]))
            .map(|operation| (operation["definition"].as_str().unwrap(), operation["name"].as_str().unwrap()))
            .filter(|(definition, _)| !definition.starts_with("http://hl7.org/"))
            .collect();
        named.sort_unstable();
        named.dedup();
        assert_eq!(named.len(), 4, "{named:?}");
        for (definition, name) in named {
            let (_, found) = server.get(&format!("/fhir/OperationDefinition?url={definition}")).await;
            assert_eq!((list(&found["entry"]).len(), &found["entry"][0]["resource"]["code"]), (1, &json!(name)), "{definition}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn every_listed_parameter_is_taken_by_a_strict_search(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (_, statement) = server.get("/fhir/metadata").await;
        let (mut tried, mut refused) = (0, Vec::new());
        for resource in list(&statement["rest"][0]["resource"]) {
            let name = resource["type"].as_str().unwrap();
            // A few parameters in one search: each is a condition of its own, and one that is refused is named.
            let parameters: Vec<(&str, &str)> = list(&resource["searchParam"])
                .iter()
                .map(|parameter| (parameter["name"].as_str().unwrap(), parameter["type"].as_str().unwrap()))
                .filter(|(_, kind)| *kind != "composite")
                .collect();
            tried += parameters.len();
            let conditions = |(code, kind): &(&str, &str)| -> String {
                // Those that every type has take values of their own.
                let value = match *code {
                    "_has" => return "_has:Observation:subject:code=x".to_owned(),
                    "_id" => "x",
                    "_lastUpdated" => "ge2026",
                    "near" => "-6.8|39.28|11|km",
                    _ => sample(kind),
                };
                format!("{code}={value}")
            };
            for group in parameters.chunks(12) {
                let query = group.iter().map(conditions).collect::<Vec<_>>().join("&");
                let (status, bundle) = strict(&server, &format!("{name}?{query}")).await;
                if (status, &bundle["type"]) != (200, &json!("searchset")) {
                    refused.push(format!("{name}?{query}: {status} {}", bundle["issue"]));
                }
            }
            let includes =
                |member: &str| -> Vec<String> { list(&resource[member]).iter().map(|text| text.as_str().unwrap().to_owned()).collect() };
            for (parameter, values) in [("_include", includes("searchInclude")), ("_revinclude", includes("searchRevInclude"))] {
                for group in values.chunks(30) {
                    let query = group.iter().map(|value| format!("{parameter}={value}")).collect::<Vec<_>>().join("&");
                    let (status, bundle) = strict(&server, &format!("{name}?{query}")).await;
                    if status != 200 {
                        refused.push(format!("{name}?{query}: {status} {}", bundle["issue"]));
                    }
                }
            }
        }
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        assert!(tried > 1_300, "{tried}");
        server.stop().await;
    }
);

both_databases!(
    async fn every_type_is_created_read_found_and_deleted(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (_, statement) = server.get("/fhir/metadata").await;
        let mut failed = Vec::new();
        for resource in list(&statement["rest"][0]["resource"]) {
            let name = resource["type"].as_str().unwrap();
            let listed: BTreeSet<&str> = list(&resource["interaction"]).iter().filter_map(|one| one["code"].as_str()).collect();
            for code in ["read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type"] {
                if !listed.contains(code) {
                    failed.push(format!("{name} does not list {code}"));
                }
            }
            // Without its mandatory elements a resource is refused, each of them named; that is all the schema that is needed here.
            let empty = json!({ "resourceType": name });
            let (status, outcome) = server.post(&format!("/fhir/{name}"), &empty).await;
            let words =
                list(&outcome["issue"]).iter().all(|issue| issue["expression"][0].as_str().is_some_and(|path| path.starts_with(name)));
            match status {
                201 => {
                    let path = format!("/fhir/{name}/{}", outcome["id"].as_str().unwrap());
                    let (read, _) = server.get(&path).await;
                    let (version, _) = server.get(&format!("{path}/_history/1")).await;
                    let (history, _) = server.get(&format!("{path}/_history")).await;
                    let (update, _) = server.put(&path, &json!({ "resourceType": name, "id": outcome["id"], "language": "sw" })).await;
                    let (_, found) = server.get(&format!("/fhir/{name}?_id={}", outcome["id"].as_str().unwrap())).await;
                    let (delete, _) = answer(server.client.delete(server.url(&path))).await;
                    let (gone, _) = server.get(&path).await;
                    if (read, version, history, update, delete, gone) != (200, 200, 200, 200, 204, 410) || found["total"] != 1 {
                        failed.push(format!("{name}: {read} {version} {history} {update} {delete} {gone} {}", found["total"]));
                    }
                }
                422 if words => {}
                _ => failed.push(format!("{name}: {status} {}", outcome["issue"])),
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        server.stop().await;
    }
);

both_databases!(
    async fn a_search_answers_as_it_is_asked(db: &TestDb) {
        let server = TestServer::open(db).await;
        // The reference is ahead of its target.
        for n in 0..7 {
            let observation = json!({
                "resourceType": "Observation", "id": format!("o{n}"), "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/late" },
                "effectiveDateTime": format!("2026-09-0{}", n + 1), "text": { "status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>" },
            });
            assert_eq!(server.put(&format!("/fhir/Observation/o{n}"), &observation).await.0, 201);
        }
        let late = json!({ "resourceType": "Patient", "id": "late", "name": [{ "family": "Late" }] });
        let chained = "/fhir/Observation?subject:Patient.family=late";
        assert_eq!(server.get(chained).await.1["total"], 0);
        assert_eq!(server.put("/fhir/Patient/late", &late).await.0, 201);
        assert_eq!(server.get(chained).await.1["total"], 7);

        let search = async |query: &str| server.get(&format!("/fhir/Observation?{query}")).await.1;
        assert_eq!(search("_count=3&_total=accurate").await["total"], 7);
        assert_eq!(search("_count=3&_total=none").await.get("total"), None);
        let count = search("_summary=count").await;
        assert_eq!((&count["total"], count.get("entry")), (&json!(7), None));
        let zero = search("_count=0").await;
        assert_eq!((&zero["total"], zero.get("entry")), (&json!(7), None));

        let text = search("_id=o1&_summary=text").await["entry"][0]["resource"].clone();
        assert!(text["text"].is_object() && text["status"] == "final" && text.get("effectiveDateTime").is_none(), "{text}");
        let data = search("_id=o1&_summary=data").await["entry"][0]["resource"].clone();
        assert!(data.get("text").is_none() && data["effectiveDateTime"] == "2026-09-02", "{data}");
        let some = search("_id=o1&_elements=effectiveDateTime").await["entry"][0]["resource"].clone();
        let keys: BTreeSet<&str> = some.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["resourceType", "id", "meta", "status", "code", "effectiveDateTime"]));
        for subset in [&text, &data, &some] {
            assert!(list(&subset["meta"]["tag"]).iter().any(|tag| tag["code"] == "SUBSETTED"), "{subset}");
        }
        for version in ["", "/_history/1"] {
            for (asked, found) in [("_summary=text", &text), ("_summary=data", &data), ("_elements=effectiveDateTime", &some)] {
                let (status, read) = server.get(&format!("/fhir/Observation/o1{version}?{asked}")).await;
                assert_eq!((status, &read), (200, found), "{version} {asked}");
            }
            for wrong in ["_summary=count", "_summary=much", "_elements=colour"] {
                let (status, refused) = server.get(&format!("/fhir/Observation/o1{version}?{wrong}")).await;
                assert_eq!(status, 400, "{wrong}: {refused}");
            }
        }
        let (_, stored) = server.get("/fhir/Observation/o1").await;
        assert!(stored["text"].is_object() && stored["meta"].get("tag").is_none());

        let unknown = search("nonsense=1&_sort=-date&_count=2&_total=accurate").await;
        assert_eq!(unknown["total"], 7);
        let entries = list(&unknown["entry"]);
        assert_eq!((&entries[0]["resource"]["id"], &entries[1]["resource"]["id"]), (&json!("o6"), &json!("o5")));
        let own = list(&unknown["link"]).iter().find(|link| link["relation"] == "self").unwrap()["url"].as_str().unwrap();
        assert!(!own.contains("nonsense") && own.contains("_sort=-date"), "{own}");
        let (status, outcome) = strict(&server, "Observation?nonsense=1").await;
        assert_eq!((status, &outcome["resourceType"]), (400, &json!("OperationOutcome")));

        let form = server
            .client
            .post(server.url("/fhir/Observation/_search?_count=2"))
            .header("content-type", "application/x-www-form-urlencoded");
        let (status, posted) = answer(form.body("date=ge2026-09-03&_sort=date&_total=accurate")).await;
        assert_eq!((status, &posted["total"], list(&posted["entry"]).len()), (200, &json!(5), 2), "{posted}");
        let next = list(&posted["link"]).iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap();
        let (_, page) = server.get(next.strip_prefix(&server.base).unwrap()).await;
        assert_eq!(page["entry"][0]["resource"]["id"], "o4");

        let head = server.client.head(server.url("/fhir/Observation/o1")).send().await.unwrap();
        assert_eq!((head.status().as_u16(), head.headers()["etag"].to_str().unwrap()), (200, "W/\"1\""));
        assert!(head.bytes().await.unwrap().is_empty());

        let plain = reqwest::Client::builder().no_gzip().no_proxy().build().unwrap();
        let packed = plain.get(server.url("/fhir/Observation")).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(packed.headers()["content-encoding"], "gzip");
        let mut text = String::new();
        GzDecoder::new(packed.bytes().await.unwrap().as_ref()).read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["total"], 7);
        server.stop().await;
    }
);

both_databases!(
    async fn terminology_that_is_put_answers_at_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        let system = |display: &str| {
            json!({
                "resourceType": "CodeSystem", "id": "s", "url": "urn:t:s", "status": "active", "content": "complete",
                "concept": [{ "code": "a", "display": display, "concept": [{ "code": "a1", "display": "A one" }] }, { "code": "b", "display": "B" }],
            })
        };
        let value_set = json!({
            "resourceType": "ValueSet", "id": "v", "url": "urn:t:v", "status": "active",
            "compose": { "include": [{ "system": "urn:t:s", "filter": [{ "property": "concept", "op": "is-a", "value": "a" }] }] },
        });
        assert_eq!(server.put("/fhir/CodeSystem/s", &system("first")).await.0, 201);
        assert_eq!(server.put("/fhir/ValueSet/v", &value_set).await.0, 201);
        let display = |answer: &Value| {
            let parameter = list(&answer["parameter"]).iter().find(|parameter| parameter["name"] == "display");
            parameter.and_then(|parameter| parameter["valueString"].as_str()).map(str::to_owned)
        };
        let lookup = "/fhir/CodeSystem/$lookup?system=urn:t:s&code=a";
        assert_eq!(display(&server.get(lookup).await.1).as_deref(), Some("first"));
        assert_eq!(server.put("/fhir/CodeSystem/s", &system("second")).await.0, 200);
        assert_eq!(display(&server.get(lookup).await.1).as_deref(), Some("second"));
        assert_eq!(server.get("/fhir/CodeSystem/$lookup?system=urn:t:s&code=nothing").await.0, 404);

        let (status, expanded) = server.get("/fhir/ValueSet/$expand?url=urn:t:v").await;
        let codes: BTreeSet<&str> = list(&expanded["expansion"]["contains"]).iter().filter_map(|one| one["code"].as_str()).collect();
        assert_eq!((status, codes), (200, BTreeSet::from(["a", "a1"])), "{expanded}");
        assert_eq!(server.get("/fhir/ValueSet/v/$expand").await.1["expansion"]["total"], 2);
        for (path, expected) in [
            ("/fhir/ValueSet/$validate-code?url=urn:t:v&system=urn:t:s&code=a1", true),
            ("/fhir/ValueSet/$validate-code?url=urn:t:v&system=urn:t:s&code=b", false),
            ("/fhir/CodeSystem/$validate-code?url=urn:t:s&code=b", true),
            ("/fhir/CodeSystem/$validate-code?url=urn:t:s&code=c", false),
        ] {
            let (status, answer) = server.get(path).await;
            let result =
                list(&answer["parameter"]).iter().find(|parameter| parameter["name"] == "result").map(|one| one["valueBoolean"].clone());
            assert_eq!((status, result), (200, Some(json!(expected))), "{path}: {answer}");
        }
        let parameters = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "system", "valueUri": "urn:t:s" }, { "name": "codeA", "valueCode": "a" }, { "name": "codeB", "valueCode": "a1" },
        ]});
        let (status, answer) = server.post("/fhir/CodeSystem/$subsumes", &parameters).await;
        assert_eq!((status, &answer["parameter"][0]["valueCode"]), (200, &json!("subsumes")), "{answer}");
        server.stop().await;
    }
);

both_databases!(
    async fn methods_that_are_listed_nowhere_are_refused_everywhere(db: &TestDb) {
        let server = TestServer::open(db).await;
        for path in ["/fhir", "/fhir/Patient", "/fhir/Patient/a", "/fhir/Patient/a/_history", "/fhir/Patient/_search", "/fhir/metadata"] {
            for method in [Method::TRACE, Method::from_bytes(b"LINK").unwrap()] {
                let response = server.client.request(method.clone(), server.url(path)).send().await.unwrap();
                assert_eq!(response.status(), 405, "{method} {path}");
                assert!(response.headers().contains_key("allow"), "{method} {path}");
                assert_eq!(response.json::<Value>().await.unwrap()["resourceType"], "OperationOutcome");
            }
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_search_yields_no_more_than_was_asked_for(db: &TestDb) {
        let server = TestServer::open(db).await;
        for n in 0..7 {
            let basic = json!({ "resourceType": "Basic", "id": format!("b{n}"), "code": { "text": "x" } });
            assert_eq!(server.put(&format!("/fhir/Basic/b{n}"), &basic).await.0, 201);
        }
        // Ids, and the totals that the pages tell.
        let walk = async |path: &str| {
            let (mut path, mut ids, mut totals) = (path.to_owned(), Vec::new(), Vec::new());
            loop {
                let (status, bundle) = server.get(&path).await;
                assert_eq!(status, 200, "{bundle}");
                let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
                ids.extend(entries.iter().map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()));
                totals.push(bundle["total"].as_u64());
                match bundle["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next") {
                    Some(next) => path = next["url"].as_str().unwrap().strip_prefix(&server.base).unwrap().to_owned(),
                    None => return (ids, totals),
                }
            }
        };
        let first = |n: usize| (0..n).map(|n| format!("b{n}")).collect::<Vec<_>>();
        for (query, found, totals) in [
            ("_maxresults=3", 3, vec![Some(3)]),
            ("_maxresults=5&_count=2", 5, vec![None, None, None]),
            ("_maxresults=4&_count=2&_total=accurate&_sort=_id", 4, vec![Some(4), Some(4)]),
            ("_maxresults=9&_count=4&_total=accurate&_sort=-_lastUpdated", 7, vec![Some(7), Some(7)]),
            ("_maxresults=7", 7, vec![Some(7)]),
        ] {
            let (mut ids, told) = walk(&format!("/fhir/Basic?{query}")).await;
            ids.sort();
            assert_eq!((ids, told), (first(found), totals), "{query}");
        }
        let (all, _) = walk("/fhir?_type=Basic,Patient&_maxresults=3&_count=2&_sort=_id").await;
        assert_eq!(all, first(3), "over several types");
        assert_eq!(server.get("/fhir/Basic?_maxresults=3&_summary=count").await.1["total"], 3);
        // A page's link is good for its own question only.
        let (_, page) = server.get("/fhir/Basic?_maxresults=5&_count=2").await;
        let next =
            page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap().to_owned();
        let next = next.strip_prefix(&server.base).unwrap();
        assert_eq!(server.get(&next.replace("_maxresults=5", "_maxresults=6")).await.0, 400);
        assert_eq!(server.get(&next.replace("_maxresults=5&", "")).await.0, 400);
        for wrong in ["0", "x", "-1", "3&_maxresults=4"] {
            assert_eq!(server.get(&format!("/fhir/Basic?_maxresults={wrong}")).await.0, 400, "{wrong}");
        }
        server.stop().await;
    }
);
