//! A Data Template payload on its way into the store: kept, translated, written, linked, answered for.
//!
//! The payload is kept byte for byte before anything else; what happens afterwards can be done again from it. Records are
//! written in groups, each group one transaction; when a group is refused its records are written one by one, so that a bad
//! record fails alone. Ids come from the facility and its local ids, so doing it all again meets the same resources and
//! changes only what has changed: a second sending, a replay after a map was mended, a restart after a crash.

use super::draft::source_facility;
use super::fold::{Fold, Name, NeverSent, Said, Told, Touch};
use super::refusal::{Refusal, RefusalKind};
use super::template::{Coding, EnvelopeError, Known, Options, Processed, Record, Templates, Translate, Update, Verdict};
use super::tries::Tries;
use super::write::{Author, CommitError, Effect, Plan, Writer};
use crate::access::Caller;
use crate::definitions;
use crate::fhir::text::clip;
use crate::fhir::{Issue, IssueCode};
use crate::store::submissions::Unmapped;
use crate::store::visits::Visit;
use crate::store::{FacilityKey, Scope, Store, Stored, TypeCode};
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Which template reads a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The one that the payload names.
    Named,
    /// The laboratory's, whatever the payload names.
    Lab,
    /// As `Named`, from a sender that switched the rules off (`validation=false`).
    NamedUnjudged,
    /// As `Lab`, from a sender that switched the rules off.
    LabUnjudged,
}

impl Door {
    pub(super) const ALL: [Door; 4] = [Door::Named, Door::Lab, Door::NamedUnjudged, Door::LabUnjudged];

    /// The door of kept submissions of this kind.
    pub(super) fn of(kind: &str) -> Door {
        Door::ALL.into_iter().find(|door| door.kind() == kind).unwrap_or(Door::Named)
    }

    /// The same door with the rules switched off.
    pub fn unjudged(self) -> Door {
        match self {
            Door::Named | Door::NamedUnjudged => Door::NamedUnjudged,
            Door::Lab | Door::LabUnjudged => Door::LabUnjudged,
        }
    }

    fn is_lab(self) -> bool {
        matches!(self, Door::Lab | Door::LabUnjudged)
    }

    pub(super) fn judges(self) -> bool {
        matches!(self, Door::Named | Door::Lab)
    }

    /// The `kind` of kept submissions that came this way.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Door::Named => "template",
            Door::Lab => "template-lab",
            Door::NamedUnjudged => "template-unjudged",
            Door::LabUnjudged => "template-lab-unjudged",
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
    /// The record names no client that is new, and everything that it brought is.
    Added,
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
        Ok(self.process(door, payload, facility).await??)
    }

    /// Keeps a payload and carries it out; answers when everything is durable.
    pub async fn submit(&self, door: Door, payload: Vec<u8>, caller: &Caller) -> Result<Report, SubmitError> {
        let key = self.store().keep_submission(door.kind(), caller.owner, &payload).await?;
        self.carry_out(door, key, payload, caller.facility_code.clone(), caller.owner).await
    }

    /// Carries out the submissions that a crash interrupted, oldest first, each in the name of the facility that sent it. Answers how many.
    pub async fn recover(&self) -> Result<u64, SubmitError> {
        let kinds = Door::ALL.map(Door::kind);
        let (mut after, mut finished) = (0, 0);
        loop {
            let submissions = self.store().submissions(&kinds, true, after, 16).await?;
            let Some(last) = submissions.last() else { return Ok(finished) };
            after = last.key;
            for submission in submissions {
                let facility = self.store().facility_code(submission.owner).await?;
                let door = Door::of(&submission.kind);
                match self.carry_out(door, submission.key, submission.payload, facility, submission.owner).await {
                    Ok(_) => finished += 1,
                    // It is no payload, and is closed as refused.
                    Err(SubmitError::Envelope(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    pub(super) fn store(&self) -> &Store {
        self.writer.store()
    }

    /// Judges and translates a payload: once, and when it builds on what is stored (the date of a visit that it does not say
    /// again) a second time with that.
    async fn process(
        &self,
        door: Door,
        payload: Vec<u8>,
        facility: Option<String>,
    ) -> Result<Result<Processed, EnvelopeError>, SubmitError> {
        let payload: Arc<[u8]> = payload.into();
        let work = |known: Known| {
            let (me, payload, facility) = (self.clone(), Arc::clone(&payload), facility.clone());
            self.writer.workers().run(move || me.process_with(door, &payload, facility.as_deref(), &known))
        };
        match work(Known::new()).await? {
            Ok(processed) if !processed.wanted.is_empty() => match self.known(&processed).await? {
                known if known.is_empty() => Ok(Ok(processed)),
                known => Ok(work(known).await?),
            },
            judged => Ok(judged),
        }
    }

    /// What a payload builds on: as an entry of its own says it, else as it is stored.
    async fn known(&self, processed: &Processed) -> Result<Known, SubmitError> {
        let parse = |name: &String| {
            let (type_name, id) = name.split_once('/')?;
            Some((definitions::r4().type_code(type_name)?, id.to_owned()))
        };
        let asked: Vec<(TypeCode, String)> = processed.wanted.iter().filter_map(parse).collect();
        let mut known = Known::new();
        for stored in self.store().read_many(&asked).await? {
            let resource = stored.body.as_ref().and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
            // What another facility put there is none of this one's business.
            let own = processed.facility.code.replace(' ', "_");
            let resource = resource.filter(|resource| source_facility(resource) == Some(&own));
            let name = format!("{}/{}", definitions::r4().type_name(stored.type_code), stored.id);
            known.extend(resource.map(|resource| (name, resource)));
        }
        for record in &processed.records {
            let Verdict::Accepted { resources } = &record.verdict else { continue };
            for produced in resources.iter().filter(|produced| produced.update == Update::Merge) {
                let text = |key: &str| produced.resource.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
                let name = format!("{}/{}", text("resourceType"), text("id"));
                if processed.wanted.contains(&name) {
                    known.insert(name, produced.resource.clone());
                }
            }
        }
        Ok(known)
    }

    fn process_with(&self, door: Door, payload: &[u8], facility: Option<&str>, stored: &Known) -> Result<Processed, EnvelopeError> {
        let options = Options {
            stored,
            facility,
            operator: &self.rules.operator,
            zone: &self.rules.zone,
            strict_blocks: self.rules.strict_blocks,
            judged: door.judges(),
        };
        match self.templates.get(LAB).filter(|_| door.is_lab()) {
            Some(lab) => lab.process_bytes(payload, &options, &Translations(&self.terminology)),
            None => self.templates.process(payload, &options, &Translations(&self.terminology)),
        }
    }

    /// Judges and translates a payload; tells whose it is.
    pub(super) async fn translate(
        &self,
        door: Door,
        payload: Vec<u8>,
        facility: Option<String>,
        owner: FacilityKey,
    ) -> Result<(Result<Processed, EnvelopeError>, FacilityKey), SubmitError> {
        let processed = self.process(door, payload, facility).await?;
        // A caller without a facility of its own sends for the one that the payload names; the operator's number is always 0.
        let owner = match processed.as_ref().map(|processed| processed.facility.code.as_str()) {
            Ok(code) if owner == 0 && code != self.rules.operator => self.store().facility_key(code).await?,
            _ => owner,
        };
        Ok((processed, owner))
    }

    async fn carry_out(
        &self,
        door: Door,
        key: i64,
        payload: Vec<u8>,
        facility: Option<String>,
        owner: FacilityKey,
    ) -> Result<Report, SubmitError> {
        let (processed, owner) = self.translate(door, payload, facility, owner).await?;
        let mut processed = match processed {
            Ok(processed) => processed,
            Err(error) => {
                self.store().close_submission(key, owner, "refused", 0, 0, &[]).await?;
                return Err(error.into());
            }
        };
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(processed.records.len());
        // Organizations and the like first. One that another facility describes itself is left to it.
        for said in std::mem::take(&mut processed.shared).into_iter().filter_map(|produced| Said::of(produced, "")) {
            let author = author_of_shared(&said, owner);
            let told = Told { submission: key, visit: None, lists: Vec::new(), resources: vec![said] };
            match self.write(vec![Arc::new(told)], &author, None).await {
                Ok(_) => {}
                Err(refusal) if refusal.status() >= 500 => return Err(refusal.into()),
                Err(_) => {}
            }
        }
        let mut waiting: Vec<(usize, Arc<Told>)> = Vec::new();
        for (place, record) in processed.records.iter_mut().enumerate() {
            match told(record, key) {
                Some(told) => {
                    waiting.push((place, Arc::new(told)));
                    outcomes.push(Outcome::Unchanged);
                }
                None => outcomes.push(Outcome::Invalid(record.errors.clone())),
            }
        }
        for group in waiting.chunks(GROUP) {
            let verdicts = self.write_group(group, owner).await?;
            for ((place, _), (verdict, withdrawn)) in group.iter().zip(verdicts) {
                if let Some(outcome) = outcomes.get_mut(*place) {
                    *outcome = verdict;
                }
                if let Some(record) = processed.records.get_mut(*place).filter(|_| withdrawn > 0) {
                    record.warnings.push(withdrawal(withdrawn).at(record.path.clone()));
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
    async fn write_group(&self, group: &[(usize, Arc<Told>)], owner: FacilityKey) -> Result<Vec<(Outcome, usize)>, SubmitError> {
        let records: Vec<Arc<Told>> = group.iter().map(|(_, told)| Arc::clone(told)).collect();
        match self.write(records.clone(), &own(owner), None).await {
            Ok(written) => Ok(written.records),
            Err(refusal) if records.len() == 1 => Ok(vec![(failed(refusal)?, 0)]),
            Err(_) => {
                let mut written = Vec::with_capacity(records.len());
                for record in records {
                    written.push(match self.write(vec![record], &own(owner), None).await {
                        Ok(mut written) => written.records.pop().unwrap_or((Outcome::Unchanged, 0)),
                        Err(refusal) => (failed(refusal)?, 0),
                    });
                }
                Ok(written)
            }
        }
    }

    /// One transaction. A verdict per record; a record that updates what was never sent fails without the others.
    ///
    /// `again` is `None` when the records have just arrived. In a replay what they update must have been said among them, because they are
    /// all that was ever said; `Some(true)` only says what would become of them.
    pub(super) async fn write(&self, records: Vec<Arc<Told>>, author: &Author, again: Option<bool>) -> Result<Written, Refusal> {
        let records = Arc::new(records);
        let mut tries = Tries::default();
        loop {
            let met = self.what_they_meet(&records).await?;
            let (writer, told) = (self.writer.clone(), Arc::clone(&records));
            let folded = self.writer.workers().run(move || {
                let mut fold = Fold::default();
                let exists = |name: &Name| again.is_none() && met.resources.get(name).is_some_and(|stored| stored.body.is_some());
                let touches: Vec<Result<Vec<Touch>, NeverSent>> = told.iter().map(|told| fold.add(told, exists)).collect();
                (fold.settle(&writer, &met.resources, &met.visits), touches)
            });
            let (mut settled, touches) = folded.await?;
            let (changes, visits) = (std::mem::take(&mut settled.changes), std::mem::take(&mut settled.visits));
            let plan = Plan { changes, visits, ..Plan::default() };
            let done = match again {
                Some(true) => self.writer.rehearse(plan, author).await,
                _ => self.writer.commit(plan, author, false).await,
            };
            let done = match done {
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
            let verdicts = records.iter().zip(&touches).map(|(told, touches)| match touches {
                Ok(touches) => {
                    let parts = settled.places(touches, told.visit.as_deref());
                    let parts: Vec<(TypeCode, Effect)> =
                        parts.filter_map(|(place, touch)| done.get(place).map(|done| (done.type_code, part(done.effect, touch)))).collect();
                    let withdrawn = parts.iter().filter(|(_, effect)| *effect == Effect::Deleted).count();
                    (outcome(&parts, patient), withdrawn)
                }
                Err(never_sent) => (Outcome::Failed(never_sent.issues()), 0),
            });
            let records = verdicts.collect();
            return Ok(Written { records, effects: done.iter().map(|done| (done.type_code, done.effect)).collect() });
        }
    }

    /// What is stored under the ids of resources that do not simply replace it, and what is remembered of their visits.
    async fn what_they_meet(&self, records: &[Arc<Told>]) -> Result<Met, Refusal> {
        let ids: BTreeSet<&str> = records.iter().filter_map(|told| told.visit.as_deref()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let visits = self.store().visits(&ids).await?;
        // Of a visit that a newer submission has spoken of, it matters what of it is there.
        let is_late = |told: &Told| told.visit.as_ref().and_then(|id| visits.get(id)).is_some_and(|row| row.submission > told.submission);
        let asked: BTreeSet<(TypeCode, String)> = records
            .iter()
            .flat_map(|told| {
                let late = is_late(told);
                told.resources.iter().filter(move |said| late || said.update != Update::Replace)
            })
            .map(|said| (said.name.0, said.name.1.to_string()))
            .collect();
        let asked: Vec<(TypeCode, String)> = asked.into_iter().collect();
        let stored = self.store().read_many(&asked).await?;
        let resources = stored.into_iter().map(|stored| ((stored.type_code, stored.id.clone()), stored)).collect();
        Ok(Met { resources, visits })
    }
}

/// What became of records.
pub(super) struct Written {
    /// For each its outcome, and how many resources its lists withdrew.
    pub records: Vec<(Outcome, usize)>,
    pub effects: Vec<(TypeCode, Effect)>,
}

/// What records meet in the store.
struct Met {
    resources: HashMap<Name, Stored>,
    visits: HashMap<Box<str>, Visit>,
}

/// What a record says, taken out of it; `None` when it is rejected.
pub(super) fn told(record: &mut Record, submission: i64) -> Option<Told> {
    let Verdict::Accepted { resources } = &mut record.verdict else { return None };
    let resources = std::mem::take(resources).into_iter().filter_map(|produced| Said::of(produced, &record.path)).collect();
    let visit = record.visit_key.map(|key| key.to_string().into());
    Some(Told { submission, visit, lists: std::mem::take(&mut record.lists), resources })
}

/// A facility writes what is its own.
pub(super) fn own(owner: FacilityKey) -> Author {
    Author { scope: Scope::Owners(vec![owner]), owner, caller: None }
}

/// An Organization is an entry of the directory: the operator's, whoever was first to name it.
pub(super) fn author_of_shared(said: &Said, owner: FacilityKey) -> Author {
    let directory = definitions::r4().type_name(said.name.0) == "Organization";
    if directory { Author { scope: Scope::All, owner: 0, caller: None } } else { own(owner) }
}

/// Said of a record whose lists no longer hold what they held before.
fn withdrawal(count: usize) -> Issue {
    let words = format!("was sent before with more in its lists: {count} resources made of that are withdrawn, and stay in their history");
    Issue::warning(IssueCode::Informational, words)
}

impl NeverSent {
    fn issues(&self) -> Vec<Issue> {
        let words =
            "is missing, and this client or visit was never sent before by this facility: only what is known already may leave it out";
        let issue = Issue::error(IssueCode::NotFound, words);
        match &*self.needs {
            [] => vec![issue],
            needs => needs.iter().map(|path| issue.clone().at(path.to_string())).collect(),
        }
    }
}

/// A record's part in what was done with a resource that several records of a transaction speak of: the first of them made it.
fn part(effect: Effect, touch: Touch) -> Effect {
    match effect {
        _ if !touch.first && !touch.changed => Effect::Unchanged,
        Effect::Created if !touch.first => Effect::Updated,
        effect => effect,
    }
}

fn outcome(parts: &[(TypeCode, Effect)], patient: Option<TypeCode>) -> Outcome {
    let (mut created, mut changed, mut known) = (false, false, false);
    for (type_code, effect) in parts {
        match effect {
            Effect::Created if Some(*type_code) == patient => return Outcome::New,
            Effect::Created => created = true,
            Effect::Updated | Effect::Deleted => changed = true,
            Effect::Unchanged | Effect::Absent => known = true,
        }
    }
    match (created, changed, known) {
        (true, false, false) => Outcome::Added,
        (false, false, _) => Outcome::Unchanged,
        _ => Outcome::Updated,
    }
}

/// A refusal for the record's own sake becomes its outcome; one for the server's sake ends the submission.
fn failed(refusal: Refusal) -> Result<Outcome, Refusal> {
    if refusal.status() >= 500 { Err(refusal) } else { Ok(Outcome::Failed(refusal.issues)) }
}

pub(super) fn rejected(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record.verdict, Verdict::Rejected)).count()
}

pub(super) fn unmapped(records: &[Record]) -> Vec<Unmapped> {
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
