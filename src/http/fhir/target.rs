//! What a path under the base is about.

use super::super::error::Failure;
use crate::definitions;
use crate::fhir::reference::{is_id, is_type_name};
use crate::fhir::{Issue, IssueCode};
use crate::search::suggest;
use crate::store::TypeCode;
use axum::http::StatusCode;

/// The thing that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    System,
    Metadata,
    Type(TypeCode),
    /// `_search`: of all types.
    SearchAll,
    /// `Type/_search`.
    Search(TypeCode),
    Instance(TypeCode, String),
    /// `Patient/id/Type`.
    Compartment(Compartment),
    /// `Patient/id/Type/_search`.
    CompartmentSearch(Compartment),
    SystemHistory,
    TypeHistory(TypeCode),
    History(TypeCode, String),
    Version(TypeCode, String, i64),
    Operation(OperationTarget),
}

/// What is in the compartment of a resource (<https://hl7.org/fhir/R4/compartmentdefinition.html>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compartment {
    /// The type of the resource that defines it.
    pub of: TypeCode,
    pub id: String,
    /// `None`: `*`, all types.
    pub member: Option<TypeCode>,
}

/// `[Type/[id/[_history/version/]]]$name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationTarget {
    pub type_code: Option<TypeCode>,
    pub id: Option<String>,
    pub version: Option<i64>,
    /// Without the dollar sign.
    pub name: String,
}

impl Target {
    /// Reads what follows the base, such as `/Patient/1`; percent-encoding is undone.
    pub fn of_path(path: &str) -> Result<Target, Failure> {
        let decoded = percent_encoding::percent_decode_str(path.trim_matches('/')).decode_utf8().map_err(|_| Failure::unknown_url())?;
        let segments: Vec<&str> = decoded.split('/').collect();
        let operation = |type_code, id: Option<&str>, name: &str| {
            Target::Operation(OperationTarget { type_code, id: id.map(str::to_owned), version: None, name: name.to_owned() })
        };
        match segments.as_slice() {
            [""] => Ok(Target::System),
            ["metadata"] => Ok(Target::Metadata),
            [name] if name.starts_with('$') => Ok(operation(None, None, name.trim_start_matches('$'))),
            ["_history"] => Ok(Target::SystemHistory),
            [type_name, "_history"] => Ok(Target::TypeHistory(type_code(type_name)?)),
            ["_search"] => Ok(Target::SearchAll),
            [type_name] => Ok(Target::Type(type_code(type_name)?)),
            [type_name, "_search"] => Ok(Target::Search(type_code(type_name)?)),
            [type_name, name] if name.starts_with('$') => Ok(operation(Some(type_code(type_name)?), None, name.trim_start_matches('$'))),
            [type_name, id] => Ok(Target::Instance(type_code(type_name)?, checked_id(id)?)),
            [type_name, id, "_history"] => Ok(Target::History(type_code(type_name)?, checked_id(id)?)),
            [type_name, id, name] if name.starts_with('$') => {
                Ok(operation(Some(type_code(type_name)?), Some(&checked_id(id)?), name.trim_start_matches('$')))
            }
            [of, id, member] if COMPARTMENTS.contains(of) && (*member == "*" || is_type_name(member)) => {
                Ok(Target::Compartment(compartment(of, id, member)?))
            }
            [of, id, member, "_search"] if COMPARTMENTS.contains(of) => Ok(Target::CompartmentSearch(compartment(of, id, member)?)),
            [type_name, id, "_history", version] => Ok(Target::Version(type_code(type_name)?, checked_id(id)?, number(version))),
            [type_name, id, "_history", version, name @ ("$meta" | "$meta-add" | "$meta-delete")] => {
                Ok(Target::Operation(OperationTarget {
                    type_code: Some(type_code(type_name)?),
                    id: Some(checked_id(id)?),
                    version: Some(number(version)),
                    name: name.trim_start_matches('$').to_owned(),
                }))
            }
            _ => Err(Failure::unknown_url()),
        }
    }

    /// The methods that this takes, for `Allow`.
    pub fn methods(&self) -> &'static str {
        match self {
            Target::System => "GET, HEAD, POST",
            Target::SearchAll | Target::Search(_) | Target::CompartmentSearch(_) => "POST",
            Target::Metadata
            | Target::SystemHistory
            | Target::TypeHistory(_)
            | Target::Compartment(_)
            | Target::History(..)
            | Target::Version(..) => "GET, HEAD",
            Target::Type(_) => "GET, HEAD, POST, PUT, PATCH, DELETE",
            Target::Instance(..) => "GET, HEAD, PUT, PATCH, DELETE",
            Target::Operation(_) => "GET, HEAD, POST",
        }
    }
}

/// A version that is no number of ours does not exist.
fn number(version: &str) -> i64 {
    version.parse().ok().filter(|version| *version > 0).unwrap_or(i64::MAX)
}

/// The types that define compartments.
const COMPARTMENTS: [&str; 5] = ["Device", "Encounter", "Patient", "Practitioner", "RelatedPerson"];

fn compartment(of: &str, id: &str, member: &str) -> Result<Compartment, Failure> {
    let member = if member == "*" { None } else { Some(type_code(member)?) };
    Ok(Compartment { of: type_code(of)?, id: checked_id(id)?, member })
}

fn type_code(name: &str) -> Result<TypeCode, Failure> {
    definitions::r4().type_code(name).ok_or_else(|| {
        let words = match suggest::nearest(name, definitions::r4().resource_types().iter().copied()) {
            Some(near) => format!("The URL names no resource type of FHIR R4: is {near} meant? Capitals count."),
            None => "The URL names no resource type of FHIR R4: /fhir/metadata lists them.".to_owned(),
        };
        Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words))
    })
}

fn checked_id(id: &str) -> Result<String, Failure> {
    if is_id(id) { Ok(id.to_owned()) } else { Err(Failure::bad_request("An id has 1 to 64 letters, digits, hyphens and dots.")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let patient = definitions::r4().type_code("Patient").unwrap();
        let of = |path| Target::of_path(path).ok();
        assert_eq!(of("/"), Some(Target::System));
        assert_eq!(of("/Patient"), Some(Target::Type(patient)));
        assert_eq!(of("Patient/_search"), Some(Target::Search(patient)));
        assert_eq!(of("/Patient/a-1.b"), Some(Target::Instance(patient, "a-1.b".into())));
        assert_eq!(of("/Patient/a/_history"), Some(Target::History(patient, "a".into())));
        assert_eq!(of("/Patient/a/_history/3"), Some(Target::Version(patient, "a".into(), 3)));
        let operation = OperationTarget { type_code: Some(patient), id: Some("a".into()), version: None, name: "validate".into() };
        assert_eq!(of("/Patient/a/$validate"), Some(Target::Operation(operation.clone())));
        assert_eq!(of("/Patient/a/%24validate"), Some(Target::Operation(operation)));
        let observation = definitions::r4().type_code("Observation");
        let within = |of: &str, member| Compartment { of: definitions::r4().type_code(of).unwrap(), id: "a".into(), member };
        assert_eq!(of("/Patient/a/Observation"), Some(Target::Compartment(within("Patient", observation))));
        assert_eq!(of("/Device/a/*"), Some(Target::Compartment(within("Device", None))));
        assert_eq!(of("/Encounter/a/Observation/_search"), Some(Target::CompartmentSearch(within("Encounter", observation))));
        assert_eq!(of("/Location/a/Observation"), None);
        let status = |path| Target::of_path(path).unwrap_err().status.as_u16();
        assert_eq!((status("/patient"), status("/Patient/a_b"), status("/Patient/a/b/c/d"), status("/%ff")), (404, 400, 404, 404));
    }
}
