//! Who holds records of a person, as holders themselves said.
//!
//! A location is a source Patient that a holder sent: it says "I know her, by this number". It needs no table of its own, and none could keep it better: the gate decides who
//! may see it, its labels close it, the registry links it, Consents cover it or, when they were written before it came, do not. A holder that does not want to be asked
//! for somebody any more deletes it, or puts `active` to false; one that does not want to be asked at all changes the status of its Endpoint.

use super::{Holder, Holders};
use crate::definitions;
use crate::exchange::Person;
use crate::fhir::time::{now, parse_interval};
use crate::registry::looks_golden;
use crate::search::extract::Options;
use crate::store::query::{SystemTest, Test};
use crate::store::{FacilityKey, Filter, Query, ResourceKey, Scope, Store};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Locations of one person that are asked; whoever is known to more is asked at the first.
const MOST: usize = 50;
/// Endpoints of one facility that are looked at.
const MOST_ENDPOINTS: u32 = 50;

/// A holder that knows a person.
#[derive(Clone)]
pub struct Location {
    pub holder: Arc<Holder>,
    /// The holder's number.
    pub owner: FacilityKey,
    /// The Patient that it sent.
    pub patient: ResourceKey,
    pub id: Box<str>,
    pub body: Value,
    /// What the holder is asked by: a number that it sent itself.
    pub identifier: Identifier,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identifier {
    pub system: String,
    pub value: String,
}

impl Location {
    /// How references are read in what the holder answers: names under its address are its own.
    pub fn options(&self, options: &Options) -> Options {
        Options { base: self.holder.settings.url.clone(), ..options.clone() }
    }
}

impl Identifier {
    pub fn of(value: &Value) -> Option<Identifier> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Identifier { system: text("system")?, value: text("value")? })
    }

    /// Whether this Patient resource carries it.
    pub fn is_of(&self, resource: &Value) -> bool {
        let identifiers = resource.get("identifier").and_then(Value::as_array).into_iter().flatten();
        resource.get("resourceType").and_then(Value::as_str) == Some("Patient")
            && identifiers.filter_map(Identifier::of).any(|other| other == *self)
    }
}

/// What a facility's Endpoints say, for one that the operator lets lango ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// An active one says the address that the operator approved.
    Active,
    /// Active ones say other addresses only.
    Elsewhere,
    None,
}

/// The locations of a person, those that may be asked at all.
pub async fn locations(
    holders: &Holders,
    store: &Store,
    zone: &TimeZone,
    operator: &str,
    is_strong: impl Fn(&str) -> bool,
    person: &Person,
) -> Result<Vec<Location>, sqlx::Error> {
    let Some(patient) = definitions::r4().type_code("Patient").filter(|_| !holders.is_empty()) else { return Ok(Vec::new()) };
    let names: Vec<_> = person.ids.iter().filter(|id| !looks_golden(id)).map(|id| (patient, id.clone())).collect();
    let mut known: BTreeMap<FacilityKey, Option<Arc<Holder>>> = BTreeMap::new();
    let mut found = Vec::new();
    for stored in store.read_many(&names).await? {
        let Some(body) = stored.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) else { continue };
        if body.get("active") == Some(&Value::Bool(false)) {
            continue;
        }
        let holder = match known.get(&stored.owner) {
            Some(holder) => holder.clone(),
            None => {
                let code = if stored.owner == 0 { Some(operator.to_owned()) } else { store.facility_code(stored.owner).await? };
                let mut holder = code.and_then(|code| holders.of(&code)).cloned();
                if let Some(one) = &holder
                    && registration(store, zone, stored.owner, &one.settings.url).await? != Registration::Active
                {
                    holder = None;
                }
                known.insert(stored.owner, holder.clone());
                holder
            }
        };
        let identifiers = body.get("identifier").and_then(Value::as_array).into_iter().flatten().filter_map(Identifier::of);
        // Its own number before one that others know too.
        let identifier = identifiers.min_by_key(|identifier| is_strong(&identifier.system));
        if let (Some(holder), Some(identifier)) = (holder, identifier) {
            found.push(Location { holder, owner: stored.owner, patient: stored.key, id: stored.id, body, identifier });
        }
    }
    found.sort_by_key(|location| location.patient);
    found.truncate(MOST);
    Ok(found)
}

/// What the Endpoints of the facility `owner` say of `url`.
pub async fn registration(store: &Store, zone: &TimeZone, owner: FacilityKey, url: &str) -> Result<Registration, sqlx::Error> {
    let r4 = definitions::r4();
    let Some((type_code, param)) = r4.type_code("Endpoint").and_then(|code| Some((code, r4.param(code, "status")?.id))) else {
        return Ok(Registration::None);
    };
    let tests = vec![Test::Token { system: SystemTest::Any, code: Some("active".to_owned()) }];
    let query = Query { type_code, filters: vec![Filter::Param { param, tests }], scope: Scope::Owners(vec![owner]), sort: Vec::new() };
    let page = store.search(&query, MOST_ENDPOINTS, None).await?;
    let own = page.rows.iter().filter(|stored| stored.owner == owner);
    let endpoints = own.filter_map(|stored| serde_json::from_slice::<Value>(stored.body.as_ref()?).ok());
    let mut found = Registration::None;
    for endpoint in endpoints.filter(|endpoint| is_open(endpoint, zone)) {
        if endpoint.get("address").and_then(Value::as_str).map(|address| address.trim_end_matches('/')) == Some(url) {
            return Ok(Registration::Active);
        }
        found = Registration::Elsewhere;
    }
    Ok(found)
}

/// Whether it speaks FHIR, and its period has begun and not ended.
fn is_open(endpoint: &Value, zone: &TimeZone) -> bool {
    let text = |pointer: &str| endpoint.pointer(pointer).and_then(Value::as_str);
    let instant = |pointer: &str| text(pointer).map(|text| parse_interval(text, zone));
    let began = instant("/period/start").is_none_or(|start| start.is_some_and(|start| start.low <= now()));
    let goes_on = instant("/period/end").is_none_or(|end| end.is_some_and(|end| now() < end.high));
    text("/connectionType/code") == Some("hl7-fhir-rest") && began && goes_on
}
