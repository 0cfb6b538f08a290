//! read, vread and history of an instance (<https://hl7.org/fhir/R4/http.html#read>).

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use crate::access::Interaction;
use crate::definitions;
use crate::fhir::time::{Micros, format_instant, parse_interval};
use crate::store::{Stored, TypeCode};

/// Versions of a history page when the request does not say, and at most.
const HISTORY_DEFAULT: u32 = 20;
const HISTORY_MOST: u32 = 200;

pub async fn read(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let stored = call.state.store.read(type_code, id, &call.caller.scope).await?;
    Answer::of_stored(call.readable(stored)?)
}

pub async fn version(call: &Call<'_>, type_code: TypeCode, id: &str, version: i64) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let stored = call.state.store.read_version(type_code, id, version, &call.caller.scope).await?;
    Answer::of_stored(call.readable(stored)?)
}

/// Newest first; `_count` versions a page, `_since` a time; a page continues by `_before`, a version.
pub async fn history(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let (mut count, mut before, mut since) = (HISTORY_DEFAULT, None, None);
    for (name, value) in &call.query {
        let number = || value.parse::<i64>().ok().filter(|number| *number >= 0);
        match name.as_str() {
            "_count" => count = number().and_then(|count| u32::try_from(count).ok()).ok_or_else(|| bad(name))?.clamp(1, HISTORY_MOST),
            "_before" => before = Some(number().ok_or_else(|| bad(name))?),
            "_since" => since = Some(parse_interval(value, &call.state.zone).ok_or_else(|| bad(name))?.low),
            _ if call.prefer.strict => return Err(bad(name)),
            _ => {}
        }
    }
    let store = &call.state.store;
    let newest = call.readable(store.read(type_code, id, &call.caller.scope).await?)?;
    let mut rows = store.history(type_code, id, before, count + 1, &call.caller.scope).await?;
    if let Some(since) = since {
        rows.retain(|row| row.updated >= since);
    }
    let next = (rows.len() > count as usize).then(|| rows.get(count as usize - 1).map(|row| row.version)).flatten();
    rows.truncate(count as usize);
    // Old versions are judged by what they said; a total would tell of those that are left out.
    let whole = call.caller.reaches_all(type_code, &[Interaction::Read]);
    rows.retain(|row| call.admits(row));
    Ok(Answer::ok(bundle(call, &newest, &rows, Page { count, since, next, whole })))
}

fn bad(name: &str) -> Failure {
    Failure::bad_request(format!(
        "The parameter {name} is not one that a history takes, or its value is not: _count, _since and _before are."
    ))
}

/// What a history's page was asked for, and whether nothing was left out of it.
struct Page {
    count: u32,
    since: Option<Micros>,
    next: Option<i64>,
    whole: bool,
}

fn bundle(call: &Call<'_>, newest: &Stored, rows: &[Stored], Page { count, since, next, whole }: Page) -> Vec<u8> {
    let type_name = definitions::r4().type_name(newest.type_code);
    let url = format!("{}/{type_name}/{}", call.state.base_url(), newest.id);
    let since_part = since.map(|since| format!("&_since={}", format_instant(since))).unwrap_or_default();
    let mut out = format!(r#"{{"resourceType":"Bundle","id":"{}","type":"history""#, uuid::Uuid::now_v7());
    if since.is_none() && whole {
        // Versions are numbered without gaps, deletes included.
        out.push_str(&format!(r#","total":{}"#, newest.version));
    }
    out.push_str(&format!(r#","link":[{{"relation":"self","url":"{url}/_history?_count={count}{since_part}"}}"#));
    if let Some(next) = next {
        out.push_str(&format!(r#",{{"relation":"next","url":"{url}/_history?_count={count}{since_part}&_before={next}"}}"#));
    }
    out.push(']');
    let mut out = out.into_bytes();
    for (place, row) in rows.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b",\"entry\":[{" } else { b",{" });
        out.extend_from_slice(format!(r#""fullUrl":"{url}","#).as_bytes());
        if let Some(body) = &row.body {
            out.extend_from_slice(b"\"resource\":");
            out.extend_from_slice(body);
            out.push(b',');
        }
        let (method, status) = match (&row.body, row.version) {
            (None, _) => ("DELETE", "204 No Content"),
            (Some(_), 1) => ("PUT", "201 Created"),
            (Some(_), _) => ("PUT", "200 OK"),
        };
        let told = format!(
            r#""request":{{"method":"{method}","url":"{type_name}/{}"}},"response":{{"status":"{status}","etag":"W/\"{}\"","lastModified":"{}"}}}}"#,
            row.id,
            row.version,
            format_instant(row.updated)
        );
        out.extend_from_slice(told.as_bytes());
    }
    if !rows.is_empty() {
        out.push(b']');
    }
    out.push(b'}');
    out
}
