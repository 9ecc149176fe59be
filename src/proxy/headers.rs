//! What must change in a message's headers when it passes a proxy.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Identifies a request in logs on both sides.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields of one connection, never passed on (RFC 9110, 7.6.1, and those of RFC 2068 that are still met).
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Addresses of proxies in front of the edge, whose word about the visitor is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// Removes what belongs to one hop, including the fields that `Connection` names. Returns the protocol of a
/// requested or accepted upgrade.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
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
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
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

/// Marks a message as carrying an upgrade on its next hop.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Says who the visitor is, in the place of whatever an untrusted peer said.
pub(super) fn set_forwarded(headers: &mut HeaderMap, peer: SocketAddr, local_port: u16, trusted: &TrustedProxies) {
    let trusted = trusted.contains(peer.ip());
    remove_where(headers, |name| {
        if name.contains('_') { is_claim(&name.replace('_', "-")) } else { !trusted && is_identity(name) }
    });
    if trusted {
        append_forwarded_for(headers, peer.ip());
    } else if let Ok(address) = HeaderValue::from_str(&peer.ip().to_string()) {
        headers.insert(X_FORWARDED_FOR, address);
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, local_port.into());
    }
}

/// What a proxy says about the visitor, as `X-Forwarded-User` too: believed only from a trusted one.
fn is_identity(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// What the edge answers for. Backends that follow CGI (RFC 3875, 4.1.18) cannot tell `X_Forwarded_For` from
/// `X-Forwarded-For`, so twins with underscores are nobody's word.
fn is_claim(name: &str) -> bool {
    is_identity(name) || matches!(name, "x-request-id" | "authorization" | "host")
}

fn remove_where(headers: &mut HeaderMap, remove: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| remove(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    let mut list = String::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        list.push_str(value.to_str().unwrap_or_default());
        list.push_str(", ");
    }
    list.push_str(&peer.to_string());
    if let Ok(list) = HeaderValue::from_str(&list) {
        headers.insert(X_FORWARDED_FOR, list);
    }
}

// === impl TrustedProxies ===

impl TrustedProxies {
    /// Trusts the proxies in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether the word of a peer is taken.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        // A dual-stack listener sees IPv4 peers as ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }

    /// The visitor behind `peer`: the last address of `X-Forwarded-For` that no trusted proxy has.
    pub(super) fn visitor(&self, headers: &HeaderMap, peer: SocketAddr) -> SocketAddr {
        if self.0.is_empty() || !self.contains(peer.ip()) {
            return peer;
        }
        let hops = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
        for hop in hops.into_iter().rev() {
            match hop.parse::<IpAddr>() {
                Ok(address) if self.contains(address) => {}
                Ok(address) => return SocketAddr::new(address, 0),
                // What stands left of a malformed entry is nobody's word.
                Err(_) => break,
            }
        }
        peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "198.51.100.7:4000";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn forwarded(fields: &[(&'static str, &'static str)], trusted: &str) -> HeaderMap {
        let trusted = TrustedProxies::new(vec![trusted.parse().expect("a network")]);
        let mut headers = headers(fields);
        set_forwarded(&mut headers, PEER.parse().expect("an address"), 8080, &trusted);
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
    fn an_upgrade_counts_only_where_connection_names_it() {
        assert_eq!(strip_hop_by_hop(&mut headers(&[("upgrade", "websocket")])), None);
        let mut named = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut named), Some(HeaderValue::from_static("websocket")));
        assert!(named.is_empty());
    }

    #[test]
    fn the_word_of_an_untrusted_peer_is_replaced() {
        let forged = [
            ("host", "shop.example.com"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forwarded-user", "root"),
            ("x_request_id", "1"),
            ("forwarded", "for=10.0.0.1"),
        ];
        let headers = forwarded(&forged, "192.0.2.0/24");
        assert_eq!(headers["x-forwarded-for"], "198.51.100.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.example.com");
        assert_eq!(headers["x-forwarded-port"], "8080");
        assert!(
            ["x_forwarded_for", "x-real-ip", "x-forwarded-user", "x_request_id", "forwarded"]
                .iter()
                .all(|name| !headers.contains_key(*name))
        );
    }

    #[test]
    fn the_word_of_a_trusted_proxy_is_kept_and_continued() {
        let said = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
        let headers = forwarded(&said, "198.51.100.0/24");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 198.51.100.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn the_visitor_is_the_last_address_that_is_no_trusted_proxy() {
        let trusted = TrustedProxies::new(vec!["198.51.100.0/24".parse().expect("a network")]);
        let peer = PEER.parse().expect("an address");
        let visitor = |list| trusted.visitor(&headers(&[("x-forwarded-for", list)]), peer).ip().to_string();
        assert_eq!(visitor("10.9.9.9, 203.0.113.9, 198.51.100.1"), "203.0.113.9");
        assert_eq!(visitor("203.0.113.9, nonsense"), "198.51.100.7");
        let untrusted = "192.0.2.1:1".parse().expect("an address");
        assert_eq!(trusted.visitor(&headers(&[("x-forwarded-for", "1.2.3.4")]), untrusted), untrusted);
    }
}
