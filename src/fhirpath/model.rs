//! What is known of an element's type. Plain JSON has no types: then a member is a key, and a choice (`value` for
//! `valueQuantity`) is known by its suffix.

use super::ast::TypeName;
use serde_json::Value;

/// An element's type, if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(Option<&'static str>);

/// Types that a choice's key may end in (<https://hl7.org/fhir/R4/datatypes.html#open>).
const CHOICE_TYPES: [(&str, &str); 56] = [
    ("Base64Binary", "base64Binary"),
    ("Boolean", "boolean"),
    ("Canonical", "canonical"),
    ("Code", "code"),
    ("Date", "date"),
    ("DateTime", "dateTime"),
    ("Decimal", "decimal"),
    ("Id", "id"),
    ("Instant", "instant"),
    ("Integer", "integer"),
    ("Markdown", "markdown"),
    ("Oid", "oid"),
    ("PositiveInt", "positiveInt"),
    ("String", "string"),
    ("Time", "time"),
    ("UnsignedInt", "unsignedInt"),
    ("Uri", "uri"),
    ("Url", "url"),
    ("Uuid", "uuid"),
    ("Address", "Address"),
    ("Age", "Age"),
    ("Annotation", "Annotation"),
    ("Attachment", "Attachment"),
    ("CodeableConcept", "CodeableConcept"),
    ("Coding", "Coding"),
    ("ContactPoint", "ContactPoint"),
    ("Count", "Count"),
    ("Distance", "Distance"),
    ("Duration", "Duration"),
    ("HumanName", "HumanName"),
    ("Identifier", "Identifier"),
    ("Money", "Money"),
    ("Period", "Period"),
    ("Quantity", "Quantity"),
    ("Range", "Range"),
    ("Ratio", "Ratio"),
    ("Reference", "Reference"),
    ("SampledData", "SampledData"),
    ("Signature", "Signature"),
    ("Timing", "Timing"),
    ("ContactDetail", "ContactDetail"),
    ("Contributor", "Contributor"),
    ("DataRequirement", "DataRequirement"),
    ("Expression", "Expression"),
    ("ParameterDefinition", "ParameterDefinition"),
    ("RelatedArtifact", "RelatedArtifact"),
    ("TriggerDefinition", "TriggerDefinition"),
    ("UsageContext", "UsageContext"),
    ("Dosage", "Dosage"),
    ("Meta", "Meta"),
    ("Extension", "Extension"),
    ("Narrative", "Narrative"),
    ("Element", "Element"),
    ("BackboneElement", "BackboneElement"),
    ("Resource", "Resource"),
    ("DomainResource", "DomainResource"),
];

impl Type {
    pub const UNKNOWN: Type = Type(None);

    pub fn name(self) -> Option<&'static str> {
        self.0
    }

    /// The type of a choice's value by the end of its key.
    pub fn of_suffix(suffix: &str) -> Option<Type> {
        CHOICE_TYPES.iter().take(50).find(|(end, _)| *end == suffix).map(|(_, name)| Type(Some(name)))
    }

    /// The type of a value that stands alone: a resource says its type.
    pub fn of_value(_value: &Value) -> Type {
        Type::UNKNOWN
    }
}

/// Whether a FHIR type called `actual` is, or derives from, `wanted`.
pub fn derives_from(actual: &str, wanted: &str) -> bool {
    actual == wanted
        || match wanted {
            "Element" => !crate::fhir::reference::is_type_name(actual) || CHOICE_TYPES.iter().any(|(_, name)| *name == actual),
            "Resource" | "DomainResource" => !CHOICE_TYPES.iter().any(|(_, name)| *name == actual),
            "Quantity" => matches!(actual, "Age" | "Count" | "Distance" | "Duration" | "MoneyQuantity" | "SimpleQuantity"),
            "string" => matches!(actual, "code" | "id" | "markdown"),
            "uri" => matches!(actual, "canonical" | "oid" | "url" | "uuid"),
            "integer" => matches!(actual, "positiveInt" | "unsignedInt"),
            _ => false,
        }
}

/// The seven types of the System namespace.
pub fn is_system_type(name: &str) -> bool {
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
}

/// Whether FHIR has a type of this name.
pub fn is_fhir_type(name: &str) -> bool {
    CHOICE_TYPES.iter().any(|(_, known)| *known == name) || crate::fhir::reference::is_type_name(name)
}
