//! Stored Consents are read again when a release reads them otherwise than the one before: what they allow is kept as rules, and so is whose place each has
//! taken. It is done before anybody is answered, a page after the other; what is done twice comes to the same.

use super::App;
use crate::definitions;
use crate::fhir::time::Micros;
use crate::ingest::RefusalKind;
use crate::store::Unit;
use crate::store::write::WriteError;
use anyhow::Context as _;

/// The reading of this release. One more when it changes.
const READING: i64 = 1;
/// Consents of one unit.
const BATCH: u32 = 100;
/// Tries against concurrent writers.
const TRIES: usize = 20;

impl App {
    /// Sees to it that what stored Consents allow is what this release reads in them.
    pub(super) async fn renew_consents(&self) -> anyhow::Result<()> {
        if self.store.consents_read().await? >= READING {
            return Ok(());
        }
        let type_code = definitions::r4().type_code("Consent").context("R4 has Consents")?;
        let (mut after, mut done) = ((Micros::MIN, 0), 0_usize);
        loop {
            let rows = self.store.changed_since(type_code, Micros::MIN, after, BATCH).await?;
            let Some(last) = rows.last() else { break };
            let next = (last.updated, last.key);
            let mut tries = 0;
            loop {
                let mut mutations = Vec::new();
                for stored in &rows {
                    let names = [(type_code, stored.id.to_string())];
                    for stored in self.store.read_many(&names).await? {
                        match self.writer.renewed(&stored).await {
                            Ok(mutation) => mutations.push(mutation),
                            // Deeper or larger than is read: what it was taken to allow and deny stays, and nobody waits for it.
                            Err(refusal) if refusal.kind == RefusalKind::Invalid => {
                                tracing::warn!(consent = %stored.id, "a stored Consent is not read again: it is too large; write a smaller one in its place");
                            }
                            Err(refusal) => anyhow::bail!("{refusal:?}"),
                        }
                    }
                }
                match self.store.commit(Unit { mutations, ..Unit::default() }).await {
                    Ok(_) => break,
                    Err(WriteError::Stale) if tries < TRIES => tries += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            (after, done) = (next, done.saturating_add(rows.len()));
        }
        if done > 0 {
            tracing::info!(consents = done, "Consents were read again, as this release reads them");
        }
        Ok(self.store.set_consents_read(READING).await?)
    }
}
