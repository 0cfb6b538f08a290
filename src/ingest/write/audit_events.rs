//! AuditEvents of lango's own making: nobody's to change, and gone with the rows that they were made of.

use super::{Tries, Writer};
use crate::definitions;
use crate::ingest::draft::Draft;
use crate::ingest::refusal::Refusal;
use crate::store::gate::{About, Traits};
use crate::store::write::Change;
use crate::store::{FacilityKey, Mutation, TypeCode, Unit, WriteError};

impl Writer {
    /// Stores AuditEvents of lango's own making, each under its owner's number; those that are there already are left as they are. With
    /// them all those of the chain up to the position `published` are there.
    pub async fn put_audit_events(&self, events: Vec<(FacilityKey, Draft)>, published: Option<i64>) -> Result<(), Refusal> {
        let names: Vec<(TypeCode, String)> = events.iter().map(|(_, draft)| (draft.type_code, draft.id.to_string())).collect();
        let mut tries = Tries::default();
        loop {
            let present = self.store.read_many(&names).await?;
            let is_new = |draft: &Draft| !present.iter().any(|stored| stored.type_code == draft.type_code && stored.id == draft.id);
            let new = events.iter().filter(|(_, draft)| is_new(draft)).map(|(owner, draft)| {
                let (body, stamp_at) = draft.body(1);
                let change = Change::Put { body, stamp_at, entries: draft.entries.clone(), old_entries: Vec::new() };
                let (type_code, id, about, traits) = (draft.type_code, draft.id.clone(), draft.about.clone(), Traits::default());
                Mutation { type_code, id, base_version: 0, change, owner: *owner, listed: true, about, traits, rules: None }
            });
            match self.store.commit(Unit { mutations: new.collect(), published, ..Unit::default() }).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Stale) => tries.pause().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes AuditEvents of lango's own making, these ids, for good; those that are gone already stay gone.
    pub async fn purge_audit_events(&self, ids: Vec<String>) -> Result<(), Refusal> {
        let Some(type_code) = definitions::r4().type_code("AuditEvent") else { return Ok(()) };
        let names: Vec<(TypeCode, String)> = ids.into_iter().map(|id| (type_code, id)).collect();
        let mut tries = Tries::default();
        loop {
            let present = self.store.read_many(&names).await?;
            // Those of a negative owner are lango's: a client may have sent one under the same id.
            let own = present.iter().filter(|stored| stored.owner < 0).map(|stored| {
                let old_entries = stored.body.as_ref().map(|body| self.entries_of(type_code, body)).transpose()?.unwrap_or_default();
                let (id, owner, base_version) = (stored.id.clone(), stored.owner, stored.version);
                let (about, traits, change) = (About::Audit, Traits::default(), Change::Purge { old_entries });
                Ok(Mutation { type_code, id, base_version, change, owner, listed: true, about, traits, rules: None })
            });
            let mutations = own.collect::<Result<Vec<Mutation>, Refusal>>()?;
            if mutations.is_empty() {
                return Ok(());
            }
            match self.store.commit(Unit { mutations, ..Unit::default() }).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Stale) => tries.pause().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
