//! Nothing that a caller may not see changes anything that it is told.
//!
//! Random worlds are asked about by every route, three ways. What is read must be what a slow reading of the Consents allows. What is
//! searched must be what a server answers that holds nothing but what the caller may see, total and pages included. And all answers
//! must be the same, byte for byte, after data changed that the caller may not see; [`settled`] lists what is allowed to differ.
//!
//! `LANGO_WORLDS` worlds are made (a few when it is not set), from the seed `LANGO_SEED` on.

use crate::support::server::answer;
use crate::support::smart::{add_signing_client, signed_token};
use crate::support::worlds::{self, Choices, Reader, Record, Sender, Wish};
use crate::support::{TestDb, TestServer, both_databases};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Worlds of one test.
const WORLDS: u64 = 4;
/// Types whose histories are asked for.
const HISTORIES: [&str; 11] = [
    "Appointment",
    "Binary",
    "Condition",
    "Consent",
    "Encounter",
    "Group",
    "List",
    "MedicationRequest",
    "Observation",
    "Patient",
    "Provenance",
];
/// Purposes that the asker signs, one of these in each world.
const PURPOSES: [&[&str]; 6] = [&["TREAT"], &["TREAT"], &["TREAT"], &["ETREAT"], &["TREAT", "HPAYMT"], &[]];

struct Setting {
    gate: TestServer,
    /// Holds only what the asker may see, and shows all of it.
    plain: TestServer,
    senders: [String; 2],
    desk: String,
}

/// A status, headers and a body.
#[derive(Clone, Debug, PartialEq)]
struct Answered {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Setting {
    async fn new(db: &TestDb, plain_db: &TestDb) -> Setting {
        for (client, facility, roles) in [
            ("a", "HF-A", ""),
            ("b", "HF-B", ""),
            ("asker", "HF-C", "facility clinician"),
            ("desk", "DESK", "consent-recorder"),
            ("registry", "MOH", "registry"),
        ] {
            add_signing_client(db, client, facility, roles).await;
        }
        let gate = TestServer::smart(db).await;
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
        for body in [
            facility("district", "D-1", None),
            facility("hf-a", "HF-A", None),
            facility("hf-b", "HF-B", Some("district")),
            facility("hf-c", "HF-C", Some("district")),
            json!({ "resourceType": "Practitioner", "id": "doctor", "identifier": [{ "system": "urn:lango:practitioner", "value": "MCT-1" }] }),
        ] {
            let path = format!("/fhir/{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap());
            let request = gate.client.put(gate.url(&path)).bearer_auth(&registry).header("content-type", "application/fhir+json");
            assert_eq!(answer(request.body(body.to_string())).await.0, 201);
            assert_eq!(plain.put(&path, &body).await.0, 201);
        }
        let mut setting = Setting { gate, plain, senders: Default::default(), desk: String::new() };
        setting.log_in().await;
        setting
    }

    /// Tokens live for five minutes.
    async fn log_in(&mut self) {
        let none = json!({});
        self.senders = [signed_token(&self.gate, "a", &none).await, signed_token(&self.gate, "b", &none).await];
        self.desk = signed_token(&self.gate, "desk", &none).await;
    }

    async fn asker(&self, purposes: &[&str]) -> String {
        let extension = if purposes.is_empty() { json!({}) } else { json!({ "purpose_of_use": purposes, "subject_id": "MCT-1" }) };
        signed_token(&self.gate, "asker", &extension).await
    }

    async fn send(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.gate.client.request(method.parse().unwrap(), self.gate.url(path)).bearer_auth(token);
        answer(request.header("content-type", "application/fhir+json").body(body.to_string())).await
    }
}

struct World<'a> {
    setting: &'a Setting,
    name: String,
    asker: String,
    requester: lango::access::consent::Requester,
    /// By `Type/id`.
    records: BTreeMap<String, Record>,
    consents: Vec<(Value, BTreeSet<String>)>,
    /// In the order of writing.
    written: Vec<String>,
}

fn name_of(body: &Value) -> String {
    format!("{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap())
}

impl World<'_> {
    fn token(&self, sender: Sender) -> &str {
        match sender {
            Sender::A => &self.setting.senders[0],
            Sender::B => &self.setting.senders[1],
            Sender::C => &self.asker,
        }
    }

    async fn write(&mut self, wish: Wish) {
        let name = name_of(&wish.body);
        let (status, stored) = self.setting.send(self.token(wish.sender), "PUT", &format!("/fhir/{name}"), &wish.body).await;
        assert!(matches!(status, 200 | 201), "{name}: {stored}");
        if !self.written.contains(&name) {
            self.written.push(name.clone());
        }
        let record = self.records.entry(name).or_insert(Record { sender: wish.sender, versions: Vec::new() });
        let version: usize = stored["meta"]["versionId"].as_str().unwrap().parse().unwrap();
        record.versions.resize(version, None);
        record.versions[version - 1] = Some(stored);
    }

    async fn delete(&mut self, name: &str) {
        let sender = self.records[name].sender;
        let (status, told) = self.setting.send(self.token(sender), "DELETE", &format!("/fhir/{name}"), &Value::Null).await;
        assert_eq!(status, 204, "{name}: {told}");
        self.records.get_mut(name).unwrap().versions.push(None);
    }

    async fn allow(&mut self, consent: &Value) {
        let name = name_of(consent);
        let (status, stored) = self.setting.send(&self.setting.desk, "PUT", &format!("/fhir/{name}"), consent).await;
        assert!(matches!(status, 200 | 201), "{name}: {stored}");
        let covers = worlds::person(&self.records, consent["patient"]["reference"].as_str().unwrap());
        self.consents.push((stored, covers));
    }

    fn reader(&self) -> Reader<'_> {
        let consents = self.consents.iter();
        let read = consents.map(|(consent, covers)| (worlds::read_consent(consent, "", &self.records), covers.clone()));
        Reader { base: "", requester: self.requester.clone(), consents: read.collect(), encounters: worlds::encounters(&self.records) }
    }

    fn visible(&self) -> Vec<String> {
        let reader = self.reader();
        self.written.iter().filter(|name| reader.shows_now(&self.records[*name])).cloned().collect()
    }

    async fn asked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answered {
        let server = &self.setting.gate;
        let mut request = server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(&self.asker);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body.unwrap_or_default()).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), kept(response.headers()));
        let text = response.text().await.unwrap();
        Answered { status, headers, body: settled(serde_json::from_str(&text).unwrap_or(Value::String(text)), &server.base) }
    }

    /// Every question of the world and its answer, in the order of asking.
    async fn tour(&self) -> Vec<(String, Answered)> {
        let mut told = Vec::new();
        for name in &self.written {
            for (method, path) in
                [("GET", name.clone()), ("HEAD", name.clone()), ("GET", format!("{name}/_history")), ("GET", format!("{name}/_history/1"))]
            {
                told.push((format!("{method} {path}"), self.asked(method, &format!("/fhir/{path}"), &[], None).await));
            }
            told.push((format!("304 {name}"), self.asked("GET", &format!("/fhir/{name}"), &[("if-none-match", "W/\"1\"")], None).await));
        }
        for path in searches(&self.name) {
            told.push((path.clone(), self.asked("GET", &format!("/fhir/{path}"), &[], None).await));
        }
        // What the caller itself caused is recorded, so a history of everything never stands still.
        let histories = HISTORIES.iter().map(|name| format!("{name}/_history?_count=200"));
        for path in histories.chain(["Consent".to_owned()]) {
            told.push((path.clone(), self.asked("GET", &format!("/fhir/{path}"), &[], None).await));
        }
        let form = ("content-type", "application/x-www-form-urlencoded");
        told.push((
            "POST _search".into(),
            self.asked("POST", "/fhir/Observation/_search", &[form], Some("code=a&_count=100".into())).await,
        ));
        // What was hidden afterwards is not asked for here, so that the question is the same.
        let late = format!("/{}h", self.name);
        let entries: Vec<Value> = self
            .written
            .iter()
            .filter(|name| !name.contains(&late))
            .cloned()
            .chain(searches(&self.name).into_iter().take(12))
            .map(|url| json!({ "request": { "method": "GET", "url": url } }))
            .collect();
        let json = ("content-type", "application/fhir+json");
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
        told.push(("batch".into(), self.asked("POST", "/fhir", &[json], Some(batch.to_string())).await));
        // Nothing of the world says so: each of these changes nothing, whatever is hidden.
        let world = &self.name;
        let visible: BTreeSet<String> = self.visible().into_iter().collect();
        for name in self.records.keys().filter(|name| !visible.contains(*name) && self.records[*name].sender != Sender::C) {
            let body = json!({ "resourceType": name.split('/').next().unwrap(), "id": name.split('/').nth(1).unwrap() }).to_string();
            let put = self.asked("PUT", &format!("/fhir/{name}"), &[json, ("if-match", "W/\"1\"")], Some(body.clone())).await;
            told.push((format!("PUT if-match {name}"), put));
            told.push((
                format!("DELETE if-match {name}"),
                self.asked("DELETE", &format!("/fhir/{name}"), &[("if-match", "W/\"9\"")], None).await,
            ));
            let patch = ("content-type", "application/json-patch+json");
            told.push((
                format!("PATCH {name}"),
                self.asked("PATCH", &format!("/fhir/{name}"), &[patch], Some(r#"[{"op":"add","path":"/language","value":"sw"}]"#.into()))
                    .await,
            ));
        }
        told.push((
            "DELETE where".into(),
            self.asked("DELETE", &format!("/fhir/Observation?_id={world}h1&value-string=hidden"), &[], None).await,
        ));
        told
    }

    /// What is read by name, and the histories, against the slow reading.
    fn check_reads(&self, told: &[(String, Answered)]) {
        let reader = self.reader();
        let tells = |question: &str| &told.iter().find(|(asked, _)| asked == question).unwrap_or_else(|| panic!("{question}")).1;
        let exact = !self.consents.iter().any(|(consent, _)| consent.to_string().contains("\"data\":"));
        let mut versions = BTreeSet::new();
        for (name, record) in &self.records {
            let own = record.sender == Sender::C;
            let seen = reader.shows_now(record);
            let status = match (seen, own) {
                (true, _) => 200,
                (false, true) => 410,
                (false, false) => 404,
            };
            for method in ["GET", "HEAD"] {
                assert_eq!(tells(&format!("{method} {name}")).status, status, "{}: {method} {name}", self.name);
            }
            assert_eq!(
                tells(&format!("GET {name}/_history")).status,
                if seen || own { 200 } else { 404 },
                "{}: {name}/_history",
                self.name
            );
            for (version, body) in (1..).zip(&record.versions) {
                let shown = own || seen && body.as_ref().is_some_and(|body| reader.shows(record.sender, body));
                if shown {
                    versions.insert(format!("{name}/{version}"));
                }
                if version == 1 {
                    let read = tells(&format!("GET {name}/_history/1")).status == 200;
                    assert!(if exact { read == shown } else { shown || !read }, "{}: {name}/_history/1", self.name);
                }
            }
        }
        let entries = HISTORIES.iter().flat_map(|name| {
            let bundle = &tells(&format!("{name}/_history?_count=200")).body;
            bundle["entry"].as_array().cloned().unwrap_or_default()
        });
        let entries: Vec<Value> = entries.collect();
        let told: BTreeSet<String> =
            entries.iter().filter_map(version_of).filter(|name| self.records.contains_key(name.rsplit_once('/').unwrap().0)).collect();
        assert!(if exact { told == versions } else { told.is_subset(&versions) }, "{}: {told:?} {versions:?}", self.name);
    }

    /// What is searched, against a server that holds only what may be seen.
    async fn check_searches(&self, told: &[(String, Answered)]) {
        let visible = self.visible();
        let put = |name: &String| json!({ "resource": self.records[name].body().unwrap(), "request": { "method": "PUT", "url": name } });
        let load = json!({ "resourceType": "Bundle", "type": "batch", "entry": visible.iter().map(put).collect::<Vec<_>>() });
        let (status, loaded) = self.setting.plain.post("/fhir", &load).await;
        assert_eq!(status, 200, "{loaded}");
        assert!(!loaded.to_string().contains("\"status\":\"4"), "{loaded}");
        for path in searches(&self.name) {
            let (status, expected) = self.setting.plain.get(&format!("/fhir/{path}")).await;
            let answered = &told.iter().find(|(asked, _)| *asked == path).unwrap().1;
            assert_eq!(
                (answered.status, &found(&answered.body)),
                (status, &found(&expected)),
                "{}: {path}\n{:#?}",
                self.name,
                self.consents
            );
            assert_eq!(answered.body["total"], expected["total"], "{}: {path}", self.name);
        }
        for path in [
            "Observation?_count=1&_sort=date,_id",
            "Condition?_count=1",
            "MedicationRequest?_count=2&_sort=-authoredon,-_id&_total=accurate",
        ] {
            let (expected, pages) =
                (self.walk(&self.setting.plain, "", path).await, self.walk(&self.setting.gate, &self.asker, path).await);
            assert_eq!(pages, expected, "{}: pages of {path}", self.name);
        }
        let delete = |name: &String| json!({ "request": { "method": "DELETE", "url": name } });
        let clear = json!({ "resourceType": "Bundle", "type": "batch", "entry": visible.iter().map(delete).collect::<Vec<_>>() });
        assert_eq!(self.setting.plain.post("/fhir", &clear).await.0, 200);
    }

    /// The names on each page.
    async fn walk(&self, server: &TestServer, token: &str, path: &str) -> Vec<Vec<String>> {
        let (mut url, mut pages) = (server.url(&format!("/fhir/{path}")), Vec::new());
        loop {
            let mut request = server.client.get(&url);
            if !token.is_empty() {
                request = request.bearer_auth(token);
            }
            let (status, page) = answer(request).await;
            assert_eq!(status, 200, "{url}: {page}");
            let names = page["entry"].as_array().map(|entries| entries.iter().map(|entry| name_of(&entry["resource"])).collect());
            let mut names: Vec<String> = names.unwrap_or_default();
            if !path.contains("_sort") {
                names.sort();
            }
            pages.push(names);
            match page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next") {
                Some(next) => url = next["url"].as_str().unwrap().to_owned(),
                None => break,
            }
        }
        if path.contains("_sort") {
            return pages;
        }
        // Without a sort the order is the store's own.
        let mut all: Vec<String> = pages.into_iter().flatten().collect();
        all.sort();
        vec![all]
    }

    /// Changes, adds and removes what the asker may see neither before nor after.
    async fn disturb(&mut self, choices: &mut Choices) {
        let patients = self.records.keys().filter(|name| name.starts_with("Patient/")).count();
        let hidden = |world: &World<'_>| -> Vec<String> {
            let reader = world.reader();
            let unseen = |record: &Record| record.sender != Sender::C && record.body().is_some() && !reader.shows_now(record);
            world.written.iter().filter(|name| unseen(&world.records[*name])).cloned().collect()
        };
        for n in 0..8 {
            let mut body = worlds::clinical(choices, &self.name, n, patients);
            body["id"] = json!(format!("{}h{n}", self.name));
            if n % 3 == 0 {
                body["valueString"] = json!("hidden");
            }
            let sender = choices.one(&[Sender::A, Sender::B]);
            if !self.reader().shows(sender, &body) {
                self.write(Wish { sender, body }).await;
            }
        }
        for name in hidden(self) {
            let sender = self.records[&name].sender;
            let mut body = self.records[&name].body().unwrap().clone();
            // A Patient that goes would change whom its identifiers link, and what a rule on related data names what that rule is about.
            let is_rested_on = name.starts_with("Patient/")
                || self.consents.iter().any(|(consent, _)| consent.to_string().contains(&format!("\"{name}\"")));
            match choices.below(4) {
                0 if !is_rested_on => self.delete(&name).await,
                1 | 2 => {
                    body["language"] = json!("sw");
                    if body.get("valueString").is_some() {
                        body["valueString"] = json!("changed");
                    }
                    if name.starts_with("Patient/") {
                        body["name"][0]["family"] = json!(choices.one(&["Mushi", "Other"]));
                    }
                    if !self.reader().shows(sender, &body) {
                        self.write(Wish { sender, body }).await;
                    }
                }
                _ => {}
            }
        }
    }

    /// The world ends: nothing of it is seen any more.
    async fn end(mut self) {
        for (consent, _) in &self.consents {
            let (status, _) = self.setting.send(&self.setting.desk, "DELETE", &format!("/fhir/{}", name_of(consent)), &Value::Null).await;
            assert_eq!(status, 204);
        }
        for name in self.written.clone() {
            if self.records[&name].sender == Sender::C && self.records[&name].body().is_some() {
                self.delete(&name).await;
            }
        }
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

/// Type, id and mode of what a searchset holds.
fn found(bundle: &Value) -> BTreeSet<(String, String)> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| (name_of(&entry["resource"]), entry["search"]["mode"].as_str().unwrap_or_default().to_owned());
    entries.iter().filter(|entry| entry["resource"]["resourceType"] != "OperationOutcome").map(name).collect()
}

fn version_of(entry: &Value) -> Option<String> {
    let version = entry["response"]["etag"].as_str()?.trim_start_matches("W/").trim_matches('"');
    Some(format!("{}/{version}", entry["request"]["url"].as_str()?))
}

/// Searches of every shape.
fn searches(world: &str) -> Vec<String> {
    let shapes = [
        "Observation?_count=100&_total=accurate",
        "Observation?_summary=count",
        "Observation?_count=0&_total=accurate",
        "Observation?code=a&_total=accurate&_count=2&_sort=_id",
        "Observation?code:not=a",
        "Observation?code:text=a",
        "Observation?date=ge2023",
        "Observation?date:missing=true",
        "Observation?subject=Patient/@p0",
        "Observation?patient=@p1&_elements=status",
        "Observation?patient.family=mushi",
        "Observation?subject:Patient.name:contains=us",
        "Observation?patient.identifier=urn:mrn|@1",
        "Observation?encounter.status=finished",
        "Observation?encounter.subject:Patient.family=asha",
        "Observation?encounter:missing=true",
        "Observation?has-member.code=a",
        "Observation?has-member.value-string=high&_summary=count",
        "Observation?value-string=low,high",
        "Observation?value-string:missing=true",
        "Observation?performer=Practitioner/doctor",
        "Observation?_security=HIV",
        "Observation?_security:not=HIV&_total=accurate",
        "Observation?_id=@c0,@c3,@c6,@c9",
        "Observation?_lastUpdated=gt2020",
        "Observation?_tag:missing=true",
        "Observation?_sort=-date,_id&_count=3",
        "Observation?_sort=code,_id&_count=100",
        "Observation?_include=Observation:encounter&_include=Observation:subject&_count=100",
        "Observation?_include=Observation:has-member&_include:iterate=Observation:has-member&_include:iterate=Observation:encounter&_count=100",
        "Observation?_include=*&_count=100",
        "Observation?_filter=code eq a or value-string eq high",
        "Observation?_filter=not (code eq a)",
        "Observation?_list=@l",
        "Observation?_has:Provenance:target:recorded=ge2020",
        "Patient?_count=100&_total=accurate",
        "Patient?family=mushi&_summary=count",
        "Patient?family:exact=Juma",
        "Patient?name:contains=s&gender=female",
        "Patient?identifier=urn:mrn|@0",
        "Patient?identifier=https://lango.health/id/nida|@x",
        "Patient?_has:Observation:patient:code=a",
        "Patient?_has:Observation:patient:value-string=high&_summary=count",
        "Patient?_has:Encounter:patient:_has:Observation:encounter:code=a",
        "Patient?_has:MedicationRequest:subject:status=active",
        "Patient?_has:Group:member:type=person",
        "Patient?_has:List:subject:status=current",
        "Patient?_has:Appointment:patient:status=booked",
        "Patient?_sort=family,_id&_count=2",
        "Patient?_sort=-birthdate,gender,_id",
        "Patient?_revinclude=Observation:subject&_revinclude=Encounter:subject&_count=100",
        "Patient?_revinclude=Encounter:subject&_revinclude:iterate=Observation:encounter&_count=100",
        "Patient?_revinclude=Group:member&_revinclude=Appointment:patient&_revinclude=List:subject&_count=100",
        "Encounter?_count=100&_total=accurate",
        "Encounter?date=2022",
        "Encounter?_has:Observation:encounter:code=a",
        "Encounter?_has:Condition:encounter:code=b&_summary=count",
        "Encounter?_revinclude=Observation:encounter&_revinclude=Condition:encounter&_count=100",
        "Encounter?subject.gender=male",
        "Encounter?_sort=-date,_id",
        "Condition?_count=100&_total=accurate",
        "Condition?encounter.class=AMB",
        "Condition?onset-date=ge2022&code=a,b",
        "Condition?subject:Patient._has:Observation:patient:code=a",
        "MedicationRequest?_count=100&_total=accurate",
        "MedicationRequest?encounter.status=finished&_include=MedicationRequest:encounter",
        "MedicationRequest?code=a&_sort=authoredon,_id",
        "List?_count=100",
        "List?item=Observation/@c0",
        "List?subject:Patient.family=mushi&_include=List:item",
        "List?item:Observation.code=a",
        "Group?member=Patient/@p0",
        "Group?_include=Group:member&_total=accurate",
        "Appointment?actor=Patient/@p0",
        "Appointment?patient.family=asha&_include=Appointment:actor",
        "Binary?_count=100&_total=accurate",
        "Provenance?target=Observation/@c0",
        "Provenance?target:Observation.code=a",
        "Patient/@p0/Observation?_total=accurate&_count=100",
        "Patient/@p1/Encounter?status=finished",
        "Patient/@p2/Condition?_summary=count",
        "Patient/@p0/Appointment",
        "Practitioner?_has:Observation:performer:code=a",
        "Organization?_has:Provenance:agent:recorded=ge2020",
        "Organization?_revinclude=Provenance:agent&_count=100",
    ];
    // Each world is asked a third of them, each time the same.
    let number: usize = world.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default();
    shapes.iter().skip(number % 3).step_by(3).map(|shape| shape.replace('@', world)).collect()
}

async fn one_world(setting: &Setting, number: u64) {
    let mut choices = Choices::new(number);
    let purposes = choices.one(&PURPOSES);
    let asker = setting.asker(purposes).await;
    let mut world = World {
        setting,
        name: format!("w{number}-"),
        asker,
        requester: worlds::asker(purposes),
        records: BTreeMap::new(),
        consents: Vec::new(),
        written: Vec::new(),
    };
    for wish in worlds::records(&mut choices, &world.name) {
        world.write(wish).await;
    }
    for consent in worlds::consents(&mut choices, &world.name) {
        world.allow(&consent).await;
    }
    // Some records get a past.
    for name in world.written.clone() {
        if name.contains('c') && choices.once_in(4) {
            let n: usize = name.rsplit('c').next().unwrap().parse().unwrap_or(0);
            let mut body = worlds::clinical(&mut choices, &world.name, n, 3);
            (body["id"], body["resourceType"]) =
                (world.records[&name].body().unwrap()["id"].clone(), world.records[&name].body().unwrap()["resourceType"].clone());
            if name_of(&body) == name && worlds::clinical(&mut choices, &world.name, n, 3)["resourceType"] == body["resourceType"] {
                let sender = world.records[&name].sender;
                world.write(Wish { sender, body }).await;
            }
        }
        if choices.once_in(20) && !name.starts_with("Patient/") {
            world.delete(&name).await;
        }
    }
    let before = world.tour().await;
    world.check_reads(&before);
    world.check_searches(&before).await;
    world.disturb(&mut choices).await;
    let after = world.tour().await;
    for (question, answered) in &before {
        let again = after.iter().find(|(asked, _)| asked == question);
        let (_, again) = again.expect("the same was asked again");
        assert_eq!(again, answered, "{}: {question} tells of hidden data", world.name);
    }
    world.check_reads(&after);
    world.end().await;
}

both_databases!(
    async fn nothing_hidden_changes_an_answer(db: &TestDb) {
        let plain = TestDb::sqlite();
        let mut setting = Setting::new(db, &plain).await;
        let first = variable("LANGO_SEED", 1);
        for number in first..first + variable("LANGO_WORLDS", WORLDS) {
            setting.log_in().await;
            one_world(&setting, number).await;
        }
    }
);
