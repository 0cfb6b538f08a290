//! The Synthea records of `tests/data`, and copies of them as other people.

use super::servers::{Fhir, share_out};
use flate2::read::GzDecoder;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// A prime, so that its multiples meet everybody once.
const MIXER: usize = 7919;

/// One transaction Bundle.
pub struct Person {
    pub bundle: String,
    pub resources: usize,
    pub family: String,
}

/// What there is to load.
pub struct World {
    /// Hospitals and practitioners, to which the records refer by identifier.
    pub first: Vec<String>,
    pub people: Vec<Person>,
}

impl World {
    /// As the files have it.
    pub fn read() -> World {
        let mut files: Vec<_> =
            std::fs::read_dir("tests/data/synthea-hiv").expect("the test data").map(|file| file.expect("a file").path()).collect();
        files.retain(|path| path.extension().is_some_and(|end| end == "gz"));
        files.sort();
        let mut world = World { first: Vec::new(), people: Vec::new() };
        for path in files {
            let mut bundle = String::new();
            GzDecoder::new(std::fs::File::open(&path).expect("a file")).read_to_string(&mut bundle).expect("gzip");
            if path.to_string_lossy().contains("nformation") {
                world.first.push(bundle);
            } else {
                world.people.push(Person::new(bundle));
            }
        }
        world
    }

    /// The same, with an assessment of a risk for each person: Synthea makes nothing that a number parameter finds.
    pub fn with_risks() -> World {
        let mut world = World::read();
        for (n, person) in world.people.iter_mut().enumerate() {
            let mut bundle: Value = serde_json::from_str(&person.bundle).expect("JSON");
            let patient = bundle["entry"][0]["fullUrl"].clone();
            let risk = json!({
                "resourceType": "RiskAssessment", "status": "final", "subject": { "reference": patient },
                "prediction": [{ "probabilityDecimal": (n * 37 % 100) as f64 / 100.0 }],
            });
            let entries = bundle["entry"].as_array_mut().expect("entries");
            entries.push(json!({ "resource": risk, "request": { "method": "POST", "url": "RiskAssessment" } }));
            *person = Person::new(bundle.to_string());
        }
        world
    }

    pub fn resources(&self) -> usize {
        self.people.iter().map(|person| person.resources).sum()
    }
}

impl Person {
    fn new(bundle: String) -> Person {
        let parsed: Value = serde_json::from_str(&bundle).expect("JSON");
        let family = parsed["entry"][0]["resource"]["name"][0]["family"].as_str().unwrap_or_default().to_owned();
        Person { resources: parsed["entry"].as_array().map_or(0, Vec::len), family, bundle }
    }

    /// The record as somebody else's: other ids, identifiers and names; copy 0 is the person. What it says stays the same, so
    /// codes, days and values occur as often again with each copy.
    pub fn copy(&self, copy: usize) -> String {
        static OWN: LazyLock<Regex> = LazyLock::new(|| {
            let (conditional, uuid) = (r#"\?identifier=[^"]*"#, "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}");
            let (name, number) = (r#""(?:family|given)":\s*\[?\s*"[^"]*"#, r#""(?:999-[0-9]{2}-[0-9]{4}|S999[0-9]{5}|X[0-9]{5,9}X)""#);
            Regex::new(&format!("{conditional}|(?P<uuid>{uuid})|(?P<name>{name})|(?P<number>{number})")).expect("a pattern")
        });
        if copy == 0 {
            return self.bundle.clone();
        }
        let other = OWN.replace_all(&self.bundle, |found: &Captures<'_>| {
            let whole = &found[0];
            if found.name("uuid").is_some() {
                let (head, tail) = whole.split_at(8);
                format!("{:08x}{tail}", u32::from_str_radix(head, 16).expect("eight digits") ^ copy as u32)
            } else if found.name("name").is_some() {
                let (label, name) = whole.rsplit_once('"').expect("a quote");
                format!("{label}\"{}", shifted(name, copy))
            } else if found.name("number").is_some() {
                format!("{}-{copy}\"", &whole[..whole.len() - 1])
            } else {
                whole.to_owned()
            }
        });
        other.into_owned()
    }
}

/// Letters some places further on in the alphabet.
fn shifted(name: &str, places: usize) -> String {
    let shift = |letter: char, first: u8| char::from(first + ((letter as u8 - first) as usize + places).rem_euclid(26) as u8);
    let letters = name.chars().map(|letter| match letter {
        'a'..='z' => shift(letter, b'a'),
        'A'..='Z' => shift(letter, b'A'),
        other => other,
    });
    letters.collect()
}

/// Loads `copies` of everybody, people and copies mixed, so that those of the questions lie spread over all and no likes in a row.
pub async fn load(server: &Fhir, world: &Arc<World>, copies: usize, clients: usize) {
    for bundle in &world.first {
        server.transaction(bundle.clone()).await;
    }
    load_people(server, world, 0..world.people.len(), copies, clients).await;
}

/// The same of some, without those to whom they refer.
pub async fn load_people(server: &Fhir, world: &Arc<World>, people: Range<usize>, copies: usize, clients: usize) {
    let (server, world) = (server.clone(), Arc::clone(world));
    share_out(clients, people.len() * copies, move |n| {
        let mixed = n * MIXER % (people.len() * copies);
        let (server, bundle) = (server.clone(), world.people[people.start + mixed / copies].copy(mixed % copies));
        async move { server.transaction(bundle).await }
    })
    .await;
}
