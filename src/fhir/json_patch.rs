//! JSON Patch (RFC 6902) on documents whose growth is bounded: `copy` doubles a document with every step.

use super::json::MAX_DEPTH;
use serde_json::Value;

/// Operations of one patch.
const MOST_OPERATIONS: usize = 10_000;
/// Values that all operations together may add or move.
const MOST_VALUES: usize = 500_000;

/// A patch that was read and can be applied any number of times.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPatch(Vec<Operation>);

#[derive(Clone, Debug, PartialEq)]
enum Operation {
    Add { path: Pointer, value: Value },
    Remove { path: Pointer },
    Replace { path: Pointer, value: Value },
    Move { from: Pointer, path: Pointer },
    Copy { from: Pointer, path: Pointer },
    Test { path: Pointer, value: Value },
}

/// A JSON Pointer (RFC 6901), taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pointer(Vec<String>);

/// What is wrong, with the number of the operation. Never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no JSON Patch.
    #[error("{words}{}", place(*.operation))]
    Malformed { operation: Option<usize>, words: &'static str },
    /// It does not fit the document: what it names is not there, or a test failed.
    #[error("{words} (operation {operation})")]
    Unfit { operation: usize, words: &'static str },
}

fn place(operation: Option<usize>) -> String {
    operation.map(|number| format!(" (operation {number})")).unwrap_or_default()
}

impl JsonPatch {
    /// Reads a patch document: a list of operations.
    pub fn read(document: &Value) -> Result<JsonPatch, PatchError> {
        let malformed = |operation, words| PatchError::Malformed { operation, words };
        let Some(list) = document.as_array() else { return Err(malformed(None, "A JSON Patch is a list of operations.")) };
        if list.len() > MOST_OPERATIONS {
            return Err(malformed(None, "The patch has too many operations."));
        }
        let operations = list.iter().enumerate().map(|(number, item)| read_operation(item).map_err(|words| malformed(Some(number), words)));
        operations.collect::<Result<_, _>>().map(JsonPatch)
    }

    /// Applies all operations, in order; on an error the document is to be thrown away.
    pub fn apply(&self, document: &mut Value) -> Result<(), PatchError> {
        let mut budget = MOST_VALUES;
        for (operation, step) in self.0.iter().enumerate() {
            step.apply(document, &mut budget).map_err(|words| PatchError::Unfit { operation, words })?;
        }
        Ok(())
    }
}

fn read_operation(item: &Value) -> Result<Operation, &'static str> {
    let pointer = |name: &str| match item.get(name).and_then(Value::as_str) {
        Some(text) => Pointer::read(text),
        None => Err("The operation lacks its path or from, a JSON Pointer."),
    };
    let value = || item.get("value").cloned().ok_or("The operation lacks its value.");
    Ok(match item.get("op").and_then(Value::as_str) {
        Some("add") => Operation::Add { path: pointer("path")?, value: value()? },
        Some("remove") => Operation::Remove { path: pointer("path")? },
        Some("replace") => Operation::Replace { path: pointer("path")?, value: value()? },
        Some("move") => {
            let (from, path) = (pointer("from")?, pointer("path")?);
            if path.0.len() > from.0.len() && path.0.starts_with(&from.0) {
                return Err("A value cannot be moved into itself.");
            }
            Operation::Move { from, path }
        }
        Some("copy") => Operation::Copy { from: pointer("from")?, path: pointer("path")? },
        Some("test") => Operation::Test { path: pointer("path")?, value: value()? },
        _ => return Err("The operation's op must be add, remove, replace, move, copy or test."),
    })
}

const NOTHING_THERE: &str = "There is nothing at the path.";

impl Operation {
    fn apply(&self, document: &mut Value, budget: &mut usize) -> Result<(), &'static str> {
        match self {
            Operation::Add { path, value } => add(document, path, value.clone(), budget),
            Operation::Remove { path } => remove(document, path).map(|_| ()),
            Operation::Replace { path, value } => {
                let target = path.find_mut(document).ok_or(NOTHING_THERE)?;
                spend(budget, value, path)?;
                *target = value.clone();
                Ok(())
            }
            Operation::Move { from, path } => {
                let value = remove(document, from)?;
                add(document, path, value, budget)
            }
            Operation::Copy { from, path } => {
                let value = from.find_mut(document).ok_or("There is nothing at from.")?;
                spend(budget, value, path)?;
                let value = value.clone();
                add(document, path, value, budget)
            }
            Operation::Test { path, value } => match path.find_mut(document) {
                Some(is) if equal(is, value) => Ok(()),
                Some(_) => Err("The test failed: the value at the path is another."),
                None => Err("The test failed: there is nothing at the path."),
            },
        }
    }
}

fn add(document: &mut Value, path: &Pointer, value: Value, budget: &mut usize) -> Result<(), &'static str> {
    spend(budget, &value, path)?;
    let Some((last, parent)) = path.0.split_last() else {
        *document = value;
        return Ok(());
    };
    match Pointer::walk(parent, document) {
        Some(Value::Object(members)) => {
            members.insert(last.clone(), value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let place = if last == "-" { Some(items.len()) } else { index(last) };
            match place.filter(|place| *place <= items.len()) {
                Some(place) => items.insert(place, value),
                None => return Err("The list has no such place."),
            }
            Ok(())
        }
        _ => Err("There is no object or list at the path to add to."),
    }
}

fn remove(document: &mut Value, path: &Pointer) -> Result<Value, &'static str> {
    let Some((last, parent)) = path.0.split_last() else { return Ok(document.take()) };
    match Pointer::walk(parent, document) {
        // The other members keep their order.
        Some(Value::Object(members)) => members.shift_remove(last).ok_or(NOTHING_THERE),
        Some(Value::Array(items)) => {
            let place = index(last).filter(|place| *place < items.len()).ok_or(NOTHING_THERE)?;
            Ok(items.remove(place))
        }
        _ => Err(NOTHING_THERE),
    }
}

/// Takes what `value` weighs at `path` from the budget.
fn spend(budget: &mut usize, value: &Value, path: &Pointer) -> Result<(), &'static str> {
    let (count, depth) = weigh(value);
    // What is neither object nor list is no level of its own.
    if depth + path.0.len() > MAX_DEPTH + 1 {
        return Err("The resource would be nested too deep.");
    }
    *budget = budget.checked_sub(count).ok_or("The patch would make the resource too large.")?;
    Ok(())
}

/// How many values there are, and how deep they go.
fn weigh(value: &Value) -> (usize, usize) {
    let (mut count, mut deepest) = (0, 0);
    let mut waiting = vec![(value, 1)];
    while let Some((value, depth)) = waiting.pop() {
        count += 1;
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => waiting.extend(members.values().map(|member| (member, depth + 1))),
            _ => {}
        }
    }
    (count, deepest)
}

/// Equality of section 4.6: numbers by value, objects whatever their order.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let number = |number: &serde_json::Number| super::decimal::parse(number.as_str());
            a == b || matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b))),
        (a, b) => a == b,
    }
}

/// A place in a list: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    canonical.then(|| token.parse().ok())?
}

impl Pointer {
    fn read(text: &str) -> Result<Pointer, &'static str> {
        const WORDS: &str = "A JSON Pointer is empty or begins with a slash, with ~0 for ~ and ~1 for / inside.";
        if text.is_empty() {
            return Ok(Pointer(Vec::new()));
        }
        let tokens = text.strip_prefix('/').ok_or(WORDS)?.split('/').map(|token| {
            let escaped_right = token.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            escaped_right.then(|| token.replace("~1", "/").replace("~0", "~")).ok_or(WORDS)
        });
        let tokens: Vec<String> = tokens.collect::<Result<_, _>>()?;
        if tokens.len() > MAX_DEPTH { Err("The pointer is nested too deep.") } else { Ok(Pointer(tokens)) }
    }

    fn find_mut<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        Pointer::walk(&self.0, document)
    }

    fn walk<'a>(tokens: &[String], document: &'a mut Value) -> Option<&'a mut Value> {
        tokens.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get_mut(token),
            Value::Array(items) => items.get_mut(index(token)?),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(mut document: Value, patch: Value) -> Result<Value, PatchError> {
        JsonPatch::read(&patch)?.apply(&mut document).map(|()| document)
    }

    /// RFC 6902, appendix A.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        let cases = [
            (json!({"foo": "bar"}), json!([{"op": "add", "path": "/baz", "value": "qux"}]), json!({"baz": "qux", "foo": "bar"})),
            (
                json!({"foo": ["bar", "baz"]}),
                json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
                json!({"foo": ["bar", "qux", "baz"]}),
            ),
            (json!({"baz": "qux", "foo": "bar"}), json!([{"op": "remove", "path": "/baz"}]), json!({"foo": "bar"})),
            (json!({"foo": ["bar", "qux", "baz"]}), json!([{"op": "remove", "path": "/foo/1"}]), json!({"foo": ["bar", "baz"]})),
            (json!({"baz": "qux"}), json!([{"op": "replace", "path": "/baz", "value": "boo"}]), json!({"baz": "boo"})),
            (
                json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
                json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
                json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
            ),
            (
                json!({"foo": ["a", "b", "c", "d"]}),
                json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
                json!({"foo": ["a", "c", "d", "b"]}),
            ),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/child", "value": {"x": {}}}]),
                json!({"foo": "bar", "child": {"x": {}}}),
            ),
            (json!({"foo": ["bar"]}), json!([{"op": "add", "path": "/foo/-", "value": ["abc"]}]), json!({"foo": ["bar", ["abc"]]})),
            (json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": 10}]), json!({"/": 9, "~1": 10})),
            (
                json!({"a": 1.50}),
                json!([{"op": "test", "path": "/a", "value": 1.5}, {"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": 1.50, "b": 1.50}),
            ),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": [1]}]), json!([1])),
        ];
        for (document, patch, expected) in cases {
            assert_eq!(patched(document, patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_from_what_is_no_patch() {
        for patch in [
            json!({}),
            json!([{"op": "fly", "path": ""}]),
            json!([{"op": "add", "path": "/a"}]),
            json!([{"op": "add", "value": 1}]),
            json!([{"op": "add", "path": "a", "value": 1}]),
            json!([{"op": "remove", "path": "/~2"}]),
            json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
        ] {
            assert!(matches!(patched(json!({"a": {}}), patch.clone()), Err(PatchError::Malformed { .. })), "{patch}");
        }
        for patch in [
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "replace", "path": "/b", "value": 1}]),
            json!([{"op": "add", "path": "/b/c", "value": 1}]),
            json!([{"op": "add", "path": "/a/2", "value": 1}]),
            json!([{"op": "add", "path": "/a/01", "value": 1}]),
            json!([{"op": "test", "path": "/a/0", "value": "1"}]),
            json!([{"op": "test", "path": "/a/-", "value": 1}]),
        ] {
            assert!(matches!(patched(json!({"a": [1]}), patch.clone()), Err(PatchError::Unfit { operation: 0, .. })), "{patch}");
        }
    }

    #[test]
    fn a_patch_cannot_fill_the_memory_or_the_stack() {
        let doubling: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
        assert!(matches!(patched(json!({"a": 1}), json!(doubling)), Err(PatchError::Unfit { .. })));
        let deep: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": "/a".repeat(1 << n.min(6))})).collect();
        assert!(patched(json!({"a": {}}), json!(deep)).is_err());
    }

    /// The document as a list of (path, leaf), rebuilt after each step: slow and obvious.
    mod oracle {
        use serde_json::Value;

        pub fn get(document: &Value, path: &[String]) -> Option<Value> {
            match (path, document) {
                ([], value) => Some(value.clone()),
                ([key, rest @ ..], Value::Object(members)) => get(members.get(key)?, rest),
                ([key, rest @ ..], Value::Array(items)) => get(items.iter().enumerate().find(|(n, _)| n.to_string() == *key)?.1, rest),
                _ => None,
            }
        }

        /// A copy of the document in which the container at the path's parent was changed by `change`.
        pub fn edit(document: &Value, path: &[String], change: &dyn Fn(&Value, &str) -> Option<Value>) -> Option<Value> {
            match (path, document) {
                ([last], container) => change(container, last),
                ([key, rest @ ..], Value::Object(members)) => {
                    members.get(key)?;
                    let edited: Option<serde_json::Map<String, Value>> =
                        members.iter().map(|(k, v)| Some((k.clone(), if k == key { edit(v, rest, change)? } else { v.clone() }))).collect();
                    edited.map(Value::Object)
                }
                ([key, rest @ ..], Value::Array(items)) => {
                    items.iter().enumerate().find(|(n, _)| n.to_string() == *key)?;
                    let edited: Option<Vec<Value>> = items
                        .iter()
                        .enumerate()
                        .map(|(n, v)| if n.to_string() == *key { edit(v, rest, change) } else { Some(v.clone()) })
                        .collect();
                    edited.map(Value::Array)
                }
                _ => None,
            }
        }

        pub fn add(document: &Value, path: &[String], value: &Value) -> Option<Value> {
            if path.is_empty() {
                return Some(value.clone());
            }
            edit(document, path, &|container, last| match container {
                Value::Object(members) => {
                    let kept = members.iter().filter(|(k, _)| *k != last).map(|(k, v)| (k.clone(), v.clone()));
                    Some(Value::Object(kept.chain([(last.to_owned(), value.clone())]).collect()))
                }
                Value::Array(items) => {
                    let place = (0..=items.len()).find(|n| n.to_string() == last || (*n == items.len() && last == "-"))?;
                    Some(Value::Array([&items[..place], std::slice::from_ref(value), &items[place..]].concat()))
                }
                _ => None,
            })
        }

        pub fn remove(document: &Value, path: &[String]) -> Option<Value> {
            if path.is_empty() {
                return Some(Value::Null);
            }
            get(document, path)?;
            edit(document, path, &|container, last| match container {
                Value::Object(members) => {
                    Some(Value::Object(members.iter().filter(|(k, _)| *k != last).map(|(k, v)| (k.clone(), v.clone())).collect()))
                }
                Value::Array(items) => {
                    Some(Value::Array(items.iter().enumerate().filter(|(n, _)| n.to_string() != last).map(|(_, v)| v.clone()).collect()))
                }
                _ => None,
            })
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (0..3i64).prop_map(Value::from),
            "[a~/]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab/~]", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn path() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop_oneof!["[ab/~]", "[0-3]", Just("-".to_owned()), Just("01".to_owned())], 0..4)
    }

    proptest! {
        #[test]
        fn patches_do_what_the_slow_way_does(
            document in document(),
            steps in prop::collection::vec((0..6usize, path(), path(), document()), 1..5),
        ) {
            let write = |path: &[String]| path.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect::<String>();
            let mut patch = Vec::new();
            let mut expected = Some(document.clone());
            for (kind, path, from, value) in &steps {
                let into_itself = path.len() > from.len() && path.starts_with(from);
                let kind = if *kind == 3 && into_itself { 4 } else { *kind };
                let name = ["add", "remove", "replace", "move", "copy", "test"][kind];
                patch.push(json!({"op": name, "path": write(path), "from": write(from), "value": value}));
                expected = expected.and_then(|is| match name {
                    "add" => oracle::add(&is, path, value),
                    "remove" => oracle::remove(&is, path),
                    "replace" => {
                        let without = oracle::remove(&is, path)?;
                        if path.is_empty() { Some(value.clone()) } else { oracle::add(&without, path, value) }
                    }
                    "move" => {
                        let moved = oracle::get(&is, from)?;
                        oracle::add(&oracle::remove(&is, from)?, path, &moved)
                    }
                    "copy" => oracle::add(&is, path, &oracle::get(&is, from)?),
                    _ => (oracle::get(&is, path).as_ref() == Some(value)).then_some(is),
                });
            }
            let result = patched(document, Value::Array(patch)).ok();
            prop_assert_eq!(result, expected);
        }

        #[test]
        fn no_patch_panics(patch in document(), document in document()) {
            let _ = patched(document, patch);
        }
    }
}
