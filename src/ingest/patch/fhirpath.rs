//! FHIRPath Patch (<https://hl7.org/fhir/R4/fhirpatch.html>): operations that each name a place by an expression.

use super::{malformed, unfit};
use crate::definitions::{self, Element, ElementKind, Structure};
use crate::fhir::json;
use crate::fhirpath::{Env, Expression, Node};
use crate::ingest::refusal::Refusal;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Operations of one FHIRPath Patch; each evaluates an expression over the resource.
const MOST_OPERATIONS: usize = 200;

/// One operation of a FHIRPath Patch.
#[derive(Clone, Debug)]
pub struct Operation {
    /// FHIRPath of its parameter, for errors.
    at: String,
    path: Expression,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Add {
        name: String,
        value: Part,
    },
    Insert {
        index: usize,
        value: Part,
        /// The path without its last step, and that: where the list is to be if it is not there yet.
        list: Option<(Expression, String)>,
    },
    Delete,
    Replace {
        value: Part,
    },
    Move {
        source: usize,
        destination: usize,
    },
}

/// The parameter `value`: of a datatype, or of the parts of an element that has no type of its own.
#[derive(Clone, Debug)]
enum Part {
    /// The type as the key says it (`String` of `valueString`; `Resource` of a resource), and the value.
    Typed(String, Value),
    Parts(Vec<(String, Part)>),
}

/// Where a value stands in JSON.
type Place = Vec<Token>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Key(String),
    Index(usize),
}

/// Reads a Parameters resource as operations.
pub(super) fn operations(parameters: &Value) -> Result<Vec<Operation>, Refusal> {
    if parameters.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(malformed("", "A FHIRPath Patch is a Parameters resource; a JSON Patch is sent as application/json-patch+json."));
    }
    // Without any it changes nothing, as what found no difference says.
    let Some(list) = parameters.get("parameter") else { return Ok(Vec::new()) };
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() || list.len() > MOST_OPERATIONS {
        return Err(malformed("Parameters.parameter", format!("A FHIRPath Patch has at most {MOST_OPERATIONS} operations, in a list.")));
    }
    let operations = list.iter().enumerate().map(|(number, item)| operation(item, format!("Parameters.parameter[{number}]")));
    operations.collect()
}

fn operation(item: &Value, at: String) -> Result<Operation, Refusal> {
    if item.get("name").and_then(Value::as_str) != Some("operation") {
        return Err(malformed(&at, "Every parameter of a FHIRPath Patch is named operation."));
    }
    let parts = item.get("part").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut names: Vec<&str> = parts.iter().filter_map(|part| part.get("name")?.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(malformed(&at, "The operation has one of its parts twice."));
    }
    if parts.iter().any(has_empty) {
        return Err(malformed(&at, "FHIR has no empty objects and lists: give them content, or leave them out."));
    }
    let part = |name: &str| parts.iter().find(|part| part.get("name").and_then(Value::as_str) == Some(name));
    let text = |name: &str| part(name).and_then(datatype).and_then(|(_, value)| value.as_str().map(str::to_owned));
    let missing = |name: &str| malformed(&at, format!("The operation lacks its part {name}."));
    let number = |name: &str| {
        let value = part(name).and_then(datatype).and_then(|(_, value)| value.as_u64());
        value.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| missing(name))
    };
    let value = || part("value").and_then(|part| read_part(part, 0)).ok_or_else(|| missing("value"));
    let written = text("path").ok_or_else(|| missing("path"))?;
    let path = Expression::parse(&written).map_err(|error| malformed(&at, format!("The path is no FHIRPath expression: {error}.")))?;
    let kind = match text("type").as_deref() {
        Some("add") => Kind::Add { name: text("name").ok_or_else(|| missing("name"))?, value: value()? },
        Some("insert") => Kind::Insert { index: number("index")?, value: value()?, list: list_in(&written) },
        Some("delete") => Kind::Delete,
        Some("replace") => Kind::Replace { value: value()? },
        Some("move") => Kind::Move { source: number("source")?, destination: number("destination")? },
        _ => return Err(malformed(&at, "The operation's type must be add, insert, delete, replace or move.")),
    };
    Ok(Operation { at, path, kind })
}

/// A path that ends in a plain name: what stands before that, and the name.
fn list_in(path: &str) -> Option<(Expression, String)> {
    let (holder, name) = path.trim_end().rsplit_once('.')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some((Expression::parse(holder).ok().filter(|_| is_name)?, name.to_owned()))
}

fn datatype(part: &Value) -> Option<(&str, &Value)> {
    part.as_object()?.iter().find_map(|(key, value)| Some((key.strip_prefix("value").filter(|name| !name.is_empty())?, value)))
}

/// Whether there is an empty object or list in a value (<https://hl7.org/fhir/R4/json.html>). What comes of a patch loses those.
fn has_empty(value: &Value) -> bool {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) if items.is_empty() => return true,
            Value::Object(members) if members.is_empty() => return true,
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
    }
    false
}

fn read_part(part: &Value, depth: usize) -> Option<Part> {
    if let Some((name, value)) = datatype(part) {
        return Some(Part::Typed(name.to_owned(), value.clone()));
    }
    if let Some(resource) = part.get("resource") {
        return Some(Part::Typed("Resource".to_owned(), resource.clone()));
    }
    if depth > 32 {
        return None;
    }
    let parts = part.get("part")?.as_array()?.iter().map(|part| {
        let name = part.get("name")?.as_str()?.to_owned();
        Some((name, read_part(part, depth + 1)?))
    });
    parts.collect::<Option<_>>().map(Part::Parts)
}

impl Operation {
    fn refuse<T>(&self, words: impl Into<String>) -> Result<T, Refusal> {
        Err(unfit(&self.at, words))
    }

    /// What comes of it may be as deep as is stored, and no deeper: the next operation walks through it.
    pub(super) fn apply(&self, resource: &mut Value) -> Result<(), Refusal> {
        self.change(resource)?;
        let puts = matches!(self.kind, Kind::Add { .. } | Kind::Insert { .. } | Kind::Replace { .. });
        if puts && json::deeper_than(resource, json::MAX_DEPTH).is_some() {
            return self.refuse("The resource would be nested too deep.");
        }
        Ok(())
    }

    fn change(&self, resource: &mut Value) -> Result<(), Refusal> {
        let places = self.places(resource, &self.path)?;
        match &self.kind {
            Kind::Add { name, value } => self.add(resource, self.one(&places)?, name, value, false),
            Kind::Delete => match places.as_slice() {
                // What is not there need not be deleted.
                [] => Ok(()),
                [place] => self.remove(resource, place),
                _ => self.refuse("The path leads to several elements: narrow it until it leads to one."),
            },
            Kind::Replace { value } => {
                let place = self.one(&places)?;
                let Some((holder, key, index)) = split(place) else {
                    return self.refuse("The resource itself cannot be replaced by a patch.");
                };
                let element = structure_at(resource, holder).and_then(|structure| Some(structure.key(key)?.1));
                let Some(element) = element else { return self.refuse("The path leads to no element that R4 knows.") };
                let (new_key, value) = self.member(element, value)?;
                let Some(members) = walk(resource, holder).and_then(Value::as_object_mut) else {
                    return self.refuse("There is nothing at the path.");
                };
                fill_up(members, key);
                let is_beside = members.contains_key(&format!("_{key}"));
                match (index, members.get_mut(key)) {
                    (Some(index), Some(Value::Array(items))) => match items.get_mut(index) {
                        Some(item) => *item = value,
                        None => return self.refuse("There is nothing at the path."),
                    },
                    // A choice may become another type; its neighbours keep their order.
                    (_, Some(_)) => {
                        *members = std::mem::take(members)
                            .into_iter()
                            .map(|(name, old)| if name == key { (new_key.clone(), value.clone()) } else { (name, old) })
                            .collect();
                    }
                    // A primitive that has only what stands beside it gets its value.
                    (_, None) if new_key == key && is_beside => _ = members.insert(new_key, value),
                    (_, None) => return self.refuse("There is nothing at the path."),
                }
                Ok(())
            }
            // The first item of a list makes the list.
            Kind::Insert { index: 0, value, list: Some((holder, name)) } if places.is_empty() => {
                let holders = self.places(resource, holder)?;
                self.add(resource, self.one(&holders)?, name, value, true)
            }
            Kind::Insert { index, value, .. } => {
                let (holder, key) = self.list(&places)?;
                let element = structure_at(resource, holder).and_then(|structure| Some(structure.key(key)?.1));
                let Some(element) = element else { return self.refuse("The path leads to no element that R4 knows.") };
                let (_, value) = self.member(element, value)?;
                self.in_list(resource, holder, key, |items, is_value| {
                    let there = *index <= items.len();
                    if there {
                        items.insert(*index, if is_value { value.clone() } else { Value::Null });
                    }
                    there
                })
            }
            Kind::Move { source, destination } => {
                let (holder, key) = self.list(&places)?;
                self.in_list(resource, holder, key, |items, _| {
                    let there = *source < items.len() && *destination < items.len();
                    if there {
                        let item = items.remove(*source);
                        items.insert(*destination, item);
                    }
                    there
                })
            }
        }
    }

    /// Gives the element at the place a member; with `is_list` one that repeats, and no other.
    fn add(&self, resource: &mut Value, place: &Place, name: &str, value: &Part, is_list: bool) -> Result<(), Refusal> {
        if let Some((holder, key, index)) = primitive_at(resource, place) {
            if is_list && name != "extension" {
                return self.no_list();
            }
            return self.add_beside(resource, holder, key, index, name, value);
        }
        let Some(structure) = structure_at(resource, place) else {
            return self.refuse("The path leads to no element that has members.");
        };
        let Some(element) = structure.element(name) else {
            return self.refuse("The element at the path has no member of this name.");
        };
        if is_list && !element.is_list() {
            return self.no_list();
        }
        let (key, value) = self.member(element, value)?;
        let Some(members) = walk(resource, place).and_then(Value::as_object_mut) else {
            return self.refuse("The path leads to no element that has members.");
        };
        if element.is_list() {
            fill_up(members, &key);
            let beside = format!("_{key}");
            match members.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(items) => items.push(value),
                _ => return self.refuse("The element to add to is no list."),
            }
            if let Some(items) = members.get_mut(&beside).and_then(Value::as_array_mut) {
                items.push(Value::Null);
            }
        } else if element_given(element, members) {
            return self.refuse("The element is there already: replace it, or delete it first.");
        } else {
            members.insert(key, value);
        }
        Ok(())
    }

    /// Gives a primitive an id or an extension, which stand beside it in JSON (<https://hl7.org/fhir/R4/json.html#primitive>).
    fn add_beside(
        &self,
        resource: &mut Value,
        holder: &[Token],
        key: &str,
        index: Option<usize>,
        name: &str,
        value: &Part,
    ) -> Result<(), Refusal> {
        let value = match (name, value) {
            ("id", Part::Typed(kind, value)) if kind == "String" => value.clone(),
            ("extension", Part::Typed(kind, value)) if kind == "Extension" => value.clone(),
            _ => return self.refuse("A primitive takes an id, as valueString, or an extension, as valueExtension."),
        };
        let Some(members) = walk(resource, holder).and_then(Value::as_object_mut) else {
            return self.refuse("There is nothing at the path.");
        };
        let values = members.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let mut beside = members.entry(format!("_{key}")).or_insert(Value::Null);
        if let Some(index) = index {
            if !beside.is_array() {
                *beside = Value::Array(Vec::new());
            }
            let Some(items) = beside.as_array_mut() else { return self.refuse("There is nothing at the path.") };
            // As long as the list of values, which has this place.
            items.resize(items.len().max(values), Value::Null);
            let Some(item) = items.get_mut(index) else { return self.refuse("There is nothing at the path.") };
            beside = item;
        }
        if !beside.is_object() {
            *beside = Value::Object(Map::new());
        }
        let Some(beside) = beside.as_object_mut() else { return self.refuse("There is nothing at the path.") };
        match name {
            "id" if beside.contains_key("id") => self.refuse("The element is there already: replace it, or delete it first."),
            "id" => {
                beside.insert("id".to_owned(), value);
                Ok(())
            }
            _ => match beside.entry("extension").or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(items) => {
                    items.push(value);
                    Ok(())
                }
                _ => self.refuse("The element to add to is no list."),
            },
        }
    }

    /// Where the elements stand that the path leads to.
    fn places(&self, resource: &Value, path: &Expression) -> Result<Vec<Place>, Refusal> {
        let found = path.evaluate(resource, &Env::default().with_resource(resource));
        let nodes = found.map_err(|error| unfit(&self.at, format!("The path cannot be evaluated: {error}.")))?;
        let mut places = Vec::with_capacity(nodes.len());
        for node in nodes {
            let place = match (&node, node.as_json()) {
                // A primitive without a value is where its extensions are.
                (Node::Element(element), Cow::Borrowed(Value::Null)) => {
                    element.extra.and_then(|extra| place_of(resource, extra)).map(place_of_value)
                }
                (_, Cow::Borrowed(value)) => place_of(resource, value),
                (_, Cow::Owned(_)) => None,
            };
            match place {
                Some(place) => places.push(place),
                None => return self.refuse("The path computes a value; it must lead to elements of the resource."),
            }
        }
        Ok(places)
    }

    fn one<'a>(&self, places: &'a [Place]) -> Result<&'a Place, Refusal> {
        match places {
            [place] => Ok(place),
            [] => self.refuse("The path leads to nothing."),
            _ => self.refuse("The path leads to several elements: narrow it until it leads to one."),
        }
    }

    /// The list that all places are items of.
    fn list<'a>(&self, places: &'a [Place]) -> Result<(&'a [Token], &'a str), Refusal> {
        let mut lists = places.iter().map(|place| split(place).and_then(|(holder, key, index)| index.map(|_| (holder, key))));
        match lists.next() {
            Some(Some(first)) if lists.all(|list| list == Some(first)) => Ok(first),
            _ => self.no_list(),
        }
    }

    fn no_list<T>(&self) -> Result<T, Refusal> {
        self.refuse("The path must lead to the items of one list.")
    }

    /// Changes a list and, where its items are primitives with extensions, the list beside it.
    fn in_list(
        &self,
        resource: &mut Value,
        holder: &[Token],
        key: &str,
        change: impl Fn(&mut Vec<Value>, bool) -> bool,
    ) -> Result<(), Refusal> {
        let Some(members) = walk(resource, holder).and_then(Value::as_object_mut) else {
            return self.refuse("There is nothing at the path.");
        };
        fill_up(members, key);
        match members.get_mut(key).and_then(Value::as_array_mut).map(|items| change(items, true)) {
            Some(true) => {}
            _ => return self.refuse("The list has no such place."),
        }
        if let Some(beside) = members.get_mut(&format!("_{key}")).and_then(Value::as_array_mut) {
            change(beside, false);
        }
        Ok(())
    }

    fn remove(&self, resource: &mut Value, place: &Place) -> Result<(), Refusal> {
        let Some((holder, key, index)) = split(place) else { return self.refuse("The resource itself cannot be deleted by a patch.") };
        match index {
            Some(index) => self.in_list(resource, holder, key, |items, _| {
                let there = index < items.len();
                if there {
                    items.remove(index);
                }
                there
            }),
            None => {
                if let Some(members) = walk(resource, holder).and_then(Value::as_object_mut) {
                    members.shift_remove(key);
                    members.shift_remove(&format!("_{key}"));
                }
                Ok(())
            }
        }
    }

    /// The JSON key and value of a member.
    fn member(&self, element: &Element, part: &Part) -> Result<(String, Value), Refusal> {
        match part {
            Part::Typed(name, value) => {
                let fits = |kind: &&definitions::ElementType| kind.name.eq_ignore_ascii_case(name);
                let key = match element.types.iter().find(fits) {
                    Some(kind) => element.json_key(kind).into_owned(),
                    // A string may be given for a code, a uri for a canonical: the element's own format is checked later.
                    None if !element.choice => element.name.to_owned(),
                    None => return self.refuse("The element cannot be of the type that the value has."),
                };
                Ok((key, value.clone()))
            }
            Part::Parts(parts) => {
                let structure = element.types.first().and_then(|kind| match kind.kind {
                    ElementKind::Structure(place) => definitions::r4().structure_at(place),
                    _ => None,
                });
                let (Some(structure), false) = (structure, element.choice) else {
                    return self.refuse("The value is given in parts, and the element has no members.");
                };
                let mut members = Map::new();
                for (name, part) in parts {
                    let Some(member) = structure.element(name) else {
                        return self.refuse("A part of the value is no member of the element.");
                    };
                    let (key, value) = self.member(member, part)?;
                    if !member.is_list() {
                        if element_given(member, &members) {
                            return self.refuse("A part of the value is given twice, and the member does not repeat.");
                        }
                        members.insert(key, value);
                    } else if let Value::Array(items) = members.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                        items.push(value);
                    }
                }
                Ok((element.name.to_owned(), Value::Object(members)))
            }
        }
    }
}

/// Makes a list of values as long as the one beside it: what has only extensions has no value (<https://hl7.org/fhir/R4/json.html#primitive>).
fn fill_up(members: &mut Map<String, Value>, key: &str) {
    let Some(count) = members.get(&format!("_{key}")).and_then(Value::as_array).map(Vec::len) else { return };
    if let Value::Array(items) = members.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
        items.resize(items.len().max(count), Value::Null);
    }
}

/// Where the value of a primitive would stand whose extensions are at `place`.
fn place_of_value(mut place: Place) -> Place {
    let key = place.iter_mut().rev().find_map(|token| match token {
        Token::Key(key) => Some(key),
        Token::Index(_) => None,
    });
    if let Some(key) = key {
        *key = key.trim_start_matches('_').to_owned();
    }
    place
}

fn element_given(element: &Element, members: &Map<String, Value>) -> bool {
    element.types.iter().any(|kind| members.contains_key(element.json_key(kind).as_ref()))
}

/// The holder, the key, and the index when the key holds a list; `None` for the root.
fn split(place: &[Token]) -> Option<(&[Token], &str, Option<usize>)> {
    match place {
        [holder @ .., Token::Key(key), Token::Index(index)] => Some((holder, key, Some(*index))),
        [holder @ .., Token::Key(key)] => Some((holder, key, None)),
        _ => None,
    }
}

/// The holder, the key and the index of the primitive at `place`, if there is one.
fn primitive_at<'p>(root: &Value, place: &'p [Token]) -> Option<(&'p [Token], &'p str, Option<usize>)> {
    let (holder, key, index) = split(place)?;
    let kind = structure_at(root, holder)?.key(key)?.2.kind;
    matches!(kind, ElementKind::Primitive(_)).then_some((holder, key, index))
}

/// Where `target`, a part of `root`, stands: the same value in memory, not an equal one.
fn place_of(root: &Value, target: &Value) -> Option<Place> {
    let mut waiting: Vec<(&Value, Place)> = vec![(root, Vec::new())];
    while let Some((value, place)) = waiting.pop() {
        if std::ptr::eq(value, target) {
            return Some(place);
        }
        let below = |token| place.iter().cloned().chain([token]).collect::<Place>();
        match value {
            Value::Array(items) => waiting.extend(items.iter().enumerate().map(|(index, item)| (item, below(Token::Index(index))))),
            Value::Object(members) => waiting.extend(members.iter().map(|(key, member)| (member, below(Token::Key(key.clone()))))),
            _ => {}
        }
    }
    None
}

fn walk<'a>(root: &'a mut Value, place: &[Token]) -> Option<&'a mut Value> {
    place.iter().try_fold(root, |value, token| match token {
        Token::Key(key) => value.get_mut(key),
        Token::Index(index) => value.get_mut(*index),
    })
}

/// What R4 says of the object at `place`.
fn structure_at(root: &Value, place: &[Token]) -> Option<&'static Structure> {
    let definitions = definitions::r4();
    let of_resource = |value: &Value| definitions.structure(value.get("resourceType")?.as_str()?);
    let mut structure = of_resource(root)?;
    let mut value = root;
    for token in place {
        value = match token {
            Token::Index(index) => value.get(*index)?,
            Token::Key(key) => {
                let (name, beside) = key.strip_prefix('_').map_or((&**key, false), |name| (name, true));
                structure = match structure.key(name)?.2.kind {
                    ElementKind::Structure(place) => definitions.structure_at(place)?,
                    // An id and extensions are all that stands beside a primitive.
                    ElementKind::Primitive(_) if beside => definitions.structure("Element")?,
                    // Its own `resourceType` is read at the end or by the next token.
                    ElementKind::Resource | ElementKind::Primitive(_) => structure,
                };
                value.get(key)?
            }
        };
        if value.get("resourceType").is_some() {
            structure = of_resource(value)?;
        }
    }
    value.is_object().then_some(structure)
}
