//! Clients: the programs that may call, each on behalf of one facility.

use super::{Scopes, now_micros, on};
use crate::fhir::time::Micros;
use crate::store::Store;
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
    pub created: Micros,
    /// When the client was shut out.
    pub disabled: Option<Micros>,
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
            created: now_micros(),
            disabled: None,
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }
}

/// Why a client cannot be kept as it was given.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("a client id has 1 to 128 letters, digits and the signs . _ - @")]
    Id,
    #[error("a facility code has 1 to 128 characters and no control characters")]
    Facility,
    #[error("{0}")]
    Role(#[from] super::UnknownRole),
    #[error("{0}")]
    Scope(#[from] super::scopes::ScopeError),
    #[error("{0}")]
    Jwks(&'static str),
    #[error("the client exists already: choose another id, or change it with `lango client secret` and `lango client disable`")]
    Exists,
    #[error("there is no such client: `lango client list` shows them")]
    Unknown,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

type Row = (String, String, String, String, Option<String>, Option<String>, i64, Option<i64>);

fn from_row((id, facility, scopes, roles, secret_hash, jwks, created, disabled): Row) -> Client {
    Client { id, facility, scopes, roles: roles.split_whitespace().map(str::to_owned).collect(), secret_hash, jwks, created, disabled }
}

/// The client with this id, disabled ones too.
pub async fn find(store: &Store, id: &str) -> Result<Option<Client>, sqlx::Error> {
    const SQL: &str = "SELECT id, facility, scopes, roles, secret_hash, jwks, created, disabled FROM client WHERE id = $1";
    // PostgreSQL refuses to look for a text with this character.
    if id.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = on!(store, read, pool => sqlx::query_as(SQL).bind(id).fetch_optional(pool).await?);
    Ok(row.map(from_row))
}

/// All clients by id, disabled ones too.
pub async fn list(store: &Store) -> Result<Vec<Client>, sqlx::Error> {
    const SQL: &str = "SELECT id, facility, scopes, roles, secret_hash, jwks, created, disabled FROM client ORDER BY id";
    let rows: Vec<Row> = on!(store, read, pool => sqlx::query_as(SQL).fetch_all(pool).await?);
    Ok(rows.into_iter().map(from_row).collect())
}

/// Keeps a new client; its words are checked first.
pub async fn add(store: &Store, client: &Client) -> Result<(), ClientError> {
    const SQL: &str = "INSERT INTO client (id, facility, scopes, roles, secret_hash, jwks, created, disabled) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";
    check(client)?;
    let added = on!(store, write, pool => sqlx::query(SQL)
        .bind(&client.id)
        .bind(&client.facility)
        .bind(&client.scopes)
        .bind(client.roles.join(" "))
        .bind(&client.secret_hash)
        .bind(&client.jwks)
        .bind(client.created)
        .bind(client.disabled)
        .execute(pool)
        .await?
        .rows_affected());
    if added == 1 { Ok(()) } else { Err(ClientError::Exists) }
}

/// Replaces a client's secret; the old one is worthless at once.
pub async fn set_secret(store: &Store, id: &str, secret_hash: &str) -> Result<(), ClientError> {
    const SQL: &str = "UPDATE client SET secret_hash = $2 WHERE id = $1";
    let changed = on!(store, write, pool => sqlx::query(SQL).bind(id).bind(secret_hash).execute(pool).await?.rows_affected());
    if changed == 1 { Ok(()) } else { Err(ClientError::Unknown) }
}

/// Shuts a client out, its access tokens included, or lets it in again.
pub async fn set_disabled(store: &Store, id: &str, disabled: bool) -> Result<(), ClientError> {
    const SQL: &str = "UPDATE client SET disabled = $2 WHERE id = $1";
    let since = disabled.then(now_micros);
    let changed = on!(store, write, pool => sqlx::query(SQL).bind(id).bind(since).execute(pool).await?.rows_affected());
    if changed == 1 { Ok(()) } else { Err(ClientError::Unknown) }
}

fn check(client: &Client) -> Result<(), ClientError> {
    let plain = |signs: &'static str| move |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    if client.id.is_empty() || client.id.len() > 128 || !client.id.chars().all(plain("._-@")) {
        return Err(ClientError::Id);
    }
    let facility = &client.facility;
    if facility.trim().is_empty() || facility.len() > 128 || facility.chars().any(char::is_control) {
        return Err(ClientError::Facility);
    }
    for role in &client.roles {
        role.parse::<super::Role>()?;
    }
    Scopes::parse(&client.scopes)?;
    client.jwks.as_deref().map_or(Ok(()), check_jwks)
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
