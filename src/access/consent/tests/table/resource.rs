//! Rows about the resource: when it happened, what it is, how it is labelled, what it hangs together with.

use super::*;

#[test]
fn data_period() {
    let on = |key: &str, value: Value| {
        let mut resource = observation();
        resource.as_object_mut().unwrap().remove("effectiveDateTime");
        if !value.is_null() {
            resource[key] = value;
        }
        resource
    };
    let year = json!({"dataPeriod": {"start": "2025-01-01", "end": "2025-12-31"}});
    for (name, resource, holds) in [
        ("inside", observation(), Yes),
        ("its first day", on("effectiveDateTime", json!("2025-01-01")), Yes),
        ("its first instant", on("effectiveInstant", json!("2025-01-01T00:00:00Z")), Yes),
        ("its last day", on("effectiveDateTime", json!("2025-12-31")), Yes),
        ("its last instant", on("effectiveDateTime", json!("2025-12-31T23:59:59Z")), Yes),
        ("just before", on("effectiveDateTime", json!("2024-12-31T23:59:59Z")), No),
        ("just after", on("effectiveDateTime", json!("2026-01-01T00:00:00Z")), No),
        ("no date", on("", Value::Null), Unknown),
        ("a date that is none", on("effectiveDateTime", json!("2025-02-30")), Unknown),
        ("a Period inside", on("effectivePeriod", json!({"start": "2025-02", "end": "2025-03"})), Yes),
        ("a Period over the edge", on("effectivePeriod", json!({"start": "2024-12-01", "end": "2025-02-01"})), Unknown),
        ("a Period that goes on", on("effectivePeriod", json!({"start": "2025-02-01"})), Unknown),
        ("a Period outside", on("effectivePeriod", json!({"start": "2026-02-01"})), No),
        ("a year that is wider", on("effectiveDateTime", json!("2025")), Yes),
        ("a Timing", on("effectiveTiming", json!({"event": ["2025-02-01", "2025-02-03"]})), Yes),
    ] {
        row(name, year.clone(), &requester(), &resource, holds);
    }
    row("open at the start", json!({"dataPeriod": {"end": "2025-03-10"}}), &requester(), &observation(), Yes);
    row("open at the end", json!({"dataPeriod": {"start": "2025-03-11"}}), &requester(), &observation(), No);
}

#[test]
fn class() {
    let class = |system: &str, code: &str| json!({"class": [{"system": system, "code": code}]});
    let document =
        json!({"resourceType": "DocumentReference", "id": "d", "type": concept(LOINC, "18842-5"), "category": [concept(LOINC, "11503-0")]});
    for (name, criterion, resource, holds) in [
        ("type", class("http://hl7.org/fhir/resource-types", "Observation"), observation(), Yes),
        ("another type", class("http://hl7.org/fhir/resource-types", "Condition"), observation(), No),
        ("a type that is none", class("http://hl7.org/fhir/resource-types", "Obs"), observation(), Unknown),
        ("profile", class("urn:ietf:rfc:3986", "http://example.org/profile"), observation(), Yes),
        ("profile with a version", class("urn:ietf:rfc:3986", "http://example.org/profile|2"), observation(), Yes),
        ("another profile", class("urn:ietf:rfc:3986", "http://example.org/other"), observation(), No),
        (
            "a base profile is its type",
            class("urn:ietf:rfc:3986", "http://hl7.org/fhir/StructureDefinition/Observation"),
            observation(),
            Yes,
        ),
        ("document type", class(LOINC, "18842-5"), document.clone(), Yes),
        ("document category", class(LOINC, "11503-0"), document.clone(), Yes),
        ("another document type", class(LOINC, "34133-9"), document, No),
        ("a document type, but no document", class(LOINC, "1-1"), observation(), No),
        ("a media type", class("urn:ietf:bcp:13", "application/hl7-cda+xml"), observation(), Unknown),
    ] {
        row(name, criterion, &requester(), &resource, holds);
    }
}

#[test]
fn code() {
    let code = |system: &str, code: &str| json!({"code": [concept(system, code)]});
    let mut words = observation();
    words["code"] = json!({"text": "HIV test"});
    let mut category = observation();
    category["category"] = json!([concept("http://category", "laboratory")]);
    for (name, criterion, resource, holds) in [
        ("in its system", code(LOINC, "1-1"), observation(), Yes),
        ("the same code in another system", code("http://other", "1-1"), observation(), No),
        ("another coding of the same concept", code("http://local", "z"), observation(), Yes),
        ("anywhere in the instance", code("http://category", "laboratory"), category, Yes),
        (
            "any coding of the criterion",
            json!({"code": [{"coding": [{"system": LOINC, "code": "9-9"}, {"system": LOINC, "code": "1-1"}]}]}),
            observation(),
            Yes,
        ),
        ("a criterion in words", json!({"code": [{"text": "HIV test"}]}), observation(), Unknown),
        ("a resource in words", code(LOINC, "1-1"), words, Unknown),
        (
            "a medicine described elsewhere",
            code(LOINC, "1-1"),
            json!({"resourceType": "MedicationRequest", "medicationReference": {"reference": "Medication/m"}}),
            Unknown,
        ),
        ("value set", code("urn:ietf:rfc:3986", SET), observation(), Yes),
        ("value set without it", code("urn:ietf:rfc:3986", SET), json!({"resourceType": "Observation", "code": concept(LOINC, "3-3")}), No),
        ("value set that is not known", code("urn:ietf:rfc:3986", "http://example.org/unknown"), observation(), Unknown),
        (
            "a unit is no code",
            code("http://unitsofmeasure.org", "kg"),
            with(observation(), "valueQuantity", json!({"value": 3, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"})),
            No,
        ),
    ] {
        row(name, criterion, &requester(), &resource, holds);
    }
}

#[test]
fn security_label() {
    let label = |system: &str, code: &str| json!({"securityLabel": [{"system": system, "code": code}]});
    let levels = ["U", "L", "M", "N", "R", "V"];
    // A permit reaches up to its level, a deny from it on.
    for (at, level) in levels.iter().enumerate() {
        for (said, resource) in levels.iter().enumerate() {
            let resource = labelled(&[(CONFIDENTIALITY, resource)]);
            let inside = |root: &str, kind: &str| {
                let mut exception = label(CONFIDENTIALITY, level);
                exception["type"] = json!(kind);
                outcome(&[consent(json!({"type": root, "provision": [exception]}))], &requester(), &resource)
            };
            assert_eq!(
                inside("deny", "permit"),
                if said <= at { Outcome::Permit } else { Outcome::Deny },
                "permit {level}, is {}",
                levels[said]
            );
            assert_eq!(
                inside("permit", "deny"),
                if said >= at { Outcome::Deny } else { Outcome::Permit },
                "deny {level}, is {}",
                levels[said]
            );
        }
    }
    let psychotherapy = labelled(&[(ACT_CODE, "PSYTHPN")]);
    for (name, criterion, resource, holds) in [
        ("unlabelled is normal", label(CONFIDENTIALITY, "N"), observation(), Yes),
        ("a level that is none", label(CONFIDENTIALITY, "X"), observation(), Unknown),
        ("sensitivity", label(ACT_CODE, "HIV"), labelled(&[(CONFIDENTIALITY, "R"), (ACT_CODE, "HIV")]), Yes),
        ("another sensitivity", label(ACT_CODE, "PSY"), labelled(&[(CONFIDENTIALITY, "R"), (ACT_CODE, "HIV")]), No),
        ("a sensitivity below it", label(ACT_CODE, "ETH"), labelled(&[(ACT_CODE, "ETHUD")]), Yes),
        ("a sensitivity above it", label(ACT_CODE, "ETHUD"), labelled(&[(ACT_CODE, "ETH")]), No),
        ("behavioural health", label(ACT_CODE, "BH"), psychotherapy.clone(), Yes),
        ("a label of one's own", label("http://example.org", "VIP"), labelled(&[("http://example.org", "VIP")]), Yes),
    ] {
        row(name, criterion, &requester(), &resource, holds);
    }
    // A sensitivity alone is restricted, and two levels are the higher.
    let normal = consent(json!({"type": "permit", "securityLabel": [{"system": CONFIDENTIALITY, "code": "N"}]}));
    assert_eq!(outcome(std::slice::from_ref(&normal), &requester(), &psychotherapy), Outcome::NoConsent);
    let both = labelled(&[(CONFIDENTIALITY, "N"), (CONFIDENTIALITY, "R")]);
    assert_eq!(outcome(std::slice::from_ref(&normal), &requester(), &both), Outcome::NoConsent);
    assert_eq!(outcome(&[normal], &requester(), &observation()), Outcome::Permit);
}

#[test]
fn a_label_is_inherited_from_what_the_resource_came_in() {
    let restricted: BTreeSet<Coding> = [Coding::confidentiality("R"), Coding::sensitivity("HIV")].into();
    let added = labels_on_arrival(&observation(), &restricted, &Sensitive::default());
    assert_eq!(added, restricted);
    let mut resource = facts(&observation(), &ZONE, BASE);
    resource.labels.extend(added);
    let consents = [read(&consent(
        json!({"type": "permit", "provision": [{"type": "deny", "securityLabel": [{"system": ACT_CODE, "code": "HIV"}]}]}),
    ))];
    assert_eq!(decide(&consents, &requester(), &resource, &Deployment::default()).outcome, Outcome::Deny);
}

#[test]
fn data() {
    let data = |meaning: &str, reference: Value| json!({"data": [{"meaning": meaning, "reference": reference}]});
    let to = |name: &str| json!({"reference": name});
    for (name, criterion, holds) in [
        ("the instance", data("instance", to("Observation/o")), Yes),
        ("another instance", data("instance", to("Observation/q")), No),
        ("the instance does not reach what refers to it", data("instance", to("Encounter/e")), No),
        ("related: itself", data("related", to("Observation/o")), Yes),
        ("related: of this encounter", data("related", to("Encounter/e")), Yes),
        ("related: what it refers to", data("related", to("CarePlan/plan")), Yes),
        ("related: what another's refers to", data("related", to("CarePlan/theirs")), Unknown),
        ("an identifier", data("instance", json!({"identifier": {"system": "urn:o", "value": "1"}})), Unknown),
        ("authored by whom nobody knows", data("authoredby", json!({"identifier": {"system": "urn:mfl", "value": "77"}})), Unknown),
        ("related: of another encounter", data("related", to("Encounter/q")), No),
        ("dependents: itself", data("dependents", to("Observation/o")), Yes),
        ("dependents: refers to it", data("dependents", to("Encounter/e")), Yes),
        ("dependents: is referred to", data("dependents", to("CarePlan/plan")), No),
        ("authored by the person", data("authoredby", to("Practitioner/y")), Yes),
        ("authored by the facility", data("authoredby", json!({"identifier": {"system": "urn:lango:facility", "value": "A"}})), Yes),
        ("authored by another", data("authoredby", to("Practitioner/q")), No),
        ("the patient is no author", data("authoredby", to("Patient/p")), No),
        ("another meaning", data("about", to("Observation/o")), Unknown),
        ("no reference", json!({"data": [{"meaning": "instance", "reference": {"display": "it"}}]}), Unknown),
    ] {
        row(name, criterion, &requester(), &observation(), holds);
    }
}
