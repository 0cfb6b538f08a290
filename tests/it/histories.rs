//! Histories of instances, types and everything, page by page.

use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};

/// `Type/id/version` of each entry.
fn entries(bundle: &Value) -> Vec<String> {
    let name = |entry: &Value| {
        let version = entry["response"]["etag"].as_str().unwrap().trim_start_matches("W/").trim_matches('"').to_owned();
        format!("{}/{version}", entry["request"]["url"].as_str().unwrap())
    };
    bundle["entry"].as_array().map(|entries| entries.iter().map(name).collect()).unwrap_or_default()
}

/// All pages from `path` on; `between` is done after each.
async fn walk(server: &TestServer, path: &str, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut path, mut all, mut page) = (path.to_owned(), Vec::new(), 0);
    loop {
        let (status, bundle) = server.get(&path).await;
        assert_eq!((status, &bundle["type"]), (200, &json!("history")), "{bundle}");
        all.extend(entries(&bundle));
        between(page).await;
        page += 1;
        match bundle["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next") {
            Some(next) => path = next["url"].as_str().unwrap().strip_prefix(&server.base).unwrap().to_owned(),
            None => return all,
        }
    }
}

both_databases!(
    async fn pages_are_the_list_of_all_writes_whatever_is_written_meanwhile(db: &TestDb) {
        let server = TestServer::open(db).await;
        // Every write, oldest first, with the instant that it was made at.
        let mut list: Vec<(String, String)> = Vec::new();
        let mut versions = std::collections::BTreeMap::new();
        let write = async |n: usize| {
            let (type_name, id) = (["Patient", "Basic", "Group"][n % 3], format!("x{}", n / 3 % 4));
            let path = format!("/fhir/{type_name}/{id}");
            if n % 5 == 4 && n > 12 {
                return (answer(server.client.delete(server.url(&path))).await.0 == 204).then(|| format!("{type_name}/{id}")).unwrap();
            }
            let mut body = json!({ "resourceType": type_name, "id": id, "language": format!("x{n}") });
            match type_name {
                "Basic" => body["code"] = json!({ "text": "x" }),
                "Group" => (body["type"], body["actual"]) = (json!("person"), json!(true)),
                _ => {}
            }
            assert!(server.put(&path, &body).await.0 < 300);
            format!("{type_name}/{id}")
        };
        for n in 0..45 {
            let name = write(n).await;
            let version = versions.entry(name.clone()).and_modify(|version| *version += 1).or_insert(1);
            let (_, newest) = server.get(&format!("/fhir/{name}/_history?_count=1")).await;
            assert_eq!(entries(&newest), [format!("{name}/{version}")]);
            list.push((format!("{name}/{version}"), newest["entry"][0]["response"]["lastModified"].as_str().unwrap().to_owned()));
        }
        let expected = |keep: &dyn Fn(&(String, String)) -> bool| {
            list.iter().rev().filter(|one| keep(one)).map(|one| one.0.clone()).collect::<Vec<_>>()
        };
        let own = |name: &str| ["Patient", "Basic", "Group"].iter().any(|own| name.starts_with(own));
        // What lango ships is in the history of everything too, before all of this.
        let first = &list[0].1;
        assert_eq!(walk(&server, &format!("/fhir/_history?_count=7&_since={first}"), async |_| ()).await, expected(&|_| true));
        assert_eq!(walk(&server, "/fhir/Patient/_history?_count=4", async |_| ()).await, expected(&|one| one.0.starts_with("Patient")));
        assert_eq!(walk(&server, "/fhir/Basic/x1/_history?_count=2", async |_| ()).await, expected(&|one| one.0.starts_with("Basic/x1/")));
        let everything = walk(&server, "/fhir/_history?_count=150", async |_| ()).await;
        assert!(everything.len() > list.len());
        assert_eq!(everything.into_iter().filter(|name| own(name)).collect::<Vec<_>>(), expected(&|_| true));

        // As in a search: none of them, but how many there are, where that is told.
        for (path, total) in [("Basic/x1/_history", Some(versions["Basic/x1"])), ("Basic/_history", None), ("_history", None)] {
            let (status, bundle) = server.get(&format!("/fhir/{path}?_count=0")).await;
            assert_eq!((status, bundle.get("entry"), bundle.get("total").and_then(Value::as_i64)), (200, None, total), "{bundle}");
            assert_eq!(bundle["link"].as_array().unwrap().len(), 1);
        }

        let since = &list[30].1;
        assert_eq!(
            walk(&server, &format!("/fhir/Group/_history?_since={since}"), async |_| ()).await,
            expected(&|one| one.0.starts_with("Group") && one.1 >= *since)
        );
        // Current at one instant: of each resource the newest version that is no later, deletes left out unless made then.
        let at = &list[33].1;
        let mut seen = std::collections::BTreeSet::new();
        let mut current = Vec::new();
        for (name, updated) in list.iter().rev().filter(|one| one.1 <= *at) {
            let (resource, version) = name.rsplit_once('/').unwrap();
            let deleted = server.get(&format!("/fhir/{resource}/_history/{version}")).await.0 == 410;
            if seen.insert(resource.to_owned()) && (!deleted || updated == at) {
                current.push(name.clone());
            }
        }
        assert_eq!(walk(&server, &format!("/fhir/_history?_at={at}&_since={first}&_count=5"), async |_| ()).await, current);

        let before = expected(&|_| true);
        let path = format!("/fhir/_history?_count=6&_since={first}");
        let walked = walk(&server, &path, async |page| {
            for n in 0..3 {
                write(60 + page * 3 + n).await;
            }
        });
        assert_eq!(walked.await, before, "what is written meanwhile moves nothing");
        server.stop().await;
    }
);

both_databases!(
    async fn a_history_refuses_what_it_does_not_understand(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/a", &json!({ "resourceType": "Patient", "id": "a" })).await;
        server.put("/fhir/Patient/b", &json!({ "resourceType": "Patient", "id": "b" })).await;
        for path in ["Patient/_history?_count=x", "_history?_since=yesterday", "Patient/a/_history?_at=x", "Patient/_history?_cursor=abc"] {
            assert_eq!(server.get(&format!("/fhir/{path}")).await.0, 400, "{path}");
        }
        let (_, first) = server.get("/fhir/Patient/_history?_count=1").await;
        let next = first["link"][1]["url"].as_str().unwrap().strip_prefix(&server.base).unwrap();
        assert_eq!(server.get(next).await.0, 200);
        assert_eq!(server.get(&next.replace("/Patient/", "/Group/")).await.0, 400, "a token belongs to its history");
        assert_eq!(server.get("/fhir/Patient/none/_history").await.0, 404);
        assert_eq!(server.get("/fhir/Alien/_history").await.0, 404);
        let strict = server.client.get(server.url("/fhir/Patient/_history?nonsense=1")).header("prefer", "handling=strict");
        assert_eq!(answer(strict).await.0, 400);
        let post = server.client.post(server.url("/fhir/_history")).send().await.unwrap();
        assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [{ "request": { "method": "GET", "url": "Patient/_history?_count=1" } }] });
        assert_eq!(entries(&server.post("/fhir", &batch).await.1["entry"][0]["resource"]), ["Patient/b/1"]);
        server.stop().await;
    }
);

both_databases!(
    async fn a_facility_sees_only_its_own_history(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let mut tokens = Vec::new();
        for (id, facility) in [("emr-a", "A"), ("emr-b", "B")] {
            let secret = add_client(db, id, facility, "system/*.cruds").await;
            tokens.push(format!("Bearer {}", server.token(id, &secret).await));
        }
        let put = |who: usize, id: &str| {
            let body = json!({ "resourceType": "Patient", "id": id, "active": true }).to_string();
            let put = server.client.put(server.url(&format!("/fhir/Patient/{id}"))).header("authorization", &tokens[who]);
            answer(put.header("content-type", "application/fhir+json").body(body))
        };
        for (who, id) in [(0, "a1"), (1, "b1"), (0, "a2")] {
            assert_eq!(put(who, id).await.0, 201);
        }
        let get = |who: usize, path: &str| answer(server.client.get(server.url(path)).header("authorization", &tokens[who]));
        for path in ["/fhir/_history?_count=200", "/fhir/Patient/_history"] {
            let patients = |names: Vec<String>| names.into_iter().filter(|name| name.starts_with("Patient")).collect::<Vec<_>>();
            assert_eq!(patients(entries(&get(0, path).await.1)), ["Patient/a2/1", "Patient/a1/1"], "{path}");
            assert_eq!(patients(entries(&get(1, path).await.1)), ["Patient/b1/1"], "{path}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn what_a_history_does_not_take_is_said(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p" })).await;
        for path in ["/fhir/Patient/p/_history", "/fhir/Patient/_history", "/fhir/_history?_since=2000"] {
            let with = |query: &str| format!("{path}{}{query}", if path.contains('?') { "&" } else { "?" });
            for query in ["nosuch=1", "_sort=foo", "_elements=id", "_summary=count"] {
                let (status, bundle) = server.get(&with(query)).await;
                let told = bundle["entry"].as_array().unwrap().last().unwrap();
                assert_eq!((status, &told["resource"]["resourceType"]), (200, &json!("OperationOutcome")), "{bundle}");
                let name = query.split('=').next().unwrap();
                assert_eq!(told["resource"]["issue"][0]["expression"], json!([name]));
                assert_eq!((&told["request"]["method"], &told["response"]["status"]), (&json!("GET"), &json!("200 OK")));
                assert_eq!(bundle["entry"].as_array().unwrap().iter().filter(|entry| entry["resource"]["id"] == "p").count(), 1);
                let strict = server.client.get(server.url(&with(query))).header("prefer", "handling=strict");
                assert_eq!(answer(strict).await.0, 400, "{query}");
            }
            assert_eq!(server.get(&with("_list=x")).await.0, 400, "it would tell too much to pass over it");
        }
        let (_, empty) = server.get("/fhir/Basic/_history?nosuch=1").await;
        assert_eq!(empty["entry"].as_array().unwrap().len(), 1);
        server.stop().await;
    }
);

both_databases!(
    async fn what_was_deleted_and_put_again_was_created_again(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = json!({ "resourceType": "Patient", "id": "p" });
        let mut statuses = Vec::new();
        for turn in ["put", "put active", "delete", "put", "delete", "put active", "put"] {
            statuses.insert(
                0,
                match turn {
                    "delete" => answer(server.client.delete(server.url("/fhir/Patient/p"))).await.0,
                    "put active" => server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p", "active": true })).await.0,
                    _ => server.put("/fhir/Patient/p", &patient).await.0,
                },
            );
        }
        assert_eq!(statuses, [200, 201, 204, 201, 204, 200, 201]);
        for history in ["Patient/p/_history", "Patient/_history"] {
            // A version that brought it back says so on a page that does not have the delete, too.
            let mut told = Vec::new();
            let mut path = format!("/fhir/{history}?_count=2");
            loop {
                let (_, bundle) = server.get(&path).await;
                let entries = bundle["entry"].as_array().into_iter().flatten();
                told.extend(
                    entries.map(|entry| entry["response"]["status"].as_str().unwrap().split(' ').next().unwrap().parse::<u16>().unwrap()),
                );
                let Some(next) = bundle["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next") else { break };
                path = next["url"].as_str().unwrap().strip_prefix(&server.base).unwrap().to_owned();
            }
            assert_eq!(told, statuses, "{history}");
        }
        server.stop().await;
    }
);
