//! Files into the store: what `lango import` and the demo do, by the same paths as HTTP.
//!
//! A file is a Bundle, a template payload, one resource or NDJSON, plain or gzip; its content says which. A Bundle that refers by
//! criteria to something not there yet (`Practitioner?identifier=…`) waits until the other files are loaded, so the order of
//! files does not matter.

use super::bundle::{self, Fetch, Fetched, Return};
use super::refusal::{Refusal, RefusalKind};
use super::submit::{Door, Outcome, SubmitError, Submitter};
use super::write::{Author, Writer};
use crate::access::Caller;
use crate::definitions;
use crate::fhir::{Issue, IssueCode, json};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files that are worked on at the same time.
const AT_ONCE: usize = 4;
/// A file's size after decompression at most.
const MOST_BYTES: u64 = 1 << 30;
/// Resources of one transaction when NDJSON is loaded.
const NDJSON_GROUP: usize = 500;

/// What a file came to.
#[derive(Debug)]
pub enum Verdict {
    Loaded,
    /// Some of it was stored, and why the rest was not.
    Partly {
        stored: u64,
        problems: Vec<String>,
    },
    /// Nothing of it was stored, and why.
    Refused(Vec<String>),
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub files: u64,
    /// Files of which nothing was stored.
    pub refused: u64,
    /// Files of which some was stored.
    pub partly: u64,
    /// Resources of Bundles and NDJSON that were stored or were there already.
    pub resources: u64,
    /// Records of template payloads that were stored or were there already.
    pub records: u64,
    /// Records and resources that were refused beside others of their file that were stored.
    pub left_out: u64,
}

impl Total {
    fn add(&mut self, outcome: &Try) {
        match outcome.verdict() {
            Verdict::Loaded => {}
            Verdict::Partly { .. } => self.partly += 1,
            Verdict::Refused(_) => self.refused += 1,
        }
        self.resources += outcome.resources;
        self.records += outcome.records;
        self.left_out += outcome.left_out;
    }
}

/// Loads files for one caller.
#[derive(Clone)]
pub struct Loader {
    pub writer: Writer,
    pub submitter: Submitter,
    pub caller: Caller,
    /// The server's FHIR base URL.
    pub base_url: String,
    pub most_entries: usize,
}

/// All files under `paths`, by name, hidden ones and other kinds left out.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Unreadable> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|cause| Unreadable { path: path.clone(), cause })? {
                let entry = entry.map_err(|cause| Unreadable { path: path.clone(), cause })?.path();
                if entry.is_dir() || is_loadable(&entry) {
                    open.push(entry);
                }
            }
        } else {
            // A file named by the user is read whatever it is called.
            std::fs::metadata(&path).map_err(|cause| Unreadable { path: path.clone(), cause })?;
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file or folder that was named cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read", .path.display())]
pub struct Unreadable {
    path: PathBuf,
    #[source]
    cause: std::io::Error,
}

fn is_loadable(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(name);
    !name.starts_with('.') && (name.ends_with(".json") || name.ends_with(".ndjson"))
}

/// Reads a file, unpacking it when it is gzip.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    let read = MultiGzDecoder::new(bytes.as_slice()).take(MOST_BYTES + 1).read_to_end(&mut plain);
    read.map_err(|error| format!("the gzip data is broken: {error}"))?;
    if plain.len() as u64 > MOST_BYTES {
        return Err("the file is larger than 1 GiB when unpacked: split it".to_owned());
    }
    Ok(plain)
}

/// One file's outcome; `later`: it may succeed when others are loaded.
#[derive(Default)]
struct Try {
    resources: u64,
    records: u64,
    /// Records or resources that were refused.
    left_out: u64,
    problems: Vec<String>,
    later: bool,
}

impl Try {
    fn verdict(&self) -> Verdict {
        match self.resources + self.records {
            _ if self.problems.is_empty() => Verdict::Loaded,
            0 => Verdict::Refused(self.problems.clone()),
            stored => Verdict::Partly { stored, problems: self.problems.clone() },
        }
    }
}

impl Loader {
    /// Loads `files`; `each` hears of every one, with what it came to so far.
    pub async fn load(&self, files: Vec<PathBuf>, mut each: impl FnMut(&Path, Verdict, &Total)) -> Total {
        let mut total = Total { files: files.len() as u64, ..Total::default() };
        let mut waiting = files;
        loop {
            let before = waiting.len();
            let mut later = Vec::new();
            let mut tries = futures_util::stream::iter(std::mem::take(&mut waiting))
                .map(|path| async move {
                    let outcome = self.load_file(&path).await;
                    (path, outcome)
                })
                .buffer_unordered(AT_ONCE);
            while let Some((path, outcome)) = tries.next().await {
                if outcome.later {
                    later.push((path, outcome));
                    continue;
                }
                total.add(&outcome);
                each(&path, outcome.verdict(), &total);
            }
            drop(tries);
            if later.len() == before {
                // Nothing that came since has helped.
                for (path, outcome) in later {
                    total.add(&outcome);
                    each(&path, outcome.verdict(), &total);
                }
                return total;
            }
            if later.is_empty() {
                return total;
            }
            waiting = later.into_iter().map(|(path, _)| path).collect();
            waiting.sort();
        }
    }

    async fn load_file(&self, path: &Path) -> Try {
        let owned = path.to_owned();
        let bytes = match self.writer.workers().run(move || self::read(&owned)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(words)) => return Try { problems: vec![words], ..Try::default() },
            Err(refusal) => return refused(refusal),
        };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.trim_end_matches(".gz").ends_with(".ndjson") {
            return self.load_ndjson(&bytes).await.unwrap_or_else(refused);
        }
        self.load_json(bytes).await.unwrap_or_else(refused)
    }

    async fn load_json(&self, bytes: Vec<u8>) -> Result<Try, Refusal> {
        let bytes = Bytes::from(bytes);
        let (shared, kind) = (bytes.clone(), self.writer.workers());
        let kind = kind.run(move || kind_of(&shared)).await?;
        match kind {
            Kind::Bundle(entries) => {
                let fetch: Fetch<'_> = &|_query| -> BoxFuture<'_, Result<Fetched, Refusal>> {
                    Box::pin(async {
                        let words = "A file that is imported cannot ask for something: leave the GET entries out.";
                        Err(Refusal::new(RefusalKind::NotAllowed, Issue::error(IssueCode::NotSupported, words)))
                    })
                };
                let context = bundle::Context {
                    writer: &self.writer,
                    caller: &self.caller,
                    base_url: &self.base_url,
                    most_entries: self.most_entries,
                    answer: Return::Minimal,
                    fetch,
                };
                bundle::process(&context, bytes).await?;
                Ok(Try { resources: entries, ..Try::default() })
            }
            Kind::Template => match self.submitter.submit(Door::Named, bytes, &self.caller).await {
                Ok(report) => {
                    let left_out = report.rejected() as u64;
                    let problems = report.records.iter().zip(&report.outcomes).flat_map(|(record, outcome)| {
                        let issues: &[Issue] = match outcome {
                            Outcome::Invalid(issues) | Outcome::Failed(issues) => issues,
                            _ => &[],
                        };
                        issues.iter().map(|issue| match issue.expression.starts_with(&record.path) {
                            true => words(issue),
                            false => format!("{}: {}", record.path, words(issue)),
                        })
                    });
                    let records = report.outcomes.len() as u64 - left_out;
                    Ok(Try { records, left_out, problems: problems.collect(), ..Try::default() })
                }
                Err(SubmitError::Envelope(error)) => Ok(Try { problems: error.issues.iter().map(words).collect(), ..Try::default() }),
                Err(SubmitError::Refused(refusal)) => Err(refusal),
            },
            Kind::Resource => {
                let resource = json::parse(&bytes).map_err(|error| Refusal::malformed(error.to_string()))?;
                self.put(vec![(String::new(), resource)]).await
            }
        }
    }

    async fn load_ndjson(&self, bytes: &[u8]) -> Result<Try, Refusal> {
        let mut done = Try::default();
        let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
        let lines: Vec<(usize, &[u8])> = lines.collect();
        for group in lines.chunks(NDJSON_GROUP) {
            let mut resources = Vec::with_capacity(group.len());
            for (number, line) in group {
                match json::parse(line) {
                    Ok(resource) => resources.push((format!("line {}", number + 1), resource)),
                    Err(error) => {
                        done.left_out += 1;
                        done.problems.push(format!("line {}: {error}", number + 1));
                    }
                }
            }
            match self.put(resources).await {
                Ok(part) => {
                    done.resources += part.resources;
                    done.left_out += part.left_out;
                    done.problems.extend(part.problems);
                }
                Err(refusal) if refusal.status() >= 500 => return Err(refusal),
                // What was stored before stays stored; this stretch of lines is one transaction.
                Err(refusal) => {
                    let place = |at: Option<&(usize, &[u8])>| at.map_or(0, |(number, _)| number + 1);
                    let stretch = format!("lines {} to {}", place(group.first()), place(group.last()));
                    done.left_out += group.len() as u64;
                    done.problems
                        .extend(refusal.issues.iter().map(|issue| format!("{stretch}, none of which was stored: {}", words(issue))));
                }
            }
        }
        Ok(done)
    }

    /// Resources with ids of their own, as updates, each with its place in the file.
    async fn put(&self, resources: Vec<(String, Value)>) -> Result<Try, Refusal> {
        let mut problems = Vec::new();
        let mut left_out = 0;
        let mut drafts = Vec::with_capacity(resources.len());
        for (place, resource) in resources {
            let told = |words: String| if place.is_empty() { words } else { format!("{place}: {words}") };
            let issues = self.writer.validator().on_write(&resource);
            let name = resource.get("resourceType").and_then(Value::as_str).and_then(|name| definitions::r4().type_code(name));
            let id = resource.get("id").and_then(Value::as_str).filter(|id| crate::fhir::reference::is_id(id)).map(str::to_owned);
            match (issues.is_empty(), name, id) {
                (true, Some(type_code), Some(id)) => drafts.push(self.writer.draft(type_code, &id, resource)),
                (good, ..) => {
                    left_out += 1;
                    match good {
                        true => problems.push(told("a resource without resourceType or id: give it both".to_owned())),
                        false => problems.extend(issues.iter().map(words).map(told)),
                    }
                }
            }
        }
        let taken = drafts.len() as u64;
        if !drafts.is_empty() {
            self.writer.put_all(drafts, &Author::from(&self.caller)).await?;
        }
        Ok(Try { resources: taken, left_out, problems, ..Try::default() })
    }
}

enum Kind {
    /// With its number of entries.
    Bundle(u64),
    Template,
    Resource,
}

fn kind_of(bytes: &[u8]) -> Kind {
    #[derive(serde::Deserialize)]
    struct Top<'a> {
        #[serde(rename = "resourceType")]
        resource_type: Option<std::borrow::Cow<'a, str>>,
        #[serde(rename = "type")]
        kind: Option<serde_json::Value>,
        #[serde(default)]
        entry: Vec<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Top<'_>>(bytes) {
        Ok(top) if top.resource_type.as_deref() == Some("Bundle") => match top.kind.as_ref().and_then(Value::as_str) {
            Some("transaction" | "batch") => Kind::Bundle(top.entry.len() as u64),
            _ => Kind::Resource,
        },
        // Whatever is no resource is judged as a payload: a template's names are its own.
        Ok(top) if top.resource_type.is_none() => Kind::Template,
        _ => Kind::Resource,
    }
}

fn words(issue: &Issue) -> String {
    if issue.expression.is_empty() { issue.diagnostics.clone() } else { format!("{}: {}", issue.expression, issue.diagnostics) }
}

fn refused(refusal: Refusal) -> Try {
    // What is missing now may be in a file that comes later.
    let later = refusal.issues.iter().any(|issue| issue.code == IssueCode::NotFound);
    Try { problems: refusal.issues.iter().map(words).collect(), later, ..Try::default() }
}
