//! A Data Template payload on its way into the store: kept, translated, written, linked, answered for.
//!
//! The payload is kept byte for byte before anything else; what happens afterwards can be done again from it. Records are
//! written in groups, each group one transaction; when a group is refused its records are written one by one, so that a bad
//! record fails alone. Ids come from the facility and its local ids, so doing it all again meets the same resources and
//! changes only what has changed: a second sending, a replay after a map was mended, a restart after a crash.

use super::refusal::Refusal;
use super::template::{EnvelopeError, Options, Processed, Record, Templates, Verdict};
use super::write::{Action, Author, CommitError, Condition, Done, Draft, Effect, Plan, Tries, Wanted, Writer};
use crate::access::Caller;
use crate::definitions;
use crate::fhir::time::now;
use crate::fhir::Issue;
use crate::registry::Registry;
use crate::store::submissions::Unmapped;
use crate::store::{FacilityKey, Scope, Store};
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The `kind` of kept template payloads.
pub const KIND: &str = "template";
/// Records per transaction: enough to share the cost of a commit, few enough that one refusal does not cost much.
const GROUP: usize = 40;
/// How long the linking job waits for the linking that follows the write at once.
const LINK_LATER: i64 = 10_000_000;

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
    pub registry: Registry,
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
    pub async fn check(&self, payload: Vec<u8>, facility: Option<String>) -> Result<Processed, SubmitError> {
        let me = self.clone();
        let processed = self.writer.workers().run(move || me.process(&payload, facility.as_deref())).await?;
        Ok(processed?)
    }

    /// Keeps a payload and carries it out; answers when everything is durable.
    pub async fn submit(&self, payload: Vec<u8>, caller: &Caller) -> Result<Report, SubmitError> {
        let key = self.store().keep_submission(KIND, caller.owner, &payload).await?;
        self.carry_out(key, payload, caller.facility_code.clone(), caller.owner).await
    }

    /// Carries out kept submissions again, oldest first, each in the name of the facility that sent it. `each` hears of every one.
    pub async fn replay(&self, only_unfinished: bool, mut each: impl FnMut(&Report)) -> Result<(), SubmitError> {
        let mut after = 0;
        loop {
            let submissions = self.store().submissions(KIND, only_unfinished, after, 16).await?;
            let Some(last) = submissions.last() else { return Ok(()) };
            after = last.key;
            for submission in submissions {
                let facility = self.store().facility_code(submission.owner).await?;
                match self.carry_out(submission.key, submission.payload, facility, submission.owner).await {
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

    fn process(&self, payload: &[u8], facility: Option<&str>) -> Result<Processed, EnvelopeError> {
        let options =
            Options { facility, operator: &self.rules.operator, zone: &self.rules.zone, strict_blocks: self.rules.strict_blocks };
        self.templates.process(payload, &options, &self.terminology)
    }

    async fn carry_out(&self, key: i64, payload: Vec<u8>, facility: Option<String>, owner: FacilityKey) -> Result<Report, SubmitError> {
        let me = self.clone();
        let processed = self.writer.workers().run(move || me.process(&payload, facility.as_deref())).await?;
        let mut processed = match processed {
            Ok(processed) => processed,
            Err(error) => {
                self.store().close_submission(key, owner, "refused", 0, 0, &[]).await?;
                return Err(error.into());
            }
        };
        // A caller without a facility of its own sends for the one that the payload names.
        let owner = if owner == 0 { self.store().facility_key(&processed.facility.code).await? } else { owner };
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(processed.records.len());
        let shared = std::mem::take(&mut processed.shared);
        self.write_shared(shared, owner).await?;
        let mut waiting: Vec<(usize, Vec<Value>)> = Vec::new();
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

    /// Organizations that records refer to: the sender's own is the sender's to describe, any other is made only when nobody has.
    async fn write_shared(&self, resources: Vec<Value>, owner: FacilityKey) -> Result<(), SubmitError> {
        let mut drafts = Vec::new();
        for resource in resources {
            let Some(draft) = self.draft(resource) else { continue };
            match self.store().read(draft.type_code, &draft.id, &Scope::All).await? {
                Some(stored) if stored.owner != owner => {}
                _ => drafts.push(draft),
            }
        }
        if !drafts.is_empty() {
            self.writer.put_all(drafts, &Author { scope: Scope::All, owner }).await?;
        }
        Ok(())
    }

    fn draft(&self, resource: Value) -> Option<Draft> {
        let type_code = definitions::r4().type_code(resource.get("resourceType")?.as_str()?)?;
        let id = resource.get("id")?.as_str()?.to_owned();
        Some(self.writer.draft(type_code, &id, resource))
    }

    /// Writes records in one transaction, or, when that is refused, each in its own.
    async fn write_group(&self, group: &[(usize, Vec<Value>)], owner: FacilityKey) -> Result<Vec<Outcome>, SubmitError> {
        let me = self.clone();
        let input: Vec<Vec<Value>> = group.iter().map(|(_, resources)| resources.clone()).collect();
        let drafted: Vec<Drafted> = self.writer.workers().map(input, move |resources| me.drafted(resources)).await?;
        match self.write(&drafted, owner).await {
            Ok(outcomes) => Ok(outcomes),
            Err(refusal) if drafted.len() == 1 => Ok(vec![failed(refusal)?]),
            Err(_) => {
                let mut outcomes = Vec::with_capacity(drafted.len());
                for one in &drafted {
                    outcomes.push(match self.write(std::slice::from_ref(one), owner).await {
                        Ok(mut outcome) => outcome.pop().unwrap_or(Outcome::Unchanged),
                        Err(refusal) => failed(refusal)?,
                    });
                }
                Ok(outcomes)
            }
        }
    }

    fn drafted(&self, resources: Vec<Value>) -> Drafted {
        let patient = definitions::r4().type_code("Patient");
        let mut linkable = Vec::new();
        let mut drafts = Vec::with_capacity(resources.len());
        for resource in resources {
            let strong = !self.registry.strong_identifiers(&resource).is_empty();
            let Some(draft) = self.draft(resource) else { continue };
            if strong && Some(draft.type_code) == patient {
                linkable.push(draft.id.to_string());
            }
            drafts.push(draft);
        }
        Drafted { drafts, linkable }
    }

    async fn write(&self, records: &[Drafted], owner: FacilityKey) -> Result<Vec<Outcome>, Refusal> {
        // The same client comes with several visits; the last record's words stand.
        let mut places: HashMap<(u16, &str), usize> = HashMap::new();
        let mut drafts: Vec<&Draft> = Vec::new();
        let mut of_record: Vec<Vec<usize>> = Vec::with_capacity(records.len());
        for record in records {
            let mut mine = Vec::with_capacity(record.drafts.len());
            for draft in &record.drafts {
                let place = *places.entry((draft.type_code, &draft.id)).or_insert_with(|| {
                    drafts.push(draft);
                    drafts.len() - 1
                });
                if let Some(slot) = drafts.get_mut(place) {
                    *slot = draft;
                }
                mine.push(place);
            }
            of_record.push(mine);
        }
        let linkable: Vec<String> = records.iter().flat_map(|record| record.linkable.iter().cloned()).collect();
        let jobs = if linkable.is_empty() { Vec::new() } else { vec![Registry::link_job(&linkable, now() + LINK_LATER)] };
        let changes = drafts.iter().map(|draft| Wanted { action: Action::Put((*draft).clone()), condition: Condition::Any }).collect();
        let plan = Plan { changes, jobs, ..Plan::default() };
        let author = Author { scope: Scope::Owners(vec![owner]), owner };
        let mut tries = Tries::default();
        let done = loop {
            match self.writer.commit(plan.clone(), &author, false).await {
                Ok(done) => break done,
                Err(CommitError::Stale) => tries.pause().await?,
                Err(CommitError::Refused(_, refusal)) => return Err(refusal),
            }
        };
        if let Err(error) = self.registry.link(&linkable).await {
            // The job enqueued with the write will do it.
            tracing::warn!(%error, "linking is left to the job");
        }
        let patient = definitions::r4().type_code("Patient");
        Ok(of_record.iter().map(|places| outcome(places.iter().filter_map(|place| done.get(*place)), patient)).collect())
    }
}

/// A record ready to be written.
#[derive(Clone)]
struct Drafted {
    drafts: Vec<Draft>,
    /// Its Patient, if that carries a strong identifier.
    linkable: Vec<String>,
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
        counted.entry((code.map.clone(), system.clone(), code.code.clone())).and_modify(|known| known.count += 1).or_insert_with(|| Unmapped {
            map: code.map.clone(),
            system,
            code: code.code.clone(),
            display: code.display.clone().unwrap_or_default(),
            path: code.path.clone(),
            count: 1,
        });
    }
    counted.into_values().collect()
}
