//! Who the visitor is, and how the backend is told.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Scheme};
use ipnet::IpNet;

use crate::{
    proxy::message::headers::remove_where,
    routing::{PROXY, split_port},
};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
pub(in crate::proxy) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Identifies a request in logs on both sides.
pub(in crate::proxy) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Addresses of proxies in front of the edge, whose word about the visitor is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Peer {
    pub(in crate::proxy) address: SocketAddr,
    /// The address as backends are told it, of each request: written once.
    text: HeaderValue,
}

/// Who sent a request, as far as it can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Identity {
    /// The visitor's own address; with port 0 where only a proxy knows the port.
    pub(in crate::proxy) address: SocketAddr,
    /// The visitor uses TLS, to the edge or to a trusted proxy.
    pub(in crate::proxy) secure: bool,
}

/// Finds out who the visitor behind `peer` is, and says so in the request, in the place of whatever an untrusted peer said.
/// `scheme` is that of the connection; `forwarded` asks for the field of RFC 7239 too.
pub(in crate::proxy) fn identify(
    headers: &mut HeaderMap,
    peer: &Peer,
    scheme: &Scheme,
    trusted: &TrustedProxies,
    forwarded: bool,
) -> Identity {
    let is_trusted = trusted.contains(peer.address.ip());
    let address = if is_trusted { trusted.visitor(headers, peer.address) } else { peer.address };
    remove_where(headers, |name| match name {
        PROXY => true,
        _ if name.contains('_') => is_claim(&name.replace('_', "-")),
        _ => !is_trusted && is_identity(name),
    });

    if is_trusted && headers.contains_key(X_FORWARDED_FOR) {
        continue_list(headers, &X_FORWARDED_FOR, peer.text.to_str().unwrap_or_default());
    } else {
        headers.insert(X_FORWARDED_FOR, peer.text.clone());
    }
    headers.insert(X_REAL_IP, if address == peer.address { peer.text.clone() } else { text(address.ip()) });
    // Of several, the last is the word of the proxy next to the edge; the others may be the visitor's own.
    let said = headers.get(X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    let said = said.and_then(|list| list.rsplit(',').next()).map(str::trim);
    let secure = said.map_or(*scheme == Scheme::HTTPS, |scheme| scheme.eq_ignore_ascii_case("https"));
    if said.is_none() {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(X_FORWARDED_PORT) {
        let port = asked_port(headers).unwrap_or(HeaderValue::from_static(if secure { "443" } else { "80" }));
        headers.insert(X_FORWARDED_PORT, port);
    }
    if forwarded {
        add_forwarded(headers, peer.address.ip(), scheme);
    }
    check_trace(headers);
    Identity { address, secure }
}

/// Removes from a request's trailers what only its head may say of the visitor, or the edge. Of a trusted proxy too: none says it
/// so late.
pub(in crate::proxy) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| is_claim(&name.replace('_', "-")) || name == "tracestate");
}

/// The request's place in a trace (W3C Trace Context, 3.2), if that is known.
pub(in crate::proxy) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()?.get(3..35)
}

/// The port that the visitor asked for: the edge's own may be another, behind a Service.
fn asked_port(headers: &HeaderMap) -> Option<HeaderValue> {
    let host = headers.get(X_FORWARDED_HOST)?.to_str().ok()?;
    Some(split_port(host).1?.parse::<u16>().ok()?.into())
}

/// The field of RFC 7239, beside what trusted proxies said in it.
fn add_forwarded(headers: &mut HeaderMap, peer: IpAddr, scheme: &Scheme) {
    let node = match peer.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    continue_list(headers, &FORWARDED, &format!("for={node};host=\"{host}\";proto={scheme}"));
}

/// A trace that cannot be read is none, and what else is said of it is void (W3C Trace Context, 4.2).
fn check_trace(headers: &mut HeaderMap) {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let Some(parent) = parents.next() else { return };
    if parents.next().is_some() || !is_trace_parent(parent.as_bytes()) {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
}

/// `version-traceid-parentid-flags`; versions after 00 may have more behind it.
fn is_trace_parent(value: &[u8]) -> bool {
    let part = |from: usize, to: usize| {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        value.get(from..to).filter(|part| part.iter().all(hex))
    };
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let (Some(version), Some(trace), Some(parent), Some(_)) = (part(0, 2), part(3, 35), part(36, 52), part(53, 55))
    else {
        return false;
    };
    let some = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let ends = value.len() == 55 || version != b"00" && value.get(55) == Some(&b'-');
    dashes && ends && version != b"ff" && some(trace) && some(parent)
}

/// What a proxy says about the visitor or about what it asked for, as `X-Forwarded-User` too: believed only from a trusted
/// one. Beside the usual names, those that content networks and frameworks look for.
fn is_identity(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix("x-") {
        return rest.starts_with("forwarded-")
            || matches!(
                rest,
                "real-ip"
                    | "client-ip"
                    | "cluster-client-ip"
                    | "remote-ip"
                    | "remote-addr"
                    | "forwarded"
                    | "original-forwarded-for"
                    | "original-host"
                    | "original-url"
                    | "rewrite-url"
                    | "envoy-external-address"
                    | "appengine-user-ip"
                    | "azure-clientip"
            );
    }
    matches!(
        name,
        "forwarded"
            | "true-client-ip"
            | "client-ip"
            | "cf-connecting-ip"
            | "cf-connecting-ipv6"
            | "fastly-client-ip"
            | "fly-client-ip"
    )
}

/// What the edge answers for. Backends that follow CGI (RFC 3875, 4.1.18) cannot tell `X_Forwarded_For` from
/// `X-Forwarded-For`, so twins with underscores are nobody's word.
fn is_claim(name: &str) -> bool {
    is_identity(name) || matches!(name, "x-request-id" | "authorization" | "host" | "proxy" | "via" | "traceparent")
}

/// Puts one more entry at the end of a list, in one field.
fn continue_list(headers: &mut HeaderMap, name: &HeaderName, entry: &str) {
    let mut list = String::new();
    for value in headers.get_all(name) {
        list.push_str(value.to_str().unwrap_or_default());
        list.push_str(", ");
    }
    list.push_str(entry);
    if let Ok(list) = HeaderValue::from_str(&list) {
        headers.insert(name, list);
    }
}

fn text(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// An entry of `X-Forwarded-For`: an address, with a port as some balancers write it, or without.
fn node(entry: &str) -> Option<IpAddr> {
    let address = entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

// === impl Peer ===

impl Peer {
    pub(in crate::proxy) fn new(address: SocketAddr) -> Self {
        Self { address, text: text(address.ip()) }
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
        if self.0.is_empty() {
            return false;
        }
        // A dual-stack listener sees IPv4 peers as ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }

    /// The visitor behind a trusted peer: the last address of `X-Forwarded-For` that no trusted proxy has.
    fn visitor(&self, headers: &HeaderMap, peer: SocketAddr) -> SocketAddr {
        let hops = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
        for hop in hops.into_iter().rev() {
            match node(hop) {
                Some(address) if self.contains(address) => {}
                Some(address) => return SocketAddr::new(address, 0),
                // What stands left of a malformed entry is nobody's word.
                None => break,
            }
        }
        peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "198.51.100.7:4000";
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn identified(fields: &[(&'static str, &'static str)], trusted: &str) -> (HeaderMap, Identity) {
        let trusted = TrustedProxies::new(vec![trusted.parse().expect("a network")]);
        let mut headers = headers(fields);
        let peer = Peer::new(PEER.parse().expect("an address"));
        let identity = identify(&mut headers, &peer, &Scheme::HTTP, &trusted, true);
        (headers, identity)
    }

    #[test]
    fn the_word_of_an_untrusted_peer_is_replaced() {
        let forged = [
            ("host", "shop.example.com:8080"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-host", "evil.example.com"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forwarded-user", "root"),
            ("x_request_id", "1"),
            ("true-client-ip", "10.0.0.1"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("x-original-url", "/admin"),
            ("proxy", "http://evil.example.com"),
            ("forwarded", "for=10.0.0.1"),
        ];
        let (headers, identity) = identified(&forged, "192.0.2.0/24");
        assert_eq!(identity, Identity { address: PEER.parse().expect("an address"), secure: false });
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        left.sort_unstable();
        let expected = [
            ("forwarded", "for=198.51.100.7;host=\"shop.example.com:8080\";proto=http"),
            ("host", "shop.example.com:8080"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-host", "shop.example.com:8080"),
            ("x-forwarded-port", "8080"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "198.51.100.7"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn the_word_of_a_trusted_proxy_is_kept_and_continued() {
        let said = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example.com"),
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-user", "ada"),
            ("proxy", "http://evil.example.com"),
        ];
        let (headers, identity) = identified(&said, "198.51.100.0/24");
        assert!(identity.secure);
        assert_eq!(identity.address.ip().to_string(), "203.0.113.9");
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "203.0.113.9"),
            ("x-forwarded-user", "ada"),
            ("forwarded", "for=203.0.113.9, for=198.51.100.7;host=\"\";proto=http"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert!(!headers.contains_key("proxy"));
    }

    #[test]
    fn the_visitor_is_the_last_address_that_is_no_trusted_proxy() {
        let visitor = |list| identified(&[("x-forwarded-for", list)], "198.51.100.0/24").1.address.ip().to_string();
        assert_eq!(visitor("10.9.9.9, 203.0.113.9, 198.51.100.1"), "203.0.113.9");
        assert_eq!(visitor("203.0.113.9:51234"), "203.0.113.9");
        assert_eq!(visitor("[2001:db8::1]:443, 198.51.100.1:9"), "2001:db8::1");
        assert_eq!(visitor("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(visitor("203.0.113.9, nonsense"), "198.51.100.7");
        let (_, untrusted) = identified(&[("x-forwarded-for", "1.2.3.4")], "192.0.2.0/24");
        assert_eq!(untrusted.address, PEER.parse().expect("an address"));
    }

    #[test]
    fn trailers_say_nothing_of_the_visitor() {
        let mut trailers = headers(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_user", "root"),
            ("forwarded", "for=10.0.0.1"),
            ("true-client-ip", "10.0.0.1"),
            ("x-request-id", "1"),
            ("via", "1.1 evil"),
            ("traceparent", TRACE),
            ("tracestate", "a=1"),
            ("proxy", "http://evil.example.com"),
            ("x-sum", "1"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    }

    #[test]
    fn a_trace_passes_where_it_can_be_read() {
        let (kept, _) = identified(&[("traceparent", TRACE), ("tracestate", "a=1")], "192.0.2.0/24");
        assert_eq!(trace_id(&kept), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(kept["tracestate"], "a=1");
        for bad in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "",
        ] {
            let (dropped, _) = identified(&[("traceparent", bad), ("tracestate", "a=1")], "192.0.2.0/24");
            assert!(!dropped.contains_key("traceparent") && !dropped.contains_key("tracestate"), "{bad}");
        }
        assert!(is_trace_parent(format!("01{}-more", &TRACE[2..]).as_bytes()));
        let twice = [("traceparent", TRACE), ("traceparent", TRACE)];
        assert!(!identified(&twice, "192.0.2.0/24").0.contains_key("traceparent"));
    }
}
