//! `lango doctor`: looks at everything that must be right for the server to work, and says what to do about what is not.

mod explain;

use super::Common;
use crate::access::clients;
use crate::config::{AuthMode, Destination, Settings};
use crate::definitions;
use crate::destinations::dhis2::{Client, Dhis2Destination};
use crate::exchange::Holders;
use crate::exchange::holders::{Registration, registration};
use crate::ingest::workers::Workers;
use crate::store::Store;
use futures_util::{StreamExt, stream};
use jiff::tz::TimeZone;
use std::process::ExitCode;

/// How far the database server's clock may be from ours.
const CLOCK_MICROS: u64 = 5_000_000;
/// Holders asked at once.
const AT_ONCE: usize = 16;
/// Lines of a list; more would bury the rest.
const SHOWN: u32 = 20;

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Do not ask the destinations and holders
    #[arg(long)]
    offline: bool,
    #[command(subcommand)]
    command: Option<DoctorCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DoctorCommand {
    /// How a search is carried out: plan, statement and row counts
    Explain {
        /// Such as "Observation?code=8867-4&date=ge2026"
        search: String,
    },
}

/// What was found, line by line.
#[derive(Default)]
struct Findings {
    bad: u32,
}

impl Findings {
    fn ok(&self, what: &str, words: impl std::fmt::Display) {
        say!("ok    {what}: {words}");
    }

    /// Worth knowing, not wrong.
    fn note(&self, what: &str, words: impl std::fmt::Display) {
        say!("note  {what}: {words}");
    }

    fn bad(&mut self, what: &str, words: impl std::fmt::Display) {
        self.bad = self.bad.saturating_add(1);
        say!("BAD   {what}: {words}");
    }
}

impl Doctor {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        // Settings that cannot be read or a database that cannot be opened end it here, in their own words.
        let (settings, store) = common.open().await?;
        if let Some(DoctorCommand::Explain { search }) = &self.command {
            return explain::run(&settings, &store, search).await;
        }
        let mut findings = Findings::default();
        configuration(&settings, &mut findings);
        findings.ok("database", format_args!("{} answers, and its tables are up to date", settings.database));
        clock(&store, &mut findings).await?;
        if settings.auth == AuthMode::Smart {
            let enabled = clients::list(&store).await?.iter().filter(|client| client.is_enabled()).count();
            match enabled {
                0 => findings.note("clients", "nobody can log in yet: lango client add"),
                count => findings.ok("clients", format_args!("{count} can log in")),
            }
        }
        if settings.records() {
            match store.unpublished().await? {
                0 => findings.ok("audit", "every event is an AuditEvent"),
                count => findings.note(
                    "audit",
                    format_args!("the newest {count} events are no AuditEvents yet: a server makes them when nobody waits for an answer, and some every second while somebody does"),
                ),
            }
        }
        references(&store, &findings).await?;
        deliveries(&store, &findings).await?;
        for destination in &settings.destinations {
            let what = format!("destination {}", destination.id);
            match self.destination(destination).await {
                Ok(words) => findings.ok(&what, words),
                Err(words) => findings.bad(&what, words),
            }
        }
        self.holders(&settings, &store, &mut findings).await?;
        store.close().await;
        Ok(if findings.bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    async fn holders(&self, settings: &Settings, store: &Store, findings: &mut Findings) -> anyhow::Result<()> {
        let zone = TimeZone::get(&settings.zone)?;
        let (holders, workers) = (Holders::new(settings)?, Workers::default());
        let asked = holders.list().iter().filter(|_| !self.offline);
        let answers: Vec<_> = stream::iter(asked).map(|holder| holder.answers(&workers)).buffered(AT_ONCE).collect().await;
        let mut answers = answers.into_iter();
        for holder in holders.list() {
            let facility = &holder.settings.facility;
            let what = format!("holder {facility}");
            let owner = if *facility == settings.operator.code { Some(0) } else { store.known_facility(facility).await? };
            let registered = match owner {
                Some(owner) => registration(store, &zone, owner, &holder.settings.url).await?,
                None => Registration::None,
            };
            match registered {
                Registration::Active => {}
                Registration::Elsewhere => findings
                    .note(&what, "its Endpoints give another address, so it is not asked: agree with it, and correct url in lango.toml"),
                Registration::None => {
                    findings.note(&what, "it has no active Endpoint here, so it is not asked: it must send one with this address")
                }
            }
            match answers.next() {
                None => findings.ok(&what, "its settings are whole; it was not asked"),
                Some(Ok(())) => findings.ok(&what, "it answers, and lets lango in"),
                Some(Err(error)) => findings.bad(&what, error),
            }
        }
        Ok(())
    }

    async fn destination(&self, settings: &Destination) -> Result<String, String> {
        let credentials = settings.credentials().map_err(|error| error.to_string())?;
        let destination = Dhis2Destination::new(settings, credentials).map_err(|error| error.to_string())?;
        if self.offline {
            return Ok("its settings are whole; it was not asked".to_owned());
        }
        let client = Client::new(&destination).map_err(|error| error.to_string())?;
        let mut words = "it has no data set yet: add data_sets to lango.toml".to_owned();
        for (measure, data_set) in &settings.data_sets {
            let metadata = client.metadata(data_set, &[]).await.map_err(|error| error.to_string())?;
            if metadata.data_set.is_none() {
                return Err(format!(
                    "it has no data set {data_set}, or the user may not see it: correct data_sets.{measure} in lango.toml"
                ));
            }
            words = format!("DHIS2 {} answers, and the data sets are there", metadata.version);
        }
        Ok(words)
    }
}

fn configuration(settings: &Settings, findings: &mut Findings) {
    let loopback = settings.listen.ip().is_loopback();
    if settings.auth == AuthMode::Open && !loopback {
        findings.bad("configuration", "auth = \"open\" is refused on this address: set listen to 127.0.0.1 or auth to \"smart\"");
    } else if settings.base_url.is_none() && !loopback {
        findings.note("configuration", "base_url is not set: links and tokens name the address that lango listens on");
    } else {
        findings.ok("configuration", "it fits together");
    }
}

/// Versions and leases are told by clocks; with PostgreSQL several processes share the server's data.
async fn clock(store: &Store, findings: &mut Findings) -> anyhow::Result<()> {
    let Store::Postgres(database) = store else { return Ok(()) };
    const SQL: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    let (theirs,): (i64,) = sqlx::query_as(SQL).fetch_one(&database.pool).await?;
    let difference = theirs.abs_diff(crate::fhir::time::now());
    if difference > CLOCK_MICROS {
        let seconds = difference / 1_000_000;
        findings
            .bad("clock", format_args!("the database server's clock is {seconds} s from ours: set up time synchronisation (NTP) on both"));
    } else {
        findings.ok("clock", "the database server's agrees with ours");
    }
    Ok(())
}

/// Records arrive out of order, so this is no fault; what stays for weeks was never sent.
async fn references(store: &Store, findings: &Findings) -> anyhow::Result<()> {
    let dangling = store.dangling(SHOWN).await?;
    if dangling.is_empty() {
        findings.ok("references", "each one leads to something");
        return Ok(());
    }
    findings.note("references", format_args!("these lead to what nobody has sent yet (the first {SHOWN})"));
    let r4 = definitions::r4();
    for (from, id, to, missing) in dangling {
        say!("        {}/{id} -> {}/{missing}", r4.type_name(from), r4.type_name(to));
    }
    Ok(())
}

async fn deliveries(store: &Store, findings: &Findings) -> anyhow::Result<()> {
    let dead = store.jobs(None, Some("dead"), SHOWN).await?;
    if dead.is_empty() {
        findings.ok("deliveries", "none was given up");
        return Ok(());
    }
    findings.note("deliveries", format_args!("these were given up (the newest {SHOWN})"));
    for job in dead {
        say!("        {} {}: {}", job.id, job.kind, job.error.unwrap_or_default());
    }
    Ok(())
}
