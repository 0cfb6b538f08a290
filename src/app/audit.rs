//! What becomes of events beside the requests: sealed (on PostgreSQL), attested, published, and removed when they are old.
//!
//! Every process does all of it; the database lets one seal at a time, and what two publish at once is the same.
//!
//! Publishing gives way to requests. It goes on step by step, [`PUBLISH`] events each (or those of one row where they are more); as long as nobody waits for an answer of this process one step follows
//! the other, and while somebody does it takes [`SHARE`] of the time, or a step a second where that is more. So it always comes to an
//! end, and how far behind it is can be seen ([`Gauges::unpublished`](super::Gauges::unpublished)).

use super::App;
use crate::access::audit::checkpoint::{AGE, Notary, ROWS};
use crate::access::audit::resource::{Naming, audit_event};
use crate::access::audit::verify::removable;
use crate::access::audit::{Recorder, Told, Trail, disclosure, patients, told};
use crate::definitions;
use crate::fhir::time::{Micros, now};
use crate::ingest::draft::Draft;
use crate::store::gate::About;
use crate::store::{FacilityKey, ResourceKey, Sealed};
use anyhow::Context;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two looks for events.
const EVERY: Duration = Duration::from_millis(500);
/// Events published in one transaction and, at least, in one step: a few milliseconds in which others wait.
pub const PUBLISH: u32 = 50;
/// Events whose Patients are noted in one transaction.
const INDEX: u32 = 2_000;
/// One part in so many of the time is for publishing while requests are answered.
pub const SHARE: u32 = 20;
/// Between two steps of publishing, at most.
const LONGEST: Duration = Duration::from_secs(1);
const HOUR: Micros = 3_600_000_000;
const DAY: Micros = 24 * HOUR;

/// What the keeper remembers between looks.
#[derive(Debug, Default)]
struct Memory {
    /// The newest checkpoint of this process.
    attested: i64,
    attested_at: Micros,
    /// Signed checkpoints that `audit.checkpoint_file` lacks, since it could not be written.
    owed: Vec<String>,
    swept: Micros,
}

impl App {
    /// Carries out work of lango's own or of a command; what it changes is recorded as that.
    pub async fn recorded<F: Future>(&self, command: &str, work: F) -> F::Output {
        if !self.settings.records() {
            return work.await;
        }
        Arc::new(Trail::of_lango(Recorder::new(self.store.clone()), command)).follow(work).await
    }

    /// Runs until `shutdown`, and once more then.
    pub(super) async fn keep_audit(&self, shutdown: CancellationToken) {
        if !self.settings.records() {
            return;
        }
        let notary = match Notary::open(&self.store).await {
            Ok(notary) => notary,
            Err(error) => {
                tracing::error!(%error, "the audit cannot be sealed: the signing keys cannot be read");
                return;
            }
        };
        let mut memory = Memory::default();
        let mut pause = EVERY;
        let mut behind = false;
        loop {
            let wait = async {
                match behind {
                    true => self.gauges.quiet(pause).await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            let last = tokio::select! {
                biased;
                () = shutdown.cancelled() => true,
                () = wait => false,
            };
            let begun = Instant::now();
            behind = match self.look_after_audit(&notary, &mut memory, last).await {
                Ok(behind) => behind,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the audit waits to be sealed or published");
                    false
                }
            };
            if last {
                return;
            }
            pause = if behind { begun.elapsed().saturating_mul(SHARE - 1).min(LONGEST) } else { EVERY };
        }
    }

    /// Whether more is to be published.
    async fn look_after_audit(&self, notary: &Notary, memory: &mut Memory, last: bool) -> anyhow::Result<bool> {
        self.store.seal().await?;
        self.attest(notary, memory, last).await?;
        if last {
            return Ok(false);
        }
        while self.index_audit().await? {}
        let behind = self.publish_audit().await?;
        self.gauges.set_unpublished(self.store.unpublished().await?);
        self.sweep_audit(notary, memory).await?;
        Ok(behind)
    }

    async fn attest(&self, notary: &Notary, memory: &mut Memory, last: bool) -> anyhow::Result<()> {
        let Some(head) = self.store.sealed_head().await? else { return Ok(()) };
        let (rows, age) = (head.position.saturating_sub(memory.attested), now().saturating_sub(memory.attested_at));
        let is_due = rows >= ROWS || rows > 0 && (age >= AGE || last);
        if is_due {
            let signed = notary.attest(&self.store, &head).await?;
            (memory.attested, memory.attested_at) = (head.position, now());
            memory.owed.push(signed);
        }
        if !memory.owed.is_empty() && (is_due || last) {
            // What cannot be written now is with the next; publishing does not wait for it.
            match self.export(&memory.owed.join("\n")) {
                Ok(()) => memory.owed.clear(),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the copy of the checkpoints lacks the newest"),
            }
        }
        Ok(())
    }

    fn export(&self, signed: &str) -> anyhow::Result<()> {
        let Some(path) = &self.settings.audit.checkpoint_file else { return Ok(()) };
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).context("audit.checkpoint_file")?;
        writeln!(file, "{signed}").and_then(|()| file.sync_data()).context("audit.checkpoint_file")
    }

    /// How the deployment calls things, in its AuditEvents.
    pub fn audit_naming(&self) -> Naming {
        Naming {
            base: self.writer.options().base.clone(),
            site: self.settings.operator.code.clone(),
            facility_system: self.settings.systems.facility.clone(),
            practitioner_system: self.settings.systems.practitioner.clone(),
        }
    }

    /// Makes AuditEvents of the next rows, a step's worth of them; whether there are more.
    async fn publish_audit(&self) -> anyhow::Result<bool> {
        let mut rows = self.store.sealed_after(self.store.published().await?, PUBLISH).await?;
        // What is an AuditEvent is in the notes too.
        let indexed = self.store.indexed().await?;
        rows.retain(|row| row.position <= indexed);
        let mut behind = rows.len() >= PUBLISH as usize;
        let Some(mut position) = rows.first().map(|row| row.position) else { return Ok(false) };
        let mut events: Vec<(Micros, FacilityKey, Told)> = Vec::new();
        for row in &rows {
            if events.len() >= PUBLISH as usize {
                behind = true;
                break;
            }
            position = row.position;
            // What is not of lango's making is left out; `lango audit verify` tells of it.
            events.extend(told(row).unwrap_or_default().into_iter().map(|told| (row.at, row.owner, told)));
        }
        let mut keys: Vec<ResourceKey> = events.iter().map(|(_, _, told)| told.patient).filter(|patient| *patient > 0).collect();
        keys.sort_unstable();
        keys.dedup();
        let ids = self.store.ids_of(&keys).await?;
        let owners: Vec<FacilityKey> = events.iter().filter_map(|(_, _, told)| told.custodian).collect();
        let (naming, custodians) = (self.audit_naming(), self.custodians(&owners).await?);
        let me = self.clone();
        let drafts = self.writer.workers().run(move || {
            let draft = |(at, owner, told): &(Micros, FacilityKey, Told)| {
                Some((*owner, me.audit_draft(*at, told, ids.get(&told.patient).map(String::as_str), &custodians, &naming)?))
            };
            events.iter().filter_map(draft).collect::<Vec<_>>()
        });
        let mut drafts = drafts.await?;
        // One row may tell of very many: the writer's others come between its parts.
        while drafts.len() > PUBLISH as usize {
            let rest = drafts.split_off(PUBLISH as usize);
            self.writer.put_audit_events(std::mem::replace(&mut drafts, rest), None).await?;
        }
        self.writer.put_audit_events(drafts, Some(position)).await?;
        Ok(behind)
    }

    /// Codes of these facilities.
    async fn custodians(&self, owners: &[FacilityKey]) -> anyhow::Result<HashMap<FacilityKey, String>> {
        let mut codes = HashMap::from([(0, self.settings.operator.code.clone())]);
        for owner in owners {
            if let Entry::Vacant(place) = codes.entry(*owner) {
                place.insert(self.store.facility_code(*owner).await?.unwrap_or_default());
            }
        }
        Ok(codes)
    }

    fn audit_draft(
        &self,
        at: Micros,
        told: &Told,
        patient: Option<&str>,
        custodians: &HashMap<FacilityKey, String>,
        naming: &Naming,
    ) -> Option<Draft> {
        let resource = match told.custodian {
            Some(owner) => disclosure::audit_event(at, told, patient?, custodians.get(&owner)?, naming),
            None => audit_event(at, told, patient, naming, false),
        };
        let type_code = definitions::r4().type_code("AuditEvent")?;
        let mut draft = self.writer.draft(type_code, &told.id, resource);
        draft.about = About::Audit;
        Some(draft)
    }

    /// Notes which Patients the next rows are about; whether there are more.
    async fn index_audit(&self) -> anyhow::Result<bool> {
        let rows = self.store.unindexed(INDEX).await?;
        let Some(last) = rows.last() else { return Ok(false) };
        let about = |row: &Sealed| patients(row).unwrap_or_default().into_iter().map(|patient| (patient, row.position)).collect::<Vec<_>>();
        let pairs = rows.iter().flat_map(about).collect();
        self.store.index_audit(pairs, last.position).await?;
        Ok(rows.len() >= INDEX as usize)
    }

    /// Removes events that are old enough, under a signed statement.
    async fn sweep_audit(&self, notary: &Notary, memory: &mut Memory) -> anyhow::Result<()> {
        let days = i64::from(self.settings.audit.keep_days);
        if days == 0 || now().saturating_sub(memory.swept) < HOUR {
            return Ok(());
        }
        memory.swept = now();
        let removed = self.remove_audit_before(notary, now().saturating_sub(days.saturating_mul(DAY))).await?;
        if removed > 0 {
            tracing::info!(rows = removed, "removed events of the audit that were old enough");
        }
        Ok(())
    }

    /// Removes the events recorded before `at` that are published, and the AuditEvents made of them; how many events.
    pub async fn remove_audit_before(&self, notary: &Notary, at: Micros) -> anyhow::Result<u64> {
        let last = match removable(&self.store, notary, at).await? {
            Ok(Some(last)) => last,
            Ok(None) => return Ok(0),
            Err(broken) => {
                tracing::error!(%broken, "the audit is broken, so nothing of it is removed for its age: `lango audit verify` tells more");
                return Ok(0);
            }
        };
        if last.position > self.store.published().await? {
            return Ok(0);
        }
        // The AuditEvents first: as long as the rows are there their ids are known.
        let mut after = 0;
        loop {
            let mut rows = self.store.sealed_after(after, PUBLISH).await?;
            rows.retain(|row| row.position <= last.position);
            let Some(done) = rows.last().map(|row| row.position) else { break };
            let ids = rows.iter().flat_map(|row| told(row).unwrap_or_default()).map(|told| told.id);
            self.writer.purge_audit_events(ids.collect()).await?;
            after = done;
        }
        let signed = notary.removes(&self.store, &last, at).await?;
        self.export(&signed)?;
        Ok(self.store.remove_sealed(&last).await?)
    }
}
