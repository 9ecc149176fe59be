/// The conditions of an object's status, by their `type`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object itself is right and nothing of it is in conflict with another.
    Accepted,
    /// Everything that the object refers to exists and is right.
    ResolvedRefs,
    /// The edge's routing table holds the object.
    Programmed,
    /// An agent of the object has a session. Not part of `Ready`: an offline laptop must not hang a deployment.
    AgentConnected,
    /// Each route of a TunnelHost has a target that an agent reaches, as far as health checks and requests tell; with the agent's
    /// own words where not. Unknown where neither has told anything. Not part of `Ready`: a backend is somebody's own.
    BackendReachable,
    /// Copies the first of `Accepted`, `ResolvedRefs` and `Programmed` that is not True; what to wait for.
    Ready,
}

/// A condition's `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not; the reason and the message say why.
    False,
    /// Nobody has judged it yet.
    Unknown,
}

/// A condition's `reason`: one word for programs; the message is for people.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Accepted` is True.
    Accepted,
    /// Not judged yet.
    Pending,
    /// Another namespace owns a hostname of the object.
    HostnameConflict,
    /// An older object has the same hostname, path and match.
    RouteConflict,
    /// A field has a value that is not possible.
    UnsupportedValue,
    /// The object could not be read, or nothing of it could be used.
    Invalid,
    /// `ResolvedRefs` is True.
    ResolvedRefs,
    /// There is no Secret of that name and type in the namespace.
    SecretNotFound,
    /// The Secret is there, and its type or what it holds is not right.
    InvalidSecret,
    /// The Secret of a certificate is there, and its certificate or its key is not right, or the edge cannot get it.
    InvalidCertificate,
    /// There is no TunnelAgent of that name in the namespace.
    AgentNotFound,
    /// A TunnelAgent of another namespace does not admit this one, or does not exist: which of the two is not told.
    RefNotPermitted,
    /// `Programmed` is True.
    Programmed,
    /// `AgentConnected` is True.
    Connected,
    /// No agent of the object has a session with any replica.
    NoSession,
    /// `BackendReachable` is True.
    Reachable,
    /// The target refuses connections.
    Refused,
    /// The target did not take a connection, or did not answer a health check, in time.
    Timeout,
    /// The target's name does not resolve, or no way leads there.
    Unreachable,
    /// The target answers a health check otherwise than it should.
    Unhealthy,
    /// The agent's own allow-list does not have the target.
    TargetNotAllowed,
    /// `Ready` is True.
    Ready,
}

// === impl ConditionType ===

impl ConditionType {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::AgentConnected => "AgentConnected",
            Self::BackendReachable => "BackendReachable",
            Self::Ready => "Ready",
        }
    }
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Pending => "Pending",
            Self::HostnameConflict => "HostnameConflict",
            Self::RouteConflict => "RouteConflict",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::Invalid => "Invalid",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::SecretNotFound => "SecretNotFound",
            Self::InvalidSecret => "InvalidSecret",
            Self::InvalidCertificate => "InvalidCertificate",
            Self::AgentNotFound => "AgentNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::Programmed => "Programmed",
            Self::Connected => "Connected",
            Self::NoSession => "NoSession",
            Self::Reachable => "Reachable",
            Self::Refused => "Refused",
            Self::Timeout => "Timeout",
            Self::Unreachable => "Unreachable",
            Self::Unhealthy => "Unhealthy",
            Self::TargetNotAllowed => "TargetNotAllowed",
            Self::Ready => "Ready",
        }
    }
}
