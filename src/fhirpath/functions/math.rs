//! Mathematics (<http://hl7.org/fhirpath/N1/#math>): what has no result gives nothing.

use super::{Call, Function};
use crate::fhirpath::EvalError;
use crate::fhirpath::ast::Operator;
use crate::fhirpath::eval::List;
use crate::fhirpath::node::Node;
use crate::fhirpath::operators;
use crate::fhirpath::value;
use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};

pub(super) fn call<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    use Function::*;
    if matches!(call.function, Sum | Min | Max | Avg) {
        return summary(call, input);
    }
    let Some(node) = call.single(input)? else { return Ok(Vec::new()) };
    if let (Abs, Node::Quantity(quantity)) = (call.function, &node) {
        let mut quantity = quantity.clone();
        quantity.value = quantity.value.abs();
        return Ok(vec![Node::Quantity(quantity)]);
    }
    let Some(number) = node.as_decimal() else { return call.error("needs a number") };
    let integer = |value: Decimal| value.to_i64().and_then(Node::integer);
    let result = match call.function {
        Abs => match node {
            Node::Integer(value) => value.checked_abs().and_then(Node::integer),
            _ => Some(Node::Decimal(number.abs())),
        },
        Ceiling => integer(number.ceil()),
        Floor => integer(number.floor()),
        Truncate => integer(number.trunc()),
        Round => match call.integer_argument(0)?.map(u32::try_from) {
            None => Some(Node::Decimal(value::round(number, 0))),
            Some(Ok(places)) => Some(Node::Decimal(value::round(number, places.min(28)))),
            Some(Err(_)) => return call.error("takes a number of places that is not negative"),
        },
        Sqrt => real(number, f64::sqrt),
        Exp => real(number, f64::exp),
        Ln => real(number, f64::ln),
        Log => match operand(call)? {
            Some(base) => real(number, |x| x.ln() / base.to_f64().unwrap_or(f64::NAN).ln()),
            None => None,
        },
        Power => match operand(call)? {
            Some(exponent) => power(&node, number, exponent),
            None => None,
        },
        _ => return call.error("is not for numbers"),
    };
    Ok(result.into_iter().collect())
}

fn operand(call: &Call) -> Result<Option<Decimal>, EvalError> {
    match call.single(call.argument(0)?)? {
        None => Ok(None),
        Some(node) => match node.as_decimal() {
            Some(value) => Ok(Some(value)),
            None => call.error("takes a number"),
        },
    }
}

/// Through binary fractions, to the 15 digits that they hold.
fn real(number: Decimal, function: impl Fn(f64) -> f64) -> Option<Node<'static>> {
    let result = function(number.to_f64()?);
    if !result.is_finite() {
        return None;
    }
    Decimal::from_f64(result).map(|value| Node::Decimal(value.normalize()))
}

fn power(node: &Node, number: Decimal, exponent: Decimal) -> Option<Node<'static>> {
    if exponent.fract().is_zero()
        && let Some(count) = exponent.to_i32()
        && (0..=1_000).contains(&count)
    {
        let product = (0..count).try_fold(Decimal::ONE, |product, _| product.checked_mul(number))?;
        return match node {
            Node::Integer(_) => product.to_i64().and_then(Node::integer),
            _ => Some(Node::Decimal(product)),
        };
    }
    let exponent = exponent.to_f64()?;
    real(number, |x| x.powf(exponent))
}

fn summary<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    let count = input.len() as i64;
    let mut items = input.into_iter().map(|node| node.to_system());
    let Some(mut result) = items.next() else { return Ok(Vec::new()) };
    for node in items {
        result = match call.function {
            Function::Min | Function::Max => {
                let wanted = if call.function == Function::Min { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
                if operators::compare(&node, &result)? == Some(wanted) { node } else { result }
            }
            _ => match operators::arithmetic(Operator::Add, &[result], &[node])?.pop() {
                Some(sum) => sum,
                None => return Ok(Vec::new()),
            },
        };
    }
    if call.function == Function::Avg {
        return operators::arithmetic(Operator::Divide, &[result], &[Node::Integer(count)]);
    }
    Ok(vec![result])
}
