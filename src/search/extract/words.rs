//! The words of a resource, for `_text` and `_content` (<https://hl7.org/fhir/R4/search.html#content>): each word once, folded.
//! The words of the narrative are kept under `_text`, all others under `_content`, which looks at both.

use crate::fhir::text::fold;
use crate::store::{IndexEntry, IndexValue, ParamId};
use serde_json::Value;
use std::collections::BTreeSet;

/// Words that one resource is found by.
const MOST_WORDS: usize = 2_000;
/// Bytes of a word; longer ones are data rather than words.
pub const LONGEST: usize = 64;

/// Adds the words of `resource`.
pub(super) fn extract(text: ParamId, content: ParamId, resource: &Value, entries: &mut Vec<IndexEntry>) {
    let mut narrative = BTreeSet::new();
    if let Some(div) = resource.pointer("/text/div").and_then(Value::as_str) {
        collect(&without_tags(div), &mut narrative);
    }
    let mut others = BTreeSet::new();
    strings(resource, &mut others);
    let mut push = |param, word: String| {
        entries.push(IndexEntry { param, value: IndexValue::Token { system: None, code: word.into() } });
    };
    others.difference(&narrative).for_each(|word| push(content, word.clone()));
    narrative.into_iter().for_each(|word| push(text, word));
}

/// The words of a search or a text, in order; some may be too long to be indexed.
pub fn split(text: &str) -> Vec<String> {
    fold(text).split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn collect(text: &str, words: &mut BTreeSet<String>) {
    for word in split(text).into_iter().filter(|word| word.len() <= LONGEST) {
        if words.len() >= MOST_WORDS {
            return;
        }
        words.insert(word);
    }
}

/// Every text of the resource but its markup and its name. Not recursive: depth is the input's.
fn strings(resource: &Value, words: &mut BTreeSet<String>) {
    let mut waiting: Vec<&Value> =
        resource.as_object().into_iter().flatten().filter(|(key, _)| !skipped(key)).map(|(_, value)| value).collect();
    while let Some(value) = waiting.pop() {
        match value {
            Value::String(text) => collect(text, words),
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
    }
}

fn skipped(key: &str) -> bool {
    matches!(key, "resourceType" | "id" | "meta" | "text" | "contained" | "implicitRules")
}

/// The text of XHTML, with a space where a tag stood; entities stay as they are but for the five of XML.
fn without_tags(div: &str) -> String {
    let mut text = String::with_capacity(div.len());
    let mut inside = false;
    for c in div.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    ["&lt;", "&gt;", "&amp;", "&quot;", "&apos;", "&#160;", "&nbsp;"].iter().fold(text, |text, entity| text.replace(entity, " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_of_the_narrative_and_of_the_rest_are_kept_apart() {
        let resource = json!({
            "resourceType": "Condition", "id": "c",
            "text": { "status": "generated", "div": "<div>Fièvre&nbsp;<b class=\"x\">typhoid</b>, day-3</div>" },
            "code": { "text": "Typhoid fever" }, "note": [{ "text": "FEVER since Monday" }]
        });
        let mut entries = Vec::new();
        extract(1, 2, &resource, &mut entries);
        let of = |param: ParamId| -> Vec<&str> {
            entries
                .iter()
                .filter(|entry| entry.param == param)
                .map(|entry| match &entry.value {
                    IndexValue::Token { code, .. } => &**code,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(of(1), ["3", "day", "fievre", "typhoid"]);
        assert_eq!(of(2), ["fever", "monday", "since"]);
    }
}
