//! How often may be asked: a bound for each client, and one for each client about each person.
//!
//! A window of a minute begins with its first question; each process counts for itself. A person is counted by the name that was
//! asked for, not by who was found, so that the bound tells nothing of who is known by several names. Nothing is counted for several
//! clients together: whoever meets such a bound learns that others ask, and whoever uses it up locks them out.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Names counted at a time; beyond it those whose minute is over are forgotten, and if none is, all are.
const REMEMBERED: usize = 50_000;

/// Counts questions.
#[derive(Debug, Default)]
pub struct Pace {
    counts: Mutex<HashMap<blake3::Hash, (Instant, u32)>>,
}

impl Pace {
    /// Counts a question by `client` about `person`; `false` when it has had all of its minute's, or all about that person.
    pub fn allows(&self, client: &str, most_by_client: u32, person: &str, most_about_person: u32) -> bool {
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let by_client = count(&mut counts, name("client", client), now) <= most_by_client;
        by_client && count(&mut counts, name("person", &format!("{client}\n{person}")), now) <= most_about_person
    }
}

fn name(kind: &str, name: &str) -> blake3::Hash {
    blake3::hash(format!("{kind} {name}").as_bytes())
}

fn count<K: Hash + Eq>(counts: &mut HashMap<K, (Instant, u32)>, name: K, now: Instant) -> u32 {
    let over = |since: Instant| now.duration_since(since) >= WINDOW;
    if counts.len() >= REMEMBERED {
        counts.retain(|_, (since, _)| !over(*since));
        if counts.len() >= REMEMBERED {
            counts.clear();
        }
    }
    let (since, asked) = counts.entry(name).or_insert((now, 0));
    if over(*since) {
        (*since, *asked) = (now, 0);
    }
    *asked = asked.saturating_add(1);
    *asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_bound_and_one_for_each_person_and_none_feels_anothers() {
        let pace = Pace::default();
        assert!((0..3).all(|n| pace.allows("emr", 3, &format!("person {n}"), 2)));
        assert!(!pace.allows("emr", 3, "person 9", 2), "the client has asked three times");
        assert!(pace.allows("other", 3, "person 0", 2) && pace.allows("other", 3, "person 0", 2));
        assert!(!pace.allows("other", 3, "person 0", 2), "it asked about the person twice");
        assert!(pace.allows("third", 3, "person 0", 2), "what others ask does not count");
    }

    #[test]
    fn a_minute_later_it_begins_anew() {
        let mut counts = HashMap::new();
        let start = Instant::now();
        assert_eq!([count(&mut counts, "a", start), count(&mut counts, "a", start + WINDOW / 2)], [1, 2]);
        assert_eq!(count(&mut counts, "a", start + WINDOW), 1);
    }
}
