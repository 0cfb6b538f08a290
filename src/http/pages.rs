//! What lango's own pages have in common: no scripts, nothing from elsewhere, framed by nobody, kept by no cache.

use crate::access::Access;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Bytes of a form.
pub const FORM_BYTES: usize = 64 << 10;
pub const STYLE: &str = include_str!("../../templates/auth/style.css");

/// A page. `leads_to`: where a form of it ends up, which browsers hold against the policy too.
pub fn html(status: StatusCode, page: Result<String, askama::Error>, leads_to: Option<&str>) -> Response {
    let Ok(page) = page else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let origin = leads_to.and_then(|uri| reqwest::Url::parse(uri).ok()).map(|url| match url.host_str() {
        Some(_) if matches!(url.scheme(), "https" | "http") => format!(" {}", url.origin().ascii_serialization()),
        _ => format!(" {}:", url.scheme()),
    });
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{}; frame-ancestors 'none'; base-uri 'none'",
        origin.unwrap_or_default()
    );
    let mut response = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer` browsers would say `Origin: null` when a form is sent.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// A field of a form; empty when it is not there.
pub fn field(body: &[u8], wanted: &str) -> String {
    form_urlencoded::parse(body).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// A cookie of the request; empty when it is not there.
pub fn cookie(headers: &HeaderMap, wanted: &str) -> String {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut named = cookies.filter_map(|cookie| cookie.trim().split_once('=')).filter(|(name, _)| *name == wanted);
    named.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// Gives this browser a cookie that other sites' requests do not carry; an empty value takes it away.
pub fn set_cookie(access: &Access, response: &mut Response, name: &str, value: &str, path: &str) {
    let secure = if access.public_url().starts_with("https:") { "; Secure" } else { "" };
    let ends = if value.is_empty() { "; Max-Age=0" } else { "" };
    let cookie = format!("{name}={value}; Path={}; HttpOnly; SameSite=Strict{secure}{ends}", access.local_path(path));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Whether a form was sent by another site's page.
pub fn is_foreign(access: &Access, headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes() != access.origin().as_bytes())
}
