//! The resources of a transaction, checked and made ready to be written, and held against one another's criteria.

use super::super::criteria::{self, Criteria};
use super::super::draft::Draft;
use super::super::refusal::{Refusal, RefusalKind, within};
use super::super::write::{Action, Plan, Wanted};
use super::having::{Having, Written};
use super::targets::{Settling, Target, TargetKind};
use super::{Entry, Operation};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::write::Condition;
use crate::store::TypeCode;
use crate::validate::Validator;
use serde_json::Value;

/// Checks every resource and makes the plan; with it, for each change the place of its entry.
pub async fn plan(settling: Settling<'_>, entries: Vec<Entry>, targets: &[Target]) -> Result<(Plan, Vec<usize>), Refusal> {
    let Settling { writer, mut problems, rest, mut found, .. } = settling;
    let mut work = Vec::with_capacity(entries.len());
    let (mut places, mut changes) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for (place, (entry, target)) in entries.into_iter().zip(targets).enumerate() {
        let mut delete = |id: &str, condition| {
            places.push(place);
            changes.push(Wanted { action: Action::Delete { type_code: target.type_code, id: id.into() }, condition });
        };
        match &target.kind {
            TargetKind::Put(condition) => work.push((place, *condition, entry, target.id.clone())),
            // Its request has a problem; its resource may have more.
            TargetKind::Nothing => problems
                .extend(entry.resource.as_ref().and_then(|resource| problems_of(resource, &entry.resource_path(), writer.validator()))),
            TargetKind::Delete(condition) => delete(&target.id, *condition),
            TargetKind::DeleteAll(all) => all.iter().for_each(|(id, version)| delete(id, Condition::Seen(*version))),
            TargetKind::Existing(_) | TargetKind::SameAs => {}
        }
    }
    let making = writer.making();
    let validator = writer.validator().clone();
    let drafts = writer
        .workers()
        .map(work, move |(place, condition, entry, id)| {
            let draft =
                check(entry, &validator, &making.options.base).map(|(type_code, resource)| Draft::new(type_code, &id, resource, &making));
            (place, condition, draft)
        })
        .await?;
    let mut named: Vec<Named> = Vec::new();
    // Who is the same as another is judged with that one.
    for target in targets.iter().filter(|target| matches!(target.kind, TargetKind::Put(_) | TargetKind::Existing(_))) {
        if let Some((key, at)) = &target.by
            && let Some(found) = found.remove(key)
        {
            named.push(Named { criteria: found.criteria, id: target.id.clone(), at: at.clone() });
        }
    }
    let (drafts, twins) = match named.is_empty() || targets.len() < 2 {
        true => (drafts, Vec::new()),
        false => writer.workers().run(move || twins(drafts, named)).await?,
    };
    let path = |place: usize| targets.get(place).map_or("", |target| target.path.as_str());
    for (at, twin) in twins {
        let refusal = match twin {
            Twin::Certain(place) => criteria::same_resource(path(place)),
            Twin::Possible(place) => criteria::perhaps_another(path(place)),
            Twin::Untold => criteria::too_many(),
        };
        problems.add(&at, refusal);
    }
    for (place, condition, draft) in drafts {
        match draft {
            Ok(draft) => {
                places.push(place);
                changes.push(Wanted { action: Action::Put(draft), condition });
            }
            Err(refusal) => problems.add_as_said(refusal),
        }
    }
    problems.result()?;
    Ok((Plan { changes, preconditions: rest.preconditions, unchanged: rest.unchanged, ..Plan::default() }, places))
}

/// Criteria that are to mean the resource with this id when all is done, and no other.
struct Named {
    criteria: Criteria,
    id: String,
    /// The path that they stand at.
    at: String,
}

/// A resource, with the place of its entry.
type Made = (usize, Condition, Result<Draft, Refusal>);

/// What the criteria that stand there match besides what they are to mean.
enum Twin {
    /// What the entry at this place writes.
    Certain(usize),
    /// Perhaps so, which only the store could tell.
    Possible(usize),
    /// It would take too long to say.
    Untold,
}

/// Which criteria another entry's resource matches too, and where they stand: stored as they are, the two would be one thing twice.
fn twins(drafts: Vec<Made>, named: Vec<Named>) -> (Vec<Made>, Vec<(String, Twin)>) {
    let ready: Vec<(usize, &Draft)> = drafts.iter().filter_map(|(place, _, draft)| Some((*place, draft.as_ref().ok()?))).collect();
    let written = ready.iter().map(|(_, draft)| Written { type_code: draft.type_code, id: &draft.id, entries: &draft.entries }).collect();
    let mut having = Having::new(written, named.iter().map(|one| &one.criteria));
    let mut twins = Vec::new();
    for one in &named {
        let Ok(matching) = having.matching(&one.criteria) else {
            twins.push((one.at.clone(), Twin::Untold));
            break;
        };
        let matching = matching.into_iter().filter_map(|(at, certain)| Some((ready.get(at)?, certain)));
        let others: Vec<(usize, bool)> =
            matching.filter(|((_, draft), _)| *draft.id != *one.id).map(|((place, _), certain)| (*place, certain)).collect();
        let first = others.iter().find(|(_, certain)| *certain).or(others.first());
        twins.extend(first.map(|(place, certain)| {
            let twin = if *certain { Twin::Certain(*place) } else { Twin::Possible(*place) };
            (one.at.clone(), twin)
        }));
    }
    (drafts, twins)
}

/// The resource is there, of the type that the URL says, and well built. Issues carry the entry's path.
fn check(entry: Entry, validator: &Validator, base: &str) -> Result<(TypeCode, Value), Refusal> {
    let path = entry.resource_path();
    let Some(resource) = entry.resource else {
        return Err(Refusal::malformed("The resource is missing.").within(&path));
    };
    let type_name = definitions::r4().type_name(entry.type_code);
    let said = resource.get("resourceType").and_then(Value::as_str);
    if said != Some(type_name) {
        let words = match said {
            Some(_) => format!("The URL asks for a resource of type {type_name}; the resource says otherwise."),
            None if resource.is_object() => format!("The resource must say its type: \"resourceType\": \"{type_name}\"."),
            None => format!("A resource is a JSON object with \"resourceType\": \"{type_name}\"."),
        };
        let issue = Issue::error(IssueCode::Invalid, words);
        return Err(Refusal::new(RefusalKind::Malformed, issue.at(format!("{path}.resourceType"))));
    }
    let kind = resource.get("type").and_then(Value::as_str);
    if type_name == "Bundle" && matches!(entry.operation, Operation::Create { .. }) && matches!(kind, Some("transaction" | "batch")) {
        let words =
            "A transaction or batch is carried out when it is sent to the base, without Bundle in the URL; here it would only be kept.";
        return Err(Refusal::new(RefusalKind::Invalid, Issue::error(IssueCode::BusinessRule, words).at(format!("{path}.type"))));
    }
    if type_name == "AuditEvent" && resource.pointer("/source/observer/identifier/value").and_then(Value::as_str) == Some(base) {
        let words = "This server records what it does itself: an AuditEvent that is sent has another source.";
        let issue = Issue::error(IssueCode::Forbidden, words).at(format!("{path}.source.observer"));
        return Err(Refusal::new(RefusalKind::Forbidden, issue));
    }
    match problems_of(&resource, &path, validator) {
        Some(refusal) => Err(refusal),
        None => Ok((entry.type_code, resource)),
    }
}

/// How the resource at `path` breaks the rules that are held against what is written, if it does.
pub fn problems_of(resource: &Value, path: &str, validator: &Validator) -> Option<Refusal> {
    let mut issues = validator.on_write(resource);
    for issue in &mut issues {
        issue.expression = within(path, &issue.expression);
    }
    (!issues.is_empty()).then(|| Refusal::all(RefusalKind::Invalid, issues))
}
