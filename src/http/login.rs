//! The pages on which people log in and agree: `/auth/authorize`, `/auth/login`, `/auth/consent`.
//!
//! No scripts, nothing from elsewhere, and nothing that another site could post: each form carries a sealed step that is bound to a
//! cookie of this browser. The pages are framed by nobody and kept by no cache.

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

const FORM_BYTES: usize = 64 << 10;
const STYLE: &str = include_str!("../../templates/auth/style.css");
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
    let secure = if access.public_url().starts_with("https:") { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={browser}; Path={}; HttpOnly; SameSite=Strict{secure}", access.local_path("/auth"));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
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
    consent_page(&access, step.asked, &person, &browser).unwrap_or_else(|error| failed(&access, &error))
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
    match access.agree(&step).await {
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
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut named = cookies.filter_map(|cookie| cookie.trim().split_once('=')).filter(|(name, _)| *name == COOKIE);
    let browser = named.next().map(|(_, value)| value.to_owned()).unwrap_or_default();
    let foreign = headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes() != access.origin().as_bytes());
    match access.open_step(&field(body, "step"), &browser) {
        Ok(step) if !foreign => Ok((step, browser)),
        _ => Err(Box::new(notice(access, StatusCode::BAD_REQUEST, "This page is too old, or belongs to another window."))),
    }
}

fn field(body: &[u8], wanted: &str) -> String {
    form_urlencoded::parse(body).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn login_page(access: &Access, asked: Asked, browser: &str, wrong: bool) -> Result<Response, AccessError> {
    let client = asked.client.clone();
    let step = access.seal_step(asked, None, browser)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/login"));
    let page = LoginPage { style: &style, action: &action, client: &client, step: &step, wrong };
    Ok(html(if wrong { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, page.render(), None))
}

fn consent_page(access: &Access, asked: Asked, person: &Person, browser: &str) -> Result<Response, AccessError> {
    let rights: Vec<String> = access.offered(&asked, person).split(' ').filter(|word| !word.is_empty()).map(in_words).collect();
    let (client, redirect_uri) = (asked.client.clone(), asked.redirect_uri.clone());
    let step = access.seal_step(asked, Some(person), browser)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/consent"));
    let page = ConsentPage {
        style: &style,
        action: &action,
        client: &client,
        name: &person.name,
        rights: &rights,
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
        "launch/patient" => return "know which patient you are".to_owned(),
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
    let whose = if context == "patient" { "in your own record" } else { "that you may see" };
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

/// `leads_to`: where a form of this page ends up, which browsers hold against the policy too.
fn html(status: StatusCode, page: Result<String, askama::Error>, leads_to: Option<&str>) -> Response {
    let Ok(page) = page else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let origin = leads_to.and_then(|uri| reqwest::Url::parse(uri).ok()).map(|url| match url.host_str() {
        Some(_) if matches!(url.scheme(), "https" | "http") => format!(" {}", url.origin().ascii_serialization()),
        _ => format!(" {}:", url.scheme()),
    });
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{}; frame-ancestors 'none'; base-uri 'none'",
        origin.unwrap_or_default()
    );
    let mut response = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer` browsers would say `Origin: null` when a form is sent.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
