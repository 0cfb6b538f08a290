//! Search by GET and by POST (<https://hl7.org/fhir/R4/http.html#search>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::everything;
use super::target::Compartment;
use crate::access::{Caller, Interaction, audit};
use crate::definitions;
use crate::fhir::time::now;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::Refusal;
use crate::search::{self, Admits, CursorError, ParseOptions, RunContext, SearchError, extract};
use crate::store::query::Test;
use crate::store::{Filter, Stored, TypeCode};
use axum::http::{HeaderMap, StatusCode, header};

/// What is in a compartment: of one type by all the parameters of a search, or of all types.
pub async fn within(call: &Call<'_>, compartment: &Compartment, pairs: Vec<(String, String)>) -> Result<Answer, Failure> {
    match compartment.member {
        Some(member) => search(call, member, Some((compartment.of, &compartment.id)), pairs).await,
        None => everything::compartment(call, compartment.of, &compartment.id, &pairs).await,
    }
}

/// The resources of a type; `within` the compartment of that resource, if it is given.
pub async fn search(
    call: &Call<'_>,
    type_code: TypeCode,
    within: Option<(TypeCode, &str)>,
    pairs: Vec<(String, String)>,
) -> Result<Answer, Failure> {
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
    let path = match within {
        Some((of, id)) => {
            request.query.filters.push(compartment(of, id, type_code)?);
            format!("{}/{id}/{type_name}", definitions::r4().type_name(of))
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

/// That one of the parameters by which R4 puts the type into the compartment refers to what defines it.
fn compartment(of: TypeCode, id: &str, type_code: TypeCode) -> Result<Filter, Failure> {
    let definitions = definitions::r4();
    let params = definitions.compartment(of, type_code).ok_or_else(|| {
        let words = format!("{} is not in the compartment of a {}.", definitions.type_name(type_code), definitions.type_name(of));
        Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words))
    })?;
    let test = Test::Reference { type_codes: vec![of], id: id.to_owned() };
    let params = params.iter().filter_map(|code| definitions.param(type_code, code));
    let mut ways: Vec<Filter> = params.map(|param| Filter::Param { param: param.id, tests: vec![test.clone()] }).collect();
    if type_code == of {
        ways.push(Filter::Id(vec![id.to_owned()]));
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

    fn answered(&self, rows: &[Stored]) {
        if let Some(trail) = audit::current() {
            trail.read(rows);
        }
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
