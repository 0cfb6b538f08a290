//! Media types (<https://hl7.org/fhir/R4/search.html#mimetype>), which know no case, and in which spaces say nothing. They are held against each
//! other in one form ([`Folding::MediaType`]); what is written in another is kept a second time in that one.

use super::bindings;
use crate::definitions::SearchParam;
use crate::store::query::{SystemTest, Test};
use crate::store::{Facet, Folding, IndexEntry, IndexValue, ParamId};

/// The code system of media types.
pub(super) const SYSTEM: &str = "urn:ietf:bcp:13";

/// The value set of media types, which lists none.
const VALUE_SET: &str = "http://hl7.org/fhir/ValueSet/mimetypes";

/// Whether the parameter's values are media types.
pub(super) fn is_of(param: &SearchParam) -> bool {
    is_among(&param.expression)
}

/// Whether one of the plain paths that are joined in an expression leads to media types.
pub(super) fn is_among(expression: &str) -> bool {
    bindings::among(expression).any(|binding| binding == VALUE_SET)
}

/// `:below` and `:above`: by the type alone, with the subtype or with parameters.
pub(super) fn tree(below: bool, wanted: &str) -> Result<Vec<Test>, String> {
    let wanted = Folding::MediaType.of(wanted);
    let wanted = wanted.trim_end_matches(['/', ';']);
    if wanted.is_empty() {
        return Err("write a media type, such as text, text/xml or text/xml;charset=utf-8".into());
    }
    if below {
        let within = if wanted.contains('/') { ';' } else { '/' };
        let whole = Test::Token { system: SystemTest::Any, code: Some(wanted.to_owned()) };
        return Ok(vec![whole, Test::TokenStarts(format!("{wanted}{within}"))]);
    }
    let ends = wanted.match_indices(['/', ';']).map(|(end, _)| end).chain([wanted.len()]);
    let above = ends.filter_map(|end| wanted.get(..end)).map(str::to_owned).collect();
    Ok(vec![Test::TokenIn { system: SystemTest::Any, codes: above }])
}

/// Adds the one form of those values of `param` that are written in another.
pub(super) fn index(param: ParamId, entries: &mut Vec<IndexEntry>) {
    let further = |entry: &IndexEntry| match &entry.value {
        IndexValue::Token { code, .. } if entry.param == param => {
            let folded = Folding::MediaType.of(code);
            let value = IndexValue::Token { system: None, code: folded.as_str().into() };
            (folded != **code).then_some(IndexEntry { param: Facet::Caseless.of(param), value })
        }
        _ => None,
    };
    let further: Vec<IndexEntry> = entries.iter().filter_map(further).collect();
    entries.extend(further);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_below_its_parts_whatever_its_spelling() {
        let token = |code: &str| Test::Token { system: SystemTest::Any, code: Some(code.to_owned()) };
        let starts = |start: &str| Test::TokenStarts(start.to_owned());
        for (wanted, tests) in [
            ("Text", [token("text"), starts("text/")]),
            ("text/", [token("text"), starts("text/")]),
            ("text/XML", [token("text/xml"), starts("text/xml;")]),
            ("text/xml ; charset=UTF-8", [token("text/xml;charset=utf-8"), starts("text/xml;charset=utf-8;")]),
        ] {
            assert_eq!(tree(true, wanted).unwrap(), tests, "{wanted}");
        }
        let above = ["text", "text/xml", "text/xml;a=b", "text/xml;a=b;c=d"].map(str::to_owned);
        let codes = above.to_vec().into();
        assert_eq!(tree(false, "Text/xml; a=b; c=d").unwrap(), [Test::TokenIn { system: SystemTest::Any, codes }]);
        assert!(tree(true, " ;").is_err());
    }
}
