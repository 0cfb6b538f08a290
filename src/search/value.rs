//! One value of a query string to tests on index values, by the kind of its parameter.

use super::parse::ParseOptions;
use super::{bindings, lex, media_type};
use crate::definitions::{Definitions, ParamKind, SearchParam};
use crate::fhir::{Interval, Reference, decimal, reference, text, time};
use crate::fhirpath::ucum;
use crate::store::index::typed_system;
use crate::store::query::{DateOp, NumberOp, SystemTest, Test, UnitTest};
use crate::store::{Facet, ParamId, TypeCode};
use rust_decimal::Decimal;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The system by which R4 lets a boolean be searched as a token.
const SPECIAL_VALUES: &str = "http://hl7.org/fhir/special-values";

const UCUM: &str = "http://unitsofmeasure.org";

/// Codes that a value set or a hierarchy may come to in a search.
const MAX_CODES: usize = 50_000;

/// What a modifier makes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Plain,
    Exact,
    Contains,
    Below,
    Above,
    /// `:text` on a token or a reference.
    Text,
    /// `:in` on a token; the caller negates for `:not-in`.
    In,
    /// `:of-type` on an identifier.
    TypedIdentifier,
    /// `:identifier` on a reference.
    Identifier,
    /// `:Patient` on a reference.
    OfType(TypeCode),
    /// `eq` of `_filter` on a string: the whole, folded.
    Whole,
    /// `ne` of `_filter` on a token: what a value is equal to, told by that value alone.
    Unequal,
    /// `ew` of `_filter` on a string.
    Ends,
    /// `sw` of `_filter` on a token.
    Starts,
    /// `po` of `_filter` on a date.
    Overlaps,
}

impl Reading {
    /// Which index of the parameter a test so read looks at.
    pub fn facet(self, test: &Test) -> Facet {
        match (self, test) {
            (Reading::Text, _) => Facet::Text,
            (Reading::Identifier, _) => Facet::Identifier,
            (Reading::TypedIdentifier, _) => Facet::OfType,
            (_, Test::Amount { .. }) => Facet::Amount,
            _ => Facet::Value,
        }
    }
}

/// What reading a value needs to know.
pub struct Values<'a> {
    pub definitions: &'static Definitions,
    pub options: &'a ParseOptions,
    /// The type that the parameter belongs to.
    pub type_code: TypeCode,
    /// Takes the code systems of which value sets need more than is loaded.
    pub partial: &'a RefCell<BTreeSet<Arc<str>>>,
    /// Takes a digest of every list of codes that the terminology gives.
    pub decided: &'a RefCell<BTreeSet<String>>,
}

impl Values<'_> {
    /// The tests of one value (a part between commas, escapes still in it), any of which may hold. The error says what the
    /// value should have been and never quotes it.
    pub fn tests(&self, param: &SearchParam, reading: Reading, raw: &str) -> Result<Vec<Test>, String> {
        if raw.is_empty() {
            return Err("a value is empty; leave out the parameter, or the comma, or use :missing".into());
        }
        match (param.kind, reading) {
            (_, Reading::Text) => match text::comparable(&lex::unescape(raw)) {
                folded if folded.is_empty() => Err("the text holds nothing to compare".into()),
                folded => Ok(vec![Test::TextStarts(folded)]),
            },
            (_, Reading::Identifier) => Ok(vec![token(raw)?]),
            (_, Reading::TypedIdentifier) => typed_identifier(raw).map(|test| vec![test]),
            (ParamKind::Token, Reading::Starts) => self.beginning(param, lex::unescape(raw)),
            (ParamKind::Token, Reading::In) => self.members(param, &lex::unescape(raw)),
            (ParamKind::Token, Reading::Above | Reading::Below) => self.hierarchy(param, reading == Reading::Below, raw),
            (ParamKind::Date, Reading::Overlaps) => match self.date(raw)? {
                (DateOp::Eq, interval) => Ok(vec![Test::Date { op: DateOp::Ap, interval }]),
                _ => Err("no eq, ne, gt, lt, ge, le, sa, eb or ap may stand here before the date".into()),
            },
            (kind, reading) => self.plain(kind, param, reading, raw),
        }
    }

    fn plain(&self, kind: ParamKind, param: &SearchParam, reading: Reading, raw: &str) -> Result<Vec<Test>, String> {
        match kind {
            ParamKind::Composite => self.composite(param, raw),
            ParamKind::Reference => self.reference(&param.targets, reading, &lex::unescape(raw)),
            ParamKind::Token => Ok(self.spelt(token(raw)?).into_iter().flat_map(|test| self.implied(param, test)).collect()),
            kind => self.simple(kind, reading, raw).map(|test| vec![test]),
        }
    }

    /// A code of a system that is known not to tell case apart, in each spelling that senders use: as it is asked for, as the system has it, in
    /// small letters and in capitals; without a system in every such system that has it. It is decided now, so what was stored before the system
    /// was known is found too.
    fn spelt(&self, test: Test) -> Vec<Test> {
        let terminology = &self.options.terminology;
        let of = |system: &str, code: String| Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(code) };
        match &test {
            Test::Token { system: SystemTest::Is(system), code: Some(code) } => match terminology.spellings(system, code) {
                Some(spellings) => spellings.into_iter().map(|code| of(system, code)).collect(),
                None => vec![test],
            },
            Test::Token { system: SystemTest::Any, code: Some(code) } => {
                let others = terminology.spellings_anywhere(code);
                let others = others.iter().flat_map(|(system, spellings)| spellings.iter().map(move |spelling| (system, spelling)));
                let further: Vec<Test> =
                    others.filter(|(_, spelling)| *spelling != code).map(|(system, spelling)| of(system, spelling.clone())).collect();
                [vec![test], further].concat()
            }
            Test::TokenIn { system: SystemTest::Is(system), codes } => {
                let spellings: Option<Vec<Vec<String>>> = codes.iter().map(|code| terminology.spellings(system, code)).collect();
                let Some(spellings) = spellings else { return vec![test] };
                vec![Test::TokenIn { system: SystemTest::Is(system.clone()), codes: spellings.concat().into() }]
            }
            _ => vec![test],
        }
    }

    /// An element of type `code` names no system; its value set does. So `system|code` also means the bare code there
    /// (<https://hl7.org/fhir/R4/search.html#token>).
    fn implied(&self, param: &SearchParam, test: Test) -> Vec<Test> {
        let absent = SystemTest::Absent;
        let bare = match &test {
            Test::Token { system: SystemTest::Is(system), code: Some(code) } if self.is_bare(param, system, code) => {
                Some(Test::Token { system: absent, code: Some(code.clone()) })
            }
            Test::Token { system: SystemTest::Is(system), code: None } => self.bare_codes(param, system),
            Test::TokenIn { system: SystemTest::Is(system), codes } => {
                let bare: Arc<[String]> = codes.iter().filter(|code| self.is_bare(param, system, code)).cloned().collect();
                (!bare.is_empty()).then_some(Test::TokenIn { system: absent, codes: bare })
            }
            _ => None,
        };
        std::iter::once(test).chain(bare).collect()
    }

    /// Whether an element of the parameter says a code of a system without the system.
    fn is_bare(&self, param: &SearchParam, system: &str, code: &str) -> bool {
        let mut sets = bindings::of(param).filter_map(|binding| self.definitions.code_set(binding));
        sets.any(|set| set.contains(system, code)) || system == media_type::SYSTEM && media_type::is_of(param)
    }

    /// Every code of a system that an element of the parameter says without it; of media types there is no list, and no other codes stand there.
    fn bare_codes(&self, param: &SearchParam, system: &str) -> Option<Test> {
        if system == media_type::SYSTEM && media_type::is_of(param) {
            return Some(Test::Token { system: SystemTest::Absent, code: None });
        }
        let groups = bindings::of(param).filter_map(|binding| self.definitions.code_set(binding)).flat_map(|set| set.groups());
        let codes = groups.filter(|group| group.system == system).flat_map(|group| &group.codes);
        let codes: BTreeSet<String> = codes.map(|code| (*code).to_owned()).collect();
        (!codes.is_empty()).then(|| Test::TokenIn { system: SystemTest::Absent, codes: codes.into_iter().collect() })
    }

    /// The codes of a value set, as this parameter's elements may say them.
    fn members(&self, param: &SearchParam, set: &str) -> Result<Vec<Test>, String> {
        let set = set.strip_prefix(self.options.base_url.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(set);
        let found = self.options.terminology.codes_of_set(set, MAX_CODES).map_err(|error| error.to_string())?;
        self.partial.borrow_mut().extend(found.partial);
        Ok(found.lists.into_iter().flat_map(|(system, codes)| self.any_code(param, &system, codes)).collect())
    }

    /// What is above or below a code of a known system, the code itself among it. Without a system, of all known ones that have the code.
    fn hierarchy(&self, param: &SearchParam, below: bool, raw: &str) -> Result<Vec<Test>, String> {
        if media_type::is_of(param) {
            return match token(raw)? {
                Test::Token { system: SystemTest::Is(system), .. } if system != media_type::SYSTEM => Ok(Vec::new()),
                Test::Token { code: Some(code), .. } => media_type::tree(below, &code),
                other => Ok(vec![other]),
            };
        }
        let terminology = &self.options.terminology;
        let (systems, code) = match token(raw)? {
            Test::Token { system: SystemTest::Is(system), code: Some(code) } => (vec![system], code),
            Test::Token { system: SystemTest::Any, code: Some(code) } => (terminology.systems_with(&code), code),
            _ => return Err("write system|code, or a code that a known code system has".into()),
        };
        if systems.is_empty() {
            return Err("no code system that is loaded has this code; write system|code".into());
        }
        let mut tests = Vec::new();
        for system in systems {
            let found = terminology.codes_by_hierarchy(&system, &code, below, MAX_CODES).map_err(|error| error.to_string())?;
            self.partial.borrow_mut().extend(found.partial);
            tests.extend(found.lists.into_iter().flat_map(|(system, codes)| self.any_code(param, &system, codes)));
        }
        Ok(tests)
    }

    /// Any of the codes: with the system, and bare where the element is of type `code`.
    fn any_code(&self, param: &SearchParam, system: &str, mut codes: Vec<String>) -> Vec<Test> {
        codes.sort_unstable();
        let mut digest = blake3::Hasher::new();
        for part in std::iter::once(system).chain(codes.iter().map(String::as_str)) {
            digest.update(part.as_bytes()).update(&[0]);
        }
        self.decided.borrow_mut().insert(digest.finalize().to_hex().to_string());
        let test = Test::TokenIn { system: SystemTest::Is(system.to_owned()), codes: codes.into() };
        self.spelt(test).into_iter().flat_map(|test| self.implied(param, test)).collect()
    }

    /// The code begins so, or is one of a system that does not tell case apart and begins so there.
    fn beginning(&self, param: &SearchParam, start: String) -> Result<Vec<Test>, String> {
        let lists = self.options.terminology.codes_beginning(&start, MAX_CODES).map_err(|error| error.to_string())?;
        let known = lists.into_iter().flat_map(|(system, codes)| self.any_code(param, &system, codes));
        Ok(std::iter::once(Test::TokenStarts(start)).chain(known).collect())
    }

    fn simple(&self, kind: ParamKind, reading: Reading, raw: &str) -> Result<Test, String> {
        match kind {
            ParamKind::String => string(reading, &lex::unescape(raw)),
            ParamKind::Token => token(raw),
            ParamKind::Uri => Ok(uri(reading, lex::unescape(raw))),
            ParamKind::Date => self.date(raw).map(|(op, interval)| Test::Date { op, interval }),
            ParamKind::Number => number(raw),
            ParamKind::Quantity => quantity(raw),
            ParamKind::Reference | ParamKind::Composite | ParamKind::Special => {
                Err("this kind of parameter cannot be searched by value".into())
            }
        }
    }

    /// `Interval` and comparison of a date; `ap` is widened by a tenth of the distance from now.
    pub fn date(&self, raw: &str) -> Result<(DateOp, Interval), String> {
        const WORDS: &str = "not a date; write YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss+zz:zz, with eq, ne, gt, lt, ge, le, sa, eb or ap before it if wanted";
        let (prefix, rest) = prefix(raw).ok_or(WORDS)?;
        // An unencoded `+03:00` arrives as a space.
        let rest = if rest.contains('T') { rest.replace(' ', "+") } else { rest.to_owned() };
        let interval = time::parse_interval(&rest, &self.options.zone).ok_or(WORDS)?;
        let op = match prefix {
            Prefix::Eq => DateOp::Eq,
            Prefix::Ne => DateOp::Ne,
            Prefix::Gt => DateOp::Gt,
            Prefix::Lt => DateOp::Lt,
            Prefix::Ge => DateOp::Ge,
            Prefix::Le => DateOp::Le,
            Prefix::Sa => DateOp::Sa,
            Prefix::Eb => DateOp::Eb,
            Prefix::Ap => {
                let slack = (self.options.now.saturating_sub(interval.low)).saturating_abs() / 10;
                let low = interval.low.saturating_sub(slack).max(Interval::MIN);
                let high = interval.high.saturating_add(slack).min(Interval::MAX);
                return Ok((DateOp::Ap, Interval { low, high }));
            }
        };
        Ok((op, interval))
    }

    fn reference(&self, targets: &[TypeCode], reading: Reading, value: &str) -> Result<Vec<Test>, String> {
        if matches!(reading, Reading::Below | Reading::Above) {
            return self.reference_tree(targets, reading == Reading::Below, value);
        }
        let types = match reading {
            Reading::OfType(type_code) => vec![type_code],
            _ => targets.to_vec(),
        };
        if reference::is_id(value) && !types.is_empty() {
            return Ok(vec![Test::Reference { type_codes: types, id: value.to_owned() }]);
        }
        let local = match Reference::parse_at(value, &self.options.base_url) {
            Some(Reference::Local { type_name, id, version: None }) => Some((type_name, id)),
            Some(Reference::Local { version: Some(_), .. }) => {
                return Err("a reference cannot be searched by version; leave out /_history".into());
            }
            Some(Reference::Absolute(_) | Reference::Urn(_)) => None,
            _ => return Err("not a reference; write an id, Type/id or an absolute URL".into()),
        };
        let mut tests = Vec::new();
        if let Some((type_name, id)) = local {
            let type_code = self.definitions.type_code(type_name).ok_or("the reference names no R4 resource type")?;
            if matches!(reading, Reading::OfType(wanted) if wanted != type_code) {
                return Err("the reference names another type than the modifier".into());
            }
            tests.push(Test::Reference { type_codes: vec![type_code], id: id.to_owned() });
        }
        // A canonical is a uri even when it begins with our own address.
        if local.is_none() || value.contains("://") {
            tests.push(canonical(value));
        }
        Ok(tests)
    }

    /// `:above` and `:below`: of a canonical by its URL or version, of another resource by the reference to its own parent.
    fn reference_tree(&self, targets: &[TypeCode], below: bool, value: &str) -> Result<Vec<Test>, String> {
        const WORDS: &str = "write Type/id of a type that has parents of its own, such as Location/1, or a canonical URL";
        match Reference::parse_at(value, &self.options.base_url) {
            Some(Reference::Absolute(url) | Reference::Urn(url)) => {
                let url = url.to_owned();
                Ok(vec![if below { Test::UriBelow(url) } else { Test::UriAbove(url) }])
            }
            Some(Reference::Local { type_name, id, version: None }) => {
                let type_code = self.definitions.type_code(type_name).filter(|code| targets.contains(code)).ok_or(WORDS)?;
                let parent = parent_param(self.definitions, type_code).ok_or(WORDS)?;
                Ok(vec![Test::ReferenceTree { type_code, id: id.to_owned(), parent, below }])
            }
            None if reference::is_id(value) => {
                let trees = targets.iter().filter_map(|type_code| Some((*type_code, parent_param(self.definitions, *type_code)?)));
                let tests: Vec<Test> =
                    trees.map(|(type_code, parent)| Test::ReferenceTree { type_code, id: value.to_owned(), parent, below }).collect();
                if tests.is_empty() { Err(WORDS.into()) } else { Ok(tests) }
            }
            _ => Err(WORDS.into()),
        }
    }

    fn composite(&self, param: &SearchParam, raw: &str) -> Result<Vec<Test>, String> {
        let parts = lex::split(raw, '$');
        if parts.len() != param.components.len() {
            let names: Vec<&str> = param.components.iter().map(|component| component.code.as_str()).collect();
            return Err(format!("write a value for each of {}, joined by $", names.join(", ")));
        }
        let mut combinations = vec![Vec::new()];
        for (component, part) in param.components.iter().zip(parts) {
            if part.is_empty() {
                return Err(format!("the value for {} is empty", component.code));
            }
            let tests = match component.kind {
                ParamKind::Reference => {
                    let targets = self.definitions.param(self.type_code, &component.code).map_or(&[][..], |param| &param.targets);
                    self.reference(targets, Reading::Plain, &lex::unescape(part))
                }
                kind => self.simple(kind, Reading::Plain, part).map(|test| self.spelt(test)),
            }
            .map_err(|words| format!("{}: {words}", component.code))?;
            combinations = combinations
                .iter()
                .flat_map(|so_far| tests.iter().map(|test| [so_far.as_slice(), std::slice::from_ref(test)].concat()))
                .collect();
        }
        Ok(combinations.into_iter().map(Test::Composite).collect())
    }
}

#[derive(Clone, Copy)]
enum Prefix {
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    Sa,
    Eb,
    Ap,
}

/// The comparison before a date or number, `eq` when there is none.
fn prefix(raw: &str) -> Option<(Prefix, &str)> {
    let letters = raw.find(|c: char| !(c.is_ascii_alphabetic() || matches!(c, '<' | '>' | '='))).unwrap_or(raw.len());
    let (prefix, rest) = raw.split_at_checked(letters).unwrap_or((raw, ""));
    let prefix = match prefix {
        // As FHIR wrote them before R4's letters, and some clients still do.
        ">" => Prefix::Gt,
        "<" => Prefix::Lt,
        ">=" => Prefix::Ge,
        "<=" => Prefix::Le,
        "" | "eq" => Prefix::Eq,
        "ne" => Prefix::Ne,
        "gt" => Prefix::Gt,
        "lt" => Prefix::Lt,
        "ge" => Prefix::Ge,
        "le" => Prefix::Le,
        "sa" => Prefix::Sa,
        "eb" => Prefix::Eb,
        "ap" => Prefix::Ap,
        _ => return None,
    };
    Some((prefix, rest))
}

fn string(reading: Reading, value: &str) -> Result<Test, String> {
    if reading == Reading::Exact {
        return Ok(Test::StringExact(value.to_owned()));
    }

    let folded = text::comparable(value);
    if folded.is_empty() {
        return Err("the text holds nothing to compare".into());
    }
    Ok(match reading {
        Reading::Contains => Test::StringContains(folded),
        Reading::Whole => Test::StringIs(folded),
        Reading::Ends => Test::StringEnds(folded),
        _ => Test::StringStarts(folded),
    })
}

fn token(raw: &str) -> Result<Test, String> {
    let parts = lex::split(raw, '|');
    match parts.as_slice() {
        [code] => Ok(Test::Token { system: SystemTest::Any, code: Some(lex::unescape(code)) }),
        ["", ""] => Err("a token is code, system|code, |code or system|".into()),
        ["", code] => Ok(Test::Token { system: SystemTest::Absent, code: Some(lex::unescape(code)) }),
        [system, code] => {
            let system = match lex::unescape(system) {
                system if system == SPECIAL_VALUES => SystemTest::Any,
                system => SystemTest::Is(system),
            };
            Ok(Test::Token { system, code: (!code.is_empty()).then(|| lex::unescape(code)) })
        }
        _ => Err("a token has one | at most; write \\| for one inside a system or code".into()),
    }
}

/// `system|code|value`: all three must be there (<https://hl7.org/fhir/R4/search.html#token>).
fn typed_identifier(raw: &str) -> Result<Test, String> {
    let parts = lex::split(raw, '|');
    let [system, code, value] = parts.as_slice() else { return Err(OF_TYPE.into()) };
    if system.is_empty() || code.is_empty() || value.is_empty() {
        return Err(OF_TYPE.into());
    }
    let system = typed_system(&lex::unescape(system), &lex::unescape(code));
    Ok(Test::Token { system: SystemTest::Is(system), code: Some(lex::unescape(value)) })
}

const OF_TYPE: &str = "write system|code|value, all three: the coding of the identifier's type and the identifier's value";

/// The reference by which resources of a type name the one that they are part of.
fn parent_param(definitions: &Definitions, type_code: TypeCode) -> Option<ParamId> {
    let part_of = ["partof", "part-of"].into_iter().find_map(|code| definitions.param(type_code, code));
    part_of.filter(|param| param.kind == ParamKind::Reference && param.targets.contains(&type_code)).map(|param| param.id)
}

fn uri(reading: Reading, value: String) -> Test {
    match reading {
        Reading::Below => Test::UriBelow(value),
        Reading::Above => Test::UriAbove(value),
        _ => canonical(&value),
    }
}

/// Without a version, any version is meant.
fn canonical(value: &str) -> Test {
    if value.contains('|') { Test::Uri(value.to_owned()) } else { Test::Canonical(value.to_owned()) }
}

/// A number with its comparison and the bounds that its digits or `ap` imply.
struct Amount {
    op: NumberOp,
    low: Decimal,
    value: Decimal,
    high: Decimal,
}

impl Amount {
    /// Low bound, value and high bound as the index has them. The high bound is open, but a tenth more is still near, and the value itself is
    /// always within: more digits than a double has imply bounds that it cannot tell from the value.
    fn bounds(&self) -> (f64, f64, f64) {
        let (value, high) = (decimal::to_f64(self.value), decimal::to_f64(self.high));
        let high = if self.op == NumberOp::Ap { high.next_up() } else { high.max(value.next_up()) };
        (decimal::to_f64(self.low), value, high)
    }

    /// The same in the base units of the scale that it stands on.
    fn on(&self, scale: &ucum::Scale) -> Option<Amount> {
        Some(Amount { op: self.op, low: scale.base(self.low)?, value: scale.base(self.value)?, high: scale.base(self.high)? })
    }
}

/// A number with its prefix. `eq` and `ne` compare with the interval that the digits imply, `ap` with a tenth each way, the
/// others with the exact value (<https://hl7.org/fhir/R4/search.html#number>).
fn amount(raw: &str) -> Result<Amount, String> {
    const WORDS: &str =
        "not a number; write digits such as 100, 5.40 or 1e2, with eq, ne, gt, lt, ge, le, sa, eb or ap before it if wanted";
    const DIGITS: &str = "the number has too many digits; 28 are the most";
    let (prefix, text) = prefix(raw).ok_or(WORDS)?;
    if !is_decimal(text) {
        return Err(WORDS.into());
    }
    let value = decimal::parse(text).ok_or(DIGITS)?;
    let half = decimal::half_unit(text).ok_or(DIGITS)?;
    let tenth = value.abs().checked_mul(Decimal::new(1, 1)).ok_or(DIGITS)?;
    let op = match prefix {
        Prefix::Eq => NumberOp::Eq,
        Prefix::Ne => NumberOp::Ne,
        Prefix::Gt => NumberOp::Gt,
        Prefix::Lt => NumberOp::Lt,
        Prefix::Ge => NumberOp::Ge,
        Prefix::Le => NumberOp::Le,
        Prefix::Sa => NumberOp::Sa,
        Prefix::Eb => NumberOp::Eb,
        Prefix::Ap => NumberOp::Ap,
    };
    let around = |slack: Decimal| Some((value.checked_sub(slack)?, value.checked_add(slack)?));
    let (low, high) = around(if op == NumberOp::Ap { tenth.max(half) } else { half }).ok_or(DIGITS)?;
    Ok(Amount { op, low, value, high })
}

fn is_decimal(text: &str) -> bool {
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    text.len() <= 64 && all_digits(whole) && fraction.is_none_or(all_digits) && exponent.is_none_or(|e| all_digits(e) && e.len() <= 3)
}

fn number(raw: &str) -> Result<Test, String> {
    let amount = amount(raw)?;
    let (low, value, high) = amount.bounds();
    Ok(Test::Number { op: amount.op, low, value, high })
}

fn quantity(raw: &str) -> Result<Test, String> {
    let parts = lex::split(raw, '|');
    let (number, unit) = match parts.as_slice() {
        [number] | [number, "", ""] => (number, None),
        [number, "", code] => (number, Some(UnitTest { system: None, code: lex::unescape(code) })),
        [number, system, code] if !code.is_empty() => {
            (number, Some(UnitTest { system: Some(lex::unescape(system)), code: lex::unescape(code) }))
        }
        _ => return Err("a quantity is number, number|system|code or number||unit".into()),
    };
    let amount = amount(number)?;
    let op = amount.op;
    // A UCUM unit that is known is compared across units, any other as it is written.
    if let Some(UnitTest { system: Some(system), code }) = &unit
        && system == UCUM
        && let Some(scale) = ucum::scale(code)
        && let Some(amount) = amount.on(&scale)
    {
        let (low, value, high) = amount.bounds();
        return Ok(Test::Amount { op, low, value, high, dimension: scale.measure.dimension.code() });
    }
    let (low, value, high) = amount.bounds();
    Ok(Test::Quantity { op, low, value, high, unit })
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
