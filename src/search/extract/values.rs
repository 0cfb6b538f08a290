//! From an element to the values that it is found by, by kind of parameter and type of element
//! (<https://hl7.org/fhir/R4/search.html#ptypes>).

use super::Options;
use crate::definitions::ParamKind;
use crate::fhir::text::comparable;
use crate::fhir::text::{MOST_INDEXED, clip};
use crate::fhir::time::parse_interval;
use crate::fhir::{Interval, Reference, decimal};
use crate::fhirpath::ucum;
use crate::store::index::typed_system;
use crate::store::{Facet, Folding, IndexValue};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

/// Types that are read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::search) enum Shape {
    Coding,
    CodeableConcept,
    Identifier,
    ContactPoint,
    HumanName,
    Address,
    Reference,
    Quantity,
    Money,
    Range,
    SampledData,
    Period,
    Timing,
    Boolean,
    Number,
    Moment,
    Text,
    Code,
    Uri,
    Resource,
    /// Nothing is found by it.
    Other,
}

impl Shape {
    /// The shape of a FHIR type, or of a computed value's type.
    pub fn of(type_name: &str) -> Shape {
        match type_name {
            "Coding" => Shape::Coding,
            "CodeableConcept" => Shape::CodeableConcept,
            "Identifier" => Shape::Identifier,
            "ContactPoint" => Shape::ContactPoint,
            "HumanName" => Shape::HumanName,
            "Address" => Shape::Address,
            "Reference" => Shape::Reference,
            "Quantity" | "Age" | "Count" | "Distance" | "Duration" => Shape::Quantity,
            "Money" => Shape::Money,
            "Range" => Shape::Range,
            "SampledData" => Shape::SampledData,
            "Period" => Shape::Period,
            "Timing" => Shape::Timing,
            "boolean" | "Boolean" => Shape::Boolean,
            "integer" | "positiveInt" | "unsignedInt" | "decimal" | "Integer" | "Decimal" => Shape::Number,
            "date" | "dateTime" | "instant" | "Date" | "DateTime" => Shape::Moment,
            "string" | "markdown" | "String" => Shape::Text,
            "code" | "id" | "base64Binary" => Shape::Code,
            "uri" | "url" | "canonical" | "oid" | "uuid" => Shape::Uri,
            "Resource" => Shape::Resource,
            other if crate::definitions::r4().type_code(other).is_some() => Shape::Resource,
            _ => Shape::Other,
        }
    }
}

impl Shape {
    /// Whether [`read`] finds anything in an element of this shape.
    pub fn holds(self, kind: ParamKind) -> bool {
        use Shape::*;
        let is_text = matches!(self, Text | Code | Uri | Moment);
        match kind {
            ParamKind::Token => is_text || matches!(self, CodeableConcept | Coding | Identifier | ContactPoint | Boolean | Number),
            ParamKind::String => is_text || matches!(self, HumanName | Address),
            ParamKind::Reference => is_text || matches!(self, Reference | Resource),
            ParamKind::Date => matches!(self, Moment | Period | Timing),
            ParamKind::Number => self == Number,
            ParamKind::Quantity => matches!(self, Quantity | Money | Range | SampledData),
            ParamKind::Uri => is_text,
            // Their parts are of kinds of their own.
            ParamKind::Composite | ParamKind::Special => true,
        }
    }
}

/// Gives every index value of one element to `push`, with the index that it belongs to.
pub(super) fn read(kind: ParamKind, shape: Shape, value: &Value, options: &Options, push: &mut impl FnMut(Facet, IndexValue)) {
    if shape == Shape::Other {
        return;
    }
    match kind {
        ParamKind::Token => tokens(shape, value, push),
        ParamKind::String => strings(shape, value, push),
        ParamKind::Reference => references(shape, value, options, push),
        ParamKind::Date => push_some(interval(shape, value, options).map(IndexValue::Date), push),
        ParamKind::Number => push_some(if shape == Shape::Number { number(value).map(IndexValue::Number) } else { None }, push),
        ParamKind::Quantity => quantities(shape, value, push),
        ParamKind::Uri => push_some(value.as_str().and_then(uri), push),
        ParamKind::Composite | ParamKind::Special => {}
    }
}

fn push_some(value: Option<IndexValue>, push: &mut impl FnMut(Facet, IndexValue)) {
    if let Some(value) = value {
        push(Facet::Value, value);
    }
}

/// Words for `:text`, folded here so that two spellings of one text are one entry.
fn push_words(text: Option<&str>, push: &mut impl FnMut(Facet, IndexValue)) {
    let folded = text.map(comparable).unwrap_or_default();
    if !folded.is_empty() {
        push(Facet::Text, IndexValue::Text(clip(&folded).into()));
    }
}

/// Whether `text` can be indexed whole. Of longer texts the beginning is; longer tokens and uris are not indexed at all.
fn fits(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOST_INDEXED
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
    object.get(key)?.as_str()
}

pub(super) fn token(system: Option<&str>, code: Option<&str>) -> Option<IndexValue> {
    let code = match code {
        Some(code) if !code.is_empty() => Some(code).filter(|code| fits(code))?,
        // `system|` finds it all the same.
        _ => system.filter(|system| fits(system)).map(|_| "")?,
    };
    let system = match system {
        Some(system) if !system.is_empty() => Some(Box::from(Some(system).filter(|system| fits(system))?)),
        _ => None,
    };
    Some(IndexValue::Token { system, code: code.into() })
}

fn tokens(shape: Shape, value: &Value, push: &mut impl FnMut(Facet, IndexValue)) {
    match (shape, value) {
        (Shape::CodeableConcept, Value::Object(concept)) => {
            push_words(text(concept, "text"), push);
            for coding in concept.get("coding").and_then(Value::as_array).into_iter().flatten() {
                tokens(Shape::Coding, coding, push);
            }
        }
        (Shape::Coding, Value::Object(coding)) => {
            push_words(text(coding, "display"), push);
            push_some(token(text(coding, "system"), text(coding, "code")), push);
        }
        (Shape::Identifier, Value::Object(identifier)) => {
            push_some(token(text(identifier, "system"), text(identifier, "value")), push);
            let Some(Value::Object(of_type)) = identifier.get("type") else { return };
            push_words(text(of_type, "text"), push);
            for coding in of_type.get("coding").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
                let Some(code) = text(coding, "code") else { continue };
                let typed = typed_system(text(coding, "system").unwrap_or_default(), code);
                if text(identifier, "value").is_some_and(|value| !value.is_empty())
                    && let Some(value) = token(Some(&typed), text(identifier, "value"))
                {
                    push(Facet::OfType, value);
                }
            }
        }
        (Shape::ContactPoint, Value::Object(contact)) => caseless(text(contact, "value"), push),
        (Shape::Text, Value::String(text)) => caseless(Some(text), push),
        (_, Value::Bool(value)) => push_some(token(None, Some(if *value { "true" } else { "false" })), push),
        (_, Value::String(text)) => push_some(token(None, Some(text)), push),
        (_, Value::Number(number)) => push_some(token(None, Some(number.as_str())), push),
        _ => {}
    }
}

/// What is searched as a token and is no code: found whatever its case (<https://hl7.org/fhir/R4/search.html#token>).
fn caseless(text: Option<&str>, push: &mut impl FnMut(Facet, IndexValue)) {
    let Some(value) = token(None, text) else { return };
    if let IndexValue::Token { code, .. } = &value
        && code.bytes().any(|byte| byte.is_ascii_uppercase())
    {
        push(Facet::Caseless, IndexValue::Token { system: None, code: Folding::Case.of(code).into() });
    }
    push(Facet::Value, value);
}

fn string(text: &str) -> Option<IndexValue> {
    Some(clip(text)).filter(|text| !text.trim().is_empty()).map(|text| IndexValue::String { text: text.into() })
}

fn strings(shape: Shape, value: &Value, push: &mut impl FnMut(Facet, IndexValue)) {
    let keys: &[&str] = match shape {
        Shape::HumanName => &["text", "family", "given", "prefix", "suffix"],
        Shape::Address => &["text", "line", "city", "district", "state", "postalCode", "country"],
        _ => &[],
    };
    match value {
        Value::String(text) => push_some(string(text), push),
        Value::Object(object) => {
            for (key, value) in object {
                if !keys.contains(&key.as_str()) {
                    continue;
                }
                match value {
                    Value::String(text) => push_some(string(text), push),
                    Value::Array(items) => items.iter().filter_map(Value::as_str).for_each(|text| push_some(string(text), push)),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn uri(text: &str) -> Option<IndexValue> {
    fits(text).then(|| IndexValue::Uri(text.into()))
}

/// Takes a reference apart; what is under `base`, if that is not empty, is local.
pub(super) fn parse_reference<'v>(text: &'v str, base: &str) -> Option<Reference<'v>> {
    if base.is_empty() { Reference::parse(text) } else { Reference::parse_at(text, base) }
}

fn references(shape: Shape, value: &Value, options: &Options, push: &mut impl FnMut(Facet, IndexValue)) {
    let local = |type_name: &str, id: &str| IndexValue::Reference { type_name: type_name.into(), id: id.into() };
    match (shape, value) {
        (Shape::Reference, Value::Object(object)) => {
            push_words(text(object, "display"), push);
            if let Some(Value::Object(identifier)) = object.get("identifier")
                && let Some(value) = token(text(identifier, "system"), text(identifier, "value"))
            {
                push(Facet::Identifier, value);
            }
            let Some(text) = text(object, "reference") else { return };
            match parse_reference(text, &options.base) {
                Some(Reference::Local { type_name, id, .. }) => push(Facet::Value, local(type_name, id)),
                Some(Reference::Urn(text) | Reference::Absolute(text)) => push_some(uri(text), push),
                Some(Reference::Contained(id)) => push(Facet::Value, IndexValue::Within { id: id.into(), target: 0 }),
                Some(Reference::Conditional { .. }) | None => {}
            }
        }
        // A resource that stands here itself (in a Bundle) is found by its own name.
        (Shape::Resource, Value::Object(object)) => {
            if let (Some(type_name), Some(id)) = (text(object, "resourceType"), text(object, "id"))
                && let Some(Reference::Local { type_name, id, .. }) = Reference::parse(&format!("{type_name}/{id}"))
            {
                push(Facet::Value, local(type_name, id));
            }
        }
        // A canonical with a fragment names a part of what it names without.
        (_, Value::String(text)) => {
            let whole = text.split_once('#').map(|(whole, _)| whole).filter(|whole| !whole.is_empty());
            push_some(whole.and_then(uri), push);
            push_some(uri(text), push);
        }
        _ => {}
    }
}

fn interval(shape: Shape, value: &Value, options: &Options) -> Option<Interval> {
    let moment = |value: &Value| parse_interval(value.as_str()?, &options.zone);
    match (shape, value) {
        (Shape::Moment, _) => moment(value),
        (Shape::Period, Value::Object(period)) => {
            let (start, end) = (period.get("start"), period.get("end"));
            if start.is_none() && end.is_none() {
                return None;
            }
            let low = start.map_or(Some(Interval::MIN), |start| Some(moment(start)?.low))?;
            let high = end.map_or(Some(Interval::MAX), |end| Some(moment(end)?.high))?;
            (low < high).then_some(Interval { low, high })
        }
        (Shape::Timing, Value::Object(timing)) => {
            let events = timing.get("event").and_then(Value::as_array).into_iter().flatten().filter_map(moment);
            let span = events.reduce(|a, b| Interval { low: a.low.min(b.low), high: a.high.max(b.high) });
            span.or_else(|| interval(Shape::Period, timing.get("repeat")?.get("boundsPeriod")?, options))
        }
        _ => None,
    }
}

/// The nearest double of the digits that stand there.
fn number(value: &Value) -> Option<f64> {
    let Value::Number(number) = value else { return None };
    number.as_str().parse().ok().filter(|value: &f64| value.is_finite())
}

fn quantities(shape: Shape, value: &Value, push: &mut impl FnMut(Facet, IndexValue)) {
    let Value::Object(object) = value else { return };
    let short = |key: &str| text(object, key).filter(|text| fits(text)).map(Box::from);
    match shape {
        Shape::Quantity => {
            if let Some(value) = object.get("value") {
                quantity(value, short("system"), short("code"), short("unit"), push);
            }
        }
        Shape::Money => {
            if let Some(value) = object.get("value") {
                let code: Option<Box<str>> = short("currency");
                let system = code.is_some().then(|| "urn:iso:std:iso:4217".into());
                quantity(value, system, code, None, push);
            }
        }
        Shape::Range => {
            for end in ["low", "high"] {
                if let Some(end) = object.get(end) {
                    quantities(Shape::Quantity, end, push);
                }
            }
        }
        Shape::SampledData => sampled(object, push),
        _ => {}
    }
}

/// One value, as it is written and, in a unit that is known, in base units.
fn quantity(
    value: &Value,
    system: Option<Box<str>>,
    code: Option<Box<str>>,
    unit: Option<Box<str>>,
    push: &mut impl FnMut(Facet, IndexValue),
) {
    let (Some(written), Value::Number(digits)) = (number(value), value) else { return };
    let amount = system.as_deref().zip(code.as_deref()).and_then(|(system, code)| amount(digits.as_str(), written, system, code));
    push(Facet::Value, IndexValue::Quantity { value: written, system, code, unit, amount: None });
    if let Some((dimension, amount)) = amount {
        let code = Some(dimension.into());
        push(Facet::Amount, IndexValue::Quantity { value: amount, system: None, code, unit: None, amount: None });
    }
}

/// The dimension and the value in its base units, of a quantity in a UCUM unit that is known. What needs more digits than are counted exactly
/// is `nearest`.
fn amount(digits: &str, nearest: f64, system: &str, code: &str) -> Option<(String, f64)> {
    if system != "http://unitsofmeasure.org" {
        return None;
    }
    let scale = ucum::scale(code)?;
    let exact = decimal::parse(digits).and_then(|value| scale.base(value)).map(decimal::to_f64);
    // What is too small for that has become nothing.
    let exact = exact.filter(|amount| *amount != 0.0);
    let amount = exact.unwrap_or_else(|| scale.base_of_nearest(nearest));
    amount.is_finite().then(|| (scale.measure.dimension.code(), amount))
}

/// The least and the greatest of the samples, in the unit of the origin
/// (<https://hl7.org/fhir/R4/datatypes.html#SampledData>).
fn sampled(object: &Map<String, Value>, push: &mut impl FnMut(Facet, IndexValue)) {
    let Some(Value::Object(origin)) = object.get("origin") else { return };
    let read = |value: Option<&Value>| if let Some(Value::Number(number)) = value { decimal::parse(number.as_str()) } else { None };
    let (base, factor) = (read(origin.get("value")).unwrap_or_default(), read(object.get("factor")).unwrap_or(Decimal::ONE));
    let bound = |limit: &str| read(object.get(limit));
    let samples = text(object, "data").unwrap_or_default().split_whitespace().filter_map(|sample| match sample {
        "L" => bound("lowerLimit"),
        "U" => bound("upperLimit"),
        sample => decimal::parse(sample)?.checked_mul(factor)?.checked_add(base),
    });
    let ends = samples.fold(None, |ends: Option<(Decimal, Decimal)>, sample| {
        Some(ends.map_or((sample, sample), |(low, high)| (low.min(sample), high.max(sample))))
    });
    let short = |key: &str| text(origin, key).filter(|text| fits(text)).map(Box::from);
    for end in ends.into_iter().flat_map(|(low, high)| [low, high]) {
        if let Ok(number) = end.normalize().to_string().parse::<serde_json::Number>() {
            quantity(&Value::Number(number), short("system"), short("code"), short("unit"), push);
        }
    }
}

/// A point of the earth on the unit sphere, from degrees. Between two such points the straight line is longer exactly when the
/// way over the surface is.
pub(in crate::search) fn on_sphere(latitude: f64, longitude: f64) -> Option<[f64; 3]> {
    if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
        return None;
    }
    let (latitude, longitude) = (latitude.to_radians(), longitude.to_radians());
    Some([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])
}

/// `Location.position`, for `near`.
pub(super) fn position(value: &Value) -> Option<IndexValue> {
    let point = on_sphere(number(value.get("latitude")?)?, number(value.get("longitude")?)?)?;
    Some(IndexValue::Composite(point.into_iter().map(IndexValue::Number).collect()))
}
