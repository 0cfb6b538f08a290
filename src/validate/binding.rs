//! Whether a coded value is of a value set: R4's own lists first, then whoever keeps terminology.

use crate::definitions::r4;
use crate::terminology::Terminology;
use serde_json::Value;

/// Answers which codes a value set has, so that this room need not know where value sets are kept.
pub trait Codes: Send + Sync {
    /// Whether the value set (canonical URL, `|version` allowed) has `code` of `system`, or of any of its systems when that is
    /// implied. `None` when it cannot be told.
    fn has(&self, value_set: &str, system: Option<&str>, code: &str) -> Option<bool>;
}

/// Knows no value set.
impl Codes for () {
    fn has(&self, _: &str, _: Option<&str>, _: &str) -> Option<bool> {
        None
    }
}

impl Codes for Terminology {
    fn has(&self, value_set: &str, system: Option<&str>, code: &str) -> Option<bool> {
        match system {
            Some(system) => self.is_member(value_set, system, code),
            None => self.is_member_of_any_system(value_set, code),
        }
    }
}

/// Whether a code, Coding, Quantity or CodeableConcept is of the value set; of a CodeableConcept one coding must be. `None` when
/// the value set is not known.
pub(super) fn has(codes: &dyn Codes, value_set: &str, value: &Value) -> Option<bool> {
    let listed = r4().code_set(value_set);
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let coding = |coding: &Value| match (text(coding, "system"), text(coding, "code")) {
        (Some(system), Some(code)) => match listed {
            Some(listed) => Some(listed.contains(&system, &code)),
            None => codes.has(value_set, Some(&system), &code),
        },
        _ => Some(false),
    };
    match value {
        Value::String(code) => match listed {
            Some(listed) => Some(listed.contains_code(code)),
            None => codes.has(value_set, None, code),
        },
        Value::Object(map) if map.contains_key("coding") => {
            let mut answer = Some(false);
            for one in map.get("coding").and_then(Value::as_array).into_iter().flatten() {
                match coding(one) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => answer = None,
                }
            }
            answer
        }
        Value::Object(map) if map.contains_key("code") => coding(value),
        _ => Some(false),
    }
}

/// Whether there is a code to judge at all: a CodeableConcept may be a text alone.
pub(super) fn is_coded(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("coding") || map.contains_key("code"),
        _ => value.is_string(),
    }
}
