//! References taken apart (<https://hl7.org/fhir/R4/references.html>).

/// What `Reference.reference` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// `Type/id`, with `/_history/version` when a version is named.
    Local { type_name: &'a str, id: &'a str, version: Option<&'a str> },
    /// `#id`: a contained resource.
    Contained(&'a str),
    /// `Type?query`: to be resolved in a transaction.
    Conditional { type_name: &'a str, query: &'a str },
    /// `urn:uuid:…` or `urn:oid:…`.
    Urn(&'a str),
    /// Anything else: an absolute URL on another server, a canonical.
    Absolute(&'a str),
}

impl<'a> Reference<'a> {
    /// Takes `text` apart. `None` when it is empty or no reference at all.
    pub fn parse(text: &'a str) -> Option<Reference<'a>> {
        if let Some(id) = text.strip_prefix('#') {
            return Some(Reference::Contained(id));
        }
        if text.starts_with("urn:") {
            return Some(Reference::Urn(text));
        }
        // Before absolute URLs: the criteria may hold one, as the system of an identifier.
        if let Some((type_name, query)) = text.split_once('?').filter(|(type_name, _)| is_type_name(type_name)) {
            return Some(Reference::Conditional { type_name, query });
        }
        if text.contains("://") {
            return Some(Reference::Absolute(text));
        }
        let mut parts = text.split('/');
        let (type_name, id) = (parts.next()?, parts.next()?);
        if !is_type_name(type_name) || !is_id(id) {
            return None;
        }
        match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => Some(Reference::Local { type_name, id, version: None }),
            (Some("_history"), Some(version), None) if is_id(version) => Some(Reference::Local { type_name, id, version: Some(version) }),
            _ => None,
        }
    }

    /// Like [`Reference::parse`], and an absolute URL under `base` (no trailing slash) is local.
    pub fn parse_at(text: &'a str, base: &str) -> Option<Reference<'a>> {
        match text.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => Reference::parse(rest),
            None => Reference::parse(text),
        }
    }
}

/// Whether `text` looks like a resource type's name: letters, the first a capital.
pub fn is_type_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase()) && text.bytes().all(|b| b.is_ascii_alphabetic())
}

/// FHIR `id`: `[A-Za-z0-9\-\.]{1,64}` (<https://hl7.org/fhir/R4/datatypes.html#id>).
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_may_hold_a_url() {
        let text = "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9999973209";
        let query = "identifier=http://hl7.org/fhir/sid/us-npi|9999973209";
        assert_eq!(Reference::parse(text), Some(Reference::Conditional { type_name: "Practitioner", query }));
        assert_eq!(Reference::parse("http://other/fhir/Patient?x=y"), Some(Reference::Absolute("http://other/fhir/Patient?x=y")));
        assert_eq!(Reference::parse("Patient/1?x"), None);
        assert_eq!(Reference::parse("Patient/1"), Some(Reference::Local { type_name: "Patient", id: "1", version: None }));
    }
}
