use std::{fmt, sync::Arc};

use super::{ObjectName, PathMatch, Target};

/// Where a rule comes from: a TunnelHost and the place in its `spec.routes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// The TunnelHost.
    pub object: ObjectName,
    /// Index into its `spec.routes`.
    pub route: usize,
}

/// One compiled route: what it matches, what a request has to pass, and where it goes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the rule comes from.
    pub id: RuleId,
    /// Which paths it is for.
    pub path: PathMatch,
    /// What a request has to pass, in this order.
    pub filters: Vec<Filter>,
    /// Where the request goes.
    pub backend: Backend,
}

/// A policy that a request has to pass before it is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// HTTP Basic authentication (RFC 7617); else 401.
    BasicAuth(Arc<BasicAuth>),
}

/// Who gets in with HTTP Basic authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The realm that the visitor's browser shows.
    pub realm: Arc<str>,
    /// Those who may enter.
    pub users: Vec<User>,
}

/// A visitor's name and the password that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, compared byte by byte.
    pub name: Arc<str>,
    /// The password.
    pub password: Password,
}

/// A visitor's password, in the form that its Secret holds. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As is, from a Secret of type `kubernetes.io/basic-auth`.
    Plain(Arc<str>),
    /// A bcrypt hash, from a line of a Secret of type `culvert.dev/htpasswd`.
    Bcrypt(Arc<str>),
}

/// Where a rule's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Through the tunnel of an agent.
    Tunnel(TunnelBackend),
    /// A reference of the rule is broken: 500, and never a less specific rule instead. The text says what is broken,
    /// without a value of a Secret; it is for the log, not for the visitor.
    Invalid(Arc<str>),
}

/// The agents and targets of a rule; both non-empty, used in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelBackend {
    /// The agents, any of which may carry a request.
    pub agents: Vec<ObjectName>,
    /// What the agent connects to.
    pub targets: Vec<Target>,
    /// The `Host` that the backend gets; `None` keeps the visitor's.
    pub host_header: Option<Arc<str>>,
}

// === impl RuleId ===

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} routes[{}]", self.object, self.route)
    }
}

// === impl Password ===

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Bcrypt(_) => "Bcrypt(…)",
        })
    }
}
