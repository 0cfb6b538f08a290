//! Whatever comes in is the sender's error: a 4xx whose OperationOutcome says what is wrong, little memory, no panic, and the
//! next one is served.

use crate::support::{TestDb, TestServer, add_client, answer, both_databases, program::Running};
use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

const TEMPLATES: &str = "/api/v1/hduApi/dataTemplates";
const FHIR_JSON: &str = "application/fhir+json";
const FHIR_XML: &str = "application/fhir+xml";
/// MiB that the server may have had at most, whatever was sent; the bodies alone come to 64.
const MOST_MEMORY: u64 = 600;

/// The program under fire.
struct Server {
    running: Running,
    client: reqwest::Client,
    log: tempfile::NamedTempFile,
    /// What was answered otherwise than it should; all of it is told at the end.
    problems: Mutex<Vec<String>>,
}

impl Server {
    fn start(db: &TestDb) -> Server {
        let log = tempfile::NamedTempFile::new().unwrap();
        let running = Running::serve_logging(db, &["--auth", "open"], log.reopen().unwrap());
        let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).no_proxy().build().unwrap();
        Server { running, client, log, problems: Mutex::default() }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.running.base))
    }

    /// The request is refused with this status and with words, and the server goes on.
    async fn refuses(&self, what: &str, status: u16, request: reqwest::RequestBuilder) {
        let (got, outcome) = answer(request).await;
        self.check(what, status, got, &outcome);
        self.still_answers(what).await;
    }

    /// The same for bytes as they go over the wire, which no client library would send.
    async fn refuses_raw(&self, what: &str, status: u16, request: &[u8]) {
        let (got, body) = self.raw(request, false);
        self.check(what, status, got, &serde_json::from_str(&body).unwrap_or(Value::String(body)));
        self.still_answers(what).await;
    }

    fn check(&self, what: &str, expected: u16, status: u16, outcome: &Value) {
        if let Err(problem) = check(expected, status, outcome) {
            self.problems.lock().unwrap().push(format!("{what}: {problem}"));
        }
    }

    /// Status (0 without an answer) and body of the answer to these bytes; `hang_up` closes our side after them.
    fn raw(&self, request: &[u8], hang_up: bool) -> (u16, String) {
        let mut stream = TcpStream::connect(self.running.base.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request).unwrap();
        if hang_up {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").unwrap_or_default().1.to_owned())
    }

    async fn still_answers(&self, what: &str) {
        let (status, bundle) = answer(self.request(Method::GET, "/fhir/Patient?_summary=count")).await;
        assert_eq!((status, &bundle["total"]), (200, &json!(0)), "after {what}");
        let memory = self.running.peak_memory();
        if memory > MOST_MEMORY {
            self.problems.lock().unwrap().push(format!("{memory} MiB after {what}"));
        }
    }

    fn ends_well(self) {
        let problems = self.problems.into_inner().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        let bad: Vec<&str> = log.lines().filter(|line| line.contains("panicked") || line.contains("ERROR")).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        self.running.signal("TERM");
        assert_eq!(self.running.wait().0, Some(0));
    }
}

fn check(expected: u16, status: u16, outcome: &Value) -> Result<(), String> {
    let text = outcome.to_string();
    let shown: String = text.chars().take(400).collect();
    let told = |issue: &Value| {
        let severity = matches!(issue["severity"].as_str(), Some("error" | "fatal" | "warning" | "information"));
        severity && issue["diagnostics"].as_str().is_some_and(|words| words.len() > 10)
    };
    let issues = outcome["issue"].as_array().map_or(&[][..], Vec::as_slice);
    if status != expected {
        Err(format!("{status}, not {expected}: {shown}"))
    } else if outcome["resourceType"] != "OperationOutcome" || issues.is_empty() || !issues.iter().all(told) {
        Err(format!("{status} without words: {shown}"))
    } else if text.len() > 1 << 20 {
        Err(format!("an answer of {} bytes", text.len()))
    } else {
        Ok(())
    }
}

fn gzip(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    write(&mut encoder);
    encoder.finish().unwrap()
}

fn zeros() -> Vec<u8> {
    gzip(|encoder| {
        let block = vec![0u8; 1 << 20];
        (0..1024).for_each(|_| encoder.write_all(&block).unwrap());
    })
}

fn truncated() -> Vec<u8> {
    let mut whole = gzip(|encoder| (0..5000u32).for_each(|n| write!(encoder, "{{\"n\":{n}}}").unwrap()));
    whole.truncate(whole.len() / 2);
    whole
}

fn patient(inside: &str) -> Vec<u8> {
    format!(r#"{{"resourceType":"Patient",{inside}}}"#).into_bytes()
}

fn bundle(entry: &str) -> Vec<u8> {
    format!(r#"{{"resourceType":"Bundle","type":"transaction","entry":[{{"fullUrl":"urn:uuid:1","resource":{entry},"request":{{"method":"POST","url":"Patient"}}}}]}}"#)
        .into_bytes()
}

both_databases!(
    async fn bodies_that_no_honest_client_sends_are_refused(db: &TestDb) {
        let server = Server::start(db);
        let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        // (what, path, status, body)
        let cases: Vec<(&str, &str, u16, Vec<u8>)> = vec![
            ("nothing", "/fhir/Patient", 400, Vec::new()),
            ("nothing as a Bundle", "/fhir", 400, Vec::new()),
            ("white space", "/fhir/Patient", 400, b" \n\t ".to_vec()),
            ("deep lists", "/fhir/Patient", 400, patient(&format!(r#""contact":{}"#, deep("[", "]")))),
            ("deep objects", "/fhir/Patient", 400, patient(&format!(r#""contact":{}"#, deep("{\"a\":", "}")))),
            ("deep extensions", "/fhir/Patient", 400, patient(&format!(r#""extension":{}"#, deep("[{\"url\":\"x\",\"extension\":", "}]")))),
            ("a deep entry", "/fhir", 400, bundle(&deep("[", "]"))),
            ("nothing but opening", "/fhir", 400, "[".repeat(1_000_000).into_bytes()),
            ("broken UTF-8", "/fhir/Patient", 400, b"{\"resourceType\":\"Patient\",\"id\":\"\xff\xfe\"}".to_vec()),
            ("UTF-16", "/fhir/Patient", 400, "{\"resourceType\":\"Patient\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("half a surrogate", "/fhir/Patient", 400, patient(r#""name":[{"family":"\ud800"}]"#)),
            ("a NUL in a text", "/fhir/Patient", 422, patient(r#""name":[{"family":"a\u0000b"}]"#)),
            ("a key twice", "/fhir/Patient", 400, patient(r#""gender":"male","gender":"female""#)),
            ("a key twice, escaped", "/fhir/Patient", 400, patient(r#""gender":"male","gend\u0065r":"female""#)),
            ("a key twice deep inside", "/fhir", 400, bundle(r#"{"resourceType":"Patient","name":[{"family":"a","family":"b"}]}"#)),
            ("NaN", "/fhir/Observation", 400, b"{\"resourceType\":\"Observation\",\"valueQuantity\":{\"value\":NaN}}".to_vec()),
            ("infinity", "/fhir/Observation", 400, b"{\"resourceType\":\"Observation\",\"valueQuantity\":{\"value\":-Infinity}}".to_vec()),
            (
                "a number beyond all bounds",
                "/fhir/Observation",
                422,
                br#"{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueInteger":1e999999}"#.to_vec(),
            ),
            (
                "a number of a million digits",
                "/fhir/Patient",
                422,
                patient(&format!(r#""multipleBirthInteger":{}"#, "9".repeat(1_000_000))),
            ),
            ("the year 0", "/fhir/Patient", 422, patient(r#""birthDate":"0000-01-01""#)),
            ("the year 99999", "/fhir/Patient", 422, patient(r#""birthDate":"99999-01-01""#)),
            ("the 31st of February", "/fhir/Patient", 422, patient(r#""birthDate":"2026-02-31""#)),
            ("a text of 10 MB", "/fhir/Patient", 422, patient(&format!(r#""name":[{{"family":"{}"}}]"#, "x".repeat(10_000_000)))),
            ("an id of 65 characters", "/fhir", 422, bundle(&format!(r#"{{"resourceType":"Patient","id":"{}"}}"#, "a".repeat(65)))),
            (
                "a million unknown elements",
                "/fhir/Patient",
                422,
                patient(&(0..500_000).map(|n| format!("\"a{n}\":1")).collect::<Vec<_>>().join(",")),
            ),
            ("a million empty names", "/fhir/Patient", 422, patient(&format!(r#""name":[{}{{}}]"#, "{},".repeat(1_000_000)))),
            ("thirty million numbers", "/fhir/Patient", 413, patient(&format!(r#""name":[{}1]"#, "1,".repeat(30_000_000)))),
            ("thirty million numbers in an entry", "/fhir", 413, bundle(&format!("[{}1]", "1,".repeat(30_000_000)))),
            ("a million entries", "/fhir", 413, {
                format!(r#"{{"resourceType":"Bundle","type":"batch","entry":[{}{{}}]}}"#, "{},".repeat(999_999)).into_bytes()
            }),
            ("a body beyond the limit", "/fhir", 413, vec![b' '; (64 << 20) + 1]),
            ("a list", "/fhir", 400, b"[]".to_vec()),
            ("a text", "/fhir/Patient", 400, b"\"Patient\"".to_vec()),
            ("no type", "/fhir/Patient", 400, b"{}".to_vec()),
            ("a type that is a list", "/fhir/Patient", 400, br#"{"resourceType":["Patient"]}"#.to_vec()),
            ("another type", "/fhir/Patient", 400, br#"{"resourceType":"Observation"}"#.to_vec()),
            ("two values", "/fhir/Patient", 400, br#"{"resourceType":"Patient"}{"resourceType":"Patient"}"#.to_vec()),
            ("a Bundle of no kind", "/fhir", 400, br#"{"resourceType":"Bundle"}"#.to_vec()),
            ("an entry without a request", "/fhir", 400, br#"{"resourceType":"Bundle","type":"transaction","entry":[{}]}"#.to_vec()),
            ("a script in the narrative", "/fhir/Patient", 422, {
                patient(r#""text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><script>x</script></div>"}"#)
            }),
        ];
        for (what, path, status, body) in cases {
            server.refuses(what, status, server.request(Method::POST, path).header("content-type", FHIR_JSON).body(body)).await;
        }
        for (what, path, status, body) in [
            ("zeros", "/fhir", 413, zeros()),
            ("zeros for a type", "/fhir/Patient", 413, zeros()),
            ("half a gzip", "/fhir", 400, truncated()),
            ("no gzip", "/fhir/Patient", 400, patient("\"active\":true")),
            ("an empty gzip stream", "/fhir/Patient", 400, Vec::new()),
        ] {
            let post = server.request(Method::POST, path).header("content-type", FHIR_JSON).header("content-encoding", "gzip");
            server.refuses(what, status, post.body(body)).await;
        }
        server.ends_well();
    }
);

both_databases!(
    async fn hostile_template_payloads_are_refused(db: &TestDb) {
        let server = Server::start(db);
        let payload = |grid: &str| {
            format!(r#"{{"templateDetails":{{"code":"GENERAL"}},"data":{{"facilityDetails":{{"code":"1"}},"listGrid":{grid}}}}}"#)
                .into_bytes()
        };
        let cases: Vec<(&str, u16, Vec<u8>)> = vec![
            ("nothing", 400, Vec::new()),
            ("a list", 400, b"[]".to_vec()),
            ("an empty object", 400, b"{}".to_vec()),
            ("half a payload", 400, payload("[{}]").into_iter().take(40).collect()),
            ("deep lists", 400, payload(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)))),
            ("deep objects", 400, payload(&format!("[{}1{}]", "{\"a\":".repeat(100_000), "}".repeat(100_000)))),
            ("broken UTF-8", 400, b"{\"data\":\"\xff\"}".to_vec()),
            ("a key twice", 400, payload(r#"[],"listGrid":[]"#)),
            ("NaN", 400, payload(r#"[{"visitDetails":{"id":NaN}}]"#)),
            ("thirty million numbers", 413, payload(&format!("[{}1]", "1,".repeat(30_000_000)))),
            ("a body beyond the limit", 413, vec![b' '; (64 << 20) + 1]),
        ];
        for path in [TEMPLATES, "/api/v1/hduApi/labDataTemplates", "/api/v1/hduApi/dataTemplates?testDataValidity=true"] {
            for (what, status, body) in &cases {
                let post = server.request(Method::POST, path).header("content-type", "application/json");
                server.refuses(&format!("{what} to {path}"), *status, post.body(body.clone())).await;
            }
            for (what, status, body) in [("zeros", 413, zeros()), ("half a gzip", 400, truncated())] {
                let post = server.request(Method::POST, path).header("content-type", "application/json").header("content-encoding", "gzip");
                server.refuses(&format!("{what} to {path}"), status, post.body(body)).await;
            }
        }
        for (what, status, method, path) in [
            ("an unknown URL", 404, Method::GET, "/api/v1/hduApi/nothing"),
            ("a method that is not taken", 405, Method::DELETE, TEMPLATES),
            ("a method that is not taken", 405, Method::PATCH, "/api/v1/hduApi/unmapped"),
            ("a parameter twice", 400, Method::POST, "/api/v1/hduApi/dataTemplates?testDataValidity=true&testDataValidity=false"),
            ("a parameter twice", 400, Method::GET, "/api/v1/hduApi/dataTemplates?id=a&id=b"),
            ("a level that is none", 404, Method::GET, "/api/v1/hduApi/codeSystems/icd/nothing"),
            ("an unknown namespace", 404, Method::GET, "/api/v1/hduApi/generalCodes/nothing"),
        ] {
            server.refuses(&format!("{what}: {path}"), status, server.request(method, path).body("{}")).await;
        }
        server.ends_well();
    }
);

both_databases!(
    async fn hostile_records_of_a_template_are_rejected_by_themselves(db: &TestDb) {
        let server = Server::start(db);
        let example = example();
        let with = |path: &str, value: Value| {
            let mut record = example["data"]["listGrid"][0].clone();
            *record.pointer_mut(path).unwrap_or_else(|| panic!("the example has no {path}")) = value;
            record.to_string()
        };
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for (what, record) in [
            ("a number", "1".to_owned()),
            ("a text", "\"x\"".to_owned()),
            ("null", "null".to_owned()),
            ("an empty record", "{}".to_owned()),
            ("a list in a list", deep.clone()),
            ("the year 0", with("/visitDetails/visitDate", json!("0000-00-00"))),
            ("the year 99999", with("/visitDetails/visitDate", json!("99999-01-01"))),
            ("a birth date of the year 0", with("/demographicDetails/dateOfBirth", json!("0000-01-01"))),
            ("a list for an id", with("/visitDetails/id", serde_json::from_str(&deep).unwrap())),
            ("a NUL in an id", with("/visitDetails/id", json!("a\0b"))),
            ("a NUL in a record number", with("/mrn", json!("a\0b"))),
            ("a NUL in a name", with("/demographicDetails/firstName", json!("a\0b"))),
            ("a text of 10 MB", with("/visitDetails/id", json!("x".repeat(10_000_000)))),
            ("a number of 10,000 digits", with("/visitDetails/id", serde_json::from_str(&"9".repeat(10_000)).unwrap())),
        ] {
            let mut payload = example.clone();
            payload["data"]["listGrid"] = json!(["RECORD"]);
            let body = payload.to_string().replace("\"RECORD\"", &record);
            for dry in ["true", "false"] {
                let path = format!("{TEMPLATES}?testDataValidity={dry}");
                let (status, reply) =
                    answer(server.request(Method::POST, &path).header("content-type", "application/json").body(body.clone())).await;
                let shown: String = reply.to_string().chars().take(600).collect();
                if status >= 500 || reply.to_string().len() > 1 << 20 {
                    server.problems.lock().unwrap().push(format!("{what}, dry run {dry}: {status} {shown}"));
                }
            }
            server.still_answers(what).await;
        }
        let mut payload = example.clone();
        payload["data"]["facilityDetails"]["code"] = json!("a\0b");
        let post = server.request(Method::POST, TEMPLATES).header("content-type", "application/json").body(payload.to_string());
        server.refuses("a NUL in the facility's code", 400, post).await;
        payload["data"]["facilityDetails"]["code"] = json!(noise(0x4e00, 2000, 20_000));
        let post = server.request(Method::POST, TEMPLATES).header("content-type", "application/json").body(payload.to_string());
        server.refuses("a facility's code of 20,000 characters", 400, post).await;
        server.ends_well();
    }
);

/// The shipped template's own example.
fn example() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/templates/hdu/examples/antenatal-visit.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `count` characters from `first` on, in an order that no index can compress.
fn noise(first: u32, range: u32, count: usize) -> String {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_u32(first + (state >> 8) % range).unwrap()
    };
    (0..count).map(|_| next()).collect()
}

both_databases!(
    async fn texts_of_any_length_and_script_are_stored_and_found(db: &TestDb) {
        let server = TestServer::open(db).await;
        for (script, first, range) in
            [("latin", 0x41, 26), ("accents", 0xc0, 20), ("han", 0x4e00, 2000), ("emoji", 0x1f600, 60), ("ligatures", 0xfdf0, 12)]
        {
            for count in [100, 300, 1_000, 5_000] {
                let text = noise(first, range, count);
                let resource = json!({
                    "resourceType": "Observation", "status": "final",
                    "identifier": [{ "system": format!("urn:{text}"), "value": text }],
                    "code": { "coding": [{ "system": "urn:s", "code": text }], "text": text },
                    "valueCodeableConcept": { "coding": [{ "system": "urn:s", "code": text }] },
                    "component": [{ "code": { "coding": [{ "code": text }] }, "valueQuantity": { "value": 1, "unit": text, "code": text } }],
                    "note": [{ "text": text }],
                });
                let (status, stored) = server.post("/fhir/Observation", &resource).await;
                assert_eq!(status, 201, "{count} {script}: {}", stored["issue"]);
                let patient =
                    json!({ "resourceType": "Patient", "name": [{ "family": text, "given": [text] }], "address": [{ "city": text }] });
                let (status, stored) = server.post("/fhir/Patient", &patient).await;
                assert_eq!(status, 201, "{count} {script}: {}", stored["issue"]);
                let start: String = text.chars().take(50).collect();
                let query: String = form_urlencoded::byte_serialize(start.as_bytes()).collect();
                let (_, found) = server.get(&format!("/fhir/Patient?family={query}&_summary=count")).await;
                assert!(found["total"].as_u64() >= Some(1), "{count} {script}: {found}");
            }
        }
        server.stop().await;
    }
);

both_databases!(
    async fn odd_requests_are_refused(db: &TestDb) {
        let server = Server::start(db);
        let many = (0..10_000).map(|n| format!("name=x{n}")).collect::<Vec<_>>().join("&");
        let values = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let long = "x".repeat(60_000);
        let chain = format!("subject:Patient.{}family=x", "link.other:Patient.".repeat(50));
        let has = format!("{}code=x", "_has:Observation:subject:".repeat(200));
        let get = |path: &str| server.request(Method::GET, path);
        for (what, status, path) in [
            ("an unknown type", 404, "/fhir/Patients".to_owned()),
            ("a type in small letters", 404, "/fhir/patient".into()),
            ("an id with an underscore", 400, "/fhir/Patient/a_b".into()),
            ("an id of 65 characters", 400, format!("/fhir/Patient/{}", "a".repeat(65))),
            ("an id with a slash", 404, "/fhir/Patient/a%2Fb".into()),
            ("a way up", 404, "/fhir/Patient/..%2f..%2fetc%2fpasswd".into()),
            ("a NUL in the path", 400, "/fhir/Patient/a%00b".into()),
            ("a version that is none", 404, "/fhir/Patient/a/_history/99999999999999999999".into()),
            ("no such resource", 404, "/fhir/Patient/a".into()),
            ("an unknown operation", 404, "/fhir/Patient/$nothing".into()),
            ("too deep a path", 404, "/fhir/Patient/a/b/c/d/e".into()),
            ("an unknown URL", 404, "/nothing/at/all".into()),
            ("an unknown form", 406, "/fhir/Patient?_format=ttl".into()),
            ("ten thousand parameters", 400, format!("/fhir/Patient?{}", many.get(..60_000).unwrap())),
            ("twenty thousand values", 400, format!("/fhir/Patient?_id={}", values.get(..60_000).unwrap())),
            ("a deep chain", 400, format!("/fhir/Observation?{chain}")),
            ("a deep _has", 400, format!("/fhir/Patient?{has}")),
            ("a date of the year 0", 400, "/fhir/Patient?birthdate=0000".into()),
            ("a date of the year 99999", 400, "/fhir/Patient?birthdate=99999".into()),
            ("no date", 400, "/fhir/Patient?birthdate=yesterday".into()),
            ("no number", 400, "/fhir/RiskAssessment?probability=NaN".into()),
            ("a number beyond all bounds", 400, "/fhir/RiskAssessment?probability=1e999999999".into()),
            ("a modifier that is none", 400, "/fhir/Patient?name:nothing=x".into()),
            ("a count that is none", 400, "/fhir/Patient?_count=-1".into()),
            ("a sort that is none", 400, "/fhir/Patient?_sort=nothing".into()),
            ("a page token of one's own", 400, "/fhir/Patient?_page=AAAA".into()),
            ("a history count that is none", 400, "/fhir/Patient/a/_history?_count=x".into()),
        ] {
            server
                .refuses(&format!("{what}: {}", path.get(..60).unwrap_or(&path)), status, get(&path).header("prefer", "handling=strict"))
                .await;
        }
        for text in ["(((((((((((a+)+)+)+)+)+)+)+)+)+)+$", "%.*[", "'; DROP TABLE resource; --", "\\", "%25%5F", "\u{0}", &long] {
            let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            for search in [
                "Patient?name",
                "Patient?name:contains",
                "Patient?identifier",
                "Patient?_id",
                "Observation?code:text",
                "ValueSet?url:below",
            ] {
                let path: String = format!("/fhir/{search}={encoded}").chars().take(65_000).collect();
                let (status, body) = answer(get(&path)).await;
                match status {
                    200 => assert_eq!((&body["resourceType"], &body["total"]), (&json!("Bundle"), &json!(0)), "{search}"),
                    _ => server.check(&format!("{search}={text:.20}"), 400, status, &body),
                }
                server.still_answers(search).await;
            }
        }
        let put = |headers: &[(&str, &str)], body: Value| {
            let put = server.request(Method::PUT, "/fhir/Patient/a").header("content-type", FHIR_JSON).body(body.to_string());
            headers.iter().fold(put, |put, (name, value)| put.header(*name, *value))
        };
        let own = json!({ "resourceType": "Patient", "id": "a" });
        for (what, status, request) in [
            ("another id in the body", 400, put(&[], json!({ "resourceType": "Patient", "id": "b" }))),
            ("no id in the body", 400, put(&[], json!({ "resourceType": "Patient" }))),
            ("an id that is a number", 400, put(&[], json!({ "resourceType": "Patient", "id": 1 }))),
            ("a tag that is none", 400, put(&[("if-match", "abc")], own.clone())),
            ("a tag beyond all bounds", 400, put(&[("if-match", "W/\"99999999999999999999\"")], own.clone())),
            ("a negative tag", 400, put(&[("if-match", "W/\"-1\"")], own.clone())),
            ("a tag of what is not there", 412, put(&[("if-match", "W/\"1\"")], own.clone())),
            (
                "a form that is not FHIR's",
                415,
                server.request(Method::POST, "/fhir/Patient").header("content-type", "text/csv").body("a,b"),
            ),
            ("an encoding that is not taken", 415, put(&[("content-encoding", "br")], own.clone())),
            (
                "a search that is no form",
                415,
                server.request(Method::POST, "/fhir/Patient/_search").header("content-type", FHIR_JSON).body("{}"),
            ),
            ("a patch that says no form", 415, server.request(Method::PATCH, "/fhir/Patient/a").body("[]")),
            ("a method made up", 405, server.request(Method::from_bytes(b"SMASH").unwrap(), "/fhir/Patient")),
            ("a delete of everything", 400, server.request(Method::DELETE, "/fhir/Patient")),
            ("a search of everything without a word", 400, server.request(Method::GET, "/fhir")),
            ("a method of the base", 405, server.request(Method::PUT, "/fhir")),
        ] {
            server.refuses(what, status, request).await;
        }
        server.ends_well();
    }
);

both_databases!(
    async fn a_search_may_have_as_many_values_as_it_says(db: &TestDb) {
        let secret = add_client(db, "all", "HF-1", "system/*.cruds").await;
        let server = TestServer::smart(db).await;
        let token = server.token("all", &secret).await;
        let send = async |method: Method, path: &str, body: String, kind: &str| {
            let request = server.client.request(method, server.url(path)).bearer_auth(&token);
            answer(request.header("content-type", kind).body(body)).await
        };
        let coded = |code: &str| json!({ "coding": [{ "system": "urn:s", "code": code }] });
        let resources = [
            json!({ "resourceType": "Practitioner", "id": "d", "identifier": [{ "system": "urn:d", "value": "last" }] }),
            json!({ "resourceType": "Patient", "id": "p", "identifier": [{ "system": "urn:s", "value": "last", "type": coded("MR") }], "name": [{ "family": "Last" }],
                "birthDate": "2001-01-01", "generalPractitioner": [{ "reference": "Practitioner/d" }], "meta": { "tag": [{ "code": "last" }], "source": "urn:last", "profile": ["urn:last/x"] } }),
            json!({ "resourceType": "Encounter", "id": "e", "status": "finished", "class": { "code": "last" }, "subject": { "reference": "Patient/p" } }),
            json!({ "resourceType": "Observation", "id": "o", "status": "final", "code": { "coding": [{ "system": "urn:s", "code": "last", "display": "last" }] }, "subject": { "reference": "Patient/p", "identifier": { "system": "urn:s", "value": "last" } },
                "encounter": { "reference": "Encounter/e" }, "effectiveDateTime": "2001-01-01", "valueQuantity": { "value": 5000, "unit": "u" } }),
        ];
        for resource in resources {
            let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            assert_eq!(send(Method::PUT, &path, resource.to_string(), FHIR_JSON).await.0, 201);
        }
        // 997 that match nothing, and one that does, which leaves two for the order; what negates finds all that have nothing of them.
        let codes: Vec<String> = (0..997).map(|n| format!("v{n}")).chain(["last".to_owned()]).collect();
        let days: Vec<String> = (0..997).map(|n| format!("{}-01-01", 2900 + n)).chain(["2001-01-01".to_owned()]).collect();
        let joined = |before: &str, values: &[String], after: &str| {
            values.iter().map(|value| format!("{before}{value}{after}")).collect::<Vec<_>>().join(",")
        };
        let (plain, coded) = (joined("", &codes, ""), joined("urn:s|", &codes, ""));
        let searches = [
            ("Patient", "identifier", coded.clone(), 1),
            ("Patient", "identifier:of-type", joined("urn:s|MR|", &codes, ""), 1),
            ("Patient", "name", plain.clone(), 1),
            ("Patient", "name:contains", plain.clone(), 1),
            ("Patient", "birthdate", days.clone().join(","), 1),
            ("Patient", "birthdate", joined("ne", &days, ""), 1),
            ("Patient", "_id", format!("{plain},p").replacen("v0,", "", 1), 1),
            ("Patient", "_tag", plain.clone(), 1),
            ("Patient", "_tag:not", plain.clone(), 0),
            ("Patient", "_source", joined("urn:", &codes, ""), 1),
            ("Patient", "_profile:below", joined("urn:", &codes, ""), 1),
            ("Patient", "_has:Observation:subject:code", coded.clone(), 1),
            ("Patient", "_has:Observation:subject:code:not", coded.clone(), 0),
            ("Patient", "_has:Observation:subject:encounter.class", plain.clone(), 1),
            ("Observation", "code", plain.clone(), 1),
            ("Observation", "code", coded.clone(), 1),
            ("Observation", "code:not", coded.clone(), 0),
            ("Observation", "code:text", plain.clone(), 1),
            ("Observation", "subject:identifier", coded.clone(), 1),
            ("Observation", "patient", format!("{plain},p").replacen("v0,", "", 1), 1),
            ("Observation", "subject:Patient.identifier", coded.clone(), 1),
            ("Observation", "subject:Patient.name:contains", plain.clone(), 1),
            ("Observation", "subject:Patient._tag:not", plain.clone(), 0),
            ("Observation", "encounter.subject:Patient.general-practitioner:Practitioner.identifier", joined("urn:d|", &codes, ""), 1),
            ("Observation", "value-quantity", joined("", &(0..997).chain([5000]).map(|n| n.to_string()).collect::<Vec<_>>(), ""), 1),
            ("Observation", "code-value-quantity", joined("urn:s|", &codes, "$gt5"), 1),
        ];
        for (type_name, parameter, values, total) in searches {
            for more in ["", "&_sort=-_lastUpdated&_total=accurate"] {
                let form = format!("{}={}{more}", encoded(parameter), encoded(&values));
                let (status, found) =
                    send(Method::POST, &format!("/fhir/{type_name}/_search"), form, "application/x-www-form-urlencoded").await;
                let matches = found["entry"].as_array().map_or(0, Vec::len);
                assert_eq!((status, matches), (200, total), "{type_name}?{parameter}{more}: {}", found["issue"]);
            }
        }
        // What PostgreSQL would plan for seconds is refused.
        let joined = |number: usize| "_has:Observation:subject:code=last&".repeat(number);
        let form = "application/x-www-form-urlencoded";
        assert_eq!(send(Method::POST, "/fhir/Patient/_search", joined(32), form).await.0, 200);
        let (status, refused) = send(Method::POST, "/fhir/Patient/_search", joined(33), form).await;
        assert_eq!((status, &refused["issue"][0]["code"]), (400, &json!("too-costly")), "{refused}");
        server.stop().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_xml_is_refused() {
    let db = TestDb::sqlite();
    let server = Server::start(&db);
    let entities = (0..30).map(|n| format!(r#"<!ENTITY e{} "{}">"#, n + 1, format!("&e{n};").repeat(10))).collect::<String>();
    let patient = |inside: &str| format!(r#"<Patient xmlns="http://hl7.org/fhir">{inside}</Patient>"#);
    for (what, body) in [
        ("nothing", String::new()),
        ("a billion laughs", format!(r#"<!DOCTYPE lolz [<!ENTITY e0 "lol">{entities}]>{}"#, patient("<id value=\"&e30;\"/>"))),
        ("a file", format!(r#"<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>{}"#, patient("<id value=\"&f;\"/>"))),
        ("an unknown entity", patient("<id value=\"&f;\"/>")),
        ("deep elements", patient(&format!("{}{}", "<contact>".repeat(100_000), "</contact>".repeat(100_000)))),
        ("elements that do not end", "<a>".repeat(1_000_000)),
        ("a tag that does not end", format!("<Patient {}", "a='b' ".repeat(1_000_000))),
        ("another namespace", "<Patient xmlns=\"urn:x\"/>".to_owned()),
        ("JSON", r#"{"resourceType":"Patient"}"#.to_owned()),
        ("two resources", patient("").repeat(2)),
    ] {
        server.refuses(what, 400, server.request(Method::POST, "/fhir/Patient").header("content-type", FHIR_XML).body(body)).await;
    }
    for (what, inside) in [
        ("an unknown element", "<nothing value=\"1\"/>"),
        ("an unknown attribute", "<active value=\"true\" a=\"1\"/>"),
        ("a name of JSON's own", "<resourceType value=\"Group\"/>"),
        ("text", "<name>Juma</name>"),
    ] {
        let request = server.request(Method::POST, "/fhir/Patient").header("content-type", FHIR_XML).body(patient(inside));
        server.refuses(what, 422, request).await;
    }
    server.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_no_library_sends_are_refused() {
    let db = TestDb::sqlite();
    let server = Server::start(&db);
    let head = |request: &str| format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (what, status, target) in [
        ("a percent sign alone", 400, "/fhir/Patient/%"),
        ("no hexadecimal digits", 400, "/fhir/Patient/%zz"),
        ("bytes that are no UTF-8", 404, "/fhir/Patient/%ff%fe"),
        ("a way up", 404, "/fhir/../../etc/passwd"),
        ("two slashes", 404, "/fhir//Patient//"),
    ] {
        server.refuses_raw(what, status, format!("{}\r\n", head(&format!("GET {target}"))).as_bytes()).await;
    }
    // Percent-encoding that is broken in a query is taken as it stands, as the URL standard says; no name is like that.
    for query in ["name=%", "name=%zz", "name=%ff%fe", "%=%", "&&&=&&"] {
        let (status, body) = server.raw(format!("{}\r\n", head(&format!("GET /fhir/Patient?{query}"))).as_bytes(), false);
        assert!(matches!(status, 200 | 400), "{query}: {status} {body}");
        server.still_answers(query).await;
    }
    let post = format!("{}content-type: {FHIR_JSON}\r\n", head("POST /fhir/Patient"));
    // Who hangs up within a body hears nothing, or that it was not whole.
    for rest in ["content-length: 1000\r\n\r\n{\"resourceType\"", "transfer-encoding: chunked\r\n\r\nff\r\n{"] {
        let (status, _) = server.raw(format!("{post}{rest}").as_bytes(), true);
        assert!(matches!(status, 0 | 400), "{status}");
        server.still_answers("half a body").await;
    }
    server.refuses_raw("a length beyond the limit", 413, format!("{post}content-length: 99999999999\r\n\r\n").as_bytes()).await;
    // What is no HTTP at all ends at the connection, before there is anyone who could say it in FHIR's words.
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0"] {
        let (status, _) = server.raw(bytes, true);
        assert!(status == 0 || (400..500).contains(&status), "{status}");
        server.still_answers("no HTTP").await;
    }
    let (status, _) = server.raw(format!("{}\r\n", head(&format!("GET /fhir/Patient?name={}", "x".repeat(100_000)))).as_bytes(), false);
    assert!((400..500).contains(&status), "{status}");
    server.still_answers("a URL of 100 kB").await;
    // Connections that are left open cost the others nothing.
    let address = server.running.base.strip_prefix("http://").unwrap().to_owned();
    let mut left_open = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let part = if n % 2 == 0 { "GET /fhir/Pat".to_owned() } else { format!("{post}content-length: 1000\r\n\r\n{{") };
        stream.write_all(part.as_bytes()).unwrap();
        left_open.push(stream);
    }
    server.still_answers("200 connections that say no more").await;
    drop(left_open);
    server.ends_well();
}

/// A word of a posted form.
fn encoded(word: &str) -> String {
    form_urlencoded::byte_serialize(word.as_bytes()).collect()
}
