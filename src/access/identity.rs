//! The keys that sign identity tokens. They are RSA: RS256 is the one algorithm that every app knows (OpenID Connect Core §15.1,
//! <https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>).
//!
//! They live like the keys of access tokens ([`super::keys`]), beside them: the first is made when somebody first asks for the public keys or for
//! an identity token, since most databases never need one. Nothing but identity tokens is signed with them.

use super::{AccessError, now_micros, on};
use crate::fhir::time::Micros;
use crate::store::Store;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What stands around the modulus in an RSA public key of 2048 bits with the exponent 65537 (PKCS #1, RFC 8017 §A.1.1).
const BEFORE_MODULUS: [u8; 9] = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
const AFTER_MODULUS: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
/// 65537 in base64url.
const EXPONENT: &str = "AQAB";

/// One key pair.
pub(super) struct IdentityKey {
    /// RFC 7638 thumbprint.
    pub id: String,
    pair: KeyPair,
    modulus: String,
    /// When the next key came; `None`: this one is the newest.
    pub succeeded: Option<Micros>,
}

impl IdentityKey {
    fn from_pkcs8(pkcs8: &[u8], succeeded: Option<Micros>) -> Result<IdentityKey, AccessError> {
        const BROKEN: AccessError = AccessError::Broken("a key for identity tokens cannot be read");
        let pair = KeyPair::from_pkcs8(pkcs8).map_err(|_| BROKEN)?;
        let public = pair.public_key().as_ref();
        let modulus = public.strip_prefix(&BEFORE_MODULUS).and_then(|rest| rest.strip_suffix(&AFTER_MODULUS)).ok_or(BROKEN)?;
        let modulus = URL_SAFE_NO_PAD.encode(modulus);
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"e":"{EXPONENT}","kty":"RSA","n":"{modulus}"}}"#)));
        Ok(IdentityKey { id, pair, modulus, succeeded })
    }

    /// The public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": self.modulus, "e": EXPONENT })
    }

    /// The claims as a JSON Web Token.
    pub fn sign(&self, claims: &Value) -> Result<String, AccessError> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id }).to_string();
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let signed = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
        signed.map_err(|_| AccessError::Broken("an identity token could not be signed"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// All keys, newest first; none when nobody asked for one yet.
pub(super) async fn load(store: &Store) -> Result<Vec<IdentityKey>, AccessError> {
    const SQL: &str = "SELECT pkcs8, created FROM identity_key ORDER BY id DESC";
    let rows: Vec<(Vec<u8>, i64)> = on!(store, read, pool => sqlx::query_as(SQL).fetch_all(pool).await?);
    let mut succeeded = None;
    let mut keys = Vec::with_capacity(rows.len());
    for (pkcs8, created) in &rows {
        keys.push(IdentityKey::from_pkcs8(pkcs8, succeeded)?);
        succeeded = Some(*created);
    }
    Ok(keys)
}

/// Makes the first key, unless there is one. Of several processes that do, one's key is kept.
pub(super) async fn make_first(store: &Store) -> Result<(), AccessError> {
    insert(store, 1).await
}

/// Adds a key that signs from now on, if there is one to be followed.
pub(super) async fn rotate(store: &Store) -> Result<(), AccessError> {
    const SQL: &str = "SELECT CAST(COALESCE(max(id), 0) AS BIGINT) FROM identity_key";
    let (newest,): (i64,) = on!(store, read, pool => sqlx::query_as(SQL).fetch_one(pool).await?);
    if newest == 0 { Ok(()) } else { insert(store, newest.saturating_add(1)).await }
}

async fn insert(store: &Store, id: i64) -> Result<(), AccessError> {
    const SQL: &str = "INSERT INTO identity_key (id, pkcs8, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
    let made = tokio::task::spawn_blocking(generate).await;
    let pkcs8 = made.ok().flatten().ok_or(AccessError::Broken("no key for identity tokens could be made"))?;
    on!(store, write, pool => sqlx::query(SQL).bind(id).bind(&pkcs8).bind(now_micros()).execute(pool).await.map(drop)?);
    Ok(())
}

/// Takes a part of a second.
fn generate() -> Option<Vec<u8>> {
    let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
    Some(pair.as_der().ok()?.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    #[test]
    fn what_is_signed_is_verified_with_the_public_half() {
        let key = IdentityKey::from_pkcs8(&generate().unwrap(), None).unwrap();
        let public: Jwk = serde_json::from_value(key.jwk()).unwrap();
        assert_eq!(public.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), key.id);
        let token = key.sign(&json!({ "sub": "asha" })).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.required_spec_claims.clear();
        let verified = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&public).unwrap(), &validation).unwrap();
        assert_eq!((verified.claims["sub"].as_str(), verified.header.kid), (Some("asha"), Some(key.id)));
    }
}
