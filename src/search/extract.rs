//! From a resource to the entries of its indexes (<https://hl7.org/fhir/R4/search.html>).
//!
//! Every search parameter of every type is compiled once. Nearly all only walk keys, choose among the types of a choice
//! and filter by one code or by the type of a reference; these are joined into one trie per type, so that one pass over
//! the resource serves them all and prefixes are walked once. The few others are evaluated by [`crate::fhirpath`].

mod about;
pub mod contained;
mod medicines;
pub mod people;
mod plan;
mod references;
pub(super) mod values;
mod visits;
pub(super) mod words;

#[cfg(test)]
mod tests;

pub use about::{BROKEN_GLASS, GLASS_REVIEW, NOTICE, about, about_one, is_about_nobody, is_staffs, tells_of_broken_glass};
pub use medicines::{Named as NamedMedicine, TYPES as MEDICINES, named as named_medicines, takes_labels};
pub use references::references;
pub use visits::names_untold;

use super::media_type;
use super::own::{Own, OwnParam, OwnParams};
use crate::definitions::{self, ParamKind, SearchParam};
use crate::fhir::Reference;
use crate::fhirpath::{Env, Expression, KeyPath, Node};
use crate::store::index::UNFIT;
use crate::store::{Facet, Folding, IndexEntry, IndexValue, ParamId, TypeCode};
use jiff::tz::TimeZone;
use plan::{Composite, Emit, General, Part, Plan, Target};
use serde_json::Value;
use std::cmp::Ordering;
use std::sync::{LazyLock, OnceLock};
use values::Shape;

/// What extraction must know of the deployment.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's own base URL without a trailing slash: references under it are local. Empty: none is.
    pub base: String,
    /// Where dates without a zone are read.
    pub zone: TimeZone,
    /// The operator's own search parameters.
    pub own: OwnParams,
    /// Whether the words of narratives and contents are indexed, for `_text` and `_content`.
    pub full_text: bool,
    /// The identifier systems of facilities and practitioners: they name no patient and no medicine.
    pub staff: Vec<Box<str>>,
    /// Those of people: each means the same person wherever it stands.
    pub people: Vec<Box<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            base: String::new(),
            zone: TimeZone::UTC,
            own: OwnParams::default(),
            full_text: false,
            staff: Vec::new(),
            people: Vec::new(),
        }
    }
}

/// Combinations of component values that one composite parameter may have in one resource.
const MAX_COMBINATIONS: usize = 128;

/// Every value of every search parameter, sorted by parameter, each once; then which medicines ([`medicines`]) and visits ([`visits`]) it names, and the values of contained resources ([`contained`]). `_id` and `_lastUpdated` are no entries (the
/// store has them as columns), nor are parameters that no element holds (`_text`, `near`).
pub fn extract(type_code: TypeCode, resource: &Value, options: &Options) -> Vec<IndexEntry> {
    let Some(plan) = plan_of(type_code) else { return Vec::new() };
    let mut entries = extract_by(plan, resource, resource, options);
    let own = options.own.load();
    own.of(type_code).iter().for_each(|own| evaluate_own(own, resource, &Env::default(), options, &mut entries));
    if !own.of(type_code).is_empty() {
        sort(&mut entries);
    }
    if takes_labels(resource) {
        let references = references::all(resource);
        medicines::extract(&references, options, &mut entries);
        visits::extract(&references, options, &mut entries);
    }
    contained::extract(resource, options, &mut entries);
    entries
}

/// The numbers that [`extract`] may give for one parameter, its further indexes among them.
pub fn is_of(entry: &IndexEntry, param: ParamId) -> bool {
    entry.param & 0xff_ffff == param
}

fn plan_of(type_code: TypeCode) -> Option<&'static Plan> {
    static PLANS: LazyLock<Vec<OnceLock<Plan>>> =
        LazyLock::new(|| definitions::r4().resource_types().iter().map(|_| OnceLock::new()).collect());
    Some(PLANS.get(usize::from(type_code))?.get_or_init(|| Plan::compile(type_code, true)))
}

/// The numbers under which the further indexes of a parameter are kept ([`Facet::of`] makes them the facet's).
pub(in crate::search) fn facet_places(type_code: TypeCode, param: ParamId) -> Vec<ParamId> {
    plan_of(type_code).and_then(|plan| plan.facets.get(&param).cloned()).unwrap_or_else(|| vec![param])
}

/// The numbers under which the identifiers are kept by which a reference parameter names its targets.
pub fn identifier_places(type_code: TypeCode, param: ParamId) -> Vec<ParamId> {
    facet_places(type_code, param).into_iter().map(|place| Facet::Identifier.of(place)).collect()
}

/// How spellings of a token parameter's values that mean the same are told to be so, if there are such ([`Facet::Caseless`]).
pub(super) fn folding(type_code: TypeCode, param: &SearchParam) -> Option<Folding> {
    match definitions::r4().param_by_id(param.id) {
        Some(_) => plan_of(type_code)?.folding.get(&param.id).copied(),
        // An own parameter is in no plan.
        None => own_folding(type_code, param),
    }
}

/// The same for an own parameter; none where its expression is more than a walk.
pub(super) fn own_folding(type_code: TypeCode, param: &SearchParam) -> Option<Folding> {
    if param.kind != ParamKind::Token {
        return None;
    }
    if media_type::is_of(param) {
        return Some(Folding::MediaType);
    }
    let paths = Expression::parse(&param.expression).ok()?.key_paths(definitions::r4().type_name(type_code))?;
    let is_caseless = |path: &KeyPath| matches!(Shape::of(path.type_name), Shape::Text | Shape::ContactPoint);
    paths.iter().any(is_caseless).then_some(Folding::Case)
}

/// By what a reference parameter names its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// References.
    Places,
    /// Canonicals.
    Urls,
    Both,
}

/// By what `param` of a type names its targets.
pub(super) fn names(type_code: TypeCode, param: &SearchParam) -> Names {
    let known = plan_of(type_code).and_then(|plan| plan.names.get(&param.id)).copied();
    // An own parameter is in no plan.
    known.unwrap_or_else(|| {
        let type_name = definitions::r4().type_name(type_code);
        Expression::parse(&param.expression).map_or(Names::Both, |expression| plan::names(&expression, type_name))
    })
}

/// The canonicals by which a resource names others in `param`, R4's or own.
pub(super) fn canonicals(type_code: TypeCode, resource: &Value, param: ParamId, own: &Own) -> Vec<Box<str>> {
    let options = Options::default();
    let mut entries = match own.of(type_code).iter().find(|own| own.param.id == param) {
        Some(own) => {
            let general = General { param, kind: own.param.kind, expression: own.expression.clone(), parts: Vec::new() };
            let mut entries = Vec::new();
            evaluate(&general, resource, &Env::default(), &options, &mut entries);
            entries
        }
        None => plan_of(type_code).map(|plan| extract_by(plan, resource, resource, &options)).unwrap_or_default(),
    };
    entries.retain(|entry| entry.param == param);
    let texts = entries.into_iter().filter_map(|entry| if let IndexValue::Uri(text) = entry.value { Some(text) } else { None });
    texts.collect()
}

/// What the references of an R4 parameter name, each with its version if it names one.
pub(super) fn versioned(type_code: TypeCode, resource: &Value, param: ParamId) -> Vec<(TypeCode, Box<str>, Option<i64>)> {
    let mut found = Vec::new();
    let Some(plan) = plan_of(type_code) else { return found };
    plan.trie.walk(resource, resource, &mut |emit: &Emit, value| {
        let is_reference = matches!(emit.target, Target::Value(_, Shape::Reference)) && emit.param == param;
        let text = value.get("reference").and_then(Value::as_str).filter(|_| is_reference);
        if let Some(Reference::Local { type_name, id, version }) = text.and_then(Reference::parse)
            && let Some(target) = definitions::r4().type_code(type_name)
        {
            found.push((target, id.into(), version.and_then(|version| version.parse().ok())));
        }
    });
    found
}

/// `container`: what contains the resource, or itself.
fn extract_by(plan: &Plan, resource: &Value, container: &Value, options: &Options) -> Vec<IndexEntry> {
    let mut entries = Vec::with_capacity(32);
    plan.trie.walk(resource, container, &mut |emit: &Emit, value| match &emit.target {
        Target::Value(kind, shape) => values::read(*kind, *shape, value, options, &mut |facet, value| {
            if facet == Facet::Value || emit.facets {
                entries.push(IndexEntry { param: facet.of(emit.param), value });
            }
        }),
        Target::Composite(composite) => combine(emit.param, composite, value, resource, options, &mut entries),
    });
    if !plan.general.is_empty() {
        let env = Env::default().with_root_resource(container);
        for general in &plan.general {
            evaluate(general, resource, &env, options, &mut entries);
        }
    }
    if let Some((param, value)) = plan.near.zip(resource.get("position").and_then(values::position)) {
        entries.push(IndexEntry { param, value });
    }
    if let (true, Some((text, content))) = (options.full_text, plan.words) {
        words::extract(text, content, resource, &mut entries);
    }
    for (param, _) in plan.folding.iter().filter(|(_, folding)| **folding == Folding::MediaType) {
        media_type::index(*param, &mut entries);
    }
    sort(&mut entries);
    limit_composites(&mut entries);
    entries
}

fn sort(entries: &mut Vec<IndexEntry>) {
    entries.sort_unstable_by(|a, b| a.param.cmp(&b.param).then_with(|| order(&a.value, &b.value)));
    entries.dedup();
}

/// Pairs up the values of a composite's parts, all found below `base` (or from the resource).
fn combine(param: ParamId, composite: &Composite, base: &Value, resource: &Value, options: &Options, entries: &mut Vec<IndexEntry>) {
    // The last part is the rarest (a value of one type), so it goes first.
    let mut values: Vec<Vec<IndexValue>> = Vec::with_capacity(composite.parts.len());
    for part in composite.parts.iter().rev() {
        let found = part_values(part, base, resource, options);
        if found.is_empty() {
            return;
        }
        values.push(found);
    }
    values.reverse();
    push_product(param, &values, entries);
}

fn part_values(part: &Part, base: &Value, resource: &Value, options: &Options) -> Vec<IndexValue> {
    let mut found = Vec::new();
    part.paths.walk(if part.from_resource { resource } else { base }, resource, &mut |shape: &Shape, value| {
        values::read(part.kind, *shape, value, options, &mut |facet, value| push_part(&mut found, facet, value));
    });
    found
}

/// A component's value. What it is in base units goes with it. A quantity whose unit has other words than its code is there a second time, by
/// those: a component has one column for both.
fn push_part(found: &mut Vec<IndexValue>, facet: Facet, value: IndexValue) {
    match (facet, value) {
        (Facet::Value, value) => {
            if let IndexValue::Quantity { value: number, code: Some(code), unit: Some(unit), .. } = &value
                && code != unit
            {
                found.push(IndexValue::Quantity { value: *number, system: None, code: Some(unit.clone()), unit: None, amount: None });
            }
            found.push(value);
        }
        (Facet::Amount, IndexValue::Quantity { value, code: Some(dimension), .. }) => {
            let words = match found.last() {
                Some(IndexValue::Quantity { code: Some(code), unit: Some(unit), .. }) if code != unit => 2,
                _ => 1,
            };
            for known in found.iter_mut().rev().take(words) {
                if let IndexValue::Quantity { amount, .. } = known {
                    *amount = Some(Box::new((dimension.clone(), value)));
                }
            }
        }
        _ => {}
    }
}

fn push_product(param: ParamId, values: &[Vec<IndexValue>], entries: &mut Vec<IndexEntry>) {
    let mut rows: Vec<Vec<IndexValue>> = vec![Vec::with_capacity(values.len())];
    for list in values {
        let longer = rows.iter().flat_map(|row| list.iter().map(|value| row.iter().chain([value]).cloned().collect()));
        rows = longer.take(MAX_COMBINATIONS).collect();
    }
    entries.extend(rows.into_iter().map(|row| IndexEntry { param, value: IndexValue::Composite(row) }));
}

/// The values of an own parameter.
fn evaluate_own<'a>(own: &OwnParam, resource: &'a Value, env: &Env<'a>, options: &Options, entries: &mut Vec<IndexEntry>) {
    let general = General { param: own.param.id, kind: own.param.kind, expression: own.expression.clone(), parts: own.parts.clone() };
    if evaluate(&general, resource, env, options, entries).is_none() {
        own.fails();
        let value = IndexValue::Token { system: None, code: UNFIT.into() };
        entries.push(IndexEntry { param: Facet::Unfit.of(own.param.id), value });
    }
    if own.folding == Some(Folding::MediaType) {
        media_type::index(own.param.id, entries);
    }
}

/// Evaluates what is more than a walk. A resource on which the expression has no meaning has no such entry; `None` says so.
fn evaluate<'a>(general: &General, resource: &'a Value, env: &Env<'a>, options: &Options, entries: &mut Vec<IndexEntry>) -> Option<()> {
    let nodes = general.expression.evaluate(resource, env).ok()?;
    let mut fits = true;
    for node in nodes {
        if general.parts.is_empty() {
            let mut push = |facet: Facet, value| entries.push(IndexEntry { param: facet.of(general.param), value });
            values::read(general.kind, Shape::of(node.type_name()), &node.as_json(), options, &mut push);
            continue;
        }
        let env = env.clone().with_resource(resource);
        let values: Vec<Vec<IndexValue>> = general
            .parts
            .iter()
            .map(|(kind, expression)| {
                let mut found = Vec::new();
                let nodes = expression.evaluate_on(node.clone(), &env);
                fits &= nodes.is_ok();
                for node in nodes.unwrap_or_default() {
                    let node: Node = node;
                    values::read(*kind, Shape::of(node.type_name()), &node.as_json(), options, &mut |facet, value| {
                        push_part(&mut found, facet, value)
                    });
                }
                found
            })
            .collect();
        push_product(general.param, &values, entries);
    }
    fits.then_some(())
}

fn limit_composites(entries: &mut Vec<IndexEntry>) {
    let mut run = (ParamId::MAX, 0);
    entries.retain(|entry| {
        if !matches!(entry.value, IndexValue::Composite(_)) {
            return true;
        }
        run = if run.0 == entry.param { (run.0, run.1 + 1) } else { (entry.param, 1) };
        run.1 <= MAX_COMBINATIONS
    });
}

/// Any total order will do: it brings equal values together.
fn order(a: &IndexValue, b: &IndexValue) -> Ordering {
    use IndexValue::*;
    fn place(value: &IndexValue) -> u8 {
        match value {
            Token { .. } => 0,
            String { .. } => 1,
            IndexValue::Reference { .. } => 2,
            Uri(_) => 3,
            Date(_) => 4,
            Number(_) => 5,
            Quantity { .. } => 6,
            Composite(_) => 7,
            Text(_) => 8,
            Within { .. } => 9,
            Far { .. } => 10,
        }
    }
    match (a, b) {
        (Token { system: s, code: c }, Token { system: t, code: d }) => c.cmp(d).then_with(|| s.cmp(t)),
        (String { text: s }, String { text: t }) => s.cmp(t),
        (IndexValue::Reference { type_name: t, id: i }, IndexValue::Reference { type_name: u, id: j }) => i.cmp(j).then_with(|| t.cmp(u)),
        (Uri(s), Uri(t)) | (Text(s), Text(t)) => s.cmp(t),
        (Within { id: s, .. }, Within { id: t, .. }) => s.cmp(t),
        (Date(i), Date(j)) => i.cmp(j),
        (Number(x), Number(y)) => x.total_cmp(y),
        // What it is in base units follows from the rest.
        (Quantity { value: x, system: s, code: c, unit: u, .. }, Quantity { value: y, system: t, code: d, unit: v, .. }) => {
            x.total_cmp(y).then_with(|| (s, c, u).cmp(&(t, d, v)))
        }
        (Composite(v), Composite(w)) => {
            let pairs = v.iter().zip(w).map(|(a, b)| order(a, b));
            pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| v.len().cmp(&w.len()))
        }
        _ => place(a).cmp(&place(b)),
    }
}
