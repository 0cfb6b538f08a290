//! References to what is not there, or no longer.

use serde_json::Value;
use std::collections::BTreeSet;

/// Takes out of a resource's lists what refers to something `gone` (`Type/id`).
pub fn forget(resource: &mut Value, gone: &BTreeSet<String>) {
    let Some(members) = resource.as_object_mut() else { return };
    members.retain(|_, value| match value {
        Value::Array(items) => {
            let had = !items.is_empty();
            items.retain(|item| !refers(item, gone));
            !had || !items.is_empty()
        }
        _ => true,
    });
}

fn refers(value: &Value, gone: &BTreeSet<String>) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| refers(item, gone)),
        Value::Object(map) => map.iter().any(|(key, value)| match value {
            Value::String(text) => key == "reference" && gone.contains(text),
            value => refers(value, gone),
        }),
        _ => false,
    }
}
