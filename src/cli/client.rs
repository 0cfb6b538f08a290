//! `lango client …`: who may call. Works while the server runs; what changes here counts at the next request.

use super::Common;
use crate::access::Role;
use crate::access::clients::{self, Client as Row};
use crate::access::registration::{self, LONGEST_SECRET, Proof, Registration, register, renew_secret};
use crate::config::{Overrides, Secret};
use anyhow::{Context, bail};
use clap::Subcommand;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    /// Change what a client may do or how it proves itself; what is not given stays
    Change(Change),
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

#[derive(Debug, clap::Args)]
pub struct Change {
    id: String,
    /// All its SMART scopes from now on
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// All its roles from now on; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// Its public keys from now on (JSON Web Key Set), in place of what it proved itself by
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_url")]
    jwks: Option<PathBuf>,
    /// Where its public keys are from now on, in place of what it proved itself by
    #[arg(long, value_name = "URL")]
    jwks_url: Option<String>,
    /// Where it may send people back to from now on; may be given several times
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// The TLS certificate (PEM) that it must connect with from now on
    #[arg(long, value_name = "FILE", conflicts_with = "no_certificate")]
    certificate: Option<PathBuf>,
    /// It need not connect with a certificate any more
    #[arg(long)]
    no_certificate: bool,
}

impl Client {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let settings = match &self {
            // The first client may come before the first start of the server; nobody should make a database without noticing.
            Client::Add(_) => {
                let settings = common.settings(Overrides::default())?;
                if let Some(path) = super::sqlite_file(&settings).filter(|path| !path.exists()) {
                    eprintln!("{} is a new database: serve with the same --database", path.display());
                }
                settings
            }
            _ => common.settings_of_existing()?,
        };
        let store = super::open_store(&settings).await?;
        match self {
            Client::Add(add) => {
                let (id, facility) = (add.id.clone(), add.facility.clone());
                let asked = add.registration()?;
                let public_url = settings.public_url(settings.listen);
                let work = register(&store, asked, &public_url);
                let made = super::recorded(&settings, &store, &format!("lango client add {id}"), work).await?;
                eprintln!("client {id} may call for facility {facility}");
                print_once(made);
            }
            Client::Secret { id, secret_stdin } => {
                let given = secret_stdin.then(read_secret).transpose()?;
                let work = renew_secret(&store, &id, given.as_ref());
                let made = super::recorded(&settings, &store, &format!("lango client secret {id}"), work).await?;
                eprintln!("client {id} has a new secret");
                print_once(made);
            }
            Client::Change(change) => {
                let id = change.id.clone();
                let asked = change.asked()?;
                let public_url = settings.public_url(settings.listen);
                let work = registration::change(&store, &id, asked, &public_url);
                super::recorded(&settings, &store, &format!("lango client change {id}"), work).await?;
                eprintln!("client {id} is changed");
            }
            Client::List => list(&clients::list(&store).await?),
            Client::Disable { id } => {
                let work = clients::set_disabled(&store, &id, true);
                super::recorded(&settings, &store, &format!("lango client disable {id}"), work).await?;
                eprintln!("client {id} is shut out");
            }
            Client::Enable { id } => {
                let work = clients::set_disabled(&store, &id, false);
                super::recorded(&settings, &store, &format!("lango client enable {id}"), work).await?;
                eprintln!("client {id} may call again");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    /// What the options ask for. The rules are the room's.
    fn registration(self) -> anyhow::Result<Registration> {
        let proof = match (self.issuer, self.jwks_url, &self.jwks) {
            (Some(issuer), ..) => Proof::Issuer(issuer),
            (_, Some(url), _) => Proof::KeysAt(url),
            (.., Some(file)) => Proof::Keys(read(file)?),
            _ if self.public => Proof::Public,
            _ if self.secret_stdin => Proof::Secret(read_secret()?),
            _ => Proof::NewSecret,
        };
        let certificate = self.certificate.as_deref().map(read).transpose()?;
        let (id, facility, scopes, roles) = (self.id, self.facility, self.scope, self.role);
        Ok(Registration { id, facility, scopes, roles, proof, redirect_uris: self.redirect_uri, certificate })
    }
}

impl Change {
    fn asked(self) -> anyhow::Result<registration::Change> {
        let asked = registration::Change {
            scopes: self.scope,
            roles: some(self.role),
            proof: match (self.jwks_url, &self.jwks) {
                (Some(url), _) => Some(Proof::KeysAt(url)),
                (None, Some(file)) => Some(Proof::Keys(read(file)?)),
                (None, None) => None,
            },
            redirect_uris: some(self.redirect_uri),
            certificate: match &self.certificate {
                Some(file) => Some(Some(read(file)?)),
                None => self.no_certificate.then_some(None),
            },
        };
        if matches!(asked, registration::Change { scopes: None, roles: None, proof: None, redirect_uris: None, certificate: None }) {
            bail!("nothing to change is given: `lango client change --help` shows what can be");
        }
        Ok(asked)
    }
}

/// `None` when nothing was given.
fn some<T>(given: Vec<T>) -> Option<Vec<T>> {
    (!given.is_empty()).then_some(given)
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// The secret on standard input.
fn read_secret() -> anyhow::Result<Secret> {
    let mut text = String::new();
    std::io::stdin().take(LONGEST_SECRET as u64 + 3).read_to_string(&mut text).context("the secret cannot be read from standard input")?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
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
        let state = if row.is_enabled() { "enabled" } else { "disabled" };
        let roles = if row.roles.is_empty() { String::new() } else { format!("  roles: {}", row.roles.join(" ")) };
        say!("{:<24} {:<16} {:<8} {state:<9} {}{roles}", row.id, row.facility, row.proof(), row.scopes);
    }
}
