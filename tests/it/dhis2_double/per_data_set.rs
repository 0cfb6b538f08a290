//! The import from 2.43: names are decoded first (one that cannot be fails everything), then the whole is judged against one data set,
//! then single values by their type.

use super::model::{DEFAULT_COMBO, DEFAULT_OPTION_COMBO, Key, Options, Period, Server, Summary, fits, has_element};
use jiff::Span;
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Decoded {
    index: i64,
    key: Key,
    value: Option<String>,
    deleted: bool,
}

/// An error code and what it is about.
type Refusal = (&'static str, String);

pub fn import(server: &mut Server, payload: &Value, options: &Options) -> Summary {
    let (data_set, values) = match decode(server, payload, options) {
        Ok(decoded) => decoded,
        Err(refusal) => return refused(refusal, vec![-1]),
    };
    let entered = values.len() as u64;
    if entered == 0 {
        return Summary { status: "SUCCESS", description: "Import process completed successfully".into(), ..Summary::default() };
    }
    let indexes: Vec<i64> = values.iter().map(|value| value.index).collect();
    let data_set = match data_set.map_or_else(|| only_data_set(server, &values), Ok) {
        Ok(set) => set,
        Err(refusal) => return refused(refusal, indexes),
    };
    let judged = access(server, &data_set, &values)
        .and_then(|()| keys(server, &data_set, &values))
        .and_then(|()| timeliness(server, &data_set, &values));
    if let Err(refusal) = judged {
        return refused(refusal, indexes);
    }
    let mut summary = Summary::default();
    let mut sound = Vec::new();
    for value in values {
        let element = server.find("dataElements", "id", &value.key.element).unwrap();
        let kind = element["valueType"].as_str().unwrap_or_default();
        let error = match value.value.as_deref().filter(|text| !text.is_empty()) {
            None if !value.deleted => Some("E8120"),
            Some(text) if !value.deleted && !fits(text, kind) => Some("E8122"),
            _ => None,
        };
        match error {
            Some(code) => {
                summary.conflicts.push(conflict(code, &value.key.element, &[value.index]));
                summary.rejected.push(value.index);
            }
            None => sound.push(value),
        }
    }
    if options.atomic && (sound.len() as u64) < entered {
        return refused(("E8000", format!("{} of {entered}", sound.len())), indexes);
    }
    let succeeded = sound.len() as u64;
    let all_deleted = options.strategy == "DELETE";
    if !options.dry_run {
        for value in sound {
            match value.deleted || all_deleted {
                true => server.values.remove(&value.key),
                false => server.values.insert(value.key, value.value.unwrap_or_default()),
            };
        }
    }
    summary.ignored = entered - succeeded;
    *(if all_deleted { &mut summary.deleted } else { &mut summary.updated }) = succeeded;
    summary.status = match (summary.conflicts.is_empty(), succeeded) {
        (true, _) => "SUCCESS",
        (false, 0) => "ERROR",
        (false, _) => "WARNING",
    };
    summary.description = "Import process completed successfully".into();
    if let (Some(date), true) = (payload["completeDate"].as_str(), summary.ignored == 0 && !options.dry_run)
        && let (Some(period), Some(unit)) = (payload["period"].as_str(), payload["orgUnit"].as_str())
    {
        server.completed.insert((data_set, period.into(), unit.into()), date.into());
        summary.complete = Some(date.into());
    }
    summary
}

fn conflict(code: &str, about: &str, indexes: &[i64]) -> Value {
    json!({"objects": {"args": about}, "value": format!("{code}: {about}"), "errorCode": code, "indexes": indexes})
}

/// Nothing is stored, and nothing counted.
fn refused((code, about): Refusal, indexes: Vec<i64>) -> Summary {
    Summary {
        status: "ERROR",
        conflicts: vec![conflict(code, &about, &indexes)],
        rejected: indexes.into_iter().filter(|i| *i >= 0).collect(),
        ..Summary::default()
    }
}

fn decode(server: &Server, payload: &Value, options: &Options) -> Result<(Option<String>, Vec<Decoded>), Refusal> {
    let uid = |object: &Value| object["id"].as_str().unwrap().to_owned();
    let data_set = match payload["dataSet"].as_str() {
        Some(name) => Some(uid(options.find(server, "dataSetIdScheme", "dataSets", name).ok_or(("E8005", name.to_owned()))?)),
        None => None,
    };
    let mut values = Vec::new();
    let mut keys = BTreeSet::new();
    for (index, value) in payload["dataValues"].as_array().into_iter().flatten().enumerate() {
        let own = |key: &str| value[key].as_str().or(payload[key].as_str());
        let period = own("period").ok_or(("E8100", format!("{index}")))?.to_owned();
        let name = value["dataElement"].as_str().ok_or(("E8102", format!("{index}")))?;
        let element =
            uid(options.find(server, "dataElementIdScheme", "dataElements", name).ok_or(("E8103", format!("{index}, {name}")))?);
        let name = own("orgUnit").ok_or(("E8105", format!("{index}")))?;
        let org_unit =
            uid(options.find(server, "orgUnitIdScheme", "organisationUnits", name).ok_or(("E8107", format!("{index}, {name}")))?);
        let combo = |scheme, code, name: Option<&str>| match name.filter(|name| !name.is_empty()) {
            None => Ok(DEFAULT_OPTION_COMBO.to_owned()),
            Some(name) => options.find(server, scheme, "categoryOptionCombos", name).map(uid).ok_or((code, format!("{index}, {name}"))),
        };
        let option_combo = combo("categoryOptionComboIdScheme", "E8108", value["categoryOptionCombo"].as_str())?;
        let attribute_combo = combo("attributeOptionComboIdScheme", "E8110", own("attributeOptionCombo"))?;
        let key = Key { element, period, org_unit, option_combo, attribute_combo };
        if !keys.insert(key.clone()) {
            return Err(("E8128", format!("{index}")));
        }
        let deleted = value["deleted"].as_bool().unwrap_or(false);
        values.push(Decoded { index: index as i64, key, value: value["value"].as_str().map(str::to_owned), deleted });
    }
    Ok((data_set, values))
}

fn only_data_set(server: &Server, values: &[Decoded]) -> Result<String, Refusal> {
    let sets: BTreeSet<&str> =
        values.iter().flat_map(|v| server.data_sets_of(&v.key.element)).filter_map(|set| set["id"].as_str()).collect();
    match sets.iter().collect::<Vec<_>>().as_slice() {
        [] => Err(("E8003", "no data set has these elements".into())),
        [only] => Ok(only.to_string()),
        several => Err(("E8002", format!("{several:?}"))),
    }
}

fn access(server: &Server, data_set: &str, values: &[Decoded]) -> Result<(), Refusal> {
    if !server.user.may_write {
        return Err(("E8010", data_set.into()));
    }
    let hidden = values.iter().find(|v| !server.below_user(server.find("organisationUnits", "id", &v.key.org_unit).unwrap()));
    hidden.map_or(Ok(()), |v| Err(("E8011", v.key.org_unit.clone())))
}

fn keys(server: &Server, data_set: &str, values: &[Decoded]) -> Result<(), Refusal> {
    let set = server.find("dataSets", "id", data_set).unwrap();
    let first = |bad: &dyn Fn(&Decoded) -> bool| values.iter().find(|v| bad(v));
    if let Some(v) = first(&|v| !has_element(set, &v.key.element)) {
        return Err(("E8020", v.key.element.clone()));
    }
    let assigned = |unit: &str| set["organisationUnits"].as_array().is_some_and(|units| units.iter().any(|u| u["id"] == unit));
    if let Some(v) = first(&|v| !assigned(&v.key.org_unit)) {
        return Err(("E8022", v.key.org_unit.clone()));
    }
    if let Some(v) = first(&|v| Period::parse(&v.key.period).is_none_or(|p| set["periodType"] != p.kind)) {
        return Err(("E8021", v.key.period.clone()));
    }
    let belongs = |option_combo: &str, combo: &str| {
        server.find("categoryOptionCombos", "id", option_combo).is_some_and(|c| c["categoryCombo"]["id"] == combo)
    };
    let set_combo = set["categoryCombo"]["id"].as_str().unwrap_or(DEFAULT_COMBO);
    if let Some(v) = first(&|v| !belongs(&v.key.attribute_combo, set_combo)) {
        return Err(("E8023", v.key.attribute_combo.clone()));
    }
    let wrong = |v: &Decoded| {
        let element = server.find("dataElements", "id", &v.key.element).unwrap();
        !belongs(&v.key.option_combo, &server.combo_of(Some(set), element))
    };
    if let Some(v) = first(&wrong) {
        return Err(("E8024", format!("{}, {}", v.key.element, v.key.option_combo)));
    }
    let closed = |v: &Decoded| {
        let unit = server.find("organisationUnits", "id", &v.key.org_unit).unwrap();
        let day = |key: &str| unit[key].as_str().and_then(|d| d.get(..10)).and_then(|d| d.parse().ok());
        let first = Period::parse(&v.key.period).unwrap().first;
        day("openingDate").is_some_and(|opened: jiff::civil::Date| first < opened) || day("closedDate").is_some_and(|closed| first > closed)
    };
    first(&closed).map_or(Ok(()), |v| Err(("E8031", v.key.org_unit.clone())))
}

fn timeliness(server: &Server, data_set: &str, values: &[Decoded]) -> Result<(), Refusal> {
    let set = server.find("dataSets", "id", data_set).unwrap();
    let slot = |v: &Decoded| (data_set.to_owned(), v.key.period.clone(), v.key.org_unit.clone());
    let inputs = set["dataInputPeriods"].as_array().cloned().unwrap_or_default();
    let expiry = set["expiryDays"].as_i64().unwrap_or(0);
    let untimely = |v: &&Decoded| {
        let period = Period::parse(&v.key.period).unwrap();
        if !inputs.is_empty() {
            return !inputs.iter().any(|input| input["period"]["id"] == v.key.period.as_str());
        }
        let late = expiry > 0
            && period.last.checked_add(Span::new().days(expiry)).unwrap() < server.today
            && !server.lock_exceptions.contains(&slot(v));
        let early = period.first > period.latest_open(server.today, set["openFuturePeriods"].as_i64().unwrap_or(0));
        late || expiry >= 0 && early
    };
    if let Some(v) = values.iter().find(untimely) {
        return Err(("E8030", format!("{data_set}, {}", v.key.period)));
    }
    match values.iter().find(|v| set["workflow"].is_object() && server.approved.contains(&slot(v))) {
        Some(v) => Err(("E8033", v.key.period.clone())),
        None => Ok(()),
    }
}
