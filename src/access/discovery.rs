//! What lango says of itself as an authorization server, so that apps need no settings of it.

use super::{Access, AccessError, now_micros};
use serde_json::{Value, json};
use std::time::Duration;

impl Access {
    /// The public keys that lango's tokens can be verified with (RFC 7517), those too that another process made just now: who meets an unknown key
    /// in a token looks here.
    pub async fn jwks(&self) -> Result<Value, AccessError> {
        self.look_for_keys_after(Duration::from_secs(1)).await?;
        Ok(self.keys_for_identity().await?.jwks(now_micros()))
    }

    /// `.well-known/smart-configuration` (<https://hl7.org/fhir/smart-app-launch/conformance.html>).
    pub fn smart_configuration(&self) -> Value {
        let url = &self.settings.public_url;
        self.configuration(json!({
            "introspection_endpoint": format!("{url}/auth/introspect"),
            "revocation_endpoint": format!("{url}/auth/revoke"),
            "grant_types_supported": ["client_credentials", "authorization_code", "refresh_token"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
            "scopes_supported": [
                "system/*.cruds", "system/*.rs", "system/*.read", "system/*.write", "system/*.*", "user/*.cruds", "patient/*.rs",
                "launch/patient", "openid", "fhirUser", "offline_access", "online_access",
            ],
            "capabilities": [
                "launch-standalone", "authorize-post", "sso-openid-connect", "client-public", "client-confidential-symmetric", "client-confidential-asymmetric",
                "context-standalone-patient", "permission-offline", "permission-online", "permission-patient", "permission-user",
                "permission-v1", "permission-v2",
            ],
        }))
    }

    /// `.well-known/openid-configuration` (OpenID Connect Discovery §3).
    pub fn openid_configuration(&self) -> Value {
        self.configuration(json!({
            "scopes_supported": ["openid", "fhirUser", "launch/patient", "offline_access", "online_access"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "fhirUser"],
        }))
    }

    /// What both say, and `more`.
    fn configuration(&self, mut more: Value) -> Value {
        let url = &self.settings.public_url;
        let mut configuration = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/auth/jwks.json"),
            "authorization_endpoint": format!("{url}/auth/authorize"),
            "token_endpoint": self.settings.token_endpoint(),
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            // RFC 9207 §3.
            "authorization_response_iss_parameter_supported": true,
            // OpenID Connect Discovery: left out, it would be true.
            "request_uri_parameter_supported": false,
        });
        if let (Some(all), Some(more)) = (configuration.as_object_mut(), more.as_object_mut()) {
            all.append(more);
        }
        configuration
    }
}
