//! Whether a resource names, or may name, a person besides the one whose record it is: one rule for what is sent here and for what holders answer.
//!
//! What is told by type to be something else is nobody, and so are a RelatedPerson and a Person in somebody's record: they are part of it. Where nothing
//! tells, it may be anybody: that closes.

use super::about::is_staffs;
use super::references::references;
use super::{Options, values};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::type_said;
use crate::store::TypeCode;
use serde_json::Value;
use std::collections::BTreeSet;

/// System and value of an identifier.
pub type Number = (String, String);

/// Who counts in the record of a Patient.
const PATIENTS: &[&str] = &["Patient"];

/// Who counts in what is open to everybody.
const SOMEBODY: &[&str] = &["Patient", "RelatedPerson", "Person"];

/// The one whose record it is, by all names; of what is nobody's record, no one.
#[derive(Clone, Debug)]
pub struct Oneself {
    types: &'static [&'static str],
    /// Ids of her Patients.
    pub ids: BTreeSet<String>,
    /// Her numbers, and all systems whose numbers are patients'.
    pub numbers: BTreeSet<Number>,
    pub numbered: BTreeSet<String>,
}

impl Oneself {
    pub fn nobody() -> Oneself {
        Oneself { types: SOMEBODY, ids: BTreeSet::new(), numbers: BTreeSet::new(), numbered: BTreeSet::new() }
    }

    pub fn new(ids: BTreeSet<String>, numbers: BTreeSet<Number>, mut numbered: BTreeSet<String>) -> Oneself {
        numbered.extend(numbers.iter().map(|(system, _)| system.clone()));
        Oneself { types: PATIENTS, ids, numbers, numbered }
    }

    /// The Patient of this id, as `resource` calls her: what stands beside a reference to her is her number. `None`: it gives her two numbers of one
    /// system, and so may mean two.
    pub fn named_by(resource: &Value, id: &str, options: &Options) -> Option<Oneself> {
        let mut numbers: BTreeSet<Number> = BTreeSet::new();
        references(resource, &mut |reference, _| {
            let to = reference.get("reference").and_then(Value::as_str).and_then(|text| values::parse_reference(text, &options.base));
            if matches!(to, Some(Reference::Local { type_name: "Patient", id: named, .. }) if named == id) {
                numbers.extend(reference.get("identifier").and_then(number));
            }
        });
        let systems: BTreeSet<&str> = numbers.iter().map(|(system, _)| system.as_str()).collect();
        let is_one = systems.len() == numbers.len();
        // A Patient may have several of one system.
        numbers.extend(numbers_of(resource).filter(|_| is_patient(resource)));
        let numbered = options.people.iter().map(|system| system.to_string()).collect();
        is_one.then(|| Oneself::new(BTreeSet::from([id.to_owned()]), numbers, numbered))
    }

    /// Whether no Reference in the resource, wherever, may name somebody else, and it contains no other Patient. What a Patient is linked to is the same
    /// person, as whoever sends it says.
    pub fn is_alone(&self, resource: &Value, options: &Options) -> bool {
        let contained = resource.get("contained").and_then(Value::as_array).into_iter().flatten();
        let is_hers = |patient: &Value| numbers_of(patient).any(|number| self.numbers.contains(&number));
        let mut is_alone = contained.filter(|one| is_patient(one)).all(is_hers);
        let links: BTreeSet<*const Value> = match resource.get("link").and_then(Value::as_array) {
            Some(links) if is_patient(resource) => links.iter().filter_map(|link| link.get("other")).map(std::ptr::from_ref).collect(),
            _ => BTreeSet::new(),
        };
        references(resource, &mut |reference, targets| {
            is_alone = is_alone && (links.contains(&std::ptr::from_ref(reference)) || !self.may_be_another(reference, targets, options));
        });
        is_alone
    }

    /// Whether a Reference in an element for these types (none: any) may name another.
    fn may_be_another(&self, reference: &Value, targets: &[TypeCode], options: &Options) -> bool {
        let text = |key: &str| reference.get(key).and_then(Value::as_str);
        let counts = |name: &str| self.types.contains(&name);
        let identifier = reference.get("identifier").filter(|identifier| identifier.is_object());
        let said = text("type").map(type_said);
        let says_so = said.is_some_and(|said| self.types.iter().any(|name| name.eq_ignore_ascii_case(said)));
        // Nothing tells of what type it is.
        let untold = || said.is_none() && targets.iter().any(|code| counts(definitions::r4().type_name(*code)));
        let anything = said.is_none() && targets.is_empty();
        let Some(to) = text("reference") else {
            let is_hers = identifier.and_then(number).is_some_and(|one| self.numbers.contains(&one));
            return match identifier {
                _ if is_hers => false,
                _ if says_so => identifier.is_some() || text("display").is_some(),
                None => false,
                Some(_) if is_staffs(reference, options) => false,
                // What identifies staff or an organisation may stand where a Patient may.
                Some(one) => anything || untold() && self.is_anothers(one),
            };
        };
        let parts = |is: &dyn Fn(&str) -> bool| to.split(|c: char| !c.is_ascii_alphanumeric()).any(is);
        match values::parse_reference(to, &options.base) {
            Some(Reference::Local { type_name: "Patient", id, .. }) => {
                !self.ids.contains(id) || identifier.is_some_and(|one| self.is_anothers(one))
            }
            Some(Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. }) => counts(type_name) || says_so,
            // Those that it contains are looked at.
            Some(Reference::Contained(_)) => false,
            Some(Reference::Absolute(_)) => {
                let is_told = || parts(&|part| definitions::r4().type_code(part).is_some());
                parts(&counts) || says_so || !is_told() && (anything || untold())
            }
            Some(Reference::Urn(_)) => says_so || anything || untold(),
            None => {
                let is_one = |part: &str| self.types.iter().any(|name| name.eq_ignore_ascii_case(part));
                parts(&is_one) || says_so || anything || untold()
            }
        }
    }

    /// Whether an identifier is of a system that numbers patients, and none of hers.
    fn is_anothers(&self, identifier: &Value) -> bool {
        number(identifier).is_some_and(|one| self.numbered.contains(&one.0) && !self.numbers.contains(&one))
    }
}

fn is_patient(resource: &Value) -> bool {
    resource.get("resourceType").and_then(Value::as_str) == Some("Patient")
}

fn numbers_of(resource: &Value) -> impl Iterator<Item = Number> {
    resource.get("identifier").and_then(Value::as_array).into_iter().flatten().filter_map(number)
}

fn number(identifier: &Value) -> Option<Number> {
    let text = |key: &str| identifier.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    Some((text("system")?, text("value")?))
}
