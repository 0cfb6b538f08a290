//! The medicines that a resource names, wherever in it: a prescription by `medicationReference`, a care plan by `productReference`, a medicine its
//! ingredients, an extension whatever it likes. With them it takes what they tell (`store::inherit`). No search asks for these entries.
//!
//! An identifier counts beside an id too: who sends it knows ids of their own. Where an element can name no medicine it is none's, unless `type` says
//! so: otherwise whoever sends a medicine with the number of a visit or of an insurer would label what names these.

use super::about::is_staffs;
use super::references::{self, At};
use super::{Options, is_about_nobody, values};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::type_said;
use crate::store::index::{MEDICINE, MEDICINE_CALLED};
use crate::store::{IndexEntry, IndexValue, TypeCode};
use serde_json::Value;
use std::sync::LazyLock;

/// What a prescription names, and what that is made of.
pub const TYPES: [&str; 2] = ["Medication", "Substance"];

static CODES: LazyLock<Vec<TypeCode>> = LazyLock::new(|| TYPES.iter().filter_map(|name| definitions::r4().type_code(name)).collect());

/// A medicine, or what may be one, as a Reference names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'r> {
    /// Type and id at the base.
    pub id: Option<(&'r str, &'r str)>,
    /// System (empty: none) and value of an identifier.
    pub called: Option<(&'r str, &'r str)>,
    /// It is a medicine that stands elsewhere, as far as can be told: the Reference says so, or its element is for medicines and it says nothing else.
    pub is_one: bool,
}

/// Adds an entry for each that `references`, those of what [`takes_labels`], name by id, and for each identifier that may be one's.
pub(super) fn extract(references: &[At<'_>], options: &Options, entries: &mut Vec<IndexEntry>) {
    let mut found = Vec::new();
    for Named { id, called, .. } in named_by(references, options) {
        let by_id = id.map(|(type_name, id)| IndexValue::Reference { type_name: type_name.into(), id: id.into() });
        let by_identifier = called.and_then(|(system, value)| values::token(Some(system), Some(value)));
        found.extend(by_id.map(|value| IndexEntry { param: MEDICINE, value }));
        found.extend(by_identifier.map(|value| IndexEntry { param: MEDICINE_CALLED, value }));
    }
    found.sort_unstable_by(|a: &IndexEntry, b| a.param.cmp(&b.param).then_with(|| super::order(&a.value, &b.value)));
    found.dedup();
    entries.extend(found);
}

/// The medicines that a resource names, as often as it does.
pub fn named<'r>(resource: &'r Value, options: &Options) -> Vec<Named<'r>> {
    if takes_labels(resource) { named_by(&references::all(resource), options).collect() } else { Vec::new() }
}

fn named_by<'r>(references: &[At<'r>], options: &Options) -> impl Iterator<Item = Named<'r>> {
    references.iter().filter_map(|(reference, targets)| name(reference, targets, options))
}

/// Whether it takes labels from what it names: what is about patients, and medicines from what they are made of.
pub fn takes_labels(resource: &Value) -> bool {
    let type_name = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    let takes_nothing = matches!(type_name, "AuditEvent" | "Binary" | "Bundle" | "Consent" | "Parameters" | "Patient");
    !takes_nothing && (TYPES.contains(&type_name) || !is_about_nobody(type_name))
}

/// What a Reference in an element for these types names; nothing if that is no medicine.
fn name<'r>(reference: &'r Value, targets: &[TypeCode], options: &Options) -> Option<Named<'r>> {
    let text = |key: &str| reference.get(key).and_then(Value::as_str);
    let to = text("reference");
    let (mut id, mut by_reference, mut is_elsewhere) = (None, None, to.is_some());
    match to.and_then(|text| values::parse_reference(text, &options.base)) {
        Some(Reference::Local { type_name, id: own, .. }) => {
            id = TYPES.contains(&type_name).then_some((type_name, own));
            by_reference = Some(type_name);
        }
        Some(Reference::Conditional { type_name, .. }) => by_reference = Some(type_name),
        Some(Reference::Absolute(url)) => {
            let mut parts = url.split(['/', '?', '#', '|']).rev();
            by_reference = parts.find(|part| definitions::r4().type_code(part).is_some());
        }
        Some(Reference::Contained(_)) => is_elsewhere = false,
        Some(Reference::Urn(_)) | None => {}
    }
    let said = [by_reference, text("type").map(type_said)];
    let mut said = said.iter().flatten().peekable();
    let says_nothing = said.peek().is_none();
    let says_so = said.any(|name| TYPES.contains(name));
    let is_for_them = says_nothing && targets.iter().any(|code| CODES.contains(code));
    let may_be = says_so || is_for_them || says_nothing && targets.is_empty();
    let part = |key: &str| reference.get("identifier")?.get(key)?.as_str().filter(|text| !text.is_empty());
    let is_called = may_be && (says_so || !is_staffs(reference, options));
    let called = part("value").filter(|_| is_called).map(|value| (part("system").unwrap_or_default(), value));
    let is_one = (says_so || is_for_them && is_called) && (is_elsewhere || called.is_some());
    (id.is_some() || called.is_some() || is_one).then_some(Named { id, called, is_one })
}
