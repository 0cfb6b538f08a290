//! What rules rest on in the terminology, worked out for the transaction that changes either.
//!
//! A Consent's rule on a code may name a value set. What is in it is kept once for all rules, and replaced in the transaction that changes a CodeSystem or a
//! ValueSet: from its acknowledgement on every query decides by the new members. They are worked out from a copy of the terminology in memory, after
//! what other processes changed was taken in; the store refuses what was worked out as of an older state ([`crate::store::resting`]).

use super::write::Writer;
use crate::access::consent::vocabulary::Coding;
use crate::access::gate;
use crate::definitions;
use crate::fhir::time::Micros;
use crate::store::Mutation;
use crate::store::write::{Change, NewJob, Resting};
use crate::terminology::Terminology;
use serde_json::Value;
use std::collections::BTreeSet;

/// What value sets rest on.
const TYPES: [&str; 2] = ["CodeSystem", "ValueSet"];
/// Rows read at a time.
const PAGE: u32 = 200;
/// How much later a commit may show than the time on it, in microseconds.
const OVERLAP: Micros = 10_000_000;

/// As of when the terminology in memory is known to hold what the database holds.
#[derive(Debug)]
pub(super) struct Known {
    /// The database's count of changes.
    number: i64,
    /// The time on the newest of them.
    newest: Micros,
}

impl Default for Known {
    fn default() -> Known {
        Known { number: -1, newest: Micros::MIN }
    }
}

impl Writer {
    /// What the rules in these mutations, and those that are stored, rest on once they are made; `None` when neither the terminology changes nor a rule names a
    /// value set.
    /// Also the job to label what is stored anew, if that becomes necessary.
    pub(super) async fn resting(&self, mutations: &[Mutation]) -> Result<(Option<Resting>, Option<NewJob>), sqlx::Error> {
        let r4 = definitions::r4();
        let is_terminology = |mutation: &&Mutation| TYPES.contains(&r4.type_name(mutation.type_code));
        let changes = mutations.iter().any(|mutation| is_terminology(&mutation));
        let mut urls: BTreeSet<String> =
            mutations.iter().filter_map(|mutation| mutation.rules.as_ref()).flat_map(|rules| rules.sets()).map(str::to_owned).collect();
        if !changes && urls.is_empty() {
            return Ok((None, None));
        }
        let number = self.store().terminology_number().await?;
        if changes {
            urls.extend(self.store().rule_sets().await?);
        }
        self.catch_up(number).await?;
        let terminology = self.terminology().copy();
        let changed = || mutations.iter().filter(is_terminology);
        let put = |mutation: &Mutation| match &mutation.change {
            Change::Put { body, .. } => serde_json::from_slice(body).ok(),
            _ => None,
        };
        let put: Vec<Value> = changed().filter_map(put).collect();
        terminology.load(&put);
        for gone in changed().filter(|mutation| matches!(mutation.change, Change::Delete { .. })) {
            terminology.remove(r4.type_name(gone.type_code), &gone.id);
        }
        let job = if changes { self.relabelling(&terminology).await? } else { None };
        let sets = self.workers().run(move || urls.iter().map(|url| gate::members(url, members(&terminology, url))).collect()).await;
        let sets = sets.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
        Ok((Some(Resting { number, changes, sets }), job))
    }

    /// Takes in what other processes changed of CodeSystems and ValueSets up to now.
    pub async fn take_in_terminology(&self) -> Result<(), sqlx::Error> {
        self.catch_up(self.store().terminology_number().await?).await
    }

    /// Takes in what others changed up to `number`.
    async fn catch_up(&self, number: i64) -> Result<(), sqlx::Error> {
        let mut known = self.known.lock().await;
        if known.number == number {
            return Ok(());
        }
        let since = known.newest.saturating_sub(OVERLAP);
        let mut newest = known.newest;
        for name in TYPES {
            let Some(type_code) = definitions::r4().type_code(name) else { continue };
            let mut after = (Micros::MIN, 0);
            loop {
                let rows = self.store().changed_since(type_code, since, after, PAGE).await?;
                let Some(last) = rows.last() else { break };
                after = (last.updated, last.key);
                newest = newest.max(last.updated);
                for row in &rows {
                    match row.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
                        Some(resource) => self.terminology().upsert(&resource),
                        // What was gone before this process began it never had.
                        None if known.number >= 0 => self.terminology().remove(name, &row.id),
                        None => {}
                    }
                }
            }
        }
        *known = Known { number, newest };
        Ok(())
    }
}

fn members(terminology: &Terminology, url: &str) -> Option<Vec<Coding>> {
    let members = terminology.members(url)?;
    Some(members.iter().map(|member| Coding::new(&member.system, &member.code)).collect())
}
