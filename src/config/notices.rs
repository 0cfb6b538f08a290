//! `[notices]`: who is told that somebody is to be told something.

use super::Secret;
use super::load::ConfigError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where notices are announced; without an address they lie where their readers find them, and nobody is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// Takes a POST for each notice.
    pub url: Option<String>,
    /// The file that holds a bearer token; white space at its end does not count.
    pub token_file: Option<PathBuf>,
    /// Seconds that one request may take.
    pub timeout_s: u32,
}

impl Default for Notices {
    fn default() -> Self {
        Notices { url: None, token_file: None, timeout_s: 30 }
    }
}

impl Notices {
    /// The bearer token; read at every call, so that a changed file counts at once.
    pub fn token(&self) -> Result<Option<Secret>, ConfigError> {
        let Some(file) = &self.token_file else { return Ok(None) };
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(Secret::new(text.trim_end()))),
            Err(error) => {
                let problem = format!("the file {} cannot be read ({error}): make it readable for lango", file.display());
                Err(ConfigError::Source { source_name: "notices.token_file".to_owned(), problem })
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(url) = &self.url {
            let host = url.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some());
            if host.is_none_or(|uri| !matches!(uri.scheme_str(), Some("http" | "https"))) || url.contains('@') {
                return Err(("notices.url", "write https://host/path, without a user".into()));
            }
        } else if self.token_file.is_some() {
            return Err(("notices.url", "say where notices go, or leave notices.token_file away".into()));
        }
        if self.timeout_s == 0 {
            return Err(("notices.timeout_s", "write a number of 1 or more".into()));
        }
        Ok(())
    }
}
