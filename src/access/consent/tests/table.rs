//! The decision table: every criterion, each as the exception of a permit (it denies) and of a deny (it permits).

use super::super::vocabulary::{ACT_CODE, ACT_REASON, CONFIDENTIALITY, Coding, LANGO_ROLE, PARTICIPATION_TYPE};
use super::super::*;
use super::{BASE, ZONE};
use crate::fhir::time::{Interval, Micros, parse_interval};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const LOINC: &str = "http://loinc.org";
const SET: &str = "http://example.org/vs";

fn at(text: &str) -> Micros {
    parse_interval(text, &ZONE).unwrap().low
}

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

/// Two Consents made alike, with what `provision` says in the root.
fn consent(provision: Value) -> Value {
    json!({"resourceType": "Consent", "id": "c", "meta": {"versionId": "1"}, "status": "active",
        "scope": concept("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
        "category": [concept(LOINC, "59284-0")], "patient": {"reference": "Patient/p"}, "dateTime": "2024-01-01", "provision": provision})
}

fn with(mut consent: Value, key: &str, value: Value) -> Value {
    consent[key] = value;
    consent
}

fn read_of_age(consent: &Value, of_age: Option<Micros>) -> Consent {
    let value_set = |url: &str| (url == SET).then(|| vec![Coding::new(LOINC, "1-1"), Coding::new(LOINC, "2-2")]);
    let references_of = |name: &str| if name == "CarePlan/plan" { vec!["Observation/o".to_owned()] } else { Vec::new() };
    Consent::read(consent, &Reading { zone: &ZONE, base: BASE, value_set: &value_set, references_of: &references_of, of_age }).unwrap()
}

fn read(consent: &Value) -> Consent {
    read_of_age(consent, None)
}

/// Facility B, a part of the district, with Practitioner x who is a clinician, for treatment, in the middle of 2026.
fn requester() -> Requester {
    Requester {
        organisations: ["Organization/b", "urn:lango:facility|B", "Organization/district"].map(str::to_owned).into(),
        people: ["Practitioner/x".to_owned()].into(),
        devices: ["Device/client".to_owned()].into(),
        groups: ["CareTeam/team".to_owned()].into(),
        roles: [Coding::role("clinician")].into(),
        purposes: [Coding::purpose("TREAT")].into(),
        ..Requester::unknown(at("2026-06-15"))
    }
}

fn observation() -> Value {
    json!({"resourceType": "Observation", "id": "o", "meta": {"profile": ["http://example.org/profile"]},
        "code": {"coding": [{"system": "http://local", "code": "z"}, {"system": LOINC, "code": "1-1"}], "text": "a test"},
        "subject": {"reference": "Patient/p"}, "encounter": {"reference": "Encounter/e"}, "effectiveDateTime": "2025-03-10",
        "performer": [{"reference": "Practitioner/y"}, {"identifier": {"system": "urn:lango:facility", "value": "A"}}]})
}

fn labelled(labels: &[(&str, &str)]) -> Value {
    let mut resource = observation();
    resource["meta"]["security"] = labels.iter().map(|(system, code)| json!({"system": system, "code": code})).collect();
    resource
}

/// The decision, by both readings.
fn ask(consents: &[Consent], requester: &Requester, resource: &Value, deployment: &Deployment) -> Verdict {
    let facts = facts(resource, &ZONE, BASE);
    let verdict = decide(consents, requester, &facts, deployment);
    let compiled: Vec<Compiled> = in_force(consents).into_iter().map(compile).collect();
    assert_eq!(evaluate_rules(&compiled, requester, &facts, deployment), verdict);
    verdict
}

fn outcome(consents: &[Value], requester: &Requester, resource: &Value) -> Outcome {
    let consents: Vec<Consent> = consents.iter().map(read).collect();
    ask(&consents, requester, resource, &Deployment::default()).outcome
}

/// Whether a criterion is about this request and this resource.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Holds {
    Yes,
    No,
    /// It cannot be told: never opens, always closes.
    Unknown,
}

use Holds::{No, Unknown, Yes};

/// One row: the criterion as the one exception of a permit and of a deny.
fn row(name: &str, criterion: Value, requester: &Requester, resource: &Value, holds: Holds) {
    let exception = |root: &str, kind: &str| {
        let mut exception = criterion.clone();
        exception["type"] = json!(kind);
        outcome(&[consent(json!({"type": root, "provision": [exception]}))], requester, resource)
    };
    let denied = if holds == No { Outcome::Permit } else { Outcome::Deny };
    assert_eq!(exception("permit", "deny"), denied, "{name}: a deny in a permit");
    let permitted = if holds == Yes { Outcome::Permit } else { Outcome::Deny };
    assert_eq!(exception("deny", "permit"), permitted, "{name}: a permit in a deny");
    // In the root: nothing is said of what it is not about.
    let root = |kind: &str| {
        let mut root = criterion.clone();
        root["type"] = json!(kind);
        outcome(&[consent(root)], requester, resource)
    };
    assert_eq!(root("permit"), if holds == Yes { Outcome::Permit } else { Outcome::NoConsent }, "{name}: a permit");
    assert_eq!(root("deny"), if holds == No { Outcome::NoConsent } else { Outcome::Deny }, "{name}: a deny");
}

#[test]
fn period() {
    let now = |text: &str| Requester { now: at(text), ..requester() };
    for (name, period, asked, holds) in [
        ("closed, inside", json!({"start": "2026-01-01", "end": "2026-12-31"}), now("2026-06-15"), Yes),
        ("open at the end", json!({"start": "2026-01-01"}), now("2099-01-01"), Yes),
        ("open at the start", json!({"end": "2026-12-31"}), now("1999-01-01"), Yes),
        ("in the future", json!({"start": "2027"}), now("2026-06-15"), No),
        ("over", json!({"end": "2025"}), now("2026-06-15"), No),
        ("the first instant", json!({"start": "2026-06-15"}), now("2026-06-15T00:00:00Z"), Yes),
        ("before the first instant", json!({"start": "2026-06-15"}), now("2026-06-14T23:59:59Z"), No),
        ("the last instant of its day", json!({"end": "2026-06-15"}), now("2026-06-15T23:59:59.999999Z"), Yes),
        ("after its last day", json!({"end": "2026-06-15"}), now("2026-06-16T00:00:00Z"), No),
        ("the last instant of its year", json!({"end": "2026"}), now("2026-12-31T23:59:59Z"), Yes),
        ("no date", json!({"start": "soon"}), now("2026-06-15"), Unknown),
        ("the wrong way round", json!({"start": "2027", "end": "2026"}), now("2026-06-15"), Unknown),
    ] {
        row(name, json!({"period": period}), &asked, &observation(), holds);
    }
}

#[test]
fn a_date_without_a_zone_is_read_in_the_deployments_zone() {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(3));
    let written = consent(json!({"type": "permit", "period": {"end": "2026-06-15"}}));
    let reading = Reading { zone: &zone, base: BASE, value_set: &|_| None, references_of: &|_| Vec::new(), of_age: None };
    let consents = [Consent::read(&written, &reading).unwrap()];
    let outcome = |now: &str| ask(&consents, &Requester { now: at(now), ..requester() }, &observation(), &Deployment::default()).outcome;
    assert_eq!(outcome("2026-06-15T20:59:59Z"), Outcome::Permit);
    assert_eq!(outcome("2026-06-15T21:00:00Z"), Outcome::NoConsent);
}

#[test]
fn status_scope_patient_and_verification() {
    let all = |kind: &str| consent(json!({"type": kind}));
    for status in ["draft", "proposed", "rejected", "inactive", "entered-in-error", "unheard-of"] {
        for kind in ["permit", "deny"] {
            assert_eq!(outcome(&[with(all(kind), "status", json!(status))], &requester(), &observation()), Outcome::NoConsent, "{status}");
        }
    }
    assert_eq!(outcome(&[all("permit")], &requester(), &observation()), Outcome::Permit);
    assert_eq!(outcome(&[all("deny")], &requester(), &observation()), Outcome::Deny);
    let research = concept("http://terminology.hl7.org/CodeSystem/consentscope", "research");
    for void in [
        with(all("permit"), "scope", research),
        with(all("permit"), "scope", json!({"text": "patient-privacy"})),
        with(all("permit"), "patient", Value::Null),
        with(all("permit"), "verification", json!([{"verified": true}, {"verified": false}])),
    ] {
        let mut void = void;
        void.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(outcome(&[void], &requester(), &observation()), Outcome::NoConsent);
    }
    assert_eq!(outcome(&[with(all("permit"), "verification", json!([{"verified": true}]))], &requester(), &observation()), Outcome::Permit);
}

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
fn actor() {
    let recipient = concept(PARTICIPATION_TYPE, "IRCP");
    let who = |role: &Value, reference: Value| json!({"actor": [{"role": role, "reference": reference}]});
    for (name, criterion, holds) in [
        ("person", who(&recipient, json!({"reference": "Practitioner/x"})), Yes),
        ("another person", who(&recipient, json!({"reference": "Practitioner/q"})), No),
        ("organisation", who(&recipient, json!({"reference": "Organization/b"})), Yes),
        ("organisation by identifier", who(&recipient, json!({"identifier": {"system": "urn:lango:facility", "value": "B"}})), Yes),
        ("organisation by our own address", who(&recipient, json!({"reference": format!("{BASE}/Organization/b")})), Yes),
        ("another server's organisation", who(&recipient, json!({"reference": "http://elsewhere/fhir/Organization/b"})), No),
        ("organisation that it is a part of", who(&recipient, json!({"reference": "Organization/district"})), Yes),
        ("part of the organisation", who(&recipient, json!({"reference": "Organization/ward"})), No),
        ("group", who(&recipient, json!({"reference": "CareTeam/team"})), Yes),
        ("device", who(&recipient, json!({"reference": "Device/client"})), Yes),
        ("role that it has", json!({"actor": [{"role": concept(LANGO_ROLE, "clinician")}]}), Yes),
        ("role that it has not", json!({"actor": [{"role": concept(LANGO_ROLE, "reporting")}]}), No),
        ("role at the organisation", who(&concept(LANGO_ROLE, "clinician"), json!({"reference": "Organization/b"})), Yes),
        ("role at another", who(&concept(LANGO_ROLE, "clinician"), json!({"reference": "Organization/q"})), No),
        ("a part that is no recipient", who(&concept(PARTICIPATION_TYPE, "CST"), json!({"reference": "Organization/b"})), Unknown),
        ("a role in words", who(&json!({"text": "doctor"}), json!({"reference": "Organization/b"})), Unknown),
        ("somebody in words", who(&recipient, json!({"display": "Dr. X"})), Unknown),
        ("nobody", json!({"actor": [{"role": recipient}]}), Unknown),
    ] {
        row(name, criterion, &requester(), &observation(), holds);
    }
    let two = json!({"actor": [{"role": recipient, "reference": {"reference": "Organization/q"}}, {"role": recipient, "reference": {"reference": "Organization/b"}}]});
    row("one of two", two, &requester(), &observation(), Yes);
}

#[test]
fn action() {
    let action = |code: &str| json!({"action": [concept(vocabulary::CONSENT_ACTION, code)]});
    for (name, criterion, holds) in [
        ("access", action("access"), Yes),
        ("correct", action("correct"), No),
        ("collect", action("collect"), No),
        ("disclose, which is near", action("disclose"), Unknown),
        ("unknown", action("dance"), Unknown),
        ("words", json!({"action": [{"text": "read"}]}), Unknown),
    ] {
        row(name, criterion, &requester(), &observation(), holds);
    }
}

#[test]
fn purpose() {
    let named = |system: &str, code: &str| json!({"purpose": [{"system": system, "code": code}]});
    let asks = |codes: &[&str]| Requester { purposes: codes.iter().map(|code| Coding::purpose(code)).collect(), ..requester() };
    for (name, criterion, asked, holds) in [
        ("the same", named(ACT_REASON, "TREAT"), asks(&["TREAT"]), Yes),
        ("by its older name", named("http://hl7.org/fhir/v3/ActReason", "TREAT"), asks(&["TREAT"]), Yes),
        ("below it", named(ACT_REASON, "TREAT"), asks(&["ETREAT"]), Yes),
        ("two below it", named(ACT_REASON, "TREAT"), asks(&["BTG"]), Yes),
        ("above it", named(ACT_REASON, "ETREAT"), asks(&["TREAT"]), No),
        ("beside it", named(ACT_REASON, "HRESCH"), asks(&["TREAT"]), No),
        ("break-glass", named(ACT_REASON, "BTG"), asks(&["BTG"]), Yes),
        ("of another system", named("http://example.org", "TREAT"), asks(&["TREAT"]), No),
        ("without a system", json!({"purpose": [{"code": "TREAT"}]}), asks(&["TREAT"]), Unknown),
        (
            "both of two",
            json!({"purpose": [{"system": ACT_REASON, "code": "TREAT"}, {"system": ACT_REASON, "code": "HRESCH"}]}),
            asks(&["TREAT", "HRESCH"]),
            Yes,
        ),
        ("one of two", named(ACT_REASON, "TREAT"), asks(&["TREAT", "HRESCH"]), Unknown),
    ] {
        row(name, criterion, &asked, &observation(), holds);
    }
}

#[test]
fn without_a_purpose_no_permit_applies_and_every_deny_does() {
    let silent = Requester { purposes: BTreeSet::new(), ..requester() };
    let treat = json!([{"system": ACT_REASON, "code": "TREAT"}]);
    assert_eq!(outcome(&[consent(json!({"type": "permit"}))], &silent, &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[consent(json!({"type": "permit", "purpose": treat}))], &silent, &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[consent(json!({"type": "deny", "purpose": treat}))], &silent, &observation()), Outcome::Deny);
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

#[test]
fn what_is_not_understood() {
    let modifier = json!([{"url": "http://example.org/not", "valueBoolean": true}]);
    row("modifierExtension", json!({"modifierExtension": modifier}), &requester(), &observation(), Unknown);
    row("an element of another release", json!({"expression": {"language": "text/cql"}}), &requester(), &observation(), Unknown);
    row("an element of another form", json!({"purpose": "TREAT"}), &requester(), &observation(), Unknown);
    row("an empty list", json!({"purpose": []}), &requester(), &observation(), Unknown);
    row("an extension changes nothing", json!({"extension": [{"url": "http://example.org/note"}]}), &requester(), &observation(), Yes);
    let changed = json!({"actor": [{"modifierExtension": modifier, "role": concept(PARTICIPATION_TYPE, "IRCP"), "reference": {"reference": "Organization/b"}}]});
    row("modifierExtension of an actor", changed, &requester(), &observation(), Unknown);
    let whole = |kind: &str| with(consent(json!({"type": kind})), "modifierExtension", modifier.clone());
    assert_eq!(outcome(&[whole("permit")], &requester(), &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[whole("deny")], &requester(), &observation()), Outcome::Deny);
    // An exception that does not say what it is closes.
    assert_eq!(
        outcome(&[consent(json!({"type": "permit", "provision": [{"class": [{"code": "Observation"}]}]}))], &requester(), &observation()),
        Outcome::Deny
    );
    // Nothing says what the rules are exceptions to: only what they permit is open.
    let exceptions = |kind: &str| consent(json!({"provision": [{"type": kind, "class": [{"code": "Condition"}]}]}));
    assert_eq!(outcome(&[exceptions("deny")], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[exceptions("permit")], &requester(), &json!({"resourceType": "Condition"})), Outcome::Permit);
    assert_eq!(outcome(&[consent(json!({}))], &requester(), &observation()), Outcome::NoConsent);
}

#[test]
fn several_consents() {
    let (permit, deny) = (consent(json!({"type": "permit"})), consent(json!({"type": "deny"})));
    let second = |one: &Value| with(with(one.clone(), "id", json!("d")), "dateTime", json!("2025-01-01"));
    assert_eq!(outcome(&[permit.clone(), second(&permit)], &requester(), &observation()), Outcome::Permit);
    assert_eq!(outcome(&[permit.clone(), second(&deny)], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[deny.clone(), second(&permit)], &requester(), &observation()), Outcome::Deny, "of another policy");

    let under = |one: &Value| {
        with(
            with(one.clone(), "organization", json!([{"reference": "Organization/o"}])),
            "policy",
            json!([{"uri": "http://example.org/policy"}]),
        )
    };
    let (permit, deny) = (under(&permit), under(&deny));
    assert_eq!(outcome(&[deny.clone(), second(&permit)], &requester(), &observation()), Outcome::Permit, "the newer replaces");
    assert_eq!(outcome(&[permit.clone(), second(&deny)], &requester(), &observation()), Outcome::Deny, "the newer replaces");
    let withdrawn = with(second(&deny), "status", json!("inactive"));
    assert_eq!(outcome(&[permit.clone(), withdrawn], &requester(), &observation()), Outcome::NoConsent, "what was replaced stays replaced");
    let mistaken = with(second(&deny), "status", json!("entered-in-error"));
    assert_eq!(outcome(&[permit.clone(), mistaken], &requester(), &observation()), Outcome::Permit, "a mistake never replaced anything");
    let other = with(second(&permit), "policy", json!([{"uri": "http://example.org/other"}]));
    assert_eq!(outcome(&[deny, other], &requester(), &observation()), Outcome::Deny, "of another policy");
}

#[test]
fn the_consents_used_are_named_with_their_versions() {
    let permit = read(&consent(json!({"type": "permit"})));
    let deny = read(&with(consent(json!({"type": "deny", "class": [{"code": "Condition"}]})), "id", json!("d")));
    let verdict = ask(&[permit.clone(), deny.clone()], &requester(), &observation(), &Deployment::default());
    assert_eq!(verdict.consents, [permit.version.clone()].into());
    let verdict = ask(&[permit, deny.clone()], &requester(), &json!({"resourceType": "Condition"}), &Deployment::default());
    assert_eq!(verdict.consents, [deny.version].into());
}

#[test]
fn policy_rule() {
    let rule = |code: &str, provision: Value| with(consent(provision), "policyRule", concept(ACT_CODE, code));
    let without = |mut one: Value| {
        one.as_object_mut().unwrap().remove("provision");
        one
    };
    for (code, said) in [("OPTIN", Outcome::Permit), ("OPTOUT", Outcome::Deny)] {
        assert_eq!(outcome(&[rule(code, json!({}))], &requester(), &observation()), said, "an empty provision");
        assert_eq!(outcome(&[without(rule(code, json!({})))], &requester(), &observation()), said, "no provision");
    }
    assert_eq!(outcome(&[rule("OPTIN", json!({"period": {"end": "2025"}}))], &requester(), &observation()), Outcome::NoConsent, "it ended");
    // Exceptions to the policy.
    let here = json!({"provision": [{"type": "deny", "class": [{"code": "Observation"}]}]});
    assert_eq!(outcome(&[rule("OPTIN", here)], &requester(), &observation()), Outcome::Deny);
    // The default is for what no rule speaks of.
    let elsewhere = json!({"type": "permit", "class": [{"code": "Condition"}]});
    assert_eq!(outcome(&[rule("OPTOUT", elsewhere.clone())], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[rule("OPTOUT", elsewhere)], &requester(), &json!({"resourceType": "Condition"})), Outcome::Permit);
    let permit = with(consent(json!({"type": "permit"})), "id", json!("d"));
    assert_eq!(outcome(&[rule("OPTOUT", json!({})), permit], &requester(), &observation()), Outcome::Permit, "a rule before a default");
}

#[test]
fn nesting() {
    let at = |kind: &str, inner: Vec<Value>| json!({"type": kind, "class": [{"code": "Observation"}], "provision": inner});
    let mut tree = at("permit", Vec::new());
    for (depth, kind) in ["deny", "permit", "deny", "permit"].into_iter().enumerate() {
        tree = at(kind, vec![tree]);
        assert_eq!(outcome(&[consent(tree.clone())], &requester(), &observation()), Outcome::Permit, "the deepest wins, depth {depth}");
    }
    let two = json!({"type": "permit", "provision": [at("permit", Vec::new()), at("deny", Vec::new())]});
    assert_eq!(outcome(&[consent(two)], &requester(), &observation()), Outcome::Deny, "of siblings a deny wins");
    let wider = json!({"type": "deny", "class": [{"code": "Condition"}], "provision": [{"type": "permit"}]});
    assert_eq!(outcome(&[consent(wider)], &requester(), &observation()), Outcome::NoConsent, "an exception only narrows");
}

#[test]
fn merged_patients_are_under_both_their_consents() {
    let mine = consent(json!({"type": "permit"}));
    let theirs = with(with(consent(json!({"type": "deny"})), "patient", json!({"reference": "Patient/q"})), "id", json!("d"));
    assert_eq!(outcome(&[mine.clone(), theirs], &requester(), &observation()), Outcome::Deny, "the stricter wins");
    // The consent of one says nothing once they are apart again: the caller then gives the other's alone.
    assert_eq!(outcome(&[mine], &requester(), &observation()), Outcome::Permit);
}

#[test]
fn a_guardians_permit_ends_when_the_patient_is_of_age() {
    let given = |performer: &str| with(consent(json!({"type": "permit"})), "performer", json!([{"reference": performer}]));
    let ask_at = |consent: &Value, of_age: &str, now: &str| {
        let consents = [read_of_age(consent, Some(at(of_age)))];
        ask(&consents, &Requester { now: at(now), ..requester() }, &observation(), &Deployment::default()).outcome
    };
    let guardian = given("RelatedPerson/mother");
    assert_eq!(ask_at(&guardian, "2026-06-15", "2026-06-14T23:59:59Z"), Outcome::Permit);
    assert_eq!(ask_at(&guardian, "2026-06-15", "2026-06-15"), Outcome::NoConsent);
    assert_eq!(ask_at(&guardian, "2020-01-01", "2026-06-15"), Outcome::Permit, "for an adult");
    assert_eq!(ask_at(&given("Patient/p"), "2026-06-15", "2026-06-15"), Outcome::Permit, "the patient's own");
    let refusal =
        with(with(consent(json!({"type": "deny"})), "performer", json!([{"reference": "RelatedPerson/mother"}])), "id", json!("d"));
    assert_eq!(ask_at(&refusal, "2026-06-15", "2027-01-01"), Outcome::Deny, "a refusal stays until the patient lifts it");
}

#[test]
fn break_glass() {
    let deny = [read(&consent(json!({"type": "deny"})))];
    let until = at("2026-06-15T00:15:00Z");
    let broken = Requester { purposes: [Coding::purpose("BTG")].into(), break_glass_until: Some(until), ..requester() };
    let deployment = Deployment { break_glass_exempt: [Coding::sensitivity("PSY")].into(), ..Deployment::default() };
    let verdict = ask(&deny, &broken, &observation(), &deployment);
    assert!(verdict.released && verdict.break_glass);
    assert_eq!(verdict.obligations, [Obligation::NotifyPatient, Obligation::Review].into());
    assert!(ask(&[], &broken, &observation(), &deployment).released, "no consent");
    for (why, closed) in [
        ("it ended", Requester { now: until, ..broken.clone() }),
        ("not granted", Requester { break_glass_until: None, ..broken.clone() }),
        ("it writes", Requester { action: Action::Correct, ..broken.clone() }),
        ("another purpose too", Requester { purposes: [Coding::purpose("BTG"), Coding::purpose("HRESCH")].into(), ..broken.clone() }),
        ("no emergency", Requester { purposes: [Coding::purpose("TREAT")].into(), ..broken.clone() }),
    ] {
        assert!(!ask(&deny, &closed, &observation(), &deployment).released, "{why}");
    }
    assert!(!ask(&deny, &broken, &labelled(&[(ACT_CODE, "PSY")]), &deployment).released, "an exempt label");
    let refused = [read(&consent(json!({"type": "deny", "purpose": [{"system": ACT_REASON, "code": "BTG"}]})))];
    assert!(!ask(&refused, &broken, &observation(), &deployment).released, "the patient refused it");
}

#[test]
fn the_deployments_policy_holds_where_no_consent_speaks() {
    let restricted = labelled(&[(CONFIDENTIALITY, "R")]);
    let clerk = Requester { roles: BTreeSet::new(), ..requester() };
    let research = Requester { purposes: [Coding::purpose("HRESCH")].into(), ..requester() };
    for (policy, expected) in [
        (ImplicitPolicy::BasicNormal, [true, false, false, false]),
        (ImplicitPolicy::AllNormal, [true, false, true, true]),
        (ImplicitPolicy::BreakGlassOnly, [false; 4]),
        (ImplicitPolicy::Deny, [false; 4]),
    ] {
        let deployment = Deployment { implicit: policy, ..Deployment::default() };
        let asked = [
            (requester(), observation()),
            (requester(), restricted.clone()),
            (clerk.clone(), observation()),
            (research.clone(), observation()),
        ];
        let released = asked.map(|(requester, resource)| {
            let verdict = ask(&[], &requester, &resource, &deployment);
            assert_eq!(verdict.outcome, Outcome::NoConsent);
            verdict.released
        });
        assert_eq!(released, expected, "{policy:?}");
        let denied = ask(&[read(&consent(json!({"type": "deny"})))], &requester(), &observation(), &deployment);
        assert!(!denied.released, "a consent comes before the policy");
    }
}

#[test]
fn caveats_go_with_what_is_released() {
    let caveat = labelled(&[(ACT_CODE, "NORDSCLCD")]);
    let verdict = ask(&[read(&consent(json!({"type": "permit"})))], &requester(), &caveat, &Deployment::default());
    assert_eq!(verdict.obligations, [Obligation::Handling(Coding::sensitivity("NORDSCLCD"))].into());
}

#[test]
fn a_consent_that_is_too_deep_or_too_large_is_refused() {
    let reading = Reading { zone: &ZONE, base: BASE, value_set: &|_| None, references_of: &|_| Vec::new(), of_age: None };
    let mut deep = json!({"type": "permit"});
    for _ in 0..MAX_DEPTH {
        deep = json!({"type": "permit", "provision": [deep]});
    }
    assert_eq!(Consent::read(&consent(deep), &reading), Err(ConsentError::TooDeep));
    let wide: Vec<Value> = (0..MAX_PROVISIONS).map(|_| json!({"type": "deny"})).collect();
    assert_eq!(Consent::read(&consent(json!({"type": "permit", "provision": wide})), &reading), Err(ConsentError::TooLarge));
    let codes: Vec<Value> = (0..500).map(|number| concept(LOINC, &number.to_string())).collect();
    let heirs: Vec<Value> = (0..200).map(|_| json!({"type": "deny"})).collect();
    assert_eq!(
        Consent::read(&consent(json!({"type": "permit", "code": codes, "provision": heirs})), &reading),
        Err(ConsentError::TooLarge)
    );
    assert_eq!(Consent::read(&json!({"resourceType": "Patient"}), &reading), Err(ConsentError::NotAConsent));
    assert_eq!(read(&consent(json!("permit"))).provisions.len(), 0);
    assert!(Interval::MIN < read(&consent(json!({"type": "permit"}))).given);
}

/// `docs/access.md` tells of Asha; what it says is what is decided.
#[test]
fn the_worked_example_of_the_documentation_is_true() {
    let page = include_str!("../../../../docs/access.md");
    let block: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("    { \"resourceType\": \"Consent\""))
        .take_while(|line| line.starts_with("    "))
        .collect();
    let asha: Value = serde_json::from_str(&block.join("\n")).unwrap();
    let asks = |organisations: &[&str], purposes: &[&str], now: &str| Requester {
        organisations: organisations.iter().map(|name| (*name).to_owned()).collect(),
        purposes: purposes.iter().map(|code| Coding::purpose(code)).collect(),
        ..Requester::unknown(at(now))
    };
    let (centre, mnazi) = (["Organization/centre", "Organization/district"], ["urn:lango:facility|mnazi", "Organization/district"]);
    let viral_load = labelled(&[(ACT_CODE, "HIV"), (CONFIDENTIALITY, "R")]);
    for (requester, malaria, hiv) in [
        (asks(&centre, &["TREAT"], "2026-06-15"), true, false),
        (asks(&mnazi, &["TREAT"], "2026-06-15"), true, true),
        (asks(&mnazi, &["ETREAT"], "2026-06-15"), true, true),
        (asks(&mnazi, &["HRESCH"], "2026-06-15"), false, false),
        (asks(&mnazi, &["TREAT", "HRESCH"], "2026-06-15"), false, false),
        (asks(&["Organization/elsewhere"], &["TREAT"], "2026-06-15"), false, false),
        (asks(&mnazi, &["TREAT"], "2026-12-31T23:59:59Z"), true, true),
        (asks(&mnazi, &["TREAT"], "2027-01-01"), false, false),
    ] {
        let released = |resource: &Value| ask(&[read(&asha)], &requester, resource, &Deployment::default()).released;
        assert_eq!((released(&observation()), released(&viral_load)), (malaria, hiv), "{requester:?}");
    }
}

#[test]
fn what_a_permit_below_two_denies_releases_might_be_released() {
    let permit = json!({"type": "permit"});
    let deny = json!({"type": "deny", "code": [concept(LOINC, "1-1")], "provision": [permit]});
    let consents = [read(&consent(json!({"type": "deny", "provision": [deny]})))];
    let requester = requester();
    assert!(ask(&consents, &requester, &observation(), &Deployment::default()).released);
    assert!(might_release(&consents, &requester, "Observation", &BTreeSet::new(), &Deployment::default()));
}
