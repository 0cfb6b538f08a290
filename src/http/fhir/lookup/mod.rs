//! `Patient/$record-lookup`: what one may see of a person's records, whoever holds them.
//!
//! Parameters: `patient` (a reference) or `identifier`; `purpose` and `reason`, which only repeat what the token carries signed; `since`;
//! `type` and `holder`, each 0..*; `_count`. The answer is a searchset whose entries name their source, and an OperationOutcome that says for each holder
//! what came of it. It is the same for a person whom nobody knows, one who has no records and one who allows nothing.
//!
//! What holders answer that keep their records to themselves comes with the first page, whatever `_count` says, because nothing of it is kept for a second. What is here too comes from here, once.
//!
//! Another lango is told what labels a resource inherited here, since it decides on it and cannot know what it came in.
//!
//! A page continues by `GET …/$record-lookup?_page=TOKEN`. The token holds the question sealed, so no identifier stands in a URL.

mod outcome;
mod question;

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::target::OperationTarget;
use crate::access::consent::labels_of_bundle;
use crate::access::consent::vocabulary::Coding;
use crate::access::gate::label_of;
use crate::access::{self, Interaction, Reach};
use crate::definitions::{self, TypeCode};
use crate::exchange::holders::{Held, VIA, disclose};
use crate::exchange::{Away, Emergency, Glass, Person, Wanted};
use crate::fhir::time::{Micros, format_instant, now};
use crate::fhir::{Issue, IssueCode};
use crate::ingest::draft::with_labels;
use crate::ingest::{Refusal, RefusalKind};
use crate::search::cursor::LIFETIME;
use crate::store::query::Snapshot;
use crate::store::records::Records;
use crate::store::{Cursor, FacilityKey, ResourceKey, Scope, Stored};
use axum::http::{StatusCode, header};
use outcome::{Sources, outcomes};
use question::{Question, question};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

const PAGE: &str = "_page";
/// Where an entry says whose it is.
const SOURCE: &str = "https://lango.health/fhir/StructureDefinition/record-source";
/// How many types or holders may be named.
const MOST_NAMED: usize = 200;

/// A question on its way through pages.
#[derive(Serialize, Deserialize)]
struct Walk {
    ids: BTreeSet<String>,
    types: Vec<TypeCode>,
    /// Names of types were given: each must be within the scopes.
    owners: Option<Vec<FacilityKey>>,
    since: Option<Micros>,
    count: u32,
    /// Those for whom the glass was broken.
    opened: BTreeSet<String>,
    began: Micros,
    below: i64,
    except: Vec<i64>,
    after: i64,
}

/// Runs the operation with a Parameters resource, or continues it.
pub async fn lookup(call: &Call<'_>, operation: &OperationTarget, sent: Option<Value>) -> Result<Answer, Failure> {
    match sent {
        Some(parameters) => begin(call, question(call, operation, &parameters)?).await,
        None => match call.query.iter().find(|(name, _)| name == PAGE) {
            Some((_, token)) => go_on(call, token).await,
            None => Err(Failure::method_not_allowed("POST")),
        },
    }
}

async fn begin(call: &Call<'_>, question: Question) -> Result<Answer, Failure> {
    let (state, caller) = (call.state, call.caller);
    if let Some(asked) = &question.purpose {
        let asked = access::purpose(asked);
        if !caller.is_unrestricted() && !caller.claimed.purposes.iter().any(|signed| access::purpose(signed) == asked) {
            let words = "The access token does not carry this purpose signed: ask for a token with it. The parameter only repeats a signed purpose.";
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words).at("Parameters.parameter")).into());
        }
    }
    for type_code in &question.types {
        call.require(*type_code, Interaction::Read)?;
    }
    let limits = &state.settings.limits;
    let client = caller.client.as_deref().unwrap_or_default();
    let paced = caller.client.is_some();
    if paced && !state.lookups.allows(client, limits.lookups_per_client, &question.sought.words(), limits.lookups_per_patient) {
        let words = "So many lookups in a minute are more than the operator allows: come back when the minute is over.";
        let refused: Failure = Refusal::new(RefusalKind::Throttled, Issue::error(IssueCode::Throttled, words)).into();
        return Err(Failure { retry_after: Some(60), ..refused });
    }
    let types = if question.types.is_empty() { readable(call)? } else { question.types };
    let person = Person::find(&state.registry, &state.store, &question.sought, &caller.scope).await.map_err(Refusal::internal)?;
    person.is_asked_for();
    let mut owners = Vec::with_capacity(question.holders.len());
    for code in &question.holders {
        let key = if *code == state.settings.operator.code { Some(0) } else { state.store.known_facility(code).await? };
        owners.extend(key);
    }
    let owners = (!question.holders.is_empty()).then_some(owners);
    let mut asked = Asked {
        person: person.as_named(),
        types,
        owners,
        since: question.since,
        count: count(call, question.count),
        scope: caller.scope.clone(),
        opened: Emergency::default(),
    };
    let glass = match Glass::of(&state.app, caller) {
        Some(glass) => {
            let meant =
                person.in_emergency(&state.registry, &state.store, &question.sought, &caller.scope).await.map_err(Refusal::internal)?;
            glass.whom(meant).await?.map(|whom| (glass, whom))
        }
        None => None,
    };
    let away = if is_asked_by_lango(call) {
        Away::default()
    } else {
        let wanted = Wanted { types: asked.types.clone(), owners: asked.owners.clone(), since: asked.since };
        let whom = if glass.is_some() { &person } else { &asked.person };
        Away::ask(&state.app, caller, whom, &wanted, glass.as_ref().map(|(_, whom)| &whom.person)).await?
    };
    let mut held = if person.by_hidden_name { Held::default() } else { away.release(&state.app, caller, None).await? };
    let mut released = state.store.record_owners(&asked.records()).await?;
    if let Some((glass, opened)) = glass {
        // Of those whom it does not open, what the caller may see anyway.
        let person = if person.by_hidden_name { opened.person.clone() } else { person };
        let wider = Asked { person, scope: glass.scope(&opened.person), opened, ..asked.clone() };
        let by_glass = state.store.record_owners(&wider.records()).await?;
        let held_by_glass = away.release(&state.app, caller, Some(&wider.opened.person)).await?;
        // Nobody is alarmed for what the patient allows anyway.
        let is_more = total(&by_glass) > total(&released) || held_by_glass.records.len() > held.records.len();
        if is_more && glass.open(&wider.opened).await? {
            (asked, released, held) = (wider, by_glass, held_by_glass);
        }
    }
    held.without(&state.app, caller, &asked.records()).await?;
    disclose(held.records.iter().copied());
    let whole = asked.types.iter().all(|code| reach(call, *code) == Reach::Everything);
    answer(call, &asked, None, Some(First { holders: &question.holders, released, held, whole })).await
}

/// Another lango asks what is here: it asks the others itself.
fn is_asked_by_lango(call: &Call<'_>) -> bool {
    let via = call.headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    via.flat_map(|value| value.split([',', ' '])).any(|part| part == VIA)
}

async fn go_on(call: &Call<'_>, token: &str) -> Result<Answer, Failure> {
    let walk = call.state.cursor_key.open_bytes(token, &binding(call)).ok().and_then(|bytes| serde_json::from_slice::<Walk>(&bytes).ok());
    let walk = walk
        .ok_or_else(|| Failure::bad_request("The page token does not belong to this caller: follow the links of the answer unchanged."))?;
    if now().saturating_sub(walk.began) > LIFETIME {
        let words = "The page token is more than a day old: ask again.";
        return Err(Failure::new(StatusCode::GONE, Issue::error(IssueCode::Deleted, words)));
    }
    for type_code in &walk.types {
        call.require(*type_code, Interaction::Read)?;
    }
    let person = Person::of(&call.state.store, walk.ids.clone()).await?;
    let mut scope = call.caller.scope.clone();
    let opened = Emergency { person: Person::of(&call.state.store, walk.opened).await?, owners: Vec::new() };
    if !opened.person.ids.is_empty()
        && let Some(glass) = Glass::of(&call.state.app, call.caller)
        && let Some(whom) = glass.whom(opened.clone()).await?
        && glass.open(&whom).await?
    {
        scope = glass.scope(&whom.person);
    }
    let asked = Asked { person, types: walk.types, owners: walk.owners, since: walk.since, count: walk.count, scope, opened };
    let snapshot = Snapshot { below: walk.below, except: walk.except };
    let cursor = Cursor { snapshot, after: Vec::new(), after_key: walk.after };
    answer(call, &asked, Some((cursor, walk.began)), None).await
}

/// What the store is asked.
#[derive(Clone)]
struct Asked {
    person: Person,
    types: Vec<TypeCode>,
    owners: Option<Vec<FacilityKey>>,
    since: Option<Micros>,
    count: u32,
    scope: Scope,
    opened: Emergency,
}

impl Asked {
    fn records(&self) -> Records {
        let r4 = definitions::r4();
        let patient = r4.type_code("Patient");
        let params = self.types.iter().filter(|code| Some(**code) != patient).flat_map(|code| {
            let params = r4.patient_compartment(*code).iter();
            params.filter_map(|param| Some(r4.param(*code, param)?.id))
        });
        Records {
            of: self.person.keys.clone(),
            params: params.collect(),
            own: patient.filter(|patient| self.types.contains(patient)),
            owners: self.owners.clone(),
            since: self.since,
            during: None,
            scope: self.scope.clone(),
        }
    }
}

/// What the first page says besides.
struct First<'a> {
    /// As they were asked for.
    holders: &'a [String],
    released: Vec<(FacilityKey, i64)>,
    /// From holders that keep their records.
    held: Held<'a>,
    /// The scopes reach every record of the types, so that counts of the store are counts of the answer.
    whole: bool,
}

async fn answer(call: &Call<'_>, asked: &Asked, from: Option<(Cursor, Micros)>, first: Option<First<'_>>) -> Result<Answer, Failure> {
    let store = &call.state.store;
    let page = store.records(&asked.records(), asked.count, from.as_ref().map(|(cursor, _)| cursor)).await?;
    let began = from.map_or_else(now, |(_, began)| began);
    let rows: Vec<Stored> = page.rows.into_iter().filter(|row| call.admits(row)).collect();
    let mut sources = Sources::new(call);
    let mut bundle = json!({
        "resourceType": "Bundle",
        "id": uuid::Uuid::new_v4().to_string(),
        "meta": { "lastUpdated": format_instant(began) },
        "type": "searchset",
    });
    let whole = first.as_ref().is_some_and(|first| first.whole);
    if let Some(first) = first.as_ref().filter(|first| first.whole) {
        let here = if page.next.is_none() { rows.len() as i64 } else { total(&first.released) };
        bundle["total"] = json!(here.saturating_add(first.held.records.len() as i64));
    }
    let url = format!("{}/Patient/$record-lookup", call.state.base_url());
    let mut links = vec![json!({ "relation": "self", "url": call.in_this_form(&url) })];
    if let Some(next) = &page.next {
        let walk = Walk {
            ids: asked.person.ids.clone(),
            types: asked.types.clone(),
            owners: asked.owners.clone(),
            since: asked.since,
            count: asked.count,
            opened: asked.opened.person.ids.clone(),
            began,
            below: next.snapshot.below,
            except: next.snapshot.except.clone(),
            after: next.after_key,
        };
        let token = call.state.cursor_key.seal_bytes(&serde_json::to_vec(&walk).map_err(Refusal::internal)?, &binding(call));
        links.push(json!({ "relation": "next", "url": call.in_this_form(&format!("{url}?{PAGE}={token}")) }));
    }
    bundle["link"] = Value::Array(links);
    let mut out = serde_json::to_vec(&bundle).map_err(Refusal::internal)?;
    out.pop();
    let mut before: &[u8] = b",\"entry\":[";
    let labels = if is_asked_by_lango(call) { labels_of(call, &rows).await? } else { HashMap::new() };
    for row in &rows {
        let Some(body) = &row.body else { continue };
        let body = match labels.get(&row.key) {
            Some(labels) => labelled(body, labels).map_err(Refusal::internal)?,
            None => Cow::Borrowed(&body[..]),
        };
        let name = definitions::r4().type_name(row.type_code);
        let source = json!([{ "url": SOURCE, "valueReference": sources.of(row.owner).await?.reference }]);
        out.extend_from_slice(before);
        before = b",";
        let head = format!(r#"{{"extension":{source},"fullUrl":"{}/{name}/{}","resource":"#, call.state.base_url(), row.id);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(br#","search":{"mode":"match"}}"#);
    }
    if let Some(first) = first {
        for record in &first.held.records {
            let source = json!([{ "url": SOURCE, "valueReference": sources.of(record.owner).await?.reference }]);
            out.extend_from_slice(before);
            before = b",";
            let entry = json!({ "extension": source, "fullUrl": record.url, "resource": record.body, "search": { "mode": "match" } });
            serde_json::to_writer(&mut out, &entry).map_err(Refusal::internal)?;
        }
        let mut counts = first.held.counts();
        let released: Vec<(FacilityKey, Option<i64>)> = if whole {
            for (owner, records) in &first.released {
                let count = counts.entry(*owner).or_default();
                *count = count.saturating_add(*records);
            }
            counts.into_iter().map(|(owner, records)| (owner, Some(records))).collect()
        } else {
            let owners: BTreeSet<FacilityKey> = rows.iter().map(|row| row.owner).chain(counts.into_keys()).collect();
            owners.into_iter().map(|owner| (owner, None)).collect()
        };
        let outcome = outcomes(&mut sources, first.holders, &released, &first.held.missing, !asked.opened.person.ids.is_empty()).await?;
        out.extend_from_slice(before);
        before = b",";
        out.extend_from_slice(format!(r#"{{"resource":{outcome},"search":{{"mode":"outcome"}}}}"#).as_bytes());
    }
    out.extend_from_slice(if before == b"," { b"]}" } else { b"}" });
    Ok(Answer::ok(out))
}

/// The labels by which is decided on these here, inherited ones too. Not of what the caller contributed itself and made name another's visit or result: the
/// labels would tell what that is, which may be hidden. To who asks, one that does not come with it might have any label.
async fn labels_of(call: &Call<'_>, rows: &[Stored]) -> Result<HashMap<ResourceKey, BTreeSet<Coding>>, Failure> {
    let owners = match &call.caller.scope {
        Scope::Gate(gate) => &gate.owners[..],
        _ => &[],
    };
    let own: Vec<ResourceKey> = rows.iter().filter(|row| owners.contains(&row.owner)).map(|row| row.key).collect();
    let others: HashSet<ResourceKey> = call.state.store.naming_others(&own, owners).await?.into_iter().collect();
    let keys: Vec<ResourceKey> = rows.iter().map(|row| row.key).filter(|key| !others.contains(key)).collect();
    let mut found: HashMap<ResourceKey, BTreeSet<Coding>> = HashMap::new();
    for (key, fact) in call.state.store.facts_of(&keys).await? {
        if let Some(label) = label_of(fact) {
            found.entry(key).or_default().insert(label);
        }
    }
    Ok(found)
}

/// The resource with those of the labels that it does not say itself.
fn labelled<'b>(body: &'b [u8], labels: &BTreeSet<Coding>) -> serde_json::Result<Cow<'b, [u8]>> {
    let resource: Value = serde_json::from_slice(body)?;
    let more = labels_of_bundle(&resource, labels);
    Ok(if more.is_empty() { Cow::Borrowed(body) } else { Cow::Owned(serde_json::to_vec(&with_labels(&resource, &more))?) })
}

fn total(released: &[(FacilityKey, i64)]) -> i64 {
    released.iter().map(|(_, records)| records).sum()
}

fn reach(call: &Call<'_>, type_code: TypeCode) -> Reach {
    call.caller.reach(definitions::r4().type_name(type_code), Interaction::Read)
}

/// The types of the patient compartment that the scopes reach, but for the record of who looked, which whoever wants it must name.
fn readable(call: &Call<'_>) -> Result<Vec<TypeCode>, Failure> {
    let r4 = definitions::r4();
    let names = r4.resource_types().iter().filter(|name| **name != "AuditEvent");
    let compartment = names.filter_map(|name| r4.type_code(name)).filter(|code| !r4.patient_compartment(*code).is_empty());
    let types: Vec<TypeCode> = compartment.filter(|code| reach(call, *code) != Reach::Nothing).collect();
    if types.is_empty()
        && let Some(patient) = r4.type_code("Patient")
    {
        call.require(patient, Interaction::Read)?;
    }
    Ok(types)
}

/// What a page token is bound to, besides the rights that are asked again.
fn binding(call: &Call<'_>) -> String {
    format!("record-lookup\n{:?}\n{}", call.caller.client, call.caller.scope.binding())
}

fn count(call: &Call<'_>, asked: Option<u32>) -> u32 {
    let limits = &call.state.settings.limits;
    asked.unwrap_or(limits.page_default).clamp(1, limits.page_max.max(1))
}
