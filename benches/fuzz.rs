//! Every fuzz target for a while, each from the same seed: `cargo bench --bench fuzz -- SECONDS [SEED]`. An input that breaks
//! one is written to `fuzz/corpus` before the program ends, so that it is kept.

#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs that are slower than this are findings too.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let (seconds, seed) = (numbers.next().unwrap_or(10), numbers.next().unwrap_or(1));
    let mut findings = 0;
    for (name, target) in targets::ALL {
        let mut corpus = mutate::corpus(name);
        let mut mutator = mutate::Mutator::new(seed);
        let (end, mut runs, mut slowest) = (Instant::now() + Duration::from_secs(seconds), 0u64, Duration::ZERO);
        while Instant::now() < end {
            let input = mutator.next(&corpus);
            let start = Instant::now();
            let broken = catch_unwind(AssertUnwindSafe(|| target(&input))).is_err();
            let mut spent = start.elapsed();
            if spent > PATIENCE && !broken {
                // Another program may have had the processor: slow is what is slow again.
                let (began, again) = (on_processor(), Instant::now());
                target(&input);
                let processed = began.zip(on_processor()).map(|(began, ended)| ended.saturating_sub(began));
                spent = spent.min(processed.unwrap_or(again.elapsed()));
            }
            (runs, slowest) = (runs + 1, slowest.max(spent));
            if broken || spent > PATIENCE {
                findings += 1;
                let path = format!("{}/fuzz/corpus/{name}/found-{seed}-{runs}", env!("CARGO_MANIFEST_DIR"));
                std::fs::write(&path, &input).unwrap();
                println!("{name}: {} on {path}", if broken { "breaks" } else { "hangs" });
            }
            // Now and then what was made is built upon.
            if runs % 997 == 0 && corpus.len() < 500 {
                corpus.push(input);
            }
        }
        println!("{name:<10}{runs:>12} inputs, the slowest took {:.1} ms", slowest.as_secs_f64() * 1e3);
    }
    assert_eq!(findings, 0, "see fuzz/corpus");
}

/// How long this thread has had a processor, where the system tells.
fn on_processor() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
