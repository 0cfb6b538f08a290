//! One door to every operation, so that whoever carries requests needs to know only their names.

use super::expand::ExpandRequest;
use super::lookup::LookupRequest;
use super::subsumes::SubsumesRequest;
use super::translate::TranslateRequest;
use super::validate_code::ValidateCodeRequest;
use super::{Arguments, Terminology, TerminologyError};
use crate::fhir::Issue;
use serde_json::Value;

/// What each operation takes, by R4's definitions; `useSupplement` is R5's. Taken and without effect are `date` (what is loaded is what
/// there is), `excludeNotForUI` and `excludePostCoordinated` (no such codes come).
const PARAMETERS: [(&str, &str, &[&str]); 6] = [
    (
        "ConceptMap",
        "translate",
        &[
            "url",
            "conceptMap",
            "conceptMapVersion",
            "code",
            "system",
            "version",
            "source",
            "coding",
            "codeableConcept",
            "target",
            "targetsystem",
            "dependency",
            "reverse",
        ],
    ),
    ("CodeSystem", "lookup", &["code", "system", "version", "coding", "date", "displayLanguage", "property", "useSupplement"]),
    (
        "CodeSystem",
        "validate-code",
        &[
            "url",
            "codeSystem",
            "code",
            "version",
            "display",
            "coding",
            "codeableConcept",
            "date",
            "abstract",
            "displayLanguage",
            "useSupplement",
        ],
    ),
    ("CodeSystem", "subsumes", &["codeA", "codeB", "system", "version", "codingA", "codingB"]),
    (
        "ValueSet",
        "expand",
        &[
            "url",
            "valueSet",
            "valueSetVersion",
            "context",
            "contextDirection",
            "filter",
            "date",
            "offset",
            "count",
            "includeDesignations",
            "designation",
            "includeDefinition",
            "activeOnly",
            "excludeNested",
            "excludeNotForUI",
            "excludePostCoordinated",
            "displayLanguage",
            "exclude-system",
            "system-version",
            "check-system-version",
            "force-system-version",
            "useSupplement",
        ],
    ),
    (
        "ValueSet",
        "validate-code",
        &[
            "url",
            "context",
            "valueSet",
            "valueSetVersion",
            "code",
            "system",
            "systemVersion",
            "display",
            "coding",
            "codeableConcept",
            "date",
            "abstract",
            "displayLanguage",
            "useSupplement",
        ],
    ),
];

/// Those that may be given more than once.
const MANY: [&str; 8] = [
    "property",
    "designation",
    "dependency",
    "exclude-system",
    "system-version",
    "check-system-version",
    "force-system-version",
    "useSupplement",
];

/// What names the resource that is asked, which an instance's URL has said.
const OF_TYPE_ONLY: [(&str, &[&str]); 3] = [
    ("ConceptMap", &["url", "conceptMap", "conceptMapVersion"]),
    ("CodeSystem", &["codeSystem"]),
    ("ValueSet", &["url", "valueSet", "valueSetVersion", "context"]),
];

/// Parameters that are not used, of one request, that are told one by one.
const MOST_UNUSED: usize = 20;

/// What a request may say of any answer.
const OF_EVERY_ANSWER: [&str; 4] = ["_format", "_pretty", "_summary", "_elements"];

/// What somebody else wrote is cut before it is repeated.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

impl Terminology {
    /// The parameters that the operation does not take (of a type, or of the instance with `id`), and those that are given more often than it
    /// takes them, as errors. A lenient request goes on without them.
    pub fn unused_parameters(type_name: &str, id: Option<&str>, name: &str, arguments: &Arguments) -> Vec<TerminologyError> {
        let Some((.., known)) = PARAMETERS.iter().find(|(of, operation, _)| *of == type_name && *operation == name) else {
            return Vec::new();
        };
        let mut unused: Vec<(&str, bool)> = Vec::new();
        for given in arguments.names().filter(|given| !OF_EVERY_ANSWER.contains(given)) {
            let of_type_only = OF_TYPE_ONLY.iter().any(|(of, names)| *of == type_name && names.contains(&given));
            let known = known.contains(&given) && !(id.is_some() && of_type_only);
            let is_unused = !known || !MANY.contains(&given) && arguments.contradict(given);
            if is_unused && !unused.contains(&(given, known)) && unused.len() < MOST_UNUSED {
                unused.push((given, known));
            }
        }
        let error = |(name, known): (&str, bool)| match known {
            true => TerminologyError::Repeated { name: shown(name) },
            false => TerminologyError::Unknown { name: shown(name) },
        };
        unused.into_iter().map(error).collect()
    }

    /// The same of an operation that takes each of the parameters `given` but `known` ones for nothing.
    pub fn unknown_parameters<'n>(known: &[&str], given: impl IntoIterator<Item = &'n str>) -> Vec<TerminologyError> {
        let mut unknown: Vec<&str> = Vec::new();
        for name in given.into_iter().filter(|name| !known.contains(name) && !OF_EVERY_ANSWER.contains(name)) {
            if !unknown.contains(&name) && unknown.len() < MOST_UNUSED {
                unknown.push(name);
            }
        }
        unknown.into_iter().map(|name| TerminologyError::Unknown { name: shown(name) }).collect()
    }

    /// The resource of [`Terminology::answer`] alone.
    pub fn operate(&self, type_name: &str, id: Option<&str>, name: &str, arguments: &Arguments) -> Result<Value, TerminologyError> {
        self.answer(type_name, id, name, arguments).map(|(resource, _)| resource)
    }

    /// Runs operation `name` (with or without its `$`) of a resource type, or of the one instance with `id`, and gives the resource to answer with,
    /// Parameters or the expanded ValueSet, and what is to be said of it.
    pub fn answer(
        &self,
        type_name: &str,
        id: Option<&str>,
        name: &str,
        arguments: &Arguments,
    ) -> Result<(Value, Vec<Issue>), TerminologyError> {
        let name = name.strip_prefix('$').unwrap_or(name);
        let resource = match (type_name, name) {
            ("ConceptMap", "translate") => self.translate(&TranslateRequest::read(id, arguments)?)?.to_parameters(),
            ("CodeSystem", "lookup") if id.is_none() => self.lookup(&LookupRequest::read(arguments)?)?.to_parameters(),
            ("CodeSystem", "lookup") => return Err(TerminologyError::OfTypeOnly),
            ("CodeSystem", "validate-code") => {
                self.validate_code_in_system(&ValidateCodeRequest::read_for_code_system(id, arguments)?)?.to_parameters()
            }
            ("CodeSystem", "subsumes") => self.subsumes(&SubsumesRequest::read(id, arguments)?)?.to_parameters(),
            ("ValueSet", "expand") => {
                let expansion = self.expand(&ExpandRequest::read(id, arguments)?)?;
                return Ok((expansion.to_value_set(), expansion.warnings()));
            }
            ("ValueSet", "validate-code") => {
                self.validate_code_in_set(&ValidateCodeRequest::read_for_value_set(id, arguments)?)?.to_parameters()
            }
            _ => return Err(TerminologyError::UnknownOperation { name: format!("{type_name}/${name}") }),
        };
        Ok((resource, Vec::new()))
    }
}
