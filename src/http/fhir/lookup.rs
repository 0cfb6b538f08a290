//! `Patient/$record-lookup`: what one may see of a person's records, whoever holds them.
//!
//! Parameters: `patient` (a reference) or `identifier`; `purpose` and `reason`, which only repeat what the token carries signed; `since`;
//! `type` and `holder`, each 0..*; `_count`. The answer is a searchset whose entries name their source, and an OperationOutcome that says for each holder
//! what came of it. It is the same for a person whom nobody knows, one who has no records and one who allows nothing.
//!
//! A page continues by `GET …/$record-lookup?_page=TOKEN`. The token holds the question sealed, so no identifier stands in a URL.

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::target::OperationTarget;
use crate::access::{self, Code, Interaction, Reach};
use crate::definitions::{self, TypeCode};
use crate::exchange::{Glass, Person, Sought};
use crate::fhir::time::{Micros, format_instant, now, parse_interval};
use crate::fhir::{Issue, IssueCode, Reference};
use crate::ingest::{Refusal, RefusalKind};
use crate::search::cursor::LIFETIME;
use crate::store::query::{Filter, Query, Snapshot, SystemTest, Test};
use crate::store::records::Records;
use crate::store::{Cursor, FacilityKey, Scope, Store, Stored};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = "_page";
/// Where an entry says whose it is.
const SOURCE: &str = "https://lango.health/fhir/StructureDefinition/record-source";
const OUTCOME: &str = "https://lango.health/fhir/CodeSystem/lookup-outcome";
/// Bytes of a given reason, and how many types or holders may be named.
const LONGEST_REASON: usize = 1024;
const MOST_NAMED: usize = 200;

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    sought: Sought,
    purpose: Option<Code>,
    /// Empty: all types of the patient compartment.
    types: Vec<TypeCode>,
    /// Codes of facilities; empty: all.
    holders: Vec<String>,
    since: Option<Micros>,
    count: Option<u32>,
}

/// A question on its way through pages.
#[derive(Serialize, Deserialize)]
struct Walk {
    ids: BTreeSet<String>,
    types: Vec<TypeCode>,
    /// Names of types were given: each must be within the scopes.
    owners: Option<Vec<FacilityKey>>,
    since: Option<Micros>,
    count: u32,
    /// The glass was broken for it.
    glass: bool,
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
    let mut owners = Vec::with_capacity(question.holders.len());
    for code in &question.holders {
        let key = if *code == state.settings.operator.code { Some(0) } else { state.store.known_facility(code).await? };
        owners.extend(key);
    }
    let owners = (!question.holders.is_empty()).then_some(owners);
    let mut asked = Asked {
        person,
        types,
        owners,
        since: question.since,
        count: count(call, question.count),
        scope: caller.scope.clone(),
        glass: false,
    };
    let mut released = state.store.record_owners(&asked.records()).await?;
    if let Some(glass) = Glass::of(&state.app, caller)
        && let Some(scope) = glass.scope(&asked.person).await?
    {
        let wider = Asked { scope, glass: true, ..asked.clone() };
        let by_glass = state.store.record_owners(&wider.records()).await?;
        // Nobody is alarmed for what the patient allows anyway.
        if total(&by_glass) > total(&released) && glass.open(&wider.person).await? {
            (asked, released) = (wider, by_glass);
        }
    }
    let whole = asked.types.iter().all(|code| reach(call, *code) == Reach::Everything);
    answer(call, &asked, None, Some(First { holders: &question.holders, released, whole })).await
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
    if walk.glass
        && let Some(glass) = Glass::of(&call.state.app, call.caller)
        && let Some(wider) = glass.scope(&person).await?
        && glass.open(&person).await?
    {
        scope = wider;
    }
    let asked = Asked { person, types: walk.types, owners: walk.owners, since: walk.since, count: walk.count, scope, glass: walk.glass };
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
    glass: bool,
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
            patients: self.person.keys.clone(),
            params: params.collect(),
            own: patient.filter(|patient| self.types.contains(patient)),
            owners: self.owners.clone(),
            since: self.since,
            scope: self.scope.clone(),
        }
    }
}

/// What the first page says besides.
struct First<'a> {
    /// As they were asked for.
    holders: &'a [String],
    released: Vec<(FacilityKey, i64)>,
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
        bundle["total"] = json!(if page.next.is_none() { rows.len() as i64 } else { total(&first.released) });
    }
    let url = format!("{}/Patient/$record-lookup", call.state.base_url());
    let mut links = vec![json!({ "relation": "self", "url": url })];
    if let Some(next) = &page.next {
        let walk = Walk {
            ids: asked.person.ids.clone(),
            types: asked.types.clone(),
            owners: asked.owners.clone(),
            since: asked.since,
            count: asked.count,
            glass: asked.glass,
            began,
            below: next.snapshot.below,
            except: next.snapshot.except.clone(),
            after: next.after_key,
        };
        let token = call.state.cursor_key.seal_bytes(&serde_json::to_vec(&walk).map_err(Refusal::internal)?, &binding(call));
        links.push(json!({ "relation": "next", "url": format!("{url}?{PAGE}={token}") }));
    }
    bundle["link"] = Value::Array(links);
    let mut out = serde_json::to_vec(&bundle).map_err(Refusal::internal)?;
    out.pop();
    let mut before: &[u8] = b",\"entry\":[";
    for row in &rows {
        let Some(body) = &row.body else { continue };
        let name = definitions::r4().type_name(row.type_code);
        let source = json!([{ "url": SOURCE, "valueReference": sources.of(row.owner).await?.reference }]);
        out.extend_from_slice(before);
        before = b",";
        let head = format!(r#"{{"extension":{source},"fullUrl":"{}/{name}/{}","resource":"#, call.state.base_url(), row.id);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(br#","search":{"mode":"match"}}"#);
    }
    if let Some(first) = first {
        let released: Vec<(FacilityKey, Option<i64>)> = if whole {
            first.released.iter().map(|(owner, records)| (*owner, Some(*records))).collect()
        } else {
            rows.iter().map(|row| row.owner).collect::<BTreeSet<_>>().into_iter().map(|owner| (owner, None)).collect()
        };
        let outcome = outcomes(&mut sources, first.holders, &released, asked.glass).await?;
        out.extend_from_slice(before);
        before = b",";
        out.extend_from_slice(format!(r#"{{"resource":{outcome},"search":{{"mode":"outcome"}}}}"#).as_bytes());
    }
    out.extend_from_slice(if before == b"," { b"]}" } else { b"}" });
    Ok(Answer::ok(out))
}

/// What came of it, holder by holder. Those who have nothing, those whose records may not leave and those whom nobody knows read alike.
async fn outcomes(
    sources: &mut Sources<'_>,
    holders: &[String],
    released: &[(FacilityKey, Option<i64>)],
    glass: bool,
) -> Result<Value, Failure> {
    let issue = |code: &str, text: &str, words: String| json!({ "severity": "information", "code": "informational", "details": { "coding": [{ "system": OUTCOME, "code": code }], "text": text }, "diagnostics": words });
    let mut issues = Vec::new();
    let mut named = BTreeSet::new();
    for (owner, records) in released {
        let source = sources.of(*owner).await?;
        let words = match records {
            Some(records) => format!("{}: {records} records.", source.code),
            None => format!("{}: records.", source.code),
        };
        issues.push(issue("released", &source.code, words));
        named.insert(source.code);
    }
    for code in holders.iter().filter(|code| !named.contains(*code)).collect::<BTreeSet<_>>() {
        issues.push(issue("nothing-to-release", code, format!("{code}: nothing that may be released.")));
    }
    if glass {
        issues.push(issue("break-glass", "Opened in an emergency", "The patient and the privacy officer are told.".to_owned()));
    }
    let words = "What does not exist and what the patient does not release are not told apart.";
    issues.push(issue("complete", "All holders answered", words.to_owned()));
    Ok(json!({ "resourceType": "OperationOutcome", "issue": issues }))
}

/// Facilities as entries name them.
struct Sources<'a> {
    call: &'a Call<'a>,
    known: BTreeMap<FacilityKey, Source>,
}

#[derive(Clone)]
struct Source {
    code: String,
    reference: Value,
}

impl<'a> Sources<'a> {
    fn new(call: &'a Call<'a>) -> Sources<'a> {
        Sources { call, known: BTreeMap::new() }
    }

    async fn of(&mut self, owner: FacilityKey) -> Result<Source, Failure> {
        if let Some(source) = self.known.get(&owner) {
            return Ok(source.clone());
        }
        let settings = &self.call.state.settings;
        let store = &self.call.state.store;
        let (code, name) = match owner {
            0 => (settings.operator.code.clone(), Some(settings.operator.name.clone())),
            owner => {
                let code = store.facility_code(owner).await?.unwrap_or_default();
                let name = facility_name(store, &settings.systems.facility, &code, owner).await?;
                (code, name)
            }
        };
        let mut reference = json!({ "type": "Organization", "identifier": { "system": settings.systems.facility, "value": code } });
        if let Some(name) = name {
            reference["display"] = json!(name);
        }
        let source = Source { code, reference };
        self.known.insert(owner, source.clone());
        Ok(source)
    }
}

/// The name in the facility's Organization, as the operator or the facility itself gives it.
async fn facility_name(store: &Store, system: &str, code: &str, owner: FacilityKey) -> Result<Option<String>, sqlx::Error> {
    let r4 = definitions::r4();
    let Some(type_code) = r4.type_code("Organization") else { return Ok(None) };
    let Some(param) = r4.param(type_code, "identifier") else { return Ok(None) };
    let test = Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(code.to_owned()) };
    let filters = vec![Filter::Param { param: param.id, tests: vec![test] }];
    let query = Query { type_code, filters, scope: Scope::Owners(vec![0, owner]), sort: Vec::new() };
    let page = store.search(&query, MOST_NAMED as u32, None).await?;
    let believed = page.rows.iter().filter(|stored| stored.owner == 0 || stored.owner == owner).min_by_key(|stored| stored.owner);
    let organization: Option<Value> = believed.and_then(|stored| serde_json::from_slice(stored.body.as_ref()?).ok());
    Ok(organization.and_then(|organization| Some(organization.get("name")?.as_str()?.to_owned())))
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

/// Reads the Parameters, every problem at once.
fn question(call: &Call<'_>, operation: &OperationTarget, parameters: &Value) -> Result<Question, Failure> {
    let mut issues = Vec::new();
    if parameters.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(Failure::bad_request("The body must be a Parameters resource."));
    }
    let mut sought: Vec<Sought> = operation.id.iter().map(|id| Sought::Patient(id.clone())).collect();
    let (mut purpose, mut since, mut asked_count) = (None, None, None);
    let (mut types, mut holders) = (Vec::new(), Vec::new());
    let list = parameters.get("parameter").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (place, parameter) in list.iter().enumerate() {
        let mut wrong = |words: &str| issues.push(Issue::error(IssueCode::Value, words).at(format!("Parameters.parameter[{place}]")));
        let value =
            parameter.as_object().and_then(|members| members.iter().find(|(key, _)| key.starts_with("value"))).map(|(_, value)| value);
        let text = value.and_then(Value::as_str).filter(|text| !text.is_empty());
        match (parameter.get("name").and_then(Value::as_str).unwrap_or_default(), value) {
            ("patient", Some(value)) => match patient(call, value) {
                Some(found) => sought.push(found),
                None => {
                    wrong("patient is a reference to a Patient of this server, or one with an identifier that has a system and a value.")
                }
            },
            ("identifier", Some(value)) => match identifier(value) {
                Some(found) => sought.push(found),
                None => wrong("identifier is an Identifier with system and value, or system|value."),
            },
            ("purpose", Some(value)) => match code(value) {
                Some(code) => purpose = Some(code),
                None => wrong("purpose is a code or a Coding."),
            },
            ("reason", Some(_)) if text.is_some_and(|text| text.len() <= LONGEST_REASON) => {}
            ("reason", Some(_)) => wrong("reason is a text of at most 1024 bytes."),
            ("since", Some(_)) => match text.and_then(|text| parse_interval(text, &call.state.zone)) {
                Some(interval) => since = Some(interval.low),
                None => wrong("since is a date, a dateTime or an instant."),
            },
            ("type", Some(_)) => match text
                .and_then(|name| definitions::r4().type_code(name))
                .filter(|code| !definitions::r4().patient_compartment(*code).is_empty())
            {
                Some(code) if types.contains(&code) => {}
                Some(code) => types.push(code),
                None => wrong("type is a resource type of the patient compartment."),
            },
            ("holder", Some(value)) if holders.len() < MOST_NAMED => match holder(call, value) {
                Some(code) => holders.push(code),
                None => wrong("holder is a facility's code, or a reference with its identifier."),
            },
            ("_count", Some(value)) => match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
                Some(count) => asked_count = Some(count),
                None => wrong("_count is a number."),
            },
            (_, None) => wrong("A parameter has a name and a value."),
            _ => wrong("$record-lookup takes patient or identifier, purpose, reason, since, type, holder and _count."),
        }
    }
    if issues.is_empty() && sought.len() != 1 {
        issues.push(Issue::error(IssueCode::Required, "Name one person: by patient, or by identifier.").at("Parameters.parameter"));
    }
    match (sought.pop(), issues.is_empty()) {
        (Some(sought), true) => Ok(Question { sought, purpose, types, holders, since, count: asked_count }),
        _ => Err(Failure::of_issues(StatusCode::BAD_REQUEST, issues)),
    }
}

fn patient(call: &Call<'_>, value: &Value) -> Option<Sought> {
    if let Some(found) = value.get("identifier") {
        return identifier(found);
    }
    let text = value.as_str().or_else(|| value.get("reference")?.as_str())?;
    match Reference::parse_at(text, call.state.base_url())? {
        Reference::Local { type_name: "Patient", id, .. } => Some(Sought::Patient(id.to_owned())),
        _ => None,
    }
}

fn identifier(value: &Value) -> Option<Sought> {
    let (system, value) = match value.as_str() {
        Some(token) => token.split_once('|')?,
        None => (value.get("system")?.as_str()?, value.get("value")?.as_str()?),
    };
    let (system, value) = (system.trim().to_owned(), value.trim().to_owned());
    (!system.is_empty() && !value.is_empty()).then_some(Sought::Identifier { system, value })
}

fn code(value: &Value) -> Option<Code> {
    let value = value.pointer("/coding/0").unwrap_or(value);
    match value.as_str() {
        Some(code) => Some(Code { system: None, code: code.to_owned() }).filter(|code| !code.code.is_empty()),
        None => {
            let system = value.get("system").and_then(Value::as_str).map(str::to_owned);
            Some(Code { system, code: value.get("code")?.as_str()?.to_owned() })
        }
    }
}

/// The facility's code.
fn holder(call: &Call<'_>, value: &Value) -> Option<String> {
    let system = &call.state.settings.systems.facility;
    let identifier = value.get("identifier").unwrap_or(value);
    let code = match identifier.as_str() {
        Some(text) => text.strip_prefix(system.as_str()).and_then(|rest| rest.strip_prefix('|')).unwrap_or(text),
        None if identifier.get("system").and_then(Value::as_str) == Some(system) => identifier.get("value")?.as_str()?,
        None => return None,
    };
    Some(code.trim().to_owned()).filter(|code| !code.is_empty() && code.len() <= access::MAX_FACILITY_CODE)
}
