//! `$validate` (<https://hl7.org/fhir/R4/resource-operation-validate.html>) of a type or of an instance.
//!
//! The answer is 200 with an OperationOutcome that lists every problem, or says that there is none; only a request that cannot
//! be understood is refused. With the modes `create`, `update` and `delete` the write is rehearsed, so the outcome also tells what scopes,
//! ownership and the present version would say to it. An id that the caller cannot see is rehearsed as a new one, whether it is free or another's:
//! only who really writes there is told that it cannot be had.

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::operation::{parameter, parameter_mut, parsed, text_of, unknown};
use super::target::OperationTarget;
use crate::access::Interaction;
use crate::definitions;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode, Reference, json};
use crate::ingest::Refusal;
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::search::own;
use crate::store::TypeCode;
use crate::validate::{NoProfile, Targets};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::Value;
use std::sync::Arc;

/// Profiles of one request.
const MOST_PROFILES: usize = 20;

/// What the resource is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As it stands: no `mode` was given.
    Content,
    Create,
    Update,
    Delete,
    /// Against the profile that is named.
    Profile,
}

pub async fn run(
    call: &Call<'_>,
    type_name: Option<&'static str>,
    operation: &OperationTarget,
    body: Option<Bytes>,
) -> Result<Answer, Failure> {
    let sent = match body.filter(|body| !body.is_empty()) {
        Some(body) => Some(parsed(call, body).await?),
        None => None,
    };
    // A Parameters is the envelope, unless Parameters are what is to be validated.
    let is_envelope = sent.as_ref().is_some_and(|sent| {
        sent.get("resourceType").and_then(Value::as_str) == Some("Parameters")
            && (type_name != Some("Parameters") || parameter(sent, "resource").is_some())
    });
    let warnings = unknown(call, &["resource", "mode", "profile"], sent.as_ref().filter(|_| is_envelope))?;
    let answer = answered(call, type_name, operation, sent, is_envelope).await?;
    Ok(Answer { warnings, ..answer })
}

async fn answered(
    call: &Call<'_>,
    type_name: Option<&'static str>,
    operation: &OperationTarget,
    mut sent: Option<Value>,
    is_envelope: bool,
) -> Result<Answer, Failure> {
    let named = |name: &str| {
        let in_body = sent.as_ref().filter(|_| is_envelope).and_then(|sent| parameter(sent, name)).and_then(text_of);
        in_body.or_else(|| call.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    };
    let mode = mode(named("mode").as_deref())?;
    // All that are named count, in the URL and in the body.
    let envelope = sent.as_ref().filter(|_| is_envelope);
    let parts = || envelope.and_then(|sent| sent.get("parameter")?.as_array()).into_iter().flatten();
    let is = |part: &&Value, name: &str| part.get("name").and_then(Value::as_str) == Some(name);
    let in_url = call.query.iter().filter(|(key, _)| key == "profile").map(|(_, value)| value.clone());
    let mut profiles: Vec<String> = parts().filter(|part| is(part, "profile")).filter_map(text_of).chain(in_url).collect();
    profiles.sort();
    profiles.dedup();
    if profiles.len() > MOST_PROFILES {
        return Err(Failure::bad_request(format!("Name {MOST_PROFILES} profiles at most.")));
    }
    if parts().filter(|part| is(part, "resource")).count() > 1 {
        return Err(Failure::bad_request("Give one resource: each is validated by a request of its own."));
    }
    let given = match is_envelope {
        true => sent.as_mut().and_then(|sent| parameter_mut(sent, "resource")?.get_mut("resource").map(Value::take)),
        false => sent,
    };
    if mode == Mode::Profile && profiles.is_empty() {
        return Err(Failure::bad_request("With mode=profile, name the profile in the parameter `profile`."));
    }
    if mode == Mode::Delete {
        return deletable(call, operation).await;
    }
    let stored = given.is_none();
    let resource = match given {
        Some(resource) => resource,
        None if matches!(mode, Mode::Create | Mode::Update) => {
            return Err(Failure::bad_request("Give the resource in the parameter `resource`, or as the body."));
        }
        None => instance(call, operation).await?,
    };
    let mut issues = Vec::new();
    if let Some(expected) = type_name.filter(|expected| resource.get("resourceType").and_then(Value::as_str) != Some(expected)) {
        let words = format!("The URL asks for a resource of type {expected}; the body is another.");
        return Ok(outcome(&[Issue::error(IssueCode::Invalid, words).at("resourceType")]));
    }
    let at = || format!("{}.id", type_name.unwrap_or("Resource"));
    match (&operation.id, resource.get("id").and_then(Value::as_str)) {
        (Some(id), own) if mode == Mode::Update && !stored && own != Some(id) => {
            issues.push(Issue::error(IssueCode::Invalid, "An update must carry the id that is in the URL.").at(at()));
        }
        (Some(id), Some(own)) if mode != Mode::Create && own != id => {
            issues.push(Issue::error(IssueCode::Invalid, "The resource has another id than the URL.").at(at()));
        }
        _ => {}
    }
    let rehearsed = matches!(mode, Mode::Create | Mode::Update).then(|| resource.clone());
    issues.extend(checked(call, resource, profiles).await?);
    // What is not well built cannot be made ready to be stored.
    if let (Some(resource), false) = (rehearsed, issues.iter().any(|issue| issue.severity.is_error())) {
        issues.extend(rehearse(call, operation, mode, resource).await?);
    }
    Ok(outcome(&issues))
}

/// Every problem of the content. Where it depends on what references lead to, a few targets that are stored here and that the caller may
/// read are looked up, and it is checked once more with them.
async fn checked(call: &Call<'_>, resource: Value, profiles: Vec<String>) -> Result<Vec<Issue>, Failure> {
    let resource = Arc::new((resource, profiles));
    let run = async |targets: Targets| {
        let (validator, given) = (call.state.writer.validator().clone(), resource.clone());
        let work = move || validator.validate_against(&given.0, &given.1, &targets);
        call.state.writer.workers().run(work).await?.map_err(no_profile)
    };
    let mut first = run(Targets::new()).await?;
    let unusable = unsearchable(&resource.0);
    let mut targets = Targets::new();
    for reference in std::mem::take(&mut first.wanted) {
        if let Some(target) = target(call, &reference).await? {
            targets.insert(reference, target);
        }
    }
    if !targets.is_empty() {
        first = run(targets).await?;
    }
    first.issues.extend(unusable);
    Ok(first.issues)
}

/// Why a search parameter of one's own would not be taken.
fn unsearchable(resource: &Value) -> Option<Issue> {
    const NAME: &str = "SearchParameter";
    if resource.get("resourceType").and_then(Value::as_str) != Some(NAME) {
        return None;
    }
    let mut named = resource.clone();
    // It will have one by the time that it is stored.
    named.as_object_mut()?.entry("id").or_insert_with(|| "new".into());
    let error = own::Definition::written(&named).err()?;
    Some(Issue::error(error.code, error.words).at(format!("{NAME}.{}", error.element)))
}

/// What a reference leads to, if it is here for the caller.
async fn target(call: &Call<'_>, reference: &str) -> Result<Option<Value>, Failure> {
    let parsed = Reference::parse_at(reference, call.state.base_url());
    let Some(Reference::Local { type_name, id, version: None }) = parsed else { return Ok(None) };
    let readable = definitions::r4().type_code(type_name).filter(|type_code| call.require(*type_code, Interaction::Read).is_ok());
    let Some(type_code) = readable else { return Ok(None) };
    let stored = call.state.store.read(type_code, id, &call.caller.scope).await?;
    let body = call.readable(stored).ok().and_then(|stored| stored.body);
    Ok(body.and_then(|body| json::parse_deep(&body).ok()))
}

/// What stands in the way of this create or update, besides the content.
async fn rehearse(call: &Call<'_>, operation: &OperationTarget, mode: Mode, resource: Value) -> Result<Vec<Issue>, Failure> {
    let name = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    let Some(type_code) = definitions::r4().type_code(name) else { return Ok(Vec::new()) };
    let own_id = resource.get("id").and_then(Value::as_str).map(str::to_owned);
    let (interaction, id, condition) = match (mode, operation.id.clone().or(own_id)) {
        (Mode::Update, Some(id)) if call.state.writer.policy().update_create => (Interaction::Update, id, Condition::Any),
        (Mode::Update, Some(id)) => (Interaction::Update, id, Condition::Known),
        (Mode::Update, None) => {
            let words = "An update carries an id: name the resource in the URL, or put the id into it.";
            return Ok(vec![Issue::error(IssueCode::Required, words).at(format!("{name}.id"))]);
        }
        _ => (Interaction::Create, uuid::Uuid::now_v7().to_string(), Condition::Posted),
    };
    super::audit::asked_for((interaction == Interaction::Update).then(|| (type_code, Box::from(id.as_str()))));
    let (interaction, id, condition) = match condition {
        Condition::Any if !is_seen(call, type_code, &id).await? => (interaction, uuid::Uuid::now_v7().to_string(), Condition::Any),
        condition => (interaction, id, condition),
    };
    let draft = call.state.writer.draft(type_code, &id, resource);
    would(call, type_code, interaction, Wanted { action: Action::Put(draft), condition }).await
}

/// Whether the caller sees that the id is used, or was.
async fn is_seen(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<bool, Failure> {
    let stored = call.state.store.read(type_code, id, &call.caller.scope).await?;
    Ok(stored.is_some_and(|stored| call.admits(&stored)))
}

/// The problems that this change would be refused with.
async fn would(call: &Call<'_>, type_code: TypeCode, interaction: Interaction, wanted: Wanted) -> Result<Vec<Issue>, Failure> {
    if let Err(failure) = call.require(type_code, interaction) {
        return Ok(failure.issues);
    }
    let plan = Plan { changes: vec![wanted], ..Plan::default() };
    match call.state.writer.rehearse(plan, &Author::from(call.caller)).await {
        Ok(_) | Err(CommitError::Stale) => Ok(Vec::new()),
        Err(CommitError::Refused(_, refusal)) if refusal.status() >= 500 => Err(refusal.into()),
        Err(CommitError::Refused(_, refusal)) => Ok(refusal.issues),
    }
}

fn mode(text: Option<&str>) -> Result<Mode, Failure> {
    Ok(match text {
        None => Mode::Content,
        Some("create") => Mode::Create,
        Some("update") => Mode::Update,
        Some("delete") => Mode::Delete,
        Some("profile") => Mode::Profile,
        Some(_) => return Err(Failure::bad_request("mode must be create, update, delete or profile.")),
    })
}

fn no_profile(error: NoProfile) -> Failure {
    match error {
        NoProfile::NotLoaded => {
            let words = "The profile is not loaded: PUT its StructureDefinition or load its package, or leave it out to validate against FHIR R4 itself.";
            Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words))
        }
        NoProfile::Unusable(why) => {
            let words = format!("The profile is loaded but cannot be used: {why}.");
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, Issue::error(IssueCode::Processing, words))
        }
    }
}

/// Success says so; warnings alone are success.
fn outcome(issues: &[Issue]) -> Answer {
    let mut issues = issues.to_vec();
    if !issues.iter().any(|issue| issue.severity.is_error()) {
        let words = if issues.is_empty() { "All OK" } else { "No errors: the resource is valid, see the warnings and notes" };
        issues.insert(0, Issue::information(IssueCode::Informational, words));
    }
    Answer::ok(operation_outcome(&issues).to_string())
}

async fn instance(call: &Call<'_>, operation: &OperationTarget) -> Result<Value, Failure> {
    let (Some(type_code), Some(id)) = (operation.type_code, &operation.id) else {
        return Err(Failure::bad_request("Give the resource to validate as the body, or name a stored one by its id."));
    };
    call.require(type_code, Interaction::Read)?;
    let stored = call.readable(call.state.store.read(type_code, id, &call.caller.scope).await?)?;
    super::audit::tells_of(std::slice::from_ref(&stored));
    let body = stored.body.ok_or_else(Refusal::gone)?;
    Ok(json::parse_deep(&body).map_err(Refusal::internal)?)
}

/// Whether a delete would be carried out. References to what is deleted are kept, so nothing else stands in its way.
async fn deletable(call: &Call<'_>, operation: &OperationTarget) -> Result<Answer, Failure> {
    let (Some(type_code), Some(id)) = (operation.type_code, &operation.id) else {
        return Err(Failure::bad_request("mode=delete is asked of a stored resource: POST /fhir/TYPE/ID/$validate."));
    };
    instance(call, operation).await?;
    let action = Action::Delete { type_code, id: id.as_str().into() };
    Ok(outcome(&would(call, type_code, Interaction::Delete, Wanted { action, condition: Condition::Any }).await?))
}
