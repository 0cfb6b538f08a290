//! create, update, delete, with and without conditions, and Bundles (<https://hl7.org/fhir/R4/http.html#create>).

use super::super::body;
use super::super::error::Failure;
use super::super::negotiate::{self, Format};
use super::super::state::FhirState;
use super::answer::Answer;
use super::{Call, Sent};
use crate::access::Interaction;
use crate::definitions;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode, json};
use crate::ingest::Refusal;
use crate::ingest::bundle::{self, Context, Fetched, Return, criteria_of};
use crate::ingest::patch::Patch;
use crate::ingest::transaction::{self, Entry, Operation, Outcome};
use crate::ingest::tries::Tries;
use crate::ingest::write::{CommitError, Condition, Effect, Writer};
use crate::store::TypeCode;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use std::sync::Arc;

pub async fn create(call: &Call<'_>, type_code: TypeCode, body: Bytes) -> Result<Answer, Failure> {
    let type_name = definitions::r4().type_name(type_code);
    // One that says nothing is not one that was not sent.
    let header = call.headers.get("if-none-exist").map(|value| value.to_str()).transpose();
    let header = header
        .map_err(|_| Failure::bad_request("If-None-Exist is written in ASCII, other characters as UTF-8 in escapes: é is %C3%A9."))?;
    let header = header.map(|text| criteria_of(text.trim(), type_name));
    // Criteria in the URL, as some clients write them: to pass over them would make a twin of what they meant to find.
    let url = (!call.query.is_empty()).then(|| criteria(call)).transpose()?;
    if header.is_some() && url.is_some() {
        return Err(Failure::bad_request("Give the criteria of a conditional create once: in If-None-Exist, or in the URL."));
    }
    let criteria = header.or(url);
    if criteria.as_deref().is_some_and(|text| text.trim_start_matches('?').is_empty()) {
        return Err(Failure::bad_request("If-None-Exist names no criteria: give some, such as identifier=system|value, or leave it out."));
    }
    write(call, type_code, Operation::Create { criteria }, Some(body)).await
}

pub async fn update(call: &Call<'_>, type_code: TypeCode, id: String, sent: Sent) -> Result<Answer, Failure> {
    let condition = match (condition(call)?, sent.rests_on) {
        (Condition::Any, Some(version)) => Condition::Seen(version),
        (condition, _) => condition,
    };
    write(call, type_code, Operation::Update { id, condition }, Some(sent.body)).await
}

pub async fn update_where(call: &Call<'_>, type_code: TypeCode, body: Bytes) -> Result<Answer, Failure> {
    let condition = condition(call)?;
    write(call, type_code, Operation::UpdateWhere { criteria: criteria(call)?, condition }, Some(body)).await
}

pub async fn patch(call: &Call<'_>, type_code: TypeCode, id: Option<String>, patch: Patch) -> Result<Answer, Failure> {
    let (condition, patch) = (condition(call)?, Arc::new(patch));
    let operation = match id {
        Some(id) => Operation::Patch { id, condition, patch },
        None => Operation::PatchWhere { criteria: criteria(call)?, condition, patch },
    };
    write(call, type_code, operation, None).await
}

/// The patch in a body: a JSON Patch or JSON Merge Patch by its own media type, a FHIRPath Patch as Parameters in JSON or XML, and any of
/// the JSON ones as plain `application/json`, which some clients say of all they send.
pub async fn patch_body(state: &FhirState, headers: &HeaderMap, body: Body) -> Result<Patch, Failure> {
    let essence = super::header_text(headers, header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let read = match essence.to_ascii_lowercase().as_str() {
        "application/json-patch+json" => Patch::json,
        "application/merge-patch+json" => Patch::merge,
        "application/json" => Patch::plain,
        "" => return Err(no_patch()),
        _ if negotiate::sent(headers).is_err() => return Err(no_patch()),
        _ => {
            let document = parsed(&state.writer, super::resource_body(state, headers, body).await?).await?;
            return Ok(Patch::fhirpath(&document)?);
        }
    };
    let bytes = body::read(headers, body, &state.settings.limits).await?;
    body::check_values(&bytes, Format::Json)?;
    Ok(read(&parsed(&state.writer, bytes).await?)?)
}

fn no_patch() -> Failure {
    let words = "Send a JSON Patch as application/json-patch+json, a JSON Merge Patch as application/merge-patch+json, or a FHIRPath Patch as Parameters in application/fhir+json or application/fhir+xml.";
    Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Issue::error(IssueCode::NotSupported, words))
}

async fn parsed(writer: &Writer, body: Bytes) -> Result<Value, Failure> {
    let parsed = writer.workers().run(move || json::parse(&body)).await?;
    parsed.map_err(|error| {
        let issue = Issue::error(IssueCode::Structure, format!("The body is no valid JSON: {error}."));
        Failure::new(StatusCode::BAD_REQUEST, issue)
    })
}

pub async fn delete(call: &Call<'_>, type_code: TypeCode, id: String) -> Result<Answer, Failure> {
    let condition = condition(call)?;
    write(call, type_code, Operation::Delete { id, condition }, None).await
}

pub async fn delete_where(call: &Call<'_>, type_code: TypeCode) -> Result<Answer, Failure> {
    let condition = condition(call)?;
    write(call, type_code, Operation::DeleteWhere { criteria: criteria(call)?, condition }, None).await
}

/// `If-Match`, or `If-None-Match: *`.
fn condition(call: &Call<'_>) -> Result<Condition, Failure> {
    let text = |name| call.headers.get(name).map(|value| value.to_str().unwrap_or_default());
    Condition::asked(text(header::IF_MATCH), text(header::IF_NONE_MATCH)).map_err(Failure::bad_request)
}

/// The criteria in the URL of a conditional update or delete.
fn criteria(call: &Call<'_>) -> Result<String, Failure> {
    if call.query.is_empty() {
        return Err(Failure::bad_request("Name the resource by its id in the URL, or give criteria after a question mark."));
    }
    Ok(form_urlencoded::Serializer::new(String::new()).extend_pairs(&call.query).finish())
}

async fn write(call: &Call<'_>, type_code: TypeCode, operation: Operation, body: Option<Bytes>) -> Result<Answer, Failure> {
    let writer = &call.state.writer;
    let answer = call.prefer.answer.unwrap_or(Return::Representation);
    let mut tries = Tries::default();
    let outcome = loop {
        let resource = match body.clone() {
            Some(body) => Some(parsed(writer, body).await?),
            None => None,
        };
        let entry = Entry { path: String::new(), full_url: None, type_code, operation: operation.clone(), resource };
        match transaction::attempt(writer, &tries, vec![entry], Vec::new(), call.caller, answer == Return::Representation).await {
            Ok(mut outcomes) => break outcomes.pop().ok_or_else(|| Refusal::internal(anyhow::anyhow!("a write has no outcome")))?,
            Err(CommitError::Stale) => tries.pause().await?,
            Err(CommitError::Refused(_, refusal)) => return Err(refusal.into()),
        }
    };
    Ok(answered(call, outcome, answer))
}

fn answered(call: &Call<'_>, outcome: Outcome, answer: Return) -> Answer {
    let type_name = definitions::r4().type_name(outcome.type_code);
    let kept = matches!(outcome.effect, Effect::Created | Effect::Updated | Effect::Unchanged);
    let location = kept.then(|| format!("{}/{type_name}/{}/_history/{}", call.state.base_url(), outcome.id, outcome.version));
    let mut status = StatusCode::from_u16(outcome.status()).unwrap_or(StatusCode::OK);
    // What was there before is told only to those who may read it.
    let told = !matches!(outcome.effect, Effect::Unchanged) || call.caller.allows(type_name, Interaction::Read);
    let body = match answer {
        Return::Minimal => None,
        Return::Representation => outcome.body.filter(|_| told),
        Return::OperationOutcome => {
            if status == StatusCode::NO_CONTENT {
                status = StatusCode::OK;
            }
            Some(Bytes::from(operation_outcome(&[]).to_string()))
        }
    };
    let version = (outcome.version > 0).then_some(outcome.version);
    Answer { status, version, updated: version.map(|_| outcome.updated), location, body, warnings: Vec::new() }
}

pub async fn bundle(call: &Call<'_>, body: Bytes) -> Result<Answer, Failure> {
    let fetch = |query: bundle::Query| -> futures_util::future::BoxFuture<'_, Result<Fetched, Refusal>> {
        Box::pin(async move {
            let Answer { status, version, updated, body, warnings, .. } = super::fetch(call, query).await?;
            Ok(Fetched { status: status.as_u16(), etag: version, updated, body, warnings })
        })
    };
    let context = Context {
        writer: &call.state.writer,
        caller: call.caller,
        base_url: call.state.base_url(),
        most_entries: usize::try_from(call.state.settings.limits.bundle_entries).unwrap_or(usize::MAX),
        answer: call.prefer.answer.unwrap_or_default(),
        fetch: &fetch,
    };
    Ok(Answer::ok(bundle::process(&context, body).await?))
}
