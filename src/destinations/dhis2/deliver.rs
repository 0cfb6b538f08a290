//! The outbox's job: one report to one destination.

use super::client::{Client, Failure, Frame};
use super::config::Dhis2Destination;
use super::mapping::Mapping;
use super::metadata::Metadata;
use super::plan::{PushPlan, facility_of, plan};
use crate::fhir::Issue;
use crate::outbox::Outcome;
use crate::store::write::NewJob;
use jiff::civil::Date;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
pub async fn deliver(destination: &Dhis2Destination, report: &Value, mapping: &Mapping, today: Date, cache: &MetadataCache) -> Outcome {
    let client = match Client::new(destination) {
        Ok(client) => client,
        Err(failure) => return failed(failure, Value::Null),
    };
    let judged = match planned(&client, destination, report, mapping, today, cache).await {
        Ok(judged) => judged,
        Err(failure) => return failed(failure, Value::Null),
    };
    let plan = match judged {
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
                    // The server may have changed since it was read.
                    cache.forget(destination);
                    refused = Some(verdict.summary());
                }
                verdicts.push(json!(verdict));
            }
            Err(failure) => return failed(failure, json!({"v": 1, "verdicts": verdicts, "warnings": warnings})),
        }
    }
    let mut completed = false;
    if destination.complete && refused.is_none() {
        for request in &plan.requests {
            if let Err(failure) = client.complete(request, today).await {
                return failed(failure, json!({"v": 1, "verdicts": verdicts, "warnings": warnings, "completed": false}));
            }
            completed = true;
        }
    }
    let mut result = json!({"v": 1, "verdicts": verdicts, "warnings": warnings});
    if completed {
        result["completed"] = json!(true);
    }
    match refused {
        None => Outcome::Done(result),
        Some(error) => Outcome::Dead { error, result },
    }
}

/// The plan of one report by what the cache knows; a plan that fails by that is made again from what the server says now.
async fn planned(
    client: &Client,
    destination: &Dhis2Destination,
    report: &Value,
    mapping: &Mapping,
    today: Date,
    cache: &MetadataCache,
) -> Result<Result<PushPlan, Vec<Issue>>, Failure> {
    let reports = std::slice::from_ref(report);
    let (data_set, names) = needs(destination, reports, mapping)?;
    let attribute = destination.attribute_option_combo.as_deref();
    if let Some(frame) = cache.get(destination, data_set) {
        let metadata = client.metadata_in(&frame, &names).await?;
        if let Ok(plan) = plan(reports, &metadata, mapping, attribute, today) {
            return Ok(Ok(plan));
        }
    }
    let frame = Arc::new(client.frame(data_set).await?);
    cache.put(destination, data_set, frame.clone());
    let metadata = client.metadata_in(&frame, &names).await?;
    Ok(plan(reports, &metadata, mapping, attribute, today))
}

/// The metadata that planning these reports, all of one measure, needs, as the server has it now.
pub async fn metadata_for(
    client: &Client,
    destination: &Dhis2Destination,
    reports: &[Value],
    mapping: &Mapping,
) -> Result<Metadata, Failure> {
    let (data_set, names) = needs(destination, reports, mapping)?;
    client.metadata(data_set, &names).await
}

/// The data set and the names of org units that these reports are about.
fn needs<'a>(destination: &'a Dhis2Destination, reports: &'a [Value], mapping: &'a Mapping) -> Result<(&'a str, Vec<&'a str>), Failure> {
    let measure = reports.first().and_then(measure_of).unwrap_or_default();
    let data_set = destination.data_set(measure).map_err(|error| Failure::Permanent { words: error.to_string() })?;
    let names: BTreeSet<&str> =
        reports.iter().filter_map(facility_of).map(|(_, system, facility)| mapping.org_unit(system, facility)).collect();
    Ok((data_set, names.into_iter().collect()))
}

/// How long what was read of a server is believed.
const BELIEVED: Duration = Duration::from_secs(5 * 60);

/// What was read of servers a short while ago, so that a push of a thousand facilities asks for the data set once.
#[derive(Clone, Debug, Default)]
pub struct MetadataCache(Arc<Mutex<Believed>>);

/// By the server's address and the data set: when it was read, and what.
type Believed = HashMap<(String, String), (Instant, Arc<Frame>)>;

impl MetadataCache {
    fn get(&self, destination: &Dhis2Destination, data_set: &str) -> Option<Arc<Frame>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, frame) = known.get(&(destination.base.to_string(), data_set.to_owned()))?;
        (read.elapsed() < BELIEVED).then(|| frame.clone())
    }

    fn put(&self, destination: &Dhis2Destination, data_set: &str, frame: Arc<Frame>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((destination.base.to_string(), data_set.to_owned()), (Instant::now(), frame));
    }

    fn forget(&self, destination: &Dhis2Destination) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(base, _), _| base != destination.base.as_str());
    }
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
