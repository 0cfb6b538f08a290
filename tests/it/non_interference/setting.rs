//! The servers that worlds live on, one after another: their clients, their directory.

use super::world::Answered;
use crate::support::server::answer;
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::worlds::{Asker, Sender};
use crate::support::{TestDb, TestServer};
use lango::config::{AuditMode, AuthMode};
use lango::store::Store;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Tokens live for five minutes.
const TOKENS: Duration = Duration::from_secs(200);

pub struct Setting {
    pub gate: TestServer,
    /// Holds only what the asker may see, and shows all of it.
    pub plain: TestServer,
    /// Whether every look is recorded.
    pub records: bool,
    store: Store,
    senders: [String; 2],
    desk: String,
    made: Instant,
}

impl Setting {
    /// Clients and directory of an empty database.
    pub async fn prepare(db: &TestDb) {
        for (client, facility, roles) in [
            ("a", "HF-A", ""),
            ("b", "HF-B", ""),
            ("asker", "HF-C", "facility clinician"),
            ("stranger", "HF-E", ""),
            ("desk", "DESK", "consent-recorder"),
            ("registry", "MOH", "registry"),
        ] {
            add_signing_client(db, client, facility, roles).await;
        }
    }

    /// Servers on a prepared database and on an empty one.
    pub async fn new(db: &TestDb, plain_db: &TestDb, records: bool) -> Setting {
        let gate = TestServer::start(db, |settings| {
            settings.auth = AuthMode::Smart;
            settings.audit.record = if records { AuditMode::Smart } else { AuditMode::Never };
            (settings.limits.lookups_per_client, settings.limits.lookups_per_patient) = (1_000_000, 1_000_000);
        })
        .await;
        let plain = TestServer::open(plain_db).await;
        let registry = signed_token(&gate, "registry", &json!({})).await;
        let facility = |id: &str, value: &str, parent: Option<&str>| {
            let mut body =
                json!({ "resourceType": "Organization", "id": id, "identifier": [{ "system": "urn:lango:facility", "value": value }] });
            if let Some(parent) = parent {
                body["partOf"] = json!({ "reference": format!("Organization/{parent}") });
            }
            body
        };
        let directory = [
            facility("district", "D-1", None),
            facility("hf-a", "HF-A", None),
            facility("hf-b", "HF-B", Some("district")),
            facility("hf-c", "HF-C", Some("district")),
            facility("hf-e", "HF-E", None),
            json!({ "resourceType": "Practitioner", "id": "doctor", "identifier": [{ "system": "urn:lango:practitioner", "value": "MCT-1" }] }),
        ];
        let entry = |body: Value| {
            let url = format!("{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap());
            json!({ "resource": body, "request": { "method": "PUT", "url": url } })
        };
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": directory.map(entry) });
        let request = gate.client.post(gate.url("/fhir")).bearer_auth(&registry).header("content-type", "application/fhir+json");
        assert_eq!(answer(request.body(bundle.to_string())).await.0, 200);
        assert_eq!(plain.post("/fhir", &bundle).await.0, 200);
        let store = Store::open(&db.url).await.unwrap();
        let mut setting = Setting { gate, plain, records, store, senders: Default::default(), desk: String::new(), made: Instant::now() };
        setting.log_in().await;
        setting
    }

    async fn log_in(&mut self) {
        let none = json!({});
        self.senders = [signed_token(&self.gate, "a", &none).await, signed_token(&self.gate, "b", &none).await];
        self.desk = signed_token(&self.gate, "desk", &none).await;
        self.made = Instant::now();
    }

    /// Before each world.
    pub async fn refresh(&mut self) {
        if self.made.elapsed() > TOKENS {
            self.log_in().await;
        }
    }

    pub async fn asker(&self, asker: Asker, purposes: &[&str]) -> String {
        let mut extension = json!({ "purpose_of_use": purposes });
        if asker == Asker::Clinician {
            extension["subject_id"] = json!("MCT-1");
        }
        let extension = if purposes.is_empty() { json!({}) } else { extension };
        signed_token(&self.gate, asker.client(), &extension).await
    }

    /// `None`: who asks.
    pub fn token(&self, sender: Sender) -> Option<&str> {
        match sender {
            Sender::A => Some(&self.senders[0]),
            Sender::B => Some(&self.senders[1]),
            Sender::C => None,
        }
    }

    pub fn desk(&self) -> &str {
        &self.desk
    }

    pub async fn send(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.gate.client.request(method.parse().unwrap(), self.gate.url(path)).bearer_auth(token);
        let request = request.header("content-type", "application/fhir+json").header("prefer", "return=representation");
        answer(request.body(body.to_string())).await
    }

    /// Asks as this token's owner.
    pub async fn asked(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answered {
        let mut request = self.gate.client.request(method.parse().unwrap(), self.gate.url(path)).bearer_auth(token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answered::of(request.body(body).send().await.expect("an answer"), &self.gate.base).await
    }

    /// Waits until everything that was recorded so far is an AuditEvent.
    pub async fn published(&self) {
        loop {
            // The head is asked for last: what is sealed between two questions is published after it.
            if !self.store.has_unsealed().await.unwrap() {
                let head = self.store.sealed_head().await.unwrap().map_or(0, |sealed| sealed.position);
                if self.store.published().await.unwrap() >= head {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
