//! When a value is one that a profile fixes, or has what a pattern asks for (<https://hl7.org/fhir/R4/elementdefinition.html>).

use crate::fhir::decimal;
use serde_json::Value;

/// Equal, numbers by value: `1.0` is `1.00`.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (decimal::parse(&a.to_string()), decimal::parse(&b.to_string())) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b))),
        (a, b) => a == b,
    }
}

/// Whether `value` has at least what `pattern` has; an item of a pattern's array may be anywhere in the value's.
pub(super) fn matches(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => pattern.iter().all(|(key, p)| value.get(key).is_some_and(|v| matches(p, v))),
        (Value::Array(pattern), Value::Array(value)) => pattern.iter().all(|p| value.iter().any(|v| matches(p, v))),
        (pattern, value) => same(pattern, value),
    }
}
