//! `_filter`: an expression over search parameters (<https://hl7.org/fhir/R4/search_filter.html>), such as
//! `given eq "peter" and (birthdate ge 2014-10-10 or not (active eq true))`.
//!
//! `and` binds more closely than `or`. A path is a search parameter or a chain of them; `[…]` within a path is refused, since
//! what belongs together is what composite parameters are for.

use super::filter::{Operand, Reader, Refusal, any, bad, index_kinds, is_uri, negate, shown};
use super::value::Reading;
use crate::definitions::{ParamKind, SearchParam};
use crate::fhir::IssueCode;
use crate::store::TypeCode;
use crate::store::query::{Filter, Kind, Test};

/// Parentheses within parentheses.
const MAX_DEPTH: usize = 16;
/// Comparisons of one expression.
const MAX_TERMS: usize = 100;
/// Bytes of an expression.
const MAX_LENGTH: usize = 8_192;

/// The comparisons of `_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Eq,
    Ne,
    Co,
    Sw,
    Ew,
    Gt,
    Lt,
    Ge,
    Le,
    Ap,
    Sa,
    Eb,
    Pr,
    Po,
    Ss,
    Sb,
    In,
    Ni,
    Re,
}

const OPERATORS: [(&str, Operator); 19] = [
    ("eq", Operator::Eq),
    ("ne", Operator::Ne),
    ("co", Operator::Co),
    ("sw", Operator::Sw),
    ("ew", Operator::Ew),
    ("gt", Operator::Gt),
    ("lt", Operator::Lt),
    ("ge", Operator::Ge),
    ("le", Operator::Le),
    ("ap", Operator::Ap),
    ("sa", Operator::Sa),
    ("eb", Operator::Eb),
    ("pr", Operator::Pr),
    ("po", Operator::Po),
    ("ss", Operator::Ss),
    ("sb", Operator::Sb),
    ("in", Operator::In),
    ("ni", Operator::Ni),
    ("re", Operator::Re),
];

/// Reads a whole expression.
pub(super) fn read(reader: &mut Reader<'_>, type_code: TypeCode, text: &str) -> Result<Filter, Refusal> {
    if text.len() > MAX_LENGTH {
        return Err(bad(IssueCode::TooCostly, format!("an expression of _filter has {MAX_LENGTH} bytes at most")));
    }
    let mut parser = Parser { reader, type_code, rest: text.trim(), terms: 0 };
    let filter = parser.either(0)?;
    if parser.rest.is_empty() { Ok(filter) } else { Err(parser.wrong("and, or, or the end")) }
}

struct Parser<'p, 'a> {
    reader: &'p mut Reader<'a>,
    type_code: TypeCode,
    rest: &'p str,
    terms: usize,
}

impl<'p> Parser<'p, '_> {
    /// `… or …`
    fn either(&mut self, depth: usize) -> Result<Filter, Refusal> {
        if depth > MAX_DEPTH {
            let words = format!("an expression of _filter has {MAX_DEPTH} parentheses within each other at most");
            return Err(bad(IssueCode::TooCostly, words));
        }
        let mut choices = vec![self.both(depth)?];
        while self.keyword("or") {
            choices.push(self.both(depth)?);
        }
        Ok(any(choices))
    }

    /// `… and …`
    fn both(&mut self, depth: usize) -> Result<Filter, Refusal> {
        let mut parts = vec![self.term(depth)?];
        while self.keyword("and") {
            parts.push(self.term(depth)?);
        }
        Ok(all(parts))
    }

    fn term(&mut self, depth: usize) -> Result<Filter, Refusal> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(bad(IssueCode::TooCostly, format!("an expression of _filter has {MAX_TERMS} comparisons at most")));
        }
        if let Some(rest) = self.rest.strip_prefix("not").filter(|rest| rest.trim_start().starts_with('(')) {
            self.rest = rest.trim_start();
            return self.group(depth).map(negate);
        }
        if self.rest.starts_with('(') {
            return self.group(depth);
        }
        self.comparison()
    }

    fn group(&mut self, depth: usize) -> Result<Filter, Refusal> {
        self.rest = self.rest.strip_prefix('(').unwrap_or(self.rest).trim_start();
        let filter = self.either(depth + 1)?;
        self.rest = self.rest.strip_prefix(')').ok_or_else(|| self.wrong("and, or, or a closing parenthesis"))?.trim_start();
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, Refusal> {
        let path = self.word("the name of a search parameter")?;
        if path.contains(['[', ']']) {
            let words = "[…] in a path of _filter is not supported by this server; a composite parameter finds what belongs together";
            return Err(bad(IssueCode::NotSupported, words));
        }
        let operator = self.word("an operator such as eq")?;
        let Some((_, operator)) = OPERATORS.iter().find(|(name, _)| *name == operator) else {
            let hint = super::suggest::hint(operator, OPERATORS.map(|(name, _)| name));
            return Err(bad(IssueCode::Invalid, format!("'{}' is no operator of _filter{hint}", shown(operator))));
        };
        let value = self.value()?;
        let operand = Operand::Operator { operator: *operator, value: &value };
        // What is unknown here is part of an expression, so nothing can be left out of it.
        self.reader.at_depth(self.type_code, path, operand, 0).map(all).map_err(|refusal| Refusal { ignorable: false, ..refusal })
    }

    /// Up to white space or a parenthesis.
    fn word(&mut self, expected: &str) -> Result<&'p str, Refusal> {
        let end = self.rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        if word.is_empty() {
            return Err(self.wrong(expected));
        }
        self.rest = rest.trim_start();
        Ok(word)
    }

    /// A word, or a text in quotes, where a backslash stands before a quote or a backslash of the text.
    fn value(&mut self) -> Result<String, Refusal> {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.word("a value").map(str::to_owned) };
        let (mut text, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match c {
                _ if escaped => {
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.rest = quoted.get(at + 1..).unwrap_or_default().trim_start();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.wrong("a closing quote"))
    }

    /// Takes `and` or `or` when it comes next.
    fn keyword(&mut self, word: &str) -> bool {
        let after = self.rest.strip_prefix(word).filter(|rest| rest.starts_with(|c: char| c.is_whitespace() || c == '('));
        if let Some(after) = after {
            self.rest = after.trim_start();
        }
        after.is_some()
    }

    /// Says where, never what: the rest may hold values.
    fn wrong(&self, expected: &str) -> Refusal {
        let words = format!("the expression of _filter is broken {} bytes before its end: {expected} is expected there", self.rest.len());
        bad(IssueCode::Invalid, words)
    }
}

fn all(mut filters: Vec<Filter>) -> Filter {
    match (filters.len(), filters.pop()) {
        (1, Some(filter)) => filter,
        (_, last) => {
            filters.extend(last);
            Filter::All(filters)
        }
    }
}

impl Reader<'_> {
    /// One comparison with a parameter.
    pub(super) fn compared(
        &mut self,
        type_code: TypeCode,
        param: &SearchParam,
        operator: Operator,
        value: &str,
    ) -> Result<Vec<Filter>, Refusal> {
        use Operator as O;
        use ParamKind as K;
        let query = |reader: &mut Self, key: &str, value: &str| reader.at_depth(type_code, key, Operand::Query(value), 0);
        if operator == O::Pr {
            let missing = match value {
                "true" => "false",
                "false" => "true",
                _ => return Err(bad(IssueCode::Value, "pr is followed by true or false")),
            };
            return query(self, &format!("{}:missing", param.code), missing);
        }
        // What separates values in a query string is a part of the one value here.
        let escaped = value.replace('\\', "\\\\").replace(',', "\\,");
        let ordered = matches!(operator, O::Eq | O::Ne | O::Gt | O::Lt | O::Ge | O::Le | O::Ap | O::Sa | O::Eb);
        if param.code == "_id" || param.code == "_lastUpdated" {
            return match (param.code.as_str(), operator) {
                ("_id", O::Eq) => query(self, "_id", &escaped),
                ("_id", O::Ne) => Ok(query(self, "_id", &escaped)?.into_iter().map(negate).collect()),
                ("_lastUpdated", _) if ordered => query(self, "_lastUpdated", &format!("{}{escaped}", name(operator))),
                _ => Err(self.unfit(type_code, param, operator)),
            };
        }
        let prefixed = matches!(param.kind, K::Date | K::Number | K::Quantity);
        let (reading, raw) = match (param.kind, operator) {
            _ if prefixed && ordered => (Reading::Plain, format!("{}{value}", name(operator))),
            (K::Date, O::Po) => (Reading::Overlaps, value.to_owned()),
            (K::String, O::Eq | O::Ne) => (Reading::Whole, escaped),
            (K::String, O::Co) => (Reading::Contains, escaped),
            (K::String, O::Sw) => (Reading::Plain, escaped),
            (K::String, O::Ew) => (Reading::Ends, escaped),
            (K::Token, O::Ne) => (Reading::Unequal, value.to_owned()),
            (K::Reference, O::Ne) if value.contains('#') => {
                return Err(bad(IssueCode::NotSupported, "ne compares canonicals without a fragment; leave out what begins with #"));
            }
            (K::Token | K::Uri | K::Reference | K::Composite, O::Eq | O::Ne) | (K::Reference, O::Re) => (Reading::Plain, value.to_owned()),
            (K::Token, O::Sw) => (Reading::Starts, escaped),
            (K::Token | K::Uri | K::Reference, O::Ss) => (Reading::Above, value.to_owned()),
            (K::Token | K::Uri | K::Reference, O::Sb) => (Reading::Below, value.to_owned()),
            (K::Token, O::In | O::Ni) => (Reading::In, value.to_owned()),
            _ => return Err(self.unfit(type_code, param, operator)),
        };
        let found = self.having(type_code, param, reading, &[&raw]).map_err(|(_, words)| bad(IssueCode::Value, words))?;
        Ok(match operator {
            // "An item in the set has an unequal value": numbers and dates have a prefix for that, others compare each value.
            O::Ne if !prefixed => vec![unequal(param, found)],
            O::Ni => found.into_iter().map(negate).collect(),
            _ => vec![any(found)],
        })
    }

    fn unfit(&self, type_code: TypeCode, param: &SearchParam, operator: Operator) -> Refusal {
        let (of, kind) = (self.definitions.type_name(type_code), param.kind.as_str());
        bad(IssueCode::Invalid, format!("{} does not apply to {of}.{}, which is a {kind} parameter", name(operator), param.code))
    }
}

/// Some value of the parameter is another than what is found.
fn unequal(param: &SearchParam, found: Vec<Filter>) -> Filter {
    let has = |kind: Kind| Filter::Missing { places: vec![(param.id, kind)], missing: false };
    let asks = |kind: Kind| {
        found
            .iter()
            .any(|filter| matches!(filter, Filter::Param { tests, .. } if tests.iter().any(|test| is_uri(test) == (kind == Kind::Uri))))
    };
    // A reference is in one of two indexes: in the one that is not asked there are others only.
    let others = index_kinds(param.kind).iter().filter(|kind| param.kind == ParamKind::Reference && !asks(**kind)).map(|kind| has(*kind));
    let mut unequal: Vec<Filter> = others.collect();
    unequal.extend(found.into_iter().map(|filter| match filter {
        Filter::Param { param: place, mut tests } => {
            if param.kind == ParamKind::Reference {
                let part = |test: &Test| match test {
                    Test::Uri(uri) | Test::Canonical(uri) => Some(Test::TextStarts(format!("{uri}#"))),
                    _ => None,
                };
                let parts: Vec<Test> = tests.iter().filter_map(part).collect();
                tests.extend(parts);
            }
            Filter::Param { param: place, tests: vec![Test::NoneOf(tests)] }
        }
        // By url and version, of which each resource has one.
        other => Filter::All(vec![has(Kind::Uri), negate(other)]),
    }));
    any(unequal)
}

fn name(operator: Operator) -> &'static str {
    OPERATORS.iter().find(|(_, known)| *known == operator).map_or("", |(name, _)| name)
}
