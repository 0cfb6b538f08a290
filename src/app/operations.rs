//! The OperationDefinitions of lango's own operations, which its CapabilityStatement names.

use serde_json::Value;

const SOURCES: [&str; 4] = [
    include_str!("../../profiles/operations/Patient-disclosures.json"),
    include_str!("../../profiles/operations/Patient-record-lookup.json"),
    include_str!("../../profiles/operations/Resource-expunge.json"),
    include_str!("../../profiles/operations/reindex.json"),
];

/// As resources to be stored and served.
pub fn shipped() -> impl Iterator<Item = Value> {
    SOURCES.iter().map(|source| serde_json::from_str(source).expect("a shipped definition is no JSON"))
}
