//! What is stored is labelled anew when the value sets of sensitive codes change, or what they rest on.
//!
//! The write that changes them enqueues the job in its own transaction; a start compares what everything is labelled by with what it should be, so an
//! upgrade does too. One process at a time works, a unit of some hundred resources after the other, those first that tell most; where it is stands in its
//! payload (`lango outbox list`), and a successor takes it on after a crash. A resource in which something was found becomes a new version with the
//! labels added. When all types are done, what was written meanwhile is looked at once more: another process may not have known yet.

use super::App;
use crate::access::{consent, gate};
use crate::definitions;
use crate::fhir::time::{Micros, now};
use crate::ingest::relabel::{RELABEL_JOB, job};
use crate::ingest::tries::Tries;
use crate::ingest::write::{Action, Author, CommitError, Condition, Plan, Wanted};
use crate::outbox::Outcome;
use crate::search::extract;
use crate::store::gate::{About, Traits};
use crate::store::write::Change;
use crate::store::{Mutation, Scope, Stored, TypeCode, Unit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Resources of one unit.
const BATCH: u32 = 200;
/// Units of one job, so that none outlives its lease.
const UNITS: usize = 40;
/// How long other processes may label by the old value sets, in microseconds: they look for new ones every two seconds.
const SETTLE: Micros = 5_000_000;
/// What tells most of what is sensitive, and what hands its labels on.
const FIRST: [&str; 10] = [
    "Encounter",
    "Substance",
    "Medication",
    "Condition",
    "Observation",
    "MedicationRequest",
    "MedicationStatement",
    "MedicationDispense",
    "DiagnosticReport",
    "Procedure",
];

/// How far the work is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
struct Relabel {
    /// When it began.
    started: Micros,
    /// Types still to be done, the present one first.
    types: Vec<String>,
    /// The last resource of the present type that is done: when it was updated, and its key.
    after: (Micros, i64),
    /// Only what was updated then or later is looked at: the second time.
    since: Option<Micros>,
    /// Resources that were looked at, and those that got labels.
    done: u64,
    labelled: u64,
    /// What everything was labelled by when it began.
    digest: String,
}

impl App {
    /// Sees to it that what is stored is labelled by the value sets of today.
    pub(super) async fn check_labels(&self) -> anyhow::Result<()> {
        let digest = self.writer.making().sensitive.digest();
        let before = self.store.labelled_by().await?;
        if before == digest {
            return Ok(());
        }
        if before.is_empty() && self.has_nothing_to_label().await? {
            self.store.set_labelled_by(&digest).await?;
            return Ok(());
        }
        let jobs = self.store.jobs(Some(RELABEL_JOB), None, 100).await?;
        if !jobs.iter().any(|job| matches!(job.state.as_str(), "waiting" | "running")) {
            self.store.commit(Unit { jobs: vec![job()], ..Unit::default() }).await?;
        }
        Ok(())
    }

    async fn has_nothing_to_label(&self) -> Result<bool, sqlx::Error> {
        for name in types().into_iter().filter(|name| !extract::is_about_nobody(name)) {
            if let Some(type_code) = definitions::r4().type_code(&name)
                && !self.store.live_after(type_code, 0, 1).await?.is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The handler of [`RELABEL_JOB`].
    pub(super) async fn relabel(&self, payload: &Value) -> Outcome {
        let mut state: Relabel = serde_json::from_value(payload.clone()).unwrap_or_default();
        match self.relabel_some(&mut state).await {
            Ok(()) => Outcome::Done(json!(state)),
            Err(error) => Outcome::retry(format!("{error:#}")),
        }
    }

    async fn relabel_some(&self, state: &mut Relabel) -> anyhow::Result<()> {
        self.writer.take_in_terminology().await?;
        let digest = self.writer.making().sensitive.digest();
        if state.digest != digest {
            tracing::info!("the value sets of sensitive codes changed: what is stored is labelled anew");
            *state = Relabel { started: now(), types: types(), digest, ..Relabel::default() };
        }
        // What was written since the work began was written by this release, or is looked at when it began.
        // Its new versions are met again further on: these are of this release.
        let is_older = state.since.is_none() && !consent::Sensitive::is_of_this_release(&self.store.labelled_by().await?);
        let anew = if is_older { state.started } else { Micros::MIN };
        for _ in 0..UNITS {
            let Some(name) = state.types.first() else { break };
            let rows = match definitions::r4().type_code(name) {
                Some(type_code) => self.store.changed_since(type_code, state.since.unwrap_or(Micros::MIN), state.after, BATCH).await?,
                None => Vec::new(),
            };
            match rows.last() {
                Some(last) => {
                    let after = (last.updated, last.key);
                    state.done = state.done.saturating_add(rows.len() as u64);
                    state.labelled = state.labelled.saturating_add(self.label(rows, anew).await?);
                    state.after = after;
                }
                None => {
                    state.types.remove(0);
                    state.after = (Micros::MIN, 0);
                }
            }
        }
        let next = match (state.types.is_empty(), state.since) {
            (false, _) => Some(0),
            (true, None) => {
                *state = Relabel { types: types(), after: (Micros::MIN, 0), since: Some(state.started), ..state.clone() };
                Some(state.started.saturating_add(SETTLE))
            }
            (true, Some(_)) => None,
        };
        match next {
            Some(run_at) => {
                let successor = crate::store::write::NewJob { payload: json!(state), run_at, ..job() };
                // One that a later change of the value sets enqueued begins from the start; it stays.
                let waiting = self.store.jobs(Some(RELABEL_JOB), Some("waiting"), 1).await?;
                if waiting.is_empty() {
                    self.store.commit(Unit { jobs: vec![successor], ..Unit::default() }).await?;
                }
            }
            None => {
                self.store.set_labelled_by(&state.digest).await?;
                tracing::info!(resources = state.done, labelled = state.labelled, "what is stored is labelled by the value sets of today");
            }
        }
        Ok(())
    }

    /// Adds the labels that are missing; to how many.
    async fn label(&self, mut rows: Vec<Stored>, anew: Micros) -> anyhow::Result<u64> {
        let mut tries = Tries::default();
        loop {
            let (me, found) = (self.clone(), rows.clone());
            let (changes, containers) = self.writer.workers().run(move || me.missing(&found, anew)).await?;
            let count = changes.len() as u64;
            let author = Author { scope: Scope::All, owner: 0, caller: None };
            let committed = match changes.is_empty() {
                true => Ok(()),
                false => self.writer.commit(Plan { changes, ..Plan::default() }, &author, false).await.map(drop),
            };
            let committed = match (committed, containers.is_empty()) {
                (Ok(()), false) => {
                    self.store.commit(Unit { mutations: containers, ..Unit::default() }).await.map(drop).map_err(|error| match error {
                        crate::store::WriteError::Stale => CommitError::Stale,
                        error => CommitError::Refused(None, error.into()),
                    })
                }
                (committed, _) => committed,
            };
            match committed {
                Ok(()) => return Ok(count),
                Err(CommitError::Stale) => tries.pause().await?,
                Err(error) => return Err(error.into()),
            }
            let names: Vec<(TypeCode, String)> = rows.iter().map(|row| (row.type_code, row.id.to_string())).collect();
            rows = self.store.read_many(&names).await?;
        }
    }

    /// The new versions of those in which something is found, and those others that hand their labels on, or, if they are older than `anew`, are read
    /// otherwise than by the release before.
    fn missing(&self, rows: &[Stored], anew: Micros) -> (Vec<Wanted>, Vec<Mutation>) {
        let making = self.writer.making();
        let (mut changes, mut containers) = (Vec::new(), Vec::new());
        for row in rows {
            let Some(resource) = row.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) else { continue };
            if !consent::labels_on_arrival(&resource, &BTreeSet::new(), &making.sensitive).is_empty() {
                let draft = self.writer.draft(row.type_code, &row.id, resource);
                changes.push(Wanted { action: Action::Put(draft), condition: Condition::Seen(row.version) });
                continue;
            }
            if let Some(mutation) = self.writer.rearrived(row, &resource, row.updated < anew) {
                containers.push(mutation);
                continue;
            }
            let type_name = definitions::r4().type_name(row.type_code);
            let hands = gate::hands(type_name, &resource, &making.options.base, &making.sensitive).filter(|hands| !hands.is_empty());
            containers.extend(hands.map(|hands| Mutation {
                type_code: row.type_code,
                id: row.id.clone(),
                base_version: row.version,
                change: Change::Reindex { entries: Vec::new(), old_entries: Vec::new() },
                owner: row.owner,
                listed: true,
                about: About::Nobody,
                traits: Traits::of_hands(hands),
                rules: None,
            }));
        }
        (changes, containers)
    }
}

/// All types, those first that tell most, and those last that are about nobody: of them whether that is so is all that is asked.
fn types() -> Vec<String> {
    let all = || definitions::r4().resource_types().iter().copied().filter(|name| !FIRST.contains(name) && *name != "AuditEvent");
    let (open, rest): (Vec<&str>, Vec<&str>) = all().partition(|name| extract::is_about_nobody(name));
    FIRST.into_iter().chain(rest).chain(open).map(str::to_owned).collect()
}
