//! Metadata and data values read over the API: `fields`, `filter`, paging.

use super::model::Server;
use serde_json::{Map, Value, json};

fn of<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// `None`: 404.
pub fn metadata(server: &Server, parts: &[&str], query: &[(String, String)]) -> Option<Value> {
    let fields = of(query, "fields");
    match parts {
        ["system", "info"] => Some(
            json!({"version": server.version, "revision": "0abc", "calendar": server.calendar, "dateFormat": "yyyy-mm-dd", "systemName": "DHIS 2"}),
        ),
        ["systemSettings", "keyCalendar"] => Some(json!({ "keyCalendar": server.calendar })),
        ["me"] => {
            let units: Vec<Value> = server.user.capture.iter().map(|id| json!({ "id": id })).collect();
            let authorities = if server.user.may_import { json!(["F_DATAVALUE_ADD"]) } else { json!([]) };
            Some(select(
                &json!({"id": "xE7jOejl9FI", "username": server.user.name, "organisationUnits": units, "authorities": authorities}),
                fields,
            ))
        }
        [list @ ("dataSets" | "categoryCombos" | "organisationUnits" | "dataElements" | "categoryOptionCombos"), id] => {
            Some(select(&full(server, list, server.find(list, "id", id)?), fields))
        }
        [list @ ("dataSets" | "categoryCombos" | "organisationUnits" | "dataElements" | "categoryOptionCombos")] => {
            let mut found: Vec<&Value> = server.package[*list].as_array()?.iter().collect();
            for (_, filter) in query.iter().filter(|(key, _)| key == "filter") {
                found.retain(|object| passes(object, filter));
            }
            let total = found.len();
            if of(query, "paging") != Some("false") {
                found.truncate(50);
            }
            let objects: Vec<Value> =
                found.into_iter().map(|object| select(&full(server, list, object), fields.or(Some("id,name")))).collect();
            let mut answer = Map::new();
            if of(query, "paging") != Some("false") {
                answer.insert("pager".into(), json!({"page": 1, "total": total, "pageSize": 50, "pageCount": total.div_ceil(50)}));
            }
            answer.insert(list.to_string(), json!(objects));
            Some(Value::Object(answer))
        }
        _ => None,
    }
}

/// An object with the objects that it refers to written out.
fn full(server: &Server, list: &str, object: &Value) -> Value {
    let mut object = object.clone();
    match list {
        "dataSets" => {
            for member in object["dataSetElements"].as_array_mut().into_iter().flatten() {
                let id = member["dataElement"]["id"].as_str().unwrap_or_default().to_owned();
                if let Some(element) = server.find("dataElements", "id", &id) {
                    member["dataElement"] = element.clone();
                }
            }
        }
        "categoryCombos" => {
            let own =
                server.package["categoryOptionCombos"].as_array().unwrap().iter().filter(|c| c["categoryCombo"]["id"] == object["id"]);
            let combos: Vec<Value> = own.map(|combo| full(server, "categoryOptionCombos", combo)).collect();
            object["isDefault"] = json!(object["name"] == "default");
            object["categoryOptionCombos"] = json!(combos);
        }
        "categoryOptionCombos" => {
            for option in object["categoryOptions"].as_array_mut().into_iter().flatten() {
                let id = option["id"].as_str().unwrap_or_default().to_owned();
                if let Some(written) = server.find("categoryOptions", "id", &id) {
                    *option = written.clone();
                }
            }
        }
        _ => {}
    }
    object
}

/// `property:eq:value` and `property:in:[a,b]`; what cannot be read passes nothing.
fn passes(object: &Value, filter: &str) -> bool {
    let mut parts = filter.splitn(3, ':');
    let (Some(property), Some(operator), Some(value)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let Some(own) = object[property].as_str() else { return false };
    match operator {
        "eq" => own == value,
        "in" => value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).is_some_and(|v| v.split(',').any(|one| one == own)),
        _ => false,
    }
}

/// Only the `fields` that were asked for: `id,name,categoryCombo[id]`.
fn select(value: &Value, fields: Option<&str>) -> Value {
    let Some(fields) = fields else { return value.clone() };
    match value {
        Value::Array(items) => Value::Array(items.iter().map(|item| select(item, Some(fields))).collect()),
        Value::Object(members) => {
            let mut chosen = Map::new();
            for field in split(fields) {
                let (name, inner) = match field.split_once('[') {
                    Some((name, inner)) => (name, inner.strip_suffix(']')),
                    None => (field, None),
                };
                if let Some(member) = members.get(name) {
                    chosen.insert(name.into(), select(member, inner));
                }
            }
            Value::Object(chosen)
        }
        other => other.clone(),
    }
}

fn split(fields: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in fields.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(fields[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(fields[start..].trim());
    parts
}

/// `GET dataValueSets?dataSet=&period=&orgUnit=`.
pub fn data_values(server: &Server, query: &[(String, String)]) -> Value {
    let (set, period, unit) =
        (of(query, "dataSet").unwrap_or_default(), of(query, "period").unwrap_or_default(), of(query, "orgUnit").unwrap_or_default());
    let in_set = |element: &str| server.find("dataSets", "id", set).is_some_and(|set| super::model::has_element(set, element));
    let values: Vec<Value> = server
        .values
        .iter()
        .filter(|(key, _)| key.period == period && key.org_unit == unit && in_set(&key.element))
        .map(|(key, value)| {
            json!({"dataElement": key.element, "period": key.period, "orgUnit": key.org_unit, "categoryOptionCombo": key.option_combo,
                "attributeOptionCombo": key.attribute_combo, "value": value})
        })
        .collect();
    json!({"dataSet": set, "period": period, "orgUnit": unit, "dataValues": values})
}
