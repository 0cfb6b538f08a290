//! From file, environment and command line to [`Settings`].

use super::{KEYS, Settings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The file that is read when none is named, if it is there.
const DEFAULT_FILE: &str = "lango.toml";

/// Variables that are no settings: the file, and the log filter that `main` reads.
const OTHER_VARIABLES: [&str; 2] = ["LANGO_CONFIG", "LANGO_LOG"];

/// Why there are no settings; the words say where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{file} cannot be read ({error}): name another file with --config, or make it readable")]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{file}{place}: {problem}")]
    File { file: PathBuf, place: String, problem: String },
    #[error("{source_name}: {problem}")]
    Source { source_name: String, problem: String },
    #[error("destination {destination}: {problem}")]
    Secret { destination: String, problem: String },
    #[error("holder {facility}: {problem}")]
    Holder { facility: String, problem: String },
}

/// What the command line says over file and environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub listen: Option<String>,
    pub database: Option<String>,
    pub auth: Option<String>,
}

/// The settings, and what the operator should hear about where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// For the log, once there is one.
    pub warnings: Vec<String>,
}

/// Reads `file` (or `lango.toml`, if there is one), lays `environment` over it and `overrides` over both.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Loaded, ConfigError> {
    let environment: BTreeMap<String, String> =
        environment.into_iter().filter(|(name, value)| name.starts_with("LANGO_") && !value.is_empty()).collect();
    let named = file.map(Path::to_owned).or_else(|| environment.get("LANGO_CONFIG").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(ConfigError::Unreadable { file: path, error }),
    };
    let in_file =
        |error: toml::de::Error| ConfigError::File { file: path.clone(), place: place(&text, &error), problem: error.message().to_owned() };
    // Read as typed settings too, since only this tells the line of a wrong key or type.
    toml::from_str::<Settings>(&text).map_err(in_file)?;
    let mut table: Table = text.parse().map_err(in_file)?;
    let mut said_by: BTreeMap<&str, String> = BTreeMap::new();

    for key in KEYS {
        if let Some(text) = from_environment(&environment, &key.variable())? {
            let wrong = |problem: String| ConfigError::Source { source_name: key.variable(), problem };
            overlay(&mut table, key.path, key.value(&text).map_err(wrong)?).map_err(wrong)?;
            said_by.insert(key.path, key.variable());
        }
    }
    for (path, value) in [("listen", &overrides.listen), ("database", &overrides.database), ("auth", &overrides.auth)] {
        if let Some(value) = value {
            let flag = format!("--{path}");
            overlay(&mut table, path, Value::String(value.clone()))
                .map_err(|problem| ConfigError::Source { source_name: flag.clone(), problem })?;
            said_by.insert(path, flag);
        }
    }
    let settings: Settings = table.try_into().map_err(in_file)?;
    settings.check().map_err(|(key, problem)| match said_by.get(key) {
        Some(source_name) => ConfigError::Source { source_name: source_name.clone(), problem },
        None => ConfigError::File { file: path.clone(), place: format!(": {key}"), problem },
    })?;
    let of_destinations = settings.destinations.iter().flat_map(|destination| [&destination.password_env, &destination.token_env]);
    let secrets: Vec<&String> = of_destinations.chain(settings.holders.iter().map(|holder| &holder.secret_env)).flatten().collect();
    let warnings = environment
        .keys()
        .filter(|name| !KEYS.iter().any(|key| key.variable() == name.strip_suffix("_FILE").unwrap_or(name)))
        .filter(|name| !OTHER_VARIABLES.contains(&name.as_str()) && !secrets.contains(name))
        .map(|name| format!("the environment variable {name} names no setting: see docs/configuration.md"))
        .collect();
    Ok(Loaded { settings, warnings })
}

/// The variable's text, or that of the file which `name`_FILE names, as container platforms hand over secrets.
fn from_environment(environment: &BTreeMap<String, String>, name: &str) -> Result<Option<String>, ConfigError> {
    if let Some(text) = environment.get(name) {
        return Ok(Some(text.clone()));
    }
    let variable = format!("{name}_FILE");
    let Some(file) = environment.get(&variable) else { return Ok(None) };
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) => {
            let problem = format!("the file {file} cannot be read ({error}): make it readable for lango");
            Err(ConfigError::Source { source_name: variable, problem })
        }
    }
}

/// The line and key of an error. Its own display would quote the line, which may hold a password that should not be there.
fn place(text: &str, error: &toml::de::Error) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return String::new() };
    let line = before.matches('\n').count();
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    let number = line.saturating_add(1);
    key.map_or(format!(", line {number}"), |key| format!(", line {number}: {key}"))
}

/// Sets `path` and says at once whether the settings still have the right types, so that the blame is exact.
fn overlay(table: &mut Table, path: &str, value: Value) -> Result<(), String> {
    match path.split_once('.') {
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        }
        None => {
            table.insert(path.to_owned(), value);
        }
    }
    table.clone().try_into::<Settings>().map(drop).map_err(|error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn from(text: &str, environment: &[(&str, &str)], overrides: Overrides) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lango.toml");
        std::fs::write(&file, text).unwrap();
        load(Some(&file), environment.iter().map(|(name, value)| (name.to_string(), value.to_string())), &overrides)
    }

    fn complaint(text: &str, environment: &[(&str, &str)]) -> String {
        from(text, environment, Overrides::default()).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let loaded = from("", &[], Overrides::default()).unwrap();
        assert_eq!(loaded.settings, Settings::default());
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
        let text = "listen = \"127.0.0.1:1\"\ndatabase = \"sqlite:file.db\"\nauth = \"open\"\n[limits]\nbody_mb = 1\npage_max = 50";
        let environment = [("LANGO_LISTEN", "127.0.0.1:2"), ("LANGO_DATABASE", "sqlite:environment.db"), ("LANGO_LIMITS_BODY_MB", "2")];
        let overrides = Overrides { listen: Some("127.0.0.1:3".into()), ..Overrides::default() };
        let settings = from(text, &environment, overrides).unwrap().settings;
        assert_eq!(settings.listen.port(), 3);
        assert_eq!(settings.database.expose(), "sqlite:environment.db");
        assert_eq!(settings.auth, AuthMode::Open);
        assert_eq!((settings.limits.body_mb, settings.limits.page_max, settings.limits.page_default), (2, 50, 20));
    }

    #[test]
    fn destinations_come_from_the_file_or_the_environment() {
        let text = "[[destinations]]\nid = \"moh\"\nkind = \"dhis2\"\nurl = \"https://dhis2.example.org/hmis\"\nusername = \"lango\"\npassword_env = \"LANGO_MOH_PASSWORD\"";
        let loaded = from(text, &[("LANGO_MOH_PASSWORD", "x")], Overrides::default()).unwrap();
        assert_eq!(loaded.settings.destinations[0].kind, DestinationKind::Dhis2);
        assert!(loaded.warnings.is_empty(), "a variable that a destination names is known");
        let inline = "[{id = \"moh\", kind = \"dhis2\", url = \"http://localhost:9\", token_env = \"T\"}]";
        let settings = from("", &[("LANGO_DESTINATIONS", inline)], Overrides::default()).unwrap().settings;
        assert_eq!(settings.destinations[0].token_env.as_deref(), Some("T"));
    }

    #[test]
    fn every_complaint_names_its_source_and_key() {
        let file = complaint("lisen = \"x\"", &[]);
        assert!(file.contains("lango.toml") && file.contains("line 1") && file.contains("`lisen`") && file.contains("`listen`"), "{file}");
        let nested = complaint("[limits]\nbody_mb = \"big\"", &[]);
        assert!(nested.contains("line 2") && nested.contains("body_mb"), "{nested}");
        let variable = complaint("", &[("LANGO_LIMITS_PAGE_MAX", "many")]);
        assert!(variable.starts_with("LANGO_LIMITS_PAGE_MAX: "), "{variable}");
        let zone = complaint("zone = \"Africa/Nowhere\"", &[]);
        assert!(zone.contains("lango.toml: zone: write the IANA name"), "{zone}");
        let zone = complaint("", &[("LANGO_ZONE", "Africa/Nowhere")]);
        assert!(zone.starts_with("LANGO_ZONE: write the IANA name"), "{zone}");
        let secret = complaint("database = [\"postgres://u:hush@db/x\"]", &[]);
        assert!(!secret.contains("hush"), "{secret}");
        let overrides = Overrides { auth: Some("none".into()), ..Overrides::default() };
        let flag = from("", &[], overrides).unwrap_err().to_string();
        assert!(flag.starts_with("--auth: ") && flag.contains("smart"), "{flag}");
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for text in [
            "base_url = \"https://hie.example.org/\"",
            "base_url = \"hie.example.org\"",
            "[limits]\npage_max = 0",
            "[limits]\npage_default = 2000",
            "[operator]\ncode = \"\"",
            "[systems]\nfacility = \"mfl\"",
            "[[destinations]]\nid = \"a b\"\nkind = \"dhis2\"\nurl = \"http://x\"",
            "[[destinations]]\nid = \"a\"\nkind = \"dhis2\"\nurl = \"http://u:p@x\"",
            "[[destinations]]\nid = \"a\"\nkind = \"dhis2\"\nurl = \"http://x\"\npassword_env = \"P\"",
            "[[destinations]]\nid = \"a\"\nkind = \"dhis2\"\nurl = \"http://x\"\npassword = \"in the file\"",
        ] {
            assert!(from(text, &[], Overrides::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_variable_is_a_warning() {
        let loaded = from("", &[("LANGO_PORT_8080_TCP", "tcp://x"), ("LANGO_LOG", "info")], Overrides::default()).unwrap();
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].contains("LANGO_PORT_8080_TCP"));
    }

    #[test]
    fn a_variable_may_name_a_file_that_holds_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "postgres://lango:hush@db/hie\n").unwrap();
        let environment = [("LANGO_DATABASE_FILE", file.to_str().unwrap())];
        let loaded = from("", &environment, Overrides::default()).unwrap();
        assert_eq!(loaded.settings.database.expose(), "postgres://lango:hush@db/hie");
        assert!(loaded.warnings.is_empty());
        std::fs::remove_file(&file).unwrap();
        assert!(complaint("", &environment).starts_with("LANGO_DATABASE_FILE: the file "));
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = load(Some(Path::new("/nonexistent/lango.toml")), [], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/lango.toml") && error.contains("--config"), "{error}");
    }

    #[test]
    fn secrets_are_read_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "d2pat_x\n").unwrap();
        let text = format!("[[destinations]]\nid = \"moh\"\nkind = \"dhis2\"\nurl = \"http://x\"\ntoken_file = \"{}\"", file.display());
        let settings = from(&text, &[], Overrides::default()).unwrap().settings;
        assert_eq!(settings.destinations[0].credentials().unwrap(), Credentials::Token(Secret::new("d2pat_x")));
        std::fs::remove_file(&file).unwrap();
        assert!(settings.destinations[0].credentials().unwrap_err().to_string().contains("token_file"));
    }

    /// Flattens the default settings to `path = value` lines.
    fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Table(table) => {
                for (key, value) in table {
                    flatten(&format!("{prefix}{}{key}", if prefix.is_empty() { "" } else { "." }), value, into);
                }
            }
            value => {
                into.insert(prefix.to_owned(), value.to_string());
            }
        }
    }

    #[test]
    fn the_list_of_keys_is_the_settings() {
        let mut defaults = BTreeMap::new();
        flatten("", &Value::try_from(Settings::default()).unwrap(), &mut defaults);
        let audit = AuditSettings { checkpoint_file: Some("x".into()), ..AuditSettings::default() };
        let tls = Tls { certificate: Some("x".into()), key: Some("x".into()), client_ca: Some("x".into()) };
        let notices = Notices { url: Some("x".into()), token_file: Some("x".into()), ..Notices::default() };
        let with_options =
            Settings { base_url: Some("x".into()), templates_dir: Some("x".into()), audit, tls, notices, ..Settings::default() };
        let mut all = BTreeMap::new();
        flatten("", &Value::try_from(with_options).unwrap(), &mut all);
        for path in all.keys() {
            let key = KEYS.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("{path} is not in KEYS"));
            assert_eq!(key.default, defaults.get(path).map_or("", String::as_str), "{path}");
        }
        assert_eq!(KEYS.len(), all.len());
    }

    #[test]
    fn the_documentation_names_every_setting_with_its_variable_and_default() {
        let page = include_str!("../../docs/configuration.md");
        for key in KEYS {
            let default = if key.default.is_empty() { "" } else { key.default };
            let row = format!(
                "| `{}` | `{}` | {} |",
                key.path,
                key.variable(),
                if default.is_empty() { "none".into() } else { format!("`{default}`") }
            );
            assert!(page.contains(&row), "docs/configuration.md lacks a row that begins {row}");
        }
        let destination = Destination {
            id: "a".into(),
            kind: DestinationKind::Dhis2,
            url: "http://x".into(),
            username: Some("u".into()),
            password_env: Some("p".into()),
            password_file: Some("p".into()),
            token_env: Some("t".into()),
            token_file: Some("t".into()),
            data_sets: [("m".to_owned(), "d".to_owned())].into(),
            complete: false,
            attribute_option_combo: None,
            timeout_s: 1,
        };
        let Value::Table(table) = Value::try_from(destination).unwrap() else { panic!("a table") };
        for key in table.keys() {
            assert!(page.contains(&format!("| `{key}` |")), "docs/configuration.md does not name {key} of destinations");
        }
    }
}
