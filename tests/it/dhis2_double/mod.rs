//! A DHIS2 server for tests: as strict as the real one where a connector can go wrong, in both dialects of the aggregate import.
//!
//! In come HTTP requests; out come the answers that DHIS2 would give, by the behaviour of its import validator up to 2.42
//! ([`per_value`]) and of its data entry service from 2.43 ([`per_data_set`]). It knows metadata ([`model`]), answers questions on
//! them with `fields`, `filter` and paging ([`read`]), checks credentials, authority, content type and access, keeps data values,
//! runs imports as tasks when asked to, and fails in the ways that networks and servers fail ([`Fault`]). A test sets the day,
//! locks, approvals and the user, and looks at what was stored and at what was asked.
//!
//! It shares no code with what it tests.

mod model;
mod per_data_set;
mod per_value;
mod read;
mod tests;

pub use model::{Setup, User};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use model::{Options, Server, Summary};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How the next request goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer takes this long, and is then right.
    Slow(Duration),
    /// This status, with `Retry-After` when given; nothing is done.
    Status(u16, Option<&'static str>),
    /// A proxy's page instead of DHIS2; nothing is done.
    Page,
    /// The connection breaks before anything is done.
    Drop,
    /// The request is carried out, and then the connection breaks.
    DropAfterApply,
    /// The request is carried out, and the answer comes after this long.
    SlowAfterApply(Duration),
    /// The answer is a redirect to this address.
    Redirect(String),
}

/// A request that the double received.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub body: Bytes,
}

/// A running double; it stops when dropped.
pub struct Double {
    /// The address before `/api`.
    pub url: String,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    server: Mutex<Server>,
    faults: Mutex<Vec<(&'static str, Fault)>>,
    asked: Mutex<Vec<Asked>>,
}

impl Double {
    pub async fn start(setup: Setup) -> Double {
        let inner = Arc::new(Inner { server: Mutex::new(Server::new(setup)), faults: Mutex::default(), asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/dhis", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(inner.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Double { url, inner, task }
    }

    /// What the server knows, to look at and to change.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.inner.server.lock().unwrap()
    }

    /// The next request whose path contains `path` goes wrong; several are used up in order.
    pub fn fail(&self, path: &'static str, fault: Fault) {
        self.inner.faults.lock().unwrap().push((path, fault));
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// The imports that were asked for.
    pub fn imports(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method == Method::POST && asked.target.contains("dataValueSets")).collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let target = uri.path_and_query().map_or(String::new(), ToString::to_string);
    inner.asked.lock().unwrap().push(Asked { method: method.clone(), target: target.clone(), body: body.clone() });
    let fault = {
        let mut faults = inner.faults.lock().unwrap();
        let at = faults.iter().position(|(path, _)| target.contains(path));
        at.map(|at| faults.remove(at).1)
    };
    let serve = || serve(&mut inner.server.lock().unwrap(), &method, &uri, &headers, &body);
    match fault {
        None => serve(),
        Some(Fault::Slow(wait)) => {
            tokio::time::sleep(wait).await;
            serve()
        }
        Some(Fault::SlowAfterApply(wait)) => {
            let answer = serve();
            tokio::time::sleep(wait).await;
            answer
        }
        Some(Fault::Drop) => broken(),
        Some(Fault::DropAfterApply) => {
            serve();
            broken()
        }
        Some(Fault::Status(status, after)) => {
            let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/html");
            if let Some(after) = after {
                response = response.header(header::RETRY_AFTER, after);
            }
            response.body(Body::from("<html>nginx</html>")).unwrap()
        }
        Some(Fault::Page) => Response::builder().header(header::CONTENT_TYPE, "text/html").body(Body::from("<html>Log in</html>")).unwrap(),
        Some(Fault::Redirect(to)) => Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap(),
    }
}

/// An answer whose body never comes whole: the server gives up the connection.
fn broken() -> Response<Body> {
    let stream = futures_util::stream::iter([Ok(Bytes::from_static(b"{\"st")), Err(std::io::Error::other("broken"))]);
    Response::builder().header(header::CONTENT_TYPE, "application/json").body(Body::from_stream(stream)).unwrap()
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
}

/// A WebMessage without a `response`.
fn message(status: u16, words: &str) -> Response<Body> {
    let reason = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap_or_default();
    let kind = if status < 400 { "OK" } else { "ERROR" };
    reply(status, &json!({"httpStatus": reason, "httpStatusCode": status, "status": kind, "message": words}))
}

fn serve(server: &mut Server, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    if !server.user.is_known_by(headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default()) {
        return message(401, "Unauthorized");
    }
    let Some(path) = uri.path().strip_prefix("/dhis/api/") else { return message(404, "Not found") };
    let query: Vec<(String, String)> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let parts: Vec<&str> = path.trim_end_matches(".json").split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("POST", ["dataValueSets"]) => import(server, &query, headers, body),
        ("POST", ["completeDataSetRegistrations"]) => complete(server, &query, headers, body),
        ("GET", ["dataValueSets"]) => reply(200, &read::data_values(server, &query)),
        ("GET", ["system", "tasks", "DATAVALUE_IMPORT", id]) => match server.poll(id) {
            Some(notes) => reply(200, &notes),
            None => reply(200, &json!([])),
        },
        ("GET", ["system", "taskSummaries", "DATAVALUE_IMPORT", id]) => reply(200, &server.task_summary(id).unwrap_or(Value::Null)),
        ("GET", _) => match read::metadata(server, &parts, &query) {
            Some(found) => reply(200, &found),
            None => message(404, "Not found"),
        },
        _ => message(405, "Method not allowed"),
    }
}

fn import(server: &mut Server, query: &[(String, String)], headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return message(415, &format!("Content type '{kind}' not supported"));
    }
    if !server.user.may_import {
        return message(403, "Access is denied");
    }
    let newer = server.minor() >= 43;
    let payload: Value = match serde_json::from_slice(body) {
        Ok(payload @ Value::Object(_)) => payload,
        _ if newer => return message(409, "Unexpected end of input or character in the payload"),
        _ => return summary_reply(server, &Summary::error("The import process failed: the payload cannot be read")),
    };
    let query: HashMap<&str, &str> = query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let options = Options::read(&query, &payload);
    let summary = if newer { per_data_set::import(server, &payload, &options) } else { per_value::import(server, &payload, &options) };
    if options.is_async {
        let id = server.start_task(summary);
        return reply(
            200,
            &json!({"httpStatus": "OK", "httpStatusCode": 200, "status": "OK", "message": "Initiated DATAVALUE_IMPORT",
                "response": {"responseType": "JobConfigurationWebMessageResponse", "name": "dataValueImport", "id": id, "jobType": "DATAVALUE_IMPORT",
                    "relativeNotifierEndpoint": format!("/api/system/tasks/DATAVALUE_IMPORT/{id}")}}),
        );
    }
    summary_reply(server, &summary)
}

/// Registrations of completeness: the field is `organisationUnit`, what does not exist or is not the user's is a conflict.
fn complete(server: &mut Server, query: &[(String, String)], headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return message(415, &format!("Content type '{kind}' not supported"));
    }
    if !server.user.may_import {
        return message(403, "Access is denied");
    }
    let Ok(payload) = serde_json::from_slice::<Value>(body) else { return message(409, "The payload cannot be read") };
    let query: HashMap<&str, &str> = query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let options = Options::read(&query, &payload);
    let mut conflicts = Vec::new();
    let mut imported = 0;
    for registration in payload["completeDataSetRegistrations"].as_array().into_iter().flatten() {
        let named = |key: &str| registration[key].as_str().unwrap_or_default();
        let find = |scheme: &str, list: &str, key: &str| options.find(server, scheme, list, named(key));
        let (set, unit) =
            (find("dataSetIdScheme", "dataSets", "dataSet"), find("orgUnitIdScheme", "organisationUnits", "organisationUnit"));
        let assigned = |set: &Value, unit: &Value| set["organisationUnits"].as_array().unwrap().iter().any(|one| one["id"] == unit["id"]);
        let combo = registration["attributeOptionCombo"].as_str();
        let combo_known = combo.is_none() || find("attributeOptionComboIdScheme", "categoryOptionCombos", "attributeOptionCombo").is_some();
        let why = match (set, unit) {
            (None, _) => Some("Data set not found or not accessible"),
            (_, None) => Some("Organisation unit not found or not accessible"),
            _ if model::Period::parse(named("period")).is_none() => Some("Period not valid"),
            _ if !combo_known => Some("Attribute option combo not found or not accessible"),
            (_, Some(unit)) if !server.below_user(unit) => Some("Organisation unit not in hierarchy of current user"),
            (Some(set), Some(unit)) if !assigned(set, unit) => Some("Data set is not assigned to the organisation unit"),
            _ => None,
        };
        match (why, set, unit) {
            (None, Some(set), Some(unit)) => {
                let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
                let key = (id(set), named("period").to_owned(), id(unit));
                server.completed.insert(key, named("date").to_owned());
                imported += 1;
            }
            (why, ..) => conflicts.push(json!({"object": named("organisationUnit"), "value": why.unwrap_or_default()})),
        }
    }
    let status = if conflicts.is_empty() { "SUCCESS" } else { "WARNING" };
    let bare = json!({"responseType": "ImportSummary", "status": status, "conflicts": conflicts,
        "importCount": {"imported": imported, "updated": 0, "ignored": conflicts.len(), "deleted": 0}});
    match (server.minor() <= 36, status) {
        (true, _) => reply(200, &bare),
        (_, "SUCCESS") => reply(200, &json!({"httpStatus": "OK", "httpStatusCode": 200, "status": "OK", "response": bare})),
        _ => reply(
            409,
            &json!({"httpStatus": "Conflict", "httpStatusCode": 409, "status": "WARNING",
            "message": "One more conflicts encountered, please check import summary.", "response": bare}),
        ),
    }
}

/// The summary as this version sends it: bare and always 200 up to 2.36, a 409 on warnings up to 2.42, a 200 on warnings from 2.43.
fn summary_reply(server: &Server, summary: &Summary) -> Response<Body> {
    let bare = summary.to_json();
    if server.minor() <= 36 {
        return reply(200, &bare);
    }
    let status = match (summary.status, server.minor() >= 43) {
        ("SUCCESS", _) | ("WARNING", true) => 200,
        _ => 409,
    };
    let (kind, words) = match summary.status {
        "SUCCESS" => ("OK", "Import was successful."),
        "WARNING" if status == 200 => ("WARNING", "Import completed with warnings, please check import summary."),
        "WARNING" => ("WARNING", "One more conflicts encountered, please check import summary."),
        _ => ("ERROR", "An error occurred, please check import summary."),
    };
    let reason = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap_or_default();
    reply(status, &json!({"httpStatus": reason, "httpStatusCode": status, "status": kind, "message": words, "response": bare}))
}
