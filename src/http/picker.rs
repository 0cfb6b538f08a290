//! Whose record a clinician's app is to show: what the page on which they look for the patient asks.
//!
//! It asks the FHIR API in the clinician's name, as a program would. So whom they may not see is not found, each Patient that they are shown is
//! recorded before it is, and the bounds on looking people up hold here too.

use crate::access::{Caller, name_in};
use crate::fhir::reference::is_id;
use crate::search::escape;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

/// Patients on a page; who is not among them is found by saying more.
const SHOWN: usize = 20;
/// Characters of a search, at least and at most.
const SHORTEST: usize = 2;
const LONGEST: usize = 100;
/// Numbers of a Patient that are shown.
const NUMBERS: usize = 3;
/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 16 << 20;

/// The FHIR API as these pages ask it.
#[derive(Clone)]
pub struct Patients(Router);

/// A Patient as a page shows it.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    /// Name, sex, date of birth and numbers, as far as they are known.
    pub words: String,
}

/// Why nobody is shown, for the person.
pub type Words = &'static str;

const NOT_NOW: Words = "The search did not work. Try again in a minute.";
const TOO_MANY: Words = "This app has been told of very many patients: come back later, or ask the operator.";
const NOT_YOURS: Words = "There is no such patient among those of your facility.";

impl Patients {
    /// `fhir`: the routes of the API, recorded, and without the gate that asks for a token.
    pub fn new(fhir: Router) -> Patients {
        Patients(fhir)
    }

    /// Who has this name or number, by name; and whether there are more.
    pub async fn find(&self, caller: Caller, sought: &str) -> Result<(Vec<Row>, bool), Words> {
        let length = sought.chars().count();
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err("Give two letters of the name, or the whole number.");
        }
        let found = self.ask(caller, Method::POST, "/fhir/Patient/_search", question(sought)).await?;
        let list = |name: &str| found.get(name).and_then(Value::as_array).into_iter().flatten();
        let more = list("link").any(|link| link.get("relation").and_then(Value::as_str) == Some("next"));
        Ok((list("entry").filter_map(|entry| Row::of(entry.get("resource")?)).collect(), more))
    }

    /// The Patient with this id.
    pub async fn read(&self, caller: Caller, id: &str) -> Result<Row, Words> {
        if !is_id(id) {
            return Err(NOT_YOURS);
        }
        let patient = self.ask(caller, Method::GET, &format!("/fhir/Patient/{id}"), String::new()).await?;
        Row::of(&patient).ok_or(NOT_YOURS)
    }

    async fn ask(&self, caller: Caller, method: Method, path: &str, form: String) -> Result<Value, Words> {
        let mut request = Request::new(Body::from(form));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| NOT_YOURS)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.extensions_mut().insert(caller);
        let Ok(response) = self.0.clone().oneshot(request).await;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(NOT_YOURS),
            StatusCode::TOO_MANY_REQUESTS => return Err(TOO_MANY),
            _ => return Err(NOT_NOW),
        }
        let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES).await.map_err(|_| NOT_NOW)?;
        serde_json::from_slice(&body).map_err(|_| NOT_NOW)
    }
}

/// The parameters of a search for who has a number, or all these words in a name.
fn question(sought: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    if sought.chars().any(|c| c.is_ascii_digit()) {
        form.append_pair("identifier", &escape(sought));
    } else {
        form.extend_pairs(sought.split_whitespace().map(|word| ("name", escape(word))));
    }
    form.append_pair("_sort", "family").append_pair("_count", &SHOWN.to_string()).finish()
}

impl Row {
    fn of(patient: &Value) -> Option<Row> {
        let text = |name: &str| patient.get(name).and_then(Value::as_str).map(str::to_owned);
        let identifiers = patient.get("identifier").and_then(Value::as_array).into_iter().flatten();
        let numbers = identifiers.filter_map(|identifier| identifier.get("value")?.as_str()).map(str::to_owned).take(NUMBERS);
        let name = name_in(patient).unwrap_or_else(|| "without a name".to_owned());
        let born = text("birthDate").map(|date| format!("born {date}"));
        let words: Vec<String> = [Some(name), text("gender"), born].into_iter().flatten().chain(numbers).collect();
        Some(Row { id: text("id")?, words: words.join(", ") })
    }
}
