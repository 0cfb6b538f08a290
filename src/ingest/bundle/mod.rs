//! FHIR Bundles of type transaction and batch (<https://hl7.org/fhir/R4/http.html#transaction>).
//!
//! In come the bytes of a Bundle; out goes the answering Bundle's. The bytes are split at the entries without building them
//! ([`split`]), so that a Bundle with too many is refused early; entries are read and checked on several threads. A
//! transaction is one [`transaction::attempt`]: all or nothing, every problem of every entry at once. A batch is one attempt
//! for each entry, deletes first, then creates, then updates. What reads (GET) comes last and sees what was written.
//!
//! The caller lends a function that answers reads, since searching and its answers are not this room's concern.

mod respond;
mod split;

use super::refusal::{self, Refusal, RefusalKind};
use super::transaction::{self, Entry, Operation, Outcome};
use super::write::{CommitError, Condition, Tries, Writer};
use crate::access::Caller;
use crate::definitions;
use crate::fhir::reference::is_type_name;
use crate::fhir::{Issue, IssueCode, json};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use split::Kind;

/// Entries of a batch that are worked on at the same time; the store gathers them into common commits.
const BATCH_WIDTH: usize = 32;

/// What the answer to each entry carries (`Prefer: return=…`, <https://hl7.org/fhir/R4/http.html#ops>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Return {
    #[default]
    Minimal,
    Representation,
    OperationOutcome,
}

/// The answer to a GET within a Bundle.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub etag: Option<i64>,
    pub updated: Option<crate::fhir::time::Micros>,
    /// A resource as JSON.
    pub body: Bytes,
}

/// Answers a GET of a URL relative to the base, such as `Patient/1` or `Patient?name=x`.
pub type Fetch<'a> = &'a (dyn Fn(String) -> BoxFuture<'a, Result<Fetched, Refusal>> + Send + Sync);

/// What a Bundle is carried out with.
pub struct Context<'a> {
    pub writer: &'a Writer,
    pub caller: &'a Caller,
    /// The server's FHIR base URL, without a slash at the end.
    pub base_url: &'a str,
    pub most_entries: usize,
    pub answer: Return,
    pub fetch: Fetch<'a>,
}

/// One entry as it was read.
enum Asked {
    Change(Entry),
    Read { path: String, url: String },
}

/// What an entry came to.
enum Answer {
    Changed(Outcome),
    Fetched(Fetched),
    Refused(Refusal),
}

/// Carries out the Bundle in `body` and answers with the response Bundle.
pub async fn process(context: &Context<'_>, body: Bytes) -> Result<Vec<u8>, Refusal> {
    let most_entries = context.most_entries;
    let split = context.writer.workers().run(move || split::split(&body, most_entries)).await??;
    let answers = match split.kind {
        Kind::Transaction => transaction(context, split.entries).await?,
        Kind::Batch => batch(context, split.entries).await?,
    };
    Ok(respond::bundle(split.kind, &answers, context))
}

async fn read(context: &Context<'_>, entries: &[Bytes]) -> Result<Vec<Result<Asked, Refusal>>, Refusal> {
    let base_url = context.base_url.to_owned();
    let numbered: Vec<(usize, Bytes)> = entries.iter().cloned().enumerate().collect();
    context.writer.workers().map(numbered, move |(number, bytes)| read_entry(number, &bytes, &base_url)).await
}

async fn transaction(context: &Context<'_>, entries: Vec<Bytes>) -> Result<Vec<Answer>, Refusal> {
    let mut tries = Tries::default();
    loop {
        let (mut changes, mut reads, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for (place, asked) in read(context, &entries).await?.into_iter().enumerate() {
            match asked {
                Ok(Asked::Change(entry)) => changes.push((place, entry)),
                Ok(Asked::Read { path, url }) => reads.push((place, path, url)),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if let Some(first) = refusals.first() {
            let kind = first.kind;
            let mut issues: Vec<Issue> = refusals.into_iter().flat_map(|refusal| refusal.issues).collect();
            refusal::keep_some(&mut issues);
            return Err(Refusal::all(kind, issues));
        }
        let (places, changes): (Vec<usize>, Vec<Entry>) = changes.into_iter().unzip();
        let keep_bodies = context.answer == Return::Representation;
        match transaction::attempt(context.writer, changes, context.caller, keep_bodies).await {
            Ok(outcomes) => {
                let mut answers: Vec<(usize, Answer)> = places.into_iter().zip(outcomes.into_iter().map(Answer::Changed)).collect();
                for (place, path, url) in reads {
                    answers.push((place, fetch(context, &path, url).await));
                }
                answers.sort_by_key(|(place, _)| *place);
                return Ok(answers.into_iter().map(|(_, answer)| answer).collect());
            }
            Err(CommitError::Stale) => tries.pause().await?,
            Err(CommitError::Refused(_, refusal)) => return Err(refusal),
        }
    }
}

async fn batch(context: &Context<'_>, entries: Vec<Bytes>) -> Result<Vec<Answer>, Refusal> {
    let mut answers: Vec<(usize, Answer)> = Vec::with_capacity(entries.len());
    let mut waiting: [Vec<(usize, Asked)>; 4] = Default::default();
    for (place, asked) in read(context, &entries).await?.into_iter().enumerate() {
        match asked {
            Ok(asked) => {
                let turn = match &asked {
                    Asked::Change(Entry { operation: Operation::Delete { .. } | Operation::DeleteWhere { .. }, .. }) => 0,
                    Asked::Change(Entry { operation: Operation::Create { .. }, .. }) => 1,
                    Asked::Change(_) => 2,
                    Asked::Read { .. } => 3,
                };
                if let Some(turn) = waiting.get_mut(turn) {
                    turn.push((place, asked));
                }
            }
            Err(refusal) => answers.push((place, Answer::Refused(refusal))),
        }
    }
    for turn in waiting {
        let entries = &entries;
        let mut running = futures_util::stream::iter(turn)
            .map(|(place, asked)| async move { (place, one(context, place, asked, entries).await) })
            .buffer_unordered(BATCH_WIDTH);
        while let Some(answer) = running.next().await {
            answers.push(answer);
        }
    }
    answers.sort_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// One entry of a batch.
async fn one(context: &Context<'_>, place: usize, asked: Asked, entries: &[Bytes]) -> Answer {
    let mut asked = asked;
    let mut tries = Tries::default();
    loop {
        let entry = match asked {
            Asked::Read { path, url } => return fetch(context, &path, url).await,
            Asked::Change(entry) => entry,
        };
        let keep_bodies = context.answer == Return::Representation;
        let refusal = match transaction::attempt(context.writer, vec![entry], context.caller, keep_bodies).await {
            Ok(mut outcomes) => match outcomes.pop() {
                Some(outcome) => return Answer::Changed(outcome),
                None => Refusal::internal(anyhow::anyhow!("an entry has no outcome")),
            },
            Err(CommitError::Refused(_, refusal)) => refusal,
            Err(CommitError::Stale) => match tries.pause().await {
                Ok(()) => match entries.get(place).map(|bytes| read_entry(place, bytes, context.base_url)) {
                    Some(Ok(again)) => {
                        asked = again;
                        continue;
                    }
                    Some(Err(refusal)) => refusal,
                    None => Refusal::internal(anyhow::anyhow!("an entry is gone")),
                },
                Err(refusal) => refusal,
            },
        };
        return Answer::Refused(refusal);
    }
}

async fn fetch(context: &Context<'_>, path: &str, url: String) -> Answer {
    match (context.fetch)(url).await {
        Ok(fetched) => Answer::Fetched(fetched),
        Err(mut refusal) => {
            for issue in refusal.issues.iter_mut().filter(|issue| issue.expression.is_empty()) {
                issue.expression = format!("{path}.request.url");
            }
            Answer::Refused(refusal)
        }
    }
}

/// Reads one `Bundle.entry`.
fn read_entry(number: usize, bytes: &[u8], base_url: &str) -> Result<Asked, Refusal> {
    let path = format!("Bundle.entry[{number}]");
    let refuse = |element: &str, words: &str| Refusal::malformed(words).within(&format!("{path}{element}"));
    let mut entry = json::parse(bytes).map_err(|error| refuse("", &format!("The entry is no valid JSON: {}.", error.message)))?;
    let resource = entry.get_mut("resource").map(Value::take);
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
    let Some(method) = text("/request/method") else {
        return Err(refuse(".request.method", "Every entry of a transaction or batch needs request.method."));
    };
    let Some(url) = text("/request/url") else {
        return Err(refuse(".request.url", "Every entry of a transaction or batch needs request.url."));
    };
    let url = url.strip_prefix(base_url).unwrap_or(url).trim_start_matches('/');
    if matches!(method, "GET" | "HEAD") {
        return Ok(Asked::Read { path, url: url.to_owned() });
    }
    let (target, query) = match url.split_once('?') {
        Some((target, query)) => (target, Some(query.to_owned())),
        None => (url, None),
    };
    let (type_name, id) = match target.split_once('/') {
        Some((type_name, id)) => (type_name, Some(id.to_owned())),
        None => (target, None),
    };
    let Some(type_code) = definitions::r4().type_code(type_name).filter(|_| is_type_name(type_name)) else {
        let issue = Issue::error(IssueCode::NotFound, "The URL names no resource type of FHIR R4.").at(format!("{path}.request.url"));
        return Err(Refusal::new(RefusalKind::NotFound, issue));
    };
    let if_match = match text("/request/ifMatch") {
        Some(tag) => match parse_etag(tag) {
            Some(version) => Some(Condition::Version(version)),
            None => return Err(refuse(".request.ifMatch", "ifMatch must be a version such as W/\"3\".")),
        },
        None => None,
    };
    let if_none_match = text("/request/ifNoneMatch").filter(|tag| *tag == "*").map(|_| Condition::Absent);
    let condition = if_match.or(if_none_match).unwrap_or(Condition::Any);
    let operation = match (method, id, query) {
        ("POST", None, None) => Operation::Create { criteria: text("/request/ifNoneExist").map(|text| criteria_of(text, type_name)) },
        ("PUT", Some(id), None) => Operation::Update { id, condition },
        ("PUT", None, Some(criteria)) => Operation::UpdateWhere { criteria, condition },
        ("DELETE", Some(id), None) => Operation::Delete { id, condition },
        ("DELETE", None, Some(criteria)) => Operation::DeleteWhere { criteria },
        ("POST" | "PUT" | "DELETE", ..) => {
            return Err(refuse(
                ".request.url",
                "This method does not go with this URL: POST Type; PUT or DELETE Type/id or Type?criteria.",
            ));
        }
        _ => {
            let issue =
                Issue::error(IssueCode::NotSupported, "Entries may use GET, POST, PUT and DELETE.").at(format!("{path}.request.method"));
            return Err(Refusal::new(RefusalKind::NotAllowed, issue));
        }
    };
    let full_url = text("/fullUrl").filter(|url| !url.is_empty()).map(str::to_owned);
    let resource = if matches!(operation, Operation::Delete { .. } | Operation::DeleteWhere { .. }) { None } else { resource };
    Ok(Asked::Change(Entry { path, full_url, type_code, operation, resource }))
}

/// `If-None-Exist` holds the query alone; some clients send it with the type or a question mark in front.
pub fn criteria_of(text: &str, type_name: &str) -> String {
    let text = text.strip_prefix(type_name).unwrap_or(text);
    text.strip_prefix('?').unwrap_or(text).to_owned()
}

/// The version in `W/"3"`, also without the weakness mark or the quotes.
pub fn parse_etag(text: &str) -> Option<i64> {
    let text = text.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.parse().ok().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(entry: Value) -> Result<Asked, Refusal> {
        read_entry(4, entry.to_string().as_bytes(), "http://lango/fhir")
    }

    fn operation(request: Value) -> Operation {
        match read(json!({"request": request, "resource": {"resourceType": "Patient"}})) {
            Ok(Asked::Change(entry)) => entry.operation,
            Ok(Asked::Read { .. }) => panic!("a read"),
            Err(refusal) => panic!("{refusal}"),
        }
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(operation(json!({"method": "POST", "url": "Patient"})), Operation::Create { criteria: None });
        assert_eq!(
            operation(json!({"method": "POST", "url": "/Patient", "ifNoneExist": "?identifier=1"})),
            Operation::Create { criteria: Some("identifier=1".into()) }
        );
        assert_eq!(
            operation(json!({"method": "PUT", "url": "http://lango/fhir/Patient/a", "ifMatch": "W/\"3\""})),
            Operation::Update { id: "a".into(), condition: Condition::Version(3) }
        );
        assert_eq!(
            operation(json!({"method": "PUT", "url": "Patient?identifier=1"})),
            Operation::UpdateWhere { criteria: "identifier=1".into(), condition: Condition::Any }
        );
        assert_eq!(
            operation(json!({"method": "DELETE", "url": "Patient?identifier=1"})),
            Operation::DeleteWhere { criteria: "identifier=1".into() }
        );
    }

    #[test]
    fn bad_requests_name_their_place() {
        let refused = |request: Value| match read(json!({ "request": request })) {
            Err(refusal) => (refusal.status(), refusal.issues[0].expression.clone()),
            Ok(_) => panic!("accepted"),
        };
        assert_eq!(refused(json!({"url": "Patient"})), (400, "Bundle.entry[4].request.method".into()));
        assert_eq!(refused(json!({"method": "POST"})), (400, "Bundle.entry[4].request.url".into()));
        assert_eq!(refused(json!({"method": "POST", "url": "Alien"})), (404, "Bundle.entry[4].request.url".into()));
        assert_eq!(refused(json!({"method": "POST", "url": "Patient/1"})), (400, "Bundle.entry[4].request.url".into()));
        assert_eq!(refused(json!({"method": "PATCH", "url": "Patient/1"})), (405, "Bundle.entry[4].request.method".into()));
        assert_eq!(refused(json!({"method": "PUT", "url": "Patient/1", "ifMatch": "x"})), (400, "Bundle.entry[4].request.ifMatch".into()));
    }

    #[test]
    fn etags_are_versions() {
        assert_eq!(parse_etag("W/\"3\""), Some(3));
        assert_eq!(parse_etag("\"3\""), Some(3));
        assert_eq!(parse_etag("3"), Some(3));
        for bad in ["", "W/\"\"", "W/\"-1\"", "*", "\"", "99999999999999999999"] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }
}
