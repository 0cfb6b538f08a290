//! What the FHIR routes work with.

use super::fhir::metadata;
use crate::app::App;
use crate::search::CursorKey;
use std::ops::Deref;

/// Shared by all requests; cloning shares, nothing is copied.
#[derive(Clone)]
pub struct FhirState {
    pub app: App,
    /// Seals the tokens of `next` links; the same in all processes on one database.
    pub cursor_key: CursorKey,
    /// The CapabilityStatement.
    pub(super) statement: metadata::Made,
}

impl FhirState {
    pub fn new(app: App, cursor_key: CursorKey) -> FhirState {
        FhirState { app, cursor_key, statement: metadata::Made::default() }
    }

    /// The FHIR base as clients reach it, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.app.writer.options().base
    }
}

impl Deref for FhirState {
    type Target = App;
    fn deref(&self) -> &App {
        &self.app
    }
}
