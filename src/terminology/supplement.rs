//! Supplements: code systems with `content=supplement`, which add designations and properties to the concepts of another
//! (<https://hl7.org/fhir/R4/codesystem.html#supplements>).
//!
//! Every supplement that is loaded and not retired is in force wherever its code system is asked: a server's operator loads one to have it used.
//! To name one (`useSupplement`, or the value set's extension) makes it required. It adds no codes and changes no hierarchy.

use super::code_system::{CodeSystem, Concept, Designation, spoken};
use super::shelf::{Shelf, Shelved};
use super::{Arguments, Loaded, Terminology, TerminologyError};
use crate::fhir::{Issue, IssueCode};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The extension by which a value set says that it depends on a supplement.
const EXTENSION: &str = "http://hl7.org/fhir/StructureDefinition/valueset-supplement";

/// The supplements that are loaded.
#[derive(Clone, Default)]
pub(super) struct Supplements {
    shelf: Shelf<CodeSystem>,
    /// By the url of the system that they add to; those in force, in the order of their keys.
    by_base: HashMap<Box<str>, Vec<Arc<CodeSystem>>>,
}

impl Supplements {
    pub fn put(&mut self, supplement: Arc<CodeSystem>) {
        self.shelf.put(supplement);
        self.sort();
    }

    pub fn remove(&mut self, key: &str) {
        if self.shelf.id(key).is_some() {
            self.shelf.remove(key);
            self.sort();
        }
    }

    fn sort(&mut self) {
        let mut by_base: HashMap<Box<str>, Vec<Arc<CodeSystem>>> = HashMap::new();
        for supplement in self.shelf.all().into_iter().filter(|one| one.header().status.as_deref() != Some("retired")) {
            if let Some(base) = supplement.supplements.as_deref().and_then(|canonical| canonical.split('|').next()) {
                by_base.entry(base.into()).or_default().push(supplement.clone());
            }
        }
        self.by_base = by_base;
    }
}

/// The supplements that a value set's extensions name.
pub(super) fn named_in(resource: &Value) -> Vec<Box<str>> {
    let extensions = resource.get("extension").and_then(Value::as_array).into_iter().flatten();
    let ours = extensions.filter(|one| one.get("url").and_then(Value::as_str) == Some(EXTENSION));
    ours.filter_map(|one| one.get("valueCanonical").or(one.get("valueUri"))?.as_str()).map(Box::from).collect()
}

/// A code system as it is asked: with what its supplements add.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub system: &'a CodeSystem,
    supplements: &'a [Arc<CodeSystem>],
}

impl<'a> Known<'a> {
    /// Those for this very version.
    pub fn supplements(&self) -> impl Iterator<Item = &'a CodeSystem> + use<'a> {
        let version = self.system.header.version.as_deref();
        let fits = move |one: &&Arc<CodeSystem>| {
            let wanted = one.supplements.as_deref().and_then(|canonical| canonical.split_once('|')).map(|(_, version)| version);
            wanted.is_none() || wanted == version
        };
        self.supplements.iter().filter(fits).map(|one| &**one)
    }

    /// What the supplements say of a concept.
    fn added(&self, concept: &Concept) -> impl Iterator<Item = &'a Concept> + use<'a> {
        let code = concept.code.clone();
        self.supplements().filter_map(move |one| one.find(&code))
    }

    pub fn designations(&self, concept: &'a Concept) -> impl Iterator<Item = &'a Designation> + use<'a> {
        concept.designations().iter().chain(self.added(concept).flat_map(Concept::designations))
    }

    /// Property code, the key of its `value[x]`, the value.
    pub fn properties(&self, concept: &'a Concept) -> impl Iterator<Item = &'a (Box<str>, Box<str>, Value)> + use<'a> {
        concept.properties().iter().chain(self.added(concept).flat_map(Concept::properties))
    }

    /// Whether it says anything by a property of this name.
    pub fn has_property(&self, property: &str) -> bool {
        std::iter::once(self.system).chain(self.supplements()).any(|one| one.properties.contains_key(property))
    }

    /// What a property is.
    pub fn description(&self, property: &str) -> Option<&'a str> {
        let system: &'a CodeSystem = self.system;
        let mut found = std::iter::once(system).chain(self.supplements()).filter_map(|one| one.properties.get(property));
        found.find(|text| !text.is_empty()).map(|text| &**text)
    }

    /// The display in a language, else the display.
    pub fn display_in(&self, concept: &'a Concept, language: Option<&str>) -> Option<Arc<str>> {
        let own = self.system.header.language.as_deref();
        spoken(concept.display.as_ref(), own, self.designations(concept), language).cloned()
    }
}

impl Terminology {
    /// Warnings of the supplements that an operation is told to use and that have nothing to add to its answer.
    pub fn idle_supplements(&self, type_name: &str, arguments: &Arguments) -> Vec<Issue> {
        let text = |name: &str| arguments.text(name);
        let coding = arguments.coding("coding").ok().flatten();
        let (system, version) = match coding {
            Some(coding) => (coding.system, coding.version),
            None => (text("system").or_else(|| text("url")), text("version")),
        };
        // The codes of a value set may be of any version, which it says itself.
        let asked = system.as_deref().filter(|_| type_name == "CodeSystem").map(|system| (system, version.as_deref()));
        let loaded = self.loaded.load();
        let idle = loaded.idle_supplements(arguments.all("useSupplement"), asked);
        let words = |url: &str| {
            let url: String = url.chars().take(200).collect();
            format!("the supplement {url} is for another version of its code system than the one that answers, and added nothing")
        };
        idle.into_iter().map(|url| Issue::warning(IssueCode::BusinessRule, words(url))).collect()
    }
}

impl Loaded {
    pub(super) fn known<'a>(&'a self, system: &'a CodeSystem) -> Known<'a> {
        Known { system, supplements: self.supplements.by_base.get(system.url()).map_or(&[], Vec::as_slice) }
    }

    /// The supplements that are named and add nothing, being for another version of their code system than the one that answers:
    /// the one asked of `asked` (a url, and perhaps a version), or where none is asked any that is loaded.
    fn idle_supplements<'n>(&self, named: impl Iterator<Item = &'n str>, asked: Option<(&str, Option<&str>)>) -> Vec<&'n str> {
        let is_idle = |canonical: &&str| {
            let supplement = self.supplements.shelf.canonical(canonical);
            let of = supplement.and_then(|one| one.supplements.as_deref()).and_then(|base| base.split_once('|'));
            of.is_some_and(|(url, version)| match asked {
                Some((system, stated)) if system == url => {
                    let answering = if stated.is_some() { self.systems.version(url, stated) } else { self.systems.canonical(url) };
                    answering.and_then(|system| system.header.version.as_deref()) != Some(version)
                }
                _ => self.systems.version(url, Some(version)).is_none(),
            })
        };
        named.filter(is_idle).collect()
    }

    /// Whether the supplements that are named are in force.
    pub(super) fn require_supplements<'n>(&self, named: impl IntoIterator<Item = &'n str>) -> Result<(), TerminologyError> {
        let in_force = |one: &Arc<CodeSystem>| self.supplements.by_base.values().flatten().any(|other| Arc::ptr_eq(one, other));
        for canonical in named {
            if !self.supplements.shelf.canonical(canonical).is_some_and(in_force) {
                let what = format!("content=supplement and url {canonical}");
                return Err(TerminologyError::NotLoaded { type_name: "CodeSystem", what });
            }
        }
        Ok(())
    }
}
