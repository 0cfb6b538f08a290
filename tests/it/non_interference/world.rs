//! One world as it is written, and what a slow reading says of it.

use super::setting::Setting;
use crate::support::worlds::{self, Asker, Choices, Covers, Reader, Record, Sender, Wish};
use lango::access::consent::Requester;
use lango::fhir::series::Place;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A status, headers and a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Answered {
    pub async fn of(response: reqwest::Response, base: &str) -> Answered {
        let (status, headers) = (response.status().as_u16(), kept(response.headers()));
        let text = response.text().await.unwrap();
        Answered { status, headers, body: settled(serde_json::from_str(&text).unwrap_or(Value::String(text)), base) }
    }
}

/// A Consent as it is stored, whom it covers, what there was when it was written, where it stood before.
type Written = (Value, Covers, BTreeMap<String, Record>, Vec<Place>);

pub struct World<'a> {
    pub setting: &'a Setting,
    pub number: u64,
    pub name: String,
    /// The token of who asks.
    pub asker: String,
    pub requester: Requester,
    /// When the world began: histories are asked for from then on.
    pub began: jiff::Timestamp,
    /// By `Type/id`.
    pub records: BTreeMap<String, Record>,
    pub consents: Vec<Written>,
    /// In the order of writing.
    pub written: Vec<String>,
}

pub fn name_of(body: &Value) -> String {
    format!("{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap())
}

/// What is done to one resource: written, or deleted by this name.
enum Step {
    Put(Wish),
    Delete(String),
}

impl<'a> World<'a> {
    pub async fn new(setting: &'a Setting, number: u64, choices: &mut Choices) -> World<'a> {
        let purposes = choices.one(&super::PURPOSES);
        let asker = choices.one(&[Asker::Clinician, Asker::Clinician, Asker::Stranger]);
        let mut world = World {
            setting,
            number,
            name: format!("w{number}-"),
            asker: setting.asker(asker, purposes).await,
            requester: worlds::asker(asker, purposes),
            began: jiff::Timestamp::now(),
            records: BTreeMap::new(),
            consents: Vec::new(),
            written: Vec::new(),
        };
        let (patients, wishes) = worlds::records(choices, &world.name);
        world.carry_out(wishes.into_iter().map(Step::Put).collect()).await;
        for consent in worlds::consents(choices, &world.name, patients) {
            world.allow(&consent).await;
        }
        world.end_some(choices).await;
        world.age(choices, patients).await;
        world
    }

    /// Some records get a past.
    async fn age(&mut self, choices: &mut Choices, patients: usize) {
        let mut steps = Vec::new();
        for name in &self.written {
            let (type_name, id) = name.split_once('/').unwrap();
            let sender = self.records[name].sender;
            if let Some(n) = id.strip_prefix(&format!("{}c", self.name)).and_then(|n| n.parse().ok())
                && choices.once_in(4)
            {
                let body = worlds::clinical(choices, &self.name, n, patients);
                assert_eq!(body["resourceType"], type_name);
                steps.push(Step::Put(Wish { sender, body }));
            } else if choices.once_in(20) && type_name != "Patient" {
                steps.push(Step::Delete(name.clone()));
            }
        }
        self.carry_out(steps).await;
    }

    fn token(&self, sender: Sender) -> &str {
        self.setting.token(sender).unwrap_or(&self.asker)
    }

    /// One transaction for each sender.
    async fn carry_out(&mut self, steps: Vec<Step>) {
        for sender in [Sender::A, Sender::B, Sender::C] {
            let (mut names, mut entries) = (Vec::new(), Vec::new());
            for step in &steps {
                let (name, entry) = match step {
                    Step::Put(wish) if wish.sender == sender => {
                        let name = name_of(&wish.body);
                        (name.clone(), json!({ "resource": wish.body, "request": { "method": "PUT", "url": name } }))
                    }
                    Step::Delete(name) if self.records[name].sender == sender => {
                        (name.clone(), json!({ "request": { "method": "DELETE", "url": name } }))
                    }
                    Step::Put(_) | Step::Delete(_) => continue,
                };
                names.push(name);
                entries.push(entry);
            }
            if names.is_empty() {
                continue;
            }
            let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
            let (status, told) = self.setting.send(self.token(sender), "POST", "/fhir", &bundle).await;
            assert_eq!(status, 200, "{told}");
            for (name, entry) in names.into_iter().zip(told["entry"].as_array().unwrap()) {
                self.note(name, sender, entry);
            }
        }
    }

    fn note(&mut self, name: String, sender: Sender, entry: &Value) {
        let stored = entry.get("resource").filter(|resource| resource["resourceType"] != "OperationOutcome");
        if !self.written.contains(&name) {
            self.written.push(name.clone());
        }
        let record = self.records.entry(name).or_insert(Record { sender, versions: Vec::new() });
        match stored {
            Some(stored) => {
                // What is written as it was makes no new version.
                let version: usize = stored["meta"]["versionId"].as_str().unwrap().parse().unwrap();
                record.versions.resize(version, None);
                record.versions[version - 1] = Some(stored.clone());
            }
            None => record.versions.push(None),
        }
    }

    /// Some Consents are ended in one way or another, or touched.
    async fn end_some(&mut self, choices: &mut Choices) {
        let written: Vec<Value> = self.consents.iter().map(|(consent, ..)| consent.clone()).collect();
        for mut consent in written {
            if choices.once_in(6) {
                let (key, value) = choices.one(&[
                    ("language", "en"),
                    ("language", "sw"),
                    ("status", "rejected"),
                    ("status", "inactive"),
                    ("status", "entered-in-error"),
                ]);
                consent[key] = json!(value);
                self.allow(&consent).await;
            }
        }
    }

    async fn allow(&mut self, consent: &Value) {
        let name = name_of(consent);
        let (status, stored) = self.setting.send(self.setting.desk(), "PUT", &format!("/fhir/{name}"), consent).await;
        assert!(matches!(status, 200 | 201), "{name}: {stored}");
        let covers = worlds::person(&self.records, consent["patient"]["reference"].as_str().unwrap());
        let known = self.consents.iter().position(|(before, ..)| before["id"] == stored["id"]);
        let former = known
            .map(|place| self.consents.remove(place))
            .map(|(before, _, then, former)| worlds::read_consent(&before, "", &then, &self.records, &former).places);
        self.consents.push((stored, covers, self.records.clone(), former.unwrap_or_default()));
    }

    pub fn reader(&self) -> Reader<'_> {
        let consents = self.consents.iter();
        let read = consents
            .map(|(consent, covers, then, former)| (worlds::read_consent(consent, "", then, &self.records, former), covers.clone()));
        Reader { base: "", requester: self.requester.clone(), consents: read.collect(), encounters: worlds::encounters(&self.records) }
    }

    pub fn visible(&self) -> Vec<String> {
        let reader = self.reader();
        self.written.iter().filter(|name| reader.shows_now(&self.records[*name])).cloned().collect()
    }

    /// What is there, another's, and not to be seen.
    pub fn hidden(&self) -> Vec<String> {
        let reader = self.reader();
        let unseen = |record: &Record| record.sender != Sender::C && record.body().is_some() && !reader.shows_now(record);
        self.written.iter().filter(|name| unseen(&self.records[*name])).cloned().collect()
    }

    /// Changes, adds and removes what the asker may see neither before nor after.
    pub async fn disturb(&mut self, choices: &mut Choices) {
        let patients = self.records.keys().filter(|name| name.starts_with("Patient/")).count();
        let (reader, mut steps) = (self.reader(), Vec::new());
        for n in 0..8 {
            let mut body = worlds::clinical(choices, &self.name, n, patients);
            body["id"] = json!(format!("{}h{n}", self.name));
            if n % 3 == 0 {
                body["valueString"] = json!("hidden");
            }
            let sender = choices.one(&[Sender::A, Sender::B]);
            if !reader.shows(sender, &body) {
                steps.push(Step::Put(Wish { sender, body }));
            }
        }
        for name in self.hidden() {
            let sender = self.records[&name].sender;
            let mut body = self.records[&name].body().unwrap().clone();
            // A Patient that goes would change whom its identifiers link, and what a rule on related data names what that rule is about.
            let is_rested_on = name.starts_with("Patient/")
                || self.consents.iter().any(|(consent, ..)| consent.to_string().contains(&format!("\"{name}\"")));
            match choices.below(4) {
                0 if !is_rested_on => steps.push(Step::Delete(name)),
                1 | 2 => {
                    body["language"] = json!("sw");
                    if body.get("valueString").is_some() {
                        body["valueString"] = json!("changed");
                    }
                    // Whose name changes is no more who shares the number, if one does.
                    if name.starts_with("Patient/") && !body.to_string().contains(worlds::NIDA) {
                        body["name"][0]["family"] = json!(choices.one(&["Mushi", "Other"]));
                    }
                    if !reader.shows(sender, &body) {
                        steps.push(Step::Put(Wish { sender, body }));
                    }
                }
                _ => {}
            }
        }
        drop(reader);
        self.carry_out(steps).await;
    }

    /// The world ends for the asker: nothing of it is seen any more. What others keep stays in the way of the worlds that follow.
    pub async fn end(mut self) -> Vec<(Sender, String)> {
        let entries: Vec<Value> =
            self.consents.iter().map(|(consent, ..)| json!({ "request": { "method": "DELETE", "url": name_of(consent) } })).collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        let (status, told) = self.setting.send(self.setting.desk(), "POST", "/fhir", &bundle).await;
        assert_eq!(status, 200, "{told}");
        let there: Vec<String> = self.written.iter().filter(|name| self.records[*name].body().is_some()).cloned().collect();
        let (own, others): (Vec<String>, Vec<String>) = there.into_iter().partition(|name| self.records[name].sender == Sender::C);
        self.carry_out(own.into_iter().map(Step::Delete).collect()).await;
        others.into_iter().map(|name| (self.records[&name].sender, name)).collect()
    }
}

/// Removes what is left of a world.
pub async fn clear(setting: &Setting, left: Vec<(Sender, String)>) {
    for sender in [Sender::A, Sender::B] {
        let names = left.iter().filter(|(owner, _)| *owner == sender);
        let entries: Vec<Value> = names.map(|(_, name)| json!({ "request": { "method": "DELETE", "url": name } })).collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        let (status, told) = setting.send(setting.token(sender).unwrap(), "POST", "/fhir", &bundle).await;
        assert_eq!(status, 200, "{told}");
    }
}

/// Headers but for when, by whom and how long the answer was.
fn kept(headers: &HeaderMap) -> BTreeMap<String, String> {
    let volatile = ["date", "x-request-id", "content-length"];
    let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    headers.iter().filter(|(name, _)| !volatile.contains(&name.as_str())).map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// The answer without what may differ each time: ids and times of Bundles and the sealed page tokens.
pub fn settled(mut body: Value, base: &str) -> Value {
    if body["resourceType"] == "Bundle" {
        let members = body.as_object_mut().unwrap();
        members.remove("id");
        members.remove("meta");
        for link in members.get_mut("link").and_then(Value::as_array_mut).into_iter().flatten() {
            let url = link["url"].as_str().unwrap_or_default();
            let settled = url.split('&').map(|part| if part.contains("_cursor=") { "_cursor" } else { part }).collect::<Vec<_>>().join("&");
            link["url"] = json!(settled.replace(base, ""));
        }
        for entry in members.get_mut("entry").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(inner) = entry.get_mut("resource") {
                *inner = settled(inner.take(), base);
            }
        }
    }
    body
}
