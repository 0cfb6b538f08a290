//! The FHIR REST API as a client sees it.

use crate::support::server::answer;
use crate::support::{TestDb, TestServer, add_client, both_databases};
use flate2::{Compression, write::GzEncoder};
use lango::config::AuthMode;
use lango::validate::Level;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::io::Write;

fn patient(family: &str) -> Value {
    json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:s", "value": family }], "name": [{ "family": family }] })
}

fn request(server: &TestServer, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> RequestBuilder {
    let mut request = server.client.request(method, server.url(path));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/fhir+json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match body {
        Some(body) => request.body(body.to_string()),
        None => request,
    }
}

/// `(status, code, expression)` of an OperationOutcome's first issue.
fn problem((status, outcome): (u16, Value)) -> (u16, String, String) {
    assert_eq!(outcome["resourceType"], "OperationOutcome", "{outcome}");
    let issue = &outcome["issue"][0];
    assert!(issue["diagnostics"].as_str().is_some_and(|words| words.len() > 10), "{outcome}");
    (status, issue["code"].as_str().unwrap().to_owned(), issue["expression"][0].as_str().unwrap_or_default().to_owned())
}

both_databases!(
    async fn a_resource_lives_through_its_versions(db: &TestDb) {
        let server = TestServer::open(db).await;
        let created = request(&server, Method::POST, "/fhir/Patient", &[], Some(&patient("Juma"))).send().await.unwrap();
        assert_eq!(created.status(), 201);
        assert_eq!(created.headers()["etag"], "W/\"1\"");
        let location = created.headers()["location"].to_str().unwrap().to_owned();
        let stored: Value = created.json().await.unwrap();
        let id = stored["id"].as_str().unwrap();
        assert_eq!(location, server.url(&format!("/fhir/Patient/{id}/_history/1")));
        assert_eq!(stored["meta"]["versionId"], "1");
        assert_eq!(stored["meta"]["lastUpdated"].as_str().unwrap().len(), 27);
        let path = format!("/fhir/Patient/{id}");
        assert_eq!(server.get(&path).await, (200, stored.clone()));

        let modified = server.client.get(server.url(&path)).send().await.unwrap().headers()["last-modified"].to_str().unwrap().to_owned();
        for (name, value, status) in
            [("if-none-match", "W/\"1\"", 304), ("if-none-match", "W/\"2\"", 200), ("if-modified-since", modified.as_str(), 304)]
        {
            let answer = request(&server, Method::GET, &path, &[(name, value)], None).send().await.unwrap();
            assert_eq!(answer.status(), status, "{name}: {value}");
            assert_eq!(answer.bytes().await.unwrap().is_empty(), status == 304);
        }

        let mut changed = patient("Juma");
        changed["id"] = json!(id);
        changed["active"] = json!(true);
        let (status, second) = server.put(&path, &changed).await;
        assert_eq!((status, &second["meta"]["versionId"]), (200, &json!("2")));
        assert_eq!(server.put(&path, &second).await, (200, second.clone()), "a put that changes nothing makes no version");
        assert_eq!(server.get(&format!("{path}/_history/1")).await, (200, stored));

        for expected in [204, 204] {
            assert_eq!(request(&server, Method::DELETE, &path, &[], None).send().await.unwrap().status(), expected);
        }
        assert_eq!(problem(server.get(&path).await).0, 410);
        assert_eq!(problem(server.get(&format!("{path}/_history/3")).await).0, 410);
        assert_eq!(problem(server.get(&format!("{path}/_history/4")).await).0, 404);
        assert_eq!(server.get("/fhir/Patient?identifier=urn:s|Juma").await.1["total"], 0);
        assert_eq!(server.put(&path, &changed).await.0, 201, "a put restores");

        let (_, history) = server.get(&format!("{path}/_history?_count=3")).await;
        let methods: Vec<&str> =
            history["entry"].as_array().unwrap().iter().map(|entry| entry["request"]["method"].as_str().unwrap()).collect();
        assert_eq!((history["total"].as_i64(), methods), (Some(4), vec!["PUT", "DELETE", "PUT"]));
        let next =
            history["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap().to_owned();
        let (_, rest) = server.get(next.strip_prefix(&server.base).unwrap()).await;
        assert_eq!(rest["entry"].as_array().unwrap().len(), 1);
        assert!(!rest["link"].as_array().unwrap().iter().any(|link| link["relation"] == "next"));
        server.stop().await;
    }
);

both_databases!(
    async fn conditions_are_kept(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut body = patient("Asha");
        body["id"] = json!("p1");
        let put = |headers: &'static [(&'static str, &'static str)], body: Value| {
            answer(request(&server, Method::PUT, "/fhir/Patient/p1", headers, Some(&body)))
        };
        assert_eq!(problem(put(&[("if-match", "W/\"1\"")], body.clone()).await).0, 412, "nothing is there");
        assert_eq!(put(&[("if-none-match", "*")], body.clone()).await.0, 201);
        assert_eq!(problem(put(&[("if-none-match", "*")], body.clone()).await).0, 412);
        // A condition that is not understood is not passed over.
        assert_eq!(problem(put(&[("if-none-match", "W/\"7\"")], body.clone()).await).0, 400);
        assert_eq!(problem(put(&[("if-none-match", "*"), ("if-match", "W/\"1\"")], body.clone()).await).0, 400);
        body["active"] = json!(false);
        assert_eq!(put(&[("if-match", "W/\"1\"")], body.clone()).await.0, 200);
        assert_eq!(problem(put(&[("if-match", "W/\"1\"")], body.clone()).await).0, 412);
        assert_eq!(problem(put(&[("if-match", "abc")], body.clone()).await).0, 400);

        let create = |criteria: &'static str| {
            answer(request(&server, Method::POST, "/fhir/Patient", &[("if-none-exist", criteria)], Some(&patient("Asha"))))
        };
        let (status, existing) = create("identifier=urn:s|Asha").await;
        assert_eq!((status, &existing["id"]), (200, &json!("p1")));
        assert_eq!(create("identifier=urn:s|none").await.0, 201);
        assert_eq!(problem(create("identifier=urn:s|Asha").await).1, "multiple-matches");
        assert_eq!(problem(create("idntifier=urn:s|Asha").await).0, 400);

        assert_eq!(server.put("/fhir/Patient?identifier=urn:s|new", &patient("new")).await.0, 201);
        let mut new = patient("new");
        new["active"] = json!(true);
        let (status, updated) = server.put("/fhir/Patient?identifier=urn:s|new", &new).await;
        assert_eq!((status, &updated["meta"]["versionId"]), (200, &json!("2")));
        assert_eq!(problem(server.put("/fhir/Patient?identifier=urn:s|Asha", &patient("Asha")).await).0, 412);
        let delete = |query: &'static str| answer(request(&server, Method::DELETE, query, &[], None));
        assert_eq!(problem(delete("/fhir/Patient?identifier=urn:s|Asha").await).0, 412);
        assert_eq!(delete("/fhir/Patient?identifier=urn:s|new").await.0, 204);
        assert_eq!(delete("/fhir/Patient?identifier=urn:s|new").await.0, 204);
        assert_eq!(problem(delete("/fhir/Patient").await).0, 400);
        assert_eq!(server.get("/fhir/Patient?_summary=count").await.1["total"], 2);

        // If-Match takes several versions, and * for any; a conditional delete keeps it too.
        assert_eq!(put(&[("if-match", "W/\"1\", W/\"2\"")], body.clone()).await.0, 200);
        assert_eq!(put(&[("if-match", "*")], body.clone()).await.0, 200);
        body["id"] = json!("p2");
        let absent = request(&server, Method::PUT, "/fhir/Patient/p2", &[("if-match", "*")], Some(&body));
        assert_eq!(problem(answer(absent).await), (412, "conflict".into(), "Patient".into()));
        assert_eq!(server.put("/fhir/Patient/p3", &json!({ "resourceType": "Patient", "id": "p3", "gender": "other" })).await.0, 201);
        let delete = |tag: &'static str| answer(request(&server, Method::DELETE, "/fhir/Patient?gender=other", &[("if-match", tag)], None));
        assert_eq!(problem(delete("W/\"2\"").await).0, 412);
        assert_eq!(server.get("/fhir/Patient/p3").await.0, 200);
        assert_eq!(delete("W/\"1\"").await.0, 204);
        assert_eq!(problem(delete("*").await).0, 412, "nothing is there");

        // What cannot be found exactly cannot be a condition.
        assert_eq!(problem(create("").await).0, 400);
        let long = "v".repeat(900);
        let criteria = format!("identifier=urn:s|{long}");
        for _ in 0..2 {
            let twin = request(&server, Method::POST, "/fhir/Patient", &[("if-none-exist", &criteria)], Some(&patient(&long)));
            assert_eq!(problem(answer(twin).await).1, "too-long");
        }
        // Nothing matches, and the id is somebody else's.
        body["id"] = json!("p1");
        let (status, code, _) = problem(server.put("/fhir/Patient?identifier=urn:s|nobody", &body).await);
        assert_eq!((status, code.as_str()), (409, "conflict"));
        server.stop().await;
    }
);

both_databases!(
    async fn racing_updates_lose_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        let resource = |n: usize| json!({ "resourceType": "Patient", "id": "p", "multipleBirthInteger": n });
        let racers = (0..24).map(|n| {
            let server = &server;
            async move { server.put("/fhir/Patient/p", &resource(n)).await }
        });
        let answers = futures_util::future::join_all(racers).await;
        assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 201)), "{answers:?}");
        assert_eq!(server.get("/fhir/Patient/p/_history").await.1["total"], 24);
        server.stop().await;
    }
);

both_databases!(
    async fn what_is_wrong_is_named(db: &TestDb) {
        let server = TestServer::open(db).await;
        let bad = json!({ "resourceType": "Patient", "birthDate": "26-1-1", "foo": 1, "gender": "man" });
        let (status, outcome) = server.post("/fhir/Patient", &bad).await;
        let mut places: Vec<&str> =
            outcome["issue"].as_array().unwrap().iter().map(|issue| issue["expression"][0].as_str().unwrap()).collect();
        places.sort_unstable();
        assert_eq!((status, places), (422, vec!["Patient.birthDate", "Patient.foo", "Patient.gender"]));
        assert!(!outcome.to_string().contains("26-1-1"), "values are not quoted");

        assert_eq!(
            problem(server.put("/fhir/Patient/a", &json!({ "resourceType": "Patient", "id": "b" })).await),
            (400, "invalid".into(), "Patient.id".into())
        );
        assert_eq!(
            problem(server.put("/fhir/Patient/a", &json!({ "resourceType": "Patient" })).await),
            (400, "invalid".into(), "Patient.id".into())
        );
        assert_eq!(problem(server.post("/fhir/Patient", &json!({ "resourceType": "Observation" })).await).0, 400);
        assert_eq!(problem(server.get("/fhir/Patient/none").await).0, 404);
        assert_eq!(problem(server.get("/fhir/Alien/none").await).0, 404);
        assert_eq!(problem(server.get("/fhir/Patient/a/b/c").await).0, 404);
        assert_eq!(problem(server.get("/nowhere").await).0, 404);
        assert_eq!(problem(server.get("/fhir/Patient/a_b").await).0, 400);
        assert_eq!(problem(server.get("/fhir/Patient/$nothing").await).0, 404);
        let post = request(&server, Method::POST, "/fhir/Patient/a", &[], None).send().await.unwrap();
        assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD, PUT, PATCH, DELETE"));
        assert_eq!(problem(answer(request(&server, Method::GET, "/fhir/Patient", &[("accept", "image/png")], None)).await).0, 406);
        let csv = request(&server, Method::POST, "/fhir/Patient", &[("content-type", "text/csv")], Some(&patient("x")));
        assert_eq!(problem(answer(csv).await).0, 415);
        assert_eq!(
            problem(answer(request(&server, Method::GET, "/fhir/Patient?nothing=1", &[("prefer", "handling=strict")], None)).await).0,
            400
        );
        server.stop().await;
    }
);

both_databases!(
    async fn prefer_decides_what_comes_back(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (prefer, expected) in
            [("return=minimal", None), ("return=representation", Some("Patient")), ("return=OperationOutcome", Some("OperationOutcome"))]
        {
            let answer = request(&server, Method::POST, "/fhir/Patient", &[("prefer", prefer)], Some(&patient("x"))).send().await.unwrap();
            assert_eq!(answer.status(), 201);
            assert!(answer.headers().contains_key("location"));
            let body: Option<Value> = serde_json::from_slice(&answer.bytes().await.unwrap()).ok();
            assert_eq!(body.as_ref().and_then(|body| body["resourceType"].as_str()), expected);
        }
        server.stop().await;
    }
);

both_databases!(
    async fn pages_go_on_in_the_form_that_the_url_asked_for(db: &TestDb) {
        let server = TestServer::open(db).await;
        for id in ["a", "b", "c"] {
            server.put(&format!("/fhir/Patient/{id}"), &json!({ "resourceType": "Patient", "id": id })).await;
            let subject = json!({ "resourceType": "Basic", "id": id, "code": { "text": "x" }, "subject": { "reference": "Patient/a" } });
            server.put(&format!("/fhir/Basic/{id}"), &subject).await;
        }
        let form = [("content-type", "application/x-www-form-urlencoded")];
        for (method, path, body) in [
            (Method::GET, "Patient?_count=1&_format=xml&_pretty=true", ""),
            (Method::GET, "?_type=Patient,Basic&_count=1&_pretty=true&_format=application/fhir%2Bxml", ""),
            (Method::GET, "Patient/_history?_format=xml&_count=1&_pretty=true", ""),
            (Method::GET, "Patient/a/$everything?_count=1&_format=xml&_pretty=true", ""),
            (Method::GET, "Patient/a/*?_count=1&_format=xml&_pretty=true", ""),
            (Method::POST, "Patient/_search?_format=xml&_pretty=true", "_count=1"),
            (Method::POST, "Patient/_search?_format=json", "_count=1&_pretty=true&_format=xml"),
            (Method::POST, "Patient/_search?_format=xml", "_count=1&_pretty=true"),
        ] {
            let post = request(&server, method, &format!("/fhir/{path}"), if body.is_empty() { &[] } else { &form }, None);
            let first = post.body(body).send().await.unwrap();
            assert_eq!(first.status(), 200, "{path}");
            let text = first.text().await.unwrap();
            let (_, next) = text.split_once("<relation value=\"next\"/>").unwrap_or_else(|| panic!("{path}: {text}"));
            let next = next.split('"').nth(1).unwrap().replace("&amp;", "&");
            let next = server.client.get(next).send().await.unwrap();
            let (status, text) = (next.status().as_u16(), next.text().await.unwrap());
            assert!(status == 200 && text.starts_with("<Bundle xmlns=\"http://hl7.org/fhir\">\n  <id "), "{path}: {text}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn xml_goes_in_and_comes_out(db: &TestDb) {
        let server = TestServer::open(db).await;
        let xml = r#"<Patient xmlns="http://hl7.org/fhir"><id value="x"/><name><family value="Juma &amp; Co"/></name></Patient>"#;
        let put = server.client.put(server.url("/fhir/Patient/x")).header("content-type", "application/fhir+xml").body(xml);
        assert_eq!(put.send().await.unwrap().status(), 201);
        assert_eq!(server.get("/fhir/Patient/x").await.1["name"][0]["family"], "Juma & Co");
        let answer = request(&server, Method::GET, "/fhir/Patient?_format=xml&_id=x", &[], None).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/fhir+xml; charset=utf-8");
        let text = answer.text().await.unwrap();
        assert!(text.contains("<Bundle") && text.contains("Juma &amp; Co"), "{text}");
        let missing =
            request(&server, Method::GET, "/fhir/Patient/none", &[("accept", "application/fhir+xml")], None).send().await.unwrap();
        assert_eq!(missing.status(), 404);
        assert!(missing.text().await.unwrap().contains("<OperationOutcome"));
        let post = |xml: &str| {
            self::answer(
                server.client.post(server.url("/fhir/Patient")).header("content-type", "application/fhir+xml").body(xml.to_owned()),
            )
        };
        assert_eq!(problem(post("<Patient").await).0, 400);
        assert_eq!(
            post(r#"<?xml-stylesheet href="a"?><f:Patient xmlns:f="http://hl7.org/fhir"><f:active value="true"/></f:Patient>"#).await.0,
            201
        );
        // What is well formed and no FHIR is refused in the words in which JSON is.
        for (json, inside) in [
            (json!({ "birthdate": "2000" }), r#"<birthdate value="2000"/>"#),
            (json!({ "active": "TRUE" }), r#"<active value="TRUE"/>"#),
            (json!({ "multipleBirthInteger": "a" }), r#"<multipleBirthInteger value="a"/>"#),
        ] {
            let mut resource = json!({ "resourceType": "Patient" });
            resource.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
            let told = post(&format!(r#"<Patient xmlns="http://hl7.org/fhir">{inside}</Patient>"#)).await;
            assert_eq!(told, server.post("/fhir/Patient", &resource).await);
            assert_eq!(told.0, 422);
        }
        let attribute = post(r#"<Patient xmlns="http://hl7.org/fhir"><active value="true" foo="1"/></Patient>"#).await;
        assert_eq!(problem(attribute), (422, "structure".to_owned(), "Patient.active".to_owned()));
        server.stop().await;
    }
);

/// A patient with this narrative and this family name.
fn told(div: &str, family: &str) -> Value {
    json!({ "resourceType": "Patient", "id": "p", "text": { "status": "generated", "div": div }, "name": [{ "family": family }] })
}

fn div(inside: &str) -> String {
    format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{inside}</div>")
}

/// What the server tells of `path` as XML, read back as JSON.
async fn as_xml(server: &TestServer, path: &str) -> (String, Value) {
    let answer = request(server, Method::GET, path, &[("accept", "application/fhir+xml")], None).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/fhir+xml; charset=utf-8");
    let xml = answer.text().await.unwrap();
    let read = lango::fhir::xml::to_json(xml.as_bytes()).unwrap_or_else(|error| panic!("{error}: {xml}"));
    (xml, serde_json::from_slice(&read).unwrap())
}

both_databases!(
    async fn what_a_put_takes_comes_out_as_xml_that_reads_back(db: &TestDb) {
        let server = TestServer::open(db).await;
        let taken = [
            (div("a&nbsp;b &hellip; &amp;nbsp;"), div("a\u{A0}b … &amp;nbsp;")),
            ("<div>x</div>".to_owned(), div("x")),
            (
                div("<!-- a - b --><p title='a>b'>salt &amp; water ]]&gt; &#160;</p>"),
                div("<!-- a - b --><p title='a>b'>salt &amp; water ]]&gt; &#160;</p>"),
            ),
            (format!(" {}\n", div("a\r\nb")), div("a\nb")),
        ];
        for (sent, kept) in taken {
            let put = server.put("/fhir/Patient/p", &told(&sent, "\u{FDD0}0\u{FDD0} <&>\n\t\"")).await;
            assert!(put.0 < 300, "{put:?}");
            let (_, stored) = server.get("/fhir/Patient/p").await;
            assert_eq!((&stored["text"]["div"], &stored["name"][0]["family"]), (&json!(kept), &json!("\u{FDD0}0\u{FDD0} <&>\n\t\"")));
            let (xml, read) = as_xml(&server, "/fhir/Patient/p").await;
            assert_eq!(read, stored, "{xml}");
            assert_eq!(as_xml(&server, "/fhir/Patient?_id=p").await.1["entry"][0]["resource"], stored);
            let again = server.client.put(server.url("/fhir/Patient/p")).header("content-type", "application/fhir+xml").body(xml);
            let (status, again) = answer(again).await;
            assert_eq!((status, &again["text"], &again["name"]), (200, &stored["text"], &stored["name"]));
        }
        let validated = server.post("/fhir/Patient/$validate", &told(&div("&nbsp;"), "x")).await.1;
        let issue = validated["issue"].as_array().unwrap().iter().find(|issue| issue["expression"][0] == "Patient.text.div");
        assert_eq!(issue.unwrap()["severity"], "warning");
        for refused in [
            "salt & water",
            "&foo;",
            "&#0;&#x1;",
            "a ]]> b",
            "<!-- a -- b -->x",
            "<p class='a' class='b'>x</p>",
            "<p class=a>x</p>",
            "<p title='a<b'>x</p>",
            "<?x y?>z",
            "<![CDATA[<b>]]>z",
            "<x:p>x</x:p>",
            "<p x:y='1'>x</p>",
            "a\u{1}",
            "a\u{FFFF}",
        ] {
            let (status, _, expression) = problem(server.put("/fhir/Patient/p", &told(&div(refused), "x")).await);
            assert_eq!((status, expression.as_str()), (422, "Patient.text.div"), "{refused}");
        }
        let (status, _, expression) = problem(server.put("/fhir/Patient/p", &told(&div("x"), "a\u{FFFE}")).await);
        assert_eq!((status, expression.as_str()), (422, "Patient.name[0].family"));
        // A text that looks like a place of another's narrative is a text.
        let other = json!({ "resourceType": "Patient", "id": "q", "name": [{ "given": ["\u{FDD0}0\u{FDD0}"] }] });
        assert_eq!(server.put("/fhir/Patient/q", &other).await.0, 201);
        let page = as_xml(&server, "/fhir/Patient?_id=p,q&_sort=_id").await.1;
        assert_eq!(page["entry"][1]["resource"]["name"], other["name"]);
        server.stop().await;
    }
);

both_databases!(
    async fn what_was_stored_unchecked_is_told_as_xml(db: &TestDb) {
        // As earlier versions stored it.
        let server = TestServer::start(db, |settings| (settings.auth, settings.validation) = (AuthMode::Open, Level::Off)).await;
        for (sent, read) in [
            (div("salt & water \u{1}"), div("salt &amp; water \u{FFFD}")),
            (
                div("<p class='a' class='b'>x</p>"),
                div("&lt;div xmlns=&quot;http://www.w3.org/1999/xhtml&quot;&gt;&lt;p class='a' class='b'&gt;x&lt;/p&gt;&lt;/div&gt;"),
            ),
        ] {
            assert!(server.put("/fhir/Patient/p", &told(&sent, "a\u{FFFE}")).await.0 < 300);
            let (_, stored) = server.get("/fhir/Patient/p").await;
            assert_eq!(stored["text"]["div"], sent);
            let page = as_xml(&server, "/fhir/Patient?_id=p").await.1;
            let patient = &page["entry"][0]["resource"];
            assert_eq!((&patient["text"]["div"], &patient["name"][0]["family"]), (&json!(read), &json!("a\u{FFFD}")));
        }
        server.stop().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bodies_are_the_senders_error() {
    let db = TestDb::sqlite();
    let server = TestServer::open(&db).await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut zeros = GzEncoder::new(Vec::new(), Compression::fast());
    let block = vec![0u8; 1 << 20];
    for _ in 0..1000 {
        zeros.write_all(&block).unwrap();
    }
    let zeros = zeros.finish().unwrap();
    let text = patient("x").to_string().repeat(50);
    let mut truncated = gzip(text.as_bytes());
    truncated.truncate(truncated.len() / 2);
    let many = format!(r#"{{"resourceType":"Bundle","type":"batch","entry":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    let deep = format!(r#"{{"resourceType":"Patient","contact":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let observation = r#"{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1e999999}}"#;
    let cases: Vec<(&str, &str, Vec<u8>, bool, u16)> = vec![
        ("a bomb", "/fhir", zeros, true, 413),
        ("truncated gzip", "/fhir/Patient", truncated, true, 400),
        ("no gzip", "/fhir/Patient", text.clone().into_bytes(), true, 400),
        ("deep nesting", "/fhir/Patient", deep.clone().into_bytes(), false, 400),
        ("a deep Bundle", "/fhir", deep.into_bytes(), false, 400),
        ("broken UTF-8", "/fhir/Patient", b"{\"resourceType\":\"Patient\",\"id\":\"\xff\"}".to_vec(), false, 400),
        ("a key twice", "/fhir/Patient", b"{\"resourceType\":\"Patient\",\"gender\":\"male\",\"gender\":\"female\"}".to_vec(), false, 400),
        ("a million entries", "/fhir", many.into_bytes(), false, 413),
        ("NaN", "/fhir/Observation", b"{\"resourceType\":\"Observation\",\"valueQuantity\":{\"value\":NaN}}".to_vec(), false, 400),
        ("a number without end", "/fhir/Observation", observation.as_bytes().to_vec(), false, 422),
        ("the year 0", "/fhir/Patient", b"{\"resourceType\":\"Patient\",\"birthDate\":\"0000\"}".to_vec(), false, 422),
        ("the year 99999", "/fhir/Patient", b"{\"resourceType\":\"Patient\",\"birthDate\":\"99999-01-01\"}".to_vec(), false, 422),
        ("nothing", "/fhir/Patient", Vec::new(), false, 400),
        ("a number", "/fhir/Patient", b"1".to_vec(), false, 400),
        ("an empty object", "/fhir", b"{}".to_vec(), false, 400),
    ];
    for (what, path, body, compressed, expected) in cases {
        let mut post = server.client.post(server.url(path)).header("content-type", "application/fhir+json").body(body);
        if compressed {
            post = post.header("content-encoding", "gzip");
        }
        assert_eq!(problem(answer(post).await).0, expected, "{what}");
        assert_eq!(server.get("/fhir/Patient?_summary=count").await.1["total"], 0, "after {what}");
    }
    server.stop().await;
}

both_databases!(
    async fn the_capability_statement_tells_the_truth(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (status, statement) = server.get("/fhir/metadata").await;
        assert_eq!((status, &statement["fhirVersion"], &statement["kind"]), (200, &json!("4.0.1"), &json!("instance")));
        let issues = server.post("/fhir/CapabilityStatement/$validate", &statement).await.1;
        // Warnings about what is only recommended may stand beside it.
        assert_eq!(issues["issue"][0]["severity"], "information", "{issues}");
        let (_, summary) = server.get("/fhir/metadata?_summary=true").await;
        assert_eq!((&summary["meta"]["tag"][0]["code"], summary.get("text")), (&json!("SUBSETTED"), None), "{summary:.300}");
        assert_eq!((server.get("/fhir/metadata?_elements=software").await.1["software"]["name"]).as_str(), Some("lango"));
        let resources = statement["rest"][0]["resource"].as_array().unwrap();
        assert!(resources.len() > 140);
        for resource in resources {
            let name = resource["type"].as_str().unwrap();
            let (status, bundle) = server.get(&format!("/fhir/{name}?_count=1")).await;
            assert_eq!((status, bundle["type"].as_str()), (200, Some("searchset")), "{name}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_search_may_be_posted_and_a_head_has_no_body(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p", "gender": "female", "active": true })).await;
        for (form, total) in [("gender=female", 1), ("gender=male", 0)] {
            let post = server
                .client
                .post(server.url("/fhir/Patient/_search?active=true"))
                .header("content-type", "application/x-www-form-urlencoded");
            assert_eq!(answer(post.body(form)).await.1["total"], total, "{form}");
        }
        let json_form = request(&server, Method::POST, "/fhir/Patient/_search", &[], Some(&json!({})));
        assert_eq!(problem(answer(json_form).await).0, 415);
        let head = request(&server, Method::HEAD, "/fhir/Patient/p", &[], None).send().await.unwrap();
        assert_eq!((head.status().as_u16(), head.headers()["etag"].to_str().unwrap()), (200, "W/\"1\""));
        assert!(head.bytes().await.unwrap().is_empty());
        let form = server.client.post(server.url("/fhir/Patient/_search")).header("content-type", "application/x-www-form-urlencoded");
        let xml = form.header("x-request-id", "ours-7").body("_id=p&_format=xml").send().await.unwrap();
        assert_eq!(xml.headers()["content-type"], "application/fhir+xml; charset=utf-8");
        assert_eq!(xml.headers()["x-request-id"], "ours-7", "told back");
        let varies = xml
            .headers()
            .get_all("vary")
            .iter()
            .any(|value| value.to_str().unwrap().to_ascii_lowercase().split(", ").any(|name| name == "accept"));
        assert!(varies, "what is answered depends on Accept");
        assert_eq!(problem(server.get("/fhir/Patient/none").await), (404, "not-found".into(), "Patient".into()));
        server.stop().await;
    }
);

both_databases!(
    async fn a_map_that_is_put_translates_at_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        let map = |target: &str| {
            json!({
                "resourceType": "ConceptMap", "id": "m", "url": "http://example.org/m", "status": "active",
                "group": [{ "source": "urn:a", "target": "urn:b", "element": [{ "code": "1", "target": [{ "code": target, "equivalence": "equal" }] }] }],
            })
        };
        let translated = |server: &TestServer| {
            let url = server.url("/fhir/ConceptMap/$translate?url=http://example.org/m&system=urn:a&code=1");
            let client = server.client.clone();
            async move { answer(client.get(url)).await }
        };
        assert_eq!(problem(translated(&server).await).0, 404);
        for target in ["one", "two"] {
            assert!(server.put("/fhir/ConceptMap/m", &map(target)).await.0 < 300);
            let (status, answer) = translated(&server).await;
            assert_eq!(status, 200, "{answer}");
            assert!(answer.to_string().contains(&format!("\"code\":\"{target}\"")), "{answer}");
        }
        assert_eq!(request(&server, Method::DELETE, "/fhir/ConceptMap/m", &[], None).send().await.unwrap().status(), 204);
        assert_eq!(problem(translated(&server).await).0, 404);
        server.stop().await;
    }
);

both_databases!(
    async fn a_facility_changes_only_its_own(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let mut tokens = Vec::new();
        for (id, facility) in [("emr-a", "A"), ("emr-b", "B")] {
            let secret = add_client(db, id, facility, "system/*.cruds").await;
            tokens.push(format!("Bearer {}", server.token(id, &secret).await));
        }
        let call = |who: usize, method: Method, path: &'static str, body: Option<Value>| {
            answer(request(&server, method, path, &[("authorization", tokens[who].as_str())], body.as_ref()))
        };
        let mine = json!({ "resourceType": "Patient", "id": "p", "active": true });
        assert_eq!(call(0, Method::PUT, "/fhir/Patient/p", Some(mine.clone())).await.0, 201);
        assert_eq!(problem(call(1, Method::GET, "/fhir/Patient/p", None).await).0, 404);
        assert_eq!(problem(call(1, Method::GET, "/fhir/Patient/p/_history", None).await).0, 404);
        assert_eq!(problem(call(1, Method::GET, "/fhir/Patient/p/_history/1", None).await).0, 404);
        assert_eq!(call(1, Method::DELETE, "/fhir/Patient/p", None).await.0, 204, "as if it were not there");
        assert_eq!(problem(call(1, Method::PUT, "/fhir/Patient/p", Some(mine.clone())).await).0, 409);
        assert_eq!(call(1, Method::GET, "/fhir/Patient", None).await.1["total"], 0);
        assert_eq!(call(0, Method::GET, "/fhir/Patient/p", None).await.1["meta"]["versionId"], "1");
        // Nobody says that another facility sent it.
        let from = |facility: &str| json!({ "resourceType": "Patient", "id": "p", "meta": { "source": format!("urn:lango:facility:{facility}") } });
        assert_eq!(call(0, Method::PUT, "/fhir/Patient/p", Some(from("A"))).await.0, 200);
        let refused = call(0, Method::PUT, "/fhir/Patient/p", Some(from("B"))).await;
        assert!(refused.1.to_string().contains("meta.source"), "{}", refused.1);
        assert_eq!(problem(refused).0, 403);
        let map = json!({ "resourceType": "ConceptMap", "id": "m", "status": "active" });
        assert_eq!(problem(call(0, Method::PUT, "/fhir/ConceptMap/m", Some(map)).await).0, 403);
        server.stop().await;
    }
);

both_databases!(
    async fn a_patients_compartment_is_searched_by_type(db: &TestDb) {
        let server = TestServer::open(db).await;
        let observation = |id: &str, subject: &str, performer: &str| {
            json!({
                "resourceType": "Observation", "id": id, "status": "final", "code": { "coding": [{ "system": "urn:s", "code": id }] },
                "subject": { "reference": subject }, "performer": [{ "reference": performer }],
            })
        };
        for (id, subject, performer) in [
            ("o1", "Patient/a", "Practitioner/x"),
            ("o2", "Patient/b", "Patient/a"),
            ("o3", "Patient/b", "Practitioner/x"),
            ("o4", "Patient/a", "Patient/a"),
        ] {
            assert_eq!(server.put(&format!("/fhir/Observation/{id}"), &observation(id, subject, performer)).await.0, 201);
        }
        let ids = |bundle: &Value| -> Vec<String> {
            let entries = bundle["entry"].as_array().into_iter().flatten();
            entries.map(|entry| entry["resource"]["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&server.get("/fhir/Patient/a/Observation").await.1), ["o1", "o2", "o4"]);
        assert_eq!(ids(&server.get("/fhir/Patient/a/Observation?code=urn:s|o2").await.1), ["o2"]);
        let (_, first) = server.get("/fhir/Patient/a/Observation?_count=2&_total=accurate").await;
        assert_eq!((ids(&first), &first["total"]), (vec!["o1".to_owned(), "o2".to_owned()], &json!(3)));
        let next = first["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap();
        let next = next.strip_prefix(&server.base).unwrap();
        assert!(next.starts_with("/fhir/Patient/a/Observation?"), "{next}");
        assert_eq!(ids(&server.get(next).await.1), ["o4"]);
        assert_eq!(server.get(&next.replace("/Patient/a/", "/Patient/b/")).await.0, 400, "a token belongs to its compartment");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let post = request(&server, Method::POST, "/fhir/Patient/a/Observation/_search?_count=9", &form, None).body("code=o4,o3");
        assert_eq!(ids(&answer(post).await.1), ["o4"]);
        assert_eq!(ids(&server.get("/fhir/Patient/none/Observation").await.1), Vec::<String>::new());
        assert_eq!(problem(server.get("/fhir/Patient/a/Medication").await).0, 404);
        let put = request(&server, Method::PUT, "/fhir/Patient/a/Observation", &[], Some(&json!({}))).send().await.unwrap();
        assert_eq!((put.status().as_u16(), put.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
        server.stop().await;
    }
);

both_databases!(
    async fn a_binary_is_served_and_taken_as_it_is(db: &TestDb) {
        let server = TestServer::open(db).await;
        let page = b"<script>alert(1)</script>\xff";
        let native = |method: Method, path: &str, headers: &[(&str, &str)]| {
            let request = server.client.request(method, server.url(path));
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        let html = ("content-type", "text/html; charset=utf-8");
        let put = native(Method::PUT, "/fhir/Binary/b", &[html, ("x-security-context", "Patient/p")]).body(page.to_vec());
        assert_eq!(answer(put).await.0, 201);
        let (_, stored) = server.get("/fhir/Binary/b").await;
        assert_eq!(stored["contentType"], "text/html; charset=utf-8");
        assert_eq!(stored["securityContext"], json!({ "reference": "Patient/p" }));

        for context in ["rubbish", "", "#x", "Nothing/1", "Patient/"] {
            let put = native(Method::PUT, "/fhir/Binary/b", &[html, ("x-security-context", context)]).body("x");
            assert_eq!(problem(answer(put).await).0, 400, "{context}");
        }

        // Anything but a form of FHIR gets the bytes, which nothing runs.
        for accept in ["*/*", "text/html", "image/png", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"] {
            for path in ["/fhir/Binary/b", "/fhir/Binary/b/_history/1"] {
                let read = native(Method::GET, path, &[("accept", accept)]).send().await.unwrap();
                assert_eq!(read.status(), 200, "{accept}");
                for (name, value) in [
                    ("content-type", "text/html; charset=utf-8"),
                    ("content-disposition", "attachment"),
                    ("x-content-type-options", "nosniff"),
                    ("content-security-policy", "default-src 'none'; sandbox"),
                    ("x-security-context", "Patient/p"),
                    ("etag", "W/\"1\""),
                ] {
                    assert_eq!(read.headers()[name], value, "{name}");
                }
                assert_eq!(read.bytes().await.unwrap(), page.as_slice());
            }
        }
        for headers in [&[("accept", "application/fhir+json")][..], &[("accept", "application/json")]] {
            assert_eq!(answer(native(Method::GET, "/fhir/Binary/b", headers)).await.1["resourceType"], "Binary");
        }
        assert_eq!(answer(native(Method::GET, "/fhir/Binary/b?_format=json", &[])).await.1["resourceType"], "Binary");
        assert_eq!(native(Method::GET, "/fhir/Binary/b", &[("if-none-match", "W/\"1\"")]).send().await.unwrap().status(), 304);
        assert_eq!(
            answer(native(Method::GET, "/fhir/Binary/none", &[("accept", "text/plain")])).await.1["resourceType"],
            "OperationOutcome"
        );

        // New content that says nothing of whose it is takes no protection away; a stale one is refused.
        let put = |headers: &[(&str, &str)]| answer(native(Method::PUT, "/fhir/Binary/b", headers).body("two"));
        assert_eq!(put(&[("content-type", "text/plain"), ("if-match", "W/\"7\"")]).await.0, 412);
        assert_eq!(put(&[("content-type", "text/plain")]).await.0, 200);
        let (_, stored) = server.get("/fhir/Binary/b").await;
        assert_eq!((&stored["securityContext"]["reference"], &stored["data"]), (&json!("Patient/p"), &json!("dHdv")));

        // A create: bytes of any kind, another resource as content, a Binary as what it is; what is broken is refused.
        let post = |content_type: &'static str, body: &'static str| {
            answer(native(Method::POST, "/fhir/Binary", &[("content-type", content_type)]).body(body))
        };
        for (content_type, body, kept) in [
            ("application/pdf", "%PDF", "application/pdf"),
            ("application/xml", "<ClinicalDocument/>", "application/xml"),
            ("application/fhir+json", r#"{"resourceType":"Patient"}"#, "application/fhir+json"),
            ("application/fhir+json", r#"{"resourceType":"Binary","contentType":"a/b"}"#, "a/b"),
        ] {
            let (status, made) = post(content_type, body).await;
            assert_eq!((status, &made["contentType"]), (201, &json!(kept)), "{made}");
        }
        assert_eq!(problem(post("application/fhir+json", "{").await).0, 400);
        assert_eq!(problem(post("x", "y").await).0, 415);
        // Base64 as lenient encoders write it.
        let loose = json!({ "resourceType": "Binary", "id": "loose", "contentType": "text/plain", "data": "YR==" });
        assert_eq!(server.put("/fhir/Binary/loose", &loose).await.0, 201);
        assert_eq!(native(Method::GET, "/fhir/Binary/loose", &[]).send().await.unwrap().text().await.unwrap(), "a");
        server.stop().await;
    }
);

both_databases!(
    async fn a_binary_whose_data_cannot_be_read_is_told_as_a_resource(db: &TestDb) {
        let server = TestServer::start(db, |settings| (settings.auth, settings.validation) = (AuthMode::Open, Level::Off)).await;
        let broken = json!({ "resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "%%%" });
        assert_eq!(server.put("/fhir/Binary/b", &broken).await.0, 201);
        let response = server.client.get(server.url("/fhir/Binary/b")).header("accept", "*/*").send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().contains_key("warning")), (200, true));
        assert_eq!(response.json::<Value>().await.unwrap()["data"], "%%%");
        server.stop().await;
    }
);
