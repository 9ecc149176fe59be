//! The answers that the edge makes itself: always marked by `Proxy-Status`, so that a user can tell our 503 from the
//! application's.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{body::Body, error::ProxyError};

/// Answers a request with an error, in the form that the visitor prefers.
pub(super) fn error(error: &ProxyError, request_id: &HeaderValue, accept: Option<&HeaderValue>) -> Response<Body> {
    let status = error.status();
    let details = error.to_string();
    let wants_page = accept.and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"));
    let (content_type, body) = if wants_page {
        ("text/html; charset=utf-8", page(status, &details, request_id))
    } else {
        ("application/problem+json", problem(status, &details, request_id))
    };
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("proxy-status", proxy_status(error, &details));
    headers.insert("x-request-id", request_id.clone());
    add_remedy(headers, error);
    response
}

/// What tells the visitor how to do better: credentials, or waiting.
fn add_remedy(headers: &mut HeaderMap, error: &ProxyError) {
    if let Some(delay) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, delay.as_secs().into());
    }
    if matches!(error, ProxyError::Method) {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
        headers.insert(header::ALLOW, allowed);
    }
    if let ProxyError::Unauthorized { realm } = error {
        let challenge = format!("Basic realm={}, charset=\"UTF-8\"", quoted(realm));
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
}

/// The field of RFC 9209, 2.1.
fn proxy_status(error: &ProxyError, details: &str) -> HeaderValue {
    let field = match error.proxy_status() {
        Some(kind) => format!("culvert; error={kind}; details={}", quoted(details)),
        None => format!("culvert; details={}", quoted(details)),
    };
    HeaderValue::from_str(&field).unwrap_or(HeaderValue::from_static("culvert"))
}

/// A string of structured fields (RFC 8941, 3.3.3); characters that it cannot hold become `?`.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

/// RFC 9457.
fn problem(status: StatusCode, details: &str, request_id: &HeaderValue) -> Bytes {
    let problem = json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": details,
        "requestId": request_id.to_str().unwrap_or_default(),
    });
    format!("{problem}\n").into()
}

fn page(status: StatusCode, details: &str, request_id: &HeaderValue) -> Bytes {
    let reason = status.canonical_reason().unwrap_or_default();
    let (details, id) = (escaped(details), escaped(request_id.to_str().unwrap_or_default()));
    format!(
        "<!doctype html>\n<title>{status} {reason}</title>\n<h1>{status} {reason}</h1>\n\
         <p>{details}.</p>\n<p><small>culvert, request {id}</small></p>\n",
        status = status.as_u16(),
    )
    .into()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(error: &ProxyError, accept: Option<&'static str>) -> Response<Body> {
        let accept = accept.map(HeaderValue::from_static);
        super::error(error, &HeaderValue::from_static("id-1"), accept.as_ref())
    }

    #[test]
    fn an_error_names_its_cause_in_proxy_status() {
        let response = answer(&ProxyError::NoSession, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            response.headers()["proxy-status"],
            "culvert; error=destination_unavailable; details=\"no agent of this route has a session\""
        );
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_browser_gets_a_page() {
        let response = answer(&ProxyError::UnknownHost, Some("text/html,*/*;q=0.8"));
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    }

    #[test]
    fn an_unauthorized_visitor_is_challenged() {
        let response = answer(&ProxyError::Unauthorized { realm: "The \"Shop\"".into() }, None);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Basic realm=\"The \\\"Shop\\\"\", charset=\"UTF-8\"");
    }
}
