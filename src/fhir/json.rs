//! Strict JSON: duplicate keys, NaN, broken UTF-8 and bottomless nesting are refused, digits and key order kept
//! (<https://hl7.org/fhir/R4/json.html>).

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::collections::HashSet;
use std::fmt;

/// serde_json hands a number to a visitor under this key when `arbitrary_precision` is on.
const NUMBER_TOKEN: &str = "$serde_json::private::Number";

/// Why a text is not acceptable JSON; never quotes the text.
#[derive(Debug, thiserror::Error)]
#[error("{message} at line {line} column {column}")]
pub struct JsonError {
    pub message: String,
    pub line: usize,
    pub column: usize,
}

/// Parses one JSON value. Digits stay as they are (an exponent is rewritten from `1e2` to `1e+2`). Nesting beyond 128 levels is an error (serde_json's own guard), so is a key given twice.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    read(bytes, Strict)
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
        let message = words.split(" at line ").next().unwrap_or(&words);
        // serde_json quotes an unexpected string in type errors only; syntax errors name no content.
        JsonError { message: message.to_owned(), line, column }
    })
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

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
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
        while let Some(item) = items.next_element_seed(Strict)? {
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
            let value = entries.next_value_seed(Strict)?;
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

    #[test]
    fn keeps_digits_and_key_order() {
        let text = br#"{"z":1.50,"a":[1e+2,-0.0],"m":{"k":12345678901234567890.123456789}}"#;
        assert_eq!(serde_json::to_vec(&parse(text).unwrap()).unwrap(), text.to_vec());
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
