//! What the routes work with.

use crate::config::Limits;
use crate::ingest::write::Writer;
use crate::search::CursorKey;
use crate::store::Store;
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Shared by all requests; cloning shares, nothing is copied.
#[derive(Clone)]
pub struct AppState {
    /// Reads and searches.
    pub store: Store,
    /// The one path by which resources are written.
    pub writer: Writer,
    /// The terminology in memory; the writer keeps it up to date.
    pub terminology: Terminology,
    /// The FHIR base as clients reach it, without a slash at the end: `https://hie.example.org/fhir`.
    pub base_url: Arc<str>,
    pub limits: Limits,
    /// Seals the tokens of `next` links.
    pub cursor_key: CursorKey,
    /// Where dates without a zone are read.
    pub zone: TimeZone,
}
