//! Signed tokens, read with suspicion: the algorithm and the key are chosen before the token is believed in anything.
//!
//! The library verifies the signature. Claims are checked here, because its own check takes a claim that is absent for one
//! that fits, and does not understand numbers when `serde_json` keeps their digits.

use super::claimed::Claimed;
use super::{AccessError, SKEW_SECONDS};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// No token that lango has to do with is longer.
const MAX_LENGTH: usize = 8 << 10;

/// What the header of a token says of itself; nothing here is proven.
pub(super) struct Unproven {
    pub algorithm: Algorithm,
    pub key_id: String,
    pub kind: Option<String>,
    /// `jku`: where the signer says that its keys are. It never is where lango looks for them.
    pub key_url: Option<String>,
}

/// Reads the header. Refuses what lango never accepts: extensions that must be understood, and keys brought along.
pub(super) fn header(token: &str) -> Result<Unproven, AccessError> {
    if token.len() > MAX_LENGTH {
        return Err(AccessError::Refused("a token is too long"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| AccessError::Refused("a token has no readable header"))?;
    if header.crit.is_some() || header.extras.inner().contains_key("b64") {
        return Err(AccessError::Refused("a token has a critical extension"));
    }
    if header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some() {
        return Err(AccessError::Refused("a token brings its own key"));
    }
    let key_id = header.kid.ok_or(AccessError::Refused("a token names no key"))?;
    Ok(Unproven { algorithm: header.alg, key_id, kind: header.typ, key_url: header.jku })
}

/// Who a token says it is from; nothing here is proven.
pub(super) fn unproven_issuer(token: &str) -> Result<String, AccessError> {
    #[derive(serde::Deserialize)]
    struct Issuer {
        iss: String,
    }
    if token.len() > MAX_LENGTH {
        return Err(AccessError::Refused("a token is too long"));
    }
    let claims: Issuer = jsonwebtoken::dangerous::insecure_decode(token)
        .map(|data| data.claims)
        .map_err(|_| AccessError::Refused("a token names no issuer"))?;
    Ok(claims.iss)
}

/// The claims, after the signature by `key` with exactly `algorithm` has been verified.
pub(super) fn claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, AccessError> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let data =
        jsonwebtoken::decode::<Box<RawValue>>(token, key, &validation).map_err(|_| AccessError::Refused("a token's signature is wrong"))?;
    match crate::fhir::json::parse(data.claims.get().as_bytes()) {
        Ok(Value::Object(claims)) => Ok(Claims(claims)),
        _ => Err(AccessError::Refused("a token's claims are no JSON object")),
    }
}

/// Claims of a token whose signature holds.
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    pub fn text(&self, name: &str) -> Result<&str, AccessError> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or(AccessError::Refused("a token lacks a claim"))
    }

    /// A text that may be absent; of another kind or empty it is refused.
    pub fn optional(&self, name: &str) -> Result<Option<&str>, AccessError> {
        if self.has(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    /// Whether a claim is `true`.
    pub fn says(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// An object that may be absent.
    pub fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, AccessError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(_) => Err(AccessError::Refused("a token's claim is no object")),
        }
    }

    /// A whole number of seconds since 1970; digits only, as `1e9` and `"1"` are read differently by different readers.
    pub fn seconds(&self, name: &str) -> Result<Option<i64>, AccessError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value.as_i64().filter(|seconds| *seconds > 0).map(Some).ok_or(AccessError::Refused("a token's time is no whole number"))
    }

    /// A whole number, 0 where there is none.
    pub fn count(&self, name: &str) -> Result<i64, AccessError> {
        let Some(value) = self.0.get(name) else { return Ok(0) };
        value.as_i64().ok_or(AccessError::Refused("a token's claim is no whole number"))
    }

    /// `exp` (required), `nbf` and `iat` against the clock; gives `exp`.
    pub fn lifetime(&self, now: i64) -> Result<i64, AccessError> {
        let expires = self.seconds("exp")?.ok_or(AccessError::Refused("a token never expires"))?;
        if expires.saturating_add(SKEW_SECONDS) <= now {
            return Err(AccessError::Refused("a token has expired"));
        }
        for name in ["nbf", "iat"] {
            if self.seconds(name)?.is_some_and(|time| time.saturating_sub(SKEW_SECONDS) > now) {
                return Err(AccessError::Refused("a token is not valid yet"));
            }
        }
        Ok(expires)
    }

    /// `aud` must be exactly this and nobody else besides.
    pub fn audience(&self, expected: &str) -> Result<(), AccessError> {
        let only = match self.0.get("aud") {
            Some(Value::Array(several)) => match several.as_slice() {
                [one] => Some(one),
                _ => None,
            },
            one => one,
        };
        match only.and_then(Value::as_str) {
            Some(audience) if audience == expected => Ok(()),
            _ => Err(AccessError::Refused("a token is meant for somebody else")),
        }
    }

    /// What was signed about the request.
    pub fn claimed(&self) -> Result<Claimed, AccessError> {
        Claimed::of(&self.0).map_err(AccessError::Claim)
    }

    /// `aud` must name this, perhaps among others, as issuers of tokens for several servers write it.
    pub fn one_audience(&self, expected: &str) -> Result<(), AccessError> {
        let named = match self.0.get("aud") {
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(expected)),
            Some(one) => one.as_str() == Some(expected),
            None => false,
        };
        if named { Ok(()) } else { Err(AccessError::Refused("a token is meant for somebody else")) }
    }

    /// The claim must be exactly this.
    pub fn exactly(&self, name: &str, expected: &str) -> Result<(), AccessError> {
        if self.text(name)? == expected { Ok(()) } else { Err(AccessError::Refused("a token's issuer or subject is another")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000;

    /// The claims of a token that was really signed, out of JSON text.
    fn signed(claims: &str) -> Result<Claims, AccessError> {
        let key = b"only the claims matter here";
        let raw = RawValue::from_string(claims.to_owned()).unwrap();
        let token = jsonwebtoken::encode(&Header::default(), &raw, &EncodingKey::from_secret(key)).unwrap();
        super::claims(&token, &DecodingKey::from_secret(key), Algorithm::HS256)
    }

    #[test]
    fn a_claim_given_twice_makes_all_claims_worthless() {
        assert!(signed(r#"{"sub":"a","sub":"b"}"#).is_err());
        assert!(signed(r#"["sub"]"#).is_err());
        assert!(signed(r#"{"sub":"a"}"#).is_ok_and(|claims| claims.exactly("sub", "a").is_ok() && claims.exactly("sub", "A").is_err()));
    }

    #[test]
    fn times_are_whole_seconds_and_clocks_may_differ_a_little() {
        let lives = |claims: &str| signed(claims).unwrap().lifetime(NOW).is_ok();
        assert!(lives(r#"{"exp":1800000000}"#), "expired this second: within the skew");
        assert!(lives(r#"{"exp":1800000100,"nbf":1800000030,"iat":1800000030}"#));
        for dead in [
            r#"{"exp":1799999970}"#,
            r#"{"exp":1800000100,"nbf":1800000031}"#,
            r#"{"exp":1800000100,"iat":1800000031}"#,
            r#"{"exp":1800000100.0}"#,
            r#"{"exp":18e8}"#,
            r#"{"exp":99999999999999999999999}"#,
            r#"{"exp":null}"#,
            r#"{}"#,
        ] {
            assert!(!lives(dead), "{dead}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_panic(header in ".{0,60}", claims in ".{0,60}", signature in any::<Vec<u8>>(), alg in "[A-Za-z0-9]{0,6}") {
            let key = DecodingKey::from_secret(b"x");
            let known = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
            for (head, body) in [(header.clone(), claims.clone()), (URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims)), (URL_SAFE_NO_PAD.encode(&known), URL_SAFE_NO_PAD.encode(&claims))] {
                let token = format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&signature));
                let _ = super::header(&token);
                prop_assert!(super::claims(&token, &key, Algorithm::HS256).is_err());
            }
        }
    }
}
