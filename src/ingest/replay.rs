//! Kept submissions carried out again, after a ConceptMap or a template was mended.
//!
//! A visit that came several times is not led through its old states again: what all submissions say of a client is laid
//! over each other in the order of arrival ([`super::fold`]), and only the outcome is held against the store. A mended map
//! makes one new version of what it changes, and a second replay makes none.
//!
//! Memory stays bounded however much is kept. A first pass over the submissions learns from which to which each client is
//! spoken of (some 40 bytes a client). The second holds a client's records from the first of them to the last and
//! then writes them; when that would be too many at once, the clients are shared out over several passes. A client's records are
//! one transaction, and each transaction is right by itself: a replay that is broken off is simply begun again.

use super::fold::{Fold, Said, Told};
use super::refusal::Refusal;
use super::submit::{Door, Outcome, SubmitError, Submitter, author_of_shared, own, rejected, told, unmapped};
use super::template::{EnvelopeError, Processed};
use super::write::Effect;
use crate::definitions;
use crate::store::submissions::Submission;
use crate::store::{FacilityKey, TypeCode};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Records that are held at once at most, beside those of the submission that is being read.
const HELD: usize = 4_000;
/// Records per transaction, when a client has not more.
const GROUP: usize = 40;
/// Submissions that are read and translated at a time.
const BATCH: u32 = 16;

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
    /// Submissions walked, over all passes.
    pub done: u64,
    pub total: u64,
    pub changed: u64,
}

/// From which submission to which a client is spoken of, by their places in the order of arrival.
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

/// One pass over the kept submissions.
struct Translated {
    submission: Submission,
    owner: FacilityKey,
    processed: Result<Processed, EnvelopeError>,
}

impl Submitter {
    /// Translates all kept submissions again and writes what comes out otherwise than it is stored; with `dry_run`, only says what that
    /// would be.
    pub async fn replay(&self, dry_run: bool, mut progress: impl FnMut(Progress)) -> Result<Replayed, SubmitError> {
        let mut spans: HashMap<u64, Span> = HashMap::new();
        let mut place = 0u32;
        let mut cursor = 0;
        loop {
            let batch = self.translated(&mut cursor).await?;
            if batch.is_empty() {
                break;
            }
            for Translated { submission, owner, processed } in batch {
                for mut record in processed.into_iter().flat_map(|processed| processed.records) {
                    let Some(told) = told(&mut record, submission.key) else { continue };
                    let span = spans.entry(client(owner, &told)).or_insert(Span { first: place, last: place, records: 0 });
                    (span.last, span.records) = (place, span.records.saturating_add(1));
                }
                place = place.saturating_add(1);
            }
            progress(Progress { done: u64::from(place), total: 0, changed: 0 });
        }
        let passes = passes(&spans, place);
        let mut replay =
            Replay { submitter: self, dry_run, spans, passes, held: HashMap::new(), shared: HashMap::new(), sum: Replayed::default() };
        let total = u64::from(place) * (passes + 1);
        for pass in 0..passes {
            let (mut at, mut cursor) = (0u32, 0);
            // What arrives meanwhile is translated by the mended maps already.
            while at < place {
                let batch = self.translated(&mut cursor).await?;
                if batch.is_empty() {
                    break;
                }
                for translated in batch.into_iter().take((place - at) as usize) {
                    replay.submission(pass, at, translated).await?;
                    at += 1;
                }
                let done = u64::from(place) * (pass + 1) + u64::from(at);
                progress(Progress { done, total, changed: replay.sum.changed });
            }
        }
        let left: Vec<Client> = std::mem::take(&mut replay.held).into_values().collect();
        replay.write(left).await?;
        replay.write_shared().await?;
        Ok(replay.sum)
    }

    /// The next kept submissions, translated side by side.
    async fn translated(&self, cursor: &mut i64) -> Result<Vec<Translated>, SubmitError> {
        let submissions = self.store().submissions(&Door::ALL.map(Door::kind), false, *cursor, BATCH).await?;
        if let Some(last) = submissions.last() {
            *cursor = last.key;
        }
        let translations = submissions.into_iter().map(|mut submission| async move {
            let payload = std::mem::take(&mut submission.payload);
            let facility = self.store().facility_code(submission.owner).await?;
            let (processed, owner) = self.translate(Door::of(&submission.kind), payload, facility, submission.owner).await?;
            Ok::<_, SubmitError>(Translated { submission, owner, processed })
        });
        futures_util::future::try_join_all(translations).await
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
    sum: Replayed,
}

impl Replay<'_> {
    async fn submission(&mut self, pass: u64, at: u32, translated: Translated) -> Result<(), SubmitError> {
        let Translated { submission, owner, processed } = translated;
        let store = self.submitter.store();
        if pass == 0 {
            self.sum.submissions += 1;
        }
        let mut processed = match processed {
            Ok(processed) => processed,
            // It was refused as a whole when it came, and still is.
            Err(_) if pass > 0 => return Ok(()),
            Err(_) => {
                self.sum.refused += 1;
                if !self.dry_run {
                    store.close_submission(submission.key, owner, "refused", 0, 0, &[]).await?;
                }
                return Ok(());
            }
        };
        if pass == 0 {
            let unmapped = unmapped(&processed.records);
            self.sum.records += processed.records.len() as u64;
            self.sum.unmapped += unmapped.iter().map(|code| code.count.unsigned_abs()).sum::<u64>();
            if !self.dry_run {
                let (records, rejected) = (processed.records.len() as i64, rejected(&processed.records) as i64);
                store.close_submission(submission.key, owner, "done", records, rejected, &unmapped).await?;
            }
            for said in std::mem::take(&mut processed.shared).into_iter().filter_map(|produced| Said::of(produced, "")) {
                let author = author_of_shared(&said, owner);
                let fold = self.shared.entry((author.owner != owner, author.owner)).or_default();
                // It builds on nothing that could be missing.
                let _ = fold.add(&Told { submission: submission.key, visit: None, lists: Vec::new(), resources: vec![said] }, |_| true);
            }
        }
        let mut complete = BTreeSet::new();
        for mut record in processed.records {
            let Some(told) = told(&mut record, submission.key) else { continue };
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
        let written = self.submitter.write(told, &own(owner), Some(self.dry_run)).await?;
        for (outcome, _) in &written.records {
            match outcome {
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
                match self.submitter.write(vec![Arc::new(told)], &author, Some(self.dry_run)).await {
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
