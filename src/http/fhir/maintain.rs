//! `$expunge` and `$reindex`: for whoever runs lango.
//!
//! `$expunge` takes the parameters of HAPI: `limit`, `expungeDeletedResources`, `expungePreviousVersions`, `expungeEverything`; and `dryRun`,
//! which only says how much there is. `$reindex` has everything stored indexed again while the server serves; asked by GET, it says how far
//! that is.

use super::super::error::Failure;
use super::answer::Answer;
use super::operation::{parsed, unknown};
use super::target::OperationTarget;
use super::{Call, FORM};
use crate::access::{Interaction, Role};
use crate::app::{REINDEX_JOB, Reindex};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::{Refusal, RefusalKind};
use crate::store::expunge::{Expunge, Expunged};
use crate::store::{JobRow, Unit};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Resources and versions that one call removes when it does not say, and at most.
const DEFAULT_LIMIT: u32 = 1_000;
const MOST: u32 = 100_000;
/// Jobs that are told of.
const JOBS: u32 = 20;

/// Removes for good what was deleted, old versions, or everything.
pub async fn expunge(call: &Call<'_>, operation: &OperationTarget, body: Option<Bytes>) -> Result<Answer, Failure> {
    let Some(body) = body else { return Err(Failure::method_not_allowed("POST")) };
    operator(call)?;
    let r4 = definitions::r4();
    let named = operation.type_code.map(|type_code| r4.type_name(type_code));
    for type_name in r4.resource_types().iter().filter(|name| named.is_none_or(|named| named == **name)) {
        call.caller.require_all(type_name, Interaction::Delete).map_err(Refusal::from)?;
    }
    let given = Given::read(call, body).await?;
    given.only(&["limit", "expungeDeletedResources", "expungePreviousVersions", "expungeEverything", "dryRun", "confirm"], &[])?;
    let dry = given.flag("dryRun")?;
    let of = operation.type_code.map(|type_code| (type_code, operation.id.clone()));
    if given.flag("expungeEverything")? {
        return everything(call, of.is_some(), dry, &given).await;
    }
    let limit = match given.value("limit") {
        None => DEFAULT_LIMIT,
        Some(value) => number(value).filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| bad("limit", "a number from 1 to 100000"))?,
    };
    let asked = Expunge { of, deleted: given.flag("expungeDeletedResources")?, previous: given.flag("expungePreviousVersions")?, limit };
    if !asked.deleted && !asked.previous {
        let words = "Say what is to go: expungeDeletedResources, expungePreviousVersions, or both, as true.";
        return Err(Failure::bad_request(words));
    }
    let store = &call.state.store;
    let removed = if dry { store.expungeable(&asked).await? } else { store.expunge(&asked).await? };
    Ok(told(removed, dry))
}

/// Everything goes only when the whole server is meant and the operator's own code is repeated.
async fn everything(call: &Call<'_>, partly: bool, dry: bool, given: &Given) -> Result<Answer, Failure> {
    let operator = &call.state.settings.operator.code;
    if partly {
        return Err(Failure::bad_request("expungeEverything is asked of the whole server: POST /fhir/$expunge."));
    }
    if dry {
        let all = Expunge { deleted: true, previous: true, limit: MOST, of: None };
        return Ok(told(call.state.store.expungeable(&all).await?, true));
    }
    if given.value("confirm").and_then(Value::as_str) != Some(operator) {
        let words = "This removes every record of every facility. Repeat the code of the operator (operator.code) in the parameter `confirm` if that is meant.";
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, Issue::error(IssueCode::BusinessRule, words).at("confirm")));
    }
    tracing::warn!(client = call.caller.client.as_deref(), "everything is expunged");
    Ok(told(call.state.store.expunge_everything().await?, false))
}

fn told(removed: Expunged, dry: bool) -> Answer {
    let parameter = |name: &str, count: u64| json!({ "name": name, "valueInteger": i32::try_from(count).unwrap_or(i32::MAX) });
    let parameters = json!({ "resourceType": "Parameters", "parameter": [
        parameter("count", removed.total()),
        parameter("resources", removed.resources),
        parameter("versions", removed.versions),
        { "name": "dryRun", "valueBoolean": dry },
    ] });
    Answer::ok(parameters.to_string())
}

/// Has what is stored indexed again, or tells how far that is.
pub async fn reindex(call: &Call<'_>, body: Option<Bytes>) -> Result<Answer, Failure> {
    operator(call)?;
    let Some(body) = body else {
        let warnings = unknown(call, &[], None)?;
        return Ok(Answer { warnings, ..progress(call, StatusCode::OK).await? });
    };
    let given = Given::read(call, body).await?;
    given.only(&["fromZone"], &["type"])?;
    let r4 = definitions::r4();
    let mut types = Vec::new();
    for value in given.values("type") {
        let name = value.as_str().filter(|name| r4.type_code(name).is_some());
        types.push(name.ok_or_else(|| bad("type", "a resource type of FHIR R4"))?.to_owned());
    }
    let from_zone = given.value("fromZone").map(|value| value.as_str().unwrap_or_default().to_owned());
    if from_zone.as_deref().is_some_and(|zone| jiff::tz::TimeZone::get(zone).is_err()) {
        return Err(bad("fromZone", "a time zone, such as Africa/Nairobi"));
    }
    if types.is_empty() {
        types.push("*".to_owned());
    }
    let job = Reindex { parameter: None, types, after: 0, done: 0, unread: 0, from_zone }.job(0);
    call.state.store.commit(Unit { jobs: vec![job], ..Unit::default() }).await.map_err(Refusal::from)?;
    progress(call, StatusCode::ACCEPTED).await
}

/// The newest jobs, in the state that they are in.
async fn progress(call: &Call<'_>, status: StatusCode) -> Result<Answer, Failure> {
    let jobs = call.state.store.jobs(Some(REINDEX_JOB), None, JOBS).await?;
    let jobs: Vec<Value> = jobs.iter().map(told_of).collect();
    let body = json!({ "resourceType": "Parameters", "parameter": jobs }).to_string();
    let location = (status == StatusCode::ACCEPTED).then(|| format!("{}/$reindex", call.state.base_url()));
    Ok(Answer { status, location, ..Answer::ok(body) })
}

fn told_of(job: &JobRow) -> Value {
    let said: Option<Reindex> = serde_json::from_value(job.result.clone().unwrap_or_else(|| job.payload.clone())).ok();
    let mut parts = vec![json!({ "name": "id", "valueString": job.id.to_string() }), json!({ "name": "state", "valueCode": job.state })];
    if let Some(said) = said {
        let done = i32::try_from(said.done).unwrap_or(i32::MAX);
        parts.push(json!({ "name": "resources", "valueInteger": done }));
        if said.unread > 0 {
            parts.push(json!({ "name": "unread", "valueInteger": i32::try_from(said.unread).unwrap_or(i32::MAX) }));
        }
        parts.extend(said.types.first().map(|present| json!({ "name": "type", "valueString": present })));
    }
    json!({ "name": "job", "part": parts })
}

fn operator(call: &Call<'_>) -> Result<(), Failure> {
    if call.caller.has_role(Role::Operator) {
        return Ok(());
    }
    let words = "This is for whoever runs the server: the client needs the role operator.";
    Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)).into())
}

/// The parameters of a request, those of its body and of its URL.
struct Given(Vec<(String, Value)>);

impl Given {
    async fn read(call: &Call<'_>, body: Bytes) -> Result<Given, Failure> {
        let said = call.query.iter().filter(|(name, _)| !FORM.contains(&name.as_str()));
        let mut given: Vec<(String, Value)> = said.map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        if !body.is_empty() {
            let parameters = parsed(call, body).await?;
            let words = "Send a Parameters resource with nothing but a list of parameters, each with its name and one value.";
            given.extend(plain(&parameters).ok_or_else(|| Failure::bad_request(words))?);
        }
        Ok(Given(given))
    }

    /// That nothing else is asked, and nothing twice but what may be several, lenient or not: who writes `dryrun`, or that it is to be and not to be
    /// one, would have it removed, and nothing brings it back.
    fn only(&self, once: &[&str], often: &[&str]) -> Result<(), Failure> {
        for (place, (name, _)) in self.0.iter().enumerate().filter(|(_, (name, _))| !often.contains(&name.as_str())) {
            if !once.contains(&name.as_str()) {
                let known = [once, often].concat().join(", ");
                return Err(Failure::bad_request(format!("The operation takes only {known}: look at their spelling.")));
            }
            if self.0.iter().take(place).any(|(before, _)| before == name) {
                return Err(Failure::bad_request(format!("{name} may be given once, in the body or in the URL.")));
            }
        }
        Ok(())
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values(name).next()
    }

    fn flag(&self, name: &'static str) -> Result<bool, Failure> {
        match self.value(name).map(|value| (value.as_bool(), value.as_str())) {
            None | Some((Some(false), _) | (_, Some("false"))) => Ok(false),
            Some((Some(true), _) | (_, Some("true"))) => Ok(true),
            Some(_) => Err(bad(name, "true or false")),
        }
    }
}

/// The names and values of a Parameters resource that has nothing else.
fn plain(parameters: &Value) -> Option<Vec<(String, Value)>> {
    let members = parameters.as_object().filter(|members| members.get("resourceType").and_then(Value::as_str) == Some("Parameters"))?;
    if members.keys().any(|key| !matches!(key.as_str(), "resourceType" | "id" | "meta" | "implicitRules" | "language" | "parameter")) {
        return None;
    }
    let list = members.get("parameter").map_or(Some(&[][..]), |list| list.as_array().map(Vec::as_slice))?;
    let one = |part: &Value| {
        let (name, mut value) = (part.get("name")?.as_str()?, None);
        for (key, given) in part.as_object()? {
            match key.as_str() {
                "name" | "id" => {}
                key if key.starts_with("value") && value.is_none() => value = Some(given.clone()),
                _ => return None,
            }
        }
        Some((name.to_owned(), value?))
    };
    list.iter().map(one).collect()
}

fn number(value: &Value) -> Option<u32> {
    match value.as_str() {
        Some(text) => text.parse().ok(),
        None => u32::try_from(value.as_u64()?).ok(),
    }
}

fn bad(name: &'static str, what: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Value, format!("The parameter's value must be {what}.")).at(name))
}
