//! A resource made ready to be stored: labelled, its index entries extracted, serialised but for its version and time, so that the
//! work is done outside the writer and once, whatever version it becomes.

use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{self, Sensitive};
use crate::access::gate;
use crate::definitions;
use crate::fhir::narrative;
use crate::fhir::time::{Micros, format_instant};
use crate::search::extract;
use crate::store::gate::{About, Traits};
use crate::store::index::{MEDICINE, VISIT, is_contained};
use crate::store::{IndexEntry, IndexValue, Stored, TypeCode};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Stands where the store will write `meta.lastUpdated`.
const STAMP: &[u8; 27] = b"0001-01-01T00:00:00.000000Z";

/// A resource that is ready to be stored as whatever version it becomes.
#[derive(Clone, Debug)]
pub struct Draft {
    pub type_code: TypeCode,
    pub type_name: &'static str,
    pub id: Box<str>,
    /// Whose record it is part of.
    pub about: About,
    pub entries: Vec<IndexEntry>,
    /// What a patient's consent may ask of it.
    pub traits: Traits,
    /// The facility that `meta.source` says it is from, in lango's own words.
    pub(super) source: Option<Box<str>>,
    /// The resource itself where it is a Consent, from which the writer makes rules.
    pub(super) consent: Option<Box<Value>>,
    /// The serialised resource from the quote that ends `meta.lastUpdated` on.
    tail: Vec<u8>,
}

impl Draft {
    /// Makes a draft of `resource`, which is stored under `id` whatever id it carries. `meta.versionId` and `meta.lastUpdated`
    /// are the server's and are dropped; the rest of `meta` stays. Narratives are settled.
    pub fn new(type_code: TypeCode, id: &str, mut resource: Value, making: &Making) -> Draft {
        narrative::settle(&mut resource);
        if let Some(members) = resource.as_object_mut() {
            members.insert("id".to_owned(), Value::from(id));
            if let Some(Value::Object(fields)) = members.get_mut("meta") {
                fields.retain(|key, _| !matches!(key.trim_start_matches('_'), "versionId" | "lastUpdated"));
            }
        }
        Draft::of(type_code, id, &resource, making)
    }

    /// The same of a resource that carries this id, and neither `meta.versionId` nor `meta.lastUpdated`.
    pub fn of(type_code: TypeCode, id: &str, resource: &Value, making: &Making) -> Draft {
        let Making { options, sensitive } = making;
        let labels = consent::labels_on_arrival(resource, &BTreeSet::new(), sensitive);
        let labelled = (!labels.is_empty()).then(|| with_labels(resource, &labels));
        let resource = labelled.as_ref().unwrap_or(resource);
        let type_name = definitions::r4().type_name(type_code);
        let entries = extract::extract(type_code, resource, options);
        let about = extract::about(type_code, resource, &entries, options);
        let mut traits = Traits::default();
        if let About::Patient(_) = &about {
            let mut facts = consent::facts(resource, &options.zone, &options.base);
            if extract::names_untold(resource, options, None) {
                facts.labels.extend(consent::any_sensitive());
            }
            let is_searched = |entry: &&IndexEntry| !is_contained(entry.param) && !matches!(entry.param, MEDICINE | VISIT);
            let indexed = |name: &str, id: &str| {
                entries.iter().filter(is_searched).any(|entry| {
                    matches!(&entry.value, IndexValue::Reference { type_name, id: other } if &**type_name == name && &**other == id)
                })
            };
            traits = gate::traits(&facts, indexed);
        }
        traits.hands = gate::hands(type_name, resource, &options.base, sensitive);
        let consent = (type_name == "Consent").then(|| Box::new(resource.clone()));
        let (source, tail) = (source_facility(resource).map(Box::from), tail(resource.get("meta"), resource));
        Draft { type_code, type_name, id: id.into(), about, entries, traits, source, consent, tail }
    }

    /// The bytes of version `version`, and where its `meta.lastUpdated` stands.
    pub(super) fn body(&self, version: i64) -> (Vec<u8>, usize) {
        let mut body = head(self.type_name, &self.id, version);
        body.reserve_exact(STAMP.len() + self.tail.len());
        let stamp_at = body.len();
        body.extend_from_slice(STAMP);
        body.extend_from_slice(&self.tail);
        (body, stamp_at)
    }

    /// Whether `stored` says the same, version and time apart.
    pub(super) fn says_what(&self, stored: &Stored) -> bool {
        let head = head(self.type_name, &self.id, stored.version);
        let rest = stored.body.as_ref().and_then(|body| body.strip_prefix(head.as_slice())).and_then(|rest| rest.get(STAMP.len()..));
        rest == Some(self.tail.as_slice())
    }
}

/// What drafts are made with.
#[derive(Clone, Debug, Default)]
pub struct Making {
    /// How index entries are read: the deployment's time zone and base URL.
    pub options: Arc<extract::Options>,
    /// What gives a sensitive matter away, and is labelled so on arrival.
    pub sensitive: Arc<Sensitive>,
}

/// The resource with these labels added to `meta.security`.
pub fn with_labels(resource: &Value, labels: &BTreeSet<Coding>) -> Value {
    let mut resource = resource.clone();
    let Some(members) = resource.as_object_mut() else { return resource };
    let meta = members.entry("meta").or_insert_with(|| Value::Object(serde_json::Map::new()));
    let security = meta.as_object_mut().map(|meta| meta.entry("security").or_insert_with(|| Value::Array(Vec::new())));
    if let Some(Value::Array(security)) = security {
        security.extend(labels.iter().map(|label| json!({ "system": label.system, "code": label.code })));
    }
    resource
}

fn head(type_name: &str, id: &str, version: i64) -> Vec<u8> {
    format!(r#"{{"resourceType":"{type_name}","id":"{id}","meta":{{"versionId":"{version}","lastUpdated":""#).into_bytes()
}

fn tail(meta: Option<&Value>, resource: &Value) -> Vec<u8> {
    let mut tail = vec![b'"'];
    for (key, value) in meta.and_then(Value::as_object).into_iter().flatten() {
        push_member(&mut tail, key, value);
    }
    tail.push(b'}');
    for (key, value) in resource.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "resourceType" | "id" | "meta") {
            push_member(&mut tail, key, value);
        }
    }
    tail.push(b'}');
    tail
}

fn push_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.push(b',');
    // Writing a string or a Value into memory has no way to fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// The facility in a `meta.source` as templates write it.
pub(super) fn source_facility(resource: &Value) -> Option<&str> {
    let source = resource.get("meta")?.get("source")?.as_str()?.strip_prefix("urn:lango:facility:")?;
    source.split('#').next()
}

/// The body with its time in its place.
pub(super) fn stamped(body: &[u8], stamp_at: usize, updated: Micros) -> Bytes {
    let mut body = body.to_vec();
    if let Some(place) = body.get_mut(stamp_at..stamp_at + STAMP.len()) {
        let stamp = format_instant(updated);
        if stamp.len() == place.len() {
            place.copy_from_slice(stamp.as_bytes());
        }
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(resource: Value) -> Draft {
        let type_code = definitions::r4().type_code("Patient").unwrap();
        Draft::new(type_code, "p1", resource, &Making::default())
    }

    #[test]
    fn the_stamp_stands_where_it_is_said_to_stand() {
        let draft = draft(json!({
            "active": true, "resourceType": "Patient", "id": "other",
            "meta": {"lastUpdated": "2020-01-01T00:00:00Z", "versionId": "9", "tag": [{"code": "x"}]},
            "name": [{"family": "Ju\"ma"}],
        }));
        let (body, stamp_at) = draft.body(12);
        let body = stamped(&body, stamp_at, 1_700_000_000_000_000);
        let resource: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            resource,
            json!({
                "resourceType": "Patient", "id": "p1",
                "meta": {"versionId": "12", "lastUpdated": "2023-11-14T22:13:20.000000Z", "tag": [{"code": "x"}]},
                "active": true, "name": [{"family": "Ju\"ma"}],
            })
        );
    }

    #[test]
    fn what_says_the_same_is_recognised_whatever_its_version() {
        let (body, stamp_at) = draft(json!({"resourceType": "Patient", "active": true})).body(3);
        let stored = Stored {
            key: 1,
            type_code: definitions::r4().type_code("Patient").unwrap(),
            id: "p1".into(),
            version: 3,
            updated: 5,
            patient: 0,
            owner: 0,
            body: Some(stamped(&body, stamp_at, 5)),
        };
        assert!(draft(json!({"resourceType": "Patient", "meta": {"versionId": "1"}, "active": true})).says_what(&stored));
        assert!(!draft(json!({"resourceType": "Patient", "active": false})).says_what(&stored));
        assert!(!draft(json!({"resourceType": "Patient", "meta": {"source": "x"}, "active": true})).says_what(&stored));
    }
}
