//! Operators on single items: equality, equivalence, order, arithmetic (<http://hl7.org/fhirpath/N1/#operations>).

use super::EvalError;
use super::ast::Operator;
use super::model::Type;
use super::node::{Element, Node};
use super::quantity::{Quantity, Unit};
use super::temporal::{CalendarUnit, Temporal, TemporalKind};
use super::value;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::Value;
use std::cmp::Ordering;

/// Texts that operators build may not grow beyond this.
pub(crate) const MAX_TEXT: usize = 1_000_000;

/// The only item of a list, as a System value.
pub(crate) fn singleton<'a>(list: &[Node<'a>]) -> Result<Option<Node<'a>>, EvalError> {
    match list {
        [] => Ok(None),
        [node] => Ok(Some(node.to_system())),
        _ => Err(EvalError::Type("a single item is needed here")),
    }
}

/// A list as a condition: a single item that is no boolean is true.
pub(crate) fn truth(list: &[Node]) -> Result<Option<bool>, EvalError> {
    match list {
        [] => Ok(None),
        [node] => Ok(Some(node.as_bool().unwrap_or(true))),
        _ => Err(EvalError::Type("a condition is a single item")),
    }
}

/// Both items as System values that can be compared: text of no known type is read as a date beside a date.
fn pair<'a>(a: &Node<'a>, b: &Node<'a>) -> (Node<'a>, Node<'a>) {
    let (left, right) = (a.to_system(), b.to_system());
    match (&left, &right) {
        (Node::String(text), Node::Temporal(moment)) if is_untyped(a) => match read_like(text, moment) {
            Some(read) => (Node::Temporal(read), right),
            None => (left, right),
        },
        (Node::Temporal(moment), Node::String(text)) if is_untyped(b) => match read_like(text, moment) {
            Some(read) => (left, Node::Temporal(read)),
            None => (left, right),
        },
        (Node::Integer(_) | Node::Decimal(_), Node::Quantity(_)) => (number_quantity(&left).unwrap_or(left), right),
        (Node::Quantity(_), Node::Integer(_) | Node::Decimal(_)) => {
            let number = number_quantity(&right).unwrap_or(right);
            (left, number)
        }
        (Node::Quantity(_), Node::Element(element)) => match element.quantity() {
            Some(quantity) => (left, Node::Quantity(Box::new(quantity))),
            None => (left, right),
        },
        (Node::Element(element), Node::Quantity(_)) => match element.quantity() {
            Some(quantity) => (Node::Quantity(Box::new(quantity)), right),
            None => (left, right),
        },
        _ => (left, right),
    }
}

fn is_untyped(node: &Node) -> bool {
    matches!(node, Node::Element(Element { ty: Type::Unknown, .. }))
}

fn read_like(text: &str, moment: &Temporal) -> Option<Temporal> {
    match moment.kind {
        TemporalKind::Time => Temporal::parse_time(text),
        _ => Temporal::parse_date(text).or_else(|| Temporal::parse_date_time(text)),
    }
}

fn number_quantity(node: &Node) -> Option<Node<'static>> {
    node.as_decimal().map(|value| Node::Quantity(Box::new(Quantity::new(value, "1"))))
}

/// `=` of two items; `None` when it cannot be told.
pub(crate) fn equal(a: &Node, b: &Node) -> Option<bool> {
    if let (Node::Element(x), Node::Element(y)) = (a, b) {
        // The commonest case by far: two texts that are no dates.
        if let (Value::String(x_text), Value::String(y_text)) = (x.value, y.value)
            && x_text == y_text
        {
            return Some(true);
        }
        if std::ptr::eq(x.value, y.value) && x.value.is_object() {
            return Some(true);
        }
    }
    match pair(a, b) {
        (Node::Temporal(x), Node::Temporal(y)) if (x.kind == TemporalKind::Time) != (y.kind == TemporalKind::Time) => Some(false),
        (Node::Temporal(x), Node::Temporal(y)) => x.compare(y).map(Ordering::is_eq),
        (Node::Quantity(x), Node::Quantity(y)) => x.compare(&y).map(Ordering::is_eq),
        (Node::Element(x), Node::Element(y)) => Some(same_json(x.value, y.value) && same_extra(x.extra, y.extra)),
        (Node::TypeInfo(x), Node::TypeInfo(y)) => Some(x == y),
        (Node::Target(x), Node::Target(y)) => Some(x == y),
        (x, y) => Some(same_primitive(&x, &y)),
    }
}

fn same_primitive(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::Boolean(a), Node::Boolean(b)) => a == b,
        (Node::String(a), Node::String(b)) => a == b,
        (Node::Integer(a), Node::Integer(b)) => a == b,
        (Node::Integer(_) | Node::Decimal(_), Node::Integer(_) | Node::Decimal(_)) => a.as_decimal() == b.as_decimal(),
        _ => false,
    }
}

fn same_extra(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => same_json(a, b),
        _ => false,
    }
}

/// Deep equality; numbers by their value.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same_json(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b)),
        (Value::Number(a), Value::Number(b)) => {
            a == b || value::read_decimal(a.as_str()).is_some_and(|x| value::read_decimal(b.as_str()) == Some(x))
        }
        _ => a == b,
    }
}

/// `~` of two items.
pub(crate) fn equivalent(a: &Node, b: &Node) -> bool {
    match pair(a, b) {
        (Node::Temporal(x), Node::Temporal(y)) => x.compare(y).is_some_and(Ordering::is_eq),
        (Node::Quantity(x), Node::Quantity(y)) => x.equivalent(&y),
        (Node::String(x), Node::String(y)) => value::fold_case(&x) == value::fold_case(&y),
        (Node::Element(x), Node::Element(y)) => similar_json(x.value, y.value),
        (Node::TypeInfo(x), Node::TypeInfo(y)) => x == y,
        (x @ (Node::Integer(_) | Node::Decimal(_)), y @ (Node::Integer(_) | Node::Decimal(_))) => match (x.as_decimal(), y.as_decimal()) {
            (Some(x), Some(y)) => value::decimals_equivalent(x, y),
            _ => false,
        },
        (x, y) => same_primitive(&x, &y),
    }
}

/// Like equality, but ids do not count, texts are folded and lists are sets.
fn similar_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let counted = |key: &str| key != "id";
            a.keys().filter(|key| counted(key)).count() == b.keys().filter(|key| counted(key)).count()
                && a.iter().filter(|(key, _)| counted(key)).all(|(key, value)| b.get(key).is_some_and(|other| similar_json(value, other)))
        }
        // Of a list too long to try every pair, the order counts.
        (Value::Array(a), Value::Array(b)) if a.len() > 100 => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| similar_json(x, y)),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| similar_json(x, y))),
        (Value::String(a), Value::String(b)) => a == b || value::fold_case(a) == value::fold_case(b),
        _ => same_json(a, b),
    }
}

/// Order of two items; `None` when it cannot be told, an error when they are of different kinds.
pub(crate) fn compare(a: &Node, b: &Node) -> Result<Option<Ordering>, EvalError> {
    match pair(a, b) {
        (Node::String(x), Node::String(y)) => Ok(Some(x.cmp(&y))),
        (Node::Temporal(x), Node::Temporal(y)) if (x.kind == TemporalKind::Time) == (y.kind == TemporalKind::Time) => Ok(x.compare(y)),
        (Node::Quantity(x), Node::Quantity(y)) => Ok(x.compare(&y)),
        (x @ (Node::Integer(_) | Node::Decimal(_)), y @ (Node::Integer(_) | Node::Decimal(_))) => {
            Ok(x.as_decimal().zip(y.as_decimal()).map(|(x, y)| x.cmp(&y)))
        }
        _ => Err(EvalError::Type("values of different types have no order")),
    }
}

pub(crate) fn ordered(operator: Operator, left: &[Node], right: &[Node]) -> Result<Option<bool>, EvalError> {
    match (left, right) {
        ([a], [b]) => Ok(compare(a, b)?.map(|order| match operator {
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            _ => order.is_ge(),
        })),
        ([], _) | (_, []) => Ok(None),
        _ => Err(EvalError::Type("a comparison needs single items")),
    }
}

pub(crate) fn arithmetic<'a>(operator: Operator, left: &[Node<'a>], right: &[Node<'a>]) -> Result<Vec<Node<'a>>, EvalError> {
    let (left, right) = (singleton(left)?, singleton(right)?);
    if operator == Operator::Concatenate {
        return concatenate(left, right);
    }
    let (Some(left), Some(right)) = (left, right) else { return Ok(Vec::new()) };
    let result = match (left, right) {
        (Node::Integer(a), Node::Integer(b)) => integers(operator, a, b),
        (Node::String(a), Node::String(b)) if operator == Operator::Add => {
            return concatenate(Some(Node::String(a)), Some(Node::String(b)));
        }
        (Node::Temporal(moment), Node::Quantity(step)) => moved(operator, moment, &step)?,
        (Node::Quantity(a), Node::Quantity(b)) => quantities(operator, &a, &b)?,
        (Node::Quantity(a), b @ (Node::Integer(_) | Node::Decimal(_))) => {
            let Some(Node::Quantity(b)) = number_quantity(&b) else { return Ok(Vec::new()) };
            quantities(operator, &a, &b)?
        }
        (a @ (Node::Integer(_) | Node::Decimal(_)), Node::Quantity(b)) => {
            let Some(Node::Quantity(a)) = number_quantity(&a) else { return Ok(Vec::new()) };
            quantities(operator, &a, &b)?
        }
        (a, b) => match (a.as_decimal(), b.as_decimal()) {
            (Some(a), Some(b)) => decimals(operator, a, b),
            _ => return Err(EvalError::Type("this arithmetic is not defined for values of these types")),
        },
    };
    Ok(result.into_iter().collect())
}

fn concatenate<'a>(left: Option<Node<'a>>, right: Option<Node<'a>>) -> Result<Vec<Node<'a>>, EvalError> {
    let text = |node: Option<Node<'a>>| match node {
        None => Ok("".into()),
        Some(Node::String(text)) => Ok(text),
        Some(Node::Integer(value)) => Ok(value.to_string().into()),
        Some(node @ Node::Temporal(_)) => Ok(node.as_str().unwrap_or_default()),
        Some(_) => Err(EvalError::Type("'&' and '+' join strings")),
    };
    let (left, right) = (text(left)?, text(right)?);
    if left.len().saturating_add(right.len()) > MAX_TEXT {
        return Err(EvalError::TooCostly);
    }
    Ok(vec![Node::String(left + right)])
}

fn integers(operator: Operator, a: i64, b: i64) -> Option<Node<'static>> {
    match operator {
        Operator::Add => a.checked_add(b).and_then(Node::integer),
        Operator::Subtract => a.checked_sub(b).and_then(Node::integer),
        Operator::Multiply => a.checked_mul(b).and_then(Node::integer),
        Operator::Div => a.checked_div(b).and_then(Node::integer),
        Operator::Mod => a.checked_rem(b).map(Node::Integer),
        _ => decimals(operator, Decimal::from(a), Decimal::from(b)),
    }
}

fn decimals(operator: Operator, a: Decimal, b: Decimal) -> Option<Node<'static>> {
    match operator {
        Operator::Add => a.checked_add(b).map(Node::Decimal),
        Operator::Subtract => a.checked_sub(b).map(Node::Decimal),
        Operator::Multiply => a.checked_mul(b).map(Node::Decimal),
        Operator::Divide => a.checked_div(b).map(Node::Decimal),
        Operator::Div => a.checked_div(b).and_then(|quotient| quotient.trunc().to_i64()).and_then(Node::integer),
        Operator::Mod => a.checked_rem(b).map(Node::Decimal),
        _ => None,
    }
}

fn quantities(operator: Operator, a: &Quantity, b: &Quantity) -> Result<Option<Node<'static>>, EvalError> {
    let result = match operator {
        Operator::Add => a.add(b, 1),
        Operator::Subtract => a.add(b, -1),
        Operator::Multiply if is_one(b) => a.value.checked_mul(b.value).map(|value| Quantity { value, unit: a.unit.clone() }),
        Operator::Multiply if is_one(a) => a.value.checked_mul(b.value).map(|value| Quantity { value, unit: b.unit.clone() }),
        Operator::Divide if is_one(b) => a.value.checked_div(b.value).map(|value| Quantity { value, unit: a.unit.clone() }),
        Operator::Multiply => a.times(b, 1),
        Operator::Divide => a.times(b, -1),
        _ => return Err(EvalError::Type("div and mod are not defined for quantities")),
    };
    Ok(result.map(|quantity| Node::Quantity(Box::new(quantity))))
}

fn is_one(quantity: &Quantity) -> bool {
    matches!(&quantity.unit, Unit::Ucum(code) if &**code == "1")
}

/// A date or time plus or minus a length of time.
fn moved(operator: Operator, moment: Temporal, step: &Quantity) -> Result<Option<Node<'static>>, EvalError> {
    let sign = match operator {
        Operator::Add => Decimal::ONE,
        Operator::Subtract => Decimal::NEGATIVE_ONE,
        _ => return Err(EvalError::Type("a date can only be added to or subtracted from")),
    };
    let unit = match &step.unit {
        Unit::Calendar(unit) => *unit,
        Unit::Ucum(code) => match &**code {
            "wk" => CalendarUnit::Week,
            "d" => CalendarUnit::Day,
            "h" => CalendarUnit::Hour,
            "min" => CalendarUnit::Minute,
            "s" => CalendarUnit::Second,
            "ms" => CalendarUnit::Millisecond,
            // Quoted words of the calendar are taken as such.
            word => match CalendarUnit::from_keyword(word) {
                Some(unit) => unit,
                None => return Err(EvalError::Type("only a length of time of definite or calendar units can be added to a date")),
            },
        },
    };
    let signed = step.value * sign;
    // Only seconds may have a fraction; of all others it is ignored.
    let (count, unit) = match unit {
        CalendarUnit::Second if !signed.fract().is_zero() => {
            (signed.checked_mul(Decimal::ONE_THOUSAND).map(|millis| millis.trunc()), CalendarUnit::Millisecond)
        }
        _ => (Some(signed.trunc()), unit),
    };
    Ok(count.and_then(|count| count.to_i64()).and_then(|count| moment.plus(count, unit)).map(Node::Temporal))
}
