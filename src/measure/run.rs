//! Measures run over the store: all facilities in one pass.

use super::MeasureError;
use super::fold::{Counts, Fold, Uncounted};
use super::period::ReportPeriod;
use super::plan::{MeasurePlan, Terms, list, text};
use super::report::{Facility, report};
use crate::access::MAX_FACILITY_CODE;
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::store::query::{Filter, Query, SystemTest, Test};
use crate::store::{FacilityKey, Scope, Store};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a run needs of the deployment.
pub struct Setting<'a> {
    pub store: &'a Store,
    pub terms: &'a dyn Terms,
    /// The zone in which days begin; the one that dates were indexed in.
    pub zone: &'a TimeZone,
    /// The system of facilities' codes, such as `urn:lango:facility`.
    pub facility_system: &'a str,
    /// The code that the operator's own organisation reports under.
    pub operator_code: &'a str,
    /// What the caller may see, and so what is counted.
    pub scope: &'a Scope,
}

/// A request to evaluate a measure, however it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub period: ReportPeriod,
    /// The facility's code; `None`: every facility.
    pub facility: Option<String>,
}

/// A report, and the facility that owns it.
#[derive(Clone, Debug)]
pub struct Counted {
    pub owner: FacilityKey,
    pub report: Value,
}

impl Request {
    /// Reads the parameters of `$evaluate-measure` (<https://hl7.org/fhir/R4/measure-operation-evaluate-measure.html>) as names
    /// and values. `subject` (or `reporter`) names a facility: `SYSTEM|CODE`, its code, or `Organization/…` is refused, since a
    /// facility is known by its identifier. Only population reports are made. `measure` is for whoever looks the Measure up. A name may
    /// come twice when it says the same.
    pub fn from_parameters<'p>(
        parameters: impl IntoIterator<Item = (&'p str, &'p str)>,
        facility_system: &str,
    ) -> Result<Request, Vec<Issue>> {
        let (mut start, mut end, mut facility) = (None, None, None);
        let mut issues = Vec::new();
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in parameters {
            match given.insert(name, value) {
                Some(before) if before == value => continue,
                Some(_) => {
                    issues.push(Issue::error(IssueCode::Duplicate, format!("{name} is given twice and says different things.")).at(name))
                }
                None => {}
            }
            match name {
                "periodStart" => start = Some(value),
                "periodEnd" => end = Some(value),
                "subject" | "reporter" => match value.split_once('|') {
                    Some((system, code)) if system == facility_system => facility = Some(code),
                    None if !value.contains('/') => facility = Some(value),
                    _ => {
                        let words = format!("{name} must be a facility's code, or {facility_system}|CODE.");
                        issues.push(Issue::error(IssueCode::NotSupported, words).at(name));
                    }
                },
                "reportType" if matches!(value, "population" | "summary") => {}
                "reportType" => {
                    issues.push(Issue::error(IssueCode::NotSupported, "Only reports of type population are made.").at("reportType"));
                }
                "measure" | "_format" | "_pretty" => {}
                other => {
                    let words = format!("The parameter {other} is not supported; leave it out.");
                    issues.push(Issue::error(IssueCode::NotSupported, words).at(other));
                }
            }
        }
        let mut required = |value: Option<&'p str>, name: &str| {
            if value.is_none() {
                issues.push(Issue::error(IssueCode::Required, format!("{name} is required: a date such as 2026-09.")).at(name));
            }
            value
        };
        let (start, end) = (required(start, "periodStart"), required(end, "periodEnd"));
        let period = start.zip(end).map(|(start, end)| ReportPeriod::between(start, end));
        match period {
            Some(Ok(period)) if issues.is_empty() => Ok(Request { period, facility: facility.map(str::to_owned) }),
            Some(Err(issue)) => {
                issues.push(issue);
                Err(issues)
            }
            _ => Err(issues),
        }
    }
}

/// The names and values of a Parameters resource, references by what they say. Other parts (lists, resources) come as empty text.
pub fn named_values(parameters: &Value) -> Result<Vec<(String, String)>, Vec<Issue>> {
    if text(parameters, "resourceType") != Some("Parameters") {
        return Err(vec![Issue::error(IssueCode::Structure, "The body must be a Parameters resource.").at("Parameters")]);
    }
    let named =
        list(parameters, "parameter").iter().filter_map(|p| Some((text(p, "name")?.to_owned(), parameter_value(p).unwrap_or_default())));
    Ok(named.collect())
}

/// `value[x]` as text; a reference by its address, or `SYSTEM|VALUE` of its identifier.
fn parameter_value(parameter: &Value) -> Option<String> {
    let (_, value) = parameter.as_object()?.iter().find(|(key, _)| key.starts_with("value"))?;
    let identifier = value.get("identifier").unwrap_or(value);
    let identified = || Some(format!("{}|{}", text(identifier, "system")?, text(identifier, "value")?));
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => value.as_str().or_else(|| text(value, "reference")).map(str::to_owned).or_else(identified),
    }
}

/// What `$evaluate-measure` answers: the report of the one facility asked for, or a collection of all.
pub fn answer(request: &Request, reports: Vec<Value>) -> Value {
    let mut reports = reports;
    match (&request.facility, reports.len()) {
        (Some(_), 1) => reports.pop().unwrap_or_default(),
        _ => {
            let entries: Vec<Value> = reports.into_iter().map(|report| json!({ "resource": report })).collect();
            json!({"resourceType": "Bundle", "type": "collection", "entry": entries})
        }
    }
}

/// Evaluates `measure`: one report for every facility that is registered or contributed something, or for the one asked for.
pub async fn run(setting: &Setting<'_>, measure: &Value, request: &Request) -> Result<Vec<Counted>, MeasureError> {
    let plan = MeasurePlan::compile(measure, setting.terms).map_err(MeasureError::Refused)?;
    let mut facilities = registered(setting, request.facility.as_deref()).await?;
    let scope = match &request.facility {
        // What patients allow a facility to read is not its own to count.
        None => match setting.scope {
            Scope::All => Scope::All,
            scope => Scope::Owners(scope.owners().to_vec()),
        },
        Some(_) => match facilities.keys().next() {
            Some(key) => Scope::Owners(vec![*key]),
            None => {
                let words = "No facility with this code is registered. Check the code, or send something from the facility first.";
                return Err(MeasureError::Refused(vec![Issue::error(IssueCode::NotFound, words).at("subject")]));
            }
        },
    };
    let mut query = plan.fact_query(request.period, setting.zone, scope).ok_or_else(|| {
        MeasureError::Refused(vec![Issue::error(IssueCode::Value, "The period is outside of what dates can say.").at("periodStart")])
    })?;
    // A record may name anybody's Patient or visit: what these are, the counts would tell.
    query.followed = (*setting.scope != Scope::All).then(|| setting.scope.owners().to_vec());
    let mut fold = Fold::new(plan.tables(), request.period, setting.zone, |system, code| plan.classify(setting.terms, system, code));
    setting.store.facts(&query, &mut |fact| fold.add(&fact)).await?;
    let mut counted = fold.finish();
    if request.facility.is_none() {
        // A facility that others only name, as where they refer to, reports nothing: not even zeros.
        let senders = setting.store.contributors(query.base.type_code).await?;
        facilities.retain(|key, _| senders.contains(key) || counted.contains_key(key));
    }
    for owner in counted.keys() {
        if !facilities.contains_key(owner) && request.facility.is_none() {
            let code = setting.store.facility_code(*owner).await?.unwrap_or_else(|| setting.operator_code.to_owned());
            facilities.insert(*owner, Facility { system: setting.facility_system.to_owned(), code, name: None });
        }
    }
    let reports = facilities.into_iter().map(|(owner, facility)| {
        let (counts, uncounted) = counted.remove(&owner).unwrap_or_else(|| (Counts::zero(plan.tables()), Uncounted::default()));
        Counted { owner, report: report(&plan, &facility, request.period, &counts, uncounted) }
    });
    Ok(reports.collect())
}

/// The facilities that the caller may see: Organizations with a facility code. `code` narrows to one.
async fn registered(setting: &Setting<'_>, code: Option<&str>) -> Result<BTreeMap<FacilityKey, Facility>, MeasureError> {
    let r4 = definitions::r4();
    let (Some(type_code), Some(identifier)) =
        (r4.type_code("Organization"), r4.type_code("Organization").and_then(|t| r4.param(t, "identifier")))
    else {
        return Ok(BTreeMap::new());
    };
    let test = Test::Token { system: SystemTest::Is(setting.facility_system.to_owned()), code: code.map(str::to_owned) };
    let filters = vec![Filter::Param { param: identifier.id, tests: vec![test] }];
    let query = Query { type_code, filters, scope: setting.scope.clone(), sort: Vec::new() };
    let mut facilities = BTreeMap::new();
    let mut cursor = None;
    loop {
        let page = setting.store.search(&query, 500, cursor.as_ref()).await?;
        for row in &page.rows {
            let Some(organization) = row.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) else { continue };
            for identifier in list(&organization, "identifier") {
                let Some(value) = text(identifier, "value").filter(|v| code.is_none_or(|code| code == *v)) else { continue };
                if text(identifier, "system") != Some(setting.facility_system) || value.len() > MAX_FACILITY_CODE {
                    continue;
                }
                // The operator's own organisation has no number but 0, whatever its code.
                let known = if value == setting.operator_code { Some(0) } else { setting.store.known_facility(value).await? };
                // Nobody ever sent anything in its name: it has no number, and its report would belong to nobody.
                let Some(key) = known else { continue };
                let visible = *setting.scope == Scope::All || setting.scope.owners().contains(&key);
                if visible {
                    let name = text(&organization, "name").map(str::to_owned);
                    facilities.insert(key, Facility { system: setting.facility_system.to_owned(), code: value.to_owned(), name });
                }
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(facilities);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = "urn:lango:facility";

    fn read(pairs: &[(&str, &str)]) -> Result<Request, Vec<String>> {
        Request::from_parameters(pairs.iter().copied(), SYSTEM).map_err(|issues| issues.into_iter().map(|i| i.expression).collect())
    }

    #[test]
    fn partial_dates_widen_to_whole_periods() {
        let month = Request { period: ReportPeriod::parse("2026-09").unwrap(), facility: None };
        assert_eq!(read(&[("periodStart", "2026-09"), ("periodEnd", "2026-09")]), Ok(month.clone()));
        assert_eq!(read(&[("periodStart", "2026-09-01"), ("periodEnd", "2026-09-30"), ("reportType", "population")]), Ok(month));
    }

    #[test]
    fn a_facility_is_named_by_its_identifier() {
        let facility = |value| read(&[("periodStart", "2026"), ("periodEnd", "2026"), ("subject", value)]).map(|r| r.facility);
        assert_eq!(facility("100000-0"), Ok(Some("100000-0".into())));
        assert_eq!(facility("urn:lango:facility|100000-0"), Ok(Some("100000-0".into())));
        assert_eq!(facility("Patient/1"), Err(vec!["subject".into()]));
        assert_eq!(facility("urn:other|1"), Err(vec!["subject".into()]));
    }

    #[test]
    fn every_problem_of_a_request_is_named_at_once() {
        assert_eq!(
            read(&[("periodStart", "2026"), ("reportType", "subject"), ("practitioner", "x")]),
            Err(vec!["reportType".into(), "practitioner".into(), "periodEnd".into()])
        );
        assert_eq!(read(&[("periodStart", "2026-10"), ("periodEnd", "2026-09")]), Err(vec!["periodEnd".into()]));
    }

    #[test]
    fn a_parameters_resource_says_the_same() {
        let resource = json!({"resourceType": "Parameters", "parameter": [
            {"name": "periodStart", "valueDate": "2026-09-01"}, {"name": "periodEnd", "valueDate": "2026-09-30"},
            {"name": "subject", "valueReference": {"identifier": {"system": SYSTEM, "value": "100000-0"}}}]});
        let named = named_values(&resource).unwrap();
        let pairs: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut twice = pairs.clone();
        twice.extend([("subject", "urn:lango:facility|100000-0"), ("measure", "opd")]);
        assert_eq!(read(&pairs).unwrap().facility.as_deref(), Some("100000-0"));
        assert_eq!(read(&twice), read(&pairs), "the same said twice");
        twice.push(("periodEnd", "2026-10"));
        assert_eq!(read(&twice), Err(vec!["periodEnd".into()]), "two different ends");
        assert!(named_values(&json!({"resourceType": "Patient"})).is_err());
    }
}
