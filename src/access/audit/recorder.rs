//! Gathers what concurrent requests have to record into one commit.
//!
//! An answer waits for the commit that its events are in. Whatever comes while one is on its way goes with the next, so under load
//! many answers share one `fsync`, and a single one waits for no company.

use super::AuditError;
use crate::store::{AuditRow, Store, Unit, WriteError};
use tokio::sync::{mpsc, oneshot};

/// Answers that may wait for a place; beyond it they wait to join.
const QUEUE: usize = 1024;
/// Answers of one commit.
const GROUP: usize = 512;
/// Tries of a group that met a group of the writer's that failed.
const TRIES: u32 = 4;

/// The way to the task that records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    rows: Vec<AuditRow>,
    done: oneshot::Sender<bool>,
}

impl Recorder {
    pub fn new(store: Store) -> Recorder {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(store, waiting));
        Recorder { queue }
    }

    /// Answers when the rows are durable.
    pub async fn record(&self, rows: Vec<AuditRow>) -> Result<(), AuditError> {
        if rows.is_empty() {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        self.queue.send(Waiting { rows, done }).await.map_err(|_| AuditError::Closed)?;
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(AuditError::Closed),
        }
    }
}

async fn run(store: Store, mut waiting: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let (rows, done): (Vec<_>, Vec<_>) = group.drain(..).map(|waiting| (waiting.rows, waiting.done)).unzip();
        let written = commit(&store, rows.into_iter().flatten().collect()).await;
        if let Err(error) = &written {
            tracing::error!(%error, answers = done.len(), "the audit could not be written; the answers are withheld");
        }
        for done in done {
            // A caller that went away misses nothing.
            let _ = done.send(written.is_ok());
        }
    }
}

async fn commit(store: &Store, rows: Vec<AuditRow>) -> Result<(), WriteError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match store.commit(Unit::of_audit(rows.clone())).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Stale) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}
