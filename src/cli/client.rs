//! `lango client …`: who may call. Works while the server runs; what changes here counts at the next request.

use super::Common;
use crate::access::clients::{self, Client as Row};
use crate::access::{Role, generate_secret, hash_secret};
use crate::config::{Overrides, Secret};
use anyhow::{Context, bail};
use clap::Subcommand;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shorter secrets can be guessed.
const SHORTEST_SECRET: usize = 12;
const LONGEST_SECRET: usize = 1024;

#[derive(Debug, Subcommand)]
pub enum Client {
    /// Add a client and, unless it has keys or brings a secret, print its new secret once
    Add(Add),
    /// Give a client a new secret; the old one is worthless at once
    Secret {
        id: String,
        /// Read the secret from standard input instead of making one
        #[arg(long)]
        secret_stdin: bool,
    },
    /// Show all clients
    List,
    /// Shut a client out, its access tokens included
    Disable { id: String },
    /// Let a disabled client in again
    Enable { id: String },
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// Name that the client logs in with
    id: String,
    /// Code of the facility that owns what this client sends; the facility need not be known yet
    #[arg(long, value_name = "CODE")]
    facility: String,
    /// SMART scopes, such as "system/Patient.rs system/Observation.cruds"
    #[arg(long, value_name = "SCOPES")]
    scope: String,
    /// facility, consent-recorder, clinician, registry, reporting or operator; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// Read the client's secret from standard input instead of making one
    #[arg(long, conflicts_with = "jwks")]
    secret_stdin: bool,
    /// The client's public keys (JSON Web Key Set), for signed assertions instead of a secret
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Where the client's public keys are, instead of a file
    #[arg(long, value_name = "URL", conflicts_with_all = ["jwks", "secret_stdin"])]
    jwks_url: Option<String>,
    /// Where an app for people may be sent back to; may be given several times
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// The app cannot keep a secret: it proves itself by PKCE alone
    #[arg(long, requires = "redirect_uri", conflicts_with_all = ["jwks", "jwks_url", "secret_stdin"])]
    public: bool,
    /// The outside issuer whose tokens name this client, one of the configuration's
    #[arg(long, value_name = "URL", conflicts_with_all = ["jwks", "jwks_url", "secret_stdin", "public"])]
    issuer: Option<String>,
    /// The TLS certificate (PEM) that the client must connect with
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

impl Client {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let store = match &self {
            // The first client may come before the first start of the server; nobody should make a database without noticing.
            Client::Add(_) => {
                let settings = common.settings(Overrides::default())?;
                if let Some(path) = super::sqlite_file(&settings).filter(|path| !path.exists()) {
                    eprintln!("{} is a new database: serve with the same --database", path.display());
                }
                super::open_store(&settings).await?
            }
            _ => common.open().await?.1,
        };
        match self {
            Client::Add(add) => {
                let mut row = Row { roles: add.role.iter().map(Role::to_string).collect(), ..Row::new(&add.id, &add.facility, &add.scope) };
                let mut made = None;
                row.certificate = add.certificate.as_deref().map(thumbprint).transpose()?;
                (row.redirect_uris, row.issuer, row.jwks_url) = (add.redirect_uri, add.issuer, add.jwks_url);
                let without_secret = add.public || row.issuer.is_some() || row.jwks_url.is_some();
                match &add.jwks {
                    Some(file) => row.jwks = Some(read_jwks(file)?),
                    None if without_secret => {}
                    None => {
                        let (secret, is_new) = new_secret(add.secret_stdin)?;
                        row.secret_hash = Some(hash_secret(&secret)?);
                        made = is_new.then_some(secret);
                    }
                }
                clients::add(&store, &row).await?;
                eprintln!("client {} may call for facility {}", row.id, row.facility);
                print_once(made);
            }
            Client::Secret { id, secret_stdin } => {
                let (secret, is_new) = new_secret(secret_stdin)?;
                clients::set_secret(&store, &id, &hash_secret(&secret)?).await?;
                eprintln!("client {id} has a new secret");
                print_once(is_new.then_some(secret));
            }
            Client::List => list(&clients::list(&store).await?),
            Client::Disable { id } => {
                clients::set_disabled(&store, &id, true).await?;
                eprintln!("client {id} is shut out");
            }
            Client::Enable { id } => {
                clients::set_disabled(&store, &id, false).await?;
                eprintln!("client {id} may call again");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// The secret from standard input, or a new one and `true`.
fn new_secret(from_stdin: bool) -> anyhow::Result<(Secret, bool)> {
    if !from_stdin {
        return Ok((generate_secret()?, true));
    }
    let mut text = String::new();
    std::io::stdin().take(LONGEST_SECRET as u64 + 2).read_to_string(&mut text).context("the secret cannot be read from standard input")?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() > LONGEST_SECRET || text.chars().count() < SHORTEST_SECRET {
        bail!("a secret has {SHORTEST_SECRET} to {LONGEST_SECRET} characters: leave --secret-stdin away to have one made");
    }
    Ok((Secret::new(text), false))
}

fn read_jwks(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("the key set {} cannot be read", file.display()))
}

/// SHA-256 of a certificate, as the server computes it of the one that a connection is made with.
fn thumbprint(file: &Path) -> anyhow::Result<String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_file(file).with_context(|| format!("{} holds no certificate in PEM", file.display()))?;
    Ok(crate::http::tls::thumbprint(&certificate))
}

/// On standard output alone, so that a script can take it.
fn print_once(secret: Option<Secret>) {
    if let Some(secret) = secret {
        eprintln!("its secret is shown this once:");
        say!("{}", secret.expose());
    }
}

fn list(rows: &[Row]) {
    say!("{:<24} {:<16} {:<8} {:<9} scopes", "client", "facility", "login", "state");
    for row in rows {
        let login = match (&row.secret_hash, &row.jwks) {
            _ if row.issuer.is_some() => "issuer",
            _ if row.jwks_url.is_some() => "keys",
            _ if row.is_public() => "pkce",
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "secret",
            (None, Some(_)) => "keys",
            (None, None) => "none",
        };
        let state = if row.is_enabled() { "enabled" } else { "disabled" };
        let roles = if row.roles.is_empty() { String::new() } else { format!("  roles: {}", row.roles.join(" ")) };
        say!("{:<24} {:<16} {login:<8} {state:<9} {}{roles}", row.id, row.facility, row.scopes);
    }
}
