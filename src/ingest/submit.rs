//! A Data Template payload on its way into the store: kept, translated, written, linked, answered for.
//!
//! The payload is kept byte for byte before anything else; what happens afterwards can be done again from it. Records are
//! written in groups, each group one transaction; when a group is refused its records are written one by one, so that a bad
//! record fails alone. Ids come from the facility and its local ids, so doing it all again meets the same resources and
//! changes only what has changed: a second sending, a replay after a map was mended, a restart after a crash.

use super::refusal::{Refusal, RefusalKind};
use super::template::{Coding, EnvelopeError, Options, Processed, Produced, Record, Templates, Translate, Update, Verdict, merge};
use super::write::{Action, Author, CommitError, Condition, Done, Effect, Plan, Tries, Wanted, Writer};
use crate::access::Caller;
use crate::definitions;
use crate::fhir::text::clip;
use crate::fhir::{Issue, IssueCode};
use crate::store::submissions::Unmapped;
use crate::store::{FacilityKey, Scope, Store, Stored, TypeCode};
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Which template reads a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The one that the payload names.
    Named,
    /// The laboratory's, whatever the payload names.
    Lab,
}

impl Door {
    const ALL: [Door; 2] = [Door::Named, Door::Lab];

    /// The `kind` of kept submissions that came this way.
    fn kind(self) -> &'static str {
        match self {
            Door::Named => "template",
            Door::Lab => "template-lab",
        }
    }
}

/// The name of the laboratory's template.
const LAB: &str = "lab";
/// Records per transaction: enough to share the cost of a commit, few enough that one refusal does not cost much.
const GROUP: usize = 40;

/// How a deployment reads templates.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The organisation that owns what no facility sent.
    pub operator: String,
    pub zone: TimeZone,
    /// Mandatory marks inside blocks refuse a record instead of warning.
    pub strict_blocks: bool,
}

/// Takes template payloads. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    pub writer: Writer,
    pub templates: Arc<Templates>,
    pub terminology: Terminology,
    pub rules: Arc<Rules>,
}

/// Why a payload as a whole was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("the payload is no template payload")]
    Envelope(#[from] EnvelopeError),
    #[error("refused")]
    Refused(#[from] Refusal),
}

impl From<sqlx::Error> for SubmitError {
    fn from(error: sqlx::Error) -> SubmitError {
        SubmitError::Refused(error.into())
    }
}

/// What became of one record.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The client was new.
    New,
    /// Something of the client or the visit is new or changed.
    Updated,
    /// Everything was there already.
    Unchanged,
    /// Broke a rule: nothing of it was stored.
    Invalid(Vec<Issue>),
    /// Well formed, but it could not be stored.
    Failed(Vec<Issue>),
}

/// The answer to a payload.
#[derive(Debug)]
pub struct Report {
    pub processed: Processed,
    /// One per record.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    pub fn rejected(&self) -> usize {
        self.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Invalid(_) | Outcome::Failed(_))).count()
    }
}

impl Submitter {
    /// Judges a payload without keeping or writing anything.
    pub async fn check(&self, door: Door, payload: Vec<u8>, facility: Option<String>) -> Result<Processed, SubmitError> {
        let me = self.clone();
        let processed = self.writer.workers().run(move || me.process(door, &payload, facility.as_deref())).await?;
        Ok(processed?)
    }

    /// Keeps a payload and carries it out; answers when everything is durable.
    pub async fn submit(&self, door: Door, payload: Vec<u8>, caller: &Caller) -> Result<Report, SubmitError> {
        let key = self.store().keep_submission(door.kind(), caller.owner, &payload).await?;
        self.carry_out(door, key, payload, caller.facility_code.clone(), caller.owner).await
    }

    /// Carries out kept submissions again, oldest first, each in the name of the facility that sent it. `each` hears of every one.
    pub async fn replay(&self, only_unfinished: bool, mut each: impl FnMut(&Report)) -> Result<(), SubmitError> {
        let kinds = Door::ALL.map(Door::kind);
        let mut after = 0;
        loop {
            let submissions = self.store().submissions(&kinds, only_unfinished, after, 16).await?;
            let Some(last) = submissions.last() else { return Ok(()) };
            after = last.key;
            for submission in submissions {
                let Some(door) = Door::ALL.into_iter().find(|door| door.kind() == submission.kind) else { continue };
                let facility = self.store().facility_code(submission.owner).await?;
                match self.carry_out(door, submission.key, submission.payload, facility, submission.owner).await {
                    Ok(report) => each(&report),
                    // It was refused as a whole when it came, and still is.
                    Err(SubmitError::Envelope(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn store(&self) -> &Store {
        self.writer.store()
    }

    fn process(&self, door: Door, payload: &[u8], facility: Option<&str>) -> Result<Processed, EnvelopeError> {
        let options = Options { facility, operator: &self.rules.operator, zone: &self.rules.zone, strict_blocks: self.rules.strict_blocks };
        match self.templates.get(LAB).filter(|_| door == Door::Lab) {
            Some(lab) => lab.process_bytes(payload, &options, &Translations(&self.terminology)),
            None => self.templates.process(payload, &options, &Translations(&self.terminology)),
        }
    }

    async fn carry_out(
        &self,
        door: Door,
        key: i64,
        payload: Vec<u8>,
        facility: Option<String>,
        owner: FacilityKey,
    ) -> Result<Report, SubmitError> {
        let me = self.clone();
        let processed = self.writer.workers().run(move || me.process(door, &payload, facility.as_deref())).await?;
        let mut processed = match processed {
            Ok(processed) => processed,
            Err(error) => {
                self.store().close_submission(key, owner, "refused", 0, 0, &[]).await?;
                return Err(error.into());
            }
        };
        // A caller without a facility of its own sends for the one that the payload names; the operator's number is always 0.
        let owner = match processed.facility.code.as_str() {
            code if owner == 0 && code != self.rules.operator => self.store().facility_key(code).await?,
            _ => owner,
        };
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(processed.records.len());
        // Organizations and the like first. One that another facility describes itself is left to it.
        let shared = std::mem::take(&mut processed.shared);
        for produced in &shared {
            // An Organization is an entry of the directory: the operator's, whoever was first to name it.
            let directory = produced.resource.get("resourceType").and_then(Value::as_str) == Some("Organization");
            let author = if directory { Author { scope: Scope::All, owner: 0, caller: None } } else { own(owner) };
            match self.write(&[std::slice::from_ref(produced)], &author).await {
                Ok(_) => {}
                Err(refusal) if refusal.status() >= 500 => return Err(refusal.into()),
                Err(_) => {}
            }
        }
        let mut waiting: Vec<(usize, Vec<Produced>)> = Vec::new();
        for (place, record) in processed.records.iter_mut().enumerate() {
            match &mut record.verdict {
                Verdict::Accepted { resources } => {
                    waiting.push((place, std::mem::take(resources)));
                    outcomes.push(Outcome::Unchanged);
                }
                Verdict::Rejected => outcomes.push(Outcome::Invalid(record.errors.clone())),
            }
        }
        for group in waiting.chunks(GROUP) {
            let verdicts = self.write_group(group, owner).await?;
            for ((place, _), verdict) in group.iter().zip(verdicts) {
                if let Some(outcome) = outcomes.get_mut(*place) {
                    *outcome = verdict;
                }
            }
        }
        let report = Report { processed, outcomes };
        let records = report.processed.records.len() as i64;
        let unmapped = unmapped(&report.processed.records);
        self.store().close_submission(key, owner, "done", records, report.rejected() as i64, &unmapped).await?;
        Ok(report)
    }

    /// Writes records in one transaction, or, when that is refused, each in its own.
    async fn write_group(&self, group: &[(usize, Vec<Produced>)], owner: FacilityKey) -> Result<Vec<Outcome>, SubmitError> {
        let records: Vec<&[Produced]> = group.iter().map(|(_, resources)| resources.as_slice()).collect();
        match self.write(&records, &own(owner)).await {
            Ok(outcomes) => Ok(outcomes),
            Err(refusal) if records.len() == 1 => Ok(vec![failed(refusal)?]),
            Err(_) => {
                let mut outcomes = Vec::with_capacity(records.len());
                for record in records {
                    outcomes.push(match self.write(&[record], &own(owner)).await {
                        Ok(mut outcome) => outcome.pop().unwrap_or(Outcome::Unchanged),
                        Err(refusal) => failed(refusal)?,
                    });
                }
                Ok(outcomes)
            }
        }
    }

    /// One transaction. An outcome per record; a record that updates what was never sent fails without the others.
    async fn write(&self, records: &[&[Produced]], author: &Author) -> Result<Vec<Outcome>, Refusal> {
        let mut tries = Tries::default();
        loop {
            let met = self.what_they_meet(records).await?;
            let (me, owned): (Submitter, Vec<Vec<Produced>>) = (self.clone(), records.iter().map(|record| record.to_vec()).collect());
            let folded = self.writer.workers().run(move || me.fold(owned, &met)).await?;
            let plan = Plan { changes: folded.changes, ..Plan::default() };
            let done = match self.writer.commit(plan, author, false).await {
                Ok(done) => done,
                Err(CommitError::Stale) => {
                    tries.pause().await?;
                    continue;
                }
                // Somebody changed what a merge was made from.
                Err(CommitError::Refused(_, refusal)) if refusal.kind == RefusalKind::PreconditionFailed => {
                    tries.pause().await?;
                    continue;
                }
                Err(CommitError::Refused(_, refusal)) => return Err(refusal),
            };
            let patient = definitions::r4().type_code("Patient");
            return Ok(folded
                .of_record
                .into_iter()
                .map(|places| match places {
                    Some(places) => outcome(places.iter().filter_map(|place| done.get(*place)), patient),
                    None => Outcome::Failed(vec![never_sent()]),
                })
                .collect());
        }
    }

    /// What is stored under the ids of resources that do not simply replace it.
    async fn what_they_meet(&self, records: &[&[Produced]]) -> Result<HashMap<Name, Stored>, Refusal> {
        let asked: BTreeSet<Name> = records
            .iter()
            .flat_map(|record| record.iter())
            .filter(|produced| produced.update != Update::Replace)
            .filter_map(|produced| name(&produced.resource))
            .collect();
        let asked: Vec<Name> = asked.into_iter().collect();
        let stored = self.store().read_many(&asked).await?;
        Ok(stored.into_iter().map(|stored| ((stored.type_code, stored.id.to_string()), stored)).collect())
    }

    /// All records' resources, each id once, laid over what they meet.
    fn fold(&self, records: Vec<Vec<Produced>>, met: &HashMap<Name, Stored>) -> Folded {
        let mut places: HashMap<Name, usize> = HashMap::new();
        let mut states: Vec<(Name, Value, Condition)> = Vec::new();
        let mut of_record = Vec::with_capacity(records.len());
        for record in records {
            let names: Vec<Option<Name>> = record.iter().map(|produced| name(&produced.resource)).collect();
            let exists = |name: &Name| places.contains_key(name) || met.get(name).is_some_and(|stored| stored.body.is_some());
            if record.iter().zip(&names).any(|(produced, name)| produced.update == Update::Existing && !name.as_ref().is_some_and(exists)) {
                of_record.push(None);
                continue;
            }
            let mut mine = Vec::with_capacity(record.len());
            for (produced, name) in record.into_iter().zip(names) {
                let Some(name) = name else { continue };
                let Produced { resource, update, .. } = produced;
                if let Some((place, (_, state, _))) = places.get(&name).and_then(|place| Some((*place, states.get_mut(*place)?))) {
                    *state = match update {
                        Update::Replace => resource,
                        Update::Merge | Update::Existing => merge(state, &resource),
                        Update::IfAbsent => std::mem::take(state),
                    };
                    mine.push(place);
                    continue;
                }
                let stored =
                    met.get(&name).and_then(|stored| Some((stored.version, serde_json::from_slice::<Value>(stored.body.as_ref()?).ok()?)));
                let (state, condition) = match (update, stored) {
                    (Update::Replace, _) | (_, None) => (resource, Condition::Any),
                    (Update::IfAbsent, Some(_)) => continue,
                    (Update::Merge | Update::Existing, Some((version, before))) => (merge(&before, &resource), Condition::Version(version)),
                };
                places.insert(name.clone(), states.len());
                mine.push(states.len());
                states.push((name, state, condition));
            }
            of_record.push(Some(mine));
        }
        let changes = states
            .into_iter()
            .map(|((type_code, id), state, condition)| Wanted { action: Action::Put(self.writer.draft(type_code, &id, state)), condition })
            .collect();
        Folded { changes, of_record }
    }
}

/// A facility writes what is its own.
fn own(owner: FacilityKey) -> Author {
    Author { scope: Scope::Owners(vec![owner]), owner, caller: None }
}

type Name = (TypeCode, String);

/// Records ready to be written.
struct Folded {
    changes: Vec<Wanted>,
    /// The places in `changes` of each record's resources; `None`: it updates what was never sent.
    of_record: Vec<Option<Vec<usize>>>,
}

fn name(resource: &Value) -> Option<Name> {
    let type_code = definitions::r4().type_code(resource.get("resourceType")?.as_str()?)?;
    Some((type_code, resource.get("id")?.as_str()?.to_owned()))
}

fn never_sent() -> Issue {
    Issue::error(
        IssueCode::NotFound,
        "This updates a client or visit that was never sent: send the full record with demographicDetails first",
    )
}

fn outcome<'a>(done: impl Iterator<Item = &'a Done>, patient: Option<u16>) -> Outcome {
    let mut outcome = Outcome::Unchanged;
    for done in done {
        match done.effect {
            Effect::Created if Some(done.type_code) == patient => return Outcome::New,
            Effect::Unchanged | Effect::Absent => {}
            Effect::Created | Effect::Updated | Effect::Deleted => outcome = Outcome::Updated,
        }
    }
    outcome
}

/// A refusal for the record's own sake becomes its outcome; one for the server's sake ends the submission.
fn failed(refusal: Refusal) -> Result<Outcome, Refusal> {
    if refusal.status() >= 500 { Err(refusal) } else { Ok(Outcome::Failed(refusal.issues)) }
}

fn unmapped(records: &[Record]) -> Vec<Unmapped> {
    let mut counted: BTreeMap<(String, String, String), Unmapped> = BTreeMap::new();
    for code in records.iter().flat_map(|record| &record.unmapped) {
        let system = code.system.clone().unwrap_or_default();
        // They are keys of a table.
        let (system, word) = (clip(&system).to_owned(), clip(&code.code).to_owned());
        counted.entry((code.map.clone(), system.clone(), word.clone())).and_modify(|known| known.count += 1).or_insert_with(|| Unmapped {
            map: code.map.clone(),
            system,
            code: word,
            display: clip(code.display.as_deref().unwrap_or_default()).to_owned(),
            path: code.path.clone(),
            count: 1,
        });
    }
    counted.into_values().collect()
}

/// ConceptMaps as templates ask for them, answered by the terminology in memory.
pub struct Translations<'t>(pub &'t Terminology);

impl Translate for Translations<'_> {
    fn translate(&self, map_url: &str, system: Option<&str>, code: &str) -> Option<Vec<Coding>> {
        let found = self.0.translate_code(map_url, system, code)?;
        Some(
            found
                .into_iter()
                .filter_map(|translation| {
                    Some(Coding {
                        system: translation.system.map(|system| system.to_string()),
                        code: translation.code?.to_string(),
                        display: translation.display.map(|display| display.to_string()),
                        equivalence: Some(translation.equivalence.as_str().to_owned()),
                    })
                })
                .collect(),
        )
    }
}
