//! The edge's own errors in the form that gRPC clients understand: a status in the trailers of a response without a body
//! (the gRPC protocol's "Trailers-Only").

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};

use crate::proxy::{error::ProxyError, message::body::Body};

/// Whether a request is a gRPC call. gRPC-Web is none: its clients take HTTP's statuses.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// Turns the answer to an error into that to a gRPC call. What names the request and the cause stays.
pub(super) fn answer(error: &ProxyError, mut answer: Response<Body>) -> Response<Body> {
    let status = status(error);
    let message = percent_encoded(&error.to_string());
    *answer.status_mut() = StatusCode::OK;
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::WWW_AUTHENTICATE);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    answer.map(|_| Body::Empty)
}

/// The status code of gRPC. One that says "try again" is given only where that may help.
fn status(error: &ProxyError) -> u16 {
    match error {
        ProxyError::ConnectTimeout(_) => 14,
        _ => match error.status() {
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => 4,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::MISDIRECTED_REQUEST => 14,
            _ => 13,
        },
    }
}

/// As gRPC's `Status-Message` is written.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            // A String takes everything.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_other_requests() {
        let request = |version, content_type: &str| {
            Request::post("/").version(version).header(header::CONTENT_TYPE, content_type).body(()).expect("a request")
        };
        assert!(is_call(&request(Version::HTTP_2, "application/grpc")));
        assert!(is_call(&request(Version::HTTP_2, "application/grpc+proto")));
        assert!(!is_call(&request(Version::HTTP_2, "application/grpc-web")));
        assert!(!is_call(&request(Version::HTTP_11, "application/grpc")));
    }

    #[test]
    fn each_cause_has_its_status() {
        assert_eq!(status(&ProxyError::NoRoute), 12);
        assert_eq!(status(&ProxyError::NoSession), 14);
        assert_eq!(status(&ProxyError::BackendClosed), 14);
        assert_eq!(status(&ProxyError::ConnectTimeout(std::time::Duration::from_secs(5))), 14);
        assert_eq!(status(&ProxyError::ResponseTimeout(std::time::Duration::from_secs(5))), 4);
        assert_eq!(status(&ProxyError::Unauthorized { realm: "a".into() }), 16);
        assert_eq!(status(&ProxyError::Misconfigured("a".into())), 13);
        assert_eq!(percent_encoded("50 % für ä"), "50 %25 f%C3%BCr %C3%A4");
    }
}
