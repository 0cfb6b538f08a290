//! The parameters of a search request, read into a [`SearchRequest`] or refused with every problem at once.

use super::filter::{Reader, index_kinds, shown};
use super::own::Own;
use super::{lex, suggest};
use crate::definitions::{self, Definitions, ParamKind, SearchParam};
use crate::fhir::{Issue, IssueCode, time};
use crate::store::query::SortBy;
use crate::store::{ParamId, Query, Scope, SortKey, TypeCode};
use crate::terminology::Terminology;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Parameters of one request.
pub const MAX_PARAMS: usize = 100;
/// Values between commas, over all parameters of one request.
pub const MAX_VALUES: usize = 1_000;
/// Keys of `_sort`.
const MAX_SORTS: usize = 8;
/// `_include` and `_revinclude` together.
const MAX_INCLUDES: usize = 32;

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
    pub includes: Vec<Include>,
    pub revincludes: Vec<Include>,
    /// Matches per page; 0: only the total is wanted.
    pub count: u32,
    pub total: Total,
    pub summary: Summary,
    /// Elements asked for by `_elements`; empty: all. They win over every summary but `count`.
    pub elements: Vec<String>,
    /// The token of a `next` link, still sealed.
    pub cursor: Option<String>,
    /// What was left out, to be said in the answer.
    pub warnings: Vec<Issue>,
    /// The operator's own search parameters, as the request was read by.
    pub own: Arc<Own>,
    /// The parameters that were used, for the `self` link; without the cursor.
    pub self_params: Vec<(String, String)>,
    /// What a page token is bound to: type, filters, sort and scope, in one text.
    pub binding: String,
}

/// Reads the decoded `pairs` of a search on one type. The error lists every problem, each with the parameter that it is about.
pub fn parse(type_code: TypeCode, pairs: &[(String, String)], scope: Scope, options: &ParseOptions) -> Result<SearchRequest, Vec<Issue>> {
    let definitions = definitions::r4();
    let type_name = definitions.type_name(type_code);
    limits(type_name, pairs)?;
    let mut request = SearchRequest {
        query: Query { type_code, filters: Vec::new(), scope, sort: Vec::new() },
        includes: Vec::new(),
        revincludes: Vec::new(),
        count: options.default_count,
        total: Total::default(),
        summary: Summary::default(),
        elements: Vec::new(),
        cursor: None,
        warnings: Vec::new(),
        own: Arc::clone(&options.own),
        self_params: Vec::new(),
        binding: String::new(),
    };
    let mut errors = Vec::new();
    let mut reader = Reader::new(options);
    let mut filters_used = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in pairs {
        let once = matches!(key.as_str(), "_sort" | "_count" | "_total" | "_summary" | CURSOR);
        if once && seen.contains(&key.as_str()) {
            errors.push(Issue::error(IssueCode::Invalid, format!("{key} may be given once")).at(path(type_name, key)));
            continue;
        }
        seen.push(key);
        let outcome = match control(definitions, &mut request, key, value, options) {
            Some(outcome) => outcome,
            None if value.is_empty() => Err(Wrong::ignorable("the parameter has no value")),
            None => match reader.filters(type_code, key, value) {
                Ok(filters) => {
                    filters_used.push(format!("{key}={value}"));
                    request.query.filters.extend(filters);
                    Ok(Used::Yes)
                }
                Err(refusal) => Err(Wrong { issue: refusal.issue, ignorable: refusal.ignorable }),
            },
        };
        match outcome {
            Ok(Used::Yes) => request.self_params.push((key.clone(), value.clone())),
            Ok(Used::As(value)) => request.self_params.push((key.clone(), value)),
            Ok(Used::No) => {}
            Err(wrong) if wrong.ignorable && !options.strict => {
                let words = wrong.issue.diagnostics;
                let words = format!("{words}{} It was ignored.", if words.ends_with('?') { "" } else { "." });
                request.warnings.push(Issue::warning(wrong.issue.code, words).at(path(type_name, key)));
            }
            Err(wrong) => errors.push(wrong.issue.at(path(type_name, key))),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    filters_used.sort();
    let query = &request.query;
    request.binding = format!("{type_name}?{}\n{:?}\n{}", filters_used.join("&"), query.sort, query.scope.binding());
    Ok(request)
}

/// `Observation?date`: where an issue of a request is.
pub(super) fn path(type_name: &str, key: &str) -> String {
    format!("{type_name}?{}", shown(key))
}

/// Refuses what would take long to refuse otherwise.
pub(super) fn limits(type_name: &str, pairs: &[(String, String)]) -> Result<(), Vec<Issue>> {
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
    Ok(())
}

/// What became of a parameter.
enum Used {
    Yes,
    /// With another value than given.
    As(String),
    /// It has no place in the `self` link.
    No,
}

struct Wrong {
    issue: Issue,
    ignorable: bool,
}

impl Wrong {
    fn error(code: IssueCode, words: impl Into<String>) -> Self {
        Wrong { issue: Issue::error(code, words), ignorable: false }
    }

    fn ignorable(words: impl Into<String>) -> Self {
        Wrong { issue: Issue::error(IssueCode::NotSupported, words), ignorable: true }
    }
}

/// Takes a parameter about the answer; `None`: it is about resources.
fn control(
    definitions: &'static Definitions,
    request: &mut SearchRequest,
    key: &str,
    value: &str,
    options: &ParseOptions,
) -> Option<Result<Used, Wrong>> {
    let (name, modifier) = match key.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (key, None),
    };
    let type_code = request.query.type_code;
    let choice = |words: &str| Wrong::error(IssueCode::Value, format!("{name} is one of {words}"));
    Some(match (name, modifier) {
        ("_include" | "_revinclude", None | Some("iterate" | "recurse")) => {
            let reverse = name == "_revinclude";
            if request.includes.len() + request.revincludes.len() >= MAX_INCLUDES {
                return Some(Err(Wrong::error(IssueCode::TooCostly, format!("a search has {MAX_INCLUDES} includes at most"))));
            }
            include(definitions, options, type_code, value, modifier.is_some(), reverse).map(|include| {
                if reverse { &mut request.revincludes } else { &mut request.includes }.push(include);
                Used::Yes
            })
        }
        (name, Some(_)) if CONTROLS.contains(&name) || name == CURSOR => {
            Err(Wrong::error(IssueCode::Invalid, format!("{name} takes no such modifier")))
        }
        ("_type", None) if value != definitions.type_name(type_code) => {
            Err(Wrong::ignorable("_type has no place in a search of one type, whose name is in the URL"))
        }
        ("_type" | "_format" | "_pretty", None) => Ok(Used::No),
        (CURSOR, None) => {
            request.cursor = Some(value.to_owned());
            Ok(Used::No)
        }
        ("_count", None) => match value.parse::<u32>() {
            Ok(count) => {
                request.count = count.min(options.max_count);
                Ok(Used::As(request.count.to_string()))
            }
            Err(_) => Err(Wrong::error(IssueCode::Value, "_count is a whole number, 0 or more")),
        },
        ("_total", None) => match value {
            "none" => Ok(Total::None),
            "estimate" => Ok(Total::Estimate),
            "accurate" => Ok(Total::Accurate),
            _ => Err(choice("none, estimate, accurate")),
        }
        .map(|total| {
            request.total = total;
            Used::Yes
        }),
        ("_summary", None) => match value {
            "true" => Ok(Summary::True),
            "text" => Ok(Summary::Text),
            "data" => Ok(Summary::Data),
            "count" => Ok(Summary::Count),
            "false" => Ok(Summary::False),
            _ => Err(choice("true, text, data, count, false")),
        }
        .map(|summary| {
            request.summary = summary;
            Used::Yes
        }),
        ("_elements", None) => elements(definitions, type_code, value).map(|elements| {
            request.elements.extend(elements);
            Used::Yes
        }),
        ("_sort", None) => sort(definitions, options, type_code, value).map(|keys| {
            request.query.sort = keys;
            Used::Yes
        }),
        ("_contained", None) if value == "false" => Ok(Used::Yes),
        ("_contained" | "_containedType" | "_maxresults" | "_score", None) => {
            Err(Wrong::error(IssueCode::NotSupported, format!("{name} is not supported by this server")))
        }
        _ => return None,
    })
}

/// The names of `_elements`; a name may have the type before it.
fn elements(definitions: &Definitions, type_code: TypeCode, value: &str) -> Result<Vec<String>, Wrong> {
    let type_name = definitions.type_name(type_code);
    let mut names = Vec::new();
    // Some clients ask for what every answer has.
    for name in value.split(',').map(str::trim).filter(|name| *name != "resourceType") {
        let name = name.strip_prefix(type_name).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        let top = name.split('.').next().unwrap_or_default().trim_end_matches("[x]");
        let structure = definitions.structure(type_name);
        let elements = structure.map_or(&[][..], |structure| &structure.elements);
        // `effectiveDateTime` means `effective[x]`.
        let of_choice = structure.and_then(|structure| structure.key(top)).map(|(_, element, _)| element.name);
        let Some(name) = elements.iter().map(|element| element.name).find(|name| *name == top).or(of_choice) else {
            let hint = suggest::hint(top, elements.iter().map(|element| element.name));
            return Err(Wrong::ignorable(format!("{type_name} has no element '{}'{hint}", shown(top))));
        };
        names.push(name.to_owned());
    }
    Ok(names)
}

fn sort(definitions: &Definitions, options: &ParseOptions, type_code: TypeCode, value: &str) -> Result<Vec<SortKey>, Wrong> {
    let type_name = definitions.type_name(type_code);
    let mut keys = Vec::new();
    for name in value.split(',').map(str::trim) {
        let (name, descending) = match name.strip_prefix('-') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let by = match (name, options.param(type_code, name)) {
            ("_id", _) => SortBy::Id,
            ("_lastUpdated", _) => SortBy::LastUpdated,
            (_, Some(param)) if !matches!(param.kind, ParamKind::Composite | ParamKind::Special) => {
                let kind = index_kinds(param.kind).first().copied();
                SortBy::Param { param: param.id, kind: kind.ok_or_else(|| Wrong::ignorable("this parameter cannot be sorted by"))? }
            }
            (_, Some(_)) => return Err(Wrong::error(IssueCode::NotSupported, format!("{type_name}.{name} cannot be sorted by"))),
            (_, None) => {
                let hint = suggest::hint(name, definitions.params(type_code).iter().map(|param| param.code.as_str()));
                return Err(Wrong::ignorable(format!("{type_name} has no search parameter '{}' to sort by{hint}", shown(name))));
            }
        };
        keys.push(SortKey { by, descending });
    }
    if keys.len() > MAX_SORTS {
        return Err(Wrong::error(IssueCode::TooCostly, format!("_sort takes {MAX_SORTS} keys at most")));
    }
    Ok(keys)
}

/// `Type:param[:Target]`, `Type:*` or `*`.
fn include(
    definitions: &Definitions,
    options: &ParseOptions,
    type_code: TypeCode,
    value: &str,
    iterate: bool,
    reverse: bool,
) -> Result<Include, Wrong> {
    let searched = definitions.type_name(type_code);
    let mut parts = value.split(':');
    let (source, param, target) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let typed = |name: &str| {
        definitions.type_code(name).ok_or_else(|| {
            let hint = suggest::hint(name, definitions.resource_types().iter().copied());
            Wrong::ignorable(format!("'{}' is no R4 resource type{hint}", shown(name)))
        })
    };
    if parts.next().is_some() {
        return Err(Wrong::error(IssueCode::Invalid, "an include is written Type:parameter or Type:parameter:Target"));
    }
    if source == "*" && param.is_none() {
        return Ok(Include { source: None, param: None, target: None, iterate });
    }
    if value.is_empty() {
        return Err(Wrong::ignorable("the parameter has no value"));
    }
    let Some(code) = param else {
        return Err(Wrong::error(IssueCode::Invalid, "an include is written Type:parameter or Type:parameter:Target"));
    };
    let source = typed(source)?;
    let target = target.filter(|target| !target.is_empty()).map(typed).transpose()?;
    let source_name = definitions.type_name(source);
    if !reverse && !iterate && source != type_code {
        return Err(Wrong::ignorable(format!(
            "the matches are of type {searched}, so {source_name} includes nothing; write _include:iterate to follow what was included"
        )));
    }
    if code == "*" {
        return Ok(Include { source: Some(source), param: None, target, iterate });
    }
    let param = options.param(source, code).filter(|param| param.kind == ParamKind::Reference).ok_or_else(|| {
        let known = definitions
            .params(source)
            .iter()
            .chain(options.own.ready(source).map(|own| &own.param))
            .filter(|param| param.kind == ParamKind::Reference)
            .map(|param| param.code.as_str());
        Wrong::ignorable(format!("{source_name} has no reference parameter '{}'{}", shown(code), suggest::hint(code, known)))
    })?;
    let wanted = target.or((reverse && !iterate).then_some(type_code));
    if let Some(wanted) = wanted.filter(|wanted| !param.targets.contains(wanted)) {
        let name = definitions.type_name(wanted);
        return Err(Wrong::ignorable(format!("{source_name}.{code} does not refer to {name}")));
    }
    Ok(Include { source: Some(source), param: Some(param.id), target, iterate })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
