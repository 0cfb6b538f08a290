//! Whom the references of a Consent mean, as the directory knows them when it is written: one organisation can be named by its id, by its facility's code or
//! by any other of its identifiers.
//!
//! What a permit means is what it says. What else the one may be called counts for what denies, whoever says so ([`directory`]), and case and blanks of a code
//! do not; an id, an identifier or a code that nobody here has might be anybody's. Only the operator's entries, and a facility's own about its code, say which two names are one organisation's, of
//! whose Consents the newer replaces the older.

use super::super::draft::Draft;
use super::super::ownership::{OPERATOR, keeps_directory};
use super::super::write::{Action, Author, Wanted, Writer};
use crate::access::consent::{self, Name};
use crate::access::directory::{self, ENTRIES};
use crate::definitions;
use crate::fhir::reference::host_end;
use crate::store::query::{SystemTest, Test};
use crate::store::{FacilityKey, Filter, IndexValue, Query, Scope, Stored};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Names that are looked up for a Consent; whom more of them mean is not known.
const MOST: usize = 100;
/// Entries with one identifier that are looked at.
const FOUND: u32 = 20;

/// What the one of a name is called besides.
#[derive(Debug, Default)]
pub(super) struct Called {
    /// Identifiers and ids that somebody has.
    known: HashMap<Name, Vec<Name>>,
    /// All names of the organisation of a name.
    organisations: HashMap<Name, BTreeSet<Name>>,
    /// The identifier system of facilities.
    facility: String,
}

impl Called {
    /// `None`: nobody knows whom it means.
    pub fn of(&self, name: &Name) -> Option<Vec<Name>> {
        match self.known.get(name) {
            Some(others) => Some(others.clone()),
            None if name.contains('|') => None,
            // Nobody asks as a Patient or as something that is no person and no organisation.
            None => (!ENTRIES.iter().any(|type_name| is_named(name, type_name))).then(Vec::new),
        }
    }

    /// All that the organisation of these names is called.
    pub fn organisation(&self, names: Vec<Name>) -> BTreeSet<Name> {
        let others = names.iter().filter_map(|name| self.organisations.get(name)).flatten().cloned().collect::<Vec<_>>();
        names.into_iter().chain(others).map(|name| self.spelt(name)).collect()
    }

    /// The name as all spellings of it that mean the same are compared: case and blanks of a facility's code tell nothing, nor do the case of a host or of a
    /// URN, nor which version.
    fn spelt(&self, name: Name) -> Name {
        match name.split_once('|') {
            Some((system, code)) if system == self.facility => directory::folded(system, code),
            Some(_) => name,
            None if name.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("urn:")) => name.to_lowercase(),
            None => {
                let url = name.split_once("/_history/").map_or(name.as_str(), |(url, _)| url).trim_end_matches('/');
                let (host, path) = url.split_at_checked(host_end(url)).unwrap_or(("", url));
                format!("{}{path}", host.to_ascii_lowercase())
            }
        }
    }
}

/// An organisation that is written together with a Consent: `Organization/id`, and the identifiers that who writes it is believed.
pub(in crate::ingest) type Organisation = (Name, BTreeSet<Name>);

impl Writer {
    /// Those among what `author` is about to write.
    pub(in crate::ingest) fn organisations_of(&self, changes: &[Wanted], author: &Author) -> Vec<Organisation> {
        let r4 = definitions::r4();
        let type_code = r4.type_code("Organization");
        let param = type_code.and_then(|code| r4.param(code, "identifier")).map(|param| param.id);
        let (facility, _) = self.systems();
        let own = author.caller.as_ref().and_then(|caller| caller.facility_code.as_ref()).map(|code| format!("{facility}|{code}"));
        let is_operators = author.owner == OPERATOR || keeps_directory(author);
        let drafts = changes.iter().filter_map(|wanted| match &wanted.action {
            Action::Put(draft) if Some(draft.type_code) == type_code => Some(draft),
            _ => None,
        });
        let numbers = |draft: &Draft| {
            let tokens = draft.entries.iter().filter(|entry| Some(entry.param) == param).filter_map(|entry| match &entry.value {
                IndexValue::Token { system: Some(system), code } => Some(format!("{system}|{code}")),
                _ => None,
            });
            tokens.filter(|name| is_operators || Some(name) == own.as_ref()).collect()
        };
        drafts.map(|draft| (format!("Organization/{}", draft.id), numbers(draft))).collect()
    }
}

fn is_of(name: &str, system: &str) -> bool {
    name.strip_prefix(system).is_some_and(|rest| rest.starts_with('|'))
}

impl Writer {
    /// What those that `consent` refers to are called. `beside`: what is written with it.
    pub(super) async fn called(&self, consent: &Value, beside: &[Organisation]) -> Result<Called, sqlx::Error> {
        let (facility, practitioner) = self.systems();
        let mut called = Called { facility: facility.to_owned(), ..Called::default() };
        let base = &self.options().base;
        let provision: Vec<&Value> = consent.get("provision").into_iter().collect();
        let authors = references(&of_key(&provision, "data"), base);
        for name in references(&provision, base).into_iter().take(MOST) {
            let (is_person, is_facility) = (is_of(&name, practitioner), is_of(&name, facility));
            let is_authors = authors.contains(&name);
            let types: &[&str] = match name.split_once('/') {
                Some((type_name @ ("Organization" | "Group" | "CareTeam" | "Device" | "HealthcareService"), _)) => &[type_name],
                Some(("Practitioner" | "PractitionerRole", _)) => &["Practitioner", "PractitionerRole"],
                _ => &ENTRIES,
            };
            let is_somebodys = match name.split_once('|') {
                Some(_) if (is_person || is_facility) && is_authors => true,
                Some((system, code)) if is_person || is_facility => {
                    self.is_anybodys(&name, &directory::folded(system, code), is_facility).await?
                }
                // By an identifier only the operator's entries tell that somebody is known.
                Some((system, value)) => !self.entries(system, value, vec![0]).await?.is_empty(),
                None => directory::of_name(self.store(), &name).await?.is_some(),
            };
            if is_somebodys {
                // Who asks is looked up by all their names when they ask; who wrote something is not.
                let mut others = match is_person || is_facility {
                    true if !is_authors => BTreeSet::new(),
                    _ => directory::called_besides(self.store(), BTreeSet::from([name.clone()]), types).await?,
                };
                if let Some((system, code)) = name.split_once('|').filter(|_| is_person || is_facility) {
                    others.insert(directory::folded(system, code));
                }
                others.remove(&name);
                let somebody = is_person.then(|| consent::SOMEBODY.to_owned());
                called.known.insert(name, others.into_iter().chain(somebody).collect());
            }
        }
        let organizations: BTreeSet<Name> = consent::organisations_of(consent, base).into_iter().flatten().collect();
        for name in organizations.into_iter().filter(is_looked_up).take(MOST) {
            let names = self.same_organisation(&name, beside).await?;
            called.organisations.insert(name, names);
        }
        Ok(called)
    }

    /// Whether anybody has this code of a facility, or number of a practitioner: as they are known here, or by an entry of whosoever. `folded`: without case
    /// and blanks.
    async fn is_anybodys(&self, name: &Name, folded: &Name, is_facility: bool) -> Result<bool, sqlx::Error> {
        let (types, code): (&[&str], _) = match folded.split_once('|') {
            Some((_, code)) if is_facility => (&["Organization"], code),
            Some((_, code)) => (&["Practitioner", "PractitionerRole"], code),
            None => return Ok(false),
        };
        if self.store().has_login(code, is_facility).await? {
            return Ok(true);
        }
        let trimmed = name.split_once('|').map(|(system, code)| format!("{system}|{}", code.trim()));
        for name in BTreeSet::from([folded.clone()]).into_iter().chain(trimmed) {
            let names = BTreeSet::from([name]);
            if directory::called_besides(self.store(), names.clone(), types).await? != names {
                return Ok(true);
            }
        }
        Ok(false)
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
    async fn same_organisation(&self, name: &Name, beside: &[Organisation]) -> Result<BTreeSet<Name>, sqlx::Error> {
        let (system, _) = self.systems();
        let mut names = BTreeSet::from([name.clone()]);
        let mut tried = names.clone();
        let mut waiting = vec![name.clone()];
        while let Some(name) = waiting.pop().filter(|_| tried.len() <= MOST) {
            for (id, numbers) in beside.iter().filter(|(id, numbers)| *id == name || numbers.contains(&name)) {
                names.extend([id.clone(), name.clone()]);
                waiting.extend(numbers.iter().filter(|other| tried.insert((*other).clone())).cloned());
            }
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
    found.retain(is_looked_up);
    found
}

fn is_looked_up(name: &Name) -> bool {
    name.contains('|') || ENTRIES.iter().any(|type_name| is_named(name, type_name))
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
