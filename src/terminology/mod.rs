//! Codes and what they mean: ConceptMap, CodeSystem and ValueSet, answered from memory.
//!
//! In come the terminology resources that are stored, one at a time as they change ([`Terminology::upsert`]) or all at once when the
//! program starts ([`Terminology::load`]). Each is compiled to hash maps and dropped; the compiled forms sit behind one pointer that is swapped on a
//! change, so that a reader sees one consistent set and never waits. Out go the operations of
//! <https://hl7.org/fhir/R4/terminology-service.html> ([`operation`]: `$translate`, `$lookup`, `$validate-code`, `$subsumes`, `$expand`), the plain
//! questions that other rooms ask ([`Terminology::translate_code`], [`Terminology::is_member`], [`Terminology::display`]), the code lists of the HDU API
//! ([`listing`]) and the content that lango ships ([`shipped`]).
//!
//! Every answer is bounded: in time by a budget of steps, in size by [`expand::MAX_CODES`], in depth by guards against maps and value sets that
//! lead back to themselves.
//!
//! It must never know HTTP, a database, or where a resource came from.

mod arguments;
mod code_system;
mod codes;
mod concept_map;
mod error;
pub mod expand;
mod expansion;
mod hierarchy;
mod implicit;
pub mod listing;
pub mod lookup;
pub mod operation;
mod parameters;
mod shelf;
mod shipped;
pub mod subsumes;
mod supplement;
pub mod translate;
pub mod validate_code;
mod value_set;
mod versions;
mod walk;

#[cfg(test)]
mod tests;

pub use arguments::{Arguments, CodeableConcept, Coding};
pub use concept_map::{Equivalence, Product};
pub use error::TerminologyError;
pub use expansion::{Contained, Expansion};
pub use shipped::shipped;
pub use translate::{ICD10, Translation};

use arc_swap::ArcSwap;
use code_system::{CodeSystem, Content};
use concept_map::ConceptMap;
use serde_json::Value;
use shelf::Shelf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use supplement::Supplements;
use value_set::ValueSet;
use walk::Walk;

/// Every terminology resource that is loaded. Cloning shares it.
#[derive(Clone, Default)]
pub struct Terminology {
    loaded: Arc<ArcSwap<Loaded>>,
    /// Changes so far: what is made from the terminology is made again when this moved.
    changes: Arc<AtomicU64>,
}

impl std::fmt::Debug for Terminology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminology")
    }
}

/// One consistent set of compiled resources.
#[derive(Clone, Default)]
struct Loaded {
    systems: Shelf<CodeSystem>,
    supplements: Supplements,
    maps: Shelf<ConceptMap>,
    sets: Shelf<ValueSet>,
}

/// One compiled resource.
#[derive(Clone)]
enum Compiled {
    System(Arc<CodeSystem>),
    Map(Arc<ConceptMap>),
    Set(Arc<ValueSet>),
}

impl Compiled {
    /// `None` for a resource of another type, or with neither id nor url, by which nobody could ask for it.
    fn new(resource: &Value) -> Option<Compiled> {
        match resource.get("resourceType").and_then(Value::as_str)? {
            "CodeSystem" => CodeSystem::compile(resource).map(|r| Compiled::System(Arc::new(r))),
            "ConceptMap" => ConceptMap::compile(resource).map(|r| Compiled::Map(Arc::new(r))),
            "ValueSet" => ValueSet::compile(resource).map(|r| Compiled::Set(Arc::new(r))),
            _ => None,
        }
    }
}

impl Loaded {
    fn put(&mut self, compiled: Compiled) {
        match compiled {
            // One id, one place: what was a supplement may be none any more.
            Compiled::System(system) if system.content == Content::Supplement => {
                self.systems.remove(&system.header.key);
                self.supplements.put(system);
            }
            Compiled::System(system) => {
                self.supplements.remove(&system.header.key);
                self.systems.put(system);
            }
            Compiled::Map(map) => self.maps.put(map),
            Compiled::Set(set) => self.sets.put(set),
        }
    }
}

impl Terminology {
    /// An empty index.
    pub fn new() -> Terminology {
        Terminology::default()
    }

    /// An index of what lango ships.
    pub fn with_shipped() -> Terminology {
        let terminology = Terminology::new();
        terminology.load(&shipped());
        terminology
    }

    /// A copy that changes by itself.
    pub fn copy(&self) -> Terminology {
        Terminology { loaded: Arc::new(ArcSwap::new(self.loaded.load_full())), changes: Arc::default() }
    }

    /// How often it changed since this process began.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether resources of this type belong here.
    pub fn holds(type_name: &str) -> bool {
        matches!(type_name, "CodeSystem" | "ConceptMap" | "ValueSet")
    }

    /// Takes in a new or changed resource; it replaces the one of the same type and id. Resources of other types are ignored, and
    /// elements that make no sense are passed over: saying what is wrong with a resource is the validator's work.
    pub fn upsert(&self, resource: &Value) {
        if let Some(compiled) = Compiled::new(resource) {
            self.loaded.rcu(|loaded| {
                let mut next = Loaded::clone(loaded);
                next.put(compiled.clone());
                next
            });
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets the resource; one that is not here stays away.
    pub fn remove(&self, type_name: &str, id: &str) {
        self.loaded.rcu(|loaded| {
            let mut next = Loaded::clone(loaded);
            match type_name {
                "CodeSystem" => {
                    next.systems.remove(id);
                    next.supplements.remove(id);
                }
                "ConceptMap" => next.maps.remove(id),
                "ValueSet" => next.sets.remove(id),
                _ => {}
            }
            next
        });
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes in many resources with one swap, as [`Terminology::upsert`] does one by one.
    pub fn load<'a>(&self, resources: impl IntoIterator<Item = &'a Value>) {
        let compiled: Vec<Compiled> = resources.into_iter().filter_map(Compiled::new).collect();
        self.loaded.rcu(|loaded| {
            let mut next = Loaded::clone(loaded);
            compiled.iter().cloned().for_each(|one| next.put(one));
            next
        });
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Where `code` (of `system`, or of any source system when `None`) leads in the map at `map_url`: the targets that mean something, so neither
    /// `unmatched` nor `disjoint`. `None` when there is no such map; an empty list when the map does not know the code.
    pub fn translate_code(&self, map_url: &str, system: Option<&str>, code: &str) -> Option<Vec<Translation>> {
        let loaded = self.loaded.load();
        let map = loaded.maps.canonical(map_url)?;
        let mut found = translate::through(&loaded, map, &translate::Wanted { system, code, target: None, given: &[] });
        found.retain(|translation| translation.equivalence.is_match());
        Some(found)
    }

    /// Whether `code` of `system` is in the value set. `None` when that cannot be told: no such value set, or it rests on a resource that is not
    /// loaded, or of which only a part is that does not have the code.
    pub fn is_member(&self, value_set_url: &str, system: &str, code: &str) -> Option<bool> {
        let loaded = self.loaded.load();
        let set = loaded.set(value_set_url)?;
        let walk = Walk::new(&loaded);
        let found = walk.contains(&set, system, code).ok()?;
        (found.is_some() || walk.partial().is_empty()).then_some(found.is_some())
    }

    /// Whether `code` of any of the systems that the value set draws on is in it: for elements whose system is implied.
    pub fn is_member_of_any_system(&self, value_set_url: &str, code: &str) -> Option<bool> {
        let loaded = self.loaded.load();
        let set = loaded.set(value_set_url)?;
        let walk = Walk::new(&loaded);
        for system in set.include.iter().map(|clause| clause.system.as_deref()) {
            // A clause without system takes those of other value sets; which, is not known without listing them.
            if walk.contains(&set, system?, code).ok()?.is_some() {
                return Some(true);
            }
        }
        walk.partial().is_empty().then_some(false)
    }

    /// The members of a value set in its order, taken at its word: labels and rules rest on them, and must rather see too many. `None` when they
    /// cannot be listed: it is not loaded, rests on something that is not, or is too large.
    pub fn members(&self, value_set_url: &str) -> Option<Vec<Contained>> {
        let request = expand::ExpandRequest { url: Some(value_set_url.to_owned()), at_its_word: true, ..expand::ExpandRequest::default() };
        self.expand(&request).ok().map(|expansion| expansion.contains)
    }

    /// What `code` is called. `None` when the system is not loaded, or does not know the code or give it a display.
    pub fn display(&self, system: &str, code: &str) -> Option<Arc<str>> {
        let loaded = self.loaded.load();
        let system = loaded.systems.canonical(system)?;
        system.find(code)?.display.clone()
    }
}
