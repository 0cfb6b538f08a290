//! The FHIR R4 REST API (<https://hl7.org/fhir/R4/http.html>) under `/fhir`.
//!
//! One handler takes every request: the path says what it is about ([`target`]), the method what to do, and a module for each
//! group of interactions does it ([`read`], [`binary`], [`history`], [`write`], [`search`], [`everything`], [`operation`], [`validate`], [`lookup`], [`meta`], [`maintain`],
//! [`metadata`]). They answer with [`Answer`]s
//! in JSON; the form that the caller wants and conditional reads (304) are settled here, once.

mod answer;
mod audit;
mod binary;
mod everything;
mod history;
mod lookup;
mod maintain;
mod meta;
pub(super) mod metadata;
mod operation;
mod read;
mod search;
mod target;
mod validate;
mod write;

use super::body;
use super::error::Failure;
use super::negotiate::{self, Format, Prefer};
use super::repeat;
use super::state::FhirState;
use crate::access::{Caller, Interaction};
use crate::definitions;
use crate::fhir::xml::{self, XmlError};
use crate::fhir::{Issue, IssueCode};
use crate::ingest::{Refusal, bundle};
use crate::store::{Stored, TypeCode};
use answer::Answer;
use audit::Settled;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::any;
use std::sync::OnceLock;
use target::Target;
use tokio::time::timeout;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

/// An answer of fewer bytes goes in one packet; making it shorter gains nothing.
const ONE_PACKET: u16 = 1_200;

/// The operation whose question is recorded whole.
const LOOKUP: &str = "record-lookup";

/// What the caller calls the request by; it is told back (<https://hl7.org/fhir/R4/http.html#custom>), as long as it is no longer than this.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 256;

/// All routes of the FHIR API.
pub fn routes(state: FhirState) -> Router {
    Router::new()
        .route("/fhir", any(handle))
        .route("/fhir/", any(handle))
        .route("/fhir/{type}", any(handle))
        .route("/fhir/{type}/", any(handle))
        .route("/fhir/{type}/{id}", any(handle))
        .route("/fhir/{type}/{id}/", any(handle))
        .route("/fhir/{type}/{id}/{verb}", any(handle))
        .route("/fhir/{type}/{id}/_history/{version}", any(handle))
        .route("/fhir/{type}/{id}/_history/{version}/{operation}", any(handle))
        .route("/fhir/{type}/{id}/{member}/_search", any(handle))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(ONE_PACKET)))
        .layer(CatchPanicLayer::custom(answer::panicked))
        .with_state(state)
}

/// The answer where nothing is routed.
pub async fn nowhere() -> Response {
    answer::failure(&Failure::unknown_url(), Format::Json, false)
}

/// The answer where only another method is routed.
pub async fn not_so() -> Response {
    let issue = Issue::error(IssueCode::NotSupported, "This URL does not take this method: the header Allow says which it takes.");
    answer::failure(&Failure::new(StatusCode::METHOD_NOT_ALLOWED, issue), Format::Json, false)
}

/// What every interaction may look at.
struct Call<'a> {
    state: &'a FhirState,
    caller: &'a Caller,
    headers: &'a HeaderMap,
    /// The decoded parameters of the URL, `_format` and `_pretty` left out.
    query: Vec<(String, String)>,
    prefer: Prefer,
    asked: &'a Form,
    /// What a posted form says in place of that.
    posted: &'a OnceLock<Form>,
}

impl Call<'_> {
    /// What was said of the answer's form, which the links to further pages repeat: they are followed as they are.
    fn said_of_form(&self) -> &[(String, String)] {
        &self.posted.get().unwrap_or(self.asked).said
    }

    /// A link to this URL, in the form of this answer.
    fn in_this_form(&self, url: &str) -> String {
        let said = form_urlencoded::Serializer::new(String::new()).extend_pairs(self.said_of_form()).finish();
        match (said.as_str(), url.contains('?')) {
            ("", _) => url.to_owned(),
            (said, true) => format!("{url}&{said}"),
            (said, false) => format!("{url}?{said}"),
        }
    }

    /// The caller may do this with resources of this type.
    fn require(&self, type_code: TypeCode, interaction: Interaction) -> Result<(), Failure> {
        self.caller.require(definitions::r4().type_name(type_code), interaction).map_err(|forbidden| Refusal::from(forbidden).into())
    }
}

impl Call<'_> {
    /// Whether the caller's scopes reach this version for reading.
    fn admits(&self, row: &Stored) -> bool {
        self.caller.admits(row, &[Interaction::Read], self.state.writer.options())
    }

    /// The caller may do this with every resource of this type that its facility has.
    fn require_all(&self, type_name: &str, interaction: Interaction) -> Result<(), Failure> {
        self.caller.require_all(type_name, interaction).map_err(|forbidden| Refusal::from(forbidden).into())
    }

    /// The version, unless it is absent or the caller's scopes do not reach it, which look alike.
    fn readable(&self, stored: Option<Stored>) -> Result<Stored, Failure> {
        stored.filter(|stored| self.admits(stored)).ok_or_else(|| Refusal::not_found().into())
    }
}

async fn handle(State(state): State<FhirState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let (said, query): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| FORM.contains(&key.as_str()));
    let mut asked = Form { format: Format::Json, said };
    let named = asked.last("_format").map(str::to_owned);
    let native = binary::is_wanted(&parts, named.as_deref());
    let mut response = match negotiate::wanted(&parts.headers, named.as_deref()) {
        Err(failure) if !native => answer::failure(&failure, Format::Json, false),
        format => {
            asked.format = format.unwrap_or_default();
            let posted = OnceLock::new();
            let answered = decided(&state, &parts, query, body, &asked, &posted).await;
            let answered = answered.map(|answer| answer.unless_unchanged(&parts.method, &parts.headers));
            let form = posted.get().unwrap_or(&asked);
            let (format, pretty) = (form.format, form.pretty());
            match answered {
                Ok(answer) if native => binary::render(answer),
                Ok(answer) => rendered(&state, answer, format, pretty).await,
                Err(failure) => answer::failure(&placed(failure, &parts), format, pretty),
            }
        }
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("accept"));
    if let Some(id) = parts.headers.get(REQUEST_ID).filter(|id| id.len() <= LONGEST_ID) {
        headers.insert(REQUEST_ID, id.clone());
    }
    response
}

/// The answer in the form asked for. Another form than the stored one is work for a processor: what is long is made beside the threads that answer.
async fn rendered(state: &FhirState, answer: Answer, format: Format, pretty: bool) -> Response {
    const SHORT: usize = 16 * 1024;
    let is_stored = format == Format::Json && !pretty;
    if is_stored || answer.body.as_ref().is_none_or(|body| body.len() < SHORT) {
        return answer.render(format, pretty);
    }
    let stored = answer.clone();
    match state.writer.workers().run(move || answer.render(format, pretty)).await {
        Ok(response) => response,
        Err(refusal) => {
            // Told to the log only: what is answered may be done.
            let _ = Failure::from(refusal);
            stored.render(Format::Json, false)
        }
    }
}

/// What is refused about a resource says of what type that is, where nothing closer is said.
fn placed(mut failure: Failure, parts: &Parts) -> Failure {
    let about = match failure.status.as_u16() {
        404 | 410 | 412 => true,
        400 | 422 => parts.method == Method::PATCH,
        _ => false,
    };
    let target = Target::of_path(parts.uri.path().strip_prefix("/fhir").unwrap_or_default());
    if let (true, Ok(Target::Type(code) | Target::Instance(code, _) | Target::Version(code, ..) | Target::History(code, _))) =
        (about, target)
    {
        for issue in failure.issues.iter_mut().filter(|issue| issue.expression.is_empty()) {
            issue.expression = definitions::r4().type_name(code).to_owned();
        }
    }
    failure
}

/// How the answer is to be written.
#[derive(Debug, Default)]
struct Form {
    format: Format,
    /// What the URL or the form says of it.
    said: Vec<(String, String)>,
}

/// The parameters that say how the answer is to be written.
const FORM: [&str; 2] = ["_format", "_pretty"];

impl Form {
    fn last(&self, name: &str) -> Option<&str> {
        self.said.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn pretty(&self) -> bool {
        self.last("_pretty") == Some("true")
    }
}

/// The answer, recorded. When what patients allow changed while it was made, it is made again; in the end while nothing changes.
async fn decided(
    state: &FhirState,
    parts: &Parts,
    query: Vec<(String, String)>,
    body: Body,
    asked: &Form,
    posted: &OnceLock<Form>,
) -> Result<Answer, Failure> {
    let mut caller = parts.extensions.get::<Caller>().cloned();
    let (mut body, repeated) = repeat::first(body);
    for time in 1..=repeat::TIMES {
        let last = time == repeat::TIMES;
        let work = async {
            let _quiet = if last { Some(state.store.quiet().await.map_err(Refusal::from)?) } else { None };
            if let (Some(caller), true) = (&mut caller, time > 1) {
                *caller = audit::begin_again(state, caller).await?;
            }
            let answered = carry_out(state, caller.as_ref(), parts, query.clone(), body, asked, posted).await;
            Ok::<_, Failure>(audit::settled(state, &parts.method, &parts.uri, answered).await)
        };
        let settled = if last { timeout(repeat::QUIET, work).await.map_err(|_| repeat::failure())? } else { work.await };
        if let Settled::Answer(answered) = settled? {
            return answered;
        }
        body = match repeated.again() {
            Some(body) if audit::may_repeat() => body,
            _ => break,
        };
    }
    Err(repeat::failure())
}

async fn carry_out(
    state: &FhirState,
    caller: Option<&Caller>,
    parts: &Parts,
    query: Vec<(String, String)>,
    body: Body,
    asked: &Form,
    posted: &OnceLock<Form>,
) -> Result<Answer, Failure> {
    let Parts { method, uri, headers, .. } = parts;
    let target = Target::of_path(uri.path().strip_prefix("/fhir").unwrap_or_default())?;
    let method = if method == Method::HEAD { &Method::GET } else { method };
    if target == Target::Metadata {
        return if method == Method::GET { metadata::told(state, &query) } else { Err(Failure::method_not_allowed("GET, HEAD")) };
    }
    let caller = caller.ok_or_else(answer::not_logged_in)?;
    well_encoded(uri.query().unwrap_or_default())?;
    let call = Call { state, caller, headers, query, prefer: Prefer::of(headers), asked, posted };
    match (method.as_str(), target) {
        ("POST", Target::System) => write::bundle(&call, resource_body(state, headers, body).await?).await,
        ("GET", Target::System) => search::everywhere(&call, call.query.clone()).await,
        ("POST", Target::SearchAll) => search::everywhere(&call, form_pairs(&call, body).await?).await,
        ("GET", Target::Type(type_code)) => search::search(&call, type_code, None, call.query.clone()).await,
        ("POST", Target::Search(type_code)) => search::search(&call, type_code, None, form_pairs(&call, body).await?).await,
        ("GET", Target::Compartment(compartment)) => search::within(&call, &compartment, call.query.clone()).await,
        ("POST", Target::CompartmentSearch(compartment)) => search::within(&call, &compartment, form_pairs(&call, body).await?).await,
        ("POST", Target::Type(type_code)) => write::create(&call, type_code, body_of(&call, type_code, None, body).await?.body).await,
        ("PUT", Target::Type(type_code)) => write::update_where(&call, type_code, resource_body(state, headers, body).await?).await,
        ("PATCH", Target::Type(type_code)) => write::patch(&call, type_code, None, write::patch_body(state, headers, body).await?).await,
        ("PATCH", Target::Instance(type_code, id)) => {
            write::patch(&call, type_code, Some(id), write::patch_body(state, headers, body).await?).await
        }
        ("DELETE", Target::Type(type_code)) => write::delete_where(&call, type_code).await,
        ("GET", Target::Instance(type_code, id)) => read::read(&call, type_code, &id).await,
        ("PUT", Target::Instance(type_code, id)) => {
            let body = body_of(&call, type_code, Some(&id), body).await?;
            write::update(&call, type_code, id, body).await
        }
        ("DELETE", Target::Instance(type_code, id)) => write::delete(&call, type_code, id).await,
        ("GET", Target::Version(type_code, id, version)) => read::version(&call, type_code, &id, version).await,
        ("GET", Target::History(type_code, id)) => history::of_instance(&call, type_code, &id).await,
        ("GET", Target::TypeHistory(type_code)) => history::of_type(&call, type_code).await,
        ("GET", Target::SystemHistory) => history::of_system(&call).await,
        ("GET", Target::Operation(operation)) => operation::run(&call, operation, None).await,
        ("POST", Target::Operation(operation)) => {
            if !negotiate::is_form(headers) {
                let body = resource_body(state, headers, body).await?;
                if operation.name == LOOKUP {
                    // Whom it asks for stands in the body alone.
                    audit::came_with(&body);
                }
                return operation::run(&call, operation, Some(body)).await;
            }
            // A form says what a URL could say; `curl -d ''` sends an empty one.
            let query = form_pairs(&call, body).await?;
            operation::run(&Call { query, ..call }, operation, Some(Bytes::new())).await
        }
        (_, target) => Err(Failure::method_not_allowed(target.methods())),
    }
}

fn well_encoded(query: &str) -> Result<(), Failure> {
    crate::search::check_encoding(query.as_bytes()).map_err(|issue| Failure::new(StatusCode::BAD_REQUEST, issue))
}

/// The body of a create or an update as JSON; `id` is that of the URL.
async fn body_of(call: &Call<'_>, type_code: TypeCode, id: Option<&str>, body: Body) -> Result<Sent, Failure> {
    match binary::is_binary(type_code) {
        true => binary::sent(call, type_code, id, body).await,
        false => Ok(Sent { body: resource_body(call.state, call.headers, body).await?, rests_on: None }),
    }
}

/// A body, read.
struct Sent {
    /// As JSON.
    body: Bytes,
    /// The version that something in it was taken from.
    rests_on: Option<i64>,
}

/// The body of a write as JSON.
async fn resource_body(state: &FhirState, headers: &HeaderMap, body: Body) -> Result<Bytes, Failure> {
    negotiate::sent(headers)?;
    resource_of(state, headers, body::read(headers, body, &state.settings.limits).await?).await
}

/// The same of a body that was read.
async fn resource_of(state: &FhirState, headers: &HeaderMap, bytes: Bytes) -> Result<Bytes, Failure> {
    let format = negotiate::sent(headers)?;
    let checked = bytes.clone();
    state.writer.workers().run(move || body::check_values(&checked, format)).await??;
    match format {
        Format::Json => Ok(bytes),
        Format::Xml => {
            let converted = state.writer.workers().run(move || xml::to_json(&bytes)).await?;
            converted.map(Bytes::from).map_err(|error| match error {
                XmlError::Misplaced { words, expression } => {
                    let issue = Issue::error(IssueCode::Structure, words).at(expression);
                    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, issue)
                }
                error => Failure::bad_request(format!("{error}.")),
            })
        }
    }
}

/// The parameters of a posted form and of the URL; what the form says of the answer's form goes to `call.posted`.
async fn form_pairs(call: &Call<'_>, body: Body) -> Result<Vec<(String, String)>, Failure> {
    let form = body::read(call.headers, body, &call.state.settings.limits).await?;
    audit::came_with(&form);
    let pairs = search::form_pairs(call.headers, &form, &call.query)?;
    let (said, pairs): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| FORM.contains(&key.as_str()));
    if !said.is_empty() {
        let said = Form { format: call.asked.format, said: call.asked.said.iter().cloned().chain(said).collect() };
        let format = said.last("_format").map(|format| negotiate::wanted(call.headers, Some(format))).transpose()?;
        let _ = call.posted.set(Form { format: format.unwrap_or(said.format), ..said });
    }
    Ok(pairs)
}

/// The value of a header, if it is readable text.
fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|text| !text.is_empty())
}

/// Answers a GET within a Bundle, or with a `body` an operation by POST, by the same interactions.
async fn fetch(call: &Call<'_>, query: bundle::Query) -> Result<Answer, Refusal> {
    let bundle::Query { url, body, none_match, modified_since, rehearsed, head: _ } = query;
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    well_encoded(query).map_err(answer::refusal_of)?;
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let target = Target::of_path(path).map_err(answer::refusal_of)?;
    let inner = Call { query: pairs, headers: &HeaderMap::new(), ..*call };
    let method = if body.is_some() { "POST" } else { "GET" };
    let told = body.clone().filter(|_| matches!(&target, Target::Operation(operation) if operation.name == LOOKUP));
    let answered = match target {
        Target::Operation(operation) => operation::run(&inner, operation, body).await,
        _ if body.is_some() => Err(Failure::unknown_url()),
        Target::System => search::everywhere(&inner, inner.query.clone()).await,
        Target::Type(type_code) => search::search(&inner, type_code, None, inner.query.clone()).await,
        Target::Compartment(compartment) => search::within(&inner, &compartment, inner.query.clone()).await,
        Target::Instance(type_code, id) => read::read(&inner, type_code, &id).await,
        Target::Version(type_code, id, version) => read::version(&inner, type_code, &id, version).await,
        Target::History(type_code, id) => history::of_instance(&inner, type_code, &id).await,
        Target::TypeHistory(type_code) => history::of_type(&inner, type_code).await,
        Target::SystemHistory => history::of_system(&inner).await,
        Target::Metadata => metadata::told(call.state, &inner.query),
        Target::SearchAll | Target::Search(_) | Target::CompartmentSearch(_) => Err(Failure::unknown_url()),
    };
    if !rehearsed || answered.is_err() {
        audit::asked_within(method, &url, told.as_deref(), &answered);
    }
    let answered = answered.map(|answer| answer.unless_held(none_match.as_deref(), modified_since));
    answered.map_err(answer::refusal_of)
}
