//! Pushing reports to DHIS2, against the double in both dialects: what is planned, what is sent, what is made of the answer.

use crate::dhis2_double::{Double, Fault, Setup};
use jiff::civil::{Date, date};
use lango::config::{Credentials, Destination, Secret};
use lango::destinations::dhis2::{Client, Dhis2Destination, Mapping, Metadata, MetadataCache, PushPlan, deliver, metadata_for, plan};
use lango::fhir::Issue;
use lango::outbox::Outcome;
use serde_json::{Value, json};
use std::time::Duration;

const SET: &str = "VEM58nY22sO";
const UNIT: &str = "O6uvpzGd5pu";
const POSITIVE: &str = "vTRrNdOOT9g";
const TREATED: &str = "M91K9z70dl4";
const GIRLS_UNDER_5: &str = "t5FrQ0GTvGf";
const BOYS_UNDER_5: &str = "b449dBrOSFK";
const WOMEN: &str = "kQBGXKMwoqR";
const DEFAULT: &str = "HllvX50cXC0";
const DIALECTS: [&str; 3] = ["2.36.4", "2.41.3", "2.43.0"];

fn today() -> Date {
    date(2026, 10, 15)
}

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

/// Two groups: one by age and sex, one plain. Every cell is `10 * age + sex` but the last two, which are 0.
fn report() -> Value {
    let mut strata = Vec::new();
    for (a, age) in ["P0Y--P1Y", "P1Y--P5Y", "P5Y--P15Y", "P15Y--P9999Y"].iter().enumerate() {
        for (s, sex) in ["female", "male"].iter().enumerate() {
            let count = if a == 3 { 0 } else { 10 * a + s };
            let components = [concept("urn:t:age", age), concept("urn:t:sex", sex)]
                .map(|value| json!({"code": concept("urn:t:component", "x"), "value": value}));
            strata.push(json!({"component": components, "population": [{"count": count}], "measureScore": {"value": count}}));
        }
    }
    json!({"resourceType": "MeasureReport", "status": "complete", "type": "summary", "measure": "https://example.org/Measure/malaria|1",
        "subject": {"identifier": {"system": "urn:lango:facility", "value": "100000-0"}}, "period": {"start": "2026-09-01", "end": "2026-09-30"},
        "group": [
            {"code": concept("urn:t:group", "positive"), "population": [{"count": 99}], "stratifier": [{"stratum": strata}]},
            {"code": concept("urn:t:group", "treated"), "population": [{"count": 7}]},
            {"code": concept("urn:t:group", "ignored"), "population": [{"count": 1}]}]})
}

fn map(source: &str, pairs: &[(&str, &str)]) -> Value {
    let target = |to: &str| if to.is_empty() { json!({"equivalence": "unmatched"}) } else { json!({"code": to, "equivalence": "wider"}) };
    let elements: Vec<Value> = pairs.iter().map(|(from, to)| json!({"code": from, "target": [target(to)]})).collect();
    json!({"source": source, "element": elements})
}

fn mapping() -> Mapping {
    mapping_with(&[("positive", "TA_MAL_CASES_POS_RDT"), ("treated", TREATED), ("ignored", "")], "TA_F")
}

fn mapping_with(groups: &[(&str, &str)], female: &str) -> Mapping {
    let ages =
        [("P0Y--P1Y", "TA_P0Y--P5Y"), ("P1Y--P5Y", "TA_P0Y--P5Y"), ("P5Y--P15Y", "TA_P5Y--P15Y"), ("P15Y--P9999Y", "TA_P15Y--P999Y")];
    let elements = json!({"group": [map("urn:t:group", groups)]});
    let options = json!({"group": [map("urn:t:age", &ages), map("urn:t:sex", &[("female", female), ("male", "TA_M")])]});
    Mapping::new(Some(&elements), Some(&options), None)
}

fn destination(double: &Double) -> Dhis2Destination {
    at(&double.url, Credentials::Basic { username: "lango".into(), password: Secret::new("district") })
}

fn at(url: &str, credentials: Credentials) -> Dhis2Destination {
    let settings = format!(
        "id = \"hmis\"\nkind = \"dhis2\"\nurl = \"{url}\"\ntimeout_s = 1\n[data_sets]\nmalaria = \"{SET}\"\nopd-diagnoses = \"LangoOpdDx1\""
    );
    let settings: Destination = toml::from_str(&settings).unwrap();
    Dhis2Destination::new(&settings, credentials).unwrap()
}

async fn push(double: &Double) -> Outcome {
    deliver(&destination(double), &report(), &mapping(), today(), &MetadataCache::default()).await
}

async fn planned(double: &Double, report: &Value, mapping: &Mapping) -> Result<PushPlan, Vec<Issue>> {
    let destination = destination(double);
    let client = Client::new(&destination).unwrap();
    let metadata = metadata_for(&client, &destination, std::slice::from_ref(report), mapping).await.unwrap();
    plan(std::slice::from_ref(report), &metadata, mapping, None, today())
}

#[tokio::test]
async fn the_cells_of_a_report_arrive_with_zeros_and_sums_in_every_dialect() {
    for version in DIALECTS {
        let double = Double::start(Setup::new(version)).await;
        let outcome = push(&double).await;
        let Outcome::Done(result) = &outcome else { panic!("{version}: {outcome:?}") };
        assert_eq!(result["verdicts"][0]["status"], json!("SUCCESS"));
        let value = |element: &str, combo: &str| double.server().value(element, combo, UNIT, "202609").map(str::to_owned);
        assert_eq!(double.server().values.len(), 7, "six cells by age and sex, one plain");
        assert_eq!(value(POSITIVE, GIRLS_UNDER_5).as_deref(), Some("10"), "0 + 10: two bands in one option");
        assert_eq!(value(POSITIVE, BOYS_UNDER_5).as_deref(), Some("12"), "1 + 11");
        assert_eq!(value(POSITIVE, WOMEN).as_deref(), Some("0"));
        assert_eq!(value(TREATED, DEFAULT).as_deref(), Some("7"));
        assert_eq!(double.imports().len(), 1);
        assert!(matches!(push(&double).await, Outcome::Done(_)), "{version}: the same again is no failure");
    }
}

#[tokio::test]
async fn a_request_is_one_data_set_one_org_unit_one_period_with_uids_and_schemes() {
    let double = Double::start(Setup::new("2.43.0")).await;
    let plan = planned(&double, &report(), &mapping()).await.unwrap();
    let body = serde_json::to_string_pretty(&plan.requests[0].body).unwrap();
    insta::assert_snapshot!(format!("{:?}\n{body}", plan.requests[0].query));
    push(&double).await;
    assert_eq!(
        serde_json::from_slice::<Value>(&double.imports()[0].body).unwrap(),
        plan.requests[0].body,
        "what is planned is what is sent"
    );
}

/// With more settings, before `[data_sets]`.
fn with(double: &Double, more: &str) -> Dhis2Destination {
    let settings =
        format!("id = \"hmis\"\nkind = \"dhis2\"\nurl = \"{}\"\ntimeout_s = 1\n{more}\n[data_sets]\nmalaria = \"{SET}\"", double.url);
    let settings: Destination = toml::from_str(&settings).unwrap();
    Dhis2Destination::new(&settings, Credentials::Basic { username: "lango".into(), password: Secret::new("district") }).unwrap()
}

#[tokio::test]
async fn a_data_set_is_completed_when_asked_and_only_after_a_push_that_was_taken_whole() {
    let key = (SET.to_owned(), "202609".to_owned(), UNIT.to_owned());
    for version in DIALECTS {
        let double = Double::start(Setup::new(version)).await;
        let cache = MetadataCache::default();
        deliver(&with(&double, "complete = false"), &report(), &mapping(), today(), &cache).await;
        assert!(double.server().completed.is_empty(), "{version}: nobody asked");
        let asking = with(&double, "complete = true");
        for fault in [Fault::Status(503, None), Fault::DropAfterApply] {
            double.fail("completeDataSetRegistrations", fault);
            let outcome = deliver(&asking, &report(), &mapping(), today(), &cache).await;
            assert!(matches!(outcome, Outcome::Retry { .. }), "{version}: {outcome:?}");
        }
        let outcome = deliver(&asking, &report(), &mapping(), today(), &cache).await;
        let Outcome::Done(result) = outcome else { panic!("{version}: {outcome:?}") };
        assert_eq!(result["completed"], json!(true));
        assert_eq!(double.server().completed.get(&key).map(String::as_str), Some("2026-10-15"));

        // A refused push completes nothing.
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataSets", SET, |set| set["expiryDays"] = json!(5));
        let outcome = deliver(&with(&double, "complete = true"), &report(), &mapping(), today(), &cache).await;
        assert!(matches!(outcome, Outcome::Dead { .. }), "{version}: {outcome:?}");
        assert!(double.server().completed.is_empty());
    }
}

#[tokio::test]
async fn what_is_the_same_for_every_facility_is_read_once_and_again_when_it_does_not_fit() {
    let double = Double::start(Setup::new("2.41.3")).await;
    let (cache, destination) = (MetadataCache::default(), destination(&double));
    let reads = || double.asked().iter().filter(|asked| asked.target.contains("dataSets/")).count();
    for _ in 0..5 {
        assert!(matches!(deliver(&destination, &report(), &mapping(), today(), &cache).await, Outcome::Done(_)));
    }
    assert_eq!(reads(), 1);
    // The operator adds in DHIS2 what was missing, and requeues: no need to wait until the cache is old.
    double.server().edit("dataSets", SET, |set| set["periodType"] = json!("Quarterly"));
    let quarter = |report: &mut Value| report["period"] = json!({"start": "2026-07-01", "end": "2026-09-30"});
    let mut quarterly = report();
    quarter(&mut quarterly);
    assert!(matches!(deliver(&destination, &quarterly, &mapping(), today(), &cache).await, Outcome::Done(_)));
    assert_eq!(reads(), 2);
}

#[tokio::test]
async fn an_attribute_option_combo_is_sent_when_it_is_set_and_checked_before() {
    const COMBO: &str = "BwnnrV1AkNj";
    for version in ["2.41.3", "2.43.0"] {
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataSets", SET, |set| set["categoryCombo"] = json!({ "id": COMBO }));
        let attribute = {
            let server = double.server();
            let combos = server.package["categoryOptionCombos"].as_array().unwrap();
            combos.iter().find(|one| one["categoryCombo"]["id"] == COMBO).unwrap()["id"].as_str().unwrap().to_owned()
        };
        let cache = MetadataCache::default();
        let outcome = deliver(&destination(&double), &report(), &mapping(), today(), &cache).await;
        let Outcome::Dead { error, .. } = outcome else { panic!("{version}: {outcome:?}") };
        assert!(error.contains("attribute_option_combo"), "{error}");
        let wrong = with(&double, &format!("attribute_option_combo = \"{DEFAULT}\""));
        assert!(matches!(deliver(&wrong, &report(), &mapping(), today(), &cache).await, Outcome::Dead { .. }), "{version}");
        assert!(double.imports().is_empty());
        let right = with(&double, &format!("complete = true\nattribute_option_combo = \"{attribute}\""));
        let outcome = deliver(&right, &report(), &mapping(), today(), &cache).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{version}: {outcome:?}");
        assert!(double.server().values.keys().all(|key| key.attribute_combo == attribute));
    }
}

#[tokio::test]
async fn a_wrong_mapping_is_found_before_anything_is_sent() {
    let good = [("positive", POSITIVE), ("treated", TREATED), ("ignored", "")];
    let changed = |at: usize, to: &'static str| {
        let mut groups = good;
        groups[at].1 = to;
        groups
    };
    let cases: Vec<(&str, Mapping)> = vec![
        ("a group that the map does not name", mapping_with(&good[..2], "TA_F")),
        ("an element that is not in the data set", mapping_with(&changed(0, "TA_NO_SUCH"), "TA_F")),
        ("an element of another data set", mapping_with(&changed(0, "FRbgzTZ74Hh"), "TA_F")),
        ("an element with other categories", mapping_with(&changed(0, "TA_MAL_DEATH"), "TA_F")),
        ("an element that takes no numbers", mapping_with(&changed(1, "TA_MAL_STOCKOUT_RDT"), "TA_F")),
        ("a disaggregated element for a group without strata", mapping_with(&changed(1, "TA_MAL_PV_RDT"), "TA_F")),
        ("an option that does not exist", mapping_with(&good, "TA_FEMALE")),
        ("an option of the wrong category", mapping_with(&good, "TA_P0Y--P5Y")),
        ("no maps at all", Mapping::new(None, None, None)),
    ];
    let mut words = String::new();
    for version in ["2.41.3", "2.43.0"] {
        let double = Double::start(Setup::new(version)).await;
        let mut said = String::new();
        for (case, mapping) in &cases {
            let issues = planned(&double, &report(), mapping).await.expect_err(case);
            said += &format!("# {case}\n");
            for issue in issues.iter().take(3) {
                said += &format!("- {} [{}]\n", issue.diagnostics, issue.expression);
            }
            let outcome = deliver(&destination(&double), &report(), mapping, today(), &MetadataCache::default()).await;
            let Outcome::Dead { result, .. } = outcome else { panic!("{case}: {outcome:?}") };
            assert_eq!(result["problems"].as_array().unwrap().len(), issues.len());
        }
        assert!(double.imports().is_empty(), "nothing was sent");
        assert!(words.is_empty() || words == said, "both dialects say the same");
        words = said;
    }
    insta::assert_snapshot!(words);
}

#[tokio::test]
async fn what_the_server_would_refuse_is_said_before_it_is_asked() {
    type Change = fn(&mut Double);
    let cases: [(&str, Change); 9] = [
        ("not assigned to org unit", |d| d.server().edit("dataSets", SET, |s| s["organisationUnits"] = json!([]))),
        ("may not capture", |d| d.server().user.capture = vec!["g8upMTyEZGZ"]),
        ("no org unit named", |d| d.server().edit("organisationUnits", UNIT, |u| u["code"] = json!("other"))),
        ("not open in the report's period", |d| {
            d.server().edit("organisationUnits", UNIT, |u| u["closedDate"] = json!("2025-12-31T00:00:00.000"))
        }),
        ("calendar is ethiopian", |d| d.server().calendar = "ethiopian"),
        ("does not say which DHIS2 version", |d| d.server().version = "0.43"),
        ("not exactly one Quarterly period", |d| d.server().edit("dataSets", SET, |s| s["periodType"] = json!("Quarterly"))),
        ("period type SixMonthlyNov", |d| d.server().edit("dataSets", SET, |s| s["periodType"] = json!("SixMonthlyNov"))),
        ("attribute option combo", |d| d.server().edit("dataSets", SET, |s| s["categoryCombo"] = json!({"id": "BwnnrV1AkNj"}))),
    ];
    for (words, change) in cases {
        let mut double = Double::start(Setup::new("2.42.0")).await;
        change(&mut double);
        let issues = planned(&double, &report(), &mapping()).await.expect_err(words);
        assert!(issues.iter().any(|issue| issue.diagnostics.contains(words)), "{words}: {issues:?}");
    }
    let double = Double::start(Setup::new("2.42.0")).await;
    let mut early = report();
    early["period"] = json!({"start": "2028-01-01", "end": "2028-01-31"});
    let issues = planned(&double, &early, &mapping()).await.unwrap_err();
    assert!(issues[0].diagnostics.contains("not open yet"), "{issues:?}");
}

#[tokio::test]
async fn zeros_that_a_server_drops_are_warned_of() {
    for (version, warned) in [("2.41.3", true), ("2.43.0", false)] {
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataElements", POSITIVE, |element| element["zeroIsSignificant"] = json!(false));
        let plan = planned(&double, &report(), &mapping()).await.unwrap();
        assert_eq!(plan.warnings.iter().any(|w| w.diagnostics.contains("zeroIsSignificant")), warned, "{version}");
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_keeps_its_cells() {
    for (version, code) in [("2.41.3", "E7640"), ("2.43.0", "E8030")] {
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataSets", SET, |set| set["expiryDays"] = json!(5));
        let Outcome::Dead { error, result } = push(&double).await else { panic!("a verdict is not asked for again") };
        assert!(error.contains(code), "{error}");
        let conflict = &result["verdicts"][0]["conflicts"][0];
        assert_eq!((conflict["errorCode"].as_str(), conflict["kind"].as_str()), (Some(code), Some("locked")));
        let cells = conflict["cells"].as_array().unwrap();
        assert_eq!((cells.len(), &cells[6]["dataElement"], &cells[6]["period"]), (7, &json!(TREATED), &json!("202609")));
        assert!(result["warnings"][0]["what"].as_str().unwrap().contains("lock exception"), "and it was foreseen");
    }
}

#[tokio::test]
async fn one_bad_cell_is_told_from_its_neighbours() {
    for (version, stored, cells) in [("2.36.4", 6, 1), ("2.41.3", 6, 1), ("2.43.0", 0, 0)] {
        let double = Double::start(Setup::new(version)).await;
        let mut request = planned(&double, &report(), &mapping()).await.unwrap().requests.remove(0);
        request.body["dataValues"][6]["dataElement"] = json!("nowhere0000");
        request.cells[6].data_element = "nowhere0000".into();
        let verdict = Client::new(&destination(&double)).unwrap().send(&request).await.unwrap();
        assert!(!verdict.is_success());
        assert_eq!((double.server().values.len(), verdict.conflicts[0].cells.len()), (stored, cells), "{version}");
    }
}

#[tokio::test]
async fn what_may_go_better_by_itself_is_tried_again_and_counts_once() {
    let faults = [
        Fault::Status(500, None),
        Fault::Status(502, None),
        Fault::Status(503, Some("7")),
        Fault::Status(429, Some("7")),
        Fault::Drop,
        Fault::DropAfterApply,
        Fault::Slow(Duration::from_secs(30)),
        Fault::SlowAfterApply(Duration::from_secs(30)),
        Fault::Page,
    ];
    for version in ["2.41.3", "2.43.0"] {
        let double = Double::start(Setup::new(version)).await;
        for fault in &faults {
            double.fail("dataValueSets", fault.clone());
            let outcome = push(&double).await;
            let Outcome::Retry { after, .. } = outcome else { panic!("{fault:?}: {outcome:?}") };
            let asked = matches!(fault, Fault::Status(_, Some(_))).then_some(Duration::from_secs(7));
            assert_eq!(after, asked, "{fault:?}");
        }
        double.fail("system/info", Fault::Status(503, None));
        assert!(matches!(push(&double).await, Outcome::Retry { .. }));
        assert!(matches!(push(&double).await, Outcome::Done(_)));
        assert_eq!(double.server().values.len(), 7);
        assert_eq!(double.server().value(TREATED, DEFAULT, UNIT, "202609"), Some("7"));
    }
}

#[tokio::test]
async fn what_needs_a_person_is_not_tried_again_and_says_no_secret() {
    let double = Double::start(Setup::new("2.41.3")).await;
    let wrong = at(&double.url, Credentials::Basic { username: "lango".into(), password: Secret::new("mistyped-secret") });
    let no_right = || double.server().user.may_import = false;
    let mut outcomes = vec![deliver(&wrong, &report(), &mapping(), today(), &MetadataCache::default()).await];
    for fault in [Fault::Status(413, None), Fault::Status(404, None), Fault::Status(415, None), Fault::Status(409, None)] {
        double.fail("dataValueSets", fault);
        outcomes.push(push(&double).await);
    }
    double.fail("system/info", Fault::Page);
    outcomes.push(push(&double).await);
    no_right();
    outcomes.push(push(&double).await);
    for outcome in outcomes {
        let Outcome::Dead { error, result } = &outcome else { panic!("{outcome:?}") };
        let said = format!("{error} {result}");
        assert!(!said.contains("mistyped-secret") && !said.contains("district") && !said.contains("nginx"), "{said}");
    }
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let (double, elsewhere) = (Double::start(Setup::new("2.41.3")).await, Double::start(Setup::new("2.41.3")).await);
    double.fail("system/info", Fault::Redirect(format!("{}/api/system/info", elsewhere.url)));
    let Outcome::Dead { error, .. } = push(&double).await else { panic!("a redirect needs a person") };
    assert!(error.contains("redirects"), "{error}");
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn a_personal_access_token_works_like_a_password() {
    let setup = Setup::new("2.43.0");
    let token = setup.user.token;
    let double = Double::start(setup).await;
    let destination = at(&double.url, Credentials::Token(Secret::new(token)));
    assert!(matches!(deliver(&destination, &report(), &mapping(), today(), &MetadataCache::default()).await, Outcome::Done(_)));
}

/// A report of the shipped measure with every cell 1.
fn shipped_report() -> Value {
    let measure: Value = serde_json::from_str(include_str!("../../profiles/measures/opd-diagnoses.json")).unwrap();
    let ages = ["P0Y--P1Y", "P1Y--P5Y", "P5Y--P15Y", "P15Y--P50Y", "P50Y--P9999Y"];
    let stratum = |age: &str, sex: &str| {
        let values =
            [concept("https://lango.health/fhir/CodeSystem/age-band", age), concept("http://hl7.org/fhir/administrative-gender", sex)];
        json!({"component": values.map(|value| json!({ "value": value })), "measureScore": {"value": 1}})
    };
    let strata: Vec<Value> = ages.iter().flat_map(|age| ["male", "female"].map(|sex| stratum(age, sex))).collect();
    let groups = measure["group"].as_array().unwrap().iter();
    let groups: Vec<Value> =
        groups.map(|g| json!({"code": g["code"], "population": [{"count": 10}], "stratifier": [{"stratum": strata}]})).collect();
    let mut report = report();
    report["measure"] = json!(format!("{}|1", measure["url"].as_str().unwrap()));
    report["group"] = json!(groups);
    report
}

fn shipped_mapping() -> Mapping {
    let file = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    Mapping::new(
        Some(&file(include_str!("../../conceptmaps/ConceptMap-dhis2-data-element.json"))),
        Some(&file(include_str!("../../conceptmaps/ConceptMap-dhis2-category-option.json"))),
        Some(&file(include_str!("../../conceptmaps/ConceptMap-dhis2-org-unit.json"))),
    )
}

#[tokio::test]
async fn the_shipped_measure_maps_and_metadata_package_fit_each_other() {
    let package: Value = serde_json::from_str(include_str!("../../profiles/dhis2/opd-diagnoses.json")).unwrap();
    for version in ["2.41.3", "2.43.0"] {
        let double = Double::start(Setup { package: package.clone(), ..Setup::new(version) }).await;
        let outcome = deliver(&destination(&double), &shipped_report(), &shipped_mapping(), today(), &MetadataCache::default()).await;
        let Outcome::Done(result) = &outcome else { panic!("{outcome:?}") };
        assert_eq!((double.server().values.len(), &result["warnings"]), (540, &json!([])));
    }
    // The same plan without a server, for a dry run: the org unit stays a code.
    let metadata = Metadata::from_package(&package, "LangoOpdDx1", "2.41.3");
    let plan = plan(&[shipped_report()], &metadata, &shipped_mapping(), None, today()).unwrap();
    let request = &plan.requests[0];
    assert_eq!((&request.body["orgUnit"], request.cells.len()), (&json!("100000-0"), 540));
    assert!(request.query.contains(&("orgUnitIdScheme", "CODE")));
    let double = Double::start(Setup { package, ..Setup::new("2.43.0") }).await;
    assert!(Client::new(&destination(&double)).unwrap().send(request).await.unwrap().is_success(), "and it is a request that DHIS2 takes");
}
