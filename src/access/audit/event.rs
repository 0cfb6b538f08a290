//! What is kept of an event.

use crate::access::{Caller, Code};
use crate::store::FacilityKey;
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
    /// In a decision that permitted something: whose the resources are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holding>,
}

/// How many of an event's resources, in their order, one facility contributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub owner: FacilityKey,
    pub resources: usize,
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

    /// Names the resources of these facilities, as many as it may.
    pub fn held_by(self, parts: &BTreeMap<FacilityKey, Vec<String>>) -> Event {
        let mut room = Event::MOST_WHAT;
        let holding = |(owner, what): (&FacilityKey, &Vec<String>)| {
            let resources = what.len().min(room);
            room -= resources;
            Holding { owner: *owner, resources }
        };
        let holders = parts.iter().map(holding).filter(|holding| holding.resources > 0).collect();
        Event { holders, ..self.about(parts.values().flatten().cloned().collect()) }
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
