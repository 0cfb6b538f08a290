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
    let mut folded = String::with_capacity(text.len());
    let mut space = true;
    let mut push = |c: char| {
        if c.is_whitespace() {
            if !space {
                folded.push(' ');
            }
            space = true;
        } else {
            folded.push(c);
            space = false;
        }
    };
    if text.is_ascii() {
        text.chars().for_each(|c| push(c.to_ascii_lowercase()));
    } else {
        text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).for_each(&mut push);
    }
    if folded.ends_with(' ') {
        folded.pop();
    }
    folded
}
