//! The replies of the HDU API, in its words.

use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, Severity};
use crate::ingest::submit::{Outcome, Report};
use crate::ingest::template::Record;
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

/// What identifiers of the national client registry are called.
const HCR_TYPES: [&str; 4] = ["HCRCODE", "HCR", "HCR-CODE", "HCR_CODE"];
/// Issues of the OperationOutcome.
const MOST_ISSUES: usize = 100;
/// Lines of bad records, of warnings and of unmapped codes in one reply, each; how many more there are is said beside them.
const MOST_LINES: usize = 1_000;

/// The reply to a payload that was carried out; 400 when every record is bad.
pub fn report(report: &Report, words: &Words) -> (u16, Value) {
    let (mut new, mut updated, mut failed, mut ignored) = (0u64, 0u64, 0u64, 0u64);
    let mut summary = Vec::new();
    let mut invalid = Lines::default();
    for (record, outcome) in report.records.iter().zip(&report.outcomes) {
        let (count, message) = match outcome {
            Outcome::New => (&mut new, words.created),
            Outcome::Added if words.new_without_client => (&mut new, words.created),
            Outcome::Added | Outcome::Updated => (&mut updated, words.updated),
            Outcome::Unchanged => (&mut ignored, words.unchanged),
            Outcome::Failed(_) => (&mut failed, words.failed),
            Outcome::Invalid(issues) => {
                invalid.push(|| invalid_line(record, issues));
                continue;
            }
        };
        *count += 1;
        let mut line = (words.line)(record, !outcome.is_bad(), message);
        if let Outcome::Failed(issues) = outcome {
            line["validationIssues"] = sentences(issues, &record.path);
        }
        summary.push(line);
    }
    let all_bad = !report.outcomes.is_empty() && report.rejected() == report.outcomes.len();
    let status = if all_bad { 400 } else { 200 };
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(if all_bad { "VALIDATION_ERROR" } else { "SUCCESS" }));
    body.insert("statusCode".to_owned(), json!(status));
    if all_bad {
        let at = format!("invalid{}Summary", words.what);
        let message = match failed {
            0 => format!("All records failed validation: see {at}."),
            _ => format!("No record was stored: see validationIssues in summary and {at}."),
        };
        body.insert("message".to_owned(), json!(message));
    }
    for (name, count) in [("new", new), ("updated", updated), ("failed", failed), ("ignored", ignored)] {
        body.insert(format!("{name}{}", words.what), json!(count));
    }
    body.insert("summary".to_owned(), Value::Array(summary));
    add_invalid(&mut body, words, invalid);
    add_advice(&mut body, report);
    if all_bad {
        add_outcome(&mut body, report);
    }
    (status, Value::Object(body))
}

/// The reply to a dry run.
pub fn checked(report: &Report, words: &Words) -> (u16, Value) {
    let mut invalid = Lines::default();
    for (record, outcome) in report.records.iter().zip(&report.outcomes) {
        if let Outcome::Invalid(issues) | Outcome::Failed(issues) = outcome {
            invalid.push(|| invalid_line(record, issues));
        }
    }
    let total = report.records.len();
    let all_bad = invalid.total > 0 && invalid.total == total;
    let status = if all_bad { 400 } else { 200 };
    let mut body = Map::new();
    if invalid.total > 0 {
        body.insert("status".to_owned(), json!("VALIDATION_ERROR"));
        body.insert("statusCode".to_owned(), json!(status));
    }
    body.insert("statusDetails".to_owned(), json!("Completed testing data"));
    let message = match invalid.total {
        0 => format!("{total} records passed through all data validation rules. Nothing was stored."),
        bad => format!("{bad} of {total} records would not be stored, and nothing was."),
    };
    body.insert("message".to_owned(), json!(message));
    if invalid.total > 0 {
        add_invalid(&mut body, words, invalid);
    }
    add_advice(&mut body, report);
    if all_bad {
        add_outcome(&mut body, report);
    }
    (status, Value::Object(body))
}

/// The first lines of a list, and how many it has.
#[derive(Default)]
struct Lines {
    lines: Vec<Value>,
    total: usize,
}

impl Lines {
    fn push(&mut self, line: impl FnOnce() -> Value) {
        self.total += 1;
        if self.lines.len() < MOST_LINES {
            self.lines.push(line());
        }
    }

    /// Under `name`, and how many are left out under `nameLeftOut` when some are.
    fn put(self, body: &mut Map<String, Value>, name: &str) {
        let left_out = self.total.saturating_sub(self.lines.len());
        body.insert(name.to_owned(), Value::Array(self.lines));
        if left_out > 0 {
            body.insert(format!("{name}LeftOut"), json!(left_out));
        }
    }
}

fn add_invalid(body: &mut Map<String, Value>, words: &Words, invalid: Lines) {
    body.insert(format!("invalid{}", words.what), json!(invalid.total));
    invalid.put(body, &format!("invalid{}Summary", words.what));
}

/// A refused payload is an OperationOutcome too, as every error of this API is: the first problems of all records.
fn add_outcome(body: &mut Map<String, Value>, report: &Report) {
    let issues = report.outcomes.iter().flat_map(|outcome| match outcome {
        Outcome::Invalid(issues) | Outcome::Failed(issues) => issues.as_slice(),
        _ => &[],
    });
    let issues: Vec<Issue> = issues.take(MOST_ISSUES).cloned().collect();
    let outcome: Value = operation_outcome(&issues);
    body.extend(outcome.as_object().cloned().unwrap_or_default());
}

fn client_line(record: &Record, success: bool, message: &str) -> Value {
    // What the registry calls the client: as sent now, else as it was sent before.
    let mut all = record.identifiers.iter().chain(&record.known);
    let hcr = all.find(|(kind, _)| HCR_TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known))).map(|(_, value)| value);
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
fn add_advice(body: &mut Map<String, Value>, report: &Report) {
    let of_envelope = report.envelope_warnings.iter().map(|issue| (None, issue));
    let of_records = report.records.iter().flat_map(|record| record.warnings.iter().map(move |issue| (Some(record), issue)));
    let (mut warnings, mut unmapped) = (Lines::default(), Lines::default());
    for (record, issue) in of_envelope.chain(of_records) {
        warnings.push(|| {
            json!({
                "index": record.map(|record| record.index),
                "identifier": record.map(|record| record.label.as_str()),
                "severity": if issue.severity == Severity::Information { "information" } else { "warning" },
                "path": issue.expression,
                "message": issue.diagnostics,
            })
        });
    }
    for (record, code) in report.records.iter().flat_map(|record| record.unmapped.iter().map(move |code| (record, code))) {
        unmapped.push(|| json!({ "index": record.index, "path": code.path, "map": code.map, "system": code.system, "code": code.code }));
    }
    warnings.total += report.left_out.warnings;
    unmapped.total += report.left_out.unmapped;
    for (lines, name) in [(warnings, "warnings"), (unmapped, "unmapped")] {
        if lines.total > 0 {
            lines.put(body, name);
        }
    }
}
