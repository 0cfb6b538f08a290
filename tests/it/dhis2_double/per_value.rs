//! The import up to 2.42: each value is judged by itself, in the order of DHIS2's validator; what passes is stored beside what does not.

use super::model::{DEFAULT_OPTION_COMBO, Key, Options, Period, Server, Summary, fits};
use jiff::Span;
use serde_json::{Value, json};

/// Why a value is not stored.
enum Refused {
    /// Error code, property, type and id of the objects concerned, words.
    Conflict(&'static str, &'static str, Vec<(&'static str, String)>, String),
    /// An insignificant zero, counted nowhere.
    Skipped,
}

struct Sound {
    key: Key,
    value: Option<String>,
    deleted: bool,
}

pub fn import(server: &mut Server, payload: &Value, options: &Options) -> Summary {
    let values: Vec<Value> = payload["dataValues"].as_array().cloned().unwrap_or_default();
    let mut summary = Summary { status: "SUCCESS", description: "Import process completed successfully".into(), ..Summary::default() };
    set_level(server, payload, options, &mut summary);
    if !summary.conflicts.is_empty() {
        summary.status = "ERROR";
        summary.description = "Import process was aborted".into();
        summary.ignored = values.len() as u64;
        return with_old_conflicts(server, summary);
    }
    if let (Some(date), Some(set), Some(period), Some(unit)) =
        (payload["completeDate"].as_str(), payload["dataSet"].as_str(), payload["period"].as_str(), payload["orgUnit"].as_str())
    {
        // Also in a dry run: that is how it is.
        let day = date.parse::<jiff::civil::Date>().map_or(server.today, |day| day.min(server.today)).to_string();
        server.completed.insert((set.into(), period.into(), unit.into()), day.clone());
        summary.complete = Some(day);
    }
    for (index, value) in values.iter().enumerate() {
        match judge(server, payload, value, options) {
            Err(Refused::Skipped) => {}
            Err(Refused::Conflict(code, property, objects, words)) => {
                summary.ignored += 1;
                summary.rejected.push(index as i64);
                add_conflict(&mut summary.conflicts, code, property, objects, words, index);
            }
            Ok(sound) => store(server, sound, options, &mut summary),
        }
    }
    if !summary.conflicts.is_empty() {
        summary.status = "WARNING";
    }
    with_old_conflicts(server, summary)
}

/// Before 2.37 a conflict had an object and words only.
fn with_old_conflicts(server: &Server, mut summary: Summary) -> Summary {
    if server.minor() < 37 {
        for conflict in &mut summary.conflicts {
            *conflict = json!({"object": conflict["object"], "value": conflict["value"]});
        }
    }
    summary
}

/// One conflict for each code and set of objects, with the indexes of all values that it is about.
fn add_conflict(conflicts: &mut Vec<Value>, code: &str, property: &str, objects: Vec<(&str, String)>, words: String, index: usize) {
    let named: Value = objects.iter().map(|(kind, id)| (kind.to_string(), json!(id))).collect::<serde_json::Map<_, _>>().into();
    if let Some(same) = conflicts.iter_mut().find(|c| c["errorCode"] == code && c["objects"] == named) {
        return same["indexes"].as_array_mut().unwrap().push(json!(index));
    }
    let first = objects.first().map(|(_, id)| id.clone()).unwrap_or_default();
    conflicts.push(json!({"object": first, "objects": named, "value": words, "errorCode": code, "property": property, "indexes": [index]}));
}

fn set_level(server: &Server, payload: &Value, options: &Options, summary: &mut Summary) {
    let mut refuse = |code: &str, property: &str, id: &str, words: &str| {
        let words = format!("{words}: `{id}`");
        summary.conflicts.push(json!({"object": id, "objects": {property: id}, "value": words, "errorCode": code, "property": property}));
    };
    if let Some(id) = payload["dataSet"].as_str().filter(|id| !id.is_empty()) {
        match options.find(server, "dataSetIdScheme", "dataSets", id) {
            None => refuse("E7600", "dataSet", id, "Data set not found or not accessible"),
            Some(_) if !server.user.may_write => refuse("E7601", "dataSet", id, "User does not have write access for data set"),
            Some(_) => {}
        }
    }
    if let Some(id) = payload["orgUnit"].as_str().filter(|id| options.find(server, "orgUnitIdScheme", "organisationUnits", id).is_none()) {
        refuse("E7603", "orgUnit", id, "Org unit not found or not accessible");
    }
    let combo = |id: &&str| options.find(server, "attributeOptionComboIdScheme", "categoryOptionCombos", id).is_none();
    if let Some(id) = payload["attributeOptionCombo"].as_str().filter(combo) {
        refuse("E7604", "attributeOptionCombo", id, "Attribute option combo not found or not accessible");
    }
}

fn judge(server: &Server, payload: &Value, value: &Value, options: &Options) -> Result<Sound, Refused> {
    let own = |key: &str| value[key].as_str().or(payload[key].as_str()).unwrap_or_default();
    let refuse = |code, property, id: &str, words: &str| {
        Refused::Conflict(code, property, vec![(property, id.to_owned())], format!("{words}: `{id}`"))
    };

    let element_id = value["dataElement"].as_str().unwrap_or_default();
    let element = options
        .find(server, "dataElementIdScheme", "dataElements", element_id)
        .ok_or_else(|| refuse("E7610", "dataElement", element_id, "Data element not found or not accessible"))?;
    let period_id = own("period");
    let period = Period::parse(period_id).ok_or_else(|| refuse("E7611", "period", period_id, "Period not valid"))?;
    let unit_id = own("orgUnit");
    let unit = options
        .find(server, "orgUnitIdScheme", "organisationUnits", unit_id)
        .ok_or_else(|| refuse("E7612", "orgUnit", unit_id, "Organisation unit not found or not accessible"))?;
    let combo = |property: &'static str, scheme, code, id: Option<&str>| match id.filter(|id| !id.is_empty()) {
        None => Ok(None),
        Some(id) => match options.find(server, scheme, "categoryOptionCombos", id) {
            Some(combo) => Ok(Some(combo["id"].as_str().unwrap().to_owned())),
            None => Err(refuse(code, property, id, "Option combo not found or not accessible for writing data")),
        },
    };
    let option_combo = combo("categoryOptionCombo", "categoryOptionComboIdScheme", "E7613", value["categoryOptionCombo"].as_str())?;
    let attribute = value["attributeOptionCombo"].as_str().or(payload["attributeOptionCombo"].as_str());
    let attribute_combo = combo("attributeOptionCombo", "attributeOptionComboIdScheme", "E7615", attribute)?;
    let (element_id, unit_id) = (element["id"].as_str().unwrap(), unit["id"].as_str().unwrap());
    if !server.below_user(unit) {
        return Err(refuse("E7617", "orgUnit", unit_id, "Organisation unit not in hierarchy of current user"));
    }
    let deleted = value["deleted"].as_bool().unwrap_or(false) || options.strategy == "DELETE";
    let text = value["value"].as_str();
    let comment = value["comment"].as_str();
    if text.is_none_or(str::is_empty) && comment.is_none() && !deleted {
        return Err(refuse("E7618", "value", element_id, "Data value or comment not specified for data element"));
    }
    if text.is_some_and(|text| !fits(text, element["valueType"].as_str().unwrap_or_default())) {
        return Err(refuse("E7619", "value", element_id, "Value must match value type of data element"));
    }
    if comment.is_some_and(|comment| comment.len() > 50_000) {
        return Err(refuse("E7620", "comment", element_id, "Invalid comment"));
    }

    let data_set = payload["dataSet"].as_str().and_then(|id| options.find(server, "dataSetIdScheme", "dataSets", id));
    if option_combo.is_none() && options.is("requireCategoryOptionCombo") {
        return Err(refuse("E7630", "categoryOptionCombo", element_id, "Category option combo is required but is not specified"));
    }
    if attribute_combo.is_none() && options.is("requireAttributeOptionCombo") {
        return Err(refuse("E7631", "attributeOptionCombo", element_id, "Attribute option combo is required but is not specified"));
    }
    let option_combo = option_combo.unwrap_or_else(|| DEFAULT_OPTION_COMBO.into());
    let attribute_combo = attribute_combo.unwrap_or_else(|| DEFAULT_OPTION_COMBO.into());
    let sets = server.data_sets_of(element_id);
    if options.is("strictPeriods") && !sets.iter().any(|set| set["periodType"] == period.kind) {
        return Err(refuse("E7632", "period", period_id, "Period type of period not valid for data element"));
    }
    if options.is("strictDataElements") && !data_set.is_some_and(|set| super::model::has_element(set, element_id)) {
        return Err(refuse("E7633", "dataElement", element_id, "Data element is not part of dataset"));
    }
    if options.is("strictCategoryOptionCombos")
        && server
            .find("categoryOptionCombos", "id", &option_combo)
            .is_none_or(|c| c["categoryCombo"]["id"] != server.combo_of(data_set, element))
    {
        return Err(refuse(
            "E7634",
            "categoryOptionCombo",
            &option_combo,
            "Category option combo must be part of category combo of data element",
        ));
    }
    let assigned = |set: &&&Value| set["organisationUnits"].as_array().is_some_and(|units| units.iter().any(|u| u["id"] == unit_id));
    if options.is("strictOrganisationUnits") && !sets.iter().any(|set| assigned(&set)) {
        return Err(refuse("E7636", "orgUnit", unit_id, "Data element must be assigned through data sets to organisation unit"));
    }
    if text == Some("0") && !element["zeroIsSignificant"].as_bool().unwrap_or(false) && !deleted {
        return Err(Refused::Skipped);
    }

    // The data set that decides what is open: the payload's, or one that the element is in.
    if let Some(set) = data_set.or(sets.first().copied()) {
        let set_id = set["id"].as_str().unwrap();
        let slot = (set_id.to_owned(), period_id.to_owned(), unit_id.to_owned());
        let expiry = set["expiryDays"].as_i64().unwrap_or(0);
        let both = |code, property, words: &str| {
            Refused::Conflict(
                code,
                property,
                vec![(property, period_id.to_owned()), ("dataSet", set_id.to_owned())],
                format!("{words}: `{period_id}`, `{set_id}`"),
            )
        };
        if expiry > 0
            && period.last.checked_add(Span::new().days(expiry)).unwrap() < server.today
            && !server.lock_exceptions.contains(&slot)
        {
            return Err(both("E7640", "period", "Current date is past expiry days for period"));
        }
        let open = sets.iter().map(|set| set["openFuturePeriods"].as_i64().unwrap_or(0)).max().unwrap_or(0);
        if period.first > period.latest_open(server.today, open) {
            return Err(both("E7641", "period", "Period is after latest open future period"));
        }
        if set["workflow"].is_object() && server.approved.contains(&slot) {
            return Err(both("E7642", "period", "Data is already approved for data set"));
        }
        let inputs = set["dataInputPeriods"].as_array().cloned().unwrap_or_default();
        if !inputs.is_empty() && !inputs.iter().any(|input| input["period"]["id"] == period_id) {
            return Err(both("E7643", "period", "Period is not open for this data set at this time"));
        }
    }
    let key = Key { element: element_id.into(), period: period_id.into(), org_unit: unit_id.into(), option_combo, attribute_combo };
    Ok(Sound { key, value: text.map(str::to_owned), deleted })
}

fn store(server: &mut Server, sound: Sound, options: &Options, summary: &mut Summary) {
    let stored = server.values.get(&sound.key);
    let strategy = options.strategy.as_str();
    let value = sound.value.unwrap_or_default();
    let count = match (stored, sound.deleted) {
        (Some(_), true) => &mut summary.deleted,
        (None, true) => &mut summary.ignored,
        (Some(old), false) if *old == value => &mut summary.ignored,
        (Some(_), false) if strategy == "CREATE" => &mut summary.ignored,
        (Some(_), false) => &mut summary.updated,
        (None, false) if strategy == "UPDATE" => &mut summary.ignored,
        (None, false) => &mut summary.imported,
    };
    *count += 1;
    let changes = !(stored.is_some() && strategy == "CREATE" || stored.is_none() && strategy == "UPDATE");
    if !options.dry_run && changes {
        match sound.deleted {
            true => server.values.remove(&sound.key),
            false => server.values.insert(sound.key, value),
        };
    }
}
