/// Makes the type, with all that there is of it, out of one list: nothing can be counted that is not in it.
macro_rules! reasons {
    ($($reason:ident = $label:literal,)+) => {
        /// Why a request failed, or a connection was given up: one name for it in `culvert_errors_total` and in the access
        /// log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $label, "`")] $reason,)+
        }

        impl Reason {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$reason,)+];

            /// Its name.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)+
                }
            }
        }
    };
}

// What each means to operators is in docs/operations.md, and a test keeps that complete.
reasons! {
    UnknownHost = "unknown_host",
    NoRoute = "no_route",
    BadHost = "bad_host",
    BadPath = "bad_path",
    Method = "method",
    Misdirected = "misdirected",
    MalformedRequest = "malformed_request",
    UnknownCoding = "unknown_coding",
    Misconfigured = "misconfigured",
    Unauthorized = "unauthorized",
    TooManyLogins = "too_many_logins",
    AccessDenied = "access_denied",
    RequestRate = "request_rate",
    ConcurrentRequests = "concurrent_requests",
    BodySize = "body_size",
    ConnectionLimit = "connection_limit",
    Drained = "drained",
    NoSession = "no_session",
    AgentOverloaded = "agent_overloaded",
    TargetNotAllowed = "target_not_allowed",
    BackendRefused = "backend_refused",
    BackendUnreachable = "backend_unreachable",
    ConnectTimeout = "connect_timeout",
    ResponseTimeout = "response_timeout",
    BackendClosed = "backend_closed",
    SessionLost = "session_lost",
    BackendCertificate = "backend_certificate",
    BackendTls = "backend_tls",
    InvalidResponse = "invalid_response",
    ResponseHeadTooLarge = "response_head_too_large",
    RequestTimeout = "request_timeout",
    RequestBody = "request_body",
    StreamIdle = "stream_idle",
    UpgradeIdle = "upgrade_idle",
    GoingAway = "going_away",
    VisitorStalled = "visitor_stalled",
    VisitorLeft = "visitor_left",
    VisitorClosed = "visitor_closed",
    HeadTooLarge = "head_too_large",
    HeadTimeout = "head_timeout",
    IncompleteRequest = "incomplete_request",
    Http2Flood = "http2_flood",
    TooManyConnections = "too_many_connections",
    ProxyProtocolUntrusted = "proxy_protocol_untrusted",
    ProxyProtocolMalformed = "proxy_protocol_malformed",
    ProxyProtocolTimeout = "proxy_protocol_timeout",
}
