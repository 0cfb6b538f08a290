//! Milliseconds per megabyte for validating Synthea Bundles as they come, on one core: structure alone, and everything.
//!
//!     cargo bench --bench validate

use flate2::read::GzDecoder;
use lango::validate::{Level, Profiles, Validator, structure};
use serde_json::Value;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

fn main() {
    let mut files: Vec<_> = std::fs::read_dir("tests/data/synthea-hiv").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bundles: Vec<(usize, Value)> = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "gz")) {
        let mut bytes = Vec::new();
        GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut bytes).unwrap();
        bundles.push((bytes.len(), lango::fhir::json::parse(&bytes).unwrap()));
    }
    // Those nearest to one megabyte.
    bundles.sort_by_key(|(bytes, _)| bytes.abs_diff(1 << 20));
    bundles.truncate(8);
    let validator = Validator::new(Profiles::new(), Arc::new(()), Level::Profile);
    println!("{:>10}{:>10}{:>14}{:>14}{:>14}", "bytes", "entries", "structure ms", "all ms", "all ms/MB");
    for (bytes, bundle) in &bundles {
        let entries = bundle["entry"].as_array().map_or(0, Vec::len);
        let shape = best(|| black_box(structure(black_box(bundle))).len());
        let all = best(|| black_box(validator.validate(black_box(bundle))).len());
        let per_megabyte = all.as_secs_f64() * 1e3 * (1 << 20) as f64 / *bytes as f64;
        println!("{bytes:>10}{entries:>10}{:>14.2}{:>14.2}{per_megabyte:>14.2}", shape.as_secs_f64() * 1e3, all.as_secs_f64() * 1e3);
    }
}

/// The quickest of several rounds: other programs share the processor.
fn best(mut work: impl FnMut() -> usize) -> Duration {
    let once = |work: &mut dyn FnMut() -> usize| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    };
    once(&mut work);
    (0..ROUNDS).map(|_| once(&mut work)).min().unwrap_or_default()
}
