//! Text folded for comparison: without case, accents and other marks, and for searches without punctuation.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Bytes of a text that are indexed. PostgreSQL takes no index row of more than 2,704 bytes, and the widest of ours hold
/// three texts.
pub const MOST_INDEXED: usize = 800;

/// The beginning of the text that is indexed.
pub fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MOST_INDEXED)).unwrap_or(text)
}

/// The form in which texts are one whatever their case and accents: decomposed, marks dropped, lower case, white space runs as one space.
pub fn fold(text: &str) -> String {
    let length = text.len();
    if text.is_ascii() {
        squeezed(length, text.chars().map(|c| c.to_ascii_lowercase()))
    } else {
        squeezed(length, text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase))
    }
}

/// The form that a string search compares: folded, and without punctuation, which R4 would have ignored
/// (<https://hl7.org/fhir/R4/search.html#string>). An apostrophe belongs to its word (`Ng'ombe` is `ngombe`), whatever else is punctuation
/// parts words as a space does (`Al-Amin` is `al amin`). A text of punctuation alone keeps it.
pub fn comparable(text: &str) -> String {
    let stays = |c: char| c.is_ascii_alphanumeric() || c == ' ';
    if text.chars().all(stays) {
        return fold(text);
    }
    let words: String = text.chars().filter(|c| !is_apostrophe(*c)).map(|c| if is_punctuation(c) { ' ' } else { c }).collect();
    let folded = fold(&words);
    if folded.is_empty() { fold(text) } else { folded }
}

/// What people type for one, letters and marks among them.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '`' | '´' | '‘' | '’' | '‛' | '′' | 'ʹ' | 'ʻ' | 'ʼ' | 'ʽ' | '＇')
}

fn is_punctuation(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Punctuation
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
