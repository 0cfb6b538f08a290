//! What contained resources are found by (<https://hl7.org/fhir/R4/search.html#contained>).
//!
//! Their values are kept with the key of what contains them, which is what is stored, seen and released, under numbers of their own: those
//! of the first resource of a type that a container has are apart from those of the second, so conditions on one contained resource are
//! conditions on one number after the other. A resource that contains nothing has no such entries.

use super::{Options, evaluate_own, extract_by, plan_of, sort};
use crate::definitions;
use crate::fhirpath::Env;
use crate::store::index::{MOST_CONTAINED, contained_target, in_contained};
use crate::store::{IndexEntry, IndexValue, TypeCode};
use serde_json::Value;
use std::collections::HashMap;

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
    let targets = targets(&known);
    settle(&targets, entries);
    for one in &known {
        let Some(plan) = plan_of(one.type_code) else { continue };
        let mut of_one = extract_by(plan, one.resource, container, options);
        let own = options.own.load();
        for own in own.of(one.type_code) {
            evaluate_own(own, one.resource, &Env::default().with_root_resource(container), options, &mut of_one);
        }
        if !own.of(one.type_code).is_empty() {
            sort(&mut of_one);
        }
        // By `_id` each can be found, whatever else it holds.
        if let Some(id) = definitions::r4().param(one.type_code, "_id") {
            of_one.push(IndexEntry { param: id.id, value: IndexValue::Token { system: None, code: one.id.into() } });
        }
        settle(&targets, &mut of_one);
        entries.extend(of_one.into_iter().map(|entry| in_contained(entry, one.place)));
    }
}

fn known(container: &Value) -> Vec<Contained<'_>> {
    let mut known: Vec<Contained<'_>> = Vec::new();
    let mut of_type: HashMap<TypeCode, u32> = HashMap::new();
    for resource in container.get("contained").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| resource.get(key).and_then(Value::as_str);
        let Some(type_code) = text("resourceType").and_then(|name| definitions::r4().type_code(name)) else { continue };
        let place = of_type.entry(type_code).or_default();
        *place += 1;
        if *place < MOST_CONTAINED {
            known.push(Contained { type_code, place: *place, id: text("id").unwrap_or_default(), resource });
        }
    }
    known
}

/// Where a reference by `#id` leads: of several with one id to the first.
fn targets<'a>(known: &[Contained<'a>]) -> HashMap<&'a str, i64> {
    known.iter().rev().map(|one| (one.id, contained_target(one.type_code, one.place))).collect()
}

/// References by `#id` lead to what is contained, or nowhere.
fn settle(targets: &HashMap<&str, i64>, entries: &mut Vec<IndexEntry>) {
    entries.retain_mut(|entry| match &mut entry.value {
        IndexValue::Within { id, target } => match targets.get(&**id) {
            Some(known) => {
                *target = *known;
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
    use crate::store::index::is_contained;
    use serde_json::json;

    fn code(name: &str) -> TypeCode {
        definitions::r4().type_code(name).unwrap()
    }

    fn param(type_name: &str, name: &str) -> u32 {
        definitions::r4().param(code(type_name), name).unwrap().id
    }

    fn number(param: u32, place: u32) -> u32 {
        in_contained(IndexEntry { param, value: IndexValue::Number(0.0) }, place).param
    }

    #[test]
    fn numbers_of_contained_resources_meet_no_others() {
        assert!(definitions::r4().resource_types().len() <= 256);
        let status = param("Observation", "status");
        let number = |place| number(status, place);
        assert_eq!(number(1) & 0xf_ffff, status);
        assert_ne!(number(1), number(2));
        assert!(is_contained(number(1)) && is_contained(number(15)) && is_contained(number(16)) && !is_contained(status));
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
        assert_eq!(of(number(param("Patient", "gender"), 1)), [&token("male")]);
        assert_eq!(of(number(param("Patient", "gender"), 2)), [&token("female")]);
        assert_eq!(of(number(param("Patient", "_id"), 2)), [&token("b")]);
        assert_eq!(of(number(param("Patient", "general-practitioner"), 1)).len(), 1);
        let target = contained_target(code("Patient"), 2);
        assert_eq!(of(param("Observation", "subject")), [&IndexValue::Within { id: "b".into(), target }]);
        assert!(of(param("Observation", "performer")).is_empty());
        assert!(of(param("Patient", "gender")).is_empty());
        assert_eq!(about(code("Observation"), &resource, &entries, &Options::default()), About::Unknown);
        assert_eq!(at(&resource, code("Patient"), 2).unwrap()["id"], "b");
        assert!(at(&resource, code("Patient"), 3).is_none());
    }

    #[test]
    fn of_many_of_a_type_each_is_known() {
        let contained: Vec<Value> = (0..40).map(|n| json!({ "resourceType": "Basic", "id": format!("b{n}") })).collect();
        let resource = json!({ "resourceType": "List", "contained": contained, "subject": { "reference": "#b39" } });
        assert_eq!(known(&resource).len(), 40);
        let entries = extract(code("List"), &resource, &Options::default());
        let far = |place: u32, id: &str| IndexValue::Far { place, value: Box::new(IndexValue::Token { system: None, code: id.into() }) };
        assert!(entries.iter().any(|entry| entry.value == far(16, "b15")) && entries.iter().any(|entry| entry.value == far(40, "b39")));
        let target = contained_target(code("Basic"), 40);
        assert!(entries.contains(&IndexEntry { param: param("List", "subject"), value: IndexValue::Within { id: "b39".into(), target } }));
    }
}
