//! What a process knows of itself at the moment: for the operator's tools, and for work that gives way to requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks whether somebody still asks.
const LOOK: Duration = Duration::from_millis(5);
/// Nobody asks when the last answer left so long ago: who asks one question after the other still does.
const SILENCE: Duration = Duration::from_millis(25);

/// Cheap to clone; all clones are the same gauges.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Values>);

#[derive(Debug)]
struct Values {
    start: Instant,
    in_flight: AtomicI64,
    /// When the last request was answered, in microseconds since `start`.
    last: AtomicU64,
    unpublished: AtomicI64,
}

impl Default for Values {
    fn default() -> Values {
        Values { start: Instant::now(), in_flight: AtomicI64::new(0), last: AtomicU64::new(0), unpublished: AtomicI64::new(0) }
    }
}

impl Values {
    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub struct Request(Gauges);

impl Gauges {
    /// Counts a request as being answered.
    pub fn request(&self) -> Request {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Request(self.clone())
    }

    /// Requests being answered.
    pub fn in_flight(&self) -> i64 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Whether nobody asks at the moment.
    fn is_quiet(&self) -> bool {
        let silence = self.0.micros().saturating_sub(self.0.last.load(Ordering::Relaxed));
        self.in_flight() <= 0 && u128::from(silence) >= SILENCE.as_micros()
    }

    /// Events that are recorded and no AuditEvents yet, when they were last counted.
    pub fn unpublished(&self) -> i64 {
        self.0.unpublished.load(Ordering::Relaxed)
    }

    pub(super) fn set_unpublished(&self, events: i64) {
        self.0.unpublished.store(events, Ordering::Relaxed);
    }

    /// Waits until nobody asks, but no longer than `most`.
    pub(super) async fn quiet(&self, most: Duration) {
        let begun = Instant::now();
        while !self.is_quiet() {
            match most.checked_sub(begun.elapsed()) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest.min(LOOK)).await,
                _ => return,
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let values = &self.0.0;
        values.last.store(values.micros(), Ordering::Relaxed);
        values.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_way_waits_until_nobody_asks_but_not_for_ever() {
        let gauges = Gauges::default();
        let (one, other) = (gauges.request(), gauges.request());
        assert_eq!(gauges.in_flight(), 2);
        let begun = Instant::now();
        gauges.quiet(Duration::from_millis(40)).await;
        assert!(begun.elapsed() >= Duration::from_millis(40), "both are still being answered");
        drop((one, other));
        assert_eq!(gauges.in_flight(), 0);
        let answered = gauges.0.last.load(Ordering::Relaxed);
        gauges.quiet(Duration::from_secs(3_600)).await;
        let silence = gauges.0.micros() - answered;
        assert!(u128::from(silence) >= SILENCE.as_micros(), "the next question of the same may be on its way");
        assert!(gauges.is_quiet());
    }
}
