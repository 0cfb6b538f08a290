//! Destinations: systems that lango pushes to.
//!
//! A destination is named in `lango.toml` under `[[destinations]]` ([`crate::config::Destination`]). In come what other rooms
//! made (a MeasureReport for [`dhis2`]), out go requests to a foreign system and its verdict, in words that an operator can act
//! on. A delivery is a job in [`crate::outbox`]; a destination says for every try whether it is done, may go better later, or
//! needs a person.
//!
//! A destination must never know how a number was counted or a resource was stored, and it must never put a secret or patient
//! data into an error, a log or a job's result.

pub mod dhis2;
pub mod hook;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::Duration;

/// `Retry-After` in seconds or as an HTTP date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let when = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    when.duration_since(jiff::Timestamp::now()).try_into().ok()
}
