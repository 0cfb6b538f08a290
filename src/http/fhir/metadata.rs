//! The CapabilityStatement: what there is, and nothing else (<https://hl7.org/fhir/R4/http.html#capabilities>).

use super::super::error::Failure;
use super::super::state::FhirState;
use super::answer::Answer;
use crate::config::AuthMode;
use crate::definitions;
use crate::search::own::Own;
use crate::search::{ParseOptions, capability, subset};
use crate::validate::shipped_profiles;
use arc_swap::ArcSwapOption;
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// (type, `Resource` for all types or `System`, name without the dollar sign, canonical of its OperationDefinition)
const OPERATIONS: [(&str, &str, &str); 16] = [
    ("Measure", "evaluate-measure", "http://hl7.org/fhir/OperationDefinition/Measure-evaluate-measure"),
    ("ConceptMap", "translate", "http://hl7.org/fhir/OperationDefinition/ConceptMap-translate"),
    ("CodeSystem", "lookup", "http://hl7.org/fhir/OperationDefinition/CodeSystem-lookup"),
    ("CodeSystem", "validate-code", "http://hl7.org/fhir/OperationDefinition/CodeSystem-validate-code"),
    ("CodeSystem", "subsumes", "http://hl7.org/fhir/OperationDefinition/CodeSystem-subsumes"),
    ("ValueSet", "expand", "http://hl7.org/fhir/OperationDefinition/ValueSet-expand"),
    ("ValueSet", "validate-code", "http://hl7.org/fhir/OperationDefinition/ValueSet-validate-code"),
    ("Patient", "everything", "http://hl7.org/fhir/OperationDefinition/Patient-everything"),
    ("Patient", "disclosures", "https://lango.health/fhir/OperationDefinition/Patient-disclosures"),
    ("Patient", "record-lookup", "https://lango.health/fhir/OperationDefinition/Patient-record-lookup"),
    ("Resource", "validate", "http://hl7.org/fhir/OperationDefinition/Resource-validate"),
    ("Resource", "meta", "http://hl7.org/fhir/OperationDefinition/Resource-meta"),
    ("Resource", "meta-add", "http://hl7.org/fhir/OperationDefinition/Resource-meta-add"),
    ("Resource", "meta-delete", "http://hl7.org/fhir/OperationDefinition/Resource-meta-delete"),
    ("Resource", "expunge", "https://lango.health/fhir/OperationDefinition/Resource-expunge"),
    ("System", "reindex", "https://lango.health/fhir/OperationDefinition/reindex"),
];

/// (type, canonical URL) of the profiles that canonical resources claim.
static PROFILES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let text = |profile: &Value, key: &str| profile.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    shipped_profiles().iter().map(|profile| (text(profile, "type"), text(profile, "url"))).collect()
});

const COMPARTMENTS: [&str; 5] = ["patient", "encounter", "practitioner", "relatedPerson", "device"];

/// The statement, or as much of it as `_summary` and `_elements` ask for.
pub fn told(state: &FhirState, pairs: &[(String, String)]) -> Result<Answer, Failure> {
    let answer = statement(state);
    let Some(type_code) = definitions::r4().type_code("CapabilityStatement") else { return Ok(answer) };
    let options = ParseOptions::new(state.base_url(), state.zone.clone());
    let whole = answer.body.as_deref().unwrap_or_default();
    let less = subset::of_read(type_code, whole, pairs, &options).map_err(|issues| Failure::of_issues(StatusCode::BAD_REQUEST, issues))?;
    Ok(match less {
        Some(less) => Answer { body: Some(less.into()), ..answer },
        None => answer,
    })
}

/// The statement as it was last made, with the operator's own search parameters that it tells of: a megabyte that takes milliseconds to make, for
/// everybody who asks and without a login.
pub type Made = Arc<ArcSwapOption<(Arc<Own>, Bytes)>>;

fn statement(state: &FhirState) -> Answer {
    let own = state.writer.options().own.load();
    if let Some(made) = state.statement.load().as_deref()
        && Arc::ptr_eq(&made.0, &own)
    {
        return Answer::ok(made.1.clone());
    }
    let body = Bytes::from(make(state, &own));
    state.statement.store(Some(Arc::new((own, body.clone()))));
    Answer::ok(body)
}

fn make(state: &FhirState, own: &Own) -> String {
    let mut resources = capability::rest_resources(own);
    for resource in &mut resources {
        let name = resource.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let operations = operations(|on, _| on == name || on == "Resource");
        if let Some(members) = resource.as_object_mut() {
            let profiles: Vec<&str> = PROFILES.iter().filter(|(of, _)| *of == name).map(|(_, url)| &**url).collect();
            if !profiles.is_empty() {
                members.insert("supportedProfile".to_owned(), json!(profiles));
            }
            members.insert("updateCreate".to_owned(), json!(state.settings.update_create));
            if state.settings.limits.delete_matches > 1 {
                members.insert("conditionalDelete".to_owned(), json!("multiple"));
            }
            members.insert("operation".to_owned(), operations);
        }
    }
    let operator = &state.settings.operator;
    let mut rest = json!({
        "mode": "server",
        "documentation": "Resources are owned by the facility that first sent them. A put that changes nothing makes no new version. A delete of what is not there succeeds. Transactions report every problem of every entry at once.",
    });
    if let Some(members) = rest.as_object_mut() {
        members.insert("security".to_owned(), security(state));
        members.insert(
            "compartment".to_owned(),
            COMPARTMENTS.map(|name| format!("http://hl7.org/fhir/CompartmentDefinition/{name}")).as_slice().into(),
        );
        members.insert("resource".to_owned(), Value::Array(resources));
        members.insert("searchParam".to_owned(), everywhere(state));
        members.insert(
            "interaction".to_owned(),
            json!([{ "code": "transaction" }, { "code": "batch" }, { "code": "search-system" }, { "code": "history-system" }]),
        );
        // Of the whole server: those of its own, and of all types those that need no resource.
        let whole = |on: &str, name: &str| on == "System" || on == "Resource" && matches!(name, "meta" | "expunge" | "validate");
        members.insert("operation".to_owned(), operations(whole));
    }
    let statement = json!({
        "resourceType": "CapabilityStatement",
        "text": {
            "status": "generated",
            "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">What this lango server does: FHIR R4, every resource type, every search parameter.</div>",
        },
        "name": "Lango",
        "status": "active",
        "date": "2026-11-21",
        "publisher": operator.name,
        "kind": "instance",
        "software": { "name": "lango", "version": env!("CARGO_PKG_VERSION") },
        "implementation": { "description": format!("lango at {}", operator.name), "url": state.base_url() },
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "patchFormat": ["application/json-patch+json", "application/merge-patch+json", "application/fhir+json", "application/fhir+xml"],
        "rest": [rest],
    });
    statement.to_string()
}

/// What every type can be searched by besides its own parameters.
fn everywhere(state: &FhirState) -> Value {
    let special = |name: &str, words: &str| json!({ "name": name, "type": "special", "documentation": words });
    let any_type = definitions::r4().type_code("Patient").unwrap_or_default();
    let common = ["_id", "_lastUpdated", "_profile", "_security", "_source", "_tag"].into_iter();
    let common = common.filter_map(|code| definitions::r4().param(any_type, code));
    let mut list: Vec<Value> =
        common.map(|param| json!({ "name": param.code, "definition": param.definition, "type": param.kind.as_str() })).collect();
    list.extend([
        special("_has", "_has:Type:reference-parameter:parameter, nested up to 8 deep"),
        special("_list", "ids of Lists; no functional lists"),
        special("_filter", "every operator; no […] in a path"),
    ]);
    if state.settings.search.full_text {
        list.extend([special("_text", "words of the narrative"), special("_content", "words of the whole resource")]);
    }
    Value::Array(list)
}

fn operations(wanted: impl Fn(&str, &str) -> bool) -> Value {
    let wanted = OPERATIONS.iter().filter(|(on, name, _)| wanted(on, name));
    wanted.map(|(_, name, definition)| json!({ "name": name, "definition": definition })).collect()
}

fn security(state: &FhirState) -> Value {
    match state.settings.auth {
        AuthMode::Open => json!({ "cors": false, "description": "Open on the loopback address: every caller has full rights." }),
        AuthMode::Smart => {
            let root = state.base_url().strip_suffix("/fhir").unwrap_or(state.base_url());
            json!({
                "cors": !state.settings.cors.origins.is_empty(),
                "service": [{ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR" }] }],
                "extension": [{
                    "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                    "extension": [
                        { "url": "token", "valueUri": format!("{root}/auth/token") },
                        { "url": "authorize", "valueUri": format!("{root}/auth/authorize") },
                        { "url": "introspect", "valueUri": format!("{root}/auth/introspect") },
                        { "url": "revoke", "valueUri": format!("{root}/auth/revoke") },
                    ],
                }],
            })
        }
    }
}
