//! `ValueSet/$expand` (<https://hl7.org/fhir/R4/valueset-operation-expand.html>), and the walk through value sets that `$validate-code` shares.
//!
//! An expansion is streamed: each clause brings its candidates in document order, and a candidate is dropped when an earlier clause had it
//! or an exclude names it. Nothing but the page asked for is kept, so a page of a million codes costs no more memory than a page.

use super::code_system::{CodeSystem, Content, Designation, property_text};
use super::shelf::Shelved;
use super::value_set::{Clause, Filter, Test, ValueSet};
use super::{Arguments, Loaded, Terminology, TerminologyError};
use crate::fhir::text::fold;
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::sync::Arc;

/// Codes in an answer that is not paged, and the most that one page may ask for.
pub const MAX_CODES: usize = 50_000;

/// Levels of value sets in value sets.
const MAX_DEPTH: usize = 16;

/// Candidates looked at for one request: a second's work, and enough to page through a system of a million codes with an exclude.
const MAX_STEPS: u64 = 5_000_000;

/// The inputs of `$expand`. Answers are always flat and in the order of the definition.
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
    pub include_designations: bool,
    pub display_language: Option<String>,
    pub exclude_systems: Vec<String>,
}

impl ExpandRequest {
    pub fn read(id: Option<&str>, arguments: &Arguments) -> Result<ExpandRequest, TerminologyError> {
        Ok(ExpandRequest {
            id: id.map(str::to_owned),
            url: arguments.text("url"),
            version: arguments.text("valueSetVersion"),
            value_set: arguments.resource("valueSet").cloned(),
            filter: arguments.text("filter"),
            offset: arguments.count("offset")?,
            count: arguments.count("count")?,
            active_only: arguments.boolean("activeOnly")?.unwrap_or(false),
            include_designations: arguments.boolean("includeDesignations")?.unwrap_or(false),
            display_language: arguments.text("displayLanguage"),
            exclude_systems: arguments.all("exclude-system").map(str::to_owned).collect(),
        })
    }
}

/// One code of an expansion.
#[derive(Clone, Debug, PartialEq)]
pub struct Contained {
    pub system: Arc<str>,
    pub code: Arc<str>,
    pub display: Option<Arc<str>>,
    pub inactive: bool,
    pub is_abstract: bool,
    pub(super) designations: Vec<Designation>,
}

/// The outputs of `$expand`: the value set's header and the page.
#[derive(Clone, Debug)]
pub struct Expansion {
    url: Option<Arc<str>>,
    version: Option<Box<str>>,
    name: Option<Box<str>>,
    title: Option<Box<str>>,
    status: Option<Box<str>>,
    /// `url|version` of each code system that codes came from.
    used: Vec<String>,
    request: ExpandRequest,
    /// All codes that fit, on this page or not.
    pub total: usize,
    pub contains: Vec<Contained>,
}

impl Expansion {
    /// The ValueSet resource with its `expansion`.
    pub fn to_value_set(&self) -> Value {
        let mut resource = Map::new();
        resource.insert("resourceType".into(), "ValueSet".into());
        for (key, value) in [
            ("url", self.url.as_deref()),
            ("version", self.version.as_deref()),
            ("name", self.name.as_deref()),
            ("title", self.title.as_deref()),
        ] {
            if let Some(value) = value {
                resource.insert(key.into(), value.into());
            }
        }
        resource.insert("status".into(), self.status.as_deref().unwrap_or("active").into());
        let mut parameters: Vec<Value> = Vec::new();
        let request = &self.request;
        parameters.extend(request.filter.as_ref().map(|filter| json!({ "name": "filter", "valueString": filter })));
        parameters.extend(request.count.map(|count| json!({ "name": "count", "valueInteger": count })));
        if request.active_only {
            parameters.push(json!({ "name": "activeOnly", "valueBoolean": true }));
        }
        parameters.extend(request.display_language.as_ref().map(|language| json!({ "name": "displayLanguage", "valueCode": language })));
        parameters.extend(self.used.iter().map(|system| json!({ "name": "version", "valueUri": system })));
        let contains: Vec<Value> = self.contains.iter().map(Contained::to_value).collect();
        let mut expansion = Map::new();
        expansion.insert("identifier".into(), format!("urn:uuid:{}", uuid::Uuid::new_v4()).into());
        expansion.insert("timestamp".into(), crate::fhir::time::format_instant(crate::fhir::time::now()).into());
        expansion.insert("total".into(), self.total.into());
        if request.count.is_some() || request.offset.is_some() {
            expansion.insert("offset".into(), request.offset.unwrap_or(0).into());
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
}

impl Contained {
    /// The code as a Coding.
    pub fn to_coding(&self) -> Value {
        super::parameters::coding(Some(&self.system), None, &self.code, self.display.as_deref())
    }

    fn to_value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("system".into(), (&*self.system).into());
        if self.is_abstract {
            entry.insert("abstract".into(), true.into());
        }
        if self.inactive {
            entry.insert("inactive".into(), true.into());
        }
        entry.insert("code".into(), (&*self.code).into());
        if let Some(display) = &self.display {
            entry.insert("display".into(), (&**display).into());
        }
        if !self.designations.is_empty() {
            let list: Vec<Value> = self.designations.iter().map(designation_value).collect();
            entry.insert("designation".into(), list.into());
        }
        Value::Object(entry)
    }
}

fn designation_value(designation: &Designation) -> Value {
    let mut value = Map::new();
    if let Some(language) = &designation.language {
        value.insert("language".into(), (&**language).into());
    }
    if let Some(use_) = &designation.use_ {
        value.insert("use".into(), use_.clone());
    }
    value.insert("value".into(), (&*designation.value).into());
    Value::Object(value)
}

impl Terminology {
    /// The codes of a value set.
    pub fn expand(&self, request: &ExpandRequest) -> Result<Expansion, TerminologyError> {
        let loaded = self.loaded.load();
        let set =
            named_set(&loaded, request.id.as_deref(), request.url.as_deref(), request.version.as_deref(), request.value_set.as_ref())?;
        let walk = Walk::new(&loaded);
        let words: Vec<String> =
            request.filter.as_deref().map(fold).unwrap_or_default().split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let active_only = request.active_only || set.inactive == Some(false);
        let offset = request.offset.unwrap_or(0);
        let paged = request.count.is_some();
        let page = request.count.unwrap_or(MAX_CODES).min(MAX_CODES);
        let mut total = 0usize;
        let mut contains = Vec::new();
        let mut used: Vec<Arc<str>> = Vec::new();
        walk.each(&set, 0, &mut |candidate| {
            if active_only && candidate.inactive || request.exclude_systems.iter().any(|system| **system == *candidate.system) {
                return Ok(());
            }
            let language = request.display_language.as_deref();
            let designated = language.and_then(|language| candidate.designations.iter().find(|one| one.speaks(language)));
            let display = designated.map(|one| one.value.clone()).or(candidate.display);
            if !words.is_empty() {
                let (text, code) = (display.as_deref().map(fold).unwrap_or_default(), fold(&candidate.code));
                if !words.iter().all(|word| text.contains(word.as_str()) || code.starts_with(word.as_str())) {
                    return Ok(());
                }
            }
            if !used.contains(&candidate.system) {
                used.push(candidate.system.clone());
            }
            if total >= offset && contains.len() < page {
                let designations = if request.include_designations { candidate.designations } else { Vec::new() };
                contains.push(Contained { display, designations, ..candidate });
            } else if !paged && total >= offset {
                return Err(TerminologyError::TooManyCodes { limit: MAX_CODES });
            }
            total += 1;
            Ok(())
        })?;
        let versioned = |system: &Arc<str>| loaded.systems.canonical(system).and_then(|found| found.header.canonical());
        let header = set.header();
        Ok(Expansion {
            url: header.url.clone(),
            version: header.version.clone(),
            name: header.name.clone(),
            title: header.title.clone(),
            status: header.status.clone(),
            used: used.iter().map(|system| versioned(system).unwrap_or_else(|| system.to_string())).collect(),
            request: ExpandRequest { value_set: None, ..request.clone() },
            total,
            contains,
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
            let found = if version.is_some() { loaded.sets.version(url, version) } else { loaded.sets.canonical(url) };
            found.cloned().ok_or_else(|| not_loaded(format!("url {url}")))
        }
        _ => Err(TerminologyError::Missing { name: "url", hint: "name the value set with url, or send it as valueSet" }),
    }
}

type Sink<'s> = &'s mut dyn FnMut(Contained) -> Result<(), TerminologyError>;

/// One request's walk through value sets, with its budget.
pub(super) struct Walk<'a> {
    loaded: &'a Loaded,
    steps: Cell<u64>,
}

impl<'a> Walk<'a> {
    pub fn new(loaded: &'a Loaded) -> Walk<'a> {
        Walk { loaded, steps: Cell::new(0) }
    }

    fn step(&self) -> Result<(), TerminologyError> {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        if steps > MAX_STEPS { Err(TerminologyError::TooCostly) } else { Ok(()) }
    }

    /// The entry for a code in a value set, if it is there.
    pub fn contains(&self, set: &ValueSet, system: &str, code: &str) -> Result<Option<Contained>, TerminologyError> {
        self.contains_at(set, system, code, 0)
    }

    fn contains_at(&self, set: &ValueSet, system: &str, code: &str, depth: usize) -> Result<Option<Contained>, TerminologyError> {
        if depth > MAX_DEPTH {
            return Err(nesting(set));
        }
        let Some(found) = self.in_any(&set.include, system, code, depth)? else { return Ok(None) };
        let left_out = found.inactive && set.inactive == Some(false) || self.in_any(&set.exclude, system, code, depth)?.is_some();
        Ok((!left_out).then_some(found))
    }

    fn in_any(&self, clauses: &[Clause], system: &str, code: &str, depth: usize) -> Result<Option<Contained>, TerminologyError> {
        // A clause that cannot be evaluated matters only when no other clause has the code.
        let mut trouble = None;
        for clause in clauses {
            match self.in_clause(clause, system, code, depth) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    fn in_clause(&self, clause: &Clause, system: &str, code: &str, depth: usize) -> Result<Option<Contained>, TerminologyError> {
        self.step()?;
        let mut found = None;
        if let Some(own) = &clause.system {
            if own.as_ref() != system {
                return Ok(None);
            }
            found = self.in_system(clause, own, code)?;
            if found.is_none() {
                return Ok(None);
            }
        }
        for url in &clause.value_sets {
            let nested = self.contains_at(self.set(url)?, system, code, depth + 1)?;
            match nested {
                None => return Ok(None),
                nested => found = found.or(nested),
            }
        }
        Ok(found)
    }

    /// The clause's own part, without its value sets.
    fn in_system(&self, clause: &Clause, system: &Arc<str>, code: &str) -> Result<Option<Contained>, TerminologyError> {
        let known = self.loaded.systems.version(system, clause.version.as_deref()).or_else(|| self.loaded.systems.canonical(system));
        if clause.listed.is_some() {
            let exact = clause.listed_as(code);
            let listed = exact.or_else(|| clause.listed_as(&known?.find(code)?.code));
            return Ok(listed.map(|listed| entry_listed(system, listed, known.map(|k| &**k))));
        }
        let known = self.usable(clause, system)?;
        let Some(place) = known.place(code) else { return Ok(None) };
        for filter in &clause.filters {
            if !passes(known, filter, place)? {
                return Ok(None);
            }
        }
        Ok(entry_at(system, known, place))
    }

    fn usable(&self, clause: &Clause, system: &str) -> Result<&'a CodeSystem, TerminologyError> {
        let found = self.loaded.systems.version(system, clause.version.as_deref());
        let what =
            || clause.version.as_deref().map_or_else(|| format!("url {system}"), |version| format!("url {system} and version {version}"));
        let known = found.ok_or_else(|| TerminologyError::NotLoaded { type_name: "CodeSystem", what: what() })?;
        if known.content == Content::Absent {
            return Err(TerminologyError::NoContent { system: system.to_owned() });
        }
        Ok(known)
    }

    fn set(&self, url: &str) -> Result<&'a ValueSet, TerminologyError> {
        let found = self.loaded.sets.canonical(url);
        found.map(|set| &**set).ok_or_else(|| TerminologyError::NotLoaded { type_name: "ValueSet", what: format!("url {url}") })
    }

    /// Hands every code of a value set to `sink`, once, in the order of its definition.
    pub fn each(&self, set: &ValueSet, depth: usize, sink: Sink) -> Result<(), TerminologyError> {
        if depth > MAX_DEPTH {
            return Err(nesting(set));
        }
        for (at, clause) in set.include.iter().enumerate() {
            let earlier = set.include.get(..at).unwrap_or_default();
            self.each_in_clause(clause, depth, &mut |candidate| {
                let (system, code) = (&*candidate.system, &*candidate.code);
                let left_out = candidate.inactive && set.inactive == Some(false)
                    || self.in_any(earlier, system, code, depth)?.is_some()
                    || self.in_any(&set.exclude, system, code, depth)?.is_some();
                if left_out { Ok(()) } else { sink(candidate) }
            })?;
        }
        Ok(())
    }

    fn each_in_clause(&self, clause: &Clause, depth: usize, sink: Sink) -> Result<(), TerminologyError> {
        let in_sets = |urls: &[Box<str>], candidate: &Contained| {
            for url in urls {
                if self.contains_at(self.set(url)?, &candidate.system, &candidate.code, depth + 1)?.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let Some(system) = &clause.system else {
            // Only value sets: those in the first that are in all others.
            let Some((first, others)) = clause.value_sets.split_first() else { return Ok(()) };
            return self.each(self.set(first)?, depth + 1, &mut |candidate| {
                self.step()?;
                if in_sets(others, &candidate)? { sink(candidate) } else { Ok(()) }
            });
        };
        if let Some(listed) = &clause.listed {
            let known = self.loaded.systems.version(system, clause.version.as_deref()).or_else(|| self.loaded.systems.canonical(system));
            for one in listed {
                self.step()?;
                let candidate = entry_listed(system, one, known.map(|k| &**k));
                let again = clause.listed_as(&one.code).is_some_and(|first| !std::ptr::eq(first, one));
                if !again && in_sets(&clause.value_sets, &candidate)? {
                    sink(candidate)?;
                }
            }
            return Ok(());
        }
        let known = self.usable(clause, system)?;
        let (places, driver) = candidates(known, &clause.filters);
        'places: for place in places {
            self.step()?;
            for (at, filter) in clause.filters.iter().enumerate() {
                if driver != Some(at) && !passes(known, filter, place)? {
                    continue 'places;
                }
            }
            let Some(candidate) = entry_at(system, known, place) else { continue };
            if in_sets(&clause.value_sets, &candidate)? {
                sink(candidate)?;
            }
        }
        Ok(())
    }
}

fn nesting(set: &ValueSet) -> TerminologyError {
    TerminologyError::Nesting { url: set.header().url.as_deref().unwrap_or_default().to_owned(), limit: MAX_DEPTH }
}

fn entry_listed(system: &Arc<str>, listed: &super::value_set::Listed, known: Option<&CodeSystem>) -> Contained {
    let concept = known.and_then(|known| known.find(&listed.code));
    let mut designations = listed.designations.clone();
    designations.extend(concept.into_iter().flat_map(|concept| concept.designations().iter().cloned()));
    Contained {
        system: system.clone(),
        code: listed.code.clone(),
        display: listed.display.clone().or_else(|| concept?.display.clone()),
        inactive: concept.is_some_and(|concept| concept.inactive),
        is_abstract: concept.is_some_and(|concept| concept.is_abstract),
        designations,
    }
}

fn entry_at(system: &Arc<str>, known: &CodeSystem, place: u32) -> Option<Contained> {
    let concept = known.at(place)?;
    Some(Contained {
        system: system.clone(),
        code: concept.code.clone(),
        display: concept.display.clone(),
        inactive: concept.inactive,
        is_abstract: concept.is_abstract,
        designations: concept.designations().to_vec(),
    })
}

/// Where to look: below one concept when a filter says so, else everywhere; with the filter that is thereby met.
fn candidates(system: &CodeSystem, filters: &[Filter]) -> (Box<dyn Iterator<Item = u32>>, Option<usize>) {
    for (at, filter) in filters.iter().enumerate() {
        let (root, with_root) = match &filter.test {
            Test::IsA(root) => (root, true),
            Test::DescendentOf(root) => (root, false),
            _ => continue,
        };
        if !is_concept(&filter.property) {
            continue;
        }
        let Some(root) = system.place(root) else { return (Box::new(std::iter::empty()), Some(at)) };
        let own = with_root.then_some(root);
        return (Box::new(own.into_iter().chain(system.below(root))), Some(at));
    }
    (Box::new(0..u32::try_from(system.concepts.len()).unwrap_or(u32::MAX)), None)
}

/// `concept` is the name that R4 gives; `code` is in wide use.
fn is_concept(property: &str) -> bool {
    matches!(property, "concept" | "code")
}

/// Whether the concept at `place` meets a filter.
fn passes(system: &CodeSystem, filter: &Filter, place: u32) -> Result<bool, TerminologyError> {
    let property = &*filter.property;
    let to = |code: &str| system.place(code);
    let is_a = |code: &str| to(code).is_some_and(|root| root == place || system.is_above(root, place));
    Ok(match &filter.test {
        Test::IsA(code) => is_a(code),
        Test::IsNotA(code) => !is_a(code),
        Test::DescendentOf(code) => to(code).is_some_and(|root| root != place && system.is_above(root, place)),
        Test::Generalizes(code) => to(code).is_some_and(|leaf| leaf == place || system.is_above(place, leaf)),
        Test::Equals(value) => any_value(system, property, place, |text| text == &**value),
        Test::In(values) => any_value(system, property, place, |text| values.iter().any(|value| &**value == text)),
        Test::NotIn(values) => !any_value(system, property, place, |text| values.iter().any(|value| &**value == text)),
        Test::Regex(regex) => any_value(system, property, place, |text| regex.is_match(text)),
        Test::Exists(wanted) => any_value(system, property, place, |_| true) == *wanted,
        Test::Unusable(hint) => return Err(TerminologyError::Filter { hint: format!("{hint} (property {property})") }),
    })
}

/// Whether one of the concept's values of a property fits: its own properties, or `code`, `display`, `definition`, `parent` and `child`.
fn any_value(system: &CodeSystem, property: &str, place: u32, fits: impl Fn(&str) -> bool) -> bool {
    let Some(concept) = system.at(place) else { return false };
    let codes = |places: &[u32]| places.iter().filter_map(|&place| system.at(place)).any(|other| fits(&other.code));
    match property {
        "concept" | "code" => fits(&concept.code),
        "display" => concept.display.as_deref().is_some_and(&fits),
        "definition" => concept.definition().is_some_and(&fits),
        "parent" => codes(&concept.parents),
        "child" => codes(&concept.children),
        "inactive" if !concept.properties().iter().any(|(code, ..)| &**code == "inactive") => {
            fits(if concept.inactive { "true" } else { "false" })
        }
        _ => concept.properties().iter().filter(|(code, ..)| &**code == property).any(|(_, _, value)| match property_text(value) {
            Some(text) => fits(text),
            None => fits(&value.to_string()),
        }),
    }
}
