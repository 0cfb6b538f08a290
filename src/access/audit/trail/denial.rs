//! What a caller asked for by name and may not see. To the caller it does not exist; to the privacy officer, and to nobody else, it is a denial.

use super::{Name, Trail};
use crate::access::audit::{Action, AuditError, Event};
use crate::definitions;
use crate::store::audit::NOBODY;
use crate::store::{AuditRow, ResourceKey, Scope, Store, Subject};
use std::collections::BTreeSet;

/// Names that one request may ask for and that are looked after one by one.
pub(super) const MOST_NAMED: usize = 1_000;

impl Trail {
    /// The request asks for these resources by name, wherever it does so: in its URL, its criteria, its body, or an entry of a Bundle. Those that
    /// neither leave nor are changed, and that are hidden from the caller, are told to be denied.
    pub fn names(&self, names: impl IntoIterator<Item = Name>) {
        let mut noted = self.noted();
        let room = MOST_NAMED.saturating_sub(noted.named.len());
        noted.named.extend(names.into_iter().take(room));
    }

    /// An entry of a Bundle, at this path, was refused; this is what it asked for.
    pub fn refused_within(&self, path: &str, request: &str) {
        let mut noted = self.noted();
        if noted.refused.len() < MOST_NAMED {
            noted.refused.insert(path.to_owned(), super::cut(request));
        }
    }

    /// What a refused entry of a Bundle asked for, as far as it was noted; else its path.
    pub fn request_at(&self, path: &str) -> String {
        self.noted().refused.get(path).map_or_else(|| path.to_owned(), String::clone)
    }

    /// The denials among what was asked for by name and did not leave. `seen`: the Patients of whom something leaves.
    pub(super) async fn denials(&self, store: &Store, asked: &[Name], seen: &BTreeSet<ResourceKey>) -> Result<Vec<AuditRow>, AuditError> {
        if asked.is_empty() || !matches!(self.scope, Scope::Gate(_)) {
            return Ok(Vec::new());
        }
        let r4 = definitions::r4();
        let patient = r4.type_code("Patient");
        let mut rows = Vec::new();
        for placed in store.placed(asked, false).await? {
            let is_open = placed.patient == 0 || self.scope.owners().contains(&placed.owner);
            if is_open || Some(placed.type_code) == patient && seen.contains(&placed.patient) {
                continue;
            }
            // Asked for, allowed, and left out for another reason: it did not match, say.
            if store.read(placed.type_code, &placed.id, &self.scope).await?.is_some() {
                continue;
            }
            let subject = if placed.patient > 0 { Subject::Key(placed.patient) } else { Subject::Nobody };
            let what = vec![format!("{}/{}", r4.type_name(placed.type_code), placed.id)];
            let row = self.row(&self.event(Action::Execute, Event::DECISION, 403).about(what), subject)?;
            rows.push(AuditRow { owner: NOBODY, ..row });
        }
        Ok(rows)
    }
}

/// Whether an answer with this status may stand for what is hidden; the others are the same whatever was asked for.
pub(super) fn may_hide(status: u16) -> bool {
    status < 400 || matches!(status, 404 | 409 | 410 | 412)
}
