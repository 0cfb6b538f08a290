//! Interactions carried out together or not at all (<https://hl7.org/fhir/R4/http.html#transaction>). A single create, update
//! or delete is a transaction of one.
//!
//! The order of work is the specification's: conditions and identities are settled for all entries first, references are
//! rewritten, every resource is checked; then one commit. Every problem of every entry is reported at once.
//!
//! What an entry's criteria mean is one resource when all is done: the deletes count first, two conditional creates of the same meaning are
//! one, and no other entry may change it, delete it, or write another that the criteria match ([`drafts`]).

mod drafts;
mod having;
mod placeholders;
mod references;
mod targets;

pub use drafts::problems_of;

use super::patch::Patch;
use super::refusal::{self, Refusal, RefusalKind};
use super::tries::Tries;
use super::write::{Author, CommitError, Condition, Done, Effect, Writer};
use crate::access::{Caller, Interaction, audit};
use crate::definitions;
use crate::fhir::Issue;
use crate::store::{Precondition, Stored, TypeCode};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use targets::{Settling, TargetKind};

/// What an entry asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    /// POST; with criteria, a conditional create.
    Create {
        criteria: Option<String>,
    },
    /// PUT on an id.
    Update {
        id: String,
        condition: Condition,
    },
    /// PUT on criteria.
    UpdateWhere {
        criteria: String,
        condition: Condition,
    },
    /// PATCH on an id.
    Patch {
        id: String,
        condition: Condition,
        patch: Arc<Patch>,
    },
    /// PATCH on criteria.
    PatchWhere {
        criteria: String,
        condition: Condition,
        patch: Arc<Patch>,
    },
    Delete {
        id: String,
        condition: Condition,
    },
    DeleteWhere {
        criteria: String,
        condition: Condition,
    },
}

/// One entry of a transaction.
#[derive(Clone, Debug)]
pub struct Entry {
    /// FHIRPath of the entry, such as `Bundle.entry[3]`; empty for a single interaction.
    pub path: String,
    pub full_url: Option<String>,
    pub type_code: TypeCode,
    pub operation: Operation,
    pub resource: Option<Value>,
}

impl Entry {
    /// FHIRPath of an element of the entry's `request`; a single interaction has none.
    fn request_path(&self, element: &str) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}.request.{element}", self.path) }
    }

    /// FHIRPath of the entry's resource.
    fn resource_path(&self) -> String {
        if self.path.is_empty() { definitions::r4().type_name(self.type_code).to_owned() } else { format!("{}.resource", self.path) }
    }

    /// What it asks for, such as `PUT Patient/1`.
    pub fn request(&self) -> String {
        let type_name = definitions::r4().type_name(self.type_code);
        match &self.operation {
            Operation::Create { .. } => format!("POST {type_name}"),
            Operation::Update { id, .. } => format!("PUT {type_name}/{id}"),
            Operation::UpdateWhere { criteria, .. } => format!("PUT {type_name}?{criteria}"),
            Operation::Patch { id, .. } => format!("PATCH {type_name}/{id}"),
            Operation::PatchWhere { criteria, .. } => format!("PATCH {type_name}?{criteria}"),
            Operation::Delete { id, .. } => format!("DELETE {type_name}/{id}"),
            Operation::DeleteWhere { criteria, .. } => format!("DELETE {type_name}?{criteria}"),
        }
    }

    /// The resource that it names by its id.
    pub(super) fn named(&self) -> Option<(TypeCode, Box<str>)> {
        match &self.operation {
            Operation::Update { id, .. } | Operation::Patch { id, .. } | Operation::Delete { id, .. } => {
                Some((self.type_code, id.as_str().into()))
            }
            _ => None,
        }
    }

    /// The criteria that are to mean one resource, and the element of the request that they stand in.
    fn criteria(&self) -> Option<(&str, &'static str)> {
        match &self.operation {
            Operation::Create { criteria: Some(criteria) } => Some((criteria, "ifNoneExist")),
            Operation::UpdateWhere { criteria, .. } | Operation::PatchWhere { criteria, .. } => Some((criteria, "url")),
            _ => None,
        }
    }

    fn own_id(&self) -> Option<&str> {
        self.resource.as_ref()?.get("id").map(|id| id.as_str().unwrap_or_default())
    }
}

/// What became of an entry.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub type_code: TypeCode,
    /// Empty when criteria matched nothing to delete.
    pub id: Box<str>,
    pub effect: Effect,
    pub version: i64,
    pub updated: crate::fhir::time::Micros,
    pub body: Option<Bytes>,
}

impl From<Done> for Outcome {
    fn from(done: Done) -> Outcome {
        Outcome {
            type_code: done.type_code,
            id: done.id,
            effect: done.effect,
            version: done.version,
            updated: done.updated,
            body: done.body,
        }
    }
}

impl Outcome {
    fn existing(stored: &Stored) -> Outcome {
        Outcome {
            type_code: stored.type_code,
            id: stored.id.clone(),
            effect: Effect::Unchanged,
            version: stored.version,
            updated: stored.updated,
            body: stored.body.clone(),
        }
    }

    fn nothing(type_code: TypeCode) -> Outcome {
        Outcome { type_code, id: Box::default(), effect: Effect::Absent, version: 0, updated: 0, body: None }
    }

    /// The HTTP status of the interaction.
    pub fn status(&self) -> u16 {
        match self.effect {
            Effect::Created => 201,
            Effect::Updated | Effect::Unchanged => 200,
            Effect::Deleted | Effect::Absent => 204,
        }
    }
}

/// An entry whose request cannot be carried out, so that its problems are told together with those of its neighbours.
#[derive(Debug)]
pub struct Broken {
    pub full_url: Option<String>,
    pub problems: Problems,
}

/// One try at carrying out `entries` for `caller`; with any of them `broken`, only to tell every problem of all. [`CommitError::Stale`]:
/// others were quicker, read the entries again and repeat. `keep_bodies`: outcomes carry the stored resources.
pub async fn attempt(
    writer: &Writer,
    tries: &Tries,
    entries: Vec<Entry>,
    broken: Vec<Broken>,
    caller: &Caller,
    keep_bodies: bool,
) -> Result<Vec<Outcome>, CommitError> {
    let trail = audit::current();
    let named: Vec<(TypeCode, Box<str>)> = if trail.is_some() { entries.iter().filter_map(Entry::named).collect() } else { Vec::new() };
    let attempted = carry_out(writer, tries, entries, broken, caller, keep_bodies).await;
    let in_vain = match &attempted {
        Ok(outcomes) => outcomes.iter().any(|outcome| outcome.effect == Effect::Absent),
        Err(error) => matches!(error, CommitError::Refused(..)),
    };
    if let Some(trail) = trail.filter(|_| in_vain) {
        trail.names(named);
    }
    attempted
}

async fn carry_out(
    writer: &Writer,
    tries: &Tries,
    mut entries: Vec<Entry>,
    broken: Vec<Broken>,
    caller: &Caller,
    keep_bodies: bool,
) -> Result<Vec<Outcome>, CommitError> {
    let refused = |refusal| CommitError::Refused(None, refusal);
    let _turn = writer.lane().turn(tries).await;
    let mut settling = Settling::new(writer, caller);
    let mut named = HashSet::new();
    for entry in broken {
        settling.problems.join(entry.problems);
        named.extend(entry.full_url);
    }
    for entry in &entries {
        settling.check_rights(entry);
    }
    settling.search_requests(&mut entries).await.map_err(refused)?;
    settling.apply_patches(&mut entries).await.map_err(refused)?;
    let patches = |operation: &Operation| matches!(operation, Operation::Patch { .. } | Operation::PatchWhere { .. });
    let patched: Vec<bool> = entries.iter().map(|entry| patches(&entry.operation)).collect();
    let targets = settling.targets(&entries);
    let entries = references::settle(&mut settling, entries, &targets, named).await.map_err(refused)?;
    let (plan, places) = drafts::plan(settling, entries, &targets).await.map_err(refused)?;
    let done = writer.commit(plan, &Author::from(caller), keep_bodies).await.map_err(|error| match error {
        CommitError::Refused(Some(change), refusal) => {
            let place = places.get(change).copied().unwrap_or_default();
            CommitError::Refused(None, refusal.of_entry(targets.get(place).map_or("", |target| target.path.as_str())))
        }
        error => error,
    })?;
    // A conditional delete may have made several changes; the last one stands for all of them.
    let mut changed: HashMap<usize, Outcome> = places.into_iter().zip(done.into_iter().map(Outcome::from)).collect();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(targets.len());
    for (place, target) in targets.into_iter().enumerate() {
        let first = |outcome: &&Outcome| outcome.type_code == target.type_code && *outcome.id == *target.id;
        let mut outcome = match (changed.remove(&place), &target.kind) {
            (Some(outcome), TargetKind::DeleteAll(_)) => Outcome { version: 0, id: Box::default(), ..outcome },
            (Some(outcome), _) => outcome,
            (None, TargetKind::Existing(stored)) => Outcome::existing(stored),
            (None, TargetKind::SameAs) => match outcomes.iter().find(first) {
                Some(created) => Outcome { effect: Effect::Unchanged, ..created.clone() },
                None => Outcome::nothing(target.type_code),
            },
            (None, _) => Outcome::nothing(target.type_code),
        };
        // What the client did not send itself it is told as far as it may read it.
        if patched.get(place) == Some(&true) || matches!(target.kind, TargetKind::Existing(_)) {
            let reads = |body: &Bytes| caller.admits_body(outcome.type_code, &outcome.id, body, &[Interaction::Read], writer.options());
            if !outcome.body.as_ref().is_none_or(reads) {
                outcome.body = None;
            }
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What a transaction rests on besides what it changes.
#[derive(Debug, Default)]
struct Rest {
    preconditions: Vec<Precondition>,
    unchanged: Vec<(TypeCode, Box<str>, i64)>,
}

impl Rest {
    fn on(&mut self, stored: &Stored) {
        self.unchanged.push((stored.type_code, stored.id.clone(), stored.version));
    }
}

/// Problems of a transaction, each with the status that it alone would have.
#[derive(Debug, Default)]
pub struct Problems(Vec<(RefusalKind, Issue)>);

impl Problems {
    /// What `refusal` says, of what stands at `path`.
    pub fn add(&mut self, path: &str, refusal: Refusal) {
        self.add_as_said(refusal.within(path));
    }

    /// What `refusal` says, its paths as they are.
    pub fn add_as_said(&mut self, refusal: Refusal) {
        let kind = refusal.kind;
        self.0.extend(refusal.issues.into_iter().map(|issue| (kind, issue)));
    }

    fn extend(&mut self, refusals: impl IntoIterator<Item = Refusal>) {
        refusals.into_iter().for_each(|refusal| self.add_as_said(refusal));
    }

    fn join(&mut self, others: Problems) {
        self.0.extend(others.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them as one refusal; its status is that of the gravest kind.
    pub fn result(mut self) -> Result<(), Refusal> {
        const GRAVEST_FIRST: [RefusalKind; 7] = [
            RefusalKind::Forbidden,
            RefusalKind::Malformed,
            RefusalKind::NotFound,
            RefusalKind::Gone,
            RefusalKind::NotAllowed,
            RefusalKind::PreconditionFailed,
            RefusalKind::Conflict,
        ];
        if self.0.is_empty() {
            return Ok(());
        }
        let kind = GRAVEST_FIRST.into_iter().find(|kind| self.0.iter().any(|(k, _)| k == kind)).unwrap_or(RefusalKind::Invalid);
        // Entry by entry, as the sender wrote them.
        self.0.sort_by_key(|(_, issue)| place_of(&issue.expression));
        let mut issues: Vec<Issue> = self.0.into_iter().map(|(_, issue)| issue).collect();
        refusal::keep_some(&mut issues);
        Err(Refusal::all(kind, issues))
    }
}

/// The entry's number in `Bundle.entry[3].resource`.
fn place_of(expression: &str) -> Option<usize> {
    expression.strip_prefix("Bundle.entry[")?.split(']').next()?.parse().ok()
}
