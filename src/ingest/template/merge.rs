//! What a later submission says, laid over what is stored.

use serde_json::{Map, Value};

/// An object that has one of these says one thing, which half of another would falsify.
const WHOLE: [&str; 4] = ["code", "coding", "reference", "value"];

/// `new` over `stored`: objects are joined key by key, anything else in `new` takes the place of what was there, and what
/// `new` does not say remains. Of a choice (`deceased[x]`) only the newer form remains.
pub fn merge(stored: &Value, new: &Value) -> Value {
    join(stored, new, true)
}

fn join(stored: &Value, new: &Value, resource: bool) -> Value {
    match (stored, new) {
        (Value::Object(stored), Value::Object(new)) if resource || !new.keys().any(|key| WHOLE.contains(&key.as_str())) => {
            let mut merged: Map<String, Value> = stored.clone();
            for (key, value) in new {
                for choice in ["deceased", "value"] {
                    if key.starts_with(choice) {
                        merged.retain(|other, _| other == key || !other.starts_with(choice));
                    }
                }
                let joined = match (merged.get(key), value) {
                    (None, _) => value.clone(),
                    (Some(Value::Array(old)), Value::Array(new)) if resource && key == "identifier" => Value::Array(identifiers(old, new)),
                    (Some(Value::Array(old)), Value::Array(new)) if key == "extension" => Value::Array(extensions(old, new)),
                    (Some(old), _) => join(old, value, false),
                };
                merged.insert(key.clone(), joined);
                // What stood beside an element (`_gender`) was said of the element as it was.
                let beside = format!("_{key}");
                if !new.contains_key(&beside) {
                    merged.shift_remove(&beside);
                }
            }
            Value::Object(merged)
        }
        (_, new) => new.clone(),
    }
}

/// What is said of a system is all there is of it, and identifiers of other systems stay. A number that a facility has replaced stays
/// too, marked as old: papers bear it still.
fn identifiers(stored: &[Value], new: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value, key: &str| a.get(key) == b.get(key);
    let mut merged: Vec<Value> = Vec::with_capacity(stored.len() + new.len());
    let mut taken = Vec::new();
    for old in stored {
        match new.iter().position(|one| same(one, old, "system") && same(one, old, "value")) {
            Some(place) => {
                merged.extend(new.get(place).cloned());
                taken.push(place);
            }
            None if !new.iter().any(|one| same(one, old, "system")) => merged.push(old.clone()),
            None if is_record_number(old) => {
                let mut old = old.clone();
                if let Some(members) = old.as_object_mut() {
                    members.insert("use".to_owned(), Value::from("old"));
                }
                merged.push(old);
            }
            None => {}
        }
    }
    merged.extend(new.iter().enumerate().filter(|(place, _)| !taken.contains(place)).map(|(_, one)| one.clone()));
    merged
}

/// A medical record number, of which a client may have had several (<http://terminology.hl7.org/CodeSystem/v2-0203>).
fn is_record_number(identifier: &Value) -> bool {
    let codings = identifier.pointer("/type/coding").and_then(Value::as_array).into_iter().flatten();
    codings.into_iter().any(|coding| coding.get("code").and_then(Value::as_str) == Some("MR"))
}

/// Each extension is a statement of its own. One that both have is joined; where one side says it several times, the newer
/// side's statements stand.
fn extensions(stored: &[Value], new: &[Value]) -> Vec<Value> {
    let named = |list: &[Value], name: &Name| list.iter().filter(|one| Name::of(one) == *name).count();
    let mut merged: Vec<Value> = Vec::with_capacity(stored.len() + new.len());
    let mut joined = Vec::new();
    for old in stored {
        let name = Name::of(old);
        match (named(stored, &name), new.iter().position(|one| Name::of(one) == name)) {
            (_, None) => merged.push(old.clone()),
            (1, Some(place)) if named(new, &name) == 1 => {
                merged.extend(new.get(place).map(|one| join(old, one, false)));
                joined.push(place);
            }
            _ => {}
        }
    }
    merged.extend(new.iter().enumerate().filter(|(place, _)| !joined.contains(place)).map(|(_, one)| one.clone()));
    merged
}

/// What an extension is about: its url and, for those that hold any field of a template, the field.
#[derive(PartialEq)]
struct Name<'a>(Option<&'a str>, Option<&'a str>);

impl Name<'_> {
    fn of(extension: &Value) -> Name<'_> {
        let inner = extension.get("extension").and_then(Value::as_array).into_iter().flatten();
        let field =
            inner.filter(|one| one.get("url").and_then(Value::as_str) == Some("field")).find_map(|one| one.get("valueCode")?.as_str());
        Name(extension.get("url").and_then(Value::as_str), field)
    }
}

#[cfg(test)]
mod tests {
    use super::merge;
    use serde_json::json;

    #[test]
    fn identifiers_are_replaced_system_by_system_and_numbers_grow_old() {
        let number =
            |value: &str, r#use: &str| json!({"use": r#use, "type": {"coding": [{"code": "MR"}]}, "system": "mrn", "value": value});
        let other = |value: &str| json!({"system": "nida", "value": value});
        let patient = |list: serde_json::Value| json!({"resourceType": "Patient", "identifier": list});
        let stored = patient(json!([number("1", "usual"), other("a")]));
        let by_other = patient(json!([other("a")]));
        assert_eq!(merge(&stored, &by_other), stored);
        let corrected = patient(json!([number("2", "usual"), other("b")]));
        let merged = patient(json!([number("1", "old"), number("2", "usual"), other("b")]));
        assert_eq!(merge(&stored, &corrected), merged);
        assert_eq!(merge(&merged, &corrected), merged);
        assert_eq!(merge(&merged, &merged), merged);
    }

    #[test]
    fn what_is_not_said_again_remains() {
        let stored = json!({"status": "in-progress", "period": {"start": "2026-09-01"}, "class": {"code": "AMB", "display": "ambulatory"}, "identifier": [{"value": "1"}]});
        let later = json!({"status": "finished", "period": {"end": "2026-09-04"}, "class": {"code": "IMP"}, "identifier": [{"value": "1"}, {"value": "2"}]});
        let merged = json!({"status": "finished", "period": {"start": "2026-09-01", "end": "2026-09-04"}, "class": {"code": "IMP"}, "identifier": [{"value": "1"}, {"value": "2"}]});
        assert_eq!(merge(&stored, &later), merged);
        assert_eq!(merge(&merged, &later), merged);
    }

    #[test]
    fn extensions_are_merged_each_for_itself() {
        let field = |name: &str, key: &str, value: serde_json::Value| json!({"url": "f", "extension": [{"url": "field", "valueCode": name}, {"url": "value", key: value}]});
        let stored = json!({"extension": [
            {"url": "new", "valueBoolean": true},
            {"url": "stay", "valuePeriod": {"start": "2026-09-01"}},
            {"url": "many", "valueInteger": 1}, {"url": "many", "valueInteger": 2},
            field("a", "valueString", json!("x")), field("b", "valueString", json!("y")),
        ]});
        let later = json!({"extension": [
            {"url": "stay", "valuePeriod": {"end": "2026-09-04"}}, {"url": "many", "valueInteger": 3}, field("b", "valueInteger", json!(7)),
        ]});
        let merged = json!({"extension": [
            {"url": "new", "valueBoolean": true},
            {"url": "stay", "valuePeriod": {"start": "2026-09-01", "end": "2026-09-04"}},
            field("a", "valueString", json!("x")), field("b", "valueInteger", json!(7)), {"url": "many", "valueInteger": 3},
        ]});
        assert_eq!(merge(&stored, &later), merged);
        assert_eq!(merge(&merged, &later), merged);
    }

    #[test]
    fn what_stood_beside_an_element_goes_with_it() {
        let stored = json!({"gender": "unknown", "_gender": {"extension": [{"url": "x", "valueString": "mume"}]}, "active": true});
        assert_eq!(merge(&stored, &json!({"gender": "male"})), json!({"gender": "male", "active": true}));
        assert_eq!(merge(&stored, &json!({"active": false})), json!({"gender": "unknown", "_gender": stored["_gender"], "active": false}));
    }

    #[test]
    fn a_choice_keeps_one_form() {
        assert_eq!(
            merge(&json!({"deceasedBoolean": true}), &json!({"deceasedDateTime": "2026-09-04"})),
            json!({"deceasedDateTime": "2026-09-04"})
        );
    }
}
