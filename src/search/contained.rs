//! `_contained` and `_containedType`: resources that are searched where they are contained in others
//! (<https://hl7.org/fhir/R4/search.html#contained>).
//!
//! What matches is a contained resource, by its own values; what comes back is what contains it, or itself alone. What it may be
//! found in is the container's to say: whose it is, what the scopes reach of it, what consent allows of it.

use super::parse::{Over, SearchRequest};
use crate::fhir::{Issue, IssueCode};
use crate::store::query::SortBy;
use crate::store::{Filter, Query, SortKey};

/// Which resources match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// Those that stand by themselves.
    #[default]
    Own,
    Contained,
    Both,
}

/// What the request says of contained resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contained {
    pub which: Which,
    /// They come by themselves, not with what contains them.
    pub alone: bool,
}

/// What of the request cannot be asked of contained resources.
pub(super) fn problems(request: &SearchRequest, over: Over<'_>) -> Vec<Issue> {
    let Contained { which, alone } = request.contained;
    if which == Which::Own {
        return Vec::new();
    }
    let issue = |words: &str, key: &str| Issue::error(IssueCode::NotSupported, words).at(super::parse::path(over.label(), key));
    let mut problems = Vec::new();
    if !matches!(over, Over::Type(_)) {
        problems.push(issue("contained resources are searched one type at a time: write /fhir/Type?_contained=true", "_contained"));
    }
    if has_referrers(&request.query.filters) {
        problems.push(issue("nothing outside refers to a contained resource, so _has and _list find none", "_contained"));
    }
    let by_container = |key: &SortKey| matches!(key.by, SortBy::Id | SortBy::LastUpdated);
    if !alone && !request.query.sort.iter().all(by_container) {
        let words = "what contains the matches is sorted by its own _id and _lastUpdated only; write _containedType=contained to sort by what is contained";
        problems.push(issue(words, "_sort"));
    }
    if alone && !(request.includes.is_empty() && request.revincludes.is_empty()) {
        problems.push(issue("nothing is included with resources that come without what contains them", "_containedType"));
    }
    problems
}

/// Makes the queries that find what the request asks for; `containers`: what the caller's scopes demand of what contains it.
pub fn apply(request: &mut SearchRequest, containers: Vec<Filter>) {
    let Contained { which, alone } = request.contained;
    if which == Which::Own {
        return;
    }
    if alone {
        request.query.sort.push(SortKey { by: SortBy::Contained, descending: false });
    }
    let own = &request.query;
    let mut filters = vec![Filter::Contained { type_code: own.type_code, filters: own.filters.clone() }];
    filters.extend(containers);
    if which == Which::Both && !alone {
        // What matches itself is not there a second time for what it contains.
        let matches = [vec![Filter::OfType(vec![own.type_code])], own.filters.clone()].concat();
        filters.push(Filter::Not(Box::new(Filter::All(matches))));
    }
    let query = Query { filters, ..own.clone() };
    match which {
        Which::Both => request.further.push(query),
        _ => request.query = query,
    }
}

fn has_referrers(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| match filter {
        Filter::Has { .. } | Filter::HasCanonical { .. } => true,
        Filter::Any(filters) | Filter::All(filters) => has_referrers(filters),
        Filter::Not(filter) => has_referrers(std::slice::from_ref(filter)),
        _ => false,
    })
}
