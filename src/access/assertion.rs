//! `private_key_jwt`: a client proves itself by signing a short-lived assertion
//! (<https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html>).

use super::claimed::Claimed;
use super::clients::{self, Client};
use super::key_sets::NamedBy;
use super::{Access, AccessError, SKEW_SECONDS, jwt, now_micros, now_seconds, on};
use crate::store::Store;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};

/// An assertion may not live longer than this from now.
const LONGEST_SECONDS: i64 = 300;
const MAX_JTI: usize = 512;

impl Access {
    /// The client that signed this assertion; a second use of the same one is refused, also by another process and after
    /// a restart. `client_id`, if the request gave one, must agree.
    pub(super) async fn authenticate_assertion(&self, assertion: &str, client_id: Option<&str>) -> Result<(Client, Claimed), AccessError> {
        let header = jwt::header(assertion)?;
        if !matches!(header.algorithm, Algorithm::ES384 | Algorithm::RS384) {
            return Err(AccessError::Refused("an assertion is signed with another algorithm than ES384 or RS384"));
        }
        if header.kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("JWT")) {
            return Err(AccessError::Refused("an assertion is of another type"));
        }
        // The issuer is only a hint whose keys to try, until one of them has verified the signature.
        let issuer = jwt::unproven_issuer(assertion)?;
        if client_id.is_some_and(|id| id != issuer) {
            return Err(AccessError::Refused("an assertion is another client's"));
        }
        let client = clients::find(&self.store, &issuer).await?.filter(Client::is_enabled);
        let client = client.ok_or(AccessError::Refused("an assertion's client is unknown or disabled"))?;
        // SMART lets a client name its keys' address, which must be the registered one and is not used otherwise.
        if header.key_url.is_some() && header.key_url != client.jwks_url {
            return Err(AccessError::Refused("an assertion brings an address of its own keys"));
        }
        let key = match &client.jwks_url {
            Some(url) => self.key_sets.key(url, NamedBy::Client, &header.key_id, |key| fits(key, header.algorithm)).await?,
            None => registered_key(&client, &header.key_id, header.algorithm)?,
        };
        let key = DecodingKey::from_jwk(&key).map_err(|_| AccessError::Refused("a client's key cannot be read"))?;
        let claims = jwt::claims(assertion, &key, header.algorithm)?;

        claims.exactly("iss", &client.id)?;
        claims.exactly("sub", &client.id)?;
        claims.audience(&self.settings.token_endpoint())?;
        let now = now_seconds();
        let expires = claims.lifetime(now)?;
        if expires > now.saturating_add(LONGEST_SECONDS + SKEW_SECONDS) {
            return Err(AccessError::Refused("an assertion lives longer than five minutes"));
        }
        let jti = claims.text("jti")?;
        if jti.len() > MAX_JTI {
            return Err(AccessError::Refused("an assertion's jti is too long"));
        }
        let claimed = claims.claimed()?;
        use_once(&self.store, &client.id, jti, expires).await?;
        Ok((client, claimed))
    }
}

fn registered_key(client: &Client, id: &str, algorithm: Algorithm) -> Result<Jwk, AccessError> {
    let set: JwkSet = serde_json::from_str(client.jwks.as_deref().unwrap_or(r#"{"keys":[]}"#))
        .map_err(|_| AccessError::Broken("a registered key set cannot be read"))?;
    let mut keys = set.keys.into_iter();
    keys.find(|key| key.common.key_id.as_deref() == Some(id) && fits(key, algorithm))
        .ok_or(AccessError::Refused("an assertion names a key that is not registered"))
}

fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    match key.algorithm {
        AlgorithmParameters::EllipticCurve(ref key) => algorithm == Algorithm::ES384 && key.curve == EllipticCurve::P384,
        // 2048 bits in base64url.
        AlgorithmParameters::RSA(ref key) => algorithm == Algorithm::RS384 && key.n.len() >= 342,
        _ => false,
    }
}

async fn use_once(store: &Store, client: &str, jti: &str, expires: i64) -> Result<(), AccessError> {
    const FORGET: &str = "DELETE FROM used_assertion WHERE expires < $1";
    const REMEMBER: &str = "INSERT INTO used_assertion (digest, expires) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";
    let mut hasher = blake3::Hasher::new();
    hasher.update(client.as_bytes()).update(&[0]).update(jti.as_bytes());
    let digest = hasher.finalize();
    // Kept a little longer than the assertion could be accepted.
    let until = expires.saturating_add(SKEW_SECONDS * 2).saturating_mul(1_000_000);
    on!(store, write, pool => sqlx::query(FORGET).bind(now_micros()).execute(pool).await.map(drop)?);
    let new = on!(store, write, pool => sqlx::query(REMEMBER)
        .bind(digest.as_bytes().as_slice())
        .bind(until)
        .execute(pool)
        .await?
        .rows_affected());
    if new == 1 { Ok(()) } else { Err(AccessError::Refused("an assertion was used before")) }
}
