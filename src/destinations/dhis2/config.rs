//! What the operator writes about a DHIS2 server, and what it becomes with its secrets read.

use reqwest::Url;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// The keys of a `[[destinations]]` entry with `kind = "dhis2"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhis2Settings {
    /// The name of this destination.
    pub id: String,
    /// The server's address, up to and without `/api`.
    pub url: String,
    pub username: Option<String>,
    /// The environment variable that holds the password.
    pub password_env: Option<String>,
    /// The environment variable that holds a personal access token (`d2pat_…`) or another bearer token.
    pub token_env: Option<String>,
    /// The data set's uid.
    pub data_set: String,
    /// How org units are named: `code` (default) or `uid`.
    #[serde(default)]
    pub org_unit_id_scheme: OrgUnitScheme,
    #[serde(default)]
    pub concept_maps: MapUrls,
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout_seconds: u64,
    /// For a whole request, its answer included.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_connect_timeout() -> u64 {
    10
}

fn default_timeout() -> u64 {
    60
}

/// The canonical URLs of the ConceptMaps that say what things are called in DHIS2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MapUrls {
    /// Measure group to data element.
    pub data_element: String,
    /// Stratum value to category option.
    pub category_option: String,
    /// Facility code to org unit; facilities that it does not name are looked up by their own code.
    pub org_unit: String,
}

impl Default for MapUrls {
    fn default() -> Self {
        MapUrls {
            data_element: "https://lango.health/fhir/ConceptMap/dhis2-data-element".into(),
            category_option: "https://lango.health/fhir/ConceptMap/dhis2-category-option".into(),
            org_unit: "https://lango.health/fhir/ConceptMap/dhis2-org-unit".into(),
        }
    }
}

/// By which name DHIS2 knows an org unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrgUnitScheme {
    #[default]
    Code,
    Uid,
}

/// A password or token; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How lango shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: Secret,
    },
    /// A personal access token, sent as `Authorization: ApiToken …`.
    ApiToken(Secret),
    Bearer(Secret),
}

/// Why a destination cannot be used; the words name settings, never their secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error(
        "destination {id}: url must be an http or https address without user name, query or fragment, such as https://dhis2.example.org/hmis"
    )]
    Url { id: String },
    #[error("destination {id}: give either username and password_env, or token_env")]
    Credentials { id: String },
    #[error("destination {id}: the environment variable {variable} is not set; put the secret there")]
    Secret { id: String, variable: String },
    #[error("destination {id}: data_set must be a DHIS2 uid: a letter, then ten letters or digits")]
    DataSet { id: String },
    #[error("destination {id}: time-outs must be between 1 and 240 seconds")]
    Timeout { id: String },
}

/// A destination that is ready to be spoken to.
#[derive(Clone, Debug)]
pub struct Dhis2Destination {
    pub id: String,
    /// Ends with `/`.
    pub(super) base: Url,
    pub(super) credentials: Credentials,
    pub data_set: String,
    pub org_unit_id_scheme: OrgUnitScheme,
    pub concept_maps: MapUrls,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
}

impl Dhis2Settings {
    /// Checks the settings and reads the secrets; `env` is the environment.
    pub fn resolve(&self, env: impl Fn(&str) -> Option<String>) -> Result<Dhis2Destination, ConfigError> {
        let id = || self.id.clone();
        let secret = |variable: &str| {
            env(variable)
                .filter(|text| !text.is_empty())
                .map(Secret::new)
                .ok_or_else(|| ConfigError::Secret { id: id(), variable: variable.into() })
        };
        let credentials = match (&self.username, &self.password_env, &self.token_env) {
            (Some(username), Some(variable), None) => Credentials::Basic { username: username.clone(), password: secret(variable)? },
            (None, None, Some(variable)) => {
                let token = secret(variable)?;
                if token.reveal().starts_with("d2pat_") { Credentials::ApiToken(token) } else { Credentials::Bearer(token) }
            }
            _ => return Err(ConfigError::Credentials { id: id() }),
        };
        if !is_uid(&self.data_set) {
            return Err(ConfigError::DataSet { id: id() });
        }
        let seconds = |n: u64| (1..=240).contains(&n).then(|| Duration::from_secs(n)).ok_or_else(|| ConfigError::Timeout { id: id() });
        Ok(Dhis2Destination {
            id: id(),
            base: base_url(&self.url).ok_or_else(|| ConfigError::Url { id: id() })?,
            credentials,
            data_set: self.data_set.clone(),
            org_unit_id_scheme: self.org_unit_id_scheme,
            concept_maps: self.concept_maps.clone(),
            connect_timeout: seconds(self.connect_timeout_seconds)?,
            timeout: seconds(self.timeout_seconds)?,
        })
    }
}

fn base_url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !plain {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().push("");
    Some(url)
}

/// Whether `text` has the form of a DHIS2 uid.
pub(super) fn is_uid(text: &str) -> bool {
    text.len() == 11 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Dhis2Settings {
        toml::from_str("id = \"hmis\"\nurl = \"https://dhis2.example.org/hmis\"\nusername = \"lango\"\npassword_env = \"P\"\ndata_set = \"VEM58nY22sO\"").unwrap()
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "P" => Some("district-secret".into()),
            "T" => Some("d2pat_secret".into()),
            "J" => Some("jwt-secret".into()),
            _ => None,
        }
    }

    #[test]
    fn secrets_come_from_the_environment_and_are_never_printed() {
        let destination = settings().resolve(env).unwrap();
        assert_eq!(destination.base.as_str(), "https://dhis2.example.org/hmis/");
        assert!(!format!("{destination:?}").contains("district-secret"));
        let with = |variable: &str| {
            let settings = Dhis2Settings { username: None, password_env: None, token_env: Some(variable.into()), ..settings() };
            settings.resolve(env).map(|d| d.credentials)
        };
        assert!(matches!(with("T"), Ok(Credentials::ApiToken(_))));
        assert!(matches!(with("J"), Ok(Credentials::Bearer(_))));
        assert_eq!(with("NONE").unwrap_err(), ConfigError::Secret { id: "hmis".into(), variable: "NONE".into() });
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_name_of_the_setting() {
        let refused = |change: fn(&mut Dhis2Settings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.resolve(env).unwrap_err().to_string()
        };
        for url in ["dhis2.example.org", "ftp://x/", "https://u:p@x/", "https://x/?a=1", "https://x/#f", "file:///etc"] {
            let settings = Dhis2Settings { url: url.into(), ..settings() };
            assert!(settings.resolve(env).unwrap_err().to_string().contains("url"), "{url}");
        }
        assert!(refused(|s| s.data_set = "../../x".into()).contains("data_set"));
        assert!(refused(|s| s.token_env = Some("T".into())).contains("either"));
        assert!(refused(|s| s.timeout_seconds = 0).contains("time-outs"));
    }
}
