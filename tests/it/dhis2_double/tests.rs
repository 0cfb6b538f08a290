//! What the double does, pinned, so that a test that passes against it means something.

use super::model::{DEFAULT_OPTION_COMBO, Server};
use super::{Double, Fault, Setup, User};
use serde_json::{Value, json};
use std::time::Duration;

/// The monthly data set, an element by age and sex, one without disaggregation, a facility.
const SET: &str = "VEM58nY22sO";
const BY_AGE_SEX: &str = "vTRrNdOOT9g";
const PLAIN: &str = "M91K9z70dl4";
const YOUNG_GIRLS: &str = "t5FrQ0GTvGf";
const UNIT: &str = "O6uvpzGd5pu";
const OLD: &str = "2.41.3";
const NEW: &str = "2.43.0";

fn payload(values: Value) -> Value {
    json!({"dataSet": SET, "period": "202609", "orgUnit": UNIT, "dataValues": values})
}

fn one(value: &str) -> Value {
    payload(json!([{"dataElement": BY_AGE_SEX, "categoryOptionCombo": YOUNG_GIRLS, "value": value}]))
}

async fn post(double: &Double, query: &str, body: &Value) -> (u16, Value) {
    let request =
        reqwest::Client::new().post(format!("{}/api/dataValueSets{query}", double.url)).basic_auth("lango", Some("district")).json(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn get(double: &Double, path: &str) -> Value {
    let request = reqwest::Client::new().get(format!("{}/api/{path}", double.url)).basic_auth("lango", Some("district"));
    request.send().await.unwrap().json().await.unwrap()
}

fn counts(summary: &Value) -> [u64; 4] {
    ["imported", "updated", "ignored", "deleted"].map(|key| summary["importCount"][key].as_u64().unwrap())
}

/// The error code that refuses a payload, after `change` was made to the server.
async fn refusal(version: &'static str, query: &str, body: Value, change: impl FnOnce(&mut Server)) -> (u16, String) {
    let double = Double::start(Setup::new(version)).await;
    change(&mut double.server());
    let (status, answer) = post(&double, query, &body).await;
    assert!(double.server().values.is_empty(), "nothing is stored");
    (status, answer["response"]["conflicts"][0]["errorCode"].as_str().unwrap_or("none").to_owned())
}

#[tokio::test]
async fn up_to_2_42_values_are_told_new_changed_and_unchanged() {
    let double = Double::start(Setup::new(OLD)).await;
    for (value, expected) in [("5", [1, 0, 0, 0]), ("5", [0, 0, 1, 0]), ("6", [0, 1, 0, 0])] {
        let (status, answer) = post(&double, "", &one(value)).await;
        assert_eq!((status, &answer["status"], counts(&answer["response"])), (200, &json!("OK"), expected));
    }
    let (_, answer) = post(&double, "?importStrategy=DELETE", &one("6")).await;
    assert_eq!((counts(&answer["response"]), double.server().values.len()), ([0, 0, 0, 1], 0));
}

#[tokio::test]
async fn from_2_43_every_value_that_was_taken_is_updated() {
    let double = Double::start(Setup::new(NEW)).await;
    for _ in 0..2 {
        let (status, answer) = post(&double, "", &one("5")).await;
        assert_eq!((status, counts(&answer["response"])), (200, [0, 1, 0, 0]));
    }
}

#[tokio::test]
async fn before_2_37_the_summary_is_bare_and_always_200() {
    let double = Double::start(Setup::new("2.36.4")).await;
    let (status, answer) = post(&double, "", &payload(json!([{"dataElement": "nowhere", "value": "1"}]))).await;
    assert_eq!((status, &answer["status"], &answer["responseType"]), (200, &json!("WARNING"), &json!("ImportSummary")));
    assert_eq!(answer["conflicts"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["object", "value"]);
}

#[tokio::test]
async fn good_values_are_stored_beside_bad_ones_up_to_2_42_and_not_from_2_43() {
    let body = payload(json!([
        {"dataElement": PLAIN, "value": "1"}, {"dataElement": "nowhere", "value": "1"}, {"dataElement": PLAIN, "value": "x"}, {"dataElement": "nowhere", "value": "2"}]));
    let old = Double::start(Setup::new(OLD)).await;
    let (status, answer) = post(&old, "", &body).await;
    assert_eq!((status, &answer["status"], counts(&answer["response"])), (409, &json!("WARNING"), [1, 0, 3, 0]));
    let conflicts = &answer["response"]["conflicts"];
    assert_eq!(
        (&conflicts[0]["errorCode"], &conflicts[0]["indexes"]),
        (&json!("E7610"), &json!([1, 3])),
        "one conflict covers all its rows"
    );
    assert_eq!((&conflicts[1]["errorCode"], &conflicts[1]["indexes"]), (&json!("E7619"), &json!([2])));
    assert_eq!(old.server().value(PLAIN, DEFAULT_OPTION_COMBO, UNIT, "202609"), Some("1"));

    let new = Double::start(Setup::new(NEW)).await;
    let (status, answer) = post(&new, "", &body).await;
    assert_eq!((status, &answer["status"]), (409, &json!("ERROR")));
    assert_eq!(
        (&answer["response"]["conflicts"][0]["errorCode"], &answer["response"]["conflicts"][0]["indexes"]),
        (&json!("E8103"), &json!([-1]))
    );
    assert!(new.server().values.is_empty());
}

#[tokio::test]
async fn from_2_43_a_bad_value_is_a_warning_with_200() {
    let double = Double::start(Setup::new(NEW)).await;
    let rows = json!([{"dataElement": PLAIN, "value": "1"}, {"dataElement": BY_AGE_SEX, "categoryOptionCombo": YOUNG_GIRLS, "value": "x"}]);
    let (status, answer) = post(&double, "", &payload(rows.clone())).await;
    assert_eq!((status, &answer["status"], counts(&answer["response"])), (200, &json!("WARNING"), [0, 1, 1, 0]));
    let (status, answer) = post(&double, "?atomic=true", &payload(rows)).await;
    assert_eq!((status, &answer["response"]["conflicts"][0]["errorCode"]), (409, &json!("E8000")));
}

#[tokio::test]
async fn a_combination_of_another_element_is_taken_up_to_2_42_unless_strict_and_refused_from_2_43() {
    let body = payload(json!([{"dataElement": PLAIN, "categoryOptionCombo": YOUNG_GIRLS, "value": "1"}]));
    let double = Double::start(Setup::new(OLD)).await;
    assert_eq!(post(&double, "", &body).await.0, 200);
    assert_eq!(refusal(OLD, "?strictCategoryOptionCombos=true", body.clone(), |_| {}).await, (409, "E7634".into()));
    assert_eq!(refusal(NEW, "", body, |_| {}).await, (409, "E8024".into()));
    // Without a combination the default one is meant, which a disaggregated element does not have.
    assert_eq!(refusal(NEW, "", payload(json!([{"dataElement": BY_AGE_SEX, "value": "1"}])), |_| {}).await, (409, "E8024".into()));
}

#[tokio::test]
async fn each_rule_has_its_code_in_each_dialect() {
    let with = |key: &str, value: &str| {
        let mut body = one("1");
        body[key] = json!(value);
        body
    };
    let nothing = |_: &mut Server| {};
    for (version, expected) in [(OLD, ["E7600", "E7603", "E7611", "E7641"]), (NEW, ["E8005", "E8107", "E8021", "E8030"])] {
        let bodies = [with("dataSet", "nowhere0000"), with("orgUnit", "nowhere0000"), with("period", "2026-09"), with("period", "202801")];
        for (body, code) in bodies.into_iter().zip(expected) {
            assert_eq!(refusal(version, "", body, nothing).await, (409, code.into()), "{version}");
        }
        let late = refusal(version, "", one("1"), |server| server.edit("dataSets", SET, |set| set["expiryDays"] = json!(10))).await;
        assert_eq!(late.1, if version == OLD { "E7640" } else { "E8030" });
        let approved = refusal(version, "", one("1"), |server| {
            server.edit("dataSets", SET, |set| set["workflow"] = json!({"id": "rIUL3hYOjJc"}));
            server.approved.insert((SET.into(), "202609".into(), UNIT.into()));
        });
        assert_eq!(approved.await.1, if version == OLD { "E7642" } else { "E8033" });
        let unopened = refusal(version, "", one("1"), |server| {
            server.edit("dataSets", SET, |set| set["dataInputPeriods"] = json!([{"period": {"id": "202610"}}]))
        });
        assert_eq!(unopened.await.1, if version == OLD { "E7643" } else { "E8030" });
        let elsewhere = refusal(version, "", one("1"), |server| server.user.capture = vec!["g8upMTyEZGZ"]).await;
        assert_eq!(elsewhere.1, if version == OLD { "E7617" } else { "E8011" });
        let unwritable = refusal(version, "", one("1"), |server| server.user.may_write = false).await;
        assert_eq!(unwritable.1, if version == OLD { "E7601" } else { "E8010" });
    }
    let unassigned = |server: &mut Server| server.edit("dataSets", SET, |set| set["organisationUnits"] = json!([]));
    assert_eq!(refusal(OLD, "?strictOrganisationUnits=true", one("1"), unassigned).await.1, "E7636");
    assert_eq!(refusal(NEW, "", one("1"), unassigned).await.1, "E8022");
    assert_eq!(refusal(NEW, "", with("dataSet", "qNtxTrp56wV"), nothing).await.1, "E8020", "every element belongs to the one data set");
    let twice = payload(json!([{"dataElement": PLAIN, "value": "1"}, {"dataElement": PLAIN, "value": "2"}]));
    assert_eq!(refusal(NEW, "", twice, nothing).await.1, "E8128");
}

#[tokio::test]
async fn a_lock_exception_opens_a_closed_period() {
    for version in [OLD, NEW] {
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataSets", SET, |set| set["expiryDays"] = json!(10));
        double.server().lock_exceptions.insert((SET.into(), "202609".into(), UNIT.into()));
        assert_eq!(post(&double, "", &one("1")).await.0, 200);
    }
}

#[tokio::test]
async fn a_running_period_needs_one_open_future_period() {
    for (open, accepted) in [(0, false), (1, true)] {
        for version in [OLD, NEW] {
            let double = Double::start(Setup::new(version)).await;
            double.server().edit("dataSets", SET, |set| set["openFuturePeriods"] = json!(open));
            let mut body = one("1");
            body["period"] = json!("202610");
            assert_eq!(post(&double, "", &body).await.0 == 200, accepted, "{version} {open}");
            body["period"] = json!("202609");
            assert_eq!(post(&double, "", &body).await.0, 200, "a period that has ended is open");
        }
    }
}

#[tokio::test]
async fn an_insignificant_zero_vanishes_up_to_2_42_and_the_old_value_stays() {
    for (version, after, expected) in [(OLD, "5", [0, 0, 0, 0]), (NEW, "0", [0, 1, 0, 0])] {
        let double = Double::start(Setup::new(version)).await;
        double.server().edit("dataElements", BY_AGE_SEX, |element| element["zeroIsSignificant"] = json!(false));
        post(&double, "", &one("5")).await;
        let (status, answer) = post(&double, "", &one("0")).await;
        assert_eq!((status, counts(&answer["response"])), (200, expected));
        assert_eq!(double.server().value(BY_AGE_SEX, YOUNG_GIRLS, UNIT, "202609"), Some(after));
    }
}

#[tokio::test]
async fn a_dry_run_stores_no_value_but_completes_up_to_2_42() {
    for (version, completed) in [(OLD, 1), (NEW, 0)] {
        let double = Double::start(Setup::new(version)).await;
        let mut body = one("5");
        body["completeDate"] = json!("2026-10-01");
        assert_eq!(post(&double, "?dryRun=true", &body).await.0, 200);
        assert!(double.server().values.is_empty());
        assert_eq!(double.server().completed.len(), completed);
    }
}

#[tokio::test]
async fn identifiers_are_uids_unless_a_scheme_says_otherwise() {
    let mut body = one("5");
    body["orgUnit"] = json!("100000-0");
    let double = Double::start(Setup::new(NEW)).await;
    assert_eq!(post(&double, "", &body).await.0, 409);
    assert_eq!(post(&double, "?orgUnitIdScheme=CODE", &body).await.0, 200);
}

#[tokio::test]
async fn an_import_as_a_task_is_followed_by_polling() {
    let double = Double::start(Setup::new(OLD)).await;
    let (status, answer) = post(&double, "?async=true", &one("5")).await;
    assert_eq!((status, &answer["response"]["jobType"]), (200, &json!("DATAVALUE_IMPORT")));
    let id = answer["response"]["id"].as_str().unwrap().to_owned();
    let (tasks, summaries) = (format!("system/tasks/DATAVALUE_IMPORT/{id}"), format!("system/taskSummaries/DATAVALUE_IMPORT/{id}"));
    assert_eq!(get(&double, &tasks).await[0]["completed"], json!(false));
    assert_eq!(get(&double, &tasks).await[0]["completed"], json!(true), "newest first");
    assert_eq!(get(&double, &summaries).await, Value::Null, "the summary comes a moment later");
    assert_eq!(counts(&get(&double, &summaries).await), [1, 0, 0, 0], "and is bare");
}

#[tokio::test]
async fn callers_without_rights_and_bodies_without_sense_are_refused() {
    for version in [OLD, NEW] {
        let double = Double::start(Setup::new(version)).await;
        let url = format!("{}/api/dataValueSets", double.url);
        let client = reqwest::Client::new();
        let status = |request: reqwest::RequestBuilder| async { request.send().await.unwrap().status().as_u16() };
        assert_eq!(status(client.post(&url).json(&one("1"))).await, 401);
        assert_eq!(status(client.post(&url).basic_auth("lango", Some("wrong")).json(&one("1"))).await, 401);
        let token = Setup::new(version).user.token;
        assert_eq!(status(client.post(&url).header("Authorization", format!("ApiToken {token}")).json(&one("1"))).await, 200);
        assert_eq!(status(client.post(&url).basic_auth("lango", Some("district")).body("x")).await, 415);
        let broken =
            client.post(&url).basic_auth("lango", Some("district")).header("Content-Type", "application/json").body("{\"dataSet\":");
        let answer = broken.send().await.unwrap();
        assert_eq!(answer.status(), 409);
        assert_eq!(answer.json::<Value>().await.unwrap().get("response").is_some(), version == OLD);
        double.server().user.may_import = false;
        assert_eq!(post(&double, "", &one("1")).await.0, 403);
    }
}

#[tokio::test]
async fn metadata_are_read_with_fields_filters_and_pages() {
    let setup = Setup { user: User { capture: vec![UNIT], ..Setup::new(OLD).user }, ..Setup::new(OLD) };
    let double = Double::start(setup).await;
    assert_eq!(get(&double, "me?fields=organisationUnits[id]").await, json!({"organisationUnits": [{"id": UNIT}]}));
    assert_eq!(get(&double, &format!("dataSets/{SET}?fields=id,periodType")).await, json!({"id": SET, "periodType": "Monthly"}));
    assert_eq!(
        get(&double, "organisationUnits?filter=code:in:[100000-0,x]&fields=id&paging=false").await,
        json!({"organisationUnits": [{"id": UNIT}]})
    );
    assert_eq!(get(&double, "dataElements").await["dataElements"].as_array().unwrap().len(), 50, "a page, unless paging is off");
    assert_eq!(get(&double, "dataElements?paging=false").await["dataElements"].as_array().unwrap().len(), 75);
    let combos =
        get(&double, "categoryCombos?filter=id:in:[IvYR8mc6prX]&fields=categoryOptionCombos[categoryOptions[code]]&paging=false").await;
    assert_eq!(combos["categoryCombos"][0]["categoryOptionCombos"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn what_was_stored_can_be_read_back() {
    let double = Double::start(Setup::new(OLD)).await;
    post(&double, "", &one("5")).await;
    let read = get(&double, &format!("dataValueSets?dataSet={SET}&period=202609&orgUnit={UNIT}")).await;
    assert_eq!(read["dataValues"][0]["value"], json!("5"));
}

#[tokio::test]
async fn faults_happen_once_and_in_their_place() {
    let double = Double::start(Setup::new(OLD)).await;
    let client = reqwest::Client::builder().timeout(Duration::from_millis(200)).build().unwrap();
    let send = || client.post(format!("{}/api/dataValueSets", double.url)).basic_auth("lango", Some("district")).json(&one("5")).send();
    double.fail("dataValueSets", Fault::Status(503, Some("7")));
    let answer = send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    double.fail("dataValueSets", Fault::Drop);
    let answer = send().await;
    assert!(answer.is_err() || answer.unwrap().bytes().await.is_err(), "no whole answer");
    double.fail("dataValueSets", Fault::Slow(Duration::from_secs(5)));
    assert!(send().await.unwrap_err().is_timeout());
    assert!(double.server().values.is_empty(), "none of these did anything");
    double.fail("dataValueSets", Fault::SlowAfterApply(Duration::from_secs(5)));
    assert!(send().await.unwrap_err().is_timeout());
    assert_eq!(double.server().values.len(), 1, "this one did");
    assert_eq!(send().await.unwrap().status(), 200);
}
