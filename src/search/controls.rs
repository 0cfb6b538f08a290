//! The parameters about the answer: pages, order, what comes along and how much of it
//! (<https://hl7.org/fhir/R4/search.html#return>).

use super::contained::Which;
use super::extract::{Names, facet_places, names};
use super::filter::{index_kinds, shown};
use super::parse::{CONTROLS, CURSOR, Include, Over, ParseOptions, SearchRequest, Summary, Total, Used, Wrong};
use super::suggest;
use crate::definitions::{Definitions, ParamKind};
use crate::fhir::IssueCode;
use crate::store::query::{Kind, SortBy};
use crate::store::{Facet, SortKey, TypeCode};

/// Keys of `_sort`.
const MAX_SORTS: usize = 8;
/// `_include` and `_revinclude` together.
const MAX_INCLUDES: usize = 32;

/// Reads them for one search.
pub(super) struct Controls<'a> {
    pub definitions: &'static Definitions,
    pub options: &'a ParseOptions,
    pub over: Over<'a>,
    /// Whether what comes back may contain the matches, and so be of any type.
    pub contained: bool,
}

impl Controls<'_> {
    /// Takes a parameter into the request; `None`: it is about resources.
    pub fn take(&self, request: &mut SearchRequest, key: &str, value: &str) -> Option<Result<Used, Wrong>> {
        let (name, modifier) = match key.split_once(':') {
            Some((name, modifier)) => (name, Some(modifier)),
            None => (key, None),
        };
        let choice = |words: &str| Wrong::error(IssueCode::Value, format!("{name} is one of {words}"));
        let used = |()| Used::Yes;
        Some(match (name, modifier) {
            ("_include" | "_revinclude", None | Some("iterate" | "recurse")) => {
                self.include_into(request, value, modifier.is_some(), name == "_revinclude").map(used)
            }
            (name, Some(_)) if CONTROLS.contains(&name) || name == CURSOR => {
                Err(Wrong::error(IssueCode::Invalid, format!("{name} takes no such modifier")))
            }
            ("_type", None) => self.named(value),
            ("_format" | "_pretty", None) => Ok(Used::No),
            (CURSOR, None) => {
                request.cursor = Some(value.to_owned());
                Ok(Used::No)
            }
            ("_count", None) => match value.parse::<u32>() {
                Ok(count) => {
                    request.count = count.min(self.options.max_count);
                    Ok(Used::As(request.count.to_string()))
                }
                Err(_) => Err(Wrong::error(IssueCode::Value, "_count is a whole number, 0 or more")),
            },
            ("_total", None) => {
                Total::of(value).ok_or_else(|| choice("none, estimate, accurate")).map(|total| request.total = total).map(used)
            }
            ("_summary", None) => Summary::of(value)
                .ok_or_else(|| choice("true, text, data, count, false"))
                .map(|summary| request.summary = summary)
                .map(used),
            ("_elements", None) => self.elements(value).map(|elements| request.elements.extend(elements)).map(used),
            ("_sort", None) => self.sort_into(request, value).map(used),
            ("_contained", None) => match value {
                "false" => Ok(Which::Own),
                "true" => Ok(Which::Contained),
                "both" => Ok(Which::Both),
                _ => Err(choice("true, false, both")),
            }
            .map(|which| request.contained.which = which)
            .map(used),
            ("_containedType", None) => match value {
                "container" => Ok(false),
                "contained" => Ok(true),
                _ => Err(choice("container, contained")),
            }
            .map(|alone| request.contained.alone = alone)
            .map(used),
            ("_maxresults", None) => match value.parse::<u32>() {
                Ok(most) if most > 0 => {
                    request.most = Some(most);
                    Ok(Used::Yes)
                }
                _ => Err(Wrong::error(IssueCode::Value, "_maxresults is a whole number, 1 or more")),
            },
            ("_score", None) => Err(Wrong::error(IssueCode::NotSupported, format!("{name} is not supported by this server"))),
            _ => return None,
        })
    }

    fn named(&self, value: &str) -> Result<Used, Wrong> {
        match self.over {
            Over::Type(type_code) if value == self.definitions.type_name(type_code) => Ok(Used::No),
            Over::Type(_) => Err(Wrong::ignorable("_type has no place in a search of one type, whose name is in the URL")),
            _ => Ok(Used::Yes),
        }
    }

    /// The names of `_elements`, each with the types that have such an element; a name may have the type before it.
    pub fn elements(&self, value: &str) -> Result<Vec<(TypeCode, String)>, Wrong> {
        let mut names = Vec::new();
        // Some clients ask for what every answer has.
        for name in value.split(',').map(str::trim).filter(|name| *name != "resourceType") {
            let before = names.len();
            names.extend(self.over.types().iter().filter_map(|type_code| Some((*type_code, self.element(*type_code, name)?))));
            if names.len() == before {
                return Err(Wrong::ignorable(self.no_element(name)));
            }
        }
        Ok(names)
    }

    fn element(&self, type_code: TypeCode, name: &str) -> Option<String> {
        let type_name = self.definitions.type_name(type_code);
        let structure = self.definitions.structure(type_name)?;
        let top = top(name, type_name);
        let known = structure.elements.iter().map(|element| element.name).find(|name| *name == top);
        // `effectiveDateTime` means `effective[x]`.
        known.or_else(|| structure.key(top).map(|(_, element, _)| element.name)).map(str::to_owned)
    }

    fn no_element(&self, name: &str) -> String {
        let Over::Type(type_code) = self.over else {
            return format!("none of the types has an element '{}'", shown(name));
        };
        let type_name = self.definitions.type_name(type_code);
        let elements = self.definitions.structure(type_name).map_or(&[][..], |structure| &structure.elements);
        let top = top(name, type_name);
        format!("{type_name} has no element '{}'{}", shown(top), suggest::hint(top, elements.iter().map(|element| element.name)))
    }

    fn sort_into(&self, request: &mut SearchRequest, value: &str) -> Result<(), Wrong> {
        let sorts = self.over.types().iter().map(|type_code| self.sort(*type_code, value)).collect::<Result<Vec<_>, _>>()?;
        let alike = |keys: &Vec<SortKey>| {
            sorts.first().is_some_and(|first| first.len() == keys.len() && first.iter().zip(keys).all(|(a, b)| is_alike(&a.by, &b.by)))
        };
        if !sorts.iter().all(alike) {
            return Err(Wrong::error(IssueCode::NotSupported, "the types are not sorted by the same kind of value"));
        }
        let queries = std::iter::once(&mut request.query).chain(&mut request.further);
        queries.zip(sorts).for_each(|(query, sort)| query.sort = sort);
        Ok(())
    }

    fn sort(&self, type_code: TypeCode, value: &str) -> Result<Vec<SortKey>, Wrong> {
        let type_name = self.definitions.type_name(type_code);
        let (mut keys, mut named) = (Vec::new(), 0usize);
        for name in value.split(',').map(str::trim) {
            let (name, descending) = match name.strip_prefix('-') {
                Some(name) => (name, true),
                None => (name, false),
            };
            let by = match (name, self.options.param(type_code, name)) {
                ("_id", _) => SortBy::Id,
                ("_lastUpdated", _) => SortBy::LastUpdated,
                (_, Some(param)) if param.kind == ParamKind::Reference && names(type_code, param) == Names::Urls => {
                    SortBy::Param { param: param.id, kind: Kind::Uri }
                }
                (_, Some(param)) if !matches!(param.kind, ParamKind::Composite | ParamKind::Special) => {
                    let kind = index_kinds(param.kind).first().copied();
                    SortBy::Param { param: param.id, kind: kind.ok_or_else(|| Wrong::ignorable("this parameter cannot be sorted by"))? }
                }
                (_, Some(_)) => return Err(Wrong::error(IssueCode::NotSupported, format!("{type_name}.{name} cannot be sorted by"))),
                (_, None) => {
                    if let Some(issue) = self.options.unready(type_code, name) {
                        return Err(Wrong { issue, ignorable: false });
                    }
                    let hint = suggest::hint(name, self.definitions.params(type_code).iter().map(|param| param.code.as_str()));
                    return Err(Wrong::ignorable(format!("{type_name} has no search parameter '{}' to sort by{hint}", shown(name))));
                }
            };
            let (mut first, last) = match by {
                // In base units first; what has no unit that is known comes behind, as it is written.
                SortBy::Param { param, kind: kind @ Kind::Quantity } => {
                    let places = facet_places(type_code, param).into_iter().map(|place| Facet::Amount.of(place));
                    (places.map(|param| SortBy::Param { param, kind }).collect(), by)
                }
                // What is here by its id, what is elsewhere or named by a canonical behind it, by the address.
                SortBy::Param { param, kind: Kind::Reference } => (vec![by], SortBy::Param { param, kind: Kind::Uri }),
                _ => (Vec::new(), by),
            };
            first.push(if first.is_empty() { last } else { SortBy::Behind { first: first.clone(), by: Box::new(last) } });
            keys.extend(first.into_iter().map(|by| SortKey { by, descending }));
            named += 1;
        }
        if named > MAX_SORTS {
            return Err(Wrong::error(IssueCode::TooCostly, format!("_sort takes {MAX_SORTS} keys at most")));
        }
        Ok(keys)
    }

    /// Of several types one is enough that the include speaks of.
    fn include_into(&self, request: &mut SearchRequest, value: &str, iterate: bool, reverse: bool) -> Result<(), Wrong> {
        if request.includes.len() + request.revincludes.len() >= MAX_INCLUDES {
            return Err(Wrong::error(IssueCode::TooCostly, format!("a search has {MAX_INCLUDES} includes at most")));
        }
        let mut first = None;
        for type_code in self.over.types() {
            match self.include(*type_code, value, iterate, reverse) {
                Ok(include) => {
                    if reverse { &mut request.revincludes } else { &mut request.includes }.push(include);
                    return Ok(());
                }
                Err(wrong) => _ = first.get_or_insert(wrong),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// `Type:param[:Target]`, `Type:*` or `*`.
    fn include(&self, type_code: TypeCode, value: &str, iterate: bool, reverse: bool) -> Result<Include, Wrong> {
        let (definitions, options) = (self.definitions, self.options);
        let searched = definitions.type_name(type_code);
        let mut parts = value.split(':');
        let (source, param, target) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let typed = |name: &str| {
            definitions.type_code(name).ok_or_else(|| {
                let hint = suggest::hint(name, definitions.resource_types().iter().copied());
                Wrong::ignorable(format!("'{}' is no R4 resource type{hint}", shown(name)))
            })
        };
        if parts.next().is_some() {
            return Err(Wrong::error(IssueCode::Invalid, "an include is written Type:parameter or Type:parameter:Target"));
        }
        if source == "*" && param.is_none() {
            return Ok(Include { source: None, param: None, target: None, iterate });
        }
        if value.is_empty() {
            return Err(Wrong::ignorable("the parameter has no value"));
        }
        let Some(code) = param else {
            return Err(Wrong::error(IssueCode::Invalid, "an include is written Type:parameter or Type:parameter:Target"));
        };
        let source = typed(source)?;
        let target = target.filter(|target| !target.is_empty()).map(typed).transpose()?;
        let source_name = definitions.type_name(source);
        if !reverse && !iterate && source != type_code && !self.contained {
            return Err(Wrong::ignorable(format!(
                "the matches are of type {searched}, so {source_name} includes nothing; write _include:iterate to follow what was included"
            )));
        }
        if code == "*" {
            return Ok(Include { source: Some(source), param: None, target, iterate });
        }
        if let Some(issue) = options.unready(source, code) {
            return Err(Wrong { issue, ignorable: false });
        }
        let param = options.param(source, code).filter(|param| param.kind == ParamKind::Reference).ok_or_else(|| {
            let known = definitions
                .params(source)
                .iter()
                .chain(options.own.ready(source).map(|own| &own.param))
                .filter(|param| param.kind == ParamKind::Reference)
                .map(|param| param.code.as_str());
            Wrong::ignorable(format!("{source_name} has no reference parameter '{}'{}", shown(code), suggest::hint(code, known)))
        })?;
        let wanted = target.or((reverse && !iterate && !self.contained).then_some(type_code));
        if let Some(wanted) = wanted.filter(|wanted| !param.targets.contains(wanted)) {
            let name = definitions.type_name(wanted);
            return Err(Wrong::ignorable(format!("{source_name}.{code} does not refer to {name}")));
        }
        Ok(Include { source: Some(source), param: Some(param.id), target, iterate })
    }
}

/// Whether the values of one type can be put in one order with those of the other.
fn is_alike(a: &SortBy, b: &SortBy) -> bool {
    match (a, b) {
        (SortBy::Param { kind: a, .. }, SortBy::Param { kind: b, .. }) => a == b,
        (SortBy::Behind { by: a, .. }, SortBy::Behind { by: b, .. }) => is_alike(a, b),
        _ => a == b,
    }
}

/// The top-level element that a name of `_elements` means.
fn top<'n>(name: &'n str, type_name: &str) -> &'n str {
    let name = name.strip_prefix(type_name).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
    name.split('.').next().unwrap_or_default().trim_end_matches("[x]")
}
