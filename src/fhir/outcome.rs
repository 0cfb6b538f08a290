//! Issues and the OperationOutcome they make (<https://hl7.org/fhir/R4/operationoutcome.html>).

use serde_json::{Value, json};

/// `OperationOutcome.issue.severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Fatal,
    Error,
    Warning,
    Information,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Fatal => "fatal",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Information => "information",
        }
    }

    /// Whether the request that caused this issue fails because of it.
    pub fn is_error(self) -> bool {
        matches!(self, Severity::Fatal | Severity::Error)
    }
}

/// `OperationOutcome.issue.code` (<https://hl7.org/fhir/R4/valueset-issue-type.html>), the ones lango uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueCode {
    Invalid,
    Structure,
    Required,
    Value,
    Invariant,
    CodeInvalid,
    Security,
    Login,
    Forbidden,
    Processing,
    NotSupported,
    Duplicate,
    MultipleMatches,
    NotFound,
    Deleted,
    TooLong,
    TooCostly,
    BusinessRule,
    Conflict,
    Throttled,
    Transient,
    Exception,
    Timeout,
    Incomplete,
    Informational,
}

impl IssueCode {
    pub fn as_str(self) -> &'static str {
        use IssueCode::*;
        match self {
            Invalid => "invalid",
            Structure => "structure",
            Required => "required",
            Value => "value",
            Invariant => "invariant",
            CodeInvalid => "code-invalid",
            Security => "security",
            Login => "login",
            Forbidden => "forbidden",
            Processing => "processing",
            NotSupported => "not-supported",
            Duplicate => "duplicate",
            MultipleMatches => "multiple-matches",
            NotFound => "not-found",
            Deleted => "deleted",
            TooLong => "too-long",
            TooCostly => "too-costly",
            BusinessRule => "business-rule",
            Conflict => "conflict",
            Throttled => "throttled",
            Transient => "transient",
            Exception => "exception",
            Timeout => "timeout",
            Incomplete => "incomplete",
            Informational => "informational",
        }
    }
}

/// One problem, with words that say what to do. The words never quote patient data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub severity: Severity,
    pub code: IssueCode,
    /// What is wrong and what to do about it.
    pub diagnostics: String,
    /// FHIRPath of the element concerned, such as `Observation.component[0].code`; empty when the whole input is meant.
    pub expression: String,
}

impl Issue {
    pub fn error(code: IssueCode, diagnostics: impl Into<String>) -> Self {
        Issue { severity: Severity::Error, code, diagnostics: diagnostics.into(), expression: String::new() }
    }

    pub fn warning(code: IssueCode, diagnostics: impl Into<String>) -> Self {
        Issue { severity: Severity::Warning, ..Issue::error(code, diagnostics) }
    }

    pub fn information(code: IssueCode, diagnostics: impl Into<String>) -> Self {
        Issue { severity: Severity::Information, ..Issue::error(code, diagnostics) }
    }

    /// The same issue, said of the element at `path`.
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.expression = path.into();
        self
    }
}

/// The OperationOutcome resource for `issues`; an empty list gives the informational "all OK".
pub fn operation_outcome(issues: &[Issue]) -> Value {
    let all_ok = [Issue::information(IssueCode::Informational, "All OK")];
    let issues = if issues.is_empty() { &all_ok } else { issues };
    let list: Vec<Value> = issues
        .iter()
        .map(|issue| {
            let mut entry = json!({
                "severity": issue.severity.as_str(),
                "code": issue.code.as_str(),
                "diagnostics": issue.diagnostics,
            });
            if !issue.expression.is_empty() {
                entry["expression"] = json!([issue.expression]);
            }
            entry
        })
        .collect();
    json!({ "resourceType": "OperationOutcome", "issue": list })
}
