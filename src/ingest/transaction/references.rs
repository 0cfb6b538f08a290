//! References between the entries, and those that name their target by criteria, become references to what is stored.

use super::super::criteria::{self, Criteria};
use super::super::identities::{Identities, Unsettled, unsettled};
use super::super::refusal::{Refusal, RefusalKind, within};
use super::having::{Having, Written};
use super::targets::{Found, Key, Settling, Target, TargetKind};
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
            let mut left = Unsettled::default();
            let full_url = entry.full_url.take();
            let (in_bundle, path) = (!entry.path.is_empty(), entry.resource_path());
            if let Some(resource) = &mut entry.resource {
                identities.rewrite(resource, full_url.as_deref());
                let is_known = |urn: &str| named.contains(urn);
                left = unsettled(resource, in_bundle.then_some(&is_known as &dyn Fn(&str) -> bool));
            }
            let Unsettled { mut conditional, dangling } = left;
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
    let (entries, meant) = meanings(settling, entries, targets, references).await?;
    let meant = Arc::new(meant);
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

/// What a conditional reference means among what the transaction writes.
enum Meant {
    /// These; or there are resources of which it cannot be told.
    Own(Option<BTreeSet<String>>),
    /// It would take too long to say.
    Untold,
}

/// What the conditional references mean once the transaction is done: what it changes is judged by what it becomes, the rest by
/// what is stored, and the transaction rests on that.
async fn meanings(
    settling: &mut Settling<'_>,
    entries: Vec<Entry>,
    targets: &[Target],
    references: Vec<(String, String)>,
) -> Result<(Vec<Entry>, Identities), Refusal> {
    let mut changed: HashSet<(TypeCode, &str)> = HashSet::new();
    for target in targets {
        match &target.kind {
            TargetKind::Put(_) | TargetKind::Delete(_) => _ = changed.insert((target.type_code, &target.id)),
            TargetKind::DeleteAll(all) => changed.extend(all.iter().map(|(id, _)| (target.type_code, &**id))),
            _ => {}
        }
    }
    let mut asked = Vec::with_capacity(references.len());
    for (reference, path) in references {
        let Some(Reference::Conditional { type_name, query }) = Reference::parse(&reference) else { continue };
        let Some(type_code) = definitions::r4().type_code(type_name) else { continue };
        let key: Key = (type_code, query.to_owned());
        if settling.found.contains_key(&key) {
            asked.push((reference, key, path));
        }
    }
    // Of the transaction's own resources, only those of a type that a conditional reference names can be meant.
    let types: HashSet<TypeCode> = asked.iter().map(|(_, (type_code, _), _)| *type_code).collect();
    let is_own = |target: &Target| matches!(target.kind, TargetKind::Put(_)) && types.contains(&target.type_code);
    let own: Vec<(usize, TypeCode, String)> =
        targets.iter().enumerate().filter(|(_, target)| is_own(target)).map(|(place, of)| (place, of.type_code, of.id.clone())).collect();
    let options = Arc::clone(settling.writer.options());
    let found = std::mem::take(&mut settling.found);
    let work = move || {
        let meant = own_meanings(&entries, own, &asked, &found, &options);
        (entries, asked, found, meant)
    };
    let (entries, asked, found, meant) = settling.writer.workers().run(work).await?;
    let mut identities = Identities::default();
    for ((reference, key, path), meant) in asked.into_iter().zip(meant) {
        let (Some(found), (type_code, _)) = (found.get(&key), key) else { continue };
        let mut ids = match meant {
            Meant::Own(Some(ids)) => ids,
            Meant::Own(None) => {
                settling.problems.add(&path, criteria::not_judged());
                continue;
            }
            Meant::Untold => {
                settling.problems.add(&path, criteria::too_many());
                continue;
            }
        };
        let kept: Vec<_> = found.matched.iter().filter(|stored| !changed.contains(&(type_code, &stored.id))).collect();
        ids.extend(kept.iter().map(|stored| stored.id.to_string()));
        match (ids.pop_first(), ids.is_empty()) {
            (Some(id), true) => {
                match kept.first() {
                    Some(stored) => settling.rest.on(stored),
                    None => settling.rest.preconditions.extend(found.criteria.preconditions(&found.matched)),
                }
                identities.insert_criteria(&reference, format!("{}/{id}", definitions::r4().type_name(type_code)));
            }
            (Some(_), false) => settling.problems.add(&path, Refusal::several_matches()),
            (None, _) => settling.problems.add(&path, criteria::no_match()),
        }
    }
    settling.found = found;
    Ok((entries, identities))
}

/// What each of the references that are asked means among what the transaction writes; after one that cannot be told none is.
fn own_meanings(
    entries: &[Entry],
    own: Vec<(usize, TypeCode, String)>,
    asked: &[(String, Key, String)],
    found: &HashMap<Key, Found>,
    options: &extract::Options,
) -> Vec<Meant> {
    let extracted = own.into_iter().filter_map(|(place, type_code, id)| {
        let resource = entries.get(place)?.resource.as_ref()?;
        Some((type_code, id, extract::extract(type_code, resource, options)))
    });
    let own: Vec<(TypeCode, String, Vec<IndexEntry>)> = extracted.collect();
    let written = own.iter().map(|(type_code, id, entries)| Written { type_code: *type_code, id, entries }).collect();
    let criteria: Vec<&Criteria> = asked.iter().filter_map(|(_, key, _)| Some(&found.get(key)?.criteria)).collect();
    let mut having = Having::new(written, criteria.iter().copied());
    let mut meant = Vec::with_capacity(criteria.len());
    for criteria in criteria {
        let Ok(matching) = having.matching(criteria) else {
            meant.push(Meant::Untold);
            break;
        };
        let certain = |(place, certain): (usize, bool)| own.get(place).filter(|_| certain).map(|(_, id, _)| id.clone());
        meant.push(Meant::Own(matching.into_iter().map(certain).collect()));
    }
    meant
}
