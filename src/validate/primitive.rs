//! Formats of the primitive datatypes (<https://hl7.org/fhir/R4/datatypes.html#primitive>), read by hand because every
//! element of every resource passes here.

use super::xhtml;
use crate::definitions::Primitive;
use crate::fhir::markup::is_character;
use crate::fhir::reference::is_id;
use crate::fhir::{IssueCode, decimal};
use serde_json::Value;

/// `string` and `markdown` end here, in bytes.
const MAX_STRING: usize = 1024 * 1024;

/// What is wrong with a value, in words that do not repeat it.
pub(super) type Fault = (IssueCode, &'static str);

/// Whether `value` is of this type.
pub(super) fn check(primitive: Primitive, value: &Value) -> Result<(), Fault> {
    use Primitive::*;
    match primitive {
        Boolean => value.is_boolean().then_some(()).ok_or((IssueCode::Structure, "must be true or false, without quotes")),
        Integer => integer(value, i64::from(i32::MIN), "must be a whole number of 32 bits, without quotes or fraction"),
        UnsignedInt => integer(value, 0, "must be a whole number from 0 to 2147483647, without quotes or fraction"),
        PositiveInt => integer(value, 1, "must be a whole number from 1 to 2147483647, without quotes or fraction"),
        Decimal => match value {
            Value::Number(number) if decimal::is_kept(number.as_str()) => Ok(()),
            Value::Number(_) => Err((IssueCode::Value, decimal::LIMITS)),
            _ => Err((IssueCode::Structure, "must be a number, without quotes")),
        },
        _ => match value {
            Value::String(text) if text.is_empty() => Err((IssueCode::Value, "must not be empty; leave the element out")),
            Value::String(text) => text_format(primitive, text).map_err(|words| (IssueCode::Value, words)),
            _ => Err((IssueCode::Structure, "must be a text in quotes")),
        },
    }
}

fn integer(value: &Value, least: i64, words: &'static str) -> Result<(), Fault> {
    let Value::Number(number) = value else { return Err((IssueCode::Structure, words)) };
    match number.as_i64() {
        Some(number) if (least..=i64::from(i32::MAX)).contains(&number) => Ok(()),
        _ => Err((IssueCode::Value, words)),
    }
}

fn text_format(primitive: Primitive, text: &str) -> Result<(), &'static str> {
    use Primitive::*;
    let (right, words) = match primitive {
        String | Markdown if text.len() > MAX_STRING => (false, "must not be longer than 1 MB"),
        String | Markdown => {
            (is_printable(text), "must hold no control characters except tab, line feed and carriage return, and no noncharacters")
        }
        Id => (is_id(text), "must be an id: 1 to 64 of A-Z, a-z, 0-9, - and ."),
        Code => (is_code(text), "must be a code: no spaces at its ends, none doubled, no control characters"),
        Uri | Url | Canonical => (!has_space(text) && is_printable(text), "must be a URI, without spaces and control characters"),
        Oid => (text.strip_prefix("urn:oid:").is_some_and(is_oid), "must be an OID such as urn:oid:1.2.3"),
        Uuid => {
            (text.strip_prefix("urn:uuid:").is_some_and(is_uuid), "must be a UUID such as urn:uuid:c757873d-ec9a-4326-a141-556f43239520")
        }
        Date => (date(text).is_some(), "must be a date that exists: YYYY, YYYY-MM or YYYY-MM-DD"),
        DateTime => (is_date_time(text), "must be a date that exists, or a date and time with seconds and zone: YYYY-MM-DDThh:mm:ss+zz:zz"),
        Instant => (is_instant(text), "must be an instant with seconds and zone: YYYY-MM-DDThh:mm:ss+zz:zz"),
        Time => (clock(text) == Some(""), "must be a time of day: hh:mm:ss"),
        Base64Binary => (is_base64(text), "must be base64"),
        Xhtml => return xhtml::check(text),
        Boolean | Integer | UnsignedInt | PositiveInt | Decimal => (false, "must not be a text"),
    };
    right.then_some(()).ok_or(words)
}

/// Whether XML can say it too. What XML has no character for is below a space, or begins as few others do.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| b >= 0x20 && b != 0xEF) || text.chars().all(is_character)
}

fn has_space(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|b| b.is_ascii_whitespace()) } else { text.contains(char::is_whitespace) }
}

/// `[^\s]+(\s[^\s]+)*`, of characters that XML has.
fn is_code(text: &str) -> bool {
    let mut after_space = true;
    for c in text.chars() {
        let space = c.is_whitespace();
        if (space && after_space) || !is_character(c) {
            return false;
        }
        after_space = space;
    }
    !after_space
}

/// `[0-2](\.(0|[1-9][0-9]*))+`
fn is_oid(text: &str) -> bool {
    let mut parts = text.split('.');
    let root = parts.next().is_some_and(|first| matches!(first, "0" | "1" | "2"));
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() && (part == "0" || !part.starts_with('0'));
    root && text.contains('.') && parts.all(number)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Line breaks and spaces may stand between the groups of four.
fn is_base64(text: &str) -> bool {
    let (mut digits, mut padding) = (0usize, 0usize);
    for b in text.bytes() {
        match b {
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => digits += 1,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => return false,
        }
    }
    digits > 0 && padding <= 2 && (digits + padding) % 4 == 0
}

/// Two digits at the start, as a number, and what follows.
fn two(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    number(digits).map(|number| (number, rest))
}

fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The day's date and what follows it; a partial date only when nothing follows.
fn leading_date(text: &str) -> Option<(bool, &str)> {
    let (year, rest) = text.split_at_checked(4)?;
    let year = number(year).filter(|year| *year > 0)?;
    let Some(rest) = rest.strip_prefix('-') else { return rest.is_empty().then_some((false, "")) };
    let (month, rest) = two(rest).filter(|(month, _)| (1..=12).contains(month))?;
    let Some(rest) = rest.strip_prefix('-') else { return rest.is_empty().then_some((false, "")) };
    let (day, rest) = two(rest)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (1..=days).contains(&day).then_some((true, rest))
}

fn date(text: &str) -> Option<()> {
    leading_date(text).filter(|(_, rest)| rest.is_empty()).map(|_| ())
}

fn is_date_time(text: &str) -> bool {
    match leading_date(text) {
        Some((_, "")) => true,
        Some((_, rest)) => is_time_with_zone(rest),
        None => false,
    }
}

fn is_instant(text: &str) -> bool {
    leading_date(text).is_some_and(|(day, rest)| day && is_time_with_zone(rest))
}

fn is_time_with_zone(text: &str) -> bool {
    let Some(zone) = text.strip_prefix('T').and_then(clock) else { return false };
    let Some(offset) = zone.strip_prefix(['+', '-']) else { return zone == "Z" };
    let Some((hours, rest)) = two(offset) else { return false };
    let Some((minutes, rest)) = rest.strip_prefix(':').and_then(two) else { return false };
    rest.is_empty() && (hours < 14 && minutes < 60 || hours == 14 && minutes == 0)
}

/// What follows `hh:mm:ss` and its fraction.
fn clock(text: &str) -> Option<&str> {
    let (_, rest) = two(text).filter(|(hour, _)| *hour < 24)?;
    let (_, rest) = two(rest.strip_prefix(':')?).filter(|(minute, _)| *minute < 60)?;
    // 60 is a leap second.
    let (_, rest) = two(rest.strip_prefix(':')?).filter(|(second, _)| *second <= 60)?;
    let Some(fraction) = rest.strip_prefix('.') else { return Some(rest) };
    let after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    (after.len() < fraction.len()).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn right(primitive: Primitive, value: Value) {
        assert_eq!(check(primitive, &value), Ok(()), "{primitive:?} {value}");
    }

    fn wrong(primitive: Primitive, value: Value) {
        assert!(check(primitive, &value).is_err(), "{primitive:?} {value}");
    }

    #[test]
    fn each_primitive_takes_its_own_format_and_no_other() {
        use Primitive::*;
        let cases: [(Primitive, &[&str], &[&str]); 16] = [
            (Boolean, &["true", "false"], &["\"true\"", "1", "null"]),
            (Integer, &["0", "-2147483648", "2147483647"], &["2147483648", "1.0", "1e2", "\"1\"", "true"]),
            (UnsignedInt, &["0", "7"], &["-1", "0.5"]),
            (PositiveInt, &["1"], &["0", "-1", "99999999999999999999"]),
            (Decimal, &["1.50", "-0.0", "1e10", "7"], &["\"1.5\"", "[1]"]),
            (Id, &["\"a-1.B\""], &["\"a_b\"", "\"\"", "\"é\""]),
            (Code, &["\"a b\"", "\"<=\""], &["\"a\\u0001\"", "\" a\"", "\"a \"", "\"a  b\"", "\"\""]),
            (Uri, &["\"urn:x\"", "\"../a\""], &["\"a b\"", "\"a\\u2003b\"", "\"a\\u0001\"", "\"\\uFFFE\""]),
            (Oid, &["\"urn:oid:1.2.0.34\""], &["\"1.2.3\"", "\"urn:oid:3.1\"", "\"urn:oid:1.02\"", "\"urn:oid:1\"", "\"urn:oid:1.\""]),
            (
                Uuid,
                &["\"urn:uuid:c757873d-ec9a-4326-a141-556f43239520\""],
                &["\"urn:uuid:c757873d\"", "\"c757873d-ec9a-4326-a141-556f43239520\""],
            ),
            (
                Date,
                &["\"2026\"", "\"2026-02\"", "\"2024-02-29\"", "\"2000-02-29\""],
                &[
                    "\"0000\"",
                    "\"2026-02-29\"",
                    "\"1900-02-29\"",
                    "\"2026-13\"",
                    "\"2026-1-1\"",
                    "\"2026-01-01T00:00:00Z\"",
                    "\"2026-\"",
                    "\"20é\"",
                    "20260101",
                ],
            ),
            (
                DateTime,
                &["\"2026\"", "\"2026-01-31\"", "\"2026-01-31T23:59:60.123Z\"", "\"2026-01-31T00:00:00-14:00\""],
                &[
                    "\"2026-01-31T10:00\"",
                    "\"2026-01-31T10:00:00\"",
                    "\"2026-01T10:00:00Z\"",
                    "\"2026-01-31T24:00:00Z\"",
                    "\"2026-01-31T00:00:00+14:01\"",
                    "\"2026-01-31T00:00:00.Z\"",
                    "\"2026-01-31T00:00:00Zé\"",
                ],
            ),
            (Instant, &["\"2026-01-31T10:00:00.5+03:00\""], &["\"2026-01-31\"", "\"2026\""]),
            (Time, &["\"08:30:00\"", "\"08:30:00.5\""], &["\"08:30\"", "\"08:30:00Z\"", "\"25:00:00\""]),
            (Base64Binary, &["\"aGk=\"", "\"aGVs\\r\\nbG8h\""], &["\"aGk\"", "\"a===\"", "\"=aaa\"", "\"a-b_\"", "\" \""]),
            (String, &["\"é\\t\\r\\n\"", "\"\\uFDD0\\uFFFD\""], &["\"\\u0007\"", "\"\\uFFFE\"", "\"\\uFFFF\"", "\"\"", "3"]),
        ];
        for (primitive, good, bad) in cases {
            for text in good {
                right(primitive, serde_json::from_str(text).unwrap());
            }
            for text in bad {
                wrong(primitive, serde_json::from_str(text).unwrap());
            }
        }
    }

    #[test]
    fn a_text_beyond_a_megabyte_is_refused() {
        right(Primitive::Markdown, json!("a".repeat(MAX_STRING)));
        wrong(Primitive::String, json!("a".repeat(MAX_STRING + 1)));
    }
}
