//! What can be asked of the store: a typed tree of filters that the backends turn into SQL.

use super::audit::AUDITOR;
use super::gate::Gate;
use super::{FacilityKey, ParamId, ResourceKey, TypeCode};
use crate::definitions;
use crate::fhir::Interval;
use std::sync::Arc;

/// A search over the resources of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub type_code: TypeCode,
    /// All must hold.
    pub filters: Vec<Filter>,
    pub scope: Scope,
    /// Empty: by resource key, the order of arrival. The resource key always breaks ties.
    pub sort: Vec<SortKey>,
}

impl Query {
    /// The resources that its criteria name by `_id`, wherever in them that stands.
    pub fn named(&self) -> Vec<(TypeCode, Box<str>)> {
        let mut found = Vec::new();
        let types = self.filters.iter().find_map(|filter| if let Filter::OfType(types) = filter { Some(types.as_slice()) } else { None });
        let mut waiting: Vec<(&[TypeCode], &Filter)> = Vec::new();
        let own = types.unwrap_or(std::slice::from_ref(&self.type_code));
        waiting.extend(self.filters.iter().map(|filter| (own, filter)));
        while let Some((types, filter)) = waiting.pop() {
            match filter {
                Filter::Id(ids) => found.extend(ids.iter().flat_map(|id| types.iter().map(|code| (*code, id.as_str().into())))),
                Filter::Any(filters) | Filter::All(filters) => waiting.extend(filters.iter().map(|filter| (types, filter))),
                Filter::Not(filter) => waiting.push((types, filter)),
                Filter::Chain { targets, .. } | Filter::Canonical { targets, .. } => {
                    let further =
                        targets.iter().flat_map(|(code, filters)| filters.iter().map(move |filter| (std::slice::from_ref(code), filter)));
                    waiting.extend(further);
                }
                Filter::Has { source, filters, .. } | Filter::HasCanonical { source, filters, .. } => {
                    waiting.extend(filters.iter().map(|filter| (std::slice::from_ref(source), filter)));
                }
                _ => {}
            }
        }
        found
    }
}

impl Query {
    /// Whether its criteria ask for somebody: a Patient by id, by a reference or by an identifier, wherever in them that stands.
    pub fn names_a_patient(&self) -> bool {
        let r4 = definitions::r4();
        let Some(patient) = r4.type_code("Patient") else { return false };
        let identifier = r4.param(patient, "identifier").map(|param| param.id);
        let mut waiting: Vec<(TypeCode, &Filter)> = self.filters.iter().map(|filter| (self.type_code, filter)).collect();
        while let Some((type_code, filter)) = waiting.pop() {
            match filter {
                Filter::Id(_) if type_code == patient => return true,
                Filter::Param { param, tests } => {
                    let is_identifier = Some(*param) == identifier;
                    let names = |test: &Test| match test {
                        Test::Reference { type_codes, .. } => type_codes.contains(&patient),
                        Test::Token { code: Some(_), .. } => is_identifier,
                        _ => false,
                    };
                    if tests.iter().any(names) {
                        return true;
                    }
                }
                Filter::Any(filters) | Filter::All(filters) => waiting.extend(filters.iter().map(|filter| (type_code, filter))),
                Filter::Chain { targets, .. } | Filter::Canonical { targets, .. } => {
                    waiting.extend(targets.iter().flat_map(|(code, filters)| filters.iter().map(|filter| (*code, filter))));
                }
                Filter::Has { source, filters, .. } | Filter::HasCanonical { source, filters, .. } => {
                    waiting.extend(filters.iter().map(|filter| (*source, filter)));
                }
                _ => {}
            }
        }
        false
    }
}

/// What the caller may see, decided inside every query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything: `--auth open`, lango's own work.
    All,
    /// What these facilities contributed, and what is about nobody.
    Owners(Vec<FacilityKey>),
    /// The same, and what the patients' consents allow the requester.
    Gate(Arc<Gate>),
}

impl Scope {
    /// The facilities whose resources are the caller's own; empty under [`Scope::All`].
    pub fn owners(&self) -> &[FacilityKey] {
        match self {
            Scope::All => &[],
            Scope::Owners(owners) => owners,
            Scope::Gate(gate) => &gate.owners,
        }
    }

    /// Whether all AuditEvents are the caller's to see.
    pub fn sees_audit(&self) -> bool {
        matches!(self, Scope::All) || self.owners().contains(&AUDITOR)
    }

    /// Words that are the same for the same caller at any instant, for binding a page's token to it.
    pub fn binding(&self) -> String {
        match self {
            Scope::All => "all".to_owned(),
            Scope::Owners(owners) => format!("{owners:?}"),
            Scope::Gate(gate) => format!("{:?} {:?}", gate.owners, gate.requesters),
        }
    }
}

/// One condition on a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Some index value of `param` satisfies one of `tests` (the comma of a query string is OR).
    Param { param: ParamId, tests: Vec<Test> },
    /// Not one of its values satisfies any of `tests`; a resource without the parameter passes too (`:not`).
    NotParam { param: ParamId, tests: Vec<Test> },
    /// `:missing=true` when `missing`, else the parameter has a value. `places` says under which numbers and in which indexes
    /// its values are.
    Missing { places: Vec<(ParamId, Kind)>, missing: bool },
    /// `_id`.
    Id(Vec<String>),
    /// `_lastUpdated`: bounds on `meta.lastUpdated`, all of them.
    LastUpdated { ranges: Vec<(DateOp, Interval)> },
    /// `param:Type.…=…`: some target of the reference `param`, of one of `targets`, satisfies the filters. One alternative
    /// per target type, since the same name is another parameter there.
    Chain { param: ParamId, targets: Vec<(TypeCode, Vec<Filter>)> },
    /// `_has:Type:param:…=…`: some resource of type `source` refers here by `param` and satisfies `filters`.
    Has { source: TypeCode, param: ParamId, filters: Vec<Filter> },
    /// [`Filter::Chain`] where the parameter names its targets by their `url`, with or without `|version`; every version that is there
    /// when none is named.
    Canonical { param: ParamId, targets: Vec<(TypeCode, Vec<Filter>)> },
    /// [`Filter::Has`] in the same way.
    HasCanonical { source: TypeCode, param: ParamId, filters: Vec<Filter> },
    /// Any of these.
    Any(Vec<Filter>),
    /// All of these.
    All(Vec<Filter>),
    /// Not this: the resources of the type that it does not find.
    Not(Box<Filter>),
    /// Some contained resource of this type satisfies all of the filters by its own values. `_id` among them is its own, a bound on
    /// `_lastUpdated` is on what contains it, and nothing refers to it from outside.
    Contained { type_code: TypeCode, filters: Vec<Filter> },
    /// It is of one of these types, in a search that is not bound to one.
    OfType(Vec<TypeCode>),
    /// Matches no resource; an honest answer to a search for something that cannot exist.
    Nothing,
}

/// The index tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Token,
    String,
    Reference,
    Uri,
    Date,
    Number,
    Quantity,
    Composite,
}

/// A test on one index value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    Token {
        system: SystemTest,
        code: Option<String>,
    },
    /// Any of these codes: a value set, or what is above or below a code.
    TokenIn {
        system: SystemTest,
        codes: Arc<[String]>,
    },
    /// The code begins so.
    TokenStarts(String),
    /// The code is this one in the form that [`Folding`] gives both.
    TokenFolded {
        folding: Folding,
        system: SystemTest,
        code: String,
    },
    /// The words of a token or a reference begin with the folded text (`:text`).
    TextStarts(String),
    /// Default: the folded value starts with the folded text.
    StringStarts(String),
    /// `:contains`, folded.
    StringContains(String),
    /// `:exact`, as written.
    StringExact(String),
    /// The folded value ends with the folded text (`ew` of `_filter`).
    StringEnds(String),
    /// The folded value is the folded text (`eq` of `_filter`).
    StringIs(String),
    /// Any of the target types when `type_codes` holds several (`subject=123`).
    Reference {
        type_codes: Vec<TypeCode>,
        id: String,
    },
    /// The resource itself, or what is below it (or above it) by the reference `parent`, which leads to its own type.
    ReferenceTree {
        type_code: TypeCode,
        id: String,
        parent: ParamId,
        below: bool,
    },
    /// Equal, as written.
    Uri(String),
    /// Equal, or this followed by `|version`.
    Canonical(String),
    /// `:below`: equal, or this followed by `/…` or `|…`; with a version, that version or one that begins with it and a dot.
    UriBelow(String),
    /// `:above`: the stored uri (or, with a version, the stored version) is above this one.
    UriAbove(String),
    Date {
        op: DateOp,
        interval: Interval,
    },
    Number {
        op: NumberOp,
        low: f64,
        value: f64,
        high: f64,
    },
    Quantity {
        op: NumberOp,
        low: f64,
        value: f64,
        high: f64,
        unit: Option<UnitTest>,
    },
    /// A quantity in the base units of `dimension`, whatever unit it was written in.
    Amount {
        op: NumberOp,
        low: f64,
        value: f64,
        high: f64,
        dimension: String,
    },
    Composite(Vec<Test>),
    /// The value itself, as resources are sorted by it.
    At {
        kind: Kind,
        value: SortValue,
    },
    /// What comes before it in that order.
    Before {
        kind: Kind,
        value: SortValue,
        descending: bool,
    },
    /// A value that satisfies none of these tests, all on the same index (`ne` of `_filter`).
    NoneOf(Vec<Test>),
    /// Positions on the unit sphere at most a chord of `chord` away from `centre`.
    Near {
        centre: [f64; 3],
        chord: f64,
    },
}

/// How the spellings of a token that mean the same are brought to one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folding {
    /// The letters of ASCII are small.
    Case,
    /// And there are no spaces.
    MediaType,
}

impl Folding {
    /// The one form of a spelling.
    pub fn of(self, text: &str) -> String {
        let small = text.to_ascii_lowercase();
        match self {
            Folding::Case => small,
            Folding::MediaType => small.replace(' ', ""),
        }
    }
}

/// The `system|` part of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemTest {
    /// `code`: any system or none.
    Any,
    /// `|code`: no system.
    Absent,
    /// `system|code`.
    Is(String),
}

/// The `|system|code` part of a quantity: with a system the coded unit must be equal, without one `code` may be code or words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitTest {
    pub system: Option<String>,
    pub code: String,
}

/// Prefixes on dates (<https://hl7.org/fhir/R4/search.html#prefix>), over intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateOp {
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    Sa,
    Eb,
    /// Overlaps an interval that the search room has already widened.
    Ap,
}

/// Prefixes on numbers and quantities: `Eq`, `Ne`, `Ap` use `[low, high)`, the others `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberOp {
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

/// One key of `_sort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    pub by: SortBy,
    pub descending: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortBy {
    Id,
    LastUpdated,
    /// Which contained resource of its type matched, from 1; 0: none, but the resource itself. A resource then matches once for each.
    Contained,
    /// The smallest value ascending, the largest descending; resources without one come last.
    Param {
        param: ParamId,
        kind: Kind,
    },
    /// What has no value by any of `first`, which stands before this in the sort: among those that have, it would decide what further keys are to.
    Behind {
        first: Vec<SortBy>,
        by: Box<SortBy>,
    },
}

/// Where a page ended: the sort values and key of its last row, and the snapshot that its search began with.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    pub snapshot: Snapshot,
    pub after: Vec<SortValue>,
    pub after_key: ResourceKey,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SortValue {
    Missing,
    Int(i64),
    Real(f64),
    Text(String),
}

/// Which transactions a page may see: those numbered below `below`, less those `except` that were still running then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub below: i64,
    pub except: Vec<i64>,
}
