//! Who is who in a transaction: references between entries become references to what the entries are stored as
//! (<https://hl7.org/fhir/R4/http.html#trules>).

use crate::fhir::Reference;
use serde_json::Value;
use std::collections::HashMap;

/// What the entries of a transaction, and what its conditional references mean, are stored as: each a `Type/id`.
#[derive(Debug, Default)]
pub struct Identities {
    by_full_url: HashMap<String, String>,
    by_criteria: HashMap<String, String>,
}

impl Identities {
    /// The entry with this `fullUrl` (or, without one, known as `Type/id` in its own system) is stored as `target`.
    pub fn insert_full_url(&mut self, full_url: &str, target: String) {
        self.by_full_url.insert(full_url.to_owned(), target);
    }

    /// The conditional reference `Type?query` means `target`.
    pub fn insert_criteria(&mut self, criteria: &str, target: String) {
        self.by_criteria.insert(criteria.to_owned(), target);
    }

    pub fn is_empty(&self) -> bool {
        self.by_full_url.is_empty() && self.by_criteria.is_empty()
    }

    /// Rewrites what `resource` says of other entries: `Reference.reference`, attachments, `valueUri`, `valueUrl`, links in the
    /// narrative, and elements of type uri, url and canonical that are an entry's urn. Other absolute links stay: a
    /// `url` or `system` that equals an entry's `fullUrl` is the canonical name of a definition, not its place. `full_url` is the
    /// entry's own: relative references are relative to its base.
    pub fn rewrite(&self, resource: &mut Value, full_url: Option<&str>) {
        if self.is_empty() {
            return;
        }
        let base = full_url.and_then(service_base);
        each_string(resource, |place, text| {
            let target = match place.key {
                "reference" => self.target(text, base),
                "div" => self.rewrite_narrative(text, base),
                "valueUri" | "valueUrl" => self.target(text, base),
                key if text.starts_with("urn:") && !NEVER_A_URI.contains(&key) => self.by_full_url.get(text.as_str()).cloned(),
                // Only attachments: at the root a `url` is the resource's own canonical name, in an extension its meaning.
                "url" if !matches!(place.parent, None | Some("contained" | "resource" | "extension" | "modifierExtension")) => {
                    self.target(text, base)
                }
                _ => None,
            };
            if let Some(target) = target {
                *text = target;
            }
        });
    }

    fn target(&self, reference: &str, base: Option<&str>) -> Option<String> {
        let (stem, fragment) = match reference.split_once('#') {
            Some((stem, fragment)) => (stem, Some(fragment)),
            None => (reference, None),
        };
        let known = self.by_full_url.get(stem).or_else(|| self.by_criteria.get(stem)).or_else(|| {
            let base = base.filter(|_| matches!(Reference::parse(stem), Some(Reference::Local { version: None, .. })))?;
            self.by_full_url.get(&format!("{base}/{stem}"))
        })?;
        Some(match fragment {
            Some(fragment) => format!("{known}#{fragment}"),
            None => known.clone(),
        })
    }

    /// `href` and `src` in XHTML; `None` when nothing changes.
    fn rewrite_narrative(&self, div: &str, base: Option<&str>) -> Option<String> {
        let mut rewritten = String::new();
        let mut rest = div;
        let mut changed = false;
        while let Some(at) = ["href=", "src="].iter().filter_map(|name| rest.find(name).map(|at| at + name.len())).min() {
            let (before, after) = rest.split_at_checked(at)?;
            rewritten.push_str(before);
            rest = after;
            let Some(quote) = after.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
            let Some((link, _)) = after.get(1..).and_then(|text| text.split_once(quote)) else { break };
            if let Some(target) = self.target(link, base) {
                rewritten.push(quote);
                rewritten.push_str(&target);
                rest = after.get(1 + link.len()..)?;
                changed = true;
            }
        }
        rewritten.push_str(rest);
        changed.then_some(rewritten)
    }
}

/// Elements that may hold an entry's urn as text, and stay as they are: `Identifier.value` above all.
const NEVER_A_URI: [&str; 13] = [
    "value",
    "id",
    "fullUrl",
    "display",
    "text",
    "title",
    "description",
    "comment",
    "valueString",
    "valueMarkdown",
    "valueCode",
    // Of a type that no reference fits: what is no UUID or OID any more would be refused.
    "valueUuid",
    "valueOid",
];

/// `http://ehr/fhir` of `http://ehr/fhir/Patient/1`.
fn service_base(full_url: &str) -> Option<&str> {
    let (rest, id) = full_url.rsplit_once('/')?;
    let (base, type_name) = rest.rsplit_once('/')?;
    (full_url.contains("://") && crate::fhir::reference::is_type_name(type_name) && crate::fhir::reference::is_id(id)).then_some(base)
}

/// References that do not say where they lead.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// The conditional ones (`Type?query`), each with the FHIRPath of its `Reference.reference`.
    pub conditional: Vec<(String, String)>,
    /// The same paths of those to a `urn:uuid:` or `urn:oid:` that is not known. A Bundle within resolves its own
    /// (<https://hl7.org/fhir/R4/bundle.html#references>).
    pub dangling: Vec<String>,
}

/// Those in `resource`. `known`: whether a urn is; `None`: none is dangling.
pub fn unsettled(resource: &mut Value, known: Option<&dyn Fn(&str) -> bool>) -> Unsettled {
    let is_conditional = |text: &str| text.contains('?') && matches!(Reference::parse(text), Some(Reference::Conditional { .. }));
    let is_dangling = |text: &str| text.starts_with("urn:") && known.is_some_and(|known| !known(text));
    let (mut conditional, mut dangling) = (false, false);
    each_string(resource, |place, text| {
        if place.key == "reference" {
            conditional |= is_conditional(text);
            dangling |= is_dangling(text);
        }
    });
    // Most resources have none; only the others pay for paths.
    let mut unsettled = Unsettled::default();
    if conditional {
        unsettled.conditional = references(resource, is_conditional, true);
    }
    if dangling {
        unsettled.dangling = references(resource, is_dangling, false).into_iter().map(|(_, path)| path).collect();
    }
    unsettled
}

/// The references that are `wanted`, with their places; those of a Bundle within too if `into_bundles`.
fn references(resource: &Value, wanted: impl Fn(&str) -> bool, into_bundles: bool) -> Vec<(String, String)> {
    /// Where a value stands: what holds it, by its place among the steps, and how that calls it.
    #[derive(Clone, Copy)]
    enum Step<'r> {
        Item(usize, usize),
        Member(usize, &'r str),
    }
    let type_name = |value: &Value| value.get("resourceType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut found, root) = (Vec::new(), type_name(resource));
    // The first stands for the resource itself.
    let mut steps = vec![Step::Item(0, 0)];
    let mut waiting: Vec<(&Value, usize)> = vec![(resource, 0)];
    let path = |steps: &[Step<'_>], mut place: usize| {
        let mut names = Vec::new();
        while let Some(step) = steps.get(place).filter(|_| place > 0) {
            let (holder, name) = match step {
                Step::Item(holder, at) => (*holder, format!("[{at}]")),
                Step::Member(holder, name) => (*holder, format!(".{name}")),
            };
            names.push(name);
            place = holder;
        }
        names.iter().rev().fold(root.clone(), |path, name| path + name)
    };
    while let Some((value, place)) = waiting.pop() {
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate().rev() {
                    waiting.push((item, steps.len()));
                    steps.push(Step::Item(place, at));
                }
            }
            Value::Object(_) if !into_bundles && type_name(value) == "Bundle" => {}
            Value::Object(members) => {
                if let Some(text) = members.get("reference").and_then(Value::as_str).filter(|text| wanted(text)) {
                    found.push((text.to_owned(), format!("{}.reference", path(&steps, place))));
                }
                for (name, member) in members.iter().rev().filter(|(_, member)| member.is_object() || member.is_array()) {
                    waiting.push((member, steps.len()));
                    steps.push(Step::Member(place, name));
                }
            }
            _ => {}
        }
    }
    found
}

/// Where a string stands: the name of its element and of the element around that (`None` at the root).
struct Place<'a> {
    key: &'a str,
    parent: Option<&'a str>,
}

fn each_string(resource: &mut Value, mut each: impl FnMut(Place<'_>, &mut String)) {
    // (value, its own name, the name of the element that holds it)
    let mut waiting: Vec<(&mut Value, Option<&str>, Option<&str>)> = vec![(resource, None, None)];
    while let Some((value, key, parent)) = waiting.pop() {
        match value {
            Value::String(text) => {
                if let Some(key) = key {
                    each(Place { key, parent }, text);
                }
            }
            Value::Array(items) => waiting.extend(items.iter_mut().map(|item| (item, key, parent))),
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    match member {
                        Value::String(text) => each(Place { key: name, parent: key }, text),
                        Value::Array(_) | Value::Object(_) => waiting.push((member, Some(name), key)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identities() -> Identities {
        let mut identities = Identities::default();
        identities.insert_full_url("urn:uuid:1", "Patient/a".into());
        identities.insert_full_url("http://ehr/fhir/Encounter/7", "Encounter/b".into());
        identities.insert_full_url("http://ehr/fhir/Binary/9", "Binary/d".into());
        identities.insert_criteria("Practitioner?identifier=x|1", "Practitioner/c".into());
        identities
    }

    #[test]
    fn references_to_entries_are_rewritten_wherever_they_stand() {
        let mut resource = json!({
            "resourceType": "Observation",
            "text": {"div": "<div><a href=\"urn:uuid:1\">p</a><img src='http://ehr/fhir/Binary/9'/><a href=\"urn:uuid:2\"/></div>"},
            "contained": [{"resourceType": "Basic", "subject": {"reference": "urn:uuid:1"}}],
            "extension": [{"url": "urn:uuid:1x", "valueUri": "urn:uuid:1"}, {"url": "http://ehr/fhir/Encounter/7", "valueReference": {"reference": "urn:uuid:1"}}],
            "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:uuid:1"}],
            "instantiatesUri": ["urn:uuid:1", "urn:uuid:2"],
            "subject": {"reference": "urn:uuid:1", "display": "urn:uuid:1"},
            "encounter": {"reference": "Encounter/7"},
            "performer": [{"reference": "Practitioner?identifier=x|1"}, {"reference": "http://ehr/fhir/Encounter/7"}, {"reference": "#c"}],
            "content": [{"attachment": {"url": "http://ehr/fhir/Binary/9"}}],
            "url": "http://ehr/fhir/Encounter/7",
        });
        identities().rewrite(&mut resource, Some("http://ehr/fhir/Observation/1"));
        assert_eq!(
            resource,
            json!({
                "resourceType": "Observation",
                "text": {"div": "<div><a href=\"Patient/a\">p</a><img src='Binary/d'/><a href=\"urn:uuid:2\"/></div>"},
                "contained": [{"resourceType": "Basic", "subject": {"reference": "Patient/a"}}],
                "extension": [{"url": "urn:uuid:1x", "valueUri": "Patient/a"}, {"url": "http://ehr/fhir/Encounter/7", "valueReference": {"reference": "Patient/a"}}],
                "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:uuid:1"}],
                "instantiatesUri": ["Patient/a", "urn:uuid:2"],
                "subject": {"reference": "Patient/a", "display": "urn:uuid:1"},
                "encounter": {"reference": "Encounter/b"},
                "performer": [{"reference": "Practitioner/c"}, {"reference": "Encounter/b"}, {"reference": "#c"}],
                "content": [{"attachment": {"url": "Binary/d"}}],
                "url": "http://ehr/fhir/Encounter/7",
            })
        );
    }

    #[test]
    fn urns_that_lead_nowhere_are_found_with_their_paths() {
        let mut resource = json!({
            "resourceType": "Observation",
            "subject": {"reference": "urn:uuid:1"},
            "performer": [{"reference": "Practitioner/1"}, {"reference": "urn:oid:1.2"}],
            "contained": [
                {"resourceType": "Basic", "subject": {"reference": "urn:uuid:2"}},
                {"resourceType": "Bundle", "entry": [{"resource": {"subject": {"reference": "urn:uuid:2"}}}]},
            ],
            "identifier": [{"value": "urn:uuid:3"}],
        });
        let found = unsettled(&mut resource, Some(&|urn: &str| urn == "urn:uuid:1"));
        assert_eq!(found.dangling, ["Observation.performer[1].reference", "Observation.contained[0].subject.reference"]);
    }

    #[test]
    fn relative_links_are_rewritten_like_references() {
        let mut resource = json!({
            "resourceType": "DocumentReference",
            "text": {"div": "<div><img src=\"Binary/9\"/><a href='Binary/10'>x</a></div>"},
            "content": [{"attachment": {"url": "Binary/9"}}, {"attachment": {"url": "#Binary/9"}}],
            "extension": [
                {"url": "Binary/9", "valueUri": "Binary/9"}, {"url": "u", "valueUrl": "http://ehr/fhir/Binary/9#page"},
                {"url": "u", "valueString": "Binary/9"},
            ],
        });
        identities().rewrite(&mut resource, Some("http://ehr/fhir/DocumentReference/1"));
        assert_eq!(
            resource,
            json!({
                "resourceType": "DocumentReference",
                "text": {"div": "<div><img src=\"Binary/d\"/><a href='Binary/10'>x</a></div>"},
                "content": [{"attachment": {"url": "Binary/d"}}, {"attachment": {"url": "#Binary/9"}}],
                "extension": [
                    {"url": "Binary/9", "valueUri": "Binary/d"}, {"url": "u", "valueUrl": "Binary/d#page"},
                    {"url": "u", "valueString": "Binary/9"},
                ],
            })
        );
    }

    #[test]
    fn a_relative_reference_means_its_own_system_only() {
        let mut resource = json!({"resourceType": "Observation", "encounter": {"reference": "Encounter/7"}});
        identities().rewrite(&mut resource, Some("http://other/fhir/Observation/1"));
        assert_eq!(resource["encounter"]["reference"], "Encounter/7");
    }

    #[test]
    fn conditional_references_are_found() {
        let mut resource = json!({
            "resourceType": "Observation", "performer": [{"reference": "Patient/1"}, {"reference": "Patient?identifier=1"}],
            "subject": {"reference": "not?one"},
        });
        let found = unsettled(&mut resource, None);
        assert_eq!(found.conditional, [("Patient?identifier=1".to_owned(), "Observation.performer[1].reference".to_owned())]);
    }
}
