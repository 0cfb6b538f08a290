//! The wire of the HDU API: parameters, replies and errors as programs that speak to the original expect them.

use crate::support::payloads::{DOOR, payload, record, send, send_bytes};
use crate::support::server::answer;
use crate::support::{TestServer, add_client, both_databases};
use serde_json::{Value, json};

const LAB: &str = "/api/v1/hduApi/labDataTemplates";

async fn post(server: &TestServer, path: &str, body: &Value) -> (u16, Value) {
    send_bytes(server, path, body.to_string().into_bytes()).await
}

/// A laboratory payload as the original documents it: a list of requests, and no list of records around it.
fn requests(requests: Value) -> Value {
    json!({ "templateDetails": { "code": "LABORATORY_CODE", "id": "laboratory_id", "name": "Laboratory" },
        "data": { "facilityDetails": { "code": "109601-5", "name": "A laboratory", "system": { "name": "LIMS", "version": "1" } },
            "labRequestDetails": requests, "reportDetails": { "reportingDateTime": "2024-08-07T00:00:00Z" } } })
}

fn request(specimen: &str, result: &str) -> Value {
    json!({ "dateOccurred": "2024-08-03", "specimenID": specimen, "specimenCollectedFrom": "Patient", "specimenRegisteredBy": "JDR",
        "typeOfSpecimen": { "code": "119297000", "codeType": "SNOMED" },
        "requestedLabTests": [{ "obrSetId": 1, "typeOfTest": { "code": "718-7", "codeType": "LOINC" } }],
        "labTestResults": [{ "obrSetId": 3, "typeOfTest": { "code": "718-7", "codeType": "LOINC" }, "testResultDate": "2024-08-03T10:00:00Z",
            "results": [{ "obrSetId": 3, "obxSetId": 1, "result": result, "unit": "g/dL", "lowRange": 11.5, "highRange": 16 }] }] })
}

both_databases!(
    async fn validation_false_turns_rules_into_warnings_and_keeps_what_cannot_be_read_out(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut nameless = record("M-1", "V-1");
        nameless["demographicDetails"].as_object_mut().unwrap().remove("firstName");
        let mut dead = record("M-2", "V-2");
        dead["outcomeDetails"] = json!({ "isAlive": false });
        let mut unreadable = record("M-3", "V-3");
        unreadable["visitDetails"]["visitType"] = json!("General");
        let mut nobody = record("M-4", "V-4");
        nobody["visitDetails"].as_object_mut().unwrap().remove("id");
        let spoiled = payload("HF-1", vec![nameless, dead, unreadable, nobody]);
        for judged in ["", "?validation=true", "?validation=yes"] {
            let (status, reply) = post(&server, &format!("{DOOR}{judged}"), &spoiled).await;
            assert_eq!((status, &reply["status"], &reply["invalidClients"]), (400, &json!("VALIDATION_ERROR"), &json!(4)), "{reply}");
        }
        let (status, reply) = post(&server, &format!("{DOOR}?validation=false&testDataValidity=true"), &spoiled).await;
        assert_eq!((status, &reply["invalidClients"]), (200, &json!(2)), "{reply}");
        post(&server, &format!("{DOOR}?validation=false&TESTdatavalidity=TRUE&page=1"), &spoiled).await;
        let (_, found) = server.get("/fhir/Patient?identifier=M-1").await;
        assert_eq!(found["total"], 0, "a dry run in any spelling: {found}");
        let (status, reply) = post(&server, &format!("{DOOR}?validation=false"), &spoiled).await;
        assert_eq!((status, &reply["status"]), (200, &json!("SUCCESS")), "{reply}");
        assert_eq!((&reply["newClients"], &reply["failedClients"], &reply["invalidClients"]), (&json!(2), &json!(0), &json!(2)), "{reply}");
        let named: Vec<u64> = reply["invalidClientsSummary"].as_array().unwrap().iter().filter_map(|line| line["index"].as_u64()).collect();
        assert_eq!(named, [2, 3], "a code that is none, and a visit without identity");
        let warned = reply["warnings"].to_string();
        assert!(warned.contains("demographicDetails.firstName") && warned.contains("outcomeDetails.deathDate"), "{warned}");
        let (_, found) = server.get("/fhir/Patient?identifier=M-1").await;
        assert_eq!(found["total"], 1, "{found}");

        let unclear =
            ["validation=maybe", "testDataValidity=perhaps", "validation=true&validation=false", "testDataValidity", "testDataValidity="];
        for unclear in unclear.into_iter().chain(["testDataValidty=true", "testDataValdity", "validaton=false"]) {
            let (status, reply) = post(&server, &format!("{DOOR}?{unclear}"), &spoiled).await;
            assert_eq!((status, &reply["status"], &reply["statusCode"]), (400, &json!(400), &json!(400)), "{unclear}: {reply}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_dry_run_finds_what_the_real_one_finds(db: &TestDb) {
        let server = TestServer::open(db).await;
        let dry = format!("{DOOR}?testDataValidity=true");
        send(&server, &payload("HF-1", vec![record("M-1", "V-1")])).await;
        let update =
            |mrn: &str, visit: &str| json!({ "mrn": mrn, "visitDetails": { "id": visit }, "eyeClinicDetails": { "refracted": true } });
        // An update of a visit that was never sent: alone it is a bad payload, before and after.
        let never = payload("HF-1", vec![update("M-1", "V-9")]);
        for path in [DOOR, &dry] {
            let (status, reply) = post(&server, path, &never).await;
            assert_eq!(
                (status, &reply["status"], &reply["resourceType"]),
                (400, &json!("VALIDATION_ERROR"), &json!("OperationOutcome")),
                "{reply}"
            );
            assert!(reply.to_string().contains("Field 'visitDetails.visitDate': is missing"), "{path}: {reply}");
        }
        let (_, reply) = send(&server, &never).await;
        assert_eq!((&reply["failedClients"], &reply["summary"][0]["success"]), (&json!(1), &json!(false)), "{reply}");
        // Beside good ones: what an earlier record of the payload brings is there for a later one, over slices too.
        let mut records: Vec<Value> = (0..60).map(|n| record(&format!("N-{n}"), &format!("W-{n}"))).collect();
        records.extend([update("N-0", "W-0"), update("N-0", "W-1"), update("M-1", "V-1"), update("M-8", "V-1")]);
        let many = payload("HF-1", records);
        let before = server.get("/fhir/Encounter?_summary=count").await.1["total"].clone();
        let (status, reply) = post(&server, &dry, &many).await;
        assert_eq!((status, &reply["invalidClients"]), (200, &json!(2)), "{reply}");
        let bad = |reply: &Value, list: &str| -> Vec<String> {
            let lines = reply[list].as_array().unwrap().iter().filter(|line| line["validationIssues"].is_array());
            lines.map(|line| format!("{} {}", line["visitId"], line["validationIssues"])).collect()
        };
        let foreseen = bad(&reply, "invalidClientsSummary");
        assert_eq!(server.get("/fhir/Encounter?_summary=count").await.1["total"], before, "nothing was stored");
        let (status, reply) = send(&server, &many).await;
        assert_eq!((status, &reply["failedClients"], &reply["newClients"]), (200, &json!(2), &json!(60)), "{reply}");
        assert_eq!(bad(&reply, "summary"), foreseen);
        // A dry run makes no facility known.
        let (status, reply) = post(&server, &dry, &payload("HF-77", vec![record("M-1", "V-1")])).await;
        assert_eq!((status, &reply["invalidClients"]), (200, &Value::Null), "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_payload_of_too_many_records_is_refused_and_a_reply_is_bounded(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (status, reply) = send(&server, &payload("HF-1", vec![json!({}); 50_001])).await;
        assert_eq!(
            (status, &reply["resourceType"], &reply["issue"][0]["code"]),
            (413, &json!("OperationOutcome"), &json!("too-long")),
            "{reply}"
        );
        assert!(reply["message"].as_str().unwrap().contains("more than 50000 records"), "{reply}");
        let lab = json!({ "data": { "labRequestDetails": vec![json!(1); 50_001] } });
        assert_eq!(post(&server, LAB, &lab).await.0, 413);
        let (status, reply) = send(&server, &payload("HF-1", vec![json!({}); 1_500])).await;
        assert_eq!((status, &reply["invalidClients"], &reply["invalidClientsSummaryLeftOut"]), (400, &json!(1_500), &json!(500)));
        assert_eq!(reply["invalidClientsSummary"].as_array().map(Vec::len), Some(1_000));
        assert_eq!((&reply["resourceType"], reply["issue"].as_array().map(Vec::len)), (&json!("OperationOutcome"), Some(100)));
        let mut spelled = record("M-1", "V-1");
        spelled["visitDetails"]["nosuchfield"] = json!(1);
        let (status, reply) = send(&server, &payload("HF-1", vec![spelled; 1_010])).await;
        assert_eq!((status, &reply["warningsLeftOut"], &reply["ignoredClients"]), (200, &json!(10), &json!(1_009)));
        server.stop().await;
    }
);

both_databases!(
    async fn a_laboratory_hears_that_nothing_is_known_of_its_client(db: &TestDb) {
        let server = TestServer::open(db).await;
        let of = |mrn: &str, specimen: &str| {
            let record = json!({ "mrn": mrn, "labRequestDetails": [request(specimen, "9")] });
            json!({ "templateDetails": { "code": "LAB" }, "data": { "facilityDetails": { "code": "HF-1" }, "listGrid": [record] } })
        };
        for dry in ["?testDataValidity=true", ""] {
            let (status, reply) = post(&server, &format!("{LAB}{dry}"), &of("M-7", "S-1")).await;
            assert_eq!((status, &reply["warnings"][0]["path"]), (200, &json!("listGrid[0].mrn")), "{reply}");
            assert!(!reply["warnings"].to_string().contains("M-7"), "{reply}");
        }
        send(&server, &payload("HF-1", vec![record("M-7", "V-1")])).await;
        let (_, reply) = post(&server, LAB, &of("M-7", "S-2")).await;
        assert_eq!((&reply["newRequests"], &reply["warnings"]), (&json!(1), &Value::Null), "{reply}");
        // A number that was corrected is the same client's here too.
        send(&server, &payload("HF-1", vec![record("M-7b", "V-1")])).await;
        let (_, reply) = post(&server, LAB, &of("M-7b", "S-3")).await;
        assert_eq!(reply["warnings"], Value::Null, "{reply}");
        let (_, found) = server.get("/fhir/Specimen?patient.identifier=M-7").await;
        assert_eq!(found["total"], 3, "{found}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_wrong_password_is_told_in_the_doors_own_words(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let secret = add_client(db, "emr", "HF-1", "system/*.cruds").await;
        let ask = |request: reqwest::RequestBuilder| async move {
            let answer = request.send().await.unwrap();
            let challenges: Vec<String> =
                answer.headers().get_all("www-authenticate").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
            (answer.status().as_u16(), challenges, answer.json::<Value>().await.unwrap_or_default())
        };
        let door = || server.client.get(server.url(DOOR));
        assert_eq!(ask(door().basic_auth("emr", Some(&secret))).await.0, 200);
        let (status, challenges, body) = ask(door().basic_auth("emr", Some("wrong"))).await;
        assert!(status == 401 && challenges[0].starts_with("Basic") && challenges[1].starts_with("Bearer"), "{challenges:?}");
        let words = body["message"].as_str().unwrap();
        assert!(words.contains("id and secret") && !words.contains("token"), "{words}");
        let (status, challenges, body) = ask(door()).await;
        assert!(
            status == 401 && challenges[0].starts_with("Basic") && body["message"].as_str().unwrap().contains("Basic"),
            "{challenges:?} {body}"
        );
        let (status, challenges, body) = ask(door().bearer_auth("nonsense")).await;
        assert!(
            status == 401 && challenges[0].starts_with("Bearer") && body["message"].as_str().unwrap().contains("/auth/token"),
            "{body}"
        );
        server.stop().await;
    }
);

both_databases!(
    async fn a_problem_is_told_by_its_path_within_the_record_in_every_template(db: &TestDb) {
        let server = TestServer::open(db).await;
        let visit = |person: &str| json!({ "household": "H-1", "person": person, "date": "2026-09-07", "age": "old", "sex": "female" });
        let (_, definitions) = server.get(&format!("{DOOR}?id=community-screening")).await;
        assert_eq!(
            (&definitions["id"], &definitions["templateDetails"]["id"], definitions["results"].as_array().map(Vec::len)),
            (&json!("community-screening"), &json!("community-screening"), Some(1))
        );
        let (_, examples) = server.get(&format!("{DOOR}/examples?id=community-screening")).await;
        let mut form = examples["results"][0]["payload"].clone();
        form["visits"] = json!([visit("1"), { "household": "H-1" }]);
        let (status, reply) = send(&server, &form).await;
        let problems: Vec<&Value> =
            reply["invalidClientsSummary"].as_array().unwrap().iter().map(|line| &line["validationIssues"]).collect();
        assert!(status == 400 || status == 200, "{reply}");
        let said = json!(problems).to_string();
        assert!(said.contains("Field '") && !said.contains("visits["), "{said}");
        server.stop().await;
    }
);

both_databases!(
    async fn laboratory_requests_are_counted_and_read_back(db: &TestDb) {
        let server = TestServer::open(db).await;
        let both = requests(json!([request("S-1", "9.80"), request("S-2", "12.1")]));
        let (status, reply) = post(&server, LAB, &both).await;
        assert_eq!((status, &reply["status"], &reply["statusCode"]), (200, &json!("SUCCESS"), &json!(200)), "{reply}");
        let counts =
            |reply: &Value| ["new", "updated", "failed", "ignored", "invalid"].map(|name| reply[format!("{name}Requests")].as_u64());
        assert_eq!(counts(&reply), [2, 0, 0, 0, 0].map(Some), "{reply}");
        assert_eq!(reply["summary"][0], json!({ "specimen": "S-1", "message": "Lab details created successfully" }));
        let again = requests(json!([request("S-1", "9.80"), request("S-2", "12.4"), request("S-3", "10"), { "labTestResults": "none" }]));
        let (_, reply) = post(&server, LAB, &again).await;
        assert_eq!(counts(&reply), [1, 1, 0, 1, 1].map(Some), "{reply}");
        assert_eq!(
            (&reply["summary"][1]["specimen"], &reply["summary"][1]["message"]),
            (&json!("S-2"), &json!("Lab details updated successfully"))
        );
        assert!(!reply.to_string().contains("labRequestDetails[3].labRequestDetails"), "{reply}");
        let mut more = request("S-1", "9.80");
        let further = [
            json!({ "obrSetId": 3, "obxSetId": 2, "result": "high", "unit": "mg/dL" }),
            json!({ "obrSetId": 3, "obxSetId": 3, "result": "< 5.0", "unit": "mg/dL" }),
        ];
        more["labTestResults"][0]["results"].as_array_mut().unwrap().extend(further);
        let (_, reply) = post(&server, LAB, &requests(json!([more]))).await;
        assert_eq!(counts(&reply), [0, 1, 0, 0, 0].map(Some), "a result for a known specimen: {reply}");

        // Read back: newest first, one page at a time, by facility and specimen.
        let data = |query: &'static str| {
            let server = &server;
            async move { server.get(&format!("/api/v1/hduApi/labData{query}")).await }
        };
        let (status, all) = data("").await;
        assert_eq!((status, &all["pager"]), (200, &json!({ "page": 1, "pageSize": 10, "total": 3, "totalPages": 1 })), "{all}");
        let (_, second) = data("?page=2&pageSize=1").await;
        assert_eq!(
            (&second["results"][0]["specimenID"], &second["results"][1]),
            (&all["results"][1]["specimenID"], &Value::Null),
            "{second}"
        );
        let (_, one) = data("?facility=109601-5&specimenId=S-1").await;
        let told = &one["results"][0];
        assert_eq!(
            (&one["pager"]["total"], &told["specimenID"], &told["specimenRegisteredBy"]),
            (&json!(1), &json!("S-1"), &json!("JDR")),
            "{one}"
        );
        assert_eq!(told["typeOfSpecimen"], json!({ "code": "119297000", "codeType": "SNOMED" }));
        let report = &told["labTestResults"][0];
        assert_eq!((&report["obrSetId"], &report["typeOfTest"]), (&json!(3), &json!({ "code": "718-7", "codeType": "LOINC" })), "{report}");
        let result = &report["results"][0];
        assert_eq!(
            (&result["result"], &result["unit"], &result["obxSetId"], &result["lowRange"]),
            (&json!("9.80"), &json!("g/dL"), &json!(1), &json!(11.5)),
            "{result}"
        );
        let results = report["results"].as_array().unwrap();
        let said = |set: u64| results.iter().find(|result| result["obxSetId"] == set).map(|result| (&result["result"], &result["unit"]));
        assert_eq!(said(2), Some((&json!("high"), &json!("mg/dL"))), "{report}");
        assert_eq!(said(3), Some((&json!("<5.0"), &json!("mg/dL"))), "{report}");
        let (_, below) = server.get("/fhir/Observation?value-quantity=5.0|http://unitsofmeasure.org|mg/dL").await;
        let quantity = &below["entry"][0]["resource"]["valueQuantity"];
        assert_eq!((&quantity["comparator"], &below["total"]), (&json!("<"), &json!(1)), "{below}");
        for nothing in ["?facility=000000-0", "?specimenId=S-9", "?specimenId=S-1,S-2", "?facility=109601-5&specimenId=S%7C1"] {
            let (status, none) = data(nothing).await;
            assert_eq!((status, &none["pager"]["total"]), (200, &json!(0)), "{nothing}: {none}");
        }
        assert_eq!(data("?page=100000").await.0, 400);

        // What was read back can be sent again and is the same.
        let mut same = told.clone();
        same["dateOccurred"] = json!("2024-08-03");
        let (status, reply) = post(&server, &format!("{LAB}?testDataValidity=true"), &requests(json!([same]))).await;
        assert_eq!((status, &reply["invalidRequests"]), (200, &Value::Null), "{reply}");
        server.stop().await;
    }
);

both_databases!(
    async fn another_facilitys_laboratory_data_is_not_read_back(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let scopes = "system/*.cruds";
        let ours = add_client(db, "lab-a", "109601-5", scopes).await;
        let theirs = add_client(db, "lab-b", "200000-1", scopes).await;
        let ask =
            |client: &'static str, secret: &str| server.client.get(server.url("/api/v1/hduApi/labData")).basic_auth(client, Some(secret));
        let sent = server.client.post(server.url(LAB)).basic_auth("lab-a", Some(&ours)).header("content-type", "application/json");
        let (status, reply) = answer(sent.body(requests(json!([request("S-1", "9")])).to_string())).await;
        assert_eq!((status, &reply["newRequests"]), (200, &json!(1)), "{reply}");
        assert_eq!(answer(ask("lab-a", &ours)).await.1["pager"]["total"], 1);
        assert_eq!(
            answer(ask("lab-b", &theirs)).await.1,
            json!({ "results": [], "pager": { "page": 1, "pageSize": 10, "total": 0, "totalPages": 0 } })
        );
        server.stop().await;
    }
);

both_databases!(
    async fn errors_have_the_originals_form(db: &TestDb) {
        let server = TestServer::open(db).await;
        let whole = |body: &Value, path: &str, status: u16| {
            assert_eq!((&body["status"], &body["path"]), (&json!(status), &json!(path)), "{body}");
            assert!(body["timestamp"].is_string() && body["error"].is_string() && body["message"].is_string(), "{body}");
            assert_eq!(body["resourceType"], "OperationOutcome");
        };
        let (status, body) = server.get("/api/v1/hduApi/nowhere/at/all").await;
        assert_eq!(status, 404);
        whole(&body, "/api/v1/hduApi/nowhere/at/all", 404);
        let (status, body) = answer(server.client.delete(server.url(DOOR))).await;
        assert_eq!(status, 405);
        whole(&body, DOOR, 405);
        let (status, body) = post(&server, DOOR, &json!({ "templateDetails": { "code": "GENERAL" } })).await;
        assert_eq!(status, 400);
        whole(&body, DOOR, 400);

        // The documented door for updates by block, and a zero report.
        send(&server, &payload("HF-1", vec![record("M-1", "V-1")])).await;
        let block = json!({ "mrn": "M-1", "visitDetails": { "id": "V-1" }, "admissionDetails": { "dischargedOn": "2026-09-09", "dischargeStatus": "DISCHARGED" } });
        let (status, reply) = post(&server, &format!("{DOOR}/trigger"), &payload("HF-1", vec![block])).await;
        assert_eq!((status, &reply["updatedClients"]), (200, &json!(1)), "{reply}");
        let (status, reply) = send(&server, &payload("HF-1", vec![])).await;
        assert_eq!(
            (status, &reply["status"], &reply["newClients"], &reply["summary"]),
            (200, &json!("SUCCESS"), &json!(0), &json!([])),
            "{reply}"
        );
        let (_, found) = server.get("/api/v1/hduApi/generalCodes/visit-type?code=OPD").await;
        assert_eq!(found["pager"]["total"], 1, "{found}");
        server.stop().await;
    }
);

both_databases!(
    async fn the_value_sets_that_r4_requires_can_be_asked(db: &TestDb) {
        const GENDER: &str = "http://hl7.org/fhir/ValueSet/administrative-gender";
        let server = TestServer::open(db).await;
        for path in ["/fhir/ValueSet/administrative-gender/$expand".to_owned(), format!("/fhir/ValueSet/$expand?url={GENDER}")] {
            let (status, set) = server.get(&path).await;
            let codes: Vec<&str> =
                set["expansion"]["contains"].as_array().into_iter().flatten().filter_map(|one| one["code"].as_str()).collect();
            assert_eq!((status, codes), (200, vec!["male", "female", "other", "unknown"]), "{set}");
        }
        let system = "http://hl7.org/fhir/administrative-gender";
        for (code, found) in [("female", true), ("F", false)] {
            let (status, body) = server.get(&format!("/fhir/ValueSet/$validate-code?url={GENDER}&system={system}&code={code}")).await;
            assert_eq!((status, &body["parameter"][0]["valueBoolean"]), (200, &json!(found)), "{body}");
        }
        for required in ["observation-status", "encounter-status", "name-use", "identifier-use", "contact-point-system", "bundle-type"] {
            let (status, set) = server.get(&format!("/fhir/ValueSet/{required}/$expand")).await;
            assert!(status == 200 && set["expansion"]["contains"].as_array().is_some_and(|all| all.len() > 2), "{required}: {set}");
        }
        // One that the operator stores under the same id takes its place.
        let own = json!({ "resourceType": "ValueSet", "id": "administrative-gender", "url": GENDER, "status": "active",
            "compose": { "include": [{ "system": system, "concept": [{ "code": "female" }] }] } });
        assert_eq!(server.put("/fhir/ValueSet/administrative-gender", &own).await.0, 201);
        let (_, set) = server.get("/fhir/ValueSet/administrative-gender/$expand").await;
        assert_eq!(set["expansion"]["contains"].as_array().map(Vec::len), Some(1), "{set}");
        server.stop().await;
    }
);

both_databases!(
    async fn the_same_payload_again_lists_its_unmapped_codes_once(db: &TestDb) {
        let server = TestServer::open(db).await;
        let visit = |visit: &str| {
            let mut record = record("M-1", visit);
            record["diagnosisDetails"][0]["diagnosisCode"] = json!("HOMA");
            payload("HF-1", vec![record])
        };
        for (sent, count) in [("V-1", 1), ("V-1", 1), ("V-2", 2), ("V-1", 2)] {
            send(&server, &visit(sent)).await;
            let listed: Vec<u64> = crate::templates::unmapped(&server).await.into_values().collect();
            assert_eq!(listed, [count], "after {sent}");
        }
        server.stop().await;
    }
);
