//! `[[issuers]]`: outside issuers whose access tokens are believed.

use serde::{Deserialize, Serialize};

/// One outside issuer, such as a Keycloak realm.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` of its tokens, to the letter.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// What its tokens must name in `aud`.
    pub audience: String,
    /// What it signs with; tokens signed with anything else are refused.
    #[serde(default = "rs256")]
    pub algorithms: Vec<String>,
    /// The claim that names the client, which must be registered here with this issuer.
    #[serde(default = "azp")]
    pub client_claim: String,
    /// The claim that names the Patient of `patient/` scopes.
    #[serde(default = "patient")]
    pub patient_claim: String,
}

/// Signatures with public keys; a shared key would let whoever verifies sign.
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

fn rs256() -> Vec<String> {
    vec!["RS256".to_owned()]
}

fn azp() -> String {
    "azp".to_owned()
}

fn patient() -> String {
    "patient".to_owned()
}

/// Why the issuers do not make sense, said of the key that must change.
pub(super) fn check(issuers: &[Issuer]) -> Result<(), (&'static str, String)> {
    const KEY: &str = "issuers";
    for (place, issuer) in issuers.iter().enumerate() {
        let number = place.saturating_add(1);
        let url = issuer.jwks_url.parse::<axum::http::Uri>().ok();
        let wrong = if issuer.issuer.is_empty() || issuers.iter().take(place).any(|other| other.issuer == issuer.issuer) {
            "issuer must be there, and each once"
        } else if url.is_none_or(|url| url.host().is_none() || !matches!(url.scheme_str(), Some("http" | "https"))) {
            "jwks_url must be an address such as https://keycloak.example.org/realms/hie/protocol/openid-connect/certs"
        } else if issuer.audience.is_empty() {
            "audience must be there: without it tokens for other servers would count here"
        } else if issuer.algorithms.is_empty() || !issuer.algorithms.iter().all(|name| ALGORITHMS.contains(&name.as_str())) {
            "algorithms must be some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
        } else {
            continue;
        };
        return Err((KEY, format!("issuer {number}: {wrong}")));
    }
    Ok(())
}
