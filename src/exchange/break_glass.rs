//! Breaking the glass: an emergency opens one person's records for some minutes, and the person and the privacy officer are told.
//!
//! Who may: a client with the role `clinician` and a token that carries, signed, nothing but emergencies as purposes (`ETREAT`, `BTG`), who
//! acts (`subject_id`) and a reason in words. What it opens: reading, by id and by lookup, never a search, a history or an export, because only those two ask here. The
//! first release binds the token to the Patients of one person, as far as nothing tells that they are several people's ([`Person::in_emergency`]); it is a unit of a Task for the privacy officer, a Communication to the patient and a job that
//! delivers it, so without notice there is no data. The Task's id follows from the token, so that of racing requests, in whatever process, one
//! makes it, and the others find it made; what it says in its first version, which nothing can change, is what the token is bound to.
//!
//! How many patients in an hour, of one practitioner and of one client, these Tasks tell, which nobody else can make, so all processes count
//! together. Who has had them all is told so before anybody is looked for, alike for who is hidden and who never was; the patients of that hour can still be read.

use crate::access::consent::vocabulary;
use crate::access::{Caller, Role, audit, gate, purpose};
use crate::app::App;
use crate::definitions;
use crate::exchange::{Emergency, Person, notice};
use crate::fhir::time::{Micros, format_instant, now};
use crate::fhir::{Issue, IssueCode};
use crate::ingest::tries::Tries;
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::ingest::{Refusal, RefusalKind};
use crate::registry;
use crate::search::extract::{self, BROKEN_GLASS, GLASS_REVIEW, NOTICE};
use crate::store::gate::{BreakGlass, Gate};
use crate::store::opened::Opened;
use crate::store::{FacilityKey, ParamId, Scope, Stored, TypeCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Letters and digits of a reason: whoever reviews it must be able to make something of it.
const REASON: usize = 8;
/// What the Tasks are.
const CODES: &str = "https://lango.health/fhir/CodeSystem/task";
const HOUR: Micros = 3_600_000_000;
/// Identifier system of clients.
const CLIENT: &str = "urn:lango:client";

/// A caller who may break the glass.
pub struct Glass<'a> {
    app: &'a App,
    caller: &'a Caller,
    gate: &'a Gate,
    /// Of the Task that binds the token.
    id: String,
    reason: &'a str,
    client: &'a str,
    practitioner: &'a str,
}

/// What a token was bound to.
struct Bound {
    patients: BTreeSet<String>,
    since: Micros,
}

impl<'a> Glass<'a> {
    /// `None`: this caller cannot break it, whatever the patient says.
    pub fn of(app: &'a App, caller: &'a Caller) -> Option<Glass<'a>> {
        let Scope::Gate(gate) = &caller.scope else { return None };
        let (token, client) = (caller.token.as_deref()?, caller.client.as_deref()?);
        let reason = caller.claimed.reason.as_deref().filter(|reason| reason.chars().filter(|c| c.is_alphanumeric()).count() >= REASON)?;
        let practitioner = named(caller.claimed.practitioner.as_deref()?, &app.settings.systems.practitioner)?;
        let purposes = &caller.claimed.purposes;
        let emergency = !purposes.is_empty() && purposes.iter().all(|code| vocabulary::is_emergency(&purpose(code)));
        if !emergency || !caller.has_role(Role::Clinician) {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key("lango break-glass task id, version 1");
        hasher.update(client.as_bytes()).update(b"|").update(token.as_bytes());
        let id = format!("btg-{}", hasher.finalize().to_hex().get(..32)?);
        Some(Glass { app, caller, gate, id, reason, client, practitioner })
    }

    /// Those of whom is asked for that may be opened; nothing is yet. `None`: the token is bound to others, its minutes are over, or there is no such person.
    /// Refused, whoever it is, after too many others.
    pub async fn whom(&self, asked: Emergency) -> Result<Option<Emergency>, Refusal> {
        let asked = match self.bound().await? {
            Some(bound) if !self.holds(&bound) => return Ok(None),
            Some(Bound { patients, .. }) => {
                let ids = asked.person.ids.intersection(&patients).cloned().collect();
                Emergency { person: Person::of(&self.app.store, ids).await?, ..asked }
            }
            None => {
                self.check(&asked).await?;
                asked
            }
        };
        Ok(Some(asked).filter(|asked| !asked.person.keys.is_empty()))
    }

    /// What their records may be read under.
    pub fn scope(&self, whom: &Person) -> Scope {
        let exempt = gate::numbers(&self.app.settings.consent.deployment().exempt_facts());
        let break_glass = Some(BreakGlass { patients: whom.keys.clone(), exempt });
        Scope::Gate(Arc::new(Gate { break_glass, ..self.gate.clone() }))
    }

    /// Opens their records: after it answered `true`, what [`Glass::scope`] shows may leave.
    pub async fn open(&self, whom: &Emergency) -> Result<bool, Refusal> {
        let mut tries = Tries::default();
        // One at a time, so that none is opened uncounted; other processes may open one more each.
        let _turn = self.app.glass.lock().await;
        loop {
            if let Some(bound) = self.bound().await? {
                let opens = self.holds(&bound) && whom.person.ids.is_subset(&bound.patients);
                if let Some(trail) = audit::current().filter(|_| opens) {
                    trail.breaks_glass();
                }
                return Ok(opens);
            }
            self.check(whom).await?;
            let author = Author { scope: Scope::All, owner: 0, caller: None };
            match self.app.writer.commit(self.notices(whom)?, &author, false).await {
                Ok(_) => {}
                Err(CommitError::Stale) => tries.pause().await?,
                Err(CommitError::Refused(_, refusal)) => return Err(refusal),
            }
        }
    }

    fn holds(&self, bound: &Bound) -> bool {
        now() < bound.since.saturating_add(self.minutes())
    }

    /// Who is told and counted: rather what another facility knows them by, since the caller's own can make of its Patients whom it likes.
    fn subject<'w>(&self, whom: &'w Emergency) -> Option<&'w str> {
        let is_others = |(_, owner): &&(String, FacilityKey)| !self.gate.owners.contains(owner);
        let found = whom.owners.iter().find(is_others).or(whom.owners.first()).map(|(id, _)| id);
        found.or(whom.person.ids.first()).map(String::as_str)
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
        let inputs = task.get("input").and_then(Value::as_array).into_iter().flatten();
        let named = task.pointer("/for/reference").into_iter().chain(inputs.filter_map(|input| input.pointer("/valueReference/reference")));
        // Bound to nobody is bound all the same.
        let patients = named.filter_map(|name| name.as_str()?.strip_prefix("Patient/")).map(str::to_owned).collect();
        Ok(Some(Bound { patients, since: updated }))
    }

    /// Whether one more patient may be opened, unless it is one of the hour's already.
    async fn check(&self, asked: &Emergency) -> Result<(), Refusal> {
        let subject = self.subject(asked).map(str::to_owned).into_iter().collect();
        let subject = Person::of(&self.app.store, subject).await?;
        let limits = &self.app.settings.limits;
        let practitioners = self.app.settings.systems.practitioner.as_str();
        let task = definitions::r4().type_code("Task").ok_or_else(Refusal::not_found)?;
        let requesters = param(task, "requester").map(|param| extract::identifier_places(task, param)).unwrap_or_default();
        let clients: Vec<ParamId> = param(task, "group-identifier").into_iter().collect();
        // Names that nobody has can be made up without end: what counts then is how many the client opened.
        let of_client = match limits.emergencies_per_client {
            0 if !self.is_known().await? => limits.emergencies_per_practitioner,
            most => most,
        };
        for (params, system, value, most) in [
            (&requesters, practitioners, self.practitioner, limits.emergencies_per_practitioner),
            (&clients, CLIENT, self.client, of_client),
        ] {
            if most == 0 {
                continue;
            }
            let (Some(at), Some(tag), Some(patient)) = (param(task, "authored-on"), param(task, "_tag"), param(task, "patient")) else {
                return Err(Refusal::not_found());
            };
            let (tag, by) = ((tag, NOTICE, BROKEN_GLASS), (params.as_slice(), system, value));
            let asked = Opened { at, since: now().saturating_sub(HOUR), tag, by, patient };
            let (opened, again) = self.app.store.opened(&asked, &subject.keys).await?;
            if opened >= i64::from(most) && !again {
                let words = "So many patients' records in an hour are more than the operator allows to be opened in emergencies: ask the privacy \
                             officer, or come back later. Those that were opened can still be read.";
                return Err(Refusal::new(RefusalKind::Throttled, Issue::error(IssueCode::Throttled, words)));
            }
        }
        Ok(())
    }

    /// Whether a Practitioner of the operator's directory is called as who acts says.
    async fn is_known(&self) -> Result<bool, Refusal> {
        let r4 = definitions::r4();
        let Some(identifier) = r4.type_code("Practitioner").and_then(|code| param(code, "identifier")) else { return Ok(false) };
        Ok(self.app.store.is_called(identifier, &self.app.settings.systems.practitioner, self.practitioner).await?)
    }

    fn notices(&self, whom: &Emergency) -> Result<Plan, Refusal> {
        let unfinished = Refusal::not_found;
        let patient = self.subject(whom).ok_or_else(unfinished)?;
        let now = now();
        let settings = &self.app.settings;
        let facility = json!({ "identifier": { "system": settings.systems.facility, "value": self.caller.facility_code } });
        let tag = json!({ "tag": [{ "system": NOTICE, "code": BROKEN_GLASS }] });
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
        let named = |id: &String| json!({ "reference": format!("Patient/{id}") });
        let opened: Vec<Value> = whom.person.ids.iter().map(named).collect();
        let recipients: Vec<Value> = whom.person.ids.iter().filter(|id| !registry::looks_golden(id)).map(named).collect();
        let mut input = vec![json!({ "type": { "text": "facility" }, "valueReference": facility })];
        input.extend(opened.iter().map(|patient| json!({ "type": { "text": "opened" }, "valueReference": patient })));
        let communication = json!({
            "resourceType": "Communication",
            "meta": tag,
            "status": "preparation",
            "category": [{ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/communication-category", "code": "notification" }] }],
            "subject": about,
            "recipient": recipients,
            "sender": facility,
            "reasonCode": [why],
            "payload": [{ "contentString": format!("At {} your record was opened in an emergency, without your consent being asked. You can ask for the reason, and object.", format_instant(now)) }],
        });
        let task = json!({
            "resourceType": "Task",
            "meta": tag,
            "status": "requested",
            "intent": "order",
            "priority": "urgent",
            "groupIdentifier": { "system": CLIENT, "value": self.client },
            "code": { "coding": [{ "system": CODES, "code": GLASS_REVIEW }], "text": "Review a broken glass" },
            "for": about,
            "focus": { "reference": format!("Communication/{}", self.id) },
            "authoredOn": format_instant(now),
            "requester": { "type": "Practitioner", "identifier": { "system": settings.systems.practitioner, "value": self.practitioner } },
            "owner": { "identifier": { "system": settings.systems.facility, "value": settings.operator.code } },
            "reasonCode": why,
            "restriction": { "period": { "start": format_instant(now), "end": format_instant(now.saturating_add(self.minutes())) } },
            "input": input,
        });
        let mut changes = Vec::new();
        for (name, resource) in [("Communication", communication), ("Task", task)] {
            let type_code = definitions::r4().type_code(name).ok_or_else(unfinished)?;
            changes.push(Wanted { action: Action::Put(self.app.writer.draft(type_code, &self.id, resource)), condition: Condition::New });
        }
        Ok(Plan { changes, jobs: vec![notice::job(&self.id)], ..Plan::default() })
    }
}

fn param(type_code: TypeCode, code: &str) -> Option<ParamId> {
    definitions::r4().param(type_code, code).map(|param| param.id)
}

/// The practitioner whom a token names, however it writes the name: without what is around it, and without the system that it means anyway.
fn named<'c>(claimed: &'c str, system: &str) -> Option<&'c str> {
    let claimed = claimed.trim();
    let value = claimed.strip_prefix(system).and_then(|rest| rest.strip_prefix('|')).unwrap_or(claimed).trim();
    (!value.is_empty()).then_some(value)
}
