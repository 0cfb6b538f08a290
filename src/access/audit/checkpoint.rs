//! Signed words on where the chain stood, so that who cuts its end off or computes all of it anew is found out.
//!
//! A checkpoint is a JSON Web Signature with lango's own key (RFC 7515, ES256): kind, position, hash, instant. It is kept in the
//! database and, if the operator wants, added to a file elsewhere. Who can write the database can also take checkpoints out of it, or
//! even sign new ones; against them only the copies elsewhere stand.

use crate::access::AccessError;
use crate::access::keys::{ALGORITHM, Keys};
use crate::fhir::time::{Micros, now};
use crate::store::{Sealed, Store};
use jsonwebtoken::{Header, Validation};
use serde::{Deserialize, Serialize};

/// Rows after which a server signs one.
pub const ROWS: i64 = 1_000;
/// After which time it does, if anything happened.
pub const AGE: Micros = 60_000_000;
/// Keeps checkpoints from being taken for tokens.
const TYPE: &str = "lango-audit+jwt";

/// What a checkpoint says of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The row had this hash.
    Head,
    /// All rows up to this one, which had this hash, were removed because they were old enough.
    Removed,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Head => "head",
            Kind::Removed => "removed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub kind: Kind,
    pub position: i64,
    /// In hex.
    pub hash: String,
    /// Microseconds.
    pub at: Micros,
    /// Of a removal: what was recorded before then was old enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Micros>,
}

/// Signs and reads checkpoints with the keys of a database.
pub struct Notary(Keys);

impl std::fmt::Debug for Notary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notary")
    }
}

impl Notary {
    pub async fn open(store: &Store) -> Result<Notary, AccessError> {
        Keys::load(store).await.map(Notary)
    }

    /// A checkpoint of this row, signed.
    fn sign(&self, kind: Kind, row: &Sealed, before: Option<Micros>) -> Result<String, AccessError> {
        let key = self.0.newest()?;
        let mut header = Header::new(ALGORITHM);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.id.clone());
        let said = Checkpoint { kind, position: row.position, hash: hex(&row.hash), at: now(), before };
        jsonwebtoken::encode(&header, &said, &key.private).map_err(|_| AccessError::Broken("a checkpoint could not be signed"))
    }

    /// What a signed text says; `None` when no key of this database signed it.
    pub fn read(&self, signed: &str) -> Option<Checkpoint> {
        let header = jsonwebtoken::decode_header(signed).ok()?;
        if header.alg != ALGORITHM || header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let key = self.0.ever(&header.kid?)?;
        let mut rules = Validation::new(ALGORITHM);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_aud = false;
        Some(jsonwebtoken::decode::<Checkpoint>(signed, &key.public, &rules).ok()?.claims)
    }

    /// Signs and keeps that the chain stood at this row; gives the text. Of a row there is one: how old a row can be is told by when it was
    /// attested first.
    pub async fn attest(&self, store: &Store, row: &Sealed) -> Result<String, AccessError> {
        self.keep(store, Kind::Head, row, None).await
    }

    /// Signs and keeps that all up to this row was removed, having been recorded before `before`; gives the text.
    pub async fn removes(&self, store: &Store, row: &Sealed, before: Micros) -> Result<String, AccessError> {
        self.keep(store, Kind::Removed, row, Some(before)).await
    }

    async fn keep(&self, store: &Store, kind: Kind, row: &Sealed, before: Option<Micros>) -> Result<String, AccessError> {
        let signed = self.sign(kind, row, before)?;
        Ok(store.keep_checkpoint(row.position, kind.as_str(), now(), &signed).await?)
    }
}

/// Lower case, two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of such a text.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
    digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}
