//! `_summary` and `_elements`: less than the whole resource, marked SUBSETTED
//! (<https://hl7.org/fhir/R4/search.html#summary>). Only whole top-level elements are left out.

use super::parse::{ParseOptions, SearchRequest, Summary, parse};
use crate::definitions;
use crate::fhir::{Issue, IssueCode, json};
use crate::store::{Scope, TypeCode};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// What of a resource is wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Subset<'a> {
    Whole,
    /// These and the mandatory ones.
    Elements(HashSet<&'a str>),
    Summary,
    /// The narrative and the mandatory ones.
    Text,
    /// All but the narrative.
    Data,
}

/// What the request wants of a match of this type.
pub fn wanted(request: &SearchRequest, type_code: TypeCode) -> Subset<'_> {
    match request.summary {
        _ if !request.elements.is_empty() => {
            let of_type = request.elements.iter().filter(|(of, _)| *of == type_code);
            Subset::Elements(of_type.map(|(_, name)| name.as_str()).collect())
        }
        Summary::False | Summary::Count => Subset::Whole,
        Summary::True => Subset::Summary,
        Summary::Text => Subset::Text,
        Summary::Data => Subset::Data,
    }
}

/// What `_summary` and `_elements` leave of one resource that is read (<https://hl7.org/fhir/R4/http.html#parameters>); `None`: they are
/// not there, or ask for all. What they name and the type does not have is an error: no answer could say that it was passed over.
pub fn of_read(
    type_code: TypeCode,
    body: &[u8],
    pairs: &[(String, String)],
    options: &ParseOptions,
) -> Result<Option<Vec<u8>>, Vec<Issue>> {
    let asked: Vec<(String, String)> =
        pairs.iter().filter(|(name, _)| matches!(name.as_str(), "_summary" | "_elements")).cloned().collect();
    if asked.is_empty() {
        return Ok(None);
    }
    let request = parse(type_code, &asked, Scope::All, &ParseOptions { strict: true, ..options.clone() })?;
    let type_name = definitions::r4().type_name(type_code);
    if request.summary == Summary::Count {
        let words = "_summary=count counts what a search finds; of one resource it is true, text, data or false";
        return Err(vec![Issue::error(IssueCode::Value, words).at(format!("{type_name}?_summary"))]);
    }
    let mut out = Vec::with_capacity(body.len());
    match wanted(&request, type_code) {
        Subset::Whole => return Ok(None),
        subset => write(&mut out, body, type_name, &subset),
    }
    Ok(Some(out))
}

/// Appends what is wanted of the resource in `body`. One that cannot be read comes whole and unmarked: it must not take the page with it.
pub fn write(out: &mut Vec<u8>, body: &[u8], type_name: &str, subset: &Subset<'_>) {
    let Ok(Value::Object(mut resource)) = json::parse_deep(body) else { return out.extend_from_slice(body) };
    resource.retain(|key, _| keeps(subset, type_name, key));
    mark(&mut resource);
    // Writing a Value into memory has no way to fail.
    let _ = serde_json::to_writer(out, &resource);
}

fn keeps(subset: &Subset<'_>, type_name: &str, key: &str) -> bool {
    if matches!(key, "resourceType" | "id" | "meta") {
        return true;
    }
    let key = key.strip_prefix('_').unwrap_or(key);
    let element = definitions::r4().structure(type_name).and_then(|structure| structure.key(key)).map(|(_, element, _)| element);
    let (name, mandatory) = element.map_or((key, false), |element| (element.name, element.min > 0));
    match subset {
        Subset::Whole => true,
        Subset::Elements(names) => mandatory || names.contains(name),
        Subset::Summary => mandatory || SUMMARY.get(type_name).is_some_and(|names| names.contains(name)),
        Subset::Text => mandatory || name == "text",
        Subset::Data => name != "text",
    }
}

/// Adds the tag that says that this is not all.
fn mark(resource: &mut Map<String, Value>) {
    let tag = json!({"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED", "display": "subsetted"});
    let meta = resource.entry("meta").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut()
        && let Some(tags) = meta.entry("tag").or_insert_with(|| json!([])).as_array_mut()
    {
        tags.push(tag);
    }
}

/// The top-level elements that R4 marks `isSummary`: a type and its elements on each line, made by `summary.py`.
static SUMMARY: LazyLock<HashMap<&'static str, HashSet<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("summary.txt").lines();
    lines.filter_map(|line| line.split_once(':')).map(|(name, elements)| (name, elements.split_whitespace().collect())).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"resourceType":"Observation","id":"o","meta":{"versionId":"1"},"text":{"status":"generated","div":"<div/>"},"status":"final","_status":{"id":"s"},"code":{"text":"x"},"valueQuantity":{"value":1.50},"note":[{"text":"n"}]}"#;

    fn keys(subset: Subset<'_>) -> Vec<String> {
        let mut out = Vec::new();
        write(&mut out, BODY.as_bytes(), "Observation", &subset);
        let resource: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(resource["meta"]["tag"][0]["code"], "SUBSETTED");
        assert_eq!(resource["meta"]["versionId"], "1");
        resource.as_object().unwrap().keys().skip(3).cloned().collect()
    }

    #[test]
    fn each_form_keeps_its_elements_and_the_mandatory_ones() {
        assert_eq!(keys(Subset::Elements(HashSet::from(["value"]))), ["status", "_status", "code", "valueQuantity"]);
        assert_eq!(keys(Subset::Summary), ["status", "_status", "code", "valueQuantity"]);
        assert_eq!(keys(Subset::Text), ["text", "status", "_status", "code"]);
        assert_eq!(keys(Subset::Data), ["status", "_status", "code", "valueQuantity", "note"]);
    }

    #[test]
    fn every_type_has_summary_elements_that_it_really_has() {
        let types = definitions::r4().resource_types();
        for name in types {
            let structure = definitions::r4().structure(name).unwrap();
            let elements = SUMMARY.get(name).unwrap_or_else(|| panic!("{name}"));
            for element in elements {
                assert!(structure.elements.iter().any(|known| known.name == *element), "{name}.{element}");
            }
        }
        assert_eq!(SUMMARY.len(), types.len());
    }
}
