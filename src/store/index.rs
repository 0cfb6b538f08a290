//! Index entries: what a resource can be found by, as [`crate::search::extract`] reads it from the resource.

use super::ParamId;
use crate::fhir::Interval;

/// One value of one search parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexEntry {
    pub param: ParamId,
    pub value: IndexValue,
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
    /// A uri, url, canonical (with `|version` as it stands), oid, or a reference to elsewhere (absolute URL, urn).
    Uri(Box<str>),
    /// date, dateTime, instant, Period, Timing.
    Date(Interval),
    /// integer, decimal: exact value as its nearest double.
    Number(f64),
    /// Quantity, Money, Age …; Range gives two entries (low, high). `system` and `code` are the unit's; `unit` its words.
    Quantity { value: f64, system: Option<Box<str>>, code: Option<Box<str>>, unit: Option<Box<str>> },
    /// Components of one element that belong together, in the parameter's order; two or three.
    Composite(Vec<IndexValue>),
}
