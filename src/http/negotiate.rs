//! Which form a body has and which form the caller wants (<https://hl7.org/fhir/R4/http.html#mime-type>).

use super::error::Failure;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::bundle::Return;
use axum::http::{HeaderMap, StatusCode, header};

/// A form of FHIR resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Xml,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/fhir+json; charset=utf-8",
            Format::Xml => "application/fhir+xml; charset=utf-8",
        }
    }

    /// `None`: no form of FHIR resources.
    pub fn of_media_type(text: &str) -> Option<Format> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/fhir+json" | "application/json" | "application/json+fhir" | "text/json" | "json" => Some(Format::Json),
            "application/fhir+xml" | "application/xml" | "application/xml+fhir" | "text/xml" | "xml" => Some(Format::Xml),
            // `_format` stands in a URL, where a plus sign means a space.
            "application/fhir json" => Some(Format::Json),
            "application/fhir xml" => Some(Format::Xml),
            _ => None,
        }
    }
}

/// The form to answer in: `_format`, else the best of `Accept`, else JSON.
pub fn wanted(headers: &HeaderMap, format: Option<&str>) -> Result<Format, Failure> {
    let not_acceptable = || {
        let issue = Issue::error(
            IssueCode::NotSupported,
            "Answers come as application/fhir+json or application/fhir+xml, of fhirVersion 4.0: ask for one of these.",
        );
        Failure::new(StatusCode::NOT_ACCEPTABLE, issue)
    };
    if let Some(format) = format {
        return Format::of_media_type(format).filter(|_| is_of_r4(format)).ok_or_else(not_acceptable);
    }
    let mut best: Option<(f32, Format)> = None;
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',').filter(|range| !range.trim().is_empty()) {
            asked = true;
            let quality = quality(range);
            let essence = range.split(';').next().unwrap_or_default().trim();
            let format = match essence {
                "*/*" | "application/*" | "text/*" | "text/html" => Some(Format::Json),
                essence => Format::of_media_type(essence),
            };
            if let Some(format) = format.filter(|_| is_of_r4(range) && quality > 0.0 && best.is_none_or(|(best, _)| quality > best)) {
                best = Some((quality, format));
            }
        }
    }
    match best {
        Some((_, format)) => Ok(format),
        None if asked => Err(not_acceptable()),
        None => Ok(Format::Json),
    }
}

/// Whether a media type asks for this version of FHIR, or for none (<https://hl7.org/fhir/R4/http.html#version-parameter>).
fn is_of_r4(media_type: &str) -> bool {
    let version = parameter(media_type, "fhirVersion");
    version.is_none_or(|version| version == "4.0" || version.starts_with("4.0."))
}

/// The value of a media type's parameter.
fn parameter<'t>(media_type: &'t str, wanted: &str) -> Option<&'t str> {
    let mut parameters = media_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))?;
    Some(value.trim().trim_matches('"'))
}

/// Whether `Accept` names a form of FHIR. Plain JSON counts, which FHIR's clients ask for; plain XML may be a document's own.
pub fn names_fhir(headers: &HeaderMap) -> bool {
    let named = |range: &str| {
        let essence = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || essence.contains("fhir") && Format::of_media_type(&essence).is_some()
    };
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().unwrap_or_default().split(',').any(named))
}

fn quality(range: &str) -> f32 {
    let parameter = range.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    parameter.map_or(1.0, |text| text.parse().unwrap_or(0.0))
}

/// The form that a body is in; without a `Content-Type`, JSON.
pub fn sent(headers: &HeaderMap) -> Result<Format, Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let media_type = value.to_str().unwrap_or_default();
    if !is_of_r4(media_type) {
        let issue = Issue::error(IssueCode::NotSupported, "Send FHIR R4, of fhirVersion 4.0: another version's resources are not taken.");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, issue));
    }
    let charset = parameter(media_type, "charset").map(str::to_ascii_lowercase);
    if charset.is_some_and(|charset| !matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii")) {
        let issue = Issue::error(IssueCode::NotSupported, "FHIR is written in UTF-8: send the body so, or leave the charset out.");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, issue));
    }
    Format::of_media_type(media_type).ok_or_else(|| {
        let issue = Issue::error(
            IssueCode::NotSupported,
            "Send the body as application/fhir+json or application/fhir+xml, and say so in Content-Type.",
        );
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, issue)
    })
}

/// Whether the body is an HTML form.
pub fn is_form(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// What `Prefer` asks for (<https://hl7.org/fhir/R4/http.html#return>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    pub answer: Option<Return>,
    /// `handling=strict`: unknown search parameters are errors.
    pub strict: bool,
}

impl Prefer {
    pub fn of(headers: &HeaderMap) -> Prefer {
        let (mut prefer, mut strict) = (Prefer::default(), None);
        for value in headers.get_all("prefer") {
            // RFC 7240, section 2: the case of names tells nothing, values may stand in quotes, and of what is said twice the first counts.
            for (name, value) in value.to_str().unwrap_or_default().split([',', ';']).filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"').to_ascii_lowercase();
                match (name.trim().to_ascii_lowercase().as_str(), value.as_str()) {
                    ("return", "minimal") => _ = prefer.answer.get_or_insert(Return::Minimal),
                    ("return", "representation") => _ = prefer.answer.get_or_insert(Return::Representation),
                    ("return", "operationoutcome") => _ = prefer.answer.get_or_insert(Return::OperationOutcome),
                    ("handling", handling) => _ = strict.get_or_insert(handling == "strict"),
                    _ => {}
                }
            }
        }
        Prefer { strict: strict == Some(true), ..prefer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Option<Format> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        wanted(&headers, None).ok()
    }

    #[test]
    fn the_best_form_that_is_accepted_is_chosen() {
        assert_eq!(accept("application/fhir+xml"), Some(Format::Xml));
        assert_eq!(accept("application/fhir+xml;q=0.5, application/fhir+json;q=0.9"), Some(Format::Json));
        assert_eq!(accept("text/html,application/xml;q=0.9,*/*;q=0.8"), Some(Format::Json));
        assert_eq!(accept("application/json; fhirVersion=4.0"), Some(Format::Json));
        assert_eq!(accept("application/fhir+json; fhirVersion=\"4.0.1\""), Some(Format::Json));
        assert_eq!(accept("application/fhir+json; fhirVersion=5.0"), None);
        assert_eq!(accept("application/fhir+json; fhirversion=3.0, application/fhir+xml; fhirVersion=4.0; q=0.1"), Some(Format::Xml));
        assert_eq!(accept("image/png"), None);
        assert_eq!(accept("application/fhir+json;q=0"), None);
    }

    #[test]
    fn format_in_the_url_wins() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "application/fhir+json".parse().unwrap());
        for text in ["xml", "application/fhir+xml", "application/fhir xml", "text/xml"] {
            assert_eq!(wanted(&headers, Some(text)).ok(), Some(Format::Xml), "{text}");
        }
        assert!(wanted(&headers, Some("ttl")).is_err());
        assert!(wanted(&headers, Some("application/fhir+json; fhirVersion=5.0")).is_err());
    }

    #[test]
    fn the_first_preference_of_a_kind_counts() {
        let of = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            texts.iter().for_each(|text| _ = headers.append("prefer", text.parse().unwrap()));
            Prefer::of(&headers)
        };
        let first = of(&["return=minimal, return=representation", "return=OperationOutcome"]);
        assert_eq!(first, Prefer { answer: Some(Return::Minimal), strict: false });
        assert!(of(&["respond-async; handling=strict, handling=lenient"]).strict);
        assert!(!of(&["handling=lenient", "handling=strict"]).strict);
        let quoted = of(&["Return = \"minimal\"; foo", "HANDLING=\"strict\""]);
        assert_eq!(quoted, Prefer { answer: Some(Return::Minimal), strict: true });
        assert_eq!(of(&["return=operationoutcome"]).answer, Some(Return::OperationOutcome));
    }

    #[test]
    fn bodies_of_other_types_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/csv".parse().unwrap());
        assert_eq!(sent(&headers).unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, "application/fhir+json; charset=utf-16".parse().unwrap());
        assert_eq!(sent(&headers).unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, "application/fhir+json; fhirVersion=5.0".parse().unwrap());
        assert_eq!(sent(&headers).unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, "application/fhir+json; fhirVersion=4.0; charset=UTF-8".parse().unwrap());
        assert_eq!(sent(&headers).unwrap(), Format::Json);
    }
}
