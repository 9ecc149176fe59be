//! What an HTTP/1 message says about its own limits and its host. hyper reads a few messages that RFC 9112 calls ambiguous;
//! whoever reads them otherwise would see other messages in the same bytes, so they are refused here, on both sides.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::{
    proxy::{
        backend::{MAX_FIELDS, MAX_HEAD_BYTES},
        error::ProxyError,
    },
    routing::is_authority,
};

// === requests ===

const BAD_TARGET: ProxyError = ProxyError::Malformed("its target has no form that its method may have");

/// Refuses a request that another recipient could read as another one. To be asked before any field is taken out.
///
/// HTTP/2 frames its messages itself, and `h2` checks them; of the target and the host the same is asked.
pub(in crate::proxy) fn check_request<B>(request: &Request<B>) -> Result<(), ProxyError> {
    if request.version() > Version::HTTP_11 {
        let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        return match (has_path(request), hosts.all(is_authority) && authority.is_none_or(is_authority)) {
            (true, true) => Ok(()),
            (false, _) => Err(BAD_TARGET),
            (true, false) => Err(ProxyError::BadHost),
        };
    }
    check_target(request)?;
    check_host(request)?;
    check_codings(request.headers())
}

/// The four forms of RFC 9112, 3.2, each with its method. `http` takes a target without a slash for an authority.
fn check_target<B>(request: &Request<B>) -> Result<(), ProxyError> {
    let (method, uri) = (request.method(), request.uri());
    let well_formed = match (uri.scheme_str(), uri.authority()) {
        _ if *method == Method::CONNECT => true,
        (Some(scheme), Some(authority)) => {
            // `http` leaves nothing of a path that a fragment stands for, which shows once it stands alone.
            let has_path = uri.path_and_query().is_none_or(|path| !Uri::from(path.clone()).path().is_empty());
            matches!(scheme, "http" | "https") && is_authority(authority.as_str().as_bytes()) && has_path
        }
        (None, None) => has_path(request),
        _ => false,
    };
    if well_formed { Ok(()) } else { Err(BAD_TARGET) }
}

/// A path, or the server as a whole for the one method that may ask for it.
fn has_path<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS)
}

/// RFC 9112, 3.2: exactly one `Host`, and a good one, even where the target names the host.
fn check_host<B>(request: &Request<B>) -> Result<(), ProxyError> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) if is_authority(host.as_bytes()) => Ok(()),
        (None, None) if request.version() == Version::HTTP_10 => Ok(()),
        _ => Err(ProxyError::BadHost),
    }
}

/// A body comes in chunks or with a length. Other codings would have to be undone, or named to the backend.
fn check_codings(headers: &HeaderMap) -> Result<(), ProxyError> {
    match coding(headers) {
        Coding::None | Coding::Chunked => Ok(()),
        Coding::Unknown => Err(ProxyError::UnknownCoding),
        Coding::Malformed => Err(ProxyError::Malformed("its transfer codings do not end in one chunked")),
    }
}

// === responses ===

/// Refuses a response whose end is told in two ways, and leaves of its head what holds on the next hop, too.
pub(in crate::proxy) fn check_response<B>(response: &mut Response<B>) -> Result<(), ProxyError> {
    if response.version() == Version::HTTP_2 && is_too_large(response.headers()) {
        return Err(ProxyError::ResponseHeadTooLarge);
    }
    let status = response.status();
    let invalid = |text: &'static str| Err(ProxyError::InvalidResponse(text.into()));
    let coding = coding(response.headers());
    if !matches!(coding, Coding::None | Coding::Chunked) {
        return invalid("its transfer coding is not chunked");
    }
    if coding == Coding::Chunked && status == StatusCode::NO_CONTENT {
        return invalid("it has a transfer coding and no content");
    }
    if response.headers().contains_key(header::CONTENT_LENGTH) {
        if coding == Coding::Chunked {
            return invalid("it has both a length and a transfer coding");
        }
        let Some(length) = length(response.headers()) else {
            return invalid("its Content-Length is no number, or several");
        };
        if status == StatusCode::NO_CONTENT || status.is_informational() {
            // RFC 9110, 8.6: there must be none, and there is nothing that it could be the length of.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        } else {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
    }
    // A message has the version of its hop (RFC 9110, 6.2): a backend's HTTP/1.0 is none of the visitor's.
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Whether a head over HTTP/2 is larger than one over HTTP/1.1 may be, as RFC 9113, 6.5.2, measures it.
fn is_too_large(headers: &HeaderMap) -> bool {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    headers.len() > MAX_FIELDS || headers.iter().map(size).sum::<usize>() > MAX_HEAD_BYTES
}

/// The one length that all `Content-Length` values give.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for part in value.to_str().ok()?.split(',') {
            let digits = part.trim_matches([' ', '\t']);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let value: u64 = digits.parse().ok()?;
            if length.is_some_and(|length| length != value) {
                return None;
            }
            length = Some(value);
        }
    }
    length
}

// === both ===

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    None,
    Chunked,
    /// Others are applied before `chunked`.
    Unknown,
    /// `chunked` is missing at the end, or applied more than once (RFC 9112, 6.1).
    Malformed,
}

fn coding(headers: &HeaderMap) -> Coding {
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        return Coding::None;
    }
    let (mut others, mut chunked) = (false, false);
    for value in headers.get_all(header::TRANSFER_ENCODING) {
        for name in value.as_bytes().split(|b| *b == b',') {
            if chunked {
                return Coding::Malformed;
            }
            match name.trim_ascii() {
                [] => return Coding::Malformed,
                name if name.eq_ignore_ascii_case(b"chunked") => chunked = true,
                _ => others = true,
            }
        }
    }
    match (chunked, others) {
        (true, false) => Coding::Chunked,
        (true, true) => Coding::Unknown,
        (false, _) => Coding::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn request(method: &str, target: &str, fields: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn each_method_has_its_targets() {
        let is_good = |method, target| check_target(&request(method, target, &[])).is_ok();
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/*"),
            ("OPTIONS", "*"),
            ("GET", "http://a/"),
            ("GET", "https://a"),
            ("CONNECT", "a:443"),
        ] {
            assert!(is_good(method, target), "{method} {target}");
        }
        for (method, target) in [
            ("GET", "a"),
            ("GET", "a:443"),
            ("GET", "*"),
            ("GET", "ftp://a/"),
            ("POST", "*"),
            ("GET", "http://a:x/"),
            ("GET", "http://u@a/"),
            ("GET", "http://a#b"),
        ] {
            assert!(!is_good(method, target), "{method} {target}");
        }
    }

    #[test]
    fn only_chunked_alone_is_a_coding_of_ours() {
        for (values, expected) in [
            (&["chunked"][..], Coding::Chunked),
            (&["Chunked "], Coding::Chunked),
            (&[], Coding::None),
            (&["gzip, chunked"], Coding::Unknown),
            (&["identity", "chunked"], Coding::Unknown),
            (&["chunked, chunked"], Coding::Malformed),
            (&["chunked", "chunked"], Coding::Malformed),
            (&["chunked", "identity"], Coding::Malformed),
            (&["chunked,"], Coding::Malformed),
            (&[", chunked"], Coding::Malformed),
            (&[""], Coding::Malformed),
            (&["xchunked"], Coding::Malformed),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(coding(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn a_response_has_one_length_or_none() {
        let checked = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            let mut response = response.body(()).expect("a response");
            check_response(&mut response).map(|()| response)
        };
        for fields in [
            &[("content-length", "1"), ("content-length", "2")][..],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
        ] {
            assert!(matches!(checked(200, fields), Err(ProxyError::InvalidResponse(_))), "{fields:?}");
        }
        let response = checked(200, &[("content-length", "5, 5"), ("content-length", "5")]).expect("one length");
        let lengths: Vec<_> = response.headers().get_all(header::CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["5"]);
        let response = checked(204, &[("content-length", "5")]).expect("no content");
        assert!(response.headers().is_empty());
        assert!(checked(204, &[("transfer-encoding", "chunked")]).is_err());
    }
}
