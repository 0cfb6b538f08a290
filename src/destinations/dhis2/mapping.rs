//! What things are called in DHIS2, as ConceptMaps say (<https://hl7.org/fhir/R4/conceptmap.html>).
//!
//! Three maps: measure group to data element, stratum value to category option, facility code to org unit. A target code is a
//! DHIS2 uid or code. Several sources may go to one target (their counts are added), one group to several data elements (each
//! receives what its category combination asks for). A source whose only target is `unmatched` is left out on purpose; one that
//! the map does not name is a problem.

use serde_json::Value;
use std::collections::HashMap;

/// Where a code goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// To these names, at least one.
    To(&'a [String]),
    /// The map says that it is not sent.
    LeftOut,
    /// The map does not name it.
    Unnamed,
}

/// The three maps, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    data_element: CodeMap,
    category_option: CodeMap,
    org_unit: CodeMap,
}

/// Source (system, code) to target codes; no targets: left out on purpose.
#[derive(Clone, Debug, Default)]
struct CodeMap {
    targets: HashMap<String, HashMap<String, Vec<String>>>,
}

impl Mapping {
    /// Reads the ConceptMap resources; `None` for one that does not exist, which then names nothing.
    pub fn new(data_element: Option<&Value>, category_option: Option<&Value>, org_unit: Option<&Value>) -> Mapping {
        let read = |map: Option<&Value>| map.map(CodeMap::read).unwrap_or_default();
        Mapping { data_element: read(data_element), category_option: read(category_option), org_unit: read(org_unit) }
    }

    /// The data elements for a measure group's code.
    pub fn data_element<'a>(&'a self, coding: impl Iterator<Item = (&'a str, &'a str)>) -> Target<'a> {
        self.data_element.first(coding)
    }

    /// The category option for the value of a stratifier's component.
    pub fn category_option<'a>(&'a self, coding: impl Iterator<Item = (&'a str, &'a str)>) -> Target<'a> {
        self.category_option.first(coding)
    }

    /// The name of a facility's org unit; the facility's own code when the map does not name it.
    pub fn org_unit<'a>(&'a self, system: &str, facility: &'a str) -> &'a str {
        match self.org_unit.get(system, facility) {
            Target::To([first, ..]) => first,
            _ => facility,
        }
    }
}

impl CodeMap {
    fn read(map: &Value) -> CodeMap {
        let mut targets: HashMap<String, HashMap<String, Vec<String>>> = HashMap::new();
        for group in list(map, "group") {
            let source = group.get("source").and_then(Value::as_str).unwrap_or_default();
            let codes = targets.entry(source.to_owned()).or_default();
            for element in list(group, "element") {
                let Some(code) = element.get("code").and_then(Value::as_str) else { continue };
                let to = codes.entry(code.to_owned()).or_default();
                for target in list(element, "target") {
                    let apart = matches!(target.get("equivalence").and_then(Value::as_str), Some("unmatched" | "disjoint"));
                    if let Some(name) = target.get("code").and_then(Value::as_str).filter(|name| !apart && !to.iter().any(|t| t == name)) {
                        to.push(name.to_owned());
                    }
                }
            }
        }
        CodeMap { targets }
    }

    fn get<'a>(&'a self, system: &str, code: &str) -> Target<'a> {
        match self.targets.get(system).and_then(|codes| codes.get(code)) {
            None => Target::Unnamed,
            Some(targets) if targets.is_empty() => Target::LeftOut,
            Some(targets) => Target::To(targets),
        }
    }

    /// The first coding that is named.
    fn first<'a>(&'a self, mut coding: impl Iterator<Item = (&'a str, &'a str)>) -> Target<'a> {
        coding.find_map(|(system, code)| Some(self.get(system, code)).filter(|t| *t != Target::Unnamed)).unwrap_or(Target::Unnamed)
    }
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_code_goes_somewhere_or_is_left_out_or_is_not_named() {
        let map = json!({"resourceType": "ConceptMap", "group": [{"source": "urn:groups", "target": "urn:de", "element": [
            {"code": "B50", "target": [{"code": "MAL", "equivalence": "wider"}, {"code": "MAL_TOTAL", "equivalence": "wider"}]},
            {"code": "OTHER", "target": [{"equivalence": "unmatched"}]},
        ]}]});
        let mapping = Mapping::new(Some(&map), None, None);
        let ask = |system, code| mapping.data_element([("urn:x", "B50"), (system, code)].into_iter());
        assert_eq!(ask("urn:groups", "B50"), Target::To(&["MAL".into(), "MAL_TOTAL".into()]));
        assert_eq!(ask("urn:groups", "OTHER"), Target::LeftOut);
        assert_eq!(ask("urn:groups", "A00"), Target::Unnamed);
        assert_eq!(mapping.org_unit("urn:lango:facility", "100000-0"), "100000-0");
    }
}
