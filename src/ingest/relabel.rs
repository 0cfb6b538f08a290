//! The job that labels what is stored anew, for the transaction that makes it necessary. The work is [`crate::app`]'s.

use super::write::Writer;
use crate::access::consent::Sensitive;
use crate::access::consent::vocabulary::Coding;
use crate::definitions;
use crate::search::extract;
use crate::store::gate::About;
use crate::store::write::{Change, NewJob};
use crate::store::{Mutation, Stored};
use crate::terminology::Terminology;
use serde_json::{Value, json};

/// The kind of the job.
pub const RELABEL_JOB: &str = "gate.relabel";

/// The job from the start. Of several one waits.
pub fn job() -> NewJob {
    NewJob { kind: RELABEL_JOB.to_owned(), payload: json!({}), dedup_key: Some("labels".to_owned()), run_at: 0 }
}

/// What a terminology holds of what is sensitive.
pub(super) fn sensitive(terminology: &Terminology) -> Sensitive {
    Sensitive::new(|url: &str| {
        let members = terminology.members(url)?;
        Some(members.iter().map(|member| Coding::new(&member.system, &member.code)).collect())
    })
}

impl Writer {
    /// A stored resource as a new version that says the same, if it was taken for a Patient's or for nobody's and is its contributor's alone by now; or, with
    /// `anew`, if what it is decided by is otherwise than the release before took it to be. It never becomes more open. `old`: the resource as it is stored.
    pub fn rearrived(&self, stored: &Stored, old: &Value, anew: bool) -> Option<Mutation> {
        let type_name = definitions::r4().type_name(stored.type_code);
        if matches!(type_name, "AuditEvent" | "Consent") || stored.patient < 0 {
            return None;
        }
        let draft = self.draft(stored.type_code, &stored.id, old.clone());
        let is_closed = draft.about == About::Unknown;
        let is_untold = || anew && draft.about.patient().is_some() && extract::names_untold(old, self.options(), None);
        if !is_closed && !is_untold() {
            return None;
        }
        let (body, stamp_at) = draft.body(stored.version.saturating_add(1));
        let old_entries = extract::extract(stored.type_code, old, self.options());
        Some(Mutation {
            type_code: stored.type_code,
            id: stored.id.clone(),
            base_version: stored.version,
            change: Change::Put { body, stamp_at, entries: draft.entries, old_entries },
            owner: stored.owner,
            listed: true,
            about: draft.about,
            traits: draft.traits,
            rules: None,
        })
    }

    /// The job, when the terminology becomes `next` and what is stored is labelled by something else.
    pub(super) async fn relabelling(&self, next: &Terminology) -> Result<Option<NewJob>, sqlx::Error> {
        let before = self.store().labelled_by().await?;
        // Before anything was stored nothing is to be labelled anew; the start sees to it.
        Ok((!before.is_empty() && before != sensitive(next).digest()).then(job))
    }
}
