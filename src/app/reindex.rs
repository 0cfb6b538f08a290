//! Indexing again what is stored: for a new search parameter, or everything of some types after a change of settings.
//!
//! One job works through its types in the order of the resources' keys, a unit of a few hundred at a time, and hands over to a
//! successor now and then, whose payload tells how far it is (`lango outbox list`). A unit is refused when one of its resources
//! changed meanwhile, and then made again: what was written since is indexed by the new rules already.

use super::App;
use crate::definitions;
use crate::fhir::json::parse_deep;
use crate::fhir::time::now;
use crate::outbox::Outcome;
use crate::search::extract;
use crate::search::own::{self, Unindexed};
use crate::store::gate::{About, Traits};
use crate::store::write::{Change, NewJob};
use crate::store::{IndexEntry, Mutation, ResourceKey, Store, Stored, TypeCode, Unit, WriteError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The kind of the jobs.
pub const REINDEX_JOB: &str = "search.reindex";
/// Resources of one unit.
const BATCH: u32 = 200;
/// Units of one job, so that none outlives its lease.
const UNITS: usize = 40;
/// Tries of a unit whose resources keep changing.
const TRIES: usize = 10;
/// How long other processes may still write by the old rules, in microseconds: they look for new ones every two seconds.
const SETTLE: i64 = 5_000_000;

/// What a job is to do and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reindex {
    /// Only the values of this own parameter; otherwise everything.
    pub parameter: Option<u16>,
    /// Types still to be done, the present one first; `*` stands for all.
    pub types: Vec<String>,
    /// The last resource of the present type that is done.
    #[serde(default)]
    pub after: ResourceKey,
    /// Resources that are done.
    #[serde(default)]
    pub done: u64,
    /// How many of them could not be read, so that they are found by what they were indexed by before, or not at all.
    #[serde(default)]
    pub unread: u64,
    /// The zone that dates were read in before.
    #[serde(default)]
    pub from_zone: Option<String>,
}

impl Reindex {
    /// The job for it. Of several for the same thing one waits.
    pub fn job(&self, run_at: i64) -> NewJob {
        let of = self.parameter.map_or_else(|| format!("all {}", self.types.join(",")), |number| format!("parameter {number}"));
        NewJob { kind: REINDEX_JOB.into(), payload: json!(self), dedup_key: Some(of), run_at }
    }
}

impl App {
    /// Takes in the own search parameters as they are stored. Jobs for those that are not indexed yet begin when they are new, or
    /// with `restart` when none is under way.
    pub(super) async fn load_parameters(&self, restart: bool) -> Result<(), sqlx::Error> {
        let own = &self.writer.options().own;
        let known: Vec<Unindexed> = own::refresh(&self.store, own).await?;
        if known.is_empty() {
            return Ok(());
        }
        let mut jobs = Vec::new();
        let waiting = self.store.jobs(Some(REINDEX_JOB), None, 1_000).await?;
        for Unindexed { number, types } in known {
            let of_this = |job: &&crate::store::JobRow| job.payload.get("parameter").and_then(Value::as_u64) == Some(u64::from(number));
            let alive = |job: &crate::store::JobRow| matches!(job.state.as_str(), "waiting" | "running");
            let mut own = waiting.iter().filter(of_this).peekable();
            if own.peek().is_none() || restart && !own.any(alive) {
                let types = types.iter().map(|type_code| definitions::r4().type_name(*type_code).to_owned()).collect();
                let settle = if matches!(self.store, Store::Postgres(_)) { SETTLE } else { 0 };
                jobs.push(
                    Reindex { parameter: Some(number), types, after: 0, done: 0, unread: 0, from_zone: None }
                        .job(now().saturating_add(settle)),
                );
            }
        }
        if !jobs.is_empty() {
            let unit = Unit { jobs, ..Unit::default() };
            self.store.commit(unit).await.map_err(|error| match error {
                WriteError::Database(error) => error,
                error => sqlx::Error::Protocol(error.to_string()),
            })?;
        }
        Ok(())
    }

    /// The handler of [`REINDEX_JOB`].
    pub(super) async fn reindex(&self, payload: &Value) -> Outcome {
        let Ok(mut state) = serde_json::from_value::<Reindex>(payload.clone()) else {
            return Outcome::dead("the job does not say what to index");
        };
        match self.reindex_some(&mut state).await {
            Ok(()) => Outcome::Done(json!(state)),
            Err(error) => Outcome::retry(format!("{error:#}")),
        }
    }

    async fn reindex_some(&self, state: &mut Reindex) -> anyhow::Result<()> {
        self.load_parameters(false).await?;
        if state.types == ["*"] {
            state.types = definitions::r4().resource_types().iter().map(|name| (*name).to_owned()).collect();
        }
        for unit in 1..=UNITS {
            let Some(type_name) = state.types.first().cloned() else { break };
            let stored = match definitions::r4().type_code(&type_name) {
                Some(type_code) => self.store.live_after(type_code, state.after, BATCH).await?,
                None => Vec::new(),
            };
            let (last, (readable, unread)) = (stored.last().map(|last| (last.key, stored.len() as u64)), self.read_all(stored));
            let mut next = Reindex { unread: state.unread.saturating_add(unread), ..state.clone() };
            match last {
                Some((key, count)) => (next.after, next.done) = (key, state.done.saturating_add(count)),
                None => {
                    next.types.remove(0);
                    next.after = 0;
                }
            }
            // The successor is written with the last unit, so the work is handed over or not done.
            let hand_over = unit == UNITS && !next.types.is_empty();
            self.reindex_unit(state, readable, hand_over.then(|| next.job(0))).await?;
            *state = next;
        }
        if let (true, Some(number)) = (state.types.is_empty(), state.parameter) {
            self.store.parameter_ready(number).await?;
            own::refresh(&self.store, &self.writer.options().own).await?;
        }
        Ok(())
    }

    async fn reindex_unit(&self, state: &Reindex, mut stored: Vec<(Stored, Value)>, job: Option<NewJob>) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            let mutations: Vec<Mutation> = stored.iter().filter_map(|(stored, resource)| self.reindexed(stored, resource, state)).collect();
            if mutations.is_empty() && job.is_none() {
                return Ok(());
            }
            let unit = Unit { mutations, jobs: job.clone().into_iter().collect(), ..Unit::default() };
            match self.store.commit(unit).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Stale) => {
                    let names: Vec<(TypeCode, String)> =
                        stored.iter().map(|(stored, _)| (stored.type_code, stored.id.to_string())).collect();
                    (stored, _) = self.read_all(self.store.read_many(&names).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("the resources change faster than they can be indexed")
    }

    /// What is not deleted, read; and how many cannot be read, which the log names.
    fn read_all(&self, stored: Vec<Stored>) -> (Vec<(Stored, Value)>, u64) {
        let (mut readable, mut unread) = (Vec::with_capacity(stored.len()), 0);
        for stored in stored {
            match stored.body.as_ref().map(|body| parse_deep(body)) {
                Some(Ok(resource)) => readable.push((stored, resource)),
                Some(Err(error)) => {
                    unread += 1;
                    let type_name = definitions::r4().type_name(stored.type_code);
                    tracing::error!(r#type = type_name, id = %stored.id, %error, "a stored resource cannot be read, so it is not indexed: write it again");
                }
                None => {}
            }
        }
        (readable, unread)
    }

    /// `None` where nothing is to be indexed.
    fn reindexed(&self, stored: &Stored, resource: &Value, state: &Reindex) -> Option<Mutation> {
        let options = self.writer.options();
        let wanted = |entry: &IndexEntry| match state.parameter {
            Some(number) => extract::is_of(entry, definitions::param_id(stored.type_code, number)),
            None => true,
        };
        let mut entries = extract::extract(stored.type_code, resource, options);
        entries.retain(wanted);
        let mut old_entries = entries.clone();
        if let Some(zone) = state.from_zone.as_deref().and_then(|zone| jiff::tz::TimeZone::get(zone).ok()) {
            let before = extract::Options { zone, ..extract::Options::clone(options) };
            old_entries.extend(extract::extract(stored.type_code, resource, &before).into_iter().filter(wanted));
        }
        if old_entries.is_empty() {
            return None;
        }
        Some(Mutation {
            type_code: stored.type_code,
            id: stored.id.clone(),
            base_version: stored.version,
            change: Change::Reindex { entries, old_entries },
            owner: stored.owner,
            listed: true,
            about: About::Nobody,
            traits: Traits::default(),
            rules: None,
        })
    }
}
