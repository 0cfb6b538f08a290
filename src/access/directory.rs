//! What a requester is called: the names by which a Consent can mean the facility that asks, the organisations it is part of, and
//! the acting practitioner.
//!
//! The names come from the directory's resources (Organization, Practitioner, PractitionerRole, Group, CareTeam). Only the
//! operator's are believed, and a facility's own about itself: nobody becomes part of a hospital by writing that it is.
//! What was found is remembered for two seconds, because it changes rarely and every request asks.

use super::consent::Name;
use crate::definitions;
use crate::fhir::Reference;
use crate::store::query::{SystemTest, Test};
use crate::store::{FacilityKey, Filter, Query, Scope, Store, Stored};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long names are remembered.
const FRESH: Duration = Duration::from_secs(2);
/// Requesters remembered; forgotten all at once when there are more.
const REMEMBERED: usize = 10_000;
/// Organisations between a facility and the top.
const LEVELS: usize = 8;
/// Resources with one identifier that are looked at.
const MOST: u32 = 20;

/// Names by what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub organisations: BTreeSet<Name>,
    pub people: BTreeSet<Name>,
    pub groups: BTreeSet<Name>,
    /// The further identifiers of the facility and the practitioner, as they or the operator say.
    pub aliases: BTreeSet<Name>,
}

/// Looks names up.
pub struct Directory {
    store: Store,
    facility_system: String,
    practitioner_system: String,
    known: Mutex<HashMap<Asked, (Instant, Arc<Names>)>>,
}

/// A facility (its number and code) and a practitioner's identifier.
type Asked = (FacilityKey, String, Option<String>);

impl Directory {
    /// `facility_system` and `practitioner_system`: the identifier systems by which facilities and practitioners are known.
    pub fn new(store: Store, facility_system: &str, practitioner_system: &str) -> Directory {
        let (facility_system, practitioner_system) = (facility_system.to_owned(), practitioner_system.to_owned());
        Directory { store, facility_system, practitioner_system, known: Mutex::default() }
    }

    /// The names of the facility `code`, whose number is `owner`, and of its acting `practitioner`.
    pub async fn names(&self, owner: FacilityKey, code: &str, practitioner: Option<&str>) -> Result<Arc<Names>, sqlx::Error> {
        let asked: Asked = (owner, code.to_owned(), practitioner.map(str::to_owned));
        if let Some((since, names)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&asked)
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(names));
        }
        let names = Arc::new(self.look_up(owner, code, practitioner).await?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(asked, (Instant::now(), Arc::clone(&names)));
        Ok(names)
    }

    async fn look_up(&self, owner: FacilityKey, code: &str, practitioner: Option<&str>) -> Result<Names, sqlx::Error> {
        let mut names = Names::default();
        names.organisations.insert(format!("{}|{code}", self.facility_system));
        let mut above = Vec::new();
        for organization in self.identified("Organization", &self.facility_system, code, owner).await? {
            names.organisations.extend(name_of(&organization, "Organization"));
            names.aliases.extend(identifiers(&organization));
            above.extend(parent(&organization));
        }
        for _ in 0..LEVELS {
            let mut higher = Vec::new();
            for id in std::mem::take(&mut above) {
                let Some(type_code) = definitions::r4().type_code("Organization") else { continue };
                if names.organisations.contains(&format!("Organization/{id}")) {
                    continue;
                }
                let Some(organization) = self.store.read(type_code, &id, &Scope::All).await? else { continue };
                names.organisations.extend(name_of(&organization, "Organization"));
                if organization.owner == 0 {
                    names.organisations.extend(identifiers(&organization));
                }
                higher.extend(parent(&organization));
            }
            above = higher;
        }
        if let Some(practitioner) = practitioner {
            names.people.insert(format!("{}|{practitioner}", self.practitioner_system));
            for person in self.identified("Practitioner", &self.practitioner_system, practitioner, owner).await? {
                let roles = self.referring("PractitionerRole", "practitioner", "Practitioner", &person.id, owner).await?;
                names.people.extend(roles.iter().filter_map(|role| name_of(role, "PractitionerRole")));
                names.aliases.extend(roles.iter().chain([&person]).flat_map(identifiers));
                names.people.extend(name_of(&person, "Practitioner"));
            }
        }
        let members: Vec<Name> = names.organisations.iter().chain(&names.people).cloned().collect();
        for (type_name, id) in members.iter().filter_map(|name| name.split_once('/')) {
            if !matches!(type_name, "Organization" | "Practitioner" | "PractitionerRole") {
                continue;
            }
            for (group, param) in [("Group", "member"), ("CareTeam", "participant")] {
                let found = self.referring(group, param, type_name, id, 0).await?;
                names.groups.extend(found.iter().filter_map(|stored| name_of(stored, group)));
            }
        }
        Ok(names)
    }

    /// The resources with an identifier that are believed of `owner`.
    async fn identified(&self, type_name: &str, system: &str, value: &str, owner: FacilityKey) -> Result<Vec<Stored>, sqlx::Error> {
        let test = Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(value.to_owned()) };
        self.find(type_name, "identifier", test, owner).await
    }

    /// The resources that refer to one by `param`, as far as they are believed of `owner`.
    async fn referring(
        &self,
        type_name: &str,
        param: &str,
        target: &str,
        id: &str,
        owner: FacilityKey,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        let type_codes = definitions::r4().type_code(target).into_iter().collect();
        self.find(type_name, param, Test::Reference { type_codes, id: id.to_owned() }, owner).await
    }

    async fn find(&self, type_name: &str, param: &str, test: Test, owner: FacilityKey) -> Result<Vec<Stored>, sqlx::Error> {
        let r4 = definitions::r4();
        let Some((type_code, param)) = r4.type_code(type_name).and_then(|code| Some((code, r4.param(code, param)?.id))) else {
            return Ok(Vec::new());
        };
        let filters = vec![Filter::Param { param, tests: vec![test] }];
        // Nobody's copies can crowd out the believed ones.
        let scope = Scope::Owners(if owner == 0 { vec![0] } else { vec![0, owner] });
        let query = Query { type_code, filters, scope, sort: Vec::new() };
        let page = self.store.search(&query, MOST, None).await?;
        Ok(page.rows.into_iter().filter(|stored| stored.owner == 0 || stored.owner == owner).collect())
    }
}

fn name_of(stored: &Stored, type_name: &str) -> Option<Name> {
    stored.body.as_ref().map(|_| format!("{type_name}/{}", stored.id))
}

fn resource(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}

fn identifiers(stored: &Stored) -> Vec<Name> {
    let resource = resource(stored).unwrap_or_default();
    let list = resource.get("identifier").and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|one| Some(format!("{}|{}", one.get("system")?.as_str()?, one.get("value")?.as_str()?))).collect()
}

/// The id of the organisation that it is part of, as far as its word is believed.
fn parent(stored: &Stored) -> Option<String> {
    let resource = resource(stored).filter(|_| stored.owner == 0)?;
    match Reference::parse(resource.pointer("/partOf/reference")?.as_str()?)? {
        Reference::Local { type_name: "Organization", id, .. } => Some(id.to_owned()),
        _ => None,
    }
}
