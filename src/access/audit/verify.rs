//! Whether the chain is whole.

use super::checkpoint::{AGE, Checkpoint, Kind, Notary, ROWS, hex, unhex};
use super::{AuditError, Event, patients, published};
use crate::fhir::time::Micros;
use crate::store::audit::GENESIS;
use crate::store::{ResourceKey, Sealed, Store};
use std::collections::BTreeMap;

const DAY: Micros = 86_400_000_000;
/// Rows read at a time.
const PAGE: u32 = 1_000;

/// A whole chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub rows: u64,
    /// The first and the last position; 0 and 0: empty.
    pub first: i64,
    pub last: i64,
    /// Signed checkpoints that it agrees with.
    pub checkpoints: u64,
}

/// The first thing that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("row {0} was changed, or put in another's place: its hash does not follow from the row before it and from what it says")]
    Changed(i64),
    #[error("row {0} is missing: it was removed")]
    Missing(i64),
    #[error("row {0} is not the one that was there when a checkpoint was signed: the chain was computed anew")]
    Rewritten(i64),
    #[error(
        "the rows up to {0} were removed, and not for their age: a checkpoint of some of them is younger than what was to be removed, or none of the copies of checkpoints \
         tells of it and it does not fit audit.keep_days"
    )]
    Emptied(i64),
    #[error("the end is missing: the chain ends at row {last}, and a checkpoint or an AuditEvent was made of row {seen}")]
    Cut { last: i64, seen: i64 },
    #[error("which rows are about which Patients was changed: the notes of it (audit_about) do not say what the rows up to {0} say")]
    Notes(i64),
    #[error("an AuditEvent of row {0} is missing: it was removed, while the row is whole")]
    Unpublished(i64),
    #[error("an AuditEvent of row {0} does not say what the row says: it was changed, while the row is whole")]
    Altered(i64),
    #[error(
        "an AuditEvent of row {0} is not found by what it says, or not by those who may see it: its place in the indexes was changed, while the row is whole"
    )]
    Unindexed(i64),
    #[error(
        "no checkpoint is left of a chain up to row {0}, of which servers that were asked for minutes signed some: they were removed, and what was cut off the end with \
         them is not known"
    )]
    Unattested(i64),
    #[error("the checkpoint of row {0} is not signed by a key of this database")]
    Forged(i64),
    #[error("line {0} of the file of checkpoints is not signed by a key of this database")]
    ForgedLine(usize),
}

/// Walks the chain and holds it against its checkpoints, those of `elsewhere` (signed texts, a line each) too, and the AuditEvents made of it against it.
/// `keep_days`: after so many days rows are removed now; 0: none are.
pub async fn verify(store: &Store, notary: &Notary, elsewhere: &str, keep_days: u32) -> Result<Result<Whole, Broken>, AuditError> {
    // Before the rows, so that what is sealed meanwhile does not look cut off.
    let kept = store.checkpoints().await?;
    let published = store.published().await?;
    let (indexed, (floor, _)) = (store.indexed().await?, store.audit_floor().await?);
    let mut noted = Notes::default();
    let mut heads: BTreeMap<i64, Vec<Checkpoint>> = BTreeMap::new();
    let mut removed: BTreeMap<i64, Checkpoint> = BTreeMap::new();
    let mut take = |said: Checkpoint| match said.kind {
        Kind::Head => heads.entry(said.position).or_default().push(said),
        Kind::Removed => drop(removed.insert(said.position, said)),
    };
    for (position, kind, signed) in kept {
        match notary.read(&signed) {
            Some(said) if said.position == position && said.kind.as_str() == kind => take(said),
            _ => return Ok(Err(Broken::Forged(position))),
        }
    }
    let mut copies = Vec::new();
    for (line, signed) in elsewhere.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        match notary.read(signed) {
            Some(said) => {
                // That rows were removed is for the database itself to show: an old file must not excuse it.
                if said.kind == Kind::Head {
                    take(said.clone());
                }
                copies.push(said);
            }
            None => return Ok(Err(Broken::ForgedLine(line + 1))),
        }
    }
    let mut whole = Whole { rows: 0, first: 0, last: 0, checkpoints: 0 };
    let mut before = GENESIS.to_vec();
    let mut served = Served::default();
    loop {
        let rows = store.sealed_after(whole.last, PAGE).await?;
        let Some(first) = rows.first() else { break };
        if whole.rows == 0 && first.position > 1 {
            let floor = first.position - 1;
            match removed.get(&floor) {
                Some(said) => {
                    before = unhex(&said.hash);
                    whole.last = floor;
                }
                None => return Ok(Err(Broken::Missing(1))),
            }
        }
        for row in &rows {
            if row.position != whole.last + 1 {
                return Ok(Err(Broken::Missing(whole.last + 1)));
            }
            if row.hash != row.expected(&before) {
                return Ok(Err(Broken::Changed(row.position)));
            }
            if let Some(said) = heads.get(&row.position) {
                let own = hex(&row.hash);
                if said.iter().any(|said| said.hash != own) {
                    return Ok(Err(Broken::Rewritten(row.position)));
                }
                whole.checkpoints += said.len() as u64;
            }
            if whole.rows == 0 {
                whole.first = row.position;
            }
            if row.position <= indexed {
                patients(row).unwrap_or_default().into_iter().for_each(|patient| noted.add(patient, row.position));
            }
            served.add(row);
            whole.rows += 1;
            whole.last = row.position;
            before.clone_from(&row.hash);
        }
    }
    let gone = removed.values().rfind(|said| whole.rows == 0 || said.position < whole.first);
    if let Some(said) = gone.filter(|said| !is_believed(said, &heads, &copies, keep_days)) {
        return Ok(Err(Broken::Emptied(said.position)));
    }
    let last = whole.last.max(removed.keys().next_back().copied().unwrap_or(0));
    let seen = heads.keys().next_back().copied().unwrap_or(0).max(published);
    if seen > last {
        return Ok(Err(Broken::Cut { last, seen }));
    }
    if heads.is_empty() && served.is_attested() {
        return Ok(Err(Broken::Unattested(last)));
    }
    // What was removed for its age meanwhile is missing from one side: the next look tells.
    if notes(store, indexed).await? != noted && store.audit_floor().await?.0 == floor {
        return Ok(Err(Broken::Notes(indexed)));
    }
    match published::compare(store, whole.first.saturating_sub(1), published).await? {
        Some(broken) => Ok(Err(broken)),
        None => Ok(Ok(whole)),
    }
}

/// Whether rows were removed for their age. What was attested is no older than its first checkpoint, so none of those that are gone is younger than
/// what the removal says. Who has the database's key can sign any removal: against them a copy elsewhere says that lango itself made this one, or
/// the operator's setting that rows go so early.
fn is_believed(removal: &Checkpoint, heads: &BTreeMap<i64, Vec<Checkpoint>>, copies: &[Checkpoint], keep_days: u32) -> bool {
    let gone = heads.range(..=removal.position).flat_map(|(_, said)| said);
    let is_young = |said: &Checkpoint| removal.before.is_some_and(|before| said.at >= before);
    if gone.into_iter().any(is_young) {
        return false;
    }
    let is_known = copies.iter().any(|said| said.kind == Kind::Removed && (said.position, &said.hash) == (removal.position, &removal.hash));
    let latest = removal.at.saturating_sub(i64::from(keep_days).saturating_mul(DAY));
    let fits = keep_days > 0 && removal.before.is_some_and(|before| before <= latest);
    is_known || fits || !copies.iter().any(|said| said.kind == Kind::Head && said.position <= removal.position)
}

/// The last row that may be removed because all up to it was recorded before `before`: as far as the chain is whole, and no checkpoint says
/// otherwise. Whatever a row says of its own time was in its hash from the beginning.
pub async fn removable(store: &Store, notary: &Notary, before: Micros) -> Result<Result<Option<Sealed>, Broken>, AuditError> {
    let mut heads: BTreeMap<i64, Checkpoint> = BTreeMap::new();
    for (position, kind, signed) in store.checkpoints().await?.into_iter().filter(|(_, kind, _)| kind == Kind::Head.as_str()) {
        match notary.read(&signed) {
            Some(said) if said.position == position && said.kind.as_str() == kind => drop(heads.insert(position, said)),
            _ => return Ok(Err(Broken::Forged(position))),
        }
    }
    let (mut position, mut hash) = store.audit_floor().await?;
    let mut last = None;
    loop {
        let rows = store.sealed_after(position, PAGE).await?;
        if rows.is_empty() {
            return Ok(Ok(last));
        }
        for row in rows {
            if row.position != position.saturating_add(1) {
                return Ok(Err(Broken::Missing(position.saturating_add(1))));
            }
            if row.hash != row.expected(&hash) {
                return Ok(Err(Broken::Changed(row.position)));
            }
            let said = heads.get(&row.position);
            if said.is_some_and(|said| said.hash != hex(&row.hash)) {
                return Ok(Err(Broken::Rewritten(row.position)));
            }
            // Positions follow times but for seconds, so the first row that is young ends the old ones.
            if row.at >= before || said.is_some_and(|said| said.at >= before) {
                return Ok(Ok(last));
            }
            position = row.position;
            hash.clone_from(&row.hash);
            last = Some(row);
        }
    }
}

/// Of the rows that a server recorded: how many, and when the first and the last. Commands sign nothing, whenever they come.
#[derive(Debug, Default)]
struct Served {
    rows: i64,
    first: Micros,
    last: Micros,
}

impl Served {
    fn add(&mut self, row: &Sealed) {
        if serde_json::from_str::<Event>(&row.event).is_ok_and(|event| event.agent.lango) {
            return;
        }
        self.first = if self.rows == 0 { row.at } else { self.first.min(row.at) };
        self.last = self.last.max(row.at);
        self.rows += 1;
    }

    /// Whether a server must have signed a checkpoint of them: it does twice as often as this asks for.
    fn is_attested(&self) -> bool {
        self.rows > 2 * ROWS || self.last.saturating_sub(self.first) > 2 * AGE
    }
}

/// Pairs of a Patient and a position, in whatever order: how many, and the sum of their hashes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Notes {
    count: u64,
    sum: u128,
}

impl Notes {
    fn add(&mut self, patient: ResourceKey, position: i64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&patient.to_be_bytes()).update(&position.to_be_bytes());
        let mut half = [0; 16];
        hasher.finalize_xof().fill(&mut half);
        self.count += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
    }
}

/// What is noted of the rows up to `position`.
async fn notes(store: &Store, position: i64) -> Result<Notes, AuditError> {
    let mut notes = Notes::default();
    let mut after = (ResourceKey::MIN, i64::MIN);
    loop {
        let pairs = store.about_after(after, position, 10 * PAGE).await?;
        let Some(last) = pairs.last() else { return Ok(notes) };
        after = *last;
        pairs.iter().for_each(|(patient, position)| notes.add(*patient, *position));
    }
}
