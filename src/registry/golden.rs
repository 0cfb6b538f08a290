//! The golden Patient as a resource.

use serde_json::{Value, json};
use std::collections::BTreeSet;

const TAG_SYSTEM: &str = "https://lango.health/fhir/CodeSystem/registry";
const TAG_CODE: &str = "golden";

/// An id that the first cluster of these sources always gets on the database whose `secret` this is. None of them can be read from it, and it
/// cannot be guessed from them: whoever knows it was told that they are linked.
/// `nth`: 0, or more when the ids before are taken by golden Patients of others.
pub fn new_id(secret: &[u8; 32], sources: &BTreeSet<String>, nth: u32) -> String {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    // The first source names the cluster; whoever joins later joins this golden Patient.
    hasher.update(sources.first().map_or("", String::as_str).as_bytes());
    if nth > 0 {
        hasher.update(b"|").update(&nth.to_be_bytes());
    }
    format!("g-{}", hasher.finalize().to_hex().get(..32).unwrap_or_default())
}

/// Whether an id has the form of those that [`new_id`] gives.
pub fn looks_golden(id: &str) -> bool {
    id.strip_prefix("g-").is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

pub fn is_golden(patient: &Value) -> bool {
    let tags = patient.pointer("/meta/tag").and_then(Value::as_array).into_iter().flatten();
    tags.into_iter().any(|tag| {
        tag.get("system").and_then(Value::as_str) == Some(TAG_SYSTEM) && tag.get("code").and_then(Value::as_str) == Some(TAG_CODE)
    })
}

/// The golden Patient that has taken the place of this one.
pub fn replaced_by(golden: &Value) -> Option<String> {
    let links = golden.get("link").and_then(Value::as_array)?;
    let replaced = links.iter().find(|link| link.get("type").and_then(Value::as_str) == Some("replaced-by"))?;
    Some(replaced.pointer("/other/reference")?.as_str()?.strip_prefix("Patient/")?.to_owned())
}

/// The source Patients that a golden Patient links.
pub fn sources(golden: &Value) -> BTreeSet<String> {
    let links = golden.get("link").and_then(Value::as_array).into_iter().flatten();
    let sources = links.filter(|link| link.get("type").and_then(Value::as_str) == Some("seealso"));
    sources.filter_map(|link| Some(link.pointer("/other/reference")?.as_str()?.strip_prefix("Patient/")?.to_owned())).collect()
}

/// The golden Patient of these sources, inactive when there are none; with `replaced_by`, one that another has taken the place of.
pub fn resource(id: &str, sources: &BTreeSet<String>, identifiers: &BTreeSet<(String, String)>, replaced_by: Option<&str>) -> Value {
    let link = |id: &str, kind: &str| json!({ "other": { "reference": format!("Patient/{id}") }, "type": kind });
    let links: Vec<Value> = match replaced_by {
        Some(other) => vec![link(other, "replaced-by")],
        None => sources.iter().map(|id| link(id, "seealso")).collect(),
    };
    let mut patient = json!({
        "resourceType": "Patient",
        "id": id,
        "meta": { "tag": [{ "system": TAG_SYSTEM, "code": TAG_CODE, "display": "Golden record" }] },
    });
    if !identifiers.is_empty() {
        patient["identifier"] = identifiers.iter().map(|(system, value)| json!({ "system": system, "value": value })).collect();
    }
    patient["active"] = json!(replaced_by.is_none() && !sources.is_empty());
    if !links.is_empty() {
        patient["link"] = Value::Array(links);
    }
    patient
}

/// Whether two states of a golden Patient say the same.
pub fn same(before: &Value, after: &Value) -> bool {
    ["identifier", "active", "link"].iter().all(|key| before.get(key) == after.get(key))
}

/// The bytes of version `version`, and where the store writes `meta.lastUpdated`.
pub fn stamped(golden: &Value, version: i64) -> (Vec<u8>, usize) {
    const STAMP: &str = "0001-01-01T00:00:00.000000Z";
    let mut golden = golden.clone();
    let id = golden.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let tag = golden.pointer_mut("/meta/tag").map(Value::take).unwrap_or_default();
    if let Some(members) = golden.as_object_mut() {
        members.retain(|key, _| !matches!(key.as_str(), "resourceType" | "id" | "meta"));
    }
    let head = format!(r#"{{"resourceType":"Patient","id":"{id}","meta":{{"versionId":"{version}","lastUpdated":""#);
    let rest = golden.to_string();
    let rest = rest.strip_prefix('{').unwrap_or_default();
    (format!(r#"{head}{STAMP}","tag":{tag}}},{rest}"#).into_bytes(), head.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_the_resource_with_its_version() {
        let sources = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let golden = resource("g-1", &sources, &BTreeSet::from([("s".to_owned(), "v".to_owned())]), None);
        let (bytes, at) = stamped(&golden, 3);
        assert_eq!(&bytes[at..at + 27], b"0001-01-01T00:00:00.000000Z");
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read["meta"]["versionId"], "3");
        assert!(is_golden(&read) && same(&read, &golden));
        assert_eq!(read["link"][1]["other"]["reference"], "Patient/b");
    }

    #[test]
    fn nobodys_id_can_be_read_from_the_golden_id() {
        let id = new_id(&[1; 32], &BTreeSet::from(["19900101-12345".to_owned()]), 0);
        assert_ne!(id, new_id(&[2; 32], &BTreeSet::from(["19900101-12345".to_owned()]), 0));
        assert!(looks_golden(&id) && !id.contains("1990") && crate::fhir::reference::is_id(&id));
    }
}
