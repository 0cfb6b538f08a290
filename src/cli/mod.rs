//! The commands: `lango serve`, `lango client add`, …
//!
//! In come the command line and the environment; out come one server or one answer on standard output, words for people on
//! standard error, and an exit code: 0 done, 1 the answer is no (a payload that is not valid), 2 it could not be done. Every
//! command is a thin module that reads the settings, opens the store and calls a room; several may run beside a serving
//! process on the same database.
//!
//! This room decides nothing that another program could want to decide: it has no rules of its own.

/// `println!` for commands whose reader may leave early (`| head`): then there is nobody to tell, and nothing went wrong.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($words)*).is_err() {
            std::process::exit(0);
        }
    }};
}

mod audit;
mod backup;
mod client;
mod demo;
mod doctor;
mod import;
mod keys;
mod measure;
mod outbox;
mod reindex;
mod run;
mod serve;
mod template;
mod user;

pub use run::{Server, run};

use crate::access::audit::{Recorder, Trail};
use crate::config::{self, LogFormat, Overrides, Settings};
use crate::store::Store;
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// A FHIR interoperability gateway: facility records in, canonical FHIR and the ministry's numbers out.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// The settings; lango.toml in the current folder unless named
    #[arg(long, global = true, value_name = "FILE", env = "LANGO_CONFIG")]
    config: Option<PathBuf>,
    /// sqlite:PATH or postgres://USER@HOST/NAME
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Try lango: shipped data, an embedded database that is gone afterwards, and lines to copy
    Demo(demo::Demo),
    /// Add, list and disable the programs that may call
    #[command(subcommand)]
    Client(client::Client),
    /// Add, list and disable people who log in
    #[command(subcommand)]
    User(user::User),
    /// The keys that sign access tokens
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Load Bundles, NDJSON or template payloads (also .gz) into the database
    Import(import::Import),
    /// Check and replay Data Templates
    #[command(subcommand)]
    Template(template::Template),
    /// Evaluate measures, keep and push their reports
    #[command(subcommand)]
    Measure(measure::Measure),
    /// See and repeat deliveries
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Verify the record of every look
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Index again what is stored, after a change of settings that decides what searches find
    Reindex(reindex::ReindexArgs),
    /// Look at settings, database, clocks and destinations, and say what to do
    Doctor(doctor::Doctor),
    /// Copy the embedded database to a file, also while it is served
    Backup(backup::Backup),
}

/// How long threads may go on after everything is closed.
const LAST_WORK: std::time::Duration = std::time::Duration::from_secs(2);

/// The program: parses the command line, runs the command, says what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve(serve) => serve.run(&cli.common).await,
            Command::Demo(demo) => demo.run().await,
            Command::Client(client) => client.run(&cli.common).await,
            Command::User(user) => user.run(&cli.common).await,
            Command::Keys(keys) => keys.run(&cli.common).await,
            Command::Import(import) => import.run(&cli.common).await,
            Command::Template(template) => template.run(&cli.common).await,
            Command::Measure(measure) => measure.run(&cli.common).await,
            Command::Outbox(outbox) => outbox.run(&cli.common).await,
            Command::Audit(audit) => audit.run(&cli.common).await,
            Command::Reindex(reindex) => reindex.run(&cli.common).await,
            Command::Doctor(doctor) => doctor.run(&cli.common).await,
            Command::Backup(backup) => backup.run(&cli.common).await,
        }
    });
    // Work on a thread of its own cannot be cut short; what nobody waits for any more must not keep the program.
    runtime.shutdown_timeout(LAST_WORK);
    done.unwrap_or_else(|error| failed(&error))
}

/// Exit code 2, with the whole chain of reasons in one line.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("lango: {error:#}");
    ExitCode::from(2)
}

impl Common {
    /// The settings, and a log that tells the warnings about them.
    fn settings(&self, more: Overrides) -> anyhow::Result<Settings> {
        let overrides = Overrides { database: self.database.clone(), ..more };
        let loaded = config::load(self.config.as_deref(), std::env::vars(), &overrides)?;
        start_log(loaded.settings.log_format);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.settings)
    }

    /// The settings of a command that works on a database that is there already.
    fn settings_of_existing(&self) -> anyhow::Result<Settings> {
        let settings = self.settings(Overrides::default())?;
        if let Some(path) = sqlite_file(&settings)
            && !path.exists()
        {
            anyhow::bail!(
                "there is no database {}: correct --database or `database` in lango.toml, or make it with `lango serve` or `lango import`",
                path.display()
            );
        }
        Ok(settings)
    }

    /// The settings and the database that they name, which must be there.
    async fn open(&self) -> anyhow::Result<(Settings, Store)> {
        let settings = self.settings_of_existing()?;
        let store = open_store(&settings).await?;
        Ok((settings, store))
    }
}

/// The file of an embedded database; `None` for PostgreSQL and for a database in memory.
fn sqlite_file(settings: &Settings) -> Option<PathBuf> {
    let rest = settings.database.expose().strip_prefix("sqlite:")?;
    let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    let in_memory = path.is_empty() || path == ":memory:" || options.contains("mode=memory");
    (!in_memory).then(|| PathBuf::from(path))
}

async fn open_store(settings: &Settings) -> anyhow::Result<Store> {
    let database = &settings.database;
    Store::open(database.expose()).await.with_context(|| format!("the database {database} cannot be opened"))
}

/// Carries out what a command changes; it is recorded as the command's where requests are recorded.
async fn recorded<F: Future>(settings: &Settings, store: &Store, command: &str, work: F) -> F::Output {
    if !settings.records() {
        return work.await;
    }
    std::sync::Arc::new(Trail::of_lango(Recorder::new(store.clone()), command)).follow(work).await
}

/// Logs to standard error. `LANGO_LOG` filters.
fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .with_env_var("LANGO_LOG")
        .from_env_lossy();
    // "The table is there already", at every start.
    let filter = match "sqlx::postgres::notice=warn".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    // Colours are for people; a file or a collector gets none.
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // A second log in one process can only be a test's; the first one stays.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}
