//! The compiled form of an expression: a small tree whose depth the parser bounds.

use super::functions::Function;
use super::node::Node;

/// One expression.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    /// `{}`.
    Empty,
    Literal(Node<'static>),
    This,
    Index,
    Total,
    /// `%name`.
    Variable(Box<str>),
    /// Steps taken from `base`, or from `$this` without one. Flat, so that a long chain is no deep tree.
    Path {
        base: Option<Box<Expr>>,
        steps: Vec<Step>,
    },
    Negate(Box<Expr>),
    /// Unary plus: its operand must be a number.
    Plus(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Is(Box<Expr>, TypeName),
    As(Box<Expr>, TypeName),
}

/// One step of a path.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Member(Box<str>),
    Indexer(Expr),
    Call(Function, Vec<Expr>),
    Is(TypeName),
    As(TypeName),
    OfType(TypeName),
}

/// `System.Boolean`, `FHIR.Patient`, `Patient`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeName {
    pub namespace: Option<Box<str>>,
    pub name: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Implies,
    Or,
    Xor,
    And,
    In,
    Contains,
    Equal,
    NotEqual,
    Equivalent,
    NotEquivalent,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Union,
    Add,
    Subtract,
    Concatenate,
    Multiply,
    Divide,
    Div,
    Mod,
}
