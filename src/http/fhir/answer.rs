//! Answers on their way out: headers from the version, the form that was asked for, 304 where nothing changed.

use super::super::error::Failure;
use super::super::negotiate::Format;
use crate::fhir::time::Micros;
use crate::fhir::{Issue, IssueCode, json, xml};
use crate::ingest::etag::parse_etag;
use crate::ingest::{Refusal, RefusalKind};
use crate::store::Stored;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use jiff::Timestamp;
use std::any::Any;

/// What an interaction answers, its body in JSON.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// For `ETag`.
    pub version: Option<i64>,
    /// For `Last-Modified`.
    pub updated: Option<Micros>,
    pub location: Option<String>,
    pub body: Option<Bytes>,
    /// What the body has no place to say; told in headers `Warning`, and in a Bundle as the outcome of the entry.
    pub warnings: Vec<Issue>,
}

impl Answer {
    pub fn ok(body: impl Into<Bytes>) -> Answer {
        Answer { status: StatusCode::OK, version: None, updated: None, location: None, body: Some(body.into()), warnings: Vec::new() }
    }

    /// A version of a resource; 410 when that version is a delete.
    pub fn of_stored(stored: Stored) -> Result<Answer, Failure> {
        let body = stored.body.ok_or_else(Refusal::gone)?;
        Ok(Answer {
            status: StatusCode::OK,
            version: Some(stored.version),
            updated: Some(stored.updated),
            location: None,
            body: Some(body),
            warnings: Vec::new(),
        })
    }

    /// 304 when a GET names the version (`If-None-Match`) or a time since which nothing changed (`If-Modified-Since`).
    pub fn unless_unchanged(self, method: &Method, headers: &HeaderMap) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return self;
        }
        let since = super::header_text(headers, header::IF_MODIFIED_SINCE).and_then(parse_http_date);
        // Of the whole second.
        let since = since.map(|second| second.saturating_mul(1_000_000).saturating_add(999_999));
        self.unless_held(super::header_text(headers, header::IF_NONE_MATCH), since)
    }

    /// 304 when the version is one of these, or, where none are named, nothing changed since then.
    pub fn unless_held(self, tags: Option<&str>, since: Option<Micros>) -> Answer {
        let (Some(version), Some(updated), StatusCode::OK) = (self.version, self.updated, self.status) else { return self };
        let unchanged = match tags {
            Some(tags) => tags == "*" || tags.split(',').any(|tag| parse_etag(tag) == Some(version)),
            None => since.is_some_and(|since| updated <= since),
        };
        if unchanged { Answer { status: StatusCode::NOT_MODIFIED, body: None, ..self } } else { self }
    }

    /// The response. It cannot fail: what is answered may be a change that was made.
    pub fn render(mut self, asked: Format, pretty: bool) -> Response {
        let (format, body) = match self.body.take() {
            Some(body) => {
                let (format, body) = formed(body, asked, pretty);
                (format, Some(body))
            }
            None => (asked, None),
        };
        if format != asked {
            self.warnings.insert(0, Issue::warning(IssueCode::NotSupported, "This answer has no XML form, so it is told in JSON."));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        }
        if let Some(version) = self.version.filter(|version| *version > 0) {
            put(headers, header::ETAG, &format!("W/\"{version}\""));
        }
        if let Some(updated) = self.updated.filter(|updated| *updated > 0) {
            put(headers, header::LAST_MODIFIED, &http_date(updated));
        }
        if let Some(location) = &self.location {
            put(headers, header::LOCATION, location);
        }
        for warning in self.warnings.iter().take(MOST_WARNINGS) {
            if let Ok(value) = HeaderValue::from_str(&warning_value(&warning.diagnostics)) {
                headers.append(header::WARNING, value);
            }
        }
        *response.body_mut() = Body::from(body.unwrap_or_default());
        response
    }
}

/// The body in the form that was asked for; what has no XML form stays JSON.
fn formed(body: Bytes, asked: Format, pretty: bool) -> (Format, Bytes) {
    let xml = if asked == Format::Xml { xml::from_json(&body, pretty).ok() } else { None };
    match xml {
        Some(xml) => (Format::Xml, xml.into()),
        None if pretty => (Format::Json, json::pretty(&body).into()),
        None => (Format::Json, body),
    }
}

/// The answer to a request that failed.
pub fn failure(failure: &Failure, format: Format, pretty: bool) -> Response {
    let (format, body) = formed(failure.outcome().into(), format, pretty);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = failure.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if let Some(allow) = failure.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if failure.status == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of the body may still be on its way.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let seconds = match failure.status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(5),
        // As it is it will be too large then too, unless the operator allows more meanwhile.
        StatusCode::PAYLOAD_TOO_LARGE => Some(3600),
        _ => None,
    };
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(failure.retry_after.unwrap_or(seconds)));
    }
    response
}

/// The answer when a handler panicked. The panic's own words may hold anything, so they stay in the log of the process.
pub fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    failure(&Refusal::internal(anyhow::anyhow!("a handler panicked")).into(), Format::Json, false)
}

pub fn not_logged_in() -> Failure {
    let words = "Log in: send Authorization: Bearer with a token from /auth/token.";
    Failure::new(StatusCode::UNAUTHORIZED, Issue::error(IssueCode::Login, words))
}

/// A failure within a Bundle.
pub fn refusal_of(failure: Failure) -> Refusal {
    let kind = match failure.status.as_u16() {
        403 => RefusalKind::Forbidden,
        404 => RefusalKind::NotFound,
        405 => RefusalKind::NotAllowed,
        409 => RefusalKind::Conflict,
        410 => RefusalKind::Gone,
        412 => RefusalKind::PreconditionFailed,
        413 => RefusalKind::TooLarge,
        422 => RefusalKind::Invalid,
        429 => RefusalKind::Throttled,
        503 => RefusalKind::Busy,
        500 => RefusalKind::Internal,
        _ => RefusalKind::Malformed,
    };
    Refusal::all(kind, failure.issues)
}

/// Warnings that one answer tells of.
const MOST_WARNINGS: usize = 20;

/// `299 - "words"` (<https://www.rfc-editor.org/rfc/rfc7234#section-5.5>), in the characters that a header may have.
fn warning_value(words: &str) -> String {
    let plain = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '?' };
    format!("299 - \"{}\"", words.chars().map(plain).collect::<String>())
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `Sat, 21 Nov 2026 04:22:53 GMT`.
fn http_date(micros: Micros) -> String {
    Timestamp::from_microsecond(micros).map(|stamp| stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap_or_default()
}

/// Seconds since the epoch.
fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.strip_suffix(" GMT")?;
    let moment = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S", text).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer { version: Some(3), updated: Some(1_795_235_773_500_000), ..Answer::ok("{}") }
    }

    fn asked(name: HeaderName, value: &'static str) -> StatusCode {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        answer().unless_unchanged(&Method::GET, &headers).status
    }

    #[test]
    fn what_the_caller_has_is_not_sent_again() {
        assert_eq!(http_date(1_795_235_773_500_000), "Sat, 21 Nov 2026 04:36:13 GMT");
        assert_eq!(asked(header::IF_NONE_MATCH, "W/\"3\""), StatusCode::NOT_MODIFIED);
        assert_eq!(asked(header::IF_NONE_MATCH, "W/\"2\", \"3\""), StatusCode::NOT_MODIFIED);
        assert_eq!(asked(header::IF_NONE_MATCH, "W/\"2\""), StatusCode::OK);
        assert_eq!(asked(header::IF_MODIFIED_SINCE, "Sat, 21 Nov 2026 04:36:13 GMT"), StatusCode::NOT_MODIFIED);
        assert_eq!(asked(header::IF_MODIFIED_SINCE, "Sat, 21 Nov 2026 04:36:12 GMT"), StatusCode::OK);
        assert_eq!(asked(header::IF_MODIFIED_SINCE, "yesterday"), StatusCode::OK);
    }

    #[tokio::test]
    async fn what_was_done_is_told_in_json_where_xml_cannot() {
        let body = r#"{"resourceType":"Patient","foo":[1]}"#;
        for (pretty, told) in [(false, body), (true, "{\n  \"resourceType\": \"Patient\",\n  \"foo\": [\n    1\n  ]\n}")] {
            let created = Answer { status: StatusCode::CREATED, location: Some("x".into()), ..Answer::ok(body) };
            let response = created.render(Format::Xml, pretty);
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(response.headers()[header::LOCATION], "x");
            assert_eq!(response.headers()[header::CONTENT_TYPE], Format::Json.media_type());
            assert!(response.headers()[header::WARNING].to_str().unwrap().contains("no XML form"));
            assert_eq!(axum::body::to_bytes(response.into_body(), 10_000).await.unwrap(), told);
        }
    }

    #[tokio::test]
    async fn failures_come_in_the_form_that_was_asked_for() {
        let response = failure(&Failure::method_not_allowed("GET"), Format::Xml, false);
        assert_eq!(response.headers()[header::ALLOW], "GET");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(body.starts_with(b"<"), "{body:?}");
    }
}
