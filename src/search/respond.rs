//! A request to a finished searchset Bundle (<https://hl7.org/fhir/R4/bundle.html#searchset>), by joining stored bytes.
//!
//! `Bundle.total` is told when `_total` asks for it (`estimate` is answered exactly), when only the count is wanted, and, unless
//! `_total=none`, whenever the first page holds everything, because then it costs nothing. `_maxresults` ends the search after so many
//! matches, whatever the pages: how many are left travels in the page token.

use super::cursor::{CursorError, CursorKey};
use super::extract;
use super::include;
use super::parse::{CURSOR, SearchRequest, Summary, Total};
use super::subset::{self, Subset};
use crate::definitions;
use crate::fhir::json::parse_deep;
use crate::fhir::time::{Micros, format_instant};
use crate::fhir::{Issue, IssueCode, outcome};
use crate::store::query::SortValue;
use crate::store::{Store, Stored, TypeCode};
use serde_json::{Value, json};

/// So many of what is counted of somebody are told one by one, for the record.
const COUNTED_OF: u32 = 100;

/// Which included resources the caller's rights reach; the matches' own are conditions of the query.
pub trait Admits: std::fmt::Debug + Sync {
    fn admits(&self, row: &Stored) -> bool;

    /// These are in the answer.
    fn answered(&self, _rows: &[Stored]) {}

    /// Whether it must be known of what a count tells that is about somebody by name.
    fn asks_who_is_counted(&self) -> bool {
        false
    }

    /// A count told of these.
    fn counted(&self, _rows: &[Stored]) {}
}

/// Bytes of a URL that can be followed: the HTTP server takes 65,534.
const LONGEST_LINK: usize = 60_000;

/// What an answer needs besides the request.
#[derive(Clone, Copy, Debug)]
pub struct RunContext<'a> {
    /// The FHIR base, without a slash at its end.
    pub base_url: &'a str,
    /// What the links point to after the base: `Observation`, `Patient/1/Observation`; empty: the base itself.
    pub path: &'a str,
    pub key: &'a CursorKey,
    pub admits: &'a dyn Admits,
    pub now: Micros,
}

/// Why a request gave no Bundle.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// What was asked in a form is too long for the links to further pages. 400.
    #[error(
        "the matches are more than a page, and the link to the next one would be longer than a URL may be: name fewer values, or ask for more \
         on a page (_count)"
    )]
    LongLink,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the Bundle could not be written")]
    Write(#[from] serde_json::Error),
}

impl SearchError {
    /// The issue to answer with; `None` for what the caller can do nothing about.
    pub fn issue(&self) -> Option<Issue> {
        match self {
            SearchError::Cursor(CursorError::Foreign) => Some(Issue::error(IssueCode::Value, self.to_string()).at(CURSOR)),
            SearchError::Cursor(CursorError::Expired) => Some(Issue::error(IssueCode::Deleted, self.to_string()).at(CURSOR)),
            SearchError::LongLink => Some(Issue::error(IssueCode::TooCostly, self.to_string())),
            SearchError::Database(_) | SearchError::Write(_) => None,
        }
    }
}

/// Executes the request and writes the Bundle, as UTF-8 JSON.
pub async fn run(store: &Store, request: &SearchRequest, context: RunContext<'_>) -> Result<Vec<u8>, SearchError> {
    if request.count == 0 || request.summary == Summary::Count {
        let queries = request.queries();
        let total = at_most(request.most, store.count_any(&queries, None).await?);
        // How many people have something tells of nobody; that somebody has it does, as if it had been shown.
        if total > 0 && context.admits.asks_who_is_counted() && queries.iter().any(|query| query.names_a_patient()) {
            context.admits.counted(&store.search_any(&queries, COUNTED_OF, None).await?.rows);
        }
        return Ok(Answer { total: Some(total), ..Answer::default() }.write(request, &context)?);
    }
    let mut resumed = request.cursor.as_deref().map(|token| context.key.open(token, &request.binding, context.now)).transpose()?;
    let left = request.most.map(|most| match resumed.as_mut().map(|(cursor, _)| cursor.after.pop()) {
        None => most,
        Some(Some(SortValue::Int(left))) => u32::try_from(left).unwrap_or(0),
        Some(_) => 0,
    });
    let began = resumed.as_ref().map_or(context.now, |(_, began)| *began);
    let cursor = resumed.as_ref().map(|(cursor, _)| cursor);
    let limit = left.map_or(request.count, |left| left.min(request.count));
    let mut page = store.search_any(&request.queries(), limit, cursor).await?;
    let seen = cursor.or(page.next.as_ref()).map(|cursor| cursor.snapshot.clone());
    let left = left.map(|left| left.saturating_sub(u32::try_from(page.rows.len()).unwrap_or(u32::MAX)));
    match (left, &mut page.next) {
        (Some(0), next) => *next = None,
        (Some(left), Some(next)) => next.after.push(SortValue::Int(i64::from(left))),
        _ => {}
    }
    let total = match request.total {
        Total::Unasked if cursor.is_none() && page.next.is_none() => Some(page.rows.len() as u64),
        Total::Unasked | Total::None => None,
        Total::Estimate | Total::Accurate if cursor.is_none() && page.next.is_none() => Some(page.rows.len() as u64),
        Total::Estimate | Total::Accurate => Some(at_most(request.most, store.count_any(&request.queries(), seen.as_ref()).await?)),
    };
    let next = page.next.as_ref().map(|next| context.key.seal(next, began, &request.binding));
    if next.as_deref().is_some_and(|next| link(&context, &request.self_params, Some(next)).len() > LONGEST_LINK) {
        return Err(SearchError::LongLink);
    }
    let included = include::collect(store, request, &page.rows, context.admits).await?;
    context.admits.answered(&page.rows);
    context.admits.answered(&included.rows);
    let mut notes = request.warnings.clone();
    notes.extend(included.cut.map(|cut| Issue::warning(IssueCode::TooCostly, cut.to_string())));
    Ok(Answer { total, next, matches: page.rows, places: page.places, included: included.rows, notes: Some(notes) }
        .write(request, &context)?)
}

/// As many as the search yields over all its pages.
fn at_most(most: Option<u32>, found: u64) -> u64 {
    most.map_or(found, |most| found.min(u64::from(most)))
}

/// What a Bundle is made of.
#[derive(Default)]
struct Answer {
    total: Option<u64>,
    next: Option<String>,
    matches: Vec<Stored>,
    /// As in [`crate::store::Page`].
    places: Vec<u32>,
    included: Vec<Stored>,
    /// `None`: the warnings of the request.
    notes: Option<Vec<Issue>>,
}

impl Answer {
    fn write(self, request: &SearchRequest, context: &RunContext<'_>) -> Result<Vec<u8>, serde_json::Error> {
        let rows = self.matches.iter().chain(&self.included);
        let size: usize = rows.map(|row| row.body.as_ref().map_or(0, |body| body.len() + 200)).sum();
        let mut bundle = Vec::with_capacity(size + 1_000);
        let to = |relation: &str, cursor: Option<&str>| json!({"relation": relation, "url": link(context, &request.self_params, cursor)});
        let mut links = vec![to("self", request.cursor.as_deref())];
        links.extend(request.cursor.is_some().then(|| to("first", None)));
        links.extend(self.next.as_deref().map(|next| to("next", Some(next))));
        let mut head = json!({
            "resourceType": "Bundle",
            "id": uuid::Uuid::new_v4().to_string(),
            "meta": {"lastUpdated": format_instant(context.now)},
            "type": "searchset",
        });
        if let Some(total) = self.total {
            head["total"] = total.into();
        }
        head["link"] = Value::Array(links);
        serde_json::to_writer(&mut bundle, &head)?;
        bundle.pop();
        let mut separator: &[u8] = b",\"entry\":[";
        for (rows, mode) in [(&self.matches, "match"), (&self.included, "include")] {
            for (n, row) in rows.iter().enumerate() {
                let Some(body) = &row.body else { continue };
                let place = if mode == "match" { self.places.get(n).copied().unwrap_or(0) } else { 0 };
                let contained = if place > 0 { contained_in(body, request.query.type_code, place) } else { None };
                let (type_code, body, within) = match &contained {
                    Some((id, body)) => (request.query.type_code, body.as_slice(), format!("#{id}")),
                    // The body is newer than what matched, or cannot be read.
                    None if place > 0 => continue,
                    None => (row.type_code, &body[..], String::new()),
                };
                bundle.extend_from_slice(separator);
                separator = b",";
                let container = definitions::r4().type_name(row.type_code);
                bundle.extend_from_slice(b"{\"fullUrl\":");
                serde_json::to_writer(&mut bundle, &format!("{}/{container}/{}{within}", context.base_url, row.id))?;
                bundle.extend_from_slice(b",\"resource\":");
                match &subset::wanted(request, type_code) {
                    Subset::Whole => bundle.extend_from_slice(body),
                    // `_elements` speaks of the types that are searched.
                    Subset::Elements(_) if mode == "include" || !request.searches(type_code) => bundle.extend_from_slice(body),
                    subset => subset::write(&mut bundle, body, definitions::r4().type_name(type_code), subset),
                }
                bundle.extend_from_slice(format!(",\"search\":{{\"mode\":\"{mode}\"}}}}").as_bytes());
            }
        }
        let notes = self.notes.as_ref().unwrap_or(&request.warnings);
        if !notes.is_empty() {
            bundle.extend_from_slice(separator);
            separator = b",";
            bundle.extend_from_slice(b"{\"resource\":");
            serde_json::to_writer(&mut bundle, &outcome::operation_outcome(notes))?;
            bundle.extend_from_slice(b",\"search\":{\"mode\":\"outcome\"}}");
        }
        bundle.extend_from_slice(if separator == b"," { b"]}" } else { b"}" });
        Ok(bundle)
    }
}

/// The id and the bytes of the contained resource of this type and place.
fn contained_in(body: &[u8], type_code: TypeCode, place: u32) -> Option<(String, Vec<u8>)> {
    let container = parse_deep(body).ok()?;
    let contained = extract::contained::at(&container, type_code, place)?;
    let id = contained.get("id").and_then(Value::as_str).unwrap_or_default();
    Some((id.to_owned(), serde_json::to_vec(contained).ok()?))
}

/// A link of the search, with the parameters that were used.
fn link(context: &RunContext<'_>, params: &[(String, String)], cursor: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(params);
    if let Some(cursor) = cursor {
        query.append_pair(CURSOR, cursor);
    }
    let query = query.finish();
    let separator = if query.is_empty() { "" } else { "?" };
    let slash = if context.path.is_empty() { "" } else { "/" };
    format!("{}{slash}{}{separator}{query}", context.base_url, context.path)
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
