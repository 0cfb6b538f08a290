//! The real server on a port of its own, inside the test process.

use super::TestDb;
use lango::cli::Server;
use lango::config::{AuthMode, Settings};
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running server; it drains when it goes out of scope, or sooner by [`TestServer::stop`].
pub struct TestServer {
    /// `http://127.0.0.1:PORT`
    pub base: String,
    pub client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// `--auth open` on this database.
    pub async fn open(db: &TestDb) -> TestServer {
        TestServer::start(db, |settings| settings.auth = AuthMode::Open).await
    }

    /// `--auth smart` on this database; [`super::add_client`] makes clients.
    pub async fn smart(db: &TestDb) -> TestServer {
        TestServer::start(db, |settings| settings.auth = AuthMode::Smart).await
    }

    /// With the default settings as changed by `change`.
    pub async fn start(db: &TestDb, change: impl FnOnce(&mut Settings)) -> TestServer {
        let mut settings = Settings { database: db.url.parse().expect("a database URL"), ..Settings::default() };
        change(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let server = Server::prepare(settings, listener).await.expect("the server starts");
        let base = format!("{}://{}", server.scheme(), server.address());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async move {
            // Dropping the sender stops the server too.
            let _ = stopped.await;
        }));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).no_proxy().build().expect("a client");
        TestServer { base, client, stop: Some(stop), serving }
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// GET as JSON, with its status.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.client.get(self.url(path)).header("accept", "application/fhir+json")).await
    }

    /// POST of a FHIR resource, with status and answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.client.post(self.url(path)).header("content-type", "application/fhir+json").body(body.to_string())).await
    }

    /// PUT of a FHIR resource, with status and answer.
    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.client.put(self.url(path)).header("content-type", "application/fhir+json").body(body.to_string())).await
    }

    /// An access token for this client.
    pub async fn token(&self, id: &str, secret: &str) -> String {
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let request = self.client.post(self.url("/auth/token")).header("content-type", "application/x-www-form-urlencoded").body(form);
        let (status, body) = answer(request).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().expect("a token").to_owned()
    }

    /// Drains and waits for the end.
    pub async fn stop(mut self) {
        self.stop.take();
        (&mut self.serving).await.expect("the server does not panic").expect("the server ends well");
    }
}

/// Sends a request; an answer that is not JSON is given as a string.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("the server answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("the answer is whole");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
