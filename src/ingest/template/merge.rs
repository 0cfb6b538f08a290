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
                if key.starts_with("deceased") {
                    merged.retain(|other, _| !other.starts_with("deceased"));
                }
                let joined = merged.get(key).map_or_else(|| value.clone(), |old| join(old, value, false));
                merged.insert(key.clone(), joined);
            }
            Value::Object(merged)
        }
        (_, new) => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::merge;
    use serde_json::json;

    #[test]
    fn what_is_not_said_again_remains() {
        let stored = json!({"status": "in-progress", "period": {"start": "2026-09-01"}, "class": {"code": "AMB", "display": "ambulatory"}, "identifier": [{"value": "1"}]});
        let later = json!({"status": "finished", "period": {"end": "2026-09-04"}, "class": {"code": "IMP"}, "identifier": [{"value": "1"}, {"value": "2"}]});
        let merged = json!({"status": "finished", "period": {"start": "2026-09-01", "end": "2026-09-04"}, "class": {"code": "IMP"}, "identifier": [{"value": "1"}, {"value": "2"}]});
        assert_eq!(merge(&stored, &later), merged);
        assert_eq!(merge(&merged, &later), merged);
    }

    #[test]
    fn a_choice_keeps_one_form() {
        assert_eq!(
            merge(&json!({"deceasedBoolean": true}), &json!({"deceasedDateTime": "2026-09-04"})),
            json!({"deceasedDateTime": "2026-09-04"})
        );
    }
}
