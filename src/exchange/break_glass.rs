//! Breaking the glass: an emergency opens one person's records for some minutes, and the person and the privacy officer are told.
//!
//! Who may: a client with the role `clinician` and a token that carries, signed, nothing but emergencies as purposes (`ETREAT`, `BTG`) and a
//! reason. What it opens: reading, by id and by lookup, never a search, a history or an export, because only those two ask here. The
//! first release binds the token to the person; it is a unit of a Task for the privacy officer, a Communication to the patient and a job that
//! delivers it, so without notice there is no data. The Task's id follows from the token, so that of racing requests, in whatever process, one
//! makes it, and the others find it made; what it says in its first version, which nothing can change, is what the token is bound to.

use crate::access::consent::vocabulary;
use crate::access::{Caller, Role, audit, gate, purpose};
use crate::app::App;
use crate::definitions;
use crate::exchange::{Person, notice};
use crate::fhir::time::{Micros, format_instant, now};
use crate::ingest::Refusal;
use crate::ingest::tries::Tries;
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::registry;
use crate::search::extract::NOTICE;
use crate::store::gate::{BreakGlass, Gate};
use crate::store::{Scope, Stored};
use serde_json::{Value, json};
use std::sync::Arc;

/// A caller who may break the glass.
pub struct Glass<'a> {
    app: &'a App,
    caller: &'a Caller,
    gate: &'a Gate,
    /// Of the Task that binds the token.
    id: String,
    reason: &'a str,
}

/// What a token was bound to.
struct Bound {
    patient: String,
    since: Micros,
}

impl<'a> Glass<'a> {
    /// `None`: this caller cannot break it, whatever the patient says.
    pub fn of(app: &'a App, caller: &'a Caller) -> Option<Glass<'a>> {
        let Scope::Gate(gate) = &caller.scope else { return None };
        let (token, client) = (caller.token.as_deref()?, caller.client.as_deref()?);
        let reason = caller.claimed.reason.as_deref()?;
        let purposes = &caller.claimed.purposes;
        let emergency = !purposes.is_empty() && purposes.iter().all(|code| vocabulary::is_emergency(&purpose(code)));
        if !emergency || !caller.has_role(Role::Clinician) {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key("lango break-glass task id, version 1");
        hasher.update(client.as_bytes()).update(b"|").update(token.as_bytes());
        let id = format!("btg-{}", hasher.finalize().to_hex().get(..32)?);
        Some(Glass { app, caller, gate, id, reason })
    }

    /// What this person's records may be read under; nothing is opened yet. `None`: the token is bound to somebody else, or its minutes are over.
    pub async fn scope(&self, person: &Person) -> Result<Option<Scope>, Refusal> {
        if person.keys.is_empty() || self.bound().await?.is_some_and(|bound| !self.is_for(&bound, person)) {
            return Ok(None);
        }
        let exempt = gate::numbers(&self.app.settings.consent.deployment().exempt_facts());
        let break_glass = Some(BreakGlass { patients: person.keys.clone(), exempt });
        Ok(Some(Scope::Gate(Arc::new(Gate { break_glass, ..self.gate.clone() }))))
    }

    /// Opens this person's records: after it answered `true`, what [`Glass::scope`] shows may leave.
    pub async fn open(&self, person: &Person) -> Result<bool, Refusal> {
        let mut tries = Tries::default();
        loop {
            if let Some(bound) = self.bound().await? {
                let opens = self.is_for(&bound, person);
                if let Some(trail) = audit::current().filter(|_| opens) {
                    trail.breaks_glass();
                }
                return Ok(opens);
            }
            let author = Author { scope: Scope::All, owner: 0, caller: None };
            match self.app.writer.commit(self.notices(person)?, &author, false).await {
                Ok(_) => {}
                Err(CommitError::Stale) => tries.pause().await?,
                Err(CommitError::Refused(_, refusal)) => return Err(refusal),
            }
        }
    }

    fn is_for(&self, bound: &Bound, person: &Person) -> bool {
        person.ids.contains(&bound.patient) && now() < bound.since.saturating_add(self.minutes())
    }

    /// How long it stays open, in microseconds; the token's own end comes before it or after.
    fn minutes(&self) -> Micros {
        Micros::from(self.app.settings.consent.break_glass_minutes) * 60_000_000
    }

    async fn bound(&self) -> Result<Option<Bound>, Refusal> {
        let Some(task) = definitions::r4().type_code("Task") else { return Ok(None) };
        let stored = self.app.store.read_version(task, &self.id, 1, &Scope::All).await?;
        let Some(Stored { updated, body, .. }) = stored else { return Ok(None) };
        let task: Value = body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        let patient = task.pointer("/for/reference").and_then(Value::as_str).and_then(|text| text.strip_prefix("Patient/"));
        // Bound to nobody is bound all the same.
        Ok(Some(Bound { patient: patient.unwrap_or_default().to_owned(), since: updated }))
    }

    fn notices(&self, person: &Person) -> Result<Plan, Refusal> {
        let unfinished = Refusal::not_found;
        // Rather a Patient that somebody sent than the golden one.
        let patient = person.ids.iter().find(|id| !registry::looks_golden(id)).or(person.ids.first()).ok_or_else(unfinished)?;
        let now = now();
        let settings = &self.app.settings;
        let facility = json!({ "identifier": { "system": settings.systems.facility, "value": self.caller.facility_code } });
        let tag = json!({ "tag": [{ "system": NOTICE, "code": "break-glass" }] });
        let why: Vec<Value> = self
            .caller
            .claimed
            .purposes
            .iter()
            .map(purpose)
            .map(|purpose| json!({ "system": purpose.system.as_str(), "code": purpose.code.as_str() }))
            .collect();
        let why = json!({ "coding": why, "text": self.reason });
        let about = json!({ "reference": format!("Patient/{patient}") });
        let communication = json!({
            "resourceType": "Communication",
            "meta": tag,
            "status": "preparation",
            "category": [{ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/communication-category", "code": "notification" }] }],
            "subject": about,
            "recipient": [about],
            "sender": facility,
            "reasonCode": [why],
            "payload": [{ "contentString": format!("At {} your record was opened in an emergency, without your consent being asked. You can ask for the reason, and object.", format_instant(now)) }],
        });
        let mut task = json!({
            "resourceType": "Task",
            "meta": tag,
            "status": "requested",
            "intent": "order",
            "priority": "urgent",
            "code": { "coding": [{ "system": "https://lango.health/fhir/CodeSystem/task", "code": "break-glass-review" }], "text": "Review a broken glass" },
            "for": about,
            "focus": { "reference": format!("Communication/{}", self.id) },
            "authoredOn": format_instant(now),
            "requester": facility,
            "owner": { "identifier": { "system": settings.systems.facility, "value": settings.operator.code } },
            "reasonCode": why,
            "restriction": { "period": { "start": format_instant(now), "end": format_instant(now.saturating_add(self.minutes())) } },
        });
        if let Some(practitioner) = &self.caller.claimed.practitioner {
            let identifier = json!({ "system": settings.systems.practitioner, "value": practitioner });
            task["input"] = json!([{ "type": { "text": "practitioner" }, "valueIdentifier": identifier }]);
        }
        let mut changes = Vec::new();
        for (name, resource) in [("Communication", communication), ("Task", task)] {
            let type_code = definitions::r4().type_code(name).ok_or_else(unfinished)?;
            changes.push(Wanted { action: Action::Put(self.app.writer.draft(type_code, &self.id, resource)), condition: Condition::New });
        }
        Ok(Plan { changes, jobs: vec![notice::job(&self.id)], ..Plan::default() })
    }
}
