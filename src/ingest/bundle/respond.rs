//! The answering Bundle, joined from bytes.

use super::{Answer, Context, Kind, Return};
use crate::definitions;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::time::format_instant;
use crate::ingest::transaction::Outcome;
use crate::ingest::write::Effect;
use std::fmt::Write;

pub(super) fn bundle(kind: Kind, answers: &[Answer], context: &Context) -> Vec<u8> {
    let kind = match kind {
        Kind::Transaction => "transaction-response",
        Kind::Batch => "batch-response",
    };
    let mut out = format!(r#"{{"resourceType":"Bundle","id":"{}","type":"{kind}""#, uuid::Uuid::now_v7()).into_bytes();
    for (place, answer) in answers.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b",\"entry\":[" } else { b"," });
        entry(&mut out, answer, context);
    }
    if !answers.is_empty() {
        out.push(b']');
    }
    out.push(b'}');
    out
}

fn entry(out: &mut Vec<u8>, answer: &Answer, context: &Context) {
    out.push(b'{');
    match answer {
        Answer::Changed(outcome) => {
            if let Some(body) = outcome.body.as_ref().filter(|_| context.answer == Return::Representation) {
                let type_name = definitions::r4().type_name(outcome.type_code);
                out.extend_from_slice(format!(r#""fullUrl":"{}/{type_name}/{}","resource":"#, context.base_url, outcome.id).as_bytes());
                out.extend_from_slice(body);
                out.push(b',');
            }
            out.extend_from_slice(changed(outcome, context.answer).as_bytes());
        }
        Answer::Fetched(fetched) => {
            if let Some(body) = &fetched.body {
                out.extend_from_slice(b"\"resource\":");
                out.extend_from_slice(body);
                out.push(b',');
            }
            let mut response = format!(r#""response":{{"status":"{}""#, status_line(fetched.status));
            if let Some(version) = fetched.etag {
                let _ = write!(response, r#","etag":"W/\"{version}\"""#);
            }
            if let Some(updated) = fetched.updated {
                let _ = write!(response, r#","lastModified":"{}""#, format_instant(updated));
            }
            if !fetched.warnings.is_empty() {
                let _ = write!(response, r#","outcome":{}"#, operation_outcome(&fetched.warnings));
            }
            response.push('}');
            out.extend_from_slice(response.as_bytes());
        }
        Answer::Refused(refusal) => {
            let response =
                format!(r#""response":{{"status":"{}","outcome":{}}}"#, status_line(refusal.status()), operation_outcome(&refusal.issues));
            out.extend_from_slice(response.as_bytes());
        }
    }
    out.push(b'}');
}

fn changed(outcome: &Outcome, answer: Return) -> String {
    let type_name = definitions::r4().type_name(outcome.type_code);
    let mut response = format!(r#""response":{{"status":"{}""#, status_line(outcome.status()));
    if outcome.version > 0 {
        if matches!(outcome.effect, Effect::Created | Effect::Updated | Effect::Unchanged) {
            let _ = write!(response, r#","location":"{type_name}/{}/_history/{}""#, outcome.id, outcome.version);
        }
        let _ = write!(response, r#","etag":"W/\"{}\"","lastModified":"{}""#, outcome.version, format_instant(outcome.updated));
    }
    if answer == Return::OperationOutcome {
        let _ = write!(response, r#","outcome":{}"#, operation_outcome(&[]));
    }
    response.push('}');
    response
}

/// `201 Created`.
fn status_line(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    format!("{status} {reason}")
}
