//! The parameters of a search request, read into a [`SearchRequest`] or refused with every problem at once.

use super::contained::{self, Contained};
use super::controls::Controls;
use super::filter::{Reader, shown};
use super::lex;
use super::own::{Doubt, Own};
use crate::definitions::{self, SearchParam};
use crate::fhir::{Issue, IssueCode, time};
use crate::store::{Filter, ParamId, Query, Scope, TypeCode};
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Parameters of one request.
pub const MAX_PARAMS: usize = 100;
/// Values between commas, over all parameters of one request.
pub const MAX_VALUES: usize = 1_000;
/// The same, times the types of a search over several.
const MAX_VALUES_OF_ALL: usize = 5_000;

/// Chains and `_has` side by side. PostgreSQL plans these together: twenty take it a tenth of a second, forty one, a hundred fifteen.
const MAX_JOINED: usize = 32;

/// The parameter that carries a page's token.
pub const CURSOR: &str = "_cursor";

/// Parameters about the answer, not about resources.
pub const CONTROLS: [&str; 14] = [
    "_sort",
    "_count",
    "_total",
    "_summary",
    "_elements",
    "_include",
    "_revinclude",
    "_contained",
    "_containedType",
    "_maxresults",
    "_score",
    "_type",
    "_format",
    "_pretty",
];

/// How a request is read.
#[derive(Clone, Debug)]
pub struct ParseOptions {
    /// Dates without a zone are read in this one.
    pub zone: TimeZone,
    /// The FHIR base, such as `https://hie.example.org/fhir`, without a slash at its end.
    pub base_url: String,
    /// `Prefer: handling=strict`: what is unknown is an error; otherwise it is a warning and left out.
    pub strict: bool,
    /// The most matches that a page may have.
    pub max_count: u32,
    /// The matches of a page when the request does not say.
    pub default_count: u32,
    /// The moment that `ap` on dates measures from.
    pub now: time::Micros,
    /// What `:in`, `:not-in`, `:above` and `:below` on tokens are decided by.
    pub terminology: Terminology,
    /// The operator's own search parameters.
    pub own: Arc<Own>,
    /// Whether the words of resources are indexed, for `_text` and `_content`.
    pub full_text: bool,
}

impl ParseOptions {
    /// Lenient, pages of 20 and at most 1,000.
    pub fn new(base_url: impl Into<String>, zone: TimeZone) -> Self {
        ParseOptions {
            zone,
            base_url: base_url.into(),
            strict: false,
            max_count: 1_000,
            default_count: 20,
            now: time::now(),
            terminology: Terminology::new(),
            own: Arc::default(),
            full_text: false,
        }
    }
}

impl ParseOptions {
    /// The search parameter of a type.
    pub fn param(&self, type_code: TypeCode, code: &str) -> Option<&SearchParam> {
        let own = || self.own.find(type_code, code).filter(|own| own.ready).map(|own| &own.param);
        definitions::r4().param(type_code, code).or_else(own)
    }

    /// Why an own parameter may not be named yet: until all is indexed by it, an answer would be wrong.
    pub(super) fn unready(&self, type_code: TypeCode, code: &str) -> Option<Issue> {
        self.own.find(type_code, code).filter(|own| !own.ready)?;
        let type_name = definitions::r4().type_name(type_code);
        Some(Issue::error(IssueCode::Transient, format!("{type_name}.{code} is still being indexed; ask again in a while")))
    }
}

/// `_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Total {
    /// Not asked for: told when it costs nothing, because everything is on this page.
    #[default]
    Unasked,
    None,
    /// Answered like `accurate`.
    Estimate,
    Accurate,
}

impl Total {
    pub(super) fn of(value: &str) -> Option<Total> {
        match value {
            "none" => Some(Total::None),
            "estimate" => Some(Total::Estimate),
            "accurate" => Some(Total::Accurate),
            _ => None,
        }
    }
}

/// `_summary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Summary {
    #[default]
    False,
    True,
    Text,
    Data,
    Count,
}

impl Summary {
    pub(super) fn of(value: &str) -> Option<Summary> {
        match value {
            "true" => Some(Summary::True),
            "text" => Some(Summary::Text),
            "data" => Some(Summary::Data),
            "count" => Some(Summary::Count),
            "false" => Some(Summary::False),
            _ => None,
        }
    }
}

/// One `_include` or `_revinclude`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Include {
    /// The type that refers; `None`: `*`.
    pub source: Option<TypeCode>,
    /// The reference parameter by which it refers; `None`: all of them.
    pub param: Option<ParamId>,
    /// Only resources of this type.
    pub target: Option<TypeCode>,
    /// Applied to what was included, too.
    pub iterate: bool,
}

/// A request, understood.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    pub query: Query,
    /// Those of the further types, in a search over several.
    pub further: Vec<Query>,
    pub includes: Vec<Include>,
    pub revincludes: Vec<Include>,
    /// Whether contained resources match; [`super::contained::apply`] carries it out.
    pub contained: Contained,
    /// Matches per page; 0: only the total is wanted.
    pub count: u32,
    /// `_maxresults`: matches of all pages together.
    pub most: Option<u32>,
    pub total: Total,
    pub summary: Summary,
    /// Elements asked for by `_elements`, each of a type; empty: all. They win over every summary but `count`.
    pub elements: Vec<(TypeCode, String)>,
    /// The token of a `next` link, still sealed.
    pub cursor: Option<String>,
    /// What was left out, to be said in the answer.
    pub warnings: Vec<Issue>,
    /// Own parameters that it names, to be asked whether they are known of everything.
    pub doubts: Vec<Doubt>,
    /// The operator's own search parameters, as the request was read by.
    pub own: Arc<Own>,
    /// The parameters that were used, for the `self` link; without the cursor.
    pub self_params: Vec<(String, String)>,
    /// What a page token is bound to: type, filters, sort and scope, in one text.
    pub binding: String,
}

impl SearchRequest {
    /// Whether it names this type.
    pub(super) fn searches(&self, type_code: TypeCode) -> bool {
        self.queries().iter().any(|query| query.type_code == type_code)
    }

    /// One for each type.
    pub fn queries(&self) -> Vec<&Query> {
        std::iter::once(&self.query).chain(&self.further).collect()
    }
}

/// What a search is over.
#[derive(Clone, Copy, Debug)]
pub enum Over<'a> {
    Type(TypeCode),
    /// Those that `_type` names.
    Named(&'a [TypeCode]),
    /// All that are at hand, because `_type` names none.
    Everything(&'a [TypeCode]),
}

impl<'a> Over<'a> {
    pub(super) fn types(&'a self) -> &'a [TypeCode] {
        match self {
            Over::Type(type_code) => std::slice::from_ref(type_code),
            Over::Named(types) | Over::Everything(types) => types,
        }
    }

    /// Before the question mark where an issue says what it is about.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Over::Type(type_code) => definitions::r4().type_name(*type_code),
            _ => "Resource",
        }
    }
}

/// Reads the decoded `pairs` of a search on one type. The error lists every problem, each with the parameter that it is about.
pub fn parse(type_code: TypeCode, pairs: &[(String, String)], scope: Scope, options: &ParseOptions) -> Result<SearchRequest, Vec<Issue>> {
    parse_over(Over::Type(type_code), pairs, scope, options)
}

/// The same over several types. A parameter means what it means for each of them, and one that is not every type's is refused.
pub fn parse_over(over: Over<'_>, pairs: &[(String, String)], scope: Scope, options: &ParseOptions) -> Result<SearchRequest, Vec<Issue>> {
    let label = over.label();
    limits(label, pairs, over.types().len())?;
    let mut queries =
        over.types().iter().map(|code| Query { type_code: *code, filters: Vec::new(), scope: scope.clone(), sort: Vec::new() });
    let Some(query) = queries.next() else {
        return Err(vec![Issue::error(IssueCode::Required, "name a type to search").at("_type")]);
    };
    let mut request = SearchRequest {
        query,
        further: queries.collect(),
        includes: Vec::new(),
        revincludes: Vec::new(),
        contained: Contained::default(),
        count: options.default_count,
        most: None,
        total: Total::default(),
        summary: Summary::default(),
        elements: Vec::new(),
        cursor: None,
        warnings: Vec::new(),
        doubts: Vec::new(),
        own: Arc::clone(&options.own),
        self_params: Vec::new(),
        binding: String::new(),
    };
    let mut errors = Vec::new();
    let mut reader = Reader::over(options, over.types().len());
    let contained = pairs.iter().any(|(key, value)| key == "_contained" && matches!(value.as_str(), "true" | "both"));
    let controls = Controls { definitions: definitions::r4(), options, over, contained };
    let mut filters_used = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in pairs {
        let once =
            matches!(key.as_str(), "_sort" | "_count" | "_maxresults" | "_total" | "_summary" | "_contained" | "_containedType" | CURSOR);
        if once && seen.contains(&key.as_str()) {
            errors.push(Issue::error(IssueCode::Invalid, format!("{key} may be given once")).at(path(label, key)));
            continue;
        }
        seen.push(key);
        let outcome = match controls.take(&mut request, key, value) {
            Some(outcome) => outcome,
            None if value.is_empty() => Err(Wrong::ignorable("the parameter has no value")),
            None => match (filters(&mut reader, over, key, value), reader.incomplete()) {
                (Ok(_), Some(issue)) if options.strict => Err(Wrong { issue, ignorable: false }),
                (Ok(filters), incomplete) => {
                    request.warnings.extend(incomplete.map(|issue| {
                        let words = format!("{} What is found goes by that part.", issue.diagnostics);
                        Issue::warning(issue.code, words).at(path(label, key))
                    }));
                    filters_used.push(format!("{key}={value}"));
                    request.doubts.extend(reader.doubts(&scope, || path(label, key)));
                    let queries = std::iter::once(&mut request.query).chain(&mut request.further);
                    queries.zip(filters).for_each(|(query, filters)| query.filters.extend(filters));
                    Ok(Used::Yes)
                }
                (Err(wrong), _) => Err(wrong),
            },
        };
        match outcome {
            Ok(Used::Yes) => request.self_params.push((key.clone(), value.clone())),
            Ok(Used::As(value)) => request.self_params.push((key.clone(), value)),
            Ok(Used::No) => {}
            Err(wrong) if wrong.ignorable && !options.strict => {
                let words = wrong.issue.diagnostics;
                let words = format!("{words}{} It was ignored.", if words.ends_with('?') { "" } else { "." });
                request.warnings.push(Issue::warning(wrong.issue.code, words).at(path(label, key)));
            }
            Err(wrong) => errors.push(wrong.issue.at(path(label, key))),
        }
    }
    errors.extend(contained::problems(&request, over));
    errors.extend(too_many_joined(label, &request.query.filters));
    if !errors.is_empty() {
        return Err(errors);
    }
    filters_used.sort();
    let query = &request.query;
    let types: Vec<TypeCode> = request.further.iter().map(|query| query.type_code).collect();
    request.binding =
        format!("{label}?{}\n{:?}\n{types:?} {:?}\n{}", filters_used.join("&"), query.sort, request.contained, query.scope.binding());
    // Pages of what was decided otherwise when the first was read would leave out what is on none.
    for decided in reader.decided().into_iter().chain(request.doubts.iter().map(|doubt| format!("{:?}", doubt.query.filters))) {
        request.binding.push_str(&format!("\n{decided}"));
    }
    if let Some(most) = request.most {
        request.binding.push_str(&format!("\n{most}"));
    }
    Ok(request)
}

/// The conditions of one parameter for each of the types, all of which must know it.
fn filters(reader: &mut Reader<'_>, over: Over<'_>, key: &str, value: &str) -> Result<Vec<Vec<Filter>>, Wrong> {
    if let (Over::Everything(_), false) = (over, key.starts_with('_')) {
        return Err(Wrong::ignorable(format!(
            "'{}' is not a parameter of every type: name the types that are meant, as in _type=Patient,Observation",
            shown(key)
        )));
    }
    let of_type = |type_code: &TypeCode| reader.filters(*type_code, key, value);
    let filters: Vec<Vec<Filter>> = over
        .types()
        .iter()
        .map(of_type)
        .collect::<Result<_, _>>()
        .map_err(|refusal| Wrong { issue: refusal.issue, ignorable: refusal.ignorable })?;
    if key.starts_with("_has:") && filters.len() > 1 && filters.iter().all(|filters| *filters == [Filter::Nothing]) {
        return Err(Wrong::error(IssueCode::Invalid, "none of the types that are searched is what this parameter refers to"));
    }
    Ok(filters)
}

/// `Observation?date`: where an issue of a request is.
pub(super) fn path(type_name: &str, key: &str) -> String {
    format!("{type_name}?{}", shown(key))
}

/// Refuses what would take long to refuse otherwise.
pub(super) fn limits(type_name: &str, pairs: &[(String, String)], types: usize) -> Result<(), Vec<Issue>> {
    let too_costly = |words: String| Err(vec![Issue::error(IssueCode::TooCostly, words).at(type_name)]);
    if pairs.len() > MAX_PARAMS {
        return too_costly(format!("a search has {MAX_PARAMS} parameters at most"));
    }
    // PostgreSQL keeps no text with this character, and FHIR allows none.
    if let Some((name, _)) = pairs.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        let at = if name.contains('\0') { type_name.to_owned() } else { path(type_name, name) };
        return Err(vec![Issue::error(IssueCode::Value, "the parameter holds the character U+0000, which no text can hold").at(at)]);
    }
    let values: usize = pairs.iter().map(|(_, value)| lex::split(value, ',').len()).sum();
    if values > MAX_VALUES {
        return too_costly(format!("a search has {MAX_VALUES} values at most, commas counted"));
    }
    if types > 1 && values.saturating_mul(types) > MAX_VALUES_OF_ALL {
        return too_costly(format!("these are {values} values for each of {types} types; name fewer values, or fewer types by _type"));
    }
    Ok(())
}

/// Refuses what would take long to plan.
pub(super) fn too_many_joined(type_name: &str, filters: &[Filter]) -> Option<Issue> {
    let words = format!("a search has {MAX_JOINED} chains and _has side by side at most: ask in several searches");
    (joined(filters) > MAX_JOINED).then(|| Issue::error(IssueCode::TooCostly, words).at(type_name))
}

/// How many chains and `_has` stand side by side; those within one count where there are several.
fn joined(filters: &[Filter]) -> usize {
    let of_one = |filter: &Filter| match filter {
        Filter::Chain { targets, .. } | Filter::Canonical { targets, .. } => {
            targets.iter().map(|(_, filters)| joined(filters)).max().unwrap_or_default().max(1)
        }
        Filter::Has { filters, .. } | Filter::HasCanonical { filters, .. } => joined(filters).max(1),
        Filter::Any(filters) | Filter::All(filters) | Filter::Contained { filters, .. } => joined(filters),
        Filter::Not(filter) => joined(std::slice::from_ref(filter)),
        Filter::Param { .. }
        | Filter::NotParam { .. }
        | Filter::Missing { .. }
        | Filter::Id(_)
        | Filter::LastUpdated { .. }
        | Filter::OfType(_)
        | Filter::Nothing => 0,
    };
    filters.iter().map(of_one).sum()
}

/// What became of a parameter.
pub(super) enum Used {
    Yes,
    /// With another value than given.
    As(String),
    /// It has no place in the `self` link.
    No,
}

pub(super) struct Wrong {
    pub issue: Issue,
    pub ignorable: bool,
}

impl Wrong {
    pub fn error(code: IssueCode, words: impl Into<String>) -> Self {
        Wrong { issue: Issue::error(code, words), ignorable: false }
    }

    pub fn ignorable(words: impl Into<String>) -> Self {
        Wrong { issue: Issue::error(IssueCode::NotSupported, words), ignorable: true }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
