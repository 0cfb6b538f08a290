//! What search offers, for the CapabilityStatement: the same tables that [`super::parse`] reads by, so it cannot promise more.

use super::filter;
use super::filter::index_kinds;
use super::own::Own;
use crate::definitions::{self, ParamKind, SearchParam};
use crate::store::TypeCode;
use serde_json::{Value, json};

/// The interactions that every type has.
const INTERACTIONS: [&str; 9] = ["read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type"];

/// `CapabilityStatement.rest.resource`: every type, in alphabetical order. The operator's own parameters are listed once a search may name them.
pub fn rest_resources(own: &Own) -> Vec<Value> {
    let definitions = definitions::r4();
    let mut types: Vec<(&str, TypeCode)> = definitions.resource_types().iter().copied().zip(0..).collect();
    types.sort_unstable();
    let referring = referring(own);
    types
        .into_iter()
        .map(|(name, type_code)| {
            let params = all_searchable(type_code, own);
            let references = || params.iter().filter(|param| param.kind == ParamKind::Reference && !param.targets.is_empty());
            let includes: Vec<String> =
                std::iter::once("*".to_owned()).chain(references().map(|param| format!("{name}:{}", param.code))).collect();
            json!({
                "type": name,
                "profile": format!("http://hl7.org/fhir/StructureDefinition/{name}"),
                "interaction": INTERACTIONS.map(|code| json!({"code": code})),
                "versioning": "versioned-update",
                "readHistory": true,
                "updateCreate": true,
                "conditionalCreate": true,
                "conditionalRead": "full-support",
                "conditionalUpdate": true,
                "conditionalDelete": "single",
                "referencePolicy": ["literal", "logical", "local"],
                "searchInclude": includes,
                "searchRevInclude": referring.get(usize::from(type_code)).cloned().unwrap_or_default(),
                "searchParam": params.iter().map(|param| search_param(name, param)).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// The parameters of a type that a search may name.
pub fn searchable(type_code: TypeCode) -> impl Iterator<Item = &'static SearchParam> {
    definitions::r4().params(type_code).iter().filter(|param| !index_kinds(param.kind).is_empty() || param.code == "near")
}

/// The same, and the operator's own.
fn all_searchable(type_code: TypeCode, own: &Own) -> Vec<&SearchParam> {
    let mut params: Vec<&SearchParam> = searchable(type_code).collect();
    params.extend(own.ready(type_code).map(|own| &own.param));
    params
}

fn search_param(type_name: &str, param: &SearchParam) -> Value {
    let mut listed = json!({ "name": param.code });
    if !param.definition.is_empty() {
        listed["definition"] = param.definition.as_str().into();
    }
    listed["type"] = param.kind.as_str().into();
    listed["documentation"] = modifiers(type_name, param).into();
    listed
}

/// Which modifiers the parameter takes, in words.
fn modifiers(type_name: &str, param: &SearchParam) -> String {
    let more = match param.kind {
        ParamKind::Special => return format!("{type_name}: latitude|longitude|distance|units"),
        ParamKind::Reference => "; chains",
        ParamKind::Date | ParamKind::Number | ParamKind::Quantity => "; prefixes eq, ne, gt, lt, ge, le, sa, eb, ap",
        _ => "",
    };
    format!("{type_name}: {}{more}", filter::modifiers(param))
}

/// For each type, `Source:param` of everything that may refer to it.
fn referring(own: &Own) -> Vec<Vec<String>> {
    let definitions = definitions::r4();
    let types = definitions.resource_types();
    let mut referring = vec![Vec::new(); types.len()];
    for (name, type_code) in types.iter().zip(0..) {
        for param in all_searchable(type_code, own).into_iter().filter(|param| param.kind == ParamKind::Reference) {
            for target in &param.targets {
                if let Some(list) = referring.get_mut(usize::from(*target)) {
                    list.push(format!("{name}:{}", param.code));
                }
            }
        }
    }
    referring.iter_mut().for_each(|list| list.sort_unstable());
    referring
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::{ParseOptions, parse};
    use crate::store::Scope;
    use crate::terminology::Terminology;
    use jiff::tz::TimeZone;
    use std::sync::LazyLock;

    /// A value that any parameter of the kind takes.
    fn example(param: &SearchParam) -> String {
        let one = |kind: ParamKind| match kind {
            ParamKind::Number | ParamKind::Quantity => "1",
            ParamKind::Date => "2026",
            ParamKind::Reference => "http://elsewhere.example/fhir/Basic/1",
            ParamKind::Special => "1|2",
            _ => "x",
        };
        match param.kind {
            ParamKind::Composite => param.components.iter().map(|component| one(component.kind)).collect::<Vec<_>>().join("$"),
            kind => one(kind).to_owned(),
        }
    }

    fn type_code_name(type_code: TypeCode) -> &'static str {
        definitions::r4().type_name(type_code)
    }

    fn accepts(type_code: TypeCode, key: &str, value: &str) -> bool {
        static TERMINOLOGY: LazyLock<Terminology> = LazyLock::new(|| {
            let terminology = Terminology::new();
            let concept = json!([{ "code": "a" }]);
            terminology.load(&[
                json!({ "resourceType": "CodeSystem", "id": "tree", "url": "urn:tree", "content": "complete", "concept": concept }),
                json!({ "resourceType": "ValueSet", "id": "set", "url": "urn:set", "compose": { "include": [{ "system": "urn:tree" }] } }),
            ]);
            terminology
        });
        let terminology = TERMINOLOGY.clone();
        let options = ParseOptions { strict: true, terminology, ..ParseOptions::new("http://localhost/fhir", TimeZone::UTC) };
        parse(type_code, &[(key.to_owned(), value.to_owned())], Scope::All, &options).is_ok()
    }

    #[test]
    fn search_accepts_exactly_what_the_statement_lists() {
        for resource in rest_resources(&Own::default()) {
            let type_code = definitions::r4().type_code(resource["type"].as_str().unwrap()).unwrap();
            let listed: Vec<&str> =
                resource["searchParam"].as_array().unwrap().iter().map(|param| param["name"].as_str().unwrap()).collect();
            for param in definitions::r4().params(type_code) {
                let accepted = accepts(type_code, &param.code, &example(param));
                assert_eq!(accepted, listed.contains(&param.code.as_str()), "{} {}", resource["type"], param.code);
                assert_eq!(
                    accepted && param.kind != ParamKind::Special,
                    accepts(type_code, &format!("{}:missing", param.code), "true"),
                    "{}:missing",
                    param.code
                );
                for modifier in modifiers(type_code_name(type_code), param).split([',', ' ', ';']).filter_map(|word| word.strip_prefix(':'))
                {
                    let value = match modifier {
                        "missing" => "true",
                        "of-type" => "a|b|c",
                        "in" | "not-in" => "urn:set",
                        "above" | "below" if param.kind == ParamKind::Token => "urn:tree|a",
                        _ if param.kind == ParamKind::Reference => "http://elsewhere.example/fhir/Basic/1",
                        _ => "x",
                    };
                    if modifier != "[type]" {
                        assert!(accepts(type_code, &format!("{}:{modifier}", param.code), value), "{}:{modifier}={value}", param.code);
                    }
                }
            }
            for (key, list) in [("_include", "searchInclude"), ("_revinclude", "searchRevInclude")] {
                for value in resource[list].as_array().unwrap().iter().take(20) {
                    assert!(accepts(type_code, key, value.as_str().unwrap()), "{} {key}={value}", resource["type"]);
                }
            }
        }
    }

    #[test]
    fn every_type_is_there() {
        let resources = rest_resources(&Own::default());
        assert_eq!(resources.len(), definitions::r4().resource_types().len());
        let patient = resources.iter().find(|resource| resource["type"] == "Patient").unwrap();
        assert!(patient["searchRevInclude"].as_array().unwrap().contains(&"Observation:subject".into()));
        assert!(patient["searchInclude"].as_array().unwrap().contains(&"Patient:general-practitioner".into()));
    }
}
