//! What nests deeply, and what has no XML form: it is refused before it is stored, or it is told; nothing that was done is told as failed.

use crate::support::{TestDb, TestServer, answer, both_databases, eventually};
use lango::config::AuthMode;
use lango::definitions;
use lango::store::gate::{About, Traits};
use lango::store::write::Change;
use lango::store::{Mutation, Store, Unit};
use lango::validate::Level;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

const XML: (&str, &str) = ("accept", "application/fhir+xml");
const FHIRPATH_PATCH: (&str, &str) = ("content-type", "application/fhir+json");

/// So many extensions within each other: two levels each, and one for the resource.
fn nested(id: &str, extensions: usize) -> Value {
    let innermost = json!({ "url": "urn:x", "valueString": "1" });
    let extension = (1..extensions).fold(innermost, |inner, _| json!({ "url": "urn:x", "extension": [inner] }));
    json!({ "resourceType": "Patient", "id": id, "extension": [extension], "name": [{ "family": "Mushi" }] })
}

/// As deep as is stored.
const DEEPEST: usize = 59;

/// Status, headers and text of an answer.
async fn send(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, HeaderMap, String) {
    let mut request = server.client.request(method.parse().unwrap(), server.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.headers().clone(), response.text().await.unwrap())
}

fn transaction(entries: Value) -> Value {
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })
}

/// Whether all of these are answered in every form.
async fn told_in_every_form(server: &TestServer, paths: &[&str]) {
    for path in paths {
        let sign = if path.contains('?') { '&' } else { '?' };
        let (status, _, text) = send(server, "GET", &format!("{path}{sign}_pretty=true"), &[], "").await;
        assert!(status == 200 && text.starts_with("{\n  \""), "{path}: {status} {text}");
        let (status, headers, text) = send(server, "GET", path, &[XML], "").await;
        assert!(status == 200 && text.starts_with('<'), "{path}: {status} {text}");
        assert_eq!(headers.get("warning"), None, "{path}");
    }
}

both_databases!(
    async fn what_nests_deeper_than_answers_can_tell_is_refused_with_its_place(db: &TestDb) {
        let server = TestServer::open(db).await;
        assert_eq!(server.put("/fhir/Patient/p", &nested("p", DEEPEST)).await.0, 201);
        let place = format!("Patient{}", ".extension[0]".repeat(DEEPEST));
        let too_deep = |outcome: &Value, within: &str| {
            let issue = &outcome["issue"][0];
            let at = issue["expression"][0].as_str().unwrap_or_default();
            assert!(at.starts_with(&place.replacen("Patient", within, 1)), "{outcome}");
            assert_eq!((&issue["code"], outcome["issue"].as_array().unwrap().len()), (&json!("too-long"), 1), "{outcome}");
        };
        for extensions in [DEEPEST + 1, 63] {
            let (status, outcome) = server.put("/fhir/Patient/q", &nested("q", extensions)).await;
            assert_eq!(status, 422, "{outcome}");
            too_deep(&outcome, "Patient");
            let put = |id: &str, extensions: usize| json!({ "resource": nested(id, extensions), "request": { "method": "PUT", "url": format!("Patient/{id}") } });
            let (status, outcome) = server.post("/fhir", &transaction(json!([put("r", 1), put("q", extensions.min(62))]))).await;
            assert_eq!(status, 422, "{outcome}");
            too_deep(&outcome, "Bundle.entry[1].resource");
        }
        let (status, outcome) = server.put("/fhir/Patient/q", &nested("q", 64)).await;
        assert_eq!(status, 400);
        assert!(outcome["issue"][0]["diagnostics"].as_str().unwrap().contains("more than 127 objects and lists"), "{outcome}");

        // As XML, which counts elements: of what is no resource for the JSON reader either, the place is told too.
        for extensions in [DEEPEST + 1, 63, 64, 100, 130] {
            let (open, close) = ("<extension url=\"urn:x\">".repeat(extensions), "</extension>".repeat(extensions));
            let xml = format!("<Patient xmlns=\"http://hl7.org/fhir\"><id value=\"q\"/>{open}<valueString value=\"1\"/>{close}</Patient>");
            let (status, _, text) = send(&server, "PUT", "/fhir/Patient/q", &[("content-type", "application/fhir+xml")], &xml).await;
            assert!(status == 422 && text.contains(&place) && !text.contains("JSON"), "{extensions}: {status} {text}");
        }
        assert_eq!(server.get("/fhir/Patient/q").await.0, 404, "nothing of it was stored");

        // A patch makes nothing deeper either.
        let deeper = json!({ "url": "urn:x", "extension": [{ "url": "urn:x", "valueString": "2" }] });
        let pointer = "/extension/0".repeat(DEEPEST - 1) + "/extension/-";
        let json_patch = json!([{ "op": "add", "path": pointer, "value": deeper }]).to_string();
        let path = format!("Patient{}", ".extension[0]".repeat(DEEPEST - 1));
        let part = |name: &str, key: &str, value: Value| json!({ "name": name, key: value });
        let parts = [
            part("type", "valueCode", json!("add")),
            part("path", "valueString", json!(path)),
            part("name", "valueString", json!("extension")),
            part("value", "valueExtension", deeper.clone()),
        ];
        let fhirpath_patch = json!({ "resourceType": "Parameters", "parameter": [{ "name": "operation", "part": parts }] }).to_string();
        let merge_patch = json!({ "extension": nested("p", 61)["extension"] }).to_string();
        for (content_type, patch) in [
            ("application/json-patch+json", &json_patch),
            ("application/fhir+json", &fhirpath_patch),
            ("application/merge-patch+json", &merge_patch),
        ] {
            let (status, _, text) = send(&server, "PATCH", "/fhir/Patient/p", &[("content-type", content_type)], patch).await;
            assert!(status == 422 && text.contains("nested too deep"), "{content_type}: {status} {text}");
        }
        assert_eq!(server.get("/fhir/Patient/p").await.1["meta"]["versionId"], "1");

        // What is as deep as is stored is told wherever it stands.
        let search = json!({ "resourceType": "Bundle", "type": "batch",
            "entry": [{ "request": { "method": "GET", "url": "Patient?_id=p" } }, { "request": { "method": "GET", "url": "Patient/p/_history" } }] });
        let json_form = ("content-type", "application/fhir+json");
        let (status, _, text) = send(&server, "POST", "/fhir?_pretty=true", &[json_form], &search.to_string()).await;
        assert!(status == 200 && text.contains("Mushi") && text.starts_with("{\n"), "{status} {text}");
        let (status, headers, text) = send(&server, "POST", "/fhir", &[json_form, XML], &search.to_string()).await;
        assert!(status == 200 && text.starts_with('<') && headers.get("warning").is_none(), "{status} {text}");
        let paths = ["/fhir/Patient/p", "/fhir/Patient?_id=p", "/fhir/Patient/_history", "/fhir/_history", "/fhir/Patient/p/$everything"];
        told_in_every_form(&server, &paths).await;
        server.stop().await;
    }
);

/// Stores a Patient that nests deeper than anything that is taken now, as older versions did.
async fn store_deep(db: &TestDb, id: &str, extensions: usize) {
    let store = Store::open(&db.url).await.unwrap();
    let mut resource = nested(id, extensions);
    resource["meta"] = json!({ "versionId": "1", "lastUpdated": "2026-01-01T00:00:00.000000Z" });
    let change =
        Change::Put { body: serde_json::to_vec(&resource).unwrap(), stamp_at: usize::MAX, entries: Vec::new(), old_entries: Vec::new() };
    let (type_code, id) = (definitions::r4().type_code("Patient").unwrap(), id.into());
    let (about, traits) = (About::Nobody, Traits::default());
    let mutation = Mutation { type_code, id, base_version: 0, change, owner: 0, listed: true, about, traits, rules: None };
    store.commit(Unit { mutations: vec![mutation], ..Unit::default() }).await.unwrap();
    store.close().await;
}

both_databases!(
    async fn what_was_stored_too_deep_takes_no_answer_with_it(db: &TestDb) {
        // The reader's guard stops at 127 levels.
        store_deep(db, "old", 125).await;
        let server = TestServer::open(db).await;
        assert_eq!(server.put("/fhir/Patient/p", &json!({ "resourceType": "Patient", "id": "p" })).await.0, 201);
        let paths = [
            "/fhir/Patient/old",
            "/fhir/Patient/old?_summary=text",
            "/fhir/Patient",
            "/fhir/Patient?_summary=data",
            "/fhir/Patient?_elements=extension",
            "/fhir/Patient/old/_history",
            "/fhir/_history",
            "/fhir/Patient/old/$meta",
            "/fhir/Patient/old/$validate",
        ];
        told_in_every_form(&server, &paths).await;
        let (_, _, text) = send(&server, "GET", "/fhir/Patient/old/$validate", &[], "").await;
        assert!(text.contains("nested too deep"), "{text}");

        // A change that leaves it as deep is refused; one that does not is made.
        let json_patch = ("content-type", "application/json-patch+json");
        let patch = json!([{ "op": "add", "path": "/active", "value": true }]).to_string();
        assert_eq!(send(&server, "PATCH", "/fhir/Patient/old", &[json_patch], &patch).await.0, 422);
        let parts =
            json!([{ "name": "type", "valueCode": "delete" }, { "name": "path", "valueString": "Patient.extension[0].extension[0]" }]);
        let patch = json!({ "resourceType": "Parameters", "parameter": [{ "name": "operation", "part": parts }] }).to_string();
        let (status, _, text) = send(&server, "PATCH", "/fhir/Patient/old", &[FHIRPATH_PATCH], &patch).await;
        assert_eq!(status, 200, "{text}");
        told_in_every_form(&server, &["/fhir/Patient/old/_history", "/fhir/Patient"]).await;
        assert_eq!(answer(server.client.delete(server.url("/fhir/Patient/old"))).await.0, 204);
        server.stop().await;
    }
);

both_databases!(
    async fn reindexing_says_what_it_cannot_read(db: &TestDb) {
        store_deep(db, "old", 125).await;
        store_deep(db, "unreadable", 150).await;
        let server = TestServer::open(db).await;
        let asked = json!({ "resourceType": "Parameters", "parameter": [{ "name": "type", "valueCode": "Patient" }] });
        assert_eq!(server.post("/fhir/$reindex", &asked).await.0, 202);
        let part = |told: &Value, name: &str| {
            let parts = told["parameter"][0]["part"].as_array().unwrap().clone();
            parts.into_iter().find(|part| part["name"] == name).map(|part| part.as_object().unwrap().values().nth(1).cloned().unwrap())
        };
        let told = eventually("it is indexed again", async || {
            let (_, told) = server.get("/fhir/$reindex").await;
            if part(&told, "state") == Some(json!("done")) { Ok(told) } else { Err(told) }
        })
        .await;
        assert_eq!((part(&told, "resources"), part(&told, "unread")), (Some(json!(2)), Some(json!(1))), "{told}");
        let (_, _, text) = send(&server, "GET", "/fhir/Patient?family=mushi&_elements=name", &[], "").await;
        assert!(text.contains("\"id\":\"old\"") && !text.contains("unreadable"), "{text}");
        // It is told as it is, wherever no form is made of it.
        for path in ["/fhir/Patient?_pretty=true", "/fhir/Patient?_summary=data", "/fhir/Patient/unreadable"] {
            assert_eq!(send(&server, "GET", path, &[], "").await.0, 200, "{path}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn what_has_no_xml_form_is_told_in_json_and_takes_it_from_nothing_else(db: &TestDb) {
        let server = TestServer::start(db, |settings| (settings.auth, settings.validation) = (AuthMode::Open, Level::Off)).await;
        let odd = json!({ "resourceType": "Patient", "foo": 1 });
        let sent = [("content-type", "application/fhir+json"), XML];
        let (status, headers, text) = send(&server, "POST", "/fhir/Patient", &sent, &odd.to_string()).await;
        assert_eq!(status, 201, "{text}");
        assert!(headers["location"].to_str().unwrap().contains("/Patient/") && headers["etag"] == "W/\"1\"");
        assert!(headers["content-type"].to_str().unwrap().contains("fhir+json") && text.contains("\"foo\":1"), "{text}");
        assert!(headers["warning"].to_str().unwrap().contains("no XML form"));
        let right = json!({ "resourceType": "Patient", "name": [{ "family": "Mushi" }] });
        let post = |resource: &Value| json!({ "resource": resource, "request": { "method": "POST", "url": "Patient" } });
        let whole = [("content-type", "application/fhir+json"), XML, ("prefer", "return=representation")];
        let (status, headers, text) =
            send(&server, "POST", "/fhir", &whole, &transaction(json!([post(&odd), post(&right)])).to_string()).await;
        assert!(status == 200 && text.starts_with("<Bundle") && headers.get("warning").is_none(), "{text}");
        assert_eq!((text.matches("201 Created").count(), text.matches("<OperationOutcome").count()), (2, 1), "{text}");
        told_in_every_form(&server, &["/fhir/Patient", "/fhir/Patient/_history", "/fhir/_history"]).await;
        let (_, _, page) = send(&server, "GET", "/fhir/Patient", &[XML], "").await;
        assert!(page.contains("<family value=\"Mushi\"/>") && page.matches("<OperationOutcome").count() == 2, "{page}");
        assert_eq!(server.put("/fhir/Patient/q", &nested("q", DEEPEST + 1)).await.0, 422, "too deep is too deep");
        server.stop().await;
    }
);
