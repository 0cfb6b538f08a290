//! `lango outbox`: what is waiting to go out, what went, what could not.

use super::Common;
use crate::fhir::time::format_instant;
use std::process::ExitCode;

/// See and repeat deliveries
#[derive(Debug, clap::Subcommand)]
pub enum Outbox {
    /// List deliveries, newest first
    List {
        /// waiting, running, done or dead
        #[arg(long)]
        state: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// With the answers that were kept, as JSON
        #[arg(long)]
        results: bool,
    },
    /// Make a dead or waiting delivery due now
    Retry {
        /// Its number in the list
        id: i64,
    },
}

impl Outbox {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let (_, store) = common.open().await?;
        let code = match self {
            Outbox::List { state, limit, results } => {
                for job in store.jobs(None, state.as_deref(), limit).await? {
                    let error = job.error.unwrap_or_default();
                    say!(
                        "{:>8}  {:<14} {:<8} tries {}  {}  {error}",
                        job.id,
                        job.kind,
                        job.state,
                        job.attempt,
                        format_instant(job.created)
                    );
                    if let Some(result) = job.result.filter(|result| results && !result.is_null()) {
                        say!("{result}");
                    }
                }
                ExitCode::SUCCESS
            }
            Outbox::Retry { id } => {
                let due = store.requeue_job(id).await?;
                say!("{}", if due { "due now" } else { "there is no dead or waiting delivery with this number" });
                if due { ExitCode::SUCCESS } else { ExitCode::from(1) }
            }
        };
        store.close().await;
        Ok(code)
    }
}
