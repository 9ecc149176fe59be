use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, SecretRef};

/// What an agent proves its identity with, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "culvert.dev",
    version = "v1alpha1",
    kind = "TunnelAgent",
    plural = "tunnelagents",
    shortname = "ta",
    category = "culvert",
    namespaced,
    status = "TunnelAgentStatus",
    derive = "PartialEq",
    doc = "The identity of agents: processes next to your services that dial the edge and hold a tunnel open. Any number of processes may run as the same TunnelAgent; they are used in turn.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether agents can register"
    ),
    printcolumn(
        name = "Connected",
        type_ = "integer",
        json_path = ".status.connectedReplicas",
        description = "How many replicas of the edge an agent has a session with"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "How many replicas of the edge there are to connect to"
    ),
    printcolumn(
        name = "Transport",
        type_ = "string",
        json_path = ".status.sessions[0].transport",
        description = "What carries the first of its sessions"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.sessions[0].version",
        description = "The version of the process of the first of its sessions"
    ),
    printcolumn(
        name = "Sessions",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="AgentConnected")].message"#,
        description = "How many sessions it has with all replicas"
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
pub struct TunnelAgentSpec {
    /// What agents may register with, 1 to 8 of them. Several at once make a rotation without an outage possible: add the
    /// new one, restart the agents with it, remove the old one. Removing one ends the sessions that were made with it.
    #[schemars(length(min = 1, max = 8))]
    pub credentials: Vec<CredentialSource>,
    /// Which namespaces' TunnelHosts may send requests to this agent. Unset, only those of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
    /// The networks that agents may dial from, as in `203.0.113.0/24` or `2001:db8::/32`, or single addresses, up to 64: their
    /// addresses as the edge sees them, which may be those of a NAT or a balancer. A session from elsewhere is refused (403), and
    /// ended when the list changes. Unset or empty, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 49)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_sources: Vec<String>,
    /// How many processes may run as this agent at a time. Each replica of the edge counts those that have a session with it,
    /// except those that are leaving; one too many is refused (429) and tries again, and when the number is lowered, those that
    /// came last are ended. Room for one more lets a new process start before the old one stops. Unset, 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_instances: Option<i32>,
    /// What the agent may use at most. Unset, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AgentLimits>,
}

/// Where a credential of an agent comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSource {
    /// A Secret of type `culvert.dev/agent-token` whose key `token` holds at least 16 printable ASCII characters without
    /// spaces; `culvert token` makes one.
    pub secret_ref: SecretRef,
}

/// What an agent may use at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentLimits {
    /// The most connections (requests in progress, WebSockets and other upgrades) at a time through all sessions of this
    /// agent, over all replicas of the edge, each of which grants an equal share. Beyond it, visitors get 429. Unset,
    /// there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections: Option<i32>,
}

/// What the edge says of a TunnelAgent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelAgentStatus {
    /// The `metadata.generation` that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the object is accepted, its Secrets are right, an agent is connected, and all of it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// With how many of the edge's `replicas` an agent has a session; all of them, once agents have met each. With fewer, the
    /// others forward requests to one that has a session. Unset until the edge has looked at the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_replicas: Option<i32>,
    /// How many replicas of the edge run, and are not on their way out. Unset until the edge has looked at the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The tunnels that are open now, one entry for each instance of the agent and replica of the edge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["replica".into(), "instance".into()]))]
    pub sessions: Vec<AgentSession>,
}

/// An open tunnel: an instance of an agent, and the replica of the edge that it is connected to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSession {
    /// The replica of the edge: its pod's name.
    pub replica: String,
    /// The process that runs as the agent: an id that it chose at its start.
    pub instance: String,
    /// The version of the agent's binary.
    pub version: String,
    /// What carries the tunnel: `tls`, or `websocket` (inside TLS) where the agent's network lets through nothing else;
    /// `plaintext` or `plaintext-websocket` where the edge takes agents without TLS.
    pub transport: String,
    /// Where the agent dials from, `address:port` as the edge sees it.
    pub remote_address: String,
    /// Since when, RFC 3339 in UTC: of several connections the oldest.
    pub since: String,
    /// How many connections there are between the two, as the agent's `--connections` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i32>,
}
