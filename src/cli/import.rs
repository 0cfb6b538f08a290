//! `lango import`: Bundles, NDJSON and template payloads from files into the database, in this process.

use super::Common;
use crate::access::Caller;
use crate::app::App;
use crate::config::Overrides;
use crate::ingest::load::{self, Verdict};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;

/// Load Bundles, NDJSON or template payloads (also .gz)
#[derive(Debug, clap::Args)]
pub struct Import {
    /// Files, or folders that hold them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The facility that sent what the files hold; without it, the payload's own or the operator
    #[arg(long, value_name = "CODE")]
    facility: Option<String>,
}

impl Import {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let settings = common.settings(Overrides::default())?;
        let base = settings.public_url(settings.listen);
        let app = App::open(settings, &base).await?;
        let files = load::files(&self.paths).context("the files cannot be listed")?;
        let bar = ProgressBar::new(files.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} files  {msg}  {elapsed}") {
            bar.set_style(style);
        }
        let caller = match self.facility {
            Some(code) => Caller::unrestricted(app.store.facility_key(&code).await?, Some(code)),
            None => app.operator(),
        };
        let total = app
            .loader(caller)
            .load(files, |file, verdict, resources| {
                bar.set_message(format!("{resources} resources"));
                bar.inc(1);
                if let Verdict::Refused(words) = verdict {
                    for line in words {
                        bar.suspend(|| eprintln!("{}: {line}", file.display()));
                    }
                }
            })
            .await;
        bar.finish_and_clear();
        say!("{} resources from {} files; {} files refused", total.resources, total.files, total.refused);
        app.store.close().await;
        Ok(if total.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
