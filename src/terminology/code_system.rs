//! A CodeSystem compiled for questions: concepts in document order, a hash from code to place, edges of the hierarchy
//! (<https://hl7.org/fhir/R4/codesystem.html>).

use super::TerminologyError;
use super::shelf::{Header, Shelved};
use crate::fhir::text::small;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How much of the code system is loaded, `CodeSystem.content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Every code: what is not here does not exist.
    Complete,
    /// Some codes: `fragment` or `example`, and those of which others are composed (`compositional`).
    Partial,
    /// None: `not-present`.
    Absent,
    /// No codes of its own: it adds to those of another system, `supplement`.
    Supplement,
}

pub(super) struct CodeSystem {
    pub header: Header,
    pub content: Content,
    /// The canonical of the system that this one, a supplement, adds to.
    pub supplements: Option<Box<str>>,
    pub concepts: Vec<Concept>,
    /// Descriptions of the properties by code, of those that are used without being declared too.
    pub properties: HashMap<Box<str>, Box<str>>,
    index: HashMap<Arc<str>, u32>,
    /// Only when codes are compared without case.
    folded: Option<HashMap<Box<str>, u32>>,
}

pub(super) struct Concept {
    pub code: Arc<str>,
    pub display: Option<Arc<str>>,
    pub parents: Vec<u32>,
    pub children: Vec<u32>,
    pub inactive: bool,
    /// `notSelectable`: it groups others and is not itself chosen.
    pub is_abstract: bool,
    pub details: Option<Box<Details>>,
}

/// What few concepts have.
#[derive(Default)]
pub(super) struct Details {
    pub definition: Option<Box<str>>,
    pub designations: Vec<Designation>,
    /// Property code, the key of its `value[x]`, the value.
    pub properties: Vec<(Box<str>, Box<str>, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Designation {
    pub language: Option<Box<str>>,
    pub use_: Option<Value>,
    pub value: Arc<str>,
}

impl Designation {
    pub fn read_all(owner: &Value) -> Vec<Designation> {
        let list = owner.get("designation").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|one| {
            Some(Designation {
                language: one.get("language").and_then(Value::as_str).map(Box::from),
                use_: one.get("use").cloned(),
                value: one.get("value").and_then(Value::as_str)?.into(),
            })
        })
        .collect()
    }

    /// Whether this is in `language`, or in a region's form of it.
    pub fn speaks(&self, language: &str) -> bool {
        self.language.as_deref().is_some_and(|own| is_in(own, language) || is_within(own, language))
    }
}

/// Whether two language tags are the same (<https://www.rfc-editor.org/rfc/rfc5646#section-2.1.1>).
fn is_in(own: &str, language: &str) -> bool {
    own.eq_ignore_ascii_case(language)
}

/// Whether `own` is a region's or another special form of `language`.
fn is_within(own: &str, language: &str) -> bool {
    own.split_at_checked(language.len()).is_some_and(|(start, rest)| is_in(start, language) && rest.starts_with('-'))
}

/// A code's display for whoever reads `language`: what is said in it, then in what it is a form of (`de` for `de-CH`, RFC 4647 section 3.4), then
/// in a form of it, else the display as it is. `own` is the language of the display.
pub(super) fn spoken<'a>(
    display: Option<&'a Arc<str>>,
    own: Option<&str>,
    designations: impl Iterator<Item = &'a Designation>,
    language: Option<&str>,
) -> Option<&'a Arc<str>> {
    let Some(language) = language else { return display };
    let shown = display.map(|display| (own, display));
    let known: Vec<(&str, &Arc<str>)> = shown
        .into_iter()
        .chain(designations.map(|one| (one.language.as_deref(), &one.value)))
        .filter_map(|(of, text)| Some((of?, text)))
        .collect();
    let said = |fits: &dyn Fn(&str) -> bool| known.iter().find(|(of, _)| fits(of)).map(|(_, text)| *text);
    let mut range = Some(language);
    while let Some(wanted) = range {
        if let Some(text) = said(&|of| is_in(of, wanted)) {
            return Some(text);
        }
        range = wanted.rsplit_once('-').map(|(wider, _)| wider);
    }
    said(&|of| is_within(of, language)).or(display)
}

impl Designation {
    /// Whether its use is this code.
    pub fn is_used_as(&self, system: &str, code: &str) -> bool {
        let part = |name: &str| self.use_.as_ref().and_then(|use_| use_.get(name)).and_then(Value::as_str);
        part("code") == Some(code) && (system.is_empty() || part("system") == Some(system))
    }

    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        if let Some(language) = &self.language {
            value.insert("language".into(), (&**language).into());
        }
        if let Some(use_) = &self.use_ {
            value.insert("use".into(), use_.clone());
        }
        value.insert("value".into(), (&*self.value).into());
        Value::Object(value)
    }
}

impl Shelved for CodeSystem {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl Concept {
    pub fn definition(&self) -> Option<&str> {
        self.details.as_ref()?.definition.as_deref()
    }

    pub fn designations(&self) -> &[Designation] {
        self.details.as_ref().map_or(&[], |details| &details.designations)
    }

    pub fn properties(&self) -> &[(Box<str>, Box<str>, Value)] {
        self.details.as_ref().map_or(&[], |details| &details.properties)
    }
}

/// The uris under which HL7 names the common properties (<https://hl7.org/fhir/R4/codesystem-concept-properties.html>).
const PROPERTY_URI: &str = "http://hl7.org/fhir/concept-properties#";

impl CodeSystem {
    pub fn compile(resource: &Value) -> Option<CodeSystem> {
        let text = |name: &str| resource.get(name).and_then(Value::as_str);
        let declared = || resource.get("property").and_then(Value::as_array).into_iter().flatten();
        let mut system = CodeSystem {
            header: Header::read(resource)?,
            content: match text("content") {
                Some("not-present") => Content::Absent,
                Some("fragment" | "example") => Content::Partial,
                Some("supplement") => Content::Supplement,
                _ if resource.get("compositional").and_then(Value::as_bool) == Some(true) => Content::Partial,
                _ => Content::Complete,
            },
            supplements: text("supplements").map(Box::from),
            concepts: Vec::new(),
            properties: declared()
                .filter_map(|p| {
                    Some((p.get("code")?.as_str()?.into(), p.get("description").and_then(Value::as_str).unwrap_or_default().into()))
                })
                .collect(),
            index: HashMap::new(),
            folded: (resource.get("caseSensitive").and_then(Value::as_bool) == Some(false)).then(HashMap::new),
        };
        // A system may give the common properties codes of its own; their uris tell which they are.
        let common: HashMap<&str, &str> =
            declared().filter_map(|p| Some((p.get("code")?.as_str()?, p.get("uri")?.as_str()?.strip_prefix(PROPERTY_URI)?))).collect();
        let mut edges: Vec<(u32, Arc<str>, bool)> = Vec::new();
        let mut waiting: Vec<(&Value, Option<u32>)> = nested(resource).rev().map(|concept| (concept, None)).collect();
        while let Some((source, parent)) = waiting.pop() {
            let Some(place) = system.add(source, parent, &common, &mut edges) else { continue };
            waiting.extend(nested(source).rev().map(|child| (child, Some(place))));
        }
        for (place, other, other_is_parent) in edges {
            let Some(&other) = system.index.get(&other) else { continue };
            if other_is_parent { system.link(other, place) } else { system.link(place, other) }
        }
        Some(system)
    }

    fn add(
        &mut self,
        source: &Value,
        parent: Option<u32>,
        common: &HashMap<&str, &str>,
        edges: &mut Vec<(u32, Arc<str>, bool)>,
    ) -> Option<u32> {
        let code: Arc<str> = source.get("code").and_then(Value::as_str).filter(|code| !code.is_empty())?.into();
        if let Some(&known) = self.index.get(&code) {
            // The same code again, under a second parent.
            if let Some(parent) = parent {
                self.link(parent, known);
            }
            return Some(known);
        }
        let place = u32::try_from(self.concepts.len()).ok()?;
        let mut concept = Concept {
            code: code.clone(),
            display: source.get("display").and_then(Value::as_str).map(Arc::from),
            parents: Vec::new(),
            children: Vec::new(),
            inactive: false,
            is_abstract: false,
            details: None,
        };
        let mut details = Details {
            definition: source.get("definition").and_then(Value::as_str).map(Box::from),
            designations: Designation::read_all(source),
            properties: Vec::new(),
        };
        for property in source.get("property").and_then(Value::as_array).into_iter().flatten() {
            let Some(code) = property.get("code").and_then(Value::as_str) else { continue };
            let Some((key, value)) = property.as_object().and_then(|p| p.iter().find(|(key, _)| key.starts_with("value"))) else {
                continue;
            };
            match (common.get(code).copied().unwrap_or(code), property_text(value)) {
                ("parent", Some(other)) => edges.push((place, other.into(), true)),
                ("child", Some(other)) => edges.push((place, other.into(), false)),
                (name, text) => {
                    let yes = value.as_bool() == Some(true) || text == Some("true");
                    concept.inactive |= (name == "inactive" && yes) || (name == "status" && matches!(text, Some("retired" | "inactive")));
                    concept.is_abstract |= matches!(name, "notSelectable" | "abstract") && yes;
                    details.properties.push((code.into(), key.as_str().into(), value.clone()));
                    if !self.properties.contains_key(code) {
                        self.properties.insert(code.into(), Box::default());
                    }
                }
            }
        }
        if details.definition.is_some() || !details.designations.is_empty() || !details.properties.is_empty() {
            concept.details = Some(Box::new(details));
        }
        self.concepts.push(concept);
        if let Some(folded) = &mut self.folded {
            folded.entry(small(&code).into()).or_insert(place);
        }
        self.index.insert(code, place);
        if let Some(parent) = parent {
            self.link(parent, place);
        }
        Some(place)
    }

    fn link(&mut self, parent: u32, child: u32) {
        if parent == child {
            return;
        }
        // Nesting and properties may tell the same edge twice; the child's list is the short one to look in.
        let Some(concept) = self.concepts.get_mut(child as usize) else { return };
        if concept.parents.contains(&parent) {
            return;
        }
        concept.parents.push(parent);
        if let Some(concept) = self.concepts.get_mut(parent as usize) {
            concept.children.push(child);
        }
    }

    /// The url, as Coding.system says it.
    pub fn url(&self) -> &str {
        self.header.url.as_deref().unwrap_or_default()
    }

    pub fn place(&self, code: &str) -> Option<u32> {
        self.index.get(code).or_else(|| self.folded.as_ref()?.get(small(code).as_str())).copied()
    }

    /// Why a code is not found here: it does not exist, or what is loaded cannot tell.
    pub fn unknown(&self) -> TerminologyError {
        let system = self.url().to_owned();
        match self.content {
            Content::Complete | Content::Supplement => TerminologyError::UnknownCode { system },
            Content::Partial => TerminologyError::NotInPart { system },
            Content::Absent => TerminologyError::NoContent { system },
        }
    }

    pub fn at(&self, place: u32) -> Option<&Concept> {
        self.concepts.get(place as usize)
    }

    pub fn find(&self, code: &str) -> Option<&Concept> {
        self.at(self.place(code)?)
    }

    pub fn ignores_case(&self) -> bool {
        self.folded.is_some()
    }

    /// Whether `ancestor` is above `place`; nothing is above itself.
    pub fn is_above(&self, ancestor: u32, place: u32) -> bool {
        let mut seen = HashSet::new();
        let mut waiting = vec![place];
        while let Some(place) = waiting.pop() {
            for &parent in self.at(place).map_or(&[][..], |concept| &concept.parents) {
                if parent == ancestor {
                    return true;
                }
                if seen.insert(parent) {
                    waiting.push(parent);
                }
            }
        }
        false
    }

    /// Everything below `place`, in document order.
    pub fn below(&self, place: u32) -> Vec<u32> {
        let mut seen = HashSet::new();
        let mut waiting = vec![place];
        while let Some(place) = waiting.pop() {
            for &child in self.at(place).map_or(&[][..], |concept| &concept.children) {
                if seen.insert(child) {
                    waiting.push(child);
                }
            }
        }
        seen.remove(&place);
        let mut below: Vec<u32> = seen.into_iter().collect();
        below.sort_unstable();
        below
    }
}

fn nested(owner: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    owner.get("concept").and_then(Value::as_array).into_iter().flatten()
}

/// The text of a property's value: a string, or the code of a Coding.
pub(super) fn property_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("code").and_then(Value::as_str))
}
