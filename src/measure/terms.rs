//! Terminology, as measures ask for it.

use super::plan::Terms;
use crate::terminology::{Arguments, Terminology};
use serde_json::{Value, json};

impl Terms for Terminology {
    fn members(&self, value_set: &str) -> Option<Vec<Value>> {
        let arguments = Arguments::from_query([("url", value_set)]);
        let expanded = self.operate("ValueSet", None, "$expand", &arguments).ok()?;
        let contains = expanded.pointer("/expansion/contains")?.as_array()?;
        Some(
            contains
                .iter()
                .map(|concept| json!({ "system": concept.get("system"), "code": concept.get("code"), "display": concept.get("display") }))
                .collect(),
        )
    }

    fn translate(&self, map: &str, system: &str, code: &str) -> Option<(String, String)> {
        let first = self.translate_code(map, Some(system), code)?.into_iter().next()?;
        Some((first.system?.to_string(), first.code?.to_string()))
    }
}
