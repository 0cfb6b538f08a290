//! Mutations for machines without `cargo fuzz`: seeded, so that what it found can be found again.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Inputs longer than this tell nothing that shorter ones do not.
const MAX_LENGTH: usize = 4096;

/// Pieces that mean something to one parser or another.
const TOKENS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "`",
    "\\",
    "%",
    "&",
    "=",
    ":",
    ";",
    ",",
    ".",
    "..",
    "|",
    "$",
    "$this",
    "#",
    "/",
    "//",
    "@",
    "@T",
    "-",
    "+",
    "*",
    "0",
    "1",
    "9999999999999999999999999999",
    "1e400",
    "-0.0",
    "2026-02-29",
    "T24:00:00Z",
    "+14:00",
    "true",
    "null",
    "{}",
    "resourceType",
    "Bundle",
    "entry",
    "resource",
    "contained",
    "extension",
    "url",
    "_has:",
    ":iterate",
    ":missing=",
    "ge",
    "where(",
    "descendants()",
    "repeat(",
    "iif(",
    " and ",
    " is ",
    "<a>",
    "</a>",
    "<a b=\"c\"/>",
    "<!DOCTYPE x [",
    "&#0;",
    "\u{0}",
    "\u{feff}",
    "\u{10ffff}",
    "é",
];

pub struct Mutator {
    random: StdRng,
}

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator { random: StdRng::seed_from_u64(seed) }
    }

    /// A changed copy of one of the inputs.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).cloned().unwrap_or_default();
        for _ in 0..self.random.random_range(1..=6) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(MAX_LENGTH);
        bytes
    }

    fn pick<'c, T>(&mut self, list: &'c [T]) -> Option<&'c T> {
        if list.is_empty() { None } else { list.get(self.random.random_range(0..list.len())) }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.random.random_range(0..=bytes.len());
        let end = self.random.random_range(at..=bytes.len().min(at + 32));
        match self.random.random_range(0..7) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let token = self.pick(TOKENS).copied().unwrap_or_default();
                bytes.splice(at..at, token.bytes());
            }
            2 => {
                let token = self.pick(TOKENS).copied().unwrap_or_default();
                bytes.splice(at..end, token.bytes());
            }
            3 => {
                let copy = bytes[at..end].to_vec();
                let times = self.random.random_range(1..40);
                bytes.splice(at..at, copy.repeat(times));
            }
            4 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.random.random_range(0..8);
                }
            }
            5 => bytes.insert(at, self.random.random()),
            _ => {
                let other = self.pick(corpus).cloned().unwrap_or_default();
                let from = self.random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
        bytes.truncate(MAX_LENGTH);
    }
}

/// The kept inputs of a target.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
