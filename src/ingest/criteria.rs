//! The criteria of conditional interactions: which resources they mean, in the store and within a transaction.

use super::refusal::{Refusal, RefusalKind};
use crate::fhir::{Issue, IssueCode};
use crate::search::{self, ParseOptions};
use crate::store::query::{SystemTest, Test};
use crate::store::{Filter, IndexEntry, IndexValue, Precondition, Query, Scope, Store, Stored, TypeCode};

/// Search criteria that are to mean one resource.
#[derive(Clone, Debug)]
pub struct Criteria {
    pub(super) query: Query,
    claims: Vec<String>,
}

impl Criteria {
    /// Reads `identifier=…&…`; what the caller may not see does not match.
    pub fn parse(type_code: TypeCode, text: &str, scope: &Scope, options: &ParseOptions) -> Result<Criteria, Vec<Issue>> {
        let (query, claims) = search::conditional(type_code, text, scope.clone(), options)?;
        Ok(Criteria { query, claims })
    }

    /// The first two of the resources that match.
    pub async fn matches(&self, store: &Store) -> Result<Vec<Stored>, sqlx::Error> {
        Ok(store.search(&self.query, 2, None).await?.rows)
    }

    /// That the same resources still match when the transaction is applied.
    pub fn precondition(self, matched: &[Stored]) -> Precondition {
        let expected = matched.iter().map(|stored| stored.id.to_string()).collect();
        Precondition { query: self.query, expected, claims: self.claims }
    }

    /// Whether a resource of the same transaction, not stored yet, matches. Tokens, uris, exact texts and ids can be judged so;
    /// other criteria match in the store only.
    pub fn matches_draft(&self, type_code: TypeCode, id: &str, entries: &[IndexEntry]) -> bool {
        type_code == self.query.type_code && self.query.filters.iter().all(|filter| judge(filter, id, entries) == Some(true))
    }
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
        Filter::Missing { param, missing, .. } => Some(entries.iter().any(|entry| entry.param == *param) != *missing),
        Filter::Any(filters) => any(filters.iter().map(|filter| judge(filter, id, entries))),
        Filter::Nothing => Some(false),
        Filter::LastUpdated { .. } | Filter::Chain { .. } | Filter::Has { .. } => None,
    }
}

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

fn passes(test: &Test, value: &IndexValue) -> Option<bool> {
    match (test, value) {
        (Test::Token { system, code }, IndexValue::Token { system: has, code: is }) => {
            let system_holds = match system {
                SystemTest::Any => true,
                SystemTest::Absent => has.is_none(),
                SystemTest::Is(wanted) => has.as_deref() == Some(wanted),
            };
            Some(system_holds && code.as_deref().is_none_or(|code| code == &**is))
        }
        (Test::Uri(wanted), IndexValue::Uri(is)) => Some(wanted == &**is),
        (Test::Canonical(wanted), IndexValue::Uri(is)) => {
            Some(is.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('|')))
        }
        (Test::StringExact(wanted), IndexValue::String { text }) => Some(wanted == &**text),
        (Test::StringStarts(wanted), IndexValue::String { text }) => Some(crate::fhir::text::fold(text).starts_with(wanted.as_str())),
        _ => None,
    }
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
        Criteria { query: Query { type_code: 1, filters, scope: Scope::All, sort: Vec::new() }, claims: Vec::new() }
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
        assert!(wants(SystemTest::Is("http://nida".into()), "1").matches_draft(1, "a", &entries));
        assert!(wants(SystemTest::Any, "1").matches_draft(1, "a", &entries));
        assert!(wants(SystemTest::Absent, "2").matches_draft(1, "a", &entries));
        assert!(!wants(SystemTest::Absent, "1").matches_draft(1, "a", &entries));
        assert!(!wants(SystemTest::Is("http://other".into()), "1").matches_draft(1, "a", &entries));
        assert!(!wants(SystemTest::Any, "1").matches_draft(2, "a", &entries), "another type");
        assert!(criteria(vec![Filter::Id(vec!["a".into()])]).matches_draft(1, "a", &[]));
    }
}
