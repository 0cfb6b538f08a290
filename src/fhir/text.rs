//! Text folded for comparison: without case, accents and other marks (<https://hl7.org/fhir/R4/search.html#string>).

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Bytes of a text that are indexed. PostgreSQL takes no index row of more than 2,704 bytes, and the widest of ours hold
/// three texts.
pub const MOST_INDEXED: usize = 800;

/// The beginning of the text that is indexed.
pub fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MOST_INDEXED)).unwrap_or(text)
}

/// The form that a default string search compares: decomposed, marks dropped, lower case, white space runs as one space.
pub fn fold(text: &str) -> String {
    let length = text.len();
    if text.is_ascii() {
        squeezed(length, text.chars().map(|c| c.to_ascii_lowercase()))
    } else {
        squeezed(length, text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase))
    }
}

/// What codes are compared by where case says nothing: lower case, white space runs as one space, and otherwise as it is.
pub fn small(text: &str) -> String {
    squeezed(text.len(), text.chars().flat_map(char::to_lowercase))
}

/// White space runs as one space, none at the ends.
fn squeezed(length: usize, text: impl Iterator<Item = char>) -> String {
    let mut squeezed = String::with_capacity(length);
    let mut space = true;
    for c in text {
        if c.is_whitespace() {
            if !space {
                squeezed.push(' ');
            }
            space = true;
        } else {
            squeezed.push(c);
            space = false;
        }
    }
    if squeezed.ends_with(' ') {
        squeezed.pop();
    }
    squeezed
}
