//! Whose record a resource is part of, and what it says of people though it is of a type that is about none.

use super::people::Oneself;
use super::{Options, plan_of, values};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::reference::type_said;
use crate::store::gate::About;
use crate::store::{IndexEntry, IndexValue, TypeCode, index};
use serde_json::Value;

/// Whose record the resource is part of (docs/access.md): a Patient's own, else the Patient's that the parameters of the patient
/// compartment name. Where it names several Patients, or perhaps ([`super::people`]), or none although the type could hold what is about one, nobody's
/// consent can speak for it. `entries` are the resource's own; an absolute URL under the base is local.
pub fn about(type_code: TypeCode, resource: &Value, entries: &[IndexEntry], options: &Options) -> About {
    let about = about_one(type_code, resource, entries, options);
    let is_alone = |own: &str| Oneself::named_by(resource, own, options).is_some_and(|own| own.is_alone(resource, options));
    if about.patient().is_some_and(|own| !is_alone(own)) { About::Unknown } else { about }
}

/// The same of what is known to name nobody else.
pub fn about_one(type_code: TypeCode, resource: &Value, entries: &[IndexEntry], options: &Options) -> About {
    let base = options.base.as_str();
    let type_name = definitions::r4().type_name(type_code);
    match type_name {
        // That somebody was restricted, or looked at, is not for all who may see the record.
        "Consent" => return About::Consent,
        "AuditEvent" | "Group" | "Binary" | "Bundle" | "Parameters" => return About::Unknown,
        _ if is_notice(resource) => return About::Unknown,
        // What it was made of may be hidden, and with it that it was made.
        "Provenance" if !references(resource, "target").all(|target| local(target, base).is_some_and(|(name, _)| name == "Patient")) => {
            return About::Unknown;
        }
        _ => {}
    }
    let own = if type_name == "Patient" { resource.get("id").and_then(Value::as_str) } else { named(type_code, resource, base) };
    let mut others = entries.iter().filter(|entry| !index::is_contained(entry.param)).filter_map(|entry| match &entry.value {
        IndexValue::Reference { type_name, id } if &**type_name == "Patient" => Some(&**id),
        _ => None,
    });
    match own {
        Some(own) if type_name == "Patient" || others.all(|other| other == own) => About::Patient(own.into()),
        None if others.next().is_none() && is_open(type_name, resource, options) && !holds_patients(resource, options) => About::Nobody,
        _ => About::Unknown,
    }
}

/// The system of the tags by which lango's own notices are known: that somebody broke the glass, that somebody asks for consent.
pub const NOTICE: &str = "https://lango.health/fhir/CodeSystem/notice";

/// Its code for the first, and the code of the Task that the privacy officer gets then. Only lango makes resources with either.
pub const BROKEN_GLASS: &str = "break-glass";
pub const GLASS_REVIEW: &str = "break-glass-review";

/// Whether a resource with these entries says that somebody broke the glass.
pub fn tells_of_broken_glass(type_name: &str, entries: &[IndexEntry]) -> bool {
    entries.iter().filter(|entry| !index::is_contained(entry.param)).any(|entry| match &entry.value {
        IndexValue::Token { system, code } => {
            type_name == "Task" && &**code == GLASS_REVIEW || &**code == BROKEN_GLASS && system.as_deref() == Some(NOTICE)
        }
        _ => false,
    })
}

/// That somebody was told something of a patient, or asked for something, is not for all who may see the record.
fn is_notice(resource: &Value) -> bool {
    let tags = resource.get("meta").and_then(|meta| meta.get("tag")).and_then(Value::as_array).into_iter().flatten();
    tags.into_iter().any(|tag| tag.get("system").and_then(Value::as_str) == Some(NOTICE))
}

/// The id in the first local reference to a Patient by the compartment's parameters, in their order.
fn named<'r>(type_code: TypeCode, resource: &'r Value, base: &str) -> Option<&'r str> {
    let mut first: Option<(usize, &str)> = None;
    plan_of(type_code)?.patient.walk(resource, resource, &mut |rank, value| {
        let reference = value.get("reference").and_then(Value::as_str).and_then(|text| values::parse_reference(text, base));
        if let Some(Reference::Local { type_name: "Patient", id, .. }) = reference
            && first.is_none_or(|(known, _)| *rank < known)
        {
            first = Some((*rank, id));
        }
    });
    first.map(|(_, id)| id)
}

/// What `key` refers to, once or several times.
fn references<'r>(resource: &'r Value, key: &str) -> impl Iterator<Item = &'r Value> {
    let value = resource.get(key);
    let list = value.and_then(Value::as_array).map_or_else(|| value.map(std::slice::from_ref).unwrap_or_default(), Vec::as_slice);
    list.iter()
}

/// The type and id of a reference to this server.
fn local<'r>(reference: &'r Value, base: &str) -> Option<(&'r str, &'r str)> {
    match values::parse_reference(reference.get("reference")?.as_str()?, base)? {
        Reference::Local { type_name, id, .. } => Some((type_name, id)),
        _ => None,
    }
}

/// Whether a Reference's identifier is one of a facility or a practitioner.
pub fn is_staffs(reference: &Value, options: &Options) -> bool {
    let system = reference.get("identifier").and_then(|identifier| identifier.get("system")).and_then(Value::as_str);
    system.is_some_and(|system| options.staff.iter().any(|known| **known == *system))
}

/// Whether a resource of this type that names no patient is about none. When a service, a place or somebody who works there can be met is; when
/// a patient can is not.
fn is_open(type_name: &str, resource: &Value, options: &Options) -> bool {
    let is_met = |actor: &Value| match local(actor, &options.base) {
        Some((name, _)) => SERVES.contains(&name),
        None => {
            let said = actor.get("type").and_then(Value::as_str).map(type_said);
            actor.get("reference").is_none()
                && (said.is_some_and(|name| SERVES.contains(&name)) || said.is_none() && is_staffs(actor, options))
        }
    };
    match type_name {
        "Schedule" => references(resource, "actor").next().is_some() && references(resource, "actor").all(is_met),
        _ => OPEN.contains(&type_name),
    }
}

/// Who and what serves patients.
const SERVES: [&str; 5] = ["Practitioner", "PractitionerRole", "HealthcareService", "Location", "Organization"];

/// Whether a resource of an open type holds what is about people all the same: it refers to one where no search parameter looks, here or on
/// another server, by an identifier too, or contains what is not of an open type itself.
fn holds_patients(resource: &Value, options: &Options) -> bool {
    let contained = resource.get("contained").and_then(Value::as_array).into_iter().flatten();
    let mut types = contained.filter_map(|one| one.get("resourceType").and_then(Value::as_str));
    types.any(|name| !OPEN.contains(&name)) || !Oneself::nobody().is_alone(resource, options)
}

/// Whether resources of this type are about no patient, as far as they name none.
pub fn is_about_nobody(type_name: &str) -> bool {
    OPEN.contains(&type_name)
}

/// Types that are about no patient: definitions, terminology, and the directory of care. A resource of another type that names
/// no Patient may still hold what is about one.
const OPEN: [&str; 57] = [
    "ActivityDefinition",
    "CapabilityStatement",
    "CatalogEntry",
    "ChargeItemDefinition",
    "CodeSystem",
    "CompartmentDefinition",
    "ConceptMap",
    "DeviceDefinition",
    "EffectEvidenceSynthesis",
    "Endpoint",
    "EventDefinition",
    "Evidence",
    "EvidenceVariable",
    "ExampleScenario",
    "GraphDefinition",
    "HealthcareService",
    "ImplementationGuide",
    "InsurancePlan",
    "Library",
    "Location",
    "Measure",
    "Medication",
    "MedicationKnowledge",
    "MedicinalProduct",
    "MedicinalProductAuthorization",
    "MedicinalProductContraindication",
    "MedicinalProductIndication",
    "MedicinalProductIngredient",
    "MedicinalProductInteraction",
    "MedicinalProductManufactured",
    "MedicinalProductPackaged",
    "MedicinalProductPharmaceutical",
    "MedicinalProductUndesirableEffect",
    "MessageDefinition",
    "NamingSystem",
    "ObservationDefinition",
    "OperationDefinition",
    "Organization",
    "OrganizationAffiliation",
    "PlanDefinition",
    "Practitioner",
    "PractitionerRole",
    "Questionnaire",
    "ResearchDefinition",
    "ResearchElementDefinition",
    "RiskEvidenceSynthesis",
    "SearchParameter",
    "SpecimenDefinition",
    "StructureDefinition",
    "StructureMap",
    "Substance",
    "SubstanceSpecification",
    "SubstanceSourceMaterial",
    "SubstancePolymer",
    "TerminologyCapabilities",
    "TestScript",
    "ValueSet",
];
