//! Every question of a world and its answer: most as entries of one batch, some of each kind by themselves.

use super::searches::{searches, walk};
use super::world::{Answered, World, name_of};
use crate::support::TestServer;
use crate::support::server::answer;
use crate::support::worlds::{NIDA, Sender};
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

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
const JSON: (&str, &str) = ("content-type", "application/fhir+json");
const PATCH: &str = r#"[{"op":"add","path":"/language","value":"sw"}]"#;

/// Answers by question: what stands in a batch is known by its method and URL.
pub type Tour = BTreeMap<String, Answered>;

/// The names that a tour asks for, the same before and after.
pub struct Itinerary {
    names: Vec<String>,
    /// What is another's and not to be seen.
    hidden: Vec<String>,
    /// Until when the caller's own events are asked for.
    until: jiff::Timestamp,
}

impl World<'_> {
    pub fn itinerary(&self) -> Itinerary {
        Itinerary { names: self.written.clone(), hidden: self.hidden(), until: jiff::Timestamp::now() }
    }

    pub async fn tour(&self, way: &Itinerary) -> Tour {
        let mut told = Tour::new();
        self.batch(way, &mut told).await;
        self.alone(way, &mut told).await;
        if self.setting.records {
            // Answered as of the beginning, since asking is recorded too.
            self.setting.published().await;
            let events = format!("AuditEvent?date=ge{}&date=lt{}&_count=500&_total=accurate", self.began, way.until);
            self.ask("GET", events, &[], "", &mut told).await;
            for name in way.names.iter().filter(|name| name.starts_with("Patient/")) {
                let events = format!("AuditEvent?patient={name}&date=ge{}&date=lt{}&_summary=count", self.began, way.until);
                self.ask("GET", events, &[], "", &mut told).await;
            }
        }
        told
    }

    async fn ask(&self, method: &str, path: impl Into<String>, headers: &[(&str, &str)], body: &str, told: &mut Tour) {
        let path = path.into();
        let answered = self.setting.asked(&self.asker, method, &format!("/fhir/{path}"), headers, body.to_owned()).await;
        told.insert(format!("alone {method} {path} {headers:?} {body}"), answered);
    }

    /// Reads, versions, histories and searches, and changes that change nothing, as one Bundle.
    async fn batch(&self, way: &Itinerary, told: &mut Tour) {
        let mut requests: Vec<Value> = Vec::new();
        let mut get = |url: String| requests.push(json!({ "method": "GET", "url": url }));
        for name in &way.names {
            ["", "/_history", "/_history/1"].iter().for_each(|rest| get(format!("{name}{rest}")));
        }
        searches(self.number, &self.name).into_iter().for_each(&mut get);
        for name in HISTORIES.iter().skip(self.number as usize % 2).step_by(2) {
            get(format!("{name}/_history?_count=200&_since={}", self.began));
        }
        get("Consent?_total=accurate".to_owned());
        let mut entries: Vec<Value> = requests.into_iter().map(|request| json!({ "request": request })).collect();
        // Each of these changes nothing, whatever is hidden.
        for name in &way.hidden {
            let (type_name, id) = name.split_once('/').unwrap();
            let body = json!({ "resourceType": type_name, "id": id });
            entries.push(json!({ "resource": body, "request": { "method": "PUT", "url": name, "ifMatch": "W/\"1\"" } }));
            entries.push(json!({ "request": { "method": "DELETE", "url": name, "ifMatch": "W/\"9\"" } }));
            let data = base64::engine::general_purpose::STANDARD.encode(PATCH);
            let patch = json!({ "resourceType": "Binary", "contentType": "application/json-patch+json", "data": data });
            entries.push(json!({ "resource": patch, "request": { "method": "PATCH", "url": name } }));
        }
        let asked: Vec<String> = entries
            .iter()
            .map(|entry| format!("{} {}", entry["request"]["method"].as_str().unwrap(), entry["request"]["url"].as_str().unwrap()))
            .collect();
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
        let answered = self.setting.asked(&self.asker, "POST", "/fhir", &[JSON], batch.to_string()).await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        let answers = answered.body["entry"].as_array().unwrap();
        assert_eq!(answers.len(), asked.len());
        for (question, entry) in asked.into_iter().zip(answers) {
            let status = entry["response"]["status"].as_str().unwrap()[..3].parse().unwrap();
            told.insert(question, Answered { status, headers: BTreeMap::new(), body: entry.clone() });
        }
    }

    /// What only a request of its own can ask: headers, other methods and addresses; and a sample of the rest.
    async fn alone(&self, way: &Itinerary, told: &mut Tour) {
        let two = |names: &[String]| -> Vec<String> {
            let from = self.number as usize;
            (0..names.len().min(2)).map(|n| names[(from + n * 7) % names.len()].clone()).collect()
        };
        for name in two(&way.names) {
            self.ask("GET", &name, &[], "", told).await;
            self.ask("HEAD", &name, &[], "", told).await;
            self.ask("GET", &name, &[("if-none-match", "W/\"1\"")], "", told).await;
            self.ask("GET", format!("{name}/_history"), &[], "", told).await;
        }
        for name in two(&way.hidden) {
            let (type_name, id) = name.split_once('/').unwrap();
            let body = json!({ "resourceType": type_name, "id": id }).to_string();
            self.ask("PUT", &name, &[JSON, ("if-match", "W/\"1\"")], &body, told).await;
            self.ask("PATCH", &name, &[("content-type", "application/json-patch+json")], PATCH, told).await;
        }
        let world = &self.name;
        let form = ("content-type", "application/x-www-form-urlencoded");
        self.ask("POST", "Observation/_search", &[form], "code=a&_count=100", told).await;
        self.ask("DELETE", format!("Observation?_id={world}h1&value-string=hidden"), &[], "", told).await;
        for search in two(&searches(self.number, world)) {
            self.ask("GET", search, &[], "", told).await;
        }
        // Who is it, and what is there of them?
        let patient = format!("{world}p{}", self.number % 3);
        let identifier = if self.number.is_multiple_of(2) {
            json!({ "system": NIDA, "value": format!("{world}x") })
        } else {
            json!({ "system": "urn:mrn", "value": format!("{world}{}", self.number % 3) })
        };
        let by_identifier = json!({ "resourceType": "Parameters", "parameter": [{ "name": "identifier", "valueIdentifier": identifier }] });
        self.ask("POST", "Patient/$record-lookup", &[JSON], &by_identifier.to_string(), told).await;
        let nobody = json!({ "resourceType": "Parameters", "parameter": [] }).to_string();
        self.ask("POST", format!("Patient/{patient}/$record-lookup"), &[JSON], &nobody, told).await;
        for question in [format!("id={world}x&idType=NIDA&numberOfVisits=5"), format!("id={world}0&idType=MRN&hfrCode=HF-A")] {
            let path = format!("/api/v1/hduApi/shr/sharedRecords?{question}");
            told.insert(path.clone(), self.setting.asked(&self.asker, "GET", &path, &[], String::new()).await);
        }
    }

    /// What is read by name, and the histories, against the slow reading.
    pub fn check_reads(&self, told: &Tour) {
        let reader = self.reader();
        let tells = |question: String| told.get(&question).unwrap_or_else(|| panic!("{question} was not asked"));
        let exact = !self.consents.iter().any(|(consent, ..)| consent.to_string().contains("\"data\":"));
        let mut versions = BTreeSet::new();
        for (name, record) in self.records.iter().filter(|(name, _)| told.contains_key(&format!("GET {name}"))) {
            let own = record.sender == Sender::C;
            let seen = reader.shows_now(record);
            let status = match (seen, own) {
                (true, _) => 200,
                (false, true) => 410,
                (false, false) => 404,
            };
            assert_eq!(tells(format!("GET {name}")).status, status, "{}: GET {name}", self.name);
            let history = tells(format!("GET {name}/_history")).status;
            assert_eq!(history, if seen || own { 200 } else { 404 }, "{}: {name}/_history", self.name);
            for (version, body) in (1..).zip(&record.versions) {
                let shown = own || seen && body.as_ref().is_some_and(|body| reader.shows(record.sender, body));
                if shown {
                    versions.insert(format!("{name}/{version}"));
                }
                if version == 1 {
                    let read = tells(format!("GET {name}/_history/1")).status == 200;
                    assert!(if exact { read == shown } else { shown || !read }, "{}: {name}/_history/1", self.name);
                }
            }
        }
        let histories = told.iter().filter(|(question, _)| question.contains("/_history?_count"));
        let entries: Vec<Value> =
            histories.flat_map(|(_, answered)| answered.body["resource"]["entry"].as_array().cloned().unwrap_or_default()).collect();
        let types: BTreeSet<&str> = told
            .keys()
            .filter_map(|question| question.strip_prefix("GET ")?.split_once("/_history?_count"))
            .map(|(name, _)| name)
            .collect();
        versions.retain(|name| types.contains(name.split('/').next().unwrap()));
        let known = |name: &String| told.contains_key(&format!("GET {}", name.rsplit_once('/').unwrap().0));
        let shown: BTreeSet<String> = entries.iter().filter_map(version_of).filter(known).collect();
        assert!(if exact { shown == versions } else { shown.is_subset(&versions) }, "{}: {shown:?} {versions:?}", self.name);
        self.check_lookups(told);
    }

    /// A lookup shows nothing but what may be seen now, and of the person all of that.
    fn check_lookups(&self, told: &Tour) {
        let visible: BTreeSet<String> = self.visible().into_iter().collect();
        for (question, answered) in told.iter().filter(|(question, _)| question.contains("$record-lookup")) {
            let shown: BTreeSet<String> = found(&answered.body).into_iter().map(|(name, _)| name).collect();
            assert_eq!(answered.body["total"].as_u64(), Some(shown.len() as u64), "{}: {question}", self.name);
            let (consents, records): (BTreeSet<String>, BTreeSet<String>) =
                shown.into_iter().partition(|name| name.starts_with("Consent/"));
            assert!(answered.status == 200 && records.is_subset(&visible), "{}: {question}: {records:?} {visible:?}", self.name);
            assert!(consents.iter().all(|name| self.is_named_in(name)), "{}: {question}: {consents:?}", self.name);
        }
    }

    /// Whether the Consent says a name of who asks, which is the least that it takes to be shown to them.
    fn is_named_in(&self, name: &str) -> bool {
        let (consent, ..) = self.consents.iter().find(|(consent, ..)| name_of(consent) == name).expect("a Consent of this world");
        let text = consent["provision"].to_string();
        let names = self.requester.organisations.iter().chain(&self.requester.people);
        names.map(|name| name.rsplit(['|', '/']).next().unwrap()).any(|word| text.contains(word))
    }

    /// What is searched, against a server that holds only what may be seen.
    pub async fn check_searches(&self, told: &Tour) {
        let visible = self.visible();
        let plain = &self.setting.plain;
        let put = |name: &String| json!({ "resource": self.records[name].body().unwrap(), "request": { "method": "PUT", "url": name } });
        let load = json!({ "resourceType": "Bundle", "type": "transaction", "entry": visible.iter().map(put).collect::<Vec<_>>() });
        let (status, loaded) = plain.post("/fhir", &load).await;
        assert_eq!(status, 200, "{loaded}");
        let shapes = searches(self.number, &self.name);
        let entries: Vec<Value> = shapes.iter().map(|url| json!({ "request": { "method": "GET", "url": url } })).collect();
        let (status, expected) = plain.post("/fhir", &json!({ "resourceType": "Bundle", "type": "batch", "entry": entries })).await;
        assert_eq!(status, 200, "{expected}");
        for (path, expected) in shapes.iter().zip(expected["entry"].as_array().unwrap()) {
            let answered = &told[&format!("GET {path}")].body;
            assert_eq!(answered["response"]["status"], expected["response"]["status"], "{}: {path}", self.name);
            let (answered, expected) = (&answered["resource"], &expected["resource"]);
            assert_eq!(found(answered), found(expected), "{}: {path}\n{:#?}", self.name, self.consents);
            assert_eq!(answered["total"], expected["total"], "{}: {path}", self.name);
        }
        let path = walk(self.number);
        let (expected, pages) = (pages_of(plain, "", path).await, pages_of(&self.setting.gate, &self.asker, path).await);
        assert_eq!(pages, expected, "{}: pages of {path}", self.name);
        let delete = |name: &String| json!({ "request": { "method": "DELETE", "url": name } });
        let clear = json!({ "resourceType": "Bundle", "type": "transaction", "entry": visible.iter().map(delete).collect::<Vec<_>>() });
        assert_eq!(plain.post("/fhir", &clear).await.0, 200);
    }
}

/// The names on each page.
async fn pages_of(server: &TestServer, token: &str, path: &str) -> Vec<Vec<String>> {
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
        if path.contains("include") {
            // What is included has no order.
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
