//! Whom an emergency means: of the Patients that numbers link, those of one person.

use super::{Identifier, Registry, RegistryError, body, likeness, looks_golden};
use crate::store::{FacilityKey, Stored};
use serde_json::Value;
use std::collections::BTreeSet;

/// By what somebody asks for a person.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    Patient(&'a str),
    Identifier(&'a str, &'a str),
}

/// Whom an emergency means.
#[derive(Clone, Debug, Default)]
pub struct Meant {
    /// Source Patients, in the same order whoever of them is asked for, and who contributed them.
    pub owners: Vec<(String, FacilityKey)>,
    pub golden: BTreeSet<String>,
}

impl Registry {
    /// Whom of a person's Patients an emergency means. What `owners`, those of who asks, contributed links nobody else: who sends a Patient with the
    /// numbers of several people would open them all. Where the asker's own Patient is asked for, it means those of its numbers; if these are several, those
    /// who are called as it is, and none of them unless all of them are called alike: a day of birth, or saying nothing at all, many have in common.
    pub async fn meant(&self, person: &BTreeSet<String>, asked_for: &Asked<'_>, owners: &[FacilityKey]) -> Result<Meant, RegistryError> {
        let stored = self.stored(person).await?;
        let sources = stored.iter().filter(|stored| !looks_golden(&stored.id)).map(|stored| {
            let said = body(stored).unwrap_or_default();
            let is_asked = match asked_for {
                Asked::Patient(id) => *stored.id == **id,
                Asked::Identifier(system, value) => carries(&said, system, value),
            };
            Source { stored, numbers: self.strong_identifiers(&said), said, is_asked }
        });
        let (own, others): (Vec<Source>, Vec<Source>) = sources.partition(|source| owners.contains(&source.stored.owner));
        let total = own.len().saturating_add(others.len());
        let mut people = tied(others);
        if people.iter().flatten().any(|source| source.is_asked) {
            people.retain(|one| one.iter().any(|source| source.is_asked));
        } else {
            // Who asks by the golden Patient asks by all that it links, their own too.
            let by_own = own.iter().any(|source| source.is_asked);
            let asked: Vec<&Source> = own.iter().filter(|source| source.is_asked || !by_own).collect();
            people.retain(|one| asked.is_empty() || one.iter().any(|source| asked.iter().any(|own| own.shares(source))));
            if people.len() > 1 && !asked.is_empty() {
                people.retain(|one| one.iter().any(|source| asked.iter().any(|own| own.is_called_as(source))));
            }
        }
        let apart = |one: &[Source], other: &[Source]| !one.iter().any(|source| other.iter().any(|another| source.is_called_as(another)));
        if people.iter().enumerate().any(|(place, one)| people.iter().skip(place + 1).any(|other| apart(one, other))) {
            people.clear();
        }
        let mut meant: Vec<Source> = people.into_iter().flatten().collect();
        let known: Vec<Source> = own.into_iter().filter(|own| own.is_asked || meant.iter().any(|source| own.shares(source))).collect();
        meant.extend(known);
        let mut owners: Vec<(String, FacilityKey)> = meant.iter().map(|one| (one.stored.id.to_string(), one.stored.owner)).collect();
        owners.sort();
        // Whom a record names and nobody sent.
        if let (Asked::Patient(id), []) = (asked_for, &stored[..]) {
            owners.push(((*id).to_owned(), 0));
        }
        // The golden Patient is everybody's that it links.
        let golden = person.iter().filter(|id| meant.len() == total && looks_golden(id)).cloned().collect();
        Ok(Meant { owners, golden })
    }
}

/// A Patient of one person, when it is asked whether they are one.
struct Source<'s> {
    stored: &'s Stored,
    said: Value,
    numbers: BTreeSet<Identifier>,
    is_asked: bool,
}

impl Source<'_> {
    fn shares(&self, other: &Source<'_>) -> bool {
        !self.numbers.is_disjoint(&other.numbers)
    }

    fn is_called_as(&self, other: &Source<'_>) -> bool {
        likeness::are_called_alike(&self.said, &other.said)
    }
}

/// Those whom strong identifiers tie together, directly or by way of others of them.
fn tied<'s>(sources: Vec<Source<'s>>) -> Vec<Vec<Source<'s>>> {
    let mut people: Vec<Vec<Source<'s>>> = Vec::new();
    for source in sources {
        let (same, apart): (Vec<_>, Vec<_>) = people.into_iter().partition(|one| one.iter().any(|other| source.shares(other)));
        people = apart;
        people.push(same.into_iter().flatten().chain([source]).collect());
    }
    people
}

/// Whether a Patient has this identifier.
fn carries(patient: &Value, system: &str, value: &str) -> bool {
    let is = |identifier: &Value, key: &str, expected: &str| identifier.get(key).and_then(Value::as_str) == Some(expected);
    let mut identifiers = patient.get("identifier").and_then(Value::as_array).into_iter().flatten();
    identifiers.any(|identifier| is(identifier, "system", system) && is(identifier, "value", value))
}
