//! The visits that a resource names where no search parameter looks: in an extension, in what it contains. With them it takes their labels
//! (`store::inherit`). No search asks for these entries.
//!
//! What names a visit or a result of which nobody can tell what it is might have any label.

use super::medicines::takes_labels;
use super::references::{At, references};
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

/// What a report has as results.
const RESULT: &str = "Observation";

static RESULTS: LazyLock<Vec<TypeCode>> = LazyLock::new(|| definitions::r4().type_code(RESULT).into_iter().collect());

/// Adds an entry for each that `references`, those of what [`takes_labels`], name and the entries of R4's parameters do not.
pub(super) fn extract(references: &[At<'_>], options: &Options, entries: &mut Vec<IndexEntry>) {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for (reference, _) in references {
        let to = reference.get("reference").and_then(Value::as_str).and_then(|text| values::parse_reference(text, &options.base));
        if let Some(Reference::Local { type_name: TYPE, id, .. }) = to {
            found.insert(id);
        }
    }
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

/// Whether the resource names a visit, or a report a result, whose labels nobody here can tell: by an identifier alone, on another server, or by an id that
/// is not among `known` (`Type/id`). Without `known` every id is: when what has it arrives, its labels are settled.
pub fn names_untold(resource: &Value, options: &Options, known: Option<&BTreeSet<String>>) -> bool {
    let is_untold = |reference: &Value, targets: &[TypeCode], wanted: &str| {
        let text = |key: &str| reference.get(key).and_then(Value::as_str);
        let tells = || match text("type").map(type_said) {
            Some(said) => said.eq_ignore_ascii_case(wanted),
            None => targets.iter().any(|code| definitions::r4().type_name(*code) == wanted),
        };
        let Some(to) = text("reference") else {
            return reference.get("identifier").is_some_and(Value::is_object) && tells();
        };
        match values::parse_reference(to, &options.base) {
            Some(Reference::Local { type_name, id, .. }) => {
                type_name == wanted && known.is_some_and(|known| !known.contains(&format!("{type_name}/{id}")))
            }
            Some(Reference::Conditional { type_name, .. }) => type_name == wanted,
            Some(Reference::Absolute(url)) => {
                let mut parts = url.split(['/', '?', '#', '|']).rev();
                parts.find(|part| definitions::r4().type_code(part).is_some()).map_or_else(tells, |name| name == wanted)
            }
            // What it contains is looked at with it.
            Some(Reference::Contained(_)) => false,
            Some(Reference::Urn(_)) | None => tells(),
        }
    };
    if !takes_labels(resource) {
        return false;
    }
    let mut found = false;
    references(resource, &mut |reference, targets| found |= is_untold(reference, targets, TYPE));
    let is_report = resource.get("resourceType").and_then(Value::as_str) == Some("DiagnosticReport");
    let results = resource.get("result").and_then(Value::as_array).into_iter().flatten();
    found || is_report && results.into_iter().any(|result| is_untold(result, RESULTS.as_slice(), RESULT))
}
