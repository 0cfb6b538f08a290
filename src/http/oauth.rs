//! The authorization server's addresses for programs: tokens, introspection, revocation, keys, and what SMART wants to know.

use super::auth::{Credentials, PeerCertificate, Tried, credentials, json_body, told};
use crate::access::{Access, Grant, OAuthError, TokenRequest};
use crate::config::Secret;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::sync::Arc;

/// A form with an assertion fits many times.
const FORM_BYTES: usize = 64 << 10;

/// What stands in [`TokenRequest`] besides the form.
type Peer = Option<Extension<PeerCertificate>>;
/// What was sent, if it could be read.
type Form = Result<Bytes, BytesRejection>;

/// `/auth/token`, `/auth/introspect`, `/auth/revoke`, `/auth/jwks.json` and the SMART configuration.
pub fn routes<S: Clone + Send + Sync + 'static>(access: Arc<Access>) -> Router<S> {
    Router::new()
        .route("/auth/token", post(token))
        .route("/auth/introspect", post(introspect))
        .route("/auth/revoke", post(revoke))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .route("/auth/jwks.json", get(jwks))
        .route(
            "/fhir/.well-known/smart-configuration",
            get(|State(access): State<Arc<Access>>| async move { json_body(access.smart_configuration()) }),
        )
        .route(
            "/.well-known/openid-configuration",
            get(|State(access): State<Arc<Access>>| async move { json_body(access.openid_configuration()) }),
        )
        .with_state(access)
}

async fn jwks(State(access): State<Arc<Access>>) -> Response {
    let mut response = match access.jwks().await {
        Ok(keys) => json_body(keys),
        Err(error) => return oauth_error(&error.into(), false),
    };
    // A new key signs at once: who looks for it must not find the set from before on the way.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=10"));
    response
}

async fn token(State(access): State<Arc<Access>>, peer: Peer, headers: HeaderMap, body: Form) -> Response {
    answered(&access, peer, &headers, &body, async |request| access.grant(request).await.map(|grant| json_body(granted(grant)))).await
}

fn granted(grant: Grant) -> serde_json::Value {
    let mut answer = json!({
        "access_token": grant.access_token,
        "token_type": "Bearer",
        "expires_in": grant.expires_in,
        "scope": grant.scope,
    });
    if let Some(token) = grant.refresh_token {
        answer["refresh_token"] = json!(token.expose());
    }
    if let Some(token) = grant.id_token {
        answer["id_token"] = json!(token);
    }
    if let Some(patient) = grant.patient {
        answer["patient"] = json!(patient);
        answer["need_patient_banner"] = json!(true);
    }
    answer
}

async fn introspect(State(access): State<Arc<Access>>, peer: Peer, headers: HeaderMap, body: Form) -> Response {
    answered(&access, peer, &headers, &body, async |request| access.introspect(request).await.map(json_body)).await
}

async fn revoke(State(access): State<Arc<Access>>, peer: Peer, headers: HeaderMap, body: Form) -> Response {
    answered(&access, peer, &headers, &body, async |request| access.revoke(request).await.map(|()| StatusCode::OK.into_response())).await
}

/// The answer to what a client asks for in a form, by `work`.
async fn answered(
    access: &Access,
    peer: Peer,
    headers: &HeaderMap,
    body: &Form,
    work: impl AsyncFnOnce(&TokenRequest) -> Result<Response, OAuthError>,
) -> Response {
    let (result, tried) = match token_request(headers, peer, body) {
        Ok(request) => {
            let result = work(&request).await;
            let refused = request.client().filter(|_| matches!(result, Err(OAuthError::InvalidClient(_))));
            let tried = match refused {
                Some(client) => Tried::client(access, &client).await,
                None => None,
            };
            (result, tried)
        }
        Err(error) => (Err(error), None),
    };
    let response = result.unwrap_or_else(|error| oauth_error(&error, headers.contains_key(header::AUTHORIZATION)));
    let mut response = told(response, tried);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn token_request(headers: &HeaderMap, peer: Peer, body: &Form) -> Result<TokenRequest, OAuthError> {
    let body = body.as_ref().map_err(|_| OAuthError::TooLarge)?;
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(OAuthError::InvalidRequest("send the parameters as application/x-www-form-urlencoded"));
    }
    let mut request = TokenRequest::from_form(form_urlencoded::parse(body).into_owned())?;
    request.certificate = peer.map(|Extension(PeerCertificate(digest))| digest.to_string());
    request.basic = match credentials(headers) {
        Ok(None) => None,
        Ok(Some(Credentials::Basic { user, password })) => {
            // RFC 6749 §2.3.1: both are form-encoded before they are joined.
            Some((form_decode(&user), Secret::new(form_decode(password.expose()))))
        }
        Ok(Some(Credentials::Bearer(_))) | Err(_) => return Err(OAuthError::InvalidRequest("the Authorization header is not Basic")),
    };
    Ok(request)
}

fn form_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn oauth_error(error: &OAuthError, with_header: bool) -> Response {
    let status = match error {
        OAuthError::InvalidClient(reason) => {
            tracing::debug!(reason, "a client was refused a token");
            StatusCode::UNAUTHORIZED
        }
        OAuthError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        OAuthError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        OAuthError::Server(error) => {
            tracing::error!(%error, "a token could not be given");
            if error.is_passing() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR }
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = (status, json_body(json!({ "error": error.code(), "error_description": error.to_string() }))).into_response();
    if status == StatusCode::UNAUTHORIZED && with_header {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"lango\""));
    }
    let later = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some("5"),
        StatusCode::PAYLOAD_TOO_LARGE => Some("3600"),
        _ => None,
    };
    if let Some(seconds) = later {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    response
}
