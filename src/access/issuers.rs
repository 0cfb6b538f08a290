//! Tokens of a configured outside issuer, such as a ministry's Keycloak.
//!
//! The issuer vouches for its own clients alone: a token counts when the client that it names is registered here with that
//! issuer. Facility, roles and the widest scopes are the registration's; the token only narrows them. Algorithms come from
//! the configuration and keys from the issuer's own set, never from what a token says of itself.

use super::audit::checkpoint::hex;
use super::jwt::Claims;
use super::key_sets::{KeySets, NamedBy};
use super::tokens::TokenClaims;
use super::{AccessError, SKEW_SECONDS, Scopes, jwt};
use crate::config::Issuer;
use crate::fhir::reference::is_id;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use std::sync::Arc;

/// How long a token counts at most, in seconds from when it was given, whatever it says of its end.
const LONGEST: i64 = 24 * 3600;

/// The claims of a token of one of `issuers`; `None` when it names none of them.
pub(super) async fn verify(token: &str, issuers: &[Issuer], sets: &KeySets, now: i64) -> Result<Option<TokenClaims>, AccessError> {
    if issuers.is_empty() {
        return Ok(None);
    }
    // Only a hint whose keys to try, until one of them has verified the signature.
    let named = jwt::unproven_issuer(token)?;
    let Some(issuer) = issuers.iter().find(|issuer| issuer.issuer == named) else { return Ok(None) };
    let header = jwt::header(token)?;
    if header.key_url.is_some() || !issuer.algorithms.iter().any(|name| name.parse() == Ok(header.algorithm)) {
        return Err(AccessError::Refused("a token is signed with an algorithm that its issuer does not use"));
    }
    // RFC 9068's type, or the plain one that Keycloak writes.
    if header.kind.as_deref().is_some_and(|kind| !["at+jwt", "JWT"].iter().any(|known| kind.eq_ignore_ascii_case(known))) {
        return Err(AccessError::Refused("a token is of another type"));
    }
    let key = sets.key(&issuer.jwks_url, NamedBy::Operator, &header.key_id, |key| fits(key, header.algorithm)).await?;
    let key = DecodingKey::from_jwk(&key).map_err(|_| AccessError::Refused("an issuer's key cannot be read"))?;
    let claims = jwt::claims(token, &key, header.algorithm)?;
    read(&claims, issuer, token, now).map(Some)
}

fn read(claims: &Claims, issuer: &Issuer, token: &str, now: i64) -> Result<TokenClaims, AccessError> {
    claims.exactly("iss", &issuer.issuer)?;
    claims.one_audience(&issuer.audience)?;
    // An identity token is signed with the same key and may name the same audience.
    let is_access = match claims.optional("typ")? {
        // Keycloak says so, and before version 24 puts the login's nonce into these too.
        Some(kind) => kind.eq_ignore_ascii_case("Bearer"),
        None => !claims.has("nonce"),
    };
    if !is_access || claims.has("at_hash") {
        return Err(AccessError::Refused("a token is no access token"));
    }
    let (ends, given) = (claims.lifetime(now)?, claims.seconds("iat")?);
    let expires = ends.min(given.unwrap_or(now).saturating_add(LONGEST));
    if expires.saturating_add(SKEW_SECONDS) <= now {
        return Err(AccessError::Refused("a token was given more than a day ago"));
    }
    // Counted from now, its day would never end.
    if given.is_none() && ends > expires {
        return Err(AccessError::Refused("a token does not say when it was given, and ends later than in a day"));
    }
    let scope = claims.text("scope")?.to_owned();
    let scopes = Arc::new(Scopes::of_registered(&scope));
    // `sub` is the program's own account when nobody logged in.
    let person = if scopes.is_for_people() { Some(format!("{}#{}", issuer.issuer, claims.text("sub")?)) } else { None };
    TokenClaims {
        client: claims.text(&issuer.client_claim)?.to_owned(),
        issuer: Some(issuer.issuer.clone()),
        scope,
        scopes,
        claimed: Arc::new(claims.claimed()?),
        person,
        generation: 0,
        patient: claims.optional(&issuer.patient_claim)?.map(patient).transpose()?,
        picked: false,
        // Without its signature: of an ECDSA one whoever has it makes another that is as good, and what was taken back would be good again.
        id: blake3::hash(token.rsplit_once('.').map_or(token, |(signed, _)| signed).as_bytes()).to_hex().as_str().into(),
        grant: String::new(),
        certificate: bound(claims)?,
        issued: claims.seconds("iat")?.unwrap_or_default(),
        made: claims.seconds("iat")?.unwrap_or_default().saturating_mul(1_000_000),
        expires,
    }
    .check_context()
}

/// The Patient in context, by its id or as a reference.
fn patient(claim: &str) -> Result<Arc<str>, AccessError> {
    let id = claim.strip_prefix("Patient/").unwrap_or(claim);
    if is_id(id) { Ok(id.into()) } else { Err(AccessError::Refused("a token's patient is no id of a Patient")) }
}

/// The certificate that a connection with this token must be made with, in hex (RFC 8705 §3.1). Whatever else a token is bound to, such as a
/// key (RFC 9449), is not proven here, so such a token is not taken: a thief would have use of it.
fn bound(claims: &Claims) -> Result<Option<String>, AccessError> {
    let Some(cnf) = claims.object("cnf")? else { return Ok(None) };
    let thumbprint = cnf.get("x5t#S256").filter(|_| cnf.len() == 1).and_then(Value::as_str);
    let digest = thumbprint.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).filter(|digest| digest.len() == 32);
    let digest = digest.ok_or(AccessError::Refused("a token is bound to what is not proven here"))?;
    Ok(Some(hex(&digest)))
}

/// Whether the key is of the kind, and on the curve, that the algorithm needs.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::*;
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => algorithm == ES256,
            EllipticCurve::P384 => algorithm == ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(_) => algorithm == EdDSA,
        _ => false,
    }
}
