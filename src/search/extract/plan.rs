//! Search parameters compiled: one trie of JSON keys per resource type.

use super::Names;
use super::values::Shape;
use crate::definitions::{self, ParamKind, SearchParam};
use crate::fhirpath::{Expression, KeyPath, KeyStep, refers_to};
use crate::search::media_type;
use crate::store::{Folding, ParamId, TypeCode};
use serde_json::Value;
use std::collections::HashMap;

/// What extraction does for one resource type.
pub(super) struct Plan {
    pub trie: Trie<Emit>,
    pub general: Vec<General>,
    /// The parameters under whose numbers the further indexes ([`crate::store::Facet`]) of a parameter are kept, where that is not
    /// just its own: R4 gives several parameters the same element (`code` and `combo-code`), and its words are kept once.
    pub facets: HashMap<ParamId, Vec<ParamId>>,
    /// Token parameters with values that are found however they are spelt.
    pub folding: HashMap<ParamId, Folding>,
    /// By what each reference parameter names its targets.
    pub names: HashMap<ParamId, Names>,
    /// `near`: the position on earth.
    pub near: Option<ParamId>,
    /// `_text` and `_content`: the words.
    pub words: Option<(ParamId, ParamId)>,
    /// To the references that decide whose compartment the resource is in; the leaf is the parameter's rank.
    pub patient: Trie<usize>,
}

/// What is indexed at a place of the trie.
pub(super) struct Emit {
    pub param: ParamId,
    /// Whether the element's further indexes are kept under this parameter's number.
    pub facets: bool,
    pub target: Target,
}

pub(super) enum Target {
    Value(ParamKind, Shape),
    Composite(Composite),
}

pub(super) struct Composite {
    pub parts: Vec<Part>,
}

pub(super) struct Part {
    pub kind: ParamKind,
    pub from_resource: bool,
    pub paths: Trie<Shape>,
}

/// A parameter whose expression is more than a walk.
pub(super) struct General {
    pub param: ParamId,
    pub kind: ParamKind,
    pub expression: Expression,
    pub parts: Vec<(ParamKind, Expression)>,
}

impl Plan {
    /// `fast` may be off to have every parameter evaluated, as the slow and obvious oracle.
    pub fn compile(type_code: TypeCode, fast: bool) -> Plan {
        let definitions = definitions::r4();
        let type_name = definitions.type_name(type_code);
        let special =
            |code: &str| definitions.param(type_code, code).filter(|param| param.kind == ParamKind::Special).map(|param| param.id);
        let mut plan = Plan {
            trie: Trie::default(),
            general: Vec::new(),
            facets: HashMap::new(),
            folding: HashMap::new(),
            names: HashMap::new(),
            near: special("near"),
            words: special("_text").zip(special("_content")),
            patient: Trie::default(),
        };
        let mut walks: Vec<(ParamId, Vec<(KeyPath, Emit)>)> = Vec::new();
        for param in definitions.params(type_code) {
            if param.kind == ParamKind::Special || matches!(param.code.as_str(), "_id" | "_lastUpdated") {
                continue;
            }
            // Every R4 expression parses; a test says so.
            let Ok(expression) = Expression::parse(&param.expression) else { continue };
            if param.kind == ParamKind::Reference {
                plan.names.insert(param.id, names(&expression, type_name));
            }
            if param.kind == ParamKind::Token && media_type::is_of(param) {
                plan.folding.insert(param.id, Folding::MediaType);
            }
            let walked = if fast { emits(param, &expression, type_name) } else { None };
            match walked {
                Some(emits) => walks.push((param.id, emits)),
                None => {
                    let parts = param.components.iter().map(|part| Some((part.kind, Expression::parse(&part.expression).ok()?)));
                    let Some(parts) = parts.collect() else { continue };
                    plan.general.push(General { param: param.id, kind: param.kind, expression, parts });
                }
            }
        }
        plan.facets = share_facets(&mut walks);
        let is_caseless = |emit: &Emit| matches!(emit.target, Target::Value(ParamKind::Token, Shape::Text | Shape::ContactPoint));
        let caseless = walks.iter().filter(|(_, emits)| emits.iter().any(|(_, emit)| is_caseless(emit)));
        plan.folding.extend(caseless.map(|(param, _)| (*param, Folding::Case)));
        for (path, emit) in walks.into_iter().flat_map(|(_, emits)| emits) {
            plan.trie.insert(&path.steps, emit);
        }
        for (rank, code) in definitions.patient_compartment(type_code).iter().enumerate() {
            let param = definitions.param(type_code, code);
            let paths = param.and_then(|param| Expression::parse(&param.expression).ok()?.key_paths(type_name));
            for path in paths.into_iter().flatten() {
                plan.patient.insert(&path.steps, rank);
            }
        }
        plan
    }
}

/// Keeps each element's further indexes once: under the number of a parameter that reads this element and nothing else, if there
/// is one. Gives the numbers for the parameters that so lose some of their own.
fn share_facets(walks: &mut [(ParamId, Vec<(KeyPath, Emit)>)]) -> HashMap<ParamId, Vec<ParamId>> {
    let kind = |emit: &Emit| match emit.target {
        Target::Value(kind, _) => Some(kind),
        Target::Composite(_) => None,
    };
    let single: Vec<(ParamId, Vec<KeyStep>, Option<ParamKind>)> = walks
        .iter()
        .filter_map(|(param, emits)| match emits.as_slice() {
            [(path, emit)] => Some((*param, path.steps.clone(), kind(emit))),
            _ => None,
        })
        .collect();
    let mut shared = HashMap::new();
    for (param, emits) in walks {
        let mut places = Vec::new();
        for (path, emit) in emits {
            let place = single.iter().find(|(_, steps, of)| *steps == path.steps && *of == kind(emit)).map_or(*param, |(place, ..)| *place);
            emit.facets = place == *param;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        if !places.is_empty() && places != [*param] {
            shared.insert(*param, places);
        }
    }
    shared
}

/// What the elements are that a reference parameter leads to.
pub(super) fn names(expression: &Expression, type_name: &str) -> Names {
    // What is no plain walk could lead to either.
    let Some(paths) = expression.key_paths(type_name) else { return Names::Both };
    let is = |shape: Shape| paths.iter().any(|path| Shape::of(path.type_name) == shape);
    match (is(Shape::Reference) || is(Shape::Resource), is(Shape::Uri)) {
        (false, true) => Names::Urls,
        (true, true) => Names::Both,
        _ => Names::Places,
    }
}

/// What a parameter indexes along which ways; `None` when it must be evaluated.
fn emits(param: &SearchParam, expression: &Expression, type_name: &str) -> Option<Vec<(KeyPath, Emit)>> {
    let mut found = Vec::new();
    for path in expression.key_paths(type_name)? {
        if path.from_resource {
            return None;
        }
        let target = match param.kind {
            ParamKind::Composite => Target::Composite(composite(param, path.type_name)?),
            kind => match Shape::of(path.type_name) {
                // Nothing of this type is ever indexed: no need to walk there.
                Shape::Other => continue,
                shape => Target::Value(kind, shape),
            },
        };
        found.push((path, Emit { param: param.id, facets: true, target }));
    }
    Some(found)
}

fn composite(param: &SearchParam, base: &str) -> Option<Composite> {
    let part = |kind: ParamKind, expression: &str| {
        let paths = Expression::parse(expression).ok()?.key_paths(base)?;
        let from_resource = paths.iter().any(|path| path.from_resource);
        if paths.iter().any(|path| path.from_resource != from_resource) {
            return None;
        }
        let mut trie = Trie::default();
        for path in paths {
            trie.insert(&path.steps, Shape::of(path.type_name));
        }
        Some(Part { kind, from_resource, paths: trie })
    };
    let parts = param.components.iter().map(|component| part(component.kind, &component.expression));
    Some(Composite { parts: parts.collect::<Option<_>>()? })
}

/// Ways through JSON that share their beginnings, with something to do at their ends.
pub(super) struct Trie<T> {
    leaves: Vec<T>,
    /// Sorted by key.
    keys: Vec<(Box<str>, Trie<T>)>,
    filters: Vec<(KeyStep, Trie<T>)>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie { leaves: Vec::new(), keys: Vec::new(), filters: Vec::new() }
    }
}

impl<T> Trie<T> {
    pub fn insert(&mut self, steps: &[KeyStep], leaf: T) {
        match steps.split_first() {
            None => self.leaves.push(leaf),
            Some((KeyStep::Key(key), rest)) => {
                let at = match self.keys.binary_search_by(|(known, _)| (**known).cmp(key)) {
                    Ok(at) => at,
                    Err(at) => {
                        self.keys.insert(at, (key.as_str().into(), Trie::default()));
                        at
                    }
                };
                if let Some((_, below)) = self.keys.get_mut(at) {
                    below.insert(rest, leaf);
                }
            }
            Some((filter, rest)) => {
                if let Some((_, below)) = self.filters.iter_mut().find(|(known, _)| known == filter) {
                    return below.insert(rest, leaf);
                }
                let mut below = Trie::default();
                below.insert(rest, leaf);
                self.filters.push((filter.clone(), below));
            }
        }
    }

    /// Calls `found` for every leaf and every value that its way leads to. Lists are walked through. The walk is as deep
    /// as the trie, whatever the input. `container` has what references by `#id` lead to.
    pub fn walk<'v>(&self, value: &'v Value, container: &Value, found: &mut impl FnMut(&T, &'v Value)) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item, container, found)),
            _ => self.visit(value, container, found),
        }
    }

    fn visit<'v>(&self, value: &'v Value, container: &Value, found: &mut impl FnMut(&T, &'v Value)) {
        if matches!(value, Value::Null | Value::Array(_)) {
            return;
        }
        for leaf in &self.leaves {
            found(leaf, value);
        }
        for (filter, below) in &self.filters {
            let passes = match filter {
                KeyStep::Where { key, text } => value.get(key).and_then(Value::as_str) == Some(text),
                KeyStep::Refers(type_name) => refers_to(value, type_name, container),
                KeyStep::Key(_) => false,
            };
            if passes {
                below.visit(value, container, found);
            }
        }
        if let (Value::Object(object), false) = (value, self.keys.is_empty()) {
            for (key, value) in object {
                if let Ok(at) = self.keys.binary_search_by(|(known, _)| (**known).cmp(key))
                    && let Some((_, below)) = self.keys.get(at)
                {
                    below.walk(value, container, found);
                }
            }
        }
    }
}
