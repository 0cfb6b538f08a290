//! Who calls, and what they may do.
//!
//! In come credentials: a client's secret, a signed assertion, an access token. Out comes a [`Caller`]: the facility that
//! owns what this caller sends, the [`Scope`](crate::store::Scope) that every query of theirs is decided under, which
//! interactions with which resources their SMART scopes allow ([`narrow`]), their roles, and what was signed about the
//! request ([`Claimed`]). Nothing in a payload or in a header of the request changes these: they follow from the
//! client's row in the database, read at every request, so that a disabled client is out at once, and from signatures.
//!
//! The room is also a small authorization server for SMART Backend Services
//! (<https://hl7.org/fhir/smart-app-launch/backend-services.html>): [`Access::grant`] turns a client's proof into an
//! access token, signed with a key of lango's own.
//!
//! It must never know HTTP (see [`crate::http::auth`]) or what a resource says.

mod assertion;
pub mod audit;
mod authorize;
mod caller;
mod claimed;
pub mod clients;
pub mod consent;
pub mod directory;
mod discovery;
pub mod gate;
mod grant;
mod identity;
mod issuers;
mod jwt;
mod key_sets;
pub mod keys;
mod narrow;
mod oauth;
pub mod people;
pub mod registration;
pub mod releases;
mod role;
mod scopes;
mod sealed;
mod secrets;
pub mod sessions;
mod tickets;
mod tokens;
mod totp;

pub use authorize::{Asked, AuthorizeError, Step, name_in};
pub use caller::{Bound, Caller, Forbidden, Reach};
pub use claimed::{Claimed, Code};
pub use grant::Grant;
pub use key_sets::BETWEEN_FETCHES;
pub use oauth::{OAuthError, TokenRequest};
pub use role::{Role, UnknownRole};
pub use scopes::{Context, Interaction, Params, Scopes};
pub use secrets::{generate_secret, hash_secret};

use crate::config::{AuthMode, Issuer, Secret};
use crate::definitions;
use crate::fhir::time::Micros;
use crate::store::audit::AUDITOR;
use crate::store::gate::{BreakGlass, Gate};
use crate::store::{FacilityKey, Scope, Store, is_unavailable};
use arc_swap::ArcSwap;
use caller::Presented;
use clients::Client;
use consent::Deployment;
use consent::vocabulary::{Coding, Confidentiality};
use directory::Directory;
use jiff::tz::TimeZone;
use people::Person;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokens::{TokenClaims, Unbelieved};

/// Why a caller was not believed. The public words are the same for every [`AccessError::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The credentials do not hold; the words are for the log only.
    #[error("{0}")]
    Refused(&'static str),
    /// The client signed something about its request that cannot be read; the words are for its developer.
    #[error("{0}")]
    Claim(&'static str),
    /// Too many secrets wait to be verified.
    #[error("too many logins at once")]
    Busy,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// A key or a hash that lango itself wrote cannot be read.
    #[error("{0}")]
    Broken(&'static str),
}

impl AccessError {
    /// Whether the database cannot be had now, so that nothing is known of the caller.
    pub fn is_passing(&self) -> bool {
        matches!(self, AccessError::Database(error) if is_unavailable(error))
    }
}

/// The purpose of who acts for somebody else (v3-ActReason): a family member.
pub const FOR_ANOTHER: &str = "FAMRQT";
/// How long access tokens live; SMART recommends at most five minutes.
const TOKEN_SECONDS: i64 = 300;
/// Owns what is handed in for those who record consents: requests, and what was made of them. Every client with the role
/// `consent-recorder` works on it as on its own.
pub const CONSENT_DESK: FacilityKey = -2;
/// Owns what is written to patients: each finds what is in their own compartment by their own login, and nobody else sees it.
pub const INBOX: FacilityKey = -3;
/// Bytes of a facility's code.
pub const MAX_FACILITY_CODE: usize = 128;
/// How far clocks may differ.
const SKEW_SECONDS: i64 = 30;
/// How many verified tokens and facility numbers are remembered; all are forgotten when there are more.
const REMEMBERED: usize = 10_000;

/// What the operator decided about access.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    pub mode: AuthMode,
    /// Where clients reach lango, without a slash at the end; the tokens' issuer.
    pub public_url: String,
    /// Code of the operator's own organisation, whose facility number is 0.
    pub operator_code: String,
    /// Outside issuers whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// The shortest time between two fetches of one key set; [`BETWEEN_FETCHES`] unless a test is in a hurry.
    pub between_fetches: Duration,
    /// Identifier system of facilities.
    pub facility_system: String,
    /// Identifier system of practitioners.
    pub practitioner_system: String,
    /// Where dates without a zone are read.
    pub zone: TimeZone,
    /// What holds where no patient spoke, and what no emergency opens.
    pub deployment: Deployment,
}

/// The room's door; one per process.
pub struct Access {
    store: Store,
    settings: AccessSettings,
    keys: ArcSwap<keys::Keys>,
    /// When the database was last looked into for newer keys.
    looked: Mutex<Instant>,
    /// Held by who makes the first key for identity tokens.
    making: tokio::sync::Mutex<()>,
    key_sets: key_sets::KeySets,
    secrets: secrets::Verifier,
    /// Verified ones, and when they were.
    tokens: Mutex<HashMap<blake3::Hash, (Instant, Arc<TokenClaims>)>>,
    facilities: Mutex<HashMap<String, FacilityKey>>,
    directory: Directory,
}

impl Access {
    /// Reads the signing keys, making the first one on a new database.
    pub async fn open(store: Store, settings: AccessSettings) -> Result<Access, AccessError> {
        let keys = ArcSwap::from_pointee(keys::Keys::load(&store).await?);
        let key_sets = key_sets::KeySets::new(&settings.public_url, settings.between_fetches)?;
        let looked = Mutex::new(Instant::now());
        let directory = Directory::new(store.clone(), &settings);
        let secrets = secrets::Verifier::new();
        let (making, tokens, facilities) = Default::default();
        Ok(Access { store, settings, keys, looked, making, key_sets, secrets, tokens, facilities, directory })
    }

    /// Looks for keys that another process added, unless that was done a moment ago.
    async fn look_for_keys(&self) -> Result<(), AccessError> {
        self.look_for_keys_after(keys::LOOK_AGAIN).await
    }

    async fn look_for_keys_after(&self, pause: Duration) -> Result<(), AccessError> {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < pause {
                return Ok(());
            }
            *looked = Instant::now();
        }
        self.keys.store(Arc::new(keys::Keys::load(&self.store).await?));
        Ok(())
    }

    /// The keys, with one for identity tokens among them.
    async fn keys_for_identity(&self) -> Result<Arc<keys::Keys>, AccessError> {
        if self.keys.load().identity().is_none() {
            let _making = self.making.lock().await;
            self.keys.store(Arc::new(keys::Keys::load(&self.store).await?));
            if self.keys.load().identity().is_none() {
                identity::make_first(&self.store).await?;
                self.keys.store(Arc::new(keys::Keys::load(&self.store).await?));
            }
        }
        Ok(self.keys.load_full())
    }

    /// Where clients reach lango; the issuer of its tokens.
    pub fn public_url(&self) -> &str {
        &self.settings.public_url
    }

    /// What browsers send as `Origin` from lango's own pages.
    pub fn origin(&self) -> String {
        reqwest::Url::parse(&self.settings.public_url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
    }

    /// A path of lango's as browsers must ask for it, when it is reached below another path.
    pub fn local_path(&self, path: &str) -> String {
        let base = reqwest::Url::parse(&self.settings.public_url).map(|url| url.path().trim_end_matches('/').to_owned());
        format!("{}{path}", base.unwrap_or_default())
    }

    pub fn mode(&self) -> AuthMode {
        self.settings.mode
    }

    /// `--auth open`: every right; what is sent belongs to `facility`, or to the operator's organisation without one.
    pub async fn open_caller(&self, facility: Option<&str>) -> Result<Caller, AccessError> {
        let owner = match facility {
            Some(code) => self.facility_key(code).await?,
            None => 0,
        };
        Ok(Caller::unrestricted(owner, facility.map(str::to_owned)))
    }

    /// The caller with this client's secret, on a connection made with this certificate.
    pub async fn basic_caller(&self, id: &str, secret: &Secret, certificate: Option<&str>) -> Result<Caller, AccessError> {
        let client = self.authenticate_secret(id, secret).await?;
        let scopes = Arc::new(Scopes::of_registered(&client.scopes));
        self.caller(client, None, Presented { scopes, ..Presented::default() }, certificate).await
    }

    /// The caller with this access token, on a connection made with this certificate.
    pub async fn bearer_caller(&self, token: &str, certificate: Option<&str>) -> Result<Caller, AccessError> {
        let claims = self.verified_token(token).await?;
        let (client, person, closings) = self.holder(&claims).await?;
        if claims.certificate.is_some() && claims.certificate.as_deref() != certificate {
            return Err(AccessError::Refused("a token is bound to another certificate than the connection's"));
        }
        let presented = Presented {
            scopes: Arc::clone(&claims.scopes),
            claimed: Arc::clone(&claims.claimed),
            person: claims.person.clone(),
            patient: claims.patient.clone(),
            patients: patients_of(&claims, person.as_ref())?,
            picked: claims.picked,
            expires: Some(claims.expires),
            token: Some(Arc::clone(&claims.id)),
            closings: Some(closings),
        };
        self.caller(client, person, presented, certificate).await
    }

    /// Client and person of a token as they stand now, after which closing; a token that was taken back, or whose client or person is shut out,
    /// has none.
    async fn holder(&self, claims: &TokenClaims) -> Result<(Client, Option<Person>, i64), AccessError> {
        let found = clients::find_for(&self.store, &claims.client, &claims.id, &claims.grant).await?;
        let clients::Standing { client, revoked, closings } = found.ok_or(AccessError::Refused("the token's client is gone"))?;
        if revoked || !client.is_enabled() || !client.honours(claims.made) || client.issuer != claims.issuer {
            return Err(AccessError::Refused("the token was taken back, or its client is disabled or another issuer's"));
        }
        let person = match (&claims.person, &claims.issuer) {
            (Some(id), None) => {
                let person = people::find(&self.store, id).await?.filter(|person| person.honours(claims.generation));
                Some(person.ok_or(AccessError::Refused("the token's person is gone, shut out or has a new password since"))?)
            }
            _ => None,
        };
        Ok((client, person, closings))
    }

    async fn caller(
        &self,
        mut client: Client,
        person: Option<Person>,
        presented: Presented,
        certificate: Option<&str>,
    ) -> Result<Caller, AccessError> {
        if client.certificate.is_some() && client.certificate.as_deref() != certificate {
            return Err(AccessError::Refused("a client is bound to another certificate than the connection's"));
        }
        let roles = roles_of(&client, person.as_ref(), &presented.claimed)?;
        let own = match &person {
            Some(person) if person.is_patients() => Some(self.own(person, &presented).await?),
            _ => None,
        };
        if let Some(person) = person {
            client.facility = person.facility;
        }
        let owner = self.facility_key(&client.facility).await?;
        let requester = self.requester(&client, owner, &roles, &presented.claimed).await?;
        let scope = self.scope(&client, owner, &roles, &requester, own, presented.closings).await?;
        Ok(Caller::of_client(client, owner, scope, roles, requester, presented))
    }

    /// What this caller is to a Consent.
    async fn requester(
        &self,
        client: &Client,
        owner: FacilityKey,
        roles: &[Role],
        claimed: &Claimed,
    ) -> Result<consent::Requester, AccessError> {
        let mut requester = consent::Requester::unknown(now_micros());
        requester.purposes = claimed.purposes.iter().map(purpose).collect();
        if !requester.purposes.is_empty() {
            let names = self.directory.names(owner, &client.facility, claimed.practitioner.as_deref()).await?;
            requester.organisations = names.organisations.clone();
            requester.people = names.people.clone();
            requester.groups = names.groups.clone();
            requester.devices = BTreeSet::from([format!("urn:lango:client|{}", client.id)]);
            requester.roles = roles.iter().map(|role| Coding::role(role.as_str())).collect();
            // What a token leaves out takes nothing away from what forbids.
            requester.aliases = names.aliases.clone();
            if claimed.practitioner.is_none() {
                requester.aliases.insert(consent::SOMEBODY.to_owned());
            }
            let registered = parsed_roles(&client.roles).into_iter().map(|role| Coding::role(role.as_str()));
            requester.unclaimed = registered.filter(|role| !requester.roles.contains(role)).collect();
        }
        Ok(requester)
    }

    /// What this caller may see: its own, and what patients allow it for the purposes that it signed.
    async fn scope(
        &self,
        client: &Client,
        owner: FacilityKey,
        roles: &[Role],
        requester: &consent::Requester,
        own: Option<BreakGlass>,
        closings: Option<i64>,
    ) -> Result<Scope, AccessError> {
        let requesters = gate::requesters(requester, &self.settings.deployment);
        let mut owners = vec![audit::owner_of(&client.id)];
        // Who logs in for patients does not see with a facility's eyes.
        owners.push(if own.is_some() { INBOX } else { owner });
        if roles.contains(&Role::Operator) {
            owners.push(AUDITOR);
        }
        if roles.contains(&Role::ConsentRecorder) {
            owners.push(CONSENT_DESK);
        }
        // Before anything is decided.
        let since = match closings {
            _ if requesters.is_empty() => 0,
            Some(closings) => closings,
            None => self.store.closings().await?,
        };
        Ok(Scope::Gate(Arc::new(Gate { owners, requesters, break_glass: None, own, now: requester.now, since })))
    }

    /// The records that are a patient's own to see. Whoever acts for somebody else does not see what is restricted: what a child told a
    /// nurse in confidence is not the parents'.
    async fn own(&self, person: &Person, presented: &Presented) -> Result<BreakGlass, AccessError> {
        let patient = definitions::r4().type_code("Patient").ok_or(AccessError::Broken("R4 has Patients"))?;
        let patients = self.store.keys_of(patient, &presented.patients).await?;
        let exempt = match &presented.patient {
            Some(context) if person.is_own(context) => Vec::new(),
            _ => gate::numbers(&Confidentiality::RESTRICTED.and_above().map(consent::Fact::confidentiality).collect()),
        };
        Ok(BreakGlass { patients, exempt })
    }

    /// Whether a client has this id, though perhaps a disabled one.
    pub async fn has_client(&self, id: &str) -> Result<bool, AccessError> {
        Ok(clients::find(&self.store, id).await?.is_some())
    }

    /// Whether somebody logs in by this name, though perhaps not any more.
    pub async fn has_person(&self, id: &str) -> Result<bool, AccessError> {
        Ok(people::find(&self.store, id).await?.is_some())
    }

    async fn authenticate_secret(&self, id: &str, secret: &Secret) -> Result<Client, AccessError> {
        let client = clients::find(&self.store, id).await?.filter(Client::is_enabled);
        let hash = client.as_ref().and_then(|client| client.secret_hash.as_deref());
        let matches = self.secrets.verify(id, hash, secret).await?;
        client.filter(|_| matches).ok_or(AccessError::Refused("unknown client, disabled client or wrong secret"))
    }

    async fn verified_token(&self, token: &str) -> Result<Arc<TokenClaims>, AccessError> {
        let digest = blake3::hash(token.as_bytes());
        let remembered = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        // An outside issuer may have taken the key out of its set.
        let holds =
            |verified: &Instant, claims: &TokenClaims| claims.issuer.is_none() || verified.elapsed() < self.settings.between_fetches;
        if let Some((_, claims)) = remembered.filter(|(verified, claims)| holds(verified, claims)) {
            claims.check_time(now_seconds())?;
            return Ok(claims);
        }
        let claims = Arc::new(self.verify(token).await?);
        let mut known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest, (Instant::now(), Arc::clone(&claims)));
        Ok(claims)
    }

    async fn verify(&self, token: &str) -> Result<TokenClaims, AccessError> {
        if let Some(claims) = issuers::verify(token, &self.settings.issuers, &self.key_sets, now_seconds()).await? {
            return Ok(claims);
        }
        match tokens::verify(token, &self.keys.load(), &self.settings, now_seconds()) {
            Ok(claims) => return Ok(claims),
            Err(Unbelieved::Refused(error)) => return Err(error),
            Err(Unbelieved::UnknownKey) => {}
        }
        // Perhaps another process rotated the keys just now. Strangers' key names cost one look a second.
        self.look_for_keys_after(Duration::from_secs(1)).await?;
        match tokens::verify(token, &self.keys.load(), &self.settings, now_seconds()) {
            Ok(claims) => Ok(claims),
            Err(Unbelieved::Refused(error)) => Err(error),
            Err(Unbelieved::UnknownKey) => Err(AccessError::Refused("a token is signed with an unknown key")),
        }
    }

    async fn facility_key(&self, code: &str) -> Result<FacilityKey, AccessError> {
        if code == self.settings.operator_code {
            return Ok(0);
        }
        if let Some(key) = self.facilities.lock().unwrap_or_else(PoisonError::into_inner).get(code) {
            return Ok(*key);
        }
        let key = self.store.facility_key(code).await?;
        let mut known = self.facilities.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(code.to_owned(), key);
        Ok(key)
    }

    /// A secret for `purpose`, the same in every process on this database.
    pub fn secret(&self, purpose: &str) -> Result<[u8; 32], AccessError> {
        self.keys.load().secret(purpose)
    }
}

impl AccessSettings {
    /// The audience of client assertions.
    fn token_endpoint(&self) -> String {
        format!("{}/auth/token", self.public_url)
    }

    /// The audience of access tokens.
    fn fhir_base(&self) -> String {
        format!("{}/fhir", self.public_url)
    }
}

/// A secret for `purpose`, the same in every process on this database; on a new one, the first key is made.
pub async fn secret_of(store: &Store, purpose: &str) -> Result<[u8; 32], AccessError> {
    keys::Keys::load(store).await?.secret(purpose)
}

/// A purpose without a system is one of HL7's.
pub fn purpose(code: &Code) -> Coding {
    match &code.system {
        Some(system) => Coding::new(system, &code.code),
        None => Coding::purpose(&code.code),
    }
}

/// All Patients of the person whose Patient is in a token's context. A person who logs in for patients sees nothing without one.
fn patients_of(claims: &TokenClaims, person: Option<&Person>) -> Result<Arc<[String]>, AccessError> {
    let patients = match (person, &claims.patient) {
        (Some(person), Some(patient)) => person.in_context(patient, claims.picked),
        (None, Some(patient)) => vec![patient.to_string()],
        (Some(person), None) if person.is_patients() => Vec::new(),
        (_, None) => return Ok(Arc::default()),
    };
    if patients.is_empty() {
        return Err(AccessError::Refused("a token's patient is not, or no longer, one whom the person may see"));
    }
    Ok(patients.into())
}

/// The client's roles, and of those the person's, narrowed by what was claimed. A claimed role without a system is one of lango's; one
/// of another system says what the practitioner is and leaves the roles as they are.
fn roles_of(client: &Client, person: Option<&Person>, claimed: &Claimed) -> Result<Vec<Role>, AccessError> {
    let facility = person.map_or(&client.facility, |person| &person.facility);
    if claimed.organization.as_ref().is_some_and(|organization| organization != facility) {
        return Err(AccessError::Refused("a caller acts for another organisation than its own"));
    }
    let mut roles = parsed_roles(&client.roles);
    if let Some(person) = person {
        let own = parsed_roles(&person.roles);
        roles.retain(|role| own.contains(role));
    }
    if let Some(Code { system: None, code }) = &claimed.role {
        roles.retain(|role| role.as_str() == code);
    }
    Ok(roles)
}

/// As they are registered; who has none is a facility.
fn parsed_roles(roles: &[String]) -> Vec<Role> {
    if roles.is_empty() { vec![Role::Facility] } else { roles.iter().filter_map(|role| role.parse().ok()).collect() }
}

fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn now_micros() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

/// Runs one query expression on the pool for reading (`read`) or writing (`write`). The queries of this room are few and small,
/// and written so that both dialects take the same text.
macro_rules! on {
    ($store:expr, $side:ident, $pool:ident => $query:expr) => {
        match $store {
            $crate::store::Store::Sqlite(database) => {
                let $pool = &database.$side;
                $query
            }
            $crate::store::Store::Postgres(database) => {
                let $pool = &database.pool;
                $query
            }
        }
    };
}
use on;
