//! What an answer shows, for the record ([`crate::access::audit`]): read off the answer itself, whatever route made it.

use super::super::audit::{failure, too_much};
use super::super::error::Failure;
use super::super::state::FhirState;
use super::Call;
use super::answer::Answer;
use super::target::Target;
use crate::access::audit::resource::audit_event;
use crate::access::audit::{self, Action, AuditError, Event, Shape, told};
use crate::access::{Caller, FOR_ANOTHER, Interaction, Role};
use crate::definitions;
use crate::fhir::reference::is_id;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::{Refusal, RefusalKind};
use crate::store::{Stored, TypeCode};
use axum::http::{Method, Uri};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;
use std::collections::HashSet;

/// What became of an answer on its way out.
pub enum Settled {
    /// It may leave.
    Answer(Result<Answer, Failure>),
    /// What patients allow changed meanwhile: nothing is recorded, and it must be made again.
    Outdated,
}

/// The same answer once it is recorded, with everybody whose data it holds; a failure in its place when it cannot be.
pub async fn settled(state: &FhirState, method: &Method, uri: &Uri, answered: Result<Answer, Failure>) -> Settled {
    match recorded(state, method, uri, &answered).await {
        Ok(()) => Settled::Answer(answered),
        Err(AuditError::Outdated) => Settled::Outdated,
        Err(AuditError::TooMuch { seconds }) => {
            let refused = Err(Failure { retry_after: Some(seconds), ..too_much() });
            match recorded(state, method, uri, &refused).await {
                Ok(()) => Settled::Answer(refused),
                Err(error) => withheld(&error),
            }
        }
        Err(error) => withheld(&error),
    }
}

fn withheld(error: &AuditError) -> Settled {
    tracing::error!(%error, "an answer was withheld");
    Settled::Answer(Err(failure()))
}

/// Whether the request may be carried out again: it has changed nothing.
pub fn may_repeat() -> bool {
    audit::current().is_some_and(|trail| !trail.has_written())
}

/// The same caller, deciding as of now.
pub async fn begin_again(state: &FhirState, caller: &Caller) -> Result<Caller, Failure> {
    let caller = caller.again(&state.store).await.map_err(Refusal::from)?;
    if let Some(trail) = audit::current() {
        trail.begins_again(&caller);
    }
    Ok(caller)
}

async fn recorded(state: &FhirState, method: &Method, uri: &Uri, answered: &Result<Answer, Failure>) -> Result<(), AuditError> {
    let Some(trail) = audit::current() else { return Ok(()) };
    let (status, body) = match answered {
        Ok(answer) => (answer.status, answer.body.as_deref()),
        Err(failure) => (failure.status, None),
    };
    let mut held = Held::default();
    if let Some(body) = body.filter(|_| status.is_success()) {
        held = serde_json::from_slice(body)?;
    }
    for (place, status) in held.refusals() {
        let request = trail.request_at(&format!("Bundle.entry[{place}]"));
        trail.asked_within(&request, interaction_of(&request), status);
    }
    let path = uri.path().strip_prefix("/fhir").unwrap_or_default();
    let mut shape = shape(method.as_str(), path, held.kind.as_ref().and_then(Kind::as_deref));
    if shape.action == Action::Delete && status.is_success() && !trail.has_written() {
        // Nothing was deleted, whether nothing was there or nothing that the caller may see: it is told as it was asked.
        shape.action = Action::Execute;
    }
    let mut names = HashSet::new();
    held.names(state.base_url(), &mut names);
    trail.settle(&state.store, &shape, status.as_u16(), names).await
}

/// Events of an accounting that are answered at once, and at most.
const DEFAULT_COUNT: u32 = 100;
const MOST_COUNT: u32 = 1_000;
/// Rows looked through for one page.
const MOST_ROWS: u32 = 10_000;

/// `Patient/[id]/$disclosures`: who got data of this person from lango, when, what of it, for what purpose, and which Consents allowed
/// it; newest first. For the person and for the privacy officer. `_count` events a page, `_before` a place, from the next link.
pub async fn disclosures(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    let caller = call.caller;
    // A practitioner's token may have a patient in context, who is somebody else. Who acts for somebody does not see all of their record, and the
    // accounting names what was seen of it, and what others asked for.
    let acts_for = caller.claimed.purposes.iter().any(|purpose| purpose.code == FOR_ANOTHER);
    let own = caller.person.is_some() && !caller.picked && !acts_for && caller.claimed.practitioner.is_none();
    let own = own && caller.patients.iter().any(|own| own == id);
    if !(own || caller.has_role(Role::Operator)) {
        let words = "Who saw a record is told to the person whom it is about and to the privacy officer (role operator).";
        return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)).into());
    }
    if !own {
        call.caller.require("AuditEvent", Interaction::Read).map_err(Refusal::from)?;
    }
    let (mut count, mut before) = (DEFAULT_COUNT, i64::MAX);
    for (name, value) in &call.query {
        let number = || value.parse::<i64>().ok().filter(|number| *number > 0);
        let bad = || Failure::bad_request("The parameters of an accounting are _count and _before, both numbers.");
        match name.as_str() {
            "_count" => count = number().and_then(|count| u32::try_from(count).ok()).ok_or_else(bad)?.min(MOST_COUNT),
            "_before" => before = number().ok_or_else(bad)?,
            _ => return Err(bad()),
        }
    }
    let state = call.state;
    let link = definitions::r4().param(type_code, "link").map(|param| param.id);
    let keys = state.store.person_keys(type_code, id, link).await?;
    if keys.is_empty() {
        return Err(Refusal::not_found().into());
    }
    let ids = state.store.ids_of(&keys).await?;
    if let Some(trail) = audit::current() {
        trail.concerns((type_code, id.into()), keys.iter().copied());
    }
    // What was answered before this was asked is in the chain.
    state.store.seal().await?;
    let naming = state.audit_naming();
    let base = state.base_url();
    let mut entries = Vec::new();
    let mut next = None;
    let rows = state.store.sealed_about(&keys, before, MOST_ROWS).await?;
    let cut = rows.last().filter(|_| rows.len() >= MOST_ROWS as usize).map(|row| row.position);
    for row in rows {
        let mut events = told(&row).map_err(Refusal::internal)?;
        events.retain(|told| {
            let looked = matches!(told.event.action, Action::Read | Action::Execute) && told.event.interaction != Event::DECISION;
            // Who looked at the accounting itself is found as an AuditEvent.
            let saw = !told.event.what.is_empty();
            looked && saw && told.custodian.is_none() && told.event.outcome() == "0" && keys.contains(&told.patient)
        });
        if events.is_empty() {
            continue;
        }
        // One look at several Patients of the person is not torn apart.
        if !entries.is_empty() && entries.len() + events.len() > count as usize {
            next = Some(before);
            break;
        }
        before = row.position;
        for told in events {
            let resource = audit_event(row.at, &told, ids.get(&told.patient).map(String::as_str), &naming, true);
            let full_url = format!("{base}/AuditEvent/{}", told.id);
            entries.push(json!({ "fullUrl": full_url, "resource": resource, "search": { "mode": "match" } }));
        }
    }
    let next = next.or(cut);
    let url = call.in_this_form(&format!("{base}/Patient/{id}/$disclosures?_count={count}"));
    let mut links = vec![json!({ "relation": "self", "url": url })];
    links.extend(next.map(|before| json!({ "relation": "next", "url": format!("{url}&_before={before}") })));
    let mut bundle = json!({ "resourceType": "Bundle", "id": uuid::Uuid::new_v4().to_string(), "type": "searchset", "link": links });
    if !entries.is_empty() {
        bundle["entry"] = entries.into();
    }
    Ok(Answer::ok(bundle.to_string()))
}

/// The answer tells of these without having them in it: their labels, what is wrong with them, that they are counted.
pub fn tells_of(rows: &[Stored]) {
    if let Some(trail) = audit::current() {
        trail.read(rows);
        trail.shows(rows.iter().map(|row| (row.type_code, row.id.clone())));
    }
}

/// Notes parameters that came in a form.
pub fn came_with(form: &[u8]) {
    if let Some(trail) = audit::current() {
        trail.came_with(form);
    }
}

/// Notes a query or an operation within a Bundle; of one that was refused, the Bundle's answer tells. `body`: of a lookup.
pub fn asked_within(method: &str, url: &str, body: Option<&[u8]>, answered: &Result<Answer, Failure>) {
    let Some(trail) = audit::current() else { return };
    match answered {
        Ok(answer) => {
            let request = format!("{method} {url}");
            let interaction = interaction_of(&request);
            let request = body.map_or(request.clone(), |body| format!("{request}\n\n{}", String::from_utf8_lossy(body)));
            trail.asked_within(&request, interaction, answer.status.as_u16());
        }
        Err(_) => {
            let path = url.split('?').next().unwrap_or_default();
            trail.names(Target::of_path(path).ok().and_then(named).map(|(code, id)| (code, id.into())));
        }
    }
}

/// Notes the resources that are asked for by their ids elsewhere than in a URL's path.
pub fn asked_for(names: impl IntoIterator<Item = (TypeCode, Box<str>)>) {
    let Some(trail) = audit::current() else { return };
    trail.names(names.into_iter().filter(|(_, id)| is_id(id)));
}

/// As which interaction the request of an entry counts, such as `GET Patient?name=x`.
fn interaction_of(request: &str) -> &'static str {
    let (method, url) = request.split_once(' ').unwrap_or_default();
    shape(method, url.split('?').next().unwrap_or_default(), None).interaction
}

/// The resource that a URL names.
fn named(target: Target) -> Option<(TypeCode, String)> {
    match target {
        Target::Instance(type_code, id) | Target::History(type_code, id) | Target::Version(type_code, id, _) => Some((type_code, id)),
        Target::Compartment(compartment) | Target::CompartmentSearch(compartment) => Some((compartment.of, compartment.id)),
        Target::Operation(operation) => operation.type_code.zip(operation.id),
        _ => None,
    }
}

/// `kind`: the type of the Bundle in the answer.
fn shape(method: &str, path: &str, kind: Option<&str>) -> Shape {
    use Action::*;
    let target = Target::of_path(path).ok();
    let (action, interaction) = match (method, &target) {
        ("GET" | "HEAD", Some(Target::Instance(..))) => (Read, "read"),
        ("GET" | "HEAD", Some(Target::Version(..))) => (Read, "vread"),
        ("GET" | "HEAD", Some(Target::History(..))) => (Read, "history-instance"),
        ("GET" | "HEAD", Some(Target::Type(_) | Target::Compartment(_)))
        | ("POST", Some(Target::Search(_) | Target::CompartmentSearch(_))) => (Execute, "search-type"),
        ("GET" | "HEAD", Some(Target::System)) | ("POST", Some(Target::SearchAll)) => (Execute, "search-system"),
        ("POST", Some(Target::Type(_))) => (Create, "create"),
        ("PUT", Some(Target::Type(_) | Target::Instance(..))) => (Update, "update"),
        ("PATCH", Some(Target::Type(_) | Target::Instance(..))) => (Update, "patch"),
        ("DELETE", Some(Target::Type(_) | Target::Instance(..))) => (Delete, "delete"),
        ("POST", Some(Target::System)) if kind == Some("batch-response") => (Execute, "batch"),
        ("POST", Some(Target::System)) => (Execute, "transaction"),
        (_, Some(Target::TypeHistory(_))) => (Execute, "history-type"),
        (_, Some(Target::SystemHistory)) => (Execute, "history-system"),
        _ => (Execute, "operation"),
    };
    Shape { action, interaction, target: target.and_then(named), old_versions: path.contains("/_history") }
}

/// As much of an answer as tells which resources are in it.
#[derive(Debug, Default, Deserialize)]
struct Held<'a> {
    #[serde(default, borrow, rename = "resourceType")]
    type_name: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow, rename = "type")]
    kind: Option<Kind<'a>>,
    #[serde(default, borrow)]
    entry: Vec<Part<'a>>,
    #[serde(default, borrow)]
    parameter: Vec<Part<'a>>,
}

/// `Bundle.type`; an element of that name is something else in other resources.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Kind<'a> {
    #[serde(borrow)]
    Code(Cow<'a, str>),
    Other(serde::de::IgnoredAny),
}

impl Kind<'_> {
    fn as_deref(&self) -> Option<&str> {
        match self {
            Kind::Code(code) => Some(code),
            Kind::Other(_) => None,
        }
    }
}

/// An entry of a Bundle or a part of Parameters.
#[derive(Debug, Default, Deserialize)]
struct Part<'a> {
    #[serde(default, borrow, rename = "fullUrl")]
    full_url: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    resource: Option<Box<Held<'a>>>,
    #[serde(default, borrow)]
    part: Vec<Part<'a>>,
    #[serde(default, borrow)]
    response: Option<Verdict<'a>>,
}

#[derive(Debug, Deserialize)]
struct Verdict<'a> {
    #[serde(default, borrow)]
    status: Option<Cow<'a, str>>,
}

impl Held<'_> {
    /// The names of those that are of this server; of what another one holds whoever shows it has told the trail.
    fn names(&self, base: &str, into: &mut HashSet<(TypeCode, Box<str>)>) {
        // What goes into a Bundle is nested no deeper than lango nests it, and the parser stops at 128.
        let mut waiting = vec![self];
        while let Some(held) = waiting.pop() {
            let type_code = held.type_name.as_deref().and_then(|name| definitions::r4().type_code(name));
            if let (Some(type_code), Some(id)) = (type_code, held.id.as_deref()) {
                into.insert((type_code, id.into()));
            }
            let mut parts: Vec<&Part<'_>> = held.entry.iter().chain(&held.parameter).collect();
            while let Some(part) = parts.pop() {
                let is_here = |url: &str| url.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'));
                let elsewhere = part.full_url.as_deref().is_some_and(|url| url.contains("://") && !is_here(url));
                // What comes without what contains it is a part of that.
                let container = part.full_url.as_deref().filter(|url| is_here(url)).and_then(|url| url.split_once('#')).map(|(url, _)| url);
                let mut names = container.into_iter().flat_map(|url| url.rsplitn(3, '/'));
                if let (Some(id), Some(type_code)) = (names.next(), names.next().and_then(|name| definitions::r4().type_code(name))) {
                    into.insert((type_code, id.into()));
                }
                waiting.extend(part.resource.as_deref().filter(|_| !elsewhere && container.is_none()));
                parts.extend(&part.part);
            }
        }
    }

    /// Entries of a batch that were refused, with the status of each.
    fn refusals(&self) -> Vec<(usize, u16)> {
        let status = |part: &Part<'_>| -> Option<u16> { part.response.as_ref()?.status.as_deref()?.get(..3)?.parse().ok() };
        let entries = self.entry.iter().enumerate();
        entries.filter_map(|(place, part)| Some((place, status(part)?))).filter(|(_, status)| *status >= 400).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_in_an_answer_is_found_and_nothing_else() {
        let body = r#"{"resourceType":"Bundle","id":"x","type":"batch-response","entry":[
            {"resource":{"resourceType":"Patient","id":"a","contained":[{"resourceType":"Patient","id":"c"}],"type":{"text":"x"},"n":1.50}},
            {"response":{"status":"404 Not Found"}},
            {"fullUrl":"https://holder/fhir/Observation/h","resource":{"resourceType":"Observation","id":"h"}},
            {"fullUrl":"https://here/fhir/Bundle/b","resource":{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Observation","id":"o","valueQuantity":{"value":1e3}}}]}},
            {"resource":{"resourceType":"Parameters","parameter":[{"name":"p","part":[{"name":"q","resource":{"resourceType":"List","id":"l","entry":[{"item":{"reference":"Patient/z"}}]}}]}]}}]}"#;
        let held: Held<'_> = serde_json::from_str(body).unwrap();
        let mut names = HashSet::new();
        held.names("https://here/fhir", &mut names);
        let mut names: Vec<String> = names.into_iter().map(|(code, id)| format!("{}/{id}", definitions::r4().type_name(code))).collect();
        names.sort();
        assert_eq!(names, ["Bundle/x", "List/l", "Observation/o", "Patient/a"]);
        assert_eq!(held.refusals(), [(1, 404)]);
        assert_eq!(held.kind.as_ref().and_then(Kind::as_deref), Some("batch-response"));
    }
}
