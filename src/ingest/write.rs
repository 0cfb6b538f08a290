//! The one path by which any resource is written: REST, Bundles, templates, the registry, measures.
//!
//! A [`Draft`] is a resource that is ready whatever version it becomes: serialised, its index entries extracted. A [`Plan`]
//! names the changes of one transaction. [`Writer::commit`] reads what is there, checks conditions and ownership, numbers
//! the versions and hands the store one [`Unit`]. When others were quicker it says [`CommitError::Stale`], and the caller
//! makes its plan again (what a plan rests on may have changed too), pausing by [`Tries`].
//!
//! What it decides, everywhere alike: a put that changes nothing makes no new version; a resource stays with the facility
//! that first contributed it; another facility cannot change it, and is told that the id is taken, never by whom.

use super::refusal::{Refusal, RefusalKind};
use super::workers::Workers;
use crate::access::Caller;
use crate::definitions;
use crate::fhir::time::{Micros, format_instant, now};
use crate::fhir::{Issue, IssueCode};
use crate::registry::Registry;
use crate::search::{ParseOptions, extract};
use crate::store::write::{Change, NewJob};
use crate::store::{FacilityKey, IndexEntry, IndexValue, Mutation, Precondition, Scope, Store, Stored, TypeCode, Unit, WriteError};
use crate::terminology::Terminology;
use crate::validate::{Profiles, Validator};
use bytes::Bytes;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long the job waits that does the linking again if the process ends before it is done, in microseconds.
const LINK_LATER: Micros = 10_000_000;
/// Stands where the store will write `meta.lastUpdated`.
const STAMP: &[u8; 27] = b"0001-01-01T00:00:00.000000Z";

/// The operator's own organisation.
const OPERATOR: FacilityKey = 0;

/// A resource that is ready to be stored as whatever version it becomes.
#[derive(Clone, Debug)]
pub struct Draft {
    pub type_code: TypeCode,
    pub type_name: &'static str,
    pub id: Box<str>,
    /// The patient whose compartment it is in.
    pub patient: Option<Box<str>>,
    pub entries: Vec<IndexEntry>,
    /// The serialised resource from the quote that ends `meta.lastUpdated` on.
    tail: Vec<u8>,
}

impl Draft {
    /// Makes a draft of `resource`, which is stored under `id` whatever id it carries. `meta.versionId` and `meta.lastUpdated`
    /// are the server's and are dropped; the rest of `meta` stays.
    pub fn new(type_code: TypeCode, id: &str, mut resource: Value, options: &extract::Options) -> Draft {
        let type_name = definitions::r4().type_name(type_code);
        let mut meta = None;
        if let Some(members) = resource.as_object_mut() {
            members.insert("id".to_owned(), Value::from(id));
            if let Some(Value::Object(fields)) = members.get_mut("meta") {
                fields.retain(|key, _| !matches!(key.trim_start_matches('_'), "versionId" | "lastUpdated"));
            }
        }
        let entries = extract::extract(type_code, &resource, options);
        let patient = extract::patient_of(type_code, &resource).map(Into::into);
        if let Some(members) = resource.as_object_mut() {
            meta = members.get_mut("meta").map(Value::take);
        }
        Draft { type_code, type_name, id: id.into(), patient, entries, tail: tail(meta.as_ref(), &resource) }
    }

    /// The bytes of version `version`, and where its `meta.lastUpdated` stands.
    fn body(&self, version: i64) -> (Vec<u8>, usize) {
        let mut body = head(self.type_name, &self.id, version);
        body.reserve_exact(STAMP.len() + self.tail.len());
        let stamp_at = body.len();
        body.extend_from_slice(STAMP);
        body.extend_from_slice(&self.tail);
        (body, stamp_at)
    }

    /// Whether `stored` says the same, version and time apart.
    fn says_what(&self, stored: &Stored) -> bool {
        let head = head(self.type_name, &self.id, stored.version);
        let rest = stored.body.as_ref().and_then(|body| body.strip_prefix(head.as_slice())).and_then(|rest| rest.get(STAMP.len()..));
        rest == Some(self.tail.as_slice())
    }
}

fn head(type_name: &str, id: &str, version: i64) -> Vec<u8> {
    format!(r#"{{"resourceType":"{type_name}","id":"{id}","meta":{{"versionId":"{version}","lastUpdated":""#).into_bytes()
}

fn tail(meta: Option<&Value>, resource: &Value) -> Vec<u8> {
    let mut tail = vec![b'"'];
    for (key, value) in meta.and_then(Value::as_object).into_iter().flatten() {
        push_member(&mut tail, key, value);
    }
    tail.push(b'}');
    for (key, value) in resource.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "resourceType" | "id" | "meta") {
            push_member(&mut tail, key, value);
        }
    }
    tail.push(b'}');
    tail
}

fn push_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.push(b',');
    // Writing a string or a Value into memory has no way to fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// What a change demands of the version that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The id was made for this change: nothing is there.
    New,
    /// `If-None-Match: *`: nothing that is not deleted is there.
    Absent,
    /// `If-Match`: this version is the current one.
    Version(i64),
}

/// One wanted change of one resource.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub action: Action,
    pub condition: Condition,
}

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
    pub jobs: Vec<NewJob>,
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
}

impl From<&Caller> for Author {
    fn from(caller: &Caller) -> Author {
        Author { scope: caller.scope.clone(), owner: caller.owner }
    }
}

/// Paces the tries of a plan that keeps being out of date.
#[derive(Debug, Default)]
pub struct Tries(u32);

impl Tries {
    const MOST: u32 = 16;

    /// Waits a little, longer and at random each time; after sixteen tries it gives up.
    pub async fn pause(&mut self) -> Result<(), Refusal> {
        self.0 += 1;
        if self.0 >= Tries::MOST {
            return Err(WriteError::Stale.into());
        }
        let most = 1u64 << self.0.min(7);
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..=most * 1000))).await;
        Ok(())
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
    validator: Validator,
    /// Held while terminology is read back, so that the last version written is the last one loaded.
    refreshing: Arc<Mutex<()>>,
    workers: Workers,
}

impl Writer {
    /// `terminology` and the profiles of `validator` are kept up to date with what is written, and so are the links of `registry`.
    pub fn new(store: Store, options: extract::Options, registry: Registry, terminology: Terminology, validator: Validator) -> Writer {
        let options = Arc::new(options);
        Writer { store, options, registry, terminology, validator, refreshing: Arc::default(), workers: Workers::default() }
    }

    /// Holds resources against R4 and the loaded profiles.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    pub fn options(&self) -> &Arc<extract::Options> {
        &self.options
    }

    /// How criteria are read: by the same zone and URL.
    pub fn criteria_options(&self) -> ParseOptions {
        ParseOptions::new(self.options.base.as_str(), self.options.zone.clone())
    }

    /// A draft of `resource` under `id`.
    pub fn draft(&self, type_code: TypeCode, id: &str, resource: Value) -> Draft {
        Draft::new(type_code, id, resource, &self.options)
    }

    /// Carries out `plan`; answers when it is durable. `keep_bodies`: the answers carry the resources.
    pub async fn commit(&self, plan: Plan, author: &Author, keep_bodies: bool) -> Result<Vec<Done>, CommitError> {
        let current = self.current(&plan).await.map_err(|error| CommitError::Refused(None, error.into()))?;
        let mut done: Vec<Done> = Vec::with_capacity(plan.changes.len());
        let mut mutations = Vec::new();
        let mut stamps: Vec<(usize, usize)> = Vec::new();
        for (place, wanted) in plan.changes.into_iter().enumerate() {
            let (type_code, id) = wanted.target();
            let stored = current.get(&(type_code, Box::from(id)));
            let step = self.step(wanted, stored, author).await.map_err(|refusal| CommitError::Refused(Some(place), refusal))?;
            let mut result = step.done;
            if let Some(mutation) = step.mutation {
                if let (true, Change::Put { body, stamp_at, .. }) = (keep_bodies, &mutation.change) {
                    result.body = Some(Bytes::copy_from_slice(body));
                    stamps.push((place, *stamp_at));
                }
                mutations.push((place, mutation));
            }
            done.push(result);
        }
        if mutations.is_empty() && plan.jobs.is_empty() {
            return Ok(done);
        }
        let (places, mutations): (Vec<usize>, Vec<Mutation>) = mutations.into_iter().unzip();
        let mut jobs = plan.jobs;
        let to_link: Vec<String> = mutations.iter().filter(|m| self.is_to_be_linked(m)).map(|m| m.id.to_string()).collect();
        if !to_link.is_empty() {
            jobs.push(Registry::link_job(&to_link, now() + LINK_LATER));
        }
        let unit = Unit { mutations, preconditions: plan.preconditions, jobs };
        let written = self.store.commit(unit).await.map_err(|error| match error {
            WriteError::Stale => CommitError::Stale,
            error => CommitError::Refused(None, error.into()),
        })?;
        if let Err(error) = self.registry.link(&to_link).await {
            tracing::warn!(%error, "linking is left to its job");
        }
        // What was written stays written; the periodic refresh makes up for a failure here.
        if let Err(error) = self.refresh_definitions(places.iter().filter_map(|place| done.get(*place))).await {
            tracing::warn!(%error, "the terminology or profiles in memory are behind");
        }
        for (place, written) in places.into_iter().zip(written) {
            if let Some(result) = done.get_mut(place) {
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
        let strong =
            |entry: &IndexEntry| matches!(&entry.value, IndexValue::Token { system: Some(system), .. } if self.registry.is_strong(system));
        let (now, before) = match &mutation.change {
            Change::Put { entries, old_entries, .. } => (entries.as_slice(), old_entries),
            Change::Delete { old_entries, .. } => (&[][..], old_entries),
        };
        definitions::r4().type_name(mutation.type_code) == "Patient" && now.iter().chain(before).any(strong)
    }

    /// The current versions of what the plan changes; what is new is not looked for.
    async fn current(&self, plan: &Plan) -> Result<HashMap<(TypeCode, Box<str>), Stored>, sqlx::Error> {
        let targets: Vec<(TypeCode, String)> = plan
            .changes
            .iter()
            .filter(|wanted| wanted.condition != Condition::New)
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

    async fn step(&self, wanted: Wanted, stored: Option<&Stored>, author: &Author) -> Result<Step, Refusal> {
        let live = stored.filter(|stored| stored.body.is_some());
        // Codes mean the same for everybody: one facility must not change how another's are translated or what they must meet.
        let for_all = holds_for_all(wanted.target().0);
        if for_all && !may_change(author, OPERATOR) {
            let words =
                "ConceptMap, CodeSystem, ValueSet and StructureDefinition hold for all facilities: only the operator can change them.";
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)));
        }
        if let Some(foreign) = stored.filter(|stored| !may_change(author, stored.owner)) {
            return self.step_on_foreign(&wanted.action, foreign, author).await;
        }
        match (wanted.condition, live) {
            (Condition::Version(version), Some(live)) if live.version == version => {}
            (Condition::Version(_), _) => {
                return Err(Refusal::failed_precondition(
                    "The resource is not at the version that If-Match names: read it again and repeat the change on that.",
                ));
            }
            (Condition::Absent, Some(_)) => {
                return Err(Refusal::failed_precondition("If-None-Match: * demands that the resource does not exist, and it does."));
            }
            _ => {}
        }
        let base_version = stored.map_or(0, |stored| stored.version);
        let (type_code, id) = wanted.target();
        let done = |effect| Done {
            type_code,
            id: id.into(),
            effect,
            version: base_version,
            updated: stored.map_or(0, |stored| stored.updated),
            body: None,
        };
        match (&wanted.action, live) {
            (Action::Delete { .. }, None) => return Ok(Step { done: done(Effect::Absent), mutation: None }),
            (Action::Put(draft), Some(live)) if draft.says_what(live) => {
                return Ok(Step { done: Done { body: live.body.clone(), ..done(Effect::Unchanged) }, mutation: None });
            }
            _ => {}
        }
        let done = done(match (&wanted.action, live) {
            (Action::Delete { .. }, _) => Effect::Deleted,
            (Action::Put(_), Some(_)) => Effect::Updated,
            (Action::Put(_), None) => Effect::Created,
        });
        let old_entries =
            live.and_then(|live| live.body.as_ref()).map(|body| self.entries_of(type_code, body)).transpose()?.unwrap_or_default();
        let owner = if for_all { OPERATOR } else { stored.map_or(author.owner, |stored| stored.owner) };
        let id = Box::from(id);
        let (patient, change) = match wanted.action {
            Action::Put(draft) => {
                let (body, stamp_at) = draft.body(base_version + 1);
                (draft.patient, Change::Put { body, stamp_at, entries: draft.entries, old_entries })
            }
            Action::Delete { .. } => {
                let patient = live.and_then(|live| live.body.as_ref()).and_then(|body| self.patient_of(type_code, body));
                (patient, Change::Delete { old_entries })
            }
        };
        let mutation = Mutation { type_code, id, base_version, change, owner, listed: true, patient };
        Ok(Step { done, mutation: Some(mutation) })
    }

    /// What another facility contributed stays as it is. Its id cannot look free (the put would have to succeed), so the
    /// refusal says that the id is taken and nothing else; a delete of what the caller cannot see does nothing, as if it were not there.
    async fn step_on_foreign(&self, action: &Action, stored: &Stored, author: &Author) -> Result<Step, Refusal> {
        let visible = stored.body.is_some() && self.store.read(stored.type_code, &stored.id, &author.scope).await?.is_some();
        match action {
            _ if visible => Err(Refusal::new(
                RefusalKind::Forbidden,
                Issue::error(
                    IssueCode::Forbidden,
                    "The resource belongs to another facility: only that facility and the operator can change it.",
                ),
            )),
            Action::Put(_) => Err(Refusal::new(
                RefusalKind::Conflict,
                Issue::error(
                    IssueCode::Conflict,
                    "This id cannot be used: take another, or POST the resource and let the server choose one.",
                ),
            )),
            Action::Delete { type_code, id } => Ok(Step {
                done: Done { type_code: *type_code, id: id.clone(), effect: Effect::Absent, version: 0, updated: 0, body: None },
                mutation: None,
            }),
        }
    }

    fn entries_of(&self, type_code: TypeCode, body: &[u8]) -> Result<Vec<IndexEntry>, Refusal> {
        let resource: Value = serde_json::from_slice(body).map_err(Refusal::internal)?;
        Ok(extract::extract(type_code, &resource, &self.options))
    }

    fn patient_of(&self, type_code: TypeCode, body: &[u8]) -> Option<Box<str>> {
        let resource: Value = serde_json::from_slice(body).ok()?;
        extract::patient_of(type_code, &resource).map(Into::into)
    }
}

struct Step {
    done: Done,
    mutation: Option<Mutation>,
}

fn may_change(author: &Author, owner: FacilityKey) -> bool {
    match &author.scope {
        Scope::All => true,
        Scope::Owners(owners) => owners.contains(&owner),
    }
}

fn stamped(body: &[u8], stamp_at: usize, updated: Micros) -> Bytes {
    let mut body = body.to_vec();
    if let Some(place) = body.get_mut(stamp_at..stamp_at + STAMP.len()) {
        let stamp = format_instant(updated);
        if stamp.len() == place.len() {
            place.copy_from_slice(stamp.as_bytes());
        }
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn draft(resource: Value) -> Draft {
        let type_code = definitions::r4().type_code("Patient").unwrap();
        Draft::new(type_code, "p1", resource, &extract::Options::default())
    }

    #[test]
    fn the_stamp_stands_where_it_is_said_to_stand() {
        let draft = draft(json!({
            "active": true, "resourceType": "Patient", "id": "other",
            "meta": {"lastUpdated": "2020-01-01T00:00:00Z", "versionId": "9", "tag": [{"code": "x"}]},
            "name": [{"family": "Ju\"ma"}],
        }));
        let (body, stamp_at) = draft.body(12);
        let body = stamped(&body, stamp_at, 1_700_000_000_000_000);
        let resource: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            resource,
            json!({
                "resourceType": "Patient", "id": "p1",
                "meta": {"versionId": "12", "lastUpdated": "2023-11-14T22:13:20.000000Z", "tag": [{"code": "x"}]},
                "active": true, "name": [{"family": "Ju\"ma"}],
            })
        );
    }

    #[test]
    fn what_says_the_same_is_recognised_whatever_its_version() {
        let (body, stamp_at) = draft(json!({"resourceType": "Patient", "active": true})).body(3);
        let stored = Stored {
            key: 1,
            type_code: definitions::r4().type_code("Patient").unwrap(),
            id: "p1".into(),
            version: 3,
            updated: 5,
            owner: 0,
            body: Some(stamped(&body, stamp_at, 5)),
        };
        assert!(draft(json!({"resourceType": "Patient", "meta": {"versionId": "1"}, "active": true})).says_what(&stored));
        assert!(!draft(json!({"resourceType": "Patient", "active": false})).says_what(&stored));
        assert!(!draft(json!({"resourceType": "Patient", "meta": {"source": "x"}, "active": true})).says_what(&stored));
    }
}
