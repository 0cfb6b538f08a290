//! Search parameters of the operator's own: `PUT SearchParameter` (<https://hl7.org/fhir/R4/searchparameter.html>).
//!
//! A definition is read and checked when it is written ([`Definition::read`]); [`refresh`] gives each definition that is stored a
//! number and puts all of them into memory, where writing indexes by them at once. What was stored before is indexed by a job
//! ([`crate::app`]), and only when that is done may a search name the parameter: until then it would find too little. A changed definition
//! is another number, so it begins anew. The parameters of R4 are not changed by resources that define them again.

use super::extract::own_folding;
use super::extract::values::Shape;
use super::media_type;
use crate::definitions::{self, Component, ParamKind, SearchParam};
use crate::fhir::{Issue, IssueCode};
use crate::fhirpath::Expression;
use crate::store::index::UNFIT;
use crate::store::query::{SystemTest, Test};
use crate::store::{Facet, Filter, Folding, Query, Scope, Store, TypeCode};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Own search parameters at most; a type has at most so many too.
const MOST: usize = 500;
/// Types that one definition may name.
const MOST_TYPES: usize = 20;
/// Components of a composite.
const MOST_COMPONENTS: usize = 3;
/// Bytes of an expression.
const MOST_EXPRESSION: usize = 4_096;

/// The own parameters of this deployment, shared by all that read and write. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct OwnParams(Arc<ArcSwap<Own>>);

/// One consistent set of them.
#[derive(Debug, Default)]
pub struct Own {
    by_type: HashMap<TypeCode, Vec<OwnParam>>,
}

/// One own parameter of one type.
#[derive(Clone, Debug)]
pub struct OwnParam {
    pub param: SearchParam,
    /// Everything stored is indexed by it.
    pub ready: bool,
    pub(super) expression: Expression,
    /// How spellings of its values that mean the same are told to be so.
    pub(super) folding: Option<Folding>,
    /// Of a composite: the parts of what the expression finds.
    pub(super) parts: Vec<(ParamKind, Expression)>,
    /// Whether the log says already that its expression fails on something.
    told: Arc<AtomicBool>,
    /// The id of its SearchParameter.
    defined_by: String,
}

impl OwnParam {
    /// Tells the operator once.
    pub(super) fn fails(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let words = "the expression of an own search parameter fails on a resource, which it does not find; conditional requests by it are refused to whoever sees that";
            tracing::warn!(code = %self.param.code, search_parameter = %self.defined_by, "{words}");
        }
    }
}

impl OwnParams {
    pub fn load(&self) -> Arc<Own> {
        self.0.load_full()
    }
}

impl Own {
    /// All of a type, ready or not.
    pub fn of(&self, type_code: TypeCode) -> &[OwnParam] {
        self.by_type.get(&type_code).map_or(&[], Vec::as_slice)
    }

    /// Those of a type that a search may name.
    pub fn ready(&self, type_code: TypeCode) -> impl Iterator<Item = &OwnParam> {
        self.of(type_code).iter().filter(|own| own.ready)
    }

    /// The one with this name, ready or not.
    pub fn find(&self, type_code: TypeCode, code: &str) -> Option<&OwnParam> {
        self.of(type_code).iter().find(|own| own.param.code == code)
    }
}

impl Own {
    /// A type for which another SearchParameter defines the same code.
    pub fn taken(&self, definition: &Definition) -> Option<TypeCode> {
        let is_other = |own: &OwnParam| own.param.code == definition.code && own.defined_by != definition.id;
        let taken = |type_code: &&TypeCode| self.of(**type_code).iter().any(is_other);
        definition.types.iter().find(taken).copied()
    }
}

/// What a SearchParameter resource says, as far as searching needs it.
#[derive(Clone, Debug)]
pub struct Definition {
    id: String,
    url: Option<String>,
    code: String,
    kind: ParamKind,
    types: Vec<TypeCode>,
    targets: Vec<TypeCode>,
    expression: Expression,
    /// The same as it is written.
    text: String,
    components: Vec<(Component, Expression)>,
    digest: String,
}

/// Why a definition cannot be used, and the element that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct DefinitionError {
    pub words: String,
    pub element: &'static str,
    pub code: IssueCode,
}

fn wrong(element: &'static str, words: impl Into<String>) -> DefinitionError {
    DefinitionError { words: words.into(), element, code: IssueCode::NotSupported }
}

impl Definition {
    pub fn code(&self) -> &str {
        &self.code
    }

    /// A type for which both define the same code.
    pub fn shares_code(&self, other: &Definition) -> Option<TypeCode> {
        let both = |type_code: &&TypeCode| self.code == other.code && other.types.contains(type_code);
        self.types.iter().find(both).copied()
    }

    /// The same for a definition that is about to be stored: one that could never find anything is refused. Those that are stored already go on.
    pub fn written(resource: &Value) -> Result<Option<Definition>, DefinitionError> {
        let definition = Definition::read(resource)?;
        if let Some(definition) = &definition {
            definition.finds()?;
        }
        Ok(definition)
    }

    /// That the expression leads, on each of the types, to something that this kind of parameter finds values in.
    fn finds(&self) -> Result<(), DefinitionError> {
        let r4 = definitions::r4();
        // Parameters are written for many types and taken over for some of them.
        let others: Vec<&str> = r4.resource_types().to_vec();
        let mut elsewhere = true;
        for base in self.types.iter().map(|type_code| r4.type_name(*type_code)) {
            let never = |words: String| wrong("expression", format!("it never finds anything on {base}: {words}"));
            let types = self.expression.finds(base, &others).map_err(never)?;
            elsewhere &= types.as_ref().is_some_and(Vec::is_empty);
            let types = types.unwrap_or_default();
            if !types.is_empty() && !types.iter().any(|name| Shape::of(name).holds(self.kind)) {
                let (kind, types) = (self.kind.as_str(), types.join(" or "));
                return Err(never(format!("a parameter of type {kind} has no values in {types}")));
            }
        }
        match elsewhere {
            true => Err(wrong("expression", "it never finds anything: its paths start at other types than base names")),
            false => Ok(()),
        }
    }

    /// `None` for a definition that is not to be searched by: not active, or one of R4's own.
    pub fn read(resource: &Value) -> Result<Option<Definition>, DefinitionError> {
        let text = |key: &str| resource.get(key).and_then(Value::as_str);
        let names = |key: &str| resource.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let (Some(id), Some(code)) = (text("id"), text("code")) else { return Ok(None) };
        if text("status") != Some("active") {
            return Ok(None);
        }
        let r4 = definitions::r4();
        let mut types = Vec::new();
        for name in names("base") {
            let words = || format!("'{}' is no concrete resource type; name the types that it is for", super::filter::shown(name));
            types.push(r4.type_code(name).ok_or_else(|| wrong("base", words()))?);
        }
        if types.is_empty() || types.len() > MOST_TYPES {
            return Err(wrong("base", format!("a search parameter names one to {MOST_TYPES} types here")));
        }
        if text("url").is_some_and(|url| url.starts_with("http://hl7.org/fhir/SearchParameter/")) {
            return Ok(None);
        }
        if let Some(taken) = types.iter().find(|type_code| r4.param(**type_code, code).is_some()) {
            let name = r4.type_name(*taken);
            return Err(wrong("code", format!("{name} has a search parameter of this name in R4; choose another code")));
        }
        if code.is_empty() || !code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) || code.starts_with('_') {
            return Err(wrong("code", "a code is made of letters, digits, - and _, and does not begin with _"));
        }
        let kind = text("type").and_then(ParamKind::parse).ok_or_else(|| wrong("type", "this is no type of search parameter"))?;
        if kind == ParamKind::Special {
            return Err(wrong("type", "special parameters of one's own are not supported by this server"));
        }
        let (expression, parsed) = expression_of(resource, "expression")?;
        let components = if kind == ParamKind::Composite { components(resource, &types)? } else { Vec::new() };
        let mut targets: Vec<TypeCode> = names("target").filter_map(|name| r4.type_code(name)).collect();
        if kind == ParamKind::Reference && targets.is_empty() {
            targets = (0..).take(r4.resource_types().len()).collect();
        }
        targets.sort_unstable();
        let mut what = format!("{code}\n{}\n{types:?}\n{expression}", kind.as_str());
        for (component, _) in &components {
            what.push_str(&format!("\n{}\n{}", component.code, component.expression));
        }
        // Those of before did not index media types in their one form.
        if media_type::is_among(expression) {
            what.push_str("\nmedia types");
        }
        let digest = blake3::hash(what.as_bytes()).to_hex().get(..32).unwrap_or_default().to_owned();
        let url = text("url").map(str::to_owned);
        let (id, code, text) = (id.to_owned(), code.to_owned(), expression.to_owned());
        Ok(Some(Definition { id, url, code, kind, types, targets, expression: parsed, text, components, digest }))
    }
}

/// The expression of the parameter or of a component.
fn expression_of<'r>(owner: &'r Value, element: &'static str) -> Result<(&'r str, Expression), DefinitionError> {
    let text = owner.get("expression").and_then(Value::as_str).filter(|text| text.len() <= MOST_EXPRESSION);
    let text = text.ok_or_else(|| wrong(element, "a FHIRPath expression of at most 4096 bytes is needed"))?;
    let parsed = Expression::parse(text).map_err(|error| wrong(element, format!("the expression cannot be read: {error}")))?;
    Ok((text, parsed))
}

/// The parts of a composite. Each is of the kind of the R4 parameter that it names, and takes values as that one does.
fn components(resource: &Value, types: &[TypeCode]) -> Result<Vec<(Component, Expression)>, DefinitionError> {
    let list = resource.get("component").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !(2..=MOST_COMPONENTS).contains(&list.len()) {
        return Err(wrong("component", format!("a composite has two or {MOST_COMPONENTS} components here")));
    }
    let each = |component: &Value| {
        let url = component.get("definition").and_then(Value::as_str).unwrap_or_default();
        let known = types.iter().flat_map(|type_code| definitions::r4().params(*type_code)).find(|param| param.definition == url);
        let known = known.filter(|param| !matches!(param.kind, ParamKind::Composite | ParamKind::Special));
        let words = "a component names a plain search parameter that R4 has for the type, by its canonical URL";
        let known = known.filter(|_| !url.is_empty()).ok_or_else(|| wrong("component", words))?;
        let (text, parsed) = expression_of(component, "component")?;
        Ok((Component { code: known.code.clone(), kind: known.kind, expression: text.to_owned() }, parsed))
    };
    list.iter().map(each).collect()
}

/// A definition whose resources are still to be indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unindexed {
    pub number: u16,
    pub types: Vec<TypeCode>,
}

/// Reads the stored definitions, gives new ones a number, and lets `own` have them. Answers those that are not ready.
pub async fn refresh(store: &Store, own: &OwnParams) -> Result<Vec<Unindexed>, sqlx::Error> {
    let Some(type_code) = definitions::r4().type_code("SearchParameter") else { return Ok(Vec::new()) };
    let query = Query { type_code, filters: Vec::new(), scope: Scope::All, sort: Vec::new() };
    let page = store.search(&query, MOST as u32, None).await?;
    let bodies = page.rows.iter().filter_map(|row| serde_json::from_slice::<Value>(row.body.as_ref()?).ok());
    let definitions: Vec<Definition> = bodies.filter_map(|resource| Definition::read(&resource).ok().flatten()).collect();
    if definitions.is_empty() && own.load().by_type.is_empty() {
        return Ok(Vec::new());
    }
    let mut numbered = store.numbered_parameters().await?;
    let is = |known: &crate::store::NumberedParameter, own: &Definition| known.id == own.id && known.digest == own.digest;
    let mut new = false;
    for definition in &definitions {
        if !numbered.iter().any(|known| is(known, definition)) {
            store.number_parameter(&definition.id, &definition.digest).await?;
            new = true;
        }
    }
    if new {
        numbered = store.numbered_parameters().await?;
    }
    let mut next = Own::default();
    let mut unindexed = Vec::new();
    for definition in definitions {
        let Some(number) = numbered.iter().find(|known| is(known, &definition)) else { continue };
        for type_code in &definition.types {
            let param = SearchParam {
                id: definitions::param_id(*type_code, number.number),
                code: definition.code.clone(),
                kind: definition.kind,
                definition: definition.url.clone().unwrap_or_default(),
                expression: definition.text.clone(),
                targets: definition.targets.clone(),
                components: definition.components.iter().map(|(component, _)| component.clone()).collect(),
            };
            let expression = definition.expression.clone();
            let parts = definition.components.iter().map(|(component, parsed)| (component.kind, parsed.clone())).collect();
            let folding = own_folding(*type_code, &param);
            let before = own.load();
            let before = before.of(*type_code).iter().find(|before| before.param.id == param.id);
            let told = before.map(|before| Arc::clone(&before.told)).unwrap_or_default();
            let own = OwnParam { param, ready: number.ready, expression, folding, parts, told, defined_by: definition.id.clone() };
            next.by_type.entry(*type_code).or_default().push(own);
        }
        if !number.ready {
            unindexed.push(Unindexed { number: number.number, types: definition.types });
        }
    }
    own.0.store(Arc::new(next));
    Ok(unindexed)
}

/// An own parameter that a request names, whose expression may fail on something that the caller sees: what has its value is not known then.
/// Nobody else's resources decide that, nor are told of.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// `Patient.village`.
    pub name: String,
    /// Where the request names it.
    pub at: String,
    /// Finds what the expression fails on.
    pub query: Query,
}

impl Doubt {
    pub(super) fn new(own: &OwnParam, type_code: TypeCode, scope: Scope, at: String) -> Doubt {
        let test = Test::Token { system: SystemTest::Any, code: Some(UNFIT.to_owned()) };
        let filters = vec![Filter::Param { param: Facet::Unfit.of(own.param.id), tests: vec![test] }];
        let name = format!("{}.{}", definitions::r4().type_name(type_code), own.param.code);
        Doubt { name, at, query: Query { type_code, filters, scope, sort: Vec::new() } }
    }

    /// That there is something that the expression fails on.
    pub async fn issue(&self, store: &Store) -> Result<Option<Issue>, sqlx::Error> {
        let fails = !store.matches(&self.query, 1).await?.is_empty();
        let words = || {
            format!(
                "{} is known of a part of the resources only: its expression fails on others, for which it has to be mended.",
                self.name
            )
        };
        Ok(fails.then(|| Issue::error(IssueCode::Incomplete, words()).at(self.at.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_read_or_refused_with_the_element() {
        let good = json!({
            "resourceType": "SearchParameter", "id": "s", "url": "urn:s", "status": "active", "code": "village", "base": ["Patient"],
            "type": "string", "expression": "Patient.address.district"
        });
        assert!(Definition::read(&good).unwrap().is_some());
        let with = |key: &str, value: Value| {
            let mut resource = good.clone();
            resource[key] = value;
            Definition::read(&resource)
        };
        assert!(with("status", json!("draft")).unwrap().is_none());
        assert!(with("url", json!("http://hl7.org/fhir/SearchParameter/x")).unwrap().is_none());
        assert_ne!(
            with("expression", json!("Patient.name.text")).unwrap().unwrap().digest,
            with("code", json!("village")).unwrap().unwrap().digest
        );
        for (key, value) in [
            ("base", json!(["Resource"])),
            ("base", json!([])),
            ("code", json!("family")),
            ("code", json!("a b")),
            ("type", json!("special")),
            ("expression", json!("Patient.(")),
            ("expression", Value::Null),
        ] {
            assert_eq!(with(key, value).unwrap_err().element, key);
        }
    }

    #[test]
    fn a_definition_that_finds_nothing_is_refused_when_it_is_written() {
        let written = |kind: &str, bases: &[&str], expression: &str| {
            let target = json!(["Organization"]);
            let resource = json!({
                "resourceType": "SearchParameter", "id": "s", "url": "urn:s", "status": "active", "code": "own-one", "base": bases,
                "type": kind, "target": target, "expression": expression
            });
            assert!(Definition::read(&resource).unwrap().is_some(), "what is stored goes on: {expression}");
            Definition::written(&resource)
        };
        for (kind, bases, expression) in [
            ("token", &["Patient"][..], "Patient.gendre"),
            ("token", &["Patient"], "Patient.name | Patient.gendre"),
            ("token", &["Patient"], "Observation.code"),
            ("token", &["Patient"], "Patient.contact.where(gendre = 'x').gender"),
            ("date", &["Patient"], "Patient.name"),
            ("quantity", &["Patient"], "Patient.birthDate"),
            ("number", &["Patient"], "Patient.contact"),
            ("reference", &["Patient"], "Patient.maritalStatus"),
            ("string", &["Patient"], "Patient.generalPractitioner.resolve().name"),
        ] {
            let error = written(kind, bases, expression).unwrap_err();
            assert_eq!((error.element, error.words.contains("never finds")), ("expression", true), "{expression}: {error}");
        }
        for (kind, bases, expression) in [
            ("token", &["Patient"][..], "Patient.gender"),
            ("token", &["Patient"], "gender"),
            ("token", &["Patient"], "Resource.language"),
            ("date", &["Observation", "Condition"], "Observation.effective | Condition.recordedDate"),
            ("date", &["Observation", "Condition"], "(Observation.effective | Condition.onset).ofType(Period)"),
            ("date", &["Observation"], "(Observation.value as dateTime)"),
            ("quantity", &["Observation"], "Observation.value.ofType(Quantity)"),
            ("quantity", &["Observation"], "Observation.value"),
            ("string", &["Patient"], "Patient.extension.where(url = 'urn:village').value"),
            ("reference", &["Patient"], "Patient.extension.where(url = 'urn:x').value"),
            ("reference", &["Patient"], "Patient.generalPractitioner.where(resolve() is Organization)"),
            ("number", &["Patient"], "Patient.name.count()"),
            ("token", &["Bundle"], "Bundle.entry.resource.id"),
            ("string", &["Patient"], "Patient.name.family | Practitioner.name.family"),
            ("token", &["Observation"], "AllergyIntolerance.code | (Condition.code) | Observation.code"),
        ] {
            assert!(written(kind, bases, expression).is_ok(), "{expression}");
        }
    }

    #[test]
    fn every_parameter_of_r4_would_be_taken() {
        let r4 = definitions::r4();
        let own = |param: &&SearchParam| !param.expression.is_empty() && param.kind != ParamKind::Special && !param.code.starts_with('_');
        let mut refused = Vec::new();
        for (type_code, name) in (0..).zip(r4.resource_types()) {
            for param in r4.params(type_code).iter().filter(own).filter(|param| param.kind != ParamKind::Composite) {
                let resource = json!({
                    "resourceType": "SearchParameter", "id": "s", "status": "active", "code": format!("own-{}", param.code), "base": [name],
                    "type": param.kind.as_str(), "expression": param.expression
                });
                if let Err(error) = Definition::written(&resource) {
                    refused.push(format!("{name}.{}: {error}", param.code));
                }
            }
        }
        assert_eq!(refused, [""; 0]);
    }

    #[test]
    fn a_composite_is_of_parameters_that_r4_has() {
        let part = |code: &str, expression: &str| json!({ "definition": format!("http://hl7.org/fhir/SearchParameter/{code}"), "expression": expression });
        let composite = |components: Value| {
            Definition::read(&json!({
                "resourceType": "SearchParameter", "id": "s", "status": "active", "code": "use-family", "base": ["Patient"],
                "type": "composite", "expression": "Patient.name", "component": components
            }))
        };
        let family = part("individual-family", "family");
        let good = composite(json!([part("individual-gender", "%resource.gender"), family])).unwrap().unwrap();
        let kinds: Vec<ParamKind> = good.components.iter().map(|(component, _)| component.kind).collect();
        assert_eq!(kinds, [ParamKind::Token, ParamKind::String]);
        let other = composite(json!([part("individual-gender", "%resource.gender"), part("individual-family", "text")])).unwrap().unwrap();
        assert_ne!(good.digest, other.digest);
        for bad in [json!([]), json!([family]), json!([family, part("nosuch", "family")]), json!([family, part("individual-family", "(")])]
        {
            assert_eq!(composite(bad).unwrap_err().element, "component");
        }
    }
}
