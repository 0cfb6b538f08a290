//! The outbox: durable jobs, tried until they are done or dead.
//!
//! Jobs come in by the transaction that causes them ([`crate::store::Unit::jobs`]), so a job exists exactly when its cause
//! was stored. This room claims due jobs of the kinds it has handlers for, runs a bounded number at once, and tells the store
//! how each try ended: done, to be retried later, or dead and kept for the operator. A claim is a lease with a fencing token:
//! a process that dies is followed by another when the lease ends, and a late word from the first changes nothing. So a job
//! runs at least once, and what it does must bear being done twice.
//!
//! The outbox must never know what a job means: that is its handler's concern. A handler says [`Outcome::Retry`] only for what
//! may go better by itself; an answer that was understood is never asked for again.

mod backoff;
mod runner;

pub use backoff::Backoff;
pub use runner::{JobStore, Outbox, Pulse, Settings};

use serde_json::Value;
use std::time::Duration;

/// How a handler's try ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing more to do; `result` is kept with the job.
    Done(Value),
    /// It may go better later. `after` is how long the other side asked to be left alone; the outbox waits at least so long.
    Retry { error: String, after: Option<Duration> },
    /// It will not go better by itself. The operator sees `error` and `result`, and can make the job due again.
    Dead { error: String, result: Value },
}

impl Outcome {
    pub fn retry(error: impl Into<String>) -> Outcome {
        Outcome::Retry { error: error.into(), after: None }
    }

    pub fn dead(error: impl Into<String>) -> Outcome {
        Outcome::Dead { error: error.into(), result: Value::Null }
    }
}
