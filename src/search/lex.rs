//! The escapes of search values (<https://hl7.org/fhir/R4/search.html#escaping>): `\,` `\|` `\$` `\\`.

use crate::fhir::{Issue, IssueCode};

/// That what the escapes of a query string or form stand for is UTF-8 (<https://hl7.org/fhir/R4/http.html#mime-type>). What is not would be
/// read with another character in its place: a search that finds nothing, or criteria that let something be made twice.
pub fn check_encoding(query: &[u8]) -> Result<(), Issue> {
    let words = "the parameters are not written in UTF-8, in which é is %C3%A9";
    percent_encoding::percent_decode(query).decode_utf8().map(|_| ()).map_err(|_| Issue::error(IssueCode::Value, words))
}

/// Splits at every `separator` that no backslash escapes; the parts keep their escapes. Always at least one part.
pub fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(text.get(start..at).unwrap_or_default());
            start = at + c.len_utf8();
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// The text that an escaped value means. A backslash before any other character stands for itself.
pub fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(next @ (',' | '|' | '$' | '\\'))) => {
                plain.push(*next);
                chars.next();
            }
            _ => plain.push(c),
        }
    }
    plain
}

/// Text as one value of a search parameter, in which nothing separates: the inverse of [`unescape`].
pub fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if matches!(c, ',' | '|' | '$' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_escaped_separator_does_not_separate() {
        assert_eq!(split(r"a,b\,c,,d\\,e", ','), [r"a", r"b\,c", "", r"d\\", "e"]);
        assert_eq!(split("", ','), [""]);
        assert_eq!(unescape(r"b\,c\\\d"), r"b,c\\d");
    }

    #[test]
    fn what_is_not_utf_8_is_not_taken() {
        for good in ["", "name=M%C3%BCller", "name=Müller&x=%", "name=100%&given=%zz"] {
            assert!(check_encoding(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["name=M%FCller", "na%FCme=x", "name=%C3&given=%BC"] {
            assert_eq!(check_encoding(bad.as_bytes()).unwrap_err().code, IssueCode::Value, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn escapes_round_trip(parts in prop::collection::vec("[a,|$\\\\é ]{0,6}", 1..5)) {
            let joined = parts.iter().map(|part| escape(part)).collect::<Vec<_>>().join(",");
            let back: Vec<String> = split(&joined, ',').into_iter().map(unescape).collect();
            prop_assert_eq!(back, parts);
        }
    }
}
