//! `[notices]`: an address of the operator's that is told when somebody is to be told something, so that an SMS gateway or a desk can act.
//!
//! One POST of a small JSON body without clinical content, with a bearer token when one is configured. A 2xx is the end of it; what may go
//! better by itself is tried again, and the rest needs a person.

use super::retry_after;
use crate::config::Notices;
use crate::outbox::Outcome;
use reqwest::{StatusCode, redirect};
use serde_json::{Value, json};
use std::time::Duration;

/// Tells the configured address; `Done` when nothing is configured, with `null`.
pub async fn tell(notices: &Notices, body: &Value) -> Outcome {
    let Some(url) = &notices.url else { return Outcome::Done(Value::Null) };
    let token = match notices.token() {
        Ok(token) => token,
        // The file may be on its way.
        Err(error) => return Outcome::retry(error.to_string()),
    };
    let client = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .timeout(Duration::from_secs(notices.timeout_s.into()))
        .user_agent(concat!("lango/", env!("CARGO_PKG_VERSION")))
        .build();
    let Ok(client) = client else { return Outcome::dead("The HTTP client could not be set up.") };
    let mut request = client.post(url).header(reqwest::header::CONTENT_TYPE, "application/json").body(body.to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token.expose());
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_builder() => return Outcome::dead("The token of notices.token_file cannot be sent: it is no plain text."),
        Err(_) => return Outcome::retry("There was no answer from notices.url."),
    };
    let status = response.status();
    let words = format!("notices.url answered {status}.");
    match status {
        status if status.is_success() => Outcome::Done(json!({ "status": status.as_u16() })),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Outcome::Retry { error: words, after: retry_after(response.headers()) }
        }
        status if status.is_server_error() => Outcome::Retry { error: words, after: retry_after(response.headers()) },
        _ => Outcome::dead(words),
    }
}
