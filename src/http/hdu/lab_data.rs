//! `GET labData`: laboratory data without a client, read back in the template's words.
//!
//! Specimens without a subject, newest first, each with its reports and results as `labRequestDetails` says them. What a field became
//! in FHIR is undone here by hand; fields that R4 has no element for come back from the extension that kept them.

use super::HduError;
use crate::access::{Caller, Interaction, audit};
use crate::app::App;
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::search::{self, ParseOptions};
use crate::store::{Store, Stored};
use crate::terminology::listing::positive;
use axum::extract::{Extension, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const PATH: &str = "labData";
const MOST_PAGE_SIZE: usize = 100;
/// How deep pages may go: whoever needs more narrows by facility or specimen.
const MOST_DEPTH: usize = 2_000;
/// Reports or results of one page of specimens.
const MOST_RESULTS: u32 = 10_000;
/// Where a field lies that R4 has no element for.
const FIELD: &str = "https://lango.health/fhir/StructureDefinition/hdu-field";

pub async fn answer(State(app): State<App>, Extension(caller): Extension<Caller>, RawQuery(query): RawQuery) -> Response {
    page(&app, &caller, &query.unwrap_or_default()).await.unwrap_or_else(|refusal| HduError::at(PATH)(refusal).into_response())
}

async fn page(app: &App, caller: &Caller, query: &str) -> Result<Response, Refusal> {
    for name in ["Specimen", "DiagnosticReport", "Observation"] {
        caller.require_all(name, Interaction::Search)?;
    }
    let given: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let number = |name: &'static str| positive(given.get(name).map_or("", String::as_str)).ok_or_else(|| super::no_number(name));
    let (page, page_size) = (number("page")?.unwrap_or(1), number("pageSize")?.unwrap_or(10).min(MOST_PAGE_SIZE));
    let first = (page - 1).saturating_mul(page_size);
    if first >= MOST_DEPTH {
        let words = format!("Pages go to entry {MOST_DEPTH}: narrow the question by facility or specimenId.");
        return Err(Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::TooCostly, words).at("page")));
    }
    // The documentation says facility, the original's code facilityCode.
    let facility = given.get("facility").or_else(|| given.get("facilityCode")).filter(|code| !code.is_empty());
    let specimen = given.get("specimenId").filter(|id| !id.is_empty());
    let mut pairs = vec![("subject:missing".to_owned(), "true".to_owned()), ("_sort".to_owned(), "-_lastUpdated".to_owned())];
    if facility.is_some() || specimen.is_some() {
        let system = facility.map(|code| format!("https://lango.health/id/facility/{}/specimen|", search::escape(&code.replace(' ', "_"))));
        pairs.push((
            "identifier".to_owned(),
            format!("{}{}", system.unwrap_or_default(), search::escape(specimen.map_or("", String::as_str))),
        ));
    }
    let r4 = definitions::r4();
    let code = |name: &str| r4.type_code(name).ok_or_else(Refusal::not_found);
    let options = ParseOptions { strict: true, ..ParseOptions::new(&app.writer.options().base, app.zone.clone()) };
    let asked = search::parse(code("Specimen")?, &pairs, caller.scope.clone(), &options)
        .map_err(|issues| Refusal::all(RefusalKind::Malformed, issues))?;
    let total = app.store.count(&asked.query, None).await?;
    let limit = u32::try_from(first.saturating_add(page_size)).unwrap_or(u32::MAX);
    let specimens: Vec<Stored> = app.store.search(&asked.query, limit, None).await?.rows.into_iter().skip(first).collect();
    show(&specimens);
    let reports = about(&app.store, &specimens, "DiagnosticReport", caller).await?;
    let results = about(&app.store, &specimens, "Observation", caller).await?;
    let by_id: HashMap<String, &Value> =
        results.iter().filter_map(|result| Some((format!("Observation/{}", text(result, "/id")?), result))).collect();
    let records: Vec<Value> = specimens.iter().filter_map(body).map(|specimen| record(&specimen, &reports, &by_id)).collect();
    let pages = total.div_ceil(page_size as u64);
    let pager = json!({ "page": page, "pageSize": page_size, "total": total, "totalPages": pages });
    Ok(Json(json!({ "results": records, "pager": pager })).into_response())
}

async fn about(store: &Store, specimens: &[Stored], type_name: &str, caller: &Caller) -> Result<Vec<Value>, Refusal> {
    let r4 = definitions::r4();
    let Some(param) = r4.type_code(type_name).and_then(|type_code| r4.param(type_code, "specimen")) else { return Ok(Vec::new()) };
    let keys: Vec<_> = specimens.iter().map(|specimen| specimen.key).collect();
    let found = store.referring_to(&keys, &[param.id], &caller.scope, MOST_RESULTS).await?;
    show(&found);
    Ok(found.iter().filter_map(body).collect())
}

/// For the record of who saw what.
fn show(rows: &[Stored]) {
    if let Some(trail) = audit::current() {
        trail.shows(rows.iter().map(|row| (row.type_code, row.id.clone())));
    }
}

fn body(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}

/// One `labRequestDetails` entry.
fn record(specimen: &Value, reports: &[Value], results: &HashMap<String, &Value>) -> Value {
    let mut record = Map::new();
    let at = |pointer: &str| specimen.pointer(pointer).cloned();
    put(&mut record, "specimenID", at("/identifier/0/value"));
    let secondary = list(specimen, "identifier").iter().find(|identifier| text(identifier, "/use") == Some("secondary"));
    put(&mut record, "referringSpecimenId", secondary.and_then(|identifier| identifier.get("value").cloned()));
    put(&mut record, "typeOfSpecimen", coded(specimen.get("type")));
    put(&mut record, "specimenSite", coded(specimen.pointer("/collection/bodySite")));
    put(&mut record, "specimenCollectorName", at("/collection/collector/display"));
    put(&mut record, "specimenCollectionVolumeInMl", at("/collection/quantity/value"));
    put(&mut record, "dateTimeSpecimenCollected", at("/collection/collectedDateTime"));
    put(&mut record, "dateTimeSpecimenReceived", at("/receivedTime"));
    kept(&mut record, specimen, "labRequestDetails");
    let sample = text(specimen, "/identifier/0/value").unwrap_or_default();
    let me = format!("Specimen/{}", text(specimen, "/id").unwrap_or_default());
    let mine = reports.iter().filter(|report| list(report, "specimen").iter().any(|one| text(one, "/reference") == Some(&me)));
    let told: Vec<Value> = mine.map(|report| test_results(report, results, sample)).collect();
    record.insert("labTestResults".to_owned(), Value::Array(told));
    Value::Object(record)
}

fn test_results(report: &Value, results: &HashMap<String, &Value>, sample: &str) -> Value {
    let mut told = Map::new();
    put(&mut told, "obrSetId", number_in(report, sample, 0));
    put(&mut told, "typeOfTest", coded(report.get("code")));
    put(&mut told, "testResultDate", report.get("issued").or(report.get("effectiveDateTime")).cloned());
    put(&mut told, "resultStatus", report.get("status").map(|code| json!({ "code": code, "codeType": "HL7FHIR" })));
    put(&mut told, "resultsAuthorisedBy", report.pointer("/resultsInterpreter/0/display").cloned());
    kept(&mut told, report, "labRequestDetails.labTestResults");
    let linked = list(report, "result").iter().filter_map(|one| results.get(text(one, "/reference")?));
    told.insert("results".to_owned(), linked.map(|observation| result(observation, sample)).collect());
    Value::Object(told)
}

fn result(observation: &Value, sample: &str) -> Value {
    let mut told = Map::new();
    put(&mut told, "obrSetId", number_in(observation, sample, 0));
    let at = |pointer: &str| observation.pointer(pointer).cloned();
    put(&mut told, "obxSetId", number_in(observation, sample, 1));
    put(&mut told, "parameter", at("/code/text"));
    put(&mut told, "observation", coded(observation.get("code")).map(|code| json!({ "code": code["code"], "type": code["codeType"] })));
    let comparator = text(observation, "/valueQuantity/comparator").unwrap_or_default();
    let value = at("/valueQuantity/value").map(|number| json!(format!("{comparator}{number}")));
    put(&mut told, "result", value.or(at("/valueString")).or(at("/valueCodeableConcept/text")));
    put(&mut told, "codedValue", coded(observation.get("valueCodeableConcept")));
    put(&mut told, "unit", at("/valueQuantity/unit"));
    put(&mut told, "lowRange", at("/referenceRange/0/low/value"));
    put(&mut told, "highRange", at("/referenceRange/0/high/value"));
    put(&mut told, "abnormalFlagCode", at("/interpretation/0/coding/0/code").or(at("/interpretation/0/text")));
    put(&mut told, "releaseDate", at("/issued").or(at("/effectiveDateTime")));
    put(&mut told, "resultStatus", at("/status").map(|code| json!({ "code": code, "codeType": "HL7FHIR" })));
    put(&mut told, "remarks", at("/note/0/text"));
    kept(&mut told, observation, "labRequestDetails.labTestResults.results");
    Value::Object(told)
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

/// `{code, codeType}` of a CodeableConcept.
fn coded(concept: Option<&Value>) -> Option<Value> {
    let concept = concept?;
    let coding = concept.pointer("/coding/0");
    let code = coding.and_then(|coding| coding.get("code")).or(concept.get("text"))?;
    let kind = match coding.and_then(|coding| text(coding, "/system")) {
        Some("http://loinc.org") => Some("LOINC"),
        Some("http://snomed.info/sct") => Some("SNOMED"),
        Some("http://hl7.org/fhir/sid/icd-10") => Some("ICD-10"),
        other => other,
    };
    Some(json!({ "code": code, "codeType": kind }))
}

/// A number of the own identifier, which is `lab/SPECIMEN/OBR` or `lab/SPECIMEN/OBR/OBX/SUB`.
fn number_in(resource: &Value, sample: &str, place: usize) -> Option<Value> {
    let own = text(resource, "/identifier/0/value")?.strip_prefix("lab/")?.strip_prefix(sample)?.strip_prefix('/')?;
    own.split('/').nth(place)?.parse::<u64>().ok().map(|number| json!(number))
}

/// The fields that were kept as extensions, at their places below `block`.
fn kept(map: &mut Map<String, Value>, resource: &Value, block: &str) {
    for extension in list(resource, "extension").iter().filter(|extension| text(extension, "/url") == Some(FIELD)) {
        let part = |url: &str| list(extension, "extension").iter().find(|part| text(part, "/url") == Some(url));
        let path = part("field").and_then(|part| text(part, "/valueCode"));
        let Some(path) = path.and_then(|path| path.strip_prefix(block)).and_then(|path| path.strip_prefix('.')) else { continue };
        let Some((kind, value)) =
            part("value").and_then(Value::as_object).and_then(|part| part.iter().find(|(key, _)| key.starts_with("value")))
        else {
            continue;
        };
        let value = match kind.as_str() {
            "valueQuantity" => value.get("value").cloned().unwrap_or_default(),
            "valueCoding" => coded(Some(&json!({ "coding": [value] }))).unwrap_or_default(),
            _ => value.clone(),
        };
        let mut steps: Vec<&str> = path.split('.').collect();
        let last = steps.pop().unwrap_or_default();
        let parent =
            steps.into_iter().try_fold(&mut *map, |place, step| place.entry(step.to_owned()).or_insert_with(|| json!({})).as_object_mut());
        if let Some(parent) = parent {
            parent.entry(last.to_owned()).or_insert(value);
        }
    }
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}
