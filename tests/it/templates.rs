//! The Data Template door, as an EMR sees it.

use crate::support::payloads::{self, DOOR, Generated, measured, payload, record, reversed, send, send_bytes, total, totals};
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, both_databases, eventually, program, time_passes};
use lango::store::Store;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// A database of the same kind.
async fn another(db: &TestDb) -> TestDb {
    if db.is_sqlite() { TestDb::sqlite() } else { TestDb::postgres().await }
}

/// Waits until no job is waiting or running.
async fn settled(store: &Store) {
    time_passes(store).await;
    let ended = eventually("no job is left", async || {
        let jobs = store.jobs(None, None, 10_000).await.unwrap();
        let (open, ended): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.state == "waiting" || job.state == "running");
        if open.is_empty() { Ok(ended) } else { Err(open) }
    });
    assert!(ended.await.iter().all(|job| job.state == "done"));
}

/// How many versions are superseded, golden Patients included.
pub async fn superseded(store: &Store) -> i64 {
    const SQL: &str = "SELECT count(*) FROM history";
    match store {
        Store::Sqlite(db) => sqlx::query_scalar(SQL).fetch_one(&db.read).await.unwrap(),
        Store::Postgres(db) => sqlx::query_scalar(SQL).fetch_one(&db.pool).await.unwrap(),
    }
}

/// What must stand in the reason why a record that was spoiled so is rejected.
fn names_the_fault(why: &str, reasons: &str) -> bool {
    match why {
        "no-first-name" => reasons.contains("'demographicDetails.firstName'"),
        "no-identifier" => reasons.contains("'demographicDetails.identifiers'"),
        "bad-visit-type" => reasons.contains("'visitDetails.visitType'") && reasons.contains("IPD"),
        "death-without-date" => reasons.contains("'outcomeDetails.deathDate'") && reasons.contains("'outcomeDetails.deathLocation'"),
        "bad-date" => reasons.contains("'visitDetails.visitDate'"),
        "unknown-key" => reasons.contains("'visitDetails'"),
        "no-outcome" => reasons.contains("'outcomeDetails'"),
        other => panic!("the generator spoils records in a new way: {other}"),
    }
}

/// Sends payloads in their order; answers the new clients and what was rejected: (facility, visit number) and the reasons.
async fn send_all(server: &TestServer, payloads: &[Value]) -> (u64, BTreeMap<(String, u64), String>) {
    let (mut new, mut rejected) = (0, BTreeMap::new());
    for payload in payloads {
        let facility = payload["data"]["facilityDetails"]["code"].as_str().unwrap();
        let records = payload["data"]["listGrid"].as_array().unwrap();
        let (status, reply) = send(server, payload).await;
        let bad = reply["invalidClients"].as_u64().unwrap_or_else(|| panic!("{status} {reply}"));
        assert_eq!(status, if bad > 0 && bad == records.len() as u64 { 400 } else { 200 }, "{reply}");
        assert_eq!(reply["failedClients"], 0, "{reply}");
        let count = |key: &str| reply[key].as_u64().unwrap();
        assert_eq!(count("newClients") + count("updatedClients") + count("ignoredClients") + bad, records.len() as u64);
        new += count("newClients");
        for line in reply["invalidClientsSummary"].as_array().unwrap() {
            let record = &records[line["index"].as_u64().unwrap() as usize];
            let visit = record["visitDetails"]["id"].as_str().or(record["visitDetail"]["id"].as_str()).unwrap();
            let number = visit.rsplit('-').next().unwrap().parse().unwrap();
            let before = rejected.insert((facility.to_owned(), number), line["validationIssues"].to_string());
            assert!(before.is_none(), "a record is named twice");
        }
    }
    (new, rejected)
}

async fn the_generators_payloads_give_its_counts(seed: u32, db: &TestDb) {
    let Generated { payloads, cells, spoiled, .. } = &payloads::generate(seed, 300, 600, "0.06");
    let server = TestServer::open(db).await;
    let (_, rejected) = send_all(&server, payloads).await;
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (rejected.keys().collect(), spoiled.keys().collect());
    assert_eq!(found, expected, "seed {seed}: exactly what was spoiled is rejected");
    for (record, why) in spoiled {
        assert!(names_the_fault(why, &rejected[record]), "seed {seed}: {why}: {}", rejected[record]);
    }
    assert_eq!(measured(&server).await, *cells, "seed {seed}");

    let store = Store::open(&db.url).await.unwrap();
    settled(&store).await;
    let (before, versions) = (totals(&server).await, superseded(&store).await);
    let golden = total(&server, "Patient?_tag=golden").await;
    assert!(golden > 0 && golden < before["Patient"], "seed {seed}: {golden}");
    let (new, again) = send_all(&server, payloads).await;
    settled(&store).await;
    assert_eq!((new, again), (0, rejected.clone()), "seed {seed}: the same verdicts");
    assert_eq!(superseded(&store).await, versions, "seed {seed}: a second sending makes no versions");
    assert_eq!(measured(&server).await, *cells, "seed {seed}: after the second sending");
    assert_eq!(totals(&server).await, before, "seed {seed}");
    store.close().await;
    server.stop().await;

    let other = another(db).await;
    let server = TestServer::open(&other).await;
    send_all(&server, &reversed(payloads)).await;
    assert_eq!(measured(&server).await, *cells, "seed {seed}: in another order");
    assert_eq!(totals(&server).await, before, "seed {seed}: in another order");
    let store = Store::open(&other.url).await.unwrap();
    settled(&store).await;
    assert_eq!(total(&server, "Patient?_tag=golden").await, golden, "seed {seed}: in another order");
    store.close().await;
    server.stop().await;
    other.discard().await;
}

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_1(db: &TestDb) {
        the_generators_payloads_give_its_counts(1, db).await;
    }
);

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_2(db: &TestDb) {
        the_generators_payloads_give_its_counts(2, db).await;
    }
);

both_databases!(
    async fn what_was_spoiled_is_rejected_and_the_counts_are_exact_in_any_order_seed_3(db: &TestDb) {
        the_generators_payloads_give_its_counts(3, db).await;
    }
);

/// The one resource that a search finds.
pub async fn one(server: &TestServer, search: &str) -> Value {
    let (status, body) = server.get(&format!("/fhir/{search}")).await;
    let entries = body["entry"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!((status, entries.len()), (200, 1), "{search}: {body}");
    entries[0]["resource"].clone()
}

/// Versions of an instance, newest first.
pub async fn history(server: &TestServer, resource: &Value) -> Vec<Value> {
    let path = format!("/fhir/{}/{}/_history", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
    let (status, body) = server.get(&path).await;
    assert_eq!(status, 200, "{body}");
    body["entry"].as_array().unwrap().iter().map(|entry| entry["resource"].clone()).collect()
}

fn is_outcome(body: &Value) -> bool {
    body["resourceType"] == "OperationOutcome" && body["issue"][0]["severity"] == "error"
}

/// The replies' sentences of warning.
pub fn warnings(reply: &Value) -> String {
    reply["warnings"].as_array().into_iter().flatten().map(|one| format!("{} {}\n", one["path"], one["message"])).collect()
}

both_databases!(
    async fn a_dry_run_judges_and_stores_nothing(db: &TestDb) {
        let server = TestServer::open(db).await;
        let before = totals(&server).await;
        let dry = format!("{DOOR}?testDataValidity=true&validation=true");
        let (good, mut bad) = (record("M-1", "V-1"), record("M-2", "V-2"));
        bad["visitDetails"]["visitType"] = json!("General");
        let (status, reply) = send_bytes(&server, &dry, payload("HF-1", vec![good.clone()]).to_string().into()).await;
        assert_eq!((status, &reply["statusDetails"]), (200, &json!("Completed testing data")), "{reply}");
        assert!(reply["message"].as_str().unwrap().contains("passed through all data validation rules"), "{reply}");
        let (status, reply) = send_bytes(&server, &dry, payload("HF-1", vec![good, bad.clone()]).to_string().into()).await;
        assert_eq!((status, &reply["invalidClients"], &reply["invalidClientsSummary"][0]["index"]), (200, &json!(1), &json!(1)), "{reply}");
        assert!(reply["invalidClientsSummary"][0]["validationIssues"].to_string().contains("'visitDetails.visitType'"), "{reply}");
        let (status, reply) = send_bytes(&server, &dry, payload("HF-1", vec![bad]).to_string().into()).await;
        assert_eq!((status, &reply["status"]), (400, &json!("VALIDATION_ERROR")), "{reply}");
        assert_eq!(totals(&server).await, before);
        let store = Store::open(&db.url).await.unwrap();
        assert!(store.submissions(&["template"], false, 0, 10).await.unwrap().is_empty(), "a dry run is not kept");
        assert!(store.jobs(None, None, 10).await.unwrap().is_empty());
        server.stop().await;
    }
);

both_databases!(
    async fn slips_of_spelling_and_type_are_taken_or_warned_of(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut first = record("M-1", "");
        first["visitDetails"]["id"] = json!(400388);
        first["diagnosisDetials"] = json!([{ "diagnosisCode": "A09" }]);
        first["demographicDetails"]["midleName"] = json!("J");
        first["clinicalInformation"] = json!({ "visitNotes": [{ "date": "2026-09-07 09:40:00", "chiefComplaints": ["fever"] }] });
        let mut second = record("M-2", "V-2");
        second["clinicalInformation"] = json!({ "visitNotes": [{ "date": "2026-09-07", "chiefComplains": ["cough"] }] });
        let mut body = payload("HF-1", vec![first, second]);
        body["data"]["reportDetail"] = json!({ "reportingDate": "2026-09-07" });
        let (status, reply) = send(&server, &body).await;
        assert_eq!((status, &reply["newClients"], &reply["invalidClients"]), (200, &json!(2), &json!(0)), "{reply}");
        let said = warnings(&reply);
        for (path, meant) in [
            ("listGrid[0].diagnosisDetials", "did you mean diagnosisDetails?"),
            ("listGrid[0].demographicDetails.midleName", "did you mean middleName?"),
            ("data.reportDetail", "did you mean reportDetails?"),
        ] {
            assert!(said.lines().any(|line| line.contains(path) && line.contains(meant)), "{path}: {said}");
        }
        assert!(!said.contains("chief"), "{said}");
        let numbered = one(&server, "Encounter?identifier=400388").await;
        assert_eq!(numbered["reasonCode"][0]["text"], "fever");
        assert_eq!(one(&server, "Encounter?identifier=V-2").await["reasonCode"][0]["text"], "cough");
        // The same visit by its number as text is the same visit.
        let mut again = record("M-1", "400388");
        again["clinicalInformation"] = json!({ "visitNotes": [{ "date": "2026-09-07 09:40:00", "chiefComplaints": ["fever"] }] });
        let (_, reply) = send(&server, &payload("HF-1", vec![again])).await;
        assert_eq!(reply["ignoredClients"], 1, "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn new_blocks_of_a_visit_update_that_visit(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut admitted = record("M-1", "V-1");
        admitted["visitDetails"] = json!({ "id": "V-1", "visitDate": "2026-09-07", "visitType": "IPD" });
        admitted["admissionDetails"] = json!({ "admissionDate": "2026-09-07", "admissionDiagnosis": "B50.9" });
        let (_, reply) = send(&server, &payload("HF-1", vec![admitted])).await;
        assert_eq!(reply["newClients"], 1, "{reply}");
        let encounter = one(&server, "Encounter?identifier=V-1").await;
        assert_eq!(encounter["status"], "in-progress");
        let before = totals(&server).await;

        let discharge = json!({
            "mrn": "M-1",
            "visitDetails": { "id": "V-1" },
            "admissionDetails": { "dischargedOn": "2026-09-12", "dischargeStatus": "Recovered" },
        });
        let never_sent = json!({
            "mrn": "M-1",
            "visitDetails": { "id": "V-never" },
            "admissionDetails": { "dischargedOn": "2026-09-12", "dischargeStatus": "Recovered" },
        });
        let neighbour = record("M-2", "V-2");
        let (status, reply) = send(&server, &payload("HF-1", vec![discharge.clone(), never_sent.clone(), neighbour])).await;
        assert_eq!(status, 200, "{reply}");
        for (key, count) in [("updatedClients", 1), ("newClients", 1), ("failedClients", 1), ("invalidClients", 0)] {
            assert_eq!(reply[key], count, "{key}: {reply}");
        }
        let failed: Vec<&Value> = reply["summary"].as_array().unwrap().iter().filter(|line| line["success"] == false).collect();
        assert!(
            failed.len() == 1
                && failed[0]["visitId"] == "V-never"
                && failed[0]["validationIssues"].to_string().contains("'visitDetails.visitDate': is missing"),
            "{reply}"
        );

        let versions = history(&server, &encounter).await;
        assert_eq!(versions.len(), 2);
        let now = &versions[0];
        assert_eq!((&now["status"], &now["class"]["code"]), (&json!("finished"), &json!("IMP")), "{now}");
        assert_eq!(now["hospitalization"]["dischargeDisposition"]["text"], "Recovered", "{now}");
        assert_eq!(
            (&now["period"]["start"], &now["subject"]),
            (&encounter["period"]["start"], &encounter["subject"]),
            "what was sent before stays"
        );
        assert!(now["extension"].is_array(), "{now}");
        let admission =
            now["extension"].as_array().unwrap().iter().find(|one| one["url"].as_str().unwrap().ends_with("encounter-admission"));
        let admission = admission.unwrap_or_else(|| panic!("{now}"));
        assert!(admission["valuePeriod"]["end"].as_str().unwrap().starts_with("2026-09-12"), "{admission}");
        assert!(admission["valuePeriod"]["start"].as_str().unwrap().starts_with("2026-09-07"), "{admission}");
        // Nothing but the neighbour is new, nothing of the failed record is there.
        let after = totals(&server).await;
        for (name, added) in [("Patient", 1), ("Encounter", 1), ("Condition", 1)] {
            assert_eq!(after[name], before[name] + added, "{name}");
        }
        let (_, reply) = send(&server, &payload("HF-1", vec![discharge])).await;
        assert_eq!(reply["ignoredClients"], 1, "{reply}");
        // Another facility's visit of the same id is another visit.
        let (_, reply) = send(
            &server,
            &payload(
                "HF-2",
                vec![json!({
                    "mrn": "M-1", "visitDetails": { "id": "V-1" }, "admissionDetails": { "dischargedOn": "2026-09-13" },
                })],
            ),
        )
        .await;
        assert_eq!(reply["failedClients"], 1, "{reply}");
        assert_eq!(history(&server, &encounter).await.len(), 2);
        server.stop().await;
    }
);

both_databases!(
    async fn a_zero_report_is_taken_and_kept(db: &TestDb) {
        let server = TestServer::open(db).await;
        let body = payload("HF-1", Vec::new());
        let (status, reply) = send(&server, &body).await;
        assert_eq!((status, &reply["status"], &reply["statusCode"]), (200, &json!("SUCCESS"), &json!(200)), "{reply}");
        for key in ["newClients", "updatedClients", "failedClients", "ignoredClients", "invalidClients"] {
            assert_eq!(reply[key], 0, "{reply}");
        }
        assert_eq!(total(&server, "Organization?identifier=urn:lango:facility|HF-1").await, 1);
        let store = Store::open(&db.url).await.unwrap();
        let kept = store.submissions(&["template"], false, 0, 10).await.unwrap();
        assert_eq!((kept.len(), &kept[0].payload), (1, &body.to_string().into_bytes()));
        assert_eq!(store.facility_code(kept[0].owner).await.unwrap().as_deref(), Some("HF-1"));
        assert!(store.submissions(&["template"], true, 0, 10).await.unwrap().is_empty(), "it is finished");
        server.stop().await;
    }
);

both_databases!(
    async fn a_bad_record_never_fails_its_neighbours(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut records: Vec<Value> = (0..9).map(|n| record(&format!("M-{n}"), &format!("V-{n}"))).collect();
        records[1]["demographicDetails"]["firstName"] = json!(" ");
        records[1]["outcomeDetails"]["isAlive"] = json!("perhaps");
        records[3] = json!("not a record");
        records[4] = json!(null);
        records[5]["visitDetails"] = json!([]);
        records[6]["visitDetails"]["visitDate"] = json!("0000-00-00");
        // Well formed, and no id that a resource can have: what FHIR refuses fails alone as well.
        records[7]["demographicDetails"]["dateOfBirth"] = json!("99999-01-01");
        let (status, reply) = send(&server, &payload("HF-1", records.clone())).await;
        let bad: Vec<u64> = reply["invalidClientsSummary"].as_array().unwrap().iter().map(|line| line["index"].as_u64().unwrap()).collect();
        assert_eq!((status, bad), (200, vec![1, 3, 4, 5, 6, 7]), "{reply}");
        let problems = reply["invalidClientsSummary"][0]["validationIssues"].to_string();
        assert!(
            problems.contains("demographicDetails.firstName") && problems.contains("outcomeDetails.isAlive"),
            "all problems at once: {problems}"
        );
        assert_eq!((&reply["newClients"], &reply["failedClients"]), (&json!(3), &json!(0)), "{reply}");
        assert_eq!(total(&server, "Patient").await, 3);
        assert_eq!(total(&server, "Encounter").await, 3);

        let only_bad: Vec<Value> = [1, 3, 6].iter().map(|place| records[*place].clone()).collect();
        let (status, reply) = send(&server, &payload("HF-1", only_bad)).await;
        assert_eq!((status, &reply["status"], &reply["statusCode"]), (400, &json!("VALIDATION_ERROR"), &json!(400)), "{reply}");
        assert_eq!(
            (&reply["invalidClients"], &reply["newClients"], &reply["updatedClients"]),
            (&json!(3), &json!(0), &json!(0)),
            "{reply}"
        );
        server.stop().await;
    }
);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

both_databases!(
    async fn a_body_that_is_no_payload_is_refused_with_an_outcome(db: &TestDb) {
        let server = TestServer::open(db).await;
        let before = totals(&server).await;
        let good = payload("HF-1", vec![record("M-1", "V-1")]).to_string();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", Vec::new()),
            ("half a document", good.as_bytes()[..good.len() / 2].to_vec()),
            ("NaN", good.replace("\"1994-03-22\"", "NaN").into_bytes()),
            ("a list", b"[]".to_vec()),
            ("null", b"null".to_vec()),
            ("no data", json!({ "templateDetails": {} }).to_string().into_bytes()),
            ("a null list", json!({ "templateDetails": {}, "data": { "listGrid": null } }).to_string().into_bytes()),
            ("no list", json!({ "templateDetails": {}, "data": { "listGrid": {} } }).to_string().into_bytes()),
            ("bytes that are no UTF-8", [&good.as_bytes()[..good.len() - 40], b"\xff\xfe"].concat()),
            ("depth", "[".repeat(100_000).into_bytes()),
            ("a key twice", good.replacen("\"mrn\":", "\"mrn\":\"x\",\"mrn\":", 1).into_bytes()),
        ];
        for (what, body) in cases {
            let (status, reply) = send_bytes(&server, DOOR, body).await;
            assert!((400..500).contains(&status) && is_outcome(&reply), "{what}: {status} {reply}");
            assert_eq!(reply["status"], status, "the original's form as well: {what}: {reply}");
        }
        let packed = gzip(good.as_bytes());
        let zipped = |bytes: &[u8], encoding: &'static str| {
            let request =
                server.client.post(server.url(DOOR)).header("content-type", "application/json").header("content-encoding", encoding);
            answer(request.body(bytes.to_vec()))
        };
        for (what, body, encoding) in [
            ("truncated", &packed[..packed.len() / 2], "gzip"),
            ("without its end", &packed[..packed.len() - 4], "gzip"),
            ("not packed", good.as_bytes(), "gzip"),
            ("unknown", good.as_bytes(), "snappy"),
        ] {
            let (status, reply) = zipped(body, encoding).await;
            assert!((400..500).contains(&status) && is_outcome(&reply), "{what}: {status} {reply}");
        }
        let request = server.client.post(server.url(DOOR)).header("content-type", "application/xml").body("<a/>");
        let (status, reply) = answer(request).await;
        assert!((400..500).contains(&status) && is_outcome(&reply), "XML: {status} {reply}");
        assert_eq!(totals(&server).await, before, "nothing of all that is stored");
        let (status, reply) = zipped(&packed, "gzip").await;
        assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_submission_is_kept_byte_for_byte(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut record = record("M-1", "V-1");
        record["clinicalInformation"] = json!({ "vitalSigns": [{ "weight": "WEIGHT", "dateTime": "2026-09-07" }] });
        let body = serde_json::to_string_pretty(&payload("HF-1", vec![record])).unwrap().replace("\"WEIGHT\"", "64.50");
        let body = format!("\n\t {body} \r\n").into_bytes();
        let (status, reply) = send_bytes(&server, DOOR, body.clone()).await;
        assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
        let request = server.client.post(server.url(DOOR)).header("content-type", "application/json").header("content-encoding", "gzip");
        assert_eq!(answer(request.body(gzip(&body))).await.0, 200);
        // A payload that is refused as a whole is kept too: it may be what the facility says it sent.
        assert_eq!(send_bytes(&server, DOOR, b"{\"no\": \"payload\"".to_vec()).await.0, 400);
        let store = Store::open(&db.url).await.unwrap();
        let kept: Vec<Vec<u8>> = store.submissions(&["template"], false, 0, 10).await.unwrap().into_iter().map(|one| one.payload).collect();
        assert_eq!(kept, [body.clone(), body, b"{\"no\": \"payload\"".to_vec()]);
        let weight = one(&server, "Observation?code=29463-7").await;
        assert_eq!(weight["valueQuantity"]["value"].to_string(), "64.50", "numbers keep their digits");
        server.stop().await;
    }
);

/// `GET unmapped` as (facility, map's short name, code) and count.
pub async fn unmapped(server: &TestServer) -> BTreeMap<(String, String, String), u64> {
    let (status, body) = server.get("/api/v1/hduApi/unmapped").await;
    assert_eq!(status, 200, "{body}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |line: &Value| {
        let map = text(&line["map"]).rsplit('/').next().unwrap().to_owned();
        ((text(&line["facility"]), map, text(&line["code"])), line["count"].as_u64().unwrap())
    };
    body["results"].as_array().unwrap().iter().map(line).collect()
}

both_databases!(
    async fn an_unmapped_code_is_stored_listed_mapped_and_translated_again(db: &TestDb) {
        let server = TestServer::open(db).await;
        let local = |mrn: &str, visit: &str| {
            let mut record = record(mrn, visit);
            record["diagnosisDetails"][0]["diagnosisCode"] = json!("HOMA YA MBU");
            record["labRequestDetails"] = json!([{
                "dateOccurred": "2026-09-07", "specimenID": format!("SP-{visit}"),
                "requestedLabTests": [{ "obrSetId": 1, "typeOfTest": { "code": "KIPIMO-77" } }],
            }]);
            record["medicationDetails"] =
                json!([{ "orderDate": "2026-09-07", "code": "D-9", "name": "Dawa", "codeStandard": "HOUSE LIST" }]);
            record
        };
        let (status, reply) = send(&server, &payload("HF-1", vec![local("M-1", "V-1"), local("M-2", "V-2"), record("M-3", "V-3")])).await;
        assert_eq!((status, &reply["newClients"], &reply["invalidClients"]), (200, &json!(3), &json!(0)), "{reply}");
        assert!(
            reply["unmapped"]
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["code"] == "KIPIMO-77" && one["path"].as_str().unwrap().contains("listGrid[0].labRequestDetails[0]")),
            "{reply}"
        );
        send(&server, &payload("HF-2", vec![local("M-1", "V-1")])).await;

        let key = |facility: &str, map: &str, code: &str| (facility.to_owned(), map.to_owned(), code.to_owned());
        let listed = unmapped(&server).await;
        let said =
            [("hdu-diagnosis", "HOMA YA MBU"), ("hdu-lab-test", "KIPIMO-77"), ("hdu-code-type", "HOUSE LIST"), ("hdu-medication", "D-9")];
        for (map, code) in said {
            assert_eq!(listed.get(&key("HF-1", map, code)), Some(&2), "{listed:?}");
            assert_eq!(listed.get(&key("HF-2", map, code)), Some(&1), "{listed:?}");
        }
        assert_eq!(listed.len(), 8, "{listed:?}");

        let request = one(&server, "ServiceRequest?code=KIPIMO-77&patient.identifier=M-2").await;
        assert!(request["code"]["coding"][0]["system"].is_string() && request["code"]["coding"][0]["code"] == "KIPIMO-77", "{request}");
        let condition = one(&server, "Condition?code=HOMA%20YA%20MBU&patient.identifier=M-2").await;
        let medication = one(&server, "MedicationRequest?code=D-9&patient.identifier=M-2").await;
        let untouched = one(&server, "Condition?patient.identifier=M-3").await;
        let before = totals(&server).await;

        // Two of the four maps are mended while the server runs.
        for (map, code, target) in [("hdu-lab-test", "KIPIMO-77", "70569-9"), ("hdu-diagnosis", "HOMA YA MBU", "B54")] {
            let path = format!("/fhir/ConceptMap/{map}");
            let (_, mut resource) = server.get(&path).await;
            let elements = resource["group"][0]["element"].as_array_mut().unwrap();
            elements.push(json!({ "code": code, "target": [{ "code": target, "equivalence": "equivalent" }] }));
            let (status, answer) = server.put(&path, &resource).await;
            assert_eq!(status, 200, "{answer}");
        }
        let (code, said, words) = program::output(db, &["template", "replay"]);
        assert_eq!(code, Some(0), "{words}");
        assert!(said.contains("2 submissions translated again, 3 records changed"), "{said}");

        let mended = history(&server, &request).await;
        assert_eq!(mended.len(), 2, "one version more");
        let codings = |resource: &Value| -> Vec<String> {
            resource["code"]["coding"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!((codings(&mended[0]), codings(&mended[1])), (vec!["70569-9".into(), "KIPIMO-77".into()], vec!["KIPIMO-77".into()]));
        let mended = history(&server, &condition).await;
        assert_eq!((mended.len(), codings(&mended[0])), (2, vec!["B54".to_owned(), "HOMA YA MBU".to_owned()]));
        assert_eq!(history(&server, &medication).await.len(), 1, "its map was not mended");
        assert_eq!(history(&server, &untouched).await.len(), 1);
        assert_eq!(totals(&server).await, before, "no doubles");
        assert_eq!(total(&server, "ServiceRequest?code=http://loinc.org|70569-9").await, 3);
        let left = unmapped(&server).await;
        assert_eq!(
            left,
            BTreeMap::from([
                (key("HF-1", "hdu-code-type", "HOUSE LIST"), 2),
                (key("HF-2", "hdu-code-type", "HOUSE LIST"), 1),
                (key("HF-1", "hdu-medication", "D-9"), 2),
                (key("HF-2", "hdu-medication", "D-9"), 1),
            ])
        );
        // The mended diagnoses are counted: 3 and the one that was right from the start.
        assert_eq!(measured(&server).await.iter().filter(|((_, group, ..), _)| group == "B54").map(|(_, count)| count).sum::<u64>(), 4);

        let (_, said, _) = program::output(db, &["template", "replay"]);
        assert!(said.contains("0 records changed"), "{said}");
        // New payloads are translated by the mended map at once.
        let (_, reply) = send(&server, &payload("HF-1", vec![local("M-4", "V-4")])).await;
        assert!(!reply["unmapped"].to_string().contains("KIPIMO-77"), "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn what_is_shipped_about_templates_can_be_read_and_its_examples_are_taken(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (status, definitions) = server.get(DOOR).await;
        assert_eq!(status, 200);
        let definitions = definitions["results"].as_array().unwrap().clone();
        assert!(definitions.len() >= 2, "a second template shows that a template is data");
        for definition in &definitions {
            let id = definition["id"].as_str().unwrap();
            let (_, alone) = server.get(&format!("{DOOR}?id={id}")).await;
            assert_eq!(alone["results"], json!([definition]));
            assert!(definition["schema"]["properties"].is_object(), "{id}");
        }
        assert_eq!(server.get(&format!("{DOOR}?id=nothing")).await.1, json!({ "results": [] }));
        let (_, meta) = server.get(&format!("{DOOR}/metaData")).await;
        let blocks = meta["results"].as_array().unwrap().iter().find(|one| one["template"] == "hdu").unwrap()["blocks"].as_array().unwrap();
        let visit = blocks.iter().find(|block| block["path"] == "data.listGrid[].visitDetails").unwrap();
        let kind = visit["fields"].as_array().unwrap().iter().find(|field| field["name"] == "visitType").unwrap();
        assert_eq!(kind["options"].as_array().unwrap().len(), 3, "{kind}");

        let (_, examples) = server.get(&format!("{DOOR}/examples")).await;
        let examples = examples["results"].as_array().unwrap();
        for definition in &definitions {
            assert!(examples.iter().any(|example| example["template"] == definition["id"]), "every template has an example");
        }
        for example in examples {
            let name = &example["name"];
            let (status, reply) = send(&server, &example["payload"]).await;
            assert_eq!((status, &reply["status"]), (200, &json!("SUCCESS")), "{name}: {reply}");
            assert_eq!((&reply["invalidClients"], &reply["failedClients"]), (&json!(0), &json!(0)), "{name}: {reply}");
            assert!(reply["summary"].as_array().is_some_and(|lines| !lines.is_empty()), "{name}: {reply}");
            assert!(reply["warnings"].is_null() && reply["unmapped"].is_null(), "{name}: {reply}");
            let (_, reply) = send(&server, &example["payload"]).await;
            assert_eq!((&reply["newClients"], &reply["updatedClients"]), (&json!(0), &json!(0)), "{name} again: {reply}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn code_lists_are_paged_and_searched(db: &TestDb) {
        let server = TestServer::open(db).await;
        let at = |path: &str| format!("/api/v1/hduApi/{path}");
        let (status, all) = server.get(&at("codeSystems/icd?pageSize=1000")).await;
        assert_eq!(status, 200, "{all}");
        let (total, entries) = (all["pager"]["total"].as_u64().unwrap(), all["results"].as_array().unwrap());
        assert!(total > 10 && entries.len() as u64 == total.min(1000), "{}", all["pager"]);
        let mut walked = Vec::new();
        for page in 1..=3 {
            let (_, part) = server.get(&at(&format!("codeSystems/icd?page={page}&pageSize=3"))).await;
            assert_eq!(
                (&part["pager"]["page"], &part["pager"]["pageSize"], &part["pager"]["total"]),
                (&json!(page), &json!(3), &json!(total))
            );
            assert_eq!(part["pager"]["totalPages"], total.div_ceil(3));
            walked.extend(part["results"].as_array().unwrap().clone());
        }
        assert_eq!(walked, entries[..9]);
        let (_, past) = server.get(&at("codeSystems/icd?page=100000&pageSize=100")).await;
        assert_eq!((&past["results"], &past["pager"]["total"]), (&json!([]), &json!(total)));
        let (_, default) = server.get(&at("codeSystems/icd?page=&pageSize=")).await;
        assert_eq!((&default["pager"]["page"], &default["pager"]["pageSize"]), (&json!(1), &json!(10)));
        for (query, name) in [("page=abc", "page"), ("page=0", "page"), ("pageSize=-1", "pageSize"), ("pageSize=-2", "pageSize")] {
            for list in ["codeSystems/icd", "codeSystems/loinc", "generalCodes", "standardCodes/icd-10", "labData", "shr/sharedRecords"] {
                let (status, body) = server.get(&at(&format!("{list}?{query}"))).await;
                assert!(status == 400 && is_outcome(&body), "{list}?{query}: {status} {body}");
                assert!(body["message"].as_str().unwrap().starts_with(&format!("{name} must be")), "{body}");
            }
        }
        for code in ["B54", "I10"] {
            let (_, found) = server.get(&at(&format!("codeSystems/icd/codes?code={code}"))).await;
            assert_eq!((&found["pager"]["total"], &found["results"][0]["code"]), (&json!(1), &json!(code)), "{found}");
        }
        let (_, body) = server.get(&at("generalCodes/x")).await;
        assert!(body["message"].as_str().unwrap().contains("GET generalCodes"), "{body}");
        let (_, found) = server.get(&at("codeSystems/icd/categories?q=B54")).await;
        assert_eq!((&found["pager"]["total"], &found["results"][0]["code"]), (&json!(1), &json!("B54")), "{found}");
        for level in ["codes", "categories", "blocks", "chapters"] {
            assert_eq!(server.get(&at(&format!("codeSystems/icd/{level}"))).await.0, 200, "{level}");
        }
        for list in ["codeSystems/loinc", "generalCodes", "generalCodes/hdu-visit-type", "standardCodes", "standardCodes/icd-10"] {
            let (status, body) = server.get(&at(list)).await;
            assert!(
                status == 200 && body["pager"]["total"].as_u64().unwrap() > 0 && !body["results"].as_array().unwrap().is_empty(),
                "{list}: {status} {body}"
            );
        }
        for nothing in ["codeSystems/icd/pages", "generalCodes/nothing", "standardCodes/nothing", "standardCodes/hdu-visit-type"] {
            let (status, body) = server.get(&at(nothing)).await;
            assert!(status == 404 && is_outcome(&body), "{nothing}: {status} {body}");
        }
        server.stop().await;
    }
);

fn specimens(facility: &str, records: Value) -> Value {
    json!({ "templateDetails": { "code": "LAB" }, "data": { "facilityDetails": { "code": facility }, "listGrid": records } })
}

fn specimen(id: &str, result: &str) -> Value {
    let results = json!([{ "obxSetId": 1, "result": result, "unit": "g/dL" }]);
    let tests = json!([{ "obrSetId": 1, "typeOfTest": { "code": "718-7", "codeType": "LOINC" }, "results": results }]);
    json!({ "mrn": "M-1", "labRequestDetails": [{ "specimenID": id, "dateOccurred": "2026-09-07", "labTestResults": tests }] })
}

both_databases!(
    async fn the_laboratory_template_goes_through_both_doors(db: &TestDb) {
        const LAB: &str = "/api/v1/hduApi/labDataTemplates";
        let server = TestServer::open(db).await;
        let (status, definitions) = server.get(LAB).await;
        assert_eq!((status, definitions["results"].as_array().unwrap().len(), &definitions["results"][0]["id"]), (200, 1, &json!("lab")));
        send(&server, &payload("HF-1", vec![record("M-1", "V-1")])).await;

        // The laboratory's own door, whatever the payload says that it is.
        let mut body = specimens("HF-1", json!([{ "mrn": "M-1" }, specimen("S-1", "9.80"), specimen("S-2", "11.2")]));
        body["templateDetails"]["code"] = json!("GENERAL");
        let (status, reply) = send_bytes(&server, LAB, body.to_string().into_bytes()).await;
        assert_eq!((status, &reply["status"]), (200, &json!("SUCCESS")), "{reply}");
        for (key, count) in [("newRequests", 2), ("failedRequests", 0), ("ignoredRequests", 0), ("invalidRequests", 1)] {
            assert_eq!(reply[key], count, "{key}: {reply}");
        }
        let named: Vec<&Value> = reply["summary"].as_array().unwrap().iter().map(|line| &line["specimen"]).collect();
        assert_eq!(named, ["S-1", "S-2"], "{reply}");
        assert_eq!(reply["invalidRequestsSummary"][0]["index"], 0, "{reply}");
        let observation = one(&server, "Observation?code=718-7&value-quantity=9.8").await;
        assert_eq!(observation["valueQuantity"]["value"].to_string(), "9.80");
        assert_eq!(
            (&observation["valueQuantity"]["system"], &observation["valueQuantity"]["code"]),
            (&json!("http://unitsofmeasure.org"), &json!("g/dL"))
        );
        assert_eq!(
            total(&server, "DiagnosticReport?code=http://loinc.org|718-7&subject:Patient.identifier=M-1&subject:Patient.family=Massawe")
                .await,
            2
        );
        assert_eq!(total(&server, "Patient").await, 1, "the same client as the general template's");

        // The common door, by the template's name: the same resources.
        let before = totals(&server).await;
        let (status, reply) = send(&server, &specimens("HF-1", json!([specimen("S-1", "9.80"), specimen("S-2", "11.3")]))).await;
        assert_eq!((status, &reply["updatedClients"], &reply["ignoredClients"]), (200, &json!(1), &json!(1)), "{reply}");
        assert_eq!(totals(&server).await, before);
        assert_eq!(history(&server, &observation).await.len(), 1);

        // Nobody's specimen, and a client whom the laboratory is the first to name.
        let (mut nobodys, mut stranger) = (specimen("S-3", "10"), specimen("S-4", "10"));
        nobodys.as_object_mut().unwrap().remove("mrn");
        stranger["mrn"] = json!("M-9");
        let (_, reply) = send_bytes(&server, LAB, specimens("HF-1", json!([nobodys, stranger])).to_string().into_bytes()).await;
        assert_eq!((&reply["newRequests"], &reply["failedRequests"]), (&json!(2), &json!(0)), "{reply}");
        assert_eq!(total(&server, "Specimen?subject:missing=true").await, 1);
        let (_, reply) = send(&server, &payload("HF-1", vec![record("M-9", "V-9")])).await;
        assert_eq!(reply["newClients"], 1, "{reply}");
        assert_eq!(total(&server, "Specimen?subject:Patient.family=Massawe&subject:Patient.identifier=M-9").await, 1);

        let (status, reply) =
            send_bytes(&server, LAB, specimens("HF-1", json!([{ "labRequestDetails": [] }])).to_string().into_bytes()).await;
        assert_eq!((status, &reply["status"]), (400, &json!("VALIDATION_ERROR")), "{reply}");
        let dry = format!("{LAB}?testDataValidity=true");
        let (status, reply) = send_bytes(&server, &dry, specimens("HF-1", json!([specimen("S-5", "1")])).to_string().into_bytes()).await;
        assert_eq!((status, &reply["statusDetails"]), (200, &json!("Completed testing data")), "{reply}");
        assert_eq!(total(&server, "Specimen").await, 4);
        let store = Store::open(&db.url).await.unwrap();
        let observations = total(&server, "Observation").await;
        assert_eq!(store.submissions(&["template-lab"], false, 0, 10).await.unwrap().len(), 3, "kept, and replayed by the same door");
        let (code, said, words) = program::output(db, &["template", "replay"]);
        assert!(code == Some(0) && said.contains("6 submissions translated again"), "{said} {words}");
        assert_eq!(totals(&server).await.get("Observation"), Some(&observations), "no doubles");
        assert_eq!(total(&server, "Observation?code=718-7&value-quantity=11.3").await, 1, "by whatever door it came, the newest stands");
        server.stop().await;
    }
);
