//! The mapping language: JSON that says, with FHIRPath in it, which resources a record gives.
//!
//! A string that begins with `=` is an expression; any other value is itself. What comes out empty is left out, and so is
//! an object or list with nothing left in it. In a list every result of an expression is taken, elsewhere the first.
//! Objects with a key that begins with `$` are instructions; `docs/hdu.md` describes each with an example.

use super::expr::Expr;
use super::schema::{NodeId, Schema};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// What is wrong with a mapping file, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub pointer: String,
    pub message: String,
}

type Compiled<T> = Result<T, Fault>;

#[derive(Debug)]
pub(super) enum Part {
    Literal(Value),
    Expr(Expr),
    /// Vanishes when it holds parts to be evaluated and all of them are empty, whatever constants stand beside them.
    Object {
        entries: Vec<(String, Part)>,
        constant: bool,
    },
    List(Vec<Part>),
    /// `{"$for": items, "$value": part}`
    For(Expr, Box<Part>),
    /// `{"$if": condition, "$value": part}`
    If(Expr, Box<Part>),
    /// `{"$first": [part, …]}`
    First(Vec<Part>),
    Translate(Box<Translate>),
    /// `{"$reference": [Type, part, …]}`, with what else a Reference may say beside it.
    Reference {
        type_name: String,
        id: Vec<Part>,
        beside: Vec<(String, Part)>,
    },
    Fields(Box<Fields>),
    /// `{"$given": [element, …], "$value": part}` and `{"$unless": …}`: when the resource has all of these elements, or none.
    Given {
        elements: Vec<String>,
        all: bool,
        value: Box<Part>,
    },
    /// `{"$stored": [Type, part, …], "at": path}`: what the resource with this id says there.
    Stored {
        type_name: String,
        id: Vec<Part>,
        at: Expr,
    },
}

impl Part {
    pub fn is_constant(&self) -> bool {
        match self {
            Part::Literal(_) => true,
            Part::Object { constant, .. } => *constant,
            Part::List(parts) => parts.iter().all(Part::is_constant),
            _ => false,
        }
    }

    /// Whether it asks what else its resource has, so that all else must be there first.
    fn asks(&self) -> bool {
        match self {
            Part::Given { .. } => true,
            Part::Object { entries, .. } => entries.iter().any(|(_, part)| part.asks()),
            Part::List(parts) | Part::First(parts) => parts.iter().any(Part::asks),
            Part::For(_, value) | Part::If(_, value) => value.asks(),
            Part::Literal(_) | Part::Expr(_) | Part::Translate(_) | Part::Reference { .. } | Part::Fields(_) | Part::Stored { .. } => false,
        }
    }

    /// Whether it may give the empty text, which a variable cannot hold: an id with the variable in it would lack a part.
    fn may_be_blank(&self) -> bool {
        match self {
            Part::Literal(Value::String(text)) => text.is_empty(),
            Part::First(parts) => parts.iter().any(Part::may_be_blank),
            Part::If(_, value) => value.may_be_blank(),
            _ => false,
        }
    }
}

/// `{"$translate": {map, code, system?, display?, text?, as?, default?, bound?, quiet?}}`
#[derive(Debug)]
pub(super) struct Translate {
    /// The map's short name.
    pub map: Part,
    pub code: Expr,
    pub system: Option<Part>,
    pub display: Option<Part>,
    pub text: Option<Part>,
    pub form: Form,
    pub default: Option<Part>,
    /// Only translations may stand here, because the element is bound to one value set: without one it is the default.
    pub bound: bool,
    /// A code that has no translation is as it should be, and is not listed.
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Code,
    Coding,
    CodeableConcept,
}

/// `{"$fields": item, "block": path in the schema, "except": […], "$value": part}`: the part once for each leaf below the item.
#[derive(Debug)]
pub(super) struct Fields {
    pub item: Expr,
    pub block: String,
    pub node: NodeId,
    pub except: HashSet<String>,
    pub value: Part,
}

/// How a resource meets the one that is already stored under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Update {
    /// It takes the other's place.
    #[default]
    Replace,
    /// What it says is laid over what is stored ([`super::merge`]); what it does not say remains.
    Merge,
    /// It is stored only when there is nothing yet: it knows no more than an identifier.
    IfAbsent,
    /// As `Merge`, and there must be something stored: an update of a visit that was never sent is refused.
    Existing,
    /// There must be something stored, and it stays as it is: a client that was never sent is refused.
    Known,
    /// There should be something stored, and it stays as it is; when there is nothing, the reply says so.
    Expected,
}

/// One line of a mapping: for each item, when the condition holds, a resource.
#[derive(Debug)]
pub(super) struct Production {
    pub pointer: String,
    pub each: Option<Expr>,
    pub when: Option<Expr>,
    pub lets: Vec<(String, Part)>,
    /// Members of the item: with none of them it says too little to be made a resource of.
    pub essential: Vec<Expr>,
    /// Names the list that `each` walks, within the visit: when it comes again, what it makes no longer is withdrawn.
    pub whole: Option<Vec<Part>>,
    pub resource: Option<Resource>,
    pub then: Vec<Production>,
}

#[derive(Debug)]
pub(super) struct Resource {
    pub type_name: String,
    pub id: Vec<Part>,
    pub update: Update,
    /// With [`Update::Existing`], [`Update::Known`] and [`Update::Expected`]: the path of what a record must say when nothing is stored.
    pub needs: Option<String>,
    /// Belongs to the submission, not to the record: an Organization, say.
    pub shared: bool,
    pub body: Vec<(String, Part)>,
    /// The elements that ask which of the others there are.
    pub late: Vec<(String, Part)>,
}

#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub submission: Vec<Production>,
    pub record: Vec<Production>,
}

pub(super) struct Compiler<'a> {
    pub schema: &'a Schema,
    pub record: NodeId,
    pub fragments: HashMap<String, Value>,
    pub common: Map<String, Value>,
    /// Goes into every id, unless the template makes its ids from the facility's own numbers as others do.
    pub space: Option<String>,
    /// Types of what belongs to the submission, whose ids are everybody's.
    pub shared: HashSet<String>,
}

impl Compiler<'_> {
    pub fn productions(&self, value: Option<&Value>, pointer: &str) -> Compiled<Vec<Production>> {
        match value {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().enumerate().map(|(index, entry)| self.production(entry, &format!("{pointer}/{index}"))).collect()
            }
            Some(Value::String(name)) => match self.fragments.get(name) {
                Some(list @ Value::Array(_)) => self.productions(Some(list), &format!("/define/{name}")),
                _ => fault(pointer, "must be a list of productions or the name of one in define"),
            },
            Some(_) => fault(pointer, "must be a list of productions or the name of one in define"),
        }
    }

    fn production(&self, value: &Value, pointer: &str) -> Compiled<Production> {
        let Value::Object(map) = value else { return fault(pointer, "a production must be an object") };
        let known = ["for", "whole", "when", "let", "essential", "id", "update", "needs", "shared", "resource", "then", "//"];
        if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
            return fault(pointer, format!("{key} is no key of a production; those are {}", known.join(", ")));
        }
        let lets = match map.get("let") {
            None => Vec::new(),
            Some(Value::Object(lets)) => {
                let entries = lets.iter().map(|(name, part)| Ok((name.clone(), self.part(part, &format!("{pointer}/let/{name}"))?)));
                entries.collect::<Compiled<_>>()?
            }
            Some(_) => return fault(pointer, "let must be an object"),
        };
        if let Some((name, _)) = lets.iter().find(|(_, part): &&(String, Part)| part.may_be_blank()) {
            return fault(
                &format!("{pointer}/let/{name}"),
                "a variable cannot be the empty text; name something else to stand for nothing",
            );
        }
        let each = self.optional_expr(map, "for", pointer)?;
        let whole = match map.get("whole") {
            None => None,
            Some(_) if each.as_ref().is_none_or(|each| each.member().is_none()) => {
                return fault(pointer, "whole needs a for that is a plain path: the list that it names");
            }
            Some(Value::Array(parts)) => Some(self.parts(parts, &format!("{pointer}/whole"))?),
            Some(part) => Some(vec![self.part(part, &format!("{pointer}/whole"))?]),
        };
        Ok(Production {
            pointer: pointer.to_owned(),
            each,
            whole,
            when: self.optional_expr(map, "when", pointer)?,
            lets,
            essential: self.essential(map.get("essential"), pointer)?,
            resource: map.get("resource").map(|resource| self.resource(map, resource, pointer)).transpose()?,
            then: self.productions(map.get("then"), &format!("{pointer}/then"))?,
        })
    }

    fn essential(&self, names: Option<&Value>, pointer: &str) -> Compiled<Vec<Expr>> {
        let Some(names) = names else { return Ok(Vec::new()) };
        let at = format!("{pointer}/essential");
        let Some(names) = names.as_array() else { return fault(&at, "must be a list of members of the item") };
        let member = |name: &Value| match name.as_str().map(|name| self.expr(name, &at)) {
            Some(Ok(expr)) if expr.member().is_some() => Ok(expr),
            _ => fault(&at, "must name members of the item, each by a plain path"),
        };
        names.iter().map(member).collect()
    }

    fn resource(&self, production: &Map<String, Value>, resource: &Value, pointer: &str) -> Compiled<Resource> {
        let at = format!("{pointer}/resource");
        let Value::Object(resource) = resource else { return fault(&at, "must be an object") };
        let mut resource = self.used(resource, &at)?;
        let Some(Value::String(type_name)) = resource.shift_remove("resourceType") else { return fault(&at, "needs a resourceType") };
        for (key, value) in &self.common {
            match (resource.get_mut(key), value) {
                (Some(Value::Object(own)), Value::Object(common)) => {
                    common.iter().for_each(|(key, value)| {
                        own.entry(key).or_insert_with(|| value.clone());
                    });
                }
                (Some(_), _) => {}
                (None, _) => {
                    resource.shift_insert(0, key.clone(), value.clone());
                }
            }
        }
        if let Some(meta) = resource.shift_remove("meta") {
            resource.shift_insert(0, "meta".to_owned(), meta);
        }
        let Some(Value::Array(id)) = production.get("id") else {
            return fault(pointer, "needs an id: a list of what makes it the same one next time");
        };
        let update = match production.get("update").and_then(Value::as_str) {
            None | Some("replace") => Update::Replace,
            Some("merge") => Update::Merge,
            Some("if-absent") => Update::IfAbsent,
            Some("existing") => Update::Existing,
            Some("known") => Update::Known,
            Some("expected") => Update::Expected,
            Some(_) => return fault(pointer, "update must be replace, merge, if-absent, existing, known or expected"),
        };
        let (late, body) = self.object(&resource, &at)?.into_iter().partition(|(_, part)| part.asks());
        Ok(Resource {
            id: self.id(&type_name, id, &format!("{pointer}/id"))?,
            type_name,
            update,
            needs: production.get("needs").and_then(Value::as_str).map(str::to_owned),
            shared: production.get("shared") == Some(&Value::Bool(true)),
            body,
            late,
        })
    }

    /// `$use` replaced by the keys of the fragment; keys given beside it win.
    fn used(&self, map: &Map<String, Value>, pointer: &str) -> Compiled<Map<String, Value>> {
        self.used_within(map, pointer, 8)
    }

    fn used_within(&self, map: &Map<String, Value>, pointer: &str, depth: usize) -> Compiled<Map<String, Value>> {
        let Some(names) = map.get("$use") else { return Ok(map.clone()) };
        if depth == 0 {
            return fault(pointer, "fragments use each other too deeply; do they go round?");
        }
        let names: Vec<&Value> = names.as_array().map_or_else(|| vec![names], |list| list.iter().collect());
        let mut merged = map.clone();
        merged.shift_remove("$use");
        for name in names {
            let fragment = name.as_str().and_then(|name| self.fragments.get(name)).and_then(Value::as_object);
            let Some(fragment) = fragment else { return fault(pointer, "$use must name a fragment of define, an object") };
            for (key, value) in self.used_within(fragment, pointer, depth - 1)? {
                merged.entry(key).or_insert(value);
            }
        }
        Ok(merged)
    }

    pub fn part(&self, value: &Value, pointer: &str) -> Compiled<Part> {
        match value {
            Value::String(text) => match text.strip_prefix('=') {
                Some(expression) => self.expr(expression, pointer).map(Part::Expr),
                None => Ok(Part::Literal(value.clone())),
            },
            Value::Array(list) => self.parts(list, pointer).map(Part::List),
            Value::Object(map) => {
                let map = &self.used(map, pointer)?;
                match map.keys().find(|key| key.starts_with('$')) {
                    Some(_) => self.instruction(map, pointer),
                    None => {
                        let entries = self.object(map, pointer)?;
                        let constant = entries.iter().all(|(_, part)| part.is_constant());
                        Ok(Part::Object { entries, constant })
                    }
                }
            }
            literal => Ok(Part::Literal(literal.clone())),
        }
    }

    fn parts(&self, list: &[Value], pointer: &str) -> Compiled<Vec<Part>> {
        list.iter().enumerate().map(|(index, entry)| self.part(entry, &format!("{pointer}/{index}"))).collect()
    }

    /// What an id of this type is made of: with the template's own name, so that its person 12 is nobody else's.
    fn id(&self, type_name: &str, parts: &[Value], pointer: &str) -> Compiled<Vec<Part>> {
        let space = self.space.as_ref().filter(|_| !self.shared.contains(type_name));
        let mut id = Vec::from_iter(space.map(|space| Part::Literal(Value::String(space.clone()))));
        id.extend(self.parts(parts, pointer)?);
        Ok(id)
    }

    fn object(&self, map: &Map<String, Value>, pointer: &str) -> Compiled<Vec<(String, Part)>> {
        let entries = map.iter().filter(|(key, _)| *key != "//");
        entries.map(|(key, value)| Ok((key.clone(), self.part(value, &format!("{pointer}/{key}"))?))).collect()
    }

    fn instruction(&self, map: &Map<String, Value>, pointer: &str) -> Compiled<Part> {
        let value = || match map.get("$value") {
            Some(value) => self.part(value, &format!("{pointer}/$value")),
            None => fault(pointer, "needs a $value"),
        };
        if map.contains_key("$for") {
            return Ok(Part::For(self.needed_expr(map, "$for", pointer)?, Box::new(value()?)));
        }
        if map.contains_key("$if") {
            return Ok(Part::If(self.needed_expr(map, "$if", pointer)?, Box::new(value()?)));
        }
        if let Some(Value::Array(list)) = map.get("$first") {
            return self.parts(list, &format!("{pointer}/$first")).map(Part::First);
        }
        for (key, all) in [("$given", true), ("$unless", false)] {
            if let Some(elements) = map.get(key) {
                let elements: Option<Vec<String>> =
                    elements.as_array().and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
                let Some(elements) = elements else { return fault(pointer, format!("{key} must be a list of elements of the resource")) };
                return Ok(Part::Given { elements, all, value: Box::new(value()?) });
            }
        }
        if map.contains_key("$stored") {
            let (type_name, id) = self.target(map, "$stored", pointer)?;
            return Ok(Part::Stored { type_name, id, at: self.needed_expr(map, "at", pointer)? });
        }
        if map.contains_key("$reference") {
            let (type_name, id) = self.target(map, "$reference", pointer)?;
            let beside: Map<String, Value> =
                map.iter().filter(|(key, _)| *key != "$reference").map(|(key, value)| (key.clone(), value.clone())).collect();
            return Ok(Part::Reference { type_name, id, beside: self.object(&beside, pointer)? });
        }
        if let Some(Value::Object(options)) = map.get("$translate") {
            return self.translate(options, &format!("{pointer}/$translate")).map(|part| Part::Translate(Box::new(part)));
        }
        if map.contains_key("$fields") {
            let block = map.get("block").and_then(Value::as_str).unwrap_or_default().to_owned();
            let Some(node) = self.schema.find(self.record, &block) else {
                return fault(pointer, "block must be the path of an object in the record's schema");
            };
            let except = map.get("except").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            let except: HashSet<String> = except.collect();
            if let Some(stray) = except.iter().find(|path| self.schema.find(node, path).is_none()) {
                return fault(pointer, format!("except names {stray}, which is no field of {block}"));
            }
            return Ok(Part::Fields(Box::new(Fields {
                item: self.needed_expr(map, "$fields", pointer)?,
                block,
                node,
                except,
                value: value()?,
            })));
        }
        fault(
            pointer,
            "the keys that begin with $ are $use, $for, $if, $first, $reference, $translate, $fields, $given, $unless, $stored and $value",
        )
    }

    /// A resource type and the parts of an id.
    fn target(&self, map: &Map<String, Value>, key: &str, pointer: &str) -> Compiled<(String, Vec<Part>)> {
        match map.get(key).and_then(Value::as_array).and_then(|list| list.split_first()) {
            Some((Value::String(type_name), id)) => Ok((type_name.clone(), self.id(type_name, id, &format!("{pointer}/{key}"))?)),
            _ => fault(pointer, format!("{key} needs a resource type and then the parts of its id")),
        }
    }

    fn translate(&self, map: &Map<String, Value>, pointer: &str) -> Compiled<Translate> {
        let Some(name) = map.get("map") else { return fault(pointer, "needs the name of a map") };
        let form = match map.get("as").and_then(Value::as_str) {
            Some("code") => Form::Code,
            Some("coding") => Form::Coding,
            None | Some("codeableConcept") => Form::CodeableConcept,
            Some(_) => return fault(pointer, "as must be code, coding or codeableConcept"),
        };
        let optional = |key: &str| map.get(key).map(|value| self.part(value, &format!("{pointer}/{key}"))).transpose();
        Ok(Translate {
            map: self.part(name, &format!("{pointer}/map"))?,
            code: self.needed_expr(map, "code", pointer)?,
            system: optional("system")?,
            display: optional("display")?,
            text: optional("text")?,
            form,
            default: optional("default")?,
            bound: map.get("bound") == Some(&Value::Bool(true)),
            quiet: map.get("quiet") == Some(&Value::Bool(true)),
        })
    }

    fn optional_expr(&self, map: &Map<String, Value>, key: &str, pointer: &str) -> Compiled<Option<Expr>> {
        map.get(key).map(|_| self.needed_expr(map, key, pointer)).transpose()
    }

    /// Where only an expression makes sense, its `=` may be left out.
    fn needed_expr(&self, map: &Map<String, Value>, key: &str, pointer: &str) -> Compiled<Expr> {
        match map.get(key) {
            Some(Value::String(text)) => self.expr(text.strip_prefix('=').unwrap_or(text), &format!("{pointer}/{key}")),
            _ => fault(pointer, format!("{key} must be an expression")),
        }
    }

    pub fn expr(&self, text: &str, pointer: &str) -> Compiled<Expr> {
        Expr::compile(text).or_else(|error| fault(pointer, format!("this is no FHIRPath: {error}")))
    }
}

pub(super) fn fault<T>(pointer: &str, message: impl Into<String>) -> Compiled<T> {
    Err(Fault { pointer: pointer.to_owned(), message: message.into() })
}
