//! Every failure of a FHIR request as an answer: an OperationOutcome and a status (<https://hl7.org/fhir/R4/http.html#Status-Codes>).

use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::Refusal;
use axum::http::StatusCode;

/// What a request came to instead of an answer.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub issues: Vec<Issue>,
    /// For 405: the methods that the URL takes.
    pub allow: Option<&'static str>,
    /// For 413, 429 and 503: the seconds after which to come back; a few unless said.
    pub retry_after: Option<u64>,
}

impl Failure {
    pub fn new(status: StatusCode, issue: Issue) -> Failure {
        Failure { status, issues: vec![issue], allow: None, retry_after: None }
    }

    pub fn of_issues(status: StatusCode, issues: Vec<Issue>) -> Failure {
        Failure { status, issues, allow: None, retry_after: None }
    }

    pub fn bad_request(words: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Invalid, words))
    }

    /// No such URL, whatever the method.
    pub fn unknown_url() -> Failure {
        let words = "There is nothing at this URL: see the CapabilityStatement at /fhir/metadata for what there is.";
        Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words))
    }

    pub fn unknown_operation() -> Failure {
        let words = "There is no such operation: see the CapabilityStatement at /fhir/metadata for those that there are.";
        Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotSupported, words))
    }

    pub fn method_not_allowed(allow: &'static str) -> Failure {
        let words = format!("This URL takes {allow} only.");
        let issue = Issue::error(IssueCode::NotSupported, words);
        Failure { status: StatusCode::METHOD_NOT_ALLOWED, issues: vec![issue], allow: Some(allow), retry_after: None }
    }

    pub fn too_large(words: impl Into<String>) -> Failure {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, Issue::error(IssueCode::TooLong, words))
    }

    /// The OperationOutcome as JSON.
    pub fn outcome(&self) -> Vec<u8> {
        operation_outcome(&self.issues).to_string().into_bytes()
    }
}

impl From<Refusal> for Failure {
    /// The boundary where causes are logged, once; they never reach the caller.
    fn from(refusal: Refusal) -> Failure {
        if let Some(cause) = &refusal.cause {
            tracing::error!(error = causes(cause), "a request failed");
        }
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, issues: refusal.issues, allow: None, retry_after: None }
    }
}

/// An error and what it comes from: its first words alone rarely tell. What JSON was expected to be may be told with what it is, which may
/// be a patient's, so of that only the kind and the place.
fn causes(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = error
        .chain()
        .map(|cause| match cause.downcast_ref::<serde_json::Error>() {
            Some(json) => format!("JSON, {:?}, line {}, column {}", json.classify(), json.line(), json.column()),
            None => cause.to_string(),
        })
        .collect();
    told.dedup();
    told.join(": ")
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        Refusal::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::SearchError;

    #[test]
    fn a_database_that_cannot_be_had_is_no_fault_of_the_server() {
        let status = |error| Failure::from(Refusal::internal(SearchError::Database(error))).status;
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for passing in [sqlx::Error::PoolTimedOut, sqlx::Error::Io(reset)] {
            assert_eq!(status(passing), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(status(sqlx::Error::RowNotFound), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_failure_is_logged_with_its_cause_and_without_data() {
        let failed = anyhow::Error::from(SearchError::Database(sqlx::Error::PoolTimedOut));
        assert!(causes(&failed).starts_with("the database failed: pool timed out"), "{}", causes(&failed));
        let json = serde_json::from_str::<u8>(r#""Massawe""#).unwrap_err();
        assert_eq!(causes(&json.into()), "JSON, Data, line 1, column 9");
    }
}
