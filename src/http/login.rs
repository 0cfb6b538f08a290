//! The pages on which people log in and agree: `/auth/authorize`, `/auth/login`, `/auth/consent`.
//!
//! No scripts, nothing from elsewhere, and nothing that another site could post: each form carries a sealed step that is bound to a
//! cookie of this browser. The pages are framed by nobody and kept by no cache.

use super::pages::{FORM_BYTES, STYLE, cookie, field, html, is_foreign, set_cookie};
use crate::access::people::Person;
use crate::access::{Access, AccessError, Asked, AuthorizeError, Step};
use crate::config::Secret;
use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;

/// `__Host-` would demand https, which a lango that is tried out on loopback lacks.
const COOKIE: &str = "lango-login";

#[derive(Template)]
#[template(path = "auth/login.html")]
struct LoginPage<'a> {
    style: &'a str,
    action: &'a str,
    client: &'a str,
    step: &'a str,
    wrong: bool,
}

#[derive(Template)]
#[template(path = "auth/consent.html")]
struct ConsentPage<'a> {
    style: &'a str,
    action: &'a str,
    client: &'a str,
    name: &'a str,
    rights: &'a [String],
    /// Whose record; asked when there are several.
    choices: &'a [(String, String)],
    redirect_uri: &'a str,
    step: &'a str,
}

#[derive(Template)]
#[template(path = "auth/notice.html")]
struct Notice<'a> {
    style: &'a str,
    words: &'a str,
}

/// The pages' routes.
pub fn routes<S: Clone + Send + Sync + 'static>(access: Arc<Access>) -> Router<S> {
    Router::new()
        .route("/auth/authorize", get(authorize).post(authorize_by_form))
        .route("/auth/login", post(login))
        .route("/auth/consent", post(consent))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .route("/auth/style.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], STYLE) }))
        .with_state(access)
}

async fn authorize(State(access): State<Arc<Access>>, RawQuery(query): RawQuery) -> Response {
    begin(&access, query.unwrap_or_default().as_bytes()).await
}

async fn authorize_by_form(State(access): State<Arc<Access>>, body: Bytes) -> Response {
    begin(&access, &body).await
}

async fn begin(access: &Access, parameters: &[u8]) -> Response {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(parameters).into_owned().collect();
    let asked = match access.asked(&pairs).await {
        Ok(asked) => asked,
        Err(AuthorizeError::Told(words)) => return notice(access, StatusCode::BAD_REQUEST, words),
        Err(AuthorizeError::SentBack { redirect_uri, error, words, state }) => {
            let mut answers = vec![("error", error), ("error_description", words)];
            answers.extend(state.as_deref().map(|state| ("state", state)));
            return send_back(access, &redirect_uri, &answers);
        }
        Err(AuthorizeError::Failed(error)) => return failed(access, &error),
    };
    // One cookie for each login, so that an old page of another login cannot be continued.
    let browser = uuid::Uuid::new_v4().simple().to_string();
    let mut response = match login_page(access, asked, &browser, false) {
        Ok(response) => response,
        Err(error) => return failed(access, &error),
    };
    set_cookie(access, &mut response, COOKIE, &browser, "/auth");
    response
}

async fn login(State(access): State<Arc<Access>>, headers: HeaderMap, body: Bytes) -> Response {
    let (step, browser) = match opened(&access, &headers, &body) {
        Ok(opened) => opened,
        Err(response) => return *response,
    };
    let password = Secret::new(field(&body, "password"));
    let person = match access.log_in(&field(&body, "username"), &password, field(&body, "code").trim()).await {
        Ok(person) => person,
        Err(AccessError::Refused(reason)) => {
            tracing::info!(reason, "a person could not log in");
            return login_page(&access, step.asked, &browser, true).unwrap_or_else(|error| failed(&access, &error));
        }
        Err(AccessError::Busy) => {
            let mut response =
                notice(&access, StatusCode::SERVICE_UNAVAILABLE, "Too many people log in at once: try again in a few seconds.");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        }
        Err(error) => return failed(&access, &error),
    };
    consent_page(&access, step.asked, &person, &browser).await.unwrap_or_else(|error| failed(&access, &error))
}

async fn consent(State(access): State<Arc<Access>>, headers: HeaderMap, body: Bytes) -> Response {
    let (step, _) = match opened(&access, &headers, &body) {
        Ok(opened) => opened,
        Err(response) => return *response,
    };
    let state = step.asked.state.clone();
    let mut answers: Vec<(&str, &str)> = Vec::new();
    answers.extend(state.as_deref().map(|state| ("state", state)));
    if field(&body, "decision") != "allow" {
        answers.push(("error", "access_denied"));
        return send_back(&access, &step.asked.redirect_uri, &answers);
    }
    match access.agree(&step, &field(&body, "patient")).await {
        Ok(code) => {
            // RFC 9207: the app sees who answered.
            answers.extend([("code", code.expose()), ("iss", access.public_url())]);
            send_back(&access, &step.asked.redirect_uri, &answers)
        }
        Err(AccessError::Refused(_)) => {
            answers.push(("error", "access_denied"));
            send_back(&access, &step.asked.redirect_uri, &answers)
        }
        Err(error) => failed(&access, &error),
    }
}

/// The step that a form carries, and the browser it is bound to.
fn opened(access: &Access, headers: &HeaderMap, body: &[u8]) -> Result<(Step, String), Box<Response>> {
    let browser = cookie(headers, COOKIE);
    let foreign = is_foreign(access, headers);
    match access.open_step(&field(body, "step"), &browser) {
        Ok(step) if !foreign => Ok((step, browser)),
        _ => Err(Box::new(notice(access, StatusCode::BAD_REQUEST, "This page is too old, or belongs to another window."))),
    }
}

fn login_page(access: &Access, asked: Asked, browser: &str, wrong: bool) -> Result<Response, AccessError> {
    let client = asked.client.clone();
    let step = access.seal_step(asked, None, browser)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/login"));
    let page = LoginPage { style: &style, action: &action, client: &client, step: &step, wrong };
    Ok(html(if wrong { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, page.render(), None))
}

async fn consent_page(access: &Access, asked: Asked, person: &Person, browser: &str) -> Result<Response, AccessError> {
    let rights: Vec<String> = access.offered(&asked, person).split(' ').filter(|word| !word.is_empty()).map(in_words).collect();
    let choices = access.choices(person).await?;
    let (client, redirect_uri) = (asked.client.clone(), asked.redirect_uri.clone());
    let step = access.seal_step(asked, Some(person), browser)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/consent"));
    let page = ConsentPage {
        style: &style,
        action: &action,
        client: &client,
        name: &person.name,
        rights: &rights,
        choices: if choices.len() > 1 { &choices } else { &[] },
        redirect_uri: &redirect_uri,
        step: &step,
    };
    Ok(html(StatusCode::OK, page.render(), Some(&redirect_uri)))
}

/// A scope for people who do not know scopes.
fn in_words(scope: &str) -> String {
    match scope {
        "offline_access" => return "keep access while you are away, for 30 days".to_owned(),
        "online_access" => return "keep access while you use the app".to_owned(),
        "launch/patient" => return "know whose record is meant".to_owned(),
        "openid" => return "know the name that you log in with".to_owned(),
        "fhirUser" => return "know which record says who you are".to_owned(),
        _ => {}
    }
    let (right, params) = scope.split_once('?').unwrap_or((scope, ""));
    let (context, right) = right.split_once('/').unwrap_or(("", right));
    let (type_name, letters) = right.split_once('.').unwrap_or((right, ""));
    let verbs: Vec<&str> = match letters {
        "read" => vec!["read", "search"],
        "write" => vec!["add", "change", "delete"],
        "*" => vec!["add", "read", "change", "delete", "search"],
        letters => letters
            .chars()
            .filter_map(|letter| match letter {
                'c' => Some("add"),
                'r' => Some("read"),
                'u' => Some("change"),
                'd' => Some("delete"),
                's' => Some("search"),
                _ => None,
            })
            .collect(),
    };
    let what = if type_name == "*" { "records of every kind" } else { type_name };
    let whose = if context == "patient" { "in the record of the patient" } else { "that you may see" };
    let narrowed = if params.is_empty() { String::new() } else { format!(", only where {params}") };
    format!("{} {what} {whose}{narrowed}", verbs.join(", "))
}

fn notice(access: &Access, status: StatusCode, words: &str) -> Response {
    let style = access.local_path("/auth/style.css");
    html(status, Notice { style: &style, words }.render(), None)
}

fn failed(access: &Access, error: &AccessError) -> Response {
    tracing::error!(%error, "a login failed");
    notice(access, StatusCode::INTERNAL_SERVER_ERROR, "The server failed; it has been logged.")
}

/// Sends the person back to the app, whose address is registered.
fn send_back(access: &Access, redirect_uri: &str, answers: &[(&str, &str)]) -> Response {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(answers).finish();
    let separator = if redirect_uri.contains('?') { '&' } else { '?' };
    match HeaderValue::from_str(&format!("{redirect_uri}{separator}{query}")) {
        Ok(location) => {
            let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            response
        }
        Err(_) => notice(access, StatusCode::BAD_REQUEST, "The app's address cannot be used."),
    }
}
