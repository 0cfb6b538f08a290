//! What records of templates say of resources, laid over each other in the order of arrival and then over what is stored.
//!
//! [`Fold`] takes records one after another and keeps for each resource what they say of it together: nothing is looked up and
//! nothing written on the way, so a resource passes through no old state. [`Fold::settle`] then holds that against the store
//! and gives the changes that are left.
//!
//! A list that a record holds says all there is of it in that visit. What the list made before, as the visit's row remembers
//! ([`Visit`]), and makes no longer is withdrawn. A submission that is older than the newest that spoke of the visit only fills
//! gaps: what the newer one said stays.

use super::etag::Versions;
use super::template::{Listed, Produced, Update, forget, merge};
use super::write::{Action, Condition, Wanted, Writer};
use crate::definitions;
use crate::store::visits::Visit;
use crate::store::{Stored, TypeCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(super) type Name = (TypeCode, Box<str>);

/// What one record says.
#[derive(Debug)]
pub(super) struct Told {
    pub submission: i64,
    pub visit: Option<Box<str>>,
    pub lists: Vec<Listed>,
    pub resources: Vec<Said>,
}

/// What a record says of one resource.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub name: Name,
    pub resource: Arc<Value>,
    pub update: Update,
    pub list: Option<usize>,
    /// Where in the payload stands, or should stand, what is needed when nothing is stored.
    pub needs: Option<Box<str>>,
}

impl Said {
    /// What the record at `path` says; `None` for what has no type or id.
    pub fn of(produced: Produced, path: &str) -> Option<Said> {
        let Produced { resource, update, list, needs, .. } = produced;
        let needs = needs.map(|needs| format!("{path}.{needs}").into());
        let type_code = definitions::r4().type_code(resource.get("resourceType")?.as_str()?)?;
        let id = resource.get("id")?.as_str()?.into();
        Some(Said { name: (type_code, id), resource: Arc::new(resource), update, list, needs })
    }
}

/// Why a record cannot be laid over those before it.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It builds on what was never sent. Where in the payload stands, or should stand, what would be needed.
    NeverSent { needs: Vec<Box<str>> },
    /// It would move a resource of this type from one patient to another.
    OtherPatient(&'static str),
}

/// A record was laid over those before it.
#[derive(Debug)]
pub(super) struct Laid {
    pub touches: Vec<Touch>,
    /// Where in the payload stands what names something that nothing is known of.
    pub unknown: Vec<Box<str>>,
}

/// A resource as the records say it.
#[derive(Debug)]
struct State {
    name: Name,
    /// `None`: withdrawn.
    resource: Option<Arc<Value>>,
    update: Update,
    /// The visit that spoke of it last, and the name of its list.
    visit: Option<Box<str>>,
    list: Option<String>,
}

#[derive(Debug, Default)]
struct VisitSaid {
    submission: i64,
    lists: BTreeMap<String, ListSaid>,
}

#[derive(Debug)]
struct ListSaid {
    whole: bool,
    /// Places in [`Fold::states`].
    made: BTreeSet<usize>,
}

/// That a record touches a state, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    /// In [`Fold::states`].
    place: usize,
    /// No record before it has.
    pub first: bool,
    /// It says something else than those before it.
    pub changed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fold {
    places: HashMap<Name, usize>,
    states: Vec<State>,
    visits: HashMap<Box<str>, VisitSaid>,
}

/// What is left to be done.
pub(super) struct Settled {
    pub changes: Vec<Wanted>,
    pub visits: Vec<Visit>,
    /// For each state the place of its change.
    of_state: Vec<Option<usize>>,
    /// The places of what the stored lists of a visit made and its new lists do not.
    withdrawn: HashMap<Box<str>, Vec<usize>>,
}

impl Settled {
    /// The places of the changes that a record with these touches and this visit has a part in, and which part.
    pub fn places<'s>(&'s self, touches: &'s [Touch], visit: Option<&str>) -> impl Iterator<Item = (usize, Touch)> + 's {
        let own = touches.iter().filter_map(|touch| Some((self.of_state.get(touch.place).copied().flatten()?, *touch)));
        let withdrawn = visit.and_then(|visit| self.withdrawn.get(visit)).into_iter().flatten();
        own.chain(withdrawn.map(|place| (*place, Touch { place: *place, first: true, changed: true })))
    }
}

impl Fold {
    /// What was said, each resource once.
    pub fn into_said(self) -> impl Iterator<Item = Said> {
        let said = |State { name, resource, update, .. }: State| Some(Said { name, resource: resource?, update, list: None, needs: None });
        self.states.into_iter().filter_map(said)
    }

    fn has(&self, name: &Name) -> bool {
        self.places.get(name).and_then(|place| self.states.get(*place)).is_some_and(|state| state.resource.is_some())
    }

    fn has_of_other_patient(&self, said: &Said) -> bool {
        let known = self.places.get(&said.name).and_then(|place| self.states.get(*place)?.resource.as_deref());
        known.and_then(patient).zip(patient(&said.resource)).is_some_and(|(known, new)| known != new)
    }

    /// Lays a record over the others and gives the states that it touches; nothing is laid when it does not fit.
    /// `exists`: what is known from elsewhere to be stored.
    pub fn add(&mut self, told: &Told, exists: impl Fn(&Name) -> bool) -> Result<Laid, Unfit> {
        let missing =
            |said: &&Said| matches!(said.update, Update::Existing | Update::Known) && !self.has(&said.name) && !exists(&said.name);
        let missing: Vec<&Said> = told.resources.iter().filter(missing).collect();
        if !missing.is_empty() {
            return Err(Unfit::NeverSent { needs: missing.into_iter().filter_map(|said| said.needs.clone()).collect() });
        }
        if let Some(moved) = told.resources.iter().find(|said| said.update == Update::Replace && self.has_of_other_patient(said)) {
            return Err(Unfit::OtherPatient(definitions::r4().type_name(moved.name.0)));
        }
        let is_known = |said: &Said| self.has(&said.name) || exists(&said.name);
        let unknown = told.resources.iter().filter(|said| said.update == Update::Expected && !is_known(said));
        let unknown: Vec<Box<str>> = unknown.filter_map(|said| said.needs.clone()).collect();
        let mut touched = Vec::with_capacity(told.resources.len());
        let mut made: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); told.lists.len()];
        for said in told.resources.iter().filter(|said| said.update != Update::Expected) {
            let touch = self.lay(said, told);
            if let Some(made) = said.list.and_then(|list| made.get_mut(list)) {
                made.insert(touch.place);
            }
            touched.push(touch);
        }
        let Some(id) = &told.visit else { return Ok(Laid { touches: touched, unknown }) };
        let visit = self.visits.entry(id.clone()).or_default();
        visit.submission = visit.submission.max(told.submission);
        for (listed, made) in told.lists.iter().zip(made) {
            let Some(known) = visit.lists.get_mut(&listed.name) else {
                visit.lists.insert(listed.name.clone(), ListSaid { whole: listed.whole, made });
                continue;
            };
            if !listed.whole {
                known.made.extend(made);
                continue;
            }
            for gone in known.made.difference(&made).filter(|gone| !touched.iter().any(|touch| touch.place == **gone)) {
                if let Some(state) = self.states.get_mut(*gone) {
                    (state.resource, state.update) = (None, Update::Replace);
                }
            }
            touched.extend(known.made.difference(&made).map(|place| Touch { place: *place, first: false, changed: true }));
            *known = ListSaid { whole: true, made };
        }
        Ok(Laid { touches: touched, unknown })
    }

    fn lay(&mut self, said: &Said, told: &Told) -> Touch {
        let list = said.list.and_then(|list| told.lists.get(list)).map(|list| list.name.clone());
        let Some((place, state)) = self.places.get(&said.name).and_then(|place| Some((*place, self.states.get_mut(*place)?))) else {
            let place = self.states.len();
            self.places.insert(said.name.clone(), place);
            let (name, resource, visit) = (said.name.clone(), Some(Arc::clone(&said.resource)), told.visit.clone());
            self.states.push(State { name, resource, update: said.update, visit, list });
            return Touch { place, first: true, changed: true };
        };
        let before = state.resource.take();
        let (resource, update) = match (&before, said.update) {
            (Some(before), Update::IfAbsent | Update::Known | Update::Expected) => (Arc::clone(before), state.update),
            (Some(before), Update::Merge | Update::Existing) => {
                let update = if state.update == Update::Replace { Update::Replace } else { Update::Merge };
                (Arc::new(merge(before, &said.resource)), update)
            }
            (None, Update::IfAbsent | Update::Known | Update::Expected) => (Arc::clone(&said.resource), Update::Replace),
            (_, update) => (Arc::clone(&said.resource), update),
        };
        let changed = before.is_none_or(|before| before != resource);
        (state.resource, state.update, state.visit, state.list) = (Some(resource), update, told.visit.clone(), list);
        Touch { place, first: false, changed }
    }

    /// Holds what was said against what is stored. `stored`: at least the resources that do not simply take the place of what is
    /// there, and all of a visit of which a newer submission has spoken; `rows`: what is remembered of the visits.
    pub fn settle(&self, writer: &Writer, stored: &HashMap<Name, Stored>, rows: &HashMap<Box<str>, Visit>) -> Settled {
        let mut settled =
            Settled { changes: Vec::with_capacity(self.states.len()), visits: Vec::new(), of_state: Vec::new(), withdrawn: HashMap::new() };
        let mut remembered: HashMap<&str, Remembered> = HashMap::new();
        for (id, said) in &self.visits {
            let mut memory = Remembered::new(self, said, rows.get(id));
            // What one record made and a later one withdrew was perhaps stored before, and is no longer referred to.
            let gone = self.states.iter().filter(|state| state.resource.is_none() && state.visit.as_ref() == Some(id));
            memory.references.extend(gone.map(|state| reference(&state.name)));
            if let Some(row) = memory.row(id, said, rows.get(id)) {
                settled.visits.push(row);
            }
            remembered.insert(id, memory);
        }
        for state in &self.states {
            let memory = state.visit.as_ref().and_then(|id| remembered.get(&**id));
            let wanted = self.wanted(state, memory, writer, stored);
            settled.of_state.push(wanted.is_some().then_some(settled.changes.len()));
            settled.changes.extend(wanted);
        }
        for (id, memory) in remembered {
            for gone in memory.gone {
                settled.withdrawn.entry(id.into()).or_default().push(settled.changes.len());
                let (type_code, id) = gone;
                settled.changes.push(Wanted { action: Action::Delete { type_code, id }, condition: Condition::Any });
            }
        }
        settled
    }

    fn wanted(&self, state: &State, memory: Option<&Remembered>, writer: &Writer, stored: &HashMap<Name, Stored>) -> Option<Wanted> {
        let late = memory.is_some_and(|memory| memory.late);
        if let (Some(memory), Some(list)) = (memory, &state.list)
            && memory.closed.contains(list)
        {
            return None;
        }
        let (type_code, id) = &state.name;
        let Some(resource) = &state.resource else {
            return Some(Wanted { action: Action::Delete { type_code: *type_code, id: id.clone() }, condition: Condition::Any });
        };
        let live = stored.get(&state.name).and_then(|stored| Some((stored.version, stored.body.as_ref()?)));
        let (mut resource, condition) = match (state.update, live) {
            (Update::IfAbsent, Some(_)) | (Update::Known | Update::Expected, _) => return None,
            (Update::Replace, Some(_)) if late => return None,
            (Update::Merge | Update::Existing, Some((version, before))) => {
                let before: Value = serde_json::from_slice(before).ok()?;
                let merged = if late { merge(resource, &before) } else { merge(&before, resource) };
                (Arc::new(merged), Condition::Version(Versions::one(version)))
            }
            (Update::Replace, _) => (Arc::clone(resource), Condition::SamePatient),
            _ => (Arc::clone(resource), Condition::Any),
        };
        if let Some(memory) = memory.filter(|memory| !memory.references.is_empty() && state.update != Update::Replace) {
            forget(Arc::make_mut(&mut resource), &memory.references);
        }
        Some(Wanted { action: Action::Put(writer.draft_of(*type_code, id, &resource)), condition })
    }
}

/// What is remembered of a visit, and what follows from it.
struct Remembered {
    /// A newer submission has spoken of the visit.
    late: bool,
    /// Lists that a newer submission has spoken of.
    closed: BTreeSet<String>,
    /// `Type/id` by list, as it is from now on.
    lists: BTreeMap<String, BTreeSet<String>>,
    /// What stored lists made, and the new ones do not, and nothing else that was said here.
    gone: Vec<Name>,
    /// Every resource of the visit that is withdrawn, as a reference names it.
    references: BTreeSet<String>,
}

impl Remembered {
    fn new(fold: &Fold, said: &VisitSaid, row: Option<&Visit>) -> Remembered {
        let late = row.is_some_and(|row| row.submission > said.submission);
        let mut lists: BTreeMap<String, BTreeSet<String>> = row.and_then(|row| serde_json::from_str(&row.lists).ok()).unwrap_or_default();
        let (mut closed, mut gone, mut references) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for (name, list) in &said.lists {
            let before = lists.get(name);
            if late && before.is_some() {
                closed.insert(name.clone());
                continue;
            }
            let states = list.made.iter().filter_map(|place| fold.states.get(*place));
            let mut made: BTreeSet<String> = states.filter(|state| state.resource.is_some()).map(|state| reference(&state.name)).collect();
            for reference in before.into_iter().flatten() {
                if made.contains(reference) {
                    continue;
                }
                if !list.whole {
                    made.insert(reference.clone());
                } else if let Some(name) = parse(reference).filter(|name| !fold.has(name)) {
                    references.insert(reference.clone());
                    if !fold.places.contains_key(&name) {
                        gone.push(name);
                    }
                }
            }
            lists.insert(name.clone(), made);
        }
        Remembered { late, closed, lists, gone, references }
    }

    /// The visit's row, when it changes.
    fn row(&self, id: &str, said: &VisitSaid, before: Option<&Visit>) -> Option<Visit> {
        let lists = serde_json::to_string(&self.lists).ok()?;
        let (revision, submission) = before.map_or((0, 0), |row| (row.revision, row.submission));
        let row = Visit { id: id.into(), revision, submission: submission.max(said.submission), lists };
        (before != Some(&row)).then_some(row)
    }
}

/// Whom a resource says that it is about.
fn patient(resource: &Value) -> Option<&str> {
    resource.get("subject").or_else(|| resource.get("patient"))?.get("reference")?.as_str()
}

fn reference((type_code, id): &Name) -> String {
    format!("{}/{id}", definitions::r4().type_name(*type_code))
}

fn parse(reference: &str) -> Option<Name> {
    let (type_name, id) = reference.split_once('/')?;
    Some((definitions::r4().type_code(type_name)?, id.into()))
}
