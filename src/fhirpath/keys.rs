//! Which JSON keys an expression reads, where that can be said before any input is there: search parameters, that walk
//! every resource that is written, need nothing else of the language.

use super::Expression;
use super::ast::{Expr, Operator, Step, TypeName};
use super::functions::{Function, target_type};
use super::model::{self, Type};
use super::node::Node;
use crate::definitions::{ElementKind, ElementType};
use serde_json::Value;

/// One way from a start to the elements that an expression finds, through all items of every list on it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPath {
    /// Whether the way starts at `%resource` instead.
    pub from_resource: bool,
    pub steps: Vec<KeyStep>,
    /// The FHIR type of what is found; `Resource` for a whole resource.
    pub type_name: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum KeyStep {
    /// To the value of this key.
    Key(String),
    /// Only on where this key has this text: `where(system = 'phone')`.
    Where { key: &'static str, text: String },
    /// Only on where the reference names this type: `where(resolve() is Patient)`.
    Refers(String),
}

/// Whether the Reference `value` names a resource of type `wanted`, as `resolve() is` would tell without a resolver.
/// `container` is or contains the resource that the reference is in.
pub fn refers_to(value: &Value, wanted: &str, container: &Value) -> bool {
    let Some(text) = value.get("reference").and_then(Value::as_str) else { return false };
    let named = match text.strip_prefix('#') {
        Some("") => type_of(container),
        Some(id) => {
            let contained = container.get("contained").and_then(Value::as_array).into_iter().flatten();
            contained.filter(|one| one.get("id").and_then(Value::as_str) == Some(id)).map(type_of).next().flatten()
        }
        None => target_type(text).or_else(|| value.get("type").and_then(Value::as_str)),
    };
    named.is_some_and(|named| model::derives_from(named, wanted))
}

fn type_of(resource: &Value) -> Option<&str> {
    resource.get("resourceType").and_then(Value::as_str)
}

impl Expression {
    /// The ways that the expression takes from an element of type `start`. `None` when it does more than walking,
    /// choosing types, and the two `where` of [`KeyStep`].
    pub fn key_paths(&self, start: &str) -> Option<Vec<KeyPath>> {
        let start = Way { from_resource: false, steps: Vec::new(), ty: Goal::Known(Type::named(start)) };
        let ways = walk(&self.tree, &start)?;
        ways.into_iter()
            .map(|way| Some(KeyPath { from_resource: way.from_resource, steps: way.steps, type_name: way.ty.name()? }))
            .collect()
    }
}

#[derive(Clone)]
struct Way {
    from_resource: bool,
    steps: Vec<KeyStep>,
    ty: Goal,
}

#[derive(Clone, Copy)]
enum Goal {
    Known(Type),
    Resource,
}

impl Goal {
    fn of(kind: &'static ElementType) -> Goal {
        match kind.kind {
            ElementKind::Resource => Goal::Resource,
            _ => Goal::Known(Type::of_element(kind)),
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Goal::Known(ty) => ty.name(),
            Goal::Resource => Some("Resource"),
        }
    }
}

fn walk(expr: &Expr, this: &Way) -> Option<Vec<Way>> {
    match expr {
        Expr::This => Some(vec![this.clone()]),
        Expr::As(operand, name) => chosen(walk(operand, this)?, name),
        Expr::Binary(Operator::Union, left, right) => {
            let mut ways = walk(left, this)?;
            ways.extend(walk(right, this)?);
            Some(ways)
        }
        Expr::Path { base, steps } => {
            let mut steps = steps.as_slice();
            let mut ways = match base.as_deref() {
                Some(Expr::Variable(name)) if &**name == "resource" => vec![resource_of(this)?],
                Some(base) => walk(base, this)?,
                None => match steps.split_first() {
                    Some((Step::Member(name), rest)) if this.ty.name()? == &**name => {
                        steps = rest;
                        vec![this.clone()]
                    }
                    _ => vec![this.clone()],
                },
            };
            for step in steps {
                ways = follow(ways, step)?;
            }
            Some(ways)
        }
        _ => None,
    }
}

/// `%resource`: of the type that the name of a resource or of its backbone element begins with.
fn resource_of(this: &Way) -> Option<Way> {
    let resource = this.ty.name()?.split('.').next()?;
    crate::definitions::r4().type_code(resource)?;
    Some(Way { from_resource: true, steps: Vec::new(), ty: Goal::Known(Type::named(resource)) })
}

fn follow(ways: Vec<Way>, step: &Step) -> Option<Vec<Way>> {
    match step {
        Step::Member(name) => {
            let mut next = Vec::new();
            for way in ways {
                member(&way, name, &mut next)?;
            }
            Some(next)
        }
        Step::As(name) | Step::OfType(name) => chosen(ways, name),
        Step::Call(Function::Where, criteria) => {
            let [criterion] = criteria.as_slice() else { return None };
            ways.into_iter().map(|way| filtered(way, criterion)).collect()
        }
        _ => None,
    }
}

fn member(way: &Way, name: &str, next: &mut Vec<Way>) -> Option<()> {
    let Goal::Known(Type::Structure(structure)) = way.ty else { return None };
    let element = structure.element(name)?;
    for kind in &element.types {
        let key = if element.choice { choice_key(name, kind.name) } else { name.to_owned() };
        let mut steps = way.steps.clone();
        steps.push(KeyStep::Key(key));
        next.push(Way { from_resource: way.from_resource, steps, ty: Goal::of(kind) });
    }
    Some(())
}

fn choice_key(name: &str, type_name: &str) -> String {
    let mut letters = type_name.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    name.chars().chain(first).chain(letters).collect()
}

fn chosen(ways: Vec<Way>, name: &TypeName) -> Option<Vec<Way>> {
    if !name.is_known() || !name.may_be_fhir() {
        return None;
    }
    let fits = |way: &Way| match way.ty {
        Goal::Known(Type::Primitive(actual)) => Some(actual == &*name.name),
        Goal::Known(Type::Structure(structure)) => Some(model::derives_from(structure.name, &name.name)),
        _ => None,
    };
    let mut kept = Vec::new();
    for way in ways {
        if fits(&way)? {
            kept.push(way);
        }
    }
    Some(kept)
}

fn filtered(mut way: Way, criterion: &Expr) -> Option<Way> {
    let step = match criterion {
        Expr::Binary(Operator::Equal, left, right) => {
            let (Expr::Path { base: None, steps }, Expr::Literal(Node::String(text))) = (&**left, &**right) else { return None };
            let ([Step::Member(name)], Goal::Known(Type::Structure(structure))) = (steps.as_slice(), way.ty) else { return None };
            let element = structure.element(name)?;
            let textual = |name: &str| matches!(name, "string" | "code" | "id" | "uri" | "url" | "canonical" | "markdown");
            let [kind] = element.types.as_slice() else { return None };
            if element.is_list() || element.choice || !textual(kind.name) {
                return None;
            }
            KeyStep::Where { key: element.name, text: text.to_string() }
        }
        Expr::Is(operand, name) if way.ty.name() == Some("Reference") && name.is_known() && name.may_be_fhir() => {
            let Expr::Path { base: None, steps } = &**operand else { return None };
            let [Step::Call(Function::Resolve, _)] = steps.as_slice() else { return None };
            KeyStep::Refers(name.name.to_string())
        }
        _ => return None,
    };
    way.steps.push(step);
    Some(way)
}
