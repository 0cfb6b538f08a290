//! The decision table: every criterion, each as the exception of a permit (it denies) and of a deny (it permits), in the root of both, and
//! each row by both readings of the rules.
//!
//! | rows | test |
//! |---|---|
//! | period: closed, open, in the future, over, first and last instant | `request::period` |
//! | a date without a zone | `request::a_date_without_a_zone_is_read_in_the_deployments_zone` |
//! | each status, scope, verification; entered in error | `request::status_scope_patient_and_verification`, `together::several_consents` |
//! | person, organisation, its parent, group, device, role, wrong role | `request::actor` |
//! | action | `request::action` |
//! | purpose: the same, its parent, unknown, absent, BTG | `request::purpose`, `request::without_a_purpose_no_permit_applies_and_every_deny_does` |
//! | dataPeriod: its edges, no date, a Period over the edge | `resource::data_period` |
//! | class: type, profile, type of document | `resource::class` |
//! | code: in its system, in another, one of several codings, words, value set | `resource::code` |
//! | label: each level, sensitivities, unlabelled, inherited | `resource::security_label`, `resource::a_label_is_inherited_from_what_the_resource_came_in` |
//! | data: instance, related, dependents, authoredby | `resource::data` |
//! | what is not understood | `together::what_is_not_understood` |
//! | two permits, permit and deny, the newer supersedes | `together::several_consents` |
//! | policyRule with and without a provision | `together::policy_rule` |
//! | nested one to four levels | `together::nesting` |
//! | merged after the consent was given | `together::merged_patients_are_under_both_their_consents` |
//! | given by a guardian, the minor comes of age | `together::a_guardians_permit_ends_when_the_patient_is_of_age` |
//! | an emergency, and its end | `beyond::break_glass` |
//! | the deployment's policy | `beyond::the_deployments_policy_holds_where_no_consent_speaks` |

mod beyond;
mod request;
mod resource;
mod together;

use super::{BASE, ZONE};
use crate::access::consent::vocabulary::{ACT_CODE, ACT_REASON, CONFIDENTIALITY, Coding, LANGO_ROLE, PARTICIPATION_TYPE};
use crate::access::consent::*;
use crate::fhir::series::Place;
use crate::fhir::time::{Micros, parse_interval};
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

/// `former`: where it stood before.
fn read_after(consent: &Value, of_age: Option<Micros>, former: &[Place]) -> Consent {
    let value_set = |url: &str| (url == SET).then(|| vec![Coding::new(LOINC, "1-1"), Coding::new(LOINC, "2-2")]);
    let references_of = |name: &str| match name {
        "CarePlan/plan" => vec![Reached { name: "Observation/o".to_owned(), follows: true }],
        "CarePlan/theirs" => vec![Reached { name: "Observation/o".to_owned(), follows: false }],
        _ => Vec::new(),
    };
    // urn:mfl|88 is B's, by what the directory says; whose other numbers of that system are nobody knows.
    let called = |name: &Name| match name.as_str() {
        "urn:mfl|88" => Some(vec!["Organization/b".to_owned()]),
        name => (!name.starts_with("urn:mfl|")).then(Vec::new),
    };
    let organisation = |names: Vec<Name>| {
        let other = names.iter().any(|name| name == "urn:mfl|o").then(|| "Organization/o".to_owned());
        names.into_iter().chain(other).collect()
    };
    let stored = consent.pointer("/meta/lastUpdated").and_then(Value::as_str);
    let reading = Reading {
        zone: &ZONE,
        base: BASE,
        value_set: &value_set,
        references_of: &references_of,
        called: &called,
        organisation: &organisation,
        former,
        recorded: at(stored.unwrap_or("2026-03-01")),
        of_age,
    };
    Consent::read(consent, &reading).unwrap()
}

fn read_of_age(consent: &Value, of_age: Option<Micros>) -> Consent {
    read_after(consent, of_age, &[])
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
    let compiled: Vec<Compiled> = in_force(consents).iter().map(|consent| compile(consent)).collect();
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
