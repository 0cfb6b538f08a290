//! Operations: terminology, and `$validate` (<https://hl7.org/fhir/R4/operations.html>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::target::OperationTarget;
use super::validate;
use crate::access::Interaction;
use crate::definitions;
use crate::fhir::{Issue, IssueCode, Severity, json};
use crate::ingest::refusal::within;
use crate::ingest::{Refusal, RefusalKind};
use crate::measure::run::{Request, answer, named_values};
use crate::terminology::{Arguments, Terminology, TerminologyError};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Operations that every type has.
const OF_ALL: [&str; 5] = ["expunge", "meta", "meta-add", "meta-delete", "validate"];

/// Runs the operation with the parameters of the URL, or those in `body`.
pub async fn run(call: &Call<'_>, operation: OperationTarget, body: Option<Bytes>) -> Result<Answer, Failure> {
    let type_name = operation.type_code.map(|type_code| definitions::r4().type_name(type_code));
    match (type_name, operation.name.as_str()) {
        (Some(type_name), name) if Terminology::holds(type_name) && !OF_ALL.contains(&name) => {
            terminology(call, type_name, &operation, body).await
        }
        (Some("Measure"), "evaluate-measure") => evaluate_measure(call, &operation, body).await,
        (Some("Patient"), "disclosures") => match (operation.type_code, &operation.id) {
            (Some(type_code), Some(id)) => super::audit::disclosures(call, type_code, id).await,
            _ => Err(Failure::unknown_operation()),
        },
        (Some("Patient"), "record-lookup") => {
            let sent = match body {
                Some(body) if body.is_empty() => Some(json!({ "resourceType": "Parameters" })),
                Some(body) => Some(parsed(call, body).await?),
                None => None,
            };
            super::lookup::lookup(call, &operation, sent).await
        }
        (Some("Patient"), "everything") => super::everything::everything(call, &operation, body).await,
        (_, "meta") => super::meta::meta(call, &operation).await,
        (Some(_), name @ ("meta-add" | "meta-delete")) => super::meta::change(call, &operation, body, name == "meta-add").await,
        (_, "expunge") => super::maintain::expunge(call, &operation, body).await,
        (None, "reindex") => super::maintain::reindex(call, body).await,
        (type_name, "validate") => validate::run(call, type_name, &operation, body).await,
        _ => Err(Failure::unknown_operation()),
    }
}

async fn terminology(
    call: &Call<'_>,
    type_name: &'static str,
    operation: &OperationTarget,
    body: Option<Bytes>,
) -> Result<Answer, Failure> {
    if let Some(type_code) = operation.type_code {
        call.require(type_code, Interaction::Read)?;
    }
    let said_in_body = match body {
        Some(body) if !body.is_empty() => Arguments::from_parameters(&parsed(call, body).await?).map_err(failure)?,
        _ => Arguments::default(),
    };
    let arguments = said_in_body.and(Arguments::from_query(call.query.iter().cloned()));
    let unused = Terminology::unused_parameters(type_name, operation.id.as_deref(), &operation.name, &arguments);
    let mut warnings = told(call, unused)?;
    warnings.extend(call.state.terminology.idle_supplements(type_name, &arguments));
    let arguments = of_context(call, type_name, arguments)?;
    let terminology = call.state.terminology.clone();
    let (id, name) = (operation.id.clone(), operation.name.clone());
    let answer = call.state.writer.workers().run(move || terminology.answer(type_name, id.as_deref(), &name, &arguments)).await?;
    let (resource, said) = answer.map_err(failure)?;
    warnings.extend(said);
    Ok(Answer { warnings, ..Answer::ok(resource.to_string()) })
}

/// What a lenient request is told that it said in vain; a strict one is refused for it.
pub(super) fn told(call: &Call<'_>, unused: Vec<TerminologyError>) -> Result<Vec<Issue>, Failure> {
    let warnings = unused.iter().map(|error| Issue { severity: Severity::Warning, ..error.issue() }).collect();
    match unused.into_iter().next().filter(|_| call.prefer.strict) {
        Some(first) => Err(failure(first)),
        None => Ok(warnings),
    }
}

/// The parameters of a request, in its body and in the URL, that an operation does not take ([`told`]).
pub(super) fn unknown(call: &Call<'_>, known: &[&str], parameters: Option<&Value>) -> Result<Vec<Issue>, Failure> {
    let in_body = parameters.and_then(|parameters| parameters.get("parameter")?.as_array()).into_iter().flatten();
    let in_body = in_body.filter_map(|part| part.get("name")?.as_str());
    let in_url = call.query.iter().map(|(name, _)| name.as_str());
    told(call, Terminology::unknown_parameters(known, in_body.chain(in_url)))
}

/// A `context` in place of a value set, `[StructureDefinition url]#[path]`, is the value set that the element is bound to.
fn of_context(call: &Call<'_>, type_name: &str, arguments: Arguments) -> Result<Arguments, Failure> {
    let Some(context) = arguments.context().filter(|_| type_name == "ValueSet") else { return Ok(arguments) };
    let bound = context.split_once('#').and_then(|(url, path)| call.state.writer.validator().profiles().binding(url, path));
    let Some(bound) = bound else {
        let words = "This context is not supported: name an element as [StructureDefinition url]#[path], of FHIR R4 or of a loaded profile, that has a required or extensible binding; or give the value set by url.";
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, Issue::error(IssueCode::NotSupported, words)));
    };
    Ok(arguments.with("url", bound))
}

/// `Measure/$evaluate-measure` (<https://hl7.org/fhir/R4/measure-operation-evaluate-measure.html>). A POST keeps the reports, a GET
/// only answers them. Parameters may stand in the body, in the URL, or some here and some there.
async fn evaluate_measure(call: &Call<'_>, operation: &OperationTarget, body: Option<Bytes>) -> Result<Answer, Failure> {
    // It counts over everything that the caller's facility has.
    call.require_all("Measure", Interaction::Read)?;
    let keep = body.is_some();
    if keep {
        call.require_all("MeasureReport", Interaction::Create)?;
    }
    let facility_system = &call.state.settings.systems.facility;
    let sent = match body.filter(|body| !body.is_empty()) {
        Some(body) => Some(parsed(call, body).await?),
        None => None,
    };
    let mut given = match &sent {
        Some(parameters) => named_values(parameters).map_err(|issues| Refusal::all(RefusalKind::Malformed, issues))?,
        None => Vec::new(),
    };
    given.extend(call.query.iter().cloned());
    let measure = given.iter().find(|(name, _)| name == "measure").map(|(_, value)| value.clone());
    let measure =
        operation.id.clone().or(measure).ok_or_else(|| {
            Failure::bad_request("Name the measure: POST /fhir/Measure/ID/$evaluate-measure, or the parameter `measure`.")
        })?;
    // A canonical ends with the id.
    let id = measure.split('|').next().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
    let pairs = given.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let request = Request::from_parameters(pairs, facility_system).map_err(|issues| Refusal::all(RefusalKind::Malformed, issues))?;
    let counted = call.state.evaluate(id, &request, &call.caller.scope, keep).await?;
    let reports = counted.into_iter().map(|counted| counted.report).collect();
    Ok(Answer::ok(answer(&request, reports).to_string()))
}

fn failure(error: TerminologyError) -> Failure {
    use TerminologyError::*;
    let status = match &error {
        NotLoaded { .. } | UnknownCode { .. } | NotInPart { .. } | UnknownOperation { .. } | OfTypeOnly => StatusCode::NOT_FOUND,
        Missing { .. } | Invalid { .. } | Unknown { .. } | Repeated { .. } | Ambiguous { .. } => StatusCode::BAD_REQUEST,
        OtherVersion { .. } | Partial { .. } | NoContent { .. } | TooManyCodes { .. } | TooCostly | Nesting { .. } | Filter { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    };
    Failure::new(status, error.issue())
}

pub(super) async fn parsed(call: &Call<'_>, body: Bytes) -> Result<Value, Failure> {
    let parsed = call.state.writer.workers().run(move || json::parse(&body)).await?;
    parsed.map_err(|error| {
        let issue = Issue::error(IssueCode::Structure, format!("The body is no valid JSON: {error}."));
        Failure::new(StatusCode::BAD_REQUEST, issue.at(within("Parameters", "")))
    })
}

pub(super) fn parameter<'a>(parameters: &'a Value, name: &str) -> Option<&'a Value> {
    parameters.get("parameter")?.as_array()?.iter().find(|part| part.get("name").and_then(Value::as_str) == Some(name))
}

pub(super) fn parameter_mut<'a>(parameters: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    parameters.get_mut("parameter")?.as_array_mut()?.iter_mut().find(|part| part.get("name").and_then(Value::as_str) == Some(name))
}

pub(super) fn text_of(part: &Value) -> Option<String> {
    part.as_object()?.iter().find(|(key, _)| key.starts_with("value")).and_then(|(_, value)| value.as_str()).map(str::to_owned)
}
