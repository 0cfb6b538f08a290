//! Servers to ask: lango in this process, or any FHIR server in one of its own.

use lango::cli::Server;
use lango::config::{AuditMode, AuthMode, Settings};
use serde_json::Value;
use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A client that keeps its connections; with `gzip`, as browsers ask.
pub fn client(gzip: bool) -> reqwest::Client {
    reqwest::Client::builder().no_proxy().gzip(gzip).pool_max_idle_per_host(64).build().expect("a client")
}

/// lango, served by this process.
pub struct Running {
    /// Without a path.
    pub base: String,
    pub client: reqwest::Client,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub async fn start(url: &str, auth: AuthMode, record: AuditMode, gzip: bool) -> Running {
        let mut settings = Settings { auth, database: url.parse().expect("a database URL"), ..Settings::default() };
        settings.audit.record = record;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Server::prepare(settings, listener).await.expect("the server starts");
        let base = format!("http://{}", server.address());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        Running { base, client: client(gzip), stop, serving }
    }

    pub async fn stop(self) {
        drop(self.stop);
        self.serving.await.expect("no panic").expect("a clean end");
    }

    /// Its FHIR base.
    pub fn fhir(&self) -> Fhir {
        Fhir { base: format!("{}/fhir", self.base), client: self.client.clone() }
    }
}

/// A program of its own, so that its memory is its own; killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the program on `url` and waits until it listens; its base URL.
pub fn program(url: &str) -> (Process, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lango"))
        .args(["serve", "--auth", "open", "--listen", "127.0.0.1:0", "--database", url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    let base = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    (Process(child), base)
}

/// A FHIR server, whoever's.
#[derive(Clone)]
pub struct Fhir {
    /// Without a slash at its end.
    pub base: String,
    pub client: reqwest::Client,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    /// Until the last byte was here.
    pub took: Duration,
    pub body: bytes::Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Entries of the Bundle, or its total if it has none.
    pub fn found(&self) -> u64 {
        let bundle = self.json();
        match bundle["entry"].as_array() {
            Some(entries) => entries.len() as u64,
            None => bundle["total"].as_u64().unwrap_or(0),
        }
    }

    /// The link to the next page.
    pub fn next(&self) -> Option<String> {
        let bundle = self.json();
        let link = bundle["link"].as_array()?.iter().find(|link| link["relation"] == "next")?;
        link["url"].as_str().map(str::to_owned)
    }
}

impl Fhir {
    /// `path`: after the base, or a whole URL as links have.
    pub async fn get(&self, path: &str) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}/{path}", self.base) };
        let begun = Instant::now();
        let response = self.client.get(url).send().await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.bytes().await.expect("a body");
        Answer { status, took: begun.elapsed(), body }
    }

    /// A transaction, which must succeed.
    pub async fn transaction(&self, bundle: String) {
        send(&self.client, &self.base, bundle).await;
    }
}

pub async fn send(client: &reqwest::Client, url: &str, body: String) {
    let response = client.post(url).header("content-type", "application/json").body(body).send().await.expect("an answer");
    let status = response.status();
    let body = response.bytes().await.expect("a body");
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body[..body.len().min(600)]));
}

/// Hands `0..count` to `clients`, each taking the next.
pub async fn share_out<F, R>(clients: usize, count: usize, work: F)
where
    F: Fn(usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let (work, next) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
    let clients = (0..clients).map(|_| {
        let (work, next) = (Arc::clone(&work), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= count {
                    return;
                }
                work(item).await;
            }
        })
    });
    for client in futures_util::future::join_all(clients).await {
        client.expect("no panic");
    }
}
