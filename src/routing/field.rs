//! Names of header fields that have a part in how a message travels. `proxy` takes them out, and `compile` lets nobody change or
//! ask for them. All are in lower case.

/// Fields of one connection, never passed on (RFC 9110, 7.6.1, and those of RFC 2068 that are still met).
pub const OF_HOP: [&str; 8] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// A program that follows CGI would take it for the address of its own proxy ("httpoxy"); no client has use for it.
pub const PROXY: &str = "proxy";

/// What else is not for header rules: it frames the message, or has a field of its own.
pub const OF_FRAMING: [&str; 5] = ["content-length", "expect", "host", "te", "trailer"];

/// Whether a field is of one connection, and never passed on.
#[must_use]
pub fn is_of_hop(name: &str) -> bool {
    OF_HOP.contains(&name)
}

/// Whether a field is gone before a request is routed, so that no rule can ask for it.
#[must_use]
pub fn is_never_routed(name: &str) -> bool {
    is_of_hop(name) || name == PROXY
}

/// Whether a field is not for header rules.
#[must_use]
pub fn is_protected(name: &str) -> bool {
    is_never_routed(name) || OF_FRAMING.contains(&name)
}
