use std::net::SocketAddr;

/// What the edge tells the agent about a link that it opens: where it goes, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// What the agent connects to, `host:port`.
    pub target: String,
    /// The TunnelHost, `namespace/name`.
    pub tunnel_host: String,
    /// The visitor's address; `None` where there is no single visitor (a link that serves many in turn).
    pub visitor: Option<SocketAddr>,
    /// The request's id.
    pub request_id: Option<String>,
    /// The request's `traceparent` (W3C Trace Context).
    pub traceparent: Option<String>,
}
