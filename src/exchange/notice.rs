//! Delivering notices: to a patient that the glass was broken, to a facility what became of a consent that it asked for.
//!
//! A notice is a Communication of status `preparation`, written in the transaction of what it tells of together with a job. This is the
//! job's handler. A patient gets a copy of their own ([`INBOX`]), which their login finds in their compartment and nobody else sees; then
//! the operator's address, if there is one, is told that there is something to be read, in words without clinical content
//! ([`hook`]). What the notice says of itself afterwards: `completed` when the address took it, `in-progress` when it lies where its reader
//! finds it and nobody was called, `not-done` when the address refused it. Doing it twice changes nothing but that the address is told twice.

use crate::access::INBOX;
use crate::app::App;
use crate::definitions;
use crate::destinations::hook;
use crate::fhir::time::{format_instant, now};
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::outbox::Outcome;
use crate::search::extract::NOTICE;
use crate::store::write::NewJob;
use crate::store::{Scope, Stored, TypeCode};
use anyhow::Context;
use serde_json::{Value, json};

/// The kind of the job that delivers a notice; its payload names the Communication.
pub const NOTICE_JOB: &str = "notice.deliver";

/// The job that delivers this Communication, for the transaction that writes it.
pub fn job(communication: &str) -> NewJob {
    let payload = json!({ "version": 1, "communication": communication });
    NewJob { kind: NOTICE_JOB.to_owned(), payload, dedup_key: None, run_at: 0 }
}

/// The handler of [`NOTICE_JOB`].
pub async fn deliver(app: &App, payload: &Value) -> Outcome {
    let id = payload.get("communication").and_then(Value::as_str).unwrap_or_default();
    match delivered(app, id).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::retry(format!("{error:#}")),
    }
}

async fn delivered(app: &App, id: &str) -> anyhow::Result<Outcome> {
    let type_code = definitions::r4().type_code("Communication").context("R4 has Communications")?;
    let stored = app.store.read(type_code, id, &Scope::All).await?;
    let Some((stored, notice)) = stored.and_then(|stored| Some((read(&stored)?, stored))).map(|(notice, stored)| (stored, notice)) else {
        // Somebody deleted it: there is nothing to tell.
        return Ok(Outcome::Done(Value::Null));
    };
    let kind = notice.pointer("/meta/tag").and_then(Value::as_array).into_iter().flatten();
    let kind = kind.filter(|tag| tag.get("system").and_then(Value::as_str) == Some(NOTICE)).find_map(|tag| tag.get("code")?.as_str());
    let mut told = json!({ "version": 1, "id": id, "kind": kind, "time": format_instant(stored.updated) });
    if kind == Some("break-glass") {
        let copy = to_patient(app, type_code, &stored, &notice).await?;
        told["communication"] = format!("{}/Communication/{copy}", base(app)).into();
        told["recipient"] = notice.get("subject").cloned().unwrap_or_default();
    } else {
        told["communication"] = format!("{}/Communication/{id}", base(app)).into();
        told["recipient"] = notice.pointer("/recipient/0").cloned().unwrap_or_default();
        told["state"] = notice.pointer("/topic/coding/0/code").cloned().unwrap_or_default();
    }
    let outcome = hook::tell(&app.settings.notices, &told).await;
    let status = match &outcome {
        Outcome::Done(Value::Null) => "in-progress",
        Outcome::Done(_) => "completed",
        Outcome::Retry { .. } => return Ok(outcome),
        Outcome::Dead { .. } => "not-done",
    };
    conclude(app, type_code, stored, notice, status).await?;
    Ok(outcome)
}

fn base(app: &App) -> &str {
    &app.writer.options().base
}

fn read(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}

/// The patient's own copy; its id. It names all of their Patients that were opened, whichever of them the login is for.
async fn to_patient(app: &App, type_code: TypeCode, stored: &Stored, notice: &Value) -> anyhow::Result<String> {
    let copy = format!("{}-p", stored.id);
    // What lango wrote of its own nobody changes, lango neither: what an earlier try wrote stays.
    if app.store.read(type_code, &copy, &Scope::All).await?.is_some() {
        return Ok(copy);
    }
    if notice.get("subject").is_none() {
        return Ok(copy);
    }
    let mut message = json!({
        "resourceType": "Communication",
        "meta": notice.get("meta").and_then(|meta| meta.get("tag")).map(|tag| json!({ "tag": tag })),
        "status": "completed",
        "category": notice.get("category"),
        "subject": notice.get("subject"),
        "recipient": notice.get("recipient"),
        "sender": notice.get("sender"),
        "sent": format_instant(stored.updated),
        "payload": notice.get("payload"),
    });
    if let Some(members) = message.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    let author = Author { scope: Scope::All, owner: INBOX, caller: None };
    app.writer.put_all(vec![app.writer.draft(type_code, &copy, message)], &author).await.context("the patient's copy was not written")?;
    Ok(copy)
}

/// Says in the notice what became of it, unless somebody said something else in the meantime.
async fn conclude(app: &App, type_code: TypeCode, stored: Stored, mut notice: Value, status: &str) -> anyhow::Result<()> {
    if notice.get("status").and_then(Value::as_str) != Some("preparation") {
        return Ok(());
    }
    notice["status"] = status.into();
    match status {
        "completed" => notice["sent"] = format_instant(now()).into(),
        "in-progress" => notice["statusReason"] = json!({ "text": "It lies where its reader finds it; nobody was called." }),
        _ => notice["statusReason"] = json!({ "text": "The address of notices.url refused it." }),
    }
    if let Some(meta) = notice.get_mut("meta").and_then(Value::as_object_mut) {
        meta.retain(|name, _| name == "tag");
    }
    let change =
        Wanted { action: Action::Put(app.writer.draft(type_code, &stored.id, notice)), condition: Condition::Seen(stored.version) };
    let author = Author { scope: Scope::All, owner: stored.owner, caller: None };
    match app.writer.commit(Plan { changes: vec![change], ..Plan::default() }, &author, false).await {
        // Somebody was quicker; what they say stands.
        Ok(_) | Err(CommitError::Stale) => Ok(()),
        Err(CommitError::Refused(_, refusal)) => Err(refusal).context("what became of a notice was not written"),
    }
}
