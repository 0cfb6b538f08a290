//! From XML.

use super::{FHIR, MAX_DEPTH, XmlError};
use crate::definitions::{Element, ElementKind, Primitive, Structure, StructureKind, r4};
use crate::fhir::json::{MOST_READ, deeper_than};
use crate::fhir::markup::{Event, Scanner, escape, value};
use crate::fhir::narrative::XHTML;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

/// What says where a schema is, for those who want to know.
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// The JSON form of an XML resource.
pub fn to_json(xml: &[u8]) -> Result<Vec<u8>, XmlError> {
    let xml = xml.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(xml);
    let text = std::str::from_utf8(xml).map_err(|_| XmlError::NotUtf8)?;
    // <https://www.w3.org/TR/xml/#sec-line-ends>: every line ends with a line feed alone.
    let text = if text.contains('\r') { Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")) } else { Cow::Borrowed(text) };
    let mut reader = Reader { scanner: Scanner::new(&text), path: Vec::new() };
    let mut resource = None;
    while let Some(event) = reader.scanner.step()? {
        if let Event::Start { name, closed, .. } = event {
            let (FHIR, name) = reader.scanner.expanded(name) else { return Err(XmlError::NotFhir) };
            resource = Some(reader.resource(name, closed)?);
        }
    }
    let resource = resource.ok_or(XmlError::NotFhir)?;
    if let Some(place) = deeper_than(&resource, MOST_READ) {
        let name = resource.get("resourceType").and_then(Value::as_str).filter(|name| r4().structure(name).is_some());
        let expression = name.map_or_else(String::new, |name| format!("{name}{place}"));
        return Err(XmlError::Misplaced { words: "stands too deep within others", expression });
    }
    serde_json::to_vec(&resource).map_err(|_| XmlError::NotFhir)
}

struct Reader<'a> {
    scanner: Scanner<'a>,
    /// Where it is: names, and places in lists.
    path: Vec<(&'a str, Option<usize>)>,
}

/// One occurrence of an element: what stands under its name in JSON, and what under its name with `_` before it.
#[derive(Default)]
struct Item {
    value: Option<Value>,
    sibling: Option<Value>,
}

/// All occurrences of an element.
struct Found<'a> {
    key: &'a str,
    is_list: bool,
    items: Vec<Item>,
}

impl<'a> Reader<'a> {
    /// A resource whose tag was read.
    fn resource(&mut self, name: &'a str, closed: bool) -> Result<Value, XmlError> {
        let structure = r4().structure(name).filter(|structure| structure.kind == StructureKind::Resource);
        if self.path.is_empty() {
            self.path.push((name, None));
        }
        self.no_attributes()?;
        let mut members = Map::new();
        members.insert("resourceType".to_owned(), name.into());
        if !closed {
            self.members(structure, &mut members)?;
        }
        Ok(Value::Object(members))
    }

    /// What stands in an element that was begun, to its end.
    fn members(&mut self, structure: Option<&'static Structure>, members: &mut Map<String, Value>) -> Result<(), XmlError> {
        let mut all: Vec<Found> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        while let Some((name, closed, raw)) = self.child()? {
            let (namespace, key) = self.scanner.expanded(name);
            let known = structure.and_then(|structure| structure.key(key)).map(|(_, element, kind)| (element, kind.kind));
            let is_narrative = matches!(known, Some((_, ElementKind::Primitive(Primitive::Xhtml))));
            let place = *places.entry(key).or_insert(all.len());
            if place == all.len() {
                all.push(Found { key, is_list: known.is_some_and(|(element, _)| element.is_list()), items: Vec::new() });
            }
            let Some(found) = all.get_mut(place) else { continue };
            self.path.push((key, found.is_list.then_some(found.items.len())));
            if namespace != FHIR && !(is_narrative && namespace == XHTML) {
                return Err(self.misplaced("is not of the namespace that FHIR has here"));
            }
            // Names that mean something else in JSON.
            if (key == "resourceType" && known.is_none()) || key.starts_with('_') {
                return Err(self.misplaced("is no element of FHIR R4"));
            }
            if structure.is_some_and(|structure| structure.is_attribute(key)) {
                return Err(self.misplaced("must be an attribute in XML"));
            }
            let item = if is_narrative {
                Item { value: Some(self.narrative(name, closed, raw)?.into()), sibling: None }
            } else {
                self.item(known, closed)?
            };
            found.items.push(item);
            self.path.pop();
        }
        for Found { key, is_list, items } in all {
            // What may not repeat and does is for the validator.
            let is_list = is_list || items.len() > 1;
            let (values, siblings): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.value, item.sibling)).unzip();
            for (key, values) in [(key.to_owned(), values), (format!("_{key}"), siblings)] {
                if values.iter().all(Option::is_none) {
                    continue;
                }
                let mut values = values.into_iter().map(Option::unwrap_or_default);
                let whole = if is_list { Value::Array(values.collect()) } else { values.next().unwrap_or_default() };
                members.insert(key, whole);
            }
        }
        Ok(())
    }

    /// An element whose tag was read.
    fn item(&mut self, known: Option<(&'static Element, ElementKind)>, closed: bool) -> Result<Item, XmlError> {
        if self.scanner.depth() > MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
        match known.map(|(_, kind)| kind) {
            Some(ElementKind::Resource) => Ok(Item { value: Some(self.held(closed)?), sibling: None }),
            Some(ElementKind::Structure(place)) => {
                let structure = r4().structure_at(place);
                let mut members = Map::new();
                for (key, raw) in self.attributes(|key| structure.is_some_and(|structure| structure.is_attribute(key)))? {
                    members.insert(key.to_owned(), value(raw).into());
                }
                if !closed {
                    self.members(structure, &mut members)?;
                }
                Ok(Item { value: Some(Value::Object(members)), sibling: None })
            }
            Some(ElementKind::Primitive(primitive)) => self.primitive(Some(primitive), closed),
            None => self.primitive(None, closed),
        }
    }

    /// A primitive, or an element that R4 does not have.
    fn primitive(&mut self, primitive: Option<Primitive>, closed: bool) -> Result<Item, XmlError> {
        let (mut item, mut sibling) = (Item::default(), Map::new());
        for (key, raw) in self.attributes(|key| matches!(key, "value" | "id"))? {
            match key {
                "value" => item.value = Some(said(primitive, value(raw))),
                _ => _ = sibling.insert(key.to_owned(), value(raw).into()),
            }
        }
        if !closed {
            self.members(primitive.and_then(|_| r4().structure("Element")), &mut sibling)?;
        }
        match (primitive, &item.value) {
            (None, None) => item.value = Some(Value::Object(sibling)),
            // With nothing in it it is not left out, but said to be empty.
            (_, None) => item.sibling = Some(Value::Object(sibling)),
            (_, Some(_)) => item.sibling = (!sibling.is_empty()).then_some(Value::Object(sibling)),
        }
        Ok(item)
    }

    /// The resource within an element that holds one.
    fn held(&mut self, closed: bool) -> Result<Value, XmlError> {
        self.no_attributes()?;
        let mut resource = None;
        while !closed && let Some((name, closed, _)) = self.child()? {
            let (namespace, name) = self.scanner.expanded(name);
            if namespace != FHIR || resource.is_some() {
                return Err(self.misplaced("must hold one resource"));
            }
            if self.scanner.depth() > MAX_DEPTH {
                return Err(XmlError::TooDeep);
            }
            resource = Some(self.resource(name, closed)?);
        }
        Ok(resource.unwrap_or_else(|| Value::Object(Map::new())))
    }

    /// The next element within the one that is open; `None` when that ends.
    fn child(&mut self) -> Result<Option<(&'a str, bool, &'a str)>, XmlError> {
        while let Some(event) = self.scanner.step()? {
            match event {
                Event::Start { name, closed, raw } => return Ok(Some((name, closed, raw))),
                Event::End { .. } => return Ok(None),
                Event::Text(text) | Event::Section(text) if !text.trim().is_empty() => {
                    return Err(self.misplaced("holds text where FHIR's XML has none: values stand in the attribute value"));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// A narrative's source as JSON has it: its elements without prefixes, its namespace said.
    fn narrative(&mut self, name: &'a str, closed: bool, raw: &'a str) -> Result<String, XmlError> {
        let depth = self.scanner.depth();
        let own = self.scanner.attributes().iter().any(|(key, _)| *key == "xmlns") && !name.contains(':');
        let mut source = match own {
            true => raw.to_owned(),
            false => {
                let mut source = format!("<div xmlns=\"{XHTML}\"");
                self.without_prefixes(&mut source, closed);
                source
            }
        };
        while !closed && let Some(event) = self.scanner.step()? {
            match event {
                Event::Start { name, closed, raw } => match self.scanner.expanded(name) {
                    (XHTML, local) if name.contains(':') => {
                        _ = write!(source, "<{local}");
                        self.without_prefixes(&mut source, closed);
                    }
                    _ => source.push_str(raw),
                },
                Event::End { name } => {
                    let (namespace, local) = self.scanner.expanded(name);
                    let ends = self.scanner.depth() < depth;
                    _ = write!(source, "</{}>", if namespace == XHTML || ends { local } else { name });
                    if ends {
                        break;
                    }
                }
                Event::Text(text) => source.push_str(text),
                Event::Section(text) => escape(&mut source, text),
                Event::Comment(text) => _ = write!(source, "<!--{text}-->"),
                Event::Instruction(text) => _ = write!(source, "<?{text}?>"),
            }
        }
        Ok(source)
    }

    /// The rest of a tag of which the name is written, without what it declares.
    fn without_prefixes(&self, source: &mut String, closed: bool) {
        for (key, raw) in self.scanner.attributes().iter().filter(|(key, _)| *key != "xmlns" && !key.starts_with("xmlns:")) {
            let quote = if raw.contains('"') { '\'' } else { '"' };
            _ = write!(source, " {key}={quote}{raw}{quote}");
        }
        source.push_str(if closed { "/>" } else { ">" });
    }

    /// The attributes that an element has here; those that are none of FHIR's are passed over, others refused.
    fn attributes(&self, right: impl Fn(&str) -> bool) -> Result<Vec<(&'a str, &'a str)>, XmlError> {
        let mut own = Vec::new();
        for (key, raw) in self.scanner.attributes() {
            if *key == "xmlns" || key.starts_with("xmlns:") {
                continue;
            }
            match key.contains(':') {
                true if self.scanner.expanded(key).0 == SCHEMA_INSTANCE => {}
                false if right(key) => own.push((*key, *raw)),
                _ => return Err(self.misplaced("has an attribute that FHIR R4 does not have there")),
            }
        }
        Ok(own)
    }

    fn no_attributes(&self) -> Result<(), XmlError> {
        self.attributes(|_| false).map(|_| ())
    }

    fn misplaced(&self, words: &'static str) -> XmlError {
        let mut expression = String::new();
        for (name, place) in &self.path {
            // Only what looks like an element's name is repeated.
            if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                break;
            }
            _ = write!(expression, "{}{name}", if expression.is_empty() { "" } else { "." });
            if let Some(place) = place {
                _ = write!(expression, "[{place}]");
            }
        }
        XmlError::Misplaced { words, expression }
    }
}

/// A primitive's text in JSON; what is no value of its type stays a text, which the validator then refuses.
fn said(primitive: Option<Primitive>, text: Cow<'_, str>) -> Value {
    use Primitive::*;
    let value = match (primitive, text.trim()) {
        (Some(Boolean), "true") => Some(Value::Bool(true)),
        (Some(Boolean), "false") => Some(Value::Bool(false)),
        (Some(Decimal | Integer | PositiveInt | UnsignedInt), digits) => digits.parse::<Number>().ok().map(Value::Number),
        _ => None,
    };
    value.unwrap_or_else(|| text.into())
}
