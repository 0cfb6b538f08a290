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
        // Criteria of no type, in which a system stands.
        if text.starts_with('?') {
            return None;
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

    /// The type that it names; of an absolute URL the one before its id, where it is built as FHIR's are.
    pub fn type_name(&self) -> Option<&'a str> {
        let text = match self {
            Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. } => return Some(type_name),
            Reference::Absolute(text) => text,
            Reference::Contained(_) | Reference::Urn(_) => return None,
        };
        let text = text.strip_prefix("https://").or(text.strip_prefix("http://"))?;
        let mut parts = text.rsplit('/');
        let (mut id, mut type_name) = (parts.next()?, parts.next()?);
        if type_name == "_history" {
            (id, type_name) = (parts.next()?, parts.next()?);
        }
        // Before the type there is a host.
        (is_id(id) && is_type_name(type_name) && parts.next().is_some()).then_some(type_name)
    }

    /// Like [`Reference::parse`], and an absolute URL under `base` (no trailing slash) is local.
    pub fn parse_at(text: &'a str, base: &str) -> Option<Reference<'a>> {
        match below(text, base) {
            Some(rest) => Reference::parse(rest),
            None => Reference::parse(text),
        }
    }
}

/// What follows `base` and a slash. The case of a scheme and a host tells nothing.
fn below<'a>(text: &'a str, base: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(base.len()).filter(|_| !base.is_empty())?;
    let host = host_end(base);
    let is_same = head.get(..host)?.eq_ignore_ascii_case(base.get(..host)?) && head.get(host..) == base.get(host..);
    rest.strip_prefix('/').filter(|_| is_same)
}

/// Where the path of an absolute URL begins; 0 of what is none.
pub fn host_end(url: &str) -> usize {
    let Some((scheme, rest)) = url.split_once("://") else { return 0 };
    scheme.len().saturating_add(3).saturating_add(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// The type that a `Reference.type` or a URL of a definition says.
pub fn type_said(said: &str) -> &str {
    let name = said.split('|').next().unwrap_or_default().trim_end_matches('/');
    name.rsplit('/').next().unwrap_or_default()
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
        assert_eq!(Reference::parse("?identifier=http://t|a"), None, "of no type");
    }

    #[test]
    fn a_reference_names_a_type_where_it_is_built_as_fhirs_are() {
        for (text, named) in [
            ("Patient/1/_history/2", Some("Patient")),
            ("Patient?identifier=x", Some("Patient")),
            ("https://a.org/fhir/Patient/1", Some("Patient")),
            ("http://a.org/Patient/1/_history/2", Some("Patient")),
            ("http://a.org/patients/1", None),
            ("http://Patient/1", None),
            ("ftp://a.org/Patient/1", None),
            ("#p", None),
            ("urn:uuid:c757873d-ec9a-4326-a141-556f43239520", None),
        ] {
            assert_eq!(Reference::parse(text).unwrap().type_name(), named, "{text}");
        }
    }

    #[test]
    fn the_case_of_a_host_tells_nothing() {
        let local = Some(Reference::Local { type_name: "Patient", id: "1", version: None });
        for text in ["https://HIE.example.org/fhir/Patient/1", "HTTPS://hie.example.org/fhir/Patient/1", "Patient/1"] {
            assert_eq!(Reference::parse_at(text, "https://hie.example.org/fhir"), local, "{text}");
        }
        for text in ["https://hie.example.org/FHIR/Patient/1", "https://hie.example.org/fhirs/Patient/1", "https://x/fhir/Patient/1"] {
            assert_eq!(Reference::parse_at(text, "https://hie.example.org/fhir"), Some(Reference::Absolute(text)));
        }
        for text in ["https://hie.example.org/fhir//Patient/1", "/Patient/1", "Patient/%31", "patient/1", "Patient/1/", "Patient/1#x"] {
            assert_eq!(Reference::parse_at(text, "https://hie.example.org/fhir"), None, "{text}");
        }
    }

    #[test]
    fn a_local_one() {
        assert_eq!(Reference::parse("Patient/1"), Some(Reference::Local { type_name: "Patient", id: "1", version: None }));
    }
}
