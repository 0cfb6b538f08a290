//! `lango demo`: the main job on shipped data, to be tried by hand.
//!
//! It serves a fresh database in a temporary folder, loads Bundles and template payloads through the doors that facilities use,
//! and prints lines to copy. Its settings are written to a `lango.toml` in that folder, so that the lines with other commands work
//! beside it. What DHIS2 would receive is shown against a receiver of its own ([`receiver`]) with the shipped metadata. Everything is gone when it stops.

mod receiver;

use super::Server;
use crate::config::{AuthMode, Overrides, Settings};
use anyhow::Context;
use include_dir::{Dir, include_dir};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::net::TcpListener;

static DATA: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/profiles/demo");
const PERIOD: &str = "2026-09";
/// The secret of the demo's receiver, which stores nothing and lives on loopback.
const TOKEN: &str = "d2pat_demo";

/// Try lango: shipped data, an embedded database that is gone afterwards, and lines to copy
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Where to listen; a free port when it is taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(self.listen.ip().is_loopback(), "the demo gives every caller full rights: listen on 127.0.0.1");
        let shutdown = super::serve::shutdown_signal()?;
        let folder = Folder::new()?;
        let receiver = receiver::start(TOKEN).await?;
        let settings = folder.settings(&receiver)?;
        super::start_log(settings.log_format);
        let listener = match TcpListener::bind(self.listen).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind("127.0.0.1:0").await.context("no port is free on 127.0.0.1")?,
        };
        let server = Server::prepare(settings, listener).await?;
        let base = format!("http://{}", server.address());
        let serving = tokio::spawn(server.serve(shutdown));
        say!("lango demo on {base}, database {}", folder.path.join("lango.db").display());
        let loaded = load(&base).await?;
        say!("loaded {loaded}\n");
        print!("{}", lines(&base, &folder.path));
        say!("\nCtrl-C stops the demo and removes its database.");
        std::io::stdout().flush()?;
        serving.await??;
        Ok(ExitCode::SUCCESS)
    }
}

/// A temporary folder that is removed with everything in it.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("lango-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Folder { path })
    }

    fn settings(&self, receiver: &str) -> anyhow::Result<Settings> {
        std::fs::write(self.path.join("dhis2-token"), TOKEN)?;
        for file in DATA.files().filter(|file| file.path().extension().is_some_and(|end| end == "gz")) {
            std::fs::write(self.path.join(file.path()), file.contents())?;
        }
        let path = |name: &str| self.path.join(name).display().to_string();
        let text = format!(
            "database = {:?}\nauth = \"open\"\nzone = \"Africa/Dar_es_Salaam\"\nsearch.full_text = true\n\n\
             [[destinations]]\nid = \"demo-dhis2\"\nkind = \"dhis2\"\nurl = {receiver:?}\ntoken_file = {:?}\n\n\
             [destinations.data_sets]\nopd-diagnoses = {:?}\n",
            format!("sqlite:{}", path("lango.db")),
            path("dhis2-token"),
            receiver::DATA_SET,
        );
        let file = self.path.join("lango.toml");
        std::fs::write(&file, text)?;
        let overrides = Overrides { auth: None, ..Overrides::default() };
        let settings = crate::config::load(Some(&file), std::iter::empty(), &overrides)?.settings;
        debug_assert_eq!(settings.auth, AuthMode::Open);
        Ok(settings)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Sends every shipped file over HTTP, as a facility would.
async fn load(base: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut files: Vec<_> = DATA.files().filter(|file| file.path().extension().is_some_and(|end| end == "gz")).collect();
    files.sort_by_key(|file| file.path());
    let (mut resources, mut visits, mut rejected) = (0, 0, 0);
    for file in files {
        let name = file.path().to_string_lossy();
        let path = if name.starts_with("bundle") { "/fhir" } else { "/api/v1/hduApi/dataTemplates" };
        let request = client.post(format!("{base}{path}")).header("content-type", "application/json").header("content-encoding", "gzip");
        let response = request.body(file.contents()).send().await?;
        let status = response.status();
        let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
        anyhow::ensure!(status.is_success(), "{name} was refused with {status}: {answer}");
        let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        resources += answer.get("entry").and_then(Value::as_array).map_or(0, Vec::len);
        visits += number("newClients") + number("updatedClients") + number("ignoredClients");
        rejected += number("invalidClients");
    }
    Ok(format!(
        "{resources} resources as FHIR Bundles and {visits} visits of 4 facilities as Data Templates; {rejected} spoiled visits were rejected"
    ))
}

fn lines(base: &str, folder: &Path) -> String {
    let program = std::env::current_exe().map_or_else(|_| "lango".to_owned(), |path| path.display().to_string());
    let config = folder.join("lango.toml").display().to_string();
    let payload = folder.join("template-100000-0-001.json.gz").display().to_string();
    format!(
        "Open {base}/console in a browser for the operator's pages, or copy a line into another terminal:\n\n\
         # search: diagnoses of malaria, their patients included\n\
         curl '{base}/fhir/Condition?code=B54&_include=Condition:subject&_count=2&_total=accurate'\n\n\
         # search along a chain: pulse over 120 of women born since 2000\n\
         curl -g '{base}/fhir/Observation?code=http://loinc.org|8867-4&value-quantity=gt120&subject:Patient.gender=female&subject:Patient.birthdate=ge2000&_summary=count'\n\n\
         # dry run: what would be said of a payload (add nothing, store nothing)\n\
         gunzip -c {payload} | curl -H 'content-type: application/json' --data-binary @- '{base}/api/v1/hduApi/dataTemplates?testDataValidity=true'\n\n\
         # the same check without a server\n\
         {program} template check {payload}\n\n\
         # translate a code as the templates do\n\
         curl '{base}/fhir/ConceptMap/hdu-visit-type/$translate?system=https://lango.health/fhir/CodeSystem/hdu-visit-type&code=OPD'\n\n\
         # a measure: outpatient diagnoses by age and sex, one report per facility, kept\n\
         curl -X POST '{base}/fhir/Measure/opd-diagnoses/$evaluate-measure?periodStart={PERIOD}&periodEnd={PERIOD}'\n\n\
         # what DHIS2 would receive\n\
         {program} --config {config} measure run opd-diagnoses --period {PERIOD} --facility 100000-0 --push demo-dhis2 --dry-run\n\n\
         # send it (to a stand-in for DHIS2 that this demo runs), then see the verdicts\n\
         {program} --config {config} measure run opd-diagnoses --period {PERIOD} --push demo-dhis2\n\
         {program} --config {config} outbox list --results\n"
    )
}
