//! `lango import`: Bundles, NDJSON and template payloads from files into the database, in this process.

use super::Common;
use crate::access::Caller;
use crate::app::App;
use crate::config::Overrides;
use crate::ingest::load::{self, Total, Verdict};
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
        let files = load::files(&self.paths).context("nothing was imported")?;
        let bar = ProgressBar::new(files.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} files  {msg}  {elapsed}") {
            bar.set_style(style);
        }
        let caller = match self.facility {
            Some(code) => Caller::unrestricted(app.store.facility_key(&code).await?, Some(code)),
            None => app.operator(),
        };
        let loader = app.loader(caller);
        let work = loader.load(files, |file, verdict, total| {
            bar.set_message(format!("{} resources, {} records", total.resources, total.records));
            bar.inc(1);
            let (fate, problems) = match verdict {
                Verdict::Loaded => return,
                Verdict::Partly { stored, problems } => (format!("{stored} stored, the rest not"), problems),
                Verdict::Refused(problems) => ("nothing of it was stored".to_owned(), problems),
            };
            bar.suspend(|| {
                eprintln!("{}: {fate}:", file.display());
                problems.iter().for_each(|line| eprintln!("  {line}"));
            });
        });
        let total = app.recorded("lango import", work).await;
        bar.finish_and_clear();
        say!("{}", summary(&total));
        app.store.close().await;
        Ok(if total.refused == 0 && total.partly == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// What is in the database now, and what is not.
fn summary(total: &Total) -> String {
    let counted = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let stored: Vec<String> = [(total.resources, "resource"), (total.records, "template record")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, one)| counted(count, one))
        .collect();
    let stored = if stored.is_empty() { "nothing".to_owned() } else { stored.join(" and ") };
    let mut words = format!("stored {stored} from {}", counted(total.files - total.refused, "file"));
    if total.partly > 0 {
        words.push_str(&format!("; {} of these only in part, {} left out", total.partly, total.left_out));
    }
    if total.refused > 0 {
        words.push_str(&format!("; nothing of {}", counted(total.refused, "more file")));
    }
    words
}
