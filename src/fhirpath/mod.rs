//! FHIRPath (<http://hl7.org/fhirpath/N1>): one engine for search parameters, invariants, measures and mappings.
//!
//! In comes the text of an expression, parsed once into a small tree ([`Expression`]) that any number of threads may
//! evaluate; then JSON, FHIR or not. Out come [`Node`]s: parts of the input, borrowed and never cloned, each with what is
//! known of its type, or values that were computed. FHIR resources are typed by [`crate::definitions`], so `value` finds
//! `valueQuantity` and knows what it is; plain JSON has no types, there a member is a key.
//!
//! Numbers keep their digits, dates know how much of them is said, and what cannot be told is empty, not false.
//! Input can neither exhaust the stack (the parser limits depth) nor run for ever (work is counted).
//!
//! It must never know where resources are kept: `resolve()` gives a node that knows only the type which the reference
//! names, unless [`Env::with_resolver`] supplies more; `memberOf()` asks [`Env::with_member_of`], `conformsTo()` [`Env::with_conforms_to`].

mod ast;
mod check;
mod eval;
mod functions;
mod keys;
mod lexer;
mod model;
mod node;
mod operators;
mod parser;
mod quantity;
mod temporal;
pub mod ucum;
mod value;

#[cfg(test)]
mod tests;

pub use functions::target_type as reference_type;
pub use keys::{KeyPath, KeyStep, refers_to};
pub use node::{Element, Node, TypeInfo};
pub use quantity::{Quantity, Unit};
pub use temporal::{CalendarUnit, Precision, Temporal, TemporalKind};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use std::borrow::Cow;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {position})")]
pub struct ParseError {
    pub message: String,
    /// Bytes from the start of the text.
    pub position: usize,
}

/// Why an expression has no result. Never quotes the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("{0}")]
    Type(&'static str),
    #[error("{function}() {problem}")]
    Function { function: &'static str, problem: &'static str },
    #[error("there is no variable %{0}")]
    Variable(String),
    #[error("there is no type {0}")]
    UnknownType(String),
    #[error("the expression needs too much work on this input")]
    TooCostly,
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Box<str>,
    tree: ast::Expr,
}

impl Expression {
    pub fn parse(text: &str) -> Result<Expression, ParseError> {
        Ok(Expression { tree: parser::parse(text)?, text: text.into() })
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates on `root`, a FHIR resource (typed by its `resourceType`) or any JSON.
    pub fn evaluate<'a>(&self, root: &'a Value, env: &Env<'a>) -> Result<Vec<Node<'a>>, EvalError> {
        self.evaluate_on(Node::root(root), env)
    }

    /// Evaluates on a node that an earlier evaluation gave.
    pub fn evaluate_on<'a>(&self, root: Node<'a>, env: &Env<'a>) -> Result<Vec<Node<'a>>, EvalError> {
        let evaluation = eval::Evaluation::new(env, root);
        let this = evaluation.root.clone();
        evaluation.eval(&self.tree, eval::Scope::of(&this))
    }

    /// The result as a condition: `None` when it is empty, an error when it has several items.
    pub fn is_true<'a>(&self, root: Node<'a>, env: &Env<'a>) -> Result<Option<bool>, EvalError> {
        operators::truth(&self.evaluate_on(root, env)?)
    }
}

/// Gives the resource that a reference means.
pub type Resolver<'a> = &'a (dyn Fn(&str) -> Option<&'a Value> + 'a);
/// Whether a code, Coding or CodeableConcept is in the value set with this url; `None` when it is not known.
pub type MemberOf<'a> = &'a (dyn Fn(&Value, &str) -> Option<bool> + 'a);

/// Whether a node conforms to the profile with this url; `None` when that is not known.
pub type ConformsTo<'a> = &'a (dyn Fn(&Node<'a>, &str) -> Option<bool> + 'a);

/// What an expression may ask of its surroundings.
#[derive(Clone)]
pub struct Env<'a> {
    variables: Vec<(Cow<'a, str>, &'a Value)>,
    resource: Option<&'a Value>,
    root_resource: Option<&'a Value>,
    resolver: Option<Resolver<'a>>,
    member_of: Option<MemberOf<'a>>,
    conforms_to: Option<ConformsTo<'a>>,
    now: Option<Timestamp>,
    zone: TimeZone,
}

impl Default for Env<'_> {
    fn default() -> Self {
        Env {
            variables: Vec::new(),
            resource: None,
            root_resource: None,
            resolver: None,
            member_of: None,
            conforms_to: None,
            now: None,
            zone: TimeZone::UTC,
        }
    }
}

impl<'a> Env<'a> {
    /// Gives `%name` a value; a list is a collection. A later value hides an earlier one.
    pub fn with_var(mut self, name: impl Into<Cow<'a, str>>, value: &'a Value) -> Self {
        self.variables.push((name.into(), value));
        self
    }

    /// `%resource`, where it is not what the expression is evaluated on.
    pub fn with_resource(mut self, resource: &'a Value) -> Self {
        self.resource = Some(resource);
        self
    }

    /// `%rootResource`, where it is not `%resource`: the container of a contained resource.
    pub fn with_root_resource(mut self, resource: &'a Value) -> Self {
        self.root_resource = Some(resource);
        self
    }

    /// What `#id` is looked up in.
    pub(crate) fn container(&self) -> Option<&'a Value> {
        self.root_resource.or(self.resource)
    }

    /// Supplies the targets of references.
    pub fn with_resolver(mut self, resolver: Resolver<'a>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Answers `memberOf()`.
    pub fn with_member_of(mut self, member_of: MemberOf<'a>) -> Self {
        self.member_of = Some(member_of);
        self
    }

    /// Answers `conformsTo()` for profiles; base types it knows itself.
    pub fn with_conforms_to(mut self, conforms_to: ConformsTo<'a>) -> Self {
        self.conforms_to = Some(conforms_to);
        self
    }

    /// Fixes `now()` and `today()`, and the zone that they are said in.
    pub fn at(mut self, now: Timestamp, zone: TimeZone) -> Self {
        self.now = Some(now);
        self.zone = zone;
        self
    }
}
