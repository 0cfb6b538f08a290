//! Search by GET and by POST (<https://hl7.org/fhir/R4/http.html#search>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::everything;
use super::target::Compartment;
use crate::access::{Caller, Interaction, Reach, audit};
use crate::definitions;
use crate::fhir::time::now;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::Refusal;
use crate::search::contained::{Which, apply};
use crate::search::{self, Admits, CursorError, Over, ParseOptions, RunContext, SearchError, SearchRequest, extract, suggest};
use crate::store::query::{Query, SystemTest, Test};
use crate::store::{Filter, ParamId, Stored, TypeCode};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;

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
    let mut request = parsed(call, Over::Type(type_code), &pairs)?;
    let type_name = definitions::r4().type_name(type_code);
    let path = match within {
        Some((of, id)) => {
            let of_name = definitions::r4().type_name(of);
            let filter = search::in_compartment(of, id, type_code).ok_or_else(|| {
                let words = format!("{type_name} is not in the compartment of a {of_name}.");
                Failure::new(StatusCode::NOT_FOUND, Issue::error(IssueCode::NotFound, words))
            })?;
            request.query.filters.push(filter);
            format!("{of_name}/{id}/{type_name}")
        }
        None => type_name.to_owned(),
    };
    answered(call, request, &path).await
}

/// The resources of all types, or of those that `_type` names (<https://hl7.org/fhir/R4/http.html#search>). What was looked at
/// (AuditEvent) is there only when it is named: else whoever asks again and again for what is new would find nothing but having asked.
pub async fn everywhere(call: &Call<'_>, pairs: Vec<(String, String)>) -> Result<Answer, Failure> {
    let r4 = definitions::r4();
    if pairs.is_empty() {
        let words = "Say what to look for: /fhir/Type?… in one type, /fhir?_type=Patient,Observation&… in several, /fhir?_lastUpdated=… in all; \
                     /fhir/metadata tells what else there is.";
        return Err(Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Required, words)));
    }
    let mut named: Vec<TypeCode> = Vec::new();
    for (_, value) in pairs.iter().filter(|(name, _)| name == "_type") {
        for name in value.split(',').map(str::trim) {
            let type_code = r4.type_code(name).ok_or_else(|| not_a_type(name))?;
            call.require(type_code, Interaction::Search)?;
            if !named.contains(&type_code) {
                named.push(type_code);
            }
        }
    }
    let request = match named.is_empty() {
        false => parsed(call, Over::Named(&named), &pairs)?,
        true => {
            let all = r4.resource_types().iter().filter(|name| **name != "AuditEvent" && call.caller.allows(name, Interaction::Search));
            let all: Vec<TypeCode> = all.filter_map(|name| r4.type_code(name)).collect();
            if all.is_empty() {
                call.require(r4.type_code("Patient").unwrap_or_default(), Interaction::Search)?;
            }
            parsed(call, Over::Everything(&all), &pairs)?
        }
    };
    answered(call, request, "").await
}

fn not_a_type(name: &str) -> Failure {
    let hint = suggest::hint(name, definitions::r4().resource_types().iter().copied());
    let words = format!("'{}' is no R4 resource type{hint}", search::shown(name));
    Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Value, words).at("_type"))
}

fn parsed(call: &Call<'_>, over: Over<'_>, pairs: &[(String, String)]) -> Result<SearchRequest, Failure> {
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
    search::parse_over(over, pairs, call.caller.scope.clone(), &options)
        .map_err(|issues| Failure::of_issues(StatusCode::BAD_REQUEST, issues))
}

/// What the request finds within the caller's scopes; `path` is what the links point to.
async fn answered(call: &Call<'_>, mut request: SearchRequest, path: &str) -> Result<Answer, Failure> {
    let state = call.state;
    let index_options = state.writer.options();
    request.binding.push_str(&format!("\n{path}"));
    request.self_params.extend_from_slice(call.said_of_form());
    known_by_identifiers(call, &mut request).await?;
    super::audit::asked_for(std::iter::once(&request.query).chain(&request.further).flat_map(Query::named));
    for query in std::iter::once(&mut request.query).chain(&mut request.further) {
        call.caller.narrow(query, Interaction::Search, index_options).map_err(Refusal::from)?;
        // A page token is good for the rights that it was made under, and for no others.
        let reach = call.caller.reach(definitions::r4().type_name(query.type_code), Interaction::Search);
        request.binding.push_str(&format!("\n{reach:?}"));
    }
    if request.contained.which != Which::Own {
        let containers = call.caller.containers(index_options);
        request.binding.push_str(&format!("\n{containers:?}"));
        apply(&mut request, containers);
    }
    let doubted = doubted(call, &mut request).await?;
    request.warnings.extend(doubted);
    request.warnings.extend(unpublished(call, &request).await?);
    let context = RunContext {
        base_url: state.base_url(),
        path,
        key: &state.cursor_key,
        admits: &Included { caller: call.caller, options: index_options },
        now: now(),
    };
    match search::run(&state.store, &request, context).await {
        Ok(bundle) => Ok(Answer::ok(bundle)),
        Err(error) => Err(failure(error)),
    }
}

/// That own parameters of the request are known of a part only of what the caller sees.
async fn doubted(call: &Call<'_>, request: &mut SearchRequest) -> Result<Vec<Issue>, Failure> {
    let mut issues = Vec::new();
    for mut doubt in std::mem::take(&mut request.doubts) {
        if call.caller.narrow(&mut doubt.query, Interaction::Search, call.state.writer.options()).is_ok() {
            issues.extend(doubt.issue(&call.state.store).await.map_err(Refusal::from)?);
        }
    }
    if call.prefer.strict && !issues.is_empty() {
        return Err(Failure::of_issues(StatusCode::BAD_REQUEST, issues));
    }
    let partly =
        |issue: Issue| Issue::warning(issue.code, format!("{} What is found goes by that part.", issue.diagnostics)).at(issue.expression);
    Ok(issues.into_iter().map(partly).collect())
}

/// AuditEvents name people and facilities by their identifiers alone. Who asks for an `agent` by the resource means those of its identifiers
/// that lango writes, as far as the caller may read the resource.
async fn known_by_identifiers(call: &Call<'_>, request: &mut SearchRequest) -> Result<(), Failure> {
    let r4 = definitions::r4();
    let systems = &call.state.settings.systems;
    let Some(event) = r4.type_code("AuditEvent") else { return Ok(()) };
    let Some(agent) = r4.param(event, "agent") else { return Ok(()) };
    for query in std::iter::once(&mut request.query).chain(&mut request.further).filter(|query| query.type_code == event) {
        for filter in &mut query.filters {
            let mut identifiers = Vec::new();
            for (type_codes, id) in references(filter, agent.id) {
                for (name, system) in [("Practitioner", &systems.practitioner), ("Organization", &systems.facility)] {
                    let Some(type_code) = r4.type_code(name).filter(|type_code| type_codes.contains(type_code)) else { continue };
                    let stored = call.state.store.read(type_code, &id, &call.caller.scope).await.map_err(Refusal::from)?;
                    let Some(body) = stored.filter(|stored| call.admits(stored)).and_then(|stored| stored.body) else { continue };
                    let resource: Value = serde_json::from_slice(&body).map_err(Refusal::internal)?;
                    let own = resource.get("identifier").and_then(Value::as_array).into_iter().flatten();
                    let own = own.filter(|one| one.get("system").and_then(Value::as_str) == Some(system.as_str()));
                    identifiers.extend(
                        own.filter_map(|one| one.get("value")?.as_str())
                            .map(|value| Test::Token { system: SystemTest::Is(system.clone()), code: Some(value.to_owned()) }),
                    );
                }
            }
            if !identifiers.is_empty() {
                let found = search::by_identifier(event, agent, identifiers);
                *filter = Filter::Any(std::iter::once(filter.clone()).chain(found).collect());
            }
        }
    }
    Ok(())
}

/// The types and ids that a filter on this parameter asks for.
fn references(filter: &Filter, param: ParamId) -> Vec<(Vec<TypeCode>, String)> {
    let ways = if let Filter::Any(ways) = filter { ways.as_slice() } else { std::slice::from_ref(filter) };
    let mut references = Vec::new();
    for way in ways {
        if let Filter::Param { param: own, tests } = way
            && *own == param
        {
            references.extend(tests.iter().filter_map(|test| match test {
                Test::Reference { type_codes, id } => Some((type_codes.clone(), id.clone())),
                _ => None,
            }));
        }
    }
    references
}

/// That not everything that happened is to be found yet. For those only who may find all of it: how much others do is no one else's business.
async fn unpublished(call: &Call<'_>, request: &SearchRequest) -> Result<Option<Issue>, Failure> {
    const NAME: &str = "AuditEvent";
    let sought = request.queries().iter().any(|query| definitions::r4().type_name(query.type_code) == NAME);
    if !sought || !call.caller.scope.sees_audit() || call.caller.reach(NAME, Interaction::Search) != Reach::Everything {
        return Ok(None);
    }
    let count = call.state.store.unpublished().await.map_err(Refusal::from)?;
    let words = format!("the newest {count} events are not searchable yet; Patient/[id]/$disclosures has them.");
    Ok((count > 0).then(|| Issue::warning(IssueCode::Incomplete, words).at(NAME)))
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

    fn asks_who_is_counted(&self) -> bool {
        audit::current().is_some()
    }

    fn counted(&self, rows: &[Stored]) {
        super::audit::tells_of(rows);
    }
}

/// The answer to a page token that is not taken.
pub fn cursor_failure(error: CursorError) -> Failure {
    failure(error.into())
}

fn failure(error: SearchError) -> Failure {
    let status = match &error {
        SearchError::Cursor(CursorError::Expired) => StatusCode::GONE,
        SearchError::Cursor(_) | SearchError::LongLink => StatusCode::BAD_REQUEST,
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
    search::check_encoding(body).map_err(|issue| Failure::new(StatusCode::BAD_REQUEST, issue))?;
    Ok(query.iter().cloned().chain(form_urlencoded::parse(body).into_owned()).collect())
}
