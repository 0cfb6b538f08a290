//! How often data of others may leave for one client: about one patient, and about how many patients.
//!
//! Who reads one person's record again and again watches somebody; who reads very many persons' copies the register. Both are counted where
//! the record is made, by the answers that really hold what another facility contributed, so that a facility's work on its own data is never
//! counted, and being told to wait says nothing about what is hidden. Each process counts for itself, and what it remembers is bounded.

use crate::store::ResourceKey;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In which answers about one patient are counted.
const ONE_PATIENT: Duration = Duration::from_secs(60);
/// In which patients are counted.
const MANY_PATIENTS: Duration = Duration::from_secs(3600);
/// Pairs of client and patient remembered; beyond it those whose time is over are forgotten, and if none is, all are.
const REMEMBERED: usize = 200_000;

/// Counts what leaves.
#[derive(Debug)]
pub struct Releases {
    /// Answers about one patient to one client in a minute; 0: any number.
    per_patient: u32,
    /// Patients of whom one client gets answers in an hour; 0: any number.
    patients: u32,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    pairs: HashMap<u64, Pair>,
    clients: HashMap<u64, Count>,
}

/// A client and a patient.
#[derive(Clone, Copy, Debug)]
struct Pair {
    answers: Count,
    /// When the client's hour in which this patient was counted began.
    counted: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    count: u32,
}

impl Count {
    /// Counts one more within `window`; the seconds to wait when it is more than `most`.
    fn one_more(&mut self, most: u32, window: Duration, now: Instant) -> Result<(), u64> {
        if now.saturating_duration_since(self.since) >= window {
            *self = Count { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        if most == 0 || self.count <= most {
            return Ok(());
        }
        let left = window.saturating_sub(now.saturating_duration_since(self.since));
        Err(left.as_secs().saturating_add(1))
    }
}

impl Releases {
    /// 0 of either: any number.
    pub fn new(per_patient: u32, patients: u32) -> Releases {
        Releases { per_patient, patients, seen: Mutex::default() }
    }

    /// Counts an answer to `client` that holds what others contributed about `patients`; when that is too much, the seconds to wait.
    pub fn admit(&self, client: &str, patients: &[ResourceKey]) -> Result<(), u64> {
        self.admit_at(client, patients, Instant::now())
    }

    fn admit_at(&self, client: &str, patients: &[ResourceKey], now: Instant) -> Result<(), u64> {
        if patients.is_empty() || (self.per_patient == 0 && self.patients == 0) {
            return Ok(());
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { pairs, clients } = &mut *seen;
        if pairs.len().saturating_add(patients.len()) > REMEMBERED {
            pairs.retain(|_, pair| now.saturating_duration_since(pair.answers.since) < MANY_PATIENTS);
            clients.retain(|_, hour| now.saturating_duration_since(hour.since) < MANY_PATIENTS);
            if pairs.len().saturating_add(patients.len()) > REMEMBERED {
                // The counts of patients stay, so who was counted is counted again rather than not at all.
                pairs.clear();
            }
        }
        let fresh = Count { since: now, count: 0 };
        let hour = clients.entry(number(client, 0)).or_insert(fresh);
        if now.saturating_duration_since(hour.since) >= MANY_PATIENTS {
            *hour = fresh;
        }
        let mut wait = Ok(());
        for patient in patients {
            let pair = pairs.entry(number(client, *patient)).or_insert(Pair { answers: fresh, counted: None });
            let mut admitted = pair.answers.one_more(self.per_patient, ONE_PATIENT, now);
            if pair.counted != Some(hour.since) {
                let counted = hour.one_more(self.patients, MANY_PATIENTS, now);
                // Whom the client was refused is no patient of its hour.
                pair.counted = counted.is_ok().then_some(hour.since);
                admitted = admitted.and(counted);
            }
            wait = wait.and(admitted);
        }
        wait
    }
}

fn number(client: &str, patient: ResourceKey) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&patient.to_be_bytes()).update(client.as_bytes());
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_patient_again_and_again_is_too_much_for_one_client_and_a_minute_later_it_is_not() {
        let releases = Releases::new(3, 0);
        let start = Instant::now();
        assert!((0..3).all(|_| releases.admit_at("emr", &[7], start).is_ok()));
        assert!(releases.admit_at("emr", &[8, 7], start).is_err_and(|seconds| (60..=61).contains(&seconds)));
        assert_eq!(releases.admit_at("emr", &[8], start), Ok(()));
        assert_eq!(releases.admit_at("other", &[7], start), Ok(()));
        assert_eq!(releases.admit_at("emr", &[], start), Ok(()));
        assert_eq!(releases.admit_at("emr", &[7], start + ONE_PATIENT), Ok(()));
    }

    #[test]
    fn very_many_patients_are_too_much_for_an_hour_and_those_seen_before_are_not() {
        let releases = Releases::new(0, 100);
        let start = Instant::now();
        assert_eq!(releases.admit_at("emr", &(1..=100).collect::<Vec<_>>(), start), Ok(()));
        assert!(releases.admit_at("emr", &[101], start).is_err_and(|seconds| (3600..=3601).contains(&seconds)));
        assert_eq!(releases.admit_at("emr", &[1, 50, 100], start), Ok(()));
        assert_eq!(releases.admit_at("other", &[101], start), Ok(()));
        assert_eq!(releases.admit_at("emr", &[101], start + MANY_PATIENTS), Ok(()));
        assert_eq!(releases.admit_at("emr", &(1..=99).collect::<Vec<_>>(), start + MANY_PATIENTS), Ok(()));
        assert!(releases.admit_at("emr", &[102], start + MANY_PATIENTS).is_err(), "the hour before does not count for this one");
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_counted_again() {
        let releases = Releases::new(0, u32::MAX);
        let now = Instant::now();
        for start in 0..5 {
            let patients: Vec<ResourceKey> = (start * 100_000..(start + 1) * 100_000).collect();
            let _ = releases.admit_at("emr", &patients, now);
        }
        let seen = releases.seen.lock().unwrap();
        assert!(seen.pairs.len() <= REMEMBERED);
        assert_eq!(seen.clients.values().map(|hour| hour.count).max(), Some(500_000));
    }
}
