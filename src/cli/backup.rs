//! `lango backup`: a consistent copy of the embedded database, also while a server writes to it.

use super::Common;
use crate::store::Store;
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The file to make; it must not exist
    file: PathBuf,
}

impl Backup {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let settings = common.settings_of_existing()?;
        if super::sqlite_file(&settings).is_none() {
            bail!("PostgreSQL makes its own backups: pg_dump --format=custom --file={} {}", self.file.display(), settings.database);
        }
        if self.file.exists() {
            bail!("{} exists: name another file", self.file.display());
        }
        let store = super::open_store(&settings).await?;
        // Under another name until it is whole and on the disk.
        let mut partial = self.file.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        copy(&store, &partial).await.with_context(|| format!("{} cannot be written", partial.display()))?;
        std::fs::File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, &self.file).with_context(|| format!("{} cannot be written", self.file.display()))?;
        store.close().await;
        let bytes = std::fs::metadata(&self.file)?.len();
        eprintln!(
            "{} holds the database of this moment, {} MiB; it can be opened with --database sqlite:PATH",
            self.file.display(),
            bytes >> 20
        );
        Ok(ExitCode::SUCCESS)
    }
}

async fn copy(store: &Store, to: &std::path::Path) -> anyhow::Result<()> {
    let Store::Sqlite(database) = store else { bail!("only the embedded database is copied") };
    if to.exists() {
        std::fs::remove_file(to)?;
    }
    let to = to.to_str().context("its name is not UTF-8")?;
    // One read transaction: what commits meanwhile is not in the copy, what committed before is.
    sqlx::query("VACUUM INTO ?1").bind(to).execute(&database.read).await?;
    Ok(())
}
