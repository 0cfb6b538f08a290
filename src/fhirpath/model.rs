//! What is known of an element's type, from [`crate::definitions`]. Plain JSON has no types: there a member is a key.

use super::ast::TypeName;
use crate::definitions::{self, ElementKind, ElementType, Primitive, Structure};
use serde_json::Value;

/// An element's type, if it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type {
    Unknown,
    Primitive(&'static str),
    Structure(&'static Structure),
}

impl Type {
    /// The type of a value that stands alone: a resource says its type.
    pub fn of_value(value: &Value) -> Type {
        match value {
            Value::Object(object) => match object.get("resourceType") {
                Some(Value::String(name)) => definitions::r4().structure(name).map_or(Type::Unknown, Type::Structure),
                _ => Type::Unknown,
            },
            _ => Type::Unknown,
        }
    }

    /// The type called `name`; unknown when FHIR has none.
    pub fn named(name: &str) -> Type {
        if let Some(structure) = definitions::r4().structure(name) {
            return Type::Structure(structure);
        }
        PRIMITIVES.iter().find(|known| **known == name).map_or(Type::Unknown, |known| Type::Primitive(known))
    }

    /// The type of an element; of a whole resource, what it says itself.
    pub fn of_element(kind: &'static ElementType) -> Type {
        match kind.kind {
            ElementKind::Primitive(_) => Type::Primitive(kind.name),
            ElementKind::Structure(place) => definitions::r4().structure_at(place).map_or(Type::Unknown, Type::Structure),
            ElementKind::Resource => Type::Unknown,
        }
    }

    pub fn name(self) -> Option<&'static str> {
        match self {
            Type::Unknown => None,
            Type::Primitive(name) => Some(name),
            Type::Structure(structure) => Some(structure.name),
        }
    }

    pub fn is_known(self) -> bool {
        !matches!(self, Type::Unknown)
    }

    /// The type that the JSON key of an element says; unknown for keys that the type does not have.
    pub fn of_key(self, key: &str) -> Type {
        match self {
            Type::Structure(structure) => structure.key(key).map_or(Type::Unknown, |(_, _, kind)| Type::of_element(kind)),
            _ => Type::Unknown,
        }
    }
}

const PRIMITIVES: [&str; 20] = [
    "base64Binary",
    "boolean",
    "canonical",
    "code",
    "date",
    "dateTime",
    "decimal",
    "id",
    "instant",
    "integer",
    "markdown",
    "oid",
    "positiveInt",
    "string",
    "time",
    "unsignedInt",
    "uri",
    "url",
    "uuid",
    "xhtml",
];

/// What may stand beside a primitive.
pub(crate) fn beside_primitive(name: &str) -> Type {
    Type::named(match name {
        "extension" => "Extension",
        _ => "string",
    })
}

/// Types that structures derive from but that are none themselves, and profiles that R4 treats as types.
const ABSTRACT: [&str; 6] = ["Resource", "DomainResource", "Element", "BackboneElement", "SimpleQuantity", "MoneyQuantity"];

/// Whether a FHIR type called `actual` is, or derives from, `wanted`.
pub(crate) fn derives_from(actual: &str, wanted: &str) -> bool {
    if actual == wanted {
        return true;
    }
    let is_resource = || definitions::r4().type_code(actual).is_some();
    match wanted {
        "string" => matches!(actual, "code" | "id" | "markdown"),
        "uri" => matches!(actual, "canonical" | "oid" | "url" | "uuid"),
        "integer" => matches!(actual, "positiveInt" | "unsignedInt"),
        "Quantity" => matches!(actual, "Age" | "Count" | "Distance" | "Duration" | "SimpleQuantity" | "MoneyQuantity"),
        "Resource" => is_resource(),
        "DomainResource" => is_resource() && !matches!(actual, "Bundle" | "Binary" | "Parameters"),
        "Element" => is_fhir_type(actual) && !is_resource() && !matches!(actual, "Resource" | "DomainResource"),
        "BackboneElement" => {
            matches!(actual, "Dosage" | "Timing" | "ElementDefinition") || (actual.contains('.') && !actual.starts_with("Timing."))
        }
        _ => false,
    }
}

/// Whether FHIR has a type of this name.
pub(crate) fn is_fhir_type(name: &str) -> bool {
    definitions::r4().structure(name).is_some() || Primitive::parse(name).is_some() || ABSTRACT.contains(&name)
}

/// The types of the System namespace.
pub(crate) fn is_system_type(name: &str) -> bool {
    matches!(name, "Boolean" | "String" | "Integer" | "Decimal" | "Date" | "DateTime" | "Time" | "Quantity" | "Any")
}

impl TypeName {
    /// Whether the name may mean a System type.
    pub fn may_be_system(&self) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == "System")
    }

    /// Whether the name may mean a FHIR type.
    pub fn may_be_fhir(&self) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == "FHIR")
    }

    /// Whether there is such a type.
    pub fn is_known(&self) -> bool {
        match self.namespace.as_deref() {
            None => is_system_type(&self.name) || is_fhir_type(&self.name),
            // Of these namespaces it is known what they hold, so a name that is not there is simply nothing's type.
            Some("System") => true,
            Some("FHIR") => is_fhir_type(&self.name),
            Some(_) => false,
        }
    }
}
