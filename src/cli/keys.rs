//! `lango keys …`: the keys that sign access tokens, and those that lango signs in with elsewhere. Works while the server runs.

use super::Common;
use crate::access::keys;
use crate::config::Overrides;
use crate::exchange::holders::public_keys;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Add a signing key; tokens of the old one hold until they end
    Rotate,
    /// Print the public keys that lango signs in with at its holders, for them to register (JSON Web Key Set)
    Public,
}

impl Keys {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        if let Keys::Public = self {
            let settings = common.settings(Overrides::default())?;
            say!("{}", public_keys(&settings)?);
            return Ok(ExitCode::SUCCESS);
        }
        let (_, store) = common.open().await?;
        keys::rotate(&store).await?;
        eprintln!("new tokens are signed with a new key within seconds, in every process");
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}
