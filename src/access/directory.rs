//! What a requester is called: the names by which a Consent can mean the facility that asks, the organisations it is part of, and
//! the acting practitioner.
//!
//! The names come from the directory's resources (Organization, Practitioner, PractitionerRole, Group, CareTeam). Only the
//! operator's are believed, and a facility's own about itself: nobody becomes part of a hospital by writing that it is. What anybody else
//! says of them counts for what forbids ([`Names::aliases`]): nobody leaves a group to which somebody says that they belong.
//!
//! For what permits an entry counts while it is in force: not one that is inactive, entered in error or of another time, nor a membership that is over, nor
//! the role of a practitioner at another organisation than they ask from. By its further identifiers it is meant only if it is the operator's,
//! since a facility could give its own the number of another; and so it is by an id that nobody had when the permit was written, since a facility
//! could take that ([`consent::operators`]).
//!
//! What was found is remembered for two seconds, because it changes rarely and every request asks.

use super::AccessSettings;
use super::consent::{self, Name};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::is_id;
use crate::fhir::time::now;
use crate::store::query::{SystemTest, Test};
use crate::store::{FacilityKey, Filter, Query, Scope, Store, Stored};
use jiff::tz::TimeZone;
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
/// Believed resources with one identifier that are looked at.
const MOST: u32 = 20;
/// The same of everybody's, and how many names one is perhaps called by.
const MOST_OF_ALL: u32 = 100;
const MOST_NAMES: usize = 300;
/// Groups within groups.
const NESTED: usize = 4;
/// Whom entries of the directory may name.
pub const ENTRIES: [&str; 7] = ["Organization", "Practitioner", "PractitionerRole", "CareTeam", "Group", "Device", "HealthcareService"];

/// Names by what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub organisations: BTreeSet<Name>,
    pub people: BTreeSet<Name>,
    pub groups: BTreeSet<Name>,
    /// What they may be called besides, and belong to, whoever says so.
    pub aliases: BTreeSet<Name>,
}

/// Looks names up.
pub struct Directory {
    store: Store,
    facility_system: String,
    practitioner_system: String,
    /// References under it are local.
    base: String,
    zone: TimeZone,
    known: Mutex<HashMap<Asked, (Instant, Arc<Names>)>>,
}

/// A facility (its number and code) and a practitioner's identifier.
type Asked = (FacilityKey, String, Option<String>);

impl Directory {
    /// A directory that knows facilities and practitioners by the identifier systems of the settings.
    pub fn new(store: Store, settings: &AccessSettings) -> Directory {
        let (facility_system, practitioner_system) = (settings.facility_system.clone(), settings.practitioner_system.clone());
        Directory {
            store,
            facility_system,
            practitioner_system,
            base: settings.fhir_base(),
            zone: settings.zone.clone(),
            known: Mutex::default(),
        }
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
            names.organisations.extend(self.called(&organization, "Organization"));
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
                if !resource(&organization).is_some_and(|body| self.is_in_force(&body)) {
                    continue;
                }
                names.organisations.extend(self.called(&organization, "Organization"));
                higher.extend(parent(&organization));
            }
            above = higher;
        }
        if let Some(practitioner) = practitioner {
            names.people.insert(format!("{}|{practitioner}", self.practitioner_system));
            for person in self.identified("Practitioner", &self.practitioner_system, practitioner, owner).await? {
                let roles = self.referring("PractitionerRole", "practitioner", "Practitioner", &person.id, owner).await?;
                names.aliases.extend(roles.iter().chain([&person]).flat_map(identifiers));
                let here = roles.iter().filter(|role| self.is_role_at(role, &names.organisations));
                // Whose the operator's roles are is said by the person's entry.
                let called = here.flat_map(|role| match person.owner {
                    0 => self.called(role, "PractitionerRole"),
                    _ => name_of(role, "PractitionerRole").into_iter().collect(),
                });
                names.people.extend(called.collect::<Vec<_>>());
                names.people.extend(self.called(&person, "Practitioner"));
            }
        }
        let members: Vec<Name> = names.organisations.iter().chain(&names.people).cloned().collect();
        for member in members {
            let Some((type_name, id)) = member.split_once('/').filter(|(_, id)| is_id(id)) else { continue };
            if !matches!(type_name, "Organization" | "Practitioner" | "PractitionerRole") {
                continue;
            }
            for (group, param) in [("Group", "member"), ("CareTeam", "participant")] {
                let found = self.referring(group, param, type_name, id, 0).await?;
                let holding = found.iter().filter(|stored| self.is_member(stored, &member, &names.organisations));
                names.groups.extend(holding.flat_map(|stored| self.called(stored, group)));
            }
        }
        let all = [&names.organisations, &names.people, &names.groups, &names.aliases].into_iter().flatten();
        let all = all.filter(|name| name.contains('|') || !name.contains('#')).cloned().collect();
        let perhaps = self.perhaps(all).await?;
        names.aliases.extend(perhaps);
        let folded: Vec<Name> =
            [&names.organisations, &names.people, &names.aliases].into_iter().flatten().filter_map(|name| self.folded(name)).collect();
        names.aliases.extend(folded);
        Ok(names)
    }

    /// The code of a facility or the number of a practitioner as [`folded`].
    fn folded(&self, name: &Name) -> Option<Name> {
        let (system, value) = name.split_once('|')?;
        (system == self.facility_system || system == self.practitioner_system).then(|| folded(system, value))
    }

    /// Everything that who is called so may be called, and belong to, whoever says so.
    async fn perhaps(&self, names: BTreeSet<Name>) -> Result<BTreeSet<Name>, sqlx::Error> {
        let mut found = called_besides(&self.store, names, &["Organization", "Practitioner", "PractitionerRole"]).await?;
        let mut seen = BTreeSet::new();
        for _ in 0..LEVELS {
            let here: Vec<Name> = found.difference(&seen).filter(|name| name.starts_with("Organization/")).cloned().collect();
            let mut above = BTreeSet::new();
            for name in here {
                let stored = of_name(&self.store, &name).await?;
                above.extend(stored.as_ref().and_then(|stored| referred(stored, "/partOf/reference", "Organization")));
                seen.insert(name);
            }
            if above.is_subset(&found) || found.len() > MOST_NAMES {
                break;
            }
            found.extend(called_besides(&self.store, above, &["Organization"]).await?);
        }
        let mut members: Vec<Name> = found.iter().cloned().collect();
        for _ in 0..NESTED {
            let mut groups = BTreeSet::new();
            for (type_name, id) in std::mem::take(&mut members).iter().filter_map(|name| name.split_once('/')) {
                for (group, param) in [("Group", "member"), ("CareTeam", "participant")] {
                    if ENTRIES.contains(&type_name) {
                        let of_all = referring(&self.store, group, param, type_name, id).await?;
                        let names = of_all.iter().flat_map(|stored| name_of(stored, group).into_iter().chain(identifiers(stored)));
                        groups.extend(names.filter(|name| !found.contains(name)).collect::<Vec<_>>());
                    }
                }
            }
            if groups.is_empty() || found.len() > MOST_NAMES {
                break;
            }
            members = groups.iter().cloned().collect();
            found.extend(groups);
        }
        Ok(found)
    }

    /// The resources in force with an identifier that are believed of `owner`.
    async fn identified(&self, type_name: &str, system: &str, value: &str, owner: FacilityKey) -> Result<Vec<Stored>, sqlx::Error> {
        let test = Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(value.to_owned()) };
        let mut found = self.find(type_name, "identifier", test, owner).await?;
        let name = format!("{system}|{value}");
        found.retain(|entry| identifiers_if(entry, |identifier| self.is_current(identifier)).contains(&name));
        Ok(found)
    }

    /// The resources in force that refer to one by `param`, as far as they are believed of `owner`.
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
        let believed = page.rows.into_iter().filter(|stored| stored.owner == 0 || stored.owner == owner);
        Ok(believed.filter(|stored| resource(stored).is_some_and(|entry| self.is_in_force(&entry))).collect())
    }

    /// What a permit may call an entry that is in force.
    fn called(&self, entry: &Stored, type_name: &str) -> Vec<Name> {
        let mut called: Vec<Name> = name_of(entry, type_name).into_iter().collect();
        if entry.owner == 0 {
            let marked: Vec<Name> = called.iter().map(|name| consent::operators(name)).collect();
            called.extend(marked);
            called.extend(identifiers_if(entry, |identifier| self.is_current(identifier)));
        }
        called
    }

    /// Whether an entry is not marked as gone, as a mistake or as of another time.
    fn is_in_force(&self, entry: &Value) -> bool {
        let is_active = entry.get("active") != Some(&Value::Bool(false));
        let status = entry.get("status").and_then(Value::as_str);
        is_active && status.is_none_or(|status| status == "active") && self.is_now(entry)
    }

    /// The same of an identifier.
    fn is_current(&self, identifier: &Value) -> bool {
        identifier.get("use").and_then(Value::as_str) != Some("old") && self.is_now(identifier)
    }

    /// Whether its period, if it has one, is now.
    fn is_now(&self, value: &Value) -> bool {
        let now = now();
        let holds = |period: &Value| consent::period(period, &self.zone).is_some_and(|period| period.low <= now && now < period.high);
        value.get("period").is_none_or(holds)
    }

    /// Whether a role is held at one of these organisations; one that names none is held anywhere.
    fn is_role_at(&self, role: &Stored, organisations: &BTreeSet<Name>) -> bool {
        resource(role).is_some_and(|role| self.is_one_of(role.get("organization"), organisations))
    }

    fn is_one_of(&self, reference: Option<&Value>, names: &BTreeSet<Name>) -> bool {
        reference.is_none_or(|reference| consent::names_of(reference, &self.base).iter().any(|name| names.contains(name)))
    }

    /// Whether a Group or CareTeam has this member now, on behalf of one of these organisations if of any.
    fn is_member(&self, group: &Stored, member: &Name, organisations: &BTreeSet<Name>) -> bool {
        let group = resource(group).unwrap_or_default();
        let list = |key: &str| group.get(key).and_then(Value::as_array).into_iter().flatten();
        let is_one = |reference: &Value| consent::names_of(reference, &self.base).contains(member);
        let is_in = |one: &Value| one.get("inactive") != Some(&Value::Bool(true)) && self.is_now(one);
        list("member").any(|one| one.get("entity").is_some_and(is_one) && is_in(one))
            || list("participant")
                .any(|one| one.get("member").is_some_and(is_one) && is_in(one) && self.is_one_of(one.get("onBehalfOf"), organisations))
    }
}

/// A code without case and blanks: a denial means whoever has it but for these.
pub fn folded(system: &str, code: &str) -> Name {
    format!("{system}|{}", code.trim().to_lowercase())
}

/// These names and all by which the same ones may be called, whoever says so: what has an identifier in common is perhaps one, and a practitioner is who
/// has their roles. `types`: the entries that are looked at.
pub async fn called_besides(store: &Store, names: BTreeSet<Name>, types: &[&str]) -> Result<BTreeSet<Name>, sqlx::Error> {
    let r4 = definitions::r4();
    let mut waiting: Vec<Name> = names.iter().cloned().collect();
    let mut found = names;
    while let Some(name) = waiting.pop().filter(|_| found.len() <= MOST_NAMES) {
        let mut entries = Vec::new();
        match name.split_once('|') {
            Some((system, value)) => {
                for type_name in types {
                    let Some(type_code) = r4.type_code(type_name) else { continue };
                    let Some(param) = r4.param(type_code, "identifier") else { continue };
                    let tests = vec![Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(value.to_owned()) }];
                    let filters = vec![Filter::Param { param: param.id, tests }];
                    let query = Query { type_code, filters, scope: Scope::All, sort: Vec::new() };
                    entries.extend(store.search(&query, MOST_OF_ALL, None).await?.rows);
                }
            }
            None => {
                entries.extend(of_name(store, &name).await?);
                if let Some(id) = name.strip_prefix("Practitioner/").filter(|_| types.contains(&"PractitionerRole")) {
                    entries.extend(referring(store, "PractitionerRole", "practitioner", "Practitioner", id).await?);
                }
            }
        }
        for entry in &entries {
            let own = name_of(entry, r4.type_name(entry.type_code));
            let person = referred(entry, "/practitioner/reference", "Practitioner");
            for other in own.into_iter().chain(person).chain(identifiers(entry)) {
                if found.insert(other.clone()) {
                    waiting.push(other);
                }
            }
        }
    }
    Ok(found)
}

/// The entry of this name, if it is one.
pub async fn of_name(store: &Store, name: &str) -> Result<Option<Stored>, sqlx::Error> {
    let Some((type_name, id)) = name.split_once('/').filter(|(type_name, _)| ENTRIES.contains(type_name)) else { return Ok(None) };
    let Some(type_code) = definitions::r4().type_code(type_name) else { return Ok(None) };
    let stored = store.read_many(&[(type_code, id.to_owned())]).await?;
    Ok(stored.into_iter().next().filter(|stored| stored.body.is_some()))
}

/// Everybody's resources that refer to one by `param`.
async fn referring(store: &Store, type_name: &str, param: &str, target: &str, id: &str) -> Result<Vec<Stored>, sqlx::Error> {
    let r4 = definitions::r4();
    let Some((type_code, param)) = r4.type_code(type_name).and_then(|code| Some((code, r4.param(code, param)?.id))) else {
        return Ok(Vec::new());
    };
    let test = Test::Reference { type_codes: r4.type_code(target).into_iter().collect(), id: id.to_owned() };
    let query = Query { type_code, filters: vec![Filter::Param { param, tests: vec![test] }], scope: Scope::All, sort: Vec::new() };
    Ok(store.search(&query, MOST_OF_ALL, None).await?.rows)
}

/// The name of whom an entry refers to there, if it is of this type.
fn referred(stored: &Stored, pointer: &str, type_name: &str) -> Option<Name> {
    match Reference::parse(resource(stored)?.pointer(pointer)?.as_str()?)? {
        Reference::Local { type_name: found, id, .. } if found == type_name => Some(format!("{type_name}/{id}")),
        _ => None,
    }
}

fn name_of(stored: &Stored, type_name: &str) -> Option<Name> {
    stored.body.as_ref().map(|_| format!("{type_name}/{}", stored.id))
}

fn resource(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}

/// `system|value` of all identifiers.
pub fn identifiers(stored: &Stored) -> Vec<Name> {
    identifiers_if(stored, |_| true)
}

fn identifiers_if(stored: &Stored, counts: impl Fn(&Value) -> bool) -> Vec<Name> {
    let resource = resource(stored).unwrap_or_default();
    let list = resource.get("identifier").map(|one| one.as_array().cloned().unwrap_or_else(|| vec![one.clone()])).unwrap_or_default();
    let counting = list.iter().filter(|one| counts(one));
    counting.filter_map(|one| Some(format!("{}|{}", one.get("system")?.as_str()?, one.get("value")?.as_str()?))).collect()
}

/// The id of the organisation that it is part of, as far as its word is believed.
fn parent(stored: &Stored) -> Option<String> {
    let name = referred(stored, "/partOf/reference", "Organization").filter(|_| stored.owner == 0)?;
    name.strip_prefix("Organization/").map(str::to_owned)
}
