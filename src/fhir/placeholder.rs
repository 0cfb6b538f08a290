//! Words that stand where an identifier should: `N/A`, `0`, `-`. Whoever is typed in with one of them shares it with strangers.

use super::text::fold;

/// What people write when there is no identifier, in English and Swahili, without signs and spaces.
const WORDS: [&str; 16] = [
    "na",
    "nan",
    "no",
    "none",
    "nil",
    "null",
    "undefined",
    "unknown",
    "notavailable",
    "notapplicable",
    "notknown",
    "hana",
    "hakuna",
    "hamna",
    "haijulikani",
    "haipo",
];

/// Whether `value` stands for nothing: one of the usual words, signs only, zeros only, `x` only.
pub fn is_placeholder(value: &str) -> bool {
    let said = essence(value);
    WORDS.contains(&said.as_str()) || said.chars().all(|c| c == '0') || said.chars().all(|c| c == 'x')
}

/// Whether `value` cannot be one person's everywhere: a placeholder, or one letter or digit again and again (`9999-999`). A facility may well
/// number its own clients 7 and 11; nobody else does.
pub fn is_no_strong_identifier(value: &str) -> bool {
    let said = essence(value);
    let first = said.chars().next();
    is_placeholder(value) || said.chars().all(|c| Some(c) == first)
}

/// Letters and digits, in one case.
fn essence(value: &str) -> String {
    fold(value).chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_nothing_is_no_identifier() {
        for said in
            ["N/A", "n.a.", "NA", "None", "NIL", "null", "Unknown", "not available", "Hakuna", "-", " . ", "", "0", "0000-00", "x", "XXX"]
        {
            assert!(is_placeholder(said), "{said}");
            assert!(is_no_strong_identifier(said), "{said}");
        }
        for said in ["9", "9999999", "11-11", "A"] {
            assert!(!is_placeholder(said) && is_no_strong_identifier(said), "{said}");
        }
        for said in ["12", "19900101-77777-00001-01", "NA-1", "X1", "10", "0001"] {
            assert!(!is_placeholder(said) && !is_no_strong_identifier(said), "{said}");
        }
    }
}
