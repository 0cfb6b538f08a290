//! `lango user …`: people who log in. Works while the server runs.

use super::{Common, recorded};
use crate::access::people::{self, LONGEST_PASSWORD, Person, SHORTEST_PASSWORD};
use crate::access::{self, Role, hash_secret};
use crate::app::GOLDEN_SECRET;
use crate::config::Secret;
use crate::registry::{Registry, looks_golden};
use anyhow::{Context, bail};
use clap::Subcommand;
use std::io::Read;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a person; their password is read from standard input
    Add(Add),
    /// Look again which Patients are linked with those of a person; what was linked since the last look is seen from now on
    Link { id: String },
    /// Change what a person may do or proves themselves by; what is not given stays, and they log in anew
    Change(Change),
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
    /// Id of the person's own Patient: they see its record, and those of the Patients linked with it now, and nothing else
    #[arg(long, value_name = "ID")]
    patient: Option<String>,
    /// Id of a Patient whom the person acts for, such as their child; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "practitioner")]
    acts_for: Vec<String>,
    /// Make a secret for an authenticator app, and print it once
    #[arg(long)]
    totp: bool,
}

#[derive(Debug, clap::Args)]
pub struct Change {
    id: String,
    /// Name that pages show from now on
    #[arg(long)]
    name: Option<String>,
    /// Code of the facility that the person works for from now on
    #[arg(long, value_name = "CODE")]
    facility: Option<String>,
    /// All their roles from now on; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// Identifier value of the person's Practitioner from now on
    #[arg(long, value_name = "IDENTIFIER")]
    practitioner: Option<String>,
    /// Id of a Patient whom the person acts for from now on, in place of those before; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "acts_for_nobody")]
    acts_for: Vec<String>,
    /// The person acts for nobody else any more
    #[arg(long)]
    acts_for_nobody: bool,
    /// Make a new secret for an authenticator app, and print it once; the old one is worthless
    #[arg(long, conflicts_with = "no_totp")]
    totp: bool,
    /// The person logs in without an authenticator app from now on
    #[arg(long)]
    no_totp: bool,
}

impl User {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let (settings, store) = common.open().await?;
        let registry = async || -> anyhow::Result<Registry> {
            let secret = access::secret_of(&store, GOLDEN_SECRET).await.context("the signing keys cannot be read")?;
            Ok(Registry::new(store.clone(), secret, settings.systems.strong.iter().cloned())?)
        };
        match self {
            User::Add(add) => {
                let hash = hash_secret(&password()?)?;
                let name = add.name.as_deref().unwrap_or(&add.id);
                let mut person = Person::new(&add.id, name, &add.facility, hash);
                person.roles = add.role.iter().map(Role::to_string).collect();
                (person.practitioner, person.patient) = (add.practitioner, add.patient);
                person.acts_for = add.acts_for.into_iter().map(|id| vec![id]).collect();
                if person.patient.is_some() || !person.acts_for.is_empty() {
                    link(&registry().await?, &mut person).await?;
                }
                let totp = if add.totp { Some(new_totp(&mut person)?) } else { None };
                recorded(&settings, &store, &format!("lango user add {}", person.id), people::add(&store, &person)).await?;
                eprintln!("{} may log in for facility {}", person.id, person.facility);
                print_once(totp);
            }
            User::Change(change) => {
                let mut person = people::find(&store, &change.id).await?.ok_or(people::PersonError::Unknown)?;
                let totp = change.apply(&mut person)?;
                if !change.acts_for.is_empty() {
                    link_others(&registry().await?, &mut person).await?;
                }
                recorded(&settings, &store, &format!("lango user change {}", person.id), people::replace(&store, &person)).await?;
                eprintln!("{} is changed and logs in anew", person.id);
                print_once(totp);
            }
            User::Link { id } => {
                let mut person = people::find(&store, &id).await?.ok_or(people::PersonError::Unknown)?;
                link(&registry().await?, &mut person).await?;
                recorded(&settings, &store, &format!("lango user link {id}"), people::set_patients(&store, &person)).await?;
                let count = person.patient.iter().chain(&person.linked).chain(person.acts_for.iter().flatten()).count();
                eprintln!("{id} sees what is known under {count} ids");
            }
            User::Password { id } => {
                let hash = hash_secret(&password()?)?;
                recorded(&settings, &store, &format!("lango user password {id}"), people::set_password(&store, &id, &hash)).await?;
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
                recorded(&settings, &store, &format!("lango user disable {id}"), people::set_disabled(&store, &id, true)).await?;
                eprintln!("{id} is shut out");
            }
            User::Enable { id } => {
                recorded(&settings, &store, &format!("lango user enable {id}"), people::set_disabled(&store, &id, false)).await?;
                eprintln!("{id} may log in again");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

impl Change {
    /// Gives the new secret for an authenticator app, as text.
    fn apply(&self, person: &mut Person) -> anyhow::Result<Option<Secret>> {
        let before = person.clone();
        if let Some(name) = &self.name {
            person.name.clone_from(name);
        }
        if let Some(facility) = &self.facility {
            person.facility.clone_from(facility);
        }
        if !self.role.is_empty() {
            person.roles = self.role.iter().map(Role::to_string).collect();
        }
        if self.practitioner.is_some() {
            person.practitioner.clone_from(&self.practitioner);
        }
        if self.acts_for_nobody || !self.acts_for.is_empty() {
            person.acts_for = self.acts_for.iter().map(|id| vec![id.clone()]).collect();
        }
        if person.practitioner.is_some() && (person.patient.is_some() || !person.acts_for.is_empty()) {
            bail!("a login is a practitioner's, or one for patients: add the person a second time, by another name");
        }
        let totp = if self.totp { Some(new_totp(person)?) } else { None };
        if self.no_totp {
            person.totp = None;
        }
        if *person == before {
            bail!("nothing would change: `lango user change --help` shows what can be");
        }
        Ok(totp)
    }
}

/// Gives the person a new secret for an authenticator app; it comes back as text, to be typed into the app.
fn new_totp(person: &mut Person) -> anyhow::Result<Secret> {
    let (bytes, text) = people::new_totp()?;
    person.totp = Some(bytes);
    Ok(text)
}

fn print_once(totp: Option<Secret>) {
    if let Some(text) = totp {
        eprintln!("the secret for the authenticator app is shown this once:");
        say!("{}", text.expose());
    }
}

/// Takes the Patients that are linked now with the person's, and with each of those whom they act for, and no others.
async fn link(registry: &Registry, person: &mut Person) -> anyhow::Result<()> {
    if let Some(own) = person.patient.take() {
        let before: Vec<String> = std::iter::once(own).chain(person.linked.drain(..)).collect();
        let mut ids = linked(registry, &before).await?.into_iter();
        (person.patient, person.linked) = (ids.next(), ids.collect());
    }
    link_others(registry, person).await
}

/// The same of those whom they act for.
async fn link_others(registry: &Registry, person: &mut Person) -> anyhow::Result<()> {
    for patients in &mut person.acts_for {
        *patients = linked(registry, patients).await?;
    }
    Ok(())
}

/// First what apps are told: the golden Patient, which stands for all, where there is one; then the one that was named, then the others.
async fn linked(registry: &Registry, before: &[String]) -> anyhow::Result<Vec<String>> {
    let Some(named) = before.iter().find(|id| !looks_golden(id)).or(before.first()) else { return Ok(Vec::new()) };
    let mut ids: Vec<String> = registry.person(named).await?.into_iter().filter(|id| id != named).collect();
    ids.push(named.clone());
    ids.sort_by_key(|id| (!looks_golden(id), id != named));
    Ok(ids)
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
