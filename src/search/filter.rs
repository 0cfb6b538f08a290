//! One parameter of a query string to filters: modifiers, chains and `_has` (<https://hl7.org/fhir/R4/search.html>).

use super::expression::Operator;
use super::extract::{Names, facet_places, folding, names};
use super::own::{Doubt, OwnParam};
use super::parse::ParseOptions;
use super::value::{Reading, Values};
use super::{lex, suggest};
use crate::definitions::{self, Definitions, ParamKind, SearchParam};
use crate::fhir::{Issue, IssueCode, reference};
use crate::store::query::{Filter, Kind, Test};
use crate::store::{Facet, Folding, ParamId, Scope, TypeCode};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Hops of one chain or `_has`.
const MAX_DEPTH: usize = 8;
/// Parameters that all chains of one request may come to, every possible target type counted: each is a part of the plan.
const MAX_NODES: usize = 400;
/// The same for each type of a search over many.
const MAX_NODES_OF_EACH: usize = 10;
/// Values at the ends of all chains of one request, those of each type that one leads to: each is an argument of the statement, or several.
const MAX_CHAINED: usize = 4_000;

/// All modifiers of R4, to tell a mistyped one from one that does not apply.
const MODIFIERS: [&str; 12] =
    ["missing", "exact", "contains", "text", "not", "in", "not-in", "above", "below", "of-type", "identifier", "iterate"];

/// What a parameter is held against.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'v> {
    /// The value of a query string: commas, escapes and prefixes in it.
    Query(&'v str),
    /// One comparison of `_filter`.
    Operator { operator: Operator, value: &'v str },
}

/// Why a parameter gave no filter.
#[derive(Debug)]
pub struct Refusal {
    pub issue: Issue,
    /// The server does not know it: a lenient search may go on without it, saying so.
    pub ignorable: bool,
}

pub(super) fn bad(code: IssueCode, words: impl Into<String>) -> Refusal {
    Refusal { issue: Issue::error(code, words), ignorable: false }
}

fn unknown(words: impl Into<String>) -> Refusal {
    Refusal { issue: Issue::error(IssueCode::NotSupported, words), ignorable: true }
}

/// Reads the filters of one request.
pub struct Reader<'a> {
    pub(super) definitions: &'static Definitions,
    pub(super) options: &'a ParseOptions,
    /// How many types are searched at once.
    types: usize,
    nodes: usize,
    /// Values at the ends of chains, those of each type that one leads to.
    chained: usize,
    partial: RefCell<BTreeSet<Arc<str>>>,
    decided: RefCell<BTreeSet<String>>,
    /// Own parameters that are named, and how many of them [`Reader::doubts`] told of.
    own: RefCell<Vec<(TypeCode, &'a OwnParam)>>,
    told: usize,
}

impl<'a> Reader<'a> {
    pub fn new(options: &'a ParseOptions) -> Self {
        Reader::over(options, 1)
    }

    /// For a search over so many types, each of which is asked for every parameter.
    pub fn over(options: &'a ParseOptions, types: usize) -> Self {
        Reader {
            definitions: definitions::r4(),
            options,
            types,
            nodes: 0,
            chained: 0,
            partial: RefCell::default(),
            decided: RefCell::default(),
            own: RefCell::default(),
            told: 0,
        }
    }

    /// The conditions that `key=value` puts on resources of a type, all of which must hold; none when it is always true.
    ///
    /// A chain or `_has` that leads nowhere is an error, lenient or not: whoever writes one means to narrow the answer, and no
    /// other server's extension could be meant.
    pub fn filters(&mut self, type_code: TypeCode, key: &str, value: &str) -> Result<Vec<Filter>, Refusal> {
        let leads_away = key.contains('.') || key == "_has" || key.starts_with("_has:");
        self.at_depth(type_code, key, Operand::Query(value), 0)
            .map_err(|refusal| Refusal { ignorable: refusal.ignorable && !leads_away, ..refusal })
    }

    /// What the filters since the last time rest on that is known in part only: they find too little by it, or too much where they negate.
    pub fn incomplete(&mut self) -> Option<Issue> {
        let partial = std::mem::take(self.partial.get_mut());
        let systems: Vec<&str> = partial.iter().map(|system| &**system).collect();
        let words = format!(
            "only a part of {} is loaded, on which the search rests: load more of it, or list the codes, in a value set or in the search.",
            systems.join(", ")
        );
        (!systems.is_empty()).then(|| Issue::error(IssueCode::Incomplete, words))
    }

    /// What the terminology made of the values of all filters: other words when it would make something else of them.
    pub fn decided(self) -> Option<String> {
        let decided = self.decided.into_inner();
        (!decided.is_empty()).then(|| decided.into_iter().collect())
    }

    /// The own parameters that the filters since the last time name, each once; `at`: where.
    pub fn doubts(&mut self, scope: &Scope, at: impl Fn() -> String) -> Vec<Doubt> {
        let own = self.own.get_mut();
        let new = own.get(self.told..).unwrap_or_default();
        let doubts = new.iter().map(|(type_code, own)| Doubt::new(own, *type_code, scope.clone(), at())).collect();
        self.told = own.len();
        doubts
    }

    pub(super) fn at_depth(&mut self, type_code: TypeCode, key: &str, operand: Operand<'_>, depth: usize) -> Result<Vec<Filter>, Refusal> {
        if depth > MAX_DEPTH {
            return Err(bad(IssueCode::TooCostly, format!("a chain has {MAX_DEPTH} hops at most")));
        }
        if key == "_has" {
            return Err(bad(IssueCode::Invalid, "_has is written _has:Type:reference-parameter:parameter"));
        }
        if let Some(rest) = key.strip_prefix("_has:") {
            return self.has(type_code, rest, operand, depth);
        }
        let (head, chain) = match key.split_once('.') {
            Some((head, chain)) => (head, Some(chain)),
            None => (key, None),
        };
        let (code, modifier) = match head.split_once(':') {
            Some((code, modifier)) => (code, Some(modifier)),
            None => (head, None),
        };
        self.nodes += 1;
        if self.nodes > MAX_NODES.max(self.types.saturating_mul(MAX_NODES_OF_EACH)) {
            let words = match self.types {
                1 => "the chains of this search lead to too many types; name a type at each hop, as in subject:Patient.name",
                _ => "these are too many parameters, or chains to too many types, for so many types at once; name fewer of them by _type",
            };
            return Err(bad(IssueCode::TooCostly, words));
        }
        if let (Operand::Query(value), None) = (operand, chain)
            && let Some(special) = self.special(type_code, code, modifier, value)
        {
            return special;
        }
        let param = self.param(type_code, code)?;
        match (chain, operand) {
            (Some(chain), _) => self.chain(type_code, param, modifier, chain, operand, depth),
            (None, Operand::Query(value)) => {
                self.chained = self.chained.saturating_add(if depth > 0 { lex::split(value, ',').len() } else { 0 });
                if self.chained > MAX_CHAINED {
                    let words = "the chains of this search lead to too many types for so many values; name a type at each hop, as in \
                                 subject:Patient.identifier, or fewer values";
                    return Err(bad(IssueCode::TooCostly, words));
                }
                self.leaf(type_code, param, modifier, value)
            }
            (None, Operand::Operator { operator, value }) => match modifier {
                None => self.compared(type_code, param, operator, value),
                // Nothing says what the two would mean together.
                Some(modifier) => {
                    let words = "_filter compares by its operators alone: leave out what stands after the colon; not (…) negates, co contains, \
                                 in and ni ask value sets, and a reference says its type as Type/id";
                    let hint = if MODIFIERS.contains(&modifier) { "" } else { ", which is no modifier either" };
                    Err(bad(IssueCode::Invalid, format!("'{}' has the modifier ':{}'{hint}; {words}", shown(code), shown(modifier))))
                }
            },
        }
    }

    pub(super) fn param(&self, type_code: TypeCode, code: &str) -> Result<&'a SearchParam, Refusal> {
        let type_name = self.definitions.type_name(type_code);
        match self.options.param(type_code, code) {
            Some(param) if param.kind == ParamKind::Special => {
                Err(bad(IssueCode::NotSupported, format!("{type_name}.{code} cannot be used here")))
            }
            Some(param) => {
                if let Some(own) = self.options.own.find(type_code, code) {
                    let mut named = self.own.borrow_mut();
                    if !named.iter().any(|(known, before)| *known == type_code && before.param.id == own.param.id) {
                        named.push((type_code, own));
                    }
                }
                Ok(param)
            }
            None if code == "_query" => Err(bad(IssueCode::NotSupported, "this server has no named queries")),
            None => {
                if let Some(issue) = self.options.unready(type_code, code) {
                    return Err(Refusal { issue, ignorable: false });
                }
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
    fn has(&mut self, type_code: TypeCode, rest: &str, operand: Operand<'_>, depth: usize) -> Result<Vec<Filter>, Refusal> {
        let mut parts = rest.splitn(3, ':');
        let (Some(source), Some(code), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad(IssueCode::Invalid, "_has is written _has:Type:reference-parameter:parameter"));
        };
        let source = self.type_code(source)?;
        let param = self.param(source, code)?;
        if !param.targets.contains(&type_code) {
            if self.types > 1 {
                // Another of the types may be what it refers to.
                return Ok(vec![Filter::Nothing]);
            }
            let (from, to) = (self.definitions.type_name(source), self.definitions.type_name(type_code));
            return Err(bad(IssueCode::Invalid, format!("{from}.{code} does not refer to {to}")));
        }
        let filters = self.at_depth(source, key, operand, depth + 1)?;
        let (param, names) = (param.id, names(source, param));
        Ok(vec![match names {
            Names::Places => Filter::Has { source, param, filters },
            Names::Urls => Filter::HasCanonical { source, param, filters },
            Names::Both => {
                Filter::Any(vec![Filter::Has { source, param, filters: filters.clone() }, Filter::HasCanonical { source, param, filters }])
            }
        }])
    }

    /// `param:Type.key`; without a type, every target type that has the parameter.
    fn chain(
        &mut self,
        type_code: TypeCode,
        param: &SearchParam,
        modifier: Option<&str>,
        key: &str,
        operand: Operand<'_>,
        depth: usize,
    ) -> Result<Vec<Filter>, Refusal> {
        let name = format!("{}.{}", self.definitions.type_name(type_code), param.code);
        if param.kind != ParamKind::Reference || param.targets.is_empty() {
            return Err(bad(IssueCode::Invalid, format!("{name} is no reference to another resource, so nothing can be chained to it")));
        }
        if param.expression.starts_with("Bundle.entry") {
            let words = format!("{name} leads to what the Bundle holds, which is not searched: ask by its id, as in {}=id", param.code);
            return Err(bad(IssueCode::NotSupported, words));
        }
        if let Some(modifier) = modifier {
            let target = self.target(&name, param, modifier)?;
            let filters = self.at_depth(target, key, operand, depth + 1)?;
            return Ok(vec![chained(type_code, param, vec![(target, filters)])]);
        }
        let (mut targets, mut refusal): (Vec<_>, Option<Refusal>) = (Vec::new(), None);
        for target in &param.targets {
            match self.at_depth(*target, key, operand, depth + 1) {
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
            _ => Ok(vec![chained(type_code, param, targets)]),
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
                _ => vec![Filter::Missing { places: places(type_code, param), missing }],
            });
        }
        let (reading, negated) = self.reading(&name, param, modifier)?;
        let values = lex::split(value, ',');
        let wrong = |place: usize, words: String| {
            let which = if values.len() > 1 { format!("value {} of {}: ", place + 1, values.len()) } else { String::new() };
            bad(IssueCode::Value, format!("{which}{words}"))
        };
        let mut filters = Vec::with_capacity(values.len());
        match param.code.as_str() {
            "_id" => {
                let ids: Vec<String> = values.iter().map(|id| lex::unescape(id)).collect();
                match ids.iter().position(|id| !reference::is_id(id)) {
                    Some(place) => return Err(wrong(place, "not an id; ids have 1 to 64 letters, digits, - and .".into())),
                    None => filters.push(Filter::Id(ids)),
                }
            }
            "_lastUpdated" => {
                for (place, value) in values.iter().enumerate() {
                    let range = self.values(type_code).date(value).map_err(|words| wrong(place, words))?;
                    filters.push(Filter::LastUpdated { ranges: vec![range] });
                }
            }
            _ => filters = self.having(type_code, param, reading, &values).map_err(|(place, words)| wrong(place, words))?,
        }
        if negated {
            return Ok(filters.into_iter().map(negate).collect());
        }
        Ok(match any(filters) {
            // Each is a filter of the search, so that any may lead it.
            Filter::All(parts) => parts,
            one => vec![one],
        })
    }

    /// What has one of the values, by any of the filters. The error says at which value's place.
    pub(super) fn having(
        &self,
        type_code: TypeCode,
        param: &SearchParam,
        reading: Reading,
        values: &[&str],
    ) -> Result<Vec<Filter>, (usize, String)> {
        let places = values.iter().enumerate();
        let has_version = |value: &&str| lex::split(value, '|').len() == 2;
        if param.code == "url" && param.kind == ParamKind::Uri && reading == Reading::Plain && values.iter().any(has_version) {
            return places.map(|(place, value)| self.url_and_version(type_code, param, value).map_err(|words| (place, words))).collect();
        }
        let mut tests = Vec::with_capacity(values.len());
        for (place, value) in places {
            tests.extend(self.values(type_code).tests(param, reading, value).map_err(|words| (place, words))?);
        }
        Ok(indexed(type_code, param, reading, tests))
    }

    /// `url|version`: both as the resource says them.
    fn url_and_version(&self, type_code: TypeCode, url: &SearchParam, value: &str) -> Result<Filter, String> {
        let parts = lex::split(value, '|');
        let ([address, version], Some(of)) = (parts.as_slice(), self.options.param(type_code, "version")) else {
            let tests = self.values(type_code).tests(url, Reading::Plain, value)?;
            return Ok(Filter::Param { param: url.id, tests });
        };
        let version = self.values(type_code).tests(of, Reading::Plain, version)?;
        let address = self.values(type_code).tests(url, Reading::Plain, address)?;
        Ok(Filter::All(vec![Filter::Param { param: url.id, tests: address }, any(indexed(type_code, of, Reading::Plain, version))]))
    }

    pub(super) fn values(&self, type_code: TypeCode) -> Values<'_> {
        Values { definitions: self.definitions, options: self.options, type_code, partial: &self.partial, decided: &self.decided }
    }

    /// What the modifier makes of the values, and whether it negates them.
    fn reading(&self, name: &str, param: &SearchParam, modifier: Option<&str>) -> Result<(Reading, bool), Refusal> {
        let Some(modifier) = modifier else { return Ok((Reading::Plain, false)) };
        match (param.kind, modifier) {
            (ParamKind::String, "exact") => Ok((Reading::Exact, false)),
            (ParamKind::String, "contains") => Ok((Reading::Contains, false)),
            (ParamKind::Token, "not") => Ok((Reading::Plain, true)),
            (ParamKind::Token, _) if param.code == "_id" && MODIFIERS.contains(&modifier) => {
                Err(bad(IssueCode::Invalid, format!("the modifier :{modifier} does not apply to {name}, which is compared as it is")))
            }
            (ParamKind::Token | ParamKind::Reference, "text") => Ok((Reading::Text, false)),
            (ParamKind::Token, "in") => Ok((Reading::In, false)),
            (ParamKind::Token, "not-in") => Ok((Reading::In, true)),
            (ParamKind::Token, "of-type") => Ok((Reading::TypedIdentifier, false)),
            (ParamKind::Token | ParamKind::Uri | ParamKind::Reference, "below") => Ok((Reading::Below, false)),
            (ParamKind::Token | ParamKind::Uri | ParamKind::Reference, "above") => Ok((Reading::Above, false)),
            (ParamKind::Reference, "identifier") => Ok((Reading::Identifier, false)),
            (ParamKind::Reference, _) if reference::is_type_name(modifier) => {
                Ok((Reading::OfType(self.target(name, param, modifier)?), false))
            }
            (kind, _) if MODIFIERS.contains(&modifier) => {
                let (kind, takes) = (kind.as_str(), modifiers(param));
                let words = format!("the modifier :{modifier} does not apply to {name}, which is a {kind} parameter and takes {takes}");
                Err(bad(IssueCode::Invalid, words))
            }
            _ => {
                let hint = suggest::hint(modifier, MODIFIERS);
                let hint = if hint.is_empty() { ";" } else { hint.as_str() };
                Err(bad(IssueCode::Invalid, format!("'{}' is no modifier{hint} {name} takes {}", shown(modifier), modifiers(param))))
            }
        }
    }
}

/// The modifiers that a parameter takes.
pub fn modifiers(param: &SearchParam) -> &'static str {
    match param.kind {
        ParamKind::String => ":missing, :exact, :contains",
        ParamKind::Token if param.code == "_id" => ":missing, :not",
        ParamKind::Token => ":missing, :not, :text, :in, :not-in, :above, :below, :of-type",
        ParamKind::Reference => ":missing, :[type], :identifier, :text, :above, :below",
        ParamKind::Uri => ":missing, :above, :below",
        ParamKind::Special => "none",
        ParamKind::Date | ParamKind::Number | ParamKind::Quantity | ParamKind::Composite => ":missing",
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

/// Everything under which a value of the parameter is kept, a text without a code and a reference by identifier among it.
fn places(type_code: TypeCode, param: &SearchParam) -> Vec<(ParamId, Kind)> {
    let further: &[(Facet, Kind)] = match param.kind {
        ParamKind::Token => &[(Facet::Text, Kind::Uri)],
        ParamKind::Reference => &[(Facet::Text, Kind::Uri), (Facet::Identifier, Kind::Token)],
        _ => &[],
    };
    let mut places: Vec<(ParamId, Kind)> = index_kinds(param.kind).iter().map(|kind| (param.id, *kind)).collect();
    for (facet, kind) in further {
        places.extend(facet_places(type_code, param.id).into_iter().map(|place| (facet.of(place), *kind)));
    }
    places
}

/// Filters for tests of one parameter, any of which may hold: one for each index that they look into.
fn indexed(type_code: TypeCode, param: &SearchParam, reading: Reading, tests: Vec<Test>) -> Vec<Filter> {
    let mut groups: Vec<((Facet, bool), Vec<Test>)> = Vec::new();
    let (tests, in_one_form) = match folding(type_code, param).filter(|_| param.kind == ParamKind::Token) {
        Some(folding) => folded(folding, reading, tests),
        None => (tests, Vec::new()),
    };
    for test in tests {
        // A reference may be local or a uri.
        let index = (reading.facet(&test), is_uri(&test));
        match groups.iter_mut().find(|(known, _)| *known == index) {
            Some((_, group)) => group.push(test),
            None => groups.push((index, vec![test])),
        }
    }
    groups.sort_by_key(|((_, uri), _)| *uri);
    let mut filters = Vec::with_capacity(groups.len());
    for ((facet, _), tests) in groups {
        match facet {
            Facet::Value => filters.push(Filter::Param { param: param.id, tests }),
            facet => filters.extend(
                facet_places(type_code, param.id).into_iter().map(|place| Filter::Param { param: facet.of(place), tests: tests.clone() }),
            ),
        }
    }
    if !in_one_form.is_empty() {
        let places = facet_places(type_code, param.id).into_iter().map(|place| Facet::Caseless.of(place));
        filters.extend(places.map(|param| Filter::Param { param, tests: in_one_form.clone() }));
    }
    filters
}

/// That one of the parameters by which R4 puts the type into the compartment refers to what defines it; `None`: it puts it into none.
pub fn in_compartment(of: TypeCode, id: &str, type_code: TypeCode) -> Option<Filter> {
    let definitions = definitions::r4();
    let params = definitions.compartment(of, type_code)?;
    let test = Test::Reference { type_codes: vec![of], id: id.to_owned() };
    let params = params.iter().filter_map(|code| definitions.param(type_code, code));
    let mut ways: Vec<Filter> = params.map(|param| Filter::Param { param: param.id, tests: vec![test.clone()] }).collect();
    if type_code == of {
        ways.push(Filter::Id(vec![id.to_owned()]));
    }
    Some(Filter::Any(ways))
}

/// What references of the parameter name by an identifier that passes one of the tests, as `:identifier` does.
pub fn by_identifier(type_code: TypeCode, param: &SearchParam, tests: Vec<Test>) -> Vec<Filter> {
    indexed(type_code, param, Reading::Identifier, tests)
}

/// Whether it looks at uris.
pub(super) fn is_uri(test: &Test) -> bool {
    matches!(test, Test::Uri(_) | Test::Canonical(_) | Test::UriBelow(_) | Test::UriAbove(_))
}

/// The tests on the values themselves, and those on [`Facet::Caseless`], of values that are spelt in more than one way.
fn folded(folding: Folding, reading: Reading, mut tests: Vec<Test>) -> (Vec<Test>, Vec<Test>) {
    let in_one_form = |test: &Test| match test {
        Test::Token { system, code: Some(code) } => Some(Test::Token { system: system.clone(), code: Some(folding.of(code)) }),
        Test::TokenIn { system, codes } => {
            Some(Test::TokenIn { system: system.clone(), codes: codes.iter().map(|code| folding.of(code)).collect() })
        }
        Test::TokenStarts(start) => Some(Test::TokenStarts(folding.of(start))),
        _ => None,
    };
    match reading {
        Reading::Text | Reading::Identifier | Reading::TypedIdentifier => return (tests, Vec::new()),
        Reading::Unequal => {
            for test in &mut tests {
                if let Test::Token { system, code: Some(code) } = test {
                    *test = Test::TokenFolded { folding, system: system.clone(), code: folding.of(code) };
                }
            }
            return (tests, Vec::new());
        }
        _ => {}
    }
    let further: Vec<Test> = tests.iter().filter_map(in_one_form).collect();
    let new: Vec<Test> = further.iter().filter(|test| !tests.contains(test)).cloned().collect();
    tests.extend(new);
    (tests, further)
}

/// A target of the parameter satisfies the filters for its type, by whatever the parameter names it.
fn chained(type_code: TypeCode, param: &SearchParam, targets: Vec<(TypeCode, Vec<Filter>)>) -> Filter {
    let (param, names) = (param.id, names(type_code, param));
    match names {
        Names::Places => Filter::Chain { param, targets },
        Names::Urls => Filter::Canonical { param, targets },
        Names::Both => Filter::Any(vec![Filter::Chain { param, targets: targets.clone() }, Filter::Canonical { param, targets }]),
    }
}

pub(super) fn negate(filter: Filter) -> Filter {
    match filter {
        Filter::Param { param, tests } => Filter::NotParam { param, tests },
        filter => Filter::Not(Box::new(filter)),
    }
}

pub(super) fn any(mut filters: Vec<Filter>) -> Filter {
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
