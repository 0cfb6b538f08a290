//! PATCH in all its forms.

use crate::support::server::answer;
use crate::support::{TestServer, both_databases};
use base64::Engine as _;
use serde_json::{Value, json};

async fn patch(server: &TestServer, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let mut request = server.client.patch(server.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

const JSON_PATCH: (&str, &str) = ("content-type", "application/json-patch+json");

fn replace_gender(gender: &str) -> String {
    json!([{ "op": "test", "path": "/resourceType", "value": "Patient" }, { "op": "add", "path": "/gender", "value": gender }]).to_string()
}

fn parameters(kind: &str, path: &str, more: Vec<Value>) -> Value {
    let mut parts = vec![json!({ "name": "type", "valueCode": kind }), json!({ "name": "path", "valueString": path })];
    parts.extend(more);
    json!({ "resourceType": "Parameters", "parameter": [{ "name": "operation", "part": parts }] })
}

both_databases!(
    async fn a_resource_is_patched_by_id_and_by_criteria(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient =
            json!({ "resourceType": "Patient", "id": "p", "identifier": [{ "system": "urn:s", "value": "1" }], "gender": "male" });
        assert_eq!(server.put("/fhir/Patient/p", &patient).await.0, 201);
        let (status, patched) = patch(&server, "/fhir/Patient/p", &[JSON_PATCH], &replace_gender("female")).await;
        assert_eq!((status, &patched["gender"], &patched["meta"]["versionId"]), (200, &json!("female"), &json!("2")), "{patched}");
        assert_eq!(server.get("/fhir/Patient?gender=female&_summary=count").await.1["total"], 1, "the index follows");
        let (status, same) = patch(&server, "/fhir/Patient/p", &[JSON_PATCH], &replace_gender("female")).await;
        assert_eq!((status, &same["meta"]["versionId"]), (200, &json!("2")), "nothing changed");

        let by_path = parameters("replace", "Patient.gender", vec![json!({ "name": "value", "valueCode": "other" })]);
        let json_form = [("content-type", "application/fhir+json"), ("prefer", "return=minimal")];
        assert_eq!(patch(&server, "/fhir/Patient?identifier=urn:s|1", &json_form, &by_path.to_string()).await.0, 200);
        assert_eq!(server.get("/fhir/Patient/p").await.1["gender"], "other");
        let xml = r#"<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="operation"/><part><name value="type"/><valueCode value="delete"/></part><part><name value="path"/><valueString value="Patient.gender"/></part></parameter></Parameters>"#;
        let (status, patched) = patch(&server, "/fhir/Patient/p", &[("content-type", "application/fhir+xml")], xml).await;
        assert_eq!((status, patched.get("gender")), (200, None), "{patched}");
        assert_eq!(server.put("/fhir/Patient/p", &patient).await.0, 200);
        for path in ["/fhir/Patient/p/_history", "/fhir/Patient/_history", "/fhir/_history?_since=2000"] {
            let (_, history) = server.get(path).await;
            let of_it = |entry: &&Value| entry["resource"]["id"] == "p";
            let entries = history["entry"].as_array().unwrap().iter().filter(of_it);
            let told: Vec<&str> = entries.map(|entry| entry["request"]["method"].as_str().unwrap()).collect();
            assert_eq!(told, ["PUT", "PATCH", "PATCH", "PATCH", "PUT"], "{path}");
        }

        let fails = async |path: &str, headers: &[(&str, &str)], body: &str| {
            let (status, outcome) = patch(&server, path, headers, body).await;
            assert_eq!(outcome["resourceType"], "OperationOutcome", "{outcome}");
            status
        };
        let right = replace_gender("male");
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH, ("if-match", "W/\"1\"")], &right).await, 412);
        assert_eq!(fails("/fhir/Patient/none", &[JSON_PATCH], &right).await, 404);
        let (status, outcome) = patch(&server, "/fhir/Patient?identifier=urn:s|none", &[JSON_PATCH], &right).await;
        let words = outcome["issue"][0]["diagnostics"].as_str().unwrap();
        assert!(status == 404 && words.contains("criteria") && !words.contains("id."), "{outcome}");
        assert_eq!(fails("/fhir/Patient", &[JSON_PATCH], &right).await, 400);
        assert_eq!(fails("/fhir/Patient/p", &[("content-type", "application/xml-patch+xml")], &right).await, 415);
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH], "{}").await, 400);
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH], "[").await, 400);
        let test = json!([{ "op": "test", "path": "/id", "value": "q" }]).to_string();
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH], &test).await, 422);
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH], &replace_gender("man")).await, 422, "what comes out is checked");
        assert_eq!(
            fails("/fhir/Patient/p", &[JSON_PATCH], &json!([{ "op": "replace", "path": "/id", "value": "q" }]).to_string()).await,
            422
        );
        server.post("/fhir/Patient", &patient).await;
        assert_eq!(fails("/fhir/Patient?identifier=urn:s|1", &[JSON_PATCH], &right).await, 412);
        assert_eq!(answer(server.client.delete(server.url("/fhir/Patient/p"))).await.0, 204);
        assert_eq!(fails("/fhir/Patient/p", &[JSON_PATCH], &right).await, 410);
        server.stop().await;
    }
);

both_databases!(
    async fn a_bundle_patches_with_a_binary_and_with_parameters(db: &TestDb) {
        let server = TestServer::open(db).await;
        for id in ["a", "b"] {
            let patient = json!({ "resourceType": "Patient", "id": id, "identifier": [{ "system": "urn:s", "value": id }] });
            assert_eq!(server.put(&format!("/fhir/Patient/{id}"), &patient).await.0, 201);
        }
        let binary = |patch: &str| json!({ "resourceType": "Binary", "contentType": "application/json-patch+json", "data": base64::engine::general_purpose::STANDARD.encode(patch) });
        let organization = json!([{ "op": "add", "path": "/managingOrganization", "value": { "reference": "urn:uuid:org" } }]).to_string();
        let entries = json!([
            { "request": { "method": "PATCH", "url": "Patient/a", "ifMatch": "W/\"1\"" }, "resource": binary(&organization) },
            { "request": { "method": "PATCH", "url": "Patient?identifier=urn:s|b" }, "resource": parameters("add", "Patient", vec![json!({ "name": "name", "valueString": "active" }), json!({ "name": "value", "valueBoolean": true })]) },
            { "fullUrl": "urn:uuid:org", "request": { "method": "POST", "url": "Organization" }, "resource": { "resourceType": "Organization", "name": "O" } },
        ]);
        let (status, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })).await;
        assert_eq!((status, &response["entry"][0]["response"]["etag"]), (200, &json!("W/\"2\"")), "{response}");
        assert_eq!(server.get("/fhir/Patient?organization.name=O&_summary=count").await.1["total"], 1, "its urn is rewritten");
        assert_eq!(server.get("/fhir/Patient/b").await.1["active"], true);

        let wrong = json!([
            { "request": { "method": "PATCH", "url": "Patient/a" }, "resource": binary("[]x") },
            { "request": { "method": "PATCH", "url": "Patient/b" }, "resource": parameters("replace", "Patient.photo", vec![json!({ "name": "value", "valueString": "x" })]) },
            { "request": { "method": "PATCH", "url": "Patient/none" }, "resource": parameters("delete", "Patient.photo", vec![]) },
            { "request": { "method": "POST", "url": "Organization" }, "resource": { "resourceType": "Organization", "name": "P" } },
        ]);
        let (status, outcome) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "transaction", "entry": wrong })).await;
        let places: Vec<&str> = outcome["issue"].as_array().unwrap().iter().map(|issue| issue["expression"][0].as_str().unwrap()).collect();
        assert_eq!(status, 400, "{outcome}");
        assert_eq!(places, ["Bundle.entry[0].resource.data", "Bundle.entry[1].resource.parameter[0]", "Bundle.entry[2].request.url"]);
        let (_, response) = server.post("/fhir", &json!({ "resourceType": "Bundle", "type": "batch", "entry": wrong })).await;
        let statuses: Vec<&str> =
            response["entry"].as_array().unwrap().iter().map(|entry| &entry["response"]["status"].as_str().unwrap()[..3]).collect();
        assert_eq!(statuses, ["400", "422", "404", "201"]);
        server.stop().await;
    }
);

both_databases!(
    async fn patches_that_race_all_take_effect(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = json!({ "resourceType": "Patient", "id": "p", "name": [{ "given": ["start"] }] });
        assert_eq!(server.put("/fhir/Patient/p", &patient).await.0, 201);
        let racers = (0..24).map(|n| {
            let body = json!([{ "op": "add", "path": "/name/0/given/-", "value": format!("n{n}") }]).to_string();
            let server = &server;
            async move { patch(server, "/fhir/Patient/p", &[JSON_PATCH], &body).await.0 }
        });
        let statuses = futures_util::future::join_all(racers).await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert_eq!(server.get("/fhir/Patient/p").await.1["name"][0]["given"].as_array().unwrap().len(), 25);
        server.stop().await;
    }
);

both_databases!(
    async fn a_primitive_gets_an_extension_by_fhirpath_patch(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = json!({ "resourceType": "Patient", "id": "p", "birthDate": "2000", "name": [{ "given": ["Asha", "Neema"] }] });
        assert_eq!(server.put("/fhir/Patient/p", &patient).await.0, 201);
        let form = [("content-type", "application/fhir+json")];
        let add = async |path: &str, name: &str, value: Value| {
            let mut value = value;
            value["name"] = json!("value");
            let more = vec![json!({ "name": "name", "valueString": name }), value];
            patch(&server, "/fhir/Patient/p", &form, &parameters("add", path, more).to_string()).await
        };
        let extension = |text: &str| json!({ "valueExtension": { "url": "urn:x", "valueString": text } });
        assert_eq!(add("Patient.birthDate", "extension", extension("a")).await.0, 200);
        assert_eq!(add("Patient.birthDate", "extension", extension("b")).await.0, 200);
        assert_eq!(add("Patient.birthDate", "id", json!({ "valueString": "born" })).await.0, 200);
        assert_eq!(add("Patient.name.given[1]", "extension", extension("c")).await.0, 200);
        let (_, stored) = server.get("/fhir/Patient/p").await;
        let one = |text: &str| json!({ "url": "urn:x", "valueString": text });
        assert_eq!(stored["_birthDate"], json!({ "extension": [one("a"), one("b")], "id": "born" }));
        assert_eq!((&stored["birthDate"], &stored["name"][0]["given"]), (&json!("2000"), &json!(["Asha", "Neema"])));
        assert_eq!(stored["name"][0]["_given"], json!([null, { "extension": [one("c")] }]));
        assert_eq!(server.get("/fhir/Patient/p/_history/5").await.0, 200, "each was a version");
        assert_eq!(add("Patient.birthDate", "id", json!({ "valueString": "again" })).await.0, 422, "it has one");
        assert_eq!(add("Patient.birthDate", "extension", json!({ "valueString": "x" })).await.0, 422);
        assert_eq!(add("Patient.birthDate", "value", json!({ "valueString": "x" })).await.0, 422);
        let broken = r#"[{"op": "remove", "path": "/nope"}]"#;
        let (status, outcome) = patch(&server, "/fhir/Patient/p", &[JSON_PATCH], broken).await;
        assert_eq!((status, &outcome["issue"][0]["expression"]), (422, &json!(["Patient"])), "{outcome}");
        server.stop().await;
    }
);
