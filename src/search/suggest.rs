//! "Did you mean": the known name nearest to a mistyped one.

/// The closest of `known`, if it is close enough that a typing error is likely.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = name.chars().take(64).map(|c| c.to_ascii_lowercase()).collect();
    let limit = 1 + wanted.len() / 4;
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, candidate), candidate))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Words for [`nearest`], empty when nothing is near.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// Levenshtein distance, ignoring ASCII case.
fn distance(wanted: &[char], candidate: &str) -> usize {
    let mut row: Vec<usize> = (0..=wanted.len()).collect();
    for (line, c) in candidate.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, w) in row.iter_mut().skip(1).zip(wanted) {
            let substituted = diagonal + usize::from(*w != c.to_ascii_lowercase());
            diagonal = *cell;
            left = substituted.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_name_and_nonsense_finds_none() {
        let known = ["birthdate", "family", "gender", "_lastUpdated"];
        assert_eq!(nearest("birthDate", known), Some("birthdate"));
        assert_eq!(nearest("familly", known), Some("family"));
        assert_eq!(nearest("_lastupdate", known), Some("_lastUpdated"));
        assert_eq!(nearest("colour", known), None);
        let kitten: Vec<char> = "kitten".chars().collect();
        assert_eq!(distance(&kitten, "sitting"), 3);
    }
}
