use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HealthCheck, PassiveHealth};
use crate::api::SecretRef;

/// Where requests go: through the tunnel of one of the agents, to one of the targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tls) || self.protocol == 'HTTPS'")
    .message("'tls' needs 'protocol: HTTPS'"))]
#[x_kube(validation = Rule::new(
    "!has(self.healthCheck) || !has(self.healthCheck.http) || !(self.protocol in ['H2C', 'GRPC'])"
).message("'healthCheck.http' speaks HTTP/1.1, which backends of H2C and GRPC need not; use 'healthCheck.tcp'"))]
#[x_kube(validation = Rule::new(concat!(
    "self.protocol != 'HTTPS' || (has(self.tls) && has(self.tls.serverName))",
    " || self.targets.all(target, !target.address.startsWith('unix:/'))"
)).message("'protocol: HTTPS' with a target 'unix:/PATH' needs 'tls.serverName', since a path is no name of a certificate"))]
pub struct Backend {
    /// The agents that can reach the targets, 1 to 16 of them. Those that are connected share the requests, as
    /// `loadBalancing` says.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub agents: Vec<AgentRef>,
    /// What the agents connect to, 1 to 16 of them: each agent to each of them. They share the requests, as `loadBalancing`
    /// says. The agent's own allow-list must name them.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into()]))]
    pub targets: Vec<TargetAddress>,
    /// How agents and targets share the requests: `RoundRobin` uses them in turn, as often as their weights say; `Random` by
    /// chance, likewise; `LeastRequests` takes two by chance, and of these the one with fewer requests in progress for its
    /// weight, as this replica of the edge knows them; `ClientHash` goes by the visitor's address (of IPv6, by its /64), so
    /// that a visitor comes to the same place as long as that can be used. What cannot be used just now is passed over.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// How the agents check the targets, so that requests go to healthy ones. Unset, they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What it means for the next requests that connects to a target through an agent fail. Unset, the defaults hold: such a
    /// place is left alone for a while where there are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive_health: Option<PassiveHealth>,
    /// What the targets speak: `HTTP` is HTTP/1.1; `HTTPS` is TLS, and in it HTTP/2 or HTTP/1.1 as the target chooses (ALPN);
    /// `H2C` is HTTP/2 without TLS, by prior knowledge; `GRPC` is the same as `H2C`.
    #[serde(default)]
    pub protocol: Protocol,
    /// How the targets' TLS is checked, with `protocol: HTTPS`. Unset, the certificate must be of an authority that browsers
    /// trust, and for the target's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// Tells the target the visitor's address before the first byte of a connection (PROXY protocol). The connection is used
    /// for this visitor alone. Unset, it is told in header fields only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProxyProtocol")] // an optional enum would lose this text
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The `Host` header that the target gets, a name with or without a port. Unset or empty, it gets the visitor's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 260))]
    #[x_kube(validation = Rule::new(
        r"self == '' || self.matches('^([A-Za-z0-9._~-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{0,5})?$')"
    ).message("must be HOST or HOST:PORT, or empty to keep the visitor's"))]
    pub host_header: String,
}

/// A reference to a TunnelAgent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRef {
    /// The TunnelAgent's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The TunnelAgent's namespace. In another one, its `allowedNamespaces` must admit the TunnelHost's. Unset or empty, the
    /// TunnelHost's own.
    #[serde(default)]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
        .message("must be the name of a namespace, or empty for the TunnelHost's own"))]
    pub namespace: String,
    /// Its share of the requests beside the other agents of its tier, 0 to 1000: one of weight 2 gets twice as many as one of
    /// weight 1. One of weight 0 gets none; those that it has go on. Unset, 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: i32,
    /// Its tier, 0 to 100: agents of a higher number are used only while none of a lower one is connected and can reach a
    /// target, as far as is known. Unset, 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub priority: i32,
}

/// What an agent connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetAddress {
    /// `HOST:PORT`, where the host is a name, which the agent resolves, an IPv4 address, or an IPv6 address in brackets; or
    /// `unix:/PATH` of a socket on the agent's machine, up to 107 characters of path.
    #[schemars(length(min = 3, max = 260))]
    #[x_kube(validation = Rule::new(concat!(
        r"self.startsWith('unix:/') ? self.matches('^unix:(/[A-Za-z0-9._@%+=~:-]+)+$') && self.size() <= 112",
        r" && !self.matches('/[.]{1,2}(/|$)')",
        r" : self.matches('^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$')",
        r" && int(self.substring(self.lastIndexOf(':') + 1)) >= 1",
        r" && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535"
    )).message(concat!(
        "must be HOST:PORT with a port from 1 to 65535, as in \"127.0.0.1:8080\" or \"[::1]:8080\", or unix:/PATH, as in ",
        "\"unix:/run/app.sock\""
    )))]
    pub address: String,
    /// Its share of the requests beside the other targets of its tier, 0 to 1000: one of weight 2 gets twice as many as one of
    /// weight 1. One of weight 0 gets none; those that it has go on. Unset, 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: i32,
    /// Its tier, 0 to 100: targets of a higher number are used only while those of a lower one cannot be reached, as far as
    /// is known. Where agents have tiers too, those of the agents come first. Unset, 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub priority: i32,
}

fn one() -> i32 {
    1
}

/// How agents and targets share the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancing {
    /// In turn.
    #[default]
    RoundRobin,
    /// By chance.
    Random,
    /// Of two by chance, the one with fewer requests in progress.
    LeastRequests,
    /// By the visitor's address.
    ClientHash,
}

/// What a target speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// TLS, and in it HTTP/2 or HTTP/1.1.
    #[serde(rename = "HTTPS")]
    Https,
    /// HTTP/2 without TLS.
    H2C,
    /// The same as `H2C`.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// How a target's TLS is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.caSecretRef) || !has(self.insecureSkipVerify) || !self.insecureSkipVerify"
).message("'insecureSkipVerify' would make 'caSecretRef' useless; remove one of them"))]
pub struct BackendTls {
    /// The authorities that may have signed the targets' certificates, instead of those that browsers trust: a Secret of type
    /// `culvert.dev/ca-certificates` (key `ca.crt`, PEM). While it is missing or wrong, the route answers 500. Unset, those
    /// that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
    /// The name that is asked for (SNI) and that the certificate must have. Unset, the target's host; a target `unix:/PATH` has
    /// none, and needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9._:-]+$')").message("must be a DNS name or an IP address"))]
    pub server_name: Option<String>,
    /// Whether any certificate is taken, whoever signed it and for whatever name. The connection is encrypted then, but
    /// whoever is in between may read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyProtocol {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}
