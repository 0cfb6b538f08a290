//! Precision and parts of values: boundaries, components of dates (<https://build.fhir.org/ig/HL7/FHIRPath/#utility-functions>).

use super::{Call, Function};
use crate::fhirpath::EvalError;
use crate::fhirpath::eval::List;
use crate::fhirpath::node::Node;
use crate::fhirpath::quantity::Quantity;
use crate::fhirpath::temporal::{Precision, TemporalKind};
use rust_decimal::{Decimal, RoundingStrategy};

pub(super) fn call<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    let Some(node) = call.single(input)? else { return Ok(Vec::new()) };
    let part = |at: Precision| match &node {
        Node::Temporal(moment) => Ok(moment.component(at).map(Node::Integer)),
        _ => call.error("needs a date or time"),
    };
    let moment = || match &node {
        Node::Temporal(moment) => Ok(*moment),
        _ => call.error("needs a date or time"),
    };
    let result = match call.function {
        Function::LowBoundary | Function::HighBoundary => {
            let digits = call.integer_argument(0)?;
            boundary(&node, call.function == Function::HighBoundary, digits)
        }
        Function::Precision => match &node {
            Node::Integer(value) => Some(Node::Integer(value.unsigned_abs().to_string().len() as i64)),
            Node::Decimal(value) => Some(Node::Integer(i64::from(value.scale()))),
            Node::Temporal(moment) => Some(Node::Integer(moment.digits())),
            _ => return call.error("needs a number, date or time"),
        },
        Function::Comparable => match (node, call.single(call.argument(0)?)?) {
            (Node::Quantity(a), Some(Node::Quantity(b))) => Some(Node::Boolean(a.comparable(&b))),
            (_, None) => None,
            _ => return call.error("needs quantities"),
        },
        Function::YearOf => part(Precision::Year)?,
        Function::MonthOf => part(Precision::Month)?,
        Function::DayOf => part(Precision::Day)?,
        Function::HourOf => part(Precision::Hour)?,
        Function::MinuteOf => part(Precision::Minute)?,
        Function::SecondOf => part(Precision::Second)?,
        Function::MillisecondOf => moment()?.millisecond().map(Node::Integer),
        Function::TimezoneOffsetOf => {
            moment()?.offset_minutes().and_then(|minutes| Decimal::from(minutes).checked_div(Decimal::from(60))).map(Node::Decimal)
        }
        Function::DateOf => moment()?.date().map(Node::Temporal),
        Function::TimeOf => moment()?.time().map(Node::Temporal),
        _ => return call.error("is not for values"),
    };
    Ok(result.into_iter().collect())
}

fn boundary(node: &Node, high: bool, digits: Option<i64>) -> Option<Node<'static>> {
    match node {
        Node::Integer(value) => decimal_boundary(Decimal::from(*value), high, digits).map(Node::Decimal),
        Node::Decimal(value) => decimal_boundary(*value, high, digits).map(Node::Decimal),
        Node::Quantity(quantity) => {
            let value = decimal_boundary(quantity.value, high, digits)?;
            Some(Node::Quantity(Box::new(Quantity { value, unit: quantity.unit.clone() })))
        }
        Node::Temporal(moment) => {
            let digits = digits.unwrap_or(match moment.kind {
                TemporalKind::Date => 8,
                TemporalKind::DateTime => 17,
                TemporalKind::Time => 9,
            });
            moment.boundary(high, digits).map(Node::Temporal)
        }
        _ => None,
    }
}

/// Half a unit of the last digit below or above, rounded outwards to `places` (8 by default).
fn decimal_boundary(value: Decimal, high: bool, places: Option<i64>) -> Option<Decimal> {
    let places = u32::try_from(places.unwrap_or(8)).ok().filter(|places| *places <= 28)?;
    let half = Decimal::new(5, value.scale().checked_add(1).filter(|scale| *scale <= 28)?);
    let edge = if high { value.checked_add(half)? } else { value.checked_sub(half)? };
    let strategy = if high { RoundingStrategy::ToPositiveInfinity } else { RoundingStrategy::ToNegativeInfinity };
    let mut rounded = edge.round_dp_with_strategy(places, strategy);
    rounded.rescale(places);
    Some(rounded)
}
