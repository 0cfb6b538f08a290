//! Whether the chain is whole.

use super::checkpoint::{Checkpoint, Kind, Notary, hex};
use super::{AuditError, patients, published};
use crate::store::audit::GENESIS;
use crate::store::{ResourceKey, Store};
use std::collections::BTreeMap;

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
    #[error("the checkpoint of row {0} is not signed by a key of this database")]
    Forged(i64),
    #[error("line {0} of the file of checkpoints is not signed by a key of this database")]
    ForgedLine(usize),
}

/// Walks the chain and holds it against its checkpoints, those of `elsewhere` (signed texts, a line each) too, and the AuditEvents made of it against it.
pub async fn verify(store: &Store, notary: &Notary, elsewhere: &str) -> Result<Result<Whole, Broken>, AuditError> {
    // Before the rows, so that what is sealed meanwhile does not look cut off.
    let kept = store.checkpoints().await?;
    let published = store.published().await?;
    let (indexed, floor) = (store.indexed().await?, store.audit_floor().await?);
    let mut noted = Notes::default();
    let mut heads: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let mut removed: BTreeMap<i64, String> = BTreeMap::new();
    let mut take = |said: Checkpoint| match said.kind {
        Kind::Head => heads.entry(said.position).or_default().push(said.hash),
        Kind::Removed => drop(removed.insert(said.position, said.hash)),
    };
    for (position, kind, signed) in kept {
        match notary.read(&signed) {
            Some(said) if said.position == position && said.kind.as_str() == kind => take(said),
            _ => return Ok(Err(Broken::Forged(position))),
        }
    }
    for (line, signed) in elsewhere.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        match notary.read(signed) {
            // That rows were removed is for the database itself to show: an old file must not excuse it.
            Some(said) if said.kind == Kind::Head => take(said),
            Some(_) => {}
            None => return Ok(Err(Broken::ForgedLine(line + 1))),
        }
    }
    let mut whole = Whole { rows: 0, first: 0, last: 0, checkpoints: 0 };
    let mut before = GENESIS.to_vec();
    loop {
        let rows = store.sealed_after(whole.last, PAGE).await?;
        let Some(first) = rows.first() else { break };
        if whole.rows == 0 && first.position > 1 {
            let floor = first.position - 1;
            match removed.get(&floor) {
                Some(hash) => {
                    before = unhex(hash);
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
                if said.iter().any(|hash| *hash != own) {
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
            whole.rows += 1;
            whole.last = row.position;
            before.clone_from(&row.hash);
        }
    }
    let last = whole.last.max(removed.keys().next_back().copied().unwrap_or(0));
    let seen = heads.keys().next_back().copied().unwrap_or(0).max(published);
    if seen > last {
        return Ok(Err(Broken::Cut { last, seen }));
    }
    // What was removed for its age meanwhile is missing from one side: the next look tells.
    if notes(store, indexed).await? != noted && store.audit_floor().await? == floor {
        return Ok(Err(Broken::Notes(indexed)));
    }
    match published::compare(store, whole.first.saturating_sub(1), published).await? {
        Some(broken) => Ok(Err(broken)),
        None => Ok(Ok(whole)),
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

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
    digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}
