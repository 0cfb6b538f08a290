//! Whether the AuditEvents that were made of the chain still say what it says.
//!
//! They are copies, outside the chain. What hangs on how the deployment calls itself, and words that another version would choose otherwise,
//! is not compared: only who, when, what, whose, why and with what outcome; and whether searches find each by that and by when it was made. While everything is indexed
//! anew by a new version the last is left out.

use super::resource::{Naming, audit_event};
use super::verify::Broken;
use super::{AuditError, Told, disclosure, told};
use crate::definitions;
use crate::fhir::time::{Micros, now, parse_interval};
use crate::search::extract;
use crate::store::audit::AUDIT;
use crate::store::indexed::Indexed;
use crate::store::{Sealed, Store, Stored};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::HashMap;

/// By how many microseconds clocks may differ, of processes and of one at different times.
const CLOCKS: Micros = 86_400_000_000;
/// Rows looked at together.
const PAGE: u32 = 200;
/// The kind of the jobs that index everything anew, and how many jobs are looked at.
const REINDEX_JOB: &str = "search.reindex";
const JOBS: u32 = 1_000;

/// The first AuditEvent that is missing, or says something else, of the rows after `after` up to `last`.
pub(super) async fn compare(store: &Store, after: i64, last: i64) -> Result<Option<Broken>, AuditError> {
    let Some(type_code) = definitions::r4().type_code("AuditEvent") else { return Ok(None) };
    let mut after = after;
    let settled = !store.jobs(Some(REINDEX_JOB), None, JOBS).await?.iter().any(|job| matches!(job.state.as_str(), "waiting" | "running"));
    loop {
        let mut rows = store.sealed_after(after, PAGE).await?;
        rows.retain(|row| row.position <= last);
        let Some(end) = rows.last() else { return Ok(None) };
        after = end.position;
        let events: Vec<(&Sealed, Told)> =
            rows.iter().flat_map(|row| told(row).unwrap_or_default().into_iter().map(move |told| (row, told))).collect();
        let mut keys: Vec<i64> = events.iter().map(|(_, told)| told.patient).filter(|patient| *patient > 0).collect();
        keys.sort_unstable();
        keys.dedup();
        let patients = store.ids_of(&keys).await?;
        let names: Vec<_> = events.iter().map(|(_, told)| (type_code, told.id.clone())).collect();
        let mut indexed: Vec<(i64, Indexed)> = Vec::new();
        let stored: HashMap<Box<str>, Stored> = store.read_many(&names).await?.into_iter().map(|row| (row.id.clone(), row)).collect();
        for (row, told) in &events {
            let patient = patients.get(&told.patient).map(String::as_str);
            if told.custodian.is_some() && patient.is_none() {
                // Whose it was is gone for good.
                continue;
            }
            match stored.get(told.id.as_str()) {
                Some(event)
                    if event.owner == row.owner
                        && event.version == 1
                        && event.patient == AUDIT
                        && is_dated(event, row)
                        && says(event, row, told, patient) =>
                {
                    indexed.push((row.position, found_by(event)));
                }
                Some(_) => return Ok(Some(Broken::Altered(row.position))),
                None if store.sealed_after(row.position - 1, 1).await?.first().is_some_and(|first| first.position == row.position) => {
                    return Ok(Some(Broken::Unpublished(row.position)));
                }
                // It went with its row meanwhile, for its age.
                None => {}
            }
        }
        if settled && let Some(broken) = unindexed(store, indexed).await? {
            return Ok(Some(broken));
        }
    }
}

/// The first row whose AuditEvent searches do not find.
async fn unindexed(store: &Store, indexed: Vec<(i64, Indexed)>) -> Result<Option<Broken>, AuditError> {
    let (positions, indexed): (Vec<i64>, Vec<Indexed>) = indexed.into_iter().unzip();
    let Some(key) = store.missed(&indexed).await? else { return Ok(None) };
    // It may have gone for its age between the two looks.
    let place = indexed.iter().position(|one| one.key == key).and_then(|place| positions.get(place)).copied().unwrap_or_default();
    let is_there = store.sealed_after(place - 1, 1).await?.first().is_some_and(|first| first.position == place);
    Ok(is_there.then_some(Broken::Unindexed(place)))
}

/// What it is found by whatever the deployment calls itself and looks for besides.
fn found_by(event: &Stored) -> Indexed {
    let resource = event.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()).unwrap_or_default();
    let entries = extract::extract(event.type_code, &resource, &extract::Options::default());
    Indexed { key: event.key, owner: event.owner, patient: event.patient, entries }
}

/// Whether it was made when it says, and that fits the event: after it, and not in the time to come. That nobody made it later than it was made
/// cannot be told.
fn is_dated(stored: &Stored, row: &Sealed) -> bool {
    let body = stored.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let said = body.as_ref().and_then(|body| parse_interval(body.pointer("/meta/lastUpdated")?.as_str()?, &TimeZone::UTC));
    let fits = row.at.saturating_sub(CLOCKS) <= stored.updated && stored.updated <= now().saturating_add(CLOCKS);
    fits && said.is_some_and(|said| said.low <= stored.updated && stored.updated < said.high)
}

fn says(stored: &Stored, row: &Sealed, told: &Told, patient: Option<&str>) -> bool {
    let Some(body) = &stored.body else { return false };
    let Ok(found) = serde_json::from_slice::<Value>(body) else { return false };
    let naming = Naming::default();
    let expected = match (told.custodian, patient) {
        (Some(_), Some(patient)) => disclosure::audit_event(row.at, told, patient, "", &naming),
        _ => audit_event(row.at, told, patient, &naming, false),
    };
    essence(&found, patient.is_some()) == essence(&expected, patient.is_some())
}

/// What an AuditEvent says, whatever it calls things by. `patient`: whom it is about is known still.
fn essence(event: &Value, patient: bool) -> Value {
    let list = |name: &str| event.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let agent = |agent: &Value| {
        let kind = agent.pointer("/type/coding/0/code");
        let is_own = agent.pointer("/who/type").is_some_and(|kind| kind == "Device");
        let is_custodian = kind.is_some_and(|code| code == disclosure::CUSTODIAN);
        let who = agent.pointer("/who/identifier/value").filter(|_| !is_own && !is_custodian);
        let address = agent.pointer("/network/address").filter(|_| !is_own);
        json!([kind, who, agent.pointer("/who/reference"), address, agent.get("requestor"), agent.get("policy"), agent.get("purposeOfUse")])
    };
    let entity = |entity: &Value| {
        let what = entity.pointer("/what/reference").or(entity.pointer("/what/identifier/value"));
        json!([what, entity.get("query"), entity.get("name"), entity.get("description")])
    };
    let is_told = |entity: &&Value| patient || entity.pointer("/role/code").is_none_or(|role| role != "1");
    json!([
        event.pointer("/type/code"),
        list("subtype").iter().map(|subtype| subtype.get("code")).collect::<Vec<_>>(),
        event.get("action"),
        event.get("recorded"),
        event.get("outcome"),
        event.get("purposeOfEvent"),
        list("agent").iter().map(agent).collect::<Vec<_>>(),
        list("entity").iter().filter(is_told).map(entity).collect::<Vec<_>>(),
    ])
}
