//! The record of every request: a layer around all routes that gives each a [`Trail`], and withholds what was not recorded.
//!
//! Routes of FHIR settle their trail themselves, since they know what the answer holds ([`super::fhir`]). Any other answer is
//! settled here on its way out, so that a route cannot forget.

use super::auth;
use super::connections::PeerAddress;
use super::error::Failure;
use super::repeat;
use crate::access::Caller;
use crate::access::audit::{Action, AuditError, Recorder, Shape, Trail};
use crate::access::releases::Releases;
use crate::config::Limits;
use crate::fhir::{Issue, IssueCode};
use crate::store::Store;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How a token was asked for is the authorization server's business; that it was refused is recorded.
const LOGIN: &str = "/auth/";

/// Refusals of one second that are recorded one by one: whoever knocks at a closed door without end must not fill the disk.
const MOST_REFUSALS: u32 = 20;

/// What records.
#[derive(Clone, Debug)]
pub struct Auditor {
    store: Store,
    recorder: Recorder,
    releases: Arc<Releases>,
    refusals: Arc<Mutex<Refusals>>,
}

/// The refusals of the present second.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    count: u32,
    skipped: u64,
}

/// The answer has been recorded.
#[derive(Clone, Copy, Debug)]
struct Recorded;

impl Auditor {
    pub fn new(store: Store, limits: &Limits) -> Auditor {
        let refusals = Refusals { since: Instant::now(), count: 0, skipped: 0 };
        let releases = Arc::new(Releases::new(limits.reads_per_patient, limits.patients_per_hour));
        Auditor { recorder: Recorder::new(store.clone()), store, releases, refusals: Arc::new(Mutex::new(refusals)) }
    }

    /// Whether one more refusal is recorded by itself; those that were not are counted, and told in the log.
    fn takes_refusal(&self) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.since.elapsed() >= Duration::from_secs(1) {
            if refusals.skipped > 0 {
                tracing::warn!(refusals = refusals.skipped, "more requests were refused than are recorded one by one");
            }
            *refusals = Refusals { since: Instant::now(), count: 0, skipped: 0 };
        }
        refusals.count = refusals.count.saturating_add(1);
        let takes = refusals.count <= MOST_REFUSALS;
        refusals.skipped += u64::from(!takes);
        takes
    }

    fn trail(&self, request: &Request) -> Arc<Trail> {
        let caller = request.extensions().get::<Caller>();
        let path = request.uri().path_and_query().map_or_else(|| request.uri().path(), |both| both.as_str());
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let address = request.extensions().get::<PeerAddress>().map(|PeerAddress(address)| address.to_string());
        let trail = Trail::new(self.recorder.clone(), caller, &format!("{} {path}", request.method()), id, address);
        Arc::new(trail.bounded(Arc::clone(&self.releases)))
    }

    /// The answer, marked, once it is recorded. `stranger`: nobody has logged in. `None`: what patients allow changed meanwhile, and it must
    /// be made again.
    async fn settled(&self, trail: &Trail, mut response: Response, stranger: bool) -> Option<Response> {
        let status = response.status();
        let knocks = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) || stranger && status.is_client_error();
        if let Some(auth::Tried(form)) = response.extensions().get() {
            trail.came_with(form.as_bytes());
        }
        if !trail.is_settled() && (!knocks || self.takes_refusal()) {
            let shape = Shape { action: Action::Execute, interaction: "operation", target: None, old_versions: false };
            let mut settled = trail.settle(&self.store, &shape, response.status().as_u16(), HashSet::new()).await;
            if let Err(AuditError::TooMuch { seconds }) = settled {
                response = refusal(&too_much(), seconds);
                settled = trail.settle(&self.store, &shape, response.status().as_u16(), HashSet::new()).await;
            }
            match settled {
                Ok(()) => {}
                Err(AuditError::Outdated) => return None,
                Err(error) => {
                    tracing::error!(%error, "an answer was withheld");
                    response = refusal(&failure(), 5);
                }
            }
        }
        response.extensions_mut().insert(Recorded);
        Some(response)
    }
}

/// Within the gate: follows what a caller asks.
pub async fn follow(State(auditor): State<Auditor>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if auth::is_quiet(path) || path.starts_with(LOGIN) {
        return next.run(request).await;
    }
    let stranger = request.extensions().get::<Caller>().is_none();
    if stranger && auth::is_console(path) && request.method() == Method::GET {
        return next.run(request).await;
    }
    let trail = auditor.trail(&request);
    if request.method() == Method::GET && !path.starts_with("/fhir") && !stranger {
        return repeated(&auditor, &trail, request, next).await;
    }
    let response = trail.follow(next.run(request)).await;
    auditor.settled(&trail, response, stranger).await.unwrap_or_else(|| refusal(&repeat::failure(), 5))
}

/// The answer to a request that changes nothing; when what patients allow changed while it was made, it is made again, in the end while
/// nothing changes. (Those of FHIR do so themselves, whatever their method.)
async fn repeated(auditor: &Auditor, trail: &Arc<Trail>, request: Request, next: Next) -> Response {
    let (mut parts, _) = request.into_parts();
    for time in 1..=repeat::TIMES {
        let last = time == repeat::TIMES;
        let work = async {
            let _quiet = if last { Some(auditor.store.quiet().await?) } else { None };
            if let (Some(caller), true) = (parts.extensions.get::<Caller>(), time > 1) {
                let caller = caller.again(&auditor.store).await?;
                trail.begins_again(&caller);
                parts.extensions.insert(caller);
            }
            let request = Request::from_parts(parts.clone(), Body::empty());
            let response = trail.follow(next.clone().run(request)).await;
            Ok::<_, sqlx::Error>(auditor.settled(trail, response, false).await)
        };
        let settled = if last { timeout(repeat::QUIET, work).await.unwrap_or(Ok(None)) } else { work.await };
        match settled {
            Ok(Some(response)) => return response,
            Ok(None) if !trail.has_written() => {}
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "an answer was withheld");
                return refusal(&failure(), 5);
            }
        }
    }
    refusal(&repeat::failure(), 5)
}

/// Around the gate: records those who were not let in.
pub async fn refused(State(auditor): State<Auditor>, request: Request, next: Next) -> Response {
    if auth::is_quiet(request.uri().path()) {
        return next.run(request).await;
    }
    let trail = auditor.trail(&request);
    let response = next.run(request).await;
    let status = response.status();
    if response.extensions().get::<Recorded>().is_some() || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    auditor.settled(&trail, response, true).await.unwrap_or_else(|| refusal(&repeat::failure(), 5))
}

/// What a caller gets whose answer could not be recorded.
pub fn failure() -> Failure {
    // Of a change nobody knows whether its transaction was the last that the database took.
    let words = "The answer could not be recorded, so it is not given: try again, but look first whether a change was made. The operator finds the cause in the log.";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, Issue::error(IssueCode::Exception, words))
}

/// What a client gets that is told too much about one patient, or of too many.
pub fn too_much() -> Failure {
    let words = "More of this patient, or of so many patients, is not told to one client at a time: come back after the seconds of Retry-After, \
                 or ask the operator for more.";
    Failure::new(StatusCode::TOO_MANY_REQUESTS, Issue::error(IssueCode::Throttled, words))
}

fn refusal(failure: &Failure, seconds: u64) -> Response {
    let mut response = Response::new(Body::from(failure.outcome()));
    *response.status_mut() = failure.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
