//! The escapes of search values (<https://hl7.org/fhir/R4/search.html#escaping>): `\,` `\|` `\$` `\\`.

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

    proptest! {
        #[test]
        fn escapes_round_trip(parts in prop::collection::vec("[a,|$\\\\é ]{0,6}", 1..5)) {
            let joined = parts.iter().map(|part| escape(part)).collect::<Vec<_>>().join(",");
            let back: Vec<String> = split(&joined, ',').into_iter().map(unescape).collect();
            prop_assert_eq!(back, parts);
        }
    }
}
