//! A payload taken apart without being read: its envelope, and the place of each of its records.
//!
//! A night's payload has tens of thousands of records. Values of all of them at once would take many times the payload's bytes, so
//! its text is walked for the lists of records only; each record is read when it is its turn. The walk trusts nothing: of text
//! that is no JSON it finds no list or a wrong one, and whoever reads the text strictly says so.

use std::collections::HashMap;
use std::ops::Range;

/// What a payload consists of.
#[derive(Debug)]
pub(super) struct Cut<'p> {
    /// The payload's text with its lists emptied.
    pub envelope: Vec<u8>,
    /// The entries of each list, by the list's path.
    pub lists: HashMap<&'p [String], Vec<Range<usize>>>,
}

/// Takes the lists at `paths` out of a payload.
pub(super) fn cut<'p>(payload: &[u8], paths: impl Iterator<Item = &'p [String]>) -> Cut<'p> {
    let mut lists = HashMap::new();
    let mut holes: Vec<Range<usize>> = Vec::new();
    for path in paths {
        let mut entries = Vec::new();
        let found = list_at(payload, path).and_then(|at| Some((at, entries_of(payload, at, |entry| entries.push(entry))?)));
        if let (Some((start, end)), false) = (found, lists.contains_key(path)) {
            // Two paths never lead into each other: a list ends a path, and only objects continue one.
            holes.push(start..end);
            lists.insert(path, entries);
        }
    }
    holes.sort_by_key(|hole| hole.start);
    let (mut envelope, mut rest) = (Vec::new(), 0);
    for hole in holes {
        envelope.extend_from_slice(payload.get(rest..hole.start).unwrap_or_default());
        envelope.extend_from_slice(b"[]");
        rest = hole.end;
    }
    envelope.extend_from_slice(payload.get(rest..).unwrap_or_default());
    Cut { envelope, lists }
}

/// How many entries the list at `path` has, counted up to one more than `most`.
pub(super) fn count(payload: &[u8], path: &[String], most: usize) -> usize {
    let mut count = 0usize;
    let Some(at) = list_at(payload, path) else { return 0 };
    // Given up as soon as they are too many.
    let mut at = at + 1;
    while count <= most {
        let Some((_, end)) = entry(payload, at) else { break };
        (count, at) = (count + 1, end);
    }
    count
}

/// The place of the bracket that opens the list at `path`.
fn list_at(payload: &[u8], path: &[String]) -> Option<usize> {
    let start = if payload.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    let mut at = blank(payload, start);
    for step in path {
        at = member(payload, at, step)?;
    }
    (payload.get(at) == Some(&b'[')).then_some(at)
}

/// Hands on each entry of the list that opens at `at`, and gives the place behind its end.
fn entries_of(payload: &[u8], at: usize, mut each: impl FnMut(Range<usize>)) -> Option<usize> {
    let mut at = at + 1;
    while let Some((range, end)) = entry(payload, at) {
        each(range);
        at = end;
    }
    at = blank(payload, at);
    (payload.get(at) == Some(&b']')).then_some(at + 1)
}

/// The entry that begins at `at`, and the place behind it and its comma.
fn entry(payload: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let start = blank(payload, at);
    if payload.get(start) == Some(&b']') {
        return None;
    }
    let end = value(payload, start)?;
    let next = blank(payload, end);
    Some((start..end, if payload.get(next) == Some(&b',') { next + 1 } else { next }))
}

/// The place of the value of `name` in the object that opens at `at`.
fn member(payload: &[u8], at: usize, name: &str) -> Option<usize> {
    if payload.get(at) != Some(&b'{') {
        return None;
    }
    let mut at = at + 1;
    loop {
        let key = blank(payload, at);
        if payload.get(key) != Some(&b'"') {
            return None;
        }
        let end = text(payload, key)?;
        let colon = blank(payload, end);
        if payload.get(colon) != Some(&b':') {
            return None;
        }
        let start = blank(payload, colon + 1);
        if serde_json::from_slice::<String>(payload.get(key..end)?).is_ok_and(|key| key == name) {
            return Some(start);
        }
        at = blank(payload, value(payload, start)?);
        if payload.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

/// The place behind the value that begins at `at`.
fn value(payload: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at, 0usize);
    loop {
        match payload.get(at)? {
            b'"' => at = text(payload, at)?,
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' => (at, depth) = (at + 1, depth.checked_sub(1)?),
            b',' | b':' if depth == 0 => return None,
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            _ => at += payload.get(at..)?.iter().take_while(|byte| !b",:]} \t\r\n\"{[".contains(byte)).count(),
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The place behind the text whose quote opens at `at`.
fn text(payload: &[u8], at: usize) -> Option<usize> {
    let mut escaped = false;
    for (place, byte) in payload.iter().enumerate().skip(at + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(place + 1),
            _ => {}
        }
    }
    None
}

fn blank(payload: &[u8], at: usize) -> usize {
    let spaces = payload.get(at..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    at + spaces.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn entries<'t>(payload: &'t str, at: &str) -> Option<Vec<&'t str>> {
        let at = path(at);
        let cut = cut(payload.as_bytes(), std::iter::once(&*at));
        Some(cut.lists.get(&*at)?.iter().map(|range| &payload[range.clone()]).collect())
    }

    #[test]
    fn a_list_is_found_by_its_path_only() {
        let payload =
            "\u{feff}{ \"x\": \"a.b [{\\\"\", \"a\": {\"c\": [9], \"\\u0062\" : [ {\"b\": [1, \"]\"]} , 2,\n null ,\"s\" ] }, \"b\": [] }";
        assert_eq!(entries(payload, "a.b").unwrap(), ["{\"b\": [1, \"]\"]}", "2", "null", "\"s\""]);
        assert_eq!(entries(payload, "b").unwrap(), [""; 0]);
        assert_eq!((entries(payload, "a"), entries(payload, "a.b.b"), entries(payload, "z")), (None, None, None));
        let (list, other) = (path("a.b"), path("b"));
        let cut = cut(payload.as_bytes(), [&*other, &*list].into_iter());
        assert_eq!(crate::fhir::json::parse(&cut.envelope).unwrap(), json!({"x": "a.b [{\"", "a": {"c": [9], "b": []}, "b": []}));
        assert_eq!([0, 2, 4, 9].map(|most| count(payload.as_bytes(), &list, most)), [1, 3, 4, 4]);
    }

    #[test]
    fn text_that_is_no_json_stops_the_walk() {
        for broken in
            ["", "{", "{\"a\"", "{\"a\":", "{\"a\":[", "{\"a\":[1", "{\"a\":[1,", "{\"a\":[}", "{\"a\":[1}", "[", "{\"a\":[\"", "{]}"]
        {
            assert_eq!(entries(broken, "a").unwrap_or_default().len(), 0, "{broken}");
            count(broken.as_bytes(), &path("a"), 5);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let object = prop::collection::vec(("[ab\"\\\\]{1,2}", inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_reader_finds(value in any_json(), pretty in any::<bool>(), steps in prop::collection::vec("[ab]{1,2}", 1..3)) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let read = steps.iter().try_fold(&value, |value, step| value.get(step)).and_then(Value::as_array);
            let found = entries(&text, &steps.join("."));
            let found = found.map(|found| found.into_iter().map(|text| serde_json::from_str::<Value>(text).unwrap()).collect::<Vec<_>>());
            prop_assert_eq!(found.as_ref(), read);
            prop_assert_eq!(count(text.as_bytes(), &steps, 2), read.map_or(0, |list| list.len().min(3)));
        }

        #[test]
        fn never_fails_on_any_text(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\a1 ".to_vec()), 0..60)) {
            let list = path("a");
            cut(&bytes, std::iter::once(&*list));
            count(&bytes, &list, 3);
        }
    }
}
