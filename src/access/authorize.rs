//! The authorization endpoint's work (RFC 6749 §4.1, PKCE by RFC 7636, SMART standalone launch): an app asks, a person logs in and
//! agrees, the app gets a code.
//!
//! Who logs in for patients chooses one of them; a clinician whose app asks for a patient's context picks one of those that their facility sees
//! ([`Access::picker`]).
//!
//! Between the steps nothing is kept on the server: what was asked and who logged in travel through the person's browser, sealed.

use super::caller::{Caller, Presented};
use super::claimed::Claimed;
use super::clients::{self, Client};
use super::people::{self, Person};
use super::scopes::{LAUNCH_PATIENT, OPENID, WORDS};
use super::tickets::{Kind, Ticket};
use super::{Access, AccessError, Context, Scopes, now_seconds};
use crate::config::Secret;
use crate::definitions;
use crate::store::Scope;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// How long a person has for each step, in seconds.
const STEP_LIVES: i64 = 600;
const STEP: &str = "lango 2026 steps of a login";

/// What an app asks for, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    pub client: String,
    pub redirect_uri: String,
    /// Within the client's registered scopes.
    pub scope: String,
    pub state: Option<String>,
    challenge: String,
    /// Of OpenID Connect.
    nonce: Option<String>,
}

/// Why an app's request goes no further.
#[derive(Debug)]
pub enum AuthorizeError {
    /// The person is told, and not sent on: nothing proves where to.
    Told(&'static str),
    /// The app is told, by sending the person back to it with these words.
    SentBack {
        redirect_uri: String,
        error: &'static str,
        words: &'static str,
        state: Option<String>,
    },
    Failed(AccessError),
}

impl From<AccessError> for AuthorizeError {
    fn from(error: AccessError) -> AuthorizeError {
        AuthorizeError::Failed(error)
    }
}

/// A sealed step: what was asked, and from the second step on who logged in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub asked: Asked,
    pub person: Option<String>,
    /// The Patient whom they picked.
    picked: Option<String>,
    /// When, in seconds since 1970.
    logged_in: i64,
    /// The person's then ([`Person::generation`]).
    #[serde(default)]
    generation: i64,
    /// The browser that the steps belong to.
    browser: String,
    expires: i64,
}

impl Access {
    /// Checks an app's request.
    pub async fn asked(&self, pairs: &[(String, String)]) -> Result<Asked, AuthorizeError> {
        let mut given: HashMap<&str, &str> = HashMap::new();
        for (name, value) in pairs {
            if given.insert(name, value).is_some() {
                return Err(AuthorizeError::Told("The app's request names a parameter twice."));
            }
        }
        let id = given.get("client_id").copied().unwrap_or_default();
        let client = clients::find(&self.store, id).await.map_err(AccessError::from)?.filter(Client::is_enabled);
        let client = client.ok_or(AuthorizeError::Told("The app is not registered here."))?;
        let redirect_uri = given.get("redirect_uri").copied().unwrap_or_default();
        if !client.redirect_uris.iter().any(|registered| registered == redirect_uri) {
            return Err(AuthorizeError::Told("The app asks to be answered at an address that is not registered for it."));
        }
        let state = given.get("state").map(|state| (*state).to_owned());
        let back = |error, words| AuthorizeError::SentBack { redirect_uri: redirect_uri.to_owned(), error, words, state: state.clone() };
        if given.get("response_type") != Some(&"code") {
            return Err(back("unsupported_response_type", "response_type must be code"));
        }
        if given.get("code_challenge_method") != Some(&"S256") {
            return Err(back("invalid_request", "PKCE is required, with code_challenge_method S256"));
        }
        let challenge = given.get("code_challenge").copied().unwrap_or_default();
        if URL_SAFE_NO_PAD.decode(challenge).ok().is_none_or(|digest| digest.len() != 32) {
            return Err(back("invalid_request", "code_challenge is no SHA-256 in base64url"));
        }
        // SMART: the resource server that the app means; a token for another's must not be had here.
        if given.get("aud").is_some_and(|aud| aud.trim_end_matches('/') != self.settings.fhir_base()) {
            return Err(back("invalid_request", "aud is not the FHIR base of this server"));
        }
        // OpenID Connect Core §6.1, §6.2 and §3.1.2.1: what is not done is said, and no page is shown to who wants none.
        for (name, error) in [("request", "request_not_supported"), ("request_uri", "request_uri_not_supported")] {
            if given.contains_key(name) {
                return Err(back(error, "put the parameters into the request itself"));
            }
        }
        if given.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "none")) {
            return Err(back("login_required", "nobody stays logged in here: leave prompt=none away"));
        }
        let nonce = given.get("nonce").map(|nonce| (*nonce).to_owned());
        if [&state, &nonce].into_iter().flatten().any(|text| text.len() > 2048) {
            return Err(AuthorizeError::Told("The app's request is too long."));
        }
        if nonce.as_ref().is_some_and(|nonce| nonce.contains('\0')) {
            return Err(back("invalid_request", "nonce is no text"));
        }
        // SMART's EHR launch; whoever asks for it believes to be told of a context that nobody here can give.
        if given.contains_key("launch") {
            return Err(back("invalid_request", "lango is no EHR that launches apps: leave launch away, and ask for launch/patient"));
        }
        let requested = given.get("scope").copied().unwrap_or_default();
        let registered = Scopes::of_registered(&client.scopes);
        let rights = registered.within(requested, &[Context::User, Context::Patient]);
        let words = requested.split(' ').filter(|word| WORDS.contains(word) && client.scopes.split(' ').any(|known| known == *word));
        let scope = Some(rights.as_str()).filter(|rights| !rights.is_empty()).into_iter().chain(words).collect::<Vec<_>>().join(" ");
        // To know who logged in is enough to ask for.
        if rights.is_empty() && !asks_who(&scope) {
            return Err(back("invalid_scope", "none of the scopes is registered for this app"));
        }
        Ok(Asked { client: client.id, redirect_uri: redirect_uri.to_owned(), scope, state, challenge: challenge.to_owned(), nonce })
    }

    /// A first step for this browser.
    pub fn begin_steps(&self, asked: Asked, browser: &str) -> Step {
        Step { asked, person: None, picked: None, logged_in: now_seconds(), generation: 0, browser: browser.to_owned(), expires: 0 }
    }

    /// A step for its browser, to be opened once it comes back.
    pub fn seal_step(&self, step: &Step) -> Result<String, AccessError> {
        self.seal(STEP, &Step { expires: now_seconds().saturating_add(STEP_LIVES), ..step.clone() })
    }

    /// What [`Access::seal_step`] sealed, if it is this browser's and not too old.
    pub fn open_step(&self, sealed: &str, browser: &str) -> Result<Step, AccessError> {
        const WRONG: AccessError = AccessError::Refused("a step of a login does not hold");
        let step: Step = self.unseal(STEP, sealed)?;
        if step.browser.is_empty() || step.browser != browser || step.expires < now_seconds() {
            return Err(WRONG);
        }
        Ok(step)
    }

    /// The person of this step, as they stand now.
    pub async fn person_of(&self, step: &Step) -> Result<Person, AccessError> {
        const NOBODY: AccessError = AccessError::Refused("nobody has logged in for this step");
        let id = step.person.as_deref().ok_or(NOBODY)?;
        people::find(&self.store, id).await?.filter(|person| person.honours(step.generation)).ok_or(NOBODY)
    }

    /// The rights of what was asked that this person can give: `patient/` scopes are for those who log in for patients or picked one, since
    /// nobody else has one in context.
    pub fn offered(&self, step: &Step, person: &Person) -> String {
        let in_context = person.is_patients() || step.picked.is_some();
        let fits = |word: &&str| in_context || *word != LAUNCH_PATIENT && !word.starts_with("patient/");
        step.asked.scope.split(' ').filter(fits).collect::<Vec<_>>().join(" ")
    }

    /// Who asks when this person looks for the patient whom the app is to show: themselves, for Patients alone. The app has signed no
    /// purpose yet, so they find whom their own facility sent, and no Consent adds anybody.
    pub async fn picker(&self, step: &Step, person: &Person) -> Result<Caller, AccessError> {
        const RIGHT: &str = "user/Patient.rs";
        let client = clients::find(&self.store, &step.asked.client).await?.filter(Client::is_enabled);
        let client = client.ok_or(AccessError::Refused("the app is not registered any more"))?;
        // The connection is a person's browser, not the app's; the right is the person's, who sees what the app does not.
        let client = Client { certificate: None, scopes: RIGHT.to_owned(), ..client };
        let mut claimed = Claimed::default();
        person.complete(&mut claimed, None).map_err(AccessError::Claim)?;
        let presented = Presented {
            scopes: Arc::new(Scopes::of_registered(RIGHT)),
            claimed: Arc::new(claimed),
            person: Some(person.id.clone()),
            ..Presented::default()
        };
        self.caller(client, Some(person.clone()), presented, None).await
    }

    /// Whether what is offered gives the app anything.
    pub fn can_give(&self, step: &Step, person: &Person) -> bool {
        let scopes = self.offered(step, person);
        Scopes::of_registered(&scopes).is_for_people() || asks_who(&scopes)
    }

    /// The Patients among whom this person chooses, by id, with the name and date of birth that a page shows; their own first.
    pub async fn choices(&self, person: &Person) -> Result<Vec<(String, String)>, AccessError> {
        let patient = definitions::r4().type_code("Patient").ok_or(AccessError::Broken("R4 has Patients"))?;
        let mut choices = Vec::new();
        for id in person.contexts() {
            let mut shown = None;
            // The one that apps are told may be the golden one, which has no names.
            for known in person.in_context(id, false) {
                let body = self.store.read(patient, &known, &Scope::All).await?.and_then(|stored| stored.body);
                shown = shown.or_else(|| named(&serde_json::from_slice(&body?).ok()?));
            }
            choices.push((id.to_owned(), shown.unwrap_or_else(|| id.to_owned())));
        }
        Ok(choices)
    }

    /// The code for what the person of this step agreed to. `chosen`: the Patient in context, of those who log in for several.
    pub async fn agree(&self, step: &Step, chosen: &str) -> Result<Secret, AccessError> {
        let person = self.person_of(step).await?;
        if !self.can_give(step, &person) {
            return Err(AccessError::Refused("a person has no right that the app asks for"));
        }
        let patient = match person.contexts().as_slice() {
            [] => step.picked.clone(),
            [only] if chosen.is_empty() => Some((*only).to_owned()),
            several => {
                let found = several.iter().find(|id| **id == chosen);
                Some((*found.ok_or(AccessError::Refused("the Patient is none of the person's"))?).to_owned())
            }
        };
        let picked = patient.is_some() && !person.is_patients();
        let ticket = Ticket {
            grant: uuid::Uuid::new_v4().to_string(),
            client: step.asked.client.clone(),
            generation: person.generation,
            scopes: self.offered(step, &person),
            person: person.id,
            redirect_uri: step.asked.redirect_uri.clone(),
            challenge: step.asked.challenge.clone(),
            picked,
            patient,
            nonce: step.asked.nonce.clone(),
            logged_in: step.logged_in,
            expires: 0,
        };
        ticket.keep(&self.store, Kind::Code).await
    }
}

impl Step {
    /// Whether the person is to pick a patient before they agree.
    pub fn lacks_patient(&self, person: &Person) -> bool {
        self.picked.is_none() && !person.is_patients() && self.asked.scope.split(' ').any(|word| word == LAUNCH_PATIENT)
    }

    /// The same of who has logged in.
    pub fn of(self, person: &Person) -> Step {
        Step { person: Some(person.id.clone()), logged_in: now_seconds(), generation: person.generation, ..self }
    }

    /// The same with this Patient in context, whom the person was shown.
    pub fn with_patient(self, id: &str) -> Step {
        Step { picked: Some(id.to_owned()), ..self }
    }

    /// The same without a patient's context.
    pub fn without_patient(mut self) -> Step {
        self.asked.scope = self.asked.scope.split(' ').filter(|word| *word != LAUNCH_PATIENT).collect::<Vec<_>>().join(" ");
        self
    }
}

/// Whether an app asks to be told who logs in.
fn asks_who(scope: &str) -> bool {
    scope.split(' ').any(|word| word == OPENID)
}

/// A Patient's name and date of birth: of one mother's children two may have the same name.
fn named(patient: &Value) -> Option<String> {
    let name = name_in(patient)?;
    let born = patient.get("birthDate").and_then(Value::as_str);
    Some(born.map_or_else(|| name.clone(), |date| format!("{name}, born {date}")))
}

/// The first name of a Patient, as a page shows it.
pub fn name_in(patient: &Value) -> Option<String> {
    let name = patient.get("name")?.as_array()?.first()?;
    if let Some(text) = name.get("text").and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    let given = name.get("given").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let words: Vec<&str> = given.chain(name.get("family").and_then(Value::as_str)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}
