//! The resources of a transaction, checked and made ready to be written, and held against one another's criteria.

use super::super::criteria::{self, Criteria};
use super::super::draft::Draft;
use super::super::refusal::{Refusal, RefusalKind, within};
use super::super::write::{Action, Plan, Wanted};
use super::targets::{Settling, Target, TargetKind};
use super::{Entry, Operation};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::write::Condition;
use crate::store::{ParamId, TypeCode};
use crate::validate::Validator;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

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
    for (at, other, told) in twins {
        let other = targets.get(other).map_or("", |target| target.path.as_str());
        problems.add(&at, if told { criteria::same_resource(other) } else { criteria::perhaps_another(other) });
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

/// Where criteria stand, the entry that writes another resource which they match, and whether that is certain.
type Twin = (String, usize, bool);

/// Which criteria another entry's resource matches too: stored as they are, the two would be one thing twice.
fn twins(drafts: Vec<Made>, named: Vec<Named>) -> (Vec<Made>, Vec<Twin>) {
    // By a value that the criteria name, so that not everything is held against everything.
    let exact: Vec<Option<Vec<(ParamId, &str)>>> = named.iter().map(|one| one.criteria.exact()).collect();
    let params: HashSet<ParamId> = exact.iter().flatten().flatten().map(|(param, _)| *param).collect();
    let mut having: HashMap<(ParamId, &str), Vec<usize>> = HashMap::new();
    let ready: Vec<(usize, &Draft)> = drafts.iter().filter_map(|(place, _, draft)| Some((*place, draft.as_ref().ok()?))).collect();
    for (at, (_, draft)) in ready.iter().enumerate() {
        for entry in draft.entries.iter().filter(|entry| params.contains(&entry.param)) {
            if let Some(value) = criteria::exact_value(&entry.value) {
                having.entry((entry.param, value)).or_default().push(at);
            }
        }
    }
    let mut twins = Vec::new();
    for (one, exact) in named.iter().zip(&exact) {
        let candidates: BTreeSet<usize> = match exact {
            Some(values) => values.iter().filter_map(|value| having.get(value)).flatten().copied().collect(),
            None => (0..ready.len()).collect(),
        };
        let others = candidates.into_iter().filter_map(|at| ready.get(at)).filter(|(_, draft)| *draft.id != *one.id);
        let judged = others.map(|(place, draft)| (*place, one.criteria.matches_draft(draft.type_code, &draft.id, &draft.entries)));
        let matching: Vec<(usize, Option<bool>)> = judged.filter(|(_, matches)| *matches != Some(false)).collect();
        let first = matching.iter().find(|(_, matches)| matches.is_some()).or(matching.first());
        twins.extend(first.map(|(place, matches)| (one.at.clone(), *place, matches.is_some())));
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
