//! Index entries: what a resource can be found by, as [`crate::search::extract`] reads it from the resource.

use super::{ParamId, TypeCode};
use crate::fhir::Interval;

/// One value of one search parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexEntry {
    pub param: ParamId,
    pub value: IndexValue,
}

/// The number under which stand the medicines that a resource names, wherever in it; no type has it, and no search asks for it.
pub const MEDICINE: ParamId = 255 << 12 | 1;
/// The same of identifiers that may be a medicine's.
pub const MEDICINE_CALLED: ParamId = 255 << 12 | 2;
/// The same of visits, where no search parameter looks.
pub const VISIT: ParamId = 255 << 12 | 3;

/// Which of a parameter's indexes: its values, or what a modifier asks of them. Each has a parameter number of its own, so that
/// all share the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Facet {
    /// What a search without a modifier looks at.
    Value = 0,
    /// `:text`: the words that go with a code, an identifier's type or a reference.
    Text = 1,
    /// `:identifier`: `Reference.identifier`, as a token.
    Identifier = 2,
    /// `:of-type`: an identifier's value; its system is that of [`typed_system`].
    OfType = 3,
    /// Quantities in base units: the code is the dimension's.
    Amount = 4,
    /// A token that has several spellings and is not written in the one form of them all ([`super::Folding`]), in that form.
    Caseless = 5,
    /// That an own parameter's expression fails on the resource, which therefore has none of its values: a token, [`UNFIT`].
    Unfit = 6,
}

/// The code under [`Facet::Unfit`].
pub const UNFIT: &str = "unfit";

impl Facet {
    /// The number under which this index of `param` is kept; parameters have 24 bits.
    pub fn of(self, param: ParamId) -> ParamId {
        param | (self as u32) << 24
    }
}

/// The bits of a parameter's number that say in which contained resource a value is; the type has the eight below.
const CONTAINED_SHIFT: u32 = 20;
/// All of these bits.
const CONTAINED_BITS: u32 = 15 << CONTAINED_SHIFT;
/// Contained resources of a type up to this one have numbers as near to their parameter's as these bits allow: there are hardly ever more.
pub(super) const NEAR: u32 = 15;
/// With all of the bits above, marks an entry of a contained resource behind those; which one it is its value says ([`IndexValue::Far`]).
const FAR: u32 = 1 << 27;
/// Where the numbers of those behind begin: beyond all others, those of one parameter in a row, one for each place.
const FAR_NUMBERS: i64 = 1 << 60;
/// A container has fewer contained resources of one type than this: it would be larger than a request may be.
pub const MOST_CONTAINED: u32 = 1 << CONTAINED_SHIFT;

/// The entry of a contained resource as its container's. `place`: which of those of the type, from 1.
pub fn in_contained(entry: IndexEntry, place: u32) -> IndexEntry {
    let IndexEntry { param, value } = entry;
    match place {
        ..=NEAR => IndexEntry { param: near_number(param, place), value },
        _ => IndexEntry { param: param | CONTAINED_BITS | FAR, value: IndexValue::Far { place, value: Box::new(value) } },
    }
}

/// The number under which the values of `param` in a contained resource of its type are kept, with the key of what contains it; `place` is
/// at most [`NEAR`].
pub(super) fn near_number(param: ParamId, place: u32) -> ParamId {
    param | place << CONTAINED_SHIFT & CONTAINED_BITS
}

/// The same behind those. Place 0 is none: the number before the first.
pub(super) fn far_number(param: ParamId, place: u32) -> i64 {
    let param = param & !(CONTAINED_BITS | FAR);
    FAR_NUMBERS | i64::from(param) << 24 | i64::from(CONTAINED_BITS) | i64::from(place)
}

/// Whether an entry is of a contained resource.
pub fn is_contained(param: ParamId) -> bool {
    param & CONTAINED_BITS != 0
}

/// The condition that a row of `alias` is not of a contained resource.
pub(super) fn own_row(alias: &str) -> String {
    format!(" AND {alias}.param & {CONTAINED_BITS} = 0")
}

/// How far the number of a parameter is from that of the contained resource that `target` stands for, as SQL: the difference, or for
/// those behind [`NEAR`] the place, negated.
pub(super) fn shift_of_target(target: &str) -> String {
    let place = format!("((-{target}) >> 8)");
    format!("(CASE WHEN {place} > {NEAR} THEN -{place} ELSE {place} << {CONTAINED_SHIFT} END)")
}

/// The number of a parameter at such a distance, as SQL.
pub(super) fn number_at(shift: &str, param: ParamId) -> String {
    format!("(CASE WHEN {shift} < 0 THEN {} - {shift} ELSE {shift} + {param} END)", far_number(param, 0))
}

/// The condition that `target` stands for a contained resource of a type, as SQL; it is asked of negative ones only.
pub(super) fn target_is_of(target: &str, type_code: TypeCode) -> String {
    format!("((-{target}) & 255) = {type_code}")
}

/// The place among those of its type, as SQL, of the contained resource that is so far away.
pub(super) fn place_of_shift(shift: &str) -> String {
    format!("(CASE WHEN {shift} < 0 THEN -{shift} ELSE {shift} >> {CONTAINED_SHIFT} END)")
}

/// What stands in place of a target's key where a reference leads to the contained resource of this type and place, negated.
pub fn contained_target(type_code: TypeCode, place: u32) -> i64 {
    i64::from(place) << 8 | i64::from(type_code)
}

/// What stands as the system of an [`Facet::OfType`] token: the code of the identifier's type.
pub fn typed_system(system: &str, code: &str) -> String {
    format!("{system}|{code}")
}

/// What stands as the system of a composite's quantity that is also known in base units.
pub fn dimension_system(dimension: &str) -> String {
    format!("http://unitsofmeasure.org#{dimension}")
}

/// A value, by the kind of index that holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexValue {
    /// Coding, CodeableConcept, Identifier, ContactPoint, code, boolean, uri used as token. `system` is `None` when absent
    /// (an implied system of a `code` element is absent too: searches without a system match it).
    Token { system: Option<Box<str>>, code: Box<str> },
    /// The original text; the store keeps it beside its folded form.
    String { text: Box<str> },
    /// A local reference, whether or not the target exists yet.
    Reference { type_name: Box<str>, id: Box<str> },
    /// A reference to the contained resource with this id; `target` is its [`contained_target`], 0 while that is not known.
    Within { id: Box<str>, target: i64 },
    /// Words for `:text`, folded and clipped; kept beside the uris, since both are only walked by their beginnings.
    Text(Box<str>),
    /// A uri, url, canonical (with `|version` as it stands), oid, or a reference to elsewhere (absolute URL, urn).
    Uri(Box<str>),
    /// date, dateTime, instant, Period, Timing.
    Date(Interval),
    /// integer, decimal: exact value as its nearest double.
    Number(f64),
    /// Quantity, Money, Age …; Range gives two entries (low, high). `system` and `code` are the unit's; `unit` its words.
    /// In a composite, `amount` is the dimension and the value in its base units.
    Quantity { value: f64, system: Option<Box<str>>, code: Option<Box<str>>, unit: Option<Box<str>>, amount: Option<Box<(Box<str>, f64)>> },
    /// Components of one element that belong together, in the parameter's order; two or three.
    Composite(Vec<IndexValue>),
    /// The value of a contained resource far down its container's list ([`in_contained`]): which of those of its type it is, and what it has.
    Far { place: u32, value: Box<IndexValue> },
}

impl IndexValue {
    /// What the resource has, wherever in its container it is.
    pub fn near(&self) -> &IndexValue {
        match self {
            IndexValue::Far { value, .. } => value,
            value => value,
        }
    }
}
