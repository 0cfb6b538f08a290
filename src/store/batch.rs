//! A write being gathered: whole units turned into rows, ready for either database's bulk statements.

use super::audit::{AUDIT, AuditRow, NewRow, Subject};
use super::covered::Narrowing;
use super::gate::{About, CONSENT, CONTRIBUTOR_ONLY, Membership, RuleRows};
use super::inherit::medicines::{self, Part};
use super::inherit::{self, Container};
use super::packed;
use super::places::Move;
use super::rows::{self, Cell, Identity, Name, Row, Stamp};
use super::sql::{Dialect, Sql};
use super::write::{Change, Mutation, NewJob, Resting, Written};
use super::{FacilityKey, IndexEntry, IndexValue, ResourceKey, TypeCode};
use crate::definitions;
use crate::fhir::time::{Micros, format_instant};
use std::collections::BTreeMap;

/// A resource row to insert or to update.
#[derive(Clone, Debug)]
pub struct ResourceRow {
    pub key: ResourceKey,
    pub type_code: TypeCode,
    pub id: Box<str>,
    pub version: i64,
    /// 0: deleted or never sent, 1: found by searches, 2: unlisted.
    pub live: i64,
    pub updated: Micros,
    pub txn: i64,
    /// The transaction in which the resource last came to life; `None` keeps what is there.
    pub created: Option<i64>,
    pub owner: FacilityKey,
    pub patient: ResourceKey,
    /// What rules may ask: [`super::gate::Traits`].
    pub class: i64,
    /// Its class by itself; 0: it inherited nothing.
    pub own: i64,
    pub low: i64,
    pub high: i64,
    /// 1: it came by POST. Of an update it changes nothing.
    pub posted: i64,
    /// 1: this version came by PATCH.
    pub patched: i64,
    /// As [`packed::pack`] left it.
    pub body: Option<Vec<u8>>,
}

/// Everything that one commit writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// New resources, placeholders (version 0) among them.
    pub inserts: Vec<ResourceRow>,
    /// New states of rows that exist.
    pub updates: Vec<ResourceRow>,
    /// Keys whose present row goes to the history before its update, with the transaction that supersedes it.
    pub superseded: Vec<(ResourceKey, i64)>,
    /// Keys whose former versions are removed.
    pub purged: Vec<ResourceKey>,
    /// Index rows that end: `until` cell is the transaction that ends them.
    pub closings: Vec<Row>,
    /// Index rows that begin.
    pub rows: Vec<Row>,
    /// What hands labels on.
    pub containers: Vec<Container>,
    /// What may inherit, with what it names and takes labels from.
    pub members: Vec<(ResourceKey, Vec<ResourceKey>)>,
    /// What names medicines, and medicines that may tell something else than before ([`inherit::medicines`]).
    pub takes: Vec<ResourceKey>,
    pub gives: Vec<ResourceKey>,
    /// The facts of the classes that resources are of.
    pub classes: BTreeMap<i64, Vec<i64>>,
    /// Consents whose rules of before end, and the rules that begin.
    pub consents: Vec<ResourceKey>,
    pub rules: RuleRows,
    /// What Consents of before permit no longer.
    pub narrowings: Vec<Narrowing>,
    /// What becomes of their places.
    pub moves: Vec<Move>,
    /// Value sets as they are from now on for rules that name them.
    pub sets: Vec<Membership>,
    /// The terminology changes: what rules permit or deny by it may too.
    pub resets: bool,
    pub jobs: Vec<NewJob>,
    pub audit: Vec<NewRow>,
    /// Up to which position the audit's events are AuditEvents.
    pub published: Option<i64>,
}

/// Where a mutation's resource stands.
pub struct Place {
    pub key: ResourceKey,
    /// `None`: no row yet.
    pub identity: Option<Identity>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.inserts.is_empty()
            && self.updates.is_empty()
            && self.rows.is_empty()
            && self.closings.is_empty()
            && self.containers.is_empty()
            && self.consents.is_empty()
            && self.narrowings.is_empty()
            && self.sets.is_empty()
            && self.jobs.is_empty()
            && self.audit.is_empty()
            && self.published.is_none()
    }

    /// Whether it may close something to somebody.
    pub fn closes(&self) -> bool {
        !self.consents.is_empty() || !self.narrowings.is_empty() || self.resets
    }

    /// Adds what the unit's rules rest on.
    pub fn add_resting(&mut self, resting: Resting) {
        self.resets |= resting.changes && !resting.sets.is_empty();
        self.sets.extend(resting.sets);
    }

    /// Adds what the unit narrows of what is permitted.
    pub fn add_narrowing(&mut self, narrowing: Option<Narrowing>) {
        self.narrowings.extend(narrowing.filter(|narrowing| !narrowing.is_nothing()));
    }

    /// Adds what is recorded of the unit; its mutations come first.
    pub fn add_audit(&mut self, rows: Vec<AuditRow>, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) {
        self.audit.extend(rows.into_iter().map(|row| {
            let patient = match row.subject {
                Subject::Nobody => 0,
                Subject::Key(key) => key,
                Subject::Id(id) => target("Patient", &id).unwrap_or(0),
            };
            (row.at, row.owner, patient, row.event)
        }));
    }

    /// Adds a mutation that is known to fit. `target` gives the key of any resource referred to.
    pub fn add(
        &mut self,
        mutation: Mutation,
        place: &Place,
        txn: i64,
        updated: Micros,
        target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>,
    ) -> (Written, Identity) {
        let key = place.key;
        if let Some(hands) = &mutation.traits.hands {
            let lists = hands.lists.iter().filter_map(|(type_name, id)| target(type_name, id)).collect();
            let (labels, is_new) = (hands.labels().to_vec(), mutation.base_version == 0);
            self.containers.push(Container { key, owner: mutation.owner, labels, lists, is_new });
        }
        if let Some(rules) = &mutation.rules {
            self.consents.push(key);
            self.rules.add(key, rules, target);
            self.moves.push(Move::new(key, updated, rules.succession.clone(), target));
        }
        match medicines::part(&mutation) {
            Part::Takes => self.takes.push(key),
            Part::Gives => self.gives.push(key),
            Part::None => {}
        }
        if let (Change::Reindex { entries, old_entries }, Some(identity)) = (&mutation.change, place.identity) {
            let stamp = Stamp { key, since: txn, owner: identity.owner, patient: identity.patient };
            if identity.live {
                self.closings.extend(old_entries.iter().filter_map(|entry| rows::row(entry, stamp, target)));
                self.rows.extend(entries.iter().filter_map(|entry| rows::row(entry, stamp, target)));
            }
            return (Written { key, version: identity.version, updated }, identity);
        }
        if let (Change::Purge { old_entries }, Some(identity)) = (&mutation.change, place.identity) {
            let stamp = Stamp { key, since: txn, owner: identity.owner, patient: identity.patient };
            if identity.live {
                self.closings.extend(old_entries.iter().filter_map(|entry| rows::row(entry, stamp, target)));
            }
            self.purged.push(key);
            self.updates.push(placeholder(key, &(mutation.type_code, mutation.id)));
            return (Written { key, version: 0, updated }, Identity { key, version: 0, live: false, owner: 0, patient: 0 });
        }
        let patient = match &mutation.about {
            About::Nobody => 0,
            // A name that gives no key cannot be opened by anybody's rules.
            About::Patient(id) => target("Patient", id).unwrap_or(CONTRIBUTOR_ONLY),
            About::Unknown => CONTRIBUTOR_ONLY,
            About::Consent => CONSENT,
            About::Audit => AUDIT,
        };
        let class = mutation.traits.class();
        if class != 0 {
            self.classes.entry(class).or_insert_with(|| mutation.traits.facts().to_vec());
            // That somebody is a patient is not what a document tells.
            if definitions::r4().type_name(mutation.type_code) != "Patient" {
                self.members.push((key, takes_from(&mutation.change, target)));
            }
        }
        let (low, high) = mutation.traits.bounds();
        let version = mutation.base_version + 1;
        let listed = mutation.listed;
        let was_live = place.identity.is_some_and(|identity| identity.live);
        let stamp = Stamp { key, since: txn, owner: mutation.owner, patient };
        let (live, body, new_entries, old_entries) = match mutation.change {
            Change::Put { mut body, stamp_at, entries, old_entries } => {
                let text = format_instant(updated);
                if let Some(slot) = stamp_at.checked_add(text.len()).and_then(|end| body.get_mut(stamp_at..end)) {
                    slot.copy_from_slice(text.as_bytes());
                }
                (true, Some(packed::pack(body)), entries, old_entries)
            }
            Change::Delete { old_entries } | Change::Purge { old_entries } | Change::Reindex { old_entries, .. } => {
                (false, None, Vec::new(), old_entries)
            }
        };
        if was_live {
            let same_stamp = place.identity.is_some_and(|old| old.owner == mutation.owner && old.patient == patient);
            for entry in &old_entries {
                if !(same_stamp && new_entries.contains(entry)) {
                    self.closings.extend(rows::row(entry, stamp, target));
                }
            }
            for entry in &new_entries {
                if !(same_stamp && old_entries.contains(entry)) {
                    self.rows.extend(rows::row(entry, stamp, target));
                }
            }
        } else {
            self.rows.extend(new_entries.iter().filter_map(|entry| rows::row(entry, stamp, target)));
        }
        let row = ResourceRow {
            key,
            type_code: mutation.type_code,
            id: mutation.id,
            version,
            live: match (live, listed) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => 2,
            },
            updated,
            txn,
            created: (live && !was_live).then_some(txn),
            owner: mutation.owner,
            patient,
            class,
            own: 0,
            low,
            high,
            posted: 0,
            patched: 0,
            body,
        };
        match place.identity {
            None => self.inserts.push(row),
            Some(identity) => {
                if identity.version > 0 {
                    self.superseded.push((key, txn));
                }
                self.updates.push(row);
            }
        }
        (Written { key, version, updated }, Identity { key, version, live, owner: mutation.owner, patient })
    }

    /// Notes that the resource that was added last, if it is new, came by POST.
    pub fn mark_posted(&mut self, key: ResourceKey) {
        if let Some(row) = self.inserts.last_mut().filter(|row| row.key == key) {
            row.posted = 1;
        }
    }

    /// Notes that the version that was added last came by PATCH.
    pub fn mark_patched(&mut self, key: ResourceKey) {
        if let Some(row) = self.updates.last_mut().filter(|row| row.key == key) {
            row.patched = 1;
        }
    }

    /// A row for a resource that something refers to and nobody has sent yet.
    pub fn add_placeholder(&mut self, key: ResourceKey, name: &Name) {
        self.inserts.push(placeholder(key, name));
    }

    /// Puts rows in the order of their B-trees and drops repeats, so that inserts append where they can.
    pub fn sort(&mut self) {
        self.inserts.sort_by_key(|row| row.key);
        Row::sort(&mut self.rows);
        self.closings.sort_by(Row::compare);
    }
}

/// The row of a resource that nobody has sent.
fn placeholder(key: ResourceKey, name: &Name) -> ResourceRow {
    ResourceRow {
        key,
        type_code: name.0,
        id: name.1.clone(),
        version: 0,
        live: 0,
        updated: 0,
        txn: 0,
        created: Some(0),
        owner: 0,
        patient: 0,
        class: 0,
        own: 0,
        low: 0,
        high: 0,
        posted: 0,
        patched: 0,
        body: None,
    }
}

/// The Encounters, medicines and results that the new state names, and takes labels from.
fn takes_from(change: &Change, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) -> Vec<ResourceKey> {
    let Change::Put { entries, .. } = change else { return Vec::new() };
    let named = entries.iter().filter_map(|entry| match &entry.value {
        IndexValue::Reference { type_name, id } if inherit::takes(type_name, entry.param) => target(type_name, id),
        _ => None,
    });
    named.collect()
}

/// The resources that a mutation's entries and rules refer to, its Patient included.
pub fn targets(mutation: &Mutation) -> impl Iterator<Item = (&str, &str)> {
    let (new, old): (&[IndexEntry], &[IndexEntry]) = match &mutation.change {
        Change::Put { entries, old_entries, .. } | Change::Reindex { entries, old_entries } => (entries, old_entries),
        Change::Delete { old_entries } | Change::Purge { old_entries } => (&[], old_entries),
    };
    let referred = new.iter().chain(old).filter_map(|entry| match entry.value.near() {
        IndexValue::Reference { type_name, id } => Some((&**type_name, &**id)),
        _ => None,
    });
    let covered = mutation.rules.iter().flat_map(|rules| rules.targets());
    let listed = mutation.traits.hands.iter().flat_map(|hands| &hands.lists).map(|(type_name, id)| (&**type_name, &**id));
    referred.chain(mutation.about.patient().map(|id| ("Patient", id))).chain(covered).chain(listed)
}

/// The cells of a closing row that find the row it ends: its primary key without `since`.
pub fn closing_key(row: &Row) -> &[Cell] {
    let end = row.cells.len().saturating_sub(rows::TRAILER);
    row.cells.get(..end).unwrap_or_default()
}

/// The statement that removes former versions.
pub fn removal(dialect: Dialect, keys: &[ResourceKey]) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("DELETE FROM history WHERE key IN (");
    sql.join(keys, ", ", |sql, key| {
        sql.literal(*key);
    });
    sql.push(")");
    sql
}
