//! The keys that sign access tokens. The first is made at the first start and kept in the database, so that every process on it
//! believes the others' tokens. Whoever can read the database can forge tokens; whoever can read it needs none.
//!
//! Rotation adds a key. Every process signs with it at its next look into the database, and knows it at once when a token names it;
//! the one before verifies until all tokens that it signed have ended. No row is ever removed: other secrets come from the oldest.

use super::identity::{self, IdentityKey};
use super::{AccessError, TOKEN_SECONDS, now_micros, on, secrets};
use crate::fhir::time::Micros;
use crate::store::Store;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

pub(super) const ALGORITHM: Algorithm = Algorithm::ES256;

/// What stands before the 32 bytes of a P-256 private key in PKCS #8 (RFC 5958 around RFC 5915, no public key).
const PKCS8_P256: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20,
];

/// How long a key verifies after its successor came: processes look for new keys within [`LOOK_AGAIN`], tokens live after that.
const RETIRES_AFTER: Micros = (TOKEN_SECONDS + 600) * 1_000_000;
/// How often a signer looks for a newer key.
pub(super) const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// One key pair.
pub(super) struct Key {
    /// RFC 7638 thumbprint.
    pub id: String,
    pub private: EncodingKey,
    pub public: DecodingKey,
    jwk: Jwk,
    /// When the next key came; `None`: this one is the newest.
    succeeded: Option<Micros>,
    /// What other secrets are derived from.
    seed: [u8; 32],
}

/// All keys, newest first; at least one signs access tokens.
pub(super) struct Keys {
    signing: Vec<Key>,
    /// Those of identity tokens; none before somebody asks for one.
    identity: Vec<IdentityKey>,
}

impl Keys {
    /// Reads the keys, making the first one on a new database.
    pub async fn load(store: &Store) -> Result<Keys, AccessError> {
        const SQL: &str = "SELECT pkcs8, created FROM signing_key ORDER BY id DESC";
        if newest_id(store).await? == 0 {
            insert(store, 1).await?;
        }
        let rows: Vec<(Vec<u8>, i64)> = on!(store, read, pool => sqlx::query_as(SQL).fetch_all(pool).await?);
        let mut succeeded = None;
        let mut keys = Vec::with_capacity(rows.len());
        for (pkcs8, created) in &rows {
            keys.push(Key { succeeded, ..Key::from_pkcs8(pkcs8)? });
            succeeded = Some(*created);
        }
        Ok(Keys { signing: keys, identity: identity::load(store).await? })
    }

    /// The key that signs.
    pub fn newest(&self) -> Result<&Key, AccessError> {
        self.signing.first().ok_or(AccessError::Broken("there is no signing key"))
    }

    /// The key that signs identity tokens.
    pub fn identity(&self) -> Option<&IdentityKey> {
        self.identity.first()
    }

    /// A secret for `purpose` that all processes on the database share, from the oldest key, which stays when newer ones come.
    pub fn secret(&self, purpose: &str) -> Result<[u8; 32], AccessError> {
        let oldest = self.signing.last().ok_or(AccessError::Broken("there is no signing key"))?;
        Ok(blake3::derive_key(purpose, &oldest.seed))
    }

    /// The key with this id, however old: for what was signed to last.
    pub fn ever(&self, id: &str) -> Option<&Key> {
        self.signing.iter().find(|key| key.id == id)
    }

    /// The key with this id, unless it has retired.
    pub fn find(&self, id: &str, now: Micros) -> Option<&Key> {
        self.signing.iter().find(|key| key.id == id && verifies(key.succeeded, now))
    }

    pub fn jwks(&self, now: Micros) -> serde_json::Value {
        let signing = self.signing.iter().filter(|key| verifies(key.succeeded, now)).map(|key| serde_json::json!(key.jwk));
        let identity = self.identity.iter().filter(|key| verifies(key.succeeded, now)).map(IdentityKey::jwk);
        serde_json::json!({ "keys": signing.chain(identity).collect::<Vec<_>>() })
    }
}

/// Whether a key verifies whose successor came then.
fn verifies(succeeded: Option<Micros>, now: Micros) -> bool {
    succeeded.is_none_or(|succeeded| succeeded.saturating_add(RETIRES_AFTER) > now)
}

impl Key {
    fn from_pkcs8(pkcs8: &[u8]) -> Result<Key, AccessError> {
        let broken = |_| AccessError::Broken("a signing key cannot be read");
        let private = EncodingKey::from_ec_der(pkcs8);
        let mut jwk = Jwk::from_encoding_key(&private, ALGORITHM).map_err(broken)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(broken)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let seed = blake3::derive_key("lango 2026 secrets beside the signing key", pkcs8);
        Ok(Key { succeeded: None, id, public: DecodingKey::from_jwk(&jwk).map_err(broken)?, private, jwk, seed })
    }
}

/// Adds keys that sign from now on; tokens that older keys signed hold until they end.
pub async fn rotate(store: &Store) -> Result<(), AccessError> {
    let newest = newest_id(store).await?;
    insert(store, newest.saturating_add(1)).await?;
    identity::rotate(store).await
}

async fn newest_id(store: &Store) -> Result<i64, AccessError> {
    const SQL: &str = "SELECT CAST(COALESCE(max(id), 0) AS BIGINT) FROM signing_key";
    let (id,): (i64,) = on!(store, read, pool => sqlx::query_as(SQL).fetch_one(pool).await?);
    Ok(id)
}

/// Of several processes that add the same number at once, one's key is kept.
async fn insert(store: &Store, id: i64) -> Result<(), AccessError> {
    const SQL: &str = "INSERT INTO signing_key (id, pkcs8, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
    let pkcs8 = generate()?;
    on!(store, write, pool => sqlx::query(SQL).bind(id).bind(&pkcs8).bind(now_micros()).execute(pool).await.map(drop)?);
    Ok(())
}

fn generate() -> Result<Vec<u8>, AccessError> {
    loop {
        let pkcs8 = [&PKCS8_P256[..], &secrets::random::<32>()?].concat();
        // One number in 2^32 is no key of the curve.
        if Key::from_pkcs8(&pkcs8).is_ok() {
            return Ok(pkcs8);
        }
    }
}
