//! Search parameters (<https://hl7.org/fhir/R4/searchparameter-registry.html>).

use super::{ParamId, TypeCode};

/// Bits of a [`ParamId`] that hold the parameter's code.
const CODE_BITS: u32 = 12;

/// One search parameter as it applies to one resource type.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchParam {
    pub id: ParamId,
    /// The name in a query: `patient`, `_lastUpdated`.
    pub code: String,
    pub kind: ParamKind,
    /// The canonical URL of the SearchParameter; empty: it has none.
    pub definition: String,
    /// FHIRPath from the resource, with the branches of this type only. Empty for `_text` and `_content`, which no element holds.
    pub expression: String,
    /// For references: the types it may point to, in ascending order.
    pub targets: Vec<TypeCode>,
    /// For composites: the parts, each relative to an element that `expression` finds.
    pub components: Vec<Component>,
}

/// One part of a composite parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// The code of the parameter that defines the part.
    pub code: String,
    pub kind: ParamKind,
    /// FHIRPath from the composite's element; `%resource` is the whole resource.
    pub expression: String,
}

/// `SearchParameter.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    Number,
    Date,
    String,
    Token,
    Reference,
    Composite,
    Quantity,
    Uri,
    Special,
}

impl ParamKind {
    /// The code of the kind: `token`.
    pub fn as_str(self) -> &'static str {
        match self {
            ParamKind::Number => "number",
            ParamKind::Date => "date",
            ParamKind::String => "string",
            ParamKind::Token => "token",
            ParamKind::Reference => "reference",
            ParamKind::Composite => "composite",
            ParamKind::Quantity => "quantity",
            ParamKind::Uri => "uri",
            ParamKind::Special => "special",
        }
    }

    /// The kind with this code.
    pub fn parse(code: &str) -> Option<ParamKind> {
        use ParamKind::*;
        [Number, Date, String, Token, Reference, Composite, Quantity, Uri, Special].into_iter().find(|kind| kind.as_str() == code)
    }
}

/// The number of a type's parameter, from the place of its code in the frozen list.
pub fn param_id(type_code: TypeCode, code: u16) -> ParamId {
    u32::from(type_code) << CODE_BITS | u32::from(code) & ((1 << CODE_BITS) - 1)
}

/// The type and the place of the code.
pub(super) fn take_apart(id: ParamId) -> (TypeCode, usize) {
    let type_code = TypeCode::try_from(id >> CODE_BITS).unwrap_or(TypeCode::MAX);
    (type_code, (id & ((1 << CODE_BITS) - 1)) as usize)
}
