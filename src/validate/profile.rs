//! A resource against a profile (<https://hl7.org/fhir/R4/profiling.html>), read from the differential of its StructureDefinition.
//!
//! Slices are passed over: an element with a slice name, and all that is under it, asks nothing.

use super::report::{Path, Report};
use super::structure::type_names;
use crate::definitions::{CodeSet, Element, ElementType, Structure, StructureKind, TypeCode, r4};
use crate::fhir::{Issue, IssueCode, Reference, Severity, decimal};
use crate::fhirpath::{Env, Expression, Node};
use serde_json::{Map, Value};

/// Canonical URLs of R4's own types begin so.
const CORE: &str = "http://hl7.org/fhir/StructureDefinition/";
/// Deeper than any element of R4.
const MAX_STEPS: usize = 32;

/// Why a StructureDefinition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("a profile must be a StructureDefinition with url, type and differential, of kind resource and derivation constraint")]
    NotAProfile,
    #[error("StructureDefinition.type names no FHIR R4 resource type")]
    UnknownType,
    #[error("differential.element[{0}] has no path that FHIR R4 knows below the profile's type")]
    UnknownElement(usize),
    #[error("differential.element[{0}] has a min or max that is no number")]
    Cardinality(usize),
    #[error("differential.element[{element}] has a constraint that is no FHIRPath: {problem}")]
    Constraint { element: usize, problem: String },
}

/// What one profile asks of resources of its type.
#[derive(Debug)]
pub struct Profile {
    url: String,
    structure: &'static Structure,
    root: Rule,
}

/// What a profile asks of one element; the rules for what is in it hang below.
#[derive(Debug, Default)]
struct Rule {
    /// Without `[x]`.
    name: String,
    min: usize,
    max: Option<usize>,
    /// Allowed types; empty: those of R4.
    types: Vec<String>,
    /// Allowed types of a reference's target; empty: those of R4.
    targets: Vec<TypeCode>,
    fixed: Option<Value>,
    pattern: Option<Value>,
    binding: Option<&'static CodeSet>,
    constraints: Vec<Constraint>,
    children: Vec<Rule>,
}

#[derive(Debug)]
struct Constraint {
    severity: Severity,
    words: String,
    expression: Expression,
}

impl Profile {
    /// Reads a profile on a resource type. Required bindings to value sets that [`crate::definitions`] does not list ask nothing.
    pub fn from_structure_definition(definition: &Value) -> Result<Profile, ProfileError> {
        let text = |key: &str| definition.get(key).and_then(Value::as_str);
        let is_profile = text("resourceType") == Some("StructureDefinition") && text("derivation") == Some("constraint");
        let elements = definition.pointer("/differential/element").and_then(Value::as_array);
        let (Some(url), Some(type_name), Some(elements), true) = (text("url"), text("type"), elements, is_profile) else {
            return Err(ProfileError::NotAProfile);
        };
        let structure = r4().structure(type_name).filter(|s| s.kind == StructureKind::Resource).ok_or(ProfileError::UnknownType)?;
        let mut root = Rule { name: type_name.to_owned(), ..Rule::default() };
        let mut sliced: Option<&str> = None;
        for (at, element) in elements.iter().enumerate() {
            let path = element.get("path").and_then(Value::as_str).ok_or(ProfileError::UnknownElement(at))?;
            let in_slice = sliced.is_some_and(|slice| path.strip_prefix(slice).is_some_and(|rest| rest.starts_with('.')));
            let named = element.get("id").and_then(Value::as_str).is_some_and(|id| id.contains(':'));
            if named || in_slice || element.get("sliceName").is_some() {
                sliced = if in_slice { sliced } else { Some(path) };
                continue;
            }
            sliced = None;
            let mut steps = path.split('.');
            if steps.next() != Some(type_name) || path.split('.').count() > MAX_STEPS {
                return Err(ProfileError::UnknownElement(at));
            }
            let rule = place(&mut root, Some(structure), steps).ok_or(ProfileError::UnknownElement(at))?;
            rule.read(element, at)?;
        }
        Ok(Profile { url: url.to_owned(), structure, root })
    }

    /// The canonical URL that `meta.profile` claims, without version.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The resource type that the profile is about.
    pub fn resource_type(&self) -> &'static str {
        self.structure.name
    }
}

/// The rule at the end of these steps, made with those on the way. `None` where R4 has no such element.
fn place<'r, 's>(
    mut rule: &'r mut Rule,
    mut structure: Option<&'static Structure>,
    steps: impl Iterator<Item = &'s str>,
) -> Option<&'r mut Rule> {
    for step in steps {
        let (name, choice) = step.strip_suffix("[x]").map_or((step, false), |name| (name, true));
        // What is inside a choice of several types is not known until there is a value.
        let mut inside = None;
        if let Some(structure) = structure {
            let element = structure.element(name).filter(|element| element.choice == choice)?;
            inside = Some(element);
        }
        let known = rule.children.iter().position(|child| child.name == name);
        let at = known.unwrap_or_else(|| {
            rule.children.push(Rule { name: name.to_owned(), ..Rule::default() });
            rule.children.len() - 1
        });
        rule = rule.children.get_mut(at)?;
        structure = match (inside.map(|element| element.types.as_slice()), rule.types.as_slice()) {
            (_, [only]) => r4().structure(only),
            (Some([only]), _) => r4().structure(only.name),
            _ => None,
        };
    }
    Some(rule)
}

impl Rule {
    fn read(&mut self, element: &Value, at: usize) -> Result<(), ProfileError> {
        if let Some(min) = element.get("min") {
            self.min = min.as_u64().and_then(|min| usize::try_from(min).ok()).ok_or(ProfileError::Cardinality(at))?;
        }
        self.max = match element.get("max").map(|max| max.as_str().unwrap_or_default()) {
            None | Some("*") => self.max,
            Some(max) => Some(max.parse().map_err(|_| ProfileError::Cardinality(at))?),
        };
        for kind in items(element, "type") {
            self.types.extend(kind.get("code").and_then(Value::as_str).map(str::to_owned));
            let targets = items(kind, "targetProfile").iter().filter_map(Value::as_str);
            self.targets.extend(targets.filter_map(|url| r4().type_code(url.strip_prefix(CORE)?)));
        }
        for (key, value) in element.as_object().into_iter().flatten() {
            if key.starts_with("fixed") {
                self.fixed = Some(value.clone());
            } else if key.starts_with("pattern") {
                self.pattern = Some(value.clone());
            }
        }
        if let Some(binding) = element.get("binding").filter(|b| b.get("strength").and_then(Value::as_str) == Some("required")) {
            self.binding = binding.get("valueSet").and_then(Value::as_str).and_then(|url| r4().code_set(url));
        }
        for constraint in items(element, "constraint") {
            let text = |key: &str| constraint.get(key).and_then(Value::as_str).unwrap_or_default();
            let expression = Expression::parse(text("expression"))
                .map_err(|error| ProfileError::Constraint { element: at, problem: error.to_string() })?;
            let severity = if text("severity") == "warning" { Severity::Warning } else { Severity::Error };
            self.constraints.push(Constraint { severity, words: format!("{}: {}", text("key"), text("human")), expression });
        }
        Ok(())
    }
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Every problem of a resource against one profile; empty when it meets it. What R4 itself asks is [`super::structure`]'s.
pub fn profile(resource: &Value, profile: &Profile) -> Vec<Issue> {
    let mut report = Report::default();
    let path = Path::root(profile.resource_type());
    let env = Env::default().with_resource(resource);
    let mut check = Check { profile, env, report: &mut report };
    match resource.as_object() {
        Some(map) if map.get("resourceType").and_then(Value::as_str) == Some(profile.resource_type()) => {
            check.constraints(&profile.root, Node::root(resource), &path);
            check.members(&profile.root, Some(profile.structure), map, &path);
        }
        _ => check.say(IssueCode::Structure, &path, || format!("must be a {}", profile.resource_type())),
    }
    report.finish()
}

struct Check<'a, 'r> {
    profile: &'a Profile,
    env: Env<'a>,
    report: &'r mut Report,
}

/// One key of an object that a rule is about.
struct Found<'a> {
    kind: Option<&'static ElementType>,
    value: Option<&'a Value>,
    /// Under the same name with `_` before it.
    sibling: Option<&'a Value>,
}

impl<'a> Check<'a, '_> {
    fn members(&mut self, rule: &Rule, structure: Option<&'static Structure>, map: &'a Map<String, Value>, path: &Path) {
        for child in &rule.children {
            let path = path.member(&child.name);
            let element = structure.and_then(|structure| structure.element(&child.name));
            let mut count = 0usize;
            for found in find(child, structure, element, map) {
                count = count.saturating_add(self.found(child, &found, &path));
            }
            if count < child.min {
                let words = if count == 0 { "is required and missing" } else { "has too few items" };
                self.say(IssueCode::Required, &path, || words.into());
            }
            if child.max.is_some_and(|max| count > max) {
                let words = if child.max == Some(0) { "must not be given" } else { "has too many items" };
                self.say(IssueCode::Structure, &path, || words.into());
            }
        }
    }

    /// Looks at each item under a key; answers how many there are.
    fn found(&mut self, rule: &Rule, found: &Found<'a>, path: &Path) -> usize {
        if let Some(kind) = found.kind.filter(|kind| !rule.types.is_empty() && !rule.types.iter().any(|t| t == kind.name)) {
            self.say(IssueCode::Structure, path, || format!("must not be of type {}, but {}", kind.name, rule.types.join(" or ")));
        }
        match (found.value, found.sibling) {
            (Some(Value::Array(values)), sibling) => {
                for (at, value) in values.iter().enumerate() {
                    let sibling = sibling.and_then(|list| list.get(at)).filter(|item| !item.is_null());
                    self.item(rule, found.kind, value, sibling, &path.item(at));
                }
                values.len()
            }
            (Some(value), sibling) => {
                self.item(rule, found.kind, value, sibling, path);
                1
            }
            (None, Some(Value::Array(siblings))) => siblings.len(),
            (None, sibling) => usize::from(sibling.is_some()),
        }
    }

    fn item(&mut self, rule: &Rule, kind: Option<&'static ElementType>, value: &'a Value, sibling: Option<&'a Value>, path: &Path) {
        if rule.fixed.as_ref().is_some_and(|fixed| !same(fixed, value)) {
            self.say(IssueCode::Value, path, || "must be exactly the value that is fixed".into());
        }
        if rule.pattern.as_ref().is_some_and(|pattern| !matches(pattern, value)) {
            self.say(IssueCode::Value, path, || "must have what the pattern asks for".into());
        }
        if let Some(codes) = rule.binding.filter(|codes| !bound(codes, value)) {
            self.say(IssueCode::CodeInvalid, path, || format!("must be a code of {}", codes.url));
        }
        if let Some(Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. }) =
            value.get("reference").filter(|_| !rule.targets.is_empty()).and_then(Value::as_str).and_then(Reference::parse)
            && !r4().type_code(type_name).is_some_and(|code| rule.targets.contains(&code))
        {
            self.say(IssueCode::Value, &path.member("reference"), || format!("must refer to {}", type_names(&rule.targets)));
        }
        if let Some(kind) = kind {
            self.constraints(rule, Node::typed(value, sibling, kind.name), path);
        }
        if let Value::Object(map) = value {
            self.members(rule, kind.and_then(|kind| r4().structure(kind.name)), map, path);
        }
    }

    fn constraints(&mut self, rule: &Rule, node: Node<'a>, path: &Path) {
        for constraint in &rule.constraints {
            match constraint.expression.is_true(node.clone(), &self.env) {
                Ok(Some(true)) => {}
                // Nothing is as good as no: an invariant must hold.
                Ok(_) => {
                    let words = || format!("{} (profile {})", constraint.words, self.profile.url);
                    self.report.add(constraint.severity, IssueCode::Invariant, path, words);
                }
                Err(error) => {
                    let words = || format!("cannot be held against {}: {error} (profile {})", constraint.words, self.profile.url);
                    self.report.add(Severity::Warning, IssueCode::Processing, path, words);
                }
            }
        }
    }

    fn say(&mut self, code: IssueCode, path: &Path, words: impl FnOnce() -> String) {
        let url = &self.profile.url;
        self.report.error(code, path, || format!("{} (profile {url})", words()));
    }
}

/// The keys of an object that hold a rule's element.
fn find<'a>(
    rule: &Rule,
    structure: Option<&'static Structure>,
    element: Option<&'static Element>,
    map: &'a Map<String, Value>,
) -> Vec<Found<'a>> {
    let found = |key: &str, kind| Found { kind, value: map.get(key), sibling: map.get(&format!("_{key}")) };
    let all = match (structure, element) {
        (Some(structure), Some(element)) if element.choice => {
            let mut kinds: Vec<(&str, &'static ElementType)> = Vec::new();
            for key in map.keys() {
                let key = key.strip_prefix('_').unwrap_or(key);
                if let Some((_, other, kind)) = structure.key(key)
                    && other.name == element.name
                    && !kinds.iter().any(|(seen, _)| *seen == key)
                {
                    kinds.push((key, kind));
                }
            }
            kinds.into_iter().map(|(key, kind)| found(key, Some(kind))).collect()
        }
        (_, element) => vec![found(&rule.name, element.and_then(|element| element.types.first()))],
    };
    all.into_iter().filter(|found| found.value.is_some() || found.sibling.is_some()).collect()
}

/// Whether a code, Coding or CodeableConcept is of the set.
fn bound(codes: &CodeSet, value: &Value) -> bool {
    let coding = |coding: &Value| match (coding.get("system").and_then(Value::as_str), coding.get("code").and_then(Value::as_str)) {
        (Some(system), Some(code)) => codes.contains(system, code),
        _ => false,
    };
    match value {
        Value::String(code) => codes.contains_code(code),
        Value::Object(map) if map.contains_key("coding") => items(value, "coding").iter().any(coding),
        _ => coding(value),
    }
}

/// Equal, numbers by value: `1.0` is `1.00`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (decimal::parse(&a.to_string()), decimal::parse(&b.to_string())) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b))),
        (a, b) => a == b,
    }
}

/// Whether `value` has at least what `pattern` has; an item of a pattern's array may be anywhere in the value's.
fn matches(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => pattern.iter().all(|(key, p)| value.get(key).is_some_and(|v| matches(p, v))),
        (Value::Array(pattern), Value::Array(value)) => pattern.iter().all(|p| value.iter().any(|v| matches(p, v))),
        (pattern, value) => same(pattern, value),
    }
}
