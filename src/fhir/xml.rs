//! FHIR XML to JSON and back (<https://hl7.org/fhir/R4/xml.html>), for content negotiation only: the two functions here are
//! the whole use that lango makes of fhirbolt, through its generic element tree.

use fhirbolt::FhirReleases;
use fhirbolt::element::Element;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Elements within elements beyond this are refused: the reader behind these functions works by recursion.
const MAX_DEPTH: usize = 100;

/// Stands around the number of a narrative that was lifted out; a noncharacter, so no text has it.
const MARK: char = '\u{FDD0}';

type R4Element = Element<{ FhirReleases::R4 }>;

/// Why a document could not be turned into the other form; never quotes the document.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    #[error("the XML is not well formed: {0}")]
    NotWellFormed(&'static str),
    #[error("the XML is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("the XML is no FHIR R4 resource: check the namespace http://hl7.org/fhir, the element names and their order")]
    NotFhir,
    #[error("the resource has no XML form")]
    NoXmlForm,
}

/// The JSON form of an XML resource.
pub fn to_json(xml: &[u8]) -> Result<Vec<u8>, XmlError> {
    let xml = xml.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(xml);
    let text = std::str::from_utf8(xml).map_err(|_| XmlError::NotWellFormed("it is not UTF-8"))?;
    // <https://www.w3.org/TR/xml/#sec-line-ends>: every line ends with a line feed alone.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut narratives = Vec::new();
    let lifted = in_attributes(&lift_narratives(&text, &mut narratives)?, normalised);
    // fhirbolt panics on some documents; that is the document's fault, not a fault of the server.
    let converted = catch_unwind(AssertUnwindSafe(|| {
        let element: R4Element = fhirbolt::xml::from_str(&lifted, None).ok()?;
        fhirbolt::json::to_string(&element, None).ok()
    }));
    let json = converted.ok().flatten().ok_or(XmlError::NotFhir)?;
    let escaped = narratives.iter().map(|inner| {
        let quoted = Value::from(inner.as_str()).to_string();
        quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
    });
    Ok(set_down(&json, &escaped.collect::<Vec<_>>()).into_bytes())
}

/// The XML form of a JSON resource.
pub fn from_json(json: &[u8]) -> Result<Vec<u8>, XmlError> {
    let mut resource = super::json::parse(json).map_err(|_| XmlError::NoXmlForm)?;
    let mut narratives = Vec::new();
    let mut waiting = vec![&mut resource];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                for (key, member) in members.iter_mut() {
                    match member {
                        Value::String(div) if key == "div" => *div = lift_narratives(div, &mut narratives)?,
                        other => waiting.push(other),
                    }
                }
            }
            Value::Array(items) => waiting.extend(items.iter_mut()),
            _ => {}
        }
    }
    let converted = catch_unwind(AssertUnwindSafe(|| {
        let element: R4Element = fhirbolt::json::from_json_value(resource, None).ok()?;
        fhirbolt::xml::to_string(&element, None).ok()
    }));
    let xml = converted.ok().flatten().ok_or(XmlError::NoXmlForm)?;
    Ok(set_down(&in_attributes(&xml, referenced), &narratives).into_bytes())
}

/// White space that stands in an attribute as it is means a space (<https://www.w3.org/TR/xml/#AVNormalize>).
fn normalised(c: char) -> Option<&'static str> {
    matches!(c, '\n' | '\t').then_some(" ")
}

/// White space that is to be read as what it is, by its number.
fn referenced(c: char) -> Option<&'static str> {
    match c {
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        '\t' => Some("&#9;"),
        _ => None,
    }
}

/// The document with some characters of its attributes' values replaced. Its tags are known to end ([`lift_narratives`]).
fn in_attributes(text: &str, replace: fn(char) -> Option<&'static str>) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tag)) = rest.find('<').and_then(|start| rest.split_at_checked(start)) {
        whole.push_str(before);
        let ends = |end: &str| tag.find(end).map_or(tag.len(), |found| found + end.len());
        let length = match tag {
            _ if tag.starts_with("<!--") => ends("-->"),
            _ if tag.starts_with("<![CDATA[") => ends("]]>"),
            _ => tag.get(1..).and_then(inside_tag).map_or(tag.len(), |inside| inside.len() + 2),
        };
        let (tag, after) = tag.split_at_checked(length).unwrap_or((tag, ""));
        let mut quote = None;
        for c in tag.chars() {
            match quote {
                None => quote = matches!(c, '"' | '\'').then_some(c),
                Some(open) if open == c => quote = None,
                Some(_) => {}
            }
            match replace(c).filter(|_| quote.is_some() && !tag.starts_with("<!")) {
                Some(replacement) => whole.push_str(replacement),
                None => whole.push(c),
            }
        }
        rest = after;
    }
    whole.push_str(rest);
    whole
}

/// Walks over the tags; refuses what is nested too deep or wrongly, and document types (entity expansion). What stands
/// inside a narrative's `div` goes to `narratives` and a mark takes its place: fhirbolt would trim its white space.
fn lift_narratives(text: &str, narratives: &mut Vec<String>) -> Result<String, XmlError> {
    if text.contains(MARK) {
        return Err(XmlError::NotWellFormed("it has a noncharacter"));
    }
    let mut lifted = String::with_capacity(text.len());
    let mut open: Vec<&str> = Vec::new();
    // Where the content of the narrative begins, and how deep its div stands.
    let mut narrative: Option<(usize, usize)> = None;
    let mut copied = 0;
    let mut at = 0;
    while let Some(start) = text.get(at..).and_then(|rest| rest.find('<')).map(|found| at + found) {
        let tag = text.get(start + 1..).unwrap_or_default();
        let past = |end: &str| tag.find(end).map(|found| start + 1 + found + end.len());
        at = if tag.starts_with("!--") {
            past("-->").ok_or(XmlError::NotWellFormed("a comment does not end"))?
        } else if tag.starts_with("![CDATA[") {
            past("]]>").ok_or(XmlError::NotWellFormed("a CDATA section does not end"))?
        } else if tag.starts_with('!') {
            return Err(XmlError::NotWellFormed("document types are not allowed"));
        } else {
            let inside = inside_tag(tag).ok_or(XmlError::NotWellFormed("a tag does not end"))?;
            let after = start + inside.len() + 2;
            if let Some(name) = inside.strip_prefix('/') {
                if open.pop() != Some(name.trim_end()) {
                    return Err(XmlError::NotWellFormed("an element ends that did not begin"));
                }
                if let Some((begin, _)) = narrative.filter(|(_, depth)| *depth > open.len()) {
                    lifted.push_str(text.get(copied..begin).unwrap_or_default());
                    lifted.push_str(&format!("{MARK}{}{MARK}", narratives.len()));
                    narratives.push(text.get(begin..start).unwrap_or_default().to_owned());
                    (copied, narrative) = (start, None);
                }
            } else if !inside.starts_with('?') && !inside.ends_with('/') {
                open.push(inside.split(char::is_whitespace).next().unwrap_or_default());
                if open.len() > MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                if narrative.is_none() && open.last() == Some(&"div") {
                    narrative = Some((after, open.len()));
                }
            }
            after
        };
    }
    lifted.push_str(text.get(copied..).unwrap_or_default());
    if open.is_empty() { Ok(lifted) } else { Err(XmlError::NotWellFormed("an element does not end")) }
}

/// Puts the narratives back where their marks stand.
fn set_down(text: &str, narratives: &[String]) -> String {
    let mut whole = String::with_capacity(text.len() + narratives.iter().map(String::len).sum::<usize>());
    for (place, part) in text.split(MARK).enumerate() {
        match part.parse::<usize>().ok().filter(|_| place % 2 == 1).and_then(|number| narratives.get(number)) {
            Some(narrative) => whole.push_str(narrative),
            None => whole.push_str(part),
        }
    }
    whole
}

/// What stands before the `>` that ends a tag; a `>` within quotes does not.
fn inside_tag(tag: &str) -> Option<&str> {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match (quote, c) {
            (None, '>') => return tag.get(..at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_goes_to_xml_and_back_unchanged() {
        let json = br#"{"resourceType":"Patient","id":"a","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">Asha &amp; <b>Juma</b> \\u00e9 <br/></div>"},"extension":[{"url":"http://x.org/e","valueDecimal":1.50}],"active":true,"name":[{"family":"Juma","given":["Asha","Neema"]}],"birthDate":"1990-01","_birthDate":{"extension":[{"url":"http://x.org/f","valueString":"x"}]}}"#;
        let xml = from_json(json).unwrap();
        let back = to_json(&xml).unwrap();
        let (before, after): (Value, Value) = (serde_json::from_slice(json).unwrap(), serde_json::from_slice(&back).unwrap());
        assert_eq!(before, after, "{}", String::from_utf8_lossy(&xml));
    }

    #[test]
    fn white_space_in_values_survives() {
        let json = br#"{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">a\nb<!-- \" --><i title=\"x\ty\">c</i></div>"},"name":[{"text":" line 1\nline 2\tend\r\n \"it's\" > <&> "}]}"#;
        let xml = from_json(json).unwrap();
        let text = String::from_utf8(xml.clone()).unwrap();
        assert!(text.contains("line 1&#10;line 2&#9;end&#13;&#10;"), "{text}");
        let (before, after): (Value, Value) =
            (serde_json::from_slice(json).unwrap(), serde_json::from_slice(&to_json(&xml).unwrap()).unwrap());
        assert_eq!(before, after, "{text}");
    }

    #[test]
    fn literal_white_space_in_attributes_is_a_space() {
        let xml = "<?xml version=\"1.0\"?>\r\n<!-- it's\n --><Patient xmlns=\"http://hl7.org/fhir\">\r\n<text><status value='generated'/>\
            <div xmlns=\"http://www.w3.org/1999/xhtml\">a\r\nb</div></text><name><text\n value=\"a\r\nb\tc&#10;d&#xD;&#9;e\"/></name></Patient>";
        let json: Value = serde_json::from_slice(&to_json(xml.as_bytes()).unwrap()).unwrap();
        assert_eq!(json["name"][0]["text"], "a b c\nd\r\te");
        assert_eq!(json["text"]["div"], "<div xmlns=\"http://www.w3.org/1999/xhtml\">a\nb</div>");
    }

    #[test]
    fn bundles_and_outcomes_have_an_xml_form() {
        let json = br#"{"resourceType":"Bundle","type":"searchset","total":1,"entry":[{"fullUrl":"http://x/fhir/Patient/a","resource":{"resourceType":"Patient","id":"a"},"search":{"mode":"match"}}]}"#;
        let xml = String::from_utf8(from_json(json).unwrap()).unwrap();
        assert!(xml.contains("<Bundle") && xml.contains("<Patient") && xml.contains("<total value=\"1\""), "{xml}");
    }

    #[test]
    fn hostile_xml_is_refused() {
        let deep = format!("<Patient xmlns=\"http://hl7.org/fhir\">{}", "<contact>".repeat(100_000));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"cc\">]><Patient xmlns=\"http://hl7.org/fhir\"/>";
        for bad in [
            &deep[..],
            bomb,
            "",
            "<",
            "<Patient",
            "</Patient>",
            "<a></a>",
            "<Patient xmlns=\"http://hl7.org/fhir\"><nonsense value=\"1\"/></Patient>",
            "<Patient xmlns='x&y'/>",
        ] {
            assert!(to_json(bad.as_bytes()).is_err(), "{}", bad.get(..30).unwrap_or(bad));
        }
        assert!(to_json(b"\xff\xfe").is_err());
        assert!(from_json(b"{}").is_err());
    }
}
