//! The shipped Measure compiled against the shipped terminology, and Measures that cannot be lowered.

use super::super::fold::Fold;
use super::super::report::{Facility, report, report_id};
use super::*;
use crate::definitions;
use crate::fhir::time::parse_interval;
use crate::store::system_key;
use crate::store::{Fact, FactValue};
use serde_json::json;

const ICD: &str = "http://hl7.org/fhir/sid/icd-10";

/// Terminology read straight from the shipped files, slowly.
struct Files;

fn file(name: &str) -> Option<Value> {
    let path = format!("{}/conceptmaps/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

impl Terms for Files {
    fn members(&self, value_set: &str) -> Option<Vec<Value>> {
        let set = file(&format!("ValueSet-{}", value_set.rsplit('/').next()?))?;
        let include = &set["compose"]["include"][0];
        Some(list(include, "concept").iter().map(|concept| json!({"system": include["system"], "code": concept["code"]})).collect())
    }

    fn translate(&self, map: &str, system: &str, code: &str) -> Option<(String, String)> {
        let map = file(&format!("ConceptMap-{}", map.rsplit('/').next()?))?;
        let group = &map["group"][0];
        if group["source"] != system {
            return None;
        }
        let category = code.get(..3).unwrap_or(code);
        let element = list(group, "element").iter().find(|e| e["code"] == category);
        let target = element.map_or(&group["unmapped"]["code"], |e| &e["target"][0]["code"]);
        Some((group["target"].as_str()?.into(), target.as_str()?.into()))
    }
}

fn shipped() -> Value {
    serde_json::from_str(include_str!("../../../profiles/measures/opd-diagnoses.json")).unwrap()
}

fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut measure = shipped();
    measure["group"].as_array_mut().unwrap().truncate(2);
    change(&mut measure);
    MeasurePlan::compile(&measure, &Files).unwrap_err().into_iter().map(|issue| issue.expression).collect()
}

#[test]
fn the_shipped_measure_becomes_one_query_of_four_columns() {
    let plan = MeasurePlan::compile(&shipped(), &Files).unwrap();
    let r4 = definitions::r4();
    let name = |id: ParamId| r4.param_by_id(id).map(|p| format!("{}.{}", r4.type_name(type_of(id)), p.code)).unwrap();
    let columns: Vec<String> =
        plan.columns.iter().map(|c| c.hops.iter().map(|h| name(*h)).chain([name(c.leaf)]).collect::<Vec<_>>().join(" > ")).collect();
    assert_eq!(
        columns,
        [
            "Condition.code",
            "Condition.encounter > Encounter.date",
            "Condition.subject > Patient.birthdate",
            "Condition.subject > Patient.gender"
        ]
    );
    assert_eq!((plan.tables.groups.len(), plan.tables.stratifiers.len(), plan.tables.strata(0)), (54, 1, 10));
    let query = plan.fact_query(ReportPeriod::parse("2026-09").unwrap(), &TimeZone::UTC, Scope::All).unwrap();
    let [Filter::Param { param, .. }, Filter::Chain { targets, .. }] = query.base.filters.as_slice() else {
        panic!("one filter on the condition, one on its encounter: {:?}", query.base.filters)
    };
    assert_eq!(name(*param), "Condition.category");
    assert_eq!(targets[0].1.len(), 3, "class and both ends of the period are asked of the same encounter");
}

#[test]
fn codes_go_to_the_group_of_their_category_and_others_to_other() {
    let plan = MeasurePlan::compile(&shipped(), &Files).unwrap();
    let group = |system: &str, code: &str| {
        let groups = plan.classify(&Files, system_key(system), code);
        groups.mapped.map(|g| plan.groups[usize::from(g)].code["coding"][0]["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(group(ICD, "B50.9").as_deref(), Some("B50"));
    assert_eq!(group(ICD, "Z99.1").as_deref(), Some("OTHER"));
    assert_eq!(group("https://lango.health/fhir/CodeSystem/hmis-diagnosis-group", "A09").as_deref(), Some("A09"));
    assert_eq!(group("http://snomed.info/sct", "61462000"), None);
}

#[test]
fn a_report_has_every_cell_and_keeps_its_id() {
    let plan = MeasurePlan::compile(&shipped(), &Files).unwrap();
    let period = ReportPeriod::parse("2026-09").unwrap();
    let zone = TimeZone::UTC;
    let mut fold = Fold::new(plan.tables(), period, &zone, |system, code| plan.classify(&Files, system, code));
    let date = |text: &str| FactValue::Date(parse_interval(text, &TimeZone::UTC).unwrap());
    for (key, sex) in [(1, Some("female")), (2, None)] {
        let sex = sex.map_or(FactValue::Missing, |sex| FactValue::Tokens(vec![(0, sex.into())]));
        let code = FactValue::Tokens(vec![(system_key(ICD), "B50.9".into())]);
        fold.add(&Fact { key, owner: 7, values: vec![code, date("2026-09-07"), date("2020-09-07"), sex] });
    }
    let (counts, uncounted) = fold.finish().remove(&7).unwrap();
    let facility = Facility { system: "urn:lango:facility".into(), code: "100000-0".into(), name: None };
    let report = report(&plan, &facility, period, &counts, uncounted);
    let groups = list(&report, "group");
    assert_eq!(groups.iter().map(|g| list(&g["stratifier"][0], "stratum").len()).sum::<usize>(), 540);
    let malaria = groups.iter().find(|g| g["code"]["coding"][0]["code"] == "B50").unwrap();
    assert_eq!((&malaria["population"][0]["count"], &malaria["extension"][0]["valueUnsignedInt"]), (&json!(2), &json!(1)));
    let mut small = malaria.clone();
    small["stratifier"][0]["stratum"].as_array_mut().unwrap().retain(|s| s["measureScore"]["value"] != 0);
    insta::assert_snapshot!(serde_json::to_string_pretty(&small).unwrap());
    assert_eq!(report["period"], json!({"start": "2026-09-01", "end": "2026-09-30"}));
    assert_eq!(report["id"], report_id(&plan.url, &facility, period));
    let other = Facility { code: "100371-1".into(), ..facility.clone() };
    assert_ne!(report_id(&plan.url, &other, period), report_id(&plan.url, &facility, period));
}

#[test]
fn what_cannot_be_lowered_is_refused_with_its_path() {
    let population = "/group/0/population/0/criteria";
    let component = "/group/0/stratifier/0/component/1";
    let set = |pointer: &str, value: Value| {
        let pointer = pointer.to_owned();
        refused(move |measure| *measure.pointer_mut(&pointer).unwrap() = value)
    };
    assert_eq!(set(&format!("{population}/language"), json!("text/cql")), ["Measure.group[0].population[0].criteria.language"]);
    assert_eq!(set(&format!("{population}/expression"), json!("what?")), ["Measure.group[0].population[0].criteria.expression"]);
    assert_eq!(
        set(&format!("{component}/criteria/expression"), json!("subject.resolve().name.where(use = 'official')")),
        ["Measure.group[0].stratifier[0].component[1].criteria.expression"]
    );
    assert_eq!(
        set(&format!("{component}/criteria/expression"), json!("recordedDate")),
        ["Measure.group[0].stratifier[0].component[1].criteria"]
    );
    assert_eq!(set(&format!("{component}/code/coding/0/code"), json!("height")), ["Measure.group[0].stratifier[0].component[1].code"]);
    assert_eq!(set("/scoring/coding/0/code", json!("ratio")), ["Measure.scoring"]);
    assert_eq!(set("/extension", json!([])), ["Measure.extension"]);
    assert!(!set("/url", Value::Null).is_empty());
    let twice = set(&format!("{population}/expression"), shipped()["group"][1]["population"][0]["criteria"]["expression"].clone());
    assert!(!twice.is_empty(), "two groups that ask the same are a mistake in a partition");
}
