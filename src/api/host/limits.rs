use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Quantity, duration};

/// How much visitors may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// How many requests a second are let through, over all replicas of the edge, each of which grants an equal share; beyond it,
    /// visitors get 429 with `Retry-After`. Unset, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestRate>,
    /// How many requests and upgraded connections may be in progress at a time, over all replicas of the edge, each of which
    /// grants an equal share; beyond it, visitors get 429 with `Retry-After`. Unset, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrent_requests: Option<i32>,
    /// The most bytes that a request's body may have, as in `10Mi`; a longer one is answered 413. `0` is no limit: for a route
    /// whose TunnelHost has one. Unset, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_size: Option<Quantity>,
}

/// How many requests a second are let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRate {
    /// Requests a second, on average.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: i32,
    /// How many may come at once after a pause. Unset, as many as `perSecond`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<i32>,
    /// Whose requests are counted together: those of one visitor's address (`ClientIP`; of IPv6, of one /64), or `All`.
    #[serde(default)]
    pub per: RateKey,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateKey {
    /// Those of one visitor's address; of IPv6, of one /64.
    #[default]
    #[serde(rename = "ClientIP")]
    ClientIp,
    /// All.
    All,
}

/// How long a request may wait for what: Go durations, as in `90s` or `1h30m`. There is no limit to the whole of a request or
/// a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the backend to take a connection, from the agent's attempt on; then 504. Unset, 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("100ms", "1m"))]
    pub connect: Option<String>,
    /// For the head of the backend's response, from the end of the request's upload on; then 504. Also for the next byte of that
    /// upload; then 408. Unset, 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("100ms", "24h"))]
    pub response_header: Option<String>,
    /// For the next byte of either body once the response has begun, and for the visitor to take one; then the exchange is cut.
    /// Unset, 5 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("1s", "24h"))]
    pub stream_idle: Option<String>,
    /// For the next byte in either direction of an upgraded connection, as of a WebSocket; then it is cut. Unset, 1 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("1s", "168h"))]
    pub upgrade_idle: Option<String>,
}

/// How often a request is tried where trying again is safe: before a byte of it went to the backend, or where it is
/// idempotent and has no body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// How often it is tried in all, with another session or target where there is one; 1 is never again. Unset, 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<i32>,
}
