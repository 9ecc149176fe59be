use std::time::Duration;

use super::visitor::identity::TrustedProxies;
use crate::telemetry::access_log::AccessLog;

/// What is the same for all visitors, whatever host they ask for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The proxies whose word about the visitor is taken; default none.
    pub trusted_proxies: TrustedProxies,
    /// From whom connections come with a header of the PROXY protocol, version 1 or 2, on all listeners. All of them must
    /// have one then, and come from these; others are closed. Default none: nobody sends one.
    pub proxy_protocol: Option<TrustedProxies>,
    /// Tells backends of the visitor by `Forwarded` (RFC 7239) too; default not.
    pub forwarded: bool,
    /// Where visitors find the edge with TLS, for those who are sent there; default 443.
    pub public_https_port: u16,
    /// Where each request gets a line; default nowhere.
    pub access_log: Option<AccessLog>,
    /// How long a visitor may take for a request's head, from its first byte, and for a TLS handshake; default 10 s.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request; default 75 s.
    pub idle_timeout: Duration,
    /// How long a visitor may take nothing of what is written to it, where no rule says it otherwise; default 5 min.
    pub stall_timeout: Duration,
    /// The largest head of a request, in bytes; default 64 KiB.
    pub max_header_bytes: usize,
    /// The most fields in a request's head; default 100. Over HTTP/2 the bytes alone count.
    pub max_headers: usize,
    /// The most connections of visitors at a time, of each listener; default any number. Those that switched protocols
    /// over HTTP/1.1, as for a WebSocket, do not count.
    pub max_connections: Option<usize>,
}

/// The most fields in a head that hyper takes unless it is told otherwise.
pub(super) const DEFAULT_MAX_HEADERS: usize = 100;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            trusted_proxies: TrustedProxies::default(),
            proxy_protocol: None,
            forwarded: false,
            public_https_port: 443,
            access_log: None,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_mins(5),
            max_header_bytes: 64 * 1024,
            max_headers: DEFAULT_MAX_HEADERS,
            max_connections: None,
        }
    }
}
