//! The one path by which any resource is written: REST, Bundles, templates, the registry, measures.
//!
//! A [`Draft`] is a resource that is ready whatever version it becomes. A [`Plan`]
//! names the changes of one transaction. [`Writer::commit`] reads what is there, checks conditions and ownership, numbers
//! the versions and hands the store one [`Unit`]. When others were quicker it says [`CommitError::Stale`], and the caller
//! makes its plan again (what a plan rests on may have changed too), pausing by [`Tries`].
//!
//! What it decides, everywhere alike: a put that changes nothing makes no new version; a resource stays with the facility
//! that first contributed it; another facility cannot change it, and is told that the id is taken, never by whom ([`step`]).

mod audit_events;
mod parameter;
mod step;

use super::consent::{Beside, CONSENT_JOB, Narrowed};
use super::draft::{Draft, Making, stamped};
use super::etag::Versions;
use super::refusal::Refusal;
use super::relabel;
use super::resting::Known;
use super::tries::{Lane, Tries};
use super::workers::Workers;
use crate::access::consent::Sensitive;
use crate::access::{CONSENT_DESK, Caller, audit};
use crate::definitions;
use crate::fhir::json;
use crate::fhir::time::{Micros, now};
use crate::registry::{Registry, Told};
use crate::search::{ParseOptions, extract, own};
use crate::store::gate::About;
use crate::store::index::is_contained;
use crate::store::visits::Visit;
use crate::store::write::{Change, NewJob};
use crate::store::{
    FacilityKey, IndexEntry, IndexValue, Mutation, Precondition, Scope, Store, Stored, Subject, TypeCode, Unit, WriteError,
};
use crate::terminology::Terminology;
use crate::validate::{Profiles, Validator};
use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::Mutex;

/// How long the job waits that does the linking again if the process ends before it is done, in microseconds.
const LINK_LATER: Micros = 10_000_000;

/// What defines an own search parameter.
const PARAMETER: &str = "SearchParameter";

/// What a change demands of the version that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The id was made for this change: nothing is there.
    New,
    /// The same, by POST.
    Posted,
    /// `If-None-Match: *`: nothing that is not deleted is there.
    Absent,
    /// `If-Match`: one of these versions is the current one.
    Version(Versions),
    /// The same, where criteria matched nothing and the resource says its id.
    Free,
    /// The change was made from this version; when another is there it must be made again.
    Seen(i64),
    /// The same, by PATCH.
    Patched(i64),
    /// Something is there or was: an update may not create.
    Known,
    /// What is there, if anything, is about the same patient: its id was made from a sender's own keys, which another client may have too.
    SamePatient,
}

impl Condition {
    /// What `If-Match` and `If-None-Match` of a change, or a Bundle entry's `ifMatch` and `ifNoneMatch`, demand; else the words that say what is
    /// wrong with them. What is not understood is refused: a condition that is passed over is a change that should not have been made.
    pub fn asked(matching: Option<&str>, not_matching: Option<&str>) -> Result<Condition, &'static str> {
        match (matching, not_matching) {
            (Some(_), Some(_)) => Err("A change takes If-Match or If-None-Match, not both."),
            // One that says nothing is not one that was not sent.
            (Some(tags), None) => {
                let versions = Versions::parse(tags);
                versions.map(Condition::Version).ok_or("If-Match must be a version such as W/\"3\", a few of these, or *.")
            }
            (None, Some("*")) => Ok(Condition::Absent),
            (None, Some(_)) => {
                Err("If-None-Match of a change must be *: nothing may be there. To change a certain version, send If-Match.")
            }
            (None, None) => Ok(Condition::Any),
        }
    }

    /// Whether `If-Match` admits the version that is there, if any is.
    pub fn admits(self, live: Option<i64>) -> bool {
        match self {
            Condition::Version(versions) => live.is_some_and(|version| versions.admit(version)),
            _ => true,
        }
    }
}

/// One wanted change of one resource.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub action: Action,
    pub condition: Condition,
}

// Nearly all are puts: a box would be an allocation for each, and save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Action {
    Put(Draft),
    Delete { type_code: TypeCode, id: Box<str> },
}

impl Wanted {
    fn target(&self) -> (TypeCode, &str) {
        match &self.action {
            Action::Put(draft) => (draft.type_code, &draft.id),
            Action::Delete { type_code, id } => (*type_code, id),
        }
    }
}

/// The changes of one transaction, and what they rest on.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub changes: Vec<Wanted>,
    pub preconditions: Vec<Precondition>,
    /// See [`Unit::unchanged`].
    pub unchanged: Vec<(TypeCode, Box<str>, i64)>,
    pub jobs: Vec<NewJob>,
    /// What templates remember of visits.
    pub visits: Vec<Visit>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// First version, or the first after a delete.
    Created,
    Updated,
    /// The same content was there already.
    Unchanged,
    Deleted,
    /// Nothing was there to delete.
    Absent,
}

/// The outcome of one [`Wanted`], in the order of the plan.
#[derive(Clone, Debug)]
pub struct Done {
    pub type_code: TypeCode,
    pub id: Box<str>,
    pub effect: Effect,
    /// 0 when there never was one.
    pub version: i64,
    pub updated: Micros,
    /// The resource as stored, when asked for and not deleted.
    pub body: Option<Bytes>,
}

/// Why [`Writer::commit`] did not.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Others were quicker: make the plan again.
    #[error("the plan is out of date")]
    Stale,
    /// The change at this place of the plan cannot be made (`None`: the whole plan).
    #[error("refused")]
    Refused(Option<usize>, Refusal),
}

/// Whether resources of this type say how everybody's are understood.
fn holds_for_all(type_code: TypeCode) -> bool {
    let type_name = definitions::r4().type_name(type_code);
    Terminology::holds(type_name) || Profiles::holds(type_name)
}

/// On whose behalf a plan is carried out.
#[derive(Clone, Debug)]
pub struct Author {
    /// What may be changed is what this facility contributed, unless the scope is [`Scope::All`].
    pub scope: Scope,
    /// The facility that owns what is created.
    pub owner: FacilityKey,
    /// Whose scopes are held against each resource, before and after the change; `None`: lango's own work.
    pub caller: Option<Box<Caller>>,
}

impl From<&Caller> for Author {
    fn from(caller: &Caller) -> Author {
        let judged = (!caller.is_unrestricted()).then(|| Box::new(caller.clone()));
        Author { scope: caller.scope.clone(), owner: caller.owner, caller: judged }
    }
}

/// Writes resources. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    /// How index entries are read from resources: the deployment's time zone and base URL.
    options: Arc<extract::Options>,
    /// Links Patients that are written with a strong identifier.
    registry: Registry,
    terminology: Terminology,
    /// What is labelled on arrival, as of that many changes of the terminology.
    sensitive: Arc<ArcSwap<(Option<u64>, Arc<Sensitive>)>>,
    validator: Validator,
    /// Held while terminology is read back, so that the last version written is the last one loaded.
    refreshing: Arc<Mutex<()>>,
    lane: Lane,
    /// What of the terminology in the database is in memory.
    pub(super) known: Arc<Mutex<Known>>,
    workers: Workers,
    policy: Policy,
    facility_system: Arc<str>,
    practitioner_system: Arc<str>,
}

/// What the operator lets clients do (`lango.toml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A PUT to an id that was never used creates the resource.
    pub update_create: bool,
    /// Resources that one conditional delete may delete; 1: those that match several are refused.
    pub delete_most: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { update_create: true, delete_most: 1 }
    }
}

impl Writer {
    /// `terminology` and the profiles of `validator` are kept up to date with what is written, and so are the links of `registry`.
    pub fn new(store: Store, options: extract::Options, registry: Registry, terminology: Terminology, validator: Validator) -> Writer {
        Writer {
            store,
            options: Arc::new(options),
            registry,
            terminology,
            sensitive: Arc::default(),
            validator,
            refreshing: Arc::default(),
            lane: Lane::default(),
            known: Arc::default(),
            workers: Workers::default(),
            policy: Policy::default(),
            facility_system: "urn:lango:facility".into(),
            practitioner_system: "urn:lango:practitioner".into(),
        }
    }

    /// The same, under the operator's policy.
    pub fn with_policy(self, policy: Policy) -> Writer {
        Writer { policy, ..self }
    }

    /// Where tries wait for their turn.
    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Holds resources against R4 and the loaded profiles.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// The same, where facilities and practitioners are known by identifiers of these systems.
    pub fn with_systems(self, facility: &str, practitioner: &str) -> Writer {
        Writer { facility_system: facility.into(), practitioner_system: practitioner.into(), ..self }
    }

    /// The identifier systems of facilities and practitioners.
    pub(super) fn systems(&self) -> (&str, &str) {
        (&self.facility_system, &self.practitioner_system)
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn terminology(&self) -> &Terminology {
        &self.terminology
    }

    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    pub fn options(&self) -> &Arc<extract::Options> {
        &self.options
    }

    /// How criteria are read: by the same zone and URL.
    pub fn criteria_options(&self) -> ParseOptions {
        ParseOptions {
            terminology: self.terminology.clone(),
            own: self.options.own.load(),
            full_text: self.options.full_text,
            ..ParseOptions::new(self.options.base.as_str(), self.options.zone.clone())
        }
    }

    /// What drafts are made with, as things stand.
    pub fn making(&self) -> Making {
        let changes = self.terminology.changes();
        let known = self.sensitive.load();
        if known.0 == Some(changes) {
            return Making { options: Arc::clone(&self.options), sensitive: Arc::clone(&known.1) };
        }
        let sensitive = Arc::new(relabel::sensitive(&self.terminology));
        if known.0.is_some() && !sensitive.unreadable.is_empty() {
            tracing::warn!(value_sets = ?sensitive.unreadable, "a value set of sensitive codes cannot be listed: nothing is labelled by it");
        }
        self.sensitive.store(Arc::new((Some(changes), Arc::clone(&sensitive))));
        Making { options: Arc::clone(&self.options), sensitive }
    }

    /// A draft of `resource` under `id`.
    pub fn draft(&self, type_code: TypeCode, id: &str, resource: Value) -> Draft {
        Draft::new(type_code, id, resource, &self.making())
    }

    /// A draft of a resource that carries this id already.
    pub fn draft_of(&self, type_code: TypeCode, id: &str, resource: &Value) -> Draft {
        // What is merged with what is stored still has that version's number.
        let stamped = resource.get("meta").is_some_and(|meta| meta.get("versionId").is_some() || meta.get("lastUpdated").is_some());
        if stamped { self.draft(type_code, id, resource.clone()) } else { Draft::of(type_code, id, resource, &self.making()) }
    }

    /// What [`Writer::commit`] would do. Nothing is written.
    pub async fn rehearse(&self, plan: Plan, author: &Author) -> Result<Vec<Done>, CommitError> {
        Ok(self.prepare(plan.changes, author, false).await?.done)
    }

    /// Carries out `plan`; answers when it is durable. `keep_bodies`: the answers carry the resources.
    pub async fn commit(&self, mut plan: Plan, author: &Author, keep_bodies: bool) -> Result<Vec<Done>, CommitError> {
        let names = |came: fn(&Condition) -> bool| -> HashSet<(TypeCode, Box<str>)> {
            let wanted = plan.changes.iter().filter(|wanted| came(&wanted.condition));
            wanted.map(Wanted::target).map(|(type_code, id)| (type_code, id.into())).collect()
        };
        let (posted, patched) = (names(|came| *came == Condition::Posted), names(|came| matches!(came, Condition::Patched(_))));
        let Prepared { mut done, mutations, stamps, rests_on: of_codes } =
            self.prepare(std::mem::take(&mut plan.changes), author, keep_bodies).await?;
        if mutations.is_empty() && plan.jobs.is_empty() && plan.visits.is_empty() {
            return Ok(done);
        }
        let (places, mutations): (Vec<usize>, Vec<Mutation>) = mutations.into_iter().unzip();
        let mut jobs = std::mem::take(&mut plan.jobs);
        let to_link: Vec<String> = mutations.iter().filter(|m| self.is_to_be_linked(m)).map(|m| m.id.to_string()).collect();
        // What is only read again says nothing new.
        let changed = || mutations.iter().filter(|mutation| !matches!(mutation.change, Change::Reindex { .. }));
        for consent in changed().filter(|m| m.owner == CONSENT_DESK && definitions::r4().type_name(m.type_code) == "Consent") {
            let payload = serde_json::json!({ "version": 1, "consent": &*consent.id });
            jobs.push(NewJob { kind: CONSENT_JOB.to_owned(), payload, dedup_key: None, run_at: 0 });
        }
        if !to_link.is_empty() {
            jobs.push(Registry::link_job(&to_link, now() + LINK_LATER));
        }
        let trail = audit::current();
        let audit = match &trail {
            Some(trail) => trail.changes(&changes_of(&mutations)).map_err(|error| CommitError::Refused(None, Refusal::internal(error)))?,
            None => Vec::new(),
        };
        let names: Vec<(TypeCode, Box<str>)> = changed().map(|mutation| (mutation.type_code, mutation.id.clone())).collect();
        let (terminology, relabelling) = self.resting(&mutations).await.map_err(|error| CommitError::Refused(None, error.into()))?;
        jobs.extend(relabelling);
        let Narrowed { narrowing, unchanged: rests_on } =
            self.narrowed(&mutations).await.map_err(|error| CommitError::Refused(None, error.into()))?;
        let Plan { mut preconditions, mut unchanged, visits, .. } = plan;
        preconditions.extend(of_codes);
        unchanged.extend(rests_on);
        let unit =
            Unit { mutations, preconditions, unchanged, jobs, visits, audit, terminology, posted, patched, narrowing, ..Unit::default() };
        let written = self.store.commit(unit).await.map_err(|error| match error {
            WriteError::Stale => CommitError::Stale,
            error => CommitError::Refused(None, error.into()),
        })?;
        if let Some(trail) = trail {
            trail.wrote(names);
        }
        if let Err(error) = self.registry.link(&to_link).await {
            tracing::warn!(%error, "linking is left to its job");
        }
        // What was written stays written; the periodic refresh makes up for a failure here.
        if done.iter().any(|done| definitions::r4().type_name(done.type_code) == PARAMETER)
            && let Err(error) = own::refresh(&self.store, &self.options.own).await
        {
            tracing::warn!(%error, "the search parameters in memory are behind");
        }
        if let Err(error) = self.refresh_definitions(places.iter().filter_map(|place| done.get(*place))).await {
            tracing::warn!(%error, "the terminology or profiles in memory are behind");
        }
        for (place, written) in places.into_iter().zip(written) {
            if let Some(result) = done.get_mut(place).filter(|result| result.effect != Effect::Unchanged) {
                (result.version, result.updated) = (written.version, written.updated);
            }
        }
        for (place, stamp_at) in stamps {
            if let Some(result) = done.get_mut(place) {
                result.body = result.body.take().map(|body| stamped(&body, stamp_at, result.updated));
            }
        }
        Ok(done)
    }

    /// Holds wanted changes against what is there.
    async fn prepare(&self, changes: Vec<Wanted>, author: &Author, keep_bodies: bool) -> Result<Prepared, CommitError> {
        let current = self.current(&changes).await.map_err(|error| CommitError::Refused(None, error.into()))?;
        let mut codes = self.codes_of(&changes).await.map_err(|refusal| CommitError::Refused(None, refusal))?;
        let rests_on = std::mem::take(&mut codes.rests_on);
        let mut prepared = Prepared { done: Vec::with_capacity(changes.len()), mutations: Vec::new(), stamps: Vec::new(), rests_on };
        let beside = Beside { patients: told_with_consents(&changes), organisations: self.organisations_of(&changes, author) };
        for (place, wanted) in changes.into_iter().enumerate() {
            let (type_code, id) = wanted.target();
            let stored = current.get(&(type_code, Box::from(id)));
            if let Condition::Seen(version) | Condition::Patched(version) = wanted.condition
                && stored.is_none_or(|stored| stored.version != version)
            {
                return Err(CommitError::Stale);
            }
            let step = self.step(wanted, stored, author, &beside).await.map_err(|refusal| CommitError::Refused(Some(place), refusal))?;
            let mut result = step.done;
            if let Some(mutation) = step.mutation {
                codes.check(place).map_err(|refusal| CommitError::Refused(Some(place), refusal))?;
                if let (true, Change::Put { body, stamp_at, .. }) = (keep_bodies, &mutation.change) {
                    result.body = Some(Bytes::copy_from_slice(body));
                    prepared.stamps.push((place, *stamp_at));
                }
                prepared.mutations.push((place, mutation));
            }
            prepared.done.push(result);
        }
        Ok(prepared)
    }

    /// Stores drafts as they are, trying again while others are quicker: for callers whose plan rests on nothing else.
    pub async fn put_all(&self, drafts: Vec<Draft>, author: &Author) -> Result<Vec<Done>, Refusal> {
        let plan = Plan {
            changes: drafts.into_iter().map(|draft| Wanted { action: Action::Put(draft), condition: Condition::Any }).collect(),
            ..Plan::default()
        };
        let mut tries = Tries::default();
        loop {
            match self.commit(plan.clone(), author, false).await {
                Ok(done) => return Ok(done),
                Err(CommitError::Stale) => tries.pause().await?,
                Err(CommitError::Refused(_, refusal)) => return Err(refusal),
            }
        }
    }

    /// Loads what was written into the terminology and profiles in memory.
    async fn refresh_definitions(&self, done: impl Iterator<Item = &Done>) -> Result<(), sqlx::Error> {
        let changed: Vec<(TypeCode, String)> =
            done.filter(|done| holds_for_all(done.type_code)).map(|done| (done.type_code, done.id.to_string())).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.refreshing.lock().await;
        for stored in self.store.read_many(&changed).await? {
            let type_name = definitions::r4().type_name(stored.type_code);
            let resource = stored.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
            match (resource, Profiles::holds(type_name)) {
                (Some(resource), true) => self.validator.profiles().load([&resource]),
                (Some(resource), false) => self.terminology.upsert(&resource),
                (None, true) => self.validator.profiles().remove(&stored.id),
                (None, false) => self.terminology.remove(type_name, &stored.id),
            }
        }
        Ok(())
    }

    /// Whether this is a Patient that has a strong identifier, or had one.
    fn is_to_be_linked(&self, mutation: &Mutation) -> bool {
        let strong = |entry: &IndexEntry| {
            let named = matches!(&entry.value, IndexValue::Token { system: Some(system), .. } if self.registry.is_strong(system));
            named && !is_contained(entry.param)
        };
        let (now, before) = match &mutation.change {
            Change::Put { entries, old_entries, .. } => (entries.as_slice(), old_entries),
            Change::Delete { old_entries, .. } => (&[][..], old_entries),
            Change::Reindex { .. } | Change::Purge { .. } => return false,
        };
        definitions::r4().type_name(mutation.type_code) == "Patient" && now.iter().chain(before).any(strong)
    }

    /// The current versions of what the plan changes; what is new is not looked for.
    async fn current(&self, changes: &[Wanted]) -> Result<HashMap<(TypeCode, Box<str>), Stored>, sqlx::Error> {
        let targets: Vec<(TypeCode, String)> = changes
            .iter()
            .filter(|wanted| !matches!(wanted.condition, Condition::New | Condition::Posted))
            .map(|wanted| {
                let (type_code, id) = wanted.target();
                (type_code, id.to_owned())
            })
            .collect();
        if targets.is_empty() {
            return Ok(HashMap::new());
        }
        let stored = self.store.read_many(&targets).await?;
        Ok(stored.into_iter().map(|stored| ((stored.type_code, stored.id.clone()), stored)).collect())
    }

    fn entries_of(&self, type_code: TypeCode, body: &[u8]) -> Result<Vec<IndexEntry>, Refusal> {
        let resource = json::parse_deep(body).map_err(Refusal::internal)?;
        Ok(extract::extract(type_code, &resource, &self.options))
    }

    /// Whose record a stored resource is part of.
    pub fn about_stored(&self, type_code: TypeCode, body: &[u8]) -> Result<About, Refusal> {
        self.about(type_code, body, &self.entries_of(type_code, body)?)
    }

    fn about(&self, type_code: TypeCode, body: &[u8], entries: &[IndexEntry]) -> Result<About, Refusal> {
        let resource = json::parse_deep(body).map_err(Refusal::internal)?;
        Ok(extract::about(type_code, &resource, entries, &self.options))
    }
}

/// What a plan that writes Consents says of Patients: they are read by what is so when all is done.
fn told_with_consents(changes: &[Wanted]) -> Told {
    if !changes.iter().any(|wanted| matches!(&wanted.action, Action::Put(draft) if draft.consent.is_some())) {
        return Told::new();
    }
    let said = |wanted: &Wanted| match &wanted.action {
        Action::Put(draft) => serde_json::from_slice(&draft.body(1).0).ok(),
        Action::Delete { .. } => None,
    };
    let patients = changes.iter().filter(|wanted| definitions::r4().type_name(wanted.target().0) == "Patient");
    patients.map(|wanted| (wanted.target().1.into(), said(wanted))).collect()
}

/// Changes held against what is there.
struct Prepared {
    done: Vec<Done>,
    /// With their places among the changes.
    mutations: Vec<(usize, Mutation)>,
    /// Places of bodies that are kept, and where in them `meta.lastUpdated` stands.
    stamps: Vec<(usize, usize)>,
    rests_on: Vec<Precondition>,
}

/// What the audit records of these.
fn changes_of(mutations: &[Mutation]) -> Vec<audit::Change<'_>> {
    let change = |mutation| {
        let Mutation { type_code, id, base_version, change, about, rules, .. }: &Mutation = mutation;
        let action = match change {
            // What is found by other values says what it said.
            Change::Reindex { .. } | Change::Purge { .. } => return None,
            Change::Delete { .. } => audit::Action::Delete,
            Change::Put { .. } if *base_version == 0 => audit::Action::Create,
            Change::Put { .. } => audit::Action::Update,
        };
        // A Consent is about whom it covers.
        let covered = rules.as_ref().and_then(|rules| rules.patients.first()).map(|id| Subject::Id(id.clone()));
        let subject = covered.unwrap_or_else(|| about.into());
        Some(audit::Change { action, type_code: *type_code, id, version: base_version + 1, subject })
    };
    mutations.iter().filter_map(change).collect()
}
