//! Kept submissions carried out again, after a ConceptMap or a template was mended.
//!
//! A visit that came several times is not led through its old states again: what all submissions say of a client is laid
//! over each other in the order of arrival ([`super::fold`]), and only the outcome is held against the store. A mended map
//! makes one new version of what it changes, and a second replay makes none.
//!
//! Memory stays bounded however much is kept. Submissions are read in slices of some records. A first pass over them learns from
//! which slice to which each client is spoken of (some 40 bytes a client). The second holds a client's records from the first
//! of them to the last and then writes them; when that would be too many at once, the clients are shared out over several passes. A client's records are
//! one transaction, and each transaction is right by itself: a replay that is broken off is simply begun again.

use super::carry::{How, author_of_shared, own};
use super::fold::{Fold, Said, Told};
use super::refusal::Refusal;
use super::submit::{Door, Envelope, Outcome, SubmitError, Submitter, UnmappedCodes};
use super::template::Record;
use super::write::Effect;
use crate::definitions;
use crate::store::{FacilityKey, TypeCode};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Records that are held at once at most, beside those of the submission that is being read.
const HELD: usize = 4_000;
/// Records per transaction, when a client has not more.
const GROUP: usize = 40;
/// Records of one submission that are read and translated at a time.
const SLICE: usize = 200;

/// What a replay did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    pub submissions: u64,
    /// Submissions that are no payload, and were refused as a whole when they came.
    pub refused: u64,
    pub records: u64,
    /// Records of which something was changed.
    pub changed: u64,
    /// Records that could not be stored, those that update what was never sent before them included.
    pub failed: u64,
    /// Codes that no map knows, counted each time that one was sent.
    pub unmapped: u64,
    /// By resource type: created, updated, withdrawn.
    pub resources: BTreeMap<&'static str, [u64; 3]>,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Slices of submissions walked, over all passes.
    pub done: u64,
    pub total: u64,
    pub changed: u64,
}

/// From which slice to which a client is spoken of, by their places in the order of arrival.
struct Span {
    first: u32,
    last: u32,
    records: u32,
}

/// A client's records while more of them are to come.
struct Client {
    owner: FacilityKey,
    told: Vec<Arc<Told>>,
}

/// A walk over the kept submissions, slice by slice.
struct Walk<'s> {
    submitter: &'s Submitter,
    /// Whether what was sent before lango remembered who is who is remembered now.
    learn: bool,
    cursor: i64,
    open: Option<Open>,
}

/// The submission that is being walked.
struct Open {
    key: i64,
    owner: FacilityKey,
    envelope: Arc<Envelope>,
    next: usize,
}

/// What is met on a walk.
enum Step {
    /// A submission that is no payload.
    Refused { key: i64, owner: FacilityKey },
    /// Some records of a submission, or none if it is a zero report.
    Slice { key: i64, owner: FacilityKey, envelope: Arc<Envelope>, records: Vec<(Record, Option<Told>)>, is_first: bool, is_last: bool },
}

impl Walk<'_> {
    async fn next(&mut self) -> Result<Option<Step>, SubmitError> {
        let (submitter, mut is_first) = (self.submitter, false);
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let submissions = submitter.store().submissions(&Door::ALL.map(Door::kind), false, self.cursor, 1).await?;
                let Some(submission) = submissions.into_iter().next() else { return Ok(None) };
                self.cursor = submission.key;
                is_first = true;
                let facility = submitter.store().facility_code(submission.owner).await?;
                match submitter.open(Door::of(&submission.kind), submission.payload.into(), facility).await? {
                    Ok(envelope) => {
                        let owner = submitter.owner(&envelope, submission.owner).await?;
                        Open { key: submission.key, owner, envelope, next: 0 }
                    }
                    Err(_) => return Ok(Some(Step::Refused { key: submission.key, owner: submission.owner })),
                }
            }
        };
        let total = open.envelope.opened.len();
        let end = total.min(open.next + SLICE);
        let judged = submitter.judge(&open.envelope, open.next..end).await?;
        let records = submitter.recall(&open.envelope, judged, open.owner, open.key, self.learn).await?;
        open.next = end;
        let (key, owner, envelope, is_last) = (open.key, open.owner, Arc::clone(&open.envelope), end == total);
        self.open = Some(open).filter(|_| !is_last);
        Ok(Some(Step::Slice { key, owner, envelope, records, is_first, is_last }))
    }
}

impl Submitter {
    /// Translates all kept submissions again and writes what comes out otherwise than it is stored; with `dry_run`, only says what that
    /// would be.
    pub async fn replay(&self, dry_run: bool, mut progress: impl FnMut(Progress)) -> Result<Replayed, SubmitError> {
        let mut spans: HashMap<u64, Span> = HashMap::new();
        let mut place = 0u32;
        let mut walk = self.walk(dry_run);
        while let Some(step) = walk.next().await? {
            if let Step::Slice { owner, records, .. } = step {
                for told in records.iter().filter_map(|(_, told)| told.as_ref()) {
                    let span = spans.entry(client(owner, told)).or_insert(Span { first: place, last: place, records: 0 });
                    (span.last, span.records) = (place, span.records.saturating_add(1));
                }
            }
            place = place.saturating_add(1);
            progress(Progress { done: u64::from(place), total: 0, changed: 0 });
        }
        let passes = passes(&spans, place);
        let (held, shared) = (HashMap::new(), HashMap::new());
        let now = Submission::default();
        let mut replay = Replay { submitter: self, dry_run, spans, passes, held, shared, now, sum: Replayed::default() };
        let total = u64::from(place) * (passes + 1);
        for pass in 0..passes {
            let mut walk = self.walk(dry_run);
            // What arrives meanwhile is translated by the mended maps already.
            for at in 0..place {
                let Some(step) = walk.next().await? else { break };
                replay.step(pass, at, step).await?;
                let done = u64::from(place) * (pass + 1) + u64::from(at) + 1;
                progress(Progress { done, total, changed: replay.sum.changed });
            }
        }
        let left: Vec<Client> = std::mem::take(&mut replay.held).into_values().collect();
        replay.write(left).await?;
        replay.write_shared().await?;
        Ok(replay.sum)
    }

    fn walk(&self, dry_run: bool) -> Walk<'_> {
        Walk { submitter: self, learn: !dry_run, cursor: 0, open: None }
    }
}

/// Which client a record is about: the Patient that it makes, else the visit, else its first resource.
fn client(owner: FacilityKey, told: &Told) -> u64 {
    let patient = definitions::r4().type_code("Patient");
    let named = told.resources.iter().find(|said| Some(said.name.0) == patient).map(|said| &*said.name.1);
    let name = named.or(told.visit.as_deref()).or(told.resources.first().map(|said| &*said.name.1));
    let mut hasher = DefaultHasher::new();
    (owner, name).hash(&mut hasher);
    hasher.finish()
}

/// How many passes it takes to hold no more than [`HELD`] records at once.
fn passes(spans: &HashMap<u64, Span>, submissions: u32) -> u64 {
    let mut steps = vec![0i64; submissions as usize + 1];
    for span in spans.values().filter(|span| span.first < span.last) {
        if let Some(step) = steps.get_mut(span.first as usize) {
            *step += i64::from(span.records);
        }
        if let Some(step) = steps.get_mut(span.last as usize + 1) {
            *step -= i64::from(span.records);
        }
    }
    let most = steps.into_iter().scan(0i64, |held, step| {
        *held += step;
        Some(*held)
    });
    (most.max().unwrap_or(0).max(0) as u64).div_ceil(HELD as u64).max(1)
}

struct Replay<'s> {
    submitter: &'s Submitter,
    dry_run: bool,
    spans: HashMap<u64, Span>,
    passes: u64,
    held: HashMap<u64, Client>,
    /// What submissions as a whole say, by its author: Organizations and the like, few.
    shared: HashMap<(bool, FacilityKey), Fold>,
    /// What is known of the submission that is being walked.
    now: Submission,
    sum: Replayed,
}

/// What a submission comes to.
#[derive(Default)]
struct Submission {
    records: i64,
    rejected: i64,
    unmapped: UnmappedCodes,
}

impl Replay<'_> {
    async fn step(&mut self, pass: u64, at: u32, step: Step) -> Result<(), SubmitError> {
        let store = self.submitter.store();
        let (key, owner, envelope, mut records, is_first, is_last) = match step {
            Step::Slice { key, owner, envelope, records, is_first, is_last } => (key, owner, envelope, records, is_first, is_last),
            // It was refused as a whole when it came, and still is.
            Step::Refused { .. } if pass > 0 => return Ok(()),
            Step::Refused { key, owner } => {
                self.sum.submissions += 1;
                self.sum.refused += 1;
                if !self.dry_run {
                    store.close_submission(key, owner, "refused", 0, 0, &[]).await?;
                }
                return Ok(());
            }
        };
        if pass == 0 {
            self.sum.submissions += u64::from(is_first);
            self.sum.records += records.len() as u64;
            if is_first {
                envelope.opened.shared.iter().for_each(|produced| self.share(key, owner, Said::of(produced.clone(), "")));
            }
            for (record, told) in &mut records {
                self.now.records += 1;
                self.now.rejected += i64::from(told.is_none());
                self.now.unmapped.add(record);
                self.sum.unmapped += record.unmapped.len() as u64;
                std::mem::take(&mut record.shared).into_iter().for_each(|produced| self.share(key, owner, Said::of(produced, "")));
            }
            if is_last {
                let Submission { records, rejected, unmapped } = std::mem::take(&mut self.now);
                if !self.dry_run {
                    store.close_submission(key, owner, "done", records, rejected, &unmapped.into_list()).await?;
                }
            }
        }
        let mut complete = BTreeSet::new();
        for told in records.into_iter().filter_map(|(_, told)| told) {
            let name = client(owner, &told);
            let Some(span) = self.spans.get(&name) else { continue };
            if pass != if span.first == span.last { 0 } else { name % self.passes } {
                continue;
            }
            if at >= span.last {
                complete.insert(name);
            }
            self.held.entry(name).or_insert(Client { owner, told: Vec::new() }).told.push(Arc::new(told));
        }
        let complete: Vec<Client> = complete.into_iter().filter_map(|name| self.held.remove(&name)).collect();
        self.write(complete).await
    }

    fn share(&mut self, submission: i64, owner: FacilityKey, said: Option<Said>) {
        let Some(said) = said else { return };
        let author = author_of_shared(&said, owner);
        let fold = self.shared.entry((author.owner != owner, author.owner)).or_default();
        // It builds on nothing that could be missing.
        let _ = fold.add(&Told { submission, visit: None, lists: Vec::new(), resources: vec![said] }, |_| true);
    }

    fn how(&self) -> How {
        How { replay: true, dry: self.dry_run, seen: Arc::default() }
    }

    /// Writes all that was said of these clients, some clients to a transaction.
    async fn write(&mut self, clients: Vec<Client>) -> Result<(), SubmitError> {
        let mut by_owner: BTreeMap<FacilityKey, Vec<Client>> = BTreeMap::new();
        clients.into_iter().for_each(|client| by_owner.entry(client.owner).or_default().push(client));
        for (owner, clients) in by_owner {
            let mut group: Vec<Client> = Vec::new();
            for client in clients {
                let records: usize = group.iter().map(|client| client.told.len()).sum();
                if records > 0 && records + client.told.len() > GROUP {
                    self.write_group(std::mem::take(&mut group), owner).await?;
                }
                group.push(client);
            }
            self.write_group(group, owner).await?;
        }
        Ok(())
    }

    async fn write_group(&mut self, group: Vec<Client>, owner: FacilityKey) -> Result<(), SubmitError> {
        if group.is_empty() {
            return Ok(());
        }
        // In the order of arrival, clients mixed: two of them may share a visit.
        let mut all: Vec<Arc<Told>> = group.iter().flat_map(|client| client.told.iter().cloned()).collect();
        all.sort_by_key(|told| told.submission);
        match self.commit(all, owner).await {
            Err(refusal) if refusal.status() < 500 && group.len() > 1 => {
                for client in group {
                    if let Err(refusal) = self.commit(client.told.clone(), owner).await {
                        self.refused(refusal, client.told.len())?;
                    }
                }
                Ok(())
            }
            Err(refusal) => self.refused(refusal, group.iter().map(|client| client.told.len()).sum()),
            Ok(()) => Ok(()),
        }
    }

    /// A refusal for the records' own sake is counted; one for the server's sake ends the replay.
    fn refused(&mut self, refusal: Refusal, records: usize) -> Result<(), SubmitError> {
        if refusal.status() >= 500 {
            return Err(refusal.into());
        }
        self.sum.failed += records as u64;
        Ok(())
    }

    async fn commit(&mut self, told: Vec<Arc<Told>>, owner: FacilityKey) -> Result<(), Refusal> {
        let written = self.submitter.write(told, &own(owner), &self.how()).await?;
        for written in &written.verdicts {
            match written.outcome {
                Outcome::New | Outcome::Added | Outcome::Updated => self.sum.changed += 1,
                Outcome::Failed(_) | Outcome::Invalid(_) => self.sum.failed += 1,
                Outcome::Unchanged => {}
            }
        }
        written.effects.into_iter().for_each(|(type_code, effect)| self.count(type_code, effect));
        Ok(())
    }

    fn count(&mut self, type_code: TypeCode, effect: Effect) {
        let place = match effect {
            Effect::Created => 0,
            Effect::Updated => 1,
            Effect::Deleted => 2,
            Effect::Unchanged | Effect::Absent => return,
        };
        let counts = self.sum.resources.entry(definitions::r4().type_name(type_code)).or_default();
        if let Some(count) = counts.get_mut(place) {
            *count += 1;
        }
    }

    async fn write_shared(&mut self) -> Result<(), SubmitError> {
        for ((_, owner), fold) in std::mem::take(&mut self.shared) {
            for said in fold.into_said() {
                let author = author_of_shared(&said, owner);
                let told = Told { submission: i64::MAX, visit: None, lists: Vec::new(), resources: vec![said] };
                match self.submitter.write(vec![Arc::new(told)], &author, &self.how()).await {
                    Ok(written) => written.effects.into_iter().for_each(|(type_code, effect)| self.count(type_code, effect)),
                    Err(refusal) if refusal.status() >= 500 => return Err(refusal.into()),
                    // One that another facility describes itself is left to it.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }
}
