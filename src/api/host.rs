use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

mod auth;
mod backend;
mod headers;
mod health;
mod limits;
mod route;
mod tls;

pub use self::{
    auth::{Access, Auth, BasicAuth},
    backend::{AgentRef, Backend, BackendTls, LoadBalancing, Protocol, ProxyProtocol, TargetAddress},
    headers::{HeaderRules, Headers},
    health::{HealthCheck, HttpHealthCheck, PassiveHealth, TcpHealthCheck},
    limits::{Limits, RateKey, RequestRate, Retries, Timeouts},
    route::{
        HeaderMatch, MatchType, PathRule, PathType, QueryMatch, Redirect, RedirectPath, RedirectPathType, Rewrite,
        Route, RouteMatch, Scheme,
    },
    tls::{Hsts, Tls},
};

/// Which hostnames, who may enter, and where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "culvert.dev",
    version = "v1alpha1",
    kind = "TunnelHost",
    plural = "tunnelhosts",
    shortname = "th",
    category = "culvert",
    namespaced,
    status = "TunnelHostStatus",
    derive = "PartialEq",
    doc = "Public hostnames whose requests go through the tunnels of agents to services behind NAT. Objects of one namespace may share a hostname: their routes are merged.",
    printcolumn(
        name = "Hostnames",
        type_ = "string",
        json_path = ".spec.hostnames",
        description = "The hostnames that it claims"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether all of it is served"
    ),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="AgentConnected")].status"#,
        description = "Whether one of its agents has a session with the edge"
    ),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="BackendReachable")].status"#,
        description = "Whether its backends can be reached, as far as checks and requests tell"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready or not"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TunnelHostSpec {
    /// The hostnames that the routes are for, 1 to 16 of them: a DNS name in lower case, or `*.` and a DNS name, which
    /// stands for all names under it, at any depth. A hostname belongs to the namespace of the oldest TunnelHost that has it.
    #[schemars(with = "Vec<HostnameText>", length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hostnames: Vec<String>,
    /// What visitors see of TLS: the certificate, and whether plain HTTP leads to it. Unset, the hostnames are served over
    /// HTTP and HTTPS alike, the latter with the edge's default certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What visitors have to prove before any route of this object is reached, except those that have an `auth` of their
    /// own. Unset, everybody may enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// From which addresses visitors may come, for all routes that have no `access` of their own; else 403. Unset, from all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How much visitors may ask for, for all routes together that have no such limit of their own: a route's
    /// `limits.requests` takes the place of this `limits.requests`, and the other limits stay. Unset, there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Changes to the header fields of requests and responses. A route's `headers.request` takes the place of this
    /// `headers.request`, likewise `headers.response`. Unset, only what a proxy has to change is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// How long a request may wait for what. Each that a route sets takes the place of the same one here. Unset, the
    /// defaults hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How often a request is tried where trying again is safe, for all routes without `retries` of their own. Unset, the
    /// defaults hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// Where requests go, 1 to 64 routes. The most specific one wins, wherever it stands: an exact path, then the longest
    /// pattern, then the longest prefix; of the same path, one with methods, then that with the most header fields, then
    /// that with the most query parameters. A request that no route matches is answered 404.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub routes: Vec<Route>,
}

/// What the edge says of a TunnelHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelHostStatus {
    /// The `metadata.generation` that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the object is accepted, its references are right, the edge serves it, an agent is connected, and all of it
    /// is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What replicas of the edge cannot reach, one entry for each replica that has seen it fail; `BackendReachable` is made of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["replica".into()]))]
    pub unreachable: Vec<UnreachableBackend>,
}

/// Why a replica of the edge does not reach the backends of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreachableBackend {
    /// The replica: its pod's name.
    pub replica: String,
    /// One word, as a condition's.
    pub reason: String,
    /// Agent, target, and the agent's words.
    pub message: String,
}

/// The schema of one of `spec.hostnames`. A type of its own, because a rule on the item, other than one on the list, lets
/// the API server name the index of the wrong one.
struct HostnameText;

// === impl HostnameText ===

impl JsonSchema for HostnameText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Hostname".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "x-kubernetes-validations": [
                {
                    "rule": format!(r"self.matches('^(\\*\\.)?{LABEL}(\\.{LABEL})*$')"),
                    "message": "must be a DNS name in lower case, with or without one leading \"*.\"",
                },
                {
                    "rule": "!self.matches('^[0-9.]+$')",
                    "message": "must be a DNS name; an IP address cannot be matched",
                },
            ],
        })
    }
}
