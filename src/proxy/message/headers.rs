//! What must change in a message's headers when it passes a proxy.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use crate::routing::is_of_hop;

/// Whether a field frames, routes or authenticates a message, and so has no meaning behind it.
fn is_of_head(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "set-cookie"
            | "te"
            | "trailer"
            | "via"
    )
}

/// Removes the fields of these names. It looks at those that are there, since most of what may be removed never is.
pub(in crate::proxy) fn remove_where(headers: &mut HeaderMap, remove: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| remove(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes what belongs to one hop, including the fields that `Connection` names. Returns the protocol of a
/// requested or accepted upgrade.
pub(in crate::proxy) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut upgrade = None;
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            if name == header::UPGRADE {
                upgrade = headers.get(header::UPGRADE).cloned();
            } else if name != header::CONTENT_LENGTH && name != header::HOST && name != header::TE {
                // Nobody may unframe a message or unname its host by calling the field hop-by-hop. `TE` has to be named.
                headers.remove(name);
            }
        }
    }
    remove_where(headers, is_of_hop);
    // `TE` is of one hop too, but trailers pass all of them, and gRPC servers need to hear that.
    if headers.contains_key(header::TE) {
        let is_trailers = |value: &HeaderValue| {
            value.as_bytes().split(|b| *b == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        };
        if headers.get_all(header::TE).iter().any(is_trailers) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
    upgrade
}

/// Removes from a message's trailers what only its head may say (RFC 9110, 6.5.1): about the hop, its framing, where it goes and
/// who sends it. Some recipients put trailers beside the head's fields as if they had come with them.
pub(in crate::proxy) fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    remove_where(trailers, is_of_head);
}

/// Marks a message as carrying an upgrade on its next hop.
pub(in crate::proxy) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Says that the edge passed a message on, and in which version it came (RFC 9110, 7.6.3).
pub(in crate::proxy) fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_10 => "1.0 culvert",
        Version::HTTP_2 => "2 culvert",
        _ => "1.1 culvert",
    };
    headers.append(header::VIA, HeaderValue::from_static(via));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn fields_that_connection_names_go_too() {
        let mut headers = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ]);
        assert_eq!(strip_hop_by_hop(&mut headers), None);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "x-kept"]);
    }

    #[test]
    fn trailers_say_nothing_of_the_head() {
        let mut trailers = headers(&[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("host", "evil.example.com"),
            ("authorization", "Basic YTpi"),
            ("te", "trailers"),
            ("grpc-status", "0"),
            ("x-sum", "1"),
        ]);
        clean_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-sum"]);
    }

    #[test]
    fn an_upgrade_counts_only_where_connection_names_it() {
        assert_eq!(strip_hop_by_hop(&mut headers(&[("upgrade", "websocket")])), None);
        let mut named = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut named), Some(HeaderValue::from_static("websocket")));
        assert!(named.is_empty());
    }
}
