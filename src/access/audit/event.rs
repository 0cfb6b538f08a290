//! What is kept of an event.

use super::checkpoint::hex;
use super::disclosure::disclosures;
use crate::access::{Caller, Code};
use crate::store::{FacilityKey, ResourceKey, Sealed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `AuditEvent.action` (<https://hl7.org/fhir/R4/valueset-audit-event-action.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, PartialOrd, Ord)]
pub enum Action {
    #[serde(rename = "C")]
    Create,
    #[serde(rename = "R")]
    Read,
    #[serde(rename = "U")]
    Update,
    #[serde(rename = "D")]
    Delete,
    #[serde(rename = "E")]
    Execute,
}

impl Action {
    pub fn code(self) -> &'static str {
        match self {
            Action::Create => "C",
            Action::Read => "R",
            Action::Update => "U",
            Action::Delete => "D",
            Action::Execute => "E",
        }
    }
}

/// Who acted, as far as it was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// lango itself, on the operator's word.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lango: bool,
    /// The client's id; `None`: nobody logged in, or `--auth open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The person who logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// An identifier of the acting Practitioner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub practitioner: Option<String>,
    /// The facility's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facility: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Purposes of use, each `code` or `system|code`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
    /// In the caller's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The address that the request came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Agent {
    /// Whether a person acted, for a facility.
    pub fn is_somebody(&self) -> bool {
        self.is_person() && self.facility.is_some()
    }

    pub fn is_person(&self) -> bool {
        self.practitioner.is_some() || self.person.is_some()
    }

    pub fn of(caller: &Caller) -> Agent {
        let purpose = |code: &Code| match &code.system {
            Some(system) => format!("{system}|{}", code.code),
            None => code.code.clone(),
        };
        let client = caller.client.clone();
        Agent {
            lango: false,
            roles: if client.is_some() { caller.roles.iter().map(|role| role.as_str().to_owned()).collect() } else { Vec::new() },
            client,
            person: caller.person.clone(),
            practitioner: caller.claimed.practitioner.clone(),
            facility: caller.facility_code.clone(),
            purposes: caller.claimed.purposes.iter().map(purpose).collect(),
            reason: caller.claimed.reason.clone(),
            token: caller.token.as_deref().map(str::to_owned),
            address: None,
        }
    }
}

/// One event, as it stands in the column `event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub action: Action,
    /// A code of `restful-interaction`, or [`Event::DECISION`].
    pub interaction: String,
    /// Of the answer, as HTTP counts them.
    pub status: u16,
    #[serde(flatten)]
    pub agent: Agent,
    /// The request as it came: method, path and parameters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// `X-Request-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The resources, `Type/id` or `Type/id/_history/version`, at most [`Event::MOST_WHAT`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    /// The Consents that permitted it, `Consent/id/_history/version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consents: Vec<String>,
    /// The glass was broken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
    /// Those whose data it showed, where one row tells of several: see [`told`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patients: Vec<Shown>,
}

/// What was shown of one patient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub patient: ResourceKey,
    /// As in [`Event`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consents: Vec<String>,
    /// In a decision: whose the resources are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holding>,
}

/// How many of the resources, in their order, one facility contributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub owner: FacilityKey,
    pub resources: usize,
}

impl Shown {
    /// Names these resources, as many as it may.
    pub fn new(patient: ResourceKey, mut what: Vec<String>, consents: Vec<String>) -> Shown {
        let more = what.len().saturating_sub(Event::MOST_WHAT);
        what.truncate(Event::MOST_WHAT);
        Shown { patient, what, more, consents, holders: Vec::new() }
    }

    /// The same of resources by the facilities that contributed them.
    pub fn held(patient: ResourceKey, parts: BTreeMap<FacilityKey, Vec<String>>, consents: Vec<String>) -> Shown {
        let mut room = Event::MOST_WHAT;
        let mut holders = Vec::with_capacity(parts.len());
        let mut all = Vec::new();
        for (owner, what) in parts {
            let resources = what.len().min(room);
            room = room.saturating_sub(resources);
            all.extend(what);
            if resources > 0 {
                holders.push(Holding { owner, resources });
            }
        }
        Shown { holders, ..Shown::new(patient, all, consents) }
    }
}

/// An event that a row tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of its AuditEvent: tells nothing, and is the same on every process.
    pub id: String,
    /// Key of the Patient; 0: none.
    pub patient: ResourceKey,
    pub event: Event,
    /// It is a disclosure ([`super::disclosure`]) of what this facility contributed.
    pub custodian: Option<FacilityKey>,
}

/// The events of a row. Of an answer that showed data of several patients the one row is the event of the request (a decision has none
/// of its own) and one more about each of them; of what a decision permitted also the disclosures.
pub fn told(row: &Sealed) -> Result<Vec<Told>, serde_json::Error> {
    let mut event: Event = serde_json::from_str(&row.event)?;
    let patients = std::mem::take(&mut event.patients);
    let about = |(place, shown): (u64, Shown)| {
        let Shown { patient, what, more, consents, holders } = shown;
        let event = Event { what, more, consents, ..event.clone() };
        let told = Told { id: id(row, place), patient, event, custodian: None };
        let disclosed = disclosures(&told, &holders);
        std::iter::once(told).chain(disclosed)
    };
    let parts: Vec<Told> = (1..).zip(patients).flat_map(about).collect();
    let is_own = parts.is_empty() || event.interaction != Event::DECISION;
    let own = is_own.then(|| Told { id: id(row, 0), patient: row.patient, event, custodian: None });
    Ok(own.into_iter().chain(parts).collect())
}

fn id(row: &Sealed, place: u64) -> String {
    if place == 0 {
        return hex(row.hash.get(..16).unwrap_or_default());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&row.hash).update(&place.to_be_bytes());
    hex(hasher.finalize().as_bytes().get(..16).unwrap_or_default())
}

/// The Patients whom a row is about, without what else it says.
pub fn patients(row: &Sealed) -> Result<Vec<ResourceKey>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Part {
        patient: ResourceKey,
    }
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        patients: Vec<Part>,
    }
    if row.patient != 0 || !row.event.contains(r#""patients":"#) {
        return Ok([row.patient].into_iter().filter(|patient| *patient != 0).collect());
    }
    let parts: Parts = serde_json::from_str(&row.event)?;
    Ok(parts.patients.into_iter().map(|part| part.patient).collect())
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Event {
    /// Resources that one event names.
    pub const MOST_WHAT: usize = 100;
    pub const DECISION: &'static str = "consent-decision";

    /// Names these resources, as many as it may.
    pub fn about(mut self, mut what: Vec<String>) -> Event {
        self.more = what.len().saturating_sub(Event::MOST_WHAT);
        what.truncate(Event::MOST_WHAT);
        self.what = what;
        self
    }

    /// `AuditEvent.outcome`: 0 success, 4 what the caller did wrong or may not, 8 what lango did.
    pub fn outcome(&self) -> &'static str {
        match self.status {
            0..=399 => "0",
            400..=499 => "4",
            _ => "8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_of_its_request_and_of_each_patient_under_ids_of_their_own() {
        let row = |patient: ResourceKey, event: &str| Sealed {
            position: 7,
            at: 1,
            owner: -5,
            patient,
            event: event.to_owned(),
            hash: (0..32).collect(),
        };
        let events = |row: &Sealed| -> Vec<(ResourceKey, Vec<String>, usize)> {
            told(row).unwrap().into_iter().map(|told| (told.patient, told.event.what, told.event.more)).collect()
        };
        let one = row(9, r#"{"action":"R","interaction":"read","status":200,"what":["Patient/a"]}"#);
        assert_eq!(events(&one), [(9, vec!["Patient/a".to_owned()], 0)]);
        assert_eq!((told(&one).unwrap()[0].id.as_str(), patients(&one).unwrap()), ("000102030405060708090a0b0c0d0e0f", vec![9]));
        let shown = r#""patients":[{"patient":9,"what":["Patient/a"],"consents":["Consent/c/_history/1"]},{"patient":4,"what":["Patient/b"],"more":3}]"#;
        let several =
            row(0, &format!(r#"{{"action":"E","interaction":"search-type","status":200,"request":"GET /fhir/Patient",{shown}}}"#));
        let parts = [(9, vec!["Patient/a".to_owned()], 0), (4, vec!["Patient/b".to_owned()], 3)];
        assert_eq!(events(&several), [&[(0, Vec::new(), 0)][..], &parts].concat());
        assert_eq!(patients(&several).unwrap(), [9, 4]);
        let told_of = told(&several).unwrap();
        assert!(told_of.iter().all(|told| told.event.request == "GET /fhir/Patient" && told.event.patients.is_empty()));
        assert_eq!(told_of[1].event.consents, ["Consent/c/_history/1"]);
        let ids: std::collections::BTreeSet<&str> = told_of.iter().map(|told| told.id.as_str()).collect();
        assert_eq!(ids.len(), 3);
        let decision = row(0, &format!(r#"{{"action":"E","interaction":"consent-decision","status":200,{shown}}}"#));
        assert_eq!(events(&decision), parts);
        assert_eq!(told(&decision).unwrap()[1].id, told_of[2].id, "the ids hang on the row and the place");
        assert!(told(&row(0, "{")).is_err());
    }
}
