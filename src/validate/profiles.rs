//! The StructureDefinitions that are loaded, by canonical URL; compiled when first asked for.
//!
//! Readers hold a snapshot and never wait. A change makes a new snapshot, in which everything is compiled anew when asked for,
//! because any profile may rest on the changed one. R4's own extensions and profiles are always there; a loaded one with the
//! same URL stands in front of them.

use super::compile::{CORE, Profile, ProfileError};
use crate::definitions::{ElementKind, ElementType, Structure, r4, r4_profiles};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

/// Profiles that rest on each other, followed to the type.
const MAX_BASES: usize = 16;

/// The loaded profiles; cloning shares them.
#[derive(Clone, Default)]
pub struct Profiles {
    loaded: Arc<ArcSwap<Loaded>>,
}

/// One snapshot.
#[derive(Default)]
pub(super) struct Loaded {
    /// By resource id.
    sources: HashMap<Box<str>, Arc<Value>>,
    /// The preferred one of each URL comes last.
    by_url: HashMap<Box<str>, Vec<Slot>>,
}

struct Slot {
    version: Box<str>,
    source: Arc<Value>,
    compiled: OnceLock<Result<Box<Profile>, ProfileError>>,
}

/// R4's own, found where nothing is loaded under their URL.
static OWN: LazyLock<Loaded> = LazyLock::new(|| {
    let named = r4_profiles().into_iter().filter_map(|definition| Some((definition.get("url")?.as_str()?.into(), Arc::new(definition))));
    Loaded::of(named.collect())
});

impl Profiles {
    pub fn new() -> Profiles {
        Profiles::default()
    }

    /// Whether resources of this type belong here.
    pub fn holds(type_name: &str) -> bool {
        type_name == "StructureDefinition"
    }

    /// Takes in new or changed StructureDefinitions; each replaces the one with its id. Others are ignored.
    pub fn load<'v>(&self, definitions: impl IntoIterator<Item = &'v Value>) {
        let taken: Vec<(Box<str>, Arc<Value>)> = definitions.into_iter().filter_map(source).collect();
        if !taken.is_empty() {
            self.change(|sources| sources.extend(taken.iter().cloned()));
        }
    }

    /// Forgets the StructureDefinition with this id.
    pub fn remove(&self, id: &str) {
        self.change(|sources| _ = sources.remove(id));
    }

    /// Why the profile with this canonical URL cannot be used; `None` when none is loaded.
    pub fn look_at(&self, canonical: &str) -> Option<Result<(), ProfileError>> {
        Some(self.snapshot().profile(canonical)?.map(|_| ()).map_err(Clone::clone))
    }

    /// Those of these profiles that can never be used, and why.
    pub fn unusable<'u>(&self, urls: &'u [String]) -> Vec<(&'u str, ProfileError)> {
        let loaded = self.snapshot();
        urls.iter().filter_map(|url| Some((url.as_str(), loaded.profile(url)?.err()?.clone()))).collect()
    }

    /// The value set that an element is bound to, required or extensible, by a loaded profile or what it rests on, down to R4's own type.
    /// `path` is the element's id or path: `Patient.gender`.
    pub fn binding(&self, canonical: &str, path: &str) -> Option<String> {
        let loaded = self.snapshot();
        let mut canonical = canonical.to_owned();
        for _ in 0..MAX_BASES {
            let core = canonical.strip_prefix(CORE).and_then(|name| r4().structure(name));
            if let Some(structure) = core {
                // A slice's id says more than the path of the type.
                let plain: Vec<&str> = path.split('.').map(|part| part.split(':').next().unwrap_or(part)).collect();
                return core_binding(structure, &plain).map(str::to_owned);
            }
            let source = &loaded.slot(&canonical)?.source;
            if let Some(bound) = own_binding(source, path) {
                return Some(bound.to_owned());
            }
            canonical = source.get("baseDefinition")?.as_str()?.to_owned();
        }
        None
    }

    pub(super) fn snapshot(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    fn change(&self, make: impl Fn(&mut HashMap<Box<str>, Arc<Value>>)) {
        self.loaded.rcu(|loaded| {
            let mut sources = loaded.sources.clone();
            make(&mut sources);
            Loaded::of(sources)
        });
    }
}

/// The type whose definition in R4 this is, `Resource` and `DomainResource` among them; a version is one of R4's.
pub(super) fn core_type(canonical: &str) -> Option<&str> {
    let (url, version) = canonical.split_once('|').unwrap_or((canonical, "4.0"));
    let name = url.strip_prefix(CORE)?;
    let is_known = r4().type_code(name).is_some() || matches!(name, "Resource" | "DomainResource");
    (is_known && (version == "4.0" || version.starts_with("4.0."))).then_some(name)
}

/// Whether a resource of one type is of R4's type `core`, or of what rests on it.
pub(super) fn is_of(type_name: &str, core: &str) -> bool {
    match core {
        "Resource" => true,
        "DomainResource" => !matches!(type_name, "Bundle" | "Binary" | "Parameters"),
        _ => type_name == core,
    }
}

/// What is wrong with a resource that is to meet the definition of another type.
pub(super) const OTHER_TYPE: &str = "is held against R4's definition of another type of resource";

/// What a profile itself says.
fn own_binding<'v>(definition: &'v Value, path: &str) -> Option<&'v str> {
    let elements = ["differential", "snapshot"].into_iter().filter_map(|part| definition.get(part)?.get("element")?.as_array()).flatten();
    let is_it = |element: &&Value| ["id", "path"].iter().any(|key| element.get(*key).and_then(Value::as_str) == Some(path));
    let bound = elements.filter(is_it).find_map(|element| element.get("binding")?.get("valueSet")?.as_str())?;
    bound.split('|').next()
}

/// What R4's type says of the element at a path that begins with the type's name.
fn core_binding(root: &'static Structure, path: &[&str]) -> Option<&'static str> {
    let (first, inner) = path.split_first()?;
    let (last, between) = inner.split_last()?;
    let mut structure = Some(root).filter(|root| root.name == *first)?;
    let name = |part: &&str| part.trim_end_matches("[x]").to_owned();
    for part in between {
        structure = match structure.element(&name(part))?.types.as_slice() {
            [ElementType { kind: ElementKind::Structure(place), .. }] => r4().structure_at(*place)?,
            _ => return None,
        };
    }
    let element = structure.element(&name(last))?;
    element.binding.or(element.extensible)
}

/// A StructureDefinition that constrains, by its id (or url), without what only people read.
fn source(definition: &Value) -> Option<(Box<str>, Arc<Value>)> {
    let text = |key: &str| definition.get(key).and_then(Value::as_str);
    if text("resourceType") != Some("StructureDefinition") || text("url").is_none() || text("derivation") != Some("constraint") {
        return None;
    }
    let key = text("id").or(text("url"))?.into();
    let mut kept = definition.clone();
    if let Some(members) = kept.as_object_mut() {
        members.retain(|key, _| !matches!(key.as_str(), "text" | "mapping" | "contact" | "description" | "copyright" | "purpose"));
        if members.contains_key("differential") {
            members.remove("snapshot");
        }
        for part in ["differential", "snapshot"] {
            let elements = members.get_mut(part).and_then(|part| part.get_mut("element")).and_then(Value::as_array_mut);
            for element in elements.into_iter().flatten().filter_map(Value::as_object_mut) {
                element.retain(|key, _| {
                    !matches!(key.as_str(), "short" | "definition" | "comment" | "requirements" | "mapping" | "alias" | "example")
                });
            }
        }
    }
    Some((key, Arc::new(kept)))
}

impl Loaded {
    fn of(sources: HashMap<Box<str>, Arc<Value>>) -> Loaded {
        let mut by_url: HashMap<Box<str>, Vec<Slot>> = HashMap::new();
        for source in sources.values() {
            let text = |key: &str| source.get(key).and_then(Value::as_str).unwrap_or_default();
            let slot = Slot { version: text("version").into(), source: source.clone(), compiled: OnceLock::new() };
            by_url.entry(text("url").into()).or_default().push(slot);
        }
        let rank = |slot: &Slot| {
            let active = slot.source.get("status").and_then(Value::as_str) == Some("active");
            let numbers: Vec<u64> = slot.version.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect();
            (active, numbers, slot.version.clone())
        };
        for slots in by_url.values_mut() {
            slots.sort_by_cached_key(rank);
        }
        Loaded { sources, by_url }
    }

    /// The profile with this canonical URL, `|version` allowed, or why it cannot be used. `None`: none is loaded.
    pub(super) fn profile(&self, canonical: &str) -> Option<Result<&Profile, &ProfileError>> {
        let slot = self.slot(canonical)?;
        let compiled =
            slot.compiled.get_or_init(|| Profile::compile(&slot.source, &|base| self.slot(base).map(|slot| &*slot.source)).map(Box::new));
        Some(compiled.as_deref())
    }

    /// Why a definition could not be used as a profile; what it rests on is as it is loaded.
    pub(super) fn fault(&self, definition: &Value) -> Option<ProfileError> {
        Profile::compile(definition, &|base| self.slot(base).map(|slot| &*slot.source)).err()
    }

    fn slot(&self, canonical: &str) -> Option<&Slot> {
        let own = || OWN.by_url.get(canonical.split('|').next().unwrap_or(canonical)).and_then(|slots| slots.last());
        let (url, version) = canonical.split_once('|').map_or((canonical, None), |(url, version)| (url, Some(version)));
        let found = self.by_url.get(url).and_then(|slots| match version {
            Some(version) => slots.iter().rev().find(|slot| &*slot.version == version),
            None => slots.last(),
        });
        found.or_else(|| if url.starts_with(CORE) && !std::ptr::eq(self, &*OWN) { own() } else { None })
    }
}
