//! PATCH (<https://hl7.org/fhir/R4/http.html#patch>): JSON Patch, FHIRPath Patch (<https://hl7.org/fhir/R4/fhirpatch.html>) and JSON Merge
//! Patch (RFC 7396), on a stored resource. All work on the resource's JSON; what comes out is checked like any resource that is put.

use super::refusal::{Refusal, RefusalKind};
use crate::definitions::{self, Element, ElementKind, Structure};
use crate::fhir::json_patch::{JsonPatch, PatchError};
use crate::fhir::{Issue, IssueCode};
use crate::fhirpath::{Env, Expression};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Operations of one FHIRPath Patch; each evaluates an expression over the resource.
const MOST_OPERATIONS: usize = 200;

/// A patch that was read.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(JsonPatch),
    FhirPath(Vec<Operation>),
    /// Members to put in place of those that are there; null takes one away.
    Merge(Map<String, Value>),
}

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
    Add { name: String, value: Part },
    Insert { index: usize, value: Part },
    Delete,
    Replace { value: Part },
    Move { source: usize, destination: usize },
}

/// The parameter `value`: of a datatype, or of the parts of an element that has no type of its own.
#[derive(Clone, Debug)]
enum Part {
    /// The type as the key says it (`String` of `valueString`), and the value.
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
        if parameters.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
            return Err(malformed("", "A FHIRPath Patch is a Parameters resource; a JSON Patch is sent as application/json-patch+json."));
        }
        let list = parameters.get("parameter").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if list.is_empty() || list.len() > MOST_OPERATIONS {
            return Err(malformed("Parameters.parameter", format!("A FHIRPath Patch has 1 to {MOST_OPERATIONS} operations.")));
        }
        let operations = list.iter().enumerate().map(|(number, item)| operation(item, format!("Parameters.parameter[{number}]")));
        operations.collect::<Result<_, _>>().map(Patch::FhirPath)
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
            members.retain(|_, member| prune(member, depth + 1));
            !members.is_empty()
        }
        _ => true,
    }
}

fn operation(item: &Value, at: String) -> Result<Operation, Refusal> {
    if item.get("name").and_then(Value::as_str) != Some("operation") {
        return Err(malformed(&at, "Every parameter of a FHIRPath Patch is named operation."));
    }
    let parts = item.get("part").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let part = |name: &str| parts.iter().find(|part| part.get("name").and_then(Value::as_str) == Some(name));
    let text = |name: &str| part(name).and_then(datatype).and_then(|(_, value)| value.as_str().map(str::to_owned));
    let missing = |name: &str| malformed(&at, format!("The operation lacks its part {name}."));
    let number = |name: &str| {
        let value = part(name).and_then(datatype).and_then(|(_, value)| value.as_u64());
        value.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| missing(name))
    };
    let value = || part("value").and_then(|part| read_part(part, 0)).ok_or_else(|| missing("value"));
    let path = text("path").ok_or_else(|| missing("path"))?;
    let path = Expression::parse(&path).map_err(|error| malformed(&at, format!("The path is no FHIRPath expression: {error}.")))?;
    let kind = match text("type").as_deref() {
        Some("add") => Kind::Add { name: text("name").ok_or_else(|| missing("name"))?, value: value()? },
        Some("insert") => Kind::Insert { index: number("index")?, value: value()? },
        Some("delete") => Kind::Delete,
        Some("replace") => Kind::Replace { value: value()? },
        Some("move") => Kind::Move { source: number("source")?, destination: number("destination")? },
        _ => return Err(malformed(&at, "The operation's type must be add, insert, delete, replace or move.")),
    };
    Ok(Operation { at, path, kind })
}

fn datatype(part: &Value) -> Option<(&str, &Value)> {
    part.as_object()?.iter().find_map(|(key, value)| Some((key.strip_prefix("value").filter(|name| !name.is_empty())?, value)))
}

fn read_part(part: &Value, depth: usize) -> Option<Part> {
    if let Some((name, value)) = datatype(part) {
        return Some(Part::Typed(name.to_owned(), value.clone()));
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

    fn apply(&self, resource: &mut Value) -> Result<(), Refusal> {
        let places = self.places(resource)?;
        match &self.kind {
            Kind::Add { name, value } => {
                let place = self.one(&places)?;
                let Some(structure) = structure_at(resource, place) else {
                    return self.refuse("The path leads to no element that has members.");
                };
                let Some(element) = structure.element(name) else {
                    return self.refuse("The element at the path has no member of this name.");
                };
                let (key, value) = self.member(element, value)?;
                let Some(members) = walk(resource, place).and_then(Value::as_object_mut) else {
                    return self.refuse("The path leads to no element that has members.");
                };
                if element.is_list() {
                    match members.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                        Value::Array(items) => items.push(value),
                        _ => return self.refuse("The element to add to is no list."),
                    }
                } else if element_given(element, members) {
                    return self.refuse("The element is there already: replace it, or delete it first.");
                } else {
                    members.insert(key, value);
                }
                Ok(())
            }
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
                    (_, None) => return self.refuse("There is nothing at the path."),
                }
                Ok(())
            }
            Kind::Insert { index, value } => {
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

    /// Where the elements stand that the path leads to.
    fn places(&self, resource: &Value) -> Result<Vec<Place>, Refusal> {
        let found = self.path.evaluate(resource, &Env::default().with_resource(resource));
        let nodes = found.map_err(|error| unfit(&self.at, format!("The path cannot be evaluated: {error}.")))?;
        let mut places = Vec::with_capacity(nodes.len());
        for node in nodes {
            let place = match node.as_json() {
                Cow::Borrowed(value) => place_of(resource, value),
                Cow::Owned(_) => None,
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
            _ => self.refuse("The path must lead to the items of one list."),
        }
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
                    match members.entry(key).or_insert_with(|| if member.is_list() { Value::Array(Vec::new()) } else { Value::Null }) {
                        Value::Array(items) if member.is_list() => items.push(value),
                        empty => *empty = value,
                    }
                }
                Ok((element.name.to_owned(), Value::Object(members)))
            }
        }
    }
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
                structure = match structure.key(key)?.2.kind {
                    ElementKind::Structure(place) => definitions.structure_at(place)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patient() -> Value {
        json!({
            "resourceType": "Patient", "id": "p", "birthDate": "1990-01-01", "_birthDate": {"id": "b"},
            "name": [{"family": "A", "given": ["x", "y"], "_given": [null, {"id": "g"}]}, {"family": "B"}],
            "contact": [{"gender": "male"}], "deceasedBoolean": false,
        })
    }

    fn operation(kind: &str, path: &str, more: Value) -> Value {
        let mut parts = vec![json!({"name": "type", "valueCode": kind}), json!({"name": "path", "valueString": path})];
        parts.extend(more.as_array().into_iter().flatten().cloned());
        json!({"name": "operation", "part": parts})
    }

    fn apply(operations: Vec<Value>) -> Result<Value, Refusal> {
        Patch::fhirpath(&json!({"resourceType": "Parameters", "parameter": operations}))?.apply(patient())
    }

    fn one(kind: &str, path: &str, more: Value) -> Result<Value, Refusal> {
        apply(vec![operation(kind, path, more)])
    }

    /// RFC 7396, appendix A, as far as it is about objects.
    #[test]
    fn a_merge_patch_does_what_its_rfc_says() {
        for (before, patch, after) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = before.clone();
            merge(&mut merged, patch.as_object().unwrap(), 0);
            assert_eq!(merged, after, "{before} with {patch}");
        }
        assert!(Patch::merge(&json!([])).is_err());
        assert!(matches!(Patch::plain(&json!([])), Ok(Patch::Json(_))));
        assert!(matches!(Patch::plain(&json!({"active": true})), Ok(Patch::Merge(_))));
        assert!(Patch::merge(&json!({"id": "other"})).unwrap().apply(patient()).is_err(), "who a resource is stays");
    }

    #[test]
    fn elements_are_added_replaced_and_deleted() {
        let added =
            one("add", "Patient", json!([{"name": "name", "valueString": "gender"}, {"name": "value", "valueCode": "female"}])).unwrap();
        assert_eq!(added["gender"], "female");
        let listed = json!([{"name": "name", "valueString": "identifier"}, {"name": "value", "valueIdentifier": {"value": "1"}}]);
        assert_eq!(one("add", "Patient", listed).unwrap()["identifier"], json!([{"value": "1"}]));
        let nested = json!([{"name": "name", "valueString": "given"}, {"name": "value", "valueString": "z"}]);
        assert_eq!(one("add", "Patient.name.where(family = 'B')", nested).unwrap()["name"][1]["given"], json!(["z"]));
        let contact = json!([{"name": "name", "valueString": "contact"}, {"name": "value", "part": [
            {"name": "name", "valueHumanName": {"family": "C"}}, {"name": "telecom", "valueContactPoint": {"value": "1"}},
        ]}]);
        assert_eq!(one("add", "Patient", contact).unwrap()["contact"][1], json!({"name": {"family": "C"}, "telecom": [{"value": "1"}]}));
        let birth = one("replace", "Patient.birthDate", json!([{"name": "value", "valueDate": "1991-01-01"}])).unwrap();
        assert_eq!((&birth["birthDate"], &birth["_birthDate"]["id"]), (&json!("1991-01-01"), &json!("b")));
        let dead = one("replace", "Patient.deceased", json!([{"name": "value", "valueDateTime": "2020"}])).unwrap();
        assert_eq!((dead.get("deceasedBoolean"), &dead["deceasedDateTime"]), (None, &json!("2020")));
        let gone = one("delete", "Patient.birthDate", json!([])).unwrap();
        assert!(gone.get("birthDate").is_none() && gone.get("_birthDate").is_none());
        assert_eq!(one("delete", "Patient.photo", json!([])).unwrap(), patient());
        assert!(one("delete", "Patient.contact[0]", json!([])).unwrap().get("contact").is_none(), "an empty list is gone");
    }

    #[test]
    fn lists_keep_what_stands_beside_them() {
        let inserted =
            one("insert", "Patient.name[0].given", json!([{"name": "index", "valueInteger": 1}, {"name": "value", "valueString": "i"}]))
                .unwrap();
        assert_eq!(
            (&inserted["name"][0]["given"], &inserted["name"][0]["_given"]),
            (&json!(["x", "i", "y"]), &json!([null, null, {"id": "g"}]))
        );
        let moved = one(
            "move",
            "Patient.name[0].given",
            json!([{"name": "source", "valueInteger": 1}, {"name": "destination", "valueInteger": 0}]),
        )
        .unwrap();
        assert_eq!((&moved["name"][0]["given"], &moved["name"][0]["_given"]), (&json!(["y", "x"]), &json!([{"id": "g"}, null])));
        let deleted = one("delete", "Patient.name[0].given[1]", json!([])).unwrap();
        assert_eq!((&deleted["name"][0]["given"], deleted["name"][0].get("_given")), (&json!(["x"]), None));
    }

    #[test]
    fn what_does_not_fit_is_422_and_what_is_no_patch_400() {
        let value = json!([{"name": "value", "valueString": "x"}]);
        for (kind, path, more) in [
            ("replace", "Patient.photo", value.clone()),
            ("replace", "Patient.name", value.clone()),
            ("replace", "Patient.name.count()", value.clone()),
            ("replace", "Patient.id", json!([{"name": "value", "valueId": "q"}])),
            ("replace", "Patient.deceased", json!([{"name": "value", "valueHumanName": {}}])),
            ("replace", "Patient", value.clone()),
            ("delete", "Patient.name", json!([])),
            ("add", "Patient", json!([{"name": "name", "valueString": "nonsense"}, {"name": "value", "valueString": "x"}])),
            ("add", "Patient", json!([{"name": "name", "valueString": "birthDate"}, {"name": "value", "valueDate": "2000"}])),
            ("insert", "Patient.name", json!([{"name": "index", "valueInteger": 3}, {"name": "value", "valueHumanName": {}}])),
            ("move", "Patient.name", json!([{"name": "source", "valueInteger": 0}, {"name": "destination", "valueInteger": 2}])),
        ] {
            let refusal = one(kind, path, more).expect_err(path);
            assert_eq!(refusal.status(), 422, "{kind} {path}: {refusal}");
            assert!(refusal.issues.iter().all(|issue| issue.expression.is_empty() || issue.expression == "Parameters.parameter[0]"));
        }
        for (kind, path, more) in [
            ("fly", "Patient", json!([])),
            ("replace", "Patient.(", value),
            ("replace", "Patient.photo", json!([])),
            ("insert", "x", json!([])),
        ] {
            assert_eq!(one(kind, path, more).expect_err(path).status(), 400, "{kind} {path}");
        }
        assert_eq!(apply(vec![]).unwrap_err().status(), 400);
        assert_eq!(Patch::fhirpath(&json!({"resourceType": "Patient"})).unwrap_err().status(), 400);
        assert_eq!(Patch::json(&json!({})).unwrap_err().status(), 400);
        assert_eq!(
            Patch::json(&json!([{"op": "replace", "path": "/id", "value": "q"}])).unwrap().apply(patient()).unwrap_err().status(),
            422
        );
        let last = Patch::json(&json!([{"op": "remove", "path": "/contact/0"}])).unwrap().apply(patient()).unwrap();
        assert!(last.get("contact").is_none());
    }
}
