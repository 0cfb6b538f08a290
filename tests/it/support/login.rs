//! People who log in by an app: the pages, as a browser goes through them.

use super::TestDb;
use super::program::command;
use super::server::{TestServer, answer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lango::access::clients::{self, Client};
use lango::store::Store;
use reqwest::{Response, Url, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::process::Stdio;

const BACK: &str = "https://portal.example.org/back";
const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-one-9876543210";
pub const PASSWORD: &str = "correct horse battery";

/// Adds the app `portal`.
pub async fn add_portal(db: &TestDb, scopes: &str) {
    let store = Store::open(&db.url).await.expect("the database opens");
    let app = Client {
        redirect_uris: vec![BACK.into()],
        roles: vec!["facility".into(), "clinician".into()],
        ..Client::new("portal", "operator", scopes)
    };
    clients::add(&store, &app).await.expect("a new client");
    store.close().await;
}

/// `lango user WORDS`, with a password on standard input; what it says on standard error.
pub fn user(db: &TestDb, words: &[&str]) -> String {
    let mut child = command(db, &[&["user"], words].concat()).stdin(Stdio::piped()).spawn().expect("the program starts");
    // A command that reads nothing may have ended.
    let _ = child.stdin.take().expect("piped").write_all(PASSWORD.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{said}");
    said
}

/// One browser at one server.
pub struct Browser<'a> {
    server: &'a TestServer,
    http: reqwest::Client,
}

impl<'a> Browser<'a> {
    pub fn at(server: &'a TestServer) -> Browser<'a> {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().expect("a client");
        Browser { server, http }
    }

    /// The answer to the app's request, with these parameters besides the usual ones.
    pub async fn begins(&self, scope: &str, more: &[(&str, &str)]) -> Response {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", "portal"),
            ("redirect_uri", BACK),
            ("scope", scope),
            ("state", "s"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        pairs.extend(more);
        let url = Url::parse_with_params(&self.server.url("/auth/authorize"), pairs).expect("a URL");
        self.http.get(url).send().await.expect("the server answers")
    }

    /// The page on which this person agrees, and the cookie that goes with it.
    pub async fn logs_in(&self, name: &str, scope: &str, more: &[(&str, &str)]) -> (String, String) {
        let begun = self.begins(scope, more).await;
        assert_eq!(begun.status(), 200);
        let cookie = begun.headers()[header::SET_COOKIE].to_str().expect("text").split(';').next().expect("a part").to_owned();
        let page = begun.text().await.expect("a page");
        let fields = [("step", step(&page)), ("username", name), ("password", PASSWORD), ("code", "")];
        let page = self.submits("/auth/login", &cookie, &fields).await;
        assert_eq!(page.status(), 200);
        (page.text().await.expect("a page"), cookie)
    }

    /// The next page, from the one on which a clinician looks for a patient.
    pub async fn at_patients(&self, page: &str, cookie: &str, fields: &[(&str, &str)]) -> String {
        let fields: Vec<(&str, &str)> = [("step", step(page))].iter().chain(fields).copied().collect();
        let answer = self.submits("/auth/patient", cookie, &fields).await;
        assert_eq!(answer.status(), 200);
        answer.text().await.expect("a page")
    }

    /// What the app is told when the person agrees, having chosen this Patient.
    pub async fn agrees(&self, page: &str, cookie: &str, patient: &str) -> Value {
        let fields = [("step", step(page)), ("decision", "allow"), ("patient", patient)];
        sent_back(&self.submits("/auth/consent", cookie, &fields).await)
    }

    /// The token endpoint's answer for a code.
    pub async fn redeems(&self, code: &str) -> (u16, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "portal"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", VERIFIER),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(self.server.url("/auth/token")).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        answer(request.body(body)).await
    }

    /// All of it: what the app gets for this person.
    pub async fn granted(&self, name: &str, scope: &str, patient: &str) -> Value {
        let (page, cookie) = self.logs_in(name, scope, &[("nonce", "n-1")]).await;
        let told = self.agrees(&page, &cookie, patient).await;
        let (status, granted) = self.redeems(told["code"].as_str().unwrap_or_else(|| panic!("{told}"))).await;
        assert_eq!(status, 200, "{granted}");
        granted
    }

    pub async fn submits(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.http.post(self.server.url(path)).header(header::COOKIE, cookie).header(header::ORIGIN, &self.server.base);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(body).send().await.expect("the server answers")
    }
}

/// The sealed step in a page.
pub fn step(page: &str) -> &str {
    page.split("name=\"step\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("{page}"))
}

/// What the app is told when a person is sent back to it.
pub fn sent_back(response: &Response) -> Value {
    assert_eq!(response.status(), 303);
    let location = Url::parse(response.headers()[header::LOCATION].to_str().expect("text")).expect("a URL");
    assert!(location.as_str().starts_with(BACK), "{location}");
    location.query_pairs().map(|(name, value)| (name.into_owned(), json!(value))).collect::<Map<_, _>>().into()
}
