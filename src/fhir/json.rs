//! Strict JSON: duplicate keys, NaN, broken UTF-8 and bottomless nesting are refused, digits and key order kept
//! (<https://hl7.org/fhir/R4/json.html>).

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use std::collections::HashSet;
use std::fmt;

/// serde_json hands a number to a visitor under this key when `arbitrary_precision` is on.
const NUMBER_TOKEN: &str = "$serde_json::private::Number";

/// Levels of objects and lists within each other that [`parse`] takes (serde_json's own guard).
pub const MOST_READ: usize = 127;
/// Levels that a resource may have to be stored. The rest is for what requests and answers put around it: `Bundle.entry.resource` is three,
/// and stands within another one where a batch has a search.
pub const MAX_DEPTH: usize = 120;
/// After so many levels [`parse_deep`] begins anew, and how often it may: it reads 255 levels, as many as a patch once made of what
/// was read, and no more than a thread has room for.
const STRIDE: usize = 64;
const STRIDES: usize = 1;

/// Why a text is not acceptable JSON; never quotes the text.
#[derive(Debug, thiserror::Error)]
#[error("{message} at line {line} column {column}")]
pub struct JsonError {
    pub message: String,
    pub line: usize,
    pub column: usize,
}

/// Parses one JSON value. Digits stay as they are (an exponent is rewritten from `1e2` to `1e+2`). Nesting beyond [`MOST_READ`] levels is an error, so is a key given twice.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    read(bytes, Strict { left: usize::MAX, strides: 0 })
}

/// The same of what is stored, and of answers that are made of it: deeper than what comes from outside may be.
pub fn parse_deep(bytes: &[u8]) -> Result<Value, JsonError> {
    read(bytes, Strict { left: STRIDE, strides: STRIDES })
}

/// Whether [`parse`] would take the text. Builds nothing: what it needs is the keys of the objects that are open.
pub fn check(bytes: &[u8]) -> Result<(), JsonError> {
    read(bytes, Checked)
}

fn read<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Result<S::Value, JsonError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let words = error.to_string();
        let message = match words.split(" at line ").next().unwrap_or(&words) {
            "recursion limit exceeded" => format!("more than {MOST_READ} objects and lists stand within each other"),
            // serde_json quotes an unexpected string in type errors only; syntax errors name no content.
            message => message.to_owned(),
        };
        JsonError { message, line, column }
    })
}

/// Where objects and lists stand within each other more than `most` deep, as FHIRPath behind the root's name (`.name[0]`). What is no
/// element's name ends it: a key may be anything.
pub fn deeper_than(value: &Value, most: usize) -> Option<String> {
    let below = most.checked_sub(1);
    match (value, below) {
        (Value::Array(_) | Value::Object(_), None) => Some(String::new()),
        (Value::Array(items), Some(below)) => {
            items.iter().enumerate().find_map(|(at, item)| Some(format!("[{at}]{}", deeper_than(item, below)?)))
        }
        (Value::Object(members), Some(below)) => members.iter().find_map(|(key, member)| {
            let rest = deeper_than(member, below)?;
            let name = key.strip_prefix('_').unwrap_or(key);
            let is_name = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            Some(if is_name { format!(".{name}{rest}") } else { String::new() })
        }),
        _ => None,
    }
}

/// The same JSON, a line for each value and two spaces for each level. It looks at brackets only, so that no JSON is too deep for it.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    fn line(out: &mut Vec<u8>, level: usize) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', level.saturating_mul(2)));
    }
    let mut out = Vec::with_capacity(json.len().saturating_mul(2));
    let (mut level, mut in_text, mut escaped, mut opened) = (0usize, false, false, false);
    for &byte in json {
        if in_text {
            out.push(byte);
            (escaped, in_text) = (byte == b'\\' && !escaped, byte != b'"' || escaped);
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'}' | b']' => {
                level = level.saturating_sub(1);
                if !opened {
                    line(&mut out, level);
                }
            }
            _ if opened => line(&mut out, level),
            _ => {}
        }
        out.push(byte);
        opened = matches!(byte, b'{' | b'[');
        in_text = byte == b'"';
        match byte {
            b'{' | b'[' => level = level.saturating_add(1),
            b',' => line(&mut out, level),
            b':' => out.push(b' '),
            _ => {}
        }
    }
    out
}

/// How many values the text holds if it is JSON: one more than it has commas and brackets that hold something, texts apart.
pub fn count_values(bytes: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped, mut opened) = (1usize, false, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => continue,
            b',' | b'[' | b'{' => values = values.saturating_add(1),
            b']' | b'}' if opened => values = values.saturating_sub(1),
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        opened = matches!(byte, b'[' | b'{') && !in_text;
    }
    values
}

#[derive(Clone, Copy)]
struct Strict {
    /// Levels until what is deeper is read as a text of its own, in which serde_json's guard counts anew.
    left: usize,
    /// How often that may be.
    strides: usize,
}

impl Strict {
    fn below(self) -> Strict {
        Strict { left: self.left.saturating_sub(1), ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.left > 0 {
            return deserializer.deserialize_any(self);
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let seed = match self.strides.checked_sub(1) {
            Some(strides) => Strict { left: STRIDE, strides },
            None => Strict { left: usize::MAX, strides: 0 },
        };
        read(text.as_bytes(), seed).map_err(|error| D::Error::custom(error.message))
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below())? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == NUMBER_TOKEN && map.is_empty() {
                let digits: String = entries.next_value()?;
                let number: Number = digits.parse().map_err(|_| A::Error::custom("not a number"))?;
                return Ok(Value::Number(number));
            }
            let value = entries.next_value_seed(self.below())?;
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("a key is given twice in one object"));
            }
        }
        Ok(Value::Object(map))
    }
}

/// [`Strict`] without the values.
struct Checked;

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Checked)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut keys: HashSet<String> = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == NUMBER_TOKEN && keys.is_empty() {
                let digits: String = entries.next_value()?;
                return digits.parse::<Number>().map(|_| ()).map_err(|_| A::Error::custom("not a number"));
            }
            entries.next_value_seed(Checked)?;
            if !keys.insert(key) {
                return Err(A::Error::custom("a key is given twice in one object"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn keeps_digits_and_key_order() {
        let text = br#"{"z":1.50,"a":[1e+2,-0.0],"m":{"k":12345678901234567890.123456789}}"#;
        assert_eq!(serde_json::to_vec(&parse(text).unwrap()).unwrap(), text.to_vec());
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!([]), |inner, level| if level % 2 == 0 { json!([inner, 1]) } else { json!({ "a": inner }) })
    }

    #[test]
    fn what_is_stored_is_read_deeper_than_what_comes() {
        for levels in [1, STRIDE - 1, STRIDE, STRIDE + 1, MOST_READ] {
            let value = nested(levels);
            assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value, "{levels}");
            assert_eq!(parse_deep(value.to_string().as_bytes()).unwrap(), value, "{levels}");
        }
        for levels in [MOST_READ + 1, 2 * STRIDE + 1, 255] {
            let value = nested(levels);
            let refused = parse(value.to_string().as_bytes()).unwrap_err();
            assert_eq!(refused.message, "more than 127 objects and lists stand within each other");
            assert_eq!(parse_deep(value.to_string().as_bytes()).unwrap(), value, "{levels}");
        }
        assert!(parse_deep(nested(256).to_string().as_bytes()).is_err());
        assert!(parse_deep("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse_deep(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes()).is_err());
        let twice = format!("{}{{\"a\":1,\"a\":2}}{}", "[".repeat(150), "]".repeat(150));
        assert!(parse_deep(twice.as_bytes()).is_err());
    }

    #[test]
    fn the_place_that_is_too_deep_is_named() {
        let value = json!({ "a": 1, "name": [{ "_given": [{ "extension": [] }] }], "Asha Juma": [[]] });
        assert_eq!(deeper_than(&value, 6), None);
        assert_eq!(deeper_than(&value, 5).as_deref(), Some(".name[0].given[0].extension"));
        assert_eq!(deeper_than(&value, 2).as_deref(), Some(".name[0]"));
        assert_eq!(deeper_than(&json!({ "Asha Juma": [[]] }), 2).as_deref(), Some(""));
        assert_eq!((deeper_than(&value, 0).as_deref(), deeper_than(&json!(1), 0)), (Some(""), None));
    }

    proptest! {
        #[test]
        fn pretty_is_what_serde_json_writes(value in any_json(), deep in 0..3usize) {
            let whole = (0..deep * 100).fold(value, |inner, _| json!([inner]));
            let wanted = serde_json::to_vec_pretty(&whole).unwrap();
            prop_assert_eq!(pretty(&serde_json::to_vec(&whole).unwrap()), wanted.clone());
            prop_assert_eq!(pretty(&wanted), wanted);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = "[a\"\\\\{}\\[\\],: \n\u{e9}]{0,6}";
        let leaf = prop_oneof![Just(Value::Null), Just(json!(-1.50)), any::<bool>().prop_map(Value::from), text.prop_map(Value::from)];
        leaf.prop_recursive(4, 30, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn counts_values_but_not_what_texts_look_like() {
        assert_eq!(count_values(br#"{"a":[1,2],"b":"x,[{\",","c":{ },"d":"["}"#), 7);
        assert_eq!((count_values(b"1"), count_values(b"[{},{}]"), count_values(b"[]")), (1, 3, 1));
    }

    #[test]
    fn refuses_what_readers_would_disagree_on() {
        for bad in [&br#"{"a":1,"a":2}"#[..], b"[NaN]", b"{\"a\":\xff\"}", b"{} {}", b"", b"[1,]"] {
            let (parsed, checked) = (parse(bad).unwrap_err(), check(bad).unwrap_err());
            assert_eq!(parsed.to_string(), checked.to_string(), "{:?}", String::from_utf8_lossy(bad));
        }
        check(br#"{"z":1.50,"a":[1e+2,-0.0,true,null],"m":{"z":12345678901234567890.123456789}}"#).unwrap();
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
