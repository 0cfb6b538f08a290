//! Requests that somebody gets wrong on the first day: each is answered with the right status and words that say what to do, and names
//! the parameter or element that it is about.

use crate::support::{TestServer, answer, both_databases};
use reqwest::Method;
use serde_json::{Value, json};

/// Method and URL after the base, what is sent, and what comes back: the status, `expression` of the first issue, words of it.
type Wrong = (&'static str, &'static str, Sent, u16, &'static str, &'static str);

enum Sent {
    Nothing,
    Json(Value),
    Text(&'static str),
    /// With a header besides.
    With(&'static str, &'static str, Value),
}
use Sent::{Json, Nothing, Text, With};

fn searches() -> Vec<Wrong> {
    vec![
        ("GET", "Patient?birthdate=01/02/2020", Nothing, 400, "Patient?birthdate", "write YYYY"),
        ("GET", "Patient?birthdate=2020-13-40", Nothing, 400, "Patient?birthdate", "write YYYY"),
        ("GET", "Patient?_lastUpdated=now", Nothing, 400, "Patient?_lastUpdated", "write YYYY"),
        ("GET", "RiskAssessment?probability=high", Nothing, 400, "RiskAssessment?probability", "write digits"),
        ("GET", "Patient?gender:foo=x", Nothing, 400, "Patient?gender:foo", "takes :missing, :not"),
        ("GET", "Patient?name:exat=x", Nothing, 400, "Patient?name:exat", "did you mean 'exact'?"),
        ("GET", "Patient?gender:exact=male", Nothing, 400, "Patient?gender:exact", "is a token parameter and takes"),
        ("GET", "Patient?name:missing=maybe", Nothing, 400, "Patient?name:missing", "true or false"),
        ("GET", "Patient?identifier=a|b|c", Nothing, 400, "Patient?identifier", "write \\|"),
        ("GET", "Patient?_id=a%20b", Nothing, 400, "Patient?_id", "1 to 64 letters"),
        ("GET", "Patient?_count=ten", Nothing, 400, "Patient?_count", "whole number"),
        ("GET", "Patient?_total=yes", Nothing, 400, "Patient?_total", "none, estimate, accurate"),
        ("GET", "Patient?_summary=all", Nothing, 400, "Patient?_summary", "true, text, data, count, false"),
        ("GET", "Patient?_include=subject", Nothing, 400, "Patient?_include", "Type:parameter"),
        ("GET", "Patient?_cursor=abc", Nothing, 400, "_cursor", "follow the links"),
        ("GET", "Observation?subject.nam=x", Nothing, 400, "Observation?subject.nam", "'nam'"),
        ("GET", "Observation?subject:Patint.name=x", Nothing, 400, "Observation?subject:Patint.name", "did you mean 'Patient'?"),
        ("GET", "Observation?subject=Foo/1", Nothing, 400, "Observation?subject", "no R4 resource type"),
        ("GET", "Observation?code:in=http://nosuch", Nothing, 400, "Observation?code:in", "PUT ValueSet"),
        ("GET", "Observation?code:below=zq9", Nothing, 400, "Observation?code:below", "write system|code"),
        ("GET", "Observation?value-quantity=gt5|mg", Nothing, 400, "Observation?value-quantity", "number|system|code"),
        ("GET", "Observation?code-value-quantity=8867-4", Nothing, 400, "Observation?code-value-quantity", "joined by $"),
        ("GET", "Patient?_has:Observation:code=x", Nothing, 400, "Patient?_has:Observation:code", "_has:Type:reference-parameter"),
        ("GET", "Location?near=abc", Nothing, 400, "Location?near", "latitude|longitude"),
        ("GET", "Patient?_filter=name%20eq", Nothing, 400, "Patient?_filter", "a value is expected"),
        (
            "GET",
            "Patient?_filter=gender:not%20eq%20male",
            Nothing,
            400,
            "Patient?_filter",
            "'gender' has the modifier ':not'; _filter compares by",
        ),
        ("GET", "Patient?_filter=gender:bogus%20eq%20male", Nothing, 400, "Patient?_filter", "':bogus', which is no modifier either"),
        ("GET", "Patient?_filter=_id:not%20eq%20x", Nothing, 400, "Patient?_filter", "modifier ':not'"),
        ("GET", "Patient?_filter=name:%20eq%20x", Nothing, 400, "Patient?_filter", "modifier ':'"),
        ("GET", "Patient?_filter=birthdate:missing%20pr%20true", Nothing, 400, "Patient?_filter", "modifier ':missing'"),
        ("GET", "Patient?_filter=organization:Practitioner%20eq%20Organization/o", Nothing, 400, "Patient?_filter", "its type as Type/id"),
        ("GET", "Observation?_filter=subject:Patient.name:exact%20eq%20X", Nothing, 400, "Observation?_filter", "modifier ':exact'"),
        ("GET", "Patient?_filter=_has:Observation:subject:code:not%20eq%20x", Nothing, 400, "Patient?_filter", "modifier ':not'"),
        ("DELETE", "Patient?_filter=gender:not%20eq%20male", Nothing, 400, "Patient?_filter", "modifier ':not'"),
        ("GET", "_search", Nothing, 405, "", "POST"),
        ("GET", "", Nothing, 400, "", "Say what to look for"),
        ("GET", "?_type=Patiend", Nothing, 400, "_type", "Patient"),
        ("POST", "Patient/_search", Json(json!({ "name": "x" })), 415, "", "x-www-form-urlencoded"),
        ("GET", "Patient/_history?_since=yesterday", Nothing, 400, "_since", "instant"),
    ]
}

fn addresses() -> Vec<Wrong> {
    vec![
        ("GET", "patient", Nothing, 404, "", "is Patient meant?"),
        ("GET", "Patients/p1", Nothing, 404, "", "is Patient meant?"),
        ("GET", "Nothing", Nothing, 404, "", "/fhir/metadata"),
        ("GET", "Patient/a_b", Nothing, 400, "", "1 to 64 letters"),
        ("GET", "Patient/nosuch", Nothing, 404, "Patient", "check the type and the id"),
        ("GET", "Patient/p1/_history/99", Nothing, 404, "Patient", "check the type and the id"),
        ("GET", "Patient/p1/$foo", Nothing, 404, "", "/fhir/metadata"),
        ("GET", "Patient/p1?_format=pdf", Nothing, 406, "", "application/fhir+json"),
        ("POST", "Patient/p1", Json(json!({ "resourceType": "Patient", "id": "p1" })), 405, "", "PUT"),
        ("DELETE", "Patient", Nothing, 400, "", "criteria after a question mark"),
    ]
}

fn bodies() -> Vec<Wrong> {
    let patient = || json!({ "resourceType": "Patient", "active": true });
    let with = |member: &str, value: Value| {
        let mut patient = patient();
        patient[member] = value;
        Json(patient)
    };
    vec![
        ("POST", "Patient", Text("{\"resourceType\":\"Patient\",}"), 400, "", "no valid JSON"),
        ("POST", "Patient", Json(json!({ "active": true })), 400, "Patient.resourceType", "must say its type"),
        ("POST", "Patient", Json(json!([])), 400, "Patient.resourceType", "JSON object"),
        ("POST", "Patient", Json(json!({ "resourceType": "Basic" })), 400, "Patient.resourceType", "says otherwise"),
        ("POST", "Patient", with("nam", json!("x")), 422, "Patient.nam", "is name meant?"),
        ("POST", "Patient", with("gender", json!("M")), 422, "Patient.gender", "male, female, other, unknown"),
        ("POST", "Patient", with("birthDate", json!("01/02/2020")), 422, "Patient.birthDate", "YYYY-MM-DD"),
        ("POST", "Patient", with("name", json!({ "family": "x" })), 422, "Patient.name", "must be an array"),
        ("POST", "Patient", with("active", json!("true")), 422, "Patient.active", "without quotes"),
        ("POST", "Patient", with("name", Value::Null), 422, "Patient.name", "leave the element out"),
        (
            "POST",
            "Observation",
            Json(json!({ "resourceType": "Observation", "code": { "text": "x" } })),
            422,
            "Observation.status",
            "required",
        ),
        ("POST", "Patient", With("content-type", "text/csv", json!("a")), 415, "", "application/fhir+json"),
        ("PUT", "Patient/p1", Json(json!({ "resourceType": "Patient", "id": "p2" })), 400, "Patient.id", "not the id in the URL"),
        ("PUT", "Patient/p1", Json(patient()), 400, "Patient.id", "needs the resource's id"),
        ("PUT", "Patient/p1", With("if-match", "abc", json!({ "resourceType": "Patient", "id": "p1" })), 400, "", "W/\"3\""),
        (
            "PUT",
            "Patient/p1",
            With("if-match", "W/\"99\"", json!({ "resourceType": "Patient", "id": "p1" })),
            412,
            "Patient",
            "read it again",
        ),
        ("PUT", "Patient?identifier=urn:w|1", Json(patient()), 412, "Patient", "narrow them"),
        ("PUT", "Patient?nam=x", Json(patient()), 400, "Patient?nam", "did you mean 'name'?"),
        ("POST", "Patient", With("if-none-exist", "identifier=", patient()), 400, "Patient?identifier", "a value is empty"),
        ("POST", "Patient?nam=x", Json(patient()), 400, "Patient?nam", "did you mean 'name'?"),
        ("PATCH", "Patient/p1", Json(patient()), 400, "Patient", "Parameters"),
        ("PATCH", "Patient/p1", Text(""), 400, "Patient", "JSON"),
        (
            "PATCH",
            "Patient/p1",
            With("content-type", "application/json-patch+json", json!([{ "op": "set", "path": "/active" }])),
            400,
            "Patient",
            "must be add",
        ),
        (
            "PATCH",
            "Patient/p1",
            With("content-type", "application/json-patch+json", json!([{ "op": "add", "path": "/gender", "value": "M" }])),
            422,
            "Patient.gender",
            "male, female",
        ),
    ]
}

fn bundles() -> Vec<Wrong> {
    let transaction = |entry: Value| Json(json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] }));
    let patient = json!({ "resourceType": "Patient", "active": true });
    let observed = |subject: &str| {
        let observation =
            json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" }, "subject": { "reference": subject } });
        transaction(json!({ "resource": observation, "request": { "method": "POST", "url": "Observation" } }))
    };
    let subject = "Bundle.entry[0].resource.subject.reference";
    vec![
        ("POST", "", Json(patient.clone()), 400, "Bundle", "their type's URL"),
        ("POST", "", Json(json!({ "resourceType": "Bundle", "type": "searchset" })), 400, "Bundle.type", "transaction or batch"),
        ("POST", "Bundle", transaction(json!({ "fullUrl": "urn:uuid:x", "resource": patient })), 422, "Bundle.type", "sent to the base"),
        ("POST", "", transaction(json!({ "resource": patient })), 400, "Bundle.entry[0].request", "needs a request"),
        (
            "POST",
            "",
            transaction(json!({ "resource": patient, "request": { "method": "FETCH", "url": "Patient" } })),
            400,
            "Bundle.entry[0].request.method",
            "GET, HEAD, POST",
        ),
        (
            "POST",
            "",
            transaction(json!({ "resource": patient, "request": { "method": "POST", "url": "Observation" } })),
            400,
            "Bundle.entry[0].resource.resourceType",
            "of type Observation",
        ),
        ("POST", "", observed("Patient?identifier=none"), 412, subject, "send the resource that is meant first"),
        ("POST", "", observed("Patient?identifier=urn:w|1"), 412, subject, "narrow them"),
    ]
}

/// What is wrong with the answer, if anything.
async fn problem(server: &TestServer, wrong: Wrong) -> Option<String> {
    let (method, path, sent, status, expression, words) = wrong;
    let url = server.url(&format!("/fhir/{path}"));
    let request = server.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
    let typed = |text: String| request.try_clone().unwrap().header("content-type", "application/fhir+json").body(text);
    let request = match sent {
        Nothing => request,
        Text(text) => typed(text.to_owned()),
        Json(body) => typed(body.to_string()),
        With("content-type", value, body) => request.header("content-type", value).body(body.to_string()),
        With(name, value, body) => typed(body.to_string()).header(name, value),
    };
    let (answered, outcome) = answer(request).await;
    let issue = &outcome["issue"][0];
    let said = (answered, issue["expression"][0].as_str().unwrap_or(""));
    let told = issue["diagnostics"].as_str().is_some_and(|diagnostics| diagnostics.contains(words));
    let right = said == (status, expression) && told && outcome["resourceType"] == "OperationOutcome" && issue["severity"] == "error";
    (!right).then(|| format!("{method} {path}: expected {status} {expression:?} {words:?}, but it is {answered} {issue}"))
}

both_databases!(
    async fn a_wrong_request_is_told_what_to_do(db: &TestDb) {
        let server = TestServer::open(db).await;
        for id in ["p1", "p2"] {
            let patient = json!({ "resourceType": "Patient", "id": id, "identifier": [{ "system": "urn:w", "value": "1" }] });
            assert_eq!(server.put(&format!("/fhir/Patient/{id}"), &patient).await.0, 201);
        }
        let mut problems = Vec::new();
        for wrong in [searches(), addresses(), bodies(), bundles()].into_iter().flatten() {
            problems.extend(problem(&server, wrong).await);
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        assert_eq!(server.get("/fhir/Patient?_summary=count").await.1["total"], 2, "nothing wrong was stored");
        server.stop().await;
    }
);

both_databases!(
    async fn what_a_lenient_search_left_out_is_in_its_answer(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (query, words) in [
            ("nam=x", "Patient has no search parameter 'nam'; did you mean 'name'? It was ignored."),
            ("_sort=nam", "to sort by; did you mean 'name'? It was ignored."),
            ("_elements=nam", "Patient has no element 'nam'; did you mean 'name'? It was ignored."),
            ("_include=Patient:foo", "Patient has no reference parameter 'foo'. It was ignored."),
            ("_include=Observation:subject", "write _include:iterate"),
            ("_type=Observation", "_type has no place in a search of one type"),
            ("birthdate=", "the parameter has no value. It was ignored."),
        ] {
            let (status, bundle) = server.get(&format!("/fhir/Patient?{query}")).await;
            let issue = &bundle["entry"][0]["resource"]["issue"][0];
            assert_eq!((status, &bundle["entry"][0]["search"]["mode"]), (200, &json!("outcome")), "{query}: {bundle}");
            assert!(issue["diagnostics"].as_str().unwrap().contains(words), "{query}: {issue}");
            assert_eq!(issue["expression"][0], format!("Patient?{}", query.split_once('=').unwrap().0));
            let strict = server.client.get(server.url(&format!("/fhir/Patient?{query}"))).header("prefer", "handling=strict");
            assert_eq!(answer(strict).await.0, 400, "{query}");
        }
        // Slashes at the end are nothing to stumble over.
        assert_eq!(server.get("/fhir/Patient/?_summary=count").await.1["total"], 0);
        assert_eq!(server.get("/fhir/Patient/none/").await.1["issue"][0]["code"], "not-found");
        server.stop().await;
    }
);
