//! Counts as a MeasureReport in the shape of mADX (<https://profiles.ihe.net/QRPH/mADX/StructureDefinition/mADX-MeasureReport>).

use super::fold::{Counts, StratifierCounts, Uncounted};
use super::period::ReportPeriod;
use super::plan::{MeasurePlan, StratifierNames, list, text};
use serde_json::{Map, Value, json};

/// On a group: how many of its population are in no stratum, because a component has no listed value.
const UNSTRATIFIED: &str = "https://lango.health/fhir/StructureDefinition/measure-report-unstratified";
/// On a report: how many records met the queries and were in no group, because no ConceptMap places their code.
const UNGROUPED: &str = "https://lango.health/fhir/StructureDefinition/measure-report-ungrouped";
const PROFILE: &str = "https://profiles.ihe.net/QRPH/mADX/StructureDefinition/mADX-MeasureReport";

/// A facility as its reports name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facility {
    /// The system of `code`, such as `urn:lango:facility`.
    pub system: String,
    pub code: String,
    pub name: Option<String>,
}

/// The id of the report of a measure for a facility and a period: the same in every run, so that a run updates what an
/// earlier one wrote.
pub fn report_id(measure_url: &str, facility: &Facility, period: ReportPeriod) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [measure_url, &facility.system, &facility.code, &period.first().to_string(), &period.last().to_string()] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("mr-{}", hash.finalize().to_hex().get(..40).unwrap_or_default())
}

/// Writes the report. It carries no date of its own, so that a run that counts the same says the same; `meta.lastUpdated` tells
/// since when it does. Every stratum of the cross product is there, zeros included.
pub fn report(plan: &MeasurePlan, facility: &Facility, period: ReportPeriod, counts: &Counts, uncounted: Uncounted) -> Value {
    let mut organization = json!({"type": "Organization", "identifier": {"system": facility.system, "value": facility.code}});
    if let Some(name) = &facility.name {
        organization["display"] = json!(name);
    }
    let mut report = json!({"resourceType": "MeasureReport", "id": report_id(&plan.url, facility, period), "meta": {"profile": [PROFILE]}});
    if uncounted.no_group > 0 {
        report["extension"] = json!([{"url": UNGROUPED, "valueUnsignedInt": uncounted.no_group}]);
    }
    report["status"] = json!("complete");
    report["type"] = json!("summary");
    report["measure"] = json!(plan.canonical);
    report["subject"] = organization.clone();
    report["reporter"] = organization;
    report["period"] = json!({"start": period.first().to_string(), "end": period.last().to_string()});
    if let Some(notation) = &plan.improvement {
        report["improvementNotation"] = notation.clone();
    }
    report["group"] = Value::Array(groups(plan, counts));
    report
}

fn groups(plan: &MeasurePlan, counts: &Counts) -> Vec<Value> {
    let counted = plan.groups.iter().zip(counts.groups()).zip(&plan.tables.groups);
    counted
        .map(|((names, counts), stratifiers)| {
            let outside = counts.stratifiers.iter().map(|s| s.outside).max().unwrap_or(0);
            let mut group = Map::new();
            if outside > 0 {
                group.insert("extension".into(), json!([{"url": UNSTRATIFIED, "valueUnsignedInt": outside}]));
            }
            group.insert("code".into(), names.code.clone());
            group.insert("population".into(), json!([{"code": names.population, "count": counts.population}]));
            let stratifiers: Vec<Value> = stratifiers
                .iter()
                .zip(&counts.stratifiers)
                .filter_map(|(at, counts)| Some(stratifier(plan, *at, plan.stratifiers.get(*at)?, &names.population, counts)))
                .collect();
            if !stratifiers.is_empty() {
                group.insert("stratifier".into(), Value::Array(stratifiers));
            }
            Value::Object(group)
        })
        .collect()
}

fn stratifier(plan: &MeasurePlan, at: usize, names: &StratifierNames, population: &Value, counts: &StratifierCounts) -> Value {
    let population = plain(population);
    let strata = counts.strata.iter().enumerate().map(|(place, count)| {
        let places = plan.tables.places(at, place);
        let components: Vec<Value> = names
            .components
            .iter()
            .zip(places)
            .map(|(component, place)| json!({"code": plain(&component.code), "value": concept(component.values.get(place))}))
            .collect();
        json!({"component": components, "population": [{"code": population, "count": count}], "measureScore": {"value": count}})
    });
    let strata: Vec<Value> = strata.collect();
    match &names.code {
        Some(code) => json!({"code": [code], "stratum": strata}),
        None => json!({"stratum": strata}),
    }
}

/// A CodeableConcept without its words: strata are many, and their words stand in the Measure.
fn plain(code: &Value) -> Value {
    concept(list(code, "coding").first())
}

fn concept(coding: Option<&Value>) -> Value {
    let coding = coding.unwrap_or(&Value::Null);
    let mut plain = Map::new();
    for key in ["system", "code"] {
        if let Some(part) = text(coding, key) {
            plain.insert(key.into(), json!(part));
        }
    }
    json!({ "coding": [plain] })
}
