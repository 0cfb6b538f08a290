//! `/console/clients`: who may call. The same rules as `lango client`, which this page and the command both ask of [`registration`].

use super::super::pages::{cookie, field, html};
use super::{COOKIE, Console};
use crate::access::clients::{self, Client, ClientError};
use crate::access::registration::{self, Change, Proof, Registration};
use crate::access::{Caller, Role, audit};
use crate::config::Secret;
use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What is written otherwise in the path of a page: everything but what ids are made of.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'@');
/// Clients on one page; more are found by their names.
const SHOWN: usize = 200;

#[derive(Template)]
#[template(path = "console/clients.html")]
struct ListPage<'a> {
    base: &'a str,
    style: &'a str,
    who: &'a str,
    token: &'a str,
    sought: &'a str,
    /// How many there are of what was sought.
    found: usize,
    rows: &'a [Client],
    roles: &'a [Role],
    form: &'a Form,
    /// What is wrong with the form.
    problem: &'a str,
}

#[derive(Template)]
#[template(path = "console/client.html")]
struct ChangePage<'a> {
    base: &'a str,
    style: &'a str,
    who: &'a str,
    token: &'a str,
    /// As it stands.
    client: &'a Client,
    roles: &'a [Role],
    form: &'a Form,
    /// What is wrong with the form.
    problem: &'a str,
}

#[derive(Template)]
#[template(path = "console/secret.html")]
struct SecretPage<'a> {
    base: &'a str,
    style: &'a str,
    who: &'a str,
    token: &'a str,
    id: &'a str,
    secret: &'a str,
}

/// What was typed, to be shown again when it is wrong. A given secret is not.
#[derive(Clone, Debug, Default)]
struct Form {
    id: String,
    facility: String,
    scopes: String,
    roles: Vec<String>,
    proof: String,
    keys: String,
    address: String,
    redirect_uris: String,
    certificate: String,
    /// In a change: no certificate is needed any more.
    no_certificate: bool,
}

impl Form {
    fn of(body: &[u8]) -> Form {
        let text = |name| field(body, name).trim().to_owned();
        let roles = form_urlencoded::parse(body).filter(|(name, _)| name == "role").map(|(_, role)| role.into_owned()).collect();
        Form {
            id: text("id"),
            facility: text("facility"),
            scopes: text("scope"),
            roles,
            proof: text("proof"),
            keys: text("keys"),
            address: text("address"),
            redirect_uris: text("redirect_uris"),
            certificate: text("certificate"),
            no_certificate: !field(body, "no_certificate").is_empty(),
        }
    }

    /// What a change begins with.
    fn of_client(client: &Client) -> Form {
        Form {
            scopes: client.scopes.clone(),
            roles: client.roles.clone(),
            redirect_uris: client.redirect_uris.join("\n"),
            ..Form::default()
        }
    }

    fn has_role(&self, role: &Role) -> bool {
        self.roles.iter().any(|name| name == role.as_str())
    }

    /// `given`: the secret that stood in the form.
    fn registration(&self, given: String) -> Result<Registration, ClientError> {
        let proof = match self.proof.as_str() {
            "keys" => Proof::Keys(self.keys.clone()),
            "keys-at" => Proof::KeysAt(self.address.clone()),
            "issuer" => Proof::Issuer(self.address.clone()),
            "public" => Proof::Public,
            _ if given.is_empty() => Proof::NewSecret,
            _ => Proof::Secret(Secret::new(given)),
        };
        Ok(Registration {
            id: self.id.clone(),
            facility: self.facility.clone(),
            scopes: self.scopes.clone(),
            roles: self.parsed_roles()?,
            proof,
            redirect_uris: self.redirect_uris(),
            certificate: self.given_certificate(),
        })
    }

    /// Scopes, roles and addresses as they stand in the form; keys and certificate only where some are given.
    fn change(&self) -> Result<Change, ClientError> {
        let proof = match self.proof.as_str() {
            "keys" => Some(Proof::Keys(self.keys.clone())),
            "keys-at" => Some(Proof::KeysAt(self.address.clone())),
            _ => None,
        };
        let certificate = if self.no_certificate { Some(None) } else { self.given_certificate().map(Some) };
        let (scopes, roles, redirect_uris) = (self.scopes.clone(), self.parsed_roles()?, self.redirect_uris());
        Ok(Change { scopes: Some(scopes), roles: Some(roles), proof, redirect_uris: Some(redirect_uris), certificate })
    }

    fn parsed_roles(&self) -> Result<Vec<Role>, ClientError> {
        Ok(self.roles.iter().map(|role| role.parse()).collect::<Result<_, _>>()?)
    }

    fn redirect_uris(&self) -> Vec<String> {
        self.redirect_uris.split_whitespace().map(str::to_owned).collect()
    }

    fn given_certificate(&self) -> Option<String> {
        Some(self.certificate.clone()).filter(|pem| !pem.is_empty())
    }

    /// For the record: everything but secrets and keys.
    fn told(&self) -> String {
        let mut told = form_urlencoded::Serializer::new(String::new());
        let roles = self.roles.join(" ");
        let pairs = [
            ("id", &self.id),
            ("facility", &self.facility),
            ("scope", &self.scopes),
            ("role", &roles),
            ("proof", &self.proof),
            ("address", &self.address),
            ("redirect_uris", &self.redirect_uris),
        ];
        told.extend_pairs(pairs.into_iter().filter(|(_, value)| !value.is_empty())).finish()
    }
}

pub(super) async fn list(State(console): State<Console>, caller: Caller, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let sought = field(query.unwrap_or_default().as_bytes(), "q");
    shown(&console, &caller, &headers, sought.trim(), &Form::default(), None).await
}

async fn shown(
    console: &Console,
    caller: &Caller,
    headers: &HeaderMap,
    sought: &str,
    form: &Form,
    problem: Option<(StatusCode, &str)>,
) -> Response {
    let mut rows = match clients::list(&console.store).await {
        Ok(rows) => rows,
        Err(error) => return console.failed(headers, &error),
    };
    let lower = sought.to_lowercase();
    rows.retain(|row| row.id.to_lowercase().contains(&lower) || row.facility.to_lowercase().contains(&lower));
    let found = rows.len();
    rows.truncate(SHOWN);
    let (status, problem) = problem.unwrap_or((StatusCode::OK, ""));
    let (base, style, token) = (console.base(), console.style(), console.token(headers));
    let (base, style, token, who) = (base.as_str(), style.as_str(), token.as_str(), caller.person.as_deref().unwrap_or_default());
    html(status, ListPage { base, style, who, token, sought, found, rows: &rows, roles: &Role::ALL, form, problem }.render(), None)
}

pub(super) async fn add(State(console): State<Console>, caller: Caller, headers: HeaderMap, body: Bytes) -> Response {
    if !console.is_own_form(&cookie(&headers, COOKIE), &headers, &body) {
        return console.stranger(&headers);
    }
    let form = Form::of(&body);
    if let Some(trail) = audit::current() {
        trail.came_with(form.told().as_bytes());
    }
    let added = match form.registration(field(&body, "secret")) {
        Ok(asked) => registration::register(&console.store, asked, console.access.public_url()).await,
        Err(error) => Err(error),
    };
    match added {
        Ok(made) => done(&console, &caller, &headers, &form.id, made),
        Err(error) if error.is_askers() => {
            let status = if matches!(error, ClientError::Exists) { StatusCode::CONFLICT } else { StatusCode::BAD_REQUEST };
            shown(&console, &caller, &headers, "", &form, Some((status, &error.to_string()))).await
        }
        Err(error) => console.failed(&headers, &error),
    }
}

/// One client, to be changed.
pub(super) async fn one(State(console): State<Console>, Path(id): Path<String>, caller: Caller, headers: HeaderMap) -> Response {
    match clients::find(&console.store, &id).await {
        Ok(Some(client)) => changing(&console, &caller, &headers, &client, &Form::of_client(&client), None),
        Ok(None) => absent(&console, &headers),
        Err(error) => console.failed(&headers, &error),
    }
}

fn changing(
    console: &Console,
    caller: &Caller,
    headers: &HeaderMap,
    client: &Client,
    form: &Form,
    problem: Option<(StatusCode, &str)>,
) -> Response {
    let (status, problem) = problem.unwrap_or((StatusCode::OK, ""));
    let (base, style, token) = (console.base(), console.style(), console.token(headers));
    let (base, style, token, who) = (base.as_str(), style.as_str(), token.as_str(), caller.person.as_deref().unwrap_or_default());
    html(status, ChangePage { base, style, who, token, client, roles: &Role::ALL, form, problem }.render(), None)
}

pub(super) async fn change(
    State(console): State<Console>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !console.is_own_form(&cookie(&headers, COOKIE), &headers, &body) {
        return console.stranger(&headers);
    }
    let form = Form::of(&body);
    if let Some(trail) = audit::current() {
        trail.came_with(form.told().as_bytes());
    }
    let changed = match form.change() {
        Ok(asked) => registration::change(&console.store, &id, asked, console.access.public_url()).await,
        Err(error) => Err(error),
    };
    match changed {
        Ok(made) => done(&console, &caller, &headers, &id, made),
        Err(ClientError::Unknown) => absent(&console, &headers),
        Err(error) if error.is_askers() => match clients::find(&console.store, &id).await {
            Ok(Some(client)) => changing(&console, &caller, &headers, &client, &form, Some((StatusCode::BAD_REQUEST, &error.to_string()))),
            Ok(None) => absent(&console, &headers),
            Err(error) => console.failed(&headers, &error),
        },
        Err(error) => console.failed(&headers, &error),
    }
}

/// Whoever asks anew for what a button led to is shown the client.
pub(super) async fn back(State(console): State<Console>, Path((id, _)): Path<(String, String)>) -> Response {
    console.go_to_client(&id)
}

/// What a button of a client's page does.
pub(super) async fn act(
    State(console): State<Console>,
    Path((id, act)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !console.is_own_form(&cookie(&headers, COOKIE), &headers, &body) {
        return console.stranger(&headers);
    }
    let store = &console.store;
    let done_so = match act.as_str() {
        "secret" => registration::renew_secret(store, &id, None).await,
        "disable" => clients::set_disabled(store, &id, true).await.map(|()| None),
        "enable" => clients::set_disabled(store, &id, false).await.map(|()| None),
        _ => return console.notice(StatusCode::NOT_FOUND, "", &headers, "There is no such page."),
    };
    match done_so {
        Ok(made) => done(&console, &caller, &headers, &id, made),
        Err(ClientError::Unknown) => absent(&console, &headers),
        Err(error) => console.failed(&headers, &error),
    }
}

impl Console {
    fn go_to_client(&self, id: &str) -> Response {
        self.go_to(&format!("/clients/{}", utf8_percent_encode(id, &PATH)))
    }
}

fn absent(console: &Console, headers: &HeaderMap) -> Response {
    console.notice(StatusCode::NOT_FOUND, "", headers, "There is no such client.")
}

/// Shows a secret that was made, this once; otherwise the client as it stands now.
fn done(console: &Console, caller: &Caller, headers: &HeaderMap, id: &str, made: Option<Secret>) -> Response {
    let Some(secret) = made else { return console.go_to_client(id) };
    let (base, style, token) = (console.base(), console.style(), console.token(headers));
    let who = caller.person.as_deref().unwrap_or_default();
    let page = SecretPage { base: &base, style: &style, who, token: &token, id, secret: secret.expose() };
    html(StatusCode::OK, page.render(), None)
}
