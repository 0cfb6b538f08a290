//! Code lists: ICD, LOINC, general and standard codes.

use super::HduError;
use crate::app::App;
use crate::ingest::refusal::Refusal;
use crate::terminology::listing::{IcdLevel, Page};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::Value;

pub async fn icd(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    Json(app.terminology.hdu_icd(None, &page(query))).into_response()
}

pub async fn icd_level(State(app): State<App>, Path(level): Path<String>, RawQuery(query): RawQuery) -> Response {
    let level = IcdLevel::parse(&level);
    found("codeSystems/icd", level.map(|level| app.terminology.hdu_icd(Some(level), &page(query))))
}

pub async fn loinc(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    Json(app.terminology.hdu_loinc(&page(query))).into_response()
}

pub async fn general(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    Json(app.terminology.hdu_general_namespaces(&page(query))).into_response()
}

pub async fn general_of(State(app): State<App>, Path(namespace): Path<String>, RawQuery(query): RawQuery) -> Response {
    found("generalCodes", app.terminology.hdu_general(&namespace, &page(query)))
}

pub async fn standard(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    Json(app.terminology.hdu_standard_namespaces(&page(query))).into_response()
}

pub async fn standard_of(State(app): State<App>, Path(namespace): Path<String>, RawQuery(query): RawQuery) -> Response {
    found("standardCodes", app.terminology.hdu_standard(&namespace, &page(query)))
}

fn page(query: Option<String>) -> Page {
    let query = query.unwrap_or_default();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    Page::from_query(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn found(path: &'static str, list: Option<Value>) -> Response {
    match list {
        Some(list) => Json(list).into_response(),
        None => HduError::at(path)(Refusal::not_found()).into_response(),
    }
}
