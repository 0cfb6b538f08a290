//! Carrying a request out again when what patients allow changed before its answer could leave ([`crate::store::closing`]).

use super::error::Failure;
use crate::fhir::{Issue, IssueCode};
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::TryStreamExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Times that a request is carried out; the last while nothing is closed.
pub const TIMES: u32 = 4;
/// How long the last time may keep those waiting who close.
pub const QUIET: Duration = Duration::from_secs(10);
/// Bytes of a body that are kept for it. A search, a lookup and the like are much shorter.
const MOST_BODY: usize = 1 << 20;

/// What was read of a request's body so far.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    chunks: Vec<Bytes>,
    length: usize,
}

/// The body, which is kept while it is read.
pub fn first(body: Body) -> (Body, Kept) {
    let kept = Kept::default();
    let keeper = kept.clone();
    let stream = body.into_data_stream().inspect_ok(move |chunk| keeper.keep(chunk));
    (Body::from_stream(stream), kept)
}

impl Kept {
    fn keep(&self, chunk: &Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.length = kept.length.saturating_add(chunk.len());
        if kept.length <= MOST_BODY {
            kept.chunks.push(chunk.clone());
        } else {
            kept.chunks.clear();
        }
    }

    /// The body once more; `None` when it was too long to keep.
    pub fn again(&self) -> Option<Body> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.length <= MOST_BODY).then(|| Body::from(kept.chunks.concat()))
    }
}

/// What a caller gets whose answer took so long that nobody can be kept waiting for it.
pub fn failure() -> Failure {
    let words = "What patients allow changed while this was being answered, so the answer is not given: ask again. What the request changed stays changed.";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, Issue::error(IssueCode::Transient, words))
}
