use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A reference to a Secret in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct SecretRef {
    /// The Secret's name; it is in the same namespace as this object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The types of Secret that Culvert reads. It reads no others, so one of another type is the same as none.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretType {
    /// What an agent proves its identity with: one key, `token`.
    AgentToken,
    /// One visitor (Kubernetes' own type): the keys `username` and `password`.
    BasicAuth,
    /// Many visitors: one key, `auth`, with lines `user:bcrypt-hash`, as `htpasswd -B` writes them.
    Htpasswd,
    /// A certificate with its key (Kubernetes' own type): the keys `tls.crt` and `tls.key`, PEM. Only those that a TunnelHost
    /// refers to are read.
    Tls,
    /// Authorities that backends' certificates are checked by: one key, `ca.crt`, PEM.
    CaCertificates,
}

// === impl SecretType ===

impl SecretType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::AgentToken, Self::BasicAuth, Self::Htpasswd, Self::Tls, Self::CaCertificates];

    /// Those that are read whether or not an object refers to them.
    pub const WATCHED: [Self; 4] = [Self::AgentToken, Self::BasicAuth, Self::Htpasswd, Self::CaCertificates];

    /// The key of a token in a Secret of type [`Self::AgentToken`].
    pub const TOKEN: &str = "token";
    /// The key of the name in a Secret of type [`Self::BasicAuth`].
    pub const USERNAME: &str = "username";
    /// The key of the password in a Secret of type [`Self::BasicAuth`].
    pub const PASSWORD: &str = "password";
    /// The key of the lines in a Secret of type [`Self::Htpasswd`].
    pub const AUTH: &str = "auth";
    /// The key of the chain in a Secret of type [`Self::Tls`].
    pub const CERTIFICATE: &str = "tls.crt";
    /// The key of the private key in a Secret of type [`Self::Tls`].
    pub const PRIVATE_KEY: &str = "tls.key";
    /// The key of the certificates in a Secret of type [`Self::CaCertificates`].
    pub const AUTHORITIES: &str = "ca.crt";

    /// The Secret's `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentToken => "culvert.dev/agent-token",
            Self::BasicAuth => "kubernetes.io/basic-auth",
            Self::Htpasswd => "culvert.dev/htpasswd",
            Self::Tls => "kubernetes.io/tls",
            Self::CaCertificates => "culvert.dev/ca-certificates",
        }
    }
}
