//! `CodeSystem/$lookup` (<https://hl7.org/fhir/R4/codesystem-operation-lookup.html>).

use super::code_system::{CodeSystem, Designation};
use super::parameters::Parts;
use super::{Arguments, Coding, Loaded, Terminology, TerminologyError};
use serde_json::Value;
use std::sync::Arc;

/// Children that one answer names; a root of a large system has more than anybody reads.
const MAX_CHILDREN: usize = 1_000;

/// The inputs of `$lookup`.
#[derive(Clone, Debug, Default)]
pub struct LookupRequest {
    pub coding: Coding,
    pub display_language: Option<String>,
    /// The properties wanted; empty or `*` means all.
    pub properties: Vec<String>,
    /// Canonicals of supplements that must be there.
    pub supplements: Vec<String>,
}

impl LookupRequest {
    pub fn read(arguments: &Arguments) -> Result<LookupRequest, TerminologyError> {
        let coding = match (arguments.text("code"), arguments.coding("coding")?) {
            (Some(code), None) => Coding { system: arguments.text("system"), version: arguments.text("version"), code, display: None },
            (None, Some(coding)) => coding,
            (None, None) => return Err(TerminologyError::Missing { name: "code", hint: "give code with system, or coding" }),
            _ => return Err(TerminologyError::Ambiguous { names: "code and coding" }),
        };
        let list = |name| arguments.all(name).map(str::to_owned).collect();
        Ok(LookupRequest {
            coding,
            display_language: arguments.text("displayLanguage"),
            properties: list("property"),
            supplements: list("useSupplement"),
        })
    }
}

/// The outputs of `$lookup`.
#[derive(Clone, Debug, Default)]
pub struct LookupAnswer {
    /// The code system's name.
    pub name: String,
    pub version: Option<String>,
    /// The concept's display; the code itself when it has none.
    pub display: String,
    designations: Vec<Designation>,
    /// Code, the key of `value[x]`, value, description.
    properties: Vec<(String, String, Value, Option<String>)>,
}

impl LookupAnswer {
    pub fn to_parameters(&self) -> Value {
        let mut out = Parts::default();
        out.add("name", "valueString", self.name.as_str()).maybe("version", "valueString", self.version.as_deref()).add(
            "display",
            "valueString",
            self.display.as_str(),
        );
        for designation in &self.designations {
            let mut parts = Parts::default();
            parts
                .maybe("language", "valueCode", designation.language.as_deref())
                .maybe("use", "valueCoding", designation.use_.clone())
                .add("value", "valueString", &*designation.value);
            out.group("designation", parts);
        }
        for (code, key, value, description) in &self.properties {
            let mut parts = Parts::default();
            parts.add("code", "valueCode", code.as_str()).add("value", key, value.clone());
            parts.maybe("description", "valueString", description.as_deref());
            out.group("property", parts);
        }
        out.resource()
    }
}

/// The loaded code system at `url`, in `version` when one is asked for.
pub(super) fn named_system(loaded: &Loaded, url: Option<&str>, version: Option<&str>) -> Result<Arc<CodeSystem>, TerminologyError> {
    let url = url.ok_or(TerminologyError::Missing { name: "system", hint: "say which code system the code is from" })?;
    let found = if version.is_some() { loaded.systems.version(url, version) } else { loaded.systems.canonical(url) };
    let not_loaded = || TerminologyError::NotLoaded { type_name: "CodeSystem", what: super::shelf::named(url, version) };
    found.cloned().ok_or_else(not_loaded)
}

impl Terminology {
    /// What a code system says about one of its codes.
    pub fn lookup(&self, request: &LookupRequest) -> Result<LookupAnswer, TerminologyError> {
        let loaded = self.loaded.load();
        let system = named_system(&loaded, request.coding.system.as_deref(), request.coding.version.as_deref())?;
        loaded.require_supplements(request.supplements.iter().map(String::as_str))?;
        let known = loaded.known(&system);
        let concept = system.find(&request.coding.code).ok_or_else(|| system.unknown())?;
        let wanted = |name: &str| request.properties.is_empty() || request.properties.iter().any(|one| one == name || one == "*");
        let in_language =
            |one: &&Designation| wanted("designation") || one.language.as_deref().is_some_and(|l| wanted(&format!("lang.{l}")));
        let mut properties = Vec::new();
        if let Some(definition) = concept.definition().filter(|_| wanted("definition")) {
            properties.push(("definition".to_owned(), "valueString".to_owned(), definition.into(), None));
        }
        for (code, key, value) in known.properties(concept).filter(|(code, ..)| wanted(code)) {
            let description = known.description(code).map(str::to_owned);
            properties.push((code.to_string(), key.to_string(), value.clone(), description));
        }
        for (name, places) in [("parent", &concept.parents), ("child", &concept.children)] {
            for other in places.iter().filter(|_| wanted(name)).take(MAX_CHILDREN).filter_map(|&place| system.at(place)) {
                properties.push((
                    name.to_owned(),
                    "valueCode".to_owned(),
                    (&*other.code).into(),
                    other.display.as_deref().map(str::to_owned),
                ));
            }
        }
        let header = &system.header;
        let name = header.name.as_ref().or(header.title.as_ref()).map_or_else(|| system.url().to_owned(), |name| name.to_string());
        Ok(LookupAnswer {
            name,
            version: header.version.as_ref().map(|version| version.to_string()),
            display: known.display_in(concept, request.display_language.as_deref()).unwrap_or_else(|| concept.code.clone()).to_string(),
            designations: known.designations(concept).filter(in_language).cloned().collect(),
            properties,
        })
    }
}
