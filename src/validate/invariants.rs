//! What R4 asks beyond the shape of a resource: its invariants, known extensions in their places, contained resources that are
//! used, references that lead somewhere, extensible bindings, profiles that `meta.profile` claims.
//!
//! Most invariants are FHIRPath, parsed once. Those that stand on nearly every element, that would compare all with all, or
//! that FHIRPath cannot say rightly are written here in Rust: ele-1 (by the structural check), ext-1, dom-2 to dom-6, ref-1,
//! per-1, bdl-7, txt-2; txt-1 is the narrative's own check.

use super::binding;
use super::bundle;
use super::compile::{CORE, items};
use super::profile::{self, report_verdict, unusable};
use super::profiles::{OTHER_TYPE, core_type, is_of};
use super::report::{Path, Report};
use super::scope::{Constraint, Scope};
use crate::definitions::{CodeSet, Element, ElementKind, ElementType, Structure, StructureKind, r4, r4_invariants};
use crate::fhir::markup::{Event, Scanner};
use crate::fhir::time::parse_interval;
use crate::fhir::{IssueCode, Reference, Severity};
use crate::fhirpath::Node;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// The invariants of one structure and of its elements.
#[derive(Default)]
struct Rules {
    own: Vec<Constraint>,
    /// By the element's name.
    elements: Vec<(&'static str, Vec<Constraint>)>,
}

static RULES: LazyLock<HashMap<&'static str, Rules>> = LazyLock::new(|| {
    let mut rules: HashMap<&'static str, Rules> = HashMap::new();
    for invariant in r4_invariants() {
        let severity = if invariant.is_error { Severity::Error } else { Severity::Warning };
        let constraint = Constraint::new(invariant.key, invariant.human, severity, Some(invariant.expression));
        match (r4().structure(invariant.path), invariant.path.rsplit_once('.')) {
            (Some(structure), _) => rules.entry(structure.name).or_default().own.push(constraint),
            (None, Some((owner, name))) => {
                let elements = &mut rules.entry(owner).or_default().elements;
                match elements.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, constraints)) => constraints.push(constraint),
                    None => elements.push((name, vec![constraint])),
                }
            }
            (None, None) => {}
        }
    }
    rules
});

/// R4's invariants that this engine does not understand, with the reason; for the documentation and its test.
#[cfg(test)]
pub(super) fn not_understood() -> Vec<String> {
    let all = RULES.values().flat_map(|rules| rules.own.iter().chain(rules.elements.iter().flat_map(|(_, list)| list)));
    let mut keys: Vec<String> = all.filter_map(|c| c.expression.as_ref().err().map(|why| format!("{}: {why}", c.key))).collect();
    keys.sort();
    keys
}

/// How a resource stands to the one around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// What was sent.
    Top,
    /// In a Bundle's entry or a parameter: on its own, only carried.
    Carried,
    Contained,
}

/// Holds a resource and all in it against R4's invariants; with `claims` also against the profiles that `meta.profile` names.
pub(super) fn resource<'a>(scope: Scope<'a>, standing: Standing, claims: bool, path: &Path, report: &mut Report) {
    Walk { scope, claims, base: scope.base, trail: String::new(), report }.resource(standing, path);
}

struct Walk<'a, 'r> {
    scope: Scope<'a>,
    claims: bool,
    /// The server that the fullUrl of the Bundle's entry around here names: relative references mean that one.
    base: Option<&'a str>,
    /// The element around here as definitions name it: `Patient.name.family`.
    trail: String,
    report: &'r mut Report,
}

/// What extensions may say of where they stand.
#[derive(Clone, Copy)]
struct Owner<'o> {
    structure: Option<&'static Structure>,
    /// The structure that the element belongs to, and its name.
    element: Option<(&'static str, &'static str)>,
    /// The type of a primitive, which they stand beside.
    primitive: Option<&'static str>,
    /// When the owner is an extension: its url.
    extension: Option<&'o str>,
}

impl<'a> Walk<'a, '_> {
    fn resource(&mut self, standing: Standing, path: &Path) {
        let value = self.scope.resource;
        let Some(map) = value.as_object() else { return };
        let name = map.get("resourceType").and_then(Value::as_str).unwrap_or_default();
        let Some(structure) = r4().structure(name).filter(|structure| structure.kind == StructureKind::Resource) else { return };
        let has_narrative = map.get("text").is_some_and(|text| text.get("div").is_some());
        let is_domain = structure.element("text").is_some();
        structure.name.clone_into(&mut self.trail);
        if standing == Standing::Top && is_domain && !has_narrative {
            self.warn(IssueCode::Invariant, path, "dom-6: A resource should have narrative for robust management");
        }
        if standing == Standing::Contained {
            self.contained(map, path);
        } else if map.contains_key("contained") {
            self.unused(value, path);
        }
        if structure.name == "Bundle" {
            bundle::check(value, path, self.report);
        }
        self.object(structure, value, map, None, path);
        if self.claims {
            self.claimed(map, path);
        }
    }

    fn object(
        &mut self,
        structure: &'static Structure,
        value: &'a Value,
        map: &'a Map<String, Value>,
        place: Option<(&'static str, &'static str)>,
        path: &Path,
    ) {
        if path.too_deep() {
            return;
        }
        let rules = RULES.get(structure.name);
        for constraint in rules.iter().flat_map(|rules| &rules.own) {
            self.hold(constraint, Node::structured(value, structure), path);
        }
        match structure.name {
            "Reference" => self.reference(map, path),
            "Period" => self.period(map, path),
            "Narrative" => self.narrative(map, path),
            "Bundle.entry" => {
                let full_url = map.get("fullUrl").and_then(Value::as_str).filter(|url| url.starts_with("http"));
                self.base = full_url.and_then(|url| url.rsplit_once('/')?.0.rsplit_once('/')).map(|(base, _)| base);
            }
            "Extension" if !map.contains_key("extension") && !map.keys().any(|key| key.trim_start_matches('_').starts_with("value")) => {
                self.wrong(IssueCode::Invariant, path, "ext-1: must have a value, or extensions of its own");
            }
            _ => {}
        }
        let extension = if structure.name == "Extension" { map.get("url").and_then(Value::as_str) } else { None };
        let owner = Owner { structure: Some(structure), element: place, primitive: None, extension };
        for (key, value) in map {
            let name = key.strip_prefix('_').unwrap_or(key);
            let Some((_, element, kind)) = structure.key(name) else { continue };
            let path = &path.member(element.name);
            if matches!(element.name, "extension" | "modifierExtension") && kind.name == "Extension" {
                self.extensions(value, owner, element.name == "modifierExtension", path);
            }
            let here = self.trail.len();
            self.trail.push('.');
            self.trail.push_str(element.name);
            let constraints = rules.and_then(|rules| rules.elements.iter().find(|(name, _)| *name == element.name));
            let constraints = constraints.map_or(&[][..], |(_, list)| list.as_slice());
            match value {
                Value::Array(list) => {
                    for (at, item) in list.iter().enumerate() {
                        self.item(structure, element, kind, key, item, constraints, &path.item(at));
                    }
                }
                value => self.item(structure, element, kind, key, value, constraints, path),
            }
            self.trail.truncate(here);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one item, and all that is known of the place where it stands")]
    fn item(
        &mut self,
        of: &'static Structure,
        element: &'static Element,
        kind: &'static ElementType,
        key: &str,
        value: &'a Value,
        constraints: &[Constraint],
        path: &Path,
    ) {
        let place = Some((of.name, element.name));
        match (kind.kind, value) {
            (ElementKind::Primitive(_), Value::Object(beside)) if key.starts_with('_') => {
                if let Some(extensions) = beside.get("extension") {
                    let owner = Owner { structure: None, element: place, primitive: Some(kind.name), extension: None };
                    self.extensions(extensions, owner, false, &path.member("extension"));
                    let here = self.trail.len();
                    self.trail.push_str(".extension");
                    for (at, one) in extensions.as_array().into_iter().flatten().enumerate() {
                        if let (Some(structure), Value::Object(map)) = (r4().structure("Extension"), one) {
                            self.object(structure, one, map, place, &path.member("extension").item(at));
                        }
                    }
                    self.trail.truncate(here);
                }
                return;
            }
            (ElementKind::Structure(at), Value::Object(map)) => {
                if let Some(structure) = r4().structure_at(at) {
                    self.object(structure, value, map, place, path);
                }
            }
            (ElementKind::Resource, Value::Object(_)) => self.inner(element, value, path),
            _ => {}
        }
        if !key.starts_with('_') && !value.is_null() {
            for constraint in constraints {
                let node = match kind.kind {
                    ElementKind::Structure(at) => r4().structure_at(at).map(|structure| Node::structured(value, structure)),
                    _ => None,
                };
                self.hold(constraint, node.unwrap_or_else(|| Node::typed(value, None, kind.name)), path);
            }
            if let Some(url) = element.extensible {
                self.extensible(url, element.extensible_set, value, path);
            }
        }
    }

    /// A resource in a resource.
    fn inner(&mut self, element: &Element, value: &'a Value, path: &Path) {
        let contained = element.name == "contained";
        let (root, standing) = if contained { (self.scope.resource, Standing::Contained) } else { (value, Standing::Carried) };
        let base = if contained { self.scope.base } else { self.base };
        let scope = Scope { resource: value, root, base, ..self.scope };
        resource(scope, standing, self.claims, path, self.report);
    }

    fn hold(&mut self, constraint: &Constraint, node: Node<'a>, path: &Path) {
        let verdict = self.scope.holds(constraint, node);
        report_verdict(self.report, self.scope, constraint, verdict, path, None);
    }

    fn extensible(&mut self, url: &str, listed: Option<usize>, value: &Value, path: &Path) {
        if !binding::is_coded(value) || value.get("coding").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            return;
        }
        let listed: Option<&CodeSet> = listed.and_then(|at| r4().code_set_at(at));
        // What cannot be told of a binding that may be extended is not worth a word.
        let has = if listed.is_some() { binding::has(&(), url, value) } else { binding::has(self.scope.world.codes, url, value) };
        if has == Some(false) {
            let words = || format!("should be a code of {url}, unless none of them fits");
            self.report.add(Severity::Warning, IssueCode::CodeInvalid, path, words);
        }
    }

    /// ref-1, and a `urn:` that names no entry of its Bundle.
    fn reference(&mut self, map: &Map<String, Value>, path: &Path) {
        let Some(text) = map.get("reference").and_then(Value::as_str) else { return };
        let path = path.member("reference");
        match Reference::parse(text) {
            Some(Reference::Contained(_)) if self.scope.resolve(text).is_none() => {
                self.wrong(IssueCode::Invariant, &path, "ref-1: must name a resource that is contained; add it, or mend the reference");
            }
            Some(Reference::Urn(_)) if self.scope.world.entries.is_some() && self.scope.resolve(text).is_none() => {
                self.warn(IssueCode::NotFound, &path, "is the fullUrl of no entry in the Bundle, and nothing else can resolve it");
            }
            _ => {}
        }
    }

    /// per-1, with dates as the spans that they are: a start within an end that is said less precisely is not after it.
    fn period(&mut self, map: &Map<String, Value>, path: &Path) {
        let edge = |key: &str| map.get(key).and_then(Value::as_str).and_then(|text| parse_interval(text, &TimeZone::UTC));
        if let (Some(start), Some(end)) = (edge("start"), edge("end"))
            && start.low >= end.high
        {
            self.wrong(IssueCode::Invariant, path, "per-1: start must not be after end");
        }
    }

    /// txt-2: there is something to read or to see.
    fn narrative(&mut self, map: &Map<String, Value>, path: &Path) {
        let Some(text) = map.get("div").and_then(Value::as_str) else { return };
        let mut scanner = Scanner::new(text.trim());
        loop {
            match scanner.step() {
                Ok(Some(Event::Text(text))) if !text.trim().is_empty() => return,
                Ok(Some(Event::Start { name: "img", .. })) => return,
                Ok(Some(_)) => {}
                Ok(None) => break,
                // What is not well formed is told as that.
                Err(_) => return,
            }
        }
        self.wrong(IssueCode::Invariant, &path.member("div"), "txt-2: must have some content: a text or an image");
    }

    /// dom-2, dom-4 and dom-5; that it contains none of its own is structure.
    fn contained(&mut self, map: &Map<String, Value>, path: &Path) {
        let meta = map.get("meta");
        let has = |key: &str| meta.is_some_and(|meta| meta.get(key).is_some());
        if has("versionId") || has("lastUpdated") {
            self.wrong(IssueCode::Invariant, path, "dom-4: a contained resource must have neither meta.versionId nor meta.lastUpdated");
        }
        if has("security") {
            self.wrong(IssueCode::Invariant, path, "dom-5: a contained resource must have no meta.security; put it on the container");
        }
    }

    /// dom-3: what is contained is referred to, or refers to its container.
    fn unused(&mut self, resource: &Value, path: &Path) {
        let mut named: HashSet<&str> = HashSet::new();
        for (key, value) in resource.as_object().into_iter().flatten() {
            let contained = if key == "contained" { value.as_array().map_or(&[][..], Vec::as_slice) } else { &[] };
            match key.as_str() {
                "contained" => contained.iter().for_each(|one| local_names(one, &mut named)),
                _ => local_names(value, &mut named),
            }
        }
        let mut ids: HashSet<&str> = HashSet::new();
        for (at, one) in items(resource, "contained").iter().enumerate() {
            let id = one.get("id").and_then(Value::as_str);
            if id.is_some_and(|id| !ids.insert(id)) {
                let words = "must be its own: two contained resources of one id cannot be told apart by #id";
                self.wrong(IssueCode::Duplicate, &path.member("contained").item(at).member("id"), words);
            }
            let used = id.is_some_and(|id| named.contains(id));
            let mut own = HashSet::new();
            local_names(one, &mut own);
            if !used && !own.contains("") {
                let words = "dom-3: nothing refers to this contained resource; refer to it by # and its id, or leave it out";
                self.wrong(IssueCode::Invariant, &path.member("contained").item(at), words);
            }
        }
    }

    fn extensions(&mut self, value: &'a Value, owner: Owner, modifier: bool, path: &Path) {
        for (at, one) in value.as_array().into_iter().flatten().enumerate() {
            if let Some(url) = one.get("url").and_then(Value::as_str) {
                self.extension(one, url, owner, modifier, &path.item(at));
            }
        }
    }

    fn extension(&mut self, value: &'a Value, url: &'a str, owner: Owner, modifier: bool, path: &Path) {
        if !url.contains(':') {
            if owner.extension.is_none() {
                self.wrong(
                    IssueCode::Structure,
                    &path.member("url"),
                    "must be an absolute URL; only extensions inside extensions have plain names",
                );
            }
            return;
        }
        match self.scope.world.profiles.profile(url) {
            None if modifier => {
                let words = "is a modifier that no loaded StructureDefinition explains, so the record may mean something else; load its definition, or send the record without it";
                self.wrong(IssueCode::NotSupported, path, words);
            }
            None => {
                if self.scope.world.told.first(url) {
                    let words = "is defined by no loaded StructureDefinition, so only its form was checked; load its package to check more. The same url is not mentioned again";
                    self.warn(IssueCode::NotSupported, path, words);
                }
            }
            Some(Err(error)) => self.inform(path, unusable(url, error)),
            Some(Ok(definition)) if definition.type_name() != "Extension" => {
                self.wrong(IssueCode::Value, &path.member("url"), "names a profile that is no extension's definition");
            }
            Some(Ok(definition)) => {
                let of = definition.contexts.as_slice();
                if !of.is_empty() && !of.iter().any(|(kind, expression)| owner.fits(&self.trail, kind, expression)) {
                    let places: Vec<&str> = of.iter().map(|(_, expression)| &**expression).collect();
                    let words = || format!("does not belong here: {} stands on {}", definition.url(), places.join(", "));
                    self.report.error(IssueCode::Structure, path, words);
                }
                profile::check(self.scope, definition, value, path, self.report);
            }
        }
    }

    fn claimed(&mut self, map: &'a Map<String, Value>, path: &Path) {
        let claims = map.get("meta").and_then(|meta| meta.get("profile")).and_then(Value::as_array);
        let meta = path.member("meta");
        let list = meta.member("profile");
        for (at, url) in claims.into_iter().flatten().enumerate() {
            let Some(url) = url.as_str() else { continue };
            let here = list.item(at);
            match (self.scope.world.profiles.profile(url), core_type(url)) {
                (Some(Ok(profile)), _) => profile::check(self.scope, profile, self.scope.resource, path, self.report),
                (Some(Err(error)), _) => self.warn(IssueCode::NotSupported, &here, &unusable(url, error)),
                // A type's own URL is met by what is valid.
                (None, Some(core)) => {
                    let type_name = map.get("resourceType").and_then(Value::as_str).unwrap_or_default();
                    if !is_of(type_name, core) {
                        self.wrong(IssueCode::Value, &here, OTHER_TYPE);
                    }
                }
                (None, None) => {
                    self.warn(IssueCode::NotFound, &here, "claims a profile that is not loaded, so it was not checked; load its package")
                }
            }
        }
    }

    fn wrong(&mut self, code: IssueCode, path: &Path, words: &str) {
        self.report.error(code, path, || words.into());
    }

    fn warn(&mut self, code: IssueCode, path: &Path, words: &str) {
        self.report.add(Severity::Warning, code, path, || words.into());
    }

    fn inform(&mut self, path: &Path, words: String) {
        if self.scope.world.told.first(&words) {
            self.report.add(Severity::Information, IssueCode::NotSupported, path, || words);
        }
    }
}

impl Owner<'_> {
    /// Whether this place, which a trail leads to, is one that a definition's context names
    /// (<https://hl7.org/fhir/R4/defining-extensions.html#context>).
    fn fits(&self, trail: &str, kind: &str, expression: &str) -> bool {
        if kind == "extension" {
            return self.extension == Some(expression);
        }
        if kind == "fhirpath" {
            // Where an expression leads is asked of the resource, whose profiles say it better.
            return true;
        }
        let is = |kind: StructureKind| self.structure.is_some_and(|structure| structure.kind == kind);
        match expression {
            "Element" | "Any" | "*" => true,
            "Resource" => is(StructureKind::Resource),
            "DomainResource" => is(StructureKind::Resource) && self.structure.is_some_and(|s| s.element("text").is_some()),
            "BackboneElement" => is(StructureKind::Backbone),
            // R4's own constraints on Quantity have names of their own.
            "Quantity" if self.structure.is_some_and(|s| matches!(s.name, "Age" | "Count" | "Distance" | "Duration")) => true,
            // Definitions name an element by the path from its resource or its type, and all elements of a type by its name.
            _ => {
                let Some(name) = element_path(expression) else { return true };
                trail == name
                    || self.structure.is_some_and(|structure| structure.name == name)
                    || self
                        .element
                        .is_some_and(|(of, element)| name.strip_prefix(of).and_then(|rest| rest.strip_prefix('.')) == Some(element))
                    || self.primitive == Some(&*name)
            }
        }
    }
}

/// The path that a context's element id means: without the definition's URL and the names of slices, a choice by its name alone. `None`
/// for a profile's URL, which names what the profile constrains.
fn element_path(id: &str) -> Option<Cow<'_, str>> {
    let id = id.rsplit_once('#').map_or(id, |(_, id)| id);
    let id = id.strip_prefix(CORE).unwrap_or(id);
    match id {
        _ if id.contains("://") => None,
        _ if !id.contains([':', '[']) => Some(Cow::Borrowed(id)),
        _ => {
            let names = id.split('.').map(|part| part.split([':', '[']).next().unwrap_or_default());
            Some(Cow::Owned(names.collect::<Vec<_>>().join(".")))
        }
    }
}

/// The ids that `value` refers to by `#id`, "" for its container.
fn local_names<'v>(value: &'v Value, named: &mut HashSet<&'v str>) {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::String(text) => named.extend(text.strip_prefix('#')),
            Value::Array(list) => open.extend(list),
            Value::Object(map) => open.extend(map.values()),
            _ => {}
        }
    }
}
