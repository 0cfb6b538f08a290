//! The token endpoint's work: from a client's proof, and perhaps a person's grant, to an access token; introspection and revocation.

use super::audit::checkpoint::unhex;
use super::claimed::Claimed;
use super::clients::{self, Client};
use super::oauth::ASSERTION_TYPE;
use super::people::{self, Person};
use super::scopes::{FHIR_USER, OFFLINE, ONLINE, OPENID};
use super::tickets::{self, Kind, Ticket};
use super::tokens::{self, Contents, TokenClaims};
use super::{Access, AccessError, Context, OAuthError, Role, SKEW_SECONDS, Scopes, TOKEN_SECONDS, TokenRequest};
use crate::config::Secret;
use crate::fhir::reference::is_id;
use crate::fhir::time::Micros;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A token and what it is good for.
#[derive(Debug)]
pub struct Grant {
    pub access_token: String,
    pub scope: String,
    /// Seconds.
    pub expires_in: i64,
    pub refresh_token: Option<Secret>,
    /// OpenID Connect's, when `openid` was granted.
    pub id_token: Option<String>,
    /// SMART's launch context.
    pub patient: Option<String>,
}

/// Contexts of what people grant.
const FOR_PEOPLE: [Context; 2] = [Context::User, Context::Patient];

/// A client that proved itself, and what it signed on the way.
struct Proven {
    client: Client,
    claimed: Claimed,
}

impl Access {
    /// Gives an access token: to a program for its own proof (RFC 6749 §4.4), or for the grant of a person (§4.1, §6).
    pub async fn grant(&self, request: &TokenRequest) -> Result<Grant, OAuthError> {
        match request.grant_type.as_deref() {
            Some("client_credentials") => self.grant_to_program(request).await,
            Some("authorization_code") => self.grant_for_code(request).await,
            Some("refresh_token") => self.grant_for_refresh(request).await,
            Some(_) => Err(OAuthError::UnsupportedGrantType),
            None => Err(OAuthError::InvalidRequest("grant_type is missing: use client_credentials")),
        }
    }

    async fn grant_to_program(&self, request: &TokenRequest) -> Result<Grant, OAuthError> {
        let Proven { client, claimed } = self.proven(request).await?;
        let registered = Scopes::of_registered(&client.scopes);
        let requested = request.scope.as_deref().unwrap_or(&client.scopes);
        let scope = registered.within(requested, &[Context::System]);
        if scope.is_empty() {
            return Err(OAuthError::InvalidScope);
        }
        super::roles_of(&client, None, &claimed)
            .map_err(|_| OAuthError::InvalidGrant("organization_id is not the facility of this client"))?;
        self.mint(&client, scope, &claimed, None).await
    }

    async fn grant_for_code(&self, request: &TokenRequest) -> Result<Grant, OAuthError> {
        let Proven { client, claimed } = self.proven(request).await?;
        let code = request.code.as_ref().ok_or(OAuthError::InvalidRequest("code is missing"))?;
        let verifier = request.code_verifier.as_ref().ok_or(OAuthError::InvalidRequest("code_verifier is missing: PKCE is required"))?;
        let ticket = tickets::redeem(&self.store, Kind::Code, code, &client.id).await.map_err(stale)?;
        given_after(&client, ticket.given(Kind::Code))?;
        if request.redirect_uri.as_deref() != Some(ticket.redirect_uri.as_str()) || !client.redirect_uris.contains(&ticket.redirect_uri) {
            return Err(OAuthError::InvalidGrant(
                "redirect_uri is not the one that the code was asked with, or the app is not sent there any more",
            ));
        }
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose().as_bytes()));
        if !bool::from(challenge.as_bytes().ct_eq(ticket.challenge.as_bytes())) {
            return Err(OAuthError::InvalidGrant("code_verifier does not belong to the code"));
        }
        let ticket = Ticket { expires: super::now_micros().saturating_add(tickets::GRANT_LIVES), ..ticket };
        self.mint_for(client, claimed, ticket, None).await
    }

    async fn grant_for_refresh(&self, request: &TokenRequest) -> Result<Grant, OAuthError> {
        let Proven { client, claimed } = self.proven(request).await?;
        let token = request.refresh_token.as_ref().ok_or(OAuthError::InvalidRequest("refresh_token is missing"))?;
        if let Some(requested) = &request.scope {
            // What is asked wrongly costs no token: using it again would end the grant as if it were stolen.
            let granted = tickets::refreshable(&self.store, token, &client.id).await?;
            if granted.is_some_and(|granted| Scopes::of_registered(&granted).within(requested, &FOR_PEOPLE).is_empty()) {
                return Err(OAuthError::InvalidScope);
            }
        }
        let ticket = tickets::redeem(&self.store, Kind::Refresh, token, &client.id).await.map_err(stale)?;
        given_after(&client, ticket.given(Kind::Refresh))?;
        self.mint_for(client, claimed, ticket, request.scope.as_deref()).await
    }

    /// A token for what a person granted, and a new refresh token in place of the one that was used.
    async fn mint_for(&self, client: Client, mut claimed: Claimed, ticket: Ticket, narrower: Option<&str>) -> Result<Grant, OAuthError> {
        if tickets::is_revoked(&self.store, &ticket.grant).await? {
            return Err(OAuthError::InvalidGrant("the grant was taken back: the person must log in again"));
        }
        let person = people::find(&self.store, &ticket.person).await?.filter(|person| person.honours(ticket.generation));
        let person = person.ok_or(OAuthError::InvalidGrant("the person was shut out or has a new password since: log in again"))?;
        let granted = Scopes::of_registered(&ticket.scopes);
        let patient = ticket.patient.as_deref();
        let sees = match patient {
            Some(patient) => !person.in_context(patient, ticket.picked).is_empty(),
            None => !person.is_patients(),
        };
        if !sees {
            return Err(OAuthError::InvalidGrant("the person may not see this patient any more: log in again"));
        }
        // Words that are no rights come along as they were granted.
        let mut scope = match narrower {
            Some(requested) => granted.within(requested, &FOR_PEOPLE),
            None => ticket.scopes.clone(),
        };
        if scope.is_empty() {
            return Err(OAuthError::InvalidScope);
        }
        person.complete(&mut claimed, patient).map_err(OAuthError::InvalidGrant)?;
        super::roles_of(&client, Some(&person), &claimed)
            .map_err(|_| OAuthError::InvalidGrant("organization_id is not the facility of this person"))?;
        let refreshable = ticket.scopes.split(' ').any(|word| word == OFFLINE || word == ONLINE);
        let refresh = if refreshable { Some(ticket.keep(&self.store, Kind::Refresh).await?) } else { None };
        let says = |word: &str| ticket.scopes.split(' ').any(|known| known == word);
        let user = if says(OPENID) && says(FHIR_USER) { self.fhir_user(&person).await? } else { None };
        if user.is_none() {
            // Who is known by no resource is not promised as one.
            scope = scope.split(' ').filter(|word| *word != FHIR_USER).collect::<Vec<_>>().join(" ");
        }
        let mut grant = self.mint(&client, scope, &claimed, Some((&person, &ticket))).await?;
        grant.refresh_token = refresh;
        if says(OPENID) {
            let keys = self.keys_for_identity().await?;
            let key = keys.identity().ok_or(AccessError::Broken("there is no key for identity tokens"))?;
            grant.id_token = Some(tokens::sign_identity(&client.id, &ticket, user.as_deref(), key, &self.settings)?);
        }
        Ok(grant)
    }

    /// The resource that says who the person is (SMART's `fhirUser`).
    async fn fhir_user(&self, person: &Person) -> Result<Option<String>, OAuthError> {
        let name = match (&person.patient, &person.practitioner) {
            (Some(patient), _) => Some(format!("Patient/{patient}")),
            (None, Some(practitioner)) => {
                let owner = self.facility_key(&person.facility).await?;
                let names = self.directory.names(owner, &person.facility, Some(practitioner)).await?;
                let mut known = names.people.iter().filter(|name| name.strip_prefix("Practitioner/").is_some_and(is_id));
                // Two are none.
                known.next().filter(|_| known.next().is_none()).cloned()
            }
            (None, None) => None,
        };
        Ok(name.map(|name| format!("{}/{name}", self.settings.fhir_base())))
    }

    async fn mint(
        &self,
        client: &Client,
        scope: String,
        claimed: &Claimed,
        granted: Option<(&Person, &Ticket)>,
    ) -> Result<Grant, OAuthError> {
        self.look_for_keys().await?;
        let patient = granted.and_then(|(_, ticket)| ticket.patient.clone());
        let contents = Contents {
            client: &client.id,
            scope: &scope,
            claimed,
            person: granted.map(|(person, _)| (person.id.as_str(), person.generation)),
            patient: patient.as_deref(),
            picked: granted.is_some_and(|(_, ticket)| ticket.picked),
            grant: granted.map(|(_, ticket)| ticket.grant.as_str()),
            certificate: client.certificate.as_deref(),
        };
        let access_token = tokens::sign(&contents, &self.keys.load(), &self.settings)?;
        Ok(Grant { access_token, scope, expires_in: TOKEN_SECONDS, refresh_token: None, id_token: None, patient })
    }

    /// The client that makes a request to one of these endpoints. An app without secret and keys is believed by its name alone:
    /// what it may get so, PKCE or a token of its own proves.
    async fn proven(&self, request: &TokenRequest) -> Result<Proven, OAuthError> {
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
            (None, None, None) => {
                let app = match id.filter(|_| request.grant_type.as_deref() != Some("client_credentials")) {
                    Some(id) => clients::find(&self.store, id).await?,
                    None => None,
                };
                let app = app.filter(|client| client.is_enabled() && client.is_public() && !client.redirect_uris.is_empty());
                app.ok_or(OAuthError::InvalidClient("no credentials"))?
            }
            _ => return Err(OAuthError::InvalidRequest("give one kind of client credentials only")),
        };
        if client.issuer.is_some() {
            return Err(OAuthError::InvalidClient("the client is another issuer's"));
        }
        if client.certificate.is_some() && client.certificate != request.certificate {
            return Err(OAuthError::InvalidClient("the client is bound to another certificate than the connection's"));
        }
        Ok(Proven { client, claimed })
    }

    /// RFC 7662: what a token is good for. Clients learn of their own tokens, the operator's of all; of any other token nothing.
    pub async fn introspect(&self, request: &TokenRequest) -> Result<Value, OAuthError> {
        let Proven { client, .. } = self.proven(request).await?;
        let token = request.token.as_ref().ok_or(OAuthError::InvalidRequest("token is missing"))?;
        let inactive = json!({ "active": false });
        if client.is_public() {
            return Ok(inactive);
        }
        let Some(claims) = self.current(token).await? else { return Ok(inactive) };
        if claims.client != client.id && !is_operator(&client) {
            return Ok(inactive);
        }
        let mut answer = json!({
            "active": true,
            "scope": claims.scope,
            "client_id": claims.client,
            "sub": claims.person.as_deref().unwrap_or(&claims.client),
            "token_type": "Bearer",
            "iss": claims.issuer.as_deref().unwrap_or(&self.settings.public_url),
            "aud": self.settings.fhir_base(),
            "iat": claims.issued,
            "exp": claims.expires,
            "jti": &*claims.id,
        });
        // SMART: what the app was told with the token.
        if let Some(patient) = &claims.patient {
            answer["patient"] = json!(&**patient);
            if claims.issuer.is_none() {
                answer["need_patient_banner"] = json!(true);
            }
        }
        if let (Some(id), None, true) = (&claims.person, &claims.issuer, claims.scope.split(' ').any(|word| word == FHIR_USER))
            && let Some(person) = people::find(&self.store, id).await?
            && let Some(user) = self.fhir_user(&person).await?
        {
            answer["fhirUser"] = json!(user);
        }
        if let Some(certificate) = &claims.certificate {
            // RFC 8705 §3.2.
            answer["cnf"] = json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(unhex(certificate)) });
        }
        if let Some(extensions) = claims.claimed.to_extensions() {
            answer["extensions"] = extensions;
        }
        Ok(answer)
    }

    /// The claims of an access token that a request could be made with now.
    async fn current(&self, token: &Secret) -> Result<Option<std::sync::Arc<TokenClaims>>, OAuthError> {
        let claims = match self.verified_token(token.expose()).await {
            Ok(claims) => claims,
            Err(AccessError::Refused(_) | AccessError::Claim(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match self.holder(&claims).await {
            Ok(_) => Ok(Some(claims)),
            Err(AccessError::Refused(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// RFC 7009: takes back an access token, or a refresh token with everything that its grant gave; the operator any access token. What is no
    /// token of the client's is nothing to take back, and is not told from one.
    pub async fn revoke(&self, request: &TokenRequest) -> Result<(), OAuthError> {
        let Proven { client, .. } = self.proven(request).await?;
        let token = request.token.as_ref().ok_or(OAuthError::InvalidRequest("token is missing"))?;
        if let Some(grant) = tickets::grant_of(&self.store, token, &client.id).await? {
            return Ok(tickets::end_grant(&self.store, &grant).await?);
        }
        match self.verified_token(token.expose()).await {
            // What another issuer gave nobody else can take back.
            Ok(claims) if claims.client == client.id || !client.is_public() && is_operator(&client) => {
                let expires = claims.expires.saturating_add(SKEW_SECONDS * 2).saturating_mul(1_000_000);
                Ok(tickets::revoke(&self.store, &claims.id, expires).await?)
            }
            Ok(_) | Err(AccessError::Refused(_) | AccessError::Claim(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_operator(client: &Client) -> bool {
    client.roles.iter().any(|role| role == Role::Operator.as_str())
}

/// What was given before its client was shut out stays worthless when the client is let in again.
fn given_after(client: &Client, given: Micros) -> Result<(), OAuthError> {
    if client.honours(given) { Ok(()) } else { Err(OAuthError::InvalidGrant("the app was shut out meanwhile: log in again")) }
}

/// A code or refresh token that does not hold is the grant's fault, not the client's.
fn stale(error: AccessError) -> OAuthError {
    match error {
        AccessError::Refused(_) => OAuthError::InvalidGrant("the code or refresh token does not hold, or was used before: log in again"),
        error => error.into(),
    }
}
