//! A ValueSet compiled for questions (<https://hl7.org/fhir/R4/valueset.html>).

use super::code_system::Designation;
use super::shelf::{Header, Shelved};
use crate::fhir::text::small;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

/// Longest pattern of a `regex` filter, in bytes, and the memory that its compiled form may take.
const MAX_PATTERN: usize = 1_000;
const MAX_PATTERN_MEMORY: usize = 1 << 20;

pub(super) struct ValueSet {
    pub header: Header,
    /// Whether the clauses are its `compose`, and not what a stored `expansion` lists.
    pub is_composed: bool,
    pub include: Vec<Clause>,
    pub exclude: Vec<Clause>,
    /// `compose.inactive`: false leaves inactive codes out.
    pub inactive: Option<bool>,
    /// Canonicals of the code system supplements that it depends on.
    pub supplements: Vec<Box<str>>,
}

/// One `compose.include` or `compose.exclude`: the codes of `system` that are listed or pass every filter, and are in every value set named.
#[derive(Default)]
pub(super) struct Clause {
    pub system: Option<Arc<str>>,
    pub version: Option<Box<str>>,
    /// Whether it is of a `compose`, and not of a stored `expansion`, which somebody else made of what they have.
    pub is_composed: bool,
    /// `None` when the clause lists no concepts, which means all.
    pub listed: Option<Vec<Listed>>,
    index: HashMap<Arc<str>, usize>,
    /// The same without case, once it is asked for.
    folded: OnceLock<HashMap<String, usize>>,
    pub filters: Vec<Filter>,
    pub value_sets: Vec<Box<str>>,
    /// Of the displays that it lists.
    pub language: Option<Arc<str>>,
}

pub(super) struct Listed {
    pub code: Arc<str>,
    pub display: Option<Arc<str>>,
    pub designations: Vec<Designation>,
}

pub(super) struct Filter {
    pub property: Box<str>,
    /// `op` and `value`, as they are written.
    op: Box<str>,
    value: Box<str>,
    pub test: Test,
}

/// `filter.op` with its value (<https://hl7.org/fhir/R4/valueset-filter-operator.html>).
pub(super) enum Test {
    Equals(Box<str>),
    IsA(Box<str>),
    DescendentOf(Box<str>),
    IsNotA(Box<str>),
    Generalizes(Box<str>),
    Regex(Regex),
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Exists(bool),
    /// Cannot be evaluated, and why.
    Unusable(String),
}

impl Shelved for ValueSet {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl ValueSet {
    /// A value set without `compose` is what its stored `expansion` lists.
    pub fn compile(resource: &Value) -> Option<ValueSet> {
        let compose = resource.get("compose");
        let clauses = |name: &str| compose.map_or_else(Vec::new, |compose| list(compose, name).map(Clause::compile).collect());
        let mut include = clauses("include");
        if let (None, Some(expansion)) = (compose, resource.get("expansion")) {
            include = Clause::from_expansion(expansion);
        }
        let header = Header::read(resource)?;
        include.iter_mut().for_each(|clause| clause.language.clone_from(&header.language));
        Some(ValueSet {
            header,
            is_composed: compose.is_some(),
            include,
            exclude: clauses("exclude"),
            inactive: compose.and_then(|compose| compose.get("inactive")).and_then(Value::as_bool),
            supplements: super::supplement::named_in(resource),
        })
    }

    /// The definition, as far as it was taken in.
    pub fn compose(&self) -> Value {
        let mut compose = Map::new();
        if let Some(inactive) = self.inactive {
            compose.insert("inactive".into(), inactive.into());
        }
        for (key, clauses) in [("include", &self.include), ("exclude", &self.exclude)] {
            if !clauses.is_empty() {
                compose.insert(key.into(), clauses.iter().map(Clause::to_value).collect());
            }
        }
        Value::Object(compose)
    }
}

impl Clause {
    /// The codes of a system that pass every filter.
    pub fn of_system(system: &str, version: Option<&str>, filters: Vec<Filter>) -> Clause {
        Clause { system: Some(system.into()), version: version.map(Box::from), is_composed: true, filters, ..Clause::default() }
    }

    fn compile(source: &Value) -> Clause {
        let listed = source.get("concept").and_then(Value::as_array).map(|list| list.iter().filter_map(Listed::compile).collect());
        let mut clause = Clause {
            system: text(source, "system").map(Arc::from),
            version: text(source, "version").map(Box::from),
            is_composed: true,
            listed,
            index: HashMap::new(),
            folded: OnceLock::new(),
            filters: list(source, "filter").filter_map(Filter::compile).collect(),
            value_sets: list(source, "valueSet").filter_map(Value::as_str).map(Box::from).collect(),
            language: None,
        };
        clause.fill_index();
        clause
    }

    fn to_value(&self) -> Value {
        let mut clause = Map::new();
        for (key, value) in [("system", self.system.as_deref()), ("version", self.version.as_deref())] {
            if let Some(value) = value {
                clause.insert(key.into(), value.into());
            }
        }
        let lists: [(&str, Vec<Value>); 3] = [
            ("concept", self.listed.iter().flatten().map(Listed::to_value).collect()),
            ("filter", self.filters.iter().map(Filter::to_value).collect()),
            ("valueSet", self.value_sets.iter().map(|url| (&**url).into()).collect()),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                clause.insert(key.into(), list.into());
            }
        }
        Value::Object(clause)
    }

    fn from_expansion(expansion: &Value) -> Vec<Clause> {
        let mut clauses: Vec<Clause> = Vec::new();
        let mut waiting: Vec<&Value> = list(expansion, "contains").collect();
        waiting.reverse();
        while let Some(entry) = waiting.pop() {
            let system = text(entry, "system").map(Arc::<str>::from);
            // An abstract entry groups others and is no code to be chosen.
            let is_abstract = entry.get("abstract").and_then(Value::as_bool) == Some(true);
            if let (Some(system), Some(listed), false) = (system, Listed::compile(entry), is_abstract) {
                match clauses.last_mut().filter(|clause| clause.system.as_ref() == Some(&system)) {
                    Some(clause) => clause.listed.get_or_insert_default().push(listed),
                    None => clauses.push(Clause { system: Some(system), listed: Some(vec![listed]), ..Clause::default() }),
                }
            }
            let mut nested: Vec<&Value> = list(entry, "contains").collect();
            nested.reverse();
            waiting.extend(nested);
        }
        clauses.iter_mut().for_each(Clause::fill_index);
        clauses
    }

    fn fill_index(&mut self) {
        self.index = places(self.listed.iter().flatten().map(|listed| listed.code.clone()));
    }

    /// The entry for a code, in any case if the system does not tell case apart.
    pub fn listed_as(&self, code: &str, ignores_case: bool) -> Option<&Listed> {
        let listed = self.listed.as_ref()?;
        let place = match ignores_case {
            true => self.folded.get_or_init(|| places(listed.iter().map(|one| small(&one.code)))).get(&small(code)),
            false => self.index.get(code),
        };
        listed.get(*place?)
    }
}

/// Where each is first.
fn places<C: Eq + Hash>(codes: impl Iterator<Item = C>) -> HashMap<C, usize> {
    let mut places = HashMap::new();
    codes.enumerate().for_each(|(place, code)| _ = places.entry(code).or_insert(place));
    places
}

impl Listed {
    fn compile(source: &Value) -> Option<Listed> {
        Some(Listed {
            code: text(source, "code")?.into(),
            display: text(source, "display").map(Arc::from),
            designations: Designation::read_all(source),
        })
    }

    fn to_value(&self) -> Value {
        let mut concept = Map::new();
        concept.insert("code".into(), (&*self.code).into());
        if let Some(display) = &self.display {
            concept.insert("display".into(), (&**display).into());
        }
        if !self.designations.is_empty() {
            concept.insert("designation".into(), self.designations.iter().map(Designation::to_value).collect());
        }
        Value::Object(concept)
    }
}

impl Filter {
    /// A code and everything below it.
    pub fn is_a(code: &str) -> Filter {
        Filter { property: "concept".into(), op: "is-a".into(), value: code.into(), test: Test::IsA(code.into()) }
    }

    fn to_value(&self) -> Value {
        json!({ "property": self.property, "op": self.op, "value": self.value })
    }

    fn compile(source: &Value) -> Option<Filter> {
        let value = source.get("value").and_then(Value::as_str).unwrap_or_default();
        let words = || value.split(',').map(|word| word.trim().into()).collect();
        let test = match text(source, "op").unwrap_or_default() {
            "=" => Test::Equals(value.into()),
            "is-a" => Test::IsA(value.into()),
            "descendent-of" => Test::DescendentOf(value.into()),
            "is-not-a" => Test::IsNotA(value.into()),
            "generalizes" => Test::Generalizes(value.into()),
            "in" => Test::In(words()),
            "not-in" => Test::NotIn(words()),
            "exists" => Test::Exists(value == "true"),
            "regex" if value.len() > MAX_PATTERN => Test::Unusable(format!("the pattern is longer than {MAX_PATTERN} bytes")),
            "regex" => match RegexBuilder::new(&format!("^(?:{value})$")).size_limit(MAX_PATTERN_MEMORY).build() {
                Ok(regex) => Test::Regex(regex),
                Err(_) => Test::Unusable("the pattern is not a regular expression, or too large a one".to_owned()),
            },
            _ => Test::Unusable("its op is not one of =, is-a, descendent-of, is-not-a, generalizes, regex, in, not-in, exists".to_owned()),
        };
        let op = text(source, "op").unwrap_or_default().into();
        Some(Filter { property: text(source, "property")?.into(), op, value: value.into(), test })
    }
}

fn list<'a>(owner: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    owner.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(owner: &'a Value, name: &str) -> Option<&'a str> {
    owner.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
