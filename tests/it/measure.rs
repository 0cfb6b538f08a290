//! One number all the way: template payloads in, cells counted, data values in DHIS2; on both databases, in both dialects.

use crate::dhis2_double::{Double, Fault, Setup};
use crate::lookup::{World, patient};
use crate::support::guarded::Guarded;
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, both_databases, program, until};
use lango::app::App;
use lango::config::{AuthMode, Destination, Settings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

const FACILITIES: [&str; 2] = ["100000-0", "100371-1"];
const BANDS: [(&str, i32, i32); 5] =
    [("P0Y--P1Y", 0, 1), ("P1Y--P5Y", 1, 5), ("P5Y--P15Y", 5, 15), ("P15Y--P50Y", 15, 50), ("P50Y--P9999Y", 50, 9999)];
/// ICD-10 and the group that it is counted in.
const CODES: [(&str, &str); 6] = [("B54", "B54"), ("B50.9", "B50"), ("J06.9", "J06"), ("A09", "A09"), ("I10", "I10"), ("Z99.8", "OTHER")];
/// Ages that change on the day of a visit, the day before, the day after, on a leap day.
const BIRTHS: [&str; 8] = ["2021-09-15", "2021-09-16", "2021-09-14", "2026-09-01", "1976-09-30", "2012-02-29", "1960-01-01", "2025-09-15"];

/// A visit as its facility tells it.
struct Visit {
    facility: &'static str,
    number: usize,
    day: String,
    kind: &'static str,
    birth: &'static str,
    sex: &'static str,
    codes: Vec<usize>,
}

/// Every combination that matters, by counting up: no two tests see other visits.
fn visits() -> Vec<Visit> {
    (0..160)
        .map(|n| Visit {
            facility: FACILITIES[n % 2],
            number: n,
            day: ["2026-09-15", "2026-09-01", "2026-09-30", "2026-08-31", "2026-10-01"][n / 2 % 5].into(),
            kind: ["OPD", "OPD", "OPD", "IPD"][n / 3 % 4],
            birth: BIRTHS[n / 2 % 8],
            sex: ["female", "male"][n / 5 % 2],
            codes: if n % 7 == 0 { vec![n % 6, (n + 1) % 6] } else { vec![n % 6] },
        })
        .filter(|visit| visit.birth <= visit.day.as_str())
        .collect()
}

fn payload(facility: &str, visits: &[Visit]) -> Value {
    let record = |visit: &Visit| {
        let mrn = format!("{facility}-{}", visit.number);
        let diagnoses: Vec<Value> = visit
            .codes
            .iter()
            .map(|c| json!({"diagnosisDate": visit.day, "certainty": "CONFIRMED", "diagnosis": "words", "diagnosisCode": CODES[*c].0}))
            .collect();
        json!({"mrn": mrn,
            "demographicDetails": {"mrn": mrn, "firstName": "Asha", "lastName": "Juma", "dateOfBirth": visit.birth, "gender": visit.sex,
                "identifiers": [{"type": "MRN", "id": mrn, "preferred": true, "organization": {"code": facility, "name": "A facility"}}]},
            "visitDetails": {"id": format!("V-{}", visit.number), "visitDate": visit.day, "closedDate": visit.day, "visitType": visit.kind},
            "diagnosisDetails": diagnoses, "outcomeDetails": {"isAlive": true}})
    };
    let records: Vec<Value> = visits.iter().filter(|visit| visit.facility == facility).map(record).collect();
    json!({"templateDetails": {"code": "GENERAL", "id": "general", "name": "General"},
        "data": {"facilityDetails": {"code": facility, "name": "A facility", "system": {"name": "AfyaCare", "version": "3.2.1"}}, "listGrid": records,
            "reportDetails": {"reportingDateTime": "2026-09-30T18:00:00Z"}}})
}

/// (facility, group, band, sex) to count.
type Cells = BTreeMap<(String, String, String, String), u64>;

/// The slow, obvious count.
fn oracle(visits: &[Visit]) -> Cells {
    let mut cells = Cells::new();
    for visit in visits.iter().filter(|visit| visit.kind == "OPD" && visit.day.starts_with("2026-09")) {
        let number = |text: &str| text[..4].parse::<i32>().unwrap();
        let years = number(&visit.day) - number(visit.birth) - i32::from(visit.day[5..] < visit.birth[5..]);
        let band = BANDS.iter().find(|b| b.1 <= years && years < b.2).unwrap().0;
        for code in &visit.codes {
            *cells.entry((visit.facility.into(), CODES[*code].1.into(), band.into(), visit.sex.into())).or_default() += 1;
        }
    }
    cells
}

fn cells(reports: &[Value]) -> Cells {
    let mut cells = Cells::new();
    let code = |value: &Value| value["coding"][0]["code"].as_str().unwrap().to_owned();
    for report in reports {
        let facility = report["subject"]["identifier"]["value"].as_str().unwrap();
        for group in report["group"].as_array().unwrap() {
            for stratum in group["stratifier"][0]["stratum"].as_array().unwrap() {
                let count = stratum["measureScore"]["value"].as_u64().unwrap();
                assert_eq!(stratum["population"][0]["count"].as_u64(), Some(count));
                let parts = [0, 1].map(|at| code(&stratum["component"][at]["value"]));
                if count > 0 {
                    let [band, sex] = parts;
                    cells.insert((facility.into(), code(&group["code"]), band, sex), count);
                }
            }
        }
    }
    cells
}

async fn evaluate(server: &TestServer) -> Vec<Value> {
    let body = json!({"resourceType": "Parameters", "parameter": [{"name": "periodStart", "valueDate": "2026-09-01"}, {"name": "periodEnd", "valueDate": "2026-09-30"}]});
    let (status, answer) = server.post("/fhir/Measure/opd-diagnoses/$evaluate-measure", &body).await;
    assert!(status < 300, "{status} {answer}");
    answer["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["resource"].clone())
        .filter(|r| FACILITIES.iter().any(|f| r["subject"]["identifier"]["value"] == *f))
        .collect()
}

async fn all_the_way(db: &TestDb, version: &'static str) {
    let package = serde_json::from_str(include_str!("../../profiles/dhis2/opd-diagnoses.json")).unwrap();
    let double = Double::start(Setup { package, ..Setup::new(version) }).await;
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(b"district\n").unwrap();
    let destination = format!(
        "id = \"hmis\"\nkind = \"dhis2\"\nurl = \"{}\"\nusername = \"lango\"\npassword_file = \"{}\"\n[data_sets]\nopd-diagnoses = \"LangoOpdDx1\"",
        double.url,
        password.path().display()
    );
    let change = |settings: &mut Settings| {
        settings.auth = AuthMode::Open;
        settings.zone = "Africa/Dar_es_Salaam".into();
        settings.destinations = vec![toml::from_str::<Destination>(&destination).unwrap()];
    };
    let server = TestServer::start(db, change).await;
    let visits = visits();
    for facility in FACILITIES {
        submit(&server, facility, &visits).await;
    }
    let expected = oracle(&visits);
    let first = evaluate(&server).await;
    assert_eq!(cells(&first), expected);

    // The same again, in another order: the same cells, and not a new version of any report.
    for facility in FACILITIES.into_iter().rev() {
        submit(&server, facility, &visits).await;
    }
    assert_eq!(cells(&evaluate(&server).await), expected);
    for report in &first {
        let (_, kept) = server.get(&format!("/fhir/MeasureReport/{}", report["id"].as_str().unwrap())).await;
        assert_eq!((&kept["meta"]["versionId"], &kept["group"]), (&json!("1"), &report["group"]));
    }

    // To DHIS2, past a moment of trouble.
    double.fail("dataValueSets", Fault::Status(503, Some("1")));
    let mut settings = Settings { database: db.url.parse().unwrap(), ..Settings::default() };
    change(&mut settings);
    let app = App::open(settings, "http://127.0.0.1").await.unwrap();
    let plan = app.plan_push("hmis", &first).await.unwrap().unwrap();
    assert!(double.imports().is_empty(), "a plan sends nothing");
    assert_eq!(app.push("hmis", &first).await.unwrap(), 2);
    until("the values arrive", async || double.server().values.len() == 2 * 540).await;
    let sent: u64 = double.server().values.values().map(|value| value.parse::<u64>().unwrap()).sum();
    assert_eq!(sent, expected.values().sum::<u64>());
    for request in &plan.requests {
        for cell in &request.cells {
            let stored =
                double.server().value(&cell.data_element, &cell.category_option_combo, &cell.org_unit, &cell.period).map(str::to_owned);
            assert_eq!(stored.as_deref(), Some(cell.value.as_str()));
        }
    }
    let jobs = app.store.jobs(Some("dhis2.push"), None, 10).await.unwrap();
    assert_eq!(jobs.len(), 2);
    app.store.close().await;
    server.stop().await;
}

/// Sends a facility's visits, which must be taken whole.
async fn submit(server: &TestServer, facility: &str, visits: &[Visit]) {
    let (status, answer) = server.post("/api/v1/hduApi/dataTemplates", &payload(facility, visits)).await;
    assert!(status < 300, "{status} {answer}");
}

both_databases!(
    async fn counts_arrive_in_dhis2_up_to_2_42(db: &TestDb) {
        all_the_way(db, "2.41.3").await;
    }
);

both_databases!(
    async fn counts_arrive_in_dhis2_from_2_43(db: &TestDb) {
        all_the_way(db, "2.43.0").await;
    }
);

both_databases!(
    async fn parameters_may_stand_in_the_url_the_body_or_a_form(db: &TestDb) {
        const AT: &str = "/fhir/Measure/$evaluate-measure";
        let server = TestServer::open(db).await;
        submit(&server, FACILITIES[0], &visits()).await;
        let (_, whole) = server.get(&format!("{AT}?measure=opd-diagnoses&periodStart=2026-09&periodEnd=2026-09&subject=100000-0")).await;
        assert_eq!(whole["resourceType"], "MeasureReport", "{whole}");
        let (_, kept) = server.get("/fhir/MeasureReport?_summary=count").await;
        assert_eq!(kept["total"], 0, "a GET keeps nothing");

        let form = |body: &'static str| (Some("application/x-www-form-urlencoded"), body.to_owned());
        let parameters =
            |list: Value| (Some("application/fhir+json"), json!({ "resourceType": "Parameters", "parameter": list }).to_string());
        let month = json!([{ "name": "periodStart", "valueDate": "2026-09" }, { "name": "periodEnd", "valueDate": "2026-09" }]);
        let mut more = month.clone();
        more.as_array_mut().unwrap().push(json!({ "name": "measure", "valueString": "https://lango.health/fhir/Measure/opd-diagnoses" }));
        let all = "?measure=opd-diagnoses&periodStart=2026-09&periodEnd=2026-09&subject=100000-0";
        for (query, (media_type, body)) in [
            (all, form("")),
            (all, (None, String::new())),
            (all, (Some("application/fhir+json"), String::new())),
            ("?subject=100000-0", form("measure=opd-diagnoses&periodStart=2026-09&periodEnd=2026-09")),
            ("?measure=opd-diagnoses&subject=100000-0", parameters(month.clone())),
            ("?subject=urn:lango:facility%7C100000-0&periodStart=2026-09", parameters(more)),
        ] {
            let mut request = server.client.post(server.url(&format!("{AT}{query}"))).body(body);
            if let Some(media_type) = media_type {
                request = request.header("content-type", media_type);
            }
            let (status, report) = answer(request).await;
            assert_eq!((status, &report["group"]), (200, &whole["group"]), "{query}: {report}");
        }
        let (status, twice) = server
            .post(&format!("{AT}?measure=opd-diagnoses&periodStart=2026-08"), &json!({ "resourceType": "Parameters", "parameter": month }))
            .await;
        assert_eq!((status, &twice["issue"][0]["expression"][0]), (400, &json!("periodStart")), "{twice}");
        let typed = server.client.post(server.url(&format!("{AT}{all}"))).header("content-type", "text/csv").body("a,b");
        assert_eq!(answer(typed).await.0, 415);
        server.stop().await;
    }
);

both_databases!(
    async fn evaluating_writes_no_facility(db: &TestDb) {
        let server = TestServer::open(db).await;
        submit(&server, FACILITIES[0], &visits()).await;
        let organization = json!({ "resourceType": "Organization", "name": "Registered, and silent", "identifier": [{ "system": "urn:lango:facility", "value": "999999-9" }] });
        assert_eq!(server.post("/fhir/Organization", &organization).await.0, 201);
        let period = "periodStart=2026-09&periodEnd=2026-09";
        let (status, reports) = server.get(&format!("/fhir/Measure/opd-diagnoses/$evaluate-measure?{period}")).await;
        assert_eq!((status, reports["entry"].as_array().unwrap().len()), (200, 1), "{reports}");
        let (status, refused) = server.get(&format!("/fhir/Measure/opd-diagnoses/$evaluate-measure?{period}&subject=999999-9")).await;
        assert_eq!((status, &refused["issue"][0]["expression"][0]), (422, &json!("subject")), "{refused}");
        let store = lango::store::Store::open(&db.url).await.unwrap();
        assert_eq!(store.known_facility("999999-9").await.unwrap(), None);
        assert!(store.known_facility(FACILITIES[0]).await.unwrap().is_some());
        server.stop().await;
    }
);

#[test]
fn a_mistyped_database_is_not_made() {
    let db = TestDb::sqlite();
    let path = std::path::Path::new(db.url.strip_prefix("sqlite:").unwrap());
    let commands: [&[&str]; 6] = [
        &["measure", "run", "opd-diagnoses", "--period", "2026-09"],
        &["outbox", "list"],
        &["doctor", "--offline"],
        &["template", "replay"],
        &["client", "list"],
        &["backup", "/nowhere/copy.db"],
    ];
    for arguments in commands {
        let (code, said, words) = program::output(&db, arguments);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{arguments:?}: {words}");
        assert!(words.contains("there is no database") && words.contains("lango serve"), "{words}");
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

both_databases!(
    async fn an_import_says_what_was_stored_and_what_was_not(db: &TestDb) {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let mut records = payload(FACILITIES[0], &visits()[..4]);
        let count = records["data"]["listGrid"].as_array().unwrap().len();
        records["data"]["listGrid"][0].as_object_mut().unwrap().remove("outcomeDetails");
        write("a.json", records.to_string());
        write("b.ndjson", "{\"resourceType\":\"Patient\",\"id\":\"p1\"}\n\nno json\n{\"resourceType\":\"Patient\"}\n".into());
        write("c.json", "{}".into());
        let (code, said, words) = program::output(db, &["import", folder.path().to_str().unwrap()]);
        let records = if count == 2 { "1 template record".to_owned() } else { format!("{} template records", count - 1) };
        let expected =
            format!("stored 1 resource and {records} from 2 files; 2 of these only in part, 3 left out; nothing of 1 more file\n");
        assert_eq!((code, said.as_str()), (Some(1), expected.as_str()), "{words}");
        for line in
            ["listGrid[0].outcomeDetails: ", "line 3: ", "line 4: ", "b.ndjson: 1 stored, the rest not", "c.json: nothing of it was stored"]
        {
            assert!(words.contains(line), "{line}: {words}");
        }
    }
);

both_databases!(
    async fn counts_tell_nothing_of_a_patient_whom_another_facility_sent(db: &TestDb) {
        let world = World::new(db).await;
        for (token, id) in [(world.token("a"), "a"), (&*world.asker, "own")] {
            let mut patient = patient(id, "19900101-1");
            patient["gender"] = json!("female");
            world.put(token, &patient).await;
        }
        let visit = json!({ "resourceType": "Encounter", "id": "v", "status": "finished", "period": { "start": "2026-09-15T08:00:00Z" },
            "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" } });
        world.put(&world.asker, &visit).await;
        let counted_for = async |patient: &str| -> Vec<Value> {
            let category = json!({ "system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "encounter-diagnosis" });
            let condition = json!({ "resourceType": "Condition", "id": "k", "category": [{ "coding": [category] }],
                "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "A00.1" }] },
                "subject": { "reference": format!("Patient/{patient}") }, "encounter": { "reference": "Encounter/v" } });
            world.put(&world.asker, &condition).await;
            let (status, reports) =
                world.get(&world.asker, "/fhir/Measure/opd-diagnoses/$evaluate-measure?periodStart=2026-09-01&periodEnd=2026-09-30").await;
            assert_eq!(status, 200, "{reports}");
            let reports = reports["entry"].as_array().unwrap();
            reports.iter().map(|entry| entry["resource"]["group"][0].clone()).collect()
        };
        let nobody = counted_for("never-was").await;
        assert_eq!(nobody[0]["population"][0]["count"], 1);
        assert_eq!(counted_for("a").await, nobody, "neither sex nor age, nor that there is one");
        assert_ne!(counted_for("own").await, nobody);
        world.server.stop().await;
    }
);
