//! The value sets that the elements of type `code` are bound to which a search parameter leads to.

use crate::definitions::{self, ElementKind, Primitive, SearchParam};

/// Those of the parameter's plain paths.
pub(super) fn of(param: &SearchParam) -> impl Iterator<Item = &'static str> {
    among(&param.expression)
}

/// Those of the plain paths that are joined in an expression.
pub(super) fn among(expression: &str) -> impl Iterator<Item = &'static str> {
    expression.split('|').filter_map(|path| of_path(path.trim()))
}

fn of_path(path: &str) -> Option<&'static str> {
    let definitions = definitions::r4();
    let mut names = path.split('.');
    let mut structure = names.next().and_then(|name| definitions.structure(name));
    let mut last = None;
    for name in names {
        last = structure.and_then(|structure| structure.element(name));
        structure = match last.and_then(|element| element.types.first()).map(|of| &of.kind) {
            Some(ElementKind::Structure(place)) => definitions.structure_at(*place),
            _ => None,
        };
    }
    last.filter(|element| matches!(element.types.as_slice(), [of] if matches!(of.kind, ElementKind::Primitive(Primitive::Code))))
        .and_then(|element| element.binding)
}
