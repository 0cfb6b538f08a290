//! `[[holders]]`: facilities whose records stay with them, and how lango may ask for them.

use super::secret::read_secret;
use super::{Secret, load::ConfigError};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One facility that lango asks. That it stands here is the operator's word that lango may talk to this address, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The facility's code.
    pub facility: String,
    /// Its FHIR base, without a slash at the end. Its Endpoint must say the same.
    pub url: String,
    #[serde(default)]
    pub kind: HolderKind,
    /// The name by which the holder knows lango; without it lango asks without a login.
    pub client_id: Option<String>,
    /// PEM file of the private key (EC P-384 or RSA) that lango signs its assertions with.
    pub key_file: Option<PathBuf>,
    /// The environment variable that holds lango's secret at the holder.
    pub secret_env: Option<String>,
    /// The file that holds lango's secret; white space at its end does not count.
    pub secret_file: Option<PathBuf>,
    /// The scopes that lango asks for; without it those that it is registered with.
    pub scope: Option<String>,
    /// Where tokens are given, if that is another host than the FHIR base's, whose SMART configuration otherwise says.
    pub token_url: Option<String>,
    /// PEM file of the authorities that may sign its certificate; no others are believed then.
    pub ca_file: Option<PathBuf>,
    /// Seconds that it may take to answer.
    #[serde(default = "five")]
    pub timeout_s: u32,
}

fn five() -> u32 {
    5
}

/// How a holder is asked for a patient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// By `Patient/$record-lookup`: it is a lango.
    #[default]
    Lango,
    /// By a search for the Patient, and its `$everything`.
    Fhir,
}

/// How lango proves itself to a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderLogin {
    None,
    Secret {
        client_id: String,
        secret: Secret,
    },
    /// The private key in PEM.
    Key {
        client_id: String,
        key: Secret,
    },
}

impl Holder {
    /// Reads the key or secret that the settings name, at every call, so that a changed file counts at once.
    pub fn login(&self) -> Result<HolderLogin, ConfigError> {
        let wrong = |problem| ConfigError::Holder { facility: self.facility.clone(), problem };
        let client_id = self.client_id.clone().unwrap_or_default();
        if let Some(key) = read_secret("key", None, self.key_file.as_deref()).map_err(wrong)? {
            return Ok(HolderLogin::Key { client_id, key });
        }
        Ok(match read_secret("secret", self.secret_env.as_deref(), self.secret_file.as_deref()).map_err(wrong)? {
            Some(secret) => HolderLogin::Secret { client_id, secret },
            None => HolderLogin::None,
        })
    }
}

/// Why the holders do not make sense, said of the key that must change.
pub(super) fn check(holders: &[Holder]) -> Result<(), (&'static str, String)> {
    const KEY: &str = "holders";
    for (place, holder) in holders.iter().enumerate() {
        let number = place.saturating_add(1);
        let ways = [holder.key_file.is_some(), holder.secret_env.is_some(), holder.secret_file.is_some()];
        let given = ways.iter().filter(|given| **given).count();
        let wrong = if holder.facility.is_empty() || holders.iter().take(place).any(|other| other.facility == holder.facility) {
            "facility must be there, and each once"
        } else if !is_address(&holder.url) || holder.url.ends_with('/') {
            "url must be an address such as https://emr.example.org/fhir, without a user and a slash at the end; plain http is for this machine only"
        } else if holder.token_url.as_ref().is_some_and(|url| !is_address(url)) {
            "token_url must be an https address without a user"
        } else if given > 1 {
            "give one of key_file, secret_env, secret_file"
        } else if (given == 1) != holder.client_id.as_ref().is_some_and(|id| !id.is_empty()) {
            "client_id and one of key_file, secret_env, secret_file go together"
        } else if holder.ca_file.is_some() && holder.url.starts_with("http:") {
            "ca_file is for an address with https"
        } else if holder.timeout_s == 0 {
            "timeout_s must be 1 or more"
        } else {
            continue;
        };
        return Err((KEY, format!("holder {number}: {wrong}")));
    }
    Ok(())
}

/// Records and tokens go there, so it is encrypted unless it does not leave the machine.
fn is_address(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default();
    let here = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    plain && !host.is_empty() && (url.scheme() == "https" || url.scheme() == "http" && here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_fetched_encrypted_or_from_this_machine() {
        for good in ["https://emr.example.org/fhir", "http://127.0.0.1:9/fhir", "http://[::1]/fhir", "http://localhost/fhir"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["http://emr.example.org/fhir", "http://10.0.0.1/fhir", "https://u:p@emr.example.org", "https://x/fhir?a=b", "file:///x", "x"]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
