//! The HDU API (`/api/v1/hduApi`): an EMR that speaks to HDU today speaks to lango by changing one URL.
//!
//! Paths, replies and status codes are the original's; `docs/hdu.md` says where lango does better. Every error is at once the
//! original's JSON form (`status`, `error`, `message`, `path`) and an OperationOutcome, so that both kinds of client can read it.

mod codes;
mod lab_data;
mod meta;
mod reply;
mod shared;
mod templates;

use crate::app::App;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::time::{format_instant, now};
use crate::fhir::{Issue, IssueCode};
use crate::http::error::Failure;
use crate::ingest::refusal::{Refusal, RefusalKind};
use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};

const BASE: &str = "/api/v1/hduApi";

/// All routes of the HDU API.
pub fn routes(app: App) -> Router {
    let at = |path: &str| format!("{BASE}/{path}");
    Router::new()
        .route(&at("dataTemplates"), get(templates::definitions).post(templates::submit))
        .route(&at("dataTemplates/examples"), get(templates::examples))
        .route(&at("dataTemplates/metaData"), get(templates::meta_data))
        .route(&at("dataTemplates/trigger"), axum::routing::post(templates::submit))
        .route(&at("labData"), get(lab_data::answer))
        .route(&at("labDataTemplates"), get(templates::lab_definitions).post(templates::submit_lab))
        .route(&at("shr/sharedRecords"), get(shared::answer))
        .route(&at("unmapped"), get(templates::unmapped))
        .route(&at("codeSystems/icd"), get(codes::icd))
        .route(&at("codeSystems/icd/{level}"), get(codes::icd_level))
        .route(&at("codeSystems/loinc"), get(codes::loinc))
        .route(&at("generalCodes"), get(codes::general))
        .route(&at("generalCodes/{namespace}"), get(codes::general_of))
        .route(&at("standardCodes"), get(codes::standard))
        .route(&at("standardCodes/{namespace}"), get(codes::standard_of))
        .route(&at("{*rest}"), axum::routing::any(nowhere))
        .method_not_allowed_fallback(not_so)
        .with_state(app)
}

async fn nowhere(uri: Uri) -> Response {
    let words = "lango has no such address of the HDU API: docs/hdu.md lists those there are.";
    form(Refusal::new(RefusalKind::NotFound, Issue::error(IssueCode::NotFound, words)), uri.path().to_owned())
}

async fn not_so(uri: Uri) -> Response {
    let words = "This address does not take this method: the header Allow says which it takes.";
    form(Refusal::new(RefusalKind::NotAllowed, Issue::error(IssueCode::NotSupported, words)), uri.path().to_owned())
}

/// A parameter of paging must be a number, and is none.
fn no_number(name: &'static str) -> Refusal {
    let issue = Issue::error(IssueCode::Value, format!("{name} must be a whole number of 1 or more, or left out"));
    Refusal::new(RefusalKind::Malformed, issue.at(name))
}

/// An error in both forms.
struct HduError {
    refusal: Refusal,
    path: &'static str,
}

impl HduError {
    fn of(failure: Failure, path: &'static str) -> HduError {
        let kind = match failure.status {
            StatusCode::PAYLOAD_TOO_LARGE => RefusalKind::TooLarge,
            _ => RefusalKind::Malformed,
        };
        HduError { refusal: Refusal::all(kind, failure.issues), path }
    }

    fn at(path: &'static str) -> impl Fn(Refusal) -> HduError {
        move |refusal| HduError { refusal, path }
    }
}

impl IntoResponse for HduError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.refusal.cause {
            tracing::error!(error = format!("{cause:#}"), path = self.path, "a request failed");
        }
        form(self.refusal, format!("{BASE}/{}", self.path))
    }
}

fn form(refusal: Refusal, path: String) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body: Value = operation_outcome(&refusal.issues);
    body["timestamp"] = json!(format_instant(now()));
    // What went wrong inside has its own form in the original.
    body["status"] = if status == StatusCode::INTERNAL_SERVER_ERROR { json!("ERROR") } else { json!(status.as_u16()) };
    body["statusCode"] = json!(status.as_u16());
    body["error"] = json!(status.canonical_reason().unwrap_or_default());
    body["message"] = json!(refusal.issues.first().map(|issue| issue.diagnostics.as_str()));
    body["path"] = json!(path);
    let mut response = (status, Json(body)).into_response();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(axum::http::header::RETRY_AFTER, axum::http::HeaderValue::from_static("5"));
    }
    response
}
