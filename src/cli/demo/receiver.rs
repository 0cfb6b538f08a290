//! A stand-in for DHIS2, for the demo only: it serves the shipped metadata, takes data values and says so. It checks nothing.

use axum::extract::{Path, RawQuery};
use axum::response::Json;
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The org unit above all others.
const ROOT: &str = "LangoRootOU";
/// The data set of the shipped metadata.
pub const DATA_SET: &str = "LangoOpdDx1";

/// Starts the receiver and answers its URL.
pub async fn start(token: &'static str) -> anyhow::Result<String> {
    let package: Value = serde_json::from_str(include_str!("../../../profiles/dhis2/opd-diagnoses.json"))?;
    let package = Arc::new(package);
    let (sets, combos) = (Arc::clone(&package), Arc::clone(&package));
    let router = Router::new()
        .route("/api/system/info", get(|| async { Json(json!({ "version": "2.42.0", "calendar": "iso8601" })) }))
        .route("/api/me", get(|| async { Json(json!({ "organisationUnits": [{ "id": ROOT }] })) }))
        .route("/api/dataSets/{id}", get(move |Path(id): Path<String>| async move { Json(data_set(&sets, &id)) }))
        .route("/api/categoryCombos", get(move || async move { Json(category_combos(&combos)) }))
        .route("/api/organisationUnits", get(|RawQuery(query): RawQuery| async move { Json(org_units(&query.unwrap_or_default())) }))
        .route("/api/dataValueSets", post(receive))
        .layer(middleware::from_fn(move |request: axum::extract::Request, next: middleware::Next| async move {
            let expected = format!("ApiToken {token}");
            let known = request.headers().get("authorization").is_some_and(|value| value.as_bytes() == expected.as_bytes());
            if known { next.run(request).await } else { axum::response::IntoResponse::into_response(axum::http::StatusCode::UNAUTHORIZED) }
        }));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}"))
}

async fn receive(Json(body): Json<Value>) -> Json<Value> {
    let count = body.get("dataValues").and_then(Value::as_array).map_or(0, Vec::len);
    Json(json!({
        "httpStatus": "OK", "httpStatusCode": 200, "status": "OK", "message": "Import was successful.",
        "response": {
            "responseType": "ImportSummary", "status": "SUCCESS", "description": "Import process completed successfully",
            "importCount": { "imported": count, "updated": 0, "ignored": 0, "deleted": 0 },
            "conflicts": [], "rejectedIndexes": [], "dataSetComplete": "false",
        },
    }))
}

fn items<'p>(package: &'p Value, key: &str) -> impl Iterator<Item = &'p Value> {
    package.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn by_id<'p>(package: &'p Value, key: &str) -> HashMap<&'p str, &'p Value> {
    items(package, key).filter_map(|item| Some((item.get("id")?.as_str()?, item))).collect()
}

fn id_of<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// With its elements filled in, as the API answers.
fn data_set(package: &Value, id: &str) -> Value {
    let elements = by_id(package, "dataElements");
    let Some(mut set) = by_id(package, "dataSets").get(id).map(|set| (*set).clone()) else { return Value::Null };
    let filled = items(&set, "dataSetElements")
        .filter_map(|element| elements.get(id_of(element, "/dataElement/id")))
        .map(|element| json!({ "dataElement": element }))
        .collect();
    set["dataSetElements"] = Value::Array(filled);
    if let Some(members) = set.as_object_mut() {
        members.remove("organisationUnits");
    }
    set
}

fn category_combos(package: &Value) -> Value {
    let options = by_id(package, "categoryOptions");
    let combos: Vec<Value> = items(package, "categoryCombos")
        .map(|combo| {
            let own = items(package, "categoryOptionCombos").filter(|one| id_of(one, "/categoryCombo/id") == id_of(combo, "/id"));
            let own: Vec<Value> = own
                .map(|one| {
                    let options: Vec<&&Value> =
                        items(one, "categoryOptions").filter_map(|option| options.get(id_of(option, "/id"))).collect();
                    json!({ "id": one.get("id"), "name": one.get("name"), "categoryOptions": options })
                })
                .collect();
            json!({ "id": combo.get("id"), "name": combo.get("name"), "categoryOptionCombos": own })
        })
        .collect();
    json!({ "categoryCombos": combos })
}

/// An org unit for every code that is asked for.
fn org_units(query: &str) -> Value {
    let filter = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "filter").map(|(_, value)| value.into_owned());
    let codes = filter.as_deref().and_then(|filter| filter.strip_prefix("code:in:[")?.strip_suffix(']')).unwrap_or_default();
    let units: Vec<Value> = codes
        .split(',')
        .filter(|code| !code.is_empty())
        .map(|code| {
            let id = format!("O{}", blake3::hash(code.as_bytes()).to_hex().get(..10).unwrap_or_default());
            json!({ "id": id, "code": code, "path": format!("/{ROOT}/{id}"), "openingDate": "2000-01-01T00:00:00.000" })
        })
        .collect();
    json!({ "organisationUnits": units })
}
