//! The forty ways in which FHIR servers were seen to leak, each a test. HF-B asks for Patient/a's records under her Consent, which leaves out
//! what is labelled HIV; Patient/b consented to nothing. What is hidden must look as if it never was.
//!
//! All of them ask one server for each database. What a test adds there is hidden from HF-B, or of a type that no other test asks for; one
//! that changes Consents, or needs more to be seen, has a patient and a facility apart ([`Leaks::apart`]).

mod around;
mod asked;
mod past;
mod read;
mod searched;
mod who;

use crate::consent::World;
use crate::non_interference::settled;
use crate::support::guarded::{Guarded, consent, encounter, observation, organization, permit_except};
use crate::support::shared::Shared;
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::{TestDb, TestServer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Status, headers and body of an answer, with NAME wherever the id that was asked for stands.
type Answered = (u16, BTreeMap<String, String>, String);

/// Patients with a facility each that asks for their records alone.
const APART: [&str; 6] = ["validates", "p15", "p26", "p27", "p30", "p38"];

const JSON: (&str, &str) = ("content-type", "application/fhir+json");
const PATCH: (&str, &str) = ("content-type", "application/json-patch+json");

/// Somebody who asks.
struct Leaks {
    world: Arc<World>,
    /// The token of who asks.
    asker: String,
}

impl Guarded for Leaks {
    fn server(&self) -> &TestServer {
        &self.world.server
    }
}

impl Leaks {
    async fn new(db: &TestDb) -> Leaks {
        add_signing_client(db, "other", "HF-C", "facility clinician").await;
        add_signing_client(db, "district-office", "D-1", "facility clinician").await;
        let world = World::new(db).await;
        world.consent("c", permit_except("Organization/hf-b", "HIV")).await;
        let asker = world.asker.clone();
        Leaks { world: Arc::new(world), asker }
    }

    /// The same with who asks apart.
    async fn shared(db: &TestDb) -> Leaks {
        for name in APART {
            add_signing_client(db, name, &format!("HF-{name}"), "facility clinician").await;
        }
        Leaks::new(db).await
    }

    /// As a facility apart: it sees Patient/`name`, the visit and `name`-hr, not `name`-hiv, by the Consent `c-name`, and nobody else's.
    async fn apart(&self, name: &str) -> Leaks {
        let World { holder, registry, desk, server, .. } = &*self.world;
        let code = format!("HF-{name}");
        self.put(registry, &organization(&code.to_lowercase(), &code, None)).await;
        for body in [
            json!({ "resourceType": "Patient", "id": name, "name": [{ "family": "Mushi" }] }),
            encounter(name),
            observation(&format!("{name}-hr"), name, "8867-4", "2026-03-05", None),
            observation(&format!("{name}-hiv"), name, "75622-1", "2026-05-01", Some("HIV")),
        ] {
            self.put(holder, &body).await;
        }
        self.put(desk, &consent(&format!("c-{name}"), name, permit_except(&format!("Organization/hf-{name}"), "HIV"))).await;
        let asker = signed_token(server, name, &json!({ "purpose_of_use": "TREAT" })).await;
        Leaks { world: Arc::clone(&self.world), asker }
    }

    /// What is asked of the server, with `name` left out of the answer.
    async fn asked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str, name: &str) -> Answered {
        let server = self.server();
        let mut request = server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(&self.asker);
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let response = request.body(body.to_owned()).send().await.expect("an answer");
        let volatile = ["date", "x-request-id", "content-length"];
        let headers = response.headers().iter().filter(|(name, _)| !volatile.contains(&name.as_str()));
        let headers = headers.map(|(header, value)| (header.to_string(), unnamed(value.to_str().unwrap_or_default(), name))).collect();
        let status = response.status().as_u16();
        let mut text = response.text().await.unwrap();
        if let Ok(body) = serde_json::from_str::<Value>(&text) {
            text = settled(body, &server.base).to_string();
        }
        (status, headers, unnamed(&text, name))
    }

    /// The answer, which must be the one for what never was. `@` stands for the id.
    async fn same_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str, hidden: &str) -> Answered {
        let of = async |name: &str| self.asked(method, &path.replace('@', name), headers, &body.replace('@', name), name).await;
        let told = of(hidden).await;
        assert_eq!(told, of("nobody-was-here").await, "{method} {path} of {hidden}");
        assert!(!told.2.contains("75622-1") && !told.2.contains("Mushi"), "{method} {path}");
        told
    }

    /// The same for a GET below `/fhir/`.
    async fn same(&self, path: &str, hidden: &str) -> Answered {
        self.same_with("GET", &format!("/fhir/{path}"), &[], "", hidden).await
    }

    /// The ids in a searchset that is all on one page; its total is theirs.
    async fn ids(&self, path: &str) -> BTreeSet<String> {
        self.world.ids(&self.asker, &format!("/fhir/{path}")).await
    }

    /// Status and body of a GET below `/fhir/`.
    async fn told(&self, path: &str) -> (u16, Value) {
        self.get(&self.asker, &format!("/fhir/{path}")).await
    }

    async fn status(&self, method: &str, path: &str, body: &Value) -> u16 {
        self.send(&self.asker, method, path, body).await.0
    }
}

/// The text with NAME wherever the id stands as a word of its own.
fn unnamed(text: &str, id: &str) -> String {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut out = String::new();
    let text = text.replace("%2F", "/");
    let mut rest = text.as_str();
    while let Some(at) = rest.find(id).filter(|_| !id.is_empty()) {
        let (before, after) = (&rest[..at], &rest[at + id.len()..]);
        out.push_str(before);
        out.push_str(if inside(before.chars().last().or(out.chars().last())) || inside(after.chars().next()) { id } else { "NAME" });
        rest = after;
    }
    out + rest
}

fn on_sqlite(test: impl AsyncFnOnce(&Leaks)) {
    static WORLD: Shared<Leaks> = Shared::not_yet();
    WORLD.run(async || TestDb::sqlite(), Leaks::shared, test);
}

fn on_postgres(test: impl AsyncFnOnce(&Leaks)) {
    static WORLD: Shared<Leaks> = Shared::not_yet();
    WORLD.run(async || TestDb::postgres().await, Leaks::shared, test);
}

/// `leak!(async fn name(leaks: &Leaks) { … })` makes the tests `name::sqlite` and `name::postgres` on the world of that database.
macro_rules! leak {
    (async fn $name:ident($leaks:ident: &Leaks) $body:block) => {
        mod $name {
            use super::*;

            async fn body($leaks: &Leaks) $body

            #[test]
            fn sqlite() {
                crate::leaks::on_sqlite(body);
            }

            #[test]
            fn postgres() {
                crate::leaks::on_postgres(body);
            }
        }
    };
}
use leak;

/// `docs/threats.md` lists forty tests, and each is there.
#[test]
fn the_forty_are_named_in_the_documentation() {
    let sources = [
        include_str!("leaks/around.rs"),
        include_str!("leaks/asked.rs"),
        include_str!("leaks/read.rs"),
        include_str!("leaks/searched.rs"),
        include_str!("leaks/who.rs"),
    ];
    let names_in = |text: &str, before: &str, after: char| -> BTreeSet<String> {
        let names = text.split(before).skip(1).filter_map(|rest| rest.split(after).next());
        names.filter(|name| name.starts_with("leak_")).map(str::to_owned).collect()
    };
    let tests: BTreeSet<String> = sources.iter().flat_map(|source| names_in(source, "async fn ", '(')).collect();
    assert_eq!(names_in(include_str!("../../docs/threats.md"), "| `", '`'), tests);
    let numbers: Vec<u8> = tests.iter().map(|name| name[5..7].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<u8>>());
}
