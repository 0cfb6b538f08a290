//! The medicines that a resource names, wherever in it: a prescription by `medicationReference`, a care plan by `productReference`, a medicine its
//! ingredients, an extension whatever it likes. With them it takes what they tell (`store::inherit`). No search asks for these entries.

use super::about::{is_staffs, type_said};
use super::{Options, is_about_nobody, values};
use crate::definitions;
use crate::fhir::Reference;
use crate::store::index::{MEDICINE, MEDICINE_CALLED};
use crate::store::{IndexEntry, IndexValue, TypeCode};
use serde_json::Value;

/// What a prescription names, and what that is made of.
pub const TYPES: [&str; 2] = ["Medication", "Substance"];

/// Adds an entry for each that is named by id, and for each identifier that may be one's.
pub(super) fn extract(type_code: TypeCode, resource: &Value, options: &Options, entries: &mut Vec<IndexEntry>) {
    let type_name = definitions::r4().type_name(type_code);
    let takes_nothing = matches!(type_name, "AuditEvent" | "Binary" | "Bundle" | "Consent" | "Parameters" | "Patient");
    if takes_nothing || is_about_nobody(type_name) && !TYPES.contains(&type_name) {
        return;
    }
    let mut found = Vec::new();
    let mut waiting: Vec<&Value> = resource.as_object().into_iter().flat_map(|members| members.values()).collect();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(members) => {
                found.extend(named(value, options));
                waiting.extend(members.values());
            }
            _ => {}
        }
    }
    found.sort_unstable_by(|a: &IndexEntry, b| a.param.cmp(&b.param).then_with(|| super::order(&a.value, &b.value)));
    found.dedup();
    entries.extend(found);
}

/// What a Reference names; nothing if the value is none.
fn named(value: &Value, options: &Options) -> Option<IndexEntry> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match text("reference").and_then(|text| values::parse_reference(text, &options.base)) {
        Some(Reference::Local { type_name, id, .. }) => TYPES.contains(&type_name).then(|| {
            let value = IndexValue::Reference { type_name: type_name.into(), id: id.into() };
            IndexEntry { param: MEDICINE, value }
        }),
        Some(Reference::Contained(_)) => None,
        _ => {
            let identifier = value.get("identifier")?.as_object()?;
            let part = |key: &str| identifier.get(key).and_then(Value::as_str);
            if text("type").is_some_and(|said| !TYPES.contains(&type_said(said))) || is_staffs(value, options) {
                return None;
            }
            let value = values::token(part("system"), Some(part("value")?))?;
            Some(IndexEntry { param: MEDICINE_CALLED, value })
        }
    }
}
