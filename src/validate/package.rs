//! Profiles and what they rest on, from a folder or a FHIR package
//! (<https://hl7.org/fhir/R4/packages.html>: a `.tgz` in NPM's format, resources as `package/*.json`).
//!
//! Nothing is written to disk: an archive's paths only say which of its files are read, and all sizes are bounded. Taken are
//! StructureDefinitions that constrain, ValueSets, CodeSystems, ConceptMaps and SearchParameters; the rest of a package is for people
//! and publishers.

use crate::fhir::json;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of one file.
const MAX_FILE: u64 = 32 << 20;
/// Bytes of all files of one package, unpacked.
const MAX_TOTAL: u64 = 512 << 20;
/// Files of one package.
const MAX_FILES: usize = 20_000;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {file} is no JSON: {problem}")]
    Json { path: PathBuf, file: String, problem: String },
    #[error("{0}: is too large: a package may have {MAX_FILES} files, 32 MiB each and 512 MiB together")]
    TooLarge(PathBuf),
    #[error("{0}: is neither a folder nor a .tgz package")]
    Neither(PathBuf),
}

/// The resources of the package or folder at `path` that validation, terminology and search use, in the order of their files' names.
/// A folder may hold JSON files, packages, or a `package` folder.
pub fn read(path: &Path) -> Result<Vec<Value>, PackageError> {
    let mut intake = Intake { origin: path.to_owned(), found: Vec::new(), bytes: 0, files: 0 };
    let kind = std::fs::metadata(path).map_err(|source| PackageError::Read { path: path.to_owned(), source })?;
    if kind.is_dir() {
        intake.folder(path, true)?;
    } else if is_package(path) {
        intake.archive(path)?;
    } else {
        return Err(PackageError::Neither(path.to_owned()));
    }
    Ok(intake.found)
}

fn is_package(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".tgz") || name.ends_with(".tar.gz")
}

struct Intake {
    origin: PathBuf,
    found: Vec<Value>,
    bytes: u64,
    files: usize,
}

impl Intake {
    fn folder(&mut self, folder: &Path, outer: bool) -> Result<(), PackageError> {
        let failed = |source| PackageError::Read { path: folder.to_owned(), source };
        let entries = std::fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            // One level only: packages have no deeper one.
            if outer && name == "package" && path.is_dir() {
                self.folder(&path, false)?;
            } else if outer && is_package(&path) {
                self.archive(&path)?;
            } else if is_resource_file(&name) && path.is_file() {
                self.file(&path, &name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<(), PackageError> {
        let file = File::open(path).map_err(|source| PackageError::Read { path: path.to_owned(), source })?;
        self.take(file, name)
    }

    fn archive(&mut self, path: &Path) -> Result<(), PackageError> {
        let failed = |source| PackageError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // The bound holds for everything that is unpacked, files that are passed over included.
        let unpacked = GzDecoder::new(BufReader::new(file)).take(MAX_TOTAL);
        let mut archive = tar::Archive::new(unpacked);
        for entry in archive.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            // Only `package/NAME.json`: neither examples nor the publisher's own folders, nor any way out of it.
            let Some(name) = name.strip_prefix("./").unwrap_or(&name).strip_prefix("package/").filter(|name| is_resource_file(name)) else {
                continue;
            };
            if entry.header().entry_type().is_file() {
                self.take(entry, name)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, from: impl Read, name: &str) -> Result<(), PackageError> {
        let mut text = Vec::new();
        from.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|source| PackageError::Read { path: self.origin.clone(), source })?;
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        self.files += 1;
        if text.len() as u64 > MAX_FILE || self.bytes > MAX_TOTAL || self.files > MAX_FILES {
            return Err(PackageError::TooLarge(self.origin.clone()));
        }
        let resource = json::parse(&text).map_err(|error| PackageError::Json {
            path: self.origin.clone(),
            file: name.to_owned(),
            problem: error.to_string(),
        })?;
        if is_wanted(&resource) {
            self.found.push(resource);
        }
        Ok(())
    }
}

/// A file of a package that may be a resource: `.index.json` and `package.json` are the package's own.
fn is_resource_file(name: &str) -> bool {
    name.ends_with(".json") && !name.starts_with('.') && name != "package.json" && !name.contains(['/', '\\'])
}

fn is_wanted(resource: &Value) -> bool {
    let text = |key: &str| resource.get(key).and_then(Value::as_str);
    match text("resourceType") {
        Some("StructureDefinition") => text("derivation") == Some("constraint") && text("url").is_some(),
        Some("ValueSet" | "CodeSystem" | "ConceptMap" | "SearchParameter") => text("url").is_some(),
        _ => false,
    }
}
