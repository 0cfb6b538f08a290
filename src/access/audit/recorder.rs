//! Records what requests have to tell, those that come at the same time in one commit.
//!
//! An answer waits for the commit that its events are in. Whatever comes while one is on its way goes with the next, so under load
//! many answers share one `fsync`, and a single one waits for no company. SQLite's writer gathers them as it does all that is written; for PostgreSQL
//! a task of this room does. The commit also holds what the answers were decided on against what
//! was closed since ([`crate::store::closing`]); when that fails for a group, each of it is tried alone.

use super::AuditError;
use crate::store::closing::Basis;
use crate::store::{AuditRow, Store, Unit, WriteError};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

/// Answers that may wait for a place; beyond it they wait to join.
const QUEUE: usize = 1024;
/// Answers of one commit.
const GROUP: usize = 512;
/// Tries of a group that met a group of the writer's that failed.
const TRIES: u32 = 4;

/// The way to what records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Way);

#[derive(Clone, Debug)]
enum Way {
    /// The store gathers.
    Store(Store),
    /// To the task that gathers.
    Queue(mpsc::Sender<Waiting>),
}

#[derive(Debug)]
struct Waiting {
    rows: Vec<AuditRow>,
    basis: Option<Basis>,
    done: oneshot::Sender<Result<(), AuditError>>,
}

impl Recorder {
    pub fn new(store: Store) -> Recorder {
        if let Store::Sqlite(_) = store {
            return Recorder(Way::Store(store));
        }
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(store, waiting));
        Recorder(Way::Queue(queue))
    }

    /// Answers when the rows are durable. `basis`: what the answer was decided on that they release; when that does not hold any more, nothing is
    /// recorded and it is [`AuditError::Outdated`].
    pub async fn record(&self, rows: Vec<AuditRow>, basis: Option<Basis>) -> Result<(), AuditError> {
        if rows.is_empty() && basis.is_none() {
            return Ok(());
        }
        match &self.0 {
            Way::Store(store) => told(&commit(store, rows, basis.into_iter().collect()).await),
            Way::Queue(queue) => {
                let (done, answer) = oneshot::channel();
                queue.send(Waiting { rows, basis, done }).await.map_err(|_| AuditError::Closed)?;
                answer.await.map_err(|_| AuditError::Closed)?
            }
        }
    }
}

async fn run(store: Store, mut waiting: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let rows = group.iter().flat_map(|waiting| waiting.rows.iter().cloned()).collect();
        let bases: Vec<Basis> = group.iter().filter_map(|waiting| waiting.basis.clone()).collect();
        let is_alone = group.len() == 1;
        let written = commit(&store, rows, bases).await;
        match written {
            Err(WriteError::Stale) if !is_alone => {
                let alone = group.drain(..).map(async |waiting| {
                    let written = commit(&store, waiting.rows, waiting.basis.into_iter().collect()).await;
                    // A caller that went away misses nothing.
                    let _ = waiting.done.send(told(&written));
                });
                join_all(alone).await;
            }
            written => group.drain(..).for_each(|waiting| {
                let _ = waiting.done.send(told(&written));
            }),
        }
    }
}

fn told(written: &Result<(), WriteError>) -> Result<(), AuditError> {
    match written {
        Ok(()) => Ok(()),
        Err(WriteError::Stale) => Err(AuditError::Outdated),
        Err(error) => {
            tracing::error!(%error, "the audit could not be written; an answer is withheld");
            Err(AuditError::Closed)
        }
    }
}

async fn commit(store: &Store, rows: Vec<AuditRow>, bases: Vec<Basis>) -> Result<(), WriteError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match store.commit(Unit::of_audit(rows.clone(), bases.clone())).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Stale) if tries < TRIES && bases.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
}
