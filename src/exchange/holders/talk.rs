//! One conversation with a holder: requests that go nowhere else, answers that are read no further than they may be long.
//!
//! A visit, a document, a result hand their labels on, so they must be known even where nobody wants them. The types of the first two are always asked
//! for. Where the answer may lack some all the same, because they are older than what is wanted or there was too much, they are asked for once more
//! by themselves, and the results that reports name where these are not there.

use super::locate::Identifier;
use super::login::Login;
use super::{Holder, HolderError, Told, VIA, Wanted};
use crate::access::Claimed;
use crate::config::{HolderKind, Secret};
use crate::definitions;
use crate::fhir::Reference;
use crate::fhir::json;
use crate::fhir::reference::is_id;
use crate::fhir::time::{Micros, format_instant};
use crate::ingest::workers::Workers;
use crate::search::escape;
use reqwest::{RequestBuilder, StatusCode, Url, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) const FORM: &str = "application/x-www-form-urlencoded";
const FHIR_JSON: &str = "application/fhir+json";
/// Resources, pages and JSON values of one answer.
const MOST_RESOURCES: usize = 5_000;
const MOST_PAGES: usize = 100;
const MOST_VALUES: usize = 2_000_000;
/// Entries of a page that lango asks for.
const PAGE: usize = 500;
/// Types that are named in a question; of more all are asked for, and the others left out here.
const MOST_TYPES: usize = 20;
/// Patients that may carry one number at one holder.
const MOST_PATIENTS: usize = 5;

/// The body of a 200.
pub(super) struct Answer {
    pub body: Vec<u8>,
    pub content_type: String,
}

/// Sends a request and reads its answer, at most `most` bytes of it, which must be a 200.
pub(super) async fn send(request: RequestBuilder, most: usize) -> Result<Answer, HolderError> {
    let mut response = request.send().await.map_err(|_| HolderError::Unreachable)?;
    match response.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(HolderError::Redirect),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => return Err(HolderError::Failing(status.as_u16())),
        status => return Err(HolderError::Refused(status.as_u16())),
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| HolderError::Unreachable)? {
        if body.len().saturating_add(chunk.len()) > most {
            return Err(HolderError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { body, content_type })
}

/// What is left of what one question may cost.
struct Talk<'a> {
    holder: &'a Holder,
    workers: &'a Workers,
    token: Option<Secret>,
    bytes: usize,
    pages: usize,
    /// The holder's ids of the patient, once a search found them.
    patients: Option<Vec<String>>,
    resources: Vec<Value>,
    cut: bool,
}

/// What of a record is asked for.
struct Question {
    /// None: all.
    types: Vec<&'static str>,
    since: Option<Micros>,
}

/// What tells whose the rest is and how sensitive.
const TELLING: [&str; 3] = ["Patient", "Encounter", "Composition"];
/// What a report has as results.
const RESULT: &str = "Observation";

impl Question {
    fn of(wanted: &Wanted) -> Question {
        let names = wanted.types.iter().map(|code| definitions::r4().type_name(*code)).filter(|name| !TELLING.contains(name));
        let few = wanted.types.len() <= MOST_TYPES;
        Question { types: names.chain(TELLING).filter(|_| few).collect(), since: wanted.since }
    }

    /// The whole record's of these types.
    fn whole(types: &[&'static str]) -> Question {
        Question { types: types.to_vec(), since: None }
    }

    fn holds(&self, name: &str) -> bool {
        self.types.is_empty() || self.types.contains(&name)
    }
}

impl Holder {
    /// Everything that the holder tells of the patient with this identifier, unread. A token that the holder does not know any more is replaced once.
    pub(super) async fn tell(
        &self,
        identifier: &Identifier,
        wanted: &Wanted,
        claimed: &Claimed,
        workers: &Workers,
    ) -> Result<Told, HolderError> {
        match self.tell_once(identifier, wanted, claimed, workers).await {
            Err(HolderError::Refused(401)) => {
                Login::forget(&self.login);
                self.tell_once(identifier, wanted, claimed, workers).await.map_err(|error| match error {
                    HolderError::Refused(401) => HolderError::Login,
                    error => error,
                })
            }
            told => told,
        }
    }

    async fn tell_once(&self, identifier: &Identifier, wanted: &Wanted, claimed: &Claimed, workers: &Workers) -> Result<Told, HolderError> {
        let mut talk = self.talk(claimed, workers).await?;
        let question = Question::of(wanted);
        talk.ask(identifier, &question).await?;
        let mut told = Told { resources: std::mem::take(&mut talk.resources), cut: talk.cut, ..Told::default() };
        if told.resources.is_empty() {
            return Ok(told);
        }
        let in_part = told.cut || wanted.since.is_some();
        if in_part {
            told.is_untold = !talk.asks_besides(identifier, &TELLING, &mut told.telling).await;
            // Without the Patient, all would be somebody's.
            told.cut |= told.is_untold;
        }
        if (in_part || !question.holds(RESULT)) && names_absent_results(&told.resources, &self.settings.url) {
            // A report whose result is still not there has any label.
            talk.asks_besides(identifier, &[RESULT], &mut told.telling).await;
        }
        Ok(told)
    }

    async fn talk<'a>(&'a self, claimed: &Claimed, workers: &'a Workers) -> Result<Talk<'a>, HolderError> {
        let token = self.token(claimed).await?;
        let (bytes, pages) = (self.most_bytes, MOST_PAGES);
        Ok(Talk { holder: self, workers, token, bytes, pages, patients: None, resources: Vec::new(), cut: false })
    }

    pub(super) async fn greet(&self, workers: &Workers) -> Result<(), HolderError> {
        let mut talk = self.talk(&Claimed::default(), workers).await?;
        let statement = talk.json(self.http.get(format!("{}/metadata", self.settings.url))).await?;
        let version = statement.get("fhirVersion").and_then(Value::as_str).unwrap_or_default();
        if version.starts_with("4.0") { Ok(()) } else { Err(HolderError::Crooked("its CapabilityStatement is not one of FHIR 4.0")) }
    }
}

impl Talk<'_> {
    async fn ask(&mut self, identifier: &Identifier, question: &Question) -> Result<(), HolderError> {
        match self.holder.settings.kind {
            HolderKind::Lango => self.record_lookup(identifier, question).await,
            HolderKind::Fhir => self.everything(identifier, question).await,
        }
    }

    /// The same once more, of all that there is of these types. Answers whether `into` holds it whole.
    async fn asks_besides(&mut self, identifier: &Identifier, types: &[&'static str], into: &mut Vec<Value>) -> bool {
        (self.pages, self.cut) = (MOST_PAGES, false);
        let asked = self.ask(identifier, &Question::whole(types)).await;
        into.append(&mut self.resources);
        if let Err(error) = &asked {
            tracing::warn!(facility = self.holder.settings.facility, %error, "a holder did not tell how sensitive all is that it answered");
        }
        asked.is_ok() && !self.cut
    }

    /// `Patient/$record-lookup` of another lango.
    async fn record_lookup(&mut self, identifier: &Identifier, question: &Question) -> Result<(), HolderError> {
        let mut parameters = vec![
            json!({ "name": "identifier", "valueIdentifier": { "system": identifier.system, "value": identifier.value } }),
            json!({ "name": "_count", "valueInteger": PAGE }),
        ];
        parameters.extend(question.types.iter().map(|name| json!({ "name": "type", "valueCode": name })));
        parameters.extend(question.since.map(|since| json!({ "name": "since", "valueInstant": format_instant(since) })));
        let body = json!({ "resourceType": "Parameters", "parameter": parameters }).to_string();
        let url = format!("{}/Patient/$record-lookup", self.holder.settings.url);
        let request = self.holder.http.post(url).header(header::CONTENT_TYPE, FHIR_JSON).body(body);
        self.pages(request).await
    }

    /// A search for the Patient, by POST so that the identifier stands in no URL, and `$everything` of whom it finds
    /// (<https://hl7.org/fhir/R4/patient-operation-everything.html>).
    async fn everything(&mut self, identifier: &Identifier, question: &Question) -> Result<(), HolderError> {
        let patients = match self.patients.take() {
            Some(patients) => patients,
            None => self.search(identifier).await?,
        };
        let patients = self.patients.insert(patients).clone();
        for id in patients {
            let url = format!("{}/Patient/{id}/$everything?{}", self.holder.settings.url, narrowed(question));
            self.pages(self.holder.http.get(url)).await?;
        }
        Ok(())
    }

    /// Takes in the Patients with this identifier; answers their ids.
    async fn search(&mut self, identifier: &Identifier) -> Result<Vec<String>, HolderError> {
        let asked = format!("{}|{}", escape(&identifier.system), escape(&identifier.value));
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("identifier", &asked).finish();
        let url = format!("{}/Patient/_search", self.holder.settings.url);
        self.pages(self.holder.http.post(url).header(header::CONTENT_TYPE, FORM).body(form)).await?;
        let known = self.resources.iter().filter(|resource| identifier.is_of(resource));
        let mut ids: Vec<String> =
            known.filter_map(|patient| patient.get("id")?.as_str()).filter(|id| is_id(id)).map(str::to_owned).collect();
        self.cut |= ids.len() > MOST_PATIENTS;
        ids.truncate(MOST_PATIENTS);
        Ok(ids)
    }

    /// Takes in a searchset, page by page.
    async fn pages(&mut self, first: RequestBuilder) -> Result<(), HolderError> {
        let mut page = self.json(first).await?;
        loop {
            let next = self.take(page)?;
            let Some(next) = next else { return Ok(()) };
            self.pages = self.pages.saturating_sub(1);
            let Some(url) = self.below(&next).filter(|_| self.pages > 0 && self.resources.len() < MOST_RESOURCES) else {
                self.cut = true;
                return Ok(());
            };
            page = match self.json(self.holder.http.get(url)).await {
                Ok(page) => page,
                Err(error) => {
                    // What came before it is whole.
                    tracing::warn!(facility = self.holder.settings.facility, %error, "a holder's answer has fewer pages than it promised");
                    self.cut = true;
                    return Ok(());
                }
            };
        }
    }

    /// The resources of one page; answers the address of the next one.
    fn take(&mut self, mut page: Value) -> Result<Option<String>, HolderError> {
        let text = |pointer: &str| page.pointer(pointer).and_then(Value::as_str);
        if text("/resourceType") != Some("Bundle") || text("/type") != Some("searchset") {
            return Err(HolderError::Crooked("its answer is no searchset"));
        }
        let links = page.get("link").and_then(Value::as_array).into_iter().flatten();
        let mut links = links.filter(|link| link.get("relation").and_then(Value::as_str) == Some("next"));
        let next = links.find_map(|link| link.get("url")?.as_str()).map(str::to_owned);
        let entries = page.get_mut("entry").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        for mut entry in entries {
            if entry.pointer("/search/mode").and_then(Value::as_str) == Some("outcome") {
                continue;
            }
            if self.resources.len() >= MOST_RESOURCES {
                self.cut = true;
                break;
            }
            self.resources.extend(entry.get_mut("resource").map(Value::take));
        }
        Ok(next)
    }

    /// The address, if it is below the one that the operator approved.
    fn below(&self, address: &str) -> Option<Url> {
        let (base, url) = (Url::parse(&self.holder.settings.url).ok()?, Url::parse(address).ok()?);
        let rest = url.path().strip_prefix(base.path().trim_end_matches('/'))?;
        let plain = url.username().is_empty() && url.password().is_none();
        (plain && url.origin() == base.origin() && (rest.is_empty() || rest.starts_with('/'))).then_some(url)
    }

    async fn json(&mut self, request: RequestBuilder) -> Result<Value, HolderError> {
        let request = request.header(header::ACCEPT, FHIR_JSON).header(header::VIA, format!("1.1 {VIA}"));
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        let Answer { body, content_type } = send(request, self.bytes).await?;
        self.bytes = self.bytes.saturating_sub(body.len());
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case(FHIR_JSON) && !kind.eq_ignore_ascii_case("application/json") {
            return Err(HolderError::Crooked("its answer is not called application/fhir+json"));
        }
        if json::count_values(&body) > MOST_VALUES {
            return Err(HolderError::TooLarge);
        }
        let parsed = self.workers.run(move || json::parse(&body)).await.map_err(|_| HolderError::Busy)?;
        parsed.map_err(|_| HolderError::Crooked("its answer is no JSON"))
    }
}

/// The parameters of `$everything`.
fn narrowed(question: &Question) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("_count", &PAGE.to_string());
    query.extend_pairs(question.since.map(|since| ("_since", format_instant(since))));
    if !question.types.is_empty() {
        query.append_pair("_type", &question.types.join(","));
    }
    query.finish()
}

/// Whether a report among them names a result by an id of the holder at `base` that is not among them.
fn names_absent_results(resources: &[Value], base: &str) -> bool {
    let of_type =
        |name: &'static str| resources.iter().filter(move |resource| resource.get("resourceType").and_then(Value::as_str) == Some(name));
    let known: BTreeSet<&str> = of_type(RESULT).filter_map(|result| result.get("id")?.as_str()).collect();
    let results = of_type("DiagnosticReport").filter_map(|report| report.get("result")?.as_array()).flatten();
    let mut named = results.filter_map(|result| Reference::parse_at(result.get("reference")?.as_str()?, base));
    named.any(|named| matches!(named, Reference::Local { type_name: RESULT, id, .. } if !known.contains(id)))
}
