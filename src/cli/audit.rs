//! `lango audit …`: whether the record of every look is whole. Works while the server runs.

use super::Common;
use crate::access::audit::checkpoint::Notary;
use crate::access::audit::verify::verify;
use anyhow::Context;
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Find a row that was changed, removed, put elsewhere or cut off; exit 1 when there is one
    Verify {
        /// Signed checkpoints that were kept elsewhere, a line each
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Sign where the chain stands now, and print it: keep it where nobody can change it
    Checkpoint,
}

impl Audit {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let (settings, store) = common.open().await?;
        let notary = Notary::open(&store).await.context("the signing keys cannot be read")?;
        let code = match self {
            Audit::Verify { checkpoint } => {
                let elsewhere = match checkpoint {
                    Some(file) => {
                        std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read: name another file", file.display()))?
                    }
                    None => String::new(),
                };
                match verify(&store, &notary, &elsewhere, settings.audit.keep_days).await? {
                    Ok(whole) => {
                        say!("the audit is whole: {} rows, {} checkpoints", whole.rows, whole.checkpoints);
                        if whole.checkpoints == 0 {
                            say!("no signed checkpoint says where it ended: that nothing was cut off its end cannot be vouched for");
                        }
                        ExitCode::SUCCESS
                    }
                    Err(broken) => {
                        say!("the audit is broken: {broken}");
                        ExitCode::FAILURE
                    }
                }
            }
            Audit::Checkpoint => match store.sealed_head().await? {
                Some(head) => {
                    let signed = notary.attest(&store, &head).await?;
                    say!("{signed}");
                    eprintln!("row {} is attested", head.position);
                    ExitCode::SUCCESS
                }
                None => anyhow::bail!("nothing is recorded yet: there is nothing to attest"),
            },
        };
        store.close().await;
        Ok(code)
    }
}
