//! Criteria of conditional create, update and references: a search read strictly
//! (<https://hl7.org/fhir/R4/http.html#ccreate>).

use super::filter::Reader;
use super::lex;
use super::own::Doubt;
use super::parse::{CONTROLS, CURSOR, ParseOptions, limits, path, too_many_joined};
use crate::definitions;
use crate::fhir::text::MOST_INDEXED;
use crate::fhir::{Issue, IssueCode};
use crate::store::{Query, Scope, TypeCode};

/// A text that is this long or shorter is in the index as a whole: what was cut may lack three bytes more, to end with a character.
const MOST_WHOLE: usize = MOST_INDEXED - 4;

/// Reads `criteria`, the query string of If-None-Exist, a conditional update or a conditional reference. Anything unknown is an
/// error, because leaving it out would match other resources. The own parameters that it names are to be known of everything too.
pub fn conditional(type_code: TypeCode, criteria: &str, scope: Scope, options: &ParseOptions) -> Result<(Query, Vec<Doubt>), Vec<Issue>> {
    let type_name = definitions::r4().type_name(type_code);
    let criteria =
        criteria.split_once('?').filter(|(before, _)| *before == type_name || before.is_empty()).map_or(criteria, |(_, query)| query);
    lex::check_encoding(criteria.as_bytes()).map_err(|issue| vec![issue.at(type_name)])?;
    let pairs: Vec<(String, String)> = form_urlencoded::parse(criteria.as_bytes()).into_owned().collect();
    limits(type_name, &pairs, 1)?;
    let mut query = Query { type_code, filters: Vec::new(), scope, sort: Vec::new() };
    let mut reader = Reader::new(options);
    let (mut errors, mut doubts) = (Vec::new(), Vec::new());
    for (key, value) in &pairs {
        let name = key.split(':').next().unwrap_or_default();
        if matches!(name, "_format" | "_pretty") {
            continue;
        }
        if CONTROLS.contains(&name) || name == CURSOR {
            errors.push(
                Issue::error(IssueCode::Invalid, format!("{name} has no place in the criteria of a conditional request"))
                    .at(path(type_name, key)),
            );
            continue;
        }
        let most = if key.ends_with(":exact") { MOST_WHOLE } else { MOST_INDEXED };
        if lex::split(value, ',').iter().flat_map(|value| lex::split(value, '|')).any(|part| lex::unescape(part).len() > most) {
            let words =
                format!("a text of more than {most} bytes is not indexed whole, so it cannot be told what has it: name other criteria");
            errors.push(Issue::error(IssueCode::TooLong, words).at(path(type_name, key)));
            continue;
        }
        match reader.filters(type_code, key, value) {
            Ok(filters) => match reader.incomplete() {
                Some(incomplete) => errors.push(incomplete.at(path(type_name, key))),
                None => {
                    doubts.extend(reader.doubts(&query.scope, || path(type_name, key)));
                    query.filters.extend(filters);
                }
            },
            Err(refusal) => errors.push(refusal.issue.at(path(type_name, key))),
        }
    }
    errors.extend(too_many_joined(type_name, &query.filters));
    if errors.is_empty() && query.filters.is_empty() {
        errors.push(Issue::error(IssueCode::Required, "the criteria of a conditional request must name a search parameter").at(type_name));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok((query, doubts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn read(type_name: &str, criteria: &str) -> Result<Query, Vec<Issue>> {
        let options = ParseOptions::new("http://localhost/fhir", TimeZone::UTC);
        conditional(definitions::r4().type_code(type_name).unwrap(), criteria, Scope::All, &options).map(|(query, _)| query)
    }

    #[test]
    fn what_cannot_be_found_exactly_is_refused() {
        let long = "v".repeat(MOST_INDEXED + 1);
        for criteria in [format!("identifier={long}"), format!("identifier=urn:s|1,urn:s|{long}"), format!("name:exact={long}")] {
            assert_eq!(read("Patient", &criteria).unwrap_err()[0].code, IssueCode::TooLong);
        }
        let longest = "v".repeat(MOST_INDEXED);
        assert!(read("Patient", &format!("identifier=urn:s|{longest},{longest}")).is_ok());
        // What is stored may have been cut to just this.
        for cut in [MOST_WHOLE + 1, MOST_INDEXED] {
            let name = "v".repeat(cut);
            assert_eq!(read("Patient", &format!("name:exact={name}")).unwrap_err()[0].code, IssueCode::TooLong);
            assert_eq!(read("Patient", &format!("organization.name:exact={name}")).unwrap_err()[0].code, IssueCode::TooLong);
            assert!(read("Patient", &format!("name={name}")).is_ok());
        }
        assert!(read("Patient", &format!("name:exact={}", "v".repeat(MOST_WHOLE))).is_ok());
    }

    #[test]
    fn what_is_not_understood_or_selects_nothing_is_refused() {
        for (criteria, expression) in [
            ("identifer=1", "Patient?identifer"),
            ("_sort=name", "Patient?_sort"),
            ("", "Patient"),
            ("_count=1", "Patient?_count"),
            ("_maxresults=1", "Patient?_maxresults"),
            ("_id:missing=false", "Patient"),
            ("family=M%FCller", "Patient"),
        ] {
            let issues = read("Patient", criteria).unwrap_err();
            assert_eq!(issues.iter().map(|issue| issue.expression.as_str()).collect::<Vec<_>>(), [expression], "{criteria}");
        }
    }
}
