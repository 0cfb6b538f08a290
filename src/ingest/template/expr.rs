//! FHIRPath in templates. Most expressions only name a member, so those are walked here without the engine.

use crate::fhirpath::{Env, EvalError, Expression, Node, ParseError};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;

/// What an expression sees: the item it is said of and the variables.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub item: &'a Value,
    pub vars: Option<&'a Var<'a>>,
}

/// A variable and those bound before it: a chain through the callers' stacks, so that binding one costs nothing.
pub(super) struct Var<'a> {
    name: &'a str,
    value: &'a Value,
    outer: Option<&'a Var<'a>>,
}

impl<'a> Scope<'a> {
    pub fn of(item: &'a Value) -> Scope<'a> {
        Scope { item, vars: None }
    }

    /// A variable bound inside this scope; [`Scope::within`] makes it seen.
    pub fn var<'b>(&self, name: &'b str, value: &'b Value) -> Var<'b>
    where
        'a: 'b,
    {
        Var { name, value, outer: self.vars }
    }

    pub fn within<'b>(&self, vars: &'b Var<'b>) -> Scope<'b>
    where
        'a: 'b,
    {
        Scope { item: self.item, vars: Some(vars) }
    }

    fn vars(&self) -> impl Iterator<Item = &'a Var<'a>> + use<'a> {
        std::iter::successors(self.vars, |var| var.outer)
    }

    fn find(&self, name: &str) -> Option<&'a Value> {
        self.vars().find(|var| var.name == name).map(|var| var.value)
    }
}

/// How a list stands in the item that should hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Absent,
    /// An entry of it could not be read: what it makes is not all that it says.
    Partial,
    Whole,
}

#[derive(Debug)]
pub(super) enum Expr {
    /// `a.b`, `%name.a`, `$this`.
    Path {
        root: Option<String>,
        steps: Vec<String>,
    },
    Full(Box<Expression>),
}

impl Expr {
    pub fn compile(text: &str) -> Result<Expr, ParseError> {
        Ok(match simple(text) {
            Some(path) => path,
            None => Expr::Full(Box::new(Expression::parse(text)?)),
        })
    }

    /// Whether the expression only walks members of `%name`, and so gives parts of it.
    pub fn is_of(&self, name: &str) -> bool {
        matches!(self, Expr::Path { root: Some(root), .. } if root == name)
    }

    /// `a.b` when the expression only walks members of its item.
    pub fn member(&self) -> Option<String> {
        match self {
            Expr::Path { root: None, steps } => Some(steps.join(".")),
            _ => None,
        }
    }

    /// How the list that the expression names stands in the item. An empty list is there, and says that there is nothing.
    pub fn presence(&self, scope: &Scope<'_>) -> Presence {
        let Expr::Path { root: None, steps } = self else { return Presence::Absent };
        match steps.iter().try_fold(scope.item, |value, step| value.get(step)) {
            None | Some(Value::Null) => Presence::Absent,
            Some(Value::Array(items)) if items.iter().any(Value::is_null) => Presence::Partial,
            Some(_) => Presence::Whole,
        }
    }

    pub fn eval<'a>(&self, scope: &Scope<'a>) -> Result<Vec<Cow<'a, Value>>, EvalError> {
        match self {
            Expr::Path { root, steps } => {
                let start = match root {
                    None => Some(scope.item),
                    Some(name) => Some(scope.find(name).ok_or_else(|| EvalError::Variable(name.clone()))?),
                };
                let mut found = Vec::new();
                if let Some(start) = start {
                    walk(start, steps, &mut found);
                }
                Ok(found.into_iter().map(Cow::Borrowed).collect())
            }
            Expr::Full(expression) => {
                let nodes = expression.evaluate(scope.item, &environment(scope))?;
                Ok(nodes.iter().map(Node::as_json).collect())
            }
        }
    }

    /// The expression as a condition: only a plain `true` holds.
    pub fn holds(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        Ok(self.truth(scope)? == Some(true))
    }

    /// True, false, or neither.
    pub fn truth(&self, scope: &Scope<'_>) -> Result<Option<bool>, EvalError> {
        match self {
            Expr::Path { .. } => Ok(self.eval(scope)?.first().and_then(|value| value.as_bool())),
            Expr::Full(expression) => expression.is_true(Node::root(scope.item), &environment(scope)),
        }
    }
}

fn environment<'a>(scope: &Scope<'a>) -> Env<'a> {
    // The innermost binding of a name hides the others, so it is given last.
    let vars: Vec<&Var<'a>> = scope.vars().collect();
    vars.into_iter().rev().fold(Env::default(), |env, var| env.with_var(var.name, var.value))
}

/// Where `wanted` (an address, compared and never followed) stands below `root`, in the words of a path from `start`.
pub(super) fn locate(root: &Value, start: &str, wanted: usize) -> Option<String> {
    fn search(value: &Value, wanted: usize, path: &mut String) -> bool {
        if std::ptr::from_ref(value).addr() == wanted {
            return true;
        }
        let length = path.len();
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let _ = write!(path, "[{index}]");
                    if search(item, wanted, path) {
                        return true;
                    }
                    path.truncate(length);
                }
            }
            Value::Object(map) => {
                for (key, value) in map {
                    // Below an object that the schema leaves open a key may hold anything.
                    if super::schema::is_plain(key) {
                        let dot = if path.is_empty() { "" } else { "." };
                        let _ = write!(path, "{dot}{key}");
                    }
                    if search(value, wanted, path) {
                        return true;
                    }
                    path.truncate(length);
                }
            }
            _ => {}
        }
        false
    }
    let mut path = start.to_owned();
    search(root, wanted, &mut path).then_some(path)
}

fn walk<'a>(value: &'a Value, steps: &[String], found: &mut Vec<&'a Value>) {
    match (value, steps) {
        (Value::Null, _) => {}
        // A list in a list is no collection that FHIRPath could name.
        (Value::Array(items), _) => items.iter().filter(|item| !item.is_array()).for_each(|item| walk(item, steps, found)),
        (value, []) => found.push(value),
        (Value::Object(map), [step, rest @ ..]) => {
            if let Some(value) = map.get(step) {
                walk(value, rest, found);
            }
        }
        _ => {}
    }
}

fn simple(text: &str) -> Option<Expr> {
    let mut steps = text.trim().split('.');
    let first = steps.next()?;
    let rest: Vec<String> = steps.map(|step| is_name(step).then(|| step.to_owned())).collect::<Option<_>>()?;
    if first == "$this" {
        return Some(Expr::Path { root: None, steps: rest });
    }
    if let Some(name) = first.strip_prefix('%') {
        let engines_own = ["context", "resource", "rootResource", "ucum", "sct", "loinc"].contains(&name);
        return (is_name(name) && !engines_own).then(|| Expr::Path { root: Some(name.to_owned()), steps: rest });
    }
    // A capital would be a type to the engine.
    if !is_name(first) || first.starts_with(|c: char| c.is_ascii_uppercase()) || ["true", "false"].contains(&first) {
        return None;
    }
    Some(Expr::Path { root: None, steps: std::iter::once(first.to_owned()).chain(rest).collect() })
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
