//! The Parameters resource that an operation answers with.

use serde_json::{Map, Value, json};

/// Collects named values in order.
#[derive(Default)]
pub(super) struct Parts {
    list: Vec<Value>,
}

impl Parts {
    /// Adds `name` with `value[x]` given by its full key, such as `valueString`.
    pub fn add(&mut self, name: &str, key: &str, value: impl Into<Value>) -> &mut Self {
        let mut part = Map::new();
        part.insert("name".into(), name.into());
        part.insert(key.into(), value.into());
        self.list.push(Value::Object(part));
        self
    }

    /// Adds `name` when there is a value.
    pub fn maybe(&mut self, name: &str, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.add(name, key, value);
        }
        self
    }

    /// Adds `name` made of parts.
    pub fn group(&mut self, name: &str, parts: Parts) -> &mut Self {
        self.list.push(json!({ "name": name, "part": parts.list }));
        self
    }

    pub fn resource(self) -> Value {
        json!({ "resourceType": "Parameters", "parameter": self.list })
    }
}

/// A Coding of what is known.
pub(super) fn coding(system: Option<&str>, version: Option<&str>, code: &str, display: Option<&str>) -> Value {
    let mut coding = Map::new();
    for (key, value) in [("system", system), ("version", version), ("code", Some(code)), ("display", display)] {
        if let Some(value) = value {
            coding.insert(key.into(), value.into());
        }
    }
    Value::Object(coding)
}
