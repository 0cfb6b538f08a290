//! `/`: what somebody sees who opens the server's address in a browser. Programs are told there what they are told wherever nothing is.

use super::fhir::nowhere;
use super::pages::{html, wants_page};
use crate::access::Access;
use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use std::sync::Arc;

/// How long browsers remember that there is no icon.
const NO_ICON_LIVES: &str = "public, max-age=86400";

#[derive(Template)]
#[template(path = "front.html")]
struct Front<'a> {
    style: &'a str,
    console: &'a str,
    metadata: &'a str,
    base: &'a str,
}

/// `/`, and the icon that browsers ask for with every page.
pub fn routes<S: Clone + Send + Sync + 'static>(access: Arc<Access>) -> Router<S> {
    let no_icon = || async { (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, NO_ICON_LIVES)]) };
    Router::new().route("/", get(front)).with_state(access).route("/favicon.ico", get(no_icon))
}

async fn front(State(access): State<Arc<Access>>, headers: HeaderMap) -> Response {
    if !wants_page(&headers) {
        return nowhere().await;
    }
    let [style, console, metadata] = ["/auth/style.css", "/console", "/fhir/metadata"].map(|path| access.local_path(path));
    let base = format!("{}/fhir", access.public_url());
    html(StatusCode::OK, Front { style: &style, console: &console, metadata: &metadata, base: &base }.render(), None)
}
