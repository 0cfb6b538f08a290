//! The job that labels what is stored anew, for the transaction that makes it necessary. The work is [`crate::app`]'s.

use super::write::Writer;
use crate::access::consent::Sensitive;
use crate::access::consent::vocabulary::Coding;
use crate::store::write::NewJob;
use crate::terminology::Terminology;
use serde_json::json;

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
    /// The job, when the terminology becomes `next` and what is stored is labelled by something else.
    pub(super) async fn relabelling(&self, next: &Terminology) -> Result<Option<NewJob>, sqlx::Error> {
        let before = self.store().labelled_by().await?;
        // Before anything was stored nothing is to be labelled anew; the start sees to it.
        Ok((!before.is_empty() && before != sensitive(next).digest()).then(job))
    }
}
