//! Public FHIR client libraries drive the server (`tests/clients`), and a browser its pages: what they cannot use is wrong, whatever the specification says.

use crate::support::{TestServer, both_databases, login, smart};
use lango::access::clients::{self, Client};
use lango::store::Store;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const PYTHON_LOCK: &str = include_str!("../clients/python/requirements.txt");
const NODE_LOCK: &str = include_str!("../clients/node/package-lock.json");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/keys/es384.pem");

/// Past what the test runner keeps to itself: a client that was not run proves nothing, and that must be seen.
fn not_run(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "\nNOT RUN: {what}: {}", why.trim());
}

/// How long a registry is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the program says on standard output; the error is what it said on the other, or that it is not there or does not end. Only within a runtime, away
/// from its threads.
fn said(command: Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let handle = tokio::runtime::Handle::current();
    let output = handle.block_on(async {
        let output = tokio::process::Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, output).await.map_err(|_| format!("{name} did not end within {PATIENCE:?}"))
    });
    let output = output?.map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn version(program: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg("--version");
    said(command)
}

/// The folder of this lock file's packages, filled by `install` unless an earlier run did it. It appears whole or not at all.
fn packages(what: &str, lock: &str, version: &str, install: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let name = format!("clients-{what}-{:.16}", blake3::hash(format!("{version}\n{lock}").as_bytes()).to_hex());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !folder.exists() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        install(fresh.path())?;
        // Another process may have been quicker; its folder is as good.
        let renamed = std::fs::rename(fresh.path(), &folder);
        renamed.or_else(|error| if folder.exists() { Ok(()) } else { Err(error) }).map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

/// Where the Python packages are; they are installed once.
fn python() -> Result<&'static Path, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let install = || {
        let version = version("python3")?;
        packages("python", PYTHON_LOCK, &version, |folder| {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]);
            pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(format!("{SCRIPTS}/python/requirements.txt"));
            pip.arg("--target").arg(folder);
            said(pip).map(drop)
        })
    };
    FOLDER.get_or_init(install).as_deref().map_err(String::clone)
}

/// Where the Node packages are, and the script beside them: modules are looked for from where a script lies.
fn node() -> Result<&'static Path, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let install = || {
        let version = version("node")?;
        let copy = |name: &str, folder: &Path| {
            std::fs::copy(format!("{SCRIPTS}/node/{name}"), folder.join(name)).map(drop).map_err(|error| error.to_string())
        };
        let folder = packages("node", NODE_LOCK, &version, |folder| {
            copy("package.json", folder)?;
            copy("package-lock.json", folder)?;
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]).current_dir(folder);
            said(npm).map(drop)
        })?;
        for script in ["drive_fhir_kit_client.js", "drive_pages.js"] {
            copy(script, &folder)?;
        }
        Ok(folder)
    };
    FOLDER.get_or_init(install).as_deref().map_err(String::clone)
}

/// Runs a script to its end, which must be a good one.
async fn drive(command: Command) {
    let output = tokio::process::Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it starts");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
}

fn python_script(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(format!("{SCRIPTS}/python/{script}")).env("PYTHONPATH", folder).env("NO_PROXY", "*");
    command
}

/// Something that blocks, away from the server's threads.
async fn ready(installed: fn() -> Result<&'static Path, String>, what: &str) -> Option<&'static Path> {
    let result = tokio::task::spawn_blocking(installed).await.expect("it does not panic");
    result.map_err(|why| not_run(what, &why)).ok()
}

both_databases!(
    async fn fhirclient_is_served(db: &TestDb) {
        let Some(folder) = ready(python, "fhirclient").await else { return };
        smart::add_signing_client(db, "emr", "HF-1", "").await;
        let server = TestServer::smart(db).await;
        let assertion =
            smart::assertion(&server, "emr", &json!({ "version": "1", "organization_id": "HF-1", "purpose_of_use": ["TREAT"] }));
        let mut command = python_script(folder, "drive_fhirclient.py");
        command.args([server.url("/fhir"), "emr".to_owned(), assertion]);
        drive(command).await;
        server.stop().await;
    }
);

both_databases!(
    async fn fhirpy_is_served(db: &TestDb) {
        let Some(folder) = ready(python, "fhirpy").await else { return };
        let server = TestServer::open(db).await;
        let mut command = python_script(folder, "drive_fhirpy.py");
        command.arg(server.url("/fhir"));
        drive(command).await;
        server.stop().await;
    }
);

both_databases!(
    async fn fhir_kit_client_is_served(db: &TestDb) {
        let Some(folder) = ready(node, "fhir-kit-client").await else { return };
        smart::add_signing_client(db, "emr", "HF-1", "").await;
        let server = TestServer::smart(db).await;
        let mut command = Command::new("node");
        command.current_dir(folder).arg("drive_fhir_kit_client.js").args([&server.url("/fhir"), "emr", KEY]).env("NO_PROXY", "*");
        drive(command).await;
        server.stop().await;
    }
);

/// Where Chromium is, by one of its names.
fn chromium() -> Result<PathBuf, String> {
    let folders: Vec<PathBuf> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut programs = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    programs.find(|program| program.is_file()).ok_or_else(|| "there is no chromium".to_owned())
}

both_databases!(
    async fn people_get_on_with_the_pages_in_a_browser(db: &TestDb) {
        const WHAT: &str = "the pages in a browser";
        let Ok(program) = chromium().map_err(|why| not_run(WHAT, &why)) else { return };
        let Some(folder) = ready(node, WHAT).await else { return };
        let server = TestServer::smart(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let app = Client::new("portal", "operator", "launch/patient patient/*.rs user/*.rs");
        clients::add(&store, &Client { redirect_uris: vec!["http://localhost/back".into()], ..app }).await.unwrap();
        store.close().await;
        login::user(db, &["add", "amina", "--facility", "operator", "--role", "operator"]);
        login::user(db, &["add", "asha", "--facility", "HF-1", "--role", "clinician"]);
        login::user(db, &["add", "mama", "--facility", "HF-1", "--acts-for", "p1", "--acts-for", "p2"]);
        let mut command = Command::new("node");
        command.current_dir(folder).arg("drive_pages.js").arg(&server.base).arg(program).arg(login::PASSWORD).env("NO_PROXY", "*");
        drive(command).await;
        server.stop().await;
    }
);
