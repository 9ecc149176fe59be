use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::SecretRef;

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
    /// What visitors have to prove before any route of this object is reached. Unset, everybody may enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Where requests go, 1 to 64 routes. The most specific path wins, wherever it stands: an exact one, then the longest
    /// prefix. A path that no route matches is answered 404.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub routes: Vec<Route>,
}

/// What visitors have to prove. Empty, it is refused: it looks like protection, and would be none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.basic)")
    .message("must say how visitors are checked, as in 'basic'; without 'auth' everybody may enter"))]
pub struct Auth {
    /// HTTP Basic authentication (RFC 7617). Unset, none is asked for. The `Authorization` header of a visitor whom the
    /// edge has checked is not passed on to the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
}

/// HTTP Basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// Who may enter: a Secret of type `kubernetes.io/basic-auth` (keys `username` and `password`) or
    /// `culvert.dev/htpasswd` (key `auth`, lines of `user:bcrypt-hash`). While it is missing or wrong, all routes of this
    /// object answer 500; they are never open.
    pub secret_ref: SecretRef,
    /// What the visitor's browser shows as the place that asks for a password: up to 128 printable ASCII characters
    /// without `"` and `\`.
    #[serde(default = "default_realm")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(r"self.matches('^[ !#-\\[\\]-~]*$')")
        .message(r#"must be printable ASCII without '"' and '\'"#))]
    pub realm: String,
}

/// Which paths, and where their requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Which paths the route is for. Unset, all: the prefix `/`.
    #[serde(default)]
    pub path: PathRule,
    /// Where the requests go.
    pub backend: Backend,
}

/// Which paths a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathRule {
    /// How `value` is compared with the path of a request: `Prefix` is this path and everything under it, by whole
    /// segments (`/a` is for `/a` and `/a/b`, not for `/ab`); `Exact` is this path alone. Both are compared
    /// percent-decoded and without empty segments, and forwarded as sent.
    #[serde(rename = "type", default)]
    pub r#type: PathType,
    /// The path, without a query: it begins with `/`.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(r#"self.matches('^/[!-\"$->@-~]*$')"#)
        .message("must begin with '/' and be printable ASCII without spaces, '?' and '#', as it stands in a URL"))]
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// The path and everything under it.
    #[default]
    Prefix,
    /// The path alone.
    Exact,
    /// Every path that the regular expression matches as a whole.
    Regex,
}

/// Where requests go: through the tunnel of one of the agents, to one of the targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The agents that can reach the targets, 1 to 16 of them. Those that are connected are used in turn.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub agents: Vec<AgentRef>,
    /// What the agent connects to, 1 to 16 of them, used in turn. The agent's own allow-list must name them.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into()]))]
    pub targets: Vec<TargetAddress>,
    /// The `Host` header that the target gets, a name with or without a port. Unset or empty, it gets the visitor's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 260))]
    #[x_kube(validation = Rule::new(
        r"self == '' || self.matches('^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$')"
    ).message("must be HOST or HOST:PORT, or empty to keep the visitor's"))]
    pub host_header: String,
}

/// A reference to a TunnelAgent in the TunnelHost's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRef {
    /// The TunnelAgent's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What an agent connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetAddress {
    /// `HOST:PORT`, where the host is a name, which the agent resolves, an IPv4 address, or an IPv6 address in brackets.
    #[schemars(length(min = 3, max = 260))]
    #[x_kube(validation = Rule::new(concat!(
        r"self.matches('^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$')",
        r" && int(self.substring(self.lastIndexOf(':') + 1)) >= 1",
        r" && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535"
    )).message("must be HOST:PORT with a port from 1 to 65535, as in \"127.0.0.1:8080\" or \"[::1]:8080\""))]
    pub address: String,
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
}

/// The schema of one of `spec.hostnames`. A type of its own, because a rule on the item, other than one on the list, lets
/// the API server name the index of the wrong one.
struct HostnameText;

// === impl BasicAuth ===

fn default_realm() -> String {
    "Restricted".to_owned()
}

// === impl PathRule ===

impl Default for PathRule {
    fn default() -> Self {
        Self { r#type: PathType::default(), value: default_path() }
    }
}

fn default_path() -> String {
    "/".to_owned()
}

// === impl PathType ===

impl PathType {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "Prefix",
            Self::Exact => "Exact",
            Self::Regex => "Regex",
        }
    }
}

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
