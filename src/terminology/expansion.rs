//! What `$expand` answers: the ValueSet with its `expansion`.

use super::TerminologyError;
use super::code_system::{Designation, spoken};
use super::expand::ExpandRequest;
use super::value_set::ValueSet;
use crate::fhir::{Issue, IssueCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The extension by which an expansion says that it lacks codes (<https://hl7.org/fhir/R4/extension-valueset-unclosed.html>).
const UNCLOSED: &str = "http://hl7.org/fhir/StructureDefinition/valueset-unclosed";

/// One code of an expansion.
#[derive(Clone, Debug, PartialEq)]
pub struct Contained {
    pub system: Arc<str>,
    /// Of the code system as it is loaded.
    pub version: Option<Arc<str>>,
    pub code: Arc<str>,
    pub display: Option<Arc<str>>,
    /// Of the display, where it is told.
    pub(super) language: Option<Arc<str>>,
    pub inactive: bool,
    pub is_abstract: bool,
    pub(super) designations: Vec<Designation>,
}

/// The outputs of `$expand`: the value set's header and the page.
#[derive(Clone)]
pub struct Expansion {
    pub(super) set: Arc<ValueSet>,
    /// `url|version` of each code system that codes came from, and of the supplements in force for them.
    pub(super) used: Vec<String>,
    pub(super) supplements: Vec<String>,
    /// The code systems of which only a part is loaded and was listed.
    pub(super) partial: Vec<Arc<str>>,
    /// Codes that the value set lists and that do not exist.
    pub(super) left_out: usize,
    pub(super) request: ExpandRequest,
    /// All codes that fit, on this page or not.
    pub total: usize,
    pub contains: Vec<Contained>,
    /// The places in `contains` in the order of the tree, each with the one that it is nested in; `None`: the answer is flat.
    pub(super) tree: Option<Vec<(usize, Option<usize>)>>,
}

impl Expansion {
    /// What keeps it from being all that the value set means.
    pub fn warnings(&self) -> Vec<Issue> {
        let left_out = self.left_out;
        let words = format!(
            "{left_out} of the codes that the value set lists were left out: their code systems, which are loaded whole, do not have them"
        );
        let partial = self.partial.iter().map(|system| TerminologyError::Partial { system: system.to_string() });
        let partial = partial.map(|error| Issue::warning(IssueCode::Incomplete, error.to_string()));
        partial.chain((left_out > 0).then(|| Issue::warning(IssueCode::CodeInvalid, words))).collect()
    }

    /// The ValueSet resource with its `expansion`.
    pub fn to_value_set(&self) -> Value {
        let mut resource = Map::new();
        resource.insert("resourceType".into(), "ValueSet".into());
        let header = &self.set.header;
        for (key, value) in [
            ("url", header.url.as_deref()),
            ("version", header.version.as_deref()),
            ("name", header.name.as_deref()),
            ("title", header.title.as_deref()),
        ] {
            if let Some(value) = value {
                resource.insert(key.into(), value.into());
            }
        }
        resource.insert("status".into(), header.status.as_deref().unwrap_or("active").into());
        if self.request.include_definition && self.set.is_composed {
            resource.insert("compose".into(), self.set.compose());
        }
        let (parameters, contains) = (self.parameters(), self.entries());
        let mut expansion = Map::new();
        if !self.partial.is_empty() {
            expansion.insert("extension".into(), json!([{ "url": UNCLOSED, "valueBoolean": true }]));
        }
        expansion.insert("identifier".into(), format!("urn:uuid:{}", uuid::Uuid::new_v4()).into());
        expansion.insert("timestamp".into(), crate::fhir::time::format_instant(crate::fhir::time::now()).into());
        expansion.insert("total".into(), self.total.into());
        if self.request.is_paged() {
            expansion.insert("offset".into(), self.request.offset.unwrap_or(0).into());
        }
        if !parameters.is_empty() {
            expansion.insert("parameter".into(), parameters.into());
        }
        if !contains.is_empty() {
            expansion.insert("contains".into(), contains.into());
        }
        resource.insert("expansion".into(), expansion.into());
        Value::Object(resource)
    }

    /// What was asked, as far as it shaped the answer, and what the answer rests on.
    fn parameters(&self) -> Vec<Value> {
        let request = &self.request;
        let mut parameters: Vec<Value> = Vec::new();
        let flag = |name: &str, value: bool| json!({ "name": name, "valueBoolean": value });
        parameters.extend(request.filter.as_ref().map(|filter| json!({ "name": "filter", "valueString": filter })));
        parameters.extend(request.count.map(|count| json!({ "name": "count", "valueInteger": count })));
        parameters.extend(request.include_designations.map(|value| flag("includeDesignations", value)));
        parameters.extend(request.designations.iter().map(|one| json!({ "name": "designation", "valueString": one })));
        parameters.extend(request.active_only.then(|| flag("activeOnly", true)));
        parameters.extend(request.exclude_nested.map(|_| flag("excludeNested", self.tree.is_none())));
        parameters.extend(request.display_language.as_ref().map(|language| json!({ "name": "displayLanguage", "valueCode": language })));
        parameters.extend(request.exclude_systems.iter().map(|system| json!({ "name": "exclude-system", "valueUri": system })));
        parameters.extend(request.versions.parameters().map(|(name, value)| json!({ "name": name, "valueUri": value })));
        parameters.extend(self.used.iter().map(|system| json!({ "name": "version", "valueUri": system })));
        parameters.extend(self.supplements.iter().map(|one| json!({ "name": "used-supplement", "valueUri": one })));
        parameters
    }

    fn entries(&self) -> Vec<Value> {
        // A version is told of each code where a system has codes from more than one.
        let mut systems: Vec<&str> = self.used.iter().map(|canonical| canonical.split('|').next().unwrap_or_default()).collect();
        systems.sort_unstable();
        let several: Vec<&str> =
            systems.windows(2).filter_map(|pair| (pair.first() == pair.last()).then(|| pair.first().copied())?).collect();
        let entry = |one: &Contained| one.to_value(several.contains(&&*one.system));
        let Some(tree) = &self.tree else { return self.contains.iter().map(entry).collect() };
        // From the last to the first, so that whatever is nested in an entry is ready before it.
        let mut nested: Vec<Vec<Value>> = vec![Vec::new(); self.contains.len()];
        let mut roots = Vec::new();
        for &(at, parent) in tree.iter().rev() {
            let Some(mut entry) = self.contains.get(at).map(entry) else { continue };
            let mut inner = nested.get_mut(at).map(std::mem::take).unwrap_or_default();
            if !inner.is_empty() {
                inner.reverse();
                entry["contains"] = inner.into();
            }
            parent.and_then(|parent| nested.get_mut(parent)).unwrap_or(&mut roots).push(entry);
        }
        roots.reverse();
        roots
    }
}

impl Contained {
    /// The display in a language, else the display.
    pub(super) fn display_in(&self, language: Option<&str>) -> Option<&Arc<str>> {
        spoken(self.display.as_ref(), self.language.as_deref(), self.designations.iter(), language)
    }

    /// The code as a Coding.
    pub fn to_coding(&self) -> Value {
        super::parameters::coding(Some(&self.system), None, &self.code, self.display.as_deref())
    }

    fn to_value(&self, with_version: bool) -> Value {
        let mut entry = Map::new();
        entry.insert("system".into(), (&*self.system).into());
        if self.is_abstract {
            entry.insert("abstract".into(), true.into());
        }
        if self.inactive {
            entry.insert("inactive".into(), true.into());
        }
        if let Some(version) = self.version.as_deref().filter(|_| with_version) {
            entry.insert("version".into(), version.into());
        }
        entry.insert("code".into(), (&*self.code).into());
        if let Some(display) = &self.display {
            entry.insert("display".into(), (&**display).into());
        }
        if !self.designations.is_empty() {
            let list: Vec<Value> = self.designations.iter().map(Designation::to_value).collect();
            entry.insert("designation".into(), list.into());
        }
        Value::Object(entry)
    }
}
