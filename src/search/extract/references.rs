//! The References in a resource, each with what its element may name.

use crate::definitions::{self, ElementKind, Structure};
use crate::store::TypeCode;
use serde_json::Value;

/// A Reference, and the types that R4 lets stand there; none: any.
pub(super) type At<'r> = (&'r Value, &'static [TypeCode]);

/// All of them, for those who look more than once.
pub(super) fn all(resource: &Value) -> Vec<At<'_>> {
    let mut found = Vec::new();
    references(resource, &mut |reference, targets| found.push((reference, targets)));
    found
}

/// Calls `each` with every Reference in the resource, in what it contains and in extensions too, and the types that R4 lets stand there; none: any. What R4
/// does not know might be a Reference to anything.
pub fn references<'r>(resource: &'r Value, each: &mut dyn FnMut(&'r Value, &'static [TypeCode])) {
    type Part<'r> = (&'r Value, Option<&'static Structure>, &'static [TypeCode]);
    let r4 = definitions::r4();
    let mut waiting: Vec<Part<'r>> = vec![(resource, None, &[])];
    while let Some((value, structure, targets)) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list.iter().map(|item| (item, structure, targets))),
            Value::Object(members) => {
                let type_name = || members.get("resourceType").and_then(Value::as_str);
                let structure = structure.or_else(|| r4.structure(type_name()?));
                if structure.is_none_or(|structure| structure.name == "Reference") {
                    each(value, targets);
                }
                for (key, value) in members.iter().filter(|(_, value)| value.is_object() || value.is_array()) {
                    let (below, targets): (_, &[TypeCode]) = match structure.and_then(|structure| structure.key(key)) {
                        Some((_, element, kind)) => match kind.kind {
                            ElementKind::Structure(place) => (r4.structure_at(place), &element.targets),
                            ElementKind::Resource | ElementKind::Primitive(_) => (None, &[]),
                        },
                        None if key.starts_with('_') => (r4.structure("Element"), &[]),
                        None => (None, &[]),
                    };
                    waiting.push((value, below, targets));
                }
            }
            _ => {}
        }
    }
}
