//! A DHIS2 server that is ready to be spoken to.

use crate::config::{Credentials, Destination, DestinationKind, Secret};
use reqwest::Url;
use std::collections::BTreeMap;
use std::time::Duration;

/// The ConceptMap from measure groups to data elements.
pub const DATA_ELEMENT_MAP: &str = "https://lango.health/fhir/ConceptMap/dhis2-data-element";
/// The ConceptMap from stratum values to category options.
pub const CATEGORY_OPTION_MAP: &str = "https://lango.health/fhir/ConceptMap/dhis2-category-option";
/// The ConceptMap from facilities to org units.
pub const ORG_UNIT_MAP: &str = "https://lango.health/fhir/ConceptMap/dhis2-org-unit";

/// Why a destination cannot be used; the words name settings, never their secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DestinationError {
    #[error(
        "destination {id}: url must be an http or https address without user name, query or fragment, such as https://dhis2.example.org/hmis"
    )]
    Url { id: String },
    #[error("destination {id}: give username with password_env, or token_env")]
    Credentials { id: String },
    #[error("destination {id}: data_sets names no data set for measure {measure}; add {measure} = \"UID\" under [destinations.data_sets]")]
    NoDataSet { id: String, measure: String },
    #[error("destination {id}: the data set of measure {measure} must be a DHIS2 uid: a letter, then ten letters or digits")]
    DataSet { id: String, measure: String },
    #[error("destination {id}: attribute_option_combo must be a DHIS2 uid: a letter, then ten letters or digits")]
    AttributeOptionCombo { id: String },
}

/// The value of the `Authorization` header, in parts.
#[derive(Clone, Debug)]
pub(super) enum Login {
    Basic { username: String, password: Secret },
    ApiToken(Secret),
    Bearer(Secret),
}

/// One `[[destinations]]` entry with `kind = "dhis2"`, checked, its secret read.
#[derive(Clone, Debug)]
pub struct Dhis2Destination {
    pub id: String,
    /// Ends with `/`.
    pub(super) base: Url,
    pub(super) login: Login,
    /// Data set uid by measure id.
    data_sets: BTreeMap<String, String>,
    /// Whether a push that was taken whole is followed by a registration of completeness.
    pub(super) complete: bool,
    /// Uid of the attribute option combo; `None`: the default one.
    pub attribute_option_combo: Option<String>,
    /// For a whole request, its answer included.
    pub(super) timeout: Duration,
}

impl Dhis2Destination {
    /// Checks `settings`; `credentials` are what [`Destination::credentials`] read. A token that begins with `d2pat_` is a
    /// personal access token (`ApiToken`), any other is sent as `Bearer`.
    pub fn new(settings: &Destination, credentials: Credentials) -> Result<Dhis2Destination, DestinationError> {
        let DestinationKind::Dhis2 = settings.kind;
        let id = || settings.id.clone();
        let login = match credentials {
            Credentials::Basic { username, password } => Login::Basic { username, password },
            Credentials::Token(token) if token.expose().starts_with("d2pat_") => Login::ApiToken(token),
            Credentials::Token(token) => Login::Bearer(token),
            Credentials::None => return Err(DestinationError::Credentials { id: id() }),
        };
        if let Some((measure, _)) = settings.data_sets.iter().find(|(_, uid)| !is_uid(uid)) {
            return Err(DestinationError::DataSet { id: id(), measure: measure.clone() });
        }
        if settings.attribute_option_combo.as_deref().is_some_and(|uid| !is_uid(uid)) {
            return Err(DestinationError::AttributeOptionCombo { id: id() });
        }
        Ok(Dhis2Destination {
            id: id(),
            base: base_url(&settings.url).ok_or_else(|| DestinationError::Url { id: id() })?,
            login,
            data_sets: settings.data_sets.clone(),
            complete: settings.complete,
            attribute_option_combo: settings.attribute_option_combo.clone(),
            timeout: Duration::from_secs(u64::from(settings.timeout_s.clamp(1, LONGEST_S))),
        })
    }

    /// The data set that the counts of a measure go to; `measure` is its id.
    pub fn data_set(&self, measure: &str) -> Result<&str, DestinationError> {
        let missing = || DestinationError::NoDataSet { id: self.id.clone(), measure: measure.to_owned() };
        self.data_sets.get(measure).map(String::as_str).ok_or_else(missing)
    }
}

/// A request must have its answer before the outbox stops the push that it belongs to.
const LONGEST_S: u32 = 90;

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

    fn settings(url: &str, data_set: &str) -> Destination {
        let text = format!(
            "id = \"hmis\"\nkind = \"dhis2\"\nurl = \"{url}\"\nusername = \"lango\"\npassword_env = \"P\"\n[data_sets]\nopd = \"{data_set}\""
        );
        toml::from_str(&text).unwrap()
    }

    fn basic() -> Credentials {
        Credentials::Basic { username: "lango".into(), password: Secret::new("district-secret") }
    }

    #[test]
    fn a_destination_is_ready_with_its_secret_hidden() {
        let destination = Dhis2Destination::new(&settings("https://dhis2.example.org/hmis", "VEM58nY22sO"), basic()).unwrap();
        assert_eq!(destination.base.as_str(), "https://dhis2.example.org/hmis/");
        assert!(!format!("{destination:?}").contains("district-secret"));
        assert_eq!(destination.data_set("opd"), Ok("VEM58nY22sO"));
        assert!(destination.data_set("anc").unwrap_err().to_string().contains("anc = \"UID\""));
    }

    #[test]
    fn a_personal_access_token_is_told_from_other_tokens() {
        let login = |token: &str| {
            Dhis2Destination::new(&settings("https://x", "VEM58nY22sO"), Credentials::Token(Secret::new(token))).map(|d| d.login).unwrap()
        };
        assert!(matches!(login("d2pat_abc"), Login::ApiToken(_)));
        assert!(matches!(login("eyJh"), Login::Bearer(_)));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_name_of_the_setting() {
        let refused = |url: &str, set: &str, login| Dhis2Destination::new(&settings(url, set), login).unwrap_err().to_string();
        for url in ["dhis2.example.org", "ftp://x/", "https://u:p@x/", "https://x/?a=1", "https://x/#f", "file:///etc"] {
            assert!(refused(url, "VEM58nY22sO", basic()).contains("url"), "{url}");
        }
        assert!(refused("https://x", "../../x", basic()).contains("data set"));
        assert!(refused("https://x", "VEM58nY22sO", Credentials::None).contains("token_env"));
    }
}
