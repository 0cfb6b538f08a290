//! What each entry is about: its criteria searched, its id settled, its conditions collected.

use super::super::criteria::{Criteria, by_identifier, same_resource};
use super::super::ownership::may_change;
use super::super::refusal::{Refusal, RefusalKind};
use super::super::write::{Author, Condition, Writer};
use super::{Entry, Operation, Problems, Rest};
use crate::access::{Caller, Interaction};
use crate::definitions;
use crate::fhir::reference::is_id;
use crate::fhir::{Issue, IssueCode, Reference, json};
use crate::store::{Scope, Stored, TypeCode};
use futures_util::StreamExt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Searches of one transaction that run at the same time.
const SEARCHES_AT_ONCE: usize = 4;

/// What an entry is about, once its criteria are settled.
pub struct Target {
    pub path: String,
    pub type_code: TypeCode,
    /// Empty when criteria matched nothing, or several to delete.
    pub id: String,
    pub kind: TargetKind,
    /// The criteria that are to mean it and nothing else, and the path that they stand at.
    pub by: Option<(Key, String)>,
}

pub enum TargetKind {
    Put(Condition),
    Delete(Condition),
    /// A conditional delete of these, each at the version that matched.
    DeleteAll(Vec<(Box<str>, i64)>),
    /// A conditional create that found this.
    Existing(Stored),
    /// A conditional create whose criteria mean what an earlier one's do: it is that entry's resource.
    SameAs,
    /// A conditional delete that found nothing.
    Nothing,
}

/// A type and the text of criteria.
pub type Key = (TypeCode, String);

/// The first entry that is to make what criteria mean.
struct Meant {
    path: String,
    /// Of a conditional create, which others of the same meaning share.
    id: Option<String>,
}

/// What criteria mean in the store.
pub struct Found {
    pub criteria: Criteria,
    pub matched: Vec<Stored>,
}

/// A transaction while it is settled what it means.
pub struct Settling<'a> {
    pub writer: &'a Writer,
    caller: &'a Caller,
    pub problems: Problems,
    pub rest: Rest,
    pub found: HashMap<Key, Found>,
    /// What the transaction deletes, and the path of the entry that does.
    deleted: HashMap<TypeCode, HashMap<Box<str>, String>>,
    /// By the place of the entry: the id that its patch was applied to, and the version.
    patched: HashMap<usize, (String, i64)>,
    /// Ids of what is to be made, which criteria name: by the place of the entry, or by what its own criteria mean.
    pub(super) given: HashMap<usize, String>,
    pub(super) given_by_meaning: HashMap<Key, String>,
}

impl<'a> Settling<'a> {
    pub fn new(writer: &'a Writer, caller: &'a Caller) -> Settling<'a> {
        Settling {
            writer,
            caller,
            problems: Problems::default(),
            rest: Rest::default(),
            found: HashMap::new(),
            deleted: HashMap::new(),
            patched: HashMap::new(),
            given: HashMap::new(),
            given_by_meaning: HashMap::new(),
        }
    }

    pub fn check_rights(&mut self, entry: &Entry) {
        let needed: &[Interaction] = match &entry.operation {
            Operation::Create { .. } => &[Interaction::Create],
            Operation::Update { .. } => &[Interaction::Update],
            Operation::UpdateWhere { .. } => &[Interaction::Update, Interaction::Search],
            Operation::Patch { .. } => &[Interaction::Update],
            Operation::PatchWhere { .. } => &[Interaction::Update, Interaction::Search],
            Operation::Delete { .. } => &[Interaction::Delete],
            Operation::DeleteWhere { .. } => &[Interaction::Delete, Interaction::Search],
        };
        let type_name = definitions::r4().type_name(entry.type_code);
        for interaction in needed {
            if let Err(forbidden) = self.caller.require(type_name, *interaction) {
                self.problems.add(&entry.path, forbidden.into());
            }
        }
    }

    /// Looks up the criteria of all requests, each once. What is deleted comes first, as the specification's order has it: other criteria
    /// do not find it any more.
    pub async fn search_requests(&mut self, entries: &mut [Entry]) -> Result<(), Refusal> {
        let mut wanted = Vec::new();
        for entry in entries.iter() {
            if let Operation::DeleteWhere { criteria, .. } = &entry.operation {
                let most = self.writer.policy().delete_most.saturating_add(1);
                wanted.push(((entry.type_code, criteria.clone()), entry.request_path("url"), most));
            }
        }
        self.search(wanted).await?;
        for entry in entries.iter() {
            match &entry.operation {
                Operation::Delete { id, .. } => {
                    self.deleted.entry(entry.type_code).or_default().insert(id.as_str().into(), entry.path.clone());
                }
                Operation::DeleteWhere { criteria, .. } => {
                    let found = self.found.get(&(entry.type_code, criteria.clone()));
                    let matched = found.map(|found| found.matched.as_slice()).unwrap_or_default();
                    let deleted = matched.iter().map(|stored| (stored.id.clone(), entry.path.clone()));
                    self.deleted.entry(entry.type_code).or_default().extend(deleted);
                }
                _ => {}
            }
        }
        self.name_entries(entries).await?;
        let wanted = entries.iter().filter_map(|entry| self.search_of(entry)).collect();
        self.search(wanted).await
    }

    /// How the criteria of an entry that are to mean one resource are looked up.
    pub(super) fn search_of(&self, entry: &Entry) -> Option<(Key, String, u32)> {
        let (text, element) = entry.criteria()?;
        Some(((entry.type_code, text.to_owned()), entry.request_path(element), self.enough(entry.type_code, 0)))
    }

    /// What was found and is not deleted.
    pub(super) fn alive<'f>(&self, type_code: TypeCode, found: &'f Found) -> Vec<&'f Stored> {
        let deleted = self.deleted.get(&type_code);
        found.matched.iter().filter(|stored| deleted.is_none_or(|deleted| !deleted.contains_key(&stored.id))).collect()
    }

    /// So many matches tell whether none, one or several are left after the deletes, and `changed` others put aside.
    fn enough(&self, type_code: TypeCode, changed: usize) -> u32 {
        let deleted = self.deleted.get(&type_code).map_or(0, HashMap::len);
        u32::try_from(deleted.saturating_add(changed)).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// Looks up the conditional references, each with the path that it stands at.
    pub async fn search_references(&mut self, references: &[(String, String)], targets: &[Target]) -> Result<(), Refusal> {
        let mut put: HashMap<TypeCode, usize> = HashMap::new();
        for target in targets.iter().filter(|target| matches!(target.kind, TargetKind::Put(_))) {
            *put.entry(target.type_code).or_default() += 1;
        }
        let mut wanted = Vec::new();
        for (reference, path) in references {
            if let Some(Reference::Conditional { type_name, query }) = Reference::parse(reference) {
                match definitions::r4().type_code(type_name) {
                    Some(type_code) => {
                        let put = put.get(&type_code).copied().unwrap_or_default();
                        wanted.push(((type_code, query.to_owned()), path.clone(), self.enough(type_code, put)));
                    }
                    None => self.problems.add(path, Refusal::malformed("The conditional reference names no resource type of FHIR R4.")),
                }
            }
        }
        self.search(wanted).await
    }

    pub(super) async fn search(&mut self, wanted: Vec<(Key, String, u32)>) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        let mut searches = Vec::new();
        for (key, path, most) in wanted {
            if self.found.get(&key).is_some_and(|found| found.matched.len() < 2) || !seen.insert((key.clone(), most)) {
                continue;
            }
            match Criteria::parse(key.0, &key.1, &self.caller.scope, &self.writer.criteria_options()) {
                Ok(mut criteria) => {
                    if let Err(refusal) = self.keep_within_rights(&mut criteria, &key.1) {
                        self.problems.add(&path, refusal);
                        continue;
                    }
                    searches.push((key, path, criteria, most));
                }
                Err(issues) => self.problems.add_as_said(not_understood(&path, issues)),
            }
        }
        let store = self.writer.store();
        let mut results = futures_util::stream::iter(searches)
            .map(|(key, path, criteria, most)| async move {
                if let Some(issue) = criteria.doubtful(store).await? {
                    return Ok((path, Err(issue)));
                }
                let matched = criteria.matches(store, most).await?;
                Ok::<_, sqlx::Error>((path, Ok((key, Found { criteria, matched }))))
            })
            .buffer_unordered(SEARCHES_AT_ONCE);
        while let Some(result) = results.next().await {
            let (key, one) = match result? {
                (_, Ok(found)) => found,
                (path, Err(issue)) => {
                    self.problems.add_as_said(not_understood(&path, vec![issue]));
                    continue;
                }
            };
            if self.found.get(&key).is_none_or(|found| found.matched.len() < one.matched.len()) {
                self.found.insert(key, one);
            }
        }
        Ok(())
    }

    /// Criteria tell what matches them, as a search does. Whoever may only create finds what it must not make twice, its own by an
    /// identifier, and nothing else: else values of any record could be guessed by conditional creates and references.
    fn keep_within_rights(&self, criteria: &mut Criteria, text: &str) -> Result<(), Refusal> {
        let type_name = definitions::r4().type_name(criteria.type_code());
        let searches = self.caller.allows(type_name, Interaction::Search);
        if !searches && !self.caller.allows(type_name, Interaction::Create) {
            return Err(self.caller.require(type_name, Interaction::Search).err().map_or_else(Refusal::not_found, Refusal::from));
        }
        if !searches && !by_identifier(text) {
            let words = format!(
                "Without a scope to search {type_name}, criteria are identifier=system|value and nothing else, and find what the client's own facility contributed."
            );
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)));
        }
        let interaction = if searches { Interaction::Search } else { Interaction::Create };
        self.caller.narrow(&mut criteria.query, interaction, self.writer.options())?;
        // What the scopes do not reach casts no doubt.
        criteria.doubts.retain_mut(|doubt| self.caller.narrow(&mut doubt.query, Interaction::Search, self.writer.options()).is_ok());
        if !searches && let Scope::Gate(gate) = &criteria.query.scope {
            criteria.query.scope = Scope::Owners(gate.owners.clone());
        }
        Ok(())
    }

    /// Gives the entries that patch the resource that they come to.
    pub async fn apply_patches(&mut self, entries: &mut [Entry]) -> Result<(), Refusal> {
        let author = Author::from(self.caller);
        for (place, entry) in entries.iter_mut().enumerate() {
            let (stored, condition, patch) = match &entry.operation {
                Operation::Patch { id, condition, patch } => {
                    let stored = self.writer.store().read(entry.type_code, id, &self.caller.scope).await?;
                    (stored, *condition, Arc::clone(patch))
                }
                Operation::PatchWhere { criteria, condition, patch } => {
                    let Some(found) = self.found.get(&(entry.type_code, criteria.clone())) else { continue };
                    match self.left(entry.type_code, found) {
                        Ok(one) => {
                            self.rest.preconditions.extend(found.criteria.preconditions(&found.matched));
                            (one.cloned(), *condition, Arc::clone(patch))
                        }
                        Err(refusal) => {
                            self.problems.add(&entry.request_path("url"), refusal);
                            continue;
                        }
                    }
                }
                _ => continue,
            };
            let stored = stored.filter(|stored| self.caller.admits(stored, &[Interaction::Update], self.writer.options()));
            let refusal = match stored.as_ref().map(|stored| (stored, &stored.body)) {
                None if matches!(entry.operation, Operation::PatchWhere { .. }) => Refusal::no_match(),
                None => Refusal::not_found(),
                Some((_, None)) => Refusal::gone(),
                // Not looked into: whether a `test` holds would tell its values.
                Some((stored, _)) if !may_change(&author, definitions::r4().type_name(stored.type_code), stored.owner) => {
                    Refusal::foreign()
                }
                Some((stored, _)) if !condition.admits(Some(stored.version)) => Refusal::other_version(),
                Some((stored, Some(body))) => {
                    let resource = json::parse_deep(body).map_err(Refusal::internal)?;
                    match self.writer.workers().run(move || patch.apply(resource)).await? {
                        Ok(patched) => {
                            self.patched.insert(place, (stored.id.to_string(), stored.version));
                            entry.resource = Some(patched);
                            continue;
                        }
                        Err(refusal) => {
                            let path = if entry.path.is_empty() { String::new() } else { entry.resource_path() };
                            self.problems.add(&path, refusal);
                            continue;
                        }
                    }
                }
            };
            self.problems.add(&entry.request_path("url"), refusal);
        }
        Ok(())
    }

    /// What the criteria of an update or a patch mean once the transaction has deleted what it deletes.
    fn left<'f>(&self, type_code: TypeCode, found: &'f Found) -> Result<Option<&'f Stored>, Refusal> {
        let deleted = self.deleted.get(&type_code);
        let (gone, left): (Vec<_>, Vec<_>) =
            found.matched.iter().partition(|stored| deleted.is_some_and(|deleted| deleted.contains_key(&stored.id)));
        match (left.as_slice(), gone.first().and_then(|stored| deleted?.get(&stored.id))) {
            // To update what is deleted and to make another in its place are told apart by nothing.
            ([], Some(path)) => Err(same_resource(path)),
            ([], None) => Ok(None),
            ([one], _) => Ok(Some(*one)),
            _ => Err(Refusal::several_matches()),
        }
    }

    /// Gives every entry its id, and notes what the ids rest on.
    pub fn targets(&mut self, entries: &[Entry]) -> Vec<Target> {
        let mut meant = HashMap::new();
        let targets: Vec<Target> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let (id, kind) = self.target(place, entry, &mut meant).unwrap_or((String::new(), TargetKind::Nothing));
                let by = entry.criteria().map(|(text, element)| ((entry.type_code, text.to_owned()), entry.request_path(element)));
                Target { path: entry.path.clone(), type_code: entry.type_code, id, kind, by }
            })
            .collect();
        let mut changed: HashMap<(TypeCode, &str), &str> = HashMap::new();
        for target in &targets {
            let ids: Vec<&str> = match &target.kind {
                TargetKind::Put(_) | TargetKind::Delete(_) => vec![&target.id],
                TargetKind::DeleteAll(all) => all.iter().map(|(id, _)| &**id).collect(),
                _ => continue,
            };
            let taken: Vec<&str> = ids.into_iter().filter_map(|id| changed.insert((target.type_code, id), &target.path)).collect();
            if let Some(other) = taken.first() {
                self.problems.add(&target.path, same_resource(other));
            }
        }
        for target in &targets {
            let TargetKind::Existing(stored) = &target.kind else { continue };
            match changed.get(&(target.type_code, target.id.as_str())) {
                Some(other) => self.problems.add(&target.path, same_resource(other)),
                None => self.rest.on(stored),
            }
        }
        targets
    }

    /// `None`: there is nothing to do, or a problem that is noted.
    fn target(&mut self, place: usize, entry: &Entry, meant: &mut HashMap<Key, Meant>) -> Option<(String, TargetKind)> {
        let policy = self.writer.policy();
        match &entry.operation {
            Operation::Create { criteria: None } => {
                Some((self.given.remove(&place).unwrap_or_else(new_id), TargetKind::Put(Condition::Posted)))
            }
            Operation::Create { criteria: Some(criteria) } => {
                let found = self.found.get(&(entry.type_code, criteria.clone()))?;
                match self.alive(entry.type_code, found).as_slice() {
                    [] => {
                        let meaning = (entry.type_code, found.criteria.meaning());
                        match meant.get(&meaning) {
                            Some(Meant { id: Some(id), .. }) => return Some((id.clone(), TargetKind::SameAs)),
                            Some(Meant { path, .. }) => return self.refuse(entry, "ifNoneExist", same_resource(path)),
                            None => {}
                        }
                        let id = self.given_by_meaning.remove(&meaning).unwrap_or_else(new_id);
                        self.rest.preconditions.extend(found.criteria.preconditions(&found.matched));
                        meant.insert(meaning, Meant { path: entry.path.clone(), id: Some(id.clone()) });
                        Some((id, TargetKind::Put(Condition::Posted)))
                    }
                    [one] => Some((one.id.to_string(), TargetKind::Existing((*one).clone()))),
                    _ => self.refuse(entry, "ifNoneExist", Refusal::several_matches()),
                }
            }
            Operation::Update { id, condition } => {
                self.check_id(entry, Some(id));
                let condition = match condition {
                    Condition::Absent if !policy.update_create => return self.refuse(entry, "url", Refusal::no_update_as_create()),
                    Condition::Any if !policy.update_create => Condition::Known,
                    condition => *condition,
                };
                Some((id.clone(), TargetKind::Put(condition)))
            }
            Operation::UpdateWhere { criteria, condition } => {
                let found = self.found.get(&(entry.type_code, criteria.clone()))?;
                let left = match self.left(entry.type_code, found) {
                    Ok(left) => left,
                    Err(refusal) => return self.refuse(entry, "url", refusal),
                };
                self.rest.preconditions.extend(found.criteria.preconditions(&found.matched));
                if left.is_none() {
                    let meaning = (entry.type_code, found.criteria.meaning());
                    if let Some(other) = meant.insert(meaning, Meant { path: entry.path.clone(), id: None }) {
                        return self.refuse(entry, "url", same_resource(&other.path));
                    }
                }
                match (left, entry.own_id()) {
                    (None, None) => Some((
                        self.given.remove(&place).unwrap_or_else(new_id),
                        TargetKind::Put(unless_versioned(*condition, Condition::New)),
                    )),
                    (None, Some(_)) if !policy.update_create => {
                        let words = "Nothing matches, and this server gives the ids: leave the id out of the resource.";
                        let issue = Issue::error(IssueCode::NotSupported, words);
                        self.problems.add(&format!("{}.id", entry.resource_path()), Refusal::new(RefusalKind::NotAllowed, issue));
                        None
                    }
                    (None, Some(id)) => {
                        self.check_id(entry, None);
                        Some((id.to_owned(), TargetKind::Put(unless_versioned(*condition, Condition::Free))))
                    }
                    (Some(one), own_id) => {
                        let id = one.id.to_string();
                        if own_id.is_some_and(|own_id| own_id != id) {
                            let words = "The criteria match a resource with another id: leave the id out, or mend the criteria.";
                            self.problems.add(&format!("{}.id", entry.resource_path()), Refusal::malformed(words));
                        }
                        Some((id, TargetKind::Put(*condition)))
                    }
                }
            }
            Operation::Patch { .. } | Operation::PatchWhere { .. } => {
                let (id, version) = self.patched.get(&place)?;
                Some((id.clone(), TargetKind::Put(Condition::Patched(*version))))
            }
            Operation::Delete { id, condition } => Some((id.clone(), TargetKind::Delete(*condition))),
            Operation::DeleteWhere { criteria, condition } => {
                let found = self.found.get(&(entry.type_code, criteria.clone()))?;
                match found.matched.as_slice() {
                    [] if condition.admits(None) => None,
                    all if all.is_empty() || all.iter().any(|stored| !condition.admits(Some(stored.version))) => {
                        self.refuse(entry, "url", Refusal::other_version())
                    }
                    [one] => {
                        self.rest.preconditions.extend(found.criteria.preconditions(&found.matched));
                        Some((one.id.to_string(), TargetKind::Delete(Condition::Seen(one.version))))
                    }
                    all if all.len() <= usize::try_from(policy.delete_most).unwrap_or(usize::MAX) => {
                        let all = all.iter().map(|stored| (stored.id.clone(), stored.version)).collect();
                        Some((String::new(), TargetKind::DeleteAll(all)))
                    }
                    _ if policy.delete_most > 1 => {
                        let words = format!(
                            "The criteria match more than {} resources, which is the most that one request may delete.",
                            policy.delete_most
                        );
                        let issue = Issue::error(IssueCode::MultipleMatches, words);
                        self.refuse(entry, "url", Refusal::new(RefusalKind::PreconditionFailed, issue))
                    }
                    _ => self.refuse(entry, "url", Refusal::several_matches()),
                }
            }
        }
    }

    fn refuse<T>(&mut self, entry: &Entry, element: &str, refusal: Refusal) -> Option<T> {
        self.problems.add(&entry.request_path(element), refusal);
        None
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

/// What the search room names is a parameter of the criteria; in a Bundle, the entry's element says more.
fn not_understood(path: &str, mut issues: Vec<Issue>) -> Refusal {
    for issue in issues.iter_mut().filter(|_| !path.is_empty()) {
        path.clone_into(&mut issue.expression);
    }
    Refusal::all(RefusalKind::Malformed, issues)
}

fn unless_versioned(condition: Condition, otherwise: Condition) -> Condition {
    if matches!(condition, Condition::Version(_)) { condition } else { otherwise }
}

pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
