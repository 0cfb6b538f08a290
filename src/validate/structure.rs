//! A resource against R4's own structures (<https://hl7.org/fhir/R4/json.html>).

use super::primitive;
use super::report::{Path, Report};
use super::scope::Entries;
use crate::definitions::{CodeSet, Definitions, Element, ElementKind, Primitive, Structure, StructureKind, TypeCode, r4};
use crate::fhir::{Issue, IssueCode, Reference, Severity, narrative};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Every structural problem of a resource, the resources inside it included; empty when there is none. Only errors make it
/// unacceptable: elements that R4 does not have, wrong JSON types, cardinality, several types of one choice, formats of
/// primitives, empty values, codes of required bindings, types of targets that a reference names or that are in the resource.
pub fn structure(resource: &Value) -> Vec<Issue> {
    let mut report = Report::default();
    check(resource, None, &mut report);
    report.finish()
}

/// [`structure`], added to what is told already. `base`: the server's own URL, below which references are local.
pub(super) fn check(resource: &Value, base: Option<&str>, report: &mut Report) {
    Walk { definitions: r4(), report, base, container: Rc::default(), bundle: Rc::default() }.resource(
        resource,
        &Path::root(root_name(resource)),
        false,
    );
}

/// What the path of a resource's own problems begins with.
pub(super) fn root_name(resource: &Value) -> &str {
    let name = resource.get("resourceType").and_then(Value::as_str);
    name.filter(|name| r4().type_code(name).is_some()).unwrap_or("Resource")
}

/// More than [`json::MAX_DEPTH`](crate::fhir::json::MAX_DEPTH) levels.
pub(super) const TOO_DEEP: &str = "is nested too deeply";

struct Walk<'v, 'r> {
    definitions: &'static Definitions,
    report: &'r mut Report,
    base: Option<&'r str>,
    /// The resource around here that is in no other but an entry or a parameter: what `#` and `#id` start from.
    container: Rc<Container<'v>>,
    /// The Bundle around that.
    bundle: Rc<Around<'v>>,
}

/// A resource, and the types of what it contains, by id, once a reference asks.
#[derive(Default)]
struct Container<'v> {
    resource: Option<&'v Value>,
    contained: OnceCell<HashMap<&'v str, &'v Value>>,
}

impl<'v> Container<'v> {
    fn find(&self, id: &str) -> Option<&'v Value> {
        let resource = self.resource?;
        if id.is_empty() {
            return Some(resource);
        }
        let contained = self.contained.get_or_init(|| {
            let list = resource.get("contained").and_then(Value::as_array);
            // The first of an id, as references are resolved elsewhere.
            let with_id = list.into_iter().flatten().rev().filter_map(|one| Some((one.get("id")?.as_str()?, one)));
            with_id.collect()
        });
        contained.get(id).copied()
    }
}

/// A Bundle, and its entries by fullUrl, once a reference asks.
#[derive(Default)]
struct Around<'v> {
    bundle: Option<&'v Value>,
    entries: OnceCell<Entries<'v>>,
}

impl<'v> Around<'v> {
    fn find(&self, url: &str) -> Option<&'v Value> {
        let bundle = self.bundle?;
        self.entries.get_or_init(|| Entries::of(bundle)).find(url, None)
    }
}

impl<'v> Walk<'v, '_> {
    fn resource(&mut self, value: &'v Value, path: &Path, contained: bool) {
        let Value::Object(map) = value else {
            return self.wrong(path, "must be a resource: a JSON object");
        };
        let structure = match map.get("resourceType") {
            None => return self.wrong(path, "resourceType is missing; it must name a FHIR R4 resource type"),
            Some(name) => name.as_str().and_then(|name| self.definitions.structure(name)).filter(|s| s.kind == StructureKind::Resource),
        };
        let Some(structure) = structure else {
            return self.wrong(path, "resourceType names no FHIR R4 resource type");
        };
        if contained && map.contains_key("contained") {
            self.wrong(&path.member("contained"), "a contained resource must not contain others");
        }
        if contained {
            return self.object(structure, map, path);
        }
        let container = Rc::new(Container { resource: Some(value), contained: OnceCell::new() });
        let bundle = match structure.name {
            "Bundle" => Rc::new(Around { bundle: Some(value), entries: OnceCell::new() }),
            _ => self.bundle.clone(),
        };
        let before = (std::mem::replace(&mut self.container, container), std::mem::replace(&mut self.bundle, bundle));
        self.object(structure, map, path);
        (self.container, self.bundle) = before;
    }

    fn object(&mut self, structure: &'static Structure, map: &'v Map<String, Value>, path: &Path) {
        // Not every caller's JSON comes from the parser, which guards against this too.
        if path.too_deep() {
            return self.report.error(IssueCode::TooLong, path, || TOO_DEEP.into());
        }
        if map.keys().all(|key| key == "id") && structure.kind != StructureKind::Resource {
            return self.wrong(path, "must not be an empty object; give it content or leave it out");
        }
        let (mut seen, mut told) = (0u64, 0u64);
        for (key, value) in map {
            let name = key.strip_prefix('_').unwrap_or(key);
            let Some((at, element, kind)) = structure.key(name) else {
                if !(key == "resourceType" && structure.kind == StructureKind::Resource) {
                    self.unknown(structure, key, path);
                }
                continue;
            };
            let path = &path.member(element.name);
            if element.choice && seen & bit(at) != 0 && told & bit(at) == 0 && other_type_given(element, name, map) {
                told |= bit(at);
                self.wrong(path, "is given with more than one type; keep one");
            }
            seen |= bit(at);
            match (key.starts_with('_'), kind.kind) {
                (false, kind) => self.member(element, kind, key, value, map, path),
                (true, ElementKind::Primitive(primitive)) if primitive == Primitive::Xhtml || structure.is_attribute(name) => {
                    self.wrong(path, "must not have a second member with _ before its name; it has no extensions")
                }
                (true, ElementKind::Primitive(_)) => self.sibling(element, value, map.get(name), path),
                (true, _) => self.wrong(path, "must not have a second member with _ before its name; only primitive elements do"),
            }
        }
        for (at, element) in structure.elements.iter().enumerate() {
            if element.min > 0 && seen & bit(at) == 0 {
                self.report.error(IssueCode::Required, &path.member(element.name), || "is required and missing".into());
            }
        }
        if structure.name == "Extension"
            && map.contains_key("extension")
            && map.keys().any(|key| key.trim_start_matches('_').starts_with("value"))
        {
            self.report.error(IssueCode::Invariant, path, || "must have either a value or extensions of its own, not both".into());
        }
    }

    /// What stands under an element's own key.
    fn member(&mut self, element: &'static Element, kind: ElementKind, key: &str, value: &'v Value, map: &Map<String, Value>, path: &Path) {
        match (value, element.is_list()) {
            (Value::Null, _) => self.wrong(path, "must not be null; leave the element out"),
            (Value::Array(items), true) if items.is_empty() => self.wrong(path, "must not be an empty array; leave the element out"),
            (Value::Array(items), true) => {
                for (at, item) in items.iter().enumerate() {
                    let path = path.item(at);
                    match item {
                        Value::Null if !matches!(kind, ElementKind::Primitive(_)) => self.wrong(&path, "must not be null"),
                        Value::Null if !has_sibling(map, key, at) => self.wrong(
                            &path,
                            "must not be null, unless the array of the same name with _ before it has an object at this place",
                        ),
                        Value::Null => {}
                        item => self.item(element, kind, item, &path),
                    }
                }
                if element.max.is_some_and(|max| items.len() > max as usize) {
                    self.wrong(path, "has too many items");
                }
            }
            (_, true) => self.wrong(path, "must be an array, because it may repeat"),
            (Value::Array(_), false) => self.wrong(path, "must be a single value, not an array"),
            (value, false) => self.item(element, kind, value, path),
        }
    }

    fn item(&mut self, element: &'static Element, kind: ElementKind, value: &'v Value, path: &Path) {
        match kind {
            ElementKind::Resource => self.resource(value, path, element.name == "contained"),
            ElementKind::Primitive(primitive) => match primitive::check(primitive, value) {
                Err((code, words)) => self.report.error(code, path, || words.into()),
                Ok(()) => {
                    if let (Primitive::Code, Some(codes), Some(code)) = (primitive, self.codes(element), value.as_str())
                        && !codes.contains_code(code)
                    {
                        self.report.error(IssueCode::CodeInvalid, path, || format!("must be {}", choices(codes)));
                    }
                    if let (Some(binding), Some(code)) = (element.binding.filter(|_| primitive == Primitive::Code), value.as_str())
                        && let Some(words) = ill_formed(binding, code)
                    {
                        self.report.error(IssueCode::CodeInvalid, path, || words.into());
                    }
                    if primitive == Primitive::Xhtml && value.as_str().is_some_and(narrative::has_html_entities) {
                        let words = "has named entities of HTML, which R4 does not have; it is stored with the characters that they mean";
                        self.report.add(Severity::Warning, IssueCode::Value, path, || words.into());
                    }
                }
            },
            ElementKind::Structure(place) => {
                let Some(structure) = self.definitions.structure_at(place) else { return };
                let Value::Object(map) = value else {
                    return self.wrong(path, "must be a JSON object");
                };
                self.object(structure, map, path);
                match structure.name {
                    "Reference" => self.target(element, map, path),
                    "CodeableConcept" => self.concept(element, map, path),
                    _ => {}
                }
            }
        }
    }

    /// What stands under the key that begins with `_`: ids and extensions of primitives, aligned with the values.
    fn sibling(&mut self, element: &Element, value: &'v Value, values: Option<&Value>, path: &Path) {
        match (value, element.is_list()) {
            (Value::Array(items), true) => {
                let count = values.and_then(Value::as_array).map_or(items.len(), Vec::len);
                if count != items.len() {
                    self.wrong(
                        path,
                        "must have as many items in the array with _ before its name as in the one without; fill up with null",
                    );
                }
                if items.iter().all(Value::is_null) {
                    self.wrong(path, "must have an object in the array with _ before its name, or leave that array out");
                }
                for (at, item) in items.iter().enumerate().filter(|(_, item)| !item.is_null()) {
                    let value = values.and_then(|values| values.get(at));
                    self.primitive_extensions(item, value, &path.item(at));
                }
            }
            (_, true) => self.wrong(path, "must have an array also in the member with _ before its name"),
            (value, false) => self.primitive_extensions(value, values, path),
        }
    }

    /// `of`: the value that it stands beside.
    fn primitive_extensions(&mut self, value: &'v Value, of: Option<&Value>, path: &Path) {
        match (value, self.definitions.structure("Element")) {
            (Value::Object(map), _) if map.is_empty() => {
                self.wrong(path, "must not have an empty object in the member with _ before its name")
            }
            // An id alone is content where a value stands beside it (ele-1).
            (Value::Object(map), _) if map.len() == 1 && map.get("id").is_some_and(Value::is_string) => {
                if of.is_none_or(Value::is_null) {
                    self.wrong(path, "must have a value or an extension, not an id alone");
                }
            }
            (Value::Object(map), Some(structure)) => self.object(structure, map, path),
            _ => self.wrong(path, "must have an object with id or extension in the member with _ before its name"),
        }
    }

    /// What a reference leads to must be of a type that the element allows, and so must be the type that is said of it: of both the same
    /// (<https://hl7.org/fhir/R4/references.html#Reference>).
    fn target(&mut self, element: &Element, map: &Map<String, Value>, path: &Path) {
        let text = map.get("reference").and_then(Value::as_str).filter(|text| !text.is_empty());
        let local = |text| self.base.and_then(|base| Reference::parse_at(text, base));
        let reference = text.map(|text| local(text).or_else(|| Reference::parse(text)));
        let target = match reference {
            Some(Some(Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. })) => Some(type_name),
            Some(Some(Reference::Contained(id))) => self.container.find(id).and_then(type_of),
            Some(Some(Reference::Urn(url) | Reference::Absolute(url))) => self.bundle.find(url).and_then(type_of),
            Some(None) | None => None,
        };
        // The URL of another server's resource says its type, but nobody asks that it be one of the element's.
        let named = target.or_else(|| reference.clone().flatten().and_then(|reference| reference.type_name()));
        self.said_type(element, map, named, path);
        let path = &path.member("reference");
        match (reference, target) {
            (None, _) => {}
            (Some(None), _) => {
                let words = "is no reference that can be followed; write Type/id, #id, urn:uuid:… or an absolute URL";
                self.report.error(IssueCode::Value, path, || words.into());
            }
            (Some(Some(reference)), Some(type_name)) => match self.definitions.type_code(type_name) {
                None if reference.type_name().is_none() => {}
                None => self.report.error(IssueCode::Value, path, || "names no FHIR R4 resource type".into()),
                Some(code) if element.targets.is_empty() || element.targets.contains(&code) => {}
                Some(_) => {
                    self.report.error(IssueCode::Value, path, || format!("must refer to {}", type_names(&element.targets)));
                }
            },
            (Some(Some(_)), None) => {}
        }
    }

    /// `Reference.type` (<https://hl7.org/fhir/R4/references-definitions.html#Reference.type>) beside a reference to `target`, if
    /// that is known. A logical model's is not judged.
    fn said_type(&mut self, element: &Element, map: &Map<String, Value>, target: Option<&str>, path: &Path) {
        const DEFINITION: &str = "http://hl7.org/fhir/StructureDefinition/";
        let Some(said) = map.get("type").and_then(Value::as_str) else { return };
        let said = said.strip_prefix(DEFINITION).unwrap_or(said);
        if said.contains(':') || matches!(said, "Resource" | "DomainResource") {
            return;
        }
        let path = &path.member("type");
        match (target.filter(|name| self.definitions.type_code(name).is_some()), self.definitions.type_code(said)) {
            (Some(target), _) if target != said => {
                let words = "names another type than reference; say the same, or leave it out";
                self.report.error(IssueCode::Value, path, || words.into());
            }
            // What the reference itself says is judged there.
            (None, Some(code)) if !element.targets.is_empty() && !element.targets.contains(&code) => {
                self.report.error(IssueCode::Value, path, || format!("must be {}", type_names(&element.targets)));
            }
            _ => {}
        }
    }

    /// With a required binding some coding must be of the value set.
    fn concept(&mut self, element: &Element, map: &Map<String, Value>, path: &Path) {
        let Some(codes) = self.codes(element) else { return };
        let codings = map.get("coding").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let bound =
            codings.iter().any(|coding| match (coding.get("system").and_then(Value::as_str), coding.get("code").and_then(Value::as_str)) {
                (Some(system), Some(code)) => codes.contains(system, code),
                _ => false,
            });
        let said_otherwise = codings.is_empty() && map.contains_key("extension");
        if !bound && !said_otherwise {
            self.report.error(IssueCode::CodeInvalid, path, || {
                let systems: Vec<&str> = codes.groups().iter().map(|group| group.system).collect();
                format!("must have a coding with system {} whose code is {}", systems.join(" or "), choices(codes))
            });
        }
    }

    fn codes(&self, element: &Element) -> Option<&'static CodeSet> {
        self.definitions.code_set_at(element.code_set?)
    }

    /// A key may be anything, even a patient's name in the wrong place: only what looks like an element's name is repeated.
    fn unknown(&mut self, structure: &Structure, key: &str, path: &Path) {
        let name = key.strip_prefix('_').unwrap_or(key);
        if name.len() > 64 || !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return self.wrong(path, "has a member that is no element of FHIR R4");
        }
        self.report.error(IssueCode::Structure, &path.member(key), || match meant(structure, name) {
            Some(meant) => format!("is no element of {} in FHIR R4; is {meant} meant?", structure.name),
            None => format!("is no element of {} in FHIR R4; check its spelling and its place", structure.name),
        });
    }

    fn wrong(&mut self, path: &Path, words: &'static str) {
        self.report.error(IssueCode::Structure, path, || words.into());
    }
}

/// Two value sets of required bindings are lists that others keep: their codes are told by their form.
fn ill_formed(value_set: &str, code: &str) -> Option<&'static str> {
    match value_set {
        "http://hl7.org/fhir/ValueSet/currencies" => {
            let is_code = code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
            (!is_code).then_some("must be a currency of ISO 4217: three capital letters")
        }
        "http://hl7.org/fhir/ValueSet/mimetypes" => {
            let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b));
            let (essence, _) = code.split_once(';').unwrap_or((code, ""));
            let is_type = essence.trim().split_once('/').is_some_and(|(kind, name)| is_name(kind) && is_name(name));
            // R4 itself says the forms of resources so (<https://hl7.org/fhir/R4/http.html#parameters>).
            let is_short = matches!(code, "xml" | "json" | "ttl");
            (!is_type && !is_short).then_some("must be a media type, as application/pdf")
        }
        _ => None,
    }
}

fn type_of(resource: &Value) -> Option<&str> {
    resource.get("resourceType").and_then(Value::as_str)
}

/// No structure has more than 64 elements.
fn bit(place: usize) -> u64 {
    u32::try_from(place).ok().and_then(|place| 1u64.checked_shl(place)).unwrap_or(0)
}

/// Whether the same choice has another type too.
fn other_type_given(element: &Element, own: &str, map: &Map<String, Value>) -> bool {
    let keys = element.types.iter().map(|kind| element.json_key(kind));
    keys.filter(|key| key != own).any(|key| map.contains_key(&*key) || map.contains_key(&format!("_{key}")))
}

/// The names of these types in words.
fn type_names(types: &[TypeCode]) -> String {
    types.iter().map(|code| r4().type_name(*code)).collect::<Vec<_>>().join(" or ")
}

/// The codes of a set in words, as far as they are few.
fn choices(codes: &CodeSet) -> String {
    let all: Vec<&str> = codes.groups().iter().flat_map(|group| group.codes.iter().copied()).collect();
    match all.len() <= 12 {
        true => format!("one of {} ({})", all.join(", "), codes.url),
        false => format!("one of the {} codes of {}", all.len(), codes.url),
    }
}

/// The element that someone who wrote `name` may have meant: the same in other letters, a choice without its type, one slip.
fn meant(structure: &Structure, name: &str) -> Option<String> {
    if let Some(element) = structure.element(name).filter(|element| element.choice) {
        let keys: Vec<_> = element.types.iter().take(3).map(|kind| element.json_key(kind)).collect();
        return Some(keys.join(" or "));
    }
    let mut keys = structure.elements.iter().flat_map(|element| element.types.iter().map(|kind| element.json_key(kind)));
    keys.find(|key| is_one_slip(key.as_bytes(), name.as_bytes())).map(Cow::into_owned)
}

/// Whether two names differ by at most one letter, or two swapped ones, apart from case.
fn is_one_slip(a: &[u8], b: &[u8]) -> bool {
    let start = a.iter().zip(b).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    let (a, b) = (a.get(start..).unwrap_or_default(), b.get(start..).unwrap_or_default());
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    match (a.get(..a.len().saturating_sub(end)), b.get(..b.len().saturating_sub(end))) {
        (Some([a, b]), Some([c, d])) => a.eq_ignore_ascii_case(d) && b.eq_ignore_ascii_case(c),
        (Some(a), Some(b)) => a.len() <= 1 && b.len() <= 1,
        _ => false,
    }
}

fn has_sibling(map: &Map<String, Value>, key: &str, at: usize) -> bool {
    map.get(&format!("_{key}")).and_then(|siblings| siblings.get(at)).is_some_and(Value::is_object)
}
