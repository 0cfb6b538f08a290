//! read and vread (<https://hl7.org/fhir/R4/http.html#read>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use crate::access::{Interaction, audit};
use crate::definitions;
use crate::exchange::{Emergency, Glass, Person, Sought};
use crate::ingest::Refusal;
use crate::search::{ParseOptions, subset};
use crate::store::{Scope, Stored, TypeCode};
use axum::http::StatusCode;

pub async fn read(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let scope = &call.caller.scope;
    let mut found = call.state.store.read(type_code, id, scope).await?.filter(|stored| call.admits(stored));
    if let Some(trail) = audit::current() {
        trail.read(&found);
    }
    if found.is_none() {
        found = golden(call, type_code, id, scope).await?;
    }
    if found.is_none() {
        found = in_emergency(call, type_code, id).await?;
    }
    told(call, found)
}

/// As much of the resource as the request wants.
fn told(call: &Call<'_>, found: Option<Stored>) -> Result<Answer, Failure> {
    let stored = call.readable(found)?;
    let type_code = stored.type_code;
    let answer = Answer::of_stored(stored)?;
    let options = ParseOptions::new(call.state.base_url(), call.state.zone.clone());
    let whole = answer.body.as_deref().unwrap_or_default();
    let less =
        subset::of_read(type_code, whole, &call.query, &options).map_err(|issues| Failure::of_issues(StatusCode::BAD_REQUEST, issues))?;
    Ok(match less {
        Some(less) => Answer { body: Some(less.into()), ..answer },
        None => answer,
    })
}

/// A golden Patient as a caller with this scope may know it.
async fn golden(call: &Call<'_>, type_code: TypeCode, id: &str, scope: &Scope) -> Result<Option<Stored>, Failure> {
    if definitions::r4().type_name(type_code) != "Patient" {
        return Ok(None);
    }
    let view = call.state.registry.golden_view(id, scope, |source| call.admits(source)).await.map_err(Refusal::internal)?;
    Ok(view.filter(|view| call.admits(view)))
}

/// What a clinician reads by breaking the glass. It is looked for before anybody is told, so that a label that stays closed alarms
/// nobody, and again after, since only what is told of may leave.
async fn in_emergency(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Option<Stored>, Failure> {
    let state = call.state;
    let Some(glass) = Glass::of(&state.app, call.caller) else { return Ok(None) };
    // Nobody is a person too: whoever opened too many is told so before it shows whether there is one.
    let asked = whose(call, type_code, id).await?.unwrap_or_default();
    let Some(whom) = glass.whom(asked).await? else { return Ok(None) };
    let scope = glass.scope(&whom.person);
    if open(call, type_code, id, &scope).await?.is_none() || !glass.open(&whom).await? {
        return Ok(None);
    }
    open(call, type_code, id, &scope).await
}

async fn open(call: &Call<'_>, type_code: TypeCode, id: &str, scope: &Scope) -> Result<Option<Stored>, Failure> {
    let found = call.state.store.read(type_code, id, scope).await?.filter(|stored| stored.body.is_some() && call.admits(stored));
    if found.is_some() { Ok(found) } else { golden(call, type_code, id, scope).await }
}

/// Whose record it is.
async fn whose(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Option<Emergency>, Failure> {
    let state = call.state;
    let patient = if definitions::r4().type_name(type_code) == "Patient" {
        id.to_owned()
    } else {
        let stored = state.store.read(type_code, id, &Scope::All).await?;
        let Some(body) = stored.and_then(|stored| stored.body) else { return Ok(None) };
        match state.writer.about_stored(type_code, &body)?.patient() {
            Some(patient) => patient.to_owned(),
            None => return Ok(None),
        }
    };
    let sought = Sought::Patient(patient);
    let person = Person::find(&state.registry, &state.store, &sought, &call.caller.scope).await.map_err(Refusal::internal)?;
    Ok(Some(person.in_emergency(&state.registry, &state.store, &sought, &call.caller.scope).await.map_err(Refusal::internal)?))
}

pub async fn version(call: &Call<'_>, type_code: TypeCode, id: &str, version: i64) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let stored = call.state.store.read_version(type_code, id, version, &call.caller.scope).await?;
    told(call, stored)
}
