//! What comes to the token endpoint and its neighbours, and what is wrong with it (RFC 6749, 7009, 7662).

use super::{AccessError, jwt};
use crate::config::Secret;

pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A request to the token endpoint, the introspection or the revocation endpoint: its form, and the user and password of its
/// Authorization header.
#[derive(Debug, Default)]
pub struct TokenRequest {
    pub basic: Option<(String, Secret)>,
    /// SHA-256 of the TLS certificate that the connection was made with, in hex.
    pub certificate: Option<String>,
    pub(super) grant_type: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<Secret>,
    pub(super) client_assertion_type: Option<String>,
    pub(super) client_assertion: Option<String>,
    pub(super) code: Option<Secret>,
    pub(super) redirect_uri: Option<String>,
    pub(super) code_verifier: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
    pub(super) token: Option<Secret>,
}

impl TokenRequest {
    /// The client that it says it is from; nothing here is proven.
    pub fn client(&self) -> Option<String> {
        let named = self.basic.as_ref().map(|(user, _)| user).or(self.client_id.as_ref()).cloned();
        named.or_else(|| jwt::unproven_issuer(self.client_assertion.as_deref()?).ok())
    }

    /// Reads the form's parameters; unknown ones are ignored, none may come twice (RFC 6749 §3.2).
    pub fn from_form(pairs: impl IntoIterator<Item = (String, String)>) -> Result<TokenRequest, OAuthError> {
        let mut request = TokenRequest::default();
        let mut secrets: [Option<String>; 5] = Default::default();
        let [secret, code, verifier, refresh, token] = &mut secrets;
        for (name, value) in pairs {
            let field = match name.as_str() {
                "grant_type" => &mut request.grant_type,
                "scope" => &mut request.scope,
                "client_id" => &mut request.client_id,
                "client_secret" => &mut *secret,
                "client_assertion_type" => &mut request.client_assertion_type,
                "client_assertion" => &mut request.client_assertion,
                "code" => &mut *code,
                "redirect_uri" => &mut request.redirect_uri,
                "code_verifier" => &mut *verifier,
                "refresh_token" => &mut *refresh,
                "token" => &mut *token,
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(OAuthError::InvalidRequest("a parameter is given twice"));
            }
        }
        let [secret, code, verifier, refresh, token] = secrets.map(|secret| secret.map(Secret::new));
        (request.client_secret, request.code, request.code_verifier) = (secret, code, verifier);
        (request.refresh_token, request.token) = (refresh, token);
        Ok(request)
    }
}

/// RFC 6749 §5.2. The words are for the client's developer.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("the form is larger than 64 KiB, or broke off")]
    TooLarge,
    /// The reason is for the log only.
    #[error("the client is unknown or disabled, or its secret or assertion does not hold")]
    InvalidClient(&'static str),
    #[error("{0}")]
    InvalidGrant(&'static str),
    #[error("the grant type is not offered: use client_credentials, authorization_code or refresh_token")]
    UnsupportedGrantType,
    #[error("none of the scopes is registered for this client: ask the operator, or ask for less")]
    InvalidScope,
    #[error("too many logins at once: come back in a few seconds")]
    Busy,
    #[error("the server failed")]
    Server(#[source] AccessError),
}

impl OAuthError {
    /// The `error` code of the reply.
    pub fn code(&self) -> &'static str {
        match self {
            OAuthError::InvalidRequest(_) | OAuthError::TooLarge => "invalid_request",
            OAuthError::InvalidClient(_) => "invalid_client",
            OAuthError::InvalidGrant(_) => "invalid_grant",
            OAuthError::UnsupportedGrantType => "unsupported_grant_type",
            OAuthError::InvalidScope => "invalid_scope",
            OAuthError::Busy => "temporarily_unavailable",
            OAuthError::Server(error) if error.is_passing() => "temporarily_unavailable",
            OAuthError::Server(_) => "server_error",
        }
    }
}

impl From<AccessError> for OAuthError {
    fn from(error: AccessError) -> OAuthError {
        match error {
            AccessError::Refused(reason) => OAuthError::InvalidClient(reason),
            AccessError::Busy => OAuthError::Busy,
            AccessError::Claim(words) => OAuthError::InvalidGrant(words),
            error => OAuthError::Server(error),
        }
    }
}

impl From<sqlx::Error> for OAuthError {
    fn from(error: sqlx::Error) -> OAuthError {
        OAuthError::Server(error.into())
    }
}
