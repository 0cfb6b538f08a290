//! Conversions (<http://hl7.org/fhirpath/N1/#conversion>): what does not convert gives nothing.

use super::{Call, Function};
use crate::fhirpath::EvalError;
use crate::fhirpath::eval::List;
use crate::fhirpath::node::Node;
use crate::fhirpath::quantity::{Quantity, Unit};
use crate::fhirpath::temporal::{Temporal, TemporalKind};
use crate::fhirpath::value::read_decimal;
use rust_decimal::Decimal;

pub(super) fn call<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    use Function::*;
    let Some(node) = call.single(input)? else { return Ok(Vec::new()) };
    let unit = call.text_argument(0)?;
    let converted = match call.function {
        ToBoolean | ConvertsToBoolean => to_boolean(&node).map(Node::Boolean),
        ToInteger | ConvertsToInteger => to_integer(&node).and_then(Node::integer),
        ToDecimal | ConvertsToDecimal => to_decimal(&node).map(Node::Decimal),
        ToString | ConvertsToString => to_text(&node).map(|text| Node::String(text.into())),
        ToDate | ConvertsToDate => to_moment(&node, TemporalKind::Date),
        ToDateTime | ConvertsToDateTime => to_moment(&node, TemporalKind::DateTime),
        ToTime | ConvertsToTime => to_moment(&node, TemporalKind::Time),
        _ => to_quantity(&node, unit.as_deref()).map(|quantity| Node::Quantity(Box::new(quantity))),
    };
    let asks = matches!(
        call.function,
        ConvertsToBoolean
            | ConvertsToInteger
            | ConvertsToDecimal
            | ConvertsToString
            | ConvertsToDate
            | ConvertsToDateTime
            | ConvertsToTime
            | ConvertsToQuantity
    );
    if asks {
        return Ok(vec![Node::Boolean(converted.is_some())]);
    }
    Ok(converted.into_iter().collect())
}

fn to_boolean(node: &Node) -> Option<bool> {
    match node {
        Node::Boolean(value) => Some(*value),
        Node::Integer(_) | Node::Decimal(_) => match node.as_decimal()? {
            one if one == Decimal::ONE => Some(true),
            zero if zero.is_zero() => Some(false),
            _ => None,
        },
        Node::String(text) => match text.to_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" | "1.0" => Some(true),
            "false" | "f" | "no" | "n" | "0" | "0.0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn to_integer(node: &Node) -> Option<i64> {
    match node {
        Node::Integer(value) => Some(*value),
        Node::Boolean(value) => Some(i64::from(*value)),
        Node::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn to_decimal(node: &Node) -> Option<Decimal> {
    match node {
        Node::Integer(_) | Node::Decimal(_) => node.as_decimal(),
        Node::Boolean(value) => Some(if *value { Decimal::ONE } else { Decimal::ZERO }),
        Node::String(text) => read_decimal(text),
        _ => None,
    }
}

pub(super) fn to_text(node: &Node) -> Option<String> {
    match node {
        Node::Boolean(value) => Some(value.to_string()),
        Node::Integer(value) => Some(value.to_string()),
        Node::Decimal(value) => Some(value.to_string()),
        Node::String(text) => Some(text.to_string()),
        Node::Temporal(moment) => Some(moment.to_string()),
        Node::Quantity(quantity) => Some(quantity.to_string()),
        _ => None,
    }
}

fn to_moment<'a>(node: &Node<'a>, kind: TemporalKind) -> Option<Node<'a>> {
    let moment = match node {
        Node::Temporal(moment) => *moment,
        Node::String(text) => match kind {
            TemporalKind::Time => Temporal::parse_time(text)?,
            _ => Temporal::parse_date_time(text)?,
        },
        _ => return None,
    };
    let converted = match kind {
        TemporalKind::Date => moment.date(),
        TemporalKind::DateTime => moment.date_time(),
        TemporalKind::Time => Some(moment).filter(|moment| moment.kind == TemporalKind::Time),
    };
    converted.map(Node::Temporal)
}

fn to_quantity(node: &Node, unit: Option<&str>) -> Option<Quantity> {
    let quantity = match node {
        Node::Integer(_) | Node::Decimal(_) => Quantity::new(node.as_decimal()?, "1"),
        Node::Boolean(value) => Quantity::new(Decimal::from(i64::from(*value)), "1"),
        Node::Quantity(quantity) => (**quantity).clone(),
        Node::String(text) => Quantity::parse(text)?,
        _ => return None,
    };
    match unit {
        None => Some(quantity),
        Some(code) => {
            let target = Quantity::new(Decimal::ZERO, code);
            let mut converted = target.add(&quantity, 1)?;
            converted.unit = Unit::Ucum(code.into());
            Some(converted)
        }
    }
}
