//! The Parameters of `$record-lookup`.

use super::super::super::error::Failure;
use super::super::Call;
use super::super::target::OperationTarget;
use super::MOST_NAMED;
use crate::access::{self, Code};
use crate::definitions::{self, TypeCode};
use crate::exchange::Sought;
use crate::fhir::time::{Micros, parse_interval};
use crate::fhir::{Issue, IssueCode, Reference};
use axum::http::StatusCode;
use serde_json::Value;

/// Bytes of a given reason.
const LONGEST_REASON: usize = 1024;

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) sought: Sought,
    pub(super) purpose: Option<Code>,
    /// Empty: all types of the patient compartment.
    pub(super) types: Vec<TypeCode>,
    /// Codes of facilities; empty: all.
    pub(super) holders: Vec<String>,
    pub(super) since: Option<Micros>,
    pub(super) count: Option<u32>,
}

/// Reads the Parameters, every problem at once.
pub(super) fn question(call: &Call<'_>, operation: &OperationTarget, parameters: &Value) -> Result<Question, Failure> {
    let mut issues = Vec::new();
    if parameters.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(Failure::bad_request("The body must be a Parameters resource."));
    }
    let mut sought: Vec<Sought> = operation.id.iter().map(|id| Sought::Patient(id.clone())).collect();
    let (mut purpose, mut since, mut asked_count) = (None, None, None);
    let (mut types, mut holders) = (Vec::new(), Vec::new());
    let list = parameters.get("parameter").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (place, parameter) in list.iter().enumerate() {
        let mut wrong = |words: &str| issues.push(Issue::error(IssueCode::Value, words).at(format!("Parameters.parameter[{place}]")));
        let value =
            parameter.as_object().and_then(|members| members.iter().find(|(key, _)| key.starts_with("value"))).map(|(_, value)| value);
        let text = value.and_then(Value::as_str).filter(|text| !text.is_empty());
        match (parameter.get("name").and_then(Value::as_str).unwrap_or_default(), value) {
            ("patient", Some(value)) => match patient(call, value) {
                Some(found) => sought.push(found),
                None => {
                    wrong("patient is a reference to a Patient of this server, or one with an identifier that has a system and a value.")
                }
            },
            ("identifier", Some(value)) => match identifier(value) {
                Some(found) => sought.push(found),
                None => wrong("identifier is an Identifier with system and value, or system|value."),
            },
            ("purpose", Some(value)) => match code(value) {
                Some(code) => purpose = Some(code),
                None => wrong("purpose is a code or a Coding."),
            },
            ("reason", Some(_)) if text.is_some_and(|text| text.len() <= LONGEST_REASON) => {}
            ("reason", Some(_)) => wrong("reason is a text of at most 1024 bytes."),
            ("since", Some(_)) => match text.and_then(|text| parse_interval(text, &call.state.zone)) {
                Some(interval) => since = Some(interval.low),
                None => wrong("since is a date, a dateTime or an instant."),
            },
            ("type", Some(_)) => match text
                .and_then(|name| definitions::r4().type_code(name))
                .filter(|code| !definitions::r4().patient_compartment(*code).is_empty())
            {
                Some(code) if types.contains(&code) => {}
                Some(code) => types.push(code),
                None => wrong("type is a resource type of the patient compartment."),
            },
            ("holder", Some(value)) if holders.len() < MOST_NAMED => match holder(call, value) {
                Some(code) => holders.push(code),
                None => wrong("holder is a facility's code, or a reference with its identifier."),
            },
            ("_count", Some(value)) => match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
                Some(count) => asked_count = Some(count),
                None => wrong("_count is a number."),
            },
            (_, None) => wrong("A parameter has a name and a value."),
            _ => wrong("$record-lookup takes patient or identifier, purpose, reason, since, type, holder and _count."),
        }
    }
    if issues.is_empty() && sought.len() != 1 {
        issues.push(Issue::error(IssueCode::Required, "Name one person: by patient, or by identifier.").at("Parameters.parameter"));
    }
    match (sought.pop(), issues.is_empty()) {
        (Some(sought), true) => Ok(Question { sought, purpose, types, holders, since, count: asked_count }),
        _ => Err(Failure::of_issues(StatusCode::BAD_REQUEST, issues)),
    }
}

fn patient(call: &Call<'_>, value: &Value) -> Option<Sought> {
    if let Some(found) = value.get("identifier") {
        return identifier(found);
    }
    let text = value.as_str().or_else(|| value.get("reference")?.as_str())?;
    match Reference::parse_at(text, call.state.base_url())? {
        Reference::Local { type_name: "Patient", id, .. } => Some(Sought::Patient(id.to_owned())),
        _ => None,
    }
}

fn identifier(value: &Value) -> Option<Sought> {
    let (system, value) = match value.as_str() {
        Some(token) => token.split_once('|')?,
        None => (value.get("system")?.as_str()?, value.get("value")?.as_str()?),
    };
    let (system, value) = (system.trim().to_owned(), value.trim().to_owned());
    (!system.is_empty() && !value.is_empty()).then_some(Sought::Identifier { system, value })
}

fn code(value: &Value) -> Option<Code> {
    let value = value.pointer("/coding/0").unwrap_or(value);
    match value.as_str() {
        Some(code) => Some(Code { system: None, code: code.to_owned() }).filter(|code| !code.code.is_empty()),
        None => {
            let system = value.get("system").and_then(Value::as_str).map(str::to_owned);
            Some(Code { system, code: value.get("code")?.as_str()?.to_owned() })
        }
    }
}

/// The facility's code.
fn holder(call: &Call<'_>, value: &Value) -> Option<String> {
    let system = &call.state.settings.systems.facility;
    let identifier = value.get("identifier").unwrap_or(value);
    let code = match identifier.as_str() {
        Some(text) => text.strip_prefix(system.as_str()).and_then(|rest| rest.strip_prefix('|')).unwrap_or(text),
        None if identifier.get("system").and_then(Value::as_str) == Some(system) => identifier.get("value")?.as_str()?,
        None => return None,
    };
    Some(code.trim().to_owned()).filter(|code| !code.is_empty() && code.len() <= access::MAX_FACILITY_CODE)
}
