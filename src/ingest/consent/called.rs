//! Whom the references of a Consent mean, as the directory knows them when it is written: one organisation can be named by its id, by its facility's code or
//! by any other of its identifiers.
//!
//! What a permit means is what it says. What else the one may be called counts for what denies, whoever says so ([`directory`]); an id or an identifier
//! that nobody here has might be anybody's. Only the operator's entries, and a facility's own about its code, say which two names are one organisation's, of
//! whose Consents the newer replaces the older.

use super::super::write::Writer;
use crate::access::consent::{self, Name};
use crate::access::directory::{self, ENTRIES};
use crate::definitions;
use crate::store::query::{SystemTest, Test};
use crate::store::{FacilityKey, Filter, Query, Scope, Stored};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Names that are looked up for a Consent; whom more of them mean is not known.
const MOST: usize = 100;
/// Entries with one identifier that are looked at.
const FOUND: u32 = 20;

/// What the one of a name is called besides.
#[derive(Debug, Default)]
pub(super) struct Called {
    facility_system: String,
    practitioner_system: String,
    /// Identifiers and ids that somebody has.
    known: HashMap<Name, Vec<Name>>,
    /// All names of the organisation of a name.
    organisations: HashMap<Name, BTreeSet<Name>>,
}

impl Called {
    /// `None`: nobody knows whom it means.
    pub fn of(&self, name: &Name) -> Option<Vec<Name>> {
        match self.known.get(name) {
            Some(others) => Some(others.clone()),
            None if is_of(name, &self.facility_system) => Some(Vec::new()),
            None if is_of(name, &self.practitioner_system) => Some(vec![consent::SOMEBODY.to_owned()]),
            None if name.contains('|') => None,
            // Nobody asks as a Patient or as something that is no person and no organisation.
            None => (!ENTRIES.iter().any(|type_name| is_named(name, type_name))).then(Vec::new),
        }
    }

    /// All that the organisation of these names is called.
    pub fn organisation(&self, names: Vec<Name>) -> BTreeSet<Name> {
        let others = names.iter().filter_map(|name| self.organisations.get(name)).flatten().cloned().collect::<Vec<_>>();
        names.into_iter().chain(others).collect()
    }
}

fn is_of(name: &str, system: &str) -> bool {
    name.strip_prefix(system).is_some_and(|rest| rest.starts_with('|'))
}

impl Writer {
    /// What those that `consent` refers to are called.
    pub(super) async fn called(&self, consent: &Value) -> Result<Called, sqlx::Error> {
        let (facility, practitioner) = self.systems();
        let mut called = Called { facility_system: facility.to_owned(), practitioner_system: practitioner.to_owned(), ..Called::default() };
        let base = &self.options().base;
        let provision: Vec<&Value> = consent.get("provision").into_iter().collect();
        let authors = references(&of_key(&provision, "data"), base);
        for name in references(&provision, base).into_iter().take(MOST) {
            let is_person = is_of(&name, practitioner);
            // Who asks is looked up by all their names when they ask; who wrote something is not.
            if !authors.contains(&name) && (is_person || is_of(&name, facility)) {
                continue;
            }
            let types: &[&str] = match name.split_once('/') {
                Some((type_name @ ("Organization" | "Group" | "CareTeam" | "Device" | "HealthcareService"), _)) => &[type_name],
                Some(("Practitioner" | "PractitionerRole", _)) => &["Practitioner", "PractitionerRole"],
                _ => &ENTRIES,
            };
            let is_somebodys = match name.split_once('|') {
                _ if is_person || is_of(&name, facility) => true,
                // By an identifier only the operator's entries tell that somebody is known.
                Some((system, value)) => !self.entries(system, value, vec![0]).await?.is_empty(),
                None => directory::of_name(self.store(), &name).await?.is_some(),
            };
            if is_somebodys {
                let mut others = directory::called_besides(self.store(), BTreeSet::from([name.clone()]), types).await?;
                others.remove(&name);
                let somebody = is_person.then(|| consent::SOMEBODY.to_owned());
                called.known.insert(name, others.into_iter().chain(somebody).collect());
            }
        }
        let organizations: Vec<&Value> = consent.get("organization").into_iter().collect();
        for name in references(&organizations, base).into_iter().take(MOST) {
            let names = self.same_organisation(&name).await?;
            called.organisations.insert(name, names);
        }
        Ok(called)
    }

    /// Entries of all kinds with this identifier, of these owners.
    async fn entries(&self, system: &str, value: &str, owners: Vec<FacilityKey>) -> Result<Vec<Stored>, sqlx::Error> {
        let mut found = Vec::new();
        for type_name in ENTRIES {
            found.extend(self.identified(type_name, system, value, owners.clone()).await?);
        }
        Ok(found)
    }

    async fn identified(&self, type_name: &str, system: &str, value: &str, owners: Vec<FacilityKey>) -> Result<Vec<Stored>, sqlx::Error> {
        let r4 = definitions::r4();
        let param = r4.type_code(type_name).and_then(|type_code| Some((type_code, r4.param(type_code, "identifier")?.id)));
        let Some((type_code, param)) = param else { return Ok(Vec::new()) };
        let tests = vec![Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(value.to_owned()) }];
        let query = Query { type_code, filters: vec![Filter::Param { param, tests }], scope: Scope::Owners(owners), sort: Vec::new() };
        Ok(self.store().search(&query, FOUND, None).await?.rows)
    }

    /// All names of the organisation of this name, as far as who says so is to be believed. An identifier that several have tells nobody apart.
    async fn same_organisation(&self, name: &Name) -> Result<BTreeSet<Name>, sqlx::Error> {
        let (system, _) = self.systems();
        let mut names = BTreeSet::from([name.clone()]);
        let mut tried = names.clone();
        let mut waiting = vec![name.clone()];
        while let Some(name) = waiting.pop().filter(|_| tried.len() <= MOST) {
            let found = match name.split_once('|') {
                Some((_, code)) if is_of(&name, system) => {
                    let itself = self.store().known_facility(code).await?;
                    self.identified("Organization", system, code, itself.into_iter().chain([0]).collect()).await?
                }
                Some((other, value)) => {
                    let found = self.identified("Organization", other, value, vec![0]).await?;
                    if found.len() > 1 { Vec::new() } else { found }
                }
                None => directory::of_name(self.store(), &name).await?.into_iter().filter(is_organization).collect(),
            };
            if found.is_empty() {
                continue;
            }
            names.insert(name);
            for organization in &found {
                let mut others = directory::identifiers(organization);
                if organization.owner != 0 {
                    // A facility says its own code and nothing else.
                    let owner = self.store().facility_code(organization.owner).await?.map(|code| format!("{system}|{code}"));
                    others.retain(|other| Some(other) == owner.as_ref());
                    if others.is_empty() {
                        continue;
                    }
                }
                names.insert(format!("Organization/{}", organization.id));
                waiting.extend(others.into_iter().filter(|other| tried.insert(other.clone())));
            }
        }
        Ok(names)
    }
}

/// What the references in parts of a Consent call those who can be named, but patients and their records.
fn references(parts: &[&Value], base: &str) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&Value> = parts.to_vec();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(members) => {
                found.extend(consent::names_of(value, base));
                waiting.extend(members.values());
            }
            _ => {}
        }
    }
    found.retain(|name| name.contains('|') || ENTRIES.iter().any(|type_name| is_named(name, type_name)));
    found
}

/// The values of all members of this name.
fn of_key<'a>(parts: &[&'a Value], key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    let mut waiting = parts.to_vec();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(members) => {
                found.extend(members.get(key));
                waiting.extend(members.values());
            }
            _ => {}
        }
    }
    found
}

fn is_named(name: &str, type_name: &str) -> bool {
    name.strip_prefix(type_name).is_some_and(|rest| rest.starts_with('/'))
}

fn is_organization(stored: &Stored) -> bool {
    definitions::r4().type_name(stored.type_code) == "Organization"
}
