//! The visits that a resource names where no search parameter looks: in an extension, in what it contains. With them it takes their labels
//! (`store::inherit`). No search asks for these entries.

use super::medicines::takes_labels;
use super::references::references;
use super::{Options, values};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::type_said;
use crate::store::index::{VISIT, is_contained};
use crate::store::{IndexEntry, IndexValue, TypeCode};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const TYPE: &str = "Encounter";

static CODE: LazyLock<Option<TypeCode>> = LazyLock::new(|| definitions::r4().type_code(TYPE));

/// Adds an entry for each that the entries of R4's parameters do not name.
pub(super) fn extract(resource: &Value, options: &Options, entries: &mut Vec<IndexEntry>) {
    if !takes_labels(resource) {
        return;
    }
    let mut found: BTreeSet<&str> = BTreeSet::new();
    references(resource, &mut |reference, _| {
        let to = reference.get("reference").and_then(Value::as_str).and_then(|text| values::parse_reference(text, &options.base));
        if let Some(Reference::Local { type_name: TYPE, id, .. }) = to {
            found.insert(id);
        }
    });
    for entry in entries.iter().filter(|entry| !is_contained(entry.param) && definitions::r4().param_by_id(entry.param).is_some()) {
        if let IndexValue::Reference { type_name, id } = &entry.value
            && &**type_name == TYPE
        {
            found.remove(&**id);
        }
    }
    entries.extend(
        found.into_iter().map(|id| IndexEntry { param: VISIT, value: IndexValue::Reference { type_name: TYPE.into(), id: id.into() } }),
    );
}

/// Whether the resource names a visit by an identifier alone: which one that is nobody can tell, so its labels might be any.
pub fn names_untold_visit(resource: &Value) -> bool {
    let mut is_untold = false;
    references(resource, &mut |reference, targets| {
        let text = |key: &str| reference.get(key).and_then(Value::as_str);
        let is_named = text("reference").is_none() && reference.get("identifier").is_some_and(Value::is_object);
        let is_visit = match text("type").map(type_said) {
            Some(said) => said.eq_ignore_ascii_case(TYPE),
            None => CODE.is_some_and(|code| targets.contains(&code)),
        };
        is_untold |= is_named && is_visit;
    });
    is_untold && takes_labels(resource)
}
