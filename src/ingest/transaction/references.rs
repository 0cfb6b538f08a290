//! References between the entries, and those that name their target by criteria, become references to what is stored.

use super::super::criteria;
use super::super::identities::{Identities, conditional_references, unresolved_urns};
use super::super::refusal::{Refusal, RefusalKind, within};
use super::super::write::Writer;
use super::targets::{Settling, Target, TargetKind};
use super::{Entry, Operation};
use crate::definitions;
use crate::fhir::{Issue, IssueCode, Reference};
use crate::search::extract;
use crate::store::{IndexEntry, TypeCode};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Rewrites all references. `named`: fullUrls of entries that are refused for other reasons, so that no reference to them is a
/// problem of its own.
pub async fn settle(
    settling: &mut Settling<'_>,
    entries: Vec<Entry>,
    targets: &[Target],
    mut named: HashSet<String>,
) -> Result<Vec<Entry>, Refusal> {
    let writer = settling.writer;
    let identities = identities(settling, &entries, targets, &mut named);
    let named = Arc::new(named);
    let rewritten = writer
        .workers()
        .map(entries, move |mut entry| {
            let (mut conditional, mut dangling) = (Vec::new(), Vec::new());
            let full_url = entry.full_url.take();
            let (in_bundle, path) = (!entry.path.is_empty(), entry.resource_path());
            if let Some(resource) = &mut entry.resource {
                identities.rewrite(resource, full_url.as_deref());
                conditional = conditional_references(resource);
                if in_bundle {
                    dangling = unresolved_urns(resource, |urn| named.contains(urn));
                }
            }
            conditional.iter_mut().for_each(|(_, place)| *place = within(&path, place));
            let dangling = dangling.into_iter().map(|place| within(&path, &place)).collect::<Vec<_>>();
            (entry, conditional, dangling)
        })
        .await?;
    let mut entries = Vec::with_capacity(rewritten.len());
    let mut holders = HashSet::new();
    let mut references: BTreeMap<String, String> = BTreeMap::new();
    for (entry, conditional, dangling) in rewritten {
        for path in dangling {
            let words = "No entry of the Bundle has this as its fullUrl: a urn can only refer to an entry of the same Bundle.";
            settling.problems.add_as_said(Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::NotFound, words).at(path)));
        }
        if !conditional.is_empty() {
            holders.insert(entries.len());
        }
        for (reference, place) in conditional {
            references.entry(reference).or_insert(place);
        }
        entries.push(entry);
    }
    if references.is_empty() {
        return Ok(entries);
    }
    let references: Vec<(String, String)> = references.into_iter().collect();
    settling.search_references(&references, targets).await?;
    let meant = Arc::new(meanings(settling, &entries, targets, references));
    let numbered = entries.into_iter().enumerate().map(|(place, entry)| (holders.contains(&place), entry)).collect();
    writer
        .workers()
        .map(numbered, move |(holds, mut entry): (bool, Entry)| {
            if let Some(resource) = entry.resource.as_mut().filter(|_| holds) {
                meant.rewrite(resource, None);
            }
            entry
        })
        .await
}

/// What each entry's fullUrl is stored as.
fn identities(settling: &mut Settling<'_>, entries: &[Entry], targets: &[Target], named: &mut HashSet<String>) -> Identities {
    let mut identities = Identities::default();
    let mut aliased: HashSet<&str> = HashSet::new();
    for (entry, target) in entries.iter().zip(targets) {
        let deletes = matches!(entry.operation, Operation::Delete { .. } | Operation::DeleteWhere { .. });
        if matches!(target.kind, TargetKind::Nothing) && !deletes {
            named.extend(entry.full_url.clone());
        }
        if deletes || matches!(target.kind, TargetKind::Nothing) {
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
    identities
}

/// What the conditional references mean once the transaction is done: what it changes is judged by what it becomes, the rest by
/// what is stored, and the transaction rests on that.
fn meanings(settling: &mut Settling<'_>, entries: &[Entry], targets: &[Target], references: Vec<(String, String)>) -> Identities {
    let writer = settling.writer;
    let mut changed: HashSet<(TypeCode, &str)> = HashSet::new();
    for target in targets {
        match &target.kind {
            TargetKind::Put(_) | TargetKind::Delete(_) => _ = changed.insert((target.type_code, &target.id)),
            TargetKind::DeleteAll(all) => changed.extend(all.iter().map(|(id, _)| (target.type_code, &**id))),
            _ => {}
        }
    }
    let mut identities = Identities::default();
    // Of the transaction's own resources, only those of a type that a conditional reference names can be meant.
    let mut own: HashMap<TypeCode, Vec<(String, Vec<IndexEntry>)>> = HashMap::new();
    for (reference, path) in references {
        let Some(Reference::Conditional { type_name, query }) = Reference::parse(&reference) else { continue };
        let Some(type_code) = definitions::r4().type_code(type_name) else { continue };
        let Some(found) = settling.found.get(&(type_code, query.to_owned())) else { continue };
        let (mut ids, mut unjudged) = (BTreeSet::new(), false);
        for (id, entries) in own.entry(type_code).or_insert_with(|| own_entries(writer, entries, targets, type_code)).iter() {
            match found.criteria.matches_draft(type_code, id, entries) {
                Some(true) => _ = ids.insert(id.clone()),
                Some(false) => {}
                None => unjudged = true,
            }
        }
        if unjudged {
            settling.problems.add(&path, criteria::not_judged());
            continue;
        }
        let kept: Vec<_> = found.matched.iter().filter(|stored| !changed.contains(&(type_code, &stored.id))).collect();
        ids.extend(kept.iter().map(|stored| stored.id.to_string()));
        match (ids.pop_first(), ids.is_empty()) {
            (Some(id), true) => {
                match kept.first() {
                    Some(stored) => settling.rest.on(stored),
                    None => settling.rest.preconditions.push(found.criteria.clone().precondition(&found.matched)),
                }
                identities.insert_criteria(&reference, format!("{type_name}/{id}"));
            }
            (Some(_), false) => settling.problems.add(&path, Refusal::several_matches()),
            (None, _) => settling.problems.add(&path, criteria::no_match()),
        }
    }
    identities
}

fn own_entries(writer: &Writer, entries: &[Entry], targets: &[Target], type_code: TypeCode) -> Vec<(String, Vec<IndexEntry>)> {
    let put = entries.iter().zip(targets).filter(|(_, target)| target.type_code == type_code && matches!(target.kind, TargetKind::Put(_)));
    put.filter_map(|(entry, target)| {
        let resource = entry.resource.as_ref()?;
        Some((target.id.clone(), extract::extract(type_code, resource, writer.options())))
    })
    .collect()
}
