use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::duration;

/// How the agents check the targets. A target that is found unhealthy gets no requests as long as another one is left;
/// where none is, the request goes there all the same, and its visitor gets what comes of it. Agents check only what their
/// own allow-lists have, and tell in their logs what they find.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.http) != has(self.tcp)").message("must have either 'http' or 'tcp'"))]
pub struct HealthCheck {
    /// Asks by a GET over HTTP/1.1, on a connection of its own; with `protocol: HTTPS` over TLS, without verifying the
    /// certificate. Either this or `tcp` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// That the target takes a connection is enough. Either this or `http` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpHealthCheck>,
    /// From the end of one check to the next, a Go duration. Unset, 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("1s", "1h"))]
    pub interval: Option<String>,
    /// How long one check may take in all, a Go duration; a longer one has failed. Unset, 2 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("100ms", "1m"))]
    pub timeout: Option<String>,
    /// After so many failures in a row, 1 to 100, a target is unhealthy. Unset, 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: Option<i32>,
    /// After so many successes in a row, 1 to 100, an unhealthy target is healthy again. Unset, 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: Option<i32>,
}

/// A check by an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHealthCheck {
    /// What is asked for, a path with or without a query.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new(r#"self.matches('^/[!-\"$-~]*$')"#)
        .message("must begin with '/' and be printable ASCII without spaces and '#', as it stands in a URL"))]
    pub path: String,
    /// The `Host` that is asked for. Unset, the backend's `hostHeader`, or else the target, of
    /// `unix:/PATH` `localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    #[x_kube(validation = Rule::new(
        r"self.matches('^([A-Za-z0-9._~-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{0,5})?$')"
    ).message("must be HOST or HOST:PORT"))]
    pub host: Option<String>,
    /// The statuses of a healthy target, each one status or a range of them, up to 8. Unset, `200-399`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 3, max = 7)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = Rule::new("self.all(status, status.matches('^[2-5][0-9]{2}(-[2-5][0-9]{2})?$'))")
        .message("must be statuses or ranges of them, as in \"200\" or \"200-299\""))]
    pub expected_statuses: Vec<String>,
}

/// A check that the target takes a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpHealthCheck {}

/// What it means for the next requests that connects to a place (a target through an agent) fail: that it refuses, does not
/// answer in time, or that no way leads there; what it answers does not count, nor does what the agent's allow-list lacks. A
/// place that fails so often gets no requests for a while, as long as another one is left, and then one that tries it: with the
/// first success it is used as before. The only place of a backend always gets its requests. Each TunnelHost and replica of
/// the edge counts by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealth {
    /// After so many failed connects in a row, 1 to 100, a place gets no requests for a while, and counts as one that cannot be
    /// reached. Unset, 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: Option<i32>,
    /// How long it gets no requests, a Go duration. Each time that it fails again after that, twice as long, up to 5 minutes.
    /// Unset, 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("1s", "1h"))]
    pub retry_after: Option<String>,
    /// At most so many of a hundred places of a tier get no requests at a time, 0 to 100, rounded down, but one may always; of
    /// more, those that failed first. With 0 none does, and requests go on trying what fails. Unset, 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: Option<i32>,
}
