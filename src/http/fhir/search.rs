//! Search by GET and by POST (<https://hl7.org/fhir/R4/http.html#search>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use crate::access::{Caller, Interaction};
use crate::definitions;
use crate::fhir::time::now;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::Refusal;
use crate::search::{self, Admits, CursorError, ParseOptions, RunContext, SearchError, extract};
use crate::store::query::Test;
use crate::store::{Filter, Stored, TypeCode};
use axum::http::{HeaderMap, StatusCode, header};

/// The resources of a type; with `patient`, those in that patient's compartment.
pub async fn search(call: &Call<'_>, type_code: TypeCode, patient: Option<&str>, pairs: Vec<(String, String)>) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Search)?;
    let state = call.state;
    let limits = &state.settings.limits;
    let options = ParseOptions {
        strict: call.prefer.strict,
        max_count: limits.page_max,
        default_count: limits.page_default,
        terminology: state.terminology.clone(),
        own: state.writer.options().own.load(),
        full_text: state.settings.search.full_text,
        ..ParseOptions::new(state.base_url(), state.zone.clone())
    };
    let mut request = search::parse(type_code, &pairs, call.caller.scope.clone(), &options)
        .map_err(|issues| Failure::of_issues(StatusCode::BAD_REQUEST, issues))?;
    let type_name = definitions::r4().type_name(type_code);
    let path = match patient {
        Some(id) => {
            request.query.filters.push(compartment(type_code, id)?);
            format!("Patient/{id}/{type_name}")
        }
        None => type_name.to_owned(),
    };
    request.binding.push_str(&format!("\n{path}"));
    let index_options = state.writer.options();
    call.caller.narrow(&mut request.query, index_options).map_err(Refusal::from)?;
    // A page token is good for the rights that it was made under, and for no others.
    request.binding.push_str(&format!("\n{:?}", call.caller.reach(definitions::r4().type_name(type_code), Interaction::Search)));
    let context = RunContext {
        base_url: state.base_url(),
        path: &path,
        key: &state.cursor_key,
        admits: &Included { caller: call.caller, options: index_options },
        now: now(),
    };
    match search::run(&state.store, &request, context).await {
        Ok(bundle) => Ok(Answer::ok(bundle)),
        Err(error) => Err(failure(error)),
    }
}

/// That one of the parameters by which R4 puts the type into the patient compartment refers to the patient.
fn compartment(type_code: TypeCode, id: &str) -> Result<Filter, Failure> {
    let definitions = definitions::r4();
    let params = definitions.patient_compartment(type_code).iter().filter_map(|code| definitions.param(type_code, code));
    let patient = definitions.type_code("Patient").unwrap_or_default();
    let test = Test::Reference { type_codes: vec![patient], id: id.to_owned() };
    let mut ways: Vec<Filter> = params.map(|param| Filter::Param { param: param.id, tests: vec![test.clone()] }).collect();
    if type_code == patient {
        ways.push(Filter::Id(vec![id.to_owned()]));
    }
    if ways.is_empty() {
        let words = format!("{} is not in the patient compartment.", definitions.type_name(type_code));
        return Err(Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words)));
    }
    Ok(Filter::Any(ways))
}

/// Included resources are within the scopes to read or search their type.
#[derive(Debug)]
struct Included<'a> {
    caller: &'a Caller,
    options: &'a extract::Options,
}

impl Admits for Included<'_> {
    fn admits(&self, row: &Stored) -> bool {
        self.caller.admits(row, &[Interaction::Read, Interaction::Search], self.options)
    }
}

/// The answer to a page token that is not taken.
pub fn cursor_failure(error: CursorError) -> Failure {
    failure(error.into())
}

fn failure(error: SearchError) -> Failure {
    let status = match &error {
        SearchError::Cursor(CursorError::Expired) => StatusCode::GONE,
        SearchError::Cursor(_) => StatusCode::BAD_REQUEST,
        _ => return Refusal::internal(error).into(),
    };
    match error.issue() {
        Some(issue) => Failure::new(status, issue),
        None => Refusal::internal(error).into(),
    }
}

/// The parameters of a POST `_search`: those of the URL and those of the form.
pub fn form_pairs(headers: &HeaderMap, body: &[u8], query: &[(String, String)]) -> Result<Vec<(String, String)>, Failure> {
    let media_type = super::header_text(headers, header::CONTENT_TYPE).unwrap_or("application/x-www-form-urlencoded");
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let issue = Issue::error(IssueCode::NotSupported, "Send the search parameters as application/x-www-form-urlencoded.");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, issue));
    }
    let form = form_urlencoded::parse(body).into_owned().filter(|(name, _)| !matches!(name.as_str(), "_format" | "_pretty"));
    Ok(query.iter().cloned().chain(form).collect())
}
