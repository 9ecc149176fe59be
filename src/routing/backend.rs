use std::sync::Arc;

use http::{StatusCode, uri::Scheme};
use rustls_pki_types::CertificateDer;

use super::{HealthCheck, LoadBalancing, PassiveHealth, Places};

/// Where a rule's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Through the tunnel of an agent.
    Tunnel(TunnelBackend),
    /// Nowhere: the visitor is told another place.
    Redirect(Redirect),
    /// A reference of the rule is broken: 500, and never a less specific rule instead. The text says what is broken,
    /// without a value of a Secret; it is for the log, not for the visitor.
    Invalid(Arc<str>),
}

/// The agents and targets of a rule, and how they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelBackend {
    /// Where a request may go. Empty where every weight is 0: nothing is sent there any more.
    pub places: Places,
    /// How the places share the requests.
    pub balancing: LoadBalancing,
    /// How agents check the targets; `None` is not at all.
    pub health_check: Option<Arc<HealthCheck>>,
    /// What it means that connects to a place fail.
    pub passive_health: PassiveHealth,
    /// What the target speaks.
    pub protocol: Protocol,
    /// The `Host` that the backend gets; `None` keeps the visitor's.
    pub host_header: Option<Arc<str>>,
    /// Tells the backend the visitor's address before the first byte; such connections are never used for another visitor.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How often a request is tried in all, where trying again is safe; at least 1.
    pub attempts: u32,
}

/// What a backend speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// TLS, and in it HTTP/2 or HTTP/1.1, as the backend chooses (ALPN).
    Https(Arc<BackendTls>),
    /// HTTP/2 with prior knowledge, as gRPC servers without TLS speak it.
    H2c,
}

/// How a backend's TLS is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// The name that is asked for (SNI) and that the certificate must have; `None` is the target's host, and where that is a socket, there always is one.
    pub server_name: Option<Arc<str>>,
    /// Whose certificates are accepted.
    pub trust: Trust,
}

/// Whose certificates are accepted of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those of the authorities that browsers trust.
    WebRoots,
    /// Those of these authorities.
    Authorities(Vec<CertificateDer<'static>>),
    /// Anybody's: the connection is encrypted, but whoever is in between may read it.
    Insecure,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// Another place, as Gateway API's `RequestRedirect` has it; what is `None` stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The name.
    pub hostname: Option<Arc<str>>,
    /// The port; `None` is the scheme's own.
    pub port: Option<u16>,
    /// The path; the query stays.
    pub path: Option<RedirectPath>,
}

/// The path of another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// This one.
    Full(Arc<str>),
    /// The one asked for, with this in the place of the prefix that the rule matched.
    ReplacePrefix(Arc<str>),
}
