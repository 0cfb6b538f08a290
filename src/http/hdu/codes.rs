//! Code lists: ICD, LOINC, general and standard codes.

use crate::app::App;
use crate::terminology::listing::{self, Paging};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

pub async fn icd(State(app): State<App>, Query(paging): Query<Paging>) -> Response {
    answer(listing::icd(&app.terminology, "codes", &paging))
}

pub async fn icd_level(State(app): State<App>, Path(level): Path<String>, Query(paging): Query<Paging>) -> Response {
    answer(listing::icd(&app.terminology, &level, &paging))
}

pub async fn loinc(State(app): State<App>, Query(paging): Query<Paging>) -> Response {
    answer(listing::loinc(&app.terminology, &paging))
}

pub async fn general(State(app): State<App>, Query(paging): Query<Paging>) -> Response {
    answer(listing::general(&app.terminology, None, &paging))
}

pub async fn general_of(State(app): State<App>, Path(namespace): Path<String>, Query(paging): Query<Paging>) -> Response {
    answer(listing::general(&app.terminology, Some(&namespace), &paging))
}

pub async fn standard(State(app): State<App>, Query(paging): Query<Paging>) -> Response {
    answer(listing::standard(&app.terminology, None, &paging))
}

pub async fn standard_of(State(app): State<App>, Path(namespace): Path<String>, Query(paging): Query<Paging>) -> Response {
    answer(listing::standard(&app.terminology, Some(&namespace), &paging))
}

fn answer(list: Option<serde_json::Value>) -> Response {
    match list {
        Some(list) => Json(list).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
