//! Whom the references of a Consent mean, as the directory knows them when it is written: one organisation can be named by its id, by its facility's code or
//! by any other of its identifiers.
//!
//! What a permit means is what it says. What else the one is called counts for what denies, whoever says so; an identifier that nobody here has
//! might be anybody's. Only the operator's entries, and a facility's own about itself, say which two names are one organisation's, of whose Consents the
//! newer replaces the older.

use super::super::write::Writer;
use crate::access::consent::{self, Name};
use crate::definitions;
use crate::store::query::{SystemTest, Test};
use crate::store::{Filter, Query, Scope, Stored};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who can be named, and has identifiers.
const TYPES: [&str; 7] = ["Organization", "Practitioner", "PractitionerRole", "CareTeam", "Group", "Device", "HealthcareService"];
/// Identifiers and ids that are looked up for a Consent; whom more of them mean is not known.
const MOST: usize = 100;
/// Resources with one identifier that are looked at.
const FOUND: u32 = 20;

/// What the one of a name is called besides.
#[derive(Debug, Default)]
pub(super) struct Called {
    facility_system: String,
    practitioner_system: String,
    /// Identifiers that somebody has, and ids.
    known: HashMap<Name, Vec<Name>>,
    /// The name of the organisation of a name.
    organisations: HashMap<Name, Name>,
}

impl Called {
    /// `None`: nobody knows whom it means.
    pub fn of(&self, name: &Name) -> Option<Vec<Name>> {
        match self.known.get(name) {
            Some(others) => Some(others.clone()),
            None if is_of(name, &self.facility_system) => Some(Vec::new()),
            None if is_of(name, &self.practitioner_system) => Some(vec![consent::SOMEBODY.to_owned()]),
            // An id is somebody's, or will be.
            None => (!name.contains('|')).then(Vec::new),
        }
    }

    /// One name for all that an organisation may be called: its facility's code, if it has one.
    pub fn organisation(&self, names: Vec<Name>) -> Option<Name> {
        let code = names.iter().find(|name| is_of(name, &self.facility_system));
        let one = code.or(names.first())?;
        Some(self.organisations.get(one).unwrap_or(one).clone())
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
        for name in references(consent, &self.options().base).into_iter().take(MOST) {
            let is_code = is_of(&name, facility) || is_of(&name, practitioner);
            let found = match name.split_once('|') {
                _ if is_code => continue,
                Some((system, value)) => self.identified(system, value).await?,
                None => self.of_id(&name).await?,
            };
            let others = found.iter().flat_map(|stored| name_of(stored).into_iter().chain(identifiers(stored)));
            let others: BTreeSet<Name> = others.filter(|other| *other != name).collect();
            let by_id = !name.contains('|');
            if by_id || found.iter().any(|stored| stored.owner == 0) {
                called.known.insert(name.clone(), others.into_iter().collect());
            }
            let organisations = found.iter().filter(|stored| is_organization(stored) && (by_id || stored.owner == 0));
            if let [organisation] = organisations.collect::<Vec<_>>().as_slice() {
                let code = self.code_of(organisation).await?;
                called.organisations.extend(code.or_else(|| name_of(organisation)).map(|one| (name, one)));
            }
        }
        Ok(called)
    }

    /// Everybody with this identifier, whoever sent them.
    async fn identified(&self, system: &str, value: &str) -> Result<Vec<Stored>, sqlx::Error> {
        let r4 = definitions::r4();
        let mut found = Vec::new();
        for type_code in TYPES.iter().filter_map(|name| r4.type_code(name)) {
            let Some(param) = r4.param(type_code, "identifier") else { continue };
            let tests = vec![Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(value.to_owned()) }];
            let filters = vec![Filter::Param { param: param.id, tests }];
            // The operator's come first, so that nobody's copies crowd them out.
            for scope in [Scope::Owners(vec![0]), Scope::All] {
                let query = Query { type_code, filters: filters.clone(), scope, sort: Vec::new() };
                found.extend(self.store().search(&query, FOUND, None).await?.rows);
            }
        }
        let found: BTreeMap<i64, Stored> = found.into_iter().map(|stored| (stored.key, stored)).collect();
        Ok(found.into_values().collect())
    }

    async fn of_id(&self, name: &str) -> Result<Vec<Stored>, sqlx::Error> {
        let Some((type_name, id)) = name.split_once('/').filter(|(type_name, _)| TYPES.contains(type_name)) else { return Ok(Vec::new()) };
        let Some(type_code) = definitions::r4().type_code(type_name) else { return Ok(Vec::new()) };
        self.store().read_many(&[(type_code, id.to_owned())]).await
    }

    /// The code of the facility that this Organization is, if it is one to be believed: the operator's, or the facility's own.
    async fn code_of(&self, organization: &Stored) -> Result<Option<Name>, sqlx::Error> {
        let (system, _) = self.systems();
        let code = identifiers(organization).into_iter().filter(|name| is_of(name, system)).min();
        let Some(code) = code else { return Ok(None) };
        if organization.owner == 0 {
            return Ok(Some(code));
        }
        let owner = self.store().facility_code(organization.owner).await?;
        Ok(owner.filter(|owner| code == format!("{system}|{owner}")).map(|_| code))
    }
}

/// What a Consent calls those whom it refers to, but patients and their records.
fn references(consent: &Value, base: &str) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&Value> = ["organization", "provision"].into_iter().filter_map(|key| consent.get(key)).collect();
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
    found.retain(|name| name.contains('|') || TYPES.iter().any(|type_name| is_named(name, type_name)));
    found
}

fn is_named(name: &str, type_name: &str) -> bool {
    name.strip_prefix(type_name).is_some_and(|rest| rest.starts_with('/'))
}

fn is_organization(stored: &Stored) -> bool {
    definitions::r4().type_name(stored.type_code) == "Organization"
}

fn name_of(stored: &Stored) -> Option<Name> {
    stored.body.as_ref().map(|_| format!("{}/{}", definitions::r4().type_name(stored.type_code), stored.id))
}

fn identifiers(stored: &Stored) -> Vec<Name> {
    let resource: Value = stored.body.as_ref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    let list = resource.get("identifier").map(|one| one.as_array().cloned().unwrap_or_else(|| vec![one.clone()])).unwrap_or_default();
    list.iter().filter_map(|one| Some(format!("{}|{}", one.get("system")?.as_str()?, one.get("value")?.as_str()?))).collect()
}
