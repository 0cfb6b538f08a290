//! Clients: the programs that may call, each on behalf of one facility.

use super::audit::administer;
use super::registration::{LONGEST_SECRET, SHORTEST_SECRET};
use super::{Scopes, now_micros, on};
use crate::fhir::time::Micros;
use crate::store::Store;
use crate::store::sql::{Arg, Sql};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet};

/// One client, as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    /// Code of the facility that owns what this client sends. The facility itself need not have been sent yet.
    pub facility: String,
    /// Scopes, separated by one space.
    pub scopes: String,
    pub roles: Vec<String>,
    /// Argon2id in PHC form.
    pub secret_hash: Option<String>,
    /// JSON Web Key Set of public keys.
    pub jwks: Option<String>,
    /// Where the key set is instead: https, or http on the loopback address of a lango that is tried out there.
    pub jwks_url: Option<String>,
    /// The configured outside issuer whose tokens may name this client; `None`: lango's own.
    pub issuer: Option<String>,
    /// Where an app for people may be sent back to, each compared as it stands.
    pub redirect_uris: Vec<String>,
    /// SHA-256 of the TLS certificate that it must connect with, 64 hex digits.
    pub certificate: Option<String>,
    pub created: Micros,
    /// When the client was shut out.
    pub disabled: Option<Micros>,
    /// When it was last shut out, also if it may call again; 0: never. What it was given before is worthless.
    pub shut_out: Micros,
}

impl Client {
    /// A client that may log in from now on, once it has a secret or keys.
    pub fn new(id: &str, facility: &str, scopes: &str) -> Client {
        Client {
            id: id.to_owned(),
            facility: facility.to_owned(),
            scopes: scopes.to_owned(),
            roles: Vec::new(),
            secret_hash: None,
            jwks: None,
            jwks_url: None,
            issuer: None,
            redirect_uris: Vec::new(),
            certificate: None,
            created: now_micros(),
            disabled: None,
            shut_out: 0,
        }
    }

    /// Whether what this client was given at `given` is worth anything still.
    pub fn honours(&self, given: Micros) -> bool {
        self.shut_out == 0 || given > self.shut_out
    }

    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }

    /// How it proves itself, in a word.
    pub fn proof(&self) -> &'static str {
        match (&self.secret_hash, &self.jwks) {
            _ if self.issuer.is_some() => "issuer",
            _ if self.jwks_url.is_some() => "keys",
            _ if self.is_public() => "pkce",
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "secret",
            (None, _) => "keys",
        }
    }

    /// An app that cannot keep a secret: it proves itself by PKCE alone.
    pub fn is_public(&self) -> bool {
        self.secret_hash.is_none() && self.jwks.is_none() && self.jwks_url.is_none() && self.issuer.is_none()
    }
}

/// Why a client cannot be kept as it was given.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("a client id has 1 to 128 letters, digits and the signs . _ - @, and not only dots")]
    Id,
    #[error("a facility code has 1 to 128 characters and no control characters")]
    Facility,
    #[error("{0}")]
    Role(#[from] super::UnknownRole),
    #[error(
        "user/ and patient/ scopes are for apps that people log in with, which need a redirect URI or an outside issuer; a program on its \
         own has system/TYPE.LETTERS"
    )]
    NotForPeople,
    #[error("a redirect URI is https://…, http://localhost/… or an app's own scheme with a dot, without a fragment")]
    RedirectUri,
    #[error("that is no certificate in PEM")]
    Pem,
    #[error("a certificate is given by its SHA-256, 64 hex digits in lower case")]
    Certificate,
    #[error("{0}")]
    Scope(#[from] super::scopes::ScopeError),
    #[error("{0}")]
    Jwks(&'static str),
    #[error("the key set cannot be fetched from there, since {0}: name an https address that is reached from the internet")]
    JwksUrl(&'static str),
    #[error("a secret has {SHORTEST_SECRET} to {LONGEST_SECRET} characters: leave it away to have one made")]
    Secret,
    #[error("an app that cannot keep a secret needs a redirect URI")]
    NoRedirect,
    #[error("the client exists already: choose another id, or change that one")]
    Exists,
    #[error("there is no such client: `lango client list` shows them")]
    Unknown,
    #[error("the change could not be recorded, so it was not made")]
    Unrecorded(#[from] super::audit::AuditError),
    #[error("{0}")]
    Broken(#[from] super::AccessError),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl ClientError {
    /// Whether whoever asked can put it right.
    pub fn is_askers(&self) -> bool {
        !matches!(self, ClientError::Unrecorded(_) | ClientError::Broken(_) | ClientError::Database(_))
    }
}

/// In the order of [`FIND`]; the last two: how many of the identifiers asked about were revoked, and the newest closing.
type Row = (
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
    Option<String>,
    i64,
    Option<i64>,
    i64,
    i64,
    i64,
);

/// `$2` and `$3`: a token's and its grant's identifiers.
const FIND: &str = "SELECT id, facility, scopes, roles, secret_hash, jwks, jwks_url, issuer, redirect_uris, certificate, created, disabled, \
     shut_out, (SELECT count(*) FROM revoked v WHERE v.id IN ($2, $3)) AS revoked, \
     (SELECT coalesce(max(number), 0) FROM closing) AS closings FROM client WHERE id = $1";

fn from_row(row: Row) -> Client {
    let (id, facility, scopes, roles, secret_hash, jwks, jwks_url, issuer, redirect_uris, certificate, created, disabled, shut_out, _, _) =
        row;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let (roles, redirect_uris) = (words(&roles), words(&redirect_uris));
    Client { id, facility, scopes, roles, secret_hash, jwks, jwks_url, issuer, redirect_uris, certificate, created, disabled, shut_out }
}

/// The client with this id, disabled ones too.
pub async fn find(store: &Store, id: &str) -> Result<Option<Client>, sqlx::Error> {
    Ok(find_for(store, id, "", "").await?.map(|found| found.client))
}

/// What every request asks of the client that it comes from.
pub(super) struct Standing {
    pub client: Client,
    /// The token or the grant that it comes with was taken back.
    pub revoked: bool,
    /// The newest closing ([`Store::closings`]).
    pub closings: i64,
}

/// Where the client stands that comes with this token of this grant; one round trip.
pub(super) async fn find_for(store: &Store, id: &str, token: &str, grant: &str) -> Result<Option<Standing>, sqlx::Error> {
    // PostgreSQL refuses to look for a text with this character.
    if id.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = on!(store, read, pool => sqlx::query_as(FIND).bind(id).bind(token).bind(grant).fetch_optional(pool).await?);
    Ok(row.map(|row| Standing { revoked: row.13 > 0, closings: row.14, client: from_row(row) }))
}

/// All clients by id, disabled ones too.
pub async fn list(store: &Store) -> Result<Vec<Client>, sqlx::Error> {
    const SQL: &str = "SELECT id, facility, scopes, roles, secret_hash, jwks, jwks_url, issuer, redirect_uris, certificate, created, \
         disabled, shut_out, CAST(0 AS BIGINT) AS revoked, CAST(0 AS BIGINT) AS closings FROM client ORDER BY id";
    let rows: Vec<Row> = on!(store, read, pool => sqlx::query_as(SQL).fetch_all(pool).await?);
    Ok(rows.into_iter().map(from_row).collect())
}

/// Keeps a new client; its words are checked first.
pub async fn add(store: &Store, client: &Client) -> Result<(), ClientError> {
    check(client)?;
    let text = |text: &str| Some(Arg::Text(text.to_owned()));
    let optional = |text: &Option<String>| text.clone().map(Arg::Text);
    let values = [
        ("id", text(&client.id)),
        ("facility", text(&client.facility)),
        ("scopes", text(&client.scopes)),
        ("roles", text(&client.roles.join(" "))),
        ("secret_hash", optional(&client.secret_hash)),
        ("jwks", optional(&client.jwks)),
        ("jwks_url", optional(&client.jwks_url)),
        ("issuer", optional(&client.issuer)),
        ("redirect_uris", text(&client.redirect_uris.join(" "))),
        ("certificate", optional(&client.certificate)),
        ("created", Some(Arg::Int(client.created))),
        ("disabled", client.disabled.map(Arg::Int)),
    ];
    // What is not given stays NULL.
    let given: Vec<(&str, Arg)> = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut sql = Sql::new(store.dialect());
    sql.push("INSERT INTO client (").join(&given, ", ", |sql, (name, _)| {
        sql.push(name);
    });
    sql.push(") VALUES (").join(given.iter().map(|(_, value)| value.clone()), ", ", |sql, value| {
        sql.bind(value);
    });
    sql.push(") ON CONFLICT (id) DO NOTHING");
    if administer::<ClientError>(store, sql).await? { Ok(()) } else { Err(ClientError::Exists) }
}

/// Keeps what of a client is otherwise than `before`; its words are checked first. What somebody else changes meanwhile stays changed.
pub async fn replace(store: &Store, before: &Client, client: &Client) -> Result<(), ClientError> {
    check(client)?;
    let (roles, redirect_uris) = (client.roles.join(" "), client.redirect_uris.join(" "));
    // A client proves itself in one way: another ends every one that was.
    let proofs = |of: &Client| {
        [
            ("secret_hash", of.secret_hash.clone()),
            ("jwks", of.jwks.clone()),
            ("jwks_url", of.jwks_url.clone()),
            ("issuer", of.issuer.clone()),
        ]
    };
    let mut columns = Vec::new();
    columns.extend((client.scopes != before.scopes).then(|| ("scopes", Some(client.scopes.clone()))));
    columns.extend((client.roles != before.roles).then_some(("roles", Some(roles))));
    columns.extend((client.redirect_uris != before.redirect_uris).then_some(("redirect_uris", Some(redirect_uris))));
    columns.extend((client.certificate != before.certificate).then(|| ("certificate", client.certificate.clone())));
    columns.extend(proofs(client).into_iter().filter(|_| proofs(client) != proofs(before)));
    let mut sql = Sql::new(store.dialect());
    sql.push("UPDATE client SET id = id");
    for (column, value) in &columns {
        sql.push(", ").push(column);
        match value {
            Some(value) => sql.push(" = ").str(value),
            None => sql.push(" = NULL"),
        };
    }
    sql.push(" WHERE id = ").str(&client.id);
    if administer::<ClientError>(store, sql).await? { Ok(()) } else { Err(ClientError::Unknown) }
}

/// Replaces a client's secret; the old one is worthless at once.
pub async fn set_secret(store: &Store, id: &str, secret_hash: &str) -> Result<(), ClientError> {
    let mut sql = Sql::new(store.dialect());
    sql.push("UPDATE client SET secret_hash = ").str(secret_hash).push(" WHERE id = ").str(id);
    if administer::<ClientError>(store, sql).await? { Ok(()) } else { Err(ClientError::Unknown) }
}

/// Shuts a client out, its access tokens included, or lets it in again.
pub async fn set_disabled(store: &Store, id: &str, disabled: bool) -> Result<(), ClientError> {
    let mut sql = Sql::new(store.dialect());
    sql.push("UPDATE client SET disabled = ");
    if disabled {
        // Its tokens end with it, for good: letting it in again brings none of them back.
        let now = now_micros();
        sql.int(now).push(", shut_out = ").int(now)
    } else {
        sql.push("NULL")
    };
    sql.push(" WHERE id = ").str(id);
    if administer::<ClientError>(store, sql).await? { Ok(()) } else { Err(ClientError::Unknown) }
}

fn check(client: &Client) -> Result<(), ClientError> {
    let plain = |signs: &'static str| move |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    // In a URL dots alone name a folder, so no page could be asked for it.
    if client.id.chars().all(|c| c == '.') || client.id.len() > 128 || !client.id.chars().all(plain("._-@")) {
        return Err(ClientError::Id);
    }
    let facility = &client.facility;
    if facility.trim().is_empty() || facility.len() > 128 || facility.chars().any(char::is_control) {
        return Err(ClientError::Facility);
    }
    for role in &client.roles {
        role.parse::<super::Role>()?;
    }
    let scopes = Scopes::parse(&client.scopes)?;
    if scopes.is_for_people() && client.redirect_uris.is_empty() && client.issuer.is_none() {
        return Err(ClientError::NotForPeople);
    }
    if client.is_public() && client.redirect_uris.is_empty() {
        return Err(ClientError::NoRedirect);
    }
    if client.redirect_uris.iter().any(|uri| !is_redirect_uri(uri)) {
        return Err(ClientError::RedirectUri);
    }
    if client.certificate.as_ref().is_some_and(|digest| digest.len() != 64 || !digest.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))) {
        return Err(ClientError::Certificate);
    }
    if client.jwks_url.as_ref().is_some_and(|url| reqwest::Url::parse(url).is_err()) {
        return Err(ClientError::Jwks("the address of the key set is no URL"));
    }
    client.jwks.as_deref().map_or(Ok(()), check_jwks)
}

/// https, http on the own machine (RFC 8252 §7.3), or an app's own scheme; a fragment is refused (RFC 6749 §3.1.2).
fn is_redirect_uri(uri: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(uri) else { return false };
    let own_machine = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let scheme_fits = match url.scheme() {
        "https" => true,
        "http" => own_machine,
        // RFC 8252 §7.1: a reversed domain name, which `javascript` and the like are not.
        scheme => scheme.contains('.'),
    };
    scheme_fits && url.fragment().is_none() && !uri.contains(char::is_whitespace)
}

/// Public keys only, of the kinds that RS384 and ES384 need, each with a name of its own.
fn check_jwks(text: &str) -> Result<(), ClientError> {
    let wrong = |words| Err(ClientError::Jwks(words));
    if text.len() > 64 << 10 {
        return wrong("the key set has more than 64 KiB: register fewer keys");
    }
    let Ok(raw) = crate::fhir::json::parse(text.as_bytes()) else { return wrong("the key set is not JSON") };
    let Ok(set) = serde_json::from_value::<JwkSet>(raw.clone()) else {
        return wrong("not a JSON Web Key Set: write {\"keys\": [ … ]}");
    };
    let raw_keys = raw["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if raw_keys.iter().any(|key| ["d", "p", "q", "k"].iter().any(|secret| key.get(secret).is_some())) {
        return wrong(
            "the key set holds a private or shared key: register the public keys only, and make a new key pair, since this one has been shown",
        );
    }
    if set.keys.is_empty() {
        return wrong("the key set is empty: register at least one key");
    }
    for (at, key) in set.keys.iter().enumerate() {
        match &key.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {}
            AlgorithmParameters::RSA(key) if key.n.len() >= 342 => {} // 2048 bits in base64url
            _ => return wrong("each key must be EC on P-384 (for ES384) or RSA of 2048 bits or more (for RS384)"),
        }
        let id = &key.common.key_id;
        if id.as_ref().is_none_or(|id| id.is_empty()) || set.keys.iter().take(at).any(|other| other.common.key_id == *id) {
            return wrong("each key needs a kid of its own");
        }
    }
    Ok(())
}
