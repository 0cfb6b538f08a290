//! Whose the entries are, and what came of each holder.

use super::super::super::error::Failure;
use super::super::Call;
use super::MOST_NAMED;
use crate::definitions;
use crate::exchange::holders::Gap;
use crate::store::query::{Filter, Query, SystemTest, Test};
use crate::store::{FacilityKey, Scope, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const OUTCOME: &str = "https://lango.health/fhir/CodeSystem/lookup-outcome";

/// What came of it, holder by holder. Those who have nothing, those whose records may not leave and those whom nobody knows read alike.
pub(super) async fn outcomes(
    sources: &mut Sources<'_>,
    holders: &[String],
    released: &[(FacilityKey, Option<i64>)],
    missing: &BTreeSet<(FacilityKey, Gap)>,
    glass: bool,
) -> Result<Value, Failure> {
    let told = |severity: &str, kind: &str, code: &str, text: &str, words: String| json!({ "severity": severity, "code": kind, "details": { "coding": [{ "system": OUTCOME, "code": code }], "text": text }, "diagnostics": words });
    let issue = |code: &str, text: &str, words: String| told("information", "informational", code, text, words);
    let mut issues = Vec::new();
    let mut named = BTreeSet::new();
    for (owner, records) in released {
        let source = sources.of(*owner).await?;
        let words = match records {
            Some(records) => format!("{}: {records} records.", source.code),
            None => format!("{}: records.", source.code),
        };
        issues.push(issue("released", &source.code, words));
        named.insert(source.code);
    }
    for (owner, gap) in missing {
        let source = sources.of(*owner).await?;
        let (kind, words) = match gap {
            Gap::NoAnswer => ("transient", "did not answer, so what it holds is missing here: ask again later."),
            Gap::Cut => ("incomplete", "has more than lango takes at once: ask for some types, or since a date."),
        };
        issues.push(told("warning", kind, gap.code(), &source.code, format!("{}: {words}", source.code)));
        named.insert(source.code);
    }
    for code in holders.iter().filter(|code| !named.contains(*code)).collect::<BTreeSet<_>>() {
        issues.push(issue("nothing-to-release", code, format!("{code}: nothing that may be released.")));
    }
    if glass {
        issues.push(issue("break-glass", "Opened in an emergency", "The patient and the privacy officer are told.".to_owned()));
    }
    let words = "What does not exist and what the patient does not release are not told apart.";
    match missing.is_empty() {
        true => issues.push(issue("complete", "All holders answered", words.to_owned())),
        false => issues.push(issue("partial", "Not all holders answered", words.to_owned())),
    }
    Ok(json!({ "resourceType": "OperationOutcome", "issue": issues }))
}

/// Facilities as entries name them.
pub(super) struct Sources<'a> {
    call: &'a Call<'a>,
    known: BTreeMap<FacilityKey, Source>,
}

#[derive(Clone)]
pub(super) struct Source {
    pub code: String,
    pub reference: Value,
}

impl<'a> Sources<'a> {
    pub fn new(call: &'a Call<'a>) -> Sources<'a> {
        Sources { call, known: BTreeMap::new() }
    }

    pub async fn of(&mut self, owner: FacilityKey) -> Result<Source, Failure> {
        if let Some(source) = self.known.get(&owner) {
            return Ok(source.clone());
        }
        let settings = &self.call.state.settings;
        let store = &self.call.state.store;
        let (code, name) = match owner {
            0 => (settings.operator.code.clone(), Some(settings.operator.name.clone())),
            owner => {
                let code = store.facility_code(owner).await?.unwrap_or_default();
                let name = facility_name(store, &settings.systems.facility, &code, owner).await?;
                (code, name)
            }
        };
        let mut reference = json!({ "type": "Organization", "identifier": { "system": settings.systems.facility, "value": code } });
        if let Some(name) = name {
            reference["display"] = json!(name);
        }
        let source = Source { code, reference };
        self.known.insert(owner, source.clone());
        Ok(source)
    }
}

/// The name in the facility's Organization, as the operator or the facility itself gives it.
async fn facility_name(store: &Store, system: &str, code: &str, owner: FacilityKey) -> Result<Option<String>, sqlx::Error> {
    let r4 = definitions::r4();
    let Some(type_code) = r4.type_code("Organization") else { return Ok(None) };
    let Some(param) = r4.param(type_code, "identifier") else { return Ok(None) };
    let test = Test::Token { system: SystemTest::Is(system.to_owned()), code: Some(code.to_owned()) };
    let filters = vec![Filter::Param { param: param.id, tests: vec![test] }];
    let query = Query { type_code, filters, scope: Scope::Owners(vec![0, owner]), sort: Vec::new() };
    let page = store.search(&query, MOST_NAMED as u32, None).await?;
    let believed = page.rows.iter().filter(|stored| stored.owner == 0 || stored.owner == owner).min_by_key(|stored| stored.owner);
    let organization: Option<Value> = believed.and_then(|stored| serde_json::from_slice(stored.body.as_ref()?).ok());
    Ok(organization.and_then(|organization| Some(organization.get("name")?.as_str()?.to_owned())))
}
