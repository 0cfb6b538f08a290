use super::*;
use std::collections::HashSet;

fn param<'a>(type_name: &str, code: &str) -> &'a SearchParam {
    r4().param(r4().type_code(type_name).unwrap(), code).unwrap_or_else(|| panic!("{type_name}.{code}"))
}

#[test]
fn places_in_the_frozen_lists_never_move() {
    let places = [("Account", 0), ("Encounter", 43), ("Observation", 95), ("Patient", 102), ("VisionPrescription", 145)];
    for (name, place) in places {
        assert_eq!(r4().type_code(name), Some(place), "{name}");
        assert_eq!(r4().type_name(place), name);
    }
    assert_eq!(r4().type_name(146), "");
    assert_eq!(r4().type_name(TypeCode::MAX), "");
    for (type_name, code, id) in [("Account", "_content", 0), ("Patient", "_id", 102 << 12 | 1), ("Patient", "identifier", 102 << 12 | 189)]
    {
        assert_eq!(param(type_name, code).id, id, "{type_name}.{code}");
    }
}

#[test]
fn every_concrete_resource_type_has_a_structure_and_the_parameters_of_all_resources() {
    assert_eq!(r4().resource_types().len(), 146);
    for name in ["Binary", "Bundle", "Parameters", "Patient"] {
        assert!(r4().type_code(name).is_some(), "{name}");
    }
    for (name, code) in r4().resource_types().iter().zip(0..) {
        assert_eq!(r4().structure(name).map(|s| s.kind), Some(StructureKind::Resource), "{name}");
        for common in ["_id", "_lastUpdated", "_profile", "_security", "_source", "_tag"] {
            let param = r4().param(code, common).unwrap_or_else(|| panic!("{name}.{common}"));
            assert!(param.expression.starts_with(&format!("{name}.")), "{}", param.expression);
        }
    }
    assert_eq!((r4().type_code("DomainResource"), r4().type_code("patient")), (None, None));
}

#[test]
fn every_parameter_is_found_by_code_and_by_number() {
    let mut seen = HashSet::new();
    for type_code in 0..r4().resource_types().len() as TypeCode {
        for param in r4().params(type_code) {
            assert_eq!(r4().param(type_code, &param.code), Some(param));
            assert_eq!(r4().param_by_id(param.id), Some(param));
            assert!(seen.insert(param.id));
            assert_eq!(param.expression.is_empty(), matches!(param.code.as_str(), "_text" | "_content"), "{}", param.code);
            assert_eq!(param.components.len() > 1, param.kind == ParamKind::Composite, "{}", param.code);
        }
    }
    assert_eq!(seen.len(), 2864);
    assert_eq!(r4().param_by_id(ParamId::MAX), None);
    assert!(r4().params(TypeCode::MAX).is_empty());
}

#[test]
fn an_expression_keeps_the_branches_of_its_own_type() {
    let cases = [
        ("Observation", "patient", "Observation.subject.where(resolve() is Patient)"),
        ("Patient", "email", "Patient.telecom.where(system='email')"),
        ("MedicationRequest", "code", "(MedicationRequest.medication as CodeableConcept)"),
        ("Observation", "value-quantity", "(Observation.value as Quantity) | (Observation.value as SampledData)"),
        ("AllergyIntolerance", "code", "AllergyIntolerance.code | AllergyIntolerance.reaction.substance"),
        ("Patient", "deceased", "Patient.deceased.exists() and Patient.deceased != false"),
        ("Observation", "_tag", "Observation.meta.tag"),
        ("InsurancePlan", "name", "InsurancePlan.name | InsurancePlan.alias"),
    ];
    for (type_name, code, expression) in cases {
        assert_eq!(param(type_name, code).expression, expression, "{type_name}.{code}");
    }
}

#[test]
fn a_composite_knows_the_kind_of_each_part() {
    let param = param("Observation", "combo-code-value-quantity");
    assert_eq!(param.expression, "Observation | Observation.component");
    let parts: Vec<_> = param.components.iter().map(|c| (c.kind, c.expression.as_str())).collect();
    assert_eq!(parts, [(ParamKind::Token, "code"), (ParamKind::Quantity, "value.as(Quantity)")]);
    let relationship = self::param("DocumentReference", "relationship");
    let parts: Vec<_> = relationship.components.iter().map(|c| (c.code.as_str(), c.kind, c.expression.as_str())).collect();
    assert_eq!(parts, [("relation", ParamKind::Token, "code"), ("relatesto", ParamKind::Reference, "target")]);
}

#[test]
fn targets_are_types_in_order() {
    let names = |param: &SearchParam| param.targets.iter().map(|t| r4().type_name(*t)).collect::<Vec<_>>();
    assert_eq!(names(param("Observation", "subject")), ["Device", "Group", "Location", "Patient"]);
    assert_eq!(param("PaymentNotice", "response").targets.len(), 146);
}

#[test]
fn a_structure_answers_by_json_key() {
    let observation = r4().structure("Observation").unwrap();
    let (_, element, kind) = observation.key("valueQuantity").unwrap();
    assert_eq!((element.name, element.choice, kind.name, element.types.len()), ("value", true, "Quantity", 11));
    assert!(observation.key("value").is_none() && observation.key("valueMoney").is_none() && observation.key("value[x]").is_none());
    let component = observation.element("component").unwrap();
    assert_eq!((component.types[0].name, component.is_list()), ("Observation.component", true));
    let range = r4().structure("Observation.component").unwrap().element("referenceRange").unwrap();
    assert_eq!(range.types[0].name, "Observation.referenceRange");
    let status = observation.element("status").unwrap();
    assert_eq!((status.min, status.max, status.binding), (1, Some(1), Some("http://hl7.org/fhir/ValueSet/observation-status")));
    assert_eq!(observation.element("id").unwrap().types[0].kind, ElementKind::Primitive(Primitive::Id));
    let subject = observation.element("subject").unwrap();
    assert_eq!(subject.targets.iter().map(|t| r4().type_name(*t)).collect::<Vec<_>>(), ["Device", "Group", "Location", "Patient"]);
}

#[test]
fn every_element_has_a_type_that_exists() {
    for structure in &r4().structures {
        assert!(!structure.elements.is_empty(), "{}", structure.name);
        for element in &structure.elements {
            assert!(!element.types.is_empty(), "{}.{}", structure.name, element.name);
            for kind in &element.types {
                if let ElementKind::Structure(place) = kind.kind {
                    assert_eq!(r4().structure_at(place).map(|s| s.name), Some(kind.name));
                }
            }
        }
    }
}

#[test]
fn elements_that_r4_does_not_have_are_left_out() {
    for (structure, key) in
        [("Meta", "account"), ("Binary", "url"), ("ResearchStudy", "name"), ("EvidenceVariable.characteristic", "linkId")]
    {
        assert!(r4().structure(structure).unwrap().key(key).is_none(), "{structure}.{key}");
    }
    assert!(r4().structure("EvidenceVariable.characteristic").unwrap().key("definitionReference").is_some());
    assert!(r4().structure("SubscriptionStatus").is_none());
    assert_eq!(r4().structure("Bundle.entry.response").unwrap().element("outcome").unwrap().types[0].kind, ElementKind::Resource);
}

#[test]
fn code_sets_list_the_codes_of_required_bindings() {
    let gender = r4().code_set("http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1").unwrap();
    assert!(gender.contains_code("female") && !gender.contains_code("F"));
    assert!(gender.contains("http://hl7.org/fhir/administrative-gender", "other") && !gender.contains("urn:x", "other"));
    assert_eq!(gender.system_of("male"), Some("http://hl7.org/fhir/administrative-gender"));
    assert_eq!(gender.groups().iter().flat_map(|g| g.codes.iter().copied()).collect::<Vec<_>>(), ["male", "female", "other", "unknown"]);
    let issue = r4().code_set("http://hl7.org/fhir/ValueSet/issue-type").unwrap();
    assert!(issue.contains_code("code-invalid"), "codes below other codes count");
    assert!(r4().code_set("http://hl7.org/fhir/ValueSet/currencies").is_none());
}

#[test]
fn the_patient_compartment_names_real_parameters() {
    let of = |name: &str| r4().patient_compartment(r4().type_code(name).unwrap());
    assert_eq!(of("Observation"), ["subject", "performer"]);
    assert_eq!(of("Encounter"), ["patient"]);
    assert!(of("Location").is_empty());
    for (name, code) in r4().resource_types().iter().zip(0..) {
        for param in r4().patient_compartment(code) {
            assert!(r4().param(code, param).is_some(), "{name}.{param}");
        }
    }
}

#[test]
fn the_other_compartments_name_references_that_can_lead_there() {
    let code = |name: &str| r4().type_code(name).unwrap();
    assert_eq!(r4().compartment(code("Encounter"), code("Observation")), Some(&["encounter"][..]));
    assert_eq!(r4().compartment(code("Encounter"), code("Patient")), None);
    assert_eq!(r4().compartment(code("Organization"), code("Patient")), None);
    assert_eq!(r4().compartment(code("Patient"), code("Observation")), Some(&["subject", "performer"][..]));
    let own: Vec<&str> = ["Patient", "Encounter", "Practitioner", "RelatedPerson", "Device", "Location"]
        .into_iter()
        .filter(|name| r4().is_in_own_compartment(code(name)))
        .collect();
    assert_eq!(own, ["Patient", "Encounter", "Practitioner", "RelatedPerson"]);
    for of in ["Encounter", "Practitioner", "RelatedPerson", "Device"] {
        for (name, member) in r4().resource_types().iter().zip(0..) {
            for param in r4().compartment(code(of), member).unwrap_or_default() {
                let found = r4().param(member, param).unwrap_or_else(|| panic!("{name}.{param}"));
                assert!(found.targets.contains(&code(of)), "{name}.{param} refers to no {of}");
            }
        }
    }
}
