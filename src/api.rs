//! The objects that users write: group `culvert.dev`, version `v1alpha1`, and the Secrets they refer to.
//!
//! A field is here only once it works. Rules that CEL can express are CEL in the schema, so that the API server refuses
//! a wrong object at once and `culvert check` refuses it offline; what needs other objects is told by conditions.
//! The doc comment of a field is its text in `kubectl explain`.

// KubeSchema copies each struct into a function, where nobody can reach it.
#![allow(unreachable_pub, reason = "of the derive's copies")]
#![allow(clippy::duplicated_attributes, reason = "two printer columns may have the same type")]

mod agent;
mod allowed_namespaces;
mod conditions;
mod crds;
mod duration;
mod host;
mod quantity;
#[cfg(test)]
mod reference;
mod secrets;

pub use self::{
    agent::{AgentLimits, AgentSession, CredentialSource, TunnelAgent, TunnelAgentSpec, TunnelAgentStatus},
    allowed_namespaces::{AllowedNamespaces, LabelExpression, LabelOperator, NamespaceSelector, NamespacesFrom},
    conditions::{ConditionStatus, ConditionType, Reason},
    crds::crds,
    host::{
        Access, AgentRef, Auth, Backend, BackendTls, BasicAuth, HeaderMatch, HeaderRules, Headers, HealthCheck, Hsts,
        HttpHealthCheck, Limits, LoadBalancing, MatchType, PassiveHealth, PathRule, PathType, Protocol, ProxyProtocol,
        QueryMatch, RateKey, Redirect, RedirectPath, RedirectPathType, RequestRate, Retries, Rewrite, Route,
        RouteMatch, Scheme, TargetAddress, TcpHealthCheck, Timeouts, Tls, TunnelHost, TunnelHostSpec, TunnelHostStatus,
        UnreachableBackend,
    },
    quantity::Quantity,
    secrets::{SecretRef, SecretType},
};

/// The API group of Culvert's objects.
pub const GROUP: &str = "culvert.dev";

/// The version of Culvert's objects.
pub const VERSION: &str = "v1alpha1";
