//! `ValueSet/$expand` (<https://hl7.org/fhir/R4/valueset-operation-expand.html>).
//!
//! An expansion is streamed: each clause brings its candidates in document order, and a candidate is dropped when an earlier clause had it
//! or an exclude names it. Nothing but the page asked for is kept, so a page of a million codes costs no more memory than a page.

use super::code_system::Designation;
use super::expansion::{Contained, Expansion};
use super::value_set::ValueSet;
use super::versions::Versions;
use super::walk::Walk;
use super::{Arguments, Loaded, Terminology, TerminologyError};
use crate::fhir::text::fold;
use serde_json::Value;
use std::sync::Arc;

/// Codes in an answer that is not paged, and the most that one page may ask for.
pub const MAX_CODES: usize = 50_000;

/// By which system a `designation` names a language.
const LANGUAGES: &str = "urn:ietf:bcp:47";

/// The inputs of `$expand`. Answers are in the order of the definition.
#[derive(Clone, Debug, Default)]
pub struct ExpandRequest {
    pub id: Option<String>,
    pub url: Option<String>,
    pub version: Option<String>,
    pub value_set: Option<Value>,
    /// Words that must all occur in the display or begin the code.
    pub filter: Option<String>,
    pub offset: Option<usize>,
    pub count: Option<usize>,
    pub active_only: bool,
    pub include_designations: Option<bool>,
    /// The languages or uses of the designations wanted, `system|code`; empty: all.
    pub designations: Vec<String>,
    /// The answer also has the `compose`.
    pub include_definition: bool,
    /// `false`: as a tree, where the answer is not paged.
    pub exclude_nested: Option<bool>,
    pub display_language: Option<String>,
    /// Systems to leave out, each with or without `|version`.
    pub exclude_systems: Vec<String>,
    pub versions: Versions,
    /// Canonicals of supplements that must be there.
    pub supplements: Vec<String>,
    /// Codes that are listed need not exist, and a filter that names what is not there finds nothing.
    pub at_its_word: bool,
}

impl ExpandRequest {
    pub fn read(id: Option<&str>, arguments: &Arguments) -> Result<ExpandRequest, TerminologyError> {
        let list = |name| arguments.all(name).map(str::to_owned).collect();
        Ok(ExpandRequest {
            id: id.map(str::to_owned),
            url: arguments.text("url"),
            version: arguments.text("valueSetVersion"),
            value_set: arguments.resource("valueSet").cloned(),
            filter: arguments.text("filter"),
            offset: arguments.count("offset")?,
            count: arguments.count("count")?,
            active_only: arguments.boolean("activeOnly")?.unwrap_or(false),
            include_designations: arguments.boolean("includeDesignations")?,
            designations: list("designation"),
            include_definition: arguments.boolean("includeDefinition")?.unwrap_or(false),
            exclude_nested: arguments.boolean("excludeNested")?,
            display_language: arguments.text("displayLanguage"),
            exclude_systems: list("exclude-system"),
            versions: Versions::read(arguments)?,
            supplements: list("useSupplement"),
            at_its_word: false,
        })
    }

    /// Whether the answer is a part of the whole.
    pub fn is_paged(&self) -> bool {
        self.count.is_some() || self.offset.is_some()
    }

    fn leaves_out(&self, candidate: &Contained) -> bool {
        let is_of = |canonical: &String| match canonical.split_once('|') {
            Some((system, version)) => system == &*candidate.system && candidate.version.as_deref() == Some(version),
            None => **canonical == *candidate.system,
        };
        self.exclude_systems.iter().any(is_of)
    }

    /// Of a code's designations those that the answer shows.
    fn shown(&self, designations: Vec<Designation>) -> Vec<Designation> {
        if !self.include_designations.unwrap_or(!self.designations.is_empty()) {
            return Vec::new();
        }
        let wanted = |one: &Designation| {
            self.designations.is_empty()
                || self.designations.iter().any(|token| match token.split_once('|') {
                    None => one.speaks(token),
                    Some((LANGUAGES, language)) => one.speaks(language),
                    Some((system, code)) => one.is_used_as(system, code),
                })
        };
        designations.into_iter().filter(wanted).collect()
    }
}

impl Terminology {
    /// The codes of a value set.
    pub fn expand(&self, request: &ExpandRequest) -> Result<Expansion, TerminologyError> {
        let loaded = self.loaded.load();
        let set =
            named_set(&loaded, request.id.as_deref(), request.url.as_deref(), request.version.as_deref(), request.value_set.as_ref())?;
        loaded.require_supplements(request.supplements.iter().map(String::as_str))?;
        let words: Vec<String> =
            request.filter.as_deref().map(fold).unwrap_or_default().split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let active_only = request.active_only || set.inactive == Some(false);
        let offset = request.offset.unwrap_or(0);
        let page = request.count.unwrap_or(MAX_CODES).min(MAX_CODES);
        let mut total = 0usize;
        let mut contains = Vec::new();
        let mut used: Vec<(Arc<str>, Option<Arc<str>>)> = Vec::new();
        let walk = match request.at_its_word {
            true => Walk::at_its_word(&loaded),
            false => Walk::with(&loaded, request.versions.clone()),
        };
        walk.each(&set, 0, &mut |candidate| {
            if active_only && candidate.inactive || request.leaves_out(&candidate) {
                return Ok(());
            }
            let display = candidate.display_in(request.display_language.as_deref()).cloned();
            if !words.is_empty() {
                let (text, code) = (display.as_deref().map(fold).unwrap_or_default(), fold(&candidate.code));
                if !words.iter().all(|word| text.contains(word.as_str()) || code.starts_with(word.as_str())) {
                    return Ok(());
                }
            }
            if !used.iter().any(|(system, version)| *system == candidate.system && *version == candidate.version) {
                used.push((candidate.system.clone(), candidate.version.clone()));
            }
            if total >= offset && contains.len() < page {
                let designations = request.shown(candidate.designations);
                contains.push(Contained { display, designations, ..candidate });
            } else if request.count.is_none() && total >= offset {
                return Err(TerminologyError::TooManyCodes { limit: MAX_CODES });
            }
            total += 1;
            Ok(())
        })?;
        // A page is of a flat list.
        let is_tree = request.exclude_nested == Some(false) && !request.is_paged();
        let tree = if is_tree { Some(super::hierarchy::nest(&loaded, &contains)?) } else { None };
        let mut supplements = Vec::new();
        for (system, version) in &used {
            let known = loaded.systems.version(system, version.as_deref()).map(|system| loaded.known(system));
            for canonical in known.into_iter().flat_map(|known| known.supplements().filter_map(|one| one.header.canonical())) {
                // One may be in force for several versions.
                if !supplements.contains(&canonical) {
                    supplements.push(canonical);
                }
            }
        }
        let versioned = |(system, version): (Arc<str>, Option<Arc<str>>)| match version {
            Some(version) => format!("{system}|{version}"),
            None => system.to_string(),
        };
        Ok(Expansion {
            used: used.into_iter().map(versioned).collect(),
            set,
            supplements,
            partial: walk.partial(),
            left_out: walk.left_out(),
            request: ExpandRequest { value_set: None, ..request.clone() },
            total,
            contains,
            tree,
        })
    }
}

/// The value set that a request names by id, content or url.
pub(super) fn named_set(
    loaded: &Loaded,
    id: Option<&str>,
    url: Option<&str>,
    version: Option<&str>,
    inline: Option<&Value>,
) -> Result<Arc<ValueSet>, TerminologyError> {
    let not_loaded = |what: String| TerminologyError::NotLoaded { type_name: "ValueSet", what };
    match (id, inline, url) {
        (Some(id), ..) => loaded.sets.id(id).cloned().ok_or_else(|| not_loaded(format!("id {id}"))),
        (_, Some(resource), _) => super::shelf::inline(resource, ValueSet::compile, "valueSet").map(Arc::new),
        (_, _, Some(url)) => {
            let found = if version.is_some() { loaded.sets.version(url, version).cloned() } else { loaded.set(url) };
            found.ok_or_else(|| not_loaded(super::shelf::named(url, version)))
        }
        _ => Err(TerminologyError::Missing { name: "url", hint: "name the value set with url, or send it as valueSet" }),
    }
}
