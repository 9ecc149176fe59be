pub(super) mod failure;
mod reason;

use std::{borrow::Cow, net::IpAddr, time::Duration};

use http::StatusCode;

pub use self::reason::Reason;

/// Why the edge answers a request itself: each cause has its status, its `Proxy-Status` error (RFC 9209, 2.3) and its
/// reason in the metrics, here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("no TunnelHost has this host")]
    UnknownHost,
    #[error("no route of this host matches the path")]
    NoRoute,
    #[error("the request's host is missing or malformed")]
    BadHost,
    #[error("the connection was made for a host with another certificate")]
    Misdirected,
    #[error("the request's path has a segment \".\" or \"..\"")]
    BadPath,
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    #[error("the request's body has a transfer coding other than chunked")]
    UnknownCoding,
    /// The detail is for the log; a visitor is not told which Secret is missing.
    #[error("the route is misconfigured; the conditions of its TunnelHost say how")]
    Misconfigured(std::sync::Arc<str>),
    #[error("credentials are required")]
    Unauthorized { realm: std::sync::Arc<str> },
    #[error("too many passwords are being checked")]
    TooManyLogins,
    #[error("this route is not for visitors from {0}")]
    AccessDenied(IpAddr),
    #[error("the route's limit of requests a second is reached")]
    RequestRate { wait: Duration },
    #[error("the route's limit of requests at a time is reached")]
    ConcurrentRequests,
    #[error("the request's body is larger than {0} bytes, which is the route's limit")]
    BodyTooLarge(u64),
    #[error("the connection limit of agent {agent} is reached")]
    ConnectionLimit { agent: String },
    #[error("no agent of this route has a session")]
    NoSession,
    #[error("every agent or every target of this route has the weight 0")]
    Drained,
    #[error("the agent's allow-list does not have the target: {0}")]
    TargetNotAllowed(String),
    #[error("the backend refused the connection: {0}")]
    BackendRefused(String),
    #[error("the backend cannot be reached: {0}")]
    BackendUnreachable(String),
    #[error("the agent is overloaded: {0}")]
    AgentOverloaded(String),
    #[error("the backend did not take the connection within {}", Seconds(*.0))]
    ConnectTimeout(Duration),
    #[error("the backend sent no response head within {}", Seconds(*.0))]
    ResponseTimeout(Duration),
    #[error("the session of the agent was lost")]
    SessionLost,
    #[error("the backend closed the connection before its response was complete")]
    BackendClosed,
    #[error("the backend's response is not valid HTTP: {0}")]
    InvalidResponse(Cow<'static, str>),
    #[error("the head of the backend's response is too large")]
    ResponseHeadTooLarge,
    #[error("the backend's certificate is not accepted: {0}")]
    BackendCertificate(String),
    #[error("there is no TLS with the backend: {0}")]
    BackendTls(String),
    #[error("this method is not forwarded")]
    Method,
    #[error("nothing came of the request's body for {}", Seconds(*.0))]
    RequestTimeout(Duration),
    #[error("the request's body could not be read: {0}")]
    RequestBody(String),
}

struct Seconds(Duration);

// === impl ProxyError ===

impl ProxyError {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownHost | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BadHost | Self::BadPath | Self::Malformed(_) | Self::RequestBody(_) => StatusCode::BAD_REQUEST,
            // RFC 9112, 6.1.
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::RequestTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Misconfigured(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::AccessDenied(_) => StatusCode::FORBIDDEN,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ConnectionLimit { .. }
            | Self::TooManyLogins
            | Self::RequestRate { .. }
            | Self::ConcurrentRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSession | Self::Drained | Self::AgentOverloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::TargetNotAllowed(_)
            | Self::BackendRefused(_)
            | Self::BackendUnreachable(_)
            | Self::SessionLost
            | Self::BackendClosed
            | Self::BackendCertificate(_)
            | Self::BackendTls(_)
            | Self::InvalidResponse(_)
            | Self::ResponseHeadTooLarge => StatusCode::BAD_GATEWAY,
        }
    }

    /// The error type of RFC 9209, or `None` where it has none for the cause.
    pub(super) fn proxy_status(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownHost | Self::NoRoute => "destination_not_found",
            Self::BadHost
            | Self::BadPath
            | Self::Malformed(_)
            | Self::UnknownCoding
            | Self::Method
            | Self::RequestTimeout(_)
            | Self::RequestBody(_) => "http_request_error",
            Self::Misconfigured(_) => "proxy_configuration_error",
            Self::Unauthorized { .. } | Self::Misdirected => return None,
            Self::ConnectionLimit { .. }
            | Self::TooManyLogins
            | Self::AccessDenied(_)
            | Self::RequestRate { .. }
            | Self::ConcurrentRequests
            | Self::BodyTooLarge(_) => "http_request_denied",
            Self::NoSession | Self::Drained | Self::AgentOverloaded(_) => "destination_unavailable",
            Self::TargetNotAllowed(_) | Self::BackendRefused(_) => "connection_refused",
            Self::BackendUnreachable(_) => "destination_ip_unroutable",
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::ResponseTimeout(_) => "http_response_timeout",
            Self::SessionLost | Self::BackendClosed => "connection_terminated",
            Self::BackendCertificate(_) => "tls_certificate_error",
            Self::BackendTls(_) => "tls_protocol_error",
            Self::InvalidResponse(_) => "http_protocol_error",
            Self::ResponseHeadTooLarge => "http_response_header_section_size",
        })
    }

    /// Its name in the metrics and the access log.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::UnknownHost => Reason::UnknownHost,
            Self::NoRoute => Reason::NoRoute,
            Self::BadHost => Reason::BadHost,
            Self::BadPath => Reason::BadPath,
            Self::Misdirected => Reason::Misdirected,
            Self::Malformed(_) => Reason::MalformedRequest,
            Self::UnknownCoding => Reason::UnknownCoding,
            Self::Misconfigured(_) => Reason::Misconfigured,
            Self::Unauthorized { .. } => Reason::Unauthorized,
            Self::ConnectionLimit { .. } => Reason::ConnectionLimit,
            Self::TooManyLogins => Reason::TooManyLogins,
            Self::AccessDenied(_) => Reason::AccessDenied,
            Self::RequestRate { .. } => Reason::RequestRate,
            Self::ConcurrentRequests => Reason::ConcurrentRequests,
            Self::BodyTooLarge(_) => Reason::BodySize,
            Self::NoSession => Reason::NoSession,
            Self::Drained => Reason::Drained,
            Self::TargetNotAllowed(_) => Reason::TargetNotAllowed,
            Self::BackendRefused(_) => Reason::BackendRefused,
            Self::BackendUnreachable(_) => Reason::BackendUnreachable,
            Self::AgentOverloaded(_) => Reason::AgentOverloaded,
            Self::ConnectTimeout(_) => Reason::ConnectTimeout,
            Self::ResponseTimeout(_) => Reason::ResponseTimeout,
            Self::SessionLost => Reason::SessionLost,
            Self::BackendClosed => Reason::BackendClosed,
            Self::BackendCertificate(_) => Reason::BackendCertificate,
            Self::BackendTls(_) => Reason::BackendTls,
            Self::InvalidResponse(_) => Reason::InvalidResponse,
            Self::ResponseHeadTooLarge => Reason::ResponseHeadTooLarge,
            Self::Method => Reason::Method,
            Self::RequestTimeout(_) => Reason::RequestTimeout,
            Self::RequestBody(_) => Reason::RequestBody,
        }
    }

    /// When to try again, where trying again may help.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RequestRate { wait } => Some(*wait),
            Self::ConnectionLimit { .. }
            | Self::TooManyLogins
            | Self::ConcurrentRequests
            | Self::NoSession
            | Self::AgentOverloaded(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Whether the request leaves in doubt where the next one on its connection would begin.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::BadHost | Self::Malformed(_) | Self::UnknownCoding | Self::RequestTimeout(_) | Self::RequestBody(_)
        )
    }

    /// For a failure to connect: whether another session or target may do better. The backend saw nothing yet.
    pub(super) fn may_go_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::TargetNotAllowed(_)
                | Self::BackendRefused(_)
                | Self::BackendUnreachable(_)
                | Self::AgentOverloaded(_)
                | Self::BackendCertificate(_)
                | Self::BackendTls(_)
                | Self::SessionLost
        )
    }
}

// === impl Seconds ===

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}
