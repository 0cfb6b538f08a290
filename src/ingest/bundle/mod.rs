//! FHIR Bundles of type transaction and batch (<https://hl7.org/fhir/R4/http.html#transaction>).
//!
//! In come the bytes of a Bundle; out goes the answering Bundle's. The bytes are split at the entries without building them
//! ([`split`]), so that a Bundle with too many is refused early; entries are read and checked on several threads. A
//! transaction is one [`transaction::attempt`]: all or nothing, every problem of every entry at once. A batch is one attempt
//! for each entry, deletes first, then creates, then updates and patches. What reads (GET) comes last and sees what was written. In a
//! transaction it is asked before, too, where what is written cannot make the difference: a read that fails refuses the whole.
//!
//! Operations by POST are carried out in batches, with what reads: a transaction could not take back what they do.
//!
//! The caller lends a function that answers reads and operations, since searching and its answers are not this room's concern.

mod respond;
mod split;

use super::draft::with_labels;
use super::patch::Patch;
use super::refusal::{Refusal, RefusalKind};
use super::transaction::{self, Broken, Entry, Operation, Outcome, Problems};
use super::tries::Tries;
use super::write::{CommitError, Condition, Writer};
use crate::access::consent::vocabulary::Coding;
use crate::access::{Caller, audit, consent};
use crate::definitions;
use crate::fhir::reference::is_type_name;
use crate::fhir::time::{Micros, parse_interval};
use crate::fhir::{Issue, IssueCode, json};
use crate::store::TypeCode;
use crate::validate::Validator;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use split::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;

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

/// A GET or an operation within a Bundle.
#[derive(Clone, Debug)]
pub struct Query {
    /// Relative to the base, such as `Patient/1` or `Patient?name=x`.
    pub url: String,
    /// An operation by POST, with the bytes of its Parameters or other resource.
    pub body: Option<Bytes>,
    /// `ifNoneMatch`: the versions that the caller has.
    pub none_match: Option<String>,
    /// `ifModifiedSince`.
    pub modified_since: Option<Micros>,
    /// Asked by HEAD: the answer has no body.
    pub head: bool,
    /// It is asked again when all is written: only its failure is an answer.
    pub rehearsed: bool,
}

impl Query {
    fn get(url: String) -> Query {
        Query { url, body: None, none_match: None, modified_since: None, head: false, rehearsed: false }
    }

    /// Whether it reads what the change makes, or takes away, and nothing else.
    fn reads_what(&self, change: &Entry) -> bool {
        let path = self.url.split('?').next().unwrap_or_default();
        let mut parts = path.split('/');
        let (type_name, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        change.named().is_some_and(|(type_code, named)| *named == *id && definitions::r4().type_name(type_code) == type_name)
    }
}

/// The answer to it.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub status: u16,
    pub etag: Option<i64>,
    pub updated: Option<Micros>,
    /// A resource as JSON; none where the caller has it already.
    pub body: Option<Bytes>,
    /// What the resource has no place to say.
    pub warnings: Vec<Issue>,
}

/// Answers what reads.
pub type Fetch<'a> = &'a (dyn Fn(Query) -> BoxFuture<'a, Result<Fetched, Refusal>> + Send + Sync);

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
    Read { path: String, query: Query },
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
    let labels = split.meta.as_deref().map(labels_of).transpose()?.unwrap_or_default();
    let reading = Reading { base_url: context.base_url.to_owned(), validator: context.writer.validator().clone(), labels };
    let answers = match split.kind {
        Kind::Transaction => transaction(context, &reading, split.entries).await?,
        Kind::Batch => batch(context, &reading, split.entries).await?,
    };
    Ok(respond::bundle(split.kind, &answers, context))
}

/// What entries are read with.
#[derive(Clone)]
struct Reading {
    base_url: String,
    validator: Validator,
    /// The Bundle's own, which what comes in it inherits.
    labels: Arc<BTreeSet<Coding>>,
}

fn labels_of(meta: &[u8]) -> Result<Arc<BTreeSet<Coding>>, Refusal> {
    let meta =
        json::parse(meta).map_err(|error| Refusal::malformed(format!("It is no valid JSON: {}.", error.message)).within("Bundle.meta"))?;
    Ok(Arc::new(consent::security(&json!({ "meta": meta }))))
}

async fn read(context: &Context<'_>, reading: &Reading, entries: &[Bytes]) -> Result<Vec<Result<Asked, Broken>>, Refusal> {
    let numbered: Vec<(usize, Bytes)> = entries.iter().cloned().enumerate().collect();
    let reading = reading.clone();
    context.writer.workers().map(numbered, move |(number, bytes)| read_entry(number, &bytes, &reading)).await
}

async fn transaction(context: &Context<'_>, reading: &Reading, entries: Vec<Bytes>) -> Result<Vec<Answer>, Refusal> {
    let mut tries = Tries::default();
    loop {
        let (mut changes, mut reads, mut broken) = (Vec::new(), Vec::new(), Vec::new());
        for (place, asked) in read(context, reading, &entries).await?.into_iter().enumerate() {
            match asked {
                Ok(Asked::Change(entry)) => changes.push((place, entry)),
                Ok(Asked::Read { path, query }) if query.body.is_none() => reads.push((place, path, query)),
                Ok(Asked::Read { path, .. }) => {
                    let mut problems = Problems::default();
                    let words = "Operations by POST go in a batch: a transaction could not take back what they do.";
                    let issue = Issue::error(IssueCode::NotSupported, words);
                    problems.add(&format!("{path}.request.url"), Refusal::new(RefusalKind::Malformed, issue));
                    broken.push(Broken { full_url: None, problems });
                }
                Err(entry) => broken.push(entry),
            }
        }
        let (places, changes): (Vec<usize>, Vec<Entry>) = changes.into_iter().unzip();
        let mut told = Vec::new();
        if broken.is_empty() {
            (told, reads, broken) = ask_before(context, &changes, reads).await?;
        }
        let keep_bodies = context.answer == Return::Representation;
        match transaction::attempt(context.writer, &tries, changes, broken, context.caller, keep_bodies).await {
            Ok(outcomes) => {
                let mut answers: Vec<(usize, Answer)> = places.into_iter().zip(outcomes.into_iter().map(Answer::Changed)).collect();
                answers.extend(told);
                for (place, path, query) in reads {
                    answers.push((place, fetch(context, &path, query).await));
                }
                answers.sort_by_key(|(place, _)| *place);
                return Ok(answers.into_iter().map(|(_, answer)| answer).collect());
            }
            Err(CommitError::Stale) => tries.pause().await?,
            Err(CommitError::Refused(_, refusal)) => return Err(refusal),
        }
    }
}

/// An entry that reads, with its place and path.
type ReadEntry = (usize, String, Query);

/// What a transaction reads, asked before it writes: an entry that fails refuses the whole
/// (<https://hl7.org/fhir/R4/http.html#trules>). Answers what needs no second asking, since nothing is written; what is to be asked when all
/// is written; and what fails. What only the transaction itself makes, or might, is asked afterwards only.
async fn ask_before(
    context: &Context<'_>,
    changes: &[Entry],
    reads: Vec<ReadEntry>,
) -> Result<(Vec<(usize, Answer)>, Vec<ReadEntry>, Vec<Broken>), Refusal> {
    let (mut told, mut later, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let mut fails = |path: &str, refusal: Refusal| {
        let mut problems = Problems::default();
        problems.add_as_said(refusal.at(&format!("{path}.request.url")));
        broken.push(Broken { full_url: None, problems });
    };
    for (place, path, query) in reads {
        if let Some(change) = changes.iter().find(|change| query.reads_what(change)) {
            if matches!(change.operation, Operation::Delete { .. }) {
                let words = "The transaction deletes what this entry reads: leave one of the two out.";
                fails(&path, Refusal::new(RefusalKind::Gone, Issue::error(IssueCode::Deleted, words)));
            }
            later.push((place, path, query));
            continue;
        }
        if !changes.is_empty() && is_operation(&query.url) {
            later.push((place, path, query));
            continue;
        }
        match fetch(context, &path, Query { rehearsed: !changes.is_empty(), ..query.clone() }).await {
            Answer::Refused(refusal) => match refusal.kind {
                RefusalKind::Internal | RefusalKind::Busy | RefusalKind::Throttled => return Err(refusal),
                _ => fails(&path, refusal),
            },
            answer if changes.is_empty() => told.push((place, answer)),
            _ => later.push((place, path, query)),
        }
    }
    Ok((told, later, broken))
}

async fn batch(context: &Context<'_>, reading: &Reading, entries: Vec<Bytes>) -> Result<Vec<Answer>, Refusal> {
    let mut answers: Vec<(usize, Answer)> = Vec::with_capacity(entries.len());
    let mut waiting: [Vec<(usize, Asked)>; 4] = Default::default();
    for (place, asked) in read(context, reading, &entries).await?.into_iter().enumerate() {
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
            Err(entry) => answers.push((place, Answer::Refused(refusal_of(entry)))),
        }
    }
    for turn in waiting {
        let entries = &entries;
        let mut running = futures_util::stream::iter(turn)
            .map(|(place, asked)| async move { (place, one(context, reading, place, asked, entries).await) })
            .buffer_unordered(BATCH_WIDTH);
        while let Some(answer) = running.next().await {
            answers.push(answer);
        }
    }
    answers.sort_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// One entry of a batch.
async fn one(context: &Context<'_>, reading: &Reading, place: usize, asked: Asked, entries: &[Bytes]) -> Answer {
    let mut asked = asked;
    let mut tries = Tries::default();
    loop {
        let entry = match asked {
            Asked::Read { path, query } => return fetch(context, &path, query).await,
            Asked::Change(entry) => entry,
        };
        let (path, request) = (entry.path.clone(), entry.request());
        let keep_bodies = context.answer == Return::Representation;
        let refusal = match transaction::attempt(context.writer, &tries, vec![entry], Vec::new(), context.caller, keep_bodies).await {
            Ok(mut outcomes) => match outcomes.pop() {
                Some(outcome) => return Answer::Changed(outcome),
                None => Refusal::internal(anyhow::anyhow!("an entry has no outcome")),
            },
            Err(CommitError::Refused(_, refusal)) => refusal,
            Err(CommitError::Stale) => match tries.pause().await {
                Ok(()) => match entries.get(place).map(|bytes| read_entry(place, bytes, reading)) {
                    Some(Ok(again)) => {
                        asked = again;
                        continue;
                    }
                    Some(Err(entry)) => refusal_of(entry),
                    None => Refusal::internal(anyhow::anyhow!("an entry is gone")),
                },
                Err(refusal) => refusal,
            },
        };
        note(&path, &request);
        return Answer::Refused(refusal);
    }
}

/// For the record: what the refused entry at this path asked for.
fn note(path: &str, request: &str) {
    if let Some(trail) = audit::current() {
        trail.refused_within(path, request);
    }
}

async fn fetch(context: &Context<'_>, path: &str, query: Query) -> Answer {
    let request = format!("{} {}", if query.body.is_some() { "POST" } else { "GET" }, query.url);
    let head = query.head;
    match (context.fetch)(query).await {
        Ok(fetched) if head => Answer::Fetched(Fetched { body: None, ..fetched }),
        Ok(fetched) => Answer::Fetched(fetched),
        Err(mut refusal) => {
            note(path, &request);
            for issue in refusal.issues.iter_mut().filter(|issue| issue.expression.is_empty()) {
                issue.expression = format!("{path}.request.url");
            }
            Answer::Refused(refusal)
        }
    }
}

fn refusal_of(entry: Broken) -> Refusal {
    entry.problems.result().err().unwrap_or_else(|| Refusal::malformed("The entry cannot be carried out."))
}

/// Reads one `Bundle.entry`; when it cannot be carried out, with every problem of its request and of its resource.
fn read_entry(number: usize, bytes: &[u8], reading: &Reading) -> Result<Asked, Broken> {
    let path = format!("Bundle.entry[{number}]");
    let mut problems = Problems::default();
    let Reading { base_url, validator, labels } = reading;
    let mut entry = match json::parse(bytes) {
        Ok(entry) => entry,
        Err(error) => {
            problems.add(&path, Refusal::malformed(format!("The entry is no valid JSON: {}.", error.message)));
            return Err(Broken { full_url: None, problems });
        }
    };
    let resource = entry.get_mut("resource").map(Value::take);
    if let Some(members) = entry.as_object_mut() {
        members.shift_remove("resource");
    }
    // With nothing around the resource, the missing request says it all.
    let bare = entry.as_object().is_some_and(serde_json::Map::is_empty);
    let entry = if bare { entry } else { check_around(entry, &path, &mut problems) };
    let full_url = entry.get("fullUrl").and_then(Value::as_str).filter(|url| !url.is_empty()).map(str::to_owned);
    let request = entry.get("request").unwrap_or(&Value::Null);
    let asked = Request { path: &path, request, base_url, resource: resource.as_ref().unwrap_or(&Value::Null) }.read(&mut problems);
    match asked {
        Some(Wish::Read(url)) if problems.is_empty() => {
            let text = |element: &str| request.get(element).and_then(Value::as_str);
            let modified_since = text("ifModifiedSince").and_then(|text| parse_interval(text, &TimeZone::UTC)).map(|moment| moment.low);
            let none_match = text("ifNoneMatch").map(str::to_owned);
            let head = text("method") == Some("HEAD");
            Ok(Asked::Read { path, query: Query { none_match, modified_since, head, ..Query::get(url) } })
        }
        Some(Wish::Operate(url)) if problems.is_empty() => {
            let body = resource.map_or_else(Bytes::new, |resource| resource.to_string().into());
            Ok(Asked::Read { path, query: Query { body: Some(body), ..Query::get(url) } })
        }
        Some(Wish::Change(type_code, operation)) if problems.is_empty() => {
            // A delete has no resource, and a patch gets what it makes of the stored one.
            let puts = matches!(operation, Operation::Create { .. } | Operation::Update { .. } | Operation::UpdateWhere { .. });
            let resource = resource.filter(|_| puts).map(|resource| match labels.is_empty() {
                true => resource,
                false => with_labels(&resource, &consent::labels_of_bundle(&resource, labels)),
            });
            Ok(Asked::Change(Entry { path, full_url, type_code, operation, resource }))
        }
        _ => {
            if let Some(refusal) = resource.and_then(|resource| transaction::problems_of(&resource, &format!("{path}.resource"), validator))
            {
                problems.add_as_said(refusal);
            }
            Err(Broken { full_url, problems })
        }
    }
}

/// Holds what stands around the resource against R4, and gives it back.
fn check_around(entry: Value, path: &str, problems: &mut Problems) -> Value {
    let mut whole = json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] });
    for issue in crate::validate::structure(&whole).into_iter().filter(|issue| issue.severity.is_error()) {
        let place = match issue.expression.strip_prefix("Bundle.entry[0]") {
            Some(rest) => format!("{path}{rest}"),
            None => path.to_owned(),
        };
        problems.add_as_said(Refusal::new(RefusalKind::Malformed, issue.at(place)));
    }
    whole.pointer_mut("/entry/0").map(Value::take).unwrap_or_default()
}

/// What a request asks for.
enum Wish {
    Read(String),
    Operate(String),
    Change(TypeCode, Operation),
}

/// `Bundle.entry.request` being read.
struct Request<'a> {
    path: &'a str,
    request: &'a Value,
    base_url: &'a str,
    /// The resource of the entry.
    resource: &'a Value,
}

impl Request<'_> {
    fn text(&self, element: &str) -> Option<&str> {
        self.request.get(element).and_then(Value::as_str)
    }

    fn at(&self, element: &str) -> String {
        format!("{}.request.{element}", self.path)
    }

    /// `None`: `problems` say why.
    fn read(&self, problems: &mut Problems) -> Option<Wish> {
        if self.request.is_null() {
            let words = "Every entry of a transaction or batch needs a request.";
            problems.add(&format!("{}.request", self.path), Refusal::malformed(words));
        }
        let (method, url) = (self.text("method")?, self.text("url")?);
        let url = url.strip_prefix(self.base_url).unwrap_or(url).trim_start_matches('/');
        if matches!(method, "GET" | "HEAD") {
            return Some(Wish::Read(url.to_owned()));
        }
        if method == "POST" && is_operation(url) {
            return Some(Wish::Operate(url.to_owned()));
        }
        if let (true, Some(search)) = (method == "POST", searched(url)) {
            if !self.resource.is_null() {
                let words = "Within a Bundle the parameters of a search stand in its URL: leave the resource out.";
                problems.add(&format!("{}.resource", self.path), Refusal::malformed(words));
            }
            return Some(Wish::Read(search));
        }
        // Of a read they are asked where it is made.
        let condition = if method == "POST" { Some(Condition::Any) } else { self.condition(problems) };
        let (target, query) = match url.split_once('?') {
            Some((target, query)) => (target, Some(query.to_owned())),
            None => (url, None),
        };
        let (type_name, id) = match target.split_once('/') {
            Some((type_name, id)) => (type_name, Some(id.to_owned())),
            None => (target, None),
        };
        let type_code = definitions::r4().type_code(type_name).filter(|_| is_type_name(type_name));
        if type_code.is_none() {
            let issue = Issue::error(IssueCode::NotFound, "The URL names no resource type of FHIR R4.");
            problems.add(&self.at("url"), Refusal::new(RefusalKind::NotFound, issue));
        }
        let operation = match (method, id, query) {
            ("POST", None, query) => {
                let criteria = self.text("ifNoneExist").map(|text| criteria_of(text, type_name));
                // In the URL too, as outside of a Bundle.
                let query = query.filter(|query| !query.is_empty());
                if criteria.is_some() && query.is_some() {
                    let words = "Give the criteria of a conditional create once: in ifNoneExist, or in the URL.";
                    problems.add(&self.at("ifNoneExist"), Refusal::malformed(words));
                }
                Operation::Create { criteria: criteria.or(query) }
            }
            ("PUT", Some(id), None) => Operation::Update { id, condition: condition? },
            ("PUT", None, Some(criteria)) => Operation::UpdateWhere { criteria, condition: condition? },
            ("DELETE", Some(id), None) => Operation::Delete { id, condition: condition? },
            ("DELETE", None, Some(criteria)) => Operation::DeleteWhere { criteria, condition: condition? },
            ("POST" | "PUT" | "DELETE", ..) => {
                let words = "This method does not go with this URL: POST Type or Type?criteria; PUT or DELETE Type/id or Type?criteria.";
                problems.add(&self.at("url"), Refusal::malformed(words));
                return None;
            }
            ("PATCH", id, criteria) => {
                let patch = match patch_in(self.resource) {
                    Ok(patch) => Some(Arc::new(patch)),
                    Err(refusal) => {
                        problems.add(&format!("{}.resource", self.path), refusal);
                        None
                    }
                };
                match (id, criteria) {
                    (Some(id), None) => Operation::Patch { id, condition: condition?, patch: patch? },
                    (None, Some(criteria)) => Operation::PatchWhere { criteria, condition: condition?, patch: patch? },
                    _ => {
                        problems.add(&self.at("url"), Refusal::malformed("PATCH goes with Type/id or Type?criteria."));
                        return None;
                    }
                }
            }
            // Not one of the codes that the method may have: said already.
            _ => return None,
        };
        Some(Wish::Change(type_code?, operation))
    }

    fn condition(&self, problems: &mut Problems) -> Option<Condition> {
        let (matching, not_matching) = (self.text("ifMatch"), self.text("ifNoneMatch"));
        match Condition::asked(matching, not_matching) {
            Ok(condition) => Some(condition),
            Err(words) => {
                let element = if matching.is_some() { "ifMatch" } else { "ifNoneMatch" };
                problems.add(&self.at(element), Refusal::malformed(words));
                None
            }
        }
    }
}

/// Whether a URL relative to the base ends in an operation's name.
fn is_operation(url: &str) -> bool {
    let path = url.split('?').next().unwrap_or_default();
    path.rsplit('/').next().is_some_and(|last| last.starts_with('$') || last.starts_with("%24"))
}

/// What a GET would say of the search at `Type/_search?…`; `None`: it is no search.
fn searched(url: &str) -> Option<String> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let path = path.strip_suffix("_search").filter(|path| path.is_empty() || path.ends_with('/'))?;
    Some(format!("{}?{query}", path.trim_end_matches('/')))
}

/// The patch that an entry carries (<https://hl7.org/fhir/R4/http.html#patch>): JSON Patch or Merge Patch in a Binary, or Parameters.
fn patch_in(resource: &Value) -> Result<Patch, Refusal> {
    if resource.get("resourceType").and_then(Value::as_str) != Some("Binary") {
        return Patch::fhirpath(resource);
    }
    let content_type = resource.get("contentType").and_then(Value::as_str).unwrap_or_default();
    let read = match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Patch::json,
        "application/merge-patch+json" => Patch::merge,
        _ => {
            let words = "A Binary that patches has the contentType application/json-patch+json or application/merge-patch+json; a FHIRPath Patch is sent as Parameters.";
            return Err(Refusal::malformed(words).within("Binary.contentType"));
        }
    };
    let data = resource.get("data").and_then(Value::as_str).unwrap_or_default();
    let text = base64::engine::general_purpose::STANDARD.decode(data.split_ascii_whitespace().collect::<String>());
    let document = text.ok().and_then(|text| json::parse(&text).ok());
    let document = document.ok_or_else(|| Refusal::malformed("The data is no JSON in base64.").within("Binary.data"))?;
    read(&document)
}

/// `If-None-Exist` holds the query alone; some clients send it with the type or a question mark in front.
pub fn criteria_of(text: &str, type_name: &str) -> String {
    let text = text.strip_prefix(type_name).unwrap_or(text);
    text.strip_prefix('?').unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::etag::Versions;
    use super::*;
    use crate::validate::{Level, Profiles};
    use serde_json::json;
    use std::sync::Arc;

    fn read(entry: Value) -> Result<Asked, Refusal> {
        let validator = Validator::new(Profiles::new(), Arc::new(()), Level::Structure);
        let reading = Reading { base_url: "http://lango/fhir".to_owned(), validator, labels: Arc::default() };
        read_entry(4, entry.to_string().as_bytes(), &reading).map_err(refusal_of)
    }

    fn operation(request: Value) -> String {
        match read(json!({"request": request, "resource": {"resourceType": "Patient"}})) {
            Ok(Asked::Change(entry)) => format!("{:?}", entry.operation),
            Ok(Asked::Read { .. }) => panic!("no change"),
            Err(refusal) => panic!("{refusal}"),
        }
    }

    #[test]
    fn requests_are_told_apart() {
        let same = |read: String, expected: Operation| assert_eq!(read, format!("{expected:?}"));
        same(operation(json!({"method": "POST", "url": "Patient"})), Operation::Create { criteria: None });
        same(
            operation(json!({"method": "POST", "url": "/Patient", "ifNoneExist": "?identifier=1"})),
            Operation::Create { criteria: Some("identifier=1".into()) },
        );
        same(
            operation(json!({"method": "POST", "url": "Patient?identifier=1"})),
            Operation::Create { criteria: Some("identifier=1".into()) },
        );
        same(operation(json!({"method": "POST", "url": "Patient?"})), Operation::Create { criteria: None });
        same(
            operation(json!({"method": "PUT", "url": "http://lango/fhir/Patient/a", "ifMatch": "W/\"3\""})),
            Operation::Update { id: "a".into(), condition: Condition::Version(Versions::one(3)) },
        );
        same(
            operation(json!({"method": "PUT", "url": "Patient?identifier=1"})),
            Operation::UpdateWhere { criteria: "identifier=1".into(), condition: Condition::Any },
        );
        same(
            operation(json!({"method": "DELETE", "url": "Patient?identifier=1"})),
            Operation::DeleteWhere { criteria: "identifier=1".into(), condition: Condition::Any },
        );
    }

    #[test]
    fn a_search_by_post_is_what_a_get_would_say() {
        assert_eq!(searched("Patient/_search?_id=a").as_deref(), Some("Patient?_id=a"));
        assert_eq!(searched("_search?_type=Patient").as_deref(), Some("?_type=Patient"));
        assert_eq!(searched("Patient/a/Observation/_search").as_deref(), Some("Patient/a/Observation?"));
        assert_eq!((searched("Patient"), searched("Patient/x_search"), searched("Patient?_search")), (None, None, None));
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
        let twice = json!({"method": "POST", "url": "Patient?identifier=1", "ifNoneExist": "identifier=2"});
        assert_eq!(refused(twice), (400, "Bundle.entry[4].request.ifNoneExist".into()));
        assert_eq!(refused(json!({"method": "PATCH", "url": "Patient/1"})), (400, "Bundle.entry[4].resource".into()));
        assert_eq!(refused(json!({"method": "PUT", "url": "Patient/1", "ifMatch": "x"})), (400, "Bundle.entry[4].request.ifMatch".into()));
        for unclear in [json!({"ifNoneMatch": "W/\"1\""}), json!({"ifNoneMatch": ""})] {
            let mut request = json!({"method": "PUT", "url": "Patient/1"});
            request.as_object_mut().unwrap().extend(unclear.as_object().unwrap().clone());
            assert_eq!(refused(request).1, "Bundle.entry[4].request.ifNoneMatch");
        }
        let both = json!({"method": "DELETE", "url": "Patient/1", "ifMatch": "W/\"1\"", "ifNoneMatch": "*"});
        assert_eq!(refused(both).1, "Bundle.entry[4].request.ifMatch");
    }

    #[test]
    fn every_problem_of_an_entry_is_told_at_once() {
        let entry = json!({
            "fullUrl": 5, "foo": true, "request": { "method": "PUT", "url": "Alien/1", "ifMatch": "x" },
            "resource": { "resourceType": "Patient", "birthDate": "x", "gender": "x" },
        });
        let Err(refusal) = read(entry) else { panic!("accepted") };
        let mut places: Vec<&str> = refusal.issues.iter().map(|issue| issue.expression.strip_prefix("Bundle.entry[4].").unwrap()).collect();
        places.sort_unstable();
        assert_eq!(places, ["foo", "fullUrl", "request.ifMatch", "request.url", "resource.birthDate", "resource.gender"]);
    }
}
