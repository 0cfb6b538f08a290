//! Who is it? The client registry: source Patients as facilities sent them, golden Patients that link them.
//!
//! In come the ids of source Patients that were written; out come golden Patients, one for all source Patients that share an
//! exact strong identifier (a national id, a client registry number), whichever facility sent them. A medical record number is
//! a facility's own and never links, and nor does what stands for no identifier (`N/A`, `0`). The golden Patient holds the strong identifiers and a `link` of type `seealso` to each
//! source Patient, and nothing else: it is the registry's view of its links, not a merged record. Source Patients are left as
//! they were sent.
//!
//! Linking follows the write that caused it, in a transaction of its own that is refused when anything it rests on changed and
//! then made again; a job enqueued with the write (`registry.link`) makes it happen after a crash too. Doing it twice changes
//! nothing. Probabilistic matching, merging and review are a later concern and will live here.
//!
//! It must know nothing of HTTP, and of the store only what every room calls.

mod emergency;
mod golden;
mod likeness;

pub use emergency::{Asked, Meant};
pub use golden::looks_golden;

use crate::definitions;
use crate::fhir::placeholder::is_no_strong_identifier;
use crate::fhir::time::format_instant;
use crate::search::extract;
use crate::store::covered::{Narrowing, Permit};
use crate::store::gate::{About, Traits};
use crate::store::query::{SystemTest, Test};
use crate::store::write::{Change, Mutation, NewJob, Unit, WriteError};
use crate::store::{Filter, ParamId, Precondition, Query, Scope, Store, Stored, TypeCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The kind of the job that links source Patients.
pub const LINK_JOB: &str = "registry.link";

/// Source Patients that one golden Patient may link: more than that is a false identifier (`0000…`), not a person.
const MAX_SOURCES: usize = 200;
/// Patients looked at together, and the most that their identifiers are expected to find.
const PART: usize = 50;
const ANSWERS: u32 = 1_000;
/// Golden Patients that took each other's place, one after the other.
const REPLACEMENTS: usize = 8;
/// Tries against concurrent writers before the job takes over.
const ATTEMPTS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the store failed")]
    Store(#[from] sqlx::Error),
    #[error("the golden Patient was not written")]
    Write(#[from] WriteError),
    #[error("more than {MAX_SOURCES} Patients share an identifier: it cannot be a person's own")]
    TooMany,
    #[error("the definitions lack a parameter that linking needs")]
    Definitions,
}

/// The registry over one store.
/// Cheap enough to clone.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    secret: [u8; 32],
    /// Identifier systems whose value is one person's, everywhere.
    strong: BTreeSet<String>,
    patient: TypeCode,
    identifier: ParamId,
    link: ParamId,
    tag: ParamId,
    /// By which a Consent names whose it is.
    consent_patient: ParamId,
}

/// What is said of Patients from now on, by their ids; `None`: they are deleted.
pub type Told = BTreeMap<Box<str>, Option<Value>>;

/// Whom a Consent covers.
#[derive(Clone, Debug, Default)]
pub struct Covering {
    /// What is said of the Patient that it names, if anything.
    pub own: Option<Value>,
    /// The ids of all of the person.
    pub person: BTreeSet<String>,
    /// Those of whom what is said tells that they are the one that it names: who sends somebody's number with other words, or with none, is linked, and nothing
    /// that the one allows is the other's.
    pub agreeing: BTreeSet<String>,
    /// The versions by which this is so.
    pub rests_on: Vec<(TypeCode, Box<str>, i64)>,
}

/// (system, value)
type Identifier = (String, String);

impl Registry {
    /// `secret`: of this database, for ids that cannot be guessed. `strong_systems`: whose identifiers are one person's everywhere.
    pub fn new(store: Store, secret: [u8; 32], strong_systems: impl IntoIterator<Item = String>) -> Result<Registry, RegistryError> {
        let r4 = definitions::r4();
        let patient = r4.type_code("Patient").ok_or(RegistryError::Definitions)?;
        let param = |code| r4.param(patient, code).map(|param| param.id).ok_or(RegistryError::Definitions);
        let (identifier, link, tag) = (param("identifier")?, param("link")?, param("_tag")?);
        let consent = r4.type_code("Consent").ok_or(RegistryError::Definitions)?;
        let consent_patient = r4.param(consent, "patient").map(|param| param.id).ok_or(RegistryError::Definitions)?;
        Ok(Registry { store, secret, strong: strong_systems.into_iter().collect(), patient, identifier, link, tag, consent_patient })
    }

    /// Whether identifiers of this system are one person's everywhere.
    pub fn is_strong(&self, system: &str) -> bool {
        self.strong.contains(system)
    }

    /// The strong identifiers of a Patient resource.
    pub fn strong_identifiers(&self, patient: &Value) -> BTreeSet<Identifier> {
        let identifiers = patient.get("identifier").and_then(Value::as_array).into_iter().flatten();
        identifiers
            .filter_map(|identifier| {
                let (system, value) = (identifier.get("system")?.as_str()?, identifier.get("value")?.as_str()?.trim());
                (self.strong.contains(system) && !is_no_strong_identifier(value)).then(|| (system.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// The job that goes into the transaction that writes these source Patients.
    /// It becomes due at `run_at` (microseconds).
    pub fn link_job(patients: &[String], run_at: i64) -> NewJob {
        NewJob { kind: LINK_JOB.to_owned(), payload: serde_json::json!({ "version": 1, "patients": patients }), dedup_key: None, run_at }
    }

    /// Links these source Patients to all that share a strong identifier with them, and to nobody else.
    pub async fn link(&self, patients: &[String]) -> Result<(), RegistryError> {
        let mut done: BTreeSet<String> = BTreeSet::new();
        for part in patients.chunks(PART) {
            let mut waiting = self.sharing(part).await?;
            waiting.extend(self.linked(part).await?);
            while let Some(id) = waiting.pop_first() {
                if !done.contains(&id) {
                    let (cluster, left) = self.link_one(&id).await?;
                    done.insert(id);
                    done.extend(cluster);
                    waiting.extend(left);
                }
            }
        }
        Ok(())
    }

    /// Those of `patients` that a golden Patient links.
    async fn linked(&self, patients: &[String]) -> Result<BTreeSet<String>, RegistryError> {
        let golden = self.golden_of(patients.iter()).await?;
        let linked: BTreeSet<String> = golden.iter().flat_map(|(_, golden)| golden::sources(golden)).collect();
        Ok(patients.iter().filter(|id| linked.contains(*id)).cloned().collect())
    }

    /// The ids by which the person of this Patient is known: its own, those that it is linked to, and the golden one's.
    pub async fn person(&self, patient: &str) -> Result<BTreeSet<String>, RegistryError> {
        let mut ids = BTreeSet::from([patient.to_owned()]);
        let mut golden = self.golden_of(std::iter::once(&patient.to_owned())).await?;
        golden.extend(self.golden(patient).await?);
        for (id, resource) in &golden {
            ids.insert(id.clone());
            ids.extend(golden::sources(resource));
        }
        Ok(ids)
    }

    /// Whom a Consent of `patient` covers. `told`: what is said of Patients from now on, of those that are deleted nothing.
    pub async fn covering(&self, patient: &str, told: &Told) -> Result<Covering, RegistryError> {
        for _ in 0..ATTEMPTS {
            let person = self.person(patient).await?;
            let stored = self.stored(&person).await?;
            let live = || stored.iter().filter(|stored| stored.body.is_some());
            let golden: BTreeMap<&str, Value> = live().filter_map(|stored| Some((&*stored.id, golden_body(stored)?))).collect();
            // Who was linked otherwise between the two reads is another person.
            let linked = golden.iter().flat_map(|(id, body)| golden::sources(body).into_iter().chain([(*id).to_owned()]));
            if linked.chain([patient.to_owned()]).collect::<BTreeSet<String>>() != person {
                continue;
            }
            let said: BTreeMap<&str, Value> = live()
                .filter_map(|stored| Some((&*stored.id, body(stored)?)))
                .filter(|(id, _)| !told.contains_key(*id))
                .chain(told.iter().filter_map(|(id, body)| Some((&**id, body.clone()?))))
                .collect();
            let own = said.get(patient).cloned();
            let agrees = |id: &str| id == patient || own.as_ref().zip(said.get(id)).is_some_and(|(own, other)| likeness::agree(own, other));
            let sources: BTreeSet<&String> = person.iter().filter(|id| !golden.contains_key(id.as_str())).collect();
            let mut agreeing: BTreeSet<String> = sources.iter().filter(|id| agrees(id)).map(|id| (*id).clone()).collect();
            // The golden Patient is everybody's that it links.
            if agreeing.len() == sources.len() {
                agreeing.extend(golden.keys().map(|id| (*id).to_owned()));
            }
            agreeing.insert(patient.to_owned());
            return Ok(Covering { own, agreeing, rests_on: versions(&stored), person });
        }
        Err(RegistryError::Write(WriteError::Stale))
    }

    /// A narrowing of what Consents permit of these Patients, which takes away nothing yet.
    pub async fn narrowing(&self, patients: impl Iterator<Item = &str>) -> Result<Narrowing, sqlx::Error> {
        self.store.narrowing(self.patient, self.consent_patient, patients.map(Into::into).collect()).await
    }

    /// Whoever is not told any more to be the one who gave a Consent, now that this is said of Patients, is permitted nothing by it. Answers what it rests on
    /// besides.
    pub async fn tell_apart(&self, narrowing: &mut Narrowing, told: &Told) -> Result<Vec<(TypeCode, Box<str>, i64)>, sqlx::Error> {
        let pair = |permit: Permit| {
            let giver = permit.given_by.clone()?;
            let concerns = told.contains_key(giver.as_str()) || told.contains_key(permit.id.as_str());
            (giver != permit.id && concerns).then_some((permit, giver))
        };
        let pairs: Vec<(Permit, String)> = narrowing.permits().iter().cloned().filter_map(pair).collect();
        let others = pairs.iter().flat_map(|(permit, giver)| [&permit.id, giver]).filter(|id| !told.contains_key(id.as_str()));
        let stored = self.stored(&others.cloned().collect()).await?;
        let said = |id: &str| match told.get(id) {
            Some(told) => told.clone(),
            None => stored.iter().find(|stored| &*stored.id == id).and_then(body),
        };
        let is_golden = |id: &str| stored.iter().any(|stored| &*stored.id == id && golden_body(stored).is_some());
        let mut apart = BTreeSet::new();
        for (permit, giver) in pairs.iter().filter(|(permit, _)| !is_golden(&permit.id)) {
            if !said(giver).zip(said(&permit.id)).is_some_and(|(own, other)| likeness::agree(&own, &other)) {
                narrowing.remove(permit);
                apart.insert(permit.consent);
            }
        }
        // The golden Patient is everybody's that it links.
        let is_everybodys = |permit: &Permit| looks_golden(&permit.id) && permit.given_by.as_ref() != Some(&permit.id);
        let everybodys: Vec<Permit> =
            narrowing.permits().iter().filter(|permit| apart.contains(&permit.consent) && is_everybodys(permit)).cloned().collect();
        everybodys.iter().for_each(|permit| narrowing.remove(permit));
        Ok(versions(&stored))
    }

    async fn stored(&self, patients: &BTreeSet<String>) -> Result<Vec<Stored>, sqlx::Error> {
        let names: Vec<(TypeCode, String)> = patients.iter().map(|id| (self.patient, id.clone())).collect();
        if names.is_empty() { Ok(Vec::new()) } else { self.store.read_many(&names).await }
    }

    /// The ids by which whoever has this identifier is known. A strong one is one person's, however many Patients have it; of another the
    /// Patients must be one person's already, unless `scope` shows only one person's.
    pub async fn identified(&self, system: &str, value: &str, scope: &Scope) -> Result<BTreeSet<String>, RegistryError> {
        let identifier = (system.to_owned(), value.to_owned());
        let by_identifier = || Filter::Param { param: self.identifier, tests: vec![token(&identifier)] };
        if self.is_strong(system) && !is_no_strong_identifier(value) {
            return self.persons(&self.found(by_identifier(), &Scope::All).await?).await.map(|ids| ids.into_iter().flatten().collect());
        }
        // What the caller may see comes first: what is hidden then changes nothing.
        for scope in [scope, &Scope::All] {
            let mut persons = self.persons(&self.found(by_identifier(), scope).await?).await?;
            match (persons.len(), persons.pop_first()) {
                (1, Some(person)) => return Ok(person),
                (0, _) => {}
                _ => break,
            }
        }
        Ok(BTreeSet::new())
    }

    /// Whether such an identifier may lead a caller to a person: a strong one always, another if `scope` shows a Patient that has it. Otherwise what else
    /// the caller sees of the person would tell whose it is.
    pub async fn leads(&self, system: &str, value: &str, scope: &Scope) -> Result<bool, RegistryError> {
        if self.is_strong(system) && !is_no_strong_identifier(value) {
            return Ok(true);
        }
        let filter = Filter::Param { param: self.identifier, tests: vec![token(&(system.to_owned(), value.to_owned()))] };
        Ok(!self.found(filter, scope).await?.is_empty())
    }

    async fn persons(&self, patients: &[Stored]) -> Result<BTreeSet<BTreeSet<String>>, RegistryError> {
        let mut persons = BTreeSet::new();
        for stored in patients {
            if !persons.iter().any(|person: &BTreeSet<String>| person.contains(&*stored.id)) {
                persons.insert(self.person(&stored.id).await?);
            }
        }
        Ok(persons)
    }

    /// The golden Patient `id` as the caller of `scope` may know it: made of those of its sources that `scope` shows and `admits` lets pass. `None`
    /// when these are fewer than two: to that caller they are nobody's links.
    pub async fn golden_view(
        &self,
        id: &str,
        scope: &Scope,
        admits: impl Fn(&Stored) -> bool + Send,
    ) -> Result<Option<Stored>, RegistryError> {
        let Some((id, golden)) = self.golden(id).await? else { return Ok(None) };
        let mut seen: BTreeMap<String, Stored> = BTreeMap::new();
        for source in golden::sources(&golden) {
            let stored = self.store.read(self.patient, &source, scope).await?;
            seen.extend(stored.filter(|stored| stored.body.is_some() && admits(stored)).map(|stored| (source, stored)));
        }
        let Some(newest) = seen.values().max_by_key(|stored| stored.updated).filter(|_| seen.len() > 1) else { return Ok(None) };
        let identifiers: BTreeSet<Identifier> =
            seen.values().filter_map(body).flat_map(|source| self.strong_identifiers(&source)).collect();
        let mut view = golden::resource(&id, &seen.keys().cloned().collect(), &identifiers, None);
        if let Some(meta) = view.get_mut("meta") {
            meta["lastUpdated"] = Value::from(format_instant(newest.updated));
        }
        Ok(Some(Stored { id: id.into(), body: Some(view.to_string().into()), version: 0, ..newest.clone() }))
    }

    /// The Patients that the golden Patient `id` stands for; `None`: it is no golden Patient.
    pub async fn sources_of(&self, id: &str) -> Result<Option<Vec<String>>, RegistryError> {
        Ok(self.golden(id).await?.map(|(_, golden)| golden::sources(&golden).into_iter().collect()))
    }

    /// The golden Patient with this id, or the one that has taken its place.
    async fn golden(&self, id: &str) -> Result<Option<(String, Value)>, RegistryError> {
        let mut id = id.to_owned();
        for _ in 0..REPLACEMENTS {
            let Some(resource) = self.store.read(self.patient, &id, &Scope::All).await?.as_ref().and_then(golden_body) else { break };
            match golden::replaced_by(&resource) {
                Some(other) => id = other,
                None => return Ok(Some((id, resource))),
            }
        }
        Ok(None)
    }

    /// The golden Patients that link any of these sources.
    async fn golden_of(&self, sources: impl Iterator<Item = &String>) -> Result<Vec<(String, Value)>, RegistryError> {
        let stored = self.linking(sources).await?;
        Ok(stored.iter().filter_map(|stored| Some((stored.id.to_string(), golden_body(stored)?))).collect())
    }

    async fn linking(&self, sources: impl Iterator<Item = &String>) -> Result<Vec<Stored>, RegistryError> {
        let by_link = self.by_link(sources);
        if matches!(&by_link, Filter::Param { tests, .. } if tests.is_empty()) {
            return Ok(Vec::new());
        }
        let found = self.find(by_link).await?;
        Ok(found.into_iter().filter(|stored| golden_body(stored).is_some()).collect())
    }

    /// What links any of these sources.
    fn by_link<'a>(&self, sources: impl Iterator<Item = &'a String>) -> Filter {
        let tests = sources.map(|id| Test::Reference { type_codes: vec![self.patient], id: id.clone() }).collect();
        Filter::Param { param: self.link, tests }
    }

    fn query(&self, filter: Filter, scope: &Scope) -> Query {
        Query { type_code: self.patient, filters: vec![filter], scope: scope.clone(), sort: Vec::new() }
    }

    /// Those of `patients` that share a strong identifier with anyone: most share with nobody, and two queries tell.
    async fn sharing(&self, patients: &[String]) -> Result<BTreeSet<String>, RegistryError> {
        let names: Vec<(TypeCode, String)> = patients.iter().map(|id| (self.patient, id.clone())).collect();
        let mut holders: BTreeMap<Identifier, BTreeSet<String>> = BTreeMap::new();
        for stored in self.store.read_many(&names).await? {
            for identifier in body(&stored).iter().flat_map(|patient| self.strong_identifiers(patient)) {
                holders.entry(identifier).or_default().insert(stored.id.to_string());
            }
        }
        let asked: Vec<Test> = holders.keys().map(token).collect();
        if asked.is_empty() {
            return Ok(BTreeSet::new());
        }
        let query = self.query(Filter::Param { param: self.identifier, tests: asked }, &Scope::All);
        let page = self.store.search(&query, ANSWERS, None).await?;
        if page.next.is_some() {
            // More than expected: look at each.
            return Ok(patients.iter().cloned().collect());
        }
        for stored in &page.rows {
            for identifier in body(stored).iter().flat_map(|patient| self.strong_identifiers(patient)) {
                if let Some(known) = holders.get_mut(&identifier) {
                    known.insert(stored.id.to_string());
                }
            }
        }
        let shared: BTreeSet<String> = holders.into_values().filter(|known| known.len() > 1).flatten().collect();
        Ok(patients.iter().filter(|id| shared.contains(*id)).cloned().collect())
    }

    /// Answers the ids of the whole cluster, and those that were linked with them and are no longer.
    async fn link_one(&self, id: &str) -> Result<(BTreeSet<String>, BTreeSet<String>), RegistryError> {
        for _ in 0..ATTEMPTS {
            let (sources, identifiers) = self.cluster(id).await?;
            let done = if sources.len() < 2 { self.leave(id).await } else { self.write_golden(&sources, &identifiers).await };
            match done {
                Ok(left) => return Ok((sources, left)),
                Err(RegistryError::Write(WriteError::Stale)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(rand::random_range(1..20))).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(RegistryError::Write(WriteError::Stale))
    }

    /// What Consents permit no longer when of `known`, some of whom were one person, only `person` are one: nothing of anybody who is not the person who gave
    /// it. What they denied stays denied until they are written again. The golden Patient stands for all whom it links.
    async fn unlinked(&self, known: BTreeSet<String>, person: &BTreeSet<String>) -> Result<Narrowing, RegistryError> {
        let mut narrowing = self.narrowing(known.iter().map(String::as_str)).await?;
        let permits = narrowing.permits().clone();
        let covers = |consent, id: &String| permits.iter().any(|permit| permit.consent == consent && permit.id == *id);
        for permit in permits.iter().filter(|permit| permit.given_by.as_ref() != Some(&permit.id)) {
            let is_same = person.contains(&permit.id) && permit.given_by.as_ref().is_some_and(|giver| person.contains(giver));
            let is_whole = || person.iter().all(|id| looks_golden(id) || covers(permit.consent, id));
            if !is_same || looks_golden(&permit.id) && !is_whole() {
                narrowing.remove(permit);
            }
        }
        Ok(narrowing)
    }

    /// Takes a source that shares with nobody out of the golden Patients that link it. Those who remain keep theirs if they still
    /// share; otherwise it stands for nobody any more.
    async fn leave(&self, id: &str) -> Result<BTreeSet<String>, RegistryError> {
        let mut left = BTreeSet::new();
        for stored in self.linking(std::iter::once(&id.to_owned())).await? {
            let mut others = body(&stored).map(|golden| golden::sources(&golden)).unwrap_or_default();
            others.remove(id);
            let mut handed_on = false;
            for other in &others {
                let (sources, identifiers) = self.cluster(other).await?;
                if sources.len() > 1 {
                    left.extend(self.write_golden(&sources, &identifiers).await?);
                    handed_on = true;
                    break;
                }
            }
            if !handed_on {
                let nobodys = golden::resource(&stored.id, &BTreeSet::new(), &BTreeSet::new(), None);
                let mutations = vec![self.mutation(&stored.id, Some(&stored), nobodys)?];
                let known = others.iter().cloned().chain([id.to_owned(), stored.id.to_string()]).collect();
                let narrowing = Some(self.unlinked(known, &BTreeSet::new()).await?);
                self.store.commit(Unit { mutations, narrowing, ..Unit::default() }).await?;
            }
        }
        left.remove(id);
        Ok(left)
    }

    /// Everyone reached from `id` over shared strong identifiers.
    async fn cluster(&self, id: &str) -> Result<(BTreeSet<String>, BTreeSet<Identifier>), RegistryError> {
        let mut sources = BTreeSet::new();
        let mut identifiers: BTreeSet<Identifier> = BTreeSet::new();
        let Some(first) = self.store.read(self.patient, id, &Scope::All).await?.as_ref().and_then(body) else {
            return Ok((sources, identifiers));
        };
        sources.insert(id.to_owned());
        let mut open: Vec<Identifier> = self.strong_identifiers(&first).into_iter().collect();
        while let Some(identifier) = open.pop() {
            let test = token(&identifier);
            if !identifiers.insert(identifier) {
                continue;
            }
            let found = self.find(Filter::Param { param: self.identifier, tests: vec![test] }).await?;
            for source in found.iter().filter(|source| !sources.contains(&*source.id)).collect::<Vec<_>>() {
                sources.insert(source.id.to_string());
                open.extend(body(source).iter().flat_map(|patient| self.strong_identifiers(patient)));
            }
            if sources.len() > MAX_SOURCES {
                return Err(RegistryError::TooMany);
            }
        }
        Ok((sources, identifiers))
    }

    async fn find(&self, filter: Filter) -> Result<Vec<Stored>, RegistryError> {
        self.found(filter, &Scope::All).await
    }

    async fn found(&self, filter: Filter, scope: &Scope) -> Result<Vec<Stored>, RegistryError> {
        let query = self.query(filter, scope);
        let page = self.store.search(&query, MAX_SOURCES as u32 + 1, None).await?;
        if page.next.is_some() {
            return Err(RegistryError::TooMany);
        }
        Ok(page.rows)
    }

    /// Writes the cluster's golden Patient: the oldest that links one of the sources, or a new one. Others that link some of them
    /// are replaced by it. Answers those who were linked with them and no longer share.
    ///
    /// Two who saw different parts of one person at once would each make one: so it rests on nobody else having linked any of the sources
    /// meanwhile, and whoever links one of the same waits for the other.
    async fn write_golden(
        &self,
        sources: &BTreeSet<String>,
        identifiers: &BTreeSet<Identifier>,
    ) -> Result<BTreeSet<String>, RegistryError> {
        let query = self.query(self.by_link(sources.iter()), &Scope::All);
        let linking = self.store.matches(&query, MAX_SOURCES as u32 + 1).await?;
        if linking.len() > MAX_SOURCES {
            return Err(RegistryError::TooMany);
        }
        let rests_on = Precondition { query, expected: linking.iter().map(|stored| stored.id.to_string()).collect() };
        let existing: Vec<Stored> = linking.into_iter().filter(|stored| golden_body(stored).is_some()).collect();
        let linked: BTreeSet<String> = existing.iter().filter_map(body).flat_map(|golden| golden::sources(&golden)).collect();
        let mut existing: BTreeMap<i64, Stored> = existing.into_iter().map(|stored| (stored.key, stored)).collect();
        let (id, kept) = match existing.pop_first() {
            Some((_, kept)) => (kept.id.to_string(), Some(kept)),
            None => self.unused(sources).await?,
        };
        let taken = kept.as_ref().and_then(body).map(|golden| golden::sources(&golden)).unwrap_or_default();
        let left: BTreeSet<String> = linked.into_iter().chain(taken).filter(|id| !sources.contains(id)).collect();
        let mut mutations = Vec::new();
        let now = golden::resource(&id, sources, identifiers, None);
        if kept.as_ref().and_then(body).is_none_or(|before| !golden::same(&before, &now)) {
            mutations.push(self.mutation(&id, kept.as_ref(), now)?);
        }
        for stored in existing.values() {
            let retired = golden::resource(&stored.id, &BTreeSet::new(), &BTreeSet::new(), Some(&id));
            mutations.push(self.mutation(&stored.id, Some(stored), retired)?);
        }
        if !mutations.is_empty() {
            let replaced = existing.values().map(|stored| stored.id.to_string());
            let person: BTreeSet<String> = sources.iter().cloned().chain(replaced).chain([id]).collect();
            let known = person.iter().chain(&left).cloned().collect();
            let narrowing = Some(self.unlinked(known, &person).await?);
            self.store.commit(Unit { mutations, preconditions: vec![rests_on], narrowing, ..Unit::default() }).await?;
        }
        Ok(left)
    }

    /// The first id for a new golden Patient that stands for nobody else (somebody may just have made it for these), and what is
    /// there under this id.
    async fn unused(&self, sources: &BTreeSet<String>) -> Result<(String, Option<Stored>), RegistryError> {
        for nth in 0..ATTEMPTS as u32 {
            let id = golden::new_id(&self.secret, sources, nth);
            let stored = self.store.read(self.patient, &id, &Scope::All).await?;
            let known = stored.as_ref().and_then(body).map(|golden| golden::sources(&golden)).unwrap_or_default();
            if known.is_empty() || !known.is_disjoint(sources) {
                return Ok((id, stored));
            }
        }
        Err(RegistryError::Write(WriteError::Stale))
    }

    fn mutation(&self, id: &str, before: Option<&Stored>, resource: Value) -> Result<Mutation, RegistryError> {
        let base_version = before.map_or(0, |stored| stored.version);
        let entries = |resource: &Value| -> Vec<_> {
            let all = extract::extract(self.patient, resource, &extract::Options::default());
            all.into_iter().filter(|entry| entry.param == self.link || entry.param == self.tag).collect()
        };
        let (bytes, stamp_at) = golden::stamped(&resource, base_version + 1);
        let old_entries = before.and_then(body).as_ref().map(&entries).unwrap_or_default();
        let change = Change::Put { body: bytes, stamp_at, entries: entries(&resource), old_entries };
        Ok(Mutation {
            type_code: self.patient,
            id: id.into(),
            base_version,
            change,
            owner: 0,
            listed: false,
            // It tells of links that not everybody may know: what a caller may know of it is made for them ([`Registry::golden_view`]).
            about: About::Unknown,
            traits: Traits::default(),
            rules: None,
        })
    }
}

fn token((system, value): &Identifier) -> Test {
    Test::Token { system: SystemTest::Is(system.clone()), code: Some(value.clone()) }
}

/// A golden Patient is the registry's own: what a facility sends under that tag links nobody.
fn golden_body(stored: &Stored) -> Option<Value> {
    body(stored).filter(|patient| stored.owner == 0 && golden::is_golden(patient))
}

/// At which versions these are, but for what is deleted.
fn versions(stored: &[Stored]) -> Vec<(TypeCode, Box<str>, i64)> {
    let live = stored.iter().filter(|stored| stored.body.is_some());
    live.map(|stored| (stored.type_code, stored.id.clone(), stored.version)).collect()
}

fn body(stored: &Stored) -> Option<Value> {
    serde_json::from_slice(stored.body.as_ref()?).ok()
}
