//! `lango template`: check payloads before they are sent, carry out kept ones again.

use super::Common;
use crate::app::App;
use crate::config::Overrides;
use crate::fhir::Issue;
use crate::ingest::load;
use crate::ingest::replay::Replayed;
use crate::ingest::submit::Translations;
use crate::ingest::template::{Known, Options, Templates};
use crate::terminology::Terminology;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check and replay Data Templates
#[derive(Debug, clap::Subcommand)]
pub enum Template {
    /// Judge payload files and print every problem with its path; exit code 1 if a record is bad
    Check {
        /// Payloads, also .gz
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Translate all kept submissions again, after a ConceptMap or template was mended
    Replay {
        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Template {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        match self {
            Template::Check { files } => check(common, &files),
            Template::Replay { dry_run } => replay(common, dry_run).await,
        }
    }
}

/// Needs no database: the shipped ConceptMaps are asked.
fn check(common: &Common, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let zone = TimeZone::get(&settings.zone).with_context(|| format!("zone: {} is no time zone", settings.zone))?;
    let templates = match &settings.templates_dir {
        Some(folder) => Templates::load(folder)?,
        None => Templates::shipped()?,
    };
    let terminology = Terminology::with_shipped();
    let options = Options {
        facility: None,
        operator: &settings.operator.code,
        zone: &zone,
        strict_blocks: settings.strict_templates,
        judged: true,
        stored: &Known::new(),
    };
    let mut bad = 0;
    for file in files {
        let name = file.display();
        let print = |kind: &str, issue: &Issue| say!("{name}: {kind}: {}: {}", issue.expression, issue.diagnostics);
        let payload = match load::read(file) {
            Ok(payload) => payload,
            Err(words) => {
                say!("{name}: error: {words}");
                bad += 1;
                continue;
            }
        };
        match templates.process(&payload, &options, &Translations(&terminology)) {
            Err(error) => {
                bad += 1;
                error.issues.iter().for_each(|issue| print("error", issue));
            }
            Ok(processed) => {
                processed.envelope_warnings.iter().for_each(|issue| print("warning", issue));
                for record in &processed.records {
                    record.errors.iter().for_each(|issue| print("error", issue));
                    record.warnings.iter().for_each(|issue| print("warning", issue));
                    for code in &record.unmapped {
                        say!("{name}: warning: {}: code {} is in no ConceptMap ({})", code.path, code.code, code.map);
                    }
                }
                let rejected = processed.records.iter().filter(|record| !record.errors.is_empty()).count();
                bad += rejected;
                say!("{name}: {} records, {rejected} bad", processed.records.len());
            }
        }
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn replay(common: &Common, dry_run: bool) -> anyhow::Result<ExitCode> {
    let settings = common.settings_of_existing()?;
    let base = settings.public_url(settings.listen);
    let app = App::open(settings, &base).await?;
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} submissions  {msg}  {elapsed}")?;
    let replayed = app
        .submitter
        .replay(dry_run, |progress| {
            if progress.total == 0 {
                bar.set_message(format!("{} submissions looked through", progress.done));
                bar.tick();
            } else {
                bar.set_style(style.clone());
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(format!("{} records changed", progress.changed));
            }
        })
        .await?;
    bar.finish_and_clear();
    let Replayed { submissions, refused, changed, failed, unmapped, resources, .. } = replayed;
    let would = if dry_run { "would be " } else { "" };
    say!("{submissions} submissions translated again, {changed} records {would}changed, {unmapped} codes still unmapped");
    for (type_name, [created, updated, withdrawn]) in resources {
        say!("  {type_name}: {created} {would}created, {updated} {would}updated, {withdrawn} {would}withdrawn");
    }
    if refused + failed > 0 {
        say!("  {refused} submissions are no payloads; {failed} records cannot be stored");
    }
    if dry_run {
        say!("Nothing was stored.");
    }
    app.store.close().await;
    Ok(ExitCode::SUCCESS)
}
