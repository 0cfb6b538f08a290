//! Asking the holders of a person, and deciding on what they answered.

use super::check::{Checked, Known, check};
use super::locate::{Location, locations};
use super::{HolderError, Wanted, medicines};
use crate::access::consent::{self, Consent, Requester, ResourceFacts};
use crate::access::gate::numbers;
use crate::access::{Caller, Interaction, audit};
use crate::app::App;
use crate::definitions;
use crate::exchange::Person;
use crate::fhir::Interval;
use crate::fhir::time::now;
use crate::ingest::Refusal;
use crate::store::{FacilityKey, IndexEntry, ResourceKey, Scope, TypeCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// A resource that a holder answered about the patient whom it was asked for.
pub struct Record {
    /// The holder.
    pub owner: FacilityKey,
    /// The Patient that the holder sent: whose Consents decide.
    pub patient: ResourceKey,
    pub type_code: TypeCode,
    /// Where it is, at the holder.
    pub url: String,
    /// As the holder sent it, with the labels that lango gives on arrival.
    pub body: Value,
    /// Its index entries, with the patient named as here.
    pub entries: Vec<IndexEntry>,
    /// Its id as far as it means anything here: the Patient's.
    pub(super) known_as: String,
    pub(super) facts: ResourceFacts,
}

/// What holders answered to one question; nothing of it is released yet.
#[derive(Default)]
pub struct Away {
    answers: Vec<Answered>,
}

struct Answered {
    location: Location,
    told: Result<Vec<Record>, HolderError>,
    cut: bool,
}

/// What of a person's records may be missing at a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// It did not answer.
    NoAnswer,
    /// It has more than lango takes.
    Cut,
}

impl Gap {
    /// The word for it in answers.
    pub fn code(self) -> &'static str {
        match self {
            Gap::NoAnswer => "no-answer",
            Gap::Cut => "incomplete",
        }
    }
}

/// What may leave.
#[derive(Default)]
pub struct Held<'a> {
    pub records: Vec<&'a Record>,
    /// Of holders whose location the caller may see.
    pub missing: BTreeSet<(FacilityKey, Gap)>,
}

impl Away {
    /// Asks every holder that knows the person and that a Consent may let speak to this caller, or an emergency of those in `glass`; all at once.
    pub async fn ask(app: &App, caller: &Caller, person: &Person, wanted: &Wanted, glass: Option<&Person>) -> Result<Away, Refusal> {
        if app.holders.is_empty() {
            return Ok(Away::default());
        }
        let strong = |system: &str| app.registry.is_strong(system);
        let operator = &app.settings.operator.code;
        let mut known = locations(&app.holders, &app.store, &app.zone, operator, strong, person).await?;
        known.retain(|location| wanted.owners.as_ref().is_none_or(|owners| owners.contains(&location.owner)));
        let deciding = Deciding::new(app, caller, glass, known.iter().map(|location| location.patient)).await?;
        known.retain(|location| deciding.may_ask(location, &wanted.types));
        if known.is_empty() {
            return Ok(Away::default());
        }
        let deadline = Instant::now().checked_add(app.holders.patience).unwrap_or_else(Instant::now);
        let questions = known.into_iter().map(|location| one(app, caller, location, wanted, deadline));
        Ok(Away { answers: futures_util::future::try_join_all(questions).await? })
    }

    /// What of it may leave now, by the Consents as they stand; of those in `glass` as if the glass was broken.
    pub async fn release(&self, app: &App, caller: &Caller, glass: Option<&Person>) -> Result<Held<'_>, Refusal> {
        let mut held = Held::default();
        if self.answers.is_empty() {
            return Ok(held);
        }
        let deciding = Deciding::new(app, caller, glass, self.answers.iter().map(|answered| answered.location.patient)).await?;
        let options = app.writer.options();
        // A holder that sent her twice answers twice: what one of the two keeps does not leave by the other.
        let mut kept: BTreeSet<&str> = BTreeSet::new();
        for Answered { location, told, cut } in &self.answers {
            let gap = match told {
                Ok(records) => {
                    for record in records {
                        let admitted =
                            caller.admits_entries(record.type_code, &record.known_as, &record.entries, &[Interaction::Read], options);
                        match admitted && deciding.releases(location, &record.facts) {
                            true => held.records.push(record),
                            false => _ = kept.insert(&record.url),
                        }
                    }
                    cut.then_some(Gap::Cut)
                }
                Err(_) => Some(Gap::NoAnswer),
            };
            let tellable = || deciding.releases(location, &deciding.facts(location));
            held.missing.extend(gap.filter(|_| tellable()).map(|gap| (location.owner, gap)));
        }
        held.records.retain(|record| kept.insert(&record.url));
        Ok(held)
    }
}

impl Held<'_> {
    /// How many records of each holder.
    pub fn counts(&self) -> BTreeMap<FacilityKey, i64> {
        let mut counts = BTreeMap::new();
        for record in &self.records {
            let count: &mut i64 = counts.entry(record.owner).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }
}

/// Has it recorded that these leave: to be called before they do.
pub fn disclose<'a>(records: impl IntoIterator<Item = &'a Record>) {
    let Some(trail) = audit::current() else { return };
    for record in records {
        trail.discloses(record.patient, record.owner, vec![record.url.clone()]);
    }
}

async fn one(app: &App, caller: &Caller, location: Location, wanted: &Wanted, deadline: Instant) -> Result<Answered, Refusal> {
    let workers = app.writer.workers();
    let facility = location.holder.settings.facility.clone();
    let told = match app.holders.ask(&location, wanted, &caller.claimed, workers, deadline).await {
        Ok(told) => told,
        Err(error) => {
            tracing::warn!(facility, %error, "a holder gave no answer");
            return Ok(Answered { location, told: Err(error), cut: false });
        }
    };
    let unreadable = |location| {
        tracing::error!(facility = facility, "what a holder answered could not be read");
        Ok(Answered { location, told: Err(HolderError::Crooked("what it answers cannot be read")), cut: false })
    };
    let (cut, options) = (told.cut, location.options(app.writer.options()));
    let named = workers.run(move || (medicines::called(&told.resources, &options), told)).await;
    let Ok((called, told)) = named else { return unreadable(location) };
    let medicines = medicines::here(&app.store, &called).await?;
    let known = Known { making: app.writer.making(), medicines };
    let (of, wanted) = (location.clone(), wanted.clone());
    let Ok(Checked { records, foreign, unusable }) = workers.run(move || check(told, &of, &wanted, known)).await else {
        return unreadable(location);
    };
    if foreign > 0 || unusable > 0 {
        tracing::warn!(facility, foreign, unusable, "a holder answered what is not the patient's, or no FHIR; it was left out");
    }
    Ok(Answered { location, told: Ok(records), cut })
}

/// The gate for what is not in the store.
struct Deciding<'a> {
    app: &'a App,
    caller: &'a Caller,
    requester: Requester,
    /// The same in an emergency, and of whom.
    emergency: Option<(Requester, &'a Person)>,
    consents: BTreeMap<ResourceKey, Vec<Consent>>,
}

impl<'a> Deciding<'a> {
    async fn new(
        app: &'a App,
        caller: &'a Caller,
        glass: Option<&'a Person>,
        patients: impl Iterator<Item = ResourceKey>,
    ) -> Result<Deciding<'a>, Refusal> {
        let patients: BTreeSet<ResourceKey> = patients.collect();
        let consents = app.writer.consents_of(&patients.into_iter().collect::<Vec<_>>()).await?;
        let requester = Requester { now: now(), break_glass_until: None, ..(*caller.requester).clone() };
        let emergency = glass.map(|person| (Requester { break_glass_until: Some(Interval::MAX), ..requester.clone() }, person));
        Ok(Deciding { app, caller, requester, emergency, consents })
    }

    /// Whether nothing with these facts is kept from the caller: it is the holder, or the patient.
    fn is_open(&self, location: &Location, facts: &ResourceFacts) -> bool {
        let Scope::Gate(gate) = &self.caller.scope else { return matches!(self.caller.scope, Scope::All) };
        let own = gate.own.as_ref().filter(|own| own.patients.contains(&location.patient));
        let is_own = own.is_some_and(|own| !numbers(&facts.flatten()).iter().any(|fact| own.exempt.contains(fact)));
        is_own || gate.owners.contains(&location.owner)
    }

    fn requester(&self, location: &Location) -> &Requester {
        let emergency = self.emergency.as_ref().filter(|(_, person)| person.keys.contains(&location.patient));
        emergency.map_or(&self.requester, |(requester, _)| requester)
    }

    fn consents(&self, location: &Location) -> &[Consent] {
        self.consents.get(&location.patient).map_or(&[], Vec::as_slice)
    }

    fn releases(&self, location: &Location, facts: &ResourceFacts) -> bool {
        let deployment = self.app.settings.consent.deployment();
        self.is_open(location, facts) || consent::decide(self.consents(location), self.requester(location), facts, &deployment).released
    }

    /// What a Consent can speak of in the location itself.
    fn facts(&self, location: &Location) -> ResourceFacts {
        let options = self.app.writer.options();
        consent::facts(&location.body, &options.zone, &options.base)
    }

    /// Whether the holder may be asked: of something of these types with the location's labels it might be that it may leave. Otherwise asking would only
    /// tell, by the time that it takes, that somebody is asked.
    fn may_ask(&self, location: &Location, types: &[TypeCode]) -> bool {
        let (consents, deployment) = (self.consents(location), self.app.settings.consent.deployment());
        let facts = self.facts(location);
        let might = |name: &str| consent::might_release(consents, self.requester(location), name, &facts.labels, &deployment);
        self.is_open(location, &facts) || types.iter().any(|type_code| might(definitions::r4().type_name(*type_code)))
    }
}
