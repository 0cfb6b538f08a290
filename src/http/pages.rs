//! What lango's own pages have in common: no scripts, nothing from elsewhere, framed by nobody, kept by no cache.

use crate::access::Access;
use crate::store::is_unavailable;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::error::Error;

/// Bytes of a form.
pub const FORM_BYTES: usize = 64 << 10;
pub const STYLE: &str = include_str!("../../templates/auth/style.css");

pub const AWAY: &str = "The server cannot answer now: try again in a minute, and look first whether what you changed was changed.";
pub const FAILED: &str = "The server failed; it has been logged.";

/// A page. `leads_to`: the app's address at which a form of it ends up. Browsers hold the whole way of a form against the policy, and from its address an app
/// may send people on to wherever its pages are: so of that address no more than the scheme is named.
pub fn html(status: StatusCode, page: Result<String, askama::Error>, leads_to: Option<&str>) -> Response {
    let Ok(page) = page else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let scheme = leads_to.and_then(|uri| reqwest::Url::parse(uri).ok()).map(|url| format!(" {}:", url.scheme()));
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{}; frame-ancestors 'none'; base-uri 'none'",
        scheme.unwrap_or_default()
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

/// What an error is told as: of a database that cannot be had nobody knows whether it made a change.
pub fn failure(error: &(dyn Error + 'static)) -> (StatusCode, &'static str) {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    let away = causes.any(|cause| cause.downcast_ref::<sqlx::Error>().is_some_and(is_unavailable));
    if away { (StatusCode::SERVICE_UNAVAILABLE, AWAY) } else { (StatusCode::INTERNAL_SERVER_ERROR, FAILED) }
}

/// Whether a browser asks for something to look at.
pub fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().unwrap_or_default().contains("text/html"))
}

/// The name that somebody logs in with; telephones add a space to what they complete.
pub fn username(body: &[u8]) -> String {
    field(body, "username").trim().to_owned()
}

/// A one-time code as it was typed: apps show it in two groups.
pub fn one_time_code(body: &[u8]) -> String {
    field(body, "code").split_whitespace().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessError;
    use crate::access::clients::ClientError;

    #[test]
    fn a_database_that_cannot_be_had_is_no_failure_of_the_server() {
        let away = || sqlx::Error::PoolTimedOut;
        let errors: [Box<dyn Error>; 3] = [
            Box::new(AccessError::from(away())),
            Box::new(ClientError::from(away())),
            Box::new(ClientError::from(AccessError::from(away()))),
        ];
        for error in errors {
            assert_eq!(failure(error.as_ref()).0, StatusCode::SERVICE_UNAVAILABLE, "{error:?}");
        }
        assert_eq!(failure(&AccessError::from(sqlx::Error::RowNotFound)).0, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
