//! How long to wait before the next try.

use std::time::Duration;

/// Exponential backoff with jitter: the wait doubles with every try up to `cap`, and a random half of it is taken off, so that
/// what failed together does not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first try, before jitter.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: Duration::from_secs(4), cap: Duration::from_secs(15 * 60) }
    }
}

impl Backoff {
    /// The wait after try number `attempt` (the first is 1). `random` is in `0.0..1.0`. What the other side `asked` for is
    /// respected up to a day.
    pub fn delay(&self, attempt: i64, random: f64, asked: Option<Duration>) -> Duration {
        let doublings = u32::try_from(attempt.saturating_sub(1).clamp(0, 30)).unwrap_or(30);
        let whole = self.base.saturating_mul(1u32 << doublings).min(self.cap);
        let jittered = whole.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
        let day = Duration::from_secs(24 * 60 * 60);
        jittered.max(asked.unwrap_or_default().min(day))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_jitter_takes_at_most_half() {
        let backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(60) };
        for (attempt, whole) in [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (1000, 60), (i64::MAX, 60)] {
            let whole = Duration::from_secs(whole);
            assert_eq!(backoff.delay(attempt, 1.0, None), whole);
            assert_eq!(backoff.delay(attempt, 0.0, None), whole / 2);
        }
        assert_eq!(backoff.delay(i64::MIN, 1.0, None), Duration::from_secs(2));
    }

    #[test]
    fn what_the_other_side_asks_is_a_lower_bound_within_a_day() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 0.5, Some(Duration::from_secs(120))), Duration::from_secs(120));
        assert_eq!(backoff.delay(1, 1.0, Some(Duration::ZERO)), Duration::from_secs(4));
        assert_eq!(backoff.delay(1, 1.0, Some(Duration::MAX)), Duration::from_secs(86_400));
    }
}
