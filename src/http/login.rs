//! The pages on which people log in and agree: `/auth/authorize`, `/auth/login`, `/auth/patient`, `/auth/consent`.
//!
//! No scripts, nothing from elsewhere, and nothing that another site could post: each form carries a sealed step that is bound to a
//! cookie of this browser. The pages are framed by nobody and kept by no cache.

use super::auth::{Tried, told};
use super::pages::{FORM_BYTES, STYLE, cookie, failure, field, html, is_foreign, one_time_code, set_cookie, username};
use super::picker::{Patients, Row};
use crate::access::people::Person;
use crate::access::{Access, AccessError, AuthorizeError, Step};
use crate::config::Secret;
use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;

/// Where there is something to look at.
pub const PAGES: [&str; 4] = ["/auth/authorize", "/auth/login", "/auth/patient", "/auth/consent"];
/// How long a browser keeps the style sheet, which comes with every page.
const STYLE_LIVES: &str = "public, max-age=3600";
/// `__Host-` would demand https, which a lango that is tried out on loopback lacks.
const COOKIE: &str = "lango-login";

#[derive(Template)]
#[template(path = "auth/login.html")]
struct LoginPage<'a> {
    style: &'a str,
    action: &'a str,
    client: &'a str,
    step: &'a str,
    /// As it was typed.
    username: &'a str,
    wrong: bool,
}

#[derive(Template)]
#[template(path = "auth/consent.html")]
struct ConsentPage<'a> {
    style: &'a str,
    action: &'a str,
    client: &'a str,
    name: &'a str,
    /// None: there is nothing that this person could give.
    rights: &'a [String],
    /// Whose record; asked when there are several.
    choices: &'a [(String, String)],
    /// Whose record, in words, when it is settled.
    settled: &'a str,
    redirect_uri: &'a str,
    step: &'a str,
}

#[derive(Template)]
#[template(path = "auth/patient.html")]
struct PatientPage<'a> {
    style: &'a str,
    action: &'a str,
    client: &'a str,
    name: &'a str,
    step: &'a str,
    sought: &'a str,
    rows: &'a [Row],
    more: bool,
    /// Whether the app gets anything without a patient.
    optional: bool,
    /// Why nobody is shown.
    words: &'a str,
}

/// What a search for a patient gave.
#[derive(Default)]
struct Found {
    sought: String,
    rows: Vec<Row>,
    more: bool,
    words: &'static str,
}

#[derive(Template)]
#[template(path = "auth/notice.html")]
struct Notice<'a> {
    style: &'a str,
    words: &'a str,
}

/// The pages' routes.
pub fn routes<S: Clone + Send + Sync + 'static>(access: Arc<Access>, patients: Patients) -> Router<S> {
    let picking = Router::new().route("/auth/patient", post(patient)).with_state((Arc::clone(&access), patients));
    Router::new()
        .route("/auth/authorize", get(authorize).post(authorize_by_form))
        .route("/auth/login", post(login))
        .route("/auth/consent", post(consent))
        .with_state(access)
        .merge(picking)
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .route(
            "/auth/style.css",
            get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, STYLE_LIVES)], STYLE) }),
        )
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
    let mut response = match login_page(access, access.begin_steps(asked, &browser), None) {
        Ok(response) => response,
        Err(error) => return failed(access, &error),
    };
    set_cookie(access, &mut response, COOKIE, &browser, "/auth");
    response
}

async fn login(State(access): State<Arc<Access>>, headers: HeaderMap, body: Bytes) -> Response {
    let step = match opened(&access, &headers, &body) {
        Ok(step) => step,
        Err(response) => return *response,
    };
    let (name, password) = (username(&body), Secret::new(field(&body, "password")));
    let person = match access.log_in(&name, &password, &one_time_code(&body)).await {
        Ok(person) => person,
        Err(AccessError::Refused(reason)) => {
            tracing::info!(reason, "a person could not log in");
            let page = login_page(&access, step, Some(&name)).unwrap_or_else(|error| failed(&access, &error));
            return told(page, Tried::person(&access, &name).await);
        }
        Err(AccessError::Busy) => {
            let mut response =
                notice(&access, StatusCode::SERVICE_UNAVAILABLE, "Too many people log in at once: try again in a few seconds.");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        }
        Err(error) => return failed(&access, &error),
    };
    let step = step.of(&person);
    let page = if step.lacks_patient(&person) {
        patient_page(&access, step, &person, Found::default())
    } else {
        consent_page(&access, step, &person, "").await
    };
    page.unwrap_or_else(|error| failed(&access, &error))
}

/// A clinician looks for the patient whose record the app is to show, picks one, or goes on without.
async fn patient(State((access, patients)): State<(Arc<Access>, Patients)>, headers: HeaderMap, body: Bytes) -> Response {
    let step = match opened(&access, &headers, &body) {
        Ok(step) => step,
        Err(response) => return *response,
    };
    match picked(&access, &patients, step, &body).await {
        Ok(response) => response,
        Err(AccessError::Refused(_)) => notice(&access, StatusCode::BAD_REQUEST, "Log in first."),
        Err(error) => failed(&access, &error),
    }
}

async fn picked(access: &Access, patients: &Patients, step: Step, body: &[u8]) -> Result<Response, AccessError> {
    let person = access.person_of(&step).await?;
    match field(body, "decision").as_str() {
        "search" if step.lacks_patient(&person) => {
            let sought = field(body, "sought").trim().to_owned();
            let found = match patients.find(access.picker(&step, &person).await?, &sought).await {
                Ok((rows, _)) if rows.is_empty() => {
                    Found { sought, words: "Nobody of your facility has this name or number.", ..Found::default() }
                }
                Ok((rows, more)) => Found { sought, rows, more, words: "" },
                Err(words) => Found { sought, words, ..Found::default() },
            };
            patient_page(access, step, &person, found)
        }
        "pick" if step.lacks_patient(&person) => match patients.read(access.picker(&step, &person).await?, &field(body, "patient")).await {
            Ok(row) => consent_page(access, step.with_patient(&row.id), &person, &row.words).await,
            Err(words) => patient_page(access, step, &person, Found { words, ..Found::default() }),
        },
        "none" => consent_page(access, step.without_patient(), &person, "").await,
        _ => Ok(send_back(access, &step.asked.redirect_uri, &refusal(&step))),
    }
}

/// What an app is told that got nothing.
fn refusal(step: &Step) -> Vec<(&str, &str)> {
    step.asked.state.as_deref().map(|state| ("state", state)).into_iter().chain([("error", "access_denied")]).collect()
}

async fn consent(State(access): State<Arc<Access>>, headers: HeaderMap, body: Bytes) -> Response {
    let step = match opened(&access, &headers, &body) {
        Ok(step) => step,
        Err(response) => return *response,
    };
    let refused = || send_back(&access, &step.asked.redirect_uri, &refusal(&step));
    if field(&body, "decision") != "allow" {
        return refused();
    }
    match access.agree(&step, &field(&body, "patient")).await {
        Ok(code) => {
            let state = step.asked.state.as_deref().map(|state| ("state", state));
            let answers: Vec<(&str, &str)> = state.into_iter().chain([("code", code.expose())]).collect();
            send_back(&access, &step.asked.redirect_uri, &answers)
        }
        Err(AccessError::Refused(_)) => refused(),
        Err(error) => failed(&access, &error),
    }
}

/// The step that a form of this browser carries.
fn opened(access: &Access, headers: &HeaderMap, body: &[u8]) -> Result<Step, Box<Response>> {
    let foreign = is_foreign(access, headers);
    match access.open_step(&field(body, "step"), &cookie(headers, COOKIE)) {
        Ok(step) if !foreign => Ok(step),
        _ => Err(Box::new(notice(access, StatusCode::BAD_REQUEST, "This page is too old, or belongs to another window."))),
    }
}

/// `tried`: the name with which it did not work.
fn login_page(access: &Access, step: Step, tried: Option<&str>) -> Result<Response, AccessError> {
    let sealed = access.seal_step(&step)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/login"));
    let (username, wrong) = (tried.unwrap_or_default(), tried.is_some());
    let page = LoginPage { style: &style, action: &action, client: &step.asked.client, step: &sealed, username, wrong };
    Ok(html(if wrong { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, page.render(), None))
}

fn patient_page(access: &Access, step: Step, person: &Person, found: Found) -> Result<Response, AccessError> {
    let sealed = access.seal_step(&step)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/patient"));
    let page = PatientPage {
        style: &style,
        action: &action,
        client: &step.asked.client,
        name: &person.name,
        step: &sealed,
        sought: &found.sought,
        rows: &found.rows,
        more: found.more,
        optional: access.can_give(&step.clone().without_patient(), person),
        words: found.words,
    };
    // Its button "Do not allow" leads back to the app.
    Ok(html(StatusCode::OK, page.render(), Some(&step.asked.redirect_uri)))
}

/// `picked`: whose record, in words, when the person picked it.
async fn consent_page(access: &Access, step: Step, person: &Person, picked: &str) -> Result<Response, AccessError> {
    let offered = if access.can_give(&step, person) { access.offered(&step, person) } else { String::new() };
    let rights: Vec<String> = offered.split(' ').filter(|word| !word.is_empty()).map(in_words).collect();
    let choices = access.choices(person).await?;
    let sealed = access.seal_step(&step)?;
    let (style, action) = (access.local_path("/auth/style.css"), access.local_path("/auth/consent"));
    let page = ConsentPage {
        style: &style,
        action: &action,
        client: &step.asked.client,
        name: &person.name,
        rights: &rights,
        choices: if choices.len() > 1 { &choices } else { &[] },
        settled: if let [(_, only)] = choices.as_slice() { only } else { picked },
        redirect_uri: &step.asked.redirect_uri,
        step: &sealed,
    };
    Ok(html(StatusCode::OK, page.render(), Some(&step.asked.redirect_uri)))
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

pub(super) fn notice(access: &Access, status: StatusCode, words: &str) -> Response {
    let style = access.local_path("/auth/style.css");
    html(status, Notice { style: &style, words }.render(), None)
}

fn failed(access: &Access, error: &AccessError) -> Response {
    tracing::error!(%error, "a login failed");
    let (status, words) = failure(error);
    notice(access, status, words)
}

/// Sends the person back to the app, whose address is registered.
fn send_back(access: &Access, redirect_uri: &str, answers: &[(&str, &str)]) -> Response {
    // RFC 9207: the app sees who answered, also that it gets nothing.
    let answers = answers.iter().copied().chain([("iss", access.public_url())]);
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
