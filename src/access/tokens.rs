//! Access tokens: signed with lango's own key (RFC 9068), and believed again later.

use super::claimed::Claimed;
use super::identity::IdentityKey;
use super::jwt::Claims;
use super::keys::{ALGORITHM, Keys};
use super::tickets::Ticket;
use super::{AccessError, AccessSettings, Context, SKEW_SECONDS, Scopes, TOKEN_SECONDS, jwt, now_micros, now_seconds};
use crate::fhir::time::Micros;
use jsonwebtoken::Header;
use serde_json::{Value, json};
use std::sync::Arc;

/// RFC 9068: keeps assertions and identity tokens from being taken for access tokens.
const TOKEN_TYPE: &str = "at+jwt";

/// What a token is to say.
pub(super) struct Contents<'a> {
    pub client: &'a str,
    pub scope: &'a str,
    pub claimed: &'a Claimed,
    /// Who logged in, and their generation ([`Person::generation`](super::people::Person::generation)).
    pub person: Option<(&'a str, i64)>,
    /// The patient whose context it is, and the grant that the token belongs to.
    pub patient: Option<&'a str>,
    /// Whether the person picked that patient.
    pub picked: bool,
    pub grant: Option<&'a str>,
    pub certificate: Option<&'a str>,
}

/// A token of lango's own, good from now for [`TOKEN_SECONDS`].
pub(super) fn sign(contents: &Contents, keys: &Keys, settings: &AccessSettings) -> Result<String, AccessError> {
    let now = now_seconds();
    let mut claims = json!({
        "iss": settings.public_url,
        "sub": contents.person.map_or(contents.client, |(person, _)| person),
        "client_id": contents.client,
        "aud": settings.fhir_base(),
        "iat": now,
        // To the microsecond: a client that is shut out and let in again within a second has new tokens and old ones.
        "made": now_micros(),
        "nbf": now,
        "exp": now.saturating_add(TOKEN_SECONDS),
        "jti": uuid::Uuid::new_v4().to_string(),
        "scope": contents.scope,
    });
    let more = [
        ("extensions", contents.claimed.to_extensions()),
        ("person", contents.person.map(|(person, _)| Value::from(person))),
        ("generation", contents.person.map(|(_, generation)| Value::from(generation))),
        ("patient", contents.patient.map(Value::from)),
        ("picked", contents.picked.then_some(Value::Bool(true))),
        ("grant", contents.grant.map(Value::from)),
        // RFC 8705 names the thumbprint in base64url; lango speaks to itself here.
        ("cnf", contents.certificate.map(|digest| json!({ "x5t#S256": digest }))),
    ];
    for (name, value) in more {
        if let (Some(value), Some(members)) = (value, claims.as_object_mut()) {
            members.insert(name.to_owned(), value);
        }
    }
    let key = keys.newest()?;
    let mut header = Header::new(ALGORITHM);
    header.typ = Some(TOKEN_TYPE.to_owned());
    header.kid = Some(key.id.clone());
    jsonwebtoken::encode(&header, &claims, &key.private).map_err(|_| AccessError::Broken("a token could not be signed"))
}

/// Says to an app who logged in (OpenID Connect Core §2). `user`: the URL of the resource that they are.
pub(super) fn sign_identity(
    client: &str,
    ticket: &Ticket,
    user: Option<&str>,
    key: &IdentityKey,
    settings: &AccessSettings,
) -> Result<String, AccessError> {
    let now = now_seconds();
    let mut claims = json!({
        "iss": settings.public_url,
        "sub": ticket.person,
        "aud": client,
        "iat": now,
        "exp": now.saturating_add(TOKEN_SECONDS),
        "auth_time": ticket.logged_in,
    });
    if let Some(nonce) = &ticket.nonce {
        claims["nonce"] = json!(nonce);
    }
    if let Some(user) = user {
        claims["fhirUser"] = json!(user);
    }
    key.sign(&claims)
}

/// What a verified access token says.
#[derive(Debug)]
pub(super) struct TokenClaims {
    pub client: String,
    /// The outside issuer; `None`: lango itself.
    pub issuer: Option<String>,
    pub scope: String,
    pub scopes: Arc<Scopes>,
    pub claimed: Arc<Claimed>,
    pub person: Option<String>,
    /// The person's when it was made; of lango's own tokens.
    pub generation: i64,
    pub patient: Option<Arc<str>>,
    /// Whether the person picked that patient, who is not themselves nor one for whom they act.
    pub picked: bool,
    /// `jti`, or a digest of the token.
    pub id: Arc<str>,
    /// Empty: none.
    pub grant: String,
    pub certificate: Option<String>,
    pub issued: i64,
    /// The same in microseconds, and as exactly as it is known; 0: not at all.
    pub made: Micros,
    /// Seconds since 1970.
    pub expires: i64,
}

impl TokenClaims {
    /// Whether the token still lives.
    pub fn check_time(&self, now: i64) -> Result<(), AccessError> {
        if self.expires.saturating_add(SKEW_SECONDS) <= now { Err(AccessError::Refused("a token has expired")) } else { Ok(()) }
    }

    /// A scope whose context is missing makes the whole token worthless: it was meant to be narrower than it would be read.
    pub fn check_context(self) -> Result<TokenClaims, AccessError> {
        if self.patient.is_none() && self.scopes.has(Context::Patient) {
            return Err(AccessError::Refused("a token has patient/ scopes and names no patient"));
        }
        if self.person.is_none() && self.scopes.has(Context::User) {
            return Err(AccessError::Refused("a token has user/ scopes and names no person"));
        }
        Ok(self)
    }
}

/// Why a token of this server is not believed.
pub(super) enum Unbelieved {
    /// No key of this name is known; another process may have made it just now.
    UnknownKey,
    Refused(AccessError),
}

impl From<AccessError> for Unbelieved {
    fn from(error: AccessError) -> Unbelieved {
        Unbelieved::Refused(error)
    }
}

/// Believes a token that one of `keys` signed for this server.
pub(super) fn verify(token: &str, keys: &Keys, settings: &AccessSettings, now: i64) -> Result<TokenClaims, Unbelieved> {
    let header = jwt::header(token)?;
    if header.algorithm != ALGORITHM || header.kind.as_deref() != Some(TOKEN_TYPE) || header.key_url.is_some() {
        return Err(AccessError::Refused("not an access token of this server").into());
    }
    let key = keys.find(&header.key_id, now_micros()).ok_or(Unbelieved::UnknownKey)?;
    let claims = jwt::claims(token, &key.public, ALGORITHM)?;
    Ok(read(&claims, settings, now)?)
}

fn read(claims: &Claims, settings: &AccessSettings, now: i64) -> Result<TokenClaims, AccessError> {
    claims.exactly("iss", &settings.public_url)?;
    claims.audience(&settings.fhir_base())?;
    let expires = claims.lifetime(now)?;
    let scope = claims.text("scope")?.to_owned();
    let person = claims.optional("person")?.map(str::to_owned);
    claims.exactly("sub", person.as_deref().unwrap_or(claims.text("client_id")?))?;
    let certificate = claims.object("cnf")?.and_then(|cnf| cnf.get("x5t#S256")).and_then(Value::as_str).map(str::to_owned);
    TokenClaims {
        client: claims.text("client_id")?.to_owned(),
        issuer: None,
        scopes: Arc::new(Scopes::of_registered(&scope)),
        scope,
        claimed: Arc::new(claims.claimed()?),
        person,
        generation: claims.count("generation")?,
        patient: claims.optional("patient")?.map(Arc::from),
        picked: claims.says("picked"),
        id: claims.text("jti")?.into(),
        grant: claims.optional("grant")?.unwrap_or_default().to_owned(),
        certificate,
        issued: claims.seconds("iat")?.unwrap_or_default(),
        made: claims.seconds("made")?.unwrap_or_default(),
        expires,
    }
    .check_context()
}
