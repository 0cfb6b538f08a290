//! Binary in its own form (<https://hl7.org/fhir/R4/binary.html#rest>): the bytes as they are, instead of base64 in a resource.
//!
//! A read gives the bytes unless the caller names a form of FHIR; a write whose body is no Binary resource is the content of one, and the
//! header `X-Security-Context` says whose. Either way it is the same resource: made and read by the same interactions, with the same
//! conditions, owners, consents and audit.
//!
//! What was stored may be a page with a script in it, and comes from where people are logged in. So it is always something to save, of the
//! type that it says and no other, and runs nothing.

use super::super::body;
use super::super::error::Failure;
use super::super::negotiate::{self, Format};
use super::answer::Answer;
use super::target::Target;
use super::{Call, Sent};
use crate::definitions;
use crate::fhir::{Issue, IssueCode, Reference};
use crate::ingest::Refusal;
use crate::store::TypeCode;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

/// Names the resource that a Binary's access goes by.
const SECURITY_CONTEXT: HeaderName = HeaderName::from_static("x-security-context");

/// What a Binary that says no type is.
const BYTES: &str = "application/octet-stream";

/// Reads what R4's form of base64Binary takes: bits left over in the last letter, which some encoders do not clear, mean nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub fn is_binary(type_code: TypeCode) -> bool {
    definitions::r4().type_name(type_code) == "Binary"
}

/// Whether a request reads a Binary and names no form of FHIR. `format`: `_format`.
pub fn is_wanted(parts: &Parts, format: Option<&str>) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    let part = |name: &str| form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name);
    if !matches!(parts.method, Method::GET | Method::HEAD) || format.is_some() || part("_summary") || part("_elements") {
        return false;
    }
    let target = Target::of_path(parts.uri.path().strip_prefix("/fhir").unwrap_or_default());
    let binary = matches!(target, Ok(Target::Instance(type_code, _) | Target::Version(type_code, ..)) if is_binary(type_code));
    binary && !negotiate::names_fhir(&parts.headers)
}

/// The content of the Binary in the answer; one that has none which could be read (it was stored with `validation = "off"`) is told as a resource.
pub fn render(mut answer: Answer) -> Response {
    let Some(body) = &answer.body else { return answer.render(Format::Json, false) };
    let read = serde_json::from_slice::<Value>(body).map_err(Refusal::internal).map(|resource| {
        let text = |pointer: &str| resource.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        // What was stored is base64, white space allowed.
        let data: String = text("/data").unwrap_or_default().split_ascii_whitespace().collect();
        (LENIENT.decode(data).ok(), text("/contentType"), text("/securityContext/reference"))
    });
    let (content, content_type, context) = match read {
        Ok((Some(content), content_type, context)) => (content, content_type, context),
        Ok((None, ..)) => {
            answer.warnings.push(Issue::warning(IssueCode::Value, "The data of this Binary is no base64, so it is told as a resource."));
            return answer.render(Format::Json, false);
        }
        Err(refusal) => return super::answer::failure(&refusal.into(), Format::Json, false),
    };
    let mut response = Answer { body: None, ..answer }.render(Format::Json, false);
    let headers = response.headers_mut();
    let content_type = content_type.and_then(|text| HeaderValue::from_str(&text).ok());
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static(BYTES)));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    if let Some(context) = context.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(SECURITY_CONTEXT, context);
    }
    *response.body_mut() = Body::from(content);
    response
}

/// The resource in a body: sent as one, or as the content of one. `id`: of the URL of an update.
pub async fn sent(call: &Call<'_>, type_code: TypeCode, id: Option<&str>, body: Body) -> Result<Sent, Failure> {
    let (state, headers) = (call.state, call.headers);
    let bytes = body::read(headers, body, &state.settings.limits).await?;
    let Some(content_type) = super::header_text(headers, header::CONTENT_TYPE).filter(|text| !is_resource(text, &bytes)) else {
        return Ok(Sent { body: super::resource_of(state, headers, bytes).await?, rests_on: None });
    };
    if !content_type.contains('/') {
        let words = "Content-Type says what the bytes are, such as application/pdf.";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Issue::error(IssueCode::NotSupported, words)));
    }
    let (context, rests_on) = match headers.get(SECURITY_CONTEXT) {
        Some(value) => (Some(json!({ "reference": named_context(value)? })), None),
        None => kept_context(call, type_code, id).await?,
    };
    let mut resource = json!({ "resourceType": "Binary" });
    let mut put = |name: &str, value: Option<Value>| {
        if let (Some(members), Some(value)) = (resource.as_object_mut(), value) {
            members.insert(name.to_owned(), value);
        }
    };
    put("id", id.map(Value::from));
    put("contentType", Some(content_type.into()));
    put("securityContext", context);
    let data = state.writer.workers().run(move || STANDARD.encode(&bytes)).await?;
    put("data", Some(data).filter(|data| !data.is_empty()).map(Value::from));
    Ok(Sent { body: resource.to_string().into(), rests_on })
}

/// Whether a body of this type is a resource, not content: it says that it is a Binary, or it is said to be FHIR and says nothing of the kind.
fn is_resource(content_type: &str, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "resourceType")]
        resource_type: String,
    }
    let said = match Format::of_media_type(content_type) {
        None => return false,
        Some(Format::Json) => serde_json::from_slice::<Typed>(body).ok().map(|typed| typed.resource_type),
        Some(Format::Xml) => root_name(body),
    };
    match said {
        Some(said) => said == "Binary",
        None => content_type.contains("fhir"),
    }
}

/// The name of an XML document's first element.
fn root_name(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let mut tags = text.split('<').skip(1);
    let first = tags.find(|tag| tag.starts_with(|c: char| c.is_ascii_alphabetic()))?;
    let name = first.split(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).next()?;
    Some(name.rsplit(':').next().unwrap_or(name).to_owned())
}

/// The header is a reference like any other: one that names nothing would protect nothing.
fn named_context(value: &HeaderValue) -> Result<&str, Failure> {
    let text = value.to_str().unwrap_or_default().trim();
    let names = match Reference::parse(text) {
        Some(Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. }) => {
            definitions::r4().type_code(type_name).is_some()
        }
        Some(Reference::Absolute(_) | Reference::Urn(_)) => true,
        Some(Reference::Contained(_)) | None => false,
    };
    names.then_some(text).ok_or_else(|| Failure::bad_request("X-Security-Context names the resource whose it is, such as Patient/1."))
}

/// Whose the stored one is: new content that does not say so takes no protection away.
async fn kept_context(call: &Call<'_>, type_code: TypeCode, id: Option<&str>) -> Result<(Option<Value>, Option<i64>), Failure> {
    let Some(id) = id else { return Ok((None, None)) };
    let stored = call.state.store.read(type_code, id, &call.caller.scope).await?;
    let Some((version, body)) = stored.and_then(|stored| Some((stored.version, stored.body?))) else { return Ok((None, None)) };
    let mut resource: Value = serde_json::from_slice(&body).map_err(Refusal::internal)?;
    Ok((resource.get_mut("securityContext").map(Value::take), Some(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_resource_only_when_it_says_so() {
        let binary = br#"{"resourceType":"Binary","contentType":"text/plain"}"#;
        assert!(is_resource("application/fhir+json", binary) && is_resource("application/json; charset=utf-8", binary));
        assert!(!is_resource("text/plain", binary));
        assert!(!is_resource("application/fhir+json", br#"{"resourceType":"Patient"}"#));
        // Refused with the words that a broken resource gets.
        assert!(is_resource("application/fhir+json", b"{") && is_resource("application/fhir+xml", b"x"));
        assert!(!is_resource("application/json", b"{}"));
        let xml = b"<?xml version=\"1.0\"?><!-- x --><Binary xmlns=\"http://hl7.org/fhir\"/>";
        assert!(is_resource("application/fhir+xml", xml) && is_resource("text/xml", xml));
        assert!(!is_resource("text/xml", b"<ClinicalDocument/>"));
    }
}
