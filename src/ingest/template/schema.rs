//! A template's JSON Schema, compiled, and the walk that checks a record against it and puts it into its normal form.
//!
//! The dialect is a subset of JSON Schema 2020-12 (`type`, `properties`, `required`, `enum`, `format` date and date-time,
//! `items`, `$ref` into `$defs`, `minItems`, `minLength`, `deprecated`) and six notes of our own:
//! `x-aliases` (other spellings of a key), `x-enforced` (problems of this object's own fields reject the record; elsewhere they are
//! warnings), `x-unit` (UCUM unit of a number), `x-text` (a number that is kept as text when it is none), `x-map` (the ConceptMap of a
//! word) and `x-coded` (an object that is one code; a bare string is taken for it).
//!
//! What says nothing is left out of a record: null, a blank text, and lists and objects with nothing else in them. Only a list that
//! is itself empty stays, because it says that there is nothing. The normal form has the schema's spellings, enumerations in the schema's case, numeric ids as text, dates as
//! `yyyy-MM-dd`, times with a zone, and no blanks or unknown keys: a mapping need not think of any of that. An entry of a list
//! that cannot be used leaves a null in its place, so that its neighbours keep their numbers and the list is known not to be whole.

use super::moment;
use crate::fhir::{Issue, IssueCode};
use jiff::tz::TimeZone;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::fmt::Write as _;

/// More problems than this in one record help nobody.
const MOST_ISSUES: usize = 100;
/// Entries that the lists of one record hold, all together, and values of any kind. No visit has so many; whoever sends them would keep
/// others waiting.
const MOST_ENTRIES: usize = 2_000;
const MOST_VALUES: usize = 50_000;
/// Bytes of a text at most.
const MOST_BYTES: usize = 64 << 10;
/// Characters of a number at most.
const MOST_DIGITS: usize = 100;
/// A key longer than this, or with other than ASCII letters, digits and `_`, may hold anything: it is not repeated.
const LONGEST_KEY: usize = 64;

/// A node of the compiled schema.
pub(super) type NodeId = usize;

#[derive(Debug)]
pub(super) struct Schema {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    kind: Kind,
    unit: Option<String>,
    map: Option<String>,
    coded: bool,
    textual: bool,
}

#[derive(Debug, Default)]
enum Kind {
    /// Anything, kept as it is.
    #[default]
    Any,
    Object(Object),
    Array {
        item: NodeId,
        min: usize,
    },
    Text {
        blank: bool,
    },
    Code(Vec<String>),
    Date,
    DateTime,
    Integer,
    Number,
    Boolean,
}

#[derive(Debug, Default)]
struct Object {
    fields: HashMap<String, Field>,
    aliases: HashMap<String, String>,
    required: Vec<String>,
    enforced: bool,
}

#[derive(Debug)]
struct Field {
    node: NodeId,
    deprecated: bool,
}

/// What a leaf of a record is, for those who must write it as a FHIR datatype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Leaf<'a> {
    Boolean,
    Number {
        unit: Option<&'a str>,
    },
    Date,
    /// One of an enumeration, or a word that a map translates.
    Code {
        map: Option<&'a str>,
    },
    /// An object with a code and perhaps a name.
    Coded,
    Text,
}

impl Schema {
    /// Compiles a schema document. The error names the place by JSON pointer.
    pub fn compile(document: &Value) -> Result<Schema, (String, String)> {
        let mut compiler = Compiler { document, schema: Schema { nodes: Vec::new() }, definitions: HashMap::new() };
        let root = compiler.node(document, "")?;
        debug_assert_eq!(root, 0);
        Ok(compiler.schema)
    }

    pub fn root(&self) -> NodeId {
        0
    }

    fn kind(&self, node: NodeId) -> &Kind {
        self.nodes.get(node).map_or(&Kind::Any, |node| &node.kind)
    }

    /// The node that a dotted path leads to, through lists and objects alike.
    pub fn find(&self, from: NodeId, path: &str) -> Option<NodeId> {
        path.split('.').filter(|step| !step.is_empty()).try_fold(from, |node, step| self.field(node, step)).map(|node| self.item(node))
    }

    /// The node of a list's items; of anything else, itself.
    pub fn item(&self, node: NodeId) -> NodeId {
        match self.kind(node) {
            Kind::Array { item, .. } => self.item(*item),
            _ => node,
        }
    }

    /// The node of an object's field.
    pub fn field(&self, node: NodeId, name: &str) -> Option<NodeId> {
        match self.kind(self.item(node)) {
            Kind::Object(object) => object.fields.get(name).map(|field| field.node),
            _ => None,
        }
    }

    /// What a node is when it is a leaf; `None` for an object or list whose parts are to be looked at.
    pub fn leaf(&self, node: NodeId) -> Option<Leaf<'_>> {
        let Node { kind, unit, map, coded, .. } = self.nodes.get(node)?;
        match kind {
            _ if *coded => Some(Leaf::Coded),
            Kind::Any | Kind::Object(_) | Kind::Array { .. } => None,
            Kind::Text { .. } if map.is_none() => Some(Leaf::Text),
            Kind::Text { .. } | Kind::Code(_) => Some(Leaf::Code { map: map.as_deref() }),
            Kind::Date | Kind::DateTime => Some(Leaf::Date),
            Kind::Integer | Kind::Number => Some(Leaf::Number { unit: unit.as_deref() }),
            Kind::Boolean => Some(Leaf::Boolean),
        }
    }
}

struct Compiler<'a> {
    document: &'a Value,
    schema: Schema,
    definitions: HashMap<&'a str, NodeId>,
}

impl<'a> Compiler<'a> {
    fn node(&mut self, value: &'a Value, pointer: &str) -> Result<NodeId, (String, String)> {
        let fault = |message: &str| Err((pointer.to_owned(), message.to_owned()));
        if let Some(reference) = value.get("$ref") {
            let Some(name) = reference.as_str().and_then(|text| text.strip_prefix("#/$defs/")) else {
                return fault("$ref must lead into #/$defs of the same file");
            };
            if let Some(known) = self.definitions.get(name) {
                return Ok(*known);
            }
            let Some(definition) = self.document.get("$defs").and_then(|all| all.get(name)) else {
                return fault("$ref names a definition that is not in $defs");
            };
            let id = self.reserve();
            self.definitions.insert(name, id);
            self.fill(id, definition, &format!("/$defs/{name}"))?;
            return Ok(id);
        }
        let id = self.reserve();
        self.fill(id, value, pointer)?;
        Ok(id)
    }

    fn reserve(&mut self) -> NodeId {
        self.schema.nodes.push(Node::default());
        self.schema.nodes.len() - 1
    }

    fn fill(&mut self, id: NodeId, value: &'a Value, pointer: &str) -> Result<(), (String, String)> {
        let fault = |message: &str| Err((pointer.to_owned(), message.to_owned()));
        let format = value.get("format").and_then(Value::as_str);
        let kind = match (value.get("enum").and_then(Value::as_array), value.get("type").and_then(Value::as_str)) {
            (Some(values), _) => Kind::Code(values.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            (_, Some("object")) => self.object(value, pointer)?,
            (_, Some("array")) => {
                let Some(items) = value.get("items") else { return fault("an array needs items") };
                let min = value.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                Kind::Array { item: self.node(items, &format!("{pointer}/items"))?, min: min.try_into().unwrap_or(usize::MAX) }
            }
            (_, Some("string")) => match format {
                Some("date") => Kind::Date,
                Some("date-time") => Kind::DateTime,
                Some(_) => return fault("format must be date or date-time"),
                None => Kind::Text { blank: value.get("minLength").and_then(Value::as_u64).unwrap_or(0) == 0 },
            },
            (_, Some("integer")) => Kind::Integer,
            (_, Some("number")) => Kind::Number,
            (_, Some("boolean")) => Kind::Boolean,
            (_, Some(_)) => return fault("type must be object, array, string, integer, number or boolean"),
            (_, None) => Kind::Any,
        };
        if let Some(node) = self.schema.nodes.get_mut(id) {
            node.kind = kind;
            node.unit = value.get("x-unit").and_then(Value::as_str).map(str::to_owned);
            node.map = value.get("x-map").and_then(Value::as_str).map(str::to_owned);
            node.coded = value.get("x-coded") == Some(&Value::Bool(true));
            node.textual = value.get("x-text") == Some(&Value::Bool(true));
        }
        Ok(())
    }

    fn object(&mut self, value: &'a Value, pointer: &str) -> Result<Kind, (String, String)> {
        let Some(properties) = value.get("properties").and_then(Value::as_object) else { return Ok(Kind::Any) };
        if properties.is_empty() {
            return Ok(Kind::Any);
        }
        let mut object = Object { enforced: value.get("x-enforced") == Some(&Value::Bool(true)), ..Object::default() };
        let names = |list: Option<&Value>| -> Vec<String> {
            list.and_then(Value::as_array).map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
        };
        object.required = names(value.get("required"));
        for (name, property) in properties {
            let node = self.node(property, &format!("{pointer}/properties/{name}"))?;
            for alias in names(property.get("x-aliases")) {
                object.aliases.insert(alias, name.clone());
            }
            object.fields.insert(name.clone(), Field { node, deprecated: property.get("deprecated") == Some(&Value::Bool(true)) });
        }
        match object.required.iter().find(|name| !object.fields.contains_key(*name)) {
            Some(name) => Err((format!("{pointer}/required"), format!("{name} is required but is no property"))),
            None => Ok(Kind::Object(object)),
        }
    }
}

/// One walk over one record, gathering every problem.
pub(super) struct Walk<'a> {
    schema: &'a Schema,
    zone: &'a TimeZone,
    /// Mandatory marks count everywhere, not only in enforced objects.
    strict: bool,
    /// What says nothing stays: for the envelope, whose parts are demanded even when there is nothing to report.
    keeps_empty: bool,
    path: String,
    pub issues: Vec<Issue>,
}

/// Why a record is not even looked at: it holds more than a visit can.
pub(super) fn excess(record: &Value) -> Option<String> {
    fn count(value: &Value, entries: &mut usize, values: &mut usize) {
        *values += 1;
        match value {
            Value::Array(items) => {
                *entries += items.len();
                items.iter().for_each(|item| count(item, entries, values));
            }
            Value::Object(map) => map.values().for_each(|value| count(value, entries, values)),
            _ => {}
        }
    }
    let (mut entries, mut values) = (0, 0);
    count(record, &mut entries, &mut values);
    if entries > MOST_ENTRIES {
        return Some(format!("has {entries} entries in its lists, and one record may have {MOST_ENTRIES}: send the rest as another visit"));
    }
    (values > MOST_VALUES).then(|| format!("holds {values} values, and one record may hold {MOST_VALUES}"))
}

/// Why no resource can hold this text or number (<https://hl7.org/fhir/R4/datatypes.html#string>).
fn unfit(value: &Value) -> Option<&'static str> {
    match value {
        Value::String(text) if text.len() > MOST_BYTES => Some("is longer than a text may be (64 KiB)"),
        Value::String(text) if text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n')) => {
            Some("holds a control character, which no text may")
        }
        Value::Number(number) if number.as_str().len() > MOST_DIGITS => Some("has more digits than a number may (100)"),
        _ => None,
    }
}

impl<'a> Walk<'a> {
    pub fn new(schema: &'a Schema, zone: &'a TimeZone, strict: bool, path: String) -> Self {
        Walk { schema, zone, strict, keeps_empty: false, path, issues: Vec::new() }
    }

    /// The walk over what surrounds the records.
    pub fn of_envelope(schema: &'a Schema, zone: &'a TimeZone, strict: bool) -> Self {
        Walk { keeps_empty: true, ..Walk::new(schema, zone, strict, String::new()) }
    }

    /// Checks `value` against a node and gives its normal form; `None` when nothing usable is left. Problems of the value
    /// itself are errors when `enforced`.
    pub fn value(&mut self, node: NodeId, value: Value, enforced: bool) -> Option<Value> {
        let schema = self.schema;
        if let Some(words) = unfit(&value) {
            return self.refuse(true, words);
        }
        match (schema.kind(node), value) {
            (_, Value::Null) => None,
            (Kind::Any, value) => substance(value),
            (Kind::Array { item, min }, Value::Array(list)) => self.list(*item, *min, list, enforced),
            (_, value) if !self.keeps_empty && is_empty(&value) => None,
            (Kind::Object(_) | Kind::Array { .. }, Value::String(text)) if text.trim().is_empty() => None,
            (Kind::Object(object), Value::Object(map)) => self.object(object, map).map(Value::Object),
            (Kind::Object(_), Value::Array(mut list)) if list.len() == 1 => {
                self.say(false, IssueCode::Structure, "is a list where one object is expected; its only entry is taken");
                let only = list.pop()?;
                if only.is_array() { None } else { self.value(node, only, enforced) }
            }
            (Kind::Object(object), Value::String(code)) if schema.nodes.get(node).is_some_and(|node| node.coded) => {
                let map = Map::from_iter([("code".to_owned(), Value::String(code))]);
                self.object(object, map).map(Value::Object)
            }
            (Kind::Object(_), _) => self.refuse(enforced, "must be an object"),
            (Kind::Array { item, .. }, single) => {
                self.say(false, IssueCode::Structure, "must be a list; the single value is taken as a list of one");
                self.value(*item, single, enforced).map(|value| Value::Array(vec![value]))
            }
            (_, Value::Array(_) | Value::Object(_)) => self.refuse(enforced, "must be a single value, not an object or a list"),
            (kind, Value::String(text)) => {
                let text = text.trim();
                if text.is_empty() {
                    let demanded = enforced && matches!(kind, Kind::Text { blank: false });
                    return if demanded { self.refuse(true, "must not be blank") } else { None };
                }
                self.text(node, text, enforced)
            }
            (Kind::Boolean, Value::Bool(flag)) => Some(Value::Bool(flag)),
            (Kind::Text { blank: false }, Value::Bool(_)) => self.refuse(enforced, "must be text or a number, not true or false"),
            (_, Value::Bool(flag)) => self.text(node, if flag { "true" } else { "false" }, enforced),
            (Kind::Integer | Kind::Number, Value::Number(number)) => self.number(schema.kind(node), number),
            (_, Value::Number(number)) => self.text(node, &number.to_string(), enforced),
        }
    }

    fn text(&mut self, node: NodeId, text: &str, enforced: bool) -> Option<Value> {
        let schema = self.schema;
        match schema.kind(node) {
            Kind::Code(values) => {
                if let Some(value) = values.iter().find(|value| value.eq_ignore_ascii_case(text)) {
                    return Some(Value::String(value.clone()));
                }
                self.say(enforced, IssueCode::CodeInvalid, &format!("must be one of {}", values.join(", ")));
                // A code that the template does not know is still what the facility said: kept, and listed as unmapped later.
                (!enforced).then(|| Value::String(text.to_owned()))
            }
            Kind::Date => match moment::date(text, self.zone) {
                Some(date) => Some(Value::String(date)),
                None => self.refuse(enforced, "is not a date; write it as yyyy-MM-dd"),
            },
            Kind::DateTime => match moment::date_time(text, self.zone) {
                Some(moment) => Some(Value::String(moment)),
                None => self.refuse(enforced, "is not a date or time; write it as yyyy-MM-dd or yyyy-MM-ddTHH:mm:ss with a zone"),
            },
            kind @ (Kind::Integer | Kind::Number) => {
                let Node { unit, textual, .. } = schema.nodes.get(node)?;
                match text.parse::<Number>().ok() {
                    Some(number) => self.number(kind, number),
                    None => match read_number(text, unit.as_deref()) {
                        Some(number) => {
                            self.say(false, IssueCode::Value, "is not written as a number; it is read as the one that it must be");
                            self.number(kind, number)
                        }
                        None if *textual => {
                            self.say(false, IssueCode::Value, "should be a number; it is kept as text");
                            Some(Value::String(text.to_owned()))
                        }
                        None => self.refuse(enforced, "must be a number"),
                    },
                }
            }
            Kind::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" | "1" => Some(Value::Bool(true)),
                "false" | "no" | "n" | "0" => Some(Value::Bool(false)),
                _ => self.refuse(enforced, "must be true or false"),
            },
            _ => Some(Value::String(text.to_owned())),
        }
    }

    fn number(&mut self, kind: &Kind, number: Number) -> Option<Value> {
        let digits = number.to_string();
        let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
        if matches!(kind, Kind::Integer) && !fraction.is_empty() {
            if fraction.bytes().all(|digit| digit == b'0') {
                return whole.parse().ok().map(Value::Number);
            }
            self.say(false, IssueCode::Value, "should be a whole number; it is kept as it is");
        }
        Some(Value::Number(number))
    }

    fn list(&mut self, item: NodeId, min: usize, list: Vec<Value>, enforced: bool) -> Option<Value> {
        let length = self.path.len();
        let mut kept = Vec::with_capacity(list.len());
        for (index, value) in list.into_iter().enumerate() {
            let _ = write!(self.path, "[{index}]");
            kept.push(self.value(item, value, enforced).unwrap_or_default());
            self.path.truncate(length);
        }
        let usable = kept.iter().filter(|value| !value.is_null()).count();
        if usable < min {
            return self.refuse(enforced, "must not be empty");
        }
        // A list that was sent empty says that there is nothing; one of which nothing can be used says nothing.
        (usable > 0 || kept.is_empty()).then_some(Value::Array(kept))
    }

    /// `None` when nothing in it says anything.
    fn object(&mut self, object: &Object, map: Map<String, Value>) -> Option<Map<String, Value>> {
        let (length, told) = (self.path.len(), self.issues.len());
        let mut kept = Map::with_capacity(map.len());
        let (mut unknown, mut faulty) = (Vec::new(), Vec::new());
        for (key, value) in map {
            let name = object.aliases.get(&key).cloned().unwrap_or(key);
            let Some(field) = object.fields.get(&name) else {
                if !value.is_null() {
                    unknown.push(name);
                }
                continue;
            };
            self.enter(&name);
            let before = self.issues.len();
            let value = self.value(field.node, value, object.enforced);
            if field.deprecated && value.is_some() {
                self.say(false, IssueCode::Informational, "is deprecated in this template; it is still taken");
            }
            match (value, kept.get_mut(&name)) {
                (Some(Value::Array(more)), Some(Value::Array(known))) => known.extend(more),
                (Some(_), Some(_)) => self.say(false, IssueCode::Duplicate, "is given in two spellings; the first is taken"),
                (Some(value), None) => {
                    kept.insert(name, value);
                }
                (None, _) if self.issues.len() > before => faulty.push(name),
                (None, _) => {}
            }
            self.path.truncate(length);
        }
        if !self.keeps_empty && unknown.is_empty() && self.issues.len() == told && !kept.values().any(says_something) {
            // Where nothing is said, nothing is missing.
            return (!kept.is_empty()).then_some(kept);
        }
        for name in &object.required {
            let is_there = kept.get(name).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()));
            if is_there || faulty.contains(name) {
                continue;
            }
            let near = unknown.iter().find(|key| is_plain(key) && alike(name, key) > 0.7);
            let words = match near {
                Some(key) => format!("is mandatory and is missing; the unknown key {key} looks like it"),
                None => "is mandatory and is missing".to_owned(),
            };
            self.enter(name);
            self.say(object.enforced || self.strict, IssueCode::Required, &words);
            self.path.truncate(length);
        }
        for key in unknown {
            if self.issues.len() >= MOST_ISSUES {
                break;
            }
            let words = match nearest(object, &key) {
                Some(name) => format!("is not a field of this template and is not translated; did you mean {name}?"),
                None => "is not a field of this template and is not translated".to_owned(),
            };
            self.enter(if is_plain(&key) { &key } else { "?" });
            self.say(false, IssueCode::Structure, &words);
            self.path.truncate(length);
        }
        (self.keeps_empty || !kept.is_empty()).then_some(kept)
    }

    fn enter(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn refuse(&mut self, error: bool, words: &str) -> Option<Value> {
        self.say(error, IssueCode::Value, words);
        None
    }

    fn say(&mut self, error: bool, code: IssueCode, words: &str) {
        // Warnings give way; an error is always said, because it is why a record is refused.
        if self.issues.len() < MOST_ISSUES || error && self.issues.len() < 2 * MOST_ISSUES {
            let issue = if error { Issue::error(code, words) } else { Issue::warning(code, words) };
            self.issues.push(issue.at(self.path.clone()));
        }
    }
}

/// Whether there is anything in a value but empty lists.
pub(super) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(map) => map.values().any(says_something),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Array(list) if list.is_empty()) || matches!(value, Value::Object(map) if map.is_empty())
}

/// A value that the schema leaves open, without what says nothing.
fn substance(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.trim().is_empty()).then_some(Value::String(text)),
        Value::Array(items) => {
            let kept: Vec<Value> = items.into_iter().filter_map(substance).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::Object(map) => {
            let kept: Map<String, Value> = map.into_iter().filter_map(|(key, value)| Some((key, substance(value)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        value => Some(value),
    }
}

/// The number in a text that has a decimal comma, or the unit that the number is in anyway. Before three digits a comma may part
/// thousands, so that is none.
fn read_number(text: &str, unit: Option<&str>) -> Option<Number> {
    let spellings: &[&str] = match unit {
        Some("Cel") => &["°c", "cel", "c"],
        Some(ref unit) => std::slice::from_ref(unit),
        None => &[],
    };
    let lower = text.to_lowercase();
    let bare = spellings.iter().find_map(|unit| lower.strip_suffix(&unit.to_lowercase())).unwrap_or(&lower).trim_end();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match bare.split_once(',') {
        None => bare.parse().ok(),
        Some((whole, part)) if part.len() < 3 && digits(part) && digits(whole.trim_start_matches('-')) => {
            format!("{whole}.{part}").parse().ok()
        }
        Some(_) => None,
    }
}

pub(super) fn is_plain(key: &str) -> bool {
    key.len() <= LONGEST_KEY && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn alike(left: &str, right: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(&left.to_ascii_lowercase(), &right.to_ascii_lowercase())
}

fn nearest<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    if !is_plain(key) {
        return None;
    }
    object
        .fields
        .keys()
        .map(|name| (alike(name, key), name.as_str()))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|left, right| left.0.total_cmp(&right.0).then(right.1.cmp(left.1)))
        .map(|(_, name)| name)
}
