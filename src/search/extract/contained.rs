//! What contained resources are found by (<https://hl7.org/fhir/R4/search.html#contained>).
//!
//! Their values are kept with the key of what contains them, which is what is stored, seen and released, under numbers of their own: those
//! of the first resource of a type that a container has are apart from those of the second, so conditions on one contained resource are
//! conditions on one number after the other. A resource that contains nothing has no such entries.

use super::{General, Options, evaluate, extract_by, plan_of, sort};
use crate::definitions;
use crate::fhirpath::Env;
use crate::store::index::{CONTAINED, contained_target, in_contained};
use crate::store::{IndexEntry, IndexValue, TypeCode};
use serde_json::Value;

/// A contained resource that is known by what it holds.
struct Contained<'a> {
    type_code: TypeCode,
    /// Which of those of its type, from 1.
    place: u32,
    id: &'a str,
    resource: &'a Value,
}

/// The contained resource of this type that has this place among those of its type, from 1.
pub fn at(container: &Value, type_code: TypeCode, place: u32) -> Option<&Value> {
    let known = known(container).into_iter();
    known.filter(|one| one.type_code == type_code && one.place == place).map(|one| one.resource).next()
}

/// Adds the entries of what `container` contains to its own, and settles where references into it lead.
pub(super) fn extract(container: &Value, options: &Options, entries: &mut Vec<IndexEntry>) {
    let known = known(container);
    settle(&known, entries);
    for one in &known {
        let Some(plan) = plan_of(one.type_code) else { continue };
        let mut of_one = extract_by(plan, one.resource, options);
        let own = options.own.load();
        for own in own.of(one.type_code) {
            let general =
                General { param: own.param.id, kind: own.param.kind, expression: own.expression.clone(), parts: own.parts.clone() };
            evaluate(&general, one.resource, &Env::default(), options, &mut of_one);
        }
        if !own.of(one.type_code).is_empty() {
            sort(&mut of_one);
        }
        // By `_id` each can be found, whatever else it holds.
        if let Some(id) = definitions::r4().param(one.type_code, "_id") {
            of_one.push(IndexEntry { param: id.id, value: IndexValue::Token { system: None, code: one.id.into() } });
        }
        settle(&known, &mut of_one);
        entries.extend(of_one.into_iter().map(|entry| IndexEntry { param: in_contained(entry.param, one.place), ..entry }));
    }
}

fn known(container: &Value) -> Vec<Contained<'_>> {
    let mut known: Vec<Contained<'_>> = Vec::new();
    for resource in container.get("contained").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| resource.get(key).and_then(Value::as_str);
        let Some(type_code) = text("resourceType").and_then(|name| definitions::r4().type_code(name)) else { continue };
        let place = known.iter().filter(|one| one.type_code == type_code).map(|one| one.place).max().unwrap_or(0) + 1;
        if place <= CONTAINED {
            known.push(Contained { type_code, place, id: text("id").unwrap_or_default(), resource });
        }
    }
    known
}

/// References by `#id` lead to what is contained, or nowhere.
fn settle(known: &[Contained<'_>], entries: &mut Vec<IndexEntry>) {
    entries.retain_mut(|entry| match &mut entry.value {
        IndexValue::Within { id, target } => match known.iter().find(|one| *one.id == **id) {
            Some(one) => {
                *target = contained_target(one.type_code, one.place);
                true
            }
            None => false,
        },
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::extract::{about, extract};
    use crate::store::gate::About;
    use serde_json::json;

    fn code(name: &str) -> TypeCode {
        definitions::r4().type_code(name).unwrap()
    }

    fn param(type_name: &str, name: &str) -> u32 {
        definitions::r4().param(code(type_name), name).unwrap().id
    }

    #[test]
    fn numbers_of_contained_resources_meet_no_others() {
        assert!(definitions::r4().resource_types().len() <= 256);
        let status = param("Observation", "status");
        assert_eq!(in_contained(status, 1) & 0xf_ffff, status);
        assert_ne!(in_contained(status, 1), in_contained(status, 2));
    }

    #[test]
    fn each_contained_resource_has_its_own_entries_and_references_lead_there() {
        let resource = json!({
            "resourceType": "Observation", "id": "o", "status": "final", "code": { "text": "x" },
            "subject": { "reference": "#b" }, "performer": [{ "reference": "#nowhere" }],
            "contained": [
                { "resourceType": "Patient", "id": "a", "gender": "male", "generalPractitioner": [{ "reference": "Practitioner/1" }] },
                { "resourceType": "Patient", "id": "b", "gender": "female" },
                { "resourceType": "Nothing", "id": "c" },
            ],
        });
        let entries = extract(code("Observation"), &resource, &Options::default());
        let of =
            |param: u32| -> Vec<&IndexValue> { entries.iter().filter(|entry| entry.param == param).map(|entry| &entry.value).collect() };
        let token = |code: &str| IndexValue::Token { system: None, code: code.into() };
        assert_eq!(of(in_contained(param("Patient", "gender"), 1)), [&token("male")]);
        assert_eq!(of(in_contained(param("Patient", "gender"), 2)), [&token("female")]);
        assert_eq!(of(in_contained(param("Patient", "_id"), 2)), [&token("b")]);
        assert_eq!(of(in_contained(param("Patient", "general-practitioner"), 1)).len(), 1);
        let target = contained_target(code("Patient"), 2);
        assert_eq!(of(param("Observation", "subject")), [&IndexValue::Within { id: "b".into(), target }]);
        assert!(of(param("Observation", "performer")).is_empty());
        assert!(of(param("Patient", "gender")).is_empty());
        assert_eq!(about(code("Observation"), &resource, &entries, ""), About::Unknown);
        assert_eq!(at(&resource, code("Patient"), 2).unwrap()["id"], "b");
        assert!(at(&resource, code("Patient"), 3).is_none());
    }

    #[test]
    fn of_many_of_a_type_the_first_are_known() {
        let contained: Vec<Value> = (0..40).map(|n| json!({ "resourceType": "Basic", "id": format!("b{n}") })).collect();
        let resource = json!({ "resourceType": "List", "contained": contained });
        assert_eq!(known(&resource).len(), CONTAINED as usize);
    }
}
