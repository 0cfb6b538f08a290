//! A mapping at work on one record.

use super::expr::{Expr, Presence, Scope, locate};
use super::mapping::{Fields, Form, Part, Production, Resource, Translate as Translation, Update};
use super::schema::{Leaf, NodeId, Schema, says_something};
use super::{Known, Listed, Produced, Translate, Unmapped, forget};
use crate::fhir::{Issue, IssueCode, narrative};
use crate::validate::structure;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use uuid::Uuid;

/// Ids are name-based (RFC 9562, version 5) in a namespace of lango's own: the same local keys always give the same id.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x6c61_6e67_6f2e_5e6b_9b64_61e4_a1d5_1f00);

/// Keys that only say how their neighbours are to be read: an object with nothing else in it says nothing.
const VOCABULARY: [&str; 2] = ["system", "use"];

/// The word that an element was sent as, where FHIR allows only codes of its own (<https://hl7.org/fhir/R4/extension-originaltext.html>).
const ORIGINAL_TEXT: &str = "http://hl7.org/fhir/StructureDefinition/originalText";
const DATA_ABSENT: &str = "http://hl7.org/fhir/StructureDefinition/data-absent-reason";

/// More problems than this in one record help nobody.
const MOST_TOLD: usize = 20;

/// What one key of the record was made of.
struct Seen {
    /// The place of the first in [`Run::produced`].
    first: usize,
    count: usize,
    /// Of what was made under the key, once it came again: what is the same said twice.
    contents: HashSet<[u8; 32]>,
}

pub(super) struct Run<'r> {
    schema: &'r Schema,
    translate: &'r dyn Translate,
    /// What is being mapped, and its path in the payload: where words that no map knows are looked for.
    root: &'r Value,
    path: &'r str,
    stored: &'r Known,
    /// What was made, by type and what its id is made of.
    seen: HashMap<(&'r str, String), Seen>,
    /// The place in `lists` of the list that is being walked.
    list: Option<usize>,
    /// The address of the leaf that `%field` was made from.
    field: Option<usize>,
    /// The word that the last translation to a mere code had no code for.
    original: Option<String>,
    /// The elements that the resource in the making has by now.
    made: Vec<String>,
    /// `Type/id` of what was not made.
    left_out: BTreeSet<String>,
    pub produced: Vec<Produced>,
    pub lists: Vec<Listed>,
    pub unmapped: Vec<Unmapped>,
    /// Expressions that failed on this record: the mapping's fault, not the facility's.
    pub faults: Vec<Issue>,
    /// What was not made a resource, and why, each with its path.
    pub told: Vec<Issue>,
    /// `Type/id` of what the mapping asked for and nobody knew.
    pub wanted: BTreeSet<String>,
}

impl<'r> Run<'r> {
    pub fn new(schema: &'r Schema, translate: &'r dyn Translate, stored: &'r Known, root: &'r Value, path: &'r str) -> Self {
        Run {
            schema,
            translate,
            root,
            path,
            stored,
            made: Vec::new(),
            left_out: BTreeSet::new(),
            told: Vec::new(),
            wanted: BTreeSet::new(),
            seen: HashMap::new(),
            list: None,
            field: None,
            original: None,
            produced: Vec::new(),
            lists: Vec::new(),
            unmapped: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Carries out the productions of a record or submission.
    pub fn carry_out(&mut self, productions: &'r [Production], scope: &Scope<'_>) {
        self.all(productions, scope);
        let Run { left_out, produced, .. } = self;
        if !left_out.is_empty() {
            let made: BTreeSet<String> = produced.iter().filter_map(|produced| reference_to(&produced.resource)).collect();
            left_out.retain(|reference| !made.contains(reference));
            produced.iter_mut().for_each(|produced| forget(&mut produced.resource, left_out));
        }
    }

    fn all(&mut self, productions: &'r [Production], scope: &Scope<'_>) {
        productions.iter().for_each(|production| self.production(production, scope));
    }

    fn production(&mut self, production: &'r Production, scope: &Scope<'_>) {
        let Some(each) = &production.each else { return self.item(production, &production.lets, scope) };
        let outer = self.list;
        if let Some(name) = &production.whole {
            self.list = self.begin_list(name, each.presence(scope), scope).or(outer);
        }
        for (index, item) in self.eval(each, scope).iter().enumerate() {
            let index = Value::from(index);
            let var = scope.var("index", &index);
            let inner = Scope { item: item.as_ref(), ..scope.within(&var) };
            self.item(production, &production.lets, &inner);
        }
        self.list = outer;
    }

    /// The place of the list with this name; `None` when the record does not speak of it.
    fn begin_list(&mut self, name: &[Part], presence: Presence, scope: &Scope<'_>) -> Option<usize> {
        if presence == Presence::Absent {
            return None;
        }
        let parts: Vec<String> = name.iter().map(|part| self.one(part, scope).and_then(|value| scalar(&value))).collect::<Option<_>>()?;
        let (name, whole) = (parts.join("/"), presence == Presence::Whole);
        if let Some(place) = self.lists.iter().position(|known| known.name == name) {
            if let Some(known) = self.lists.get_mut(place) {
                known.whole &= whole;
            }
            return Some(place);
        }
        self.lists.push(Listed { name, whole });
        Some(self.lists.len() - 1)
    }

    fn item(&mut self, production: &'r Production, lets: &[(String, Part)], scope: &Scope<'_>) {
        if let Some(((name, part), rest)) = lets.split_first() {
            let value = self.one(part, scope).unwrap_or(Value::Array(Vec::new()));
            let var = scope.var(name, &value);
            return self.item(production, rest, &scope.within(&var));
        }
        if let Some(condition) = &production.when {
            match condition.holds(scope) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fault(&production.pointer, &error.to_string()),
            }
        }
        // An item with nothing but empty lists in it is there for their sake alone.
        if let Some(resource) = production.resource.as_ref().filter(|_| says_something(scope.item)) {
            let essential = &production.essential;
            if essential.is_empty() || essential.iter().any(|member| !self.eval(member, scope).is_empty()) {
                self.resource(resource, &production.pointer, scope);
            } else {
                let members: Vec<String> = essential.iter().filter_map(Expr::member).collect();
                let words = format!("says too little to be stored as {}: it needs {}", resource.type_name, members.join(" or "));
                self.leave_out(resource, Issue::warning(IssueCode::Required, words), scope);
            }
        }
        self.all(&production.then, scope);
    }

    /// No resource is made of the item, for a reason that the sender is told.
    fn leave_out(&mut self, resource: &Resource, reason: Issue, scope: &Scope<'_>) {
        if let Some(name) = self.name(&resource.type_name, &resource.id, scope) {
            self.left_out.insert(reference(&resource.type_name, &name));
        }
        if self.told.len() < MOST_TOLD {
            let place = locate(self.root, self.path, std::ptr::from_ref(scope.item).addr());
            self.told.push(reason.at(place.unwrap_or_else(|| self.path.to_owned())));
        }
    }

    fn resource(&mut self, resource: &'r Resource, pointer: &str, scope: &Scope<'_>) {
        let Some(mut name) = self.name(&resource.type_name, &resource.id, scope) else {
            return self.fault(pointer, "a part of the id is empty");
        };
        let mut map = Map::with_capacity(resource.body.len() + 2);
        map.insert("resourceType".to_owned(), Value::String(resource.type_name.clone()));
        map.insert("id".to_owned(), Value::Null);
        self.entries(&resource.body, scope, &mut map);
        for entry in &resource.late {
            self.made = map.keys().cloned().collect();
            self.entries(std::slice::from_ref(entry), scope, &mut map);
        }
        let key = (resource.type_name.as_str(), name.clone());
        if let Some(seen) = self.seen.get_mut(&key) {
            // The same said twice is said once; the same key for something else is a second one.
            if resource.shared || resource.update != Update::Replace {
                return;
            }
            if seen.contents.is_empty() {
                let first = self.produced.get(seen.first).and_then(|first| first.resource.as_object());
                seen.contents.extend(first.map(content));
            }
            if !seen.contents.insert(content(&map)) {
                return;
            }
            let _ = write!(name, "\u{1f}#{}", seen.count + 1);
        }
        let id = Uuid::new_v5(&NAMESPACE, name.as_bytes());
        if let Some(place) = map.get_mut("id") {
            *place = Value::String(id.to_string());
        }
        let Resource { update, shared, .. } = *resource;
        let mut made = Value::Object(map);
        narrative::settle(&mut made);
        // What is laid over something stored need not have all that the whole must have.
        let part = matches!(update, Update::Existing | Update::Known);
        let is_wrong = |issue: &Issue| issue.severity.is_error() && !(part && issue.code == IssueCode::Required);
        if let Some(wrong) = structure(&made).into_iter().find(is_wrong) {
            let words = format!("is not stored as {}: {} {}", resource.type_name, wrong.expression, wrong.diagnostics);
            return self.leave_out(resource, Issue::warning(IssueCode::Processing, words), scope);
        }
        let first = self.produced.len();
        self.seen.entry(key).and_modify(|seen| seen.count += 1).or_insert(Seen { first, count: 1, contents: HashSet::new() });
        let list = self.list.filter(|_| !resource.shared);
        self.produced.push(Produced { resource: made, update, list, needs: resource.needs.clone(), shared });
    }

    /// The key of a visit.
    pub fn key(&mut self, template: &str, parts: &[Part], scope: &Scope<'_>) -> Option<Uuid> {
        let name = self.name("", parts, scope)?;
        Some(Uuid::new_v5(&NAMESPACE, format!("visit\u{1f}{template}{name}").as_bytes()))
    }

    /// What an id is made of; `None` when a part of it is empty.
    fn name(&mut self, type_name: &str, parts: &[Part], scope: &Scope<'_>) -> Option<String> {
        let mut name = type_name.to_owned();
        for part in parts {
            let value = self.one(part, scope)?;
            name.push('\u{1f}');
            match value {
                Value::String(text) => name.push_str(&text),
                other => {
                    let _ = write!(name, "{other}");
                }
            }
        }
        Some(name)
    }

    /// Gives whether anything but constants was found.
    fn entries(&mut self, entries: &[(String, Part)], scope: &Scope<'_>, map: &mut Map<String, Value>) -> bool {
        let mut found = false;
        for (key, part) in entries {
            self.original = None;
            let value = self.one(part, scope);
            if let Some(word) = self.original.take() {
                let element = json!({ "extension": [{ "url": ORIGINAL_TEXT, "valueString": word }] });
                match (part, &value) {
                    (Part::List(_), None) => drop(map.insert(format!("_{key}"), Value::Array(vec![element]))),
                    (Part::List(_), Some(_)) => {}
                    _ => drop(map.insert(format!("_{key}"), element)),
                }
                found |= !VOCABULARY.contains(&key.as_str());
            }
            if let Some(value) = value {
                found |= !part.is_constant() && !VOCABULARY.contains(&key.as_str());
                let value = if key == "code" { as_code(value) } else { value };
                map.insert(key.clone(), value);
            }
        }
        found
    }

    /// The one value that a part gives; `None` when it is empty.
    pub fn one(&mut self, part: &Part, scope: &Scope<'_>) -> Option<Value> {
        match part {
            Part::Literal(value) => Some(value.clone()),
            Part::Expr(expr) => self.eval(expr, scope).into_iter().next().map(|value| value.into_owned()).filter(is_something),
            Part::Object { entries, constant } => {
                let mut map = Map::with_capacity(entries.len());
                let found = self.entries(entries, scope, &mut map);
                (found || *constant && !map.is_empty()).then_some(Value::Object(map))
            }
            Part::List(parts) => {
                let mut list = Vec::with_capacity(parts.len());
                parts.iter().for_each(|part| self.many(part, scope, &mut list));
                (!list.is_empty()).then_some(Value::Array(list))
            }
            Part::If(condition, value) => match condition.holds(scope) {
                Ok(true) => self.one(value, scope),
                Ok(false) => None,
                Err(error) => {
                    self.fault("$if", &error.to_string());
                    None
                }
            },
            Part::First(parts) => parts.iter().find_map(|part| self.one(part, scope)),
            Part::Reference { type_name, id, beside } => {
                let name = self.name(type_name, id, scope)?;
                let mut map = Map::new();
                map.insert("reference".to_owned(), reference(type_name, &name).into());
                self.entries(beside, scope, &mut map);
                Some(Value::Object(map))
            }
            Part::Translate(translation) => self.translation(translation, scope),
            Part::Given { elements, all, value } => {
                let is_made = |element: &String| self.made.contains(element);
                let holds = if *all { elements.iter().all(is_made) } else { !elements.iter().any(is_made) };
                holds.then(|| self.one(value, scope)).flatten()
            }
            Part::Stored { type_name, id, at } => {
                let name = reference(type_name, &self.name(type_name, id, scope)?);
                let stored = self.stored;
                match stored.get(&name) {
                    Some(resource) => self.eval(at, &Scope { item: resource, ..*scope }).into_iter().next().map(Cow::into_owned),
                    None => {
                        self.wanted.insert(name);
                        None
                    }
                }
            }
            Part::For(..) | Part::Fields(_) => {
                let mut list = Vec::new();
                self.many(part, scope, &mut list);
                list.into_iter().next()
            }
        }
    }

    /// Every value that a part gives, into a list.
    fn many(&mut self, part: &Part, scope: &Scope<'_>, list: &mut Vec<Value>) {
        match part {
            Part::Expr(expr) => list.extend(self.eval(expr, scope).into_iter().map(|value| value.into_owned()).filter(is_something)),
            Part::For(each, value) => {
                for (index, item) in self.eval(each, scope).iter().enumerate() {
                    let index = Value::from(index);
                    let var = scope.var("index", &index);
                    let inner = Scope { item: item.as_ref(), ..scope.within(&var) };
                    self.many(value, &inner, list);
                }
            }
            Part::If(condition, value) if matches!(condition.holds(scope), Ok(true)) => self.many(value, scope, list),
            Part::Fields(fields) => self.fields(fields, scope, list),
            part => list.extend(self.one(part, scope)),
        }
    }

    fn translation(&mut self, translation: &Translation, scope: &Scope<'_>) -> Option<Value> {
        let sent = self.eval(&translation.code, scope).into_iter().next();
        let code = sent.as_deref().and_then(scalar);
        let text = translation.text.as_ref().and_then(|part| self.one(part, scope));
        let Some(code) = code else {
            return match translation.form {
                Form::Code => translation.default.as_ref().and_then(|part| self.one(part, scope)),
                Form::Coding => None,
                Form::CodeableConcept => text.map(|text| json!({ "text": text })),
            };
        };
        let name = self.one(&translation.map, scope).and_then(|name| scalar(&name)).unwrap_or_default();
        let map = format!("https://lango.health/fhir/ConceptMap/{name}");
        let system = match &translation.system {
            Some(system) => self.one(system, scope).and_then(|system| scalar(&system)),
            None => Some(format!("https://lango.health/fhir/CodeSystem/{name}")),
        };
        let display = translation.display.as_ref().and_then(|part| self.one(part, scope));
        let found = self.translate.translate(&map, system.as_deref(), &code).unwrap_or_default();
        if found.is_empty() && !translation.quiet {
            let path = self.place(&translation.code, sent.as_ref(), scope);
            let display = display.as_ref().and_then(scalar);
            self.unmapped.push(Unmapped { map, system: system.clone(), code: code.clone(), display, path });
        }
        // The element takes only codes of its own: the word is kept beside what can be said.
        if found.is_empty() && translation.form == Form::Code {
            let default = translation.default.as_ref().and_then(|part| self.one(part, scope));
            self.original = (!translation.quiet).then_some(code);
            return default;
        }
        if found.is_empty() && translation.bound {
            let default = translation.default.as_ref().and_then(|part| self.one(part, scope));
            if translation.form == Form::Coding {
                return default;
            }
            return default.or_else(|| Some(json!({ "extension": [{ "url": DATA_ABSENT, "valueCode": "as-text" }], "text": code })));
        }
        if translation.form == Form::Code {
            return found.into_iter().next().map(|coding| Value::String(coding.code));
        }
        // A translation to the same code says all that the facility's own coding would.
        let repeated = found.iter().any(|coding| coding.code == code);
        let mut codings: Vec<Value> = found.into_iter().map(super::Coding::into_json).collect();
        if repeated || translation.bound {
            if let (Some(Value::Object(first)), Some(display)) = (codings.first_mut(), display) {
                first.entry("display").or_insert(display);
            }
        } else {
            let mut own = Map::new();
            own.extend(system.map(|system| ("system".to_owned(), Value::String(system))));
            own.insert("code".to_owned(), as_code(Value::String(code)));
            own.extend(display.map(|display| ("display".to_owned(), display)));
            codings.push(Value::Object(own));
        }
        if translation.form == Form::Coding {
            return codings.into_iter().next();
        }
        let mut concept = Map::from_iter([("coding".to_owned(), Value::Array(codings))]);
        concept.extend(text.map(|text| ("text".to_owned(), text)));
        Some(Value::Object(concept))
    }

    /// Where a word stands in the payload: the leaf itself, else the item that it was read from.
    fn place(&self, code: &Expr, sent: Option<&Cow<'_, Value>>, scope: &Scope<'_>) -> String {
        let leaf = match sent {
            _ if code.is_of("field") => self.field,
            Some(Cow::Borrowed(value)) => Some(std::ptr::from_ref(*value).addr()),
            _ => None,
        };
        let item = Some(std::ptr::from_ref(scope.item).addr());
        let places = [leaf, self.field, item].into_iter().flatten();
        places.filter_map(|place| locate(self.root, self.path, place)).next().unwrap_or_else(|| self.path.to_owned())
    }

    /// The path within the record of the first value that a part gives, when it is a value of the record.
    pub fn whence(&mut self, part: &Part, scope: &Scope<'_>) -> Option<String> {
        match part {
            Part::First(parts) => {
                let given = parts.iter().find(|part| self.one(part, scope).is_some())?;
                self.whence(given, scope)
            }
            Part::Expr(expr) => match self.eval(expr, scope).into_iter().next()? {
                Cow::Borrowed(value) => locate(self.root, "", std::ptr::from_ref(value).addr()),
                Cow::Owned(_) => None,
            },
            _ => None,
        }
    }

    /// The values of a list, each with the address of what it was made from where that is a part of the record.
    pub fn items(&mut self, part: &Part, scope: &Scope<'_>) -> Vec<(Value, Option<usize>)> {
        let mut items = Vec::new();
        let parts = if let Part::List(parts) = part { parts } else { std::slice::from_ref(part) };
        for part in parts {
            let Part::For(each, value) = part else {
                items.extend(self.one(part, scope).map(|value| (value, None)));
                continue;
            };
            for item in &self.eval(each, scope) {
                let inner = Scope { item: item.as_ref(), ..*scope };
                items.extend(self.one(value, &inner).map(|value| (value, Some(std::ptr::from_ref(item.as_ref()).addr()))));
            }
        }
        items
    }

    /// The path within the record of what has this address.
    pub fn locate(&self, place: usize) -> Option<String> {
        locate(self.root, "", place)
    }

    fn fields(&mut self, fields: &Fields, scope: &Scope<'_>, list: &mut Vec<Value>) {
        for item in &self.eval(&fields.item, scope) {
            self.leaves(fields, fields.node, item, &mut String::new(), scope, list);
        }
        self.field = None;
    }

    fn leaves(&mut self, fields: &Fields, node: NodeId, value: &Value, below: &mut String, scope: &Scope<'_>, list: &mut Vec<Value>) {
        let leaf = self.schema.leaf(self.schema.item(node));
        match value {
            Value::Null => {}
            Value::Array(items) => items.iter().for_each(|item| self.leaves(fields, node, item, below, scope, list)),
            Value::Object(map) if leaf != Some(Leaf::Coded) => {
                let length = below.len();
                for (key, value) in map {
                    // Below an object that the schema leaves open a key may hold anything; then the parent's name must do.
                    if super::schema::is_plain(key) {
                        if !below.is_empty() {
                            below.push('.');
                        }
                        below.push_str(key);
                    }
                    if !fields.except.contains(below.as_str()) {
                        let child = self.schema.field(node, key).unwrap_or(NodeId::MAX);
                        self.leaves(fields, child, value, below, scope, list);
                    }
                    below.truncate(length);
                }
            }
            value => {
                let field = describe(&fields.block, below, leaf, value);
                self.field = Some(std::ptr::from_ref(value).addr());
                let var = scope.var("field", &field);
                self.many(&fields.value, &scope.within(&var), list);
            }
        }
    }

    fn eval<'a>(&mut self, expr: &Expr, scope: &Scope<'a>) -> Vec<Cow<'a, Value>> {
        expr.eval(scope).unwrap_or_else(|error| {
            self.fault("an expression", &error.to_string());
            Vec::new()
        })
    }

    fn fault(&mut self, place: &str, words: &str) {
        if self.faults.len() < MOST_TOLD {
            self.faults.push(Issue::warning(IssueCode::Processing, format!("the template's mapping fails here ({place}): {words}")));
        }
    }
}

/// What tells a resource from others, whatever its id.
fn content(resource: &Map<String, Value>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in resource.iter().filter(|(name, _)| *name != "id") {
        hasher.update(name.as_bytes());
        // Text that was read as JSON is written as JSON.
        hasher.update(&serde_json::to_vec(value).unwrap_or_default());
    }
    *hasher.finalize().as_bytes()
}

/// `Type/id` of what has this name.
fn reference(type_name: &str, name: &str) -> String {
    format!("{type_name}/{}", Uuid::new_v5(&NAMESPACE, name.as_bytes()))
}

fn reference_to(resource: &Value) -> Option<String> {
    Some(format!("{}/{}", resource.get("resourceType")?.as_str()?, resource.get("id")?.as_str()?))
}

/// `%field`: the leaf's path and its value under the name of the FHIR datatype that fits.
fn describe(block: &str, below: &str, leaf: Option<Leaf<'_>>, value: &Value) -> Value {
    let dot = if below.is_empty() || block.is_empty() { "" } else { "." };
    let mut field = json!({ "path": format!("{block}{dot}{below}") });
    let (key, value) = match (leaf, value) {
        (_, Value::Bool(_)) => ("boolean", value.clone()),
        (Some(Leaf::Number { unit: Some(unit) }), Value::Number(_)) => {
            ("quantity", json!({ "value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit }))
        }
        (_, Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => ("integer", value.clone()),
        (_, Value::Number(_)) => ("quantity", json!({ "value": value })),
        (Some(Leaf::Date), _) => ("dateTime", value.clone()),
        (Some(Leaf::Code { map }), _) => {
            field["map"] = json!(map);
            ("code", value.clone())
        }
        (_, Value::Object(_)) => ("coded", value.clone()),
        _ => ("string", value.clone()),
    };
    field[key] = value;
    field
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
    .filter(|text| !text.is_empty())
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// A FHIR `code` has single spaces only (<https://hl7.org/fhir/R4/datatypes.html#code>).
fn as_code(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains(char::is_whitespace) => Value::String(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        value => value,
    }
}
