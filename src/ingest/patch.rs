//! PATCH (<https://hl7.org/fhir/R4/http.html#patch>): JSON Patch, FHIRPath Patch (<https://hl7.org/fhir/R4/fhirpatch.html>) and JSON Merge
//! Patch (RFC 7396), on a stored resource. All work on the resource's JSON; what comes out is checked like any resource that is put.

mod fhirpath;
#[cfg(test)]
mod tests;

use super::refusal::{Refusal, RefusalKind};
use crate::fhir::json_patch::{JsonPatch, PatchError};
use crate::fhir::{Issue, IssueCode};
pub use fhirpath::Operation;
use serde_json::{Map, Value};

/// A patch that was read.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(JsonPatch),
    FhirPath(Vec<Operation>),
    /// Members to put in place of those that are there; null takes one away.
    Merge(Map<String, Value>),
}

fn malformed(at: &str, words: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Invalid, words).at(at))
}

fn unfit(at: &str, words: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, Issue::error(IssueCode::Processing, words).at(at))
}

impl Patch {
    /// Reads a JSON Patch document.
    pub fn json(document: &Value) -> Result<Patch, Refusal> {
        JsonPatch::read(document).map(Patch::Json).map_err(|error| malformed("", error.to_string()))
    }

    /// Reads a Parameters resource as a FHIRPath Patch.
    pub fn fhirpath(parameters: &Value) -> Result<Patch, Refusal> {
        fhirpath::operations(parameters).map(Patch::FhirPath)
    }

    /// Reads a JSON Merge Patch: members of the resource, as they shall be.
    pub fn merge(document: &Value) -> Result<Patch, Refusal> {
        let words = "A JSON Merge Patch is an object with the elements to change; null takes an element away.";
        document.as_object().cloned().map(Patch::Merge).ok_or_else(|| malformed("", words))
    }

    /// Reads what was sent as `application/json`, which is said of all three: each has a form that no other has.
    pub fn plain(document: &Value) -> Result<Patch, Refusal> {
        match document {
            Value::Array(_) => Patch::json(document),
            _ if document.get("resourceType").and_then(Value::as_str) == Some("Parameters") => Patch::fhirpath(document),
            _ => Patch::merge(document),
        }
    }

    /// The resource after the patch. An error is about the patch, never quoting the resource.
    pub fn apply(&self, mut resource: Value) -> Result<Value, Refusal> {
        let identity = |resource: &Value| (resource.get("resourceType").cloned(), resource.get("id").cloned());
        let before = identity(&resource);
        match self {
            Patch::Json(patch) => patch.apply(&mut resource).map_err(|error| match error {
                PatchError::Malformed { .. } => malformed("", error.to_string()),
                PatchError::Unfit { .. } => unfit("", error.to_string()),
            })?,
            Patch::FhirPath(operations) => {
                for operation in operations {
                    operation.apply(&mut resource)?;
                }
            }
            Patch::Merge(members) => merge(&mut resource, members, 0),
        }
        if identity(&resource) != before {
            return Err(unfit("", "A patch cannot change a resource's type or id."));
        }
        // FHIR has no empty lists and objects: what lost its last member is gone.
        prune(&mut resource, 0);
        Ok(resource)
    }
}

/// RFC 7396, section 2. A patch is of bounded depth, as everything that is read.
fn merge(target: &mut Value, members: &Map<String, Value>, depth: usize) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (name, value) in members {
        match value {
            Value::Null => drop(object.shift_remove(name)),
            Value::Object(inner) if depth < 256 => merge(object.entry(name.as_str()).or_insert(Value::Null), inner, depth + 1),
            value => drop(object.insert(name.clone(), value.clone())),
        }
    }
}

/// Takes away lists and objects that hold nothing. A stored resource and a patch are both of bounded depth.
fn prune(value: &mut Value, depth: usize) -> bool {
    if depth > 256 {
        return true;
    }
    match value {
        Value::Array(items) => {
            items.retain_mut(|item| item.is_null() || prune(item, depth + 1));
            items.iter().any(|item| !item.is_null())
        }
        Value::Object(members) => {
            prune_beside(members, depth);
            members.retain(|_, member| prune(member, depth + 1));
            !members.is_empty()
        }
        _ => true,
    }
}

/// The lists beside lists of primitives (<https://hl7.org/fhir/R4/json.html#primitive>): an item that holds nothing is null, so that the others
/// stay beside their values; where it has no value either, its place is gone from both.
fn prune_beside(members: &mut Map<String, Value>, depth: usize) {
    let lists: Vec<String> =
        members.iter().filter(|(key, member)| key.starts_with('_') && member.is_array()).map(|(key, _)| key.clone()).collect();
    for key in lists {
        let Some(items) = members.get_mut(&key).and_then(Value::as_array_mut) else { continue };
        let mut emptied = Vec::new();
        for (at, item) in items.iter_mut().enumerate() {
            if !item.is_null() && !prune(item, depth + 1) {
                *item = Value::Null;
                emptied.push(at);
            }
        }
        let name = key.trim_start_matches('_').to_owned();
        for at in emptied.into_iter().rev() {
            let mut values = members.get_mut(&name).and_then(Value::as_array_mut);
            if values.as_ref().and_then(|values| values.get(at)).is_none_or(Value::is_null) {
                if let Some(values) = values.as_mut().filter(|values| at < values.len()) {
                    values.remove(at);
                }
                if let Some(items) = members.get_mut(&key).and_then(Value::as_array_mut) {
                    items.remove(at);
                }
            }
        }
    }
}
