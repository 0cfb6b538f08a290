//! Every search parameter's expression on Synthea's resources: this engine beside `rh-fhirpath`, both with expressions parsed once.
//!
//!     cargo run --release --manifest-path benches/compare/Cargo.toml

#![allow(dead_code)]

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[path = "../../../src/definitions/mod.rs"]
mod definitions;
#[path = "../../../src/fhir/mod.rs"]
mod fhir;
#[path = "../../../src/fhirpath/mod.rs"]
mod fhirpath;

/// What the definitions know of the store.
mod store {
    pub type TypeCode = u16;
    pub type ParamId = u32;
}

use definitions::r4;
use fhirpath::{Env, Expression};
use flate2::read::GzDecoder;
use rh_fhirpath::{EvaluationContext, FhirPathEvaluator, FhirPathParser};
use serde_json::Value;
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

/// Resources of one type that are measured.
const PER_TYPE: usize = 20;
const ROUNDS: u32 = 20;

fn main() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/synthea-hiv");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let file = files.iter().find(|file| file.to_string_lossy().contains("Lawerence6")).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut bytes).unwrap();
    let bundle = fhir::json::parse(&bytes).unwrap();
    let (parser, evaluator) = (FhirPathParser::new(), FhirPathEvaluator::new());
    let (mut ours, mut theirs, mut count, mut failed) = (Duration::ZERO, Duration::ZERO, 0u64, 0u64);
    for (type_code, name) in (0..).zip(r4().resource_types()) {
        let of_type = |entry: &&Value| entry["resource"]["resourceType"].as_str() == Some(name);
        let resources: Vec<&Value> =
            bundle["entry"].as_array().unwrap().iter().filter(of_type).map(|entry| &entry["resource"]).take(PER_TYPE).collect();
        if resources.is_empty() {
            continue;
        }
        let contexts: Vec<EvaluationContext> = resources.iter().map(|resource| EvaluationContext::new((*resource).clone())).collect();
        for param in r4().params(type_code).iter().filter(|param| !param.expression.is_empty()) {
            let own = Expression::parse(&param.expression).unwrap();
            let Ok(other) = parser.parse(&param.expression) else {
                failed += 1;
                continue;
            };
            let env = Env::default();
            ours += quickest(|| resources.iter().for_each(|resource| drop(black_box(own.evaluate(black_box(resource), &env)))));
            theirs += quickest(|| contexts.iter().for_each(|context| drop(black_box(evaluator.evaluate(black_box(&other), context)))));
            count += resources.len() as u64;
        }
    }
    let each = |spent: Duration| spent.as_nanos() as f64 / count as f64;
    println!("{count} evaluations, {failed} expressions that the other engine does not parse");
    println!("lango       {:>10.0} ns each", each(ours));
    println!("rh-fhirpath {:>10.0} ns each", each(theirs));
    println!("ratio       {:>10.1}", each(theirs) / each(ours));
}

/// Of all rounds: what else the machine does makes the others slower.
fn quickest(mut work: impl FnMut()) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    rounds.min().unwrap_or_default()
}
