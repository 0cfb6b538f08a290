//! What travels through a browser and must come back as it was: JSON and a keyed hash over it. It is readable there and cannot be changed.

use super::{Access, AccessError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

const WRONG: AccessError = AccessError::Refused("something sealed does not hold");

impl Access {
    /// Seals `what`. Each `purpose` has a key of its own, so that what is sealed for one is nothing for another.
    pub(super) fn seal(&self, purpose: &str, what: &impl Serialize) -> Result<String, AccessError> {
        let text = serde_json::to_vec(what).map_err(|_| AccessError::Broken("something could not be sealed"))?;
        let mac = blake3::keyed_hash(&self.secret(purpose)?, &text);
        Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(mac.as_bytes())))
    }

    /// What [`Access::seal`] sealed for this purpose.
    pub(super) fn unseal<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Result<T, AccessError> {
        let (text, mac) = sealed.split_once('.').ok_or(WRONG)?;
        let text = URL_SAFE_NO_PAD.decode(text).map_err(|_| WRONG)?;
        let mac: [u8; 32] = URL_SAFE_NO_PAD.decode(mac).ok().and_then(|mac| mac.try_into().ok()).ok_or(WRONG)?;
        // blake3::Hash compares in constant time.
        if blake3::keyed_hash(&self.secret(purpose)?, &text) != blake3::Hash::from(mac) {
            return Err(WRONG);
        }
        serde_json::from_slice(&text).map_err(|_| WRONG)
    }
}
