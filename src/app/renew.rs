//! Stored Consents are read again when a release reads them otherwise than the one before: what they allow is kept as rules, and so is whose place each has
//! taken. It is done before anybody is answered, a page after the other; what is done twice comes to the same, and a start that was interrupted goes on
//! where it stood.

use super::App;
use crate::definitions;
use crate::fhir::time::Micros;
use crate::store::write::WriteError;
use crate::store::{Stored, Unit};
use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::time::{Duration, Instant};

/// The reading of this release. One more when it changes.
const READING: i64 = 4;
/// Consents of one unit.
const BATCH: u32 = 200;
/// Read at once.
const TOGETHER: usize = 16;
/// Tries against concurrent writers.
const TRIES: usize = 20;
/// How often the log tells how far it is.
const TOLD: Duration = Duration::from_secs(10);

impl App {
    /// Sees to it that what stored Consents allow is what this release reads in them.
    pub(super) async fn renew_consents(&self) -> anyhow::Result<()> {
        let progress = self.store.consents_read().await?;
        if progress.by >= READING {
            return Ok(());
        }
        let type_code = definitions::r4().type_code("Consent").context("R4 has Consents")?;
        let (mut after, mut done, mut told) = (progress.after, 0_usize, Instant::now());
        loop {
            let rows = self.store.changed_since(type_code, Micros::MIN, after, BATCH).await?;
            let Some(last) = rows.last() else { break };
            let next = (last.updated, last.key);
            self.renew(&rows).await?;
            self.store.set_consents_read(progress.by, next).await?;
            (after, done) = (next, done.saturating_add(rows.len()));
            if told.elapsed() >= TOLD {
                tracing::info!(consents = done, "Consents are read again, as this release reads them; nobody is answered before they are");
                told = Instant::now();
            }
        }
        if done > 0 {
            tracing::info!(consents = done, "Consents were read again, as this release reads them");
        }
        Ok(self.store.set_consents_read(READING, (Micros::MIN, 0)).await?)
    }

    /// Reads these again, as they are by now.
    async fn renew(&self, rows: &[Stored]) -> anyhow::Result<()> {
        let names: Vec<_> = rows.iter().map(|stored| (stored.type_code, stored.id.to_string())).collect();
        for tried in 0.. {
            let present = self.store.read_many(&names).await?;
            let renewed = futures_util::stream::iter(&present).map(|stored| async move {
                let mutation = self.writer.renewed(stored).await;
                mutation.map_err(|refusal| anyhow::anyhow!("Consent/{}: {refusal:?}", stored.id))
            });
            let mutations: Vec<_> = renewed.buffered(TOGETHER).try_collect().await?;
            match self.store.commit(Unit { mutations: mutations.into_iter().flatten().collect(), ..Unit::default() }).await {
                Ok(_) => break,
                Err(WriteError::Stale) if tried < TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
