//! `lango keys …`: the keys that sign access tokens. Works while the server runs.

use super::Common;
use crate::access::keys;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Add a signing key; tokens of the old one hold until they end
    Rotate,
}

impl Keys {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let (_, store) = common.open().await?;
        match self {
            Keys::Rotate => {
                keys::rotate(&store).await?;
                eprintln!("new tokens are signed with a new key within seconds, in every process");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}
