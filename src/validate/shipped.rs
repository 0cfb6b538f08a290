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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminology::Terminology;
    use crate::validate::{Level, Profiles, Validator};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    fn json_files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                json_files(&path, found);
            } else if path.extension().is_some_and(|end| end == "json") {
                found.push(path);
            }
        }
    }

    #[test]
    fn all_that_is_shipped_is_valid() {
        let profiles = Profiles::new();
        profiles.load(&shipped_profiles());
        let validator = Validator::new(profiles, Arc::new(Terminology::with_shipped()), Level::Profile);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        ["profiles", "conceptmaps"].iter().for_each(|folder| json_files(&root.join(folder), &mut files));
        let (mut wrong, mut resources) = (Vec::new(), 0);
        for file in files {
            let content: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            // Templates are no resources.
            if content["resourceType"].is_string() {
                resources += 1;
                let name = file.strip_prefix(root).unwrap().display().to_string();
                wrong.extend(
                    validator.on_write(&content).iter().map(|issue| format!("{name}: {}: {}", issue.expression, issue.diagnostics)),
                );
            }
        }
        assert_eq!(wrong, [""; 0], "{wrong:#?}");
        assert!(resources > 150, "{resources}");
    }
}
