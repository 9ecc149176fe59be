//! The answers that the edge makes itself: always marked by `Proxy-Status`, so that a user can tell our 503 from the
//! application's.

mod grpc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use serde_json::json;

use super::{error::ProxyError, message::body::Body};

/// What of a request decides the form of an answer to it.
pub(super) struct Wanted {
    accept: Option<HeaderValue>,
    /// The head alone, as it would be with the body.
    head_only: bool,
    is_grpc: bool,
    /// A connection carries one request after the other, so that it has to end where it is not sure where the next begins.
    in_turn: bool,
}

/// Answers a request with an error, in the form that the visitor prefers.
pub(super) fn error(error: &ProxyError, request_id: &HeaderValue, wanted: &Wanted) -> Response<Body> {
    let status = error.status();
    let details = error.to_string();
    let (content_type, body) = if wanted.is_page() {
        ("text/html; charset=utf-8", page(status, &details, request_id))
    } else {
        ("application/problem+json", problem(status, &details, request_id))
    };
    let length = body.len();
    let mut response = Response::new(if wanted.head_only { Body::Empty } else { Body::full(body) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("proxy-status", proxy_status(error, &details));
    headers.insert("x-request-id", request_id.clone());
    add_remedy(headers, error);
    if wanted.in_turn && error.ends_connection() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if wanted.is_grpc { grpc::answer(error, response) } else { response }
}

/// How much a type is wanted, in thousandths: by the entry of `Accept` that names it most closely (RFC 9110, 12.5.1).
#[derive(Clone, Copy, Default)]
struct Weight {
    /// 3 for the type itself, 2 for its kind, 1 for all types, 0 for none.
    closeness: u8,
    weight: u16,
}

/// What tells the visitor how to do better: credentials, or waiting.
fn add_remedy(headers: &mut HeaderMap, error: &ProxyError) {
    if let Some(delay) = error.retry_after() {
        // Whole seconds, and not a moment too early.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, seconds.max(1).into());
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

// === impl Wanted ===

impl Wanted {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let accept = request.headers().get(header::ACCEPT).cloned();
        Self {
            accept,
            head_only: *request.method() == Method::HEAD,
            is_grpc: grpc::is_call(request),
            in_turn: request.version() <= Version::HTTP_11,
        }
    }

    /// A page for those who name it and prefer nothing else of ours, as browsers do; for programs, JSON.
    fn is_page(&self) -> bool {
        let Some(accept) = self.accept.as_ref().and_then(|accept| accept.to_str().ok()) else { return false };
        let (mut page, mut json) = (Weight::default(), Weight::default());
        for entry in accept.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = quality.map_or(1000, thousandths);
            match kind.as_str() {
                "*/*" => {
                    page.meet(1, weight);
                    json.meet(1, weight);
                }
                "text/*" => page.meet(2, weight),
                "application/*" => json.meet(2, weight),
                "text/html" => page.meet(3, weight),
                "application/json" | "application/problem+json" => json.meet(3, weight),
                _ => {}
            }
        }
        page.closeness == 3 && page.weight > 0 && page.weight >= json.weight
    }
}

// === impl Weight ===

impl Weight {
    fn meet(&mut self, closeness: u8, weight: u16) {
        if (closeness, weight) > (self.closeness, self.weight) {
            *self = Self { closeness, weight };
        }
    }
}

/// A weight of RFC 9110, 12.4.2; what is none counts as the whole.
fn thousandths(quality: &str) -> u16 {
    let fraction = match quality.split_once('.') {
        Some(("0", fraction)) if fraction.len() <= 3 => fraction,
        None if quality == "0" => "",
        _ => return 1000,
    };
    format!("{fraction:0<3}").parse().unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: Option<&'static str>) -> Wanted {
        let mut request = Request::new(());
        if let Some(accept) = accept {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        Wanted::of(&request)
    }

    fn answer(error: &ProxyError, accept: Option<&'static str>) -> Response<Body> {
        let wanted = wanted(accept);
        super::error(error, &HeaderValue::from_static("id-1"), &wanted)
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
        for (accept, page) in [
            ("text/html", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, text/html", true),
            ("TEXT/HTML; charset=utf-8 ;q=0.5, */*;q=0.1", true),
            ("*/*", false),
            ("text/*", false),
            ("text/html;q=0.2, application/json", false),
            ("text/html;q=0.9, application/*;q=0.95", false),
            ("text/html;q=0", false),
            ("text/html;q=0.0, */*", false),
            ("image/png", false),
            ("", false),
        ] {
            let wanted = wanted(Some(accept));
            assert_eq!(wanted.is_page(), page, "{accept}");
        }
    }

    #[test]
    fn an_unauthorized_visitor_is_challenged() {
        let response = answer(&ProxyError::Unauthorized { realm: "The \"Shop\"".into() }, None);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Basic realm=\"The \\\"Shop\\\"\", charset=\"UTF-8\"");
    }
}
