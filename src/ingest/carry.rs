//! Records of a template into the store, some at a time.
//!
//! Each step needs the one before: who a record is about ([`super::who`]) decides the ids of its resources, those decide what it meets
//! in the store, and that decides what is left to write ([`super::fold`]). All of it rests on what was read on the way, so when
//! others were quicker all of it is done again.

use super::draft::source_facility;
use super::fold::{Fold, Laid, Name, Said, Told, Touch, Unfit};
use super::refusal::{Refusal, RefusalKind};
use super::submit::{Envelope, Outcome, Submitter, Translations, said};
use super::template::{Judged, Known, Record, Shared, Update, Verdict};
use super::tries::Tries;
use super::who::{Arrival, Directory, Found};
use super::write::{Author, CommitError, Effect, Plan};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::store::visits::Visit;
use crate::store::{FacilityKey, Scope, Stored, TypeCode};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A record with what became of it. Its resources were taken out.
#[derive(Debug)]
pub(super) struct Carried {
    pub record: Record,
    pub outcome: Outcome,
}

/// Writes one submission's records slice by slice, or finds out what writing them would do.
pub(super) struct Slices<'s> {
    submitter: &'s Submitter,
    owner: FacilityKey,
    key: i64,
    /// The clients whom the submission has named by a number so far.
    numbered: Arc<HashSet<String>>,
    /// What a dry run would have written by now; `None`: it is no dry run.
    unwritten: Option<Unwritten>,
}

#[derive(Debug, Default)]
struct Unwritten {
    resources: Arc<HashSet<Name>>,
    rows: HashMap<Box<str>, Visit>,
}

/// How records meet the store.
#[derive(Clone, Debug)]
pub(super) struct How {
    /// What records update must have been said among them, because they are all that was ever said.
    pub replay: bool,
    /// Only says what would become of them.
    pub dry: bool,
    /// What is as good as stored.
    pub seen: Arc<HashSet<Name>>,
}

/// What became of records.
pub(super) struct Written {
    pub verdicts: Vec<WrittenRecord>,
    pub effects: Vec<(TypeCode, Effect)>,
}

pub(super) struct WrittenRecord {
    pub outcome: Outcome,
    /// How many resources its lists withdrew.
    withdrawn: usize,
    /// Where in the payload it names what nothing is known of.
    unknown: Vec<Box<str>>,
}

/// What records meet in the store.
struct Met {
    resources: HashMap<Name, Stored>,
    visits: HashMap<Box<str>, Visit>,
}

/// A record whose client is found.
struct Resolved {
    record: Record,
    found: Found,
    told: Arc<Told>,
}

impl<'s> Slices<'s> {
    pub fn of(submitter: &'s Submitter, owner: FacilityKey, key: i64) -> Slices<'s> {
        Slices { submitter, owner, key, numbered: Arc::default(), unwritten: None }
    }

    /// Nothing is written, and what was not written is remembered.
    pub fn rehearsed(submitter: &'s Submitter, owner: FacilityKey) -> Slices<'s> {
        Slices { submitter, owner, key: i64::MAX, numbered: Arc::default(), unwritten: Some(Unwritten::default()) }
    }

    /// Organizations and the like. One that another facility describes itself is left to it.
    pub async fn write_shared(&self, said: Vec<Said>) -> Result<(), Refusal> {
        if self.unwritten.is_some() {
            return Ok(());
        }
        for said in said {
            let author = author_of_shared(&said, self.owner);
            let told = Told { submission: self.key, visit: None, lists: Vec::new(), resources: vec![said] };
            match self.submitter.write(vec![Arc::new(told)], &author, &self.how()).await {
                Err(refusal) if refusal.status() >= 500 => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
    }

    fn how(&self) -> How {
        let seen = self.unwritten.as_ref().map(|unwritten| Arc::clone(&unwritten.resources)).unwrap_or_default();
        How { replay: false, dry: self.unwritten.is_some(), seen }
    }

    /// Writes records in one transaction, or, when that is refused, each in its own.
    pub async fn carry(
        &mut self,
        envelope: &Arc<Envelope>,
        judged: Vec<Arc<Judged>>,
        shared: &mut Shared,
    ) -> Result<Vec<Carried>, Refusal> {
        match self.carry_at_once(envelope, judged.clone(), shared).await {
            Err(refusal) if refusal.status() < 500 => {}
            done => return done,
        }
        let mut done = Vec::with_capacity(judged.len());
        for record in judged {
            match self.carry_at_once(envelope, vec![Arc::clone(&record)], shared).await {
                Ok(carried) => done.extend(carried),
                Err(refusal) if refusal.status() < 500 => {
                    let record = self.submitter.templates.translate(
                        &envelope.opened,
                        &record,
                        record.identity.own_key(),
                        &Known::new(),
                        &Translations(&self.submitter.terminology),
                    );
                    done.push(Carried { record, outcome: Outcome::Failed(refusal.issues) });
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(done)
    }

    async fn carry_at_once(
        &mut self,
        envelope: &Arc<Envelope>,
        judged: Vec<Arc<Judged>>,
        shared: &mut Shared,
    ) -> Result<Vec<Carried>, Refusal> {
        let judged = Arc::new(judged);
        let mut tries = Tries::default();
        // Records that do not fit, by place. What they say of clients is not so.
        let mut failed: BTreeMap<usize, Carried> = BTreeMap::new();
        loop {
            let left_out: BTreeSet<usize> = failed.keys().copied().collect();
            let directory = self.directory(envelope, &judged).await?;
            let (known, directory) = self.submitter.know(envelope, &judged, left_out, self.key, directory).await?;
            let mut carried: BTreeMap<usize, Carried> = BTreeMap::new();
            let mut good: Vec<(usize, Resolved)> = Vec::with_capacity(known.len());
            let mut organizations = Vec::new();
            for (place, mut known) in known {
                organizations.extend(std::mem::take(&mut known.record.shared).into_iter().filter_map(|produced| said(shared, produced)));
                if known.record.errors.is_empty() {
                    good.push((place, known));
                } else {
                    let outcome = Outcome::Invalid(known.record.errors.clone());
                    carried.insert(place, Carried { record: known.record, outcome });
                }
            }
            self.write_shared(organizations).await?;
            let told: Arc<Vec<Arc<Told>>> = Arc::new(good.iter().map(|(_, known)| Arc::clone(&known.told)).collect());
            let rows = directory.changes();
            let attempt = self.submitter.attempt(&told, &own(self.owner), &self.how(), rows.clone()).await?;
            let written = match attempt {
                Attempt::Done(written) => written,
                Attempt::Stale => {
                    tries.pause().await?;
                    continue;
                }
                Attempt::Unfit(verdicts) => {
                    for (place, issues) in verdicts {
                        if let Some((place, known)) = good.get_mut(place) {
                            let record = std::mem::take(&mut known.record);
                            failed.insert(*place, Carried { record, outcome: Outcome::Failed(issues) });
                        }
                    }
                    continue;
                }
            };
            let numbered = directory.into_numbered();
            Arc::make_mut(&mut self.numbered).extend(numbered);
            if let Some(unwritten) = &mut self.unwritten {
                unwritten.rows.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
                let names = told.iter().flat_map(|told| &told.resources).map(|said| said.name.clone());
                Arc::make_mut(&mut unwritten.resources).extend(names);
            }
            for ((place, Resolved { mut record, .. }), verdict) in good.into_iter().zip(written.verdicts) {
                record.warnings.extend(verdict.unknown.iter().map(|path| never_heard_of().at(path.to_string())));
                if verdict.withdrawn > 0 {
                    record.warnings.push(withdrawal(verdict.withdrawn).at(record.path.clone()));
                }
                carried.insert(place, Carried { record, outcome: verdict.outcome });
            }
            carried.append(&mut failed);
            return Ok(carried.into_values().collect());
        }
    }

    /// What is known of those whom the records may mean.
    async fn directory(&self, envelope: &Envelope, judged: &[Arc<Judged>]) -> Result<Directory, Refusal> {
        let mut directory = Directory::new(envelope.facility_code(), envelope.opened.space.as_deref(), Arc::clone(&self.numbered));
        let keys = directory.asked(judged.iter().map(|record| (&record.identity, record.visit_id())));
        let keys = directory.learn_clients(self.rows(keys).await?);
        directory.learn_likenesses(self.rows(keys).await?);
        directory.expect(judged.iter().map(|record| &record.identity));
        Ok(directory)
    }

    async fn rows(&self, keys: BTreeSet<Box<str>>) -> Result<HashMap<Box<str>, Visit>, Refusal> {
        let asked: Vec<&str> = keys.iter().map(|key| &**key).collect();
        let mut rows = self.submitter.store().visits(&asked).await?;
        if let Some(unwritten) = &self.unwritten {
            rows.extend(keys.into_iter().filter_map(|key| Some((key.clone(), unwritten.rows.get(&key)?.clone()))));
        }
        Ok(rows)
    }
}

/// What a try came to.
enum Attempt {
    Done(Written),
    /// Others were quicker.
    Stale,
    /// These records, by place, do not fit; nothing was written.
    Unfit(Vec<(usize, Vec<Issue>)>),
}

impl Submitter {
    /// Finds the client of each record that is good, one after another, and translates the record: once, and when it builds on what is stored
    /// (the date of a visit that it does not say again) a second time with that.
    async fn know(
        &self,
        envelope: &Arc<Envelope>,
        judged: &Arc<Vec<Arc<Judged>>>,
        left_out: BTreeSet<usize>,
        key: i64,
        mut directory: Directory,
    ) -> Result<(Vec<(usize, Resolved)>, Directory), Refusal> {
        let (me, of, records) = (self.clone(), Arc::clone(envelope), Arc::clone(judged));
        let known = self.writer.workers().run(move || {
            let records = records.iter().enumerate().filter(|(place, _)| !left_out.contains(place));
            let known = records.map(|(place, judged)| {
                let mut found = match judged.is_rejected() {
                    true => Found::default(),
                    false => directory.find(&judged.identity, judged.visit_id(), Arrival(key, judged.index())),
                };
                found.identifiers = found.client.as_deref().map(|client| directory.identifiers(client)).unwrap_or_default();
                (place, me.resolved(&of, judged, key, found, &Known::new()))
            });
            (known.collect::<Vec<_>>(), directory)
        });
        let (known, directory) = known.await?;
        let wanted: BTreeSet<String> = known.iter().flat_map(|(_, known)| known.record.wanted.iter().cloned()).collect();
        if wanted.is_empty() {
            return Ok((known, directory));
        }
        let stored = self.wanted(envelope, &known, wanted).await?;
        let (me, of, records) = (self.clone(), Arc::clone(envelope), Arc::clone(judged));
        let again = self.writer.workers().run(move || {
            let again = known.into_iter().map(|(place, known)| match records.get(place) {
                Some(judged) if known.record.wanted.iter().any(|name| stored.contains_key(name)) => {
                    (place, me.resolved(&of, judged, key, known.found, &stored))
                }
                _ => (place, known),
            });
            again.collect()
        });
        Ok((again.await?, directory))
    }

    fn resolved(&self, envelope: &Envelope, judged: &Judged, key: i64, found: Found, stored: &Known) -> Resolved {
        let translations = Translations(&self.terminology);
        let mut record = self.templates.translate(&envelope.opened, judged, found.client.as_deref(), stored, &translations);
        let place = |path: Option<&str>| path.map_or_else(|| record.path.clone(), |path| format!("{}.{path}", record.path));
        let at_visit = place(envelope.opened.visit_path());
        let at_needs = place(judged.identity.needs.as_deref());
        let at_number = judged.identity.number_path.as_deref().map_or_else(|| at_visit.clone(), |path| place(Some(path)));
        record.known = found.identifiers.clone();
        if let Some(error) = &found.error {
            (record.errors, record.verdict) = (vec![error.clone().at(at_needs)], Verdict::Rejected);
        }
        record.warnings.extend(found.warning.clone().map(|warning| warning.at(at_visit)));
        record.warnings.extend(found.assumed.clone().map(|warning| warning.at(at_number)));
        let told = told(&mut record, key).unwrap_or(Told { submission: key, visit: None, lists: Vec::new(), resources: Vec::new() });
        Resolved { record, found, told: Arc::new(told) }
    }

    /// What records build on: as one of them says it, else as it is stored.
    async fn wanted(&self, envelope: &Envelope, records: &[(usize, Resolved)], wanted: BTreeSet<String>) -> Result<Known, Refusal> {
        let parse = |name: &String| {
            let (type_name, id) = name.split_once('/')?;
            Some((definitions::r4().type_code(type_name)?, id.to_owned()))
        };
        let asked: Vec<(TypeCode, String)> = wanted.iter().filter_map(parse).collect();
        let mut known = Known::new();
        // What another facility put there is none of this one's business.
        let own = envelope.facility_code().replace(' ', "_");
        for stored in self.store().read_many(&asked).await? {
            let resource = stored.body.as_ref().and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
            let resource = resource.filter(|resource| source_facility(resource) == Some(&own));
            let name = format!("{}/{}", definitions::r4().type_name(stored.type_code), stored.id);
            known.extend(resource.map(|resource| (name, resource)));
        }
        let said = records.iter().flat_map(|(_, known)| &known.told.resources).filter(|said| said.update == Update::Merge);
        for said in said {
            let name = format!("{}/{}", definitions::r4().type_name(said.name.0), said.name.1);
            if wanted.contains(&name) {
                known.insert(name, (*said.resource).clone());
            }
        }
        Ok(known)
    }

    /// The records of a slice as a replay sees them: whom they are about was decided when they came. What is not known yet, because it was
    /// sent before lango remembered it, is learned, in a dry run for these records only.
    pub(super) async fn recall(
        &self,
        envelope: &Arc<Envelope>,
        judged: Vec<Arc<Judged>>,
        owner: FacilityKey,
        key: i64,
        learn: bool,
    ) -> Result<Vec<(Record, Option<Told>)>, Refusal> {
        let judged = Arc::new(judged);
        let mut tries = Tries::default();
        loop {
            let slices = Slices::of(self, owner, key);
            let mut directory = slices.directory(envelope, &judged).await?;
            directory.careful = true;
            let (known, directory) = self.know(envelope, &judged, BTreeSet::new(), key, directory).await?;
            let visits = directory.changes();
            if learn && !visits.is_empty() {
                match self.writer.commit(Plan { visits, ..Plan::default() }, &own(owner), false).await {
                    Ok(_) => {}
                    Err(CommitError::Stale) => {
                        tries.pause().await?;
                        continue;
                    }
                    Err(CommitError::Refused(_, refusal)) => return Err(refusal),
                }
            }
            let known = known.into_iter().map(|(_, Resolved { record, told, .. })| {
                let told = if record.errors.is_empty() { Arc::into_inner(told) } else { None };
                (record, told)
            });
            return Ok(known.collect());
        }
    }

    /// One transaction. A verdict per record; a record that updates what was never sent fails without the others.
    pub(super) async fn write(&self, records: Vec<Arc<Told>>, author: &Author, how: &How) -> Result<Written, Refusal> {
        let records = Arc::new(records);
        let mut tries = Tries::default();
        loop {
            match self.try_once(&records, author, how, Vec::new(), false).await? {
                Attempt::Done(written) => return Ok(written),
                _ => tries.pause().await?,
            }
        }
    }

    async fn attempt(&self, records: &Arc<Vec<Arc<Told>>>, author: &Author, how: &How, rows: Vec<Visit>) -> Result<Attempt, Refusal> {
        self.try_once(records, author, how, rows, true).await
    }

    /// `all`: when a record builds on what was never sent, nothing is written, because what the others were taken for may rest on it.
    async fn try_once(
        &self,
        records: &Arc<Vec<Arc<Told>>>,
        author: &Author,
        how: &How,
        rows: Vec<Visit>,
        all: bool,
    ) -> Result<Attempt, Refusal> {
        let met = self.what_they_meet(records).await?;
        let (writer, told, seen, replay) = (self.writer.clone(), Arc::clone(records), Arc::clone(&how.seen), how.replay);
        let folded = self.writer.workers().run(move || {
            let mut fold = Fold::default();
            let stored = |name: &Name| met.resources.get(name).is_some_and(|stored| stored.body.is_some());
            let exists = |name: &Name| !replay && (stored(name) || seen.contains(name));
            let touches: Vec<Result<Laid, Unfit>> = told.iter().map(|told| fold.add(told, exists)).collect();
            (fold.settle(&writer, &met.resources, &met.visits), touches)
        });
        let (mut settled, touches) = folded.await?;
        let missing: Vec<(usize, Vec<Issue>)> =
            touches.iter().enumerate().filter_map(|(place, laid)| Some((place, laid.as_ref().err()?.issues()))).collect();
        if all && !missing.is_empty() {
            return Ok(Attempt::Unfit(missing));
        }
        let (changes, mut visits) = (std::mem::take(&mut settled.changes), std::mem::take(&mut settled.visits));
        visits.extend(rows);
        let plan = Plan { changes, visits, ..Plan::default() };
        let done = match how.dry {
            true => self.writer.rehearse(plan, author).await,
            false => self.writer.commit(plan, author, false).await,
        };
        let done = match done {
            Ok(done) => done,
            Err(CommitError::Stale) => return Ok(Attempt::Stale),
            // Somebody changed what a merge was made from.
            Err(CommitError::Refused(_, refusal)) if refusal.kind == RefusalKind::PreconditionFailed => return Ok(Attempt::Stale),
            Err(CommitError::Refused(_, refusal)) => return Err(refusal),
        };
        let patient = definitions::r4().type_code("Patient");
        let verdicts = records.iter().zip(touches).map(|(told, laid)| match laid {
            Ok(Laid { touches, unknown }) => {
                let parts = settled.places(&touches, told.visit.as_deref());
                let parts: Vec<(TypeCode, Effect)> =
                    parts.filter_map(|(place, touch)| done.get(place).map(|done| (done.type_code, part(done.effect, touch)))).collect();
                let withdrawn = parts.iter().filter(|(_, effect)| *effect == Effect::Deleted).count();
                WrittenRecord { outcome: outcome(&parts, patient), withdrawn, unknown }
            }
            Err(unfit) => WrittenRecord { outcome: Outcome::Failed(unfit.issues()), withdrawn: 0, unknown: Vec::new() },
        });
        let verdicts = verdicts.collect();
        Ok(Attempt::Done(Written { verdicts, effects: done.iter().map(|done| (done.type_code, done.effect)).collect() }))
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

/// What a record says, taken out of it; `None` when it is rejected.
fn told(record: &mut Record, submission: i64) -> Option<Told> {
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

/// Said of a client that only a reference names.
fn never_heard_of() -> Issue {
    let words =
        "names a client of whom this facility has sent nothing yet: what is stored refers to a Patient that is not there until it does";
    Issue::warning(IssueCode::NotFound, words)
}

impl Unfit {
    fn issues(&self) -> Vec<Issue> {
        let needs = match self {
            Unfit::NeverSent { needs } => needs,
            Unfit::OtherPatient(type_name) => return Refusal::other_patient(type_name).issues,
        };
        let words =
            "is missing, and this client or visit was never sent before by this facility: only what is known already may leave it out";
        let issue = Issue::error(IssueCode::NotFound, words);
        match &**needs {
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
