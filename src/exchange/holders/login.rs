//! lango as a client of its holders: SMART Backend Services (<https://hl7.org/fhir/smart-app-launch/backend-services.html>), with a signed
//! assertion or a secret.
//!
//! The assertion says what is said to lango: the purpose of use, the acting practitioner, the reason; so the holder can decide for itself and
//! record who looked. The token endpoint is the one that the holder's SMART configuration names, if it is on the host that the operator approved.

use super::talk::{self, Answer};
use super::{Holder, HolderError};
use crate::access::Claimed;
use crate::config::{HolderLogin, Secret, Settings};
use crate::fhir::json;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Url, header};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens kept for one holder; all are forgotten when there are more.
const MOST_TOKENS: usize = 1_000;
const LONGEST_TOKEN: usize = 16 << 10;
const LONGEST_ANSWER: usize = 256 << 10;
/// A token that ends sooner is not used any more.
const MARGIN: Duration = Duration::from_secs(10);
const KEPT_MOST: Duration = Duration::from_secs(3_600);
/// Seconds that an assertion lives.
const ASSERTION_S: i64 = 120;

/// What is known of a holder's tokens.
#[derive(Default)]
pub struct Login {
    endpoint: Mutex<Option<String>>,
    /// By what they were asked with.
    tokens: Mutex<HashMap<blake3::Hash, (Secret, Instant)>>,
}

impl Login {
    /// Forgets everything: the holder does not know its tokens any more, or has moved its endpoint.
    pub fn forget(&self) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Holder {
    /// A token for what `claimed` says, kept or new; `None`: lango asks without one.
    pub(super) async fn token(&self, claimed: &Claimed) -> Result<Option<Secret>, HolderError> {
        // Whose client lango is at the holder, and in what role, the holder has registered.
        let passed_on = Claimed { role: None, organization: None, ..claimed.clone() }.to_extensions();
        let name = blake3::hash(passed_on.as_ref().map(Value::to_string).unwrap_or_default().as_bytes());
        let now = Instant::now();
        {
            let tokens = self.login.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((token, until)) = tokens.get(&name)
                && now < *until
            {
                return Ok(Some(token.clone()));
            }
        }
        let login = self.settings.login().map_err(|error| {
            tracing::error!(%error, "lango cannot log in at a holder");
            HolderError::Settings("its key or secret cannot be read: see the log")
        })?;
        if login == HolderLogin::None {
            return Ok(None);
        }
        let endpoint = self.token_endpoint().await?;
        let form = self.proof(&login, &endpoint, passed_on)?;
        let request = self.http.post(&endpoint).header(header::CONTENT_TYPE, talk::FORM).header(header::ACCEPT, "application/json");
        let Answer { body, .. } = talk::send(request.body(form), LONGEST_ANSWER).await.map_err(|error| match error {
            HolderError::Refused(_) => HolderError::Login,
            error => error,
        })?;
        let answer = json::parse(&body).map_err(|_| HolderError::Crooked("the token endpoint's answer is no JSON"))?;
        let token = answer.get("access_token").and_then(Value::as_str).filter(|token| is_token(token));
        let token = Secret::new(token.ok_or(HolderError::Crooked("the token endpoint gives no access_token"))?);
        let lives = answer.get("expires_in").and_then(Value::as_u64).map_or(MARGIN, Duration::from_secs).min(KEPT_MOST);
        if let Some(until) = now.checked_add(lives.saturating_sub(MARGIN)) {
            let mut tokens = self.login.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if tokens.len() >= MOST_TOKENS {
                tokens.clear();
            }
            tokens.insert(name, (token.clone(), until));
        }
        Ok(Some(token))
    }

    /// The form by which lango asks for a token.
    fn proof(&self, login: &HolderLogin, endpoint: &str, passed_on: Option<Value>) -> Result<String, HolderError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials").extend_pairs(self.settings.scope.iter().map(|scope| ("scope", scope)));
        match login {
            HolderLogin::None => {}
            HolderLogin::Secret { client_id, secret } => {
                form.extend_pairs([("client_id", client_id.as_str()), ("client_secret", secret.expose())]);
            }
            HolderLogin::Key { client_id, key } => {
                let assertion = ClientKey::read(key)?.assertion(client_id, endpoint, passed_on)?;
                form.extend_pairs([
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion.as_str()),
                ]);
            }
        }
        Ok(form.finish())
    }

    async fn token_endpoint(&self) -> Result<String, HolderError> {
        if let Some(url) = &self.settings.token_url {
            return Ok(url.clone());
        }
        if let Some(known) = &*self.login.endpoint.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known.clone());
        }
        let url = format!("{}/.well-known/smart-configuration", self.settings.url);
        let request = self.http.get(url).header(header::ACCEPT, "application/json");
        let Answer { body, .. } = talk::send(request, LONGEST_ANSWER).await?;
        let answer = json::parse(&body).map_err(|_| HolderError::Crooked("its SMART configuration is no JSON"))?;
        let endpoint = answer.get("token_endpoint").and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
        let endpoint = endpoint.ok_or(HolderError::Crooked("its SMART configuration names no token_endpoint"))?;
        // Whoever answers must not choose where lango's proof goes.
        if Url::parse(&self.settings.url).map(|base| base.origin()) != Ok(endpoint.origin()) {
            return Err(HolderError::Settings("its token_endpoint is on another host: write it into token_url if that is right"));
        }
        let endpoint = String::from(endpoint);
        *self.login.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.clone());
        Ok(endpoint)
    }
}

/// The public keys of lango as a client, for holders to register: a JSON Web Key Set.
pub fn public_keys(settings: &Settings) -> anyhow::Result<Value> {
    let mut keys: Vec<Value> = Vec::new();
    for holder in &settings.holders {
        if let HolderLogin::Key { key, .. } = holder.login()? {
            let key = serde_json::to_value(ClientKey::read(&key)?.public)?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(json!({ "keys": keys }))
}

/// A key of the kinds that SMART lets clients sign with.
struct ClientKey {
    private: EncodingKey,
    algorithm: Algorithm,
    id: String,
    public: Jwk,
}

impl ClientKey {
    fn read(pem: &Secret) -> Result<ClientKey, HolderError> {
        const WRONG: HolderError = HolderError::Settings("key_file must hold a private key in PEM: EC P-384 or RSA, PKCS #8");
        let pem = pem.expose().as_bytes();
        let (private, algorithm) = match EncodingKey::from_ec_pem(pem) {
            Ok(key) => (key, Algorithm::ES384),
            Err(_) => (EncodingKey::from_rsa_pem(pem).map_err(|_| WRONG)?, Algorithm::RS384),
        };
        let mut public = Jwk::from_encoding_key(&private, algorithm).map_err(|_| WRONG)?;
        if let AlgorithmParameters::EllipticCurve(key) = &public.algorithm
            && key.curve != EllipticCurve::P384
        {
            return Err(WRONG);
        }
        let id = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| WRONG)?;
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(ClientKey { private, algorithm, id, public })
    }

    fn assertion(&self, client_id: &str, audience: &str, extensions: Option<Value>) -> Result<String, HolderError> {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({
            "iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now.saturating_add(ASSERTION_S),
            "jti": uuid::Uuid::new_v4().to_string(),
        });
        if let Some(extensions) = extensions {
            claims["extensions"] = extensions;
        }
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims, &self.private).map_err(|_| HolderError::Settings("nothing can be signed with key_file"))
    }
}

/// What may stand in a header (RFC 6750 §2.1, and a little more).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_that_smart_knows() {
        let pem = Secret::new(include_str!("../../../tests/data/keys/es384.pem"));
        let key = ClientKey::read(&pem).unwrap();
        assert_eq!(key.algorithm, Algorithm::ES384);
        let assertion = key.assertion("hie", "https://x/token", None).unwrap();
        assert_eq!(jsonwebtoken::decode_header(assertion.as_bytes()).unwrap().kid, Some(key.id));
        assert!(!serde_json::to_string(&key.public).unwrap().contains("\"d\""));
        assert!(ClientKey::read(&Secret::new("hush")).is_err());
    }
}
