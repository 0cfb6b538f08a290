//! Destinations: systems that lango pushes to.
//!
//! A destination is named in `lango.toml` under `[[destinations]]` with an `id` and a `kind`; [`DestinationSettings`] is that
//! entry. In come what other rooms made (a MeasureReport for [`dhis2`]), out go requests to a foreign system and its verdict, in
//! words that an operator can act on. A delivery is a job in [`crate::outbox`]; a destination says for every try whether it is
//! done, may go better later, or needs a person.
//!
//! A destination must never know how a number was counted or a resource was stored, and it must never put a secret or patient
//! data into an error, a log or a job's result.

pub mod dhis2;

use serde::Deserialize;

/// One `[[destinations]]` entry of `lango.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DestinationSettings {
    Dhis2(dhis2::Dhis2Settings),
}

impl DestinationSettings {
    /// The name by which commands and jobs speak of the destination.
    pub fn id(&self) -> &str {
        match self {
            DestinationSettings::Dhis2(settings) => &settings.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        destinations: Vec<DestinationSettings>,
    }

    #[test]
    fn a_destination_is_read_from_the_configuration_file() {
        let text = r#"
            [[destinations]]
            id = "hmis"
            kind = "dhis2"
            url = "https://dhis2.example.org/hmis"
            username = "lango"
            password_env = "HMIS_PASSWORD"
            data_set = "OPDdiagnos1"
        "#;
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.destinations[0].id(), "hmis");
        let misspelt = text.replace("password_env", "pasword_env");
        assert!(toml::from_str::<File>(&misspelt).is_err(), "a misspelt setting is not ignored");
        assert!(toml::from_str::<File>(&text.replace("\"dhis2\"", "\"dhis3\"")).is_err());
    }
}
