//! The measures in the program.

use serde_json::Value;

/// Every shipped Measure.
pub fn shipped() -> Vec<Value> {
    // A broken file fails the test below, not a server.
    [include_str!("../../profiles/measures/opd-diagnoses.json")].iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shipped_measure_is_a_measure() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/measures")).unwrap().count();
        let shipped = super::shipped();
        assert_eq!(shipped.len(), files);
        assert!(shipped.iter().all(|measure| measure["resourceType"] == "Measure"));
    }
}
