//! What expressions give: elements that borrow from the input, and values that were computed.

use super::model::{self, Type};
use super::quantity::{Quantity, Unit};
use super::temporal::{Temporal, TemporalKind};
use super::value::read_decimal;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// One item of a collection.
#[derive(Clone, Debug)]
pub enum Node<'a> {
    /// A part of the input.
    Element(Element<'a>),
    Boolean(bool),
    Integer(i64),
    Decimal(Decimal),
    String(Cow<'a, str>),
    Temporal(Temporal),
    Quantity(Box<Quantity>),
    /// The target of a reference of which only the type is known.
    Target(Cow<'a, str>),
    /// What `type()` gives.
    TypeInfo(TypeInfo),
}

/// A part of the input with what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    pub(crate) value: &'a Value,
    /// The `_name` object beside a primitive: its id and extensions.
    pub(crate) extra: Option<&'a Value>,
    pub(crate) ty: Type,
}

/// A type's name and namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    pub namespace: &'static str,
    pub name: Box<str>,
}

impl<'a> Node<'a> {
    /// A value whose type is what it says itself: a resource by its `resourceType`, else plain JSON.
    pub fn root(value: &'a Value) -> Node<'a> {
        Node::Element(Element { value, extra: None, ty: Type::of_value(value) })
    }

    /// An element of a known type (`Quantity`, `Patient.contact`, `code`), with the `_name` object beside it if there is one.
    pub fn typed(value: &'a Value, extra: Option<&'a Value>, type_name: &str) -> Node<'a> {
        Node::Element(Element { value, extra, ty: Type::named(type_name) })
    }

    /// An element of a known complex type.
    pub fn structured(value: &'a Value, structure: &'static crate::definitions::Structure) -> Node<'a> {
        Node::Element(Element { value, extra: None, ty: Type::Structure(structure) })
    }

    /// A whole number that was computed; nothing outside of 32 bits (<http://hl7.org/fhirpath/N1/#integer>).
    pub(crate) fn integer(value: i64) -> Option<Node<'static>> {
        i32::try_from(value).is_ok().then_some(Node::Integer(value))
    }

    /// The node as JSON: what it is in the input, or how FHIR writes it.
    pub fn as_json(&self) -> Cow<'a, Value> {
        Cow::Owned(match self {
            Node::Element(element) => return Cow::Borrowed(element.value),
            Node::Boolean(value) => json!(value),
            Node::Integer(value) => json!(value),
            Node::Decimal(value) => decimal_json(*value),
            Node::String(text) => json!(text),
            Node::Temporal(moment) => json!(moment.to_string()),
            Node::Quantity(quantity) => quantity_json(quantity),
            Node::Target(name) => json!({ "type": name }),
            Node::TypeInfo(info) => json!({ "namespace": info.namespace, "name": info.name }),
        })
    }

    /// The text of a string, code, uri, date or time.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        match self {
            Node::Element(element) => element.value.as_str().map(Cow::Borrowed),
            Node::String(text) => Some(text.clone()),
            Node::Temporal(moment) => Some(Cow::Owned(moment.to_string())),
            _ => None,
        }
    }

    /// What `toString()` gives: the text of any single value, numbers with their digits; `None` for an object.
    pub fn to_text(&self) -> Option<String> {
        super::functions::text_of(self)
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Node::Element(element) => element.value.as_bool(),
            Node::Boolean(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, with its digits.
    pub fn as_decimal(&self) -> Option<Decimal> {
        match self {
            Node::Element(Element { value: Value::Number(number), .. }) => read_decimal(number.as_str()),
            Node::Integer(value) => Some(Decimal::from(*value)),
            Node::Decimal(value) => Some(*value),
            _ => None,
        }
    }

    /// The FHIR type (`Patient`, `code`), the System type of a computed value (`Boolean`), and for plain JSON
    /// `object`, `string`, `boolean`, `integer` or `decimal`.
    pub fn type_name(&self) -> &str {
        match self {
            Node::Element(element) => element.type_name(),
            Node::Boolean(_) => "Boolean",
            Node::Integer(_) => "Integer",
            Node::Decimal(_) => "Decimal",
            Node::String(_) => "String",
            Node::Temporal(Temporal { kind: TemporalKind::Date, .. }) => "Date",
            Node::Temporal(Temporal { kind: TemporalKind::DateTime, .. }) => "DateTime",
            Node::Temporal(Temporal { kind: TemporalKind::Time, .. }) => "Time",
            Node::Quantity(_) => "Quantity",
            Node::Target(name) => name,
            Node::TypeInfo(_) => "TypeInfo",
        }
    }

    /// The System value that a primitive or Quantity element stands for; other nodes as they are.
    pub(crate) fn to_system(&self) -> Node<'a> {
        match self {
            Node::Element(element) => element.to_system().unwrap_or_else(|| self.clone()),
            _ => self.clone(),
        }
    }

    /// Whether the node is a primitive with a value, or a System value.
    pub(crate) fn has_value(&self) -> bool {
        match self {
            Node::Element(element) => !matches!(element.value, Value::Null | Value::Object(_) | Value::Array(_)),
            Node::Target(_) | Node::TypeInfo(_) => false,
            _ => true,
        }
    }
}

impl<'a> Element<'a> {
    pub(crate) fn object(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// The member called `key` of an object.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object()?.get(key)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    pub(crate) fn type_name(&self) -> &'a str {
        if let Some(name) = self.ty.name() {
            return name;
        }
        match self.value {
            Value::Object(_) => self.text("resourceType").unwrap_or("object"),
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.as_str().contains(['.', 'e', 'E']) => "decimal",
            Value::Number(_) => "integer",
            Value::Array(_) | Value::Null => "object",
        }
    }

    fn to_system(self) -> Option<Node<'a>> {
        match self.value {
            Value::Bool(value) => Some(Node::Boolean(*value)),
            Value::Number(number) => {
                let text = number.as_str();
                if self.ty.name() != Some("decimal")
                    && let Ok(value) = text.parse()
                {
                    return Some(Node::Integer(value));
                }
                read_decimal(text).map(Node::Decimal)
            }
            Value::String(text) => {
                let moment = match self.ty.name() {
                    Some("date") => Temporal::parse_date(text),
                    Some("dateTime" | "instant") => Temporal::parse_date_time(text),
                    Some("time") => Temporal::parse_time(text),
                    _ => None,
                };
                Some(moment.map_or(Node::String(Cow::Borrowed(text)), Node::Temporal))
            }
            Value::Object(_) if matches!(self.ty.name(), Some("Quantity" | "Age" | "Count" | "Distance" | "Duration")) => {
                self.quantity().map(|quantity| Node::Quantity(Box::new(quantity)))
            }
            _ => None,
        }
    }

    pub(crate) fn quantity(&self) -> Option<Quantity> {
        let Value::Number(number) = self.get("value")? else { return None };
        let unit = self.text("code").or_else(|| self.text("unit")).unwrap_or("1");
        Some(Quantity { value: read_decimal(number.as_str())?, unit: Unit::Ucum(unit.into()) })
    }

    /// All elements called `name`, appended to `found`: of a known type only what it has, choices by their stem.
    pub(crate) fn member(&self, name: &str, found: &mut Vec<Node<'a>>) {
        let Some(object) = self.object() else {
            // A primitive's id and extensions stand beside it.
            if let Some(value) = self.extra.and_then(|extra| extra.get(name)) {
                push(found, value, None, model::beside_primitive(name));
            }
            return;
        };
        let Type::Structure(structure) = self.ty else {
            return self.member_at(object, name, Type::Unknown, found);
        };
        if let Some((_, element, kind)) = structure.key(name) {
            if !element.choice {
                self.member_at(object, name, Type::of_element(kind), found);
            }
            return;
        }
        for key in object.keys() {
            let stem = key.strip_prefix('_').unwrap_or(key);
            if stem.starts_with(name)
                && let Some((_, element, kind)) = structure.key(stem)
                && element.choice
                && element.name == name
            {
                return self.member_at(object, stem, Type::of_element(kind), found);
            }
        }
    }

    fn member_at(&self, object: &'a Map<String, Value>, key: &str, ty: Type, found: &mut Vec<Node<'a>>) {
        let value = object.get(key);
        let extra = match value {
            Some(Value::Object(_)) => None,
            _ => extra_of(object, key),
        };
        match (value, extra) {
            (Some(value), _) => push(found, value, extra, ty),
            (None, Some(_)) => push(found, &Value::Null, extra, ty),
            (None, None) => {}
        }
    }

    /// All elements directly below.
    pub(crate) fn children(&self, found: &mut Vec<Node<'a>>) {
        let Some(object) = self.object() else {
            if let Some(Value::Object(extra)) = self.extra {
                for (key, value) in extra {
                    push(found, value, None, model::beside_primitive(key));
                }
            }
            return;
        };
        for key in object.keys() {
            if key == "resourceType" {
                continue;
            }
            match key.strip_prefix('_') {
                Some(stem) if object.contains_key(stem) => {}
                stem => {
                    let key = stem.unwrap_or(key);
                    self.member_at(object, key, self.ty.of_key(key), found);
                }
            }
        }
    }
}

/// The `_name` beside `name`.
fn extra_of<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.strip_prefix('_') == Some(name)).map(|(_, value)| value)
}

/// Appends `value`, or its items when it is a list, each with its own `extra`. Lists of lists, which FHIR does not have,
/// are one collection; no deeper than the JSON reader's own limit.
fn push<'a>(found: &mut Vec<Node<'a>>, value: &'a Value, extra: Option<&'a Value>, ty: Type) {
    let mut one = |value: &'a Value, extra: Option<&'a Value>| {
        if value.is_array() {
            return push(found, value, None, ty);
        }
        let extra = extra.filter(|extra| extra.is_object());
        if !value.is_null() || extra.is_some() {
            let ty = if ty.is_known() { ty } else { Type::of_value(value) };
            found.push(Node::Element(Element { value, extra, ty }));
        }
    };
    let extras: &[Value] = extra.and_then(Value::as_array).map_or(&[], Vec::as_slice);
    match value {
        Value::Array(items) => {
            for at in 0..items.len().max(extras.len()) {
                one(items.get(at).unwrap_or(&Value::Null), extras.get(at));
            }
        }
        Value::Null if !extras.is_empty() => extras.iter().for_each(|extra| one(&Value::Null, Some(extra))),
        _ => one(value, extra),
    }
}

fn decimal_json(value: Decimal) -> Value {
    value.to_string().parse().map(Value::Number).unwrap_or(Value::Null)
}

fn quantity_json(quantity: &Quantity) -> Value {
    let value = decimal_json(quantity.value);
    match &quantity.unit {
        Unit::Ucum(code) => json!({ "value": value, "unit": code, "system": "http://unitsofmeasure.org", "code": code }),
        Unit::Calendar(unit) => match unit.ucum() {
            Some(code) => json!({ "value": value, "unit": unit.keyword(), "system": "http://unitsofmeasure.org", "code": code }),
            None => json!({ "value": value, "unit": unit.keyword() }),
        },
    }
}

/// A value as a collection: the items of a list, else itself.
pub(crate) fn push_all<'a>(found: &mut Vec<Node<'a>>, value: &'a Value) {
    push(found, value, None, Type::Unknown);
}
