//! The keys that sign access tokens. They are made at the first start and kept in the database, so that every process on it
//! believes the others' tokens. Whoever can read the database can forge tokens; whoever can read it needs none.

use super::{AccessError, now_micros, on, secrets};
use crate::store::Store;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

pub(super) const ALGORITHM: Algorithm = Algorithm::ES256;

/// What stands before the 32 bytes of a P-256 private key in PKCS #8 (RFC 5958 around RFC 5915, no public key).
const PKCS8_P256: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20,
];

/// One key pair.
pub(super) struct Key {
    /// RFC 7638 thumbprint.
    pub id: String,
    pub private: EncodingKey,
    pub public: DecodingKey,
    jwk: Jwk,
    /// What other secrets are derived from.
    seed: [u8; 32],
}

/// All keys, newest first; there is at least one.
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Reads the keys, making the first one on a new database.
    pub async fn load(store: &Store) -> Result<Keys, AccessError> {
        const SQL: &str = "SELECT pkcs8 FROM signing_key ORDER BY id DESC";
        if count(store).await? == 0 {
            insert_first(store, &generate()?).await?;
        }
        let rows: Vec<(Vec<u8>,)> = on!(store, read, pool => sqlx::query_as(SQL).fetch_all(pool).await?);
        rows.iter().map(|(pkcs8,)| Key::from_pkcs8(pkcs8)).collect::<Result<_, _>>().map(Keys)
    }

    /// The key that signs.
    pub fn newest(&self) -> Result<&Key, AccessError> {
        self.0.first().ok_or(AccessError::Broken("there is no signing key"))
    }

    /// A secret for `purpose` that all processes on the database share, from the oldest key, which stays when newer ones come.
    pub fn secret(&self, purpose: &str) -> Result<[u8; 32], AccessError> {
        let oldest = self.0.last().ok_or(AccessError::Broken("there is no signing key"))?;
        Ok(blake3::derive_key(purpose, &oldest.seed))
    }

    /// The key with this id, however old: for what was signed to last.
    pub fn ever(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    pub fn find(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": self.0.iter().map(|key| &key.jwk).collect::<Vec<_>>() })
    }
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
        Ok(Key { id, public: DecodingKey::from_jwk(&jwk).map_err(broken)?, private, jwk, seed })
    }
}

async fn count(store: &Store) -> Result<i64, AccessError> {
    const SQL: &str = "SELECT count(*) FROM signing_key";
    let (count,): (i64,) = on!(store, read, pool => sqlx::query_as(SQL).fetch_one(pool).await?);
    Ok(count)
}

/// Of several processes that start at once on a new database, one's key is kept.
async fn insert_first(store: &Store, pkcs8: &[u8]) -> Result<(), AccessError> {
    const SQL: &str = "INSERT INTO signing_key (id, pkcs8, created) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING";
    on!(store, write, pool => sqlx::query(SQL).bind(pkcs8).bind(now_micros()).execute(pool).await.map(drop)?);
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
