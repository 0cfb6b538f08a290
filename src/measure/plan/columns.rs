//! The columns of the fact query: which search parameter's index holds the value of an element.

use super::compile::Compiler;
use crate::definitions::{self, ParamKind, SearchParam, TypeCode};
use crate::fhir::IssueCode;
use crate::measure::expression::ElementPath;
use crate::store::FactColumn;
use crate::store::query::Kind;

impl Compiler<'_> {
    /// The column that holds an element's value.
    pub(super) fn element(&mut self, path: &ElementPath, base: TypeCode, kind: Kind, at: &str) -> Option<usize> {
        let r4 = definitions::r4();
        let mut of = base;
        let mut hops = Vec::new();
        for (place, (element, target)) in path.hops.iter().enumerate() {
            let next = path.hops.get(place + 1).map_or(path.leaf.as_str(), |(element, _)| element.as_str());
            let reference = param_of(of, element, ParamKind::Reference);
            let found = reference.and_then(|r| Some((r.id, target_of(r, target.as_deref(), |t| any_param_of(t, next))?)));
            let Some((param, target)) = found else {
                let words = format!(
                    "{}.{element} is no indexed reference that leads to one type with {next}; name the type with ofType().",
                    r4.type_name(of)
                );
                self.issue(IssueCode::NotSupported, words, at);
                return None;
            };
            hops.push(param);
            of = target;
        }
        let wanted = if kind == Kind::Date { ParamKind::Date } else { ParamKind::Token };
        let Some(leaf) = param_of(of, &path.leaf, wanted) else {
            let words = format!("{}.{} is not an indexed {}.", r4.type_name(of), path.leaf, wanted.as_str());
            self.issue(IssueCode::NotSupported, words, at);
            return None;
        };
        Some(self.column(FactColumn { hops, leaf: leaf.id, kind }))
    }

    pub(super) fn column(&mut self, column: FactColumn) -> usize {
        let same = |c: &FactColumn| c.hops == column.hops && c.leaf == column.leaf && c.kind == column.kind;
        self.columns.iter().position(same).unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        })
    }
}

/// The search parameter of a type that indexes exactly this element.
fn param_of(of: TypeCode, element: &str, kind: ParamKind) -> Option<&'static SearchParam> {
    definitions::r4().params(of).iter().find(|param| param.kind == kind && indexes(param, of, element))
}

fn any_param_of(of: TypeCode, element: &str) -> bool {
    definitions::r4().params(of).iter().any(|param| indexes(param, of, element))
}

fn indexes(param: &SearchParam, of: TypeCode, element: &str) -> bool {
    let type_name = definitions::r4().type_name(of);
    param.expression.split('|').any(|branch| {
        let branch = branch.trim().trim_start_matches('(').trim_end_matches(')');
        branch.strip_prefix(type_name).and_then(|rest| rest.strip_prefix('.')) == Some(element)
    })
}

/// The type that a reference is followed to: the one that is named, or the only one that `fits`.
pub(super) fn target_of(reference: &SearchParam, named: Option<&str>, fits: impl Fn(TypeCode) -> bool) -> Option<TypeCode> {
    let r4 = definitions::r4();
    match named {
        Some(name) => r4.type_code(name).filter(|t| reference.targets.contains(t)),
        None => {
            let fitting: Vec<TypeCode> = reference.targets.iter().copied().filter(|t| fits(*t)).collect();
            match fitting.as_slice() {
                [only] => Some(*only),
                _ => None,
            }
        }
    }
}
