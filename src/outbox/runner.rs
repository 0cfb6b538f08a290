//! The loop that claims, runs and ends jobs.

use super::{Backoff, Outcome};
use crate::fhir::time;
use crate::store::{ClaimedJob, JobEnd, Store};
use futures_util::FutureExt;
use serde_json::Value;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the outbox needs of a store.
pub trait JobStore: Clone + Send + Sync + 'static {
    type Error: std::fmt::Display + Send;
    fn claim(&self, kinds: &[&str], limit: u32, lease: Duration) -> impl Future<Output = Result<Vec<ClaimedJob>, Self::Error>> + Send;
    fn end(&self, id: i64, token: i64, end: JobEnd) -> impl Future<Output = Result<bool, Self::Error>> + Send;
    /// Holds a running job for another `lease`; `false` when it is lost.
    fn renew(&self, id: i64, token: i64, lease: Duration) -> impl Future<Output = Result<bool, Self::Error>> + Send;
    fn enqueued(&self) -> impl Future<Output = ()> + Send;
}

impl JobStore for Store {
    type Error = sqlx::Error;

    async fn claim(&self, kinds: &[&str], limit: u32, lease: Duration) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        self.claim_jobs(kinds, limit, lease).await
    }

    async fn end(&self, id: i64, token: i64, end: JobEnd) -> Result<bool, sqlx::Error> {
        self.end_job(id, token, end).await
    }

    async fn renew(&self, id: i64, token: i64, lease: Duration) -> Result<bool, sqlx::Error> {
        self.renew_job(id, token, lease).await
    }

    async fn enqueued(&self) {
        self.job_enqueued().await
    }
}

/// How the outbox behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Jobs that run at once in this process.
    pub concurrency: u32,
    /// How long a claim holds without a word. A running job's is renewed every third of it, so that a job of a process that died is taken
    /// up soon, and a slow one is not run twice.
    pub lease: Duration,
    /// A handler that takes longer is stopped and its job retried.
    pub handler_timeout: Duration,
    /// How often to look for jobs that became due or that another process enqueued.
    pub poll: Duration,
    /// After this many tries a job is dead.
    pub max_attempts: i64,
    pub backoff: Backoff,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            concurrency: 4,
            lease: Duration::from_secs(12),
            handler_timeout: Duration::from_secs(100),
            poll: Duration::from_secs(3),
            max_attempts: 20,
            backoff: Backoff::default(),
        }
    }
}

/// When an outbox last looked for work, shared with whoever watches it.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicI64>);

impl Default for Pulse {
    fn default() -> Self {
        Pulse(Arc::new(AtomicI64::new(time::now())))
    }
}

impl Pulse {
    /// How long it has been silent: since its last look, or since it was made.
    pub fn silence(&self) -> Duration {
        Duration::from_micros(u64::try_from(time::now().saturating_sub(self.0.load(Ordering::Relaxed))).unwrap_or(0))
    }

    fn beat(&self) {
        self.0.store(time::now(), Ordering::Relaxed);
    }
}

type Handler = Arc<dyn Fn(ClaimedJob) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// Runs the jobs of the kinds that handlers are registered for; jobs of other kinds stay where they are.
pub struct Outbox<S: JobStore = Store> {
    store: S,
    handlers: HashMap<&'static str, Handler>,
    settings: Settings,
    pulse: Pulse,
}

impl<S: JobStore> Outbox<S> {
    pub fn new(store: S) -> Self {
        Outbox { store, handlers: HashMap::new(), settings: Settings::default(), pulse: Pulse::default() }
    }

    /// Tells `pulse` of every look for work.
    pub fn with_pulse(mut self, pulse: Pulse) -> Self {
        self.pulse = pulse;
        self
    }

    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Gives jobs of `kind` to `handler`. A handler may run twice for one job, and is dropped when its time is over.
    pub fn register<F, R>(mut self, kind: &'static str, handler: F) -> Self
    where
        F: Fn(ClaimedJob) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.handlers.insert(kind, Arc::new(move |job| Box::pin(handler(job))));
        self
    }

    /// Works until `shutdown`; then claims nothing more, lets what runs come to its end, and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let kinds: Vec<&str> = self.handlers.keys().copied().collect();
        let mut running = JoinSet::new();
        while !shutdown.is_cancelled() {
            let wanted = self.settings.concurrency.saturating_sub(u32::try_from(running.len()).unwrap_or(u32::MAX));
            let mut claimed = 0;
            if wanted > 0 && !kinds.is_empty() {
                match self.store.claim(&kinds, wanted, self.settings.lease).await {
                    Ok(jobs) => {
                        self.pulse.beat();
                        claimed = jobs.len();
                        for job in jobs {
                            self.start(job, &mut running);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the outbox could not claim jobs"),
                }
            }
            if wanted == 0 {
                self.pulse.beat();
            }
            if claimed > 0 && running.len() < self.settings.concurrency as usize {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.store.enqueued(), if wanted > 0 => {}
                Some(_) = running.join_next() => {}
                () = tokio::time::sleep(self.settings.poll) => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn start(&self, job: ClaimedJob, running: &mut JoinSet<()>) {
        let Some(handler) = self.handlers.get(job.kind.as_str()).cloned() else { return };
        let (store, settings) = (self.store.clone(), self.settings);
        running.spawn(async move {
            let (id, token, attempt, kind) = (job.id, job.token, job.attempt, job.kind.clone());
            let outcome = if attempt > settings.max_attempts {
                // Tries that ended with the process are known only by their number.
                Outcome::dead("every try ended without a word; the last may have stopped the process")
            } else {
                let handled = AssertUnwindSafe(async move { handler(job).await }).catch_unwind();
                let limited = tokio::time::timeout(settings.handler_timeout, handled);
                let ended = tokio::select! {
                    ended = limited => ended,
                    // Another process has the job; what this one would say of it counts no more.
                    () = lost(&store, id, token, settings.lease) => {
                        return tracing::warn!(job = id, kind, "the lease was lost; another process has the job");
                    }
                };
                match ended {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) => Outcome::retry("the handler failed by an error in the program"),
                    Err(_) => Outcome::retry("the handler took too long"),
                }
            };
            let end = settings.end_of(attempt, outcome);
            match &end {
                JobEnd::Done { .. } => tracing::info!(job = id, kind, attempt, "job done"),
                JobEnd::Retry { error, .. } => tracing::warn!(job = id, kind, attempt, error, "job will be tried again"),
                JobEnd::Dead { error, .. } => tracing::error!(job = id, kind, attempt, error, "job is dead"),
            }
            finish(&store, id, token, end).await;
        });
    }
}

impl Settings {
    fn end_of(&self, attempt: i64, outcome: Outcome) -> JobEnd {
        match outcome {
            Outcome::Done(result) => JobEnd::Done { result },
            Outcome::Dead { error, result } => JobEnd::Dead { error, result },
            Outcome::Retry { error, .. } if attempt >= self.max_attempts => {
                JobEnd::Dead { error: format!("given up after {attempt} tries: {error}"), result: Value::Null }
            }
            Outcome::Retry { error, after } => {
                let delay = self.backoff.delay(attempt, rand::random(), after);
                let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
                JobEnd::Retry { run_at: time::now().saturating_add(micros), error }
            }
        }
    }
}

/// Renews a job's lease for as long as this is polled; ends when the lease is lost. A database that is away for a moment is asked again.
async fn lost<S: JobStore>(store: &S, id: i64, token: i64, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 3).await;
        match store.renew(id, token, lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(job = id, %error, "a lease could not be renewed"),
        }
    }
}

/// Tells the store; a database that is away for a moment is asked again, since otherwise the whole job would be done again.
async fn finish<S: JobStore>(store: &S, id: i64, token: i64, end: JobEnd) {
    for wait in [100, 1_000, 5_000, 0] {
        match store.end(id, token, end.clone()).await {
            Ok(true) => return,
            Ok(false) => return tracing::warn!(job = id, "the lease was lost; another process has the job"),
            Err(error) => tracing::warn!(job = id, %error, "the end of a job could not be stored"),
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use tokio::sync::Notify;

    #[derive(Clone, Default)]
    struct Memory(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        waiting: Mutex<VecDeque<ClaimedJob>>,
        ended: Mutex<Vec<(i64, JobEnd)>>,
        /// How many words on a job's end the database refuses.
        failing: AtomicUsize,
        renewed: AtomicUsize,
        /// Whether another process has taken the jobs.
        taken: AtomicBool,
        wake: Notify,
        ended_wake: Notify,
    }

    impl Memory {
        fn put(&self, id: i64, kind: &str, attempt: i64) {
            let job = ClaimedJob { id, kind: kind.into(), payload: json!({"v": 1}), attempt, token: id * 10 };
            self.0.waiting.lock().unwrap().push_back(job);
            self.0.wake.notify_one();
        }

        async fn ended(&self, count: usize) -> Vec<(i64, JobEnd)> {
            loop {
                let wake = self.0.ended_wake.notified();
                let ended = self.0.ended.lock().unwrap().clone();
                if ended.len() >= count {
                    return ended;
                }
                wake.await;
            }
        }
    }

    impl JobStore for Memory {
        type Error = String;

        async fn claim(&self, kinds: &[&str], limit: u32, _: Duration) -> Result<Vec<ClaimedJob>, String> {
            let mut waiting = self.0.waiting.lock().unwrap();
            let (mut taken, mut left) = (Vec::new(), VecDeque::new());
            for job in waiting.drain(..) {
                match taken.len() < limit as usize && kinds.contains(&job.kind.as_str()) {
                    true => taken.push(job),
                    false => left.push_back(job),
                }
            }
            *waiting = left;
            Ok(taken)
        }

        async fn end(&self, id: i64, token: i64, end: JobEnd) -> Result<bool, String> {
            assert_eq!(token, id * 10, "every word on a job carries its token");
            if self.0.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Err("away".into());
            }
            self.0.ended.lock().unwrap().push((id, end));
            self.0.ended_wake.notify_one();
            Ok(true)
        }

        async fn renew(&self, id: i64, token: i64, _: Duration) -> Result<bool, String> {
            assert_eq!(token, id * 10, "every word on a job carries its token");
            self.0.renewed.fetch_add(1, Ordering::SeqCst);
            Ok(!self.0.taken.load(Ordering::SeqCst))
        }

        async fn enqueued(&self) {
            self.0.wake.notified().await
        }
    }

    fn outbox(store: &Memory) -> Outbox<Memory> {
        let settings = Settings { poll: Duration::from_secs(3600), handler_timeout: Duration::from_millis(300), ..Settings::default() };
        Outbox::new(store.clone()).with_settings(settings)
    }

    #[tokio::test]
    async fn each_outcome_ends_the_job_in_its_own_way() {
        let store = Memory::default();
        let shutdown = CancellationToken::new();
        let outbox = outbox(&store)
            .register("good", |_| async { Outcome::Done(json!("ok")) })
            .register("bad", |_| async { Outcome::Dead { error: "refused".into(), result: json!({"conflicts": 1}) } })
            .register("busy", |_| async { Outcome::Retry { error: "503".into(), after: Some(Duration::from_secs(600)) } });
        let task = tokio::spawn(outbox.run(shutdown.clone()));
        let before = time::now();
        for (id, kind, attempt) in [(1, "good", 1), (2, "bad", 1), (3, "busy", 1), (4, "busy", 20), (5, "good", 21), (6, "unknown", 1)] {
            store.put(id, kind, attempt);
        }
        let mut ended = store.ended(5).await;
        ended.sort_by_key(|(id, _)| *id);
        assert!(matches!(&ended[0].1, JobEnd::Done { result } if result == "ok"));
        assert!(matches!(&ended[1].1, JobEnd::Dead { error, result } if error == "refused" && result["conflicts"] == 1));
        assert!(matches!(&ended[2].1, JobEnd::Retry { run_at, .. } if *run_at >= before + 600_000_000));
        assert!(matches!(&ended[3].1, JobEnd::Dead { error, .. } if error.contains("20 tries")));
        assert!(matches!(&ended[4].1, JobEnd::Dead { .. }), "a job that never came to an end is not tried for ever");
        shutdown.cancel();
        task.await.unwrap();
        assert_eq!(store.0.waiting.lock().unwrap().len(), 1, "a kind without a handler stays");
    }

    #[tokio::test]
    async fn a_handler_that_hangs_or_panics_is_retried() {
        let store = Memory::default();
        let shutdown = CancellationToken::new();
        let outbox = outbox(&store).register("hang", |_| std::future::pending()).register("panic", |job| async move {
            assert!(job.id < 0, "on purpose");
            Outcome::Done(Value::Null)
        });
        let task = tokio::spawn(outbox.run(shutdown.clone()));
        store.put(1, "hang", 1);
        store.put(2, "panic", 1);
        let ended = store.ended(2).await;
        assert!(ended.iter().all(|(_, end)| matches!(end, JobEnd::Retry { .. })), "{ended:?}");
        shutdown.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_job_keeps_its_lease_and_one_that_was_taken_is_let_go() {
        let store = Memory::default();
        let shutdown = CancellationToken::new();
        let settings = Settings { lease: Duration::from_millis(15), handler_timeout: Duration::from_secs(30), ..Settings::default() };
        let (waiting, letting_go) = (store.clone(), Arc::new(AtomicBool::new(false)));
        let dropped = letting_go.clone();
        struct Told(Arc<AtomicBool>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let outbox = Outbox::new(store.clone()).with_settings(settings);
        let outbox = outbox.register("slow", move |job| {
            let (store, told) = (waiting.clone(), Told(dropped.clone()));
            async move {
                let _told = (job.id == 2).then_some(told);
                while store.0.renewed.load(Ordering::SeqCst) < 3 || job.id == 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Outcome::Done(Value::Null)
            }
        });
        let task = tokio::spawn(outbox.run(shutdown.clone()));
        store.put(1, "slow", 1);
        assert!(matches!(store.ended(1).await[0], (1, JobEnd::Done { .. })));
        store.0.taken.store(true, Ordering::SeqCst);
        letting_go.store(false, Ordering::SeqCst);
        store.put(2, "slow", 1);
        while !letting_go.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        shutdown.cancel();
        task.await.unwrap();
        assert_eq!(store.0.ended.lock().unwrap().len(), 1, "whoever lost a job says nothing of it");
    }

    #[tokio::test]
    async fn no_more_than_the_bound_run_at_once_and_all_get_their_turn() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let store = Memory::default();
        let shutdown = CancellationToken::new();
        let outbox = outbox(&store).register("slow", |_| async {
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            NOW.fetch_sub(1, Ordering::SeqCst);
            Outcome::Done(Value::Null)
        });
        for id in 1..=30 {
            store.put(id, "slow", 1);
        }
        let task = tokio::spawn(outbox.run(shutdown.clone()));
        store.ended(30).await;
        assert_eq!(MOST.load(Ordering::SeqCst), 4);
        shutdown.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_lets_running_jobs_come_to_their_end() {
        let store = Memory::default();
        let shutdown = CancellationToken::new();
        let started = Arc::new(Notify::new());
        let (signal, stop) = (started.clone(), shutdown.clone());
        let outbox = outbox(&store).register("slow", move |_| {
            signal.notify_one();
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Outcome::Done(Value::Null)
            }
        });
        let task = tokio::spawn(outbox.run(shutdown));
        store.put(1, "slow", 1);
        started.notified().await;
        stop.cancel();
        store.put(2, "slow", 1);
        task.await.unwrap();
        assert_eq!(store.ended(1).await.len(), 1);
    }

    #[tokio::test]
    async fn the_end_of_a_job_is_told_again_when_the_database_was_away() {
        let store = Memory::default();
        store.0.failing.store(2, Ordering::SeqCst);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(outbox(&store).register("good", |_| async { Outcome::Done(Value::Null) }).run(shutdown.clone()));
        store.put(1, "good", 1);
        assert_eq!(store.ended(1).await.len(), 1);
        shutdown.cancel();
        task.await.unwrap();
    }
}
