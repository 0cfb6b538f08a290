//! Holders: real servers that keep their records, and one that answers whatever a test tells it to.

use super::smart::{add_signing_client, signed_token};
use super::{TestDb, TestServer, answer};
use lango::access::clients::{self, Client};
use lango::config::{AuthMode, Holder, HolderKind, Settings};
use lango::store::Store;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// The settings by which a facility at `base` may be asked, without a login.
pub fn asked_at(facility: &str, base: &str) -> Holder {
    Holder {
        facility: facility.to_owned(),
        url: format!("{base}/fhir"),
        kind: HolderKind::Lango,
        client_id: None,
        key_file: None,
        secret_env: None,
        secret_file: None,
        scope: None,
        token_url: None,
        ca_file: None,
        timeout_s: 5,
    }
}

/// The same with lango's own key.
pub fn with_key(holder: Holder) -> Holder {
    let key_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/keys/es384.pem");
    Holder { client_id: Some("hie".to_owned()), key_file: Some(key_file), ..holder }
}

/// The Endpoint that a holder registers.
pub fn endpoint(id: &str, base: &str) -> Value {
    let connection = json!({ "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7-fhir-rest" });
    json!({
        "resourceType": "Endpoint", "id": id, "status": "active", "connectionType": connection,
        "payloadType": [{ "text": "any" }], "address": format!("{base}/fhir"),
    })
}

/// A lango that keeps the records of one facility. Its client `hie` is registered with the public half of lango's key.
pub struct RealHolder {
    pub server: TestServer,
    pub db: TestDb,
    pub facility: String,
}

impl RealHolder {
    pub async fn start(facility: &str, records: &[Value]) -> RealHolder {
        RealHolder::knowing_lango_as(facility, facility, records).await
    }

    /// One that does not leave all decisions to lango: its client is of this other facility.
    pub async fn knowing_lango_as(hie: &str, facility: &str, records: &[Value]) -> RealHolder {
        let db = TestDb::sqlite();
        add_signing_client(&db, "own", facility, "consent-recorder").await;
        let asking = Settings { holders: vec![with_key(asked_at(facility, "http://127.0.0.1"))], ..Settings::default() };
        let jwks = lango::exchange::holders::public_keys(&asking).expect("a key").to_string();
        let store = Store::open(&db.url).await.expect("the database opens");
        let client = Client { jwks: Some(jwks), ..Client::new("hie", hie, "system/*.rs") };
        clients::add(&store, &client).await.expect("a new client");
        store.close().await;
        let server = TestServer::start(&db, |settings| {
            settings.auth = AuthMode::Smart;
            // So that answers come in pages.
            settings.limits.page_max = 3;
        })
        .await;
        let holder = RealHolder { server, db, facility: facility.to_owned() };
        holder.keep(records).await;
        holder
    }

    /// Gives it further records. Answers when each was last updated.
    pub async fn keep(&self, records: &[Value]) -> Vec<String> {
        let token = signed_token(&self.server, "own", &json!({})).await;
        let mut updated = Vec::new();
        for record in records {
            let path = format!("/fhir/{}/{}", record["resourceType"].as_str().unwrap(), record["id"].as_str().unwrap());
            let request =
                self.server.client.put(self.server.url(&path)).bearer_auth(&token).header("content-type", "application/fhir+json");
            let (status, told) = answer(request.body(record.to_string())).await;
            assert_eq!(status, 201, "{told}");
            updated.push(told["meta"]["lastUpdated"].as_str().unwrap_or_default().to_owned());
        }
        updated
    }

    pub fn settings(&self) -> Holder {
        with_key(asked_at(&self.facility, &self.server.base))
    }

    pub async fn stop(self) {
        self.server.stop().await;
        self.db.discard().await;
    }
}

/// What the double answers.
#[derive(Clone, Debug)]
pub enum Mode {
    /// 200 with this resource.
    Says(Value),
    /// The same, when [`Double::go`] is notified.
    Waits(Value),
    /// Nothing at all, and the connection stays open.
    Silent,
    /// A byte now and then, for ever.
    Drips,
    /// As many bytes as anybody reads.
    Endless,
    /// A body compressed to almost nothing, which is as long.
    Bomb,
    /// 200 of FHIR's type with these words.
    Words(String),
    /// Of another type.
    Html,
    Status(u16),
    Redirects(String),
    /// Closes in the middle.
    Breaks,
}

/// A server that answers every request in one way.
pub struct Double {
    /// `http://127.0.0.1:PORT`
    pub base: String,
    pub go: Arc<Notify>,
    mode: Arc<Mutex<Mode>>,
    requests: watch::Receiver<Vec<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Double {
    pub async fn start(mode: Mode) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (mode, go) = (Arc::new(Mutex::new(mode)), Arc::new(Notify::new()));
        let (tell, requests) = watch::channel(Vec::new());
        let tell = Arc::new(tell);
        let shared = (Arc::clone(&mode), Arc::clone(&go));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mode, go) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                let tell = Arc::clone(&tell);
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    tell.send_modify(|requests: &mut Vec<String>| requests.push(request));
                    let mode = mode.lock().unwrap().clone();
                    // Whoever asked may be gone by now.
                    let _ = reply(&mut stream, mode, &go).await;
                });
            }
        });
        Double { base, go, mode, requests, task }
    }

    /// Answers in another way from now on, and says in which it did.
    pub fn set(&self, mode: Mode) -> Mode {
        std::mem::replace(&mut self.mode.lock().unwrap(), mode)
    }

    /// Every request as it came, head and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }

    /// Waits until it has been asked so often.
    pub async fn asked(&self, times: usize) {
        self.requests.clone().wait_for(|requests| requests.len() >= times).await.expect("the double runs");
    }
}

async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0u8; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

async fn reply(stream: &mut TcpStream, mode: Mode, go: &Notify) -> std::io::Result<()> {
    const FHIR: &str = "content-type: application/fhir+json";
    let whole = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let text = match mode {
        Mode::Says(resource) => whole("200 OK", FHIR, &resource.to_string()),
        Mode::Waits(resource) => {
            go.notified().await;
            whole("200 OK", FHIR, &resource.to_string())
        }
        Mode::Words(words) => whole("200 OK", FHIR, &words),
        Mode::Html => whole("200 OK", "content-type: text/html", "{\"resourceType\":\"Bundle\",\"type\":\"searchset\"}"),
        Mode::Status(status) => whole(&format!("{status} X"), FHIR, "{}"),
        Mode::Redirects(to) => whole("307 Temporary Redirect", &format!("{FHIR}\r\nlocation: {to}"), ""),
        Mode::Silent => {
            std::future::pending::<()>().await;
            return Ok(());
        }
        Mode::Breaks => format!("HTTP/1.1 200 OK\r\n{FHIR}\r\ncontent-length: 1000\r\n\r\n{{\"resourceType\":"),
        Mode::Drips => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{FHIR}\r\n\r\n{{").as_bytes()).await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        Mode::Endless => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{FHIR}\r\n\r\n[").as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 16 << 10]).await?;
            }
        }
        Mode::Bomb => {
            use std::io::Write;
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            packed.write_all(&vec![b' '; 64 << 20])?;
            let packed = packed.finish()?;
            let head = format!("HTTP/1.1 200 OK\r\n{FHIR}\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
            stream.write_all(head.as_bytes()).await?;
            return stream.write_all(&packed).await;
        }
    };
    stream.write_all(text.as_bytes()).await
}
