//! A profile compiled for checking: the differentials of its base chain, laid over one another in one arena of rules.
//!
//! What R4 itself asks is not repeated here, because every resource is held against R4 first; so the rules of a profile are its
//! snapshot without what the snapshot inherits from R4. The base comes first and what is derived from it afterwards, each
//! element at the place that its path and slice names say. A content reference (`Questionnaire.item.item`) points back at the
//! rule of what it refers to.

use super::scope::Constraint;
use crate::definitions::{Element, ElementType, Structure, StructureKind, r4};
use crate::fhir::Severity;
use crate::fhirpath::Expression;
use serde_json::Value;
use std::collections::HashMap;

/// Canonical URLs of R4's own types begin so.
pub(super) const CORE: &str = "http://hl7.org/fhir/StructureDefinition/";
/// Deeper than any element of R4.
const MAX_STEPS: usize = 32;
/// Profiles upon profiles.
const MAX_BASES: usize = 16;
/// Names the value set that codes must be of even where a binding may be extended.
const MAX_VALUE_SET: &str = "http://hl7.org/fhir/StructureDefinition/elementdefinition-maxValueSet";
/// Elements of one chain of profiles.
const MAX_RULES: usize = 20_000;

/// Why a StructureDefinition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("a profile must be a StructureDefinition with url, type and differential, and derivation constraint")]
    NotAProfile,
    #[error("StructureDefinition.type names no FHIR R4 resource type or complex datatype")]
    UnknownType,
    #[error("StructureDefinition.baseDefinition names a profile that is not loaded: load {0} too")]
    UnknownBase(String),
    #[error("StructureDefinition.baseDefinition leads back to itself, or through more than {MAX_BASES} profiles")]
    BaseChain,
    #[error("differential.element[{0}] has no path that FHIR R4 knows below the profile's type")]
    UnknownElement(usize),
    #[error("differential.element[{0}] has a min or max that is no number")]
    Cardinality(usize),
    #[error("the profile has more than {MAX_RULES} elements")]
    TooLarge,
}

/// A place in [`Profile`]'s arena.
pub(super) type RuleId = usize;

/// What one profile asks of resources, or of values of a datatype.
#[derive(Debug)]
pub struct Profile {
    url: Box<str>,
    pub(super) structure: &'static Structure,
    rules: Vec<Rule>,
    /// For extensions: where they may stand, as (type, expression).
    pub(super) contexts: Vec<(Box<str>, Box<str>)>,
}

/// What a profile asks of one element, or of one slice of it.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// Without `[x]`.
    pub name: Box<str>,
    /// With `/` for slices of slices.
    pub slice: Option<Box<str>>,
    pub min: usize,
    pub max: Option<usize>,
    /// Allowed types; empty: those of R4.
    pub types: Vec<TypeRule>,
    pub fixed: Option<Value>,
    pub pattern: Option<Value>,
    pub binding: Option<Binding>,
    /// Characters of a text.
    pub max_length: Option<usize>,
    pub constraints: Vec<Constraint>,
    pub children: Vec<RuleId>,
    pub slicing: Option<Slicing>,
    pub slices: Vec<RuleId>,
    /// The rule that holds for what is inside, where R4 has a content reference.
    pub content: Option<RuleId>,
}

/// One allowed type.
#[derive(Debug)]
pub(super) struct TypeRule {
    pub code: Box<str>,
    /// Profiles of which the value must meet one.
    pub profiles: Vec<Box<str>>,
    /// Profiles or types of which a reference's target must meet one.
    pub targets: Vec<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Binding {
    pub strength: Strength,
    pub value_set: Box<str>,
    /// What a code must be of even where another fits better (<https://hl7.org/fhir/R4/extension-elementdefinition-maxvalueset.html>).
    pub most: Option<Box<str>>,
}

/// How binding a binding is (<https://hl7.org/fhir/R4/valueset-binding-strength.html>). One that asks nothing is there for its `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    Required,
    Extensible,
    Loose,
}

/// How items are told apart (<https://hl7.org/fhir/R4/profiling.html#slicing>).
#[derive(Debug)]
pub(super) struct Slicing {
    pub discriminators: Vec<Discriminator>,
    pub rules: Openness,
    pub ordered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Openness {
    Open,
    Closed,
    OpenAtEnd,
}

#[derive(Debug)]
pub(super) struct Discriminator {
    pub kind: DiscriminatorKind,
    /// What it looks at in an item.
    pub path: Result<Expression, String>,
    /// The same as steps through a profile's rules.
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscriminatorKind {
    /// `value` and `pattern`, which R4 tells apart only by what the slice has there.
    Value,
    Exists,
    Type,
    Profile,
    Unknown,
}

/// One step of a discriminator's path, the restricted FHIRPath of
/// <https://hl7.org/fhir/R4/profiling.html#discriminator>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Member(Box<str>),
    Extension(Box<str>),
    OfType(Box<str>),
    Resolve,
}

/// A part of an element's path: its name and the slices named on it, outermost first.
struct Segment<'d> {
    name: &'d str,
    slice: Option<&'d str>,
}

impl Profile {
    /// Compiles a profile whose base is a type of R4. For profiles on other profiles see [`super::Profiles`].
    pub fn from_structure_definition(definition: &Value) -> Result<Profile, ProfileError> {
        Profile::compile(definition, &|_| None)
    }

    /// Compiles a profile; `find` gives the StructureDefinitions of its bases.
    pub(super) fn compile<'d>(definition: &'d Value, find: &dyn Fn(&str) -> Option<&'d Value>) -> Result<Profile, ProfileError> {
        let chain = chain(definition, find)?;
        let text = |key: &str| definition.get(key).and_then(Value::as_str);
        let (Some(url), Some(type_name)) = (text("url"), text("type")) else { return Err(ProfileError::NotAProfile) };
        let structure = r4().structure(type_name).filter(|s| s.kind != StructureKind::Backbone).ok_or(ProfileError::UnknownType)?;
        let root = Rule { name: type_name.into(), ..Rule::default() };
        let mut build = Build { structure, rules: vec![root] };
        for layer in chain.into_iter().rev() {
            build.layer(layer)?;
        }
        build.link();
        let contexts = items(definition, "context")
            .iter()
            .filter_map(|context| Some((context.get("type")?.as_str()?.into(), context.get("expression")?.as_str()?.into())))
            .collect();
        Ok(Profile { url: url.into(), structure, rules: build.rules, contexts })
    }

    /// The canonical URL that `meta.profile` claims, without version.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The resource type or datatype that the profile is about.
    pub fn type_name(&self) -> &'static str {
        self.structure.name
    }

    pub(super) fn root(&self) -> &Rule {
        self.rule(0)
    }

    /// Every id comes from this arena.
    pub(super) fn rule(&self, id: RuleId) -> &Rule {
        static NOTHING: std::sync::LazyLock<Rule> = std::sync::LazyLock::new(Rule::default);
        self.rules.get(id).unwrap_or(&NOTHING)
    }

    pub(super) fn child(&self, rule: &Rule, name: &str) -> Option<&Rule> {
        rule.children.iter().map(|id| self.rule(*id)).find(|child| &*child.name == name)
    }
}

/// The definition and its bases, down to R4's own type.
fn chain<'d>(definition: &'d Value, find: &dyn Fn(&str) -> Option<&'d Value>) -> Result<Vec<&'d Value>, ProfileError> {
    let mut chain = vec![definition];
    let mut at = definition;
    loop {
        let text = |key: &str| at.get(key).and_then(Value::as_str);
        if text("resourceType") != Some("StructureDefinition") || text("derivation") != Some("constraint") {
            return Err(ProfileError::NotAProfile);
        }
        let base = text("baseDefinition").unwrap_or_default();
        let base = base.split('|').next().unwrap_or(base);
        if base.is_empty() || base.strip_prefix(CORE).is_some_and(|name| r4().structure(name).is_some()) {
            return Ok(chain);
        }
        at = find(base).ok_or_else(|| ProfileError::UnknownBase(base.to_owned()))?;
        if chain.len() >= MAX_BASES || chain.iter().any(|seen| std::ptr::eq(*seen, at)) {
            return Err(ProfileError::BaseChain);
        }
        chain.push(at);
    }
}

struct Build {
    structure: &'static Structure,
    rules: Vec<Rule>,
}

impl Build {
    fn layer(&mut self, definition: &Value) -> Result<(), ProfileError> {
        let list = |part: &str| definition.pointer(part).and_then(Value::as_array);
        let elements = list("/differential/element").or_else(|| list("/snapshot/element")).ok_or(ProfileError::NotAProfile)?;
        let mut before: Vec<Segment> = Vec::new();
        let earlier = self.rules.len();
        let mut named: Vec<(RuleId, bool)> = Vec::new();
        for (at, element) in elements.iter().enumerate() {
            let path = element.get("path").and_then(Value::as_str).ok_or(ProfileError::UnknownElement(at))?;
            let segments = segments(element, path, &before);
            let known = segments.first().is_some_and(|first| first.name == self.structure.name) && segments.len() <= MAX_STEPS;
            let place = if known { self.place(segments.get(1..).unwrap_or_default()) } else { None };
            let place = place.ok_or(ProfileError::UnknownElement(at))?;
            if self.rules.len() > MAX_RULES {
                return Err(ProfileError::TooLarge);
            }
            if let Some(rule) = self.rules.get_mut(place) {
                rule.read(element, at)?;
                let last = segments.last().filter(|last| last.slice.is_none());
                named.push((place, last.is_some_and(|last| rule.slice.as_deref() == Some(last.name))));
            }
            before = segments;
        }
        self.narrow(&named, earlier);
        Ok(())
    }

    /// `Observation.valueQuantity`, where nobody says how `value[x]` is sliced, is the element with these types alone: so R4's own profiles
    /// mean it, and the snapshots that publishers make of them. `named`: the rules that a layer is about, and whether by such a name.
    fn narrow(&mut self, named: &[(RuleId, bool)], earlier: RuleId) {
        let by_type = named.iter().filter(|(id, by_type)| *by_type && *id >= earlier).map(|(id, _)| *id);
        for slice in by_type {
            let Some(outer) = self.rules.iter().position(|rule| rule.slices.contains(&slice)) else { continue };
            let Some(rule) = self.rules.get(outer) else { continue };
            let is_said = named.iter().any(|(id, by_type)| *id == outer || !*by_type && rule.slices.contains(id));
            if is_said || rule.slices.iter().any(|id| *id < earlier) {
                continue;
            }
            let all = rule.slices.iter().filter_map(|id| self.rules.get(*id)?.types.first());
            let all: Vec<Box<str>> = all.map(|kind| kind.code.clone()).collect();
            let Some(rule) = self.rules.get_mut(outer) else { continue };
            match rule.types.is_empty() {
                true => {
                    let plain = |code: Box<str>| TypeRule { code, profiles: Vec::new(), targets: Vec::new() };
                    rule.types = all.into_iter().map(plain).collect();
                }
                false => rule.types.retain(|kind| all.contains(&kind.code)),
            }
        }
    }

    /// The rule at the end of these steps, made with those on the way. `None` where R4 has no such element.
    fn place(&mut self, segments: &[Segment]) -> Option<RuleId> {
        let mut at: RuleId = 0;
        // `None` below a choice of several types: what is inside is not known until there is a value.
        let mut structure = Some(self.structure);
        for segment in segments {
            let name = segment.name.strip_suffix("[x]").unwrap_or(segment.name);
            let mut of: Option<&'static Element> = None;
            let mut typed: Option<&'static ElementType> = None;
            if let Some(structure) = structure {
                match structure.element(name) {
                    Some(element) if element.choice || name == segment.name => of = Some(element),
                    _ => {
                        // `valueQuantity` for the slice of `value[x]` that has this type.
                        let (_, element, kind) = structure.key(name).filter(|(_, element, _)| element.choice)?;
                        (of, typed) = (Some(element), Some(kind));
                    }
                }
            }
            at = self.below(at, of.map_or(name, |element| element.name))?;
            let by_type = typed.map(|_| name);
            if let Some(slice) = segment.slice.or(by_type) {
                if let (Some(structure), None) = (structure, typed) {
                    typed = structure.key(slice).filter(|(_, element, _)| element.choice && element.name == name).map(|(_, _, kind)| kind);
                }
                at = self.slice(at, slice, typed)?;
            }
            let rule = self.rules.get(at)?;
            structure = match (rule.types.as_slice(), of.map(|element| element.types.as_slice())) {
                ([only], types) if types.is_none_or(|types| types.len() > 1) => r4().structure(&only.code),
                (_, Some([only])) => r4().structure(only.name),
                _ => None,
            };
        }
        Some(at)
    }

    fn add(&mut self, rule: Rule) -> RuleId {
        self.rules.push(rule);
        self.rules.len() - 1
    }

    fn below(&mut self, at: RuleId, name: &str) -> Option<RuleId> {
        let known = self.rules.get(at)?.children.iter().copied().find(|id| self.rules.get(*id).is_some_and(|rule| &*rule.name == name));
        if known.is_some() {
            return known;
        }
        let id = self.add(Rule { name: name.into(), ..Rule::default() });
        self.rules.get_mut(at)?.children.push(id);
        Some(id)
    }

    /// The slice called `name`; `outer/inner` lies within `outer` where there is one.
    fn slice(&mut self, at: RuleId, name: &str, typed: Option<&'static ElementType>) -> Option<RuleId> {
        let find = |build: &Build, at: RuleId, name: &str| {
            let slices = &build.rules.get(at)?.slices;
            slices.iter().copied().find(|id| build.rules.get(*id).is_some_and(|rule| rule.slice.as_deref() == Some(name)))
        };
        let mut at = at;
        for (end, _) in name.match_indices('/') {
            at = name.get(..end).and_then(|outer| find(self, at, outer)).unwrap_or(at);
        }
        if let Some(known) = find(self, at, name) {
            return Some(known);
        }
        let of = self.rules.get(at)?.name.clone();
        let types = typed.map(|kind| TypeRule { code: kind.name.into(), profiles: Vec::new(), targets: Vec::new() });
        let is_extension = matches!(&*of, "extension" | "modifierExtension");
        let id = self.add(Rule { name: of, slice: Some(name.into()), types: types.into_iter().collect(), ..Rule::default() });
        let outer = self.rules.get_mut(at)?;
        outer.slices.push(id);
        if outer.slicing.is_none() {
            // Slices of a choice are its types, those of extensions their URLs, and nobody need say so.
            outer.slicing = match (typed, is_extension) {
                (Some(_), _) => Some(Slicing::by("type", "$this")),
                (None, true) => Some(Slicing::by("value", "url")),
                (None, false) => None,
            };
        }
        Some(id)
    }

    /// Points every content reference at the rule of what it refers to.
    fn link(&mut self) {
        let mut by_structure: HashMap<&'static str, RuleId> = HashMap::new();
        let mut open: Vec<(RuleId, &'static Structure)> = vec![(0, self.structure)];
        let mut seen: Vec<(RuleId, &'static Structure)> = Vec::new();
        while let Some((id, structure)) = open.pop() {
            by_structure.entry(structure.name).or_insert(id);
            seen.push((id, structure));
            let Some(rule) = self.rules.get(id) else { continue };
            for child in &rule.children {
                let element = self.rules.get(*child).and_then(|child| structure.element(&child.name));
                if let Some([only]) = element.map(|element| element.types.as_slice())
                    && let Some(inside) = r4().structure(only.name).filter(|inside| inside.kind == StructureKind::Backbone)
                {
                    // A rule of its own under a content reference adds to what is referred to.
                    open.push((*child, inside));
                }
            }
        }
        for (id, structure) in seen {
            for element in &structure.elements {
                let [only] = element.types.as_slice() else { continue };
                let refers = only.name.contains('.') && only.name != format!("{}.{}", structure.name, element.name);
                if let Some(target) = by_structure.get(only.name).copied().filter(|_| refers)
                    && let Some(child) = self.below(id, element.name).filter(|child| *child != target)
                    && let Some(rule) = self.rules.get_mut(child)
                {
                    rule.content = Some(target);
                }
            }
        }
    }
}

/// The parts of an element's path. Slices come from its id; without one, from its sliceName and the elements before it.
fn segments<'d>(element: &'d Value, path: &'d str, before: &[Segment<'d>]) -> Vec<Segment<'d>> {
    let count = path.split('.').count();
    if let Some(id) = element.get("id").and_then(Value::as_str) {
        let parts: Vec<Segment> = id
            .split('.')
            .map(|part| match part.split_once(':') {
                Some((name, slice)) => Segment { name, slice: Some(slice) },
                None => Segment { name: part, slice: None },
            })
            .collect();
        if parts.len() == count {
            return parts;
        }
    }
    let mut same = true;
    let mut parts = Vec::with_capacity(count);
    for (at, name) in path.split('.').enumerate() {
        let earlier = before.get(at).filter(|earlier| same && earlier.name == name);
        same = earlier.is_some();
        let slice = if at + 1 == count { element.get("sliceName").and_then(Value::as_str) } else { earlier.and_then(|e| e.slice) };
        parts.push(Segment { name, slice });
    }
    parts
}

impl Slicing {
    fn by(kind: &str, path: &str) -> Slicing {
        Slicing { discriminators: vec![Discriminator::read(kind, path)], rules: Openness::Open, ordered: false }
    }

    fn read(slicing: &Value) -> Slicing {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Slicing {
            discriminators: items(slicing, "discriminator")
                .iter()
                .map(|one| Discriminator::read(&text(one, "type"), &text(one, "path")))
                .collect(),
            rules: match text(slicing, "rules").as_str() {
                "closed" => Openness::Closed,
                "openAtEnd" => Openness::OpenAtEnd,
                _ => Openness::Open,
            },
            ordered: slicing.get("ordered") == Some(&Value::Bool(true)),
        }
    }
}

impl Discriminator {
    fn read(kind: &str, path: &str) -> Discriminator {
        let kind = match kind {
            "value" | "pattern" => DiscriminatorKind::Value,
            "exists" => DiscriminatorKind::Exists,
            "type" => DiscriminatorKind::Type,
            "profile" => DiscriminatorKind::Profile,
            _ => DiscriminatorKind::Unknown,
        };
        let steps = steps(path);
        let parsed = Expression::parse(path).map_err(|error| error.to_string());
        let path = if steps.is_some() { parsed } else { Err("its path is no discriminator's".to_owned()) };
        Discriminator { kind, path, steps: steps.unwrap_or_default() }
    }
}

/// The steps of a discriminator's path; `None` when it is not of the restricted kind.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let quoted = |rest: &'_ str, function: &str| {
            let argument = rest.strip_prefix(function)?;
            let (argument, after) = argument.split_once(')')?;
            let argument = argument.trim().trim_matches('\'').to_owned();
            Some((argument, rest.len() - after.len()))
        };
        let length;
        if let Some((url, end)) = quoted(rest, "extension(") {
            steps.push(Step::Extension(url.into()));
            length = end;
        } else if let Some((name, end)) = quoted(rest, "ofType(") {
            steps.push(Step::OfType(name.into()));
            length = end;
        } else if let Some((_, end)) = quoted(rest, "resolve(") {
            steps.push(Step::Resolve);
            length = end;
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let name = rest.get(..end)?;
            match name {
                "$this" => {}
                _ if name.bytes().all(|b| b.is_ascii_alphanumeric()) && !name.is_empty() => steps.push(Step::Member(name.into())),
                _ => return None,
            }
            length = end;
        }
        rest = rest.get(length..)?;
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if steps.len() > MAX_STEPS {
            return None;
        }
    }
    Some(steps)
}

impl Rule {
    /// Lays an element of a differential over what is here.
    fn read(&mut self, element: &Value, at: usize) -> Result<(), ProfileError> {
        if let Some(min) = element.get("min") {
            self.min = min.as_u64().and_then(|min| usize::try_from(min).ok()).ok_or(ProfileError::Cardinality(at))?;
        }
        self.max = match element.get("max").map(|max| max.as_str().unwrap_or_default()) {
            None | Some("*") => self.max,
            Some(max) => Some(max.parse().map_err(|_| ProfileError::Cardinality(at))?),
        };
        if let Some(length) = element.get("maxLength").and_then(Value::as_u64) {
            self.max_length = usize::try_from(length).ok();
        }
        let types: Vec<TypeRule> = items(element, "type").iter().filter_map(TypeRule::read).collect();
        if !types.is_empty() {
            self.types = types;
        }
        for (key, value) in element.as_object().into_iter().flatten() {
            if key.starts_with("fixed") {
                self.fixed = Some(value.clone());
            } else if key.starts_with("pattern") {
                self.pattern = Some(value.clone());
            } else if let Some(limit) = limit(key, value) {
                self.add(limit);
            }
        }
        if let Some(binding) = element.get("binding") {
            let text = |key: &str| binding.get(key).and_then(Value::as_str);
            let strength = match text("strength") {
                Some("required") => Some(Strength::Required),
                Some("extensible") => Some(Strength::Extensible),
                _ => None,
            };
            let of_most = |one: &&Value| one.get("url").and_then(Value::as_str) == Some(MAX_VALUE_SET);
            let most = items(binding, "extension").iter().find(of_most);
            let most = most.and_then(|one| one.get("valueCanonical").or_else(|| one.get("valueUri"))?.as_str()).map(Box::from);
            // What the base asks stays: a loose binding takes nothing away from it.
            let base = self.binding.take();
            let most = most.or_else(|| base.as_ref()?.most.clone());
            self.binding = match (strength, text("valueSet"), base) {
                (Some(strength @ (Strength::Required | Strength::Extensible)), Some(url), _) => {
                    Some(Binding { strength, value_set: url.into(), most })
                }
                (_, _, Some(base)) => Some(Binding { most, ..base }),
                _ => most.map(|most| Binding { strength: Strength::Loose, value_set: Box::default(), most: Some(most) }),
            };
        }
        if let Some(slicing) = element.get("slicing") {
            self.slicing = Some(Slicing::read(slicing));
        }
        for constraint in items(element, "constraint") {
            let text = |key: &str| constraint.get(key).and_then(Value::as_str);
            let key = text("key").unwrap_or_default();
            // In a snapshot R4's own are repeated.
            if ["ele-", "ext-", "dom-"].iter().any(|of_r4| key.starts_with(of_r4)) {
                continue;
            }
            let severity = if text("severity") == Some("warning") { Severity::Warning } else { Severity::Error };
            self.add(Constraint::new(key, text("human").unwrap_or_default(), severity, text("expression")));
        }
        Ok(())
    }

    fn add(&mut self, constraint: Constraint) {
        self.constraints.retain(|known| known.key != constraint.key);
        self.constraints.push(constraint);
    }
}

impl TypeRule {
    fn read(kind: &Value) -> Option<TypeRule> {
        let urls = |key: &str| items(kind, key).iter().filter_map(Value::as_str).map(Box::from).collect();
        Some(TypeRule { code: kind.get("code")?.as_str()?.into(), profiles: urls("profile"), targets: urls("targetProfile") })
    }
}

/// `minValue[x]` and `maxValue[x]` as a constraint.
fn limit(key: &str, value: &Value) -> Option<Constraint> {
    let (kind, operator, words) = match key.split_at_checked(8)? {
        ("minValue", kind) => (kind, ">=", "must not be below the least value that is allowed"),
        ("maxValue", kind) => (kind, "<=", "must not be above the greatest value that is allowed"),
        _ => return None,
    };
    let text = |value: &Value| value.as_str().filter(|text| !text.contains(['\'', '\\'])).map(str::to_owned);
    let bound = match kind {
        "Date" | "DateTime" | "Instant" => format!("@{}", text(value)?),
        "Time" => format!("@T{}", text(value)?),
        "Quantity" => format!("{} '{}'", value.get("value")?, text(value.get("code")?)?),
        _ => value.as_number()?.to_string(),
    };
    Some(Constraint::new(key, words, Severity::Error, Some(&format!("$this {operator} {bound}"))))
}

pub(super) fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
