//! FHIRPath in templates. Most expressions only name a member, so those are walked here without the engine.

use crate::fhirpath::{Env, EvalError, Expression, Node, ParseError};
use serde_json::Value;
use std::borrow::Cow;

/// What an expression sees: the item it is said of and the variables.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    pub item: &'a Value,
    pub vars: Vec<(&'a str, &'a Value)>,
    /// Where the item stands in the payload, for reports.
    pub path: &'a str,
}

impl<'a> Scope<'a> {
    pub fn with<'b>(&self, name: &'b str, value: &'b Value) -> Scope<'b>
    where
        'a: 'b,
    {
        let mut scope: Scope<'b> = self.clone();
        scope.vars.push((name, value));
        scope
    }

    fn var(&self, name: &str) -> Option<&'a Value> {
        self.vars.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
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

    /// `a.b` when that is all the expression says: the source path relative to its item.
    pub fn member(&self) -> Option<String> {
        match self {
            Expr::Path { root: None, steps } => Some(steps.join(".")),
            _ => None,
        }
    }

    /// Where the `index`th result stands in the payload, as far as that can be said.
    pub fn place(&self, scope: &Scope<'_>, index: usize) -> String {
        let Expr::Path { root: None, steps } = self else { return scope.path.to_owned() };
        let mut place = scope.path.to_owned();
        let mut value = Some(scope.item);
        for step in steps {
            place.push('.');
            place.push_str(step);
            value = value.and_then(|value| value.get(step));
        }
        // A list on the way would need its own index; then the last step's list is the one meant.
        if value.is_none_or(Value::is_array) {
            place.push_str(&format!("[{index}]"));
        }
        place
    }

    pub fn eval<'a>(&self, scope: &Scope<'a>) -> Result<Vec<Cow<'a, Value>>, EvalError> {
        match self {
            Expr::Path { root, steps } => {
                let start = match root {
                    None => Some(scope.item),
                    Some(name) => Some(scope.var(name).ok_or_else(|| EvalError::Variable(name.clone()))?),
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
    scope.vars.iter().fold(Env::default(), |env, (name, value)| env.with_var(*name, value))
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
