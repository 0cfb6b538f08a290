//! How much one client may ask for at a time, and which web pages may ask at all.
//!
//! Each client has a bucket of requests that fills by the second; who has not logged in is counted by address. A request that finds
//! the bucket empty, or too many of its own kind under way, is answered 429 with the seconds after which it may come back.

use super::connections::PeerAddress;
use crate::access::Caller;
use crate::config::Limits;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Seconds whose requests a quiet client may send at once.
const BURST_SECONDS: f64 = 10.0;
/// Callers remembered; beyond that those with full buckets are forgotten, which changes nothing for them.
const MOST: usize = 100_000;

/// Counts every caller's requests; cloning shares.
#[derive(Clone)]
pub struct Limiter {
    per_second: f64,
    at_once: u32,
    longest: Option<Duration>,
    buckets: Arc<Mutex<HashMap<Arc<str>, Bucket>>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
    under_way: u32,
}

impl Limiter {
    pub fn new(limits: &Limits) -> Limiter {
        Limiter {
            per_second: f64::from(limits.requests_per_second),
            at_once: limits.requests_at_once,
            longest: (limits.request_s > 0).then(|| Duration::from_secs(limits.request_s.into())),
            buckets: Arc::default(),
        }
    }

    fn counts(&self) -> bool {
        self.per_second > 0.0 || self.at_once > 0
    }

    /// A place for one request, or the seconds to wait.
    fn admit(&self, who: Arc<str>, now: Instant) -> Result<Place, u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.per_second * BURST_SECONDS;
        if buckets.len() >= MOST && !buckets.contains_key(&who) {
            let per_second = self.per_second;
            buckets.retain(|_, bucket| bucket.under_way > 0 || bucket.level(per_second, now) < most);
            if buckets.len() >= MOST {
                return Err(1);
            }
        }
        let bucket = buckets.entry(Arc::clone(&who)).or_insert(Bucket { left: most, filled: now, under_way: 0 });
        (bucket.left, bucket.filled) = (bucket.level(self.per_second, now), now);
        if self.at_once > 0 && bucket.under_way >= self.at_once {
            return Err(1);
        }
        if self.per_second > 0.0 {
            if bucket.left < 1.0 {
                return Err(((1.0 - bucket.left) / self.per_second).ceil().max(1.0) as u64);
            }
            bucket.left -= 1.0;
        }
        bucket.under_way = bucket.under_way.saturating_add(1);
        Ok(Place { limiter: self.clone(), who })
    }
}

impl Bucket {
    fn level(&self, per_second: f64, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        (self.left + gained).min(per_second * BURST_SECONDS)
    }
}

/// One request under way; over when it is dropped.
struct Place {
    limiter: Limiter,
    who: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut buckets = self.limiter.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&self.who) {
            bucket.under_way = bucket.under_way.saturating_sub(1);
        }
    }
}

/// Lets a request through, or answers 429; gives up what takes too long.
pub async fn limit(State(limiter): State<Limiter>, request: Request, next: Next) -> Response {
    // Under `--auth open` everybody is one and the same, on the own machine.
    let counted = limiter.counts() && !request.extensions().get::<Caller>().is_some_and(Caller::is_unrestricted);
    let _place = if counted {
        match limiter.admit(who(&request), Instant::now()) {
            Ok(place) => Some(place),
            Err(seconds) => {
                let words = "too many requests: come back after the seconds of Retry-After, or ask the operator for more";
                return later(StatusCode::TOO_MANY_REQUESTS, seconds, words);
            }
        }
    } else {
        None
    };
    match limiter.longest {
        None => next.run(request).await,
        Some(longest) => match tokio::time::timeout(longest, next.run(request)).await {
            Ok(response) => response,
            Err(_) => later(StatusCode::SERVICE_UNAVAILABLE, 5, "the request took too long: ask for less at a time"),
        },
    }
}

fn who(request: &Request) -> Arc<str> {
    let extensions = request.extensions();
    match (extensions.get::<Caller>().and_then(|caller| caller.client.as_deref()), extensions.get::<PeerAddress>()) {
        (Some(client), _) => format!("client {client}").into(),
        (None, Some(PeerAddress(address))) => format!("address {address}").into(),
        (None, None) => "nobody".into(),
    }
}

fn later(status: StatusCode, seconds: u64, words: &str) -> Response {
    let body = operation_outcome(&[Issue::error(IssueCode::Throttled, words)]).to_string();
    let mut response = (status, [(header::CONTENT_TYPE, "application/fhir+json")], body).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// What browsers are told about pages of these origins; without any, nothing is.
pub fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    // Tokens travel in a header; cookies never do, so credentials are not allowed.
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::ACCEPT,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            HeaderName::from_static("if-none-exist"),
            HeaderName::from_static("prefer"),
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::LAST_MODIFIED, header::RETRY_AFTER, header::WARNING])
        .max_age(Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests_per_second: u32, requests_at_once: u32) -> Limiter {
        Limiter::new(&Limits { requests_per_second, requests_at_once, ..Limits::default() })
    }

    #[test]
    fn a_client_that_asks_too_fast_waits_and_others_do_not() {
        let limiter = limiter(2, 0);
        let start = Instant::now();
        let ask = |who: &str, at: f64| limiter.admit(who.into(), start + Duration::from_secs_f64(at)).map(drop);
        for _ in 0..20 {
            assert_eq!(ask("a", 0.0), Ok(()));
        }
        assert_eq!(ask("a", 0.0), Err(1));
        assert_eq!(ask("b", 0.0), Ok(()));
        assert_eq!(ask("a", 0.6), Ok(()));
        assert_eq!(ask("a", 0.6), Err(1));
        assert_eq!(ask("a", 100.0), Ok(()));
    }

    #[test]
    fn requests_under_way_are_counted_until_they_end() {
        let limiter = limiter(0, 2);
        let now = Instant::now();
        let first = limiter.admit("a".into(), now).ok().unwrap();
        let _second = limiter.admit("a".into(), now).ok().unwrap();
        assert!(limiter.admit("a".into(), now).is_err());
        assert!(limiter.admit("b".into(), now).is_ok());
        drop(first);
        assert!(limiter.admit("a".into(), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_however_many_come() {
        let limiter = limiter(1, 0);
        let now = Instant::now();
        for n in 0..MOST + 10 {
            let _ = limiter.admit(n.to_string().into(), now);
        }
        assert_eq!(limiter.buckets.lock().unwrap().len(), MOST);
        assert!(limiter.admit("late".into(), now + Duration::from_secs(60)).is_ok(), "full buckets are forgotten");
    }
}
