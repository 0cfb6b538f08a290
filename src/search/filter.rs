//! One parameter of a query string to filters: modifiers, chains and `_has` (<https://hl7.org/fhir/R4/search.html>).

use super::parse::ParseOptions;
use super::value::{Reading, Values};
use super::{lex, suggest};
use crate::definitions::{self, Definitions, ParamKind, SearchParam};
use crate::fhir::{Issue, IssueCode, reference};
use crate::store::TypeCode;
use crate::store::query::{Filter, Kind, Test};

/// Hops of one chain or `_has`.
const MAX_DEPTH: usize = 4;
/// Parameters that all chains of one request may come to, every possible target type counted: each is a part of the plan.
const MAX_NODES: usize = 400;

/// Parameters that R4 knows and lango cannot search by yet; ignoring them would widen the answer.
const NOT_YET: [&str; 5] = ["_list", "_text", "_content", "_filter", "_query"];

/// All modifiers of R4, to tell a mistyped one from one that does not apply.
const MODIFIERS: [&str; 12] =
    ["missing", "exact", "contains", "text", "not", "in", "not-in", "above", "below", "of-type", "identifier", "iterate"];

/// Why a parameter gave no filter.
#[derive(Debug)]
pub struct Refusal {
    pub issue: Issue,
    /// The server does not know it: a lenient search may go on without it, saying so.
    pub ignorable: bool,
}

fn bad(code: IssueCode, words: impl Into<String>) -> Refusal {
    Refusal { issue: Issue::error(code, words), ignorable: false }
}

fn unknown(words: impl Into<String>) -> Refusal {
    Refusal { issue: Issue::error(IssueCode::NotSupported, words), ignorable: true }
}

/// Reads the filters of one request.
pub struct Reader<'a> {
    definitions: &'static Definitions,
    options: &'a ParseOptions,
    nodes: usize,
}

impl<'a> Reader<'a> {
    pub fn new(options: &'a ParseOptions) -> Self {
        Reader { definitions: definitions::r4(), options, nodes: 0 }
    }

    /// The conditions that `key=value` puts on resources of a type, all of which must hold; none when it is always true.
    ///
    /// A chain or `_has` that leads nowhere is an error, lenient or not: whoever writes one means to narrow the answer, and no
    /// other server's extension could be meant.
    pub fn filters(&mut self, type_code: TypeCode, key: &str, value: &str) -> Result<Vec<Filter>, Refusal> {
        let leads_away = key.contains('.') || key == "_has" || key.starts_with("_has:");
        self.at_depth(type_code, key, value, 0).map_err(|refusal| Refusal { ignorable: refusal.ignorable && !leads_away, ..refusal })
    }

    fn at_depth(&mut self, type_code: TypeCode, key: &str, value: &str, depth: usize) -> Result<Vec<Filter>, Refusal> {
        if depth > MAX_DEPTH {
            return Err(bad(IssueCode::TooCostly, format!("a chain has {MAX_DEPTH} hops at most")));
        }
        if key == "_has" {
            return Err(bad(IssueCode::Invalid, "_has is written _has:Type:reference-parameter:parameter"));
        }
        if let Some(rest) = key.strip_prefix("_has:") {
            return self.has(type_code, rest, value, depth);
        }
        let (head, chain) = match key.split_once('.') {
            Some((head, chain)) => (head, Some(chain)),
            None => (key, None),
        };
        let (code, modifier) = match head.split_once(':') {
            Some((code, modifier)) => (code, Some(modifier)),
            None => (head, None),
        };
        let param = self.param(type_code, code)?;
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(bad(
                IssueCode::TooCostly,
                "the chains of this search lead to too many types; name a type at each hop, as in subject:Patient.name",
            ));
        }
        match chain {
            Some(chain) => self.chain(type_code, param, modifier, chain, value, depth),
            None => self.leaf(type_code, param, modifier, value),
        }
    }

    fn param(&self, type_code: TypeCode, code: &str) -> Result<&'static SearchParam, Refusal> {
        let type_name = self.definitions.type_name(type_code);
        if NOT_YET.contains(&code) {
            return Err(bad(IssueCode::NotSupported, format!("{code} is not supported by this server")));
        }
        match self.definitions.param(type_code, code) {
            Some(param) if param.kind == ParamKind::Special => {
                Err(bad(IssueCode::NotSupported, format!("{type_name}.{code} is not supported by this server")))
            }
            Some(param) => Ok(param),
            None => {
                let known = self.definitions.params(type_code).iter().map(|param| param.code.as_str());
                let (shown, hint) = (shown(code), suggest::hint(code, known));
                Err(unknown(format!("{type_name} has no search parameter '{shown}'{hint}")))
            }
        }
    }

    fn type_code(&self, name: &str) -> Result<TypeCode, Refusal> {
        self.definitions.type_code(name).ok_or_else(|| {
            let hint = suggest::hint(name, self.definitions.resource_types().iter().copied());
            unknown(format!("'{}' is no R4 resource type{hint}", shown(name)))
        })
    }

    /// `_has:Type:param:key`, without the `_has:`.
    fn has(&mut self, type_code: TypeCode, rest: &str, value: &str, depth: usize) -> Result<Vec<Filter>, Refusal> {
        let mut parts = rest.splitn(3, ':');
        let (Some(source), Some(code), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad(IssueCode::Invalid, "_has is written _has:Type:reference-parameter:parameter"));
        };
        let source = self.type_code(source)?;
        let param = self.param(source, code)?;
        if !param.targets.contains(&type_code) {
            let (from, to) = (self.definitions.type_name(source), self.definitions.type_name(type_code));
            return Err(bad(IssueCode::Invalid, format!("{from}.{code} does not refer to {to}")));
        }
        let filters = self.at_depth(source, key, value, depth + 1)?;
        Ok(vec![Filter::Has { source, param: param.id, filters }])
    }

    /// `param:Type.key`; without a type, every target type that has the parameter.
    fn chain(
        &mut self,
        type_code: TypeCode,
        param: &SearchParam,
        modifier: Option<&str>,
        key: &str,
        value: &str,
        depth: usize,
    ) -> Result<Vec<Filter>, Refusal> {
        let name = format!("{}.{}", self.definitions.type_name(type_code), param.code);
        if param.kind != ParamKind::Reference || param.targets.is_empty() {
            return Err(bad(IssueCode::Invalid, format!("{name} is no reference to another resource, so nothing can be chained to it")));
        }
        if let Some(modifier) = modifier {
            let target = self.target(&name, param, modifier)?;
            let filters = self.at_depth(target, key, value, depth + 1)?;
            return Ok(vec![Filter::Chain { param: param.id, targets: vec![(target, filters)] }]);
        }
        let (mut targets, mut refusal): (Vec<_>, Option<Refusal>) = (Vec::new(), None);
        for target in &param.targets {
            match self.at_depth(*target, key, value, depth + 1) {
                Ok(filters) => targets.push((*target, filters)),
                Err(error) if error.issue.code == IssueCode::TooCostly => return Err(error),
                // What is wrong with the value says more than that a type lacks the parameter.
                Err(error) if refusal.as_ref().is_none_or(|kept| kept.ignorable && !error.ignorable) => refusal = Some(error),
                Err(_) => {}
            }
        }
        match refusal {
            Some(refusal) if targets.is_empty() && refusal.ignorable && param.targets.len() > 1 => {
                let head = key.split(['.', ':']).next().unwrap_or_default();
                Err(unknown(format!("no type that {name} may refer to has a search parameter '{}'", shown(head))))
            }
            Some(refusal) if targets.is_empty() => Err(refusal),
            _ => Ok(vec![Filter::Chain { param: param.id, targets }]),
        }
    }

    /// The type that a modifier of a reference names.
    fn target(&self, name: &str, param: &SearchParam, modifier: &str) -> Result<TypeCode, Refusal> {
        if !reference::is_type_name(modifier) {
            return Err(bad(IssueCode::Invalid, format!("'{}' is no type that {name} may refer to", shown(modifier))));
        }
        let target = self.definitions.type_code(modifier).ok_or_else(|| {
            let hint = suggest::hint(modifier, self.definitions.resource_types().iter().copied());
            bad(IssueCode::Invalid, format!("'{}' is no R4 resource type{hint}", shown(modifier)))
        })?;
        if param.targets.contains(&target) {
            return Ok(target);
        }
        let known: Vec<&str> = param.targets.iter().take(8).map(|target| self.definitions.type_name(*target)).collect();
        Err(bad(IssueCode::Invalid, format!("{name} does not refer to {modifier}, but to {}", known.join(", "))))
    }

    fn leaf(&mut self, type_code: TypeCode, param: &SearchParam, modifier: Option<&str>, value: &str) -> Result<Vec<Filter>, Refusal> {
        let name = format!("{}.{}", self.definitions.type_name(type_code), param.code);
        if modifier == Some("missing") {
            let missing = match value {
                "true" => true,
                "false" => false,
                _ => return Err(bad(IssueCode::Value, ":missing is true or false")),
            };
            return Ok(match param.code.as_str() {
                // Every resource has both.
                "_id" | "_lastUpdated" if missing => vec![Filter::Nothing],
                "_id" | "_lastUpdated" => Vec::new(),
                _ => vec![Filter::Missing { param: param.id, kinds: index_kinds(param.kind).to_vec(), missing }],
            });
        }
        let (reading, negated) = self.reading(&name, param, modifier)?;
        let values = lex::split(value, ',');
        let reader = Values { definitions: self.definitions, options: self.options, type_code };
        let wrong = |place: usize, words: String| {
            let which = if values.len() > 1 { format!("value {} of {}: ", place + 1, values.len()) } else { String::new() };
            bad(IssueCode::Value, format!("{which}{words}"))
        };
        match param.code.as_str() {
            "_id" if negated => Err(bad(IssueCode::NotSupported, ":not on _id is not supported by this server")),
            "_id" => {
                let ids: Vec<String> = values.iter().map(|id| lex::unescape(id)).collect();
                match ids.iter().position(|id| !reference::is_id(id)) {
                    Some(place) => Err(wrong(place, "not an id; ids have 1 to 64 letters, digits, - and .".into())),
                    None => Ok(vec![Filter::Id(ids)]),
                }
            }
            "_lastUpdated" => {
                let mut ranges = Vec::with_capacity(values.len());
                for (place, value) in values.iter().enumerate() {
                    let range = reader.date(value).map_err(|words| wrong(place, words))?;
                    ranges.push(Filter::LastUpdated { ranges: vec![range] });
                }
                Ok(vec![any(ranges)])
            }
            _ => {
                let mut tests = Vec::with_capacity(values.len());
                for (place, value) in values.iter().enumerate() {
                    tests.extend(reader.tests(param, reading, value).map_err(|words| wrong(place, words))?);
                }
                let groups = by_index(tests);
                if negated {
                    return Ok(groups.into_iter().map(|tests| Filter::NotParam { param: param.id, tests }).collect());
                }
                Ok(vec![any(groups.into_iter().map(|tests| Filter::Param { param: param.id, tests }).collect())])
            }
        }
    }

    /// What the modifier makes of the values, and whether it negates them.
    fn reading(&self, name: &str, param: &SearchParam, modifier: Option<&str>) -> Result<(Reading, bool), Refusal> {
        let Some(modifier) = modifier else { return Ok((Reading::Plain, false)) };
        let not_yet = || bad(IssueCode::NotSupported, format!("the modifier :{modifier} on {name} is not supported by this server"));
        match (param.kind, modifier) {
            (ParamKind::String, "exact") => Ok((Reading::Exact, false)),
            (ParamKind::String, "contains") => Ok((Reading::Contains, false)),
            (ParamKind::Token, "not") => Ok((Reading::Plain, true)),
            (ParamKind::Uri, "below") | (ParamKind::Reference, "below") => Ok((Reading::Below, false)),
            (ParamKind::Uri, "above") => Ok((Reading::Above, false)),
            (ParamKind::Token, "text" | "in" | "not-in" | "above" | "below" | "of-type") => Err(not_yet()),
            (ParamKind::String, "text") | (ParamKind::Reference, "identifier" | "above" | "text" | "in" | "not-in") => Err(not_yet()),
            (ParamKind::Reference, _) if reference::is_type_name(modifier) => {
                Ok((Reading::OfType(self.target(name, param, modifier)?), false))
            }
            (kind, _) if MODIFIERS.contains(&modifier) => {
                let words = format!("the modifier :{modifier} does not apply to {name}, which is a {} parameter", kind.as_str());
                Err(bad(IssueCode::Invalid, words))
            }
            _ => {
                let hint = suggest::hint(modifier, MODIFIERS);
                Err(bad(IssueCode::Invalid, format!("'{}' is no modifier{hint}", shown(modifier))))
            }
        }
    }
}

/// The indexes that hold values of a kind of parameter.
pub fn index_kinds(kind: ParamKind) -> &'static [Kind] {
    match kind {
        ParamKind::Number => &[Kind::Number],
        ParamKind::Date => &[Kind::Date],
        ParamKind::String => &[Kind::String],
        ParamKind::Token => &[Kind::Token],
        // References to elsewhere and canonicals are uris.
        ParamKind::Reference => &[Kind::Reference, Kind::Uri],
        ParamKind::Composite => &[Kind::Composite],
        ParamKind::Quantity => &[Kind::Quantity],
        ParamKind::Uri => &[Kind::Uri],
        ParamKind::Special => &[],
    }
}

/// Tests that look into one index together: a reference may be local or a uri.
fn by_index(tests: Vec<Test>) -> Vec<Vec<Test>> {
    let (uris, others): (Vec<Test>, Vec<Test>) =
        tests.into_iter().partition(|test| matches!(test, Test::Uri(_) | Test::Canonical(_) | Test::UriBelow(_) | Test::UriAbove(_)));
    [others, uris].into_iter().filter(|group| !group.is_empty()).collect()
}

fn any(mut filters: Vec<Filter>) -> Filter {
    match (filters.len(), filters.pop()) {
        (1, Some(filter)) => filter,
        (_, None) => Filter::Nothing,
        (_, Some(last)) => {
            filters.push(last);
            Filter::Any(filters)
        }
    }
}

/// A name from a request, short enough to be said back.
pub fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
