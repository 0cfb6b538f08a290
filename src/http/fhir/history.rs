//! Histories of an instance, of a type and of everything (<https://hl7.org/fhir/R4/http.html#history>): newest first, deletes
//! among them, continued by sealed links that see what the first page saw.

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::search::cursor_failure;
use crate::access::Interaction;
use crate::definitions;
use crate::fhir::outcome::operation_outcome;
use crate::fhir::time::{format_instant, now, parse_interval};
use crate::fhir::{Issue, IssueCode};
use crate::search::parse::CURSOR;
use crate::search::shown;
use crate::store::history::{HistoryOf, HistoryPage, Versions};
use crate::store::{Scope, Stored, TypeCode};
use axum::http::StatusCode;
use serde_json::json;

/// Versions of a page when the request does not say, and at most.
const DEFAULT: u32 = 20;
const MOST: u32 = 200;

pub async fn of_instance(call: &Call<'_>, type_code: TypeCode, id: &str) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Read)?;
    let asked = Asked::read(call)?;
    let newest = call.readable(call.state.store.read(type_code, id, &call.caller.scope).await?)?;
    // Also where no version is on the page.
    super::audit::tells_of(std::slice::from_ref(&newest));
    // A total would tell of those that are left out.
    let scope = &call.caller.scope;
    let own = *scope == Scope::All || scope.owners().contains(&newest.owner);
    let whole = own && asked.selects_all() && call.caller.reaches_all(type_code, &[Interaction::Read]);
    let path = format!("{}/{id}/_history", definitions::r4().type_name(type_code));
    let total = match whole {
        true => Some(call.state.store.count_versions(newest.key).await?),
        false => None,
    };
    answer(call, &HistoryOf::Instance(type_code, id), &path, &asked, total).await
}

pub async fn of_type(call: &Call<'_>, type_code: TypeCode) -> Result<Answer, Failure> {
    call.require(type_code, Interaction::Search)?;
    let asked = Asked::read(call)?;
    let path = format!("{}/_history", definitions::r4().type_name(type_code));
    answer(call, &HistoryOf::Types(&[type_code]), &path, &asked, None).await
}

/// Of all types that the caller may search: who may read what they know the id of is not told all ids (SMART's scopes for resources).
pub async fn of_system(call: &Call<'_>) -> Result<Answer, Failure> {
    let asked = Asked::read(call)?;
    let definitions = definitions::r4();
    let types = definitions.resource_types().iter().zip(0..);
    let searched: Vec<TypeCode> = types.filter(|(name, _)| call.caller.allows(name, Interaction::Search)).map(|(_, code)| code).collect();
    if let ([], Some(first)) = (searched.as_slice(), definitions.type_code("Patient")) {
        call.require(first, Interaction::Search)?;
    }
    answer(call, &HistoryOf::Types(&searched), "_history", &asked, None).await
}

/// The parameters of a history.
struct Asked {
    count: u32,
    wanted: Versions,
    cursor: Option<String>,
    /// What was used of them, for the links.
    used: Vec<(String, String)>,
    /// What was not, to be said in the answer.
    warnings: Vec<Issue>,
}

impl Asked {
    fn read(call: &Call<'_>) -> Result<Asked, Failure> {
        let mut asked = Asked { count: DEFAULT, wanted: Versions::default(), cursor: None, used: Vec::new(), warnings: Vec::new() };
        for (name, value) in &call.query {
            let time = || parse_interval(&value.replace(' ', "+"), &call.state.zone).ok_or_else(|| bad(name));
            match name.as_str() {
                "_count" => asked.count = value.parse::<u32>().map_err(|_| bad(name))?.min(MOST),
                "_since" => asked.wanted.since = Some(time()?.low),
                "_at" => asked.wanted.at = Some(time()?),
                CURSOR => asked.cursor = Some(value.clone()),
                // To pass over it would tell versions that it leaves out.
                "_list" => {
                    return Err(unknown(Issue::error(IssueCode::NotSupported, "This server's histories take no _list.").at("_list")));
                }
                _ => {
                    let words = "A history takes the parameters _count, _since and _at.";
                    if call.prefer.strict {
                        return Err(unknown(Issue::error(IssueCode::NotSupported, words).at(shown(name))));
                    }
                    let words = format!("{words} This one was ignored.");
                    asked.warnings.push(Issue::warning(IssueCode::NotSupported, words).at(shown(name)));
                    continue;
                }
            }
            if name != CURSOR && name != "_count" {
                asked.used.push((name.clone(), value.clone()));
            }
        }
        Ok(asked)
    }

    fn selects_all(&self) -> bool {
        self.wanted.since.is_none() && self.wanted.at.is_none()
    }
}

fn bad(name: &str) -> Failure {
    let words = "The value is not one that the parameter takes: _count is a number, _since an instant, _at a date or time.";
    unknown(Issue::error(IssueCode::Value, words).at(name))
}

fn unknown(issue: Issue) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, issue)
}

async fn answer(call: &Call<'_>, of: &HistoryOf<'_>, path: &str, asked: &Asked, total: Option<i64>) -> Result<Answer, Failure> {
    let state = call.state;
    let began = now();
    // A token is good for the same history and the same caller's rights only.
    let (type_code, interaction) = match of {
        HistoryOf::Instance(type_code, _) => (*type_code, Interaction::Read),
        HistoryOf::Types(types) => (types.first().copied().unwrap_or_default(), Interaction::Search),
    };
    let rights = call.caller.reach(definitions::r4().type_name(type_code), interaction);
    let binding = format!("{path} {:?} {} {rights:?}", asked.used, call.caller.scope.binding());
    let opened = asked.cursor.as_deref().map(|token| state.cursor_key.open(token, &binding, began)).transpose();
    let opened = opened.map_err(cursor_failure)?;
    let began = opened.as_ref().map_or(began, |(_, began)| *began);
    let cursor = opened.as_ref().map(|(cursor, _)| cursor);
    // As in a search: none of them, but how many there are, where that is told.
    let HistoryPage { mut rows, posted, patched, revived, next } = match asked.count {
        0 => HistoryPage::default(),
        count => state.store.history_page(of, asked.wanted, count, cursor, &call.caller.scope).await?,
    };
    // Old versions are judged by what they said.
    rows.retain(|row| call.caller.admits(row, &[interaction], state.writer.options()));
    let next = next.map(|next| state.cursor_key.seal(&next, began, &binding));
    let link = |token: Option<&str>| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("_count", &asked.count.to_string()).extend_pairs(&asked.used).extend_pairs(call.said_of_form());
        if let Some(token) = token {
            query.append_pair(CURSOR, token);
        }
        format!("{}/{path}?{}", state.base_url(), query.finish())
    };
    let mut links = vec![("self", link(asked.cursor.as_deref()))];
    links.extend(next.as_deref().map(|token| ("next", link(Some(token)))));
    let came = |row: &Stored| {
        let method = match row.version {
            1 if posted.contains(&row.key) => "POST",
            version if patched.contains(&(row.key, version)) => "PATCH",
            // What lango itself made, too.
            _ => "PUT",
        };
        let is_made = row.version == 1 || revived.contains(&(row.key, row.version));
        (method, if is_made { "201 Created" } else { "200 OK" })
    };
    Ok(Answer::ok(bundle(state.base_url(), &rows, &came, total, &links, &asked.warnings)))
}

fn bundle(
    base_url: &str,
    rows: &[Stored],
    came: &dyn Fn(&Stored) -> (&'static str, &'static str),
    total: Option<i64>,
    links: &[(&str, String)],
    warnings: &[Issue],
) -> Vec<u8> {
    let mut out = format!(r#"{{"resourceType":"Bundle","id":"{}","type":"history""#, uuid::Uuid::now_v7());
    if let Some(total) = total {
        out.push_str(&format!(r#","total":{total}"#));
    }
    let linked: Vec<String> = links.iter().map(|(relation, url)| format!(r#"{{"relation":"{relation}","url":"{url}"}}"#)).collect();
    out.push_str(&format!(r#","link":[{}]"#, linked.join(",")));
    let mut out = out.into_bytes();
    for (place, row) in rows.iter().enumerate() {
        let type_name = definitions::r4().type_name(row.type_code);
        out.extend_from_slice(if place == 0 { b",\"entry\":[{" } else { b",{" });
        out.extend_from_slice(format!(r#""fullUrl":"{base_url}/{type_name}/{}","#, row.id).as_bytes());
        if let Some(body) = &row.body {
            out.extend_from_slice(b"\"resource\":");
            out.extend_from_slice(body);
            out.push(b',');
        }
        let (method, status) = match &row.body {
            None => ("DELETE", "204 No Content"),
            Some(_) => came(row),
        };
        let url = if method == "POST" { type_name.to_owned() } else { format!("{type_name}/{}", row.id) };
        let told = format!(
            r#""request":{{"method":"{method}","url":"{url}"}},"response":{{"status":"{status}","etag":"W/\"{}\"","lastModified":"{}"}}}}"#,
            row.version,
            format_instant(row.updated)
        );
        out.extend_from_slice(told.as_bytes());
    }
    if !warnings.is_empty() {
        // Every entry of a history says what was asked and what was answered (bdl-3, bdl-4).
        out.extend_from_slice(if rows.is_empty() { b",\"entry\":[" } else { b"," });
        let asked = links.first().map(|(_, url)| url.as_str()).unwrap_or_default();
        let entry = json!({
            "resource": operation_outcome(warnings),
            "request": { "method": "GET", "url": asked },
            "response": { "status": "200 OK" },
        });
        out.extend_from_slice(entry.to_string().as_bytes());
    }
    if !rows.is_empty() || !warnings.is_empty() {
        out.push(b']');
    }
    out.push(b'}');
    out
}
