//! A Bundle's bytes cut at its entries, none of them read yet.

use crate::fhir::{Issue, IssueCode};
use crate::ingest::refusal::{Refusal, RefusalKind};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

/// `Bundle.type`, those that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Transaction,
    Batch,
}

#[derive(Debug)]
pub struct Split {
    pub kind: Kind,
    /// `Bundle.meta`, as it came.
    pub meta: Option<Bytes>,
    /// Each one JSON value, not checked further.
    pub entries: Vec<Bytes>,
}

/// Cuts `body`; at most `most` entries.
pub fn split(body: &Bytes, most: usize) -> Result<Split, Refusal> {
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let too_many = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let parsed =
        BundleSeed { most, too_many: &too_many }.deserialize(&mut deserializer).and_then(|parts| deserializer.end().map(|()| parts));
    let parts = match parsed {
        Ok(parts) => parts,
        Err(_) if too_many.get() => {
            let words = format!("The Bundle has more than {most} entries: send it in parts.");
            return Err(Refusal::new(RefusalKind::TooLarge, Issue::error(IssueCode::TooCostly, words).at("Bundle.entry")));
        }
        Err(error) => {
            // serde_json quotes what it found only where a type is wrong; the place is enough.
            let words = format!("The body is no JSON object that reads as a Bundle: line {}, column {}.", error.line(), error.column());
            return Err(Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Structure, words)));
        }
    };
    if parts.resource_type.as_deref() != Some("Bundle") {
        return Err(Refusal::malformed("POST to the base takes a Bundle; other resources go to their type's URL.").within("Bundle"));
    }
    let kind = match parts.kind.as_deref() {
        Some("transaction") => Kind::Transaction,
        Some("batch") => Kind::Batch,
        _ => return Err(Refusal::malformed("Bundle.type must be transaction or batch.").within("Bundle.type")),
    };
    let meta = parts.meta.map(|raw| body.slice_ref(raw.get().as_bytes()));
    Ok(Split { kind, meta, entries: parts.entries.into_iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect() })
}

#[derive(Default)]
struct Parts<'de> {
    resource_type: Option<String>,
    kind: Option<String>,
    meta: Option<&'de RawValue>,
    entries: Vec<&'de RawValue>,
}

struct BundleSeed<'a> {
    most: usize,
    too_many: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for BundleSeed<'_> {
    type Value = Parts<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parts<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BundleSeed<'_> {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a Bundle")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Parts<'de>, A::Error> {
        let mut parts = Parts::default();
        let mut seen = HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            match key.as_str() {
                "resourceType" => parts.resource_type = Some(members.next_value()?),
                "type" => parts.kind = Some(members.next_value()?),
                "meta" => parts.meta = Some(members.next_value()?),
                "entry" => parts.entries = members.next_value_seed(EntriesSeed { most: self.most, too_many: self.too_many })?,
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            if seen.len() >= 64 || !seen.insert(key) {
                return Err(A::Error::custom("a key is given twice, or there are too many"));
            }
        }
        Ok(parts)
    }
}

struct EntriesSeed<'a> {
    most: usize,
    too_many: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for EntriesSeed<'_> {
    type Value = Vec<&'de RawValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EntriesSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = items.next_element::<&RawValue>()? {
            if entries.len() >= self.most {
                self.too_many.set(true);
                return Err(A::Error::custom("too many entries"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(text: &str) -> Result<Split, Refusal> {
        split(&Bytes::copy_from_slice(text.as_bytes()), 3)
    }

    #[test]
    fn entries_keep_their_bytes() {
        let split = split_text(r#"{"resourceType":"Bundle","entry":[{"a": 1.50}, {}],"type":"batch"}"#).unwrap();
        assert_eq!(split.kind, Kind::Batch);
        assert_eq!(split.entries, [&b"{\"a\": 1.50}"[..], b"{}"]);
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_its_status() {
        let many = format!(r#"{{"resourceType":"Bundle","type":"batch","entry":[{}{{}}]}}"#, "{},".repeat(1000));
        let cases = [
            (r#"{"resourceType":"Patient"}"#, 400),
            (r#"{"resourceType":"Bundle","type":"searchset"}"#, 400),
            (r#"{"resourceType":"Bundle","type":"batch","type":"transaction"}"#, 400),
            (r#"{"resourceType":"Bundle","type":"batch","entry":{}}"#, 400),
            ("[]", 400),
            ("", 400),
            ("{", 400),
            (many.as_str(), 413),
        ];
        for (text, status) in cases {
            assert_eq!(split_text(text).unwrap_err().status(), status, "{}", text.get(..60).unwrap_or(text));
        }
        assert!(split(&Bytes::from_static(b"{\"resourceType\":\"Bundle\",\"type\":\"\xff\"}"), 3).is_err());
        assert!(split_text(&format!(r#"{{"resourceType":"Bundle","type":"batch","meta":{}"#, "[".repeat(200_000))).is_err());
    }
}
