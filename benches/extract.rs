//! Microseconds per resource for reading all search parameters, over every resource of the Synthea Bundles in the tree.
//!
//!     cargo bench --bench extract

use flate2::read::GzDecoder;
use lango::definitions;
use lango::search::extract::{Options, about, extract};
use serde_json::Value;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 20;
const BUNDLES: usize = 12;

fn main() {
    let mut files: Vec<_> = std::fs::read_dir("tests/data/synthea-hiv").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut by_type: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "gz")).take(BUNDLES) {
        let mut bytes = Vec::new();
        GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut bytes).unwrap();
        let mut bundle = lango::fhir::json::parse(&bytes).unwrap();
        for entry in bundle["entry"].as_array_mut().unwrap() {
            let resource = entry["resource"].take();
            by_type.entry(resource["resourceType"].as_str().unwrap().to_owned()).or_default().push(resource);
        }
    }
    let options = Options::default();
    let (mut total, mut count, mut rows) = (Duration::ZERO, 0, 0);
    println!("{:<24}{:>10}{:>12}{:>12}", "type", "resources", "entries", "us each");
    for (name, resources) in &by_type {
        let type_code = definitions::r4().type_code(name).unwrap();
        let entries: usize = resources.iter().map(|resource| extract(type_code, resource, &options).len()).sum();
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for resource in resources {
                let entries = extract(type_code, black_box(resource), &options);
                black_box(about(type_code, black_box(resource), &entries, &options));
            }
        }
        let spent = start.elapsed() / ROUNDS;
        let each = |spent: Duration, count: usize| spent.as_secs_f64() * 1e6 / count as f64;
        println!(
            "{name:<24}{:>10}{:>12.1}{:>12.2}",
            resources.len(),
            entries as f64 / resources.len() as f64,
            each(spent, resources.len())
        );
        (total, count, rows) = (total + spent, count + resources.len(), rows + entries);
    }
    println!("{:<24}{count:>10}{:>12.1}{:>12.2}", "all", rows as f64 / count as f64, total.as_secs_f64() * 1e6 / count as f64);
}
