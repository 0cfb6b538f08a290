//! Threads for what needs a processor and not a database: parsing, validating, extracting, serialising.

use super::refusal::Refusal;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// As many jobs at a time as there are processors; the others wait, so memory stays bounded however many requests come.
#[derive(Clone, Debug)]
pub struct Workers {
    permits: Arc<Semaphore>,
    width: usize,
}

impl Default for Workers {
    fn default() -> Self {
        Workers::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

impl Workers {
    pub fn new(width: usize) -> Workers {
        Workers { permits: Arc::new(Semaphore::new(width.max(1))), width: width.max(1) }
    }

    /// Runs `work` on a thread of its own. A panic in it is this request's failure only.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Refusal::internal)?;
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        job.await.map_err(Refusal::internal)
    }

    /// `work` on every item, in order, spread over the processors when the items are many.
    pub async fn map<A, B, F>(&self, items: Vec<A>, work: F) -> Result<Vec<B>, Refusal>
    where
        A: Send + 'static,
        B: Send + 'static,
        F: Fn(A) -> B + Send + Sync + 'static,
    {
        const WORTH_A_THREAD: usize = 32;
        let share = items.len().div_ceil(self.width).max(WORTH_A_THREAD);
        let work = Arc::new(work);
        let total = items.len();
        let mut jobs = Vec::new();
        let mut items = items.into_iter();
        loop {
            let part: Vec<A> = items.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            let work = Arc::clone(&work);
            jobs.push(self.run(move || part.into_iter().map(|item| work(item)).collect::<Vec<B>>()));
        }
        let mut results = Vec::with_capacity(total);
        for part in futures_util::future::try_join_all(jobs).await? {
            results.extend(part);
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_keep_the_order_of_their_items() {
        let doubled = Workers::new(3).map((0..1000).collect(), |n: u32| n * 2).await.unwrap();
        assert_eq!(doubled, (0..1000).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let workers = Workers::new(1);
        assert_eq!(workers.run(|| -> u8 { std::panic::panic_any("x") }).await.unwrap_err().status(), 500);
        assert_eq!(workers.run(|| 7).await.unwrap(), 7);
    }
}
