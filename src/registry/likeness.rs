//! Whether two Patients can be one person, by what is said of them.

use serde_json::Value;
use std::collections::BTreeSet;

/// Whether what two Patients say of themselves speaks against their being one person: another sex, another day of birth, no word of the names in common.
/// What one of them does not say speaks against nothing.
pub fn contradict(one: &Value, other: &Value) -> bool {
    let text = |patient: &Value, key: &str| patient.get(key).and_then(Value::as_str).map(str::to_owned);
    let both = |key: &str| text(one, key).zip(text(other, key));
    let sexes = ["female", "male"];
    let sex = both("gender").is_some_and(|(a, b)| a != b && sexes.contains(&a.as_str()) && sexes.contains(&b.as_str()));
    // A year alone may be the year of a day.
    let born = both("birthDate").is_some_and(|(a, b)| !a.starts_with(&b) && !b.starts_with(&a));
    let (a, b) = (words(one), words(other));
    sex || born || !a.is_empty() && !b.is_empty() && a.is_disjoint(&b)
}

/// The words of all names, in lower case.
fn words(patient: &Value) -> BTreeSet<String> {
    let names = patient.get("name").and_then(Value::as_array).into_iter().flatten();
    let parts = names.flat_map(|name| ["family", "given", "text"].into_iter().filter_map(|key| name.get(key)));
    let texts = parts.flat_map(|part| part.as_array().map_or(std::slice::from_ref(part), Vec::as_slice)).filter_map(Value::as_str);
    texts.flat_map(|text| text.split(|c: char| !c.is_alphanumeric())).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_contradicts_whom() {
        let asha = json!({ "gender": "female", "birthDate": "1990-01-02", "name": [{ "family": "Mushi", "given": ["Asha"] }] });
        for (other, expected) in [
            (json!({}), false),
            (json!({ "gender": "unknown", "birthDate": "1990", "name": [{ "text": "ASHA Juma" }] }), false),
            (json!({ "gender": "male" }), true),
            (json!({ "birthDate": "1990-01-03" }), true),
            (json!({ "birthDate": "1950" }), true),
            (json!({ "name": [{ "family": "Stooge", "given": ["Zed"] }] }), true),
            (json!({ "name": [{ "given": ["Zed"] }, { "family": "mushi" }] }), false),
        ] {
            assert_eq!((contradict(&asha, &other), contradict(&other, &asha)), (expected, expected), "{other}");
        }
    }
}
