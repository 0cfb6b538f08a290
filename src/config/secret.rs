//! Words that must not be printed.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A password or token. Prints as `…`; [`Secret::expose`] is the only way to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The secret itself, for the one place that sends or verifies it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("…")
    }
}

/// The secret called `what` in a section of the settings that names the environment variable or the file which holds it; the error
/// says what to do.
pub(super) fn read_secret(what: &str, variable: Option<&str>, file: Option<&Path>) -> Result<Option<Secret>, String> {
    if let Some(variable) = variable {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
        let unset = || format!("{what}_env names the environment variable {variable}, which is not set: set it");
        return value.map(|value| Some(Secret::new(value))).ok_or_else(unset);
    }
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{what}_file names {}, which cannot be read ({error}): make it readable for lango", file.display()))?;
    Ok(Some(Secret::new(text.trim_end())))
}

/// `sqlite:PATH` or `postgres://user:password@host/name`; prints without the password.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    pub(super) fn new(url: &str) -> DatabaseUrl {
        DatabaseUrl(url.to_owned())
    }

    /// The URL with its password, for the database driver.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let path = url.strip_prefix("sqlite:");
        if path.is_some_and(|path| !path.is_empty()) || url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Ok(DatabaseUrl(url.to_owned()))
        } else {
            Err("write sqlite:PATH or postgres://user@host/name".to_owned())
        }
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        url.parse()
    }
}

impl From<DatabaseUrl> for String {
    fn from(url: DatabaseUrl) -> String {
        url.0
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str(&self.0) };
        // Parameters may hold a password too (`?password=`).
        let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
        match rest.rsplit_once('@') {
            Some((who, place)) => write!(f, "{scheme}://{}@{place}", who.split(':').next().unwrap_or_default()),
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_prints_without_its_password() {
        for (url, shown) in [
            ("sqlite:/var/lib/lango.db", "sqlite:/var/lib/lango.db"),
            ("postgres://lango:p@ss:w0rd@db:5432/hie", "postgres://lango@db:5432/hie"),
            ("postgres://db/hie?user=a&password=b", "postgres://db/hie"),
        ] {
            let parsed: DatabaseUrl = url.parse().unwrap();
            assert_eq!(format!("{parsed} {parsed:?}"), format!("{shown} {shown}"));
            assert_eq!(parsed.expose(), url);
        }
        assert_eq!(format!("{:?}", Secret::new("hush")), "…");
    }

    #[test]
    fn other_databases_are_refused() {
        for url in ["mysql://x/y", "lango.db", "sqlite:", ""] {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }
}
