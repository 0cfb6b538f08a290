//! The gate that every request passes: from an Authorization header to a [`Caller`].

use super::{console, pages};
use crate::access::{Access, AccessError, Caller, Forbidden, MAX_FACILITY_CODE};
use crate::config::{AuthMode, Secret};
use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;

/// Under `--auth open`: the code of the facility that owns what is sent.
pub const FACILITY_HEADER: HeaderName = HeaderName::from_static("x-lango-facility");

/// What needs no login, and tells nobody anything about anybody.
const QUIET: [&str; 10] = [
    "/",
    "/favicon.ico",
    "/.well-known/openid-configuration",
    "/livez",
    "/readyz",
    "/metrics",
    "/fhir/metadata",
    "/fhir/.well-known/smart-configuration",
    "/auth/jwks.json",
    "/auth/style.css",
];
/// Where people and programs log in, or prove themselves in the form.
const LOGINS: [&str; 7] =
    ["/auth/token", "/auth/introspect", "/auth/revoke", "/auth/authorize", "/auth/login", "/auth/patient", "/auth/consent"];
/// Where a client's secret may stand in for a token, as EMRs that speak to HDU send it.
const BASIC_ALLOWED: &str = "/api/v1/hduApi/";

/// SHA-256 of the TLS certificate that a connection was made with, in hex; an extension of every request on it.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Arc<str>);

/// The gate: puts a [`Caller`] into the request, or answers in its place.
pub async fn authenticate(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let certificate = request.extensions().get::<PeerCertificate>().map(|PeerCertificate(digest)| Arc::clone(digest));
    match identify(&access, path, request.headers(), certificate.as_deref()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        // Who has a session is not asked to log in because the database is away.
        Err(refusal) if is_public(path) || is_console(path) && !refusal.is_passing() => next.run(request).await,
        Err(refusal) => {
            let tried = match &refusal {
                Refusal::Password { client, .. } => Tried::client(&access, client).await,
                _ => None,
            };
            told(refusal.answer(path), tried)
        }
    }
}

/// Whose login was tried in vain, as a form says it: for the record of the refusal, in the extensions of its answer. A name that nobody has
/// is not told: it may be a password that was typed in the wrong place.
#[derive(Clone, Debug)]
pub(super) struct Tried(pub String);

impl Tried {
    pub async fn client(access: &Access, id: &str) -> Option<Tried> {
        Tried::new("client_id", id, access.has_client(id).await)
    }

    pub async fn person(access: &Access, id: &str) -> Option<Tried> {
        Tried::new("username", id, access.has_person(id).await)
    }

    fn new(name: &str, id: &str, is_known: Result<bool, AccessError>) -> Option<Tried> {
        match is_known {
            Ok(true) => Some(Tried(form_urlencoded::Serializer::new(String::new()).append_pair(name, id).finish())),
            Ok(false) => None,
            Err(error) => {
                tracing::error!(%error, "whose login was refused cannot be told");
                None
            }
        }
    }
}

/// The answer, of whom it refused.
pub(super) fn told(mut response: Response, tried: Option<Tried>) -> Response {
    if let Some(tried) = tried {
        response.extensions_mut().insert(tried);
    }
    response
}

async fn identify(access: &Access, path: &str, headers: &HeaderMap, certificate: Option<&str>) -> Result<Caller, Refusal> {
    if access.mode() == AuthMode::Open {
        return Ok(access.open_caller(facility(headers)?).await?);
    }
    if is_public(path) {
        return Err(Refusal::NoCredentials);
    }
    if is_console(path) {
        // Its pages themselves show those to the login who have no session.
        return Ok(access.session_caller(&pages::cookie(headers, console::COOKIE)).await?);
    }
    match credentials(headers)? {
        None => Err(Refusal::NoCredentials),
        Some(Credentials::Bearer(token)) => Ok(access.bearer_caller(&token, certificate).await?),
        Some(Credentials::Basic { user, password }) if path.starts_with(BASIC_ALLOWED) => {
            access.basic_caller(&user, &password, certificate).await.map_err(|error| match error {
                AccessError::Refused(reason) | AccessError::Claim(reason) => Refusal::Password { client: user, reason },
                error => Refusal::Access(error),
            })
        }
        Some(Credentials::Basic { .. }) => Err(Refusal::Unclear("this address takes a bearer token: get one from /auth/token")),
    }
}

/// What needs no login and is not recorded.
pub(super) fn is_quiet(path: &str) -> bool {
    QUIET.contains(&path)
}

fn is_public(path: &str) -> bool {
    is_quiet(path) || LOGINS.contains(&path)
}

/// Where a session stands in for a token, and nothing else does.
pub(super) fn is_console(path: &str) -> bool {
    path.strip_prefix(console::BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn facility(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(FACILITY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let code = value.to_str().ok().map(str::trim).filter(|code| !code.is_empty() && code.len() <= MAX_FACILITY_CODE);
    match (code, values.next()) {
        (Some(code), None) => Ok(Some(code)),
        _ => Err(Refusal::Facility),
    }
}

pub(super) enum Credentials {
    Bearer(String),
    Basic { user: String, password: Secret },
}

/// Exactly one Authorization header, of a scheme that lango knows.
pub(super) fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Unclear("there are several Authorization headers: send one"));
    }
    let unreadable = Refusal::Unclear("the Authorization header cannot be read: send Bearer and a token");
    let Some((scheme, rest)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return Err(unreadable) };
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(Some(Credentials::Bearer(rest.trim().to_owned())));
    }
    if scheme.eq_ignore_ascii_case("Basic") {
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|decoded| decoded.split_once(':')) {
            return Ok(Some(Credentials::Basic { user: user.to_owned(), password: Secret::new(password) }));
        }
    }
    Err(unreadable)
}

/// Why a request does not pass the gate.
pub(super) enum Refusal {
    NoCredentials,
    Unclear(&'static str),
    Facility,
    /// Name and password do not hold.
    Password {
        client: String,
        reason: &'static str,
    },
    Access(AccessError),
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Refusal {
        Refusal::Access(error)
    }
}

impl Refusal {
    /// Whether nothing is known of the caller, since the database cannot be had now.
    fn is_passing(&self) -> bool {
        matches!(self, Refusal::Access(error) if error.is_passing())
    }

    fn answer(self, path: &str) -> Response {
        // Where Basic is taken it is what most callers use, and comes first.
        let takes_basic = path.starts_with(BASIC_ALLOWED);
        let basic_first = takes_basic && matches!(self, Refusal::NoCredentials | Refusal::Password { .. });
        let (status, issue, challenge) = match self {
            Refusal::NoCredentials if takes_basic => (
                StatusCode::UNAUTHORIZED,
                Issue::error(
                    IssueCode::Login,
                    "log in: send Authorization: Basic with the client's id and secret, or Bearer with a token from /auth/token",
                ),
                "Bearer realm=\"lango\"",
            ),
            Refusal::Password { reason, .. } => {
                tracing::debug!(reason, "a request was refused");
                let words = "the client's id and secret do not hold, or no longer: check them, or ask the operator for a new secret";
                (StatusCode::UNAUTHORIZED, Issue::error(IssueCode::Login, words), "Bearer realm=\"lango\"")
            }
            Refusal::NoCredentials => (
                StatusCode::UNAUTHORIZED,
                Issue::error(IssueCode::Login, "log in: send Authorization: Bearer with a token from /auth/token"),
                "Bearer realm=\"lango\"",
            ),
            Refusal::Unclear(words) => {
                (StatusCode::UNAUTHORIZED, Issue::error(IssueCode::Login, words), "Bearer realm=\"lango\", error=\"invalid_request\"")
            }
            Refusal::Access(AccessError::Refused(reason) | AccessError::Claim(reason)) => {
                tracing::debug!(reason, "a request was refused");
                let words = "the credentials do not hold, or no longer: get a new token from /auth/token";
                (StatusCode::UNAUTHORIZED, Issue::error(IssueCode::Login, words), "Bearer realm=\"lango\", error=\"invalid_token\"")
            }
            Refusal::Access(AccessError::Busy) => (
                StatusCode::SERVICE_UNAVAILABLE,
                Issue::error(IssueCode::Throttled, "too many logins at once: come back in a few seconds"),
                "",
            ),
            Refusal::Access(error) => {
                tracing::error!(%error, "a caller could not be identified");
                match error.is_passing() {
                    true => (
                        StatusCode::SERVICE_UNAVAILABLE,
                        Issue::error(IssueCode::Transient, "the database cannot be had now: come back later"),
                        "",
                    ),
                    false => {
                        (StatusCode::INTERNAL_SERVER_ERROR, Issue::error(IssueCode::Exception, "the server failed; it has been logged"), "")
                    }
                }
            }
            Refusal::Facility => {
                let words = "the header X-Lango-Facility is no facility code: send one code of at most 128 printable characters";
                (StatusCode::BAD_REQUEST, Issue::error(IssueCode::Value, words), "")
            }
        };
        let mut response = if path.starts_with("/api/") {
            // The HDU API's own form of an error, and an OperationOutcome at once, as its other errors are.
            let mut body = operation_outcome(std::slice::from_ref(&issue));
            body["status"] = json!(status.as_u16());
            body["error"] = json!(status.canonical_reason().unwrap_or_default());
            body["message"] = json!(issue.diagnostics);
            body["path"] = json!(path);
            body["authMethods"] = if takes_basic { json!(["Basic", "Bearer"]) } else { json!(["Bearer"]) };
            (status, json_body(body)).into_response()
        } else {
            outcome(status, issue)
        };
        let headers = response.headers_mut();
        if !challenge.is_empty() {
            let mut challenges = vec![challenge];
            if takes_basic {
                challenges.insert(usize::from(!basic_first), "Basic realm=\"lango\", charset=\"UTF-8\"");
            }
            for challenge in challenges {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A reply that is plain JSON.
pub(super) fn json_body(body: Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn outcome(status: StatusCode, issue: Issue) -> Response {
    let body: Value = operation_outcome(&[issue]);
    (status, [(header::CONTENT_TYPE, "application/fhir+json")], body.to_string()).into_response()
}

impl IntoResponse for Forbidden {
    fn into_response(self) -> Response {
        let mut response = outcome(StatusCode::FORBIDDEN, Issue::error(IssueCode::Forbidden, self.to_string()));
        // RFC 6750 §3.1.
        let challenge = HeaderValue::from_static("Bearer realm=\"lango\", error=\"insufficient_scope\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response
    }
}

/// The caller whom the gate identified. Without the gate, nobody is.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Response> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| Refusal::NoCredentials.answer(parts.uri.path()))
    }
}
