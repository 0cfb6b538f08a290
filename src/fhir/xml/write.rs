//! To XML.

use super::{FHIR, XmlError};
use crate::definitions::{ElementKind, Primitive, Structure, StructureKind, r4};
use crate::fhir::markup::escape;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::{Issue, IssueCode, json, narrative};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The XML form of a JSON resource. It is well formed whatever texts stand in it: what XML cannot say becomes U+FFFD, and
/// narratives are made right. A resource in a Bundle or Parameters that has no XML form (it was stored without being checked) does not take
/// it from all the others: an OperationOutcome stands in its place.
/// With `pretty` a line for each element, narratives apart: white space in these is theirs.
pub fn from_json(json: &[u8], pretty: bool) -> Result<Vec<u8>, XmlError> {
    let resource = json::parse_deep(json).map_err(|_| XmlError::NoXmlForm)?;
    let mut xml = Written { text: String::with_capacity(json.len()), level: pretty.then_some(0) };
    resource_to(&mut xml, &resource, true)?;
    Ok(xml.text.into_bytes())
}

struct Written {
    text: String,
    /// How deep the element stands that comes next; none where everything stands on one line.
    level: Option<usize>,
}

impl Written {
    fn line(&mut self) {
        if let Some(level) = self.level {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n("  ", level));
        }
    }

    fn begin(&mut self, name: &str) {
        self.text.push('<');
        self.text.push_str(name);
    }

    fn attribute(&mut self, name: &str, value: &str) {
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push_str("=\"");
        escape(&mut self.text, value);
        self.text.push('"');
    }

    /// Ends the tag that was begun, and the element, with what stands in it.
    fn end(&mut self, name: &str, empty: bool, inside: impl FnOnce(&mut Written) -> Result<(), XmlError>) -> Result<(), XmlError> {
        if empty {
            self.text.push_str("/>");
            return Ok(());
        }
        self.text.push('>');
        let level = self.level;
        self.level = level.map(|level| level.saturating_add(1));
        inside(self)?;
        self.level = level;
        self.line();
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
        Ok(())
    }
}

fn resource_to(xml: &mut Written, resource: &Value, is_root: bool) -> Result<(), XmlError> {
    let members = resource.as_object().ok_or(XmlError::NoXmlForm)?;
    let name = members.get("resourceType").and_then(Value::as_str).and_then(|name| r4().structure(name));
    let structure = name.filter(|structure| structure.kind == StructureKind::Resource).ok_or(XmlError::NoXmlForm)?;
    if !is_root {
        xml.line();
    }
    xml.begin(structure.name);
    if is_root {
        xml.attribute("xmlns", FHIR);
    }
    let children = children(structure, members)?;
    xml.end(structure.name, children.is_empty(), |xml| children_to(xml, &children))
}

/// A JSON key and what stands under it and under the same with `_` before it.
struct Child<'v> {
    /// In the structure's elements.
    place: usize,
    key: &'v str,
    kind: ElementKind,
    value: Option<&'v Value>,
    sibling: Option<&'v Value>,
}

/// What stands in an element as elements, in R4's order.
fn children<'v>(structure: &'static Structure, members: &'v Map<String, Value>) -> Result<Vec<Child<'v>>, XmlError> {
    let mut children: Vec<Child> = Vec::with_capacity(members.len());
    for (key, member) in members {
        let name = key.strip_prefix('_').unwrap_or(key);
        if structure.is_attribute(name) || (key == "resourceType" && structure.kind == StructureKind::Resource) {
            continue;
        }
        let (place, _, kind) = structure.key(name).ok_or(XmlError::NoXmlForm)?;
        let kind = kind.kind;
        match key.starts_with('_') {
            false => children.push(Child { place, key, kind, value: Some(member), sibling: members.get(&format!("_{key}")) }),
            true if members.contains_key(name) => {}
            true => children.push(Child { place, key: name, kind, value: None, sibling: Some(member) }),
        }
    }
    children.sort_by_key(|child| child.place);
    Ok(children)
}

fn children_to(xml: &mut Written, children: &[Child]) -> Result<(), XmlError> {
    for Child { key, kind, value, sibling, .. } in children {
        let (values, siblings) = (value.map_or(&[][..], each), sibling.map_or(&[][..], each));
        for at in 0..values.len().max(siblings.len()) {
            let (value, sibling) = (values.get(at).filter(|value| !value.is_null()), siblings.get(at).and_then(Value::as_object));
            match kind {
                ElementKind::Primitive(Primitive::Xhtml) => {
                    let div = value.and_then(Value::as_str).ok_or(XmlError::NoXmlForm)?;
                    xml.line();
                    xml.text.push_str(&narrative::as_xml(div));
                }
                ElementKind::Primitive(_) if value.is_none() && sibling.is_none() => {}
                ElementKind::Primitive(_) => primitive_to(xml, key, value, sibling)?,
                ElementKind::Resource => {
                    xml.line();
                    xml.begin(key);
                    xml.end(key, false, |xml| {
                        let (begun, level) = (xml.text.len(), xml.level);
                        resource_to(xml, value.unwrap_or(&Value::Null), false).or_else(|error| {
                            if *key != "resource" {
                                return Err(error);
                            }
                            xml.text.truncate(begun);
                            xml.level = level;
                            let words = "This resource has no XML form: read it as application/fhir+json.";
                            resource_to(xml, &operation_outcome(&[Issue::error(IssueCode::NotSupported, words)]), false)
                        })
                    })?;
                }
                ElementKind::Structure(place) => {
                    let structure = r4().structure_at(*place).ok_or(XmlError::NoXmlForm)?;
                    element_to(xml, key, structure, value.and_then(Value::as_object).ok_or(XmlError::NoXmlForm)?, None)?;
                }
            }
        }
    }
    Ok(())
}

fn primitive_to(xml: &mut Written, key: &str, value: Option<&Value>, sibling: Option<&Map<String, Value>>) -> Result<(), XmlError> {
    let value = match value {
        None => None,
        Some(Value::String(text)) => Some(Cow::Borrowed(text.as_str())),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => Some(value.to_string().into()),
        Some(_) => return Err(XmlError::NoXmlForm),
    };
    let structure = r4().structure("Element").ok_or(XmlError::NoXmlForm)?;
    element_to(xml, key, structure, sibling.unwrap_or(&Map::new()), value.as_deref())
}

/// An element with its attributes, `value` among them.
fn element_to(
    xml: &mut Written,
    key: &str,
    structure: &'static Structure,
    members: &Map<String, Value>,
    value: Option<&str>,
) -> Result<(), XmlError> {
    xml.line();
    xml.begin(key);
    for (name, member) in members.iter().filter(|(name, _)| structure.is_attribute(name)) {
        xml.attribute(name, member.as_str().ok_or(XmlError::NoXmlForm)?);
    }
    if let Some(value) = value {
        xml.attribute("value", value);
    }
    let children = children(structure, members)?;
    xml.end(key, children.is_empty(), |xml| children_to(xml, &children))
}

/// The items of a list, or the one.
fn each(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    }
}
