//! Why something was not done, in the terms of the specification.

use crate::access::Forbidden;
use crate::fhir::{Issue, IssueCode};
use crate::store::{WriteError, is_unavailable};

/// The kind of a [`Refusal`]; each is one HTTP status (<https://hl7.org/fhir/R4/http.html#Status-Codes>), because FHIR puts
/// that status into `Bundle.entry.response` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    Malformed,
    Forbidden,
    NotFound,
    NotAllowed,
    Conflict,
    Gone,
    PreconditionFailed,
    TooLarge,
    Invalid,
    Throttled,
    Busy,
    Internal,
}

/// What was not done, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("refused ({kind:?}): {}", issues.first().map_or("", |issue| issue.diagnostics.as_str()))]
pub struct Refusal {
    pub kind: RefusalKind,
    /// At least one; their words may be shown to the caller.
    pub issues: Vec<Issue>,
    /// For the log of the boundary, never for the caller.
    #[source]
    pub cause: Option<anyhow::Error>,
}

impl Refusal {
    pub fn new(kind: RefusalKind, issue: Issue) -> Refusal {
        Refusal::all(kind, vec![issue])
    }

    pub fn all(kind: RefusalKind, issues: Vec<Issue>) -> Refusal {
        Refusal { kind, issues, cause: None }
    }

    pub fn malformed(words: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Invalid, words))
    }

    /// The same words, whether the resource never existed or the caller may not see it.
    pub fn not_found() -> Refusal {
        Refusal::new(RefusalKind::NotFound, Issue::error(IssueCode::NotFound, "There is no such resource: check the type and the id."))
    }

    /// What the caller may see and another facility contributed.
    pub fn foreign() -> Refusal {
        let words = "The resource belongs to another facility: only that facility and the operator can change it.";
        Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words))
    }

    /// Nothing that the caller may change has what the criteria of a patch ask for; the same words, whether the caller may see one that has.
    pub fn no_match() -> Refusal {
        let words = "The criteria match nothing: a patch changes what is there. Check the criteria, or PUT the resource with them.";
        Refusal::new(RefusalKind::NotFound, Issue::error(IssueCode::NotFound, words))
    }

    pub fn gone() -> Refusal {
        Refusal::new(
            RefusalKind::Gone,
            Issue::error(IssueCode::Deleted, "The resource was deleted; its earlier versions are in its history."),
        )
    }

    pub fn failed_precondition(words: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::PreconditionFailed, Issue::error(IssueCode::Conflict, words))
    }

    /// `If-Match` names a version that is not the current one.
    pub fn other_version() -> Refusal {
        Refusal::failed_precondition("The resource is not at the version that If-Match names: read it again and repeat the change on that.")
    }

    /// What is known by a sender's own keys is stored of another patient than is now said.
    pub fn other_patient(type_name: &str) -> Refusal {
        let words = format!(
            "Another patient's {type_name} is stored under the same keys, and nothing is moved from one patient to another: give each its own \
             keys, or delete the wrong one first."
        );
        Refusal::new(RefusalKind::Conflict, Issue::error(IssueCode::Conflict, words))
    }

    pub fn several_matches() -> Refusal {
        Refusal::new(
            RefusalKind::PreconditionFailed,
            Issue::error(IssueCode::MultipleMatches, "The criteria match several resources: narrow them until they match one."),
        )
    }

    /// The server gives ids itself (<https://hl7.org/fhir/R4/http.html#upsert>).
    pub fn no_update_as_create() -> Refusal {
        let words = "There is no resource with this id, and this server gives the ids: POST the resource to its type instead.";
        Refusal::new(RefusalKind::NotAllowed, Issue::error(IssueCode::NotSupported, words))
    }

    /// What failed in the server; [`RefusalKind::Busy`] if it is the database that cannot be had now.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Refusal {
        let cause = cause.into();
        let (kind, code, words) = match cause.chain().filter_map(|cause| cause.downcast_ref()).any(is_unavailable) {
            true => (
                RefusalKind::Busy,
                IssueCode::Transient,
                "The database cannot be reached, or has no room: come back later. A change may have been made nevertheless: look before you make it again.",
            ),
            false => (
                RefusalKind::Internal,
                IssueCode::Exception,
                "The server failed; the request may be sent again. The operator finds the cause in the log.",
            ),
        };
        Refusal { kind, issues: vec![Issue::error(code, words)], cause: Some(cause) }
    }

    /// The HTTP status of this refusal.
    pub fn status(&self) -> u16 {
        match self.kind {
            RefusalKind::Malformed => 400,
            RefusalKind::Forbidden => 403,
            RefusalKind::NotFound => 404,
            RefusalKind::NotAllowed => 405,
            RefusalKind::Conflict => 409,
            RefusalKind::Gone => 410,
            RefusalKind::PreconditionFailed => 412,
            RefusalKind::TooLarge => 413,
            RefusalKind::Invalid => 422,
            RefusalKind::Throttled => 429,
            RefusalKind::Busy => 503,
            RefusalKind::Internal => 500,
        }
    }

    /// The same refusal, its issues said of what stands at `path` (`Bundle.entry[3]`) instead of a whole resource.
    pub fn within(mut self, path: &str) -> Refusal {
        for issue in &mut self.issues {
            issue.expression = within(path, &issue.expression);
        }
        self
    }

    /// The same refusal of what the entry at `path` asks for: what is said of an element stands in its resource.
    pub fn of_entry(mut self, path: &str) -> Refusal {
        let resource = format!("{path}.resource");
        for issue in &mut self.issues {
            let of_element = !path.is_empty() && issue.expression.contains('.');
            issue.expression = within(if of_element { &resource } else { path }, &issue.expression);
        }
        self
    }

    /// The same refusal, all of it said of `path`.
    pub fn at(mut self, path: &str) -> Refusal {
        self.issues.iter_mut().for_each(|issue| issue.expression = path.to_owned());
        self
    }
}

/// The most problems that one answer lists.
const MOST_ISSUES: usize = 1000;

/// Leaves out what no reader would get to, and says so.
pub fn keep_some(issues: &mut Vec<Issue>) {
    let more = issues.len().saturating_sub(MOST_ISSUES);
    if more > 0 {
        issues.truncate(MOST_ISSUES);
        issues.push(Issue::information(IssueCode::Informational, format!("{more} more problems are not listed.")));
    }
}

/// `Patient.name[0]` at `Bundle.entry[3].resource` is `Bundle.entry[3].resource.name[0]`; an empty path changes nothing.
pub fn within(path: &str, expression: &str) -> String {
    if path.is_empty() {
        return expression.to_owned();
    }
    match expression.find(['.', '[']).and_then(|at| expression.get(at..)) {
        Some(rest) => format!("{path}{rest}"),
        None => path.to_owned(),
    }
}

impl From<Forbidden> for Refusal {
    fn from(forbidden: Forbidden) -> Refusal {
        Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, forbidden.to_string()))
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Refusal {
        Refusal::internal(error)
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Refusal {
        match error {
            WriteError::Stale => Refusal::new(
                RefusalKind::Conflict,
                Issue::error(IssueCode::Transient, "Others change the same resources at this moment: send the request again."),
            ),
            WriteError::Busy => Refusal::new(
                RefusalKind::Busy,
                Issue::error(IssueCode::Throttled, "More is waiting to be written than the server takes: send the request again later."),
            ),
            WriteError::Database(error) => Refusal::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_move_into_the_bundle() {
        assert_eq!(within("Bundle.entry[3].resource", "Patient.name[0].given"), "Bundle.entry[3].resource.name[0].given");
        assert_eq!(within("Bundle.entry[3].resource", "Patient"), "Bundle.entry[3].resource");
        assert_eq!(within("Bundle.entry[3]", ""), "Bundle.entry[3]");
        assert_eq!(within("", "Patient.name"), "Patient.name");
    }
}
