//! `$meta`, `$meta-add` and `$meta-delete` (<https://hl7.org/fhir/R4/resource-operations.html>).
//!
//! The specification's notes would change a version in place. Here a change of labels is a new version like any other: what was told under a
//! version is what that version says, races are told by versions, and the record shows who changed a label and when. What the notes want
//! it for holds all the same: a label protects the versions before it too ([`crate::store`]'s gate). So the version that is named must be the
//! current one.

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::operation::{parsed, unknown};
use super::target::OperationTarget;
use crate::access::consent;
use crate::access::{Interaction, Role};
use crate::definitions;
use crate::fhir::{Issue, IssueCode, Severity, json};
use crate::ingest::transaction::{self, Entry, Operation};
use crate::ingest::tries::Tries;
use crate::ingest::write::{CommitError, Condition};
use crate::ingest::{Refusal, RefusalKind};
use crate::store::TypeCode;
use crate::store::labels::{Label, MOST};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The lists of a Meta that these operations are about.
const LISTS: [&str; 3] = ["profile", "security", "tag"];

/// What is said of a resource, of all of a type, or of all.
pub async fn meta(call: &Call<'_>, operation: &OperationTarget) -> Result<Answer, Failure> {
    let warnings = unknown(call, &[], None)?;
    if let (Some(type_code), Some(id)) = (operation.type_code, &operation.id) {
        call.require(type_code, Interaction::Read)?;
        let (store, scope) = (&call.state.store, &call.caller.scope);
        let stored = match operation.version {
            Some(version) => store.read_version(type_code, id, version, scope).await?,
            None => store.read(type_code, id, scope).await?,
        };
        let stored = call.readable(stored)?;
        super::audit::tells_of(std::slice::from_ref(&stored));
        let body = stored.body.ok_or_else(Refusal::gone)?;
        let resource = json::parse_deep(&body).map_err(Refusal::internal)?;
        return Ok(Answer { warnings, ..answer(resource.get("meta").cloned().unwrap_or_else(|| json!({}))) });
    }
    if !call.caller.has_role(Role::Operator) {
        let words = "What labels there are is told of one resource; of many, to clients with the role operator.";
        return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)).into());
    }
    let r4 = definitions::r4();
    let types: Vec<TypeCode> = match operation.type_code {
        Some(type_code) => vec![type_code],
        None => r4.resource_types().iter().filter_map(|name| r4.type_code(name)).collect(),
    };
    for type_code in &types {
        call.require_all(r4.type_name(*type_code), Interaction::Read)?;
    }
    let params = |code: &str| types.iter().filter_map(|type_code| Some(r4.param(*type_code, code)?.id)).collect::<Vec<_>>();
    let store = &call.state.store;
    let (tags, security) =
        (store.labels(&params("_tag"), &call.caller.scope).await?, store.labels(&params("_security"), &call.caller.scope).await?);
    let profiles = store.profiles(&params("_profile"), &call.caller.scope).await?;
    if [tags.len(), security.len(), profiles.len()].into_iter().any(|number| number > MOST) {
        let words = format!("There are more than {MOST} labels: ask of one type, or search by _tag, _security or _profile.");
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, Issue::error(IssueCode::TooCostly, words)));
    }
    let mut meta = json!({});
    for (list, values) in
        [("profile", profiles.into_iter().map(Value::from).collect()), ("security", codings(&security)), ("tag", codings(&tags))]
    {
        put(&mut meta, list, values);
    }
    Ok(Answer { warnings, ..answer(meta) })
}

/// The labels as codings. An index knows a system by its number only; the resource that has the label says it in words.
fn codings(labels: &[Label]) -> Vec<Value> {
    let mut codings: Vec<Value> = labels.iter().filter_map(Label::coding).collect();
    codings.sort_by_key(Value::to_string);
    codings.dedup();
    codings
}

/// Adds what the Meta in the Parameters says to the resource's own, or takes it away.
pub async fn change(call: &Call<'_>, operation: &OperationTarget, body: Option<Bytes>, adds: bool) -> Result<Answer, Failure> {
    let (Some(type_code), Some(id)) = (operation.type_code, &operation.id) else {
        return Err(Failure::bad_request("Name the resource: POST Type/ID/$meta-add or $meta-delete."));
    };
    let Some(body) = body else { return Err(Failure::method_not_allowed("POST")) };
    let sent = parsed(call, body).await?;
    let asked = asked(&sent)?;
    let mut warnings = unknown(call, &["meta"], Some(&sent))?;
    warnings.extend(passed_over(call, &asked)?);
    call.require(type_code, Interaction::Read)?;
    call.require(type_code, Interaction::Update)?;
    let writer = &call.state.writer;
    let mut tries = Tries::default();
    loop {
        let stored = call.readable(call.state.store.read(type_code, id, &call.caller.scope).await?)?;
        super::audit::tells_of(std::slice::from_ref(&stored));
        let body = stored.body.ok_or_else(Refusal::gone)?;
        if let Some(version) = operation.version.filter(|version| *version != stored.version) {
            call.readable(call.state.store.read_version(type_code, id, version, &call.caller.scope).await?)?;
            let words = "Earlier versions stay as they were told: leave the version out, or name the current one. A label that is added to that \
                         protects those before it too.";
            return Err(Failure::new(StatusCode::CONFLICT, Issue::error(IssueCode::NotSupported, words)));
        }
        let before = json::parse_deep(&body).map_err(Refusal::internal)?;
        let mut meta = before.get("meta").cloned().unwrap_or_else(|| json!({}));
        let changed = LISTS.into_iter().filter(|list| change_list(&mut meta, list, asked.get(list), adds)).count();
        if changed == 0 {
            return Ok(Answer { warnings, ..answer(meta) });
        }
        let mut resource = before;
        resource["meta"] = meta;
        if !adds {
            check_own_labels(&resource, &asked, &writer.making().sensitive)?;
        }
        let operation = Operation::Update { id: id.clone(), condition: Condition::Seen(stored.version) };
        let entry = Entry { path: String::new(), full_url: None, type_code, operation, resource: Some(resource) };
        match transaction::attempt(writer, &tries, vec![entry], Vec::new(), call.caller, true).await {
            Ok(outcomes) => {
                let body = outcomes.into_iter().next().and_then(|outcome| outcome.body);
                let now: Value = body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
                return Ok(Answer { warnings, ..answer(now.get("meta").cloned().unwrap_or_else(|| json!({}))) });
            }
            Err(CommitError::Stale) => tries.pause().await?,
            Err(CommitError::Refused(_, refusal)) => return Err(refusal.into()),
        }
    }
}

/// The Meta in the Parameters.
fn asked(parameters: &Value) -> Result<Value, Failure> {
    let wrong = |words: &str, at: &str| Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Value, words).at(at));
    let list = parameters.get("parameter").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let meta = list.iter().find(|part| part.get("name").and_then(Value::as_str) == Some("meta")).and_then(|part| part.get("valueMeta"));
    let meta = meta
        .filter(|meta| meta.is_object())
        .ok_or_else(|| wrong("Send Parameters with a parameter `meta` that has a valueMeta.", "Parameters.parameter"))?;
    for name in LISTS {
        let Some(values) = meta.get(name) else { continue };
        let fits = |value: &Value| match name {
            "profile" => value.is_string(),
            _ => value.get("code").or_else(|| value.get("system")).is_some_and(Value::is_string),
        };
        if !values.as_array().is_some_and(|values| values.iter().all(fits)) {
            let words = "profile is a list of canonical URLs; security and tag are lists of codings with a system, a code or both.";
            return Err(wrong(words, &format!("Parameters.parameter.value.{name}")));
        }
    }
    Ok(meta.clone())
}

/// The operations take a Meta for its lists; what else is said of the resource in it is no label. `$meta` tells of a version, which comes back unasked.
fn passed_over(call: &Call<'_>, asked: &Value) -> Result<Option<Issue>, Failure> {
    let others = ["source", "extension", "id"];
    let Some(name) = others.into_iter().find(|name| asked.get(name).is_some()) else { return Ok(None) };
    let words = "Only profile, security and tag are added and taken away: write the resource to change what else its meta says.";
    let issue = Issue::warning(IssueCode::NotSupported, words).at(format!("Parameters.parameter.value.{name}"));
    match call.prefer.strict {
        true => Err(Failure::new(StatusCode::BAD_REQUEST, Issue { severity: Severity::Error, ..issue })),
        false => Ok(Some(issue)),
    }
}

/// What makes two of a list the same: a profile is its whole URL, a coding its system and code.
fn identity(value: &Value) -> (Option<&str>, Option<&str>) {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match value.as_str() {
        Some(url) => (Some(url), None),
        None => (text("system"), text("code")),
    }
}

/// Whether the list became another.
fn change_list(meta: &mut Value, name: &str, asked: Option<&Value>, adds: bool) -> bool {
    let asked = asked.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut values: Vec<Value> = meta.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = values.len();
    for value in asked {
        if !adds {
            values.retain(|own| identity(own) != identity(value));
        } else if !values.iter().any(|own| identity(own) == identity(value)) {
            values.push(value.clone());
        }
    }
    let changed = values.len() != before;
    if changed {
        put(meta, name, values);
    }
    changed
}

/// An empty list is none.
fn put(meta: &mut Value, name: &str, values: Vec<Value>) {
    let Some(members) = meta.as_object_mut() else { return };
    if values.is_empty() {
        members.shift_remove(name);
    } else {
        members.insert(name.to_owned(), Value::Array(values));
    }
}

/// A label that the server would set again, because of the codes in the resource, is not taken away, by anybody.
fn check_own_labels(resource: &Value, asked: &Value, sensitive: &consent::Sensitive) -> Result<(), Failure> {
    let own = consent::labels_on_arrival(resource, &BTreeSet::new(), sensitive);
    let taken = asked.get("security").and_then(Value::as_array).into_iter().flatten();
    let mut taken = taken.filter_map(|coding| Some((coding.get("system")?.as_str()?, coding.get("code")?.as_str()?)));
    if !taken.any(|(system, code)| own.iter().any(|label| label.system == system && label.code == code)) {
        return Ok(());
    }
    let words = "The server labels the resource so because of the codes in it: the label stays as long as they do.";
    let issue = Issue::error(IssueCode::BusinessRule, words).at("Parameters.parameter.value.security");
    Err(Failure::new(StatusCode::CONFLICT, issue))
}

fn answer(meta: Value) -> Answer {
    Answer::ok(json!({ "resourceType": "Parameters", "parameter": [{ "name": "return", "valueMeta": meta }] }).to_string())
}
