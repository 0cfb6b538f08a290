//! Interactions carried out together or not at all (<https://hl7.org/fhir/R4/http.html#transaction>). A single create, update
//! or delete is a transaction of one.
//!
//! The order of work is the specification's: conditions and identities are settled for all entries first, references are
//! rewritten, every resource is checked; then one commit. Every problem of every entry is reported at once.

use super::criteria::{self, Criteria};
use super::identities::{Identities, conditional_references};
use super::refusal::{self, Refusal, RefusalKind, within};
use super::write::{Action, Author, CommitError, Condition, Done, Draft, Effect, Plan, Wanted, Writer};
use crate::access::{Caller, Interaction};
use crate::definitions;
use crate::fhir::reference::is_id;
use crate::fhir::{Issue, IssueCode, Reference};
use crate::store::{Precondition, Scope, Stored, TypeCode};
use crate::validate::Validator;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Searches of one transaction that run at the same time.
const SEARCHES_AT_ONCE: usize = 4;

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Delete {
        id: String,
        condition: Condition,
    },
    DeleteWhere {
        criteria: String,
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

/// One try at carrying out `entries` for `caller`. [`CommitError::Stale`]: others were quicker, read the entries again and
/// repeat. `keep_bodies`: outcomes carry the stored resources.
pub async fn attempt(writer: &Writer, entries: Vec<Entry>, caller: &Caller, keep_bodies: bool) -> Result<Vec<Outcome>, CommitError> {
    let refused = |refusal| CommitError::Refused(None, refusal);
    let mut settling = Settling { writer, scope: &caller.scope, problems: Problems::default() };
    for entry in &entries {
        settling.check_rights(entry, caller);
    }
    let (entries, references) = find_references(writer, entries).await.map_err(refused)?;
    let found = settling.search(&entries, &references).await.map_err(refused)?;
    let (targets, preconditions) = settling.targets(&entries, &found);
    let entries = settle_references(&mut settling, entries, &targets, references, &found).await.map_err(refused)?;
    let problems = settling.problems;
    let (plan, places) = draft_all(writer, entries, &targets, preconditions, problems).await.map_err(refused)?;
    let done = writer.commit(plan, &Author::from(caller), keep_bodies).await.map_err(|error| match error {
        CommitError::Refused(Some(change), refusal) => {
            let place = places.get(change).copied().unwrap_or_default();
            CommitError::Refused(None, refusal.within(targets.get(place).map_or("", |target| target.path.as_str())))
        }
        error => error,
    })?;
    let mut changed: HashMap<usize, Outcome> = places.into_iter().zip(done.into_iter().map(Outcome::from)).collect();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(targets.len());
    for (place, target) in targets.into_iter().enumerate() {
        let first = |outcome: &&Outcome| outcome.type_code == target.type_code && *outcome.id == *target.id;
        let outcome = match (changed.remove(&place), &target.kind) {
            (Some(outcome), _) => outcome,
            (None, TargetKind::Existing(stored)) => Outcome::existing(stored),
            (None, TargetKind::SameAs) => match outcomes.iter().find(first) {
                Some(created) => Outcome { effect: Effect::Unchanged, ..created.clone() },
                None => Outcome::nothing(target.type_code),
            },
            (None, _) => Outcome::nothing(target.type_code),
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Problems of a transaction, each with the status that it alone would have.
#[derive(Default)]
struct Problems(Vec<(RefusalKind, Issue)>);

impl Problems {
    fn add(&mut self, path: &str, refusal: Refusal) {
        let kind = refusal.kind;
        self.0.extend(refusal.within(path).issues.into_iter().map(|issue| (kind, issue)));
    }

    /// All of them as one refusal; its status is that of the gravest kind.
    fn result(self) -> Result<(), Refusal> {
        const GRAVEST_FIRST: [RefusalKind; 5] =
            [RefusalKind::Forbidden, RefusalKind::Malformed, RefusalKind::NotFound, RefusalKind::PreconditionFailed, RefusalKind::Conflict];
        if self.0.is_empty() {
            return Ok(());
        }
        let kind = GRAVEST_FIRST.into_iter().find(|kind| self.0.iter().any(|(k, _)| k == kind)).unwrap_or(RefusalKind::Invalid);
        let mut issues: Vec<Issue> = self.0.into_iter().map(|(_, issue)| issue).collect();
        refusal::keep_some(&mut issues);
        Err(Refusal::all(kind, issues))
    }
}

/// What an entry is about, once its criteria are settled.
struct Target {
    path: String,
    type_code: TypeCode,
    id: String,
    kind: TargetKind,
}

enum TargetKind {
    Put(Condition),
    Delete(Condition),
    /// A conditional create that found this.
    Existing(Stored),
    /// A conditional create with the criteria of an earlier entry: it is that entry's resource.
    SameAs,
    /// A conditional delete that found nothing.
    Nothing,
}

type Key = (TypeCode, String);

/// What criteria mean in the store.
struct Found {
    criteria: Criteria,
    matched: Vec<Stored>,
}

struct Settling<'a> {
    writer: &'a Writer,
    scope: &'a Scope,
    problems: Problems,
}

impl Settling<'_> {
    fn check_rights(&mut self, entry: &Entry, caller: &Caller) {
        let needed: &[Interaction] = match &entry.operation {
            Operation::Create { .. } => &[Interaction::Create],
            Operation::Update { .. } => &[Interaction::Update],
            Operation::UpdateWhere { .. } => &[Interaction::Update, Interaction::Search],
            Operation::Delete { .. } => &[Interaction::Delete],
            Operation::DeleteWhere { .. } => &[Interaction::Delete, Interaction::Search],
        };
        let type_name = definitions::r4().type_name(entry.type_code);
        for interaction in needed {
            if let Err(forbidden) = caller.require(type_name, *interaction) {
                self.problems.add(&entry.path, forbidden.into());
            }
        }
    }

    /// Looks all criteria up, each once.
    async fn search(&mut self, entries: &[Entry], references: &[(String, String)]) -> Result<HashMap<Key, Found>, Refusal> {
        let mut wanted: Vec<(Key, String)> = Vec::new();
        for entry in entries {
            let (text, element) = match &entry.operation {
                Operation::Create { criteria: Some(text) } => (text, "ifNoneExist"),
                Operation::UpdateWhere { criteria, .. } | Operation::DeleteWhere { criteria } => (criteria, "url"),
                _ => continue,
            };
            wanted.push(((entry.type_code, text.clone()), entry.request_path(element)));
        }
        for (reference, path) in references {
            if let Some(Reference::Conditional { type_name, query }) = Reference::parse(reference) {
                match definitions::r4().type_code(type_name) {
                    Some(type_code) => wanted.push(((type_code, query.to_owned()), path.clone())),
                    None => self.problems.add(path, Refusal::malformed("The conditional reference names no resource type of FHIR R4.")),
                }
            }
        }
        let mut seen = HashSet::new();
        let mut searches = Vec::new();
        for (key, path) in wanted {
            if !seen.insert(key.clone()) {
                continue;
            }
            match Criteria::parse(key.0, &key.1, self.scope, &self.writer.criteria_options()) {
                Ok(criteria) => searches.push((key, criteria)),
                Err(mut issues) => {
                    // What the search room names is a parameter of the criteria; in a Bundle, the entry's element says more.
                    for issue in issues.iter_mut().filter(|_| !path.is_empty()) {
                        issue.expression.clone_from(&path);
                    }
                    self.problems.0.extend(issues.into_iter().map(|issue| (RefusalKind::Malformed, issue)));
                }
            }
        }
        let store = self.writer.store();
        let mut results = futures_util::stream::iter(searches)
            .map(|(key, criteria)| async move { criteria.matches(store).await.map(|matched| (key, Found { criteria, matched })) })
            .buffer_unordered(SEARCHES_AT_ONCE);
        let mut found = HashMap::new();
        while let Some(result) = results.next().await {
            let (key, one) = result?;
            found.insert(key, one);
        }
        Ok(found)
    }

    /// Gives every entry its id, and says what the ids rest on.
    fn targets(&mut self, entries: &[Entry], found: &HashMap<Key, Found>) -> (Vec<Target>, Vec<Precondition>) {
        let mut preconditions = Vec::new();
        let mut created: HashMap<Key, String> = HashMap::new();
        let mut changed: HashSet<(TypeCode, String)> = HashSet::new();
        let mut targets = Vec::with_capacity(entries.len());
        for entry in entries {
            let target = |id: String, kind| Target { path: entry.path.clone(), type_code: entry.type_code, id, kind };
            let key = |criteria: &String| (entry.type_code, criteria.clone());
            let target = match &entry.operation {
                Operation::Create { criteria: None } => target(new_id(), TargetKind::Put(Condition::New)),
                Operation::Create { criteria: Some(criteria) } => match (found.get(&key(criteria)), created.get(&key(criteria))) {
                    (_, Some(id)) => target(id.clone(), TargetKind::SameAs),
                    (Some(Found { criteria: parsed, matched }), None) => match matched.as_slice() {
                        [] => {
                            let id = new_id();
                            created.insert(key(criteria), id.clone());
                            preconditions.push(parsed.clone().precondition(matched));
                            target(id, TargetKind::Put(Condition::New))
                        }
                        [one] => target(one.id.to_string(), TargetKind::Existing(one.clone())),
                        _ => self.refuse(entry, "ifNoneExist", Refusal::several_matches()),
                    },
                    (None, None) => target(String::new(), TargetKind::Nothing),
                },
                Operation::Update { id, condition } => {
                    self.check_id(entry, Some(id));
                    target(id.clone(), TargetKind::Put(*condition))
                }
                Operation::UpdateWhere { criteria, condition } => match found.get(&key(criteria)) {
                    Some(Found { criteria: parsed, matched }) => {
                        let own_id = entry.own_id();
                        preconditions.push(parsed.clone().precondition(matched));
                        match (matched.as_slice(), own_id) {
                            ([], None) => target(new_id(), TargetKind::Put(unless_versioned(*condition, Condition::New))),
                            ([], Some(id)) => {
                                self.check_id(entry, None);
                                target(id.to_owned(), TargetKind::Put(unless_versioned(*condition, Condition::Absent)))
                            }
                            ([one], own_id) => {
                                if own_id.is_some_and(|id| id != &*one.id) {
                                    let words = "The criteria match a resource with another id: leave the id out, or mend the criteria.";
                                    self.problems.add(&format!("{}.id", entry.resource_path()), Refusal::malformed(words));
                                }
                                target(one.id.to_string(), TargetKind::Put(*condition))
                            }
                            _ => self.refuse(entry, "url", Refusal::several_matches()),
                        }
                    }
                    None => target(String::new(), TargetKind::Nothing),
                },
                Operation::Delete { id, condition } => target(id.clone(), TargetKind::Delete(*condition)),
                Operation::DeleteWhere { criteria } => match found.get(&key(criteria)).map(|found| (found, found.matched.as_slice())) {
                    Some((Found { criteria: parsed, .. }, matched @ [one])) => {
                        preconditions.push(parsed.clone().precondition(matched));
                        target(one.id.to_string(), TargetKind::Delete(Condition::Any))
                    }
                    Some((_, [_, _, ..])) => self.refuse(entry, "url", Refusal::several_matches()),
                    _ => target(String::new(), TargetKind::Nothing),
                },
            };
            let changes = matches!(target.kind, TargetKind::Put(_) | TargetKind::Delete(_));
            if changes && !changed.insert((target.type_code, target.id.clone())) {
                let words = "Another entry changes the same resource: a transaction may change a resource once.";
                self.problems.add(&entry.path, Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Duplicate, words)));
            }
            targets.push(target);
        }
        (targets, preconditions)
    }

    fn refuse(&mut self, entry: &Entry, element: &str, refusal: Refusal) -> Target {
        self.problems.add(&entry.request_path(element), refusal);
        Target { path: entry.path.clone(), type_code: entry.type_code, id: String::new(), kind: TargetKind::Nothing }
    }

    /// The id in the URL (or, without one, in the resource) is an id, and the resource says the same.
    fn check_id(&mut self, entry: &Entry, url_id: Option<&str>) {
        let own_id = entry.own_id();
        let resource_id = format!("{}.id", entry.resource_path());
        if !url_id.or(own_id).is_some_and(is_id) {
            let words = "An id has 1 to 64 letters, digits, hyphens and dots.";
            let path = if url_id.is_some() { entry.request_path("url") } else { resource_id };
            self.problems.add(&path, Refusal::malformed(words));
        } else if url_id.is_some() && own_id.is_none() {
            let words = "An update needs the resource's id in the resource too.";
            self.problems.add(&resource_id, Refusal::malformed(words));
        } else if url_id.is_some() && own_id != url_id {
            let words = "The id in the resource is not the id in the URL.";
            self.problems.add(&resource_id, Refusal::malformed(words));
        }
    }
}

fn unless_versioned(condition: Condition, otherwise: Condition) -> Condition {
    if matches!(condition, Condition::Version(_)) { condition } else { otherwise }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The conditional references of all resources, each with the first path that it stands at (the entry's: a reference may stand anywhere in it).
async fn find_references(writer: &Writer, entries: Vec<Entry>) -> Result<(Vec<Entry>, Vec<(String, String)>), Refusal> {
    let found = writer
        .workers()
        .map(entries, |mut entry| {
            let mut found = BTreeSet::new();
            if let Some(resource) = &mut entry.resource {
                conditional_references(resource, |reference| {
                    found.insert(reference.to_owned());
                });
            }
            (entry, found)
        })
        .await?;
    let mut entries = Vec::with_capacity(found.len());
    let mut references: HashMap<String, String> = HashMap::new();
    for (entry, found) in found {
        for reference in found {
            references.entry(reference).or_insert_with(|| entry.resource_path());
        }
        entries.push(entry);
    }
    Ok((entries, references.into_iter().collect()))
}

/// Rewrites the references between entries and the conditional ones.
async fn settle_references(
    settling: &mut Settling<'_>,
    entries: Vec<Entry>,
    targets: &[Target],
    references: Vec<(String, String)>,
    found: &HashMap<Key, Found>,
) -> Result<Vec<Entry>, Refusal> {
    let mut identities = Identities::default();
    let mut aliased: HashSet<&str> = HashSet::new();
    for (entry, target) in entries.iter().zip(targets) {
        if matches!(target.kind, TargetKind::Nothing | TargetKind::Delete(_)) {
            continue;
        }
        let type_name = definitions::r4().type_name(target.type_code);
        let stored_as = format!("{type_name}/{}", target.id);
        match &entry.full_url {
            Some(full_url) => {
                if !aliased.insert(full_url) {
                    let issue =
                        Issue::error(IssueCode::Duplicate, "Another entry has the same fullUrl: references to it would be ambiguous.");
                    settling.problems.add(&format!("{}.fullUrl", entry.path), Refusal::new(RefusalKind::Malformed, issue));
                }
                identities.insert_full_url(full_url, stored_as);
            }
            None => {
                // Without a fullUrl, the id that the resource was posted with is all that others can know it by.
                if let (Operation::Create { .. } | Operation::UpdateWhere { .. }, Some(own_id)) = (&entry.operation, entry.own_id()) {
                    identities.insert_full_url(&format!("{type_name}/{own_id}"), stored_as);
                }
            }
        }
    }
    let writer = settling.writer;
    let own_types: HashSet<TypeCode> = targets.iter().filter(|t| matches!(t.kind, TargetKind::Put(_))).map(|t| t.type_code).collect();
    // Of the transaction's own resources, only those of a type that a conditional reference names can be meant.
    let mut own: HashMap<TypeCode, Vec<(String, Vec<crate::store::IndexEntry>)>> = HashMap::new();
    for (reference, path) in references {
        let Some(Reference::Conditional { type_name, query }) = Reference::parse(&reference) else { continue };
        let Some(type_code) = definitions::r4().type_code(type_name) else { continue };
        let Some(Found { criteria, matched }) = found.get(&(type_code, query.to_owned())) else { continue };
        let mut ids: BTreeSet<String> = matched.iter().map(|stored| stored.id.to_string()).collect();
        if own_types.contains(&type_code) {
            let drafts = own.entry(type_code).or_insert_with(|| own_entries(writer, &entries, targets, type_code));
            ids.extend(drafts.iter().filter(|(id, entries)| criteria.matches_draft(type_code, id, entries)).map(|(id, _)| id.clone()));
        }
        match (ids.pop_first(), ids.is_empty()) {
            (Some(id), true) => identities.insert_criteria(&reference, format!("{type_name}/{id}")),
            (Some(_), false) => settling.problems.add(&path, Refusal::several_matches()),
            (None, _) => settling.problems.add(&path, criteria::no_match()),
        }
    }
    let identities = std::sync::Arc::new(identities);
    if identities.is_empty() {
        return Ok(entries);
    }
    writer
        .workers()
        .map(entries, move |mut entry| {
            let full_url = entry.full_url.take();
            if let Some(resource) = &mut entry.resource {
                identities.rewrite(resource, full_url.as_deref());
            }
            entry
        })
        .await
}

fn own_entries(
    writer: &Writer,
    entries: &[Entry],
    targets: &[Target],
    type_code: TypeCode,
) -> Vec<(String, Vec<crate::store::IndexEntry>)> {
    let put = entries.iter().zip(targets).filter(|(_, target)| target.type_code == type_code && matches!(target.kind, TargetKind::Put(_)));
    put.filter_map(|(entry, target)| {
        let resource = entry.resource.as_ref()?;
        Some((target.id.clone(), crate::search::extract::extract(type_code, resource, writer.options())))
    })
    .collect()
}

/// Checks every resource and makes the plan; with it, each change's place among the entries.
async fn draft_all(
    writer: &Writer,
    entries: Vec<Entry>,
    targets: &[Target],
    preconditions: Vec<Precondition>,
    mut problems: Problems,
) -> Result<(Plan, Vec<usize>), Refusal> {
    let mut places = Vec::with_capacity(entries.len());
    let mut conditions = Vec::with_capacity(entries.len());
    let mut work = Vec::with_capacity(entries.len());
    for (place, (entry, target)) in entries.into_iter().zip(targets).enumerate() {
        match &target.kind {
            TargetKind::Put(condition) => {
                places.push(place);
                conditions.push(*condition);
                work.push((entry, Some(target.id.clone())));
            }
            TargetKind::Delete(condition) => {
                places.push(place);
                conditions.push(*condition);
                work.push((entry, None));
            }
            _ => {}
        }
    }
    let options = std::sync::Arc::clone(writer.options());
    let validator = writer.validator().clone();
    let drafts = writer
        .workers()
        .map(work, move |(entry, id)| match id {
            Some(id) => check(entry, &validator).map(|(type_code, resource)| Some(Draft::new(type_code, &id, resource, &options))),
            None => Ok(None),
        })
        .await?;
    let mut plan = Plan { preconditions, ..Plan::default() };
    for ((place, condition), draft) in places.iter().zip(conditions).zip(drafts) {
        let Some(target) = targets.get(*place) else { continue };
        match draft {
            Ok(Some(draft)) => plan.changes.push(Wanted { action: Action::Put(draft), condition }),
            Ok(None) => {
                let action = Action::Delete { type_code: target.type_code, id: target.id.as_str().into() };
                plan.changes.push(Wanted { action, condition });
            }
            Err(refusal) => {
                let kind = refusal.kind;
                problems.0.extend(refusal.issues.into_iter().map(|issue| (kind, issue)));
            }
        }
    }
    problems.result()?;
    Ok((plan, places))
}

/// The resource is there, of the type that the URL says, and well built. Issues carry the entry's path.
fn check(entry: Entry, validator: &Validator) -> Result<(TypeCode, Value), Refusal> {
    let path = entry.resource_path();
    let Some(resource) = entry.resource else {
        return Err(Refusal::malformed("The resource is missing.").within(&path));
    };
    let type_name = definitions::r4().type_name(entry.type_code);
    if resource.get("resourceType").and_then(Value::as_str) != Some(type_name) {
        let issue =
            Issue::error(IssueCode::Invalid, format!("The URL asks for a resource of type {type_name}; the resource says otherwise."));
        return Err(Refusal::new(RefusalKind::Malformed, issue.at(format!("{path}.resourceType"))));
    }
    let mut issues = validator.on_write(&resource);
    if issues.is_empty() {
        return Ok((entry.type_code, resource));
    }
    for issue in &mut issues {
        issue.expression = within(&path, &issue.expression);
    }
    Err(Refusal::all(RefusalKind::Invalid, issues))
}
