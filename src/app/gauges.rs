//! What a process knows of itself at the moment: for the operator's tools, and for work that gives way to requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks whether somebody still waits for an answer.
const LOOK: Duration = Duration::from_millis(5);

/// Cheap to clone; all clones are the same gauges.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    in_flight: AtomicI64,
    unpublished: AtomicI64,
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

    /// Events that are recorded and no AuditEvents yet, when they were last counted.
    pub fn unpublished(&self) -> i64 {
        self.0.unpublished.load(Ordering::Relaxed)
    }

    pub(super) fn set_unpublished(&self, events: i64) {
        self.0.unpublished.store(events, Ordering::Relaxed);
    }

    /// Waits until no request is being answered, but no longer than `most`.
    pub(super) async fn quiet(&self, most: Duration) {
        let begun = Instant::now();
        while self.in_flight() > 0 {
            match most.checked_sub(begun.elapsed()) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest.min(LOOK)).await,
                _ => return,
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_way_waits_for_the_last_request_but_not_for_ever() {
        let gauges = Gauges::default();
        let waits = async |most: Duration| {
            let begun = tokio::time::Instant::now();
            gauges.quiet(most).await;
            begun.elapsed()
        };
        assert!(waits(Duration::from_secs(60)).await < Duration::from_secs(50), "nobody is there");
        let requests = (gauges.request(), gauges.request());
        assert_eq!(gauges.in_flight(), 2);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(12)).await;
            drop(requests);
        });
        waits(Duration::from_secs(60)).await;
        assert_eq!(gauges.in_flight(), 0, "it waited for the last");
    }
}
