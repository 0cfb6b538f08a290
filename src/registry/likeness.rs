//! Whether two Patients are one person, by what is said of them.

use serde_json::Value;
use std::collections::BTreeSet;

/// Names of one Patient that are looked at: who sends more is guessing.
const NAMES: usize = 5;
/// `YYYY-MM-DD`.
const DAY: usize = 10;

/// Whether what two Patients say of themselves tells that they are one person: the same day of birth, or the same sex and a full name (two words at least) in common;
/// and nothing that speaks against it. What one of them does not say tells nothing.
pub fn agree(one: &Value, other: &Value) -> bool {
    let same = |key: &str| {
        let text = |patient: &'_ Value| patient.get(key).and_then(Value::as_str).map(str::to_owned);
        text(one).filter(|said| text(other).as_ref() == Some(said))
    };
    let born = same("birthDate").is_some_and(|day| day.len() >= DAY);
    let sex = same("gender").is_some_and(|sex| SEXES.contains(&sex.as_str()));
    (born || sex && !full_names(one).is_disjoint(&full_names(other))) && !contradict(one, other)
}

const SEXES: [&str; 2] = ["female", "male"];

/// Whether what two Patients say of themselves speaks against their being one person: another sex, another day of birth, no word of the names in common.
/// What one of them does not say speaks against nothing.
fn contradict(one: &Value, other: &Value) -> bool {
    let text = |patient: &Value, key: &str| patient.get(key).and_then(Value::as_str).map(str::to_owned);
    let both = |key: &str| text(one, key).zip(text(other, key));
    let sex = both("gender").is_some_and(|(a, b)| a != b && SEXES.contains(&a.as_str()) && SEXES.contains(&b.as_str()));
    // A year alone may be the year of a day.
    let born = both("birthDate").is_some_and(|(a, b)| !a.starts_with(&b) && !b.starts_with(&a));
    let (a, b) = (words(one), words(other));
    sex || born || !a.is_empty() && !b.is_empty() && a.is_disjoint(&b)
}

/// The words of all names, in lower case.
fn words(patient: &Value) -> BTreeSet<String> {
    names(patient).flat_map(|name| words_of(name, &["family", "given", "text"])).collect()
}

/// The names of more than one word, each as the set of its words: in what order they stand tells nothing.
fn full_names(patient: &Value) -> BTreeSet<BTreeSet<String>> {
    if names(patient).count() > NAMES {
        return BTreeSet::new();
    }
    let ways = |name| [words_of(name, &["family", "given"]), words_of(name, &["text"])];
    names(patient).flat_map(ways).filter(|words| words.len() > 1).collect()
}

fn names(patient: &Value) -> impl Iterator<Item = &Value> {
    patient.get("name").and_then(Value::as_array).into_iter().flatten()
}

fn words_of(name: &Value, keys: &[&str]) -> BTreeSet<String> {
    let parts = keys.iter().filter_map(|key| name.get(*key));
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

    #[test]
    fn who_agrees_with_whom() {
        let asha = json!({ "gender": "female", "birthDate": "1990-01-02", "name": [{ "family": "Mushi", "given": ["Asha"] }] });
        for (other, expected) in [
            (json!({}), false),
            (json!({ "birthDate": "1990-01-02" }), true),
            (json!({ "birthDate": "1990" }), false),
            (json!({ "gender": "female", "name": [{ "text": "ASHA mushi" }] }), true),
            (json!({ "name": [{ "text": "Asha Mushi" }] }), false),
            (json!({ "gender": "unknown", "birthDate": "1990", "name": [{ "text": "ASHA" }] }), false),
            (json!({ "gender": "female", "name": [{ "family": "Mushi" }] }), false),
            // Many names at once are nobody's.
            (json!({ "gender": "female", "name": [{ "family": "Stooge" }, { "text": "Asha Mushi Juma Ali John Mary" }] }), false),
            (json!({ "gender": "female", "name": vec![json!({ "text": "Asha Mushi" }); 6] }), false),
            (json!({ "birthDate": "1990-01-02", "gender": "male" }), false),
            (json!({ "birthDate": "1990-01-02", "name": [{ "family": "Stooge", "given": ["Zed"] }] }), false),
        ] {
            assert_eq!((agree(&asha, &other), agree(&other, &asha)), (expected, expected), "{other}");
        }
        let short = json!({ "gender": "female", "name": [{ "text": "Mushi" }] });
        assert!(!agree(&short, &short), "one word is no full name");
    }
}
