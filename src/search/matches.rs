//! Whether one resource satisfies conditions, judged on its index entries without a database: for writes, which are judged before
//! they can be searched for, and for single resources that came by another way than a search.

use super::filter::Reader;
use super::parse::ParseOptions;
use crate::fhir::Interval;
use crate::fhir::text::comparable;
use crate::store::query::{DateOp, Filter, SystemTest, Test};
use crate::store::{IndexEntry, IndexValue, TypeCode};

/// The conditions that search parameters put on a type, all of which must hold; `None` when one cannot be read.
pub fn conditions(type_code: TypeCode, params: &[(String, String)], options: &ParseOptions) -> Option<Vec<Filter>> {
    let mut reader = Reader::new(options);
    let mut filters = Vec::new();
    for (name, value) in params {
        filters.extend(reader.filters(type_code, name, value).ok()?);
    }
    reader.incomplete().is_none().then_some(filters)
}

/// Whether the resource with this id and these entries satisfies the filter. `None`: this cannot be judged without a database.
pub fn satisfies(filter: &Filter, id: &str, entries: &[IndexEntry]) -> Option<bool> {
    let any = |param, tests: &[Test]| -> Option<bool> {
        let mut found = false;
        for entry in entries.iter().filter(|entry| entry.param == param) {
            for test in tests {
                found |= passes(test, &entry.value)?;
            }
        }
        Some(found)
    };
    match filter {
        Filter::Param { param, tests } => any(*param, tests),
        Filter::NotParam { param, tests } => any(*param, tests).map(|found| !found),
        Filter::Missing { places, missing } => {
            Some(entries.iter().any(|entry| places.iter().any(|(param, _)| entry.param == *param)) != *missing)
        }
        Filter::Id(ids) => Some(ids.iter().any(|one| one == id)),
        Filter::Any(filters) => {
            let mut found = false;
            for filter in filters {
                found |= satisfies(filter, id, entries)?;
            }
            Some(found)
        }
        Filter::All(filters) => {
            let mut all = true;
            for filter in filters {
                all &= satisfies(filter, id, entries)?;
            }
            Some(all)
        }
        Filter::Not(filter) => satisfies(filter, id, entries).map(|holds| !holds),
        Filter::Nothing => Some(false),
        _ => None,
    }
}

fn passes(test: &Test, value: &IndexValue) -> Option<bool> {
    Some(match (test, value) {
        (Test::Token { system, code }, IndexValue::Token { system: has, code: has_code }) => {
            let system_fits = match system {
                SystemTest::Any => true,
                SystemTest::Absent => has.is_none(),
                SystemTest::Is(uri) => has.as_deref() == Some(uri),
            };
            system_fits && code.as_deref().is_none_or(|code| code == &**has_code)
        }
        (Test::TokenIn { system, codes }, IndexValue::Token { code, .. }) => {
            let one = Test::Token { system: system.clone(), code: None };
            codes.iter().any(|own| **own == **code) && passes(&one, value)?
        }
        (Test::TextStarts(start), IndexValue::Text(text)) => text.starts_with(start.as_str()),
        (Test::StringIs(whole), IndexValue::String { text }) => comparable(text) == *whole,
        (Test::StringEnds(end), IndexValue::String { text }) => comparable(text).ends_with(end.as_str()),
        (Test::StringStarts(start), IndexValue::String { text }) => comparable(text).starts_with(start.as_str()),
        (Test::StringContains(part), IndexValue::String { text }) => comparable(text).contains(part.as_str()),
        (Test::StringExact(whole), IndexValue::String { text }) => **text == **whole,
        (Test::Reference { type_codes, id }, IndexValue::Reference { type_name, id: has }) => {
            let definitions = crate::definitions::r4();
            **has == **id && type_codes.iter().any(|type_code| definitions.type_name(*type_code) == &**type_name)
        }
        (Test::Uri(uri), IndexValue::Uri(has)) => **has == **uri,
        (Test::Canonical(uri), IndexValue::Uri(has)) => {
            has.strip_prefix(uri.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
        }
        (Test::Date { op, interval }, IndexValue::Date(has)) => date(*op, *interval, *has)?,
        // A test on an index of another kind never finds this value.
        (Test::Token { .. } | Test::Reference { .. } | Test::Uri(_) | Test::Canonical(_) | Test::Date { .. }, _)
        | (Test::StringStarts(_) | Test::StringContains(_) | Test::StringExact(_), _) => false,
        _ => return None,
    })
}

fn date(op: DateOp, interval: Interval, has: Interval) -> Option<bool> {
    let Interval { low, high } = interval;
    Some(match op {
        DateOp::Eq => has.low >= low && has.high <= high,
        DateOp::Ne => has.low < low || has.high > high,
        DateOp::Gt => has.high > high,
        DateOp::Ge => has.high > high || has.low >= low,
        DateOp::Lt => has.low < low,
        DateOp::Le => has.low < low || has.high <= high,
        DateOp::Sa => has.low >= high,
        DateOp::Eb => has.high <= low,
        // Measured from now, which a right must not be.
        DateOp::Ap => return None,
    })
}
