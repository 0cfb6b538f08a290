//! The whole of validation, for whoever has a resource.

use super::invariants::{self, Standing};
use super::profile;
use super::profiles::{Loaded, OTHER_TYPE, Profiles, core_type, is_of};
use super::report::{Path, Report};
use super::scope::{Entries, Scope, Targets, World};
use super::{Codes, ProfileError, structure};
use crate::fhir::{Issue, IssueCode, Severity, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// How much is checked of what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing but what storing needs: a type that R4 has.
    Off,
    /// R4's structure: elements, types, cardinality, formats, required codes.
    #[default]
    Structure,
    /// Also R4's invariants, known extensions, and the profiles that `meta.profile` claims.
    Profile,
}

/// Validates resources against R4 and the loaded profiles. Cheap to clone.
#[derive(Clone)]
pub struct Validator {
    profiles: Profiles,
    codes: Arc<dyn Codes>,
    level: Level,
    /// The server's own URL.
    base: Option<Arc<str>>,
}

/// Why a profile that was asked for is not there to check against.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoProfile {
    #[error("the profile is not loaded")]
    NotLoaded,
    #[error("the profile is loaded but cannot be used: {0}")]
    Unusable(#[from] ProfileError),
}

/// What came of a validation.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    pub issues: Vec<Issue>,
    /// References whose targets are not in the resource and would have told more: looked up and given along, they do. A few at most.
    pub wanted: Vec<String>,
}

impl Validator {
    /// `codes` answers for value sets that R4's own tables do not list; `level` is what [`Validator::on_write`] does.
    pub fn new(profiles: Profiles, codes: Arc<dyn Codes>, level: Level) -> Validator {
        Validator { profiles, codes, level, base: None }
    }

    /// The same for the server at this URL: an absolute reference below it is judged as the local one that it means.
    pub fn at(self, base: &str) -> Validator {
        Validator { base: Some(base.into()), ..self }
    }

    fn structure(&self, resource: &Value, report: &mut Report) {
        structure::check(resource, self.base.as_deref(), report);
    }

    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// The errors that keep a resource from being stored.
    pub fn on_write(&self, resource: &Value) -> Vec<Issue> {
        // Whatever the level: answers put more around it, and must still be read.
        if let Some(place) = json::deeper_than(resource, json::MAX_DEPTH) {
            let expression = format!("{}{place}", structure::root_name(resource));
            return vec![Issue::error(IssueCode::TooLong, structure::TOO_DEEP).at(expression)];
        }
        let mut issues = match self.level {
            Level::Off => Vec::new(),
            Level::Structure => {
                let mut report = Report::default();
                self.structure(resource, &mut report);
                report.finish()
            }
            Level::Profile => self.validate(resource),
        };
        issues.retain(|issue| issue.severity.is_error());
        issues
    }

    /// Every problem of a resource: against R4, and against the profiles that it claims.
    pub fn validate(&self, resource: &Value) -> Vec<Issue> {
        self.run(resource, &[], &Targets::new()).issues
    }

    /// The same, and against these profiles too; `targets` are what references lead to.
    pub fn validate_against(&self, resource: &Value, profiles: &[String], targets: &Targets) -> Result<Checked, NoProfile> {
        let loaded = self.profiles.snapshot();
        for canonical in profiles {
            if loaded.profile(canonical).is_none() && core_type(canonical).is_some() {
                continue;
            }
            loaded.profile(canonical).ok_or(NoProfile::NotLoaded)?.map_err(|error| NoProfile::Unusable(error.clone()))?;
        }
        Ok(self.run(resource, profiles, targets))
    }

    fn run(&self, resource: &Value, asked: &[String], targets: &Targets) -> Checked {
        let loaded = self.profiles.snapshot();
        let mut report = Report::default();
        self.structure(resource, &mut report);
        let is_bundle = resource.get("resourceType").and_then(Value::as_str) == Some("Bundle");
        let world = World::new(&loaded, &*self.codes, is_bundle.then(|| Entries::of(resource)), targets);
        let scope = Scope::top(&world, resource);
        let path = Path::root(structure::root_name(resource));
        invariants::resource(scope, Standing::Top, true, &path, &mut report);
        definition(resource, &loaded, &path, &mut report);
        for canonical in asked.iter().filter(|canonical| !claims(resource, canonical)) {
            match (loaded.profile(canonical), core_type(canonical)) {
                (Some(Ok(asked)), _) => profile::check(scope, asked, resource, &path, &mut report),
                // A type's own definition is met by what is valid.
                (None, Some(core)) if !is_of(structure::root_name(resource), core) => {
                    report.error(IssueCode::Value, &path, || OTHER_TYPE.into())
                }
                _ => {}
            }
        }
        Checked { issues: report.finish(), wanted: world.into_wanted() }
    }
}

/// Whether a StructureDefinition that constrains could be used as a profile.
fn definition(resource: &Value, loaded: &Loaded, path: &Path, report: &mut Report) {
    let text = |key: &str| resource.get(key).and_then(Value::as_str);
    if structure::root_name(resource) != "StructureDefinition" || text("derivation") != Some("constraint") {
        return;
    }
    let (differential, base) = (path.member("differential"), path.member("baseDefinition"));
    let elements = differential.member("element");
    // What is wrong with what it rests on is to be mended there.
    if text("baseDefinition").and_then(|base| loaded.profile(base)).is_some_and(|base| base.is_err()) {
        let words = || "is a profile that cannot be used itself: $validate it".to_owned();
        return report.add(Severity::Warning, IssueCode::Processing, &base, words);
    }
    match loaded.fault(resource) {
        None => {}
        Some(ProfileError::UnknownElement(at)) => {
            report.error(IssueCode::Value, &elements.item(at), || "has no path that FHIR R4 knows below the profile's type".to_owned());
        }
        Some(ProfileError::Cardinality(at)) => {
            report.error(IssueCode::Value, &elements.item(at), || "has a min or max that is no number".to_owned());
        }
        // What is missing may come later, and what is used elsewhere need not be usable here.
        Some(other) => report.add(Severity::Warning, IssueCode::Processing, path, || format!("cannot be used as a profile here: {other}")),
    }
}

/// Whether a resource claims this very profile, against which it is then held already.
fn claims(resource: &Value, canonical: &str) -> bool {
    let claimed = resource.pointer("/meta/profile").and_then(Value::as_array);
    claimed.is_some_and(|claimed| claimed.iter().any(|url| url.as_str() == Some(canonical)))
}
