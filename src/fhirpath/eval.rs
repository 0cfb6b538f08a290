//! Walks a tree over the input. Work is counted, so that no expression runs for ever.

use super::ast::{Expr, Operator, Step, TypeName};
use super::functions::Function;
use super::model;
use super::node::{Element, Node};
use super::operators;
use super::temporal::Temporal;
use super::{Env, EvalError};
use rust_decimal::Decimal;
use std::cell::{Cell, OnceCell};

pub(crate) type List<'a> = Vec<Node<'a>>;

/// Items that one evaluation may touch.
const MAX_WORK: usize = 2_000_000;

/// One evaluation of one expression.
pub(crate) struct Evaluation<'e, 'a> {
    pub env: &'e Env<'a>,
    pub root: Node<'a>,
    work: Cell<usize>,
    now: OnceCell<Temporal>,
}

/// What `$this`, `$index` and `$total` mean at one place.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s, 'a> {
    pub this: Option<&'s Node<'a>>,
    pub index: usize,
    pub total: &'s [Node<'a>],
}

impl<'s, 'a> Scope<'s, 'a> {
    pub fn of(this: &'s Node<'a>) -> Scope<'s, 'a> {
        Scope { this: Some(this), index: 0, total: &[] }
    }
}

impl<'e, 'a> Evaluation<'e, 'a> {
    pub fn new(env: &'e Env<'a>, root: Node<'a>) -> Self {
        Evaluation { env, root, work: Cell::new(0), now: OnceCell::new() }
    }

    /// Counts `items` of work.
    pub fn spend(&self, items: usize) -> Result<(), EvalError> {
        let work = self.work.get().saturating_add(items).saturating_add(1);
        self.work.set(work);
        if work > MAX_WORK { Err(EvalError::TooCostly) } else { Ok(()) }
    }

    /// Counts a text that was made, so that many long ones cannot fill the memory.
    pub fn spend_text(&self, text: &str) -> Result<(), EvalError> {
        if text.len() > operators::MAX_TEXT { Err(EvalError::TooCostly) } else { self.spend(text.len() / 32) }
    }

    /// The moment of this evaluation: the same wherever it is asked.
    pub fn now(&self) -> Temporal {
        *self.now.get_or_init(|| {
            let timestamp = self.env.now.unwrap_or_else(jiff::Timestamp::now);
            Temporal::from_zoned(&timestamp.to_zoned(self.env.zone.clone()))
        })
    }

    pub fn eval(&self, expr: &Expr, scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        self.spend(1)?;
        match expr {
            Expr::Empty => Ok(Vec::new()),
            Expr::Literal(node) => {
                if let Node::String(text) = node {
                    self.spend_text(text)?;
                }
                Ok(vec![node.clone()])
            }
            Expr::This => Ok(scope.this.cloned().into_iter().collect()),
            Expr::Index => Ok(vec![Node::Integer(scope.index as i64)]),
            Expr::Total => Ok(scope.total.to_vec()),
            Expr::Variable(name) => self.variable(name),
            Expr::Path { base, steps } => self.path(base.as_deref(), steps, scope),
            Expr::Negate(operand) => self.signed(operand, true, scope),
            Expr::Plus(operand) => self.signed(operand, false, scope),
            Expr::Binary(operator, left, right) => self.binary(*operator, left, right, scope),
            Expr::Is(operand, name) => self.is(self.eval(operand, scope)?, name),
            Expr::As(operand, name) => self.of_type(self.eval(operand, scope)?, name),
        }
    }

    /// The value of a criterion on one item: `None` when it is empty.
    pub fn criterion(&self, expr: &Expr, scope: Scope<'_, 'a>) -> Result<Option<bool>, EvalError> {
        operators::truth(&self.eval(expr, scope)?)
    }

    fn path(&self, base: Option<&Expr>, steps: &[Step], scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        let mut steps = steps.iter();
        let mut list = match base {
            Some(base) => self.eval(base, scope)?,
            None => match (scope.this, steps.as_slice().first()) {
                // `Patient.name`: the type's own name says where the path starts.
                (Some(this), Some(Step::Member(name))) if starts_at(this, name) => {
                    steps.next();
                    vec![this.clone()]
                }
                (Some(this), Some(Step::Member(name))) => {
                    steps.next();
                    let mut found = Vec::new();
                    member(this, name, &mut found);
                    self.spend(found.len())?;
                    found
                }
                (this, _) => this.cloned().into_iter().collect(),
            },
        };
        for step in steps {
            list = self.step(step, list, scope)?;
        }
        Ok(list)
    }

    fn step(&self, step: &Step, input: List<'a>, scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        match step {
            Step::Member(name) => {
                let mut found = Vec::new();
                for node in &input {
                    member(node, name, &mut found);
                }
                self.spend(input.len() + found.len())?;
                Ok(found)
            }
            Step::Indexer(at) => match operators::singleton(&self.eval(at, scope)?)? {
                None => Ok(Vec::new()),
                Some(Node::Integer(at)) => Ok(usize::try_from(at).ok().and_then(|at| input.into_iter().nth(at)).into_iter().collect()),
                Some(_) => Err(EvalError::Type("an index is an integer")),
            },
            Step::Call(Function::Itself, _) => Ok(input),
            Step::Call(function, arguments) => {
                self.spend(input.len())?;
                self.call(*function, arguments, input, scope)
            }
            Step::Is(name) => self.is(input, name),
            Step::As(name) | Step::OfType(name) => self.of_type(input, name),
        }
    }

    fn variable(&self, name: &str) -> Result<List<'a>, EvalError> {
        if let Some((_, value)) = self.env.variables.iter().rev().find(|(given, _)| given == name) {
            let mut found = Vec::new();
            super::node::push_all(&mut found, value);
            return Ok(found);
        }
        let text = |text: &'static str| Ok(vec![Node::String(text.into())]);
        match name {
            "context" => Ok(vec![self.root.clone()]),
            "resource" => Ok(vec![self.env.resource.map_or_else(|| self.root.clone(), Node::root)]),
            "rootResource" => Ok(vec![self.env.container().map_or_else(|| self.root.clone(), Node::root)]),
            "sct" => text("http://snomed.info/sct"),
            "loinc" => text("http://loinc.org"),
            "ucum" => text("http://unitsofmeasure.org"),
            _ => {
                let (kind, rest) = name.split_once('-').unwrap_or(("", ""));
                let base = match kind {
                    "vs" => "http://hl7.org/fhir/ValueSet/",
                    "ext" => "http://hl7.org/fhir/StructureDefinition/",
                    _ => return Err(EvalError::Variable(name.to_owned())),
                };
                Ok(vec![Node::String(format!("{base}{rest}").into())])
            }
        }
    }

    fn signed(&self, operand: &Expr, negative: bool, scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        let Some(node) = operators::singleton(&self.eval(operand, scope)?)? else { return Ok(Vec::new()) };
        let signed = match node {
            Node::Integer(value) if negative => value.checked_neg().and_then(Node::integer),
            // The least Integer is written with the sign of what no Integer can be.
            Node::Decimal(value)
                if negative && matches!(operand, Expr::Literal(_)) && -value == Decimal::from(i32::MIN) && value.scale() == 0 =>
            {
                Some(Node::Integer(i64::from(i32::MIN)))
            }
            Node::Decimal(value) if negative => Some(Node::Decimal(-value)),
            Node::Quantity(mut quantity) if negative => {
                quantity.value = -quantity.value;
                Some(Node::Quantity(quantity))
            }
            node @ (Node::Integer(_) | Node::Decimal(_) | Node::Quantity(_)) => Some(node),
            _ => return Err(EvalError::Type("a sign needs a number")),
        };
        Ok(signed.into_iter().collect())
    }

    fn binary(&self, operator: Operator, left: &Expr, right: &Expr, scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        use Operator::*;
        if matches!(operator, And | Or | Xor | Implies) {
            return self.logic(operator, left, right, scope);
        }
        let (left, right) = (self.eval(left, scope)?, self.eval(right, scope)?);
        let boolean = |value: Option<bool>| Ok(value.map(Node::Boolean).into_iter().collect());
        match operator {
            Union => self.union(left, right),
            Equal => boolean(self.equal(&left, &right)?),
            NotEqual => boolean(self.equal(&left, &right)?.map(|equal| !equal)),
            Equivalent => boolean(Some(self.equivalent(&left, &right)?)),
            NotEquivalent => boolean(Some(!self.equivalent(&left, &right)?)),
            In => boolean(self.membership(left, &right)?),
            Contains => boolean(self.membership(right, &left)?),
            Less | LessOrEqual | Greater | GreaterOrEqual => boolean(operators::ordered(operator, &left, &right)?),
            _ => {
                let result = operators::arithmetic(operator, &left, &right)?;
                if let Some(Node::String(text)) = result.first() {
                    self.spend_text(text)?;
                }
                Ok(result)
            }
        }
    }

    fn logic(&self, operator: Operator, left: &Expr, right: &Expr, scope: Scope<'_, 'a>) -> Result<List<'a>, EvalError> {
        let left = self.criterion(left, scope)?;
        // What the left side decides alone is not evaluated further.
        let value = match (operator, left) {
            (Operator::And, Some(false)) => Some(false),
            (Operator::Or, Some(true)) => Some(true),
            (Operator::Implies, Some(false)) => Some(true),
            _ => {
                let right = self.criterion(right, scope)?;
                match (operator, left, right) {
                    (Operator::And, _, Some(false)) => Some(false),
                    (Operator::And, Some(true), Some(true)) => Some(true),
                    (Operator::Or, _, Some(true)) => Some(true),
                    (Operator::Or, Some(false), Some(false)) => Some(false),
                    (Operator::Xor, Some(left), Some(right)) => Some(left != right),
                    (Operator::Implies, Some(true), right) => right,
                    (Operator::Implies, None, Some(true)) => Some(true),
                    _ => None,
                }
            }
        };
        Ok(value.map(Node::Boolean).into_iter().collect())
    }

    /// `=` on collections: `None` when either is empty or it cannot be told.
    fn equal(&self, left: &[Node<'a>], right: &[Node<'a>]) -> Result<Option<bool>, EvalError> {
        if left.is_empty() || right.is_empty() {
            return Ok(None);
        }
        if left.len() != right.len() {
            return Ok(Some(false));
        }
        self.spend(left.len())?;
        let mut known = Some(true);
        for (a, b) in left.iter().zip(right) {
            match operators::equal(a, b) {
                Some(false) => return Ok(Some(false)),
                Some(true) => {}
                None => known = None,
            }
        }
        Ok(known)
    }

    /// `~` on collections: order does not matter.
    fn equivalent(&self, left: &[Node<'a>], right: &[Node<'a>]) -> Result<bool, EvalError> {
        if left.len() != right.len() {
            return Ok(false);
        }
        let mut open: Vec<&Node> = right.iter().collect();
        for a in left {
            self.spend(open.len())?;
            match open.iter().position(|b| operators::equivalent(a, b)) {
                Some(at) => open.swap_remove(at),
                None => return Ok(false),
            };
        }
        Ok(true)
    }

    fn membership(&self, item: List<'a>, list: &[Node<'a>]) -> Result<Option<bool>, EvalError> {
        match item.as_slice() {
            [] => Ok(None),
            [item] => Ok(Some(self.has(list, item)?)),
            _ => Err(EvalError::Type("the left side of 'in' is a single item")),
        }
    }

    /// Whether `list` has an item equal to `item`.
    pub fn has(&self, list: &[Node<'a>], item: &Node<'a>) -> Result<bool, EvalError> {
        self.spend(list.len())?;
        Ok(list.iter().any(|other| operators::equal(item, other) == Some(true)))
    }

    pub fn distinct(&self, list: List<'a>) -> Result<List<'a>, EvalError> {
        let mut kept: List<'a> = Vec::with_capacity(list.len());
        for node in list {
            if !self.has(&kept, &node)? {
                kept.push(node);
            }
        }
        Ok(kept)
    }

    pub fn union(&self, mut left: List<'a>, right: List<'a>) -> Result<List<'a>, EvalError> {
        left.extend(right);
        self.distinct(left)
    }

    fn is(&self, list: List<'a>, name: &TypeName) -> Result<List<'a>, EvalError> {
        known_type(name)?;
        match list.as_slice() {
            [] => Ok(Vec::new()),
            [node] => Ok(vec![Node::Boolean(node_is(node, name))]),
            _ => Err(EvalError::Type("'is' needs a single item")),
        }
    }

    fn of_type(&self, list: List<'a>, name: &TypeName) -> Result<List<'a>, EvalError> {
        known_type(name)?;
        Ok(list.into_iter().filter(|node| node_as(node, name)).collect())
    }
}

/// All that `name` leads to from `node`.
fn member<'a>(node: &Node<'a>, name: &str, found: &mut List<'a>) {
    match node {
        Node::Element(element) => element.member(name, found),
        Node::TypeInfo(info) => match name {
            "namespace" => found.push(Node::String(info.namespace.into())),
            "name" => found.push(Node::String(info.name.to_string().into())),
            _ => {}
        },
        Node::Quantity(quantity) => match name {
            "value" => found.push(Node::Decimal(quantity.value)),
            "unit" | "code" => found.extend(quantity.code().map(|code| Node::String(code.to_owned().into()))),
            _ => {}
        },
        _ => {}
    }
}

/// Whether the first name of a path is the type of what it starts at.
fn starts_at(this: &Node, name: &str) -> bool {
    match this {
        Node::Element(element) => {
            name.starts_with(|c: char| c.is_ascii_uppercase())
                && element.value.is_object()
                && element.type_name() != "object"
                && model::derives_from(element.type_name(), name)
        }
        _ => false,
    }
}

/// An unknown type's name is a mistake, not a type that nothing has.
fn known_type(name: &TypeName) -> Result<(), EvalError> {
    if name.is_known() { Ok(()) } else { Err(EvalError::UnknownType(name.name.to_string())) }
}

/// `is`: the type or one that it derives from.
pub(crate) fn node_is(node: &Node, name: &TypeName) -> bool {
    match node {
        Node::Element(element) => name.may_be_fhir() && model::derives_from(element.type_name(), &name.name),
        Node::Target(actual) => name.may_be_fhir() && model::derives_from(actual, &name.name),
        _ => name.may_be_system() && node.type_name() == &*name.name,
    }
}

/// `as` and `ofType`: like `is`, but a primitive is only what it is (a `code` is no `string`).
pub(crate) fn node_as(node: &Node, name: &TypeName) -> bool {
    match node {
        Node::Element(Element { value, .. }) if !value.is_object() => name.may_be_fhir() && node.type_name() == &*name.name,
        _ => node_is(node, name),
    }
}
