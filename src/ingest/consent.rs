//! A Consent becomes rules with the write that stores it: from its acknowledgement on every query decides by them.
//!
//! It covers the Patient that it names and those linked to the same person *now*: what it denies, all of them; what it permits, those of whom what is said
//! agrees. One that is linked later is not covered before the Consent is written again, so that a wrong link opens nothing by itself. Whom its actors and
//! organisations mean is looked up then too ([`called`]).

mod called;
mod narrowed;

pub(super) use self::called::Organisation;
pub(super) use self::narrowed::Narrowed;

use super::refusal::{Refusal, RefusalKind};
use super::write::Writer;
use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{self, Consent, Name, Reached, Reading};
use crate::access::gate;
use crate::definitions;
use crate::fhir::series::Place;
use crate::fhir::time::{Micros, now, parse_interval};
use crate::fhir::{Issue, IssueCode};
use crate::registry::{Covering, RegistryError, Told};
use crate::store::consents::Counted;
use crate::store::gate::{About, Precedence, Rules, Succession, Traits};
use crate::store::write::Change;
use crate::store::{FacilityKey, Mutation, ResourceKey, Scope, Stored, TypeCode};
use jiff::ToSpan as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The kind of the job that tells who asked for a consent what became of it; its payload names the Consent.
pub const CONSENT_JOB: &str = "consent.tell";

/// Whether a Consent only asks for one: it is proposed, and all that it would permit, it would permit to the facility `code`.
pub fn asks_for_itself(consent: &Value, facility_system: &str, code: &str) -> bool {
    let text = |pointer: &str| consent.pointer(pointer).and_then(Value::as_str);
    let actors = consent.pointer("/provision/actor").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_itself = |actor: &Value| {
        let identifier = actor.pointer("/reference/identifier");
        let said = |key: &str| identifier.and_then(|identifier| identifier.get(key)?.as_str());
        actor.pointer("/reference/reference").is_none() && said("system") == Some(facility_system) && said("value") == Some(code)
    };
    text("/status") == Some("proposed")
        && text("/provision/type") == Some("permit")
        && consent.pointer("/provision/provision").is_none()
        && consent.get("policyRule").is_none()
        && !actors.is_empty()
        && actors.iter().all(is_itself)
}

/// The codes that a value set stands for; `None`: it is not known.
type ValueSets<'a> = &'a (dyn Fn(&str) -> Option<Vec<Coding>> + Sync);

/// From this age on a permit that a guardian gave no longer holds.
const OF_AGE: i64 = 18;

/// How far clocks may differ, and zones.
const A_DAY: Micros = 86_400_000_000;

/// Versions of one Consent that are read again.
const VERSIONS: u32 = 10_000;

/// The rules of a Consent that names `patient`, of all of `person`; what it permits, of those that agree.
fn rules_of(consent: &Consent, patient: String, person: BTreeSet<String>, agreeing: BTreeSet<String>) -> Rules {
    // Whom it names comes first: it is that one's Consent.
    let others = person.into_iter().filter(|id| *id != patient).map(Into::into);
    let permitted = agreeing.into_iter().map(Into::into).chain([patient.as_str().into()]).collect();
    gate::rules(consent, std::iter::once(patient.as_str().into()).chain(others).collect(), permitted)
}

fn name_of(stored: &Stored) -> Name {
    format!("{}/{}", definitions::r4().type_name(stored.type_code), stored.id)
}

fn target(name: &str) -> Option<(TypeCode, String)> {
    let (type_name, id) = name.split_once('/')?;
    Some((definitions::r4().type_code(type_name)?, id.to_owned()))
}

/// A Consent that is in force and names no Patient of this server would be believed, and would deny nothing.
fn nobodys() -> Refusal {
    let words = "Whose consent this is cannot be told, so it would permit and deny nothing. Send the Patient of this server as patient.reference, such as \
                 Patient/123 (GET Patient?identifier=system|value finds it; within a transaction the reference may be Patient?identifier=system|value).";
    Refusal::new(RefusalKind::Invalid, Issue::error(IssueCode::Required, words).at("Consent.patient"))
}

/// What the transaction that stores a Consent says of those whom it names.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) patients: Told,
    pub(super) organisations: Vec<Organisation>,
}

impl Writer {
    /// What `resource`, a Consent, allows whom, and of whose records.
    pub(super) async fn consent_rules(&self, resource: &Value, beside: &Beside) -> Result<Rules, Refusal> {
        // What is in a value set changes without the Consent: the rule names it.
        let named = |url: &str| Some(vec![Coding::new(gate::VALUE_SET, url)]);
        let recorded = now();
        self.check_date(resource, recorded)?;
        let Some(patient) = self.patient_of(resource) else {
            return if consent::is_in_force(resource) { Err(nobodys()) } else { Ok(Rules::default()) };
        };
        let Covering { own, mut person, agreeing, rests_on } = self.covering(&patient, &beside.patients).await?;
        let consent = self.understood(resource, &named, (&[], recorded), self.of_age(own.as_ref()), &beside.organisations).await?;
        if consent::is_in_force(resource) {
            person.extend(self.numbered(resource).await?);
        }
        let mut rules = Rules { rests_on, ..rules_of(&consent, patient, person, agreeing) };
        if let Succession::Takes(place) = &mut rules.succession {
            // Now, as the store will say.
            place.recorded = 0;
        }
        Ok(rules)
    }

    /// Nothing is given after it was recorded: a date that lies ahead would keep what is said until then from being newer. What ends a Consent always may.
    fn check_date(&self, consent: &Value, recorded: Micros) -> Result<(), Refusal> {
        let text = |key: &str| consent.get(key).and_then(Value::as_str);
        let given = text("dateTime").and_then(|text| parse_interval(text, &self.options().zone));
        if matches!(text("status"), Some("active" | "proposed")) && given.is_some_and(|given| given.low > recorded.saturating_add(A_DAY)) {
            let words = "The date lies ahead, and nothing is given after it was recorded: send when the consent was given.";
            return Err(Refusal::new(RefusalKind::Invalid, Issue::error(IssueCode::BusinessRule, words).at("Consent.dateTime")));
        }
        Ok(())
    }

    /// The ids by which those are known who carry the strong identifier that the Consent gives of its Patient beside the reference: they are denied what it
    /// denies. What it permits, it permits of the Patient that the reference names.
    async fn numbered(&self, consent: &Value) -> Result<BTreeSet<String>, Refusal> {
        let mut found = BTreeSet::new();
        let identifier = consent.pointer("/patient/identifier").cloned().unwrap_or_default();
        for (system, value) in self.registry().strong_identifiers(&json!({ "identifier": [identifier] })) {
            match self.registry().identified(&system, &value, &Scope::All).await {
                Ok(ids) => found.extend(ids),
                Err(RegistryError::TooMany) => {
                    let words = "Too many Patients carry this identifier: it cannot be a person's own.";
                    let issue = Issue::error(IssueCode::BusinessRule, words).at("Consent.patient.identifier");
                    return Err(Refusal::new(RefusalKind::Invalid, issue));
                }
                Err(error) => return Err(Refusal::internal(error)),
            }
        }
        Ok(found)
    }

    /// What a stored Consent, read again as Consents are read now, allows whom: of those whom it covers already, and those linked since of whom it denies
    /// something. All that it said since it was first recorded counts for where it stands. The mutation changes nothing else of it; `None`: what is stored is
    /// no JSON, so what it was taken to say stays.
    pub async fn renewed(&self, stored: &Stored) -> Result<Option<Mutation>, Refusal> {
        let named = |url: &str| Some(vec![Coding::new(gate::VALUE_SET, url)]);
        let (mut places, mut last, mut numbered) = (Vec::new(), None, BTreeSet::new());
        let mut versions = self.store().history(stored.type_code, &stored.id, None, VERSIONS, &Scope::All).await?;
        versions.reverse();
        for version in &versions {
            let Some(body) = version.body.as_deref() else {
                last = None;
                continue;
            };
            let Ok(mut resource) = serde_json::from_slice::<Value>(body) else {
                tracing::warn!(consent = %stored.id, version = version.version, "a stored Consent is no JSON: write it again");
                if version.version == stored.version {
                    return Ok(None);
                }
                continue;
            };
            let past = (places.as_slice(), version.updated);
            let Some(patient) = self.patient_of(&resource) else {
                last = None;
                continue;
            };
            let covering = match last.take() {
                Some((known, _, covering)) if known == patient => covering,
                _ => self.covering(&patient, &Told::new()).await?,
            };
            let of_age = self.of_age(covering.own.as_ref());
            let consent = match self.understood(&resource, &named, past, of_age, &[]).await {
                Err(refusal) if refusal.kind == RefusalKind::Invalid => {
                    tracing::warn!(consent = %stored.id, version = version.version,
                        "a stored Consent is deeper or larger than is read: until it is written again it permits nothing and denies everybody");
                    // What cannot be told closes. It stands where it stood, so that what it replaced does not come back.
                    if let Some(members) = resource.as_object_mut() {
                        members.insert("provision".to_owned(), json!({ "type": "deny" }));
                    }
                    match self.understood(&resource, &named, past, of_age, &[]).await {
                        Err(refusal) if refusal.kind == RefusalKind::Invalid => None,
                        understood => Some(understood?),
                    }
                }
                understood => Some(understood?),
            };
            if let Some(consent) = &consent {
                places.clone_from(&consent.places);
            }
            last = consent.map(|consent| (patient, consent, covering));
            numbered = match self.numbered(&resource).await {
                Err(refusal) if refusal.kind == RefusalKind::Invalid => BTreeSet::new(),
                numbered => numbered?,
            };
        }
        let mut rules = match last {
            None => Rules::default(),
            Some((patient, consent, Covering { person, mut agreeing, rests_on, .. })) => {
                let covered = self.store().covered(stored.key).await?;
                agreeing.retain(|id| *id == patient || covered.permitted.contains(id));
                let all = person.into_iter().chain(covered.all).chain(numbered).collect();
                let mut rules = Rules { rests_on, ..rules_of(&consent, patient, all, agreeing) };
                for rule in rules.rules.iter_mut().filter(|rule| matches!(rule.precedence, Precedence::Permit | Precedence::DefaultPermit))
                {
                    rule.period.high = covered.until.map_or(rule.period.high, |until| rule.period.high.min(until));
                }
                rules
            }
        };
        rules.succession = Succession::Has(places);
        Ok(Some(Mutation {
            type_code: stored.type_code,
            id: stored.id.clone(),
            base_version: stored.version,
            change: Change::Reindex { entries: Vec::new(), old_entries: Vec::new() },
            owner: stored.owner,
            listed: true,
            about: About::Consent,
            traits: Traits::default(),
            rules: Some(rules),
        }))
    }

    /// The Consents that speak of these Patients, each read as it stands now, for a decision on what is not in the store. Which Patients a
    /// Consent covers is what its rules say, so here too it is those that were one person when it was written.
    pub async fn consents_of(&self, patients: &[ResourceKey]) -> Result<BTreeMap<ResourceKey, Vec<Consent>>, Refusal> {
        let listed = |url: &str| -> Option<Vec<Coding>> {
            let members = self.terminology().members(url)?;
            Some(members.iter().map(|member| Coding::new(&member.system, &member.code)).collect())
        };
        let mut found: BTreeMap<ResourceKey, Vec<Consent>> = BTreeMap::new();
        let mut read: HashMap<ResourceKey, Option<Consent>> = HashMap::new();
        for Counted { patient, consent: stored, until } in self.store().consents_about(patients).await? {
            let consent = match read.get(&stored.key) {
                Some(known) => known.clone(),
                None => {
                    let resource: Value = serde_json::from_slice(stored.body.as_deref().unwrap_or(b"null")).map_err(Refusal::internal)?;
                    // What others have taken the place of the store has left out.
                    let consent = match self.patient_of(&resource) {
                        None => None,
                        Some(patient) => {
                            let of_age = self.of_age(self.patient(&patient).await?.as_ref());
                            let consent = self.understood(&resource, &listed, (&[], stored.updated), of_age, &[]).await?;
                            Some(Consent { places: Vec::new(), ..consent })
                        }
                    };
                    read.insert(stored.key, consent.clone());
                    consent
                }
            };
            // A birth date that was corrected since may have ended it; the Consent alone does not tell.
            let counts = |consent: Consent| Consent { permits_until: consent.permits_until.min(until.unwrap_or(Micros::MIN)), ..consent };
            found.entry(patient).or_default().extend(consent.map(counts));
        }
        Ok(found)
    }

    /// What a Consent says. `value_set` tells what is in one. `past`: where it stood before, and when it was recorded.
    async fn understood(
        &self,
        resource: &Value,
        value_set: ValueSets<'_>,
        (former, recorded): (&[Place], Micros),
        of_age: Option<Micros>,
        beside: &[Organisation],
    ) -> Result<Consent, Refusal> {
        let references = self.referred(resource).await?;
        let called = self.called(resource, beside).await?;
        let references_of = |name: &str| references.get(name).cloned().unwrap_or_default();
        let options = self.options();
        let reading = Reading {
            zone: &options.zone,
            base: &options.base,
            value_set,
            references_of: &references_of,
            called: &|name| called.of(name),
            organisation: &|names| called.organisation(names),
            former,
            recorded,
            of_age,
        };
        Consent::read(resource, &reading).map_err(|error| {
            Refusal::new(RefusalKind::Invalid, Issue::error(IssueCode::TooLong, error.to_string()).at("Consent.provision"))
        })
    }

    /// What the resources that the Consent's data criteria name refer to now.
    async fn referred(&self, resource: &Value) -> Result<HashMap<Name, Vec<Reached>>, Refusal> {
        let mut wanted: BTreeSet<(TypeCode, String)> = BTreeSet::new();
        let mut waiting = vec![resource];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(list) => waiting.extend(list),
                Value::Object(members) => {
                    let related = members.get("meaning").and_then(Value::as_str) == Some("related");
                    let name = related.then(|| value.pointer("/reference/reference").and_then(Value::as_str)).flatten();
                    if let Some((type_name, id)) = name.and_then(|name| name.split_once('/'))
                        && let Some(type_code) = definitions::r4().type_code(type_name)
                    {
                        wanted.insert((type_code, id.to_owned()));
                    }
                    waiting.extend(members.values());
                }
                _ => {}
            }
        }
        let options = self.options();
        let stored = self.store().read_many(&wanted.into_iter().collect::<Vec<_>>()).await?;
        let of = |stored: &Stored| -> Option<BTreeSet<Name>> {
            let resource: Value = serde_json::from_slice(stored.body.as_ref()?).ok()?;
            Some(consent::facts(&resource, &options.zone, &options.base).references)
        };
        let named: Vec<(&Stored, BTreeSet<Name>)> = stored.iter().filter_map(|stored| Some((stored, of(stored)?))).collect();
        let targets: BTreeSet<(TypeCode, String)> = named.iter().flat_map(|(_, names)| names).filter_map(|name| target(name)).collect();
        let reached = self.store().read_many(&targets.into_iter().collect::<Vec<_>>()).await?;
        let owners: HashMap<Name, FacilityKey> =
            reached.iter().filter(|stored| stored.body.is_some()).map(|stored| (name_of(stored), stored.owner)).collect();
        let with_owners = named.into_iter().map(|(stored, names)| {
            let follows = |name: &Name| owners.get(name) == Some(&stored.owner);
            (name_of(stored), names.into_iter().map(|name| Reached { follows: follows(&name), name }).collect())
        });
        Ok(with_owners.collect())
    }

    /// The id of the Patient of this server that the Consent names.
    fn patient_of(&self, consent: &Value) -> Option<String> {
        let name = consent::names_of(consent.get("patient")?, &self.options().base).into_iter().next()?;
        name.strip_prefix("Patient/").map(str::to_owned)
    }

    async fn covering(&self, patient: &str, told: &Told) -> Result<Covering, Refusal> {
        self.registry().covering(patient, told).await.map_err(|error| match error {
            RegistryError::Write(error) => error.into(),
            error => Refusal::internal(error),
        })
    }

    /// What is said of a Patient, if anything.
    async fn patient(&self, id: &str) -> Result<Option<Value>, Refusal> {
        let Some(type_code) = definitions::r4().type_code("Patient") else { return Ok(None) };
        let stored = self.store().read_many(&[(type_code, id.to_owned())]).await?;
        Ok(stored.first().and_then(|stored| serde_json::from_slice(stored.body.as_ref()?).ok()))
    }

    /// When the Patient comes of age, if the day of birth is known.
    pub(super) fn of_age(&self, patient: Option<&Value>) -> Option<Micros> {
        let zone = &self.options().zone;
        let born = parse_interval(patient?.get("birthDate")?.as_str()?, zone)?;
        let day = jiff::Timestamp::from_microsecond(born.low).ok()?.to_zoned(zone.clone());
        Some(day.checked_add(OF_AGE.years()).ok()?.timestamp().as_microsecond())
    }
}
