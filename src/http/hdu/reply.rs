//! The replies of the HDU API, in its words.

use crate::fhir::{Issue, Severity};
use crate::ingest::submit::{Outcome, Report};
use crate::ingest::template::{Processed, Record, Verdict};
use serde_json::{Value, json};

/// The reply to a payload that was carried out; 400 when every record is bad.
pub fn report(report: &Report) -> (u16, Value) {
    let (mut new, mut updated, mut failed, mut ignored) = (0, 0, 0, 0);
    let mut summary = Vec::new();
    let mut invalid = Vec::new();
    for (record, outcome) in report.processed.records.iter().zip(&report.outcomes) {
        match outcome {
            Outcome::New => {
                new += 1;
                summary.push(line(record, true, "Client created successfully"));
            }
            Outcome::Updated => {
                updated += 1;
                summary.push(line(record, true, "Client updated successfully"));
            }
            Outcome::Unchanged => {
                ignored += 1;
                summary.push(line(record, true, "Client data unchanged"));
            }
            Outcome::Failed(issues) => {
                failed += 1;
                let mut line = line(record, false, "Client data could not be stored");
                line["validationIssues"] = sentences(issues, record.index);
                summary.push(line);
            }
            Outcome::Invalid(issues) => invalid.push(invalid_line(record, issues)),
        }
    }
    let all_bad = !invalid.is_empty() && invalid.len() == report.processed.records.len();
    let status = if all_bad { 400 } else { 200 };
    let mut body = json!({
        "status": if all_bad { "VALIDATION_ERROR" } else { "SUCCESS" },
        "statusCode": status,
        "newClients": new,
        "updatedClients": updated,
        "failedClients": failed,
        "ignoredClients": ignored,
        "summary": summary,
        "invalidClients": invalid.len(),
        "invalidClientsSummary": invalid,
    });
    add_advice(&mut body, &report.processed);
    (status, body)
}

/// The same in the words of the laboratory endpoint.
pub fn lab_report(report: &Report) -> (u16, Value) {
    let (status, body) = self::report(report);
    let take = |key: &str| body.get(key).cloned().unwrap_or_default();
    let mut lab = json!({
        "status": take("status"),
        "statusCode": take("statusCode"),
        "newRequests": 0,
        "updatedRequests": 0,
        "failedRequests": take("failedClients"),
        "ignoredRequests": take("ignoredClients"),
        "invalidRequests": take("invalidClients"),
        "invalidRequestsSummary": take("invalidClientsSummary"),
    });
    // A laboratory request has no client that could be new: what was stored for the first time is.
    let count = |key: &str| body.get(key).and_then(Value::as_u64).unwrap_or_default();
    lab["newRequests"] = json!(count("newClients") + count("updatedClients"));
    let told = report.processed.records.iter().zip(&report.outcomes).filter_map(|(record, outcome)| {
        let message = match outcome {
            Outcome::New | Outcome::Updated => "Request stored successfully",
            Outcome::Unchanged => "Request data unchanged",
            Outcome::Failed(_) => "Request data could not be stored",
            Outcome::Invalid(_) => return None,
        };
        Some(json!({ "specimen": record.label, "message": message }))
    });
    lab["summary"] = told.collect();
    for key in ["warnings", "unmapped"] {
        if let Some(advice) = body.get(key) {
            lab[key] = advice.clone();
        }
    }
    (status, lab)
}

/// The reply to a dry run.
pub fn checked(processed: &Processed) -> (u16, Value) {
    let invalid: Vec<Value> = processed
        .records
        .iter()
        .filter(|record| matches!(record.verdict, Verdict::Rejected))
        .map(|record| invalid_line(record, &record.errors))
        .collect();
    let total = processed.records.len();
    let all_bad = !invalid.is_empty() && invalid.len() == total;
    let mut body = if invalid.is_empty() {
        json!({
            "statusDetails": "Completed testing data",
            "message": format!("{total} records passed through all data validation rules. Nothing was stored."),
        })
    } else {
        json!({
            "status": "VALIDATION_ERROR",
            "statusCode": if all_bad { 400 } else { 200 },
            "statusDetails": "Completed testing data",
            "message": format!("{} of {total} records break data validation rules. Nothing was stored.", invalid.len()),
            "invalidClients": invalid.len(),
            "invalidClientsSummary": invalid,
        })
    };
    add_advice(&mut body, processed);
    (if all_bad { 400 } else { 200 }, body)
}

fn line(record: &Record, success: bool, message: &str) -> Value {
    let hcr = record.identifiers.iter().find(|(kind, _)| kind.eq_ignore_ascii_case("HCRCODE")).map(|(_, value)| value);
    let identifiers: Vec<Value> = record.identifiers.iter().map(|(kind, value)| json!({ "type": kind, "value": value })).collect();
    json!({ "hcrCode": hcr, "success": success, "message": message, "visitId": record.visit_id, "identifiers": identifiers })
}

fn invalid_line(record: &Record, issues: &[Issue]) -> Value {
    json!({
        "index": record.index,
        "identifier": record.label,
        "visitId": record.visit_id,
        "validationIssues": sentences(issues, record.index),
    })
}

/// `Field 'demographicDetails.firstName': is mandatory`, the path within the record.
fn sentences(issues: &[Issue], index: usize) -> Value {
    let prefix = format!("listGrid[{index}].");
    issues
        .iter()
        .map(|issue| {
            let path = issue.expression.find(&prefix).and_then(|at| issue.expression.get(at + prefix.len()..)).unwrap_or(&issue.expression);
            if path.is_empty() { issue.diagnostics.clone() } else { format!("Field '{path}': {}", issue.diagnostics) }
        })
        .collect()
}

/// What does not stop a record and should be known all the same: unknown keys, codes that no map knows.
fn add_advice(body: &mut Value, processed: &Processed) {
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
        body["warnings"] = Value::Array(warnings);
    }
    if !unmapped.is_empty() {
        body["unmapped"] = Value::Array(unmapped);
    }
}
