//! Speaking to a DHIS2 server: metadata in, one import out, and what to think of an answer that is no verdict.

use super::config::{Dhis2Destination, Login, is_uid};
use super::mapping::list;
use super::metadata::{DataSet, Metadata};
use super::plan::PlannedRequest;
use super::verdict::Verdict;
use crate::destinations::retry_after;
use jiff::civil::Date;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url, redirect};
use serde_json::Value;
use std::time::Duration;

/// Metadata of a national data set is some megabytes; more is not DHIS2 speaking.
const MOST_METADATA: usize = 64 << 20;
const MOST_VERDICT: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Org units asked for in one request, so that its address stays short.
const ORG_UNITS_AT_ONCE: usize = 50;

/// Why there is no verdict. The words never hold credentials or the server's page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// May go better by itself. `after`: the server asked to be left alone so long.
    #[error("{words}")]
    Transient { words: String, after: Option<Duration> },
    /// Needs a person.
    #[error("{words}")]
    Permanent { words: String },
}

impl Failure {
    fn permanent(words: impl Into<String>) -> Failure {
        Failure::Permanent { words: words.into() }
    }

    fn transient(words: impl Into<String>) -> Failure {
        Failure::Transient { words: words.into(), after: None }
    }
}

/// What the server says of itself, a data set and the user: the same for every facility.
#[derive(Debug)]
pub(super) struct Frame {
    info: Value,
    data_set: Option<Value>,
    combos: Value,
    me: Value,
}

/// A connection to one destination. It follows no redirect, so credentials go to the configured host only.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    pub fn new(destination: &Dhis2Destination) -> Result<Client, Failure> {
        let authorization = match &destination.login {
            Login::Basic { username, password } => {
                use base64::Engine;
                let pair = format!("{username}:{}", password.expose());
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
            Login::ApiToken(token) => format!("ApiToken {}", token.expose()),
            Login::Bearer(token) => format!("Bearer {}", token.expose()),
        };
        let mut value = HeaderValue::from_str(&authorization).map_err(|_| {
            Failure::permanent("The destination's secret holds characters that cannot be sent. Check the environment variable.")
        })?;
        value.set_sensitive(true);
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]))
            .redirect(redirect::Policy::none())
            .connect_timeout(destination.timeout.min(CONNECT_TIMEOUT))
            .timeout(destination.timeout)
            .user_agent(concat!("lango/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| Failure::permanent("The HTTP client could not be set up."))?;
        Ok(Client { http, base: destination.base.clone() })
    }

    /// Reads what a plan needs: the data set, its combinations, and the org units with these codes or uids.
    pub async fn metadata(&self, data_set: &str, org_units: &[&str]) -> Result<Metadata, Failure> {
        let frame = self.frame(data_set).await?;
        self.metadata_in(&frame, org_units).await
    }

    /// The same with what is known of the server and the data set; only the org units are asked for.
    pub(super) async fn metadata_in(&self, frame: &Frame, org_units: &[&str]) -> Result<Metadata, Failure> {
        // A name that would end the filter's list cannot be a DHIS2 code that this filter finds.
        let names = || org_units.iter().copied().filter(|name| !name.is_empty() && !name.contains([',', '[', ']', ':']));
        let mut units = self.org_units("code", names().collect()).await?;
        units.extend(self.org_units("id", names().filter(|name| is_uid(name)).collect()).await?);
        let units = serde_json::json!({ "organisationUnits": units });
        Ok(Metadata::from_server(&frame.info, frame.data_set.as_ref(), &frame.combos, &units, &frame.me))
    }

    /// Reads what is the same for every facility.
    pub(super) async fn frame(&self, data_set: &str) -> Result<Frame, Failure> {
        let info = self.get(&["system", "info"], &[]).await?.ok_or_else(|| {
            Failure::permanent("There is no DHIS2 at the destination's url: api/system/info was not found. Check url in lango.toml.")
        })?;
        let fields = "id,code,name,periodType,expiryDays,openFuturePeriods,dataInputPeriods,workflow,categoryCombo[id],\
                      dataSetElements[dataElement[id,code,name,valueType,zeroIsSignificant,categoryCombo[id]],categoryCombo[id]],organisationUnits[id]";
        let data_set = self.get(&["dataSets", data_set], &[("fields", fields)]).await?;
        let combos = match data_set.as_ref().and_then(DataSet::read) {
            Some(read) => {
                let wanted: Vec<&str> = Metadata::combo_ids(&read).into_iter().collect();
                let filter = format!("id:in:[{}]", wanted.join(","));
                let fields = "id,name,isDefault,categoryOptionCombos[id,name,categoryOptions[id,code]]";
                self.get(&["categoryCombos"], &[("filter", &filter), ("fields", fields), ("paging", "false")]).await?
            }
            None => None,
        };
        let me = self.get(&["me"], &[("fields", "organisationUnits[id]")]).await?;
        Ok(Frame { info, data_set, combos: combos.unwrap_or_default(), me: me.unwrap_or_default() })
    }

    async fn org_units(&self, property: &str, names: Vec<&str>) -> Result<Vec<Value>, Failure> {
        let mut units = Vec::new();
        for names in names.chunks(ORG_UNITS_AT_ONCE) {
            let filter = format!("{property}:in:[{}]", names.join(","));
            let query = [("filter", filter.as_str()), ("fields", "id,code,path,openingDate,closedDate"), ("paging", "false")];
            let answer = self.get(&["organisationUnits"], &query).await?;
            units.extend(list(&answer.unwrap_or_default(), "organisationUnits").iter().cloned());
        }
        Ok(units)
    }

    /// Sends one request. A verdict, good or bad, is `Ok`.
    pub async fn send(&self, request: &PlannedRequest) -> Result<Verdict, Failure> {
        let url = self.url(&["dataValueSets"], request.query.iter().copied())?;
        let response = self.http.post(url).json(&request.body).send().await.map_err(no_answer)?;
        let (status, after) = (response.status(), retry_after(response.headers()));
        let body = read(response, MOST_VERDICT).await?;
        // An import that failed inside the server says so with a 5xx, even if it looks like a summary: that is no verdict.
        if !status.is_server_error()
            && let Some(verdict) = Verdict::parse(status.as_u16(), &body, &request.cells)
        {
            return Ok(verdict);
        }
        Err(match status {
            StatusCode::CONFLICT => Failure::permanent(format!("DHIS2 refused the request as a whole (409): {}", message_of(&body))),
            status if status.is_success() => {
                Failure::transient("DHIS2 answered 200 without an import summary; whether the values were stored is not known.")
            }
            status => refused(status, after, &message_of(&body)),
        })
    }

    /// Registers the data set of a request as complete for its org unit and period
    /// (`POST /api/completeDataSetRegistrations`). Doing it again changes nothing.
    pub async fn complete(&self, request: &PlannedRequest, day: Date) -> Result<(), Failure> {
        let part = |key: &str| request.body.get(key).cloned().unwrap_or_default();
        let mut registration = serde_json::json!({
            "dataSet": part("dataSet"), "period": part("period"), "organisationUnit": part("orgUnit"), "date": day.to_string(), "completed": true,
        });
        if let Some(combo) = request.body.get("attributeOptionCombo") {
            registration["attributeOptionCombo"] = combo.clone();
        }
        let of_values = request.query.iter().copied().filter(|(name, _)| *name == "orgUnitIdScheme");
        let query = of_values.chain([("dataSetIdScheme", "UID"), ("attributeOptionComboIdScheme", "UID")]);
        let url = self.url(&["completeDataSetRegistrations"], query)?;
        let body = serde_json::json!({ "completeDataSetRegistrations": [registration] });
        let response = self.http.post(url).json(&body).send().await.map_err(no_answer)?;
        let (status, after) = (response.status(), retry_after(response.headers()));
        let body = read(response, MOST_VERDICT).await?;
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(refused(status, after, &message_of(&body)));
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        // Bare up to 2.36, in a WebMessage from 2.37.
        let summary = answer.get("response").unwrap_or(&answer);
        match (status.is_success(), summary.get("status").and_then(Value::as_str), list(summary, "conflicts").first()) {
            (true, Some("SUCCESS" | "OK"), None) => Ok(()),
            (_, _, conflict) => {
                let why =
                    conflict.and_then(|conflict| conflict.get("value")).and_then(Value::as_str).map(|why| why.chars().take(300).collect());
                let why: String = why.unwrap_or_else(|| message_of(&body));
                Err(Failure::permanent(format!("The values were stored, but DHIS2 did not register the data set as complete: {why}")))
            }
        }
    }

    /// `None` for 404.
    async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<Value>, Failure> {
        let response = self.http.get(self.url(path, query.iter().copied())?).send().await.map_err(no_answer)?;
        let (status, after) = (response.status(), retry_after(response.headers()));
        let body = read(response, MOST_METADATA).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_slice(&body).map(Some).map_err(|_| {
                Failure::permanent(format!(
                    "api/{} answered with something other than JSON. Check that url is the address of DHIS2 itself.",
                    path.join("/")
                ))
            }),
            status => Err(refused(status, after, &message_of(&body))),
        }
    }

    fn url<'q>(&self, path: &[&str], query: impl Iterator<Item = (&'q str, &'q str)>) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::permanent("The destination's url has no path."))?
            .pop_if_empty()
            .push("api")
            .extend(path);
        let query: Vec<_> = query.collect();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

/// What a status without a verdict means.
fn refused(status: StatusCode, after: Option<Duration>, message: &str) -> Failure {
    let words = match status {
        StatusCode::UNAUTHORIZED => {
            "DHIS2 refused the credentials (401). Check username and the environment variable with the secret.".into()
        }
        StatusCode::FORBIDDEN => {
            format!("The destination's user lacks a right (403): it needs F_DATAVALUE_ADD and access to the data set. {message}")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            "A proxy refused the size of the request (413). Ask the administrator to allow larger ones.".into()
        }
        StatusCode::TOO_MANY_REQUESTS => "DHIS2 asked to slow down (429).".into(),
        status if status.is_redirection() => {
            format!(
                "The server redirects ({}); lango sends credentials to the configured host only. Write the final address into url.",
                status.as_u16()
            )
        }
        status => format!("DHIS2 answered {}. {message}", status.as_u16()),
    };
    let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if again { Failure::Transient { words, after } } else { Failure::Permanent { words } }
}

/// The `message` of a WebMessage, kept short; nothing of a page that is not one.
fn message_of(body: &[u8]) -> String {
    let message = serde_json::from_slice::<Value>(body).ok();
    let message = message.as_ref().and_then(|body| body.get("message")).and_then(Value::as_str).unwrap_or_default();
    message.chars().take(300).collect()
}

fn no_answer(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    match () {
        () if error.is_timeout() => {
            Failure::transient("DHIS2 did not answer in time; the values may have been stored, and sending them again is safe.")
        }
        () if error.is_connect() => Failure::transient("DHIS2 could not be reached."),
        () if error.is_builder() => Failure::permanent("The request to DHIS2 could not be built."),
        () => Failure::transient("The connection to DHIS2 broke; the values may have been stored, and sending them again is safe."),
    }
}

async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if body.len() + chunk.len() > most {
            return Err(Failure::permanent("DHIS2's answer is larger than lango reads."));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::RETRY_AFTER;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]));
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), None, "a date gone by");
        assert!(read("Wed, 21 Oct 2099 07:28:00 GMT").is_some());
    }

    #[test]
    fn only_what_may_go_better_by_itself_is_transient() {
        for (status, transient) in [
            (500, true),
            (502, true),
            (503, true),
            (504, true),
            (429, true),
            (408, true),
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (413, false),
            (415, false),
            (302, false),
        ] {
            let failure = refused(StatusCode::from_u16(status).unwrap(), None, "");
            assert_eq!(matches!(failure, Failure::Transient { .. }), transient, "{status}");
        }
    }
}
