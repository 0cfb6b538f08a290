//! What can be wrong with a question about codes, in words that say what to do.

use crate::fhir::{Issue, IssueCode};

/// Why a terminology operation gives no answer. The words name parameters, systems and codes of the terminology, never patient data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TerminologyError {
    #[error("no {type_name} with {what} is loaded; check the spelling, or create it with PUT {type_name}/[id]")]
    NotLoaded { type_name: &'static str, what: String },
    #[error("the parameter {name} is missing: {hint}")]
    Missing { name: &'static str, hint: &'static str },
    #[error("the parameter {name} is not valid: {hint}")]
    Invalid { name: String, hint: &'static str },
    #[error("the operation takes no parameter {name}; with Prefer: handling=strict it is refused, without it is ignored")]
    Unknown { name: String },
    #[error(
        "the parameter {name} is given more than once with different values; with Prefer: handling=strict it is refused, without it the first counts"
    )]
    Repeated { name: String },
    #[error("the value set draws on version {stated} of CodeSystem {system}, not on the one asked for")]
    OtherVersion { system: String, stated: String },
    #[error("give only one of {names}")]
    Ambiguous { names: &'static str },
    #[error("CodeSystem {system} does not have the code asked for")]
    UnknownCode { system: String },
    #[error("the part of CodeSystem {system} that is loaded does not have the code; load more of it")]
    NotInPart { system: String },
    #[error(
        "only a part of CodeSystem {system}, on which the value set rests, is loaded, and the answer is as good as that part; load more of it, or list the codes"
    )]
    Partial { system: String },
    #[error("only the outline of CodeSystem {system} is loaded (content is not-present); load its concepts to use it")]
    NoContent { system: String },
    #[error("the value set has more than {limit} codes; ask for a part of it with count and offset, or narrow it with filter")]
    TooManyCodes { limit: usize },
    #[error("the answer needs too many steps; narrow the value set or name the codes in it")]
    TooCostly,
    #[error("the value set {url} includes itself, or nests deeper than {limit} levels; break the loop")]
    Nesting { url: String, limit: usize },
    #[error("a value set filter cannot be evaluated: {hint}")]
    Filter { hint: String },
    #[error("the operation {name} does not exist here; known are $translate, $lookup, $validate-code, $subsumes and $expand")]
    UnknownOperation { name: String },
    #[error("the operation CodeSystem/$lookup is asked of the type, not of one CodeSystem: leave out the id, and give code with system")]
    OfTypeOnly,
}

impl TerminologyError {
    /// The issue for an OperationOutcome.
    pub fn issue(&self) -> Issue {
        use TerminologyError::*;
        let code = match self {
            NotLoaded { .. } | UnknownCode { .. } | NotInPart { .. } => IssueCode::NotFound,
            Missing { .. } => IssueCode::Required,
            Invalid { .. } | Ambiguous { .. } | Repeated { .. } => IssueCode::Invalid,
            Unknown { .. } | Partial { .. } | NoContent { .. } | UnknownOperation { .. } | OfTypeOnly => IssueCode::NotSupported,
            TooManyCodes { .. } | TooCostly => IssueCode::TooCostly,
            OtherVersion { .. } | Nesting { .. } | Filter { .. } => IssueCode::Processing,
        };
        Issue::error(code, self.to_string())
    }
}
