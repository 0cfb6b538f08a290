//! The outbox's job: one report to one destination.

use super::client::{Client, Failure};
use super::config::Dhis2Destination;
use super::mapping::Mapping;
use super::metadata::Metadata;
use super::plan::{facility_of, plan};
use crate::fhir::Issue;
use crate::outbox::Outcome;
use crate::store::write::NewJob;
use jiff::civil::Date;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The kind of job that [`push_job`] makes.
pub const JOB_KIND: &str = "dhis2.push";

/// The job that pushes the MeasureReport with this id to a destination. A waiting job for the same report and destination is
/// replaced: the report is read when the job runs, so that one push sends the newest numbers.
pub fn push_job(report_id: &str, destination_id: &str) -> NewJob {
    NewJob {
        kind: JOB_KIND.into(),
        payload: json!({"v": 1, "report": report_id, "destination": destination_id}),
        dedup_key: Some(format!("{destination_id}|{report_id}")),
        run_at: 0,
    }
}

/// The report id and the destination id of a job's payload; `None` for a payload of another version.
pub fn read_job(payload: &Value) -> Option<(&str, &str)> {
    let version = payload.get("v").and_then(Value::as_u64)?;
    (version == 1).then_some(())?;
    Some((payload.get("report")?.as_str()?, payload.get("destination")?.as_str()?))
}

/// Plans `report` against the server's own metadata and sends it. Nothing is sent when the plan has a problem. The result that
/// is kept holds DHIS2's verdict with each conflict's cells, or the problems.
pub async fn deliver(destination: &Dhis2Destination, report: &Value, mapping: &Mapping, today: Date) -> Outcome {
    let client = match Client::new(destination) {
        Ok(client) => client,
        Err(failure) => return failed(failure, Value::Null),
    };
    let metadata = match metadata_for(&client, destination, std::slice::from_ref(report), mapping).await {
        Ok(metadata) => metadata,
        Err(failure) => return failed(failure, Value::Null),
    };
    let plan = match plan(std::slice::from_ref(report), &metadata, mapping, today) {
        Ok(plan) => plan,
        Err(problems) => {
            let error = format!(
                "nothing was sent: {} problems, the first: {}",
                problems.len(),
                problems.first().map_or("", |p| p.diagnostics.as_str())
            );
            return Outcome::Dead { error, result: json!({"v": 1, "problems": issues(&problems)}) };
        }
    };
    let warnings = issues(&plan.warnings);
    let mut verdicts = Vec::new();
    let mut refused = None;
    for request in &plan.requests {
        match client.send(request).await {
            Ok(verdict) => {
                if !verdict.is_success() {
                    refused = Some(verdict.summary());
                }
                verdicts.push(json!(verdict));
            }
            Err(failure) => return failed(failure, json!({"v": 1, "verdicts": verdicts, "warnings": warnings})),
        }
    }
    let result = json!({"v": 1, "verdicts": verdicts, "warnings": warnings});
    match refused {
        None => Outcome::Done(result),
        Some(error) => Outcome::Dead { error, result },
    }
}

/// The metadata that planning these reports, all of one measure, needs.
pub async fn metadata_for(
    client: &Client,
    destination: &Dhis2Destination,
    reports: &[Value],
    mapping: &Mapping,
) -> Result<Metadata, Failure> {
    let measure = reports.first().and_then(measure_of).unwrap_or_default();
    let data_set = destination.data_set(measure).map_err(|error| Failure::Permanent { words: error.to_string() })?;
    let names: BTreeSet<&str> =
        reports.iter().filter_map(facility_of).map(|(_, system, facility)| mapping.org_unit(system, facility)).collect();
    client.metadata(data_set, &names.into_iter().collect::<Vec<_>>()).await
}

/// The id of the measure that a report is of: the end of its canonical.
fn measure_of(report: &Value) -> Option<&str> {
    report.get("measure")?.as_str()?.split('|').next()?.rsplit('/').next()
}

fn failed(failure: Failure, result: Value) -> Outcome {
    match failure {
        Failure::Transient { words, after } => Outcome::Retry { error: words, after },
        Failure::Permanent { words } => Outcome::Dead { error: words, result },
    }
}

fn issues(issues: &[Issue]) -> Vec<Value> {
    issues.iter().map(|issue| json!({"severity": issue.severity.as_str(), "what": issue.diagnostics, "where": issue.expression})).collect()
}
