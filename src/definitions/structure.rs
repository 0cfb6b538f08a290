//! Elements and code lists: what a StructureDefinition's snapshot and a required binding say, made for one look-up per JSON key.

use super::{ByName, NameSet, TypeCode};
use std::borrow::Cow;

/// The place of a structure in the tables of its [`super::Definitions`].
pub type StructureIndex = u16;

/// What a structure describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureKind {
    Resource,
    DataType,
    /// Elements nested in a resource or datatype (`Patient.contact`, `Timing.repeat`).
    Backbone,
}

/// A resource, a complex datatype, or a group of elements nested in one.
#[derive(Debug)]
pub struct Structure {
    /// `Patient`, `HumanName`, `Patient.contact`.
    pub name: &'static str,
    pub kind: StructureKind,
    /// In the order of the specification.
    pub elements: Vec<Element>,
    /// JSON key to (element, type): a choice has one key per type.
    pub(super) keys: ByName<(u16, u16)>,
}

/// One element of a structure.
#[derive(Debug)]
pub struct Element {
    /// Without `[x]`.
    pub name: &'static str,
    /// Whether the JSON key carries the type: `value` as `valueQuantity`.
    pub choice: bool,
    /// One, or for a choice the allowed ones. For what R4 writes as a content reference, the structure referred to.
    pub types: Vec<ElementType>,
    pub min: u32,
    /// `None`: no limit (`*`).
    pub max: Option<u32>,
    /// The value set of a binding of strength `required`, without version.
    pub binding: Option<&'static str>,
    /// The place of that value set's codes, for [`super::Definitions::code_set_at`]; `None` when they cannot be listed.
    pub code_set: Option<usize>,
    /// The value set of a binding of strength `extensible`, without version.
    pub extensible: Option<&'static str>,
    /// The place of that value set's codes; `None` when they cannot be listed or are many.
    pub extensible_set: Option<usize>,
    /// Resource types that a Reference here may name; empty: any.
    pub targets: Vec<TypeCode>,
}

impl Element {
    /// Whether JSON holds it as an array.
    pub fn is_list(&self) -> bool {
        self.max != Some(1)
    }

    /// The JSON key that says this type: `valueQuantity`; the plain name when the element is no choice.
    pub fn json_key(&self, kind: &ElementType) -> Cow<'static, str> {
        if !self.choice {
            return Cow::Borrowed(self.name);
        }
        let mut letters = kind.name.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        self.name.chars().chain(first).chain(letters).collect::<String>().into()
    }
}

/// A type that an element may have.
#[derive(Debug)]
pub struct ElementType {
    /// `string`, `Quantity`, `Resource`, `Patient.contact`.
    pub name: &'static str,
    pub kind: ElementKind,
}

/// How an element's value is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementKind {
    Primitive(Primitive),
    Structure(StructureIndex),
    /// A whole resource of any type.
    Resource,
}

/// The primitive datatypes (<https://hl7.org/fhir/R4/datatypes.html#primitive>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Primitive {
    Base64Binary,
    Boolean,
    Canonical,
    Code,
    Date,
    DateTime,
    Decimal,
    Id,
    Instant,
    Integer,
    Markdown,
    Oid,
    PositiveInt,
    String,
    Time,
    UnsignedInt,
    Uri,
    Url,
    Uuid,
    Xhtml,
}

impl Primitive {
    /// The primitive with this name.
    pub fn parse(name: &str) -> Option<Primitive> {
        use Primitive::*;
        Some(match name {
            "base64Binary" => Base64Binary,
            "boolean" => Boolean,
            "canonical" => Canonical,
            "code" => Code,
            "date" => Date,
            "dateTime" => DateTime,
            "decimal" => Decimal,
            "id" => Id,
            "instant" => Instant,
            "integer" => Integer,
            "markdown" => Markdown,
            "oid" => Oid,
            "positiveInt" => PositiveInt,
            "string" => String,
            "time" => Time,
            "unsignedInt" => UnsignedInt,
            "uri" => Uri,
            "url" => Url,
            "uuid" => Uuid,
            "xhtml" => Xhtml,
            _ => return None,
        })
    }
}

impl Structure {
    /// The element with this JSON key, its place in [`Structure::elements`], and the type that the key says
    /// (`valueQuantity` → `value`, `Quantity`). Not for the `_key` of a primitive's extensions.
    pub fn key(&self, key: &str) -> Option<(usize, &Element, &ElementType)> {
        let (at, kind) = self.keys.get(key)?;
        let element = self.elements.get(usize::from(*at))?;
        Some((usize::from(*at), element, element.types.get(usize::from(*kind))?))
    }

    /// Whether XML has this element as an attribute: the ids of elements, and the URLs of extensions. Neither has extensions of its own.
    pub fn is_attribute(&self, name: &str) -> bool {
        (name == "id" && self.kind != StructureKind::Resource) || (name == "url" && self.name == "Extension")
    }

    /// The element with this FHIRPath name: `value`, not `valueQuantity`.
    pub fn element(&self, name: &str) -> Option<&Element> {
        self.elements.iter().find(|element| element.name == name)
    }
}

/// A constraint of R4's own on resources, datatypes and elements (<https://hl7.org/fhir/R4/conformance-rules.html#constraints>).
/// Left out are those that stand on every element or that FHIRPath cannot say well; the validator holds them itself.
#[derive(Clone, Copy, Debug)]
pub struct Invariant {
    /// A structure's name, or an element's path without `[x]`.
    pub path: &'static str,
    pub key: &'static str,
    /// Otherwise it is a warning.
    pub is_error: bool,
    pub human: &'static str,
    /// FHIRPath.
    pub expression: &'static str,
}

/// The codes of a value set that some element binds.
#[derive(Debug)]
pub struct CodeSet {
    pub url: &'static str,
    pub(super) groups: Vec<CodeGroup>,
}

/// The codes that a value set takes from one system.
#[derive(Debug)]
pub struct CodeGroup {
    pub system: &'static str,
    /// In the order of the specification.
    pub codes: Vec<&'static str>,
    pub(super) set: NameSet,
}

impl CodeSet {
    /// Whether some system of the set has this code; for elements of type `code`, whose system is implied.
    pub fn contains_code(&self, code: &str) -> bool {
        self.groups.iter().any(|group| group.set.contains(code))
    }

    /// Whether the set has this code of this system.
    pub fn contains(&self, system: &str, code: &str) -> bool {
        self.groups.iter().any(|group| group.system == system && group.set.contains(code))
    }

    /// What the set draws from each code system.
    pub fn groups(&self) -> &[CodeGroup] {
        &self.groups
    }

    /// The system of a code, where only one system of the set has it.
    pub fn system_of(&self, code: &str) -> Option<&'static str> {
        let mut found = self.groups.iter().filter(|group| group.set.contains(code)).map(|group| group.system);
        found.next().filter(|_| found.next().is_none())
    }
}
