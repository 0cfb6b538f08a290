//! Asking for consent: a facility proposes a Consent, those who record consents answer it, the facility is told.
//!
//! A proposed Consent belongs to the consent desk ([`CONSENT_DESK`]), and so does all that becomes of it: every recorder sees it, changes it to `active` or
//! `rejected`, and withdraws it later. Each change enqueues a job in its transaction; the job says in two Tasks what the Consent has come to, one at the desk and one
//! that belongs to the facility that asked. An active Consent that will end has another job due then. Doing it twice changes nothing.

use crate::access::CONSENT_DESK;
use crate::app::App;
use crate::definitions;
use crate::exchange::notice;
use crate::fhir::time::{Micros, format_instant, now, parse_interval};
use crate::ingest::consent::CONSENT_JOB;
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::search::extract::NOTICE;
use crate::store::write::NewJob;
use crate::store::{Scope, TypeCode};
use anyhow::Context;
use serde_json::{Value, json};

/// What has become of a request: the Task's status, and in the words of [`STATES`].
type State = (&'static str, &'static str);

const STATES: &str = "https://lango.health/fhir/CodeSystem/consent-request-state";

/// The handler of [`CONSENT_JOB`].
pub async fn tell(app: &App, payload: &Value) -> anyhow::Result<()> {
    let r4 = definitions::r4();
    let id = payload.get("consent").and_then(Value::as_str).unwrap_or_default();
    let (Some(consent), Some(task)) = (r4.type_code("Consent"), r4.type_code("Task")) else { return Ok(()) };
    // Who asked for what is what the first version says, whatever was made of it.
    let first = app.store.read_version(consent, id, 1, &Scope::All).await?;
    let Some((asked, since)) = first.and_then(|first| Some((serde_json::from_slice::<Value>(first.body.as_ref()?).ok()?, first.updated)))
    else {
        return Ok(());
    };
    if asked.get("status").and_then(Value::as_str) != Some("proposed") {
        // A recorder's own, at the desk from the beginning: nobody asked.
        return Ok(());
    }
    let Some(code) = asked.pointer("/provision/actor/0/reference/identifier/value").and_then(Value::as_str) else { return Ok(()) };
    let requester = if *code == *app.settings.operator.code { 0 } else { app.store.facility_key(code).await? };
    let stored = app.store.read(consent, id, &Scope::All).await?;
    let current: Option<Value> = stored.as_ref().and_then(|stored| serde_json::from_slice(stored.body.as_ref()?).ok());
    let ends = current.as_ref().and_then(|consent| consent.pointer("/provision/period/end")?.as_str());
    let ends = ends.and_then(|end| parse_interval(end, &app.zone)).map(|end| end.high);
    let (status, state) = state(current.as_ref(), ends);
    let digest = blake3::hash(id.as_bytes()).to_hex();
    let digest = digest.get(..32).context("a digest is longer")?;
    let version = stored.map_or(0, |stored| stored.version);
    for (prefix, owner) in [("desk", CONSENT_DESK), ("ask", requester)] {
        let resource = json!({
            "resourceType": "Task",
            "meta": { "tag": [{ "system": NOTICE, "code": "consent-request" }] },
            "status": status,
            "businessStatus": { "coding": [{ "system": STATES, "code": state }] },
            "intent": "proposal",
            "code": { "coding": [{ "system": "https://lango.health/fhir/CodeSystem/task", "code": "consent-request" }], "text": "Consent is asked for" },
            "focus": { "reference": format!("Consent/{id}") },
            "for": asked.get("patient"),
            "authoredOn": format_instant(since),
            "requester": asked.pointer("/provision/actor/0/reference"),
        });
        let author = Author { scope: Scope::All, owner, caller: None };
        let name = format!("{prefix}-{digest}");
        let mut plan = Plan::default();
        if prefix == "ask" && state != "asked" && told(app, task, &name).await?.as_deref() != Some(state) {
            let notice = format!("{name}-{version}-{state}");
            let communication = r4.type_code("Communication").context("R4 has Communications")?;
            let draft = app.writer.draft(communication, &notice, communication_of(app, &asked, &name, code, state));
            plan.changes.push(Wanted { action: Action::Put(draft), condition: Condition::New });
            plan.jobs.push(notice::job(&notice));
        }
        plan.changes.push(Wanted { action: Action::Put(app.writer.draft(task, &name, resource)), condition: Condition::Any });
        // A notice of a state and the Task that says it come together, so each state is told once. What another process did meanwhile is
        // seen by the next try of the job.
        app.writer.commit(plan, &author, false).await.map_err(|error| match error {
            CommitError::Stale => anyhow::anyhow!("the request changed meanwhile"),
            CommitError::Refused(_, refusal) => refusal.into(),
        })?;
    }
    if let Some(run_at) = ends.filter(|_| state == "granted") {
        let payload = json!({ "version": 1, "consent": id });
        let job = NewJob { kind: CONSENT_JOB.to_owned(), payload, dedup_key: Some(format!("end {id}")), run_at };
        let author = Author { scope: Scope::All, owner: 0, caller: None };
        app.writer.commit(Plan { jobs: vec![job], ..Plan::default() }, &author, false).await?;
    }
    Ok(())
}

/// The state that the facility was told last.
async fn told(app: &App, task: TypeCode, id: &str) -> anyhow::Result<Option<String>> {
    let body = app.store.read(task, id, &Scope::All).await?.and_then(|stored| stored.body);
    let task: Value = body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    Ok(task.pointer("/businessStatus/coding/0/code").and_then(Value::as_str).map(str::to_owned))
}

/// What the facility that asked is told.
fn communication_of(app: &App, asked: &Value, task: &str, facility: &str, state: &str) -> Value {
    let words = match state {
        "granted" => "The consent that was asked for was granted.",
        "rejected" => "The consent that was asked for was not given.",
        "expired" => "The consent that was asked for has ended.",
        _ => "The consent that was asked for was withdrawn.",
    };
    json!({
        "resourceType": "Communication",
        "meta": { "tag": [{ "system": NOTICE, "code": "consent-request" }] },
        "about": [{ "reference": format!("Task/{task}") }],
        "status": "preparation",
        "category": [{ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/communication-category", "code": "notification" }] }],
        "subject": asked.get("patient"),
        "topic": { "coding": [{ "system": STATES, "code": state }] },
        "recipient": [{ "type": "Organization", "identifier": { "system": app.settings.systems.facility, "value": facility } }],
        "payload": [{ "contentString": words }],
    })
}

fn state(consent: Option<&Value>, ends: Option<Micros>) -> State {
    match consent.and_then(|consent| consent.get("status")?.as_str()) {
        Some("proposed" | "draft") => ("requested", "asked"),
        Some("active") if ends.is_some_and(|ends| ends <= now()) => ("completed", "expired"),
        Some("active") => ("completed", "granted"),
        Some("rejected") => ("rejected", "rejected"),
        _ => ("cancelled", "withdrawn"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_to_what_the_consent_says() {
        let of = |status: &str, ends| state(Some(&json!({ "status": status })), ends).1;
        assert_eq!([of("proposed", None), of("rejected", None), of("inactive", None)], ["asked", "rejected", "withdrawn"]);
        assert_eq!([of("active", None), of("active", Some(i64::MAX)), of("active", Some(1))], ["granted", "granted", "expired"]);
        assert_eq!(state(None, None).1, "withdrawn");
    }
}
