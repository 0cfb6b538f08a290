//! The replies of the HDU API, in its words.

use crate::fhir::{Issue, Severity};
use crate::ingest::submit::{Outcome, Report};
use crate::ingest::template::{Processed, Record, Verdict};
use serde_json::{Map, Value, json};

/// How a door speaks of its records: the general one of clients, the laboratory's of requests.
pub struct Words {
    /// What the counts end with, as in `newClients`.
    what: &'static str,
    created: &'static str,
    updated: &'static str,
    unchanged: &'static str,
    failed: &'static str,
    line: fn(&Record, bool, &str) -> Value,
    /// Whether a record counts as new that brought only new things, whoever its client is.
    new_without_client: bool,
}

pub static CLIENTS: Words = Words {
    what: "Clients",
    created: "Client created successfully",
    updated: "Client updated successfully",
    unchanged: "Client data unchanged",
    failed: "Client data could not be stored",
    line: client_line,
    new_without_client: false,
};

pub static REQUESTS: Words = Words {
    what: "Requests",
    created: "Lab details created successfully",
    updated: "Lab details updated successfully",
    unchanged: "Lab details unchanged",
    failed: "Lab details could not be stored",
    line: request_line,
    new_without_client: true,
};

/// The reply to a payload that was carried out; 400 when every record is bad.
pub fn report(report: &Report, words: &Words) -> (u16, Value) {
    let (mut new, mut updated, mut failed, mut ignored) = (0u64, 0u64, 0u64, 0u64);
    let mut summary = Vec::new();
    let mut invalid = Vec::new();
    for (record, outcome) in report.processed.records.iter().zip(&report.outcomes) {
        let (count, message) = match outcome {
            Outcome::New => (&mut new, words.created),
            Outcome::Added if words.new_without_client => (&mut new, words.created),
            Outcome::Added | Outcome::Updated => (&mut updated, words.updated),
            Outcome::Unchanged => (&mut ignored, words.unchanged),
            Outcome::Failed(_) => (&mut failed, words.failed),
            Outcome::Invalid(issues) => {
                invalid.push(invalid_line(record, issues));
                continue;
            }
        };
        *count += 1;
        let mut line = (words.line)(record, !matches!(outcome, Outcome::Failed(_)), message);
        if let Outcome::Failed(issues) = outcome {
            line["validationIssues"] = sentences(issues, &record.path);
        }
        summary.push(line);
    }
    let all_bad = !invalid.is_empty() && invalid.len() == report.processed.records.len();
    let status = if all_bad { 400 } else { 200 };
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(if all_bad { "VALIDATION_ERROR" } else { "SUCCESS" }));
    body.insert("statusCode".to_owned(), json!(status));
    if all_bad {
        body.insert("message".to_owned(), json!(format!("All records failed validation: see invalid{}Summary.", words.what)));
    }
    for (name, count) in [("new", new), ("updated", updated), ("failed", failed), ("ignored", ignored)] {
        body.insert(format!("{name}{}", words.what), json!(count));
    }
    body.insert("summary".to_owned(), Value::Array(summary));
    add_invalid(&mut body, words, invalid);
    add_advice(&mut body, &report.processed);
    (status, Value::Object(body))
}

/// The reply to a dry run.
pub fn checked(processed: &Processed, words: &Words) -> (u16, Value) {
    let invalid: Vec<Value> = processed
        .records
        .iter()
        .filter(|record| matches!(record.verdict, Verdict::Rejected))
        .map(|record| invalid_line(record, &record.errors))
        .collect();
    let total = processed.records.len();
    let all_bad = !invalid.is_empty() && invalid.len() == total;
    let status = if all_bad { 400 } else { 200 };
    let mut body = Map::new();
    if !invalid.is_empty() {
        body.insert("status".to_owned(), json!("VALIDATION_ERROR"));
        body.insert("statusCode".to_owned(), json!(status));
    }
    body.insert("statusDetails".to_owned(), json!("Completed testing data"));
    let message = match invalid.len() {
        0 => format!("{total} records passed through all data validation rules. Nothing was stored."),
        bad => format!("{bad} of {total} records break data validation rules. Nothing was stored."),
    };
    body.insert("message".to_owned(), json!(message));
    if !invalid.is_empty() {
        add_invalid(&mut body, words, invalid);
    }
    add_advice(&mut body, processed);
    (status, Value::Object(body))
}

fn add_invalid(body: &mut Map<String, Value>, words: &Words, invalid: Vec<Value>) {
    body.insert(format!("invalid{}", words.what), json!(invalid.len()));
    body.insert(format!("invalid{}Summary", words.what), Value::Array(invalid));
}

fn client_line(record: &Record, success: bool, message: &str) -> Value {
    let hcr = record.identifiers.iter().find(|(kind, _)| kind.eq_ignore_ascii_case("HCRCODE")).map(|(_, value)| value);
    let identifiers: Vec<Value> = record.identifiers.iter().map(|(kind, value)| json!({ "type": kind, "value": value })).collect();
    json!({ "hcrCode": hcr, "success": success, "message": message, "visitId": record.visit_id, "identifiers": identifiers })
}

fn request_line(record: &Record, _: bool, message: &str) -> Value {
    json!({ "specimen": record.label, "message": message })
}

fn invalid_line(record: &Record, issues: &[Issue]) -> Value {
    json!({
        "index": record.index,
        "identifier": record.label,
        "visitId": record.visit_id,
        "validationIssues": sentences(issues, &record.path),
    })
}

/// `Field 'demographicDetails.firstName': is mandatory`, the path within the record.
fn sentences(issues: &[Issue], record: &str) -> Value {
    issues
        .iter()
        .map(|issue| {
            let within = issue.expression.strip_prefix(record).map(|rest| rest.trim_start_matches('.'));
            match within.unwrap_or(&issue.expression) {
                "" => issue.diagnostics.clone(),
                path => format!("Field '{path}': {}", issue.diagnostics),
            }
        })
        .collect()
}

/// What does not stop a record and should be known all the same: unknown keys, codes that no map knows.
fn add_advice(body: &mut Map<String, Value>, processed: &Processed) {
    let of_envelope = processed.envelope_warnings.iter().map(|issue| (None, issue));
    let of_records = processed.records.iter().flat_map(|record| record.warnings.iter().map(move |issue| (Some(record), issue)));
    let warnings: Vec<Value> = of_envelope
        .chain(of_records)
        .map(|(record, issue)| {
            json!({
                "index": record.map(|record| record.index),
                "identifier": record.map(|record| record.label.as_str()),
                "severity": if issue.severity == Severity::Information { "information" } else { "warning" },
                "path": issue.expression,
                "message": issue.diagnostics,
            })
        })
        .collect();
    let unmapped: Vec<Value> = processed
        .records
        .iter()
        .flat_map(|record| record.unmapped.iter().map(move |code| (record, code)))
        .map(
            |(record, code)| json!({ "index": record.index, "path": code.path, "map": code.map, "system": code.system, "code": code.code }),
        )
        .collect();
    if !warnings.is_empty() {
        body.insert("warnings".to_owned(), Value::Array(warnings));
    }
    if !unmapped.is_empty() {
        body.insert("unmapped".to_owned(), Value::Array(unmapped));
    }
}
