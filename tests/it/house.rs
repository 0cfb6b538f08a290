//! The tree keeps its own rules.

use std::collections::BTreeSet;

#[test]
fn every_dependency_has_its_reason_in_contributing() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let wanted: BTreeSet<String> = ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|section| section.keys().cloned())
        .collect();
    let given: BTreeSet<String> = include_str!("../../CONTRIBUTING.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(given, wanted, "CONTRIBUTING.md's table and Cargo.toml differ");
}
