//! The operator's pages under `/console`: what an operator does without a shell.
//!
//! People log in with name, password and, if they have one, an authenticator's code; who has the role `operator` comes in. In come plain
//! forms, out go plain pages. Each form carries a token that is bound to the session, and is refused when a browser says that
//! another site sent it. What a page changes is recorded with the change, like everything else. Under `--auth open` nobody logs in.
//!
//! The pages decide nothing: they ask the rooms that the commands ask.

mod clients;

use super::auth::{Tried, told};
use super::pages::{FORM_BYTES, cookie, failure, field, html, is_foreign, one_time_code, set_cookie, username};
use crate::access::{Access, AccessError, Caller, Role, audit};
use crate::config::{AuthMode, Secret};
use crate::store::Store;
use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Where the pages are.
pub const BASE: &str = "/console";
/// The session, and what binds the login form to its browser before there is one.
pub const COOKIE: &str = "lango-console";
const LOGIN_COOKIE: &str = "lango-console-login";

/// What the pages work with.
#[derive(Clone)]
struct Console {
    access: Arc<Access>,
    store: Store,
}

#[derive(Template)]
#[template(path = "console/login.html")]
struct LoginPage<'a> {
    base: &'a str,
    style: &'a str,
    who: &'a str,
    token: &'a str,
    /// As it was typed.
    username: &'a str,
    wrong: bool,
}

#[derive(Template)]
#[template(path = "console/notice.html")]
struct Notice<'a> {
    base: &'a str,
    style: &'a str,
    who: &'a str,
    token: &'a str,
    words: &'a str,
}

/// The pages' routes.
pub fn routes<S: Clone + Send + Sync + 'static>(access: Arc<Access>, store: Store) -> Router<S> {
    let console = Console { access, store };
    Router::new()
        .route("/console", get(|State(console): State<Console>| async move { console.go_to("/clients") }))
        .route("/console/", get(|State(console): State<Console>| async move { console.go_to("/clients") }))
        .route("/console/clients", get(clients::list).post(clients::add))
        .route("/console/clients/{id}", get(clients::one).post(clients::change))
        .route("/console/clients/{id}/{act}", get(clients::back).post(clients::act))
        .route_layer(axum::middleware::from_fn_with_state(console.clone(), operators_only))
        .route("/console/login", get(login_page).post(log_in))
        .route("/console/logout", get(|State(console): State<Console>| async move { console.go_to("/login") }).post(log_out))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(console)
}

/// Lets operators through, and shows everybody else to the door.
async fn operators_only(State(console): State<Console>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.has_role(Role::Operator) => next.run(request).await,
        Some(caller) => {
            let who = caller.person.clone().unwrap_or_default();
            let words = "These pages are for people with the role operator. Log out here to come in as somebody else; whoever looks after the server can give you the role.";
            console.notice(StatusCode::FORBIDDEN, &who, request.headers(), words)
        }
        None if request.method() == Method::GET => console.go_to("/login"),
        None => console.notice(StatusCode::UNAUTHORIZED, "", request.headers(), "Log in first: the session is over."),
    }
}

async fn login_page(State(console): State<Console>, caller: Option<Extension<Caller>>, headers: HeaderMap) -> Response {
    if caller.is_some_and(|Extension(caller)| caller.has_role(Role::Operator)) {
        return console.go_to("/clients");
    }
    // The login of another tab stays good. What else stands in a cookie goes into no header.
    let before = uuid::Uuid::try_parse(&cookie(&headers, LOGIN_COOKIE)).ok();
    console.login(&before.unwrap_or_else(uuid::Uuid::new_v4).simple().to_string(), None)
}

async fn log_in(State(console): State<Console>, headers: HeaderMap, body: Bytes) -> Response {
    let browser = cookie(&headers, LOGIN_COOKIE);
    if browser.is_empty() || !console.is_own_form(&browser, &headers, &body) {
        return console.stranger(&headers);
    }
    let name = username(&body);
    let access = &console.access;
    let person = match access.log_in(&name, &Secret::new(field(&body, "password")), &one_time_code(&body)).await {
        Ok(person) => person,
        Err(AccessError::Refused(reason)) => {
            tracing::info!(reason, "a person could not log in to the console");
            return told(console.login(&browser, Some(&name)), Tried::person(access, &name).await);
        }
        Err(AccessError::Busy) => {
            let words = "Too many people log in at once: try again in a few seconds.";
            let mut response = console.notice(StatusCode::SERVICE_UNAVAILABLE, "", &headers, words);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        }
        Err(error) => return console.failed(&headers, &error),
    };
    if let Some(trail) = audit::current() {
        trail.came_with(form_urlencoded::Serializer::new(String::new()).append_pair("username", &name).finish().as_bytes());
    }
    match access.begin_session(&person) {
        Ok(session) => {
            let mut response = console.go_to("/clients");
            set_cookie(access, &mut response, COOKIE, session.expose(), BASE);
            set_cookie(access, &mut response, LOGIN_COOKIE, "", BASE);
            response
        }
        Err(error) => console.failed(&headers, &error),
    }
}

async fn log_out(State(console): State<Console>, headers: HeaderMap, body: Bytes) -> Response {
    let session = cookie(&headers, COOKIE);
    if !console.is_own_form(&session, &headers, &body) {
        return console.stranger(&headers);
    }
    if console.access.mode() == AuthMode::Smart
        && let Err(error) = console.access.end_session(&session).await
    {
        return console.failed(&headers, &error);
    }
    let mut response = console.go_to("/login");
    set_cookie(&console.access, &mut response, COOKIE, "", BASE);
    response
}

/// What went wrong before a page could be made, or where there is none.
pub(super) fn notice(access: &Access, status: StatusCode, words: &str) -> Response {
    notice_to(access, status, "", "", words)
}

/// `who`: who has logged in, with the `token` that their forms carry.
fn notice_to(access: &Access, status: StatusCode, who: &str, token: &str, words: &str) -> Response {
    let (base, style) = (access.local_path(BASE), access.local_path("/auth/style.css"));
    html(status, Notice { base: &base, style: &style, who, token, words }.render(), None)
}

impl Console {
    fn base(&self) -> String {
        self.access.local_path(BASE)
    }

    fn style(&self) -> String {
        self.access.local_path("/auth/style.css")
    }

    /// What the forms of this browser carry.
    fn token(&self, headers: &HeaderMap) -> String {
        self.access.form_token(&cookie(headers, COOKIE)).unwrap_or_default()
    }

    /// Whether the form is one of lango's, for this browser. `bound`: the cookie that it is bound to.
    fn is_own_form(&self, bound: &str, headers: &HeaderMap, body: &[u8]) -> bool {
        !is_foreign(&self.access, headers) && self.access.is_form_token(bound, &field(body, "token")).unwrap_or(false)
    }

    fn go_to(&self, page: &str) -> Response {
        let Ok(location) = HeaderValue::from_str(&format!("{}{page}", self.base())) else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
    }

    /// `tried`: the name with which it did not work.
    fn login(&self, browser: &str, tried: Option<&str>) -> Response {
        let token = self.access.form_token(browser).unwrap_or_default();
        let (username, wrong) = (tried.unwrap_or_default(), tried.is_some());
        let page = LoginPage { base: &self.base(), style: &self.style(), who: "", token: &token, username, wrong }.render();
        let mut response = html(if wrong { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, page, None);
        set_cookie(&self.access, &mut response, LOGIN_COOKIE, browser, BASE);
        response
    }

    fn notice(&self, status: StatusCode, who: &str, headers: &HeaderMap, words: &str) -> Response {
        notice_to(&self.access, status, who, &self.token(headers), words)
    }

    fn stranger(&self, headers: &HeaderMap) -> Response {
        let words =
            format!("This page is too old, or belongs to another window or address: open {}{BASE} again.", self.access.public_url());
        self.notice(StatusCode::BAD_REQUEST, "", headers, &words)
    }

    fn failed(&self, headers: &HeaderMap, error: &(dyn std::error::Error + 'static)) -> Response {
        tracing::error!(%error, "a page of the console failed");
        let (status, words) = failure(error);
        self.notice(status, "", headers, words)
    }
}
