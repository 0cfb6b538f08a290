//! `lango user …`: people who log in. Works while the server runs.

use super::Common;
use crate::access::people::{self, LONGEST_PASSWORD, Person, SHORTEST_PASSWORD};
use crate::access::{Role, hash_secret};
use crate::config::Secret;
use anyhow::{Context, bail};
use clap::Subcommand;
use std::io::Read;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a person; their password is read from standard input
    Add(Add),
    /// Give a person a new password, read from standard input; a resting account may log in again at once
    Password { id: String },
    /// Show everybody
    List,
    /// Shut a person out, the tokens given for them included
    Disable { id: String },
    /// Let a disabled person in again
    Enable { id: String },
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// Name that the person logs in with
    id: String,
    /// Name that pages show; the same unless given
    #[arg(long)]
    name: Option<String>,
    /// Code of the facility that the person works for
    #[arg(long, value_name = "CODE")]
    facility: String,
    /// facility, consent-recorder, clinician, registry, reporting or operator; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// Identifier value of the person's Practitioner
    #[arg(long, value_name = "IDENTIFIER", conflicts_with = "patient")]
    practitioner: Option<String>,
    /// Id of the person's own Patient: they see its record and nothing else
    #[arg(long, value_name = "ID")]
    patient: Option<String>,
    /// Make a secret for an authenticator app, and print it once
    #[arg(long)]
    totp: bool,
}

impl User {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let (_, store) = common.open().await?;
        match self {
            User::Add(add) => {
                let hash = hash_secret(&password()?)?;
                let name = add.name.as_deref().unwrap_or(&add.id);
                let mut person = Person::new(&add.id, name, &add.facility, hash);
                person.roles = add.role.iter().map(Role::to_string).collect();
                (person.practitioner, person.patient) = (add.practitioner, add.patient);
                let totp = if add.totp { Some(people::new_totp()?) } else { None };
                person.totp = totp.as_ref().map(|(bytes, _)| bytes.clone());
                people::add(&store, &person).await?;
                eprintln!("{} may log in for facility {}", person.id, person.facility);
                if let Some((_, text)) = totp {
                    eprintln!("the secret for the authenticator app is shown this once:");
                    say!("{}", text.expose());
                }
            }
            User::Password { id } => {
                people::set_password(&store, &id, &hash_secret(&password()?)?).await?;
                eprintln!("{id} has a new password");
            }
            User::List => {
                say!("{:<24} {:<16} {:<9} {:<4} roles", "name", "facility", "state", "code");
                for person in people::list(&store).await? {
                    let state = if person.is_enabled() { "enabled" } else { "disabled" };
                    let code = if person.totp.is_some() { "yes" } else { "no" };
                    say!("{:<24} {:<16} {state:<9} {code:<4} {}", person.id, person.facility, person.roles.join(" "));
                }
            }
            User::Disable { id } => {
                people::set_disabled(&store, &id, true).await?;
                eprintln!("{id} is shut out");
            }
            User::Enable { id } => {
                people::set_disabled(&store, &id, false).await?;
                eprintln!("{id} may log in again");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

fn password() -> anyhow::Result<Secret> {
    let mut text = String::new();
    let most = LONGEST_PASSWORD as u64 + 2;
    std::io::stdin().take(most).read_to_string(&mut text).context("the password cannot be read from standard input")?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() > LONGEST_PASSWORD || text.chars().count() < SHORTEST_PASSWORD {
        bail!("a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, given on standard input");
    }
    Ok(Secret::new(text))
}
