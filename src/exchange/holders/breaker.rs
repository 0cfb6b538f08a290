//! A circuit breaker: whoever failed several times in a row is left alone for a while, and then asked once to see.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts the failures of one holder; each process for itself.
#[derive(Debug)]
pub struct Breaker {
    failures: u32,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// Nobody asks before.
    until: Option<Instant>,
}

impl Breaker {
    pub fn new(failures: u32, rest: Duration) -> Breaker {
        Breaker { failures, rest, state: Mutex::default() }
    }

    /// Whether it may be asked now. After a rest one may try; others wait for what becomes of it, or for another rest.
    pub fn admits(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until {
            Some(until) if now < until => false,
            Some(_) => {
                state.until = now.checked_add(self.rest);
                true
            }
            None => true,
        }
    }

    pub fn succeeded(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    pub fn failed(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_a_row = state.in_a_row.saturating_add(1);
        if state.in_a_row >= self.failures {
            state.until = now.checked_add(self.rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try_after_each_rest() {
        let rest = Duration::from_secs(30);
        let breaker = Breaker::new(2, rest);
        let start = Instant::now();
        breaker.failed(start);
        breaker.succeeded();
        breaker.failed(start);
        assert!(breaker.admits(start), "not in a row");
        breaker.failed(start);
        assert!(!breaker.admits(start) && !breaker.admits(start + rest / 2));
        assert!(breaker.admits(start + rest), "one tries");
        assert!(!breaker.admits(start + rest), "and only one");
        breaker.failed(start + rest);
        assert!(!breaker.admits(start + rest + rest / 2));
        // One that tried and was never heard of again does not close it for ever.
        assert!(breaker.admits(start + rest * 2) && breaker.admits(start + rest * 3));
        breaker.succeeded();
        assert!(breaker.admits(start) && breaker.admits(start));
    }
}
