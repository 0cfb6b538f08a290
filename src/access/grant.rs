//! Access tokens: given for a client's proof (OAuth 2.0 client credentials, RFC 6749 §4.4), and believed again later.

use super::claimed::Claimed;
use super::keys::{ALGORITHM, Keys};
use super::{Access, AccessError, AccessSettings, Context, SKEW_SECONDS, Scopes, TOKEN_SECONDS, jwt, now_seconds};
use crate::config::Secret;
use jsonwebtoken::Header;
use std::sync::Arc;

/// RFC 9068: keeps assertions and identity tokens from being taken for access tokens.
const TOKEN_TYPE: &str = "at+jwt";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A request to the token endpoint: its form, and the user and password of its Authorization header.
#[derive(Debug, Default)]
pub struct TokenRequest {
    pub basic: Option<(String, Secret)>,
    grant_type: Option<String>,
    scope: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
}

/// A token and what it is good for.
#[derive(Debug)]
pub struct Grant {
    pub access_token: String,
    pub scope: String,
    /// Seconds.
    pub expires_in: i64,
}

/// RFC 6749 §5.2. The words are for the client's developer.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The reason is for the log only.
    #[error("the client is unknown or disabled, or its secret or assertion does not hold")]
    InvalidClient(&'static str),
    #[error("{0}")]
    InvalidGrant(&'static str),
    #[error("the grant type is not offered: use client_credentials")]
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
            OAuthError::InvalidRequest(_) => "invalid_request",
            OAuthError::InvalidClient(_) => "invalid_client",
            OAuthError::InvalidGrant(_) => "invalid_grant",
            OAuthError::UnsupportedGrantType => "unsupported_grant_type",
            OAuthError::InvalidScope => "invalid_scope",
            OAuthError::Busy => "temporarily_unavailable",
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

impl TokenRequest {
    /// Reads the form's parameters; unknown ones are ignored, none may come twice (RFC 6749 §3.2).
    pub fn from_form(pairs: impl IntoIterator<Item = (String, String)>) -> Result<TokenRequest, OAuthError> {
        let mut request = TokenRequest::default();
        let mut secret = None;
        for (name, value) in pairs {
            let field = match name.as_str() {
                "grant_type" => &mut request.grant_type,
                "scope" => &mut request.scope,
                "client_id" => &mut request.client_id,
                "client_secret" => &mut secret,
                "client_assertion_type" => &mut request.client_assertion_type,
                "client_assertion" => &mut request.client_assertion,
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(OAuthError::InvalidRequest("a parameter is given twice"));
            }
        }
        request.client_secret = secret.map(Secret::new);
        Ok(request)
    }
}

impl Access {
    /// Gives an access token for a client's secret or signed assertion, with the requested scopes that are registered for
    /// it (all of them when none is requested).
    pub async fn grant(&self, request: &TokenRequest) -> Result<Grant, OAuthError> {
        match request.grant_type.as_deref() {
            Some("client_credentials") => {}
            Some(_) => return Err(OAuthError::UnsupportedGrantType),
            None => return Err(OAuthError::InvalidRequest("grant_type is missing: use client_credentials")),
        }
        let id = request.client_id.as_deref();
        let mut claimed = Claimed::default();
        let client = match (&request.basic, &request.client_secret, &request.client_assertion) {
            (Some((user, secret)), None, None) => {
                if id.is_some_and(|id| id != user) {
                    return Err(OAuthError::InvalidRequest("client_id and the Authorization header name different clients"));
                }
                self.authenticate_secret(user, secret).await?
            }
            (None, Some(secret), None) => {
                let id = id.ok_or(OAuthError::InvalidRequest("client_id is missing"))?;
                self.authenticate_secret(id, secret).await?
            }
            (None, None, Some(assertion)) => {
                if request.client_assertion_type.as_deref() != Some(ASSERTION_TYPE) {
                    return Err(OAuthError::InvalidRequest(
                        "client_assertion_type must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    ));
                }
                let (client, said) = self.authenticate_assertion(assertion, id).await?;
                claimed = said;
                client
            }
            (None, None, None) => return Err(OAuthError::InvalidClient("no credentials")),
            _ => return Err(OAuthError::InvalidRequest("give one kind of client credentials only")),
        };
        let registered = Scopes::of_registered(&client.scopes);
        let scope = match request.scope.as_deref() {
            Some(requested) => registered.within(requested, &[Context::System]),
            None => registered.within(&client.scopes, &[Context::System]),
        };
        if scope.is_empty() {
            return Err(OAuthError::InvalidScope);
        }
        super::roles_of(&client, &claimed).map_err(|_| OAuthError::InvalidGrant("organization_id is not the facility of this client"))?;
        let now = now_seconds();
        let mut claims = serde_json::json!({
            "iss": self.settings.public_url,
            "sub": client.id,
            "client_id": client.id,
            "aud": self.settings.fhir_base(),
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add(TOKEN_SECONDS),
            "jti": uuid::Uuid::new_v4().to_string(),
            "scope": scope,
        });
        if let Some(extensions) = claimed.to_extensions() {
            claims["extensions"] = extensions;
        }
        let key = self.keys.newest()?;
        let mut header = Header::new(ALGORITHM);
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = Some(key.id.clone());
        let access_token = jsonwebtoken::encode(&header, &claims, &key.private)
            .map_err(|_| OAuthError::Server(AccessError::Broken("a token could not be signed")))?;
        Ok(Grant { access_token, scope, expires_in: TOKEN_SECONDS })
    }
}

/// What a verified access token says.
pub(super) struct TokenClaims {
    pub client: String,
    pub scopes: Arc<Scopes>,
    pub claimed: Arc<Claimed>,
    /// `jti`.
    pub id: Arc<str>,
    /// Seconds since 1970.
    pub expires: i64,
}

impl TokenClaims {
    /// Whether the token still lives.
    pub fn check_time(&self, now: i64) -> Result<(), AccessError> {
        if self.expires.saturating_add(SKEW_SECONDS) <= now { Err(AccessError::Refused("a token has expired")) } else { Ok(()) }
    }
}

/// Believes a token that one of `keys` signed for this server.
pub(super) fn verify(token: &str, keys: &Keys, settings: &AccessSettings, now: i64) -> Result<TokenClaims, AccessError> {
    let header = jwt::header(token)?;
    if header.algorithm != ALGORITHM || header.kind.as_deref() != Some(TOKEN_TYPE) {
        return Err(AccessError::Refused("not an access token of this server"));
    }
    let key = keys.find(&header.key_id).ok_or(AccessError::Refused("a token is signed with an unknown key"))?;
    let claims = jwt::claims(token, &key.public, ALGORITHM)?;
    claims.exactly("iss", &settings.public_url)?;
    claims.audience(&settings.fhir_base())?;
    let expires = claims.lifetime(now)?;
    let scopes = Arc::new(Scopes::of_registered(claims.text("scope")?));
    let claimed = Arc::new(claims.claimed()?);
    Ok(TokenClaims { client: claims.text("sub")?.to_owned(), scopes, claimed, id: claims.text("jti")?.into(), expires })
}
