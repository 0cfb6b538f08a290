//! The criteria of conditional interactions: which resources they mean, in the store and within a transaction.

use super::refusal::{Refusal, RefusalKind};
use crate::access::audit;
use crate::definitions;
use crate::fhir::{Interval, Issue, IssueCode, text};
use crate::search::own::Doubt;
use crate::search::{self, ParseOptions};
use crate::store::query::{DateOp, NumberOp, SystemTest, Test};
use crate::store::{Filter, IndexEntry, IndexValue, ParamId, Precondition, Query, Scope, Store, Stored, TypeCode};
use std::collections::BTreeSet;

/// Search criteria that are to mean one resource.
#[derive(Clone, Debug)]
pub struct Criteria {
    pub(super) query: Query,
    /// What was asked, before the caller's rights narrow the query: what a transaction writes is judged by this.
    asked: Vec<Filter>,
    /// The own parameters among them, which must be known of everything that the caller sees.
    pub(super) doubts: Vec<Doubt>,
}

impl Criteria {
    /// Reads `identifier=…&…`; what the caller may not see does not match, and is told to be denied if it is named by its id.
    pub fn parse(type_code: TypeCode, text: &str, scope: &Scope, options: &ParseOptions) -> Result<Criteria, Vec<Issue>> {
        let (query, doubts) = search::conditional(type_code, text, scope.clone(), options)?;
        if let Some(trail) = audit::current() {
            trail.names(query.named());
        }
        Ok(Criteria { asked: query.filters.clone(), query, doubts })
    }

    /// The first `most` of the resources that match.
    pub async fn matches(&self, store: &Store, most: u32) -> Result<Vec<Stored>, sqlx::Error> {
        store.matches(&self.query, most).await
    }

    /// Why what matches cannot be told.
    pub async fn doubtful(&self, store: &Store) -> Result<Option<Issue>, sqlx::Error> {
        for doubt in &self.doubts {
            if let Some(issue) = doubt.issue(store).await? {
                return Ok(Some(issue));
            }
        }
        Ok(None)
    }

    /// That the same resources still match when the transaction is applied, and nothing came that may.
    pub fn preconditions(&self, matched: &[Stored]) -> impl Iterator<Item = Precondition> {
        let expected = matched.iter().map(|stored| stored.id.to_string()).collect();
        let doubts = self.doubts.iter().map(|doubt| Precondition { query: doubt.query.clone(), expected: Vec::new() });
        std::iter::once(Precondition { query: self.query.clone(), expected }).chain(doubts)
    }

    /// Whether a resource of the same transaction, not stored yet, matches. `None`: it depends on other resources or on the
    /// moment of the write (chains, `_has`, `_lastUpdated`), or on what only the database computes.
    pub fn matches_draft(&self, type_code: TypeCode, id: &str, entries: &[IndexEntry]) -> Option<bool> {
        if type_code != self.query.type_code {
            return Some(false);
        }
        if self.unfit().any(|place| entries.iter().any(|entry| entry.param == place)) {
            return None;
        }
        all(self.asked.iter().map(|filter| judge(filter, id, entries)))
    }

    /// Under which numbers a resource says that an own parameter of the criteria fails on it.
    pub fn unfit(&self) -> impl Iterator<Item = ParamId> {
        let filters = self.doubts.iter().flat_map(|doubt| &doubt.query.filters);
        filters.filter_map(|filter| if let Filter::Param { param, .. } = filter { Some(*param) } else { None })
    }

    /// The same words for criteria that mean the same: however they are escaped, in whatever order, however often.
    pub fn meaning(&self) -> String {
        listed("", self.asked.iter().map(meaning))
    }

    pub fn type_code(&self) -> TypeCode {
        self.query.type_code
    }

    /// What was asked: all of these.
    pub fn asked(&self) -> &[Filter] {
        &self.asked
    }
}

/// Whether the criteria are identifiers with their systems, and nothing else.
pub fn by_identifier(text: &str) -> bool {
    let whole = |value: &str| value.split_once('|').is_some_and(|(system, value)| !system.is_empty() && !value.is_empty());
    let mut pairs = form_urlencoded::parse(text.as_bytes()).peekable();
    pairs.peek().is_some() && pairs.all(|(name, value)| name == "identifier" && whole(&value))
}

fn meaning(filter: &Filter) -> String {
    match filter {
        Filter::Param { param, tests } => listed(&format!("{param}="), tests.iter().map(|test| format!("{test:?}"))),
        Filter::NotParam { param, tests } => listed(&format!("{param}!="), tests.iter().map(|test| format!("{test:?}"))),
        Filter::Id(ids) => listed("_id=", ids.iter().map(|id| format!("{id:?}"))),
        Filter::Any(filters) => listed("any", filters.iter().map(meaning)),
        Filter::All(filters) => listed("all", filters.iter().map(meaning)),
        Filter::Not(filter) => listed("not", std::iter::once(meaning(filter))),
        other => format!("{other:?}"),
    }
}

fn listed(name: &str, parts: impl Iterator<Item = String>) -> String {
    format!("{name}{:?}", parts.collect::<BTreeSet<String>>())
}

/// `None`: cannot be judged without the store.
fn judge(filter: &Filter, id: &str, entries: &[IndexEntry]) -> Option<bool> {
    match filter {
        Filter::Id(ids) => Some(ids.iter().any(|wanted| wanted == id)),
        Filter::Param { param, tests } => {
            any(tests.iter().map(|test| any(entries.iter().filter(|entry| entry.param == *param).map(|entry| passes(test, &entry.value)))))
        }
        Filter::NotParam { param, tests } => {
            judge(&Filter::Param { param: *param, tests: tests.clone() }, id, entries).map(|passed| !passed)
        }
        Filter::Missing { places, missing } => {
            Some(entries.iter().any(|entry| places.iter().any(|(param, _)| entry.param == *param)) != *missing)
        }
        Filter::Not(filter) => judge(filter, id, entries).map(|passed| !passed),
        Filter::All(filters) => any(filters.iter().map(|filter| judge(filter, id, entries).map(|passed| !passed))).map(|failed| !failed),
        Filter::Any(filters) => any(filters.iter().map(|filter| judge(filter, id, entries))),
        Filter::Nothing => Some(false),
        _ => None,
    }
}

/// Whether one is true: three-valued, so that what is not known decides nothing.
fn any(verdicts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut unknown = false;
    for verdict in verdicts {
        match verdict {
            Some(true) => return Some(true),
            Some(false) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(false) }
}

fn all(verdicts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    any(verdicts.map(|verdict| verdict.map(|passed| !passed))).map(|failed| !failed)
}

/// The test that the store would make on the value's index row.
fn passes(test: &Test, value: &IndexValue) -> Option<bool> {
    Some(match (test, value) {
        (Test::NoneOf(tests), value) => match tests.first().and_then(index_of) {
            None => return None,
            // Of the two indexes of references each is asked for its own.
            Some(index) if !index(value) => false,
            Some(_) => return any(tests.iter().map(|test| passes(test, value))).map(|passed| !passed),
        },
        (Test::Token { system, code }, IndexValue::Token { system: has, code: is }) => {
            holds(system, has.as_deref()) && code.as_deref().is_none_or(|code| code == &**is)
        }
        (Test::TokenIn { system, codes }, IndexValue::Token { system: has, code: is }) => {
            holds(system, has.as_deref()) && codes.iter().any(|code| **code == **is)
        }
        (Test::TokenStarts(start), IndexValue::Token { code: is, .. }) => is.starts_with(start.as_str()),
        (Test::TokenFolded { folding, system, code }, IndexValue::Token { system: has, code: is }) => {
            holds(system, has.as_deref()) && folding.of(is) == *code
        }
        (Test::TextStarts(start), IndexValue::Text(is) | IndexValue::Uri(is)) => is.starts_with(start.as_str()),
        (Test::Uri(wanted), IndexValue::Uri(is)) => wanted == &**is,
        (Test::Canonical(wanted), IndexValue::Uri(is)) => {
            is.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
        }
        (Test::UriBelow(wanted), IndexValue::Uri(is)) => {
            wanted == &**is || is.strip_prefix(wanted.trim_end_matches('/')).is_some_and(|rest| rest.starts_with(['/', '|']))
        }
        (Test::UriAbove(wanted), IndexValue::Uri(is)) => {
            let rest = wanted.strip_prefix(&**is);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || is.ends_with('/'))
        }
        (Test::StringExact(wanted), IndexValue::String { text }) => wanted == &**text,
        (Test::StringStarts(wanted), IndexValue::String { text }) => text::comparable(text).starts_with(wanted.as_str()),
        (Test::StringContains(wanted), IndexValue::String { text }) => text::comparable(text).contains(wanted.as_str()),
        (Test::StringIs(wanted), IndexValue::String { text }) => text::comparable(text) == *wanted,
        (Test::StringEnds(wanted), IndexValue::String { text }) => text::comparable(text).ends_with(wanted.as_str()),
        (Test::Reference { type_codes, id }, IndexValue::Reference { type_name, id: is }) => {
            **id == **is && type_codes.iter().any(|code| definitions::r4().type_name(*code) == &**type_name)
        }
        (Test::Date { op, interval }, IndexValue::Date(is)) => dates(*op, *interval, *is),
        (Test::Number { op, low, value, high }, IndexValue::Number(is)) => numbers(*op, *low, *value, *high, *is),
        // An index row of another kind does not hold what is asked for.
        (
            Test::Token { .. }
            | Test::TokenIn { .. }
            | Test::TokenStarts(_)
            | Test::TokenFolded { .. }
            | Test::TextStarts(_)
            | Test::Uri(_)
            | Test::Canonical(_)
            | Test::UriBelow(_)
            | Test::UriAbove(_)
            | Test::StringExact(_)
            | Test::StringStarts(_)
            | Test::StringContains(_)
            | Test::StringIs(_)
            | Test::StringEnds(_)
            | Test::Reference { .. }
            | Test::Date { .. }
            | Test::Number { .. },
            _,
        ) => false,
        _ => return None,
    })
}

/// Whether a value is in the index that the test looks into; of the tests that [`Test::NoneOf`] has of values that are judged here.
fn index_of(test: &Test) -> Option<fn(&IndexValue) -> bool> {
    Some(match test {
        Test::Token { .. } | Test::TokenIn { .. } | Test::TokenFolded { .. } => |value| matches!(value, IndexValue::Token { .. }),
        Test::Uri(_) | Test::Canonical(_) => |value| matches!(value, IndexValue::Uri(_)),
        Test::StringIs(_) => |value| matches!(value, IndexValue::String { .. }),
        Test::Reference { .. } => |value| matches!(value, IndexValue::Reference { .. }),
        _ => return None,
    })
}

fn holds(system: &SystemTest, has: Option<&str>) -> bool {
    match system {
        SystemTest::Any => true,
        SystemTest::Absent => has.is_none(),
        SystemTest::Is(wanted) => has == Some(wanted),
    }
}

/// <https://hl7.org/fhir/R4/search.html#prefix>, over half-open intervals.
fn dates(op: DateOp, asked: Interval, is: Interval) -> bool {
    match op {
        DateOp::Eq => is.low >= asked.low && is.high <= asked.high,
        DateOp::Ne => is.low < asked.low || is.high > asked.high,
        DateOp::Gt => is.high > asked.high,
        DateOp::Ge => is.high > asked.low,
        DateOp::Ap => is.high > asked.low && is.low < asked.high,
        DateOp::Lt => is.low < asked.low,
        DateOp::Le => is.low < asked.high,
        DateOp::Sa => is.low >= asked.high,
        DateOp::Eb => is.high <= asked.low,
    }
}

fn numbers(op: NumberOp, low: f64, value: f64, high: f64, is: f64) -> bool {
    match op {
        NumberOp::Eq | NumberOp::Ap => is >= low && is < high,
        NumberOp::Ne => is < low || is >= high,
        NumberOp::Gt | NumberOp::Sa => is > value,
        NumberOp::Ge => is >= value,
        NumberOp::Lt | NumberOp::Eb => is < value,
        NumberOp::Le => is <= value,
    }
}

/// What only the database can say of a resource.
const PLAIN: &str = "use criteria without chains, _has, _lastUpdated, near, quantities, composites, and :above and :below on references.";

/// The refusal when it cannot be said whether criteria match a resource of the same transaction.
pub fn not_judged() -> Refusal {
    let words =
        format!("These criteria cannot be held against resources of the same Bundle: refer to the entry by its fullUrl, or {PLAIN}");
    Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::NotSupported, words))
}

/// The refusal when it cannot be said whether the criteria of one entry mean what the entry at `other` writes.
pub fn perhaps_another(other: &str) -> Refusal {
    let words = format!(
        "Whether these criteria mean the resource that {other} writes cannot be told before it is stored: send the two apart, or {PLAIN}"
    );
    Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::NotSupported, words))
}

/// The refusal when holding the criteria of a transaction against its own resources would take too long.
pub fn too_many() -> Refusal {
    let words = "There are too many entries to be held against these criteria and those before them: send fewer at a time, or use criteria that \
                 name an identifier or another code, a reference, the beginning of a text or a date.";
    Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::TooCostly, words))
}

/// The refusal when two entries of a transaction are about one resource (<https://hl7.org/fhir/R4/http.html#trules>).
pub fn same_resource(other: &str) -> Refusal {
    let words = format!("{other} is about the same resource: a transaction may be about a resource once.");
    Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Duplicate, words))
}

/// The refusal when criteria that are to mean one resource match none.
pub fn no_match() -> Refusal {
    Refusal::new(
        RefusalKind::PreconditionFailed,
        Issue::error(
            IssueCode::NotFound,
            "No resource matches the criteria: send the resource that is meant first, or in the same transaction.",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criteria(filters: Vec<Filter>) -> Criteria {
        let query = Query { type_code: 1, filters, scope: Scope::All, sort: Vec::new() };
        Criteria { asked: query.filters.clone(), query, doubts: Vec::new() }
    }

    #[test]
    fn a_draft_is_judged_by_its_index_entries() {
        let token = |system: Option<&str>, code: &str| IndexEntry {
            param: 5,
            value: IndexValue::Token { system: system.map(Into::into), code: code.into() },
        };
        let wants = |system: SystemTest, code: &str| {
            criteria(vec![Filter::Param { param: 5, tests: vec![Test::Token { system, code: Some(code.into()) }] }])
        };
        let entries = [token(Some("http://nida"), "1"), token(None, "2")];
        assert_eq!(wants(SystemTest::Is("http://nida".into()), "1").matches_draft(1, "a", &entries), Some(true));
        assert_eq!(wants(SystemTest::Any, "1").matches_draft(1, "a", &entries), Some(true));
        assert_eq!(wants(SystemTest::Absent, "2").matches_draft(1, "a", &entries), Some(true));
        assert_eq!(wants(SystemTest::Absent, "1").matches_draft(1, "a", &entries), Some(false));
        assert_eq!(wants(SystemTest::Is("http://other".into()), "1").matches_draft(1, "a", &entries), Some(false));
        assert_eq!(wants(SystemTest::Any, "1").matches_draft(2, "a", &entries), Some(false));
        assert_eq!(criteria(vec![Filter::Id(vec!["a".into()])]).matches_draft(1, "a", &[]), Some(true));
    }

    #[test]
    fn criteria_that_mean_the_same_are_known_as_the_same() {
        let options = ParseOptions::new("http://localhost/fhir", jiff::tz::TimeZone::UTC);
        let patient = definitions::r4().type_code("Patient").unwrap();
        let read = |text: &str| Criteria::parse(patient, text, &Scope::All, &options).unwrap();
        let same = read("identifier=urn:s|1&active=true");
        for text in [
            "identifier=urn:s%7C1&active=true",
            "?active=true&identifier=urn%3As|1&active=true",
            "Patient?active=true,true&identifier=urn:s|1",
        ] {
            assert_eq!(read(text).meaning(), same.meaning(), "{text}");
        }
        for text in
            ["identifier=urn:s|1", "identifier=urn:s|1&active=false", "identifier=1&active=true", "identifier=urn:s|1,urn:s|2&active=true"]
        {
            assert_ne!(read(text).meaning(), same.meaning(), "{text}");
        }
        assert_eq!(read("identifier=urn:s|1,2").meaning(), read("identifier=2,urn:s|1").meaning());
    }
}
