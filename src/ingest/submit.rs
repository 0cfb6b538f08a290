//! A Data Template payload on its way into the store: kept, translated, written, linked, answered for.
//!
//! The payload is kept byte for byte before anything else; what happens afterwards can be done again from it. It is read in
//! slices: the records of one are translated, written in one transaction and forgotten but for their verdicts, so memory grows with
//! the payload's bytes and not with what is made of them. When a slice is refused its records are written one by one, so that a bad
//! record fails alone. Ids come from the facility and its local ids, so doing it all again meets the same resources and
//! changes only what has changed: a second sending, a replay after a map was mended, a restart after a crash.
//!
//! A dry run goes the same way and writes nothing, so it finds what the real one would find.

use super::carry::{Carried, Slices};
use super::fold::Said;
use super::refusal::{Refusal, RefusalKind};
use super::template::{Coding, EnvelopeError, Facility, Judged, Known, Opened, Options, Record, Shared, Templates, Translate, Verdict};
use super::write::Writer;
use crate::access::Caller;
use crate::fhir::text::clip;
use crate::fhir::{Issue, IssueCode};
use crate::store::submissions::Unmapped;
use crate::store::{FacilityKey, Store};
use crate::terminology::Terminology;
use bytes::Bytes;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::RwLock;

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

/// How long a payload waits for those before it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name of the laboratory's template.
const LAB: &str = "lab";
/// Records per transaction: enough to share the cost of a commit, few enough that one refusal does not cost much.
pub(super) const GROUP: usize = 40;
/// Problems, warnings and unmapped codes that a report holds, each; the others are counted.
const MOST_ISSUES: usize = 10_000;
/// Owner of what a dry run makes for a facility that nothing is known of yet: no facility has this number.
const NOBODY: FacilityKey = -2;

/// How a deployment reads templates.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The organisation that owns what no facility sent.
    pub operator: String,
    pub zone: TimeZone,
    /// Mandatory marks inside blocks refuse a record instead of warning.
    pub strict_blocks: bool,
    /// Records of one payload at most.
    pub most_records: usize,
}

/// Takes template payloads. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    pub writer: Writer,
    pub templates: Arc<Templates>,
    pub terminology: Terminology,
    pub rules: Arc<Rules>,
    /// Held while interrupted submissions are finished: what comes meanwhile is younger, and waits.
    pub turn: Arc<RwLock<()>>,
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

impl Outcome {
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::Invalid(_) | Outcome::Failed(_))
    }

    fn issues_mut(&mut self) -> Option<&mut Vec<Issue>> {
        match self {
            Outcome::Invalid(issues) | Outcome::Failed(issues) => Some(issues),
            _ => None,
        }
    }
}

/// The answer to a payload.
#[derive(Debug)]
pub struct Report {
    pub template: String,
    pub facility: Facility,
    /// The day or moment that the payload says it reports for.
    pub reported: Option<String>,
    pub envelope_warnings: Vec<Issue>,
    /// One for each entry of the list, in its order, without resources. Empty for a zero report.
    pub records: Vec<Record>,
    /// One per record.
    pub outcomes: Vec<Outcome>,
    /// Problems, warnings and unmapped codes that the report does not name because there are so many.
    pub left_out: LeftOut,
}

/// See [`Report::left_out`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub issues: usize,
    pub warnings: usize,
    pub unmapped: usize,
}

impl Report {
    fn of(opened: &Opened) -> Report {
        let Opened { template, facility, reported, warnings, .. } = opened;
        Report {
            template: template.clone(),
            facility: facility.clone(),
            reported: reported.clone(),
            envelope_warnings: warnings.clone(),
            records: Vec::with_capacity(opened.len()),
            outcomes: Vec::with_capacity(opened.len()),
            left_out: LeftOut::default(),
        }
    }

    pub fn rejected(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_bad()).count()
    }

    /// Adds a record's verdict, as long as there is room with all that it says.
    fn add(&mut self, carried: Carried, room: &mut LeftOut) {
        let Carried { mut record, mut outcome } = carried;
        fn keep<T>(list: &mut Vec<T>, room: &mut usize, left_out: &mut usize) {
            *left_out += list.len().saturating_sub(*room);
            list.truncate(*room);
            list.shrink_to_fit();
            *room -= list.len();
        }
        // Whoever reads the report finds them in the outcome.
        record.errors = Vec::new();
        record.verdict = Verdict::Rejected;
        if let Some(issues) = outcome.issues_mut() {
            keep(issues, &mut room.issues, &mut self.left_out.issues);
        }
        keep(&mut record.warnings, &mut room.warnings, &mut self.left_out.warnings);
        keep(&mut record.unmapped, &mut room.unmapped, &mut self.left_out.unmapped);
        self.records.push(record);
        self.outcomes.push(outcome);
    }
}

impl Submitter {
    /// What [`Submitter::submit`] would answer. Nothing is kept or written.
    pub async fn check(&self, door: Door, payload: Bytes, caller: &Caller) -> Result<Report, SubmitError> {
        self.bound(&payload).await?;
        let opened = self.open(door, payload, caller.facility_code.clone()).await??;
        let owner = match opened.facility_code() {
            code if caller.owner == 0 && code != self.rules.operator => self.store().known_facility(code).await?.unwrap_or(NOBODY),
            _ => caller.owner,
        };
        let mut slices = Slices::rehearsed(self, owner);
        Ok(self.report(&opened, &mut slices).await?.0)
    }

    /// Keeps a payload and carries it out; answers when everything is durable.
    pub async fn submit(&self, door: Door, payload: Bytes, caller: &Caller) -> Result<Report, SubmitError> {
        self.bound(&payload).await?;
        let _turn = tokio::time::timeout(PATIENCE, self.turn.read()).await.map_err(|_| unfinished())?;
        let key = self.store().keep_submission(door.kind(), caller.owner, &payload).await?;
        self.carry_out(door, key, payload, caller.facility_code.clone(), caller.owner).await
    }

    /// Carries out the submissions that a crash interrupted, oldest first, each in the name of the facility that sent it. Answers how many.
    pub async fn recover(&self) -> Result<u64, SubmitError> {
        let _turn = self.turn.write().await;
        let kinds = Door::ALL.map(Door::kind);
        let (mut after, mut finished) = (0, 0);
        loop {
            let submissions = self.store().submissions(&kinds, true, after, 1).await?;
            let Some(last) = submissions.last() else { return Ok(finished) };
            after = last.key;
            for submission in submissions {
                let facility = self.store().facility_code(submission.owner).await?;
                let door = Door::of(&submission.kind);
                match self.carry_out(door, submission.key, submission.payload.into(), facility, submission.owner).await {
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

    /// Refuses a payload of too many records before anything of it is read.
    async fn bound(&self, payload: &Bytes) -> Result<(), Refusal> {
        let (templates, payload, most) = (Arc::clone(&self.templates), payload.clone(), self.rules.most_records);
        if !self.writer.workers().run(move || templates.exceeds(&payload, most)).await? {
            return Ok(());
        }
        let words = format!("The payload has more than {most} records: send it in parts. Nothing of it was stored.");
        Err(Refusal::new(RefusalKind::TooLarge, Issue::error(IssueCode::TooLong, words)))
    }

    fn options<'o>(&'o self, door: Door, facility: Option<&'o str>, stored: &'o Known) -> Options<'o> {
        Options {
            stored,
            facility,
            operator: &self.rules.operator,
            zone: &self.rules.zone,
            strict_blocks: self.rules.strict_blocks,
            judged: door.judges(),
        }
    }

    /// Reads a payload's envelope.
    pub(super) async fn open(
        &self,
        door: Door,
        payload: Bytes,
        facility: Option<String>,
    ) -> Result<Result<Arc<Envelope>, EnvelopeError>, Refusal> {
        let me = self.clone();
        let opened = self.writer.workers().run(move || {
            let template = Some(LAB).filter(|_| door.is_lab());
            let opened = me.templates.open(
                &payload,
                template,
                &me.options(door, facility.as_deref(), &Known::new()),
                &Translations(&me.terminology),
            )?;
            Ok(Arc::new(Envelope { opened, door, payload }))
        });
        opened.await
    }

    /// Whose a payload is. A caller without a facility of its own sends for the one that the payload names; the operator's number is always 0.
    pub(super) async fn owner(&self, envelope: &Envelope, caller: FacilityKey) -> Result<FacilityKey, Refusal> {
        match envelope.facility_code() {
            code if caller == 0 && code != self.rules.operator => Ok(self.store().facility_key(code).await?),
            _ => Ok(caller),
        }
    }

    /// Reads some records of a payload and holds them against the rules.
    pub(super) async fn judge(&self, envelope: &Arc<Envelope>, records: Range<usize>) -> Result<Vec<Arc<Judged>>, Refusal> {
        let (me, envelope) = (self.clone(), Arc::clone(envelope));
        let judged = self.writer.workers().run(move || {
            // The caller's facility was weighed with the envelope.
            let (nothing, translate) = (Known::new(), Translations(&me.terminology));
            let options = me.options(envelope.door, None, &nothing);
            let judge = |index| Arc::new(me.templates.judge(&envelope.opened, &envelope.payload, index, &options, &translate));
            records.map(judge).collect()
        });
        judged.await
    }

    async fn carry_out(
        &self,
        door: Door,
        key: i64,
        payload: Bytes,
        facility: Option<String>,
        owner: FacilityKey,
    ) -> Result<Report, SubmitError> {
        let envelope = match self.open(door, payload, facility).await? {
            Ok(envelope) => envelope,
            Err(error) => {
                self.store().close_submission(key, owner, "refused", 0, 0, &[]).await?;
                return Err(error.into());
            }
        };
        let owner = self.owner(&envelope, owner).await?;
        let mut slices = Slices::of(self, owner, key);
        let (report, unmapped) = self.report(&envelope, &mut slices).await?;
        let records = report.records.len() as i64;
        self.store().close_submission(key, owner, "done", records, report.rejected() as i64, &unmapped.into_list()).await?;
        Ok(report)
    }

    async fn report(&self, envelope: &Arc<Envelope>, slices: &mut Slices<'_>) -> Result<(Report, UnmappedCodes), Refusal> {
        let mut report = Report::of(&envelope.opened);
        let mut room = LeftOut { issues: MOST_ISSUES, warnings: MOST_ISSUES, unmapped: MOST_ISSUES };
        let (mut shared, mut unmapped) = (Shared::default(), UnmappedCodes::default());
        let new: Vec<Said> = envelope.opened.shared.iter().filter_map(|produced| said(&mut shared, produced.clone())).collect();
        slices.write_shared(new).await?;
        let total = envelope.opened.len();
        for start in (0..total).step_by(GROUP) {
            let judged = self.judge(envelope, start..total.min(start + GROUP)).await?;
            for carried in slices.carry(envelope, judged, &mut shared).await? {
                unmapped.add(&carried.record);
                report.add(carried, &mut room);
            }
        }
        Ok((report, unmapped))
    }
}

fn unfinished() -> Refusal {
    let words =
        "Payloads that came before a restart are being finished, and yours comes after them: send it again in a minute. It was not kept.";
    Refusal::new(RefusalKind::Busy, Issue::error(IssueCode::Transient, words))
}

/// What a submission says of a resource of its own that it did not say before.
pub(super) fn said(shared: &mut Shared, produced: super::template::Produced) -> Option<Said> {
    let known = shared.add(produced)?;
    Said::of(known.clone(), "")
}

/// A payload with its envelope read.
#[derive(Debug)]
pub(super) struct Envelope {
    pub opened: Opened,
    pub door: Door,
    pub payload: Bytes,
}

impl Envelope {
    pub fn facility_code(&self) -> &str {
        &self.opened.facility.code
    }
}

/// Codes that no map knows, each counted.
#[derive(Debug, Default)]
pub(super) struct UnmappedCodes(BTreeMap<(String, String, String), Unmapped>);

impl UnmappedCodes {
    pub fn add(&mut self, record: &Record) {
        for code in &record.unmapped {
            let system = code.system.clone().unwrap_or_default();
            // They are keys of a table.
            let (system, word) = (clip(&system).to_owned(), clip(&code.code).to_owned());
            let key = (code.map.clone(), system.clone(), word.clone());
            self.0.entry(key).and_modify(|known| known.count += 1).or_insert_with(|| Unmapped {
                map: code.map.clone(),
                system,
                code: word,
                display: clip(code.display.as_deref().unwrap_or_default()).to_owned(),
                path: code.path.clone(),
                count: 1,
            });
        }
    }

    pub fn into_list(self) -> Vec<Unmapped> {
        self.0.into_values().collect()
    }
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
