//! Code lists: ICD, LOINC, general and standard codes.

use super::HduError;
use crate::app::App;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::terminology::listing::{IcdLevel, Page};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::Value;

pub async fn icd(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    answer("codeSystems/icd", query, |page| Ok(app.terminology.hdu_icd(None, page)))
}

pub async fn icd_level(State(app): State<App>, Path(level): Path<String>, RawQuery(query): RawQuery) -> Response {
    answer("codeSystems/icd", query, |page| match IcdLevel::parse(&level) {
        Some(level) => Ok(app.terminology.hdu_icd(Some(level), page)),
        None => Err("ICD-10 has no such level here: it is one of chapters, blocks, categories and codes."),
    })
}

pub async fn loinc(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    answer("codeSystems/loinc", query, |page| Ok(app.terminology.hdu_loinc(page)))
}

pub async fn general(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    answer("generalCodes", query, |page| Ok(app.terminology.hdu_general_namespaces(page)))
}

pub async fn general_of(State(app): State<App>, Path(namespace): Path<String>, RawQuery(query): RawQuery) -> Response {
    answer("generalCodes", query, |page| {
        app.terminology
            .hdu_general(&namespace, page)
            .ok_or("There is no general list of this name: GET generalCodes names those there are.")
    })
}

pub async fn standard(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    answer("standardCodes", query, |page| Ok(app.terminology.hdu_standard_namespaces(page)))
}

pub async fn standard_of(State(app): State<App>, Path(namespace): Path<String>, RawQuery(query): RawQuery) -> Response {
    answer("standardCodes", query, |page| {
        app.terminology
            .hdu_standard(&namespace, page)
            .ok_or("There is no standard list of this name: GET standardCodes names those there are.")
    })
}

fn answer(path: &'static str, query: Option<String>, list: impl FnOnce(&Page) -> Result<Value, &'static str>) -> Response {
    let query = query.unwrap_or_default();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let page = Page::from_query(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))).map_err(super::no_number);
    let list =
        page.and_then(|page| list(&page).map_err(|words| Refusal::new(RefusalKind::NotFound, Issue::error(IssueCode::NotFound, words))));
    list.map_or_else(|refusal| HduError::at(path)(refusal).into_response(), |list| Json(list).into_response())
}
