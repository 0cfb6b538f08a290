//! A ConceptMap compiled for questions in both directions (<https://hl7.org/fhir/R4/conceptmap.html>).

use super::Coding;
use super::shelf::{Header, Shelved};
use crate::fhir::text::small;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// How the target stands to the source, `ConceptMap.group.element.target.equivalence`: `Wider` means that the target means more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equivalence {
    RelatedTo,
    Equivalent,
    Equal,
    Wider,
    Subsumes,
    Narrower,
    Specializes,
    Inexact,
    Unmatched,
    Disjoint,
}

impl Equivalence {
    pub fn as_str(self) -> &'static str {
        use Equivalence::*;
        match self {
            RelatedTo => "relatedto",
            Equivalent => "equivalent",
            Equal => "equal",
            Wider => "wider",
            Subsumes => "subsumes",
            Narrower => "narrower",
            Specializes => "specializes",
            Inexact => "inexact",
            Unmatched => "unmatched",
            Disjoint => "disjoint",
        }
    }

    fn parse(text: &str) -> Option<Equivalence> {
        use Equivalence::*;
        [RelatedTo, Equivalent, Equal, Wider, Subsumes, Narrower, Specializes, Inexact, Unmatched, Disjoint]
            .into_iter()
            .find(|one| one.as_str() == text)
    }

    /// Whether the target may stand for the source at all.
    pub fn is_match(self) -> bool {
        !matches!(self, Equivalence::Unmatched | Equivalence::Disjoint)
    }

    /// The same said from the other side.
    pub fn reversed(self) -> Equivalence {
        match self {
            Equivalence::Wider => Equivalence::Narrower,
            Equivalence::Narrower => Equivalence::Wider,
            Equivalence::Subsumes => Equivalence::Specializes,
            Equivalence::Specializes => Equivalence::Subsumes,
            other => other,
        }
    }
}

pub(super) struct ConceptMap {
    pub header: Header,
    /// `source[x]` and `target[x]`: the value sets that the map is between.
    pub source: Option<Box<str>>,
    pub target: Option<Box<str>>,
    pub groups: Vec<Group>,
}

pub(super) struct Group {
    pub source: Option<Arc<str>>,
    pub source_version: Option<Box<str>>,
    pub target: Option<Arc<str>>,
    pub target_version: Option<Box<str>>,
    elements: HashMap<Arc<str>, Element>,
    folded: HashMap<Box<str>, Arc<str>>,
    /// Target code to source codes.
    reverse: HashMap<Arc<str>, Vec<Arc<str>>>,
    pub unmapped: Option<Unmapped>,
}

#[derive(Default)]
pub(super) struct Element {
    pub display: Option<Arc<str>>,
    pub targets: Vec<Target>,
}

pub(super) struct Target {
    /// Absent when the map says that there is none.
    pub code: Option<Arc<str>>,
    pub display: Option<Arc<str>>,
    pub equivalence: Equivalence,
    /// What must hold for it, `dependsOn`.
    pub depends_on: Vec<Product>,
    pub product: Vec<Product>,
}

/// A further fact that holds when a target is chosen, `ConceptMap.group.element.target.product`, or that must hold for it, `dependsOn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The element or property that the fact is of, a uri.
    pub property: Box<str>,
    pub system: Option<Box<str>>,
    pub value: Box<str>,
}

/// What happens to a code that the group does not list, `ConceptMap.group.unmapped`.
pub(super) enum Unmapped {
    Provided,
    Fixed { code: Arc<str>, display: Option<Arc<str>> },
    OtherMap(Box<str>),
}

impl Shelved for ConceptMap {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl ConceptMap {
    pub fn compile(resource: &Value) -> Option<ConceptMap> {
        let either = |a: &str, b: &str| resource.get(a).or_else(|| resource.get(b)).and_then(Value::as_str).map(Box::from);
        Some(ConceptMap {
            header: Header::read(resource)?,
            source: either("sourceUri", "sourceCanonical"),
            target: either("targetUri", "targetCanonical"),
            groups: list(resource, "group").map(Group::compile).collect(),
        })
    }
}

impl Group {
    fn compile(source: &Value) -> Group {
        let mut group = Group {
            source: arc(source, "source"),
            source_version: text(source, "sourceVersion").map(Box::from),
            target: arc(source, "target"),
            target_version: text(source, "targetVersion").map(Box::from),
            elements: HashMap::new(),
            folded: HashMap::new(),
            reverse: HashMap::new(),
            unmapped: source.get("unmapped").and_then(Unmapped::compile),
        };
        for element in list(source, "element") {
            let Some(code) = arc(element, "code") else { continue };
            group.folded.entry(small(&code).into()).or_insert_with(|| code.clone());
            let targets: Vec<Target> = list(element, "target").map(Target::compile).collect();
            for target in targets.iter().filter(|target| target.equivalence.is_match()) {
                if let Some(target) = &target.code {
                    group.reverse.entry(target.clone()).or_default().push(code.clone());
                }
            }
            let entry = group.elements.entry(code).or_default();
            entry.display = entry.display.take().or_else(|| arc(element, "display"));
            entry.targets.extend(targets);
        }
        group
    }

    /// The element for `code`, compared without case when asked and nothing is found with it.
    pub fn element(&self, code: &str, ignore_case: bool) -> Option<&Element> {
        self.elements.get(code).or_else(|| {
            let known = self.folded.get(small(code).as_str()).filter(|_| ignore_case)?;
            self.elements.get(known)
        })
    }

    /// The source codes that lead to `target`, each with its element.
    pub fn leading_to(&self, target: &str) -> impl Iterator<Item = (&Arc<str>, &Element)> {
        let sources = self.reverse.get(target).into_iter().flatten();
        sources.filter_map(|code| Some((code, self.elements.get(code)?)))
    }
}

impl Target {
    fn compile(source: &Value) -> Target {
        let code = arc(source, "code");
        let stated = text(source, "equivalence").and_then(Equivalence::parse);
        Target {
            equivalence: stated.unwrap_or(if code.is_some() { Equivalence::RelatedTo } else { Equivalence::Unmatched }),
            code,
            display: arc(source, "display"),
            depends_on: Product::read_all(source, "dependsOn"),
            product: Product::read_all(source, "product"),
        }
    }
}

impl Product {
    fn read_all(target: &Value, key: &str) -> Vec<Product> {
        let read = |p: &Value| {
            let (property, value) = (text(p, "property")?.into(), text(p, "value")?.into());
            Some(Product { property, system: text(p, "system").map(Box::from), value })
        };
        list(target, key).filter_map(read).collect()
    }

    /// Whether one of the codings has this value.
    fn is_among(&self, codings: &[Coding]) -> bool {
        let same_system = |one: &Coding| self.system.is_none() || one.system.is_none() || self.system.as_deref() == one.system.as_deref();
        codings.iter().any(|one| *one.code == *self.value && same_system(one))
    }
}

impl Target {
    /// Whether the target holds for somebody who says what `given` says. Whoever says nothing is told every target.
    pub fn holds_for(&self, given: &[(String, Vec<Coding>)]) -> bool {
        let is_met = |one: &Product| given.iter().any(|(property, codings)| **property == *one.property && one.is_among(codings));
        given.is_empty() || self.depends_on.iter().all(is_met)
    }
}

impl Unmapped {
    fn compile(source: &Value) -> Option<Unmapped> {
        match text(source, "mode")? {
            "provided" => Some(Unmapped::Provided),
            "fixed" => Some(Unmapped::Fixed { code: arc(source, "code")?, display: arc(source, "display") }),
            "other-map" => Some(Unmapped::OtherMap(text(source, "url")?.into())),
            _ => None,
        }
    }
}

fn list<'a>(owner: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    owner.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(owner: &'a Value, name: &str) -> Option<&'a str> {
    owner.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn arc(owner: &Value, name: &str) -> Option<Arc<str>> {
    text(owner, name).map(Arc::from)
}
