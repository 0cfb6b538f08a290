//! The profiles that lango ships, compiled into the program.

use serde_json::Value;

const SOURCES: [&str; 3] = [
    include_str!("../../profiles/lango-patient.json"),
    include_str!("../../profiles/lango-encounter.json"),
    include_str!("../../profiles/lango-observation.json"),
];

/// The StructureDefinitions of the shipped profiles, which canonical resources claim, as resources to be stored and served.
pub fn shipped_profiles() -> Vec<Value> {
    SOURCES.iter().map(|source| serde_json::from_str(source).expect("a shipped profile is no JSON")).collect()
}
