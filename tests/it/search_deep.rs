//! Searching beyond single questions: pages while others write, sorting, own search parameters, words, and how it is explained.

use crate::support::{TestServer, add_client, answer, both_databases, eventually, program, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ids(bundle: &Value) -> Vec<String> {
    let matches = list(&bundle["entry"]).iter().filter(|entry| entry["search"]["mode"] == "match");
    matches.map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()).collect()
}

fn next(bundle: &Value) -> Option<String> {
    let link = list(&bundle["link"]).iter().find(|link| link["relation"] == "next")?;
    let url = link["url"].as_str().unwrap();
    Some(url[url.find("/fhir").unwrap()..].to_owned())
}

fn patient(chance: &mut Chance, id: &str) -> Value {
    let mut resource = json!({ "resourceType": "Patient", "id": id, "active": true });
    if chance.below(4) > 0 {
        resource["name"] = json!([{ "family": format!("F{}", chance.below(9)), "given": [format!("G{}", chance.below(3))] }]);
    }
    if chance.below(3) > 0 {
        resource["birthDate"] = json!(format!("19{:02}", 50 + chance.below(20)));
    }
    if chance.below(3) > 0 {
        let gender = ["male", "female", "other"][chance.below(3)];
        resource["gender"] = json!(gender);
    }
    resource
}

/// As R4 sorts: missing values last, whichever way.
fn sort_key(resource: &Value, name: &str) -> Option<String> {
    match name {
        "family" => resource["name"][0]["family"].as_str().map(str::to_lowercase),
        "birthdate" => resource["birthDate"].as_str().map(str::to_owned),
        "gender" => resource["gender"].as_str().map(str::to_owned),
        "_id" => resource["id"].as_str().map(str::to_owned),
        other => panic!("{other}"),
    }
}

both_databases!(
    async fn pages_of_any_sort_are_in_order_and_complete_while_others_write(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut chance = Chance(7);
        let mut standing: BTreeMap<String, Value> = BTreeMap::new();
        let mut entries = Vec::new();
        for n in 0..60 {
            let (stays, goes) = (patient(&mut chance, &format!("s{n}")), patient(&mut chance, &format!("g{n}")));
            for resource in [&stays, &goes] {
                let url = format!("Patient/{}", resource["id"].as_str().unwrap());
                entries.push(json!({ "resource": resource, "request": { "method": "PUT", "url": url } }));
            }
            standing.insert(stays["id"].as_str().unwrap().to_owned(), stays);
        }
        let (status, _) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
        assert_eq!(status, 200);
        let sorts =
            ["", "_id", "-family,birthdate", "birthdate,-gender", "gender,-_id", "-birthdate", "_lastUpdated", "-_lastUpdated,family"];
        for (walk, sort) in sorts.iter().enumerate() {
            let count = 3 + chance.below(9);
            let filter = ["active=true", "active:not=false", "_filter=active eq true and _id ne none"][walk % 3];
            let mut path = format!("/fhir/Patient?{}&_count={count}", filter.replace(' ', "%20"));
            if !sort.is_empty() {
                path = format!("{path}&_sort={sort}");
            }
            let mut seen: Vec<String> = Vec::new();
            let mut page = Some(path);
            while let Some(path) = page {
                let (status, bundle) = server.get(&path).await;
                assert_eq!(status, 200, "{bundle:.300}");
                seen.extend(ids(&bundle));
                page = next(&bundle);
                // Meanwhile others come, go and change; the standing ones are touched too, but keep saying the same.
                for _ in 0..2 {
                    let n = chance.below(60);
                    match chance.below(4) {
                        0 => {
                            let _ = crate::support::answer(server.client.delete(server.url(&format!("/fhir/Patient/g{n}")))).await;
                        }
                        1 => {
                            let id = format!("n{walk}x{n}");
                            server.put(&format!("/fhir/Patient/{id}"), &patient(&mut chance, &id)).await;
                        }
                        2 => {
                            server.put(&format!("/fhir/Patient/g{n}"), &patient(&mut chance, &format!("g{n}"))).await;
                        }
                        _ => {
                            let mut touched = standing[&format!("s{n}")].clone();
                            touched["maritalStatus"] = json!({ "text": format!("{walk}") });
                            server.put(&format!("/fhir/Patient/s{n}"), &touched).await;
                        }
                    }
                }
            }
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "nothing comes twice: _sort={sort}");
            let stayed: Vec<&String> = seen.iter().filter(|id| standing.contains_key(*id)).collect();
            assert_eq!(stayed.len(), standing.len(), "nothing that was there throughout is left out: _sort={sort}");
            for pair in stayed.windows(2) {
                let order = sort.split(',').filter(|key| !key.is_empty() && !key.ends_with("_lastUpdated")).find_map(|key| {
                    let (name, descending) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
                    let (a, b) = (sort_key(&standing[pair[0]], name), sort_key(&standing[pair[1]], name));
                    match (a, b) {
                        (a, b) if a == b => None,
                        (None, _) => Some(false),
                        (_, None) => Some(true),
                        (a, b) => Some((a < b) != descending),
                    }
                });
                if !sort.starts_with("-_lastUpdated") {
                    assert_ne!(order, Some(false), "_sort={sort}: {} before {}", standing[pair[0]], standing[pair[1]]);
                }
            }
        }
        server.stop().await;
    }
);

/// Asks until the answer is what is wanted.
pub async fn asked_until(server: &TestServer, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    eventually(path, async || {
        let (status, body) = server.get(path).await;
        if wanted(status, &body) { Ok(body) } else { Err(format!("{status} {body:.400}")) }
    })
    .await
}

both_databases!(
    /// What the table of prefixes in R4's search page says of each, on dates of every precision and Periods without an end or a start.
    async fn dates_are_compared_by_the_words_of_the_specification(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (id, effective) in [
            ("day", json!("2013-01-14")),
            ("midnight", json!("2013-01-14T00:00:00Z")),
            ("ten", json!("2013-01-14T10:00:00Z")),
            ("next", json!("2013-01-15T00:00:00Z")),
            ("month", json!("2013-01")),
            ("march", json!("2013-03-14")),
            ("later", json!("2013-03-15")),
            ("far", json!("2015-06-15")),
            ("onwards", json!({ "start": "2013-01-21" })),
            ("until", json!({ "end": "2013-01-10" })),
        ] {
            let mut observation = json!({ "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" } });
            let element = if effective.is_object() { "effectivePeriod" } else { "effectiveDateTime" };
            observation[element] = effective;
            let (status, outcome) = server.put(&format!("/fhir/Observation/{id}"), &observation).await;
            assert_eq!(status, 201, "{outcome}");
        }
        for (search, expected) in [
            ("eq2013-01-14", "day midnight ten"),
            ("ne2013-01-14", "far later march month next onwards until"),
            ("lt2013-01-14T10:00Z", "day midnight month until"),
            ("gt2013-01-14T10:00Z", "day far later march month next onwards"),
            ("ge2013-03-14", "far later march onwards"),
            ("gt2013-03-14", "far later onwards"),
            ("le2013-03-14", "day march midnight month next onwards ten until"),
            ("lt2013-03-14", "day midnight month next onwards ten until"),
            ("sa2013-03-14", "far later"),
            ("eb2013-03-14", "day midnight month next ten until"),
            ("eb2013-01-15", "day midnight ten until"),
            ("eq2013-01", "day midnight month next ten"),
            ("ge2013-01", "day far later march midnight month next onwards ten"),
            ("le2013", "day later march midnight month next ten until"),
            ("ap2013-03-14", "day later march midnight month next onwards ten until"),
        ] {
            let mut found = ids(&server.get(&format!("/fhir/Observation?date={search}")).await.1);
            found.sort();
            assert_eq!(found.join(" "), expected, "{search}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn an_own_search_parameter_is_indexed_and_then_used(db: &TestDb) {
        let server = TestServer::open(db).await;
        for n in 0..5 {
            let district = ["Moshi", "Hai"][n % 2];
            let address = json!([{ "district": district }]);
            let patient = json!({ "resourceType": "Patient", "id": format!("p{n}"), "address": address });
            assert_eq!(server.put(&format!("/fhir/Patient/p{n}"), &patient).await.0, 201);
        }
        assert_eq!(server.get("/fhir/Patient?district=hai&_id=p1").await.1["entry"][1]["search"]["mode"], "outcome", "not known yet");
        let parameter = |expression: &str, code: &str| {
            json!({
                "resourceType": "SearchParameter", "id": "district", "url": "urn:lango:test:district", "name": "District", "status": "active",
                "description": "Where they live", "code": code, "base": ["Patient"], "type": "string", "expression": expression
            })
        };
        let (status, outcome) = server.put("/fhir/SearchParameter/district", &parameter("Patient.address.(", "district")).await;
        assert_eq!(status, 422, "{outcome}");
        assert_eq!(outcome["issue"][0]["expression"][0], "SearchParameter.expression");
        assert_eq!(server.put("/fhir/SearchParameter/district", &parameter("Patient.name", "family")).await.0, 422, "R4 has it");
        let (status, _) = server.put("/fhir/SearchParameter/district", &parameter("Patient.address.district", "district")).await;
        assert_eq!(status, 201);
        let mut twin = parameter("Patient.address.city", "district");
        twin["id"] = json!("twin");
        let (status, outcome) = server.put("/fhir/SearchParameter/twin", &twin).await;
        assert_eq!((status, &outcome["issue"][0]["expression"]), (422, &json!(["SearchParameter.code"])), "one code, one meaning");
        let both = |one: &Value, other: &Value| {
            let put = |resource: &Value| {
                let url = format!("SearchParameter/{}", resource["id"].as_str().unwrap());
                json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
            };
            json!({ "resourceType": "Bundle", "type": "transaction", "entry": [put(one), put(other)] })
        };
        let (mut one, mut other) = (twin.clone(), twin.clone());
        for (parameter, id) in [(&mut one, "one"), (&mut other, "other")] {
            parameter["id"] = json!(id);
            parameter["code"] = json!("town");
        }
        let (status, outcome) = server.post("/fhir", &both(&one, &other)).await;
        assert_eq!(
            (status, &outcome["issue"][0]["expression"]),
            (422, &json!(["Bundle.entry[1].resource.code"])),
            "nor at once: {outcome}"
        );
        other["code"] = json!("city");
        assert_eq!(server.post("/fhir", &both(&one, &other)).await.0, 200);
        (one["code"], other["code"]) = (json!("city"), json!("town"));
        assert_eq!(server.post("/fhir", &both(&one, &other)).await.0, 200, "a code may change hands");
        let alone = |id: String| {
            let (mut parameter, server) = (twin.clone(), &server);
            (parameter["id"], parameter["code"]) = (json!(id), json!("race"));
            async move { server.put(&format!("/fhir/SearchParameter/{id}"), &parameter).await.0 }
        };
        let mut told = futures_util::future::join_all((0..4).map(|n| alone(format!("race{n}")))).await;
        told.sort_unstable();
        assert_eq!(told, [201, 422, 422, 422], "of those that come at the same moment one has it");
        // Until all is indexed the answer is a refusal, never a part, nor out of order.
        for search in ["_sort=district", "_sort=-district", "_has:Group:member:_id=x&_sort=district"] {
            let (status, body) = server.get(&format!("/fhir/Patient?{search}")).await;
            let told = body["entry"].as_array().is_none_or(|all| all.iter().all(|entry| entry["search"]["mode"] != "outcome"));
            assert!(status == 200 && told || body["issue"][0]["code"] == "transient", "{status} {body:.300}");
        }
        let found = asked_until(&server, "/fhir/Patient?district=hai", |status, body| {
            assert!(status == 200 || body["issue"][0]["code"] == "transient", "{status} {body:.300}");
            status == 200
        })
        .await;
        assert_eq!(ids(&found), ["p1", "p3"]);
        let late = json!({ "resourceType": "Patient", "id": "p9", "address": [{ "district": "Hai" }] });
        server.put("/fhir/Patient/p9", &late).await;
        server.put("/fhir/Patient/p1", &json!({ "resourceType": "Patient", "id": "p1", "address": [{ "district": "Rombo" }] })).await;
        assert_eq!(ids(&server.get("/fhir/Patient?district=hai&_sort=-_id").await.1), ["p9", "p3"]);
        assert_eq!(ids(&server.get("/fhir/Patient?_sort=district,_id&_count=2&district:missing=false").await.1), ["p3", "p9"]);
        // Another definition under the same name begins anew and finds nothing of the old one.
        let (status, _) = server.put("/fhir/SearchParameter/district", &parameter("Patient.id", "district")).await;
        assert_eq!(status, 200);
        let found = asked_until(&server, "/fhir/Patient?district=p9", |status, _| status == 200).await;
        assert_eq!(ids(&found), ["p9"]);
        assert_eq!(ids(&server.get("/fhir/Patient?district=hai").await.1), [""; 0]);
        server.stop().await;
        let (code, out, error) = program::output(db, &["doctor", "explain", "Patient?district=p9&_sort=district"]);
        assert!(code == Some(0) && out.contains("1 on the first page"), "{out} {error}");
    }
);

both_databases!(
    async fn an_own_parameter_that_fails_on_a_resource_decides_no_conditional_request(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |id: &str, names: Value| json!({ "resourceType": "Patient", "id": id, "name": names });
        server.put("/fhir/Patient/one", &patient("one", json!([{ "family": "Juma" }]))).await;
        server.put("/fhir/Patient/two", &patient("two", json!([{ "family": "Juma" }, { "family": "Massawe" }]))).await;
        let definition = json!({
            "resourceType": "SearchParameter", "id": "begin", "url": "urn:lango:test:begin", "name": "Begin", "status": "active",
            "description": "How the name begins", "code": "begin", "base": ["Patient"], "type": "string",
            "expression": "Patient.name.family.substring(0, 3)"
        });
        assert_eq!(server.put("/fhir/SearchParameter/begin", &definition).await.0, 201);
        let said = |body: &Value| body["entry"].as_array().is_some_and(|all| all.iter().any(|entry| entry["search"]["mode"] == "outcome"));
        let found = asked_until(&server, "/fhir/Patient?begin=jum", |status, body| status == 200 && said(body)).await;
        assert_eq!(found["entry"][0]["resource"]["id"], "one", "{found}");
        let create = || async {
            let post = server.client.post(server.url("/fhir/Patient")).header("if-none-exist", "begin=mas");
            answer(post.json(&json!({ "resourceType": "Patient", "name": [{ "family": "Massawe" }] }))).await
        };
        let (status, outcome) = create().await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("incomplete")), "{outcome}");
        let strict = server.client.get(server.url("/fhir/Patient?begin=jum")).header("prefer", "handling=strict");
        assert_eq!(answer(strict).await.0, 400);
        let chained = server.get("/fhir/Encounter?subject:Patient.begin=jum").await.1;
        assert!(said(&chained), "{chained}");
        // What is mended is taken again, at once.
        server.put("/fhir/Patient/two", &patient("two", json!([{ "family": "Massawe" }]))).await;
        let found = server.get("/fhir/Patient?begin=mas").await.1;
        assert!(!said(&found), "{found}");
        let (status, found) = create().await;
        assert_eq!((status, &found["id"]), (200, &json!("two")), "{found}");
        // What the same transaction writes counts as what is stored.
        let several = json!([{ "family": "Mushi" }, { "family": "Massawe" }]);
        let entry = |method: &str, url: &str, resource: Value| json!({ "request": { "method": method, "url": url }, "resource": resource });
        let mut conditional = entry("POST", "Patient", json!({ "resourceType": "Patient" }));
        conditional["request"]["ifNoneExist"] = json!("begin=mus");
        let bundle = |entries: Value| json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        let (status, outcome) =
            server.post("/fhir", &bundle(json!([entry("PUT", "Patient/three", patient("three", several)), conditional]))).await;
        assert_eq!((status, &outcome["issue"][0]["expression"][0]), (400, &json!("Bundle.entry[1].request.ifNoneExist")), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn an_own_parameter_that_fails_on_what_is_hidden_says_nothing_of_it(db: &TestDb) {
        let mut secrets = Vec::new();
        for (id, facility) in [("registry", "operator"), ("f-1", "F-1"), ("f-2", "F-2")] {
            secrets.push(add_client(db, id, facility, "system/*.cruds").await);
        }
        let server = TestServer::smart(db).await;
        let mut tokens = Vec::new();
        for (id, secret) in ["registry", "f-1", "f-2"].into_iter().zip(&secrets) {
            tokens.push(server.token(id, secret).await);
        }
        let [operator, one, other] = tokens.as_slice() else { panic!() };
        let send = |token: &str, method: &str, path: &str, criteria: &str, body: Value| {
            let request =
                server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(token).header("prefer", "handling=strict");
            let request = if criteria.is_empty() { request } else { request.header("if-none-exist", criteria) };
            answer(if body.is_null() { request } else { request.json(&body) })
        };
        let definition = json!({
            "resourceType": "SearchParameter", "id": "begin", "url": "urn:lango:test:begin", "name": "Begin", "status": "active",
            "description": "How the name begins", "code": "begin", "base": ["Patient"], "type": "string",
            "expression": "Patient.name.family.substring(0, 3)"
        });
        let (status, outcome) = send(operator, "PUT", "/fhir/SearchParameter/begin", "", definition).await;
        assert_eq!(status, 201, "{outcome}");
        until("the parameter is ready", async || send(one, "GET", "/fhir/Patient?begin=jum", "", Value::Null).await.0 == 200).await;
        let patient = |id: &str, names: Value| json!({ "resourceType": "Patient", "id": id, "name": names });
        let several = patient("theirs", json!([{ "family": "Juma" }, { "family": "Massawe" }]));
        assert_eq!(send(other, "PUT", "/fhir/Patient/theirs", "", several).await.0, 201);
        let create = |token| {
            send(token, "POST", "/fhir/Patient", "begin=mas", json!({ "resourceType": "Patient", "name": [{ "family": "Massawe" }] }))
        };
        assert_eq!(create(one).await.0, 201, "what another facility wrote decides nothing");
        assert_eq!(create(one).await.0, 200);
        assert_eq!(create(other).await.0, 400, "who has it is told");
        assert_eq!(send(one, "GET", "/fhir/Patient?begin=mas", "", Value::Null).await.0, 200, "nor is it told of");
        assert_eq!(send(other, "GET", "/fhir/Patient?begin=mas", "", Value::Null).await.0, 400);
        server.stop().await;
    }
);

both_databases!(
    async fn an_own_reference_is_listed_and_included_by(db: &TestDb) {
        let server = TestServer::open(db).await;
        let village = json!([{ "url": "urn:village", "valueReference": { "reference": "Location/hai" } }]);
        server.put("/fhir/Location/hai", &json!({ "resourceType": "Location", "id": "hai" })).await;
        server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p", "extension": village })).await;
        assert_eq!(server.get("/fhir/Patient?_include=Patient:village").await.1["entry"].as_array().unwrap().len(), 2, "a warning");
        let definition = json!({
            "resourceType": "SearchParameter", "id": "village", "url": "urn:lango:test:village", "name": "Village", "status": "active",
            "description": "Where they live", "code": "village", "base": ["Patient"], "type": "reference", "target": ["Location"],
            "expression": "Patient.extension.where(url = 'urn:village').value"
        });
        assert!(!server.get("/fhir/metadata").await.1.to_string().contains("village"), "who asked before is told anew");
        let (status, outcome) = server.put("/fhir/SearchParameter/village", &definition).await;
        assert_eq!(status, 201, "{outcome}");
        asked_until(&server, "/fhir/Patient?village=Location/hai", |status, _| status == 200).await;
        for path in
            ["Patient?_include=Patient:village", "Patient?_include=*", "Location?_revinclude=Patient:village", "Location?_revinclude=*"]
        {
            let (status, bundle) = server.get(&format!("/fhir/{path}")).await;
            let modes: Vec<&str> =
                bundle["entry"].as_array().unwrap().iter().map(|entry| entry["search"]["mode"].as_str().unwrap()).collect();
            assert_eq!((status, &modes[..]), (200, &["match", "include"][..]), "{path}: {bundle}");
        }
        let (_, statement) = server.get("/fhir/metadata").await;
        let resources = statement["rest"][0]["resource"].as_array().unwrap();
        let of = |name: &str| resources.iter().find(|resource| resource["type"] == name).unwrap();
        let listed = of("Patient")["searchParam"].as_array().unwrap().iter().find(|param| param["name"] == "village").unwrap();
        assert_eq!((&listed["definition"], &listed["type"]), (&json!("urn:lango:test:village"), &json!("reference")));
        assert!(of("Patient")["searchInclude"].as_array().unwrap().contains(&json!("Patient:village")));
        assert!(of("Location")["searchRevInclude"].as_array().unwrap().contains(&json!("Patient:village")));
        server.stop().await;
    }
);

both_databases!(
    async fn words_are_found_when_the_operator_has_them_indexed(db: &TestDb) {
        let server = TestServer::open(db).await;
        let condition = |id: &str, div: &str, note: &str| {
            json!({
                "resourceType": "Condition", "id": id, "subject": { "reference": "Patient/p" }, "note": [{ "text": note }],
                "text": { "status": "generated", "div": format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{div}</div>") }
            })
        };
        let (status, outcome) = server.put("/fhir/Condition/a", &condition("a", "Typhoid fever", "since Monday")).await;
        assert_eq!(status, 201, "{outcome}");
        let (status, outcome) = server.get("/fhir/Condition?_text=fever").await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("not-supported")));
        server.stop().await;
        let server = TestServer::start(db, |settings| {
            settings.auth = lango::config::AuthMode::Open;
            settings.search.full_text = true;
        })
        .await;
        let (status, outcome) = server.put("/fhir/Condition/b", &condition("b", "Dengue <b>FEVER</b>", "typhoid excluded")).await;
        assert_eq!(status, 201, "{outcome}");
        assert_eq!(ids(&server.get("/fhir/Condition?_text=fever").await.1), ["b"], "what was there before is not indexed yet");
        let (code, _, error) = program::output(db, &["reindex"]);
        assert_eq!(code, Some(0), "{error}");
        assert_eq!(program::output(db, &["reindex", "Conditions"]).0, Some(2));
        asked_until(&server, "/fhir/Condition?_text=fever", |_, body| ids(body) == ["a", "b"]).await;
        for (query, expected) in [
            ("_text=typhoid", &["a"][..]),
            ("_content=typhoid", &["a", "b"]),
            ("_content=typhoid%20monday", &["a"]),
            ("_text=dengue%20fever", &["b"]),
            ("_content=absent", &[]),
        ] {
            assert_eq!(ids(&server.get(&format!("/fhir/Condition?{query}")).await.1), expected, "{query}");
        }
        let store = lango::store::Store::open(&db.url).await.unwrap();
        let finished = |job: &lango::store::JobRow| {
            let result = job.result.as_ref().filter(|_| job.state == "done");
            result.is_some_and(|result| result["types"] == json!([]) && result["done"].as_u64() > Some(2))
        };
        until("the work is finished", async || store.jobs(Some(lango::app::REINDEX_JOB), None, 100).await.unwrap().iter().any(finished))
            .await;
        store.close().await;
        server.stop().await;
    }
);

both_databases!(
    async fn as_many_values_are_taken_as_are_promised(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (patient, observation) = (
            json!({ "resourceType": "Patient", "id": "p7", "birthDate": "1990-01-01" }),
            json!({
                "resourceType": "Observation", "id": "o", "status": "final", "code": { "coding": [{ "system": "urn:s", "code": "7" }] },
                "subject": { "reference": "Patient/p7" }, "valueQuantity": { "value": 7, "system": "urn:s", "code": "u" }
            }),
        );
        for (kind, resource) in [("Patient/p7", &patient), ("Observation/o", &observation)] {
            assert_eq!(server.put(&format!("/fhir/{kind}"), resource).await.0, 201);
        }
        let values = |write: fn(usize) -> String| (0..998).map(write).collect::<Vec<String>>().join(",");
        let posted = async |path: &str, form: &[(&str, &str)]| {
            let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            let post = server.client.post(server.url(path)).header("content-type", "application/x-www-form-urlencoded");
            crate::support::answer(post.body(form)).await
        };
        let (numbers, few, days) = (values(|n| n.to_string()), values(|n| format!("p{n}")), values(|n| format!("ne{}", 1000 + n)));
        let (tokens, amounts, pairs) =
            (values(|n| format!("urn:s|{n}")), values(|n| format!("{n}|urn:s|u")), values(|n| format!("{n}${n}")));
        for (of, name, value, total) in [
            ("Observation", "subject", &few, 1),
            ("Observation", "code", &tokens, 1),
            ("Observation", "code:not", &tokens, 0),
            ("Observation", "code:text", &numbers, 0),
            ("Observation", "value-quantity", &amounts, 1),
            ("Observation", "code-value-quantity", &pairs, 1),
            ("Observation", "_lastUpdated", &days, 1),
            ("Observation", "subject:Patient._id", &few, 1),
            ("Observation", "subject:Patient.identifier", &tokens, 0),
            ("Observation", "subject:Patient.general-practitioner:Practitioner.identifier", &tokens, 0),
            ("Observation", "subject:Patient.birthdate", &days, 1),
            ("Patient", "_has:Observation:subject:code", &tokens, 1),
            ("Patient", "_has:Observation:subject:code:not", &tokens, 0),
            ("Patient", "name:contains", &numbers, 0),
            ("Patient", "birthdate", &days, 1),
            ("QuestionnaireResponse", "questionnaire", &numbers, 0),
            ("QuestionnaireResponse", "questionnaire.url", &numbers, 0),
            ("CodeSystem", "url:below", &numbers, 0),
        ] {
            for further in [None, Some(("_sort", "-_lastUpdated"))] {
                let form: Vec<(&str, &str)> = [(name, value.as_str()), ("_total", "accurate")].into_iter().chain(further).collect();
                let (status, bundle) = posted(&format!("/fhir/{of}/_search"), &form).await;
                assert_eq!((status, &bundle["total"]), (200, &json!(total)), "{of}?{name} {further:?} {bundle:.300}");
            }
        }
        let form = [("subject.identifier", tokens.as_str())];
        assert_eq!(posted("/fhir/Observation/_search", &form).await.0, 200, "four types");
        let (status, outcome) = posted("/fhir/Provenance/_search", &[("target.identifier", &tokens)]).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("too-costly")), "very many: {outcome:.300}");
        // What was asked in a form is in the link to the next page, which is a URL and no longer than one may be.
        server.put("/fhir/Patient/p6", &json!({ "resourceType": "Patient", "id": "p6" })).await;
        let many = values(|n| if n < 990 { format!("{n:0>64}") } else { format!("p{}", n - 990) });
        let (status, outcome) = posted("/fhir/Patient/_search", &[("_id", &many), ("_count", "1")]).await;
        assert_eq!((status, &outcome["issue"][0]["code"]), (400, &json!("too-costly")), "{outcome:.300}");
        let (status, bundle) = posted("/fhir/Patient/_search", &[("_id", &many), ("_count", "2")]).await;
        assert_eq!((status, ids(&bundle).len()), (200, 2), "all on one page");
        server.stop().await;
    }
);

both_databases!(
    async fn parameters_that_are_not_utf_8_are_refused(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = json!({ "resourceType": "Patient", "name": [{ "family": "Müller" }] }).to_string();
        let create = |criteria: &str| {
            let post = server.client.post(server.url("/fhir/Patient")).header("content-type", "application/fhir+json");
            crate::support::answer(post.header("if-none-exist", criteria).body(patient.clone()))
        };
        assert_eq!(create("family=M%C3%BCller").await.0, 201);
        assert_eq!(create("family=M%C3%BCller").await.0, 200);
        let (status, outcome) = create("family=M%FCller").await;
        assert_eq!((status, &outcome["issue"][0]["expression"]), (400, &json!(["Patient"])), "{outcome}");
        assert_eq!(server.get("/fhir/Patient?name=m%FCller").await.0, 400);
        assert_eq!(server.get("/fhir/Patient?name=m%C3%BCller").await.1["total"], 1);
        let form = server.client.post(server.url("/fhir/Patient/_search")).header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(crate::support::answer(form.body("name=m%FCller")).await.0, 400);
        let entry = json!({ "request": { "method": "GET", "url": "Patient?name=m%FCller" } });
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] });
        assert!(server.post("/fhir", &batch).await.1["entry"][0]["response"]["status"].as_str().unwrap().starts_with("400"));
        server.stop().await;
    }
);

both_databases!(
    async fn the_operator_sees_how_a_search_is_carried_out(db: &TestDb) {
        let server = TestServer::open(db).await;
        for n in 0..30 {
            let patient =
                json!({ "resourceType": "Patient", "id": format!("p{n}"), "gender": "male", "name": [{ "family": format!("F{n}") }] });
            server.put(&format!("/fhir/Patient/p{n}"), &patient).await;
        }
        server.stop().await;
        let (code, out, error) = program::output(db, &["doctor", "explain", "Patient?gender=male&family=F7&_sort=birthdate"]);
        assert_eq!(code, Some(0), "{error}");
        assert!(out.contains("filter 1: is probed for each row; "), "{out}");
        assert!(out.contains("filter 2: drives; 1 rows"), "{out}");
        assert!(out.contains("FROM string") && out.contains("1 on the first page"), "{out}");
        let (code, out, _) = program::output(db, &["doctor", "explain", "Patient?gander=male"]);
        assert!(code == Some(1) && out.contains("gender"), "{out}");
        let (code, out, error) = program::output(db, &["doctor", "explain", "?_type=Patient,Group&_id=p1"]);
        assert!(code == Some(0) && out.contains("--- Group") && out.contains("1 on the first page"), "{out} {error}");
        let (code, out, error) = program::output(db, &["doctor", "explain", "http://h/fhir/Patient/p1/Observation?code=x"]);
        assert!(code == Some(0) && out.contains("filter 2: ") && out.contains("0 on the first page"), "{out} {error}");
    }
);
