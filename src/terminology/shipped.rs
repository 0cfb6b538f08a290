//! The terminology that is part of the program: the files in `conceptmaps/`.

use include_dir::{Dir, include_dir};
use serde_json::Value;

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/conceptmaps");

/// Every shipped ConceptMap, CodeSystem and ValueSet, ordered by file name. A test keeps every file readable.
pub fn shipped() -> Vec<Value> {
    let mut files: Vec<_> = FILES.files().filter(|file| file.path().extension().is_some_and(|e| e == "json")).collect();
    files.sort_by_key(|file| file.path());
    files.into_iter().filter_map(|file| crate::fhir::json::parse(file.contents()).ok()).collect()
}
