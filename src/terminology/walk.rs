//! The walk through value sets that `$expand`, `$validate-code` and searches share: which codes are in one, and whether a code is.

use super::code_system::{CodeSystem, Content, property_text};
use super::expansion::Contained;
use super::shelf::Shelved;
use super::supplement::Known;
use super::value_set::{Clause, Filter, Listed, Test, ValueSet};
use super::versions::Versions;
use super::{Loaded, TerminologyError};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Levels of value sets in value sets.
const MAX_DEPTH: usize = 16;

/// Candidates looked at for one request: a second's work, and enough to page through a system of a million codes with an exclude.
const MAX_STEPS: u64 = 5_000_000;

type Sink<'s> = &'s mut dyn FnMut(Contained) -> Result<(), TerminologyError>;

/// One request's walk through value sets, with its budget.
pub(super) struct Walk<'a> {
    loaded: &'a Loaded,
    versions: Versions,
    at_its_word: bool,
    steps: Cell<u64>,
    partial: RefCell<Vec<Arc<str>>>,
    left_out: Cell<usize>,
}

impl<'a> Walk<'a> {
    pub fn new(loaded: &'a Loaded) -> Walk<'a> {
        Walk::with(loaded, Versions::default())
    }

    /// A walk in which the request says something about versions.
    pub fn with(loaded: &'a Loaded, versions: Versions) -> Walk<'a> {
        Walk { loaded, versions, at_its_word: false, steps: Cell::new(0), partial: RefCell::default(), left_out: Cell::new(0) }
    }

    /// A walk that takes value sets at their word: a code that is listed need not exist, and a filter that names what is not there
    /// finds nothing. For whoever must rather see too much in a value set than none of it.
    pub fn at_its_word(loaded: &'a Loaded) -> Walk<'a> {
        Walk { at_its_word: true, ..Walk::new(loaded) }
    }

    /// The code systems that were asked for more than is loaded of them: what was found may lack codes, or have some that it should not.
    pub fn partial(&self) -> Vec<Arc<str>> {
        self.partial.borrow().clone()
    }

    /// Codes that value sets list and that do not exist.
    pub fn left_out(&self) -> usize {
        self.left_out.get()
    }

    /// Notes that the answer rests on what of a system is loaded.
    fn rests_on(&self, system: &CodeSystem) {
        let mut partial = self.partial.borrow_mut();
        if system.content == Content::Partial && !partial.iter().any(|known| **known == *system.url()) {
            partial.push(system.url().into());
        }
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
        self.loaded.require_supplements(set.supplements.iter().map(|one| &**one))?;
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
            let nested = self.contains_at(&*self.set(url)?, system, code, depth + 1)?;
            match nested {
                None => return Ok(None),
                nested => found = found.or(nested),
            }
        }
        Ok(found)
    }

    /// The clause's own part, without its value sets.
    fn in_system(&self, clause: &Clause, system: &Arc<str>, code: &str) -> Result<Option<Contained>, TerminologyError> {
        if clause.listed.is_some() {
            let known = self.known(clause, system)?;
            let listed = clause.listed_as(code, ignores_case(known)).filter(|listed| self.exists(clause, known, &listed.code));
            return Ok(listed.map(|listed| entry_listed(system, clause, listed, known)));
        }
        let known = self.usable(clause, system)?;
        let Some(place) = known.system.place(code) else {
            self.rests_on(known.system);
            return Ok(None);
        };
        for filter in &clause.filters {
            if !passes(known, filter, place)? {
                return Ok(None);
            }
        }
        Ok(entry_at(system, known, place))
    }

    /// The system of a clause that lists its codes, for what else there is to say of them: in another version when its own is not loaded,
    /// unless the request names the version.
    fn known(&self, clause: &Clause, system: &str) -> Result<Option<Known<'a>>, TerminologyError> {
        let (version, asked) = self.versions.pick(system, clause.version.as_deref())?;
        let found = self.loaded.systems.version(system, version);
        if found.is_none() && asked {
            return Err(no_version(system, version));
        }
        Ok(found.or_else(|| self.loaded.systems.canonical(system)).map(|known| self.loaded.known(known)))
    }

    /// The system of a clause that rests on it.
    fn usable(&self, clause: &Clause, system: &str) -> Result<Known<'a>, TerminologyError> {
        let (version, _) = self.versions.pick(system, clause.version.as_deref())?;
        let known = self.loaded.systems.version(system, version).ok_or_else(|| no_version(system, version))?;
        if known.content == Content::Absent {
            return Err(TerminologyError::NoContent { system: system.to_owned() });
        }
        let known = self.loaded.known(known);
        if !self.at_its_word {
            clause.filters.iter().try_for_each(|filter| answerable(known, filter))?;
        }
        Ok(known)
    }

    /// Whether a code that a clause lists is one (<https://hl7.org/fhir/R4/valueset.html#expansion>): its system must have it, where all of that
    /// is loaded in the version that is meant.
    fn exists(&self, clause: &Clause, known: Option<Known<'_>>, code: &str) -> bool {
        let whole = known.map(|known| known.system).filter(|system| system.content == Content::Complete);
        let Some(system) = whole.filter(|_| clause.is_composed && !self.at_its_word) else { return true };
        let meant = self.versions.pick(system.url(), clause.version.as_deref()).ok().and_then(|(version, _)| version);
        let is_other = meant.is_some_and(|version| system.header().version.as_deref() != Some(version));
        is_other || system.find(code).is_some()
    }

    fn set(&self, url: &str) -> Result<Arc<ValueSet>, TerminologyError> {
        self.loaded.set(url).ok_or_else(|| TerminologyError::NotLoaded { type_name: "ValueSet", what: format!("url {url}") })
    }

    /// Hands every code of a value set to `sink`, once, in the order of its definition.
    pub fn each(&self, set: &ValueSet, depth: usize, sink: Sink) -> Result<(), TerminologyError> {
        if depth > MAX_DEPTH {
            return Err(nesting(set));
        }
        self.loaded.require_supplements(set.supplements.iter().map(|one| &**one))?;
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
                if self.contains_at(&*self.set(url)?, &candidate.system, &candidate.code, depth + 1)?.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let Some(system) = &clause.system else {
            // Only value sets: those in the first that are in all others.
            let Some((first, others)) = clause.value_sets.split_first() else { return Ok(()) };
            return self.each(&*self.set(first)?, depth + 1, &mut |candidate| {
                self.step()?;
                if in_sets(others, &candidate)? { sink(candidate) } else { Ok(()) }
            });
        };
        if let Some(listed) = &clause.listed {
            let known = self.known(clause, system)?;
            for one in listed {
                self.step()?;
                if !self.exists(clause, known, &one.code) {
                    self.left_out.set(self.left_out.get() + 1);
                    continue;
                }
                let candidate = entry_listed(system, clause, one, known);
                let again = clause.listed_as(&one.code, ignores_case(known)).is_some_and(|first| !std::ptr::eq(first, one));
                if !again && in_sets(&clause.value_sets, &candidate)? {
                    sink(candidate)?;
                }
            }
            return Ok(());
        }
        let known = self.usable(clause, system)?;
        self.rests_on(known.system);
        let (places, driver) = candidates(known.system, &clause.filters);
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

/// Whether a system that is known says that case does not matter.
fn ignores_case(known: Option<Known<'_>>) -> bool {
    known.is_some_and(|known| known.system.ignores_case())
}

fn nesting(set: &ValueSet) -> TerminologyError {
    TerminologyError::Nesting { url: set.header().url.as_deref().unwrap_or_default().to_owned(), limit: MAX_DEPTH }
}

fn no_version(system: &str, version: Option<&str>) -> TerminologyError {
    TerminologyError::NotLoaded { type_name: "CodeSystem", what: super::shelf::named(system, version) }
}

fn entry_listed(system: &Arc<str>, clause: &Clause, listed: &Listed, known: Option<Known<'_>>) -> Contained {
    let found = known.and_then(|known| Some((known, known.system.find(&listed.code)?)));
    let concept = found.map(|(_, concept)| concept);
    // A display of the value set's own is in its language, where it says one.
    let own = clause.language.as_ref().filter(|_| listed.display.is_some());
    let mut designations = listed.designations.clone();
    designations.extend(found.into_iter().flat_map(|(known, concept)| known.designations(concept).cloned()));
    Contained {
        system: system.clone(),
        version: known.and_then(|known| known.system.header.version.clone()),
        code: listed.code.clone(),
        display: listed.display.clone().or_else(|| concept?.display.clone()),
        language: own.or_else(|| known.and_then(|known| known.system.header.language.as_ref())).cloned(),
        inactive: concept.is_some_and(|concept| concept.inactive),
        is_abstract: concept.is_some_and(|concept| concept.is_abstract),
        designations,
    }
}

fn entry_at(system: &Arc<str>, known: Known<'_>, place: u32) -> Option<Contained> {
    let concept = known.system.at(place)?;
    Some(Contained {
        system: system.clone(),
        version: known.system.header.version.clone(),
        code: concept.code.clone(),
        display: concept.display.clone(),
        language: known.system.header.language.clone(),
        inactive: concept.inactive,
        is_abstract: concept.is_abstract,
        designations: known.designations(concept).cloned().collect(),
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

/// Properties that a filter may name whatever the system says of them: what every concept has, and R4's common ones
/// (<https://hl7.org/fhir/R4/codesystem-concept-properties.html>).
const OF_EVERY_SYSTEM: [&str; 10] =
    ["concept", "code", "display", "definition", "parent", "child", "inactive", "status", "deprecated", "notSelectable"];

/// `concept` is the name that R4 gives; `code` is in wide use.
fn is_concept(property: &str) -> bool {
    matches!(property, "concept" | "code")
}

/// Refuses a filter that names a code or a property which its system does not have: that it finds nothing would be no answer.
fn answerable(known: Known<'_>, filter: &Filter) -> Result<(), TerminologyError> {
    let (system, property) = (known.system, &*filter.property);
    let refused = |hint: String| Err(TerminologyError::Filter { hint });
    match &filter.test {
        Test::IsA(code) | Test::DescendentOf(code) | Test::IsNotA(code) | Test::Generalizes(code) if system.place(code).is_none() => {
            refused(format!("the code that its filter on {property} names is not there: {}", system.unknown()))
        }
        _ if OF_EVERY_SYSTEM.contains(&property) || known.has_property(property) => Ok(()),
        // Of what is not loaded nobody knows the properties.
        _ if system.content != Content::Complete => Ok(()),
        _ => refused(format!("CodeSystem {} has no property {property}; name one that it has", system.url())),
    }
}

/// Whether the concept at `place` meets a filter.
fn passes(known: Known<'_>, filter: &Filter, place: u32) -> Result<bool, TerminologyError> {
    let system = known.system;
    let property = &*filter.property;
    let to = |code: &str| system.place(code);
    let is_a = |code: &str| to(code).is_some_and(|root| root == place || system.is_above(root, place));
    Ok(match &filter.test {
        Test::IsA(code) => is_a(code),
        Test::IsNotA(code) => !is_a(code),
        Test::DescendentOf(code) => to(code).is_some_and(|root| root != place && system.is_above(root, place)),
        Test::Generalizes(code) => to(code).is_some_and(|leaf| leaf == place || system.is_above(place, leaf)),
        Test::Equals(value) => any_value(known, property, place, |text| text == &**value),
        Test::In(values) => any_value(known, property, place, |text| values.iter().any(|value| &**value == text)),
        Test::NotIn(values) => !any_value(known, property, place, |text| values.iter().any(|value| &**value == text)),
        Test::Regex(regex) => any_value(known, property, place, |text| regex.is_match(text)),
        Test::Exists(wanted) => any_value(known, property, place, |_| true) == *wanted,
        Test::Unusable(hint) => return Err(TerminologyError::Filter { hint: format!("{hint} (property {property})") }),
    })
}

/// Whether one of the concept's values of a property fits: its own properties, or `code`, `display`, `definition`, `parent` and `child`.
fn any_value(known: Known<'_>, property: &str, place: u32, fits: impl Fn(&str) -> bool) -> bool {
    let system = known.system;
    let Some(concept) = system.at(place) else { return false };
    let codes = |places: &[u32]| places.iter().filter_map(|&place| system.at(place)).any(|other| fits(&other.code));
    match property {
        "concept" | "code" => fits(&concept.code),
        "display" => concept.display.as_deref().is_some_and(&fits),
        "definition" => concept.definition().is_some_and(&fits),
        "parent" => codes(&concept.parents),
        "child" => codes(&concept.children),
        "inactive" if !known.properties(concept).any(|(code, ..)| &**code == "inactive") => {
            fits(if concept.inactive { "true" } else { "false" })
        }
        _ => known.properties(concept).filter(|(code, ..)| &**code == property).any(|(_, _, value)| match property_text(value) {
            Some(text) => fits(text),
            None => fits(&value.to_string()),
        }),
    }
}
