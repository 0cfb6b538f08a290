//! Client secrets: made, hashed, verified.

use super::AccessError;
use crate::config::Secret;
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::{TryRngCore, rngs::OsRng};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a verified secret is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Argon2 takes some 20 MB and 50 ms on purpose; this many run at once.
const AT_ONCE: usize = 2;
/// How long a login waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new secret of 256 random bits.
pub fn generate_secret() -> Result<Secret, AccessError> {
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// The hash that is kept of a secret: argon2id in PHC form, with a salt of its own.
pub fn hash_secret(secret: &Secret) -> Result<String, AccessError> {
    let broken = |_| AccessError::Broken("a secret could not be hashed");
    let salt = SaltString::encode_b64(&random::<16>()?).map_err(broken)?;
    Argon2::default().hash_password(secret.expose().as_bytes(), &salt).map(|hash| hash.to_string()).map_err(broken)
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], AccessError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|_| AccessError::Broken("the system gives no random numbers"))?;
    Ok(bytes)
}

/// Verifies secrets; the costly hash is computed once in five minutes for a client that keeps calling.
pub(super) struct Verifier {
    /// Makes the digests below worthless outside this process.
    key: [u8; 32],
    /// By client id: the digest of secret and stored hash that was verified, so that a new hash makes it void.
    verified: Mutex<HashMap<String, (blake3::Hash, Instant)>>,
    turns: Semaphore,
}

impl Verifier {
    pub fn new() -> Verifier {
        Verifier { key: rand::random(), verified: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }

    /// Whether `secret` is the one that `stored` was made from. A client without a hash costs as much time as a wrong secret.
    pub async fn verify(&self, client: &str, stored: Option<&str>, secret: &Secret) -> Result<bool, AccessError> {
        let digest = self.digest(stored.unwrap_or_default(), secret);
        if stored.is_some() && self.remembers(client, &digest) {
            return Ok(true);
        }
        let matches = self.verify_once(stored, secret).await?;
        if matches {
            self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(client.to_owned(), (digest, Instant::now()));
        }
        Ok(matches)
    }

    /// The same without remembering, for people's passwords.
    pub async fn verify_once(&self, stored: Option<&str>, secret: &Secret) -> Result<bool, AccessError> {
        let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| AccessError::Busy)?.map_err(|_| AccessError::Busy)?;
        let known = stored.is_some();
        let hash = match stored {
            Some(hash) => hash.to_owned(),
            None => decoy()?,
        };
        let secret = secret.clone();
        let matches = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&hash).map_err(|_| AccessError::Broken("a stored secret hash cannot be read"))?;
            Ok::<bool, AccessError>(Argon2::default().verify_password(secret.expose().as_bytes(), &hash).is_ok())
        })
        .await
        .map_err(|_| AccessError::Broken("a secret could not be verified"))??;
        Ok(known && matches)
    }

    fn remembers(&self, client: &str, digest: &blake3::Hash) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // blake3::Hash compares in constant time.
        verified.get(client).is_some_and(|(known, when)| known == digest && when.elapsed() < REMEMBERED)
    }

    fn digest(&self, stored: &str, secret: &Secret) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(stored.as_bytes()).update(&[0]).update(secret.expose().as_bytes());
        hasher.finalize()
    }
}

/// The hash that unknown clients' secrets are compared with, so that time does not tell who exists.
fn decoy() -> Result<String, AccessError> {
    static DECOY: OnceLock<String> = OnceLock::new();
    if let Some(hash) = DECOY.get() {
        return Ok(hash.clone());
    }
    let hash = hash_secret(&generate_secret()?)?;
    Ok(DECOY.get_or_init(|| hash).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_verified_once_and_then_remembered_until_its_hash_changes() {
        let verifier = Verifier::new();
        let (right, wrong) = (generate_secret().unwrap(), generate_secret().unwrap());
        let hash = hash_secret(&right).unwrap();
        assert!(!verifier.verify("emr", Some(&hash), &wrong).await.unwrap());
        assert!(verifier.verify("emr", Some(&hash), &right).await.unwrap());
        // With no turn left only what is remembered can be verified.
        let _all = verifier.turns.acquire_many(AT_ONCE as u32).await.unwrap();
        assert!(verifier.verify("emr", Some(&hash), &right).await.unwrap());
        assert!(!verifier.remembers("emr", &verifier.digest(&hash, &wrong)));
        assert!(!verifier.remembers("other", &verifier.digest(&hash, &right)));
        let changed = hash_secret(&right).unwrap();
        assert_ne!(changed, hash, "the salt differs");
        assert!(!verifier.remembers("emr", &verifier.digest(&changed, &right)));
    }

    #[tokio::test]
    async fn a_client_without_a_secret_never_logs_in() {
        let verifier = Verifier::new();
        assert!(!verifier.verify("emr", None, &Secret::new("")).await.unwrap());
        assert!(!verifier.verify("emr", None, &Secret::new("")).await.unwrap());
    }
}
