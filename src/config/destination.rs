//! `[[destinations]]`: systems that lango pushes to.

use super::secret::read_secret;
use super::{Secret, load::ConfigError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One system that lango pushes to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The name that commands and logs use.
    pub id: String,
    pub kind: DestinationKind,
    /// Root of the system's API, without a slash at the end: for DHIS2 the address before `/api`.
    pub url: String,
    /// Basic authentication, with `password_env` or `password_file`.
    pub username: Option<String>,
    /// The environment variable that holds the password.
    pub password_env: Option<String>,
    /// The file that holds the password; white space at its end does not count.
    pub password_file: Option<PathBuf>,
    /// The environment variable that holds a token.
    pub token_env: Option<String>,
    /// The file that holds a token; white space at its end does not count.
    pub token_file: Option<PathBuf>,
    /// DHIS2: the data set that values of a measure belong to, by the measure's id.
    #[serde(default)]
    pub data_sets: BTreeMap<String, String>,
    /// DHIS2: after a push that was taken whole, register the data set as complete for the org unit and period.
    #[serde(default)]
    pub complete: bool,
    /// DHIS2: the uid of the attribute option combo that values are stored under; without it, the default one.
    #[serde(default)]
    pub attribute_option_combo: Option<String>,
    /// Seconds that one request may take.
    #[serde(default = "sixty")]
    pub timeout_s: u32,
}

fn sixty() -> u32 {
    60
}

/// What a destination speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    Dhis2,
}

/// How to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    None,
    Basic {
        username: String,
        password: Secret,
    },
    /// For DHIS2 a personal access token: `Authorization: ApiToken …`.
    Token(Secret),
}

impl Destination {
    /// Reads the secret that the settings name; it is read at every call, so that a changed file counts at once.
    pub fn credentials(&self) -> Result<Credentials, ConfigError> {
        if let Some(password) = self.secret("password", &self.password_env, &self.password_file)? {
            return Ok(Credentials::Basic { username: self.username.clone().unwrap_or_default(), password });
        }
        Ok(match self.secret("token", &self.token_env, &self.token_file)? {
            Some(token) => Credentials::Token(token),
            None => Credentials::None,
        })
    }

    fn secret(&self, what: &str, variable: &Option<String>, file: &Option<PathBuf>) -> Result<Option<Secret>, ConfigError> {
        let wrong = |problem| ConfigError::Secret { destination: self.id.clone(), problem };
        read_secret(what, variable.as_deref(), file.as_deref()).map_err(wrong)
    }
}

pub(super) fn check(destinations: &[Destination]) -> Result<(), (&'static str, String)> {
    for (at, destination) in destinations.iter().enumerate() {
        let id = &destination.id;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if id.is_empty() || !id.chars().all(plain) {
            return Err(("destinations.id", format!("destination {}: use letters, digits, - and _", at.saturating_add(1))));
        }
        if destinations.iter().take(at).any(|other| other.id == *id) {
            return Err(("destinations.id", format!("two destinations are called {id}: rename one")));
        }
        let host = destination.url.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some());
        if host.is_none_or(|uri| !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some())
            || destination.url.ends_with('/')
            || destination.url.contains('@')
        {
            return Err(("destinations.url", format!("destination {id}: write https://host/path without a user and a slash at the end")));
        }
        if destination.timeout_s == 0 {
            return Err(("destinations.timeout_s", format!("destination {id}: write a number of 1 or more")));
        }
        let ways = [
            destination.password_env.is_some(),
            destination.password_file.is_some(),
            destination.token_env.is_some(),
            destination.token_file.is_some(),
        ];
        if ways.iter().filter(|given| **given).count() > 1 {
            return Err(("destinations", format!("destination {id}: give one of password_env, password_file, token_env, token_file")));
        }
        let password = destination.password_env.is_some() || destination.password_file.is_some();
        if password != destination.username.is_some() {
            return Err(("destinations.username", format!("destination {id}: a username and a password_env or password_file go together")));
        }
    }
    Ok(())
}
