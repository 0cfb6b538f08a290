//! What the operator decides: one file, `lango.toml`, that can be empty.
//!
//! In come the file, the environment (`LANGO_…`, one variable per setting) and the command line, the later over the
//! earlier; out comes one typed [`Settings`] that is right as a whole, or words that name the file or variable, the key
//! and what to do. An unknown key is an error, because a misspelt setting that is silently ignored costs a night; an
//! unknown `LANGO_…` variable is only a warning, because container platforms make up variables of their own.
//!
//! Passwords and tokens never stand in the file: it names the environment variable or the file that holds them
//! ([`Secret`]), and nothing prints them.
//!
//! This room knows no database and no HTTP; of other rooms only the words in which some settings are written (how much is validated,
//! which consent policy holds). `docs/configuration.md` says the same for operators; a test
//! compares the two.

mod destination;
mod holder;
mod issuer;
mod keys;
mod load;
mod notices;
mod secret;

pub use destination::{Credentials, Destination, DestinationKind};
pub use holder::{Holder, HolderKind, HolderLogin};
pub use issuer::Issuer;
pub use keys::{KEYS, Key};
pub use load::{ConfigError, Loaded, Overrides, load};
pub use notices::Notices;
pub use secret::{DatabaseUrl, Secret};

use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{Deployment, ImplicitPolicy};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the server listens; port 0 picks a free one.
    pub listen: SocketAddr,
    pub database: DatabaseUrl,
    pub auth: AuthMode,
    /// How clients reach the server, without a slash at the end, such as `https://hie.example.org`; `None`: as it listens.
    pub base_url: Option<String>,
    /// IANA time zone that dates without an offset, days and reporting periods are meant in.
    pub zone: String,
    /// Folder of Data Templates that replace or add to the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// Mandatory marks inside the blocks of a Data Template refuse a record; otherwise they only warn.
    pub strict_templates: bool,
    /// A PUT to an id that was never used creates the resource; otherwise the server gives all ids.
    pub update_create: bool,
    /// How much is checked of what is written.
    pub validation: crate::validate::Level,
    /// FHIR packages (`.tgz`) and folders whose profiles and terminology are loaded at start.
    pub packages: Vec<PathBuf>,
    pub log_format: LogFormat,
    pub operator: Operator,
    pub limits: Limits,
    pub search: Search,
    pub systems: Systems,
    pub consent: ConsentSettings,
    pub audit: AuditSettings,
    pub destinations: Vec<Destination>,
    pub notices: Notices,
    pub tls: Tls,
    pub cors: Cors,
    /// Outside issuers whose access tokens are believed.
    pub issuers: Vec<Issuer>,
    /// Facilities whose records stay with them, and that lango may ask.
    pub holders: Vec<Holder>,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Clients with scopes: bearer tokens, and Basic on the HDU endpoints.
    Smart,
    /// Every caller has every right; on loopback addresses only.
    Open,
}

/// How log lines look on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// The organisation that runs this server; owner of what no facility sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    pub code: String,
    pub name: String,
}

/// The server's own TLS; without a certificate it speaks plain HTTP, for a proxy or a loopback address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate and those that lead to its root.
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key.
    pub key: Option<PathBuf>,
    /// PEM file of those who sign clients' certificates.
    pub client_ca: Option<PathBuf>,
}

/// Which web pages may call from a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins such as `https://app.example.org`; empty: none.
    pub origins: Vec<String>,
}

/// How much one request may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// MiB of a request's body as sent.
    pub body_mb: u32,
    /// MiB of a request's body after decompression.
    pub decompressed_mb: u32,
    /// MiB that the bodies of all requests under way hold together, as they are read; small ones are not counted.
    pub bodies_mb: u32,
    /// Entries of one Bundle.
    pub bundle_entries: u32,
    /// Records of one Data Template payload.
    pub template_records: u32,
    /// Entries of a search page when the request does not say.
    pub page_default: u32,
    /// Entries of a search page at most.
    pub page_max: u32,
    /// Lookups that one client may make in a minute.
    pub lookups_per_client: u32,
    /// Lookups that one client may make of one person in a minute.
    pub lookups_per_patient: u32,
    /// Patients whose records one practitioner may open by breaking the glass in an hour; 0: any number.
    pub emergencies_per_practitioner: u32,
    /// The same by all that one client signs for; 0: any number.
    pub emergencies_per_client: u32,
    /// Resources that one conditional delete may delete; 1: one that matches several is refused.
    pub delete_matches: u32,
    /// Requests a second of one client, averaged; 0: any number.
    pub requests_per_second: u32,
    /// Requests of one client at once; 0: any number.
    pub requests_at_once: u32,
    /// Seconds that one request may take; 0: any time.
    pub request_s: u32,
    /// Answers in a minute that tell one client of one patient what others contributed; 0: any number.
    pub reads_per_patient: u32,
    /// Patients in an hour of whom one client is told what others contributed; 0: any number.
    pub patients_per_hour: u32,
    /// Seconds after which a lookup answers without the holders that have not answered.
    pub holders_s: u32,
    /// Questions to holders under way at once.
    pub holders_at_once: u32,
    /// MiB of one holder's answer about one patient.
    pub holder_mb: u32,
    /// Seconds for which a holder that failed several times in a row is left alone.
    pub holder_rest_s: u32,
}

/// What searches are offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// Index the words of narratives and contents, for `_text` and `_content`.
    pub full_text: bool,
}

/// Identifier systems that lango gives to codes that arrive bare.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Systems {
    pub facility: String,
    pub practitioner: String,
    /// Systems whose identifiers are one person's everywhere: Patients that share one are linked.
    pub strong: Vec<String>,
}

/// What holds where a patient's consent does not say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsentSettings {
    /// One of IHE PCF's policies.
    pub policy: ImplicitPolicy,
    /// Codes of v3-ActCode whose resources stay closed when the glass is broken.
    pub break_glass_exempt: Vec<String>,
    /// Minutes for which broken glass stays open; never longer than the token that broke it.
    pub break_glass_minutes: u32,
}

impl ConsentSettings {
    pub fn deployment(&self) -> Deployment {
        Deployment {
            implicit: self.policy,
            break_glass_exempt: self.break_glass_exempt.iter().map(|code| Coding::sensitivity(code)).collect(),
        }
    }
}

impl Default for ConsentSettings {
    fn default() -> Self {
        ConsentSettings { policy: ImplicitPolicy::Deny, break_glass_exempt: vec!["PSYTHPN".to_owned()], break_glass_minutes: 5 }
    }
}

/// What is recorded of requests, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    pub record: AuditMode,
    /// Days after which events are removed; 0: never.
    pub keep_days: u32,
    /// Where signed checkpoints are written besides the database, a line each; best on another machine's disk.
    pub checkpoint_file: Option<PathBuf>,
}

/// When requests are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditMode {
    /// Under `auth = "smart"`.
    #[default]
    Smart,
    Always,
    Never,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            database: DatabaseUrl::new("sqlite:lango.db"),
            auth: AuthMode::Smart,
            base_url: None,
            zone: "UTC".to_owned(),
            templates_dir: None,
            strict_templates: false,
            update_create: true,
            validation: crate::validate::Level::Structure,
            packages: Vec::new(),
            log_format: LogFormat::Text,
            operator: Operator::default(),
            limits: Limits::default(),
            search: Search::default(),
            systems: Systems::default(),
            consent: ConsentSettings::default(),
            audit: AuditSettings::default(),
            destinations: Vec::new(),
            notices: Notices::default(),
            tls: Tls::default(),
            cors: Cors::default(),
            issuers: Vec::new(),
            holders: Vec::new(),
        }
    }
}

impl Default for Operator {
    fn default() -> Self {
        Operator { code: "operator".to_owned(), name: "Operator".to_owned() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_mb: 64,
            decompressed_mb: 256,
            bodies_mb: 1024,
            bundle_entries: 50_000,
            template_records: 50_000,
            page_default: 20,
            page_max: 1000,
            delete_matches: 1,
            lookups_per_client: 1200,
            lookups_per_patient: 120,
            emergencies_per_practitioner: 10,
            emergencies_per_client: 60,
            requests_per_second: 10_000,
            requests_at_once: 256,
            request_s: 900,
            reads_per_patient: 600,
            patients_per_hour: 20_000,
            holders_s: 8,
            holders_at_once: 16,
            holder_mb: 8,
            holder_rest_s: 30,
        }
    }
}

impl Default for Systems {
    fn default() -> Self {
        Systems {
            facility: "urn:lango:facility".to_owned(),
            practitioner: "urn:lango:practitioner".to_owned(),
            strong: vec!["https://lango.health/id/nida".to_owned(), "https://lango.health/id/hcr".to_owned()],
        }
    }
}

impl Limits {
    /// Bytes of a request's body as sent.
    pub fn body_bytes(&self) -> usize {
        mebibytes(self.body_mb)
    }

    /// Bytes of a request's body after decompression.
    pub fn decompressed_bytes(&self) -> usize {
        mebibytes(self.decompressed_mb)
    }

    /// Bytes of the bodies of all requests under way.
    pub fn bodies_bytes(&self) -> usize {
        mebibytes(self.bodies_mb)
    }

    /// Bytes of one holder's answer about one patient.
    pub fn holder_bytes(&self) -> usize {
        mebibytes(self.holder_mb)
    }
}

fn mebibytes(count: u32) -> usize {
    usize::try_from(u64::from(count) << 20).unwrap_or(usize::MAX)
}

impl Settings {
    /// The address that clients use, without a slash at the end; `bound` is where the server really listens.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        match &self.base_url {
            Some(url) => url.clone(),
            None if bound.ip().is_unspecified() => format!("{}://localhost:{}", self.scheme(), bound.port()),
            None => format!("{}://{bound}", self.scheme()),
        }
    }

    /// Whether requests are recorded.
    pub fn records(&self) -> bool {
        match self.audit.record {
            AuditMode::Smart => self.auth == AuthMode::Smart,
            AuditMode::Always => true,
            AuditMode::Never => false,
        }
    }

    /// Where clients reach the server when the configuration does not say, and over what.
    fn scheme(&self) -> &'static str {
        if self.tls.certificate.is_some() { "https" } else { "http" }
    }

    /// Why the settings do not make sense together, said of the key that must change.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(url) = &self.base_url {
            let parsed = url.parse::<axum::http::Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
            if parsed.is_none_or(|uri| uri.host().is_none() || uri.query().is_some()) || url.ends_with('/') {
                return Err(("base_url", "write it as https://host, with a port or a path if need be and no slash at the end".into()));
            }
        }
        if jiff::tz::TimeZone::get(&self.zone).is_err() {
            return Err(("zone", "write the IANA name of a time zone, such as \"Africa/Dar_es_Salaam\"".into()));
        }
        if self.operator.code.is_empty() {
            return Err(("operator.code", "give the operator's own organisation a code".into()));
        }
        let limits = &self.limits;
        let counts = [
            ("limits.body_mb", limits.body_mb),
            ("limits.decompressed_mb", limits.decompressed_mb),
            ("limits.bodies_mb", limits.bodies_mb),
            ("limits.bundle_entries", limits.bundle_entries),
            ("limits.template_records", limits.template_records),
            ("limits.page_default", limits.page_default),
            ("limits.page_max", limits.page_max),
            ("limits.lookups_per_client", limits.lookups_per_client),
            ("limits.lookups_per_patient", limits.lookups_per_patient),
            ("consent.break_glass_minutes", self.consent.break_glass_minutes),
            ("limits.delete_matches", limits.delete_matches),
            ("limits.holders_s", limits.holders_s),
            ("limits.holders_at_once", limits.holders_at_once),
            ("limits.holder_mb", limits.holder_mb),
            ("limits.holder_rest_s", limits.holder_rest_s),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err((key, "write a number of 1 or more".into()));
        }
        if limits.page_default > limits.page_max {
            return Err(("limits.page_default", "write a number that is not above limits.page_max".into()));
        }
        for (key, system) in [("systems.facility", &self.systems.facility), ("systems.practitioner", &self.systems.practitioner)] {
            if !system.contains(':') || system.contains(char::is_whitespace) {
                return Err((key, "write an absolute URI, such as \"urn:lango:facility\" or \"https://…\"".into()));
            }
        }
        let tls = &self.tls;
        if tls.certificate.is_some() != tls.key.is_some() || (tls.client_ca.is_some() && tls.key.is_none()) {
            return Err(("tls.key", "give both tls.certificate and tls.key, or neither".into()));
        }
        let is_origin = |origin: &String| {
            let uri = origin.parse::<axum::http::Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
            uri.is_some_and(|uri| uri.authority().is_some_and(|host| origin.ends_with(host.as_str())))
        };
        if !self.cors.origins.iter().all(is_origin) {
            return Err(("cors.origins", "write each as https://host, with a port if need be and nothing after it".into()));
        }
        self.notices.check()?;
        issuer::check(&self.issuers)?;
        holder::check(&self.holders)?;
        destination::check(&self.destinations)
    }
}
