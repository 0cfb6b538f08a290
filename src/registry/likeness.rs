//! Whether two Patients are one person, by what is said of them.

use serde_json::Value;
use std::collections::BTreeSet;

/// Names of one Patient that are looked at, and words of a name: who sends more is guessing.
const NAMES: usize = 5;
const WORDS: usize = 5;
/// `YYYY-MM-DD`.
const DAY: usize = 10;
const YEAR: usize = 4;

/// Whether what two Patients say of themselves tells that they are one person: the same day of birth, or a name of which one leaves out no more than words of the
/// other; and nothing that speaks against it. A name of one word tells it only where that is all that the one is called, and the sex or the year of birth is the
/// same or that is all that the other is called too: many names of one word are guesses. Where neither says anything, the number that they share is all that is
/// known of both.
pub fn agree(one: &Value, other: &Value) -> bool {
    let born = |patient: &Value| patient.get("birthDate").and_then(Value::as_str).map(str::to_owned);
    let same_day = born(one).is_some_and(|day| day.len() >= DAY && born(other) == Some(day));
    let is_silent = |patient: &Value| born(patient).is_none() && words(patient).is_empty();
    (same_day || have_a_name_in_common(one, other) || is_silent(one) && is_silent(other)) && !contradict(one, other)
}

/// Whether two Patients have a name in common that tells who somebody is, and nothing that is said of them speaks against their being one person.
pub fn are_called_alike(one: &Value, other: &Value) -> bool {
    have_a_name_in_common(one, other) && !contradict(one, other)
}

const SEXES: [&str; 2] = ["female", "male"];

/// Whether what two Patients say of themselves speaks against their being one person: another sex, another day of birth, no word of the names in common.
/// What one of them does not say speaks against nothing.
pub fn contradict(one: &Value, other: &Value) -> bool {
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

/// In what order the words stand tells nothing.
fn have_a_name_in_common(one: &Value, other: &Value) -> bool {
    let is_all = |patient: &Value, name: &BTreeSet<String>| words(patient) == *name;
    let same_sex = [one, other].map(|patient| patient.get("gender").and_then(Value::as_str));
    let same_sex = same_sex[0] == same_sex[1] && same_sex[0].is_some_and(|sex| SEXES.contains(&sex));
    let year = |patient: &Value| patient.get("birthDate").and_then(Value::as_str).and_then(|date| date.get(..YEAR)).map(str::to_owned);
    let is_borne_out = same_sex || year(one).is_some_and(|born| year(other) == Some(born));
    let tells = |common: &BTreeSet<String>| {
        let all = [one, other].iter().filter(|patient| is_all(patient, common)).count();
        common.len() > 1 || all == 2 || all == 1 && is_borne_out
    };
    let [ones, others] = [one, other].map(full_names);
    ones.iter().any(|name| others.iter().any(|known| name.is_subset(known) && tells(name) || known.is_subset(name) && tells(known)))
}

/// Each name as the set of its words.
fn full_names(patient: &Value) -> Vec<BTreeSet<String>> {
    if names(patient).count() > NAMES {
        return Vec::new();
    }
    let ways = |name| [words_of(name, &["family", "given"]), words_of(name, &["text"])];
    names(patient).flat_map(ways).filter(|words| (1..=WORDS).contains(&words.len())).collect()
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
            (json!({ "gender": "female" }), false),
            (json!({ "birthDate": "1990-01-02" }), true),
            (json!({ "birthDate": "1990" }), false),
            (json!({ "name": [{ "text": "ASHA mushi" }] }), true),
            (json!({ "gender": "unknown", "birthDate": "1990", "name": [{ "text": "ASHA" }] }), true),
            (json!({ "name": [{ "family": "Mushi" }] }), false),
            (json!({ "name": [{ "family": "Mushi" }], "gender": "female" }), true),
            (json!({ "name": [{ "family": "Mushi", "text": "MUSHI" }], "birthDate": "1990" }), true),
            (json!({ "name": [{ "family": "Mushi", "text": "Asha Mushi" }] }), true),
            // Guesses.
            (json!({ "name": [{ "text": "Neema" }, { "text": "Asha" }], "gender": "female", "birthDate": "1990" }), false),
            (json!({ "name": [{ "family": "Juma", "text": "Asha" }], "gender": "female" }), false),
            (json!({ "name": [{ "text": "Asha Neema Mushi" }] }), true),
            (json!({ "name": [{ "text": "Neema Mushi" }] }), false),
            // Many names at once are nobody's.
            (json!({ "gender": "female", "name": [{ "family": "Stooge" }, { "text": "Asha Mushi Juma Ali John Mary" }] }), false),
            (json!({ "gender": "female", "name": vec![json!({ "text": "Asha Mushi" }); 6] }), false),
            (json!({ "birthDate": "1990-01-02", "gender": "male" }), false),
            (json!({ "name": [{ "family": "Mushi" }], "gender": "male" }), false),
            (json!({ "birthDate": "1990-01-02", "name": [{ "family": "Stooge", "given": ["Zed"] }] }), false),
        ] {
            assert_eq!((agree(&asha, &other), agree(&other, &asha)), (expected, expected), "{other}");
        }
        let (mushi, other) = (json!({ "name": [{ "family": "Mushi" }] }), json!({ "name": [{ "text": "mushi" }] }));
        assert!(agree(&mushi, &other), "it is all that either is called");
        let silent = json!({ "gender": "female" });
        assert!(agree(&silent, &json!({})), "nothing but the number is known of either");
    }
}
