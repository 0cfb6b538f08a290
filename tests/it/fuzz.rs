//! A short walk around the kept inputs of every fuzz target; `cargo bench --bench fuzz` takes a long one.

#[path = "../../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::time::{Duration, Instant};

/// One input may not take longer, unoptimised and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_input_near_the_kept_ones_makes_a_parser_panic_or_hang() {
    for (name, target) in targets::ALL {
        let corpus = mutate::corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        let mut mutator = mutate::Mutator::new(7);
        let made = (0..1000).map(|_| mutator.next(&corpus));
        for input in corpus.iter().cloned().chain(made) {
            let start = Instant::now();
            target(&input);
            assert!(start.elapsed() < PATIENCE, "{name} hangs on {:?}", String::from_utf8_lossy(&input));
        }
    }
}
