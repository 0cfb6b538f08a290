//! Data Templates: definitions, examples, submission, dry run, unmapped codes.

use super::{HduError, meta, reply};
use crate::access::{Caller, Interaction};
use crate::app::App;
use crate::fhir::{Issue, IssueCode};
use crate::http::body;
use crate::http::negotiate::Format;
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::ingest::submit::{Door, SubmitError};
use crate::ingest::template::Definition;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

const PATH: &str = "dataTemplates";
const LAB_PATH: &str = "labDataTemplates";
/// Lines of the list of unmapped codes.
const UNMAPPED_LINES: u32 = 1_000;

#[derive(Debug, Deserialize)]
pub struct Which {
    id: Option<String>,
    uuid: Option<String>,
}

/// `GET dataTemplates`: the templates that this server takes. Asked for one by `id` or `uuid`, the original answers the template itself
/// and its documentation a list: the reply is both.
pub async fn definitions(State(app): State<App>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(rejected) => return unclear_query(PATH)(rejected).into_response(),
    };
    let all: Vec<Value> = app.submitter.templates.definitions().filter(|template| which.means(template)).map(description).collect();
    let mut reply = match all.first() {
        Some(first) if which.id.is_some() || which.uuid.is_some() => first.clone(),
        _ => json!({}),
    };
    reply["results"] = Value::Array(all);
    Json(reply).into_response()
}

fn unclear_query(path: &'static str) -> impl Fn(QueryRejection) -> HduError {
    move |_| HduError::at(path)(Refusal::malformed("The parameters of the URL cannot be read, or one is given twice."))
}

/// `GET labDataTemplates`.
pub async fn lab_definitions(State(app): State<App>) -> Json<Value> {
    Json(json!({ "results": app.submitter.templates.get("lab").map(description).into_iter().collect::<Vec<_>>() }))
}

impl Which {
    fn means(&self, template: &Definition) -> bool {
        let wanted = self.id.iter().chain(&self.uuid);
        wanted.into_iter().all(|wanted| template.name() == wanted || template.codes().iter().any(|code| code.eq_ignore_ascii_case(wanted)))
    }
}

fn description(template: &Definition) -> Value {
    json!({
        "id": template.name(),
        "uuid": template.name(),
        "code": template.codes().first(),
        "codes": template.codes(),
        "name": template.title(),
        "templateDetails": { "id": template.name(), "code": template.codes().first(), "name": template.title() },
        "schema": template.schema(),
    })
}

/// `GET dataTemplates/examples`: all, or those of one template.
pub async fn examples(State(app): State<App>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(rejected) => return unclear_query("dataTemplates/examples")(rejected).into_response(),
    };
    let of = |template: &Definition| -> Vec<Value> {
        template.examples().map(|(name, example)| json!({ "template": template.name(), "name": name, "payload": example })).collect()
    };
    let asked = app.submitter.templates.definitions().filter(|template| which.means(template));
    Json(json!({ "results": asked.flat_map(of).collect::<Vec<_>>() })).into_response()
}

/// `GET dataTemplates/metaData`: blocks and fields with their types and marks.
pub async fn meta_data(State(app): State<App>) -> Json<Value> {
    Json(json!({ "results": app.submitter.templates.definitions().map(meta::blocks).collect::<Vec<_>>() }))
}

/// The parameters of a URL.
type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// How a payload is to be taken.
struct How {
    dry_run: bool,
    judges: bool,
}

/// `true`: judge, and store nothing.
const DRY_RUN: &str = "testDataValidity";
/// `false`: rules and mandatory marks warn instead of rejecting.
const JUDGES: &str = "validation";
/// From this likeness on an unknown parameter is a known one misspelt.
const MISSPELT: f64 = 0.75;

impl How {
    /// Names in any case. What is like one of them and is none is refused, since who asks for a dry run in other words must not find the
    /// data stored; other parameters are passed over, as the original does.
    fn of(query: &[(String, String)]) -> Result<How, Refusal> {
        let (mut dry_run, mut judges) = (None, None);
        for (name, value) in query {
            let before = if name.eq_ignore_ascii_case(DRY_RUN) {
                dry_run.replace(flag(DRY_RUN, value)?)
            } else if name.eq_ignore_ascii_case(JUDGES) {
                judges.replace(flag(JUDGES, value)?)
            } else if let Some(meant) = [DRY_RUN, JUDGES].into_iter().find(|known| is_like(known, name)) {
                let words = format!(
                    "A parameter of the URL looks like {meant} and is not: write {meant}=true or {meant}=false. Nothing was stored."
                );
                return Err(Refusal::malformed(words));
            } else {
                None
            };
            if before.is_some() {
                return Err(Refusal::malformed("A parameter of the URL is given twice. Nothing was stored."));
            }
        }
        Ok(How { dry_run: dry_run.unwrap_or(false), judges: judges.unwrap_or(true) })
    }
}

fn is_like(known: &str, name: &str) -> bool {
    name.len() <= 2 * known.len()
        && strsim::normalized_damerau_levenshtein(&known.to_ascii_lowercase(), &name.to_ascii_lowercase()) > MISSPELT
}

/// A yes or no in the words that the original takes. Another word, or none, is refused.
fn flag(name: &'static str, given: &str) -> Result<bool, Refusal> {
    match given.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::Value, format!("{name} must be true or false")).at(name))),
    }
}

/// `POST dataTemplates`.
pub async fn submit(state: State<App>, caller: Extension<Caller>, how: Asked, request: Request) -> Response {
    answer(state, caller, how, request, PATH, Door::Named, &reply::CLIENTS).await.unwrap_or_else(IntoResponse::into_response)
}

/// `POST labDataTemplates`.
pub async fn submit_lab(state: State<App>, caller: Extension<Caller>, how: Asked, request: Request) -> Response {
    answer(state, caller, how, request, LAB_PATH, Door::Lab, &reply::REQUESTS).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    asked: Asked,
    request: Request,
    path: &'static str,
    door: Door,
    words: &reply::Words,
) -> Result<Response, HduError> {
    let error = HduError::at(path);
    let Query(query) = asked.map_err(unclear_query(path))?;
    let How { dry_run, judges } = How::of(&query).map_err(&error)?;
    let door = if judges { door } else { door.unjudged() };
    let allowed = ["Patient", "Encounter"].iter().try_for_each(|name| caller.require_all(name, Interaction::Create));
    allowed.map_err(|forbidden| error(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, forbidden.to_string()))))?;
    let payload = {
        let (parts, body) = request.into_parts();
        let of = |failure| HduError::of(failure, path);
        let payload = body::read(&parts.headers, body, &app.settings.limits).await.map_err(of)?;
        let checked = payload.clone();
        app.submitter.writer.workers().run(move || body::check_values(&checked, Format::Json)).await.map_err(&error)?.map_err(of)?;
        payload
    };
    let submitter = &app.submitter;
    let (status, reply) = if dry_run {
        let report = submitter.check(door, payload, &caller).await.map_err(|e| error(refusal(e)))?;
        reply::checked(&report, words)
    } else {
        let report = submitter.submit(door, payload, &caller).await.map_err(|e| error(refusal(e)))?;
        reply::report(&report, words)
    };
    Ok((StatusCode::from_u16(status).unwrap_or(StatusCode::OK), Json(reply)).into_response())
}

fn refusal(error: SubmitError) -> Refusal {
    match error {
        SubmitError::Envelope(error) => Refusal::all(RefusalKind::Malformed, error.issues),
        SubmitError::Refused(refusal) => refusal,
    }
}

/// `GET unmapped`: the codes that no ConceptMap knew, with facility and count.
pub async fn unmapped(State(app): State<App>, Extension(caller): Extension<Caller>) -> Response {
    if caller.person.is_some() {
        let words = "This list is for programs: a person's token does not open it.";
        return HduError::at("unmapped")(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words))).into_response();
    }
    match app.store.unmapped(&caller.scope, UNMAPPED_LINES).await {
        Ok(lines) => {
            let results: Vec<Value> = lines
                .into_iter()
                .map(|line| {
                    json!({
                        "facility": line.facility, "map": line.map, "system": line.system, "code": line.code,
                        "display": line.display, "path": line.path, "count": line.count,
                    })
                })
                .collect();
            Json(json!({ "results": results })).into_response()
        }
        Err(error) => HduError { refusal: error.into(), path: "unmapped" }.into_response(),
    }
}
