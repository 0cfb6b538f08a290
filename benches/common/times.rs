//! How long answers took.

use std::fmt;
use std::time::Duration;

/// A share of sorted times, in milliseconds.
pub fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Percentiles {
    pub fn of(times: &mut [Duration]) -> Percentiles {
        times.sort_unstable();
        Percentiles { p50: at(times, 0.5), p95: at(times, 0.95), p99: at(times, 0.99) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", self.p50, self.p95, self.p99)
    }
}

/// The load average of the last minute: how crowded the machine is.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}
