//! Records that stay with their facility: who holds some, what they answer, and what of it may leave.
//!
//! A *holder* is a facility that the operator put into `[[holders]]` and that keeps an active Endpoint here with the same address. It says whom
//! it knows by the Patients that it sends: each is a *location* ([`locate`]), a resource like any other, so the gate guards it, the registry links
//! it, and Consents cover it. For a lookup the holders whom the person's Consents may let speak are asked all at once ([`Away::ask`]), each for one of the
//! numbers that it sent itself, with lango's own login ([`login`]), within a time, a size and a bound on questions under way ([`talk`]). One that
//! fails several times in a row is left alone for a while ([`breaker`]).
//!
//! What comes back is another server's word. It is cut to the patient that was asked for ([`check`]), labelled as if it had arrived, and each
//! resource is decided on by itself, with the Consents as they stand then ([`release`]); what is here too comes once ([`once`]). Nothing of it is stored, and nothing is counted where somebody
//! without a login could read it: that a holder was asked already tells that it knows somebody.
//!
//! It must never follow an address that the operator did not write, nor tell a requester of a holder whose location that requester may not see.

mod breaker;
mod check;
mod locate;
mod login;
mod medicines;
mod once;
mod release;
mod talk;

pub use locate::{Location, Registration, registration};
pub use login::public_keys;
pub use release::{Away, Gap, Held, Record, disclose};

use crate::access::Claimed;
use crate::config::{self, Settings};
use crate::fhir::time::Micros;
use crate::ingest::workers::Workers;
use crate::store::{FacilityKey, TypeCode};
use anyhow::Context;
use breaker::Breaker;
use login::Login;
use reqwest::Certificate;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Put into `Via` by a lango that asks a holder, so that holders do not ask each other in turn.
pub const VIA: &str = "lango-lookup";

const CONNECT: Duration = Duration::from_secs(3);
/// The part of all questions that may be under way which one holder may have: a quarter.
const SHARE: u32 = 4;
/// Failures in a row after which a holder is left alone.
const FAILURES: u32 = 3;

/// The holders that the operator lets lango ask.
pub struct Holders {
    list: Vec<Arc<Holder>>,
    at_once: Semaphore,
    /// In which all of one lookup must have answered.
    patience: Duration,
}

/// One of them.
pub struct Holder {
    pub settings: config::Holder,
    http: reqwest::Client,
    login: Login,
    breaker: Breaker,
    /// So that a slow one does not take all questions that may be under way.
    at_once: Semaphore,
    most_bytes: usize,
}

/// What is wanted of a person's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Types of the patient compartment.
    pub types: Vec<TypeCode>,
    /// Only what these facilities hold; `None`: any.
    pub owners: Option<Vec<FacilityKey>>,
    /// Only what was last updated then or later.
    pub since: Option<Micros>,
}

/// Why a holder gave nothing. The words are for the operator; they hold nothing that the holder said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    #[error("it failed several times in a row and is left alone for a while")]
    Resting,
    #[error("too many questions are under way")]
    Busy,
    #[error("it did not answer in time")]
    Late,
    #[error("it cannot be reached, or breaks off")]
    Unreachable,
    #[error("it answers with a redirect, which is not followed: write the final address into url")]
    Redirect,
    #[error("it did not let lango in: check client_id and the key or secret, there and in lango.toml")]
    Login,
    #[error("{0}")]
    Settings(&'static str),
    #[error("it refused the question with status {0}")]
    Refused(u16),
    #[error("it failed with status {0}")]
    Failing(u16),
    #[error("its answer is larger than limits.holder_mb")]
    TooLarge,
    #[error("it does not speak FHIR R4 as it should: {0}")]
    Crooked(&'static str),
}

impl HolderError {
    /// Whether asking again at once would most likely end the same, for any patient.
    fn is_down(self) -> bool {
        !matches!(self, HolderError::Resting | HolderError::Busy | HolderError::Refused(_))
    }
}

/// What a holder answered: resources as it sent them.
#[derive(Default)]
struct Told {
    resources: Vec<Value>,
    /// What tells whose these are and how sensitive, though nobody wants it itself.
    telling: Vec<Value>,
    /// Of what tells there may be more: any of the resources may be as sensitive as that.
    is_untold: bool,
    /// There was more than lango takes.
    cut: bool,
}

impl Holders {
    pub fn new(settings: &Settings) -> anyhow::Result<Holders> {
        let limits = &settings.limits;
        let shared = client(Vec::new())?;
        let holder = |settings: &config::Holder| {
            let authorities = settings.ca_file.as_deref().map(authorities).transpose();
            let authorities = authorities.with_context(|| format!("holder {}: ca_file", settings.facility))?;
            anyhow::Ok(Arc::new(Holder {
                settings: settings.clone(),
                http: authorities.map_or_else(|| Ok(shared.clone()), client)?,
                login: Login::default(),
                breaker: Breaker::new(FAILURES, Duration::from_secs(limits.holder_rest_s.into())),
                at_once: Semaphore::new(limits.holders_at_once.div_ceil(SHARE) as usize),
                most_bytes: limits.holder_bytes(),
            }))
        };
        Ok(Holders {
            list: settings.holders.iter().map(holder).collect::<anyhow::Result<_>>()?,
            at_once: Semaphore::new(limits.holders_at_once as usize),
            patience: Duration::from_secs(limits.holders_s.into()),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn list(&self) -> &[Arc<Holder>] {
        &self.list
    }

    fn of(&self, facility: &str) -> Option<&Arc<Holder>> {
        self.list.iter().find(|holder| holder.settings.facility == facility)
    }

    /// Asks the holder of this location, by `deadline` at the latest.
    async fn ask(
        &self,
        location: &Location,
        wanted: &Wanted,
        claimed: &Claimed,
        workers: &Workers,
        deadline: Instant,
    ) -> Result<Told, HolderError> {
        let holder = &location.holder;
        if !holder.breaker.admits(Instant::now()) {
            return Err(HolderError::Resting);
        }
        let permits = async { (holder.at_once.acquire().await, self.at_once.acquire().await) };
        let Ok((Ok(_own), Ok(_all))) = timeout_at(deadline, permits).await else { return Err(HolderError::Busy) };
        let own = Instant::now().checked_add(holder.patience()).unwrap_or(deadline);
        let told = timeout_at(own.min(deadline), holder.tell(&location.identifier, wanted, claimed, workers)).await;
        let told = told.unwrap_or(Err(HolderError::Late));
        match &told {
            Err(error) if error.is_down() => holder.breaker.failed(Instant::now()),
            _ => holder.breaker.succeeded(),
        }
        told
    }
}

/// A client that believes these authorities alone; without any, those that everybody believes.
fn client(authorities: Vec<Certificate>) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .user_agent(concat!("lango/", env!("CARGO_PKG_VERSION")));
    let builder = if authorities.is_empty() { builder } else { builder.tls_certs_only(authorities) };
    builder.build().context("no HTTP client for holders can be made")
}

/// The certificates in a PEM file; one at least.
fn authorities(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let found = Certificate::from_pem_bundle(&pem).with_context(|| format!("{} is no PEM", file.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} has no certificate", file.display());
    Ok(found)
}

impl Holder {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.timeout_s.into())
    }

    /// Whether it lets lango in and is a FHIR R4 server; for `lango doctor`.
    pub async fn answers(&self, workers: &Workers) -> Result<(), HolderError> {
        let deadline = Instant::now().checked_add(self.patience()).ok_or(HolderError::Late)?;
        timeout_at(deadline, self.greet(workers)).await.unwrap_or(Err(HolderError::Late))
    }
}
