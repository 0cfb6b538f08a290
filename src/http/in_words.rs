//! Whoever looks at one of lango's pages is told on a page what went wrong, whichever layer refused it: limits, logins and routers know of no pages.

use super::pages::{AWAY, FAILED, wants_page};
use super::{auth, console, login};
use crate::access::Access;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// A layer around the rest.
pub async fn in_words(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_console = auth::is_console(path);
    let is_page = (is_console || login::PAGES.contains(&path)) && wants_page(request.headers());
    let response = next.run(request).await;
    let status = response.status();
    let is_told = response.headers().get(header::CONTENT_TYPE).is_some_and(|media_type| media_type.as_bytes().starts_with(b"text/html"));
    if !is_page || is_told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let words = match status {
        StatusCode::NOT_FOUND => "There is no such page.",
        StatusCode::METHOD_NOT_ALLOWED => "This page is only reached from the one before it.",
        StatusCode::PAYLOAD_TOO_LARGE => "What was typed is too long: a form takes 64 KiB.",
        StatusCode::TOO_MANY_REQUESTS => "There are too many requests from here: wait a few seconds, and try again.",
        StatusCode::SERVICE_UNAVAILABLE => AWAY,
        status if status.is_client_error() => "The server does not take this request.",
        _ => FAILED,
    };
    let mut page = if is_console { console::notice(&access, status, words) } else { login::notice(&access, status, words) };
    for name in [header::RETRY_AFTER, header::ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}
